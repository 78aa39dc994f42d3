//! Blocks that say who they are: the demo's and the tests' evidence.
//!
//! Each 4 KiB block carries its number, a version and a checksum, and is filled from both, so a
//! lost, old, misplaced or torn write shows at the first look.

use bytes::{BufMut as _, Bytes, BytesMut};

/// Size of a block.
pub const BLOCK_BYTES: usize = 4096;
const MAGIC: [u8; 8] = *b"twsblock";
const HEADER_BYTES: usize = 40;

/// What a written block claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The run that wrote it.
    pub seed: u64,
    /// Where it belongs.
    pub block: u64,
    /// How often it had been written, counted from 1.
    pub version: u64,
}

impl Stamp {
    /// The whole block.
    #[must_use]
    pub fn block(self) -> Bytes {
        let mut block = BytesMut::with_capacity(BLOCK_BYTES);
        block.put_slice(&MAGIC);
        block.put_u64_le(self.seed);
        block.put_u64_le(self.block);
        block.put_u64_le(self.version);
        block.put_u64_le(0); // the checksum's place
        let mut fill = self.seed ^ self.block.rotate_left(17) ^ self.version.rotate_left(43);
        while block.len() < BLOCK_BYTES {
            fill = fill.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            block.put_u64_le(fill);
        }
        let sum = crc32c::crc32c(&block);
        block[32..36].copy_from_slice(&sum.to_le_bytes());
        block.freeze()
    }

    /// What a block that was read claims to be; none if it is not whole or was never written.
    #[must_use]
    pub fn of(block: &[u8]) -> Option<Self> {
        if block.len() != BLOCK_BYTES || block[..8] != MAGIC {
            return None;
        }
        let word = |at: usize| {
            u64::from_le_bytes(
                block[at..at + 8]
                    .try_into()
                    .expect("eight bytes of a block"),
            )
        };
        let mut zeroed = block.to_vec();
        zeroed[32..HEADER_BYTES].fill(0);
        (u64::from(crc32c::crc32c(&zeroed)) == word(32)).then(|| Self {
            seed: word(8),
            block: word(16),
            version: word(24),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_tells_its_stamp_and_one_flipped_bit_does_not() {
        let stamp = Stamp {
            seed: 7,
            block: 11,
            version: 3,
        };
        let block = stamp.block();
        assert_eq!(block.len(), BLOCK_BYTES);
        assert_eq!(Stamp::of(&block), Some(stamp));
        for at in [0, 9, 33, 40, BLOCK_BYTES - 1] {
            let mut flipped = block.to_vec();
            flipped[at] ^= 1;
            assert_eq!(Stamp::of(&flipped), None, "byte {at}");
        }
        assert_eq!(Stamp::of(&[0; BLOCK_BYTES]), None);
    }
}
