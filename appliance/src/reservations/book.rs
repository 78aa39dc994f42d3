//! The ledger as a value: which records there are, which are to come, and who waits for them.
//!
//! ```text
//!            keep                next_write             stored
//!   quiet ─────────▶ queued ────────────────▶ writing ─────────▶ quiet, or queued again
//!                      ▲                         │ failed
//!                      └──────── rested ─────── resting
//! ```
//!
//! What waits while a record is written is written as one: the last state stands for all.
//!
//! Invariants: a place is free, holds the newest record of a volume or is being written, one of
//! these; a volume has at most one write under way; a record that was acknowledged is not written
//! over before a later one of its volume is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::VolumeKey;
use super::record::{PLACE_BYTES, PLACES, parse, record};

/// Which records there are, which are to come and who waits for them; `A` is who waits.
pub(super) struct Book<A> {
    pages: BTreeMap<VolumeKey, Page<A>>,
    pub(super) free: BTreeSet<usize>,
    /// Volumes with something to write and no write under way, in order.
    queue: VecDeque<VolumeKey>,
    /// Of the last record.
    sequence: u64,
}

/// One volume.
struct Page<A> {
    /// The record that counts.
    kept: Option<Kept>,
    /// What is to be written next; at the most as many wait as commands are under way.
    waiting: Vec<A>,
    next: Option<Bytes>,
    write: Phase<A>,
    /// The volume is deleted; the page goes when its write has ended.
    is_gone: bool,
    /// The last write failed, and that was told.
    is_troubled: bool,
}

pub(super) struct Kept {
    pub(super) place: usize,
    pub(super) sequence: u64,
    pub(super) state: Bytes,
}

enum Phase<A> {
    Quiet,
    Writing {
        kept: Kept,
        asks: Vec<A>,
    },
    /// After a failure.
    Resting,
}

/// Whether a failure is one more of the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    New,
    Known,
}

/// A record on its way.
pub(super) struct Write {
    pub(super) volume: VolumeKey,
    pub(super) place: usize,
    pub(super) record: Bytes,
}

impl<A> Default for Book<A> {
    fn default() -> Self {
        Self::of(BTreeSet::new())
    }
}

impl<A> Book<A> {
    /// Of volumes without records.
    pub(super) fn of(volumes: BTreeSet<VolumeKey>) -> Self {
        let page = |volume| (volume, Page::default());
        Self {
            pages: volumes.into_iter().map(page).collect(),
            free: (0..PLACES).collect(),
            queue: VecDeque::new(),
            sequence: 0,
        }
    }

    /// Takes the records from places in a row. What is torn or belongs to a volume that is not
    /// there is nothing; of one volume the last counts.
    pub(super) fn read(&mut self, first: usize, places: &[u8]) {
        for (place, bytes) in (first..).zip(places.chunks_exact(PLACE_BYTES)) {
            let Some((volume, sequence, state)) = parse(bytes) else {
                continue;
            };
            self.sequence = self.sequence.max(sequence);
            let Some(page) = self.pages.get_mut(&volume) else {
                continue;
            };
            let earlier = page.kept.as_ref();
            if earlier.is_none_or(|kept| kept.sequence < sequence) {
                self.free.remove(&place);
                let kept = Kept {
                    place,
                    sequence,
                    state,
                };
                let earlier = page.kept.replace(kept);
                self.free.extend(earlier.map(|kept| kept.place));
            }
        }
    }

    pub(super) fn have(&mut self, volumes: &BTreeSet<VolumeKey>) {
        for volume in volumes {
            self.pages.entry(*volume).or_default();
        }
        let gone: Vec<VolumeKey> = self.pages.keys().copied().collect();
        for volume in gone.into_iter().filter(|it| !volumes.contains(it)) {
            self.queue.retain(|queued| *queued != volume);
            let page = self.pages.get_mut(&volume).expect("just listed");
            self.free.extend(page.kept.take().map(|kept| kept.place));
            page.next = None;
            page.waiting.clear();
            match page.write {
                // Its place is free when the write has ended.
                Phase::Writing { .. } => page.is_gone = true,
                Phase::Quiet | Phase::Resting => drop(self.pages.remove(&volume)),
            }
        }
        self.check();
    }

    pub(super) fn newest(&self, volume: VolumeKey) -> Option<Bytes> {
        let page = self.pages.get(&volume)?;
        let written = match &page.write {
            Phase::Writing { kept, .. } => Some(&kept.state),
            Phase::Quiet | Phase::Resting => None,
        };
        let kept = page.kept.as_ref().map(|kept| &kept.state);
        page.next.as_ref().or(written).or(kept).cloned()
    }

