//! The life of a pair, by name; `hNN` are the scenarios of the design's red team.

use crate::histories::{SIZE, VOLUME};
use crate::world::{MS, World, filled, value_of};
use bytes::Bytes;
use replication::engine::{
    Attached, Authority, Command, CommandError, Completed, DataLink, DiskError, Event, Input,
    Lease, PeerLoss, Role,
};
use replication::meta::index;
use replication::types::{CommandId, Epoch, Fua, Time, VolumeNumber, VolumeSpec};

pub(crate) const V: VolumeNumber = VolumeNumber(VOLUME);
pub(crate) const BLOCK: u64 = 64 << 10;

pub(crate) fn write(at: u64, value: u64) -> Command {
    Command::Write {
        volume: V,
        offset_bytes: at,
        data: filled(value, 1),
        fua: Fua::No,
    }
}

fn read(at: u64) -> Command {
    Command::Read {
        volume: V,
        offset_bytes: at,
        len_bytes: 4096,
    }
}

impl World {
    /// A pair in sync.
    pub(crate) fn paired(seed: u64) -> Self {
        let mut world = Self::founded(seed, false);
        world.start(1, true);
        world.until("a pair", Self::is_settled);
        world
    }

    pub(crate) fn do_now(
        &mut self,
        who: usize,
        command: Command,
    ) -> Result<Completed, CommandError> {
        let id = self.ask(who, command);
        self.until("an answer", |world| world.answers.contains_key(&id));
        self.answers[&id].clone()
    }

    pub(crate) fn value_at(&mut self, who: usize, at: u64) -> u64 {
        let Ok(Completed::Data(data)) = self.do_now(who, read(at)) else {
            panic!("no data")
        };
        value_of(&data).expect("one value")
    }

    pub(crate) fn saw(&self, who: usize, matches: impl Fn(&Event) -> bool) -> bool {
        self.boxes[who].events.iter().any(matches)
    }

    pub(crate) fn copied_bytes(&self, who: usize) -> Vec<u64> {
        let events = self.boxes[who].events.iter();
        let started = events.filter_map(|event| {
            if let Event::ResyncStarted { total_bytes, .. } = event {
                return Some(*total_bytes);
            }
            None
        });
        started.collect()
    }
}

#[test]
fn d6_a_first_sync_of_two_proven_zero_copies_moves_only_what_was_written() {
    let mut world = World::founded(1, false);
    assert_eq!(world.do_now(0, write(3 * BLOCK, 7)), Ok(Completed::Ok));
    world.start(1, true);
    world.until("a pair", World::is_settled);
    assert_eq!(world.copied_bytes(0), [BLOCK]);
    world.assert_equal();
}

#[test]
fn d6_a_copy_that_is_not_proven_zero_gets_everything() {
    let mut world = World::founded(2, true);
    world.start(1, true);
    world.until("a pair", World::is_settled);
    assert_eq!(world.copied_bytes(0), [SIZE + (16 << 20)]);
    world.assert_equal();
}

#[test]
fn r4_an_acknowledged_write_is_on_both_disks() {
    let mut world = World::paired(3);
    for value in 1..50 {
        let at = value % 7 * 4096;
        assert_eq!(world.do_now(0, write(at, value)), Ok(Completed::Ok));
        for it in &world.boxes {
            let page = it.disks[&V].page((1 << 20 | at) / 4096);
            assert_eq!(value_of(&page), Some(value));
        }
    }
}

#[test]
fn r1_a_lost_peer_freezes_until_the_authority_speaks() {
    let mut world = World::paired(4);
    world.do_now(0, write(0, 1)).expect("in sync");
    world.boxes[0].isolated = true; // no authority comes through
    world.kill(1, false);
    let held = world.ask(0, write(0, 2));
    let behind = world.ask(0, read(0));
    world.run_ms(200);
    assert_eq!(world.engine(0).status().role, Role::Frozen);
    assert!(
        !world.answers.contains_key(&held),
        "nothing is acknowledged alone"
    );
    assert!(
        !world.answers.contains_key(&behind),
        "H7: a read behind it waits too"
    );
    world.boxes[0].isolated = false;
    world.until("the write", |world| world.answers.contains_key(&held));
    assert_eq!(world.answers[&held], Ok(Completed::Ok));
    assert_eq!(world.value_at(0, 0), 2);
    world.start(1, false);
    world.until("a pair", World::is_settled);
    world.assert_equal();
}

