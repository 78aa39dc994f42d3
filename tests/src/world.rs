//! A world of two boxes, a witness, disks, wires, initiators and an operator, in virtual time.
//!
//! One queue of events in the order of (true time, number); one seed decides everything. After each
//! event the oracle looks at the whole world. Machines see time through clocks of their own.

pub mod content;
pub mod copies;
pub mod history;
pub mod inflict;
pub mod ladder;
pub mod mishaps;
pub mod outputs;
pub mod plumbing;
pub mod story;
pub mod trace;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::client::{Client, Issued, Volume};
use crate::faults::{Fault, Options};
use crate::net::{BOXES, Host, Link, Net, Step};
use crate::node::{Delivery, Machine, Sentry};
use crate::oracle::authority::{self, Right};
use crate::oracle::register::Moment;
use crate::oracle::{Breach, Data, Reign};
use crate::rng::Rng;
use crate::trim::Trim;
use inflict::Undo;
use trace::{Counts, Trace};

/// A millisecond in nanoseconds.
pub const MS: u64 = 1_000_000;

/// Something that happens at a moment of true time.
#[derive(Debug)]
pub enum Event {
    /// A core of a process asked to be called; also the witness's.
    Timer(Host, u32, Core),
    /// A datagram arrives.
    Datagram {
        /// Sender.
        from: Host,
        /// Receiver.
        to: Host,
        /// On which wire.
        link: Link,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Something on a session may be ready.
    Session(Step),
    /// A disk command of the given start of the process ends.
    Disk(Host, u32, crate::disk::Ticket, u32),
    /// An input reaches a box's process of that start.
    Deliver(Host, u32, Delivery),
    /// A record becomes durable.
    Stored(Host, u32),
    /// The peer's kernel sees a dial.
    Dial(Host, u32),
    /// A process starts, unless one runs.
    Boot(Host),
    /// A stopped process goes on.
    Resume(Host, u32),
    /// An initiator thinks.
    Think(usize),
    /// A box dies at a turning point of a copy.
    Doom(Host, copies::Power),
    /// The next fault is due.
    Fault,
    /// A fault ends.
    Undo(Undo),
}

/// Which core of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Core {
    /// The mirror.
    Engine,
    /// The authority of a box, or the witness.
    Node,
}

#[derive(Debug)]
struct Scheduled {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Everything.
#[derive(Debug)]
pub struct World {
    /// The seed, for the message of a breach.
    pub seed: u64,
    /// What the seed decided.
    pub options: Options,
    /// True time in nanoseconds.
    pub now: u64,
    /// Number of the last thing that the oracle was told.
    pub moment: Moment,
    /// Events delivered.
    pub delivered: u64,
    /// Faults may begin.
    pub stormy: bool,
    /// Initiators may issue commands.
    pub loaded: bool,
    /// Counters for the report.
    pub counts: Counts,
    /// What happened, in words, if anybody wants to read it.
    pub trace: Trace,
    pub(crate) rng: Rng,
    pub(crate) net: Net,
    pub(crate) machines: [Machine; 2],
    pub(crate) witness: Sentry,
    pub(crate) clients: Vec<Client>,
    pub(crate) volumes: BTreeMap<u32, Volume>,
    pub(crate) commands: BTreeMap<u64, Issued>,
    pub(crate) data: Data,
    pub(crate) register: authority::Register,
    pub(crate) next_command: u64,
    pub(crate) next_version: u64,
    pub(crate) next_reign: u64,
    pub(crate) next_volume: u32,
    pub(crate) story: Vec<String>,
    pub(crate) faults_done: u32,
    /// The dice of what happens to copies.
    pub(crate) copy_dice: Option<Rng>,
    /// The faults that happened: number, true time, kind.
    pub(crate) faults: Vec<(u32, u64, Fault)>,
    /// What is left out.
    pub(crate) trim: Trim,
    fault_number: u32,
    queue: BinaryHeap<Reverse<Scheduled>>,
    next_number: u64,
}

impl World {
    /// A world in which `san1` is formatted and about to start, `san2` and the witness are blank.
    pub fn new(seed: u64, options: Options, trace: Trace) -> Self {
        let mut rng = Rng::new(seed ^ 0x0077_6f72_6c64);
        let net = Net::new(options.weather, rng.fork());
        let machines = BOXES.map(|host| Machine::new(host, &options, &mut rng));
        let witness = Sentry::new(&options, &mut rng);
        let clients = (0..options.initiators).map(Client::new).collect();
        let mut world = Self {
            seed,
            options,
            now: 0,
            moment: 0,
            delivered: 0,
            stormy: false,
            loaded: false,
            counts: Counts::default(),
            trace,
            rng,
            net,
            machines,
            witness,
            clients,
            volumes: BTreeMap::new(),
            commands: BTreeMap::new(),
            data: Data::default(),
            register: authority::Register::default(),
            next_command: 1,
            next_version: 1,
            next_reign: 1,
            next_volume: 1,
            story: Vec::new(),
            faults_done: 0,
            copy_dice: copies::dice(seed),
            faults: Vec::new(),
            trim: Trim::default(),
            fault_number: 0,
            queue: BinaryHeap::new(),
            next_number: 0,
        };
        world.create_group();
        world
    }

