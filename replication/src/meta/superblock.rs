//! Superblock: which volume of which copy this backing is. Four copies in two places.
//!
//! Written last when a volume is formatted: a valid superblock means that everything else was
//! valid once.

use super::checksum;
use crate::types::{DiskInstance, GroupId, NodeId, VolumeNumber, VolumeSpec};
use zerocopy::byteorder::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where the copies are.
pub const OFFSETS: [u64; 4] = [0, 4096, 512 << 10, (512 << 10) + 4096];
/// Bytes of a superblock.
pub const LEN_BYTES: usize = 4096;

const MAGIC: u64 = u64::from_le_bytes(*b"twinsan\0");
const VERSION: u16 = 1;

/// A superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The group.
    pub group: GroupId,
    /// The volume.
    pub spec: VolumeSpec,
    /// The copy.
    pub disk: DiskInstance,
    /// The box it belongs to.
    pub node: NodeId,
}

impl Superblock {
    /// The bytes on disk.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut raw = Raw {
            magic: U64::new(MAGIC),
            version: U16::new(VERSION),
            node: self.node.0,
            reserved: 0,
            number: U32::new(self.spec.number.0),
            group: U128::new(self.group.0),
            uuid: U128::new(self.spec.uuid),
            disk: U128::new(self.disk.0),
            size_bytes: U64::new(self.spec.size_bytes),
            crc: U32::new(0),
        };
        let mut bytes = vec![0; LEN_BYTES];
        bytes[..RAW_LEN].copy_from_slice(raw.as_bytes());
        raw.crc = U32::new(checksum(&bytes, CRC_AT));
        bytes[..RAW_LEN].copy_from_slice(raw.as_bytes());
        bytes
    }

    /// Reads one copy; `None` if it is not valid.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != LEN_BYTES {
            return None;
        }
        let (raw, _) = Raw::ref_from_prefix(bytes).ok()?;
        let size_bytes = raw.size_bytes.get();
        let sound = raw.magic.get() == MAGIC
            && raw.version.get() == VERSION
            && raw.crc.get() == checksum(bytes, CRC_AT)
            && super::is_size(size_bytes);
        sound.then(|| Self {
            group: GroupId(raw.group.get()),
            spec: VolumeSpec {
                number: VolumeNumber(raw.number.get()),
                uuid: raw.uuid.get(),
                size_bytes,
            },
            disk: DiskInstance(raw.disk.get()),
            node: NodeId(raw.node),
        })
    }
}

/// What the head of a backing says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Never formatted, or not to the end.
    Blank,
    /// A volume.
    Valid(Superblock),
    /// Something else was written here, or all copies are damaged.
    Damaged,
}

/// Looks for a superblock in the first [`super::HEAD_BYTES`] of a backing.
#[must_use]
pub fn find(head: &[u8]) -> Found {
    let mut blank = true;
    for at in OFFSETS {
        let at = usize::try_from(at).expect("a constant below one mebibyte");
        let Some(bytes) = head.get(at..at + LEN_BYTES) else {
            return Found::Damaged;
        };
        if let Some(found) = Superblock::parse(bytes) {
            return Found::Valid(found);
        }
        blank &= bytes.iter().all(|byte| *byte == 0);
    }
    if blank { Found::Blank } else { Found::Damaged }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    magic: U64,
    version: U16,
    node: u8,
    reserved: u8,
    number: U32,
    group: U128,
    uuid: U128,
    disk: U128,
    size_bytes: U64,
    crc: U32,
}

const RAW_LEN: usize = 76;
const CRC_AT: usize = 72;
const _: () = assert!(size_of::<Raw>() == RAW_LEN);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn superblock() -> Superblock {
        let spec = VolumeSpec {
            number: VolumeNumber(3),
            uuid: 4,
            size_bytes: 0x10000,
        };
        Superblock {
            group: GroupId(1),
            spec,
            disk: DiskInstance(6),
            node: NodeId(2),
        }
    }

    fn head() -> Vec<u8> {
        vec![0; usize::try_from(super::super::HEAD_BYTES).unwrap()]
    }

    #[test]
    fn a_superblock_has_these_bytes() {
        let bytes = superblock().encode();
        assert_eq!(&bytes[..16], b"twinsan\0\x01\0\x02\0\x03\0\0\0");
        assert_eq!((bytes[16], bytes[32], bytes[48], bytes[66]), (1, 4, 6, 1));
        assert_eq!(
            bytes.iter().filter(|byte| **byte != 0).count(),
            7 + 3 + 4 + 4
        );
        assert_eq!(Superblock::parse(&bytes), Some(superblock()));
    }

    #[test]
    fn any_one_copy_is_enough_and_none_is_damage() {
        assert_eq!(find(&head()), Found::Blank);
        for keep in OFFSETS {
            let mut head = head();
            for at in OFFSETS {
                let at = usize::try_from(at).unwrap();
                head[at..at + 4096].copy_from_slice(&superblock().encode());
                head[at + 70] ^= u8::from(at as u64 != keep);
            }
            assert_eq!(find(&head), Found::Valid(superblock()));
            head[usize::try_from(keep).unwrap() + 4000] ^= 1;
            assert_eq!(find(&head), Found::Damaged);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 4096)) {
            prop_assert_eq!(Superblock::parse(&bytes), None);
            let _ = find(&bytes);
        }
    }
}
