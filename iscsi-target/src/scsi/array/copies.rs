//! Copies between units: what the nexus of a copy sees decides what it reaches.

use std::rc::Rc;

use super::{Array, Ask, NexusId, Protection, Start, Task, Unit};
use crate::hosts::Mapping;
use crate::scsi::Reply;
use crate::scsi::copy::{self, Copies, CopyId, CopyQuery, Copying, Cscd, End, LIST_MAX_BYTES};
use crate::scsi::opcodes::Conflict;
use crate::scsi::sense::Sense;

impl Array {
    /// The copies that can be asked for.
    pub(crate) fn copies(&mut self) -> &mut Copies {
        &mut self.copies
    }

    /// One side of a copy, if the nexus sees such a unit now and no reservation keeps it from what
    /// the copy does there.
    pub(crate) fn copy_end(
        &self,
        nexus: NexusId,
        cscd: Option<&Cscd>,
        conflict: Conflict,
    ) -> Result<End, Sense> {
        let cscd = cscd.ok_or(Sense::NO_SUCH_CSCD)?;
        if cscd.device_type != BLOCK_DEVICE {
            return Err(Sense::CSCD_TYPE);
        }
        let (_, unit) = self
            .named(nexus, cscd)
            .filter(|(_, unit)| unit.has_medium())
            .ok_or(Sense::CSCD_NOT_REACHABLE)?;
        let geometry = unit.backend.geometry();
        if cscd.block_bytes != geometry.block_bytes {
            return Err(Sense::COPY_GRANULARITY);
        }
        let who = &self.nexuses[&nexus].who;
        if unit.keeping.refuse(nexus, who, conflict) {
            return Err(Sense::THIRD_PARTY_FAILURE);
        }
        Ok(End {
            unit: unit.id,
            backend: Rc::clone(&unit.backend),
            geometry,
            least: unit.mode.least_fua(),
        })
    }

    /// Whether a copy of this nexus may change a unit. One that it does not reach is no matter
    /// here.
    pub(crate) fn may_copy_to(&self, nexus: NexusId, cscd: Option<&Cscd>) -> Result<(), Sense> {
        let named = cscd.and_then(|cscd| self.named(nexus, cscd));
        let Some((mapping, unit)) = named else {
            return Ok(());
        };
        match unit.protection(mapping.access, &unit.backend.geometry()) {
            Protection::None => Ok(()),
            Protection::WriteProtected => Err(Sense::WRITE_PROTECTED),
        }
    }

    fn named(&self, nexus: NexusId, cscd: &Cscd) -> Option<(Mapping, &Unit)> {
        let name = cscd.name?;
        let view = &self.nexuses.get(&nexus)?.view;
        view.values().find_map(|mapping| {
            let unit = &self.units[&mapping.unit];
            (unit.naa == name).then_some((*mapping, unit))
        })
    }

    pub(super) fn start_copy(&self, list_bytes: usize, ask: &Ask) -> Result<Start, Sense> {
        if list_bytes > LIST_MAX_BYTES {
            return Err(Sense::LIST_LENGTH);
        }
        // SPC-4 §6.4: no list is no error, and nothing to do.
        if list_bytes == 0 {
            return Ok(Start::Reply(Reply::good()));
        }
        let copying = Copying::new(ask.nexus, ask.unit);
        Ok(self.execute(ask, Task::Copy(copying), list_bytes))
    }

    pub(super) fn copy_results(&self, query: CopyQuery, ask: &Ask) -> Result<Vec<u8>, Sense> {
        let id = |list| CopyId {
            unit: ask.unit,
            nexus: ask.nexus,
            list,
        };
        match query {
            CopyQuery::Status(list) => self.copies.status(id(list)),
            CopyQuery::OperatingParameters => Ok(copy::operating_parameters()),
            CopyQuery::FailedSegment(list) => self.copies.failure(id(list)),
        }
    }
}

/// PERIPHERAL DEVICE TYPE of every unit.
const BLOCK_DEVICE: u8 = 0x00;
