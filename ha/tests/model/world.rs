//! The state of the small world and what can happen in it.
//!
//! The register and the rules are the production ones. Around them, without time: messages lie in
//! a set for ever and are delivered in any order, any number of times or never; a lease is a bit
//! that ends at any moment, the holder's before the voter's; a process may die and come back.

use std::collections::BTreeSet;

use super::operator::parted;

use ha::authority::{self, Electorate, Standing};
use ha::record::GroupRecord;
use ha::register::{self, Commit, Reading};
use ha::types::Reason;
use ha::{
    Attached, Ballot, Config, DataState, DiskInstance, Epoch, GroupId, Incarnation, Members,
    NodeId, Policy, Timing, Voter, VoterInstance,
};

pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;
pub(crate) const W: usize = 2;

pub(crate) fn node(index: usize) -> NodeId {
    NodeId(u8::try_from(index).unwrap() + 1)
}

pub(crate) fn instance(index: usize) -> VoterInstance {
    VoterInstance(index as u128 + 1)
}

pub(crate) fn ballot(counter: u64, index: usize) -> Ballot {
    Ballot {
        counter,
        node: node(index),
        instance: instance(index),
    }
}

fn first_config(in_sync: Members) -> Config {
    let voter = |index| Voter {
        node: node(index),
        instance: instance(index),
        weight: 1,
    };
    Config {
        group: GroupId(1),
        epoch: Epoch(1),
        primary: Some((node(A), Incarnation(1))),
        in_sync,
        voters: vec![voter(A), voter(B), voter(W)],
        policy: Policy::Witness,
        timing: Timing::default(),
        members: vec![(node(A), DiskInstance(1)), (node(B), DiskInstance(2))],
        resync_base_epoch: Vec::new(),
        config_generation: 0,
        reason: Reason::Readmit,
    }
}

fn record(ballot: Ballot, config: &Config) -> GroupRecord {
    GroupRecord {
        group: GroupId(1),
        promised: ballot,
        accepted: (ballot, config.clone()),
        counter: 1,
        largest_lease_ms: 700,
        seal: Epoch::ZERO,
    }
}

