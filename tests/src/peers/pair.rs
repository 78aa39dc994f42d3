//! A replicated pair as a bench drives it: the demo's two boxes and witness on a loopback of their
//! own, with a volume as large as the file of the unreplicated target.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::drive::Place;
use crate::lab::demo::{Served, Stage};
use crate::lab::{clock, said};

/// The volume that is measured.
const VOLUME: &str = "bench";
const LUN: u8 = 1;
const PORT: u16 = 3260;
/// A pair may take so long to be as it should be.
const PAIR_WAIT: Duration = Duration::from_secs(120);

/// What one box has done with the volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Commands by part: name, how often, median, 99 of 100, in microseconds.
    pub times: Vec<(String, u64, u64, u64)>,
    /// Writes of metadata.
    pub metadata_writes: u64,
    /// Blocks read to be copied.
    pub copied_blocks: u64,
}

/// A running pair. It ends when this is dropped.
#[derive(Debug)]
pub struct Pair {
    served: Served,
    stage: Stage,
    size_bytes: u64,
    /// The processes of both boxes; the standby's changes when it is started again.
    pids: RefCell<[u32; 2]>,
}

impl Pair {
    /// Starts one with a volume of `size_bytes`, and waits until both copies are equal.
    pub fn start(size_bytes: u64) -> anyhow::Result<Self> {
        let stage = Stage::new();
        let served = stage.serve(&[]);
        let pid = |node: &str| -> anyhow::Result<u32> {
            let pid = served.ready["nodes"][node]["pid"].as_u64();
            Ok(u32::try_from(pid.context("a process id")?)?)
        };
        let pids = RefCell::new([pid("san1")?, pid("san2")?]);
        let this = Self {
            served,
            stage,
            size_bytes,
            pids,
        };
        this.verb(&[
            "volume",
            "create",
            VOLUME,
            &format!("{}MiB", size_bytes >> 20),
        ])?;
        this.verb(&["lun", "map", "any", &LUN.to_string(), VOLUME])?;
        this.wait_in_sync()?;
        Ok(this)
    }

    /// Where the load goes.
    pub fn place(&self) -> anyhow::Result<Place> {
        let ready = &self.served.ready;
        let portal = ready["portals"][0].as_str().context("a portal")?;
        let portal: SocketAddr = portal
            .parse()
            .or_else(|_| format!("{portal}:{PORT}").parse())?;
        Ok(Place {
            portal,
            target: ready["target"].as_str().context("a target")?.to_owned(),
            lun: LUN,
            span_bytes: self.size_bytes,
        })
    }

    /// The processes of both boxes.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.pids.borrow().to_vec()
    }

    /// A program on the loopback of the pair.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        self.stage.command(&program.display().to_string())
    }

    /// The files behind the volume, primary's first, with the place of the data in them.
    pub fn files(&self) -> anyhow::Result<[(PathBuf, u64); 2]> {
        let of = |node: &str| -> anyhow::Result<(PathBuf, u64)> {
            let status = self.status(node)?;
            let volume = volume(&status)?;
            let file = volume["file"].as_str().context("a file")?;
            let offset = volume["data_offset_bytes"].as_u64().context("an offset")?;
            Ok((PathBuf::from(file), offset))
        };
        Ok([of("san1")?, of("san2")?])
    }

    /// What the primary has done with the volume.
    pub fn work(&self) -> anyhow::Result<Work> {
        let status = self.status("san1")?;
        let work = &volume(&status)?["work"];
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let times = work["times"].as_array().context("times")?;
        let times = times.iter().map(|part| {
            let name = part["part"].as_str().unwrap_or("").to_owned();
            let of = |name: &str| number(&part[name]);
            (name, of("count"), of("p50_us"), of("p99_us"))
        });
        Ok(Work {
            times: times.collect(),
            metadata_writes: number(&work["intent_writes"]) + number(&work["page_writes"]),
            copied_blocks: number(&work["copied_blocks"]),
        })
    }

    /// Ends the standby at once; it is started again after a few seconds.
    pub fn kill_standby(&self) -> anyhow::Result<()> {
        let pid = self.pids.borrow()[1];
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
        Ok(())
    }

    /// Waits until the standby is started again and a resync runs; its bytes.
    pub fn wait_resync(&self) -> anyhow::Result<u64> {
        let started = self.served.event("started", PAIR_WAIT);
        let pid = started["pid"].as_u64().context("a process id")?;
        self.pids.borrow_mut()[1] = u32::try_from(pid)?;
        let begun = clock::until(PAIR_WAIT, || {
            self.status("san1").ok()?["mirror"]["resync"]["total_bytes"].as_u64()
        });
        begun.context("no resync begins")
    }

    /// Bytes that a running resync has left.
    pub fn resync_left(&self) -> anyhow::Result<Option<u64>> {
        let status = self.status("san1")?;
        Ok(status["mirror"]["resync"]["left_bytes"].as_u64())
    }

    /// Waits until both boxes are in sync.
    pub fn wait_in_sync(&self) -> anyhow::Result<()> {
        let equal = clock::until(PAIR_WAIT, || {
            let status = self.status("san1").ok()?;
            (status["in_sync"].as_array()?.len() == 2).then_some(())
        });
        equal.context("the boxes are not in sync")
    }

    fn status(&self, node: &str) -> anyhow::Result<Value> {
        let text = self.verb_at(node, &["status", "--json"])?;
        Ok(serde_json::from_str(&text)?)
    }

    fn verb(&self, words: &[&str]) -> anyhow::Result<String> {
        self.verb_at("san1", words)
    }

    fn verb_at(&self, node: &str, words: &[&str]) -> anyhow::Result<String> {
        let api = self.served.ready["nodes"][node]["api"].as_str();
        let words = [&["--api", api.context("a socket")?], words].concat();
        let said = said(&mut self.stage.twinsan(&words));
        ensure!(said.code == Some(0), "twinsan {words:?}: {}", said.err);
        Ok(said.out)
    }
}

fn volume(status: &Value) -> anyhow::Result<&Value> {
    let volumes = status["volumes"].as_array().context("volumes")?;
    let found = volumes.iter().find(|volume| volume["name"] == VOLUME);
    found.context("the volume that is measured")
}
