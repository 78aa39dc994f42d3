//! EXTENDED COPY: blocks of one unit to another, or elsewhere on the same (SPC-4 §5.16).
//!
//! Each piece is a read and a write of its own, by the rules of the unit and the view of the nexus
//! as they are at that moment: a unit that was unmapped or protected in between gets no more of
//! it. One piece is in memory at a time, and whoever gives up a copy stops it after that one.

mod list;
mod request;
mod results;

use std::rc::Rc;

use bytes::Bytes;

use super::Reply;
use super::array::{Array, NexusId};
use super::block::{Next, Span};
use super::opcodes::Conflict;
use super::sense::Sense;
use crate::backend::{Backend, BackendError, Done, Fua, Geometry, MayUnmap, Request};
use crate::hosts::UnitId;
pub(crate) use list::{Cscd, LIST_MAX_BYTES};
use list::{List, Segment, Side};
pub(crate) use request::{CopyQuery, copy_results, extended_copy};
use results::Progress;
pub(crate) use results::{Copies, CopyId, operating_parameters, vital};

/// Copied at once.
const PIECE_MAX_BYTES: u64 = 1 << 20;

/// One side of a copy, as it is now.
pub(crate) struct End {
    pub(crate) unit: UnitId,
    pub(crate) backend: Rc<dyn Backend>,
    pub(crate) geometry: Geometry,
    /// How stable a write is at least.
    pub(crate) least: Fua,
}

/// A copy under way.
///
/// ```text
///   begin ──▶ Reading ──▶ Writing ──▶ answer        a failed segment: Refusing ──▶ answer
///                ▲           │
///                └───────────┘ next piece or segment
/// ```
#[derive(Debug)]
pub(crate) struct Copying {
    nexus: NexusId,
    /// The unit that was sent the command.
    unit: UnitId,
    list: List,
    progress: Rc<Progress>,
    /// How much of the current segment is copied.
    copied_bytes: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting,
    Reading(Piece),
    Writing(Piece),
    Refusing(Sense),
}

/// What is on its way; places are those on the media.
#[derive(Clone, Copy, Debug)]
struct Piece {
    source: Span,
    destination: Span,
}

impl Copying {
    pub(crate) fn new(nexus: NexusId, unit: UnitId) -> Self {
        Self {
            nexus,
            unit,
            list: List::default(),
            progress: Rc::default(),
            copied_bytes: 0,
            state: State::Waiting,
        }
    }

    /// Starts with the parameter list. What is wrong with it as a whole ends the command before
    /// anything is copied (SPC-4 §5.16.7.3).
    pub(crate) fn begin(&mut self, array: &mut Array, list: &[u8]) -> Result<Next, Sense> {
        self.list = List::parse(list)?;
        for segment in &self.list.segments {
            array.may_copy_to(self.nexus, self.list.cscd(segment.destination))?;
        }
        if let Some(id) = self.id() {
            array.copies().begin(id, &self.progress)?;
        }
        self.go_on(array)
    }

    /// Goes on with the outcome of the last request.
    pub(crate) fn advance(&mut self, array: &mut Array, done: Done) -> Result<Next, Sense> {
        match (&self.state, done) {
            (State::Reading(piece), Done::Data(data)) if data.len() == piece.len() => {
                self.write(array, *piece, data)
            }
            (State::Writing(piece), Done::Ok) => {
                let len_bytes = piece.source.len_bytes();
                self.copied_bytes += len_bytes;
                self.progress
                    .bytes
                    .set(self.progress.bytes.get() + len_bytes);
                self.go_on(array)
            }
            (State::Refusing(sense), Done::Ok) => Err(self.failed(array, *sense)),
            // An outcome that does not belong to its request: the store is not to be trusted.
            _ => Err(self.failed(array, Sense::TARGET_FAILURE)),
        }
    }

    /// Goes on after a store failed; none if nothing may be answered (law R8).
    pub(crate) fn fail(&mut self, array: &mut Array, error: BackendError) -> Option<Sense> {
        match error {
            BackendError::NotActive => None,
            BackendError::Medium
            | BackendError::Hardware
            | BackendError::NoSpace
            | BackendError::Overloaded => {
                let sense = self.in_segment(Sense::THIRD_PARTY_FAILURE);
                Some(self.failed(array, sense))
            }
        }
    }

