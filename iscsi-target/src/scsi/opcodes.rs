//! The table of commands: what exists, how it is parsed, and what REPORT SUPPORTED OPERATION CODES
//! says of it (SPC-4 §6.35).

use super::Reply;
use super::cdb::CDB_BYTES;
use super::copy;
use super::parse::{self, OpcodeQuery, Parse, Timeouts};
use super::reservation;
use super::sense::Sense;

/// One command.
#[derive(Debug)]
pub(crate) struct Opcode {
    code: u8,
    action: Option<u8>,
    effect: Effect,
    needs: Needs,
    conflict: Conflict,
    pub(crate) parse: Parse,
    /// Which bits of the CDB are looked at, after the operation code.
    usage: &'static [u8],
}

/// Whether a command changes the medium; such a one is refused on a read-only unit before its
/// fields are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Changes,
    None,
}

/// Which reservations of another nexus a command conflicts with, unless its own nexus is one that
/// the reservation admits (SPC-4 table 65, SBC-3 table 13; for RESERVE, SPC-2 table 10).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Conflict {
    /// None: it tells what every initiator may know.
    Never,
    /// The one of RESERVE, no persistent one.
    Legacy,
    /// The one of RESERVE, also one's own: either kind keeps the other out (SPC-2 §5.5.1).
    Rival,
    /// The one of RESERVE, and persistent ones that give exclusive access: it reads.
    Exclusive,
    /// Each: it changes something.
    Always,
    /// As `Never` if the CDB asks for what disturbs nobody, else as `Always`.
    Unless(fn(&[u8; CDB_BYTES]) -> bool),
    /// RESERVE and RELEASE: decided where they are carried out.
    ByItself,
}

/// What a unit must have for a command to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    Thin,
    Removable,
}

/// What a unit has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Abilities {
    pub(crate) thin: bool,
    pub(crate) removable: bool,
}

impl Opcode {
    /// The command of a CDB, if a unit of these abilities has it.
    pub(crate) fn find(cdb: &[u8; CDB_BYTES], abilities: Abilities) -> Option<&'static Self> {
        OPCODES.iter().find(|opcode| {
            opcode.code == cdb[0]
                && opcode.action.is_none_or(|action| action == cdb[1] & 0x1f)
                && opcode.exists(abilities)
        })
    }

    pub(crate) fn effect(&self) -> Effect {
        self.effect
    }

    /// Which reservations it conflicts with, by what this CDB asks of it.
    pub(crate) fn conflict(&self, cdb: &[u8; CDB_BYTES]) -> Conflict {
        match self.conflict {
            Conflict::Unless(harmless) if harmless(cdb) => Conflict::Never,
            Conflict::Unless(_) | Conflict::Always => Conflict::Always,
            plain @ (Conflict::Never
            | Conflict::Legacy
            | Conflict::Rival
            | Conflict::Exclusive
            | Conflict::ByItself) => plain,
        }
    }

    fn exists(&self, abilities: Abilities) -> bool {
        match self.needs {
            Needs::Nothing => true,
            Needs::Thin => abilities.thin,
            Needs::Removable => abilities.removable,
        }
    }

    fn cdb_bytes(&self) -> u8 {
        match self.code >> 5 {
            0 => 6,
            4 => 16,
            5 => 12,
            _ => 10,
        }
    }
}

/// Why there is no command for a CDB. The service action of PERSISTENT RESERVE IN and OUT is a
/// field; elsewhere it belongs to the operation code, and each names a command of its own.
pub(crate) fn unknown(cdb: &[u8; CDB_BYTES]) -> Sense {
    match cdb[0] {
        PERSISTENT_IN | PERSISTENT_OUT => Sense::CDB_FIELD,
        _ => Sense::OPCODE,
    }
}

/// NACA, which no unit supports (NORMACA is zero), asked for in the control byte.
pub(crate) fn asks_naca(cdb: &[u8; CDB_BYTES]) -> bool {
    let control = match cdb[0] >> 5 {
        0 => cdb[5],
        1 | 2 => cdb[9],
        4 => cdb[15],
        5 => cdb[11],
        _ => 0,
    };
    control & 0x04 != 0
}

