//! Disks that fail, hang, cannot be read or are full, on either box.

use crate::histories::VOLUME;
use crate::laws::data_writes;
use crate::world::{BOXES, MS, Troubles, What, World, filled};
use replication::engine::{
    Attached, Command, CommandError, Completed, DiskError, Event, PeerLoss, Role,
};
use replication::types::{Fua, VolumeNumber};

const V: VolumeNumber = VolumeNumber(VOLUME);
/// The first page of the data area.
const DATA_PAGE: u64 = 256;

fn write(page: u64, value: u64, pages: u64) -> Command {
    Command::Write {
        volume: V,
        offset_bytes: page * 4096,
        data: filled(value, pages),
        fua: Fua::No,
    }
}

fn read(page: u64, pages: usize) -> Command {
    Command::Read {
        volume: V,
        offset_bytes: page * 4096,
        len_bytes: pages * 4096,
    }
}

impl World {
    pub(crate) fn ruin(&mut self, who: usize, page: u64) {
        let unreadable = &mut self.boxes[who].troubles.unreadable;
        unreadable.insert((V, DATA_PAGE + page));
    }

    fn lost_for(&self, who: usize, why: PeerLoss) -> bool {
        let lost = |event: &Event| matches!(event, Event::PeerLost { why: it, .. } if *it == why);
        self.saw(who, lost)
    }
}

#[test]
fn r1_a_primary_whose_disk_fails_gives_everything_to_its_peer() {
    let mut world = World::paired(101);
    assert_eq!(world.do_now(0, write(0, 7, 1)), Ok(Completed::Ok));
    world.boxes[0].troubles.error = Some(DiskError::Io);
    let held = world.ask(0, write(1, 8, 1));
    world.until("the move", |w| w.engine(1).status().role == Role::Serving);
    world.until("the abort", |w| w.answers.contains_key(&held));
    assert_eq!(world.answers[&held], Err(CommandError::NotPrimary));
    assert_eq!(world.boss.detached, 1);
    assert_eq!(world.value_at(1, 0), 7);
    assert_eq!(world.do_now(1, write(1, 9, 1)), Ok(Completed::Ok));
    world.boxes[0].troubles = Troubles::default();
    world.kill(0, false);
    world.start(0, false);
    world.until("a pair", World::is_settled);
    world.assert_equal();
}

#[test]
fn r12_a_primary_whose_disk_hangs_gives_the_role_away() {
    let mut world = World::paired(102);
    world.boxes[0].troubles.hangs = true;
    let begin = world.now;
    world.ask(0, write(0, 7, 1));
    world.until("the move", |w| w.engine(1).status().role == Role::Serving);
    let ms = (world.now - begin) / MS;
    assert!((5_000..5_600).contains(&ms), "{ms} ms");
}

#[test]
fn r12_a_secondary_whose_disk_hangs_leaves() {
    let mut world = World::paired(103);
    world.boxes[1].troubles.hangs = true;
    let begin = world.now;
    assert_eq!(world.do_now(0, write(0, 7, 1)), Ok(Completed::Ok));
    let ms = (world.now - begin) / MS;
    assert!((5_000..5_600).contains(&ms), "{ms} ms");
    assert!(world.lost_for(0, PeerLoss::DiskFailed));
}

#[test]
fn r12_a_disk_is_not_late_for_a_process_that_was_stopped() {
    let mut world = World::paired(104);
    let id = world.ask(0, write(0, 7, 1));
    world.now += 60_000 * MS;
    world.until("the answer", |w| w.answers.contains_key(&id));
    assert!(!world.has_failed(0) && !world.has_failed(1));
}

#[test]
fn r12_alone_a_disk_that_hangs_is_waited_for() {
    let mut world = World::founded(105, false);
    world.boxes[0].troubles.hangs = true;
    let id = world.ask(0, write(0, 7, 1));
    world.run_ms(9_000);
    assert_eq!(world.engine(0).status().role, Role::Serving);
    let late = |event: &Event| matches!(event, Event::Alarm(text) if text.contains("not ended"));
    assert_eq!(
        world.boxes[0].events.iter().filter(|it| late(it)).count(),
        1
    );
    world.boxes[0].troubles.hangs = false;
    world.until("the answer", |w| w.answers.contains_key(&id));
    assert_eq!(world.answers[&id], Ok(Completed::Ok));
}

