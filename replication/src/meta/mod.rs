//! What this box keeps about its copy, in front of each volume's data area.
//!
//! ```text
//!   0         superblock A, B                          4 KiB each
//!  64 KiB     group state A, B (system volume only)   64 KiB each
//! 192 KiB     intent ring                             16 records of 4 KiB
//! 512 KiB     superblock C, D
//! 576 KiB     dirty map: for each page slot A, B       4 KiB each
//! data_offset, a multiple of 1 MiB: the data area
//! ```
//!
//! Everything is little-endian, versioned, and carries a CRC32C. A superblock or group state is
//! written to the other slot first; a record or page that fails its check counts as all ones
//! (laws D2, H35).

pub mod dirty;
pub mod group;
pub mod intent;
pub mod superblock;

/// Unit of everything on disk.
pub const UNIT_BYTES: u64 = 4096;
/// What commands are multiples of.
pub const SECTOR_BYTES: u64 = 512;
/// Bytes that one bit of the dirty map stands for.
pub const DIRTY_BLOCK_BYTES: u64 = 64 << 10;
/// Bytes that one intent stands for.
pub const REGION_BYTES: u64 = 1 << 20;
/// Alignment of the data area.
pub const ALIGN_BYTES: u64 = 1 << 20;
/// The part of the metadata that has the same place whatever the size of the volume.
pub const HEAD_BYTES: u64 = 576 << 10;
/// Size of the system volume's data area (law D10).
pub const SYSTEM_BYTES: u64 = 16 << 20;
/// Largest data area: what the block numbers of masks and maps can name.
pub const VOLUME_MAX_BYTES: u64 = 1 << 47;

/// Where things are in a backing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Where the data area begins.
    pub data_offset: u64,
    /// Bytes of the whole backing.
    pub backing_bytes: u64,
    /// Bits of the dirty map.
    pub blocks: u32,
    /// Pages of the dirty map.
    pub pages: u32,
}

/// The layout of a volume whose data area has `size_bytes`, at most [`VOLUME_MAX_BYTES`].
#[must_use]
pub fn layout(size_bytes: u64) -> Layout {
    assert!(
        size_bytes <= VOLUME_MAX_BYTES,
        "a volume of {size_bytes} bytes is too large"
    );
    let blocks = size_bytes.div_ceil(DIRTY_BLOCK_BYTES);
    let pages = blocks.div_ceil(dirty::PAGE_BITS);
    let metadata = HEAD_BYTES + pages * 2 * UNIT_BYTES;
    let data_offset = metadata.next_multiple_of(ALIGN_BYTES);
    Layout {
        data_offset,
        backing_bytes: data_offset + size_bytes,
        blocks: u32::try_from(blocks).expect("bounded by VOLUME_MAX_BYTES"),
        pages: u32::try_from(pages).expect("bounded by VOLUME_MAX_BYTES"),
    }
}

/// Whether a volume can have this size: whole units, at least one, at most the largest.
#[must_use]
pub const fn is_size(size_bytes: u64) -> bool {
    size_bytes >= UNIT_BYTES
        && size_bytes <= VOLUME_MAX_BYTES
        && size_bytes.is_multiple_of(UNIT_BYTES)
}

/// The checksum of a record whose checksum field at `at` counts as zero.
fn checksum(bytes: &[u8], at: usize) -> u32 {
    let crc = crc32c::crc32c(&bytes[..at]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &bytes[at + 4..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_volume_has_one_mebibyte_of_metadata() {
        let layout = layout(SYSTEM_BYTES);
        assert_eq!(layout.data_offset, 1 << 20);
        assert_eq!(layout.backing_bytes, 17 << 20);
        assert_eq!((layout.blocks, layout.pages), (256, 1));
    }

    #[test]
    fn the_map_of_a_large_volume_fits_before_its_data() {
        for size_bytes in [4096, 1 << 30, 1 << 40, 10 << 40, VOLUME_MAX_BYTES] {
            let layout = layout(size_bytes);
            let map_end = HEAD_BYTES + u64::from(layout.pages) * 2 * UNIT_BYTES;
            assert!(map_end <= layout.data_offset);
            assert!(layout.data_offset < map_end + ALIGN_BYTES);
            assert!(u64::from(layout.blocks) * DIRTY_BLOCK_BYTES >= size_bytes);
            assert!(u64::from(layout.pages) * dirty::PAGE_BITS >= u64::from(layout.blocks));
        }
    }
}
