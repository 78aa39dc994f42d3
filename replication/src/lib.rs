//! The mirrored volume: a synchronous two-node block mirror as a sans-IO core.
//!
//! One [`engine::Engine`] per group and box. It promises:
//! 1. a write is acknowledged only when it is on the device of every member of the committed
//!    in-sync set (law R4), and a flush only when every member has flushed;
//! 2. a dirty bit is cleared only by a stable copy of that block, never by a decision (law D1);
//! 3. a region's intent bit is durable before its first write leaves (law D2);
//! 4. a sealed box refuses every frame of an epoch it sealed, for ever (law R3);
//! 5. it never decides to go on alone: it freezes, reports, and waits for an authority (law R1).
//!
//! The core has no clock, no randomness, no I/O. Feed one [`engine::Input`] to
//! [`engine::Engine::handle`], drain [`engine::Engine::poll_output`] to `None`, then ask
//! [`engine::Engine::poll_timeout`]. Disks, sockets and the driver live in `shell`, behind the
//! cargo feature of that name.

pub mod engine;
pub mod inspect;
pub mod meta;
pub mod mutants;
pub mod types;
pub mod wire;

#[cfg(feature = "shell")]
pub mod shell;
