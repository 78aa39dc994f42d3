//! A userspace iSCSI target: RFC 7143 sessions, SPC-4 and SBC-3 logical units, LUN masking.

pub mod backend;
pub mod hosts;
pub mod memory;
pub mod scsi;
pub mod types;
