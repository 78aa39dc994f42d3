//! A `twinsan pair create` that waits for somebody.

use std::path::Path;
use std::process::Command;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use serde_json::Value;

use super::process::Process;
use super::{STATE_WAIT, demo};

/// It runs until somebody has joined, or nobody can any more, or this is dropped.
#[derive(Debug)]
pub struct Offer {
    process: Process,
    lines: Receiver<String>,
    /// The code that it shows.
    pub code: String,
}

impl Offer {
    /// Starts `command`, which is that verb with `--json`, and waits for the code.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn of(command: Command, log: &Path) -> Self {
        let (process, lines) = demo::piped(command, log);
        let Ok(line) = lines.recv_timeout(STATE_WAIT) else {
            process.show_log();
            panic!("no code is shown");
        };
        let said: Value = serde_json::from_str(&line).expect("a line of JSON");
        let code = said["code"].as_str().expect("it names the code").to_owned();
        Self {
            process,
            lines,
            code,
        }
    }

    /// The code with another first character.
    #[must_use]
    pub fn wrong_code(&self) -> String {
        let first = if self.code.starts_with('0') { "1" } else { "0" };
        first.to_owned() + &self.code[1..]
    }

    /// Waits for its end; gives its exit code.
    pub fn end(&mut self, limit: Duration) -> Option<i32> {
        self.process.wait(limit)
    }

    /// True while it waits for somebody.
    pub fn is_open(&mut self) -> bool {
        self.process.is_running()
    }

    /// The next line that it prints.
    #[must_use]
    pub fn line(&self) -> Option<String> {
        self.lines.recv_timeout(STATE_WAIT).ok()
    }
}
