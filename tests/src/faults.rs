//! Which faults a history suffers, drawn from its seed.
//!
//! The fault model. Whatever of the following happens, in any order and number, no promise of the
//! oracle is broken; once it ends and everything runs again, the pair is whole within a minute.
//!
//! - Processes: killed (the kernel and its page cache live on), killed and back within 300 ms,
//!   stopped for 1 ms to 10 s and resumed with everything queued for them.
//! - Machines: suspended (the monotonic clock stands still, the boot clock goes on), without power
//!   alone or together, at any moment or in the middle of a metadata write; the witness too. A
//!   machine comes back with its durable state.
//! - Disks: slow, hanging for seconds, also for longer than a disk may take, failing single
//!   reads, writes or flushes; blocks that cannot be read; pools without room; replaced by blank
//!   ones, or put back to what they were some time ago, while the other box has everything. The
//!   witness replaced by a blank one.
//! - Network: loss, delay, duplication, reordering, damage and truncation of datagrams; damage of
//!   frames; each wire cut in one direction or both, for long or flapping; the data session broken
//!   at any byte, silent, or over for one side only.
//! - Clocks: wrong by up to 0.05 % each, so that two differ by up to 0.1 %, with any offset.
//! - Operators: switchover at any moment, volumes made and deleted at any moment.
//! - Initiators: overlapping writes in flight, zeroes over several regions at once, connections
//!   dropped by either side and commands sent again.
//!
//! Each seed switches a random subset on (a swarm), so that rare combinations have room to happen.

use std::fmt;

use replication::engine::Limits;

use crate::net::{Link, Weather};
use crate::rng::Rng;

/// One kind of fault, as counted and printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A box's process is killed and started again later.
    Kill,
    /// The same, back within 300 ms.
    KillShort,
    /// A box loses power.
    PowerLoss,
    /// Both boxes lose power at once.
    PowerLossBoth,
    /// Both processes are killed, in either order.
    KillBoth,
    /// A process is stopped and resumed (SIGSTOP).
    Pause,
    /// A machine is suspended and resumed.
    Suspend,
    /// The witness's process is killed.
    WitnessKill,
    /// The witness is stopped and resumed.
    WitnessPause,
    /// A link is cut in both directions.
    Cut,
    /// A link is cut in one direction.
    CutOneWay,
    /// All links of one machine are cut.
    Isolate,
    /// The data session is broken.
    SessionBreak,
    /// A link is cut and healed many times.
    Flap,
    /// One end of the data session ends, and the other does not hear of it.
    HalfOpen,
    /// A box loses power in the middle of its next metadata write.
    PowerLossMetadata,
    /// The disks of a box are replaced by blank ones.
    DisksReplaced,
    /// The disks of a box are put back to what they were some time ago.
    DisksPutBack,
    /// The witness loses its store and is replaced.
    WitnessReplaced,
    /// A host drops its connection with commands in flight.
    HostDrop,
    /// Heavy loss for a while.
    Storm,
    /// A disk answers late.
    DiskSlow,
    /// A disk does not answer for a while.
    DiskHang,
    /// Commands of a disk fail for a while.
    DiskErrors,
    /// Blocks of a disk cannot be read until they are written.
    DiskMedium,
    /// A pool has no room for a while.
    DiskFull,
    /// The operator asks for a switchover.
    Switchover,
    /// The operator makes a volume.
    VolumeCreate,
    /// The operator makes a volume larger.
    VolumeGrow,
    /// The operator deletes a volume.
    VolumeDelete,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Self; 30] = [
        Self::Kill,
        Self::KillShort,
        Self::PowerLoss,
        Self::PowerLossBoth,
        Self::KillBoth,
        Self::Pause,
        Self::Suspend,
        Self::WitnessKill,
        Self::WitnessPause,
        Self::Cut,
        Self::CutOneWay,
        Self::Isolate,
        Self::SessionBreak,
        Self::Flap,
        Self::HalfOpen,
        Self::PowerLossMetadata,
        Self::DisksReplaced,
        Self::DisksPutBack,
        Self::WitnessReplaced,
        Self::HostDrop,
        Self::Storm,
        Self::DiskSlow,
        Self::DiskHang,
        Self::DiskErrors,
        Self::DiskMedium,
        Self::DiskFull,
        Self::Switchover,
        Self::VolumeCreate,
        Self::VolumeGrow,
        Self::VolumeDelete,
    ];

    /// What operators ask for and hosts do are not faults in the count of a history.
    pub fn is_request(self) -> bool {
        matches!(
            self,
            Self::Switchover
                | Self::VolumeCreate
                | Self::VolumeGrow
                | Self::VolumeDelete
                | Self::HostDrop
        )
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::KillShort => "kill-short",
            Self::PowerLoss => "power-loss",
            Self::PowerLossBoth => "power-loss-both",
            Self::KillBoth => "kill-both",
            Self::Pause => "pause",
            Self::Suspend => "suspend",
            Self::WitnessKill => "witness-kill",
            Self::WitnessPause => "witness-pause",
            Self::Cut => "cut",
            Self::CutOneWay => "cut-one-way",
            Self::Isolate => "isolate",
            Self::SessionBreak => "session-break",
            Self::Flap => "flap",
            Self::HalfOpen => "half-open",
            Self::PowerLossMetadata => "power-loss-metadata",
            Self::DisksReplaced => "disks-replaced",
            Self::DisksPutBack => "disks-put-back",
            Self::WitnessReplaced => "witness-replaced",
            Self::HostDrop => "host-drop",
            Self::Storm => "storm",
            Self::DiskSlow => "disk-slow",
            Self::DiskHang => "disk-hang",
            Self::DiskErrors => "disk-errors",
            Self::DiskMedium => "disk-medium",
            Self::DiskFull => "disk-full",
            Self::Switchover => "switchover",
            Self::VolumeCreate => "volume-create",
            Self::VolumeGrow => "volume-grow",
            Self::VolumeDelete => "volume-delete",
        })
    }
}

