//! A simulated disk: one volume's backing with a volatile cache.
//!
//! What it may do, so that the pair must still keep its promises:
//!
//! - Commands take any time and finish in any order; a write becomes visible to reads at a random
//!   moment between its submission and its completion.
//! - A completed write without FUA lies in the cache until a flush that was submitted after its
//!   completion has succeeded.
//! - Power loss: each 512-byte sector that was not flushed keeps any one of the versions written
//!   since the last flush, or the flushed one; writes still queued may land in part.
//! - The death of the process loses nothing in the cache. Queued writes either still land or are
//!   dropped; the kernel says when the last of them is settled (law D3).
//! - A failed command changes nothing, or what it should have changed, or a part.
//! - A block becomes unreadable, until it is written as a whole.
//! - A full disk takes writes to blocks that exist and zeroes; of others, what comes before the
//!   first block that does not exist.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use replication::engine::{DiskError, Io, IoDone};
use replication::meta::TAIL_BYTES;
use replication::types::{Fua, Zeroed};

use crate::rng::Rng;
use crate::world::content::{BLOCK_LEN, SECTOR_LEN, zeros};

/// What the sectors hold that nobody ever wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// A fresh sparse file.
    Zeros,
    /// Left-overs of an earlier owner, a function of this seed and the place.
    Leftovers(u64),
}

/// A command at the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

#[derive(Clone, Debug)]
struct Version {
    ticket: Ticket,
    data: Bytes,
    /// Position in the order of completions; `None` while the write is still queued.
    completed: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Block {
    /// `None`: never written, so it holds the fill.
    stable: Option<Bytes>,
    /// Written since the last flush, in the order in which they became visible.
    versions: Vec<Version>,
}

#[derive(Clone, Debug)]
struct Op {
    io: Io,
    /// Writes: already visible. Flushes: unused.
    applied: bool,
    /// Flushes: the completions that it covers.
    mark: u64,
}

/// One backing: metadata and data area together, addressed as the engine addresses it.
#[derive(Clone, Debug)]
pub struct Disk {
    size_bytes: u64,
    fill: Fill,
    blocks: BTreeMap<u64, Block>,
    volatile: BTreeSet<u64>,
    ops: BTreeMap<Ticket, Op>,
    next_ticket: u64,
    completions: u64,
    written: bool,
    unreadable: BTreeSet<u64>,
    /// No block can be added from this one on.
    full_from: Option<u64>,
}

impl Disk {
    /// A backing of `size_bytes`, a multiple of the block.
    pub fn new(size_bytes: u64, fill: Fill) -> Self {
        assert_eq!(
            size_bytes % BLOCK_LEN as u64,
            0,
            "backings are whole blocks"
        );
        Self {
            size_bytes,
            fill,
            blocks: BTreeMap::new(),
            volatile: BTreeSet::new(),
            ops: BTreeMap::new(),
            next_ticket: 0,
            completions: 0,
            written: false,
            unreadable: BTreeSet::new(),
            full_from: None,
        }
    }

    /// Size of the backing.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Makes it at least that long; its size.
    pub fn grow(&mut self, size_bytes: u64) -> u64 {
        self.size_bytes = self.size_bytes.max(size_bytes);
        self.size_bytes
    }

    /// The first block of the superblocks at its end.
    pub fn tail_block(&self) -> u64 {
        (self.size_bytes - TAIL_BYTES) / BLOCK_LEN as u64
    }

    /// What is known of what was added by [`Disk::grow`].
    pub fn is_new_end_zero(&self) -> Zeroed {
        match self.fill {
            Fill::Zeros => Zeroed::Proven,
            Fill::Leftovers(_) => Zeroed::Unknown,
        }
    }

    /// True if every byte of it is proven to read zero: a fresh sparse file, never written.
    pub fn is_proven_zero(&self) -> bool {
        self.fill == Fill::Zeros && !self.written
    }

