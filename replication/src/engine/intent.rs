//! Intents: hot before the first write of a region leaves, cold after both sides flushed (D2).

use super::command::Stage;
use super::disk::Op;
use super::volume::{Settle, Volume, regions};
use super::{DiskError, Engine, Io};
use crate::meta::intent;
use crate::types::{Fua, Time, VolumeNumber};
use bytes::Bytes;

impl Volume {
    /// Asks for intents to become cold by `due`.
    pub(super) fn settle_by(&mut self, by: Time) {
        if let Settle::Idle { due } = &mut self.settle {
            *due = Some(due.map_or(by, |due| due.min(by)));
        }
    }

    /// Intents are on disk as they are in memory.
    pub(super) const fn intents_are_written(&self) -> bool {
        !self.intents.changed && self.intents.writing.is_none()
    }
}

impl Engine {
    /// Uses the regions of a range if all their intents are durable and nobody waits before us.
    pub(super) fn heat_at_once(&mut self, number: VolumeNumber, from: u64, to: u64) -> bool {
        let intents = &mut self.volume_mut(number).intents;
        let durable = |region| intents.hot.get(&region).is_some_and(|heat| heat.durable);
        if !intents.waiting.is_empty() || !regions(from, to).all(durable) {
            return false;
        }
        for region in regions(from, to) {
            intents.hot.entry(region).or_default().users += 1;
        }
        true
    }

    /// Gives regions to those who wait, writes a record for all of them, starts those whose
    /// record is durable.
    pub(super) fn advance_intents(&mut self, number: VolumeNumber) {
        self.admit_regions(number);
        self.write_record(number);
        self.start_waiting(number);
    }

    fn admit_regions(&mut self, number: VolumeNumber) {
        let (max, now) = (self.params.limits.hot_regions, self.now);
        let (volumes, tasks) = (&mut self.volumes, &self.tasks);
        let Some(volume) = volumes.get_mut(&number) else {
            return;
        };
        let intents = &mut volume.intents;
        let mut full = false;
        for (ticket, admitted) in &mut intents.waiting {
            let Some((from, to)) = tasks.get(ticket).and_then(waiting_range) else {
                continue;
            };
            if *admitted {
                continue;
            }
            let missing = regions(from, to).filter(|region| !intents.hot.contains_key(region));
            if intents.hot.len() + missing.count() > max {
                full = true;
                break;
            }
            for region in regions(from, to) {
                let heat = intents.hot.entry(region).or_default();
                heat.users += 1;
                intents.changed |= !heat.durable;
            }
            *admitted = true;
        }
        if full && volume.intents.hot.values().any(|heat| heat.users == 0) {
            volume.settle_by(now);
        }
    }

    fn write_record(&mut self, number: VolumeNumber) {
        if self.failed.is_some() {
            return;
        }
        let Some(volume) = self.volumes.get_mut(&number) else {
            return;
        };
        let pages_durable = volume.dirty.is_durable(volume.dirty.version());
        let uuid = volume.spec.uuid;
        let intents = &mut volume.intents;
        if !intents.changed || intents.writing.is_some() {
            return;
        }
        let regions = intents.hot.keys().copied().collect();
        let mut seq = intents.next_seq;
        let bytes = if intents.repair && pages_durable {
            seq = seq.next_multiple_of(intent::SLOTS);
            intents.repair = false;
            intents.next_seq = seq + intent::SLOTS;
            intent::encode_ring(uuid, seq, &regions)
        } else {
            intents.next_seq = seq + 1;
            intent::encode(uuid, seq, &regions)
        };
        intents.changed = false;
        intents.writing = Some(regions);
        let offset_bytes = intent::offset_of(seq);
        let io = Io::Write {
            offset_bytes,
            data: Bytes::from(bytes),
            fua: Fua::Yes,
        };
        self.submit(number, Op::Intent { volume: number }, io);
    }

