//! Copying what may differ, and readmission (laws D1, R6).
//!
//! A run of dirty blocks is read under a shared range lock and enqueued at the stream's current
//! place before the lock goes, so that it holds every earlier write and every later one follows
//! it. Bits are cleared when a flush that follows has been answered. While the peer is not in
//! sync, a write to nothing but blocks that still wait is not sent. How fast all this goes is for
//! `pace` to say.
//!
//! ```text
//! No ──nothing left to send──▶ Draining ──all on the peer──▶ Flushing ──▶ Asked
//! ```
//!
//! From `Draining` on acknowledgements wait for the peer; `Asked` ends with an authority.

use super::disk::Op;
use super::inflight::{Grant, Mode};
use super::pace::Copying;
use super::session::{Source, What};
use super::{DiskError, Engine, Event, Io, IoDone, Pace, Resync, ResyncLimit, ResyncPhase};
use crate::meta::DIRTY_BLOCK_BYTES;
use crate::mutants::mutant;
use crate::types::{Time, VolumeNumber};
use crate::wire::Kind;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::ops::Bound;

/// Blocks read and sent as one, at most; with an application at work it is one.
const CHUNK_BLOCKS_MAX: u32 = 16;
/// Blocks compared at once, at most: hashing is done between commands.
const COMPARED_MAX: u32 = 4;
/// Unstable blocks after which a flush is asked for.
const BLOCKS_PER_FLUSH: usize = 256;
/// The same for the first flush of a session; then twice as many each time. What a session won that
/// soon ends must not be lost.
const FIRST_FLUSH_BLOCKS: usize = 4;
/// A flush is asked for when the oldest unstable block has waited that long.
const FLUSH_EVERY_MS: u64 = 500;

/// How far the copy is.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    total_bytes: u64,
    /// A copy is running.
    running: bool,
    report_at: Time,
    cursor: (VolumeNumber, u32),
    /// A block could not be read here, or found no room there: nothing is tried before that.
    pub(super) retry_at: Option<Time>,
    /// They were part of a chunk that could not be read or found no room: each goes by itself.
    singly: BTreeSet<(VolumeNumber, u32)>,
    /// Flushes that made blocks stable.
    flushes: u32,
    /// The oldest unstable block has waited long enough.
    flush_at: Option<Time>,
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

/// A run of blocks being copied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub(super) volume: VolumeNumber,
    pub(super) block: u32,
    pub(super) count: u32,
    session: u32,
    how: How,
}

/// What is done with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Copy,
    /// It may be equal: hashes first.
    Compare,
}

impl Chunk {
    fn blocks(&self) -> impl Iterator<Item = (VolumeNumber, u32)> + use<> {
        let volume = self.volume;
        (self.block..self.block + self.count).map(move |block| (volume, block))
    }

    pub(super) fn covers(&self, volume: VolumeNumber, block: u32) -> bool {
        self.volume == volume && (self.block..self.block + self.count).contains(&block)
    }

    /// The bytes that were read: the volume may have grown since then.
    pub(super) const fn range_read(&self, data: &Bytes) -> (u64, u64) {
        let start = self.block as u64 * DIRTY_BLOCK_BYTES;
        (start, start + data.len() as u64)
    }
}

impl Engine {
    pub(super) fn begin_resync(&mut self) {
        let total_bytes = self.to_copy_bytes();
        let (reason, now) = (self.resync_reason, self.now);
        let source = self.source.as_mut().expect("the caller looked");
        source.progress = Progress {
            total_bytes,
            running: true,
            report_at: now.plus_ms(1000),
            ..Progress::default()
        };
        self.pacer.begin(now, total_bytes);
        self.event(Event::ResyncStarted {
            total_bytes,
            reason,
        });
    }

    pub(super) fn dirty_bytes(&self) -> u64 {
        self.volumes.dirty_blocks() * DIRTY_BLOCK_BYTES
    }

