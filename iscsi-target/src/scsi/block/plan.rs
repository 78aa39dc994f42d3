//! What a command on blocks amounts to on a medium of a given size.

use super::{
    COMPARE_AND_WRITE_MAX_BLOCKS, PIECE_MAX_BYTES, Scanning, Span, TRANSFER_MAX_BYTES, Work,
};
use crate::backend::{Fua, Geometry, MayUnmap};
use crate::scsi::parse::{BlockCommand, Check, Extent};
use crate::scsi::sense::Sense;
use crate::scsi::{Reply, report};

impl Work {
    /// The work of a command, its extent checked. A write is at least as stable as `least`.
    pub(crate) fn plan(
        command: BlockCommand,
        geometry: &Geometry,
        least: Fua,
    ) -> Result<Self, Sense> {
        let stable = |fua| if least == Fua::Yes { Fua::Yes } else { fua };
        let span = |extent| Span::of(extent, geometry);
        let transfer = |extent| span(extent)?.at_most(TRANSFER_MAX_BYTES);
        Ok(match command {
            BlockCommand::ReadCapacity10 => {
                Self::Confirm(Reply::data(report::capacity_10(geometry).into()))
            }
            BlockCommand::ReadCapacity16 { allocation_bytes } => Self::Confirm(Reply::truncated(
                report::capacity_16(geometry),
                allocation_bytes,
            )),
            BlockCommand::Read { extent } => Self::Read(transfer(extent)?),
            BlockCommand::Write { extent, fua } => Self::Write {
                span: transfer(extent)?,
                fua: stable(fua),
            },
            BlockCommand::OrWrite { extent, fua } => {
                let span = span(extent)?.at_most(PIECE_MAX_BYTES)?;
                Self::OrWrite {
                    span,
                    fua: stable(fua),
                }
            }
            BlockCommand::LbaStatus {
                lba,
                allocation_bytes,
            } => Self::Scan(Scanning::new(lba, allocation_bytes, geometry)?),
            BlockCommand::WriteAndVerify { extent, check } => Self::WriteAndVerify {
                span: transfer(extent)?,
                check,
            },
            BlockCommand::Verify { extent, check } => {
                let span = if check == Check::Data {
                    transfer(extent)?
                } else {
                    span(extent)?
                };
                Self::Verify { span, check }
            }
            BlockCommand::CompareAndWrite { extent, fua } => {
                let span = comparable(extent, geometry)?;
                Self::CompareAndWrite {
                    span,
                    fua: stable(fua),
                }
            }
            BlockCommand::WriteSame {
                extent,
                unmap,
                source,
            } => {
                let span = repeatable(extent, unmap, geometry)?;
                Self::WriteSame {
                    span,
                    unmap,
                    source,
                    fua: stable(Fua::No),
                }
            }
            BlockCommand::Unmap { list_bytes } => Self::Unmap { list_bytes },
            BlockCommand::Synchronize { extent } => {
                open_ended(extent, geometry)?;
                Self::Synchronize
            }
            // Nothing is cached here that a read would not find anyway.
            BlockCommand::Prefetch { extent } => {
                open_ended(extent, geometry)?;
                Self::Confirm(Reply::good())
            }
        })
    }
}

/// A span in which a count of zero means to the end of the medium.
fn open_ended(extent: Extent, geometry: &Geometry) -> Result<Span, Sense> {
    match extent {
        Extent { lba, blocks: 0 } => Span::to_end(lba, geometry),
        extent => Span::of(extent, geometry),
    }
}

fn comparable(extent: Extent, geometry: &Geometry) -> Result<Span, Sense> {
    if extent.blocks > u64::from(COMPARE_AND_WRITE_MAX_BLOCKS) {
        return Err(Sense::CDB_FIELD);
    }
    Span::of(extent, geometry)
}

fn repeatable(extent: Extent, unmap: MayUnmap, geometry: &Geometry) -> Result<Span, Sense> {
    if unmap == MayUnmap::Yes && !geometry.thin {
        return Err(Sense::CDB_FIELD);
    }
    open_ended(extent, geometry)
}
