//! What operators do in the small world: hand over, force, and lose a witness's disk.

use ha::authority::{self, Electorate, Standing};
use ha::register::{self, Commit};
use ha::types::Reason;
use ha::{Ballot, Config, Epoch, Incarnation, VoterInstance};

use super::world::{A, B, Letter, Office, Purpose, Seen, Stage, W, World, ballot, instance, node};

/// Row 2 of the table of handshakes: the log of `target` served in another lineage, or went on
/// after the two parted. The base is the one that the rule for a forced start left.
pub(crate) fn parted(office: &Office, data_epoch: Epoch, target: usize) -> bool {
    let config = &office.known.1;
    let other = data_epoch.lineage() != config.epoch.lineage();
    other && config.base_of(node(target)) != Some(data_epoch)
}

impl World {
    pub(crate) fn may_force(&self, index: usize) -> bool {
        let machine = &self.machines[index];
        let idle = machine.office.is_none() && machine.stage == Stage::Idle;
        self.left.forces > 0 && idle && !machine.failed && self.grants[index].is_none()
    }

    pub(crate) fn may_hand_over(&self, index: usize, office: &Office) -> bool {
        let machine = &self.machines[index];
        let shared = office.known.1.in_sync.contains(node(1 - index));
        let begins = self.left.handovers > 0 && office.doubts.is_empty() && office.pending == 0;
        let fit = shared && !office.lost && !machine.failed && machine.stage == Stage::Idle;
        fit && (begins || office.stopped)
    }

    /// What a proposal costs beside its ballot, and what stops before it leaves.
    pub(crate) fn spend(&mut self, index: usize, purpose: Purpose) {
        match purpose {
            Purpose::Force => self.left.forces -= 1,
            Purpose::Handover => {
                let machine = &mut self.machines[index];
                let office = machine.office.as_mut().expect("only a primary hands over");
                if !office.stopped {
                    office.stopped = true;
                    machine.lease = [false; 3];
                    self.left.handovers -= 1;
                }
            }
            Purpose::Promote
            | Purpose::Degrade
            | Purpose::Readmit
            | Purpose::Detach
            | Purpose::Claim => {}
        }
    }

    /// A majority may be this box alone (law R9).
    pub(crate) fn read_alone(&mut self, index: usize, asked: (Purpose, Ballot), seen: &mut Seen) {
        let Stage::Reading(_, reading) = &self.machines[index].stage else {
            return;
        };
        if let Some((_, read)) = reading.read() {
            self.commit(index, asked, &read, seen);
        }
    }

    pub(crate) fn choose_alone(&mut self, index: usize, seen: &mut Seen) {
        if matches!(&self.machines[index].stage, Stage::Committing(commit) if commit.chosen()) {
            self.chosen(index, seen);
        }
    }

    /// Law R9 without a majority. The operator may be wrong about the others: they may live.
    pub(crate) fn force_alone(&mut self, index: usize, seen: &mut Seen) -> bool {
        if !self.may_force(index) {
            return false;
        }
        self.left.forces -= 1;
        let data = self.data(index);
        let machine = &mut self.machines[index];
        let record = self.acceptors[index].clone();
        let read = record.accepted.1.clone();
        machine.seal = machine.seal.max(read.epoch);
        let standing = Standing {
            me: node(index),
            incarnation: Incarnation(machine.process),
            data: Some(&data),
            config_generation: 0,
            floor: machine.seal,
        };
        let Ok(value) = authority::force(&read, Electorate::Alone, node(1 - index), &standing)
        else {
            return false;
        };
        let counter = register::forced_counter(&record, machine.counter, value.epoch);
        let forced = ballot(counter, index);
        machine.counter = counter;
        let own = &mut self.acceptors[index];
        register::accept(own, forced, &value, None).expect("above everything promised");
        let mut commit = Commit::new(forced, None, value.clone(), value.clone());
        commit.accepted(node(index), instance(index));
        machine.stage = Stage::Committing(Box::new(commit));
        self.values.push((forced, value));
        seen.forced_alone = true;
        self.choose_alone(index, seen);
        assert!(
            self.machines[index].office.is_some(),
            "it is the only voter: {self:#?}"
        );
        true
    }

    /// What follows from a config that `index` knows chosen and that keeps it primary.
    pub(crate) fn follow(&mut self, index: usize, value: &Config, seen: &mut Seen) {
        let other = 1 - index;
        let marked = value.in_sync.contains(node(other)) && value.epoch > self.machines[other].seal;
        if marked && self.machines[other].office.is_none() {
            self.machines[other].data_epoch = value.epoch; // the marker in the data stream
        }
        if value.reason != Reason::Force {
            return;
        }
        seen.forced = true;
        let lineage = usize::from(value.epoch.lineage());
        let log = self.machines[index].log;
        let kept = self.acknowledged.iter().fold(0, |all, some| all | some) & log;
        self.acknowledged[lineage] |= kept;
        let ballot = self.acceptors[index].accepted.0;
        for to in [A, B, W].into_iter().filter(|to| *to != index) {
            self.letters.insert(Letter::Learn { to, ballot });
        }
    }

    /// Somebody is told of a forced start: whoever served in an older lineage yields (law R5b).
    pub(crate) fn learn(&mut self, to: usize, ballot: Ballot, seen: &mut Seen) -> bool {
        if to == W && self.wiped {
            return false; // a blank voter learns nothing
        }
        let config = self.value(ballot).clone();
        register::learn(&mut self.acceptors[to], ballot, &config);
        if to == W || config.primary.is_some_and(|primary| primary.0 == node(to)) {
            return true;
        }
        let machine = &mut self.machines[to];
        let served = machine.office.as_ref().map(|office| office.known.0);
        if served.is_some_and(|own| own < ballot) {
            seen.yielded = true;
            machine.office = None;
            machine.lease = [false; 3];
            machine.stage = Stage::Idle;
        } else if matches!(machine.stage, Stage::Reading(..)) {
            machine.stage = Stage::Idle;
        }
        true
    }

    /// A wiped witness has another life, which no config lists: nothing makes a record there, so it
    /// votes for nothing (law R10).
    pub(crate) fn refuse_wiped(&self, ballot: Ballot, seen: &mut Seen) -> bool {
        let life = (node(W), VoterInstance(99));
        let known = self.values.iter().find(|value| value.0 == ballot);
        let made = known.and_then(|(_, config)| register::admitted(life, ballot, config, None));
        assert!(made.is_none(), "a wiped witness votes again: {self:#?}");
        seen.wiped_refused = true;
        false
    }

    /// The witness loses its disk and comes back as another life (law R10).
    pub(crate) fn wipe(&mut self) -> bool {
        if self.left.wipes == 0 || self.wiped {
            return false;
        }
        self.left.wipes -= 1;
        self.wiped = true;
        self.grants[W] = None; // it waits out what it granted only if it remembers
        for machine in &mut self.machines {
            machine.lease[W] = false; // the answers of another life do not count
        }
        true
    }
}
