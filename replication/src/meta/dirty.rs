//! Dirty map: the blocks that may differ from the peer's copy (law D1).
//!
//! The map in memory is the truth of this process; pages of it are made durable on request. Each
//! page has two slots and is written to them in turn. A slot that fails its check may have been
//! the newer one, so it makes its whole page dirty (law H35).
//!
//! Invariants: `count` is the number of set bits; a page whose content in memory is not on disk
//! is in `changed`; a page in `writing` has one write in flight.

use super::{HEAD_BYTES, UNIT_BYTES, checksum};
use crate::mutants::mutant;
use crate::wire::mask::Run;
use std::collections::BTreeMap;
use zerocopy::byteorder::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bits of one page.
pub const PAGE_BITS: u64 = (PAGE_BYTES - RAW_LEN) as u64 * 8;
/// Bytes of a page on disk.
pub const PAGE_BYTES: usize = 4096;
const _: () = assert!(PAGE_BYTES as u64 == UNIT_BYTES);

const MAGIC: u32 = u32::from_le_bytes(*b"TWdi");
const VERSION: u16 = 1;
const PAGE_WORDS: usize = (PAGE_BYTES - RAW_LEN) / 8;

/// The dirty map of one volume.
#[derive(Debug)]
pub struct DirtyMap {
    uuid: u128,
    blocks: u32,
    words: Vec<u64>,
    count: u64,
    /// Sequence number of the newest slot of each page.
    seqs: Vec<u64>,
    /// Rises with every change of a bit.
    version: u64,
    /// Pages to write, and the version of their first change that is not on disk.
    changed: BTreeMap<u32, u64>,
    /// Pages in flight, and the version of the first change that the write carries.
    writing: BTreeMap<u32, u64>,
}

/// A page on its way to the disk.
#[derive(Debug, PartialEq, Eq)]
pub struct PageWrite {
    /// Which.
    pub page: u32,
    /// Where in the backing.
    pub offset_bytes: u64,
    /// What.
    pub bytes: Vec<u8>,
}

impl DirtyMap {
    /// A clean map, both slots of each page written with it.
    #[must_use]
    pub fn clean(uuid: u128, blocks: u32) -> Self {
        let pages = u64::from(blocks).div_ceil(PAGE_BITS);
        let pages = usize::try_from(pages).expect("fewer pages than blocks");
        Self {
            uuid,
            blocks,
            words: vec![0; pages * PAGE_WORDS],
            count: 0,
            seqs: vec![2; pages],
            version: 0,
            changed: BTreeMap::new(),
            writing: BTreeMap::new(),
        }
    }

    /// Reads the map from the slots of all its pages, which begin at [`HEAD_BYTES`].
    #[must_use]
    pub fn load(uuid: u128, blocks: u32, slots: &[u8]) -> Self {
        let mut map = Self::clean(uuid, blocks);
        for page in 0..map.seqs.len() {
            let at = page * 2 * PAGE_BYTES;
            let number = u32::try_from(page).expect("pages are numbered with 32 bits");
            let slot = |which: usize| {
                let bytes = slots.get(at + which * PAGE_BYTES..at + (which + 1) * PAGE_BYTES)?;
                parse(uuid, number, bytes).filter(|(seq, _)| seq % 2 == which as u64)
            };
            match (slot(0), slot(1)) {
                (Some((even, bits)), Some((odd, other))) => {
                    let newer = if even > odd { bits } else { other };
                    map.seqs[page] = even.max(odd);
                    map.fill_page(page, newer);
                }
                (one, other) => {
                    map.seqs[page] = one.or(other).map_or(0, |(seq, _)| seq);
                    if !mutant!(BadPageIsClean) {
                        map.set_page(page);
                    }
                }
            }
        }
        map
    }

    /// The bytes of all slots of a clean map.
    #[must_use]
    pub fn format(uuid: u128, blocks: u32) -> Vec<u8> {
        let pages = u64::from(blocks).div_ceil(PAGE_BITS);
        let pages = u32::try_from(pages).expect("pages are numbered with 32 bits");
        let slots = (0..pages).flat_map(|page| [(page, 2), (page, 1)]);
        slots
            .flat_map(|(page, seq)| encode(uuid, page, seq, &[0; PAGE_WORDS]))
            .collect()
    }

