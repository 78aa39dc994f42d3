//! Comparing the two copies while they are in use (laws D1, H33).
//!
//! While the peer is in sync, one volume after the other is walked by spans. A span is read under
//! a shared range lock, and the hashes of its pieces are enqueued before the lock goes: so they
//! are about the data at that place of the stream, with every earlier write in it and no later
//! one. The peer reads its own when every earlier frame of the range is applied, and before any
//! later one is. Pieces that differ are asked for in smaller pieces. A block that differs is asked
//! for once more; if it differs again, both boxes' bytes are reported, and nothing is changed.
//!
//! ```text
//! Span 1 MiB ──▶ Chunk 64 KiB ──▶ Block 4 KiB ──▶ Again ──▶ Event::CopiesDiffer
//! ```
//!
//! What cannot be read is not a difference: it is found by the same steps, and a block is made
//! good by `mend.rs` (here), or by writing what is here once more (there).
//!
//! Invariants: at most one part is under way; `parts` are of `span`; a walk moves on when nothing
//! is left of its span, so that one that was given up begins again.

use super::command::{Action, Payload, Stage};
use super::digest::equal;
use super::disk::Op;
use super::inflight::{Grant, Mode};
use super::resync::{Joining, is_zero};
use super::session::What;
use super::{CommandError, Completed, DiskError, Engine, Event, Io, IoDone, Scrubbed, VolumeScrub};
use crate::meta::DIRTY_BLOCK_BYTES;
use crate::mutants::mutant;
use crate::types::{Fua, SessionId, Time, VolumeNumber};
use crate::wire::digest::{self, Digest};
use crate::wire::verify::{PIECE_MIN_BYTES, RANGE_MAX_BYTES, Verify};
use crate::wire::{Header, Kind, Refusal, WireError};
use bytes::Bytes;
use std::collections::BTreeMap;

/// What is read at once.
const SPAN_BYTES: u64 = RANGE_MAX_BYTES;
/// What is told apart in the end.
const BLOCK_BYTES: u64 = PIECE_MIN_BYTES;
/// Blocks of one pass of a volume that are reported; beyond it they are counted.
const REPORTED_MAX: u64 = 16;

/// What the scrub is doing.
#[derive(Debug)]
pub(super) struct Scrub {
    /// How fast it reads by itself; 0 is not at all.
    bytes_per_s: u64,
    /// It starts nothing by itself before that.
    next_at: Time,
    /// Whose turn it is, of the volumes that nobody asked for.
    turn: VolumeNumber,
    /// Volumes to be compared now, without a pause.
    asked: BTreeMap<VolumeNumber, Asked>,
    span: Option<Part>,
    /// What is still to be asked of the span.
    parts: Vec<Part>,
    flight: Option<Flight>,
}

/// How far the scrub of one volume is.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// The next span begins here.
    at: u64,
    running: Option<Scrubbed>,
    last: Option<Scrubbed>,
}

/// A pass that somebody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// It is to begin at the start of the volume.
    Waiting,
    Running,
}

/// A range to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    volume: VolumeNumber,
    start: u64,
    end: u64,
    depth: Depth,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    Span,
    Chunk,
    Block,
    /// The block differed a moment ago.
    Again,
}

/// The part that is under way: a task of its own, then a frame without an answer.
#[derive(Debug)]
struct Flight {
    ticket: u64,
    part: Part,
    session: u32,
    /// What is here, of a block.
    here: Bytes,
}

impl Depth {
    const fn piece_bytes(self) -> u64 {
        match self {
            Self::Span => DIRTY_BLOCK_BYTES,
            Self::Chunk | Self::Block | Self::Again => BLOCK_BYTES,
        }
    }

    const fn deeper(self) -> Option<Self> {
        match self {
            Self::Span => Some(Self::Chunk),
            Self::Chunk => Some(Self::Block),
            Self::Block => Some(Self::Again),
            Self::Again => None,
        }
    }
}

impl Part {
    const fn len_bytes(&self) -> u64 {
        self.end - self.start
    }

    const fn is_block(&self) -> bool {
        matches!(self.depth, Depth::Block | Depth::Again)
    }

    /// A bit for each piece.
    const fn all(&self) -> u64 {
        (1 << self.len_bytes().div_ceil(self.depth.piece_bytes())) - 1
    }

    /// The pieces of a mask, the last one first.
    fn pieces(self, mask: u64, depth: Depth) -> impl Iterator<Item = Self> {
        let piece_bytes = self.depth.piece_bytes();
        let at = (0..u64::BITS).rev().filter(move |at| mask >> at & 1 == 1);
        at.map(move |at| {
            let start = self.start + u64::from(at) * piece_bytes;
            Self {
                start,
                end: (start + piece_bytes).min(self.end),
                depth,
                ..self
            }
        })
    }
}

