//! What libiscsi's `iscsi-test-cu` says of a target: verdicts, the table of all runs, and the page
//! that shows it beside other targets.
//!
//! CUnit counts a skipped test as passed, so its own count is not used: a test that says
//! `[SKIPPED]` after CUnit's banner is skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

/// What surrounds every suite clears reservations and says this where there are none to clear.
const NOISE: &str = "[SKIPPED] PERSISTENT RESERVE IN is not implemented.";
/// In these suites it is no noise.
const NO_NOISE: &str = "Prin";
/// Other targets, measured with the same tests.
const PEERS: &str = include_str!("../conformance/peers.tsv");

/// Tests that are wrong, and why.
const DEFECTS: [Defect; 2] = [
    Defect {
        test: "GetLBAStatus.UnmapSingle",
        fails_with: Some("lba offset in first descriptor does not \" \"match request."),
        why: "on a unit with several logical blocks in a physical one it asks for the block after \
              the first and expects the answer to begin with the next physical block; it has to \
              begin with the block that was asked for (SBC-3, GET LBA STATUS). It passes where \
              physical blocks are not larger",
    },
    Defect {
        test: "ReportSupportedOpcodes.OneCommand",
        fails_with: None,
        why: "it asks for what has to be refused with INVALID FIELD IN CDB, and takes that very \
              answer for a target without the command: whoever is right is skipped",
    },
];

/// A mistake of a test.
struct Defect {
    test: &'static str,
    /// The only assertion that fails, on some units.
    fails_with: Option<&'static str>,
    why: &'static str,
}

/// What became of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every assertion held.
    Pass,
    /// The target lacks something: what the test said.
    Skip(String),
    /// The test itself is wrong about such a unit.
    Defect,
    /// Something else than the standard says: the end of what was printed.
    Fail(String),
    /// It did not end, or it never began: what was printed.
    Hang(String),
}

impl Verdict {
    /// The verdict of a run of so many tests.
    #[must_use]
    pub fn of(test: &str, output: &str, tests: usize) -> Self {
        let Some((_, run)) = output.split_once("CUnit - A unit testing framework") else {
            return Self::Hang(output.to_owned());
        };
        let (Some(ran), Some(asserts)) = (summary(run, "tests"), summary(run, "asserts")) else {
            return Self::Hang(run.to_owned());
        };
        let failed_asserts = asserts.get(3).copied();
        if ran.get(1) == Some(&tests) && ran.get(3) == Some(&0) && failed_asserts == Some(0) {
            let skipped = run.lines().map(str::trim);
            let mut skipped = skipped.filter(|line| line.starts_with("[SKIPPED]"));
            let noise = !test.starts_with(NO_NOISE);
            return match skipped.find(|line| !(noise && *line == NOISE)) {
                Some(line) => Self::Skip(line.trim_start_matches("[SKIPPED]").trim().to_owned()),
                None => Self::Pass,
            };
        }
        let known = DEFECTS.iter().find(|defect| defect.test == test);
        match known.and_then(|defect| defect.fails_with) {
            Some(says) if failed_asserts == Some(1) && run.contains(says) => Self::Defect,
            Some(_) | None => Self::Fail(run.to_owned()),
        }
    }

    const fn word(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Skip(_) => "skip",
            Self::Defect => "defect of the test",
            Self::Fail(_) => "fail",
            Self::Hang(_) => "hang",
        }
    }

    fn is_bad(&self) -> bool {
        matches!(self, Self::Fail(_) | Self::Hang(_))
    }
}

/// Columns of CUnit's summary: total, ran, passed, failed, inactive.
fn summary(run: &str, kind: &str) -> Option<Vec<usize>> {
    let line = run
        .lines()
        .find(|line| line.split_whitespace().next() == Some(kind))?;
    let numbers = line.split_whitespace().skip(1);
    Some(numbers.map_while(|word| word.parse().ok()).collect())
}

/// All verdicts: by test (`SUITE.TEST`), then by set of units.
#[derive(Debug, Default)]
pub struct Results {
    tests: BTreeMap<String, BTreeMap<String, Verdict>>,
}

/// How many tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Passed on one set of units and failed on none.
    pub pass: usize,
    /// Failed on one.
    pub fail: usize,
    /// Neither.
    pub skip: usize,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.pass += other.pass;
        self.fail += other.fail;
        self.skip += other.skip;
    }
}

impl Results {
    /// Adds a verdict.
    ///
    /// # Panics
    /// If there is one already.
    pub fn add(&mut self, set: &str, test: &str, verdict: Verdict) {
        let sets = self.tests.entry(test.to_owned()).or_default();
        let earlier = sets.insert(set.to_owned(), verdict);
        assert!(earlier.is_none(), "{test} ran twice on {set}");
    }

    /// Adds what another run found.
    pub fn merge(&mut self, other: Self) {
        for (test, sets) in other.tests {
            for (set, verdict) in sets {
                self.add(&set, &test, verdict);
            }
        }
    }

