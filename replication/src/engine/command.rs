//! Commands: admission, reads, and the one place where each of them is answered.
//!
//! ```text
//! intake ──▶ Lock ──▶ Ready ──▶ Reading ──▶ Answer ──▶ complete         (read, miscompare)
//!                       │          └──▶ Region ──▶ Piece ──▶ complete   (write, more pieces)
//!                       └──▶ Flushing ──▶ complete
//! ```
//!
//! From `Reading` and `Piece` a failure may lead to `Mending` (`mend.rs`).
//!
//! `Ready` waits for a gate: writes and flushes for [`Engine::can_write`], reads for
//! [`Engine::can_read`]. `Answer` waits for the lease (law R5).

use super::counters::Span;
use super::disk::Op;
use super::inflight::{Grant, Mode};
use super::pace::Felt;
use super::{
    Command, CommandError, Completed, DiskError, Engine, Io, IoDone, Lease, Limits, Output,
};
use crate::meta::group::Life;
use crate::meta::{REGION_BYTES, SECTOR_BYTES};
use crate::mutants::mutant;
use crate::types::{CommandId, Fua, Time, VolumeNumber};
use crate::wire;
use bytes::Bytes;

/// A command that was not looked at yet.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) id: CommandId,
    command: Command,
    at: Time,
}

/// A command under way.
#[derive(Debug)]
pub(super) struct Task {
    /// None: it is the scrub's own.
    pub(super) id: Option<CommandId>,
    pub(super) volume: VolumeNumber,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) action: Action,
    pub(super) stage: Stage,
    /// Where the next piece of a write begins.
    pub(super) next: u64,
    /// Bytes counted against the limit.
    cost_bytes: u64,
    arrived: Time,
    /// When it was admitted.
    admitted: Time,
    /// When its present part of the life began: see [`Span`].
    pub(super) since: Time,
}

#[derive(Debug)]
pub(super) enum Action {
    Read,
    Write {
        payload: Payload,
        fua: Fua,
        expected: Option<Bytes>,
    },
    Flush,
    Confirm,
    /// Reads for the scrub; what it gives goes to the peer as hashes.
    Verify,
}

#[derive(Clone, Debug)]
pub(super) enum Payload {
    Data(Bytes),
    Zeroes,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// Waits for its range lock.
    Lock,
    /// Waits for its gate.
    Ready,
    /// At the disk.
    Reading,
    /// Waits for the intents of the piece up to `to`.
    Region { to: u64 },
    /// A piece is on its way to all members.
    Piece(super::write::Piece),
    /// The peer helps, or is helped, with a range.
    Mending(super::mend::Mend),
    /// Waits for these flush rounds.
    Flushing {
        local: u64,
        peer: Option<u64>,
        session: u32,
    },
    /// Waits for the lease.
    Answer(Completed),
}

impl Engine {
    pub(super) fn on_command(&mut self, id: CommandId, command: Command) {
        if !self.is_primary() {
            return self.complete(id, Err(CommandError::NotPrimary));
        }
        if self.failed.is_some() && !self.counts_peer() {
            return self.complete(id, Err(CommandError::Io));
        }
        if self.intake.len() >= self.params.limits.queued_commands {
            return self.complete(id, Err(CommandError::Overloaded)); // frozen for long, mostly
        }
        self.intake.push_back(Arrived {
            id,
            command,
            at: self.now,
        });
    }

    pub(super) fn complete(&mut self, id: CommandId, result: Result<Completed, CommandError>) {
        self.emit(Output::Complete { id, result });
    }

    /// Writes and flushes may be started.
    pub(super) fn can_write(&self) -> bool {
        self.can_admit() && !self.frozen && (!self.needs_peer() || self.is_streaming())
    }

    /// Reads may be started. While frozen too: those that overlap an incomplete write wait for
    /// its lock (law R4, H7).
    pub(super) fn can_read(&self) -> bool {
        self.can_admit()
    }

    fn can_admit(&self) -> bool {
        self.is_serving() && self.verified && self.failed.is_none() && self.handover.is_none()
    }

    /// An answer from replicated state may be given now (laws R5, R5b).
    fn may_answer(&self) -> bool {
        if mutant!(ReadWithoutLease) {
            return true;
        }
        let leased = match self.lease {
            Lease::None => false,
            Lease::Until(end) => self.now < end,
            Lease::Unlimited => true,
        };
        self.can_read() && leased
    }

    pub(super) fn advance_intake(&mut self) {
        while self.can_admit() {
            let Limits {
                inflight_commands,
                inflight_bytes,
                ..
            } = self.params.limits;
            let Some(first) = self.intake.front() else {
                return;
            };
            let cost = cost_bytes(&first.command);
            let full = self.tasks.len() >= inflight_commands
                || self.task_bytes.saturating_add(cost) > inflight_bytes;
            if full && !self.tasks.is_empty() {
                return;
            }
            let arrived = self.intake.pop_front().expect("looked at above");
            self.admit(arrived);
        }
    }

