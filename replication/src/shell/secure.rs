//! Securing connections before they become sessions of the data link.
//!
//! A handshake that a stranger began keeps one place of few, for a short time, and gives it up to
//! the next one. What only an operator can put right is an event, said once and not with every
//! attempt.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::Instant;

use super::driver::Inner;
use super::link::{Origin, ReadEnd};
use super::tls::{self, Channel, Tls, TlsError};
use crate::engine::Event;

/// How long either side may take to show its certificate.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// Handshakes under way at once; the oldest gives way to a newer one.
pub(super) const HANDSHAKES_MAX: usize = 16;
/// The same complaint is not repeated within this.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(60);

/// Connections that are being secured.
#[derive(Default)]
pub(super) struct Security {
    /// Handshakes of who dialled us, oldest first.
    handshakes: RefCell<VecDeque<AbortHandle>>,
    complaint: Cell<Option<(&'static str, Instant)>>,
}

impl Security {
    /// True if `said` was not said just now.
    fn is_news(&self, said: &'static str) -> bool {
        let now = Instant::now();
        let before = self.complaint.get();
        let news = before.is_none_or(|(text, at)| text != said || now - at > COMPLAINT_PAUSE);
        if news {
            self.complaint.set(Some((said, now)));
        }
        news
    }
}

impl Inner {
    /// Secures a connection that we made.
    pub(super) async fn secure_dialled(
        &self,
        stream: TcpStream,
        tls: Option<&Tls>,
    ) -> io::Result<Channel> {
        let Some(tls) = tls else {
            return Ok(Channel::plain(stream));
        };
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.dialled(stream)).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(TlsError::Refused(why))) => {
                self.core.borrow_mut().link.refuse();
                self.complain(why);
                Err(io::Error::other(why))
            }
            Ok(Err(TlsError::Io(error))) => Err(error),
            Err(late) => Err(late.into()),
        }
    }

    /// Secures a connection that was made to us, in the background; then it becomes a session.
    pub(super) fn secure_accepted(
        self: &Rc<Self>,
        stream: TcpStream,
        from: SocketAddr,
        tls: Option<Rc<Tls>>,
    ) -> io::Result<()> {
        let Some(tls) = tls else {
            return self.admit(Channel::plain(stream), Origin::Accepted);
        };
        let this = Rc::clone(self);
        let task = spawn_local(async move {
            let secured = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accepted(stream)).await;
            match secured {
                Ok(Ok(channel)) => {
                    if let Err(error) = this.admit(channel, Origin::Accepted) {
                        tracing::debug!(%from, %error, "a data session ended at once");
                    }
                }
                Ok(Err(error)) => this.turned_away(from, &error),
                Err(_) => this.core.borrow_mut().link.gave_up(),
            }
        });
        let mut handshakes = self.security.handshakes.borrow_mut();
        handshakes.retain(|handshake| !handshake.is_finished());
        if handshakes.len() == HANDSHAKES_MAX
            && let Some(oldest) = handshakes.pop_front()
        {
            oldest.abort();
            self.core.borrow_mut().link.gave_up();
        }
        handshakes.push_back(task.abort_handle());
        self.keep(task);
        Ok(())
    }

    fn turned_away(&self, from: SocketAddr, error: &TlsError) {
        tracing::debug!(%from, %error, "a connection to the data link was turned away");
        self.core.borrow_mut().link.refuse();
        if let TlsError::Refused(why) = error {
            self.complain(why);
        }
    }

    /// Says of a session that ended what an operator can put right.
    pub(super) fn complain_of(&self, end: &ReadEnd) {
        match end {
            ReadEnd::Encrypted => self.complain(tls::TLS_THERE),
            ReadEnd::Io(error) => {
                if let Some(why) = tls::refused_later(error) {
                    self.complain(why);
                }
            }
            ReadEnd::Closed | ReadEnd::Garbage(_) => {}
        }
    }

    fn complain(&self, why: &'static str) {
        if self.security.is_news(why) {
            self.tell(Event::Alarm(why.to_owned()));
        }
    }
}
