//! The scenarios of the red team and of the design, by name, in virtual time.

use ha::wire::Message;
use ha::{Input, Lease, LinkId, Members, NodeId, Resource, Role};

use crate::world::{A, B, MS, Trio, W};

fn failover_ms(trio: &Trio) -> u64 {
    trio.timing.failover_ms()
}

#[test]
fn the_first_box_founds_and_admits_witness_and_peer_and_they_get_in_sync() {
    let trio = Trio::in_sync(1);
    assert_eq!(trio.primary(), Some(A));
    let status = trio.node(A).status();
    let config = status.config.unwrap();
    assert_eq!(config.in_sync, Members::pair(A, B));
    assert_eq!(config.voters.len(), 3);
    assert_eq!(status.why, "both boxes are in sync");
    assert_eq!(status.next, "nothing to do");
    assert_eq!(trio.node(B).status().role, Role::Secondary);
    assert!(trio.oracle.acknowledged_count() > 0 && trio.oracle.reads > 0);
    assert_eq!(trio.machines[&A].started, Resource::START_ORDER);
}

#[test]
fn a_dead_primary_is_replaced_within_the_failover_time_and_150_ms() {
    for seed in 0..40 {
        let mut trio = Trio::in_sync(seed);
        trio.run(seed * 13);
        let budget = failover_ms(&trio) + 150;
        let start = trio.now;
        trio.kill(A);
        let took = trio.run_until(5_000, |trio| trio.primary() == Some(B));
        assert!(took, "{}", trio.describe());
        let ms = (trio.now - start) / MS;
        assert!(ms <= budget, "seed {seed}: {ms} ms > {budget} ms");
        assert!(trio.run_until(1_000, |trio| trio.node(B).status().serving));
        assert_eq!(
            trio.node(B).status().config.unwrap().in_sync,
            Members::one(B)
        );
    }
}

#[test]
fn r1_a_primary_that_loses_its_peer_is_solo_within_one_round_trip_to_the_witness() {
    for seed in 0..20 {
        let mut trio = Trio::in_sync(seed);
        trio.run(500);
        trio.kill(B);
        assert!(trio.run_until(2_000, |trio| trio.saw(A, "peer lost")));
        let lost = trio.now;
        let solo = |trio: &Trio| trio.node(A).status().role == Role::PrimarySolo;
        assert!(trio.run_until(1_000, solo), "{}", trio.describe());
        let us = (trio.now - lost) / 1_000;
        // Two delays of at most 0.5 ms and the slower of two disks of at most 3.1 ms.
        assert!(us <= 1_000 + 3_100 + 100, "seed {seed}: {us} us");
        assert_eq!(trio.node(A).status().lease, Lease::Unlimited);
    }
}

#[test]
fn r5b_a_solo_primary_survives_the_loss_of_the_witness_and_readmits_its_peer_without_it() {
    let mut trio = Trio::in_sync(3);
    trio.kill(B);
    assert!(trio.run_until(3_000, |trio| trio.node(A).status().role
        == Role::PrimarySolo));
    trio.kill(W);
    trio.run(30_000);
    assert_eq!(trio.node(A).status().lease, Lease::Unlimited);
    let before = trio.oracle.acknowledged_count();
    trio.run(1_000);
    assert!(trio.oracle.acknowledged_count() > before);
    trio.start(B);
    assert!(
        trio.run_until(10_000, |trio| trio.node(A).status().role
            == Role::PrimarySync),
        "{}",
        trio.describe()
    );
}

#[test]
fn a_stale_box_refuses_and_says_who_has_the_data() {
    let mut trio = Trio::in_sync(4);
    trio.kill(B);
    trio.run(3_000);
    trio.kill(A);
    trio.start(B);
    trio.run(20_000);
    assert_eq!(trio.primary(), None);
    let status = trio.node(B).status();
    assert!(
        status.why.contains("node 1 has newer data"),
        "{}",
        status.why
    );
    assert!(status.why.contains("start node 1"), "{}", status.why);
    trio.kill(W);
    trio.restart(B);
    trio.run(20_000);
    assert_eq!(trio.primary(), None);
    // The box with the data comes back: with it and the stale one there is a majority.
    trio.start(A);
    assert!(
        trio.run_until(20_000, |trio| trio.primary() == Some(A)),
        "{}",
        trio.describe()
    );
}

#[test]
fn an_isolated_primary_freezes_stops_reading_and_is_replaced() {
    let mut trio = Trio::in_sync(5);
    trio.isolate(A);
    let lease = u64::from(trio.timing.lease_ms);
    trio.run(lease + 5);
    assert_eq!(trio.node(A).status().lease, Lease::None);
    let start = trio.now - (lease + 5) * MS;
    assert!(
        trio.run_until(3_000, |trio| trio.engine(B).is_primary()),
        "{}",
        trio.describe()
    );
    assert!((trio.now - start) / MS <= failover_ms(&trio) + 150);
    assert_eq!(trio.node(A).status().role, Role::Frozen);
    trio.heal();
    trio.settle();
    assert_eq!(trio.primary(), Some(B));
    assert_eq!(trio.machines[&A].started, []);
}

