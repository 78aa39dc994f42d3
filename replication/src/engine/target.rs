//! The secondary's side: who dials, its table, then its stream, applied in order.
//!
//! ```text
//! Accepted ──Hello──▶ greeted ──Proof──▶ Settling ──Table settled──▶ Waiting ──Begin──▶ Streaming
//! ```
//!
//! One target session at a time; a newer one closes the older and waits until its disk operations
//! are over (laws D4, R8). Frames that overlap are applied in the order of the stream. A frame of
//! a sealed epoch is refused (law R3).

use super::digest;
use super::disk::Op;
use super::inflight::{Grant, Locks, Mode};
use super::mend::Pool;
use super::{DiskError, Engine, Io, Output};
use crate::meta::SECTOR_BYTES;
use crate::meta::group::Life;
use crate::mutants::mutant;
use crate::types::{Epoch, Fua, Incarnation, OpId, SessionId, Time, VolumeNumber, Zeroed};
use crate::wire::applied::{self, Applied};
use crate::wire::hello::{Binding, Hello, Side, State, StateVolume, Transcript};
use crate::wire::{self, FLAG_FUA, Header, Kind, Refusal, WireError, mask, volumes};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Sessions that have not proven the key yet, at most.
const INCOMING_MAX: usize = 4;

/// A session that has not proven the key.
#[derive(Debug)]
pub(super) struct Incoming {
    id: SessionId,
    /// The channel that carries it.
    binding: Binding,
    accepted: Time,
    /// A greeting that came while this box was busy with something else.
    early: Option<(Header, Bytes)>,
    greeted: Option<Transcript>,
}

/// The session of a primary.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) id: SessionId,
    /// The process at the other end.
    primary: Incarnation,
    number: u32,
    pub(super) epoch: Epoch,
    pub(super) phase: TargetPhase,
    heard: Time,
    sent: Time,
    last_seq: u64,
    /// Frames that came and were not looked at yet.
    queue: VecDeque<(Header, Bytes)>,
    /// The queue waits until these versions of the group state are durable.
    holds: VecDeque<Hold>,
    /// Frames that wait for their lock.
    pub(super) waiting: BTreeMap<u64, (Header, Bytes)>,
    pub(super) locks: BTreeMap<VolumeNumber, Locks>,
    pub(super) unapplied: BTreeMap<VolumeNumber, BTreeSet<u64>>,
    pub(super) flushes: VecDeque<(VolumeNumber, u64)>,
    /// Hashes whose blocks are being read.
    pub(super) comparing: BTreeMap<u64, Bytes>,
    /// A frame was refused for want of room: it is neither applied, nor may it be sent again, as
    /// later ones of its range may be applied. Nothing is said of what was (law D4).
    refused: bool,
    /// Told to be in sync.
    pub(super) in_sync: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TargetPhase {
    /// Older operations are still in flight, or the table is being settled.
    Settling {
        barrier: OpId,
        table: Option<Vec<volumes::Entry>>,
    },
    /// The state and masks were sent.
    Waiting,
    Streaming,
}

/// How a frame of the stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is on the device.
    Applied,
    /// Its blocks were compared; a bit for each that differs.
    Compared { differs: u64 },
    /// There is no room for it.
    NoRoom,
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    version: u64,
    /// Acknowledge this frame then.
    seq: Option<u64>,
}

impl Engine {
    pub(super) fn on_accepted(&mut self, session: SessionId, binding: Binding) {
        if self.incoming.len() >= INCOMING_MAX {
            let oldest = self.incoming.remove(0);
            self.emit(Output::Disconnect { session: oldest.id });
        }
        self.incoming.push(Incoming {
            id: session,
            binding,
            accepted: self.now,
            early: None,
            greeted: None,
        });
    }

    pub(super) fn drop_incoming(&mut self, session: SessionId) {
        self.incoming.retain(|incoming| incoming.id != session);
    }

    /// What came is not to be understood.
    pub(super) fn break_target(&mut self, error: WireError) {
        self.alarm(super::session::broken("primary", error));
        self.close_target_session();
    }

    pub(super) fn refuse_incoming(&mut self, session: SessionId) {
        self.drop_incoming(session);
        self.emit(Output::Disconnect { session });
    }

