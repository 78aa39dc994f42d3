//! One box, and the witness: what outlives a process, and the process with its cores.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ha::{Now, Resource};
use replication::engine::{self, Engine};
use replication::types::OpId;

use crate::coverage::Area;
use crate::disk::{Disk, Fill, Ticket};
use crate::faults::Options;
use crate::net::{Host, SAN1, WITNESS};
use crate::oracle::Reign;
use crate::oracle::authority::{Actor, Right};
use crate::oracle::register::Moment;
use crate::rng::Rng;
use crate::world::Event;

/// The group of every world.
pub const GROUP: u128 = 0x7477_696e;
/// Its key.
pub const KEY: [u8; 32] = [0x5a; 32];

/// A machine's clock: an offset, a wrong rate, and time spent suspended.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    ppb: i64,
    base_true: u64,
    base_local: u64,
    suspended_ns: u64,
}

impl Clock {
    /// A clock that showed `base_local` at true time `base_true` and runs wrong by `ppb`.
    pub fn new(ppb: i64, base_true: u64, base_local: u64) -> Self {
        Self {
            ppb,
            base_true,
            base_local,
            suspended_ns: 0,
        }
    }

    /// `CLOCK_BOOTTIME` at a moment of true time.
    pub fn boot(&self, now: u64) -> u64 {
        let passed = i128::from(now - self.base_true);
        let wrong = passed * i128::from(self.ppb) / 1_000_000_000;
        self.base_local + u64::try_from(passed + wrong).expect("a clock runs forward")
    }

    /// Both clocks at a moment of true time.
    pub fn at(&self, now: u64) -> Now {
        let boot = self.boot(now);
        let mono = boot.saturating_sub(self.suspended_ns);
        Now {
            boot: ha::Time(boot),
            mono: ha::Time(mono),
        }
    }

    /// The first moment of true time at which the boot clock shows `local` or more.
    pub fn true_time(&self, local: u64) -> u64 {
        let ahead = i128::from(local.saturating_sub(self.base_local));
        let rate = 1_000_000_000 + i128::from(self.ppb);
        let passed = (ahead * 1_000_000_000).div_euclid(rate);
        let mut at = self
            .base_true
            .saturating_add(u64::try_from(passed).unwrap_or(u64::MAX / 4));
        while self.boot(at) < local && at < u64::MAX / 4 {
            at += 1;
        }
        at
    }

    /// The monotonic clock stood still that long.
    pub fn suspend(&mut self, ns: u64) {
        self.suspended_ns += ns;
    }
}

/// How the disks of a machine behave at present.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mood {
    /// Every command takes this much longer, in nanoseconds.
    pub extra_ns: u64,
    /// Nothing ends before that moment of true time.
    pub hangs_until: u64,
    /// Commands that fail, per mille.
    pub errors: u64,
    /// There is no room for more data.
    pub full: Fullness,
}

/// Whether a pool has room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fullness {
    /// It has.
    #[default]
    Room,
    /// It has none; the system volume has all that it needs.
    Full,
}

/// The disks of a box at some moment, and what its record knew of them.
pub type Image = (BTreeMap<u32, Backing>, Option<(ha::DiskInstance, u64)>);

/// A volume's backing on one box.
#[derive(Clone, Debug)]
pub struct Backing {
    /// The disk.
    pub disk: Disk,
    /// Where its data area starts, in blocks.
    pub data_block: u64,
}

/// An input on its way to one of the two cores.
#[derive(Debug)]
pub enum Delivery {
    /// For the mirror.
    Engine(engine::Input),
    /// For the authority.
    Node(ha::Input),
    /// For the witness.
    Witness(ha::witness::Input),
}

/// A box: everything that outlives its process.
#[derive(Debug)]
pub struct Machine {
    /// Which box.
    pub host: Host,
    /// Its clocks.
    pub clock: Clock,
    /// The kernel's boot id.
    pub boot: u128,
    /// The kernel runs.
    pub up: bool,
    /// When it lost power last, as a moment of the oracle.
    pub power_lost: Moment,
    /// When it got its power, in true time.
    pub up_since: u64,
    /// It lost power and has not said since that its cache may be lost.
    pub may_forget: bool,
    /// The backings, by volume.
    pub backings: BTreeMap<u32, Backing>,
    /// An image of them that can be put back, and what the record knew of the copy then.
    pub image: Option<Image>,
    /// How they behave.
    pub mood: Mood,
    /// The record in the state directory.
    pub record: ha::Record,
    /// A record being written.
    pub storing: Option<(ha::PersistId, ha::Record)>,
    /// Fresh disk instance, minted once.
    pub disk_instance: u128,
    /// How often a process was started.
    pub starts: u32,
    /// A start waits for the old process's disk commands.
    pub wants_boot: bool,
    /// Format the group at the next start.
    pub format: bool,
    /// The power goes in the middle of the next write there.
    pub trap: Option<Area>,
    /// The process, if one runs.
    pub process: Option<Process>,
}

impl Machine {
    /// A box with power and without a process.
    pub fn new(host: Host, options: &Options, rng: &mut Rng) -> Self {
        let instance = ha::VoterInstance(rng.wide());
        let disk_instance = rng.wide();
        let record = if host == SAN1 {
            let instances = (instance, ha::DiskInstance(disk_instance));
            let timing = ha::Timing::default();
            let (group, me) = (ha::GroupId(GROUP), ha::NodeId(host.0));
            let made = ha::genesis(group, me, instances, timing, ha::Policy::Witness);
            made.expect("the default times fit together")
        } else {
            ha::blank(instance)
        };
        Self {
            host,
            clock: Clock::new(options.clock_ppb[host.index()], 0, rng.below(1 << 40)),
            boot: rng.wide(),
            up: true,
            power_lost: 0,
            up_since: 0,
            may_forget: false,
            backings: BTreeMap::new(),
            image: None,
            mood: Mood::default(),
            record,
            storing: None,
            disk_instance,
            starts: 0,
            wants_boot: false,
            format: host == SAN1,
            trap: None,
            process: None,
        }
    }

