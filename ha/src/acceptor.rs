//! A voter: the acceptor of the register, its lease promises and its durable record.
//!
//! Shared by boxes and witness. A reply that depends on a change of the record waits until the
//! record is durable; a refusal leaves at once.

use crate::lease::Grants;
use crate::ledger::Ledger;
use crate::mutants::mutant;
use crate::record::{GroupRecord, Record};
use crate::register;
use crate::types::{
    Ballot, Config, GroupId, NS_PER_MS, NodeId, Now, ROUND_TRIP_MS, Timing, VoterInstance,
};
use crate::wire::{Header, Heartbeat, Message, Proposed, Refusal, Summary, Verdict, VoterMark};

/// What a voter answers, and when.
#[derive(Debug)]
pub(crate) enum Reply {
    /// At once.
    Now(Message),
    /// When everything changed so far is durable.
    Durable(Message),
    /// Not at all.
    Silence,
}

/// Whether this voter wants to become primary itself: then it promises no lease (law R5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Candidacy {
    Yes,
    No,
}

/// The acceptor of one group; `T` is what the owner keeps until a change is durable.
#[derive(Debug)]
pub(crate) struct Acceptor<T> {
    pub(crate) me: NodeId,
    pub(crate) group: GroupId,
    pub(crate) ledger: Ledger<T>,
    grants: Grants,
    /// The record was put back to an older state: no vote (H13).
    revoked: bool,
}

/// A lease length beyond this is not a lease but an attack on availability.
const LEASE_MAX_MS: u32 = 9_000;

impl<T> Acceptor<T> {
    pub(crate) fn new(me: NodeId, group: GroupId, record: Record, now: Now) -> Self {
        let ours = record.group.as_ref().filter(|known| known.group == group);
        let grants = ours.map_or_else(Grants::none, |known| {
            let timing = &known.accepted.1.timing;
            Grants::restarted(now.mono, known.largest_lease_ms, timing)
        });
        Self {
            me,
            group,
            ledger: Ledger::new(record),
            grants,
            revoked: false,
        }
    }

    pub(crate) const fn instance(&self) -> VoterInstance {
        self.ledger.record().instance
    }

    /// The group's part of the record; none in a blank voter.
    pub(crate) fn state(&self) -> Option<&GroupRecord> {
        self.ledger
            .record()
            .group
            .as_ref()
            .filter(|known| known.group == self.group)
    }

    /// The same as a crash now would leave it.
    pub(crate) fn durable(&self) -> Option<&GroupRecord> {
        self.ledger
            .durable()
            .group
            .as_ref()
            .filter(|known| known.group == self.group)
    }

    /// Whether this life of the voter has a vote (law R10).
    pub(crate) fn votes(&self) -> bool {
        let listed = |state: &GroupRecord| state.accepted.1.lists(self.me, self.instance());
        !self.revoked && self.state().is_some_and(listed)
    }

    /// Takes this life's vote away; whether it had one.
    pub(crate) fn revoke(&mut self) -> bool {
        !core::mem::replace(&mut self.revoked, true)
    }

    /// The mark for an answer to a datagram stamped `stamp`, once the record is durable.
    pub(crate) fn mark(&self, header: &Header) -> VoterMark {
        let record = self.ledger.record();
        VoterMark {
            instance: record.instance,
            record_seq: record.record_seq,
            stamp: header.stamp,
        }
    }

    /// The mark of what is durable now.
    pub(crate) fn durable_mark(&self, header: &Header) -> VoterMark {
        let record = self.ledger.durable();
        VoterMark {
            instance: record.instance,
            record_seq: record.record_seq,
            stamp: header.stamp,
        }
    }

    /// How long `ballot` must be refused for the sake of a lease, in nanoseconds (law R5).
    pub(crate) fn held(&self, now: Now, ballot: &Ballot) -> Option<u64> {
        let primary = self.state()?.accepted.1.primary.map(|primary| primary.0);
        self.grants.held(now.mono, ballot, primary)
    }

