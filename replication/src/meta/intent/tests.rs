//! Rings as they are after any life of a table.

use super::*;
use proptest::prelude::*;

const UUID: u128 = 5;

/// A table and the ring that it is written to.
struct Kept {
    table: Table,
    ring: Vec<u8>,
}

impl Kept {
    fn new() -> Self {
        Self {
            table: Table::formatted(UUID),
            ring: format(UUID),
        }
    }

    fn store(&mut self, write: &Write) {
        let at = usize::try_from(write.offset_bytes - OFFSET).unwrap();
        self.ring[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
    }

    fn write(&mut self) {
        let write = self.table.write();
        self.store(&write);
    }

    fn write_until_done(&mut self) -> u64 {
        let mut records = 0;
        while !self.table.is_written() {
            self.write();
            records += 1;
        }
        records
    }

    fn recovered(&self) -> BTreeSet<u32> {
        let (table, trust) = Table::recover(UUID, &self.ring);
        assert_eq!(trust, Trust::Whole);
        assert_eq!(table.next_seq, self.table.next_seq);
        table.regions().collect()
    }
}

#[test]
fn a_record_has_these_bytes() {
    let mut table = Table::formatted(UUID);
    table.add(0x0104);
    let bytes = table.write().bytes;
    assert_eq!(&bytes[..16], b"TWin\x02\x00\x01\x00\x40\0\0\0\0\0\0\0");
    assert_eq!(bytes[16], 5);
    assert_eq!(bytes[64..72], [4, 1, 0, 0, 255, 255, 255, 255]);
    assert_eq!(bytes[64 + 2048..][..8], [0, 0, 0, 0, 4, 1, 0, 0]);
}

#[test]
fn a_fresh_ring_is_cold() {
    let kept = Kept::new();
    assert_eq!(kept.ring.len(), RING_BYTES);
    assert_eq!(kept.recovered(), BTreeSet::new());
}

#[test]
fn what_was_written_is_found_however_often_the_ring_has_turned() {
    for turns in [0, 1, 63, 64, 65, 200] {
        let mut kept = Kept::new();
        for region in [7, 900_000, 3] {
            kept.table.add(region);
        }
        assert_eq!(kept.write_until_done(), 1);
        for _ in 0..turns {
            kept.write();
        }
        assert_eq!(kept.recovered(), BTreeSet::from([3, 7, 900_000]), "{turns}");
    }
}

#[test]
fn every_place_can_be_used_and_many_changes_take_several_records() {
    let mut kept = Kept::new();
    let all: BTreeSet<u32> = (0..u32::try_from(PLACES).unwrap()).map(|n| n * 3).collect();
    for region in &all {
        kept.table.add(*region);
    }
    assert_eq!(kept.write_until_done(), PLACES.div_ceil(CHANGES_MAX) as u64);
    assert_eq!(kept.recovered(), all);
    for region in all.iter().skip(1) {
        kept.table.remove(*region);
    }
    kept.write_until_done();
    assert_eq!(kept.recovered(), BTreeSet::from([0]));
}

#[test]
fn a_region_is_stored_by_the_write_that_has_its_place_as_it_is_now() {
    let mut table = Table::formatted(UUID);
    table.add(8);
    let write = table.write();
    assert_eq!(write.stored, [(0, 8)]);
    assert!(table.is_stored(0, 8));
    table.remove(8);
    assert!(!table.is_stored(0, 8));
    table.add(8); // the same place, and the ring may be told before that it was empty
    assert!(!table.is_stored(0, 8));
    assert_eq!(table.write().stored, [(0, 8)]);
    assert!(table.is_stored(0, 8));
}

#[test]
fn h35_a_torn_record_makes_every_region_hot() {
    let mut kept = Kept::new();
    kept.table.add(1);
    kept.write();
    kept.table.add(2);
    for sectors in 1..=4 {
        let mut torn = Kept {
            table: Table::recover(UUID, &kept.ring).0,
            ring: kept.ring.clone(),
        };
        torn.table.add(2);
        let mut write = torn.table.write();
        let at = usize::try_from(write.offset_bytes - OFFSET).unwrap();
        write.bytes[sectors * 512..].copy_from_slice(&kept.ring[at..][sectors * 512..4096]);
        torn.store(&write);
        let (table, trust) = Table::recover(UUID, &torn.ring);
        assert_eq!(trust, Trust::Broken, "{sectors} sectors");
        assert_eq!(table.regions().count(), 0);
    }
}

#[test]
fn a_record_of_another_volume_or_a_missing_one_makes_every_region_hot() {
    let mut kept = Kept::new();
    kept.table.add(1);
    kept.write();
    let broken = |uuid, ring: &[u8]| Table::recover(uuid, ring).1 == Trust::Broken;
    assert!(broken(UUID + 1, &kept.ring) && broken(UUID, &[]));
    assert!(broken(UUID, &kept.ring[..RING_BYTES - 1]));
    let lost = kept.table.write();
    kept.write();
    assert!(broken(UUID, &kept.ring), "record {}", lost.offset_bytes);
}

#[test]
fn a_ring_that_is_written_anew_is_whole_again() {
    let mut kept = Kept::new();
    kept.ring[5000] ^= 1;
    let (table, trust) = Table::recover(UUID, &kept.ring);
    assert_eq!(trust, Trust::Broken);
    kept.table = table;
    kept.table.add(4);
    let write = kept.table.write_all();
    assert_eq!(write.stored, [(0, 4)]);
    kept.store(&write);
    assert_eq!(kept.recovered(), BTreeSet::from([4]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn arbitrary_rings_are_hot(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        prop_assert_eq!(Table::recover(UUID, &bytes).1, Trust::Broken);
    }

    /// After each record everything that is hot and was stored is found, and what is found is hot
    /// or was when the record before was written.
    #[test]
    fn a_ring_is_never_behind_what_was_stored(
        steps in prop::collection::vec((0_u32..700, 1_usize..400), 1..150),
    ) {
        let mut kept = Kept::new();
        let (mut hot, mut stored) = (BTreeSet::new(), BTreeSet::new());
        for (first, count) in steps {
            for region in (first..).take(count) {
                if hot.remove(&region) {
                    kept.table.remove(region);
                } else {
                    hot.insert(region);
                    kept.table.add(region);
                }
            }
            let write = kept.table.write();
            kept.store(&write);
            stored.extend(write.stored.iter().copied());
            stored.retain(|(place, region)| kept.table.is_stored(*place, *region));
            let found = kept.recovered();
            for (_, region) in &stored {
                prop_assert!(found.contains(region), "region {} was stored", region);
            }
        }
        kept.write_until_done();
        prop_assert_eq!(kept.recovered(), hot);
    }
}
