//! Durable records in the state directory.
//!
//! ```text
//!   STATE/lock                 locked for the life of the process: one daemon, one record
//!   STATE/voter-GROUP.record   4 KiB binding | 4 KiB slot | 4 KiB slot
//!   STATE/instance             the identity of a voter that no group has admitted yet
//! ```
//!
//! A save overwrites the older slot in place and flushes, so a torn write leaves the other one.
//! The binding names the host and the file itself (machine id, inode, birth): a record that was
//! copied, restored or cloned is not this voter's any more and counts as none (law R10, H13).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use crate::codec::{Reader, Writer};
use crate::record::{Record, RecordError};
use crate::types::{GroupId, VoterInstance};

/// What went wrong with the state directory; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process uses the directory.
    #[error("{path} is in use by another twinsan process; stop that one first")]
    Locked {
        /// The state directory.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{path}: {error}; see that the disk is healthy and the folder writable")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// Written by a version that this one does not read.
    #[error(
        "{path}: its {error}; install the version of twinsan that wrote it, or a newer one; \
         nothing was changed"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Which.
        error: RecordError,
    },
    /// The record does not fit into its slot.
    #[error("the record of {path} is larger than its slot")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// The state directory, locked for as long as this value lives.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    _lock: File,
}

const BLOCK: u64 = 4096;
const BLOCK_LEN: usize = 4096;
const BINDING_MAGIC: u32 = u32::from_le_bytes(*b"TWBD");
const SLOT_MAGIC: u32 = u32::from_le_bytes(*b"TWSL");

/// One valid slot.
struct Slot {
    number: u64,
    count: u64,
    record: Record,
}

