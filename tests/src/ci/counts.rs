//! What a runner printed, turned into counts. Pure.

use std::fmt;

/// How many tests passed, failed and were left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ran and were right.
    pub passed: u64,
    /// Ran and were wrong, or could not run although they had to.
    pub failed: u64,
    /// Did not run.
    pub skipped: u64,
}

impl Counts {
    /// One passed check.
    pub const PASS: Self = Self {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
    /// One failed check.
    pub const FAIL: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
    };
    /// One check left out.
    pub const SKIP: Self = Self {
        passed: 0,
        failed: 0,
        skipped: 1,
    };

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }

    const fn executed(self) -> u64 {
        self.passed + self.failed
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// What has to be true of a finished command, and where its counts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Ends with 0: one check.
    Success,
    /// Ends with 0 and prints no line whose first word is one of these: one check.
    NoneOf(&'static [&'static str]),
    /// Ends with an error of its own and prints a line that names a block by number: one check.
    /// A time-out or a signal is not such an end.
    FailureNamingBlock,
    /// Prints the summary lines of Rust's test harness.
    RustTests,
    /// Prints `swarm: N histories, F failed` last.
    Swarm,
    /// Prints `K of N mutants killed` last: a mutant that survives is a failure.
    Kills,
    /// A run of libFuzzer that ends with 0 and has executed something: one check.
    Fuzz,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Status(i32),
    /// Killed by a signal.
    Signal,
    /// Killed because it ran out of time.
    TimeOut,
}

/// The counts of one command and, if something is wrong, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// At least one check passed or failed.
    pub counts: Counts,
    /// For a person.
    pub reason: Option<String>,
}

impl Verdict {
    fn failed(reason: impl Into<String>) -> Self {
        Self {
            counts: Counts::FAIL,
            reason: Some(reason.into()),
        }
    }

    const fn passed() -> Self {
        Self {
            counts: Counts::PASS,
            reason: None,
        }
    }
}

/// Judges one finished command by its end and its output.
pub fn judge(expect: Expect, end: End, output: &str) -> Verdict {
    match expect {
        Expect::Success => match end {
            End::Status(0) => Verdict::passed(),
            bad @ (End::Status(_) | End::Signal | End::TimeOut) => Verdict::failed(ended(bad)),
        },
        Expect::NoneOf(words) => {
            let is_bad = |line: &&str| line.split(' ').next().is_some_and(|w| words.contains(&w));
            match output.lines().find(is_bad) {
                Some(line) => Verdict::failed(format!("must not be there: {line}")),
                None => judge(Expect::Success, end, output),
            }
        }
        Expect::FailureNamingBlock => failure_naming_block(end, output),
        Expect::RustTests => counted(rust_tests(output), end),
        Expect::Swarm => believed(swarm(output), "`swarm: N histories, F failed`", end),
        Expect::Fuzz => fuzz(end, output),
        Expect::Kills => believed(kills(output), "`K of N mutants killed`", end),
    }
}

fn failure_naming_block(end: End, output: &str) -> Verdict {
    match end {
        End::Status(0) => Verdict::failed("it passed, and had to fail"),
        End::Signal | End::TimeOut => Verdict::failed(ended(end)),
        End::Status(_) if output.lines().any(names_block) => Verdict::passed(),
        End::Status(_) => Verdict::failed("it failed without naming a block"),
    }
}

fn believed(counts: Option<Counts>, line: &str, end: End) -> Verdict {
    match counts {
        Some(counts) => counted(counts, end),
        None => Verdict::failed(format!("no line {line}; {}", ended(end))),
    }
}

/// Counts that a runner printed are believed, but not against its exit status, and not if there
/// are none.
fn counted(counts: Counts, end: End) -> Verdict {
    if end != End::Status(0) && counts.failed == 0 {
        let reason = format!("{} without a failed test", ended(end));
        return Verdict {
            counts: counts.plus(Counts::FAIL),
            reason: Some(reason),
        };
    }
    if counts.executed() == 0 {
        let reason = Some("no test ran".to_owned());
        return Verdict {
            counts: counts.plus(Counts::FAIL),
            reason,
        };
    }
    let reason = (counts.failed > 0).then(|| format!("{} failed", counts.failed));
    Verdict { counts, reason }
}

