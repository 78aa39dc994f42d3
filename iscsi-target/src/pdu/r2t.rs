//! Ready To Transfer (RFC 7143 §11.8).

use zerocopy::byteorder::network_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Len24, header};

/// Ready To Transfer: the target asks for a range of the command's data.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct R2t {
    /// 0x31.
    pub opcode: u8,
    /// 0x80.
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Zero.
    pub ahs_len_words: u8,
    /// Zero.
    pub data_len: Len24,
    /// Logical unit, to be copied into the Data-Out.
    pub lun: [u8; 8],
    /// Initiator task tag of the command.
    pub itt: U32,
    /// Tag that the Data-Out must carry.
    pub ttt: U32,
    /// Next status sequence number; not consumed.
    pub stat_sn: U32,
    /// Next command sequence number the target expects.
    pub exp_cmd_sn: U32,
    /// Last command sequence number the target accepts.
    pub max_cmd_sn: U32,
    /// Number of the R2T in the command, from 0.
    pub r2t_sn: U32,
    /// First byte wanted.
    pub offset_bytes: U32,
    /// How many bytes are wanted.
    pub desired_len_bytes: U32,
}
header!(R2t);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::tests::check_layout;

    #[test]
    fn layout() {
        check_layout(
            R2t {
                opcode: 0x31,
                flags: 0x80,
                reserved: [0; 2],
                ahs_len_words: 0,
                data_len: Len24::new(0),
                lun: [0, 1, 0, 0, 0, 0, 0, 0],
                itt: 2.into(),
                ttt: 3.into(),
                stat_sn: 4.into(),
                exp_cmd_sn: 5.into(),
                max_cmd_sn: 6.into(),
                r2t_sn: 7.into(),
                offset_bytes: 8.into(),
                desired_len_bytes: 9.into(),
            },
            "31800000 00000000 00010000 00000000 00000002 00000003 00000004 00000005
             00000006 00000007 00000008 00000009",
        );
    }
}
