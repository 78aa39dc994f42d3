//! One run through the levels.

use std::collections::BTreeMap;

use super::{
    Answer, Event, Fencing, Hand, LOOK_EVERY_MS, OFF_AGAIN_MS, Outcome, Output, Power, Purpose,
    Question, SETTLE_MS, TRIES_MAX,
};
use crate::mutants::mutant;
use crate::types::Time;

/// The requests that are served, and how far that is.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) ids: Vec<u64>,
    level: u8,
    deadline: Time,
    parts: BTreeMap<usize, Part>,
    /// A device has said whether there is power: what fails then failed, and is not missing.
    heard: bool,
}

/// A device in its level.
#[derive(Debug)]
struct Part {
    step: Step,
    /// Whether the newest command was taken; none yet: false.
    accepted: bool,
    /// When the newest command was answered.
    commanded_at: Time,
    /// Answers in a row that the power is off.
    offs: u32,
    /// Questions without an answer in a row.
    failures: u32,
    /// Refused commands in a row.
    refusals: u32,
    /// The last thing that went wrong.
    why: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// `Off` is due at that moment.
    Command(Time),
    /// `Off` is under way.
    Commanded,
    /// `Power` is due at that moment.
    Look(Time),
    /// `Power` is under way.
    Looking,
    /// The operator has to do it.
    ByHand,
    /// The device says that the power is off.
    Confirmed,
}

impl Part {
    fn accepted(&mut self, now: Time) {
        self.accepted = true;
        self.failures = 0;
        self.refusals = 0;
        self.commanded_at = now;
        self.step = if mutant!(TrustAccepted) {
            Step::Confirmed
        } else {
            Step::Look(now)
        };
    }

    fn powered(&mut self, now: Time, power: Power) {
        self.failures = 0;
        match power {
            Power::Off => {
                self.offs += 1;
                let needed = if self.accepted { 1 } else { 2 };
                self.step = if self.offs >= needed {
                    Step::Confirmed
                } else {
                    Step::Look(now.after_ms(SETTLE_MS))
                };
            }
            Power::On => {
                self.offs = 0;
                let again = self.commanded_at.after_ms(OFF_AGAIN_MS);
                if self.accepted {
                    self.why = Some("it says that the power is still on".to_owned());
                }
                self.step = if now >= again || !self.accepted {
                    Step::Command(now)
                } else {
                    Step::Look(now.after_ms(LOOK_EVERY_MS))
                };
            }
        }
    }

    /// A command that was refused is no reason not to look: some devices refuse to turn off what
    /// is off. A question without an answer is asked again.
    fn failed(&mut self, now: Time, why: String) {
        self.offs = 0;
        self.failures += 1;
        self.why = Some(why);
        let later = now.after_ms(LOOK_EVERY_MS);
        self.step = match self.step {
            Step::Commanded => {
                self.accepted = false;
                self.refusals += 1;
                Step::Look(later)
            }
            Step::Command(_) | Step::Look(_) | Step::Looking | Step::ByHand | Step::Confirmed => {
                if self.accepted {
                    Step::Look(later)
                } else {
                    Step::Command(later)
                }
            }
        };
    }
}

impl Run {
    /// An answer to the question that `device` was asked.
    pub(super) fn answered(&mut self, now: Time, device: usize, answer: Answer) {
        let Some(part) = self.parts.get_mut(&device) else {
            return;
        };
        match (part.step, answer) {
            (Step::Commanded, Answer::Accepted) => part.accepted(now),
            (Step::Looking, Answer::Power(power)) => {
                self.heard = true;
                part.powered(now, power);
            }
            (Step::Commanded | Step::Looking, Answer::Failed(why)) => part.failed(now, why),
            // The answer to another question than the one asked is none.
            (Step::Commanded, Answer::Power(_)) | (Step::Looking, Answer::Accepted) => {
                part.failed(now, "it answered something else".to_owned());
            }
            (Step::Command(_) | Step::Look(_) | Step::ByHand | Step::Confirmed, _) => {}
        }
    }

    /// `device` told somebody else that there is power, after all that it has told this run.
    pub(super) fn contradicted(&mut self, now: Time, device: usize) {
        let Some(part) = self.parts.get_mut(&device) else {
            return;
        };
        match part.step {
            Step::Confirmed => part.powered(now, Power::On),
            Step::Look(_) => part.offs = 0,
            Step::Command(_) | Step::Commanded | Step::Looking | Step::ByHand => {}
        }
    }

    fn is_off(&self) -> bool {
        let confirmed = |part: &Part| part.step == Step::Confirmed;
        if mutant!(OneIsEnough) {
            return self.parts.values().any(confirmed);
        }
        self.parts.values().all(confirmed)
    }

    fn is_hopeless(&self, now: Time) -> bool {
        let failed = |part: &Part| part.failures.max(part.refusals) >= TRIES_MAX;
        now >= self.deadline || self.parts.values().any(failed)
    }

    /// When something is due; what waits for an answer or for its bus is not.
    pub(super) fn next_at(&self, fencing: &Fencing) -> Time {
        let due = self.parts.iter().filter_map(|(device, part)| {
            let bus = &fencing.devices[*device].bus;
            let busy = fencing.pending.values().any(|it| it.bus == *bus);
            match part.step {
                Step::Command(at) | Step::Look(at) if !busy => Some(at),
                Step::Command(_)
                | Step::Look(_)
                | Step::Commanded
                | Step::Looking
                | Step::ByHand
                | Step::Confirmed => None,
            }
        });
        due.chain([self.deadline]).min().unwrap_or(self.deadline)
    }