impl Scrub {
    pub(super) const fn new(bytes_per_s: u64) -> Self {
        Self {
            bytes_per_s,
            next_at: Time(0),
            turn: VolumeNumber::SYSTEM,
            asked: BTreeMap::new(),
            span: None,
            parts: Vec::new(),
            flight: None,
        }
    }

    pub(super) const fn bytes_per_s(&self) -> u64 {
        self.bytes_per_s
    }

    /// Pays for what is read without being asked for.
    fn pay(&mut self, now: Time, bytes: u64) {
        let Some(ns) = (u128::from(bytes) * 1_000_000_000).checked_div(self.bytes_per_s.into())
        else {
            return;
        };
        let ns = u64::try_from(ns).unwrap_or(u64::MAX);
        self.next_at = Time(self.next_at.max(now).0.saturating_add(ns));
    }
}

impl Walk {
    pub(super) fn told(&self) -> VolumeScrub {
        VolumeScrub {
            running: self.running.map(|found| (self.at, found)),
            last: self.last,
        }
    }

    fn found(&mut self) -> &mut Scrubbed {
        self.running.get_or_insert_default()
    }
}

/// The primary's side.
impl Engine {
    pub(super) fn set_scrub_rate(&mut self, bytes_per_s: u64) {
        self.scrub.bytes_per_s = bytes_per_s;
        self.scrub.next_at = self.now;
    }

    pub(super) fn ask_scrub(&mut self, number: VolumeNumber) {
        if self.is_primary() && self.volumes.contains_key(&number) {
            self.scrub.asked.insert(number, Asked::Waiting);
        }
    }

    /// Both boxes have the same of everything, and nobody is about to change who they are.
    fn can_scrub(&self) -> bool {
        self.can_write()
            && self.counts_peer()
            && self.source.as_ref().is_some_and(|source| source.in_sync)
            && self.joining == Joining::No
            && self.jobs.is_empty()
            && self.dirty_bytes() == 0
    }

    pub(super) fn advance_scrub(&mut self) {
        let Scrub {
            asked,
            span,
            flight,
            ..
        } = &self.scrub;
        let rests = self.scrub.bytes_per_s == 0 && span.is_none();
        let waits = asked.is_empty() && (rests || self.now < self.scrub.next_at);
        if flight.is_some() || waits || !self.can_scrub() {
            return;
        }
        if let Some(part) = self.scrub.parts.pop() {
            self.start_part(part);
        } else if let Some(number) = self.volume_to_scrub() {
            self.start_span(number);
        }
    }

    /// A volume that somebody asked for, else the one whose turn it is.
    fn volume_to_scrub(&mut self) -> Option<VolumeNumber> {
        let volumes = &self.volumes;
        let usable = |number: &VolumeNumber| volumes.get(number).is_some_and(|it| !it.closing);
        self.scrub.asked.retain(|number, _| usable(number));
        let turn = self.scrub.turn;
        let asked = self.scrub.asked.keys().next().copied();
        asked.or_else(|| {
            let by_itself = self.scrub.bytes_per_s > 0;
            let after = || volumes.keys().filter(|number| **number >= turn);
            let all = after().chain(volumes.keys());
            let next = all.copied().find(usable);
            next.filter(|_| by_itself)
        })
    }

    fn start_span(&mut self, number: VolumeNumber) {
        let asked = self.scrub.asked.get_mut(&number);
        let begins = asked.as_deref() == Some(&Asked::Waiting);
        let is_asked = asked.map(|asked| *asked = Asked::Running).is_some();
        let volume = self.volume_mut(number);
        let (walk, size_bytes) = (&mut volume.scrub, volume.spec.size_bytes);
        if begins || walk.at >= size_bytes {
            walk.at = 0;
            walk.running = None;
        }
        walk.found().asked = is_asked;
        let span = Part {
            volume: number,
            start: walk.at,
            end: size_bytes.min(walk.at + SPAN_BYTES),
            depth: Depth::Span,
        };
        self.scrub.span = Some(span);
        self.start_part(span);
    }

    /// Reads a part once nothing older is under way in it.
    fn start_part(&mut self, part: Part) {
        self.step();
        let volume = self.volumes.get(&part.volume);
        let whole = volume.is_some_and(|it| !it.closing && part.end <= it.spec.size_bytes);
        if !whole {
            return self.abandon_span();
        }
        if self.scrub.asked.is_empty() {
            self.scrub.pay(self.now, part.len_bytes());
        }
        let range = (part.start, part.end);
        let ticket = self.admit_own(part.volume, range, Action::Verify);
        self.scrub.flight = Some(Flight {
            ticket,
            part,
            session: self.session_number(),
            here: Bytes::new(),
        });
    }