/// Everything a seed decides about a history before it starts; times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Options {
    /// The kinds of fault that may happen.
    pub faults: Vec<Fault>,
    /// Mean time between faults.
    pub fault_gap_ns: u64,
    /// Faults in the history, requests not counted.
    pub fault_count: u32,
    /// The network on a good day.
    pub weather: Weather,
    /// Usual time of a disk command, shortest and longest.
    pub disk_ns: (u64, u64),
    /// Usual time to make a record of `ha` durable, shortest and longest.
    pub persist_ns: (u64, u64),
    /// Clock errors in parts per billion, per machine.
    pub clock_ppb: [i64; 3],
    /// Fresh backings are sparse files that read zero; otherwise they hold left-overs.
    pub sparse_backings: bool,
    /// Blocks of the user volume.
    pub blocks: u64,
    /// Blocks from one place that initiators use to the next.
    pub stride: u64,
    /// Initiators, and commands that each keeps in flight.
    pub initiators: usize,
    /// Commands in flight per initiator.
    pub depth: usize,
    /// Mean time an initiator thinks between commands.
    pub think_ns: u64,
    /// Writes among commands, per mille.
    pub writes: u64,
    /// Flushes among commands, per mille.
    pub flushes: u64,
    /// Blocks in the largest command.
    pub command_blocks: u64,
    /// Writes that start or end inside a block, per mille.
    pub unaligned: u64,
    /// Some writes are zeroes over more than a region.
    pub wide: bool,
    /// The two cores of a box run on threads of their own, as in the daemon, and hear each other
    /// late; otherwise at once.
    pub threads: bool,
    /// Tiny windows and queues in the engine.
    pub tiny_limits: bool,
}

const MS: u64 = 1_000_000;

