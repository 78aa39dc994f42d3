//! The kill table: each deliberate fault of the cores must break a promise that has a name.

use std::process::ExitCode;

#[cfg(feature = "mutants")]
use super::{FailFast, Plan};

/// One deliberate fault and what became of it.
#[cfg(feature = "mutants")]
struct Row {
    name: &'static str,
    /// The promise that it broke, the seed, and the histories it took.
    killed: Option<(String, u64, u64)>,
}

/// Runs up to `histories` histories under each deliberate fault and prints the table.
#[cfg(feature = "mutants")]
pub fn run(seed: u64, histories: u64, jobs: usize) -> ExitCode {
    type Choose = fn(&str) -> Result<(), String>;
    let mirror = replication::mutants::NAMES.iter().map(|(name, _)| *name);
    let authority = ha::mutants::NAMES.iter().map(|(name, _)| *name);
    let all = mirror
        .map(|name| (name, replication::mutants::choose as Choose))
        .chain(authority.map(|name| (name, ha::mutants::choose as Choose)));
    let mut rows = Vec::new();
    for (name, choose) in all {
        choose(name).expect("the name is from the list");
        let sum = super::run(Plan {
            seed,
            histories,
            jobs,
            fail_fast: FailFast::Yes,
        });
        choose("").expect("no fault can always be chosen");
        let first = sum.failures.first();
        let killed = first.map(|first| (first.breach.clone(), first.seed, sum.histories));
        let row = Row { name, killed };
        print_row(&row);
        rows.push(row);
    }
    let killed = rows.iter().filter(|row| row.by_name()).count();
    println!("{killed} of {} mutants killed", rows.len());
    if killed == rows.len() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Without the feature there is nothing to kill.
#[cfg(not(feature = "mutants"))]
pub fn run(_seed: u64, _histories: u64, _jobs: usize) -> ExitCode {
    println!("this build has no deliberate faults: build with --features mutants");
    ExitCode::FAILURE
}

#[cfg(feature = "mutants")]
impl Row {
    /// Killed by a promise with a name, not by a panic of its own.
    fn by_name(&self) -> bool {
        self.killed
            .as_ref()
            .is_some_and(|(breach, _, _)| promise(breach).is_some())
    }
}

#[cfg(feature = "mutants")]
fn print_row(row: &Row) {
    match &row.killed {
        None => println!("  {:28} survived", row.name),
        Some((breach, seed, histories)) => {
            let id = promise(breach).unwrap_or("panic");
            let short: String = breach.chars().take(100).collect();
            println!(
                "  {:28} {id:5} seed {seed} ({histories} histories): {short}",
                row.name
            );
        }
    }
}

/// The id at the start of a breach: one or two letters, digits, a colon.
pub fn promise(breach: &str) -> Option<&str> {
    let id = breach.split(':').next()?;
    let letters = id.trim_end_matches(|c: char| c.is_ascii_digit());
    let named = letters.len() == 1 && id.len() > 1 && letters.chars().all(char::is_alphabetic);
    named.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::promise;

    #[test]
    fn only_named_promises_count() {
        assert_eq!(promise("L1: volume 1 sector 3: ..."), Some("L1"));
        assert_eq!(promise("R10: more than one voter"), Some("R10"));
        assert_eq!(promise("assertion failed: x"), None);
    }
}
