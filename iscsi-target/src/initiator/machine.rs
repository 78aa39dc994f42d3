//! The initiator's side of a session, without I/O.
//!
//! ```text
//!              logged in              logged out, lost
//!   Login -------------------> Full ------------------> Over
//!     +-- refused, time-out, lost ---------------------->+
//! ```
//!
//! Every request that was started ends with exactly one output, also when the session is lost.

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;

use super::login::{Dialogue, Next};
use super::transfer::{Exchange, Numbers, Order};
use super::{InitiatorError, Login, Management, Response};
use crate::auth::Challenge;
use crate::negotiate::Parameters;
use crate::pdu::async_event::{self, AsyncMessage};
use crate::pdu::data::{DataIn, STATUS};
use crate::pdu::frame::{Decoder, Frame};
use crate::pdu::nop::{NopIn, NopOut};
use crate::pdu::outbox::Outbox;
use crate::pdu::task::{self, Outcome};
use crate::pdu::{
    Bhs, FINAL, IMMEDIATE, Len24, command, login, logout, opcode, r2t::R2t, text as text_pdu,
};
use crate::text::{Collector, Pairs};
use crate::types::{Itt, Serial, Time, Ttt};

/// Tag of our own questions; requests use smaller ones.
const PING_ITT: u32 = 0xffff_fff0;
/// Tag of the logout that the target asked for.
const LEAVE_ITT: u32 = 0xffff_fff1;

/// What the caller wants of a session.
#[derive(Clone, Debug)]
pub enum Request {
    /// Carry out a command.
    Execute(Order),
    /// Carry out a task management function.
    Manage(Management),
    /// List the targets.
    SendTargets,
    /// End the session in an orderly way.
    Logout,
}

/// What can happen to a session.
#[derive(Debug)]
pub enum Input<'a> {
    /// Bytes arrived.
    Received(&'a mut BytesMut),
    /// That many bytes were put into [`Machine::landing`].
    Landed(usize),
    /// That many bytes of the outbox are sent.
    Sent(usize),
    /// Start a request under a tag below 0x8000_0000 that no unfinished request has.
    Start(u32, Request),
    /// The time of [`Machine::poll_timeout`] has come.
    Timeout,
    /// The connection is gone.
    Disconnected(String),
}

/// What became of what was asked.
#[derive(Debug)]
pub enum Output {
    /// The login succeeded.
    LoggedIn,
    /// The request with this tag ended.
    Ended(u32, Result<Answer, InitiatorError>),
    /// The session is over; nothing follows.
    Over(InitiatorError),
}

/// How a request ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A status was received.
    Response(Response),
    /// Response code of task management (RFC 7143 §11.6.1).
    Managed(u8),
    /// Keys and values of SendTargets.
    Targets(Pairs),
    /// Logged out.
    LoggedOut,
}

/// One session.
///
/// Invariants: `requests` holds every request that has not ended; a request in `backlog` was not
/// sent.
#[derive(Debug)]
pub struct Machine {
    login: Login,
    phase: Phase,
    decoder: Decoder,
    outbox: Outbox,
    outputs: VecDeque<Output>,
    parameters: Parameters,
    requests: BTreeMap<u32, Doing>,
    backlog: VecDeque<u32>,
    cmd_sn: Serial,
    max_cmd_sn: Serial,
    exp_stat_sn: Serial,
    deadline: Option<Time>,
    pinged: bool,
    /// The target asked for a logout, which is under way: nothing new is sent.
    leaving: bool,
}

#[derive(Debug)]
enum Phase {
    Login(Box<Dialogue>),
    Full,
    Over,
}

#[derive(Debug)]
enum Doing {
    Command(Exchange),
    Manage(Management),
    Targets(Collector),
    Logout,
}

impl Machine {
    /// Begins a login. `challenge` must be unpredictable.
    #[must_use]
    pub fn new(now: Time, login: Login, challenge: Challenge) -> Self {
        let dialogue = Dialogue::new(login.clone(), challenge);
        let (request, text) = dialogue.begin();
        let mut outbox = Outbox::default();
        outbox.push(&request, &[text]);
        Self {
            phase: Phase::Login(Box::new(dialogue)),
            decoder: Decoder::new(login.offer.receive_max_bytes),
            outbox,
            outputs: VecDeque::new(),
            parameters: Parameters::default(),
            requests: BTreeMap::new(),
            backlog: VecDeque::new(),
            cmd_sn: Serial(1),
            max_cmd_sn: Serial(1),
            exp_stat_sn: Serial(0),
            deadline: Some(now.after_ms(login.timeout_ms)),
            pinged: false,
            leaving: false,
            login,
        }
    }