    /// Takes a command; `rng` decides when a write becomes visible.
    pub fn submit(&mut self, io: Io, rng: &mut Rng) -> Ticket {
        self.assert_in_bounds(&io);
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let writes = matches!(io, Io::Write { .. } | Io::WriteZeroes { .. });
        let early = writes && rng.chance(500) && self.full_from.is_none();
        let op = Op {
            io,
            applied: false,
            mark: self.completions,
        };
        self.ops.insert(ticket, op);
        self.written |= writes;
        if early {
            self.apply(ticket);
        }
        ticket
    }

    /// Finishes a command with success.
    pub fn complete(&mut self, ticket: Ticket) -> IoDone {
        self.apply(ticket);
        let op = self
            .ops
            .remove(&ticket)
            .expect("each command is completed once");
        self.completions += 1;
        match op.io {
            Io::Read {
                offset_bytes,
                len_bytes,
            } => {
                return IoDone::Data(self.read(offset_bytes, len_bytes));
            }
            Io::Write {
                offset_bytes,
                ref data,
                fua,
            } => {
                self.settle(ticket, offset_bytes, data.len() as u64, fua);
            }
            Io::WriteZeroes {
                offset_bytes,
                len_bytes,
                fua,
            } => {
                self.settle(ticket, offset_bytes, len_bytes, fua);
            }
            Io::Flush => self.stabilise(op.mark),
        }
        IoDone::Ok
    }

    /// Finishes a command with an error; a write may have happened, in whole, in part or not.
    pub fn fail(&mut self, ticket: Ticket, rng: &mut Rng) -> DiskError {
        if rng.chance(300) {
            self.apply(ticket);
        }
        self.give_up(ticket);
        DiskError::Io
    }

    /// A failed command is over, with what it did.
    fn give_up(&mut self, ticket: Ticket) {
        self.ops.remove(&ticket);
        self.completions += 1;
        let now = self.completions;
        for number in self.volatile.clone() {
            let block = self
                .blocks
                .get_mut(&number)
                .expect("a volatile block exists");
            for version in block
                .versions
                .iter_mut()
                .filter(|version| version.ticket == ticket)
            {
                version.completed = Some(now);
            }
        }
    }

    /// From now on no block can be added from `first` on, or any again.
    pub fn fill_up(&mut self, first: Option<u64>) {
        self.full_from = first;
    }

    /// A block of the data area, of those that were written, cannot be read any more.
    pub fn spoil(&mut self, first: u64, rng: &mut Rng) {
        let end = self.tail_block().max(first);
        let written: Vec<u64> = self
            .blocks
            .range(first..end)
            .map(|(block, _)| *block)
            .collect();
        if !written.is_empty() {
            self.unreadable.insert(*rng.pick(&written));
        }
    }

    /// Every block can be read again.
    pub fn heal(&mut self) {
        self.unreadable.clear();
    }

    /// Why a command cannot succeed, if it cannot.
    pub fn obstacle(&self, ticket: Ticket) -> Option<DiskError> {
        let op = self.ops.get(&ticket)?;
        match &op.io {
            Io::Read {
                offset_bytes,
                len_bytes,
            } => {
                let blocks = pieces(*offset_bytes, *len_bytes as u64);
                let bad = |(block, _, _)| self.unreadable.contains(&block);
                blocks.into_iter().any(bad).then_some(DiskError::Medium)
            }
            Io::Write { .. } if !op.applied => self.first_missing(op).map(|_| DiskError::NoSpace),
            Io::Write { .. } | Io::WriteZeroes { .. } | Io::Flush => None,
        }
    }

    /// Finishes a command that has an obstacle: of a write for which there is no room, the part
    /// that fits has happened.
    pub fn stop(&mut self, ticket: Ticket, rng: &mut Rng) -> DiskError {
        let why = self.obstacle(ticket).expect("the caller looked");
        let op = self.ops.get(&ticket).expect("it has an obstacle");
        let (missing, bytes) = (self.first_missing(op), BLOCK_LEN as u64);
        let op = self.ops.get_mut(&ticket).expect("looked at above");
        if let (
            Io::Write {
                offset_bytes, data, ..
            },
            Some(missing),
        ) = (&mut op.io, missing)
        {
            let fits = (missing * bytes).saturating_sub(*offset_bytes);
            data.truncate(to_len(fits));
            if !data.is_empty() && rng.chance(700) {
                self.apply(ticket);
            }
        }
        self.give_up(ticket);
        why
    }

