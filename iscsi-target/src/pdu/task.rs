//! Task Management Function Request and Response (RFC 7143 §11.5, §11.6).

use zerocopy::byteorder::network_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Len24, header};

/// ABORT TASK.
pub const ABORT_TASK: u8 = 1;
/// ABORT TASK SET.
pub const ABORT_TASK_SET: u8 = 2;
/// CLEAR ACA.
pub const CLEAR_ACA: u8 = 3;
/// CLEAR TASK SET.
pub const CLEAR_TASK_SET: u8 = 4;
/// LOGICAL UNIT RESET.
pub const LOGICAL_UNIT_RESET: u8 = 5;
/// TARGET WARM RESET.
pub const TARGET_WARM_RESET: u8 = 6;
/// TARGET COLD RESET.
pub const TARGET_COLD_RESET: u8 = 7;
/// TASK REASSIGN.
pub const TASK_REASSIGN: u8 = 8;

/// Outcome of a task management function (RFC 7143 §11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// Done.
    Complete = 0,
    /// The referenced task is not there (any more).
    NoTask = 1,
    /// No such logical unit.
    NoUnit = 2,
    /// No reassignment at error recovery level 0.
    NoReassign = 4,
    /// Function not supported.
    Unsupported = 5,
    /// Refused.
    Rejected = 255,
}

/// Task Management Function Request.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Request {
    /// 0x02, usually immediate.
    pub opcode: u8,
    /// 0x80 and the function.
    pub flags: u8,
    /// Zero.
    pub reserved_a: [u8; 2],
    /// Zero.
    pub ahs_len_words: u8,
    /// Zero.
    pub data_len: Len24,
    /// Logical unit, if the function has one.
    pub lun: [u8; 8],
    /// Initiator task tag of this request.
    pub itt: U32,
    /// Initiator task tag of the task to abort.
    pub referenced_itt: U32,
    /// Command sequence number.
    pub cmd_sn: U32,
    /// Status sequence number the initiator expects next.
    pub exp_stat_sn: U32,
    /// Command sequence number of the task to abort.
    pub ref_cmd_sn: U32,
    /// Only for TASK REASSIGN.
    pub exp_data_sn: U32,
    /// Zero.
    pub reserved_b: [u8; 8],
}
header!(Request);

/// Task Management Function Response.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Response {
    /// 0x22.
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
    pub reserved_d: [u8; 12],
}
header!(Response);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::tests::check_layout;

    #[test]
    fn request_layout() {
        check_layout(
            Request {
                opcode: 0x42,
                flags: 0x81,
                reserved_a: [0; 2],
                ahs_len_words: 0,
                data_len: Len24::new(0),
                lun: [0, 1, 0, 0, 0, 0, 0, 0],
                itt: 2.into(),
                referenced_itt: 3.into(),
                cmd_sn: 4.into(),
                exp_stat_sn: 5.into(),
                ref_cmd_sn: 6.into(),
                exp_data_sn: 7.into(),
                reserved_b: [0; 8],
            },
            "42810000 00000000 00010000 00000000 00000002 00000003 00000004 00000005
             00000006 00000007 00000000 00000000",
        );
    }

    #[test]
    fn response_layout() {
        check_layout(
            Response {
                opcode: 0x22,
                flags: 0x80,
                response: Outcome::Rejected as u8,
                reserved_a: 0,
                ahs_len_words: 0,
                data_len: Len24::new(0),
                reserved_b: [0; 8],
                itt: 2.into(),
                reserved_c: 0.into(),
                stat_sn: 3.into(),
                exp_cmd_sn: 4.into(),
                max_cmd_sn: 5.into(),
                reserved_d: [0; 12],
            },
            "2280ff00 00000000 00000000 00000000 00000002 00000000 00000003 00000004
             00000005 00000000 00000000 00000000",
        );
    }
}
