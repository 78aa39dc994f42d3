//! libiscsi's tests, all of them, against every kind of unit and against both boxes of the demo's
//! pair. Needs Debian's `libiscsi-bin`.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use tests::ci::assert_no_injected_failure;
use tests::conformance::{Results, Verdict, listed};
use tests::lab::demo::Stage;
use tests::lab::{clock, fresh_uuid, said};

/// Tests that must pass, on one set of units at least. A target that has all that libiscsi 1.19.0
/// can test without SANITIZE and WRITE ATOMIC passes 212.
const PASSED_MIN: usize = 212;
/// Tests of libiscsi 1.19.0.
const TESTS: usize = 230;
/// Set to write the page instead of comparing with it.
const WRITE_VARIABLE: &str = "TWINSAN_WRITE_DOCS";

/// Units that are served from memory, one target for all.
const SETS: [(&str, &str); 5] = [
    (
        "thin",
        "blocks of 512 bytes in physical ones of 4 KiB, as volumes have them, all tests",
    ),
    ("thin-512", "physical blocks of 512 bytes, all tests"),
    ("full", "not thin, all tests"),
    ("removable", "a medium that can be ejected, all tests"),
    ("read-only", "the suites that write nothing or must not"),
];
/// The demo's pair: the same results as on the set `thin`.
const PAIR: [(&str, &str); 2] = [
    ("san1", "the volume of the demo's pair, all tests"),
    (
        "san2",
        "the same after a planned move to the other box, all tests",
    ),
];
/// What a read-only unit is good for.
const READ_ONLY_SUITES: [&str; 22] = [
    "Inquiry",
    "Mandatory",
    "ModeSense6",
    "NoMedia",
    "Prefetch10",
    "Prefetch16",
    "Read6",
    "Read10",
    "Read12",
    "Read16",
    "ReadCapacity10",
    "ReadCapacity16",
    "ReadDefectData10",
    "ReadDefectData12",
    "ReadOnly",
    "ReportSupportedOpcodes",
    "StartStopUnit",
    "TestUnitReady",
    "Verify10",
    "Verify12",
    "Verify16",
    "iSCSIcmdsn",
];
/// Its second test relies on what its first one left in the same process.
const IN_ONE_PROCESS: &str = "iSCSITMF";
/// Takes its unit through two sessions.
const TWO_PATHS: &str = "MultipathIO";
/// Until a box serves after a planned move.
const SERVED_WITHIN: Duration = Duration::from_secs(30);
/// A test that takes longer hangs, in seconds.
const LIMIT_S: &str = "60";

#[test]
fn libiscsi_finds_nothing_wrong() {
    assert_no_injected_failure("conformance");
    let mut results = Results::default();
    std::thread::scope(|scope| {
        let pair = scope.spawn(both_boxes);
        results.merge(every_kind_of_unit());
        results.merge(pair.join().expect("the pair serves"));
    });
    let counts = results.counts();
    let sets: Vec<(&str, &str)> = SETS.into_iter().chain(PAIR).collect();
    let page = results.page(&sets);
    writeln!(
        std::io::stdout(),
        "{page}\nconformance: {counts} of {TESTS}"
    )
    .expect("stdout");
    let failures = results.failures();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    for (set, _) in PAIR {
        let differences = results.differences("thin", set);
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }
    assert_eq!(counts.pass + counts.skip, TESTS);
    assert!(
        counts.pass >= PASSED_MIN,
        "{counts}: {PASSED_MIN} must pass"
    );
    compare_or_write(&results, &page);
}

/// Each set of units in turn, as LUNs of one target.
fn every_kind_of_unit() -> Results {
    let stage = Stage::new();
    let kinds = SETS.map(|(kind, _)| kind);
    let units = stage.serve_units("127.0.0.30:3260", &kinds);
    let mut results = Results::default();
    let suites = suites(&stage);
    for (kind, url) in kinds.into_iter().zip(&units.urls) {
        for (suite, tests) in &suites {
            if kind != "read-only" || READ_ONLY_SUITES.contains(&suite.as_str()) {
                run_suite(&stage, (kind, url), (suite, tests), &mut results);
            }
        }
    }
    results
}

