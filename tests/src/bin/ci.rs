//! `cargo ci [--quick | --long]`: see [`tests::ci`].

use std::process::ExitCode;

use clap::Parser;
use tests::ci::{self, Options};

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().collect();
    // `cargo ci -- --quick` hands the separator on
    if arguments.get(1).is_some_and(|first| first == "--") {
        arguments.remove(1);
    }
    ci::run(&Options::parse_from(arguments))
}
