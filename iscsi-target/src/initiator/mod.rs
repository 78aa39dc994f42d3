//! A small initiator: one session to one target, many commands at once.
//!
//! [`machine`] is the protocol without I/O; [`Session`] is a machine with a socket and a task. For
//! every command the caller learns whether a status was received: `Ok` means it was, any error
//! means that the target may or may not have carried out the command.

pub mod cdb;
mod login;
pub mod machine;
#[cfg(feature = "shell")]
mod session;
mod transfer;

use bytes::Bytes;

pub use crate::pdu::frame::Digest;
#[cfg(feature = "shell")]
pub use session::{Pending, Session, TargetRecord, discover};
pub use transfer::Order;

/// A name and the secret that proves it (RFC 7143 §12.1).
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// CHAP_N.
    pub name: String,
    /// The shared secret.
    pub secret: Vec<u8>,
}

// Secrets never reach a log.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What the initiator offers in the operational stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Digest of headers.
    pub header_digest: Digest,
    /// Digest of data.
    pub data_digest: Digest,
    /// Ask for permission before any Data-Out.
    pub initial_r2t: bool,
    /// Send data with the command.
    pub immediate_data: bool,
    /// Longest data segment accepted, in bytes.
    pub receive_max_bytes: usize,
    /// Longest solicited sequence, in bytes.
    pub burst_max_bytes: usize,
    /// Most unsolicited data of one command, in bytes.
    pub first_burst_bytes: usize,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            header_digest: Digest::None,
            data_digest: Digest::None,
            initial_r2t: false,
            immediate_data: true,
            receive_max_bytes: 262_144,
            burst_max_bytes: 1024 * 1024,
            first_burst_bytes: 262_144,
        }
    }
}

/// What to log in with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// iSCSI name of this initiator.
    pub initiator: String,
    /// iSCSI name of the target; none for a discovery session.
    pub target: Option<String>,
    /// This initiator port; the same one again replaces the older session.
    pub isid: [u8; 6],
    /// What this side proves.
    pub chap: Option<Credentials>,
    /// What the target must prove; only together with `chap`.
    pub mutual: Option<Credentials>,
    /// Operational keys.
    pub offer: Offer,
    /// Local address to connect from.
    pub bind_source: Option<core::net::IpAddr>,
    /// How long connecting and logging in may take, in milliseconds.
    pub timeout_ms: u64,
    /// The target is asked whether it is there after that much silence, in milliseconds.
    pub ping_after_ms: u64,
    /// The session is lost if the target does not answer within that time, in milliseconds.
    pub answer_within_ms: u64,
}

impl Login {
    /// A login without CHAP and digests.
    #[must_use]
    pub fn new(initiator: impl Into<String>, target: impl Into<String>) -> Self {
        Self {
            initiator: initiator.into(),
            target: Some(target.into()),
            isid: [0x80, 0, 0, 0, 0, 1],
            chap: None,
            mutual: None,
            offer: Offer::default(),
            bind_source: None,
            timeout_ms: 5000,
            ping_after_ms: 1000,
            answer_within_ms: 1500,
        }
    }
}

/// A status that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// SCSI status; 0 is GOOD.
    pub status: u8,
    /// Sense data, if there are any.
    pub sense: Bytes,
    /// Data of a read.
    pub data: Bytes,
    /// How the length of the command differs from what was expected.
    pub residual: Residual,
}

impl Response {
    /// Whether the status is GOOD.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        self.status == 0
    }

    /// Sense key, additional code and qualifier, from either layout (SPC-4 §4.5).
    #[must_use]
    pub fn sense_code(&self) -> Option<(u8, u8, u8)> {
        let sense = &self.sense;
        let at = |index: usize| sense.get(index).copied();
        match at(0)? & 0x7f {
            0x70 | 0x71 => Some((at(2)? & 0x0f, at(12)?, at(13)?)),
            0x72 | 0x73 => Some((at(1)? & 0x0f, at(2)?, at(3)?)),
            _ => None,
        }
    }
}

/// Difference between the expected and the command's own length, in bytes (RFC 7143 §11.4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// None.
    Exact,
    /// So much less was transferred.
    Underflow(u32),
    /// So much more would have been transferred.
    Overflow(u32),
}

/// A task management function and what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Management {
    /// ABORT TASK of one command.
    AbortTask {
        /// Logical unit of the command.
        lun: [u8; 8],
        /// Its tag.
        itt: u32,
    },
    /// ABORT TASK SET.
    AbortTaskSet([u8; 8]),
    /// CLEAR TASK SET.
    ClearTaskSet([u8; 8]),
    /// LOGICAL UNIT RESET.
    LogicalUnitReset([u8; 8]),
    /// TARGET WARM RESET.
    WarmReset,
    /// TARGET COLD RESET.
    ColdReset,
}

/// Why a login or a command has no proper end. No status was received.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InitiatorError {
    /// The connection could not be made or is gone.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The target did not answer in time.
    #[error("the target does not answer")]
    Timeout,
    /// The login was refused with this status (RFC 7143 §11.13.5).
    #[error("login refused with status 0x{0:04x}")]
    Refused(u16),
    /// The target did not prove who it is.
    #[error("the target failed to authenticate itself")]
    TargetUnproved,
    /// The target broke the protocol.
    #[error("protocol error of the target: {0}")]
    Protocol(&'static str),
    /// The command was aborted by task management.
    #[error("aborted")]
    Aborted,
    /// The target reported a failure below SCSI (response code of RFC 7143 §11.4.3).
    #[error("target failure, response 0x{0:02x}")]
    TargetFailure(u8),
    /// The target asked for a logout, which is done.
    #[error("logged out as the target asked")]
    AskedOut,
    /// The session was logged out.
    #[error("logged out")]
    LoggedOut,
}
