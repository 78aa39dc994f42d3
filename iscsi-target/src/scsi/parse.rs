//! From a CDB to a typed [`Command`]: parsed once, here; nothing behind it looks at a CDB again.

use super::cdb::{
    Block6, Block10, Block12, Block16, CDB_BYTES, CompareAndWrite, Inquiry, LogSense,
    MaintenanceIn, Mode6, Mode10, ReadDefects10, ReadDefects12, ReportLuns, RequestSense,
    StartStop, Unmap, view,
};
use super::copy::CopyQuery;
use super::reservation::Asked;
use super::sense::{Sense, SenseFormat};
use super::tray::{Removal, TrayMove};
use crate::backend::{Fua, MayUnmap};

/// A command with its fields checked, except against the size of the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    TestUnitReady,
    RequestSense {
        format: SenseFormat,
        allocation_bytes: usize,
    },
    Inquiry {
        page: Option<u8>,
        allocation_bytes: usize,
    },
    ReportLuns {
        select: LunSelect,
        allocation_bytes: usize,
    },
    ReportOpcodes {
        query: OpcodeQuery,
        timeouts: Timeouts,
        allocation_bytes: usize,
    },
    ReportPortGroups {
        header: GroupHeader,
        allocation_bytes: usize,
    },
    Report {
        report: Report,
        allocation_bytes: usize,
    },
    ExtendedCopy {
        list_bytes: usize,
    },
    CopyResults {
        query: CopyQuery,
        allocation_bytes: usize,
    },
    ModeSense(ModeSense),
    ModeSelect {
        header: ModeHeader,
        list_bytes: usize,
    },
    StartStop {
        tray_move: Option<TrayMove>,
    },
    PreventAllow(Removal),
    Reservation(Asked),
    Blocks(BlockCommand),
}

/// The commands that are about the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockCommand {
    ReadCapacity10,
    ReadCapacity16 {
        allocation_bytes: usize,
    },
    Read {
        extent: Extent,
    },
    Prefetch {
        extent: Extent,
    },
    Synchronize {
        extent: Extent,
    },
    OrWrite {
        extent: Extent,
        fua: Fua,
    },
    LbaStatus {
        lba: u64,
        allocation_bytes: usize,
    },
    Write {
        extent: Extent,
        fua: Fua,
    },
    WriteAndVerify {
        extent: Extent,
        check: Check,
    },
    Verify {
        extent: Extent,
        check: Check,
    },
    CompareAndWrite {
        extent: Extent,
        fua: Fua,
    },
    WriteSame {
        extent: Extent,
        unmap: MayUnmap,
        source: Pattern,
    },
    Unmap {
        list_bytes: usize,
    },
}

/// A run of logical blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) lba: u64,
    pub(crate) blocks: u64,
}

/// BYTCHK: what a verification compares with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// The blocks need only be readable.
    Medium,
    /// Each block with its own data.
    Data,
    /// Every block with the same one block of data.
    OneBlock,
}

/// Where WRITE SAME has its block from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// The initiator sends it.
    DataOut,
    /// NDOB: zeroes.
    Zeroes,
}

/// SELECT REPORT of REPORT LUNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LunSelect {
    /// Every unit that is not a well-known one: here, every unit.
    Units,
    /// Well-known units: there are none.
    WellKnown,
}

/// REPORTING OPTIONS of REPORT SUPPORTED OPERATION CODES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpcodeQuery {
    All,
    /// One operation code that has no service actions.
    Plain(u8),
    /// One service action of an operation code that has some.
    Action(u8, u16),
    /// Either; the service action counts only if the operation code has some.
    Either(u8, u16),
}

/// RCTD: whether descriptors of time-outs are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timeouts {
    Wanted,
    Omitted,
}

/// Reports that are the same for every unit, at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    TaskManagement(ManagementData),
    /// The lists and the format that were asked for.
    Defects(DefectHeader, u8),
    Log(LogPage),
}

