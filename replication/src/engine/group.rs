//! Keeping the group state: one write at a time, each with the newest content.

use super::disk::Op;
use super::event::{Attached, DataState};
use super::{DiskError, Engine, Io};
use crate::meta::group::{GroupState, Life};
use crate::types::{Epoch, Fua, VolumeNumber};
use bytes::Bytes;

/// How much of the group state in memory is on disk.
#[derive(Debug, Default)]
pub(super) struct GroupDisk {
    version: u64,
    durable: u64,
    writing: bool,
}

impl GroupDisk {
    pub(super) const fn is_durable(&self, version: u64) -> bool {
        self.durable >= version
    }
}

impl Engine {
    /// Changes the group state; the version to ask [`Engine::group_is_durable`] for.
    pub(super) fn change_group(&mut self, change: impl FnOnce(&mut GroupState)) -> u64 {
        let group = self
            .group
            .as_mut()
            .expect("only a formatted copy is changed");
        change(group);
        self.group_disk.version += 1;
        self.group_disk.version
    }

    pub(super) const fn group_is_durable(&self, version: u64) -> bool {
        self.group_disk.is_durable(version)
    }

    /// The newest version.
    pub(super) const fn group_version(&self) -> u64 {
        self.group_disk.version
    }

    pub(super) fn advance_group(&mut self) {
        let disk = &self.group_disk;
        let due = !disk.writing && disk.version > disk.durable;
        if !due || !self.volumes.contains_key(&VolumeNumber::SYSTEM) {
            return;
        }
        let version = disk.version;
        self.group_disk.writing = true;
        let group = self.group.as_mut().expect("the system volume is attached");
        group.meta_generation += 1;
        let io = Io::Write {
            offset_bytes: group.offset_bytes(),
            data: Bytes::from(group.encode()),
            fua: Fua::Yes,
        };
        self.submit(VolumeNumber::SYSTEM, Op::Group { version }, io);
    }

    pub(super) fn on_group_done(&mut self, version: u64, error: Option<DiskError>) {
        self.group_disk.writing = false;
        match error {
            Some(error) => self.fail_disk("group state", error),
            None => self.group_disk.durable = self.group_disk.durable.max(version),
        }
    }

    /// Frames of epochs up to this one are refused.
    pub(super) fn sealed(&self) -> Epoch {
        let own = self
            .group
            .as_ref()
            .map_or(Epoch::ZERO, |group| group.sealed);
        own.max(self.seal_floor)
    }

    pub(super) fn attached(&self) -> Attached {
        if let Some(failure) = &self.failed {
            return Attached::Failed(failure.clone());
        }
        if let Some(fault) = &self.fault {
            return Attached::No(fault.clone());
        }
        if !self.booted {
            return Attached::No("the disks of this box are still being read".into());
        }
        let Some(group) = &self.group else {
            return Attached::No("this box has no copy of the group yet".into());
        };
        let ready = group
            .volumes
            .values()
            .filter(|entry| entry.life == Life::Ready);
        let mut missing = ready.filter(|entry| !self.volumes.contains_key(&entry.spec.number));
        missing.next().map_or(Attached::Yes, |entry| {
            Attached::No(format!(
                "the backing of volume {} is missing",
                entry.spec.number
            ))
        })
    }

    pub(super) fn data_state(&self) -> DataState {
        let group = self.group.as_ref();
        let lost = |group: &GroupState| group.volumes.values().any(|entry| entry.cache_lost);
        DataState {
            attached: self.attached(),
            disk: group.map(|group| group.disk),
            generation: group.map_or(0, |group| group.meta_generation),
            data_epoch: group.map_or(Epoch::ZERO, |group| group.data_epoch),
            sealed: self.sealed(),
            cache_lost: group.is_some_and(lost),
        }
    }
}
