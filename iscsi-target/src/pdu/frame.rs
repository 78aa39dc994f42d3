//! Cutting a byte stream into PDUs: header, additional header, digests, data, padding.
//!
//! ```text
//!            +---------- 48 bytes ----------+ ahs+digest  +-- data --+ pad+digest
//!   Header --+ place(): where the data goes +------------>+          +-----------> Frame, Header
//!            +------------------------------+             +----------+
//! ```
//!
//! The data of a PDU are appended to a buffer that the owner chose when it saw the header, so that
//! write data arrive where the disk will take them from.

use bytes::{Buf, BytesMut};

use super::{BHS_LEN_BYTES, Bhs, padding_bytes};

/// Whether a CRC32C digest follows (RFC 7143 §13.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Digest {
    /// No digest.
    #[default]
    None,
    /// CRC32C, least significant byte first.
    Crc32c,
}

impl Digest {
    const fn len_bytes(self) -> usize {
        match self {
            Self::None => 0,
            Self::Crc32c => 4,
        }
    }
}

/// A complete PDU.
#[derive(Debug)]
pub struct Frame {
    /// Its header; the header digest was right.
    pub bhs: Bhs,
    /// The buffer that was placed, with the data appended.
    pub data: BytesMut,
    /// How many bytes the buffer held before.
    pub data_start: usize,
}

impl Frame {
    /// The data of this PDU.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.data[self.data_start..]
    }
}

/// Why the stream cannot be cut any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header digest is wrong: nothing in the stream can be trusted any more.
    #[error("header digest does not match")]
    HeaderDigest,
    /// The data digest is wrong.
    #[error("data digest does not match")]
    DataDigest(Bhs),
    /// The data segment is longer than we declared to accept.
    #[error("data segment is longer than declared")]
    TooLong(Bhs),
}

/// The decoder of one direction of a connection.
///
/// Invariants: `received <= wanted` in `Data`; no more than one PDU is held.
#[derive(Debug)]
pub struct Decoder {
    header_digest: Digest,
    data_digest: Digest,
    limit_bytes: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    Header,
    Extension { bhs: Bhs, crc: u32 },
    Data(Segment),
    Trailer(Segment),
}

#[derive(Debug)]
struct Segment {
    bhs: Bhs,
    data: BytesMut,
    data_start: usize,
    missing_bytes: usize,
    crc: u32,
}

impl Decoder {
    /// A decoder without digests that accepts data segments up to `limit_bytes`.
    #[must_use]
    pub const fn new(limit_bytes: usize) -> Self {
        Self {
            header_digest: Digest::None,
            data_digest: Digest::None,
            limit_bytes,
            state: State::Header,
        }
    }

    /// What holds from the next PDU on.
    pub const fn set_digests(&mut self, header: Digest, data: Digest) {
        self.header_digest = header;
        self.data_digest = data;
    }

    /// Longest data segment accepted from the next PDU on.
    pub const fn set_limit(&mut self, limit_bytes: usize) {
        self.limit_bytes = limit_bytes;
    }

    /// Takes bytes off `input` until a PDU is complete or `input` is used up. `place` is asked
    /// once for each PDU with a data segment, as soon as its header is known to be right.
    pub fn poll(
        &mut self,
        input: &mut BytesMut,
        mut place: impl FnMut(&Bhs) -> BytesMut,
    ) -> Result<Option<Frame>, FrameError> {
        loop {
            match std::mem::replace(&mut self.state, State::Header) {
                State::Header => {
                    if input.len() < BHS_LEN_BYTES {
                        return Ok(None);
                    }
                    let mut bytes = [0; BHS_LEN_BYTES];
                    input.copy_to_slice(&mut bytes);
                    let crc = self.header_crc(&bytes);
                    self.state = State::Extension {
                        bhs: Bhs::from_wire(&bytes),
                        crc,
                    };
                }
                State::Extension { bhs, crc } => {
                    let ahs_len = usize::from(bhs.ahs_len_words) * 4;
                    if input.len() < ahs_len + self.header_digest.len_bytes() {
                        self.state = State::Extension { bhs, crc };
                        return Ok(None);
                    }
                    self.check_header(input, ahs_len, crc)?;
                    self.state = State::Data(self.open_segment(bhs, &mut place)?);
                }
                State::Data(mut segment) => {
                    let len = segment.missing_bytes.min(input.len());
                    segment.data.extend_from_slice(&input[..len]);
                    input.advance(len);
                    segment.account(len, self.data_digest);
                    if segment.missing_bytes > 0 {
                        self.state = State::Data(segment);
                        return Ok(None);
                    }
                    self.state = State::Trailer(segment);
                }
                State::Trailer(segment) => {
                    if input.len() < self.trailer_bytes(&segment) {
                        self.state = State::Trailer(segment);
                        return Ok(None);
                    }
                    return self.close_segment(segment, input).map(Some);
                }
            }
        }
    }

