//! One TCP connection as a state machine without I/O: bytes in, bytes and requests out.
//!
//! ```text
//!            login answered        logout, fault, drop, time-out
//!   Login -----------------> Full ---------------------------> Closed
//!     | refused, time-out                                        ^
//!     +----------------------------------------------------------+
//! ```
//!
//! The caller feeds one [`Input`], drains [`Connection::poll_output`] to `None`, delivers the
//! registry's mail, sends what is in [`Connection::outbox`] and asks [`Connection::poll_timeout`].
//! Notices go in before anything else that is pending (law T1).
//!
//! Invariants: in `Closed` nothing is taken in, and nothing is submitted but changes of
//! reservations that were made before; a session is in the registry exactly while the phase is
//! `Full`.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bytes::BytesMut;

use crate::backend::{Backend, BackendError, Done, Request, Tag};
use crate::budget::{Holding, RESERVE_BYTES};
use crate::discovery::Portal;
use crate::login::{LOGIN_SEGMENT_MAX_BYTES, Login, Next, Surroundings, Welcome};
use crate::negotiate::RECEIVE_MAX_BYTES;
use crate::pdu::async_event;
use crate::pdu::frame::{Decoder, Frame, FrameError};
use crate::pdu::login::{self, Status};
use crate::pdu::opcode;
use crate::pdu::outbox::Outbox;
use crate::pdu::reject::Reason;
use crate::registry::{DropReason, Notice, Registry, SessionKind};
use crate::scsi::{Array, Nexus};
use crate::session::{DATA_MAX_BYTES, Opening, Session, Wire};
use crate::types::{Serial, Time};
use crate::window::WINDOW_DEPTH;

/// A session that was silent for this long is asked whether it is there (law T2).
pub const PING_AFTER_MS: u64 = 1500;
/// How long the answer may take (law T2).
pub const ANSWER_WITHIN_MS: u64 = 2500;
/// A discovery session that was silent for this long is closed.
pub const DISCOVERY_IDLE_MS: u64 = 30_000;
/// How much the network must take within [`ANSWER_WITHIN_MS`] to count as alive while an answer is
/// due, unless it takes everything.
pub const PACE_MIN_BYTES: usize = 64 * 1024;
/// How long a session may keep memory for data that it was asked for and does not send, while
/// others wait for memory. In that time come at least [`PACE_MIN_BYTES`].
pub const STALL_MS: u64 = 10_000;
/// How long the last words may take to be sent.
pub const FAREWELL_MS: u64 = 2000;

/// What connections share, lent for the time of one call.
pub struct Ports<'a> {
    /// Units, hosts and maps.
    pub array: &'a mut Array,
    /// Sessions.
    pub registry: &'a mut Registry,
}

/// What can happen to a connection.
#[derive(Debug)]
pub enum Input<'a> {
    /// Bytes arrived; those that are left over stay for the next time.
    Received(&'a mut BytesMut),
    /// That many bytes were put into [`Connection::landing`].
    Landed(usize),
    /// That many bytes of the outbox are sent.
    Sent(usize),
    /// The backend finished.
    Done(Tag, Result<Done, BackendError>),
    /// Another connection, or an operator, says something.
    Notice(Notice),
    /// The time of [`Connection::poll_timeout`] has come.
    Timeout,
    /// The peer or the network closed the connection.
    Disconnected,
}

/// What a connection wants done.
pub enum Output {
    /// Ask the backend; the outcome comes back under the tag.
    Submit {
        /// Name of the request.
        tag: Tag,
        /// Whom to ask.
        backend: Rc<dyn Backend>,
        /// What.
        request: Request,
    },
    /// The connection is over.
    Close {
        /// Why.
        reason: CloseReason,
        /// How.
        manner: Manner,
    },
}