    pub(crate) fn prepare(&mut self, now: Now, header: &Header, ballot: Ballot) -> Reply {
        if ballot.node != header.source || !self.is_heard_by(now, header) {
            return Reply::Silence;
        }
        if let Some(refusal) = self.unable(now, &ballot, None) {
            return Reply::Now(Message::Nack {
                ballot,
                why: refusal,
            });
        }
        let mut outcome = Ok(());
        self.change(|state| outcome = register::promise(state, ballot));
        if let Err(promised) = outcome {
            let why = Refusal::Promised(promised);
            return Reply::Now(Message::Nack { ballot, why });
        }
        let state = self
            .state()
            .expect("a voter without a record was refused above");
        let (accepted, config) = state.accepted.clone();
        let mark = self.mark(header);
        Reply::Durable(Message::Promise {
            ballot,
            mark,
            accepted: (accepted, Box::new(config)),
        })
    }

    pub(crate) fn accept(&mut self, now: Now, header: &Header, proposed: Proposed<'_>) -> Reply {
        let Proposed {
            ballot,
            config,
            next,
            ..
        } = proposed;
        let ours = ballot.node == header.source && config.group == self.group;
        if !ours || !self.is_heard_by(now, header) {
            return Reply::Silence;
        }
        if let Some(why) = self.unable(now, &ballot, Some(&proposed)) {
            return Reply::Now(Message::Nack { ballot, why });
        }
        if self.state().is_none() {
            let me = (self.me, self.instance());
            let record = register::admitted(me, ballot, config, next);
            self.ledger.change(|whole| whole.group = record);
            assert!(
                self.revoked || self.votes(),
                "a record is made only by the commit that admits this voter"
            );
        } else if let Err(promised) = self.accept_own(ballot, config, next) {
            let why = Refusal::Promised(promised);
            return Reply::Now(Message::Nack { ballot, why });
        }
        Reply::Durable(Message::Accepted {
            ballot,
            mark: self.mark(header),
        })
    }

    /// Accepts without asking whether a lease forbids it: the vote of a proposer for itself.
    pub(crate) fn accept_own(
        &mut self,
        ballot: Ballot,
        config: &Config,
        next: Option<Ballot>,
    ) -> Result<(), Ballot> {
        let mut outcome = Ok(());
        self.change(|state| outcome = register::accept(state, ballot, config, next));
        if outcome.is_ok() {
            self.grants
                .accepted(&ballot, config.primary.map(|primary| primary.0));
        }
        outcome
    }

    /// A config known chosen. A blank voter learns nothing: only a commit admits it.
    pub(crate) fn learn(&mut self, ballot: Ballot, config: &Config) {
        if config.group != self.group || self.state().is_none() {
            return;
        }
        self.change(|state| register::learn(state, ballot, config));
        self.grants
            .accepted(&ballot, config.primary.map(|primary| primary.0));
    }

    /// Judges a heartbeat, and promises the lease it asks for if law R5 allows it.
    pub(crate) fn verdict(
        &mut self,
        now: Now,
        header: &Header,
        heartbeat: &Heartbeat,
        candidacy: Candidacy,
    ) -> Verdict {
        if !self.votes() {
            return Verdict::NoVote;
        }
        let state = self.state().expect("a voter with a vote has a record");
        let (ballot, config) = &state.accepted;
        if heartbeat
            .chosen
            .is_some_and(|chosen| chosen.ballot > *ballot)
        {
            return if mutant!(NeverLearn) {
                Verdict::Heard
            } else {
                Verdict::Behind
            };
        }
        let lease_ms = heartbeat.lease_ms;
        if !heartbeat.primary || lease_ms == 0 || lease_ms > LEASE_MAX_MS {
            return Verdict::Heard;
        }
        if config.primary != Some((header.source, header.incarnation)) {
            return Verdict::Refused;
        }
        if candidacy == Candidacy::Yes && !mutant!(CandidateAcks) {
            return Verdict::Refused;
        }
        let Some(holder) = config.voter(header.source) else {
            return Verdict::Refused;
        };
        let holder = (holder.node, holder.instance);
        if !state.promised.belongs_to(holder.0, holder.1) && !mutant!(AckAfterForeignPromise) {
            return Verdict::Foreign {
                promised: state.promised,
            };
        }
        let heard = now.boot.since_ns(header.echo) < u64::from(lease_ms) * NS_PER_MS;
        if !(heard && header.echo.0 > 0 || mutant!(ExtendWithoutEcho)) {
            return Verdict::Heard; // it does not hear this voter: H19
        }
        self.grant(now, holder, lease_ms)
    }