    /// Forgets who waits for the next state of a volume and is gone: they could come and go without
    /// end while nothing can be stored.
    pub(super) fn dismiss(&mut self, volume: VolumeKey, is_gone: impl Fn(&A) -> bool) {
        if let Some(page) = self.pages.get_mut(&volume) {
            page.waiting.retain(|ask| !is_gone(ask));
        }
    }

    /// `ask` waits for `state` to be stored, or drops with a volume that is not there.
    pub(super) fn keep(&mut self, volume: VolumeKey, state: Bytes, ask: A) {
        let Some(page) = self.pages.get_mut(&volume).filter(|page| !page.is_gone) else {
            return;
        };
        page.waiting.push(ask);
        let first = page.next.replace(state).is_none();
        if first && matches!(page.write, Phase::Quiet) {
            self.queue.push_back(volume);
        }
        self.check();
    }

    /// The next write, if there is something to write and a place for it.
    pub(super) fn next_write(&mut self) -> Option<Write> {
        let volume = *self.queue.front()?;
        let place = self.free.pop_first()?;
        self.queue.pop_front();
        let page = self.pages.get_mut(&volume).expect("the queue has pages");
        let state = page.next.take().expect("what is queued has a state");
        self.sequence += 1;
        let kept = Kept {
            place,
            sequence: self.sequence,
            state,
        };
        let record = record(volume, &kept);
        let asks = std::mem::take(&mut page.waiting);
        page.write = Phase::Writing { kept, asks };
        self.check();
        Some(Write {
            volume,
            place,
            record,
        })
    }

    /// The write of `volume` is durable on every in-sync box: returns who waited for it, in order.
    pub(super) fn stored(&mut self, volume: VolumeKey) -> Vec<A> {
        let Some((kept, asks)) = self.end_write(volume) else {
            return Vec::new();
        };
        if let Some(page) = self.pages.get_mut(&volume) {
            let earlier = page.kept.replace(kept);
            page.is_troubled = false;
            self.free.extend(earlier.map(|kept| kept.place));
            if page.next.is_some() {
                self.queue.push_back(volume);
            }
        } else {
            self.free.insert(kept.place);
        }
        self.check();
        asks
    }

    /// The write of `volume` failed; it rests before it is written again, with all that comes
    /// meanwhile.
    pub(super) fn failed(&mut self, volume: VolumeKey) -> Trouble {
        let Some((kept, mut asks)) = self.end_write(volume) else {
            return Trouble::Known;
        };
        // What the write has left there is an unanswered state, until it is written over.
        self.free.insert(kept.place);
        let Some(page) = self.pages.get_mut(&volume) else {
            return Trouble::Known;
        };
        asks.append(&mut page.waiting);
        page.waiting = asks;
        page.next.get_or_insert(kept.state);
        page.write = Phase::Resting;
        let known = std::mem::replace(&mut page.is_troubled, true);
        self.check();
        if known { Trouble::Known } else { Trouble::New }
    }

    /// Whether the last write of a volume that is there failed.
    pub(super) fn is_troubled(&self, volume: VolumeKey) -> bool {
        let page = self.pages.get(&volume);
        page.is_some_and(|page| page.is_troubled && !page.is_gone)
    }

    pub(super) fn rested(&mut self, volume: VolumeKey) {
        if let Some(page) = self.pages.get_mut(&volume)
            && matches!(page.write, Phase::Resting)
        {
            page.write = Phase::Quiet;
            self.queue.push_back(volume);
        }
    }

    fn end_write(&mut self, volume: VolumeKey) -> Option<(Kept, Vec<A>)> {
        let page = self.pages.get_mut(&volume)?;
        let Phase::Writing { kept, asks } = std::mem::replace(&mut page.write, Phase::Quiet) else {
            unreachable!("a volume has one write under way, which ends once")
        };
        if page.is_gone {
            self.pages.remove(&volume);
        }
        Some((kept, asks))
    }

    pub(super) fn check(&self) {
        let used = |page: &Page<A>| {
            let writes = matches!(page.write, Phase::Writing { .. });
            usize::from(page.kept.is_some()) + usize::from(writes)
        };
        let used: usize = self.pages.values().map(used).sum();
        assert_eq!(self.free.len() + used, PLACES, "every place has one use");
        assert!(self.queue.len() <= self.pages.len(), "a volume queues once");
    }
}

impl<A> Default for Page<A> {
    fn default() -> Self {
        Self {
            kept: None,
            waiting: Vec::new(),
            next: None,
            write: Phase::Quiet,
            is_gone: false,
            is_troubled: false,
        }
    }
}
