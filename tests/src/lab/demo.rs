//! `twinsan demo` as a process in a loopback of its own, run by a plain user.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

use super::network::Loopback;
use super::process::Process;
use super::{clock, fresh_folder, program, said};

/// The user `nobody`: no right on anything.
const NOBODY: u32 = 65_534;
/// Until the demo's pair serves.
const READY_WAIT: Duration = Duration::from_secs(60);

/// A loopback, and a folder that a plain user may write to.
#[derive(Debug)]
pub struct Stage {
    loopback: Loopback,
    folder: PathBuf,
    program: PathBuf,
}

/// A demo with `--serve --json`. SIGINT ends it when it is dropped.
#[derive(Debug)]
pub struct Served {
    process: Process,
    lines: Receiver<String>,
    /// The first line.
    pub ready: Value,
}

/// Units that are served from memory, until this is dropped.
#[derive(Debug)]
pub struct Units {
    /// One for each, in order.
    pub urls: Vec<String>,
    _process: Process,
}

impl Stage {
    /// Prepares both. The program is copied: a plain user may not enter every build folder.
    ///
    /// # Panics
    /// If the machine does not allow it.
    #[must_use]
    pub fn new() -> Self {
        let built = program::twinsan();
        let folder = fresh_folder();
        let program = folder.join("twinsan");
        std::fs::copy(built, &program).expect("the program can be copied");
        let home = folder.join("home");
        std::fs::create_dir(&home).expect("a new folder");
        if nix::unistd::geteuid().is_root() {
            let owner = Some(nix::unistd::Uid::from_raw(NOBODY));
            let group = Some(nix::unistd::Gid::from_raw(NOBODY));
            nix::unistd::chown(&home, owner, group).expect("root may");
        }
        Self {
            loopback: Loopback::new(),
            folder,
            program,
        }
    }

    /// A folder that the plain user owns.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.folder.join("home")
    }

    /// `program` in the loopback, without rights.
    #[must_use]
    pub fn plain(&self, program: &Path) -> Command {
        let mut command = if nix::unistd::geteuid().is_root() {
            let mut command = self.loopback.command(Path::new("setpriv"));
            let id = NOBODY.to_string();
            command.args([
                "--reuid",
                &id,
                "--regid",
                &id,
                "--clear-groups",
                "--no-new-privs",
            ]);
            command.arg(program);
            command
        } else {
            Command::new(program)
        };
        let home = self.home();
        command
            .env("HOME", &home)
            .env("TMPDIR", &home)
            .current_dir(&home);
        command
    }

    /// `twinsan ARGUMENTS` in the loopback, without rights.
    #[must_use]
    pub fn twinsan(&self, arguments: &[&str]) -> Command {
        let mut command = self.plain(&self.program);
        command.args(arguments);
        command
    }

    /// `program` in the loopback, as this process's user.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        self.loopback.command(Path::new(program))
    }

    /// Connects to `place` in the loopback.
    ///
    /// # Errors
    /// What the system says.
    pub fn connect(&self, place: &str) -> std::io::Result<std::net::TcpStream> {
        self.loopback.connect(place)
    }

    /// Processes in the loopback and sockets that listen in it.
    #[must_use]
    pub fn remains(&self) -> (Vec<u32>, Vec<String>) {
        let output = self
            .command("cat")
            .args(["/proc/net/tcp", "/proc/net/udp"])
            .output();
        let text = String::from_utf8_lossy(&output.expect("cat exists").stdout).into_owned();
        // columns: slot, local address, remote address, state: 0A listens, 07 is bound UDP
        let open = text.lines().filter(|line| {
            line.split_whitespace()
                .nth(3)
                .is_some_and(|state| matches!(state, "0A" | "07"))
        });
        (self.loopback.processes(), open.map(str::to_owned).collect())
    }

    /// Starts a demo that serves and waits for its ready line.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn serve(&self, more: &[&str]) -> Served {
        let arguments: Vec<&str> = ["demo", "--serve", "--json"]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        let (process, lines) = self.start(&arguments);
        let Ok(line) = lines.recv_timeout(READY_WAIT) else {
            process.show_log();
            panic!("the demo is not ready after {READY_WAIT:?}");
        };
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Served {
            process,
            lines,
            ready,
        }
    }

    /// Serves units of these kinds from memory, under the LUNs 0, 1 and so on.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn serve_units(&self, address: &str, kinds: &[&str]) -> Units {
        let log = self.folder.join("serve.log");
        let mut command = self.command(&program::serve().display().to_string());
        command.args(["--listen", address]);
        for kind in kinds {
            command.args(["--unit", kind]);
        }
        let (process, lines) = piped(command, &log);
        let urls = kinds.iter().map(|kind| {
            lines.recv_timeout(READY_WAIT).unwrap_or_else(|_| {
                process.show_log();
                panic!("no URL of the unit {kind}")
            })
        });
        let urls = urls.collect();
        Units {
            urls,
            _process: process,
        }
    }

    /// Starts `twinsan ARGUMENTS`; gives what it prints, line by line.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(&self, arguments: &[&str]) -> (Process, Receiver<String>) {
        let log = self.folder.join("demo.log");
        piped(self.twinsan(arguments), &log)
    }
}

/// Starts a process group whose complaints go to a log; gives what it prints, line by line.
pub(super) fn piped(command: Command, log: &Path) -> (Process, Receiver<String>) {
    let (process, _, stdout) = Process::talking(command, Stdio::null(), log);
    (process, lines_of(stdout))
}

impl Default for Stage {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for pid in self.loopback.processes() {
            let pid =
                nix::unistd::Pid::from_raw(i32::try_from(pid).expect("process ids are small"));
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("{}: {error}", self.folder.display());
        }
    }
}

impl Served {
    /// The next event of that name; earlier ones are skipped.
    ///
    /// # Panics
    /// If there is none within `limit`.
    pub fn event(&self, name: &str, limit: Duration) -> Value {
        let watch = clock::Stopwatch::start();
        let mut seen = BTreeMap::new();
        while watch.elapsed() < limit {
            let left = limit.saturating_sub(watch.elapsed());
            let Ok(line) = self.lines.recv_timeout(left) else {
                break;
            };
            let event: Value =
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if event["event"] == name {
                return event;
            }
            seen.insert(line, ());
        }
        panic!("no event `{name}` within {limit:?}, only {:?}", seen.keys());
    }

    /// Moves the primary role to the other box and waits until the demo says so.
    ///
    /// # Panics
    /// If it is refused for long.
    pub fn switch_over(&self, stage: &Stage, to: &str) {
        let from = if to == "san1" { "san2" } else { "san1" };
        let api = self.ready["nodes"][from]["api"].as_str();
        let api = api.expect("the ready line names the sockets");
        let mut refusal = String::new();
        let moved = clock::until(READY_WAIT, || {
            let said = said(&mut stage.twinsan(&["--api", api, "switchover", "--to", to]));
            refusal = said.err;
            (said.code == Some(0)).then_some(())
        });
        assert!(moved.is_some(), "no switchover to {to}: {refusal}");
        loop {
            let role = self.event("role", READY_WAIT);
            if role["node"] == to && role["role"] == "primary" {
                return;
            }
        }
    }

    /// Its process; its group has every process of the demo.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.process.show_log();
        }
        self.process.signal(nix::sys::signal::Signal::SIGINT);
        self.process.wait(Duration::from_secs(10));
    }
}

/// Reads lines on a thread, so that waiting for one can end.
pub(super) fn lines_of(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