    pub(super) fn on_intent_done(&mut self, number: VolumeNumber, error: Option<DiskError>) {
        if let Some(error) = error {
            return self.fail_disk(&format!("intents of volume {number}, {error:?}"));
        }
        let Some(volume) = self.volumes.get_mut(&number) else {
            return;
        };
        let written = volume.intents.writing.take().unwrap_or_default();
        for region in written {
            if let Some(heat) = volume.intents.hot.get_mut(&region) {
                heat.durable = true;
            }
        }
    }

    fn start_waiting(&mut self, number: VolumeNumber) {
        loop {
            let Some(volume) = self.volumes.get_mut(&number) else {
                return;
            };
            let intents = &mut volume.intents;
            let Some((ticket, admitted)) = intents.waiting.front().copied() else {
                return;
            };
            let Some((from, to)) = self.tasks.get(&ticket).and_then(waiting_range) else {
                intents.waiting.pop_front();
                continue;
            };
            let durable = |region| intents.hot.get(&region).is_some_and(|heat| heat.durable);
            if !admitted || !regions(from, to).all(durable) {
                return;
            }
            intents.waiting.pop_front();
            if self.can_write() {
                self.send_piece(ticket);
            } else {
                self.give_back(number, from, to);
                self.make_ready(ticket);
            }
        }
    }

    fn give_back(&mut self, number: VolumeNumber, from: u64, to: u64) {
        for region in regions(from, to) {
            let heat = self.volume_mut(number).intents.hot.get_mut(&region);
            heat.expect("it was admitted").users -= 1;
        }
    }

    /// Flush, dirty map, record without the cold regions, in that order.
    pub(super) fn advance_settle(&mut self, number: VolumeNumber) {
        let streaming = self.is_streaming();
        let session = self.session_number();
        let quiet = self.is_serving() && !self.frozen && self.failed.is_none();
        let now = self.now;
        let Some(volume) = self.volumes.get_mut(&number) else {
            return;
        };
        match volume.settle {
            Settle::Idle { due } => {
                if quiet && due.is_some_and(|due| due <= now) {
                    let cutoff = volume.done_until();
                    let local = volume.local_flush.ask();
                    let peer = streaming.then(|| volume.peer_flush.ask());
                    volume.settle = Settle::Flushing {
                        cutoff,
                        local,
                        peer,
                        session,
                    };
                    self.steps += 1;
                }
            }
            Settle::Flushing {
                cutoff,
                local,
                peer,
                session: began,
            } => {
                if peer.is_some() && began != session {
                    // what was mirrored is dirty now: begin again without that session
                    volume.settle = Settle::Idle { due: Some(now) };
                    self.steps += 1;
                    return;
                }
                let flushed = volume.local_flush.done >= local
                    && peer.is_none_or(|peer| volume.peer_flush.done >= peer);
                if flushed {
                    let version = volume.want_pages();
                    volume.settle = Settle::Pages { cutoff, version };
                    self.steps += 1;
                }
            }
            Settle::Pages { cutoff, version } => {
                if volume.dirty.is_durable(version) {
                    volume.cool_until(cutoff);
                    let due = (!volume.intents.hot.is_empty())
                        .then(|| now.plus_ms(self.params.limits.settle_ms));
                    volume.settle = Settle::Idle { due };
                    self.steps += 1;
                }
            }
        }
    }
}

impl Volume {
    fn cool_until(&mut self, cutoff: u64) {
        let before = self.intents.hot.len();
        self.intents
            .hot
            .retain(|_, heat| heat.users > 0 || heat.last > cutoff);
        self.intents.changed |= self.intents.hot.len() != before || self.intents.repair;
    }
}

fn waiting_range(task: &super::command::Task) -> Option<(u64, u64)> {
    match task.stage {
        Stage::Region { to } => Some((task.next, to)),
        Stage::Lock
        | Stage::Ready
        | Stage::Reading
        | Stage::Piece(_)
        | Stage::Flushing { .. }
        | Stage::Answer(_) => None,
    }
}
