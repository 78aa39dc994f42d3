//! A simulated network: datagrams that may do anything, sessions that keep order or end.
//!
//! - Datagrams are lost, delayed (so they overtake each other), duplicated and damaged.
//! - A cut is per direction, pair and link; what was on its way when it began still arrives.
//! - A session is TCP as a program sees it: ordered, never damaged unless damage is switched on
//!   (a bad network card below the checksum), stalled by a cut and going on after it, ended at any
//!   byte by a break. The end of a process closes its sessions; the loss of power says nothing,
//!   and the next bytes that reach the rebooted machine are answered by a reset.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use bytes::Bytes;
use replication::wire::HEADER_LEN;

use crate::coverage::{Fate, Traffic};
use crate::rng::Rng;

/// A machine: two boxes and the witness.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host(pub u8);

/// The first box, formatted by `init`.
pub const SAN1: Host = Host(1);
/// The second box, blank at first.
pub const SAN2: Host = Host(2);
/// The witness.
pub const WITNESS: Host = Host(3);
/// Both boxes.
pub const BOXES: [Host; 2] = [SAN1, SAN2];

impl Host {
    /// The other box.
    pub fn peer(self) -> Self {
        if self == SAN1 { SAN2 } else { SAN1 }
    }

    /// Position in per-host arrays.
    pub fn index(self) -> usize {
        usize::from(self.0) - 1
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == WITNESS {
            f.write_str("witness")
        } else {
            write!(f, "san{}", self.0)
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A wire between two machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// Between the boxes: data session and heartbeats.
    Replication,
    /// Between the boxes: heartbeats.
    Service,
    /// Between a box and the witness.
    Witness,
}

/// How datagrams and bytes travel; times in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Shortest way.
    pub delay_min_ns: u64,
    /// Longest usual way.
    pub delay_max_ns: u64,
    /// Datagrams lost, per mille.
    pub loss: u64,
    /// Datagrams delivered twice, per mille.
    pub duplicate: u64,
    /// Datagrams and bytes that take up to `spike_ns`, per mille.
    pub spike: u64,
    /// How late a late one may be.
    pub spike_ns: u64,
    /// Datagrams and frames with a flipped bit, per mille.
    pub damage: u64,
}

/// What a session carries.
#[derive(Clone, Debug)]
pub enum Item {
    /// One frame of the data stream.
    Frame {
        /// The header as sent.
        header: [u8; HEADER_LEN],
        /// The payload as sent.
        payload: Bytes,
    },
    /// The other end is gone; nothing follows.
    End,
}

/// "Something may be ready": session and direction (0 = from the dialler).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The session.
    pub session: u64,
    /// 0 = from the dialler to the listener.
    pub direction: usize,
}

/// One process's end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    /// Where it runs.
    pub host: Host,
    /// Which start of that host's process it belongs to.
    pub start: u32,
}

#[derive(Debug)]
struct Lane {
    queue: VecDeque<Item>,
    last_ready: u64,
    /// Steps that found the wire cut.
    owed: u32,
    queued_bytes: u64,
}

#[derive(Debug)]
struct Session {
    parties: [Party; 2],
    open: [bool; 2],
    lanes: [Lane; 2],
}

/// The whole network.
#[derive(Debug)]
pub struct Net {
    /// The present conditions.
    pub weather: Weather,
    cuts: BTreeMap<(Host, Host, Link), u32>,
    /// When the last cut ended.
    healed_at: u64,
    sessions: BTreeMap<u64, Session>,
    next_session: u64,
    steps: Vec<(u64, Step)>,
    /// What became of all messages.
    pub traffic: Traffic,
    rng: Rng,
}

impl Net {
    /// A network without cuts or sessions.
    pub fn new(weather: Weather, rng: Rng) -> Self {
        Self {
            weather,
            cuts: BTreeMap::new(),
            healed_at: 0,
            sessions: BTreeMap::new(),
            next_session: 1,
            steps: Vec::new(),
            traffic: Traffic::default(),
            rng,
        }
    }

