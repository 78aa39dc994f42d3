//! What this box knows about each remote: its paths, its last words, its life as a voter.

use std::collections::{BTreeMap, BTreeSet};

use crate::mutants::mutant;
use crate::path::Remote;
use crate::types::{LinkId, NodeId, Time, VoterInstance};
use crate::wire::{Heartbeat, VoterMark};

/// One remote participant.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its paths.
    pub(crate) paths: Remote,
    /// The links to it.
    pub(crate) links: Vec<LinkId>,
    /// Its last heartbeat; the witness sends none.
    pub(crate) report: Option<Heartbeat>,
    /// The life of its record that it announced last.
    pub(crate) instance: Option<VoterInstance>,
    /// Whether its silence was reported.
    pub(crate) silent: bool,
}

impl Peer {
    pub(crate) fn new(node: NodeId, links: Vec<LinkId>) -> Self {
        let paths = Remote::new(node, &links);
        Self {
            paths,
            links,
            report: None,
            instance: None,
            silent: false,
        }
    }

    /// Whether it was heard less than `ns` ago.
    pub(crate) fn heard_within(&self, now: Time, ns: u64) -> bool {
        self.paths
            .last_seen()
            .is_some_and(|seen| now.since_ns(seen) < ns)
    }
}

/// The highest `record_seq` seen of each voter's life, and who fell behind it (H13).
///
/// A voter's position only grows. So an answer to a datagram that left *after* a position was
/// learned cannot show a lower one, unless the voter's state was put back.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    highest: BTreeMap<VoterInstance, (u64, Time)>,
    rolled_back: BTreeSet<VoterInstance>,
}

/// Whether a voter's mark is news worth keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// Nothing new.
    Same,
    /// A higher position: to be remembered durably.
    Higher,
    /// The voter was rolled back: it has no vote from now on.
    RolledBack,
}

/// More lives than this are not remembered; a roster has three.
const LIVES_MAX: usize = 8;

impl Positions {
    /// Starts with what the record remembers, learned at `now`.
    pub(crate) fn new(seen: &[(VoterInstance, u64)], now: Time) -> Self {
        let highest = seen
            .iter()
            .map(|(instance, seq)| (*instance, (*seq, now)))
            .collect();
        Self {
            highest,
            rolled_back: BTreeSet::new(),
        }
    }

    /// A voter answered a datagram that was sent at `mark.stamp`.
    pub(crate) fn mark(&mut self, now: Time, mark: &VoterMark) -> Noted {
        match self.highest.get(&mark.instance) {
            Some((seq, learned)) if mark.record_seq < *seq && mark.stamp > *learned => {
                let new = !mutant!(TrustRollback) && self.rolled_back.insert(mark.instance);
                if new { Noted::RolledBack } else { Noted::Same }
            }
            Some(_) | None => self.told(now, mark.instance, mark.record_seq),
        }
    }

    /// Somebody saw that position of that voter.
    pub(crate) fn told(&mut self, now: Time, instance: VoterInstance, seq: u64) -> Noted {
        let known = self.highest.get(&instance).map(|known| known.0);
        if known.is_some_and(|known| known >= seq)
            || (known.is_none() && self.highest.len() >= LIVES_MAX)
        {
            return Noted::Same;
        }
        self.highest.insert(instance, (seq, now));
        Noted::Higher
    }

    /// Whether that life of a voter lost its vote.
    pub(crate) fn is_rolled_back(&self, instance: VoterInstance) -> bool {
        self.rolled_back.contains(&instance)
    }

    /// What to remember, and to tell others: the lives in `wanted` first.
    pub(crate) fn list(&self) -> Vec<(VoterInstance, u64)> {
        self.highest
            .iter()
            .map(|(instance, seen)| (*instance, seen.0))
            .collect()
    }

    /// Forgets the lives that nobody lists any more.
    pub(crate) fn keep(&mut self, wanted: impl Fn(VoterInstance) -> bool) {
        self.highest.retain(|instance, _| wanted(*instance));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: VoterInstance = VoterInstance(3);

    fn mark(record_seq: u64, stamp: u64) -> VoterMark {
        VoterMark {
            instance: W,
            record_seq,
            stamp: Time(stamp),
        }
    }

    #[test]
    fn h13_an_answer_older_than_what_was_seen_before_it_was_asked_for_is_a_rollback() {
        let mut positions = Positions::new(&[(W, 10)], Time(100));
        assert_eq!(positions.mark(Time(102), &mark(9, 101)), Noted::RolledBack);
        assert!(positions.is_rolled_back(W));
    }

    #[test]
    fn an_answer_that_was_on_its_way_is_no_rollback() {
        let mut positions = Positions::new(&[], Time(0));
        assert_eq!(positions.mark(Time(5), &mark(10, 4)), Noted::Higher);
        assert_eq!(positions.mark(Time(6), &mark(9, 4)), Noted::Same);
        assert!(!positions.is_rolled_back(W));
    }
}
