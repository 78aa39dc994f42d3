//! Tests: every device is asked about the power, by an operator or by the hour. Nothing is turned
//! off, and a run goes before a test.

use std::collections::BTreeSet;

use super::{
    Answer, Event, Fencing, Hand, Output, Purpose, Question, Reply, TEST_EVERY_MS, TESTS_MAX,
    Tested,
};
use crate::types::Time;

/// A test under way.
#[derive(Debug)]
pub(super) struct Asking {
    number: u64,
    /// Who waits for it; none: it is the hourly one.
    id: Option<u64>,
    unasked: BTreeSet<usize>,
    asked: BTreeSet<usize>,
    answers: Vec<Tested>,
}

impl Fencing {
    pub(super) fn test(&mut self, id: u64) {
        let operators = self.tests.iter().filter(|test| test.id.is_some());
        if operators.count() >= TESTS_MAX {
            let answers = None;
            self.outputs.push_back(Output::Tested { id, answers });
            return;
        }
        self.begin_test(Some(id));
    }

    /// One hourly test at a time; the next is due an hour after the last was.
    pub(super) fn hourly(&mut self, now: Time) {
        if self.test_at.is_none_or(|at| now < at) {
            return;
        }
        self.test_at = Some(now.after_ms(TEST_EVERY_MS));
        if self.tests.iter().all(|test| test.id.is_some()) {
            self.begin_test(None);
        }
    }

    fn begin_test(&mut self, id: Option<u64>) {
        self.tests_begun += 1;
        let agents = self.devices.iter().enumerate();
        let agents = agents.filter(|(_, device)| device.hand == Hand::Agent);
        self.tests.push(Asking {
            number: self.tests_begun,
            id,
            unasked: agents.map(|(number, _)| number).collect(),
            asked: BTreeSet::new(),
            answers: Vec::new(),
        });
        self.end_tests();
    }

    pub(super) fn ask_tests(&mut self) {
        let due: Vec<(u64, usize)> = self
            .tests
            .iter()
            .flat_map(|test| test.unasked.iter().map(|device| (test.number, *device)))
            .collect();
        for (test, device) in due {
            if self.ask(device, Question::Power, Purpose::Test { test, device }) {
                let tests = self.tests.iter_mut();
                for asking in tests.filter(|asking| asking.number == test) {
                    asking.unasked.remove(&device);
                    asking.asked.insert(device);
                }
            }
        }
    }

    pub(super) fn test_answered(&mut self, test: u64, device: usize, reply: Reply) {
        let mut tests = self.tests.iter_mut();
        if let Some(asking) = tests.find(|asking| asking.number == test) {
            asking.asked.remove(&device);
            asking.answers.push(Tested { device, reply });
        }
        self.end_tests();
    }

    /// The devices are others now: what operators asked for begins again with these.
    pub(super) fn restart_tests(&mut self) {
        let tests = std::mem::take(&mut self.tests);
        for id in tests.iter().filter_map(|asking| asking.id) {
            self.begin_test(Some(id));
        }
    }

    fn end_tests(&mut self) {
        let ended = |asking: &Asking| asking.unasked.is_empty() && asking.asked.is_empty();
        while let Some(at) = self.tests.iter().position(ended) {
            let Asking {
                id, mut answers, ..
            } = self.tests.remove(at);
            answers.sort_by_key(|tested| tested.device);
            match id {
                Some(id) => {
                    let answers = Some(answers);
                    self.outputs.push_back(Output::Tested { id, answers });
                }
                None => self.judge(&answers),
            }
        }
    }

    fn judge(&mut self, answers: &[Tested]) {
        for Tested { device, reply } in answers {
            let name = self.devices[*device].name.clone();
            let event = match &reply.answer {
                Answer::Power(_) if self.failing.remove(device) => Event::TestGood { device: name },
                Answer::Power(_) => continue,
                Answer::Failed(why) => {
                    self.failing.insert(*device);
                    let why = why.clone();
                    Event::TestFailed { device: name, why }
                }
                Answer::Accepted => {
                    self.failing.insert(*device);
                    let why = "it answered something else".to_owned();
                    Event::TestFailed { device: name, why }
                }
            };
            self.outputs.push_back(Output::Event(event));
        }
    }
}