    /// The steps that became due since the last call, with their times.
    pub fn drain_steps(&mut self) -> Vec<(u64, Step)> {
        std::mem::take(&mut self.steps)
    }

    /// Ends or begins one more cut of a direction.
    pub fn cut(&mut self, from: Host, to: Host, link: Link) {
        *self.cuts.entry((from, to, link)).or_default() += 1;
    }

    /// Takes one cut away; sessions go on once no cut is left.
    pub fn heal(&mut self, now: u64, from: Host, to: Host, link: Link) {
        if let Some(count) = self.cuts.get_mut(&(from, to, link)) {
            *count -= 1;
            if *count == 0 {
                self.cuts.remove(&(from, to, link));
            }
        }
        self.resume(now);
    }

    /// Takes all cuts away.
    pub fn heal_all(&mut self, now: u64) {
        self.cuts.clear();
        self.resume(now);
    }

    /// Since when there has been no cut at all; the end of time while there is one.
    pub fn whole_since(&self) -> u64 {
        if self.cuts.is_empty() {
            self.healed_at
        } else {
            u64::MAX
        }
    }

    /// True if nothing sent this way arrives.
    pub fn is_cut(&self, from: Host, to: Host, link: Link) -> bool {
        self.cuts.contains_key(&(from, to, link))
    }

    /// The moments after now at which copies of a datagram arrive, and which of them are damaged.
    pub fn datagram(&mut self, from: Host, to: Host, link: Link) -> Vec<(u64, bool)> {
        if self.is_cut(from, to, link) || self.rng.chance(self.weather.loss) {
            return Vec::new();
        }
        let copies = 1 + usize::from(self.rng.chance(self.weather.duplicate));
        let damage = self.weather.damage;
        std::iter::repeat_with(|| (self.delay(), self.rng.chance(damage)))
            .take(copies)
            .collect()
    }

    /// A time on the wire.
    pub fn delay(&mut self) -> u64 {
        let weather = self.weather;
        if self.rng.chance(weather.spike) {
            self.rng.between(
                weather.delay_max_ns,
                weather.delay_max_ns + weather.spike_ns,
            )
        } else {
            self.rng.between(weather.delay_min_ns, weather.delay_max_ns)
        }
    }

    /// A new session between two processes, the dialler first, who hears of it at `connected_at`.
    pub fn open(&mut self, parties: [Party; 2], connected_at: u64) -> u64 {
        let id = self.next_session;
        self.next_session += 1;
        let last_ready = connected_at;
        let lane = || Lane {
            queue: VecDeque::new(),
            last_ready,
            owed: 0,
            queued_bytes: 0,
        };
        let session = Session {
            parties,
            open: [true; 2],
            lanes: [lane(), lane()],
        };
        self.sessions.insert(id, session);
        id
    }

