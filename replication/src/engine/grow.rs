//! A volume becomes larger while it is in use.
//!
//! ```text
//! Room ──the backing is long enough──▶ Zeroing ──▶ Sync ──▶ Stamp ──▶ done here
//! ```
//!
//! What is new reads zero, durably, before the superblocks say the new size, and these before the
//! group's table does; the table decides. The primary asks the peer to be done, with its table too,
//! before it enters the new size into its own, and tells it to nobody before that is durable: so
//! whoever can be promoted has every byte that an initiator has seen. A secondary that finds its
//! volume smaller than the primary's grows it at the handshake; one that finds it larger, which
//! no initiator has seen, takes the primary's size (law D11).
//!
//! Both sides are zero in what is new (law D6): it is clean until it is written, and what is
//! written without the peer is dirty like any other block.

use super::disk::Op;
use super::{DiskError, Engine, Event, Io, IoDone, Opened, Output};
use crate::meta::superblock::{self, Superblock};
use crate::meta::{self, Layout};
use crate::mutants::mutant;
use crate::types::{Fua, SessionId, VolumeNumber, VolumeSpec, Zeroed};
use crate::wire::Refusal;
use bytes::Bytes;

/// A growth under way; one at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growing {
    /// Tells its operations from those of an abandoned one.
    ticket: u64,
    spec: VolumeSpec,
    asker: Asker,
    layout: Layout,
    step: Step,
    /// Operations of this step in flight.
    left: usize,
}

/// Who asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// A command of the caller, as primary.
    Job,
    /// The primary, by a frame that has to be answered.
    Stream { session: SessionId, seq: u64 },
    /// The primary's table at a handshake.
    Table,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Room,
    Zeroing,
    Sync,
    Stamp,
}

impl Engine {
    /// Why an attached volume cannot have a size; none if it can.
    pub(super) fn why_not_grow(&self, spec: VolumeSpec) -> Option<String> {
        let volume = self.volume_ref(spec.number);
        let most = meta::size_max_bytes(volume.layout.data_offset);
        let size_bytes = spec.size_bytes;
        if size_bytes < volume.spec.size_bytes {
            return Some(format!(
                "it has {} bytes on the disks and cannot shrink to {size_bytes}: the data at its \
                 end would be lost; make a smaller volume and copy what is needed",
                volume.spec.size_bytes
            ));
        }
        if !meta::is_size(size_bytes) {
            return Some(format!(
                "{size_bytes} bytes is not a multiple of 4096 in range"
            ));
        }
        let beyond = meta::layout_at(size_bytes, volume.layout.data_offset).is_none();
        beyond.then(|| {
            format!(
                "it can grow to {most} bytes at most, because its metadata was laid out for a \
                 smaller volume; make a new volume and copy"
            )
        })
    }

    /// Begins to make an attached volume larger here. How it ends is told to the asker.
    pub(super) fn begin_growth(&mut self, spec: VolumeSpec, asker: Asker) {
        assert!(self.growing.is_none(), "one growth at a time");
        if let Some(reason) = self.why_not_grow(spec) {
            return self.tell_asker(spec, asker, Err(reason));
        }
        let volume = self.volume_ref(spec.number);
        let layout = meta::layout_at(spec.size_bytes, volume.layout.data_offset)
            .expect("it was looked at just now");
        let held_bytes = volume.backing_bytes;
        let ticket = self.take_ticket();
        self.growing = Some(Growing {
            ticket,
            spec,
            asker,
            layout,
            step: Step::Room,
            left: 0,
        });
        if layout.backing_bytes <= held_bytes {
            return self.zero_growth(held_bytes, Zeroed::Unknown);
        }
        self.emit(Output::Grow {
            number: spec.number,
            backing_bytes: layout.backing_bytes,
        });
    }

    /// The backing is longer, or cannot be.
    pub(super) fn on_grown(&mut self, number: VolumeNumber, result: Result<Opened, String>) {
        let waits = |growing: &Growing| growing.step == Step::Room && growing.spec.number == number;
        if !self.growing.as_ref().is_some_and(waits) || self.abandons_growth() {
            return;
        }
        let wanted = self
            .growing
            .map_or(0, |growing| growing.layout.backing_bytes);
        match result {
            Ok(opened) if opened.size_bytes >= wanted => {
                self.zero_growth(opened.size_bytes, opened.zeroed);
            }
            Ok(opened) => self.end_growth(Err(format!(
                "its backing has {} bytes and needs {wanted}",
                opened.size_bytes
            ))),
            Err(reason) => self.end_growth(Err(reason)),
        }
    }

    /// Makes what is new read zero. The superblocks at the old end are part of it.
    fn zero_growth(&mut self, backing_bytes: u64, zeroed: Zeroed) {
        let growing = self.growing.as_mut().expect("the caller has it");
        let (number, layout, ticket) = (growing.spec.number, growing.layout, growing.ticket);
        let new_bytes = growing.spec.size_bytes;
        (growing.step, growing.left) = (Step::Zeroing, 1);
        let Some(volume) = self.volumes.get_mut(&number) else {
            return self.end_growth(Err("it was deleted".into()));
        };
        let from = volume.layout.data_offset + volume.spec.size_bytes;
        let end = layout.data_offset + new_bytes;
        // of a backing that was made longer only the old end was ever written
        let to = match zeroed {
            Zeroed::Proven => end.min(volume.backing_bytes),
            Zeroed::Unknown => end,
        };
        volume.backing_bytes = volume.backing_bytes.max(backing_bytes);
        if from >= to || mutant!(GrowDirty) {
            return self.sync_growth();
        }
        let io = Io::WriteZeroes {
            offset_bytes: from,
            len_bytes: to - from,
            fua: Fua::No,
        };
        self.submit(number, Op::Growing { ticket }, io);
    }

