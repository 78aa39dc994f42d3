//! The scenarios of the red team and of the design, by name, in virtual time.

use ha::types::Reason;
use ha::wire::Message;
use ha::{Attached, DataState, Epoch, Input, Lease, LinkId, Members, NodeId, Resource, Role};

use crate::world::{A, B, GROUP, KEY, MS, Trio, W};

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
fn h1a_acks_need_both_boxes_while_the_readmission_is_in_doubt() {
    let mut trio = Trio::in_sync(10);
    trio.kill(B);
    trio.run(2_000);
    // Every answer to the readmission is lost: it stays in doubt.
    trio.hold = Some(|_, _, message| matches!(message, Message::Accepted { .. }));
    trio.start(B);
    let doubtful = |trio: &Trio| trio.engine(A).needed() == Members::pair(A, B);
    assert!(trio.run_until(10_000, doubtful), "{}", trio.describe());
    assert_eq!(
        trio.node(A).status().role,
        Role::PrimarySolo,
        "not known chosen"
    );
    let (before, _) = (trio.oracle.acknowledged_count(), trio.isolate(A));
    trio.run(400);
    // In doubt, alone: it acknowledges nothing and its reads need a lease.
    trio.run(30_000);
    assert!(!trio.engine(A).needs_only_itself());
    assert_eq!(trio.node(A).status().lease, Lease::None);
    trio.hold = None;
    trio.held_back.clear();
    trio.run(5_000);
    assert!(
        trio.engine(B).is_primary(),
        "the readmission was chosen: {}",
        trio.describe()
    );
    assert!(trio.oracle.acknowledged_count() >= before);
    trio.heal();
    trio.settle();
}

#[test]
fn h2_a_degrade_that_left_is_finished_even_if_the_peer_is_back() {
    let mut trio = Trio::in_sync(11);
    let epoch = trio.node(A).status().epoch;
    trio.hold = Some(|_, _, message| matches!(message, Message::Accept { .. }));
    trio.cut_links.insert((A, B, LinkId(200)));
    trio.cut_links.insert((B, A, LinkId(200)));
    assert!(trio.run_until(3_000, |trio| trio.node(A).status().role == Role::Frozen));
    trio.run(300);
    trio.heal();
    let before = trio.oracle.acknowledged_count();
    trio.run(300);
    assert_eq!(
        trio.oracle.acknowledged_count(),
        before,
        "no thaw in the old epoch"
    );
    trio.release();
    trio.settle();
    assert!(trio.node(A).status().epoch >= epoch.next().next());
}

#[test]
fn h3a_a_primary_that_promised_a_foreign_ballot_has_no_lease_until_its_own_is_chosen() {
    let mut trio = Trio::in_sync(12);
    // B does not hear A on any link, but A hears B; the witness hears nobody.
    trio.cut.insert((A, B));
    trio.cut(A, W);
    trio.run(u64::from(trio.timing.lease_ms) + 10);
    assert_eq!(trio.node(A).status().lease, Lease::None);
    trio.cut.remove(&(A, B));
    trio.cut(B, W);
    let leased = |trio: &Trio| matches!(trio.node(A).status().lease, Lease::Until(_));
    let again = trio.run_until(5_000, |trio| leased(trio) || trio.engine(B).is_primary());
    assert!(again, "{}", trio.describe());
    trio.heal();
    trio.settle();
}

#[test]
fn h4_the_epoch_read_is_sealed_not_the_epoch_known() {
    let mut trio = Trio::in_sync(13);
    trio.kill(B);
    trio.run(2_000);
    // B gets in sync again but hears neither the Accept nor the result of the readmission.
    trio.hold = Some(|_, to, message| {
        to == B && matches!(message, Message::Accept { .. } | Message::Learn { .. })
    });
    trio.start(B);
    assert!(trio.run_until(10_000, |trio| trio.node(A).status().role
        == Role::PrimarySync));
    let epoch = trio.node(A).status().epoch;
    assert!(
        trio.record(B).group.unwrap().accepted.1.epoch < epoch,
        "B is one commit behind"
    );
    trio.kill(A);
    trio.hold = None;
    trio.held_back.clear();
    assert!(
        trio.run_until(5_000, |trio| trio.engine(B).is_primary()),
        "{}",
        trio.describe()
    );
    assert!(trio.record(B).group.unwrap().seal >= epoch);
}

#[test]
fn h5a_a_primary_restarted_within_the_detector_is_a_plain_candidate() {
    let mut trio = Trio::in_sync(14);
    let before = trio.node(A).status().epoch;
    trio.kill(A);
    trio.run(200);
    trio.start(A);
    trio.run(5);
    assert!(!trio.engine(A).is_primary());
    trio.settle();
    let primary = trio.primary().unwrap();
    assert!(
        trio.node(primary).status().epoch > before.next(),
        "promoted, then readmitted"
    );
    assert!(trio.oracle.promotions >= 2);
}

