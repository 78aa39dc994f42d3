//! What comes in over the network: nothing is believed before it is authenticated, live and new.

use super::{Event, Lease, Node};
use crate::acceptor::{Candidacy, Reply};
use crate::mutants::mutant;
use crate::path::Arrival;
use crate::peer::Noted;
use crate::types::{Ballot, Config, LinkId, NS_PER_MS, NodeId, Now, VoterInstance};
use crate::wire::{
    self, Ack, Header, Heartbeat, Message, Proposed, Refusal, Summary, Verdict, VoterMark,
};

use super::office::Term;
use super::propose::{Purpose, Stage};

impl Node {
    pub(super) fn datagram(&mut self, now: Now, link: LinkId, bytes: &[u8]) {
        let Ok((header, message)) = wire::decode(&self.params.key, bytes) else {
            return;
        };
        if header.group != self.params.group || header.destination != self.params.me {
            return;
        }
        let Some(peer) = self.peers.get_mut(&header.source) else {
            return;
        };
        match peer
            .paths
            .arrive(now.boot, self.params.incarnation, &header)
        {
            Arrival::Live => {}
            Arrival::Restarted => {
                peer.report = None;
                peer.instance = None;
                if header.source == self.params.peer {
                    self.event(Event::PeerRestarted);
                }
            }
            Arrival::Contact => return self.greet(now, link, &header),
            Arrival::Stale => return,
        }
        self.message(now, link, &header, message);
    }

    fn message(&mut self, now: Now, link: LinkId, header: &Header, message: Message) {
        let from = header.source;
        match message {
            Message::Hello => {}
            Message::Heartbeat(heartbeat) => self.on_heartbeat(now, link, header, heartbeat),
            Message::Ack(ack) => self.on_ack(now, link, header, &ack),
            Message::Prepare(ballot) => self.on_prepare(now, link, header, ballot),
            Message::Promise {
                ballot,
                mark,
                accepted,
            } => {
                if let Some(voter) = self.vote(now, from, &mark) {
                    self.promised(now, voter, ballot, (accepted.0, *accepted.1));
                }
            }
            Message::Accept {
                ballot,
                config,
                next,
                admits,
            } => {
                let config = &*config;
                self.on_accept(
                    now,
                    link,
                    header,
                    Proposed {
                        ballot,
                        config,
                        next,
                        admits,
                    },
                );
            }
            Message::Accepted { ballot, mark } => {
                if let Some(voter) = self.vote(now, from, &mark) {
                    self.accepted(now, voter, ballot);
                }
            }
            Message::Nack { ballot, why } => self.nacked(now, from, ballot, why),
            Message::Learn { ballot, config } => self.learn(now, ballot, &config),
        }
    }

    /// The voter behind a vote, if its votes count (law R10, H13).
    fn vote(
        &mut self,
        now: Now,
        from: NodeId,
        mark: &VoterMark,
    ) -> Option<(NodeId, VoterInstance)> {
        self.note(now, from, mark);
        self.trusted(mark.instance).then_some((from, mark.instance))
    }

