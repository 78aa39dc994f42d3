//! Commands that were admitted and go on later: they waited for data or memory, or come in pieces.
//! What their nexus may do can have changed by then.

use super::{Array, Ask, Mapping, NexusId, Protection, Start};
use crate::hosts::{Access, UnitId};
use crate::scsi::Reply;
use crate::scsi::cdb::CDB_BYTES;
use crate::scsi::opcodes::{Effect, Opcode};
use crate::scsi::sense::Sense;

/// What a command was admitted with, and under which rules.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admitted {
    lun: [u8; 8],
    cdb: [u8; CDB_BYTES],
    rules: u64,
}

impl Admitted {
    pub(super) const fn new(lun: [u8; 8], cdb: [u8; CDB_BYTES], rules: u64) -> Self {
        Self { lun, cdb, rules }
    }
}

impl Array {
    /// What a command is answered with instead of being begun, if it would not be admitted any
    /// more: SAM-5 §5.3.3 checks for conflicts before a command is enabled, and one that waits is
    /// not.
    pub(crate) fn objection(
        &mut self,
        nexus: NexusId,
        unit: UnitId,
        admitted: &mut Admitted,
    ) -> Option<Start> {
        self.settle(unit);
        if admitted.rules == self.rules {
            return None;
        }
        admitted.rules = self.rules;
        let Some(Mapping { access, .. }) = self.still_mapped(nexus, unit, admitted) else {
            return Some(Start::Reply(Reply::check(Sense::NO_UNIT)));
        };
        let geometry = self.units[&unit].backend.geometry();
        let ask = Ask {
            nexus,
            unit,
            geometry,
            access,
            offered_bytes: 0,
            admitted: *admitted,
        };
        if let Some(answer) = self.conflict(&admitted.cdb, &ask) {
            return Some(answer);
        }
        let protection = self.units[&unit].protection(access, &geometry);
        let refused = protection != Protection::None && self.changes(unit, admitted);
        refused.then(|| Start::Reply(self.check(unit, Sense::WRITE_PROTECTED)))
    }

    /// Whether a command under way may ask for its next piece: the unit is still mapped, so that
    /// it can be changed. A reservation stops nothing that has begun (SPC-4 §5.12.1); PREEMPT AND
    /// ABORT does.
    pub(crate) fn may_go_on(
        &self,
        nexus: NexusId,
        unit: UnitId,
        admitted: &mut Admitted,
    ) -> Result<(), Sense> {
        if admitted.rules == self.rules {
            return Ok(());
        }
        admitted.rules = self.rules;
        let Some(mapping) = self.still_mapped(nexus, unit, admitted) else {
            return Err(Sense::NO_UNIT);
        };
        if mapping.access == Access::ReadOnly && self.changes(unit, admitted) {
            return Err(Sense::WRITE_PROTECTED);
        }
        Ok(())
    }

    fn still_mapped(&self, nexus: NexusId, unit: UnitId, admitted: &Admitted) -> Option<Mapping> {
        let mapping = self.nexuses.get(&nexus)?.mapping(admitted.lun)?;
        (mapping.unit == unit).then_some(mapping)
    }

    fn changes(&self, unit: UnitId, admitted: &Admitted) -> bool {
        let unit = &self.units[&unit];
        let abilities = unit.abilities(&unit.backend.geometry());
        Opcode::find(&admitted.cdb, abilities)
            .is_none_or(|opcode| opcode.effect() == Effect::Changes)
    }
}
