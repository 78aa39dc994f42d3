//! The disk port of a group, and the opening of what lies behind it.
//!
//! A [`Disk`] carries the I/O of every backing of one group on one data thread. A [`Backing`] is
//! one file or block device, opened and locked through the same open file description that will
//! carry its I/O (law D3): the lock of a killed process is free only when the kernel has let go
//! of its last request, so no old write can land after a new attach.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Whence;

use super::buffer::{ALIGN_BYTES, aligned};
use crate::engine::{DiskError, Io, IoDone};
use crate::meta::SECTOR_BYTES;
use crate::types::{OpId, VolumeNumber, Zeroed};

/// How often a held backing is tried again.
const LOCK_RETRY: Duration = Duration::from_millis(20);
/// How long a wait for the lock stays silent.
const LOCK_WARN_AFTER_TRIES: u32 = 25;

/// The asynchronous disk of one group: every backing, one data thread.
///
/// The caller submits operations in any order, hands them to the kernel with [`Disk::kick`] at the
/// end of a turn and collects what finished with [`Disk::poll_done`]. No method blocks on a disk.
/// Every submitted operation is answered exactly once, in any order; an operation that overlaps
/// one in flight may overtake it, so ordering is the caller's (law R4: the engine's range locks).
pub trait Disk {
    /// Carries the I/O of `volume` through `backing` from now on.
    fn attach(&mut self, volume: VolumeNumber, backing: Arc<Backing>);

    /// Forgets `volume`. Its lock is free when its last operation has finished.
    fn detach(&mut self, volume: VolumeNumber);

    /// Queues one operation. Offsets are bytes in the backing.
    fn submit(&mut self, op: OpId, volume: VolumeNumber, io: Io);

    /// Hands everything queued to the kernel.
    fn kick(&mut self);

    /// Appends finished operations to `done`; `Pending` registers the waker when there are none.
    fn poll_done(&mut self, cx: &mut Context<'_>, done: &mut Vec<Completion>) -> Poll<()>;

    /// Operations submitted and not yet returned by [`Disk::poll_done`].
    fn in_flight(&self) -> usize;
}

/// One finished operation.
#[derive(Debug)]
pub struct Completion {
    /// The id given to [`Disk::submit`].
    pub op: OpId,
    /// What came of it.
    pub result: Result<IoDone, DiskError>,
}

/// How long to wait for a backing that another process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockWait {
    /// Until it is free.
    Forever,
    /// At most that many milliseconds, then [`OpenError::Held`].
    Ms(u64),
}

/// Why a backing could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system said no.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// The step that failed.
        what: &'static str,
        /// The file or device.
        path: PathBuf,
        /// The reason given.
        source: io::Error,
    },
    /// Somebody else has it.
    #[error(
        "{path} is held by {holder}: its unfinished writes could still land over newer data; \
         stop it and try again",
        path = path.display()
    )]
    Held {
        /// The file or device.
        path: PathBuf,
        /// The other process, as far as known.
        holder: Holder,
    },
    /// Neither a regular file nor a block device.
    #[error("{path} is neither a file nor a block device", path = .0.display())]
    NotABacking(PathBuf),
}

/// The process that holds a lock, when the kernel names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder(pub Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => write!(f, "another process, or requests of one that has ended"),
        }
    }
}

/// How a range is made to read zero; found out at the first use of each backing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ZeroMethod {
    /// Deallocate: keeps sparse files sparse, and thin devices thin.
    Punch = 0,
    /// Mark as zero without giving the space back.
    ZeroRange = 1,
    /// Write zeros.
    Write = 2,
}

impl ZeroMethod {
    /// The `fallocate` mode of this method.
    pub(super) fn mode(self) -> Option<i32> {
        match self {
            Self::Punch => Some(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE),
            Self::ZeroRange => Some(libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE),
            Self::Write => None,
        }
    }

    /// What to try when this one is not supported.
    pub(super) fn next(self) -> Self {
        match self {
            Self::Punch => Self::ZeroRange,
            Self::ZeroRange | Self::Write => Self::Write,
        }
    }
}

/// One open and locked file or block device.
///
/// The lock lives as long as the open file description: as long as this value, and as long as any
/// request that the kernel still carries for it (law D3).
#[derive(Debug)]
pub struct Backing {
    file: File,
    path: PathBuf,
    size_bytes: AtomicU64,
    direct: Option<Direct>,
    zeroed: Zeroed,
    zero_method: AtomicU8,
}

/// What direct I/O on this backing asks of memory.
#[derive(Debug, Clone, Copy)]
struct Direct {
    memory_align_bytes: usize,
}

impl Backing {
    /// Creates a sparse file of `size_bytes` that reads zero, and makes it durable. Fails if `path`
    /// exists. The folder is the caller's to sync. Blocks on the disk.
    pub fn create_file(path: &Path, size_bytes: u64) -> Result<(), OpenError> {
        let fail = |what| move |source| open_error(what, path, source);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(fail("create"))?;
        file.set_len(size_bytes).map_err(fail("set the size of"))?;
        file.sync_all().map_err(fail("sync"))
    }

