//! `cargo ci`: every check of the repository, as a table of stages, with one count at the end.
//!
//! A stage that fails does not stop the later ones. What a stage ran and printed is in
//! `target/ci/STAGE.log`; its counts come from the runner itself and never from a constant. A
//! stage that ran nothing has failed, and on a build server (`CI=true`) so has a skipped one.

pub mod counts;
pub mod failures;
pub mod packages;
pub mod runner;
pub mod stage;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::ScopedJoinHandle;

use clap::Parser;

use self::counts::Counts;
use self::runner::Report;
use self::stage::{STAGES, Stage, Tier};

/// Name of the environment variable that holds the stage whose sentinel test is to fail.
pub const INJECT_VARIABLE: &str = "TWINSAN_INJECT_FAILURE";

/// The sentinel: every test runner of a stage has one test that calls this. It passes, unless
/// `cargo ci -- --inject-failure STAGE` asks to be shown that the stage can fail.
pub fn assert_no_injected_failure(stage: &str) {
    let wanted = std::env::var(INJECT_VARIABLE).unwrap_or_default();
    assert!(
        wanted != stage,
        "this failure of stage {stage} was asked for"
    );
}

/// All checks of the repository.
#[derive(Clone, Debug, Parser)]
#[command(name = "ci")]
pub struct Options {
    /// Format, lints, unit tests, 2,000 histories, demo.
    #[arg(long, conflicts_with = "long")]
    pub quick: bool,
    /// Everything, with more histories.
    #[arg(long)]
    pub long: bool,
    /// Run this stage alone; can be repeated.
    #[arg(long, value_name = "STAGE", value_parser = stage_name)]
    pub only: Vec<String>,
    /// Make this stage fail on purpose, to see that it can.
    #[arg(long, value_name = "STAGE", value_parser = stage_name)]
    pub inject_failure: Option<String>,
    /// Print the stages and stop.
    #[arg(long)]
    pub list: bool,
}

impl Options {
    /// Which stages by default, and how many histories.
    pub fn tier(&self) -> Tier {
        match (self.quick, self.long) {
            (true, _) => Tier::Quick,
            (false, true) => Tier::Long,
            (false, false) => Tier::Plain,
        }
    }

    /// The stages to run, in the order of the table. A stage named with `--only` runs in any
    /// tier; naming one for a failure alone does not add it.
    pub fn chosen(&self) -> Vec<&'static Stage> {
        let named = |stage: &&Stage| self.only.iter().any(|name| name == stage.name);
        let tier = self.tier();
        STAGES
            .iter()
            .filter(|s| {
                if self.only.is_empty() {
                    s.tier <= tier
                } else {
                    named(s)
                }
            })
            .collect()
    }
}

/// What the steps of a stage may depend on.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How much of everything.
    pub tier: Tier,
    /// The stage that has to fail, if any.
    pub inject_failure: Option<String>,
    /// Root of the repository.
    pub repository: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
}

impl Plan {
    /// Whether `stage` was asked to fail.
    pub fn injects(&self, stage: &str) -> bool {
        self.inject_failure.as_deref() == Some(stage)
    }
}