    /// Reads the next piece, or answers.
    fn go_on(&mut self, array: &mut Array) -> Result<Next, Sense> {
        loop {
            let Some(segment) = self.segment() else {
                self.end(array, None);
                return Ok(Next::Answer(Reply::good()));
            };
            match self.piece(array, &segment) {
                Ok(Some((source, piece))) => {
                    self.state = State::Reading(piece);
                    let request = Request::Read {
                        offset_bytes: piece.source.offset_bytes(),
                        len_bytes: piece.len(),
                    };
                    return Ok(Next::AskOf(source.backend, request));
                }
                Ok(None) => {
                    self.progress.segments.set(self.progress.segments.get() + 1);
                    self.copied_bytes = 0;
                }
                // It may be about the view or the size of a unit, which only a box that may answer
                // knows (law R5).
                Err(sense) => {
                    self.state = State::Refusing(self.in_segment(sense));
                    return Ok(Next::Ask(Request::Confirm));
                }
            }
        }
    }

    /// Writes a piece; zeroes may stay holes, so that the copy of a thin unit is as thin.
    fn write(&mut self, array: &mut Array, piece: Piece, data: Bytes) -> Result<Next, Sense> {
        let segment = self.segment().expect("a piece belongs to a segment");
        let cscd = self.list.cscd(segment.destination);
        let destination = array
            .may_copy_to(self.nexus, cscd)
            .and_then(|()| array.copy_end(self.nexus, cscd, Conflict::Always));
        let destination = match destination {
            Ok(destination) => destination,
            Err(sense) => {
                self.state = State::Refusing(self.in_segment(sense));
                return Ok(Next::Ask(Request::Confirm));
            }
        };
        self.state = State::Writing(piece);
        let (offset_bytes, fua) = (piece.destination.offset_bytes(), destination.least);
        let request = if data.iter().any(|byte| *byte != 0) {
            Request::Write {
                offset_bytes,
                data,
                fua,
            }
        } else {
            let unmap = if destination.geometry.thin {
                MayUnmap::Yes
            } else {
                MayUnmap::No
            };
            Request::WriteZeroes {
                offset_bytes,
                len_bytes: piece.destination.len_bytes(),
                unmap,
                fua,
            }
        };
        Ok(Next::AskOf(destination.backend, request))
    }

    /// The next piece of a segment and where to read it; none if all of it is copied.
    fn piece(&self, array: &mut Array, segment: &Segment) -> Result<Option<(End, Piece)>, Sense> {
        let end = |cscd, conflict| array.copy_end(self.nexus, self.list.cscd(cscd), conflict);
        let source = end(segment.source, Conflict::Exclusive)?;
        let destination = end(segment.destination, Conflict::Always)?;
        let counted_by = match segment.counted_by {
            Side::Source => &source,
            Side::Destination => &destination,
        };
        let len_bytes = u64::from(segment.blocks) * u64::from(counted_by.geometry.block_bytes);
        let from = Span::copied(segment.source_lba, len_bytes, &source.geometry)?;
        let to = Span::copied(segment.destination_lba, len_bytes, &destination.geometry)?;
        let left_bytes = len_bytes - self.copied_bytes;
        let piece_bytes = left_bytes.min(PIECE_MAX_BYTES);
        if piece_bytes == 0 {
            return Ok(None);
        }
        // Blocks that lie in front of their copy are copied from the end, or they would be
        // overwritten before their turn.
        let runs_into_itself = source.unit == destination.unit
            && (from.offset_bytes()..from.offset_bytes() + len_bytes).contains(&to.offset_bytes());
        let start_bytes = if runs_into_itself {
            left_bytes - piece_bytes
        } else {
            self.copied_bytes
        };
        let piece = Piece {
            source: from.part(start_bytes, piece_bytes),
            destination: to.part(start_bytes, piece_bytes),
        };
        Ok(Some((source, piece)))
    }

    fn segment(&self) -> Option<Segment> {
        let segments = &self.list.segments;
        segments
            .get(usize::from(self.progress.segments.get()))
            .copied()
    }

    /// An error while a segment is processed names it.
    fn in_segment(&self, sense: Sense) -> Sense {
        sense.in_segment(self.progress.segments.get())
    }

    fn failed(&self, array: &mut Array, sense: Sense) -> Sense {
        self.end(array, Some(sense));
        sense
    }

    /// Takes note of the end, for whoever asks later.
    fn end(&self, array: &mut Array, sense: Option<Sense>) {
        if let Some(id) = self.id() {
            array.copies().end(id, &self.progress, sense);
        }
    }

    fn id(&self) -> Option<CopyId> {
        Some(CopyId {
            unit: self.unit,
            nexus: self.nexus,
            list: self.list.id?,
        })
    }
}

impl Piece {
    fn len(&self) -> usize {
        self.source.transfer_bytes()
    }
}

impl List {
    /// The CSCD of that number, if the list has one.
    fn cscd(&self, number: u16) -> Option<&Cscd> {
        self.cscds.get(usize::from(number))
    }
}