    fn admit(&mut self, arrived: Arrived) {
        let Arrived { id, command, at } = arrived;
        let cost_bytes = cost_bytes(&command);
        let (volume, start, len, action) = match taken_apart(command) {
            Ok(parts) => parts,
            Err(error) => return self.complete(id, Err(error)),
        };
        let end = match self.check_range(volume, start, len) {
            Ok(end) => end,
            Err(error) => return self.complete(id, Err(error)),
        };
        if len == 0 && matches!(action, Action::Read | Action::Write { .. }) {
            return self.complete(id, Ok(empty(&action)));
        }
        self.take_in(Task {
            id: Some(id),
            volume,
            start,
            end,
            action,
            stage: Stage::Lock,
            next: start,
            cost_bytes,
            arrived: at,
            admitted: self.now,
            since: at,
        });
    }

    /// Takes in a step of the scrub behind what it overlaps; its ticket.
    pub(super) fn admit_own(
        &mut self,
        volume: VolumeNumber,
        (start, end): (u64, u64),
        action: Action,
    ) -> u64 {
        let now = self.now;
        self.take_in(Task {
            id: None,
            volume,
            start,
            end,
            action,
            stage: Stage::Lock,
            next: start,
            cost_bytes: 0,
            arrived: now,
            admitted: now,
            since: now,
        })
    }

    fn take_in(&mut self, task: Task) -> u64 {
        let ticket = self.take_ticket();
        let (volume, start, end) = (task.volume, task.start, task.end);
        let lock = match task.action {
            Action::Flush | Action::Confirm => None,
            Action::Read => (!mutant!(ReadPastWrite)).then_some(Mode::Shared),
            Action::Verify => (!mutant!(ScrubAnywhere)).then_some(Mode::Shared),
            Action::Write { .. } => Some(Mode::Exclusive),
        };
        self.task_bytes += task.cost_bytes;
        self.tasks.insert(ticket, task);
        let grant = lock.map_or(Grant::Now, |mode| {
            let locks = &mut self.volume_mut(volume).locks;
            locks.acquire(ticket, start, end, mode)
        });
        if grant == Grant::Now {
            self.make_ready(ticket);
        }
        ticket
    }

    /// The end of the range, if a command may touch it.
    fn check_range(&self, number: VolumeNumber, start: u64, len: u64) -> Result<u64, CommandError> {
        let group = self.group.as_ref();
        let entry = group.and_then(|group| group.volumes.get(&number));
        let usable = entry.is_some_and(|entry| entry.life == Life::Ready);
        let volume = self
            .volumes
            .get(&number)
            .filter(|volume| usable && !volume.closing);
        let volume = volume.ok_or(CommandError::UnknownVolume)?;
        let end = start
            .checked_add(len)
            .filter(|end| *end <= volume.spec.size_bytes);
        if !(start | len).is_multiple_of(SECTOR_BYTES) {
            let reason = format!("not a multiple of {SECTOR_BYTES} bytes");
            return Err(CommandError::Refused(reason));
        }
        end.ok_or(CommandError::OutOfRange)
    }

    pub(super) const fn take_ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    /// The task waits for nothing but its gate.
    pub(super) fn make_ready(&mut self, ticket: u64) {
        let task = self.tasks.get_mut(&ticket).expect("the caller has it");
        task.stage = Stage::Ready;
        self.ready.insert(ticket);
        self.step();
    }

    /// Starts what its gate lets through, in order.
    pub(super) fn advance_ready(&mut self) {
        if self.ready.is_empty() || !self.can_read() {
            return;
        }
        for ticket in self.ready.clone() {
            let Some(task) = self.tasks.get(&ticket) else {
                self.ready.remove(&ticket);
                continue;
            };
            let open = match &task.action {
                Action::Read | Action::Confirm | Action::Verify => true,
                Action::Write { .. } => self.can_write() && !self.holds_writes(),
                Action::Flush => self.can_write(),
            };
            if open {
                self.ready.remove(&ticket);
                self.start(ticket);
            }
        }
    }

