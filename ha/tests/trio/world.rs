//! Two boxes and a witness in virtual time: a lossy network, a record store that loses what was
//! not durable, an engine that answers like the real one, clocks that run apart, and an oracle.
//!
//! Fault model. Datagrams are lost, duplicated and reordered on each directed link, and links are
//! cut in one or both directions. A process can be killed and restarted, its kernel rebooted, or
//! stopped and resumed. A record under way to disk at a kill is either there or not. Clocks
//! differ in rate by up to eps. Nothing lies, and nobody without the key speaks.
//!
//! The oracle: an acknowledged write is in the log of whoever acknowledges or reads later; two
//! leases never overlap in true time; two boxes never go on alone at once; an epoch is chosen
//! once; nobody outside S promotes.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use ha::node::{Event, OperatorCommand};
use ha::wire::Message;
use ha::witness;
use ha::{
    Attached, BootId, DataState, DiskInstance, GroupId, Incarnation, Input, Lease, LinkId, Node,
    NodeId, Now, Output, Params, PeerAddr, PersistId, Policy, Record, Resource, Role, Time, Timing,
    VoterInstance, Witness, WitnessParams,
};

use crate::engine::{self, Engine, Frame, Reaction};
use crate::oracle::Oracle;

pub(crate) const A: NodeId = NodeId(1);
pub(crate) const B: NodeId = NodeId(2);
pub(crate) const W: NodeId = NodeId(3);
pub(crate) const GROUP: GroupId = GroupId(0xabc);
pub(crate) const KEY: [u8; 32] = [7; 32];
pub(crate) const MS: u64 = 1_000_000;
const WITNESS_LINK: LinkId = LinkId(9);
const DATA_LINK: LinkId = LinkId(200);

/// A seeded generator; the same seed means the same history for ever.
#[derive(Debug)]
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[usize::try_from(self.below(items.len() as u64)).expect("below the length")]
    }

    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Debug)]
enum Due {
    Datagram {
        from: NodeId,
        to: NodeId,
        link: LinkId,
        bytes: Vec<u8>,
    },
    Frame {
        from: NodeId,
        to: NodeId,
        frame: Frame,
    },
    Persisted {
        node: NodeId,
        process: u128,
        id: PersistId,
    },
    Wake {
        node: NodeId,
    },
    Engine {
        node: NodeId,
        process: u128,
        reaction: Reaction,
    },
}

impl Due {
    const fn node(&self) -> NodeId {
        match self {
            Self::Datagram { to, .. } | Self::Frame { to, .. } => *to,
            Self::Persisted { node, .. } | Self::Wake { node } | Self::Engine { node, .. } => *node,
        }
    }
}

#[derive(Debug)]
struct Item {
    at: u64,
    order: u64,
    due: Due,
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Item {}
impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Item {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// What runs on one machine.
#[derive(Debug)]
pub(crate) enum Body {
    Off,
    Box(Box<Node>, Box<Engine>),
    Witness(Box<Witness>),
}

/// One machine: its clock, its disk, its process.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) body: Body,
    pub(crate) process: u128,
    pub(crate) boot: u128,
    pub(crate) rate_ppm: i64,
    pub(crate) stopped: bool,
    /// Time that `CLOCK_MONOTONIC` missed.
    pub(crate) suspended_ns: u64,
    pub(crate) record: Vec<u8>,
    writing: Option<(PersistId, Vec<u8>)>,
    /// The data area: it survives the process.
    pub(crate) disk: engine::Disk,
    pub(crate) attached: Attached,
    waiting: Vec<Due>,
    pub(crate) events: Vec<(u64, String)>,
    pub(crate) answers: Vec<(u64, Result<(), String>)>,
    pub(crate) started: Vec<Resource>,
    /// How long this one's disk takes for a record, if not as the weather says.
    pub(crate) fsync_us: Option<u64>,
    /// A start of this resource fails.
    pub(crate) broken: Option<Resource>,
}

/// Faults of the network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub(crate) loss_percent: u64,
    pub(crate) duplicate_percent: u64,
    pub(crate) delay_min_us: u64,
    pub(crate) delay_max_us: u64,
    pub(crate) fsync_max_us: u64,
}

