//! Flushes: both disks, coalesced, never retried into a success (laws R4, D5).

use super::command::Stage;
use super::disk::Op;
use super::session::What;
use super::target::Target;
use super::{Completed, DiskError, Engine, Io};
use crate::meta::group::Life;
use crate::mutants::mutant;
use crate::types::{SessionId, VolumeNumber};
use crate::wire::{Kind, WireError};
use std::collections::VecDeque;

impl Engine {
    /// Everything completed before this is made stable on every member.
    pub(super) fn start_flush(&mut self, ticket: u64) {
        let streaming = self.is_streaming();
        let session = self.session_number();
        let number = self.tasks[&ticket].volume;
        let volume = self.volume_mut(number);
        let local = volume.local_flush.ask();
        let peer = streaming.then(|| volume.peer_flush.ask());
        let task = self.tasks.get_mut(&ticket).expect("looked at above");
        task.stage = Stage::Flushing {
            local,
            peer,
            session,
        };
        self.flushing.insert(ticket);
        self.step();
    }

    /// Starts the rounds that are due.
    pub(super) fn advance_flush(&mut self, number: VolumeNumber) {
        let Some(volume) = self.volumes.get_mut(&number) else {
            return;
        };
        if volume.local_flush.is_due() && self.failed.is_none() {
            volume.local_flush.running = true;
            self.submit(number, Op::Flush { volume: number }, Io::Flush);
        }
        let Some(volume) = self.volumes.get_mut(&number) else {
            return;
        };
        if !volume.peer_flush.is_due() {
            return;
        }
        // The peer may have dropped a volume that has its tombstone; nothing is under way on it.
        let entry = self
            .group
            .as_ref()
            .and_then(|group| group.volumes.get(&number));
        let alive = entry.is_some_and(|entry| entry.life != Life::Tombstone);
        if alive && self.source.as_ref().is_some_and(|s| s.is_streaming()) {
            volume.peer_flush.running = true;
            volume.peer_cutoff = volume.last_write;
            self.send_control(Kind::Flush, What::Flush { volume: number }, number);
        }
    }

    pub(super) fn on_flush_done(&mut self, number: VolumeNumber, error: Option<DiskError>) {
        let error = error.filter(|_| !mutant!(IgnoreFlushError));
        if let Some(volume) = self.volumes.get_mut(&number) {
            match error {
                None => volume.local_flush.finish(),
                Some(_) => volume.local_flush.abort(),
            }
        }
        if let Some(error) = error {
            if self.group.is_some() {
                self.change_group(|group| {
                    if let Some(entry) = group.volumes.get_mut(&number) {
                        entry.cache_lost = true;
                    }
                });
            }
            self.fail_disk(&format!("a flush of volume {number}"), error);
        }
    }

    /// Everything of the volume sent before frame `seq` is stable on the peer.
    pub(super) fn on_stable(&mut self, number: VolumeNumber, seq: u64) {
        let Some(volume) = self.volumes.get_mut(&number) else {
            return;
        };
        volume.peer_flush.finish();
        let cutoff = volume.peer_cutoff;
        volume.unstable.retain(|_, write| *write > cutoff);
        self.kept_is_stable(number, cutoff);
        self.chunks_are_stable(number, seq);
    }

    /// Answers the flushes whose rounds are over.
    pub(super) fn advance_flushing(&mut self) {
        if self.flushing.is_empty() || !self.is_serving() || self.failed.is_some() {
            return;
        }
        for ticket in self.flushing.clone() {
            let Some(task) = self.tasks.get(&ticket) else {
                self.flushing.remove(&ticket);
                continue;
            };
            let Stage::Flushing {
                local,
                peer,
                session,
            } = task.stage
            else {
                unreachable!("it is in `flushing`")
            };
            let volume = self.volume_ref(task.volume);
            let same = session == self.session_number();
            let on_peer = peer.is_some_and(|peer| same && volume.peer_flush.done >= peer);
            let on_local = volume.local_flush.done >= local;
            let enough = on_peer || !self.needs_peer() || mutant!(FlushLocalOnly);
            if on_local && enough {
                self.flushing.remove(&ticket);
                self.finish(ticket, Ok(Completed::Ok));
            } else if (peer.is_none() || !same) && self.needs_peer() && self.is_streaming() {
                self.flushing.remove(&ticket);
                self.make_ready(ticket); // asked for before this session: ask again
            }
        }
    }
}

/// The secondary's side.
impl Engine {
    pub(super) fn queue_flush(&mut self, number: VolumeNumber, seq: u64) -> Result<(), WireError> {
        if !self.volumes.contains_key(&number) {
            return Err(WireError::Field("volume"));
        }
        let target = self.target.as_mut().expect("the caller looked");
        target.flushes.push_back((number, seq));
        Ok(())
    }

    /// Flushes whose earlier frames are all applied.
    pub(super) fn advance_target_flushes(&mut self) {
        let Some(target) = &mut self.target else {
            return;
        };
        let session = target.id;
        let unapplied = &target.unapplied;
        let due = |(number, seq): &(VolumeNumber, u64)| {
            let first = unapplied.get(number).and_then(|seqs| seqs.first());
            first.is_none_or(|first| first > seq)
        };
        let (due, rest) = target.flushes.iter().partition(|flush| due(flush));
        target.flushes = rest;
        let due: VecDeque<(VolumeNumber, u64)> = due;
        for (volume, seq) in due {
            if !self.volumes.contains_key(&volume) {
                // deleted by a later frame: its backing may be gone, and nothing of it has to last
                self.answer_frame(Kind::StableAck, volume, seq);
                continue;
            }
            self.submit(
                volume,
                Op::ApplyFlush {
                    session,
                    volume,
                    seq,
                },
                Io::Flush,
            );
            if mutant!(FlushBeforeDisk) {
                self.answer_frame(Kind::StableAck, volume, seq);
            }
        }
    }

    pub(super) fn on_applied_flush(
        &mut self,
        session: SessionId,
        number: VolumeNumber,
        seq: u64,
        error: Option<DiskError>,
    ) {
        if let Some(error) = error {
            return self.fail_disk(&format!("a flush of volume {number}"), error);
        }
        let open = |target: &Target| target.id == session;
        if self.target.as_ref().is_some_and(open) && !mutant!(FlushBeforeDisk) {
            self.answer_frame(Kind::StableAck, number, seq);
        }
    }
}
