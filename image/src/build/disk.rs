//! Writes the partition table into an image file.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::Path;
use std::str::FromStr;

use anyhow::Context;
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition as Entry;
use gpt::partition_types::Type;
use uuid::Uuid;

use crate::layout::{Layout, Partition, SECTOR_BYTES};

/// Where the disk's and the partitions' GUIDs come from: the same seed gives the same bytes, so
/// that an image can be built again and compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskIdentity(pub u128);

impl DiskIdentity {
    /// GUID number `index`: 0 is the disk, others are partitions by number.
    fn guid(self, index: u32) -> Uuid {
        let mixed = self.0 ^ (u128::from(index) << 96);
        uuid::Builder::from_random_bytes(mixed.to_be_bytes()).into_uuid()
    }
}

/// Creates the image file at `path` (sparse, of the layout's size) and writes protective MBR,
/// table and backup table into it. Fails if the file exists: an image is never patched.
pub fn create(path: &Path, layout: &Layout, identity: DiskIdentity) -> anyhow::Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(|| format!("cannot create the image {}", path.display()))?;
    let named = || format!("cannot write the partition table into {}", path.display());
    file.set_len(layout.disk_bytes()).with_context(named)?;

    let mut device = &file;
    // UEFI §5.2.3: a disk beyond 32 bits of sectors shows all ones
    let covered = u32::try_from(layout.disk_bytes() / SECTOR_BYTES - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(covered)
        .overwrite_lba0(&mut device)
        .with_context(named)?;
    let mut disk = GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(device, Some(identity.guid(0)))
        .with_context(named)?;
    disk.update_partitions(entries(layout, identity)?)
        .with_context(named)?;
    disk.write().with_context(named)?;
    file.sync_all().with_context(named)
}

fn entries(layout: &Layout, identity: DiskIdentity) -> anyhow::Result<BTreeMap<u32, Entry>> {
    layout
        .partitions()
        .iter()
        .map(|p| Ok((p.role.number(), entry(p, identity)?)))
        .collect()
}

fn entry(partition: &Partition, identity: DiskIdentity) -> anyhow::Result<Entry> {
    let role = partition.role;
    let guid = Uuid::from_str(role.type_guid()).context("partition type GUID")?;
    Ok(Entry {
        part_type_guid: Type {
            guid,
            os: gpt::partition_types::OperatingSystem::None,
        },
        part_guid: identity.guid(role.number()),
        first_lba: partition.first.0,
        last_lba: partition.last.0,
        flags: 0,
        name: role.name().to_owned(),
    })
}