    /// Blocks of the volume.
    #[must_use]
    pub const fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Dirty blocks.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Whether `block` is dirty.
    #[must_use]
    pub fn contains(&self, block: u32) -> bool {
        let (word, bit) = place(block);
        self.words[word] & bit != 0
    }

    /// Marks `block`.
    pub fn set(&mut self, block: u32) {
        assert!(block < self.blocks, "block {block} is beyond the end");
        let (word, bit) = place(block);
        if self.words[word] & bit == 0 {
            self.words[word] |= bit;
            self.count += 1;
            self.note(block);
        }
    }

    /// Marks a run of blocks.
    pub fn set_run(&mut self, run: Run) {
        let end = run.start + run.count;
        assert!(end <= self.blocks, "block {end} is beyond the end");
        let mut block = run.start;
        while block < end {
            let (word, first) = place(block);
            let next = (block / 64 + 1).saturating_mul(64).min(end);
            let above = if next.is_multiple_of(64) {
                0
            } else {
                u64::MAX << (next % 64)
            };
            let mask = !(first - 1) & !above;
            let added = mask & !self.words[word];
            if added != 0 {
                self.words[word] |= mask;
                self.count += u64::from(added.count_ones());
                self.note(block);
            }
            block = next;
        }
    }

    /// Marks every block.
    pub fn set_all(&mut self) {
        self.set_run(Run {
            start: 0,
            count: self.blocks,
        });
    }

    /// Unmarks `block`, after a stable copy of it (law D1).
    pub fn clear(&mut self, block: u32) {
        let (word, bit) = place(block);
        if self.words[word] & bit != 0 {
            self.words[word] &= !bit;
            self.count -= 1;
            self.note(block);
        }
    }

    /// Unmarks every block, after this copy was made equal to the source's.
    pub fn clear_all(&mut self) {
        let mut from = 0;
        while let Some(block) = self.next(from) {
            let (word, _) = place(block);
            self.count -= u64::from(self.words[word].count_ones());
            self.words[word] = 0;
            self.note(block);
            from = (block / 64 + 1).saturating_mul(64);
        }
    }

    /// The first dirty block from `block` on.
    #[must_use]
    pub fn next(&self, block: u32) -> Option<u32> {
        if block >= self.blocks {
            return None;
        }
        let (mut word, bit) = place(block);
        let mut bits = self.words[word] & !(bit - 1);
        while bits == 0 {
            word += 1;
            bits = *self.words.get(word)?;
        }
        let found = word as u64 * 64 + u64::from(bits.trailing_zeros());
        Some(u32::try_from(found).expect("only blocks of the volume are set"))
    }

    /// Runs of dirty blocks from `block` on, at most `max` of them.
    #[must_use]
    pub fn runs(&self, block: u32, max: usize) -> Vec<Run> {
        let mut runs = Vec::new();
        let mut from = block;
        while runs.len() < max {
            let Some(start) = self.next(from) else { break };
            let mut end = start + 1;
            while end < self.blocks && self.contains(end) {
                end += 1;
            }
            runs.push(Run {
                start,
                count: end - start,
            });
            from = end;
        }
        runs
    }

    /// The version that [`DirtyMap::is_durable`] is to be asked for, so that everything set until
    /// now is covered.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Whether every change up to `version` is on disk.
    #[must_use]
    pub fn is_durable(&self, version: u64) -> bool {
        let mut waiting = self.changed.values().chain(self.writing.values());
        waiting.all(|first| *first > version)
    }

    /// Takes the changed pages that have no write in flight; report each with
    /// [`DirtyMap::written`].
    pub fn take_writes(&mut self) -> Vec<PageWrite> {
        let ready: Vec<(u32, u64)> = self
            .changed
            .iter()
            .filter(|(page, _)| !self.writing.contains_key(page))
            .map(|(page, first)| (*page, *first))
            .collect();
        let mut writes = Vec::with_capacity(ready.len());
        for (page, first) in ready {
            self.changed.remove(&page);
            self.writing.insert(page, first);
            let index = page as usize;
            self.seqs[index] += 1;
            let seq = self.seqs[index];
            let words = &self.words[index * PAGE_WORDS..(index + 1) * PAGE_WORDS];
            let slot = u64::from(page) * 2 + seq % 2;
            let offset_bytes = HEAD_BYTES + slot * UNIT_BYTES;
            writes.push(PageWrite {
                page,
                offset_bytes,
                bytes: encode(self.uuid, page, seq, words),
            });
        }
        writes
    }

