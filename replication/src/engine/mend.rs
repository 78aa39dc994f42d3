//! A range that is not as it should be on one box, made good with the other's help under its range
//! lock, while both are in sync.
//!
//! What cannot be read here is read from the peer, written again here and answered. A write that
//! found no room on a box fails as a whole; what the boxes then hold of its range may differ, so
//! one gets what the other has: first what is here, and if the peer has no room for that, what is
//! there. If that does not fit either, the peer is lost: law R1 makes the range dirty.
//!
//! ```text
//! Read:               Ask ──▶ Asked ──▶ Rewriting ──▶ answered
//! Full: Reading ──▶ Sending ──no room──▶ Ask ──▶ Asked ──▶ Rewriting ──▶ no room
//!                      └──────▶ no room
//! ```
//!
//! A question has a place in the stream, after every earlier write of its range; its answer
//! belongs to the session and dies with it.

use super::command::Stage;
use super::disk::Op;
use super::inflight::{Grant, Mode};
use super::session::What;
use super::volume::blocks;
use super::write::Leg;
use super::{CommandError, DiskError, Engine, Full, Io, IoDone, PeerLoss};
use crate::mutants::mutant;
use crate::types::{Fua, SessionId, Time, VolumeNumber};
use crate::wire::{DATA_MAX_BYTES, Header, Kind, Refusal, WireError};
use bytes::Bytes;
use std::ops::Range;

/// Runs of zeroes are told from data in units of this.
const RUN_BYTES: usize = 4096;
/// An operator hears of one kind of trouble at most this often.
const ALARM_EVERY_MS: u64 = 60_000;

/// A range of a command that is being made good.
#[derive(Debug)]
pub(super) struct Mend {
    why: Why,
    from: u64,
    to: u64,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// It could not be read here.
    Read,
    /// A write of it found no room on a box.
    Full,
}

#[derive(Debug)]
enum Step {
    /// The peer is to be asked, once it can be.
    Ask,
    /// The question is in the stream.
    Asked,
    /// What is here is being read.
    Reading,
    /// What is here is on its way to the peer.
    Sending { left: usize, full: bool },
    /// What the peer has is being written here.
    Rewriting {
        left: usize,
        data: Bytes,
        failed: Option<DiskError>,
    },
    /// The session went meanwhile, and the range is dirty.
    Lost,
}

/// Whether the peer found room for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Found,
    None,
}

/// Whose pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    Ours,
    Theirs,
}

/// What operators are told of, and when they were last.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// Bytes read from the peer because they could not be read here.
    pub(super) mended_bytes: u64,
    mended: Option<Time>,
    full_here: Trouble,
    full_there: Trouble,
}

/// When something happened last, and was told last.
#[derive(Clone, Copy, Debug, Default)]
struct Trouble {
    seen: Option<Time>,
    told: Option<Time>,
}

impl Engine {
    /// A read failed. With the peer in sync it has what is missing.
    pub(super) fn on_read_failed(&mut self, ticket: u64, error: DiskError) {
        if self.splits_unreadable(ticket) {
            return;
        }
        let task = self.tasks.get_mut(&ticket).expect("the caller has it");
        let (from, to) = (task.start, task.end);
        let asks = match error {
            DiskError::Io | DiskError::Medium => to - from <= DATA_MAX_BYTES as u64,
            DiskError::NoSpace => false,
        };
        if !asks || !self.counts_peer() {
            return self.finish(ticket, Err(error.into()));
        }
        self.begin_mend(ticket, Why::Read, from..to, Step::Ask);
    }

    /// A piece found no room on a box, or on both: it fails everywhere (law R4).
    pub(super) fn join_full(&mut self, ticket: u64) {
        let task = &self.tasks[&ticket];
        let Stage::Piece(piece) = task.stage else {
            return;
        };
        let under_way = piece.local == Leg::Pending || piece.peer == Leg::Pending;
        if under_way || !self.is_serving() || self.failed.is_some() {
            return;
        }
        let (number, from, to) = (task.volume, task.next, piece.to);
        if !self.needs_peer() {
            self.dirty_range(number, from, to);
            return self.end_full(ticket, from, to);
        }
        if self.frozen || !self.is_streaming() {
            return;
        }
        if mutant!(KeepHalfWrite) {
            return self.end_full(ticket, from, to);
        }
        let here = piece.local == Leg::Full;
        let step = if here { Step::Reading } else { Step::Ask };
        self.begin_mend(ticket, Why::Full, from..to, step);
        if here {
            self.read_here(ticket);
        }
    }

