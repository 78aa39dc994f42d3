//! One attached volume: its masks, its locks, and what is stable of it.
//!
//! Writes of a volume are numbered in the order in which they are started. Invariants:
//! - `active` holds the numbers whose local write is not done;
//! - `unstable` holds each block that was mirrored and is not known stable on the peer, with the
//!   newest number that touched it;
//! - a region with a write between its start and its end on all members is in `hot`, and its
//!   intent is durable (law D2).

use super::counters::Counters;
use super::digest::Coarse;
use super::inflight::Locks;
use super::scrub::Walk;
use crate::meta::dirty::DirtyMap;
use crate::meta::intent::Table;
use crate::meta::{self, DIRTY_BLOCK_BYTES, Layout, REGION_BYTES};
use crate::types::{VolumeSpec, Zeroed};
use crate::wire::mask::Run;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;

#[derive(Debug)]
pub(super) struct Volume {
    pub(super) spec: VolumeSpec,
    pub(super) layout: Layout,
    /// Bytes of the backing.
    pub(super) backing_bytes: u64,
    /// Sequence number of its superblocks.
    pub(super) stamps: u64,
    /// The data area reads zero: proven, and nothing written since.
    pub(super) zeroed: Zeroed,
    pub(super) dirty: DirtyMap,
    /// Where the dirty map says more than is known to differ.
    pub(super) coarse: Coarse,
    pub(super) locks: Locks,
    /// Number of the newest write.
    pub(super) last_write: u64,
    pub(super) active: BTreeSet<u64>,
    pub(super) unstable: BTreeMap<u32, u64>,
    /// The newest write that was mirrored, is not known stable and was not kept; 0 is none.
    pub(super) unkept: u64,
    pub(super) intents: Intents,
    pub(super) local_flush: Rounds,
    pub(super) peer_flush: Rounds,
    /// What the peer's running flush covers.
    pub(super) peer_cutoff: u64,
    pub(super) settle: Settle,
    /// Pages of the dirty map are to be written.
    pub(super) pages_wanted: bool,
    /// A deletion waits for the commands that are under way.
    pub(super) closing: bool,
    /// Regions were hot when it was attached (law D5).
    pub(super) was_hot: bool,
    pub(super) counters: Counters,
    pub(super) scrub: Walk,
    /// It was formatted to be made equal to the primary's, and is not in the table yet.
    pub(super) joined: bool,
}

/// The intent ring and the regions it is about: those in `hot` and no others are in the table.
#[derive(Debug)]
pub(super) struct Intents {
    pub(super) hot: BTreeMap<u32, Heat>,
    pub(super) table: Table,
    /// A write of the ring is in flight; it makes these hot.
    pub(super) writing: Option<Vec<(u16, u32)>>,
    /// Somebody waits for a region, and no more fit.
    pub(super) short: bool,
    /// What was written last when the intents were settled before.
    pub(super) settled: u64,
    /// A slot of the ring is damaged: write all of it once the dirty map is durable.
    pub(super) repair: bool,
    /// Pieces that wait for a region, in order, and whether they were given theirs.
    pub(super) waiting: VecDeque<(u64, bool)>,
}

/// A hot region.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heat {
    /// Newest write in it.
    pub(super) last: u64,
    /// Pieces that wait or are under way.
    pub(super) users: u32,
    pub(super) durable: bool,
}

/// Flushes one after the other; whoever asks gets the number of a round that begins later.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    pub(super) done: u64,
    pub(super) running: bool,
    pub(super) wanted: u64,
}

impl Rounds {
    /// Asks for a flush of everything done until now.
    pub(super) fn ask(&mut self) -> u64 {
        let ticket = self.done + 1 + u64::from(self.running);
        self.wanted = self.wanted.max(ticket);
        ticket
    }

    pub(super) const fn is_due(&self) -> bool {
        !self.running && self.wanted > self.done
    }

    pub(super) fn finish(&mut self) {
        assert!(self.running, "no round was running");
        self.running = false;
        self.done += 1;
    }

    /// The running round will never be answered; nobody is satisfied by it.
    pub(super) const fn abort(&mut self) {
        self.running = false;
        self.wanted = self.done;
    }
}

/// Making intents cold: flush, then the dirty map, then a record without them (law D2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settle {
    /// Nothing to do before that instant.
    Idle { due: Option<crate::types::Time> },
    /// Both flushes are asked for.
    Flushing {
        cutoff: u64,
        local: u64,
        peer: Option<u64>,
        session: u32,
    },
    /// The dirty map is on its way.
    Pages { cutoff: u64, version: u64 },
}

/// Where a volume lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) layout: Layout,
    pub(super) backing_bytes: u64,
    pub(super) stamps: u64,
}