    fn start(&mut self, ticket: u64) {
        let task = &self.tasks[&ticket];
        let reads = match &task.action {
            Action::Verify if !self.may_verify(ticket) => return self.drop_verify(ticket),
            Action::Read | Action::Verify => true,
            Action::Write { expected, .. } => expected.is_some() && task.next == task.start,
            Action::Confirm => return self.answer(ticket, Completed::Ok),
            Action::Flush => return self.start_flush(ticket),
        };
        if !reads {
            return self.start_piece(ticket);
        }
        self.tasks.get_mut(&ticket).expect("looked at above").stage = Stage::Reading;
        self.count(ticket, Span::Admit);
        let task = &self.tasks[&ticket];
        let (number, start, end) = (task.volume, task.start, task.end);
        let offset_bytes = self.volume_ref(number).layout.data_offset + start;
        let len_bytes = usize::try_from(end - start).expect("a read fits the address space");
        self.submit(
            number,
            Op::Read { ticket },
            Io::Read {
                offset_bytes,
                len_bytes,
            },
        );
    }

    pub(super) fn on_read_done(&mut self, ticket: u64, result: Result<IoDone, DiskError>) {
        let Some(task) = self.tasks.get(&ticket) else {
            return;
        };
        let data = match result {
            Ok(IoDone::Data(data)) if data.len() as u64 == task.end - task.start => data,
            Ok(_) => return self.finish(ticket, Err(CommandError::Io)),
            Err(error) => return self.on_read_failed(ticket, error),
        };
        self.count(ticket, Span::Local);
        self.read_gave(ticket, data);
    }

    /// What the range of a read or comparison holds, read under its lock.
    pub(super) fn read_gave(&mut self, ticket: u64, data: Bytes) {
        let task = &self.tasks[&ticket];
        if matches!(task.action, Action::Verify) {
            return self.send_verify(ticket, &data);
        }
        let Action::Write {
            expected: Some(expected),
            ..
        } = &task.action
        else {
            let (volume, locked) = (task.volume, !mutant!(ReadPastWrite));
            self.answer(ticket, Completed::Data(data));
            if locked {
                self.unlock(volume, ticket);
            }
            return;
        };
        let differs = data
            .iter()
            .zip(expected)
            .position(|(found, want)| found != want);
        match differs {
            Some(at) => self.answer(
                ticket,
                Completed::Miscompare {
                    offset_bytes: at as u64,
                },
            ),
            None if self.can_write() => self.start_piece(ticket),
            None => self.make_ready(ticket), // compared again when it is started again (law T3)
        }
    }

    fn answer(&mut self, ticket: u64, result: Completed) {
        let task = self.tasks.get_mut(&ticket).expect("the caller has it");
        task.stage = Stage::Answer(result);
        self.answers.insert(ticket);
        self.step();
    }

    /// Gives the answers that wait for the lease, which is looked at after the data was read (H18).
    pub(super) fn advance_answers(&mut self) {
        if self.answers.is_empty() || !self.may_answer() {
            return;
        }
        for ticket in std::mem::take(&mut self.answers) {
            let Some(task) = self.tasks.get_mut(&ticket) else {
                continue;
            };
            let stage = std::mem::replace(&mut task.stage, Stage::Ready);
            let Stage::Answer(result) = stage else {
                unreachable!("it is in `answers`")
            };
            self.finish(ticket, Ok(result));
        }
    }

    /// Answers a command and lets go of what it holds.
    pub(super) fn finish(&mut self, ticket: u64, result: Result<Completed, CommandError>) {
        if result.is_ok() {
            self.count_whole(ticket);
        }
        let task = self.tasks.remove(&ticket).expect("the caller has it");
        self.task_bytes -= task.cost_bytes;
        self.unlock(task.volume, ticket);
        let Some(id) = task.id else {
            return self.on_own_done(ticket, &result);
        };
        match &task.action {
            Action::Read => self.pacer.felt(Felt::Read, self.now, task.admitted),
            Action::Write { .. } => self.pacer.felt(Felt::Write, self.now, task.admitted),
            Action::Flush | Action::Confirm | Action::Verify => {}
        }
        self.complete(id, result);
    }

    /// A part of a command's life ends here and the next one begins.
    pub(super) fn count(&mut self, ticket: u64, span: Span) {
        let task = self.tasks.get_mut(&ticket).expect("the caller has it");
        let since = std::mem::replace(&mut task.since, self.now);
        if task.id.is_none() {
            return; // nobody waits for it
        }
        if let Some(volume) = self.volumes.get_mut(&task.volume) {
            volume.counters.record(span, since, self.now);
        }
    }

    fn count_whole(&mut self, ticket: u64) {
        let task = &self.tasks[&ticket];
        let arrived = task.arrived;
        let whole = match task.action {
            Action::Read => Span::Read,
            Action::Write { .. } => Span::Write,
            Action::Flush | Action::Confirm | Action::Verify => return,
        };
        let number = task.volume;
        self.count(ticket, Span::Ack);
        if let Some(volume) = self.volumes.get_mut(&number) {
            volume.counters.record(whole, arrived, self.now);
        }
    }