    fn begin_mend(&mut self, ticket: u64, why: Why, range: Range<u64>, step: Step) {
        if matches!(step, Step::Ask) {
            self.mending.insert(ticket);
        }
        let (from, to) = (range.start, range.end);
        let task = self.tasks.get_mut(&ticket).expect("the caller has it");
        task.stage = Stage::Mending(Mend {
            why,
            from,
            to,
            step,
        });
        self.step();
    }

    fn mend_mut(&mut self, ticket: u64) -> Option<(VolumeNumber, &mut Mend)> {
        let task = self.tasks.get_mut(&ticket)?;
        match &mut task.stage {
            Stage::Mending(mend) => Some((task.volume, mend)),
            Stage::Lock
            | Stage::Ready
            | Stage::Reading
            | Stage::Region { .. }
            | Stage::Piece(_)
            | Stage::Flushing { .. }
            | Stage::Answer(_) => None,
        }
    }

    fn mend_goes_on(&mut self, ticket: u64, step: Step) {
        if matches!(step, Step::Ask | Step::Lost) {
            self.mending.insert(ticket);
        } else {
            self.mending.remove(&ticket);
        }
        if let Some((_, mend)) = self.mend_mut(ticket) {
            mend.step = step;
        }
        self.step();
    }

    /// Asks the peer, or gives up what it will not help with any more.
    pub(super) fn advance_mending(&mut self) {
        let held = !self.is_serving() || self.frozen || self.failed.is_some();
        if self.mending.is_empty() || held {
            return;
        }
        let in_sync = self.is_streaming() && self.source.as_ref().is_some_and(|s| s.in_sync);
        for ticket in self.mending.clone() {
            let Some((number, mend)) = self.mend_mut(ticket) else {
                self.mending.remove(&ticket);
                continue;
            };
            let (why, from, to) = (mend.why, mend.from, mend.to);
            let lost = matches!(mend.step, Step::Lost);
            if !self.needs_peer() {
                self.mending.remove(&ticket);
                match why {
                    Why::Read => self.finish(ticket, Err(CommandError::Medium)),
                    Why::Full => {
                        self.dirty_range(number, from, to);
                        self.end_full(ticket, from, to);
                    }
                }
            } else if in_sync && lost {
                self.mend_goes_on(ticket, Step::Reading);
                self.read_here(ticket);
            } else if in_sync {
                let what = What::Read { ticket };
                self.send_range((Kind::Read, 0), what, (number, from..to), Bytes::new());
                self.mend_goes_on(ticket, Step::Asked);
            }
        }
    }

    fn read_here(&mut self, ticket: u64) {
        let Some((number, mend)) = self.mend_mut(ticket) else {
            return;
        };
        let (from, to) = (mend.from, mend.to);
        let io = Io::Read {
            offset_bytes: self.volume_ref(number).layout.data_offset + from,
            len_bytes: usize::try_from(to - from).expect("a piece fits a frame"),
        };
        let volume = number;
        self.submit(number, Op::Mend { volume, ticket }, io);
    }

    /// A local operation of a mend is done.
    pub(super) fn on_mend_done(&mut self, ticket: u64, result: Result<IoDone, DiskError>) {
        let Some((_, mend)) = self.mend_mut(ticket) else {
            return;
        };
        let len = mend.to - mend.from;
        match (&mut mend.step, result) {
            (Step::Reading, Ok(IoDone::Data(data))) if data.len() as u64 == len => {
                self.send_here(ticket, &data);
            }
            (Step::Reading, _) => self.give_up_equality(ticket),
            (Step::Rewriting { left, failed, .. }, result) => {
                *left -= 1;
                *failed = failed.or(result.err());
                if *left == 0 {
                    self.rewritten(ticket);
                }
            }
            (Step::Ask | Step::Asked | Step::Sending { .. } | Step::Lost, _) => {}
        }
    }

