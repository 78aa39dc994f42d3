//! One history: the group is made, suffers, and must be whole again.
//!
//! 1. Bootstrap: `san1` formatted, `san2` and the witness blank; both are admitted, a volume is
//!    made, the first sync runs. Initiators begin as soon as there is a volume. Some histories let
//!    the faults begin before the pair is in sync.
//! 2. Faults and load, for at least 500 events with at least 2 faults.
//! 3. Liveness: every fault ends, everything runs again. Within a minute of virtual time both boxes
//!    are in sync and every initiator gets answers; then the load ends, and both data areas are
//!    equal byte for byte.

use replication::engine::{Attached, DataLink};

use super::content::{self, SECTORS_PER_BLOCK};
use super::outputs::Disks;
use super::trace::{Counts, Trace};
use super::{Event, MS, World};
use crate::client::Kind;
use crate::faults::Options;
use crate::net::{BOXES, Host, WITNESS};
use crate::node::Process;
use crate::oracle::{Depth, Media};
use crate::rng::Rng;
use crate::trim::{Plain, Trim};

const SECOND: u64 = 1000 * MS;
/// Events that a history has at least.
const EVENTS_MIN: u64 = 500;

/// What a history leaves behind.
#[derive(Debug)]
pub struct Report {
    /// Events delivered.
    pub events: u64,
    /// Virtual time in nanoseconds.
    pub virtual_ns: u64,
    /// What was seen, how often.
    pub counts: Counts,
    /// Stands for everything that happened.
    pub fingerprint: u64,
    /// The lines that were kept.
    pub trace: Trace,
}

/// Runs the history of a seed, but for what is left out of it; panics with the oracle's sentence
/// if a promise is broken.
pub fn run((seed, trim): (u64, &Trim), world: &mut Option<World>, trace: Trace) {
    let mut rng = Rng::new(seed);
    let mut options = Options::draw(&mut rng);
    let early = rng.chance(250);
    for plain in &trim.plain {
        plain.apply(&mut options);
    }
    let world = world.insert(World::new(seed, options, trace));
    world.trim = trim.clone();
    if trim.plain.contains(&Plain::Copies) {
        world.copy_dice = None;
    }
    world.bootstrap(early);
    world.suffer();
    world.recover();
}

impl World {
    /// What is to be told of this world.
    pub fn report(mut self) -> Report {
        self.net.traffic.name(&mut self.counts);
        Report {
            events: self.delivered,
            virtual_ns: self.now,
            counts: self.counts,
            fingerprint: self.trace.fingerprint(),
            trace: self.trace,
        }
    }

    /// Until there is a volume; unless `early`, also until the pair is in sync.
    pub fn bootstrap(&mut self, early: bool) {
        for client in 0..self.clients.len() {
            self.schedule(0, Event::Think(client));
        }
        self.loaded = true;
        let serves = self.run_until(10 * SECOND, |world| world.serving().is_some());
        self.require(serves, "V2", "the first box serves within 10 s");
        for _ in 0..20 {
            self.create_volume();
            if self.run_until(SECOND, |world| {
                world.volumes.keys().any(|number| *number > 0)
            }) {
                break;
            }
        }
        let made = self.volumes.keys().any(|number| *number > 0);
        self.require(made, "V2", "a volume is made within 20 s");
        if !early {
            let whole = self.becomes_whole(30 * SECOND);
            self.require(whole, "V1", "the first sync goes on every 30 s, and ends");
        }
    }

    /// Faults and load.
    pub fn suffer(&mut self) {
        self.stormy = true;
        self.schedule(0, Event::Fault);
        let (events, faults) = (self.delivered + EVENTS_MIN, self.options.fault_count);
        let ends = self.run_until(600 * SECOND, |world| {
            world.delivered >= events && world.faults_done >= faults
        });
        assert!(ends, "faults come for ever");
        self.stormy = false;
    }