#[test]
fn h28_what_was_acknowledged_and_not_flushed_is_copied_again() {
    let mut world = World::paired(5);
    for block in 0..8 {
        world
            .do_now(0, write(block * BLOCK, block + 1))
            .expect("in sync");
    }
    world.kill(1, true); // its cache is gone
    world.start(1, true);
    world.until("a pair", World::is_settled);
    assert!(world.copied_bytes(0).last().is_some_and(|bytes| *bytes > 0));
    world.assert_equal();
}

#[test]
fn what_was_flushed_is_not_copied_again() {
    let mut world = World::paired(6);
    world.do_now(0, write(0, 1)).expect("in sync");
    world
        .do_now(0, Command::Flush { volume: V })
        .expect("in sync");
    world.kill(1, true);
    world.start(1, true);
    world.until("a pair", World::is_settled);
    assert_eq!(world.copied_bytes(0).last(), Some(&0));
    world.assert_equal();
}

#[test]
fn h35_a_dirty_map_that_fails_its_check_is_copied_whole() {
    let mut world = World::paired(33);
    world.kill(1, false);
    let disk = world.boxes[1].disks.get_mut(&V).expect("it has the volume");
    disk.write(index::OFFSET, &[0xee; 2 * index::LEN_BYTES], Fua::Yes);
    world.start(1, false);
    world.until("a pair", World::is_settled);
    assert!(
        world
            .copied_bytes(0)
            .last()
            .is_some_and(|bytes| *bytes >= SIZE)
    );
    world.assert_equal();
}

#[test]
fn r4_a_read_waits_for_the_writes_that_it_overlaps() {
    let mut world = World::paired(34);
    world.do_now(0, write(0, 1)).expect("in sync");
    world.cut = true; // the write cannot get to the other box
    let write = world.ask(0, write(0, 2));
    let read = world.ask(0, read(0));
    world.run_ms(20);
    assert!(!world.answers.contains_key(&write), "one box has it");
    assert!(
        !world.answers.contains_key(&read),
        "it may show what the other box lacks"
    );
}

#[test]
fn r4_a_flush_waits_for_both_disks() {
    let mut world = World::paired(35);
    world.do_now(0, write(0, 1)).expect("in sync");
    world.cut = true; // the flush cannot get to the other box
    let flush = world.ask(0, Command::Flush { volume: V });
    world.run_ms(20);
    assert!(!world.answers.contains_key(&flush), "one box has flushed");
}

#[test]
fn an_acknowledged_flush_survives_the_power_of_both() {
    let mut world = World::paired(7);
    world.do_now(0, write(0, 1)).expect("in sync");
    world
        .do_now(0, Command::Flush { volume: V })
        .expect("in sync");
    world.do_now(0, write(4096, 2)).expect("in sync");
    world.kill(0, true);
    world.kill(1, true);
    world.start(1, true); // the one that was secondary
    world.until("a primary", |w| {
        w.is_up(1) && w.engine(1).status().role == Role::Serving
    });
    assert_eq!(world.value_at(1, 0), 1);
    let lost = world.saw(
        1,
        |event| matches!(event, Event::CacheLost { volume } if *volume == V),
    );
    assert!(
        lost,
        "H12: a secondary that lost power says so when it serves"
    );
}

#[test]
fn r2_the_other_box_takes_over_with_everything_acknowledged() {
    let mut world = World::paired(8);
    for at in 0..20 {
        world.do_now(0, write(at * 4096, at + 1)).expect("in sync");
    }
    world.kill(0, true);
    world.until("a takeover", |w| w.engine(1).status().role == Role::Serving);
    for at in 0..20 {
        assert_eq!(world.value_at(1, at * 4096), at + 1);
    }
    world.start(0, true);
    world.until("a pair", World::is_settled);
    world.assert_equal();
}

#[test]
fn r3_a_deposed_primary_is_refused_and_aborts_what_it_held() {
    let mut world = World::paired(9);
    world.boxes[0].isolated = true;
    world.until("a takeover", |w| w.engine(1).status().role == Role::Serving);
    let held = world.ask(0, write(0, 5));
    world.run_ms(100);
    assert!(!world.answers.contains_key(&held));
    assert!(world.saw(0, |event| matches!(event, Event::PeerLost { .. })));
    world.boxes[0].isolated = false;
    world.until("the abort", |w| w.answers.contains_key(&held));
    assert_eq!(world.answers[&held], Err(CommandError::NotPrimary));
    world.until("a pair", World::is_settled);
    world.assert_equal();
}

