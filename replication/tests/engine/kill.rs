//! Every mutant is noticed by the named test of the law that it breaks.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use replication::mutants::{NAMES, NEUTRAL};

/// Which test notices which mutant.
const KILLS: &[(&str, &str)] = &[
    (
        "lose-before-failure",
        "doubt::d5_a_disk_that_fails_at_the_last_flush_is_said_before_the_loss",
    ),
    (
        "seal-failed",
        "doubt::d5_a_disk_that_fails_at_the_last_flush_is_not_sealed",
    ),
    (
        "trust-old-data",
        "putback::d7_data_that_were_put_back_are_not_served",
    ),
    (
        "drop-ack",
        "scenarios::r4_an_acknowledged_write_is_on_both_disks",
    ),
    (
        "ack-without-peer",
        "laws::r4_a_write_waits_for_the_disk_of_the_peer",
    ),
    (
        "skip-seal",
        "laws::r3_a_sealed_box_takes_nothing_of_the_sealed_epoch",
    ),
    (
        "seal-without-drain",
        "laws::h8_a_seal_waits_for_older_writes_at_the_disk",
    ),
    (
        "clear-unstable",
        "rejoin::d1_a_block_is_dirty_until_its_copy_is_stable",
    ),
    (
        "read-without-lease",
        "scenarios::r5_a_box_alone_answers_no_read_without_the_lease",
    ),
    (
        "read-past-write",
        "scenarios::r4_a_read_waits_for_the_writes_that_it_overlaps",
    ),
    (
        "forget-unstable",
        "scenarios::h28_what_was_acknowledged_and_not_flushed_is_copied_again",
    ),
    (
        "forget-acked",
        "scenarios::h28_what_was_acknowledged_and_not_flushed_is_copied_again",
    ),
    (
        "serve-without-flush",
        "laws::h12_a_new_primary_serves_once_all_it_has_is_stable",
    ),
    (
        "skip-intent",
        "laws::d2_no_byte_of_a_write_leaves_before_its_intent_is_durable",
    ),
    (
        "flush-local-only",
        "scenarios::r4_a_flush_waits_for_both_disks",
    ),
    (
        "ignore-peer-mask",
        "laws::d2_what_was_hot_at_the_death_of_the_primary_is_made_equal",
    ),
    (
        "ignore-order",
        "rejoin::r4_the_peer_applies_overlapping_writes_in_their_order",
    ),
    (
        "readmit-early",
        "rejoin::r6_readmission_is_asked_for_once_every_block_is_on_the_peer",
    ),
    (
        "trust-blank-peer",
        "scenarios::d6_a_copy_that_is_not_proven_zero_gets_everything",
    ),
    (
        "bad-page-is-clean",
        "scenarios::h35_a_dirty_map_that_fails_its_check_is_copied_whole",
    ),
    (
        "resume-before-persist",
        "laws::r1_nothing_completes_before_the_new_epoch_is_durable",
    ),
    (
        "lose-unflushed",
        "doubt::r1_a_loss_is_reported_when_what_was_acknowledged_is_stable",
    ),
    (
        "seal-unflushed",
        "doubt::r2_a_seal_is_reported_when_what_was_acknowledged_is_stable",
    ),
    (
        "stale-answer",
        "scenarios::r6_words_said_before_the_loss_end_no_readmission",
    ),
    (
        "clear-by-decision",
        "rejoin::d1_a_peer_that_marks_nothing_is_not_taken_for_equal",
    ),
    (
        "keep-sent-chunk",
        "rejoin::d1_a_block_that_is_written_while_its_copy_is_under_way_stays_dirty",
    ),
    (
        "copy-unlocked",
        "rejoin::d1_a_block_is_not_copied_while_it_is_written",
    ),
    (
        "settle-locally",
        "laws::d2_a_region_is_hot_until_the_peer_has_flushed_it",
    ),
    (
        "cool-early",
        "laws::d2_a_region_written_during_a_flush_is_hot_after_it",
    ),
    (
        "start-cold",
        "laws::d2_what_was_hot_at_the_death_of_the_primary_is_made_equal",
    ),
    (
        "ack-before-disk",
        "laws::r4_a_write_waits_for_the_disk_of_the_peer",
    ),
    (
        "flush-before-disk",
        "laws::r4_a_flush_waits_for_the_cache_of_the_peer",
    ),
    (
        "drop-fua",
        "laws::r4_a_forced_write_is_stable_on_both_disks",
    ),
    (
        "stuck-dial",
        "rejoin::r6_a_peer_that_was_not_there_is_dialled_again",
    ),
    (
        "skip-zeroes",
        "scenarios::r4_zeroes_are_written_over_any_length_on_both_disks",
    ),
    ("skip-zero-chunk", "rejoin::d1_zeroes_are_copied_too"),
    (
        "silent-cache-loss",
        "scenarios::an_acknowledged_flush_survives_the_power_of_both",
    ),
    (
        "forget-following",
        "scenarios::an_acknowledged_flush_survives_the_power_of_both",
    ),
    (
        "ignore-flush-error",
        "scenarios::d5_a_failed_flush_is_never_good_again",
    ),
    (
        "ignore-apply-error",
        "scenarios::d5_a_peer_whose_disk_failed_leaves",
    ),
    (
        "handover-unflushed",
        "laws::r7_a_handover_waits_until_both_have_flushed",
    ),
    (
        "keep-half-write",
        "failing::r4_a_write_without_room_on_one_box_fails_on_both_and_they_stay_equal",
    ),
    (
        "demote-late",
        "scenarios::r8_who_is_primary_no_more_completes_nothing_that_waits_for_the_peer",
    ),
    (
        "count-refused",
        "failing::d4_what_was_refused_for_want_of_room_does_not_count_as_applied",
    ),
    (
        "replay-to-anybody",
        "replay::h27_another_incarnation_gets_copies_and_nothing_from_memory",
    ),
    (
        "pay-early",
        "replay::d4_what_was_sent_again_is_owed_until_it_is_stable",
    ),
    (
        "unbound-proof",
        "channel::d4_a_proof_handed_on_from_another_channel_is_not_believed",
    ),
    (
        "short-hash",
        "copies::h33_what_differs_in_a_coarse_mask_is_copied",
    ),
    (
        "endless-copy",
        "copies::r6_a_copy_ends_under_the_heaviest_load_with_tiny_windows",
    ),
    (
        "forget-index",
        "laws::d2_a_primary_goes_on_alone_once_its_dirty_map_is_listed",
    ),
    (
        "grow-dirty",
        "growing::d6_a_volume_grows_on_both_and_what_is_new_reads_zero_on_both",
    ),
    (
        "scrub-blind",
        "scrub::h33_a_block_that_differs_is_named_once_a_pass_with_both_images",
    ),
    (
        "scrub-anywhere",
        "scrub::h33_a_write_that_is_on_one_disk_only_is_no_difference",
    ),
];