impl Weather {
    pub(crate) const CALM: Self = Self {
        loss_percent: 0,
        duplicate_percent: 0,
        delay_min_us: 50,
        delay_max_us: 500,
        fsync_max_us: 3_000,
    };
}

#[derive(Debug)]
pub(crate) struct Trio {
    pub(crate) now: u64,
    pub(crate) random: Random,
    pub(crate) machines: BTreeMap<NodeId, Machine>,
    pub(crate) cut: BTreeSet<(NodeId, NodeId)>,
    /// Cut for datagrams only, or for the data session only.
    pub(crate) cut_links: BTreeSet<(NodeId, NodeId, LinkId)>,
    pub(crate) weather: Weather,
    pub(crate) oracle: Oracle,
    pub(crate) timing: Timing,
    queue: BinaryHeap<Item>,
    order: u64,
    /// Data sessions that lost a frame.
    broken: BTreeSet<u64>,
    pub(crate) delivered: u64,
    /// Datagrams that a test wants to keep instead of delivering.
    pub(crate) held_back: Vec<(NodeId, NodeId, LinkId, Vec<u8>)>,
    pub(crate) hold: Option<fn(NodeId, NodeId, &Message) -> bool>,
    pub(crate) trace: bool,
}

/// Puts the fault that the environment names into the cores of this process.
pub(crate) fn choose_mutant() {
    #[cfg(feature = "mutants")]
    if let Ok(name) = std::env::var("MUTANT") {
        ha::mutants::choose(&name).unwrap();
    }
}

