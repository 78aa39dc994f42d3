//! Liveness of the paths to one remote: which of its processes is alive, and what is a recording.
//!
//! A datagram is *live* if it echoes this process's incarnation: it was made by somebody who
//! heard this process. Anything else is a first contact, answered by a `Hello` and otherwise
//! without effect. Of two processes of one remote the later one is known by the echo of our own
//! clock: a process can only echo stamps that we sent while it lived, so a process whose echo is
//! later than every echo of the other was alive later (law R0).

use std::collections::BTreeMap;

use crate::mutants::mutant;
use crate::types::{BootId, Incarnation, LinkId, NodeId, Time};
use crate::wire::Header;

/// What an arriving datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// From the remote's present process, for the first time.
    Live,
    /// Live, and its process is another one than before.
    Restarted,
    /// Not live: answer with a `Hello`.
    Contact,
    /// A recording, a repetition or an older process: drop it.
    Stale,
}

/// The paths to one remote.
#[derive(Clone, Debug)]
pub struct Remote {
    node: NodeId,
    process: Option<(Incarnation, BootId)>,
    best_echo: Time,
    latest_stamp: Time,
    links: BTreeMap<LinkId, Link>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    sent: u64,
    highest: u64,
    window: u64,
    last_seen: Option<Time>,
    rtt_us: Option<u64>,
}

/// Sequence numbers further back than this are too old to tell from repetitions.
const WINDOW: u64 = 64;

impl Remote {
    /// Paths to `node` over which nothing was heard yet.
    #[must_use]
    pub fn new(node: NodeId, links: &[LinkId]) -> Self {
        Self {
            node,
            process: None,
            best_echo: Time(0),
            latest_stamp: Time(0),
            links: links.iter().map(|link| (*link, Link::default())).collect(),
        }
    }

    /// Judges an authenticated datagram that came in at `now` on the boot clock.
    pub fn arrive(&mut self, now: Time, me: Incarnation, header: &Header) -> Arrival {
        assert_eq!(header.source, self.node, "dispatched by source");
        if header.destination_incarnation != me {
            return Arrival::Contact;
        }
        let process = (header.incarnation, header.boot);
        let known = self.process;
        if known != Some(process) {
            if known.is_some() && header.echo <= self.best_echo {
                return Arrival::Stale;
            }
            self.process = Some(process);
            self.latest_stamp = Time(0);
            for link in self.links.values_mut() {
                (link.highest, link.window) = (0, 0);
            }
        }
        let link = self.links.entry(header.link).or_default();
        if !link.fresh(header.seq) && !mutant!(NoReplayWindow) {
            return Arrival::Stale;
        }
        link.last_seen = Some(now);
        self.best_echo = self.best_echo.max(header.echo);
        self.latest_stamp = self.latest_stamp.max(header.stamp);
        match known {
            Some(known) if known != process => Arrival::Restarted,
            Some(_) | None => Arrival::Live,
        }
    }

    /// The incarnation to address and the stamp to echo.
    #[must_use]
    pub fn address(&self) -> (Incarnation, Time) {
        (
            self.process.map_or(Incarnation(0), |process| process.0),
            self.latest_stamp,
        )
    }

    /// The latest stamp of this process that the remote echoed: it was alive then.
    #[must_use]
    pub const fn alive_at(&self) -> Time {
        self.best_echo
    }

    /// The remote's present process, if it was heard.
    #[must_use]
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.process.map(|process| process.0)
    }

    /// The next sequence number on `link`.
    pub fn next_seq(&mut self, link: LinkId) -> u64 {
        let link = self.links.entry(link).or_default();
        link.sent += 1;
        link.sent
    }

    /// Notes a round trip on `link`.
    pub fn round_trip(&mut self, link: LinkId, rtt_us: u64) {
        self.links.entry(link).or_default().rtt_us = Some(rtt_us);
    }

    /// When the last live datagram came in, on any link.
    #[must_use]
    pub fn last_seen(&self) -> Option<Time> {
        self.links.values().filter_map(|link| link.last_seen).max()
    }

    /// Each link: when it was last live, and its round trip in microseconds.
    pub fn links(&self) -> impl Iterator<Item = (LinkId, Option<Time>, Option<u64>)> {
        self.links
            .iter()
            .map(|(id, link)| (*id, link.last_seen, link.rtt_us))
    }
}