    /// The write of `page` is stable.
    pub fn written(&mut self, page: u32) {
        let first = self.writing.remove(&page);
        assert!(first.is_some(), "page {page} was not in flight");
    }

    /// Counts again; panics if the count is wrong.
    pub fn check_full(&self) {
        let count: u64 = self
            .words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum();
        assert_eq!(count, self.count, "the count of dirty blocks is wrong");
        assert!(self.next(0).is_none_or(|first| first < self.blocks));
    }

    fn note(&mut self, block: u32) {
        self.version += 1;
        let page = u64::from(block) / PAGE_BITS;
        let page = u32::try_from(page).expect("fewer pages than blocks");
        self.changed.entry(page).or_insert(self.version);
    }

    fn fill_page(&mut self, page: usize, words: Vec<u64>) {
        let last = self.blocks as usize;
        for (index, word) in words.into_iter().enumerate() {
            let at = page * PAGE_WORDS + index;
            let valid = match last.saturating_sub(at * 64) {
                0 => 0,
                bits @ 1..64 => (1 << bits) - 1,
                _ => u64::MAX,
            };
            self.words[at] = word & valid;
            self.count += u64::from(self.words[at].count_ones());
        }
    }

    fn set_page(&mut self, page: usize) {
        let first = page as u64 * PAGE_BITS;
        let count = PAGE_BITS.min(u64::from(self.blocks) - first);
        let number = |at: u64| u32::try_from(at).expect("below the number of blocks");
        self.set_run(Run {
            start: number(first),
            count: number(count),
        });
        let number = u32::try_from(page).expect("pages are numbered with 32 bits");
        self.changed.entry(number).or_insert(self.version);
    }
}

const fn place(block: u32) -> (usize, u64) {
    (block as usize / 64, 1 << (block % 64))
}

fn encode(uuid: u128, page: u32, seq: u64, words: &[u64]) -> Vec<u8> {
    let mut raw = Raw {
        magic: U32::new(MAGIC),
        version: U16::new(VERSION),
        reserved: U16::new(0),
        seq: U64::new(seq),
        uuid: U128::new(uuid),
        page: U32::new(page),
        padding: [0; 24],
        crc: U32::new(0),
    };
    let mut bytes = vec![0; PAGE_BYTES];
    bytes[..RAW_LEN].copy_from_slice(raw.as_bytes());
    for (field, word) in bytes[RAW_LEN..].chunks_exact_mut(8).zip(words) {
        field.copy_from_slice(&word.to_le_bytes());
    }
    raw.crc = U32::new(checksum(&bytes, CRC_AT));
    bytes[..RAW_LEN].copy_from_slice(raw.as_bytes());
    bytes
}

fn parse(uuid: u128, page: u32, bytes: &[u8]) -> Option<(u64, Vec<u64>)> {
    let (raw, bits) = Raw::ref_from_prefix(bytes).ok()?;
    let sound = raw.magic.get() == MAGIC
        && raw.version.get() == VERSION
        && raw.uuid.get() == uuid
        && raw.page.get() == page
        && raw.crc.get() == checksum(bytes, CRC_AT);
    let words = bits.chunks_exact(8);
    let words = words.map(|field| u64::from_le_bytes(field.try_into().expect("eight bytes")));
    sound.then(|| (raw.seq.get(), words.collect()))
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    magic: U32,
    version: U16,
    reserved: U16,
    seq: U64,
    uuid: U128,
    page: U32,
    padding: [u8; 24],
    crc: U32,
}

