//! What the system volume holds: one value in two slots, each a header and a body, and behind them
//! the places of [`crate::reservations`] (law D10).
//!
//! ```text
//! 0         3 MiB     6 MiB                                 16 MiB
//! | value   | value   | place 0 | place 1 | ...             |
//! ```
//!
//! A change writes the older slot whole, with FUA, and is done when that write is complete on every
//! member of the in-sync set. A torn write leaves the other slot. There is no second mechanism.

use bytes::{Bytes, BytesMut};
use replication::meta;

/// Room of one slot.
pub const SLOT_BYTES: u64 = 3 << 20;
/// Largest value.
pub const VALUE_BYTES_MAX: usize = (3 << 20) - BLOCK_BYTES;
/// Where the slots end and the places of reservations begin.
pub const PLACES_FROM_BYTES: u64 = 2 * SLOT_BYTES;
/// How much room there is for these.
pub const PLACES_BYTES: u64 = meta::SYSTEM_BYTES - PLACES_FROM_BYTES;

/// What is read first of a slot: enough for its header and a small value.
pub const READ_FIRST_BYTES: usize = 64 << 10;

const HEADER_BYTES: usize = 32;
const BLOCK_BYTES: usize = 4096;
const MAGIC: [u8; 8] = *b"twstate1";

/// Where the next write goes, and what the last one was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// Sequence number of the newest value; 0 if there is none.
    pub sequence: u64,
}

impl Slots {
    /// Byte offset and contents of the write that stores `value`, and the state after it.
    ///
    /// # Panics
    /// If `value` is larger than [`VALUE_BYTES_MAX`].
    #[must_use]
    pub fn put(self, value: &[u8]) -> (u64, Bytes, Self) {
        assert!(
            value.len() <= VALUE_BYTES_MAX,
            "the state is bounded by its edits"
        );
        let sequence = self.sequence + 1;
        let len = u64::try_from(value.len()).expect("a length fits");
        let padded = (HEADER_BYTES + value.len()).next_multiple_of(BLOCK_BYTES);
        let mut slot = BytesMut::with_capacity(padded);
        slot.extend_from_slice(&MAGIC);
        slot.extend_from_slice(&sequence.to_le_bytes());
        slot.extend_from_slice(&len.to_le_bytes());
        slot.extend_from_slice(&crc(sequence, value).to_le_bytes());
        slot.resize(HEADER_BYTES, 0);
        slot.extend_from_slice(value);
        slot.resize(padded, 0);
        (offset_bytes(sequence), slot.freeze(), Self { sequence })
    }

    /// The newest whole value of two slots as read from the volume, if there is one.
    #[must_use]
    pub fn newest(slots: [&[u8]; 2]) -> (Self, Option<Vec<u8>>) {
        slots
            .into_iter()
            .filter_map(parse)
            .max_by_key(|(sequence, _)| *sequence)
            .map_or_else(Default::default, |(sequence, value)| {
                (Self { sequence }, Some(value))
            })
    }
}

/// Bytes to read for the whole slot that begins with `head`, in whole blocks; none without a
/// header.
#[must_use]
pub fn slot_bytes(head: &[u8]) -> Option<usize> {
    let header = head
        .get(..HEADER_BYTES)
        .filter(|header| header[..8] == MAGIC)?;
    let len = usize::try_from(u64::from_le_bytes(header[16..24].try_into().ok()?)).ok()?;
    (len <= VALUE_BYTES_MAX).then(|| (HEADER_BYTES + len).next_multiple_of(BLOCK_BYTES))
}

fn offset_bytes(sequence: u64) -> u64 {
    (sequence % 2) * SLOT_BYTES
}

fn crc(sequence: u64, value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&sequence.to_le_bytes()), value)
}

fn parse(slot: &[u8]) -> Option<(u64, Vec<u8>)> {
    let header = slot.get(..HEADER_BYTES)?;
    if header[..8] != MAGIC {
        return None;
    }
    let sequence = u64::from_le_bytes(header[8..16].try_into().ok()?);
    let len = usize::try_from(u64::from_le_bytes(header[16..24].try_into().ok()?)).ok()?;
    let sum = u32::from_le_bytes(header[24..28].try_into().ok()?);
    let value = slot.get(HEADER_BYTES..HEADER_BYTES.checked_add(len)?)?;
    (crc(sequence, value) == sum).then(|| (sequence, value.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_slot_wins() {
        let (first_at, first, slots) = Slots::default().put(b"one");
        let (second_at, second, slots) = slots.put(b"two");
        assert_ne!(first_at, second_at);
        assert_eq!(first.len() % BLOCK_BYTES, 0);
        assert_eq!(
            Slots::newest([&second, &first]),
            (slots, Some(b"two".to_vec()))
        );
        let mut torn = second.to_vec();
        torn[HEADER_BYTES] ^= 1;
        let (at, value) = Slots::newest([&torn, &first]);
        assert_eq!((at.sequence, value), (1, Some(b"one".to_vec())));
    }

    #[test]
    fn zeros_and_garbage_hold_nothing() {
        let mut long = vec![0u8; 64];
        long[..8].copy_from_slice(&MAGIC);
        long[16..24].fill(0xff);
        assert_eq!(Slots::newest([&[0; 4096], &long]), (Slots::default(), None));
    }
}
