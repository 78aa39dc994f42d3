//! Comparing before copying (laws D1, H33).
//!
//! Where a mask is coarse (whole regions after a crash, a copy of unknown origin) most of what it
//! names is equal. The source sends a hash of each block, read like a block to be copied; the
//! target reads its own at the frame's place in the stream and says which differ. An equal block
//! is treated like one that was copied: its bit is cleared by the flush that follows, so that what
//! was equal only in the target's cache stays dirty until it is stable. One that differs is copied.

use super::disk::Op;
use super::resync::Chunk;
use super::session::What;
use super::target::Outcome;
use super::{DiskError, Engine, Io, IoDone};
use crate::meta::DIRTY_BLOCK_BYTES;
use crate::mutants::mutant;
use crate::types::{SessionId, VolumeNumber};
use crate::wire::digest::{self, Digest};
use crate::wire::mask::Run;
use crate::wire::{Header, Kind, WireError};
use bytes::Bytes;

/// Coarse runs kept for a volume at most; what is beyond is copied without being compared.
const RUNS_MAX: usize = 4096;
const BLOCK_LEN: usize = 64 << 10;
const _: () = assert!(BLOCK_LEN as u64 == DIRTY_BLOCK_BYTES);

/// Where the dirty map says more than is known to differ.
#[derive(Debug, Default)]
pub(super) struct Coarse {
    runs: Vec<Run>,
}

impl Coarse {
    /// The blocks of `run` are dirty because of what is around them.
    pub(super) fn note(&mut self, run: Run) {
        let known =
            |at: &Run| at.start <= run.start && at.start + at.count >= run.start + run.count;
        if self.runs.len() < RUNS_MAX && run.count > 0 && !self.runs.iter().any(known) {
            self.runs.push(run);
        }
    }

    pub(super) fn contains(&self, block: u32) -> bool {
        let inside = |run: &Run| (run.start..run.start + run.count).contains(&block);
        self.runs.iter().any(inside)
    }
}

impl Engine {
    /// Source: sends the hashes of what was read, instead of it.
    pub(super) fn send_digests(&mut self, chunk: &Chunk, data: &Bytes) {
        let digests: Vec<Digest> = data.chunks(BLOCK_LEN).map(digest::of).collect();
        let (start, end) = chunk.range_read(data);
        let what = What::Digest {
            block: chunk.block,
            count: chunk.count,
            bytes: end - start,
        };
        let place = (chunk.volume, start..end);
        let body = digest::encode(&digests);
        let seq = self.send_range((Kind::ResyncHash, 0), what, place, body);
        self.mark_sent(chunk, seq);
    }

    /// Source: the target has compared; a bit of `differs` for each block. What was written here
    /// since the frame left is in the stream after it, or dirty again.
    pub(super) fn on_compared(
        &mut self,
        number: VolumeNumber,
        (first, count): (u32, u32),
        seq: u64,
        differs: u64,
    ) {
        let source = self.source.as_mut().expect("the caller looked");
        for at in 0..count {
            let place = (number, first + at);
            if source.sent_chunks.get(&place) != Some(&seq) {
                continue; // written meanwhile, and dirty for that
            }
            if differs >> at & 1 == 0 {
                self.resync_counts.equal_blocks += 1;
                continue;
            }
            self.resync_counts.different_blocks += 1;
            source.sent_chunks.remove(&place);
            source.differing.insert(place);
        }
        self.step();
    }

    /// Target: reads what is to be compared; its turn has come.
    pub(super) fn compare_blocks(&mut self, header: Header, digests: Bytes) {
        let target = self.target.as_mut().expect("the caller looked");
        let (session, volume, seq) = (target.id, header.volume, header.seq);
        target.comparing.insert(seq, digests);
        let Some(attached) = self.volumes.get(&volume) else {
            return self.on_block_compared(session, volume, seq, Ok(IoDone::Ok));
        };
        let blocks = header.length / digest::LEN_BYTES as u64;
        let end = (header.offset + blocks * DIRTY_BLOCK_BYTES).min(attached.spec.size_bytes);
        let io = Io::Read {
            offset_bytes: attached.layout.data_offset + header.offset,
            len_bytes: usize::try_from(end - header.offset).expect("few blocks"),
        };
        let op = Op::Compare {
            session,
            volume,
            seq,
        };
        self.submit(volume, op, io);
    }

    /// Target: a block that cannot be read differs, and is rewritten by its copy.
    pub(super) fn on_block_compared(
        &mut self,
        session: SessionId,
        number: VolumeNumber,
        seq: u64,
        result: Result<IoDone, DiskError>,
    ) {
        let target = self.target.as_mut().filter(|target| target.id == session);
        let Some(target) = target else { return };
        let expected = target.comparing.remove(&seq).unwrap_or_default();
        let data = match result {
            Ok(IoDone::Data(data)) => data,
            Ok(IoDone::Ok) | Err(_) => Bytes::new(),
        };
        let mut own = data.chunks(BLOCK_LEN);
        let mut differs = 0;
        for (at, digest) in expected.chunks(digest::LEN_BYTES).enumerate() {
            let same = own
                .next()
                .is_some_and(|block| equal(&digest::of(block), digest));
            differs |= u64::from(!same) << at;
        }
        self.settle_frame(number, seq, Outcome::Compared { differs });
    }
}

pub(super) fn equal(own: &Digest, theirs: &[u8]) -> bool {
    // law H33, broken by a mutant: a short hash takes different blocks for equal
    let len = if mutant!(ShortHash) { 0 } else { own.len() };
    own[..len] == theirs[..len]
}

/// Checks the frame's shape; where its range ends.
pub(super) fn range_end(
    header: &Header,
    digests: &[u8],
    size_bytes: u64,
) -> Result<u64, WireError> {
    let digests = digest::parse(digests)?;
    let last = (digests.len() as u64 - 1) * DIRTY_BLOCK_BYTES;
    let last = header
        .offset
        .checked_add(last)
        .filter(|at| *at < size_bytes);
    let last = last.ok_or(WireError::Field("offset"))?;
    if !header.offset.is_multiple_of(DIRTY_BLOCK_BYTES) {
        return Err(WireError::Field("offset"));
    }
    Ok((last + DIRTY_BLOCK_BYTES).min(size_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Epoch;

    #[test]
    fn runs_that_are_known_are_not_kept_twice() {
        let mut coarse = Coarse::default();
        coarse.note(Run {
            start: 16,
            count: 16,
        });
        coarse.note(Run {
            start: 20,
            count: 4,
        });
        assert_eq!(coarse.runs.len(), 1);
        let covered: Vec<u32> = (0..64).filter(|block| coarse.contains(*block)).collect();
        assert_eq!(covered, (16..32).collect::<Vec<_>>());
    }

    #[test]
    fn a_range_ends_with_the_volume() {
        let header = |offset| Header {
            offset,
            ..Header::new(Kind::ResyncHash, Epoch(1), 1)
        };
        let size_bytes = 2 * DIRTY_BLOCK_BYTES + 4096;
        let hashes = |count: usize| vec![0; count * digest::LEN_BYTES];
        let end = |offset, count| range_end(&header(offset), &hashes(count), size_bytes);
        assert_eq!(end(DIRTY_BLOCK_BYTES, 2), Ok(size_bytes));
        assert_eq!(end(0, 2), Ok(2 * DIRTY_BLOCK_BYTES));
        assert!(end(DIRTY_BLOCK_BYTES, 3).is_err());
        assert!(end(4096, 1).is_err());
        assert!(end(u64::MAX - 4096, 1).is_err());
        assert!(end(0, 0).is_err());
    }
}
