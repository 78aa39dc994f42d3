//! The primary's office: what it may answer, how it begins and how it ends (laws R1, R5 to R8).

use super::propose::Purpose;
use super::{Authority, Event, Lease, Node, OperatorCommand, Output, Refused};
use crate::mutants::mutant;
use crate::plan::{Step, Wish};
use crate::types::{
    Ballot, Config, DiskInstance, Epoch, Incarnation, Members, NS_PER_MS, NodeId, Now, PeerLoss,
    Time,
};

/// What a primary carries with it. It exists exactly while this process holds the office.
///
/// Invariant: every entry of `doubts` was proposed by this process after the config known
/// chosen; a time-out never removes one (law R0b).
#[derive(Debug, Default)]
pub(super) struct Term {
    /// Configs proposed and not known chosen: obeyed together with the one known chosen.
    pub(super) doubts: Vec<(Ballot, Config)>,
    /// A ballot that a majority promised along with the config known chosen.
    pub(super) owned: Option<Ballot>,
    /// The peer is lost while it counted: only a commit of S = {me} ends this (law R1).
    pub(super) degrade: Option<PeerLoss>,
    /// The peer's copy is complete and acks wait for it (law R6).
    pub(super) readmit: Option<DiskInstance>,
    pub(super) handover: Option<Handover>,
    /// A dead voter to take off the roster, and the operator who waits for it.
    pub(super) removal: Option<(u64, NodeId)>,
    /// A voter promised somebody else's ballot: no lease before a higher own one is chosen (H3).
    pub(super) reaffirm: bool,
    pub(super) serving: bool,
}

/// A planned switch under way (law R7).
#[derive(Debug)]
pub(super) struct Handover {
    pub(super) id: u64,
    pub(super) to: (NodeId, Incarnation),
    /// Drained: this box stays stopped until it is known whose config is chosen.
    stopped: bool,
    until: Time,
}

/// The engine has that long to drain.
const DRAIN_MAX_MS: u64 = 10_000;

impl Term {
    /// Whether the engine is drained for a handover: no lease, no services.
    pub(super) fn stopped(&self) -> bool {
        self.handover
            .as_ref()
            .is_some_and(|handover| handover.stopped)
    }

    /// Every member of a config in doubt.
    fn doubtful(&self) -> Members {
        let sets = self.doubts.iter().map(|doubt| doubt.1.in_sync);
        sets.fold(Members::EMPTY, Members::union)
    }

    pub(super) fn check(&self, known: Option<&(Ballot, Config)>) {
        let known = known.expect("an office has a chosen config");
        for (ballot, _) in &self.doubts {
            assert!(
                *ballot > known.0,
                "a config below the one known chosen is not in doubt"
            );
        }
    }
}

impl Node {
    /// Law R5 and R5b: how long answers may leave, computed anew from what is known.
    pub(super) fn lease(&self, now: Now) -> Lease {
        let (Some(term), Some((ballot, config))) = (&self.term, &self.known) else {
            return Lease::None;
        };
        if term.stopped() {
            return Lease::None;
        }
        if self.detaches() && !mutant!(DetachWithLease) {
            return Lease::None;
        }
        let me = self.params.me;
        let configs = || std::iter::once(config).chain(term.doubts.iter().map(|doubt| &doubt.1));
        if configs().all(|config| config.in_sync == Members::one(me)) {
            return Lease::Unlimited;
        }
        let own = ballot.belongs_to(me, self.acceptor.instance())
            && self.foreign.is_none_or(|foreign| foreign < *ballot);
        if !own {
            return Lease::None;
        }
        let until = configs()
            .map(|config| self.holder.until(config, me))
            .min()
            .flatten();
        match until {
            Some(until) if until > now.boot => Lease::Until(until),
            Some(_) | None => Lease::None,
        }
    }

    /// Laws R4 and R0b: who must have a write before it is acknowledged.
    pub(super) fn authority(&self) -> Authority {
        let (Some(term), Some((_, config))) = (&self.term, &self.known) else {
            let accepted = self.acceptor.durable().map(|state| state.accepted.1.epoch);
            let known = self.known.as_ref().map(|known| known.1.epoch);
            return Authority::Secondary {
                epoch: accepted.max(known).unwrap_or(Epoch::ZERO),
            };
        };
        let doubtful = term.doubtful();
        let beyond = config.in_sync.union(doubtful) != config.in_sync;
        let peer = self.params.peer;
        let in_sync = if mutant!(SoloBeforeChosen) && !doubtful.is_empty() {
            doubtful
        } else {
            config.in_sync
        };
        Authority::Primary {
            epoch: config.epoch,
            in_sync,
            doubt: (beyond && !mutant!(ForgetDoubt)).then_some(doubtful),
            peer_base: config.base_of(peer),
            peer_disk: config.disk_of(peer),
            answers: self.losses_heard,
        }
    }

