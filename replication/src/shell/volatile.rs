//! [`VolatileDisk`]: a decorator that behaves like a disk with a volatile write cache.
//!
//! Writes live in this process's memory until a flush or a FUA write carries them down; a random
//! part is carried down earlier, as a real cache would. Killing the process is then a power cut:
//! what was not flushed is lost, except for the part that happened to be written.
//!
//! ```text
//!   write ──▶ cached ──(flush, FUA, or the dice)──▶ going down ──▶ below, not yet stable
//!                ▲                                                     │
//!                └── newer write of the range                flush ────┴──▶ stable, forgotten here
//! ```
//!
//! Invariants: a segment leaves the cache only when a FUA write of it or a flush begun after it
//! had gone down has finished; two operations on one range are never below at the same time.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use super::buffer::aligned;
use super::disk::{Backing, Completion, Disk};
use crate::engine::{DiskError, Io, IoDone};
use crate::types::{Fua, OpId, VolumeNumber};

/// One write in this many goes down at once.
const EARLY_ONE_IN: u64 = 4;

/// A disk with a volatile cache over `inner`.
pub struct VolatileDisk {
    inner: Box<dyn Disk>,
    random: u64,
    caches: BTreeMap<VolumeNumber, Cache>,
    below: BTreeMap<OpId, Below>,
    /// Segments on their way down that wait for an older operation on their range.
    waiting: VecDeque<Descent>,
    flushes: VecDeque<Flush>,
    done: Vec<Completion>,
    next_op: u64,
    unanswered: usize,
}

#[derive(Default)]
struct Cache {
    /// By first byte; never overlapping.
    segments: BTreeMap<u64, Segment>,
}

#[derive(Clone)]
struct Segment {
    content: Content,
    stamp: u64,
}

#[derive(Clone)]
enum Content {
    Data(Bytes),
    Zero(u64),
}

/// A segment to be written to the inner disk.
struct Descent {
    volume: VolumeNumber,
    offset_bytes: u64,
    segment: Segment,
    /// The FUA operation that waits for it.
    answers: Option<OpId>,
}

/// An operation at the inner disk.
enum Below {
    Read {
        op: OpId,
        offset_bytes: u64,
        over: Vec<(u64, Content)>,
    },
    Descent(Descent),
    Flush,
}

/// A flush asked for, first of its volume at the front.
struct Flush {
    op: OpId,
    volume: VolumeNumber,
    stage: FlushStage,
    /// The newest stamp that it covers.
    upto: u64,
    failed: Option<DiskError>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FlushStage {
    Queued,
    Descending,
    Flushing(OpId),
}

impl VolatileDisk {
    /// Puts a cache over `inner`. `seed` decides which writes go down early.
    pub fn new(inner: Box<dyn Disk>, seed: u64) -> Self {
        Self {
            inner,
            random: seed | 1,
            caches: BTreeMap::new(),
            below: BTreeMap::new(),
            waiting: VecDeque::new(),
            flushes: VecDeque::new(),
            done: Vec::new(),
            next_op: 1,
            unanswered: 0,
        }
    }

    fn mint(&mut self) -> OpId {
        self.next_op += 1;
        OpId(self.next_op)
    }

    /// True for one call in [`EARLY_ONE_IN`] (xorshift64).
    fn roll_early(&mut self) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random.is_multiple_of(EARLY_ONE_IN)
    }

    fn answer(&mut self, op: OpId, result: Result<IoDone, DiskError>) {
        self.done.push(Completion { op, result });
    }

    fn write(&mut self, op: OpId, at: (VolumeNumber, u64), content: Content, fua: Fua) {
        let (volume, offset_bytes) = at;
        if content.len_bytes() == 0 {
            return self.answer(op, Ok(IoDone::Ok));
        }
        let stamp = self.mint().0;
        let segment = Segment { content, stamp };
        self.caches
            .entry(volume)
            .or_default()
            .put(offset_bytes, segment.clone());
        let early = self.roll_early();
        let answers = match fua {
            Fua::Yes => Some(op),
            Fua::No => {
                self.answer(op, Ok(IoDone::Ok));
                None
            }
        };
        if early || fua == Fua::Yes {
            self.waiting.push_back(Descent {
                volume,
                offset_bytes,
                segment,
                answers,
            });
        }
    }

    fn read(&mut self, op: OpId, volume: VolumeNumber, offset_bytes: u64, len_bytes: usize) {
        let range = offset_bytes..offset_bytes + len_bytes as u64;
        let over = self
            .caches
            .get(&volume)
            .map(|c| c.pieces(&range))
            .unwrap_or_default();
        let id = self.mint();
        self.below.insert(
            id,
            Below::Read {
                op,
                offset_bytes,
                over,
            },
        );
        self.inner.submit(
            id,
            volume,
            Io::Read {
                offset_bytes,
                len_bytes,
            },
        );
    }

