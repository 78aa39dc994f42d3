//! libiscsi's `iscsi-test-cu` against the demo's LUN: one process for each test, a new initiator
//! name for each. Needs Debian's `libiscsi-bin`.
//!
//! CUnit counts a skipped test as passed, so its own count is not used: a test that says
//! `[SKIPPED]` after CUnit's banner is skipped, and only those listed here may be.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use tests::ci::assert_no_injected_failure;
use tests::lab::demo::Stage;
use tests::lab::{fresh_uuid, said};

/// Suites, and how many tests each has in libiscsi 1.19.0.
const SUITES: [(&str, usize); 14] = [
    ("Inquiry", 7),
    ("Mandatory", 1),
    ("Read10", 6),
    ("Read16", 5),
    ("ReadCapacity10", 1),
    ("ReadCapacity16", 4),
    ("Unmap", 3),
    ("Write10", 6),
    ("Write16", 5),
    ("WriteSame10", 10),
    ("WriteSame16", 10),
    ("iSCSIResiduals", 10),
    ("iSCSIcmdsn", 2),
    ("iSCSITMF", 2),
];
/// Its second test relies on what its first one left in the same process.
const IN_ONE_PROCESS: &str = "iSCSITMF";
/// The set-up of every suite clears reservations and says this where there are none to clear.
const SET_UP_NOISE: &str = "[SKIPPED] PERSISTENT RESERVE IN is not implemented.";
/// Tests that may be skipped, and why.
const MAY_SKIP: [(&str, &str); 0] = [];
/// A test that takes longer hangs.
const LIMIT_S: &str = "120";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Pass,
    Fail,
    Skip,
    Hang,
}

#[test]
fn libiscsi_finds_nothing_wrong() {
    assert_no_injected_failure("conformance");
    let stage = Stage::new();
    let served = stage.serve(&[]);
    let target = served.ready["target"]
        .as_str()
        .expect("the ready line names the target");
    let portal = served.ready["portals"][0]
        .as_str()
        .expect("the ready line names a portal");
    let url = format!("iscsi://{portal}/{target}/0");
    let listed = listed(&stage);
    let mut results = BTreeMap::new();
    for (suite, count) in SUITES {
        let tests: Vec<&String> = listed
            .iter()
            .filter(|test| test.starts_with(&format!("ALL.{suite}.")))
            .collect();
        assert_eq!(tests.len(), count, "{suite} is not what it was");
        if suite == IN_ONE_PROCESS {
            let name = format!("ALL.{suite}");
            results.insert(name.clone(), run(&stage, &name, &url, count));
        } else {
            for test in tests {
                results.insert(test.clone(), run(&stage, test, &url, 1));
            }
        }
    }
    judge(&results);
}

fn listed(stage: &Stage) -> Vec<String> {
    let said = said(stage.command("iscsi-test-cu").arg("--list"));
    said.out
        .lines()
        .map(|line| line.trim().to_owned())
        .collect()
}

fn run(stage: &Stage, test: &str, url: &str, tests: usize) -> (Verdict, String) {
    let initiator = |number: u8| format!("iqn.2026-11.org.example:{}-{number}", fresh_uuid());
    let mut command = stage.command("timeout");
    command.args(["--signal=KILL", LIMIT_S, "iscsi-test-cu", "-d", "-S", "-n"]);
    command.args(["-i", &initiator(1), "-I", &initiator(2), "-t", test, url]);
    let said = said(&mut command);
    let output = said.out + &said.err;
    (verdict(&output, tests), output)
}

/// What a run of so many tests came to.
fn verdict(output: &str, tests: usize) -> Verdict {
    let Some((_, run)) = output.split_once("CUnit - A unit testing framework") else {
        return Verdict::Hang;
    };
    // columns: total, ran, passed, failed, inactive
    let summary = |kind: &str| -> Option<Vec<usize>> {
        let line = run
            .lines()
            .find(|line| line.split_whitespace().next() == Some(kind))?;
        Some(
            line.split_whitespace()
                .skip(1)
                .map_while(|word| word.parse().ok())
                .collect(),
        )
    };
    let (Some(ran), Some(asserts)) = (summary("tests"), summary("asserts")) else {
        return Verdict::Hang;
    };
    let skipped = run
        .lines()
        .any(|line| line.trim_start().starts_with("[SKIPPED]") && line.trim() != SET_UP_NOISE);
    if ran.get(1) != Some(&tests) || ran.get(3) != Some(&0) || asserts.get(3) != Some(&0) {
        Verdict::Fail
    } else if skipped {
        Verdict::Skip
    } else {
        Verdict::Pass
    }
}

/// Prints the table and asserts.
fn judge(results: &BTreeMap<String, (Verdict, String)>) {
    let mut table = String::new();
    let mut bad = String::new();
    for (test, (verdict, output)) in results {
        let reason = MAY_SKIP
            .iter()
            .find(|(name, _)| name == test)
            .map(|(_, reason)| *reason);
        let row = format!("{test:45} {verdict:?} {}", reason.unwrap_or_default());
        writeln!(table, "{}", row.trim_end()).expect("a string takes everything");
        let good = match verdict {
            Verdict::Pass => reason.is_none(),
            Verdict::Skip => reason.is_some(),
            Verdict::Fail | Verdict::Hang => false,
        };
        if !good {
            writeln!(bad, "{test} {verdict:?}:\n{output}").expect("a string takes everything");
        }
    }
    let count = |wanted| {
        results
            .values()
            .filter(|(verdict, _)| *verdict == wanted)
            .count()
    };
    writeln!(
        std::io::stdout(),
        "{table}conformance: {} pass, {} fail, {} skip, {} hang",
        count(Verdict::Pass),
        count(Verdict::Fail),
        count(Verdict::Skip),
        count(Verdict::Hang)
    )
    .expect("stdout");
    assert!(bad.is_empty(), "not as expected:\n{bad}");
}

#[test]
fn a_skip_is_no_pass() {
    let output = |lines: &str, failed: u32| {
        format!(
            "    [SKIPPED] noise before\n CUnit - A unit testing framework for C\n{lines}\n\
             Run Summary:    Type  Total    Ran Passed Failed Inactive\n\
             \x20              tests      1      1      1      0        0\n\
             \x20            asserts     12     12     12      {failed}      n/a\n"
        )
    };
    assert_eq!(verdict(&output("", 0), 1), Verdict::Pass);
    assert_eq!(
        verdict(&output(&format!("    {SET_UP_NOISE}"), 0), 1),
        Verdict::Pass
    );
    assert_eq!(
        verdict(&output("    [SKIPPED] UNMAP is not implemented.", 0), 1),
        Verdict::Skip
    );
    assert_eq!(verdict(&output("", 2), 1), Verdict::Fail);
    assert_eq!(verdict(&output("", 0), 2), Verdict::Fail);
    assert_eq!(verdict("killed before it said anything", 1), Verdict::Hang);
    assert_eq!(
        verdict(" CUnit - A unit testing framework for C\n", 1),
        Verdict::Hang
    );
}
