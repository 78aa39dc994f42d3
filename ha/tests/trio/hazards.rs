//! The holes that the red team found, by name, in virtual time.

use ha::types::Reason;
use ha::wire::Message;
use ha::{Attached, DataState, Epoch, Input, Lease, LinkId, Members, NodeId, Role};

use crate::world::{A, B, GROUP, KEY, MS, Trio, W};

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
    trio.isolate(A);
    trio.run(5); // what B answered before the cut is still on its way
    let before = trio.oracle.acknowledged_count();
    // In doubt, alone: it acknowledges nothing and its reads need a lease.
    trio.run(30_400);
    assert_eq!(trio.oracle.acknowledged_count(), before, "acked in doubt");
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
    assert!(trio.oracle.acknowledged_count() > before, "B serves");
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
    trio.run(2 * trio.timing.failover_ms()); // however often the attempt times out
    assert_eq!(
        trio.oracle.acknowledged_count(),
        before,
        "no thaw in the old epoch"
    );
    assert_eq!(trio.node(A).status().role, Role::Frozen);
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
    // The oracle knows every ballot that left, with its process and its value.
    let mut again = 0;
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
        again += usize::from([A, B].iter().any(|node| trio.oracle.proposers(*node) > 1));
    }
    assert!(
        again > 30,
        "only {again} histories had a box that proposed in two lives"
    );
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
            generation: 1,
            cache_lost: false,
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
fn h4_a_box_that_sealed_more_than_was_ever_chosen_is_not_shut_out() {
    let mut trio = Trio::in_sync(39);
    trio.kill(B);
    trio.run(3_000);
    assert_eq!(trio.node(A).status().role, Role::PrimarySolo);
    // As a candidate it had read a config that was proposed and never chosen.
    let mut record = trio.record(B);
    let sealed = Epoch(trio.node(A).status().epoch.0 + 5);
    record.group.as_mut().unwrap().seal = sealed;
    trio.machines.get_mut(&B).unwrap().record = record.encode();
    trio.start(B);
    trio.settle();
    assert!(trio.node(A).status().epoch > sealed);
}
