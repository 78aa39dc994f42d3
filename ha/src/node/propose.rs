//! The proposer: from a wish to a config known chosen.
//!
//! ```text
//!   drive --start--> Reading --(majority promised)--> [Sealing --(Sealed)-->] Committing
//!     --(majority accepted)--> chosen
//!     ^                 |                                                        |
//!     +--- preempted: a higher ballot, with jitter -------------------------------+
//! ```
//!
//! A primary whose last commit carried `next` begins at Committing: one round trip (law R1).

use super::office::Term;
use super::send::Deferred;
use super::{Event, Node, Refused};
use crate::authority::{self, Electorate, Unfit};
use crate::mutants::mutant;
use crate::register::{Commit, Reading};
use crate::types::{
    Ballot, Config, DiskInstance, Epoch, Incarnation, Members, NS_PER_MS, NodeId, Now, Time, Voter,
    VoterInstance,
};
use crate::wire::{Message, Refusal};

/// What a proposal is for. The later ones in this list give way to the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Law R9: without a majority this box is the only voter of its next config.
    Force(Electorate),
    /// Law R2.
    Promote,
    /// Law R7, the side that takes over: its own ballot under the config that names it.
    Claim,
    /// Law R7, the side that gives.
    Handover((NodeId, Incarnation)),
    /// Law R1: the own disk failed.
    Detach((NodeId, Incarnation)),
    /// Law R1.
    Degrade,
    /// Law R6.
    Readmit(DiskInstance),
    /// Ends doubt, and wins voters back that promised somebody else (H3).
    Reaffirm,
    /// Law R10.
    Remove(NodeId),
    /// Law R10.
    Admit(Voter),
}

impl Purpose {
    const fn urgency(&self) -> u8 {
        match self {
            Self::Force(_) | Self::Promote | Self::Claim => 5,
            Self::Handover(_) | Self::Detach(_) => 4,
            Self::Degrade => 3,
            Self::Readmit(_) => 2,
            Self::Reaffirm => 1,
            Self::Remove(_) | Self::Admit(_) => 0,
        }
    }
}

#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) purpose: Purpose,
    ballot: Ballot,
    pub(super) stage: Stage,
    since: Time,
    pub(super) resend_at: Time,
    /// Voters that refused this ballot.
    refused_by: Members,
}

#[derive(Debug)]
pub(super) enum Stage {
    Reading(Reading),
    /// The config read; the engine seals its epoch (laws R2, R3).
    Sealing(Box<Config>),
    Committing {
        commit: Box<Commit>,
        own_vote: OwnVote,
    },
}

/// When the proposer's own acceptor votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnVote {
    /// It has voted, or its vote is on its way to the disk.
    Cast,
    /// After the voter that is admitted: one that dies before leaves the old voters able to go
    /// on without it.
    Later,
}

/// Ballot counters are reserved on disk in blocks of this many.
const COUNTER_BLOCK: u64 = 16;
/// How long a box that was refused waits before it asks again, in fail-over times.
const REFUSED_WAIT: u64 = 5;

impl Node {
    /// Starts, repeats or gives up proposals.
    pub(super) fn drive(&mut self, now: Now) {
        self.watch_force(now);
        let goal = if self.term.is_some() {
            self.office_goal(now)
        } else {
            self.own_goal(now)
        };
        if self.outdated(goal.as_ref()) {
            self.proposal = None;
        }
        match (&self.proposal, goal) {
            (None, Some(goal)) if now.boot >= self.retry_at => self.start(now, goal),
            (Some(_), _) => self.repeat(now),
            (None, _) => {}
        }
    }

