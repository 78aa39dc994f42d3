//! Superblock: which volume of which copy this backing is. Four copies in two places, the head
//! and the end of the backing.
//!
//! Written last when a volume is formatted: a valid superblock means that everything else was
//! valid once. The copy with the highest sequence number is the newest. The size may be larger
//! than the volume's while it grows: the group's table decides.
//!
//! A version that does not know a *compat* feature ignores it, one that does not know a *ro*
//! feature may look but not write, one that does not know an *incompat* feature must not even
//! look.

use super::{TAIL_BYTES, UNIT_BYTES, checksum};
use crate::types::{DiskInstance, GroupId, NodeId, VolumeNumber, VolumeSpec};
use zerocopy::byteorder::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where the copies at the head are.
pub const HEAD_OFFSETS: [u64; 2] = [0, UNIT_BYTES];
/// Bytes of a superblock.
pub const LEN_BYTES: usize = 4096;
/// Version of everything on disk.
pub const VERSION: u16 = 1;
/// Features that this version knows.
pub const KNOWN: Features = Features {
    compat: 0,
    ro: 0,
    incompat: 0,
};

const MAGIC: u64 = u64::from_le_bytes(*b"twinsan\0");

/// Where the copies at the end of a backing of that size are.
#[must_use]
pub const fn tail_offset(backing_bytes: u64) -> u64 {
    backing_bytes.saturating_sub(TAIL_BYTES) / UNIT_BYTES * UNIT_BYTES
}

/// Where the four copies of a backing of that size are.
#[must_use]
pub const fn offsets(backing_bytes: u64) -> [u64; 4] {
    let tail = tail_offset(backing_bytes);
    [HEAD_OFFSETS[0], HEAD_OFFSETS[1], tail, tail + UNIT_BYTES]
}

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
    /// Where the data area begins.
    pub data_offset: u64,
    /// Rises with every write of the superblocks.
    pub sequence: u64,
}

/// What a copy uses that an older version may not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// May be ignored.
    pub compat: u32,
    /// Forbid writing to who does not know them.
    pub ro: u32,
    /// Forbid reading too.
    pub incompat: u32,
}

/// One copy of a superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// All zeroes.
    Blank,
    /// Not a superblock, or a damaged one.
    Damaged,
    /// One that this version may use.
    Sound(Superblock),
    /// One of a newer version.
    Newer(Newer),
}

/// Why a sound superblock is not for this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Newer {
    /// The format.
    #[error(
        "it has format version {0} and this program knows version {VERSION}; nothing was changed; \
         use the version of twinsan that wrote it, or a newer one"
    )]
    Version(u16),
    /// Must not be looked at.
    #[error(
        "it uses features that this program does not know (incompat {0:#x}); nothing was changed; \
         use the version of twinsan that wrote it, or a newer one"
    )]
    Incompat(u32),
    /// Must not be written to.
    #[error(
        "it uses features that this program may not write to (ro {0:#x}); nothing was changed; use \
         the version of twinsan that wrote it, or a newer one"
    )]
    Ro(u32),
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
            data_offset: U64::new(self.data_offset),
            sequence: U64::new(self.sequence),
            compat: U32::new(KNOWN.compat),
            ro: U32::new(KNOWN.ro),
            incompat: U32::new(KNOWN.incompat),
            crc: U32::new(0),
        };
        let mut bytes = vec![0; LEN_BYTES];
        bytes[..RAW_LEN].copy_from_slice(raw.as_bytes());
        raw.crc = U32::new(checksum(&bytes, CRC_AT));
        bytes[..RAW_LEN].copy_from_slice(raw.as_bytes());
        bytes
    }

    /// Reads one copy.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Parsed {
        let Ok((raw, _)) = Raw::ref_from_prefix(bytes) else {
            return Parsed::Damaged;
        };
        if bytes.iter().all(|byte| *byte == 0) {
            return Parsed::Blank;
        }
        let whole = bytes.len() == LEN_BYTES && raw.crc.get() == checksum(bytes, CRC_AT);
        if raw.magic.get() != MAGIC || !whole {
            return Parsed::Damaged;
        }
        let incompat = raw.incompat.get() & !KNOWN.incompat;
        let ro = raw.ro.get() & !KNOWN.ro;
        if raw.version.get() != VERSION {
            return Parsed::Newer(Newer::Version(raw.version.get()));
        }
        if incompat != 0 {
            return Parsed::Newer(Newer::Incompat(incompat));
        }
        if ro != 0 {
            return Parsed::Newer(Newer::Ro(ro));
        }
        let (size_bytes, data_offset) = (raw.size_bytes.get(), raw.data_offset.get());
        let placed =
            super::is_size(size_bytes) && super::layout_at(size_bytes, data_offset).is_some();
        if !placed {
            return Parsed::Damaged;
        }
        Parsed::Sound(Self {
            group: GroupId(raw.group.get()),
            spec: VolumeSpec {
                number: VolumeNumber(raw.number.get()),
                uuid: raw.uuid.get(),
                size_bytes,
            },
            disk: DiskInstance(raw.disk.get()),
            node: NodeId(raw.node),
            data_offset,
            sequence: raw.sequence.get(),
        })
    }
}

