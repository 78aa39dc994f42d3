//! CDBs of PERSISTENT RESERVE IN and OUT, RESERVE and RELEASE, and the parameter list of OUT.

use super::super::cdb::{CDB_BYTES, PersistentIn, PersistentOut, view};
use super::super::parse::Command;
use super::super::sense::Sense;
use super::{InitiatorPort, Key, Kind, REGISTRATIONS_MAX, transport_id};

/// Service action of PERSISTENT RESERVE IN (SPC-4 table 151).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InAction {
    ReadKeys,
    ReadReservation,
    ReportCapabilities,
    ReadFullStatus,
}

/// CDB of PERSISTENT RESERVE OUT (SPC-4 table 167); the rest comes with its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Out {
    action: Action,
    pub(crate) list_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Register,
    Reserve(Kind),
    /// None if there is no such type: then nobody holds such a reservation.
    Release(Option<Kind>),
    Clear,
    Preempt(Kind, Abort),
    RegisterIgnoring,
    RegisterMoving,
}

/// Whether preempted nexuses lose their commands too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abort {
    Yes,
    No,
}

/// RESERVE and RELEASE (SPC-2 §7.17, §7.21).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Legacy {
    Reserve,
    Release,
}

/// A command that is about reservations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    In {
        action: InAction,
        allocation_bytes: usize,
    },
    Out(Out),
    Legacy(Legacy),
}

/// A whole PERSISTENT RESERVE OUT. APTPL is not kept: every state survives a loss of power.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OutAction {
    Register(Register),
    RegisterIgnoring { new_key: Key, ports: TargetPorts },
    Reserve { key: Key, kind: Kind },
    Release { key: Key, kind: Option<Kind> },
    Clear { key: Key },
    Preempt(Preempt),
    Move(Move),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Register {
    pub(crate) key: Key,
    pub(crate) new_key: Key,
    /// SPEC_I_PT, and whom it lists.
    pub(crate) also: Option<Vec<InitiatorPort>>,
    pub(crate) ports: TargetPorts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Preempt {
    pub(crate) key: Key,
    pub(crate) victim: Key,
    pub(crate) kind: Kind,
    pub(crate) abort: Abort,
}

/// REGISTER AND MOVE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) key: Key,
    pub(crate) new_key: Key,
    pub(crate) mover: Mover,
    pub(crate) to: InitiatorPort,
    pub(crate) target_port: u16,
}

/// ALL_TG_PT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetPorts {
    /// That of the nexus.
    Own,
    All,
}

/// UNREG: what becomes of the nexus that moves its reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mover {
    Stays,
    Unregisters,
}

/// The list of all but REGISTER AND MOVE, without TransportIDs (SPC-4 table 170).
const BASIC_BYTES: usize = 24;
/// No list is longer: every TransportID that could be registered.
const LIST_BYTES_MAX: usize = BASIC_BYTES + 4 + REGISTRATIONS_MAX * transport_id::BYTES_MAX;
const SPEC_I_PT: u8 = 0x08;
const ALL_TG_PT: u8 = 0x04;
const UNREG: u8 = 0x02;

pub(crate) fn persistent_in(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &PersistentIn = view(cdb);
    let action = match layout.service_action & 0x1f {
        0 => InAction::ReadKeys,
        1 => InAction::ReadReservation,
        2 => InAction::ReportCapabilities,
        3 => InAction::ReadFullStatus,
        _ => return Err(Sense::CDB_FIELD),
    };
    Ok(Command::Reservation(Asked::In {
        action,
        allocation_bytes: layout.allocation_bytes.get().into(),
    }))
}

pub(crate) fn persistent_out(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    let layout: &PersistentOut = view(cdb);
    // The scope is always that of the whole unit.
    let kind = match layout.scope_and_type >> 4 {
        0 => Kind::from_code(layout.scope_and_type & 0x0f),
        _ => None,
    };
    let valid = kind.ok_or(Sense::CDB_FIELD);
    let action = match layout.service_action & 0x1f {
        0 => Action::Register,
        1 => Action::Reserve(valid?),
        2 => Action::Release(kind),
        3 => Action::Clear,
        4 => Action::Preempt(valid?, Abort::No),
        5 => Action::Preempt(valid?, Abort::Yes),
        6 => Action::RegisterIgnoring,
        7 => Action::RegisterMoving,
        _ => return Err(Sense::CDB_FIELD),
    };
    let list_bytes = layout.list_bytes.get() as usize;
    if !(BASIC_BYTES..=LIST_BYTES_MAX).contains(&list_bytes) {
        return Err(Sense::LIST_LENGTH);
    }
    Ok(Command::Reservation(Asked::Out(Out { action, list_bytes })))
}

