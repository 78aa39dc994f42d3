//! Full-feature phase of one session (RFC 7143 §4.2, §11).
//!
//! Error recovery level 0 and one connection: whatever cannot be explained ends the session, and
//! the initiator starts a new one.
//!
//! Invariants: every task in `waiting` is in `tasks`, not charged and not running; `charged_bytes`
//! is the sum over all charged tasks, `backlog_bytes` over the data of the others and of requests
//! before their turn, at most [`BACKLOG_MAX_BYTES`], `abandoned_bytes` over what backends hold for
//! tasks that are gone; a discovery session has neither nexus nor tasks.

mod command;
mod control;
mod manage;
mod reply;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use zerocopy::IntoBytes as _;

use crate::backend::Tag;
use crate::budget::Holding;
use crate::connection::{CloseReason, Manner, Output, Ports};
use crate::discovery::Portal;
use crate::login::Welcome;
use crate::negotiate::Parameters;
use crate::pdu::frame::Frame;
use crate::pdu::outbox::Outbox;
use crate::pdu::reject::{Reason, Reject};
use crate::pdu::{BHS_LEN_BYTES, Bhs, FINAL, IMMEDIATE, Len24, opcode};
use crate::registry::{ConnectionId, Registry, SessionKey, SessionKind};
use crate::scsi::{Array, NexusId, UnitId};
use crate::types::{Itt, Serial, Ttt};
use crate::window::{SHORT_DEPTH, Turn, WINDOW_DEPTH, Window};

use command::{Pieces, Task};
use control::Exchange;

/// Data that the commands of one session may hold at once, in bytes, those on the way out
/// included. One command alone may be larger.
pub const DATA_MAX_BYTES: usize = 32 * 1024 * 1024;
/// Data of one session that came with commands which wait for memory or for their turn, in bytes:
/// a whole window of the most that a command may bring.
pub const BACKLOG_MAX_BYTES: usize = 32 * 1024 * 1024;

/// Where a session puts what it wants to happen.
pub(crate) struct Wire<'a> {
    pub(crate) outbox: &'a mut Outbox,
    pub(crate) outputs: &'a mut VecDeque<Output>,
}

/// One logged-in session.
#[derive(Debug)]
pub(crate) struct Session {
    connection: ConnectionId,
    target: String,
    here: Portal,
    key: SessionKey,
    cid: u16,
    parameters: Parameters,
    nexus: Option<NexusId>,
    window: Window,
    stat_sn: Serial,
    /// Statuses with news of a lost cache that the initiator has not acknowledged (law D5).
    news: VecDeque<(Serial, UnitId)>,
    ttt: Ttt,
    generation: u32,
    /// Boxed, because a map moves its neighbours when one comes or goes.
    tasks: BTreeMap<Itt, Box<Task>>,
    waiting: VecDeque<Itt>,
    charged_bytes: usize,
    backlog_bytes: usize,
    pieces: Pieces,
    /// What backends hold for tasks that are gone.
    abandoned: BTreeMap<Tag, usize>,
    abandoned_bytes: usize,
    /// Of all Data-Out that came.
    data_out_bytes: u64,
    early: BTreeMap<u32, Early>,
    incoming: Incoming,
    exchange: Exchange,
    ping: Option<Ttt>,
    /// The initiator was asked to log out.
    asked_out: bool,
    ending: Option<(CloseReason, Manner)>,
}

/// What a session starts from.
pub(crate) struct Opening {
    pub(crate) connection: ConnectionId,
    pub(crate) target: String,
    pub(crate) here: Portal,
    pub(crate) welcome: Welcome,
    pub(crate) nexus: Option<NexusId>,
    pub(crate) cmd_sn: Serial,
    pub(crate) stat_sn: Serial,
}

/// A request that came before its turn.
#[derive(Debug)]
enum Early {
    Held(Frame),
    /// Aborted while it waited, or before it came: it takes its turn, nothing more.
    Aborted,
}

