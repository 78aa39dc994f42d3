//! The twinsan program: the composition root of target, mirror and authority.
//!
//! The pure part ([`wiring`], [`config`], [`state`]) builds without any feature; the simulator runs
//! the same code. Everything that touches sockets, threads or files is behind `shell`.

pub mod config;
pub mod state;