    /// Starts whatever may start: descents in order, then the first flush of each volume.
    fn advance(&mut self) {
        self.start_descents();
        let mut index = 0;
        while index < self.flushes.len() {
            let volume = self.flushes[index].volume;
            let first = !self.flushes.iter().take(index).any(|f| f.volume == volume);
            if first && self.flushes[index].stage == FlushStage::Queued {
                self.begin_flush(index);
            }
            if self.flushes[index].stage == FlushStage::Descending
                && !self.is_descending(volume, self.flushes[index].upto)
            {
                let id = self.mint();
                self.flushes[index].stage = FlushStage::Flushing(id);
                self.below.insert(id, Below::Flush);
                self.inner.submit(id, volume, Io::Flush);
            }
            index += 1;
        }
    }

    fn begin_flush(&mut self, index: usize) {
        let volume = self.flushes[index].volume;
        let upto = self.next_op;
        self.flushes[index].stage = FlushStage::Descending;
        self.flushes[index].upto = upto;
        let Some(cache) = self.caches.get(&volume) else {
            return;
        };
        for (offset_bytes, segment) in &cache.segments {
            let (offset_bytes, segment) = (*offset_bytes, segment.clone());
            self.waiting.push_back(Descent {
                volume,
                offset_bytes,
                segment,
                answers: None,
            });
        }
        self.start_descents();
    }

    fn start_descents(&mut self) {
        let mut held = VecDeque::new();
        while let Some(descent) = self.waiting.pop_front() {
            let blocked = held.iter().any(|other| descent.overlaps(other))
                || self.below.values().any(|below| match below {
                    Below::Descent(other) => descent.overlaps(other),
                    Below::Read { .. } | Below::Flush => false,
                });
            if blocked {
                held.push_back(descent);
                continue;
            }
            let fua = if descent.answers.is_some() {
                Fua::Yes
            } else {
                Fua::No
            };
            let offset_bytes = descent.offset_bytes;
            let io = match &descent.segment.content {
                Content::Data(data) => Io::Write {
                    offset_bytes,
                    data: data.clone(),
                    fua,
                },
                Content::Zero(len_bytes) => Io::WriteZeroes {
                    offset_bytes,
                    len_bytes: *len_bytes,
                    fua,
                },
            };
            let id = self.mint();
            let volume = descent.volume;
            self.below.insert(id, Below::Descent(descent));
            self.inner.submit(id, volume, io);
        }
        self.waiting = held;
    }

    fn is_descending(&self, volume: VolumeNumber, upto: u64) -> bool {
        let covered = |d: &Descent| d.volume == volume && d.segment.stamp <= upto;
        self.waiting.iter().any(covered)
            || self.below.values().any(|below| match below {
                Below::Descent(descent) => covered(descent),
                Below::Read { .. } | Below::Flush => false,
            })
    }

    fn finished(&mut self, id: OpId, result: Result<IoDone, DiskError>) {
        match self
            .below
            .remove(&id)
            .expect("the inner disk answers each operation once")
        {
            Below::Read {
                op,
                offset_bytes,
                over,
            } => {
                let result = result.map(|done| match done {
                    IoDone::Data(data) if !over.is_empty() => {
                        IoDone::Data(overlaid(&data, offset_bytes, &over))
                    }
                    done @ (IoDone::Data(_) | IoDone::Ok) => done,
                });
                self.answer(op, result);
            }
            Below::Descent(descent) => self.descended(descent, result),
            Below::Flush => {
                let at = self
                    .flushes
                    .iter()
                    .position(|f| f.stage == FlushStage::Flushing(id))
                    .expect("a flush below is in the queue");
                let flush = self
                    .flushes
                    .remove(at)
                    .expect("the position was just found");
                let result = flush.failed.map_or(result, Err);
                if result.is_ok()
                    && let Some(cache) = self.caches.get_mut(&flush.volume)
                {
                    cache
                        .segments
                        .retain(|_, segment| segment.stamp > flush.upto);
                }
                self.answer(flush.op, result);
            }
        }
    }

    fn descended(&mut self, descent: Descent, result: Result<IoDone, DiskError>) {
        if let Err(error) = &result {
            for flush in self
                .flushes
                .iter_mut()
                .filter(|f| f.volume == descent.volume)
            {
                flush.failed = Some(*error);
            }
        }
        let Some(op) = descent.answers else { return };
        if result.is_ok()
            && let Some(cache) = self.caches.get_mut(&descent.volume)
        {
            cache
                .segments
                .retain(|_, segment| segment.stamp != descent.segment.stamp);
        }
        self.answer(op, result);
    }
}