    /// Releases a range lock and starts what waited for it.
    pub(super) fn unlock(&mut self, number: VolumeNumber, ticket: u64) {
        let Some(volume) = self.volumes.get_mut(&number) else {
            return;
        };
        for granted in volume.locks.release(ticket) {
            if self.tasks.contains_key(&granted) {
                self.make_ready(granted);
            } else {
                self.read_chunk(granted);
            }
        }
    }

    /// Everything accepted is answered with `error`, nothing queued survives (law R8).
    pub(super) fn abort_commands(&mut self, error: &CommandError) {
        for (_, task) in std::mem::take(&mut self.tasks) {
            if let Some(id) = task.id {
                self.complete(id, Err(error.clone()));
            }
        }
        self.abandon_scrub();
        for arrived in std::mem::take(&mut self.intake) {
            self.complete(arrived.id, Err(error.clone()));
        }
        self.task_bytes = 0;
        self.ready.clear();
        self.answers.clear();
        self.mending.clear();
        self.chunks.clear();
        for volume in self.volumes.values_mut() {
            volume.locks = super::inflight::Locks::default();
            volume.intents.waiting.clear();
            for heat in volume.intents.hot.values_mut() {
                heat.users = 0;
            }
        }
    }
}

impl Payload {
    /// Bytes `from .. to` of it.
    pub(super) fn part(&self, from: u64, to: u64) -> Self {
        let at = |byte| usize::try_from(byte).expect("a payload is in memory");
        match self {
            Self::Data(data) => Self::Data(data.slice(at(from)..at(to))),
            Self::Zeroes => Self::Zeroes,
        }
    }

    /// The disk operation that writes it.
    pub(super) fn io(&self, offset_bytes: u64, len_bytes: u64, fua: Fua) -> Io {
        match self {
            Self::Data(data) => Io::Write {
                offset_bytes,
                data: data.clone(),
                fua,
            },
            Self::Zeroes => Io::WriteZeroes {
                offset_bytes,
                len_bytes,
                fua,
            },
        }
    }
}

/// Bytes that one piece of a write may have, so that its regions fit the ring.
pub(super) fn piece_max_bytes(limits: &Limits) -> u64 {
    let regions = (limits.hot_regions as u64).saturating_sub(1).max(1);
    (regions * REGION_BYTES).min(wire::DATA_MAX_BYTES as u64)
}

/// Volume, start, length and the rest of a command.
fn taken_apart(command: Command) -> Result<(VolumeNumber, u64, u64, Action), CommandError> {
    let parts = match command {
        Command::Read {
            volume,
            offset_bytes,
            len_bytes,
        } => (volume, offset_bytes, len_bytes as u64, Action::Read),
        Command::Write {
            volume,
            offset_bytes,
            data,
            fua,
        } => (
            volume,
            offset_bytes,
            data.len() as u64,
            write(Payload::Data(data), fua, None),
        ),
        Command::WriteZeroes {
            volume,
            offset_bytes,
            len_bytes,
            fua,
        } => (
            volume,
            offset_bytes,
            len_bytes,
            write(Payload::Zeroes, fua, None),
        ),
        Command::CompareAndWrite {
            volume,
            offset_bytes,
            expected,
            data,
            fua,
        } => {
            if expected.len() != data.len() {
                let reason = "the data to compare and to write differ in length";
                return Err(CommandError::Refused(reason.into()));
            }
            let len = data.len() as u64;
            (
                volume,
                offset_bytes,
                len,
                write(Payload::Data(data), fua, Some(expected)),
            )
        }
        Command::Flush { volume } => (volume, 0, 0, Action::Flush),
        Command::Confirm => (VolumeNumber::SYSTEM, 0, 0, Action::Confirm),
    };
    Ok(parts)
}

const fn write(payload: Payload, fua: Fua, expected: Option<Bytes>) -> Action {
    Action::Write {
        payload,
        fua,
        expected,
    }
}

fn cost_bytes(command: &Command) -> u64 {
    match command {
        Command::Read { len_bytes, .. } => *len_bytes as u64,
        Command::Write { data, .. } => data.len() as u64,
        Command::CompareAndWrite { data, expected, .. } => (data.len() + expected.len()) as u64,
        Command::WriteZeroes { .. } | Command::Flush { .. } | Command::Confirm => 0,
    }
}

const fn empty(action: &Action) -> Completed {
    match action {
        Action::Read => Completed::Data(Bytes::new()),
        Action::Write { .. } | Action::Flush | Action::Confirm | Action::Verify => Completed::Ok,
    }
}

impl From<DiskError> for CommandError {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::Io => Self::Io,
            DiskError::Medium => Self::Medium,
            DiskError::NoSpace => Self::NoSpace,
        }
    }
}
