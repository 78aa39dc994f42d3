//! Where a box keeps its disks: they are made, and grow.

use crate::disk::{PAGE, SimDisk};
use crate::world::{MS, What, World};
use replication::engine::{Input, Opened};
use replication::meta;
use replication::types::{Fua, VolumeNumber, VolumeSpec, Zeroed};
use std::collections::btree_map::Entry;

impl World {
    pub(crate) fn open(&mut self, who: usize, spec: VolumeSpec, backing_bytes: u64) {
        let it = &mut self.boxes[who];
        let number = spec.number;
        if it.cannot_make && number != VolumeNumber::SYSTEM {
            let reason = "the pool is full".to_owned();
            let input = Input::OpenFailed { number, reason };
            return self.at(MS, What::Input(who, self.boxes[who].life, input));
        }
        if let Entry::Vacant(place) = it.disks.entry(number) {
            let disk = place.insert(SimDisk::default());
            disk.size_bytes = backing_bytes;
            if self.dusty {
                let at = meta::layout(spec.size_bytes).data_offset;
                disk.write(at + 8192, &[0xdd; PAGE * 3], Fua::Yes); // an old tenant's data
            }
            it.fresh.insert(number);
        }
        let fresh = it.fresh.remove(&number) && !self.dusty;
        let zeroed = if fresh {
            Zeroed::Proven
        } else {
            Zeroed::Unknown
        };
        let input = Input::Opened(opened(number, &it.disks[&number], zeroed));
        self.at(MS / 2, What::Input(who, self.boxes[who].life, input));
    }

    /// A backing is made longer, unless the box cannot.
    pub(crate) fn grow_backing(&mut self, who: usize, number: VolumeNumber, backing_bytes: u64) {
        let (life, cannot) = (self.boxes[who].life, self.boxes[who].cannot_make);
        let Some(disk) = self.boxes[who].disks.get_mut(&number) else {
            return;
        };
        let zeroed = if self.dusty {
            disk.write(disk.size_bytes + PAGE as u64, &[0xdd; PAGE], Fua::Yes);
            Zeroed::Unknown
        } else {
            Zeroed::Proven
        };
        let result = if cannot {
            Err("the pool is full".to_owned())
        } else {
            disk.size_bytes = backing_bytes.max(disk.size_bytes);
            Ok(opened(number, disk, zeroed))
        };
        let delay = self.rng.below(MS);
        self.at(
            delay,
            What::Input(who, life, Input::Grown { number, result }),
        );
    }
}

pub(crate) fn opened(number: VolumeNumber, disk: &SimDisk, zeroed: Zeroed) -> Opened {
    Opened {
        number,
        size_bytes: disk.size_bytes,
        zeroed,
    }
}
