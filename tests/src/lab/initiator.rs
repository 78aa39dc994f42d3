//! The other side of the tests' evidence: a process of its own that writes, remembers what was
//! acknowledged and answers questions, one JSON line for each line it is told.

use std::io::Write as _;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use serde_json::Value;

use super::demo::lines_of;
use super::process::Process;

/// Longest wait for an answer that must come.
const ANSWER_WAIT: Duration = Duration::from_secs(90);

/// A running initiator process.
#[derive(Debug)]
pub struct Initiator {
    process: Process,
    stdin: ChildStdin,
    lines: Receiver<String>,
    name: String,
}

impl Initiator {
    /// Starts `command`, which must be the `load` program with its arguments.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(command: Command, name: &str, log: &Path) -> Self {
        let (process, stdin, stdout) = Process::talking(command, Stdio::piped(), log);
        let stdin = stdin.expect("it is piped");
        let lines = lines_of(stdout);
        Self {
            process,
            stdin,
            lines,
            name: name.to_owned(),
        }
    }

    /// Says one line, without waiting for an answer.
    ///
    /// # Panics
    /// If the process has ended.
    pub fn tell(&mut self, line: &str) {
        let told = writeln!(self.stdin, "{line}").and_then(|()| self.stdin.flush());
        if let Err(error) = told {
            self.process.show_log();
            panic!("{}: {error}", self.name);
        }
    }

    /// The next answer; none if there is none within `limit`.
    ///
    /// # Panics
    /// If the process has ended or talks nonsense.
    pub fn answer(&mut self, limit: Duration) -> Option<Value> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Some(
                serde_json::from_str(&line)
                    .unwrap_or_else(|error| panic!("{}: {error}: {line}", self.name)),
            ),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                self.process.show_log();
                panic!("{} has ended", self.name)
            }
        }
    }

    /// Says one line and gives the answer, good or bad.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn ask(&mut self, line: &str) -> Value {
        self.tell(line);
        self.answer(ANSWER_WAIT)
            .unwrap_or_else(|| panic!("{}: no answer to `{line}`", self.name))
    }

    /// Says one line whose answer must be good.
    ///
    /// # Panics
    /// With what went wrong.
    pub fn must(&mut self, line: &str) -> Value {
        let answer = self.ask(line);
        assert_eq!(
            answer["ok"], true,
            "{}: `{line}`: {}",
            self.name, answer["error"]
        );
        answer
    }

    /// Starts measuring the longest time without an acknowledgement.
    pub fn measure(&mut self) {
        self.must("measure");
    }

    /// The longest time without an acknowledgement since [`Initiator::measure`], in ms.
    ///
    /// # Panics
    /// If it does not say.
    pub fn gap_ms(&mut self) -> u64 {
        self.must("gap")["gap_ms"].as_u64().expect("a number")
    }

    /// Waits until `more` further writes are acknowledged.
    pub fn progress(&mut self, more: u64, limit: Duration) {
        self.must(&format!("progress {more} {}", limit.as_secs()));
    }

    /// Writes acknowledged so far.
    ///
    /// # Panics
    /// If it does not say.
    pub fn acknowledged(&mut self) -> u64 {
        self.must("status")["acknowledged"]
            .as_u64()
            .expect("a number")
    }

    /// Its process.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
