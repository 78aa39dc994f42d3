//! Fencing: the other box is turned off, and its power devices say that it is (law R11).
//!
//! ```text
//!   Fence ──▶ level 1 ──all its devices say off──▶ Fenced(ConfirmedOff)
//!                │ deadline, or a device that fails TRIES_MAX times in a row
//!                ▼
//!             level 2 ── ... ──▶ none is left ──▶ Fenced(Failed or Unavailable)
//!
//!   a device of a level:   Command ──▶ Commanded ──▶ Look ──▶ Looking ──▶ Confirmed
//!                             ▲                       ▲ │ on, or no answer  │
//!                             └──── still on for OFF_AGAIN_MS ──────────────┘
//! ```
//!
//! This core knows devices by number and never what an agent does. It asks `Off` and `Power`, and
//! there is no question that turns a box on or makes it start again.
//!
//! Invariants:
//! - a bus carries one question at a time: many power devices take one connection only;
//! - a word that a command was obeyed never counts, only a later answer that the power is off; if
//!   the command was refused, two such answers, [`SETTLE_MS`] apart: the box may be between off and
//!   on of somebody else's restart;
//! - `ConfirmedOff` needs that of every device of one level, or an operator's word; a device that
//!   says "on" afterwards, whoever asked it, takes its word back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use crate::mutants::mutant;
use crate::types::Time;

mod run;
mod selftest;

use run::Run;
use selftest::Asking;

/// Devices of one box at the most.
pub const DEVICES_MAX: usize = 16;
/// Fence requests that may wait for the one under way.
pub const WAITING_MAX: usize = 8;
/// Tests that may be under way.
pub const TESTS_MAX: usize = 8;
/// The time of one question.
pub const ASK_WITHIN_MS: u32 = 5_000;
/// How often a device is asked whether the power is off.
pub const LOOK_EVERY_MS: u64 = 500;
/// Between two answers that have to agree.
pub const SETTLE_MS: u64 = 2_000;
/// A box that is still on is turned off again.
pub const OFF_AGAIN_MS: u64 = 5_000;
/// Failures of a device in a row before its level is given up.
pub const TRIES_MAX: u32 = 3;
/// How often all devices are asked whether they answer.
pub const TEST_EVERY_MS: u64 = 3_600_000;
/// How long after a change of the devices they are asked for the first time.
pub const TEST_FIRST_MS: u64 = 10_000;

/// One way to turn the other box off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// For people.
    pub name: String,
    /// What takes one question at a time; devices behind one address share it.
    pub bus: String,
    /// Levels are tried from the lowest on.
    pub level: u8,
    /// How long its level may take, in milliseconds.
    pub timeout_ms: u32,
    /// Who turns it off.
    pub hand: Hand,
}

/// Who turns a box off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hand {
    /// A program can.
    Agent,
    /// Only an operator can, and says so with [`Input::Vouch`].
    Operator,
}

/// Number of one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuestionId(pub u64);

/// What a device is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Turn the power off and leave it off.
    Off,
    /// Is there power?
    Power,
}

/// What a device says of the power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// The box has power.
    On,
    /// It has none.
    Off,
}

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `Off` was taken.
    Accepted,
    /// Whether there is power.
    Power(Power),
    /// Why there is neither, without secrets.
    Failed(String),
}

/// An answer, with the words that went over the wire, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What it means.
    pub answer: Answer,
    /// What exactly was asked.
    pub asked: String,
    /// What exactly came back.
    pub answered: String,
}

/// What became of the request to fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The box is off: its devices say so, or an operator does.
    ConfirmedOff,
    /// A device answered, but the box is not off for all that is known.
    Failed,
    /// No device answered, or there is none.
    Unavailable,
}

