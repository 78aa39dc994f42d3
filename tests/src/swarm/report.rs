//! What a run of the swarm prints.

use super::{Failure, Sum};
use crate::coverage;
use crate::faults::Fault;
use crate::trim::Trim;

/// Failures printed with their traces.
const FAILURES_MAX: usize = 3;

/// Prints counts, coverage and failures; the last line is the verdict. True if nothing failed and
/// a large run has seen everything.
pub fn print(sum: &Sum, elapsed_s: f64) -> bool {
    println!("events       {}", sum.events);
    println!("virtual time {} s", sum.virtual_ns / 1_000_000_000);
    println!("faults");
    for fault in Fault::ALL {
        println!(
            "  {:18} {}",
            fault.to_string(),
            sum.counts.of(&format!("fault {fault}"))
        );
    }
    println!("coverage");
    for (name, count) in sum
        .counts
        .0
        .iter()
        .filter(|(name, _)| !name.starts_with("fault "))
    {
        println!("  {count:>9}  {name}");
    }
    for failure in sum.failures.iter().take(FAILURES_MAX) {
        print_failure(failure);
    }
    for failure in sum.failures.iter().skip(FAILURES_MAX) {
        println!(
            "FAILED seed {} at event {}: {}",
            failure.seed, failure.event, failure.breach
        );
    }
    let items = coverage::items().len();
    let missing = coverage::missing(&sum.counts);
    println!("covered      {} of {items}", items - missing.len());
    let large = sum.histories >= coverage::HISTORIES_MIN;
    for item in &missing {
        println!("  {} {item}", if large { "NEVER SEEN" } else { "not seen" });
    }
    let rate = sum.histories as f64 / elapsed_s.max(0.001);
    println!("speed        {rate:.1} histories/s");
    let uncovered = large && !missing.is_empty();
    let failed = sum.failures.len() + usize::from(uncovered);
    println!("swarm: {} histories, {failed} failed", sum.histories);
    failed == 0
}

fn print_failure(failure: &Failure) {
    println!();
    println!("  {}", crate::world::ladder::heading());
    for line in super::tail_of(failure.seed) {
        println!("  {line}");
    }
    println!(
        "FAILED seed {} at event {}: {}",
        failure.seed, failure.event, failure.breach
    );
    println!("replay: cargo swarm --seed {}", failure.seed);
    println!("shorten: cargo swarm --seed {} --minimise", failure.seed);
}

/// Prints one history as a ladder, with the faults that it suffered; true if it passes.
pub fn replay(seed: u64, trim: &Trim) -> bool {
    let ended = super::run_trimmed((seed, trim), usize::MAX);
    println!("{}", crate::world::ladder::heading());
    match ended {
        Ok(report) => {
            for line in report.trace.lines() {
                println!("{line}");
            }
            println!("fingerprint {:016x}", report.fingerprint);
            println!("swarm: 1 histories, 0 failed");
            true
        }
        Err(failure) => {
            for line in &failure.tail {
                println!("{line}");
            }
            println!(
                "FAILED seed {seed} at event {}: {}",
                failure.event, failure.breach
            );
            println!("swarm: 1 histories, 1 failed");
            false
        }
    }
}
