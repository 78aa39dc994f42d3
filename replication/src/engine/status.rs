//! Timers, status, and the full walk over the invariants.

use super::command::Stage;
use super::counters::Work;
use super::frozen::Reign;
use super::volume::{blocks, regions};
use super::write::Leg;
use super::{DataLink, Engine, Role, Status, VolumeScrub, VolumeStatus};
use crate::meta::DIRTY_BLOCK_BYTES;
use crate::meta::group::Life;
use crate::mutants::mutant;
use crate::types::{Time, VolumeNumber};

impl Engine {
    /// The earliest instant at which `handle(now, Input::Timeout)` has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let loss_ms = self.params.peer_loss_ms;
        let source = self.source.as_ref();
        let session = source.map(|s| {
            let doubt = s.silent_at(loss_ms / 2);
            let silent = s.silent_at(loss_ms);
            let silent = if doubt > self.now { doubt } else { silent };
            silent.min(s.ping_at(loss_ms))
        });
        let retry = source
            .and_then(|source| source.progress.retry_at)
            .filter(|at| *at > self.now);
        let quiet = self.is_serving() && !self.frozen && self.failed.is_none();
        let held = self.is_held() && self.is_serving() && self.failed.is_none();
        let dial = self
            .dial_at
            .filter(|_| (quiet || held) && source.is_none() && !self.dialing);
        let settle = self.volumes.timer().filter(|_| self.settles());
        let progress = self.progress_at().filter(|_| quiet);
        let look = self
            .ops
            .look_at(self.now, self.params.limits.disk_timeout_ms)
            .filter(|_| self.failed.is_none());
        let timers = [
            session,
            retry,
            dial,
            self.verify_at(),
            self.thaw_at(),
            self.target_due(),
            progress,
            look,
            self.kept_at(),
            self.scrub_at(),
            self.pace_due().filter(|_| quiet),
        ];
        timers.into_iter().flatten().chain(settle).min()
    }

    /// What the engine is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        let volumes = self.group.iter().flat_map(|group| group.volumes.values());
        let volumes = volumes.filter(|entry| entry.life != Life::Tombstone);
        let volumes = volumes.map(|entry| {
            let volume = self.volumes.get(&entry.spec.number);
            VolumeStatus {
                spec: entry.spec,
                attached: volume.is_some(),
                data_offset_bytes: volume.map_or(0, |volume| volume.layout.data_offset),
                dirty_bytes: volume.map_or(0, |volume| volume.dirty.count() * DIRTY_BLOCK_BYTES),
                hot_regions: volume.map_or(0, |volume| volume.intents.hot.len()),
                work: volume.map_or_else(Work::default, |volume| volume.counters.told()),
                scrub: volume.map_or_else(VolumeScrub::default, |volume| volume.scrub.told()),
            }
        });
        Status {
            me: self.params.me,
            role: self.role(),
            epoch: self.standing_epoch(),
            data: self.data_state(),
            link: self.link(),
            parted: self.parted.filter(|_| self.mandate().is_some()),
            acks_wait_for_peer: self.needs_peer(),
            dirty_bytes: self.dirty_bytes(),
            mended_bytes: self.troubles.mended_bytes,
            full: self.troubles.full(self.now),
            kept_bytes: self.kepts.cost_bytes(),
            replayed_writes: self.kepts.replayed,
            blocks_read: self.kepts.blocks_read,
            resync: self.resync_status(),
            scrub_bytes_per_s: self.scrub.bytes_per_s(),
            commands: self.tasks.len() + self.intake.len() + self.jobs.len(),
            disk_operations: self.ops.len(),
            highest: self
                .group
                .as_ref()
                .map_or(VolumeNumber::SYSTEM, |group| group.highest),
            volumes: volumes.collect(),
        }
    }

    /// What this box may do.
    #[must_use]
    pub fn role(&self) -> Role {
        if self.failed.is_some() {
            return Role::Failed;
        }
        match self.reign {
            Reign::Off if !self.booted => Role::Attaching,
            Reign::Off if self.group.is_none() => Role::Blank,
            Reign::Off => Role::Secondary,
            _ if self.frozen => Role::Frozen,
            Reign::Serving | Reign::Marking { .. } if self.handover.is_some() => Role::Draining,
            Reign::Serving | Reign::Marking { .. } => Role::Serving,
            Reign::Drain { .. }
            | Reign::Dirty { .. }
            | Reign::Epoch { .. }
            | Reign::Flush { .. } => Role::Activating,
        }
    }

    /// Every acknowledgement waits for the peer, which lacks nothing.
    #[must_use]
    pub fn is_mirrored(&self) -> bool {
        self.needs_peer() && self.dirty_bytes() == 0
    }

    /// State of the data session.
    #[must_use]
    pub fn link(&self) -> DataLink {
        use super::target::TargetPhase;
        match (&self.source, &self.target) {
            (Some(source), _) if source.in_sync => DataLink::Mirroring,
            (Some(source), _) if source.is_streaming() => DataLink::Source,
            (Some(_), _) => DataLink::Handshake,
            (None, Some(target)) if target.in_sync => DataLink::Following,
            (None, Some(target)) if target.phase == TargetPhase::Streaming => DataLink::Target,
            (None, Some(_)) => DataLink::Handshake,
            (None, None) if self.dialing || !self.incoming.is_empty() => DataLink::Handshake,
            (None, None) => DataLink::Down,
        }
    }

    /// Walks every invariant; panics if one is broken.
    pub fn check_full(&self) {
        self.check();
        self.volumes.check_full();
        for (number, volume) in &self.volumes {
            volume.dirty.check_full();
            volume.locks.check_full();
            let streaming = self.is_streaming();
            assert!(
                streaming || volume.unstable.is_empty(),
                "D4: unstable without a session"
            );
            for region in volume.intents.hot.keys() {
                let first = u64::from(*region) * crate::meta::REGION_BYTES;
                assert!(
                    first < volume.spec.size_bytes,
                    "region {region} is beyond the end"
                );
            }
            for block in volume.unstable.keys() {
                let region = regions(
                    u64::from(*block) * DIRTY_BLOCK_BYTES,
                    u64::from(*block) * DIRTY_BLOCK_BYTES + 1,
                );
                let heat = volume.intents.hot.get(region.start());
                let durable = heat.is_some_and(|heat| heat.durable) || mutant!(SkipIntent);
                assert!(durable, "D2: block {block} of volume {number} is hot");
            }
        }
        if let Some(source) = &self.source {
            for (number, block) in source.sent_chunks.keys() {
                let volume = self.volumes.get(number);
                let dirty = volume.is_none_or(|volume| volume.dirty.contains(*block));
                assert!(
                    dirty,
                    "D1: block {block} was cleared before its copy was stable"
                );
            }
        }
        self.check_pieces();
    }

    fn check_pieces(&self) {
        for task in self.tasks.values() {
            let Stage::Piece(piece) = task.stage else {
                continue;
            };
            let volume = self.volume_ref(task.volume);
            let hot = |region| {
                volume
                    .intents
                    .hot
                    .get(&region)
                    .is_some_and(|heat| heat.users > 0)
            };
            let covered = regions(task.next, piece.to).all(hot) || mutant!(SkipIntent);
            assert!(covered, "D2: a write under way has its intents");
            let dirty = || blocks(task.next, piece.to).all(|block| volume.dirty.contains(block));
            let forgets = mutant!(DropAck) || mutant!(ForgetUnstable) || mutant!(ForgetAcked);
            assert!(
                piece.peer != Leg::Off || dirty() || forgets,
                "R1: an unsent write is dirty"
            );
        }
        assert!(self.ops.iter().count() == self.ops.len());
    }
}