#[test]
fn a_block_that_cannot_be_read_comes_from_the_peer_and_is_written_again() {
    let mut world = World::paired(106);
    world.do_now(0, write(0, 7, 4)).expect("in sync");
    world.ruin(0, 1);
    world.ruin(0, 2);
    let data = world.do_now(0, read(0, 4));
    assert_eq!(data, Ok(Completed::Data(filled(7, 4))));
    assert!(
        world.boxes[0].troubles.unreadable.is_empty(),
        "written again"
    );
    assert_eq!(world.engine(0).status().mended_bytes, 4 * 4096);
    world.ruin(0, 3);
    let compare = Command::CompareAndWrite {
        volume: V,
        offset_bytes: 3 * 4096,
        expected: filled(7, 1),
        data: filled(8, 1),
        fua: Fua::No,
    };
    assert_eq!(world.do_now(0, compare), Ok(Completed::Ok));
    world.assert_equal();
    assert_eq!((world.boss.degrades, world.boss.detached), (0, 0));
}

#[test]
fn a_block_that_neither_box_can_read_is_an_error_of_that_block_only() {
    let mut world = World::paired(107);
    world.do_now(0, write(0, 7, 4)).expect("in sync");
    for who in BOXES {
        world.ruin(who, 1);
    }
    assert_eq!(world.do_now(0, read(1, 1)), Err(CommandError::Medium));
    assert_eq!(
        world.do_now(0, read(2, 2)),
        Ok(Completed::Data(filled(7, 2)))
    );
    assert_eq!(world.do_now(0, write(1, 9, 1)), Ok(Completed::Ok));
    assert_eq!(world.value_at(0, 4096), 9);
    assert_eq!((world.boss.degrades, world.boss.detached), (0, 0));
}

#[test]
fn a_block_that_cannot_be_read_while_the_peer_is_lost_is_an_error_once_that_is_settled() {
    let mut world = World::paired(108);
    world.do_now(0, write(0, 7, 1)).expect("in sync");
    world.ruin(0, 0);
    world.kill(1, false);
    assert_eq!(world.do_now(0, read(0, 1)), Err(CommandError::Medium));
    assert_eq!(world.boss.degrades, 1);
}

#[test]
fn a_block_that_cannot_be_written_again_is_a_failed_disk() {
    let mut world = World::paired(109);
    world.do_now(0, write(0, 7, 1)).expect("in sync");
    world.boxes[0].troubles.error = Some(DiskError::Medium);
    world.ask(0, read(0, 1));
    world.until("the move", |w| w.engine(1).status().role == Role::Serving);
    assert_eq!(world.value_at(1, 0), 7);
}

#[test]
fn r4_a_write_without_room_on_one_box_fails_on_both_and_they_stay_equal() {
    for (seed, full) in [
        (110, [true, false]),
        (111, [false, true]),
        (112, [true, true]),
    ] {
        let mut world = World::paired(seed);
        world.do_now(0, write(0, 7, 2)).expect("there is room");
        for who in BOXES {
            world.boxes[who].troubles.full = full[who];
        }
        // two pages that exist, and two that do not
        assert_eq!(world.do_now(0, write(0, 8, 4)), Err(CommandError::NoSpace));
        assert_eq!(world.do_now(0, write(40, 8, 1)), Err(CommandError::NoSpace));
        world.assert_equal();
        assert_eq!(
            world.do_now(0, write(0, 9, 2)),
            Ok(Completed::Ok),
            "overwriting goes on"
        );
        assert_eq!(world.value_at(0, 4096), 9);
        for who in BOXES {
            world.boxes[who].troubles.full = false;
        }
        assert_eq!(
            world.do_now(0, write(40, 10, 1)),
            Ok(Completed::Ok),
            "no restart is needed"
        );
        world.until("rest", World::is_settled);
        world.assert_equal();
        assert_eq!(
            (world.boss.degrades, world.boss.detached),
            (0, 0),
            "{full:?}"
        );
        assert!(BOXES.iter().all(|who| !world.has_failed(*who)));
    }
}

#[test]
fn d4_what_was_refused_for_want_of_room_does_not_count_as_applied() {
    let mut world = World::paired(114);
    world.do_now(0, write(0, 7, 2)).expect("there is room");
    world.boxes[1].troubles.full = true;
    world.stick(1, data_writes);
    let asked = world.ask(0, write(20, 8, 4));
    world.until("the frame at the disk", |w| w.is_at_disk(1, data_writes));
    world.cut = true; // the refusal gets lost
    world.unstick(1);
    world.until("a refusal", |w| w.engine(1).status().full.here);
    world.cut = false;
    world.until("an answer", |w| w.answers.contains_key(&asked));
    world.boxes[1].troubles.full = false;
    world.until("a pair", World::is_settled);
    world.run_ms(100);
    world.assert_equal();
}

