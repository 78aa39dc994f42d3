//! Asynchronous Message (RFC 7143 §11.9).

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Len24, header};

/// The target asks for a logout.
pub const LOGOUT_REQUEST: u8 = 1;
/// The target is about to drop this connection.
pub const DROP_CONNECTION: u8 = 2;
/// The target is about to drop all connections of the session.
pub const DROP_SESSION: u8 = 3;

/// Asynchronous Message.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct AsyncMessage {
    /// 0x32.
    pub opcode: u8,
    /// 0x80.
    pub flags: u8,
    /// Zero.
    pub reserved_a: [u8; 2],
    /// Zero.
    pub ahs_len_words: u8,
    /// Length of the event's data.
    pub data_len: Len24,
    /// Logical unit, for SCSI events.
    pub lun: [u8; 8],
    /// `0xffff_ffff`.
    pub itt: U32,
    /// Zero.
    pub reserved_b: U32,
    /// Status sequence number.
    pub stat_sn: U32,
    /// Next command sequence number the target expects.
    pub exp_cmd_sn: U32,
    /// Last command sequence number the target accepts.
    pub max_cmd_sn: U32,
    /// What happened.
    pub event: u8,
    /// Vendor code.
    pub vendor_code: u8,
    /// Depends on the event.
    pub parameters: [U16; 3],
    /// Zero.
    pub reserved_c: U32,
}
header!(AsyncMessage);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::tests::check_layout;

    #[test]
    fn layout() {
        check_layout(
            AsyncMessage {
                opcode: 0x32,
                flags: 0x80,
                reserved_a: [0; 2],
                ahs_len_words: 0,
                data_len: Len24::new(0),
                lun: [0; 8],
                itt: 0xffff_ffff.into(),
                reserved_b: 0.into(),
                stat_sn: 1.into(),
                exp_cmd_sn: 2.into(),
                max_cmd_sn: 3.into(),
                event: LOGOUT_REQUEST,
                vendor_code: 0,
                parameters: [4.into(), 5.into(), 6.into()],
                reserved_c: 0.into(),
            },
            "32800000 00000000 00000000 00000000 ffffffff 00000000 00000001 00000002
             00000003 01000004 00050006 00000000",
        );
    }
}
