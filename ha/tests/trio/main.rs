//! The pair and its witness in virtual time: named scenarios and random histories.

#![expect(clippy::unwrap_used, reason = "a harness stops at the first surprise")]

mod disk;
mod drive;
mod engine;
mod force;
mod hazards;
#[cfg(feature = "mutants")]
mod kill;
mod oracle;
mod random;
mod register;
mod scenarios;
mod voter;
mod world;
