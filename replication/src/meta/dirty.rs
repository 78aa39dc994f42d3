//! Dirty map: the blocks that may differ from the peer's copy (law D1).
//!
//! The map in memory is the truth of this process; pages of it are made durable on request. Each
//! page in use has two slots and is written to them in turn; one that comes into use is written to
//! both, then listed in the [`index`]. A slot that fails its check may have been the newer one, so
//! it makes its whole page dirty (law H35). Once nothing is dirty no page is in use.
//!
//! Some blocks are dirty only because of writes that the engine has kept and can send again (law
//! D4). They are *owed*: such a bit is cleared once those writes are stable on the peer. Whatever
//! else makes a block dirty ends that, so that it is copied.
//!
//! Invariants: `count` is the number of set bits; `pages` has no page without one; a page whose
//! content in memory is not on disk is in `changed`; a page in `writing` has one write in flight;
//! a page that was written and waits for the index is counted by `index`; an owed block is dirty.

use super::index::{self, Listed};
use super::{HEAD_BYTES, UNIT_BYTES, checksum};
use crate::mutants::mutant;
use crate::wire::mask::Run;
use std::collections::{BTreeMap, BTreeSet};
use zerocopy::byteorder::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bits of one page.
pub const PAGE_BITS: u64 = (PAGE_BYTES - RAW_LEN) as u64 * 8;
/// Bytes of a page on disk.
pub const PAGE_BYTES: usize = 4096;
const _: () = assert!(PAGE_BYTES as u64 == UNIT_BYTES);
/// Writes of one map in flight at most.
pub const WRITES_MAX: usize = 32;

const MAGIC: u32 = u32::from_le_bytes(*b"TWdi");
const VERSION: u16 = 1;
const PAGE_WORDS: usize = (PAGE_BYTES - RAW_LEN) / 8;

/// The dirty map of one volume.
#[derive(Debug)]
pub struct DirtyMap {
    uuid: u128,
    blocks: u32,
    /// Pages with a dirty block.
    pages: BTreeMap<u32, Bits>,
    count: u64,
    /// Owed blocks, each with the number of the newest kept write in it.
    owed: BTreeMap<u32, u64>,
    /// Pages in use.
    slots: BTreeMap<u32, Slots>,
    /// Rises with every change of a bit.
    version: u64,
    /// Pages to write, and the version of their first change that is not on disk.
    changed: BTreeMap<u32, u64>,
    /// Pages in flight, and the version of the first change that the write carries.
    writing: BTreeMap<u32, u64>,
    index: IndexDisk,
}

/// The bits of a page that has some.
#[derive(Debug)]
struct Bits {
    count: u32,
    /// `None`: all of them.
    words: Option<Box<[u64; PAGE_WORDS]>>,
}

/// What is on disk of a page.
#[derive(Clone, Copy, Debug)]
struct Slots {
    /// Sequence number of the newest slot.
    seq: u64,
    state: Written,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// Both slots are sound.
    Whole,
    /// One of them, or both, cannot be trusted: the next write is to both.
    Damaged,
}

/// What is on disk of the index.
#[derive(Debug)]
struct IndexDisk {
    /// Sequence number of the newest slot.
    seq: u64,
    state: Written,
    /// To be written: the first version that waits for it.
    changed: Option<u64>,
    /// In flight: the first version that it carries, and the pages that are out of use with it.
    writing: Option<(u64, BTreeSet<u32>)>,
}

/// A part of a map on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// One page.
    Page(u32),
    /// The index.
    Index,
}

/// A part of a map on its way to the disk.
#[derive(Debug, PartialEq, Eq)]
pub struct MapWrite {
    /// Which.
    pub part: Part,
    /// Where in the backing.
    pub offset_bytes: u64,
    /// What.
    pub bytes: Vec<u8>,
}

