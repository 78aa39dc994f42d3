//! Reservations as a value: service actions in, a new value out.

mod actions;
mod history;
mod model;

use super::actions::Origin;
use super::*;
use crate::scsi::cdb::CDB_BYTES;
use crate::scsi::parse::Command;

/// Relative identifiers of the target ports.
pub(super) const PORTS: [u16; 2] = [0x11, 0x12];

/// The fields of a PERSISTENT RESERVE OUT, as an initiator fills them in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) action: u8,
    pub(super) kind: u8,
    pub(super) key: u64,
    pub(super) new_key: u64,
    pub(super) all_ports: bool,
    /// TransportIDs, with SPEC_I_PT.
    pub(super) also: Option<Vec<InitiatorPort>>,
    /// Where REGISTER AND MOVE moves to.
    pub(super) to: Option<Registrant>,
    pub(super) unregister: bool,
}

pub(super) const REGISTER: u8 = 0;
pub(super) const RESERVE: u8 = 1;
pub(super) const RELEASE: u8 = 2;
pub(super) const CLEAR: u8 = 3;
pub(super) const PREEMPT: u8 = 4;
pub(super) const PREEMPT_AND_ABORT: u8 = 5;
pub(super) const REGISTER_IGNORING: u8 = 6;
pub(super) const MOVE: u8 = 7;

impl Ask {
    pub(super) fn list(&self) -> Vec<u8> {
        let mut list = [self.key.to_be_bytes(), self.new_key.to_be_bytes()].concat();
        if let Some(to) = &self.to {
            let id = transport_id::to_bytes(&to.port);
            list.extend([0, u8::from(self.unregister) << 1]);
            list.extend(to.target_port.to_be_bytes());
            list.extend(u32::try_from(id.len()).unwrap().to_be_bytes());
            list.extend(id);
            return list;
        }
        let flags = u8::from(self.also.is_some()) << 3 | u8::from(self.all_ports) << 2 | 1;
        list.extend([0, 0, 0, 0, flags, 0, 0, 0]);
        if let Some(also) = &self.also {
            let ids: Vec<u8> = also.iter().flat_map(transport_id::to_bytes).collect();
            list.extend(u32::try_from(ids.len()).unwrap().to_be_bytes());
            list.extend(ids);
        }
        list
    }

    pub(super) fn cdb(&self, list_bytes: usize) -> [u8; CDB_BYTES] {
        let mut cdb = [0; CDB_BYTES];
        cdb[..3].copy_from_slice(&[0x5f, self.action, self.kind]);
        cdb[5..9].copy_from_slice(&u32::try_from(list_bytes).unwrap().to_be_bytes());
        cdb
    }

    /// What comes of it.
    pub(super) fn of(
        &self,
        reservations: &Reservations,
        who: &Registrant,
    ) -> Result<Outcome, Refusal> {
        let list = self.list();
        let command = persistent_out(&self.cdb(list.len()))?;
        let Command::Reservation(Asked::Out(out)) = command else {
            panic!("not {command:?}")
        };
        let action = out.read(&list)?;
        let from = Origin {
            who,
            target_ports: &PORTS,
        };
        reservations.with(&action, from)
    }
}

/// Initiator `number`, through the first target port.
pub(super) fn host(number: u8) -> Registrant {
    through(number, PORTS[0])
}

pub(super) fn through(number: u8, target_port: u16) -> Registrant {
    Registrant {
        port: InitiatorPort {
            name: format!("iqn.2026-11.org.example:{number}"),
            isid: [0x80, 0, 0, 0, 0, number],
        },
        target_port,
    }
}

/// Sense as key, code, qualifier.
pub(super) fn triple(sense: Sense) -> [u8; 3] {
    [sense.key as u8, sense.code[0], sense.code[1]]
}