    /// Without the blocks that a replay makes clean.
    fn to_copy_bytes(&self) -> u64 {
        let dirty = self.volumes.dirty_in(..);
        dirty
            .map(|number| self.volumes[&number].dirty.to_copy() * DIRTY_BLOCK_BYTES)
            .sum()
    }

    pub(super) fn advance_resync(&mut self) {
        let streaming = self.is_streaming() && !self.frozen && self.failed.is_none();
        let left_bytes = if streaming { self.to_copy_bytes() } else { 0 };
        let copying = if left_bytes > 0 {
            Copying::Yes
        } else {
            Copying::No
        };
        let most_bytes = self.params.limits.resync_window_bytes;
        self.pacer.judge(self.now, copying, most_bytes);
        if !streaming || !self.is_serving() {
            return;
        }
        let retry_at = self.source.as_ref().and_then(|it| it.progress.retry_at);
        if copying == Copying::Yes && retry_at.is_none_or(|at| at <= self.now) {
            self.pacer.measure(self.now, left_bytes);
        }
        while self.start_chunk() {}
        self.flush_chunks();
        self.report_progress();
        self.advance_joining();
    }

    /// Nothing is started now, whatever the window.
    fn copy_waits(&self) -> bool {
        let source = self.source.as_ref().expect("the caller looked");
        let retry_at = source.progress.retry_at;
        retry_at.is_some_and(|at| self.now < at) || self.pacer.waits(self.now)
    }

    /// Takes the next blocks if the window has room. While an application is at work, at most one
    /// block is ahead of it at this box's disk.
    fn start_chunk(&mut self) -> bool {
        if self.copy_waits() {
            return false;
        }
        let limits = &self.params.limits;
        let most_bytes = limits.resync_window_bytes;
        let window = self
            .pacer
            .window_bytes(self.now, self.tasks.len(), most_bytes);
        let source = self.source.as_ref().expect("the caller looked");
        let alone = self.tasks.is_empty() && !self.pacer.is_active(self.now);
        if !alone && !source.reading.is_empty() {
            return false;
        }
        let under_way = source.resync_bytes + source.reading.len() as u64 * DIRTY_BLOCK_BYTES;
        let room = window.saturating_sub(under_way) / DIRTY_BLOCK_BYTES;
        let most = if alone { CHUNK_BLOCKS_MAX } else { 1 };
        let most = most.min(self.pacer.blocks_at_once());
        let most = u32::try_from(room).map_or(most, |room| room.min(most));
        if most == 0 {
            return false;
        }
        let Some(chunk) = self.next_chunk(most) else {
            return false;
        };
        let ticket = self.take_ticket();
        self.chunks.insert(ticket, chunk);
        let source = self.source.as_mut().expect("the caller looked");
        source.reading.extend(chunk.blocks());
        for block in chunk.blocks() {
            source.differing.remove(&block);
        }
        source.progress.cursor = (chunk.volume, chunk.block + chunk.count - 1);
        let (start, end) = self.chunk_range(&chunk);
        self.pacer.started(self.now, end - start);
        let locks = &mut self.volume_mut(chunk.volume).locks;
        let unlocked = mutant!(CopyUnlocked);
        if unlocked || locks.acquire(ticket, start, end, Mode::Shared) == Grant::Now {
            self.read_chunk(ticket);
        }
        true
    }

