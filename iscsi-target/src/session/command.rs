//! SCSI commands and their data, from the first header to the last answer of the backend.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::BytesMut;

use super::{DATA_MAX_BYTES, Incoming, Session, Wire};
use crate::backend::{Backend, BackendError, Done, Request, Tag};
use crate::connection::{CloseReason, Manner, Output, Ports};
use crate::pdu::command::{Command, READ, WRITE};
use crate::pdu::data::DataOut;
use crate::pdu::frame::Frame;
use crate::pdu::r2t::R2t;
use crate::pdu::reject::Reason;
use crate::pdu::{FINAL, IMMEDIATE, Len24, opcode};
use crate::registry::Registry;
use crate::scsi::{Array, Execution, Reply, Sense, Start, Status, Step, UnitId};
use crate::task::{Phase, Transfer, TransferError};
use crate::types::Itt;
use crate::window::WINDOW_DEPTH;

/// Commands of one session, numbered and immediate ones together.
const TASKS_MAX: usize = WINDOW_DEPTH as usize + 8;
/// Requests of one session that backends have not ended although their tasks are gone.
const ABANDONED_MAX: usize = 2 * TASKS_MAX;

/// One SCSI command of a session.
#[derive(Debug)]
pub(super) struct Task {
    /// Tells a late completion for an old task from one for this task.
    generation: u32,
    /// Whether it took a CmdSN.
    pub(super) numbered: bool,
    pub(super) lun: [u8; 8],
    pub(super) unit: Option<UnitId>,
    pub(super) flags: u8,
    /// Expected data transfer length, in bytes.
    pub(super) expected_bytes: usize,
    /// How much data the command itself asks for, in bytes.
    pub(super) data_out_bytes: usize,
    pub(super) transfer: Transfer,
    work: Work,
    pub(super) charge_bytes: usize,
    charged: bool,
    /// Data that are held although it is not charged.
    backlog_bytes: usize,
    /// A backend has a request of it.
    asked: bool,
    /// What it asks next, when there is room for it.
    piece: Option<Piece>,
}

/// A request that waits for memory.
struct Piece {
    backend: Rc<dyn Backend>,
    request: Request,
}

impl std::fmt::Debug for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.request.fmt(f)
    }
}

/// Tasks that read piece after piece and keep none. One of a session goes at a time, and stands in
/// line again for its next piece: such a task may last for hours.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    holder: Option<Itt>,
    queue: VecDeque<Itt>,
}

impl Pieces {
    fn forget(&mut self, itt: Itt) {
        self.queue.retain(|queued| *queued != itt);
        if self.holder == Some(itt) {
            self.holder = None;
        }
    }
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "tasks are boxed, and most run")]
enum Work {
    Run(Execution),
    /// Answered by the array already; only the data on their way are awaited.
    Answer(Reply),
}

impl Task {
    /// The name under which the backend's answers come back.
    pub(super) fn tag(&self, itt: Itt) -> Tag {
        Tag(u64::from(self.generation) << 32 | u64::from(itt.0))
    }

    /// The unit whose lost cache its answer is about.
    pub(super) fn told_unit(&self) -> Option<UnitId> {
        let Work::Run(execution) = &self.work else {
            return None;
        };
        execution.tells_cache_loss().then(|| execution.unit())
    }

    /// Whether it reads piece after piece and keeps none.
    fn reads_in_pieces(&self) -> bool {
        matches!(&self.work, Work::Run(execution) if execution.reads_in_pieces())
    }

    /// It is aborted.
    pub(super) fn give_up(&self, array: &mut Array) {
        if let Work::Run(execution) = &self.work {
            execution.give_up(array);
        }
    }

    /// Whether it is about reservations.
    pub(super) fn reserves(&self) -> bool {
        matches!(&self.work, Work::Run(execution) if execution.reserves())
    }

    pub(super) fn is_read(&self) -> bool {
        self.flags & READ != 0
    }

    pub(super) fn is_write(&self) -> bool {
        self.flags & WRITE != 0
    }
}