#[test]
fn h5a_a_solo_primary_that_restarts_reads_a_majority_first() {
    let mut trio = Trio::in_sync(15);
    trio.kill(B);
    trio.run(2_000);
    trio.kill(W);
    trio.restart(A);
    trio.run(30_000);
    assert_eq!(trio.primary(), None, "no majority, no service");
    trio.start(W);
    assert!(trio.run_until(5_000, |trio| trio.primary() == Some(A)));
}

#[test]
fn h5b_no_ballot_is_used_twice_across_a_crash() {
    for seed in 0..60 {
        let mut trio = Trio::in_sync(seed);
        for _ in 0..6 {
            let node = if trio.random.percent(50) { A } else { B };
            let counter = |trio: &Trio| trio.record(node).group.map_or(0, |state| state.counter);
            let wait = trio.random.below(40);
            trio.restart(node);
            trio.run(wait);
            let before = counter(&trio);
            trio.restart(node);
            assert!(counter(&trio) >= before);
            trio.run(1_500);
        }
        trio.settle();
    }
}

#[test]
fn h5b_a_ballot_that_left_is_durable_at_its_proposer() {
    for seed in 0..8 {
        let mut trio = Trio::in_sync(seed);
        // A, restarted, asks the witness alone, and dies before its slow disk has its ballot.
        trio.kill(A);
        trio.cut(A, B);
        trio.machines.get_mut(&A).unwrap().fsync_us = Some(60_000);
        trio.start(A);
        trio.run(445);
        trio.kill(A);
        // Then it asks B alone.
        trio.heal();
        trio.cut(A, W);
        trio.machines.get_mut(&A).unwrap().fsync_us = None;
        trio.start(A);
        trio.run(460);
        trio.heal();
        trio.settle();
    }
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
fn h6_a_promoted_box_is_alone_in_s() {
    let mut trio = Trio::in_sync(16);
    trio.kill(A);
    assert!(trio.run_until(5_000, |trio| trio.engine(B).is_primary()));
    let config = trio.node(B).status().config.unwrap();
    assert_eq!(
        (config.in_sync, config.reason),
        (Members::one(B), Reason::Promote)
    );
    assert_eq!(config.base_of(A), Some(Epoch(config.epoch.0 - 1)));
}

#[test]
fn h9b_a_box_with_other_disks_or_without_all_volumes_stays_out() {
    for (attached, disk) in [
        (Attached::No(String::from("volume 3 is missing")), 0xd2),
        (Attached::Yes, 0xff),
    ] {
        let mut trio = Trio::in_sync(17);
        trio.kill(A);
        let data = DataState {
            attached,
            disk: Some(ha::DiskInstance(disk)),
        };
        trio.input(B, Input::Data(data));
        trio.run(10_000);
        assert_eq!(trio.primary(), None);
        let status = trio.node(B).status();
        let reason = status.eligible.unwrap_err();
        assert!(reason.contains("volume 3 is missing") || reason.contains("not the ones"));
    }
}

#[test]
fn h13_a_witness_put_back_to_an_older_state_has_no_vote() {
    let mut trio = Trio::in_sync(18);
    let old = trio.machines[&W].record.clone();
    trio.kill(B);
    trio.run(3_000);
    assert_eq!(trio.node(A).status().role, Role::PrimarySolo);
    trio.kill(W);
    trio.machines.get_mut(&W).unwrap().record = old;
    trio.start(W);
    trio.run(1_000);
    assert!(trio.saw(A, "older record"), "A remembers the witness");
    // B heard nothing of the commit, but A tells it before it dies.
    trio.start(B);
    trio.cut_links.insert((A, B, LinkId(200)));
    trio.cut_links.insert((B, A, LinkId(200)));
    trio.run(500);
    trio.kill(A);
    trio.run(20_000);
    assert_eq!(
        trio.primary(),
        None,
        "a stale box must not promote: {}",
        trio.describe()
    );
}

#[test]
fn h13_a_box_put_back_to_an_older_state_has_no_vote() {
    let mut trio = Trio::in_sync(19);
    let old = trio.machines[&B].record.clone();
    trio.kill(A);
    assert!(trio.run_until(5_000, |trio| trio.engine(B).is_primary()));
    trio.run(500);
    trio.start(A);
    trio.settle();
    trio.run(500);
    trio.kill(B);
    trio.machines.get_mut(&B).unwrap().record = old;
    trio.start(B);
    trio.run(3_000);
    assert!(
        trio.node(B)
            .status()
            .eligible
            .unwrap_err()
            .contains("no vote")
    );
}

#[test]
fn h14_an_emptied_witness_makes_no_record_on_prepare() {
    let mut trio = Trio::in_sync(20);
    trio.kill(B);
    trio.run(3_000);
    trio.kill(W);
    let emptied = ha::blank(ha::VoterInstance(0x33)).encode();
    trio.machines.get_mut(&W).unwrap().record = emptied;
    trio.kill(A);
    trio.start(W);
    trio.start(B);
    trio.run(20_000);
    assert_eq!(trio.primary(), None, "{}", trio.describe());
    assert!(trio.record(W).group.is_none());
}

#[test]
fn h15_a_reinstalled_witness_is_replaced_by_two_commits_of_the_living() {
    let mut trio = Trio::in_sync(21);
    trio.kill(W);
    let other = ha::VoterInstance(0x44);
    trio.machines.get_mut(&W).unwrap().record = ha::blank(other).encode();
    trio.start(W);
    trio.run(2_000);
    assert!(trio.saw(A, "was reinstalled or restored and has no vote"));
    assert!(trio.record(W).group.is_none(), "not admitted by itself");
    let command = ha::OperatorCommand::RemoveVoter { node: W };
    trio.input(A, Input::Operator { id: 1, command });
    trio.run(2_000);
    assert_eq!(trio.answer(A, 1), Some(Ok(())));
    let config = trio.node(A).status().config.unwrap();
    assert_eq!(config.voter(W).unwrap().instance, other);
    trio.kill(A);
    assert!(
        trio.run_until(5_000, |trio| trio.engine(B).is_primary()),
        "the new one votes"
    );
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
fn h16_a_restarted_witness_waits_before_it_helps_another() {
    let mut trio = Trio::in_sync(23);
    trio.run(300);
    // A loses B, keeps the witness; the witness restarts right after a grant.
    trio.cut(A, B);
    trio.run(10);
    trio.restart(W);
    trio.run(20_000);
    assert_eq!(trio.primary(), Some(A));
}

#[test]
fn h17_a_suspended_holder_counts_the_time_it_slept() {
    let mut trio = Trio::in_sync(24);
    trio.run(100);
    trio.stop(A);
    trio.machines.get_mut(&A).unwrap().suspended_ns = 5_000 * MS;
    trio.run(5_000);
    assert!(trio.engine(B).is_primary());
    // At the very moment it resumes, before it has handled anything, its lease is over.
    let now = trio.clock(A).boot;
    assert!(!trio.engine(A).may_read(now));
    trio.resume(A);
    trio.settle();
}

#[test]
fn h19_a_witness_does_not_promise_to_a_primary_that_does_not_hear_it() {
    let mut trio = Trio::in_sync(25);
    // A reaches W, W does not reach A; the boxes do not reach each other.
    trio.cut(A, B);
    trio.cut.insert((W, A));
    assert!(
        trio.run_until(5_000, |trio| trio.engine(B).is_primary()),
        "{}",
        trio.describe()
    );
    trio.heal();
    trio.settle();
}

#[test]
fn h21_a_solo_primary_obeys_a_higher_epoch() {
    let mut trio = Trio::in_sync(26);
    trio.kill(B);
    trio.run(2_000);
    assert_eq!(trio.node(A).status().lease, Lease::Unlimited);
    // Somebody forced another config past it: told by a signed Learn.
    let state = trio.record(A).group.unwrap();
    let mut config = state.accepted.1.clone();
    config.epoch = Epoch(1 << 48);
    config.primary = Some((B, ha::Incarnation(5)));
    config.in_sync = Members::one(B);
    let ballot = ha::Ballot {
        counter: 900,
        node: B,
        instance: ha::VoterInstance(0x22),
    };
    trio.kill(W);
    let header = ha::wire::Header {
        group: GROUP,
        source: W,
        destination: A,
        link: LinkId(9),
        incarnation: ha::Incarnation(77),
        boot: ha::BootId(1),
        destination_incarnation: ha::Incarnation(trio.machines[&A].process),
        seq: 1,
        stamp: ha::Time(1),
        echo: trio.clock(A).boot,
    };
    let learn = Message::Learn {
        ballot,
        config: Box::new(config),
    };
    let bytes = ha::wire::encode(&KEY, &header, &learn);
    trio.input(
        A,
        Input::Datagram {
            link: LinkId(9),
            bytes,
        },
    );
    assert!(!trio.engine(A).is_primary());
    assert_eq!(trio.node(A).status().lease, Lease::None);
}

/// A datagram from somebody who is off, with everything the key allows.
fn forge(trio: &Trio, from: NodeId, link: LinkId, seq: u64, message: &Message) -> Vec<u8> {
    let header = ha::wire::Header {
        group: GROUP,
        source: from,
        destination: A,
        link,
        incarnation: ha::Incarnation(77),
        boot: ha::BootId(1),
        destination_incarnation: ha::Incarnation(trio.machines[&A].process),
        seq,
        stamp: ha::Time(seq),
        echo: trio.clock(A).boot,
    };
    ha::wire::encode(&KEY, &header, message)
}

#[test]
fn h21_a_solo_primary_obeys_whoever_accepted_a_higher_ballot() {
    let mut trio = Trio::in_sync(34);
    trio.kill(B);
    trio.run(2_000);
    trio.kill(W);
    let summary = ha::wire::Summary {
        ballot: ha::Ballot {
            counter: 900,
            node: B,
            instance: ha::VoterInstance(0x22),
        },
        epoch: Epoch(1 << 48),
        primary: Some((B, ha::Incarnation(5))),
    };
    let mark = ha::wire::VoterMark {
        instance: ha::VoterInstance(0x33),
        record_seq: 900,
        stamp: trio.clock(A).boot,
    };
    let verdict = ha::wire::Verdict::Refused;
    let ack = Message::Ack(ha::wire::Ack {
        mark,
        accepted: Some(summary),
        verdict,
    });
    let bytes = forge(&trio, W, LinkId(9), 1, &ack);
    trio.input(
        A,
        Input::Datagram {
            link: LinkId(9),
            bytes,
        },
    );
    assert!(!trio.engine(A).is_primary());
}

#[test]
fn h3a_no_promise_of_a_foreign_ballot_leaves_while_a_lease_is_out() {
    let mut trio = Trio::in_sync(35);
    trio.kill(B);
    trio.run(100);
    assert!(matches!(trio.node(A).status().lease, Lease::Until(_)));
    let foreign = ha::Ballot {
        counter: 900,
        node: B,
        instance: ha::VoterInstance(0x22),
    };
    let bytes = forge(&trio, B, LinkId(0), 1, &Message::Prepare(foreign));
    trio.input(
        A,
        Input::Datagram {
            link: LinkId(0),
            bytes,
        },
    );
    trio.run(50);
    let promised = trio.record(A).group.unwrap().promised == foreign;
    assert!(!promised || trio.node(A).status().lease == Lease::None);
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
fn h23_in_doubt_the_old_primary_stays_stopped() {
    let mut trio = Trio::in_sync(27);
    trio.hold = Some(|from, _, message| from == A && matches!(message, Message::Accept { .. }));
    trio.switchover(A, 1);
    trio.run(500);
    assert_eq!(trio.node(A).status().role, Role::HandingOver);
    assert_eq!(trio.node(A).status().lease, Lease::None);
    assert!(!trio.engine(B).is_primary());
    let before = trio.oracle.acknowledged_count();
    trio.run(2_000);
    assert_eq!(trio.oracle.acknowledged_count(), before);
    trio.release();
    trio.run(5_000);
    assert!(trio.answer(A, 1).is_some());
    trio.settle();
}

#[test]
fn h23_a_handover_to_a_box_that_dies_does_not_end_the_service() {
    let mut trio = Trio::in_sync(28);
    trio.switchover(A, 1);
    trio.run(3);
    trio.kill(B);
    assert!(
        trio.run_until(10_000, |trio| trio.engine(A).needs_only_itself()),
        "{}",
        trio.describe()
    );
    assert!(trio.answer(A, 1).is_some());
}

#[test]
fn h24_a_voter_that_missed_the_last_commit_is_told() {
    let mut trio = Trio::in_sync(29);
    trio.cut(A, W);
    trio.cut(B, W);
    trio.switchover(A, 1);
    assert!(trio.run_until(3_000, |trio| trio.primary() == Some(B)));
    trio.heal();
    trio.run(2_000);
    let (a, w) = (trio.record(A).group.unwrap(), trio.record(W).group.unwrap());
    assert_eq!(a.accepted, w.accepted);
    // Now the witness is enough for the lease and for going on alone.
    trio.kill(A);
    assert!(trio.run_until(5_000, |trio| trio.engine(B).needs_only_itself()));
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
fn without_the_witness_both_boxes_go_on_together_and_say_what_is_missing() {
    let mut trio = Trio::in_sync(32);
    trio.kill(W);
    trio.run(10_000);
    let status = trio.node(A).status();
    assert_eq!(status.role, Role::PrimarySync);
    assert!(matches!(status.lease, Lease::Until(_)));
    assert!(status.why.contains("no tie-breaker"), "{}", status.why);
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
