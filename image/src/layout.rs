//! The partition table of a boot disk, computed for a disk of a given size.
//!
//! ```text
//! sector 0      34          2048              2048 + 256 MiB              size - 34      size
//!   | MBR + GPT | BIOS boot |       ESP       |           state          . | backup GPT |
//!   |           | (option)  |  both slots     |  ext4, fills the disk      |            |
//! ```
//!
//! Both slots are files on the EFI system partition (module [`crate::slots`]), so the table has
//! no partition per slot and never changes with an update.
//!
//! Invariants, checked by [`Layout::for_disk`] on what it returns: partitions do not overlap, lie
//! inside the usable sectors, and all but the BIOS boot partition start on a MiB.

use std::fmt;

use thiserror::Error;

/// Bytes per logical sector. Disks of 4096-byte logical sectors are not boot disks (they work as
/// data disks); 512e disks are fine.
pub const SECTOR_BYTES: u64 = 512;

/// Size of the EFI system partition: two unified kernel images, a third while it is being
/// written, and the boot loader.
pub const ESP_BYTES: u64 = 256 * MIB_BYTES;

/// Smallest state partition that is worth formatting.
pub const STATE_MIN_BYTES: u64 = 64 * MIB_BYTES;

/// Size of the disk image that the builder makes. On a larger disk the state partition grows.
pub const IMAGE_BYTES: u64 = ALIGN_BYTES + ESP_BYTES + STATE_MIN_BYTES + ALIGN_BYTES;

/// A sector number, counted from the start of the disk (GPT: logical block address).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lba(pub u64);

impl fmt::Display for Lba {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether the disk also starts on a machine without UEFI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BiosBoot {
    /// Room for a boot loader core between the table and the first partition.
    Yes,
    /// UEFI only.
    No,
}

/// What a partition is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// EFI system partition: boot loader and slots.
    Esp,
    /// The box's own state: configuration of this node, records, logs.
    State,
    /// Boot loader core for machines without UEFI.
    BiosBoot,
}

impl Role {
    /// Partition type GUID as in the UEFI specification §5.3.3 and the discoverable partition
    /// types of Linux.
    pub const fn type_guid(self) -> &'static str {
        match self {
            Self::Esp => "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
            Self::State => "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
            Self::BiosBoot => "21686148-6449-6E6F-744E-656564454649",
        }
    }

    /// Partition name in the table; the running box finds its partitions by it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Esp => "twinsan-esp",
            Self::State => "twinsan-state",
            Self::BiosBoot => "twinsan-bios",
        }
    }

    /// Position in the table, counted from 1. The ESP is always 1 and the state always 2, with
    /// and without the BIOS partition.
    pub const fn number(self) -> u32 {
        match self {
            Self::Esp => 1,
            Self::State => 2,
            Self::BiosBoot => 3,
        }
    }
}

/// One partition: its role and its first and last sector, both inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// What it is for; type, name and number follow from it.
    pub role: Role,
    /// First sector.
    pub first: Lba,
    /// Last sector, inclusive as in the GPT entry.
    pub last: Lba,
}

impl Partition {
    /// Size in bytes.
    pub const fn len_bytes(&self) -> u64 {
        (self.last.0 - self.first.0 + 1) * SECTOR_BYTES
    }

    /// Distance of the first byte from the start of the disk, in bytes.
    pub const fn offset_bytes(&self) -> u64 {
        self.first.0 * SECTOR_BYTES
    }
}

/// The partition table of one disk, ordered by partition number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    disk_bytes: u64,
    partitions: Vec<Partition>,
}

/// Why a disk cannot carry the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// Smaller than table, ESP and the smallest state partition together.
    #[error(
        "a boot disk needs at least {needed_bytes} bytes, this one has {disk_bytes}: \
         choose a larger disk"
    )]
    TooSmall {
        /// What it has.
        disk_bytes: u64,
        /// What it needs.
        needed_bytes: u64,
    },
    /// The size is no whole number of sectors: not a disk, or a damaged image file.
    #[error("a disk of {disk_bytes} bytes is not a whole number of {SECTOR_BYTES}-byte sectors")]
    Ragged {
        /// What it has.
        disk_bytes: u64,
    },
}