    /// The next dirty blocks that are not on their way, at most `most` in a row.
    fn next_chunk(&self, most: u32) -> Option<Chunk> {
        let source = self.source.as_ref()?;
        let (number, block) = self.next_block(source)?;
        let volume = &self.volumes[&number];
        let how = |block: u32| {
            let coarse = volume.coarse.contains(block);
            if coarse && !source.differing.contains(&(number, block)) {
                How::Compare
            } else {
                How::Copy
            }
        };
        let alike = how(block);
        let single = |block: u32| source.progress.singly.contains(&(number, block));
        let most = match alike {
            _ if single(block) => 1,
            How::Compare => most.min(COMPARED_MAX),
            How::Copy => most,
        };
        let end = block.saturating_add(most).min(volume.layout.blocks);
        let goes_on = |at: &u32| {
            let dirty = volume.dirty.contains(*at) && !volume.dirty.is_owed(*at);
            let open = dirty && !source.has(number, *at);
            open && !single(*at) && how(*at) == alike
        };
        let rest = (block + 1..end).take_while(goes_on).count();
        let rest = u32::try_from(rest).expect("a chunk has few blocks");
        Some(Chunk {
            volume: number,
            block,
            count: 1 + rest,
            session: source.number,
            how: alike,
        })
    }

    /// The next dirty block that is not on its way: one that was found to differ, else from the
    /// cursor on, round and round.
    fn next_block(&self, source: &Source) -> Option<(VolumeNumber, u32)> {
        let cursor = source.progress.cursor;
        let idle = |number: VolumeNumber, from: u32| {
            let volume = self.volumes.get(&number)?;
            let all = (number, 0)..=(number, u32::MAX);
            let under_way =
                source.sent_chunks.range(all.clone()).count() + source.reading.range(all).count();
            if volume.dirty.to_copy() <= under_way as u64 {
                return None; // without looking through a map that may be large
            }
            let mut block = volume.dirty.next(from).filter(|_| !volume.closing)?;
            while volume.dirty.is_owed(block) || source.has(number, block) {
                block = volume.dirty.next(block + 1)?;
            }
            Some((number, block))
        };
        let mut differs = source.differing.iter().copied().filter(|(number, block)| {
            let volume = &self.volumes[number];
            let dirty = volume.dirty.contains(*block) && !volume.dirty.is_owed(*block);
            !volume.closing && dirty && !source.has(*number, *block)
        });
        let after = (Bound::Excluded(cursor.0), Bound::Unbounded);
        differs
            .next()
            .or_else(|| idle(cursor.0, cursor.1))
            .or_else(|| {
                let mut after = self.volumes.dirty_in(after);
                after.find_map(|number| idle(number, 0))
            })
            .or_else(|| {
                let mut before = self.volumes.dirty_in(..=cursor.0);
                before.find_map(|number| idle(number, 0))
            })
    }

    fn chunk_range(&self, chunk: &Chunk) -> (u64, u64) {
        let (start, _) = self.block_range(chunk.volume, chunk.block);
        let (_, end) = self.block_range(chunk.volume, chunk.block + chunk.count - 1);
        (start, end)
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
        let (start, end) = self.chunk_range(&chunk);
        let offset_bytes = self.volume_ref(chunk.volume).layout.data_offset + start;
        let len_bytes = usize::try_from(end - start).expect("a chunk is small");
        let io = Io::Read {
            offset_bytes,
            len_bytes,
        };
        self.kepts.blocks_read += u64::from(chunk.count);
        self.submit(chunk.volume, Op::Chunk { ticket }, io);
    }

    pub(super) fn on_chunk_done(&mut self, ticket: u64, result: Result<IoDone, DiskError>) {
        let Some(chunk) = self.chunks.remove(&ticket) else {
            return;
        };
        if chunk.session == self.session_number() && self.volumes.contains_key(&chunk.volume) {
            let source = self.source.as_mut().expect("it has a number");
            for block in chunk.blocks() {
                source.reading.remove(&block);
            }
            match result {
                Ok(IoDone::Data(data)) if chunk.how == How::Compare => {
                    self.send_digests(&chunk, &data);
                }
                Ok(IoDone::Data(data)) => {
                    let copied = u64::from(chunk.count);
                    self.volume_mut(chunk.volume).counters.copied_blocks += copied;
                    self.send_chunk(&chunk, &data);
                }
                Ok(IoDone::Ok) | Err(_) if chunk.count > 1 => {
                    source.progress.singly.extend(chunk.blocks());
                    self.step();
                }
                Ok(IoDone::Ok) | Err(_) => self.retry_block(&chunk),
            }
        }
        self.unlock(chunk.volume, ticket);
    }