/// What the header of the current PDU said about its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Incoming {
    /// The PDU is not about write data; its data are small.
    Plain,
    /// Immediate data of a new task.
    Command(Itt),
    /// Data-Out of a task.
    Data(Itt),
    /// Data-Out that show that one before them is missing.
    Gap(Itt),
    /// To be held until its turn.
    Early,
    /// To be ignored.
    Discard,
    /// To be rejected; the session goes on.
    Refuse(Reason),
    /// To be rejected; the session ends.
    Fault(Reason),
}

impl Session {
    pub(crate) fn new(opening: Opening) -> Self {
        let Opening {
            connection,
            target,
            here,
            welcome,
            nexus,
            cmd_sn,
            stat_sn,
        } = opening;
        Self {
            connection,
            target,
            here,
            key: welcome.key,
            cid: welcome.cid,
            parameters: welcome.parameters,
            nexus,
            window: Window::new(cmd_sn),
            stat_sn,
            news: VecDeque::new(),
            ttt: Ttt(0),
            generation: 0,
            tasks: BTreeMap::new(),
            waiting: VecDeque::new(),
            charged_bytes: 0,
            backlog_bytes: 0,
            pieces: Pieces::default(),
            abandoned: BTreeMap::new(),
            abandoned_bytes: 0,
            data_out_bytes: 0,
            early: BTreeMap::new(),
            incoming: Incoming::Plain,
            exchange: Exchange::default(),
            ping: None,
            asked_out: false,
            ending: None,
        }
    }

    /// Looks at a header: what is to become of the PDU, and where its data belong.
    pub(crate) fn header(&mut self, bhs: &Bhs, ports: &mut Ports<'_>, queued: usize) -> BytesMut {
        self.acknowledge(exp_stat_sn(bhs), ports.array);
        let operation = bhs.operation();
        let in_order = matches!(
            operation,
            opcode::NOP_OUT
                | opcode::COMMAND
                | opcode::TASK_REQUEST
                | opcode::TEXT_REQUEST
                | opcode::LOGOUT_REQUEST
        );
        if in_order && bhs.opcode & IMMEDIATE == 0 {
            match self.window.turn(cmd_sn(bhs)) {
                Turn::Now => self.window.take(),
                Turn::Early
                    if !self.has_backlog_room(bhs.data_len.bytes(), queued, ports.registry) =>
                {
                    return self.expect(Incoming::Fault(Reason::NoResources));
                }
                Turn::Early => return self.expect(Incoming::Early),
                Turn::Ignore => return self.expect(Incoming::Discard),
            }
        }
        if self.nexus.is_none() && matches!(operation, opcode::COMMAND | opcode::TASK_REQUEST) {
            return self.expect(Incoming::Fault(Reason::Protocol));
        }
        match operation {
            opcode::COMMAND => self.command_header(&bhs.cast(), ports, queued),
            opcode::DATA_OUT => self.data_header(&bhs.cast()),
            _ => self.expect(Incoming::Plain),
        }
    }

    /// The initiator has received every status before `next` (RFC 7143 §4.2.2.2).
    fn acknowledge(&mut self, next: Serial, array: &mut Array) {
        while let (Some((stat_sn, unit)), Some(nexus)) = (self.news.front(), self.nexus)
            && stat_sn.before(next)
        {
            array.cache_loss_heard(nexus, *unit);
            self.news.pop_front();
        }
    }

    /// Takes a complete PDU whose header was looked at.
    pub(crate) fn frame(&mut self, frame: Frame, ports: &mut Ports<'_>, wire: &mut Wire<'_>) {
        self.one_frame(frame, ports, wire);
        while self.ending.is_none() {
            let Some(early) = self.early.remove(&self.window.expected().0) else {
                break;
            };
            match early {
                Early::Held(frame) => {
                    self.backlog_bytes -= frame.data.len();
                    let mut data = self.header(&frame.bhs, ports, wire.outbox.len_bytes());
                    let data_start = data.len();
                    data.extend_from_slice(frame.payload());
                    self.one_frame(
                        Frame {
                            bhs: frame.bhs,
                            data,
                            data_start,
                        },
                        ports,
                        wire,
                    );
                }
                Early::Aborted => {
                    self.window.take();
                    self.window.finish();
                }
            }
        }
        self.pump(ports, wire);
    }