    fn due(&self, now: Time) -> Vec<(usize, Question)> {
        let due = self.parts.iter().filter_map(|(device, part)| {
            let what = match part.step {
                Step::Command(at) if now >= at => Question::Off,
                Step::Look(at) if now >= at => Question::Power,
                Step::Command(_)
                | Step::Look(_)
                | Step::Commanded
                | Step::Looking
                | Step::ByHand
                | Step::Confirmed => return None,
            };
            Some((*device, what))
        });
        due.collect()
    }
}

impl Fencing {
    /// Serves `ids` from the lowest level on.
    pub(super) fn begin(&mut self, now: Time, ids: Vec<u64>) {
        let run = Run {
            ids,
            level: 0,
            deadline: now,
            parts: BTreeMap::new(),
            heard: false,
        };
        self.next_level(now, run);
    }

    /// Everything that is due of the run under way.
    pub(super) fn advance(&mut self, now: Time) {
        while let Some(run) = self.run.take() {
            if run.is_off() {
                self.confirmed(now, run);
            } else if run.is_hopeless(now) {
                self.give_up(now, run);
            } else {
                self.run = Some(run);
                break;
            }
        }
        let due = self.run.as_ref().map(|run| run.due(now));
        for (device, what) in due.into_iter().flatten() {
            if !self.ask(device, what, Purpose::Run { device }) {
                continue;
            }
            let run = self.run.as_mut();
            let part = run.and_then(|run| run.parts.get_mut(&device));
            if let Some(part) = part {
                part.step = match what {
                    Question::Off => Step::Commanded,
                    Question::Power => Step::Looking,
                };
            }
        }
    }

    fn next_level(&mut self, now: Time, mut run: Run) {
        let level = self.devices.iter().map(|device| device.level);
        let Some(level) = level.filter(|level| *level > run.level).min() else {
            let outcome = if run.heard {
                Outcome::Failed
            } else {
                Outcome::Unavailable
            };
            let event = Event::NotOff(outcome);
            self.outputs.push_back(Output::Event(event));
            self.finish(now, run, outcome);
            return;
        };
        let members = self.devices.iter().enumerate();
        let members: Vec<_> = members.filter(|(_, it)| it.level == level).collect();
        let longest = members.iter().map(|(_, it)| it.timeout_ms).max();
        run.level = level;
        run.deadline = now.after_ms(longest.unwrap_or(0).into());
        run.parts = members
            .iter()
            .map(|(number, device)| (*number, part(now, device.hand)))
            .collect();
        let names = members.iter().filter(|(_, it)| it.hand == Hand::Agent);
        let devices: Vec<_> = names.map(|(_, it)| it.name.clone()).collect();
        let by_hand = devices.len() < members.len();
        if !devices.is_empty() {
            let event = Event::Begun { level, devices };
            self.outputs.push_back(Output::Event(event));
        }
        if by_hand {
            self.outputs.push_back(Output::Event(Event::ByHand));
        }
        self.run = Some(run);
    }

    fn confirmed(&mut self, now: Time, run: Run) {
        let names = run.parts.keys().map(|it| self.devices[*it].name.clone());
        let event = Event::ConfirmedOff {
            by: names.collect(),
        };
        self.outputs.push_back(Output::Event(event));
        self.finish(now, run, Outcome::ConfirmedOff);
    }

    fn give_up(&mut self, now: Time, run: Run) {
        self.release(&run);
        let why = run.parts.iter().filter_map(|(device, part)| {
            let why = match (part.step, &part.why) {
                (Step::Confirmed, _) => return None,
                (Step::ByHand, _) => "nobody vouched for it in time",
                (_, Some(why)) => why,
                (_, None) => "no answer in time",
            };
            Some(format!("{}: {why}", self.devices[*device].name))
        });
        let event = Event::GivenUp {
            level: run.level,
            why: why.collect(),
        };
        self.outputs.push_back(Output::Event(event));
        self.next_level(now, run);
    }

    /// Late answers of its questions mean nothing any more; their buses are busy until then.
    pub(super) fn release(&mut self, run: &Run) {
        for pending in self.pending.values_mut() {
            match pending.purpose {
                Some(Purpose::Run { device }) if run.parts.contains_key(&device) => {
                    pending.purpose = None;
                }
                Some(Purpose::Run { .. } | Purpose::Test { .. }) | None => {}
            }
        }
    }

    fn finish(&mut self, now: Time, run: Run, outcome: Outcome) {
        self.end(run.ids, outcome);
        if !self.waiting.is_empty() {
            let ids = self.waiting.drain(..).collect();
            self.begin(now, ids);
        }
    }
}

const fn part(now: Time, hand: Hand) -> Part {
    Part {
        step: match hand {
            Hand::Agent => Step::Command(now),
            Hand::Operator => Step::ByHand,
        },
        accepted: false,
        commanded_at: now,
        offs: 0,
        failures: 0,
        refusals: 0,
        why: None,
    }
}