    /// Whether the proposal under way serves no wish any more. What has left stays in doubt.
    fn outdated(&self, goal: Option<&Purpose>) -> bool {
        let Some(proposal) = &self.proposal else {
            return false;
        };
        let committing = matches!(proposal.stage, Stage::Committing { .. });
        if self.term.is_none() {
            let forced = goal.filter(|goal| matches!(goal, Purpose::Force(_)));
            let other = forced.is_some_and(|goal| *goal != proposal.purpose);
            let alone = forced == Some(&Purpose::Force(Electorate::Alone));
            return (self.disk_failed() || other) && !committing || other && alone;
        }
        match goal {
            // Law R1 and R7 do not wait for a lesser commit; the lesser ones do.
            Some(goal) if committing => {
                goal.urgency() >= Purpose::Degrade.urgency()
                    && goal.urgency() > proposal.purpose.urgency()
            }
            Some(goal) => *goal != proposal.purpose,
            None => !committing,
        }
    }

    /// What a box without the office wants.
    fn own_goal(&self, now: Now) -> Option<Purpose> {
        let me = (self.params.me, self.params.incarnation);
        let mine = |known: &&(Ballot, Config)| {
            known.1.primary == Some(me) && known.1.epoch > self.held_epoch
        };
        let able = self.acceptor.votes() && !self.disk_failed();
        if let Some(goal) = self.force_goal(now) {
            return Some(goal);
        }
        if self.known.as_ref().filter(mine).is_some() && able {
            return Some(Purpose::Claim);
        }
        self.candidate_at(now)
            .filter(|at| *at <= now.boot)
            .map(|_| Purpose::Promote)
    }

    /// When this box may ask to become primary, as things stand (law R2); none: not at all.
    pub(super) fn candidate_at(&self, now: Now) -> Option<Time> {
        if self.term.is_some() || self.proposal.is_some() || !self.acceptor.votes() {
            return None;
        }
        if !self.attached() && !mutant!(IgnoreEligibility) {
            return None;
        }
        let state = self.acceptor.state()?;
        let timing = self.timing();
        let interval = u64::from(timing.heartbeat_interval_ms);
        let silence = self.primary_heard.after_ms(timing.failover_ms());
        let wait = match state.accepted.1.primary {
            None => self.started,
            Some((node, process))
                if node == self.params.me && process != self.params.incarnation =>
            {
                // It was this box; that process is dead, and if the power failed, so are writes it
                // acknowledged and never flushed. Another member of S has them and goes first
                // (law D5); without one, only a successor is listened for.
                let shared = state.accepted.1.in_sync.len() > 1;
                let others_turn = if shared { timing.failover_ms() } else { 0 };
                self.started.after_ms(others_turn + 2 * interval)
            }
            Some(_) if self.primary_heard == self.started => silence.after_ms(interval),
            Some(_) => silence,
        };
        // Another member of S that is there and lost nothing goes first (law D5).
        let peer = &self.peers[&self.params.peer];
        let config = &state.accepted.1;
        let knows = peer
            .report
            .as_ref()
            .and_then(|report| report.chosen.as_ref());
        let told = knows.is_some_and(|known| known.epoch >= config.epoch);
        // What this box accepted alone before it went down may never have been chosen.
        let shared = config.in_sync.contains(self.params.peer) || !told;
        let wait = self
            .gives_way(now, shared)
            .map_or(wait, |until| wait.max(until));
        let probe = Ballot {
            counter: u64::MAX,
            node: self.params.me,
            instance: self.acceptor.instance(),
        };
        let held = self.acceptor.held(now, &probe).unwrap_or(0);
        Some(wait.max(self.retry_at).max(now.boot.after_ns(held)))
    }

    /// Law D5: until when a box that lost acknowledged writes lets the peer go first, which shares
    /// them and is there.
    fn gives_way(&self, now: Now, shared: bool) -> Option<Time> {
        let dead_ms = self.timing().failover_ms();
        let forgot = self.data.as_ref().is_some_and(|data| data.cache_lost);
        let there = self.peers[&self.params.peer].heard_within(now.boot, dead_ms * NS_PER_MS);
        (forgot && shared && there).then(|| self.started.after_ms(4 * dead_ms))
    }