    /// The part may still be compared: nothing has changed since it was taken in.
    pub(super) fn may_verify(&self, ticket: u64) -> bool {
        let session = self.session_number();
        let ours = |flight: &Flight| flight.ticket == ticket && flight.session == session;
        self.scrub.flight.as_ref().is_some_and(ours) && self.can_scrub()
    }

    /// Lets go of a part that is not compared any more.
    pub(super) fn drop_verify(&mut self, ticket: u64) {
        self.finish(ticket, Err(CommandError::NotPrimary));
    }

    /// The part was read under its lock: this is its place in the stream.
    pub(super) fn send_verify(&mut self, ticket: u64, data: &Bytes) {
        if !self.may_verify(ticket) {
            return self.drop_verify(ticket);
        }
        let mended = matches!(self.tasks[&ticket].stage, Stage::Mending(_));
        let flight = self.scrub.flight.as_mut().expect("looked at above");
        let part = flight.part;
        if part.is_block() {
            flight.here = data.clone();
        }
        let walk = &mut self.volume_mut(part.volume).scrub;
        walk.found().mended += u64::from(mended);
        let piece_bytes = part.depth.piece_bytes();
        let verify = Verify {
            len_bytes: part.len_bytes(),
            piece_bytes,
            digests: hashes(data, piece_bytes),
        };
        let what = What::Verify { ticket };
        let place = (part.volume, part.start..part.end);
        self.send_range((Kind::Verify, 0), what, place, verify.encode());
        self.tasks.remove(&ticket);
        self.unlock(part.volume, ticket);
    }

    /// The peer has compared; a bit for each piece that differs, and what it has of a block.
    pub(super) fn on_verify_reply(
        &mut self,
        header: &Header,
        there: &Bytes,
    ) -> Result<(), WireError> {
        let sent = self.take_sent(header.seq);
        let Some((What::Verify { ticket }, _)) = sent else {
            return Err(WireError::Field("seq"));
        };
        let flight = self.scrub.flight.as_ref();
        let Some(flight) = flight.filter(|flight| flight.ticket == ticket) else {
            return Ok(());
        };
        let (part, differs) = (flight.part, header.offset);
        if differs & !part.all() != 0 {
            return Err(WireError::Field("offset"));
        }
        if differs != 0 && part.depth.deeper().is_none() {
            let here = flight.here.clone();
            if there.len() != here.len() || *there == here {
                return Err(WireError::Field("length"));
            }
            self.report_difference(part, here, there.clone());
        } else {
            self.look_closer(part, differs);
        }
        self.end_part();
        Ok(())
    }

    /// The peer cannot read it. A block is written there once more, if it is still the same here.
    pub(super) fn on_verify_refused(&mut self, ticket: u64) {
        let flight = self.scrub.flight.as_mut();
        let Some(flight) = flight.filter(|flight| flight.ticket == ticket) else {
            return;
        };
        let part = flight.part;
        if !part.is_block() {
            self.look_closer(part, part.all());
            return self.end_part();
        }
        if !self.can_scrub() {
            return self.abandon_span(); // its volume may be about to go
        }
        let flight = self.scrub.flight.as_mut().expect("looked at above");
        let here = std::mem::take(&mut flight.here);
        let rewrite = Action::Write {
            payload: Payload::Data(here.clone()),
            fua: Fua::No,
            expected: Some(here),
        };
        let ticket = self.admit_own(part.volume, (part.start, part.end), rewrite);
        if let Some(flight) = &mut self.scrub.flight {
            flight.ticket = ticket;
        }
    }

    /// What cannot be read here is looked for in smaller pieces, down to a block; whether this was
    /// a part of the scrub that has some.
    pub(super) fn splits_unreadable(&mut self, ticket: u64) -> bool {
        let flight = self.scrub.flight.as_ref();
        let flight = flight.filter(|flight| flight.ticket == ticket && !flight.part.is_block());
        let Some(part) = flight.map(|flight| flight.part) else {
            return false;
        };
        self.tasks.remove(&ticket);
        self.unlock(part.volume, ticket);
        self.look_closer(part, part.all());
        self.end_part();
        true
    }

