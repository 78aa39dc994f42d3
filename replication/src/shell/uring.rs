//! [`UringDisk`]: the disk port over one io_uring per data thread.
//!
//! Submissions are queued by [`Disk::submit`] and entered together by [`Disk::kick`]. Completions
//! are announced by an eventfd inside the runtime's poller. With deferred task work the kernel
//! posts a completion only inside `io_uring_enter`, and signals once when there is work to run and
//! once more when the completion is posted; the second signal is suppressed while this file runs
//! the work itself.
//!
//! Invariants: a buffer named by an entry lives in the slab until that entry's completion was
//! seen, also when the disk is dropped; an entry's `user_data` is the slab key of its operation;
//! each operation has at most one entry in the kernel; `moving_bytes` is the length of all entries
//! that were pushed and whose completion was not seen.
#![expect(unsafe_code, reason = "io_uring takes raw buffer addresses")]

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, opcode, squeue};
use nix::errno::Errno;
use nix::libc;
use nix::sys::eventfd::{EfdFlags, EventFd};
use slab::Slab;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::buffer::{ALIGN_BYTES, aligned};
use super::disk::{Backing, Completion, Disk, ZeroMethod};
use crate::engine::{DiskError, Io, IoDone};
use crate::types::{Fua, OpId, VolumeNumber};

/// Submission entries of the ring; more operations wait in the backlog.
const ENTRIES: u32 = 256;
/// Completion entries of the ring.
const COMPLETIONS: u32 = 4096;
/// The most bytes one entry carries; longer operations take several, one after the other.
const ENTRY_BYTES: usize = 1 << 30;
/// The most bytes that move at a time, unless one entry alone is longer. A disk works on what it
/// was given in no order, and with more than it can take some of it waits for half a second.
const MOVING_MAX_BYTES: usize = 8 << 20;
/// Zeros written at once where a range cannot be zeroed by the file system.
const ZERO_CHUNK_BYTES: usize = 1 << 20;
/// How long a dropped disk waits for its last operations before it gives their buffers up.
const DROP_WAIT_MS: u32 = 5_000;

/// The disk port over io_uring. Stays on the thread that made it.
pub struct UringDisk {
    ring: IoUring,
    signal: AsyncFd<OwnedFd>,
    backings: BTreeMap<VolumeNumber, Arc<Backing>>,
    operations: Slab<Operation>,
    /// Slab keys whose next entry has not been pushed.
    backlog: VecDeque<usize>,
    moving_bytes: usize,
    /// Operations answered without the kernel.
    refused: Vec<Completion>,
    zeros: Bytes,
    deferred: bool,
}

struct Operation {
    op: OpId,
    backing: Arc<Backing>,
    work: Work,
    /// Length of its entry in the kernel, in bytes.
    moving_bytes: usize,
}

enum Work {
    Read {
        offset_bytes: u64,
        buffer: BytesMut,
        len_bytes: usize,
    },
    Write {
        offset_bytes: u64,
        data: Bytes,
        written_bytes: usize,
        fua: Fua,
    },
    Zero {
        offset_bytes: u64,
        len_bytes: u64,
        fua: Fua,
        method: ZeroMethod,
    },
    Flush,
}

/// Whether completions that are posted while they are being taken are announced.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Signals {
    On,
    Off,
}

enum Step {
    Done(Result<IoDone, DiskError>),
    Again,
}