#[test]
fn r8_who_is_primary_no_more_completes_nothing_that_waits_for_the_peer() {
    let mut world = World::paired(11);
    world.boxes[1].troubles.hangs = true;
    let held = world.ask(0, write(0, 5));
    world.run_ms(20);
    assert!(!world.answers.contains_key(&held));
    let epoch = world.engine(0).status().epoch;
    world.input(0, Input::Authority(Authority::Secondary { epoch }));
    assert_eq!(world.answers[&held], Err(CommandError::NotPrimary));
}

#[test]
fn r5_a_read_waits_for_the_lease_after_its_data_was_read() {
    let mut world = World::paired(10);
    world.boxes[0].isolated = true; // it is not renewed
    world.run_ms(1);
    let now = world.now;
    world.input(0, Input::Lease(Lease::None));
    let id = world.ask(0, read(0));
    let confirm = world.ask(0, Command::Confirm);
    while world.now < now + 15 * MS {
        world.step();
    }
    assert!(!world.answers.contains_key(&id) && !world.answers.contains_key(&confirm));
    world.input(0, Input::Lease(Lease::Until(Time(world.now + MS))));
    assert!(world.answers.contains_key(&id) && world.answers.contains_key(&confirm));
    world.run_ms(2);
    let late = world.ask(0, read(0));
    world.run_ms(12);
    assert!(!world.answers.contains_key(&late), "the lease is over");
}

#[test]
fn r7_a_handover_moves_the_role_and_copies_nothing() {
    let mut world = World::paired(11);
    for at in 0..10 {
        world.do_now(0, write(at * BLOCK, at + 1)).expect("in sync");
    }
    world.begin_handover();
    world.until("the switch", |w| {
        w.boss.handovers == 1 && w.is_settled() && w.engine(1).status().role == Role::Serving
    });
    assert!(world.saw(0, |event| matches!(event, Event::Drained { .. })));
    assert!(world.copied_bytes(1).is_empty());
    assert_eq!(world.engine(0).status().volumes[1].hot_regions, 0);
    for at in 0..10 {
        assert_eq!(world.value_at(1, at * BLOCK), at + 1);
    }
    world.do_now(1, write(0, 99)).expect("in sync");
    world.run_ms(100);
    world.assert_equal();
}

#[test]
fn r7_a_new_primary_whose_peer_does_not_come_loses_it() {
    let mut world = World::paired(12);
    world.begin_handover();
    world.until("the commit", |w| w.boss.handovers == 1);
    world.kill(0, false);
    world.until("solo", |w| {
        w.engine(1).status().role == Role::Serving && w.boss.degrades == 1
    });
    let silent = |event: &Event| {
        matches!(
            event,
            Event::PeerLost {
                why: PeerLoss::Silent,
                ..
            }
        )
    };
    assert!(world.saw(1, silent));
    assert_eq!(world.do_now(1, write(0, 3)), Ok(Completed::Ok));
}

#[test]
fn r6_words_said_before_the_loss_end_no_readmission() {
    let mut world = World::founded(31, false);
    world.start(1, true);
    let asked = |event: &Event| matches!(event, Event::Readmit { .. });
    let before = world.authority(0);
    world.until("a readmission", |w| w.saw(0, asked));
    world.boxes[0].isolated = true; // the loss is not heard
    world.kill(1, false);
    world.until("the loss", |w| w.engine(0).status().role == Role::Frozen);
    let held = world.ask(0, write(0, 1));
    world.input(0, Input::Authority(before));
    world.run_ms(50);
    assert!(
        !world.answers.contains_key(&held),
        "the readmission may still be proposed, and the write is on one box"
    );
    world.boxes[0].isolated = false;
    world.until("the answer", |w| w.answers.contains_key(&held));
}

#[test]
fn r5_a_box_alone_answers_no_read_without_the_lease() {
    let mut world = World::founded(32, false);
    assert_eq!(world.do_now(0, write(0, 1)), Ok(Completed::Ok));
    world.input(0, Input::Lease(Lease::None));
    let held = world.ask(0, read(0));
    world.run_ms(50);
    assert!(
        !world.answers.contains_key(&held),
        "a readmission may be in doubt that is not heard of yet"
    );
    world.input(0, Input::Lease(Lease::Unlimited));
    world.until("the answer", |w| w.answers.contains_key(&held));
}

