//! Every mutant is noticed by a named test, and the neutral ones by none.

use std::process::Command;

/// Which test notices which mutant.
const KILLS: &[(&str, &str)] = &[
    (
        "resume-epoch",
        "hazards::h5a_a_primary_restarted_within_the_detector_is_a_plain_candidate",
    ),
    (
        "detach-keeps-both",
        "disk::r1_a_primary_whose_disk_fails_gives_everything_to_its_peer",
    ),
    (
        "detach-with-lease",
        "disk::r1_a_primary_whose_disk_fails_gives_everything_to_its_peer",
    ),
    (
        "detach-to-silence",
        "disk::r1_a_failed_disk_moves_nothing_to_a_peer_that_has_just_died",
    ),
    (
        "force-in-lineage",
        "force::r9_a_box_without_a_majority_is_forced_in_a_lineage_of_its_own",
    ),
    (
        "force-keeps-base",
        "force::r9_with_the_witness_a_stale_box_is_forced_by_a_vote",
    ),
    (
        "force-over-living",
        "force::r9_a_living_primary_is_not_forced_away",
    ),
    (
        "outbid-lineage",
        "force::h22_ballots_of_a_forced_lineage_are_not_outbid_from_the_old_one",
    ),
    (
        "force-unsealed",
        "force::r9_a_box_without_a_majority_is_forced_in_a_lineage_of_its_own",
    ),
    (
        "reuse-ballot",
        "hazards::h5b_no_ballot_is_used_twice_across_a_crash",
    ),
    (
        "forget-doubt",
        "hazards::h1a_acks_need_both_boxes_while_the_readmission_is_in_doubt",
    ),
    (
        "timeout-ends-doubt",
        "hazards::h2_a_degrade_that_left_is_finished_even_if_the_peer_is_back",
    ),
    (
        "solo-before-chosen",
        "scenarios::an_isolated_primary_freezes_stops_reading_and_is_replaced",
    ),
    (
        "ignore-in-sync",
        "scenarios::a_stale_box_refuses_and_says_who_has_the_data",
    ),
    (
        "ignore-eligibility",
        "hazards::h9b_a_box_with_other_disks_or_without_all_volumes_stays_out",
    ),
    ("promote-both", "hazards::h6_a_promoted_box_is_alone_in_s"),
    (
        "seal-known-only",
        "hazards::h4_the_epoch_read_is_sealed_not_the_epoch_known",
    ),
    (
        "commit-before-seal",
        "hazards::h4_the_epoch_read_is_sealed_not_the_epoch_known",
    ),
    (
        "prepare-through-lease",
        "voter::r5_a_voter_that_promised_a_lease_promises_nobody_else",
    ),
    (
        "accept-through-lease",
        "voter::r5_a_voter_that_promised_a_lease_accepts_from_nobody_else",
    ),
    (
        "ack-after-foreign-promise",
        "voter::h3b_a_voter_that_promised_another_acknowledges_nobody_else",
    ),
    (
        "own-vote-keeps-lease",
        "hazards::h3a_no_promise_of_a_foreign_ballot_leaves_while_a_lease_is_out",
    ),
    (
        "lease-from-ack",
        "scenarios::r5_a_grant_that_comes_late_counts_from_its_heartbeat",
    ),
    (
        "no-restart-wait",
        "voter::h16_a_restarted_voter_waits_for_foreign_ballots_only",
    ),
    (
        "extend-without-echo",
        "voter::h19_a_voter_that_is_not_heard_promises_nothing",
    ),
    (
        "blind-solo",
        "hazards::h21_a_solo_primary_obeys_whoever_accepted_a_higher_ballot",
    ),
    (
        "create-on-prepare",
        "voter::h14_a_blank_voter_is_made_only_by_the_accept_that_admits_it",
    ),
    (
        "any-instance",
        "register::h13_votes_of_another_life_do_not_count",
    ),
    (
        "trust-rollback",
        "hazards::h13_a_witness_put_back_to_an_older_state_has_no_vote",
    ),
    (
        "never-learn",
        "hazards::h24_a_voter_that_missed_the_last_commit_is_told",
    ),
    (
        "reply-before-persist",
        "voter::h14_a_blank_voter_is_made_only_by_the_accept_that_admits_it",
    ),
    (
        "serve-unknown",
        "hazards::h23_in_doubt_the_old_primary_stays_stopped",
    ),
    (
        "no-replay-window",
        "scenarios::recordings_of_a_dead_primary_do_not_keep_it_alive",
    ),
];

fn run(mutant: &str, filter: &[&str]) -> std::process::Output {
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new(own);
    command
        .args(filter)
        .env("MUTANT", mutant)
        .env("HISTORIES", "60")
        .env("RUST_BACKTRACE", "0");
    command.output().unwrap()
}

#[test]
fn every_mutant_is_killed_by_the_test_that_names_its_law() {
    if std::env::var_os("MUTANT").is_some() {
        return;
    }
    let names = ha::mutants::NAMES.iter().map(|entry| entry.0);
    let neutral = |name: &&str| ha::mutants::NEUTRAL.contains(name);
    for name in names.filter(|name| !neutral(name)) {
        let kill = KILLS.iter().find(|kill| kill.0 == name);
        let (_, test) = kill.unwrap_or_else(|| panic!("no test is named for {name}"));
        let output = run(name, &["--exact", test]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains("running 1 test"),
            "{test} does not exist: {text}"
        );
        assert!(text.contains("1 failed"), "{name} survives {test}: {text}");
    }
}

#[test]
fn neutral_mutants_are_noticed_by_nothing() {
    if std::env::var_os("MUTANT").is_some() {
        return;
    }
    for name in ha::mutants::NEUTRAL {
        let output = run(name, &["scenarios", "hazards"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{name} is not neutral: {text}");
    }
}
