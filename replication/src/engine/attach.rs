//! Attaching and formatting volumes.
//!
//! ```text
//! Opened ──▶ Head ──valid──▶ Map ──all of its pages──▶ attached
//!              │                ▲
//!              ├──blank or damaged──▶ Tail ──valid──▶ Mend
//!              └──to be made──▶ Fill ──▶ Sync ──▶ Stamp ──▶ attached
//! ```
//!
//! `Fill` writes everything but the superblocks, `Sync` flushes it, `Stamp` writes the
//! superblocks: a crash before the end leaves a blank backing, never half a volume. `Tail` looks
//! for the superblocks at the end of the backing, `Mend` writes those at its head again.

use super::disk::Op;
use super::volume::{Intents, Place, Volume};
use super::{DiskError, Engine, Event, Io, IoDone, Opened, Output};
use crate::meta::dirty::DirtyMap;
use crate::meta::group::{Entry, GroupState, Life};
use crate::meta::superblock::{self, Found, Superblock};
use crate::meta::{self, HEAD_BYTES, Layout, index, intent};
use crate::mutants::mutant;
use crate::types::{CopyMark, Create, Epoch, Fua, VolumeNumber, VolumeSpec, Zeroed};
use crate::wire::mask::Run;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Pages of a dirty map that are read at once: 4 MiB.
const PAGES_PER_READ: u32 = 512;

/// A volume on its way to being attached.
#[derive(Debug)]
pub(super) struct Opening {
    purpose: Purpose,
    /// What it is; at start this is learnt from its superblock.
    spec: Option<VolumeSpec>,
    zeroed: Zeroed,
    backing_bytes: u64,
    step: Step,
    /// Operations of this step in flight.
    left: usize,
    head: Bytes,
    /// What its superblock says, or will say.
    stamp: Option<Superblock>,
    /// The map as far as it was read, and the runs of pages still to be read.
    map: Option<(DirtyMap, VecDeque<Run>)>,
}

/// Why a backing is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It was found in the pool at start.
    Start,
    /// A new volume: it must read zero in the end (law D6).
    Make,
    /// The primary has it: whatever it holds will be made equal.
    Join,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Open,
    Head,
    Tail,
    Mend,
    Map,
    Fill,
    Sync,
    Stamp,
}

impl Engine {
    pub(super) fn on_start(&mut self, found: Vec<Opened>, seal: Epoch, newest: Option<CopyMark>) {
        assert!(!self.started, "an engine is started once");
        self.started = true;
        self.seal_floor = seal;
        self.newest = newest;
        for opened in found {
            self.found.insert(opened.number);
            self.opening
                .insert(opened.number, Opening::new(Purpose::Start, None));
            self.on_opened(opened);
        }
    }

    /// Writes the first metadata of a new group (volume 0 only).
    pub(super) fn on_format(&mut self) {
        if self.group.is_some() {
            self.alarm(
                "this box has a copy of the group already: it is kept and not formatted again; if \
                 it may be lost, empty the pool first"
                    .into(),
            );
            return;
        }
        self.open_volume(self.system_spec(), Purpose::Make);
    }

    pub(super) fn system_spec(&self) -> VolumeSpec {
        VolumeSpec {
            number: VolumeNumber::SYSTEM,
            uuid: self.params.group.0,
            size_bytes: meta::SYSTEM_BYTES,
        }
    }

    /// Asks for a backing; the volume is in `volumes` in the end, or in `open_failures`.
    pub(super) fn open_volume(&mut self, spec: VolumeSpec, purpose: Purpose) {
        self.open_failures.remove(&spec.number);
        self.opening
            .insert(spec.number, Opening::new(purpose, Some(spec)));
        let backing_bytes = meta::layout(spec.size_bytes).backing_bytes;
        self.emit(Output::Open {
            spec,
            backing_bytes,
            create: Create::Yes,
        });
    }

    pub(super) fn on_opened(&mut self, opened: Opened) {
        let number = opened.number;
        let Some(opening) = self.opening.get_mut(&number) else {
            return;
        };
        if opening.step != Step::Open {
            return;
        }
        opening.zeroed = opened.zeroed;
        opening.backing_bytes = opened.size_bytes;
        opening.step = Step::Head;
        opening.left = 1;
        if opened.size_bytes < HEAD_BYTES {
            return self.fail_opening(number, "its backing is too small".into());
        }
        let len_bytes = usize::try_from(HEAD_BYTES).expect("a constant below one mebibyte");
        let io = Io::Read {
            offset_bytes: 0,
            len_bytes,
        };
        self.submit(number, Op::Opening { volume: number }, io);
    }

