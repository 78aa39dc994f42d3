//! The data session as the primary sees it: its life, its stream, its answers.
//!
//! ```text
//! Welcome ──▶ State ──▶ Masks ──▶ Preparing ──▶ Streaming
//! ```
//!
//! Acks, StableAcks and Flush frames belong to one session and die with it (law D4). A session
//! that ends while the peer is needed freezes the engine (law R1).

use super::inflight::Ranges;
use super::mend::Room;
use super::resync::Progress;
use super::{Engine, Event, Output, PeerLoss};
use crate::mutants::mutant;
use crate::types::{Epoch, SessionId, Time, VolumeNumber};
use crate::wire::applied::Applied;
use crate::wire::{self, Header, Kind, Refusal, WireError, hello};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The session we dialled.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) id: SessionId,
    pub(super) number: u32,
    /// What frames are stamped with.
    pub(super) epoch: Epoch,
    pub(super) phase: Phase,
    pub(super) mine: hello::Hello,
    /// The channel that carries it.
    pub(super) binding: hello::Binding,
    pub(super) theirs: Option<hello::Hello>,
    pub(super) state: Option<hello::State>,
    /// What it applied of an earlier session.
    pub(super) applied: Option<Applied>,
    /// The masks that came had no bit set.
    pub(super) masks_empty: bool,
    pub(super) heard: Time,
    sent: Time,
    last_seq: u64,
    unacked: BTreeMap<u64, Sent>,
    ranges: BTreeMap<VolumeNumber, Ranges>,
    /// Bytes of application writes sent and not acknowledged.
    pub(super) mirror_bytes: u64,
    /// Bytes of resync blocks sent and not acknowledged.
    pub(super) resync_bytes: u64,
    /// Blocks sent and not yet stable, with the frame that carries them.
    pub(super) sent_chunks: BTreeMap<(VolumeNumber, u32), u64>,
    /// Blocks being read.
    pub(super) reading: BTreeSet<(VolumeNumber, u32)>,
    /// Blocks whose hashes were found to differ, to be copied next.
    pub(super) differing: BTreeSet<(VolumeNumber, u32)>,
    pub(super) progress: Progress,
    /// The peer has been told that it is in sync.
    pub(super) in_sync: bool,
}

/// How far a session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Welcome,
    State,
    Masks,
    /// Masks and group state are being made durable.
    Preparing {
        pages: Vec<(VolumeNumber, u64)>,
        group: u64,
    },
    Streaming,
}

/// A frame without an answer.
#[derive(Clone, Debug)]
struct Sent {
    what: What,
    volume: VolumeNumber,
}

/// What a frame is about.
#[derive(Clone, Debug)]
pub(super) enum What {
    Write {
        ticket: u64,
        /// Its number in the volume.
        number: u64,
        bytes: u64,
    },
    Chunk {
        block: u32,
        count: u32,
        bytes: u64,
    },
    Digest {
        block: u32,
        count: u32,
        bytes: u64,
    },
    Mend {
        ticket: u64,
        bytes: u64,
    },
    Read {
        ticket: u64,
    },
    Verify {
        ticket: u64,
    },
    Flush {
        volume: VolumeNumber,
    },
    Marker {
        epoch: Epoch,
    },
    Volume,
}

impl What {
    /// It is about what a range of a volume holds on the peer.
    const fn settles_data(&self) -> bool {
        match self {
            Self::Write { .. } | Self::Chunk { .. } | Self::Digest { .. } | Self::Mend { .. } => {
                true
            }
            Self::Read { .. }
            | Self::Verify { .. }
            | Self::Flush { .. }
            | Self::Marker { .. }
            | Self::Volume => false,
        }
    }
}