    /// A frame of a session that has not proven the key; anything unexpected ends it.
    pub(super) fn on_incoming_frame(&mut self, id: SessionId, header: &Header, payload: &Bytes) {
        let idle = !self.is_primary() && self.booted && self.failed.is_none();
        let known = self.incoming.iter().find(|incoming| incoming.id == id);
        let Some(greeted) = known.map(|incoming| incoming.greeted) else {
            return; // it was refused, and this was on its way already
        };
        match (header.kind, greeted) {
            (Kind::Hello, None) if idle => self.greet(id, header, payload),
            (Kind::Hello, None) if self.failed.is_none() && Hello::parse(payload).is_ok() => {
                // the authority may be about to say that we are secondary
                let incoming = self.incoming.iter_mut().find(|incoming| incoming.id == id);
                if let Some(incoming) = incoming {
                    incoming.early = Some((*header, payload.clone()));
                }
            }
            (Kind::Proof, Some(transcript)) if idle => {
                let key = self.params.key;
                let same = header.epoch == transcript.epoch && header.session == transcript.session;
                if same && transcript.verify(&key, Side::Primary, payload).is_ok() {
                    self.drop_incoming(id);
                    self.become_target(id, transcript.primary.incarnation, header);
                } else {
                    self.refuse_incoming(id);
                }
            }
            _ => self.refuse_incoming(id),
        }
    }

    /// Looks at the greetings that came too early.
    pub(super) fn advance_incoming(&mut self) {
        if self.is_primary() || !self.booted {
            return;
        }
        let early = self.incoming.iter_mut().filter_map(|incoming| {
            let (header, payload) = incoming.early.take()?;
            Some((incoming.id, header, payload))
        });
        for (id, header, payload) in early.collect::<Vec<_>>() {
            self.on_incoming_frame(id, &header, &payload);
        }
    }

    fn greet(&mut self, id: SessionId, header: &Header, payload: &Bytes) {
        let ours =
            |hello: &Hello| hello.group == self.params.group && hello.node == self.params.peer;
        let Some(primary) = Hello::parse(payload).ok().filter(ours) else {
            return self.refuse_incoming(id);
        };
        let secondary = self.new_hello();
        let incoming = self.incoming.iter_mut().find(|incoming| incoming.id == id);
        let incoming = incoming.expect("the caller looked");
        let (epoch, session) = (header.epoch, header.session);
        let transcript = Transcript {
            primary,
            secondary,
            epoch,
            session,
            binding: incoming.binding,
        };
        let mut body = secondary.encode().to_vec();
        body.extend_from_slice(&transcript.mac(&self.params.key, Side::Secondary));
        incoming.greeted = Some(transcript);
        self.send_to(id, Header::new(Kind::Welcome, epoch, session), body.into());
    }

    fn send_to(&mut self, session: SessionId, mut header: Header, payload: Bytes) {
        let trailer = wire::seal(&mut header, &payload);
        self.emit(Output::Send {
            session,
            header: header.encode(),
            payload,
            trailer,
        });
    }

    fn become_target(&mut self, id: SessionId, primary: Incarnation, header: &Header) {
        let place = (header.epoch, header.session);
        let newest = self
            .target
            .as_ref()
            .is_none_or(|t| place > (t.epoch, t.number));
        if !newest {
            return self.emit(Output::Disconnect { session: id });
        }
        self.close_target_session();
        self.target = Some(Target {
            id,
            primary,
            number: header.session,
            epoch: header.epoch,
            phase: TargetPhase::Settling {
                barrier: self.ops.barrier(),
                table: None,
            },
            heard: self.now,
            sent: self.now,
            last_seq: 0,
            queue: VecDeque::new(),
            holds: VecDeque::new(),
            waiting: BTreeMap::new(),
            locks: BTreeMap::new(),
            unapplied: BTreeMap::new(),
            refused: false,
            flushes: VecDeque::new(),
            comparing: BTreeMap::new(),
            in_sync: false,
        });
        if header.epoch <= self.sealed() && !mutant!(SkipSeal) {
            self.refuse_stream(Refusal::Sealed, 0, "");
        }
    }

