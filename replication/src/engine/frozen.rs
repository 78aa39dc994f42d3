//! Who may acknowledge: freezing, new epochs, demotion, the seal.
//!
//! The drawing is at [`super::Role`]; `Activating` is `Drain`, `Dirty`, `Epoch`, `Flush`.
//!
//! Activating a new epoch: every older disk operation is over (H8), the dirty map is durable, the
//! epoch is durable, the disk is flushed (H12); only then is anything answered (laws R1, R2).

use super::resync::Joining;
use super::volume::Settle;
use super::{Authority, CommandError, Engine, Event, Lease, Pace, PeerLoss};
use crate::meta::group::GroupState;
use crate::mutants::mutant;
use crate::types::{DiskInstance, Epoch, Members, OpId, Time, VolumeNumber};

/// What the last authority said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Secondary { epoch: Epoch },
    Primary(Mandate),
}

/// A primary's authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mandate {
    pub(super) epoch: Epoch,
    /// Every member of the in-sync set and of a set in doubt (law R0b).
    pub(super) members: Members,
    pub(super) peer_base: Option<Epoch>,
    pub(super) peer_disk: Option<DiskInstance>,
}

/// How far a primary is with its epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reign {
    /// Not primary.
    Off,
    /// Older disk operations are still in flight.
    Drain { barrier: OpId },
    /// The dirty maps are being written.
    Dirty { pages: Vec<(VolumeNumber, u64)> },
    /// The epoch is being written.
    Epoch { version: u64 },
    /// The volumes are being flushed.
    Flush { rounds: Rounds },
    /// Commands are served.
    Serving,
    /// Served on, while the epoch of a readmission is being written (law R6).
    Marking { version: u64 },
}

/// A seal that is not reported yet.
#[derive(Clone, Debug)]
pub(super) struct Sealing {
    epoch: Epoch,
    version: Option<u64>,
    barrier: OpId,
    flush: Option<Rounds>,
}

/// Rounds of flushes, one of each volume.
type Rounds = Vec<(VolumeNumber, u64)>;

/// A loss of the peer that is reported once all that was acknowledged is stable here: a config
/// without the peer may be chosen although this box loses its power first, and then nobody else
/// may serve (law R1).
#[derive(Clone, Debug)]
pub(super) struct Losing {
    number: u64,
    why: PeerLoss,
    flush: Rounds,
}

impl Engine {
    pub(super) const fn mandate(&self) -> Option<&Mandate> {
        match &self.standing {
            Standing::Secondary { .. } => None,
            Standing::Primary(mandate) => Some(mandate),
        }
    }

    pub(super) const fn standing_epoch(&self) -> Epoch {
        match &self.standing {
            Standing::Secondary { epoch } => *epoch,
            Standing::Primary(mandate) => mandate.epoch,
        }
    }

    pub(super) const fn is_primary(&self) -> bool {
        self.mandate().is_some()
    }

    pub(super) const fn is_serving(&self) -> bool {
        matches!(self.reign, Reign::Serving | Reign::Marking { .. })
    }

    pub(super) const fn is_activating(&self) -> bool {
        self.is_primary() && !self.is_serving()
    }

    /// The peer is in the in-sync set, or in one that is in doubt (law R0b).
    pub(super) fn counts_peer(&self) -> bool {
        self.mandate()
            .is_some_and(|mandate| mandate.members.contains(self.params.peer))
    }

    /// Only an authority can release us from waiting for the peer.
    pub(super) fn needs_peer_lastingly(&self) -> bool {
        self.counts_peer() || self.joining == Joining::Asked
    }

    /// An acknowledgement needs the peer (laws R4, R6 (1)).
    pub(super) fn needs_peer(&self) -> bool {
        self.counts_peer() || self.joining != Joining::No
    }

    pub(super) fn on_lease(&mut self, lease: Lease) {
        self.lease = lease;
    }

    pub(super) fn on_authority(&mut self, authority: Authority) {
        let (epoch, members, peer_base, peer_disk, answers) = match authority {
            Authority::Secondary { epoch } => return self.demote(epoch),
            Authority::Primary {
                epoch,
                in_sync,
                doubt,
                peer_base,
                peer_disk,
                answers,
            } => {
                let members = in_sync.union(doubt.unwrap_or(Members::NONE));
                (epoch, members, peer_base, peer_disk, answers)
            }
        };
        let before = self.mandate().copied();
        self.standing = Standing::Primary(Mandate {
            epoch,
            members,
            peer_base,
            peer_disk,
        });
        match before {
            None => self.promote(),
            Some(before) if !self.counts_peer() => {
                // Within the epoch, what was said before the loss was heard ends no readmission:
                // it may still be proposed (law R6).
                let answered = answers == self.losses || mutant!(StaleAnswer);
                if before.epoch != epoch || (self.frozen && answered) {
                    self.go_on_alone();
                }
            }
            Some(before) if before.epoch == epoch && !self.verified => {}
            Some(before) => self.count_peer(before.epoch),
        }
    }