impl DirtyMap {
    /// A clean map as [`DirtyMap::format`] leaves it.
    #[must_use]
    pub fn clean(uuid: u128, blocks: u32) -> Self {
        Self {
            uuid,
            blocks,
            pages: BTreeMap::new(),
            count: 0,
            owed: BTreeMap::new(),
            slots: BTreeMap::new(),
            version: 0,
            changed: BTreeMap::new(),
            writing: BTreeMap::new(),
            index: IndexDisk {
                seq: 2,
                state: Written::Whole,
                changed: None,
                writing: None,
            },
        }
    }

    /// The bytes of a clean map's index, to be written at [`index::OFFSET`].
    #[must_use]
    pub fn format(uuid: u128) -> Vec<u8> {
        index::encode_both(uuid, 2, &BTreeSet::new())
    }

    /// Begins to read a map: what it is before any page was read, and the runs of pages whose
    /// slots have to be given to [`DirtyMap::load_page`].
    #[must_use]
    pub fn begin(uuid: u128, blocks: u32, found: &index::Recovered) -> (Self, Vec<Run>) {
        let mut map = Self::clean(uuid, blocks);
        map.index.seq = found.seq;
        let pages = map.page_count();
        if let Listed::Exactly(listed) | Listed::AtLeast(listed) = &found.listed {
            let listed = listed.range(..pages);
            map.slots = listed.map(|page| (*page, Slots::damaged(0))).collect();
        }
        match &found.listed {
            Listed::Exactly(listed) => {
                return (map, runs_of(listed.range(..pages).copied()));
            }
            Listed::AtLeast(_) => {
                map.index.changed = Some(0);
                return (map, runs_of(0..pages));
            }
            Listed::Unknown if mutant!(BadPageIsClean) => {}
            Listed::Unknown => map.set_all(),
        }
        map.index.state = Written::Damaged;
        map.index.changed = Some(0);
        (map, Vec::new())
    }

    /// Takes in both slots of a page.
    pub fn load_page(&mut self, page: u32, slots: &[u8]) {
        let slot = |which: usize| {
            let bytes = slots.get(which * PAGE_BYTES..(which + 1) * PAGE_BYTES)?;
            parse(self.uuid, page, bytes).filter(|(seq, _)| seq % 2 == which as u64)
        };
        let unlisted = self.index.changed.is_some() && !self.slots.contains_key(&page);
        let (one, other) = (slot(0), slot(1));
        match (one, other) {
            (Some((even, bits)), Some((odd, other))) => {
                let newer = if even > odd { bits } else { other };
                let (seq, state) = (even.max(odd), Written::Whole);
                self.slots.insert(page, Slots { seq, state });
                self.fill_page(page, &newer);
            }
            // never in use: its slots would both have been there before the index that lists it
            (None, None) if unlisted && slots.iter().all(|byte| *byte == 0) => {}
            (one, other) => {
                let seq = one.or(other).map_or(0, |(seq, _)| seq);
                self.slots.insert(page, Slots::damaged(seq));
                if !mutant!(BadPageIsClean) {
                    self.set_run(self.run_of(page));
                    self.changed.entry(page).or_insert(self.version);
                }
            }
        }
    }

    /// Reads the map of a backing whose first bytes are `backing`.
    #[must_use]
    pub fn load(uuid: u128, blocks: u32, backing: &[u8]) -> Self {
        let bytes = |from: u64, len: usize| {
            let from = usize::try_from(from).ok()?;
            backing.get(from..from.checked_add(len)?)
        };
        let found = bytes(index::OFFSET, 2 * index::LEN_BYTES).unwrap_or_default();
        let (mut map, runs) = Self::begin(uuid, blocks, &index::recover(uuid, found));
        for page in runs.iter().flat_map(|run| run.start..run.start + run.count) {
            map.load_page(
                page,
                bytes(slots_at(page), 2 * PAGE_BYTES).unwrap_or_default(),
            );
        }
        map
    }

