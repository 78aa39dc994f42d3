//! SCSI Command and SCSI Response (RFC 7143 §11.3, §11.4).

use zerocopy::byteorder::network_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Len24, header};

/// R bit: the command expects data from the target.
pub const READ: u8 = 0x40;
/// W bit: the command brings data.
pub const WRITE: u8 = 0x20;
/// O bit of responses and Data-In: more data than the initiator expected.
pub const OVERFLOW: u8 = 0x04;
/// U bit of responses and Data-In: less data than the initiator expected.
pub const UNDERFLOW: u8 = 0x02;

/// SCSI Command.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Command {
    /// 0x01, or 0x41 if immediate.
    pub opcode: u8,
    /// F, R, W and the task attribute.
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Additional header segments, in words of four bytes.
    pub ahs_len_words: u8,
    /// Length of the immediate data.
    pub data_len: Len24,
    /// Logical unit, SAM form.
    pub lun: [u8; 8],
    /// Initiator task tag.
    pub itt: U32,
    /// Expected data transfer length (EDTL), in bytes.
    pub expected_len_bytes: U32,
    /// Command sequence number.
    pub cmd_sn: U32,
    /// Status sequence number the initiator expects next.
    pub exp_stat_sn: U32,
    /// Command descriptor block.
    pub cdb: [u8; 16],
}
header!(Command);

/// SCSI Response.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Response {
    /// 0x21.
    pub opcode: u8,
    /// 0x80 and the residual bits.
    pub flags: u8,
    /// 0: the command completed at the target; 1: target failure.
    pub response: u8,
    /// SCSI status, if `response` is 0.
    pub status: u8,
    /// Zero.
    pub ahs_len_words: u8,
    /// Length of the sense segment.
    pub data_len: Len24,
    /// Zero.
    pub reserved: [u8; 8],
    /// Initiator task tag.
    pub itt: U32,
    /// Zero without SNACK.
    pub snack_tag: U32,
    /// Status sequence number.
    pub stat_sn: U32,
    /// Next command sequence number the target expects.
    pub exp_cmd_sn: U32,
    /// Last command sequence number the target accepts.
    pub max_cmd_sn: U32,
    /// How many Data-In and R2T PDUs the target sent for the command.
    pub exp_data_sn: U32,
    /// Residual of the read half of a bidirectional command.
    pub bidi_residual: U32,
    /// Residual count, in bytes.
    pub residual: U32,
}
header!(Response);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::tests::check_layout;

    #[test]
    fn command_layout() {
        check_layout(
            Command {
                opcode: 0x01,
                flags: 0xa1,
                reserved: [0; 2],
                ahs_len_words: 0,
                data_len: Len24::new(0x200),
                lun: [0, 3, 0, 0, 0, 0, 0, 0],
                itt: 0x1122_3344.into(),
                expected_len_bytes: 0x1000.into(),
                cmd_sn: 7.into(),
                exp_stat_sn: 9.into(),
                cdb: [0x2a, 0, 0, 0, 0, 1, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0],
            },
            "01a10000 00000200 00030000 00000000 11223344 00001000 00000007 00000009
             2a000000 00010000 08000000 00000000",
        );
    }

    #[test]
    fn response_layout() {
        check_layout(
            Response {
                opcode: 0x21,
                flags: 0x82,
                response: 0,
                status: 2,
                ahs_len_words: 0,
                data_len: Len24::new(20),
                reserved: [0; 8],
                itt: 5.into(),
                snack_tag: 0.into(),
                stat_sn: 0x11.into(),
                exp_cmd_sn: 0x12.into(),
                max_cmd_sn: 0x13.into(),
                exp_data_sn: 0x14.into(),
                bidi_residual: 0.into(),
                residual: 0x15.into(),
            },
            "21820002 00000014 00000000 00000000 00000005 00000000 00000011 00000012
             00000013 00000014 00000000 00000015",
        );
    }
}