    /// Everything that failed or hung, with what it printed.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let all = self
            .tests
            .iter()
            .flat_map(|(test, sets)| sets.iter().map(move |(set, verdict)| (test, set, verdict)));
        let bad = all.filter(|(.., verdict)| verdict.is_bad());
        bad.map(|(test, set, verdict)| {
            let said = match verdict {
                Verdict::Fail(said) | Verdict::Hang(said) => said.as_str(),
                Verdict::Pass | Verdict::Skip(_) | Verdict::Defect => "",
            };
            format!("{test} on {set}: {}\n{said}", verdict.word())
        })
        .collect()
    }

    /// Tests that come to something else on one set than on another.
    #[must_use]
    pub fn differences(&self, one: &str, other: &str) -> Vec<String> {
        let said = self.tests.iter().filter_map(|(test, sets)| {
            let (first, second) = (sets.get(one), sets.get(other));
            let word = |verdict: Option<&Verdict>| verdict.map_or("did not run", Verdict::word);
            (first.map(Verdict::word) != second.map(Verdict::word)).then(|| {
                let (first, second) = (word(first), word(second));
                format!("{test}: {first} on {one}, {second} on {other}")
            })
        });
        said.collect()
    }

    /// Tests that count.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for counts in self.suites().values() {
            sum.add(*counts);
        }
        sum
    }

    /// Tests that did not pass, with the reason that the first set of units was given.
    #[must_use]
    pub fn not_passed(&self) -> BTreeMap<String, String> {
        let reason = |sets: &BTreeMap<String, Verdict>| {
            let said = sets.values().find_map(|verdict| match verdict {
                Verdict::Skip(reason) => Some(reason.clone()),
                Verdict::Pass | Verdict::Defect | Verdict::Fail(_) | Verdict::Hang(_) => None,
            });
            said.unwrap_or_else(|| "failed".to_owned())
        };
        let others = self
            .tests
            .iter()
            .filter(|(_, sets)| overall(sets).pass == 0);
        others
            .map(|(test, sets)| (test.clone(), reason(sets)))
            .collect()
    }

    fn suites(&self) -> BTreeMap<&str, Counts> {
        let mut suites: BTreeMap<&str, Counts> = BTreeMap::new();
        for (test, sets) in &self.tests {
            let suite = test
                .split_once('.')
                .map_or(test.as_str(), |(suite, _)| suite);
            suites.entry(suite).or_default().add(overall(sets));
        }
        suites
    }

    /// The page for readers.
    ///
    /// # Panics
    /// If the table of the other targets is not one.
    #[must_use]
    pub fn page(&self, sets: &[(&str, &str)]) -> String {
        let mut page = PREFACE.to_owned();
        for (set, text) in sets {
            push(&mut page, format_args!("- `{set}`: {text}"));
        }
        page.push_str("\n## Suites\n\n");
        page.push_str("Pass / fail / skip; other targets with their best configuration.\n\n");
        page.push_str(
            "| suite | twinsan | tgt 1.0.85 | LIO (Linux 6.1, 6.12) |\n|---|---|---|---|\n",
        );
        let mut sums = [Counts::default(); 3];
        let peers = peers();
        for (suite, ours) in self.suites() {
            let [tgt, lio] = peers[suite];
            for (sum, counts) in sums.iter_mut().zip([ours, tgt, lio]) {
                sum.add(counts);
            }
            push(
                &mut page,
                format_args!("| {suite} | {ours} | {tgt} | {lio} |"),
            );
        }
        let [ours, tgt, lio] = sums;
        push(
            &mut page,
            format_args!("| **all** | **{ours}** | **{tgt}** | **{lio}** |"),
        );
        page.push_str(NOT_PASSED);
        for (test, reason) in self.not_passed() {
            push(&mut page, format_args!("- `{test}`: {reason}"));
        }
        page.push_str("\n## Mistakes of tests\n\n");
        for Defect { test, why, .. } in DEFECTS {
            push(&mut page, format_args!("- `{test}`: {why}."));
        }
        page
    }
}

/// One verdict of all sets of units. A test that is wrong about some of them is judged by the rest.
fn overall(sets: &BTreeMap<String, Verdict>) -> Counts {
    let (pass, fail, skip) = if sets.values().any(Verdict::is_bad) {
        (0, 1, 0)
    } else if sets.values().any(|verdict| *verdict == Verdict::Pass) {
        (1, 0, 0)
    } else {
        (0, 0, 1)
    };
    Counts { pass, fail, skip }
}

/// The tests that a page lists as not passed.
#[must_use]
pub fn listed(page: &str) -> BTreeSet<String> {
    let after = page.split_once(NOT_PASSED).map_or("", |(_, after)| after);
    let rows = after.lines().map_while(|line| line.strip_prefix("- `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned()))
        .collect()
}

/// tgt and LIO by suite.
fn peers() -> BTreeMap<&'static str, [Counts; 2]> {
    let rows = PEERS.lines().filter(|line| !line.starts_with('#')).skip(1);
    rows.map(|row| {
        let (suite, numbers) = row.split_once('\t').expect("a suite and its numbers");
        let numbers: Vec<usize> = numbers
            .split('\t')
            .map(|number| number.parse().expect("a number"))
            .collect();
        let counts = |at: usize| Counts {
            pass: numbers[at],
            fail: numbers[at + 1],
            skip: numbers[at + 2],
        };
        (suite, [counts(0), counts(3)])
    })
    .collect()
}

fn push(page: &mut String, line: fmt::Arguments<'_>) {
    writeln!(page, "{line}").expect("a string takes everything");
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pass, fail, skip } = self;
        write!(f, "{pass} / {fail} / {skip}")
    }
}