/// Answers REPORT SUPPORTED OPERATION CODES.
pub(crate) fn report(
    query: OpcodeQuery,
    timeouts: Timeouts,
    allocation_bytes: usize,
    abilities: Abilities,
) -> Result<Reply, Sense> {
    let (code, action) = match query {
        OpcodeQuery::All => {
            return Ok(Reply::truncated(all(timeouts, abilities), allocation_bytes));
        }
        OpcodeQuery::Plain(code) if has_actions(code) => return Err(Sense::CDB_FIELD),
        OpcodeQuery::Plain(code) => (code, None),
        OpcodeQuery::Action(code, _) if is_plain(code) => return Err(Sense::CDB_FIELD),
        OpcodeQuery::Action(code, action) => (code, Some(action)),
        OpcodeQuery::Either(code, action) => (code, has_actions(code).then_some(action)),
    };
    let found = OPCODES.iter().find(|opcode| {
        opcode.code == code && opcode.action.map(u16::from) == action && opcode.exists(abilities)
    });
    Ok(Reply::truncated(one(found, timeouts), allocation_bytes))
}

fn all(timeouts: Timeouts, abilities: Abilities) -> Vec<u8> {
    let mut data = vec![0; 4];
    for opcode in OPCODES.iter().filter(|opcode| opcode.exists(abilities)) {
        let servactv = u8::from(opcode.action.is_some());
        let ctdp = if timeouts == Timeouts::Wanted {
            0x02
        } else {
            0
        };
        let action = opcode.action.unwrap_or(0);
        data.extend([
            opcode.code,
            0,
            0,
            action,
            0,
            ctdp | servactv,
            0,
            opcode.cdb_bytes(),
        ]);
        if timeouts == Timeouts::Wanted {
            data.extend(NO_TIMEOUTS);
        }
    }
    let len = u32::try_from(data.len() - 4).expect("the table is short");
    data[..4].copy_from_slice(&len.to_be_bytes());
    data
}

fn one(found: Option<&Opcode>, timeouts: Timeouts) -> Vec<u8> {
    let Some(opcode) = found else {
        return vec![0, NOT_SUPPORTED, 0, 0];
    };
    let ctdp = if timeouts == Timeouts::Wanted {
        0x80
    } else {
        0
    };
    let mut data = vec![0, ctdp | SUPPORTED, 0, opcode.cdb_bytes(), opcode.code];
    data.extend(opcode.usage);
    if let Some(action) = opcode.action {
        data[5] |= action;
    }
    data.resize(4 + usize::from(opcode.cdb_bytes()), 0);
    if timeouts == Timeouts::Wanted {
        data.extend(NO_TIMEOUTS);
    }
    data
}

fn has_actions(code: u8) -> bool {
    OPCODES
        .iter()
        .any(|opcode| opcode.code == code && opcode.action.is_some())
}

fn is_plain(code: u8) -> bool {
    OPCODES
        .iter()
        .any(|opcode| opcode.code == code && opcode.action.is_none())
}

const SUPPORTED: u8 = 0x03;
const NOT_SUPPORTED: u8 = 0x01;

/// Descriptor of time-outs: no time is named.
const NO_TIMEOUTS: [u8; 12] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

const fn reads(code: u8, parse: Parse, conflict: Conflict, usage: &'static [u8]) -> Opcode {
    Opcode {
        code,
        action: None,
        effect: Effect::None,
        needs: Needs::Nothing,
        conflict,
        parse,
        usage,
    }
}

const fn changes(code: u8, parse: Parse, conflict: Conflict, usage: &'static [u8]) -> Opcode {
    Opcode {
        effect: Effect::Changes,
        ..reads(code, parse, conflict, usage)
    }
}

const fn acts(
    code: u8,
    action: u8,
    parse: Parse,
    conflict: Conflict,
    usage: &'static [u8],
) -> Opcode {
    Opcode {
        action: Some(action),
        ..reads(code, parse, conflict, usage)
    }
}

