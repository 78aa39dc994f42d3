//! The engine of one group on one box: dispatch and invariants.

pub mod event;
pub mod io;

pub use event::{Attached, DataState, Event, Link, PeerLoss, Role, Status, VolumeStatus};
pub use io::{
    Authority, Class, Command, CommandError, Completed, DiskError, Input, Io, IoDone, Lease,
    Limits, Opened, Output, Params,
};

use crate::types::{Epoch, Time};
use std::collections::VecDeque;

/// The engine of one group on one box.
#[derive(Debug)]
pub struct Engine {
    params: Params,
    now: Time,
    outputs: VecDeque<Output>,
}

impl Engine {
    /// An engine that has not seen its disks yet.
    #[must_use]
    pub fn new(params: Params) -> Self {
        Self {
            params,
            now: Time::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Feeds exactly one event; then drain [`Engine::poll_output`] to `None` before the next.
    pub fn handle(&mut self, now: Time, input: Input) {
        self.now = self.now.max(now);
        drop(input);
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The earliest instant at which `handle(now, Input::Timeout)` has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }

    /// What the engine is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            me: self.params.me,
            role: Role::Attaching,
            epoch: Epoch::ZERO,
            data: DataState {
                attached: Attached::No("not started".into()),
                disk: None,
                data_epoch: Epoch::ZERO,
                sealed: Epoch::ZERO,
                cache_lost: false,
            },
            link: Link::Down,
            acks_wait_for_peer: false,
            dirty_bytes: 0,
            commands: 0,
            disk_operations: 0,
            volumes: Vec::new(),
        }
    }

    /// Walks every invariant; panics if one is broken.
    pub fn check_full(&self) {}
}