/// How to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// When the outbox is empty, or after [`FAREWELL_MS`].
    AfterSending,
    /// At once, with a reset: the peer must not take silence for a slow disk.
    Reset,
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The initiator logged out.
    Logout,
    /// The login was refused.
    Refused,
    /// The login took too long.
    LoginTimeout,
    /// The initiator broke the protocol.
    Protocol,
    /// The initiator did not answer (law T2).
    Unresponsive,
    /// This box lost its role (law R8).
    NotActive,
    /// Somebody else said so.
    Dropped(DropReason),
    /// The peer hung up.
    Disconnected,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    surroundings: Surroundings,
    here: Portal,
    decoder: Decoder,
    outbox: Outbox,
    outputs: VecDeque<Output>,
    phase: Phase,
    deadline: Option<Time>,
    /// How much may wait to be sent before the peer is not listened to any more.
    queued_max_bytes: usize,
    /// What the network took while an answer was due.
    taken_bytes: usize,
    /// When the data that memory is kept for must be here, and how many had come before.
    stall: Option<(Time, u64)>,
    /// What backends still hold for a session that is over.
    abandoned: BTreeMap<Tag, usize>,
}

#[derive(Debug)]
enum Phase {
    Login(Box<Login>, Sequence),
    Full(Box<Session>),
    Closed,
}

/// Numbers of the login phase.
#[derive(Clone, Copy, Debug, Default)]
struct Sequence {
    stat_sn: Option<Serial>,
    cmd_sn: Serial,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Submit { tag, request, .. } => f
                .debug_struct("Submit")
                .field("tag", tag)
                .field("request", request)
                .finish(),
            Self::Close { reason, manner } => f
                .debug_struct("Close")
                .field("reason", reason)
                .field("manner", manner)
                .finish(),
        }
    }
}

impl Connection {
    /// A connection that was just accepted at `here`; the login may take `login_ms`.
    #[must_use]
    pub fn new(now: Time, login_ms: u64, here: Portal, surroundings: Surroundings) -> Self {
        let login = Box::new(Login::new(surroundings.clone()));
        Self {
            surroundings,
            here,
            decoder: Decoder::new(LOGIN_SEGMENT_MAX_BYTES),
            outbox: Outbox::default(),
            outputs: VecDeque::new(),
            phase: Phase::Login(login, Sequence::default()),
            deadline: Some(now.after_ms(login_ms)),
            queued_max_bytes: RESERVE_BYTES,
            taken_bytes: 0,
            stall: None,
            abandoned: BTreeMap::new(),
        }
    }

    /// Takes one event. Never fails: what the peer did wrong is a Reject or a close.
    pub fn handle(&mut self, now: Time, input: Input<'_>, ports: &mut Ports<'_>) {
        match input {
            Input::Received(bytes) => self.received(now, bytes, ports),
            Input::Landed(len_bytes) => {
                self.decoder.landed(len_bytes);
                self.received(now, &mut BytesMut::new(), ports);
            }
            Input::Sent(len_bytes) => self.sent(now, len_bytes, ports),
            Input::Done(tag, outcome) => {
                self.abandoned.remove(&tag);
                self.in_session(ports, |session, ports, wire| {
                    session.done(tag, outcome, ports, wire);
                });
            }
            Input::Notice(Notice::Drop(reason)) => self.drop_for(now, reason, ports),
            Input::Notice(Notice::ClearTasks(scope)) => {
                self.in_session(ports, |session, ports, wire| {
                    session.clear(scope, ports.array);
                    session.pump(ports, wire);
                });
            }
            Input::Notice(Notice::Memory) => {
                self.in_session(ports, |session, ports, wire| session.pump(ports, wire));
            }
            Input::Notice(Notice::AskLogout(within_s)) => {
                self.in_session(ports, |session, _, wire| session.ask_logout(within_s, wire));
            }
            Input::Timeout => self.timeout(now, ports),
            Input::Disconnected => {
                self.close(now, CloseReason::Disconnected, Manner::Reset, ports);
            }
        }
        self.settle(now, ports);
        while let Some((nexus, scope)) = ports.array.next_aborted() {
            ports.registry.clear_tasks(nexus, scope);
        }
    }

    /// The connection is gone: which requests backends have not ended, and what each holds.
    pub fn take_abandoned(&mut self) -> BTreeMap<Tag, usize> {
        std::mem::take(&mut self.abandoned)
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let stall = self.stall.map(|(until, _)| until);
        self.deadline.into_iter().chain(stall).min()
    }

    /// What waits to be sent; sent bytes are reported with [`Input::Sent`].
    #[must_use]
    pub const fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Whether more input is welcome now. A peer that does not read is not listened to.
    #[must_use]
    pub const fn wants_input(&self) -> bool {
        !self.is_closed() && self.outbox.len_bytes() < self.queued_max_bytes
    }

