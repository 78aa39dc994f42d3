//! Attaching and formatting volumes.
//!
//! ```text
//! Opened ──▶ Head ──valid──▶ Map ─────────────────────────▶ attached
//!              └──blank or damaged, to be made──▶ Fill ──▶ Sync ──▶ Stamp ──▶ attached
//! ```
//!
//! `Fill` writes everything but the superblocks, `Sync` flushes it, `Stamp` writes the
//! superblocks: a crash before the end leaves a blank backing, never half a volume.

use super::disk::Op;
use super::volume::{Heat, Volume};
use super::{DiskError, Engine, Event, Io, IoDone, Opened, Output};
use crate::meta::dirty::DirtyMap;
use crate::meta::group::{Entry, GroupState, Life};
use crate::meta::superblock::{self, Found, Superblock};
use crate::meta::{self, HEAD_BYTES, intent};
use crate::types::{Create, Epoch, Fua, VolumeNumber, VolumeSpec, Zeroed};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

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
    Map,
    Fill,
    Sync,
    Stamp,
}

impl Engine {
    pub(super) fn on_start(&mut self, found: Vec<Opened>, seal: Epoch) {
        assert!(!self.started, "an engine is started once");
        self.started = true;
        self.seal_floor = seal;
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
                "this box has a copy of the group already, it is not formatted again".into(),
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
        let found = match superblock::find(&head) {
            Found::Valid(found) => found,
            Found::Blank | Found::Damaged if opening.purpose != Purpose::Start => {
                return self.fill(number);
            }
            Found::Blank => return self.fail_opening(number, "it was never formatted".into()),
            Found::Damaged => {
                return self.fail_opening(number, "every copy of its superblock is damaged".into());
            }
        };
        let layout = meta::layout(found.spec.size_bytes);
        let mismatch = if found.group != self.params.group {
            Some("it belongs to another group".to_owned())
        } else if found.node != self.params.me {
            Some(format!("it belongs to node {}", found.node.0))
        } else if found.spec.number != number || opening.spec.is_some_and(|s| s != found.spec) {
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
        opening.head = head;
        opening.step = Step::Map;
        opening.left = 1;
        let len_bytes = layout.pages as usize * 2 * meta::dirty::PAGE_BYTES;
        let io = Io::Read {
            offset_bytes: HEAD_BYTES,
            len_bytes,
        };
        self.submit(number, Op::Opening { volume: number }, io);
    }

    fn read_map(&mut self, number: VolumeNumber, slots: &[u8]) {
        let opening = self.opening.remove(&number).expect("the caller has it");
        let spec = opening.spec.expect("learnt from the superblock");
        if number == VolumeNumber::SYSTEM {
            match GroupState::find(&opening.head) {
                Some(group) => self.group = Some(group),
                None => {
                    let reason = "both copies of the group state are damaged";
                    self.alarm(format!("volume 0 cannot be attached: {reason}"));
                    self.fault = Some(reason.into());
                    return;
                }
            }
        }
        let layout = meta::layout(spec.size_bytes);
        let dirty = DirtyMap::load(spec.uuid, layout.blocks, slots);
        let mut volume = Volume::new(spec, layout, Zeroed::Unknown, dirty);
        let at = usize::try_from(intent::OFFSET).expect("a constant below one mebibyte");
        let len = intent::RECORD_BYTES * usize::try_from(intent::SLOTS).expect("a small constant");
        let recovered = intent::recover(spec.uuid, &opening.head[at..at + len]);
        volume.intents.next_seq = recovered.next_seq;
        match recovered.hot {
            intent::Hot::Regions(regions) => {
                let heat = Heat {
                    durable: true,
                    ..Heat::default()
                };
                volume.intents.hot = regions.into_iter().map(|region| (region, heat)).collect();
                volume.was_hot = !volume.intents.hot.is_empty();
            }
            intent::Hot::All => {
                volume.intents.repair = true;
                volume.was_hot = true;
                volume.dirty.set_all();
            }
        }
        volume.dirty_hot_regions();
        self.volumes.insert(number, volume);
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
            (
                intent::OFFSET,
                intent::encode_ring(spec.uuid, 0, &BTreeSet::new()),
            ),
            (HEAD_BYTES, DirtyMap::format(spec.uuid, layout.blocks)),
        ];
        if number == VolumeNumber::SYSTEM {
            let group = self.first_state(spec, purpose);
            writes.push((group.offset_bytes(), group.encode()));
            self.group = Some(group);
        }
        let op = Op::Opening { volume: number };
        let opening = self.opening.get_mut(&number).expect("still there");
        opening.left = writes.len();
        let zero = opening.zeroed == Zeroed::Unknown && purpose == Purpose::Make;
        opening.left += usize::from(zero);
        if zero {
            opening.zeroed = Zeroed::Proven;
            let (offset_bytes, len_bytes) = (layout.data_offset, spec.size_bytes);
            self.submit(
                number,
                op,
                Io::WriteZeroes {
                    offset_bytes,
                    len_bytes,
                    fua: Fua::No,
                },
            );
        }
        for (offset_bytes, bytes) in writes {
            let data = Bytes::from(bytes);
            self.submit(
                number,
                op,
                Io::Write {
                    offset_bytes,
                    data,
                    fua: Fua::No,
                },
            );
        }
    }