impl Session {
    pub(super) fn command_header(
        &mut self,
        command: &Command,
        ports: &mut Ports<'_>,
        queued_bytes: usize,
    ) -> BytesMut {
        let itt = Itt(command.itt.get());
        let nexus = self.nexus.expect("checked by the caller");
        // What a preemption aborts of this session is gone before the command is there.
        ports.array.settle_at(nexus, command.lun);
        while let Some(scope) = ports.array.next_aborted_of(nexus) {
            self.clear(scope, ports.array);
        }
        if let Err(incoming) = self.check_command(itt, command) {
            return self.expect(incoming);
        }
        let writes = command.flags & WRITE != 0;
        let expected = command.expected_len_bytes.get();
        let offered = if writes { expected } else { 0 };
        if self.abandoned.len() >= ABANDONED_MAX {
            return self.turn_away(itt, command);
        }
        let work = match ports.array.start(nexus, command.lun, command.cdb, offered) {
            Start::Run(execution) => Work::Run(execution),
            Start::Reply(reply) => Work::Answer(reply),
            Start::Drop => {
                self.end(CloseReason::NotActive, Manner::Reset);
                return self.expect(Incoming::Discard);
            }
        };
        let mut task = self.new_task(command, work);
        let len = command.data_len.bytes();
        let buffer = self.first_buffer(&mut task, len, queued_bytes, ports.registry);
        self.tasks.insert(itt, task);
        self.incoming = Incoming::Command(itt);
        buffer
    }

    /// So many requests of tasks that are gone have not ended that there is no room for another.
    fn turn_away(&mut self, itt: Itt, command: &Command) -> BytesMut {
        let full = Reply::plain(Status::TaskSetFull);
        let task = self.new_task(command, Work::Answer(full));
        self.tasks.insert(itt, task);
        self.incoming = Incoming::Command(itt);
        BytesMut::new()
    }

    /// The rules of RFC 7143 §11.3 and §13.10 to §13.14 that a command can break by itself.
    fn check_command(&self, itt: Itt, command: &Command) -> Result<(), Incoming> {
        let len = command.data_len.bytes();
        let expected = command.expected_len_bytes.get() as usize;
        let writes = command.flags & WRITE != 0;
        let unsolicited = command.flags & FINAL == 0;
        let parameters = &self.parameters;
        if self.tasks.contains_key(&itt) {
            return Err(Incoming::Refuse(Reason::TaskInProgress));
        }
        if command.opcode & IMMEDIATE != 0 && self.tasks.len() >= TASKS_MAX {
            return Err(Incoming::Refuse(Reason::TooManyImmediate));
        }
        if itt == Itt::NONE || command.flags & (READ | WRITE) == READ | WRITE {
            return Err(Incoming::Refuse(Reason::InvalidField));
        }
        let too_much = len > expected || len > parameters.first_burst_bytes;
        if len > 0 && (!writes || !parameters.immediate_data || too_much) {
            return Err(Incoming::Fault(Reason::Protocol));
        }
        if unsolicited && (!writes || parameters.initial_r2t) {
            return Err(Incoming::Fault(Reason::Protocol));
        }
        Ok(())
    }

    fn new_task(&mut self, command: &Command, work: Work) -> Box<Task> {
        self.generation = self.generation.wrapping_add(1);
        let expected_bytes = command.expected_len_bytes.get() as usize;
        let writes = command.flags & WRITE != 0;
        let (unit, data_out_bytes) = match &work {
            Work::Run(execution) => (Some(execution.unit()), execution.data_out_len()),
            Work::Answer(_) => (None, 0),
        };
        let wanted_bytes = if writes {
            data_out_bytes.min(expected_bytes)
        } else {
            0
        };
        let unsolicited_max = self.parameters.first_burst_bytes.min(expected_bytes);
        let phase = if command.flags & FINAL == 0 {
            Phase::Unsolicited
        } else {
            Phase::Settled
        };
        let charge_bytes = match &work {
            Work::Answer(_) => 0,
            Work::Run(execution) => wanted_bytes + execution.read_bytes(),
        };
        Box::new(Task {
            generation: self.generation,
            numbered: command.opcode & IMMEDIATE == 0,
            lun: command.lun,
            unit,
            flags: command.flags,
            expected_bytes,
            data_out_bytes,
            transfer: Transfer::new(wanted_bytes, unsolicited_max, phase),
            work,
            charge_bytes,
            charged: false,
            backlog_bytes: 0,
            asked: false,
            piece: None,
        })
    }