    /// Everything ends well.
    pub fn recover(&mut self) {
        self.trace
            .note(self.now, || "RECOVER: all faults end".to_owned());
        self.net.heal_all(self.now);
        self.net.weather = Options::calm().weather;
        for host in [BOXES[0], BOXES[1], WITNESS] {
            self.revive(host);
        }
        // a box that was stopped hears only now what its disk said before
        self.run_until(SECOND, |_| false);
        for host in BOXES {
            self.replace_failed(host);
        }
        let whole = self.becomes_whole(60 * SECOND);
        self.require(
            whole,
            "V1",
            "after the last fault the copy goes on every minute, until both boxes are in sync",
        );
        let done: Vec<u64> = self.clients.iter().map(|client| client.done).collect();
        let go_on = self.run_until(20 * SECOND, |world| {
            let pairs = world.clients.iter().zip(&done);
            world.is_whole()
                && pairs
                    .into_iter()
                    .all(|(client, before)| client.done > before + 2)
        });
        self.require(go_on, "V2", "every initiator gets answers again");
        self.rest();
    }

    /// Runs until both boxes are in sync. How long that takes depends on how much is to be copied
    /// over which links; in each period there must be a fiftieth less left than ever before.
    fn becomes_whole(&mut self, period_ns: u64) -> bool {
        let mut enough = u64::MAX;
        while !self.run_until(period_ns, Self::is_whole) {
            let processes = self.machines.iter().filter_map(|it| it.process.as_ref());
            let left: u64 = processes.map(|it| it.engine.status().dirty_bytes).sum();
            if left >= enough {
                return false;
            }
            enough = left - left.div_ceil(50);
        }
        true
    }

    fn revive(&mut self, host: Host) {
        if host == WITNESS {
            if let Some(start) = self.witness.process.as_ref().map(|guard| guard.start) {
                self.resume(host, start);
            }
        } else {
            let machine = self.machine(host);
            machine.mood = crate::node::Mood::default();
            for backing in machine.backings.values_mut() {
                backing.disk.heal();
            }
            if self.replace_failed(host) {
                self.counts.add("restarted after a disk failure");
            }
            if let Some(start) = self
                .machine(host)
                .process
                .as_ref()
                .map(|process| process.start)
            {
                self.resume(host, start);
            }
        }
        let wait = self.rng.between(MS, 500 * MS);
        self.schedule(wait, Event::Boot(host));
    }

    /// The operator starts a box again whose mirror gave up its disk, or could not read it at its
    /// start; it is down for a moment.
    pub(super) fn replace_failed(&mut self, host: Host) -> bool {
        let process = self.machines[host.index()].process.as_ref();
        let failed =
            process.is_some_and(|process| process.engine.status().data.attached != Attached::Yes);
        let troubled = self.counts.of("disk error") + self.counts.of("fault disk-hang") > 0;
        if failed && troubled {
            self.machine(host).mood = crate::node::Mood::default();
            self.kill_for(host, 50 * MS);
        }
        failed && troubled
    }

    /// The load ends; what is left must be equal on both boxes.
    fn rest(&mut self) {
        self.loaded = false;
        let idle = self.run_until(20 * SECOND, |world| world.commands.is_empty());
        self.require(idle, "V2", "every command is answered");
        let still = self.run_until(20 * SECOND, |world| world.is_whole() && world.is_still());
        self.require(
            still,
            "V1",
            "masks are empty and disks idle once the load has ended",
        );
        self.read_everything();
        self.compare_disks();
    }

    /// Initiators read every used block once more.
    fn read_everything(&mut self) {
        let Some(host) = self.serving() else { return };
        let start = self.machine(host).process().start;
        let volumes: Vec<u32> = self.volumes.keys().copied().collect();
        for volume in volumes {
            for range in self.data.used_ranges(volume) {
                self.issue(None, (host, start), Kind::Read(range));
            }
        }
        let answered = self.run_until(20 * SECOND, |world| world.commands.is_empty());
        self.require(answered, "V2", "the last reads are answered");
    }

