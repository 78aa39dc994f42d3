//! Commands on blocks: what each asks of the backend, one request after the other (SBC-3 §5).

mod compare;
mod plan;
mod provision;
mod transfer;

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;

use super::Reply;
use super::parse::{Check, Extent, Pattern};
use super::sense::{Doing, Sense};
use crate::backend::{Backend, Done, Fua, Geometry, MayUnmap, Request};
use compare::{Comparing, Merging, compare_and_write};
use provision::{Repeating, discard, unmap_list};
pub(crate) use provision::{Scanning, UNMAP_MAX_BLOCKS, UNMAP_MAX_DESCRIPTORS};
use transfer::{Reading, Writing};

/// The work of one command. Each value is also a state: see the arrows at [`Work::begin`].
#[derive(Debug)]
pub(crate) enum Work {
    /// An answer that is true only while this box may answer (law R5).
    Confirm(Reply),
    /// The news that unflushed writes are gone, in place of the command's own work (law D5).
    TellCacheLoss,
    Read(Span),
    Write {
        span: Span,
        fua: Fua,
    },
    OrWrite {
        span: Span,
        fua: Fua,
    },
    WriteAndVerify {
        span: Span,
        check: Check,
    },
    Verify {
        span: Span,
        check: Check,
    },
    CompareAndWrite {
        span: Span,
        fua: Fua,
    },
    WriteSame {
        span: Span,
        unmap: MayUnmap,
        source: Pattern,
        fua: Fua,
    },
    Unmap {
        list_bytes: usize,
    },
    Scan(Scanning),
    Synchronize,
    Reading(Reading),
    Writing(Writing),
    Merging(Merging),
    Comparing(Comparing),
    Repeating(Repeating),
    Discarding(VecDeque<Span>),
}

/// A run of bytes on the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    offset_bytes: u64,
    len_bytes: u64,
}

/// What follows.
pub(crate) enum Next {
    Ask(Request),
    /// The same of another unit's store.
    AskOf(Rc<dyn Backend>, Request),
    Answer(Reply),
}

impl Work {
    /// Whether GOOD would say that data are stable (law D5).
    pub(crate) fn promises_stable(&self) -> bool {
        match self {
            Self::Write { fua, .. }
            | Self::OrWrite { fua, .. }
            | Self::CompareAndWrite { fua, .. }
            | Self::WriteSame { fua, .. } => *fua == Fua::Yes,
            Self::Synchronize | Self::WriteAndVerify { .. } => true,
            Self::Confirm(_)
            | Self::TellCacheLoss
            | Self::Read(_)
            | Self::Verify { .. }
            | Self::Unmap { .. }
            | Self::Scan(_)
            | Self::Reading(_)
            | Self::Writing(_)
            | Self::Merging(_)
            | Self::Comparing(_)
            | Self::Repeating(_)
            | Self::Discarding(_) => false,
        }
    }

    /// How much the initiator has to send. The span was checked against the medium.
    pub(crate) fn data_out_bytes(&self, geometry: &Geometry) -> usize {
        let block_bytes = geometry.block_bytes as usize;
        match self {
            Self::Write { span, .. }
            | Self::OrWrite { span, .. }
            | Self::WriteAndVerify { span, .. }
            | Self::Verify {
                span,
                check: Check::Data,
            } => span.transfer_bytes(),
            Self::CompareAndWrite { span, .. } => 2 * span.transfer_bytes(),
            Self::Verify {
                span,
                check: Check::OneBlock,
            } if span.len_bytes > 0 => block_bytes,
            Self::WriteSame {
                source: Pattern::DataOut,
                ..
            } => block_bytes,
            Self::Unmap { list_bytes } => *list_bytes,
            Self::Confirm(_)
            | Self::TellCacheLoss
            | Self::Read(_)
            | Self::Verify { .. }
            | Self::WriteSame { .. }
            | Self::Scan(_)
            | Self::Synchronize
            | Self::Reading(_)
            | Self::Writing(_)
            | Self::Merging(_)
            | Self::Comparing(_)
            | Self::Repeating(_)
            | Self::Discarding(_) => 0,
        }
    }

    /// How much it reads and keeps. Only asked before it begins.
    pub(crate) fn read_bytes(&self) -> usize {
        let step = |span: &Span| span.len_bytes.min(VERIFY_STEP_BYTES);
        let len_bytes = match self {
            Self::Read(span) => span.len_bytes,
            // What it finds, and that merged with the data.
            Self::OrWrite { span, .. } => 2 * span.len_bytes,
            Self::WriteAndVerify { span, .. } | Self::Verify { span, .. } => step(span),
            Self::Scan(scanning) => scanning.len_bytes(),
            Self::Confirm(_)
            | Self::TellCacheLoss
            | Self::Write { .. }
            | Self::CompareAndWrite { .. }
            | Self::WriteSame { .. }
            | Self::Unmap { .. }
            | Self::Synchronize
            | Self::Reading(_)
            | Self::Writing(_)
            | Self::Merging(_)
            | Self::Comparing(_)
            | Self::Repeating(_)
            | Self::Discarding(_) => 0,
        };
        usize::try_from(len_bytes).expect("what is kept is bounded when parsed")
    }

