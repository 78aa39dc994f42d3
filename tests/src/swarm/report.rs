//! What a run of the swarm prints.

use super::{Failure, Sum};
use crate::faults::Fault;

/// Failures printed with their traces.
const FAILURES_MAX: usize = 3;

/// Prints counts, coverage and failures; the last line is the verdict.
pub fn print(sum: &Sum, elapsed_s: f64) {
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
    let rate = sum.histories as f64 / elapsed_s.max(0.001);
    println!("speed        {rate:.1} histories/s");
    println!(
        "swarm: {} histories, {} failed",
        sum.histories,
        sum.failures.len()
    );
}

fn print_failure(failure: &Failure) {
    println!();
    for line in super::tail_of(failure.seed) {
        println!("  {line}");
    }
    println!(
        "FAILED seed {} at event {}: {}",
        failure.seed, failure.event, failure.breach
    );
    println!(
        "replay: cargo swarm --seed {} --histories 1 --trace",
        failure.seed
    );
}