    /// Where the next bytes belong and how many, while a data segment is coming in and everything
    /// received before has been handed over.
    pub const fn landing(&mut self) -> Option<(&mut BytesMut, usize)> {
        if self.is_closed() {
            None
        } else {
            self.decoder.landing()
        }
    }

    /// Whether the connection is over (perhaps with last words in the outbox).
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    fn received(&mut self, now: Time, input: &mut BytesMut, ports: &mut Ports<'_>) {
        self.heard(now);
        loop {
            let Self {
                decoder,
                phase,
                outbox,
                ..
            } = self;
            let queued = outbox.len_bytes();
            let placed = match phase {
                Phase::Closed => {
                    input.clear();
                    return;
                }
                Phase::Login(..) => decoder.poll(input, |_| BytesMut::new()),
                Phase::Full(session) => {
                    decoder.poll(input, |bhs| session.header(bhs, ports, queued))
                }
            };
            match placed {
                Ok(Some(frame)) => self.frame(now, frame, ports),
                Ok(None) => {
                    // Once more: the answer to a question may have been among the bytes.
                    self.heard(now);
                    return;
                }
                Err(error) => self.bad_frame(now, error, ports),
            }
            self.settle(now, ports);
        }
    }

    fn frame(&mut self, now: Time, frame: Frame, ports: &mut Ports<'_>) {
        match &mut self.phase {
            Phase::Login(..) => self.login(now, &frame, ports),
            Phase::Full(session) => {
                let queued = self.outbox.len_bytes();
                let mut frame = frame;
                if frame.bhs.data_len.bytes() == 0 {
                    // Without data nobody has looked at the header yet.
                    frame.data = session.header(&frame.bhs, ports, queued);
                    frame.data_start = frame.data.len();
                }
                self.in_session(ports, |session, ports, wire| {
                    session.frame(frame, ports, wire)
                });
            }
            Phase::Closed => {}
        }
    }

    fn bad_frame(&mut self, now: Time, error: FrameError, ports: &mut Ports<'_>) {
        tracing::debug!(%error, source = %self.surroundings.source, "bad PDU");
        let rejected = match error {
            FrameError::HeaderDigest => None,
            FrameError::DataDigest(bhs) => Some((Reason::DataDigest, bhs)),
            FrameError::TooLong(bhs) => Some((Reason::Protocol, bhs)),
        };
        if let Some((reason, bhs)) = rejected {
            self.in_session(ports, |session, _, wire| session.fault(reason, &bhs, wire));
        }
        self.close(now, CloseReason::Protocol, Manner::AfterSending, ports);
    }

    fn login(&mut self, now: Time, frame: &Frame, ports: &mut Ports<'_>) {
        let Phase::Login(login, sequence) = &mut self.phase else {
            return;
        };
        let request: login::Request = frame.bhs.cast();
        let first = Serial(request.exp_stat_sn.get());
        let stat_sn = sequence.stat_sn.unwrap_or(first);
        let is_login = frame.bhs.operation() == opcode::LOGIN_REQUEST;
        if is_login && sequence.stat_sn.is_none() {
            sequence.cmd_sn = Serial(request.cmd_sn.get());
        }
        sequence.stat_sn = Some(stat_sn.plus(1));
        let sequence = *sequence;
        let cmd_sn = sequence.cmd_sn;
        let (mut response, text, next) = if is_login {
            login.request(&request, frame.payload(), ports.array, ports.registry)
        } else {
            let response = login.refuse(&request, Status::INVALID_REQUEST);
            (response, bytes::Bytes::new(), Next::Refused)
        };
        response.stat_sn = stat_sn.0.into();
        response.exp_cmd_sn = cmd_sn.0.into();
        response.max_cmd_sn = cmd_sn.plus(WINDOW_DEPTH - 1).0.into();
        match next {
            Next::More => self.outbox.push(&response, &[text]),
            Next::Refused => {
                let status = response.status.get();
                tracing::debug!(source = %self.surroundings.source, status, "login refused");
                self.outbox.push(&response, &[text]);
                self.close(now, CloseReason::Refused, Manner::AfterSending, ports);
            }
            Next::Welcome(welcome) => {
                response.tsih = self.welcome(now, *welcome, sequence, ports).into();
                self.outbox.push(&response, &[text]);
                self.begin_digests();
            }
        }
    }

