//! Upkeep: after each input every state machine takes the steps that have become possible.
//!
//! A volume is looked at when somebody changed it, when an instant of its own has come, or when
//! what all volumes depend on has changed: an input costs what it touches, whatever the number of
//! volumes. Invariants: whoever changes a volume goes through [`Volumes::get_mut`] or another
//! method that marks it; `dirty` and `timers` are right for every volume that is not marked.

use super::volume::{Settle, Volume};
use super::{DataState, Engine, Event};
use crate::types::{Epoch, Time, VolumeNumber};
use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::iter;
use std::ops::{Index, RangeBounds};

/// The attached volumes, and which of them may have something due.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    all: BTreeMap<VolumeNumber, Volume>,
    /// Changed since upkeep looked at them.
    marked: BTreeSet<VolumeNumber>,
    /// With dirty blocks, and how many.
    dirty: BTreeMap<VolumeNumber, u64>,
    /// The sum of these.
    dirty_blocks: u64,
    /// When a volume has something to do by itself.
    timers: BTreeSet<(Time, VolumeNumber)>,
    timer_of: BTreeMap<VolumeNumber, Time>,
    /// Rises with every volume that comes or goes.
    generation: u64,
    /// How often upkeep looked at a volume.
    looks: u64,
}

/// No input sets off so many turns of upkeep.
const TURNS_MAX: u64 = 1_000_000;

/// Whether upkeep is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    Something,
}

/// What the steps of every volume depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gates {
    serving: bool,
    frozen: bool,
    failed: bool,
    streaming: bool,
    session: u32,
    verified: bool,
    draining: bool,
    needs_peer: bool,
    group: u64,
}

/// What the state of the copy depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DataGates {
    group: Option<u64>,
    failed: bool,
    fault: bool,
    sealed: Epoch,
    volumes: u64,
}

impl Volumes {
    pub(super) fn get(&self, number: &VolumeNumber) -> Option<&Volume> {
        self.all.get(number)
    }

    pub(super) fn get_mut(&mut self, number: &VolumeNumber) -> Option<&mut Volume> {
        let found = self.all.get_mut(number);
        if found.is_some() {
            self.marked.insert(*number);
        }
        found
    }

    pub(super) fn contains_key(&self, number: &VolumeNumber) -> bool {
        self.all.contains_key(number)
    }

    pub(super) fn insert(&mut self, number: VolumeNumber, volume: Volume) {
        self.all.insert(number, volume);
        self.marked.insert(number);
        self.generation += 1;
    }

    pub(super) fn remove(&mut self, number: &VolumeNumber) {
        if self.all.remove(number).is_some() {
            self.generation += 1;
            self.marked.remove(number);
            self.set_dirty(*number, 0);
            self.set_timer(*number, None);
        }
    }

    pub(super) fn clear(&mut self) {
        let numbers: Vec<VolumeNumber> = self.all.keys().copied().collect();
        for number in numbers {
            self.remove(&number);
        }
    }

    pub(super) fn keys(&self) -> btree_map::Keys<'_, VolumeNumber, Volume> {
        self.all.keys()
    }

    pub(super) fn values(&self) -> btree_map::Values<'_, VolumeNumber, Volume> {
        self.all.values()
    }

    pub(super) fn iter(&self) -> btree_map::Iter<'_, VolumeNumber, Volume> {
        self.all.iter()
    }

    pub(super) fn values_mut(&mut self) -> btree_map::ValuesMut<'_, VolumeNumber, Volume> {
        self.mark_all();
        self.all.values_mut()
    }

    pub(super) fn iter_mut(&mut self) -> btree_map::IterMut<'_, VolumeNumber, Volume> {
        self.mark_all();
        self.all.iter_mut()
    }

    fn mark_all(&mut self) {
        self.marked.extend(self.all.keys());
    }

    /// The volumes of a range of numbers that have dirty blocks, in order.
    pub(super) fn dirty_in<R>(&self, range: R) -> impl Iterator<Item = VolumeNumber>
    where
        R: RangeBounds<VolumeNumber> + Clone,
    {
        let settled = self.dirty.range(range.clone()).map(|(number, _)| *number);
        let mut settled = settled.peekable();
        let mut marked = self.marked.range(range).copied().peekable();
        let numbers = iter::from_fn(move || {
            let next = settled.peek().into_iter().chain(marked.peek()).min();
            let next = next.copied();
            settled.next_if(|number| Some(*number) == next);
            marked.next_if(|number| Some(*number) == next);
            next
        });
        numbers.filter(|number| {
            let volume = self.all.get(number);
            volume.is_some_and(|volume| volume.dirty.count() > 0)
        })
    }

    /// The dirty blocks of all volumes.
    pub(super) fn dirty_blocks(&self) -> u64 {
        let counted = |number| self.dirty.get(number).copied().unwrap_or(0);
        let now = |number| self.all.get(number).map_or(0, |it| it.dirty.count());
        let settled = self.dirty_blocks - self.marked.iter().map(counted).sum::<u64>();
        settled + self.marked.iter().map(now).sum::<u64>()
    }

    /// The first instant at which a volume has something to do by itself.
    pub(super) fn timer(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// What upkeep has to look at.
    fn due(&mut self) -> Vec<VolumeNumber> {
        self.looks += self.marked.len() as u64;
        self.marked.iter().copied().collect()
    }

    /// Nothing is left to do at these; whether others were marked meanwhile.
    fn rest(&mut self, numbers: &[VolumeNumber]) -> Left {
        for number in numbers.iter().copied() {
            self.marked.remove(&number);
            let Some(volume) = self.all.get(&number) else {
                continue;
            };
            let timer = match volume.settle {
                Settle::Idle { due } => due,
                Settle::Flushing { .. } | Settle::Pages { .. } => None,
            };
            let blocks = volume.dirty.count();
            self.set_dirty(number, blocks);
            self.set_timer(number, timer);
        }
        if self.marked.is_empty() {
            Left::Nothing
        } else {
            Left::Something
        }
    }

    fn set_dirty(&mut self, number: VolumeNumber, blocks: u64) {
        let before = match blocks {
            0 => self.dirty.remove(&number),
            _ => self.dirty.insert(number, blocks),
        };
        self.dirty_blocks = self.dirty_blocks + blocks - before.unwrap_or(0);
    }

    fn set_timer(&mut self, number: VolumeNumber, timer: Option<Time>) {
        let before = match timer {
            Some(at) => self.timer_of.insert(number, at),
            None => self.timer_of.remove(&number),
        };
        if before != timer {
            if let Some(before) = before {
                self.timers.remove(&(before, number));
            }
            if let Some(at) = timer {
                self.timers.insert((at, number));
            }
        }
    }

    /// Every volume that is not marked is where it should be; panics if not.
    pub(super) fn check_full(&self) {
        for (number, volume) in &self.all {
            let dirty = self.dirty.get(number).copied().unwrap_or(0);
            let known = dirty == volume.dirty.count() || self.marked.contains(number);
            assert!(known, "volume {number} was changed and not marked");
        }
        let blocks = self.all.values().map(|volume| volume.dirty.count());
        assert_eq!(self.dirty_blocks(), blocks.sum(), "each dirty block once");
        assert_eq!(self.timers.len(), self.timer_of.len(), "each timer once");
    }
}

