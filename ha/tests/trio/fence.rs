//! The life of a request to fence, against devices that are scripted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ha::Time;
use ha::fence::{
    Answer, Device, Event, Fencing, Hand, Input, LOOK_EVERY_MS, Outcome, Output, Power, Question,
    QuestionId, Reply, SETTLE_MS, TEST_EVERY_MS, TEST_FIRST_MS, TRIES_MAX, Tested,
};

const T0: Time = Time(1_000_000_000_000);

fn device(name: &str, level: u8) -> Device {
    Device {
        name: name.to_owned(),
        bus: name.to_owned(),
        level,
        timeout_ms: 20_000,
        hand: Hand::Agent,
    }
}

fn reply(answer: Answer) -> Reply {
    Reply {
        answer,
        asked: "a".to_owned(),
        answered: "b".to_owned(),
    }
}

/// A core with its devices, what it asked and what it said.
struct Bench {
    core: Fencing,
    now: Time,
    asked: VecDeque<(QuestionId, usize, Question)>,
    said: Vec<Output>,
}

impl Bench {
    fn new(devices: Vec<Device>) -> Self {
        crate::world::choose_mutant();
        let mut bench = Self {
            core: Fencing::new(),
            now: T0,
            asked: VecDeque::new(),
            said: Vec::new(),
        };
        bench.input(Input::Devices(devices));
        bench
    }

    fn input(&mut self, input: Input) {
        self.core.handle(self.now, input);
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Ask {
                    question,
                    device,
                    what,
                    ..
                } => self.asked.push_back((question, device, what)),
                Output::Fenced { .. }
                | Output::Vouched { .. }
                | Output::Tested { .. }
                | Output::Event(_) => self.said.push(output),
            }
        }
    }

    fn wait_ms(&mut self, ms: u64) {
        self.now = self.now.after_ms(ms);
        self.input(Input::Timeout);
    }

    /// Answers the one question that is open.
    fn answer(&mut self, device: usize, what: Question, answer: Answer) {
        let (question, ..) = self.take(device, what);
        self.answer_to(question, answer);
    }

    fn answer_to(&mut self, question: QuestionId, answer: Answer) {
        let reply = reply(answer);
        self.input(Input::Answered { question, reply });
    }

    fn take(&mut self, device: usize, what: Question) -> (QuestionId, usize, Question) {
        let found = self
            .asked
            .iter()
            .position(|(_, at, asked)| (*at, *asked) == (device, what));
        let found = found.unwrap_or_else(|| panic!("{what:?} of {device}: {:?}", self.asked));
        self.asked.remove(found).expect("it was found there")
    }

    /// Runs with answers of `device(number, question, how often it was asked)` until `id` ended.
    fn outcome(
        &mut self,
        id: u64,
        mut device: impl FnMut(usize, Question, u32) -> Answer,
    ) -> Outcome {
        let mut counts = BTreeMap::new();
        for _ in 0..2_000 {
            if let Some(outcome) = self.fenced(id) {
                return outcome;
            }
            if let Some((question, number, what)) = self.asked.pop_front() {
                let count = counts.entry((number, what as u8)).or_insert(0);
                *count += 1;
                let answer = device(number, what, *count);
                self.answer_to(question, answer);
                continue;
            }
            let at = self.core.poll_timeout().expect("something is due");
            assert!(at > self.now, "no time passes");
            self.now = at;
            self.input(Input::Timeout);
        }
        panic!("it never ends: {:?}", self.core);
    }

    fn fenced(&self, wanted: u64) -> Option<Outcome> {
        self.said.iter().find_map(|output| match output {
            Output::Fenced { id, outcome } if *id == wanted => Some(*outcome),
            Output::Fenced { .. }
            | Output::Ask { .. }
            | Output::Vouched { .. }
            | Output::Tested { .. }
            | Output::Event(_) => None,
        })
    }

    fn events(&self) -> Vec<&Event> {
        let events = self.said.iter().filter_map(|output| match output {
            Output::Event(event) => Some(event),
            Output::Fenced { .. }
            | Output::Ask { .. }
            | Output::Vouched { .. }
            | Output::Tested { .. } => None,
        });
        events.collect()
    }
}

const OFF: Answer = Answer::Power(Power::Off);
const ON: Answer = Answer::Power(Power::On);

fn no(why: &str) -> Answer {
    Answer::Failed(why.to_owned())
}

