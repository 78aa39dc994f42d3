//! A userspace iSCSI target: RFC 7143 sessions, SPC-4 and SBC-3 logical units, LUN masking.

pub mod auth;
pub mod backend;
pub mod budget;
pub mod connection;
pub mod discovery;
pub mod hosts;
#[cfg(feature = "initiator")]
pub mod initiator;
pub mod login;
pub mod memory;
pub mod negotiate;
pub mod pdu;
pub mod registry;
pub mod scsi;
pub mod session;
#[cfg(feature = "shell")]
pub mod shell;
pub mod task;
pub mod text;
pub mod types;
pub mod window;
