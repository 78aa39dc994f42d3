//! [`Pool`]: the backings of one group, as sparse files in a folder.
//!
//! One file per volume, `NNNNNNNN.vol` by number. A file under construction is called `.new` and
//! takes its final name only when it is whole, so a crash leaves no half-made volume. The folder
//! is synced after every change of names.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::statvfs::statvfs;

use super::disk::{Backing, LockWait, OpenError};
use crate::types::{VolumeNumber, Zeroed};

const VOLUME: &str = "vol";
const UNFINISHED: &str = "new";
/// The unit of `st_blocks`, whatever the file system (inode(7)).
const STAT_BLOCK_BYTES: u64 = 512;

/// Why the pool cannot do it. Nothing was changed, unless a sync failed.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// Not enough space for all that has been promised.
    #[error(
        "a volume of {wanted} needs more space than pool {dir} has left ({left} not yet promised \
         to other volumes); make room or choose a smaller size",
        wanted = Size(*wanted_bytes), left = Size(*left_bytes), dir = dir.display()
    )]
    Full {
        /// The pool's folder.
        dir: PathBuf,
        /// Size of the backing asked for.
        wanted_bytes: u64,
        /// Free space less what sparse files may still grow to.
        left_bytes: u64,
    },
    /// The name is taken.
    #[error("volume {number} already exists in pool {dir}", dir = dir.display())]
    Exists {
        /// The pool's folder.
        dir: PathBuf,
        /// The number asked for.
        number: VolumeNumber,
    },
    /// A file operation failed.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// The step that failed.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason given.
        source: io::Error,
    },
    /// The backing cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// One volume found in the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Its number in the group.
    pub number: VolumeNumber,
    /// Size of its backing.
    pub size_bytes: u64,
}

/// The backings of one group.
#[derive(Debug, Clone)]
pub struct Pool {
    dir: PathBuf,
}

impl Pool {
    /// Opens the pool in the folder `dir`, making it if need be, and removes what a crash left
    /// unfinished. Blocks on the disk.
    pub fn open(dir: PathBuf) -> Result<Self, PoolError> {
        if !dir.is_dir() {
            fs::create_dir_all(&dir).map_err(|e| io_error("create", &dir, e))?;
            if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
                sync_folder(parent)?;
            }
        }
        let pool = Self { dir };
        for (path, extension) in pool.files()? {
            if extension == UNFINISHED {
                fs::remove_file(&path).map_err(|e| io_error("remove", &path, e))?;
            }
        }
        sync_folder(&pool.dir)?;
        Ok(pool)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file of a volume.
    pub fn path(&self, number: VolumeNumber) -> PathBuf {
        self.named(number, VOLUME)
    }

