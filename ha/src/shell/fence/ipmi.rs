//! IPMI 2.0 over LAN, through the program `ipmitool`.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::process::Command;

use super::exec::PATH;
use super::{Secret, accepted, failed, power, program};
use crate::fence::{Power, Question, Reply};

/// A service processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipmi {
    /// Where it listens, UDP.
    pub address: SocketAddr,
    /// Its user; the privilege level operator is enough.
    pub user: String,
    /// The user's secret.
    pub secret: Secret,
    /// Number of the cipher suite (IPMI 2.0, table 22-20); none: the best it offers.
    pub cipher_suite: Option<u8>,
    /// The program.
    pub ipmitool: PathBuf,
}

impl Ipmi {
    pub(super) async fn ask(&self, what: Question) -> Reply {
        let action = match what {
            Question::Off => "off",
            Question::Power => "status",
        };
        let mut words = vec![
            "-I".to_owned(),
            "lanplus".to_owned(),
            "-H".to_owned(),
            self.address.ip().to_string(),
            "-p".to_owned(),
            self.address.port().to_string(),
            "-U".to_owned(),
            self.user.clone(),
        ];
        // One second for each try: the time of the whole question is not its own.
        words.extend(["-L", "OPERATOR", "-N", "1", "-R", "2"].map(str::to_owned));
        if let Some(suite) = self.cipher_suite {
            words.extend(["-C".to_owned(), suite.to_string()]);
        }
        // The secret is in the environment: everybody may see the words of a command.
        words.extend(["-E", "chassis", "power", action].map(str::to_owned));
        let asked = format!("ipmitool {}", words.join(" "));
        let mut command = Command::new(&self.ipmitool);
        command
            .args(&words)
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C")
            .env("IPMI_PASSWORD", &self.secret.0);
        match program::run(&mut command, "").await {
            Ok(ended) => judged(what, asked, &ended),
            Err(error) => failed(
                asked,
                format!(
                    "{} cannot be run: {error}; install ipmitool",
                    self.ipmitool.display()
                ),
            ),
        }
    }
}

fn judged(what: Question, asked: String, ended: &program::Ended) -> Reply {
    let said = ended.stdout.trim();
    match (what, ended.code, said) {
        (Question::Off, Some(0), _) => accepted(asked, said),
        (Question::Power, Some(0), "Chassis Power is off") => power(Power::Off, asked, said),
        (Question::Power, Some(0), "Chassis Power is on") => power(Power::On, asked, said),
        (Question::Off | Question::Power, _, _) => failed(asked, ended.words()),
    }
}