/// REPD: how much REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ManagementData {
    Basic,
    Extended,
}

/// Which size of defect list header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DefectHeader {
    Ten,
    Twelve,
}

/// A page of LOG SENSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogPage {
    Supported,
    SupportedWithSubpages,
    InformationalExceptions,
}

/// PARAMETER DATA FORMAT of REPORT TARGET PORT GROUPS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupHeader {
    LengthOnly,
    Extended,
}

/// Which size of mode parameter header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModeHeader {
    Six,
    Ten,
}

/// PC of MODE SENSE; saved values do not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageControl {
    Current,
    Changeable,
    Default,
}

/// Block descriptors of MODE SENSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockDescriptor {
    None,
    Short,
    Long,
}

/// MODE SENSE (6) and (10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModeSense {
    pub(crate) header: ModeHeader,
    pub(crate) descriptor: BlockDescriptor,
    pub(crate) control: PageControl,
    pub(crate) page: u8,
    pub(crate) subpage: u8,
    pub(crate) allocation_bytes: usize,
}

/// How one command is parsed.
pub(crate) type Parse = fn(&[u8; CDB_BYTES]) -> Result<Command, Sense>;

pub(crate) fn test_unit_ready(_: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    Ok(Command::TestUnitReady)
}

pub(crate) fn request_sense(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &RequestSense = view(cdb);
    let descriptor = layout.flags & 0x01 != 0;
    let format = if descriptor {
        SenseFormat::Descriptor
    } else {
        SenseFormat::Fixed
    };
    Ok(Command::RequestSense {
        format,
        allocation_bytes: layout.allocation_bytes.into(),
    })
}

pub(crate) fn inquiry(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &Inquiry = view(cdb);
    let allocation_bytes = layout.allocation_bytes.get().into();
    match (layout.flags & 0x03, layout.page) {
        (0, 0) => Ok(Command::Inquiry {
            page: None,
            allocation_bytes,
        }),
        (1, page) => Ok(Command::Inquiry {
            page: Some(page),
            allocation_bytes,
        }),
        // A page without EVPD, or the obsolete CMDDT.
        _ => Err(Sense::CDB_FIELD),
    }
}

pub(crate) fn report_luns(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &ReportLuns = view(cdb);
    let select = match layout.select {
        0x00 | 0x02 => LunSelect::Units,
        0x01 => LunSelect::WellKnown,
        _ => return Err(Sense::CDB_FIELD),
    };
    Ok(Command::ReportLuns {
        select,
        allocation_bytes: size(layout.allocation_bytes.get()),
    })
}

pub(crate) fn report_opcodes(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &MaintenanceIn = view(cdb);
    let (opcode, action) = (layout.requested_opcode, layout.requested_action.get());
    let query = match layout.options & 0x07 {
        0 => OpcodeQuery::All,
        1 => OpcodeQuery::Plain(opcode),
        2 => OpcodeQuery::Action(opcode, action),
        3 => OpcodeQuery::Either(opcode, action),
        _ => return Err(Sense::CDB_FIELD),
    };
    let wanted = layout.options & 0x80 != 0;
    let timeouts = if wanted {
        Timeouts::Wanted
    } else {
        Timeouts::Omitted
    };
    let allocation_bytes = size(layout.allocation_bytes.get());
    Ok(Command::ReportOpcodes {
        query,
        timeouts,
        allocation_bytes,
    })
}

pub(crate) fn report_port_groups(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &MaintenanceIn = view(cdb);
    let header = match layout.service_action >> 5 {
        0 => GroupHeader::LengthOnly,
        1 => GroupHeader::Extended,
        _ => return Err(Sense::CDB_FIELD),
    };
    let allocation_bytes = size(layout.allocation_bytes.get());
    Ok(Command::ReportPortGroups {
        header,
        allocation_bytes,
    })
}

