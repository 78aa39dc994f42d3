//! A box: register, lease, heartbeats and resource order behind one `handle`.

mod api;

use std::collections::VecDeque;

pub use api::{
    Authority, Event, Input, Lease, LinkStatus, OperatorCommand, Output, Params, Role, Status,
};

use crate::record::Record;
use crate::types::{Now, Time};

/// A box. Feed one [`Input`], then drain [`Node::poll_output`] to `None`, then ask
/// [`Node::poll_timeout`].
#[derive(Debug)]
pub struct Node {
    params: Params,
    record: Record,
    outputs: VecDeque<Output>,
}

impl Node {
    /// A box that has just started with `record` from its store.
    #[must_use]
    pub fn new(params: Params, record: Record, _now: Now) -> Self {
        Self {
            params,
            record,
            outputs: VecDeque::new(),
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, _now: Now, _input: Input) {}

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] has something to do, on the boot clock.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }

    /// What an operator sees.
    #[must_use]
    pub fn status(&self) -> Status {
        let accepted = self.record.group.as_ref().map(|group| &group.accepted.1);
        Status {
            role: Role::Booting,
            epoch: accepted.map_or(crate::types::Epoch::ZERO, |config| config.epoch),
            config: accepted.cloned(),
            lease: Lease::None,
            eligible: Err(format!("{} has just started", self.params.me)),
            peer: Vec::new(),
            witness_last_seen: None,
            serving: false,
            why: String::new(),
            next: String::new(),
            promotions: 0,
        }
    }

    /// The full walk of the invariants, for simulators.
    pub fn check_full(&self) {}
}