impl Trio {
    /// A blank second box, a blank witness, and a first box with a new group; all running.
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(seed, Timing::default())
    }

    pub(crate) fn with(seed: u64, timing: Timing) -> Self {
        choose_mutant();
        let mut trio = Self {
            now: 1_000_000 * MS,
            random: Random(seed),
            machines: BTreeMap::new(),
            cut: BTreeSet::new(),
            cut_links: BTreeSet::new(),
            weather: Weather::CALM,
            oracle: Oracle::default(),
            timing,
            queue: BinaryHeap::new(),
            order: 0,
            broken: BTreeSet::new(),
            delivered: 0,
            held_back: Vec::new(),
            hold: None,
            trace: std::env::var_os("TRIO_TRACE").is_some(),
        };
        let disk = DiskInstance(0xd1);
        let ids = (VoterInstance(0x11), disk);
        let first = ha::genesis(GROUP, A, ids, timing, Policy::Witness).unwrap();
        let records = [
            (A, first, Some(disk)),
            (B, ha::blank(VoterInstance(0x22)), Some(DiskInstance(0xd2))),
            (W, ha::blank(VoterInstance(0x33)), None),
        ];
        for (node, record, disk) in records {
            let machine = Machine {
                body: Body::Off,
                process: 0,
                boot: 100,
                rate_ppm: 0,
                stopped: false,
                suspended_ns: 0,
                record: record.encode(),
                writing: None,
                disk: engine::Disk::new(disk),
                attached: Attached::Yes,
                waiting: Vec::new(),
                events: Vec::new(),
                answers: Vec::new(),
                started: Vec::new(),
                fsync_us: None,
                broken: None,
            };
            trio.machines.insert(node, machine);
        }
        for node in [A, B, W] {
            trio.start(node);
        }
        trio
    }

    /// A trio in which both boxes are in sync and everybody votes.
    pub(crate) fn in_sync(seed: u64) -> Self {
        let mut trio = Self::new(seed);
        trio.settle();
        trio.run(450);
        trio
    }

    /// Runs until both boxes are in sync under one primary that serves.
    pub(crate) fn settle(&mut self) {
        let done = self.run_until(20_000, Self::is_settled);
        assert!(done, "did not settle: {}", self.describe());
    }

    pub(crate) fn is_settled(trio: &Self) -> bool {
        trio.primary().is_some_and(|node| {
            let status = trio.node(node).status();
            let config = status.config.as_ref().unwrap();
            status.role == Role::PrimarySync
                && status.serving
                && config.voters.len() == 3
                && matches!(status.lease, Lease::Until(_))
        })
    }

    pub(crate) fn clock(&self, node: NodeId) -> Now {
        let machine = &self.machines[&node];
        let rate = i128::from(machine.rate_ppm) + 1_000_000;
        let boot = u64::try_from(i128::from(self.now) * rate / 1_000_000).unwrap();
        Now {
            boot: Time(boot),
            mono: Time(boot - machine.suspended_ns),
        }
    }

    /// True time at which the boot clock of `node` shows `at`, rounded up.
    fn true_time(&self, node: NodeId, at: Time) -> u64 {
        let rate = i128::from(self.machines[&node].rate_ppm) + 1_000_000;
        let time = (i128::from(at.0) * 1_000_000 + rate - 1).div_euclid(rate);
        u64::try_from(time).unwrap_or(u64::MAX)
    }

    pub(crate) fn node(&self, node: NodeId) -> &Node {
        match &self.machines[&node].body {
            Body::Box(node, _) => node,
            Body::Off | Body::Witness(_) => panic!("{node} is no running box"),
        }
    }

    pub(crate) fn engine(&self, node: NodeId) -> &Engine {
        match &self.machines[&node].body {
            Body::Box(_, engine) => engine,
            Body::Off | Body::Witness(_) => panic!("{node} is no running box"),
        }
    }

    pub(crate) fn is_on(&self, node: NodeId) -> bool {
        !matches!(self.machines[&node].body, Body::Off)
    }

    pub(crate) fn record(&self, node: NodeId) -> Record {
        Record::decode(&self.machines[&node].record).unwrap()
    }

    /// The box whose engine holds the authority, if there is exactly one.
    pub(crate) fn primary(&self) -> Option<NodeId> {
        let mut primaries = [A, B]
            .into_iter()
            .filter(|node| match &self.machines[node].body {
                Body::Box(_, engine) => engine.is_primary(),
                Body::Off | Body::Witness(_) => false,
            });
        let first = primaries.next()?;
        primaries.next().is_none().then_some(first)
    }

    /// Starts the process of `node` with what is on its disk.
    pub(crate) fn start(&mut self, node: NodeId) {
        assert!(!self.is_on(node), "{node} runs already");
        let process = u128::from(self.random.next()) | 1;
        let seed = self.random.next();
        let now = self.clock(node);
        let timing = self.timing;
        let machine = self.machines.get_mut(&node).unwrap();
        machine.process = process;
        machine.stopped = false;
        machine.started.clear();
        let record = Record::decode(&machine.record).unwrap();
        if node == W {
            let params = WitnessParams {
                me: W,
                instance: record.instance,
                incarnation: Incarnation(process),
                boot: BootId(machine.boot),
                keys: vec![(GROUP, KEY)],
            };
            let witness = Witness::new(params, vec![(GROUP, record)], now);
            machine.body = Body::Witness(Box::new(witness));
            return;
        }
        let peer = if node == A { B } else { A };
        let params = Params {
            group: GROUP,
            me: node,
            peer,
            witness: W,
            incarnation: Incarnation(process),
            boot: BootId(machine.boot),
            key: KEY,
            links: vec![LinkId(0), LinkId(1)],
            witness_link: WITNESS_LINK,
            software: 1,
            seed,
        };
        let seal = record
            .group
            .as_ref()
            .map_or(ha::Epoch::ZERO, |state| state.seal);
        let engine = Engine::new(node, process, seal, timing);
        machine.body = Body::Box(Box::new(Node::new(params, record, now)), Box::new(engine));
        let data = DataState {
            attached: machine.attached.clone(),
            disk: machine.disk.instance,
        };
        self.drain(node);
        self.input(node, Input::Data(data));
    }

    /// Kills the process. A record under way to the disk is there or not.
    pub(crate) fn kill(&mut self, node: NodeId) {
        let lands = self.random.percent(50);
        let machine = self.machines.get_mut(&node).unwrap();
        machine.body = Body::Off;
        machine.waiting.clear();
        machine.stopped = false;
        if let Some((_, bytes)) = machine.writing.take().filter(|_| lands) {
            self.oracle.record(node, &Record::decode(&bytes).unwrap());
            machine.record = bytes;
        }
    }

    pub(crate) fn restart(&mut self, node: NodeId) {
        self.kill(node);
        self.start(node);
    }

    /// SIGSTOP: everything waits in its queue.
    pub(crate) fn stop(&mut self, node: NodeId) {
        self.machines.get_mut(&node).unwrap().stopped = true;
    }

    /// SIGCONT: what waited is handled at once, as a kernel would deliver it.
    pub(crate) fn resume(&mut self, node: NodeId) {
        let machine = self.machines.get_mut(&node).unwrap();
        machine.stopped = false;
        let waiting = std::mem::take(&mut machine.waiting);
        for due in waiting {
            self.fire(due);
        }
        self.wake(node);
    }

    /// Cuts everything between two participants, in both directions.
    pub(crate) fn cut(&mut self, one: NodeId, other: NodeId) {
        self.cut.insert((one, other));
        self.cut.insert((other, one));
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
        self.cut_links.clear();
    }

    pub(crate) fn isolate(&mut self, node: NodeId) {
        for other in [A, B, W] {
            if other != node {
                self.cut(node, other);
            }
        }
    }

    fn push(&mut self, at: u64, due: Due) {
        self.order += 1;
        self.queue.push(Item {
            at: at.max(self.now),
            order: self.order,
            due,
        });
    }

    /// Runs for `ms` of true time.
    pub(crate) fn run(&mut self, ms: u64) {
        let _ = self.run_until(ms, |_| false);
    }

    /// Runs until the condition holds; false if it did not within `ms`.
    pub(crate) fn run_until(&mut self, ms: u64, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + ms * MS;
        loop {
            if done(self) {
                return true;
            }
            match self.queue.peek() {
                Some(item) if item.at <= end => {}
                Some(_) | None => break,
            }
            let item = self.queue.pop().unwrap();
            self.now = self.now.max(item.at);
            self.fire(item.due);
            self.delivered += 1;
            self.look();
        }
        self.now = end;
        self.look();
        done(self)
    }

    fn fire(&mut self, due: Due) {
        let node = due.node();
        let machine = self.machines.get_mut(&node).unwrap();
        if machine.stopped {
            return machine.waiting.push(due);
        }
        if matches!(machine.body, Body::Off) {
            return;
        }
        match due {
            Due::Datagram {
                from,
                to,
                link,
                bytes,
            } => match machine.body {
                Body::Witness(_) => {
                    let from = PeerAddr(u64::from(from.0));
                    self.witness(witness::Input::Datagram { from, bytes });
                }
                Body::Box(..) => self.input(to, Input::Datagram { link, bytes }),
                Body::Off => {}
            },
            Due::Persisted { node, process, id } => {
                if machine.process != process {
                    return;
                }
                if let Some((_, bytes)) = machine.writing.take_if(|writing| writing.0 == id) {
                    self.oracle.record(node, &Record::decode(&bytes).unwrap());
                    machine.record = bytes;
                }
                if node == W {
                    self.witness(witness::Input::Persisted { group: GROUP, id });
                } else {
                    self.input(node, Input::Persisted { id });
                }
            }
            Due::Wake { node } => self.wake(node),
            Due::Frame { from, to, frame } => self.frame(from, to, frame),
            Due::Engine {
                node,
                process,
                reaction,
            } => {
                if machine.process == process {
                    self.react(node, reaction);
                }
            }
        }
    }

    fn wake(&mut self, node: NodeId) {
        let now = self.clock(node);
        let Body::Box(core, _) = &self.machines[&node].body else {
            return;
        };
        if core.poll_timeout().is_some_and(|at| at <= now.boot) {
            self.input(node, Input::Timeout);
        } else {
            self.arm(node);
        }
    }

    fn arm(&mut self, node: NodeId) {
        let Body::Box(core, _) = &self.machines[&node].body else {
            return;
        };
        if let Some(at) = core.poll_timeout() {
            let at = self.true_time(node, at);
            self.push(at, Due::Wake { node });
        }
    }

    pub(crate) fn input(&mut self, node: NodeId, input: Input) {
        let now = self.clock(node);
        let Body::Box(core, _) = &mut self.machines.get_mut(&node).unwrap().body else {
            return;
        };
        core.handle(now, input);
        core.check_full();
        self.drain(node);
        self.arm(node);
    }

    pub(crate) fn switchover(&mut self, node: NodeId, id: u64) {
        let command = OperatorCommand::Switchover { to: None };
        self.input(node, Input::Operator { id, command });
    }

    pub(crate) fn answer(&self, node: NodeId, id: u64) -> Option<Result<(), String>> {
        let answers = &self.machines[&node].answers;
        answers
            .iter()
            .find(|answer| answer.0 == id)
            .map(|answer| answer.1.clone())
    }

    fn witness(&mut self, input: witness::Input) {
        let now = self.clock(W);
        let machine = self.machines.get_mut(&W).unwrap();
        let Body::Witness(witness) = &mut machine.body else {
            return;
        };
        witness.handle(now, input);
        let mut outputs = Vec::new();
        while let Some(output) = witness.poll_output() {
            outputs.push(output);
        }
        for output in outputs {
            match output {
                witness::Output::Persist { id, record, .. } => self.persist(W, id, &record),
                witness::Output::Send { to, bytes } => {
                    let to = NodeId(u8::try_from(to.0).unwrap());
                    self.transmit(W, to, WITNESS_LINK, bytes);
                }
                witness::Output::Event(event) => {
                    let text = event.to_string();
                    self.note(W, text);
                }
            }
        }
    }

    fn note(&mut self, node: NodeId, text: String) {
        if self.trace {
            println!("{:>9.3} ms {node}: {text}", self.now as f64 / 1e6);
        }
        let now = self.now;
        self.machines
            .get_mut(&node)
            .unwrap()
            .events
            .push((now, text));
    }

    fn persist(&mut self, node: NodeId, id: PersistId, record: &Record) {
        let usual = 100 + self.random.below(self.weather.fsync_max_us);
        let delay = self.machines[&node].fsync_us.unwrap_or(usual);
        let at = self.now + delay * 1000;
        let machine = self.machines.get_mut(&node).unwrap();
        assert!(machine.writing.is_none(), "one persist at a time");
        let process = machine.process;
        machine.writing = Some((id, record.encode()));
        self.push(at, Due::Persisted { node, process, id });
    }

    fn delay(&mut self) -> u64 {
        let weather = self.weather;
        let spread = weather.delay_max_us - weather.delay_min_us;
        (weather.delay_min_us + self.random.below(spread)) * 1000
    }

    /// Law R0: a ballot leaves only when its counter is durable at its proposer.
    fn check_ballot(&self, from: NodeId, bytes: &[u8]) {
        let ballot = match ha::wire::decode(&KEY, bytes).unwrap().1 {
            Message::Prepare(ballot) => ballot,
            Message::Accept { ballot, next, .. } => next.unwrap_or(ballot).max(ballot),
            Message::Hello
            | Message::Heartbeat(_)
            | Message::Ack(_)
            | Message::Promise { .. }
            | Message::Accepted { .. }
            | Message::Nack { .. }
            | Message::Learn { .. } => return,
        };
        let durable = self.record(from).group.map_or(0, |state| state.counter);
        assert!(
            ballot.counter <= durable,
            "{ballot:?} left before it was durable at {from}"
        );
    }

    /// Puts a datagram on the wire.
    pub(crate) fn transmit(&mut self, from: NodeId, to: NodeId, link: LinkId, bytes: Vec<u8>) {
        if let Some(hold) = self.hold {
            let (_, message) = ha::wire::decode(&KEY, &bytes).unwrap();
            if hold(from, to, &message) {
                return self.held_back.push((from, to, link, bytes));
            }
        }
        if bytes[7] == 4 || bytes[7] == 6 {
            self.check_ballot(from, &bytes);
        }
        if self.trace {
            let (_, message) = ha::wire::decode(&KEY, &bytes).unwrap();
            if !matches!(message, Message::Heartbeat(_) | Message::Ack(_)) {
                println!(
                    "{:>9.3} ms {from} -> {to}: {message:?}",
                    self.now as f64 / 1e6
                );
            }
        }
        let cut = self.cut.contains(&(from, to)) || self.cut_links.contains(&(from, to, link));
        if cut || self.random.percent(self.weather.loss_percent) {
            return;
        }
        if self.random.percent(self.weather.duplicate_percent) {
            let at = self.now + self.delay();
            self.push(
                at,
                Due::Datagram {
                    from,
                    to,
                    link,
                    bytes: bytes.clone(),
                },
            );
        }
        let at = self.now + self.delay();
        self.push(
            at,
            Due::Datagram {
                from,
                to,
                link,
                bytes,
            },
        );
    }

    /// Delivers what was held back, now.
    pub(crate) fn release(&mut self) {
        self.hold = None;
        for (from, to, link, bytes) in std::mem::take(&mut self.held_back) {
            self.push(
                self.now,
                Due::Datagram {
                    from,
                    to,
                    link,
                    bytes,
                },
            );
        }
    }

    fn drain(&mut self, node: NodeId) {
        loop {
            let machine = self.machines.get_mut(&node).unwrap();
            let Body::Box(core, _) = &mut machine.body else {
                return;
            };
            let Some(output) = core.poll_output() else {
                return;
            };
            self.output(node, output);
        }
    }

    fn output(&mut self, node: NodeId, output: Output) {
        if self.trace {
            match &output {
                Output::Send { .. } | Output::Lease(Lease::Until(_)) | Output::Event(_) => {}
                other @ (Output::Persist { .. }
                | Output::Lease(_)
                | Output::Seal { .. }
                | Output::Authority(_)
                | Output::Handover { .. }
                | Output::HandoverCancelled { .. }
                | Output::Start(_)
                | Output::Stop(_)
                | Output::Answer { .. }) => {
                    let text = format!("{other:?}");
                    println!("{:>9.3} ms {node}: {text:.150}", self.now as f64 / 1e6);
                }
            }
        }
        match output {
            Output::Persist { id, record } => self.persist(node, id, &record),
            Output::Send { to, link, bytes } => self.transmit(node, to, link, bytes),
            Output::Start(resource) => {
                let machine = self.machines.get_mut(&node).unwrap();
                let broken = machine.broken == Some(resource);
                if !broken {
                    machine.started.push(resource);
                }
                let result = if broken {
                    Err(String::from("broken"))
                } else {
                    Ok(())
                };
                let input = Reaction::Input(Box::new(Input::Started { resource, result }));
                self.later(node, 1_000, input);
            }
            Output::Stop(resource) => {
                let machine = self.machines.get_mut(&node).unwrap();
                machine.started.retain(|started| *started != resource);
                let input = Reaction::Input(Box::new(Input::Stopped { resource }));
                self.later(node, 1_000, input);
            }
            Output::Answer { id, result } => {
                self.machines
                    .get_mut(&node)
                    .unwrap()
                    .answers
                    .push((id, result));
            }
            Output::Event(event) => {
                if let Event::Chosen { config } = &event {
                    self.oracle.known(node, config);
                }
                self.note(node, event.to_string());
            }
            Output::Lease(lease) => self.with_engine(node, |engine, _| engine.lease = lease),
            Output::Seal { epoch } => self.with_engine(node, |engine, _| engine.seal(epoch)),
            Output::Authority(authority) => {
                self.with_engine(node, |engine, disk| engine.authority(authority, disk));
            }
            Output::Handover { epoch } => {
                self.with_engine(node, |engine, _| engine.handover(epoch));
            }
            Output::HandoverCancelled { .. } => {
                self.with_engine(node, |engine, _| engine.cancelled());
            }
        }
    }

    /// Calls the engine, then sees to what it wants.
    fn with_engine(&mut self, node: NodeId, call: impl FnOnce(&mut Engine, &mut engine::Disk)) {
        let now = self.clock(node).boot;
        let machine = self.machines.get_mut(&node).unwrap();
        let Body::Box(_, engine) = &mut machine.body else {
            return;
        };
        engine.now = now;
        call(engine, &mut machine.disk);
        let reactions = engine.take_reactions();
        for (delay_us, reaction) in reactions {
            self.later(node, delay_us, reaction);
        }
        self.settle_writes(node);
    }

    fn settle_writes(&mut self, node: NodeId) {
        let machine = self.machines.get_mut(&node).unwrap();
        let Body::Box(_, engine) = &mut machine.body else {
            return;
        };
        for write in engine.take_acknowledged() {
            self.oracle
                .acknowledged(node, write, &machine.disk.log, self.now);
        }
    }

    fn later(&mut self, node: NodeId, delay_us: u64, reaction: Reaction) {
        let process = self.machines[&node].process;
        let at = self.now + delay_us * 1000;
        self.push(
            at,
            Due::Engine {
                node,
                process,
                reaction,
            },
        );
    }

    fn react(&mut self, node: NodeId, reaction: Reaction) {
        match reaction {
            Reaction::Input(input) => {
                if let Input::Sealed { epoch } = *input {
                    self.with_engine(node, |engine, _| engine.seal_done(epoch));
                }
                self.input(node, *input);
            }
            Reaction::Tick => self.tick(node),
            Reaction::Send(frame) => {
                let to = if node == A { B } else { A };
                let cut = self.cut.contains(&(node, to))
                    || self.cut_links.contains(&(node, to, DATA_LINK));
                // TCP: no loss, no reordering; what is lost in a cut ends the session.
                if cut {
                    self.broken.insert(frame.session());
                }
                if !self.broken.contains(&frame.session()) {
                    let at = self.now + 200_000;
                    self.push(
                        at,
                        Due::Frame {
                            from: node,
                            to,
                            frame,
                        },
                    );
                }
            }
        }
    }

    fn tick(&mut self, node: NodeId) {
        let write = self.random.next();
        self.with_engine(node, |engine, disk| engine.tick(write, disk));
        let now = self.clock(node).boot;
        let machine = self.machines.get_mut(&node).unwrap();
        let Body::Box(_, engine) = &mut machine.body else {
            return;
        };
        if engine.may_read(now) {
            self.oracle.read(node, &machine.disk.log, self.now);
        }
    }

    fn frame(&mut self, from: NodeId, to: NodeId, frame: Frame) {
        let _ = from;
        self.with_engine(to, |engine, disk| engine.frame(frame, disk));
    }

    /// The oracle looks at the whole after every event.
    fn look(&mut self) {
        let mut leases = Vec::new();
        let mut alone = Vec::new();
        for node in [A, B] {
            let now = self.clock(node).boot;
            if let Body::Box(_, engine) = &self.machines[&node].body {
                if engine.may_read(now) {
                    leases.push(node);
                }
                if engine.needs_only_itself() {
                    alone.push(node);
                }
            }
        }
        assert!(
            leases.len() < 2,
            "two leases at {} ns: {}",
            self.now,
            self.describe()
        );
        assert!(
            alone.len() < 2,
            "two boxes alone at {} ns: {}",
            self.now,
            self.describe()
        );
    }

    pub(crate) fn describe(&self) -> String {
        let mut text = format!("t={} ms; ", self.now / MS);
        for node in [A, B] {
            match &self.machines[&node].body {
                Body::Box(core, engine) => {
                    let status = core.status();
                    text += &format!(
                        "{node}: {} epoch {} lease {:?} authority {:?} serving {} why {:?}; ",
                        status.role,
                        status.epoch,
                        status.lease,
                        engine.authority,
                        status.serving,
                        status.why
                    );
                }
                Body::Off | Body::Witness(_) => text += &format!("{node} off; "),
            }
        }
        text
    }

    /// Whether an event of `node` contains `text`.
    pub(crate) fn saw(&self, node: NodeId, text: &str) -> bool {
        self.machines[&node]
            .events
            .iter()
            .any(|event| event.1.contains(text))
    }
}