#[test]
fn a_copy_to_a_full_peer_ends_once_there_is_room() {
    let mut world = World::founded(113, false);
    world.do_now(0, write(0, 7, 2)).expect("alone");
    world.start(1, true);
    world.boxes[1].troubles.full = true;
    world.run_ms(3_000);
    assert!(!world.boss.both_in_sync());
    assert_eq!(
        world.do_now(0, write(64, 8, 1)),
        Ok(Completed::Ok),
        "it serves on"
    );
    assert!(!world.has_failed(1));
    world.boxes[1].troubles.full = false;
    world.until("a pair", World::is_settled);
    world.assert_equal();
}

impl World {
    /// Something goes wrong with a disk, or is over. The disk of a primary fails more often: only
    /// that is given away, and only while the peer is in sync.
    fn upset(&mut self) {
        let any = usize::try_from(self.rng.below(2)).expect("it fits");
        let what = self.rng.below(8);
        let primary = self.boss.primary.filter(|_| what == 0);
        let who = primary.map_or(any, |(who, _)| who);
        let troubles = &mut self.boxes[who].troubles;
        match what {
            0 | 1 => troubles.error = Some(DiskError::Io),
            2 => troubles.full = true,
            3 => troubles.full = false,
            4 => troubles.hangs = !troubles.hangs,
            5 => *troubles = Troubles::default(),
            _ => {
                for _ in 0..4 {
                    let page = self.rng.below(40);
                    self.ruin(who, page);
                }
            }
        }
        self.replace_failed();
    }

    /// Somebody starts a box again whose disk failed, or was not readable at its start.
    fn replace_failed(&mut self) {
        for who in BOXES {
            let state = self.boxes[who].engine.as_ref();
            let state = state.map(|engine| engine.status().data.attached);
            let broken = match state {
                Some(Attached::Failed(_)) => self.rng.one_in(3),
                Some(Attached::No(_)) => self.boxes[who].life > 1,
                Some(Attached::Yes) | None => false,
            };
            if broken {
                self.boxes[who].troubles = Troubles::default();
                self.kill(who, false);
                self.start(who, false);
            }
        }
    }

    fn heal_disks(&mut self) {
        for who in BOXES {
            self.boxes[who].troubles = Troubles::default();
            if self.is_up(who) && self.engine(who).status().data.attached != Attached::Yes {
                self.kill(who, false);
            }
        }
    }
}

fn history(seed: u64) -> World {
    let mut world = World::paired(seed);
    world.scrub_at(2 << 20);
    world.at(0, What::Client);
    for _ in 0..4 + world.rng.below(10) {
        let ms = match world.rng.below(4) {
            0 => 5,
            1 => 60,
            2 => 250,
            _ => 6_000,
        };
        // long enough for a disk that hangs to be noticed, with less to do meanwhile
        world.client_pause = if ms > 1000 { 8 * MS } else { MS };
        let ms = 1 + world.rng.below(ms);
        world.run_ms(ms);
        world.check_coverage();
        if world.rng.one_in(3) {
            world.fault();
        } else {
            world.upset();
        }
    }
    world.heal_disks();
    world.heal();
    let client_end = world.now + 50 * MS;
    while world.now < client_end {
        world.step();
    }
    world.stop_client();
    world.heal_disks();
    world.heal();
    world.finish();
    world
}

#[test]
fn random_histories_with_failing_disks_keep_their_promises() {
    let read = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first = read("SEED").unwrap_or(1);
    let count: u64 = read("HISTORIES").unwrap_or(100);
    let (mut detached, mut mended, mut refused) = (0, 0, 0);
    for seed in first..first + count {
        println!("seed {seed}");
        let world = history(seed);
        detached += world.boss.detached;
        let alive = BOXES
            .iter()
            .map(|who| world.engine(*who).status().mended_bytes);
        mended += world.mended_bytes + alive.sum::<u64>();
        let full = world.answers.values();
        refused += full.filter(|it| **it == Err(CommandError::NoSpace)).count();
    }
    println!("{detached} given away, {mended} bytes mended, {refused} writes without room");
    if count >= 100 {
        assert!(detached > 20 && mended > 0 && refused > 20);
    }
}
