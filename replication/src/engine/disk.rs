//! Disk operations in flight, and what each of them is for.

use super::{DiskError, Engine, Io, IoDone, Output};
use crate::types::{OpId, SessionId, VolumeNumber};
use bytes::Bytes;
use std::collections::BTreeMap;

/// What an operation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// A step of attaching or formatting a volume.
    Opening { volume: VolumeNumber },
    /// A group state of this version.
    Group { version: u64 },
    /// A page of a dirty map.
    Page { volume: VolumeNumber, page: u32 },
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
            | Self::Apply { volume, .. }
            | Self::ApplyFlush { volume, .. } => Some(*volume),
            Self::Opening { .. } | Self::Group { .. } | Self::Read { .. } | Self::Chunk { .. } => {
                None
            }
        }
    }
}

/// The operations in flight.
#[derive(Debug, Default)]
pub(super) struct Ops {
    next: u64,
    open: BTreeMap<OpId, Op>,
}

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
        self.open.values()
    }
}

impl Engine {
    pub(super) fn submit(&mut self, volume: VolumeNumber, what: Op, io: Io) {
        let op = OpId(self.ops.next);
        self.ops.next += 1;
        self.ops.open.insert(op, what);
        self.emit(Output::Submit { op, volume, io });
    }

    pub(super) fn on_done(&mut self, op: OpId, result: Result<IoDone, DiskError>) {
        let Some(what) = self.ops.open.remove(&op) else {
            return; // not ours: nothing to say about it
        };
        // how an operation on a volume that was deleted meanwhile went does not matter
        let gone = what
            .volume()
            .is_some_and(|volume| !self.volumes.contains_key(&volume));
        let result = if gone { Ok(IoDone::Ok) } else { result };
        match what {
            Op::Opening { volume } => self.on_opening_done(volume, result),
            Op::Group { version } => self.on_group_done(version, result.err()),
            Op::Page { volume, page } => self.on_page_done(volume, page, result.err()),
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
            Op::Apply {
                session,
                volume,
                seq,
            } => {
                self.on_applied(session, volume, seq, result.err());
            }
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
    /// (law D5). With the peer needed everything is held, else everything fails.
    pub(super) fn fail_disk(&mut self, what: &str) {
        if self.failed.is_some() {
            return;
        }
        let alarm =
            format!("the disk of this box failed: {what}; replace it, then restart twinsan");
        self.alarm(alarm.clone());
        self.failed = Some(alarm);
        self.refuse_stream_for_disk();
        if self.is_primary() && !self.needs_peer() {
            self.abort_commands(&super::CommandError::Io);
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
        for write in writes {
            let op = Op::Page {
                volume: number,
                page: write.page,
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

    fn on_page_done(&mut self, number: VolumeNumber, page: u32, error: Option<DiskError>) {
        if let Some(error) = error {
            return self.fail_disk(&format!("dirty map of volume {number}, {error:?}"));
        }
        if let Some(volume) = self.volumes.get_mut(&number) {
            volume.dirty.written(page);
        }
    }
}
