//! Two engines joined in memory: scenarios by name, and many short random histories.

mod boss;
mod checks;
mod disk;
mod histories;
#[cfg(feature = "mutants")]
mod kill;
mod oracle;
#[path = "../shell_support/random.rs"]
mod random;
mod scenarios;
mod seeds;
mod world;