    /// The first block of a write that has no place.
    fn first_missing(&self, op: &Op) -> Option<u64> {
        let first = self.full_from?;
        let Io::Write {
            offset_bytes, data, ..
        } = &op.io
        else {
            return None;
        };
        let mut blocks = pieces(*offset_bytes, data.len() as u64).map(|(block, _, _)| block);
        blocks.find(|block| *block >= first && !self.blocks.contains_key(block))
    }

    /// Drops a queued command of a dead process.
    pub fn cancel(&mut self, ticket: Ticket) {
        if self.ops.get(&ticket).is_some_and(|op| op.applied) {
            self.complete(ticket);
        } else {
            self.ops.remove(&ticket);
        }
    }

    /// The command is not finished.
    pub fn holds(&self, ticket: Ticket) -> bool {
        self.ops.contains_key(&ticket)
    }

    /// Commands that are not finished.
    pub fn in_flight(&self) -> Vec<Ticket> {
        self.ops.keys().copied().collect()
    }

    /// No command is unfinished.
    pub fn is_idle(&self) -> bool {
        self.ops.is_empty()
    }

    /// Where the unfinished writes begin.
    pub fn writes_in_flight(&self) -> impl Iterator<Item = u64> + '_ {
        self.ops.values().filter_map(|op| match &op.io {
            Io::Write { offset_bytes, .. } | Io::WriteZeroes { offset_bytes, .. } => {
                Some(*offset_bytes)
            }
            Io::Read { .. } | Io::Flush => None,
        })
    }

    /// Unfinished writes that reach beyond `offset_bytes`, which is where the data area starts.
    pub fn writes_in_flight_beyond(&self, offset_bytes: u64) -> usize {
        let beyond = |op: &&Op| match &op.io {
            Io::Write {
                offset_bytes: at,
                data,
                ..
            } => at + data.len() as u64 > offset_bytes,
            Io::WriteZeroes {
                offset_bytes: at,
                len_bytes,
                ..
            } => at + len_bytes > offset_bytes,
            Io::Read { .. } | Io::Flush => false,
        };
        self.ops.values().filter(beyond).count()
    }

    /// The power goes: the cache is lost but for what happened to be written already.
    pub fn power_loss(&mut self, rng: &mut Rng) {
        for ticket in self.in_flight() {
            if rng.chance(500) {
                self.apply(ticket);
            }
        }
        self.ops.clear();
        let mode = rng.below(4);
        for number in std::mem::take(&mut self.volatile) {
            let fill = self.fill_of(number);
            let block = self
                .blocks
                .get_mut(&number)
                .expect("a volatile block exists");
            let versions = std::mem::take(&mut block.versions);
            let stable = block.stable.clone().unwrap_or(fill);
            let mut candidates = vec![stable];
            candidates.extend(versions.into_iter().map(|version| version.data));
            block.stable = Some(match mode {
                0 => candidates.remove(0),
                1 => candidates.pop().expect("there is the stable one at least"),
                2 => rng.pick(&candidates).clone(),
                _ => torn(&candidates, rng),
            });
        }
    }

    /// What a read would return now; `len_bytes` may be any length inside the backing.
    pub fn read(&self, offset_bytes: u64, len_bytes: usize) -> Bytes {
        let block_len = BLOCK_LEN as u64;
        let (first, skip) = (offset_bytes / block_len, to_len(offset_bytes % block_len));
        if skip + len_bytes <= BLOCK_LEN {
            return self.visible(first).slice(skip..skip + len_bytes);
        }
        let last = (offset_bytes + len_bytes as u64 - 1) / block_len;
        if self.fill == Fill::Zeros && self.blocks.range(first..=last).next().is_none() {
            return zeros(len_bytes);
        }
        let mut bytes = BytesMut::with_capacity(len_bytes + 2 * BLOCK_LEN);
        for number in first..=last {
            bytes.extend_from_slice(&self.visible(number));
        }
        bytes.freeze().slice(skip..skip + len_bytes)
    }

