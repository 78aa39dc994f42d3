//! Changes of the cluster configuration: planned, made durable on every member, then in force.

use replication::types::{VolumeNumber, VolumeSpec};

use super::{Inner, Units};
use crate::api::types::Refusal;
use crate::clock;
use crate::config::Cluster;
use crate::config::cluster::{Edit, Generation, Volume as VolumeConfig};
use crate::config::fence::Fence;
use crate::config::plan::{self, Change, HISTORY_MAX, Past};
use crate::system::{Replicated, SystemVolume, awaited};

impl Inner {
    pub(super) async fn change(&self, change: &Change) -> Result<String, Refusal> {
        if !self.configured.get() {
            return Err(Refusal::failed(
                "this box does not serve the pair now, so nothing was changed; ask the primary box \
                 (see `twinsan status`)",
            ));
        }
        let (edits, rehearsal) = self.planned(change).map_err(Refusal::usage)?;
        if edits.is_empty() {
            return Ok("nothing differs, so nothing was changed".to_owned());
        }
        if !rehearsal {
            return self.make(&edits).await;
        }
        let (value, _) = self.after(&edits).map_err(Refusal::usage)?;
        SystemVolume::check(&value).map_err(Refusal::usage)?;
        Ok(format!(
            "nothing was changed; this would be:\n{}",
            list(&edits)
        ))
    }

    /// What to do, and whether only to say so.
    fn planned(&self, change: &Change) -> Result<(Vec<Edit>, bool), String> {
        let value = self.value.borrow();
        match change {
            Change::Edit(edit) => Ok((vec![edit.clone()], false)),
            Change::Apply { wanted, rehearsal } => {
                Ok((plan::between(&value.cluster, wanted)?, *rehearsal))
            }
            Change::Rollback { to, rehearsal } => {
                Ok((plan::rollback(&value.history, *to)?, *rehearsal))
            }
        }
    }

    /// The value after `edits`, and the configuration before.
    fn after(&self, edits: &[Edit]) -> Result<(Replicated, Cluster), String> {
        let mut value = self.value.borrow().clone();
        // A change that was cut short may have used a number without leaving a volume.
        let used = self.mirror.status().highest.0;
        value.cluster.next_volume = value.cluster.next_volume.max(used + 1);
        let before = value.cluster.clone();
        value.cluster = before.with_all(edits, self.epoch.get())?;
        value.remember(Past {
            generation: value.cluster.generation,
            unix_ms: clock::unix_ms(),
            told: edits.iter().map(ToString::to_string).collect(),
            undo: plan::apart_from_volumes(&value.cluster, &before),
        });
        Ok((value, before))
    }

    async fn make(&self, edits: &[Edit]) -> Result<String, Refusal> {
        let (value, before) = self.after(edits).map_err(Refusal::usage)?;
        for edit in edits {
            if let Edit::AddFence(fence) = edit {
                self.may_fence(fence).map_err(Refusal::usage)?;
            }
            if let Edit::AddAddress(cidr) = edit {
                self.may_serve(*cidr).await.map_err(Refusal::usage)?;
            }
        }
        SystemVolume::check(&value).map_err(Refusal::usage)?;
        let after = value.cluster.clone();
        for edit in edits {
            self.prepare(edit, &after).await?;
        }
        self.system.store(&value).await.map_err(|error| {
            Refusal::failed(format!(
                "{error}; the change may or may not be in force: look at `twinsan config show`"
            ))
        })?;
        let stored = |error: String| {
            Refusal::failed(format!(
                "the change is stored on every in-sync box, but not all of it is done yet: \
                 {error}; see `twinsan events`"
            ))
        };
        self.put_in_force(value, Units::Live).map_err(stored)?;
        for edit in edits {
            self.follow(edit, &before, &after).await.map_err(stored)?;
        }
        Ok(self.told(edits, after.generation))
    }

    fn told(&self, edits: &[Edit], generation: Generation) -> String {
        let text = format!("done: cluster configuration {generation} is on every in-sync box");
        match edits {
            [edit] => {
                self.events.add(format!("{text} ({edit})"));
                text
            }
            several => {
                self.events.add(format!("{text}:\n{}", list(several)));
                format!("{text}:\n{}", list(several))
            }
        }
    }

