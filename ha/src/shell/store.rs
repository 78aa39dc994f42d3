//! The durable record of a voter: two slots in a directory that one process holds.
//!
//! ```text
//!   DIR/lock         held for the life of the process
//!   DIR/identity     whose record this is: host and file (law R10, H13)
//!   DIR/GROUP.0 .1   the record, written to the slots in turn
//! ```
//!
//! A save writes the slot that is not the newest, makes it durable, then the directory. A torn slot
//! fails its check and the other one counts. A directory that was copied or moved to another host,
//! or written back from a backup, no longer matches its `identity`: its records have no vote.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::record::Record;
use crate::types::{GroupId, VoterInstance};

/// Records are small; a larger file is not one.
const RECORD_BYTES_MAX: u64 = 64 << 10;
const MACHINE_ID: &str = "/etc/machine-id";

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error(
        "the state directory {} is in use by another process; stop that one first",
        path.display()
    )]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error("cannot use the state directory {}: {source}", path.display())]
    Io {
        /// The directory or a file in it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It was copied, restored or moved.
    #[error(
        "the state directory {} was restored, copied or moved here, so its vote does not count \
         (law R10); give it up: move the directory away and start again, then let the primary \
         admit the new voter",
        path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// Both slots are damaged.
    #[error(
        "both copies of the record in {} are damaged, so this box has no vote (law R10); move the \
         directory away and start again, then let the primary admit the new voter",
        path.display()
    )]
    Damaged {
        /// The directory.
        path: PathBuf,
    },
}

/// A state directory, locked.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    _lock: Flock<File>,
}

impl Store {
    /// Opens `dir`, making it if it is missing, and takes its lock.
    ///
    /// # Errors
    /// [`StoreError::Busy`], [`StoreError::Foreign`], [`StoreError::Io`].
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Io {
            path: dir.to_owned(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(dir.join("lock"))
            .map_err(failed)?;
        let lock =
            Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| StoreError::Busy {
                path: dir.to_owned(),
            })?;
        let store = Self {
            dir: dir.to_owned(),
            _lock: lock,
        };
        store.check_identity()?;
        Ok(store)
    }

    /// The newest whole record of `group`; none if there never was one.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if there was one and no slot is whole, [`StoreError::Io`].
    pub fn load(&self, group: GroupId) -> Result<Option<Record>, StoreError> {
        let mut newest: Option<Record> = None;
        let mut seen = false;
        for slot in 0..2 {
            let path = self.slot(group, slot);
            let Some(bytes) = read(&path).map_err(|source| StoreError::Io { path, source })? else {
                continue;
            };
            seen = true;
            let Ok(record) = Record::decode(&bytes) else {
                continue;
            };
            if newest
                .as_ref()
                .is_none_or(|known| known.record_seq < record.record_seq)
            {
                newest = Some(record);
            }
        }
        match newest {
            None if seen => Err(StoreError::Damaged {
                path: self.dir.clone(),
            }),
            found => Ok(found),
        }
    }

    /// Replaces the record of `group`; durable when it returns.
    ///
    /// # Errors
    /// What the system said; the record that was there before still counts.
    pub fn save(&mut self, group: GroupId, record: &Record) -> io::Result<()> {
        let slot = self.older_slot(group)?;
        let path = self.slot(group, slot);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(&record.encode())?;
        file.sync_all()?;
        File::open(&self.dir)?.sync_all()
    }

    /// The slot that a save may overwrite: one that is missing, damaged or older.
    fn older_slot(&self, group: GroupId) -> io::Result<u8> {
        let mut sequences = [None, None];
        for (slot, sequence) in (0..).zip(&mut sequences) {
            let bytes = read(&self.slot(group, slot))?;
            *sequence = bytes
                .and_then(|bytes| Record::decode(&bytes).ok())
                .map(|record| record.record_seq);
        }
        Ok(u8::from(sequences[0] > sequences[1]))
    }

    fn slot(&self, group: GroupId, slot: u8) -> PathBuf {
        self.dir.join(format!("{:032x}.{slot}", group.0))
    }

    /// Law R10: the directory belongs to this host and has not been written back from a copy.
    /// The identity file names its own inode, which a copy does not have.
    fn check_identity(&self) -> Result<(), StoreError> {
        let path = self.dir.join("identity");
        let failed = |source| StoreError::Io {
            path: path.clone(),
            source,
        };
        match read(&path).map_err(failed)? {
            Some(text) => {
                let inode = fs::metadata(&path).map_err(failed)?.ino();
                if text == identity(inode).into_bytes() {
                    Ok(())
                } else {
                    Err(StoreError::Foreign {
                        path: self.dir.clone(),
                    })
                }
            }
            None => self.write_identity(&path).map_err(failed),
        }
    }

