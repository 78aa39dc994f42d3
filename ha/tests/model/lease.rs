//! Leases of the small world: a bit that ends at any moment, the holder's before the voter's; and
//! what must hold in every world.

use super::world::{A, B, Seen, Stage, W, World, instance, node};
use ha::Incarnation;

impl World {
    /// Law R5: a heartbeat of `index` is acknowledged by `voter`.
    pub(crate) fn grant(&mut self, index: usize, voter: usize) -> bool {
        let machine = &self.machines[index];
        let Some(office) = &machine.office else {
            return false;
        };
        let record = &self.acceptors[voter];
        let primary = Some((node(index), Incarnation(machine.process)));
        let candidate = voter != W && self.machines[voter].stage != Stage::Idle;
        if voter == index
            || machine.failed
            || candidate
            || record.accepted.1.primary != primary
            || record.accepted.0 < office.known.0
            || !record.promised.belongs_to(node(index), instance(index))
            || self.grants[voter].is_some_and(|holder| holder != index)
        {
            return false;
        }
        self.grants[voter] = Some(index);
        self.machines[index].lease[voter] = true;
        true
    }

    /// The voter's promise ends, never before the holder's bit.
    pub(crate) fn end_promise(&mut self, voter: usize) -> bool {
        let Some(holder) = self.grants[voter] else {
            return false;
        };
        if self.machines[holder].lease[voter] {
            return false;
        }
        self.grants[voter] = None;
        true
    }

    /// Laws R5 and R5b: whether a read may be answered now.
    pub(crate) fn may_answer(&self, index: usize) -> bool {
        let machine = &self.machines[index];
        let Some(office) = &machine.office else {
            return false;
        };
        if machine.failed || office.stopped {
            return false;
        }
        if office.needed().len() == 1 {
            return true;
        }
        let own = machine
            .foreign
            .is_none_or(|foreign| foreign < office.known.0);
        own && machine.lease.contains(&true)
    }

    /// What must hold in every world.
    pub(crate) fn check(&self, seen: &mut Seen) {
        let mut answering = [0; 3];
        let mut alone = [0; 3];
        for index in [A, B] {
            let Some(office) = &self.machines[index].office else {
                continue;
            };
            let lineage = usize::from(office.known.1.epoch.lineage());
            if self.may_answer(index) {
                answering[lineage] += 1;
                let missing = self.acknowledged[lineage] & !self.machines[index].log;
                assert_eq!(missing, 0, "a read misses an acknowledged write: {self:#?}");
                seen.leased_read |= office.needed().len() > 1;
            }
            if office.needed().len() == 1 {
                alone[lineage] += 1;
            }
        }
        assert!(
            answering.iter().all(|count| *count < 2),
            "two leases: {self:#?}"
        );
        assert!(
            alone.iter().all(|count| *count < 2),
            "two boxes alone: {self:#?}"
        );
    }
}
