//! Headers: literal bytes, every damage noticed, no panic on what a stranger sends.

use super::*;
use proptest::prelude::*;

fn header() -> Header {
    Header {
        kind: Kind::Write,
        flags: FLAG_FUA,
        epoch: Epoch(0x0001_0000_0000_0007),
        seq: 0x1122,
        dep_seq: 0x1121,
        offset: 0x8000,
        length: 0x1000,
        session: 3,
        volume: VolumeNumber(9),
        payload_len: 0x1004,
    }
}

#[test]
fn a_header_has_these_bytes() {
    let bytes = header().encode();
    let mut expected = Vec::new();
    expected.extend(b"TWSN\x01\x00\x10\x01");
    expected.extend([7, 0, 0, 0, 0, 0, 1, 0]);
    expected.extend([0x22, 0x11, 0, 0, 0, 0, 0, 0]);
    expected.extend([0x21, 0x11, 0, 0, 0, 0, 0, 0]);
    expected.extend([0, 0x80, 0, 0, 0, 0, 0, 0]);
    expected.extend([0, 0x10, 0, 0, 0, 0, 0, 0]);
    expected.extend([3, 0, 0, 0, 9, 0, 0, 0, 4, 0x10, 0, 0]);
    assert_eq!(bytes[..60], expected[..]);
    assert_eq!(bytes[60..], crc32c::crc32c(&expected).to_le_bytes());
    assert_eq!(Header::parse(&bytes), Ok(header()));
    assert_eq!(payload_len(&bytes), Ok(0x1004));
}

#[test]
fn every_flipped_bit_of_a_header_is_noticed() {
    let bytes = header().encode();
    for bit in 0..HEADER_LEN * 8 {
        let mut damaged = bytes;
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Header::parse(&damaged).is_err(), "bit {bit}");
    }
}

#[test]
fn every_kind_is_parsed_and_no_other() {
    for number in 0..=u8::MAX {
        let mut bytes = header().encode();
        bytes[6] = number;
        let crc = crc32c::crc32c(&bytes[..60]).to_le_bytes();
        bytes[60..].copy_from_slice(&crc);
        let known = Kind::ALL.iter().any(|kind| *kind as u8 == number);
        assert_eq!(Header::parse(&bytes).is_ok(), known, "kind {number}");
    }
}

#[test]
fn a_payload_that_is_too_long_is_refused() {
    let long = u32::try_from(PAYLOAD_MAX_BYTES).unwrap() + 1;
    let bytes = Header {
        payload_len: long,
        ..header()
    }
    .encode();
    assert_eq!(payload_len(&bytes), Err(WireError::Field("payload_len")));
}

proptest! {
    #[test]
    fn arbitrary_headers_do_not_panic(bytes: [u8; 32], more: [u8; 32]) {
        let mut all = [0; HEADER_LEN];
        all[..32].copy_from_slice(&bytes);
        all[32..].copy_from_slice(&more);
        let _ = payload_len(&all);
        all[..4].copy_from_slice(b"TWSN");
        let crc = crc32c::crc32c(&all[..60]).to_le_bytes();
        all[60..].copy_from_slice(&crc);
        let _ = payload_len(&all);
    }
}
