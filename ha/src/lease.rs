//! Leases (law R5): what a voter promised, and what a holder may use of it.
//!
//! The holder counts from the *sending* of the heartbeat, on `CLOCK_BOOTTIME`, and uses
//! L x (1 - eps); the voter counts from the heartbeat's arrival, on `CLOCK_MONOTONIC`, and keeps
//! L x (1 + eps). Whatever the two clocks' rates within eps, the holder's end comes first.

use std::collections::BTreeMap;

use crate::mutants::mutant;
use crate::types::{Ballot, Config, Members, NodeId, Time, Timing, VoterInstance};

/// A voter's promise: no ballot but the holder's until it is over.
///
/// Invariant: a promise to one holder is never shortened; it ends by time, or because the
/// holder's own ballot gave the primacy away (law R7).
#[derive(Clone, Debug)]
pub struct Grants {
    holder: Option<Grant>,
    restart_until: Time,
}

#[derive(Clone, Copy, Debug)]
struct Grant {
    node: NodeId,
    instance: VoterInstance,
    until: Time,
}

impl Grants {
    /// A voter that has just started waits out the largest lease it ever granted (H16). `now` is
    /// its monotonic clock.
    #[must_use]
    pub fn restarted(now: Time, largest_lease_ms: u32, timing: &Timing) -> Self {
        let wait = if mutant!(NoRestartWait) {
            0
        } else {
            timing.promise_ns(largest_lease_ms)
        };
        Self {
            holder: None,
            restart_until: now.after_ns(wait),
        }
    }

    /// A voter that never granted anything.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            holder: None,
            restart_until: Time(0),
        }
    }

    /// For how many nanoseconds more `ballot` must be refused, if at all. `primary` is the
    /// primary of the accepted config: only it can hold a lease granted before the restart.
    #[must_use]
    pub fn held(&self, now: Time, ballot: &Ballot, primary: Option<NodeId>) -> Option<u64> {
        let granted = match self.holder {
            Some(grant) if !ballot.belongs_to(grant.node, grant.instance) => grant.until,
            Some(_) | None => Time(0),
        };
        let restart = if primary == Some(ballot.node) {
            Time(0)
        } else {
            self.restart_until
        };
        let until = granted.max(restart);
        (until > now).then(|| until.since_ns(now))
    }

    /// Promises `promise_ns` from `now` to the holder.
    pub fn grant(&mut self, now: Time, holder: (NodeId, VoterInstance), promise_ns: u64) {
        let (node, instance) = holder;
        let until = now.after_ns(promise_ns);
        let kept = self
            .holder
            .filter(|grant| grant.node == node && grant.instance == instance);
        let until = kept.map_or(until, |grant| grant.until.max(until));
        self.holder = Some(Grant {
            node,
            instance,
            until,
        });
    }

    /// A config of `ballot` was accepted that names `primary`: if the holder itself gave the
    /// primacy away, it stopped before it proposed that, and the promise is over (law R7).
    pub fn accepted(&mut self, ballot: &Ballot, primary: Option<NodeId>) {
        let given_away = self.holder.is_some_and(|grant| {
            ballot.belongs_to(grant.node, grant.instance) && primary != Some(grant.node)
        });
        if given_away {
            self.holder = None;
        }
    }
}

/// What the holder has of the other voters.
#[derive(Clone, Debug, Default)]
pub struct Holder {
    until: BTreeMap<NodeId, (VoterInstance, Time)>,
    floor: Time,
}

impl Holder {
    /// A voter granted `lease_ms` for the heartbeat sent at `sent`.
    pub fn granted(
        &mut self,
        voter: (NodeId, VoterInstance),
        sent: Time,
        lease_ms: u32,
        timing: &Timing,
    ) {
        if sent < self.floor {
            return;
        }
        let until = sent.after_ns(timing.usable_ns(lease_ms));
        let entry = self.until.entry(voter.0).or_insert((voter.1, until));
        *entry = (
            voter.1,
            if entry.0 == voter.1 {
                entry.1.max(until)
            } else {
                until
            },
        );
    }

    /// Forgets every grant, also those still on their way.
    pub fn void(&mut self, now: Time) {
        self.until.clear();
        self.floor = now.after_ns(1);
    }

    /// Until when this box and others are a majority of `config`'s voters; none if never.
    #[must_use]
    pub fn until(&self, config: &Config, me: NodeId) -> Option<Time> {
        let mut grants: Vec<(Time, NodeId)> = self
            .until
            .iter()
            .filter(|(node, (instance, _))| config.lists(**node, *instance))
            .map(|(node, (_, until))| (*until, *node))
            .collect();
        grants.sort_unstable();
        let mut votes = Members::one(me);
        if config.is_majority(votes) {
            return Some(Time(u64::MAX));
        }
        while let Some((until, node)) = grants.pop() {
            votes = votes.with(node);
            if config.is_majority(votes) {
                return Some(until);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const I: VoterInstance = VoterInstance(5);

    fn ballot(node: NodeId) -> Ballot {
        Ballot {
            counter: 9,
            node,
            instance: I,
        }
    }

    #[test]
    fn a_promise_holds_against_others_and_not_against_the_holder() {
        let timing = Timing::default();
        let mut grants = Grants::none();
        grants.grant(Time(0), (A, I), timing.promise_ns(700));
        let end = 700 * 1_001_000;
        assert_eq!(grants.held(Time(0), &ballot(B), Some(A)), Some(end));
        assert_eq!(grants.held(Time(0), &ballot(A), Some(A)), None);
        assert_eq!(grants.held(Time(end), &ballot(B), Some(A)), None);
    }

    #[test]
    fn h16_a_later_shorter_lease_does_not_shorten_the_promise() {
        let timing = Timing::default();
        let mut grants = Grants::none();
        grants.grant(Time(0), (A, I), timing.promise_ns(5_000));
        grants.grant(Time(1), (A, I), timing.promise_ns(100));
        assert!(
            grants
                .held(Time(4_000_000_000), &ballot(B), Some(A))
                .is_some()
        );
    }

    #[test]
    fn h16_a_restarted_voter_waits_the_largest_lease_it_ever_granted() {
        let timing = Timing::default();
        let grants = Grants::restarted(Time(10), 5_000, &timing);
        let wait = grants.held(Time(10), &ballot(B), Some(A));
        assert_eq!(wait, Some(5_000 * 1_001_000));
        assert_eq!(grants.held(Time(10), &ballot(A), Some(A)), None);
    }

    #[test]
    fn only_the_holder_itself_ends_its_promise_early() {
        let timing = Timing::default();
        let mut grants = Grants::none();
        grants.grant(Time(0), (A, I), timing.promise_ns(700));
        grants.accepted(&ballot(A), Some(A));
        assert!(grants.held(Time(1), &ballot(B), Some(A)).is_some());
        grants.accepted(&ballot(A), Some(B));
        assert!(grants.held(Time(1), &ballot(B), Some(B)).is_none());
    }

    #[test]
    fn a_grant_for_a_heartbeat_sent_before_the_void_does_not_count() {
        let timing = Timing::default();
        let mut holder = Holder::default();
        holder.void(Time(100));
        holder.granted((B, I), Time(100), 700, &timing);
        assert!(holder.until.is_empty());
        holder.granted((B, I), Time(101), 700, &timing);
        assert_eq!(holder.until.len(), 1);
    }
}
