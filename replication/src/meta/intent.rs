//! Intent ring: which regions may differ between the boxes if this one dies now (law D2).
//!
//! Each record lists every hot region, so the newest one alone is the state. Record `n` lives in
//! slot `n % 16`. Sixteen consecutive numbers must be there: a slot that fails its check may have
//! been the newest record, so it makes every region hot (law H35).

use super::checksum;
use std::collections::BTreeSet;
use zerocopy::byteorder::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where the ring is.
pub const OFFSET: u64 = 192 << 10;
/// Records in the ring.
pub const SLOTS: u64 = 16;
/// Bytes of a record.
pub const RECORD_BYTES: usize = 4096;
/// Regions that one record can list.
pub const REGIONS_MAX: usize = (RECORD_BYTES - RAW_LEN) / 4;

const MAGIC: u32 = u32::from_le_bytes(*b"TWin");
const VERSION: u16 = 1;

/// What a ring says after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The number of the next record.
    pub next_seq: u64,
    /// The hot regions.
    pub hot: Hot,
}

/// Hot regions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hot {
    /// These.
    Regions(BTreeSet<u32>),
    /// Every one, because a record cannot be trusted.
    All,
}

/// Where record `seq` is in the backing.
#[must_use]
pub const fn offset_of(seq: u64) -> u64 {
    OFFSET + seq % SLOTS * RECORD_BYTES as u64
}

/// The bytes of record `seq`.
#[must_use]
pub fn encode(uuid: u128, seq: u64, regions: &BTreeSet<u32>) -> Vec<u8> {
    assert!(
        regions.len() <= REGIONS_MAX,
        "{} regions do not fit a record",
        regions.len()
    );
    let mut raw = Raw {
        magic: U32::new(MAGIC),
        version: U16::new(VERSION),
        count: U16::new(u16::try_from(regions.len()).expect("bounded by REGIONS_MAX")),
        seq: U64::new(seq),
        uuid: U128::new(uuid),
        reserved: [0; 28],
        crc: U32::new(0),
    };
    let mut bytes = vec![0; RECORD_BYTES];
    bytes[..RAW_LEN].copy_from_slice(raw.as_bytes());
    for (field, region) in bytes[RAW_LEN..].chunks_exact_mut(4).zip(regions) {
        field.copy_from_slice(&region.to_le_bytes());
    }
    raw.crc = U32::new(checksum(&bytes, CRC_AT));
    bytes[..RAW_LEN].copy_from_slice(raw.as_bytes());
    bytes
}

/// A whole ring whose records `first_seq ..` all list `regions`; `first_seq` is a multiple of
/// [`SLOTS`].
#[must_use]
pub fn encode_ring(uuid: u128, first_seq: u64, regions: &BTreeSet<u32>) -> Vec<u8> {
    assert!(
        first_seq.is_multiple_of(SLOTS),
        "a ring begins with its first slot"
    );
    (first_seq..first_seq + SLOTS)
        .flat_map(|seq| encode(uuid, seq, regions))
        .collect()
}

/// Reads a ring.
#[must_use]
pub fn recover(uuid: u128, ring: &[u8]) -> Recovered {
    let mut records = Vec::new();
    let mut sound = true;
    for (slot, bytes) in (0..SLOTS).zip(ring.chunks(RECORD_BYTES)) {
        match parse(uuid, bytes) {
            Some((seq, regions)) if seq % SLOTS == slot => records.push((seq, regions)),
            _ => sound = false,
        }
    }
    let newest = records.iter().max_by_key(|(seq, _)| *seq);
    let Some((seq, regions)) = newest else {
        return Recovered {
            next_seq: 0,
            hot: Hot::All,
        };
    };
    let oldest = records.iter().map(|(seq, _)| *seq).min();
    sound &= records.len() as u64 == SLOTS && oldest.is_some_and(|o| seq - o == SLOTS - 1);
    let hot = if sound {
        Hot::Regions(regions.clone())
    } else {
        Hot::All
    };
    Recovered {
        next_seq: seq.saturating_add(1),
        hot,
    }
}

