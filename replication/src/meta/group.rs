//! Group state: what changes with an epoch or the volume list, once per group.
//!
//! Lives in the system volume's metadata, in two slots written in turn, so that a new epoch costs
//! one write whatever the number of volumes. A torn newer slot was not acted upon, so the older
//! one is the truth. The generation rises with every write (law D7).

use super::checksum;
use crate::types::{BootId, DiskInstance, Epoch, VolumeNumber, VolumeSpec};
use crate::wire::volumes::ENTRIES_MAX;
use std::collections::BTreeMap;
use zerocopy::byteorder::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where the slots are.
pub const OFFSETS: [u64; 2] = [64 << 10, 128 << 10];
/// Bytes of a slot that are written.
pub const LEN_BYTES: usize = 20 << 10;

const MAGIC: u32 = u32::from_le_bytes(*b"TWgr");
const VERSION: u16 = 1;

/// The durable state of this box's copy of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    /// Rises with every write.
    pub meta_generation: u64,
    /// Identity of this copy.
    pub disk: DiskInstance,
    /// The kernel boot that attached it last.
    pub boot: BootId,
    /// The last epoch in which this copy was in sync or primary.
    pub data_epoch: Epoch,
    /// Frames of epochs up to this one are refused (law R3).
    pub sealed: Epoch,
    /// The dirty maps cover every difference from this copy of the peer, as long as the peer's
    /// data epoch is still the one that is named.
    pub covers: Option<Coverage>,
    /// Receives as a secondary, perhaps in sync: a secondary has no intents, so after a loss of
    /// power any of its volumes may lack writes that were acknowledged and not flushed (law D5,
    /// H12).
    pub following: bool,
    /// The highest volume number ever used.
    pub highest: VolumeNumber,
    /// The volumes.
    pub volumes: BTreeMap<VolumeNumber, Entry>,
}

/// A copy that the dirty maps are relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// The peer's copy.
    pub disk: DiskInstance,
    /// Its data epoch.
    pub data_epoch: Epoch,
}

/// One volume of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub spec: VolumeSpec,
    /// How far its life has come.
    pub life: Life,
    /// Its dirty map is relative to an area of zeroes.
    pub zero_base: bool,
    /// It was never in sync with anybody.
    pub fresh: bool,
    /// Power was lost with hot intents (law D5).
    pub cache_lost: bool,
}

/// How far the life of a volume has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Its number is taken, no host has seen it.
    Creating,
    /// In use.
    Ready,
    /// Deleted; the peer may not know yet (law D11).
    Tombstone,
}

impl GroupState {
    /// Where the next write goes.
    #[must_use]
    pub fn offset_bytes(&self) -> u64 {
        if self.meta_generation.is_multiple_of(2) {
            OFFSETS[0]
        } else {
            OFFSETS[1]
        }
    }

    /// The bytes on disk.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.volumes.len() <= ENTRIES_MAX, "too many volumes");
        let mut raw = Raw {
            magic: U32::new(MAGIC),
            version: U16::new(VERSION),
            count: U16::new(u16::try_from(self.volumes.len()).expect("bounded above")),
            meta_generation: U64::new(self.meta_generation),
            disk: U128::new(self.disk.0),
            boot: U128::new(self.boot.0),
            data_epoch: U64::new(self.data_epoch.0),
            sealed: U64::new(self.sealed.0),
            covers_disk: U128::new(self.covers.map_or(0, |covers| covers.disk.0)),
            covers_epoch: U64::new(self.covers.map_or(0, |covers| covers.data_epoch.0)),
            covers: u8::from(self.covers.is_some()),
            following: u8::from(self.following),
            reserved: [0; 2],
            highest: U32::new(self.highest.0),
            padding: [0; 28],
            crc: U32::new(0),
        };
        let mut bytes = vec![0; LEN_BYTES];
        bytes[..RAW_LEN].copy_from_slice(raw.as_bytes());
        let places = bytes[RAW_LEN..].chunks_exact_mut(size_of::<RawEntry>());
        for (place, entry) in places.zip(self.volumes.values()) {
            place.copy_from_slice(entry.raw().as_bytes());
        }
        raw.crc = U32::new(checksum(&bytes, CRC_AT));
        bytes[..RAW_LEN].copy_from_slice(raw.as_bytes());
        bytes
    }

    /// Reads one slot; `None` if it is not valid.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != LEN_BYTES {
            return None;
        }
        let (raw, rest) = Raw::ref_from_prefix(bytes).ok()?;
        let count = usize::from(raw.count.get());
        let sound = raw.magic.get() == MAGIC
            && raw.version.get() == VERSION
            && raw.crc.get() == checksum(bytes, CRC_AT)
            && count <= ENTRIES_MAX;
        if !sound {
            return None;
        }
        let (entries, _) = <[RawEntry]>::ref_from_prefix_with_elems(rest, count).ok()?;
        let mut volumes = BTreeMap::new();
        for raw in entries {
            let entry = Entry::from_raw(raw)?;
            volumes.insert(entry.spec.number, entry);
        }
        Some(Self {
            meta_generation: raw.meta_generation.get(),
            disk: DiskInstance(raw.disk.get()),
            boot: BootId(raw.boot.get()),
            data_epoch: Epoch(raw.data_epoch.get()),
            sealed: Epoch(raw.sealed.get()),
            covers: (raw.covers == 1).then(|| Coverage {
                disk: DiskInstance(raw.covers_disk.get()),
                data_epoch: Epoch(raw.covers_epoch.get()),
            }),
            following: raw.following == 1,
            highest: VolumeNumber(raw.highest.get()),
            volumes,
        })
    }

    /// The newer valid slot in the first [`super::HEAD_BYTES`] of the system volume's backing.
    #[must_use]
    pub fn find(head: &[u8]) -> Option<Self> {
        let slots = OFFSETS.iter().filter_map(|at| {
            let at = usize::try_from(*at).expect("a constant below one mebibyte");
            Self::parse(head.get(at..at + LEN_BYTES)?)
        });
        slots.max_by_key(|state| state.meta_generation)
    }
}

