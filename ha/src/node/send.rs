//! What leaves a box: heartbeats, replies, and what waited for the record to be durable.

use super::{Authority, EDGES, Event, Lease, Node, Output, Role};
use crate::mutants::{self, mutant};
use crate::types::{Ballot, Epoch, Incarnation, LinkId, NodeId, Now, Time};
use crate::wire::{self, Header, Heartbeat, Message, Summary};

/// What waits until a change of the record is durable.
#[derive(Debug)]
pub(super) enum Deferred {
    /// A reply.
    Reply {
        to: NodeId,
        link: LinkId,
        message: Message,
    },
    /// The own acceptor's promise, and the Prepare to the others (law R0).
    Prepare(Ballot),
    /// The own acceptor's vote.
    OwnVote(Ballot),
    /// The Accept to the others: its `next` ballot may leave now.
    Accept(Ballot),
    /// The seal is durable: the engine may be asked (law R3).
    Seal(Epoch),
}

impl Node {
    pub(super) fn undefer(&mut self, now: Now, deferred: Deferred) {
        match deferred {
            Deferred::Reply { to, link, message } => self.send_on(now, to, link, &message),
            Deferred::Prepare(ballot) => self.own_promise(now, ballot),
            Deferred::OwnVote(ballot) => self.own_vote(now, ballot),
            Deferred::Accept(ballot) => self.resend(now, ballot),
            Deferred::Seal(epoch) => self.outputs.push_back(Output::Seal { epoch }),
        }
    }

    /// Sends a reply once everything changed so far is durable.
    pub(super) fn reply_durably(&mut self, now: Now, to: NodeId, link: LinkId, message: Message) {
        if mutant!(ReplyBeforePersist) {
            return self.send_on(now, to, link, &message);
        }
        self.acceptor
            .ledger
            .after(Deferred::Reply { to, link, message });
    }

    /// Sends on one link.
    pub(super) fn send_on(&mut self, now: Now, to: NodeId, link: LinkId, message: &Message) {
        let Some(peer) = self.peers.get(&to) else {
            return;
        };
        let (incarnation, echo) = peer.paths.address();
        self.put_out(now, (to, link), (incarnation, echo), message);
    }

    /// Sends on every link to `to`.
    pub(super) fn send(&mut self, now: Now, to: NodeId, message: &Message) {
        let Some(peer) = self.peers.get(&to) else {
            return;
        };
        for link in peer.links.clone() {
            self.send_on(now, to, link, message);
        }
    }

    /// Answers a datagram that was not live: here is my incarnation.
    pub(super) fn greet(&mut self, now: Now, link: LinkId, header: &Header) {
        let address = (header.incarnation, header.stamp);
        self.put_out(now, (header.source, link), address, &Message::Hello);
    }

    fn put_out(
        &mut self,
        now: Now,
        to: (NodeId, LinkId),
        address: (Incarnation, Time),
        message: &Message,
    ) {
        let (to, link) = to;
        let Some(peer) = self.peers.get_mut(&to) else {
            return;
        };
        let header = Header {
            group: self.params.group,
            source: self.params.me,
            destination: to,
            link,
            incarnation: self.params.incarnation,
            boot: self.params.boot,
            destination_incarnation: address.0,
            seq: peer.paths.next_seq(link),
            stamp: now.boot,
            echo: address.1,
        };
        let bytes = wire::encode(&self.params.key, &header, message);
        self.outputs.push_back(Output::Send { to, link, bytes });
    }

    /// One heartbeat to everybody on every link, and the time of the next.
    pub(super) fn heartbeat(&mut self, now: Now) {
        let interval = u64::from(self.timing().heartbeat_interval_ms);
        self.heartbeat_at = now.boot.after_ms(interval);
        let message = Message::Heartbeat(self.report());
        for to in [self.params.peer, self.params.witness] {
            self.send(now, to, &message);
        }
    }

    fn report(&self) -> Heartbeat {
        let record = self.acceptor.ledger.durable();
        let asks = self.term.as_ref().is_some_and(|term| !term.stopped()) && !self.detaches();
        Heartbeat {
            instance: record.instance,
            record_seq: record.record_seq,
            blank: self.acceptor.durable().is_none(),
            primary: self.term.is_some(),
            attached: self.attached(),
            disk: self.data.as_ref().and_then(|data| data.disk),
            seal: self
                .acceptor
                .durable()
                .map_or(Epoch::ZERO, |state| state.seal),
            chosen: self
                .known
                .as_ref()
                .map(|(ballot, config)| Summary::of(*ballot, config)),
            lease_ms: if asks { self.timing().lease_ms } else { 0 },
            software: self.params.software,
            config_generation: self.local.0,
            config_hash: self.local.1,
            seen: self.positions.list(),
        }
    }

    /// Puts out what changed: lease before authority when both go, so that nothing leaves under a
    /// right that is gone.
    pub(super) fn show(&mut self, now: Now) {
        let lease = self.lease(now);
        if lease == Lease::None {
            self.show_lease(lease);
        }
        let authority = self.authority();
        if self.shown.authority != Some(authority) {
            self.shown.authority = Some(authority);
            if let Authority::Primary { epoch, .. } = authority {
                self.held_epoch = self.held_epoch.max(epoch);
            }
            self.outputs.push_back(Output::Authority(authority));
        }
        self.show_lease(lease);
        let role = self.role(now);
        if role != self.shown.role {
            let from = core::mem::replace(&mut self.shown.role, role);
            assert!(
                EDGES.contains(&(from, role)) || mutants::any_is_active(),
                "R2: no box goes from {from} to {role}"
            );
            self.event(Event::RoleChanged { from, to: role });
        }
        assert!(
            self.shown.role != Role::Frozen || self.term.is_some(),
            "only a primary freezes"
        );
    }

    fn show_lease(&mut self, lease: Lease) {
        if self.shown.lease != lease {
            self.shown.lease = lease;
            self.outputs.push_back(Output::Lease(lease));
        }
    }
}
