//! The table of commands: what exists, how it is parsed, and what REPORT SUPPORTED OPERATION CODES
//! says of it (SPC-4 §6.35).

use super::Reply;
use super::cdb::CDB_BYTES;
use super::parse::{self, OpcodeQuery, Parse, Timeouts};
use super::sense::Sense;

/// One command.
#[derive(Debug)]
pub(crate) struct Opcode {
    code: u8,
    action: Option<u8>,
    effect: Effect,
    needs: Needs,
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

const fn reads(code: u8, parse: Parse, usage: &'static [u8]) -> Opcode {
    Opcode {
        code,
        action: None,
        effect: Effect::None,
        needs: Needs::Nothing,
        parse,
        usage,
    }
}

const fn changes(code: u8, parse: Parse, usage: &'static [u8]) -> Opcode {
    Opcode {
        effect: Effect::Changes,
        ..reads(code, parse, usage)
    }
}

const fn acts(code: u8, action: u8, parse: Parse, usage: &'static [u8]) -> Opcode {
    Opcode {
        action: Some(action),
        ..reads(code, parse, usage)
    }
}

const ADDRESS_6: &[u8] = &[0x1f, 0xff, 0xff, 0xff];
const NOTHING: &[u8] = &[];
const F: u8 = 0xff;

/// Every command; those of the data path first, as [`Opcode::find`] goes from the front.
const OPCODES: &[Opcode] = &[
    reads(0x28, parse::read, &[0xf8, F, F, F, F, 0, F, F]),
    changes(0x2a, parse::write, &[0xf8, F, F, F, F, 0, F, F]),
    reads(
        0x88,
        parse::read,
        &[0xf8, F, F, F, F, F, F, F, F, F, F, F, F],
    ),
    changes(
        0x8a,
        parse::write,
        &[0xf8, F, F, F, F, F, F, F, F, F, F, F, F],
    ),
    reads(0x35, parse::synchronize, &[0x02, F, F, F, F, 0, F, F]),
    reads(
        0x91,
        parse::synchronize,
        &[0x02, F, F, F, F, F, F, F, F, F, F, F, F],
    ),
    Opcode {
        needs: Needs::Thin,
        ..changes(0x42, parse::unmap, &[0x01, 0, 0, 0, 0, 0, F, F])
    },
    changes(
        0x89,
        parse::compare_and_write,
        &[0xf8, F, F, F, F, F, F, F, F, 0, 0, 0, F],
    ),
    reads(0x00, parse::test_unit_ready, NOTHING),
    reads(0x03, parse::request_sense, &[0x01, 0, 0, F]),
    reads(0x08, parse::read, ADDRESS_6),
    changes(0x0a, parse::write, ADDRESS_6),
    reads(0x12, parse::inquiry, &[0x01, F, F, F]),
    reads(0x15, parse::mode_select_6, &[0x11, 0, 0, F]),
    reads(0x1a, parse::mode_sense_6, &[0x08, F, F, F]),
    reads(0x1b, parse::start_stop, &[0x01, 0, 0, 0xf3]),
    Opcode {
        needs: Needs::Removable,
        ..reads(0x1e, parse::prevent_allow, &[0, 0, 0, 0x03])
    },
    reads(0x25, parse::read_capacity_10, &[0, F, F, F, F, 0, 0, 0x01]),
    changes(0x2e, parse::write_and_verify, &[0xf6, F, F, F, F, 0, F, F]),
    reads(0x2f, parse::verify, &[0xf6, F, F, F, F, 0, F, F]),
    reads(0x34, parse::prefetch, &[0x02, F, F, F, F, 0, F, F]),
    changes(0x41, parse::write_same, &[0xf8, F, F, F, F, 0, F, F]),
    reads(0x55, parse::mode_select_10, &[0x11, 0, 0, 0, 0, 0, F, F]),
    reads(0x5a, parse::mode_sense_10, &[0x18, F, F, 0, 0, 0, F, F]),
    changes(
        0x8b,
        parse::or_write,
        &[0xf8, F, F, F, F, F, F, F, F, F, F, F, F],
    ),
    changes(
        0x8e,
        parse::write_and_verify,
        &[0xf6, F, F, F, F, F, F, F, F, F, F, F, F],
    ),
    reads(
        0x8f,
        parse::verify,
        &[0xf6, F, F, F, F, F, F, F, F, F, F, F, F],
    ),
    reads(
        0x90,
        parse::prefetch,
        &[0x02, F, F, F, F, F, F, F, F, F, F, F, F],
    ),
    changes(
        0x93,
        parse::write_same,
        &[0xf9, F, F, F, F, F, F, F, F, F, F, F, F],
    ),
    acts(
        0x9e,
        0x10,
        parse::read_capacity_16,
        &[0, F, F, F, F, F, F, F, F, F, F, F, F, 0x01],
    ),
    Opcode {
        needs: Needs::Thin,
        ..acts(
            0x9e,
            0x12,
            parse::lba_status,
            &[0, F, F, F, F, F, F, F, F, F, F, F, F],
        )
    },
    reads(0xa0, parse::report_luns, &[0, F, 0, 0, 0, F, F, F, F]),
    acts(
        0xa3,
        0x0a,
        parse::report_port_groups,
        &[0xe0, 0, 0, 0, 0, F, F, F, F],
    ),
    acts(
        0xa3,
        0x0c,
        parse::report_opcodes,
        &[0, 0x87, F, F, F, F, F, F, F],
    ),
    reads(0xa8, parse::read, &[0xf8, F, F, F, F, F, F, F, F]),
    changes(0xaa, parse::write, &[0xf8, F, F, F, F, F, F, F, F]),
    changes(
        0xae,
        parse::write_and_verify,
        &[0xf6, F, F, F, F, F, F, F, F],
    ),
    reads(0xaf, parse::verify, &[0xf6, F, F, F, F, F, F, F, F]),
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

    #[test]
    fn no_command_is_listed_twice() {
        for (at, opcode) in OPCODES.iter().enumerate() {
            let same = |other: &Opcode| (other.code, other.action) == (opcode.code, opcode.action);
            assert!(!OPCODES[..at].iter().any(same), "{opcode:?}");
        }
    }
}
