//! The `twinsan` program.

use std::process::ExitCode;

use appliance::api::types::Refusal;
use appliance::cli::{Cli, LabArgs, PairVerb, Verb, WitnessVerb};
use appliance::{daemon, demo, first_process, init, pairing, runtime, verbs, witness};
use clap::Parser as _;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        return first_process::run();
    }
    // Cargo aliases pass one `--` of their own.
    let mut words: Vec<_> = std::env::args_os().collect();
    if words.get(2).is_some_and(|word| word == "--") {
        words.remove(2);
    }
    let cli = Cli::parse_from(words);
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            if cli.json {
                verbs::say(&verbs::json_of(&refusal));
            }
            eprintln!("twinsan: {refusal}");
            ExitCode::from(refusal.exit_code())
        }
    }
}

fn run(cli: &Cli) -> Result<(), Refusal> {
    match &cli.verb {
        Verb::Demo(args) => event_loop()?.block_on(demo::run(args, cli.json)),
        Verb::Init => {
            event_loop()?.block_on(init::run(cli.config()))?;
            verbs::done(
                cli.json,
                "done: this is the first box of a new pair; now start `twinsan run` here, and run \
                 `twinsan pair create` once for the other box and once for the witness",
            );
            Ok(())
        }
        Verb::Run(args) => daemon::run(cli.config(), lab(args.lab())),
        Verb::Pair(verb) => pair(cli, verb),
        Verb::Witness(args) => match &args.verb {
            None => {
                end_with_parent(args.end_with_parent);
                witness::run(cli.config())
            }
            Some(WitnessVerb::Join(args)) => {
                let joining = pairing::witness_join(cli.config(), args, cli.json);
                event_loop()?.block_on(joining)
            }
            Some(WitnessVerb::Leave { group }) => {
                pairing::witness_leave(cli.config(), *group, cli.json)
            }
        },
        Verb::Client(verb) => event_loop()?.block_on(verbs::run(cli, verb)),
    }
}

fn pair(cli: &Cli, verb: &PairVerb) -> Result<(), Refusal> {
    match verb {
        PairVerb::Create => event_loop()?.block_on(pairing::create(cli.config(), cli.json)),
        PairVerb::Join { args, yes } => {
            event_loop()?.block_on(pairing::join(cli.config(), args, *yes, cli.json))
        }
        PairVerb::Leave { yes } => pairing::leave(cli.config(), *yes, cli.json),
    }
}

fn lab(lab: &LabArgs) -> &LabArgs {
    end_with_parent(lab.end_with_parent);
    lab
}

/// So that no daemon of a demo or a test outlives it, however that ends.
fn end_with_parent(wanted: bool) {
    if wanted {
        let signal = nix::sys::signal::Signal::SIGKILL;
        nix::sys::prctl::set_pdeathsig(signal).expect("Linux has had this since 2.1.57");
    }
}

fn event_loop() -> Result<tokio::runtime::Runtime, Refusal> {
    runtime::event_loop().map_err(Refusal::failed)
}