#[test]
fn r11_a_box_is_off_when_its_device_says_so_and_not_when_it_obeys() {
    let mut bench = Bench::new(vec![device("bmc", 1)]);
    bench.input(Input::Fence { id: 7 });
    bench.answer(0, Question::Off, Answer::Accepted);
    assert_eq!(bench.fenced(7), None, "it obeyed, and that is all");
    bench.answer(0, Question::Power, ON);
    assert_eq!(bench.fenced(7), None);
    bench.wait_ms(LOOK_EVERY_MS);
    bench.answer(0, Question::Power, OFF);
    assert_eq!(bench.fenced(7), Some(Outcome::ConfirmedOff));
    assert!(bench.asked.is_empty() && !bench.core.is_fencing());
}

#[test]
fn r11_every_supply_of_a_box_has_to_be_off() {
    let mut bench = Bench::new(vec![device("left", 1), device("right", 1)]);
    bench.input(Input::Fence { id: 1 });
    bench.answer(0, Question::Off, Answer::Accepted);
    bench.answer(1, Question::Off, Answer::Accepted);
    bench.answer(0, Question::Power, OFF);
    assert_eq!(bench.fenced(1), None, "the right supply is on");
    bench.answer(1, Question::Power, ON);
    bench.wait_ms(LOOK_EVERY_MS);
    bench.answer(1, Question::Power, OFF);
    assert_eq!(bench.fenced(1), Some(Outcome::ConfirmedOff));
}

#[test]
fn r11_a_bus_carries_one_question_at_a_time() {
    let shared = |name: &str| Device {
        bus: "pdu".to_owned(),
        ..device(name, 1)
    };
    let mut bench = Bench::new(vec![shared("a"), shared("b")]);
    bench.input(Input::Test { id: 1 });
    assert_eq!(bench.asked.len(), 1);
    bench.input(Input::Fence { id: 2 });
    assert_eq!(bench.asked.len(), 1, "the unit still answers the test");
    bench.answer(0, Question::Power, ON);
    // Now the run goes first, and the rest of the test waits.
    assert_eq!(bench.asked.len(), 1);
    let asks = |_: usize, what: Question, _: u32| match what {
        Question::Off => Answer::Accepted,
        Question::Power => OFF,
    };
    assert_eq!(bench.outcome(2, asks), Outcome::ConfirmedOff);
    bench.answer(1, Question::Power, OFF);
    let answers = Some(vec![
        Tested {
            device: 0,
            reply: reply(ON),
        },
        Tested {
            device: 1,
            reply: reply(OFF),
        },
    ]);
    assert!(bench.said.contains(&Output::Tested { id: 1, answers }));
}

#[test]
fn a_device_that_lies_is_given_up_at_its_deadline_and_the_next_level_does_it() {
    let mut bench = Bench::new(vec![device("pdu", 2), device("bmc", 1)]);
    bench.input(Input::Fence { id: 1 });
    let mut commands = [0, 0];
    let outcome = bench.outcome(1, |number, what, _| match what {
        Question::Off => {
            commands[number] += 1;
            Answer::Accepted
        }
        Question::Power if number == 1 => ON,
        Question::Power => OFF,
    });
    assert_eq!(outcome, Outcome::ConfirmedOff);
    assert_eq!(bench.now.since_ns(T0), 20_000_000_000);
    assert_eq!(commands, [1, 4], "it is told again every 5 s");
    let why = ["bmc: it says that the power is still on".to_owned()].to_vec();
    let given_up = Event::GivenUp { level: 1, why };
    assert!(bench.events().contains(&&given_up), "{:?}", bench.events());
}

#[test]
fn a_dead_device_costs_three_questions_and_no_deadline() {
    let mut bench = Bench::new(vec![device("bmc", 1), device("pdu", 2)]);
    bench.input(Input::Fence { id: 1 });
    let mut asked = 0;
    let outcome = bench.outcome(1, |number, what, _| {
        if number == 0 {
            asked += 1;
            return no("no route");
        }
        match what {
            Question::Off => Answer::Accepted,
            Question::Power => OFF,
        }
    });
    assert_eq!((outcome, asked), (Outcome::ConfirmedOff, TRIES_MAX));
    assert!(bench.now.since_ns(T0) < 3_000_000_000);
}

#[test]
fn nothing_that_answers_and_nothing_that_works_are_told_apart() {
    let mut bench = Bench::new(vec![device("bmc", 1)]);
    bench.input(Input::Fence { id: 1 });
    let dead = bench.outcome(1, |_, _, _| no("no route"));
    assert_eq!(dead, Outcome::Unavailable);
    bench.input(Input::Fence { id: 2 });
    let refuses = bench.outcome(2, |_, what, _| match what {
        Question::Off => no("not allowed"),
        Question::Power => ON,
    });
    assert_eq!(refuses, Outcome::Failed);
    let mut bench = Bench::new(Vec::new());
    bench.input(Input::Fence { id: 3 });
    assert_eq!(bench.fenced(3), Some(Outcome::Unavailable));
    assert_eq!(bench.core.poll_timeout(), None);
}

