//! Faults with a story of their own: wires that flap, sessions that only one side knows to be
//! over, power that fails in the middle of a metadata write, disks and witnesses that are replaced
//! by blank ones, hosts that go away.

use super::inflict::{Undo, Way};
use super::{Event, MS, World};
use crate::coverage::Area;
use crate::net::{BOXES, Host, WITNESS};
use crate::node::Machine;

impl World {
    /// Wires are cut and healed several times in quick succession.
    pub(super) fn flap(&mut self, ways: Vec<Way>) {
        let times = self.rng.between(3, 8);
        self.trace
            .note(self.now, || format!("flaps {times} times: {ways:?}"));
        self.flap_down(ways, times);
    }

    pub(super) fn flap_down(&mut self, ways: Vec<Way>, left: u64) {
        for (from, to, link) in &ways {
            self.net.cut(*from, *to, *link);
        }
        let wait = self.rng.between(5 * MS, 150 * MS);
        self.schedule(wait, Event::Undo(Undo::FlapUp(ways, left - 1)));
    }

    pub(super) fn flap_up(&mut self, ways: Vec<Way>, left: u64) {
        for (from, to, link) in &ways {
            self.net.heal(self.now, *from, *to, *link);
        }
        if left > 0 {
            let wait = self.rng.between(5 * MS, 150 * MS);
            self.schedule(wait, Event::Undo(Undo::FlapDown(ways, left)));
        }
    }

    /// The box's next write of some kind of metadata is its last: the power goes while it is under
    /// way. If it is one that only a new volume needs, a volume is made.
    pub(super) fn set_trap(&mut self, host: Host) {
        let kinds = [
            Area::Superblock,
            Area::Group,
            Area::Intents,
            Area::Index,
            Area::DirtyMap,
        ];
        let area = *self.rng.pick(&kinds);
        self.machine(host).trap = Some(area);
        if area == Area::Superblock {
            self.create_volume();
        }
    }

    /// A write begins; if it is the awaited one the power goes before it can be done.
    pub(super) fn spring_trap(&mut self, host: Host, area: Area, wait_ns: u64) {
        let machine = self.machine(host);
        if machine.trap == Some(area) {
            machine.trap = None;
            let at = self.rng.below(wait_ns.max(1));
            self.schedule(at, Event::Undo(Undo::PowerCut(host)));
        }
    }

    /// The disks of a box are replaced by blank ones. Only while the other box has everything:
    /// the last copy is nobody's to replace.
    pub(super) fn replace_disks(&mut self, host: Host, away_ns: u64) {
        if !self.has_two_copies() {
            return;
        }
        self.counts.add("disks replaced");
        self.power_off_for(host, away_ns);
        let instance = self.rng.wide();
        let machine = self.machine(host);
        machine.backings.clear();
        machine.disk_instance = instance;
    }

    /// An image of a box's disks is taken; the next time it is put back, if the box was started or
    /// saw another epoch since (law D7).
    pub(super) fn put_disks_back(&mut self, host: Host, away_ns: u64) {
        if !self.has_two_copies() {
            return;
        }
        self.power_off_for(host, away_ns);
        let instance = self.rng.wide();
        let machine = self.machine(host);
        let now = machine.record.copy;
        let older = |then: &(_, u64)| {
            // what is remembered may be one write behind what the image holds
            now.is_some_and(|now| now.0 == then.0 && now.1 > then.1 + 1)
        };
        match machine.image.take() {
            Some((backings, then)) if then.as_ref().is_some_and(older) => {
                machine.backings = backings;
                machine.disk_instance = instance;
                self.counts.add("disks put back");
            }
            Some(_) | None => machine.image = Some((machine.backings.clone(), now)),
        }
    }

    /// Whether each box has everything.
    fn has_two_copies(&self) -> bool {
        // whose disk has failed may not have told the other box yet, which has the only copy then
        BOXES.iter().all(|host| self.attached(*host)) && self.is_whole()
    }

    /// The witness's store is lost; a blank one takes its place, and a little later the operator
    /// has it admitted. Only while both boxes know that they vote: they are a majority
    /// without it.
    pub(super) fn replace_witness(&mut self, away_ns: u64) {
        let votes = |machine: &Machine| {
            let group = machine.record.group.as_ref();
            group.is_some_and(|group| group.accepted.1.voters.len() == 3)
        };
        if !self.machines.iter().all(votes) {
            return;
        }
        self.kill_for(WITNESS, away_ns);
        self.witness.record = None;
        self.witness.instance = ha::VoterInstance(self.rng.wide());
        let wait = away_ns + self.rng.between(300 * MS, 3000 * MS);
        self.schedule(wait, Event::Undo(Undo::AdmitWitness));
    }

    /// The operator asks the primary to have the blank witness admitted instead of the lost one.
    pub(super) fn admit_witness(&mut self) {
        let Some(host) = self.serving() else { return };
        if self.machine(host).process().stopped {
            return;
        }
        let node = ha::NodeId(WITNESS.0);
        let command = ha::OperatorCommand::RemoveVoter { node };
        let id = self.tick();
        self.feed_node(host, ha::Input::Operator { id, command });
    }

    /// A host drops its connection with commands in flight, and tries them again elsewhere.
    pub(super) fn drop_host(&mut self) {
        let clients = self.clients.len() as u64;
        let client = usize::try_from(self.rng.below(clients)).expect("an index");
        self.disconnect(client);
    }
}
