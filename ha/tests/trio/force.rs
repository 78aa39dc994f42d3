//! A forced start (law R9, H22): what it does, what it refuses, and what becomes of the others.

use ha::types::Reason;
use ha::wire::Message;
use ha::{Attached, Authority, Epoch, Lease, Members, NodeId, Role};

use crate::world::{A, B, Trio, W};

/// Box B alone, in sync, and nobody who votes with it.
fn stranded(seed: u64) -> Trio {
    let mut trio = Trio::in_sync(seed);
    trio.kill(W);
    trio.kill(A);
    trio.run(5_000);
    assert_eq!(trio.primary(), None, "no majority: {}", trio.describe());
    trio
}

/// Forces `node` and waits until it serves.
fn forced(trio: &mut Trio, node: NodeId) -> Epoch {
    trio.force(node, 1);
    let served = trio.run_until(10_000, |trio| {
        trio.engine(node).is_primary() && trio.node(node).status().serving
    });
    assert!(served, "{}", trio.describe());
    assert_eq!(trio.answer(node, 1), Some(Ok(())));
    trio.node(node).status().epoch
}

#[test]
fn r9_a_box_without_a_majority_is_forced_in_a_lineage_of_its_own() {
    let mut trio = stranded(60);
    let before = trio.record(B).group.unwrap().accepted;
    let epoch = forced(&mut trio, B);
    assert_eq!(
        (epoch.lineage(), epoch.counter()),
        (2, before.1.epoch.next().counter())
    );
    let status = trio.node(B).status();
    let config = status.config.unwrap();
    assert_eq!(config.reason, Reason::Force);
    assert_eq!(config.in_sync, Members::one(B));
    let voters: Vec<NodeId> = config.voters.iter().map(|voter| voter.node).collect();
    assert_eq!(voters, [B], "the silent are no voters of it");
    assert_eq!(status.lease, Lease::Unlimited);
    let accepted = trio.record(B).group.unwrap().accepted;
    assert!(
        accepted.0.lineage() == 2 && accepted.0 > before.0,
        "{accepted:?}"
    );
    assert!(trio.record(B).group.unwrap().seal >= before.1.epoch, "R3");
    assert!(trio.saw(B, "keep node 1, node 3 off until it can reach this box"));
    let acknowledged = trio.oracle.acknowledged_count();
    trio.run(1_000);
    assert!(
        trio.oracle.acknowledged_count() > acknowledged,
        "it serves alone"
    );
    // Restarted, it needs nobody either: it is the only voter.
    trio.restart(B);
    assert!(trio.run_until(10_000, |trio| trio.engine(B).is_primary()));
    assert_eq!(trio.node(B).status().epoch.lineage(), 2);
}

#[test]
fn r9_a_box_that_can_be_promoted_begins_no_lineage() {
    let mut trio = Trio::in_sync(61);
    trio.kill(A);
    trio.hold = Some(|from, _, message| from == W && matches!(message, Message::Promise { .. }));
    trio.run(2_000);
    assert_eq!(trio.primary(), None);
    trio.force(B, 1);
    trio.hold = None;
    trio.held_back.clear();
    assert!(trio.run_until(5_000, |trio| trio.primary() == Some(B)));
    assert_eq!(trio.node(B).status().epoch.lineage(), 0);
    assert_eq!(trio.answer(B, 1), Some(Ok(())));
    assert_eq!(trio.oracle.forced, 0);
    trio.start(A);
    trio.settle();
}