    fn grant(&mut self, now: Now, holder: (NodeId, VoterInstance), lease_ms: u32) -> Verdict {
        let longest = self.durable().map_or(0, |state| state.largest_lease_ms);
        if lease_ms > longest {
            // Promised from the next heartbeat on, when the longer wait is durable (H16).
            self.change(|state| {
                state.largest_lease_ms = state.largest_lease_ms.max(lease_ms);
            });
            return Verdict::Heard;
        }
        let timing = self.timing();
        self.grants
            .grant(now.mono, holder, timing.promise_ns(lease_ms));
        Verdict::Granted { lease_ms }
    }

    /// Whether the sender heard this voter lately. A link that works in one direction only is
    /// treated as broken: a vote whose answer is lost could commit what its proposer never
    /// learns, and shut everybody else out (H19). To refuse is always safe.
    fn is_heard_by(&self, now: Now, header: &Header) -> bool {
        let interval = u64::from(self.timing().heartbeat_interval_ms);
        let limit_ms = 2 * interval + u64::from(ROUND_TRIP_MS).min(interval / 4);
        let age = now.boot.since_ns(header.echo);
        header.echo.0 > 0 && age < limit_ms * NS_PER_MS || mutant!(ExtendWithoutEcho)
    }

    pub(crate) fn timing(&self) -> Timing {
        self.state()
            .map_or_else(Timing::default, |state| state.accepted.1.timing)
    }

    /// What may be shown to others: only what is durable.
    pub(crate) fn summary(&self) -> Option<Summary> {
        self.durable()
            .map(|state| Summary::of(state.accepted.0, &state.accepted.1))
    }

    /// Edits the group's part of the record.
    pub(crate) fn change(&mut self, edit: impl FnOnce(&mut GroupRecord)) {
        let group = self.group;
        self.ledger.change(|record| {
            if let Some(state) = record.group.as_mut().filter(|known| known.group == group) {
                edit(state);
            }
        });
    }

    /// Why this voter cannot vote on `ballot` now. An Accept may admit a blank voter.
    fn unable(&self, now: Now, ballot: &Ballot, accept: Option<&Proposed<'_>>) -> Option<Refusal> {
        let admits = accept.is_some_and(|proposed| {
            let named = proposed.admits == Some(self.instance());
            named && proposed.config.lists(self.me, self.instance())
        });
        if self.revoked || !self.votes() && !admits && !self.made_on_prepare(accept) {
            return Some(Refusal::NoVote);
        }
        if self.ledger.record().group.is_some() && self.state().is_none() {
            return Some(Refusal::NoVote); // the record is another group's
        }
        let broken = match accept {
            None => mutant!(PrepareThroughLease),
            Some(_) => mutant!(AcceptThroughLease),
        };
        let held = self.held(now, ballot).filter(|_| !broken)?;
        let ms = held.div_ceil(NS_PER_MS);
        Some(Refusal::Held(u32::try_from(ms).unwrap_or(u32::MAX)))
    }

    /// The mutant of law R10: an ordinary Accept, as it follows a Prepare, makes a record.
    fn made_on_prepare(&self, accept: Option<&Proposed<'_>>) -> bool {
        let listed = |it: &Proposed<'_>| it.config.lists(self.me, self.instance());
        mutant!(CreateOnPrepare) && accept.is_some_and(listed)
    }

    /// The invariants, O(1).
    pub(crate) fn check(&self) {
        self.ledger.check();
        if let Some(state) = self.state() {
            assert!(
                state.accepted.0 <= state.promised,
                "accepted above the promise"
            );
            assert!(
                state.accepted.1.group == self.group,
                "another group's config"
            );
        }
    }
}
