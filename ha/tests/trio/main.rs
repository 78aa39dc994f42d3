//! The pair and its witness in virtual time: named scenarios and random histories.

mod engine;
mod oracle;
mod random;
mod scenarios;
mod world;
