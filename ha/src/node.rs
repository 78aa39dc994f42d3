//! A box: register, lease, heartbeats and resource order behind one `handle`.
//!
//! Every input is applied, then `advance` looks at the whole state and does what is due.
//! Rules are level-triggered: nothing depends on a particular message arriving at a particular
//! moment.
//!
//! Invariants, checked after each input:
//! 1. this box is primary only by a config known chosen that names this very process (law R0);
//! 2. a primary is in S (laws R1, R2);
//! 3. an unlimited lease only with S = {me} in the config known chosen and in every config in
//!    doubt (laws R5b, R0b);
//! 4. no lease while a foreign ballot stands above the own chosen one (law R5, H3);
//! 5. at most one `Persist` is under way, and nothing that depends on it has left.

mod api;
mod force;
mod office;
mod propose;
mod receive;
mod send;
mod status;

use std::collections::{BTreeMap, VecDeque};

pub use api::{
    Authority, EDGES, Event, Input, Lease, LinkStatus, OperatorCommand, Output, Params, Refused,
    Role, Status,
};
use force::Force;
use office::Term;
use propose::Proposal;
use send::Deferred;

use crate::acceptor::Acceptor;
use crate::authority::Standing;
use crate::lease::Holder;
use crate::mutants::mutant;
use crate::peer::{Peer, Positions};
use crate::plan::Plan;
use crate::record::Record;
use crate::types::{
    Attached, Ballot, Config, DataState, DiskInstance, Epoch, Incarnation, NodeId, Now, PersistId,
    Time, Timing, VoterInstance,
};

/// A box. Feed one [`Input`], then drain [`Node::poll_output`] to `None`, then ask
/// [`Node::poll_timeout`].
#[derive(Debug)]
pub struct Node {
    params: Params,
    started: Time,
    acceptor: Acceptor<Deferred>,
    peers: BTreeMap<NodeId, Peer>,
    positions: Positions,
    /// The highest config known chosen by this process.
    known: Option<(Ballot, Config)>,
    /// The primary's office, while this process holds it.
    term: Option<Term>,
    proposal: Option<Proposal>,
    /// An operator wants this box to be started whatever it costs (law R9).
    force: Option<Force>,
    /// Highest ballot counter seen or used.
    counter: u64,
    /// Highest foreign ballot that the own acceptor promised or accepted in this process (H3).
    foreign: Option<Ballot>,
    holder: Holder,
    data: Option<DataState>,
    /// Since when the own disk is known to have failed.
    disk_failed_at: Option<Time>,
    session: Option<(Incarnation, DiskInstance)>,
    session_lost_at: Time,
    /// Number of the last loss that the engine reported.
    losses_heard: u64,
    local: (u64, u64),
    plan: Plan,
    /// When a heartbeat of a primary came in last.
    primary_heard: Time,
    retry_at: Time,
    attempts: u32,
    refusal: Option<String>,
    /// Highest epoch in which this process held the office: it never claims that one again.
    held_epoch: Epoch,
    heartbeat_at: Time,
    random: u64,
    shown: Shown,
    reported: BTreeMap<NodeId, VoterInstance>,
    promotions: u64,
    wake: Option<Time>,
    outputs: VecDeque<Output>,
}

/// What was put out last.
#[derive(Clone, Copy, Debug)]
struct Shown {
    lease: Lease,
    authority: Option<Authority>,
    role: Role,
}

impl Node {
    /// A box that has just started with `record` from its store. Its first outputs are ready at
    /// once.
    #[must_use]
    pub fn new(params: Params, record: Record, now: Now) -> Self {
        let peer = Peer::new(params.peer, params.links.clone());
        let witness = Peer::new(params.witness, vec![params.witness_link]);
        let counter = record.group.as_ref().map_or(0, |state| state.counter);
        let positions = Positions::new(&record.seen, now.boot);
        let mut node = Self {
            started: now.boot,
            acceptor: Acceptor::new(params.me, params.group, record, now),
            peers: BTreeMap::from([(params.peer, peer), (params.witness, witness)]),
            positions,
            known: None,
            term: None,
            proposal: None,
            force: None,
            counter,
            foreign: None,
            holder: Holder::default(),
            data: None,
            disk_failed_at: None,
            session: None,
            session_lost_at: now.boot,
            losses_heard: 0,
            local: (0, 0),
            plan: Plan::default(),
            primary_heard: now.boot,
            retry_at: now.boot,
            attempts: 0,
            refusal: None,
            held_epoch: Epoch::ZERO,
            heartbeat_at: now.boot,
            random: params.seed | 1,
            shown: Shown {
                lease: Lease::None,
                authority: None,
                role: Role::Booting,
            },
            reported: BTreeMap::new(),
            promotions: 0,
            wake: Some(now.boot),
            outputs: VecDeque::new(),
            params,
        };
        if mutant!(ResumeEpoch) {
            node.resume();
        }
        node.show(now);
        node
    }

    /// The mutant of law R0: the office goes on after a restart.
    fn resume(&mut self) {
        let accepted = self.acceptor.state().map(|state| state.accepted.clone());
        let me = self.params.me;
        let Some((ballot, config)) = accepted else {
            return;
        };
        if let Some((_, process)) = config.primary.filter(|primary| primary.0 == me) {
            self.params.incarnation = process;
            self.known = Some((ballot, config));
            self.term = Some(Term::default());
        }
    }