    /// Every volume, by number. Reads names and sizes only. Blocks on the disk.
    pub fn list(&self) -> Result<Vec<Listed>, PoolError> {
        let mut found = Vec::new();
        for (path, extension) in self.files()? {
            let number = path
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse().ok());
            let Some(number) = number.filter(|_| extension == VOLUME) else {
                continue;
            };
            let size_bytes = fs::metadata(&path)
                .map_err(|e| io_error("inspect", &path, e))?
                .len();
            found.push(Listed {
                number: VolumeNumber(number),
                size_bytes,
            });
        }
        found.sort_by_key(|listed| listed.number.0);
        Ok(found)
    }

    /// Opens and locks the backing of a volume.
    pub async fn open_volume(
        &self,
        number: VolumeNumber,
        wait: LockWait,
    ) -> Result<Arc<Backing>, PoolError> {
        Ok(Arc::new(Backing::open(&self.path(number), wait).await?))
    }

    /// Makes the backing of a new volume: sparse, reading zero, durable, locked. One of that size
    /// that was never written, left by a crash, is taken as it is.
    pub async fn create_volume(
        &self,
        number: VolumeNumber,
        size_bytes: u64,
    ) -> Result<Arc<Backing>, PoolError> {
        let pool = self.clone();
        let made = off_the_loop(move || pool.create_blocking(number, size_bytes)).await;
        if let Err(PoolError::Exists { .. }) = made {
            let backing = self.open_volume(number, LockWait::Forever).await?;
            let unused = backing.zeroed() == Zeroed::Proven && backing.size_bytes() == size_bytes;
            return if unused {
                Ok(backing)
            } else {
                Err(made.expect_err("it was just matched"))
            };
        }
        made?;
        self.open_volume(number, LockWait::Forever).await
    }

    /// Makes the backing of a volume at least that long; what is known of what was added.
    pub async fn grow_volume(
        &self,
        backing: Arc<Backing>,
        size_bytes: u64,
    ) -> Result<Zeroed, PoolError> {
        let pool = self.clone();
        off_the_loop(move || {
            let wanted_bytes = size_bytes.saturating_sub(backing.size_bytes());
            let left_bytes = pool.left_bytes()?;
            if wanted_bytes > left_bytes {
                let dir = pool.dir.clone();
                return Err(PoolError::Full {
                    dir,
                    wanted_bytes,
                    left_bytes,
                });
            }
            Ok(backing.grow(size_bytes)?)
        })
        .await
    }

    /// Removes the backing of a volume for good. One that is not there counts as removed.
    pub async fn remove_volume(&self, number: VolumeNumber) -> Result<(), PoolError> {
        let pool = self.clone();
        off_the_loop(move || {
            let path = pool.path(number);
            match fs::remove_file(&path) {
                Ok(()) => sync_folder(&pool.dir),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(e) => Err(io_error("remove", &path, e)),
            }
        })
        .await
    }

    /// Free bytes that no sparse file may still grow into.
    pub fn left_bytes(&self) -> Result<u64, PoolError> {
        let space =
            statvfs(&self.dir).map_err(|errno| io_error("inspect", &self.dir, errno.into()))?;
        let free_bytes = space
            .blocks_available()
            .saturating_mul(space.fragment_size());
        let mut promised_bytes = 0_u64;
        for (path, _) in self.files()? {
            let file = fs::metadata(&path).map_err(|e| io_error("inspect", &path, e))?;
            let taken_bytes = file.blocks().saturating_mul(STAT_BLOCK_BYTES);
            promised_bytes = promised_bytes.saturating_add(file.len().saturating_sub(taken_bytes));
        }
        Ok(free_bytes.saturating_sub(promised_bytes))
    }

    fn create_blocking(&self, number: VolumeNumber, size_bytes: u64) -> Result<(), PoolError> {
        let path = self.path(number);
        if path.exists() {
            return Err(PoolError::Exists {
                dir: self.dir.clone(),
                number,
            });
        }
        let left_bytes = self.left_bytes()?;
        if size_bytes > left_bytes {
            let dir = self.dir.clone();
            return Err(PoolError::Full {
                dir,
                wanted_bytes: size_bytes,
                left_bytes,
            });
        }
        let unfinished = self.named(number, UNFINISHED);
        Backing::create_file(&unfinished, size_bytes)?;
        fs::rename(&unfinished, &path).map_err(|e| io_error("name", &path, e))?;
        sync_folder(&self.dir)
    }

    fn named(&self, number: VolumeNumber, extension: &str) -> PathBuf {
        self.dir.join(format!("{:08}.{extension}", number.0))
    }

    /// Regular files with an extension.
    fn files(&self) -> Result<Vec<(PathBuf, String)>, PoolError> {
        let fail = |e| io_error("list", &self.dir, e);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let path = entry.path();
            let extension = path.extension().and_then(|e| e.to_str()).map(str::to_owned);
            if let Some(extension) = extension
                && entry.file_type().map_err(fail)?.is_file()
            {
                files.push((path, extension));
            }
        }
        Ok(files)
    }
}

async fn off_the_loop<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PoolError> + Send + 'static,
) -> Result<T, PoolError> {
    tokio::task::spawn_blocking(work)
        .await
        .expect("pool work does not panic")
}

fn sync_folder(dir: &Path) -> Result<(), PoolError> {
    File::open(dir)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| io_error("sync", dir, e))
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> PoolError {
    PoolError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// A byte count for people.
struct Size(u64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
        let (mut whole, mut tenths, mut unit) = (self.0, 0, "bytes");
        for next in UNITS {
            if whole < 1024 {
                break;
            }
            (whole, tenths, unit) = (whole / 1024, whole % 1024 * 10 / 1024, next);
        }
        if tenths == 0 {
            write!(f, "{whole} {unit}")
        } else {
            write!(f, "{whole}.{tenths} {unit}")
        }
    }
}