impl Link {
    /// Whether `seq` is seen for the first time; remembers it.
    fn fresh(&mut self, seq: u64) -> bool {
        if seq > self.highest {
            let shift = seq - self.highest;
            self.window = if shift >= WINDOW {
                0
            } else {
                self.window << shift
            };
            self.window |= 1;
            self.highest = seq;
            return true;
        }
        let age = self.highest - seq;
        if age >= WINDOW || self.window & (1 << age) != 0 {
            return false;
        }
        self.window |= 1 << age;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::GroupId;

    const ME: Incarnation = Incarnation(100);

    fn header(process: u128, seq: u64, echo: u64) -> Header {
        Header {
            group: GroupId(1),
            source: NodeId(2),
            destination: NodeId(1),
            link: LinkId(0),
            incarnation: Incarnation(process),
            boot: BootId(process),
            destination_incarnation: ME,
            seq,
            stamp: Time(seq),
            echo: Time(echo),
        }
    }

    #[test]
    fn repetitions_and_the_too_old_are_stale() {
        let mut remote = Remote::new(NodeId(2), &[LinkId(0)]);
        assert_eq!(
            remote.arrive(Time(1), ME, &header(7, 100, 1)),
            Arrival::Live
        );
        assert_eq!(
            remote.arrive(Time(1), ME, &header(7, 100, 1)),
            Arrival::Stale
        );
        assert_eq!(remote.arrive(Time(1), ME, &header(7, 37, 1)), Arrival::Live);
        assert_eq!(
            remote.arrive(Time(1), ME, &header(7, 37, 1)),
            Arrival::Stale
        );
        assert_eq!(
            remote.arrive(Time(1), ME, &header(7, 36, 1)),
            Arrival::Stale
        );
    }

    #[test]
    fn a_datagram_for_another_process_of_mine_is_a_contact() {
        let mut remote = Remote::new(NodeId(2), &[LinkId(0)]);
        let mut other = header(7, 1, 1);
        other.destination_incarnation = Incarnation(99);
        assert_eq!(remote.arrive(Time(1), ME, &other), Arrival::Contact);
        assert_eq!(remote.incarnation(), None);
    }

    #[test]
    fn a_late_datagram_of_the_dead_process_does_not_bring_it_back() {
        let mut remote = Remote::new(NodeId(2), &[LinkId(0)]);
        assert_eq!(
            remote.arrive(Time(10), ME, &header(7, 1, 10)),
            Arrival::Live
        );
        assert_eq!(
            remote.arrive(Time(20), ME, &header(8, 1, 20)),
            Arrival::Restarted
        );
        assert_eq!(
            remote.arrive(Time(30), ME, &header(7, 2, 15)),
            Arrival::Stale
        );
        assert_eq!(remote.incarnation(), Some(Incarnation(8)));
        assert_eq!(
            remote.arrive(Time(30), ME, &header(8, 2, 25)),
            Arrival::Live
        );
    }

    #[test]
    fn a_late_datagram_heard_first_does_not_shut_the_living_out() {
        let mut remote = Remote::new(NodeId(2), &[LinkId(0)]);
        assert_eq!(
            remote.arrive(Time(30), ME, &header(7, 2, 15)),
            Arrival::Live
        );
        assert_eq!(
            remote.arrive(Time(31), ME, &header(8, 1, 20)),
            Arrival::Restarted
        );
        assert_eq!(
            remote.arrive(Time(32), ME, &header(7, 3, 16)),
            Arrival::Stale
        );
    }
}
