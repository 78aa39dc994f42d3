//! [`ThreadDisk`]: the disk port over a small pool of threads, for kernels and sandboxes without
//! io_uring.
//!
//! Each thread takes one operation at a time and carries it out with pread, pwrite and fdatasync.
//! A thread keeps the backing alive until its operation has ended, so the lock outlives the disk
//! if it must (law D3).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc;

use super::buffer::aligned;
use super::disk::{Backing, Completion, Disk, ZeroMethod};
use super::uring::{bounced, zero_chunk};
use crate::engine::{DiskError, Io, IoDone};
use crate::types::{Fua, OpId, VolumeNumber};

/// Threads of one disk: enough to keep a few flash channels busy, few enough to be cheap.
const THREADS: usize = 8;

/// The disk port over a pool of threads.
pub struct ThreadDisk {
    shared: Arc<Shared>,
    backings: BTreeMap<VolumeNumber, Arc<Backing>>,
    queued: Vec<Job>,
    refused: Vec<Completion>,
    in_flight: usize,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    done: Vec<Completion>,
    waker: Option<Waker>,
    stopped: bool,
}

struct Job {
    op: OpId,
    backing: Arc<Backing>,
    work: Work,
}

/// An operation with its memory, which comes from the data thread's pool.
enum Work {
    Read {
        offset_bytes: u64,
        buffer: BytesMut,
        len_bytes: usize,
    },
    Write {
        offset_bytes: u64,
        data: Bytes,
        fua: Fua,
    },
    Zero {
        offset_bytes: u64,
        len_bytes: u64,
        fua: Fua,
    },
    Flush,
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
            } => Self::Write {
                offset_bytes,
                data: if backing.takes(data.as_ptr()) {
                    data
                } else {
                    bounced(&data)
                },
                fua,
            },
            Io::WriteZeroes {
                offset_bytes,
                len_bytes,
                fua,
            } => Self::Zero {
                offset_bytes,
                len_bytes,
                fua,
            },
            Io::Flush => Self::Flush,
        }
    }
}

impl ThreadDisk {
    /// Starts the threads.
    pub fn new() -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
        });
        let disk = Self {
            shared: Arc::clone(&shared),
            backings: BTreeMap::new(),
            queued: Vec::new(),
            refused: Vec::new(),
            in_flight: 0,
        };
        for index in 0..THREADS {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(format!("disk-{index}"))
                .spawn(move || shared.serve())?;
        }
        Ok(disk)
    }
}

impl Disk for ThreadDisk {
    fn attach(&mut self, volume: VolumeNumber, backing: Arc<Backing>) {
        self.backings.insert(volume, backing);
    }

    fn detach(&mut self, volume: VolumeNumber) {
        self.backings.remove(&volume);
    }

    fn submit(&mut self, op: OpId, volume: VolumeNumber, io: Io) {
        let backing = self.backings.get(&volume);
        let checked = backing
            .ok_or(DiskError::Io)
            .and_then(|b| b.check(&io).map(|()| b));
        match checked {
            Ok(backing) => {
                let work = Work::new(io, backing);
                let backing = Arc::clone(backing);
                self.queued.push(Job { op, backing, work });
                self.in_flight += 1;
            }
            Err(error) => self.refused.push(Completion {
                op,
                result: Err(error),
            }),
        }
    }

    fn kick(&mut self) {
        if self.queued.is_empty() {
            return;
        }
        let one = self.queued.len() == 1;
        self.shared.lock().jobs.extend(self.queued.drain(..));
        if one {
            self.shared.work.notify_one();
        } else {
            self.shared.work.notify_all();
        }
    }

    fn poll_done(&mut self, cx: &mut Context<'_>, done: &mut Vec<Completion>) -> Poll<()> {
        let before = done.len();
        done.append(&mut self.refused);
        let mut state = self.shared.lock();
        self.in_flight -= state.done.len();
        done.append(&mut state.done);
        if done.len() > before {
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn in_flight(&self) -> usize {
        self.in_flight + self.refused.len()
    }
}

impl Drop for ThreadDisk {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stopped = true;
        state.jobs.clear();
        drop(state);
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of one thread.
    fn serve(&self) {
        let mut zeros = Bytes::new();
        loop {
            let mut state = self.lock();
            let job = loop {
                if state.stopped {
                    return;
                }
                if let Some(job) = state.jobs.pop_front() {
                    break job;
                }
                state = self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            };
            drop(state);
            let Job { op, backing, work } = job;
            let result = perform(&backing, work, &mut zeros);
            // Before the answer: whoever sees it may expect the lock to be free after a detach.
            drop(backing);
            let mut state = self.lock();
            state.done.push(Completion { op, result });
            let waker = state.waker.take();
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

fn perform(backing: &Backing, work: Work, zeros: &mut Bytes) -> Result<IoDone, DiskError> {
    let failed = |what, offset_bytes| {
        move |error: io::Error| backing.failed(what, offset_bytes, errno_of(&error))
    };
    match work {
        Work::Read {
            offset_bytes,
            mut buffer,
            len_bytes,
        } => {
            buffer.resize(len_bytes, 0);
            backing
                .file()
                .read_exact_at(&mut buffer, offset_bytes)
                .map_err(failed("read", offset_bytes))?;
            Ok(IoDone::Data(buffer.freeze()))
        }
        Work::Write {
            offset_bytes,
            data,
            fua,
        } => {
            backing
                .file()
                .write_all_at(&data, offset_bytes)
                .map_err(failed("write", offset_bytes))?;
            stable(backing, fua, offset_bytes)
        }
        Work::Zero {
            offset_bytes,
            len_bytes,
            fua,
        } => {
            zero(backing, offset_bytes, len_bytes, zeros).map_err(failed("zero", offset_bytes))?;
            stable(backing, fua, offset_bytes)
        }
        Work::Flush => stable(backing, Fua::Yes, 0),
    }
}

fn stable(backing: &Backing, fua: Fua, offset_bytes: u64) -> Result<IoDone, DiskError> {
    match fua {
        Fua::No => Ok(IoDone::Ok),
        Fua::Yes => match backing.file().sync_data() {
            Ok(()) => Ok(IoDone::Ok),
            Err(error) => Err(backing.failed("flush", offset_bytes, errno_of(&error))),
        },
    }
}

fn zero(
    backing: &Backing,
    mut offset_bytes: u64,
    mut len_bytes: u64,
    zeros: &mut Bytes,
) -> io::Result<()> {
    let mut method = backing.zero_method();
    while len_bytes > 0 {
        if let Some(mode) = method.mode() {
            let mode = FallocateFlags::from_bits_retain(mode);
            match fallocate(backing.file(), mode, off(offset_bytes)?, off(len_bytes)?) {
                Ok(()) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => method = backing.rule_out(method),
                // Not whole blocks of this device: this range only.
                Err(Errno::EINVAL) => method = ZeroMethod::Write,
                Err(errno) => return Err(errno.into()),
            }
        } else {
            debug_assert_eq!(method, ZeroMethod::Write);
            let chunk = zero_chunk(zeros, len_bytes);
            backing.file().write_all_at(&zeros[..chunk], offset_bytes)?;
            offset_bytes += chunk as u64;
            len_bytes -= chunk as u64;
        }
    }
    Ok(())
}

fn off(bytes: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(bytes).map_err(|_too_far| Errno::EINVAL.into())
}

/// The errno of an operation; a transfer that ended short of the backing's end has none.
fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