    /// Sends what is here, so that the peer has the same.
    fn send_here(&mut self, ticket: u64, data: &Bytes) {
        let Some((number, mend)) = self.mend_mut(ticket) else {
            return;
        };
        let from = mend.from;
        let runs = runs_of(data);
        let left = runs.len();
        self.mend_goes_on(ticket, Step::Sending { left, full: false });
        for run in runs {
            let range = from + run.start as u64..from + run.end as u64;
            let body = data.slice(run);
            let zero = body.iter().all(|byte| *byte == 0);
            let (kind, body) = if zero {
                (Kind::WriteZeroes, Bytes::new())
            } else {
                (Kind::Write, body)
            };
            let volume = self.volume_mut(number);
            volume.last_write += 1;
            volume.unkept = volume.last_write; // what is not kept is copied (law D4)
            for block in blocks(range.start, range.end) {
                volume.unstable.insert(block, volume.last_write);
            }
            let bytes = range.end - range.start;
            let what = What::Mend { ticket, bytes };
            self.send_range((kind, 0), what, (number, range), body);
        }
    }

    /// The peer has a part of what is here, or no room for it.
    pub(super) fn on_mend_answered(&mut self, ticket: u64, room: Room) {
        let Some((_, mend)) = self.mend_mut(ticket) else {
            return;
        };
        let (from, to) = (mend.from, mend.to);
        let Step::Sending { left, full } = &mut mend.step else {
            return;
        };
        *left -= 1;
        *full |= room == Room::None;
        match (*left, *full) {
            (0, true) => self.mend_goes_on(ticket, Step::Ask),
            (0, false) => self.end_full(ticket, from, to),
            _ => {}
        }
    }

    /// What the peer has.
    pub(super) fn on_read_reply(&mut self, seq: u64, data: &Bytes) -> Result<(), WireError> {
        let (sent, _) = self.take_sent(seq).ok_or(WireError::Field("seq"))?;
        let What::Read { ticket } = sent else {
            return Err(WireError::Field("seq"));
        };
        let Some((number, mend)) = self.mend_mut(ticket) else {
            return Ok(()); // the command is gone
        };
        if !matches!(mend.step, Step::Asked) {
            return Ok(());
        }
        if data.len() as u64 != mend.to - mend.from {
            return Err(WireError::Field("length"));
        }
        let (why, from) = (mend.why, mend.from);
        let whole = 0..data.len();
        let runs = match why {
            Why::Read => vec![whole],
            Why::Full => runs_of(data),
        };
        let (left, failed) = (runs.len(), None);
        let data = data.clone();
        let step = Step::Rewriting {
            left,
            data: data.clone(),
            failed,
        };
        self.mend_goes_on(ticket, step);
        let offset = self.volume_ref(number).layout.data_offset + from;
        for run in runs {
            let body = data.slice(run.clone());
            let (offset_bytes, len_bytes) = (offset + run.start as u64, body.len() as u64);
            let fua = Fua::No;
            let zero = why == Why::Full && body.iter().all(|byte| *byte == 0);
            let io = if zero {
                Io::WriteZeroes {
                    offset_bytes,
                    len_bytes,
                    fua,
                }
            } else {
                Io::Write {
                    offset_bytes,
                    data: body,
                    fua,
                }
            };
            let volume = number;
            self.submit(number, Op::Mend { volume, ticket }, io);
        }
        Ok(())
    }

    /// The peer cannot read it either.
    pub(super) fn on_read_refused(&mut self, ticket: u64) {
        let Some((_, mend)) = self.mend_mut(ticket) else {
            return;
        };
        match mend.why {
            Why::Read => self.finish(ticket, Err(CommandError::Medium)),
            Why::Full => self.give_up_equality(ticket),
        }
    }

    /// What the peer has is here, or cannot be written.
    fn rewritten(&mut self, ticket: u64) {
        let Some((number, mend)) = self.mend_mut(ticket) else {
            return;
        };
        let (why, from, to) = (mend.why, mend.from, mend.to);
        let Step::Rewriting { data, failed, .. } = &mut mend.step else {
            return;
        };
        let (data, failed) = (std::mem::take(data), *failed);
        match (why, failed) {
            (Why::Read, None | Some(DiskError::NoSpace)) => {
                self.tell_mended(number, from..to);
                self.read_gave(ticket, data);
            }
            (Why::Full, None) => self.end_full(ticket, from, to),
            (Why::Full, Some(DiskError::NoSpace)) => self.give_up_equality(ticket),
            (_, Some(error)) => {
                self.fail_disk(&format!("a repair of volume {number}"), error);
            }
        }
    }

    fn tell_mended(&mut self, number: VolumeNumber, range: Range<u64>) {
        let len = range.end - range.start;
        self.troubles.mended_bytes += len;
        if due(&mut self.troubles.mended, self.now) {
            self.alarm(format!(
                "{len} bytes at byte {} of volume {number} could not be read here; they were \
                 read from the other box and written again; look at this box's disk (smartctl), \
                 and plan to replace it if this goes on",
                range.start
            ));
        }
    }