/// Runs the chosen stages and prints the summary; the last line is `N passed, N failed, N skipped`.
pub fn run(options: &Options) -> ExitCode {
    if options.list {
        for stage in STAGES {
            println!("{:12} {:?}", stage.name, stage.tier);
        }
        return ExitCode::SUCCESS;
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let repository = repository.canonicalize().unwrap_or(repository);
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| repository.join("target"), |dir| repository.join(dir));
    let inject_failure = options.inject_failure.clone();
    let plan = Plan {
        tier: options.tier(),
        inject_failure,
        repository,
        target,
    };
    let watch = runner::now();
    let reports = run_all(&options.chosen(), &plan);
    let wall_s = (runner::now() - watch).as_secs_f64();
    let in_ci = matches!(std::env::var("CI").as_deref(), Ok("true" | "1"));
    println!();
    for line in summary(&reports, wall_s) {
        println!("{line}");
    }
    if is_good(&reports, Skips::from_ci(in_ci)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// One stage after the other, but that one at leisure does not hold up the next.
fn run_all(stages: &[&Stage], plan: &Plan) -> Vec<Report> {
    std::thread::scope(|scope| {
        let mut reports = Vec::new();
        let mut at_leisure = None;
        for stage in stages.iter().copied() {
            if stage.at_leisure && at_leisure.is_none() {
                at_leisure = Some(scope.spawn(|| runner::run_stage(stage, plan)));
                continue;
            }
            reports.push(runner::run_stage(stage, plan));
            reports.extend(at_leisure.take().map(joined));
        }
        reports.extend(at_leisure.map(joined));
        reports
    })
}

fn joined(stage: ScopedJoinHandle<'_, Report>) -> Report {
    stage.join().expect("a stage reports its failures")
}

/// Whether a skip is acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skips {
    /// On a developer's machine.
    Allowed,
    /// On a build server, which has everything.
    Fail,
}

impl Skips {
    fn from_ci(in_ci: bool) -> Self {
        if in_ci { Self::Fail } else { Self::Allowed }
    }
}

/// The verdict over all stages. Nothing run is not good.
pub fn is_good(reports: &[Report], skips: Skips) -> bool {
    let total = total(reports);
    let skips_are_fine = total.skipped == 0 || skips == Skips::Allowed;
    total.failed == 0 && total.passed > 0 && skips_are_fine
}

fn total(reports: &[Report]) -> Counts {
    reports
        .iter()
        .map(|r| r.counts)
        .fold(Counts::default(), Counts::plus)
}

fn summary(reports: &[Report], wall_s: f64) -> Vec<String> {
    let row = |r: &Report| format!("{:12} {:7.1} s   {}", r.stage, r.seconds, r.counts);
    let mut lines: Vec<String> = reports.iter().map(row).collect();
    lines.push(format!("{:12} {wall_s:7.1} s", "all"));
    lines.push(total(reports).to_string());
    lines
}

fn stage_name(name: &str) -> Result<String, String> {
    if STAGES.iter().any(|stage| stage.name == name) {
        return Ok(name.to_owned());
    }
    let names: Vec<&str> = STAGES.iter().map(|stage| stage.name).collect();
    Err(format!(
        "no such stage, the stages are {}",
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Result<Options, clap::Error> {
        Options::try_parse_from(["ci"].iter().chain(arguments))
    }

    fn chosen(arguments: &[&str]) -> Vec<&'static str> {
        options(arguments)
            .unwrap()
            .chosen()
            .iter()
            .map(|stage| stage.name)
            .collect()
    }

    fn report(passed: u64, failed: u64, skipped: u64) -> Report {
        let counts = Counts {
            passed,
            failed,
            skipped,
        };
        Report {
            stage: "unit",
            seconds: 1.25,
            counts,
        }
    }

    #[test]
    fn the_tiers_choose_their_stages() {
        let quick = ["format", "lints", "unit", "swarm", "demo"];
        let early = ["format", "lints", "unit", "hostile", "swarm", "demo"];
        assert_eq!(chosen(&["--quick"]), quick);
        let plain = [
            &early[..],
            &[
                "fuzz",
                "image",
                "conformance",
                "program",
                "cluster",
                "qemu",
                "mutants",
            ],
        ]
        .concat();
        assert_eq!(chosen(&[]), plain);
        assert_eq!(chosen(&["--long"]), plain);
    }

    #[test]
    fn a_named_stage_runs_alone_in_any_tier() {
        assert_eq!(chosen(&["--only", "qemu"]), ["qemu"]);
        assert_eq!(
            chosen(&["--quick", "--only", "qemu", "--only", "format"]),
            ["format", "qemu"]
        );
        assert_eq!(
            chosen(&["--quick", "--inject-failure", "qemu"]),
            chosen(&["--quick"])
        );
    }

    #[test]
    fn unknown_stages_and_two_tiers_are_usage_errors() {
        let unknown = options(&["--only", "everything"]).unwrap_err().to_string();
        assert!(
            unknown.contains("the stages are format, lints"),
            "{unknown}"
        );
        assert!(options(&["--quick", "--long"]).is_err());
    }

    #[test]
    fn one_failure_makes_the_run_bad() {
        assert!(is_good(&[report(5, 0, 0), report(1, 0, 0)], Skips::Fail));
        assert!(!is_good(
            &[report(5, 0, 0), report(400, 1, 0)],
            Skips::Allowed
        ));
    }

    #[test]
    fn a_skip_is_bad_on_a_build_server_only() {
        assert!(is_good(&[report(5, 0, 1)], Skips::Allowed));
        assert!(!is_good(&[report(5, 0, 1)], Skips::Fail));
    }

    #[test]
    fn nothing_run_is_bad() {
        assert!(!is_good(&[], Skips::Allowed));
        assert!(!is_good(&[report(0, 0, 3)], Skips::Allowed));
    }

    #[test]
    fn the_summary_ends_with_the_plain_count() {
        let lines = summary(&[report(5, 0, 1), report(7, 2, 0)], 2.0);
        assert_eq!(
            lines[0],
            "unit             1.2 s   5 passed, 0 failed, 1 skipped"
        );
        assert_eq!(lines[2], "all              2.0 s");
        assert_eq!(lines.last().unwrap(), "12 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn injected_failure() {
        assert_no_injected_failure("unit");
    }
}