/// One device as a test found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tested {
    /// Its number.
    pub device: usize,
    /// What it said.
    pub reply: Reply,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The devices that turn the other box off, from now on; a run begins again with these.
    Devices(Vec<Device>),
    /// Turn the other box off.
    Fence {
        /// Comes back in [`Output::Fenced`].
        id: u64,
    },
    /// An operator vouches that the other box is off.
    Vouch {
        /// Comes back in [`Output::Vouched`].
        id: u64,
    },
    /// Ask every device about the power, and change nothing.
    Test {
        /// Comes back in [`Output::Tested`].
        id: u64,
    },
    /// A question was answered, or its time is over.
    Answered {
        /// Which.
        question: QuestionId,
        /// How.
        reply: Reply,
    },
    /// Time has passed.
    Timeout,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask a device; there is always one [`Input::Answered`] for it.
    Ask {
        /// Number of the question.
        question: QuestionId,
        /// Number of the device in the newest [`Input::Devices`].
        device: usize,
        /// What.
        what: Question,
        /// After this long the answer is that there was none.
        within_ms: u32,
    },
    /// The end of a request.
    Fenced {
        /// Of which.
        id: u64,
        /// How it ended.
        outcome: Outcome,
    },
    /// Whether somebody waited for the operator's word.
    Vouched {
        /// Of which.
        id: u64,
        /// Requests that it ended; 0: it changed nothing.
        ended: usize,
    },
    /// The end of a test.
    Tested {
        /// Of which.
        id: u64,
        /// Every device but those by hand, in order; none: too many tests at once.
        answers: Option<Vec<Tested>>,
    },
    /// For the operator.
    Event(Event),
}

/// What an operator hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The devices of a level are asked to turn the box off.
    Begun {
        /// The level.
        level: u8,
        /// Their names.
        devices: Vec<String>,
    },
    /// A box has to be turned off by hand.
    ByHand,
    /// A level did not do it.
    GivenUp {
        /// The level.
        level: u8,
        /// Why, device by device.
        why: Vec<String>,
    },
    /// The box is off.
    ConfirmedOff {
        /// Who says so.
        by: Vec<String>,
    },
    /// An operator vouched that it is.
    Vouched,
    /// No level did it.
    NotOff(Outcome),
    /// A device failed its hourly test.
    TestFailed {
        /// Its name.
        device: String,
        /// Why.
        why: String,
    },
    /// A device answers again.
    TestGood {
        /// Its name.
        device: String,
    },
}

impl fmt::Display for Event {
    /// The other box is `{peer}`: whoever shows this knows its name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begun { level, devices } => write!(
                f,
                "turning {{peer}} off with {} (level {level})",
                devices.join(" and ")
            ),
            Self::ByHand => f.write_str(
                "alarm: turn {peer} off by hand (pull its power), then say `twinsan fence confirm \
                 {peer}` here; until then nothing goes on without it",
            ),
            Self::GivenUp { level, why } => write!(
                f,
                "{{peer}} could not be turned off with level {level}: {}",
                why.join("; ")
            ),
            Self::ConfirmedOff { by } => {
                write!(f, "{{peer}} is off: {} says so", by.join(" and "))
            }
            Self::Vouched => f.write_str("{peer} is off: an operator vouches for it"),
            Self::NotOff(outcome) => {
                let why = match outcome {
                    Outcome::Unavailable => "no fencing device answered",
                    Outcome::Failed | Outcome::ConfirmedOff => "no level of devices did it",
                };
                write!(
                    f,
                    "alarm: {{peer}} is not known to be off: {why}; nothing is decided on it; see \
                     `twinsan fence test {{peer}}`"
                )
            }
            Self::TestFailed { device, why } => write!(
                f,
                "alarm: fencing device {device} failed its test: {why}; until it answers, {{peer}} \
                 cannot be turned off with it; see `twinsan fence test {{peer}}`"
            ),
            Self::TestGood { device } => write!(f, "fencing device {device} answers again"),
        }
    }
}

/// A question that is not answered yet.
#[derive(Clone, Debug)]
struct Pending {
    bus: String,
    /// What it is for; none: what it was for has ended.
    purpose: Option<Purpose>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Run { device: usize },
    Test { test: u64, device: usize },
}

/// The core. See the module for its life.
#[derive(Debug, Default)]
pub struct Fencing {
    devices: Vec<Device>,
    run: Option<Run>,
    /// Requests that came during a run: they have one of their own after it, because what was
    /// confirmed before they came says nothing about now.
    waiting: VecDeque<u64>,
    tests: Vec<Asking>,
    tests_begun: u64,
    /// When the next hourly test is due; none: there is nothing to test.
    test_at: Option<Time>,
    /// Devices whose last hourly test failed.
    failing: BTreeSet<usize>,
    pending: BTreeMap<QuestionId, Pending>,
    questions: u64,
    outputs: VecDeque<Output>,
}