    fn write_identity(&self, path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(path)?;
        let inode = file.metadata()?.ino();
        file.write_all(identity(inode).as_bytes())?;
        file.sync_all()?;
        File::open(&self.dir)?.sync_all()
    }

    /// The voter instance of this directory, made by `fresh` the first time.
    ///
    /// # Errors
    /// What the system said, or [`StoreError::Damaged`].
    pub fn instance(
        &self,
        fresh: impl FnOnce() -> VoterInstance,
    ) -> Result<VoterInstance, StoreError> {
        let path = self.dir.join("instance");
        let failed = |source| StoreError::Io {
            path: path.clone(),
            source,
        };
        if let Some(bytes) = read(&path).map_err(failed)? {
            let text = String::from_utf8_lossy(&bytes);
            return u128::from_str_radix(text.trim(), 16)
                .map(VoterInstance)
                .map_err(|_| StoreError::Damaged {
                    path: self.dir.clone(),
                });
        }
        let instance = fresh();
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(format!("{:032x}\n", instance.0).as_bytes())?;
            file.sync_all()?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(failed)?;
        Ok(instance)
    }
}

fn identity(inode: u64) -> String {
    let machine = fs::read_to_string(MACHINE_ID).unwrap_or_default();
    format!("machine {}\ninode {inode}\n", machine.trim())
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(RECORD_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::blank;

    const GROUP: GroupId = GroupId(7);

    fn fresh_dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("ha-store-{}-{name}", std::process::id()));
        if dir.exists() {
            fs::remove_dir_all(&dir).expect("left over from an earlier run");
        }
        dir
    }

    fn record(record_seq: u64) -> Record {
        Record {
            record_seq,
            ..blank(VoterInstance(9))
        }
    }

    #[test]
    fn the_newest_record_comes_back_and_a_torn_one_does_not_count() {
        let dir = fresh_dir("newest");
        let mut store = Store::open(&dir).expect("a new directory");
        assert_eq!(store.load(GROUP).expect("readable"), None);
        for sequence in 1..=5 {
            store.save(GROUP, &record(sequence)).expect("writable");
            assert_eq!(store.load(GROUP).expect("whole"), Some(record(sequence)));
        }
        let newest = (0..2)
            .map(|slot| store.slot(GROUP, slot))
            .find(|path| {
                Record::decode(&fs::read(path).expect("there"))
                    .expect("whole")
                    .record_seq
                    == 5
            })
            .expect("one of the two");
        fs::write(&newest, b"torn").expect("writable");
        assert_eq!(store.load(GROUP).expect("the other"), Some(record(4)));
        store.save(GROUP, &record(6)).expect("writable");
        assert_eq!(store.load(GROUP).expect("whole"), Some(record(6)));
        fs::remove_dir_all(&dir).expect("ours");
    }

    #[test]
    fn both_slots_damaged_is_no_vote_and_not_a_blank_box() {
        let dir = fresh_dir("damaged");
        let mut store = Store::open(&dir).expect("a new directory");
        store.save(GROUP, &record(1)).expect("writable");
        fs::write(store.slot(GROUP, 0), b"rot").expect("writable");
        assert!(matches!(store.load(GROUP), Err(StoreError::Damaged { .. })));
        fs::remove_dir_all(&dir).expect("ours");
    }

    #[test]
    fn a_second_process_and_a_copy_are_refused() {
        let dir = fresh_dir("copy");
        let store = Store::open(&dir).expect("a new directory");
        assert!(matches!(Store::open(&dir), Err(StoreError::Busy { .. })));
        drop(store);
        let copy = fresh_dir("copied");
        fs::create_dir_all(&copy).expect("a folder");
        for entry in fs::read_dir(&dir).expect("readable") {
            let path = entry.expect("readable").path();
            fs::copy(&path, copy.join(path.file_name().expect("a file"))).expect("copied");
        }
        assert!(matches!(
            Store::open(&copy),
            Err(StoreError::Foreign { .. })
        ));
        fs::remove_dir_all(&dir).expect("ours");
        fs::remove_dir_all(&copy).expect("ours");
    }

    #[test]
    fn the_instance_is_minted_once() {
        let dir = fresh_dir("instance");
        let store = Store::open(&dir).expect("a new directory");
        assert_eq!(
            store.instance(|| VoterInstance(1)).expect("made"),
            VoterInstance(1)
        );
        assert_eq!(
            store.instance(|| VoterInstance(2)).expect("read"),
            VoterInstance(1)
        );
        fs::remove_dir_all(&dir).expect("ours");
    }
}
