//! NOP-Out and NOP-In (RFC 7143 §11.18, §11.19).

use zerocopy::byteorder::network_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Len24, header};

/// NOP-Out.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct NopOut {
    /// 0x00, or 0x40 if immediate.
    pub opcode: u8,
    /// 0x80.
    pub flags: u8,
    /// Zero.
    pub reserved_a: [u8; 2],
    /// Zero.
    pub ahs_len_words: u8,
    /// Length of the ping data.
    pub data_len: Len24,
    /// As the NOP-In said, if this answers one.
    pub lun: [u8; 8],
    /// Initiator task tag, `0xffff_ffff` if no answer is wanted.
    pub itt: U32,
    /// Tag of the NOP-In that this answers, or `0xffff_ffff`.
    pub ttt: U32,
    /// Command sequence number.
    pub cmd_sn: U32,
    /// Status sequence number the initiator expects next.
    pub exp_stat_sn: U32,
    /// Zero.
    pub reserved_b: [u8; 16],
}
header!(NopOut);

/// NOP-In.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct NopIn {
    /// 0x20.
    pub opcode: u8,
    /// 0x80.
    pub flags: u8,
    /// Zero.
    pub reserved_a: [u8; 2],
    /// Zero.
    pub ahs_len_words: u8,
    /// Length of the ping data.
    pub data_len: Len24,
    /// Only with a target transfer tag.
    pub lun: [u8; 8],
    /// Initiator task tag of the NOP-Out, or `0xffff_ffff` if the target asks.
    pub itt: U32,
    /// Tag if an answer is wanted, else `0xffff_ffff`.
    pub ttt: U32,
    /// Status sequence number; consumed only by answers.
    pub stat_sn: U32,
    /// Next command sequence number the target expects.
    pub exp_cmd_sn: U32,
    /// Last command sequence number the target accepts.
    pub max_cmd_sn: U32,
    /// Zero.
    pub reserved_b: [u8; 12],
}
header!(NopIn);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::tests::check_layout;

    #[test]
    fn layouts() {
        check_layout(
            NopOut {
                opcode: 0x40,
                flags: 0x80,
                reserved_a: [0; 2],
                ahs_len_words: 0,
                data_len: Len24::new(4),
                lun: [0; 8],
                itt: 1.into(),
                ttt: 0xffff_ffff.into(),
                cmd_sn: 2.into(),
                exp_stat_sn: 3.into(),
                reserved_b: [0; 16],
            },
            "40800000 00000004 00000000 00000000 00000001 ffffffff 00000002 00000003
             00000000 00000000 00000000 00000000",
        );
        check_layout(
            NopIn {
                opcode: 0x20,
                flags: 0x80,
                reserved_a: [0; 2],
                ahs_len_words: 0,
                data_len: Len24::new(4),
                lun: [0; 8],
                itt: 0xffff_ffff.into(),
                ttt: 2.into(),
                stat_sn: 3.into(),
                exp_cmd_sn: 4.into(),
                max_cmd_sn: 5.into(),
                reserved_b: [0; 12],
            },
            "20800000 00000004 00000000 00000000 ffffffff 00000002 00000003 00000004
             00000005 00000000 00000000 00000000",
        );
    }
}