    /// Whether the peer must have every write, by the config known chosen or by one in doubt.
    pub(super) fn peer_counts(&self) -> bool {
        let (Some(term), Some((_, config))) = (&self.term, &self.known) else {
            return false;
        };
        config
            .in_sync
            .union(term.doubtful())
            .contains(self.params.peer)
    }

    /// Law R1: the own disk failed and the peer has what was acknowledged. The engine answers
    /// nothing any more, and there is no lease: as a handover that has drained.
    pub(super) fn detaches(&self) -> bool {
        self.disk_failed() && self.peer_counts()
    }

    pub(super) const fn disk_failed(&self) -> bool {
        self.disk_failed_at.is_some()
    }

    /// The process that can take over from a box whose disk failed: it has the very copy that is
    /// in S, and has answered since. One that was heard only before may have lost its power first,
    /// and with it what this box alone has in its cache.
    fn heir(&self, now: Now) -> Option<(NodeId, Incarnation)> {
        let (term, (_, config)) = (self.term.as_ref()?, self.known.as_ref()?);
        let peer = &self.peers[&self.params.peer];
        let fresh = u64::from(self.timing().lease_ms) * NS_PER_MS;
        let report = peer.report.as_ref()?;
        let copy = report.disk.filter(|_| report.attached)?;
        let mut configs = std::iter::once(config).chain(term.doubts.iter().map(|doubt| &doubt.1));
        let whole = configs.any(|config| {
            let node = self.params.peer;
            config.in_sync.contains(node) && config.disk_of(node) == Some(copy)
        });
        let answered = peer.paths.alive_at() >= self.disk_failed_at?;
        let alive = (answered || mutant!(DetachToSilence)) && peer.heard_within(now.boot, fresh);
        let incarnation = peer.paths.incarnation()?;
        (whole && alive).then_some((self.params.peer, incarnation))
    }

    /// Law R1: the data session is lost.
    pub(super) fn peer_lost(&mut self, now: Now, why: PeerLoss) {
        self.session = None;
        self.session_lost_at = now.boot;
        let counts = self.peer_counts();
        let Some(term) = &mut self.term else { return };
        term.readmit = None;
        if !counts || term.degrade.is_some() {
            return;
        }
        term.degrade = Some(why);
        self.event(Event::PeerLost { why });
        self.give_up_draining("the peer was lost");
    }

    pub(super) fn serving(&mut self, epoch: Epoch) {
        let current = self
            .known
            .as_ref()
            .is_some_and(|known| known.1.epoch == epoch);
        if let Some(term) = self.term.as_mut().filter(|_| current) {
            term.serving = true;
        }
    }

    /// Law R6: steps (1) to (3) are done under `epoch`.
    pub(super) fn readmit(&mut self, epoch: Epoch, disk: DiskInstance) {
        let current = self
            .known
            .as_ref()
            .is_some_and(|known| known.1.epoch == epoch);
        let same_copy = self.session.is_some_and(|session| session.1 == disk);
        let counts = self.peer_counts();
        if let Some(term) = self
            .term
            .as_mut()
            .filter(|_| current && same_copy && !counts)
        {
            term.readmit = Some(disk);
        }
    }

    /// Law R7: stopped, drained, flushed. From here on there is no lease; only then may an Accept
    /// leave that gives the primacy away.
    pub(super) fn drained(&mut self, now: Now, id: u64) {
        let Some(term) = &mut self.term else { return };
        let Some(handover) = &mut term.handover else {
            return;
        };
        if handover.id != id || handover.stopped {
            return;
        }
        handover.stopped = true;
        self.holder.void(now.boot);
        self.show(now);
    }

    /// Takes a handover back of which no Accept has left.
    fn give_up_draining(&mut self, why: &str) {
        let Some(term) = &mut self.term else { return };
        let draining = term.handover.take_if(|handover| !handover.stopped);
        if let Some(handover) = draining {
            self.outputs
                .push_back(Output::HandoverCancelled { id: handover.id });
            self.answer(
                handover.id,
                Err(format!("the switch was taken back: {why}").into()),
            );
        }
    }

    /// A handover is settled: this box is still primary, under a new epoch.
    pub(super) fn handover_taken_back(&mut self) {
        let Some(handover) = self.term.as_mut().and_then(|term| term.handover.take()) else {
            return;
        };
        self.outputs
            .push_back(Output::HandoverCancelled { id: handover.id });
        let why = "the switch was taken back: the other box could not be reached in time";
        self.answer(handover.id, Err(String::from(why).into()));
    }