const RAW_LEN: usize = 64;
const CRC_AT: usize = 60;
const _: () = assert!(size_of::<Raw>() == RAW_LEN);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const UUID: u128 = 8;
    const BLOCKS: u32 = 70_000; // three pages

    fn flush(map: &mut DirtyMap, disk: &mut [u8]) {
        for write in map.take_writes() {
            let at = usize::try_from(write.offset_bytes - HEAD_BYTES).unwrap();
            disk[at..at + PAGE_BYTES].copy_from_slice(&write.bytes);
            map.written(write.page);
        }
    }

    fn all(map: &DirtyMap) -> Vec<u32> {
        let runs = map.runs(0, usize::MAX);
        runs.into_iter()
            .flat_map(|run| run.start..run.start + run.count)
            .collect()
    }

    #[test]
    fn a_formatted_map_is_clean_and_has_these_bytes() {
        let disk = DirtyMap::format(UUID, BLOCKS);
        assert_eq!(disk.len(), 6 * PAGE_BYTES);
        assert_eq!(&disk[..17], b"TWdi\x01\0\0\0\x02\0\0\0\0\0\0\0\x08");
        let map = DirtyMap::load(UUID, BLOCKS, &disk);
        assert_eq!((map.count(), map.version()), (0, 0));
        assert!(map.is_durable(map.version()));
    }

    #[test]
    fn a_version_is_durable_when_all_its_pages_are() {
        let mut map = DirtyMap::clean(UUID, BLOCKS);
        map.set(1);
        map.set(69_999);
        let version = map.version();
        assert!(!map.is_durable(version));
        let writes = map.take_writes();
        assert_eq!(
            writes.iter().map(|write| write.page).collect::<Vec<_>>(),
            [0, 2]
        );
        map.set(2); // after the page was taken: not covered by that write
        map.written(0);
        assert!(!map.is_durable(version));
        map.written(2);
        assert!(map.is_durable(version));
        assert!(!map.is_durable(map.version()));
    }

    #[test]
    fn h35_a_slot_that_fails_its_check_makes_its_page_dirty() {
        for slot in 0..6 {
            let mut disk = DirtyMap::format(UUID, BLOCKS);
            disk[slot * PAGE_BYTES + 4000] ^= 1;
            let map = DirtyMap::load(UUID, BLOCKS, &disk);
            let bits = u32::try_from(PAGE_BITS).unwrap();
            let first = u32::try_from(slot).unwrap() / 2 * bits;
            let end = (first + bits).min(BLOCKS);
            assert_eq!(all(&map), (first..end).collect::<Vec<_>>());
            map.check_full();
        }
    }

    #[test]
    fn a_damaged_page_is_whole_again_after_two_writes() {
        let mut disk = DirtyMap::format(UUID, BLOCKS);
        disk[100] ^= 1;
        let mut map = DirtyMap::load(UUID, BLOCKS, &disk);
        flush(&mut map, &mut disk);
        map.clear_all();
        flush(&mut map, &mut disk);
        assert_eq!(DirtyMap::load(UUID, BLOCKS, &disk).count(), 0);
    }

    #[test]
    fn a_page_of_another_place_is_not_taken() {
        let disk = DirtyMap::format(UUID, BLOCKS);
        let mut swapped = disk.clone();
        swapped[..2 * PAGE_BYTES].copy_from_slice(&disk[2 * PAGE_BYTES..4 * PAGE_BYTES]);
        assert_eq!(DirtyMap::load(UUID, BLOCKS, &swapped).count(), PAGE_BITS);
        assert_eq!(
            DirtyMap::load(UUID + 1, BLOCKS, &disk).count(),
            u64::from(BLOCKS)
        );
        assert_eq!(DirtyMap::load(UUID, BLOCKS, &[]).count(), u64::from(BLOCKS));
    }

    proptest! {
        #[test]
        fn it_is_the_set_that_it_says(
            steps in prop::collection::vec((0..BLOCKS, 0..4u8, any::<bool>()), 0..40)
        ) {
            let mut map = DirtyMap::clean(UUID, BLOCKS);
            let mut disk = DirtyMap::format(UUID, BLOCKS);
            let mut model = BTreeSet::<u32>::new();
            for (block, step, write) in steps {
                match step {
                    0 => map.clear(block),
                    1 => map.set(block),
                    2 => map.set_run(Run { start: block / 2, count: block % 700 + 1 }),
                    _ => map.clear_all(),
                }
                match step {
                    0 => drop(model.remove(&block)),
                    1 => drop(model.insert(block)),
                    2 => model.extend(block / 2..block / 2 + block % 700 + 1),
                    _ => model.clear(),
                }
                map.check_full();
                if write {
                    flush(&mut map, &mut disk);
                    let loaded = DirtyMap::load(UUID, BLOCKS, &disk);
                    prop_assert_eq!(all(&loaded), model.iter().copied().collect::<Vec<_>>());
                }
            }
            map.check_full();
            prop_assert_eq!(all(&map), model.into_iter().collect::<Vec<_>>());
        }
    }
}