    /// The peer has no room for the frame `seq`. Of a run some blocks may still fit: each is sent
    /// by itself, and one that does not fit is tried again later.
    pub(super) fn chunk_found_no_room(
        &mut self,
        number: VolumeNumber,
        (first, count): (u32, u32),
        seq: u64,
    ) {
        let retry_at = self.now.plus_ms(1000);
        let source = self.source.as_mut().expect("the caller looked");
        for block in first..first + count {
            let place = (number, block);
            if source.sent_chunks.get(&place) == Some(&seq) {
                source.sent_chunks.remove(&place);
                source.progress.singly.insert(place);
            }
        }
        if count == 1 {
            source.progress.retry_at = Some(retry_at);
        }
        self.step();
    }

    fn retry_block(&mut self, chunk: &Chunk) {
        let retry_at = self.now.plus_ms(1000);
        let source = self.source.as_mut().expect("the caller looked");
        source.progress.retry_at = Some(retry_at);
        self.alarm(format!(
            "block {} of volume {} cannot be read, the peer does not get it: rewrite it, or \
             replace the disk after a switchover is possible",
            chunk.block, chunk.volume
        ));
    }

    /// Sends what was read, each run of zeroes and each run of data as one frame.
    fn send_chunk(&mut self, chunk: &Chunk, data: &Bytes) {
        let len = usize::try_from(DIRTY_BLOCK_BYTES).expect("a small constant");
        let zero: Vec<bool> = data.chunks(len).map(is_zero).collect();
        let (first, last) = chunk.range_read(data);
        let at = |byte: u64| usize::try_from(byte - first).expect("a chunk is small");
        let mut block = chunk.block;
        for run in zero.chunk_by(|one, other| one == other) {
            let count = u32::try_from(run.len()).expect("a chunk has few blocks");
            let run_of = Chunk {
                block,
                count,
                ..*chunk
            };
            let start = u64::from(block) * DIRTY_BLOCK_BYTES;
            let end = last.min(start + u64::from(count) * DIRTY_BLOCK_BYTES);
            let counts = &mut self.resync_counts;
            let (kind, payload) = if run[0] {
                counts.zero_blocks += u64::from(count);
                (Kind::ResyncZero, Bytes::new())
            } else {
                counts.sent_blocks += u64::from(count);
                (Kind::ResyncData, data.slice(at(start)..at(end)))
            };
            let what = What::Chunk {
                block,
                count,
                bytes: end - start,
            };
            let seq = self.send_range((kind, 0), what, (chunk.volume, start..end), payload);
            self.mark_sent(&run_of, seq);
            block += count;
        }
    }

    pub(super) fn mark_sent(&mut self, chunk: &Chunk, seq: u64) {
        let flush_at = self.now.plus_ms(FLUSH_EVERY_MS);
        let source = self.source.as_mut().expect("the caller looked");
        source.progress.flush_at.get_or_insert(flush_at);
        self.resync_counts.frames += 1;
        for block in chunk.blocks() {
            source.progress.singly.remove(&block);
            source.sent_chunks.insert(block, seq);
        }
    }

