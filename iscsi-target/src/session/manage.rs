//! Task management: answered at once, never waiting for a disk (RFC 7143 §11.5, law T1).
//!
//! An aborted task is forgotten before the answer is queued, so no part of it that still comes in
//! is admitted. What the backend was already asked to do goes on; its range stays locked there
//! until it is settled.

use std::rc::Rc;

use super::command::Task;
use super::{Early, Session, Wire};
use crate::connection::{CloseReason, Manner, Ports};
use crate::pdu::command::Command;
use crate::pdu::task::{self, Outcome, Request, Response};
use crate::pdu::{Bhs, FINAL, Len24, opcode};
use crate::registry::{DropReason, Scope};
use crate::scsi::{Array, NexusId, ResetScope, UnitId};
use crate::types::{Itt, Serial};
use crate::window::Turn;

impl Session {
    pub(super) fn manage(&mut self, request: &Request, ports: &mut Ports<'_>, wire: &mut Wire<'_>) {
        let nexus = self.nexus.expect("checked with the header");
        let function = request.flags & !FINAL;
        let outcome = match function {
            task::ABORT_TASK => self.abort(request, ports.array),
            task::ABORT_TASK_SET => self.abort_set(nexus, request.lun, ports.array),
            task::CLEAR_TASK_SET => self.clear_set(nexus, request.lun, ports),
            task::LOGICAL_UNIT_RESET => self.reset_unit(nexus, request.lun, ports),
            task::TARGET_WARM_RESET | task::TARGET_COLD_RESET => {
                self.reset_target(nexus, function, ports)
            }
            task::TASK_REASSIGN => Outcome::NoReassign,
            _ => Outcome::Unsupported,
        };
        let response = Response {
            opcode: opcode::TASK_RESPONSE,
            flags: FINAL,
            response: outcome as u8,
            reserved_a: 0,
            ahs_len_words: 0,
            data_len: Len24::new(0),
            reserved_b: [0; 8],
            itt: request.itt,
            reserved_c: 0.into(),
            stat_sn: self.take_stat_sn().0.into(),
            exp_cmd_sn: self.window.expected().0.into(),
            max_cmd_sn: self.window.max().0.into(),
            reserved_d: [0; 12],
        };
        wire.outbox.push(&response, &[]);
    }

    fn abort(&mut self, request: &Request, array: &mut Array) -> Outcome {
        let itt = Itt(request.referenced_itt.get());
        if let Some(task) = self.forget(itt) {
            task.give_up(array);
            return Outcome::Complete;
        }
        if self.abort_early(|bhs| bhs.itt.get() == itt.0) > 0 {
            return Outcome::Complete;
        }
        // RFC 7143 §11.6.1: a command that is still on its way counts as received, and aborted.
        let number = Serial(request.ref_cmd_sn.get());
        let on_its_way = self.window.turn(number) != Turn::Ignore
            && number.before(Serial(request.cmd_sn.get()))
            && !self.early.contains_key(&number.0);
        if !on_its_way {
            return Outcome::NoTask;
        }
        self.early.insert(number.0, Early::Aborted);
        Outcome::Complete
    }

    /// Aborts requests whose turn has not come. Says how many.
    fn abort_early(&mut self, hit: impl Fn(&Bhs) -> bool) -> usize {
        let mut count = 0;
        for early in self.early.values_mut() {
            if let Early::Held(frame) = early
                && hit(&frame.bhs)
            {
                self.backlog_bytes -= frame.data.len();
                *early = Early::Aborted;
                count += 1;
            }
        }
        count
    }

    fn abort_set(&mut self, nexus: NexusId, lun: [u8; 8], array: &mut Array) -> Outcome {
        let Some(unit) = array.unit_at(nexus, lun) else {
            return Outcome::NoUnit;
        };
        self.clear(Scope::Unit(unit), array);
        Outcome::Complete
    }

    /// The task set of a unit is that of all nexuses (TST 000b of the control mode page).
    fn clear_set(&mut self, nexus: NexusId, lun: [u8; 8], ports: &mut Ports<'_>) -> Outcome {
        let Some(unit) = ports.array.unit_at(nexus, lun) else {
            return Outcome::NoUnit;
        };
        let others: Vec<NexusId> = ports
            .registry
            .nexuses()
            .filter(|other| *other != nexus)
            .collect();
        for other in others {
            ports.registry.clear_tasks(other, Scope::TaskSet(unit));
        }
        self.clear(Scope::Unit(unit), ports.array);
        Outcome::Complete
    }

    fn reset_unit(&mut self, nexus: NexusId, lun: [u8; 8], ports: &mut Ports<'_>) -> Outcome {
        let Some(unit) = ports.array.unit_at(nexus, lun) else {
            return Outcome::NoUnit;
        };
        for other in ports.array.reset(nexus, ResetScope::Unit(lun)) {
            if other != nexus {
                ports.registry.clear_tasks(other, Scope::Unit(unit));
            }
        }
        self.clear(Scope::Unit(unit), ports.array);
        Outcome::Complete
    }

    /// After a cold reset the target has forgotten its connections, this one included
    /// (RFC 7143 §11.5.1): those of everybody who uses a unit that was reset.
    fn reset_target(&mut self, nexus: NexusId, function: u8, ports: &mut Ports<'_>) -> Outcome {
        let units: Rc<[UnitId]> = ports.array.units_of(nexus).into();
        let mut others = ports.array.reset(nexus, ResetScope::Target);
        others.retain(|other| *other != nexus);
        for other in &others {
            let scope = Scope::Units(Rc::clone(&units));
            ports.registry.clear_tasks(*other, scope);
        }
        self.clear(Scope::All, ports.array);
        if function == task::TARGET_COLD_RESET {
            for other in others {
                ports.registry.drop_nexus(other, DropReason::ColdReset);
            }
            self.end(
                CloseReason::Dropped(DropReason::ColdReset),
                Manner::AfterSending,
            );
        }
        Outcome::Complete
    }

    /// Forgets the tasks in a scope, also those whose turn has not come.
    pub(crate) fn clear(&mut self, scope: Scope, array: &mut Array) {
        let nexus = self.nexus;
        let unit_of =
            |lun: [u8; 8], unit: Option<UnitId>| unit.or_else(|| array.unit_at(nexus?, lun));
        let hit = |lun, unit| match &scope {
            Scope::All => true,
            Scope::Unit(cleared) | Scope::TaskSet(cleared) | Scope::Preemptor(cleared) => {
                unit_of(lun, unit) == Some(*cleared)
            }
            Scope::Units(cleared) => unit_of(lun, unit).is_some_and(|unit| cleared.contains(&unit)),
        };
        let spares = |task: &Task| matches!(scope, Scope::Preemptor(_)) && task.reserves();
        let doomed: Vec<Itt> = self
            .tasks
            .iter()
            .filter(|(_, task)| hit(task.lun, task.unit) && !spares(task))
            .map(|(itt, _)| *itt)
            .collect();
        let early = self.abort_early(|bhs| {
            bhs.operation() == opcode::COMMAND && hit(bhs.cast::<Command>().lun, None)
        });
        let lost = early > 0 || !doomed.is_empty();
        for itt in doomed {
            if let Some(task) = self.forget(itt) {
                task.give_up(array);
            }
        }
        if let (Scope::TaskSet(unit), Some(nexus), true) = (scope, nexus, lost) {
            array.tell_commands_cleared(nexus, unit);
        }
    }
}
