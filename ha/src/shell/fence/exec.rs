//! A program of the operator's, by the convention of fence-agents: what to do comes as `key=value`
//! lines on its input.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tokio::process::Command;

use super::{Secret, accepted, failed, power, program};
use crate::fence::{Power, Question, Reply};

/// A program and what it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// Its absolute path.
    pub program: PathBuf,
    /// Lines that it gets beside `action`.
    pub options: BTreeMap<String, String>,
    /// Lines that nobody else may see, such as `password`.
    pub secrets: BTreeMap<String, Secret>,
}

impl Exec {
    pub(super) async fn ask(&self, what: Question) -> Reply {
        let action = match what {
            Question::Off => "off",
            Question::Power => "status",
        };
        let mut lines = format!("action={action}\n");
        for (key, value) in &self.options {
            lines.push_str(&format!("{key}={value}\n"));
        }
        let asked = format!(
            "{} with {}",
            self.program.display(),
            lines.trim_end().replace('\n', " ")
        );
        for (key, secret) in &self.secrets {
            lines.push_str(&format!("{key}={}\n", secret.0));
        }
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C");
        match program::run(&mut command, &lines).await {
            Ok(ended) => judged(what, asked, &ended),
            Err(error) => failed(asked, format!("it cannot be run: {error}")),
        }
    }
}

/// Where programs find others.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Exit codes of fence-agents: `off` gives 0; `status` gives 0 for on and 2 for off. As 2 is also
/// what a shell or an interpreter says of a program that it does not understand, the words that
/// fence-agents print with it have to be there.
fn judged(what: Question, asked: String, ended: &program::Ended) -> Reply {
    let says = |word: &str| {
        let line = |line: &str| line.trim().eq_ignore_ascii_case(&format!("status: {word}"));
        ended.stdout.lines().any(line)
    };
    match (what, ended.code) {
        (Question::Off, Some(0)) => accepted(asked, ended.finding()),
        (Question::Power, Some(0)) if !says("off") => power(Power::On, asked, ended.finding()),
        (Question::Power, Some(2)) if says("off") && !says("on") => {
            power(Power::Off, asked, ended.finding())
        }
        (Question::Power, Some(0 | 2)) => {
            let why = "exit code and words do not agree; off is exit code 2 and `Status: OFF`";
            failed(asked, format!("{why} ({})", ended.words()))
        }
        (Question::Off | Question::Power, _) => failed(asked, ended.words()),
    }
}