    /// The peer counts from here on, or still does: readmission is in doubt, or chosen.
    fn count_peer(&mut self, before: Epoch) {
        let source = self.source.as_ref().filter(|source| source.is_streaming());
        let Some(source) = source.filter(|_| self.is_serving()) else {
            if !self.frozen {
                self.freeze(PeerLoss::Closed);
            }
            return; // the loss is reported, and answered once it is heard
        };
        if self.standing_epoch() == before {
            return;
        }
        if self.joining != Joining::Asked && !source.in_sync {
            return self.end_session(PeerLoss::Differs); // nobody said that it was equal
        }
        self.joining = Joining::No;
        self.handover = None; // an epoch of ours ends the handover of an older one (law R7)
        self.write_epoch_of_readmission();
    }

    /// First authority of this box, or after a time as secondary (law R2).
    fn promote(&mut self) {
        self.close_target();
        self.frozen = false;
        self.losing = None;
        self.joining = Joining::No;
        self.handover = None;
        self.verified = !self.counts_peer();
        self.drop_unfinished();
        self.begin_activation();
    }

    /// The peer does not count any more: what it may lack becomes dirty, and a new session finds
    /// out the rest (law R1).
    fn go_on_alone(&mut self) {
        self.begin_activation(); // from here on nothing completes before the epoch is durable
        self.joining = Joining::No;
        self.handover = None;
        self.verified = true;
        self.verify_by = None;
        self.thaw_by = None;
        self.losing = None;
        self.end_session(PeerLoss::Closed);
        if self.failed.is_some() {
            self.abort_commands(&CommandError::Io); // nobody takes over any more
        }
    }

    fn begin_activation(&mut self) {
        self.reign = Reign::Drain {
            barrier: self.ops.barrier(),
        };
        self.step();
    }

    pub(super) fn advance_reign(&mut self) {
        match &self.reign {
            Reign::Off | Reign::Serving => {}
            Reign::Drain { barrier } => {
                let attached = self.attached() == super::Attached::Yes;
                if self.ops.passed(*barrier) && attached {
                    let volumes = self.volumes.iter_mut();
                    let pages = volumes.map(|(number, volume)| (*number, volume.want_pages()));
                    self.reign = Reign::Dirty {
                        pages: pages.collect(),
                    };
                    self.step();
                }
            }
            Reign::Dirty { pages } => {
                let durable = |(number, version): &(VolumeNumber, u64)| {
                    self.volumes
                        .get(number)
                        .is_none_or(|v| v.dirty.is_durable(*version))
                };
                if pages.iter().all(durable) {
                    let version = self.write_epoch();
                    self.reign = Reign::Epoch { version };
                    self.step();
                }
            }
            Reign::Epoch { version } => {
                if self.group_is_durable(*version) {
                    let rounds = self.flush_all();
                    self.reign = Reign::Flush { rounds };
                }
            }
            Reign::Flush { rounds } => {
                if self.are_flushed(rounds) || mutant!(ServeWithoutFlush) {
                    self.serve();
                }
            }
            Reign::Marking { version } => {
                if self.group_is_durable(*version) {
                    self.reign = Reign::Serving;
                    self.step();
                    self.readmitted();
                }
            }
        }
    }

    fn flush_all(&mut self) -> Rounds {
        self.step();
        let volumes = self.volumes.iter_mut();
        let rounds = volumes.map(|(number, volume)| (*number, volume.local_flush.ask()));
        rounds.collect()
    }

    fn are_flushed(&self, rounds: &Rounds) -> bool {
        rounds.iter().all(|(number, round)| {
            let volume = self.volumes.get(number);
            volume.is_none_or(|volume| volume.local_flush.done >= *round)
        })
    }

    /// Makes the epoch served the copy's data epoch.
    fn write_epoch(&mut self) -> u64 {
        let epoch = self.standing_epoch();
        let group = self
            .group
            .as_ref()
            .expect("an authority is given to a box with a copy");
        if group.data_epoch != epoch {
            self.previous_epoch = group.data_epoch;
        }
        self.change_group(|group| group.data_epoch = group.data_epoch.max(epoch))
    }

    fn serve(&mut self) {
        self.reign = Reign::Serving;
        self.step();
        // counted again meanwhile, by a readmission that was chosen after all
        self.frozen = self.verified && self.counts_peer() && !self.is_streaming();
        self.dial_at = None;
        if self.group.as_ref().is_some_and(|group| group.following) {
            self.change_group(|group| group.following = false); // flushed, and primary from here
        }
        if !self.verified {
            self.verify_by = Some(self.now.plus_ms(self.params.peer_loss_ms));
        }
        let entries = self.group.iter().flat_map(|group| group.volumes.values());
        let lost: Vec<VolumeNumber> = entries
            .filter(|entry| entry.cache_lost)
            .map(|entry| entry.spec.number)
            .collect();
        for volume in lost {
            self.event(Event::CacheLost { volume });
        }
        let epoch = self.standing_epoch();
        self.event(Event::Serving { epoch });
        self.join_all();
    }

