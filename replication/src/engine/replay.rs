//! Writes that the peer may not have made stable, kept to be sent again (law D4).
//!
//! A mirrored write is kept until a flush that follows it was answered, a write made while there
//! is no session until it was sent and flushed too. A short interruption then costs no copying:
//! the same incarnation of the peer says which frames of the last session it applied, and gets the
//! others, in the order of each volume, before anything new. Blocks that were dirty for kept
//! writes alone become clean by the flush that follows (law D1).
//!
//! Invariants:
//! - while a session streams, every kept write was sent in it or is on the peer's device;
//! - each owed block has its kept writes, or was sent them in this session;
//! - what is kept costs at most `retain_bytes`; beyond it nothing is, and blocks are copied.

use super::command::{Payload, Stage};
use super::session::What;
use super::volume::blocks;
use super::write::Leg;
use super::{Engine, Event};
use crate::meta::group::Life;
use crate::mutants::mutant;
use crate::types::{Fua, Incarnation, Time, VolumeNumber};
use crate::wire::applied::Applied;
use crate::wire::{FLAG_FUA, Kind, WireError};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// What keeping a write costs besides its data.
const COST_BYTES: u64 = 512;

/// A write that is kept.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) ticket: u64,
    pub(super) range: Range<u64>,
    pub(super) payload: Payload,
    pub(super) fua: Fua,
    pub(super) sent: Sent,
}

/// What is known of the way of a kept write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It was made while there was no session.
    No,
    /// In the last session that streamed, at this place.
    At(u64),
    /// The peer has said that it is on its device.
    Applied,
}

/// The kept writes of all volumes.
#[derive(Debug, Default)]
pub(super) struct Kepts {
    /// By volume and number in it.
    writes: BTreeMap<(VolumeNumber, u64), Kept>,
    cost_bytes: u64,
    /// Who gets them, as of the last session that streamed; nobody gets anything without one.
    peer: Option<Incarnation>,
    /// Number of that session.
    session: u32,
    /// Newest write that was never sent, by its range: a newer one of that range replaces it.
    unsent: BTreeMap<(VolumeNumber, u64, u64), u64>,
    /// When the peer is to be asked for a flush.
    flush_at: Option<Time>,
    /// Writes sent again since start, and blocks read to be copied.
    pub(super) replayed: u64,
    pub(super) blocks_read: u64,
}

impl Kept {
    fn cost_bytes(&self) -> u64 {
        match &self.payload {
            Payload::Data(data) => data.len() as u64 + COST_BYTES,
            Payload::Zeroes => COST_BYTES,
        }
    }

    /// The frame that carries the write.
    pub(super) fn frame(&self) -> (Kind, u8, Bytes) {
        let forced = self.fua == Fua::Yes && !mutant!(DropFua);
        let flags = if forced { FLAG_FUA } else { 0 };
        match &self.payload {
            Payload::Data(data) => (Kind::Write, flags, data.clone()),
            Payload::Zeroes => (Kind::WriteZeroes, flags, Bytes::new()),
        }
    }
}

impl Kepts {
    pub(super) const fn peer(&self) -> Option<Incarnation> {
        self.peer
    }

    pub(super) fn contains(&self, volume: VolumeNumber, number: u64) -> bool {
        self.writes.contains_key(&(volume, number))
    }

    pub(super) const fn cost_bytes(&self) -> u64 {
        self.cost_bytes
    }

    /// The peer has the write on its device.
    pub(super) fn applied(&mut self, volume: VolumeNumber, number: u64) {
        if let Some(kept) = self.writes.get_mut(&(volume, number)) {
            kept.sent = Sent::Applied;
        }
    }

    /// Writes of the volume up to `number` are stable, or not to be sent again.
    pub(super) fn drop_until(&mut self, volume: VolumeNumber, number: u64) {
        let range = (volume, 0)..=(volume, number);
        let gone: Vec<_> = self.writes.range(range).map(|(key, _)| *key).collect();
        for key in gone {
            let kept = self.writes.remove(&key).expect("listed above");
            self.cost_bytes -= kept.cost_bytes();
        }
    }

    /// A newer write of the same range makes one that was never sent superfluous.
    fn replace(&mut self, volume: VolumeNumber, number: u64, range: &Range<u64>) {
        let place = (volume, range.start, range.end);
        let Some(older) = self.unsent.insert(place, number) else {
            return;
        };
        if let Some(kept) = self.writes.remove(&(volume, older)) {
            self.cost_bytes -= kept.cost_bytes();
        }
    }