    /// The group state of a copy that has just begun.
    fn first_state(&self, spec: VolumeSpec, purpose: Purpose) -> GroupState {
        let first = purpose == Purpose::Make;
        let entry = Entry {
            spec,
            life: Life::Ready,
            zero_base: first,
            fresh: !first,
            cache_lost: false,
        };
        GroupState {
            meta_generation: 1,
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
        let opening = self.opening.get_mut(&number).expect("the caller has it");
        opening.step = Step::Stamp;
        opening.left = superblock::OFFSETS.len();
        let stamp = Superblock {
            group: self.params.group,
            spec: opening.spec.expect("known since it was filled"),
            disk: self
                .group
                .as_ref()
                .map_or(self.params.fresh_disk, |group| group.disk),
            node: self.params.me,
        };
        let data = Bytes::from(stamp.encode());
        for offset_bytes in superblock::OFFSETS {
            let io = Io::Write {
                offset_bytes,
                data: data.clone(),
                fua: Fua::Yes,
            };
            self.submit(number, Op::Opening { volume: number }, io);
        }
    }

    fn formatted(&mut self, number: VolumeNumber) {
        let opening = self.opening.remove(&number).expect("the caller has it");
        let spec = opening.spec.expect("known since it was filled");
        let layout = meta::layout(spec.size_bytes);
        let dirty = DirtyMap::clean(spec.uuid, layout.blocks);
        let mut volume = Volume::new(spec, layout, opening.zeroed, dirty);
        volume.intents.next_seq = intent::SLOTS;
        volume.joined = opening.purpose == Purpose::Join;
        self.volumes.insert(number, volume);
        if number == VolumeNumber::SYSTEM {
            self.fault = None;
            self.event(Event::VolumeReady { spec });
        }
    }

    fn fail_opening(&mut self, number: VolumeNumber, reason: String) {
        let opening = self.opening.remove(&number).expect("the caller has it");
        self.alarm(format!("volume {number} cannot be attached: {reason}"));
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
                "the backing of volume {number} is not in the group's table"
            ));
            self.volumes.remove(&number);
        }
        let mut lost = BTreeSet::new();
        for (number, entry) in &table {
            let volume = self.volumes.get(number);
            if volume.is_some_and(|volume| volume.spec != entry.spec) {
                self.alarm(format!(
                    "the backing of volume {number} holds another volume"
                ));
                self.volumes.remove(number);
            } else if entry.life != Life::Ready {
                self.volumes.remove(number);
                if self.found.contains(number) {
                    self.emit(Output::Remove { number: *number });
                }
            } else if boot_changed && volume.is_none_or(|volume| volume.was_hot || following) {
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
        }
    }
}
