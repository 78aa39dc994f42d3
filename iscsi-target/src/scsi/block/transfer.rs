//! Plain reads and writes, in pieces of a size every store takes.

use bytes::Bytes;

use super::{Next, PIECE_MAX_BYTES, Span, answer_good};
use crate::backend::{Fua, Request};
use crate::scsi::sense::Sense;
use crate::scsi::{Reply, Status};

/// A read under way.
#[derive(Debug)]
pub(crate) struct Reading {
    rest: Span,
    asked_bytes: usize,
    pieces: Vec<Bytes>,
}

/// A write under way; `data` belong to `rest`.
#[derive(Debug)]
pub(crate) struct Writing {
    rest: Span,
    data: Bytes,
    fua: Fua,
}

impl Reading {
    pub(super) fn new(rest: Span) -> Self {
        Self {
            rest,
            asked_bytes: 0,
            pieces: Vec::new(),
        }
    }

    pub(super) fn next(&mut self) -> Next {
        let Some(piece) = self.rest.take(PIECE_MAX_BYTES) else {
            let data_in = std::mem::take(&mut self.pieces);
            return Next::Answer(Reply {
                status: Status::Good,
                data_in,
                sense: None,
            });
        };
        self.asked_bytes = piece.transfer_bytes();
        let (offset_bytes, len_bytes) = (piece.offset_bytes, self.asked_bytes);
        Next::Ask(Request::Read {
            offset_bytes,
            len_bytes,
        })
    }

    pub(super) fn take(&mut self, data: Bytes) -> Result<Next, Sense> {
        if data.len() != self.asked_bytes {
            return Err(Sense::TARGET_FAILURE);
        }
        self.pieces.push(data);
        Ok(self.next())
    }
}

impl Writing {
    /// Writes whole blocks of `data` at the start of `span`: an initiator may send less than its
    /// CDB says.
    pub(super) fn new(span: Span, data: Bytes, fua: Fua) -> Self {
        let rest = Span {
            len_bytes: data.len() as u64,
            ..span
        };
        Self { rest, data, fua }
    }

    pub(super) fn next(&mut self) -> Next {
        let Some(piece) = self.rest.take(PIECE_MAX_BYTES) else {
            return answer_good();
        };
        let data = self.data.split_to(piece.transfer_bytes());
        Next::Ask(Request::Write {
            offset_bytes: piece.offset_bytes,
            data,
            fua: self.fua,
        })
    }
}