impl Source {
    pub(super) fn new(
        (id, binding): (SessionId, hello::Binding),
        number: u32,
        epoch: Epoch,
        mine: hello::Hello,
    ) -> Self {
        Self {
            id,
            number,
            epoch,
            phase: Phase::Welcome,
            mine,
            binding,
            theirs: None,
            state: None,
            applied: None,
            masks_empty: true,
            heard: Time::default(),
            sent: Time::default(),
            last_seq: 0,
            unacked: BTreeMap::new(),
            ranges: BTreeMap::new(),
            mirror_bytes: 0,
            resync_bytes: 0,
            sent_chunks: BTreeMap::new(),
            reading: BTreeSet::new(),
            differing: BTreeSet::new(),
            progress: Progress::default(),
            in_sync: false,
        }
    }

    pub(super) fn is_streaming(&self) -> bool {
        self.phase == Phase::Streaming
    }

    /// The place of the newest frame.
    pub(super) const fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Every write and block up to `seq` was acknowledged.
    pub(super) fn is_applied(&self, seq: u64) -> bool {
        let mut waiting = self.unacked.range(..=seq).map(|(_, sent)| &sent.what);
        waiting.all(|what| !what.settles_data())
    }

    /// The block is on its way to the peer.
    pub(super) fn has(&self, number: VolumeNumber, block: u32) -> bool {
        let place = (number, block);
        self.reading.contains(&place) || self.sent_chunks.contains_key(&place)
    }

    /// The frame `seq` has been answered.
    pub(super) fn is_answered(&self, seq: u64) -> bool {
        !self.unacked.contains_key(&seq)
    }

    pub(super) fn silent_at(&self, peer_loss_ms: u64) -> Time {
        self.heard.plus_ms(peer_loss_ms)
    }

    pub(super) fn ping_at(&self, peer_loss_ms: u64) -> Time {
        let share = if mutant!(PingOften) { 10 } else { 5 };
        self.sent.plus_ms(peer_loss_ms / share)
    }
}

impl Engine {
    pub(super) fn is_streaming(&self) -> bool {
        self.source.as_ref().is_some_and(Source::is_streaming)
    }

    /// The number of the session, 0 without one.
    pub(super) fn session_number(&self) -> u32 {
        self.source.as_ref().map_or(0, |source| source.number)
    }

    /// Dials when there is somebody to serve and nobody at the other end.
    pub(super) fn advance_dial(&mut self) {
        let wanted = self.is_serving()
            && (!self.frozen || self.is_held())
            && self.failed.is_none()
            && self.source.is_none()
            && !self.dialing;
        if wanted && self.dial_at.is_none_or(|at| at <= self.now) {
            self.dialing = true;
            self.emit(Output::Connect);
        }
    }

    pub(super) fn on_connect_failed(&mut self) {
        self.dialing = mutant!(StuckDial);
        self.dial_at = Some(self.now.plus_ms(self.redial_ms()));
    }

    /// The process that had the session is gone: there is nothing to wait for.
    pub(super) fn on_connect_refused(&mut self) {
        self.on_connect_failed();
        if self.is_held() {
            self.freeze(PeerLoss::Closed);
        }
    }

    /// Sooner while commands wait for the peer to be verified.
    const fn redial_ms(&self) -> u64 {
        let part = match (self.is_held(), self.verified) {
            (true, _) => 25,
            (false, false) => 10,
            (false, true) => 2,
        };
        self.params.peer_loss_ms / part
    }

    pub(super) fn on_connected(&mut self, session: SessionId, binding: hello::Binding) {
        let expected = std::mem::take(&mut self.dialing);
        let shut = self.frozen && !self.is_held();
        if !expected || !self.is_serving() || shut || self.source.is_some() {
            return self.emit(Output::Disconnect { session });
        }
        self.sessions += 1;
        let mine = self.new_hello();
        let channel = (session, binding);
        let mut source = Source::new(channel, self.sessions, self.standing_epoch(), mine);
        source.heard = self.now;
        self.source = Some(source);
        self.send_body(Kind::Hello, Bytes::copy_from_slice(&mine.encode()));
    }

    /// Sends a frame of the handshake.
    pub(super) fn send_body(&mut self, kind: Kind, payload: Bytes) {
        let source = self.source.as_mut().expect("the caller has a session");
        let mut header = Header::new(kind, source.epoch, source.number);
        let trailer = wire::seal(&mut header, &payload);
        self.send_frame(&header, payload, trailer);
    }