#[test]
fn r7_a_handover_back_at_once_finds_its_peer_first() {
    let mut world = World::paired(28);
    world.begin_handover();
    world.until("the switch", |w| w.engine(1).status().role == Role::Serving);
    world.begin_handover();
    world.until("both switches", |w| w.boss.handovers == 2 && w.is_settled());
    assert_eq!(world.engine(0).status().role, Role::Serving);
    assert!(world.copied_bytes(1).is_empty());
}

#[test]
fn a_cancelled_handover_goes_on() {
    let mut world = World::paired(13);
    world.begin_handover();
    let id = world.ask(0, write(0, 1));
    assert!(!world.answers.contains_key(&id), "nothing is taken in");
    world.cancel_handover();
    world.until("the write", |w| w.answers.contains_key(&id));
    assert_eq!(world.answers[&id], Ok(Completed::Ok));
}

#[test]
fn d5_a_failed_flush_is_never_good_again() {
    let mut world = World::paired(14);
    world.boxes[0].troubles.error = Some(DiskError::Io);
    let id = world.ask(0, Command::Flush { volume: V });
    world.run_ms(5);
    world.boxes[0].troubles.error = None;
    let again = world.ask(0, Command::Flush { volume: V });
    world.run_ms(500);
    for id in [id, again] {
        assert!(!matches!(world.answers.get(&id), Some(Ok(_))));
    }
    assert_eq!(world.engine(0).status().role, Role::Failed);
    assert!(matches!(
        world.engine(0).status().data.attached,
        Attached::Failed(_)
    ));
}

#[test]
fn d5_a_peer_whose_disk_failed_leaves() {
    let mut world = World::paired(15);
    world.boxes[1].troubles.error = Some(DiskError::Io);
    assert_eq!(world.do_now(0, write(0, 1)), Ok(Completed::Ok));
    let failed = |event: &Event| {
        matches!(
            event,
            Event::PeerLost {
                why: PeerLoss::DiskFailed,
                ..
            }
        )
    };
    assert!(world.saw(0, failed));
    assert_eq!(world.boss.degrades, 1);
}

#[test]
fn alone_a_disk_error_reaches_the_host() {
    let mut world = World::founded(16, false);
    world.boxes[0].troubles.error = Some(DiskError::Medium);
    assert_eq!(world.do_now(0, read(0)), Err(CommandError::Medium));
    world.boxes[0].troubles.error = None;
    assert_eq!(world.do_now(0, write(0, 1)), Ok(Completed::Ok));
    world.boxes[0].troubles.error = Some(DiskError::NoSpace);
    assert_eq!(world.do_now(0, write(0, 2)), Err(CommandError::NoSpace));
}

#[test]
fn t3_compare_and_write_compares_and_replicates() {
    let mut world = World::paired(17);
    world.do_now(0, write(0, 1)).expect("in sync");
    let command = |expected: u64, data: u64| Command::CompareAndWrite {
        volume: V,
        offset_bytes: 0,
        expected: filled(expected, 1),
        data: filled(data, 1),
        fua: Fua::No,
    };
    let miscompare = world.do_now(0, command(0x0200, 9));
    assert_eq!(miscompare, Ok(Completed::Miscompare { offset_bytes: 0 }));
    assert_eq!(world.do_now(0, command(1, 2)), Ok(Completed::Ok));
    world.kill(0, false);
    world.until("a takeover", |w| w.engine(1).status().role == Role::Serving);
    assert_eq!(world.value_at(1, 0), 2);
}

#[test]
fn r4_zeroes_are_written_over_any_length_on_both_disks() {
    let mut world = World::paired(18);
    world.do_now(0, write(2 << 20, 1)).expect("in sync");
    let zeroes = Command::WriteZeroes {
        volume: V,
        offset_bytes: 0,
        len_bytes: SIZE,
        fua: Fua::Yes,
    };
    assert_eq!(world.do_now(0, zeroes), Ok(Completed::Ok));
    world.assert_equal();
    for it in &world.boxes {
        assert_eq!(value_of(&it.disks[&V].page((3 << 20) / 4096)), Some(0));
    }
}

#[test]
fn what_does_not_exist_is_refused() {
    let mut world = World::paired(19);
    assert_eq!(world.do_now(0, read(SIZE)), Err(CommandError::OutOfRange));
    assert_eq!(
        world.do_now(0, read(u64::MAX - 4095)),
        Err(CommandError::OutOfRange)
    );
    let other = Command::Flush {
        volume: VolumeNumber(9),
    };
    assert_eq!(world.do_now(0, other), Err(CommandError::UnknownVolume));
    assert_eq!(world.do_now(1, read(0)), Err(CommandError::NotPrimary));
}

