//! Copying what may differ, and readmission (laws D1, R6).
//!
//! A dirty block is read under a shared range lock and enqueued at the stream's current place
//! before the lock goes, so that it holds every earlier write and every later one follows it. Its
//! bit is cleared when a flush that follows it has been answered. While the peer is not in sync, a
//! write to nothing but blocks that still wait is not sent.
//!
//! ```text
//! No ──nothing left to send──▶ Draining ──all on the peer──▶ Flushing ──▶ Asked
//! ```
//!
//! From `Draining` on acknowledgements wait for the peer; `Asked` ends with an authority.

use super::disk::Op;
use super::inflight::{Grant, Mode};
use super::session::What;
use super::{DiskError, Engine, Event, Io, IoDone};
use crate::meta::DIRTY_BLOCK_BYTES;
use crate::mutants::mutant;
use crate::types::{Time, VolumeNumber};
use crate::wire::Kind;
use bytes::Bytes;

/// Unstable blocks after which a flush is asked for.
const CHUNKS_PER_FLUSH: usize = 256;

/// How far the copy is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    total_bytes: u64,
    /// A copy is running.
    running: bool,
    report_at: Time,
    cursor: (VolumeNumber, u32),
    /// A source block could not be read: nothing is tried before that.
    pub(super) retry_at: Option<Time>,
}

/// Readmission, step by step (law R6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Joining {
    No,
    /// Acknowledgements wait for the peer; earlier frames are not all applied.
    Draining {
        last_seq: u64,
    },
    /// Both sides flush.
    Flushing {
        rounds: Vec<(VolumeNumber, u64, u64)>,
    },
    /// The authority has been asked.
    Asked,
}

/// A block being copied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    volume: VolumeNumber,
    block: u32,
    session: u32,
}

impl Chunk {
    pub(super) const fn volume(&self) -> VolumeNumber {
        self.volume
    }
}

impl Engine {
    pub(super) fn begin_resync(&mut self) {
        let total_bytes = self.dirty_bytes();
        let (reason, now) = (self.resync_reason, self.now);
        let source = self.source.as_mut().expect("the caller looked");
        source.progress = Progress {
            total_bytes,
            running: true,
            report_at: now.plus_ms(1000),
            ..Progress::default()
        };
        self.event(Event::ResyncStarted {
            total_bytes,
            reason,
        });
    }

    pub(super) fn dirty_bytes(&self) -> u64 {
        self.volumes
            .values()
            .map(|volume| volume.dirty.count() * DIRTY_BLOCK_BYTES)
            .sum()
    }

    pub(super) fn advance_resync(&mut self) {
        if !self.is_streaming() || self.frozen || self.failed.is_some() || !self.is_serving() {
            return;
        }
        while self.start_chunk() {}
        self.flush_chunks();
        self.report_progress();
        self.advance_joining();
    }

    /// Takes the next block if the window has room.
    fn start_chunk(&mut self) -> bool {
        let window = if self.tasks.is_empty() {
            self.params.limits.resync_window_bytes
        } else {
            DIRTY_BLOCK_BYTES // at most one block ahead of an application's write
        };
        let source = self.source.as_ref().expect("the caller looked");
        let waiting = source.progress.retry_at.is_some_and(|at| self.now < at);
        let under_way = source.resync_bytes + source.reading.len() as u64 * DIRTY_BLOCK_BYTES;
        if waiting || under_way + DIRTY_BLOCK_BYTES > window.max(DIRTY_BLOCK_BYTES) {
            return false;
        }
        let Some((number, block)) = self.next_chunk() else {
            return false;
        };
        let session = source.number;
        let ticket = self.take_ticket();
        self.chunks.insert(
            ticket,
            Chunk {
                volume: number,
                block,
                session,
            },
        );
        let source = self.source.as_mut().expect("the caller looked");
        source.reading.insert((number, block));
        source.progress.cursor = (number, block);
        let (start, end) = self.block_range(number, block);
        let grant = self
            .volume_mut(number)
            .locks
            .acquire(ticket, start, end, Mode::Shared);
        if grant == Grant::Now {
            self.read_chunk(ticket);
        }
        true
    }