#[test]
fn with_only_the_cable_between_the_boxes_cut_the_primary_goes_on_and_the_standby_does_not() {
    let mut trio = Trio::in_sync(6);
    trio.cut(A, B);
    assert!(trio.run_until(3_000, |trio| trio.node(A).status().role
        == Role::PrimarySolo));
    trio.run(20_000);
    assert_eq!(trio.primary(), Some(A));
    assert_eq!(trio.node(A).status().promotions, 1);
    trio.heal();
    trio.settle();
    assert_eq!(trio.primary(), Some(A));
}

#[test]
fn a_paused_primary_acknowledges_nothing_when_it_resumes() {
    let mut trio = Trio::in_sync(7);
    trio.stop(A);
    assert!(trio.run_until(5_000, |trio| trio.engine(B).is_primary()));
    trio.run(30_000);
    trio.resume(A);
    trio.run(2_000);
    assert!(!trio.engine(A).is_primary(), "{}", trio.describe());
    trio.settle();
    assert_eq!(trio.primary(), Some(B));
}

#[test]
fn after_a_site_power_loss_the_box_that_was_in_sync_serves_alone() {
    for survivor in [A, B] {
        let mut trio = Trio::in_sync(8);
        for node in [A, B, W] {
            trio.kill(node);
        }
        trio.run(10_000);
        trio.start(W);
        trio.start(survivor);
        assert!(trio.run_until(10_000, |trio| trio.primary() == Some(survivor)));
    }
}

#[test]
fn after_a_site_power_loss_all_three_settle() {
    for seed in 0..30 {
        let mut trio = Trio::in_sync(seed);
        for node in [A, B, W] {
            trio.kill(node);
        }
        trio.run(1_000);
        for node in [A, B, W] {
            trio.start(node);
        }
        trio.settle();
    }
}

#[test]
fn r7_a_planned_switch_moves_the_role_quickly_and_answers_the_operator() {
    for seed in 0..20 {
        let mut trio = Trio::in_sync(seed);
        trio.run(700 + seed * 7);
        let start = trio.now;
        trio.switchover(A, 7);
        assert!(
            trio.run_until(2_000, |trio| trio.primary() == Some(B)),
            "{}",
            trio.describe()
        );
        let ms = (trio.now - start) / MS;
        assert!(ms < 100, "seed {seed}: {ms} ms");
        trio.run(200);
        assert_eq!(trio.answer(A, 7), Some(Ok(())));
        let status = trio.node(B).status();
        assert_eq!(status.config.unwrap().in_sync, Members::pair(A, B));
        assert!(status.serving, "{}", trio.describe());
        assert_eq!(trio.machines[&A].started, []);
    }
}

#[test]
fn r7_gates_refuse_in_words() {
    let mut trio = Trio::in_sync(9);
    trio.switchover(B, 1);
    assert!(
        trio.answer(B, 1)
            .unwrap()
            .unwrap_err()
            .contains("ask the primary")
    );
    trio.input(
        B,
        Input::Local {
            config_generation: 3,
            config_hash: 4,
        },
    );
    trio.run(500);
    trio.switchover(A, 2);
    let refused = trio.answer(A, 2).unwrap().unwrap_err();
    assert!(
        refused.contains("different cluster configurations"),
        "{refused}"
    );
    trio.input(
        A,
        Input::Local {
            config_generation: 3,
            config_hash: 4,
        },
    );
    trio.kill(B);
    trio.run(2_000);
    trio.switchover(A, 3);
    assert!(
        trio.answer(A, 3)
            .unwrap()
            .unwrap_err()
            .contains("not in sync")
    );
}

#[test]
fn r5_a_grant_that_comes_late_counts_from_its_heartbeat() {
    let mut trio = Trio::in_sync(38);
    trio.hold = Some(|_, to, message| to == A && matches!(message, Message::Ack(_)));
    trio.run(250);
    trio.isolate(A);
    assert!(trio.run_until(3_000, |trio| trio.engine(B).is_primary()));
    for (_, _, link, bytes) in std::mem::take(&mut trio.held_back) {
        trio.input(A, Input::Datagram { link, bytes });
        assert_eq!(trio.node(A).status().lease, Lease::None);
    }
}

#[test]
fn a_living_voter_is_not_removed() {
    let mut trio = Trio::in_sync(22);
    let command = ha::OperatorCommand::RemoveVoter { node: W };
    trio.input(A, Input::Operator { id: 1, command });
    assert!(
        trio.answer(A, 1)
            .unwrap()
            .unwrap_err()
            .contains("stop it first")
    );
}

#[test]
fn with_the_heartbeat_links_cut_but_the_data_session_up_nothing_moves() {
    let mut trio = Trio::in_sync(36);
    let epoch = trio.node(A).status().epoch;
    for (from, to) in [(A, B), (B, A)] {
        for link in [LinkId(0), LinkId(1)] {
            trio.cut_links.insert((from, to, link));
        }
    }
    trio.run(10_000);
    assert_eq!(trio.node(A).status().epoch, epoch);
    assert!(matches!(trio.node(A).status().lease, Lease::Until(_)));
}

