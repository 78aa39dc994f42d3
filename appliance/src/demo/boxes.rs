//! The processes of the demo: two boxes and a witness on loopback, each with its own folder.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::api::client::Client;
use crate::api::types::Refusal;
use crate::membership;

/// Names of the two boxes.
pub(super) const NODES: [&str; 2] = ["san1", "san2"];
const NODE_ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 11), Ipv4Addr::new(127, 0, 0, 12)];
const SECOND_LINK: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 1, 11), Ipv4Addr::new(127, 0, 1, 12)];
const WITNESS_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 13);
/// A stopped process that does not end by itself is killed after this.
const STOP_WAIT: Duration = Duration::from_secs(5);
/// Longest path of a UNIX socket, without its final zero.
const SOCKET_PATH_MAX: usize = 107;

/// One process and its folder.
pub(super) struct Process {
    pub(super) name: &'static str,
    folder: PathBuf,
    address: Ipv4Addr,
    arguments: Vec<String>,
    child: Option<Child>,
}

/// The whole demo: `boxes[i]` is called `NODES[i]`.
pub(super) struct Boxes {
    pub(super) boxes: [Process; 2],
    pub(super) witness: Process,
}

impl Boxes {
    /// Writes every file and makes `san1` the first box of a new pair. Starts nothing yet.
    pub(super) async fn prepare(dir: &Path, sabotage: Option<&str>) -> Result<Self, Refusal> {
        let failed = |error: std::io::Error| {
            Refusal::failed(format!(
                "cannot prepare the demo in {}: {error}",
                dir.display()
            ))
        };
        for (index, name) in NODES.into_iter().enumerate() {
            write_node(dir, index, name).map_err(failed)?;
        }
        write_witness(dir).map_err(failed)?;
        let node = |index: usize| {
            let name = NODES[index];
            let folder = dir.join(name);
            let config = folder.join("node.toml").display().to_string();
            let mut arguments: Vec<String> = ["--config", &config, "run", "--end-with-parent"]
                .map(Into::into)
                .into();
            if let Some(mutant) = sabotage {
                arguments.extend(["--sabotage".to_owned(), mutant.to_owned()]);
            }
            Process {
                name,
                folder,
                address: NODE_ADDRESSES[index],
                arguments,
                child: None,
            }
        };
        let boxes = [node(0), node(1)];
        for process in &boxes {
            let socket = process.api();
            if socket.as_os_str().len() > SOCKET_PATH_MAX {
                return Err(Refusal::usage(format!(
                    "{} is too long for a socket; choose a shorter --dir",
                    socket.display()
                )));
            }
        }
        let folder = dir.join("witness");
        let config = folder.join("witness.toml").display().to_string();
        let arguments = ["--config", &config, "witness", "--end-with-parent"].map(Into::into);
        let witness = Process {
            name: "witness",
            folder,
            address: WITNESS_ADDRESS,
            arguments: arguments.into(),
            child: None,
        };
        crate::init::run_alone(&boxes[0].folder.join("node.toml")).await?;
        let [first, second] = [0, 1].map(|index: usize| boxes[index].folder.join("state"));
        membership::introduce(&first, &second, &witness.folder.join("state"))
            .map_err(Refusal::failed)?;
        Ok(Self { boxes, witness })
    }

    /// A sentence about the first process that has ended by itself.
    pub(super) fn ended(&mut self) -> Option<String> {
        let all = self.boxes.iter_mut().chain([&mut self.witness]);
        let ended = all
            .into_iter()
            .find_map(|process| process.has_ended().then_some(&*process))?;
        let log = std::fs::read_to_string(ended.log()).unwrap_or_default();
        let last = log.lines().last().unwrap_or("it said nothing").to_owned();
        Some(format!("{} has ended by itself: {last}", ended.name))
    }

    /// Ends every process: first politely, then not.
    pub(super) async fn stop(&mut self) {
        for process in self.boxes.iter_mut().chain([&mut self.witness]) {
            process.stop().await;
        }
    }
}

impl Process {
    /// Starts it; its words go to `log` in its folder.
    pub(super) fn start(&mut self) -> Result<(), Refusal> {
        let failed =
            |error| Refusal::failed(format!("cannot start {}: {error}", self.folder.display()));
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .map_err(failed)?;
        let errors = log.try_clone().map_err(failed)?;
        let program = std::env::current_exe().map_err(failed)?;
        let child = Command::new(program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(errors))
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        self.child = Some(child);
        Ok(())
    }

    /// Its process id while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Its socket for the API.
    pub(super) fn api(&self) -> PathBuf {
        self.folder.join("api.sock")
    }

    /// Its own address.
    pub(super) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A client for its API.
    pub(super) fn client(&self) -> Client {
        Client::new(&self.api())
    }

    /// What it said.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// SIGKILL, now; returns when it is gone.
    pub(super) async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal(&child, Signal::SIGKILL);
            if let Err(error) = child.wait().await {
                tracing::warn!("{}: {error}", self.name);
            }
        }
    }

    /// True if it was started and has ended by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(Some(_))),
            None => false,
        }
    }

    async fn stop(&mut self) {
        let Some(child) = &mut self.child else {
            return;
        };
        signal(child, Signal::SIGTERM);
        if tokio::time::timeout(STOP_WAIT, child.wait()).await.is_err() {
            signal(child, Signal::SIGKILL);
        }
        self.kill().await;
    }
}

fn signal(child: &Child, signal: Signal) {
    let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) else {
        return;
    };
    if let Err(error) = kill(Pid::from_raw(pid), signal) {
        tracing::debug!("{signal} to {pid}: {error}");
    }
}

fn write_node(dir: &Path, index: usize, name: &str) -> std::io::Result<()> {
    let folder = dir.join(name);
    std::fs::create_dir_all(folder.join("pool"))?;
    let other = 1 - index;
    let text = format!(
        r#"node = "{name}"
peer = "{peer}"
state = "state"
api = "api.sock"

[[link]]
name = "replication"
address = "{address}"
peer = "{peer_address}"
role = "replication"

[[link]]
name = "service"
address = "{second}"
peer = "{peer_second}"
role = "service"

[witness]
address = "{WITNESS_ADDRESS}"

[pool]
path = "pool"
"#,
        peer = NODES[other],
        address = NODE_ADDRESSES[index],
        peer_address = NODE_ADDRESSES[other],
        second = SECOND_LINK[index],
        peer_second = SECOND_LINK[other],
    );
    std::fs::write(folder.join("node.toml"), text)
}

fn write_witness(dir: &Path) -> std::io::Result<()> {
    let folder = dir.join("witness");
    std::fs::create_dir_all(&folder)?;
    let text = format!(
        r#"state = "state"
listen = "{WITNESS_ADDRESS}:6941"
"#
    );
    std::fs::write(folder.join("witness.toml"), text)
}