    /// Sends a sequenced frame without a range.
    pub(super) fn send_control(&mut self, kind: Kind, what: What, volume: VolumeNumber) {
        self.send_control_body(kind, what, volume, Bytes::new());
    }

    /// Sends a sequenced frame with a body.
    pub(super) fn send_control_body(
        &mut self,
        kind: Kind,
        what: What,
        volume: VolumeNumber,
        body: Bytes,
    ) {
        let source = self.source.as_mut().expect("the caller has a session");
        source.last_seq += 1;
        let mut header = Header::new(kind, source.epoch, source.number);
        header.seq = source.last_seq;
        header.volume = volume;
        let trailer = wire::seal(&mut header, &body);
        source.unacked.insert(header.seq, Sent { what, volume });
        self.send_frame(&header, body, trailer);
    }

    /// Sends a sequenced frame about a range of a volume; its place in the stream.
    pub(super) fn send_range(
        &mut self,
        (kind, flags): (Kind, u8),
        what: What,
        (volume, range): (VolumeNumber, Range<u64>),
        payload: Bytes,
    ) -> u64 {
        let source = self.source.as_mut().expect("the caller has a session");
        source.last_seq += 1;
        let seq = source.last_seq;
        let ranges = source.ranges.entry(volume).or_default();
        let dep_seq = ranges
            .overlapping(range.start, range.end)
            .max()
            .unwrap_or(0);
        ranges.insert(seq, range.start, range.end);
        match what {
            What::Write { bytes, .. } | What::Mend { bytes, .. } => source.mirror_bytes += bytes,
            What::Chunk { bytes, .. } | What::Digest { bytes, .. } => {
                source.resync_bytes += bytes;
            }
            What::Read { .. }
            | What::Verify { .. }
            | What::Flush { .. }
            | What::Marker { .. }
            | What::Volume => {}
        }
        source.unacked.insert(seq, Sent { what, volume });
        let mut header = Header {
            flags,
            seq,
            dep_seq,
            offset: range.start,
            length: range.end - range.start,
            volume,
            ..Header::new(kind, source.epoch, source.number)
        };
        let trailer = wire::seal(&mut header, &payload);
        self.send_frame(&header, payload, trailer);
        seq
    }

    fn send_frame(&mut self, header: &Header, payload: Bytes, trailer: Bytes) {
        let source = self.source.as_mut().expect("the caller has a session");
        source.sent = self.now;
        let (session, header) = (source.id, header.encode());
        self.emit(Output::Send {
            session,
            header,
            payload,
            trailer,
        });
    }

    pub(super) fn on_source_frame(&mut self, header: &Header, payload: &Bytes) {
        let source = self.source.as_mut().expect("the caller looked");
        source.heard = self.now;
        if header.session != source.number && !mutant!(AnySession) {
            return self.break_session("a frame of another session");
        }
        let result = match header.kind {
            Kind::Ping => Ok(()),
            Kind::Welcome => self.on_welcome(payload),
            Kind::State => self.on_state(payload),
            Kind::Applied if source.phase == Phase::Masks => self.on_applied_state(payload),
            Kind::Mask => self.on_mask(header.volume, payload),
            Kind::MaskEnd => self.on_mask_end(),
            Kind::Ack => self.on_ack(header.seq, header.offset),
            Kind::StableAck => self.on_stable_ack(header.volume, header.seq),
            Kind::ReadReply => self.on_read_reply(header.seq, payload),
            Kind::VerifyReply => self.on_verify_reply(header, payload),
            Kind::Nack => self.on_nack(header, payload),
            Kind::Hello
            | Kind::Proof
            | Kind::Table
            | Kind::Begin
            | Kind::Applied
            | Kind::Write
            | Kind::WriteZeroes
            | Kind::ResyncData
            | Kind::ResyncZero
            | Kind::Flush
            | Kind::Epoch
            | Kind::VolumeCreate
            | Kind::VolumeDelete
            | Kind::VolumeGrow
            | Kind::ResyncHash
            | Kind::Read
            | Kind::Verify => Err(WireError::Field("kind")),
        };
        if let Err(error) = result {
            self.break_session(&error.to_string());
        }
    }