#[test]
fn recordings_of_a_dead_primary_do_not_keep_it_alive() {
    let mut trio = Trio::in_sync(37);
    trio.hold =
        Some(|from, to, message| from == A && to == B && matches!(message, Message::Heartbeat(_)));
    trio.run(450);
    let recorded = std::mem::take(&mut trio.held_back);
    trio.hold = None;
    assert!(recorded.len() >= 4);
    for (_, _, link, bytes) in &recorded {
        trio.input(
            B,
            Input::Datagram {
                link: *link,
                bytes: bytes.clone(),
            },
        );
    }
    trio.kill(A);
    for _ in 0..30 {
        for (_, _, link, bytes) in &recorded {
            trio.input(
                B,
                Input::Datagram {
                    link: *link,
                    bytes: bytes.clone(),
                },
            );
        }
        trio.run(50);
    }
    assert!(trio.engine(B).is_primary(), "{}", trio.describe());
}

#[test]
fn a_resource_that_does_not_start_is_tried_again_while_the_box_is_primary() {
    let mut trio = Trio::in_sync(30);
    trio.machines.get_mut(&B).unwrap().broken = Some(Resource::Target);
    trio.kill(A);
    assert!(trio.run_until(5_000, |trio| trio.saw(B, "target did not start")));
    trio.run(200);
    assert_eq!(trio.machines[&B].started, []);
    trio.machines.get_mut(&B).unwrap().broken = None;
    assert!(trio.run_until(5_000, |trio| trio.node(B).status().serving));
}

#[test]
fn losing_one_of_two_links_changes_nothing() {
    let mut trio = Trio::in_sync(31);
    let epoch = trio.node(A).status().epoch;
    for (from, to) in [(A, B), (B, A)] {
        trio.cut_links.insert((from, to, LinkId(0)));
    }
    trio.run(10_000);
    assert_eq!(trio.node(A).status().epoch, epoch);
    let seen = trio.node(B).status().peer;
    let last = |link: u8| {
        seen.iter()
            .find(|status| status.link == LinkId(link))
            .unwrap()
            .last_seen
            .unwrap()
    };
    assert!(last(1) > last(0));
}

#[test]
fn who_never_joined_is_told_from_who_is_silent() {
    let mut trio = Trio::new(41);
    trio.kill(W);
    trio.kill(B);
    trio.run(3_000);
    let next = trio.node(A).status().next;
    assert!(next.contains("twinsan pair join"), "{next}");
    trio.start(B);
    let in_sync = |trio: &Trio| trio.node(A).status().role == Role::PrimarySync;
    assert!(trio.run_until(20_000, in_sync), "{}", trio.describe());
    let status = trio.node(A).status();
    assert!(status.why.contains("no witness votes"), "{}", status.why);
    assert!(
        status.next.contains("twinsan witness join"),
        "{}",
        status.next
    );
}

#[test]
fn without_the_witness_both_boxes_go_on_together_and_say_what_is_missing() {
    let mut trio = Trio::in_sync(32);
    trio.kill(W);
    trio.run(10_000);
    let status = trio.node(A).status();
    assert_eq!(status.role, Role::PrimarySync);
    assert!(matches!(status.lease, Lease::Until(_)));
    assert!(
        status.why.contains("the witness is silent"),
        "{}",
        status.why
    );
    // A second failure freezes: nobody may guess.
    trio.kill(B);
    trio.run(10_000);
    assert_eq!(trio.node(A).status().role, Role::Frozen);
    trio.start(B);
    assert!(trio.run_until(10_000, |trio| trio.node(A).status().role
        == Role::PrimarySync));
}

#[test]
fn a_new_peer_that_dies_while_it_is_admitted_does_not_take_the_group_with_it() {
    for wait in 0..40 {
        let mut trio = Trio::new(wait);
        trio.kill(W);
        trio.run(wait * 10);
        trio.kill(B);
        trio.restart(A);
        let admitted = trio.record(A).group.unwrap().accepted.1.voter(B).is_some();
        trio.run(5_000);
        assert!(
            trio.primary() == Some(A) || admitted,
            "wait {wait}: {}",
            trio.describe()
        );
        trio.start(B);
        trio.start(W);
        trio.settle();
    }
}

#[test]
fn nothing_a_stranger_sends_is_answered_or_believed() {
    let mut trio = Trio::in_sync(33);
    let epoch = trio.node(A).status().epoch;
    for len in 0..300 {
        let bytes: Vec<u8> = (0..len)
            .map(|_| trio.random.next().to_le_bytes()[0])
            .collect();
        trio.input(
            A,
            Input::Datagram {
                link: LinkId(0),
                bytes,
            },
        );
    }
    trio.run(1_000);
    assert_eq!(trio.node(A).status().epoch, epoch);
    assert_eq!(trio.primary(), Some(A));
    let _: NodeId = W;
}
