//! One initiator's way to one unit, as a host without multipathing has it: a session that is
//! opened again on the next portal when it is lost, and commands whose fate may stay unknown.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use iscsi_target::initiator::{InitiatorError, Login, Response, Session, cdb};
use tokio::time::{sleep, timeout};

use crate::Where;

/// Pause between two tries to log in, or after an answer that says to come again.
const AGAIN: Duration = Duration::from_millis(20);
/// A login that takes longer is given up, so that a dead path does not hold back a live one.
const LOGIN_MS: u64 = 1000;
/// A command without an answer for so long never gets one: its task was aborted by somebody else.
const ANSWER_WAIT: Duration = Duration::from_secs(6);
/// CHECK CONDITION, BUSY and TASK SET FULL (SAM-5 table 39).
const CHECK_CONDITION: u8 = 0x02;
const BUSY: u8 = 0x08;
const TASK_SET_FULL: u8 = 0x28;
/// Sense keys of commands that were not carried out and may come again (SPC-4 table 43).
const NOT_READY: u8 = 0x02;
const UNIT_ATTENTION: u8 = 0x06;

/// What became of a command.
pub(crate) enum Fate {
    /// This status was received, and it says what was done.
    Answered(Response),
    /// No such status: the command may have been carried out, or not.
    Unknown,
}

/// The way, opened when it is needed.
pub(crate) struct Path {
    portals: Vec<SocketAddr>,
    target: String,
    initiator: String,
    turn: usize,
    session: Option<Session>,
}

impl Path {
    pub(crate) fn new(at: &Where) -> Self {
        Self {
            portals: at.portal.clone(),
            target: at.target.clone(),
            initiator: at.initiator.clone(),
            turn: 0,
            session: None,
        }
    }

    /// Sends one command until the target took it up, and says what became of it then.
    pub(crate) async fn attempt(
        &mut self,
        command: cdb::Cdb,
        data: Bytes,
        in_bytes: usize,
    ) -> Fate {
        loop {
            let session = self.session().await;
            let sent = session.execute(cdb::lun(0), command, data.clone(), in_bytes);
            let answer = match timeout(ANSWER_WAIT, sent).await {
                Ok(answer) => answer,
                Err(_) => Err(InitiatorError::Timeout),
            };
            match answer {
                Ok(answer) if was_not_begun(&answer) => sleep(AGAIN).await,
                Ok(answer) if answer.status == CHECK_CONDITION && is_aborted(&answer) => {
                    return Fate::Unknown;
                }
                Ok(answer) => return Fate::Answered(answer),
                Err(_) => {
                    self.session = None;
                    return Fate::Unknown;
                }
            }
        }
    }

    /// Repeats a command that may be carried out twice until it is answered.
    ///
    /// # Errors
    /// With the sense code of a failure.
    pub(crate) async fn until_good(
        &mut self,
        command: cdb::Cdb,
        data: Bytes,
        in_bytes: usize,
    ) -> Result<Bytes, String> {
        loop {
            match self.attempt(command, data.clone(), in_bytes).await {
                Fate::Answered(answer) if answer.is_good() => return Ok(answer.data),
                Fate::Answered(answer) => {
                    let (status, sense) = (answer.status, answer.sense_code());
                    return Err(format!(
                        "command {:#04x}: status {status:#04x}, sense {sense:02x?}",
                        command[0]
                    ));
                }
                Fate::Unknown => {}
            }
        }
    }

    /// The session, opened on one portal after the other until there is one.
    async fn session(&mut self) -> Session {
        loop {
            match &self.session {
                Some(session) if !session.is_over() => return session.clone(),
                _ => {}
            }
            let portal = self.portals[self.turn % self.portals.len()];
            let login = Login {
                timeout_ms: LOGIN_MS,
                ..Login::new(&self.initiator, &self.target)
            };
            match Session::login(portal, login).await {
                Ok(session) => self.session = Some(session),
                Err(_) => {
                    self.turn += 1;
                    sleep(AGAIN).await;
                }
            }
        }
    }
}

fn was_not_begun(answer: &Response) -> bool {
    [BUSY, TASK_SET_FULL].contains(&answer.status)
        || answer
            .sense_code()
            .is_some_and(|(key, _, _)| [NOT_READY, UNIT_ATTENTION].contains(&key))
}

/// ABORTED COMMAND.
fn is_aborted(answer: &Response) -> bool {
    answer.sense_code().is_some_and(|(key, _, _)| key == 0x0b)
}