impl Disk for VolatileDisk {
    fn attach(&mut self, volume: VolumeNumber, backing: Arc<Backing>) {
        self.inner.attach(volume, backing);
    }

    fn detach(&mut self, volume: VolumeNumber) {
        self.caches.remove(&volume);
        self.inner.detach(volume);
    }

    fn submit(&mut self, op: OpId, volume: VolumeNumber, io: Io) {
        self.unanswered += 1;
        match io {
            Io::Read {
                offset_bytes,
                len_bytes,
            } => self.read(op, volume, offset_bytes, len_bytes),
            Io::Write {
                offset_bytes,
                data,
                fua,
            } => {
                self.write(op, (volume, offset_bytes), Content::Data(data), fua);
            }
            Io::WriteZeroes {
                offset_bytes,
                len_bytes,
                fua,
            } => {
                self.write(op, (volume, offset_bytes), Content::Zero(len_bytes), fua);
            }
            Io::Flush => self.flushes.push_back(Flush {
                op,
                volume,
                stage: FlushStage::Queued,
                upto: 0,
                failed: None,
            }),
        }
        self.advance();
    }

    fn kick(&mut self) {
        self.inner.kick();
    }

    fn poll_done(&mut self, cx: &mut Context<'_>, done: &mut Vec<Completion>) -> Poll<()> {
        let mut below = Vec::new();
        loop {
            if !self.done.is_empty() {
                self.unanswered -= self.done.len();
                done.append(&mut self.done);
                return Poll::Ready(());
            }
            if self.inner.poll_done(cx, &mut below).is_pending() {
                return Poll::Pending;
            }
            for completion in below.drain(..) {
                self.finished(completion.op, completion.result);
            }
            self.advance();
            self.inner.kick();
        }
    }

    fn in_flight(&self) -> usize {
        self.unanswered
    }
}

impl Cache {
    /// Puts `segment` over whatever was cached in its range.
    fn put(&mut self, offset_bytes: u64, segment: Segment) {
        let range = offset_bytes..offset_bytes + segment.content.len_bytes();
        for (at, old) in self.overlapping(&range) {
            self.segments.remove(&at);
            let old_range = at..at + old.content.len_bytes();
            if at < range.start {
                let content = old.content.part(0, range.start - at);
                self.segments.insert(
                    at,
                    Segment {
                        content,
                        stamp: old.stamp,
                    },
                );
            }
            if old_range.end > range.end {
                let content = old.content.part(range.end - at, old_range.end - range.end);
                self.segments.insert(
                    range.end,
                    Segment {
                        content,
                        stamp: old.stamp,
                    },
                );
            }
        }
        self.segments.insert(offset_bytes, segment);
    }

    /// The cached parts inside `range`.
    fn pieces(&self, range: &Range<u64>) -> Vec<(u64, Content)> {
        self.overlapping(range)
            .into_iter()
            .map(|(at, segment)| {
                let start = at.max(range.start);
                let end = (at + segment.content.len_bytes()).min(range.end);
                (start, segment.content.part(start - at, end - start))
            })
            .collect()
    }

    fn overlapping(&self, range: &Range<u64>) -> Vec<(u64, Segment)> {
        let before = self.segments.range(..range.start).next_back();
        before
            .into_iter()
            .filter(|(at, segment)| **at + segment.content.len_bytes() > range.start)
            .chain(self.segments.range(range.clone()))
            .map(|(at, segment)| (*at, segment.clone()))
            .collect()
    }
}

impl Content {
    fn len_bytes(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Zero(len_bytes) => *len_bytes,
        }
    }

    fn part(&self, skip_bytes: u64, len_bytes: u64) -> Self {
        match self {
            Self::Data(data) => {
                let skip = index(skip_bytes);
                Self::Data(data.slice(skip..skip + index(len_bytes)))
            }
            Self::Zero(_) => Self::Zero(len_bytes),
        }
    }
}

impl Descent {
    fn overlaps(&self, other: &Self) -> bool {
        self.volume == other.volume
            && self.offset_bytes < other.offset_bytes + other.segment.content.len_bytes()
            && other.offset_bytes < self.offset_bytes + self.segment.content.len_bytes()
    }
}

fn overlaid(data: &Bytes, offset_bytes: u64, over: &[(u64, Content)]) -> Bytes {
    let mut newest: BytesMut = aligned(data.len());
    newest.extend_from_slice(data);
    for (at, content) in over {
        let start = index(at - offset_bytes);
        let target = &mut newest[start..start + index(content.len_bytes())];
        match content {
            Content::Data(bytes) => target.copy_from_slice(bytes),
            Content::Zero(_) => target.fill(0),
        }
    }
    newest.freeze()
}

/// A length inside one operation's memory.
fn index(len_bytes: u64) -> usize {
    usize::try_from(len_bytes).expect("a cached length fits in memory")
}
