//! Data frames: the data, then one CRC32C per 4 KiB block of it.

use super::{CHECKED_BYTES, WireError};
use bytes::{BufMut, Bytes, BytesMut};

/// The checksums that follow `data` on the wire.
#[must_use]
pub fn trailer(data: &[u8]) -> Bytes {
    let mut sums = BytesMut::with_capacity(data.len().div_ceil(CHECKED_BYTES) * 4);
    for block in data.chunks(CHECKED_BYTES) {
        sums.put_u32_le(crc32c::crc32c(block));
    }
    sums.freeze()
}

/// The data of a payload that should hold `length` bytes of it, after its checksums were compared.
///
/// # Errors
/// A payload of another length, or a block that fails its checksum.
pub fn verify(payload: &Bytes, length: u64) -> Result<Bytes, WireError> {
    let length = usize::try_from(length).map_err(|_| WireError::Field("length"))?;
    if length > super::DATA_MAX_BYTES {
        return Err(WireError::Field("length"));
    }
    if payload.len() != length + length.div_ceil(CHECKED_BYTES) * 4 {
        return Err(WireError::Field("payload_len"));
    }
    let data = payload.slice(..length);
    let sums = payload[length..].chunks_exact(4);
    for (number, (block, sum)) in data.chunks(CHECKED_BYTES).zip(sums).enumerate() {
        if crc32c::crc32c(block).to_le_bytes() != sum {
            return Err(WireError::DataChecksum(number));
        }
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn payload(data: &[u8]) -> BytesMut {
        let mut payload = BytesMut::from(data);
        payload.extend_from_slice(&trailer(data));
        payload
    }

    #[test]
    fn checksums_are_crc32c_of_each_block() {
        assert_eq!(
            trailer(b"123456789"),
            Bytes::from_static(&[0x83, 0x92, 0x06, 0xe3])
        );
        assert_eq!(trailer(&[0; 8193]).len(), 12);
    }

    #[test]
    fn a_damaged_block_is_named() {
        let mut damaged = payload(&[7; 12288]);
        damaged[5000] ^= 1;
        assert_eq!(
            verify(&damaged.freeze(), 12288),
            Err(WireError::DataChecksum(1))
        );
    }

    proptest! {
        #[test]
        fn what_was_sealed_verifies(data: Vec<u8>) {
            let sealed = payload(&data).freeze();
            prop_assert_eq!(verify(&sealed, data.len() as u64), Ok(Bytes::from(data)));
        }

        #[test]
        fn arbitrary_payloads_do_not_panic(bytes: Vec<u8>, length: u64, short in 0u64..64) {
            let _ = verify(&Bytes::from(bytes.clone()), length);
            let _ = verify(&Bytes::from(bytes), short);
        }
    }
}
