//! Intents: which regions may differ between the boxes if this one dies now (law D2).
//!
//! They are a table of [`PLACES`], each empty or with one hot region, kept in a ring of records.
//! Record `n` lies in slot `n % 64`. It lists the places that changed since the record before and,
//! whole, one part of the table as it is then: part `n % 64`. So the last 64 records have each part
//! once, and after it what changed in it. They must all be there: a slot that fails its check may
//! have been the newest record, so it makes every region hot (law H35).
//!
//! Invariants of a [`Table`]: a region has at most one place; `free` are the empty places before
//! the last one in use; a place that differs from the ring is in `changed`.

use super::checksum;
use std::collections::{BTreeMap, BTreeSet};
use zerocopy::byteorder::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where the ring is.
pub const OFFSET: u64 = 192 << 10;
/// Records in the ring.
const RECORDS: usize = 64;
/// The same, to count with.
const SLOTS: u64 = RECORDS as u64;
/// Bytes of a record.
pub const RECORD_BYTES: usize = 4096;
/// Bytes of the ring.
pub const RING_BYTES: usize = RECORD_BYTES * RECORDS;
/// Regions that can be hot at once.
pub const PLACES: usize = PART * RECORDS;

/// Places of the part that a record has whole.
const PART: usize = 512;
/// Changes that fit a record beside it.
const CHANGES_MAX: usize = (RECORD_BYTES - RAW_LEN - PART * 4) / CHANGE_LEN;
const CHANGE_LEN: usize = size_of::<Change>();
/// A place without a region; no volume has so many.
const EMPTY: u32 = u32::MAX;

const MAGIC: u32 = u32::from_le_bytes(*b"TWin");
const VERSION: u16 = 2;

/// What a ring says after a restart, beside its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The table is what was hot.
    Whole,
    /// A record cannot be trusted: every region is hot. The table is empty.
    Broken,
}

/// The hot regions and their places in the ring.
#[derive(Debug)]
pub struct Table {
    uuid: u128,
    next_seq: u64,
    places: Vec<u32>,
    place_of: BTreeMap<u32, u16>,
    free: BTreeSet<u16>,
    changed: BTreeSet<u16>,
}

/// Bytes for the ring.
#[derive(Debug)]
pub struct Write {
    /// Where they go in the backing.
    pub offset_bytes: u64,
    /// One record or all.
    pub bytes: Vec<u8>,
    /// The places that it makes hot, with their regions: see [`Table::is_stored`].
    pub stored: Vec<(u16, u32)>,
}

/// The ring of a new volume: nothing is hot.
#[must_use]
pub fn format(uuid: u128) -> Vec<u8> {
    Table::new(uuid, 0).write_all().bytes
}

impl Table {
    /// The table of a volume that was formatted: nothing is hot.
    #[must_use]
    pub const fn formatted(uuid: u128) -> Self {
        Self::new(uuid, SLOTS)
    }

    const fn new(uuid: u128, next_seq: u64) -> Self {
        Self {
            uuid,
            next_seq,
            places: Vec::new(),
            place_of: BTreeMap::new(),
            free: BTreeSet::new(),
            changed: BTreeSet::new(),
        }
    }

    /// Reads a ring.
    #[must_use]
    pub fn recover(uuid: u128, ring: &[u8]) -> (Self, Trust) {
        let mut records = BTreeMap::new();
        for (slot, bytes) in (0..SLOTS).zip(ring.chunks(RECORD_BYTES)) {
            if let Some(record) = Record::parse(uuid, bytes)
                && record.seq % SLOTS == slot
            {
                records.insert(record.seq, record);
            }
        }
        let newest = records.keys().next_back().copied();
        let mut table = Self::new(uuid, newest.map_or(0, |newest| newest.saturating_add(1)));
        let oldest = records.keys().next().copied();
        let run = newest.zip(oldest).map(|(newest, oldest)| newest - oldest);
        if records.len() as u64 != SLOTS || run != Some(SLOTS - 1) {
            return (table, Trust::Broken);
        }
        let mut places = vec![EMPTY; PLACES];
        for record in records.values() {
            let from = part_of(record.seq);
            places[from..from + PART].copy_from_slice(&record.part);
            for (place, region) in &record.changes {
                places[usize::from(*place)] = *region;
            }
        }
        table.fill(places);
        (table, Trust::Whole)
    }

    /// Takes the places of a ring. A region has two if it became cold and hot again and only the
    /// second change was written.
    fn fill(&mut self, mut places: Vec<u32>) {
        let used = places.iter().rposition(|region| *region != EMPTY);
        places.truncate(used.map_or(0, |last| last + 1));
        let hot = (0..).zip(&places).filter(|(_, region)| **region != EMPTY);
        self.place_of = hot.map(|(place, region)| (*region, place)).collect();
        for (place, region) in (0..).zip(&mut places) {
            if *region == EMPTY {
                self.free.insert(place);
            } else if self.place_of.get(region) != Some(&place) {
                *region = EMPTY;
                self.free.insert(place);
                self.changed.insert(place);
            }
        }
        self.places = places;
    }

    /// The hot regions, in order.
    pub fn regions(&self) -> impl Iterator<Item = u32> {
        self.place_of.keys().copied()
    }

