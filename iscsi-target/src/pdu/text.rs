//! Text Request and Response (RFC 7143 §11.10, §11.11).

use zerocopy::byteorder::network_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Len24, header};

/// C bit: the text goes on in the next PDU.
pub const CONTINUE: u8 = 0x40;

/// Text Request.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Request {
    /// 0x04, or 0x44 if immediate.
    pub opcode: u8,
    /// F and C.
    pub flags: u8,
    /// Zero.
    pub reserved_a: [u8; 2],
    /// Zero.
    pub ahs_len_words: u8,
    /// Length of the keys.
    pub data_len: Len24,
    /// As the target's last response said.
    pub lun: [u8; 8],
    /// Initiator task tag.
    pub itt: U32,
    /// `0xffff_ffff` in the first request of an exchange.
    pub ttt: U32,
    /// Command sequence number.
    pub cmd_sn: U32,
    /// Status sequence number the initiator expects next.
    pub exp_stat_sn: U32,
    /// Zero.
    pub reserved_b: [u8; 16],
}
header!(Request);

/// Text Response.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Response {
    /// 0x24.
    pub opcode: u8,
    /// F and C.
    pub flags: u8,
    /// Zero.
    pub reserved_a: [u8; 2],
    /// Zero.
    pub ahs_len_words: u8,
    /// Length of the keys.
    pub data_len: Len24,
    /// Zero.
    pub lun: [u8; 8],
    /// Initiator task tag of the request.
    pub itt: U32,
    /// `0xffff_ffff` in the last response of an exchange.
    pub ttt: U32,
    /// Status sequence number.
    pub stat_sn: U32,
    /// Next command sequence number the target expects.
    pub exp_cmd_sn: U32,
    /// Last command sequence number the target accepts.
    pub max_cmd_sn: U32,
    /// Zero.
    pub reserved_b: [u8; 12],
}
header!(Response);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::tests::check_layout;

    #[test]
    fn layouts() {
        check_layout(
            Request {
                opcode: 0x04,
                flags: 0x80,
                reserved_a: [0; 2],
                ahs_len_words: 0,
                data_len: Len24::new(16),
                lun: [0; 8],
                itt: 1.into(),
                ttt: 0xffff_ffff.into(),
                cmd_sn: 2.into(),
                exp_stat_sn: 3.into(),
                reserved_b: [0; 16],
            },
            "04800000 00000010 00000000 00000000 00000001 ffffffff 00000002 00000003
             00000000 00000000 00000000 00000000",
        );
        check_layout(
            Response {
                opcode: 0x24,
                flags: 0x40,
                reserved_a: [0; 2],
                ahs_len_words: 0,
                data_len: Len24::new(16),
                lun: [0; 8],
                itt: 1.into(),
                ttt: 2.into(),
                stat_sn: 3.into(),
                exp_cmd_sn: 4.into(),
                max_cmd_sn: 5.into(),
                reserved_b: [0; 12],
            },
            "24400000 00000010 00000000 00000000 00000001 00000002 00000003 00000004
             00000005 00000000 00000000 00000000",
        );
    }
}