    /// The range cannot be made equal: the peer leaves, and gets it by a resync.
    fn give_up_equality(&mut self, ticket: u64) {
        self.alarm(
            "the boxes cannot be kept equal for want of room; this box goes on alone and the peer \
             gets what it lacks by a resync: make room in the pools of both"
                .to_owned(),
        );
        self.mend_goes_on(ticket, Step::Lost);
        self.end_session(PeerLoss::Differs);
    }

    /// Both boxes hold the same of the range, or it is dirty: the write is answered.
    fn end_full(&mut self, ticket: u64, from: u64, to: u64) {
        let number = self.tasks[&ticket].volume;
        let volume = self.volume_mut(number);
        volume.last_write += 1; // what was written here last is not stable before this one
        let write = volume.last_write;
        self.cool(number, from, to, write);
        self.finish(ticket, Err(CommandError::NoSpace));
    }

    /// The session is gone: questions are asked again, and what was not made equal is dirty.
    pub(super) fn interrupt_mends(&mut self) {
        let mut dirty = Vec::new();
        for (ticket, task) in &mut self.tasks {
            match &mut task.stage {
                Stage::Piece(piece) if piece.peer == Leg::Full => {
                    piece.peer = Leg::Off;
                    dirty.push((task.volume, task.next, piece.to));
                }
                Stage::Mending(mend) if mend.why == Why::Full => {
                    mend.step = Step::Lost;
                    self.mending.insert(*ticket);
                    dirty.push((task.volume, mend.from, mend.to));
                }
                Stage::Mending(mend) if matches!(mend.step, Step::Asked) => {
                    mend.step = Step::Ask;
                    self.mending.insert(*ticket);
                }
                Stage::Mending(_)
                | Stage::Lock
                | Stage::Ready
                | Stage::Reading
                | Stage::Region { .. }
                | Stage::Piece(_)
                | Stage::Flushing { .. }
                | Stage::Answer(_) => {}
            }
        }
        for (number, from, to) in dirty {
            self.dirty_range(number, from, to);
        }
    }

    /// The peer has no room for a frame.
    pub(super) fn on_no_room(&mut self, seq: u64) -> Result<(), WireError> {
        let range = self.range_of(seq);
        let (sent, number) = self.take_sent(seq).ok_or(WireError::Field("seq"))?;
        self.tell_full(Pool::Theirs);
        match sent {
            What::Write {
                ticket,
                number: write,
                ..
            } => self.on_piece_refused(ticket, write, range),
            What::Mend { ticket, .. } => self.on_mend_answered(ticket, Room::None),
            What::Chunk { block, count, .. } => {
                self.chunk_found_no_room(number, (block, count), seq);
                self.stop_joining_for_room();
            }
            What::Digest { .. }
            | What::Read { .. }
            | What::Verify { .. }
            | What::Flush { .. }
            | What::Marker { .. }
            | What::Volume => {
                return Err(WireError::Field("seq"));
            }
        }
        Ok(())
    }

    fn on_piece_refused(
        &mut self,
        ticket: u64,
        write: u64,
        range: Option<(VolumeNumber, Range<u64>)>,
    ) {
        let needed = self.needs_peer_lastingly();
        if let Some((number, _)) = &range
            && let Some(volume) = self.volumes.get_mut(number)
        {
            volume.unkept = volume.unkept.max(write); // it is not sent again (law D4)
        }
        let stage = self.tasks.get_mut(&ticket).map(|task| &mut task.stage);
        let mut waits = false;
        if let Some(Stage::Piece(piece)) = stage
            && piece.number == write
        {
            piece.peer = if needed { Leg::Full } else { Leg::Off };
            waits = true;
        }
        if !(needed && waits)
            && let Some((number, range)) = range
        {
            self.dirty_range(number, range.start, range.end);
        }
        if waits {
            self.join(ticket);
        } else if needed {
            self.end_session(PeerLoss::Differs); // nobody is left who would make it equal
        }
        self.stop_joining_for_room();
    }

    /// What was to be on the peer is not: the readmission begins again.
    fn stop_joining_for_room(&mut self) {
        if !self.needs_peer_lastingly() {
            self.stop_joining();
        }
    }