    fn on_ack(&mut self, seq: u64, differs: u64) -> Result<(), WireError> {
        let (sent, volume) = self.take_sent(seq).ok_or(WireError::Field("seq"))?;
        match sent {
            What::Write { ticket, number, .. } => {
                self.kepts.applied(volume, number);
                if mutant!(PayEarly)
                    && let Some(volume) = self.volumes.get_mut(&volume)
                {
                    volume.dirty.pay(number);
                }
                self.on_piece_acked(ticket, number);
            }
            What::Mend { ticket, .. } => self.on_mend_answered(ticket, Room::Found),
            What::Chunk {
                block,
                count,
                bytes,
            } => {
                self.pacer.acked(bytes);
                if mutant!(ClearUnstable) {
                    self.clear_blocks(volume, block, count);
                }
            }
            What::Digest {
                block,
                count,
                bytes,
            } => {
                self.pacer.acked(bytes);
                self.on_compared(volume, (block, count), seq, differs);
            }
            What::Flush { .. } | What::Read { .. } | What::Verify { .. } => {
                return Err(WireError::Field("seq"));
            }
            What::Marker { epoch } => self.event(Event::InSync { epoch }),
            What::Volume => self.on_volume_answer(Ok(())),
        }
        Ok(())
    }

    /// Law D1, broken by a mutant: copies count before they are stable.
    fn clear_blocks(&mut self, number: VolumeNumber, first: u32, count: u32) {
        for block in first..first + count {
            let source = self.source.as_mut().expect("the caller looked");
            if source.sent_chunks.remove(&(number, block)).is_some() {
                self.volume_mut(number).dirty.clear(block);
            }
        }
    }

    /// The frame is answered: what it was about, and which volume.
    pub(super) fn take_sent(&mut self, seq: u64) -> Option<(What, VolumeNumber)> {
        let source = self.source.as_mut()?;
        let sent = source.unacked.remove(&seq)?;
        if let Some(ranges) = source.ranges.get_mut(&sent.volume) {
            ranges.remove(seq);
        }
        match sent.what {
            What::Write { bytes, .. } | What::Mend { bytes, .. } => source.mirror_bytes -= bytes,
            What::Chunk { bytes, .. } | What::Digest { bytes, .. } => {
                source.resync_bytes -= bytes;
            }
            What::Read { .. }
            | What::Verify { .. }
            | What::Flush { .. }
            | What::Marker { .. }
            | What::Volume => {}
        }
        Some((sent.what, sent.volume))
    }

    /// The range of a frame without an answer.
    pub(super) fn range_of(&self, seq: u64) -> Option<(VolumeNumber, Range<u64>)> {
        let source = self.source.as_ref()?;
        let volume = source.unacked.get(&seq)?.volume;
        let range = source.ranges.get(&volume)?.range(seq)?;
        Some((volume, range))
    }

    fn on_stable_ack(&mut self, volume: VolumeNumber, seq: u64) -> Result<(), WireError> {
        let source = self.source.as_mut().expect("the caller looked");
        let sent = source.unacked.get(&seq).map(|sent| &sent.what);
        if !matches!(sent, Some(What::Flush { volume: asked }) if *asked == volume) {
            return Err(WireError::Field("seq"));
        }
        source.unacked.remove(&seq);
        self.on_stable(volume, seq);
        Ok(())
    }