/// Sums the `test result:` lines. A sentinel that passed is no test.
fn rust_tests(output: &str) -> Counts {
    let sum = output
        .lines()
        .filter_map(rust_result)
        .fold(Counts::default(), Counts::plus);
    let is_sentinel =
        |line: &&str| line.starts_with("test ") && line.ends_with("injected_failure ... ok");
    let sentinels = output.lines().filter(is_sentinel).count() as u64;
    Counts {
        passed: sum.passed.saturating_sub(sentinels),
        ..sum
    }
}

fn rust_result(line: &str) -> Option<Counts> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |word: &str| {
        let part = numbers
            .split("; ")
            .find_map(|part| part.strip_suffix(word))?;
        part.trim().parse::<u64>().ok()
    };
    let (passed, failed, skipped) = (number("passed")?, number("failed")?, number("ignored")?);
    Some(Counts {
        passed,
        failed,
        skipped,
    })
}

fn swarm(output: &str) -> Option<Counts> {
    let rest = output
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("swarm: "))?;
    let (histories, failed) = rest.split_once(" histories, ")?;
    let histories: u64 = histories.parse().ok()?;
    let failed: u64 = failed.strip_suffix(" failed")?.parse().ok()?;
    let passed = histories.checked_sub(failed)?;
    Some(Counts {
        passed,
        failed,
        skipped: 0,
    })
}

fn kills(output: &str) -> Option<Counts> {
    let rest = output
        .lines()
        .rev()
        .find_map(|line| line.strip_suffix(" mutants killed"))?;
    let (killed, all) = rest.split_once(" of ")?;
    let passed: u64 = killed.trim().parse().ok()?;
    let failed = all.parse::<u64>().ok()?.checked_sub(passed)?;
    Some(Counts {
        passed,
        failed,
        skipped: 0,
    })
}

fn fuzz(end: End, output: &str) -> Verdict {
    match (end, fuzzing(output)) {
        (
            End::Status(0),
            Some(Fuzzing {
                executions: 1.., ..
            }),
        ) => Verdict::passed(),
        (End::Status(0), _) => Verdict::failed("nothing was executed"),
        (bad, _) => Verdict::failed(ended(bad)),
    }
}

/// What a run of libFuzzer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fuzzing {
    /// Inputs that were run.
    pub executions: u64,
    /// Edges of the program that no seed had reached.
    pub new_edges: u64,
}

impl fmt::Display for Fuzzing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            executions,
            new_edges,
        } = self;
        write!(f, "{executions} executions, {new_edges} new edges")
    }
}

/// Reads the statistics of libFuzzer (`-print_final_stats=1`), if they are there.
#[must_use]
pub fn fuzzing(output: &str) -> Option<Fuzzing> {
    let executions = output
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    let edges = |word: &str| -> Option<u64> {
        let line = output
            .lines()
            .rev()
            .find(|line| line.starts_with('#') && line.split_whitespace().nth(1) == Some(word))?;
        let (_, after) = line.split_once(" cov: ")?;
        after.split_whitespace().next()?.parse().ok()
    };
    Some(Fuzzing {
        executions: executions.trim().parse().ok()?,
        new_edges: edges("DONE")?.saturating_sub(edges("INITED")?),
    })
}

fn names_block(line: &str) -> bool {
    let lower = line.to_lowercase();
    lower.split("block").skip(1).any(|after| {
        after
            .trim_start_matches([' ', '=', ':', '#'])
            .starts_with(|c: char| c.is_ascii_digit())
    })
}

