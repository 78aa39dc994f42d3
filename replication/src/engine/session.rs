//! The data session as the primary sees it: its life, its stream, its answers.
//!
//! ```text
//! Welcome ──▶ State ──▶ Masks ──▶ Preparing ──▶ Streaming
//! ```
//!
//! Acks, StableAcks and Flush frames belong to one session and die with it (law D4). A session
//! that ends while the peer is needed freezes the engine (law R1).

use super::inflight::Ranges;
use super::resync::Progress;
use super::{Engine, Event, Output, PeerLoss};
use crate::mutants::mutant;
use crate::types::{Epoch, SessionId, Time, VolumeNumber};
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
    pub(super) theirs: Option<hello::Hello>,
    pub(super) state: Option<hello::State>,
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
    Write { ticket: u64, bytes: u64 },
    Chunk { block: u32, bytes: u64 },
    Flush { volume: VolumeNumber },
    Marker { epoch: Epoch },
    Volume,
}

impl Source {
    pub(super) fn new(id: SessionId, number: u32, epoch: Epoch, mine: hello::Hello) -> Self {
        Self {
            id,
            number,
            epoch,
            phase: Phase::Welcome,
            mine,
            theirs: None,
            state: None,
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
        waiting.all(|what| !matches!(what, What::Write { .. } | What::Chunk { .. }))
    }

    pub(super) fn silent_at(&self, peer_loss_ms: u64) -> Time {
        self.heard.plus_ms(peer_loss_ms)
    }

    pub(super) fn ping_at(&self, peer_loss_ms: u64) -> Time {
        self.sent.plus_ms(peer_loss_ms / 5)
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
            && !self.frozen
            && self.failed.is_none()
            && self.source.is_none()
            && !self.dialing;
        if wanted && self.dial_at.is_none_or(|at| at <= self.now) {
            self.dialing = true;
            self.emit(Output::Connect);
        }
    }

    pub(super) fn on_connect_failed(&mut self) {
        self.dialing = false;
        self.dial_at = Some(self.now.plus_ms(self.redial_ms()));
    }

    /// Sooner while commands wait for the peer to be verified.
    const fn redial_ms(&self) -> u64 {
        self.params.peer_loss_ms / if self.verified { 2 } else { 10 }
    }

    pub(super) fn on_connected(&mut self, session: SessionId) {
        let expected = std::mem::take(&mut self.dialing);
        if !expected || !self.is_serving() || self.frozen || self.source.is_some() {
            return self.emit(Output::Disconnect { session });
        }
        self.sessions += 1;
        let mine = self.new_hello();
        let mut source = Source::new(session, self.sessions, self.standing_epoch(), mine);
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
            What::Write { bytes, .. } => source.mirror_bytes += bytes,
            What::Chunk { bytes, .. } => source.resync_bytes += bytes,
            What::Flush { .. } | What::Marker { .. } | What::Volume => {}
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
        if header.session != source.number {
            return self.break_session("a frame of another session");
        }
        let result = match header.kind {
            Kind::Ping => Ok(()),
            Kind::Welcome => self.on_welcome(payload),
            Kind::State => self.on_state(payload),
            Kind::Mask => self.on_mask(header.volume, payload),
            Kind::MaskEnd => self.on_mask_end(),
            Kind::Ack => self.on_ack(header.seq),
            Kind::StableAck => self.on_stable_ack(header.volume, header.seq),
            Kind::Nack => {
                self.on_nack(header, payload);
                Ok(())
            }
            Kind::Hello
            | Kind::Proof
            | Kind::Table
            | Kind::Begin
            | Kind::Write
            | Kind::WriteZeroes
            | Kind::ResyncData
            | Kind::ResyncZero
            | Kind::Flush
            | Kind::Epoch
            | Kind::VolumeCreate
            | Kind::VolumeDelete => Err(WireError::Field("kind")),
        };
        if let Err(error) = result {
            self.break_session(&error.to_string());
        }
    }

    fn on_ack(&mut self, seq: u64) -> Result<(), WireError> {
        let source = self.source.as_mut().expect("the caller looked");
        let sent = source.unacked.remove(&seq).ok_or(WireError::Field("seq"))?;
        if let Some(ranges) = source.ranges.get_mut(&sent.volume) {
            ranges.remove(seq);
        }
        match sent.what {
            What::Write { ticket, bytes } => {
                source.mirror_bytes -= bytes;
                self.on_piece_acked(ticket);
            }
            What::Chunk { block, bytes } => {
                source.resync_bytes -= bytes;
                if mutant!(ClearUnstable)
                    && source.sent_chunks.remove(&(sent.volume, block)).is_some()
                {
                    self.volume_mut(sent.volume).dirty.clear(block);
                }
            }
            What::Flush { .. } => return Err(WireError::Field("seq")),
            What::Marker { epoch } => self.event(Event::InSync { epoch }),
            What::Volume => self.on_volume_answer(Ok(())),
        }
        Ok(())
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

    fn on_nack(&mut self, header: &Header, payload: &Bytes) {
        match Refusal::from_flags(header.flags) {
            Some(Refusal::Sealed) => self.end_session(PeerLoss::Sealed),
            Some(Refusal::Disk) => self.end_session(PeerLoss::DiskFailed),
            Some(Refusal::Volume) if self.is_streaming() => {
                let source = self.source.as_mut().expect("the caller looked");
                if source.unacked.remove(&header.seq).is_some() {
                    let reason = String::from_utf8_lossy(payload).into_owned();
                    self.on_volume_answer(Err(reason));
                }
            }
            Some(Refusal::Volume | Refusal::Unrelated) => {
                let reason = String::from_utf8_lossy(payload).into_owned();
                self.alarm(format!("the peer cannot join: {reason}"));
                self.end_session(PeerLoss::Closed);
                self.dial_at = Some(self.now.plus_ms(self.params.peer_loss_ms * 10));
            }
            None => self.break_session("an unknown refusal"),
        }
    }

    /// What came is not to be understood.
    pub(super) fn break_session(&mut self, why: &str) {
        self.alarm(format!("the data session with the peer is closed: {why}"));
        self.end_session(PeerLoss::Closed);
    }

    /// The session is over, whatever its phase. What was mirrored and is not known stable becomes
    /// dirty; with the peer needed everything is held (law R1).
    pub(super) fn end_session(&mut self, why: PeerLoss) {
        let Some(source) = self.source.take() else {
            return;
        };
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
            volume.dirty_unstable();
            volume.peer_flush.abort();
        }
        self.drop_peer_legs();
        self.on_volume_session_lost();
        let announced = source.is_streaming();
        let early = !self.verified && why == PeerLoss::Closed;
        if early {
            self.dial_at = Some(self.now.plus_ms(self.redial_ms())); // until `verify_by`
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
        if source.silent_at(loss_ms) <= self.now {
            self.end_session(PeerLoss::Silent);
        } else if source.ping_at(loss_ms) <= self.now {
            self.send_body(Kind::Ping, Bytes::new());
        }
    }
}
