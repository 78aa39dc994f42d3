//! The twinsan program: the composition root of target, mirror and authority.
//!
//! The pure part ([`wiring`], [`config`], [`masking`], [`state`], [`size`]) builds without any
//! feature; the simulator runs the same wiring. Everything that touches sockets, threads or
//! processes is behind the feature `shell`.

pub mod config;
pub mod masking;
pub mod size;
pub mod state;
pub mod wiring;

#[cfg(feature = "shell")]
mod announce;
#[cfg(feature = "shell")]
pub mod api;
#[cfg(feature = "shell")]
pub mod block;
#[cfg(feature = "shell")]
pub mod cli;
#[cfg(feature = "shell")]
mod clock;
#[cfg(feature = "shell")]
mod control;
#[cfg(feature = "shell")]
pub mod daemon;
#[cfg(feature = "shell")]
mod data;
#[cfg(feature = "shell")]
pub mod demo;
#[cfg(feature = "shell")]
mod events;
#[cfg(feature = "shell")]
mod fencing;
#[cfg(feature = "shell")]
pub mod first_process;
#[cfg(feature = "shell")]
mod hex;
#[cfg(feature = "shell")]
mod identity;
#[cfg(feature = "shell")]
mod images;
#[cfg(feature = "shell")]
pub mod init;
#[cfg(feature = "shell")]
pub mod load;
#[cfg(feature = "shell")]
mod log;
#[cfg(feature = "shell")]
pub mod membership;
#[cfg(feature = "shell")]
mod network;
#[cfg(feature = "shell")]
pub mod pairing;
#[cfg(feature = "shell")]
mod preflight;
#[cfg(feature = "shell")]
mod pulse;
#[cfg(feature = "shell")]
pub mod render;
#[cfg(feature = "shell")]
mod reservations;
#[cfg(feature = "shell")]
pub mod runtime;
#[cfg(feature = "shell")]
mod services;
#[cfg(feature = "shell")]
mod status;
#[cfg(feature = "shell")]
mod system;
#[cfg(feature = "shell")]
pub mod verbs;
#[cfg(feature = "shell")]
mod volume;
#[cfg(feature = "shell")]
pub mod witness;