    /// The buffer for the first data of a write: its final one if there is memory. Else the data
    /// that come without being asked for are held, and if that is too much already, the command
    /// is told to come again.
    fn first_buffer(
        &mut self,
        task: &mut Task,
        len: usize,
        queued: usize,
        registry: &mut Registry,
    ) -> BytesMut {
        let Work::Run(execution) = &task.work else {
            return BytesMut::new();
        };
        if !task.is_write() || task.data_out_bytes == 0 {
            return BytesMut::new();
        }
        if self.waiting.is_empty() && self.admits(task.charge_bytes, queued, registry) {
            task.charged = true;
            self.charged_bytes += task.charge_bytes;
            return execution.buffer();
        }
        let unasked = match task.transfer.phase() {
            Phase::Unsolicited => task.transfer.unsolicited_max_bytes(),
            Phase::Solicited(_) | Phase::Settled => len,
        };
        if !self.has_backlog_room(unasked, queued, registry) {
            task.work = Work::Answer(Reply::plain(Status::TaskSetFull));
            task.charge_bytes = 0;
            task.transfer.want_nothing();
            return BytesMut::new();
        }
        task.backlog_bytes = unasked;
        self.backlog_bytes += unasked;
        BytesMut::with_capacity(len)
    }

    /// Whether the session itself may have that much more on the move.
    pub(super) const fn fits(&self, charge_bytes: usize, queued_bytes: usize) -> bool {
        let moving = self.charged_bytes + self.abandoned_bytes + queued_bytes;
        moving == 0 || moving + charge_bytes <= DATA_MAX_BYTES
    }

    /// Whether it may, and all sessions together too.
    fn admits(&self, charge_bytes: usize, queued_bytes: usize, registry: &mut Registry) -> bool {
        self.fits(charge_bytes, queued_bytes)
            && registry.admits(self.connection, self.holding(queued_bytes), charge_bytes)
    }

    pub(super) fn command_data(
        &mut self,
        itt: Itt,
        frame: Frame,
        ports: &mut Ports<'_>,
        wire: &mut Wire<'_>,
    ) {
        // The task is gone if it was cleared between its header and its data.
        let Some(task) = self.tasks.get_mut(&itt) else {
            return;
        };
        let len = frame.bhs.data_len.bytes();
        task.transfer.buffer = frame.data;
        task.transfer.add_immediate(len);
        self.proceed(itt, ports, wire);
    }

    pub(super) fn data_header(&mut self, header: &DataOut) -> BytesMut {
        let itt = Itt(header.itt.get());
        let Some(task) = self.tasks.get_mut(&itt) else {
            // The rest of what an aborted task had asked for.
            return self.expect(Incoming::Discard);
        };
        match task.transfer.check(header) {
            Ok(()) => {}
            Err(TransferError::DataSn) => return self.expect(Incoming::Gap(itt)),
            Err(error) => {
                tracing::debug!(%error, itt = itt.0, "Data-Out refused");
                return self.expect(Incoming::Fault(Reason::Protocol));
            }
        }
        let buffer = std::mem::take(&mut task.transfer.buffer);
        self.incoming = Incoming::Data(itt);
        buffer
    }

    pub(super) fn data_out(
        &mut self,
        itt: Itt,
        frame: Frame,
        ports: &mut Ports<'_>,
        wire: &mut Wire<'_>,
    ) {
        let Some(task) = self.tasks.get_mut(&itt) else {
            return;
        };
        if frame.bhs.data_len.bytes() > 0 {
            task.transfer.buffer = frame.data;
        }
        task.transfer.add(&frame.bhs.cast());
        self.data_out_bytes += frame.bhs.data_len.bytes() as u64;
        self.proceed(itt, ports, wire);
    }

