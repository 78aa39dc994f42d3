//! Runs the commands of a stage, with everything they print in one log.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::Context;

use super::counts::{Counts, End, Expect, fuzzing, judge};
use super::failures::failures;
use super::packages;
use super::stage::{Stage, Step};
use super::{INJECT_VARIABLE, Plan};

/// What a stage came to.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Its name.
    pub stage: &'static str,
    /// How long it took.
    pub seconds: f64,
    /// The sum over its steps.
    pub counts: Counts,
}

/// Runs one stage, prints how it went and, if a step failed, which tests did and the end of
/// the log.
pub fn run_stage(stage: &Stage, plan: &Plan) -> Report {
    println!("==> {}", stage.name);
    // the line is to be seen before a long silence
    let _ = std::io::stdout().flush();
    let started = now();
    let counts = match packages::provide(stage.packages) {
        Ok(()) => run_steps(stage, plan),
        Err(remedy) => {
            println!("    skipped, packages are missing: {remedy}");
            Counts::SKIP
        }
    };
    let seconds = (now() - started).as_secs_f64();
    println!("    {}: {counts} in {seconds:.1} s", stage.name);
    Report {
        stage: stage.name,
        seconds,
        counts,
    }
}

fn run_steps(stage: &Stage, plan: &Plan) -> Counts {
    let log = plan.target.join("ci").join(format!("{}.log", stage.name));
    let mut counts = Counts::default();
    for (index, step) in (stage.steps)(plan).iter().enumerate() {
        let begin = if index == 0 {
            Begin::Anew
        } else {
            Begin::After
        };
        match run_step(step, plan, &log, begin) {
            Ok((end, output)) => {
                let verdict = judge(step.expect, end, &output);
                counts = counts.plus(verdict.counts);
                if step.expect == Expect::Fuzz
                    && let Some(fuzzing) = fuzzing(&output)
                {
                    println!("    {fuzzing}");
                }
                if let Some(reason) = verdict.reason {
                    println!(
                        "    FAILED: {}\n    {reason}; {}",
                        shown(step),
                        log.display()
                    );
                    if step.expect == Expect::RustTests {
                        println!("{}", quoted(failures(&output)));
                    }
                    println!("{}", tail(&output));
                }
            }
            Err(error) => {
                println!("    FAILED: {}\n    {error:#}", shown(step));
                counts = counts.plus(Counts::FAIL);
            }
        }
    }
    counts
}

#[derive(Clone, Copy)]
enum Begin {
    Anew,
    After,
}

/// Runs a command under `timeout`, which puts it into a process group of its own and ends all of
/// it: a hung test must not keep a port that the next stage needs. That group does not get the
/// terminal's Ctrl-C, so `setpriv` has the kernel pass on the end of this process.
fn run_step(step: &Step, plan: &Plan, log: &Path, begin: Begin) -> anyhow::Result<(End, String)> {
    let named = || format!("cannot write {}", log.display());
    fs::create_dir_all(log.parent().unwrap_or(log)).with_context(named)?;
    let mut file = match begin {
        Begin::Anew => File::create(log),
        Begin::After => File::options().append(true).open(log),
    }
    .with_context(named)?;
    writeln!(file, "$ {}", shown(step)).with_context(named)?;
    let start = usize::try_from(file.metadata().with_context(named)?.len())?;
    let output = File::options().append(true).open(log).with_context(named)?;

    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "TERM", "timeout", "--kill-after=10"])
        .arg(step.limit_s.to_string())
        .args(&step.command)
        .current_dir(&plan.repository)
        .env("PATH", packages::search_path())
        .env("CARGO_TERM_COLOR", "never")
        .env("TERM", "dumb")
        .env_remove(INJECT_VARIABLE)
        .stdin(Stdio::null())
        .stdout(output.try_clone().with_context(named)?)
        .stderr(output);
    if let Some(stage) = &plan.inject_failure {
        command.env(INJECT_VARIABLE, stage);
    }
    let status = command
        .status()
        .context("cannot run setpriv (package util-linux)")?;
    let bytes = fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
    let text = String::from_utf8_lossy(bytes.get(start..).unwrap_or_default()).into_owned();
    Ok((end(status), text))
}

fn end(status: ExitStatus) -> End {
    match status.code() {
        // as timeout documents: 124, or 137 if it had to kill
        Some(124 | 137) => End::TimeOut,
        Some(code) if code > 128 => End::Signal,
        Some(code) => End::Status(code),
        None => End::Signal,
    }
}

