//! The initiators: two of other makers, which agree on what they can do, and our own.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde_json::Value;

use super::drive::Place;
use super::server::Server;
use super::workload::{Digests, Direction, Layout, Workload};
use crate::ci::packages::{Package, search_path};

/// What has to be installed.
pub const PACKAGES: [Package; 4] = [
    Package {
        name: "tgt",
        program: "tgtd",
    },
    Package {
        name: "libiscsi-bin",
        program: "iscsi-perf",
    },
    Package {
        name: "qemu-utils",
        program: "qemu-img",
    },
    Package {
        name: "qemu-block-extra",
        program: "/usr/lib/x86_64-linux-gnu/qemu/block-iscsi.so",
    },
];

const SECTOR_BYTES: u32 = 512;
/// `qemu-img bench` goes through an image in equal steps. This many blocks have no divisor in
/// common with the size of an image, and steps that follow each other are far apart.
const STRIDE_BLOCKS: u64 = 162_013;
/// Commands of each session when nothing is known about the speed.
const FIRST_COUNT: u64 = 2_000;

/// An initiator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// libiscsi's `iscsi-perf`: reads, no data digests.
    IscsiPerf,
    /// `qemu-img bench` over libiscsi: for writes.
    QemuImg,
    /// This crate's: everything, and it times each command.
    Own,
}

impl Tool {
    /// Those that can run this load.
    #[must_use]
    pub fn able(workload: Workload) -> Vec<Self> {
        match (workload.digests, workload.direction) {
            (Digests::Crc32c, _) => vec![Self::Own],
            (Digests::None, Direction::Read) => vec![Self::IscsiPerf, Self::Own],
            (Digests::None, Direction::Write) => vec![Self::QemuImg, Self::Own],
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IscsiPerf => "iscsi-perf",
            Self::QemuImg => "qemu-img",
            Self::Own => "own",
        }
    }
}

/// What one run came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Commands in a second.
    pub iops: f64,
    /// Processor time of the target for each command, in microseconds.
    pub cpu_us: f64,
    /// Processor time of the initiator for each command, in microseconds: how disturbed the
    /// machine was.
    pub gauge_us: f64,
    /// 99 % of the commands took less, in microseconds.
    pub p99_us: Option<f64>,
}

/// Commands and the time they took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Outcome {
    ios: f64,
    seconds: f64,
    p99_us: Option<f64>,
}

/// The initiators and what is known about them.
#[derive(Debug, Default)]
pub struct Tools {
    /// Commands in a second of one session, as seen last.
    speeds: BTreeMap<(&'static str, String), f64>,
}

impl Tools {
    /// Runs one load.
    pub fn measure(
        &mut self,
        server: &Server,
        workload: Workload,
        tool: Tool,
        time: Duration,
    ) -> anyhow::Result<Sample> {
        let key = (server.kind().name(), workload.to_string());
        if tool == Tool::QemuImg && !self.speeds.contains_key(&key) {
            let (outcome, _) = run(server, workload, tool, Amount::count(FIRST_COUNT))?;
            self.learn(&key, workload, outcome);
        }
        let speed = self.speeds.get(&key).copied().unwrap_or(0.0);
        let amount = Amount {
            time,
            count: whole(speed * time.as_secs_f64()).max(u64::from(workload.depth)),
        };
        let before = server.cpu()?;
        let (outcome, initiator) = run(server, workload, tool, amount)?;
        let used = server.cpu()?.saturating_sub(before);
        self.learn(&key, workload, outcome);
        ensure!(outcome.ios > 0.0, "{} did nothing", tool.name());
        Ok(Sample {
            iops: outcome.ios / outcome.seconds,
            cpu_us: used.as_secs_f64() * 1e6 / outcome.ios,
            gauge_us: initiator.as_secs_f64() * 1e6 / outcome.ios,
            p99_us: outcome.p99_us,
        })
    }