impl Store {
    /// Makes the directory if it is not there, and locks it.
    ///
    /// # Errors
    /// If another process holds it, or the operating system refuses.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let failed = |error| StoreError::Io {
            path: folder.to_owned(),
            error,
        };
        fs::create_dir_all(folder).map_err(failed)?;
        let lock = private()
            .create(true)
            .truncate(false)
            .open(folder.join("lock"));
        let lock = lock.map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                folder: folder.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked {
                path: folder.to_owned(),
            }),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// The record of `group`; none if there never was one, if it is damaged in both slots, or if
    /// it is bound to another host or file. In the last two cases its identity is given up too.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn load(&self, group: GroupId) -> Result<Option<Record>, StoreError> {
        let path = self.path(group);
        match read_record(&path) {
            Ok(Some(slot)) => Ok(Some(slot.record)),
            Ok(None) => {
                tracing::warn!(
                    "{} was restored, copied or damaged: this voter has no vote until the group \
                     admits it again",
                    path.display()
                );
                self.forget(&path)?;
                Ok(None)
            }
            Err(error) => absent(error),
        }
    }

    /// Makes `record` durable. When this returns, a crash finds it.
    ///
    /// # Errors
    /// If the operating system refuses; the record before is still there.
    pub fn save(&mut self, group: GroupId, record: &Record) -> Result<(), StoreError> {
        let path = self.path(group);
        let mut slot = Writer::default();
        let before = match read_record(&path) {
            Ok(before) => before,
            Err(error) => absent(error)?,
        };
        let (number, count) = before.map_or((0, 0), |slot| (slot.number, slot.count));
        slot.u32(SLOT_MAGIC);
        slot.u64(count + 1);
        slot.0.extend_from_slice(&record.encode());
        let check = crc32c::crc32c(&slot.0[4..12]);
        slot.u32(check);
        if slot.0.len() > BLOCK_LEN {
            return Err(StoreError::TooLarge { path });
        }
        slot.0.resize(BLOCK_LEN, 0);
        let written = self.bound(&path).and_then(|file| {
            let older = if number == 1 { 2 } else { 1 };
            file.write_all_at(&slot.0, BLOCK * older)?;
            file.sync_all()
        });
        written.map_err(|error| StoreError::Io { path, error })
    }

    /// The identity of a voter without a record: the one given out before, or a fresh one.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn instance(
        &self,
        fresh: impl FnOnce() -> VoterInstance,
    ) -> Result<VoterInstance, StoreError> {
        let path = self.folder.join("instance");
        match read_instance(&path) {
            Ok(Some(instance)) => return Ok(instance),
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::Io { path, error }),
        }
        let instance = fresh();
        let written = remove(&path).and_then(|()| {
            let file = self.bound(&path)?;
            file.write_all_at(&instance.0.to_le_bytes(), BLOCK)?;
            file.sync_all()
        });
        written.map_err(|error| StoreError::Io { path, error })?;
        Ok(instance)
    }

    /// Gives up a record that is not this voter's, and the identity that went with it.
    fn forget(&self, path: &Path) -> Result<(), StoreError> {
        let aside = path.with_extension("refused");
        let done = fs::rename(path, &aside)
            .and_then(|()| remove(&self.folder.join("instance")))
            .and_then(|()| self.sync_folder());
        done.map_err(|error| StoreError::Io {
            path: path.to_owned(),
            error,
        })
    }

    /// The file, made and bound to this host and to itself if it is not there.
    fn bound(&self, path: &Path) -> io::Result<File> {
        if is_bound(path)? {
            return private().open(path);
        }
        let file = private().create(true).truncate(true).open(path)?;
        let binding = binding(&file)?;
        file.write_all_at(&binding, 0)?;
        file.set_len(3 * BLOCK)?;
        file.sync_all()?;
        self.sync_folder()?;
        Ok(file)
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn path(&self, group: GroupId) -> PathBuf {
        self.folder.join(format!("voter-{:032x}.record", group.0))
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn is_bound(path: &Path) -> io::Result<bool> {
    match File::open(path) {
        Ok(file) => {
            let mut found = [0; 36];
            Ok(file.read_exact_at(&mut found, 0).is_ok() && found == binding(&file)?)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Magic, then SHA-256 of machine id, inode number and time of birth.
fn binding(file: &File) -> io::Result<[u8; 36]> {
    let meta = file.metadata()?;
    let birth = meta
        .created()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let mut hash = Sha256::new();
    hash.update(fs::read("/etc/machine-id").unwrap_or_default());
    hash.update(meta.ino().to_le_bytes());
    hash.update(birth.map_or(0, |birth| birth.as_nanos()).to_le_bytes());
    let mut bytes = [0; 36];
    bytes[..4].copy_from_slice(&BINDING_MAGIC.to_le_bytes());
    bytes[4..].copy_from_slice(&hash.finalize());
    Ok(bytes)
}

/// None for a file that is not there.
fn absent<T>(error: StoreError) -> Result<Option<T>, StoreError> {
    if let StoreError::Io { error, .. } = &error
        && error.kind() == ErrorKind::NotFound
    {
        return Ok(None);
    }
    Err(error)
}

/// The newest valid slot of a file that is bound to this host and to itself. A record of another
/// version is no damage: nothing is concluded from it.
fn read_record(path: &Path) -> Result<Option<Slot>, StoreError> {
    let failed = |error| StoreError::Io {
        path: path.to_owned(),
        error,
    };
    let file = File::open(path).map_err(failed)?;
    if !is_bound(path).map_err(failed)? {
        return Ok(None);
    }
    let slots = [1, 2].map(|number| read_slot(&file, number));
    let wrong = slots.iter().filter_map(|slot| slot.as_ref().err());
    let other = wrong
        .copied()
        .find(|error| matches!(error, RecordError::Version(_)));
    let sound = slots.into_iter().filter_map(Result::ok);
    match (sound.max_by_key(|slot| slot.count), other) {
        (None, Some(error)) => Err(StoreError::Version {
            path: path.to_owned(),
            error,
        }),
        (newest, _) => Ok(newest),
    }
}

fn read_slot(file: &File, number: u64) -> Result<Slot, RecordError> {
    let mut bytes = vec![0; BLOCK_LEN];
    file.read_exact_at(&mut bytes, BLOCK * number)
        .map_err(|_| RecordError::Damaged)?;
    let mut from = Reader(&bytes);
    if from.u32()? != SLOT_MAGIC {
        return Err(RecordError::Foreign);
    }
    let count = from.u64()?;
    let record = Record::decode(from.0)?;
    let end = 12 + record.encode().len();
    if Reader(&bytes[end..]).u32()? != crc32c::crc32c(&bytes[4..12]) {
        return Err(RecordError::Damaged);
    }
    Ok(Slot {
        number,
        count,
        record,
    })
}

fn read_instance(path: &Path) -> io::Result<Option<VoterInstance>> {
    let file = File::open(path)?;
    let mut bytes = [0; 16];
    let whole = is_bound(path)? && file.read_exact_at(&mut bytes, BLOCK).is_ok();
    let instance = u128::from_le_bytes(bytes);
    Ok((whole && instance != 0).then_some(VoterInstance(instance)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{blank, genesis};
    use crate::types::{DiskInstance, NodeId, Policy, Timing};

    const GROUP: GroupId = GroupId(9);

    fn folder(name: &str) -> PathBuf {
        let mut path = std::env::temp_dir();
        path.push(format!("twinsan-ha-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn record(seq: u64) -> Record {
        let ids = (VoterInstance(1), DiskInstance(2));
        let mut record =
            genesis(GROUP, NodeId(1), ids, Timing::default(), Policy::Witness).unwrap();
        record.record_seq = seq;
        record
    }

    #[test]
    fn the_last_saved_record_is_loaded() {
        let folder = folder("last");
        let mut store = Store::open(&folder).unwrap();
        assert_eq!(store.load(GROUP).unwrap(), None);
        for seq in 1..6 {
            store.save(GROUP, &record(seq)).unwrap();
            assert_eq!(store.load(GROUP).unwrap(), Some(record(seq)));
        }
        drop(store);
        let store = Store::open(&folder).unwrap();
        assert_eq!(store.load(GROUP).unwrap(), Some(record(5)));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_torn_save_leaves_the_record_before() {
        let folder = folder("torn");
        let mut store = Store::open(&folder).unwrap();
        for seq in 1..=4 {
            store.save(GROUP, &record(seq)).unwrap();
        }
        let file = private().open(store.path(GROUP)).unwrap();
        let newest = read_record(&store.path(GROUP)).unwrap().unwrap().number;
        file.write_all_at(&[0xff; 100], BLOCK * newest + 40)
            .unwrap();
        assert_eq!(store.load(GROUP).unwrap(), Some(record(3)));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn two_processes_do_not_share_a_directory() {
        let folder = folder("lock");
        let store = Store::open(&folder).unwrap();
        let error = Store::open(&folder).unwrap_err();
        assert!(error.to_string().contains("stop that one first"));
        drop(store);
        Store::open(&folder).unwrap();
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn h13_a_record_put_back_from_a_copy_is_not_this_voters_any_more() {
        let folder = folder("copy");
        let mut store = Store::open(&folder).unwrap();
        let path = store.path(GROUP);
        let first = store.instance(|| VoterInstance(77)).unwrap();
        assert_eq!(store.instance(|| VoterInstance(78)).unwrap(), first);
        store.save(GROUP, &blank(first)).unwrap();
        let copy = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(folder.join("filler"), b"takes the inode").unwrap();
        fs::write(&path, copy).unwrap();
        assert_eq!(store.load(GROUP).unwrap(), None);
        assert_eq!(
            store.instance(|| VoterInstance(79)).unwrap(),
            VoterInstance(79)
        );
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_record_of_another_version_is_left_alone() {
        let folder = folder("version");
        let mut store = Store::open(&folder).unwrap();
        let path = store.path(GROUP);
        store.save(GROUP, &record(1)).unwrap();
        let file = private().open(&path).unwrap();
        file.write_all_at(&77_u32.to_le_bytes(), BLOCK * 2 + 16)
            .unwrap();
        file.write_all_at(&77_u32.to_le_bytes(), BLOCK + 16)
            .unwrap();
        let before = fs::read(&path).unwrap();
        let error = store.load(GROUP).unwrap_err().to_string();
        assert!(error.contains("version 77"), "{error}");
        assert!(store.save(GROUP, &record(2)).is_err());
        assert_eq!(fs::read(&path).unwrap(), before);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_record_damaged_in_both_slots_is_no_record() {
        let folder = folder("damaged");
        let mut store = Store::open(&folder).unwrap();
        store.save(GROUP, &record(1)).unwrap();
        store.save(GROUP, &record(2)).unwrap();
        let file = private().open(store.path(GROUP)).unwrap();
        file.write_all_at(&[0xff; 8192], BLOCK).unwrap();
        assert_eq!(store.load(GROUP).unwrap(), None);
        fs::remove_dir_all(folder).unwrap();
    }
}
