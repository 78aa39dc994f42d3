//! Places of the ledger and the record in each.

use bytes::{Bytes, BytesMut};
use iscsi_target::scsi::RESERVATIONS_BYTES_MAX;

use super::VolumeKey;
use super::book::Kept;
use crate::config::cluster::VOLUMES_MAX;
use crate::state::{PLACES_BYTES, PLACES_FROM_BYTES};

pub(super) const BLOCK_BYTES: usize = 4096;
pub(super) const HEADER_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"twplace1";
/// Room for a record of the greatest length.
pub(super) const PLACE_BYTES: usize = 32 << 10;
pub(super) const PLACES: usize = 320;

const _: () = assert!((PLACES * PLACE_BYTES) as u64 == PLACES_BYTES);
const _: () = assert!(HEADER_BYTES + RESERVATIONS_BYTES_MAX <= PLACE_BYTES);
const _: () = assert!(
    PLACES > VOLUMES_MAX,
    "a record is never written over itself"
);

pub(super) fn offset_bytes(place: usize) -> u64 {
    PLACES_FROM_BYTES + (place * PLACE_BYTES) as u64
}

pub(super) fn place_at(offset_bytes: u64) -> usize {
    usize::try_from(offset_bytes).expect("the system volume is small") / PLACE_BYTES
}

/// Magic 8, CRC 4, length 4, sequence 8, volume number 4, zero 4, volume UUID 16, zero to 64; the
/// state; zero to whole blocks. The CRC covers everything behind it up to the end of the state.
pub(super) fn record(volume: VolumeKey, kept: &Kept) -> Bytes {
    let state = &kept.state;
    let whole = HEADER_BYTES + state.len();
    assert!(whole <= PLACE_BYTES, "the target bounds what is kept");
    let mut record = BytesMut::with_capacity(whole.next_multiple_of(BLOCK_BYTES));
    record.extend_from_slice(&MAGIC);
    record.extend_from_slice(&[0; 4]);
    let len = u32::try_from(state.len()).expect("a place is small");
    record.extend_from_slice(&len.to_le_bytes());
    record.extend_from_slice(&kept.sequence.to_le_bytes());
    record.extend_from_slice(&volume.number.to_le_bytes());
    record.extend_from_slice(&[0; 4]);
    record.extend_from_slice(&volume.uuid.to_le_bytes());
    record.resize(HEADER_BYTES, 0);
    record.extend_from_slice(state);
    let crc = crc32c::crc32c(&record[CRC_FROM..]);
    record[8..CRC_FROM].copy_from_slice(&crc.to_le_bytes());
    record.resize(whole.next_multiple_of(BLOCK_BYTES), 0);
    record.freeze()
}

/// Where the part begins that the CRC covers.
const CRC_FROM: usize = 12;

pub(super) fn parse(place: &[u8]) -> Option<(VolumeKey, u64, Bytes)> {
    let header = place.get(..HEADER_BYTES).filter(|it| it[..8] == MAGIC)?;
    let number = |at: usize| Some(u32::from_le_bytes(header[at..at + 4].try_into().ok()?));
    let len = usize::try_from(number(12)?).ok()?;
    let whole = place.get(CRC_FROM..HEADER_BYTES.checked_add(len)?)?;
    if crc32c::crc32c(whole) != number(8)? {
        return None;
    }
    let sequence = u64::from_le_bytes(header[16..24].try_into().ok()?);
    let uuid = u128::from_le_bytes(header[32..48].try_into().ok()?);
    let volume = VolumeKey {
        number: number(24)?,
        uuid,
    };
    let state = Bytes::copy_from_slice(&place[HEADER_BYTES..HEADER_BYTES + len]);
    Some((volume, sequence, state))
}
