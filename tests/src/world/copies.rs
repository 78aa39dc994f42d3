//! What happens to copies in particular: an operator who slows them down, and boxes that die at
//! their turning points. Their dice are their own: the faults of a seed stay where they were.

use replication::engine::{DataLink, Input, Pace, ResyncPhase};

use super::{Event, MS, World};
use crate::net::{BOXES, Host};
use crate::node::{Delivery, Process};
use crate::rng::Rng;

/// Histories with such an operator or such deaths, per mille.
const TROUBLED: u64 = 300;
/// Turning points at which a box dies, per mille.
const DEADLY: u64 = 150;

/// The dice, if the history has such troubles.
pub(super) fn dice(seed: u64) -> Option<Rng> {
    let mut rng = Rng::new(seed ^ 0x7061_6365);
    rng.chance(TROUBLED).then_some(rng)
}

impl World {
    /// A copy begins: the operator may want it slower for a while.
    pub(super) fn copy_begins(&mut self, host: Host) {
        let stormy = self.stormy;
        let Some(rng) = self.copy_dice.as_mut().filter(|_| stormy) else {
            return;
        };
        let pace = match rng.below(4) {
            0 | 1 => return,
            2 => Pace::Paused,
            _ => Pace::AtMost {
                bytes_per_s: rng.between(64 << 10, 8 << 20),
            },
        };
        let begins = rng.between(MS / 10, 20 * MS);
        let ends = begins + rng.between(MS, 2000 * MS);
        self.counts.add(match pace {
            Pace::Paused => "copy paused",
            Pace::Auto | Pace::AtMost { .. } => "copy limited",
        });
        let start = self.machine(host).process().start;
        for (wait, pace) in [(begins, pace), (ends, Pace::Auto)] {
            let input = Delivery::Engine(Input::Pace(pace));
            self.schedule(wait, Event::Deliver(host, start, input));
        }
    }

    /// A copy has come to a turning point: a good moment for either box to die.
    pub(super) fn turning_point(&mut self) {
        let stormy = self.stormy;
        let Some(rng) = self.copy_dice.as_mut().filter(|_| stormy) else {
            return;
        };
        if rng.chance(DEADLY) {
            let wait = rng.below(10 * MS);
            let victim = *rng.pick(&BOXES);
            let power = if rng.chance(500) {
                Power::Lost
            } else {
                Power::Kept
            };
            self.schedule(wait, Event::Doom(victim, power));
        }
    }

    pub(super) fn doom(&mut self, host: Host, power: Power) {
        if !self.stormy || self.machines[host.index()].process.is_none() {
            return;
        }
        self.counts.add("killed at a turning point of a copy");
        let away = 300 * MS;
        match power {
            Power::Lost => self.power_off_for(host, away),
            Power::Kept => self.kill_for(host, away),
        }
    }

    /// A copy came to its end: what was it made of?
    pub(super) fn count_copied(&mut self, host: Host) {
        let counts = self.machine(host).process().engine.status().resync.counts;
        let kinds = [
            ("equal blocks", counts.equal_blocks),
            ("different blocks", counts.different_blocks),
            ("blocks sent", counts.sent_blocks),
            ("blocks of zeroes", counts.zero_blocks),
        ];
        for (kind, count) in kinds {
            if count > 0 {
                self.counts.add(&format!("copied, {kind}"));
            }
        }
    }

    /// A process ends: how far was its copy?
    pub(super) fn count_end(&mut self, process: &Process) {
        let status = process.engine.status();
        let phase = match (status.resync.phase, status.link) {
            (ResyncPhase::None, DataLink::Target) => "target of a copy".to_owned(),
            (ResyncPhase::None, _) => return,
            (phase, _) => format!("source of a copy, {phase:?}"),
        };
        self.counts.add(&format!("killed as {phase}"));
    }
}

/// How a box dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// With what its disks have not made stable.
    Lost,
    /// The process alone.
    Kept,
}