pub(crate) fn report_task_management(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &MaintenanceIn = view(cdb);
    let extended = layout.options & 0x80 != 0;
    let data = if extended {
        ManagementData::Extended
    } else {
        ManagementData::Basic
    };
    let allocation_bytes = size(layout.allocation_bytes.get());
    // SPC-4 §6.36: room for the four bytes that everybody gets.
    if allocation_bytes < 4 {
        return Err(Sense::CDB_FIELD);
    }
    Ok(Command::Report {
        report: Report::TaskManagement(data),
        allocation_bytes,
    })
}

pub(crate) fn log_sense(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &LogSense = view(cdb);
    // Nothing can be saved (SP), and every page has parameter 0 at most.
    if layout.flags & 0x01 != 0 || layout.parameter.get() != 0 {
        return Err(Sense::CDB_FIELD);
    }
    // PC tells apart values that lists, the only kind here, do not have (SPC-4 §7.3.2.2).
    let page = match (layout.page & 0x3f, layout.subpage) {
        (0x00, 0x00) => LogPage::Supported,
        (0x00, 0xff) => LogPage::SupportedWithSubpages,
        (0x2f, 0x00) => LogPage::InformationalExceptions,
        _ => return Err(Sense::CDB_FIELD),
    };
    Ok(Command::Report {
        report: Report::Log(page),
        allocation_bytes: layout.allocation_bytes.get().into(),
    })
}

pub(crate) fn read_defects_10(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &ReadDefects10 = view(cdb);
    let allocation_bytes = layout.allocation_bytes.get().into();
    read_defects(DefectHeader::Ten, layout.lists, allocation_bytes)
}

pub(crate) fn read_defects_12(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &ReadDefects12 = view(cdb);
    let allocation_bytes = size(layout.allocation_bytes.get());
    read_defects(DefectHeader::Twelve, layout.lists, allocation_bytes)
}

/// REQ_PLIST, REQ_GLIST and the format, which a list without entries has whatever it is.
fn read_defects(
    header: DefectHeader,
    lists: u8,
    allocation_bytes: usize,
) -> Result<Command, Sense> {
    // 110b is for vendors, 111b is reserved.
    if lists & 0x06 == 0x06 {
        return Err(Sense::CDB_FIELD);
    }
    Ok(Command::Report {
        report: Report::Defects(header, lists & 0x1f),
        allocation_bytes,
    })
}

pub(crate) fn mode_sense_6(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &Mode6 = view(cdb);
    let descriptor = match layout.flags & 0x08 {
        0 => BlockDescriptor::Short,
        _ => BlockDescriptor::None,
    };
    Ok(Command::ModeSense(ModeSense {
        header: ModeHeader::Six,
        descriptor,
        control: page_control(layout.page)?,
        page: layout.page & 0x3f,
        subpage: layout.subpage,
        allocation_bytes: layout.len_bytes.into(),
    }))
}

pub(crate) fn mode_sense_10(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &Mode10 = view(cdb);
    let descriptor = match (layout.flags & 0x08, layout.flags & 0x10) {
        (0, 0) => BlockDescriptor::Short,
        (0, _) => BlockDescriptor::Long,
        _ => BlockDescriptor::None,
    };
    Ok(Command::ModeSense(ModeSense {
        header: ModeHeader::Ten,
        descriptor,
        control: page_control(layout.page)?,
        page: layout.page & 0x3f,
        subpage: layout.subpage,
        allocation_bytes: layout.len_bytes.get().into(),
    }))
}

pub(crate) fn mode_select_6(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &Mode6 = view(cdb);
    mode_select(layout.flags, ModeHeader::Six, layout.len_bytes.into())
}

pub(crate) fn mode_select_10(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &Mode10 = view(cdb);
    mode_select(layout.flags, ModeHeader::Ten, layout.len_bytes.get().into())
}

