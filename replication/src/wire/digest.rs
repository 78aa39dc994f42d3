//! Strong hashes of consecutive blocks of the dirty map, to be compared before anything is copied
//! (laws D1, H33).

use super::WireError;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// Blocks in one frame at most; the answer has a bit for each.
pub const BLOCKS_MAX: usize = 64;
/// Bytes of a hash: all of SHA-256.
pub const LEN_BYTES: usize = 32;

/// The hash of one block.
pub type Digest = [u8; LEN_BYTES];

/// The hash of a block's bytes.
#[must_use]
pub fn of(block: &[u8]) -> Digest {
    Sha256::digest(block).into()
}

/// The bytes on the wire of at most [`BLOCKS_MAX`] hashes.
#[must_use]
pub fn encode(digests: &[Digest]) -> Bytes {
    let count = digests.len();
    assert!(count <= BLOCKS_MAX, "{count} hashes do not fit a frame");
    Bytes::from(digests.concat())
}

/// Reads hashes.
///
/// # Errors
/// Another length, none, or too many.
pub fn parse(bytes: &[u8]) -> Result<Vec<Digest>, WireError> {
    let (digests, rest) = bytes.as_chunks::<LEN_BYTES>();
    if !rest.is_empty() || digests.is_empty() || digests.len() > BLOCKS_MAX {
        return Err(WireError::Field("payload_len"));
    }
    Ok(digests.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hash_is_sha_256() {
        assert_eq!(of(b"abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
        assert_eq!(of(b"abc")[28..], [0xf2, 0x00, 0x15, 0xad]);
        assert_eq!(parse(&encode(&[of(b"abc")])), Ok(vec![of(b"abc")]));
    }

    #[test]
    fn none_and_too_many_are_refused() {
        assert_eq!(parse(&[]), Err(WireError::Field("payload_len")));
        let many = [0; LEN_BYTES * (BLOCKS_MAX + 1)];
        assert_eq!(parse(&many), Err(WireError::Field("payload_len")));
    }

    proptest! {
        #[test]
        fn arbitrary_hashes_do_not_panic(bytes: Vec<u8>) {
            if let Ok(digests) = parse(&bytes) {
                prop_assert_eq!(encode(&digests), bytes);
            }
        }
    }
}