    fn close_target_session(&mut self) {
        if let Some(session) = self.leave_target() {
            self.emit(Output::Disconnect { session });
        }
    }

    /// The session is over, and nothing more of it is started. Remembers what was applied of it,
    /// for a primary that comes back (law D4): frames that wait for others are dropped, frames at
    /// the disk are over before the next session hears of them.
    pub(super) fn leave_target(&mut self) -> Option<SessionId> {
        let target = self.target.take()?;
        let told = !target.refused || mutant!(CountRefused);
        if target.phase == TargetPhase::Streaming && told {
            self.applied = Some(Applied {
                primary: target.primary,
                session: target.number,
                last_seq: target.last_seq,
                missing: applied::runs(target.waiting.keys().copied()),
            });
        }
        Some(target.id)
    }

    /// This box becomes primary: nobody writes here any more.
    pub(super) fn close_target(&mut self) {
        self.close_target_session();
        self.applied = None;
        for incoming in std::mem::take(&mut self.incoming) {
            self.emit(Output::Disconnect {
                session: incoming.id,
            });
        }
    }

    /// Tells the primary why, and ends the session.
    pub(super) fn refuse_stream(&mut self, refusal: Refusal, seq: u64, reason: &str) {
        self.refuse_frame(refusal, seq, reason);
        self.close_target_session();
    }

    pub(super) fn refuse_stream_for_seal(&mut self) {
        let sealed = self.sealed();
        if self
            .target
            .as_ref()
            .is_some_and(|target| target.epoch <= sealed)
            && !mutant!(SkipSeal)
        {
            self.refuse_stream(Refusal::Sealed, 0, "");
        }
    }

    pub(super) fn refuse_stream_for_disk(&mut self) {
        if self.target.is_some() {
            self.refuse_stream(Refusal::Disk, 0, "");
        }
    }

    /// Answers the frame `seq`.
    pub(super) fn answer_frame(&mut self, kind: Kind, volume: VolumeNumber, seq: u64) {
        self.answer_body(kind, volume, seq, Bytes::new());
    }

    pub(super) fn answer_body(&mut self, kind: Kind, volume: VolumeNumber, seq: u64, body: Bytes) {
        self.answer_with(body, |header| Header {
            kind,
            volume,
            seq,
            ..header
        });
    }

    /// Refuses the frame `seq`, with the reason in words.
    pub(super) fn refuse_frame(&mut self, refusal: Refusal, seq: u64, reason: &str) {
        let body = Bytes::copy_from_slice(reason.as_bytes());
        let flags = refusal as u8;
        self.answer_with(body, |header| Header {
            kind: Kind::Nack,
            flags,
            seq,
            ..header
        });
    }

    pub(super) fn answer_with(&mut self, body: Bytes, fields: impl FnOnce(Header) -> Header) {
        let Some(target) = &mut self.target else {
            return;
        };
        target.sent = self.now;
        let header = fields(Header::new(Kind::Ping, target.epoch, target.number));
        let id = target.id;
        self.send_to(id, header, body);
    }

    pub(super) fn on_target_frame(&mut self, header: Header, payload: Bytes) {
        let target = self.target.as_mut().expect("the caller looked");
        target.heard = self.now;
        let result = if header.session != target.number {
            Err(WireError::Field("session"))
        } else if header.kind.is_sequenced() && target.phase == TargetPhase::Streaming {
            target.queue.push_back((header, payload));
            self.take_frames()
        } else {
            match (header.kind, &mut target.phase) {
                (Kind::Ping, _) => Ok(()),
                (
                    Kind::Table,
                    TargetPhase::Settling {
                        table: table @ None,
                        ..
                    },
                ) => volumes::parse(&payload).map(|parsed| *table = Some(parsed)),
                (Kind::Begin, TargetPhase::Waiting) => {
                    self.begin_target();
                    Ok(())
                }
                _ => Err(WireError::Field("kind")),
            }
        };
        if let Err(error) = result {
            self.break_target(error);
        }
    }