#[test]
fn d11_volumes_are_made_and_deleted_on_both() {
    let mut world = World::paired(20);
    world.create(0, 4, 1 << 20);
    assert!(world.boxes[1].disks.contains_key(&VolumeNumber(4)));
    world.delete(0, 4);
    world.run_ms(10);
    assert!(
        world
            .boxes
            .iter()
            .all(|it| !it.disks.contains_key(&VolumeNumber(4)))
    );
    let again = world.try_create(0, 4, 1 << 20);
    assert!(
        matches!(again, Err(CommandError::Refused(_))),
        "numbers are never used again"
    );
    let odd = world.try_create(0, 5, 1000);
    assert!(matches!(odd, Err(CommandError::Refused(_))));
}

#[test]
fn h43_volumes_made_and_deleted_while_the_peer_is_away_are_settled() {
    let mut world = World::paired(21);
    world.create(0, 2, 1 << 20);
    world.until("rest", World::is_settled);
    world.kill(1, false);
    world.until("solo", |w| {
        w.boss.degrades == 1 && w.engine(0).status().role == Role::Serving
    });
    world.delete(0, 2);
    world.create(0, 3, 1 << 20);
    let volume = VolumeNumber(3);
    let data = filled(8, 1);
    let write = Command::Write {
        volume,
        offset_bytes: BLOCK,
        data,
        fua: Fua::No,
    };
    world.do_now(0, write).expect("solo");
    world.start(1, false);
    world.until("a pair", World::is_settled);
    assert_eq!(
        world.copied_bytes(0).last(),
        Some(&BLOCK),
        "what is new is zero on both"
    );
    world.assert_equal();
    let tables: Vec<usize> = (0..2)
        .map(|who| world.engine(who).status().volumes.len())
        .collect();
    assert_eq!(tables, [3, 3], "no tombstone is left");
}

#[test]
fn a_volume_that_the_peer_cannot_make_is_not_made() {
    let mut world = World::paired(22);
    world.boxes[1].cannot_make = true;
    let result = world.try_create(0, 2, 1 << 20);
    let Err(CommandError::Refused(reason)) = result else {
        panic!("{result:?}")
    };
    assert!(reason.contains("the pool is full"), "{reason}");
    assert!(!world.boxes[0].disks.contains_key(&VolumeNumber(2)));
    world.boxes[1].cannot_make = false;
    world.create(0, 3, 1 << 20);
}

#[test]
fn an_interrupted_copy_goes_on_where_it_was() {
    let mut world = World::founded(23, true);
    world.start(1, true);
    world.until("half", |w| {
        (1..2 * SIZE).contains(&w.engine(0).status().dirty_bytes)
    });
    world.kill(1, false);
    world.run_ms(100);
    world.start(1, false);
    world.until("a pair", World::is_settled);
    let copied = world.copied_bytes(0);
    assert!(copied[1] < 2 * SIZE && copied[0] > 2 * SIZE, "{copied:?}");
    world.assert_equal();
}

#[test]
fn a_damaged_block_on_the_wire_never_reaches_the_disk() {
    let mut world = World::paired(24);
    world.damage_writes = true;
    let id = world.ask(0, write(0, 0xbad));
    world.run_ms(20);
    world.damage_writes = false;
    world.until("the answer", |w| w.answers.contains_key(&id));
    assert!(world.saw(
        1,
        |event| matches!(event, Event::Alarm(text) if text.contains("checksum"))
    ));
    world.until("a pair", World::is_settled);
    world.assert_equal();
}

#[test]
fn a_stranger_without_the_key_is_not_listened_to() {
    let mut world = World::founded(25, false);
    world.other_key = true;
    world.start(1, true);
    world.run_ms(500);
    assert_eq!(world.boss.readmissions, 0);
    assert!(world.boxes[1].disks.is_empty(), "nothing was told");
    assert!(world.saw(
        0,
        |event| matches!(event, Event::Alarm(text) if text.contains("key"))
    ));
}