    fn one_frame(&mut self, frame: Frame, ports: &mut Ports<'_>, wire: &mut Wire<'_>) {
        let numbered = frame.bhs.opcode & IMMEDIATE == 0;
        match std::mem::replace(&mut self.incoming, Incoming::Plain) {
            Incoming::Plain => self.plain(&frame, ports, wire),
            Incoming::Command(itt) => self.command_data(itt, frame, ports, wire),
            Incoming::Data(itt) => self.data_out(itt, frame, ports, wire),
            Incoming::Gap(itt) => self.data_gap(itt, ports, wire),
            Incoming::Early => self.hold(frame),
            Incoming::Discard => {}
            Incoming::Refuse(reason) => {
                if numbered {
                    self.window.finish();
                }
                self.reject(reason, &frame.bhs, wire);
            }
            Incoming::Fault(reason) => self.fault(reason, &frame.bhs, wire),
        }
    }

    /// Keeps a request until its turn; of two with the same number the first counts.
    fn hold(&mut self, frame: Frame) {
        let Entry::Vacant(place) = self.early.entry(cmd_sn(&frame.bhs).0) else {
            return;
        };
        self.backlog_bytes += frame.data.len();
        place.insert(Early::Held(frame));
    }

    fn has_backlog_room(&self, len_bytes: usize, queued_bytes: usize, registry: &Registry) -> bool {
        let holding = self.holding(queued_bytes);
        self.backlog_bytes + len_bytes <= BACKLOG_MAX_BYTES
            && registry
                .budget()
                .has_room(self.connection, holding, len_bytes)
    }

    /// What it holds, with what waits to be sent.
    fn holding(&self, queued_bytes: usize) -> Holding {
        let moving_bytes = self.charged_bytes + self.abandoned_bytes + queued_bytes;
        Holding {
            held_bytes: moving_bytes + self.backlog_bytes + self.exchange.len_bytes(),
            idle: moving_bytes == 0,
        }
    }

    /// After every event: says what is held and whether the next command waits for memory that
    /// others have. While it does, the initiator gets a smaller window.
    pub(crate) fn account(&mut self, queued_bytes: usize, registry: &mut Registry) {
        let first = self.waiting.front().and_then(|itt| self.tasks.get(itt));
        let waits = first
            .map(|task| task.charge_bytes)
            .filter(|charge_bytes| self.fits(*charge_bytes, queued_bytes));
        let depth = waits.map_or(WINDOW_DEPTH, |_| SHORT_DEPTH);
        self.window.set_depth(depth);
        registry.account(self.connection, self.holding(queued_bytes), waits);
    }

    /// PDUs without write data.
    fn plain(&mut self, frame: &Frame, ports: &mut Ports<'_>, wire: &mut Wire<'_>) {
        let bhs = &frame.bhs;
        let ordered = matches!(
            bhs.operation(),
            opcode::NOP_OUT | opcode::TASK_REQUEST | opcode::TEXT_REQUEST | opcode::LOGOUT_REQUEST
        );
        if ordered && bhs.opcode & IMMEDIATE == 0 {
            self.window.finish();
        }
        match bhs.operation() {
            opcode::NOP_OUT => self.nop(&bhs.cast(), frame.payload(), wire),
            opcode::TASK_REQUEST => self.manage(&bhs.cast(), ports, wire),
            opcode::TEXT_REQUEST => self.text(&bhs.cast(), frame, ports, wire),
            opcode::LOGOUT_REQUEST => self.logout(&bhs.cast(), ports, wire),
            opcode::SNACK => self.reject(Reason::Snack, bhs, wire),
            opcode::LOGIN_REQUEST => self.fault(Reason::Protocol, bhs, wire),
            _ => self.reject(Reason::Unsupported, bhs, wire),
        }
    }