    fn clear(&mut self) {
        self.writes.clear();
        self.unsent.clear();
        self.cost_bytes = 0;
        self.flush_at = None;
    }

    fn volumes(&self) -> BTreeSet<VolumeNumber> {
        self.writes.keys().map(|(volume, _)| *volume).collect()
    }

    /// Learns what the peer applied. `false` if that says nothing about these writes.
    fn learn(&mut self, applied: &Applied) -> bool {
        if applied.session > self.session {
            return false; // what was kept was sent again in that one: somebody forgot something
        }
        let same = applied.session == self.session;
        for kept in self.writes.values_mut() {
            if let Sent::At(seq) = kept.sent
                && same
                && applied.contains(seq)
            {
                kept.sent = Sent::Applied;
            }
        }
        true
    }
}

impl Engine {
    /// Keeps a write that is sent, or one that will be.
    pub(super) fn keep(&mut self, number: VolumeNumber, write: u64, kept: Kept) {
        if self.kepts.peer.is_none() {
            return self.drop_kept(number, write, &kept.range);
        }
        if kept.sent == Sent::No {
            self.kepts.replace(number, write, &kept.range);
        }
        let cost_bytes = kept.cost_bytes();
        if self.kepts.cost_bytes + cost_bytes > self.params.limits.retain_bytes {
            self.drop_kept(number, write, &kept.range);
            return self.overflow();
        }
        if kept.sent == Sent::No {
            for block in blocks(kept.range.start, kept.range.end) {
                self.volume_mut(number).dirty.owe(block, write);
            }
        }
        self.kepts.cost_bytes += cost_bytes;
        self.kepts.writes.insert((number, write), kept);
        let half = self.kepts.cost_bytes >= self.params.limits.retain_bytes / 2;
        let due = if half {
            self.now
        } else {
            self.now.plus_ms(self.params.limits.settle_ms / 2)
        };
        self.kepts.flush_at = Some(self.kepts.flush_at.map_or(due, |at| at.min(due)));
    }

    /// A write that nobody keeps: its blocks will be copied if the session ends before a flush.
    fn drop_kept(&mut self, number: VolumeNumber, write: u64, range: &Range<u64>) {
        if self.is_streaming() {
            self.volume_mut(number).unkept = write;
        } else {
            self.dirty_range(number, range.start, range.end);
        }
    }

    /// There is no room for what the peer lacks: all of that will be copied.
    fn overflow(&mut self) {
        self.kepts.clear();
        if self.is_streaming() {
            for volume in self.volumes.values_mut() {
                volume.unkept = volume.last_write;
                if !volume.peer_flush.running {
                    volume.peer_flush.ask();
                }
            }
            self.step();
        } else {
            self.forget_kept();
        }
    }

    /// Nothing is sent again: what is owed is copied.
    pub(super) fn forget_kept(&mut self) {
        self.kepts.clear();
        self.kepts.peer = None;
        for volume in self.volumes.values_mut() {
            volume.dirty.disown();
            volume.unkept = 0;
        }
    }

    /// The session is gone: what was mirrored and is not known stable becomes dirty, for its kept
    /// writes alone if there are all of them (law R1, H28).
    pub(super) fn owe_unstable(&mut self) {
        for (number, volume) in &mut self.volumes {
            let whole = self.kepts.peer.is_some() && volume.unkept == 0;
            volume.unkept = 0;
            if !whole {
                volume.dirty.disown();
                self.kepts.drop_until(*number, u64::MAX);
            }
            for (block, write) in std::mem::take(&mut volume.unstable) {
                if whole {
                    volume.dirty.owe(block, write);
                } else {
                    volume.dirty.set(block);
                }
            }
        }
    }

    pub(super) fn on_applied_state(&mut self, payload: &[u8]) -> Result<(), WireError> {
        let applied = Applied::parse(payload)?;
        let source = self.source.as_mut().expect("the caller looked");
        source.applied = Some(applied);
        Ok(())
    }