impl Fencing {
    /// Without devices.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a request to fence is under way.
    #[must_use]
    pub const fn is_fencing(&self) -> bool {
        self.run.is_some()
    }

    /// Devices whose last hourly test failed.
    #[must_use]
    pub const fn failing(&self) -> &BTreeSet<usize> {
        &self.failing
    }

    /// Takes in what happened at `now`.
    ///
    /// # Panics
    /// If there are more than [`DEVICES_MAX`] devices: the configuration bounds them.
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Devices(devices) => self.replace(now, devices),
            Input::Fence { id } => self.fence(now, id),
            Input::Vouch { id } => self.vouch(id),
            Input::Test { id } => self.test(id),
            Input::Answered { question, reply } => self.answered(now, question, reply),
            Input::Timeout => {}
        }
        self.hourly(now);
        self.advance(now);
        self.ask_tests();
        self.check();
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let run = self.run.as_ref().map(|run| run.next_at(self));
        run.into_iter().chain(self.test_at).min()
    }

    fn replace(&mut self, now: Time, devices: Vec<Device>) {
        assert!(
            devices.len() <= DEVICES_MAX,
            "the configuration bounds its devices"
        );
        self.devices = devices;
        self.failing.clear();
        for pending in self.pending.values_mut() {
            pending.purpose = None;
        }
        self.restart_tests();
        let has_agents = self.devices.iter().any(|it| it.hand == Hand::Agent);
        self.test_at = has_agents.then(|| now.after_ms(TEST_FIRST_MS));
        if let Some(run) = self.run.take() {
            self.begin(now, run.ids);
        }
    }

    fn fence(&mut self, now: Time, id: u64) {
        if self.run.is_none() {
            self.begin(now, vec![id]);
        } else if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(id);
        } else {
            let outcome = Outcome::Unavailable;
            self.outputs.push_back(Output::Fenced { id, outcome });
        }
    }

    fn vouch(&mut self, id: u64) {
        let Some(run) = self.run.take() else {
            self.outputs.push_back(Output::Vouched { id, ended: 0 });
            return;
        };
        self.release(&run);
        self.outputs.push_back(Output::Event(Event::Vouched));
        let waiting = std::mem::take(&mut self.waiting);
        let ids: Vec<u64> = run.ids.into_iter().chain(waiting).collect();
        let ended = ids.len();
        self.outputs.push_back(Output::Vouched { id, ended });
        self.end(ids, Outcome::ConfirmedOff);
    }

    fn answered(&mut self, now: Time, question: QuestionId, reply: Reply) {
        let Some(pending) = self.pending.remove(&question) else {
            return;
        };
        match pending.purpose {
            Some(Purpose::Run { device }) => {
                if let Some(run) = &mut self.run {
                    run.answered(now, device, reply.answer);
                }
            }
            Some(Purpose::Test { test, device }) => {
                if let (Some(run), Answer::Power(Power::On)) = (&mut self.run, &reply.answer) {
                    run.contradicted(now, device);
                }
                self.test_answered(test, device, reply);
            }
            None => {}
        }
    }

    /// Asks a device whose bus is free. Whether it was asked.
    fn ask(&mut self, device: usize, what: Question, purpose: Purpose) -> bool {
        let bus = &self.devices[device].bus;
        let busy = self.pending.values().any(|pending| pending.bus == *bus);
        if busy && !mutant!(CrowdBus) {
            return false;
        }
        self.questions += 1;
        let question = QuestionId(self.questions);
        let pending = Pending {
            bus: bus.clone(),
            purpose: Some(purpose),
        };
        self.pending.insert(question, pending);
        self.outputs.push_back(Output::Ask {
            question,
            device,
            what,
            within_ms: ASK_WITHIN_MS,
        });
        true
    }

    fn end(&mut self, ids: Vec<u64>, outcome: Outcome) {
        let ended = ids.into_iter().map(|id| Output::Fenced { id, outcome });
        self.outputs.extend(ended);
    }

    fn check(&self) {
        assert!(
            self.run.is_some() || self.waiting.is_empty(),
            "nobody waits for a run that is not there"
        );
        assert!(
            self.waiting.len() <= WAITING_MAX && self.tests.len() <= TESTS_MAX + 1,
            "what waits is bounded"
        );
    }
}
