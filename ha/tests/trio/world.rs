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

use ha::wire::Message;
use ha::{
    Attached, BootId, DataState, DiskInstance, GroupId, Incarnation, Input, Lease, LinkId, Node,
    NodeId, Now, Params, PersistId, Policy, Record, Resource, Role, Time, Timing, VoterInstance,
    Witness, WitnessParams,
};

use crate::engine::{self, Engine, Frame, Reaction};
use crate::oracle::Oracle;

pub(crate) const A: NodeId = NodeId(1);
pub(crate) const B: NodeId = NodeId(2);
pub(crate) const W: NodeId = NodeId(3);
pub(crate) const GROUP: GroupId = GroupId(0xabc);
pub(crate) const KEY: [u8; 32] = [7; 32];
pub(crate) const MS: u64 = 1_000_000;
pub(crate) const WITNESS_LINK: LinkId = LinkId(9);
pub(crate) const DATA_LINK: LinkId = LinkId(200);

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
pub(crate) enum Due {
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
    pub(crate) const fn node(&self) -> NodeId {
        match self {
            Self::Datagram { to, .. } | Self::Frame { to, .. } => *to,
            Self::Persisted { node, .. } | Self::Wake { node } | Self::Engine { node, .. } => *node,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) at: u64,
    pub(crate) order: u64,
    pub(crate) due: Due,
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
    pub(crate) writing: Option<(PersistId, Vec<u8>)>,
    /// The data area: it survives the process.
    pub(crate) disk: engine::Disk,
    pub(crate) attached: Attached,
    pub(crate) waiting: Vec<Due>,
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
    pub(crate) queue: BinaryHeap<Item>,
    pub(crate) order: u64,
    /// Data sessions that lost a frame.
    pub(crate) broken: BTreeSet<u64>,
    pub(crate) delivered: u64,
    /// Datagrams that a test wants to keep instead of delivering.
    pub(crate) held_back: Vec<(NodeId, NodeId, LinkId, Vec<u8>)>,
    pub(crate) hold: Option<fn(NodeId, NodeId, &Message) -> bool>,
    pub(crate) trace: bool,
}

/// Puts the mutant that the environment names into the cores of this process.
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
    pub(crate) fn true_time(&self, node: NodeId, at: Time) -> u64 {
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
        if matches!(machine.attached, Attached::Failed(_)) {
            machine.attached = Attached::Yes;
        }
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
            generation: 1,
            cache_lost: false,
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

    /// The disk of a running box fails; a restart finds it repaired.
    pub(crate) fn fail_disk(&mut self, node: NodeId) {
        let attached = Attached::Failed(String::from("a write failed"));
        let machine = self.machines.get_mut(&node).unwrap();
        let Body::Box(_, engine) = &mut machine.body else {
            return;
        };
        engine.failed = true;
        machine.attached = attached.clone();
        let disk = machine.disk.instance;
        let data = DataState {
            attached,
            disk,
            generation: 1,
            cache_lost: false,
        };
        self.input(node, Input::Data(data));
    }

    pub(crate) fn has_failed(&self, node: NodeId) -> bool {
        matches!(self.machines[&node].attached, Attached::Failed(_))
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