    /// The process, which must run.
    pub fn process(&mut self) -> &mut Process {
        self.process
            .as_mut()
            .expect("the caller knows that a process runs")
    }

    /// Whether that start of the process still runs.
    pub fn runs(&self, start: u32) -> bool {
        self.process
            .as_ref()
            .is_some_and(|process| process.start == start)
    }

    /// No command of an earlier process is at a disk.
    pub fn is_quiet(&self) -> bool {
        self.backings.values().all(|backing| backing.disk.is_idle())
    }

    /// The process has some right to answer, of whatever duration.
    pub fn claims(&self) -> bool {
        let claims =
            |process: &Process| process.primary_of.is_some() && process.lease != ha::Lease::None;
        self.process.as_ref().is_some_and(claims)
    }

    /// Until when the process may answer, in true time.
    pub fn right(&self) -> Right {
        let Some(process) = &self.process else {
            return Right::None;
        };
        match (process.primary_of, process.lease) {
            (None, _) | (_, ha::Lease::None) => Right::None,
            (Some(_), ha::Lease::Until(local)) => Right::Until(self.clock.true_time(local.0)),
            (Some(_), ha::Lease::Unlimited) => Right::Unlimited,
        }
    }

    /// The addresses are here.
    pub fn serves(&self) -> bool {
        let started = |process: &Process| process.started.contains(&Resource::Addresses);
        self.up && self.process.as_ref().is_some_and(started)
    }

    /// A fresh backing.
    pub fn make_backing(&mut self, volume: u32, bytes: u64, data_block: u64, fill: Fill) {
        self.backings.insert(
            volume,
            Backing {
                disk: Disk::new(bytes, fill),
                data_block,
            },
        );
    }
}

/// One run of the daemon.
#[derive(Debug)]
pub struct Process {
    /// Which run.
    pub start: u32,
    /// Its identity.
    pub actor: Actor,
    /// The mirror.
    pub engine: Engine,
    /// The authority.
    pub node: ha::Node,
    /// When it started or was resumed last, in true time.
    pub awake_since: u64,
    /// Stopped by a signal or a suspended machine; what arrives waits.
    pub stopped: bool,
    /// What arrived while it was stopped.
    pub inbox: VecDeque<Event>,
    /// When the two cores will be called, in true time.
    pub timers: [Option<u64>; 2],
    /// When the last input passed between the cores arrives, in true time, for both ways.
    pub passed: [u64; 2],
    /// Disk commands of this run.
    pub ops: BTreeMap<(u32, Ticket), OpId>,
    /// The lease given out last.
    pub lease: ha::Lease,
    /// The epoch that the engine acts in as primary.
    pub primary_of: Option<u64>,
    /// The present time as primary.
    pub reign: Reign,
    /// The engine serves.
    pub serving: bool,
    /// Volumes that the engine called forgetful before it serves.
    pub forgot: Vec<u32>,
    /// Resources that run.
    pub started: BTreeSet<Resource>,
    /// Frames up to this epoch are refused.
    pub sealed: u64,
    /// Epoch of the data frame that arrived last.
    pub frame_epoch: u64,
}

impl Process {
    /// The timer slot of a core.
    pub fn timer(&mut self, core: crate::world::Core) -> &mut Option<u64> {
        &mut self.timers[core as usize]
    }
}

/// The witness: its store and its process.
#[derive(Debug)]
pub struct Sentry {
    /// Its clocks.
    pub clock: Clock,
    /// The kernel runs.
    pub up: bool,
    /// The kernel's boot id.
    pub boot: u128,
    /// The life of its store.
    pub instance: ha::VoterInstance,
    /// Its durable record of the group.
    pub record: Option<ha::Record>,
    /// A record being written.
    pub storing: Option<(ha::GroupId, ha::PersistId, ha::Record)>,
    /// How often a process was started.
    pub starts: u32,
    /// The process, if one runs.
    pub process: Option<Guard>,
}

/// One run of the witness.
#[derive(Debug)]
pub struct Guard {
    /// Which run.
    pub start: u32,
    /// The acceptor.
    pub core: ha::Witness,
    /// Stopped by a signal.
    pub stopped: bool,
    /// What arrived while it was stopped.
    pub inbox: VecDeque<Event>,
    /// When it will be called, in true time.
    pub timer: Option<u64>,
}

impl Sentry {
    /// A blank witness with power.
    pub fn new(options: &Options, rng: &mut Rng) -> Self {
        let ppb = options.clock_ppb[WITNESS.index()];
        Self {
            clock: Clock::new(ppb, 0, rng.below(1 << 40)),
            up: true,
            boot: rng.wide(),
            instance: ha::VoterInstance(rng.wide()),
            record: None,
            storing: None,
            starts: 0,
            process: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn a_wrong_clock_is_inverted_exactly() {
        for ppb in [-1_000_000, -7, 0, 3, 1_000_000] {
            let clock = Clock::new(ppb, 1_000, 77);
            for local in [77, 78, 1_000_000_007, 123_456_789_012] {
                let at = clock.true_time(local);
                assert!(clock.boot(at) >= local);
                assert!(at == 1_000 || clock.boot(at - 1) < local);
            }
        }
    }
}