    /// Makes a region hot.
    pub fn add(&mut self, region: u32) {
        assert!(region != EMPTY, "no volume has so many regions");
        let place = self.free.pop_first().unwrap_or_else(|| {
            assert!(self.places.len() < PLACES, "more regions are hot than fit");
            self.places.push(EMPTY);
            u16::try_from(self.places.len() - 1).expect("bounded by PLACES")
        });
        let before = self.place_of.insert(region, place);
        assert!(before.is_none(), "region {region} is hot already");
        self.places[usize::from(place)] = region;
        self.changed.insert(place);
    }

    /// Makes a region cold.
    pub fn remove(&mut self, region: u32) {
        let place = self.place_of.remove(&region).expect("it is hot");
        self.places[usize::from(place)] = EMPTY;
        self.free.insert(place);
        self.changed.insert(place);
    }

    /// The ring says what the table says, once everything written has arrived.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.changed.is_empty()
    }

    /// A region that a [`Write`] made hot still is, by that write.
    #[must_use]
    pub fn is_stored(&self, place: u16, region: u32) -> bool {
        self.place_of.get(&region) == Some(&place) && !self.changed.contains(&place)
    }

    /// The next record: what changed, as far as it fits.
    #[must_use]
    pub fn write(&mut self) -> Write {
        let count = self.changed.len().min(CHANGES_MAX);
        let changes: Vec<(u16, u32)> = (0..count)
            .filter_map(|_| self.changed.pop_first())
            .map(|place| (place, self.places[usize::from(place)]))
            .collect();
        let seq = self.next_seq;
        self.next_seq += 1;
        Write {
            offset_bytes: OFFSET + seq % SLOTS * RECORD_BYTES as u64,
            bytes: self.encode(seq, &changes),
            stored: hot(changes),
        }
    }

    /// Every record anew, whatever the ring has now.
    #[must_use]
    pub fn write_all(&mut self) -> Write {
        let first = self.next_seq.next_multiple_of(SLOTS);
        self.next_seq = first + SLOTS;
        self.changed.clear();
        let records: Vec<_> = (first..first + SLOTS)
            .map(|seq| self.encode(seq, &[]))
            .collect();
        Write {
            offset_bytes: OFFSET,
            bytes: records.concat(),
            stored: hot((0..).zip(self.places.iter().copied())),
        }
    }

    fn encode(&self, seq: u64, changes: &[(u16, u32)]) -> Vec<u8> {
        let mut raw = Raw {
            magic: U32::new(MAGIC),
            version: U16::new(VERSION),
            count: U16::new(u16::try_from(changes.len()).expect("bounded by CHANGES_MAX")),
            seq: U64::new(seq),
            uuid: U128::new(self.uuid),
            reserved: [0; 28],
            crc: U32::new(0),
        };
        let mut bytes = vec![0; RECORD_BYTES];
        let from = part_of(seq);
        let (part, list) = bytes[RAW_LEN..].split_at_mut(PART * 4);
        for (field, place) in part.chunks_exact_mut(4).zip(from..) {
            let region = self.places.get(place).copied().unwrap_or(EMPTY);
            field.copy_from_slice(&region.to_le_bytes());
        }
        for (field, (place, region)) in list.chunks_exact_mut(CHANGE_LEN).zip(changes) {
            let change = Change {
                place: U16::new(*place),
                reserved: U16::new(0),
                region: U32::new(*region),
            };
            field.copy_from_slice(change.as_bytes());
        }
        bytes[..RAW_LEN].copy_from_slice(raw.as_bytes());
        raw.crc = U32::new(checksum(&bytes, CRC_AT));
        bytes[..RAW_LEN].copy_from_slice(raw.as_bytes());
        bytes
    }
}

/// The first place of the part that a record has whole.
fn part_of(seq: u64) -> usize {
    usize::try_from(seq % SLOTS).expect("below SLOTS") * PART
}

fn hot(places: impl IntoIterator<Item = (u16, u32)>) -> Vec<(u16, u32)> {
    let places = places.into_iter();
    places.filter(|(_, region)| *region != EMPTY).collect()
}

/// A record as it was read.
struct Record {
    seq: u64,
    part: Vec<u32>,
    changes: Vec<(u16, u32)>,
}

impl Record {
    fn parse(uuid: u128, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != RECORD_BYTES {
            return None;
        }
        let (raw, rest) = Raw::ref_from_prefix(bytes).ok()?;
        let count = usize::from(raw.count.get());
        let sound = raw.magic.get() == MAGIC
            && raw.version.get() == VERSION
            && raw.uuid.get() == uuid
            && raw.crc.get() == checksum(bytes, CRC_AT)
            && count <= CHANGES_MAX;
        if !sound {
            return None;
        }
        let (part, list) = rest.split_at(PART * 4);
        let part = part.chunks_exact(4);
        let part = part.map(|field| u32::from_le_bytes(field.try_into().expect("four bytes")));
        let changes = list.chunks_exact(CHANGE_LEN).take(count).map(|field| {
            let change = Change::ref_from_bytes(field).ok()?;
            let place = change.place.get();
            (usize::from(place) < PLACES).then_some((place, change.region.get()))
        });
        Some(Self {
            seq: raw.seq.get(),
            part: part.collect(),
            changes: changes.collect::<Option<_>>()?,
        })
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    magic: U32,
    version: U16,
    count: U16,
    seq: U64,
    uuid: U128,
    reserved: [u8; 28],
    crc: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Change {
    place: U16,
    reserved: U16,
    region: U32,
}

const RAW_LEN: usize = 64;
const CRC_AT: usize = 60;
const _: () = assert!(size_of::<Raw>() == RAW_LEN);
const _: () = assert!(PLACES <= 1 << 16);

#[cfg(test)]
mod tests;
