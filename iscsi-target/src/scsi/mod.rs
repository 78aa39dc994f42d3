//! Logical units: SPC-4 and SBC-3 commands over a [`Backend`], without I/O of their own.
//!
//! A connection hands a command to [`Array::start`]. What needs neither data nor the backend comes
//! back at once as [`Start::Reply`]; everything else is an [`Execution`], which the connection
//! drives:
//!
//! ```text
//!   start ──▶ Reply
//!     │
//!     ▼            data-out received
//!   Execution ──▶ run ──┬──────────────▶ Done(Reply)
//!                       ▼         ▲
//!                      Io ──▶ done┘──▶ Drop   (this box is not active, law R8)
//!                       ▲      │
//!                       └──────┘
//! ```
//!
//! An execution that is no longer wanted is dropped; it then asks nothing more of the backend
//! (law T1). What was already asked keeps its range until the backend is done with it.

mod array;
mod attention;
mod block;
mod cdb;
mod copy;
mod execution;
mod identify;
mod mode;
mod opcodes;
mod parse;
mod report;
mod reservation;
mod sense;
#[cfg(test)]
mod tests;
mod tray;
mod unit;

use std::rc::Rc;

use bytes::Bytes;

use crate::backend::{Backend, Request};
pub use crate::hosts::UnitId;
pub use array::{Applied, Array, ArrayConfig, Nexus, NexusId, Portal, ResetScope};
pub use execution::Execution;
pub use reservation::RESERVATIONS_BYTES_MAX;
pub use sense::{Sense, SenseFormat, SenseKey, Status};
pub use tray::Medium;
pub use unit::{Reserved, UnitConfig};

/// What became of a command that was just received.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart where it arrives, and most run"
)]
pub enum Start {
    /// It is finished. Data the initiator still sends for it are to be thrown away.
    Reply(Reply),
    /// It goes on with [`Execution::run`], once its data are here.
    Run(Execution),
    /// The nexus was closed: send nothing and drop the session (law T1).
    Drop,
}

/// What an execution needs next.
pub enum Step {
    /// Submit this; the outcome goes to [`Execution::done`].
    Io {
        /// Where.
        backend: Rc<dyn Backend>,
        /// What.
        request: Request,
    },
    /// Finished: send this.
    Done(Reply),
    /// This box lost its role: send nothing and drop the session (law R8).
    Drop,
}

/// The end of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// SCSI status.
    pub status: Status,
    /// Data for the initiator, in order; never more than the command allowed.
    pub data_in: Vec<Bytes>,
    /// Sense data, with every CHECK CONDITION.
    pub sense: Option<Sense>,
}

impl Reply {
    /// GOOD without data.
    pub const fn good() -> Self {
        Self::plain(Status::Good)
    }

    /// GOOD with data.
    pub fn data(data: Bytes) -> Self {
        Self {
            status: Status::Good,
            data_in: vec![data],
            sense: None,
        }
    }

    /// GOOD with the part of `data` that the initiator made room for.
    pub(crate) fn truncated(mut data: Vec<u8>, allocation_bytes: usize) -> Self {
        data.truncate(allocation_bytes);
        Self::data(data.into())
    }

    /// `status` without data or sense.
    pub(crate) const fn plain(status: Status) -> Self {
        Self {
            status,
            data_in: Vec::new(),
            sense: None,
        }
    }

    /// CHECK CONDITION.
    pub const fn check(sense: Sense) -> Self {
        Self {
            status: Status::CheckCondition,
            data_in: Vec::new(),
            sense: Some(sense),
        }
    }
}