    /// Opens the session. One that the same initiator port had is gone from the array before the
    /// login is answered (RFC 7143 §6.3.5, law T1).
    fn welcome(
        &mut self,
        now: Time,
        welcome: Welcome,
        sequence: Sequence,
        ports: &mut Ports<'_>,
    ) -> u16 {
        let Sequence { stat_sn, cmd_sn } = sequence;
        let stat_sn = stat_sn.expect("a response was numbered");
        let Surroundings {
            connection,
            source,
            target,
            ..
        } = self.surroundings.clone();
        let key = welcome.key.clone();
        let (tsih, replaced) = ports.registry.open(key.clone(), connection, source);
        if let Some(nexus) = replaced.and_then(|replaced| replaced.nexus) {
            ports.array.close(nexus);
        }
        let nexus = (key.kind == SessionKind::Normal).then(|| {
            let name = Nexus {
                initiator: key.initiator.clone(),
                isid: key.isid.0,
                portal_tag: key.tag.0,
            };
            let nexus = ports.array.open(name, welcome.host);
            ports.registry.set_nexus(&key, nexus);
            nexus
        });
        let here = self.here;
        let opening = Opening {
            connection,
            target,
            here,
            welcome,
            nexus,
            cmd_sn,
            stat_sn,
        };
        self.phase = Phase::Full(Box::new(Session::new(opening)));
        self.heard(now);
        tsih.0
    }

    /// Digests and the length that we declared hold from the first PDU after the login on.
    fn begin_digests(&mut self) {
        if let Phase::Full(session) = &self.phase {
            let parameters = session.parameters();
            let (header, data) = (parameters.header_digest, parameters.data_digest);
            self.decoder.set_digests(header, data);
            self.decoder.set_limit(RECEIVE_MAX_BYTES);
            self.outbox.set_digests(header, data);
        }
    }

    fn in_session(
        &mut self,
        ports: &mut Ports<'_>,
        act: impl FnOnce(&mut Session, &mut Ports<'_>, &mut Wire<'_>),
    ) {
        let Self {
            phase,
            outbox,
            outputs,
            ..
        } = self;
        if let Phase::Full(session) = phase {
            act(session, ports, &mut Wire { outbox, outputs });
        }
    }

    fn sent(&mut self, now: Time, len_bytes: usize, ports: &mut Ports<'_>) {
        self.outbox.advance(len_bytes);
        // While the network takes what is queued it is alive, and a question may still be queued.
        // But one that takes a drop now and then is not: what waits is memory of all sessions.
        if !self.outbox.is_empty() && len_bytes > 0 {
            match &self.phase {
                Phase::Full(session) if session.is_pinged() => {
                    self.taken_bytes += len_bytes;
                    if self.taken_bytes >= PACE_MIN_BYTES {
                        self.taken_bytes = 0;
                        self.deadline = Some(now.after_ms(ANSWER_WITHIN_MS));
                    }
                }
                Phase::Full(_) => self.heard(now),
                Phase::Login(..) | Phase::Closed => {}
            }
        }
        self.in_session(ports, |session, ports, wire| session.pump(ports, wire));
    }

    /// The peer gave a sign of life.
    fn heard(&mut self, now: Time) {
        if let Phase::Full(session) = &self.phase {
            let idle_ms = if session.is_discovery() {
                DISCOVERY_IDLE_MS
            } else {
                PING_AFTER_MS
            };
            if !session.is_pinged() {
                self.deadline = Some(now.after_ms(idle_ms));
            }
        }
    }

    fn timeout(&mut self, now: Time, ports: &mut Ports<'_>) {
        if self.stall.is_some_and(|(until, _)| until <= now) {
            self.close(now, CloseReason::Unresponsive, Manner::Reset, ports);
        }
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        match &mut self.phase {
            Phase::Login(..) => {
                self.close(now, CloseReason::LoginTimeout, Manner::Reset, ports);
            }
            Phase::Full(session) if session.is_pinged() || session.is_discovery() => {
                self.close(now, CloseReason::Unresponsive, Manner::Reset, ports);
            }
            Phase::Full(_) => {
                self.in_session(ports, |session, _, wire| session.send_ping(wire));
                self.taken_bytes = 0;
                self.deadline = Some(now.after_ms(ANSWER_WITHIN_MS));
            }
            Phase::Closed => {
                self.outbox.clear();
                self.deadline = None;
            }
        }
    }

