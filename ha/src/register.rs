//! One replicated value over the voters: acceptor and proposer, without time and without I/O.
//!
//! The value is the group's [`Config`], and the config names its own voters. A value derived
//! from a value read is chosen when a majority of *both* values' voters accepted it (law R10);
//! a reader goes on asking until it has a majority of the voters of the highest value it saw. Two
//! configs that follow each other differ by at most one voter, so their majorities meet.
//!
//! ```text
//!   Reading --(majority of the highest value's voters promised)--> read value
//!   derive a new value --> Commit --(majorities accepted)--> chosen
//! ```

use std::collections::BTreeMap;

use crate::mutants::mutant;
use crate::record::GroupRecord;
use crate::types::{Ballot, Config, Epoch, Members, NodeId, Voter, VoterInstance};

/// Acceptor, phase 1: promises `ballot`, or names the higher one already promised.
///
/// # Errors
/// The ballot promised, if it is higher.
pub fn promise(record: &mut GroupRecord, ballot: Ballot) -> Result<(), Ballot> {
    if ballot < record.promised {
        return Err(record.promised);
    }
    record.promised = ballot;
    Ok(())
}

/// Acceptor, phase 2: accepts `config` and promises `next` along with it. Accepting twice is the
/// same as accepting once.
///
/// # Errors
/// The ballot promised, if it is higher.
pub fn accept(
    record: &mut GroupRecord,
    ballot: Ballot,
    config: &Config,
    next: Option<Ballot>,
) -> Result<(), Ballot> {
    if record.accepted.0 == ballot {
        return Ok(());
    }
    if ballot < record.promised {
        return Err(record.promised);
    }
    assert!(record.accepted.0 < ballot, "what is accepted was promised");
    record.accepted = (ballot, config.clone());
    record.promised = next.map_or(ballot, |next| next.max(ballot));
    Ok(())
}

/// A value known chosen at `ballot`. It replaces an older accepted value whatever was promised
/// since: whoever holds that promise has read this value from the voters that chose it.
pub fn learn(record: &mut GroupRecord, ballot: Ballot, config: &Config) {
    if record.accepted.0 < ballot {
        record.accepted = (ballot, config.clone());
        record.promised = record.promised.max(ballot);
    }
}

/// The counter with which a proposer that was forced begins the lineage of `epoch` as the only
/// voter: above everything in its record and everything `seen`, so that whoever meets it yields
/// (law R9, H22).
#[must_use]
pub fn forced_counter(record: &GroupRecord, seen: u64, epoch: Epoch) -> u64 {
    let promised = record.promised;
    let lineage = u64::from(epoch.lineage()).max(promised.lineage() + 1);
    let used = promised.counter.max(record.accepted.0.counter).max(seen);
    used.max(lineage << 48) + 1
}

/// Whether a proposer with this record may go above `ballot`, of which it merely heard. Whoever has
/// one of a later lineage was forced: this proposer learns of that, or stays out of its way (H22).
#[must_use]
pub fn may_outbid(record: &GroupRecord, ballot: Ballot) -> bool {
    let (accepted, config) = &record.accepted;
    let own = accepted.lineage().max(u64::from(config.epoch.lineage()));
    ballot.lineage() <= own || mutant!(OutbidLineage)
}

/// The record of a voter that a commit admits: made only by an Accept that says so, never by a
/// Prepare, and only if the config lists exactly this life of the voter (law R10). A voter whose
/// record was lost gets no new one from the ordinary Accepts that go on listing it: it has
/// forgotten what it promised (H14).
#[must_use]
pub fn admitted(
    me: (NodeId, VoterInstance),
    ballot: Ballot,
    config: &Config,
    next: Option<Ballot>,
) -> Option<GroupRecord> {
    if !config.lists(me.0, me.1) {
        return None;
    }
    Some(GroupRecord {
        group: config.group,
        promised: next.map_or(ballot, |next| next.max(ballot)),
        accepted: (ballot, config.clone()),
        counter: ballot.counter,
        largest_lease_ms: config.timing.lease_ms,
        seal: Epoch::ZERO,
    })
}

/// A voter's promise as the proposer got it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Promised {
    instance: VoterInstance,
    accepted: (Ballot, Config),
}

