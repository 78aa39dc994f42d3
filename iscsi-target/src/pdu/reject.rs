//! Reject (RFC 7143 §11.17).

use zerocopy::byteorder::network_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Len24, header};

/// Why a PDU was refused (RFC 7143 §11.17.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// The data digest does not match.
    DataDigest = 0x02,
    /// SNACK is not supported at error recovery level 0.
    Snack = 0x03,
    /// The PDU breaks the protocol.
    Protocol = 0x04,
    /// The operation is not supported.
    Unsupported = 0x05,
    /// More immediate commands than the target takes.
    TooManyImmediate = 0x06,
    /// The tag is in use.
    TaskInProgress = 0x07,
    /// A field has a value that it must not have.
    InvalidField = 0x09,
    /// The exchange was longer than the target allows.
    NoResources = 0x0a,
}

/// Reject; the refused header is the data segment.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Reject {
    /// 0x3f.
    pub opcode: u8,
    /// 0x80.
    pub flags: u8,
    /// A [`Reason`].
    pub reason: u8,
    /// Zero.
    pub reserved_a: u8,
    /// Zero.
    pub ahs_len_words: u8,
    /// 48.
    pub data_len: Len24,
    /// Zero.
    pub reserved_b: [u8; 8],
    /// `0xffff_ffff`.
    pub itt: U32,
    /// Zero.
    pub reserved_c: U32,
    /// Status sequence number.
    pub stat_sn: U32,
    /// Next command sequence number the target expects.
    pub exp_cmd_sn: U32,
    /// Last command sequence number the target accepts.
    pub max_cmd_sn: U32,
    /// Only for refused R2T and Data.
    pub data_sn: U32,
    /// Zero.
    pub reserved_d: [u8; 8],
}
header!(Reject);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::tests::check_layout;

    #[test]
    fn layout() {
        check_layout(
            Reject {
                opcode: 0x3f,
                flags: 0x80,
                reason: Reason::Protocol as u8,
                reserved_a: 0,
                ahs_len_words: 0,
                data_len: Len24::new(48),
                reserved_b: [0; 8],
                itt: 0xffff_ffff.into(),
                reserved_c: 0.into(),
                stat_sn: 1.into(),
                exp_cmd_sn: 2.into(),
                max_cmd_sn: 3.into(),
                data_sn: 4.into(),
                reserved_d: [0; 8],
            },
            "3f800400 00000030 00000000 00000000 ffffffff 00000000 00000001 00000002
             00000003 00000004 00000000 00000000",
        );
    }
}