#[test]
fn r9_with_the_witness_a_stale_box_is_forced_by_a_vote() {
    let mut trio = Trio::in_sync(62);
    trio.kill(B);
    trio.run(3_000);
    assert!(
        trio.node(A).status().role == Role::PrimarySolo,
        "A went on alone"
    );
    trio.kill(A);
    trio.start(B);
    trio.run(5_000);
    assert_eq!(trio.primary(), None, "stale: {}", trio.describe());
    let epoch = forced(&mut trio, B);
    assert_eq!(epoch.lineage(), 2);
    let config = trio.node(B).status().config.unwrap();
    assert_eq!(config.voters.len(), 3, "by a vote: the voters stay");
    assert_eq!(config.base_of(A), None, "A has what B lacks");
    assert_eq!(trio.record(W).group.unwrap().accepted.1.epoch, epoch);
    assert!(trio.saw(B, "keep node 1 off until it can reach this box"));
    // A comes back with writes that B never had: it serves nothing, and nobody overwrites them.
    let old = trio.machines[&A].disk.log.clone();
    trio.start(A);
    trio.run(10_000);
    assert_eq!(trio.primary(), Some(B));
    assert!(
        trio.engine(B).forks > 0,
        "the copies are found to have parted"
    );
    assert_eq!(
        trio.machines[&A].disk.log,
        old,
        "merged: {}",
        trio.describe()
    );
    assert_eq!(trio.node(B).status().role, Role::PrimarySolo);
    assert_eq!(trio.node(A).status().role, Role::Secondary);
}

#[test]
fn h22_a_box_of_the_old_lineage_with_the_witness_yields_when_it_meets_the_new_one() {
    let mut trio = stranded(63);
    let epoch = forced(&mut trio, B);
    // What had to stay off did not: A and the witness serve, and have never heard of B's.
    trio.isolate(B);
    trio.start(W);
    trio.start(A);
    assert!(trio.run_until(10_000, |trio| trio.engine(A).is_primary()));
    for _ in 0..3 {
        trio.restart(A); // ballots of the old lineage rise
        assert!(trio.run_until(20_000, |trio| trio.engine(A).is_primary()));
    }
    let old = trio.machines[&A].disk.log.clone();
    let writes = trio.oracle.acknowledged_count();
    trio.heal();
    assert!(
        trio.run_until(5_000, |trio| trio.primary() == Some(B)),
        "{}",
        trio.describe()
    );
    trio.run(10_000);
    assert_eq!(trio.primary(), Some(B), "for good: {}", trio.describe());
    assert!(trio.oracle.acknowledged_count() > writes);
    let config = trio.node(B).status().config.unwrap();
    assert_eq!(config.epoch, epoch, "nothing of the old lineage is adopted");
    assert_eq!(config.voters.len(), 3, "the voters are admitted again");
    assert!(trio.engine(B).forks > 0 && config.in_sync == Members::one(B));
    assert!(
        old.is_subset(&trio.machines[&A].disk.log),
        "what A has is kept"
    );
}

#[test]
fn h22_ballots_of_a_forced_lineage_are_not_outbid_from_the_old_one() {
    let mut trio = stranded(64);
    forced(&mut trio, B);
    // A hears which ballot B accepted, and nothing else of it.
    trio.hold = Some(|from, to, message| {
        from == B && to == A && !matches!(message, Message::Ack(_) | Message::Hello)
    });
    trio.cut(B, W);
    trio.start(W);
    trio.start(A);
    for _ in 0..3 {
        assert!(
            trio.run_until(20_000, |trio| trio.engine(A).is_primary()),
            "{}",
            trio.describe()
        );
        let own = trio.record(A).group.unwrap();
        assert_eq!(own.accepted.0.lineage(), 0, "{:?}", own.accepted.0);
        trio.run(1_000);
        trio.restart(A);
    }
    trio.hold = None;
    trio.held_back.clear();
    trio.heal();
    assert!(
        trio.run_until(5_000, |trio| trio.primary() == Some(B)),
        "{}",
        trio.describe()
    );
    trio.run(5_000);
    assert_eq!(trio.primary(), Some(B));
}

#[test]
fn r9_what_did_not_go_on_is_brought_up_to_date_by_itself() {
    let mut trio = stranded(65);
    let lineage = forced(&mut trio, B).lineage();
    trio.run(1_000);
    for node in [W, A] {
        trio.start(node);
    }
    trio.settle();
    assert_eq!(trio.engine(B).forks, 0);
    let status = trio.node(B).status();
    assert_eq!((trio.primary(), status.epoch.lineage()), (Some(B), lineage));
    assert_eq!(status.config.unwrap().in_sync, Members::pair(A, B));
}