    pub(super) fn on_open_failed(&mut self, number: VolumeNumber, reason: String) {
        if self.opening.contains_key(&number) {
            self.fail_opening(number, reason);
        }
    }

    pub(super) fn on_opening_done(
        &mut self,
        number: VolumeNumber,
        result: Result<IoDone, DiskError>,
    ) {
        let Some(opening) = self.opening.get_mut(&number) else {
            return;
        };
        opening.left = opening.left.saturating_sub(1);
        let data = match result {
            Ok(IoDone::Data(data)) => data,
            Ok(IoDone::Ok) => Bytes::new(),
            Err(error) => {
                let reason = format!("its metadata cannot be read or written, {error:?}");
                return self.fail_opening(number, reason);
            }
        };
        if opening.left > 0 {
            return;
        }
        match opening.step {
            Step::Open => {}
            Step::Head => self.read_head(number, data),
            Step::Tail => self.read_tail(number, &data),
            Step::Mend => self.begin_map(number),
            Step::Map => self.read_map(number, &data),
            Step::Fill => {
                opening.step = Step::Sync;
                opening.left = 1;
                self.submit(number, Op::Opening { volume: number }, Io::Flush);
            }
            Step::Sync => self.stamp(number),
            Step::Stamp => self.formatted(number),
        }
    }

    fn read_head(&mut self, number: VolumeNumber, head: Bytes) {
        let opening = self.opening.get_mut(&number).expect("the caller has it");
        let found = superblock::find(&head);
        opening.head = head;
        match found {
            Found::Valid(found) => self.take_volume(number, found),
            Found::Newer(newer) => self.fail_opening(number, newer.to_string()),
            Found::Blank | Found::Damaged if opening.purpose != Purpose::Start => {
                self.fill(number);
            }
            Found::Blank | Found::Damaged => {
                opening.step = Step::Tail;
                opening.left = 1;
                let io = Io::Read {
                    offset_bytes: superblock::tail_offset(opening.backing_bytes),
                    len_bytes: 2 * superblock::LEN_BYTES,
                };
                self.submit(number, Op::Opening { volume: number }, io);
            }
        }
    }

    /// The head of the backing says nothing: its end may.
    fn read_tail(&mut self, number: VolumeNumber, tail: &[u8]) {
        let opening = self.opening.get_mut(&number).expect("the caller has it");
        match superblock::find_in(tail) {
            Found::Valid(found) => {
                self.alarm(format!(
                    "the head of the backing of volume {number} was overwritten; the volume is \
                     taken from the end of it and all of it counts as changed: find out who writes \
                     to the pool"
                ));
                self.take_volume(number, found);
            }
            Found::Newer(newer) => self.fail_opening(number, newer.to_string()),
            Found::Blank if superblock::find(&opening.head) == Found::Blank => {
                self.fail_opening(number, "it was never formatted".into());
            }
            Found::Blank | Found::Damaged => {
                self.fail_opening(number, "every copy of its superblock is damaged".into());
            }
        }
    }

    /// Its superblock is known: whether it is what it should be.
    fn take_volume(&mut self, number: VolumeNumber, found: Superblock) {
        let opening = self.opening.get_mut(&number).expect("the caller has it");
        let layout = found.layout();
        let other = |spec: &VolumeSpec| !spec.is_same_volume(&found.spec);
        let mismatch = if found.group != self.params.group {
            Some("it belongs to another group".to_owned())
        } else if found.node != self.params.me {
            Some(format!("it belongs to node {}", found.node.0))
        } else if found.spec.number != number || opening.spec.as_ref().is_some_and(other) {
            Some(format!(
                "it holds volume {} with another identity",
                found.spec.number
            ))
        } else if opening.backing_bytes < layout.backing_bytes {
            Some("its backing is shorter than it was".to_owned())
        } else {
            None
        };
        if let Some(mismatch) = mismatch {
            return self.fail_opening(number, mismatch);
        }
        if opening.purpose == Purpose::Make && number != VolumeNumber::SYSTEM {
            return self.fill(number); // left over from a creation that did not come to its end
        }
        opening.spec = Some(found.spec);
        opening.stamp = Some(found);
        if opening.step == Step::Tail {
            opening.step = Step::Mend;
            opening.left = superblock::HEAD_OFFSETS.len();
            let data = Bytes::from(found.encode());
            for offset_bytes in superblock::HEAD_OFFSETS {
                self.write_opening(number, offset_bytes, data.clone(), Fua::Yes);
            }
            return;
        }
        self.begin_map(number);
    }