#[test]
fn a_refused_command_needs_two_answers_that_agree() {
    // Between off and on of somebody's restart a device says off as well.
    let mut bench = Bench::new(vec![device("bmc", 1)]);
    bench.input(Input::Fence { id: 1 });
    bench.answer(0, Question::Off, no("busy"));
    bench.wait_ms(LOOK_EVERY_MS);
    bench.answer(0, Question::Power, OFF);
    assert_eq!(bench.fenced(1), None);
    bench.wait_ms(SETTLE_MS);
    bench.answer(0, Question::Power, ON);
    // It is on again: the command comes again, and this time it is taken.
    bench.answer(0, Question::Off, Answer::Accepted);
    bench.answer(0, Question::Power, OFF);
    assert_eq!(bench.fenced(1), Some(Outcome::ConfirmedOff));

    bench.input(Input::Fence { id: 2 });
    bench.answer(0, Question::Off, no("it is off"));
    bench.wait_ms(LOOK_EVERY_MS);
    bench.answer(0, Question::Power, OFF);
    bench.wait_ms(SETTLE_MS);
    bench.answer(0, Question::Power, OFF);
    assert_eq!(bench.fenced(2), Some(Outcome::ConfirmedOff));
}

#[test]
fn late_and_foreign_answers_mean_nothing() {
    let mut bench = Bench::new(vec![device("bmc", 1)]);
    bench.input(Input::Fence { id: 1 });
    let (off, ..) = bench.take(0, Question::Off);
    bench.wait_ms(20_000);
    assert_eq!(bench.fenced(1), Some(Outcome::Unavailable));
    bench.input(Input::Fence { id: 2 });
    assert!(bench.asked.is_empty(), "the device still owes an answer");
    bench.answer_to(off, Answer::Accepted);
    bench.answer_to(QuestionId(4711), OFF);
    assert_eq!(bench.fenced(2), None);
    // The answer to another question than the one asked is none.
    bench.answer(0, Question::Off, OFF);
    bench.wait_ms(LOOK_EVERY_MS);
    bench.answer(0, Question::Power, Answer::Accepted);
    assert_eq!(bench.fenced(2), None);
}

#[test]
fn who_comes_during_a_run_has_one_of_its_own() {
    let mut bench = Bench::new(vec![device("bmc", 1)]);
    for id in 0..=8 {
        bench.input(Input::Fence { id });
    }
    bench.input(Input::Fence { id: 9 });
    assert_eq!(
        bench.fenced(9),
        Some(Outcome::Unavailable),
        "that is too many"
    );
    bench.answer(0, Question::Off, Answer::Accepted);
    bench.answer(0, Question::Power, OFF);
    assert_eq!(bench.fenced(0), Some(Outcome::ConfirmedOff));
    assert_eq!(bench.fenced(1), None, "off then says nothing of now");
    bench.answer(0, Question::Off, Answer::Accepted);
    bench.answer(0, Question::Power, OFF);
    for id in 1..=8 {
        assert_eq!(bench.fenced(id), Some(Outcome::ConfirmedOff));
    }
}

#[test]
fn an_operator_vouches_only_for_somebody_who_waits() {
    let by_hand = Device {
        hand: Hand::Operator,
        timeout_ms: 600_000,
        ..device("operator", 2)
    };
    let mut bench = Bench::new(vec![device("bmc", 1), by_hand]);
    bench.input(Input::Vouch { id: 1 });
    assert_eq!(bench.said, [Output::Vouched { id: 1, ended: 0 }]);
    bench.input(Input::Fence { id: 2 });
    bench.wait_ms(20_000);
    assert!(bench.events().contains(&&Event::ByHand));
    bench.wait_ms(300_000);
    assert_eq!(bench.fenced(2), None);
    bench.input(Input::Vouch { id: 3 });
    assert!(bench.said.contains(&Output::Vouched { id: 3, ended: 1 }));
    assert_eq!(bench.fenced(2), Some(Outcome::ConfirmedOff));
    // Nobody vouches in time: there was nothing that could have answered.
    bench.input(Input::Fence { id: 4 });
    let _ = bench.asked.pop_front();
    bench.wait_ms(20_000);
    bench.wait_ms(600_000);
    assert_eq!(bench.fenced(4), Some(Outcome::Unavailable));
}