    /// Adds an event `after_ns` from now.
    pub(crate) fn schedule(&mut self, after_ns: u64, event: Event) {
        self.schedule_at(self.now + after_ns, event);
    }

    /// Adds an event at a moment of true time.
    pub(crate) fn schedule_at(&mut self, at: u64, event: Event) {
        let number = self.next_number;
        self.next_number += 1;
        self.queue.push(Reverse(Scheduled {
            at: at.max(self.now),
            number,
            event,
        }));
    }

    /// Delivers the next event if it is due before `until`; false if there is none.
    pub fn step(&mut self, until: u64) -> bool {
        let due = self
            .queue
            .peek()
            .is_some_and(|Reverse(next)| next.at <= until);
        if !due {
            self.now = self.now.max(until);
            return false;
        }
        let Reverse(Scheduled { at, event, .. }) = self.queue.pop().expect("just seen");
        self.now = at;
        self.delivered += 1;
        self.trace.digest(at, &event);
        self.dispatch(event);
        for (at, step) in self.net.drain_steps() {
            self.schedule_at(at, Event::Session(step));
        }
        // a right is a calculation with 128 bits: two of them are needed only if both claim one
        if self.machines.iter().all(Machine::claims) {
            let rights = BOXES.map(|host| (host, self.right(host)));
            let checked = authority::one_holder(rights, at);
            self.judge(checked);
        }
        true
    }

    /// Runs for `ns` of virtual time.
    pub fn run(&mut self, ns: u64) {
        let until = self.now + ns;
        while self.step(until) {}
    }

    /// Runs until `done` says so, at most `ns`; false if it never did.
    pub fn run_until(&mut self, ns: u64, mut done: impl FnMut(&Self) -> bool) -> bool {
        let until = self.now + ns;
        while !done(self) {
            if !self.step(until) {
                return done(self);
            }
        }
        true
    }

    /// A new moment for the oracle.
    pub(crate) fn tick(&mut self) -> Moment {
        self.moment += 1;
        self.moment
    }

    /// Panics if the oracle found a breach.
    pub(crate) fn judge(&mut self, verdict: Result<(), Breach>) {
        if let Err(breach) = verdict {
            self.trace.note(self.now, || format!("BREACH {breach}"));
            panic!("{breach}");
        }
    }

    /// Until when a box may answer, in true time.
    pub(crate) fn right(&self, host: Host) -> Right {
        self.machines[host.index()].right()
    }

    pub(crate) fn machine(&mut self, host: Host) -> &mut Machine {
        &mut self.machines[host.index()]
    }

    /// Which machines have a running kernel.
    pub(crate) fn up(&self) -> [bool; 3] {
        [self.machines[0].up, self.machines[1].up, self.witness.up]
    }

    /// The box whose addresses are started and that has not lost its right, if there is one.
    pub fn serving(&self) -> Option<Host> {
        BOXES
            .into_iter()
            .find(|host| self.machines[host.index()].serves())
    }

    /// The next reign's number.
    pub(crate) fn next_reign(&mut self) -> Reign {
        self.next_reign += 1;
        Reign(self.next_reign)
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Timer(host, start, core) => self.timer(host, start, core),
            Event::Datagram {
                from,
                to,
                link,
                bytes,
            } => self.datagram(from, to, link, bytes),
            Event::Session(step) => self.session_step(step),
            Event::Disk(host, volume, ticket, start) => {
                self.disk_done(host, volume, ticket, start);
            }
            Event::Deliver(host, start, delivery) => self.deliver(host, start, delivery),
            Event::Stored(host, start) => self.stored(host, start),
            Event::Dial(host, start) => self.dialled(host, start),
            Event::Boot(host) => self.boot(host),
            Event::Resume(host, start) => self.resume(host, start),
            Event::Think(client) => self.think(client),
            Event::Doom(host, power) => self.doom(host, power),
            Event::Fault => self.next_fault(),
            Event::Undo(undo) => self.undo(undo),
        }
    }
}