    fn open_segment(
        &self,
        bhs: Bhs,
        mut place: impl FnMut(&Bhs) -> BytesMut,
    ) -> Result<Segment, FrameError> {
        let len = bhs.data_len.bytes();
        if len > self.limit_bytes {
            return Err(FrameError::TooLong(bhs));
        }
        let mut data = if len == 0 {
            BytesMut::new()
        } else {
            place(&bhs)
        };
        data.reserve(len);
        let data_start = data.len();
        Ok(Segment {
            bhs,
            data,
            data_start,
            missing_bytes: len,
            crc: 0,
        })
    }

    const fn trailer_bytes(&self, segment: &Segment) -> usize {
        match segment.bhs.data_len.bytes() {
            0 => 0,
            len => padding_bytes(len) + self.data_digest.len_bytes(),
        }
    }

    fn close_segment(&self, segment: Segment, input: &mut BytesMut) -> Result<Frame, FrameError> {
        let Segment {
            bhs,
            data,
            data_start,
            crc,
            ..
        } = segment;
        let len = bhs.data_len.bytes();
        let padding = padding_bytes(len);
        let crc = crc32c::crc32c_append(crc, &input[..padding]);
        input.advance(padding);
        if len > 0 && self.data_digest == Digest::Crc32c && input.get_u32_le() != crc {
            return Err(FrameError::DataDigest(bhs));
        }
        Ok(Frame {
            bhs,
            data,
            data_start,
        })
    }

    /// Where the next bytes of the stream belong and how many of them, while they are data.
    pub const fn landing(&mut self) -> Option<(&mut BytesMut, usize)> {
        match &mut self.state {
            State::Data(segment) => Some((&mut segment.data, segment.missing_bytes)),
            State::Header | State::Extension { .. } | State::Trailer(_) => None,
        }
    }

    /// `len_bytes` were appended to the buffer of [`Decoder::landing`].
    pub fn landed(&mut self, len_bytes: usize) {
        let State::Data(segment) = &mut self.state else {
            assert!(
                len_bytes == 0,
                "{len_bytes} bytes landed outside of a data segment"
            );
            return;
        };
        assert!(
            len_bytes <= segment.missing_bytes,
            "landed beyond the data segment"
        );
        segment.account(len_bytes, self.data_digest);
    }

    fn header_crc(&self, bytes: &[u8]) -> u32 {
        match self.header_digest {
            Digest::None => 0,
            Digest::Crc32c => crc32c::crc32c(bytes),
        }
    }

    fn check_header(&self, input: &mut BytesMut, ahs: usize, crc: u32) -> Result<(), FrameError> {
        let crc = match self.header_digest {
            Digest::None => 0,
            Digest::Crc32c => crc32c::crc32c_append(crc, &input[..ahs]),
        };
        input.advance(ahs);
        match self.header_digest {
            Digest::Crc32c if input.get_u32_le() != crc => Err(FrameError::HeaderDigest),
            Digest::Crc32c | Digest::None => Ok(()),
        }
    }
}

