//! Routines by their codecs, crash after crash: what was recovered is the state that the next
//! write begins with.

use std::collections::BTreeSet;

use appliance::state::Slots;
use replication::meta::dirty::{DirtyMap, MapWrite, PAGE_BITS, PAGE_BYTES, Part, slots_at};
use replication::meta::intent::{self, Table, Trust};
use replication::meta::{UNIT_BYTES, index};
use replication::wire::mask::Run;
use tests::rng::Rng;

use crate::explorer::{Write, explore};

const UUID: u128 = 7;

fn to_len(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap()
}

fn put(image: &mut [u8], write: &Write) {
    image[write.offset..write.offset + write.bytes.len()].copy_from_slice(&write.bytes);
}

/// What a ring says is hot; `None` if that is everything.
fn hot_in(ring: &[u8]) -> Option<BTreeSet<u32>> {
    let (table, trust) = Table::recover(UUID, ring);
    match trust {
        Trust::Whole => Some(table.regions().collect()),
        Trust::Broken => None,
    }
}

fn change_regions(table: &mut Table, rng: &mut Rng) {
    for _ in 0..rng.below(400) {
        let region = u32::try_from(rng.below(5000)).unwrap();
        if table.regions().any(|hot| hot == region) {
            table.remove(region);
        } else {
            table.add(region);
        }
    }
}

#[test]
fn an_intent_record_is_old_new_or_everything() {
    let rng = &mut Rng::new(2);
    let mut ring = intent::format(UUID);
    let mut table = Table::formatted(UUID);
    // what is hot by a record that came to its end
    let mut stored = BTreeSet::new();
    let mut count = 0;
    for _ in 0..60 {
        let old = hot_in(&ring);
        change_regions(&mut table, rng);
        let repair = old.is_none();
        let record = if repair {
            table.write_all()
        } else {
            table.write()
        };
        let offset = to_len(record.offset_bytes - intent::OFFSET);
        let bytes = record.bytes;
        let write = Write { offset, bytes };
        let mut whole = ring.clone();
        put(&mut whole, &write);
        let new = hot_in(&whole).expect("a whole record was added to a whole ring");
        let now: BTreeSet<u32> = table.regions().collect();
        stored.extend(record.stored);
        stored.retain(|(place, region)| table.is_stored(*place, *region));
        for (_, region) in &stored {
            assert!(new.contains(region), "region {region} was stored");
        }
        if table.is_written() {
            assert_eq!(new, now);
        } else {
            let before = old.as_ref().expect("a repair writes everything");
            assert!(new.is_subset(&(before | &now)));
        }
        let new = Some(new);
        let mut states = Vec::new();
        count += explore(&mut ring, std::slice::from_ref(&write), rng, |state| {
            let found = hot_in(state);
            // before a damaged ring is written anew the dirty map has everything: any will do
            let known = repair || found == old || found == new || found.is_none();
            assert!(known, "{old:?} or {new:?}, not {found:?}");
            if states.len() < 64 {
                states.push(state.to_vec());
            }
        });
        // one time in four the crash happens, else the write comes to its end
        if rng.chance(250) {
            ring.clone_from(rng.pick(&states));
            table = Table::recover(UUID, &ring).0;
            stored.clear();
        } else {
            ring = whole;
        }
    }
    println!("{count} crash states of the intent ring");
    assert!(count > 10_000, "{count}");
}

fn change_blocks(map: &mut DirtyMap, rng: &mut Rng) {
    for _ in 0..rng.between(1, 30) {
        let block = u32::try_from(rng.below(u64::from(BLOCKS) - 40)).unwrap();
        let run = Run {
            start: block,
            count: u32::try_from(rng.between(1, 40)).unwrap(),
        };
        match rng.below(3) {
            0 => map.clear(block),
            1 => map.set(block),
            _ => map.set_run(run),
        }
    }
    if rng.chance(100) {
        map.clear_all();
    }
}

/// Three pages.
const BLOCKS: u32 = 65_412;
const _: () = assert!(BLOCKS as u64 == PAGE_BITS * 2 + 900);