    /// Sends a frame; nothing if the sender's end is closed.
    pub fn send(&mut self, now: u64, id: u64, from: Host, item: Item) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let direction = usize::from(session.parties[0].host != from);
        if session.open[direction] {
            self.push(now, id, direction, item);
        }
    }

    /// Bytes sent by `from` that have not been received.
    pub fn queued_bytes(&self, id: u64, from: Host) -> u64 {
        self.sessions.get(&id).map_or(0, |session| {
            session.lanes[usize::from(session.parties[0].host != from)].queued_bytes
        })
    }

    /// `from` closes its end; what it sent before still arrives.
    pub fn close(&mut self, now: u64, id: u64, from: Host) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let direction = usize::from(session.parties[0].host != from);
        if std::mem::replace(&mut session.open[direction], false) {
            self.push(now, id, direction, Item::End);
        }
    }

    /// Ends a session for both sides at random places of the two streams.
    pub fn break_all(&mut self, now: u64) -> usize {
        let open = |session: &&Session| session.open == [true; 2];
        let broken: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, s)| open(s))
            .map(|(id, _)| *id)
            .collect();
        for id in &broken {
            for direction in 0..2 {
                self.truncate(*id, direction);
                self.push(now, *id, direction, Item::End);
            }
        }
        broken.len()
    }

    /// Ends one side of each session: the other hears of it when it sends something.
    pub fn half_open(&mut self, now: u64) {
        let open = |session: &&Session| session.open == [true; 2];
        let sessions = self.sessions.iter().filter(|(_, s)| open(s));
        for id in sessions.map(|(id, _)| *id).collect::<Vec<u64>>() {
            let direction = usize::from(self.rng.chance(500));
            self.truncate(id, direction);
            self.push(now, id, direction, Item::End);
        }
    }

    /// A process is gone: killed (the kernel closes for it) or without power (silence).
    pub fn process_gone(&mut self, now: u64, party: Party, power: bool) {
        let ends: Vec<(u64, usize)> = (self.sessions.iter())
            .flat_map(|(id, session)| (0..2).map(move |end| (*id, end, session)))
            .filter(|(_, end, session)| session.parties[*end] == party && session.open[*end])
            .map(|(id, end, _)| (id, end))
            .collect();
        for (id, end) in ends {
            self.session(id).open[end] = false;
            if power || self.rng.chance(500) {
                self.truncate(id, end);
            }
            if !power {
                self.push(now, id, end, Item::End);
            }
        }
    }

    /// A step is due: the item that arrives and who receives it. `up` tells which machines have
    /// a running kernel.
    pub fn step(&mut self, now: u64, step: Step, up: [bool; 3]) -> Option<(Party, Item)> {
        let Step {
            session: id,
            direction,
        } = step;
        let (from, to) = {
            let session = self.sessions.get(&id)?;
            (session.parties[direction], session.parties[1 - direction])
        };
        let cut = self.is_cut(from.host, to.host, Link::Replication);
        let session = self.session(id);
        if cut {
            session.lanes[direction].owed += 1;
            return None;
        }
        let item = session.lanes[direction].queue.pop_front()?;
        if let Item::Frame { payload, .. } = &item {
            let len = HEADER_LEN as u64 + payload.len() as u64;
            session.lanes[direction].queued_bytes -= len;
        }
        if !session.open[1 - direction] {
            let answer = matches!(item, Item::Frame { .. }) && session.open[direction];
            lost(&mut self.traffic, [&item]);
            if answer && up[to.host.index()] {
                self.push(now, id, 1 - direction, Item::End);
            }
            return None;
        }
        match &item {
            Item::End => session.open[1 - direction] = false,
            Item::Frame { header, .. } => self.traffic.frame(header, Fate::Delivered),
        }
        let session = &self.sessions[&id];
        if session.open == [false; 2] {
            self.sessions.remove(&id);
        }
        Some((to, item))
    }

    fn push(&mut self, now: u64, id: u64, direction: usize, mut item: Item) {
        let delay = self.delay();
        let damage = self.weather.damage;
        if let Item::Frame { header, payload } = &mut item
            && self.rng.chance(damage)
        {
            flip_bit(header, payload, &mut self.rng);
        }
        let lane = &mut self.session(id).lanes[direction];
        if let Item::Frame { payload, .. } = &item {
            lane.queued_bytes += HEADER_LEN as u64 + payload.len() as u64;
        }
        lane.queue.push_back(item);
        lane.last_ready = lane.last_ready.max(now + delay);
        let at = lane.last_ready;
        self.steps.push((
            at,
            Step {
                session: id,
                direction,
            },
        ));
    }

    /// Drops the tail of a stream from a random place on. The steps of the dropped items find an
    /// empty queue, or deliver what is pushed behind them no earlier than it was sent.
    fn truncate(&mut self, id: u64, direction: usize) {
        let len = self.session(id).lanes[direction].queue.len() as u64;
        let keep = usize::try_from(self.rng.below(len + 1)).expect("a queue length");
        let Self {
            sessions, traffic, ..
        } = self;
        let session = sessions.get_mut(&id).expect("it was just looked up");
        let lane = &mut session.lanes[direction];
        lost(traffic, lane.queue.range(keep..));
        lane.queue.truncate(keep);
        let len_bytes = |item: &Item| match item {
            Item::Frame { payload, .. } => HEADER_LEN as u64 + payload.len() as u64,
            Item::End => 0,
        };
        lane.queued_bytes = lane.queue.iter().map(len_bytes).sum();
    }

    /// After a heal the streams go on with a retransmission.
    fn resume(&mut self, now: u64) {
        self.healed_at = now;
        let Self {
            sessions,
            cuts,
            steps,
            rng,
            ..
        } = self;
        for (id, session) in sessions {
            for direction in 0..2 {
                let from = session.parties[direction].host;
                let to = session.parties[1 - direction].host;
                if cuts.contains_key(&(from, to, Link::Replication)) {
                    continue;
                }
                let owed = std::mem::take(&mut session.lanes[direction].owed);
                let at = now + rng.between(1_000_000, 200_000_000);
                let step = Step {
                    session: *id,
                    direction,
                };
                steps.extend((0..owed).map(|_| (at, step)));
            }
        }
    }

    fn session(&mut self, id: u64) -> &mut Session {
        self.sessions
            .get_mut(&id)
            .expect("a session that was just looked up")
    }
}

