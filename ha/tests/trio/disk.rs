//! The disk of a box fails while it is in use (laws R1, D5).

use ha::types::Reason;
use ha::{Epoch, Input, Lease, Members, PeerLoss, Role};

use crate::world::{A, B, MS, Trio, W};

#[test]
fn r1_a_primary_whose_disk_fails_gives_everything_to_its_peer() {
    for seed in 0..20 {
        let mut trio = Trio::in_sync(seed);
        trio.run(500 + seed * 11);
        let start = trio.now;
        trio.fail_disk(A);
        assert_eq!(trio.node(A).status().lease, Lease::None);
        let moved = trio.run_until(2_000, |trio| trio.primary() == Some(B));
        assert!(moved, "{}", trio.describe());
        let ms = (trio.now - start) / MS;
        assert!(ms < 100, "seed {seed}: {ms} ms");
        let config = trio.node(B).status().config.unwrap();
        assert_eq!(
            (config.in_sync, config.reason),
            (Members::one(B), Reason::Detach)
        );
        assert_eq!(config.base_of(A), Some(Epoch(config.epoch.0 - 1)));
        let before = trio.oracle.acknowledged_count();
        trio.run(500);
        assert!(trio.oracle.acknowledged_count() > before, "B goes on");
        assert_eq!(trio.machines[&A].started, []);
        trio.restart(A);
        trio.settle();
        assert_eq!(trio.primary(), Some(B), "nothing moves back by itself");
    }
}

#[test]
fn r1_a_failed_disk_and_a_lost_peer_freeze_until_the_peer_is_back() {
    let mut trio = Trio::in_sync(61);
    trio.kill(B);
    trio.cut(A, W);
    trio.fail_disk(A);
    trio.run(4_000);
    trio.heal();
    trio.run(4_000);
    let status = trio.node(A).status();
    let config = status.config.unwrap();
    assert_eq!(config.in_sync, Members::pair(A, B), "nobody goes on alone");
    assert_eq!(status.lease, Lease::None);
    assert!(
        status.why.contains("the disk of this box failed"),
        "{}",
        status.why
    );
    assert!(
        status.next.starts_with("start the other box"),
        "{}",
        status.next
    );
    trio.start(B);
    let moved = trio.run_until(3_000, |trio| trio.primary() == Some(B));
    assert!(moved, "{}", trio.describe());
}

#[test]
fn r1_a_disk_that_fails_with_a_degrade_in_doubt_gives_everything_to_the_peer() {
    for seed in 0..20 {
        let mut trio = Trio::in_sync(seed);
        trio.run(500 + seed * 11);
        let why = PeerLoss::Closed;
        trio.input(A, Input::PeerLost { number: 9, why });
        trio.fail_disk(A);
        let moved = trio.run_until(2_000, |trio| trio.primary() == Some(B));
        assert!(moved, "seed {seed}: {}", trio.describe());
        let config = trio.node(B).status().config.unwrap();
        assert_eq!(config.in_sync, Members::one(B), "seed {seed}");
        trio.restart(A);
        trio.settle();
    }
}

#[test]
fn r7_a_box_whose_disk_fails_claims_nothing() {
    for seed in 0..20 {
        let mut trio = Trio::in_sync(seed);
        trio.switchover(A, 5);
        let named = trio.run_until(2_000, |trio| trio.primary() != Some(A));
        assert!(named, "seed {seed}: {}", trio.describe());
        let counter = trio.record(B).group.unwrap().counter;
        trio.fail_disk(B);
        trio.run(3_000);
        let later = trio.record(B).group.unwrap().counter;
        assert!(
            later <= counter + 64,
            "seed {seed}: {counter} became {later}"
        );
    }
}

#[test]
fn r1_a_failed_disk_moves_nothing_to_a_peer_that_has_just_died() {
    for seed in 0..20 {
        let mut trio = Trio::in_sync(seed);
        trio.run(500 + seed * 11);
        trio.kill(B);
        trio.run(seed); // it was heard a moment ago
        trio.fail_disk(A);
        trio.run(4_000);
        let config = trio.node(A).status().config.unwrap();
        assert_eq!(config.in_sync, Members::pair(A, B), "seed {seed}");
        trio.start(B);
        let moved = trio.run_until(3_000, |trio| trio.primary() == Some(B));
        assert!(moved, "{}", trio.describe());
    }
}

#[test]
fn r1_a_failed_disk_moves_nothing_to_a_peer_that_lacks_writes() {
    let mut trio = Trio::in_sync(62);
    trio.kill(B);
    trio.run(3_000);
    assert_eq!(trio.node(A).status().role, Role::PrimarySolo);
    trio.fail_disk(A);
    trio.start(B);
    trio.run(8_000);
    assert_eq!(trio.primary(), Some(A));
    assert_eq!(
        trio.node(A).status().config.unwrap().in_sync,
        Members::one(A)
    );
    trio.restart(A);
    trio.settle();
}

#[test]
fn r1_a_failed_disk_waits_for_a_majority() {
    let mut trio = Trio::in_sync(63);
    trio.kill(W);
    trio.cut(A, B);
    trio.fail_disk(A);
    trio.run(5_000);
    assert_ne!(trio.primary(), Some(B), "one vote is no majority");
    trio.heal();
    let moved = trio.run_until(3_000, |trio| trio.primary() == Some(B));
    assert!(moved, "{}", trio.describe());
}

#[test]
fn r7_a_switch_that_is_asked_for_ends_with_the_disk() {
    let mut trio = Trio::in_sync(64);
    trio.switchover(A, 5);
    trio.fail_disk(A);
    let moved = trio.run_until(3_000, |trio| trio.primary() == Some(B));
    assert!(moved, "{}", trio.describe());
    assert!(trio.answer(A, 5).is_some());
}