    /// Law R8: primacy is lost. First the engine, then the services.
    pub(super) fn demote(&mut self, now: Now, epoch: Epoch, primary: Option<NodeId>) {
        let Some(term) = self.term.take() else { return };
        self.proposal = None;
        self.session = None;
        self.holder.void(now.boot);
        self.primary_heard = now.boot;
        self.retry_at = now.boot;
        self.attempts = 0;
        self.show(now);
        self.event(Event::Demoted { epoch });
        if let Some(handover) = term.handover {
            let result = if primary == Some(handover.to.0) {
                Ok(())
            } else {
                let why = "this box lost the primary role before the switch";
                Err(String::from(why).into())
            };
            self.answer(handover.id, result);
        }
        if let Some((id, _)) = term.removal {
            let why = "this box lost the primary role; ask the other";
            self.answer(id, Err(String::from(why).into()));
        }
    }

    /// Silence of the remotes, and time-outs of the office.
    pub(super) fn watch(&mut self, now: Now) {
        let dead = self.timing().failover_ms() * NS_PER_MS;
        for node in [self.params.peer, self.params.witness] {
            let Some(peer) = self.peers.get_mut(&node) else {
                continue;
            };
            let silent =
                !peer.heard_within(now.boot, dead) && now.boot.since_ns(self.started) >= dead;
            if silent != peer.silent {
                peer.silent = silent;
                let event = match (node == self.params.peer, silent) {
                    (true, true) => Event::PeerSilent,
                    (true, false) => Event::PeerHeard,
                    (false, true) => Event::WitnessSilent,
                    (false, false) => Event::WitnessHeard,
                };
                self.event(event);
            }
        }
        self.watch_session(now);
        if self.disk_failed() {
            self.give_up_draining("the disk of this box failed");
        }
        if self.outlived() && self.peer_counts() {
            self.peer_lost(now, PeerLoss::Sealed);
        }
        let late = self.term.as_ref().and_then(|term| term.handover.as_ref());
        if late.is_some_and(|handover| !handover.stopped && now.boot >= handover.until) {
            self.give_up_draining("the engine did not drain in time");
        }
    }

    /// Whether the peer sealed this office's epoch: it takes no frame before a higher one is
    /// chosen (law R3, H4).
    fn outlived(&self) -> bool {
        let epoch = self.known.as_ref().map(|known| known.1.epoch);
        self.term.is_some() && epoch.is_some_and(|epoch| epoch <= self.peer_seal())
    }

    /// Law R1 without the engine's word: no session, and silence on every link.
    fn watch_session(&mut self, now: Now) {
        let limit = u64::from(self.timing().peer_loss_ms) * NS_PER_MS;
        let Some(peer) = self.peers.get(&self.params.peer) else {
            return;
        };
        let lost = self.session.is_none()
            && now.boot.since_ns(self.session_lost_at) >= limit
            && !peer.heard_within(now.boot, limit);
        if lost && self.peer_counts() {
            self.peer_lost(now, PeerLoss::Silent);
        }
    }

    /// Resources follow the office: up once the engine serves, down when it stops or ends.
    pub(super) fn run_plan(&mut self, now: Now) {
        let up = self
            .term
            .as_ref()
            .is_some_and(|term| term.serving && !term.stopped());
        self.plan
            .advance(now.boot, if up { Wish::Up } else { Wish::Down });
        while let Some(step) = self.plan.next_step() {
            self.outputs.push_back(match step {
                Step::Start(resource) => Output::Start(resource),
                Step::Stop(resource) => Output::Stop(resource),
                Step::Failed {
                    resource,
                    reason,
                    retry_ms,
                } => Output::Event(Event::StartFailed {
                    resource,
                    reason,
                    retry_ms,
                }),
            });
        }
    }

    pub(super) fn operator(&mut self, now: Now, id: u64, command: OperatorCommand) {
        let refused = match command {
            OperatorCommand::Switchover { to } => self.begin_switchover(now, id, to),
            OperatorCommand::RemoveVoter { node } => self.begin_removal(now, id, node),
            OperatorCommand::Force => self.begin_force(now, id),
        };
        if let Err(reason) = refused {
            self.answer(id, Err(reason));
        }
    }