    /// The next dirty block after the cursor that is not on its way, round and round.
    fn next_chunk(&self) -> Option<(VolumeNumber, u32)> {
        let source = self.source.as_ref()?;
        let cursor = source.progress.cursor;
        let idle = |number: VolumeNumber, from: u32, end: u32| {
            let volume = &self.volumes[&number];
            let all = (number, 0)..=(number, u32::MAX);
            let under_way =
                source.sent_chunks.range(all.clone()).count() + source.reading.range(all).count();
            if volume.dirty.count() <= under_way as u64 {
                return None; // without looking through a map that may be large
            }
            let mut block = volume.dirty.next(from).filter(|_| !volume.closing)?;
            while source.reading.contains(&(number, block))
                || source.sent_chunks.contains_key(&(number, block))
            {
                block = volume.dirty.next(block + 1)?;
            }
            (block < end).then_some((number, block))
        };
        let here = self.volumes.contains_key(&cursor.0).then_some(cursor.0);
        let after = self.volumes.range(cursor.0..).map(|(number, _)| *number);
        let mut order = after.filter(|number| *number != cursor.0);
        here.and_then(|number| idle(number, cursor.1, u32::MAX))
            .or_else(|| order.find_map(|number| idle(number, 0, u32::MAX)))
            .or_else(|| {
                let mut before = self.volumes.range(..=cursor.0).map(|(number, _)| *number);
                before.find_map(|number| idle(number, 0, u32::MAX))
            })
    }

    fn block_range(&self, number: VolumeNumber, block: u32) -> (u64, u64) {
        let start = u64::from(block) * DIRTY_BLOCK_BYTES;
        (
            start,
            (start + DIRTY_BLOCK_BYTES).min(self.volume_ref(number).spec.size_bytes),
        )
    }

    /// The range lock of a block is ours.
    pub(super) fn read_chunk(&mut self, ticket: u64) {
        let Some(chunk) = self.chunks.get(&ticket).copied() else {
            return;
        };
        if chunk.session != self.session_number() {
            self.chunks.remove(&ticket);
            return self.unlock(chunk.volume, ticket);
        }
        let (start, end) = self.block_range(chunk.volume, chunk.block);
        let offset_bytes = self.volume_ref(chunk.volume).layout.data_offset + start;
        let len_bytes = usize::try_from(end - start).expect("a block is small");
        let io = Io::Read {
            offset_bytes,
            len_bytes,
        };
        self.submit(chunk.volume, Op::Chunk { ticket }, io);
    }

    pub(super) fn on_chunk_done(&mut self, ticket: u64, result: Result<IoDone, DiskError>) {
        let Some(chunk) = self.chunks.remove(&ticket) else {
            return;
        };
        let retry_at = self.now.plus_ms(1000);
        if chunk.session == self.session_number() && self.volumes.contains_key(&chunk.volume) {
            let source = self.source.as_mut().expect("it has a number");
            source.reading.remove(&(chunk.volume, chunk.block));
            match result {
                Ok(IoDone::Data(data)) => self.send_chunk(chunk, data),
                Ok(IoDone::Ok) | Err(_) => {
                    source.progress.retry_at = Some(retry_at);
                    self.alarm(format!(
                        "block {} of volume {} cannot be read, the peer does not get it: \
                         rewrite it, or replace the disk after a switchover is possible",
                        chunk.block, chunk.volume
                    ));
                }
            }
        }
        self.unlock(chunk.volume, ticket);
    }

    fn send_chunk(&mut self, chunk: Chunk, data: Bytes) {
        let (start, end) = self.block_range(chunk.volume, chunk.block);
        let zero = data.iter().all(|byte| *byte == 0);
        let (kind, payload) = if zero {
            (Kind::ResyncZero, Bytes::new())
        } else {
            (Kind::ResyncData, data)
        };
        let what = What::Chunk {
            block: chunk.block,
            bytes: end - start,
        };
        let place = (chunk.volume, start..end);
        let seq = self.send_range((kind, 0), what, place, payload);
        let source = self.source.as_mut().expect("the caller looked");
        source.sent_chunks.insert((chunk.volume, chunk.block), seq);
    }