/// Proposer, phase 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reading {
    /// The ballot asked for.
    pub ballot: Ballot,
    promises: BTreeMap<NodeId, Promised>,
}

impl Reading {
    /// Nothing answered yet.
    #[must_use]
    pub const fn new(ballot: Ballot) -> Self {
        Self {
            ballot,
            promises: BTreeMap::new(),
        }
    }

    /// A voter promised, and showed what it accepted last.
    pub fn promised(&mut self, node: NodeId, instance: VoterInstance, accepted: (Ballot, Config)) {
        self.promises.insert(node, Promised { instance, accepted });
    }

    /// The highest value seen so far.
    #[must_use]
    pub fn highest(&self) -> Option<&(Ballot, Config)> {
        self.promises
            .values()
            .map(|promised| &promised.accepted)
            .max_by_key(|value| value.0)
    }

    /// The value read, once a majority of its own voters promised.
    #[must_use]
    pub fn read(&self) -> Option<(Ballot, Config)> {
        let value = self.highest()?;
        let votes = self.promises.iter().filter(|(node, promised)| {
            value.1.lists(**node, promised.instance) || mutant!(AnyInstance)
        });
        let votes: Members = votes.map(|(node, _)| *node).collect();
        value.1.is_majority(votes).then(|| value.clone())
    }

    /// Whose promise is still wanted, given the config the proposer knew.
    #[must_use]
    pub fn missing(&self, known: &Config) -> Members {
        let highest = self.highest().map(|value| &value.1);
        let voters = known
            .voters
            .iter()
            .chain(highest.into_iter().flat_map(|read| &read.voters));
        voters
            .map(|voter| voter.node)
            .filter(|node| !self.promises.contains_key(node))
            .collect()
    }
}

/// Proposer, phase 2.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Commit {
    /// The ballot of the proposal.
    pub ballot: Ballot,
    /// The ballot that acceptors promise along with it.
    pub next: Option<Ballot>,
    /// The value proposed.
    pub value: Config,
    /// The voter that this value admits. It votes first, so that nobody ever accepts a config
    /// that lists a voter without a record.
    pub admits: Option<Voter>,
    base: Config,
    accepted: Members,
}

impl Commit {
    /// Proposes `value`, derived from the value read, `base`.
    #[must_use]
    pub fn new(ballot: Ballot, next: Option<Ballot>, base: Config, value: Config) -> Self {
        assert!(
            one_voter_apart(&base, &value),
            "one change of voters at a time (law R10)"
        );
        let new = |voter: &&Voter| !base.voters.contains(voter);
        let admits = value.voters.iter().find(new).copied();
        Self {
            ballot,
            next,
            value,
            admits,
            base,
            accepted: Members::EMPTY,
        }
    }

    /// A voter accepted. A vote of a life that neither config lists does not count.
    pub fn accepted(&mut self, node: NodeId, instance: VoterInstance) {
        let listed = self.base.lists(node, instance) || self.value.lists(node, instance);
        if listed || mutant!(AnyInstance) {
            self.accepted = self.accepted.with(node);
        }
    }

    /// Whether the value is chosen.
    #[must_use]
    pub fn chosen(&self) -> bool {
        let votes = self.accepted;
        self.admitted() && self.base.is_majority(votes) && self.value.is_majority(votes)
    }

    /// Whether the voter that this value admits, if any, has its record.
    #[must_use]
    pub fn admitted(&self) -> bool {
        self.admits
            .is_none_or(|voter| self.accepted.contains(voter.node))
    }

    /// Whose acceptance is wanted now.
    #[must_use]
    pub fn missing(&self) -> Members {
        if let Some(voter) = self.admits.filter(|_| !self.admitted()) {
            return Members::one(voter.node);
        }
        let voters = self.base.voters.iter().chain(&self.value.voters);
        voters
            .map(|voter| voter.node)
            .filter(|node| !self.accepted.contains(*node))
            .collect()
    }
}

/// Whether two voter lists differ by at most one voter, so that their majorities meet.
fn one_voter_apart(base: &Config, value: &Config) -> bool {
    let missing = |from: &Config, to: &Config| {
        from.voters
            .iter()
            .filter(|voter| !to.voters.contains(voter))
            .count()
    };
    missing(base, value) + missing(value, base) <= 1
}
