//! What must hold of both boxes at any moment, seen by somebody who sees everything.

use crate::disk::{PAGE, SimDisk};
use crate::world::{World, value_of};
use replication::engine::{CommandError, Completed, Event, Io};
use replication::meta::{self, intent, superblock};
use replication::types::VolumeNumber;
use replication::wire::{Header, Kind};
use std::collections::BTreeSet;

impl World {
    /// P4: a sealed box acknowledges nothing of a sealed epoch.
    pub(crate) fn check_answer(&self, who: usize, header: &[u8; 64]) {
        let header = Header::parse(header).expect("an engine sends sound frames");
        let answer = matches!(header.kind, Kind::Ack | Kind::StableAck);
        let sealed = self.engine(who).status().data.sealed;
        assert!(
            !answer || header.epoch > sealed,
            "P4: an ack of {} after the seal",
            header.epoch
        );
    }

    /// P2: data is shown by the primary only, to the knowledge of all.
    pub(crate) fn check_completion(&self, who: usize, result: &Result<Completed, CommandError>) {
        let life = self.boxes[who].life;
        let shown = matches!(
            result,
            Ok(Completed::Data(_) | Completed::Miscompare { .. })
        );
        let primary = self.boss.primary == Some((who, life));
        assert!(
            !shown || primary,
            "P2: box {who} shows data and is not primary"
        );
    }

    /// D5: what is acknowledged alone is stable.
    pub(crate) fn check_stable(&self, who: usize, page: (u32, u64), pages: u64) {
        if self.engine(who).status().acks_wait_for_peer {
            return;
        }
        let disk = &self.boxes[who].disks[&VolumeNumber(page.0)];
        let stable = (page.1..page.1 + pages).all(|page| disk.is_stable(256 + page));
        assert!(
            stable,
            "D5: a write acknowledged alone is in a volatile cache"
        );
    }

    /// H8: nothing older is under way when a seal is reported.
    pub(crate) fn check_sealed(&self, who: usize, event: &Event) {
        if !matches!(event, Event::Sealed { .. }) {
            return;
        }
        let data = 1 << 20;
        let writes = self.boxes[who].running.values().filter(|(_, io)| match io {
            Io::Write { offset_bytes, .. } | Io::WriteZeroes { offset_bytes, .. } => {
                *offset_bytes >= data
            }
            Io::Read { .. } | Io::Flush => false,
        });
        assert!(
            writes.count() == 0,
            "H8: sealed with older writes in flight"
        );
    }

    /// H33: a scrub finds no difference that nobody made.
    pub(crate) fn check_scrub(&self, event: &Event) {
        let Event::CopiesDiffer {
            volume,
            offset_bytes,
            here,
            there,
        } = event
        else {
            return;
        };
        assert!(
            self.rotten,
            "C1: a scrub says that byte {offset_bytes} of volume {volume} differs: {:x?} {:x?}",
            value_of(here),
            value_of(there)
        );
    }

    /// What differs between the copies is in a durable mask of one of them (C1), once they have
    /// been equal.
    pub(crate) fn check_coverage(&self) {
        if self.boss.readmissions == 0 {
            return;
        }
        let [a, b] = &self.boxes;
        for (number, one) in &a.disks {
            let Some(other) = b.disks.get(number) else {
                continue;
            };
            let (Some(mask), Some(theirs)) = (durable_mask(one), durable_mask(other)) else {
                continue; // being made
            };
            for page in data_pages(one, other) {
                let block = u32::try_from((page - 256) / 16).expect("it fits");
                let covered = mask.contains(&block) || theirs.contains(&block);
                assert!(
                    covered || one.page(page) == other.page(page),
                    "C1: block {block} of volume {number} differs and is in no mask"
                );
            }
        }
    }

    /// Both data areas of every volume are equal.
    pub(crate) fn assert_equal(&self) {
        let [a, b] = &self.boxes;
        assert!(
            a.disks.keys().eq(b.disks.keys()),
            "D11: the same volumes on both"
        );
        for number in a.disks.keys() {
            let (one, other) = (&a.disks[number], &b.disks[number]);
            for page in data_pages(one, other) {
                let (left, right) = (one.page(page), other.page(page));
                let at = page - 256;
                assert!(
                    left == right,
                    "C1: page {at} of volume {number} differs: {:x?} {:x?}",
                    value_of(&left),
                    value_of(&right)
                );
            }
        }
    }
}

/// Pages of the data area that one of two copies has written, up to the end of the shorter one.
fn data_pages(one: &SimDisk, other: &SimDisk) -> BTreeSet<u64> {
    let end = |disk: &SimDisk| match superblock::find(&disk.read(0, 2 * PAGE)) {
        superblock::Found::Valid(found) => found.data_offset + found.spec.size_bytes,
        superblock::Found::Blank | superblock::Found::Newer(_) | superblock::Found::Damaged => 0,
    };
    let end = end(one).min(end(other)) / PAGE as u64;
    let pages = one.pages().chain(other.pages());
    pages.filter(|page| (256..end).contains(page)).collect()
}

/// Blocks that the metadata on a disk calls dirty or hot.
fn durable_mask(disk: &SimDisk) -> Option<BTreeSet<u32>> {
    let head = disk.read(0, 1 << 20);
    let superblock::Found::Valid(found) = superblock::find(&head) else {
        return None;
    };
    let layout = meta::layout_at(found.spec.size_bytes, found.data_offset);
    let (uuid, blocks) = (found.spec.uuid, layout.expect("it is sound").blocks);
    let map = meta::dirty::DirtyMap::load(uuid, blocks, &head);
    let ring = &head[usize::try_from(intent::OFFSET).expect("it fits")..];
    let (table, trust) = intent::Table::recover(uuid, &ring[..intent::RING_BYTES]);
    let hot = match trust {
        intent::Trust::Broken => (0..blocks).collect(),
        intent::Trust::Whole => table
            .regions()
            .flat_map(|region| region * 16..(region + 1) * 16)
            .collect(),
    };
    let runs = map.runs(0, usize::MAX).into_iter();
    let dirty: BTreeSet<u32> = runs
        .flat_map(|run| run.start..run.start + run.count)
        .collect();
    Some(dirty.union(&hot).copied().collect())
}
