//! What the scrub asks the peer to compare: the hashes of the pieces of a range (law H33).

use super::WireError;
use super::digest::{self, Digest};
use bytes::Bytes;
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Largest range of one frame.
pub const RANGE_MAX_BYTES: u64 = 1 << 20;
/// The smallest piece, and what every length is a multiple of.
pub const PIECE_MIN_BYTES: u64 = 4096;

/// The body of a [`super::Kind::Verify`]; the header has its volume and offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verify {
    /// Bytes of the range. The volume may have another end at the other box by now.
    pub len_bytes: u64,
    /// Bytes of a piece; the last one may be shorter.
    pub piece_bytes: u64,
    /// The hash of each piece.
    pub digests: Vec<Digest>,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawVerify {
    len_bytes: U32,
    piece_bytes: U32,
}

const HEAD_LEN: usize = size_of::<RawVerify>();
const _: () = assert!(HEAD_LEN == 8);

impl Verify {
    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let small = |bytes| U32::new(u32::try_from(bytes).expect("a range is small"));
        let head = RawVerify {
            len_bytes: small(self.len_bytes),
            piece_bytes: small(self.piece_bytes),
        };
        Bytes::from([head.as_bytes(), &digest::encode(&self.digests)].concat())
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Lengths out of range, or another number of hashes than there are pieces.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let wrong = WireError::Field("payload_len");
        let (head, rest) = bytes.split_at_checked(HEAD_LEN).ok_or(wrong)?;
        let head = RawVerify::ref_from_bytes(head).expect("split at its size");
        let (len_bytes, piece_bytes) = (head.len_bytes.get(), head.piece_bytes.get());
        let (len_bytes, piece_bytes) = (u64::from(len_bytes), u64::from(piece_bytes));
        let whole = |bytes: u64| bytes > 0 && bytes.is_multiple_of(PIECE_MIN_BYTES);
        if !whole(len_bytes) || len_bytes > RANGE_MAX_BYTES || !whole(piece_bytes) {
            return Err(WireError::Field("length"));
        }
        let digests = digest::parse(rest)?;
        if digests.len() as u64 != len_bytes.div_ceil(piece_bytes) {
            return Err(wrong);
        }
        Ok(Self {
            len_bytes,
            piece_bytes,
            digests,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn verify(len_bytes: u64, piece_bytes: u64, count: usize) -> Verify {
        Verify {
            len_bytes,
            piece_bytes,
            digests: vec![digest::of(b"a piece"); count],
        }
    }

    #[test]
    fn what_is_asked_for_arrives() {
        for sound in [
            verify(RANGE_MAX_BYTES, 64 << 10, 16),
            verify((64 << 10) + 4096, 64 << 10, 2),
            verify(4096, 4096, 1),
        ] {
            assert_eq!(Verify::parse(&sound.encode()), Ok(sound));
        }
    }

    #[test]
    fn ranges_that_do_not_fit_are_refused() {
        for wrong in [
            verify(RANGE_MAX_BYTES + 4096, 64 << 10, 17),
            verify(4096, 512, 8),
            verify(0, 4096, 1),
            verify(8192, 4096, 1),
            verify(8192, 4096, 3),
        ] {
            assert!(Verify::parse(&wrong.encode()).is_err(), "{wrong:?}");
        }
        assert!(Verify::parse(&[0; 7]).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>) {
            if let Ok(verify) = Verify::parse(&bytes) {
                prop_assert_eq!(verify.encode(), bytes);
            }
        }
    }
}
