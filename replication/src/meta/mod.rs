//! What this box keeps about its copy, in front of each volume's data area.
//!
//! ```text
//!   0         superblock A, B                          4 KiB each
//!  64 KiB     group state A, B (system volume only)   64 KiB each
//! 192 KiB     intent ring                             64 records of 4 KiB
//! 448 KiB     index of the dirty map A, B             12 KiB each
//! 576 KiB     dirty map: for each page slot A, B       4 KiB each, room to grow
//! data_offset, a multiple of 1 MiB: the data area
//! the last 8 KiB of the backing: superblock C, D       4 KiB each
//! ```
//!
//! Everything is little-endian, versioned, and carries a CRC32C. A superblock or group state is
//! written to the other slot first; a record or page that fails its check counts as all ones
//! (laws D2, H35).
//!
//! On disk the map takes 4.1 MiB for each TiB, of which only the pages in use are ever written. In
//! memory it takes at most 2.1 MiB for each TiB: 4 KiB for each 2 GiB in which some blocks are
//! dirty and some are not, less than 100 bytes for each 2 GiB all of whose blocks are dirty or
//! that have a page in use, and nothing for what is clean. Attaching reads 576 KiB and the pages
//! in use, 4 MiB at a time.

pub mod dirty;
pub mod group;
pub mod index;
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

/// How many times its first size the map of a volume has room for.
pub const GROWTH: u64 = 16;
/// The superblocks at the end of the backing.
pub const TAIL_BYTES: u64 = 2 * UNIT_BYTES;

/// Where things are in a backing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Where the data area begins.
    pub data_offset: u64,
    /// Bytes that the backing must have, the superblocks at its end included.
    pub backing_bytes: u64,
    /// Bits of the dirty map.
    pub blocks: u32,
    /// Pages of the dirty map.
    pub pages: u32,
}

/// The layout of a new volume whose data area has `size_bytes`, at most [`VOLUME_MAX_BYTES`]. Its
/// map has room for [`GROWTH`] times that.
#[must_use]
pub fn layout(size_bytes: u64) -> Layout {
    assert!(
        size_bytes <= VOLUME_MAX_BYTES,
        "a volume of {size_bytes} bytes is too large"
    );
    let largest = size_bytes.saturating_mul(GROWTH).min(VOLUME_MAX_BYTES);
    let metadata = HEAD_BYTES + pages_of(largest) * 2 * UNIT_BYTES;
    layout_at(size_bytes, metadata.next_multiple_of(ALIGN_BYTES))
        .expect("the map was just given its room")
}

/// The layout of a volume whose data area begins at `data_offset`; none if the map of that size
/// does not fit before it.
#[must_use]
pub fn layout_at(size_bytes: u64, data_offset: u64) -> Option<Layout> {
    let pages = pages_of(size_bytes);
    let fits = size_bytes <= VOLUME_MAX_BYTES
        && data_offset.is_multiple_of(ALIGN_BYTES)
        && HEAD_BYTES + pages * 2 * UNIT_BYTES <= data_offset;
    let backing_bytes = data_offset
        .checked_add(size_bytes)?
        .checked_add(TAIL_BYTES)?;
    fits.then(|| Layout {
        data_offset,
        backing_bytes,
        blocks: u32::try_from(size_bytes.div_ceil(DIRTY_BLOCK_BYTES))
            .expect("bounded by VOLUME_MAX_BYTES"),
        pages: u32::try_from(pages).expect("bounded by VOLUME_MAX_BYTES"),
    })
}

/// The largest size that a volume with its data area at `data_offset` can have.
#[must_use]
pub const fn size_max_bytes(data_offset: u64) -> u64 {
    let pages = data_offset.saturating_sub(HEAD_BYTES) / (2 * UNIT_BYTES);
    let bytes = pages.saturating_mul(dirty::PAGE_BITS * DIRTY_BLOCK_BYTES);
    if bytes < VOLUME_MAX_BYTES {
        bytes
    } else {
        VOLUME_MAX_BYTES
    }
}

const fn pages_of(size_bytes: u64) -> u64 {
    size_bytes
        .div_ceil(DIRTY_BLOCK_BYTES)
        .div_ceil(dirty::PAGE_BITS)
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
        assert_eq!(layout.backing_bytes, (17 << 20) + 8192);
        assert_eq!((layout.blocks, layout.pages), (256, 1));
    }

    #[test]
    fn the_map_of_a_large_volume_fits_before_its_data() {
        for size_bytes in [4096, 1 << 30, 1 << 40, 10 << 40, VOLUME_MAX_BYTES] {
            let layout = layout(size_bytes);
            let map_end = HEAD_BYTES + u64::from(layout.pages) * 2 * UNIT_BYTES;
            assert!(map_end <= layout.data_offset);
            assert!(layout.data_offset <= ALIGN_BYTES + size_bytes / 8000);
            assert!(u64::from(layout.blocks) * DIRTY_BLOCK_BYTES >= size_bytes);
            assert!(u64::from(layout.pages) * dirty::PAGE_BITS >= u64::from(layout.blocks));
        }
    }

    #[test]
    fn a_volume_can_grow_sixteen_times_and_not_beyond_its_map() {
        for size_bytes in [4096, 1 << 30, 1 << 40, 10 << 40, VOLUME_MAX_BYTES] {
            let data_offset = layout(size_bytes).data_offset;
            let most = size_max_bytes(data_offset);
            assert!(most >= (size_bytes * GROWTH).min(VOLUME_MAX_BYTES));
            assert!(layout_at(most, data_offset).is_some());
            assert_eq!(layout_at(most + UNIT_BYTES, data_offset), None);
        }
        assert_eq!(layout_at(4096, 0), None);
        assert_eq!(layout_at(4096, ALIGN_BYTES + 4096), None);
    }
}