    /// Both boxes are in the committed set, one of them serves, and nothing is dirty.
    pub fn is_whole(&self) -> bool {
        // looked at after each event: the cheap questions first, and no status in words
        let Some(host) = self.serving() else {
            return false;
        };
        let process = self.machines[host.index()].process.as_ref();
        if !process.is_some_and(|process| process.serving && process.engine.is_mirrored()) {
            return false;
        }
        let follower = self.machines[host.peer().index()].process.as_ref();
        let follows = |process: &Process| process.engine.link() == DataLink::Following;
        follower.is_some_and(follows) && self.register.in_sync().len() == 2
    }

    fn is_still(&self) -> bool {
        BOXES
            .iter()
            .all(|host| self.machines[host.index()].is_quiet())
    }

    /// V1: the two data areas are equal.
    fn compare_disks(&mut self) {
        let [one, other] = [0, 1].map(|at| self.machines[at].backings.keys().copied());
        let [one, other]: [Vec<u32>; 2] = [one.collect(), other.collect()];
        if one != other {
            let breach = format!("V1: san1 has volumes {one:?}, san2 has {other:?}");
            self.judge(Err(breach));
        }
        let volumes: Vec<u32> = self.data.volumes().collect();
        for volume in volumes {
            self.compare_volume(volume, "V1", |_| false);
        }
    }

    /// C1: once the peer is in sync, the boxes differ only where writes are in flight.
    pub(super) fn compare_quiet_blocks(&mut self, host: Host) {
        let mut busy = Vec::new();
        for issued in self.commands.values().filter(|issued| issued.host == host) {
            if let Kind::Write { range, .. } = issued.kind {
                busy.push(range);
            }
        }
        let volumes: Vec<u32> = self.data.volumes().collect();
        for volume in volumes {
            let is_busy = |block: u64| {
                busy.iter().any(|range| {
                    let first = range.first / SECTORS_PER_BLOCK;
                    let end = (range.first + range.sectors).div_ceil(SECTORS_PER_BLOCK);
                    range.volume == volume && (first..end).contains(&block)
                })
            };
            self.compare_volume(volume, "C1", is_busy);
        }
    }

    fn compare_volume(&mut self, volume: u32, id: &str, skip: impl Fn(u64) -> bool) {
        let media = Disks(&self.machines);
        let blocks = self.data.sectors(volume) / SECTORS_PER_BLOCK;
        let mut touched = std::collections::BTreeSet::new();
        for host in BOXES {
            let Some(used) = media.used(host, volume) else {
                let breach = format!("{id}: {host} lacks volume {volume}");
                return self.judge(Err(breach));
            };
            touched.extend(used.take_while(|block| *block < blocks));
        }
        let differs = touched
            .into_iter()
            .filter(|block| !skip(*block))
            .find_map(|block| {
                let [one, other] =
                    BOXES.map(|host| media.block(host, volume, block, Depth::Visible));
                (one != other).then_some((block, one, other))
            });
        if let Some((block, Some(one), Some(other))) = differs {
            let first = block * SECTORS_PER_BLOCK;
            let [one, other] = [one, other].map(|bytes| content::values(volume, first, &bytes));
            let breach = format!(
                "{id}: volume {volume} block {block} differs: san1 {one:?}, san2 {other:?}"
            );
            self.judge(Err(breach));
        }
    }

    /// Panics with what was not reached in time, and where things stand.
    fn require(&mut self, reached: bool, id: &str, goal: &str) {
        if reached {
            return;
        }
        let mut stand = String::new();
        for host in BOXES {
            let machine = &self.machines[host.index()];
            let Some(process) = &machine.process else {
                stand.push_str(&format!("; {host} does not run"));
                continue;
            };
            let (node, engine) = (process.node.status(), process.engine.status());
            stand.push_str(&format!(
                "; {host}: {} in epoch {}, {}, mirror {:?} {:?}, {} dirty bytes, {} commands",
                node.role,
                node.epoch,
                node.why,
                engine.role,
                engine.link,
                engine.dirty_bytes,
                engine.commands
            ));
        }
        self.judge(Err(format!("{id}: not reached: {goal}{stand}")));
    }
}
