//! The targets under test, each a process of its own on loopback.

use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use super::drive::Place;
use super::pair::Pair;
use super::serve;
use super::workload::Digests;
use crate::ci::packages::search_path;
use crate::lab::clock;
use crate::lab::process::Process;
use crate::rng::Rng;

/// Size of each file that is served: larger than what a disk's cache holds, small enough to write.
const FILE_BYTES: u64 = 1 << 30;
/// The part of a store without contents that is used.
const NULL_SPAN_BYTES: u64 = 1 << 30;
/// How long a target may take to start.
const START_WAIT: Duration = Duration::from_secs(20);
/// Name of tgt's targets; the second one takes digests.
const TGT_NAMES: [&str; 2] = [
    "iqn.2026-11.org.example:tgt",
    "iqn.2026-11.org.example:tgt-digests",
];
/// What the two targets must have in common to be compared; tgt's own choice would be PDUs of
/// 8 KiB for writes.
const TGT_KEYS: [(&str, &str); 5] = [
    ("MaxRecvDataSegmentLength", "262144"),
    ("FirstBurstLength", "262144"),
    ("MaxBurstLength", "1048576"),
    ("InitialR2T", "No"),
    ("ImmediateData", "Yes"),
];

/// A target and what is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours over nothing.
    TwinsanNull,
    /// Ours over a file, unreplicated: io_uring with direct I/O.
    TwinsanFile,
    /// tgt over nothing.
    TgtNull,
    /// tgt over a file with Linux's own asynchronous direct I/O.
    TgtAio,
    /// tgt over a file through the page cache, as it comes.
    TgtRdwr,
    /// Ours over a file on each of two boxes, as `twinsan demo` runs them.
    Mirror,
}

impl Kind {
    /// Unreplicated targets, in the order of one round.
    pub const UNREPLICATED: [Self; 5] = [
        Self::TwinsanNull,
        Self::TgtNull,
        Self::TwinsanFile,
        Self::TgtAio,
        Self::TgtRdwr,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TwinsanNull => "twinsan-null",
            Self::TwinsanFile => "twinsan-file",
            Self::TgtNull => "tgt-null",
            Self::TgtAio => "tgt-aio",
            Self::TgtRdwr => "tgt-rdwr",
            Self::Mirror => "mirror",
        }
    }

    /// Which of ours it is compared with.
    #[must_use]
    pub const fn rival(self) -> Option<Self> {
        match self {
            Self::TgtNull => Some(Self::TwinsanNull),
            Self::TgtAio | Self::TgtRdwr | Self::Mirror => Some(Self::TwinsanFile),
            Self::TwinsanNull | Self::TwinsanFile => None,
        }
    }

    /// How tgt calls its store.
    const fn bstype(self) -> Option<&'static str> {
        match self {
            Self::TgtNull => Some("null"),
            Self::TgtAio => Some("aio"),
            Self::TgtRdwr => Some("rdwr"),
            Self::TwinsanNull | Self::TwinsanFile | Self::Mirror => None,
        }
    }

    const fn has_file(self) -> bool {
        !matches!(self, Self::TwinsanNull | Self::TgtNull)
    }
}

/// A running target.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    running: Running,
    portal: SocketAddr,
}

#[derive(Debug)]
enum Running {
    Alone(Process),
    Pair(Box<Pair>),
}

