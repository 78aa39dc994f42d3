//! Authority and liveness of a two-box pair with a witness.
//!
//! This crate decides *who may acknowledge*. One replicated register holds the group's
//! [`Config`]: epoch, primary, in-sync set and voters. It is changed by consensus among three
//! voters (the two boxes and the witness), so one box that cannot reach another voter changes
//! nothing, and a box that the register does not name in sync never becomes primary by itself.
//!
//! ```text
//!   node (a box)                          witness (the third voter, many groups)
//!     authority   the rules R1 R2 R6 R7 R10, one function each, from config to config
//!     register    the replicated value: acceptor, reading, commit
//!     acceptor    a voter: register, lease promises, durable record    <-- shared
//!     lease       what a voter promised, what a holder may use
//!     peer, path  which process of the remote is alive, what is a recording
//!     wire, codec authenticated datagrams            record   what must survive
//!     fence       turning the other box off, and how one knows that it is
//!     plan        order of the primary's services    shell    sockets, clocks, disks
//! ```
//!
//! [`Node`] and [`Witness`] are sans-IO: feed one input to `handle`, drain `poll_output` to
//! `None`, ask `poll_timeout` when to call again. Durability is explicit: what follows an
//! [`Output::Persist`] leaves only after its `Persisted` came back.

pub mod authority;
pub mod codec;
pub mod fence;
pub mod lease;
pub mod mutants;
pub mod node;
pub mod path;
pub mod record;
pub mod register;
pub mod resource;
pub mod types;
pub mod wire;
pub mod witness;

mod acceptor;
mod ledger;
mod peer;
mod plan;

pub use node::{
    Authority, EDGES, Event, Input, Lease, LinkStatus, Node, OperatorCommand, Output, Params,
    Refused, Role, Status,
};
pub use record::{ConfigError, GroupRecord, Record, blank, genesis};
pub use resource::Resource;
pub use types::*;
pub use witness::{PeerAddr, Witness, WitnessParams};

#[cfg(feature = "shell")]
pub mod shell;
