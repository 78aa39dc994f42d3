//! Disk operations in flight, and what each of them is for.

use super::{DiskError, Engine, Io, IoDone, Output};
use crate::meta::dirty::Part;
use crate::types::{OpId, SessionId, Time, VolumeNumber};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;

/// What an operation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// A step of attaching or formatting a volume.
    Opening { volume: VolumeNumber },
    /// A step of making a volume larger.
    Growing { ticket: u64 },
    /// A group state of this version.
    Group { version: u64 },
    /// A page of a dirty map, or the index of one.
    Page { volume: VolumeNumber, part: Part },
    /// An intent record.
    Intent { volume: VolumeNumber },
    /// A flush asked for by this side.
    Flush { volume: VolumeNumber },
    /// The read of a command.
    Read { ticket: u64 },
    /// The local part of a write.
    Piece {
        volume: VolumeNumber,
        ticket: u64,
        number: u64,
    },
    /// The read of a resync block.
    Chunk { ticket: u64 },
    /// A frame of the stream.
    Apply {
        session: SessionId,
        volume: VolumeNumber,
        seq: u64,
    },
    /// A local part of making a range good.
    Mend { volume: VolumeNumber, ticket: u64 },
    /// A read asked for by the stream.
    Fetch {
        session: SessionId,
        volume: VolumeNumber,
        seq: u64,
    },
    /// The read of blocks to be compared.
    Compare {
        session: SessionId,
        volume: VolumeNumber,
        seq: u64,
    },
    /// The read of a range to be verified.
    Verify {
        session: SessionId,
        volume: VolumeNumber,
        seq: u64,
    },
    /// A flush asked for by the stream.
    ApplyFlush {
        session: SessionId,
        volume: VolumeNumber,
        seq: u64,
    },
}

impl Op {
    /// The attached volume that the operation is about.
    const fn volume(&self) -> Option<VolumeNumber> {
        match self {
            Self::Page { volume, .. }
            | Self::Intent { volume }
            | Self::Flush { volume }
            | Self::Piece { volume, .. }
            | Self::Mend { volume, .. }
            | Self::Fetch { volume, .. }
            | Self::Apply { volume, .. }
            | Self::Compare { volume, .. }
            | Self::Verify { volume, .. }
            | Self::ApplyFlush { volume, .. } => Some(*volume),
            Self::Opening { .. }
            | Self::Growing { .. }
            | Self::Group { .. }
            | Self::Read { .. }
            | Self::Chunk { .. } => None,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Opening { .. } => "a step of attaching",
            Self::Growing { .. } => "a step of growing",
            Self::Group { .. } => "a write of the group state",
            Self::Page { .. } => "a write of the dirty map",
            Self::Intent { .. } => "a write of the intent journal",
            Self::Flush { .. } | Self::ApplyFlush { .. } => "a flush",
            Self::Read { .. } | Self::Chunk { .. } => "a read",
            Self::Fetch { .. } | Self::Compare { .. } | Self::Verify { .. } => {
                "a read for the peer"
            }
            Self::Piece { .. } => "a write",
            Self::Apply { .. } => "a write of the peer's",
            Self::Mend { .. } => "a repair",
        };
        match self.volume() {
            Some(volume) => write!(f, "{what}, volume {volume}"),
            None => f.write_str(what),
        }
    }
}

/// The operations in flight.
#[derive(Debug, Default)]
pub(super) struct Ops {
    next: u64,
    open: BTreeMap<OpId, (Op, Watched)>,
    watched: Watched,
    /// It was told that the oldest operation is late.
    late: Option<OpId>,
}

/// Nanoseconds for which this process has watched its disk: the time in which it was stopped, or
/// its machine asleep, says nothing about the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Watched(u64);

/// Of more time than this between two inputs the rest was not watched.
const LOOK_MS: u64 = 500;
const NS_PER_MS: u64 = 1_000_000;

impl Ops {
    /// A mark that is [`Ops::passed`] once everything now in flight is done (law R2, H8).
    pub(super) const fn barrier(&self) -> OpId {
        OpId(self.next)
    }

    pub(super) fn passed(&self, barrier: OpId) -> bool {
        self.open
            .keys()
            .next()
            .is_none_or(|first| *first >= barrier)
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Op> {
        self.open.values().map(|(op, _)| op)
    }

    /// Time goes by.
    pub(super) fn pass(&mut self, from: Time, to: Time) {
        let ms = to.0.saturating_sub(from.0);
        self.watched.0 += ms.min(LOOK_MS * NS_PER_MS);
    }

    /// Which operation is the oldest, and for how long it has been under way. To make a large
    /// volume, or to make one larger, may take its time.
    fn oldest(&self) -> Option<(OpId, Op, u64)> {
        let mut open = self.open.iter();
        let patient = |op: &Op| matches!(op, Op::Opening { .. } | Op::Growing { .. });
        let (id, (op, since)) = open.find(|(_, (op, _))| !patient(op))?;
        Some((*id, *op, self.watched.0 - since.0))
    }

    /// When to look at the oldest operation again.
    pub(super) fn look_at(&self, now: Time, timeout_ms: u64) -> Option<Time> {
        let (op, _, age) = self.oldest()?;
        let left = (timeout_ms * NS_PER_MS).saturating_sub(age);
        let wait = left.clamp(1, LOOK_MS * NS_PER_MS);
        (self.late != Some(op)).then_some(Time(now.0 + wait))
    }
}

impl Engine {
    pub(super) fn submit(&mut self, volume: VolumeNumber, what: Op, io: Io) {
        let known = self.volumes.contains_key(&volume) || self.opening.contains_key(&volume);
        assert!(
            known,
            "{what:?} on a volume that may have no backing any more"
        );
        let op = OpId(self.ops.next);
        self.ops.next += 1;
        self.ops.open.insert(op, (what, self.ops.watched));
        self.emit(Output::Submit { op, volume, io });
    }