/// What several copies say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Never formatted, or not to the end.
    Blank,
    /// A volume.
    Valid(Superblock),
    /// A volume of a newer version.
    Newer(Newer),
    /// Something else was written here, or all copies are damaged.
    Damaged,
}

/// What the copies in `head`, the first bytes of a backing, say.
#[must_use]
pub fn find(head: &[u8]) -> Found {
    let first = usize::try_from(HEAD_OFFSETS[0]).expect("a constant below one mebibyte");
    let copies = head.get(first..first + HEAD_OFFSETS.len() * LEN_BYTES);
    copies.map_or(Found::Damaged, find_in)
}

/// What `copies`, one after the other, say.
#[must_use]
pub fn find_in(copies: &[u8]) -> Found {
    let parsed: Vec<Parsed> = copies.chunks(LEN_BYTES).map(Superblock::parse).collect();
    let newer = parsed.iter().find_map(|copy| match copy {
        Parsed::Newer(newer) => Some(Found::Newer(*newer)),
        Parsed::Blank | Parsed::Damaged | Parsed::Sound(_) => None,
    });
    let sound = parsed.iter().filter_map(|copy| match copy {
        Parsed::Sound(found) => Some(*found),
        Parsed::Blank | Parsed::Damaged | Parsed::Newer(_) => None,
    });
    let newest = sound.max_by_key(|found| found.sequence).map(Found::Valid);
    let blank = parsed.iter().all(|copy| *copy == Parsed::Blank);
    let nothing = if blank { Found::Blank } else { Found::Damaged };
    newer.or(newest).unwrap_or(nothing)
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
    data_offset: U64,
    sequence: U64,
    compat: U32,
    ro: U32,
    incompat: U32,
    crc: U32,
}

const RAW_LEN: usize = 104;
const CRC_AT: usize = 100;
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
            data_offset: 1 << 20,
            sequence: 7,
        }
    }

    /// With another byte, and the checksum right again.
    fn forged(at: usize, byte: u8) -> Vec<u8> {
        let mut bytes = superblock().encode();
        bytes[at] = byte;
        let crc = checksum(&bytes, CRC_AT).to_le_bytes();
        bytes[CRC_AT..RAW_LEN].copy_from_slice(&crc);
        bytes
    }

    #[test]
    fn a_superblock_has_these_bytes() {
        let bytes = superblock().encode();
        assert_eq!(&bytes[..16], b"twinsan\0\x01\0\x02\0\x03\0\0\0");
        assert_eq!((bytes[16], bytes[32], bytes[48], bytes[66]), (1, 4, 6, 1));
        assert_eq!((bytes[74], bytes[80]), (0x10, 7));
        assert_eq!(Superblock::parse(&bytes), Parsed::Sound(superblock()));
    }

    #[test]
    fn any_one_copy_is_enough_and_none_is_damage() {
        assert_eq!(find(&[0; 8192]), Found::Blank);
        assert_eq!(find(&[0; 4096]), Found::Damaged);
        for keep in [0, 1] {
            let mut head = superblock().encode().repeat(2);
            head[(1 - keep) * LEN_BYTES + 70] ^= 1;
            assert_eq!(find(&head), Found::Valid(superblock()));
            head[keep * LEN_BYTES + 4000] ^= 1;
            assert_eq!(find(&head), Found::Damaged);
        }
    }

    #[test]
    fn the_newest_of_several_copies_counts() {
        let mut grown = superblock();
        grown.sequence += 1;
        grown.spec.size_bytes *= 2;
        let copies = [superblock().encode(), grown.encode()].concat();
        assert_eq!(find_in(&copies), Found::Valid(grown));
    }

    #[test]
    fn what_only_a_newer_version_knows_is_refused_with_a_sentence() {
        let cases = [
            (8, 2, Newer::Version(2), "format version 2"),
            (92, 4, Newer::Ro(4), "ro 0x4"),
            (96, 0x10, Newer::Incompat(0x10), "incompat 0x10"),
        ];
        for (at, byte, newer, words) in cases {
            let copies = [superblock().encode(), forged(at, byte)].concat();
            assert_eq!(
                find_in(&copies),
                Found::Newer(newer),
                "even beside one of ours"
            );
            let text = newer.to_string();
            assert!(
                text.contains(words) && text.contains("nothing was changed"),
                "{text}"
            );
        }
        assert_eq!(
            Superblock::parse(&forged(88, 1)),
            Parsed::Sound(superblock())
        );
        assert_eq!(
            Superblock::parse(&forged(73, 1)),
            Parsed::Damaged,
            "no place for data"
        );
    }

    #[test]
    fn the_copies_of_a_backing_lie_at_both_ends() {
        assert_eq!(
            offsets((1 << 20) + 100),
            [0, 4096, (1 << 20) - 8192, (1 << 20) - 4096]
        );
        assert_eq!(tail_offset(4096), 0);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..8200)) {
            prop_assert_ne!(find(&bytes), Found::Valid(superblock()));
            let _ = Superblock::parse(&bytes);
        }
    }
}