fn parse(uuid: u128, bytes: &[u8]) -> Option<(u64, BTreeSet<u32>)> {
    if bytes.len() != RECORD_BYTES {
        return None;
    }
    let (raw, list) = Raw::ref_from_prefix(bytes).ok()?;
    let count = usize::from(raw.count.get());
    let sound = raw.magic.get() == MAGIC
        && raw.version.get() == VERSION
        && raw.uuid.get() == uuid
        && raw.crc.get() == checksum(bytes, CRC_AT)
        && count <= REGIONS_MAX;
    if !sound {
        return None;
    }
    let regions = list.chunks_exact(4).take(count);
    let regions = regions.map(|field| u32::from_le_bytes(field.try_into().expect("four bytes")));
    Some((raw.seq.get(), regions.collect()))
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    magic: U32,
    version: U16,
    count: U16,
    seq: U64,
    uuid: U128,
    reserved: [u8; 28],
    crc: U32,
}

const RAW_LEN: usize = 64;
const CRC_AT: usize = 60;
const _: () = assert!(size_of::<Raw>() == RAW_LEN);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UUID: u128 = 5;

    fn ring_after(records: u64) -> Vec<u8> {
        let mut ring = encode_ring(UUID, 0, &BTreeSet::new());
        for seq in SLOTS..SLOTS + records {
            let at = usize::try_from(seq % SLOTS).unwrap() * RECORD_BYTES;
            let regions = BTreeSet::from([u32::try_from(seq).unwrap(), 7]);
            ring[at..at + RECORD_BYTES].copy_from_slice(&encode(UUID, seq, &regions));
        }
        ring
    }

    #[test]
    fn a_record_has_these_bytes() {
        let bytes = encode(UUID, 0x21, &BTreeSet::from([3, 0x0104]));
        assert_eq!(&bytes[..16], b"TWin\x01\x00\x02\x00\x21\0\0\0\0\0\0\0");
        assert_eq!((bytes[16], bytes[64], bytes[68], bytes[69]), (5, 3, 4, 1));
    }

    #[test]
    fn a_fresh_ring_is_cold() {
        let recovered = recover(UUID, &ring_after(0));
        let cold = Recovered {
            next_seq: SLOTS,
            hot: Hot::Regions(BTreeSet::new()),
        };
        assert_eq!(recovered, cold);
    }

    #[test]
    fn the_newest_record_is_the_state() {
        for records in 1..40 {
            let newest = SLOTS + records - 1;
            let recovered = recover(UUID, &ring_after(records));
            assert_eq!(recovered.next_seq, newest + 1);
            let regions = BTreeSet::from([7, u32::try_from(newest).unwrap()]);
            assert_eq!(recovered.hot, Hot::Regions(regions));
        }
    }

    #[test]
    fn h35_a_torn_record_makes_every_region_hot() {
        for slot in 0..usize::try_from(SLOTS).unwrap() {
            let mut ring = ring_after(5);
            // the first sector of a newer record over the rest of the old one
            let newer = encode(UUID, 99, &BTreeSet::from([1]));
            ring[slot * RECORD_BYTES..][..512].copy_from_slice(&newer[..512]);
            assert_eq!(recover(UUID, &ring).hot, Hot::All, "slot {slot}");
        }
    }

    #[test]
    fn a_record_of_another_volume_or_a_missing_one_makes_every_region_hot() {
        assert_eq!(recover(UUID + 1, &ring_after(1)).hot, Hot::All);
        let mut ring = ring_after(3);
        let skipped = encode(UUID, 2 * SLOTS + 5, &BTreeSet::new());
        ring[5 * RECORD_BYTES..6 * RECORD_BYTES].copy_from_slice(&skipped);
        assert_eq!(recover(UUID, &ring).hot, Hot::All);
        assert_eq!(recover(UUID, &[]).hot, Hot::All);
    }

    #[test]
    fn a_full_record_survives() {
        let regions: BTreeSet<u32> = (0..u32::try_from(REGIONS_MAX).unwrap()).collect();
        assert_eq!(parse(UUID, &encode(UUID, 1, &regions)), Some((1, regions)));
    }

    proptest! {
        #[test]
        fn arbitrary_rings_are_hot(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
            prop_assert_eq!(recover(UUID, &bytes).hot, Hot::All);
        }
    }
}