impl Layout {
    /// Computes the table for a disk of `disk_bytes`.
    pub fn for_disk(disk_bytes: u64, bios: BiosBoot) -> Result<Self, LayoutError> {
        if !disk_bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(LayoutError::Ragged { disk_bytes });
        }
        let state_first = Lba(ESP_FIRST.0 + ESP_BYTES / SECTOR_BYTES);
        let needed_bytes =
            (state_first.0 + TABLE_SECTORS) * SECTOR_BYTES + STATE_MIN_BYTES - SECTOR_BYTES;
        if disk_bytes < needed_bytes {
            return Err(LayoutError::TooSmall {
                disk_bytes,
                needed_bytes,
            });
        }
        // the backup table is one sector shorter: it has no protective MBR
        let usable_end = disk_bytes / SECTOR_BYTES - (TABLE_SECTORS - 1);
        let state_sectors = (usable_end - state_first.0) / STATE_STEP * STATE_STEP;
        let mut partitions = vec![
            span(Role::Esp, ESP_FIRST, ESP_BYTES / SECTOR_BYTES),
            span(Role::State, state_first, state_sectors),
        ];
        if bios == BiosBoot::Yes {
            let room = ESP_FIRST.0 - TABLE_SECTORS;
            partitions.push(span(Role::BiosBoot, Lba(TABLE_SECTORS), room));
        }
        let layout = Self {
            disk_bytes,
            partitions,
        };
        layout.check();
        Ok(layout)
    }

    /// Size of the disk in bytes.
    pub const fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// The partitions by number, from 1 without gaps.
    pub fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// The partition with this role, if the layout has one.
    pub fn partition(&self, role: Role) -> Option<&Partition> {
        self.partitions.iter().find(|p| p.role == role)
    }

    fn check(&self) {
        let usable = TABLE_SECTORS..=self.disk_bytes / SECTOR_BYTES - TABLE_SECTORS;
        for (index, p) in self.partitions.iter().enumerate() {
            assert!(p.first <= p.last && usable.contains(&p.first.0) && usable.contains(&p.last.0));
            assert!(p.role == Role::BiosBoot || p.offset_bytes().is_multiple_of(ALIGN_BYTES));
            assert_eq!(
                u32::try_from(index + 1),
                Ok(p.role.number()),
                "numbers have no gap"
            );
            for other in &self.partitions[index + 1..] {
                assert!(
                    p.last < other.first || other.last < p.first,
                    "partitions overlap"
                );
            }
        }
    }
}

const fn span(role: Role, first: Lba, sectors: u64) -> Partition {
    Partition {
        role,
        first,
        last: Lba(first.0 + sectors - 1),
    }
}

const MIB_BYTES: u64 = 1024 * 1024;
const ALIGN_BYTES: u64 = MIB_BYTES;
/// First sector of the first aligned partition: one MiB.
const ESP_FIRST: Lba = Lba(ALIGN_BYTES / SECTOR_BYTES);
/// Protective MBR, header, 128 entries of 128 bytes: the sectors before the first usable one.
const TABLE_SECTORS: u64 = 34;
/// The state partition is a whole number of 4 KiB file system blocks.
const STATE_STEP: u64 = 4096 / SECTOR_BYTES;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(disk_bytes: u64, bios: BiosBoot) -> Layout {
        Layout::for_disk(disk_bytes, bios).unwrap()
    }

    #[test]
    fn the_image_has_esp_and_state_where_the_boot_loader_expects_them() {
        let layout = of(IMAGE_BYTES, BiosBoot::No);
        let spans: Vec<_> = layout
            .partitions()
            .iter()
            .map(|p| (p.role, p.first.0, p.last.0))
            .collect();
        assert_eq!(
            spans,
            [(Role::Esp, 2048, 526_335), (Role::State, 526_336, 659_415)]
        );
        assert!(layout.partition(Role::State).unwrap().len_bytes() >= STATE_MIN_BYTES);
        assert_eq!(layout.partition(Role::BiosBoot), None);
    }

    #[test]
    fn bios_boot_fills_the_gap_before_the_esp_and_moves_nothing() {
        let (without, with) = (
            of(IMAGE_BYTES, BiosBoot::No),
            of(IMAGE_BYTES, BiosBoot::Yes),
        );
        assert_eq!(with.partitions()[..2], *without.partitions());
        let bios = with.partition(Role::BiosBoot).unwrap();
        assert_eq!((bios.first, bios.last), (Lba(34), Lba(2047)));
    }

    #[test]
    fn state_takes_the_rest_of_a_larger_disk() {
        for disk_bytes in [1_000_204_886_016, 8 << 30, IMAGE_BYTES + SECTOR_BYTES] {
            let layout = of(disk_bytes, BiosBoot::Yes);
            let state = layout.partition(Role::State).unwrap();
            let unused = disk_bytes / SECTOR_BYTES - 33 - (state.last.0 + 1);
            assert!(
                unused < STATE_STEP,
                "{unused} sectors unused of {disk_bytes} bytes"
            );
        }
    }

    #[test]
    fn the_smallest_disk_is_accepted_and_one_sector_less_is_refused() {
        let LayoutError::TooSmall { needed_bytes, .. } =
            Layout::for_disk(0, BiosBoot::No).unwrap_err()
        else {
            panic!("an empty disk is too small");
        };
        let smallest = of(needed_bytes, BiosBoot::No);
        assert_eq!(
            smallest.partition(Role::State).unwrap().len_bytes(),
            STATE_MIN_BYTES
        );
        let refused = Layout::for_disk(needed_bytes - SECTOR_BYTES, BiosBoot::No).unwrap_err();
        assert!(matches!(refused, LayoutError::TooSmall { .. }));
        assert!(refused.to_string().contains("choose a larger disk"));
    }

    #[test]
    fn a_ragged_size_is_refused() {
        let disk_bytes = IMAGE_BYTES + 1;
        assert_eq!(
            Layout::for_disk(disk_bytes, BiosBoot::No),
            Err(LayoutError::Ragged { disk_bytes })
        );
    }
}
