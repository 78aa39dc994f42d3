//! A forced start (law R9): the only takeover without a majority or although others have newer
//! data.
//!
//! If a majority of the voters answers, the forced config is read, sealed and committed as any
//! other. Otherwise this box becomes the only voter of its next config. Its ballot then stands
//! above every ballot of the old lineage, and nothing of it leaves before it is chosen and durable:
//! an attempt that is cut short binds nobody.

use super::propose::{Proposal, Purpose, Stage};
use super::{Event, Node, Output, Refused};
use crate::authority::{self, Electorate};
use crate::mutants::mutant;
use crate::register;
use crate::types::{Ballot, Config, Members, NS_PER_MS, NodeId, Now, Parity, Reason, Time};

/// An operator waits for a forced start.
#[derive(Debug)]
pub(super) struct Force {
    id: u64,
    until: Time,
    /// A voter kept its promise to somebody.
    held: bool,
}

/// A forced start has that long.
const FORCE_MAX_MS: u64 = 10_000;

impl Node {
    pub(super) fn begin_force(&mut self, now: Now, id: u64) -> Result<(), Refused> {
        if self.force.is_some() {
            return Err(String::from("a forced start is under way already; wait for it").into());
        }
        if self.term.is_some() {
            return Err(
                String::from("this box is primary already; nothing is to be forced").into(),
            );
        }
        let Some(state) = self.acceptor.state().filter(|_| self.acceptor.votes()) else {
            let why = "this box has no vote in the group: it is new, was reinstalled, or its \
                       record was put back; start the other box";
            return Err(Refused::Unsafe(String::from(why)));
        };
        let fit = authority::forcible(&state.accepted.1, &self.standing());
        fit.map_err(|unfit| Refused::Unsafe(unfit.to_string()))?;
        if let Some(alive) = self.living_primary(now) {
            return Err(alive);
        }
        self.retry_at = now.boot;
        self.force = Some(Force {
            id,
            until: now.boot.after_ms(FORCE_MAX_MS),
            held: false,
        });
        Ok(())
    }

    /// That the peer is primary and is heard: then the role can be handed over.
    fn living_primary(&self, now: Now) -> Option<Refused> {
        let peer = &self.peers[&self.params.peer];
        let dead = self.timing().failover_ms() * NS_PER_MS;
        let claims = peer.report.as_ref().is_some_and(|report| report.primary);
        let lives = claims && peer.heard_within(now.boot, dead) && !mutant!(ForceOverLiving);
        lives.then(|| {
            Refused::Unsafe(format!(
                "{} is primary and is heard here; run `twinsan switchover` there, or stop it first",
                self.params.peer
            ))
        })
    }

    /// What a forced start wants next.
    pub(super) fn force_goal(&self, now: Now) -> Option<Purpose> {
        self.force.as_ref()?;
        // Who has just started must listen first: the voters may be there.
        let listened = self.started.after_ms(self.timing().failover_ms());
        (now.boot >= listened).then(|| {
            Purpose::Force(if self.majority_answers(now) {
                Electorate::Majority
            } else {
                Electorate::Alone
            })
        })
    }

    fn majority_answers(&self, now: Now) -> bool {
        let fresh = self.timing().failover_ms() * NS_PER_MS;
        let Some(state) = self.acceptor.state() else {
            return false;
        };
        let config = &state.accepted.1;
        let answers = |node: NodeId| {
            self.peers.get(&node).is_some_and(|peer| {
                let listed = peer.instance.filter(|life| config.lists(node, *life));
                peer.heard_within(now.boot, fresh) && listed.is_some_and(|life| self.trusted(life))
            })
        };
        let voters = config.voters.iter().map(|voter| voter.node);
        let votes: Members = voters
            .filter(|node| *node == self.params.me || answers(*node))
            .collect();
        config.is_majority(votes)
    }