/// Counts what nobody will receive.
fn lost<'a>(traffic: &mut Traffic, items: impl IntoIterator<Item = &'a Item>) {
    for item in items {
        if let Item::Frame { header, .. } = item {
            traffic.frame(header, Fate::Lost);
        }
    }
}

/// One bit somewhere in a frame.
fn flip_bit(header: &mut [u8; HEADER_LEN], payload: &mut Bytes, rng: &mut Rng) {
    let at = rng.below(HEADER_LEN as u64 + payload.len() as u64);
    let at = usize::try_from(at).expect("a frame length");
    let bit = 1 << rng.below(8);
    if at < HEADER_LEN {
        header[at] ^= bit;
    } else {
        let mut copy = payload.to_vec();
        copy[at - HEADER_LEN] ^= bit;
        *payload = Bytes::from(copy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net() -> Net {
        let weather = Weather {
            delay_min_ns: 10,
            delay_max_ns: 1000,
            loss: 0,
            duplicate: 0,
            spike: 200,
            spike_ns: 5000,
            damage: 0,
        };
        Net::new(weather, Rng::new(1))
    }

    fn parties() -> [Party; 2] {
        [SAN1, SAN2].map(|host| Party { host, start: 1 })
    }

    fn frame(tag: u8) -> Item {
        Item::Frame {
            header: [tag; HEADER_LEN],
            payload: Bytes::new(),
        }
    }

    fn run(net: &mut Net) -> Vec<Option<u8>> {
        let mut due = net.drain_steps();
        due.sort_by_key(|(at, _)| *at);
        let mut seen = Vec::new();
        for (at, step) in due {
            match net.step(at, step, [true; 3]) {
                Some((_, Item::Frame { header, .. })) => seen.push(Some(header[0])),
                Some((_, Item::End)) => seen.push(None),
                None => {}
            }
        }
        seen
    }

    #[test]
    fn sessions_keep_order_through_a_cut() {
        let mut net = net();
        let id = net.open(parties(), 0);
        for tag in 0..5 {
            net.send(0, id, SAN1, frame(tag));
        }
        net.cut(SAN1, SAN2, Link::Replication);
        assert_eq!(run(&mut net), []);
        net.send(9000, id, SAN1, frame(5));
        net.close(9000, id, SAN1);
        net.heal(10_000, SAN1, SAN2, Link::Replication);
        let all: Vec<Option<u8>> = (0..6).map(Some).chain([None]).collect();
        assert_eq!(run(&mut net), all);
    }

    #[test]
    fn a_rebooted_machine_resets_what_it_does_not_know() {
        let mut net = net();
        let id = net.open(parties(), 0);
        net.process_gone(
            0,
            Party {
                host: SAN2,
                start: 1,
            },
            true,
        );
        assert_eq!(run(&mut net), [], "no power, no word");
        net.send(1, id, SAN1, frame(1));
        assert_eq!(run(&mut net), []);
        assert_eq!(run(&mut net), [None], "the reset");
    }
}
