//! Two engines joined in memory: scenarios by name, and many short random histories.

mod boss;
mod checks;
mod disk;
mod histories;
mod oracle;
mod scenarios;
mod world;