    fn begin_map(&mut self, number: VolumeNumber) {
        let opening = self.opening.get_mut(&number).expect("the caller has it");
        opening.step = Step::Map;
        let stamp = opening.stamp.expect("known since its superblock was read");
        let uuid = stamp.spec.uuid;
        let slots = part(&opening.head, index::OFFSET, 2 * index::LEN_BYTES);
        let found = index::recover(uuid, slots);
        let (map, runs) = DirtyMap::begin(uuid, stamp.layout().blocks, &found);
        let pieces = runs.into_iter().flat_map(|run| {
            let starts = (run.start..run.start + run.count).step_by(PAGES_PER_READ as usize);
            starts.map(move |start| Run {
                start,
                count: PAGES_PER_READ.min(run.start + run.count - start),
            })
        });
        opening.map = Some((map, pieces.collect()));
        self.read_pages(number);
    }

    /// Reads the next pages of the map; without any left the volume is attached.
    fn read_pages(&mut self, number: VolumeNumber) {
        let opening = self.opening.get_mut(&number).expect("the caller has it");
        let (_, runs) = opening.map.as_ref().expect("it is being read");
        let Some(run) = runs.front() else {
            return self.attach(number);
        };
        opening.left = 1;
        let io = Io::Read {
            offset_bytes: meta::dirty::slots_at(run.start),
            len_bytes: run.count as usize * 2 * meta::dirty::PAGE_BYTES,
        };
        self.submit(number, Op::Opening { volume: number }, io);
    }

    fn read_map(&mut self, number: VolumeNumber, slots: &[u8]) {
        let opening = self.opening.get_mut(&number).expect("the caller has it");
        let (map, runs) = opening.map.as_mut().expect("it is being read");
        let run = runs.pop_front().expect("it was read");
        let pages = slots.chunks(2 * meta::dirty::PAGE_BYTES);
        for (page, slots) in (run.start..run.start + run.count).zip(pages) {
            map.load_page(page, slots);
        }
        self.read_pages(number);
    }

    /// Takes the group state of the system volume, if it can be trusted. If not, this copy counts
    /// as none; when the other box, as primary, asks for one, a new one is begun over it.
    fn adopt_group(&mut self) -> bool {
        let number = VolumeNumber::SYSTEM;
        let opening = self.opening.get_mut(&number).expect("the caller has it");
        let found = GroupState::find(&opening.head);
        let purpose = opening.purpose;
        match self.judge(found) {
            Ok(group) => {
                self.group = Some(group);
                return true;
            }
            Err(_) if purpose == Purpose::Join => self.fill(number),
            Err(reason) => {
                self.opening.remove(&number);
                self.alarm(format!(
                    "the system volume cannot be attached: {reason}; no data of this box is served"
                ));
                self.fault = Some(reason);
            }
        }
        false
    }

    /// Whether the group state found is the one that this box had last (law D7).
    fn judge(&self, found: Option<GroupState>) -> Result<GroupState, String> {
        let Some(group) = found else {
            return Err("both copies of the group state are damaged".into());
        };
        let newest = self.newest.filter(|newest| newest.disk == group.disk);
        match newest {
            Some(newest) if group.meta_generation < newest.generation && !mutant!(TrustOldData) => {
                Err(format!(
                    "the data of this box are older than they were (generation {}, and {} was \
                     seen before): a snapshot or a backup of the pool was put back, or its newest \
                     metadata are damaged; put the newer data back and restart twinsan, or let the \
                     other box serve, which then copies everything to this one",
                    group.meta_generation, newest.generation
                ))
            }
            Some(_) | None => Ok(group),
        }
    }

    fn attach(&mut self, number: VolumeNumber) {
        if number == VolumeNumber::SYSTEM && !self.adopt_group() {
            return;
        }
        let opening = self.opening.remove(&number).expect("the caller has it");
        let stamp = opening.stamp.expect("learnt from the superblock");
        let (dirty, _) = opening.map.expect("it was read");
        let place = Place {
            layout: stamp.layout(),
            backing_bytes: opening.backing_bytes,
            stamps: stamp.sequence,
        };
        let mut volume = Volume::new(stamp.spec, place, Zeroed::Unknown, dirty);
        let ring = part(&opening.head, intent::OFFSET, intent::RING_BYTES);
        let (table, trust) = intent::Table::recover(stamp.spec.uuid, ring);
        volume.intents = Intents::new(table);
        match trust {
            intent::Trust::Whole => volume.was_hot = !volume.intents.hot.is_empty(),
            intent::Trust::Broken => {
                volume.intents.repair = true;
                volume.was_hot = true;
                volume.dirty.set_all();
            }
        }
        if !mutant!(StartCold) {
            volume.dirty_hot_regions();
        }
        self.volumes.insert(number, volume);
    }