    /// Carries out what the session decided, and what follows from an answered question.
    fn settle(&mut self, now: Time, ports: &mut Ports<'_>) {
        if let Phase::Full(session) = &self.phase
            && let Some((reason, manner)) = session.ending()
        {
            self.close(now, reason, manner, ports);
        }
        let queued = self.outbox.len_bytes();
        self.stall = match &self.phase {
            Phase::Full(session)
                if ports.registry.budget().is_short() && session.waits_for_data() =>
            {
                let came = session.data_out_bytes();
                let goes_on = |since: &(Time, u64)| came - since.1 < PACE_MIN_BYTES as u64;
                let fresh = (now.after_ms(STALL_MS), came);
                Some(self.stall.filter(goes_on).unwrap_or(fresh))
            }
            Phase::Full(_) | Phase::Login(..) | Phase::Closed => None,
        };
        match &mut self.phase {
            Phase::Full(session) => session.account(queued, ports.registry),
            Phase::Login(..) => {}
            Phase::Closed => {
                let held_bytes = queued + self.abandoned.values().sum::<usize>();
                let idle = held_bytes == 0;
                let holding = Holding { held_bytes, idle };
                ports
                    .registry
                    .account(self.surroundings.connection, holding, None);
            }
        }
        // Memory that others wait for, or that is used up, is not filled with answers that nobody
        // reads; nor is it by strangers.
        let budget = ports.registry.budget();
        let is_known = matches!(self.phase, Phase::Full(_));
        self.queued_max_bytes = if budget.is_short() || budget.is_used_up() || !is_known {
            RESERVE_BYTES
        } else {
            DATA_MAX_BYTES
        };
        self.check();
    }

    /// Somebody else ends the connection. Where that is an operator's wish the initiator is told
    /// (RFC 7143 §11.9.1); else the peer must not take silence for a slow disk.
    fn drop_for(&mut self, now: Time, reason: DropReason, ports: &mut Ports<'_>) {
        let event = match reason {
            DropReason::Operator => Some(async_event::DROP_SESSION),
            DropReason::PortalClosed => Some(async_event::DROP_CONNECTION),
            DropReason::Reinstated
            | DropReason::Deactivated
            | DropReason::ColdReset
            | DropReason::Crowded => None,
        };
        let manner = match (event, &self.phase) {
            (Some(event), Phase::Full(_)) => {
                self.in_session(ports, |session, _, wire| session.tell_drop(event, wire));
                Manner::AfterSending
            }
            // Said already: a closed portal is told twice, by who closes it and when it is gone.
            (Some(_), Phase::Closed) => Manner::AfterSending,
            (Some(_), Phase::Login(..)) | (None, _) => Manner::Reset,
        };
        self.close(now, CloseReason::Dropped(reason), manner, ports);
    }

    fn close(&mut self, now: Time, reason: CloseReason, manner: Manner, ports: &mut Ports<'_>) {
        match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Full(mut session) => {
                session.leave(ports);
                self.abandoned = session.into_abandoned();
            }
            Phase::Login(..) => {}
            Phase::Closed => {
                if manner == Manner::AfterSending {
                    return;
                }
            }
        }
        // A request that was not submitted yet belongs to a task that is gone; but later changes
        // of reservations may have been made from this one.
        let abandoned = &mut self.abandoned;
        self.outputs.retain(|output| {
            let keeps = keeps_reservations(output);
            if let (Output::Submit { tag, .. }, false) = (output, keeps) {
                abandoned.remove(tag);
            }
            keeps
        });
        self.outputs.push_back(Output::Close { reason, manner });
        match manner {
            Manner::AfterSending => self.deadline = Some(now.after_ms(FAREWELL_MS)),
            Manner::Reset => {
                self.deadline = None;
                self.outbox.clear();
            }
        }
    }

    fn check(&self) {
        if self.is_closed() {
            let wrong = |output: &Output| {
                matches!(output, Output::Submit { .. }) && !keeps_reservations(output)
            };
            assert!(
                !self.outputs.iter().any(wrong),
                "a closed connection submits nothing but what others build upon"
            );
        }
    }
}

fn keeps_reservations(output: &Output) -> bool {
    let Output::Submit { request, .. } = output else {
        return false;
    };
    matches!(request, Request::KeepReservations { .. })
}

#[cfg(test)]
mod tests;