/// A message of the register; the receiver is a voter or the ballot's proposer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Letter {
    Prepare {
        to: usize,
        ballot: Ballot,
    },
    Promise {
        from: usize,
        ballot: Ballot,
        accepted: Ballot,
    },
    Accept {
        to: usize,
        ballot: Ballot,
    },
    Accepted {
        from: usize,
        ballot: Ballot,
    },
    /// The forced config of that ballot is known chosen.
    Learn {
        to: usize,
        ballot: Ballot,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    Promote,
    Degrade,
    Readmit,
    Detach,
    Claim,
    Handover,
    Force,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    Idle,
    Reading(Purpose, Reading),
    Committing(Box<Commit>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Office {
    pub(crate) known: (Ballot, Config),
    pub(crate) doubts: Vec<(Ballot, Config)>,
    /// The peer is lost while it counted.
    pub(crate) lost: bool,
    /// Drained for a handover: nothing is answered (law R7).
    pub(crate) stopped: bool,
    /// Acks wait for the peer, which has a copy (law R6).
    pub(crate) mirror: bool,
    /// Writes not yet acknowledged, and those of them that the peer confirmed.
    pub(crate) pending: u8,
    pub(crate) confirmed: u8,
}

impl Office {
    pub(crate) fn needed(&self) -> Members {
        let sets = self.doubts.iter().map(|doubt| doubt.1.in_sync);
        sets.fold(self.known.1.in_sync, Members::union)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Machine {
    pub(crate) process: u128,
    pub(crate) office: Option<Office>,
    pub(crate) stage: Stage,
    /// Highest foreign ballot that the own acceptor promised or accepted.
    pub(crate) foreign: Option<Ballot>,
    /// The lease bits, by voter.
    pub(crate) lease: [bool; 3],
    pub(crate) counter: u64,
    pub(crate) seal: Epoch,
    pub(crate) log: u8,
    /// The last epoch in which the log was in sync or served.
    pub(crate) data_epoch: Epoch,
    /// The disk failed: this process answers nothing any more.
    pub(crate) failed: bool,
}

/// How often what may happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) ballots: [u8; 2],
    pub(crate) writes: u8,
    pub(crate) crashes: u8,
    pub(crate) losses: u8,
    pub(crate) copies: u8,
    pub(crate) failures: u8,
    pub(crate) wipes: u8,
    pub(crate) forces: u8,
    pub(crate) handovers: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) acceptors: [GroupRecord; 3],
    /// The witness lost its record and is another life now.
    pub(crate) wiped: bool,
    /// To which box each voter promised a lease.
    pub(crate) grants: [Option<usize>; 3],
    pub(crate) machines: [Machine; 2],
    pub(crate) letters: BTreeSet<Letter>,
    /// Values by ballot: a ballot has one value.
    pub(crate) values: Vec<(Ballot, Config)>,
    /// Mirrored writes on their way: (epoch, from, write); and their confirmations.
    frames: BTreeSet<(Epoch, usize, u8)>,
    confirmations: BTreeSet<(Epoch, usize, u8)>,
    /// By lineage: a forced start begins another array.
    pub(crate) acknowledged: [u8; 3],
    pub(crate) left: Budget,
}

/// What was seen at least once, so that nothing passes by being empty.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) solo: bool,
    pub(crate) promoted: bool,
    pub(crate) readmitted: bool,
    pub(crate) refused: bool,
    pub(crate) sealed_frame: bool,
    pub(crate) leased_read: bool,
    pub(crate) detached: bool,
    pub(crate) claimed: bool,
    pub(crate) handed_over: bool,
    pub(crate) wiped_refused: bool,
    pub(crate) forced: bool,
    pub(crate) forced_alone: bool,
    pub(crate) yielded: bool,
    pub(crate) parted: bool,
}

impl Seen {
    /// What was seen, by name.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        let all = [
            ("alone", self.solo),
            ("promoted", self.promoted),
            ("readmitted", self.readmitted),
            ("unfit refused", self.refused),
            ("sealed frame refused", self.sealed_frame),
            ("read under a lease", self.leased_read),
            ("detached", self.detached),
            ("claimed", self.claimed),
            ("handed over", self.handed_over),
            ("wiped voter refused", self.wiped_refused),
            ("forced", self.forced),
            ("forced alone", self.forced_alone),
            ("yielded to a forced box", self.yielded),
            ("parted copies", self.parted),
        ];
        let seen = all.into_iter().filter(|one| one.1);
        seen.map(|one| one.0).collect()
    }
}

/// Where a scope begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Both boxes in S.
    InSync,
    /// S = {A}, B holds a copy.
    Solo,
    /// S = {A}, and A has written since B was in sync.
    Stale,
    /// Both in S by a commit that B has not seen.
    Behind,
}

impl World {
    pub(crate) fn new(start: Start, left: Budget) -> Self {
        let both = Members::pair(node(A), node(B));
        let in_sync = if start == Start::InSync {
            both
        } else {
            Members::one(node(A))
        };
        let mut config = first_config(in_sync);
        if start == Start::Stale {
            config.epoch = Epoch(2);
            config.resync_base_epoch = vec![(node(B), Epoch(1))];
        }
        let first = ballot(1, A);
        let mut values = vec![(first, config.clone())];
        let mut acceptors = [(); 3].map(|()| record(first, &config));
        let mut known = (first, config.clone());
        if start == Start::Behind {
            let next = Config {
                epoch: Epoch(2),
                in_sync: both,
                ..config
            };
            known = (ballot(2, A), next);
            values.push(known.clone());
            for index in [A, W] {
                acceptors[index] = record(known.0, &known.1);
            }
        }
        let mut machines = [A, B].map(|index| Machine {
            process: index as u128 + 1,
            office: None,
            stage: Stage::Idle,
            foreign: None,
            lease: [false; 3],
            counter: 2,
            seal: Epoch::ZERO,
            log: 0,
            data_epoch: Epoch(1),
            failed: false,
        });
        machines[A].data_epoch = known.1.epoch;
        machines[A].office = Some(Office {
            known,
            doubts: Vec::new(),
            lost: false,
            stopped: false,
            mirror: matches!(start, Start::Solo | Start::Behind),
            pending: 0,
            confirmed: 0,
        });
        Self {
            acceptors,
            wiped: false,
            grants: [None; 3],
            machines,
            letters: BTreeSet::new(),
            values,
            frames: BTreeSet::new(),
            confirmations: BTreeSet::new(),
            acknowledged: [0; 3],
            left,
        }
    }