impl UringDisk {
    /// Makes the ring. Fails where the kernel has none, forbids it, or lacks an operation.
    /// Must be called inside the runtime of the thread that will use it.
    pub fn new() -> io::Result<Self> {
        let (ring, deferred) = build_ring()?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::Fsync::CODE,
            opcode::Fallocate::CODE,
        ];
        if let Some(code) = needed.into_iter().find(|code| !probe.is_supported(*code)) {
            return Err(io::Error::other(format!("io_uring lacks operation {code}")));
        }
        let signal = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let signal = OwnedFd::from(signal);
        ring.submitter().register_eventfd(signal.as_raw_fd())?;
        // SAFETY: an `OwnedFd` names one open descriptor for its whole life, and the `AsyncFd`
        // owns it.
        let signal = unsafe { AsyncFd::register_with_interest(signal, Interest::READABLE)? };
        Ok(Self {
            ring,
            signal,
            backings: BTreeMap::new(),
            operations: Slab::new(),
            backlog: VecDeque::new(),
            moving_bytes: 0,
            refused: Vec::new(),
            zeros: Bytes::new(),
            deferred,
        })
    }

    /// Whether the kernel runs completions only when asked (Linux 6.1), which costs least.
    pub fn is_deferred(&self) -> bool {
        self.deferred
    }

    /// Pushes as much of the backlog as fits and enters the kernel if there is anything to do.
    fn enter(&mut self) {
        loop {
            self.fill();
            if self.ring.submission().is_empty() {
                return;
            }
            match self.ring.submit() {
                Ok(_) if self.backlog.is_empty() => return,
                Ok(_) => {}
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                // The kernel wants completions to be taken first; the next poll does.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN)) => return,
                Err(e) => panic!("io_uring refuses a valid submission: {e}"),
            }
        }
    }

    fn fill(&mut self) {
        let Self {
            ring,
            operations,
            backlog,
            moving_bytes,
            zeros,
            ..
        } = self;
        let mut queue = ring.submission();
        while let Some(key) = backlog.front().copied() {
            let operation = &mut operations[key];
            let len_bytes = operation.work.next_bytes();
            if *moving_bytes > 0 && *moving_bytes + len_bytes > MOVING_MAX_BYTES {
                return;
            }
            let entry = operation.entry(zeros).user_data(key as u64);
            // SAFETY: the entry points into a buffer owned by `operations[key]` or into `zeros`;
            // the operation is removed only after its completion was seen, and both are leaked,
            // not freed, if the disk is dropped before that (see `Drop`).
            if unsafe { queue.push(&entry) }.is_err() {
                return;
            }
            operations[key].moving_bytes = len_bytes;
            *moving_bytes += len_bytes;
            backlog.pop_front();
        }
    }

    /// Runs deferred work and takes every completion.
    fn reap(&mut self, done: &mut Vec<Completion>) {
        loop {
            self.run_deferred(Signals::Off);
            if self.take(done) {
                continue;
            }
            if !self.has_deferred() {
                return;
            }
            // Work that came while the signal was off must be run here. But the flag may also be
            // stale: who adds work raises it last, perhaps after that work was run, and then the
            // kernel leaves it up until there is other work. So once more with the signal on, and
            // no longer: whatever comes from here on is announced.
            self.run_deferred(Signals::On);
            if !self.take(done) {
                return;
            }
        }
    }

    /// Takes what is posted. True if there was anything.
    fn take(&mut self, done: &mut Vec<Completion>) -> bool {
        let Self {
            ring,
            operations,
            backlog,
            moving_bytes,
            ..
        } = self;
        let mut any = false;
        for entry in ring.completion() {
            any = true;
            let key = usize::try_from(entry.user_data()).expect("user_data is a slab key");
            *moving_bytes -= operations[key].moving_bytes;
            match operations[key].step(entry.result()) {
                Step::Again => backlog.push_back(key),
                Step::Done(result) => {
                    let operation = operations.remove(key);
                    done.push(Completion {
                        op: operation.op,
                        result,
                    });
                }
            }
        }
        any
    }

    fn has_deferred(&mut self) -> bool {
        let queue = self.ring.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// Lets the kernel post what is finished.
    fn run_deferred(&mut self, signals: Signals) {
        if !self.has_deferred() {
            return;
        }
        if signals == Signals::Off {
            self.ring.completion().disable_eventfd();
        }
        // An error here means "later": the flag stays set, and the kernel has something to signal.
        let entered = self.ring.submit();
        if signals == Signals::Off {
            self.ring.completion().enable_eventfd();
            // Work that arrived meanwhile shows in the flag that the caller reads next.
            fence(Ordering::SeqCst);
        }
        if let Err(e) = entered
            && !matches!(
                e.raw_os_error(),
                Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)
            )
        {
            panic!("io_uring refuses to run completions: {e}");
        }
    }
}

