//! Two engines joined in memory: scenarios by name, and many short random histories.

mod boss;
mod channel;
mod checks;
mod copies;
mod counts;
mod disk;
mod doubt;
mod failing;
mod growing;
mod histories;
#[cfg(feature = "mutants")]
mod kill;
mod laws;
mod many;
mod oracle;
mod pool;
mod putback;
#[path = "../shell_support/random.rs"]
mod random;
mod rejoin;
mod replay;
mod scenarios;
mod scrub;
mod seeds;
mod world;