impl Index<&VolumeNumber> for Volumes {
    type Output = Volume;

    fn index(&self, number: &VolumeNumber) -> &Volume {
        &self.all[number]
    }
}

impl<'a> IntoIterator for &'a Volumes {
    type Item = (&'a VolumeNumber, &'a Volume);
    type IntoIter = btree_map::Iter<'a, VolumeNumber, Volume>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a mut Volumes {
    type Item = (&'a VolumeNumber, &'a mut Volume);
    type IntoIter = btree_map::IterMut<'a, VolumeNumber, Volume>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl Engine {
    /// How often upkeep has looked at a volume: what inputs cost beyond what they are about.
    #[must_use]
    pub const fn volumes_looked_at(&self) -> u64 {
        self.volumes.looks
    }

    /// Lets every state machine take the steps that are possible now.
    pub(super) fn maintain(&mut self) {
        for turn in 0.. {
            assert!(turn < TURNS_MAX, "upkeep comes to no end");
            let before = self.steps;
            self.advance_start();
            self.advance_seal();
            self.advance_reign();
            self.advance_verify();
            self.advance_thaw();
            self.advance_losing();
            self.advance_silence();
            self.advance_target_silence();
            self.advance_dial();
            self.advance_prepare();
            self.advance_incoming();
            self.advance_target();
            self.advance_making();
            self.advance_handover();
            self.advance_jobs();
            self.advance_removing();
            self.advance_intake();
            self.advance_ready();
            self.advance_mending();
            self.advance_kept();
            self.advance_resync();
            self.advance_scrub();
            self.mark_due();
            let due = self.volumes.due();
            for number in due.iter().copied() {
                self.advance_intents(number);
                self.advance_flush(number);
                self.advance_settle(number);
                self.advance_pages(number);
            }
            self.advance_flushing();
            self.advance_answers();
            self.advance_group();
            self.report_data();
            if self.steps == before && self.volumes.rest(&due) == Left::Nothing {
                return;
            }
        }
    }

    /// Marks the volumes whose instant has come, and all of them if a gate was moved.
    fn mark_due(&mut self) {
        let gates = Gates {
            serving: self.is_serving(),
            frozen: self.frozen,
            failed: self.failed.is_some(),
            streaming: self.is_streaming(),
            session: self.session_number(),
            verified: self.verified,
            draining: self.handover.is_some(),
            needs_peer: self.needs_peer(),
            group: self.group_version(),
        };
        if gates != self.gates {
            self.gates = gates;
            self.volumes.mark_all();
        }
        if !self.settles() {
            return; // no timer counts until a gate is moved
        }
        let now = self.now;
        let due = self.volumes.timers.iter().take_while(|(at, _)| *at <= now);
        let due: Vec<VolumeNumber> = due.map(|(_, number)| *number).collect();
        self.volumes.marked.extend(due);
    }

    /// Reports the state of the copy when it has changed and is durable.
    fn report_data(&mut self) {
        let settled = self.group_is_durable(self.group_version()) || self.failed.is_some();
        if !self.booted || !settled || self.opening.contains_key(&VolumeNumber::SYSTEM) {
            return;
        }
        let gates = DataGates {
            group: self.group.as_ref().map(|_| self.group_version()),
            failed: self.failed.is_some(),
            fault: self.fault.is_some(),
            sealed: self.sealed(),
            volumes: self.volumes.generation,
        };
        if self
            .reported
            .as_ref()
            .is_some_and(|(seen, _)| *seen == gates)
        {
            return;
        }
        let state = self.data_state();
        let same = |(_, before): &(DataGates, DataState)| *before == state;
        let news = !self.reported.as_ref().is_some_and(same);
        self.reported = Some((gates, state.clone()));
        if news {
            self.event(Event::Data(state));
            self.step();
        }
    }

    /// Whether the failure of the disk was reported.
    pub(super) fn said_failed(&self) -> bool {
        self.reported
            .as_ref()
            .is_some_and(|(gates, _)| gates.failed)
    }
}