    /// Opens and locks `path`; [`OpenError::Held`] if somebody else has it. Blocks on the disk.
    pub fn try_open(path: &Path) -> Result<Self, OpenError> {
        let kind = std::fs::metadata(path).map_err(|e| open_error("find", path, e))?;
        let block_device = kind.file_type().is_block_device();
        if !block_device && !kind.file_type().is_file() {
            return Err(OpenError::NotABacking(path.to_owned()));
        }
        let (file, direct) = open_locked(path, block_device)?;
        let size_bytes = (&file)
            .seek(SeekFrom::End(0))
            .map_err(|e| open_error("find the size of", path, e))?;
        let zeroed = if !block_device && holds_no_data(&file) {
            Zeroed::Proven
        } else {
            Zeroed::Unknown
        };
        Ok(Self {
            file,
            path: path.to_owned(),
            size_bytes: AtomicU64::new(size_bytes),
            direct,
            zeroed,
            zero_method: AtomicU8::new(ZeroMethod::Punch as u8),
        })
    }

    /// Opens and locks `path`, waiting off the event loop while somebody else holds it.
    pub async fn open(path: &Path, wait: LockWait) -> Result<Self, OpenError> {
        let mut tries = 0_u32;
        loop {
            let owned = path.to_owned();
            let opened = tokio::task::spawn_blocking(move || Self::try_open(&owned))
                .await
                .expect("opening a backing does not panic");
            let Err(held @ OpenError::Held { .. }) = opened else {
                return opened;
            };
            let waited_ms = u64::from(tries) * duration_ms(LOCK_RETRY);
            if let LockWait::Ms(limit_ms) = wait
                && waited_ms >= limit_ms
            {
                return Err(held);
            }
            tries = tries.saturating_add(1);
            if tries == LOCK_WARN_AFTER_TRIES {
                tracing::warn!(waited_ms, "{held}; waiting for it");
            }
            tokio::time::sleep(LOCK_RETRY).await;
        }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes when it was opened, or grew.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire)
    }

    /// Makes a file at least that long, durably, and looks at a block device again; what is known
    /// of what was added. Nothing of what it holds changes. Blocks on the disk.
    pub fn grow(&self, size_bytes: u64) -> Result<Zeroed, OpenError> {
        let fail = |what| move |source| open_error(what, &self.path, source);
        let mut file = &self.file;
        let kind = file.metadata().map_err(fail("inspect"))?.file_type();
        let before = file
            .seek(SeekFrom::End(0))
            .map_err(fail("find the size of"))?;
        if kind.is_file() && before < size_bytes {
            file.set_len(size_bytes).map_err(fail("make room in"))?;
            file.sync_all().map_err(fail("sync"))?;
        }
        let now = file
            .seek(SeekFrom::End(0))
            .map_err(fail("find the size of"))?;
        self.size_bytes.store(now, Ordering::Release);
        let sparse = kind.is_file() && no_data_from(file, before);
        Ok(if sparse {
            Zeroed::Proven
        } else {
            Zeroed::Unknown
        })
    }

    /// Whether every byte was proven to read zero when it was opened (law D6): a regular file
    /// without a single data extent.
    pub fn zeroed(&self) -> Zeroed {
        self.zeroed
    }

    /// The open file, whose description carries the lock and the I/O.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Whether a buffer at `address` can go to the device as it is.
    pub(super) fn takes(&self, address: *const u8) -> bool {
        self.direct
            .is_none_or(|direct| address.addr().is_multiple_of(direct.memory_align_bytes))
    }

    /// How ranges are zeroed here.
    pub(super) fn zero_method(&self) -> ZeroMethod {
        match self.zero_method.load(Ordering::Relaxed) {
            0 => ZeroMethod::Punch,
            1 => ZeroMethod::ZeroRange,
            _ => ZeroMethod::Write,
        }
    }

    /// Remembers that `method` is not supported here.
    pub(super) fn rule_out(&self, method: ZeroMethod) -> ZeroMethod {
        let next = method.next();
        self.zero_method.fetch_max(next as u8, Ordering::Relaxed);
        next
    }

    /// Refuses an operation that does not lie inside the backing in whole sectors.
    pub(super) fn check(&self, io: &Io) -> Result<(), DiskError> {
        let (offset_bytes, len_bytes) = match io {
            Io::Read {
                offset_bytes,
                len_bytes,
            } => (*offset_bytes, Some(*len_bytes as u64)),
            Io::Write {
                offset_bytes, data, ..
            } => (*offset_bytes, Some(data.len() as u64)),
            Io::WriteZeroes {
                offset_bytes,
                len_bytes,
                ..
            } => (*offset_bytes, Some(*len_bytes)),
            Io::Flush => (0, None),
        };
        let len_bytes = len_bytes.unwrap_or(0);
        let inside = offset_bytes
            .checked_add(len_bytes)
            .is_some_and(|end| end <= self.size_bytes());
        let whole =
            offset_bytes.is_multiple_of(SECTOR_BYTES) && len_bytes.is_multiple_of(SECTOR_BYTES);
        if inside && whole {
            return Ok(());
        }
        tracing::error!(
            path = %self.path.display(), offset_bytes, len_bytes, size_bytes = self.size_bytes(),
            "operation outside the backing or not in whole sectors"
        );
        Err(DiskError::Io)
    }

    /// Logs a failed operation and says what it means to the engine.
    pub(super) fn failed(&self, what: &'static str, offset_bytes: u64, errno: Errno) -> DiskError {
        let error = disk_error(errno);
        tracing::error!(
            path = %self.path.display(), what, offset_bytes, %errno, ?error,
            "disk operation failed"
        );
        error
    }
}

