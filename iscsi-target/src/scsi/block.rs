//! Commands on blocks: what each asks of the backend, one request after the other (SBC-3 §5).

use std::collections::VecDeque;

use bytes::Bytes;

use super::Reply;
use super::parse::{Check, Extent, Pattern};
use super::sense::{Doing, Sense};
use crate::backend::{Done, Fua, Geometry, MayUnmap, Request};

/// The work of one command. Each value is also a state: see the arrows at [`Work::begin`].
#[derive(Debug)]
pub(crate) enum Work {
    /// An answer that is true only while this box may answer (law R5).
    Confirm(Reply),
    Read(Span),
    Write {
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
    Synchronize,
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

/// A verification under way: `rest` is not yet read, the first `taken_bytes` are compared.
#[derive(Debug)]
pub(crate) struct Comparing {
    rest: Span,
    reading_bytes: usize,
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

/// A WRITE SAME under way; `pattern` is none for zeroes.
#[derive(Debug)]
pub(crate) struct Repeating {
    rest: Span,
    pattern: Option<Bytes>,
    unmap: MayUnmap,
    fua: Fua,
}

/// What follows.
pub(crate) enum Next {
    Ask(Request),
    Answer(Reply),
}

impl Work {
    /// How much the initiator has to send. The span was checked against the medium.
    pub(crate) fn data_out_bytes(&self, geometry: &Geometry) -> usize {
        let block_bytes = geometry.block_bytes as usize;
        match self {
            Self::Write { span, .. }
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
            | Self::Read(_)
            | Self::Verify { .. }
            | Self::WriteSame { .. }
            | Self::Synchronize
            | Self::Comparing(_)
            | Self::Repeating(_)
            | Self::Discarding(_) => 0,
        }
    }

    /// Goes on with the data the initiator sent, at most as many as asked for.
    ///
    /// ```text
    /// WriteAndVerify ─write─▶ Comparing ─reads─▶ answer
    /// Verify ───────────────▶ Comparing
    /// WriteSame ────────────▶ Repeating ─steps─▶ answer
    /// Unmap ────────────────▶ Discarding ─steps─▶ answer
    /// the others ───────────one request────────▶ answer
    /// ```
    pub(crate) fn begin(&mut self, data: Bytes, geometry: &Geometry) -> Result<Next, Sense> {
        match self {
            Self::Confirm(_) => Ok(Next::Ask(Request::Confirm)),
            Self::Synchronize => Ok(Next::Ask(Request::Flush)),
            Self::Read(span) if span.len_bytes == 0 => Ok(answer_good()),
            Self::Read(span) => {
                let len_bytes = span.transfer_bytes();
                Ok(Next::Ask(Request::Read {
                    offset_bytes: span.offset_bytes,
                    len_bytes,
                }))
            }
            Self::Write { span, fua } => {
                let (offset_bytes, fua) = (span.offset_bytes, *fua);
                Ok(write(offset_bytes, whole_blocks(data, geometry), fua))
            }
            Self::WriteAndVerify { span, check } => {
                let data = whole_blocks(data, geometry);
                let (offset_bytes, len_bytes) = (span.offset_bytes, data.len() as u64);
                let rest = Span {
                    offset_bytes,
                    len_bytes,
                };
                let expected = match check {
                    Check::Data => Expected::Data(data.clone()),
                    Check::Medium | Check::OneBlock => Expected::Anything,
                };
                *self = Self::Comparing(Comparing::new(rest, expected));
                Ok(write(offset_bytes, data, Fua::Yes))
            }
            Self::Verify { span, check } => {
                let mut comparing = verification(*span, *check, data, geometry)?;
                let next = comparing.next();
                *self = Self::Comparing(comparing);
                Ok(next)
            }
            Self::CompareAndWrite { span, fua } => compare_and_write(*span, *fua, &data),
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
                let next = repeating.next();
                *self = Self::Repeating(repeating);
                Ok(next)
            }
            Self::Unmap { .. } => {
                let mut spans = unmap_list(&data, geometry)?;
                let next = discard(&mut spans);
                *self = Self::Discarding(spans);
                Ok(next)
            }
            Self::Comparing(_) | Self::Repeating(_) | Self::Discarding(_) => {
                unreachable!("a command begins once")
            }
        }
    }

    /// Goes on with the outcome of the last request.
    pub(crate) fn advance(&mut self, done: Done) -> Result<Next, Sense> {
        match (self, done) {
            (Self::Confirm(reply), Done::Ok) => {
                Ok(Next::Answer(std::mem::replace(reply, Reply::good())))
            }
            (Self::Read(span), Done::Data(data)) if data.len() == span.transfer_bytes() => {
                Ok(Next::Answer(Reply::data(data)))
            }
            (Self::CompareAndWrite { .. }, Done::Miscompare { offset_bytes }) => {
                Err(Sense::miscompare(offset_bytes))
            }
            (Self::Comparing(comparing), Done::Data(data)) => comparing.take(data),
            // The write of a WRITE AND VERIFY.
            (Self::Comparing(comparing), Done::Ok) => Ok(comparing.next()),
            (Self::Repeating(repeating), Done::Ok) => Ok(repeating.next()),
            (Self::Discarding(spans), Done::Ok) => Ok(discard(spans)),
            (Self::Write { .. } | Self::CompareAndWrite { .. } | Self::Synchronize, Done::Ok) => {
                Ok(answer_good())
            }
            // An outcome that does not belong to its request: the store is not to be trusted.
            _ => Err(Sense::TARGET_FAILURE),
        }
    }

    /// What the last request did, for the sense data of its failure.
    pub(crate) fn doing(&self) -> Doing {
        match self {
            Self::Confirm(_) | Self::Read(_) | Self::Verify { .. } | Self::Comparing(_) => {
                Doing::Reading
            }
            Self::Write { .. }
            | Self::WriteAndVerify { .. }
            | Self::CompareAndWrite { .. }
            | Self::WriteSame { .. }
            | Self::Unmap { .. }
            | Self::Synchronize
            | Self::Repeating(_)
            | Self::Discarding(_) => Doing::Writing,
        }
    }
}

impl Span {
    /// The bytes of an extent, if it lies on the medium. Without blocks the address still counts.
    pub(crate) fn of(extent: Extent, geometry: &Geometry) -> Result<Self, Sense> {
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

    /// The bytes from `lba` to the end of the medium.
    pub(crate) fn to_end(lba: u64, geometry: &Geometry) -> Result<Self, Sense> {
        Self::of(
            Extent {
                lba,
                blocks: geometry.blocks.saturating_sub(lba),
            },
            geometry,
        )
    }

    /// This span, unless it is longer than `max_bytes`.
    pub(crate) fn at_most(self, max_bytes: u64) -> Result<Self, Sense> {
        if self.len_bytes > max_bytes {
            Err(Sense::CDB_FIELD)
        } else {
            Ok(self)
        }
    }

    /// Length of a span that is sent at once.
    fn transfer_bytes(&self) -> usize {
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

impl Comparing {
    fn new(rest: Span, expected: Expected) -> Self {
        Self {
            rest,
            reading_bytes: 0,
            taken_bytes: 0,
            expected,
        }
    }

    /// Asks for the next part.
    fn next(&mut self) -> Next {
        let Some(part) = self.rest.take(VERIFY_STEP_BYTES) else {
            return answer_good();
        };
        let len_bytes = part.transfer_bytes();
        self.reading_bytes = len_bytes;
        Next::Ask(Request::Read {
            offset_bytes: part.offset_bytes,
            len_bytes,
        })
    }

    /// Compares one part that was read.
    fn take(&mut self, data: Bytes) -> Result<Next, Sense> {
        if data.len() != self.reading_bytes {
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
}

impl Repeating {
    fn new(rest: Span, unmap: MayUnmap, fua: Fua) -> Self {
        Self {
            rest,
            pattern: None,
            unmap,
            fua,
        }
    }

    /// Repeats `block` instead of zeroes. Only zeroes can be unmapped (SBC-3 §5.43).
    fn repeat(&mut self, block: Bytes, geometry: &Geometry) -> Result<(), Sense> {
        if block.len() != geometry.block_bytes as usize {
            return Err(Sense::CDB_FIELD);
        }
        if block.iter().any(|byte| *byte != 0) {
            self.pattern = Some(block);
        }
        Ok(())
    }

    fn next(&mut self) -> Next {
        let (unmap, fua) = (self.unmap, self.fua);
        let Some(part) = self.rest.take(REPEAT_STEP_BYTES) else {
            return answer_good();
        };
        let Span {
            offset_bytes,
            len_bytes,
        } = part;
        Next::Ask(match self.pattern.clone() {
            Some(pattern) => Request::WriteSame {
                offset_bytes,
                len_bytes,
                pattern,
                fua,
            },
            None => Request::WriteZeroes {
                offset_bytes,
                len_bytes,
                unmap,
                fua,
            },
        })
    }
}

fn write(offset_bytes: u64, data: Bytes, fua: Fua) -> Next {
    if data.is_empty() {
        return answer_good();
    }
    Next::Ask(Request::Write {
        offset_bytes,
        data,
        fua,
    })
}

fn verification(
    span: Span,
    check: Check,
    mut data: Bytes,
    geometry: &Geometry,
) -> Result<Comparing, Sense> {
    let block_bytes = geometry.block_bytes as usize;
    let (span, expected) = match check {
        Check::Medium => (span, Expected::Anything),
        Check::Data => {
            data = whole_blocks(data, geometry);
            (
                Span {
                    len_bytes: data.len() as u64,
                    ..span
                },
                Expected::Data(data),
            )
        }
        Check::OneBlock if span.len_bytes == 0 => (span, Expected::Anything),
        Check::OneBlock if data.len() == block_bytes => (span, Expected::Block(data)),
        Check::OneBlock => return Err(Sense::CDB_FIELD),
    };
    Ok(Comparing::new(span, expected))
}

fn compare_and_write(span: Span, fua: Fua, data: &Bytes) -> Result<Next, Sense> {
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

/// Reads the parameter list of an UNMAP (SBC-3 §5.28.2); nothing is unmapped if any of it is wrong.
fn unmap_list(list: &[u8], geometry: &Geometry) -> Result<VecDeque<Span>, Sense> {
    if list.is_empty() {
        return Ok(VecDeque::new());
    }
    let (header, rest) = list.split_at_checked(8).ok_or(Sense::LIST_LENGTH)?;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let descriptors = rest.get(..len).ok_or(Sense::LIST_LENGTH)?;
    let mut spans = VecDeque::new();
    let mut sum_blocks = 0;
    // A last descriptor that is not whole is ignored.
    for (count, descriptor) in (1..).zip(descriptors.chunks_exact(16)) {
        let (lba, blocks) = (be64(&descriptor[..8]), be32(&descriptor[8..12]));
        sum_blocks += u64::from(blocks);
        if count > UNMAP_MAX_DESCRIPTORS || sum_blocks > u64::from(UNMAP_MAX_BLOCKS) {
            return Err(Sense::LIST_FIELD);
        }
        // No blocks at any address are no error (SBC-3 §5.28.2).
        if blocks > 0 {
            spans.push_back(Span::of(
                Extent {
                    lba,
                    blocks: blocks.into(),
                },
                geometry,
            )?);
        }
    }
    Ok(spans)
}

fn discard(spans: &mut VecDeque<Span>) -> Next {
    let Some(Span {
        offset_bytes,
        len_bytes,
    }) = spans.pop_front()
    else {
        return answer_good();
    };
    Next::Ask(Request::Unmap {
        offset_bytes,
        len_bytes,
    })
}

fn answer_good() -> Next {
    Next::Answer(Reply::good())
}

/// The data without a last block that is not whole: an initiator may send less than its CDB says.
fn whole_blocks(mut data: Bytes, geometry: &Geometry) -> Bytes {
    let block_bytes = geometry.block_bytes as usize;
    data.truncate(data.len() / block_bytes * block_bytes);
    data
}

fn first_difference(left: &[u8], right: &[u8]) -> Option<usize> {
    if left == right {
        return None;
    }
    left.iter()
        .zip(right)
        .position(|(left, right)| left != right)
}

fn be64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("eight bytes"))
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
}

/// The most a command may transfer.
pub(crate) const TRANSFER_MAX_BYTES: u64 = 8 << 20;

/// The most blocks a COMPARE AND WRITE may have.
pub(crate) const COMPARE_AND_WRITE_MAX_BLOCKS: u8 = 128;

/// The most blocks an UNMAP may have in all.
pub(crate) const UNMAP_MAX_BLOCKS: u32 = 1 << 20;

/// The most block descriptors an UNMAP may have.
pub(crate) const UNMAP_MAX_DESCRIPTORS: u32 = 256;

/// Read at once when verifying.
const VERIFY_STEP_BYTES: u64 = 1 << 20;

/// Written at once when repeating, so that a long WRITE SAME can be aborted and shares the disk.
const REPEAT_STEP_BYTES: u64 = 64 << 20;