    fn begin_switchover(&mut self, now: Now, id: u64, to: Option<NodeId>) -> Result<(), Refused> {
        let peer = self.params.peer;
        let (Some(_), Some((_, config))) = (&self.term, &self.known) else {
            return Err(String::from("this box is not primary; ask the primary").into());
        };
        if to.is_some_and(|to| to != peer) {
            return Err(format!("the other box is {peer}; name it, or nothing").into());
        }
        if !config.in_sync.contains(peer) {
            let why = "the other box is not in sync; wait for the resync to end";
            return Err(Refused::Unsafe(String::from(why)));
        }
        let incarnation = self.fit_for_handover(now)?;
        let epoch = self
            .known
            .as_ref()
            .expect("an office has a chosen config")
            .1
            .epoch;
        let until = now.boot.after_ms(DRAIN_MAX_MS);
        let to = (peer, incarnation);
        let term = self.term.as_mut().expect("checked above");
        term.handover = Some(Handover {
            id,
            to,
            stopped: false,
            until,
        });
        self.outputs.push_back(Output::Handover { epoch, id });
        Ok(())
    }

    /// The gates of a planned switch; each refusal is a sentence with a remedy.
    fn fit_for_handover(&self, now: Now) -> Result<Incarnation, String> {
        let Some(term) = &self.term else {
            return Err(String::from("this box is not primary"));
        };
        if term.handover.is_some() {
            return Err(String::from("a switch is under way already; wait for it"));
        }
        if term.degrade.is_some() || self.proposal.is_some() || !term.doubts.is_empty() {
            return Err(String::from(
                "a change of the group is being settled; try again",
            ));
        }
        if !term.serving || self.session.is_none() {
            return Err(String::from(
                "the boxes are not connected; check the replication link",
            ));
        }
        let peer = &self.peers[&self.params.peer];
        let fresh = u64::from(self.timing().lease_ms) * NS_PER_MS;
        let report = peer
            .report
            .as_ref()
            .filter(|_| peer.heard_within(now.boot, fresh));
        let (Some(report), Some(incarnation)) = (report, peer.paths.incarnation()) else {
            return Err(String::from(
                "no heartbeat of the other box came in; check the links",
            ));
        };
        if self.session.is_some_and(|session| session.0 != incarnation) {
            return Err(String::from(
                "the other box has just been restarted; try again",
            ));
        }
        if !report.attached {
            return Err(String::from(
                "the other box does not have all its volumes; see its status",
            ));
        }
        if report.software != self.params.software {
            return Err(String::from(
                "the boxes run different versions; update both first",
            ));
        }
        if (report.config_generation, report.config_hash) != self.local {
            return Err(String::from(
                "the boxes have different cluster configurations; wait until the other has it",
            ));
        }
        Ok(incarnation)
    }

    fn begin_removal(&mut self, now: Now, id: u64, node: NodeId) -> Result<(), Refused> {
        let (Some(term), Some((_, config))) = (&self.term, &self.known) else {
            return Err(String::from("this box is not primary; ask the primary").into());
        };
        let Some(voter) = config.voter(node) else {
            return Err(format!("{node} is no voter; nothing to remove").into());
        };
        if node == self.params.me || config.in_sync.contains(node) {
            let why = format!("{node} holds the data of this group; while it does, it votes");
            return Err(Refused::Unsafe(why));
        }
        let dead = self.timing().failover_ms() * NS_PER_MS;
        let alive = self.peers.get(&node).is_some_and(|peer| {
            peer.heard_within(now.boot, dead) && peer.instance == Some(voter.instance)
        });
        if alive && self.trusted(voter.instance) {
            return Err(format!("{node} answers and votes; stop it first").into());
        }
        if term.removal.is_some() {
            return Err(String::from("a voter is being removed already; wait for it").into());
        }
        if let Some(term) = &mut self.term {
            term.removal = Some((id, node));
        }
        Ok(())
    }

    pub(super) fn answer(&mut self, id: u64, result: Result<(), Refused>) {
        self.outputs.push_back(Output::Answer { id, result });
    }

    /// What the office wants committed next, most urgent first.
    pub(super) fn office_goal(&self, now: Now) -> Option<Purpose> {
        let term = self.term.as_ref()?;
        if self.detaches() {
            return self.heir(now).map(Purpose::Detach);
        }
        if let Some(handover) = term.handover.as_ref().filter(|handover| handover.stopped) {
            return Some(Purpose::Handover(handover.to));
        }
        if term.degrade.is_some() || self.outlived() {
            return Some(Purpose::Degrade);
        }
        if term.handover.is_some() {
            return None; // draining: nothing else may change under it
        }
        let (_, config) = self.known.as_ref()?;
        if let Some(disk) = term
            .readmit
            .filter(|_| config.voter(self.params.peer).is_some())
        {
            return Some(Purpose::Readmit(disk));
        }
        if !term.doubts.is_empty() || term.reaffirm {
            return Some(Purpose::Reaffirm);
        }
        if let Some((_, node)) = term.removal {
            return Some(Purpose::Remove(node));
        }
        self.admission(now)
    }
}
