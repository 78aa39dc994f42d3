//! The life of a write: intents, both disks, join, complete.
//!
//! A write goes out in pieces (one, unless it is huge). A piece waits until its regions' intents
//! are durable (law D2), is submitted and sent at once, and is done when it is on the device of
//! every member of the in-sync set (law R4).

use super::command::{Action, Stage, piece_max_bytes};
use super::counters::Span;
use super::disk::Op;
use super::replay::{Kept, Sent};
use super::session::What;
use super::volume::{blocks, regions};
use super::{Completed, DiskError, Engine};
use crate::mutants::mutant;
use crate::types::{Fua, Time, VolumeNumber};

/// A piece on its way to all members.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// Its number in the volume.
    pub(super) number: u64,
    /// It ends here; the next one begins here.
    pub(super) to: u64,
    pub(super) local: Leg,
    pub(super) peer: Leg,
    sent: Time,
}

/// One of the two ways of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leg {
    /// Not taken: the blocks are dirty instead, or the session is gone.
    Off,
    Pending,
    Done,
    /// There is no room.
    Full,
}

impl Engine {
    /// Takes the next piece of a write; the gate is open.
    pub(super) fn start_piece(&mut self, ticket: u64) {
        let max = piece_max_bytes(&self.params.limits);
        let task = self.tasks.get_mut(&ticket).expect("the caller has it");
        let to = task.end.min(task.next + max);
        task.stage = Stage::Region { to };
        let (number, from) = (task.volume, task.next);
        self.count(ticket, Span::Admit);
        if self.heat_at_once(number, from, to) || mutant!(SkipIntent) {
            self.send_piece(ticket);
        } else {
            self.volume_mut(number)
                .intents
                .waiting
                .push_back((ticket, false));
            self.step();
        }
    }

    /// The intents are durable: submits the piece and sends it, in parallel.
    pub(super) fn send_piece(&mut self, ticket: u64) {
        let task = &self.tasks[&ticket];
        let (number, from) = (task.volume, task.next);
        let Stage::Region { to } = task.stage else {
            unreachable!("the caller looked")
        };
        let Action::Write { payload, fua, .. } = &task.action else {
            unreachable!("only writes have pieces")
        };
        let fua = *fua;
        let payload = payload.part(from - task.start, to - task.start);
        let mirrored = self.mirrors(number, from, to);
        let alone = !self.counts_peer();
        let sent = self.now;
        let volume = self.volume_mut(number);
        volume.last_write += 1;
        let write = volume.last_write;
        volume.active.insert(write);
        volume.zeroed = crate::types::Zeroed::Unknown;
        if mirrored {
            for block in blocks(from, to) {
                volume.unstable.insert(block, write);
            }
        }
        let offset_bytes = volume.layout.data_offset + from;
        // alone, acknowledgements are stable (law D5)
        let local_fua = if alone { Fua::Yes } else { fua };
        let io = payload.io(offset_bytes, to - from, local_fua);
        let peer = if mirrored { Leg::Pending } else { Leg::Off };
        let local = Leg::Pending;
        let piece = Piece {
            number: write,
            to,
            local,
            peer,
            sent,
        };
        self.tasks.get_mut(&ticket).expect("looked at above").stage = Stage::Piece(piece);
        let op = Op::Piece {
            volume: number,
            ticket,
            number: write,
        };
        self.submit(number, op, io);
        let mut kept = Kept {
            ticket,
            range: from..to,
            payload,
            fua,
            sent: Sent::No,
        };
        if mirrored {
            let (kind, flags, data) = kept.frame();
            let what = What::Write {
                ticket,
                number: write,
                bytes: to - from,
            };
            let seq = self.send_range((kind, flags), what, (number, from..to), data);
            kept.sent = Sent::At(seq);
            self.keep(number, write, kept);
        } else if !mutant!(DropAck) || !self.is_streaming() {
            assert!(
                !self.needs_peer(),
                "R4: a write is not kept from a peer that is needed"
            );
            if self.is_streaming() {
                self.dirty_range(number, from, to);
            } else {
                self.keep(number, write, kept); // until the peer is back
            }
        }
    }

    /// Whether a write is to be sent. While the peer is not needed, a write to nothing but blocks
    /// that will be copied anyway is not, nor one that does not fit the window.
    fn mirrors(&self, number: VolumeNumber, from: u64, to: u64) -> bool {
        let Some(source) = self.source.as_ref().filter(|source| source.is_streaming()) else {
            return false;
        };
        // The system volume is spared, so that the other box still knows what to serve.
        if mutant!(DropAck) && self.counts_peer() && number != VolumeNumber::SYSTEM {
            return false;
        }
        if self.needs_peer() {
            return true;
        }
        let volume = self.volume_ref(number);
        let waits = |block| {
            let copied = volume.dirty.contains(block) && !volume.dirty.is_owed(block);
            copied && !source.sent_chunks.contains_key(&(number, block))
        };
        let fits = source.mirror_bytes + (to - from) <= self.params.limits.mirror_window_bytes;
        (fits || self.pacer.holds_writes) && !blocks(from, to).all(waits)
    }