    /// The older operations are over and the table is settled: says what this copy is.
    pub(super) fn advance_target(&mut self) {
        let Some(target) = &self.target else { return };
        if let TargetPhase::Settling {
            barrier,
            table: Some(table),
        } = &target.phase
            && self.ops.passed(*barrier)
        {
            let table = table.clone();
            match self.settle_table(&table) {
                Ok(false) => {}
                Ok(true) => self.send_state(),
                Err(reason) => self.refuse_stream(Refusal::Volume, 0, &reason),
            }
        }
        self.release_holds();
        self.advance_target_flushes();
    }

    fn release_holds(&mut self) {
        let Some(target) = &self.target else { return };
        let Some(hold) = target.holds.front().copied() else {
            return;
        };
        if !self.group_is_durable(hold.version) {
            return;
        }
        let target = self.target.as_mut().expect("looked at above");
        target.holds.pop_front();
        self.step();
        if let Some(seq) = hold.seq {
            self.answer_frame(Kind::Ack, VolumeNumber::SYSTEM, seq);
        }
        if let Err(error) = self.take_frames() {
            self.break_target(error);
        }
    }

    fn send_state(&mut self) {
        let group = self.group.as_ref().expect("the table is settled");
        let ready = group
            .volumes
            .values()
            .filter(|entry| entry.life == Life::Ready);
        let state = State {
            disk: group.disk,
            data_epoch: group.data_epoch,
            sealed: self.sealed(),
            volumes: ready
                .map(|entry| StateVolume {
                    number: entry.spec.number,
                    fresh: entry.fresh,
                    zero: self.volume_ref(entry.spec.number).zeroed == Zeroed::Proven,
                })
                .collect(),
        };
        let number = VolumeNumber::SYSTEM;
        self.answer_body(Kind::State, number, 0, state.encode());
        let told = |applied: &&Applied| applied.missing.len() <= applied::RUNS_MAX;
        if let Some(applied) = self.applied.as_ref().filter(told) {
            let body = applied.encode();
            self.answer_body(Kind::Applied, number, 0, body);
        }
        let numbers: Vec<VolumeNumber> = self.volumes.keys().copied().collect();
        for number in numbers {
            let mut from = 0;
            loop {
                let runs = self.volume_ref(number).dirty.runs(from, mask::RUNS_MAX);
                let Some(last) = runs.last() else { break };
                from = last.start + last.count;
                self.answer_body(Kind::Mask, number, 0, mask::encode(&runs));
            }
        }
        self.answer_frame(Kind::MaskEnd, number, 0);
        self.target.as_mut().expect("it asked").phase = TargetPhase::Waiting;
    }

    /// The primary has our masks: what it sends next counts from here.
    fn begin_target(&mut self) {
        let version = self.change_group(|group| {
            for entry in group.volumes.values_mut() {
                entry.fresh = false;
                entry.zero_base = false;
            }
            group.covers = None;
            // from its readmission on the primary counts what lies in this box's cache, also
            // before the marker of the new epoch arrives (law D5)
            group.following = !mutant!(ForgetFollowing);
        });
        self.applied = None; // from here on this session counts
        let target = self.target.as_mut().expect("the caller looked");
        target.phase = TargetPhase::Streaming;
        target.holds.push_back(Hold { version, seq: None });
    }

    /// Looks at the queued frames in order.
    fn take_frames(&mut self) -> Result<(), WireError> {
        loop {
            let sealed = self.sealed();
            let Some(target) = &mut self.target else {
                return Ok(());
            };
            if !target.holds.is_empty() {
                return Ok(());
            }
            let Some((header, payload)) = target.queue.pop_front() else {
                return Ok(());
            };
            if header.epoch <= sealed && !mutant!(SkipSeal) {
                self.refuse_stream(Refusal::Sealed, header.seq, "");
                return Ok(());
            }
            let marker = header.kind == Kind::Epoch && header.epoch > target.epoch;
            if header.epoch != target.epoch && !marker {
                return Err(WireError::Field("epoch"));
            }
            if header.seq != target.last_seq + 1 || header.dep_seq >= header.seq {
                return Err(WireError::Field("seq"));
            }
            let seq = header.seq;
            match header.kind {
                Kind::Flush => self.queue_flush(header.volume, header.seq)?,
                Kind::Epoch => self.enter_epoch(&header),
                Kind::VolumeCreate | Kind::VolumeDelete | Kind::VolumeGrow => {
                    self.on_volume_frame(&header, &payload)?;
                }
                Kind::Write
                | Kind::WriteZeroes
                | Kind::ResyncData
                | Kind::ResyncZero
                | Kind::ResyncHash => self.queue_write(header, payload)?,
                Kind::Read => self.queue_read(header)?,
                Kind::Verify => self.queue_verify(header, payload)?,
                Kind::Hello
                | Kind::Welcome
                | Kind::Proof
                | Kind::Table
                | Kind::State
                | Kind::Mask
                | Kind::MaskEnd
                | Kind::Begin
                | Kind::Applied
                | Kind::Ack
                | Kind::StableAck
                | Kind::Nack
                | Kind::ReadReply
                | Kind::VerifyReply
                | Kind::Ping => return Err(WireError::Field("kind")),
            }
            if let Some(target) = &mut self.target {
                target.last_seq = seq; // not before it was taken: it counts as applied (law D4)
            }
        }
    }