    /// The ballot of a box that makes itself the only voter: above all that it has heard of, in
    /// the lineage of the epoch that it is about to begin.
    pub(super) fn forced_ballot(&self) -> Ballot {
        let state = self
            .acceptor
            .state()
            .expect("a box without a vote is refused");
        let last = state.accepted.1.epoch.max(self.standing().floor);
        let epoch = last.forced(Parity::of(self.params.me, self.params.peer));
        Ballot {
            counter: register::forced_counter(state, self.counter, epoch),
            node: self.params.me,
            instance: self.acceptor.instance(),
        }
    }

    /// Nobody is asked: the config accepted here is the one to follow, once all before it is
    /// sealed.
    pub(super) fn seal_own(&mut self, now: Now) {
        self.show(now); // a candidate, if only for a moment
        let Some(state) = self.acceptor.state() else {
            return;
        };
        let read = state.accepted.1.clone();
        match authority::forcible(&read, &self.standing()) {
            Ok(()) => self.seal_read(now, &read),
            Err(unfit) => self.refused(now, &unfit),
        }
    }

    /// Whether a config was accepted here since a forced start without voters began: then it
    /// begins anew.
    pub(super) fn overtaken(&self, proposal: &Proposal, read: &Config) -> bool {
        let alone = proposal.purpose == Purpose::Force(Electorate::Alone);
        let accepted = self.acceptor.state().map(|state| &state.accepted.1);
        alone && accepted != Some(read)
    }

    /// A voter said for how long it is bound to another's lease.
    pub(super) fn force_is_held(&mut self) {
        if let Some(force) = &mut self.force {
            force.held = true;
        }
    }

    /// Gives a forced start up that a living primary or the time forbids.
    pub(super) fn watch_force(&mut self, now: Now) {
        let Some(force) = self.force.as_ref().filter(|_| self.term.is_none()) else {
            return;
        };
        let why = if let Some(alive) = self.living_primary(now) {
            alive
        } else if now.boot < force.until {
            return;
        } else if force.held {
            Refused::Unsafe(String::from(
                "a voter goes on hearing a primary; see `twinsan status` on the other box and stop \
                 it first",
            ))
        } else {
            Refused::Unfit(String::from(
                "the voters did not answer in time, or this box's older disk operations did not \
                 end; see `twinsan status`, then run it again",
            ))
        };
        let begun = self.proposal.as_ref().is_some_and(|proposal| {
            let committing = matches!(proposal.stage, Stage::Committing { .. });
            matches!(proposal.purpose, Purpose::Force(_)) && !committing
        });
        if begun {
            self.proposal = None;
        }
        self.end_force(Err(why));
    }

    /// Answers the operator, if one waits.
    pub(super) fn end_force(&mut self, result: Result<(), Refused>) {
        if let Some(force) = self.force.take() {
            let id = force.id;
            self.outputs.push_back(Output::Answer { id, result });
        }
    }

    /// When a forced start is given up.
    pub(super) fn force_until(&self) -> Option<Time> {
        self.force.as_ref().map(|force| force.until)
    }

    /// This box became primary by `value`.
    pub(super) fn forced(&mut self, now: Now, value: &Config) {
        if value.reason == Reason::Force && value.in_sync == Members::one(self.params.me) {
            let dead = self.timing().failover_ms() * NS_PER_MS;
            let others = [self.params.peer, self.params.witness].into_iter();
            let silent = others.filter(|node| !self.peers[node].heard_within(now.boot, dead));
            self.event(Event::Forced {
                epoch: value.epoch,
                must_stay_off: silent.collect(),
            });
        }
        self.end_force(Ok(()));
    }

    /// Goes above a ballot that somebody used, if that is right.
    pub(super) fn outbid(&mut self, ballot: Ballot) {
        let state = self.acceptor.state();
        if state.is_none_or(|state| register::may_outbid(state, ballot)) {
            self.counter = self.counter.max(ballot.counter);
        }
    }
}
