//! The task that owns the core of fencing: requests come in, devices are asked, outcomes go out.

use core::future::pending;
use core::time::Duration;
use std::collections::BTreeMap;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::super::clock::{self, now};
use super::{Agent, failed};
use crate::fence::{Device, Event, Fencing, Input, Outcome, Output, QuestionId, Reply, Tested};

/// Requests on their way.
const REQUESTS_MAX: usize = 64;

/// One device as a test found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its name.
    pub device: String,
    /// What was asked and answered.
    pub reply: Reply,
}

enum Request {
    Devices(Vec<(Device, Agent)>),
    Fence(oneshot::Sender<Outcome>),
    Vouch(oneshot::Sender<usize>),
    Test(oneshot::Sender<Option<Vec<Report>>>),
}

/// The way to the task.
#[derive(Clone, Debug)]
pub struct DeskHandle(mpsc::Sender<Request>);

impl DeskHandle {
    /// Turns the other box off, whatever that takes, and says what became of it. Dropping this
    /// does not stop it.
    pub async fn fence(&self) -> Outcome {
        let (answer, answered) = oneshot::channel();
        // Without the task nothing is turned off.
        let _ = self.0.send(Request::Fence(answer)).await;
        answered.await.unwrap_or(Outcome::Unavailable)
    }

    /// An operator vouches that the other box is off. How many requests that ended; none: nobody
    /// waits for it.
    pub async fn vouch(&self) -> usize {
        let (answer, answered) = oneshot::channel();
        let _ = self.0.send(Request::Vouch(answer)).await;
        answered.await.unwrap_or(0)
    }

    /// Asks all devices about the power; none: too many tests are under way.
    pub async fn test(&self) -> Option<Vec<Report>> {
        let (answer, answered) = oneshot::channel();
        let _ = self.0.send(Request::Test(answer)).await;
        answered.await.unwrap_or(None)
    }

    /// The devices that turn the other box off, from now on.
    pub async fn devices(&self, devices: Vec<(Device, Agent)>) {
        let _ = self.0.send(Request::Devices(devices)).await;
    }
}

/// The task.
pub struct Desk {
    requests: mpsc::Receiver<Request>,
    core: Fencing,
    devices: Vec<(Device, Agent)>,
    asked: JoinSet<(QuestionId, Reply)>,
    /// Numbers of what is under way, by the task that asks it.
    questions: BTreeMap<tokio::task::Id, QuestionId>,
    used: u64,
    fences: BTreeMap<u64, oneshot::Sender<Outcome>>,
    vouches: BTreeMap<u64, oneshot::Sender<usize>>,
    tests: BTreeMap<u64, oneshot::Sender<Option<Vec<Report>>>>,
}

impl Desk {
    /// Without devices.
    #[must_use]
    pub fn new() -> (Self, DeskHandle) {
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let desk = Self {
            requests,
            core: Fencing::new(),
            devices: Vec::new(),
            asked: JoinSet::new(),
            questions: BTreeMap::new(),
            used: 0,
            fences: BTreeMap::new(),
            vouches: BTreeMap::new(),
            tests: BTreeMap::new(),
        };
        (desk, DeskHandle(sender))
    }

    /// Runs until every handle is gone; operators hear `events`, and `failing` gets the names of
    /// the devices that failed their last hourly test whenever that may have changed.
    pub async fn run(
        mut self,
        mut events: impl FnMut(Event),
        mut failing: impl FnMut(Vec<String>),
    ) {
        loop {
            let timer = self.core.poll_timeout();
            let input = tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => self.input(request),
                    None => return,
                },
                Some(done) = self.asked.join_next_with_id() => self.answer(done),
                () = due(timer) => Input::Timeout,
            };
            self.core.handle(now().boot, input);
            while let Some(output) = self.core.poll_output() {
                if let Some(event) = self.act(output) {
                    events(event);
                }
            }
            let names = self.core.failing().iter();
            failing(names.map(|it| self.devices[*it].0.name.clone()).collect());
        }
    }

    fn input(&mut self, request: Request) -> Input {
        self.used += 1;
        let id = self.used;
        match request {
            Request::Devices(devices) => {
                let known = devices.iter().map(|(device, _)| device.clone()).collect();
                self.devices = devices;
                Input::Devices(known)
            }
            Request::Fence(answer) => {
                self.fences.insert(id, answer);
                Input::Fence { id }
            }
            Request::Vouch(answer) => {
                self.vouches.insert(id, answer);
                Input::Vouch { id }
            }
            Request::Test(answer) => {
                self.tests.insert(id, answer);
                Input::Test { id }
            }
        }
    }

    fn answer(&mut self, done: Result<(tokio::task::Id, (QuestionId, Reply)), Gone>) -> Input {
        match done {
            Ok((task, (question, reply))) => {
                self.questions.remove(&task);
                Input::Answered { question, reply }
            }
            // A question that broke is a question without an answer.
            Err(gone) => match self.questions.remove(&gone.id()) {
                Some(question) => {
                    let reply = failed("a device", format!("the agent broke: {gone}"));
                    Input::Answered { question, reply }
                }
                None => Input::Timeout,
            },
        }
    }

    /// Whoever asked may be gone: then the answer is for nobody.
    fn act(&mut self, output: Output) -> Option<Event> {
        match output {
            Output::Ask {
                question,
                device,
                what,
                within_ms,
            } => {
                let agent = self.devices[device].1.clone();
                let within = Duration::from_millis(within_ms.into());
                let asking = async move { (question, agent.ask(what, within).await) };
                let task = self.asked.spawn(asking).id();
                self.questions.insert(task, question);
            }
            Output::Fenced { id, outcome } => {
                let answer = self.fences.remove(&id);
                answer.map(|answer| answer.send(outcome));
            }
            Output::Vouched { id, ended } => {
                let answer = self.vouches.remove(&id);
                answer.map(|answer| answer.send(ended));
            }
            Output::Tested { id, answers } => {
                let reports = answers.map(|it| it.into_iter().map(|it| self.report(it)).collect());
                let answer = self.tests.remove(&id);
                answer.map(|answer| answer.send(reports));
            }
            Output::Event(event) => return Some(event),
        }
        None
    }

    fn report(&self, tested: Tested) -> Report {
        Report {
            device: self.devices[tested.device].0.name.clone(),
            reply: tested.reply,
        }
    }
}

type Gone = tokio::task::JoinError;

async fn due(timer: Option<crate::types::Time>) {
    match timer {
        Some(at) => tokio::time::sleep(clock::until(at)).await,
        None => pending().await,
    }
}
