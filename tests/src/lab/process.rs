//! Processes under test: started in a group of their own, killed by number, their words kept.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::clock;

/// Lines of a log that are shown when a test fails.
const TAIL_LINES: usize = 40;

/// A running process and where its words go.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it says is added to `log`.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(mut command: Command, log: &Path) -> Self {
        let file = append(log);
        let errors = file.try_clone().expect("a file can be opened twice");
        command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .process_group(0);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            child,
            log: log.to_owned(),
        }
    }

    /// Starts `command`, which talks: what it prints can be read, its complaints are added to
    /// `log`. It can be told something if `stdin` is a pipe.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn talking(
        mut command: Command,
        stdin: Stdio,
        log: &Path,
    ) -> (Self, Option<ChildStdin>, ChildStdout) {
        command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(append(log))
            .process_group(0);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("it is piped");
        let log = log.to_owned();
        (Self { child, log }, stdin, stdout)
    }

    /// Its process id, which is also that of its group.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to its whole group.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("process ids are small");
        // It may have ended by itself; whoever needs to know asks for its end.
        let _ = killpg(Pid::from_raw(pid), signal);
    }

    /// SIGKILL, and returns when it is gone.
    pub fn kill(&mut self) {
        // A number whose process is gone may be somebody else's by now.
        if self.is_running() {
            self.signal(Signal::SIGKILL);
            drop(self.child.wait());
        }
    }

    /// Waits for its end; gives its exit code, or none after `limit` or if a signal ended it.
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        clock::until(limit, || self.child.try_wait().ok().flatten()).and_then(|end| end.code())
    }

    /// True while it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Prints what each of its threads waits for, as the kernel says: which one hangs, and where.
    pub fn show_threads(&self) {
        let folder = format!("/proc/{}/task", self.pid());
        for thread in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let said = ["comm", "wchan", "syscall", "stack"].map(|name| {
                let text = std::fs::read_to_string(thread.path().join(name)).unwrap_or_default();
                text.split_whitespace().collect::<Vec<_>>().join(" ")
            });
            eprintln!("thread {}", said.join(" | "));
        }
    }

    /// Prints the end of its log.
    pub fn show_log(&self) {
        show(&self.log);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Memory of a process that is in use (`VmRSS`), in KiB.
///
/// # Panics
/// If there is no such process.
#[must_use]
pub fn memory_kib(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("{path} has no VmRSS"))
}

/// File descriptors that a process has open.
///
/// # Panics
/// If there is no such process.
#[must_use]
pub fn open_files(pid: u32) -> usize {
    let path = format!("/proc/{pid}/fd");
    let files = std::fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    files.count()
}

/// Opens a log to add to it.
pub(super) fn append(log: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .unwrap_or_else(|error| panic!("{}: {error}", log.display()))
}

/// Prints the end of a log.
pub(super) fn show(log: &Path) {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    eprintln!("--- {} (last of {} lines)", log.display(), lines.len());
    for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
        eprintln!("{line}");
    }
}
