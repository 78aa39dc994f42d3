//! Sockets, timers and tasks around the core. No rule of the protocol lives here.
//!
//! Everything runs on one thread, in a tokio `LocalSet`: one task per TCP connection, no channel
//! and no lock.

mod connection;
mod server;

pub use server::{Target, TargetSettings};
