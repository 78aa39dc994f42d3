//! The commands about copies (SPC-4 §6.4 and §6.17 to §6.24).

use crate::scsi::cdb::{CDB_BYTES, ThirdPartyCopy, view};
use crate::scsi::parse::{Command, size};
use crate::scsi::sense::Sense;

/// What RECEIVE COPY RESULTS asks; the copy is one of its nexus and unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopyQuery {
    Status(u8),
    OperatingParameters,
    FailedSegment(u8),
}

pub(crate) fn extended_copy(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &ThirdPartyCopy = view(cdb);
    Ok(Command::ExtendedCopy {
        list_bytes: size(layout.len_bytes.get()),
    })
}

pub(crate) fn copy_results(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &ThirdPartyCopy = view(cdb);
    let query = match layout.service_action & 0x1f {
        0x00 => CopyQuery::Status(layout.list_id),
        0x03 => CopyQuery::OperatingParameters,
        0x04 => CopyQuery::FailedSegment(layout.list_id),
        _ => return Err(Sense::CDB_FIELD),
    };
    Ok(Command::CopyResults {
        query,
        allocation_bytes: size(layout.len_bytes.get()),
    })
}