pub(crate) fn legacy_reserve(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    legacy(cdb, Legacy::Reserve)
}

pub(crate) fn legacy_release(cdb: &[u8; CDB_BYTES]) -> Result<Command, Sense> {
    legacy(cdb, Legacy::Release)
}

/// Neither third parties nor extents; the long form has a list for the former only.
fn legacy(cdb: &[u8; CDB_BYTES], action: Legacy) -> Result<Command, Sense> {
    let long = cdb[0] >> 5 != 0;
    let foreign = if long { 0x13 } else { 0x1f };
    if cdb[1] & foreign != 0 || long && cdb[7..9] != [0, 0] {
        return Err(Sense::CDB_FIELD);
    }
    Ok(Command::Reservation(Asked::Legacy(action)))
}

impl Out {
    /// Reads the list that belongs to the CDB.
    pub(crate) fn read(self, list: &[u8]) -> Result<OutAction, Sense> {
        let Some((basic, more)) = list
            .split_first_chunk::<BASIC_BYTES>()
            .filter(|_| list.len() == self.list_bytes)
        else {
            return Err(Sense::LIST_LENGTH);
        };
        let key = Key(u64::from_be_bytes(array(&basic[..8])));
        let new_key = Key(u64::from_be_bytes(array(&basic[8..16])));
        if self.action == Action::RegisterMoving {
            return read_move(key, new_key, basic, more);
        }
        let specifies = basic[20] & SPEC_I_PT != 0;
        let ports = match basic[20] & ALL_TG_PT {
            0 => TargetPorts::Own,
            _ => TargetPorts::All,
        };
        if self.action == Action::Register && specifies {
            let also = Some(read_ids(more)?);
            return Ok(OutAction::Register(Register {
                key,
                new_key,
                also,
                ports,
            }));
        }
        // SPC-4 §6.16.3: without TransportIDs the list has one length, and only REGISTER has them.
        if !more.is_empty() {
            return Err(Sense::LIST_LENGTH);
        }
        if specifies {
            return Err(Sense::LIST_FIELD);
        }
        Ok(match self.action {
            Action::Register => OutAction::Register(Register {
                key,
                new_key,
                also: None,
                ports,
            }),
            Action::RegisterIgnoring => OutAction::RegisterIgnoring { new_key, ports },
            Action::Reserve(kind) => OutAction::Reserve { key, kind },
            Action::Release(kind) => OutAction::Release { key, kind },
            Action::Clear => OutAction::Clear { key },
            Action::Preempt(kind, abort) => OutAction::Preempt(Preempt {
                key,
                victim: new_key,
                kind,
                abort,
            }),
            Action::RegisterMoving => unreachable!("it has a list of its own"),
        })
    }
}

/// The list of REGISTER AND MOVE (SPC-4 table 172).
fn read_move(
    key: Key,
    new_key: Key,
    basic: &[u8; BASIC_BYTES],
    more: &[u8],
) -> Result<OutAction, Sense> {
    let len = u32::from_be_bytes(array(&basic[20..24])) as usize;
    if len != more.len() {
        return Err(Sense::LIST_LENGTH);
    }
    let mut ids = more;
    let to = transport_id::take(&mut ids)?;
    if !ids.is_empty() {
        return Err(Sense::LIST_FIELD);
    }
    let mover = match basic[17] & UNREG {
        0 => Mover::Stays,
        _ => Mover::Unregisters,
    };
    let target_port = u16::from_be_bytes(array(&basic[18..20]));
    Ok(OutAction::Move(Move {
        key,
        new_key,
        mover,
        to,
        target_port,
    }))
}

/// The TransportIDs of a list, after their length (SPC-4 table 171).
fn read_ids(more: &[u8]) -> Result<Vec<InitiatorPort>, Sense> {
    let (len, mut ids) = more.split_first_chunk::<4>().ok_or(Sense::LIST_LENGTH)?;
    if u32::from_be_bytes(*len) as usize != ids.len() {
        return Err(Sense::LIST_LENGTH);
    }
    let mut ports = Vec::new();
    while !ids.is_empty() {
        ports.push(transport_id::take(&mut ids)?);
    }
    Ok(ports)
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the slice was cut to this length")
}
