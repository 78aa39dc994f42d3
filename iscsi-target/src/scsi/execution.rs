//! A command under way, from its data to its reply.

use std::fmt;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::array::{Admitted, Array, NexusId};
use super::attention::Attention;
use super::block::{Next, Work};
use super::copy::Copying;
use super::parse::ModeHeader;
use super::reservation::Reserving;
use super::sense::{self, Sense};
use super::{Reply, Start, Step};
use crate::backend::{Backend, BackendError, Done, Geometry, Request};
use crate::hosts::UnitId;

/// A command that needs data from the initiator, the backend, or both.
pub struct Execution {
    pub(crate) nexus: NexusId,
    pub(crate) unit: UnitId,
    pub(crate) admitted: Admitted,
    pub(crate) backend: Rc<dyn Backend>,
    pub(crate) geometry: Geometry,
    pub(crate) data_out_bytes: usize,
    pub(crate) task: Task,
    /// The unit attention that its answer reports.
    pub(crate) reports: Option<Attention>,
}

/// What an execution does.
#[derive(Debug)]
pub(crate) enum Task {
    Blocks(Work),
    ModeSelect(ModeHeader),
    Copy(Copying),
    Reserve(Reserving),
}

impl Execution {
    /// How much the command wants from the initiator. It may send less (or offer more): hand over
    /// what came.
    pub fn data_out_len(&self) -> usize {
        self.data_out_bytes
    }

    /// A buffer for the data, as the disk wants it.
    pub fn buffer(&self) -> BytesMut {
        self.backend.buffer(self.data_out_bytes)
    }

    /// The nexus of the command.
    pub fn nexus(&self) -> NexusId {
        self.nexus
    }

    /// The unit of the command, for the scope of task management.
    pub fn unit(&self) -> UnitId {
        self.unit
    }

    /// Starts, with all the data that will come. Called once.
    pub fn run(&mut self, array: &mut Array, mut data_out: Bytes) -> Step {
        data_out.truncate(self.data_out_bytes);
        if !matches!(self.task, Task::Blocks(Work::Confirm(_))) {
            match array.objection(self.nexus, self.unit, &mut self.admitted) {
                None => {}
                Some(Start::Run(instead)) => self.task = instead.task,
                Some(Start::Reply(reply)) => return Step::Done(reply),
                Some(Start::Drop) => return Step::Drop,
            }
        }
        let next = match &mut self.task {
            Task::Blocks(work) => match work.begin(data_out, &self.geometry) {
                // Where the medium ends is replicated state (law R5).
                Err(Sense::LBA_RANGE) => {
                    *work = Work::Confirm(array.check(self.unit, Sense::LBA_RANGE));
                    Ok(Next::Ask(Request::Confirm))
                }
                next => next,
            },
            Task::ModeSelect(header) => array
                .select_mode(self.nexus, self.unit, *header, &data_out)
                .map(|()| Next::Answer(Reply::good())),
            Task::Copy(copying) => copying.begin(array, &data_out),
            Task::Reserve(reserving) => array.reserve(self.nexus, self.unit, reserving, &data_out),
        };
        self.step(array, next)
    }

    /// Goes on with the outcome of what the last [`Step::Io`] asked for.
    pub fn done(&mut self, array: &mut Array, outcome: Result<Done, BackendError>) -> Step {
        let next = match (&mut self.task, outcome) {
            (Task::Blocks(work), Ok(done)) => work.advance(done).and_then(|next| {
                if matches!(next, Next::Ask(_)) {
                    array.may_go_on(self.nexus, self.unit, &mut self.admitted)?;
                }
                Ok(next)
            }),
            (Task::Blocks(work), Err(error)) => {
                match sense::of_backend_error(error, work.doing()) {
                    Some(sense) => Err(sense),
                    None => return Step::Drop,
                }
            }
            (Task::Reserve(reserving), Ok(_)) => array.reserved(self.unit, reserving),
            (Task::Reserve(reserving), Err(error)) => match reserving.fail(error) {
                Some(sense) => Err(sense),
                None => return Step::Drop,
            },
            (Task::Copy(copying), Ok(done)) => copying.advance(array, done),
            (Task::Copy(copying), Err(error)) => match copying.fail(array, error) {
                Some(sense) => Err(sense),
                None => return Step::Drop,
            },
            (Task::ModeSelect(_), _) => unreachable!("it asks no backend"),
        };
        self.step(array, next)
    }

    /// How much it reads from the backend and keeps until its end, besides what the initiator
    /// sends.
    pub(crate) fn read_bytes(&self) -> usize {
        match &self.task {
            Task::Blocks(work) => work.read_bytes(),
            Task::ModeSelect(_) | Task::Copy(_) | Task::Reserve(_) => 0,
        }
    }

    /// Whether it reads piece after piece and keeps none.
    pub(crate) fn reads_in_pieces(&self) -> bool {
        match &self.task {
            Task::Blocks(work) => work.reads_in_pieces(),
            Task::Copy(_) => true,
            Task::ModeSelect(_) | Task::Reserve(_) => false,
        }
    }

    /// Whether it is about reservations: one that preempts its own nexus is not aborted by it.
    pub(crate) fn reserves(&self) -> bool {
        matches!(self.task, Task::Reserve(_))
    }

    /// It is aborted: what it was to report is still to be told.
    pub(crate) fn give_up(&self, array: &mut Array) {
        if let Some(attention) = self.reports {
            array.raise_again(self.nexus, self.unit, attention);
        }
    }

    /// Whether its answer is the news of a lost cache (law D5).
    pub(crate) fn tells_cache_loss(&self) -> bool {
        matches!(self.task, Task::Blocks(Work::TellCacheLoss))
    }

    fn step(&self, array: &mut Array, next: Result<Next, Sense>) -> Step {
        match next {
            Ok(Next::Ask(request)) => Step::Io {
                backend: Rc::clone(&self.backend),
                request,
            },
            Ok(Next::AskOf(backend, request)) => Step::Io { backend, request },
            Ok(Next::Answer(reply)) => Step::Done(reply),
            Err(sense) => {
                if self.tells_cache_loss() {
                    array.telling_cache_loss(self.nexus, self.unit);
                }
                Step::Done(array.check(self.unit, sense))
            }
        }
    }
}

impl fmt::Debug for Execution {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Execution")
            .field("nexus", &self.nexus)
            .field("unit", &self.unit)
            .field("task", &self.task)
            .finish_non_exhaustive()
    }
}