#[test]
fn other_devices_begin_again() {
    let mut bench = Bench::new(vec![device("old", 1)]);
    bench.input(Input::Fence { id: 1 });
    bench.input(Input::Test { id: 2 });
    let (old, ..) = bench.take(0, Question::Off);
    bench.input(Input::Devices(vec![device("new", 1)]));
    bench.answer_to(old, Answer::Accepted);
    bench.answer(0, Question::Off, Answer::Accepted);
    bench.answer(0, Question::Power, OFF);
    assert_eq!(bench.fenced(1), Some(Outcome::ConfirmedOff));
    bench.answer(0, Question::Power, ON);
    let answers = Some(vec![Tested {
        device: 0,
        reply: reply(ON),
    }]);
    assert!(bench.said.contains(&Output::Tested { id: 2, answers }));
}

#[test]
fn devices_are_tested_by_the_hour_and_a_failure_is_an_alarm() {
    let mut bench = Bench::new(vec![device("bmc", 1)]);
    bench.wait_ms(TEST_FIRST_MS);
    bench.answer(0, Question::Power, ON);
    assert!(bench.said.is_empty(), "that it works is no news");
    bench.wait_ms(TEST_EVERY_MS);
    bench.answer(0, Question::Power, no("wrong password"));
    assert_eq!(bench.core.failing().len(), 1);
    let told = bench.events()[0].to_string();
    assert!(
        told.contains("alarm: fencing device bmc failed its test: wrong password"),
        "{told}"
    );
    bench.wait_ms(TEST_EVERY_MS - 1);
    assert!(bench.asked.is_empty());
    bench.wait_ms(1);
    bench.answer(0, Question::Power, OFF);
    assert!(bench.core.failing().is_empty());
    let device = "bmc".to_owned();
    assert_eq!(bench.events()[1], &Event::TestGood { device });
}

/// Somebody turns a box on again while its other supply is not off yet: a test of its device
/// finds that, and the run has to hear of it.
#[test]
fn r11_a_device_that_says_on_to_a_test_takes_its_word_back() {
    let mut bench = Bench::new(vec![device("left", 1), device("right", 1)]);
    bench.input(Input::Fence { id: 1 });
    bench.answer(0, Question::Off, Answer::Accepted);
    bench.answer(0, Question::Power, OFF);
    bench.input(Input::Test { id: 2 });
    bench.answer(0, Question::Power, ON);
    bench.answer(1, Question::Off, Answer::Accepted);
    while let Some((question, ..)) = bench
        .asked
        .iter()
        .position(|(_, at, _)| *at == 1)
        .map(|at| bench.asked.remove(at).expect("it was found there"))
    {
        bench.answer_to(question, OFF);
    }
    assert_eq!(bench.fenced(1), None, "left has power");
    let outcome = bench.outcome(1, |_, what, _| match what {
        Question::Off => Answer::Accepted,
        Question::Power => OFF,
    });
    assert_eq!(outcome, Outcome::ConfirmedOff);
}

proptest::proptest! {
    /// Whatever devices answer, in whatever order and however late: a box counts as off only if
    /// each device of some level said so after a command of this run.
    #[test]
    fn r11_nothing_but_off_is_off(steps in proptest::collection::vec((0..6u8, 0..4usize), 1..300)) {
        let shared = Device { bus: "left".to_owned(), ..device("again", 2) };
        let devices = vec![device("left", 1), device("right", 1), shared];
        let mut bench = Bench::new(devices);
        let mut off = [false; 3];
        let mut id = 0;
        bench.input(Input::Fence { id });
        for (step, pick) in steps {
            let picked = (!bench.asked.is_empty()).then(|| pick % bench.asked.len());
            let asked = picked.and_then(|at| bench.asked.remove(at));
            match (step, asked) {
                (0, asked) => {
                    bench.asked.extend(asked);
                    bench.wait_ms(700);
                }
                (1, asked) => {
                    bench.asked.extend(asked);
                    bench.wait_ms(21_000);
                }
                (_, None) => bench.wait_ms(500),
                (2, Some((question, ..))) => bench.answer_to(question, no("broken")),
                (3, Some((question, number, _))) => {
                    off[number] = false;
                    bench.answer_to(question, ON);
                }
                (4, Some((question, number, Question::Power))) => {
                    off[number] = true;
                    bench.answer_to(question, OFF);
                }
                (_, Some((question, ..))) => bench.answer_to(question, Answer::Accepted),
            }
            if let Some(outcome) = bench.fenced(id) {
                if outcome == Outcome::ConfirmedOff {
                    proptest::prop_assert!(off[0] && off[1] || off[2]);
                }
                off = [false; 3];
                id += 1;
                bench.input(Input::Fence { id });
            }
            let bus = |(_, number, _): &(QuestionId, usize, Question)| *number % 2;
            let distinct: BTreeSet<_> = bench.asked.iter().map(bus).collect();
            proptest::prop_assert_eq!(distinct.len(), bench.asked.len());
        }
    }
}