    /// A Data-Out is missing. Without recovery within the command the task is over
    /// (RFC 7143 §7.9); what else comes for it is ignored.
    pub(super) fn data_gap(&mut self, itt: Itt, ports: &mut Ports<'_>, wire: &mut Wire<'_>) {
        let Some(task) = self.tasks.get(&itt) else {
            return;
        };
        let reply = match task.unit {
            Some(unit) => ports.array.check(unit, Sense::CRC),
            None => Reply::check(Sense::CRC),
        };
        self.finish(itt, reply, wire);
    }

    /// Whether memory is kept for data that are still to come.
    pub(crate) fn waits_for_data(&self) -> bool {
        let waits = |task: &Task| task.charge_bytes > 0 && task.transfer.phase() != Phase::Settled;
        self.tasks.values().any(|task| waits(task))
    }

    /// How much Data-Out came in all.
    pub(crate) const fn data_out_bytes(&self) -> u64 {
        self.data_out_bytes
    }

    /// Takes a task as far as it goes: wait for data, ask for data, or run.
    fn proceed(&mut self, itt: Itt, ports: &mut Ports<'_>, wire: &mut Wire<'_>) {
        let Some(task) = self.tasks.get(&itt) else {
            return;
        };
        if task.transfer.phase() != Phase::Settled {
            return;
        }
        if let Work::Answer(reply) = &task.work {
            let reply = reply.clone();
            return self.finish(itt, reply, wire);
        }
        if !task.charged {
            let (charge_bytes, queued) = (task.charge_bytes, wire.outbox.len_bytes());
            if !self.waiting.is_empty() || !self.admits(charge_bytes, queued, ports.registry) {
                self.waiting.push_back(itt);
                return;
            }
        }
        self.admit(itt, ports, wire);
    }

    /// Runs what waits for room, in order.
    pub(crate) fn pump(&mut self, ports: &mut Ports<'_>, wire: &mut Wire<'_>) {
        if self.pieces.holder.is_none()
            && let Some(itt) = self.pieces.queue.pop_front()
        {
            self.pieces.holder = Some(itt);
            self.waiting.push_back(itt);
        }
        while let Some(itt) = self.waiting.front().copied()
            && self.ending.is_none()
        {
            let task = self.tasks.get(&itt).expect("what waits is a task");
            let (charge_bytes, queued) = (task.charge_bytes, wire.outbox.len_bytes());
            if !self.admits(charge_bytes, queued, ports.registry) {
                return;
            }
            self.waiting.pop_front();
            self.admit(itt, ports, wire);
        }
    }

    /// There is room for the task: ask for its data, or run it.
    fn admit(&mut self, itt: Itt, ports: &mut Ports<'_>, wire: &mut Wire<'_>) {
        let ttt = self.ttt;
        let task = self.tasks.get_mut(&itt).expect("admitted tasks are there");
        let Work::Run(execution) = &mut task.work else {
            return;
        };
        if !task.charged {
            task.charged = true;
            self.charged_bytes += task.charge_bytes;
            self.backlog_bytes -= std::mem::take(&mut task.backlog_bytes);
            if task.charge_bytes > 0 && task.flags & WRITE != 0 {
                let mut buffer = execution.buffer();
                buffer.extend_from_slice(&task.transfer.buffer);
                task.transfer.buffer = buffer;
            }
        }
        if let Some(Piece { backend, request }) = task.piece.take() {
            return self.submit(itt, backend, request, wire);
        }
        if let Some((r2t_sn, burst)) = task.transfer.solicit(ttt, self.parameters.burst_max_bytes) {
            let lun = task.lun;
            let _ = self.take_ttt();
            wire.outbox.push(
                &R2t {
                    opcode: opcode::R2T,
                    flags: FINAL,
                    reserved: [0; 2],
                    ahs_len_words: 0,
                    data_len: Len24::new(0),
                    lun,
                    itt: itt.0.into(),
                    ttt: ttt.0.into(),
                    stat_sn: self.stat_sn.0.into(),
                    exp_cmd_sn: self.window.expected().0.into(),
                    max_cmd_sn: self.window.max().0.into(),
                    r2t_sn: r2t_sn.into(),
                    offset_bytes: wire_u32(burst.offset_bytes).into(),
                    desired_len_bytes: wire_u32(burst.len_bytes).into(),
                },
                &[],
            );
            return;
        }
        assert!(
            task.transfer.is_complete(),
            "a task runs when its data are here"
        );
        let data = std::mem::take(&mut task.transfer.buffer).freeze();
        let step = execution.run(ports.array, data);
        self.step(itt, step, wire);
    }

