//! What a backing says, structure by structure: for people, of any image, also a damaged one. Only
//! looks.

use crate::meta::dirty::{self, DirtyMap, PAGE_BYTES};
use crate::meta::group::{self, GroupState, Life};
use crate::meta::index::{self, Listed};
use crate::meta::intent::{self, Trust};
use crate::meta::superblock::{self, Found, Parsed, Superblock};
use crate::meta::{self, DIRTY_BLOCK_BYTES, REGION_BYTES};
use crate::types::VolumeNumber;
use std::fmt;

/// Pages of the dirty map that are named one by one; of the others only the number is said.
const PAGES_NAMED_MAX: usize = 32;

/// One structure of a backing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where it is.
    pub offset_bytes: u64,
    /// How long it is.
    pub len_bytes: u64,
    /// What it is called.
    pub name: String,
    /// Whether it can be trusted.
    pub health: Health,
    /// What it says, or what follows from its damage.
    pub meaning: String,
}

/// Whether a structure can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Its checksum is right.
    Sound,
    /// Never written.
    Blank,
    /// Its checksum is wrong, or it cannot be read.
    Damaged,
    /// Sound, and of a newer version.
    Newer,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sound => "sound",
            Self::Blank => "blank",
            Self::Damaged => "DAMAGED",
            Self::Newer => "newer",
        })
    }
}

/// What was found, and what it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Every structure, in the order in which they are read.
    pub findings: Vec<Finding>,
    /// What attaching it would do, in one sentence.
    pub verdict: String,
}

/// Looks at a backing of `size_bytes`; `read` gives bytes at an offset, or nothing if it cannot.
#[must_use]
pub fn inspect(size_bytes: u64, read: impl FnMut(u64, usize) -> Option<Vec<u8>>) -> Report {
    let mut look = Look {
        read,
        findings: Vec::new(),
    };
    let verdict = look.volume(size_bytes);
    Report {
        findings: look.findings,
        verdict,
    }
}

struct Look<R> {
    read: R,
    findings: Vec<Finding>,
}

impl<R: FnMut(u64, usize) -> Option<Vec<u8>>> Look<R> {
    /// The bytes there, as many as asked for, or none.
    fn bytes(&mut self, offset_bytes: u64, len_bytes: usize) -> Vec<u8> {
        let read = (self.read)(offset_bytes, len_bytes);
        read.filter(|bytes| bytes.len() == len_bytes)
            .unwrap_or_default()
    }

    fn add(&mut self, place: (u64, usize), name: String, health: Health, meaning: String) {
        self.findings.push(Finding {
            offset_bytes: place.0,
            len_bytes: place.1 as u64,
            name,
            health,
            meaning,
        });
    }

    fn volume(&mut self, size_bytes: u64) -> String {
        let stamp = match self.superblocks(size_bytes) {
            Found::Valid(stamp) => stamp,
            Found::Newer(newer) => return format!("it is not attached: {newer}"),
            Found::Blank => return "it is not attached: it was never formatted".into(),
            Found::Damaged => {
                return "it is not attached: no copy of its superblock is sound".into();
            }
        };
        let Some(layout) = meta::layout_at(stamp.spec.size_bytes, stamp.data_offset) else {
            return "it is not attached: its superblock names an impossible layout".into();
        };
        if layout.backing_bytes > size_bytes {
            let short = layout.backing_bytes - size_bytes;
            return format!("it is not attached: it is {short} bytes shorter than it was");
        }
        let group = (stamp.spec.number == VolumeNumber::SYSTEM).then(|| self.group_state());
        let hot = self.intents(stamp.spec.uuid);
        let dirty = self.dirty_map(stamp.spec.uuid, layout.blocks);
        if group == Some(Health::Damaged) {
            return "it is not attached: both copies of the group state are damaged".into();
        }
        let regions = stamp.spec.size_bytes.div_ceil(REGION_BYTES);
        let hot = match hot {
            None => regions,
            Some(count) => count,
        };
        format!(
            "it can be attached: {} bytes are dirty and {hot} of {regions} regions are hot",
            (dirty * DIRTY_BLOCK_BYTES).min(stamp.spec.size_bytes)
        )
    }

    fn superblocks(&mut self, size_bytes: u64) -> Found {
        let mut copies = Vec::new();
        let places = superblock::offsets(size_bytes);
        for (offset_bytes, name) in places.into_iter().zip(["A", "B", "C", "D"]) {
            let bytes = self.bytes(offset_bytes, superblock::LEN_BYTES);
            let (health, meaning) = match Superblock::parse(&bytes) {
                Parsed::Blank => (Health::Blank, "nothing was written here".to_owned()),
                Parsed::Damaged => (
                    Health::Damaged,
                    "another copy stands for it, if one is sound".to_owned(),
                ),
                Parsed::Newer(newer) => (Health::Newer, newer.to_string()),
                Parsed::Sound(stamp) => (Health::Sound, stamp_in_words(&stamp)),
            };
            let place = (offset_bytes, superblock::LEN_BYTES);
            self.add(place, format!("superblock {name}"), health, meaning);
            copies.push(bytes);
        }
        let (head, tail) = copies.split_at(superblock::HEAD_OFFSETS.len());
        match superblock::find_in(&head.concat()) {
            found @ (Found::Valid(_) | Found::Newer(_)) => found,
            Found::Blank | Found::Damaged => match superblock::find_in(&tail.concat()) {
                found @ (Found::Valid(_) | Found::Newer(_)) => found,
                Found::Blank | Found::Damaged if copies.iter().all(|copy| is_blank(copy)) => {
                    Found::Blank
                }
                Found::Blank | Found::Damaged => Found::Damaged,
            },
        }
    }