    /// A task of the scrub came to its end: a part that was given up, or a rewritten block.
    pub(super) fn on_own_done(&mut self, ticket: u64, result: &Result<Completed, CommandError>) {
        let ours = |flight: &mut Flight| flight.ticket == ticket;
        let Some(flight) = self.scrub.flight.take_if(ours) else {
            return;
        };
        if *result == Err(CommandError::NotPrimary) {
            return self.abandon_span();
        }
        if let Some(volume) = self.volumes.get_mut(&flight.part.volume) {
            let found = volume.scrub.found();
            found.mended += u64::from(*result == Ok(Completed::Ok));
            found.unreadable += u64::from(result.is_err());
        }
        self.end_part();
    }

    fn look_closer(&mut self, part: Part, mask: u64) {
        // of a span that was given up meanwhile nothing is wanted any more
        if let Some(depth) = part.depth.deeper().filter(|_| self.scrub.span.is_some()) {
            self.scrub.parts.extend(part.pieces(mask, depth));
        }
    }

    fn report_difference(&mut self, part: Part, here: Bytes, there: Bytes) {
        let Some(volume) = self.volumes.get_mut(&part.volume) else {
            return; // deleted meanwhile
        };
        let found = volume.scrub.found();
        found.differing += 1;
        if found.differing <= REPORTED_MAX {
            self.event(Event::CopiesDiffer {
                volume: part.volume,
                offset_bytes: part.start,
                here,
                there,
            });
        }
    }

    /// The part is over; with the last one of a span the walk moves on.
    fn end_part(&mut self) {
        self.scrub.flight = None;
        self.step();
        if !self.scrub.parts.is_empty() {
            return;
        }
        let Some(span) = self.scrub.span.take() else {
            return;
        };
        let now = self.now;
        let Some(volume) = self.volumes.get_mut(&span.volume) else {
            return;
        };
        let walk = &mut volume.scrub;
        walk.at = span.end;
        walk.found().blocks += span.len_bytes() / BLOCK_BYTES;
        let asked = self.scrub.asked.get(&span.volume);
        if walk.at < volume.spec.size_bytes || asked == Some(&Asked::Waiting) {
            return;
        }
        self.scrub.asked.remove(&span.volume);
        let mut found = walk.running.take().unwrap_or_default();
        found.ended = now;
        walk.last = Some(found);
        if self.scrub.turn <= span.volume {
            let next = VolumeNumber(span.volume.0 + 1);
            let last = self.volumes.keys().next_back() == Some(&span.volume);
            self.scrub.turn = if last { VolumeNumber::SYSTEM } else { next };
        }
        self.event(Event::Scrubbed {
            volume: span.volume,
            found,
        });
    }

    /// The span will be read again from its start. A task of it ends by itself.
    pub(super) fn abandon_span(&mut self) {
        self.scrub.span = None;
        self.scrub.parts.clear();
        let tasks = &self.tasks;
        let sent = |flight: &mut Flight| !tasks.contains_key(&flight.ticket);
        self.scrub.flight.take_if(sent);
        self.step();
    }

    /// This box compares nothing any more, and its tasks are gone.
    pub(super) fn abandon_scrub(&mut self) {
        self.abandon_span();
        self.scrub.flight = None;
        self.scrub.asked.clear();
        for volume in self.volumes.values_mut() {
            let last = volume.scrub.last;
            volume.scrub = Walk {
                last,
                ..Walk::default()
            };
        }
    }

    /// When the rate lets the next part go.
    pub(super) fn scrub_at(&self) -> Option<Time> {
        let waits = self.scrub.next_at > self.now && self.scrub.flight.is_none();
        (waits && self.can_scrub()).then_some(self.scrub.next_at)
    }
}

/// The secondary's side: reads at the place of the stream where it was asked to.
impl Engine {
    pub(super) fn queue_verify(&mut self, header: Header, body: Bytes) -> Result<(), WireError> {
        let length = Verify::parse(&body)?.len_bytes;
        let end = self.stream_range(&Header { length, ..header })?;
        let target = self.target.as_mut().expect("the caller looked");
        let grant = if mutant!(ScrubAnywhere) {
            Grant::Now
        } else {
            let locks = target.locks.entry(header.volume).or_default();
            locks.acquire(header.seq, header.offset, end, Mode::Shared)
        };
        target.waiting.insert(header.seq, (header, body));
        if grant == Grant::Now {
            self.apply(header.seq);
        }
        Ok(())
    }

