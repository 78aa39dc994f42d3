//! [`Handle`]: the way into a running group from its own thread.

use std::rc::Rc;

use bytes::BytesMut;
use slab::Slab;

use super::buffer::aligned;
use super::driver::Inner;
use super::link::LinkCounters;
use crate::engine::{Authority, Command, CommandError, Completed, Input, Status};
use crate::types::{CommandId, Epoch, VolumeNumber, VolumeSpec};

/// The answer to a command: exactly one call, possibly before `submit` returns.
pub(super) type Reply = Box<dyn FnOnce(Result<Completed, CommandError>)>;

/// A running group. Cheap to clone; stays on the group's thread.
///
/// Every method feeds the engine in the caller's own stack frame. Called from inside a reply or an
/// event callback, the input is taken when that callback has returned. Disk operations and frames
/// that result leave together at the end of the turn.
#[derive(Clone)]
pub struct Handle {
    pub(super) inner: Rc<Inner>,
}

impl Handle {
    /// Gives the engine a command; `reply` is called once with its outcome.
    pub fn submit(
        &self,
        command: Command,
        reply: impl FnOnce(Result<Completed, CommandError>) + 'static,
    ) {
        self.inner
            .command(Box::new(reply), |id| Input::Command { id, command });
    }

    /// Makes a volume on every member of the group.
    pub fn create_volume(
        &self,
        spec: VolumeSpec,
        reply: impl FnOnce(Result<Completed, CommandError>) + 'static,
    ) {
        self.inner
            .command(Box::new(reply), |id| Input::CreateVolume { id, spec });
    }

    /// Makes a volume larger on every member of the group.
    pub fn grow_volume(
        &self,
        number: VolumeNumber,
        size_bytes: u64,
        reply: impl FnOnce(Result<Completed, CommandError>) + 'static,
    ) {
        self.inner.command(Box::new(reply), |id| Input::GrowVolume {
            id,
            number,
            size_bytes,
        });
    }

    /// Deletes a volume on every member of the group.
    pub fn delete_volume(
        &self,
        number: VolumeNumber,
        reply: impl FnOnce(Result<Completed, CommandError>) + 'static,
    ) {
        self.inner
            .command(Box::new(reply), |id| Input::DeleteVolume { id, number });
    }

    /// What the control plane has decided.
    pub fn authority(&self, authority: Authority) {
        self.inner.input(Input::Authority(authority));
    }

    /// Refuse every frame up to `epoch` for ever (law R3).
    pub fn seal(&self, epoch: Epoch) {
        self.inner.input(Input::Seal { epoch });
    }

    /// Any other input of the control plane: `Format`, `Handover`, `HandoverCancelled`, ...
    /// Inputs that carry a command id, and those of disk, link, lease and clock, are the driver's.
    pub fn input(&self, input: Input) {
        self.inner.input(input);
    }

    /// An empty buffer that goes to both disks without a copy.
    pub fn buffer(&self, len_bytes: usize) -> BytesMut {
        aligned(len_bytes)
    }

    /// What the engine says about itself.
    pub fn status(&self) -> Status {
        self.inner.status()
    }

    /// What the data link has seen.
    pub fn link_counters(&self) -> LinkCounters {
        self.inner.link_counters()
    }

    /// Disk operations the kernel has not answered, and for how long the oldest of them.
    pub fn disk_waits(&self) -> DiskWaits {
        self.inner.disk_waits()
    }

    /// Ends the group: refuses what is in flight, closes the link, waits for the disk.
    pub async fn stop(&self) {
        self.inner.stop().await;
    }
}

/// How the disk keeps up (law R12).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskWaits {
    /// Operations in flight.
    pub operations: usize,
    /// Age of the oldest of them, in milliseconds.
    pub oldest_ms: u64,
}

/// Commands given to the engine and not yet answered.
#[derive(Default)]
pub(super) struct Replies {
    waiting: Slab<(u64, Reply)>,
    issued: u64,
}

/// Bits of a command id that hold the slot; the rest tells successive users of it apart.
const SLOT_BITS: u32 = 24;

impl Replies {
    /// An id that no command still in flight has.
    pub(super) fn insert(&mut self, reply: Reply) -> CommandId {
        self.issued += 1;
        let issue = self.issued & (u64::MAX >> SLOT_BITS);
        let slot = self.waiting.insert((issue, reply)) as u64;
        assert!(
            slot < 1 << SLOT_BITS,
            "commands in flight are bounded by the sessions' windows"
        );
        CommandId(issue << SLOT_BITS | slot)
    }

    /// Takes the reply of a command, once.
    pub(super) fn take(&mut self, id: CommandId) -> Option<Reply> {
        let slot = usize::try_from(id.0 & ((1 << SLOT_BITS) - 1)).ok()?;
        let (issue, _) = self.waiting.get(slot)?;
        if *issue != id.0 >> SLOT_BITS {
            return None;
        }
        Some(self.waiting.remove(slot).1)
    }

    /// Takes every reply still waiting.
    pub(super) fn take_all(&mut self) -> Vec<Reply> {
        self.waiting.drain().map(|(_, reply)| reply).collect()
    }
}