    /// The next voter to admit: heard, trusted, and its slot is empty (law R10).
    pub(super) fn admission(&self, now: Now) -> Option<Purpose> {
        let (_, config) = self.known.as_ref()?;
        let fresh = self.timing().failover_ms() * NS_PER_MS;
        [self.params.witness, self.params.peer]
            .into_iter()
            .find_map(|node| {
                let peer = self.peers.get(&node)?;
                let instance = peer.instance.filter(|instance| self.trusted(*instance))?;
                let empty = config.voter(node).is_none() && peer.heard_within(now.boot, fresh);
                empty.then_some(Purpose::Admit(Voter {
                    node,
                    instance,
                    weight: 1,
                }))
            })
    }

    /// A new ballot of this box, its counter reserved in the record (law R0).
    fn next_ballot(&mut self) -> Ballot {
        let instance = self.acceptor.instance();
        if let Some(state) = self.acceptor.state() {
            let seen = state.promised.counter.max(state.accepted.0.counter);
            self.counter = self.counter.max(seen);
        }
        self.counter += 1;
        let counter = self.counter;
        self.acceptor.change(|state| {
            if counter > state.counter && !mutant!(ReuseBallot) {
                state.counter = counter + COUNTER_BLOCK;
            }
        });
        Ballot {
            counter,
            node: self.params.me,
            instance,
        }
    }

    fn start(&mut self, now: Now, purpose: Purpose) {
        if let Some((ballot, base)) = self.owned_ballot() {
            self.begin(now, purpose, Stage::Reading(Reading::new(ballot)), ballot);
            return self.derive_and_commit(now, &base);
        }
        let alone = purpose == Purpose::Force(Electorate::Alone);
        let ballot = if alone {
            self.forced_ballot()
        } else {
            self.next_ballot()
        };
        if let Some(held) = self.acceptor.held(now, &ballot) {
            self.retry_at = now.boot.after_ns(held.max(1));
            return;
        }
        if purpose == Purpose::Promote {
            let cause = self.cause();
            self.event(Event::Candidacy { cause });
        }
        self.begin(now, purpose, Stage::Reading(Reading::new(ballot)), ballot);
        if alone {
            return self.seal_own(now);
        }
        self.acceptor
            .change(|state| state.promised = state.promised.max(ballot));
        if mutant!(ReuseBallot) {
            return self.own_promise(now, ballot);
        }
        self.acceptor.ledger.after(Deferred::Prepare(ballot));
    }

    fn begin(&mut self, now: Now, purpose: Purpose, stage: Stage, ballot: Ballot) {
        self.proposal = Some(Proposal {
            purpose,
            ballot,
            stage,
            since: now.boot,
            resend_at: now.boot.after_ms(self.resend_ms()),
            refused_by: Members::EMPTY,
        });
    }

    /// A ballot that a majority promised along with the config known chosen, if nobody took it
    /// over since.
    fn owned_ballot(&mut self) -> Option<(Ballot, Config)> {
        let ballot = self.term.as_mut()?.owned.take()?;
        let state = self.acceptor.state()?;
        let (chosen, config) = self.known.as_ref()?;
        (state.promised == ballot && state.accepted.0 == *chosen).then(|| (ballot, config.clone()))
    }

    /// The own acceptor's promise is durable: ask the others.
    pub(super) fn own_promise(&mut self, now: Now, ballot: Ballot) {
        let (me, instance) = (self.params.me, self.acceptor.instance());
        let Some(state) = self.acceptor.state() else {
            return;
        };
        let (promised, accepted) = (state.promised, state.accepted.clone());
        let Some(proposal) = self.proposal.as_mut().filter(|it| it.ballot == ballot) else {
            return;
        };
        let Stage::Reading(reading) = &mut proposal.stage else {
            return;
        };
        if promised != ballot {
            return self.preempted(now);
        }
        reading.promised(me, instance, accepted);
        self.resend(now, ballot);
        self.progress(now);
    }

