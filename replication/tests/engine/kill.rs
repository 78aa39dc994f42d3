//! Every mutant is noticed by a named test, or by the random history of one seed.

use std::process::Command;

use replication::mutants::{NAMES, law_of};

const HISTORIES: &str = "seeds::random_histories_keep_their_promises";

/// Which test notices which mutant; for the histories, at which seed.
const KILLS: &[(&str, &str, u64)] = &[
    (
        "drop-ack",
        "scenarios::r4_an_acknowledged_write_is_on_both_disks",
        0,
    ),
    ("ack-without-peer", HISTORIES, 40),
    ("skip-seal", HISTORIES, 8),
    ("seal-without-drain", HISTORIES, 92),
    ("clear-unstable", HISTORIES, 75),
    (
        "read-without-lease",
        "scenarios::r5_a_box_alone_answers_no_read_without_the_lease",
        0,
    ),
    (
        "read-past-write",
        "scenarios::r4_a_read_waits_for_the_writes_that_it_overlaps",
        0,
    ),
    (
        "forget-unstable",
        "scenarios::h28_what_was_acknowledged_and_not_flushed_is_copied_again",
        0,
    ),
    (
        "forget-acked",
        "scenarios::h28_what_was_acknowledged_and_not_flushed_is_copied_again",
        0,
    ),
    ("serve-without-flush", HISTORIES, 64),
    ("skip-intent", HISTORIES, 1),
    (
        "flush-local-only",
        "scenarios::r4_a_flush_waits_for_both_disks",
        0,
    ),
    ("ignore-peer-mask", HISTORIES, 118),
    ("ignore-order", HISTORIES, 5),
    ("readmit-early", HISTORIES, 8),
    (
        "trust-blank-peer",
        "scenarios::d6_a_copy_that_is_not_proven_zero_gets_everything",
        0,
    ),
    (
        "bad-page-is-clean",
        "scenarios::h35_a_dirty_map_that_fails_its_check_is_copied_whole",
        0,
    ),
    ("resume-before-persist", HISTORIES, 67),
    (
        "stale-answer",
        "scenarios::r6_words_said_before_the_loss_end_no_readmission",
        0,
    ),
];

#[test]
fn every_mutant_is_killed_by_the_test_that_names_its_law() {
    if std::env::var_os("MUTANT").is_some() {
        return;
    }
    let mut alive = Vec::new();
    for (name, _) in NAMES {
        let kill = KILLS.iter().find(|kill| kill.0 == *name);
        let (_, test, seed) = kill.unwrap_or_else(|| panic!("no test is named for {name}"));
        let own = std::env::current_exe().expect("a test is a file");
        let output = Command::new(own)
            .args(["--exact", test])
            .env("MUTANT", name)
            .env("SEED", seed.to_string())
            .env("HISTORIES", "1")
            .env("RUST_BACKTRACE", "0")
            .output()
            .expect("a test can be run");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains("running 1 test"),
            "{test} does not exist: {text}"
        );
        // the name of a scenario is that of its law; a history must say which one it broke
        let named = *test != HISTORIES || text.lines().any(|line| law_of(line).is_some());
        if !(text.contains("1 failed") && named) {
            alive.push((name, test));
        }
    }
    assert!(alive.is_empty(), "not killed: {alive:?}");
}