#[test]
fn r9_a_living_primary_is_not_forced_away() {
    let mut trio = Trio::in_sync(66);
    trio.force(B, 1);
    let refused = trio.answer(B, 1).expect("at once").unwrap_err();
    assert!(
        refused.contains("node 1 is primary and is heard here"),
        "{refused}"
    );
    trio.force(A, 2);
    assert!(
        trio.answer(A, 2)
            .unwrap()
            .unwrap_err()
            .contains("primary already")
    );
    // Nor one that comes while the forced start is under way.
    let mut trio = Trio::in_sync(67);
    trio.isolate(B);
    trio.hold = Some(|_, _, message| matches!(message, Message::Accepted { .. }));
    trio.kill(B);
    trio.start(B);
    trio.run(500);
    trio.force(B, 1);
    trio.heal();
    assert!(trio.run_until(5_000, |trio| trio.answer(B, 1).is_some()));
    let refused = trio.answer(B, 1).unwrap().unwrap_err();
    assert!(
        refused.contains("is primary and is heard here"),
        "{refused}"
    );
    trio.release();
    trio.settle();
    assert_eq!(trio.oracle.forced, 0);
}

#[test]
fn r9_what_is_incomplete_or_new_is_not_forced() {
    let mut trio = stranded(68);
    trio.kill(B);
    trio.machines.get_mut(&B).unwrap().attached = Attached::No(String::from("volume 2 is missing"));
    trio.start(B);
    trio.run(2_000);
    trio.force(B, 1);
    let refused = trio.answer(B, 1).expect("at once").unwrap_err();
    assert!(refused.contains("volume 2 is missing"), "{refused}");
    // A box that was never admitted has nothing to serve.
    let mut trio = Trio::new(69);
    trio.isolate(B);
    trio.run(3_000);
    trio.force(B, 1);
    let refused = trio.answer(B, 1).expect("at once").unwrap_err();
    assert!(refused.contains("no vote in the group"), "{refused}");
}

#[test]
fn r9_both_boxes_forced_each_alone_never_merge() {
    let mut trio = Trio::in_sync(70);
    trio.kill(W);
    for node in [A, B] {
        trio.isolate(node);
    }
    trio.restart(A);
    trio.restart(B);
    trio.run(3_000);
    let one = forced(&mut trio, A);
    let other = forced(&mut trio, B);
    assert_eq!(
        (one.lineage(), other.lineage()),
        (1, 2),
        "two arrays, and two lineages"
    );
    trio.run(1_000);
    let logs = [A, B].map(|node| trio.machines[&node].disk.log.clone());
    trio.heal();
    trio.run(10_000);
    assert_eq!(
        trio.primary(),
        Some(B),
        "the later lineage serves: {}",
        trio.describe()
    );
    assert!(trio.engine(B).forks > 0);
    assert!(
        logs[0].is_subset(&trio.machines[&A].disk.log),
        "A's is kept"
    );
    assert!(
        logs[1].is_subset(&trio.machines[&B].disk.log),
        "B's goes on"
    );
    let lineage = |node| match trio.engine(node).authority {
        Authority::Secondary { epoch } | Authority::Primary { epoch, .. } => epoch.lineage(),
    };
    assert_eq!([lineage(A), lineage(B)], [2, 2], "one authority");
}

#[test]
fn r9_an_attempt_that_is_cut_short_binds_nobody() {
    for seed in 0..30 {
        let mut trio = stranded(100 + seed);
        let before = trio.record(B).group.unwrap();
        trio.force(B, 1);
        trio.run(seed / 6);
        trio.kill(B);
        let after = trio.record(B).group.unwrap();
        let done = after.accepted.1.epoch.lineage() > 0;
        assert!(done || after.promised.lineage() == 0, "{after:?}");
        assert!(done || after.accepted == before.accepted);
        for node in [W, A, B] {
            trio.start(node);
        }
        if !done {
            trio.settle();
        }
    }
}