    /// Tells operators, now and then, that a pool is full.
    pub(super) fn tell_full(&mut self, pool: Pool) {
        let now = self.now;
        let (trouble, whose) = match pool {
            Pool::Ours => (&mut self.troubles.full_here, "this box"),
            Pool::Theirs => (&mut self.troubles.full_there, "the other box"),
        };
        trouble.seen = Some(now);
        if due(&mut trouble.told, now) {
            self.alarm(format!(
                "the pool of {whose} is full: writes that need space fail on both boxes; make \
                 room in its file system, or delete volumes; no restart is needed"
            ));
        }
    }
}

impl Troubles {
    /// Whether a pool had no room within the last minute.
    pub(super) fn full(&self, now: Time) -> Full {
        let recent = |trouble: Trouble| {
            let until = trouble.seen.map(|at| at.plus_ms(ALARM_EVERY_MS));
            until.is_some_and(|until| now < until)
        };
        Full {
            here: recent(self.full_here),
            there: recent(self.full_there),
        }
    }
}

/// The secondary's side: reads in the place of the stream where they were asked for.
impl Engine {
    pub(super) fn queue_read(&mut self, header: Header) -> Result<(), WireError> {
        let (number, seq) = (header.volume, header.seq);
        let end = self.stream_range(&header)?;
        if header.length > DATA_MAX_BYTES as u64 {
            return Err(WireError::Field("length"));
        }
        let target = self.target.as_mut().expect("the caller looked");
        let locks = target.locks.entry(number).or_default();
        let grant = locks.acquire(seq, header.offset, end, Mode::Shared);
        target.waiting.insert(seq, (header, Bytes::new()));
        if grant == Grant::Now {
            self.apply(seq);
        }
        Ok(())
    }

    /// Reads for the primary; its turn has come.
    pub(super) fn fetch(&mut self, header: &Header) {
        let target = self.target.as_ref().expect("the caller looked");
        let (session, volume, seq) = (target.id, header.volume, header.seq);
        let Some(it) = self.volumes.get(&volume) else {
            return self.on_fetched((session, volume, seq), Ok(IoDone::Ok));
        };
        let io = Io::Read {
            offset_bytes: it.layout.data_offset + header.offset,
            len_bytes: usize::try_from(header.length).expect("bounded when it came"),
        };
        self.submit(
            volume,
            Op::Fetch {
                session,
                volume,
                seq,
            },
            io,
        );
    }

    /// A read for the primary is done. That it failed is for the primary to judge.
    pub(super) fn on_fetched(
        &mut self,
        (session, number, seq): (SessionId, VolumeNumber, u64),
        result: Result<IoDone, DiskError>,
    ) {
        let target = self.target.as_mut().filter(|target| target.id == session);
        let Some(target) = target else { return };
        let granted = target.locks.entry(number).or_default().release(seq);
        match result {
            Ok(IoDone::Data(data)) => self.answer_body(Kind::ReadReply, number, seq, data),
            Ok(IoDone::Ok) | Err(_) => self.refuse_frame(Refusal::Unreadable, seq, ""),
        }
        for seq in granted {
            self.apply(seq);
        }
    }
}

/// Whether to tell, and that it was told.
fn due(told: &mut Option<Time>, now: Time) -> bool {
    let due = told.is_none_or(|at| at.plus_ms(ALARM_EVERY_MS) <= now);
    if due {
        *told = Some(now);
    }
    due
}

/// The runs of zeroes and of other data, in order.
fn runs_of(data: &Bytes) -> Vec<Range<usize>> {
    let mut runs: Vec<(bool, Range<usize>)> = Vec::new();
    for (index, unit) in data.chunks(RUN_BYTES).enumerate() {
        let zero = unit.iter().all(|byte| *byte == 0);
        let start = index * RUN_BYTES;
        match runs.last_mut() {
            Some((known, run)) if *known == zero => run.end += unit.len(),
            Some(_) | None => runs.push((zero, start..start + unit.len())),
        }
    }
    runs.into_iter().map(|(_, run)| run).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_told_apart_in_units() {
        let mut data = vec![0; 5 * RUN_BYTES + 512];
        data[RUN_BYTES] = 1;
        data[3 * RUN_BYTES - 1] = 1;
        let units = |from: usize, to: usize| from * RUN_BYTES..to * RUN_BYTES;
        let end = data.len();
        let runs = runs_of(&Bytes::from(data));
        assert_eq!(runs, [units(0, 1), units(1, 3), 3 * RUN_BYTES..end]);
        assert!(runs_of(&Bytes::new()).is_empty());
    }
}