impl Options {
    /// The swarm's draw.
    pub fn draw(rng: &mut Rng) -> Self {
        let kinds = rng.between(2, 8);
        let mut faults: Vec<Fault> = (0..kinds).map(|_| *rng.pick(&Fault::ALL)).collect();
        if faults.iter().all(|fault| fault.is_request()) {
            faults.push(Fault::Kill);
        }
        faults.sort_unstable();
        let (blocks, stride) = *rng.pick(&[(16, 1), (64, 1), (160, 1), (64, 16), (16, 256)]);
        let disk_max = *rng.pick(&[MS / 5, MS, 5 * MS]);
        Self {
            faults,
            fault_gap_ns: *rng.pick(&[100 * MS, 300 * MS, 600 * MS, 1200 * MS]),
            fault_count: u32::try_from(rng.between(2, 7)).expect("small"),
            weather: Self::draw_weather(rng),
            disk_ns: (MS / 20, disk_max),
            persist_ns: (MS / 5, *rng.pick(&[MS, 5 * MS, 30 * MS])),
            clock_ppb: [(); 3].map(|()| Self::draw_clock(rng)),
            sparse_backings: rng.chance(800),
            blocks,
            stride,
            initiators: usize::try_from(rng.between(1, 3)).expect("small"),
            depth: usize::try_from(rng.between(1, 6)).expect("small"),
            think_ns: *rng.pick(&[5 * MS, 20 * MS, 60 * MS]),
            writes: rng.between(300, 800),
            flushes: rng.between(20, 200),
            command_blocks: *rng.pick(&[1, 4, 8]),
            unaligned: *rng.pick(&[0, 0, 100]),
            wide: rng.chance(150),
            threads: rng.chance(500),
            tiny_limits: rng.chance(500),
        }
    }

    /// A quiet network, exact clocks, no faults: for scripts.
    pub fn calm() -> Self {
        Self {
            faults: Vec::new(),
            fault_gap_ns: u64::MAX,
            fault_count: 0,
            weather: Weather {
                delay_min_ns: MS / 10,
                delay_max_ns: MS / 4,
                loss: 0,
                duplicate: 0,
                spike: 0,
                spike_ns: 0,
                damage: 0,
            },
            disk_ns: (MS / 10, MS / 5),
            persist_ns: (MS, 2 * MS),
            clock_ppb: [0; 3],
            sparse_backings: true,
            blocks: 64,
            stride: 1,
            initiators: 1,
            depth: 1,
            think_ns: 10 * MS,
            writes: 600,
            flushes: 50,
            command_blocks: 4,
            unaligned: 0,
            wide: false,
            threads: true,
            tiny_limits: false,
        }
    }

    /// The engine's bounds.
    pub fn limits(&self) -> Limits {
        if self.tiny_limits {
            Limits {
                inflight_commands: 4,
                queued_commands: 64,
                inflight_bytes: 32 << 10,
                resync_window_bytes: 128 << 10,
                mirror_window_bytes: 32 << 10,
                retain_bytes: 96 << 10,
                hot_regions: 2,
                settle_ms: 50,
                scrub_bytes_per_s: 32 << 20,
                ..Limits::default()
            }
        } else {
            Limits::default()
        }
    }

    fn draw_weather(rng: &mut Rng) -> Weather {
        let bad = rng.chance(500);
        let share = |rng: &mut Rng, most: u64| if bad { rng.below(most + 1) } else { 0 };
        let delay_max_ns = *rng.pick(&[MS / 4, MS, 10 * MS]);
        Weather {
            delay_min_ns: MS / 20,
            delay_max_ns,
            loss: share(rng, 50),
            duplicate: share(rng, 50),
            spike: share(rng, 50),
            spike_ns: *rng.pick(&[20 * MS, 100 * MS]),
            damage: if rng.chance(200) { share(rng, 5) } else { 0 },
        }
    }

    fn draw_clock(rng: &mut Rng) -> i64 {
        let most: i64 = 500_000;
        match rng.below(4) {
            0 => 0,
            1 => most,
            2 => -most,
            _ => i64::try_from(rng.below(1_000_001)).expect("small") - most,
        }
    }
}

/// The wires between machines, for faults and scripts.
pub const LINKS: [Link; 3] = [Link::Replication, Link::Service, Link::Witness];
