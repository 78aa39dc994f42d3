//! `cargo swarm [--seed S] [--histories N] [--minimise] [--record] [--mutants]`: the simulator.

use std::process::ExitCode;

use clap::Parser;
use tests::swarm::{self, FailFast, Plan, kills, minimise, record, report};
use tests::trim::{Plain, Trim};

/// How many histories if nothing is said.
const HISTORIES: u64 = 1000;

/// Runs histories of two boxes and a witness under faults, and checks every promise.
#[derive(Debug, Parser)]
#[command(name = "swarm")]
struct Arguments {
    /// The first seed; without a number of histories, the one that is replayed as a ladder.
    #[arg(long)]
    seed: Option<u64>,
    /// How many histories, from the seed on.
    #[arg(long)]
    histories: Option<u64>,
    /// Shorten the failing history of the seed as far as it still fails.
    #[arg(long, requires = "seed", conflicts_with_all = ["histories", "record", "mutants"])]
    minimise: bool,
    /// Add what was run to `docs/swarm.md`; with `--mutants` write `docs/mutants.md`.
    #[arg(long)]
    record: bool,
    /// Run the kill table instead: every mutant must be noticed.
    #[arg(long)]
    mutants: bool,
    /// Run every history with this mutant.
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "NAME", conflicts_with = "mutants")]
    mutant: Option<String>,
    /// Stop at the first failure.
    #[arg(long)]
    fail_fast: bool,
    /// Leave these faults out, by number, of the history that is replayed.
    #[arg(
        long,
        value_delimiter = ',',
        requires = "seed",
        conflicts_with = "histories"
    )]
    skip: Vec<u32>,
    /// Make these surroundings plain.
    #[arg(
        long,
        value_delimiter = ',',
        requires = "seed",
        conflicts_with = "histories"
    )]
    plain: Vec<Plain>,
    /// Send no more commands than that.
    #[arg(long, requires = "seed", conflicts_with = "histories")]
    commands: Option<u64>,
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
    if arguments.mutants {
        return kills::run(arguments.record, arguments.jobs);
    }
    let good = match arguments {
        Arguments {
            seed: Some(seed),
            histories: None,
            ..
        } => one(seed, arguments),
        Arguments { .. } => many(&arguments),
    };
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn one(seed: u64, arguments: Arguments) -> bool {
    let trim = Trim {
        skip: arguments.skip.into_iter().collect(),
        plain: arguments.plain.into_iter().collect(),
        commands: arguments.commands,
    };
    if !arguments.minimise {
        return report::replay(seed, &trim);
    }
    match minimise::minimise(seed, trim) {
        Some(shortest) => {
            minimise::print(seed, &shortest);
            false
        }
        None => {
            println!("seed {seed} passes: there is nothing to shorten");
            true
        }
    }
}

fn many(arguments: &Arguments) -> bool {
    let fail_fast = if arguments.fail_fast {
        FailFast::Yes
    } else {
        FailFast::No
    };
    let plan = Plan {
        seed: arguments.seed.unwrap_or(1),
        histories: arguments.histories.unwrap_or(HISTORIES),
        jobs: arguments.jobs,
        fail_fast,
    };
    #[expect(clippy::disallowed_methods, reason = "a runner measures its own speed")]
    let start = std::time::SystemTime::now();
    let sum = swarm::run(plan);
    let elapsed_s = start.elapsed().map_or(0.0, |elapsed| elapsed.as_secs_f64());
    let good = report::print(&sum, elapsed_s);
    if !arguments.record {
        return good;
    }
    match record::add(plan, &sum) {
        Ok(page) => {
            println!("{page} has one more piece");
            good
        }
        Err(why) => {
            eprintln!("swarm: {why}");
            false
        }
    }
}