    /// Asks for the flush that makes copies stable.
    fn flush_chunks(&mut self) {
        let source = self.source.as_ref().expect("the caller looked");
        if source.sent_chunks.is_empty() {
            return;
        }
        let drained = source.reading.is_empty() && source.resync_bytes == 0;
        if !drained && source.sent_chunks.len() < CHUNKS_PER_FLUSH {
            return;
        }
        let numbers: Vec<VolumeNumber> = source.sent_chunks.keys().map(|(n, _)| *n).collect();
        for number in numbers {
            let rounds = &mut self.volume_mut(number).peer_flush;
            if !rounds.running && !rounds.is_due() {
                rounds.ask();
                self.step();
            }
        }
    }

    /// Blocks sent before frame `seq` are stable on the peer: the one place that clears a dirty
    /// bit while a copy runs (law D1).
    pub(super) fn chunks_are_stable(&mut self, number: VolumeNumber, seq: u64) {
        let Some(source) = &mut self.source else {
            return;
        };
        let Some(volume) = self.volumes.get_mut(&number) else {
            return;
        };
        source.sent_chunks.retain(|(of, block), sent| {
            let stable = *of == number && *sent < seq;
            if stable {
                volume.dirty.clear(*block);
            }
            !stable
        });
    }

    fn report_progress(&mut self) {
        let left_bytes = self.dirty_bytes();
        let now = self.now;
        let source = self.source.as_mut().expect("the caller looked");
        let progress = &mut source.progress;
        if !progress.running {
            return;
        }
        let total_bytes = progress.total_bytes;
        if left_bytes == 0 {
            progress.running = false;
            self.event(Event::ResyncDone);
        } else if progress.report_at <= now {
            progress.report_at = now.plus_ms(1000);
            self.event(Event::ResyncProgress {
                left_bytes,
                total_bytes,
            });
        }
    }

    pub(super) fn progress_at(&self) -> Option<Time> {
        let source = self.source.as_ref()?;
        source.progress.running.then_some(source.progress.report_at)
    }

    fn advance_joining(&mut self) {
        let source = self.source.as_ref().expect("the caller looked");
        match &self.joining {
            Joining::No => {
                let nothing_left = source.reading.is_empty() && self.next_chunk().is_none();
                if nothing_left && !source.in_sync && !self.counts_peer() && self.can_admit_peer() {
                    self.joining = Joining::Draining {
                        last_seq: source.last_seq(),
                    };
                    self.step();
                }
            }
            Joining::Draining { .. } if mutant!(ReadmitEarly) => self.ask_readmit(),
            Joining::Draining { last_seq } => {
                if source.is_applied(*last_seq) {
                    let rounds = self.volumes.iter_mut().map(|(number, volume)| {
                        (*number, volume.local_flush.ask(), volume.peer_flush.ask())
                    });
                    self.joining = Joining::Flushing {
                        rounds: rounds.collect(),
                    };
                    self.step();
                }
            }
            Joining::Flushing { rounds } => {
                let over = |(number, local, peer): &(VolumeNumber, u64, u64)| {
                    let volume = self.volumes.get(number);
                    volume.is_none_or(|volume| {
                        volume.local_flush.done >= *local && volume.peer_flush.done >= *peer
                    })
                };
                if !rounds.iter().all(over) {
                    return;
                }
                if !source.sent_chunks.is_empty() || self.dirty_bytes() > 0 {
                    // a write failed here meanwhile: its blocks are copied again
                    return self.stop_joining();
                }
                self.ask_readmit();
            }
            Joining::Asked => {}
        }
    }

    /// Readmission was not asked for yet and will not be: what waited for the peer is done here.
    pub(super) fn stop_joining(&mut self) {
        self.joining = Joining::No;
        self.step();
        self.join_all();
    }

    fn ask_readmit(&mut self) {
        let source = self.source.as_ref().expect("the caller looked");
        let peer_disk = source.state.as_ref().expect("it is streaming").disk;
        self.joining = Joining::Asked;
        let epoch = self.standing_epoch();
        self.event(Event::Readmit { epoch, peer_disk });
    }

    /// Nothing stands against asking for readmission: no volume is being made or deleted.
    fn can_admit_peer(&self) -> bool {
        self.jobs.is_empty() && self.handover.is_none()
    }
}