    pub(crate) fn value(&self, ballot: Ballot) -> &Config {
        &self
            .values
            .iter()
            .find(|value| value.0 == ballot)
            .expect("proposed before")
            .1
    }

    pub(crate) fn data(&self, index: usize) -> DataState {
        let disk = Some(DiskInstance(index as u128 + 1));
        let failed = self.machines[index].failed;
        DataState {
            attached: if failed {
                Attached::Failed(String::new())
            } else {
                Attached::Yes
            },
            disk,
            generation: 1,
            cache_lost: false,
        }
    }

    /// Every world that one event makes of this one.
    pub(crate) fn next(&self, seen: &mut Seen) -> Vec<Self> {
        let mut worlds = Vec::new();
        let mut add = |change: &mut dyn FnMut(&mut Self, &mut Seen) -> bool| {
            let mut world = self.clone();
            if change(&mut world, seen) && world != *self {
                worlds.push(world);
            }
        };
        for letter in &self.letters {
            add(&mut |world, seen| world.deliver(letter, seen));
        }
        for index in [A, B] {
            let purposes = [Purpose::Promote, Purpose::Degrade, Purpose::Readmit];
            for purpose in purposes
                .into_iter()
                .chain([Purpose::Detach, Purpose::Claim])
                .chain([Purpose::Handover, Purpose::Force])
            {
                add(&mut |world, seen| world.propose(index, purpose, seen));
            }
            add(&mut |world, seen| world.force_alone(index, seen));
            add(&mut |world, _| world.write(index));
            add(&mut |world, _| world.lose_peer(index));
            add(&mut |world, seen| world.copy(index, seen));
            add(&mut |world, _| world.crash(index));
            add(&mut |world, _| world.fail_disk(index));
            for voter in [A, B, W] {
                add(&mut |world, _| world.grant(index, voter));
                add(&mut |world, _| std::mem::take(&mut world.machines[index].lease[voter]));
            }
            for write in [1, 2] {
                add(&mut |world, _| world.acknowledge(index, write));
            }
        }
        for voter in [A, B, W] {
            add(&mut |world, _| world.end_promise(voter));
        }
        add(&mut |world, _| world.wipe());
        for frame in &self.frames {
            add(&mut |world, seen| world.mirror(*frame, seen));
        }
        for frame in &self.confirmations {
            add(&mut |world, _| world.confirm(*frame));
        }
        worlds
    }

    fn deliver(&mut self, letter: &Letter, seen: &mut Seen) -> bool {
        match letter.clone() {
            Letter::Prepare { to: W, ballot } | Letter::Accept { to: W, ballot } if self.wiped => {
                self.refuse_wiped(ballot, seen)
            }
            Letter::Learn { to, ballot } => self.learn(to, ballot, seen),
            Letter::Prepare { to, ballot } => {
                if self.held(to, ballot)
                    || register::promise(&mut self.acceptors[to], ballot).is_err()
                {
                    return false;
                }
                self.note_foreign(to, ballot);
                let accepted = self.acceptors[to].accepted.0;
                self.letters.insert(Letter::Promise {
                    from: to,
                    ballot,
                    accepted,
                })
            }
            Letter::Accept { to, ballot } => {
                let config = self.value(ballot).clone();
                let record = &mut self.acceptors[to].clone();
                if self.held(to, ballot) || register::accept(record, ballot, &config, None).is_err()
                {
                    return false;
                }
                self.acceptors[to] = record.clone();
                self.note_foreign(to, ballot);
                if to != W && ballot.node != node(to) {
                    self.machines[to].office = None; // law R8
                    self.machines[to].lease = [false; 3];
                }
                self.letters.insert(Letter::Accepted { from: to, ballot });
                true
            }
            Letter::Promise {
                from,
                ballot,
                accepted,
            } => {
                let value = (accepted, self.value(accepted).clone());
                let index = usize::from(ballot.node.0) - 1;
                let Stage::Reading(purpose, reading) = &mut self.machines[index].stage else {
                    return false;
                };
                if reading.ballot != ballot {
                    return false;
                }
                let purpose = *purpose;
                reading.promised(node(from), instance(from), value);
                if let Some((_, read)) = reading.read() {
                    self.commit(index, (purpose, ballot), &read, seen);
                }
                true
            }
            Letter::Accepted { from, ballot } => {
                let index = usize::from(ballot.node.0) - 1;
                let Stage::Committing(commit) = &mut self.machines[index].stage else {
                    return false;
                };
                if commit.ballot != ballot {
                    return false;
                }
                commit.accepted(node(from), instance(from));
                if commit.chosen() {
                    self.chosen(index, seen);
                }
                true
            }
        }
    }

