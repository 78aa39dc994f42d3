//! Reservations at the door of every unit: who is refused, what changes, whom it affects.

use super::{Array, Ask, Nexus, NexusId, Portal};
use crate::backend::Receipt;
use crate::hosts::UnitId;
use crate::registry::Scope;
use crate::scsi::attention::Attention;
use crate::scsi::block::{Next, Work};
use crate::scsi::cdb::CDB_BYTES;
use crate::scsi::execution::{Execution, Task};
use crate::scsi::opcodes::Opcode;
use crate::scsi::reservation::{
    Asked, InitiatorPort, Origin, Registrant, Reserving, Settled, Verdict,
};
use crate::scsi::sense::{Sense, Status};
use crate::scsi::{Reply, Start};

/// The nexus as reservations know it.
pub(super) fn registrant(nexus: &Nexus, portals: &[Portal]) -> Registrant {
    let portal = portals.iter().find(|it| it.tag == nexus.portal_tag);
    Registrant {
        port: InitiatorPort {
            name: nexus.initiator.clone(),
            isid: nexus.isid,
        },
        // A portal that nobody named has no other number.
        target_port: portal.map_or(nexus.portal_tag, |portal| portal.relative_port),
    }
}

impl Array {
    /// Lets the changes of reservations that became durable take effect on the unit under a LUN.
    /// [`Array::start`] does it too; a session does it first, because its own commands may be
    /// among the aborted.
    pub fn settle_at(&mut self, nexus: NexusId, lun: [u8; 8]) {
        if let Some(unit) = self.unit_at(nexus, lun) {
            self.settle(unit);
        }
    }

    /// Whose commands a preemption has aborted: pass it on before anything else is admitted
    /// (law T1).
    pub fn next_aborted(&mut self) -> Option<(NexusId, Scope)> {
        self.aborted.pop_front()
    }

    /// The same, for one nexus.
    pub fn next_aborted_of(&mut self, nexus: NexusId) -> Option<Scope> {
        let at = self.aborted.iter().position(|(hit, _)| *hit == nexus)?;
        self.aborted.remove(at).map(|(_, scope)| scope)
    }

    pub(super) fn settle(&mut self, id: UnitId) {
        while let Some(unit) = self.units.get_mut(&id)
            && let Some(settled) = unit.keeping.settle()
        {
            self.take_effect(id, &settled);
        }
    }

    fn take_effect(&mut self, id: UnitId, settled: &Settled) {
        self.rules += 1;
        let Settled { by, effects } = settled;
        for (nexus, open) in &mut self.nexuses {
            for (who, attention) in &effects.told {
                if *who == open.who {
                    open.raise(id, *attention);
                }
            }
            if effects.aborted.contains(&open.who) {
                let scope = if open.who == *by {
                    Scope::Preemptor(id)
                } else {
                    Scope::Unit(id)
                };
                self.aborted.push_back((*nexus, scope));
            }
        }
    }

    /// RESERVATION CONFLICT, if the command meets one. It comes before a unit attention
    /// (SAM-5 §5.3.3), and only from a box that may answer (law R5).
    pub(super) fn conflict(&self, cdb: &[u8; CDB_BYTES], ask: &Ask) -> Option<Start> {
        let unit = &self.units[&ask.unit];
        if unit.keeping.is_free() {
            return None;
        }
        let opcode = Opcode::find(cdb, unit.abilities(&ask.geometry))?;
        let who = &self.nexuses[&ask.nexus].who;
        unit.keeping
            .refuse(ask.nexus, who, opcode.conflict(cdb))
            .then(|| self.confirmed(Reply::plain(Status::ReservationConflict), ask))
    }

    /// An answer that reports `attention`.
    pub(super) fn reply_with(&self, attention: Attention, reply: Reply, ask: &Ask) -> Start {
        if !attention.tells_replicated_state() {
            return Start::Reply(reply);
        }
        match self.confirmed(reply, ask) {
            Start::Run(execution) => Start::Run(Execution {
                reports: Some(attention),
                ..execution
            }),
            other @ (Start::Reply(_) | Start::Drop) => other,
        }
    }

    pub(super) fn start_reserving(&self, asked: Asked, ask: &Ask) -> Start {
        match asked {
            Asked::In {
                action,
                allocation_bytes,
            } => {
                let data = self.units[&ask.unit].keeping.durable().tell(action);
                self.confirmed(Reply::truncated(data, allocation_bytes), ask)
            }
            Asked::Out(out) => {
                let task = Task::Reserve(Reserving::Out(out));
                self.execute(ask, task, out.list_bytes)
            }
            Asked::Legacy(legacy) => {
                let task = Task::Reserve(Reserving::Legacy(legacy));
                self.execute(ask, task, 0)
            }
        }
    }

    /// An answer that only a box that may answer gives (law R5).
    pub(super) fn confirmed(&self, reply: Reply, ask: &Ask) -> Start {
        self.execute(ask, Task::Blocks(Work::Confirm(reply)), 0)
    }

    /// PERSISTENT RESERVE OUT, with its list, and RESERVE and RELEASE.
    pub(crate) fn reserve(
        &mut self,
        nexus: NexusId,
        id: UnitId,
        reserving: &mut Reserving,
        list: &[u8],
    ) -> Result<Next, Sense> {
        self.settle(id);
        let open = self.nexuses.get(&nexus).ok_or(Sense::NO_UNIT)?;
        let unit = self.units.get_mut(&id).ok_or(Sense::NO_UNIT)?;
        let verdict = match reserving {
            Reserving::Out(out) => {
                let ports: Vec<u16> = self.portals.iter().map(|it| it.relative_port).collect();
                let from = Origin {
                    who: &open.who,
                    target_ports: &ports,
                };
                unit.keeping.change(&out.read(list)?, from)
            }
            Reserving::Legacy(action) => {
                self.rules += 1;
                unit.keeping.legacy(*action, nexus, &open.who)
            }
            Reserving::Waiting(_) => unreachable!("a command begins once"),
        };
        match verdict {
            Verdict::Busy => Ok(Next::Answer(Reply::plain(Status::Busy))),
            Verdict::After(request, waiting) => {
                *reserving = Reserving::Waiting(waiting);
                Ok(Next::Ask(request))
            }
        }
    }

    /// The backend has done what such a command waited for.
    pub(crate) fn reserved(&mut self, id: UnitId, reserving: &Reserving) -> Result<Next, Sense> {
        let Reserving::Waiting(waiting) = reserving else {
            unreachable!("a command asks when it begins")
        };
        assert!(
            waiting.receipt.as_ref().is_none_or(Receipt::is_signed),
            "a backend signs before it completes"
        );
        self.settle(id);
        waiting.answer.to_next()
    }
}