    /// Asks for the flush that makes copies stable: when nothing more is on its way, or when many
    /// blocks wait for it, or one waits for long.
    fn flush_chunks(&mut self) {
        let source = self.source.as_ref().expect("the caller looked");
        if source.sent_chunks.is_empty() {
            return;
        }
        let drained = source.reading.is_empty() && source.resync_bytes == 0;
        let late = source.progress.flush_at.is_some_and(|at| at <= self.now);
        let many = source.sent_chunks.len()
            >= BLOCKS_PER_FLUSH.min(FIRST_FLUSH_BLOCKS << source.progress.flushes.min(8));
        let over = drained && (self.copy_waits() || self.next_chunk(1).is_none());
        if !(late || many || over) {
            return;
        }
        let numbers: BTreeSet<VolumeNumber> = source.sent_chunks.keys().map(|(n, _)| *n).collect();
        for number in numbers {
            let rounds = &mut self.volume_mut(number).peer_flush;
            if !rounds.running && !rounds.is_due() {
                rounds.ask();
                self.resync_counts.flushes += 1;
                self.step();
            }
        }
        let next = self.now.plus_ms(FLUSH_EVERY_MS);
        let source = self.source.as_mut().expect("looked at above");
        source.progress.flush_at = Some(next);
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
        let mut sent_chunks = std::mem::take(&mut source.sent_chunks);
        let before = sent_chunks.len();
        sent_chunks.retain(|(of, block), sent| {
            let stable = *of == number && *sent < seq && source.is_answered(*sent);
            if stable {
                volume.dirty.clear(*block);
            }
            !stable
        });
        source.progress.flushes += u32::from(sent_chunks.len() < before);
        source.sent_chunks = sent_chunks;
        if source.sent_chunks.is_empty() {
            source.progress.flush_at = None;
        }
    }

    fn report_progress(&mut self) {
        let left_bytes = self.to_copy_bytes();
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

    /// The pace lets something happen then.
    pub(super) fn pace_due(&self) -> Option<Time> {
        let source = self
            .source
            .as_ref()
            .filter(|source| source.is_streaming())?;
        let later = |at: &Time| *at > self.now;
        let flush = source.progress.flush_at.filter(later);
        let rate = self.pacer.due().filter(later);
        let rate = rate.filter(|_| self.dirty_bytes() > 0);
        flush.into_iter().chain(rate).min()
    }

    pub(super) fn resync_status(&self) -> Resync {
        let source = self.source.as_ref().filter(|source| source.is_streaming());
        let retry_at = source.and_then(|source| source.progress.retry_at);
        let most_bytes = self.params.limits.resync_window_bytes;
        let limit = if source.is_none() || self.dirty_bytes() == 0 {
            ResyncLimit::Idle
        } else if self.pacer.asked == Pace::Paused {
            ResyncLimit::Paused
        } else if retry_at.is_some_and(|at| self.now < at) {
            ResyncLimit::Unreadable
        } else if self.pacer.waits(self.now) {
            ResyncLimit::Rate
        } else if self.pacer.holds_writes {
            ResyncLimit::Floor
        } else if self.pacer.yields(self.now, most_bytes) {
            ResyncLimit::Application
        } else {
            ResyncLimit::Hardware
        };
        Resync {
            pace: self.pacer.asked,
            phase: self.resync_phase(),
            limit,
            bytes_per_s: self.pacer.bytes_per_s,
            counts: self.resync_counts,
        }
    }

    fn resync_phase(&self) -> ResyncPhase {
        match (&self.joining, &self.source) {
            (Joining::Draining { .. }, _) => ResyncPhase::Draining,
            (Joining::Flushing { .. }, _) => ResyncPhase::Flushing,
            (Joining::Asked, _) => ResyncPhase::Asked,
            (Joining::No, Some(source)) if source.in_sync => ResyncPhase::None,
            (Joining::No, Some(source)) if source.is_streaming() => ResyncPhase::Copying,
            (Joining::No, Some(_)) => ResyncPhase::Preparing,
            (Joining::No, None) => ResyncPhase::None,
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
                let nothing_left = source.reading.is_empty()
                    && source.differing.is_empty()
                    && self.next_chunk(1).is_none();
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

pub(super) fn is_zero(block: &[u8]) -> bool {
    let mut units = block.chunks(4096); // each without a branch for every byte
    units.all(|unit| unit.iter().fold(0, |all, byte| all | byte) == 0)
}