    /// A voter promised.
    pub(super) fn promised(
        &mut self,
        now: Now,
        from: (NodeId, VoterInstance),
        ballot: Ballot,
        accepted: (Ballot, Config),
    ) {
        let Some(proposal) = self.proposal.as_mut().filter(|it| it.ballot == ballot) else {
            return;
        };
        let Stage::Reading(reading) = &mut proposal.stage else {
            return;
        };
        reading.promised(from.0, from.1, accepted);
        self.progress(now);
    }

    /// Goes on if a majority of the highest value's voters promised.
    fn progress(&mut self, now: Now) {
        let Some(proposal) = &self.proposal else {
            return;
        };
        let Stage::Reading(reading) = &proposal.stage else {
            return;
        };
        let Some((_, read)) = reading.read() else {
            return;
        };
        let fit = match proposal.purpose {
            Purpose::Promote => authority::eligible(&read, &self.standing()),
            Purpose::Force(_) => authority::forcible(&read, &self.standing()),
            Purpose::Claim
            | Purpose::Handover(_)
            | Purpose::Detach(_)
            | Purpose::Degrade
            | Purpose::Readmit(_)
            | Purpose::Reaffirm
            | Purpose::Remove(_)
            | Purpose::Admit(_) => return self.derive_and_commit(now, &read),
        };
        if let Err(unfit) = fit {
            return self.refused(now, &unfit);
        }
        if matches!(proposal.purpose, Purpose::Force(_)) {
            return self.seal_read(now, &read);
        }
        // That the peer is in S too may be news: this box went down before it had accepted it.
        let shared = read.in_sync.contains(self.params.peer);
        if let Some(until) = self
            .gives_way(now, shared)
            .filter(|until| *until > now.boot)
        {
            self.proposal = None;
            self.retry_at = until;
            return;
        }
        self.seal_read(now, &read);
    }

    /// Law R3: every epoch up to the one read is sealed, durably, then the engine is asked.
    pub(super) fn seal_read(&mut self, now: Now, read: &Config) {
        let known = self
            .acceptor
            .state()
            .map_or(Epoch::ZERO, |state| state.accepted.1.epoch);
        let epoch = if mutant!(SealKnownOnly) {
            known
        } else {
            read.epoch
        };
        self.acceptor
            .change(|state| state.seal = state.seal.max(epoch));
        self.acceptor.ledger.after(Deferred::Seal(epoch));
        if let Some(proposal) = &mut self.proposal {
            proposal.stage = Stage::Sealing(Box::new(read.clone()));
        }
        let forced = matches!(&self.proposal, Some(it) if matches!(it.purpose, Purpose::Force(_)));
        if mutant!(CommitBeforeSeal) || forced && mutant!(ForceUnsealed) {
            self.derive_and_commit(now, read);
        }
    }

    /// The engine refuses everything up to `epoch` and nothing of it is in flight (law R2).
    pub(super) fn sealed(&mut self, now: Now, epoch: Epoch) {
        let Some(proposal) = &self.proposal else {
            return;
        };
        let Stage::Sealing(read) = &proposal.stage else {
            return;
        };
        if self.overtaken(proposal, read) {
            return self.preempted(now);
        }
        if epoch >= read.epoch || mutant!(SealKnownOnly) {
            let read = (**read).clone();
            self.derive_and_commit(now, &read);
        }
    }

    fn derive(&self, purpose: Purpose, read: &Config) -> Result<Config, Unfit> {
        let standing = self.standing();
        let known = self.known.as_ref().map_or(read, |known| &known.1);
        match purpose {
            Purpose::Force(electorate) => {
                authority::force(read, electorate, self.params.peer, &standing)
            }
            Purpose::Promote => authority::promote(read, &standing),
            Purpose::Claim => authority::claim(read, &standing),
            Purpose::Reaffirm => authority::reaffirm(read, &standing),
            Purpose::Degrade => authority::degrade(read, known, &standing),
            Purpose::Readmit(disk) => authority::readmit(read, (self.params.peer, disk), &standing),
            Purpose::Handover(to) => {
                let term = self.term.as_ref();
                let first = term.is_some_and(|term| term.doubts.is_empty());
                let lost = term.is_some_and(|term| term.degrade.is_some());
                match (first, lost) {
                    (true, false) => authority::handover(read, to, &standing),
                    // In doubt: finish it if a voter shows it, else take it back.
                    _ if read.primary == Some(to) => Ok(read.clone()),
                    (_, true) => authority::degrade(read, known, &standing),
                    (false, false) => authority::take_back(read, &standing),
                }
            }
            Purpose::Detach(to) => authority::detach(read, known, to, &standing),
            Purpose::Remove(node) => authority::remove(read, node, &standing),
            Purpose::Admit(voter) => authority::admit(read, voter, &standing),
        }
    }