    /// Takes one event.
    pub fn handle(&mut self, now: Time, input: Input<'_>) {
        match input {
            Input::Received(bytes) => self.received(now, bytes),
            Input::Landed(len_bytes) => {
                self.decoder.landed(len_bytes);
                self.received(now, &mut BytesMut::new());
            }
            Input::Sent(len_bytes) => self.outbox.advance(len_bytes),
            Input::Start(tag, request) => self.start(tag, request),
            Input::Timeout => self.timeout(now),
            Input::Disconnected(why) => self.fail(InitiatorError::Lost(why)),
        }
    }

    /// The next outcome.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] has something to do.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Time> {
        self.deadline
    }

    /// What waits to be sent.
    pub const fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Where the next bytes belong and how many, while read data are coming in.
    pub const fn landing(&mut self) -> Option<(&mut BytesMut, usize)> {
        if self.is_over() {
            None
        } else {
            self.decoder.landing()
        }
    }

    /// Whether the session is over.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    fn start(&mut self, tag: u32, request: Request) {
        assert!(tag < 0x8000_0000, "tags from 0x80000000 on are ours");
        if self.is_over() {
            let gone = InitiatorError::Lost("the session is over".to_owned());
            return self.outputs.push_back(Output::Ended(tag, Err(gone)));
        }
        let doing = match request {
            Request::Execute(order) => {
                // A reserved capacity is a promise only: the command may bring less.
                let data_in = BytesMut::with_capacity(order.data_in_bytes);
                Doing::Command(Exchange { order, data_in })
            }
            Request::Manage(management) => Doing::Manage(management),
            Request::SendTargets => Doing::Targets(Collector::default()),
            Request::Logout => Doing::Logout,
        };
        let before = self.requests.insert(tag, doing);
        assert!(before.is_none(), "request {tag} is unfinished");
        self.backlog.push_back(tag);
        self.pump();
    }

    /// Sends what the window has room for.
    fn pump(&mut self) {
        while matches!(self.phase, Phase::Full)
            && !self.leaving
            && let Some(tag) = self.backlog.front().copied()
        {
            let numbered = matches!(self.requests.get(&tag), Some(Doing::Command(_)));
            if numbered && self.max_cmd_sn.before(self.cmd_sn) {
                return;
            }
            self.backlog.pop_front();
            self.send(tag);
            if numbered {
                self.cmd_sn = self.cmd_sn.plus(1);
            }
        }
    }

    fn send(&mut self, tag: u32) {
        let (cmd_sn, exp_stat_sn) = (self.cmd_sn.0, self.exp_stat_sn.0);
        match self.requests.get(&tag) {
            Some(Doing::Command(exchange)) => {
                let parameters = &self.parameters;
                let numbers = Numbers {
                    itt: tag,
                    cmd_sn,
                    exp_stat_sn,
                };
                exchange.order.send(numbers, parameters, &mut self.outbox);
            }
            Some(Doing::Manage(management)) => {
                let (function, lun, referenced) = parts(*management);
                let header = task::Request {
                    opcode: opcode::TASK_REQUEST | IMMEDIATE,
                    flags: FINAL | function,
                    reserved_a: [0; 2],
                    ahs_len_words: 0,
                    data_len: Len24::new(0),
                    lun,
                    itt: tag.into(),
                    referenced_itt: referenced.into(),
                    cmd_sn: cmd_sn.into(),
                    exp_stat_sn: exp_stat_sn.into(),
                    ref_cmd_sn: cmd_sn.into(),
                    exp_data_sn: 0.into(),
                    reserved_b: [0; 8],
                };
                self.outbox.push(&header, &[]);
            }
            Some(Doing::Targets(_)) => {
                // RFC 7143 appendix C: in a normal session one asks for its own target.
                let which = if self.login.target.is_none() {
                    "SendTargets=All\0"
                } else {
                    "SendTargets=\0"
                };
                self.send_text(tag, Ttt::NONE, BytesMut::from(which));
            }
            Some(Doing::Logout) => self.send_logout(tag),
            None => {}
        }
    }

    fn send_logout(&mut self, itt: u32) {
        let header = logout::Request {
            opcode: opcode::LOGOUT_REQUEST | IMMEDIATE,
            flags: FINAL | logout::CLOSE_SESSION,
            reserved_a: [0; 2],
            ahs_len_words: 0,
            data_len: Len24::new(0),
            reserved_b: [0; 8],
            itt: itt.into(),
            cid: 1.into(),
            reserved_c: [0; 2],
            cmd_sn: self.cmd_sn.0.into(),
            exp_stat_sn: self.exp_stat_sn.0.into(),
            reserved_d: [0; 16],
        };
        self.outbox.push(&header, &[]);
    }

    fn send_text(&mut self, tag: u32, ttt: Ttt, text: BytesMut) {
        let header = text_pdu::Request {
            opcode: opcode::TEXT_REQUEST | IMMEDIATE,
            flags: FINAL,
            reserved_a: [0; 2],
            ahs_len_words: 0,
            data_len: Len24::new(text.len()),
            lun: [0; 8],
            itt: tag.into(),
            ttt: ttt.0.into(),
            cmd_sn: self.cmd_sn.0.into(),
            exp_stat_sn: self.exp_stat_sn.0.into(),
            reserved_b: [0; 16],
        };
        self.outbox.push(&header, &[text.freeze()]);
    }

    fn received(&mut self, now: Time, input: &mut BytesMut) {
        loop {
            if self.is_over() {
                input.clear();
                return;
            }
            let requests = &mut self.requests;
            match self.decoder.poll(input, |bhs| place(requests, bhs)) {
                Ok(Some(frame)) => self.frame(now, frame),
                Ok(None) => break,
                Err(_) => self.fail(InitiatorError::Protocol("bad digest or length")),
            }
        }
        if matches!(self.phase, Phase::Full) && !self.pinged {
            self.deadline = Some(now.after_ms(self.login.ping_after_ms));
        }
        self.pump();
    }

    fn frame(&mut self, now: Time, frame: Frame) {
        let bhs = frame.bhs;
        let result = if matches!(self.phase, Phase::Login(_)) {
            self.login_response(now, &frame)
        } else {
            self.note_numbers(&bhs);
            match bhs.operation() {
                opcode::DATA_IN => self.data_in(&bhs.cast(), frame),
                opcode::RESPONSE => self.response(&bhs.cast(), frame.payload()),
                opcode::R2T => self.r2t(&bhs.cast()),
                opcode::NOP_IN => self.nop_in(now, &bhs.cast()),
                opcode::TASK_RESPONSE => self.managed(&bhs.cast()),
                opcode::TEXT_RESPONSE => self.text(&bhs.cast(), frame.payload()),
                opcode::LOGOUT_RESPONSE if bhs.itt.get() == LEAVE_ITT => {
                    Err(InitiatorError::AskedOut)
                }
                opcode::LOGOUT_RESPONSE => {
                    self.end(bhs.itt.get(), Ok(Answer::LoggedOut));
                    Err(InitiatorError::LoggedOut)
                }
                opcode::ASYNC => self.told(&bhs.cast()),
                opcode::REJECT => Err(InitiatorError::Protocol("the target rejected a PDU")),
                _ => Err(InitiatorError::Protocol("unknown operation")),
            }
        };
        if let Err(error) = result {
            self.fail(error);
        }
    }

    fn login_response(&mut self, now: Time, frame: &Frame) -> Result<(), InitiatorError> {
        let Phase::Login(dialogue) = &mut self.phase else {
            return Ok(());
        };
        if frame.bhs.operation() != opcode::LOGIN_RESPONSE {
            return Err(InitiatorError::Protocol("no login response"));
        }
        let response: login::Response = frame.bhs.cast();
        self.exp_stat_sn = Serial(response.stat_sn.get()).plus(1);
        self.max_cmd_sn = Serial(response.max_cmd_sn.get());
        match dialogue.response(&response, frame.payload())? {
            Next::Send(request, text) => {
                let mut request = *request;
                request.exp_stat_sn = self.exp_stat_sn.0.into();
                self.outbox.push(&request, &[text]);
            }
            Next::Done(parameters) => {
                self.parameters = parameters;
                let (header, data) = (parameters.header_digest, parameters.data_digest);
                self.decoder.set_digests(header, data);
                self.outbox.set_digests(header, data);
                self.phase = Phase::Full;
                self.deadline = Some(now.after_ms(self.login.ping_after_ms));
                self.outputs.push_back(Output::LoggedIn);
            }
        }
        Ok(())
    }

    /// Sequence numbers have the same place in everything that a target sends.
    fn note_numbers(&mut self, bhs: &Bhs) {
        let numbers: NopIn = bhs.cast();
        let max = Serial(numbers.max_cmd_sn.get());
        if self.max_cmd_sn.before(max) {
            self.max_cmd_sn = max;
        }
        let consumes = match bhs.operation() {
            opcode::R2T => false,
            opcode::NOP_IN => numbers.itt.get() != Itt::NONE.0,
            opcode::DATA_IN => bhs.flags & STATUS != 0,
            _ => true,
        };
        if consumes {
            self.exp_stat_sn = Serial(numbers.stat_sn.get()).plus(1);
        }
    }

    fn data_in(&mut self, header: &DataIn, frame: Frame) -> Result<(), InitiatorError> {
        let tag = header.itt.get();
        let Some(Doing::Command(exchange)) = self.requests.get_mut(&tag) else {
            // Aborted meanwhile.
            return Ok(());
        };
        if frame.bhs.data_len.bytes() > 0 {
            exchange.check(header, frame.data_start)?;
            exchange.data_in = frame.data;
        }
        if header.flags & STATUS != 0
            && let Some(Doing::Command(exchange)) = self.requests.remove(&tag)
        {
            let response = exchange.end_with_data(header);
            self.outputs
                .push_back(Output::Ended(tag, Ok(Answer::Response(response))));
        }
        Ok(())
    }

    fn response(
        &mut self,
        header: &command::Response,
        segment: &[u8],
    ) -> Result<(), InitiatorError> {
        let tag = header.itt.get();
        if !matches!(self.requests.get(&tag), Some(Doing::Command(_))) {
            return Ok(());
        }
        if let Some(Doing::Command(exchange)) = self.requests.remove(&tag) {
            let result = exchange.end(header, segment).map(Answer::Response);
            self.outputs.push_back(Output::Ended(tag, result));
        }
        Ok(())
    }

    fn r2t(&mut self, header: &R2t) -> Result<(), InitiatorError> {
        match self.requests.get(&header.itt.get()) {
            Some(Doing::Command(exchange)) => {
                let exp_stat_sn = self.exp_stat_sn.0;
                exchange
                    .order
                    .answer(header, exp_stat_sn, &self.parameters, &mut self.outbox)
            }
            _ => Ok(()),
        }
    }

    fn nop_in(&mut self, now: Time, header: &NopIn) -> Result<(), InitiatorError> {
        if header.itt.get() == PING_ITT {
            self.pinged = false;
            self.deadline = Some(now.after_ms(self.login.ping_after_ms));
        }
        if header.ttt.get() != Ttt::NONE.0 {
            self.send_nop(Itt::NONE.0, header.ttt.get(), header.lun);
        }
        Ok(())
    }

    fn send_nop(&mut self, itt: u32, ttt: u32, lun: [u8; 8]) {
        let header = NopOut {
            opcode: opcode::NOP_OUT | IMMEDIATE,
            flags: FINAL,
            reserved_a: [0; 2],
            ahs_len_words: 0,
            data_len: Len24::new(0),
            lun,
            itt: itt.into(),
            ttt: ttt.into(),
            cmd_sn: self.cmd_sn.0.into(),
            exp_stat_sn: self.exp_stat_sn.0.into(),
            reserved_b: [0; 16],
        };
        self.outbox.push(&header, &[]);
    }

    fn managed(&mut self, header: &task::Response) -> Result<(), InitiatorError> {
        let tag = header.itt.get();
        let Some(Doing::Manage(management)) = self.requests.get(&tag) else {
            return Ok(());
        };
        let management = *management;
        self.end(tag, Ok(Answer::Managed(header.response)));
        if header.response == Outcome::Complete as u8 {
            self.abort(management);
        }
        Ok(())
    }

    /// Commands that a task management function ended: no status will come for them.
    fn abort(&mut self, management: Management) {
        let hit = |tag: u32, lun: [u8; 8]| match management {
            Management::AbortTask { itt, .. } => tag == itt,
            Management::AbortTaskSet(cleared)
            | Management::ClearTaskSet(cleared)
            | Management::LogicalUnitReset(cleared) => lun == cleared,
            Management::WarmReset | Management::ColdReset => true,
        };
        let doomed: Vec<u32> = self
            .requests
            .iter()
            .filter(|(tag, doing)| {
                matches!(doing, Doing::Command(exchange) if hit(**tag, exchange.order.lun))
            })
            .map(|(tag, _)| *tag)
            .collect();
        for tag in doomed {
            // What was not sent yet is not affected.
            if !self.backlog.contains(&tag) {
                self.end(tag, Err(InitiatorError::Aborted));
            }
        }
    }

    fn text(&mut self, header: &text_pdu::Response, data: &[u8]) -> Result<(), InitiatorError> {
        let tag = header.itt.get();
        let Some(Doing::Targets(collector)) = self.requests.get_mut(&tag) else {
            return Ok(());
        };
        let unreadable = |_| InitiatorError::Protocol("text cannot be read");
        collector.add(data).map_err(unreadable)?;
        if header.flags & FINAL == 0 {
            self.send_text(tag, Ttt(header.ttt.get()), BytesMut::new());
            return Ok(());
        }
        let pairs = collector.finish().map_err(unreadable)?;
        self.end(tag, Ok(Answer::Targets(pairs)));
        Ok(())
    }

    fn timeout(&mut self, now: Time) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.phase {
            Phase::Login(_) => self.fail(InitiatorError::Timeout),
            Phase::Full if self.pinged => self.fail(InitiatorError::Timeout),
            Phase::Full => {
                self.pinged = true;
                self.send_nop(PING_ITT, Ttt::NONE.0, [0; 8]);
                self.deadline = Some(now.after_ms(self.login.answer_within_ms));
            }
            Phase::Over => self.deadline = None,
        }
    }

    /// Asynchronous messages (RFC 7143 §11.9.1). Who is asked to log out does so at once.
    fn told(&mut self, message: &AsyncMessage) -> Result<(), InitiatorError> {
        match message.event {
            async_event::DROP_CONNECTION | async_event::DROP_SESSION => Err(InitiatorError::Lost(
                "the target drops the session".to_owned(),
            )),
            async_event::LOGOUT_REQUEST if !self.leaving => {
                self.leaving = true;
                self.send_logout(LEAVE_ITT);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn end(&mut self, tag: u32, result: Result<Answer, InitiatorError>) {
        if self.requests.remove(&tag).is_some() {
            self.backlog.retain(|waiting| *waiting != tag);
            self.outputs.push_back(Output::Ended(tag, result));
        }
    }

    fn fail(&mut self, error: InitiatorError) {
        if self.is_over() {
            return;
        }
        self.phase = Phase::Over;
        self.deadline = None;
        self.outbox.clear();
        self.backlog.clear();
        for (tag, _) in std::mem::take(&mut self.requests) {
            self.outputs
                .push_back(Output::Ended(tag, Err(error.clone())));
        }
        self.outputs.push_back(Output::Over(error));
    }
}

/// Where the data of a PDU belong: read data go into the buffer of their command.
fn place(requests: &mut BTreeMap<u32, Doing>, bhs: &Bhs) -> BytesMut {
    if bhs.operation() != opcode::DATA_IN {
        return BytesMut::new();
    }
    match requests.get_mut(&bhs.itt.get()) {
        Some(Doing::Command(exchange)) => std::mem::take(&mut exchange.data_in),
        _ => BytesMut::new(),
    }
}

const fn parts(management: Management) -> (u8, [u8; 8], u32) {
    let none = Itt::NONE.0;
    match management {
        Management::AbortTask { lun, itt } => (task::ABORT_TASK, lun, itt),
        Management::AbortTaskSet(lun) => (task::ABORT_TASK_SET, lun, none),
        Management::ClearTaskSet(lun) => (task::CLEAR_TASK_SET, lun, none),
        Management::LogicalUnitReset(lun) => (task::LOGICAL_UNIT_RESET, lun, none),
        Management::WarmReset => (task::TARGET_WARM_RESET, [0; 8], none),
        Management::ColdReset => (task::TARGET_COLD_RESET, [0; 8], none),
    }
}