    fn learn(&mut self, key: &(&'static str, String), workload: Workload, outcome: Outcome) {
        let speed = outcome.ios / outcome.seconds / f64::from(workload.sessions);
        self.speeds.insert(key.clone(), speed);
    }
}

/// System calls of the target for each command, as the kernel counts them, if `perf` may.
pub fn count_system_calls(
    server: &Server,
    workload: Workload,
    tool: Tool,
    folder: &Path,
) -> Option<f64> {
    let report = folder.join("perf.csv");
    let amount = Amount {
        time: Duration::from_secs(1),
        count: FIRST_COUNT * 4,
    };
    let load = command(server, workload, tool, amount, 0).ok()?;
    let pids: Vec<String> = server.pids().iter().map(u32::to_string).collect();
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-o"])
        .arg(&report)
        .args(["-p", &pids.join(","), "--"])
        .arg(load.get_program())
        .args(load.get_args())
        .env("PATH", search_path());
    let outcome = finish(start(perf).ok()?, tool, amount, workload).ok()?;
    let calls = perf_count(&std::fs::read_to_string(report).ok()?)?;
    Some(calls / outcome.ios)
}

/// How long, or how often.
#[derive(Clone, Copy, Debug)]
struct Amount {
    time: Duration,
    count: u64,
}

impl Amount {
    const fn count(count: u64) -> Self {
        Self {
            time: Duration::from_secs(1),
            count,
        }
    }
}

/// Runs every session of a load, and says what the initiators used of the processors.
fn run(
    server: &Server,
    workload: Workload,
    tool: Tool,
    amount: Amount,
) -> anyhow::Result<(Outcome, Duration)> {
    let before = children_cpu()?;
    // Our own has all sessions in one process.
    let processes = if tool == Tool::Own {
        1
    } else {
        workload.sessions
    };
    let running: Vec<Child> = (0..processes)
        .map(|number| start(command(server, workload, tool, amount, number)?))
        .collect::<anyhow::Result<_>>()?;
    let mut sum = Outcome::default();
    for child in running {
        let outcome = finish(child, tool, amount, workload)?;
        sum.ios += outcome.ios;
        sum.seconds = sum.seconds.max(outcome.seconds);
        sum.p99_us = outcome.p99_us;
    }
    Ok((sum, children_cpu()?.saturating_sub(before)))
}

fn command(
    server: &Server,
    workload: Workload,
    tool: Tool,
    amount: Amount,
    number: u32,
) -> anyhow::Result<Command> {
    let Place {
        portal,
        target,
        lun,
        span_bytes,
    } = &server.place(workload.digests)?;
    let initiator = format!("iqn.2026-11.org.twinsan:bench-{number}");
    let Workload {
        block_bytes, depth, ..
    } = workload;
    let seconds = amount.time.as_secs().max(1);
    let mut command = match tool {
        Tool::IscsiPerf => {
            let mut command = server.command(Path::new("iscsi-perf"));
            command.args(["-i", &initiator, "-m", &depth.to_string()]);
            command.args(["-b", &(block_bytes / SECTOR_BYTES).to_string()]);
            command.args(["-t", &seconds.to_string()]);
            if workload.layout == Layout::Random {
                command.arg("-r");
            }
            command.arg(format!("iscsi://{portal}/{target}/{lun}"));
            command
        }
        Tool::QemuImg => {
            let block = u64::from(block_bytes);
            let step = match workload.layout {
                Layout::Random => block * STRIDE_BLOCKS,
                Layout::Sequential => block,
            };
            let first = span_bytes / u64::from(workload.sessions) * u64::from(number);
            let mut command = server.command(Path::new("qemu-img"));
            command.args(["bench", "-t", "none", "-c", &amount.count.to_string()]);
            command.args(["-d", &depth.to_string(), "-s", &block.to_string()]);
            command.args(["-S", &step.to_string(), "-o", &first.to_string()]);
            if workload.direction == Direction::Write {
                command.arg("-w");
            }
            command.arg("--image-opts").arg(format!(
                "driver=raw,file.driver=iscsi,file.transport=tcp,file.portal={portal},\
                 file.target={target},file.lun={lun},file.initiator-name={initiator}"
            ));
            command
        }
        Tool::Own => {
            let mut command = server.command(&std::env::current_exe()?);
            command.args(["drive", "--portal", &portal.to_string(), "--target", target]);
            command.args(["--lun", &lun.to_string(), "--load", &workload.to_string()]);
            command.args(["--span-bytes", &span_bytes.to_string()]);
            command.args(["--seconds", &seconds.to_string()]);
            command
        }
    };
    command.env("PATH", search_path());
    Ok(command)
}

fn start(mut command: Command) -> anyhow::Result<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))
}