#[test]
fn a_page_of_the_dirty_map_is_old_new_or_all_dirty() {
    let rng = &mut Rng::new(3);
    let mut image = vec![0; to_len(slots_at(3))];
    let at = to_len(index::OFFSET);
    image[at..at + 2 * index::LEN_BYTES].copy_from_slice(&DirtyMap::format(UUID));
    let mut map = DirtyMap::clean(UUID, BLOCKS);
    // what lies in the slots of each page: it is found if the index is damaged
    let mut lies: [BTreeSet<Vec<(u32, u32)>>; 3] = Default::default();
    // what a crash tore, and what was there before: either is whole again if the next write, of
    // both slots, brings just the sectors that it lacks. Until that write is done no later change
    // counts as durable, so its intents are hot and neither hides anything.
    let mut torn = lies.clone();
    let mut count = 0;
    for _ in 0..40 {
        let old = pages_of(&load(&image));
        change_blocks(&mut map, rng);
        let new = pages_of(&map);
        let taken = map.take_writes();
        let mut writes = Vec::new();
        for write in &taken {
            if let Some(page) = page_of(write) {
                lies[page].insert(new[page].clone());
            }
            let offset = to_len(write.offset_bytes);
            let bytes = write.bytes.clone();
            writes.push(Write { offset, bytes });
        }
        let mut states = Vec::new();
        count += explore(&mut image, &writes, rng, |state| {
            for (page, found) in pages_of(&load(state)).iter().enumerate() {
                let (old, new) = (&old[page], &new[page]);
                let all = found
                    .iter()
                    .map(|(_, count)| u64::from(*count))
                    .sum::<u64>();
                let all = all == bits_of(page, BLOCKS);
                // a page that comes into use was clean
                let earlier = old.is_empty() && lies[page].contains(found);
                let earlier = earlier || torn[page].contains(found);
                let known = found == old || found == new || all || earlier;
                assert!(known, "page {page} is torn");
            }
            if states.len() < 64 {
                states.push(state.to_vec());
            }
        });
        if rng.chance(250) {
            image.clone_from(rng.pick(&states));
            map = load(&image);
            for page in taken.iter().filter_map(page_of) {
                torn[page].extend([old[page].clone(), new[page].clone()]);
            }
            continue;
        }
        for (taken, write) in taken.iter().zip(&writes) {
            put(&mut image, write);
            map.written(taken.part);
            if let Some(page) = page_of(taken) {
                torn[page].clear();
            }
        }
    }
    println!("{count} crash states of the dirty map");
    assert!(count > 40_000, "{count}");
}

fn load(image: &[u8]) -> DirtyMap {
    DirtyMap::load(UUID, BLOCKS, image)
}

fn page_of(write: &MapWrite) -> Option<usize> {
    match write.part {
        Part::Page(page) => Some(page as usize),
        Part::Index => None,
    }
}

fn bits_of(page: usize, blocks: u32) -> u64 {
    PAGE_BITS.min(u64::from(blocks) - page as u64 * PAGE_BITS)
}

/// The dirty runs of each page: first block and number of blocks.
fn pages_of(map: &DirtyMap) -> Vec<Vec<(u32, u32)>> {
    let pages = to_len(u64::from(map.blocks()).div_ceil(PAGE_BITS));
    let bits = u32::try_from(PAGE_BITS).unwrap();
    let mut found = vec![Vec::new(); pages];
    for run in map.runs(0, usize::MAX) {
        let (mut start, end) = (run.start, run.start + run.count);
        while start < end {
            let page = start / bits;
            let count = end.min((page + 1) * bits) - start;
            found[page as usize].push((start, count));
            start += count;
        }
    }
    found
}

#[test]
fn a_value_of_the_system_volume_is_old_or_new() {
    let rng = &mut Rng::new(4);
    let slot = to_len(appliance::state::SLOT_BYTES);
    let room = 64 << 10; // of each slot, what the values of this test need
    let mut image = vec![0; 2 * room];
    let mut slots = Slots::default();
    let mut old: Option<Vec<u8>> = None;
    let mut count = 0;
    for _ in 0..40 {
        let len = rng.below(20_000);
        let new: Vec<u8> = (0..len).map(|_| rng.bits().to_le_bytes()[0]).collect();
        let (offset_bytes, bytes, next) = slots.put(&new);
        let at = to_len(offset_bytes);
        let write = Write {
            offset: at / slot * room + at % slot,
            bytes: bytes.to_vec(),
        };
        let mut states = Vec::new();
        count += explore(&mut image, std::slice::from_ref(&write), rng, |state| {
            let (_, found) = Slots::newest([&state[..room], &state[room..]]);
            assert!(found == old || found.as_ref() == Some(&new), "a torn value");
            if states.len() < 64 {
                states.push(state.to_vec());
            }
        });
        if rng.chance(250) {
            image.clone_from(rng.pick(&states));
        } else {
            put(&mut image, &write);
            assert_eq!(Slots::newest([&image[..room], &image[room..]]).0, next);
        }
        (slots, old) = Slots::newest([&image[..room], &image[room..]]);
    }
    println!("{count} crash states of the system volume's value");
    assert!(count > 40_000, "{count}");
    assert_eq!(PAGE_BYTES as u64, UNIT_BYTES);
}