    fn derive_and_commit(&mut self, now: Now, read: &Config) {
        let Some(purpose) = self.proposal.as_ref().map(|proposal| proposal.purpose) else {
            return;
        };
        let wanted = self.term.as_ref().and_then(|term| term.readmit);
        if matches!(purpose, Purpose::Readmit(disk) if wanted != Some(disk)) {
            self.proposal = None; // acks have stopped waiting for the peer (H1)
            return;
        }
        match self.derive(purpose, read) {
            // Nobody else is asked: whoever the others are, they learn of it from this box.
            Ok(value) if purpose == Purpose::Force(Electorate::Alone) => {
                self.commit(now, &value, value.clone());
            }
            Ok(value) => self.commit(now, read, value),
            Err(Unfit::Superseded { epoch, primary }) if self.term.is_some() => {
                self.demote(now, epoch, primary);
            }
            Err(unfit) => self.refused(now, &unfit),
        }
    }

    /// This box may not; it says so and asks again much later.
    pub(super) fn refused(&mut self, now: Now, unfit: &Unfit) {
        let wait = self.timing().failover_ms() * REFUSED_WAIT;
        let jitter = self.random(wait / 4);
        self.proposal = None;
        self.retry_at = now.boot.after_ms(wait + jitter);
        let reason = unfit.to_string();
        if self.refusal.as_ref() != Some(&reason) {
            self.refusal = Some(reason.clone());
            self.event(Event::Refused {
                reason: reason.clone(),
            });
        }
        self.end_force(Err(Refused::Unsafe(reason)));
    }

    /// Phase 2. Doubt begins before the Accept leaves (law R0b).
    fn commit(&mut self, now: Now, read: &Config, value: Config) {
        let Some(ballot) = self.proposal.as_ref().map(|proposal| proposal.ballot) else {
            return;
        };
        self.counter = self.counter.max(ballot.counter);
        let next = self.next_ballot();
        let gives_away = value
            .primary
            .is_none_or(|primary| primary.0 != self.params.me);
        let next = Some(next).filter(|_| !gives_away);
        let Some(proposal) = &mut self.proposal else {
            return;
        };
        let commit = Box::new(Commit::new(ballot, next, read.clone(), value.clone()));
        let own_vote = if commit.admits.is_some() {
            OwnVote::Later
        } else {
            OwnVote::Cast
        };
        proposal.stage = Stage::Committing { commit, own_vote };
        proposal.since = now.boot;
        proposal.refused_by = Members::EMPTY;
        if let Some(term) = &mut self.term {
            term.doubts.push((ballot, value));
            self.show(now);
        }
        if own_vote == OwnVote::Cast {
            self.cast(now);
        }
        let reserved = self.acceptor.durable().map_or(0, |state| state.counter);
        if next.is_none_or(|next| next.counter <= reserved) || mutant!(ReuseBallot) {
            self.resend(now, ballot);
        } else {
            self.acceptor.ledger.after(Deferred::Accept(ballot));
        }
    }

    /// The own acceptor votes; the vote counts when it is durable.
    fn cast(&mut self, now: Now) {
        let Some(proposal) = &mut self.proposal else {
            return;
        };
        let Stage::Committing { commit, own_vote } = &mut proposal.stage else {
            return;
        };
        *own_vote = OwnVote::Cast;
        let (ballot, next, value) = (commit.ballot, commit.next, commit.value.clone());
        if self.acceptor.accept_own(ballot, &value, next).is_err() {
            return self.preempted(now);
        }
        self.acceptor.ledger.after(Deferred::OwnVote(ballot));
    }

