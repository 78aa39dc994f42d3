//! Short interruptions of a pair in sync: held, and gone on with in the same epoch (law D4).
//!
//! A session with an in-sync peer that breaks, or is silent for half of the time that a peer may
//! be, is first of all dialled again. Everything is held meanwhile as for law R1. If the same
//! incarnation answers before that time is over, and its copy is still the one of this epoch, it
//! gets what it lacks from memory and what was held goes on. In any other case the loss is
//! reported, no later than without this, and law R1 takes its course.
//!
//! ```text
//! Mirroring ──broken, silent──▶ held ──same peer, nothing to copy──▶ Mirroring
//!                                └──too late, another peer, a doubt──▶ frozen, reported
//! ```

use super::command::Stage;
use super::frozen::Reign;
use super::resync::Joining;
use super::session::Source;
use super::write::Leg;
use super::{Engine, Event, PeerLoss};
use crate::types::{Time, VolumeNumber};

impl Engine {
    /// Until when the loss of this session may be waited out; `None` if it may not.
    pub(super) fn thaw_until(&self, source: &Source, why: PeerLoss) -> Option<Time> {
        let brief = matches!(why, PeerLoss::Closed | PeerLoss::Silent);
        let steady = self.reign == Reign::Serving
            && self.verified
            && self.joining == Joining::No
            && self.handover.is_none()
            && self.jobs.is_empty()
            && self.failed.is_none();
        let whole = self.volumes.values().all(|volume| volume.unkept == 0);
        let until = source.heard.plus_ms(self.params.peer_loss_ms);
        let able = brief && steady && whole && source.in_sync && self.counts_peer();
        // one that breaks again before anything of it was made stable would go on for ever
        (able && !self.thawed && until > self.now).then_some(until)
    }

    /// Whether the loss of the peer is held back for now.
    pub(super) const fn is_held(&self) -> bool {
        self.thaw_by.is_some()
    }

    /// Waits for the peer without telling anybody; nothing completes that it does not have.
    pub(super) fn hold(&mut self, until: Time) {
        self.frozen = true;
        self.thaw_by = Some(until);
        self.dial_at = Some(self.now);
        self.step();
    }

    /// The peer did not come back in time.
    pub(super) fn advance_thaw(&mut self) {
        if self.thaw_by.is_some_and(|by| by <= self.now) {
            self.thaw_by = None;
            if self.source.is_some() {
                self.end_session(PeerLoss::Silent);
            } else {
                self.freeze(PeerLoss::Silent);
            }
        }
    }

    pub(super) const fn thaw_at(&self) -> Option<Time> {
        self.thaw_by
    }

    /// The peer is the same and equal but for what is kept: goes on in this epoch.
    pub(super) fn thaw(&mut self) {
        if !self.match_kept() || !self.lacks_only_kept() {
            return self.end_session(PeerLoss::Differs);
        }
        self.begin_stream();
        self.thaw_by = None;
        self.thawed = true;
        self.frozen = false;
        self.volume_mut(VolumeNumber::SYSTEM).peer_flush.ask(); // its answer ends `thawed`
        self.event(Event::Thawed);
        self.join_all();
    }

    /// Nothing is to be copied, and every piece that was held can be sent.
    fn lacks_only_kept(&self) -> bool {
        let held = self.tasks.values().all(|task| match task.stage {
            Stage::Piece(piece) => {
                piece.peer != Leg::Off || self.kepts.contains(task.volume, piece.number)
            }
            Stage::Lock
            | Stage::Ready
            | Stage::Reading
            | Stage::Region { .. }
            | Stage::Mending(_)
            | Stage::Flushing { .. }
            | Stage::Answer(_) => true,
        });
        held && self
            .volumes
            .values()
            .all(|volume| volume.dirty.to_copy() == 0)
    }
}