#[test]
fn x1_a_peer_that_forges_frames_breaks_no_invariant() {
    for seed in 0..60 {
        let mut world = World::founded(2000 + seed, false);
        world.garbage = true;
        world.forge = true;
        world.start(1, true);
        for value in 1..40 {
            world.ask(0, write(value % 5 * BLOCK, value));
            world.run_ms(5);
        }
        world.engine(0).check_full();
        world.engine(1).check_full();
    }
}

#[test]
fn x1_noise_on_the_line_is_survived() {
    for seed in 0..60 {
        let mut world = World::founded(1000 + seed, false);
        world.garbage = true;
        world.start(1, true);
        for value in 1..40 {
            world.ask(0, write(value % 5 * BLOCK, value));
            world.run_ms(5);
        }
        world.garbage = false;
        world.until("a pair", World::is_settled);
        world.assert_equal();
    }
}

#[test]
fn frames_of_unknown_sessions_are_ignored() {
    let mut world = World::paired(26);
    let session = replication::types::SessionId(u64::MAX);
    for who in 0..2 {
        world.input(
            who,
            Input::Frame {
                session,
                header: [0; 64],
                payload: Bytes::new(),
            },
        );
        world.input(who, Input::Disconnected { session });
    }
    assert_eq!(world.engine(0).status().link, DataLink::Mirroring);
}

#[test]
fn r0_an_old_epoch_dials_in_vain() {
    let mut world = World::paired(27);
    world.kill(0, false);
    world.until("a takeover", |w| w.engine(1).status().role == Role::Serving);
    let sealed = world.engine(1).status().data.sealed;
    assert!(sealed >= Epoch(2) && sealed < world.engine(1).status().epoch);
    world.kill(1, false);
    world.start(1, false);
    world.until("attached", |w| {
        w.engine(1).status().data.attached == Attached::Yes
    });
    assert!(world.engine(1).status().data.sealed >= sealed, "for ever");
}

#[test]
fn r7_a_handover_taken_back_under_a_later_epoch_lets_the_primary_go_on() {
    let mut world = World::paired(101);
    world.do_now(0, write(0, 1)).expect("in sync");
    world.begin_handover();
    world.until("drained", |w| {
        w.saw(0, |e| matches!(e, Event::Drained { .. }))
    });
    world.take_handover_back(0);
    assert_eq!(world.do_now(0, write(0, 2)), Ok(Completed::Ok));
}

#[test]
fn a_volume_deleted_while_a_flush_is_due_does_not_cost_the_peer() {
    for seed in 0..20 {
        let mut world = World::paired(300 + seed);
        world.try_create(0, 7, 1 << 20).expect("made");
        let command = Command::Write {
            volume: VolumeNumber(7),
            offset_bytes: 0,
            data: filled(1, 1),
            fua: Fua::No,
        };
        world.do_now(0, command).expect("written");
        world.run_ms(36 + seed % 5);
        world.delete(0, 7);
        world.run_ms(100);
        assert!(
            !world.saw(0, |e| matches!(e, Event::PeerLost { .. })),
            "seed {seed}"
        );
    }
}

impl World {
    fn try_create(
        &mut self,
        who: usize,
        number: u32,
        size_bytes: u64,
    ) -> Result<Completed, CommandError> {
        let id = CommandId(self.fresh_id());
        let number = VolumeNumber(number);
        let spec = VolumeSpec {
            number,
            uuid: 5000 + u128::from(number.0),
            size_bytes,
        };
        self.input(who, Input::CreateVolume { id, spec });
        self.until("the answer", |w| w.answers.contains_key(&id));
        self.answers[&id].clone()
    }

    /// A handover that was not chosen is taken back by a commit of the primary's own: it hears of
    /// its later epoch before it hears that the handover of the older one is off.
    fn take_handover_back(&mut self, who: usize) {
        self.boss.handing_over = false;
        let old = Epoch(self.boss.epoch);
        self.boss.epoch += 1;
        self.tell(who);
        self.until("the new epoch", |w| {
            let serves = |event: &Event| matches!(event, Event::Serving { epoch } if *epoch > old);
            w.boxes[who].events.iter().any(serves)
        });
        self.input(who, Input::HandoverCancelled { id: old.0 });
    }

    fn delete(&mut self, who: usize, number: u32) {
        let id = CommandId(self.fresh_id());
        self.input(
            who,
            Input::DeleteVolume {
                id,
                number: VolumeNumber(number),
            },
        );
        self.until("the deletion", |w| w.answers.contains_key(&id));
        assert_eq!(self.answers[&id], Ok(Completed::Ok));
    }
}
