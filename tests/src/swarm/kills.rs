//! The kill table: each mutant of the cores must break a promise that has a name, and each neutral
//! one must break none.

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
    /// Another rule makes up for it: it must survive.
    neutral: bool,
    /// The promise that it broke, the seed, and the histories it took.
    killed: Option<(String, u64, u64)>,
}

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
            neutral: ha::mutants::NEUTRAL.contains(&name),
            killed: first.map(|first| (first.breach.clone(), first.seed, sum.histories)),
        };
        print_row(&row);
        rows.push(row);
    }
    let harmful = rows.iter().filter(|row| !row.neutral);
    let killed = harmful.clone().filter(|row| row.as_it_should()).count();
    println!("{killed} of {} mutants killed", harmful.count());
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
    /// Killed by a promise with a name, not by a panic of its own; or alive and neutral.
    fn as_it_should(&self) -> bool {
        match &self.killed {
            Some((breach, _, _)) => !self.neutral && law_of(breach).is_some(),
            None => self.neutral,
        }
    }
}

#[cfg(feature = "mutants")]
fn print_row(row: &Row) {
    match &row.killed {
        None if row.neutral => println!("  {:28} neutral, survived", row.name),
        None => println!("  {:28} survived", row.name),
        Some((breach, seed, histories)) => {
            let id = law_of(breach).unwrap_or("panic");
            let short: String = breach.chars().take(100).collect();
            let neutral = if row.neutral { "NOT NEUTRAL " } else { "" };
            println!(
                "  {:28} {neutral}{id:5} seed {seed} ({histories} histories): {short}",
                row.name
            );
        }
    }
}