impl Entry {
    fn raw(&self) -> RawEntry {
        let life = match self.life {
            Life::Creating => 1,
            Life::Ready => 2,
            Life::Tombstone => 3,
        };
        let flags = [self.zero_base, self.fresh, self.cache_lost];
        let flags = flags
            .iter()
            .enumerate()
            .map(|(bit, set)| u8::from(*set) << bit)
            .sum();
        RawEntry {
            number: U32::new(self.spec.number.0),
            life,
            flags,
            reserved: [0; 2],
            size_bytes: U64::new(self.spec.size_bytes),
            uuid: U128::new(self.spec.uuid),
        }
    }

    fn from_raw(raw: &RawEntry) -> Option<Self> {
        let life = match raw.life {
            1 => Life::Creating,
            2 => Life::Ready,
            3 => Life::Tombstone,
            _ => return None,
        };
        let number = VolumeNumber(raw.number.get());
        let size_bytes = raw.size_bytes.get();
        super::is_size(size_bytes).then(|| Self {
            spec: VolumeSpec {
                number,
                uuid: raw.uuid.get(),
                size_bytes,
            },
            life,
            zero_base: raw.flags & 1 != 0,
            fresh: raw.flags & 2 != 0,
            cache_lost: raw.flags & 4 != 0,
        })
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    magic: U32,
    version: U16,
    count: U16,
    meta_generation: U64,
    disk: U128,
    boot: U128,
    data_epoch: U64,
    sealed: U64,
    covers_disk: U128,
    covers_epoch: U64,
    covers: u8,
    following: u8,
    reserved: [u8; 2],
    highest: U32,
    padding: [u8; 28],
    crc: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    number: U32,
    life: u8,
    flags: u8,
    reserved: [u8; 2],
    size_bytes: U64,
    uuid: U128,
}

const RAW_LEN: usize = 128;
const CRC_AT: usize = 124;
const _: () = assert!(size_of::<Raw>() == RAW_LEN);
const _: () = assert!(size_of::<RawEntry>() == 32);
const _: () = assert!(RAW_LEN + ENTRIES_MAX * size_of::<RawEntry>() <= LEN_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state(meta_generation: u64) -> GroupState {
        let number = VolumeNumber(7);
        let entry = Entry {
            spec: VolumeSpec {
                number,
                uuid: 9,
                size_bytes: 0x2000,
            },
            life: Life::Ready,
            zero_base: true,
            fresh: false,
            cache_lost: true,
        };
        GroupState {
            meta_generation,
            disk: DiskInstance(2),
            boot: BootId(3),
            data_epoch: Epoch(4),
            sealed: Epoch(5),
            covers: Some(Coverage {
                disk: DiskInstance(6),
                data_epoch: Epoch(7),
            }),
            following: true,
            highest: VolumeNumber(8),
            volumes: BTreeMap::from([(number, entry)]),
        }
    }

    #[test]
    fn a_state_has_these_bytes() {
        let bytes = state(0x31).encode();
        assert_eq!(&bytes[..17], b"TWgr\x01\0\x01\0\x31\0\0\0\0\0\0\0\x02");
        assert_eq!(
            (bytes[32], bytes[48], bytes[56], bytes[64], bytes[80]),
            (3, 4, 5, 6, 7)
        );
        assert_eq!((bytes[88], bytes[89], bytes[92]), (1, 1, 8));
        assert_eq!(bytes[128..136], [7, 0, 0, 0, 2, 5, 0, 0]);
        assert_eq!((bytes[137], bytes[144]), (0x20, 9));
        assert_eq!(GroupState::parse(&bytes), Some(state(0x31)));
    }

    #[test]
    fn the_newer_slot_counts_unless_it_is_torn() {
        let mut head = vec![0; usize::try_from(super::super::HEAD_BYTES).unwrap()];
        assert_eq!(GroupState::find(&head), None);
        for generation in [4, 5] {
            let state = state(generation);
            let at = usize::try_from(state.offset_bytes()).unwrap();
            head[at..at + LEN_BYTES].copy_from_slice(&state.encode());
        }
        assert_eq!(GroupState::find(&head), Some(state(5)));
        head[(128 << 10) + 9000] ^= 1;
        assert_eq!(GroupState::find(&head), Some(state(4)));
        assert_eq!(GroupState::find(&[]), None);
    }

    proptest! {
        #[test]
        fn arbitrary_states_do_not_panic(
            mut bytes in prop::collection::vec(any::<u8>(), LEN_BYTES),
        ) {
            prop_assert_eq!(GroupState::parse(&bytes), None);
            bytes[..6].copy_from_slice(b"TWgr\x01\0");
            let crc = checksum(&bytes, CRC_AT).to_le_bytes();
            bytes[CRC_AT..RAW_LEN].copy_from_slice(&crc);
            let _ = GroupState::parse(&bytes);
        }
    }
}