    fn group_state(&mut self) -> Health {
        let mut best = Health::Damaged;
        for (offset_bytes, name) in group::OFFSETS.into_iter().zip(["A", "B"]) {
            let bytes = self.bytes(offset_bytes, group::LEN_BYTES);
            let (health, meaning) = match GroupState::parse(&bytes) {
                Some(state) => (Health::Sound, state_in_words(&state)),
                None if is_blank(&bytes) => (Health::Blank, "not written yet".to_owned()),
                None => (
                    Health::Damaged,
                    "the other copy stands for it, if that is sound".to_owned(),
                ),
            };
            if health == Health::Sound {
                best = health;
            }
            let place = (offset_bytes, group::LEN_BYTES);
            self.add(place, format!("group state {name}"), health, meaning);
        }
        best
    }

    /// How many regions are hot; none: every one.
    fn intents(&mut self, uuid: u128) -> Option<u64> {
        let ring = self.bytes(intent::OFFSET, intent::RING_BYTES);
        let (table, trust) = intent::Table::recover(uuid, &ring);
        let (health, meaning) = match trust {
            Trust::Broken => (
                Health::Damaged,
                "a record cannot be trusted: every region counts as hot".to_owned(),
            ),
            Trust::Whole => (
                Health::Sound,
                format!("{} hot regions", table.regions().count()),
            ),
        };
        let place = (intent::OFFSET, intent::RING_BYTES);
        self.add(place, "intent ring".into(), health, meaning);
        (trust == Trust::Whole).then(|| table.regions().count() as u64)
    }

    /// The index and the pages in use; the dirty blocks as an attach would count them.
    fn dirty_map(&mut self, uuid: u128, blocks: u32) -> u64 {
        let slots = self.bytes(index::OFFSET, 2 * index::LEN_BYTES);
        for (which, name) in ["A", "B"].into_iter().enumerate() {
            let slot = slots.get(which * index::LEN_BYTES..(which + 1) * index::LEN_BYTES);
            let parsed = slot.and_then(|slot| index::parse(uuid, slot));
            let (health, meaning) = match parsed {
                Some((seq, pages)) => (
                    Health::Sound,
                    format!("sequence {seq}, {} pages in use", pages.len()),
                ),
                None => (
                    Health::Damaged,
                    "it may have been the newer one: every page is looked at".to_owned(),
                ),
            };
            let offset_bytes = index::OFFSET + (which * index::LEN_BYTES) as u64;
            let place = (offset_bytes, index::LEN_BYTES);
            self.add(
                place,
                format!("index of the dirty map {name}"),
                health,
                meaning,
            );
        }
        let found = index::recover(uuid, &slots);
        if found.listed == Listed::Unknown {
            return u64::from(blocks);
        }
        let (mut map, runs) = DirtyMap::begin(uuid, blocks, &found);
        let mut named = 0;
        for page in runs.iter().flat_map(|run| run.start..run.start + run.count) {
            let offset_bytes = dirty::slots_at(page);
            let slots = self.bytes(offset_bytes, 2 * PAGE_BYTES);
            let before = map.count();
            map.load_page(page, &slots);
            let dirty = map.count() - before;
            named += 1;
            if named > PAGES_NAMED_MAX || (dirty == 0 && is_blank(&slots)) {
                continue;
            }
            let sound = dirty::is_sound(uuid, page, &slots);
            let (health, meaning) = if sound {
                (Health::Sound, format!("{dirty} dirty blocks"))
            } else {
                let meaning = "one of its slots cannot be trusted: all of it counts as dirty";
                (Health::Damaged, meaning.to_owned())
            };
            let name = format!("page {page} of the dirty map");
            self.add((offset_bytes, 2 * PAGE_BYTES), name, health, meaning);
        }
        if named > PAGES_NAMED_MAX {
            let more = named - PAGES_NAMED_MAX;
            let meaning = format!("{more} more pages, {} dirty blocks in all", map.count());
            let name = "dirty map".to_owned();
            self.add((meta::HEAD_BYTES, 0), name, Health::Sound, meaning);
        }
        map.count()
    }
}

fn is_blank(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| *byte == 0)
}

fn stamp_in_words(stamp: &Superblock) -> String {
    format!(
        "volume {} ({:032x}) of group {:032x}, {} bytes from byte {} on, of node {}, disk {:032x}, \
         format {}, sequence {}",
        stamp.spec.number,
        stamp.spec.uuid,
        stamp.group.0,
        stamp.spec.size_bytes,
        stamp.data_offset,
        stamp.node.0,
        stamp.disk.0,
        superblock::VERSION,
        stamp.sequence
    )
}

