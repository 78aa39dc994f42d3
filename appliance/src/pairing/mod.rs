//! Pairing: how the second box and the witness become members, without a key that is carried by
//! hand.
//!
//! ```text
//! joiner                                        creator: `pair create`, shows a code
//!   Hello {pake}                          ──▶
//!                                         ◀──   Welcome {pake}
//!   Proof {mac, who and for what}         ──▶   a wrong one costs one of three tries
//!                                         ◀──   Accepted {mac, group, key}, or Denied {why}
//!   Joined, once it is durable            ──▶
//! ```
//!
//! All of it goes through TLS, with certificates that nobody knows yet. From the code both sides
//! derive a secret (SPAKE2, so that one attempt tests one code and nothing can be tested later),
//! and the proofs under that secret cover both certificates and the name of the TLS channel: with
//! somebody in the middle they differ. From then on the channel is to be believed, and the key
//! goes through it.
//!
//! [`offer`] and [`request`] are the two cores: no sockets, no clock, no randomness in them.

mod code;
mod create;
mod join;
mod leave;
mod message;
#[cfg(test)]
mod middle;
mod offer;
mod request;
mod wire;

pub use create::create;
pub use join::{join, witness_join};
pub use leave::{leave, witness_leave};

use replication::shell::Fingerprint;

/// How long a code can be used.
const OFFER_SECONDS: u64 = 600;
/// Wrong proofs that an offer bears.
const TRIES: u8 = 3;
/// Version of these messages.
const VERSION: u32 = 1;

/// The channel between creator and joiner, as one of them sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Channel {
    /// What nobody between the two can have made the same on two channels.
    binding: [u8; 32],
    creator: Fingerprint,
    joiner: Fingerprint,
}
