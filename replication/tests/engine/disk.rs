//! A simulated disk: sparse 4 KiB pages behind a volatile cache.
//!
//! Fault model: a power cut keeps, for each page with unflushed versions, any one of them or the
//! stable one; in the metadata also a mixture of two at a 512-byte boundary. Writes in flight count
//! as unflushed. A killed process loses nothing that the disk has been given.

use crate::random::Rng;
use crate::world::{Troubles, zero};
use replication::engine::{DiskError, Io, IoDone};
use replication::meta::TAIL_BYTES;
use replication::types::{Fua, VolumeNumber};
use std::collections::BTreeMap;

pub(crate) const PAGE: usize = 4096;
type Data = std::rc::Rc<[u8]>;

#[derive(Clone, Default)]
pub(crate) struct SimDisk {
    stable: BTreeMap<u64, Data>,
    /// Unflushed versions of a page, oldest first.
    cached: BTreeMap<u64, Vec<Data>>,
    pub(crate) size_bytes: u64,
}

impl Rng {
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

impl SimDisk {
    pub(crate) fn page(&self, page: u64) -> Data {
        let cached = self.cached.get(&page).and_then(|versions| versions.last());
        cached
            .or_else(|| self.stable.get(&page))
            .cloned()
            .unwrap_or_else(|| vec![0; PAGE].into())
    }

    pub(crate) fn is_stable(&self, page: u64) -> bool {
        !self.cached.contains_key(&page)
    }

    pub(crate) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        assert!(
            offset.is_multiple_of(PAGE as u64) && len.is_multiple_of(PAGE),
            "whole pages"
        );
        let first = offset / PAGE as u64;
        (first..first + (len / PAGE) as u64)
            .flat_map(|page| self.page(page).to_vec())
            .collect()
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8], fua: Fua) {
        let inside = usize::try_from(offset % PAGE as u64).expect("it fits");
        if inside != 0 || !data.len().is_multiple_of(PAGE) {
            let start = offset - inside as u64;
            let mut whole = self.read(start, (inside + data.len()).next_multiple_of(PAGE));
            whole[inside..inside + data.len()].copy_from_slice(data);
            return self.write(start, &whole, fua);
        }
        for (page, data) in (offset / PAGE as u64..).zip(data.chunks(PAGE)) {
            assert_eq!(data.len(), PAGE, "whole pages");
            match fua {
                Fua::Yes => {
                    self.cached.remove(&page);
                    self.stable.insert(page, data.into());
                }
                Fua::No => self.cached.entry(page).or_default().push(data.into()),
            }
        }
    }

    /// A whole command, with what is wrong.
    pub(crate) fn carry_out(
        &mut self,
        number: VolumeNumber,
        io: Io,
        troubles: &mut Troubles,
    ) -> Result<IoDone, DiskError> {
        if let Some(error) = troubles.error {
            return Err(error);
        }
        match io {
            Io::Read {
                offset_bytes,
                len_bytes,
            } => {
                let (first, pages) = (offset_bytes / PAGE as u64, (len_bytes / PAGE) as u64);
                let bad = (first..first + pages)
                    .any(|page| troubles.unreadable.contains(&(number, page)));
                if bad {
                    return Err(DiskError::Medium);
                }
                return Ok(IoDone::Data(self.read(offset_bytes, len_bytes).into()));
            }
            Io::Write {
                offset_bytes,
                data,
                fua,
            } => {
                let fits = self.room_for(offset_bytes, data.len(), troubles.full);
                self.write(offset_bytes, &data[..fits], fua);
                let first = offset_bytes / PAGE as u64;
                for page in first..first + (fits / PAGE) as u64 {
                    troubles.unreadable.remove(&(number, page));
                }
                if fits < data.len() {
                    return Err(DiskError::NoSpace);
                }
            }
            Io::WriteZeroes {
                offset_bytes,
                len_bytes,
                fua,
            } => zero(self, offset_bytes, len_bytes, fua),
            Io::Flush => self.flush(),
        }
        Ok(IoDone::Ok)
    }

    /// Bytes of a write that fit: with a full pool only pages of metadata, at both ends of the
    /// backing, and those that exist.
    fn room_for(&self, offset_bytes: u64, len: usize, full: bool) -> usize {
        let first = offset_bytes / PAGE as u64;
        let tail = self.size_bytes.saturating_sub(TAIL_BYTES) / PAGE as u64;
        let exists = |page: &u64| {
            let metadata = *page < 256 || *page >= tail;
            metadata || self.stable.contains_key(page) || self.cached.contains_key(page)
        };
        let room = (first..)
            .take_while(exists)
            .take(len.div_ceil(PAGE))
            .count();
        if full { len.min(room * PAGE) } else { len }
    }

    /// Everything written until now is stable.
    pub(crate) fn flush(&mut self) {
        for (page, versions) in std::mem::take(&mut self.cached) {
            self.stable
                .insert(page, versions.last().expect("never empty").clone());
        }
    }

    pub(crate) fn power_cut(&mut self, rng: &mut Rng) {
        for (page, versions) in std::mem::take(&mut self.cached) {
            let stable = self.stable.get(&page).cloned();
            let stable = stable.unwrap_or_else(|| vec![0; PAGE].into());
            let pick = |rng: &mut Rng| {
                let which = usize::try_from(rng.below(versions.len() as u64 + 1)).expect("it fits");
                versions.get(which).unwrap_or(&stable).clone()
            };
            let mut kept = pick(rng);
            if page < 256 && rng.one_in(2) {
                // torn: only metadata, so that the oracle can tell versions apart
                let (other, at) = (
                    pick(rng),
                    512 * usize::try_from(rng.below(8)).expect("it fits"),
                );
                kept = [&kept[..at], &other[at..]].concat().into();
            }
            self.stable.insert(page, kept);
        }
    }

    /// Nothing that was not flushed is kept.
    pub(crate) fn lose_cache(&mut self) {
        self.cached.clear();
    }

    /// Pages that were ever written.
    pub(crate) fn pages(&self) -> impl Iterator<Item = u64> {
        self.stable.keys().chain(self.cached.keys()).copied()
    }
}