    pub(super) fn own_vote(&mut self, now: Now, ballot: Ballot) {
        let me = (self.params.me, self.acceptor.instance());
        self.accepted(now, me, ballot);
    }

    /// A voter accepted.
    pub(super) fn accepted(&mut self, now: Now, from: (NodeId, VoterInstance), ballot: Ballot) {
        let Some(proposal) = self.proposal.as_mut().filter(|it| it.ballot == ballot) else {
            return;
        };
        let Stage::Committing { commit, own_vote } = &mut proposal.stage else {
            return;
        };
        commit.accepted(from.0, from.1);
        if commit.chosen() {
            return self.chosen(now);
        }
        if *own_vote == OwnVote::Later && commit.admitted() {
            self.resend(now, ballot);
            self.cast(now);
        }
    }

    /// The value is known chosen: doubt ends, and the office begins, goes on or ends.
    fn chosen(&mut self, now: Now) {
        let Some(Proposal {
            stage: Stage::Committing { commit, .. },
            ..
        }) = self.proposal.take()
        else {
            return;
        };
        let Commit {
            ballot,
            next,
            value,
            ..
        } = *commit;
        let voters: Vec<NodeId> = value.voters.iter().map(|voter| voter.node).collect();
        self.attempts = 0;
        self.refusal = None;
        self.event(Event::Chosen {
            config: Box::new(value.clone()),
        });
        let learn = Message::Learn {
            ballot,
            config: Box::new(value.clone()),
        };
        let before = self
            .known
            .replace((ballot, value.clone()))
            .map(|known| known.0);
        if value.primary == Some((self.params.me, self.params.incarnation)) {
            if self
                .foreign
                .is_some_and(|foreign| before.is_none_or(|before| foreign > before))
            {
                self.holder.void(now.boot); // only what is granted from now on counts (H3)
            }
            let begins = self.term.is_none();
            self.hold_office(now, &value, next);
            if begins {
                self.forced(now, &value);
            }
        } else {
            let primary = value.primary.map(|primary| primary.0);
            self.demote(now, value.epoch, primary);
        }
        for node in voters {
            if node != self.params.me {
                self.send(now, node, &learn);
            }
        }
        self.show(now);
    }

    fn hold_office(&mut self, now: Now, value: &Config, next: Option<Ballot>) {
        if self.term.is_none() {
            self.term = Some(Term::default());
            self.promotions += 1;
            self.holder.void(now.boot);
            self.session = None;
            self.session_lost_at = now.boot;
        }
        let alone = value.in_sync == Members::one(self.params.me);
        let Some(term) = &mut self.term else { return };
        term.doubts.clear();
        term.owned = next;
        term.reaffirm = false;
        if alone {
            term.degrade = None;
        } else {
            term.readmit = None;
        }
        let removed = term
            .removal
            .take_if(|(_, node)| value.voter(*node).is_none());
        let taken_back = term.stopped();
        if let Some((id, _)) = removed {
            self.answer(id, Ok(()));
        }
        self.show(now);
        if taken_back {
            self.handover_taken_back();
        }
        self.heartbeat_at = now.boot;
    }