pub(crate) fn read_capacity_10(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &Block10 = view(cdb);
    // SBC-3: the address must be zero when the obsolete PMI is.
    let asks_more = layout.lba.get() != 0 || cdb[8] & 0x01 != 0;
    if asks_more {
        Err(Sense::CDB_FIELD)
    } else {
        Ok(Command::Blocks(BlockCommand::ReadCapacity10))
    }
}

pub(crate) fn read_capacity_16(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &Block16 = view(cdb);
    if layout.lba.get() != 0 || layout.group & 0x01 != 0 {
        return Err(Sense::CDB_FIELD);
    }
    Ok(Command::Blocks(BlockCommand::ReadCapacity16 {
        allocation_bytes: size(layout.blocks.get()),
    }))
}

pub(crate) fn start_stop(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &StartStop = view(cdb);
    let (power, load_eject, start) = (layout.flags >> 4, layout.flags & 0x02, layout.flags & 0x01);
    // With a power condition START and LOEJ are ignored.
    let tray_move = match (power, load_eject, start) {
        (0, 0x02, 0) => Some(TrayMove::Eject),
        (0, 0x02, _) => Some(TrayMove::Load),
        _ => None,
    };
    Ok(Command::StartStop { tray_move })
}

pub(crate) fn prevent_allow(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    match cdb[4] & 0x03 {
        0 => Ok(Command::PreventAllow(Removal::Allow)),
        1 => Ok(Command::PreventAllow(Removal::Prevent)),
        _ => Err(Sense::CDB_FIELD),
    }
}

pub(crate) fn read(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let (extent, flags) = addressed(cdb);
    unprotected(flags)?;
    Ok(Command::Blocks(BlockCommand::Read { extent }))
}

pub(crate) fn prefetch(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    Ok(Command::Blocks(BlockCommand::Prefetch {
        extent: addressed(cdb).0,
    }))
}

pub(crate) fn synchronize(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    Ok(Command::Blocks(BlockCommand::Synchronize {
        extent: addressed(cdb).0,
    }))
}

pub(crate) fn write(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let (extent, flags) = addressed(cdb);
    unprotected(flags)?;
    Ok(Command::Blocks(BlockCommand::Write {
        extent,
        fua: fua(flags),
    }))
}

pub(crate) fn or_write(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let (extent, flags) = addressed(cdb);
    unprotected(flags)?;
    Ok(Command::Blocks(BlockCommand::OrWrite {
        extent,
        fua: fua(flags),
    }))
}

pub(crate) fn lba_status(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &Block16 = view(cdb);
    let (lba, allocation_bytes) = (layout.lba.get(), size(layout.blocks.get()));
    Ok(Command::Blocks(BlockCommand::LbaStatus {
        lba,
        allocation_bytes,
    }))
}

pub(crate) fn write_and_verify(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let (extent, flags) = addressed(cdb);
    unprotected(flags)?;
    match check(flags)? {
        // SBC-3 reserves 11b for this command: the data are as long as the extent.
        Check::OneBlock => Err(Sense::CDB_FIELD),
        check @ (Check::Medium | Check::Data) => {
            Ok(Command::Blocks(BlockCommand::WriteAndVerify {
                extent,
                check,
            }))
        }
    }
}

pub(crate) fn verify(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let (extent, flags) = addressed(cdb);
    unprotected(flags)?;
    Ok(Command::Blocks(BlockCommand::Verify {
        extent,
        check: check(flags)?,
    }))
}

pub(crate) fn compare_and_write(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &CompareAndWrite = view(cdb);
    unprotected(layout.flags)?;
    let extent = Extent {
        lba: layout.lba.get(),
        blocks: layout.blocks.into(),
    };
    Ok(Command::Blocks(BlockCommand::CompareAndWrite {
        extent,
        fua: fua(layout.flags),
    }))
}

