//! Planned switch: stop, drain, flush both, clear intents, report (law R7).

use super::command::Stage;
use super::volume::Settle;
use super::{Engine, Event};
use crate::mutants::mutant;
use crate::types::{Epoch, VolumeNumber};

/// A handover that was asked for. While there is one, nothing is taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Handover {
    id: u64,
    step: Step,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Writes and reads that were started come to their end.
    Draining,
    /// Both sides flush; what is dirty only on disk is written too.
    Flushing {
        rounds: Vec<(VolumeNumber, u64, u64)>,
    },
    /// The cold intents are written.
    Clearing { pages: Vec<(VolumeNumber, u64)> },
    /// Reported; stays stopped until it is known who is primary.
    Drained,
}

impl Engine {
    pub(super) fn on_handover(&mut self, epoch: Epoch, id: u64) {
        if self.counts_peer() && self.standing_epoch() == epoch {
            let step = Step::Draining;
            self.handover = Some(Handover { id, step });
        }
    }

    pub(super) fn on_handover_cancelled(&mut self, id: u64) {
        self.handover.take_if(|handover| handover.id == id);
    }

    fn handover_goes_on(&mut self, step: Step) {
        if let Some(handover) = &mut self.handover {
            handover.step = step;
        }
        self.step();
    }

    pub(super) fn advance_handover(&mut self) {
        // a lost peer ends it: the next authority goes on alone, or demotes us
        if self.frozen || !self.is_serving() || !self.is_streaming() || self.failed.is_some() {
            return;
        }
        let Some(handover) = &self.handover else {
            return;
        };
        match &handover.step {
            Step::Drained => {}
            Step::Draining => {
                let resting = |stage: &Stage| match stage {
                    Stage::Lock | Stage::Ready | Stage::Region { .. } | Stage::Answer(_) => true,
                    Stage::Reading
                    | Stage::Piece(_)
                    | Stage::Mending(_)
                    | Stage::Flushing { .. } => false,
                };
                if self.tasks.values().all(|task| resting(&task.stage)) && self.jobs.is_empty() {
                    let rounds = self.volumes.iter_mut().map(|(number, volume)| {
                        (*number, volume.local_flush.ask(), volume.peer_flush.ask())
                    });
                    let rounds = rounds.collect();
                    self.handover_goes_on(Step::Flushing { rounds });
                }
            }
            Step::Flushing { rounds } => {
                let flushed = |(number, local, peer): &(VolumeNumber, u64, u64)| {
                    let volume = self.volumes.get(number);
                    volume.is_none_or(|volume| {
                        volume.local_flush.done >= *local && volume.peer_flush.done >= *peer
                    })
                };
                if rounds.iter().all(flushed) || mutant!(HandoverUnflushed) {
                    let volumes = self.volumes.iter_mut();
                    let pages = volumes.map(|(number, volume)| (*number, volume.want_pages()));
                    let pages = pages.collect();
                    self.handover_goes_on(Step::Clearing { pages });
                }
            }
            Step::Clearing { pages } => {
                let durable = |(number, version): &(VolumeNumber, u64)| {
                    self.volumes
                        .get(number)
                        .is_none_or(|v| v.dirty.is_durable(*version))
                };
                if pages.iter().all(durable) {
                    self.clear_intents();
                }
            }
        }
    }

    /// Every write is flushed on both: no region is hot any more (law D2).
    fn clear_intents(&mut self) {
        let (mut written, mut changed) = (true, false);
        for volume in self.volumes.values_mut() {
            let intents = &mut volume.intents;
            let cold = intents.hot.values().all(|heat| heat.users == 0);
            if cold && !intents.hot.is_empty() {
                intents.keep(|_| false);
                changed = true;
            }
            volume.settle = Settle::Idle { due: None };
            written &= volume.intents_are_written() && volume.intents.hot.is_empty();
        }
        if changed {
            self.step();
        }
        let Some(handover) = self.handover.as_ref().filter(|_| written) else {
            return;
        };
        let id = handover.id;
        self.handover_goes_on(Step::Drained);
        self.event(Event::Drained { id });
    }
}