const fn persistent_in(action: u8) -> Opcode {
    let usage = &[0, 0, 0, 0, 0, 0, F, F];
    acts(
        PERSISTENT_IN,
        action,
        reservation::persistent_in,
        Conflict::Rival,
        usage,
    )
}

/// Registering and clearing have no type.
const fn persistent_out(action: u8) -> Opcode {
    let usage: &[u8] = match action {
        0x01 | 0x02 | 0x04 | 0x05 => &[0, F, 0, 0, F, F, F, F],
        _ => &[0, 0, 0, 0, F, F, F, F],
    };
    acts(
        PERSISTENT_OUT,
        action,
        reservation::persistent_out,
        Conflict::Rival,
        usage,
    )
}

const PERSISTENT_IN: u8 = 0x5e;
const PERSISTENT_OUT: u8 = 0x5f;
const ADDRESS_6: &[u8] = &[0x1f, 0xff, 0xff, 0xff];
const COPY: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F];
const COPY_RESULTS: &[u8] = &[0, F, 0, 0, 0, 0, 0, 0, 0, F, F, F, F];
const LEGACY_10: &[u8] = &[0x13, 0, 0, 0, 0, 0, F, F];
const NOTHING: &[u8] = &[];
const F: u8 = 0xff;

/// PREVENT ALLOW MEDIUM REMOVAL that allows.
fn allows_removal(cdb: &[u8; CDB_BYTES]) -> bool {
    cdb[4] & 0x03 == 0
}

/// START STOP UNIT that starts, with no power condition.
fn only_starts(cdb: &[u8; CDB_BYTES]) -> bool {
    cdb[4] & 0xf1 == 0x01
}