    /// The backend answered.
    pub(crate) fn done(
        &mut self,
        tag: Tag,
        outcome: Result<Done, BackendError>,
        ports: &mut Ports<'_>,
        wire: &mut Wire<'_>,
    ) {
        // An aborted task's answer belongs to nobody (law T1).
        let Some(itt) = self.task_of(tag) else {
            self.abandoned_bytes -= self.abandoned.remove(&tag).unwrap_or(0);
            return self.pump(ports, wire);
        };
        let task = self.tasks.get_mut(&itt).expect("just found");
        task.asked = false;
        let Work::Run(execution) = &mut task.work else {
            return;
        };
        let step = execution.done(ports.array, outcome);
        self.step(itt, step, wire);
        self.pump(ports, wire);
    }

    fn step(&mut self, itt: Itt, step: Step, wire: &mut Wire<'_>) {
        match step {
            Step::Io { backend, request } => self.ask(itt, backend, request, wire),
            Step::Done(reply) => self.finish(itt, reply, wire),
            Step::Drop => self.end(CloseReason::NotActive, Manner::Reset),
        }
    }

    /// The task wants something of a backend: at once, or a piece in its turn.
    fn ask(&mut self, itt: Itt, backend: Rc<dyn Backend>, request: Request, wire: &mut Wire<'_>) {
        let task = self
            .tasks
            .get_mut(&itt)
            .expect("only tasks that are there ask");
        let Request::Read { len_bytes, .. } = request else {
            return self.submit(itt, backend, request, wire);
        };
        if !task.reads_in_pieces() {
            return self.submit(itt, backend, request, wire);
        }
        // What it read before is gone.
        task.charged = false;
        self.charged_bytes -= std::mem::replace(&mut task.charge_bytes, len_bytes);
        task.piece = Some(Piece { backend, request });
        self.pieces.forget(itt);
        self.pieces.queue.push_back(itt);
    }

    fn submit(
        &mut self,
        itt: Itt,
        backend: Rc<dyn Backend>,
        request: Request,
        wire: &mut Wire<'_>,
    ) {
        let task = self
            .tasks
            .get_mut(&itt)
            .expect("only tasks that are there ask");
        task.asked = true;
        let tag = task.tag(itt);
        wire.outputs.push_back(Output::Submit {
            tag,
            backend,
            request,
        });
    }

    fn finish(&mut self, itt: Itt, reply: Reply, wire: &mut Wire<'_>) {
        let task = self.forget(itt).expect("only tasks that are there finish");
        self.send_reply(itt, &task, reply, wire);
    }

    /// Removes a task; what it asked the backend for comes back to nobody.
    pub(super) fn forget(&mut self, itt: Itt) -> Option<Box<Task>> {
        let task = self.tasks.remove(&itt)?;
        self.pieces.forget(itt);
        if task.asked {
            // The backend still has it all: a piece of a write keeps the whole buffer.
            self.abandoned.insert(task.tag(itt), task.charge_bytes);
            self.abandoned_bytes += task.charge_bytes;
        }
        if task.charged {
            self.charged_bytes -= task.charge_bytes;
        } else {
            self.backlog_bytes -= task.backlog_bytes;
            self.waiting.retain(|waiting| *waiting != itt);
        }
        if task.numbered {
            self.window.finish();
        }
        Some(task)
    }
}

/// Lengths of one command fit 32 bits because the EDTL does.
pub(super) fn wire_u32(len_bytes: usize) -> u32 {
    u32::try_from(len_bytes).expect("no longer than the expected data transfer length")
}