/// Mutants that are tried at once.
const AT_ONCE: usize = 2;
/// Where the assertions of these tests are.
const HERE: &str = "panicked at replication/tests/engine/";
/// What [`World::until`](crate::world::World::until) says when its patience ends.
const LATE: &str = " did not come: ";

#[test]
fn every_mutant_is_killed_by_the_test_that_names_its_law() {
    if std::env::var_os("MUTANT").is_some() {
        return;
    }
    let named = NAMES.iter().map(|(name, _)| *name);
    let named = named.filter(|name| !NEUTRAL.contains(name));
    let left = Mutex::new(named.collect::<Vec<_>>());
    let alive = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop();
                while let Some(name) = next() {
                    if !is_killed(name) {
                        let mut alive = alive.lock().unwrap_or_else(PoisonError::into_inner);
                        alive.push(name);
                    }
                }
            });
        }
    });
    let alive = alive.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(alive.is_empty(), "not killed: {alive:?}");
}

/// Whether the test fails under the mutant by an assertion of its own: neither the engine itself
/// may give up, nor the patience of the test end.
fn is_killed(name: &str) -> bool {
    let kill = KILLS.iter().find(|kill| kill.0 == name);
    let (_, test) = kill.unwrap_or_else(|| panic!("no test is named for {name}"));
    let own = std::env::current_exe().expect("a test is a file");
    let output = Command::new(own)
        .args(["--exact", test])
        .env("MUTANT", name)
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("a test can be run");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("running 1 test"),
        "{test} does not exist: {text}"
    );
    let killed = text.contains("1 failed") && text.contains(HERE) && !text.contains(LATE);
    if !killed {
        eprintln!("{name} by {test}: {text}");
    }
    killed
}
