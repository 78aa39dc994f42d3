//! What happened, counted always, in words only on request, and as a digest that two runs of one
//! seed must share.

use std::collections::{BTreeMap, VecDeque};

use super::Event;
use super::ladder::{self, Lane};
use crate::coverage::Fate;

/// How often each thing was seen, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(pub BTreeMap<String, u64>);

impl Counts {
    /// Once more.
    pub fn add(&mut self, name: &str) {
        match self.0.get_mut(name) {
            Some(count) => *count += 1,
            None => {
                self.0.insert(name.to_owned(), 1);
            }
        }
    }

    /// So many times more; a name that was seen zero times is not kept.
    pub fn add_many(&mut self, name: &str, count: u64) {
        if count > 0 {
            *self.0.entry(name.to_owned()).or_default() += count;
        }
    }

    /// Adds another history's counts.
    pub fn merge(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            *self.0.entry(name.clone()).or_default() += count;
        }
    }

    /// How often.
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

/// Lines of a ladder, with the virtual time in front.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    limit: usize,
    lines: VecDeque<String>,
    digest: u64,
    events: u64,
}

impl Trace {
    /// Only the digest.
    pub fn silent() -> Self {
        Self::default()
    }

    /// Keeps the last `limit` lines.
    pub fn keeping(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Adds a line, if anybody reads it.
    pub fn note(&mut self, now: u64, line: impl FnOnce() -> String) {
        if self.limit > 0 {
            let line = line();
            self.keep(now, &ladder::rung(&line), &line);
        }
    }

    /// Adds a message between two machines, if anybody reads it.
    pub fn message(
        &mut self,
        now: u64,
        (from, to): (Lane, Lane),
        fate: Fate,
        line: impl FnOnce() -> String,
    ) {
        if self.limit > 0 {
            self.keep(now, &ladder::arrow(from, to, fate), &line());
        }
    }

    fn keep(&mut self, now: u64, lanes: &str, line: &str) {
        if self.lines.len() == self.limit {
            self.lines.pop_front();
        }
        let (s, us) = (now / 1_000_000_000, now / 1000 % 1_000_000);
        let number = format!("#{}", self.events);
        self.lines
            .push_back(format!("{s:4}.{us:06} {number:>7}  {lanes}{line}"));
    }

    /// The lines kept.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// A number that stands for everything that happened so far.
    pub fn fingerprint(&self) -> u64 {
        self.digest
    }

    pub(super) fn digest(&mut self, at: u64, event: &Event) {
        self.events += 1;
        let kind = match event {
            Event::Timer(host, start, core) => {
                [1, u64::from(host.0), u64::from(*start), *core as u64]
            }
            Event::Datagram {
                from, to, bytes, ..
            } => {
                let sum = u64::from(crc32c::crc32c(bytes));
                [2, u64::from(from.0), u64::from(to.0), sum]
            }
            Event::Session(step) => [3, step.session, step.direction as u64, 0],
            Event::Disk(host, volume, ticket, _) => {
                [4, u64::from(host.0), u64::from(*volume), ticket.0]
            }
            Event::Deliver(host, start, _) => [5, u64::from(host.0), u64::from(*start), 0],
            Event::Stored(host, start) => [6, u64::from(host.0), u64::from(*start), 0],
            Event::Dial(host, start) => [7, u64::from(host.0), u64::from(*start), 0],
            Event::Boot(host) => [8, u64::from(host.0), 0, 0],
            Event::Resume(host, start) => [9, u64::from(host.0), u64::from(*start), 0],
            Event::Think(client) => [10, *client as u64, 0, 0],
            Event::Fault => [11, 0, 0, 0],
            Event::Undo(_) => [12, 0, 0, 0],
            Event::Doom(host, _) => [13, host.0.into(), 0, 0],
        };
        for word in [at].into_iter().chain(kind) {
            self.digest = (self.digest ^ word)
                .wrapping_mul(0x0000_0100_0000_01b3)
                .rotate_left(23);
        }
    }
}