    /// A copy that would not end slows writes down: they wait until the peer has taken what is on
    /// its way, instead of being copied once more later.
    pub(super) fn holds_writes(&self) -> bool {
        let full = |source: &super::session::Source| {
            source.mirror_bytes >= self.params.limits.mirror_window_bytes
        };
        self.pacer.holds_writes && self.source.as_ref().is_some_and(full)
    }

    /// The blocks of a range will be copied (again).
    pub(super) fn dirty_range(&mut self, number: VolumeNumber, from: u64, to: u64) {
        for block in blocks(from, to) {
            self.volume_mut(number).dirty.set(block);
            if let Some(source) = &mut self.source
                && !mutant!(KeepSentChunk)
            {
                source.sent_chunks.remove(&(number, block));
            }
        }
    }

    pub(super) fn on_piece_done(
        &mut self,
        number: VolumeNumber,
        ticket: u64,
        write: u64,
        error: Option<DiskError>,
    ) {
        if let Some(volume) = self.volumes.get_mut(&number) {
            volume.active.remove(&write);
        }
        let needed = self.needs_peer_lastingly();
        let task = self.tasks.get_mut(&ticket);
        let Some(Stage::Piece(piece)) = task.map(|task| &mut task.stage) else {
            return;
        };
        if piece.number != write {
            return;
        }
        match error {
            None => {
                piece.local = Leg::Done;
                self.count_leg(ticket, Span::Local);
                self.join(ticket);
            }
            Some(DiskError::NoSpace) if needed => {
                piece.local = Leg::Full;
                self.tell_full(super::mend::Pool::Ours);
                self.join(ticket);
            }
            Some(error) if needed => {
                self.fail_disk(&format!("a write to volume {number}"), error);
            }
            Some(error) => {
                let to = piece.to;
                if error == DiskError::NoSpace {
                    self.tell_full(super::mend::Pool::Ours);
                }
                let from = self.tasks[&ticket].next;
                self.dirty_range(number, from, to);
                self.cool(number, from, to, write);
                self.finish(ticket, Err(error.into()));
            }
        }
    }

    /// The peer has the piece on its device.
    pub(super) fn on_piece_acked(&mut self, ticket: u64, number: u64) {
        let task = self.tasks.get_mut(&ticket);
        if let Some(Stage::Piece(piece)) = task.map(|task| &mut task.stage)
            && piece.number == number
        {
            piece.peer = Leg::Done;
            self.count_leg(ticket, Span::Remote);
            self.join(ticket);
        }
    }

    /// One of the two ways of a piece is done: both began when it was sent.
    fn count_leg(&mut self, ticket: u64, span: Span) {
        let now = self.now;
        let task = self.tasks.get_mut(&ticket).expect("the caller has it");
        let Stage::Piece(piece) = &task.stage else {
            unreachable!("the caller looked")
        };
        let (number, sent) = (task.volume, piece.sent);
        task.since = now;
        self.volume_mut(number).counters.record(span, sent, now);
    }

    /// Completes a piece that is on every member, under an epoch that is still ours: this is the
    /// mirror's promise (law R4).
    pub(super) fn join(&mut self, ticket: u64) {
        let task = &self.tasks[&ticket];
        let Stage::Piece(piece) = task.stage else {
            return;
        };
        if piece.local == Leg::Full || piece.peer == Leg::Full {
            return self.join_full(ticket);
        }
        let resumed = self.is_serving() || mutant!(ResumeBeforePersist) && self.is_activating();
        let on_peer = piece.peer == Leg::Done || mutant!(AckWithoutPeer);
        let dropped = mutant!(DropAck) && piece.peer == Leg::Off;
        let enough = on_peer || dropped || !self.needs_peer();
        if piece.local != Leg::Done || !resumed || !enough || self.failed.is_some() {
            return;
        }
        let (number, from, end) = (task.volume, task.next, task.end);
        self.cool(number, from, piece.to, piece.number);
        if piece.to == end {
            return self.finish(ticket, Ok(Completed::Ok));
        }
        self.tasks.get_mut(&ticket).expect("looked at above").next = piece.to;
        self.make_ready(ticket);
    }

    /// What was held completes if it may: the epoch or the members have changed.
    pub(super) fn join_all(&mut self) {
        let pieces: Vec<u64> = self
            .tasks
            .iter()
            .filter(|(_, task)| matches!(task.stage, Stage::Piece(_)))
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in pieces {
            self.join(ticket);
        }
    }

    /// The session is gone: no piece will be acknowledged by it.
    pub(super) fn drop_peer_legs(&mut self) {
        self.interrupt_mends();
        for task in self.tasks.values_mut() {
            if let Stage::Piece(piece) = &mut task.stage
                && piece.peer == Leg::Pending
            {
                piece.peer = Leg::Off;
            }
        }
    }

    /// A piece of the range is complete on all members, or given up.
    pub(super) fn cool(&mut self, number: VolumeNumber, from: u64, to: u64, write: u64) {
        let due = self.now.plus_ms(self.params.limits.settle_ms);
        let volume = self.volume_mut(number);
        for region in regions(from, to) {
            if let Some(heat) = volume.intents.hot.get_mut(&region) {
                heat.users = heat.users.saturating_sub(1);
                heat.last = heat.last.max(write);
            }
        }
        volume.settle_by(due);
    }
}
