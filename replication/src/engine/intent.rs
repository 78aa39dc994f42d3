//! Intents: hot before the first write of a region leaves, cold after both sides flushed (D2).

use super::command::Stage;
use super::counters::Span;
use super::disk::Op;
use super::volume::{Heat, Intents, Settle, Volume, regions};
use super::{DiskError, Engine, Io};
use crate::meta::intent::Table;
use crate::mutants::mutant;
use crate::types::{Fua, Time, VolumeNumber};
use bytes::Bytes;
use std::collections::VecDeque;

impl Intents {
    /// The regions of a table whose ring is durable.
    pub(super) fn new(table: Table) -> Self {
        let heat = Heat {
            durable: true,
            ..Heat::default()
        };
        Self {
            hot: table.regions().map(|region| (region, heat)).collect(),
            table,
            writing: None,
            short: false,
            settled: 0,
            repair: false,
            waiting: VecDeque::new(),
        }
    }

    /// A region that is or becomes hot.
    fn heat(&mut self, region: u32) -> &mut Heat {
        self.hot.entry(region).or_insert_with(|| {
            self.table.add(region);
            Heat::default()
        })
    }

    /// Makes every other region cold.
    pub(super) fn keep(&mut self, stays: impl Fn(&Heat) -> bool) {
        self.retain(|_, heat| stays(heat));
    }

    /// Forgets what lies behind that many regions.
    pub(super) fn cut(&mut self, regions: u64) {
        self.retain(|region, _| u64::from(region) < regions);
    }

    fn retain(&mut self, stays: impl Fn(u32, &Heat) -> bool) {
        let Self { hot, table, .. } = self;
        hot.retain(|region, heat| {
            let stays = stays(*region, heat);
            if !stays {
                table.remove(*region);
            }
            stays
        });
    }
}

impl Volume {
    /// Asks for intents to become cold by `due`.
    pub(super) fn settle_by(&mut self, by: Time) {
        if let Settle::Idle { due } = &mut self.settle {
            *due = Some(due.map_or(by, |due| due.min(by)));
        }
    }

    /// Intents are on disk as they are in memory.
    pub(super) fn intents_are_written(&self) -> bool {
        self.intents.table.is_written() && self.intents.writing.is_none()
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
            intents.heat(region).users += 1;
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
        let mut waiting = std::mem::take(&mut intents.waiting);
        let mut full = false;
        for (ticket, admitted) in &mut waiting {
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
                intents.heat(region).users += 1;
            }
            *admitted = true;
        }
        intents.waiting = waiting;
        intents.short |= full;
        let cutoff = volume.done_until();
        let can_cool = |heat: &Heat| heat.users == 0 && heat.last <= cutoff;
        if full && volume.intents.hot.values().any(can_cool) {
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
        let intents = &mut volume.intents;
        let repair = intents.repair && pages_durable;
        if intents.writing.is_some() || intents.table.is_written() && !repair {
            return;
        }
        let write = if repair {
            intents.repair = false;
            intents.table.write_all()
        } else {
            intents.table.write()
        };
        intents.writing = Some(write.stored);
        volume.counters.intent_writes += 1;
        let io = Io::Write {
            offset_bytes: write.offset_bytes,
            data: Bytes::from(write.bytes),
            fua: Fua::Yes,
        };
        self.submit(number, Op::Intent { volume: number }, io);
    }

    pub(super) fn on_intent_done(&mut self, number: VolumeNumber, error: Option<DiskError>) {
        if let Some(error) = error {
            return self.fail_disk(&format!("intents of volume {number}"), error);
        }
        let Some(volume) = self.volumes.get_mut(&number) else {
            return;
        };
        let intents = &mut volume.intents;
        for (place, region) in intents.writing.take().unwrap_or_default() {
            if intents.table.is_stored(place, region) {
                let heat = intents.hot.get_mut(&region);
                heat.expect("it is in the table").durable = true;
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
                self.count(ticket, Span::Intent);
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

    /// Whether intents may become cold. A handover clears all of them itself, and what waits for
    /// room in the ring is not started before it ends.
    pub(super) fn settles(&self) -> bool {
        let serves = self.is_serving() && !self.frozen && self.failed.is_none();
        serves && self.handover.is_none()
    }

    /// Flush, dirty map, record without the cold regions, in that order.
    pub(super) fn advance_settle(&mut self, number: VolumeNumber) {
        let streaming = self.is_streaming();
        let session = self.session_number();
        let quiet = self.settles();
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
                let peer = peer.filter(|_| !mutant!(SettleLocally));
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
    /// Regions without a write since the intents were settled before become cold, or all without
    /// a write since `cutoff` if others wait for their places. What is written often stays hot, so
    /// that its writes do not wait for a record again and again.
    fn cool_until(&mut self, cutoff: u64) {
        let before = std::mem::replace(&mut self.intents.settled, cutoff);
        let short = std::mem::take(&mut self.intents.short);
        let idle_since = if short { cutoff } else { before };
        self.intents
            .keep(|heat| heat.users > 0 || heat.last > idle_since && !mutant!(CoolEarly));
    }
}

fn waiting_range(task: &super::command::Task) -> Option<(u64, u64)> {
    match task.stage {
        Stage::Region { to } => Some((task.next, to)),
        Stage::Lock
        | Stage::Ready
        | Stage::Reading
        | Stage::Piece(_)
        | Stage::Mending(_)
        | Stage::Flushing { .. }
        | Stage::Answer(_) => None,
    }
}