impl Segment {
    fn account(&mut self, len_bytes: usize, digest: Digest) {
        self.missing_bytes -= len_bytes;
        if digest == Digest::Crc32c {
            let fresh = self.data.len() - len_bytes;
            // While the bytes are still in the processor's cache.
            self.crc = crc32c::crc32c_append(self.crc, &self.data[fresh..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::outbox::Outbox;
    use crate::pdu::{Header, Len24};
    use bytes::Bytes;
    use proptest::prelude::*;

    fn header(len_bytes: usize) -> Bhs {
        let mut bhs = Bhs::from_wire(&[0x11; 48]);
        bhs.ahs_len_words = 0;
        bhs.data_len = Len24::new(len_bytes);
        bhs
    }

    fn encode(digest: Digest, payload: &[u8]) -> BytesMut {
        let mut outbox = Outbox::default();
        outbox.set_digests(digest, digest);
        outbox.push(&header(payload.len()), &[Bytes::copy_from_slice(payload)]);
        outbox
            .chunks()
            .flat_map(<[u8]>::to_vec)
            .collect::<Vec<u8>>()
            .as_slice()
            .into()
    }

    fn decode(decoder: &mut Decoder, input: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        decoder.poll(input, |_| BytesMut::new())
    }

    #[test]
    fn a_header_without_data_is_48_bytes() {
        let mut input = encode(Digest::None, &[]);
        assert_eq!(input.len(), 48);
        let frame = decode(&mut Decoder::new(0), &mut input).unwrap().unwrap();
        assert_eq!(frame.bhs, header(0));
        assert!(frame.payload().is_empty() && input.is_empty());
    }

    #[test]
    fn digests_are_those_of_the_standard() {
        // RFC 7143 appendix B: 32 bytes of zeroes have the digest aa 36 91 8a on the wire.
        let wire = encode(Digest::Crc32c, &[0; 32]);
        assert_eq!(wire[48 + 4 + 32..], [0xaa, 0x36, 0x91, 0x8a]);
    }

    #[test]
    fn a_wrong_digest_is_found() {
        let mut decoder = Decoder::new(64);
        decoder.set_digests(Digest::Crc32c, Digest::Crc32c);
        let mut input = encode(Digest::Crc32c, b"hello");
        input[8] ^= 1;
        assert_eq!(
            decode(&mut decoder, &mut input).unwrap_err(),
            FrameError::HeaderDigest
        );

        let mut decoder = Decoder::new(64);
        decoder.set_digests(Digest::Crc32c, Digest::Crc32c);
        let mut input = encode(Digest::Crc32c, b"hello");
        input[53] ^= 1;
        let error = decode(&mut decoder, &mut input).unwrap_err();
        assert_eq!(error, FrameError::DataDigest(header(5)));
    }

    #[test]
    fn a_segment_longer_than_declared_is_refused() {
        let mut input = encode(Digest::None, &[7; 65]);
        let error = decode(&mut Decoder::new(64), &mut input).unwrap_err();
        assert_eq!(error, FrameError::TooLong(header(65)));
    }

    #[test]
    fn data_are_appended_to_the_placed_buffer() {
        let mut input = encode(Digest::None, b"world");
        let mut decoder = Decoder::new(64);
        let frame = decoder
            .poll(&mut input, |_| BytesMut::from("hello "))
            .unwrap()
            .unwrap();
        assert_eq!(&frame.data[..], b"hello world");
        assert_eq!(frame.payload(), b"world");
    }

    #[test]
    fn data_may_land_without_passing_through_the_input() {
        let wire = encode(Digest::Crc32c, &[9; 1000]);
        let mut decoder = Decoder::new(1000);
        decoder.set_digests(Digest::Crc32c, Digest::Crc32c);
        let mut input = BytesMut::from(&wire[..100]);
        assert!(decode(&mut decoder, &mut input).unwrap().is_none());
        let (buffer, missing) = decoder.landing().unwrap();
        assert_eq!(missing, 1000 - (100 - 52));
        buffer.extend_from_slice(&vec![9; missing]);
        decoder.landed(missing);
        input.extend_from_slice(&wire[wire.len() - 4..]);
        let frame = decode(&mut decoder, &mut input).unwrap().unwrap();
        assert_eq!(frame.payload(), [9; 1000]);
    }

    #[test]
    fn an_additional_header_is_skipped_and_covered_by_the_digest() {
        let mut bhs = header(0);
        bhs.ahs_len_words = 2;
        let mut wire = bhs.to_wire().to_vec();
        wire.extend_from_slice(&[3; 8]);
        let crc = crc32c::crc32c(&wire);
        wire.extend_from_slice(&crc.to_le_bytes());
        let mut decoder = Decoder::new(0);
        decoder.set_digests(Digest::Crc32c, Digest::None);
        let frame = decode(&mut decoder, &mut wire.as_slice().into())
            .unwrap()
            .unwrap();
        assert_eq!(frame.bhs.bhs(), bhs);
    }

    proptest! {
        #[test]
        fn any_payload_survives_any_cut(
            payload in proptest::collection::vec(any::<u8>(), 0..300),
            cut in 0usize..400,
            digests in any::<bool>(),
        ) {
            let digest = if digests { Digest::Crc32c } else { Digest::None };
            let mut wire = encode(digest, &payload);
            let rest = wire.split_off(cut.min(wire.len()));
            let mut decoder = Decoder::new(300);
            decoder.set_digests(digest, digest);
            let early = decode(&mut decoder, &mut wire).unwrap();
            let mut rest = rest;
            let frame = match early {
                Some(frame) => frame,
                None => {
                    wire.unsplit(rest.split());
                    decode(&mut decoder, &mut wire).unwrap().unwrap()
                }
            };
            prop_assert_eq!(frame.payload(), payload);
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut decoder = Decoder::new(256);
            decoder.set_digests(Digest::None, Digest::Crc32c);
            let mut input = BytesMut::from(noise.as_slice());
            while let Ok(Some(_)) = decode(&mut decoder, &mut input) {}
        }
    }
}
