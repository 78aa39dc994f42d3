//! Logout Request and Response (RFC 7143 §11.14, §11.15).

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Len24, header};

/// Reason code: close the session.
pub const CLOSE_SESSION: u8 = 0;
/// Reason code: close one connection.
pub const CLOSE_CONNECTION: u8 = 1;
/// Reason code: remove a connection for recovery.
pub const REMOVE_FOR_RECOVERY: u8 = 2;

/// Outcome of a logout (RFC 7143 §11.15.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// Session or connection closed.
    Closed = 0,
    /// No such connection.
    NoConnection = 1,
    /// No connection recovery at error recovery level 0.
    NoRecovery = 2,
}

/// Logout Request.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Request {
    /// 0x06, usually immediate.
    pub opcode: u8,
    /// 0x80 and the reason code.
    pub flags: u8,
    /// Zero.
    pub reserved_a: [u8; 2],
    /// Zero.
    pub ahs_len_words: u8,
    /// Zero.
    pub data_len: Len24,
    /// Zero.
    pub reserved_b: [u8; 8],
    /// Initiator task tag.
    pub itt: U32,
    /// Connection to close, if the reason is about one.
    pub cid: U16,
    /// Zero.
    pub reserved_c: [u8; 2],
    /// Command sequence number.
    pub cmd_sn: U32,
    /// Status sequence number the initiator expects next.
    pub exp_stat_sn: U32,
    /// Zero.
    pub reserved_d: [u8; 16],
}
header!(Request);

/// Logout Response.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Response {
    /// 0x26.
    pub opcode: u8,
    /// 0x80.
    pub flags: u8,
    /// An [`Outcome`].
    pub response: u8,
    /// Zero.
    pub reserved_a: u8,
    /// Zero.
    pub ahs_len_words: u8,
    /// Zero.
    pub data_len: Len24,
    /// Zero.
    pub reserved_b: [u8; 8],
    /// Initiator task tag of the request.
    pub itt: U32,
    /// Zero.
    pub reserved_c: U32,
    /// Status sequence number.
    pub stat_sn: U32,
    /// Next command sequence number the target expects.
    pub exp_cmd_sn: U32,
    /// Last command sequence number the target accepts.
    pub max_cmd_sn: U32,
    /// Zero.
    pub reserved_d: U32,
    /// Seconds to wait before a reconnection.
    pub time_to_wait_s: U16,
    /// Seconds after which the target forgets.
    pub time_to_retain_s: U16,
    /// Zero.
    pub reserved_e: U32,
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
                opcode: 0x46,
                flags: 0x81,
                reserved_a: [0; 2],
                ahs_len_words: 0,
                data_len: Len24::new(0),
                reserved_b: [0; 8],
                itt: 1.into(),
                cid: 2.into(),
                reserved_c: [0; 2],
                cmd_sn: 3.into(),
                exp_stat_sn: 4.into(),
                reserved_d: [0; 16],
            },
            "46810000 00000000 00000000 00000000 00000001 00020000 00000003 00000004
             00000000 00000000 00000000 00000000",
        );
        check_layout(
            Response {
                opcode: 0x26,
                flags: 0x80,
                response: Outcome::NoConnection as u8,
                reserved_a: 0,
                ahs_len_words: 0,
                data_len: Len24::new(0),
                reserved_b: [0; 8],
                itt: 1.into(),
                reserved_c: 0.into(),
                stat_sn: 2.into(),
                exp_cmd_sn: 3.into(),
                max_cmd_sn: 4.into(),
                reserved_d: 0.into(),
                time_to_wait_s: 5.into(),
                time_to_retain_s: 6.into(),
                reserved_e: 0.into(),
            },
            "26800100 00000000 00000000 00000000 00000001 00000000 00000002 00000003
             00000004 00000000 00050006 00000000",
        );
    }
}
