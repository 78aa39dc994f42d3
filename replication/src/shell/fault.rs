//! [`FaultDisk`]: a decorator that fails or delays chosen operations.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::disk::{Backing, Completion, Disk};
use crate::engine::{DiskError, Io};
use crate::types::{OpId, VolumeNumber};

/// Which operations a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// Reads.
    Read,
    /// Writes, of data or zeros.
    Write,
    /// Flushes; a FUA write counts as a write.
    Flush,
}

/// Operations of `kind` on `volume` that touch `range` end with `error`, without being done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultRule {
    /// Which operations.
    pub kind: FaultKind,
    /// Of which volume; `None` for every one.
    pub volume: Option<VolumeNumber>,
    /// Bytes of the backing; every flush touches every range.
    pub range: Range<u64>,
    /// How they end.
    pub error: DiskError,
    /// How many more of them; `None` without end.
    pub times: Option<u32>,
}

/// What a [`FaultDisk`] does, changed while it runs. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    plan: Rc<RefCell<Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    rules: Vec<FaultRule>,
    delay: Duration,
    failed: u64,
}

impl Faults {
    /// Adds a rule.
    pub fn add(&self, rule: FaultRule) {
        self.plan.borrow_mut().rules.push(rule);
    }

    /// Ends every operation from now on this much later.
    pub fn delay(&self, delay: Duration) {
        self.plan.borrow_mut().delay = delay;
    }

    /// Removes every rule and the delay.
    pub fn clear(&self) {
        let mut plan = self.plan.borrow_mut();
        plan.rules.clear();
        plan.delay = Duration::ZERO;
    }

    /// Operations failed so far.
    pub fn failed(&self) -> u64 {
        self.plan.borrow().failed
    }

    fn strike(&self, volume: VolumeNumber, io: &Io) -> Option<DiskError> {
        let mut plan = self.plan.borrow_mut();
        let rule = plan
            .rules
            .iter_mut()
            .find(|rule| rule.is_about(volume, io))?;
        rule.times = rule.times.map(|times| times - 1);
        let error = rule.error;
        plan.failed += 1;
        Some(error)
    }
}

impl FaultRule {
    fn is_about(&self, volume: VolumeNumber, io: &Io) -> bool {
        let (kind, touched) = match io {
            Io::Read {
                offset_bytes,
                len_bytes,
            } => (
                FaultKind::Read,
                *offset_bytes..offset_bytes + *len_bytes as u64,
            ),
            Io::Write {
                offset_bytes, data, ..
            } => (
                FaultKind::Write,
                *offset_bytes..offset_bytes + data.len() as u64,
            ),
            Io::WriteZeroes {
                offset_bytes,
                len_bytes,
                ..
            } => (FaultKind::Write, *offset_bytes..offset_bytes + len_bytes),
            Io::Flush => (FaultKind::Flush, 0..u64::MAX),
        };
        self.times != Some(0)
            && self.kind == kind
            && self.volume.is_none_or(|wanted| wanted == volume)
            && touched.start < self.range.end
            && self.range.start < touched.end
    }
}

/// A disk whose operations fail and wait as [`Faults`] says.
pub struct FaultDisk {
    inner: Box<dyn Disk>,
    faults: Faults,
    /// When operations below may be answered, if they are delayed.
    due: BTreeMap<OpId, Instant>,
    /// Finished and not yet due.
    held: VecDeque<(Instant, Completion)>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl FaultDisk {
    /// Puts `faults` before `inner`.
    pub fn new(inner: Box<dyn Disk>, faults: Faults) -> Self {
        Self {
            inner,
            faults,
            due: BTreeMap::new(),
            held: VecDeque::new(),
            timer: None,
        }
    }

    fn hold(&mut self, until: Instant, completion: Completion) {
        let at = self.held.partition_point(|(due, _)| *due <= until);
        self.held.insert(at, (until, completion));
    }
}

impl Disk for FaultDisk {
    fn attach(&mut self, volume: VolumeNumber, backing: Arc<Backing>) {
        self.inner.attach(volume, backing);
    }

    fn detach(&mut self, volume: VolumeNumber) {
        self.inner.detach(volume);
    }

    fn submit(&mut self, op: OpId, volume: VolumeNumber, io: Io) {
        let delay = self.faults.plan.borrow().delay;
        let due = Instant::now() + delay;
        if let Some(error) = self.faults.strike(volume, &io) {
            let result = Err(error);
            self.hold(due, Completion { op, result });
            return;
        }
        if !delay.is_zero() {
            self.due.insert(op, due);
        }
        self.inner.submit(op, volume, io);
    }

    fn kick(&mut self) {
        self.inner.kick();
    }

    fn poll_done(&mut self, cx: &mut Context<'_>, done: &mut Vec<Completion>) -> Poll<()> {
        let before = done.len();
        let mut finished = Vec::new();
        while self.inner.poll_done(cx, &mut finished).is_ready() {
            for completion in finished.drain(..) {
                match self.due.remove(&completion.op) {
                    Some(due) => self.hold(due, completion),
                    None => done.push(completion),
                }
            }
        }
        let now = Instant::now();
        while self.held.front().is_some_and(|(due, _)| *due <= now) {
            done.extend(self.held.pop_front().map(|(_, completion)| completion));
        }
        if done.len() > before {
            return Poll::Ready(());
        }
        if let Some((due, _)) = self.held.front() {
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(Duration::ZERO)));
            timer.as_mut().reset(*due);
            if timer.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.held.len()
    }
}