    /// The block that reads see.
    pub fn visible(&self, number: u64) -> Bytes {
        let Some(block) = self.blocks.get(&number) else {
            return self.fill_of(number);
        };
        match (block.versions.last(), &block.stable) {
            (Some(version), _) => version.data.clone(),
            (None, Some(stable)) => stable.clone(),
            (None, None) => self.fill_of(number),
        }
    }

    /// The block that is certain to survive a power cut.
    pub fn stable(&self, number: u64) -> Bytes {
        let stable = self
            .blocks
            .get(&number)
            .and_then(|block| block.stable.clone());
        stable.unwrap_or_else(|| self.fill_of(number))
    }

    /// Blocks from `first` on that may be other than zero.
    pub fn blocks_from(&self, first: u64) -> Box<dyn Iterator<Item = u64> + '_> {
        match self.fill {
            Fill::Zeros => Box::new(self.blocks.range(first..).map(|(number, _)| *number)),
            Fill::Leftovers(_) => Box::new(first..self.size_bytes / BLOCK_LEN as u64),
        }
    }

    /// Blocks from `first` on that a power cut may change.
    pub fn volatile_from(&self, first: u64) -> impl Iterator<Item = u64> + '_ {
        self.volatile.range(first..).copied()
    }

    fn assert_in_bounds(&self, io: &Io) {
        let end_bytes = match io {
            Io::Read {
                offset_bytes,
                len_bytes,
            } => offset_bytes + *len_bytes as u64,
            Io::Write {
                offset_bytes, data, ..
            } => offset_bytes + data.len() as u64,
            Io::WriteZeroes {
                offset_bytes,
                len_bytes,
                ..
            } => offset_bytes + len_bytes,
            Io::Flush => 0,
        };
        let size = self.size_bytes;
        assert!(
            end_bytes <= size,
            "a command ends at {end_bytes}, the backing at {size}"
        );
    }

    /// Makes a write visible; nothing for reads, flushes and writes that already are.
    fn apply(&mut self, ticket: Ticket) {
        let Some(op) = self.ops.get_mut(&ticket) else {
            return;
        };
        if std::mem::replace(&mut op.applied, true) {
            return;
        }
        let (offset_bytes, data, len_bytes) = match &op.io {
            Io::Read { .. } | Io::Flush => return,
            Io::Write {
                offset_bytes, data, ..
            } => (*offset_bytes, Some(data.clone()), data.len() as u64),
            Io::WriteZeroes {
                offset_bytes,
                len_bytes,
                ..
            } => (*offset_bytes, None, *len_bytes),
        };
        for (number, within, at) in pieces(offset_bytes, len_bytes) {
            let piece = match &data {
                Some(data) => data.slice(at..at + within.len()),
                None => zeros(within.len()),
            };
            let data = if within.len() == BLOCK_LEN {
                self.unreadable.remove(&number);
                piece
            } else {
                let mut merged = BytesMut::from(&self.visible(number)[..]);
                merged[within].copy_from_slice(&piece);
                merged.freeze()
            };
            let version = Version {
                ticket,
                data,
                completed: None,
            };
            self.blocks
                .entry(number)
                .or_default()
                .versions
                .push(version);
            self.volatile.insert(number);
        }
    }

    /// A write is complete; with FUA it is stable too.
    fn settle(&mut self, ticket: Ticket, offset_bytes: u64, len_bytes: u64, fua: Fua) {
        let now = self.completions;
        for (number, _, _) in pieces(offset_bytes, len_bytes) {
            let Some(block) = self.blocks.get_mut(&number) else {
                continue;
            };
            let own = block
                .versions
                .iter()
                .position(|version| version.ticket == ticket);
            let Some(own) = own else { continue };
            block.versions[own].completed = Some(now);
            if fua == Fua::Yes {
                block.stable = Some(block.versions[own].data.clone());
                block.versions.drain(..=own);
                if block.versions.is_empty() {
                    self.volatile.remove(&number);
                }
            }
        }
    }

    /// A flush succeeded: everything completed up to `mark` is stable.
    fn stabilise(&mut self, mark: u64) {
        let blocks = &mut self.blocks;
        self.volatile.retain(|number| {
            let block = blocks.get_mut(number).expect("a volatile block exists");
            let covered = |version: &Version| version.completed.is_some_and(|at| at <= mark);
            if let Some(last) = block.versions.iter().rposition(covered) {
                block.stable = Some(block.versions[last].data.clone());
                block.versions.drain(..=last);
            }
            !block.versions.is_empty()
        });
    }

    fn fill_of(&self, number: u64) -> Bytes {
        match self.fill {
            Fill::Zeros => zeros(BLOCK_LEN),
            Fill::Leftovers(seed) => {
                let mut rng = Rng::new(seed ^ number.wrapping_mul(0x9e37_79b9));
                let word = (rng.bits() | 1).to_le_bytes();
                Bytes::from(word.repeat(BLOCK_LEN / 8))
            }
        }
    }
}

