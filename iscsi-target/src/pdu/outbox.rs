//! PDUs on their way out, as a list of byte ranges for one gathered write.
//!
//! Headers, digests, padding and short data are packed side by side; long data stay where they are
//! and are only referred to.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::frame::Digest;
use super::{Header, padding_bytes};

/// What waits to be sent on one connection.
///
/// Invariant: `len_bytes` is the sum of all chunks and of the open one.
#[derive(Debug, Default)]
pub struct Outbox {
    header_digest: Digest,
    data_digest: Digest,
    chunks: VecDeque<Bytes>,
    open: BytesMut,
    len_bytes: usize,
}

impl Outbox {
    /// What holds from the next PDU on.
    pub const fn set_digests(&mut self, header: Digest, data: Digest) {
        self.header_digest = header;
        self.data_digest = data;
    }

    /// Appends one PDU whose data are the parts, in order. The header's length field must agree.
    pub fn push<H: Header>(&mut self, header: &H, parts: &[Bytes]) {
        let bhs = header.bhs();
        let len: usize = parts.iter().map(Bytes::len).sum();
        assert_eq!(bhs.data_len.bytes(), len, "header and data disagree");
        let wire = bhs.to_wire();
        self.pack(&wire);
        if self.header_digest == Digest::Crc32c {
            self.pack(&crc32c::crc32c(&wire).to_le_bytes());
        }
        if len == 0 {
            return;
        }
        for part in parts {
            if part.len() <= COPY_MAX_BYTES {
                self.pack(part);
            } else {
                self.seal();
                self.len_bytes += part.len();
                self.chunks.push_back(part.clone());
            }
        }
        let padding = &[0; 3][..padding_bytes(len)];
        self.pack(padding);
        if self.data_digest == Digest::Crc32c {
            let crc = parts
                .iter()
                .fold(0, |crc, part| crc32c::crc32c_append(crc, part));
            self.pack(&crc32c::crc32c_append(crc, padding).to_le_bytes());
        }
    }

    /// How many bytes wait.
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Whether nothing waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len_bytes == 0
    }

    /// What waits, in order.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let open = Some(&self.open[..]).filter(|open| !open.is_empty());
        self.chunks.iter().map(|chunk| &chunk[..]).chain(open)
    }

    /// The first `count_max` ranges of what waits, to be held while the outbox may change.
    #[must_use]
    pub fn clone_chunks(&mut self, count_max: usize) -> Vec<Bytes> {
        self.seal();
        self.chunks.iter().take(count_max).cloned().collect()
    }

    /// The first `len_bytes` are sent.
    pub fn advance(&mut self, mut len_bytes: usize) {
        assert!(len_bytes <= self.len_bytes, "more sent than there was");
        self.len_bytes -= len_bytes;
        while len_bytes > 0 {
            let Some(first) = self.chunks.front_mut() else {
                self.open.advance(len_bytes);
                return;
            };
            if len_bytes < first.len() {
                first.advance(len_bytes);
                return;
            }
            len_bytes -= first.len();
            self.chunks.pop_front();
        }
    }

    /// Forgets everything that waits.
    pub fn clear(&mut self) {
        self.chunks.clear();
        self.open.clear();
        self.len_bytes = 0;
    }

    fn pack(&mut self, bytes: &[u8]) {
        if self.open.capacity() - self.open.len() < bytes.len() {
            self.seal();
            self.open.reserve(ARENA_BYTES.max(bytes.len()));
        }
        self.open.put_slice(bytes);
        self.len_bytes += bytes.len();
    }

    fn seal(&mut self) {
        if !self.open.is_empty() {
            self.chunks.push_back(self.open.split().freeze());
        }
    }
}

/// Data up to this length are copied beside their header.
const COPY_MAX_BYTES: usize = 512;

/// Headers are packed into pieces of this size.
const ARENA_BYTES: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::{Bhs, Len24};

    fn header(len_bytes: usize) -> Bhs {
        let mut bhs = Bhs::from_wire(&[0; 48]);
        bhs.data_len = Len24::new(len_bytes);
        bhs
    }

    fn bytes(outbox: &Outbox) -> Vec<u8> {
        outbox.chunks().flat_map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn short_pdus_share_a_chunk_and_long_data_are_not_copied() {
        let mut outbox = Outbox::default();
        let long = Bytes::from(vec![5; 4096]);
        outbox.push(&header(3), &[Bytes::from_static(b"abc")]);
        outbox.push(&header(0), &[]);
        assert_eq!(outbox.chunks().count(), 1);
        outbox.push(&header(4096), std::slice::from_ref(&long));
        let address = outbox
            .chunks()
            .find(|chunk| chunk.len() == 4096)
            .unwrap()
            .as_ptr();
        assert_eq!(address, long.as_ptr());
        assert_eq!(outbox.len_bytes(), bytes(&outbox).len());
        assert_eq!(outbox.len_bytes(), 48 + 4 + 48 + 48 + 4096);
    }

    #[test]
    fn advancing_by_any_step_keeps_the_stream() {
        let mut whole = Outbox::default();
        for len in [0, 1, 600, 4, 5000] {
            whole.push(
                &header(len),
                &[Bytes::from(vec![u8::try_from(len % 251).unwrap(); len])],
            );
        }
        let expected = bytes(&whole);
        let mut sent = Vec::new();
        let mut step = 1;
        while !whole.is_empty() {
            let len = step.min(whole.len_bytes());
            sent.extend_from_slice(&bytes(&whole)[..len]);
            whole.advance(len);
            step += 7;
        }
        assert_eq!(sent, expected);
        assert_eq!(whole.chunks().count(), 0);
    }

    #[test]
    #[should_panic(expected = "header and data disagree")]
    fn a_wrong_length_field_is_a_bug() {
        Outbox::default().push(&header(4), &[Bytes::from_static(b"abc")]);
    }
}