impl Volume {
    pub(super) fn new(spec: VolumeSpec, place: Place, zeroed: Zeroed, dirty: DirtyMap) -> Self {
        Self {
            spec,
            layout: place.layout,
            backing_bytes: place.backing_bytes,
            stamps: place.stamps,
            zeroed,
            dirty,
            coarse: Coarse::default(),
            locks: Locks::default(),
            last_write: 0,
            active: BTreeSet::new(),
            unstable: BTreeMap::new(),
            unkept: 0,
            intents: Intents::new(Table::formatted(spec.uuid)),
            local_flush: Rounds::default(),
            peer_flush: Rounds::default(),
            peer_cutoff: 0,
            settle: Settle::Idle { due: None },
            pages_wanted: false,
            closing: false,
            was_hot: false,
            counters: Counters::default(),
            scrub: Walk::default(),
            joined: false,
        }
    }

    /// Its layout with another size, if its backing has room for that.
    pub(super) fn layout_of(&self, size_bytes: u64) -> Option<Layout> {
        let layout = meta::layout_at(size_bytes, self.layout.data_offset);
        layout.filter(|layout| layout.backing_bytes <= self.backing_bytes)
    }

    /// Has another size from here on; its backing has room for it. What is new counts as clean.
    pub(super) fn take_size(&mut self, size_bytes: u64) {
        let layout = self.layout_of(size_bytes).expect("the caller made room");
        self.spec.size_bytes = size_bytes;
        self.layout = layout;
        self.dirty.resize(layout.blocks);
        let regions = size_bytes.div_ceil(REGION_BYTES);
        self.intents.cut(regions);
        self.unstable.retain(|block, _| *block < layout.blocks);
    }

    /// Marks everything from a byte on.
    pub(super) fn dirty_from(&mut self, offset_bytes: u64) {
        if offset_bytes < self.spec.size_bytes {
            let all = blocks(offset_bytes, self.spec.size_bytes);
            self.dirty.set_run(Run {
                start: *all.start(),
                count: all.end() - all.start() + 1,
            });
        }
    }

    /// The newest number below which every local write is done.
    pub(super) fn done_until(&self) -> u64 {
        self.active
            .first()
            .map_or(self.last_write, |first| first - 1)
    }

    /// Writes the dirty map as it is now; the version to ask [`DirtyMap::is_durable`] for.
    pub(super) fn want_pages(&mut self) -> u64 {
        self.pages_wanted = true;
        self.dirty.version()
    }

    /// Marks every block of every hot region.
    pub(super) fn dirty_hot_regions(&mut self) {
        let per_region = u32::try_from(REGION_BYTES / DIRTY_BLOCK_BYTES).expect("a small constant");
        let regions: Vec<u32> = self.intents.hot.keys().copied().collect();
        for region in regions {
            let first = region.saturating_mul(per_region);
            let end = first.saturating_add(per_region).min(self.layout.blocks);
            if first >= end {
                continue; // beyond the end of what it may have been before
            }
            let run = Run {
                start: first,
                count: end - first,
            };
            self.dirty.set_run(run);
            self.coarse.note(run);
        }
    }
}

/// The blocks of a range that is not empty.
pub(super) fn blocks(start: u64, end: u64) -> RangeInclusive<u32> {
    let number =
        |at| u32::try_from(at / DIRTY_BLOCK_BYTES).expect("volumes have less than 2^32 blocks");
    number(start)..=number(end - 1)
}

/// The regions of a range that is not empty.
pub(super) fn regions(start: u64, end: u64) -> RangeInclusive<u32> {
    let number = |at| u32::try_from(at / REGION_BYTES).expect("fewer regions than blocks");
    number(start)..=number(end - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_asked_for_during_a_round_is_the_next_one() {
        let mut rounds = Rounds::default();
        assert_eq!(rounds.ask(), 1);
        assert_eq!(rounds.ask(), 1);
        rounds.running = true;
        assert_eq!(rounds.ask(), 2);
        rounds.finish();
        assert!(rounds.done < 2 && rounds.is_due());
    }

    #[test]
    fn an_aborted_round_satisfies_nobody() {
        let mut rounds = Rounds::default();
        let ticket = rounds.ask();
        rounds.running = true;
        rounds.abort();
        assert!(rounds.done < ticket && !rounds.is_due());
        assert_eq!(rounds.ask(), 1);
    }

    #[test]
    fn ranges_touch_their_first_and_last_block() {
        assert_eq!(blocks(0, 1), 0..=0);
        assert_eq!(blocks(DIRTY_BLOCK_BYTES - 1, DIRTY_BLOCK_BYTES + 1), 0..=1);
        assert_eq!(regions(REGION_BYTES, 2 * REGION_BYTES), 1..=1);
    }
}
