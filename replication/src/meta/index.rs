//! Index of the dirty map: which of its pages are in use, so that the others are neither written
//! when a volume is made nor read when it is attached.
//!
//! A page is in use once both its slots are on disk and an index that lists it is. A page that is
//! not listed is clean, whatever lies in its place. The index has two slots that are written in
//! turn. A slot that fails its check may have been the newer one: then every page is looked at,
//! and one that is neither blank nor sound is dirty. Without either slot everything is (law H35).

use super::dirty::{PAGE_BITS, PAGE_BYTES};
use super::{DIRTY_BLOCK_BYTES, VOLUME_MAX_BYTES, checksum};
use std::collections::BTreeSet;
use zerocopy::byteorder::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where the slots are.
pub const OFFSET: u64 = 448 << 10;
/// Bytes of a slot.
pub const LEN_BYTES: usize = 3 * PAGE_BYTES;
/// Pages that an index can list.
pub const PAGES_MAX: u64 = (LEN_BYTES - RAW_LEN) as u64 * 8;
const _: () = assert!(PAGES_MAX * PAGE_BITS * DIRTY_BLOCK_BYTES >= VOLUME_MAX_BYTES);

const MAGIC: u32 = u32::from_le_bytes(*b"TWix");
const VERSION: u16 = 1;

/// What the index says after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The number of the newest slot.
    pub seq: u64,
    /// The pages in use.
    pub listed: Listed,
}

/// Pages in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// These.
    Exactly(BTreeSet<u32>),
    /// These, and perhaps others: the newer slot may be lost.
    AtLeast(BTreeSet<u32>),
    /// Nothing is known.
    Unknown,
}

/// Where slot `seq` is in the backing.
#[must_use]
pub const fn offset_of(seq: u64) -> u64 {
    OFFSET + seq % 2 * LEN_BYTES as u64
}

/// The bytes of slot `seq`.
#[must_use]
pub fn encode(uuid: u128, seq: u64, pages: impl Iterator<Item = u32>) -> Vec<u8> {
    let mut raw = Raw {
        magic: U32::new(MAGIC),
        version: U16::new(VERSION),
        reserved: U16::new(0),
        seq: U64::new(seq),
        uuid: U128::new(uuid),
        padding: [0; 28],
        crc: U32::new(0),
    };
    let mut bytes = vec![0; LEN_BYTES];
    bytes[..RAW_LEN].copy_from_slice(raw.as_bytes());
    for page in pages {
        bytes[RAW_LEN + page as usize / 8] |= 1 << (page % 8);
    }
    raw.crc = U32::new(checksum(&bytes, CRC_AT));
    bytes[..RAW_LEN].copy_from_slice(raw.as_bytes());
    bytes
}

/// Both slots of an index that lists `pages`, to be written at [`OFFSET`]; `seq` is even and is
/// that of the newer one.
#[must_use]
pub fn encode_both(uuid: u128, seq: u64, pages: &BTreeSet<u32>) -> Vec<u8> {
    assert!(seq.is_multiple_of(2) && seq > 0, "the first slot is even");
    let slots = [seq, seq - 1].map(|seq| encode(uuid, seq, pages.iter().copied()));
    slots.concat()
}

/// Reads both slots.
#[must_use]
pub fn recover(uuid: u128, slots: &[u8]) -> Recovered {
    let slot = |which: usize| {
        let bytes = slots.get(which * LEN_BYTES..(which + 1) * LEN_BYTES)?;
        parse(uuid, bytes).filter(|(seq, _)| seq % 2 == which as u64)
    };
    match (slot(0), slot(1)) {
        (Some(even), Some(odd)) => {
            let (seq, pages) = if even.0 > odd.0 { even } else { odd };
            let listed = Listed::Exactly(pages);
            Recovered { seq, listed }
        }
        (Some((seq, pages)), None) | (None, Some((seq, pages))) => Recovered {
            seq,
            listed: Listed::AtLeast(pages),
        },
        (None, None) => Recovered {
            seq: 0,
            listed: Listed::Unknown,
        },
    }
}

/// Reads one slot: its number and what it lists; `None` if it is not valid.
#[must_use]
pub fn parse(uuid: u128, bytes: &[u8]) -> Option<(u64, BTreeSet<u32>)> {
    if bytes.len() != LEN_BYTES {
        return None;
    }
    let (raw, bits) = Raw::ref_from_prefix(bytes).ok()?;
    let sound = raw.magic.get() == MAGIC
        && raw.version.get() == VERSION
        && raw.uuid.get() == uuid
        && raw.crc.get() == checksum(bytes, CRC_AT);
    let pages = (0..)
        .zip(bits.iter().copied())
        .filter(|(_, byte)| *byte != 0);
    let pages = pages.flat_map(|(at, byte): (u32, u8)| {
        let set = (0..8).filter(move |bit| byte >> bit & 1 == 1);
        set.map(move |bit| at * 8 + bit)
    });
    sound.then(|| (raw.seq.get(), pages.collect()))
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    magic: U32,
    version: U16,
    reserved: U16,
    seq: U64,
    uuid: U128,
    padding: [u8; 28],
    crc: U32,
}

const RAW_LEN: usize = 64;
const CRC_AT: usize = 60;
const _: () = assert!(size_of::<Raw>() == RAW_LEN);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UUID: u128 = 8;

    #[test]
    fn an_index_has_these_bytes() {
        let pages = BTreeSet::from([0, 9, 66_000]);
        let bytes = encode_both(UUID, 2, &pages);
        assert_eq!(&bytes[..17], b"TWix\x01\0\0\0\x02\0\0\0\0\0\0\0\x08");
        assert_eq!((bytes[64], bytes[65], bytes[64 + 8250]), (1, 2, 1));
        assert_eq!(bytes[LEN_BYTES + 8], 1);
        let listed = Listed::Exactly(pages);
        assert_eq!(recover(UUID, &bytes), Recovered { seq: 2, listed });
    }

    #[test]
    fn h35_a_slot_that_fails_its_check_may_have_been_the_newer_one() {
        for slot in 0..2 {
            let pages = BTreeSet::from([7]);
            let mut bytes = encode_both(UUID, 4, &pages);
            bytes[slot * LEN_BYTES + 5000] ^= 1;
            let seq = if slot == 0 { 3 } else { 4 };
            let listed = Listed::AtLeast(pages);
            assert_eq!(recover(UUID, &bytes), Recovered { seq, listed });
            bytes[(1 - slot) * LEN_BYTES] ^= 1;
            assert_eq!(recover(UUID, &bytes).listed, Listed::Unknown);
        }
        assert_eq!(recover(UUID, &[]).listed, Listed::Unknown);
    }

    proptest! {
        #[test]
        fn arbitrary_slots_say_nothing(bytes in prop::collection::vec(any::<u8>(), 2 * LEN_BYTES)) {
            prop_assert_eq!(recover(UUID, &bytes).listed, Listed::Unknown);
        }
    }
}