    fn write_opening(&mut self, number: VolumeNumber, offset_bytes: u64, data: Bytes, fua: Fua) {
        let io = Io::Write {
            offset_bytes,
            data,
            fua,
        };
        self.submit(number, Op::Opening { volume: number }, io);
    }

    fn fill(&mut self, number: VolumeNumber) {
        let opening = self.opening.get_mut(&number).expect("the caller has it");
        let spec = opening.spec.expect("what is to be made is known");
        let layout = meta::layout(spec.size_bytes);
        if opening.backing_bytes < layout.backing_bytes {
            return self.fail_opening(number, "its backing is too small".into());
        }
        opening.step = Step::Fill;
        let purpose = opening.purpose;
        let mut writes = vec![
            (intent::OFFSET, intent::format(spec.uuid)),
            (index::OFFSET, DirtyMap::format(spec.uuid)),
        ];
        if number == VolumeNumber::SYSTEM {
            let old = GroupState::find(&opening.head);
            let before = old.map_or(0, |old| old.meta_generation);
            let group = self.first_state(spec, purpose, before);
            writes.push((group.offset_bytes(), group.encode()));
            self.group = Some(group);
        }
        let opening = self.opening.get_mut(&number).expect("still there");
        opening.left = writes.len();
        let zero = opening.zeroed == Zeroed::Unknown && purpose == Purpose::Make;
        opening.left += usize::from(zero);
        if zero {
            opening.zeroed = Zeroed::Proven;
            let io = Io::WriteZeroes {
                offset_bytes: layout.data_offset,
                len_bytes: spec.size_bytes,
                fua: Fua::No,
            };
            self.submit(number, Op::Opening { volume: number }, io);
        }
        for (offset_bytes, bytes) in writes {
            self.write_opening(number, offset_bytes, Bytes::from(bytes), Fua::No);
        }
    }

    /// The group state of a copy that has just begun, newer than one of generation `before` whose
    /// place it takes.
    fn first_state(&self, spec: VolumeSpec, purpose: Purpose, before: u64) -> GroupState {
        let first = purpose == Purpose::Make;
        let entry = Entry {
            spec,
            life: Life::Ready,
            zero_base: first,
            fresh: !first,
            cache_lost: false,
        };
        GroupState {
            meta_generation: before + 1,
            disk: self.params.fresh_disk,
            boot: self.params.boot,
            data_epoch: Epoch::ZERO,
            sealed: self.seal_floor,
            covers: None,
            following: false,
            highest: VolumeNumber::SYSTEM,
            volumes: BTreeMap::from([(spec.number, entry)]),
        }
    }

    fn stamp(&mut self, number: VolumeNumber) {
        let disk = self
            .group
            .as_ref()
            .map_or(self.params.fresh_disk, |group| group.disk);
        let (group, node) = (self.params.group, self.params.me);
        let opening = self.opening.get_mut(&number).expect("the caller has it");
        let spec = opening.spec.expect("known since it was filled");
        let stamp = Superblock {
            group,
            spec,
            disk,
            node,
            data_offset: meta::layout(spec.size_bytes).data_offset,
            sequence: 1,
        };
        let offsets = superblock::offsets(opening.backing_bytes);
        opening.step = Step::Stamp;
        opening.left = offsets.len();
        opening.stamp = Some(stamp);
        let data = Bytes::from(stamp.encode());
        for offset_bytes in offsets {
            self.write_opening(number, offset_bytes, data.clone(), Fua::Yes);
        }
    }

    fn formatted(&mut self, number: VolumeNumber) {
        let opening = self.opening.remove(&number).expect("the caller has it");
        let stamp = opening.stamp.expect("it was just written");
        let spec = stamp.spec;
        let place = Place {
            layout: stamp.layout(),
            backing_bytes: opening.backing_bytes,
            stamps: stamp.sequence,
        };
        let dirty = DirtyMap::clean(spec.uuid, place.layout.blocks);
        let mut volume = Volume::new(spec, place, opening.zeroed, dirty);
        volume.joined = opening.purpose == Purpose::Join;
        self.volumes.insert(number, volume);
        if number == VolumeNumber::SYSTEM {
            self.fault = None;
            self.event(Event::VolumeReady { spec });
        }
    }