    fn on_nack(&mut self, header: &Header, payload: &Bytes) -> Result<(), WireError> {
        match Refusal::from_flags(header.flags) {
            Some(Refusal::Sealed) => self.end_session(PeerLoss::Sealed),
            Some(Refusal::Disk) => self.end_session(PeerLoss::DiskFailed),
            Some(Refusal::NoRoom) => return self.on_no_room(header.seq),
            Some(Refusal::Unreadable) => return self.on_unreadable(header.seq),
            Some(Refusal::Volume) if self.is_streaming() => {
                let source = self.source.as_mut().expect("the caller looked");
                if source.unacked.remove(&header.seq).is_some() {
                    let reason = String::from_utf8_lossy(payload).into_owned();
                    self.on_volume_answer(Err(reason));
                }
            }
            Some(Refusal::Volume | Refusal::Unrelated) => {
                let reason = String::from_utf8_lossy(payload).into_owned();
                self.alarm(format!(
                    "the data of this box has no second copy, the peer cannot join: {reason}; see \
                     `twinsan events` there; it is asked again by itself"
                ));
                self.end_session(PeerLoss::Closed);
                self.dial_at = Some(self.now.plus_ms(self.params.peer_loss_ms * 10));
            }
            None => self.break_session("an unknown refusal"),
        }
        Ok(())
    }

    /// The peer cannot read what was asked for.
    fn on_unreadable(&mut self, seq: u64) -> Result<(), WireError> {
        match self.take_sent(seq) {
            Some((What::Read { ticket }, _)) => self.on_read_refused(ticket),
            Some((What::Verify { ticket }, _)) => self.on_verify_refused(ticket),
            Some(_) | None => return Err(WireError::Field("seq")),
        }
        Ok(())
    }

    /// What came is not to be understood.
    pub(super) fn break_session(&mut self, why: &str) {
        self.alarm(broken("peer", why));
        self.end_session(PeerLoss::Closed);
    }

    /// The session is over, whatever its phase. What was mirrored and is not known stable becomes
    /// dirty; with the peer needed everything is held (law R1).
    pub(super) fn end_session(&mut self, why: PeerLoss) {
        let Some(source) = self.source.take() else {
            return;
        };
        let held_until = self.thaw_until(&source, why);
        self.emit(Output::Disconnect { session: source.id });
        self.dial_at = Some(self.now.plus_ms(self.redial_ms()));
        for volume in self.volumes.values_mut() {
            if mutant!(ForgetUnstable) {
                volume.unstable.clear();
            }
            if mutant!(ForgetAcked) {
                let active = &volume.active;
                volume.unstable.retain(|_, write| active.contains(write));
            }
            volume.peer_flush.abort();
        }
        self.owe_unstable();
        self.drop_peer_legs();
        self.abandon_span();
        self.pacer.end();
        self.on_volume_session_lost();
        let announced = source.is_streaming();
        let early = !self.verified && why == PeerLoss::Closed;
        if early {
            self.dial_at = Some(self.now.plus_ms(self.redial_ms())); // until `verify_by`
        } else if let Some(until) = held_until {
            self.hold(until);
        } else if self.is_held() && matches!(why, PeerLoss::Closed | PeerLoss::Silent) {
            self.dial_at = Some(self.now.plus_ms(self.redial_ms())); // until `thaw_by`
        } else if self.needs_peer_lastingly() {
            self.freeze(why);
        } else {
            self.stop_joining();
            if announced {
                self.report_loss(why);
            }
        }
    }

    /// Ends the session if it was silent for too long, says something if we were.
    pub(super) fn advance_silence(&mut self) {
        let loss_ms = self.params.peer_loss_ms;
        let Some(source) = &self.source else { return };
        let silent = source.silent_at(loss_ms) <= self.now;
        let doubtful = source.silent_at(loss_ms / 2) <= self.now;
        if silent || (doubtful && self.thaw_until(source, PeerLoss::Silent).is_some()) {
            self.end_session(PeerLoss::Silent);
        } else if source.ping_at(loss_ms) <= self.now {
            self.send_body(Kind::Ping, Bytes::new());
        }
    }
}

/// What an operator hears of a session whose frames are not to be understood.
pub(super) fn broken(with: &str, why: impl core::fmt::Display) -> String {
    format!(
        "the data session with the {with} is closed: {why}; it is opened again by itself, and what \
         one box lacks is copied; if this goes on, run the same version on both and check the link"
    )
}