    /// Law R5, the voter's side; and a living holder refuses others.
    fn held(&self, voter: usize, ballot: Ballot) -> bool {
        let promised = self.grants[voter].is_some_and(|holder| node(holder) != ballot.node);
        let living = voter != W && ballot.node != node(voter) && self.may_answer(voter);
        promised || living
    }

    fn note_foreign(&mut self, index: usize, ballot: Ballot) {
        if index == W || ballot.node == node(index) {
            return;
        }
        let may_outbid = register::may_outbid(&self.acceptors[index], ballot);
        let machine = &mut self.machines[index];
        machine.foreign = machine.foreign.max(Some(ballot));
        machine.lease = [false; 3];
        if may_outbid {
            machine.counter = machine.counter.max(ballot.counter);
        }
        if matches!(&machine.stage, Stage::Reading(_, reading) if reading.ballot < ballot) {
            machine.stage = Stage::Idle;
        }
    }

    fn propose(&mut self, index: usize, purpose: Purpose, seen: &mut Seen) -> bool {
        let machine = &self.machines[index];
        let fit = match (&machine.office, purpose) {
            (None, Purpose::Promote) => {
                self.grants[index].is_none() && machine.stage == Stage::Idle
            }
            (None, Purpose::Force) => self.may_force(index),
            (None, Purpose::Claim) => self.is_named(index) && machine.stage == Stage::Idle,
            (Some(office), Purpose::Degrade) => office.lost && !machine.failed,
            (Some(office), Purpose::Detach) => {
                machine.failed && office.needed().contains(node(1 - index))
            }
            (Some(office), Purpose::Readmit) => {
                office.mirror
                    && !office.lost
                    && office.known.1.in_sync.len() == 1
                    && machine.stage == Stage::Idle
                    && !machine.failed
            }
            (Some(office), Purpose::Handover) => self.may_hand_over(index, office),
            (None | Some(_), _) => false,
        };
        if !fit || self.left.ballots[index] == 0 {
            return false;
        }
        self.left.ballots[index] -= 1;
        self.spend(index, purpose);
        let machine = &self.machines[index];
        let counter = machine.counter.max(self.acceptors[index].promised.counter) + 1;
        let ballot = ballot(counter, index);
        let own = &mut self.acceptors[index];
        own.promised = ballot;
        let mut reading = Reading::new(ballot);
        reading.promised(node(index), instance(index), own.accepted.clone());
        let machine = &mut self.machines[index];
        machine.counter = counter;
        machine.stage = Stage::Reading(purpose, reading);
        for to in [A, B, W].into_iter().filter(|to| *to != index) {
            self.letters.insert(Letter::Prepare { to, ballot });
        }
        self.read_alone(index, (purpose, ballot), seen);
        true
    }

