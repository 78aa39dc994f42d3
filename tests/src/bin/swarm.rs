//! `cargo swarm [--seed S] [--histories N] [--mutants] [--trace] [--jobs J]`: the simulator.

use std::process::ExitCode;

use clap::Parser;
use tests::swarm::{self, FailFast, Plan, report};

/// Runs histories of two boxes and a witness under faults, and checks every promise.
#[derive(Debug, Parser)]
#[command(name = "swarm")]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many histories, from the seed on.
    #[arg(long, default_value_t = 1000)]
    histories: u64,
    /// Run the kill table instead: every mutant must be noticed.
    #[arg(long)]
    mutants: bool,
    /// Run every history with this mutant.
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "NAME", conflicts_with = "mutants")]
    mutant: Option<String>,
    /// Print the whole trace of the first history.
    #[arg(long)]
    trace: bool,
    /// Stop at the first failure.
    #[arg(long)]
    fail_fast: bool,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().collect();
    // `cargo swarm -- --seed 1` hands the separator on
    if words.get(1).is_some_and(|first| first == "--") {
        words.remove(1);
    }
    let arguments = Arguments::parse_from(words);
    #[cfg(feature = "mutants")]
    if let Some(Err(unknown)) = arguments
        .mutant
        .as_deref()
        .map(appliance::wiring::choose_mutant)
    {
        eprintln!("swarm: {unknown}");
        return ExitCode::from(2);
    }
    if arguments.trace {
        print_trace(arguments.seed);
    }
    if arguments.mutants {
        return swarm::kills::run(arguments.seed, arguments.histories, arguments.jobs);
    }
    let fail_fast = if arguments.fail_fast {
        FailFast::Yes
    } else {
        FailFast::No
    };
    let Arguments {
        seed,
        histories,
        jobs,
        ..
    } = arguments;
    #[expect(clippy::disallowed_methods, reason = "a runner measures its own speed")]
    let start = std::time::SystemTime::now();
    let sum = swarm::run(Plan {
        seed,
        histories,
        jobs,
        fail_fast,
    });
    let elapsed_s = start.elapsed().map_or(0.0, |elapsed| elapsed.as_secs_f64());
    report::print(&sum, elapsed_s);
    if sum.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn print_trace(seed: u64) {
    let (lines, fingerprint) = match swarm::run_traced(seed, usize::MAX) {
        Ok(report) => {
            let lines = report.trace.lines().map(str::to_owned).collect();
            (lines, format!("fingerprint {:016x}", report.fingerprint))
        }
        Err(failure) => (
            failure.tail,
            format!("event {}: {}", failure.event, failure.breach),
        ),
    };
    for line in lines {
        println!("{line}");
    }
    println!("{fingerprint}");
}
