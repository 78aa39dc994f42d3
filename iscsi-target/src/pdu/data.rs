//! SCSI Data-Out and Data-In (RFC 7143 §11.7).

use zerocopy::byteorder::network_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Len24, header};

/// S bit of Data-In: this PDU carries the status too.
pub const STATUS: u8 = 0x01;

/// SCSI Data-Out.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct DataOut {
    /// 0x05.
    pub opcode: u8,
    /// F on the last PDU of a sequence.
    pub flags: u8,
    /// Zero.
    pub reserved_a: [u8; 2],
    /// Zero.
    pub ahs_len_words: u8,
    /// Length of the data.
    pub data_len: Len24,
    /// As the R2T said.
    pub lun: [u8; 8],
    /// Initiator task tag of the command.
    pub itt: U32,
    /// Target transfer tag of the R2T, or `0xffff_ffff` for unsolicited data.
    pub ttt: U32,
    /// Zero.
    pub reserved_b: U32,
    /// Status sequence number the initiator expects next.
    pub exp_stat_sn: U32,
    /// Zero.
    pub reserved_c: U32,
    /// Number of the PDU in its sequence, from 0.
    pub data_sn: U32,
    /// Offset of the data in the command's buffer, in bytes.
    pub offset_bytes: U32,
    /// Zero.
    pub reserved_d: U32,
}
header!(DataOut);

/// SCSI Data-In.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct DataIn {
    /// 0x25.
    pub opcode: u8,
    /// F, A, residual bits, S.
    pub flags: u8,
    /// Zero.
    pub reserved_a: u8,
    /// SCSI status, if S.
    pub status: u8,
    /// Zero.
    pub ahs_len_words: u8,
    /// Length of the data.
    pub data_len: Len24,
    /// Only with the A bit.
    pub lun: [u8; 8],
    /// Initiator task tag of the command.
    pub itt: U32,
    /// `0xffff_ffff` without the A bit.
    pub ttt: U32,
    /// Status sequence number, if S.
    pub stat_sn: U32,
    /// Next command sequence number the target expects.
    pub exp_cmd_sn: U32,
    /// Last command sequence number the target accepts.
    pub max_cmd_sn: U32,
    /// Number of the PDU in the command, from 0.
    pub data_sn: U32,
    /// Offset of the data in the command's buffer, in bytes.
    pub offset_bytes: U32,
    /// Residual count in bytes, if S.
    pub residual: U32,
}
header!(DataIn);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::tests::check_layout;

    #[test]
    fn data_out_layout() {
        check_layout(
            DataOut {
                opcode: 0x05,
                flags: 0x80,
                reserved_a: [0; 2],
                ahs_len_words: 0,
                data_len: Len24::new(0x2000),
                lun: [0, 1, 0, 0, 0, 0, 0, 0],
                itt: 2.into(),
                ttt: 3.into(),
                reserved_b: 0.into(),
                exp_stat_sn: 4.into(),
                reserved_c: 0.into(),
                data_sn: 5.into(),
                offset_bytes: 0x4000.into(),
                reserved_d: 0.into(),
            },
            "05800000 00002000 00010000 00000000 00000002 00000003 00000000 00000004
             00000000 00000005 00004000 00000000",
        );
    }

    #[test]
    fn data_in_layout() {
        check_layout(
            DataIn {
                opcode: 0x25,
                flags: 0x83,
                reserved_a: 0,
                status: 0,
                ahs_len_words: 0,
                data_len: Len24::new(0x1000),
                lun: [0; 8],
                itt: 2.into(),
                ttt: 0xffff_ffff.into(),
                stat_sn: 6.into(),
                exp_cmd_sn: 7.into(),
                max_cmd_sn: 8.into(),
                data_sn: 9.into(),
                offset_bytes: 10.into(),
                residual: 11.into(),
            },
            "25830000 00001000 00000000 00000000 00000002 ffffffff 00000006 00000007
             00000008 00000009 0000000a 0000000b",
        );
    }
}