fn ended(end: End) -> String {
    match end {
        End::Status(status) => format!("it ended with status {status}"),
        End::Signal => "it was killed by a signal".to_owned(),
        End::TimeOut => "it ran out of time".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: End = End::Status(0);

    fn counts(passed: u64, failed: u64, skipped: u64) -> Counts {
        Counts {
            passed,
            failed,
            skipped,
        }
    }

    fn result_line(passed: u64, failed: u64, skipped: u64) -> String {
        let word = if failed == 0 { "ok" } else { "FAILED" };
        format!(
            "test result: {word}. {passed} passed; {failed} failed; {skipped} ignored; \
             0 measured; 3 filtered out; finished in 0.02s"
        )
    }

    #[test]
    fn rust_tests_are_summed_over_all_binaries() {
        let output = [
            "running 6 tests",
            "test engine::acks_wait ... ok",
            &result_line(5, 0, 1),
            "     Running tests/other.rs",
            &result_line(2, 0, 0),
        ];
        let verdict = judge(Expect::RustTests, OK, &output.join("\n"));
        assert_eq!(
            verdict,
            Verdict {
                counts: counts(7, 0, 1),
                reason: None
            }
        );
    }

    #[test]
    fn a_sentinel_is_not_counted_and_alone_is_not_enough() {
        let sentinel = "test ci::tests::injected_failure ... ok";
        let with_another = format!("{sentinel}\ntest a ... ok\n{}", result_line(2, 0, 0));
        assert_eq!(
            judge(Expect::RustTests, OK, &with_another).counts,
            counts(1, 0, 0)
        );
        let alone = format!("{sentinel}\n{}", result_line(1, 0, 0));
        let verdict = judge(Expect::RustTests, OK, &alone);
        assert_eq!(verdict.counts, counts(0, 1, 0));
        assert_eq!(verdict.reason.as_deref(), Some("no test ran"));
    }

    #[test]
    fn a_fuzzer_has_executed_something() {
        let output = |executions: &str| {
            format!(
                "#40\tINITED cov: 1570 ft: 2410 corp: 38/20Kb\n\
                 #99\tNEW    cov: 1571 ft: 2411 corp: 39/20Kb\n\
                 #563728\tDONE   cov: 2329 ft: 6609 corp: 821/1373Kb\n\
                 stat::number_of_executed_units: {executions}\n\
                 stat::new_units_added:          3202\n"
            )
        };
        let verdict = judge(Expect::Fuzz, OK, &output("563728"));
        assert_eq!(verdict.counts, Counts::PASS);
        let told = fuzzing(&output("563728")).expect("it is there").to_string();
        assert_eq!(told, "563728 executions, 759 new edges");
        for (end, output) in [
            (OK, output("0")),
            (OK, String::new()),
            (End::Status(77), output("12")),
            (End::Signal, output("12")),
        ] {
            assert_eq!(judge(Expect::Fuzz, end, &output).counts, Counts::FAIL);
        }
    }

    #[test]
    fn a_failed_test_fails_the_step() {
        let output = format!(
            "test sentinel::injected_failure ... FAILED\n{}",
            result_line(9, 1, 0)
        );
        let verdict = judge(Expect::RustTests, End::Status(101), &output);
        assert_eq!(verdict.counts, counts(9, 1, 0));
        assert!(verdict.reason.is_some());
    }

    #[test]
    fn a_build_error_or_a_crash_is_a_failure_although_no_test_failed() {
        let verdict = judge(
            Expect::RustTests,
            End::Status(101),
            "error: could not compile",
        );
        assert_eq!(verdict.counts, counts(0, 1, 0));
        let crashed = judge(Expect::RustTests, End::Signal, &result_line(3, 0, 0));
        assert_eq!(crashed.counts, counts(3, 1, 0));
        assert_eq!(
            judge(Expect::RustTests, End::TimeOut, "").counts,
            counts(0, 1, 0)
        );
    }

    #[test]
    fn zero_tests_are_a_failure() {
        assert_eq!(
            judge(Expect::RustTests, OK, &result_line(0, 0, 4)).counts,
            counts(0, 1, 4)
        );
        assert_eq!(judge(Expect::RustTests, OK, "").counts, counts(0, 1, 0));
    }

    #[test]
    fn the_swarm_is_counted_from_its_last_line() {
        let good = judge(
            Expect::Swarm,
            OK,
            "seed 1\nswarm: 2000 histories, 0 failed\n",
        );
        assert_eq!(good.counts, counts(2000, 0, 0));
        let bad = judge(
            Expect::Swarm,
            End::Status(1),
            "swarm: 2000 histories, 3 failed",
        );
        assert_eq!(bad.counts, counts(1997, 3, 0));
        for output in ["", "swarm: many histories", "swarm: 1 histories, 2 failed"] {
            assert_eq!(
                judge(Expect::Swarm, OK, output).counts,
                counts(0, 1, 0),
                "{output}"
            );
        }
        let none = judge(Expect::Swarm, OK, "swarm: 0 histories, 0 failed");
        assert_eq!(none.counts, counts(0, 1, 0));
        let status = judge(
            Expect::Swarm,
            End::Status(1),
            "swarm: 10 histories, 0 failed",
        );
        assert_eq!(status.counts, counts(10, 1, 0));
    }

    #[test]
    fn a_surviving_mutant_is_a_failure() {
        let all = judge(
            Expect::Kills,
            OK,
            "drop-ack killed by R4\n18 of 18 mutants killed\n",
        );
        assert_eq!(
            all,
            Verdict {
                counts: counts(18, 0, 0),
                reason: None
            }
        );
        let survivor = judge(Expect::Kills, End::Status(1), "17 of 18 mutants killed");
        assert_eq!(survivor.counts, counts(17, 1, 0));
        for output in ["", "0 of 0 mutants killed", "3 of 2 mutants killed"] {
            assert_eq!(
                judge(Expect::Kills, OK, output).counts,
                counts(0, 1, 0),
                "{output}"
            );
        }
    }

    #[test]
    fn a_check_passes_by_its_exit_status() {
        assert_eq!(judge(Expect::Success, OK, "").counts, Counts::PASS);
        for end in [End::Status(1), End::Signal, End::TimeOut] {
            assert_eq!(judge(Expect::Success, end, "").counts, Counts::FAIL);
        }
    }

    #[test]
    fn a_forbidden_word_fails_a_check() {
        let expect = Expect::NoneOf(&["mio", "tokio"]);
        assert_eq!(
            judge(expect, OK, "ha v0.1.0\nbytes v1.12.1\n").counts,
            Counts::PASS
        );
        assert_eq!(
            judge(expect, OK, "ha v0.1.0\ntokio v1.54.0\n").counts,
            Counts::FAIL
        );
        let longer = "ha v0.1.0\ntokio-free v1.0.0\n";
        assert_eq!(judge(expect, OK, longer).counts, Counts::PASS);
        assert_eq!(judge(expect, End::Status(101), "").counts, Counts::FAIL);
    }

    #[test]
    fn sabotage_has_to_fail_by_naming_a_block() {
        let expect = Expect::FailureNamingBlock;
        for line in [
            "lost block 4711 (version 3)",
            "block=12 is gone",
            "Block #7: old",
        ] {
            assert_eq!(
                judge(expect, End::Status(1), line).counts,
                Counts::PASS,
                "{line}"
            );
        }
        for line in [
            "",
            "no block was lost",
            "12 blocks read",
            "error: could not compile",
        ] {
            assert_eq!(
                judge(expect, End::Status(1), line).counts,
                Counts::FAIL,
                "{line}"
            );
        }
        assert_eq!(judge(expect, OK, "lost block 4711").counts, Counts::FAIL);
        assert_eq!(
            judge(expect, End::TimeOut, "lost block 4711").counts,
            Counts::FAIL
        );
        assert_eq!(
            judge(expect, End::Signal, "lost block 4711").counts,
            Counts::FAIL
        );
    }
}