const PREFACE: &str = "\
# Conformance

All tests of libiscsi 1.19.0 (`iscsi-test-cu`), one process for each test (`iSCSITMF` one for its
suite, as its second test relies on the first), every time with new initiator names. A test that
says `[SKIPPED]` is skipped, whatever CUnit counts. A test is passed if it passes on one set of
units and fails on none.

`cargo test --package tests --test conformance` runs them; with `TWINSAN_WRITE_DOCS=1` it writes
this page, without it fails if a test is not passed that is not listed here.

The sets of units:

";

const NOT_PASSED: &str = "\n## Not passed, and what the test says\n\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn output(lines: &str, failed: u32) -> String {
        format!(
            "    [SKIPPED] noise before\n CUnit - A unit testing framework for C\n{lines}\n\
             Run Summary:    Type  Total    Ran Passed Failed Inactive\n\
             \x20              tests      1      1      1      0        0\n\
             \x20            asserts     12     12     12      {failed}      n/a\n"
        )
    }

    fn verdict(lines: &str, failed: u32, tests: usize) -> Verdict {
        Verdict::of("Suite.Test", &output(lines, failed), tests)
    }

    #[test]
    fn a_skip_is_no_pass() {
        assert_eq!(verdict("", 0, 1), Verdict::Pass);
        assert_eq!(verdict(&format!("    {NOISE}"), 0, 1), Verdict::Pass);
        let without = Verdict::of("PrinReadKeys.Simple", &output(NOISE, 0), 1);
        assert!(matches!(without, Verdict::Skip(_)), "{without:?}");
        let skipped = verdict("    [SKIPPED] UNMAP is not implemented.", 0, 1);
        assert_eq!(
            skipped,
            Verdict::Skip("UNMAP is not implemented.".to_owned())
        );
        assert!(matches!(verdict("", 2, 1), Verdict::Fail(_)));
        assert!(matches!(verdict("", 0, 2), Verdict::Fail(_)));
        for silent in ["killed early", " CUnit - A unit testing framework for C\n"] {
            let verdict = Verdict::of("Suite.Test", silent, 1);
            assert!(matches!(verdict, Verdict::Hang(_)), "{verdict:?}");
        }
    }

    #[test]
    fn a_mistake_of_a_test_is_known_by_its_only_failure() {
        let Defect {
            test, fails_with, ..
        } = DEFECTS[0];
        let says = fails_with.unwrap();
        assert_eq!(Verdict::of(test, &output(says, 1), 1), Verdict::Defect);
        for (test, said, failed) in [(test, says, 2), (test, "other", 1), ("A.B", says, 1)] {
            let verdict = Verdict::of(test, &output(said, failed), 1);
            assert!(verdict.is_bad(), "{test} {said} {failed}");
        }
    }

    #[test]
    fn a_test_passes_if_it_passes_once_and_fails_nowhere() {
        let skip = || Verdict::Skip("why".to_owned());
        let fail = || Verdict::Fail("how".to_owned());
        let mut results = Results::default();
        for (test, one, two) in [
            ("Unmap.A", skip(), Verdict::Pass),
            ("Unmap.B", fail(), Verdict::Pass),
            ("Unmap.C", skip(), skip()),
            ("Unmap.D", Verdict::Defect, Verdict::Pass),
            ("Unmap.E", Verdict::Hang(String::new()), skip()),
        ] {
            results.add("one", test, one);
            results.add("two", test, two);
        }
        let expected = Counts {
            pass: 2,
            fail: 2,
            skip: 1,
        };
        assert_eq!(results.counts(), expected);
        assert_eq!(results.failures().len(), 2);
        assert_eq!(results.differences("one", "two").len(), 4);
        let page = results.page(&[("one", "a set")]);
        assert!(
            page.contains("| Unmap | 2 / 2 / 1 | 2 / 1 / 0 | 3 / 0 / 0 |"),
            "{page}"
        );
        assert!(page.contains("- `Unmap.C`: why\n"), "{page}");
        let names = ["Unmap.B", "Unmap.C", "Unmap.E"];
        assert_eq!(listed(&page), names.map(str::to_owned).into());
    }

    #[test]
    fn the_peers_have_all_tests() {
        let peers = peers();
        assert_eq!(peers.len(), 51);
        for at in 0..2 {
            let mut sum = Counts::default();
            peers.values().for_each(|counts| sum.add(counts[at]));
            assert_eq!(sum.pass + sum.fail + sum.skip, 230);
        }
    }
}
