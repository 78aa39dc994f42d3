//! Histories of the ledger, with failures and losses of power.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::book::{Book, Kept, Trouble, Write};
use super::record::{BLOCK_BYTES, HEADER_BYTES, PLACE_BYTES, PLACES, parse, record};
use super::{READ_BYTES, VolumeKey};
use crate::config::cluster::VOLUMES_MAX;

/// Who waits for which state of a volume, by the number of the change.
type Change = u64;

/// Blocks of a write that is not torn.
const WHOLE: usize = PLACE_BYTES / BLOCK_BYTES;

/// A system volume whose writes take effect when the history says so.
struct Disk {
    places: Vec<Vec<u8>>,
    under_way: Vec<Write>,
}

impl Disk {
    fn new() -> Self {
        Self {
            places: vec![vec![0; PLACE_BYTES]; PLACES],
            under_way: Vec::new(),
        }
    }

    fn take(&mut self, book: &mut Book<Change>) {
        while let Some(write) = book.next_write() {
            let same = |other: &Write| other.place == write.place;
            assert!(!self.under_way.iter().any(same), "one write for a place");
            self.under_way.push(write);
        }
    }

    /// The first `blocks` blocks of a write reach the medium.
    fn reach(&mut self, write: &Write, blocks: usize) {
        let len = write.record.len().min(blocks * BLOCK_BYTES);
        self.places[write.place][..len].copy_from_slice(&write.record[..len]);
    }

    fn read(&self, volumes: &BTreeSet<VolumeKey>) -> Book<Change> {
        let mut book = Book::of(volumes.clone());
        for from in (0..PLACES).step_by(READ_BYTES / PLACE_BYTES) {
            let places = &self.places[from..from + READ_BYTES / PLACE_BYTES];
            book.read(from, &places.concat());
        }
        book.check();
        book
    }
}

fn volume(number: u32) -> VolumeKey {
    let uuid = u128::from(number) << 100 | 0xabc;
    VolumeKey { number, uuid }
}

/// The bytes of change `number`: some fill one block, some more.
fn state(number: Change) -> Bytes {
    let len = 8 + usize::try_from(number % 5).unwrap() * 3000;
    let mut state = number.to_le_bytes().to_vec();
    state.resize(len, u8::try_from(number % 251).unwrap());
    state.into()
}

fn number(state: &Bytes) -> Change {
    let number = u64::from_le_bytes(state[..8].try_into().unwrap());
    assert_eq!(*state, self::state(number), "whole");
    number
}