    fn queue_write(&mut self, header: Header, data: Bytes) -> Result<(), WireError> {
        let (number, offset, seq) = (header.volume, header.offset, header.seq);
        let hashes = header.kind == Kind::ResyncHash;
        let end = if hashes {
            let volume = self.volumes.get(&number);
            let volume = volume.ok_or(WireError::Field("volume"))?;
            digest::range_end(&header, &data, volume.spec.size_bytes)?
        } else {
            self.stream_range(&header)?
        };
        if (header.kind.has_data() || hashes) == data.is_empty() {
            return Err(WireError::Field("payload_len"));
        }
        let target = self.target.as_mut().expect("the caller looked");
        let locks = target.locks.entry(number).or_default();
        let mut grant = locks.acquire(seq, offset, end, Mode::Exclusive);
        if grant == Grant::Later && mutant!(IgnoreOrder) {
            grant = Grant::Now;
        }
        target.unapplied.entry(number).or_default().insert(seq);
        target.waiting.insert(seq, (header, data));
        if grant == Grant::Now {
            self.apply(seq);
        }
        Ok(())
    }

    /// The end of the range of a frame, if the volume has it.
    pub(super) fn stream_range(&self, header: &Header) -> Result<u64, WireError> {
        let (offset, length) = (header.offset, header.length);
        let volume = self.volumes.get(&header.volume);
        let size = volume.map(|volume| volume.spec.size_bytes);
        let size = size.ok_or(WireError::Field("volume"))?;
        let end = offset
            .checked_add(length)
            .filter(|end| *end <= size && length > 0);
        let whole = (offset | length).is_multiple_of(SECTOR_BYTES);
        end.filter(|_| whole).ok_or(WireError::Field("offset"))
    }

    /// Submits a frame whose turn it is.
    pub(super) fn apply(&mut self, seq: u64) {
        let target = self.target.as_mut().expect("the caller looked");
        let Some((header, data)) = target.waiting.remove(&seq) else {
            return;
        };
        if header.kind == Kind::ResyncHash {
            return self.compare_blocks(header, data);
        }
        if header.kind == Kind::Read {
            return self.fetch(&header);
        }
        if header.kind == Kind::Verify {
            return self.read_to_verify(&header, data);
        }
        let session = target.id;
        let number = header.volume;
        let Some(volume) = self.volumes.get_mut(&number) else {
            return self.on_applied(session, number, seq, None); // deleted by a later frame
        };
        volume.zeroed = Zeroed::Unknown;
        let skips = mutant!(SkipZeroes) && header.kind == Kind::WriteZeroes
            || mutant!(SkipZeroChunk) && header.kind == Kind::ResyncZero;
        let offset_bytes = volume.layout.data_offset + header.offset;
        if skips {
            return self.on_applied(session, number, seq, None);
        }
        let fua = if header.flags & FLAG_FUA != 0 {
            Fua::Yes
        } else {
            Fua::No
        };
        let io = if header.kind.has_data() {
            Io::Write {
                offset_bytes,
                data,
                fua,
            }
        } else {
            Io::WriteZeroes {
                offset_bytes,
                len_bytes: header.length,
                fua,
            }
        };
        self.submit(
            number,
            Op::Apply {
                session,
                volume: number,
                seq,
            },
            io,
        );
        if mutant!(AckBeforeDisk) {
            self.answer_frame(Kind::Ack, number, seq);
        }
    }

