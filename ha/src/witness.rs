//! The witness: the acceptor alone, for many groups.

use std::collections::VecDeque;

use crate::record::Record;
use crate::types::{BootId, GroupId, Incarnation, NodeId, Now, PersistId, Time, VoterInstance};

/// Where a datagram came from; opaque, answers go back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddr(pub u64);

/// Who this witness is.
#[derive(Clone, Debug)]
pub struct WitnessParams {
    /// Its node id in every group.
    pub me: NodeId,
    /// The life of its store (law R10).
    pub instance: VoterInstance,
    /// This start of the daemon; random.
    pub incarnation: Incarnation,
    /// This boot of the kernel.
    pub boot: BootId,
    /// The groups it may serve, with their keys.
    pub keys: Vec<(GroupId, [u8; 32])>,
}

/// One thing that happened to the witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The time that [`Witness::poll_timeout`] named has come.
    Timeout,
    /// Bytes came in; nothing about them is trusted.
    Datagram {
        /// Where from.
        from: PeerAddr,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// That record is durable.
    Persisted {
        /// Of which group.
        group: GroupId,
        /// The `id` of the `Persist`.
        id: PersistId,
    },
}

/// One thing for the witness's shell to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Make the record durable, then answer `Persisted`; one at a time for each group.
    Persist {
        /// Of which group.
        group: GroupId,
        /// To be named in `Persisted`.
        id: PersistId,
        /// What to write.
        record: Record,
    },
    /// Send a datagram.
    Send {
        /// Where to.
        to: PeerAddr,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// Something an operator would want to know.
    Event(Event),
}

/// Something the operator of a witness would want to know; `Display` is the sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A group admitted this witness.
    Admitted {
        /// The group.
        group: GroupId,
    },
}

impl core::fmt::Display for Event {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Admitted { group } => write!(f, "group {:032x} admitted this witness", group.0),
        }
    }
}

/// The witness.
#[derive(Debug)]
pub struct Witness {
    params: WitnessParams,
    records: Vec<(GroupId, Record)>,
    outputs: VecDeque<Output>,
}

impl Witness {
    /// A witness that has just started with the records of its store.
    #[must_use]
    pub fn new(params: WitnessParams, records: Vec<(GroupId, Record)>, _now: Now) -> Self {
        Self {
            params,
            records,
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

    /// How many groups it serves.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.records.len().min(self.params.keys.len())
    }
}