/// Every command; those of the data path first, as [`Opcode::find`] goes from the front.
const OPCODES: &[Opcode] = &[
    reads(
        0x28,
        parse::read,
        Conflict::Exclusive,
        &[0xf8, F, F, F, F, 0, F, F],
    ),
    changes(
        0x2a,
        parse::write,
        Conflict::Always,
        &[0xf8, F, F, F, F, 0, F, F],
    ),
    reads(
        0x88,
        parse::read,
        Conflict::Exclusive,
        &[0xf8, F, F, F, F, F, F, F, F, F, F, F, F],
    ),
    changes(
        0x8a,
        parse::write,
        Conflict::Always,
        &[0xf8, F, F, F, F, F, F, F, F, F, F, F, F],
    ),
    reads(
        0x35,
        parse::synchronize,
        Conflict::Always,
        &[0x02, F, F, F, F, 0, F, F],
    ),
    reads(
        0x91,
        parse::synchronize,
        Conflict::Always,
        &[0x02, F, F, F, F, F, F, F, F, F, F, F, F],
    ),
    Opcode {
        needs: Needs::Thin,
        ..changes(
            0x42,
            parse::unmap,
            Conflict::Always,
            &[0x01, 0, 0, 0, 0, 0, F, F],
        )
    },
    changes(
        0x89,
        parse::compare_and_write,
        Conflict::Always,
        &[0xf8, F, F, F, F, F, F, F, F, 0, 0, 0, F],
    ),
    reads(0x00, parse::test_unit_ready, Conflict::Legacy, NOTHING),
    reads(
        0x03,
        parse::request_sense,
        Conflict::Never,
        &[0x01, 0, 0, F],
    ),
    reads(0x08, parse::read, Conflict::Exclusive, ADDRESS_6),
    changes(0x0a, parse::write, Conflict::Always, ADDRESS_6),
    reads(0x12, parse::inquiry, Conflict::Never, &[0x01, F, F, F]),
    reads(
        0x15,
        parse::mode_select_6,
        Conflict::Always,
        &[0x11, 0, 0, F],
    ),
    reads(
        0x16,
        reservation::legacy_reserve,
        Conflict::ByItself,
        &[0x1f],
    ),
    reads(
        0x17,
        reservation::legacy_release,
        Conflict::ByItself,
        &[0x1f],
    ),
    reads(
        0x1a,
        parse::mode_sense_6,
        Conflict::Exclusive,
        &[0x08, F, F, F],
    ),
    reads(
        0x1b,
        parse::start_stop,
        Conflict::Unless(only_starts),
        &[0x01, 0, 0, 0xf3],
    ),
    Opcode {
        needs: Needs::Removable,
        ..reads(
            0x1e,
            parse::prevent_allow,
            Conflict::Unless(allows_removal),
            &[0, 0, 0, 0x03],
        )
    },
    reads(
        0x25,
        parse::read_capacity_10,
        Conflict::Never,
        &[0, F, F, F, F, 0, 0, 0x01],
    ),
    changes(
        0x2e,
        parse::write_and_verify,
        Conflict::Always,
        &[0xf6, F, F, F, F, 0, F, F],
    ),
    reads(
        0x2f,
        parse::verify,
        Conflict::Exclusive,
        &[0xf6, F, F, F, F, 0, F, F],
    ),
    reads(
        0x34,
        parse::prefetch,
        Conflict::Exclusive,
        &[0x02, F, F, F, F, 0, F, F],
    ),
    reads(
        0x37,
        parse::read_defects_10,
        Conflict::Exclusive,
        &[0, 0x1f, 0, 0, 0, 0, F, F],
    ),
    changes(
        0x41,
        parse::write_same,
        Conflict::Always,
        &[0xf8, F, F, F, F, 0, F, F],
    ),
    reads(
        0x4d,
        parse::log_sense,
        Conflict::Never,
        &[0x01, F, F, 0, F, F, F, F],
    ),
    reads(
        0x55,
        parse::mode_select_10,
        Conflict::Always,
        &[0x11, 0, 0, 0, 0, 0, F, F],
    ),
    reads(
        0x5a,
        parse::mode_sense_10,
        Conflict::Exclusive,
        &[0x18, F, F, 0, 0, 0, F, F],
    ),
    acts(0x83, 0x00, copy::extended_copy, Conflict::Always, COPY),
    acts(
        0x84,
        0x00,
        copy::copy_results,
        Conflict::Always,
        COPY_RESULTS,
    ),
    acts(
        0x84,
        0x03,
        copy::copy_results,
        Conflict::Always,
        COPY_RESULTS,
    ),
    acts(
        0x84,
        0x04,
        copy::copy_results,
        Conflict::Always,
        COPY_RESULTS,
    ),
    reads(
        0x56,
        reservation::legacy_reserve,
        Conflict::ByItself,
        LEGACY_10,
    ),
    reads(
        0x57,
        reservation::legacy_release,
        Conflict::ByItself,
        LEGACY_10,
    ),
    persistent_in(0x00),
    persistent_in(0x01),
    persistent_in(0x02),
    persistent_in(0x03),
    persistent_out(0x00),
    persistent_out(0x01),
    persistent_out(0x02),
    persistent_out(0x03),
    persistent_out(0x04),
    persistent_out(0x05),
    persistent_out(0x06),
    persistent_out(0x07),
    changes(
        0x8b,
        parse::or_write,
        Conflict::Always,
        &[0xf8, F, F, F, F, F, F, F, F, F, F, F, F],
    ),
    changes(
        0x8e,
        parse::write_and_verify,
        Conflict::Always,
        &[0xf6, F, F, F, F, F, F, F, F, F, F, F, F],
    ),
    reads(
        0x8f,
        parse::verify,
        Conflict::Exclusive,
        &[0xf6, F, F, F, F, F, F, F, F, F, F, F, F],
    ),
    reads(
        0x90,
        parse::prefetch,
        Conflict::Exclusive,
        &[0x02, F, F, F, F, F, F, F, F, F, F, F, F],
    ),
    changes(
        0x93,
        parse::write_same,
        Conflict::Always,
        &[0xf9, F, F, F, F, F, F, F, F, F, F, F, F],
    ),
    acts(
        0x9e,
        0x10,
        parse::read_capacity_16,
        Conflict::Never,
        &[0, F, F, F, F, F, F, F, F, F, F, F, F, 0x01],
    ),
    Opcode {
        needs: Needs::Thin,
        ..acts(
            0x9e,
            0x12,
            parse::lba_status,
            Conflict::Exclusive,
            &[0, F, F, F, F, F, F, F, F, F, F, F, F],
        )
    },
    reads(
        0xa0,
        parse::report_luns,
        Conflict::Never,
        &[0, F, 0, 0, 0, F, F, F, F],
    ),
    acts(
        0xa3,
        0x0a,
        parse::report_port_groups,
        Conflict::Never,
        &[0xe0, 0, 0, 0, 0, F, F, F, F],
    ),
    acts(
        0xa3,
        0x0c,
        parse::report_opcodes,
        Conflict::Exclusive,
        &[0, 0x87, F, F, F, F, F, F, F],
    ),
    acts(
        0xa3,
        0x0d,
        parse::report_task_management,
        Conflict::Exclusive,
        &[0, 0x80, 0, 0, 0, F, F, F, F],
    ),
    reads(
        0xa8,
        parse::read,
        Conflict::Exclusive,
        &[0xf8, F, F, F, F, F, F, F, F],
    ),
    changes(
        0xaa,
        parse::write,
        Conflict::Always,
        &[0xf8, F, F, F, F, F, F, F, F],
    ),
    changes(
        0xae,
        parse::write_and_verify,
        Conflict::Always,
        &[0xf6, F, F, F, F, F, F, F, F],
    ),
    reads(
        0xaf,
        parse::verify,
        Conflict::Exclusive,
        &[0xf6, F, F, F, F, F, F, F, F],
    ),
    reads(
        0xb7,
        parse::read_defects_12,
        Conflict::Exclusive,
        &[0x1f, F, F, F, F, F, F, F, F],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_usage_map_is_longer_than_its_command() {
        for opcode in OPCODES {
            assert!(
                opcode.usage.len() < usize::from(opcode.cdb_bytes()),
                "{opcode:?}"
            );
        }
    }

    /// What a CDB of these first five bytes conflicts with.
    fn conflict(first: [u8; 5]) -> Conflict {
        let mut cdb = [0; CDB_BYTES];
        cdb[..5].copy_from_slice(&first);
        let abilities = Abilities {
            thin: true,
            removable: true,
        };
        Opcode::find(&cdb, abilities).unwrap().conflict(&cdb)
    }

    #[test]
    fn what_changes_the_medium_is_refused_under_every_reservation() {
        for opcode in OPCODES.iter().filter(|it| it.effect == Effect::Changes) {
            assert!(matches!(opcode.conflict, Conflict::Always), "{opcode:?}");
        }
    }

    #[test]
    fn a_unit_is_started_and_set_free_by_all_but_stopped_and_locked_by_those_admitted() {
        let (start_stop, prevent_allow) = (0x1b, 0x1e);
        for (opcode, byte, harmless) in [
            (start_stop, 0x00, false),
            (start_stop, 0x01, true),
            (start_stop, 0x02, false),
            (start_stop, 0x03, true),
            (start_stop, 0x11, false),
            (prevent_allow, 0x00, true),
            (prevent_allow, 0x01, false),
        ] {
            let conflict = conflict([opcode, 0, 0, 0, byte]);
            let (never, always) = (
                matches!(conflict, Conflict::Never),
                matches!(conflict, Conflict::Always),
            );
            assert_eq!(
                (never, always),
                (harmless, !harmless),
                "{opcode:02x} {byte:02x}"
            );
        }
    }

    #[test]
    fn no_command_is_listed_twice() {
        for (at, opcode) in OPCODES.iter().enumerate() {
            let same = |other: &Opcode| (other.code, other.action) == (opcode.code, opcode.action);
            assert!(!OPCODES[..at].iter().any(same), "{opcode:?}");
        }
    }
}