    pub(crate) fn commit(
        &mut self,
        index: usize,
        asked: (Purpose, Ballot),
        read: &Config,
        seen: &mut Seen,
    ) {
        let (purpose, ballot) = asked;
        let data = self.data(index);
        let heir = self.machines[1 - index].process;
        let machine = &mut self.machines[index];
        let standing = Standing {
            me: node(index),
            incarnation: Incarnation(machine.process),
            data: Some(&data),
            config_generation: 0,
            floor: machine.seal,
        };
        let known = machine
            .office
            .as_ref()
            .map_or(read, |office| &office.known.1);
        let other = (node(1 - index), DiskInstance(2 - index as u128));
        let heir = (node(1 - index), Incarnation(heir));
        let in_doubt = machine
            .office
            .as_ref()
            .is_some_and(|office| !office.doubts.is_empty());
        let derived = match purpose {
            Purpose::Promote => authority::promote(read, &standing),
            Purpose::Degrade => authority::degrade(read, known, &standing),
            Purpose::Readmit => authority::readmit(read, other, &standing),
            Purpose::Detach => authority::detach(read, known, heir, &standing),
            Purpose::Claim => authority::claim(read, &standing),
            Purpose::Handover if read.primary == Some(heir) => Ok(read.clone()),
            Purpose::Handover if in_doubt => authority::take_back(read, &standing),
            Purpose::Handover => authority::handover(read, heir, &standing),
            Purpose::Force => {
                authority::force(read, Electorate::Majority, node(1 - index), &standing)
            }
        };
        let Ok(value) = derived else {
            seen.refused = true;
            machine.stage = Stage::Idle;
            if !matches!(purpose, Purpose::Promote | Purpose::Force) {
                machine.office = None;
                machine.lease = [false; 3];
            }
            return;
        };
        if self.acceptors[index].promised != ballot {
            machine.stage = Stage::Idle;
            return;
        }
        if matches!(purpose, Purpose::Promote | Purpose::Force) {
            machine.seal = machine.seal.max(read.epoch); // before the Accept leaves (law R3)
        }
        if let Some(office) = &mut machine.office {
            office.doubts.push((ballot, value.clone()));
        }
        let mut commit = Commit::new(ballot, None, read.clone(), value.clone());
        register::accept(&mut self.acceptors[index], ballot, &value, None).expect("just promised");
        commit.accepted(node(index), instance(index));
        machine.stage = Stage::Committing(Box::new(commit));
        self.values.push((ballot, value));
        for to in [A, B, W].into_iter().filter(|to| *to != index) {
            self.letters.insert(Letter::Accept { to, ballot });
        }
        self.choose_alone(index, seen);
    }

    pub(crate) fn chosen(&mut self, index: usize, seen: &mut Seen) {
        let machine = &mut self.machines[index];
        let Stage::Committing(commit) = std::mem::replace(&mut machine.stage, Stage::Idle) else {
            unreachable!("called while committing");
        };
        let known = (commit.ballot, commit.value.clone());
        if known
            .1
            .primary
            .is_none_or(|primary| primary.0 != node(index))
        {
            seen.detached |= known.1.reason == Reason::Detach;
            seen.handed_over |= known.1.reason == Reason::Handover;
            machine.office = None; // law R8
            machine.lease = [false; 3];
            return;
        }
        let alone = known.1.in_sync.len() == 1;
        machine.lease = [false; 3];
        machine.data_epoch = known.1.epoch;
        let value = known.1.clone();
        match &mut machine.office {
            None => {
                seen.claimed |= matches!(known.1.reason, Reason::Detach | Reason::Handover);
                seen.promoted |= known.1.reason == Reason::Promote;
                machine.office = Some(Office {
                    known,
                    doubts: Vec::new(),
                    lost: false,
                    stopped: false,
                    mirror: false,
                    pending: 0,
                    confirmed: 0,
                });
            }
            Some(office) => {
                seen.solo |= alone;
                seen.readmitted |= !alone;
                office.known = known;
                office.doubts.clear();
                office.lost &= !alone;
                office.mirror &= !alone;
                office.stopped = false;
            }
        }
        self.follow(index, &value, seen);
    }

    /// The config that a majority accepted names this process.
    fn is_named(&self, index: usize) -> bool {
        let (ballot, config) = &self.acceptors[index].accepted;
        let process = Incarnation(self.machines[index].process);
        let votes = self.acceptors.iter();
        let votes = votes.filter(|record| record.accepted.0 == *ballot).count();
        config.primary == Some((node(index), process)) && votes > 1
    }

    /// From now on the box answers nothing and applies nothing.
    fn fail_disk(&mut self, index: usize) -> bool {
        let machine = &mut self.machines[index];
        if self.left.failures == 0 || machine.failed {
            return false;
        }
        self.left.failures -= 1;
        machine.failed = true;
        machine.lease = [false; 3];
        true
    }

