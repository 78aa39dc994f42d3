//! The pair and its witness in virtual time: named scenarios and random histories.

#![expect(clippy::unwrap_used, reason = "a harness stops at the first surprise")]

mod engine;
mod oracle;
mod random;
mod scenarios;
mod world;