    pub(super) fn on_cache_loss_kept(&mut self, volume: VolumeNumber) {
        let owed = |group: &GroupState| {
            group
                .volumes
                .get(&volume)
                .is_some_and(|entry| entry.cache_lost)
        };
        if self.group.as_ref().is_some_and(owed) {
            self.change_group(|group| {
                if let Some(entry) = group.volumes.get_mut(&volume) {
                    entry.cache_lost = false;
                }
            });
            self.step();
        }
    }

    fn write_epoch_of_readmission(&mut self) {
        let version = self.write_epoch();
        self.reign = Reign::Marking { version };
        self.step();
    }

    fn readmitted(&mut self) {
        let epoch = self.standing_epoch();
        if self.is_streaming() {
            self.mark_epoch();
        }
        self.event(Event::Serving { epoch });
    }

    /// The peer is needed and not there: nothing completes that it does not have, until an
    /// authority says who must have it (law R1).
    pub(super) fn freeze(&mut self, why: PeerLoss) {
        self.frozen = true;
        self.verify_by = None;
        self.thaw_by = None;
        self.losses += 1;
        self.losing = Some(Losing {
            number: self.losses,
            why,
            flush: self.flush_all(),
        });
    }

    /// Reports a loss of which nothing can be forgotten any more. When the own disk fails instead,
    /// that is said first: this box must not propose itself.
    pub(super) fn advance_losing(&mut self) {
        let Some(losing) = &self.losing else { return };
        let due = if self.failed.is_some() && !mutant!(LoseBeforeFailure) {
            self.said_failed()
        } else {
            self.failed.is_some() || self.are_flushed(&losing.flush) || mutant!(LoseUnflushed)
        };
        if due {
            let (number, why) = (losing.number, losing.why);
            self.losing = None;
            self.event(Event::PeerLost { number, why });
        }
    }

    /// The loss of a peer that no acknowledgement needs.
    pub(super) fn report_loss(&mut self, why: PeerLoss) {
        self.losses += 1;
        let number = self.losses;
        self.event(Event::PeerLost { number, why });
    }

    /// After a handover: the peer did not come in time.
    pub(super) fn advance_verify(&mut self) {
        if self.verify_by.is_some_and(|by| by <= self.now) && !self.verified {
            self.verify_by = None;
            if self.source.is_some() {
                self.end_session(PeerLoss::Silent);
            } else {
                self.freeze(PeerLoss::Silent);
            }
        }
    }

    /// Everything accepted is aborted; nothing queued survives (law R8).
    fn demote(&mut self, epoch: Epoch) {
        let was_primary = self.is_primary();
        let epoch = epoch.max(self.standing_epoch());
        self.standing = Standing::Secondary { epoch };
        if !was_primary {
            return;
        }
        if !mutant!(DemoteLate) {
            self.reign = Reign::Off; // first: nothing that waits for the peer completes now
        }
        self.thaw_by = None;
        self.thawed = false;
        self.joining = Joining::No;
        self.end_session(PeerLoss::Closed);
        self.forget_kept();
        self.pacer.ask(Pace::Auto, self.now);
        self.reign = Reign::Off;
        self.frozen = false;
        self.losing = None;
        self.verified = true;
        self.verify_by = None;
        self.handover = None;
        self.dialing = false;
        self.abort_commands(&CommandError::NotPrimary);
        self.abort_jobs(&CommandError::NotPrimary);
        self.flushing.clear();
        for volume in self.volumes.values_mut() {
            // the other box may have something else wherever we were writing
            volume.dirty_hot_regions();
            volume.settle = Settle::Idle { due: None };
        }
    }

    /// Refuses every epoch up to `epoch` for ever (law R3).
    pub(super) fn on_seal(&mut self, epoch: Epoch) {
        self.seal_floor = self.seal_floor.max(epoch);
        self.refuse_stream_for_seal();
        let has_copy = self.group.is_some() && self.booted;
        let version =
            has_copy.then(|| self.change_group(|group| group.sealed = group.sealed.max(epoch)));
        self.sealing = Some(Sealing {
            epoch,
            version,
            barrier: self.ops.barrier(),
            flush: None,
        });
    }

    /// Whoever seals is about to propose itself as the only member, and that may be chosen although
    /// it loses its power first: what it acknowledged is stable before (law R2).
    pub(super) fn advance_seal(&mut self) {
        let Some(mut sealing) = self.sealing.take() else {
            return;
        };
        let durable = sealing
            .version
            .is_none_or(|version| self.group_is_durable(version));
        let drained = self.ops.passed(sealing.barrier) || mutant!(SealWithoutDrain);
        if durable && drained && sealing.flush.is_none() {
            sealing.flush = Some(self.flush_all());
        }
        if self.failed.is_some() && !mutant!(SealFailed) {
            return; // who says that its disk failed seals nothing any more
        }
        let flushed = |rounds| self.are_flushed(rounds) || mutant!(SealUnflushed);
        if self.failed.is_some() || sealing.flush.as_ref().is_some_and(flushed) {
            let epoch = sealing.epoch;
            self.event(Event::Sealed { epoch });
        } else {
            self.sealing = Some(sealing);
        }
    }

    pub(super) fn verify_at(&self) -> Option<Time> {
        self.verify_by
    }
}