fn finish(child: Child, tool: Tool, amount: Amount, workload: Workload) -> anyhow::Result<Outcome> {
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    if complaint.contains("Unknown driver 'iscsi'") || complaint.contains("Unknown protocol") {
        bail!(
            "qemu-img cannot speak iSCSI; \
             apt-get install -y --no-install-recommends qemu-block-extra"
        );
    }
    let outcome = match tool {
        Tool::IscsiPerf => iscsi_perf_iops(&said).map(|iops| Outcome {
            ios: iops * amount.time.as_secs_f64(),
            seconds: amount.time.as_secs_f64(),
            p99_us: None,
        }),
        Tool::QemuImg => qemu_img_seconds(&said).map(|seconds| Outcome {
            ios: exact(amount.count),
            seconds,
            p99_us: None,
        }),
        Tool::Own => own_outcome(&said),
    };
    match outcome.filter(|_| output.status.success()) {
        Some(outcome) => Ok(outcome),
        None => bail!("{} failed on {workload}: {said}{complaint}", tool.name()),
    }
}

/// The average that `iscsi-perf` prints last; it rewrites its line with carriage returns.
fn iscsi_perf_iops(said: &str) -> Option<f64> {
    let (_, rest) = said.rsplit_once("iops average ")?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The time that `qemu-img bench` says its commands took.
fn qemu_img_seconds(said: &str) -> Option<f64> {
    let (_, rest) = said.rsplit_once("Run completed in ")?;
    rest.split_whitespace().next()?.parse().ok()
}

fn own_outcome(said: &str) -> Option<Outcome> {
    let value: Value = serde_json::from_str(said.lines().last()?).ok()?;
    Some(Outcome {
        ios: value["ios"].as_f64()?,
        seconds: value["seconds"].as_f64()?,
        p99_us: value["p99_us"].as_f64(),
    })
}

/// The count in the output of `perf stat -x,` for one event.
fn perf_count(report: &str) -> Option<f64> {
    let line = report
        .lines()
        .find(|line| line.contains("raw_syscalls:sys_enter"))?;
    line.split(',').next()?.parse().ok()
}

/// Processor time of all children that have ended.
fn children_cpu() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let time = |value: TimeVal| {
        let seconds = u64::try_from(value.tv_sec()).unwrap_or(0);
        let micros = u64::try_from(value.tv_usec()).unwrap_or(0);
        Duration::from_secs(seconds) + Duration::from_micros(micros)
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count of commands; a fraction of one does not matter"
)]
fn whole(count: f64) -> u64 {
    count.max(0.0) as u64
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn exact(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_average_of_iscsi_perf_counts() {
        let said = "will run for 2 seconds.\n\r00:00:01 - lba 7, iops current 42190 (164 MB/s), \
                    iops average 42190 (164 MB/s), in_flight 32, busy 0        \
                    \riops average 37377 (146 MB/s)                  \n\nfinished.\n";
        assert_eq!(iscsi_perf_iops(said), Some(37377.0));
        assert_eq!(iscsi_perf_iops("failed to connect"), None);
    }

    #[test]
    fn the_time_of_qemu_img_is_read() {
        let said = "Sending 20000 write requests, 4096 bytes each, 32 in parallel (starting at \
                    offset 0, step size 4096)\nRun completed in 1.271 seconds.\n";
        assert_eq!(qemu_img_seconds(said), Some(1.271));
        assert_eq!(qemu_img_seconds("qemu-img: Could not open"), None);
    }

    #[test]
    fn our_own_initiator_is_understood() {
        let said = "{\"ios\":10,\"p50_us\":1.0,\"p99_us\":2.5,\"seconds\":0.5}\n";
        let expected = Outcome {
            ios: 10.0,
            seconds: 0.5,
            p99_us: Some(2.5),
        };
        assert_eq!(own_outcome(said), Some(expected));
        assert_eq!(own_outcome("error"), None);
        assert_eq!(own_outcome(""), None);
    }

    #[test]
    fn the_count_of_perf_is_read() {
        let report = "# started on Mon\n\n81234,,raw_syscalls:sys_enter,1000,100.00,,\n";
        assert_eq!(perf_count(report), Some(81234.0));
        let refused = "<not supported>,,raw_syscalls:sys_enter,0,100.00,,\n";
        assert_eq!(perf_count(refused), None);
    }

    #[test]
    fn each_load_without_digests_has_an_initiator_of_another_maker() {
        for workload in Workload::all() {
            let able = Tool::able(workload);
            assert_eq!(able.last(), Some(&Tool::Own));
            assert_eq!(able.len() == 2, workload.digests == Digests::None);
        }
    }
}