impl Disk for UringDisk {
    fn attach(&mut self, volume: VolumeNumber, backing: Arc<Backing>) {
        self.backings.insert(volume, backing);
    }

    fn detach(&mut self, volume: VolumeNumber) {
        self.backings.remove(&volume);
    }

    fn submit(&mut self, op: OpId, volume: VolumeNumber, io: Io) {
        let Some(backing) = self.backings.get(&volume) else {
            self.refused.push(Completion {
                op,
                result: Err(DiskError::Io),
            });
            return;
        };
        if let Err(error) = backing.check(&io) {
            self.refused.push(Completion {
                op,
                result: Err(error),
            });
            return;
        }
        let work = Work::new(io, backing);
        if let Some(result) = work.answered_by_nothing() {
            self.refused.push(Completion { op, result });
            return;
        }
        let backing = Arc::clone(backing);
        let key = self.operations.insert(Operation {
            op,
            backing,
            work,
            moving_bytes: 0,
        });
        self.backlog.push_back(key);
    }

    fn kick(&mut self) {
        self.enter();
    }

    fn poll_done(&mut self, cx: &mut Context<'_>, done: &mut Vec<Completion>) -> Poll<()> {
        let before = done.len();
        done.append(&mut self.refused);
        loop {
            // What waits leaves in the same call that runs deferred work, if there is any.
            self.fill();
            self.reap(done);
            self.enter();
            if done.len() > before {
                return Poll::Ready(());
            }
            if !self.ring.submission().is_empty() && self.operations.len() == self.queued() {
                // Nothing is in the kernel that could signal: a refused submission is tried again.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match ready!(self.signal.poll_read_ready(cx)) {
                // The counter itself is never read: the poller reports each new signal as an edge.
                Ok(mut guard) => guard.clear_ready(),
                Err(e) => panic!("the runtime of the data thread is gone: {e}"),
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.operations.len() + self.refused.len()
    }
}

impl UringDisk {
    /// Operations whose entry the kernel has not taken yet.
    fn queued(&mut self) -> usize {
        self.backlog.len() + self.ring.submission().len()
    }
}

impl Drop for UringDisk {
    fn drop(&mut self) {
        let mut done = Vec::new();
        let mut waited_ms = 0;
        let slice = Timespec::new().nsec(50_000_000);
        self.backlog.clear();
        let mut unsubmitted = self.ring.submission().len();
        while unsubmitted > 0 && waited_ms < DROP_WAIT_MS {
            unsubmitted -= self.ring.submit().unwrap_or(0).min(unsubmitted);
            waited_ms += 1;
        }
        while !self.operations.is_empty() && waited_ms < DROP_WAIT_MS {
            let args = SubmitArgs::new().timespec(&slice);
            let _timeout_or_more = self.ring.submitter().submit_with_args(1, &args);
            self.reap(&mut done);
            // A short transfer is not continued: its owner is gone.
            while let Some(key) = self.backlog.pop_front() {
                self.operations.remove(key);
            }
            waited_ms += 50;
        }
        if !self.operations.is_empty() {
            tracing::error!(
                operations = self.operations.len(),
                "disk operations still in the kernel; their buffers are given up"
            );
            std::mem::forget(std::mem::take(&mut self.operations));
            std::mem::forget(std::mem::take(&mut self.zeros));
        }
    }
}

impl Work {
    fn new(io: Io, backing: &Backing) -> Self {
        match io {
            Io::Read {
                offset_bytes,
                len_bytes,
            } => Self::Read {
                offset_bytes,
                buffer: aligned(len_bytes),
                len_bytes,
            },
            Io::Write {
                offset_bytes,
                data,
                fua,
            } => {
                let data = if backing.takes(data.as_ptr()) {
                    data
                } else {
                    bounced(&data)
                };
                Self::Write {
                    offset_bytes,
                    data,
                    written_bytes: 0,
                    fua,
                }
            }
            Io::WriteZeroes {
                offset_bytes,
                len_bytes,
                fua,
            } => Self::Zero {
                offset_bytes,
                len_bytes,
                fua,
                method: backing.zero_method(),
            },
            Io::Flush => Self::Flush,
        }
    }

    /// Bytes that the next entry moves to or from memory.
    fn next_bytes(&self) -> usize {
        let left_bytes = match self {
            Self::Read {
                buffer, len_bytes, ..
            } => *len_bytes - buffer.len(),
            Self::Write {
                data,
                written_bytes,
                ..
            } => data.len() - *written_bytes,
            Self::Zero { .. } | Self::Flush => 0,
        };
        left_bytes.min(ENTRY_BYTES)
    }

    /// The answer to a transfer of no bytes.
    fn answered_by_nothing(&self) -> Option<Result<IoDone, DiskError>> {
        match self {
            Self::Read { len_bytes: 0, .. } => Some(Ok(IoDone::Data(Bytes::new()))),
            Self::Write { data, .. } if data.is_empty() => Some(Ok(IoDone::Ok)),
            Self::Zero { len_bytes: 0, .. } => Some(Ok(IoDone::Ok)),
            Self::Read { .. } | Self::Write { .. } | Self::Zero { .. } | Self::Flush => None,
        }
    }
}

impl Operation {
    /// The next entry of this operation.
    fn entry(&mut self, zeros: &mut Bytes) -> squeue::Entry {
        let fd = Fd(self.backing.file().as_raw_fd());
        match &mut self.work {
            Work::Read {
                offset_bytes,
                buffer,
                len_bytes,
            } => {
                let filled = buffer.len();
                let space = &mut buffer.spare_capacity_mut()[..*len_bytes - filled];
                opcode::Read::new(fd, space.as_mut_ptr().cast(), entry_len(space.len()))
                    .offset(*offset_bytes + filled as u64)
                    .build()
            }
            Work::Write {
                offset_bytes,
                data,
                written_bytes,
                fua,
            } => {
                let rest = &data[*written_bytes..];
                opcode::Write::new(fd, rest.as_ptr(), entry_len(rest.len()))
                    .offset(*offset_bytes + *written_bytes as u64)
                    .rw_flags(rw_flags(*fua))
                    .build()
            }
            Work::Zero {
                offset_bytes,
                len_bytes,
                fua,
                method,
            } => match method.mode() {
                Some(mode) => opcode::Fallocate::new(fd, *len_bytes)
                    .offset(*offset_bytes)
                    .mode(mode)
                    .build(),
                None => {
                    let chunk = zero_chunk(zeros, *len_bytes);
                    opcode::Write::new(fd, zeros.as_ptr(), entry_len(chunk))
                        .offset(*offset_bytes)
                        .rw_flags(rw_flags(*fua))
                        .build()
                }
            },
            Work::Flush => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
        }
    }

    /// Takes the result of the entry last pushed: a byte count or a negated errno.
    fn step(&mut self, result: i32) -> Step {
        let Ok(moved_bytes) = usize::try_from(result) else {
            return self.failed(Errno::from_raw(-result));
        };
        let backing = &self.backing;
        match &mut self.work {
            Work::Read {
                offset_bytes,
                buffer,
                len_bytes,
            } => {
                let filled = buffer.len() + moved_bytes;
                assert!(
                    filled <= *len_bytes,
                    "the kernel read more than it was given room for"
                );
                // SAFETY: the kernel has initialised `moved_bytes` bytes behind the old length,
                // and `aligned` gave the buffer room for all of `len_bytes`.
                unsafe { buffer.set_len(filled) };
                if filled == *len_bytes {
                    Step::Done(Ok(IoDone::Data(std::mem::take(buffer).freeze())))
                } else if moved_bytes == 0 {
                    Step::Done(Err(backing.failed(
                        "read to the end",
                        *offset_bytes,
                        Errno::EIO,
                    )))
                } else {
                    Step::Again
                }
            }
            Work::Write {
                offset_bytes,
                data,
                written_bytes,
                ..
            } => {
                *written_bytes += moved_bytes;
                if *written_bytes == data.len() {
                    Step::Done(Ok(IoDone::Ok))
                } else if moved_bytes == 0 {
                    Step::Done(Err(backing.failed("write", *offset_bytes, Errno::EIO)))
                } else {
                    Step::Again
                }
            }
            Work::Zero {
                offset_bytes,
                len_bytes,
                method: ZeroMethod::Write,
                ..
            } => {
                let moved = moved_bytes as u64;
                *offset_bytes += moved;
                *len_bytes -= moved;
                match (*len_bytes, moved) {
                    (0, _) => Step::Done(Ok(IoDone::Ok)),
                    (_, 0) => Step::Done(Err(backing.failed("zero", *offset_bytes, Errno::EIO))),
                    _ => Step::Again,
                }
            }
            Work::Zero { fua: Fua::Yes, .. } => {
                self.work = Work::Flush;
                Step::Again
            }
            Work::Zero { fua: Fua::No, .. } | Work::Flush => Step::Done(Ok(IoDone::Ok)),
        }
    }

    fn failed(&mut self, errno: Errno) -> Step {
        if matches!(errno, Errno::EINTR | Errno::EAGAIN) {
            return Step::Again;
        }
        let (what, offset_bytes) = match &mut self.work {
            Work::Read { offset_bytes, .. } => ("read", *offset_bytes),
            Work::Write { offset_bytes, .. } => ("write", *offset_bytes),
            Work::Zero { method, .. }
                if matches!(errno, Errno::EOPNOTSUPP | Errno::ENOSYS)
                    && *method != ZeroMethod::Write =>
            {
                *method = self.backing.rule_out(*method);
                return Step::Again;
            }
            Work::Zero { method, .. } if errno == Errno::EINVAL && *method != ZeroMethod::Write => {
                // Not whole blocks of this device: this range only.
                *method = ZeroMethod::Write;
                return Step::Again;
            }
            Work::Zero { offset_bytes, .. } => ("zero", *offset_bytes),
            Work::Flush => ("flush", 0),
        };
        Step::Done(Err(self.backing.failed(what, offset_bytes, errno)))
    }
}

/// The cheapest ring this kernel has.
fn build_ring() -> io::Result<(IoUring, bool)> {
    let deferred = IoUring::builder()
        .setup_cqsize(COMPLETIONS)
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(ENTRIES);
    if let Ok(ring) = deferred {
        return Ok((ring, true));
    }
    let ring = IoUring::builder()
        .setup_cqsize(COMPLETIONS)
        .build(ENTRIES)?;
    Ok((ring, false))
}

/// A copy of `data` that direct I/O takes.
pub(super) fn bounced(data: &Bytes) -> Bytes {
    let mut copy = aligned(data.len());
    copy.extend_from_slice(data);
    copy.freeze()
}

/// The length of the next chunk of `len_bytes` zeros; makes the zeros at the first use.
pub(super) fn zero_chunk(zeros: &mut Bytes, len_bytes: u64) -> usize {
    if zeros.is_empty() {
        let mut fresh = aligned(ZERO_CHUNK_BYTES);
        fresh.resize(ZERO_CHUNK_BYTES, 0);
        *zeros = fresh.freeze();
    }
    usize::try_from(len_bytes)
        .unwrap_or(usize::MAX)
        .min(zeros.len())
}

fn entry_len(len_bytes: usize) -> u32 {
    u32::try_from(len_bytes.min(ENTRY_BYTES)).expect("ENTRY_BYTES fits in 32 bits")
}

fn rw_flags(fua: Fua) -> i32 {
    match fua {
        Fua::Yes => libc::RWF_DSYNC,
        Fua::No => 0,
    }
}

const _: () = assert!(ZERO_CHUNK_BYTES.is_multiple_of(ALIGN_BYTES));