/// What an errno of a disk operation means to the engine.
fn disk_error(errno: Errno) -> DiskError {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every errno without a meaning of its own is an I/O error"
    )]
    match errno {
        Errno::ENOSPC | Errno::EDQUOT => DiskError::NoSpace,
        // The block layer's words for "this sector cannot be read" (blk_status_to_errno).
        Errno::ENODATA | Errno::EILSEQ | Errno::EBADMSG => DiskError::Medium,
        _ => DiskError::Io,
    }
}

fn open_error(what: &'static str, path: &Path, source: io::Error) -> OpenError {
    OpenError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

fn duration_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Opens with O_DIRECT where the file system and device can do it in whole sectors.
fn open_locked(path: &Path, block_device: bool) -> Result<(File, Option<Direct>), OpenError> {
    let exclusive = if block_device { libc::O_EXCL } else { 0 };
    let open = |flags: i32| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(exclusive | flags)
            .open(path)
    };
    match open(libc::O_DIRECT) {
        Ok(file) => {
            let file = lock(file, path)?;
            match probe_direct(&file) {
                Ok(direct) => return Ok((file, Some(direct))),
                Err(reason) => tracing::warn!(
                    path = %path.display(), %reason, "direct I/O in sectors of 512 bytes does not \
                     work here; going through the page cache"
                ),
            }
        }
        Err(e) if is_busy(&e) => {
            return Err(OpenError::Held {
                path: path.to_owned(),
                holder: Holder(None),
            });
        }
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => tracing::warn!(
            path = %path.display(), "no direct I/O here; going through the page cache"
        ),
        Err(e) => return Err(open_error("open", path, e)),
    }
    match open(0) {
        Ok(file) => Ok((lock(file, path)?, None)),
        Err(e) if is_busy(&e) => Err(OpenError::Held {
            path: path.to_owned(),
            holder: Holder(None),
        }),
        Err(e) => Err(open_error("open", path, e)),
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

/// Takes the exclusive lock on the description behind `file`, and makes sure that `path` still
/// names the same file.
fn lock(file: File, path: &Path) -> Result<File, OpenError> {
    let mine = file
        .metadata()
        .map_err(|e| open_error("inspect", path, e))?;
    let held = |holder| OpenError::Held {
        path: path.to_owned(),
        holder,
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(held(holder_of(mine.dev(), mine.ino()))),
        Err(TryLockError::Error(e)) => return Err(open_error("lock", path, e)),
    }
    let named = std::fs::metadata(path).map_err(|e| open_error("find", path, e))?;
    if (named.dev(), named.ino()) != (mine.dev(), mine.ino()) {
        return Err(held(Holder(None)));
    }
    Ok(file)
}

/// Finds out by reading what direct I/O needs. Reads nothing of an empty file, which is right for
/// every alignment.
fn probe_direct(file: &File) -> io::Result<Direct> {
    const SECTOR: usize = 512;
    let mut memory = aligned(2 * ALIGN_BYTES);
    memory.resize(2 * ALIGN_BYTES, 0);
    file.read_at(&mut memory[..SECTOR], 0)?;
    let unaligned = file.read_at(&mut memory[SECTOR..2 * SECTOR], 0);
    let memory_align_bytes = if unaligned.is_ok() {
        SECTOR
    } else {
        ALIGN_BYTES
    };
    Ok(Direct { memory_align_bytes })
}

/// Whether a regular file has not one data extent, so that every byte of it reads zero.
fn holds_no_data(file: &File) -> bool {
    no_data_from(file, 0)
}

/// Whether a regular file has no data extent from `offset_bytes` on.
fn no_data_from(file: &File, offset_bytes: u64) -> bool {
    i64::try_from(offset_bytes)
        .is_ok_and(|at| nix::unistd::lseek(file, at, Whence::SeekData) == Err(Errno::ENXIO))
}

/// The process that holds the flock on a file, from the kernel's table.
fn holder_of(device: u64, inode: u64) -> Holder {
    let wanted = format!(
        "{:02x}:{:02x}:{inode}",
        libc::major(device),
        libc::minor(device)
    );
    let table = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let pid = table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == wanted)?;
        words.get(at.checked_sub(1)?)?.parse().ok()
    });
    Holder(pid)
}
