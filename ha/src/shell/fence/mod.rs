//! The power devices: one small agent for each kind, and the task that drives the core.
//!
//! An agent runs on the box that lives, never on the one it turns off. It asks its device one
//! thing, on a connection of its own, and reports the words that were exchanged. No secret is in
//! these, whatever the device or the program sent back.

mod desk;
mod exec;
mod ipmi;
mod lab;
mod pin;
mod program;
mod redfish;
mod snmp;

use core::fmt;
use core::time::Duration;
use std::net::SocketAddr;

use crate::fence::{Answer, Hand, Power, Question, Reply};

pub use desk::{Desk, DeskHandle, Report};
pub use exec::Exec;
pub use ipmi::Ipmi;
pub use lab::Ssh;
pub use pin::Pin;
pub use redfish::Redfish;
pub use snmp::{Access, ApcSnmp, AuthHash};

/// Words of a device that are kept.
const WORDS_MAX: usize = 400;

/// What only its device may know.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How one device is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agent {
    /// A service processor, by Redfish (DSP0266).
    Redfish(Redfish),
    /// A service processor, by IPMI over LAN (RMCP+), through `ipmitool`.
    Ipmi(Ipmi),
    /// One outlet of an APC rack power distribution unit.
    ApcSnmp(ApcSnmp),
    /// A program that follows the convention of fence-agents.
    Exec(Exec),
    /// An operator.
    Manual,
    /// For the lab: asks the box itself, which proves nothing.
    Ssh(Ssh),
    /// For the lab: does nothing and says that the box is off.
    Null,
}

impl Agent {
    /// Who turns the box off.
    #[must_use]
    pub const fn hand(&self) -> Hand {
        match self {
            Self::Manual => Hand::Operator,
            Self::Redfish(_)
            | Self::Ipmi(_)
            | Self::ApcSnmp(_)
            | Self::Exec(_)
            | Self::Ssh(_)
            | Self::Null => Hand::Agent,
        }
    }

    /// What takes one question at a time.
    #[must_use]
    pub fn bus(&self) -> String {
        let of = |address: &SocketAddr| address.to_string();
        match self {
            Self::Redfish(it) => of(&it.address),
            Self::Ipmi(it) => of(&it.address),
            Self::ApcSnmp(it) => of(&it.address),
            Self::Exec(it) => it.program.display().to_string(),
            Self::Ssh(it) => of(&it.address),
            Self::Manual => "by hand".to_owned(),
            Self::Null => "null".to_owned(),
        }
    }

    /// Asks, for at most `within`.
    pub async fn ask(&self, what: Question, within: Duration) -> Reply {
        let asking = async {
            match self {
                Self::Redfish(it) => it.ask(what).await,
                Self::Ipmi(it) => it.ask(what).await,
                Self::ApcSnmp(it) => it.ask(what).await,
                Self::Exec(it) => it.ask(what).await,
                Self::Ssh(it) => it.ask(what, within).await,
                Self::Manual => failed("nothing", "an operator answers this, not a program"),
                Self::Null => lab::null(what),
            }
        };
        let reply = tokio::time::timeout(within, asking).await;
        let reply = reply.unwrap_or_else(|_| {
            let why = format!("no answer within {} s", within.as_secs());
            failed(self.asks(what), why)
        });
        self.without_secrets(reply)
    }

    /// In words, for an answer that never came.
    fn asks(&self, what: Question) -> String {
        let wanted = match what {
            Question::Off => "power off",
            Question::Power => "power status",
        };
        format!("{wanted}, of {}", self.bus())
    }

    fn secrets(&self) -> Vec<String> {
        match self {
            Self::Redfish(it) => vec![it.secret.0.clone(), it.credentials()],
            Self::Ipmi(it) => vec![it.secret.0.clone()],
            Self::ApcSnmp(it) => it.access.secrets(),
            Self::Exec(it) => it.secrets.values().map(|it| it.0.clone()).collect(),
            Self::Manual | Self::Ssh(_) | Self::Null => Vec::new(),
        }
    }

    /// Devices and programs repeat what they were given, in their errors at least.
    fn without_secrets(&self, reply: Reply) -> Reply {
        let mut secrets = self.secrets();
        secrets.retain(|secret| !secret.is_empty());
        // A secret that contains another one is taken out first, and whole.
        secrets.sort_by_key(|secret| core::cmp::Reverse(secret.len()));
        let clean = |text: &str| {
            let hidden = secrets
                .iter()
                .fold(text.to_owned(), |text, it| text.replace(it, "***"));
            let printable = hidden
                .chars()
                .map(|it| if it.is_control() { ' ' } else { it });
            let text: String = printable.take(WORDS_MAX).collect();
            text.trim().to_owned()
        };
        Reply {
            answer: match reply.answer {
                Answer::Failed(why) => Answer::Failed(clean(&why)),
                Answer::Accepted | Answer::Power(_) => reply.answer,
            },
            asked: clean(&reply.asked),
            answered: clean(&reply.answered),
        }
    }
}

fn failed(asked: impl Into<String>, why: impl Into<String>) -> Reply {
    let why = why.into();
    Reply {
        answer: Answer::Failed(why.clone()),
        asked: asked.into(),
        answered: why,
    }
}

fn accepted(asked: impl Into<String>, answered: impl Into<String>) -> Reply {
    Reply {
        answer: Answer::Accepted,
        asked: asked.into(),
        answered: answered.into(),
    }
}

fn power(power: Power, asked: impl Into<String>, answered: impl Into<String>) -> Reply {
    Reply {
        answer: Answer::Power(power),
        asked: asked.into(),
        answered: answered.into(),
    }
}