    pub(super) fn on_applied(
        &mut self,
        session: SessionId,
        number: VolumeNumber,
        seq: u64,
        error: Option<DiskError>,
    ) {
        let error = error.filter(|_| !mutant!(IgnoreApplyError));
        if error.is_some() {
            self.applied = None; // a frame at the disk is not applied after all
        }
        if let Some(error) = error.filter(|error| *error != DiskError::NoSpace) {
            return self.fail_disk(&format!("a write to volume {number}"), error);
        }
        let open = |target: &Target| target.id == session;
        if self.target.as_ref().is_some_and(open) {
            let outcome = error.map_or(Outcome::Applied, |_| Outcome::NoRoom);
            self.settle_frame(number, seq, outcome);
        }
    }

    /// Answers a frame and lets those go that waited for it.
    pub(super) fn settle_frame(&mut self, number: VolumeNumber, seq: u64, outcome: Outcome) {
        let target = self.target.as_mut().expect("the caller looked");
        let locks = target.locks.entry(number).or_default();
        let granted = if mutant!(IgnoreOrder) {
            Vec::new()
        } else {
            locks.release(seq)
        };
        target.unapplied.entry(number).or_default().remove(&seq);
        match outcome {
            Outcome::Applied if mutant!(AckBeforeDisk) => {}
            Outcome::Applied => self.answer_frame(Kind::Ack, number, seq),
            Outcome::Compared { differs } => self.answer_with(Bytes::new(), |header| Header {
                kind: Kind::Ack,
                volume: number,
                seq,
                offset: differs,
                ..header
            }),
            Outcome::NoRoom => {
                target.refused = true;
                self.tell_full(Pool::Ours);
                self.refuse_frame(Refusal::NoRoom, seq, "");
            }
        }
        for seq in granted {
            self.apply(seq);
        }
    }

    /// This copy is in sync from here on: the epoch is durable before anything of it is
    /// acknowledged (law R6, H30), and what the masks said has been copied.
    fn enter_epoch(&mut self, header: &Header) {
        let epoch = header.epoch;
        for volume in self.volumes.values_mut() {
            volume.dirty.clear_all();
            volume.want_pages();
            volume.intents.keep(|_| false);
        }
        let version = self.change_group(|group| {
            group.data_epoch = epoch;
            group.following = !mutant!(ForgetFollowing);
            for entry in group.volumes.values_mut() {
                entry.cache_lost = false;
            }
        });
        let target = self.target.as_mut().expect("the caller looked");
        target.epoch = epoch;
        target.in_sync = true;
        target.holds.push_back(Hold {
            version,
            seq: Some(header.seq),
        });
    }

    /// Holds the queue until the group state is durable, then acknowledges `seq`.
    pub(super) fn hold_target(&mut self, version: u64, seq: u64) {
        if let Some(target) = &mut self.target {
            target.holds.push_back(Hold {
                version,
                seq: Some(seq),
            });
        }
    }

    pub(super) fn advance_target_silence(&mut self) {
        let (loss_ms, now) = (self.params.peer_loss_ms, self.now);
        let late = |since: Time| since.plus_ms(loss_ms) <= now;
        let silent: Vec<SessionId> = self
            .incoming
            .iter()
            .filter(|i| late(i.accepted))
            .map(|i| i.id)
            .collect();
        for session in silent {
            self.refuse_incoming(session);
        }
        let Some(target) = &self.target else { return };
        if late(target.heard) {
            self.close_target_session();
        } else if target.sent.plus_ms(loss_ms / 5) <= now {
            let number = VolumeNumber::SYSTEM;
            self.answer_frame(Kind::Ping, number, 0);
        }
    }

    pub(super) fn target_due(&self) -> Option<Time> {
        let loss_ms = self.params.peer_loss_ms;
        let incoming = self
            .incoming
            .iter()
            .map(|incoming| incoming.accepted.plus_ms(loss_ms));
        let target = self.target.iter().flat_map(|target| {
            [
                target.heard.plus_ms(loss_ms),
                target.sent.plus_ms(loss_ms / 5),
            ]
        });
        incoming.chain(target).min()
    }
}