    /// Whether it reads more than it was charged for, piece after piece, and keeps none.
    pub(crate) fn reads_in_pieces(&self) -> bool {
        matches!(self, Self::Comparing(comparing) if comparing.reads_in_pieces())
    }

    /// Whether the initiator must offer exactly what the command takes: the data are no run of
    /// blocks of which some may be missing.
    pub(crate) fn takes_all_or_nothing(&self) -> bool {
        matches!(self, Self::WriteSame { .. } | Self::CompareAndWrite { .. })
    }

    /// Goes on with the data the initiator sent, at most as many as asked for.
    ///
    /// ```text
    /// Read ─────────────────▶ Reading ──pieces─▶ answer
    /// Write ────────────────▶ Writing ──pieces─▶ answer
    /// OrWrite ──────────────▶ Merging ──tries──▶ answer
    /// Verify ───────────────▶ Comparing ─reads─▶ answer
    /// WriteAndVerify ─writes▶ Comparing
    /// WriteSame ────────────▶ Repeating ─steps─▶ answer
    /// Unmap ────────────────▶ Discarding ─steps▶ answer
    /// the others ───────────one request────────▶ answer
    /// ```
    pub(crate) fn begin(&mut self, data: Bytes, geometry: &Geometry) -> Result<Next, Sense> {
        let (next, state) = match self {
            Self::Confirm(_) | Self::TellCacheLoss => return Ok(Next::Ask(Request::Confirm)),
            Self::Synchronize => return Ok(Next::Ask(Request::Flush)),
            Self::Scan(scanning) => return Ok(scanning.next()),
            Self::CompareAndWrite { span, fua } => return compare_and_write(*span, *fua, &data),
            Self::Read(span) => {
                let mut reading = Reading::new(*span);
                (reading.next(), Self::Reading(reading))
            }
            Self::Write { span, fua } => {
                let mut writing = Writing::new(*span, whole_blocks(data, geometry), *fua);
                (writing.next(), Self::Writing(writing))
            }
            Self::OrWrite { span, fua } => {
                let merging = Merging::new(*span, whole_blocks(data, geometry), *fua);
                (merging.next(), Self::Merging(merging))
            }
            Self::WriteAndVerify { span, check } => {
                let data = whole_blocks(data, geometry);
                let mut comparing = Comparing::after_write(*span, *check, data);
                (comparing.next(), Self::Comparing(comparing))
            }
            Self::Verify { span, check } => {
                let data = whole_blocks(data, geometry);
                let mut comparing = Comparing::verify(*span, *check, data, geometry)?;
                (comparing.next(), Self::Comparing(comparing))
            }
            Self::WriteSame {
                span,
                unmap,
                source,
                fua,
            } => {
                let mut repeating = Repeating::new(*span, *unmap, *fua);
                if *source == Pattern::DataOut {
                    repeating.repeat(data, geometry)?;
                }
                (repeating.next(), Self::Repeating(repeating))
            }
            Self::Unmap { .. } => {
                let mut spans = unmap_list(&data, geometry)?;
                (discard(&mut spans), Self::Discarding(spans))
            }
            Self::Reading(_)
            | Self::Writing(_)
            | Self::Merging(_)
            | Self::Comparing(_)
            | Self::Repeating(_)
            | Self::Discarding(_) => unreachable!("a command begins once"),
        };
        *self = state;
        Ok(next)
    }

    /// Goes on with the outcome of the last request.
    pub(crate) fn advance(&mut self, done: Done) -> Result<Next, Sense> {
        match (self, done) {
            (Self::Reading(reading), Done::Data(data)) => reading.take(data),
            (Self::Writing(writing), Done::Ok) => Ok(writing.next()),
            (Self::Confirm(reply), Done::Ok) => {
                Ok(Next::Answer(std::mem::replace(reply, Reply::good())))
            }
            (Self::TellCacheLoss, Done::Ok) => Err(Sense::TARGET_FAILURE),
            (Self::CompareAndWrite { .. }, Done::Miscompare { offset_bytes }) => {
                Err(Sense::miscompare(offset_bytes))
            }
            (Self::Merging(merging), Done::Data(data)) => merging.take(data),
            (Self::Merging(merging), Done::Miscompare { .. }) => merging.again(),
            (Self::Comparing(comparing), Done::Data(data)) => comparing.take(data),
            (Self::Comparing(comparing), Done::Ok) if comparing.is_writing() => {
                Ok(comparing.next())
            }
            (Self::Repeating(repeating), Done::Ok) => Ok(repeating.next()),
            (Self::Discarding(spans), Done::Ok) => Ok(discard(spans)),
            (Self::Scan(scanning), Done::Data(data)) => scanning.take(&data),
            (Self::Merging(_) | Self::CompareAndWrite { .. } | Self::Synchronize, Done::Ok) => {
                Ok(answer_good())
            }
            // An outcome that does not belong to its request: the store is not to be trusted.
            _ => Err(Sense::TARGET_FAILURE),
        }
    }

