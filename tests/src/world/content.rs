//! What simulated initiators write: every 512-byte sector names its version and its place, so that
//! any sector found anywhere tells which write put it there.

use bytes::{Bytes, BytesMut};

/// Bytes in a sector, the unit that a power cut tears at.
pub const SECTOR_LEN: usize = 512;
/// Bytes in a block, the unit of the engine's maps.
pub const BLOCK_LEN: usize = 4096;
/// Sectors in a block.
pub const SECTORS_PER_BLOCK: u64 = 8;

const MAGIC: u64 = 0x7477_696e_7361_6e31;
const FOREIGN: u64 = 1 << 63;
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// The value of one sector: 0 for zeros, a version for what an initiator wrote there, and a hash
/// with the top bit set for anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value(pub u64);

impl Value {
    /// What a sector of zeros reads as.
    pub const ZERO: Self = Self(0);

    /// True for bytes that no initiator wrote at this place.
    pub fn is_foreign(self) -> bool {
        self.0 & FOREIGN != 0
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => f.write_str("zeros"),
            foreign if foreign & FOREIGN != 0 => write!(f, "foreign {:x}", foreign & !FOREIGN),
            version => write!(f, "v{version}"),
        }
    }
}

/// `len_bytes` zeros without a copy where they fit the shared page.
pub fn zeros(len_bytes: usize) -> Bytes {
    if len_bytes <= ZEROS.len() {
        Bytes::from_static(&ZEROS[..len_bytes])
    } else {
        Bytes::from(vec![0; len_bytes])
    }
}

/// The bytes of `version` for `sectors` sectors from `sector` of `volume`.
pub fn encode(volume: u32, sector: u64, sectors: u64, version: u64) -> Bytes {
    let sectors_len = usize::try_from(sectors).expect("a command is small");
    let mut bytes = BytesMut::zeroed(sectors_len * SECTOR_LEN);
    for (place, chunk) in (sector..).zip(bytes.chunks_exact_mut(SECTOR_LEN)) {
        chunk[0..8].copy_from_slice(&MAGIC.to_le_bytes());
        chunk[8..16].copy_from_slice(&version.to_le_bytes());
        chunk[16..24].copy_from_slice(&place.to_le_bytes());
        chunk[24..28].copy_from_slice(&volume.to_le_bytes());
        chunk[SECTOR_LEN - 8..].copy_from_slice(&version.to_le_bytes());
    }
    bytes.freeze()
}

/// What the sector found at `sector` of `volume` holds.
pub fn decode(volume: u32, sector: u64, bytes: &[u8]) -> Value {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    if word(0) == MAGIC {
        let version = word(8);
        let volume_found = u32::from_le_bytes(bytes[24..28].try_into().expect("four bytes"));
        let whole = word(SECTOR_LEN - 8) == version;
        if whole && word(16) == sector && volume_found == volume {
            return Value(version);
        }
    } else if bytes == &ZEROS[..SECTOR_LEN] {
        return Value::ZERO;
    }
    Value(u64::from(crc32c::crc32c(bytes)) | FOREIGN)
}

/// The values of all sectors in `bytes`, which start at `sector` of `volume`.
pub fn values(volume: u32, sector: u64, bytes: &[u8]) -> Vec<Value> {
    (sector..)
        .zip(bytes.chunks_exact(SECTOR_LEN))
        .map(|(place, chunk)| decode(volume, place, chunk))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_tells_its_version_and_place() {
        let bytes = encode(1, 40, 2, 9);
        assert_eq!(values(1, 40, &bytes), [Value(9), Value(9)]);
        assert!(
            decode(1, 41, &bytes[..SECTOR_LEN]).is_foreign(),
            "a misplaced sector"
        );
        assert!(
            decode(2, 40, &bytes[..SECTOR_LEN]).is_foreign(),
            "another volume"
        );
        assert_eq!(decode(1, 40, &zeros(SECTOR_LEN)), Value::ZERO);
    }
}
