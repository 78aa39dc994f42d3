//! Commands that compare: VERIFY, WRITE AND VERIFY, COMPARE AND WRITE, ORWRITE (SBC-3 §5).

use bytes::Bytes;

use super::{Next, Span, VERIFY_STEP_BYTES, Writing, answer_good};
use crate::backend::{Fua, Geometry, Request};
use crate::scsi::parse::Check;
use crate::scsi::sense::{Sense, SenseKey};

/// A verification under way: `rest` is not yet read, the first `taken_bytes` are compared.
#[derive(Debug)]
pub(crate) struct Comparing {
    /// What has to be written before.
    first: Option<Writing>,
    rest: Span,
    asked_bytes: usize,
    taken_bytes: u64,
    expected: Expected,
}

/// What a verification expects on the medium.
#[derive(Debug)]
enum Expected {
    Anything,
    /// The rest of the data.
    Data(Bytes),
    Block(Bytes),
}

impl Comparing {
    /// WRITE AND VERIFY of whole blocks.
    pub(super) fn after_write(span: Span, check: Check, data: Bytes) -> Self {
        let rest = Span {
            len_bytes: data.len() as u64,
            ..span
        };
        let expected = match check {
            Check::Data => Expected::Data(data.clone()),
            Check::Medium | Check::OneBlock => Expected::Anything,
        };
        let first = Some(Writing::new(span, data, Fua::Yes));
        Self {
            first,
            ..Self::new(rest, expected)
        }
    }

    /// VERIFY; `data` are whole blocks.
    pub(super) fn verify(
        span: Span,
        check: Check,
        data: Bytes,
        geometry: &Geometry,
    ) -> Result<Self, Sense> {
        let block_bytes = geometry.block_bytes as usize;
        Ok(match check {
            Check::Medium => Self::new(span, Expected::Anything),
            Check::Data => {
                let span = Span {
                    len_bytes: data.len() as u64,
                    ..span
                };
                Self::new(span, Expected::Data(data))
            }
            Check::OneBlock if span.len_bytes == 0 => Self::new(span, Expected::Anything),
            Check::OneBlock if data.len() == block_bytes => Self::new(span, Expected::Block(data)),
            Check::OneBlock => return Err(Sense::CDB_FIELD),
        })
    }

    fn new(rest: Span, expected: Expected) -> Self {
        Self {
            first: None,
            rest,
            asked_bytes: 0,
            taken_bytes: 0,
            expected,
        }
    }

    pub(super) fn next(&mut self) -> Next {
        if let Some(writing) = &mut self.first {
            if let ask @ Next::Ask(_) = writing.next() {
                return ask;
            }
            self.first = None;
        }
        let Some(part) = self.rest.take(VERIFY_STEP_BYTES) else {
            return answer_good();
        };
        self.asked_bytes = part.transfer_bytes();
        let (offset_bytes, len_bytes) = (part.offset_bytes, self.asked_bytes);
        Next::Ask(Request::Read {
            offset_bytes,
            len_bytes,
        })
    }

    /// Compares one part that was read.
    pub(super) fn take(&mut self, data: Bytes) -> Result<Next, Sense> {
        if data.len() != self.asked_bytes {
            return Err(Sense::TARGET_FAILURE);
        }
        let difference = match &mut self.expected {
            Expected::Anything => None,
            Expected::Data(rest) => first_difference(&data, &rest.split_to(data.len())),
            Expected::Block(block) => data.chunks(block.len()).enumerate().find_map(|(at, one)| {
                first_difference(one, block).map(|offset| at * block.len() + offset)
            }),
        };
        if let Some(offset) = difference {
            return Err(Sense::miscompare(self.taken_bytes + offset as u64));
        }
        self.taken_bytes += data.len() as u64;
        Ok(self.next())
    }

    /// Whether it holds no data, and more than one step of the medium is to be read.
    pub(super) fn reads_in_pieces(&self) -> bool {
        let holds_none = matches!(self.expected, Expected::Anything | Expected::Block(_));
        let read_bytes = self.taken_bytes + self.asked_bytes as u64 + self.rest.len_bytes;
        holds_none && self.first.is_none() && read_bytes > VERIFY_STEP_BYTES
    }

    /// Whether the last request was a write.
    pub(super) fn is_writing(&self) -> bool {
        self.first.is_some()
    }
}

/// COMPARE AND WRITE: the first half of `data` is compared, the second written (law T3).
pub(super) fn compare_and_write(span: Span, fua: Fua, data: &Bytes) -> Result<Next, Sense> {
    let len = span.transfer_bytes();
    if data.len() != 2 * len {
        return Err(Sense::CDB_FIELD);
    }
    if len == 0 {
        return Ok(answer_good());
    }
    let (expected, data) = (data.slice(..len), data.slice(len..));
    let offset_bytes = span.offset_bytes;
    Ok(Next::Ask(Request::CompareAndWrite {
        offset_bytes,
        expected,
        data,
        fua,
    }))
}

/// An ORWRITE under way: read, merge, and write if nobody wrote in between, else once more.
///
/// ```text
///   read ──▶ compare and write ──same──▶ answer
///    ▲               │
///    └───different───┘
/// ```
#[derive(Debug)]
pub(crate) struct Merging {
    span: Span,
    mask: Bytes,
    fua: Fua,
    tries: u8,
}

impl Merging {
    pub(super) fn new(span: Span, mask: Bytes, fua: Fua) -> Self {
        let span = Span {
            len_bytes: mask.len() as u64,
            ..span
        };
        Self {
            span,
            mask,
            fua,
            tries: 0,
        }
    }

    pub(super) fn next(&self) -> Next {
        if self.mask.is_empty() {
            return answer_good();
        }
        let (offset_bytes, len_bytes) = (self.span.offset_bytes, self.mask.len());
        Next::Ask(Request::Read {
            offset_bytes,
            len_bytes,
        })
    }

    pub(super) fn take(&self, found: Bytes) -> Result<Next, Sense> {
        if found.len() != self.mask.len() {
            return Err(Sense::TARGET_FAILURE);
        }
        let merged: Vec<u8> = found
            .iter()
            .zip(&self.mask)
            .map(|(old, mask)| old | mask)
            .collect();
        Ok(Next::Ask(Request::CompareAndWrite {
            offset_bytes: self.span.offset_bytes,
            expected: found,
            data: merged.into(),
            fua: self.fua,
        }))
    }

    /// Starts over after somebody else wrote.
    pub(super) fn again(&mut self) -> Result<Next, Sense> {
        self.tries += 1;
        if self.tries == MERGE_TRIES_MAX {
            Err(CONTENTION)
        } else {
            Ok(self.next())
        }
    }
}

fn first_difference(left: &[u8], right: &[u8]) -> Option<usize> {
    if left == right {
        return None;
    }
    left.iter()
        .zip(right)
        .position(|(left, right)| left != right)
}

/// How often an ORWRITE may lose against other writers before it gives up.
const MERGE_TRIES_MAX: u8 = 100;

/// Aborted without an additional code, which every initiator retries.
const CONTENTION: Sense = Sense::new(SenseKey::AbortedCommand, 0x00, 0x00);