    /// Remembers the voter's life and position, durably.
    fn note(&mut self, now: Now, from: NodeId, mark: &VoterMark) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.instance = Some(mark.instance);
        }
        match self.positions.mark(now.boot, mark) {
            Noted::Same => {}
            Noted::Higher => self.remember(),
            Noted::RolledBack => self.event(Event::VoterRolledBack { node: from }),
        }
        let listed = self
            .acceptor
            .state()
            .and_then(|state| state.accepted.1.voter(from));
        let foreign = listed.is_some_and(|voter| voter.instance != mark.instance);
        if foreign && self.reported.insert(from, mark.instance) != Some(mark.instance) {
            self.event(Event::ForeignVoter { node: from });
        }
    }

    fn remember(&mut self) {
        let state = self.acceptor.state();
        let listed = |instance: VoterInstance| {
            state.is_some_and(|state| {
                state
                    .accepted
                    .1
                    .voters
                    .iter()
                    .any(|voter| voter.instance == instance)
            })
        };
        let announced: Vec<_> = self
            .peers
            .values()
            .filter_map(|peer| peer.instance)
            .collect();
        self.positions
            .keep(|instance| listed(instance) || announced.contains(&instance));
        let seen = self.positions.list();
        self.acceptor.ledger.change(|record| record.seen = seen);
    }

    fn on_prepare(&mut self, now: Now, link: LinkId, header: &Header, ballot: Ballot) {
        if let Some(why) = self.guard(now, &ballot) {
            let nack = Message::Nack { ballot, why };
            return self.send_on(now, header.source, link, &nack);
        }
        let reply = self.acceptor.prepare(now, header, ballot);
        if matches!(reply, Reply::Durable(_)) {
            self.foreign_ballot(now, ballot);
        }
        self.reply(now, link, header, reply);
    }

    fn on_accept(&mut self, now: Now, link: LinkId, header: &Header, proposed: Proposed<'_>) {
        let Proposed {
            ballot,
            config,
            next,
            ..
        } = proposed;
        if let Some(why) = self.guard(now, &ballot) {
            let nack = Message::Nack { ballot, why };
            return self.send_on(now, header.source, link, &nack);
        }
        let reply = self.acceptor.accept(now, header, proposed);
        if matches!(reply, Reply::Durable(_)) {
            self.foreign_ballot(now, next.unwrap_or(ballot).max(ballot));
            if self.term.is_some() {
                // Accepted another's config: the register place is lost (law R8).
                self.demote(now, config.epoch, config.primary.map(|primary| primary.0));
            }
            if mutant!(ServeUnknown) {
                self.know(now, ballot, config);
                if config.primary == Some((self.params.me, self.params.incarnation)) {
                    self.term.get_or_insert_with(Term::default);
                }
            }
        }
        self.reply(now, link, header, reply);
    }

    fn reply(&mut self, now: Now, link: LinkId, header: &Header, reply: Reply) {
        match reply {
            Reply::Now(message) => self.send_on(now, header.source, link, &message),
            Reply::Durable(message) => self.reply_durably(now, header.source, link, message),
            Reply::Silence => {}
        }
    }

    /// A primary whose lease is valid refuses foreign ballots: it is alive (law R5).
    fn guard(&self, now: Now, ballot: &Ballot) -> Option<Refusal> {
        let own = ballot.belongs_to(self.params.me, self.acceptor.instance());
        if own || mutant!(OwnVoteKeepsLease) {
            return None;
        }
        match self.lease(now) {
            Lease::None => None,
            Lease::Until(until) => {
                let ms = until.since_ns(now.boot).div_ceil(NS_PER_MS);
                Some(Refusal::Held(u32::try_from(ms).unwrap_or(u32::MAX)))
            }
            Lease::Unlimited => Some(Refusal::Held(self.timing().lease_ms)),
        }
    }

    /// The own acceptor promised or accepted a foreign ballot: the lease ends before the reply
    /// leaves (law R5, H3).
    fn foreign_ballot(&mut self, now: Now, ballot: Ballot) {
        let own = ballot.belongs_to(self.params.me, self.acceptor.instance());
        if own || mutant!(OwnVoteKeepsLease) {
            return;
        }
        self.outbid(ballot);
        self.foreign = self.foreign.max(Some(ballot));
        self.holder.void(now.boot);
        if let Some(term) = &mut self.term {
            term.owned = None;
            term.reaffirm = true;
        }
        self.show(now);
    }

    /// A config known chosen came in.
    fn learn(&mut self, now: Now, ballot: Ballot, config: &Config) {
        if config.group != self.params.group || self.acceptor.state().is_none() {
            return;
        }
        self.acceptor.learn(ballot, config);
        self.know(now, ballot, config);
    }

    /// Takes note of a chosen config; the office goes on only if the config still gives it.
    fn know(&mut self, now: Now, ballot: Ballot, config: &Config) {
        if self.known.as_ref().is_some_and(|known| known.0 >= ballot) {
            return;
        }
        let me = (self.params.me, self.params.incarnation);
        if self.term.is_some() {
            if config.primary == Some(me) {
                return; // an own proposal: its proposer will know when it may end doubt
            }
            self.demote(now, config.epoch, config.primary.map(|primary| primary.0));
        }
        self.known = Some((ballot, config.clone()));
        if self.refusal.take().is_some() {
            self.retry_at = now.boot; // what was refused under the config before may be right now
        }
        if config.primary != Some(me) {
            self.primary_heard = now.boot;
            self.stop_candidacy();
        }
    }

    /// A primary is heard: an own candidacy ends, unless its Accept has left.
    fn stop_candidacy(&mut self) {
        let stoppable = self.proposal.as_ref().is_some_and(|proposal| {
            proposal.purpose == Purpose::Promote
                && !matches!(proposal.stage, Stage::Committing { .. })
        });
        if stoppable {
            self.proposal = None;
            self.attempts = 0;
        }
    }

    fn on_heartbeat(&mut self, now: Now, link: LinkId, header: &Header, heartbeat: Heartbeat) {
        let from = header.source;
        for (instance, seq) in &heartbeat.seen {
            self.told(now, *instance, *seq);
        }
        if let Some(chosen) = heartbeat.chosen {
            self.witnessed(now, &chosen);
            let current = self
                .known
                .as_ref()
                .is_none_or(|known| chosen.ballot >= known.0);
            if heartbeat.primary && current {
                self.primary_heard = now.boot;
                self.stop_candidacy();
            }
        }
        let candidate = self.proposal.is_some() && self.term.is_none();
        let candidacy = if candidate {
            Candidacy::Yes
        } else {
            Candidacy::No
        };
        let verdict = self.acceptor.verdict(now, header, &heartbeat, candidacy);
        let ack = Ack {
            mark: self.acceptor.durable_mark(header),
            accepted: self.acceptor.summary(),
            verdict,
        };
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.instance = Some(heartbeat.instance);
            peer.report = Some(heartbeat);
        }
        self.send_on(now, from, link, &Message::Ack(ack));
    }

    /// Another box saw that position of a voter; if it is of this box's own record, the record
    /// was put back and has no vote (H13).
    fn told(&mut self, now: Now, instance: VoterInstance, seq: u64) {
        let own = self.acceptor.ledger.durable();
        if instance == own.instance {
            if seq > own.record_seq && !mutant!(TrustRollback) && self.acceptor.revoke() {
                self.event(Event::VoterRolledBack {
                    node: self.params.me,
                });
            }
            return;
        }
        if self.positions.told(now.boot, instance, seq) == Noted::Higher {
            self.remember();
        }
    }

    /// Somebody knows this config chosen.
    fn witnessed(&mut self, now: Now, chosen: &Summary) {
        let accepted = self.acceptor.durable().map(|state| state.accepted.clone());
        if let Some((ballot, config)) = accepted.filter(|accepted| accepted.0 == chosen.ballot) {
            self.know(now, ballot, &config);
        }
        self.superseded(now, chosen);
    }

    /// Law R8: a higher ballot than the own chosen one names another primary, and it is none of
    /// the own proposals.
    fn superseded(&mut self, now: Now, other: &Summary) {
        let (Some(term), Some((ballot, config))) = (&self.term, &self.known) else {
            return;
        };
        let own = term.doubts.iter().any(|doubt| doubt.0 == other.ballot);
        let me = Some((self.params.me, self.params.incarnation));
        let solo = config.in_sync.len() == 1 && mutant!(BlindSolo);
        if other.ballot > *ballot && other.primary != me && !own && !solo {
            self.demote(now, other.epoch, other.primary.map(|primary| primary.0));
        }
    }

    fn on_ack(&mut self, now: Now, link: LinkId, header: &Header, ack: &Ack) {
        let from = header.source;
        if let Some(peer) = self.peers.get_mut(&from) {
            let rtt_us = now.boot.since_ns(ack.mark.stamp) / 1000;
            peer.paths.round_trip(header.link, rtt_us);
        }
        let voter = self.vote(now, from, &ack.mark);
        if let Some(accepted) = &ack.accepted {
            self.outbid(accepted.ballot);
            self.superseded(now, accepted);
        }
        match ack.verdict {
            Verdict::Granted { lease_ms } => {
                let sent = if mutant!(LeaseFromAck) {
                    now.boot
                } else {
                    ack.mark.stamp
                };
                let timing = self.timing();
                if let Some(voter) = voter.filter(|_| self.term.is_some()) {
                    self.holder.granted(voter, sent, lease_ms, &timing);
                }
            }
            Verdict::Foreign { promised } => self.lost_promise(promised),
            Verdict::Behind => {
                if let Some((ballot, config)) = self.known.clone() {
                    let learn = Message::Learn {
                        ballot,
                        config: Box::new(config),
                    };
                    self.send_on(now, from, link, &learn);
                }
            }
            Verdict::Heard | Verdict::Refused | Verdict::NoVote => {}
        }
    }

    /// A voter promised another's ballot: only a higher own one, chosen, brings its lease back.
    fn lost_promise(&mut self, promised: Ballot) {
        self.outbid(promised);
        let me = self.params.me;
        let Some((ballot, config)) = &self.known else {
            return;
        };
        let needed = config.in_sync.len() > 1 && promised > *ballot;
        let mine = promised.belongs_to(me, self.acceptor.instance());
        let idle = self.proposal.is_none();
        if let Some(term) = self.term.as_mut().filter(|_| needed && idle && !mine) {
            term.owned = None;
            term.reaffirm = true;
        }
    }
}