    /// What must be there before the configuration says so.
    async fn prepare(&self, edit: &Edit, after: &Cluster) -> Result<(), Refusal> {
        if let Edit::AddVolume { name, .. } = edit {
            let volume = after.volume(name).map_err(Refusal::usage)?;
            self.make_volume(volume).await.map_err(Refusal::failed)?;
        }
        if let Edit::GrowVolume { name, size_bytes } = edit {
            let number = VolumeNumber(after.volume(name).map_err(Refusal::usage)?.number);
            let grow = |reply| self.mirror.grow_volume(number, *size_bytes, reply);
            let grown = awaited(grow).await;
            grown.map_err(|why| Refusal::failed(format!("volume {name} was not grown: {why}")))?;
        }
        Ok(())
    }

    /// A device turns one of the boxes off, and is none of them itself: then it would be gone with
    /// the box, and nothing confirmed.
    fn may_fence(&self, fence: &Fence) -> Result<(), String> {
        if !self.boxes.contains(&fence.node) {
            return Err(format!(
                "there is no box {}; the boxes are {}",
                fence.node,
                self.boxes.join(" and ")
            ));
        }
        match fence.agent.address() {
            Some(address) if self.own.contains(&address) => Err(format!(
                "{address} is an address of a box or the witness and not of a device that turns \
                 one off; give the device's own address"
            )),
            Some(_) | None => Ok(()),
        }
    }

    async fn make_volume(&self, volume: &VolumeConfig) -> Result<(), String> {
        let spec = VolumeSpec {
            number: VolumeNumber(volume.number),
            uuid: volume.uuid.as_u128(),
            size_bytes: volume.size_bytes,
        };
        awaited(|reply| self.mirror.create_volume(spec, reply))
            .await
            .map(|_| ())
    }

    /// What a change asks for beyond the configuration itself.
    async fn follow(&self, edit: &Edit, before: &Cluster, after: &Cluster) -> Result<(), String> {
        match edit {
            Edit::RemoveVolume(name) => {
                let number = VolumeNumber(before.volume(name)?.number);
                awaited(|reply| self.mirror.delete_volume(number, reply))
                    .await
                    .map(|_| ())
            }
            Edit::AddAddress(cidr) => {
                let added = after.addresses.iter().find(|address| address.cidr == *cidr);
                self.raise(added.ok_or("the new address is gone again")?)
                    .await
            }
            Edit::RemoveAddress(ip) => {
                let held = self
                    .held
                    .borrow()
                    .keys()
                    .find(|cidr| cidr.ip() == *ip)
                    .copied();
                let Some(cidr) = held else { return Ok(()) };
                self.missing.borrow_mut().remove(&cidr);
                let held = self.held.borrow_mut().remove(&cidr);
                if let Some(held) = held {
                    self.lower(cidr, held).await;
                }
                Ok(())
            }
            Edit::Target(_)
            | Edit::AddVolume { .. }
            | Edit::GrowVolume { .. }
            | Edit::Discovery(_)
            | Edit::AddHost(_)
            | Edit::RemoveHost(_)
            | Edit::AddGroup(_)
            | Edit::RemoveGroup(_)
            | Edit::Join(_)
            | Edit::Leave(_)
            | Edit::Map(_)
            | Edit::Unmap { .. }
            | Edit::AddFence(_)
            | Edit::RemoveFence(_)
            | Edit::ScrubRate(_) => Ok(()),
        }
    }
}

impl Replicated {
    /// Adds a change to the history; the oldest gives way, also to want of room.
    fn remember(&mut self, past: Past) {
        self.history.push(past);
        while self.history.len() > HISTORY_MAX
            || self.history.len() > 1 && SystemVolume::check(self).is_err()
        {
            self.history.remove(0);
        }
    }
}

/// A line for each edit.
fn list(edits: &[Edit]) -> String {
    let lines: Vec<String> = edits.iter().map(|edit| format!("  {edit}")).collect();
    lines.join("\n")
}
