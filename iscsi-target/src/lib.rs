//! A userspace iSCSI target: RFC 7143 sessions, SPC-4 and SBC-3 logical units, LUN masking.

pub mod types;