    fn write(&mut self, index: usize) -> bool {
        let failed = self.machines[index].failed;
        let Some(office) = &mut self.machines[index].office else {
            return false;
        };
        if self.left.writes == 0 || failed || office.stopped {
            return false;
        }
        let write = 1 << (self.left.writes - 1);
        self.left.writes -= 1;
        office.pending |= write;
        let epoch = office.known.1.epoch;
        self.machines[index].log |= write;
        self.frames.insert((epoch, index, write));
        true
    }

    /// A frame reaches the other box: applied unless that one sealed its epoch.
    fn mirror(&mut self, frame: (Epoch, usize, u8), seen: &mut Seen) -> bool {
        let (epoch, from, write) = frame;
        let other = &mut self.machines[1 - from];
        if epoch <= other.seal || other.office.is_some() || other.failed {
            seen.sealed_frame = true;
            return false;
        }
        other.log |= write;
        self.confirmations.insert(frame)
    }

    fn confirm(&mut self, frame: (Epoch, usize, u8)) -> bool {
        let (epoch, from, write) = frame;
        let Some(office) = &mut self.machines[from].office else {
            return false;
        };
        if office.known.1.epoch != epoch || office.lost {
            return false;
        }
        office.confirmed |= write & office.pending;
        true
    }

    /// Laws R4 and R0b.
    fn acknowledge(&mut self, index: usize, write: u8) -> bool {
        if self.machines[index].failed {
            return false;
        }
        let Some(office) = &mut self.machines[index].office else {
            return false;
        };
        if office.pending & write == 0 {
            return false;
        }
        let both = office.mirror || office.needed().contains(node(1 - index));
        if both && (office.lost || office.confirmed & write == 0) {
            return false;
        }
        office.pending &= !write;
        let lineage = usize::from(office.known.1.epoch.lineage());
        self.acknowledged[lineage] |= write;
        let log = self.machines[index].log;
        assert_eq!(
            self.acknowledged[lineage] & !log,
            0,
            "acknowledged without an earlier one: {self:#?}"
        );
        true
    }

    fn lose_peer(&mut self, index: usize) -> bool {
        let machine = &mut self.machines[index];
        let Some(office) = &mut machine.office else {
            return false;
        };
        if self.left.losses == 0 || office.lost {
            return false;
        }
        self.left.losses -= 1;
        if office.needed().contains(node(1 - index)) {
            office.lost = true;
        } else {
            office.mirror = false;
            if matches!(machine.stage, Stage::Reading(Purpose::Readmit, _)) {
                machine.stage = Stage::Idle;
            }
        }
        true
    }

    /// A resync from begin to end: from now on acks wait for the peer.
    fn copy(&mut self, index: usize, seen: &mut Seen) -> bool {
        let log = self.machines[index].log;
        let seal = self.machines[1 - index].seal;
        let target = self.machines[1 - index].office.is_none();
        let target = target && !self.machines.iter().any(|machine| machine.failed);
        let Some(office) = &mut self.machines[index].office else {
            return false;
        };
        let solo = office.known.1.in_sync.len() == 1 && office.doubts.is_empty();
        if self.left.copies == 0 || !solo || !target || office.known.1.epoch <= seal {
            return false;
        }
        if parted(office, self.machines[1 - index].data_epoch, 1 - index) {
            seen.parted = true;
            return false;
        }
        self.left.copies -= 1;
        office.mirror = true;
        let kept = self.acknowledged.iter().fold(0, |all, some| all | some);
        let lost = kept & self.machines[1 - index].log & !log;
        assert_eq!(
            lost, 0,
            "a copy overwrites what only its target has: {self:#?}"
        );
        self.machines[1 - index].log = log;
        true
    }

    /// The process dies and comes back as another: nothing but the records and the log survives.
    fn crash(&mut self, index: usize) -> bool {
        if self.left.crashes == 0 {
            return false;
        }
        self.left.crashes -= 1;
        let machine = &mut self.machines[index];
        machine.process += 10;
        machine.failed = false;
        machine.office = None;
        machine.stage = Stage::Idle;
        machine.lease = [false; 3];
        machine.foreign = None;
        true
    }
}
