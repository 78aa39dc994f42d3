//! The kill table of the simulator. What random histories are known to find they must find, by a
//! promise that has a name; a neutral mutant must break none. Every mutant that is not neutral,
//! found here or not, has a named test in the kill table of its core.

use std::process::ExitCode;

#[cfg(feature = "mutants")]
use super::{FailFast, Plan};
#[cfg(feature = "mutants")]
use appliance::wiring::choose_mutant;
#[cfg(feature = "mutants")]
use replication::mutants::law_of;

/// One mutant and what became of it.
#[cfg(feature = "mutants")]
struct Row {
    name: &'static str,
    must: Must,
    /// The promise that it broke, the seed, and the histories it took.
    killed: Option<(String, u64, u64)>,
}

/// What has to become of a mutant here.
#[cfg(feature = "mutants")]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Must {
    Die,
    /// Another rule makes up for it.
    Survive,
    /// It needs an accident too rare for a few hundred histories: a named test has to kill it.
    Either,
}

/// Killed within 100 histories from seed 1 on.
#[cfg(feature = "mutants")]
const FOUND: &[&str] = &[
    "drop-ack",
    "ack-without-peer",
    "clear-unstable",
    "read-without-lease",
    "forget-unstable",
    "forget-acked",
    "skip-intent",
    "flush-local-only",
    "ignore-peer-mask",
    "ignore-order",
    "readmit-early",
    "trust-blank-peer",
    "resume-epoch",
    "solo-before-chosen",
    "ignore-in-sync",
    "promote-both",
    "reply-before-persist",
    "serve-unknown",
];

/// Runs up to `histories` histories under each mutant and prints the table.
#[cfg(feature = "mutants")]
pub fn run(seed: u64, histories: u64, jobs: usize) -> ExitCode {
    let mirror = replication::mutants::NAMES.iter().map(|entry| entry.0);
    let authority = ha::mutants::NAMES.iter().map(|entry| entry.0);
    let mut rows = Vec::new();
    for name in mirror.chain(authority) {
        choose_mutant(name).expect("the name is from the list");
        let sum = super::run(Plan {
            seed,
            histories,
            jobs,
            fail_fast: FailFast::Yes,
        });
        choose_mutant("").expect("no mutant can always be chosen");
        let first = sum.failures.first();
        let row = Row {
            name,
            must: must(name),
            killed: first.map(|first| (first.breach.clone(), first.seed, sum.histories)),
        };
        print_row(&row);
        rows.push(row);
    }
    let others = rows.iter().filter(|row| row.must == Must::Either);
    let more = others.filter(|row| row.killed.is_some()).count();
    println!("beside those that must be found: {more}");
    let wanted = rows.iter().filter(|row| row.must == Must::Die);
    let killed = wanted.clone().filter(|row| row.as_it_should()).count();
    println!("{killed} of {} mutants killed", wanted.count());
    if rows.iter().all(Row::as_it_should) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Without the feature there is nothing to kill.
#[cfg(not(feature = "mutants"))]
pub fn run(_seed: u64, _histories: u64, _jobs: usize) -> ExitCode {
    println!("this build has no mutants: build with --features mutants");
    ExitCode::FAILURE
}

#[cfg(feature = "mutants")]
impl Row {
    /// Killed by a promise with a name, not by a panic of its own; or alive, if it may be.
    fn as_it_should(&self) -> bool {
        match &self.killed {
            Some((breach, _, _)) => self.must != Must::Survive && law_of(breach).is_some(),
            None => self.must != Must::Die,
        }
    }
}

#[cfg(feature = "mutants")]
fn must(name: &str) -> Must {
    if ha::mutants::NEUTRAL.contains(&name) {
        Must::Survive
    } else if FOUND.contains(&name) {
        Must::Die
    } else {
        Must::Either
    }
}

#[cfg(feature = "mutants")]
fn print_row(row: &Row) {
    match &row.killed {
        None => {
            let excuse = match row.must {
                Must::Die => "SURVIVED",
                Must::Survive => "neutral, survived",
                Must::Either => "survived; left to a named test of its core",
            };
            println!("  {:28} {excuse}", row.name);
        }
        Some((breach, seed, histories)) => {
            let id = law_of(breach).unwrap_or("panic");
            let short: String = breach.chars().take(100).collect();
            let neutral = if row.must == Must::Survive {
                "NOT NEUTRAL "
            } else {
                ""
            };
            println!(
                "  {:28} {neutral}{id:5} seed {seed} ({histories} histories): {short}",
                row.name
            );
        }
    }
}
