//! Login Request and Response (RFC 7143 §11.12, §11.13).

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Len24, header};

/// T bit: the sender is ready to move to the next stage.
pub const TRANSIT: u8 = 0x80;
/// C bit: the text goes on in the next PDU.
pub const CONTINUE: u8 = 0x40;

/// Login Request.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Request {
    /// 0x43: always immediate.
    pub opcode: u8,
    /// T, C, current and next stage.
    pub flags: u8,
    /// Highest version the initiator knows.
    pub version_max: u8,
    /// Lowest version the initiator knows.
    pub version_min: u8,
    /// Zero.
    pub ahs_len_words: u8,
    /// Length of the keys.
    pub data_len: Len24,
    /// Initiator's half of the session identifier.
    pub isid: [u8; 6],
    /// Target's half, 0 for a new session.
    pub tsih: U16,
    /// Initiator task tag, one for the whole login.
    pub itt: U32,
    /// Connection identifier.
    pub cid: U16,
    /// Zero.
    pub reserved_a: [u8; 2],
    /// First command sequence number.
    pub cmd_sn: U32,
    /// Status sequence number the initiator expects next.
    pub exp_stat_sn: U32,
    /// Zero.
    pub reserved_b: [u8; 16],
}
header!(Request);

/// Login Response.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Response {
    /// 0x23.
    pub opcode: u8,
    /// T, C, current and next stage.
    pub flags: u8,
    /// Highest version the target knows: 0.
    pub version_max: u8,
    /// Version in use: 0.
    pub version_active: u8,
    /// Zero.
    pub ahs_len_words: u8,
    /// Length of the keys.
    pub data_len: Len24,
    /// Initiator's half of the session identifier.
    pub isid: [u8; 6],
    /// Target's half, not 0 in the last response.
    pub tsih: U16,
    /// Initiator task tag of the request.
    pub itt: U32,
    /// Zero.
    pub reserved_a: U32,
    /// Status sequence number.
    pub stat_sn: U32,
    /// Next command sequence number the target expects.
    pub exp_cmd_sn: U32,
    /// Last command sequence number the target accepts.
    pub max_cmd_sn: U32,
    /// Status class and detail.
    pub status: U16,
    /// Zero.
    pub reserved_b: [u8; 10],
}
header!(Response);

/// Login status, class and detail (RFC 7143 §11.13.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

impl Status {
    /// Goes on.
    pub const SUCCESS: Self = Self(0x0000);
    /// Initiator error with no code of its own.
    pub const INITIATOR_ERROR: Self = Self(0x0200);
    /// Authentication failed.
    pub const AUTHENTICATION_FAILURE: Self = Self(0x0201);
    /// The initiator may not use this target.
    pub const FORBIDDEN: Self = Self(0x0202);
    /// No such target here.
    pub const NOT_FOUND: Self = Self(0x0203);
    /// No common protocol version.
    pub const UNSUPPORTED_VERSION: Self = Self(0x0205);
    /// No more connections in this session.
    pub const TOO_MANY_CONNECTIONS: Self = Self(0x0206);
    /// A mandatory key is missing.
    pub const MISSING_PARAMETER: Self = Self(0x0207);
    /// Session type not supported.
    pub const SESSION_TYPE: Self = Self(0x0209);
    /// The session named by the TSIH is not there.
    pub const NO_SESSION: Self = Self(0x020a);
    /// Request not allowed during login.
    pub const INVALID_REQUEST: Self = Self(0x020b);
    /// Not now: try again later. The only answer of a box that is not serving.
    pub const SERVICE_UNAVAILABLE: Self = Self(0x0301);
    /// Out of resources.
    pub const OUT_OF_RESOURCES: Self = Self(0x0302);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::tests::check_layout;

    #[test]
    fn request_layout() {
        check_layout(
            Request {
                opcode: 0x43,
                flags: 0x87,
                version_max: 0,
                version_min: 0,
                ahs_len_words: 0,
                data_len: Len24::new(0x55),
                isid: [0x80, 1, 2, 3, 4, 5],
                tsih: 6.into(),
                itt: 7.into(),
                cid: 8.into(),
                reserved_a: [0; 2],
                cmd_sn: 9.into(),
                exp_stat_sn: 10.into(),
                reserved_b: [0; 16],
            },
            "43870000 00000055 80010203 04050006 00000007 00080000 00000009 0000000a
             00000000 00000000 00000000 00000000",
        );
    }

    #[test]
    fn response_layout() {
        check_layout(
            Response {
                opcode: 0x23,
                flags: 0x87,
                version_max: 0,
                version_active: 0,
                ahs_len_words: 0,
                data_len: Len24::new(0x55),
                isid: [0x80, 1, 2, 3, 4, 5],
                tsih: 6.into(),
                itt: 7.into(),
                reserved_a: 0.into(),
                stat_sn: 8.into(),
                exp_cmd_sn: 9.into(),
                max_cmd_sn: 10.into(),
                status: Status::SERVICE_UNAVAILABLE.0.into(),
                reserved_b: [0; 10],
            },
            "23870000 00000055 80010203 04050006 00000007 00000000 00000008 00000009
             0000000a 03010000 00000000 00000000",
        );
    }
}