    /// The map of the same volume with another size; what is beyond the end is forgotten, what is
    /// new is clean.
    pub fn resize(&mut self, blocks: u32) {
        let pages = u64::from(blocks).div_ceil(PAGE_BITS);
        let beyond = |page: &u32| u64::from(*page) >= pages;
        let gone = self.pages.extract_if(.., |page, _| beyond(page));
        self.count -= gone.map(|(_, bits)| u64::from(bits.count)).sum::<u64>();
        self.changed.retain(|page, _| !beyond(page));
        // the page that has another number of blocks now
        let edge = page_of(self.blocks.min(blocks).saturating_sub(1));
        self.blocks = blocks;
        if let Some(bits) = self.pages.remove(&edge) {
            self.count -= u64::from(bits.count);
            let words = bits.words.unwrap_or_else(|| words_of(bits.count));
            self.fill_page(edge, &words[..]);
        }
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

    /// Pages that are in use on disk, and pages that are in memory bit by bit.
    #[must_use]
    pub fn pages_in_use(&self) -> (usize, usize) {
        let mixed = self.pages.values().filter(|bits| bits.words.is_some());
        (self.slots.len(), mixed.count())
    }

    /// Whether `block` is dirty.
    #[must_use]
    pub fn contains(&self, block: u32) -> bool {
        let (word, bit) = place(block);
        let bits = self.pages.get(&page_of(block));
        bits.is_some_and(|bits| {
            bits.words
                .as_ref()
                .is_none_or(|words| words[word] & bit != 0)
        })
    }

    /// Marks `block`, which will be copied.
    pub fn set(&mut self, block: u32) {
        self.set_run(Run {
            start: block,
            count: 1,
        });
    }

    /// Marks a run of blocks.
    pub fn set_run(&mut self, run: Run) {
        let end = run.start + run.count;
        assert!(end <= self.blocks, "block {end} is beyond the end");
        let owed: Vec<u32> = self.owed.range(run.start..end).map(|(b, _)| *b).collect();
        for block in owed {
            self.owed.remove(&block);
        }
        self.mark(run);
    }

    fn mark(&mut self, run: Run) {
        let end = run.start + run.count;
        let mut block = run.start;
        while block < end {
            let page = page_of(block);
            let whole = self.run_of(page);
            let to = end.min(whole.start + whole.count);
            let len = page_len(self.blocks, page);
            let bits = self.pages.entry(page).or_insert_with(Bits::none);
            let before = bits.count;
            if u64::from(to - block) == len {
                (bits.count, bits.words) = (to - block, None);
            } else {
                bits.set(block - whole.start, to - whole.start);
                if u64::from(bits.count) == len {
                    bits.words = None;
                }
            }
            let added = bits.count - before;
            if added != 0 {
                self.count += u64::from(added);
                self.note(page);
            }
            block = to;
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
        self.owed.remove(&block);
        let page = page_of(block);
        if !self.contains(block) {
            return;
        }
        let bits = self.pages.get_mut(&page).expect("it has the block");
        let words = bits.words.get_or_insert_with(|| words_of(bits.count));
        let (word, bit) = place(block);
        words[word] &= !bit;
        bits.count -= 1;
        if bits.count == 0 {
            self.pages.remove(&page);
        }
        self.count -= 1;
        self.note(page);
    }

    /// Unmarks every block, after this copy was made equal to the source's.
    pub fn clear_all(&mut self) {
        self.owed.clear();
        for page in std::mem::take(&mut self.pages).into_keys() {
            self.note(page);
        }
        self.count = 0;
    }

    /// The first dirty block from `block` on.
    #[must_use]
    pub fn next(&self, block: u32) -> Option<u32> {
        let first = page_of(block);
        self.pages.range(first..).find_map(|(page, bits)| {
            let start = page * PAGE_BLOCKS;
            let from = block.saturating_sub(start);
            bits.next(from, Looking::Set).map(|at| start + at)
        })
    }

    /// The first clean block from `block` on, or the end.
    fn next_clean(&self, block: u32) -> u32 {
        let mut block = block;
        while block < self.blocks {
            let page = page_of(block);
            let Some(bits) = self.pages.get(&page) else {
                return block;
            };
            let start = page * PAGE_BLOCKS;
            if let Some(at) = bits.next(block - start, Looking::Clear) {
                return (start + at).min(self.blocks);
            }
            block = start.saturating_add(PAGE_BLOCKS);
        }
        self.blocks
    }

    /// Runs of dirty blocks from `block` on, at most `max` of them.
    #[must_use]
    pub fn runs(&self, block: u32, max: usize) -> Vec<Run> {
        let mut runs = Vec::new();
        let mut from = block;
        while runs.len() < max {
            let Some(start) = self.next(from) else { break };
            let end = self.next_clean(start);
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
        let index = &self.index;
        let listing = index.writing.iter().map(|(first, _)| first);
        let listing = index.changed.iter().chain(listing);
        let listing = listing.filter(|_| !mutant!(ForgetIndex));
        let mut waiting = self.changed.values().chain(self.writing.values());
        waiting.all(|first| *first > version) && listing.copied().all(|first| first > version)
    }

    /// Takes changed parts that have no write in flight, so that at most [`WRITES_MAX`] are; report
    /// each with [`DirtyMap::written`]. Ask again until the version is durable.
    pub fn take_writes(&mut self) -> Vec<MapWrite> {
        let mut writes: Vec<MapWrite> = self.drop_pages().into_iter().collect();
        if self.index.changed.is_some() && self.index.writing.is_none() {
            writes.push(self.take_index());
        }
        let out_of_use = self.index.writing.iter().map(|(_, pages)| pages);
        if out_of_use.flatten().next().is_some() {
            return writes; // what is written now would be taken out of use
        }
        let room = WRITES_MAX.saturating_sub(self.writing.len());
        let ready = self.changed.iter().map(|(page, first)| (*page, *first));
        let ready = ready.filter(|(page, _)| !self.writing.contains_key(page));
        for (page, first) in ready.take(room).collect::<Vec<_>>() {
            self.changed.remove(&page);
            self.writing.insert(page, first);
            writes.push(self.take_page(page));
        }
        writes
    }

    fn take_page(&mut self, page: u32) -> MapWrite {
        let words = match self.pages.get(&page) {
            None => Box::new([0; PAGE_WORDS]),
            Some(bits) => match &bits.words {
                Some(words) => words.clone(),
                None => words_of(bits.count),
            },
        };
        let known = self.slots.get_mut(&page);
        let (offset_bytes, bytes) = match known {
            Some(slots) if slots.state == Written::Whole => {
                slots.seq += 1;
                let offset_bytes = slots_at(page) + slots.seq % 2 * UNIT_BYTES;
                (offset_bytes, encode(self.uuid, page, slots.seq, &words[..]))
            }
            damaged => {
                // both, each with a number above those that are there
                let above = damaged.map_or(0, |slots| slots.seq).next_multiple_of(2) + 2;
                let both = [above, above + 1].map(|seq| encode(self.uuid, page, seq, &words[..]));
                (slots_at(page), both.concat())
            }
        };
        MapWrite {
            part: Part::Page(page),
            offset_bytes,
            bytes,
        }
    }

    fn take_index(&mut self) -> MapWrite {
        let first = self.index.changed.take().expect("the caller looked");
        self.index.writing = Some((first, BTreeSet::new()));
        self.encode_index(self.slots.keys().copied().collect())
    }

    fn encode_index(&mut self, pages: BTreeSet<u32>) -> MapWrite {
        let (offset_bytes, bytes) = match self.index.state {
            Written::Whole => {
                self.index.seq += 1;
                let seq = self.index.seq;
                let bytes = index::encode(self.uuid, seq, pages.into_iter());
                (index::offset_of(seq), bytes)
            }
            Written::Damaged => {
                self.index.seq = self.index.seq.next_multiple_of(2) + 2;
                let both = index::encode_both(self.uuid, self.index.seq, &pages);
                (index::OFFSET, both)
            }
        };
        MapWrite {
            part: Part::Index,
            offset_bytes,
            bytes,
        }
    }

    /// Nothing is dirty, and all of that is on disk: an index that lists nothing says so too, and
    /// spares the next attach the pages.
    fn drop_pages(&mut self) -> Option<MapWrite> {
        let idle = self.changed.is_empty() && self.writing.is_empty();
        let listed = self.index.changed.is_none() && self.index.writing.is_none();
        let damaged = self
            .slots
            .values()
            .any(|slots| slots.state == Written::Damaged);
        if self.count > 0 || !idle || !listed || damaged || self.slots.len() < DROP_PAGES_MIN {
            return None;
        }
        let pages = self.slots.keys().copied().collect();
        self.index.writing = Some((self.version + 1, pages)); // nothing waits for it
        Some(self.encode_index(BTreeSet::new()))
    }

    /// The write of `part` is stable.
    pub fn written(&mut self, part: Part) {
        match part {
            Part::Page(page) => {
                let first = self.writing.remove(&page);
                let first = first.expect("it was in flight");
                let known = self.slots.get(&page).copied();
                let listed = known.is_some();
                if known.is_none_or(|slots| slots.state == Written::Damaged) {
                    let above = known.map_or(0, |slots| slots.seq).next_multiple_of(2) + 2;
                    let (seq, state) = (above + 1, Written::Whole);
                    self.slots.insert(page, Slots { seq, state });
                }
                if !listed {
                    let waits = &mut self.index.changed;
                    *waits = Some(waits.map_or(first, |before| before.min(first)));
                }
            }
            Part::Index => {
                let (_, dropped) = self.index.writing.take().expect("it was in flight");
                self.index.state = Written::Whole;
                for page in dropped {
                    self.slots.remove(&page);
                }
            }
        }
    }

    /// Counts again; panics if the count is wrong.
    pub fn check_full(&self) {
        let mut count = 0;
        for (page, bits) in &self.pages {
            let ones = |words: &[u64; PAGE_WORDS]| -> u32 {
                words.iter().map(|word| word.count_ones()).sum()
            };
            let len = page_len(self.blocks, *page);
            let counted = bits.words.as_ref().map_or(bits.count, |words| ones(words));
            let full = bits.words.is_none() == (u64::from(bits.count) == len);
            assert!(
                counted == bits.count && counted > 0 && full,
                "page {page} is wrong"
            );
            count += u64::from(counted);
        }
        assert_eq!(count, self.count, "the count of dirty blocks is wrong");
        assert!(
            self.owed.keys().all(|block| self.contains(*block)),
            "D4: an owed block is clean"
        );
    }

    fn page_count(&self) -> u32 {
        let pages = u64::from(self.blocks).div_ceil(PAGE_BITS);
        u32::try_from(pages).expect("fewer pages than blocks")
    }

    /// The blocks of a page.
    fn run_of(&self, page: u32) -> Run {
        let count = page_len(self.blocks, page);
        Run {
            start: page * PAGE_BLOCKS,
            count: u32::try_from(count).expect("a page has few blocks"),
        }
    }

    fn note(&mut self, page: u32) {
        self.version += 1;
        self.changed.entry(page).or_insert(self.version);
    }

    fn fill_page(&mut self, page: u32, words: &[u64]) {
        let len = page_len(self.blocks, page);
        let mut bits = Bits::none();
        let into = bits.words.as_mut().expect("just made");
        for (at, (into, word)) in (0..).step_by(64).zip(into.iter_mut().zip(words)) {
            let valid = match len.saturating_sub(at) {
                0 => 0,
                bits @ 1..64 => (1 << bits) - 1,
                _ => u64::MAX,
            };
            *into = word & valid;
            bits.count += into.count_ones();
        }
        if u64::from(bits.count) == len {
            bits.words = None;
        }
        self.count += u64::from(bits.count);
        if bits.count > 0 {
            self.pages.insert(page, bits);
        }
    }
}

/// What is looked for in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looking {
    Set,
    Clear,
}

impl Bits {
    fn none() -> Self {
        Self {
            count: 0,
            words: Some(Box::new([0; PAGE_WORDS])),
        }
    }

    fn set(&mut self, from: u32, to: u32) {
        let Some(words) = &mut self.words else { return };
        let mut bit = from;
        while bit < to {
            let next = ((bit / 64 + 1) * 64).min(to);
            let above = if next.is_multiple_of(64) {
                0
            } else {
                u64::MAX << (next % 64)
            };
            let mask = !((1 << (bit % 64)) - 1) & !above;
            let word = &mut words[bit as usize / 64];
            self.count += (mask & !*word).count_ones();
            *word |= mask;
            bit = next;
        }
    }

    /// The first bit from `from` on that is what is looked for.
    fn next(&self, from: u32, what: Looking) -> Option<u32> {
        let Some(words) = &self.words else {
            let inside = from < self.count;
            return match what {
                Looking::Set => inside.then_some(from),
                Looking::Clear => (self.count < PAGE_BLOCKS).then_some(from.max(self.count)),
            };
        };
        let mut above = u64::MAX << (from % 64);
        for (at, word) in (0..).zip(words.iter()).skip(from as usize / 64) {
            let found = match what {
                Looking::Set => *word,
                Looking::Clear => !*word,
            };
            if found & above != 0 {
                return Some(at * 64 + (found & above).trailing_zeros());
            }
            above = u64::MAX;
        }
        None
    }
}

impl Slots {
    const fn damaged(seq: u64) -> Self {
        Self {
            seq,
            state: Written::Damaged,
        }
    }
}

/// Whether both slots of a page can be trusted.
#[must_use]
pub fn is_sound(uuid: u128, page: u32, slots: &[u8]) -> bool {
    slots.len() == 2 * PAGE_BYTES
        && (0..)
            .zip(slots.chunks(PAGE_BYTES))
            .all(|(which, slot): (u64, _)| {
                parse(uuid, page, slot).is_some_and(|(seq, _)| seq % 2 == which)
            })
}

/// Where the slots of a page are in the backing.
#[must_use]
pub fn slots_at(page: u32) -> u64 {
    HEAD_BYTES + u64::from(page) * 2 * UNIT_BYTES
}

/// Pages in use without a dirty block that are worth a write of the index.
const DROP_PAGES_MIN: usize = 4;
const PAGE_BLOCKS: u32 = 32_256;
const _: () = assert!(PAGE_BLOCKS as u64 == PAGE_BITS);

const fn page_of(block: u32) -> u32 {
    block / PAGE_BLOCKS
}

/// Blocks of a page of a volume with `blocks`.
fn page_len(blocks: u32, page: u32) -> u64 {
    let first = u64::from(page) * PAGE_BITS;
    PAGE_BITS.min(u64::from(blocks).saturating_sub(first))
}

/// Word and bit of a block within its page.
const fn place(block: u32) -> (usize, u64) {
    let bit = block % PAGE_BLOCKS;
    (bit as usize / 64, 1 << (bit % 64))
}

/// The first `count` bits of a page.
fn words_of(count: u32) -> Box<[u64; PAGE_WORDS]> {
    let mut bits = Bits::none();
    bits.set(0, count);
    bits.words.expect("just made")
}

fn runs_of(pages: impl Iterator<Item = u32>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for page in pages {
        match runs.last_mut() {
            Some(run) if run.start + run.count == page => run.count += 1,
            _ => runs.push(Run {
                start: page,
                count: 1,
            }),
        }
    }
    runs
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

mod owed;

#[cfg(test)]
mod tests;