    /// The peer's copy may be joined by what the masks say. Sees whether kept writes are among
    /// what it lacks, and which; in any doubt they are forgotten.
    pub(super) fn match_kept(&mut self) -> bool {
        let source = self.source.as_mut().expect("the caller has a session");
        let theirs = source.theirs.expect("it has proven who it is").incarnation;
        let applied = source.applied.take();
        let known = source.state.iter().flat_map(|state| &state.volumes);
        let known: BTreeSet<VolumeNumber> = known.map(|volume| volume.number).collect();
        let same = self.kepts.peer == Some(theirs) || mutant!(ReplayToAnybody);
        let ours = applied.filter(|applied| applied.primary == self.params.incarnation);
        let heard = ours.is_some_and(|applied| self.kepts.learn(&applied));
        if !same || !(heard || mutant!(ReplayToAnybody)) {
            self.forget_kept();
            return false;
        }
        for number in self.kepts.volumes() {
            let entry = self.group.as_ref().and_then(|g| g.volumes.get(&number));
            let ready = entry.is_some_and(|entry| entry.life == Life::Ready);
            if !ready || !known.contains(&number) {
                self.kepts.drop_until(number, u64::MAX);
                if let Some(volume) = self.volumes.get_mut(&number) {
                    volume.dirty.disown();
                }
            }
        }
        true
    }

    /// The stream begins: first of all with the kept writes that the peer lacks.
    pub(super) fn replay(&mut self) {
        let source = self.source.as_ref().expect("the caller has a session");
        let peer = source.theirs.expect("it has proven who it is").incarnation;
        self.kepts.session = source.number;
        self.kepts.peer = Some(peer);
        self.kepts.unsent.clear();
        let (mut sent, mut sent_bytes) = (0, 0);
        let keys: Vec<_> = self.kepts.writes.keys().copied().collect();
        for (number, write) in keys {
            let kept = self.kepts.writes[&(number, write)].clone();
            let ticket = kept.ticket;
            if kept.sent == Sent::Applied {
                self.on_piece_acked(ticket, write);
                continue;
            }
            self.renew_leg(ticket, write);
            // it counts against `retain_bytes`, not against the window of new writes
            let what = What::Write {
                ticket,
                number: write,
                bytes: 0,
            };
            let (kind, flags, data) = kept.frame();
            let range = kept.range;
            sent += 1;
            sent_bytes += range.end - range.start;
            let seq = self.send_range((kind, flags), what, (number, range), data);
            let kept = self.kepts.writes.get_mut(&(number, write));
            kept.expect("looked at above").sent = Sent::At(seq);
        }
        if !self.kepts.writes.is_empty() {
            self.kepts.flush_at = Some(self.now);
        }
        self.kepts.replayed += sent;
        if sent > 0 {
            self.event(Event::Replayed {
                writes: sent,
                bytes: sent_bytes,
            });
        }
    }

    /// A piece that was held is on its way again.
    fn renew_leg(&mut self, ticket: u64, write: u64) {
        let stage = self.tasks.get_mut(&ticket).map(|task| &mut task.stage);
        if let Some(Stage::Piece(piece)) = stage
            && piece.number == write
        {
            piece.peer = Leg::Pending;
        }
    }

    /// Asks for flushes often enough that little is kept.
    pub(super) fn advance_kept(&mut self) {
        let due = self.kept_at().is_some_and(|at| at <= self.now);
        if !due {
            return;
        }
        for number in self.kepts.volumes() {
            let Some(volume) = self.volumes.get_mut(&number) else {
                continue;
            };
            if !volume.peer_flush.running {
                volume.peer_flush.ask();
            }
        }
        self.kepts.flush_at = None;
        self.step();
    }

    pub(super) fn kept_at(&self) -> Option<Time> {
        self.kepts.flush_at.filter(|_| self.is_streaming())
    }

    /// The flush of the volume that covers its writes up to `cutoff` was answered.
    pub(super) fn kept_is_stable(&mut self, number: VolumeNumber, cutoff: u64) {
        self.thawed = false;
        self.kepts.drop_until(number, cutoff);
        let due = self.now.plus_ms(self.params.limits.settle_ms / 2);
        if self.kepts.writes.is_empty() {
            self.kepts.flush_at = None;
        } else if self.kepts.flush_at.is_none() {
            self.kepts.flush_at = Some(due);
        }
        let Some(volume) = self.volumes.get_mut(&number) else {
            return;
        };
        volume.dirty.pay(cutoff);
        if volume.unkept <= cutoff {
            volume.unkept = 0;
        }
    }
}