    /// Its turn has come.
    pub(super) fn read_to_verify(&mut self, header: &Header, body: Bytes) {
        let target = self.target.as_mut().expect("the caller looked");
        let (session, volume, seq) = (target.id, header.volume, header.seq);
        let verify = Verify::parse(&body).expect("it was parsed when it came");
        target.comparing.insert(seq, body);
        let Some(it) = self.volumes.get(&volume) else {
            return self.on_read_to_verify((session, volume, seq), Ok(IoDone::Ok));
        };
        let io = Io::Read {
            offset_bytes: it.layout.data_offset + header.offset,
            len_bytes: usize::try_from(verify.len_bytes).expect("bounded when it came"),
        };
        let op = Op::Verify {
            session,
            volume,
            seq,
        };
        self.submit(volume, op, io);
    }

    /// Compares what was read. That it failed is for the primary to judge.
    pub(super) fn on_read_to_verify(
        &mut self,
        (session, number, seq): (SessionId, VolumeNumber, u64),
        result: Result<IoDone, DiskError>,
    ) {
        let target = self.target.as_mut().filter(|target| target.id == session);
        let Some(target) = target else { return };
        let granted = target.locks.entry(number).or_default().release(seq);
        let body = target.comparing.remove(&seq).unwrap_or_default();
        match result {
            Ok(IoDone::Data(data)) => self.answer_verify(number, seq, &body, &data),
            Ok(IoDone::Ok) | Err(_) => self.refuse_frame(Refusal::Unreadable, seq, ""),
        }
        for seq in granted {
            self.apply(seq);
        }
    }

    fn answer_verify(&mut self, number: VolumeNumber, seq: u64, body: &Bytes, data: &Bytes) {
        let verify = Verify::parse(body).expect("it was parsed when it came");
        let own = hashes(data, verify.piece_bytes);
        let pairs = own.iter().zip(&verify.digests).enumerate();
        let mut differs = 0;
        for (at, (own, theirs)) in pairs {
            differs |= u64::from(!equal(own, theirs)) << at;
        }
        if mutant!(ScrubBlind) {
            differs = 0;
        }
        let one = differs != 0 && data.len() as u64 == BLOCK_BYTES;
        let image = if one { data.clone() } else { Bytes::new() };
        self.answer_with(image, |header| Header {
            kind: Kind::VerifyReply,
            volume: number,
            seq,
            offset: differs,
            ..header
        });
    }
}

/// A hash for each piece. Zeroes, which thin volumes mostly are, have one that no data has.
fn hashes(data: &[u8], piece_bytes: u64) -> Vec<Digest> {
    let piece_len = usize::try_from(piece_bytes).expect("a piece is small");
    let hash = |piece: &[u8]| {
        if is_zero(piece) {
            [0; digest::LEN_BYTES]
        } else {
            digest::of(piece)
        }
    };
    data.chunks(piece_len).map(hash).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(len_bytes: u64) -> Part {
        Part {
            volume: VolumeNumber(1),
            start: SPAN_BYTES,
            end: SPAN_BYTES + len_bytes,
            depth: Depth::Span,
        }
    }

    #[test]
    fn pieces_are_what_the_mask_says_and_end_with_the_part() {
        assert_eq!(span(SPAN_BYTES).all(), 0xffff);
        let short = span(DIRTY_BLOCK_BYTES + BLOCK_BYTES);
        assert_eq!(short.all(), 0b11);
        let chunks: Vec<Part> = short.pieces(0b11, Depth::Chunk).collect();
        let ranges: Vec<(u64, u64)> = chunks.iter().map(|it| (it.start, it.end)).collect();
        let middle = SPAN_BYTES + DIRTY_BLOCK_BYTES;
        assert_eq!(ranges, [(middle, short.end), (SPAN_BYTES, middle)]);
        assert_eq!(chunks[0].all(), 1);
        let block = chunks[0].pieces(1, Depth::Block).next();
        assert!(block.is_some_and(|block| block.is_block() && block.all() == 1));
    }

    #[test]
    fn a_rate_spaces_what_is_read() {
        let mut scrub = Scrub::new(4 << 20);
        scrub.pay(Time(0), SPAN_BYTES);
        scrub.pay(Time(0), SPAN_BYTES);
        assert_eq!(scrub.next_at, Time(0).plus_ms(500));
        scrub.pay(Time(0).plus_ms(2000), SPAN_BYTES);
        assert_eq!(
            scrub.next_at,
            Time(0).plus_ms(2250),
            "time that passed is no credit"
        );
    }

    #[test]
    fn data_never_has_the_hash_of_zeroes() {
        let data = [[0; 4096], [7; 4096]].concat();
        let [zero, seven] = hashes(&data, 4096)[..] else {
            panic!("two pieces");
        };
        assert_eq!(zero, [0; digest::LEN_BYTES]);
        assert_eq!(seven, digest::of(&[7; 4096]));
    }
}