    /// Sends a Reject; the session goes on.
    pub(crate) fn reject(&mut self, reason: Reason, bhs: &Bhs, wire: &mut Wire<'_>) {
        let reject = Reject {
            opcode: opcode::REJECT,
            flags: FINAL,
            reason: reason as u8,
            reserved_a: 0,
            ahs_len_words: 0,
            data_len: Len24::new(BHS_LEN_BYTES),
            reserved_b: [0; 8],
            itt: Itt::NONE.0.into(),
            reserved_c: 0.into(),
            stat_sn: self.take_stat_sn().0.into(),
            exp_cmd_sn: self.window.expected().0.into(),
            max_cmd_sn: self.window.max().0.into(),
            data_sn: 0.into(),
            reserved_d: [0; 8],
        };
        wire.outbox
            .push(&reject, &[Bytes::copy_from_slice(bhs.as_bytes())]);
    }

    /// Sends a Reject and ends the session: there is no recovery within a connection at ERL 0.
    pub(crate) fn fault(&mut self, reason: Reason, bhs: &Bhs, wire: &mut Wire<'_>) {
        self.reject(reason, bhs, wire);
        self.end(CloseReason::Protocol, Manner::AfterSending);
    }

    /// Whether the session wants to end, and how.
    pub(crate) const fn ending(&self) -> Option<(CloseReason, Manner)> {
        self.ending
    }

    /// Leaves the registry and the array. No command of the nexus is admitted any more (law T1).
    pub(crate) fn leave(&mut self, ports: &mut Ports<'_>) {
        let tasks: Vec<Itt> = self.tasks.keys().copied().collect();
        for itt in tasks {
            let _ = self.forget(itt);
        }
        self.waiting.clear();
        self.early.clear();
        self.pieces = Pieces::default();
        self.charged_bytes = 0;
        self.backlog_bytes = 0;
        self.exchange = Exchange::default();
        let registered = ports.registry.close(&self.key, self.connection);
        if let Some(nexus) = self.nexus.take()
            && registered
        {
            ports.array.close(nexus);
        }
    }

    /// What backends hold for tasks that are gone.
    pub(crate) fn into_abandoned(self) -> BTreeMap<Tag, usize> {
        self.abandoned
    }

    pub(crate) const fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    pub(crate) fn is_discovery(&self) -> bool {
        matches!(self.key.kind, SessionKind::Discovery(_))
    }

    /// Which task a completion belongs to, if it is still there.
    fn task_of(&self, tag: Tag) -> Option<Itt> {
        let [.., a, b, c, d] = tag.0.to_be_bytes();
        let itt = Itt(u32::from_be_bytes([a, b, c, d]));
        let task = self.tasks.get(&itt)?;
        (task.tag(itt) == tag).then_some(itt)
    }

    fn end(&mut self, reason: CloseReason, manner: Manner) {
        if self.ending.is_none() {
            self.ending = Some((reason, manner));
        }
    }

    fn expect(&mut self, incoming: Incoming) -> BytesMut {
        self.incoming = incoming;
        BytesMut::new()
    }

    fn take_stat_sn(&mut self) -> Serial {
        let stat_sn = self.stat_sn;
        self.stat_sn = stat_sn.plus(1);
        stat_sn
    }

    fn take_ttt(&mut self) -> Ttt {
        let ttt = self.ttt;
        self.ttt = ttt.next();
        ttt
    }
}

/// CmdSN, which has the same place in every request that has one.
fn cmd_sn(bhs: &Bhs) -> Serial {
    Serial(bhs.cast::<crate::pdu::nop::NopOut>().cmd_sn.get())
}

/// ExpStatSN, which has the same place in every request.
fn exp_stat_sn(bhs: &Bhs) -> Serial {
    Serial(bhs.cast::<crate::pdu::nop::NopOut>().exp_stat_sn.get())
}