    /// Takes one input. Never fails: what others did wrong is dropped or counted.
    pub fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::Timeout => {}
            Input::Datagram { link, bytes } => self.datagram(now, link, &bytes),
            Input::Persisted { id } => self.persisted(now, id),
            Input::Data(data) => self.data(now, data),
            Input::PeerUp { incarnation, disk } => self.session = Some((incarnation, disk)),
            Input::PeerLost { number, why } => {
                self.losses_heard = number;
                self.peer_lost(now, why);
            }
            Input::Sealed { epoch } => self.sealed(now, epoch),
            Input::Serving { epoch } => self.serving(epoch),
            Input::Readmit { epoch, peer_disk } => self.readmit(epoch, peer_disk),
            Input::Drained { id } => self.drained(now, id),
            Input::Started { resource, result } => self.plan.started(now.boot, resource, result),
            Input::Stopped { resource } => self.plan.stopped(resource),
            Input::Operator { id, command } => self.operator(now, id, command),
            Input::Local {
                config_generation,
                config_hash,
            } => {
                self.local = (config_generation, config_hash);
            }
        }
        self.advance(now);
        self.check(now);
    }

    fn data(&mut self, now: Now, data: DataState) {
        let failed = matches!(data.attached, Attached::Failed(_));
        if failed && self.disk_failed_at.is_none() {
            self.disk_failed_at = Some(now.boot);
            self.heartbeat_at = now.boot; // who answers that one can be the heir
        } else if !failed {
            self.disk_failed_at = None;
        }
        if let Some(disk) = data.disk.filter(|_| !failed) {
            let copy = Some((disk, data.generation));
            self.acceptor.ledger.change(|record| record.copy = copy);
        }
        self.data = Some(data);
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] has something to do, on the boot clock.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.wake
    }

    /// Everything that is due, in the order of its importance for safety.
    fn advance(&mut self, now: Now) {
        self.watch(now);
        self.drive(now);
        self.run_plan(now);
        if now.boot >= self.heartbeat_at {
            self.heartbeat(now);
        }
        self.flush(now);
        self.show(now);
        self.wake = Some(self.next_wake(now));
    }

    fn persisted(&mut self, now: Now, id: PersistId) {
        self.acceptor.ledger.persisted(id);
        self.flush(now);
    }

    /// Puts out the record if it changed, and everything that waited for a durable one.
    fn flush(&mut self, now: Now) {
        loop {
            while let Some(deferred) = self.acceptor.ledger.ready() {
                self.undefer(now, deferred);
            }
            let Some((id, record)) = self.acceptor.ledger.persist() else {
                break;
            };
            self.outputs.push_back(Output::Persist {
                id,
                record: Box::new(record),
            });
        }
    }

    fn next_wake(&self, now: Now) -> Time {
        let mut wake = self.heartbeat_at;
        let mut sooner = |at: Option<Time>| {
            if let Some(at) = at.filter(|at| *at > now.boot) {
                wake = wake.min(at);
            }
        };
        if let Lease::Until(until) = self.shown.lease {
            sooner(Some(until));
        }
        sooner(self.proposal.as_ref().map(|proposal| proposal.resend_at));
        sooner(Some(self.retry_at));
        sooner(self.candidate_at(now));
        sooner(self.force_until());
        sooner(self.plan.retry_at());
        wake.max(now.boot.after_ns(1))
    }

    fn timing(&self) -> Timing {
        self.acceptor.timing()
    }

    fn standing(&self) -> Standing<'_> {
        let own = self
            .acceptor
            .state()
            .map_or(Epoch::ZERO, |state| state.seal);
        Standing {
            me: self.params.me,
            incarnation: self.params.incarnation,
            data: self.data.as_ref(),
            config_generation: self.local.0,
            floor: own.max(self.peer_seal()),
        }
    }

    /// The highest epoch that the peer said it sealed.
    fn peer_seal(&self) -> Epoch {
        let peer = self.peers.get(&self.params.peer);
        let report = peer.and_then(|peer| peer.report.as_ref());
        report.map_or(Epoch::ZERO, |report| report.seal)
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Uniform in `0..bound`; the same seed gives the same numbers.
    fn random(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    /// Whether a vote of that life of `node` counts at all (law R10, H13).
    fn trusted(&self, instance: VoterInstance) -> bool {
        !self.positions.is_rolled_back(instance)
    }

    fn check(&self, now: Now) {
        self.acceptor.check();
        let me = self.params.me;
        if self.term.is_some() {
            let (ballot, config) = self.known.as_ref().expect("an office has a chosen config");
            assert_eq!(
                config.primary,
                Some((me, self.params.incarnation)),
                "invariant 1"
            );
            assert!(config.in_sync.contains(me), "invariant 2");
            if let Lease::Until(until) = self.shown.lease {
                assert!(until > now.boot, "a lease that is over is none");
                let above = self.foreign.is_some_and(|foreign| foreign > *ballot);
                assert!(!above || mutant!(OwnVoteKeepsLease), "invariant 4");
            }
            if self.shown.lease == Lease::Unlimited {
                assert_eq!(config.in_sync.len(), 1, "invariant 3");
            }
        } else {
            assert_eq!(self.shown.lease, Lease::None, "a lease without the office");
        }
    }

    /// The full walk of the invariants, for simulators.
    pub fn check_full(&self) {
        if let (Some(state), Some((ballot, config))) = (self.acceptor.state(), &self.known)
            && state.accepted.0 == *ballot
        {
            assert_eq!(state.accepted.1, *config, "one value for one ballot");
        }
        if let Some(term) = &self.term {
            term.check(self.known.as_ref());
        }
        if let (Some(state), Some(durable)) = (self.acceptor.state(), self.acceptor.durable()) {
            assert!(durable.promised <= state.promised, "promises only rise");
            assert!(
                durable.accepted.0 <= state.accepted.0,
                "accepted ballots only rise"
            );
            assert!(durable.seal <= state.seal, "seals only rise");
        }
    }
}