impl Server {
    /// Starts one; its file and its log are in `folder`.
    pub fn start(kind: Kind, folder: &Path) -> anyhow::Result<Self> {
        if kind == Kind::Mirror {
            return Self::start_pair();
        }
        let path = folder.join(format!("{}.data", kind.name()));
        if kind.has_file() {
            fill(&path).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let portal = free_portal()?;
        let log = folder.join(format!("{}.log", kind.name()));
        let (process, control) = match kind.bstype() {
            None => (start_ours(kind, &path, portal, &log)?, None),
            Some(_) => {
                // One control socket for each; the port is as unique as anything here.
                let control = portal.port() / 2;
                (start_tgtd(control, portal, &log), Some(control))
            }
        };
        let mut this = Self {
            kind,
            running: Running::Alone(process),
            portal,
        };
        if let Some(control) = control {
            this.set_up_tgt(control, &path)?;
        }
        this.wait_until_it_answers()?;
        Ok(this)
    }

    fn start_pair() -> anyhow::Result<Self> {
        let pair = Pair::start(FILE_BYTES)?;
        let place = pair.place()?;
        Ok(Self {
            kind: Kind::Mirror,
            portal: place.portal,
            running: Running::Pair(Box::new(pair)),
        })
    }

    /// The pair, if it is one.
    #[must_use]
    pub fn pair(&self) -> Option<&Pair> {
        match &self.running {
            Running::Pair(pair) => Some(pair),
            Running::Alone(_) => None,
        }
    }

    /// A program that can reach it.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        match &self.running {
            Running::Pair(pair) => pair.command(program),
            Running::Alone(_) => Command::new(program),
        }
    }

    /// Which one it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Its processes.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        match &self.running {
            Running::Pair(pair) => pair.pids(),
            Running::Alone(process) => vec![process.pid()],
        }
    }

    /// Processor time that all its threads have used, in user and system mode: the sum that
    /// `/proc/PID/stat` shows in ticks, in nanoseconds.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let mut sum = Duration::ZERO;
        for pid in self.pids() {
            // a standby that was killed on purpose uses nothing
            if let Ok(clock) = ClockId::pid_cpu_clock_id(Pid::from_raw(i32::try_from(pid)?)) {
                sum += Duration::from(clock_gettime(clock)?);
            }
        }
        ensure!(sum > Duration::ZERO, "the target is gone");
        Ok(sum)
    }

    /// Where the load goes.
    pub fn place(&self, digests: Digests) -> anyhow::Result<Place> {
        if let Some(pair) = self.pair() {
            return pair.place();
        }
        let [plain, with_digests] = TGT_NAMES;
        let (target, lun) = match (self.kind.bstype(), digests) {
            (None, _) => (serve::NAME, 0),
            (Some(_), Digests::None) => (plain, 1),
            (Some(_), Digests::Crc32c) => (with_digests, 1),
        };
        let span_bytes = if self.kind.has_file() {
            FILE_BYTES
        } else {
            NULL_SPAN_BYTES
        };
        Ok(Place {
            portal: self.portal,
            target: target.to_owned(),
            lun,
            span_bytes,
        })
    }

    fn set_up_tgt(&mut self, control: u16, path: &Path) -> anyhow::Result<()> {
        let bstype = self.kind.bstype().expect("only for tgt");
        let ready = clock::until(START_WAIT, || {
            tgtadm(control, &["--op", "show", "--mode", "system"]).ok()
        });
        ensure!(ready.is_some(), "tgtd does not start");
        for (tid, name) in ["1", "2"].into_iter().zip(TGT_NAMES) {
            let target = ["--mode", "target", "--tid", tid];
            let on_target = |rest: &[&str]| tgtadm(control, &[&target, rest].concat());
            on_target(&["--op", "new", "-T", name])?;
            for (key, value) in TGT_KEYS {
                on_target(&["--op", "update", "--name", key, "--value", value])?;
            }
            if name == TGT_NAMES[1] {
                for key in ["HeaderDigest", "DataDigest"] {
                    on_target(&["--op", "update", "--name", key, "--value", "CRC32C"])?;
                }
            }
            let file = path.to_string_lossy();
            let unit = ["--op", "new", "--mode", "logicalunit", "--tid", tid];
            let store = ["--lun", "1", "--bstype", bstype, "-b", &file];
            tgtadm(control, &[&unit[..], &store[..]].concat())?;
            on_target(&["--op", "bind", "-I", "ALL"])?;
        }
        Ok(())
    }

    fn wait_until_it_answers(&mut self) -> anyhow::Result<()> {
        let Running::Alone(process) = &mut self.running else {
            return Ok(());
        };
        let portal = self.portal;
        let answers = clock::until(START_WAIT, || {
            (!process.is_running() || TcpStream::connect(portal).is_ok()).then_some(())
        });
        if answers.is_none() || !process.is_running() {
            process.show_log();
            bail!("{} does not start", self.kind.name());
        }
        Ok(())
    }
}

fn start_ours(kind: Kind, path: &Path, portal: SocketAddr, log: &Path) -> anyhow::Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["serve", "--listen", &portal.to_string(), "--backend"])
        .arg(if kind.has_file() { "file" } else { "null" });
    if kind.has_file() {
        command.arg(path);
    }
    Ok(Process::start(command, log))
}

fn start_tgtd(control: u16, portal: SocketAddr, log: &Path) -> Process {
    let mut command = Command::new("tgtd");
    command
        .env("PATH", search_path())
        .args(["-f", "-C", &control.to_string(), "--iscsi"])
        .arg(format!("portal={portal}"));
    Process::start(command, log)
}

fn tgtadm(control: u16, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("tgtadm")
        .env("PATH", search_path())
        .args(["-C", &control.to_string(), "--lld", "iscsi"])
        .args(arguments)
        .output()?;
    ensure!(
        output.status.success(),
        "tgtadm {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// An address where nobody listens now.
fn free_portal() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}

/// Makes a file whose every block was written, unless it is there.
fn fill(path: &Path) -> anyhow::Result<()> {
    const PIECE_BYTES: u64 = 1 << 20;
    if std::fs::metadata(path).is_ok_and(|found| found.len() == FILE_BYTES) {
        return Ok(());
    }
    let half_done: PathBuf = path.with_extension("part");
    let mut file = File::create(&half_done)?;
    let mut rng = Rng::new(1);
    for _ in 0..FILE_BYTES / PIECE_BYTES {
        let piece: Vec<u8> = (0..PIECE_BYTES / 8)
            .flat_map(|_| rng.bits().to_ne_bytes())
            .collect();
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    std::fs::rename(half_done, path)?;
    Ok(())
}