    /// What the last request did, for the sense data of its failure.
    pub(crate) fn doing(&self) -> Doing {
        match self {
            Self::Comparing(comparing) if comparing.is_writing() => Doing::Writing,
            Self::Confirm(_)
            | Self::TellCacheLoss
            | Self::Read(_)
            | Self::Verify { .. }
            | Self::Scan(_)
            | Self::Reading(_)
            | Self::Comparing(_) => Doing::Reading,
            Self::Write { .. }
            | Self::OrWrite { .. }
            | Self::WriteAndVerify { .. }
            | Self::CompareAndWrite { .. }
            | Self::WriteSame { .. }
            | Self::Unmap { .. }
            | Self::Synchronize
            | Self::Writing(_)
            | Self::Merging(_)
            | Self::Repeating(_)
            | Self::Discarding(_) => Doing::Writing,
        }
    }
}

impl Span {
    /// The bytes of an extent, if it lies on the medium. Without blocks the address still counts.
    fn of(extent: Extent, geometry: &Geometry) -> Result<Self, Sense> {
        let Extent { lba, blocks } = extent;
        if lba >= geometry.blocks || blocks > geometry.blocks - lba {
            return Err(Sense::LBA_RANGE);
        }
        let block_bytes = u64::from(geometry.block_bytes);
        Ok(Self {
            offset_bytes: lba * block_bytes,
            len_bytes: blocks * block_bytes,
        })
    }

    /// The bytes of a side of a copy, if they are whole blocks on the medium.
    pub(crate) fn copied(lba: u64, len_bytes: u64, geometry: &Geometry) -> Result<Self, Sense> {
        let block_bytes = u64::from(geometry.block_bytes);
        if !len_bytes.is_multiple_of(block_bytes) {
            return Err(Sense::COPY_GRANULARITY);
        }
        let blocks = len_bytes / block_bytes;
        Self::of(Extent { lba, blocks }, geometry).map_err(|_| Sense::COPY_ABORTED)
    }

    /// The bytes from `lba` to the end of the medium.
    fn to_end(lba: u64, geometry: &Geometry) -> Result<Self, Sense> {
        Self::of(
            Extent {
                lba,
                blocks: geometry.blocks.saturating_sub(lba),
            },
            geometry,
        )
    }

    /// This span, unless it is longer than `max_bytes`.
    fn at_most(self, max_bytes: u64) -> Result<Self, Sense> {
        if self.len_bytes > max_bytes {
            Err(Sense::CDB_FIELD)
        } else {
            Ok(self)
        }
    }

    pub(crate) fn offset_bytes(&self) -> u64 {
        self.offset_bytes
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// The part of a span from `start_bytes` on.
    pub(crate) fn part(&self, start_bytes: u64, len_bytes: u64) -> Self {
        assert!(
            start_bytes + len_bytes <= self.len_bytes,
            "a part is inside"
        );
        Self {
            offset_bytes: self.offset_bytes + start_bytes,
            len_bytes,
        }
    }

    /// Length of a span that is sent at once.
    pub(crate) fn transfer_bytes(&self) -> usize {
        usize::try_from(self.len_bytes).expect("spans of transfers are bounded when parsed")
    }

    /// Takes up to `max_bytes` off the front.
    fn take(&mut self, max_bytes: u64) -> Option<Self> {
        let len_bytes = self.len_bytes.min(max_bytes);
        let front = Self {
            offset_bytes: self.offset_bytes,
            len_bytes,
        };
        self.offset_bytes += len_bytes;
        self.len_bytes -= len_bytes;
        (len_bytes > 0).then_some(front)
    }
}

fn answer_good() -> Next {
    Next::Answer(Reply::good())
}

/// The data without a last block that is not whole.
fn whole_blocks(mut data: Bytes, geometry: &Geometry) -> Bytes {
    let block_bytes = geometry.block_bytes as usize;
    data.truncate(data.len() / block_bytes * block_bytes);
    data
}

/// The most a command may transfer.
pub(crate) const TRANSFER_MAX_BYTES: u64 = 32 << 20;

/// The most blocks a COMPARE AND WRITE may have.
pub(crate) const COMPARE_AND_WRITE_MAX_BLOCKS: u8 = 128;

/// The most one request may move: more is asked for in pieces.
const PIECE_MAX_BYTES: u64 = 4 << 20;

/// Read at once when verifying.
const VERIFY_STEP_BYTES: u64 = 1 << 20;