    fn sync_growth(&mut self) {
        let growing = self.growing.as_mut().expect("the caller has it");
        let (number, ticket) = (growing.spec.number, growing.ticket);
        (growing.step, growing.left) = (Step::Sync, 1);
        self.submit(number, Op::Growing { ticket }, Io::Flush);
    }

    fn stamp_growth(&mut self) {
        let (group, node) = (self.params.group, self.params.me);
        let disk = self.group.as_ref().expect("a volume has a group").disk;
        let growing = self.growing.as_mut().expect("the caller has it");
        let (number, ticket) = (growing.spec.number, growing.ticket);
        let volume = self.volumes.get_mut(&number).expect("the caller looked");
        volume.stamps += 1;
        let stamp = Superblock {
            group,
            spec: growing.spec,
            disk,
            node,
            data_offset: growing.layout.data_offset,
            sequence: volume.stamps,
        };
        let offsets = superblock::offsets(volume.backing_bytes);
        (growing.step, growing.left) = (Step::Stamp, offsets.len());
        let data = Bytes::from(stamp.encode());
        for offset_bytes in offsets {
            let io = Io::Write {
                offset_bytes,
                data: data.clone(),
                fua: Fua::Yes,
            };
            self.submit(number, Op::Growing { ticket }, io);
        }
    }

    pub(super) fn on_growing_done(&mut self, ticket: u64, result: Result<IoDone, DiskError>) {
        let Some(growing) = self.growing.as_mut().filter(|it| it.ticket == ticket) else {
            return;
        };
        let number = growing.spec.number;
        growing.left = growing.left.saturating_sub(1);
        if self.abandons_growth() {
            return;
        }
        if !self.volumes.contains_key(&number) {
            return self.end_growth(Err("it was deleted".into()));
        }
        if let Err(error) = result {
            return self.end_growth(Err(format!("its new end cannot be written, {error:?}")));
        }
        let growing = self.growing.as_ref().expect("looked at above");
        if growing.left > 0 {
            return;
        }
        match growing.step {
            Step::Room => {}
            Step::Zeroing => self.sync_growth(),
            Step::Sync => self.stamp_growth(),
            Step::Stamp => self.end_growth(Ok(())),
        }
    }

    /// Who asked is gone: a box that was sealed, or has another role, writes no more of it (R3).
    /// The asker of another session asks again.
    fn abandons_growth(&mut self) -> bool {
        let asker = self.growing.as_ref().expect("the caller has it").asker;
        let target = self.target.as_ref();
        let gone = match asker {
            Asker::Job => !self.is_primary(),
            Asker::Stream { session, .. } => target.is_none_or(|target| target.id != session),
            Asker::Table => target.is_none(),
        };
        if gone {
            self.growing = None;
            self.step();
        }
        gone
    }

    fn end_growth(&mut self, result: Result<(), String>) {
        let growing = self.growing.take().expect("the caller has it");
        self.step();
        self.tell_asker(growing.spec, growing.asker, result);
    }

    fn tell_asker(&mut self, spec: VolumeSpec, asker: Asker, result: Result<(), String>) {
        match asker {
            Asker::Job => self.on_growth_of_job(spec, result),
            Asker::Stream { session, seq } => {
                if self
                    .target
                    .as_ref()
                    .is_none_or(|target| target.id != session)
                {
                    return; // the next handshake settles it
                }
                match result {
                    Ok(()) => {
                        let version = self.enter_size(spec);
                        self.hold_target(version, seq);
                    }
                    Err(reason) => self.refuse_frame(Refusal::Volume, seq, &reason),
                }
            }
            Asker::Table if self.is_primary() => {}
            Asker::Table => match result {
                Ok(()) => {
                    self.enter_size(spec);
                }
                Err(reason) => {
                    self.open_failures.insert(spec.number, reason);
                }
            },
        }
    }

    /// The volume has this size here, in memory at once and in the table soon: the version to wait
    /// for.
    pub(super) fn enter_size(&mut self, spec: VolumeSpec) -> u64 {
        let number = spec.number;
        let volume = self.volume_mut(number);
        let before = volume.spec.size_bytes;
        volume.take_size(spec.size_bytes);
        if before < spec.size_bytes {
            self.event(Event::VolumeGrown { spec });
        }
        self.change_group(|group| {
            if let Some(entry) = group.volumes.get_mut(&number) {
                entry.spec.size_bytes = spec.size_bytes;
            }
        })
    }

    /// Secondary: makes an attached volume as large as the primary's; whether it is.
    pub(super) fn settle_size(&mut self, spec: VolumeSpec) -> bool {
        let held = self.volume_ref(spec.number).spec.size_bytes;
        if held > spec.size_bytes {
            self.enter_size(spec); // a growth that the primary does not know: nobody has seen it
        } else if held < spec.size_bytes {
            if self.growing.is_none() {
                self.begin_growth(spec, Asker::Table);
            }
            return false;
        }
        true
    }

    /// Secondary: an ordered frame makes a volume larger.
    pub(super) fn grow_for_stream(&mut self, spec: VolumeSpec, seq: u64) {
        let session = self.target.as_ref().expect("it sent the frame").id;
        let volume = self.volumes.get(&spec.number);
        let refused = match volume {
            None => Some("it is not here".to_owned()),
            Some(volume) if !volume.spec.is_same_volume(&spec) => {
                Some("it is another volume here".to_owned())
            }
            Some(_) if self.growing.is_some() => Some("another volume grows".to_owned()),
            Some(_) => None,
        };
        match refused {
            Some(reason) => self.refuse_frame(Refusal::Volume, seq, &reason),
            None => self.begin_growth(spec, Asker::Stream { session, seq }),
        }
    }
}