#[derive(Clone, Debug)]
enum Event {
    Keep(u32),
    /// The write under way that is chosen ends well, or with an error after that many blocks.
    Stored(usize),
    Failed(usize, usize),
    Rested(u32),
    /// Power goes while so many blocks of each write have reached the medium.
    Crash(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        5 => (0..4_u32).prop_map(Event::Keep),
        5 => (0..8_usize).prop_map(Event::Stored),
        1 => (0..8_usize, 0..5_usize).prop_map(|(at, blocks)| Event::Failed(at, blocks)),
        2 => (0..4_u32).prop_map(Event::Rested),
        1 => (0..5_usize).prop_map(Event::Crash),
    ];
    prop::collection::vec(event, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_was_answered_survives_every_crash(events in events()) {
        let volumes: BTreeSet<_> = (0..4).map(volume).collect();
        let (mut disk, mut book) = (Disk::new(), Book::of(volumes.clone()));
        let mut made: Change = 0;
        // Of each volume: the changes nobody was answered, and the last that somebody was.
        let mut asked: BTreeMap<VolumeKey, Vec<Change>> = BTreeMap::new();
        let mut answered: BTreeMap<VolumeKey, Change> = BTreeMap::new();
        for event in events {
            match event {
                Event::Keep(at) => {
                    made += 1;
                    asked.entry(volume(at)).or_default().push(made);
                    book.keep(volume(at), state(made), made);
                }
                Event::Stored(at) if at < disk.under_way.len() => {
                    let write = disk.under_way.remove(at);
                    disk.reach(&write, WHOLE);
                    for change in book.stored(write.volume) {
                        let open = asked.get_mut(&write.volume).unwrap();
                        prop_assert_eq!(open.remove(0), change, "in order");
                        answered.insert(write.volume, change);
                    }
                }
                Event::Failed(at, blocks) if at < disk.under_way.len() => {
                    let write = disk.under_way.remove(at);
                    disk.reach(&write, blocks);
                    book.failed(write.volume);
                }
                Event::Stored(_) | Event::Failed(..) => {}
                Event::Rested(at) => book.rested(volume(at)),
                Event::Crash(blocks) => {
                    for write in std::mem::take(&mut disk.under_way) {
                        disk.reach(&write, blocks);
                    }
                    book = disk.read(&volumes);
                    for volume in &volumes {
                        let found = book.newest(*volume).map(|it| number(&it));
                        let open = asked.remove(volume).unwrap_or_default();
                        let least = answered.get(volume).copied();
                        prop_assert!(found == least || found.is_some_and(|it| {
                            Some(it) > least && open.contains(&it)
                        }), "{:?} after {:?}", found, least);
                        answered.extend(found.map(|it| (*volume, it)));
                    }
                }
            }
            disk.take(&mut book);
            book.check();
        }
    }
}

#[test]
fn what_comes_while_a_record_is_written_is_written_as_one() {
    let mut book = Book::of([volume(1)].into());
    (1..=4).for_each(|change| book.keep(volume(1), state(change), change));
    let first = book.next_write().unwrap();
    assert!(book.next_write().is_none());
    assert_eq!(parse(&first.record).map(|it| number(&it.2)), Some(4));
    assert_eq!(book.stored(volume(1)), [1, 2, 3, 4]);
    assert!(book.next_write().is_none());
}

#[test]
fn a_record_is_not_written_over_itself() {
    let mut book = Book::of([volume(1)].into());
    let mut last = None;
    for change in 1..1000 {
        book.keep(volume(1), state(change), change);
        let write = book.next_write().unwrap();
        assert_ne!(Some(write.place), last);
        last = Some(write.place);
        book.stored(volume(1));
    }
}

#[test]
fn every_volume_has_a_record_and_the_spare_places_go_round() {
    let volumes: BTreeSet<_> = (0..u32::try_from(VOLUMES_MAX).unwrap())
        .map(volume)
        .collect();
    let (mut disk, mut book) = (Disk::new(), Book::of(volumes.clone()));
    for change in 1..=2 {
        for volume in &volumes {
            book.keep(*volume, state(change), change);
        }
        disk.take(&mut book);
        assert_eq!(disk.under_way.len(), if change == 1 { 256 } else { 64 });
        while !disk.under_way.is_empty() {
            let write = disk.under_way.remove(0);
            disk.reach(&write, WHOLE);
            assert_eq!(book.stored(write.volume), [change]);
            disk.take(&mut book);
        }
    }
    let read = disk.read(&volumes);
    for volume in &volumes {
        assert_eq!(read.newest(*volume).map(|it| number(&it)), Some(2));
    }
}

#[test]
fn d10_the_record_of_a_deleted_volume_dies_with_it() {
    let both = [volume(1), volume(2)].into();
    let (mut disk, mut book) = (Disk::new(), Book::of(both));
    for number in [1, 2] {
        book.keep(volume(number), state(7), 7);
    }
    disk.take(&mut book);
    let [first, second] = std::mem::take(&mut disk.under_way).try_into().ok().unwrap();
    disk.reach(&first, WHOLE);
    assert_eq!(book.stored(volume(1)), [7]);
    // One is quiet, the other is being written.
    book.have(&BTreeSet::new());
    assert_eq!(book.newest(volume(1)), None);
    disk.reach(&second, WHOLE);
    assert_eq!(book.stored(volume(2)), [7]);
    assert_eq!(book.free.len(), PLACES);
    book.keep(volume(1), state(8), 8);
    assert!(book.next_write().is_none(), "it has nobody to keep it for");
    // Neither another number nor another identity brings it back.
    let VolumeKey { number, uuid } = volume(1);
    for (number, uuid) in [(number + 8, uuid), (number, uuid + 1)] {
        let other = VolumeKey { number, uuid };
        assert_eq!(disk.read(&[other].into()).newest(other), None);
    }
}

#[test]
fn a_failure_is_told_once_and_what_waited_is_written_with_what_came() {
    let mut book = Book::of([volume(1)].into());
    book.keep(volume(1), state(1), 1);
    assert!(book.next_write().is_some());
    assert_eq!(book.failed(volume(1)), Trouble::New);
    book.keep(volume(1), state(2), 2);
    assert!(book.next_write().is_none(), "it rests");
    book.rested(volume(1));
    let again = book.next_write().unwrap();
    assert_eq!(parse(&again.record).map(|it| number(&it.2)), Some(2));
    assert_eq!(book.failed(volume(1)), Trouble::Known);
    book.rested(volume(1));
    assert!(book.next_write().is_some());
    assert!(book.is_troubled(volume(1)));
    assert_eq!(book.stored(volume(1)), [1, 2]);
    assert!(!book.is_troubled(volume(1)));
    book.keep(volume(1), state(3), 3);
    assert!(book.next_write().is_some());
    assert_eq!(book.failed(volume(1)), Trouble::New, "it had gone well");
}

#[test]
fn damage_is_no_record() {
    let kept = Kept {
        place: 0,
        sequence: 9,
        state: state(3),
    };
    let good = record(volume(1), &kept);
    assert_eq!(parse(&good), Some((volume(1), 9, state(3))));
    for at in (0..HEADER_BYTES + state(3).len()).step_by(7) {
        let mut bad = good.to_vec();
        bad[at] ^= 0x10;
        assert_eq!(parse(&bad), None, "byte {at}");
    }
    assert_eq!(parse(&good[..BLOCK_BYTES]), None);
    assert_eq!(parse(&[0; PLACE_BYTES]), None);
}

#[test]
fn who_comes_and_goes_while_nothing_can_be_stored_leaves_nothing() {
    let mut book = Book::of([volume(1)].into());
    book.keep(volume(1), state(1), 1);
    assert!(book.next_write().is_some());
    assert_eq!(book.failed(volume(1)), Trouble::New);
    for change in 2..=1000 {
        book.dismiss(volume(1), |earlier| *earlier > 1);
        book.keep(volume(1), state(change), change);
    }
    book.rested(volume(1));
    assert!(book.next_write().is_some());
    assert_eq!(book.stored(volume(1)), [1, 1000]);
}