fn shown(step: &Step) -> String {
    let mut words = step.command.clone();
    if let Some(program) = words.first_mut() {
        *program = Path::new(program)
            .file_name()
            .unwrap_or_default()
            .display()
            .to_string();
    }
    words.join(" ")
}

fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    quoted(&lines[lines.len().saturating_sub(TAIL_LINES)..])
}

fn quoted(lines: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    let lines = lines.into_iter().map(|line| format!("    | {line}"));
    lines.collect::<Vec<_>>().join("\n")
}

#[expect(
    clippy::disallowed_methods,
    reason = "the seconds of a stage are for people"
)]
pub(super) fn now() -> Instant {
    Instant::now()
}

const TAIL_LINES: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ci::run_all;
    use crate::ci::stage::Tier;

    fn plan(name: &str) -> Plan {
        let target = std::env::temp_dir().join(format!("twinsan-{name}-{}", std::process::id()));
        let repository = std::env::temp_dir();
        Plan {
            tier: Tier::Quick,
            inject_failure: Some("demo".to_owned()),
            repository,
            target,
        }
    }

    fn shell(script: &str, expect: Expect) -> Step {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        Step {
            command,
            expect,
            limit_s: 1,
        }
    }

    fn two_steps(_: &Plan) -> Vec<Step> {
        let sentinel = format!("echo out; echo err >&2; test \"${INJECT_VARIABLE}\" = demo");
        vec![
            shell("echo first; exit 3", Expect::Success),
            shell(&sentinel, Expect::Success),
        ]
    }

    fn hang(_: &Plan) -> Vec<Step> {
        vec![shell("sleep 60", Expect::Success)]
    }

    fn missing_program(_: &Plan) -> Vec<Step> {
        vec![Step {
            command: vec!["no-such-program".to_owned()],
            ..hang(&plan("none"))[0].clone()
        }]
    }

    fn run(name: &'static str, steps: fn(&Plan) -> Vec<Step>) -> (Counts, String) {
        let plan = plan(name);
        let stage = Stage {
            name,
            tier: Tier::Quick,
            at_leisure: false,
            packages: &[],
            steps,
        };
        let report = run_stage(&stage, &plan);
        let log = fs::read_to_string(plan.target.join(format!("ci/{name}.log"))).unwrap();
        fs::remove_dir_all(plan.target).unwrap();
        (report.counts, log)
    }

    #[test]
    fn a_failed_step_does_not_stop_the_next_and_all_output_is_in_the_log() {
        let (counts, log) = run("two", two_steps);
        assert_eq!(
            counts,
            Counts {
                passed: 1,
                failed: 1,
                skipped: 0
            }
        );
        for line in ["$ sh -c echo first; exit 3\nfirst\n", "out\n", "err\n"] {
            assert!(log.contains(line), "{log}");
        }
    }

    fn waits_for_the_next(plan: &Plan) -> Vec<Step> {
        let sign = plan.target.join("sign");
        let script = format!("until [ -e {} ]; do sleep 0.02; done", sign.display());
        vec![Step {
            limit_s: 30,
            ..shell(&script, Expect::Success)
        }]
    }

    fn gives_a_sign(plan: &Plan) -> Vec<Step> {
        let sign = plan.target.join("sign");
        vec![shell(&format!("touch {}", sign.display()), Expect::Success)]
    }

    #[test]
    fn a_stage_at_leisure_runs_beside_the_next() {
        let plan = plan("leisure");
        let stage = |name, at_leisure, steps| Stage {
            name,
            tier: Tier::Quick,
            at_leisure,
            packages: &[],
            steps,
        };
        let stages = [
            stage("slow", true, waits_for_the_next),
            stage("next", false, gives_a_sign),
            stage("last", false, gives_a_sign),
        ];
        let reports = run_all(&stages.each_ref(), &plan);
        fs::remove_dir_all(plan.target).unwrap();
        let names: Vec<&str> = reports.iter().map(|report| report.stage).collect();
        assert_eq!(names, ["next", "slow", "last"]);
        assert!(reports.iter().all(|report| report.counts.failed == 0));
    }

    #[test]
    fn a_hanging_step_is_ended_and_fails() {
        assert_eq!(run("hang", hang).0, Counts::FAIL);
    }

    #[test]
    fn a_missing_program_fails_its_step() {
        assert_eq!(run("missing", missing_program).0, Counts::FAIL);
    }

    #[test]
    fn the_end_of_a_long_log_is_shown() {
        let long: Vec<String> = (0..100).map(|n| format!("line {n}")).collect();
        let shown = tail(&long.join("\n"));
        assert_eq!(shown.lines().count(), TAIL_LINES);
        assert!(shown.ends_with("| line 99"));
    }
}