    /// A voter refused the ballot.
    pub(super) fn nacked(&mut self, now: Now, from: NodeId, ballot: Ballot, why: Refusal) {
        if let Refusal::Promised(promised) = why {
            self.outbid(promised);
        }
        let known = self.acceptor.state().map(|state| state.accepted.1.clone());
        let Some(proposal) = self.proposal.as_mut().filter(|it| it.ballot == ballot) else {
            return;
        };
        match why {
            Refusal::Held(ms)
                if matches!(proposal.purpose, Purpose::Promote | Purpose::Force(_)) =>
            {
                // A live primary holds that voter's promise, or held it a moment ago.
                self.proposal = None;
                self.force_is_held();
                self.retry_at = now.boot.after_ms(u64::from(ms) + 1);
            }
            Refusal::Held(_) => {}
            Refusal::Promised(_) | Refusal::NoVote => {
                proposal.refused_by = proposal.refused_by.with(from);
                let refused_by = proposal.refused_by;
                let possible = known.is_some_and(|config| {
                    let voters = config.voters.iter().map(|voter| voter.node);
                    config.is_majority(voters.filter(|node| !refused_by.contains(*node)).collect())
                });
                if !possible {
                    self.preempted(now);
                }
            }
        }
    }

    /// Somebody has a higher ballot: again with a higher one, after a while that differs between
    /// the boxes, so that two candidates do not duel for ever. Doubt stays.
    pub(super) fn preempted(&mut self, now: Now) {
        let Some(proposal) = self.proposal.take() else {
            return;
        };
        let interval = u64::from(self.timing().heartbeat_interval_ms) * NS_PER_MS;
        self.attempts = self.attempts.saturating_add(1);
        let spread = if matches!(proposal.purpose, Purpose::Promote | Purpose::Force(_)) {
            interval * u64::from(self.attempts.min(4))
        } else {
            interval / 8 // a live primary goes first
        };
        let wait = 1 + self.random(spread);
        self.retry_at = now.boot.after_ns(wait);
    }

    fn resend_ms(&self) -> u64 {
        (u64::from(self.timing().heartbeat_interval_ms) / 4).max(5)
    }

    /// Repeats what was not answered; gives a candidacy up that leads nowhere.
    fn repeat(&mut self, now: Now) {
        let timing = self.timing();
        let Some(proposal) = &self.proposal else {
            return;
        };
        let age = now.boot.since_ns(proposal.since);
        let limit_ms = match (&proposal.stage, proposal.purpose) {
            (Stage::Reading(_), Purpose::Promote | Purpose::Claim | Purpose::Force(_)) => {
                u64::from(timing.lease_ms)
            }
            (Stage::Committing { .. } | Stage::Reading(_), _) => timing.failover_ms(),
            (Stage::Sealing(_), _) => u64::MAX / NS_PER_MS,
        };
        if age > limit_ms * NS_PER_MS {
            if mutant!(TimeoutEndsDoubt)
                && let Some(term) = &mut self.term
            {
                term.doubts.clear();
                term.degrade = None;
            }
            return self.preempted(now);
        }
        if now.boot >= proposal.resend_at {
            let ballot = proposal.ballot;
            self.resend(now, ballot);
        }
    }

    /// Sends the present phase to every voter that has not answered.
    pub(super) fn resend(&mut self, now: Now, ballot: Ballot) {
        let again = now.boot.after_ms(self.resend_ms());
        let reserved = self.acceptor.durable().map_or(0, |state| state.counter);
        let known = self.acceptor.state().map(|state| state.accepted.1.clone());
        let Some(proposal) = self.proposal.as_mut().filter(|it| it.ballot == ballot) else {
            return;
        };
        proposal.resend_at = again;
        let (missing, message, highest) = match (&proposal.stage, known) {
            (Stage::Reading(reading), Some(known)) => {
                (reading.missing(&known), Message::Prepare(ballot), ballot)
            }
            (Stage::Committing { commit, .. }, _) => {
                let config = Box::new(commit.value.clone());
                let admits = commit.admits.map(|voter| voter.instance);
                let next = commit.next;
                let accept = Message::Accept {
                    ballot,
                    config,
                    next,
                    admits,
                };
                (commit.missing(), accept, next.unwrap_or(ballot))
            }
            (Stage::Reading(_) | Stage::Sealing(_), _) => return,
        };
        if highest.counter > reserved && !mutant!(ReuseBallot) {
            return; // it leaves when its counter is durable (law R0)
        }
        for node in missing.without(self.params.me).iter() {
            self.send(now, node, &message);
        }
    }
}
