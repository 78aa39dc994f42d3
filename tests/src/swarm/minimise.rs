//! Shortens a failed history: leaves out faults, makes the surroundings plain and sends fewer
//! commands as long as the same promise is still broken.

use super::{Failure, run_trimmed};
use crate::trim::{Plain, Trim};

/// Histories that the search may run.
const RUNS_MAX: u32 = 2000;
/// Lines of the shortened history that are kept.
const LINES: usize = 120;

/// The shortest history that was found.
#[derive(Debug)]
pub struct Shortest {
    /// What is left out.
    pub trim: Trim,
    /// How it fails.
    pub failure: Failure,
    /// Faults before anything was left out.
    pub faults_before: usize,
    /// Histories that were run.
    pub runs: u32,
}

/// Looks for the shortest history of a seed; none if it does not fail.
pub fn minimise(seed: u64, start: Trim) -> Option<Shortest> {
    let first = run_trimmed((seed, &start), LINES).err()?;
    let mut found = Shortest {
        trim: start,
        faults_before: first.faults.len(),
        failure: first,
        runs: 1,
    };
    while improve(seed, &mut found) {}
    Some(found)
}

/// One thing less; false if nothing more can be left out.
fn improve(seed: u64, found: &mut Shortest) -> bool {
    for trim in candidates(found) {
        if found.runs >= RUNS_MAX {
            return false;
        }
        found.runs += 1;
        let failure = match run_trimmed((seed, &trim), LINES) {
            Err(failure) if failure.promise() == found.failure.promise() => failure,
            Ok(_) | Err(_) => continue,
        };
        found.trim = trim;
        found.failure = failure;
        return true;
    }
    false
}

/// Everything that may be left out next, the largest parts first.
fn candidates(found: &Shortest) -> Vec<Trim> {
    let (trim, failure) = (&found.trim, &found.failure);
    let mut candidates = Vec::new();
    let numbers: Vec<u32> = failure
        .faults
        .iter()
        .map(|(number, _, _)| *number)
        .collect();
    let mut without = |numbers: &[u32]| {
        let mut fewer = trim.clone();
        fewer.skip.extend(numbers);
        candidates.push(fewer);
    };
    let half = numbers.len() / 2;
    if half > 1 {
        without(&numbers[..half]);
        without(&numbers[half..]);
    }
    for number in &numbers {
        without(&[*number]);
    }
    for (plain, _) in Plain::ALL {
        if !trim.plain.contains(&plain) {
            let mut plainer = trim.clone();
            plainer.plain.insert(plain);
            candidates.push(plainer);
        }
    }
    // with no commands nobody gets answers: that is no shorter way to a broken promise of answers
    if !failure.promise().starts_with('V') {
        let most = trim.commands.unwrap_or(failure.commands);
        for fewer in [most / 2, most * 3 / 4, most * 9 / 10] {
            if fewer < most {
                let commands = Some(fewer);
                candidates.push(Trim {
                    commands,
                    ..trim.clone()
                });
            }
        }
    }
    candidates
}

/// Prints what is left, as a ladder, and the command that shows it again.
pub fn print(seed: u64, shortest: &Shortest) {
    let failure = &shortest.failure;
    println!("{}", crate::world::ladder::heading());
    for line in &failure.tail {
        println!("{line}");
    }
    println!(
        "FAILED seed {seed} at event {}: {}",
        failure.event, failure.breach
    );
    println!(
        "{} of {} faults are needed, {} commands, after {} runs:",
        failure.faults.len(),
        shortest.faults_before,
        failure.commands,
        shortest.runs
    );
    for (number, at, fault) in &failure.faults {
        println!("  {:10.3} s  #{number} {fault}", *at as f64 / 1e9);
    }
    println!("replay: cargo swarm --seed {seed}{}", shortest.trim);
}
