//! Volume tables on the wire: what the group holds, and what was deleted (law D11).

use super::WireError;
use crate::meta;
use crate::types::{VolumeNumber, VolumeSpec};
use bytes::Bytes;
use zerocopy::byteorder::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Volumes of a group at most, without the system volume.
pub const VOLUMES_MAX: usize = 256;
/// Entries of a table at most: volumes, the system volume, and tombstones.
pub const ENTRIES_MAX: usize = 512;

/// One volume of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub spec: VolumeSpec,
    /// It was deleted, and the receiver may not know yet.
    pub deleted: bool,
}

/// The bytes on the wire.
#[must_use]
pub fn encode(entries: &[Entry]) -> Bytes {
    let mut bytes = Vec::with_capacity(entries.len() * size_of::<RawEntry>());
    for entry in entries {
        let raw = RawEntry {
            number: U32::new(entry.spec.number.0),
            deleted: u8::from(entry.deleted),
            reserved: [0; 3],
            size_bytes: U64::new(entry.spec.size_bytes),
            uuid: U128::new(entry.spec.uuid),
        };
        bytes.extend_from_slice(raw.as_bytes());
    }
    bytes.into()
}

/// Reads a table.
///
/// # Errors
/// Another length, too many entries, entries out of order, a size that no volume has.
pub fn parse(bytes: &[u8]) -> Result<Vec<Entry>, WireError> {
    let raw = <[RawEntry]>::ref_from_bytes(bytes).map_err(|_| WireError::Field("payload_len"))?;
    if raw.len() > ENTRIES_MAX || !raw.is_sorted_by(|a, b| a.number.get() < b.number.get()) {
        return Err(WireError::Field("volumes"));
    }
    let mut entries = Vec::with_capacity(raw.len());
    for entry in raw {
        if entry.deleted > 1 || entry.reserved != [0; 3] {
            return Err(WireError::Field("deleted"));
        }
        let size_bytes = entry.size_bytes.get();
        if !meta::is_size(size_bytes) {
            return Err(WireError::Field("size_bytes"));
        }
        let number = VolumeNumber(entry.number.get());
        let spec = VolumeSpec {
            number,
            uuid: entry.uuid.get(),
            size_bytes,
        };
        entries.push(Entry {
            spec,
            deleted: entry.deleted == 1,
        });
    }
    Ok(entries)
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    number: U32,
    deleted: u8,
    reserved: [u8; 3],
    size_bytes: U64,
    uuid: U128,
}

const _: () = assert!(size_of::<RawEntry>() == 32);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(number: u32, deleted: bool) -> Entry {
        let spec = VolumeSpec {
            number: VolumeNumber(number),
            uuid: 5,
            size_bytes: 0x1000,
        };
        Entry { spec, deleted }
    }

    #[test]
    fn a_table_has_these_bytes() {
        let table = [entry(0, false), entry(3, true)];
        let bytes = encode(&table);
        let mut expected = [0; 64];
        (expected[9], expected[16]) = (0x10, 5);
        (expected[32], expected[36], expected[41], expected[48]) = (3, 1, 0x10, 5);
        assert_eq!(bytes[..], expected[..]);
        assert_eq!(parse(&bytes), Ok(table.to_vec()));
    }

    #[test]
    fn disorder_and_odd_sizes_are_refused() {
        let twice = encode(&[entry(3, false), entry(3, false)]);
        assert_eq!(parse(&twice), Err(WireError::Field("volumes")));
        for size_bytes in [0, 512, u64::MAX, meta::VOLUME_MAX_BYTES + 4096] {
            let mut odd = entry(1, false);
            odd.spec.size_bytes = size_bytes;
            assert_eq!(parse(&encode(&[odd])), Err(WireError::Field("size_bytes")));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_tables_do_not_panic(bytes: Vec<u8>) {
            if let Ok(entries) = parse(&bytes) {
                prop_assert_eq!(encode(&entries), bytes);
            }
        }
    }
}