pub(crate) fn write_same(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let (extent, flags) = addressed(cdb);
    unprotected(flags)?;
    // ANCHOR is not supported, PBDATA and LBDATA are obsolete; only the long form has NDOB.
    let long = cdb[0] == 0x93;
    if flags & 0x16 != 0 || (flags & 0x01 != 0 && !long) {
        return Err(Sense::CDB_FIELD);
    }
    let unmap = if flags & 0x08 != 0 {
        MayUnmap::Yes
    } else {
        MayUnmap::No
    };
    let source = if flags & 0x01 != 0 {
        Pattern::Zeroes
    } else {
        Pattern::DataOut
    };
    Ok(Command::Blocks(BlockCommand::WriteSame {
        extent,
        unmap,
        source,
    }))
}

pub(crate) fn unmap(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &Unmap = view(cdb);
    // ANCHOR is not supported.
    if layout.flags & 0x01 != 0 {
        return Err(Sense::CDB_FIELD);
    }
    Ok(Command::Blocks(BlockCommand::Unmap {
        list_bytes: layout.list_bytes.get().into(),
    }))
}

/// Address, count and flags of a command on blocks; the group code tells the layout (SPC-4 §4.2).
fn addressed(cdb: &[u8; CDB_BYTES]) -> (Extent, u8) {
    match cdb[0] >> 5 {
        0 => {
            let layout: &Block6 = view(cdb);
            let high = u64::from(layout.lba_high & 0x1f) << 16;
            // Zero means 256 (SBC-3, READ (6)).
            let blocks = if layout.blocks == 0 {
                256
            } else {
                layout.blocks.into()
            };
            (
                Extent {
                    lba: high | u64::from(layout.lba_low.get()),
                    blocks,
                },
                0,
            )
        }
        4 => {
            let layout: &Block16 = view(cdb);
            let blocks = layout.blocks.get().into();
            (
                Extent {
                    lba: layout.lba.get(),
                    blocks,
                },
                layout.flags,
            )
        }
        5 => {
            let layout: &Block12 = view(cdb);
            let blocks = layout.blocks.get().into();
            (
                Extent {
                    lba: layout.lba.get().into(),
                    blocks,
                },
                layout.flags,
            )
        }
        _ => {
            let layout: &Block10 = view(cdb);
            let blocks = layout.blocks.get().into();
            (
                Extent {
                    lba: layout.lba.get().into(),
                    blocks,
                },
                layout.flags,
            )
        }
    }
}

/// RDPROTECT, WRPROTECT and VRPROTECT: no unit has protection information.
fn unprotected(flags: u8) -> Result<(), Sense> {
    if flags & 0xe0 == 0 {
        Ok(())
    } else {
        Err(Sense::CDB_FIELD)
    }
}

fn fua(flags: u8) -> Fua {
    if flags & 0x08 != 0 { Fua::Yes } else { Fua::No }
}

fn check(flags: u8) -> Result<Check, Sense> {
    match flags >> 1 & 0x03 {
        0 => Ok(Check::Medium),
        1 => Ok(Check::Data),
        3 => Ok(Check::OneBlock),
        _ => Err(Sense::CDB_FIELD),
    }
}

fn page_control(byte: u8) -> Result<PageControl, Sense> {
    match byte >> 6 {
        0 => Ok(PageControl::Current),
        1 => Ok(PageControl::Changeable),
        2 => Ok(PageControl::Default),
        _ => Err(Sense::SAVING),
    }
}

fn mode_select(flags: u8, header: ModeHeader, list_bytes: usize) -> Result<Command, Sense> {
    // PF must be set, SP cannot be obeyed.
    if flags & 0x11 != 0x10 {
        return Err(Sense::CDB_FIELD);
    }
    Ok(Command::ModeSelect { header, list_bytes })
}

/// A 32-bit length; `usize` is never smaller here.
pub(crate) fn size(len_bytes: u32) -> usize {
    const { assert!(size_of::<usize>() >= size_of::<u32>()) };
    len_bytes as usize
}
