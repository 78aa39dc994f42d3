//! Reports: capacity, defects, units, target port groups, task management, logs (SBC-3 §5.15 to
//! §5.18, SPC-4 §6.33 to §6.37 and §7.3).

use std::collections::BTreeMap;

use super::array::Portal;
use super::parse::{DefectHeader, GroupHeader, LogPage, LunSelect, ManagementData, Report};
use crate::backend::Geometry;
use crate::hosts::View;

/// READ CAPACITY (10): a capacity that does not fit is all ones.
pub(crate) fn capacity_10(geometry: &Geometry) -> Vec<u8> {
    let last = u32::try_from(geometry.blocks.saturating_sub(1)).unwrap_or(u32::MAX);
    [last.to_be_bytes(), geometry.block_bytes.to_be_bytes()].concat()
}

/// READ CAPACITY (16).
pub(crate) fn capacity_16(geometry: &Geometry) -> Vec<u8> {
    let mut data = vec![0; 32];
    data[..8].copy_from_slice(&geometry.blocks.saturating_sub(1).to_be_bytes());
    data[8..12].copy_from_slice(&geometry.block_bytes.to_be_bytes());
    data[13] = geometry.physical_block_exponent & 0x0f;
    if geometry.thin {
        data[14] = 0xc0; // LBPME, LBPRZ
    }
    data
}

/// REPORT LUNS.
pub(crate) fn luns(select: LunSelect, view: &View) -> Vec<u8> {
    let mut data = vec![0; 8];
    if select == LunSelect::Units {
        data.extend(view.keys().flat_map(|lun| [0, *lun, 0, 0, 0, 0, 0, 0]));
    }
    let len = u32::try_from(data.len() - 8).expect("at most 256 units");
    data[..4].copy_from_slice(&len.to_be_bytes());
    data
}

/// REPORT TARGET PORT GROUPS: every group is active/optimised wherever it is served, so that a
/// service address means the same before and after it moved.
pub(crate) fn port_groups(header: GroupHeader, portals: &[Portal]) -> Vec<u8> {
    let mut data = vec![0; 4];
    if header == GroupHeader::Extended {
        data.extend([0x10, IMPLICIT_TRANSITION_SECONDS, 0, 0]);
    }
    let mut groups: BTreeMap<u16, Vec<u16>> = BTreeMap::new();
    for portal in portals {
        groups
            .entry(portal.group)
            .or_default()
            .push(portal.relative_port);
    }
    for (group, ports) in groups {
        let count = u8::try_from(ports.len()).expect("ports per group are bounded at their entry");
        data.extend([ACTIVE_OPTIMIZED, SUPPORTS_ACTIVE_OPTIMIZED]);
        data.extend(group.to_be_bytes());
        data.extend([0, STATUS_NONE, 0, count]);
        for port in ports {
            data.extend([0, 0]);
            data.extend(port.to_be_bytes());
        }
    }
    let len = u32::try_from(data.len() - 4).expect("portals are bounded at their entry");
    data[..4].copy_from_slice(&len.to_be_bytes());
    data
}

/// A report that is the same for every unit.
pub(crate) fn constant(report: Report) -> Vec<u8> {
    match report {
        Report::TaskManagement(data) => task_management(data),
        Report::Defects(header, lists) => defects(header, lists),
        Report::Log(page) => log(page),
    }
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS: as `session` answers them.
fn task_management(data: ManagementData) -> Vec<u8> {
    let supported = ATS | ATSS | CTSS | LURS | TRS;
    match data {
        ManagementData::Basic => vec![supported, 0, 0, 0],
        ManagementData::Extended => {
            let mut data = vec![0; 16];
            data[0] = supported;
            data[3] = 12;
            // No time-out is named: TMFTMOV is zero.
            data
        }
    }
}

/// READ DEFECT DATA: the lists asked for, in the format asked for, without entries.
fn defects(header: DefectHeader, lists: u8) -> Vec<u8> {
    match header {
        DefectHeader::Ten => vec![0, lists, 0, 0],
        DefectHeader::Twelve => vec![0, lists, 0, 0, 0, 0, 0, 0],
    }
}

/// LOG SENSE. There is no page of counters: the store behind a unit keeps none.
fn log(page: LogPage) -> Vec<u8> {
    let (code, subpage, body): (u8, u8, &[u8]) = match page {
        LogPage::Supported => (0x00, 0x00, &[0x00, 0x2f]),
        LogPage::SupportedWithSubpages => (0x40, 0xff, &[0x00, 0x00, 0x00, 0xff, 0x2f, 0x00]),
        // Parameter 0, a binary list of four bytes: no exception, no temperature known.
        LogPage::InformationalExceptions => (0x2f, 0x00, &[0, 0, 0x03, 4, 0, 0, 0xff, 0]),
    };
    let len = u16::try_from(body.len()).expect("a page is short");
    let mut data = vec![code, subpage];
    data.extend(len.to_be_bytes());
    data.extend(body);
    data
}

/// ABORT TASK.
const ATS: u8 = 0x80;
/// ABORT TASK SET.
const ATSS: u8 = 0x40;
/// CLEAR TASK SET.
const CTSS: u8 = 0x10;
/// LOGICAL UNIT RESET.
const LURS: u8 = 0x08;
/// TARGET RESET.
const TRS: u8 = 0x02;

const ACTIVE_OPTIMIZED: u8 = 0x00;
const SUPPORTS_ACTIVE_OPTIMIZED: u8 = 0x01;
const STATUS_NONE: u8 = 0x00;

/// How long a path may stay silent during a move before an initiator should give it up.
const IMPLICIT_TRANSITION_SECONDS: u8 = 15;