/// Each sector from any of the candidates.
fn torn(candidates: &[Bytes], rng: &mut Rng) -> Bytes {
    let mut bytes = BytesMut::with_capacity(BLOCK_LEN);
    for sector in 0..BLOCK_LEN / SECTOR_LEN {
        let from = rng.pick(candidates);
        bytes.extend_from_slice(&from[sector * SECTOR_LEN..(sector + 1) * SECTOR_LEN]);
    }
    bytes.freeze()
}

/// (block, range inside the block, position inside the command) of each block that is touched.
fn pieces(
    offset_bytes: u64,
    len_bytes: u64,
) -> impl Iterator<Item = (u64, std::ops::Range<usize>, usize)> {
    let block_len = BLOCK_LEN as u64;
    let end = offset_bytes + len_bytes;
    (offset_bytes / block_len..end.div_ceil(block_len)).map(move |number| {
        let start = number * block_len;
        let from = offset_bytes.max(start);
        let to = end.min(start + block_len);
        (
            number,
            to_len(from - start)..to_len(to - start),
            to_len(from - offset_bytes),
        )
    })
}

fn to_len(bytes: u64) -> usize {
    usize::try_from(bytes).expect("simulated backings fit the address space")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(disk: &mut Disk, rng: &mut Rng, offset_bytes: u64, byte: u8, fua: Fua) {
        let data = Bytes::from(vec![byte; BLOCK_LEN]);
        let ticket = disk.submit(
            Io::Write {
                offset_bytes,
                data,
                fua,
            },
            rng,
        );
        disk.complete(ticket);
    }

    #[test]
    fn a_flush_covers_what_was_complete_when_it_was_submitted() {
        for seed in 0..50 {
            let rng = &mut Rng::new(seed);
            let mut disk = Disk::new(1 << 20, Fill::Zeros);
            write(&mut disk, rng, 0, 1, Fua::No);
            let flush = disk.submit(Io::Flush, rng);
            write(&mut disk, rng, 4096, 2, Fua::No);
            disk.complete(flush);
            assert_eq!(disk.stable(0)[0], 1);
            assert_eq!((disk.stable(1)[0], disk.visible(1)[0]), (0, 2));
            disk.power_loss(rng);
            assert_eq!(disk.visible(0)[0], 1, "a flushed block survives");
        }
    }

    #[test]
    fn a_power_cut_mixes_versions_but_invents_nothing() {
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let rng = &mut Rng::new(seed);
            let mut disk = Disk::new(1 << 20, Fill::Zeros);
            write(&mut disk, rng, 0, 1, Fua::Yes);
            write(&mut disk, rng, 0, 2, Fua::No);
            write(&mut disk, rng, 0, 3, Fua::No);
            disk.power_loss(rng);
            seen.extend(disk.visible(0).iter().copied());
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn parts_of_a_block_merge() {
        let rng = &mut Rng::new(3);
        let mut disk = Disk::new(1 << 20, Fill::Leftovers(9));
        let data = Bytes::from(vec![7; 512]);
        let ticket = disk.submit(
            Io::Write {
                offset_bytes: 4096 + 512,
                data,
                fua: Fua::No,
            },
            rng,
        );
        disk.complete(ticket);
        let block = disk.visible(1);
        assert_eq!((block[511] == 7, block[512], block[1023]), (false, 7, 7));
        assert_eq!(disk.read(4096 + 500, 24).len(), 24);
        assert!(!disk.is_proven_zero());
    }
}