    fn fail_opening(&mut self, number: VolumeNumber, reason: String) {
        let opening = self.opening.remove(&number).expect("the caller has it");
        let means = match opening.purpose {
            Purpose::Start => "this box cannot take over before it is",
            Purpose::Join => "this box is not in sync before it is",
            Purpose::Make => "nothing of it stays",
        };
        self.alarm(format!(
            "volume {number} cannot be attached: {reason}; {means}"
        ));
        if opening.purpose == Purpose::Start {
            if number == VolumeNumber::SYSTEM {
                self.fault = Some(format!("the system volume cannot be attached: {reason}"));
            }
            return;
        }
        if opening.purpose == Purpose::Make {
            self.removing.insert(number, self.ops.barrier()); // nothing half made stays
        }
        self.open_failures.insert(number, reason);
    }

    /// All backings found at start are looked at: compare them with the table.
    pub(super) fn advance_start(&mut self) {
        if self.booted || !self.started || !self.opening.is_empty() {
            return;
        }
        self.booted = true;
        let Some(group) = &self.group else {
            self.volumes.clear();
            return;
        };
        let table = group.volumes.clone();
        let (boot_changed, following) = (group.boot != self.params.boot, group.following);
        let strangers: Vec<VolumeNumber> = self
            .volumes
            .keys()
            .copied()
            .filter(|number| !table.contains_key(number))
            .collect();
        for number in strangers {
            self.alarm(format!(
                "the file of volume {number} is of no volume of this group: it is not served and \
                 not changed; move it out of the pool"
            ));
            self.volumes.remove(&number);
        }
        let mut lost = BTreeSet::new();
        for (number, entry) in &table {
            let volume = self.volumes.get(number);
            let other = |volume: &Volume| !volume.spec.is_same_volume(&entry.spec);
            let short = |volume: &Volume| volume.layout_of(entry.spec.size_bytes).is_none();
            if volume.is_some_and(|volume| other(volume) || short(volume)) {
                self.alarm(format!(
                    "the file of volume {number} holds another volume: this box's copy of it is \
                     missing, and this box cannot take over; put the right file back while \
                     twinsan is stopped here"
                ));
                self.volumes.remove(number);
            } else if entry.life != Life::Ready {
                self.volumes.remove(number);
                if self.found.contains(number) {
                    self.emit(Output::Remove { number: *number });
                }
            } else if boot_changed
                && !mutant!(SilentCacheLoss)
                && volume.is_none_or(|volume| volume.was_hot || following)
            {
                lost.insert(*number); // also if it cannot be read now: the boot is noted only once
            }
        }
        let (boot, seal) = (self.params.boot, self.seal_floor);
        self.change_group(|group| {
            group.boot = boot;
            group.sealed = group.sealed.max(seal);
            for entry in group.volumes.values_mut() {
                entry.cache_lost |= lost.contains(&entry.spec.number);
                if entry.life == Life::Creating {
                    entry.life = Life::Tombstone; // no host has seen it
                }
            }
        });
        for (number, volume) in self.volumes.iter_mut() {
            // a growth that did not come to its end: the table decides
            let (before, size_bytes) = (volume.spec.size_bytes, table[number].spec.size_bytes);
            volume.take_size(size_bytes);
            volume.dirty_from(before); // the map was not read that far
        }
        let ready: Vec<VolumeSpec> = self.volumes.values().map(|volume| volume.spec).collect();
        for spec in ready {
            self.event(Event::VolumeReady { spec });
        }
    }
}

impl Opening {
    const fn new(purpose: Purpose, spec: Option<VolumeSpec>) -> Self {
        Self {
            purpose,
            spec,
            zeroed: Zeroed::Unknown,
            backing_bytes: 0,
            step: Step::Open,
            left: 0,
            head: Bytes::new(),
            stamp: None,
            map: None,
        }
    }
}

impl Superblock {
    /// The layout of the volume as it says.
    pub(super) fn layout(&self) -> Layout {
        meta::layout_at(self.spec.size_bytes, self.data_offset)
            .expect("it was looked at when it was parsed, or just laid out")
    }
}

/// A part of the head of a backing.
fn part(head: &[u8], offset_bytes: u64, len_bytes: usize) -> &[u8] {
    let at = usize::try_from(offset_bytes).expect("a constant below one mebibyte");
    head.get(at..at + len_bytes).unwrap_or_default()
}