/// The demo's pair, before and after its primary role moves.
fn both_boxes() -> Results {
    let stage = Stage::new();
    let served = stage.serve(&[]);
    let name = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let target = name(&served.ready["target"]);
    let mut results = Results::default();
    let suites = suites(&stage);
    for (number, (node, _)) in PAIR.into_iter().enumerate() {
        if number > 0 {
            served.switch_over(&stage, node);
        }
        let url = format!(
            "iscsi://{}/{target}/0",
            name(&served.ready["portals"][number])
        );
        // The address comes after the role.
        let up = clock::until(SERVED_WITHIN, || {
            let asked = said(stage.command("iscsi-inq").arg(&url));
            (asked.code == Some(0)).then_some(())
        });
        assert!(up.is_some(), "{node} does not serve {url}");
        for (suite, tests) in &suites {
            run_suite(&stage, (node, &url), (suite, tests), &mut results);
        }
    }
    results
}

/// Every suite of the family that has all, with its tests, in libiscsi's order: one test of
/// `MultipathIO` counts on zeroes in a block that others before it have left there.
fn suites(stage: &Stage) -> Vec<(String, Vec<String>)> {
    let said = said(stage.command("iscsi-test-cu").arg("--list"));
    let mut suites: Vec<(String, Vec<String>)> = Vec::new();
    for line in said.out.lines() {
        let Some((suite, test)) = line
            .trim()
            .strip_prefix("ALL.")
            .and_then(|name| name.split_once('.'))
        else {
            continue;
        };
        match suites.last_mut().filter(|(last, _)| last == suite) {
            Some((_, tests)) => tests.push(test.to_owned()),
            None => suites.push((suite.to_owned(), vec![test.to_owned()])),
        }
    }
    let count: usize = suites.iter().map(|(_, tests)| tests.len()).sum();
    assert_eq!(count, TESTS, "this is not libiscsi 1.19.0");
    suites
}

fn run_suite(
    stage: &Stage,
    (set, url): (&str, &str),
    (suite, tests): (&str, &[String]),
    results: &mut Results,
) {
    let urls: &[&str] = if suite == TWO_PATHS {
        &[url, url]
    } else {
        &[url]
    };
    if suite == IN_ONE_PROCESS {
        let output = run(stage, &format!("ALL.{suite}"), urls);
        for test in tests {
            let name = format!("{suite}.{test}");
            let verdict = Verdict::of(&name, &output, tests.len());
            results.add(set, &name, verdict);
        }
        return;
    }
    for test in tests {
        let name = format!("{suite}.{test}");
        let output = run(stage, &format!("ALL.{name}"), urls);
        results.add(set, &name, Verdict::of(&name, &output, 1));
    }
}

fn run(stage: &Stage, test: &str, urls: &[&str]) -> String {
    let initiator = |number: u8| format!("iqn.2026-11.org.example:{}-{number}", fresh_uuid());
    let mut command = stage.command("timeout");
    command.args(["--signal=KILL", LIMIT_S, "iscsi-test-cu", "-d", "-S", "-n"]);
    command.args(["-i", &initiator(1), "-I", &initiator(2), "-t", test]);
    let said = said(command.args(urls));
    said.out + &said.err
}

/// The page lists what is not passed, and that list may not grow.
fn compare_or_write(results: &Results, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance.md");
    if std::env::var_os(WRITE_VARIABLE).is_some() {
        return std::fs::write(&path, page).expect("the page can be written");
    }
    let text = std::fs::read_to_string(&path).expect("docs/conformance.md is there");
    let known = listed(&text);
    let not_passed = results.not_passed();
    let new = not_passed.iter().filter(|(test, _)| !known.contains(*test));
    let new: Vec<_> = new.collect();
    assert!(
        new.is_empty(),
        "not passed, and not in docs/conformance.md: {new:?}"
    );
    assert!(
        text == page,
        "docs/conformance.md is behind: {WRITE_VARIABLE}=1 writes it"
    );
}