fn state_in_words(state: &GroupState) -> String {
    let count = |life: Life| {
        let entries = state.volumes.values();
        entries.filter(|entry| entry.life == life).count()
    };
    format!(
        "generation {}, data of epoch {}, sealed up to {}, disk {:032x}, boot {:032x}, {} volumes, \
         {} being made, {} deleted, highest number {}",
        state.meta_generation,
        state.data_epoch,
        state.sealed,
        state.disk.0,
        state.boot.0,
        count(Life::Ready),
        count(Life::Creating),
        count(Life::Tombstone),
        state.highest
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{DiskInstance, GroupId, NodeId, VolumeSpec};
    use proptest::prelude::*;
    use proptest::sample::Index;

    const SIZE: u64 = 4 << 20;
    const UUID: u128 = 4;

    fn put(image: &mut [u8], at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).unwrap();
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// A volume with block 5 dirty and region 1 hot.
    fn image() -> Vec<u8> {
        let layout = meta::layout(SIZE);
        let mut image = vec![0; usize::try_from(layout.backing_bytes).unwrap()];
        let stamp = Superblock {
            group: GroupId(1),
            spec: VolumeSpec {
                number: VolumeNumber(3),
                uuid: UUID,
                size_bytes: SIZE,
            },
            disk: DiskInstance(6),
            node: NodeId(2),
            data_offset: layout.data_offset,
            sequence: 1,
        };
        for at in superblock::offsets(layout.backing_bytes) {
            put(&mut image, at, &stamp.encode());
        }
        let mut table = intent::Table::formatted(UUID);
        table.add(1);
        put(&mut image, intent::OFFSET, &table.write_all().bytes);
        put(&mut image, index::OFFSET, &DirtyMap::format(UUID));
        let mut map = DirtyMap::load(UUID, layout.blocks, &image);
        map.set(5);
        while !map.is_durable(map.version()) {
            for write in map.take_writes() {
                put(&mut image, write.offset_bytes, &write.bytes);
                map.written(write.part);
            }
        }
        image
    }

    fn look(image: &[u8]) -> Report {
        inspect(image.len() as u64, |offset_bytes, len_bytes| {
            let at = usize::try_from(offset_bytes).ok()?;
            Some(image.get(at..at.checked_add(len_bytes)?)?.to_vec())
        })
    }

    #[test]
    fn every_structure_is_named_with_its_place_and_meaning() {
        let report = look(&image());
        let names: Vec<&str> = report.findings.iter().map(|it| it.name.as_str()).collect();
        let expected = [
            "superblock A",
            "superblock B",
            "superblock C",
            "superblock D",
            "intent ring",
            "index of the dirty map A",
            "index of the dirty map B",
            "page 0 of the dirty map",
        ];
        assert_eq!(names, expected);
        assert!(report.findings.iter().all(|it| it.health == Health::Sound));
        assert_eq!(report.findings[7].meaning, "1 dirty blocks");
        let verdict = "it can be attached: 65536 bytes are dirty and 1 of 4 regions are hot";
        assert_eq!(report.verdict, verdict);
    }

    #[test]
    fn damage_is_named_where_it_is_and_counts_as_an_attach_counts_it() {
        let cases = [
            (0, "superblock A", "65536 bytes are dirty"),
            (intent::OFFSET + 99, "intent ring", "4 of 4 regions are hot"),
            (
                index::OFFSET + 9,
                "index of the dirty map A",
                "65536 bytes are dirty",
            ),
            (
                meta::HEAD_BYTES + 70,
                "page 0 of the dirty map",
                "4194304 bytes are dirty",
            ),
        ];
        for (at, name, words) in cases {
            let mut image = image();
            image[usize::try_from(at).unwrap()] ^= 1;
            let report = look(&image);
            let mut damaged = report
                .findings
                .iter()
                .filter(|it| it.health == Health::Damaged);
            assert_eq!(damaged.next().map(|it| it.name.as_str()), Some(name));
            assert_eq!(damaged.next(), None);
            assert!(report.verdict.contains(words), "{name}: {}", report.verdict);
        }
    }

    #[test]
    fn what_is_no_volume_is_not_attached() {
        assert!(look(&[]).verdict.contains("no copy of its superblock"));
        assert!(look(&vec![0; 1 << 20]).verdict.contains("never formatted"));
        let image = image();
        let cut = &image[..image.len() - 8192];
        assert!(look(cut).verdict.contains("8192 bytes shorter"));
    }

    proptest! {
        #[test]
        fn random_damage_is_explained_and_never_panics(
            strikes in prop::collection::vec((any::<Index>(), 1..5000_usize, any::<u8>()), 1..12),
            cut in any::<Index>(),
        ) {
            let mut image = image();
            for (at, len, byte) in strikes {
                let at = at.index(image.len());
                let end = (at + len).min(image.len());
                image[at..end].fill(byte);
            }
            prop_assert!(!look(&image).verdict.is_empty());
            image.truncate(cut.index(image.len()));
            prop_assert!(look(&image).findings.len() >= 4);
        }
    }
}
