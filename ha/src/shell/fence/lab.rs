//! Agents that prove nothing, for labs: the configuration takes them only if told that it is one.

use core::time::Duration;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::TcpStream;
use tokio::process::Command;

use super::exec::PATH;
use super::{accepted, failed, power, program};
use crate::fence::{Power, Question, Reply};

/// How long a box that is on may take to answer a connection.
const CONNECT_MS: u64 = 2_000;

/// The box itself is asked to turn off, and silence is taken for off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ssh {
    /// Where its secure shell listens.
    pub address: SocketAddr,
    /// Who may turn it off; the key is this machine's.
    pub user: String,
    /// The program.
    pub ssh: PathBuf,
}

impl Ssh {
    pub(super) async fn ask(&self, what: Question, within: Duration) -> Reply {
        match what {
            Question::Off => self.off().await,
            Question::Power => self.power(within).await,
        }
    }

    async fn off(&self) -> Reply {
        let port = self.address.port().to_string();
        let to = format!("{}@{}", self.user, self.address.ip());
        let words = [
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=3",
            "-p",
            port.as_str(),
            to.as_str(),
            "poweroff -f",
        ];
        let asked = format!("ssh {}", words.join(" "));
        let mut command = Command::new(&self.ssh);
        command.args(words).env("PATH", PATH);
        match program::run(&mut command, "").await {
            // The connection ends with the box, which ssh calls 255.
            Ok(ended) if matches!(ended.code, Some(0 | 255)) => accepted(asked, ended.words()),
            Ok(ended) => failed(asked, ended.words()),
            Err(error) => failed(asked, format!("ssh cannot be run: {error}")),
        }
    }

    async fn power(&self, within: Duration) -> Reply {
        let asked = format!("a connection to {}", self.address);
        let patience = Duration::from_millis(CONNECT_MS).min(within / 2);
        let connected = tokio::time::timeout(patience, TcpStream::connect(self.address)).await;
        match connected {
            Ok(Ok(_)) => power(Power::On, asked, "it was made"),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                power(Power::On, asked, "it was refused, so the kernel runs")
            }
            Ok(Err(error)) => failed(asked, error.to_string()),
            Err(_) => power(Power::Off, asked, "silence, which a lab takes for off"),
        }
    }
}

/// Says what one would like to hear.
pub(super) fn null(what: Question) -> Reply {
    match what {
        Question::Off => accepted("nothing", "nothing was turned off"),
        Question::Power => power(Power::Off, "nothing", "off, which nobody looked at"),
    }
}
