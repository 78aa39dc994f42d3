//! The dirty map, in memory and on disk.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const UUID: u128 = 8;
const BLOCKS: u32 = 200_000; // seven pages
const BACKING: usize = 1 << 20;

fn formatted() -> Vec<u8> {
    let mut disk = vec![0; BACKING];
    let at = usize::try_from(index::OFFSET).unwrap();
    disk[at..at + 2 * index::LEN_BYTES].copy_from_slice(&DirtyMap::format(UUID));
    disk
}

/// Writes until nothing waits.
fn flush(map: &mut DirtyMap, disk: &mut [u8]) {
    loop {
        let writes = map.take_writes();
        if writes.is_empty() {
            break;
        }
        for write in writes {
            let at = usize::try_from(write.offset_bytes).unwrap();
            disk[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
            map.written(write.part);
        }
    }
    assert!(map.is_durable(map.version()));
}

fn load(disk: &[u8]) -> DirtyMap {
    let map = DirtyMap::load(UUID, BLOCKS, disk);
    map.check_full();
    map
}

fn all(map: &DirtyMap) -> Vec<u32> {
    let runs = map.runs(0, usize::MAX);
    runs.into_iter()
        .flat_map(|run| run.start..run.start + run.count)
        .collect()
}

fn slot(page: u32, which: usize) -> usize {
    usize::try_from(slots_at(page)).unwrap() + which * PAGE_BYTES
}

#[test]
fn d4_an_owed_block_that_is_dirty_for_another_reason_is_not_paid() {
    let mut map = DirtyMap::clean(UUID, BLOCKS);
    map.set(1);
    for block in 1..6 {
        map.owe(block, u64::from(block) * 10);
    }
    map.set(2);
    map.set_run(Run { start: 3, count: 1 });
    assert_eq!((map.count(), map.to_copy()), (5, 3));
    map.owe(4, 45);
    map.pay(44);
    assert_eq!(all(&map), [1, 2, 3, 4, 5]);
    map.pay(50);
    assert_eq!((all(&map), map.to_copy()), (vec![1, 2, 3], 3));
    map.owe(9, 60);
    map.disown();
    map.pay(100);
    assert_eq!(all(&map), [1, 2, 3, 9]);
    map.check_full();
}

#[test]
fn a_formatted_map_is_clean_and_no_page_of_it_is_written_or_read() {
    let mut disk = formatted();
    let pages = usize::try_from(HEAD_BYTES).unwrap();
    assert!(disk[pages..].iter().all(|byte| *byte == 0));
    disk[pages..].fill(0xee);
    let map = load(&disk);
    assert_eq!((map.count(), map.version()), (0, 0));
    assert_eq!(map.pages_in_use(), (0, 0));
    assert!(map.is_durable(map.version()));
}

#[test]
fn a_version_is_durable_when_all_its_pages_are_and_the_index_lists_them() {
    let mut map = DirtyMap::clean(UUID, BLOCKS);
    map.set(1);
    map.set(70_000);
    let version = map.version();
    assert!(!map.is_durable(version));
    let writes = map.take_writes();
    let parts = |writes: &[MapWrite]| writes.iter().map(|write| write.part).collect::<Vec<_>>();
    assert_eq!(parts(&writes), [Part::Page(0), Part::Page(2)]);
    assert_eq!(writes[0].bytes.len(), 2 * PAGE_BYTES, "both slots at first");
    map.set(2); // after the page was taken: not covered by that write
    map.written(Part::Page(0));
    map.written(Part::Page(2));
    assert!(!map.is_durable(version), "the index does not list them");
    let writes = map.take_writes();
    assert_eq!(parts(&writes), [Part::Index, Part::Page(0)]);
    assert_eq!(writes[1].bytes.len(), PAGE_BYTES);
    map.written(Part::Index);
    assert!(map.is_durable(version));
    assert!(!map.is_durable(map.version()));
    map.written(Part::Page(0));
    assert!(map.is_durable(map.version()));
}

#[test]
fn h35_a_slot_that_fails_its_check_makes_its_page_dirty() {
    for which in 0..2 {
        for page in [0, 3, 6] {
            let mut disk = formatted();
            let mut map = load(&disk);
            map.set_all();
            flush(&mut map, &mut disk);
            (1..BLOCKS).for_each(|block| map.clear(block));
            flush(&mut map, &mut disk);
            disk[slot(page, which) + 4000] ^= 1;
            let run = map.run_of(page);
            let mut expected = vec![0];
            expected.extend((run.start..run.start + run.count).filter(|block| *block > 0));
            assert_eq!(all(&load(&disk)), expected);
        }
    }
}

#[test]
fn h35_a_damaged_index_hides_no_dirty_page() {
    for which in 0..2 {
        let mut disk = formatted();
        let mut map = load(&disk);
        for block in [5, 40_000] {
            map.set(block);
            flush(&mut map, &mut disk); // the newer slot of the index lists one page more
        }
        let at = usize::try_from(index::OFFSET).unwrap();
        disk[at + which * index::LEN_BYTES + 99] ^= 1;
        let mut map = load(&disk);
        assert_eq!(all(&map), [5, 40_000]);
        flush(&mut map, &mut disk);
        assert_eq!(map.pages_in_use().0, 2, "whole again");
        assert_eq!(all(&load(&disk)), [5, 40_000]);
        disk[at + 99] ^= 1;
        disk[at + index::LEN_BYTES + 99] ^= 1;
        let mut map = load(&disk);
        assert_eq!(
            map.count(),
            u64::from(BLOCKS),
            "without an index all is dirty"
        );
        map.clear_all();
        flush(&mut map, &mut disk);
        assert_eq!(load(&disk).count(), 0);
    }
}

#[test]
fn a_damaged_page_is_whole_again_after_a_write_of_both_slots() {
    let mut disk = formatted();
    let mut map = load(&disk);
    map.set(1);
    flush(&mut map, &mut disk);
    disk[slot(0, 1)] ^= 1;
    let mut map = load(&disk);
    assert_eq!(map.count(), PAGE_BITS);
    map.clear_all();
    // the first of both is lost, and then the second
    for lost in [0, 1] {
        let mut torn = disk.clone();
        let mut map = load(&torn);
        map.clear_all();
        let write = map.take_writes().pop().unwrap();
        let half = lost * PAGE_BYTES..(lost + 1) * PAGE_BYTES;
        torn[slot(0, lost)..][..PAGE_BYTES].copy_from_slice(&write.bytes[half]);
        let count = load(&torn).count();
        assert!(count == 0 || count == PAGE_BITS, "nothing in between");
    }
    flush(&mut map, &mut disk);
    assert_eq!(load(&disk).count(), 0);
}

#[test]
fn a_clean_map_has_no_pages_in_use_and_gets_them_again() {
    let mut disk = formatted();
    let mut map = load(&disk);
    map.set_all();
    flush(&mut map, &mut disk);
    assert_eq!(map.pages_in_use(), (7, 0));
    map.clear_all();
    flush(&mut map, &mut disk);
    assert_eq!(
        (map.pages_in_use(), load(&disk).pages_in_use()),
        ((0, 0), (0, 0))
    );
    map.set(150_000);
    flush(&mut map, &mut disk);
    assert_eq!(all(&load(&disk)), [150_000]);
    assert_eq!(load(&disk).pages_in_use(), (1, 1));
}

#[test]
fn a_page_of_another_place_is_not_taken() {
    let mut disk = formatted();
    let mut map = load(&disk);
    map.set(1);
    map.set(PAGE_BLOCKS);
    flush(&mut map, &mut disk);
    let copy = disk[slot(1, 0)..slot(2, 0)].to_vec();
    disk[slot(0, 0)..slot(1, 0)].copy_from_slice(&copy);
    assert_eq!(load(&disk).count(), PAGE_BITS + 1);
    assert_eq!(
        DirtyMap::load(UUID + 1, BLOCKS, &disk).count(),
        u64::from(BLOCKS)
    );
    assert_eq!(DirtyMap::load(UUID, BLOCKS, &[]).count(), u64::from(BLOCKS));
}

#[test]
fn a_map_of_another_size_keeps_what_is_inside() {
    let mut disk = formatted();
    let mut map = load(&disk);
    map.set_all();
    map.resize(BLOCKS - 50_000);
    map.check_full();
    assert_eq!(map.count(), u64::from(BLOCKS) - 50_000);
    flush(&mut map, &mut disk);
    map.resize(BLOCKS);
    map.check_full();
    assert_eq!(map.next_clean(0), BLOCKS - 50_000);
    map.set(BLOCKS - 1);
    flush(&mut map, &mut disk);
    assert_eq!(load(&disk).count(), u64::from(BLOCKS) - 49_999);
}

#[test]
fn a_map_of_100_tib_costs_little_until_it_is_dirty() {
    let blocks = u32::try_from((100_u64 << 40) / crate::meta::DIRTY_BLOCK_BYTES).unwrap();
    let mut map = DirtyMap::clean(UUID, blocks);
    map.set_all();
    assert_eq!(map.runs(0, 9).len(), 1);
    assert_eq!(map.pages_in_use(), (0, 0));
    map.clear(blocks / 2);
    assert_eq!(map.runs(0, 9).len(), 2);
    assert_eq!(map.pages_in_use(), (0, 1));
    assert!(map.take_writes().len() <= WRITES_MAX);
}

proptest! {
    #[test]
    fn it_is_the_set_that_it_says(
        steps in prop::collection::vec((0..BLOCKS, 0..5u8, any::<bool>()), 0..40)
    ) {
        let mut map = DirtyMap::clean(UUID, BLOCKS);
        let mut disk = formatted();
        let mut model = BTreeSet::<u32>::new();
        for (block, step, write) in steps {
            let long = Run { start: block / 2, count: block / 2 };
            let run = Run { start: block / 2, count: block % 700 + 1 };
            match step {
                0 => map.clear(block),
                1 => map.set(block),
                2 => map.set_run(run),
                3 => map.set_run(long),
                _ => map.clear_all(),
            }
            match step {
                0 => drop(model.remove(&block)),
                1 => drop(model.insert(block)),
                2 => model.extend(run.start..run.start + run.count),
                3 => model.extend(long.start..long.start + long.count),
                _ => model.clear(),
            }
            map.check_full();
            if write {
                flush(&mut map, &mut disk);
                prop_assert_eq!(all(&load(&disk)), model.iter().copied().collect::<Vec<_>>());
            }
        }
        map.check_full();
        prop_assert_eq!(all(&map), model.into_iter().collect::<Vec<_>>());
    }
}
