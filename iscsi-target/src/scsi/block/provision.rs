//! Commands about space: WRITE SAME, UNMAP, GET LBA STATUS (SBC-3 §5).

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Next, Span, answer_good};
use crate::backend::{Fua, Geometry, MayUnmap, Request};
use crate::scsi::Reply;
use crate::scsi::parse::Extent;
use crate::scsi::sense::Sense;

/// A WRITE SAME under way; `pattern` is none for zeroes.
#[derive(Debug)]
pub(crate) struct Repeating {
    rest: Span,
    pattern: Option<Bytes>,
    unmap: MayUnmap,
    fua: Fua,
}

impl Repeating {
    pub(super) fn new(rest: Span, unmap: MayUnmap, fua: Fua) -> Self {
        Self {
            rest,
            pattern: None,
            unmap,
            fua,
        }
    }

    /// Repeats `block` instead of zeroes.
    ///
    /// With UNMAP the block is not looked at: blocks that were given back read zero here (LBPRZ),
    /// which is what the targets in use do and initiators test for.
    pub(super) fn repeat(&mut self, block: Bytes, geometry: &Geometry) -> Result<(), Sense> {
        if block.len() != geometry.block_bytes as usize {
            return Err(Sense::CDB_FIELD);
        }
        if self.unmap == MayUnmap::No && block.iter().any(|byte| *byte != 0) {
            self.pattern = Some(block);
        }
        Ok(())
    }

    pub(super) fn next(&mut self) -> Next {
        let (unmap, fua) = (self.unmap, self.fua);
        let step_bytes = match self.pattern {
            Some(_) => PATTERN_STEP_BYTES,
            None => REPEAT_STEP_BYTES,
        };
        let Some(part) = self.rest.take(step_bytes) else {
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

/// Reads the parameter list of an UNMAP; nothing is unmapped if any of it is wrong.
pub(super) fn unmap_list(list: &[u8], geometry: &Geometry) -> Result<VecDeque<Span>, Sense> {
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
        // No blocks at any address are no error.
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

pub(super) fn discard(spans: &mut VecDeque<Span>) -> Next {
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

/// A GET LBA STATUS: blocks that read zero count as deallocated, physical block by physical block.
/// That is true on both boxes, whatever each has allocated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scanning {
    span: Span,
    block_bytes: u32,
    granule_blocks: u64,
    allocation_bytes: usize,
}

impl Scanning {
    /// Looks at what follows `lba`, as far as one command goes.
    pub(crate) fn new(
        lba: u64,
        allocation_bytes: usize,
        geometry: &Geometry,
    ) -> Result<Self, Sense> {
        let mut rest = Span::to_end(lba, geometry)?;
        let span = rest
            .take(SCAN_MAX_BYTES)
            .expect("a span to the end has a block");
        let granule_blocks = 1 << geometry.physical_block_exponent;
        let block_bytes = geometry.block_bytes;
        Ok(Self {
            span,
            block_bytes,
            granule_blocks,
            allocation_bytes,
        })
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.span.len_bytes
    }

    pub(super) fn next(&self) -> Next {
        let (offset_bytes, len_bytes) = (self.span.offset_bytes, self.span.transfer_bytes());
        Next::Ask(Request::Read {
            offset_bytes,
            len_bytes,
        })
    }

    pub(super) fn take(&self, data: &Bytes) -> Result<Next, Sense> {
        if data.len() != self.span.transfer_bytes() {
            return Err(Sense::TARGET_FAILURE);
        }
        let wanted = self.allocation_bytes.saturating_sub(8).div_ceil(16).max(1);
        let mut answer = vec![0; 8];
        for (lba, blocks, status) in self.runs(data).into_iter().take(wanted) {
            answer.extend(lba.to_be_bytes());
            answer.extend(blocks.to_be_bytes());
            answer.extend([status, 0, 0, 0]);
        }
        let len = u32::try_from(answer.len() - 4).expect("the scanned span is short");
        answer[..4].copy_from_slice(&len.to_be_bytes());
        Ok(Next::Answer(Reply::truncated(
            answer,
            self.allocation_bytes,
        )))
    }

    /// Runs of one status: first block, count, status.
    fn runs(&self, mut data: &[u8]) -> Vec<(u64, u32, u8)> {
        let block_bytes = self.block_bytes as usize;
        let mut lba = self.span.offset_bytes / u64::from(self.block_bytes);
        let mut runs: Vec<(u64, u32, u8)> = Vec::new();
        while !data.is_empty() {
            let left_blocks = data.len() / block_bytes;
            // Up to the end of the physical block that this one lies in.
            let aligned = self.granule_blocks - lba % self.granule_blocks;
            let blocks = usize::try_from(aligned).map_or(left_blocks, |own| own.min(left_blocks));
            let (granule, after) = data.split_at(blocks * block_bytes);
            let zero = granule.iter().all(|byte| *byte == 0);
            let status = if zero { DEALLOCATED } else { MAPPED };
            let count = u32::try_from(blocks).expect("the scanned span is short");
            match runs.last_mut() {
                Some((_, run, known)) if *known == status => *run += count,
                _ => runs.push((lba, count, status)),
            }
            lba += u64::from(count);
            data = after;
        }
        runs
    }
}

fn be64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("eight bytes"))
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
}

/// The most blocks an UNMAP may have in all.
pub(crate) const UNMAP_MAX_BLOCKS: u32 = 1 << 20;

/// The most block descriptors an UNMAP may have.
pub(crate) const UNMAP_MAX_DESCRIPTORS: u32 = 256;

/// Written at once when repeating, so that a long WRITE SAME can be aborted and shares the disk.
const REPEAT_STEP_BYTES: u64 = 64 << 20;

/// The same with a pattern, which a backend writes out.
const PATTERN_STEP_BYTES: u64 = 1 << 20;

/// How far one GET LBA STATUS looks.
const SCAN_MAX_BYTES: u64 = 1 << 20;

const MAPPED: u8 = 0;
const DEALLOCATED: u8 = 1;