    pub(super) fn on_done(&mut self, op: OpId, result: Result<IoDone, DiskError>) {
        let Some((what, _)) = self.ops.open.remove(&op) else {
            return; // not ours: nothing to say about it
        };
        // how an operation on a volume that was deleted meanwhile went does not matter
        let gone = what
            .volume()
            .is_some_and(|volume| !self.volumes.contains_key(&volume));
        let result = if gone { Ok(IoDone::Ok) } else { result };
        match what {
            Op::Opening { volume } => self.on_opening_done(volume, result),
            Op::Growing { ticket } => self.on_growing_done(ticket, result),
            Op::Group { version } => self.on_group_done(version, result.err()),
            Op::Page { volume, part } => self.on_page_done(volume, part, result.err()),
            Op::Intent { volume } => self.on_intent_done(volume, result.err()),
            Op::Flush { volume } => self.on_flush_done(volume, result.err()),
            Op::Read { ticket } => self.on_read_done(ticket, result),
            Op::Piece {
                volume,
                ticket,
                number,
            } => {
                self.on_piece_done(volume, ticket, number, result.err());
            }
            Op::Chunk { ticket } => self.on_chunk_done(ticket, result),
            Op::Mend { ticket, .. } => self.on_mend_done(ticket, result),
            Op::Fetch {
                session,
                volume,
                seq,
            } => {
                self.on_fetched((session, volume, seq), result);
            }
            Op::Apply {
                session,
                volume,
                seq,
            } => {
                self.on_applied(session, volume, seq, result.err());
            }
            Op::Compare {
                session,
                volume,
                seq,
            } => self.on_block_compared(session, volume, seq, result),
            Op::Verify {
                session,
                volume,
                seq,
            } => self.on_read_to_verify((session, volume, seq), result),
            Op::ApplyFlush {
                session,
                volume,
                seq,
            } => {
                self.on_applied_flush(session, volume, seq, result.err());
            }
        }
    }

    /// The disk failed in a way that no answer may hide: from here on nothing is answered as good
    /// (law D5). With the peer in sync everything is held until it takes over (law R1), else
    /// everything fails.
    pub(super) fn fail_disk(&mut self, what: &str, error: impl Into<Option<DiskError>>) {
        if self.failed.is_some() {
            return;
        }
        let (how, remedy) = match error.into() {
            None => ("", "repair or replace it"),
            Some(DiskError::Io) => (": the device reports an error", "repair or replace it"),
            Some(DiskError::Medium) => (": bad sectors", "repair or replace it"),
            // for metadata: a page of a dirty map that was never in use
            Some(DiskError::NoSpace) => (": no room", "make room in its pool"),
        };
        let alarm =
            format!("the disk of this box failed: {what}{how}; {remedy}, then restart twinsan");
        self.alarm(alarm.clone());
        self.failed = Some(alarm);
        self.refuse_stream_for_disk();
        if self.is_primary() && !self.counts_peer() {
            self.abort_commands(&super::CommandError::Io);
        }
    }

    /// An operation that does not end is a failed disk, if there is a peer to go on (law R12);
    /// without one the box waits for it, and says so.
    pub(super) fn watch_disk(&mut self) {
        let timeout_ms = self.params.limits.disk_timeout_ms;
        let Some((id, op, age)) = self.ops.oldest() else {
            return;
        };
        if age < timeout_ms * NS_PER_MS || self.failed.is_some() {
            return;
        }
        let follows = self.target.is_some();
        if follows || self.counts_peer() {
            let what = format!("{op} has not ended for {timeout_ms} ms");
            self.fail_disk(&what, None);
        } else if self.ops.late != Some(id) {
            self.ops.late = Some(id);
            self.alarm(format!(
                "{op} on the disk of this box has not ended for {timeout_ms} ms; no other box can \
                 go on, so it is waited for; look at the disk"
            ));
        }
    }

    /// Writes the pages that were asked for.
    pub(super) fn advance_pages(&mut self, number: VolumeNumber) {
        let Some(volume) = self.volumes.get_mut(&number) else {
            return;
        };
        if !volume.pages_wanted || self.failed.is_some() {
            return;
        }
        let writes = volume.dirty.take_writes();
        if writes.is_empty() && volume.dirty.is_durable(volume.dirty.version()) {
            volume.pages_wanted = false;
        }
        volume.counters.page_writes += writes.len() as u64;
        for write in writes {
            let op = Op::Page {
                volume: number,
                part: write.part,
            };
            let data = Bytes::from(write.bytes);
            let fua = crate::types::Fua::Yes;
            self.submit(
                number,
                op,
                Io::Write {
                    offset_bytes: write.offset_bytes,
                    data,
                    fua,
                },
            );
        }
    }

    fn on_page_done(&mut self, number: VolumeNumber, part: Part, error: Option<DiskError>) {
        if let Some(error) = error {
            return self.fail_disk(&format!("dirty map of volume {number}"), error);
        }
        if let Some(volume) = self.volumes.get_mut(&number) {
            volume.dirty.written(part);
        }
    }
}
