//! The scrub: it finds what differs and nothing else, and is in nobody's way.

use crate::disk::PAGE;
use crate::histories::{SIZE, VOLUME};
use crate::laws::{DATA, data_writes};
use crate::scenarios::{BLOCK, V, write};
use crate::world::{BOXES, What, World};
use replication::engine::{
    Command, CommandError, Completed, Event, Input, Io, Pace, Role, Scrubbed, VolumeScrub,
};
use replication::types::{Fua, VolumeNumber};

const MIB: u64 = 1 << 20;
/// A difference that the scrub reported: volume, byte, what is here and there.
type Difference = (VolumeNumber, u64, Vec<u8>, Vec<u8>);

fn reads(io: &Io) -> bool {
    matches!(io, Io::Read { .. })
}

impl World {
    /// From here on both boxes scrub at that rate, also those that start later.
    pub(crate) fn scrub_at(&mut self, bytes_per_s: u64) {
        self.limits.scrub_bytes_per_s = bytes_per_s;
        for who in BOXES {
            if self.is_up(who) {
                self.input(who, Input::ScrubRate { bytes_per_s });
            }
        }
    }

    fn scrub(&self) -> VolumeScrub {
        let status = self.engine(0).status();
        let volume = status.volumes.iter().find(|volume| volume.spec.number == V);
        volume.expect("it is attached").scrub.clone()
    }

    fn passes(&self) -> Vec<Scrubbed> {
        let passes = self.boxes[0].events.iter().filter_map(|event| {
            if let Event::Scrubbed { volume: V, found } = event {
                return Some(*found);
            }
            None
        });
        passes.collect()
    }

    /// A pass over the volume of the client, asked for; what it found.
    fn pass(&mut self) -> Scrubbed {
        let before = self.passes().len();
        self.input(0, Input::Scrub { volume: V });
        self.until("a pass", |w| w.passes().len() > before);
        self.scrub().last.expect("it has ended")
    }

    fn differences(&self) -> Vec<Difference> {
        let found = self.boxes[0].events.iter().filter_map(|event| {
            let Event::CopiesDiffer {
                volume,
                offset_bytes,
                here,
                there,
            } = event
            else {
                return None;
            };
            Some((*volume, *offset_bytes, here.to_vec(), there.to_vec()))
        });
        found.collect()
    }

    /// Somebody else writes to the disk of a box.
    fn rot(&mut self, who: usize, at: u64, byte: u8) {
        self.rotten = true;
        let disk = self.boxes[who].disks.get_mut(&V).expect("a volume");
        disk.write(DATA + at, &[byte; PAGE], Fua::Yes);
    }
}

#[test]
fn h33_equal_copies_give_no_alarm_under_load() {
    for seed in 601..604 {
        let mut world = World::paired(seed);
        world.scrub_at(256 * MIB);
        world.at(0, What::Client);
        world.until("passes", |w| w.passes().len() >= 3);
        world.stop_client();
        world.until("rest", |w| w.asked.is_empty());
        let found = world.pass();
        assert!(found.blocks >= SIZE / PAGE as u64, "{found:?}");
        world.assert_equal();
    }
}

#[test]
fn h33_a_write_that_is_on_one_disk_only_is_no_difference() {
    let mut world = World::paired(605);
    world.do_now(0, write(0, 5)).expect("in sync");
    world.scrub_at(256 * MIB);
    world.stick(1, data_writes);
    let held = world.ask(0, write(0, 6));
    world.until("the write", |w| w.is_at_disk(1, data_writes));
    world.run_ms(1000);
    assert!(!world.is_answered(held) && world.held_at(1, 0) == Some(5));
    world.unstick(1);
    world.until("the answer", |w| w.is_answered(held));
    let found = world.pass();
    assert_eq!((found.differing, found.asked), (0, true));
}

#[test]
fn h33_a_block_that_differs_is_named_once_a_pass_with_both_images() {
    for who in BOXES {
        let mut world = World::paired(606);
        world.do_now(0, write(0, 5)).expect("in sync");
        let at = 17 * BLOCK + 3 * PAGE as u64;
        world.rot(who, at, 7);
        let mut images = [vec![0; PAGE], vec![7; PAGE]];
        images.rotate_left(1 - who);
        let [here, there] = images;
        let difference = (V, at, here, there);
        for pass in 1..3 {
            world.input(0, Input::Scrub { volume: V });
            world.run_ms(1000);
            assert_eq!(world.differences(), vec![difference.clone(); pass]);
            let found = world.scrub().last.expect("a pass");
            assert_eq!((found.differing, found.blocks), (1, SIZE / PAGE as u64));
        }
        assert_eq!((world.boss.degrades, world.boss.detached), (0, 0));
        assert_eq!(
            world.engine(0).status().dirty_bytes,
            0,
            "nothing is repaired"
        );
    }
}

#[test]
fn a_block_that_is_written_is_no_difference_any_more() {
    let mut world = World::paired(607);
    world.rot(1, 0, 7);
    assert_eq!(world.pass().differing, 1);
    world.do_now(0, write(0, 5)).expect("in sync");
    assert_eq!(world.pass().differing, 0);
    world.assert_equal();
}

#[test]
fn many_differences_are_counted_and_the_first_ones_told() {
    let mut world = World::paired(608);
    for page in 0..40 {
        world.rot(1, page * 5 * PAGE as u64, 7);
    }
    assert_eq!(world.pass().differing, 40);
    let told = world.differences();
    let places: Vec<u64> = told.iter().map(|told| told.1).collect();
    let first: Vec<u64> = (0..16).map(|page| page * 5 * PAGE as u64).collect();
    assert_eq!(places, first);
}

#[test]
fn a_scrub_stops_for_a_resync_and_goes_on_after_it() {
    let mut world = World::paired(609);
    world.scrub_at(16 * MIB);
    world.until("a pass under way", |w| w.scrub().running.is_some());
    world.kill(1, false);
    world.do_now(0, write(0, 5)).expect("alone");
    world.input(0, Input::Pace(Pace::Paused));
    world.start(1, false);
    world.run_ms(100);
    let (before, passes) = (world.scrub(), world.passes().len());
    world.run_ms(2000);
    assert_eq!((world.scrub(), world.passes().len()), (before, passes));
    world.input(0, Input::Pace(Pace::Auto));
    world.until("a pass", |w| w.passes().len() > passes);
    world.scrub_at(0);
    world.until("rest", World::is_settled);
    world.assert_equal();
}

#[test]
fn a_lost_session_gives_the_span_up_and_lets_go_of_it() {
    let mut world = World::paired(610);
    world.do_now(0, write(0, 5)).expect("in sync");
    world.stick(1, reads);
    world.input(0, Input::Scrub { volume: V });
    world.until("a question", |w| w.is_at_disk(1, reads));
    assert_eq!(
        world.do_now(0, write(0, 6)),
        Ok(Completed::Ok),
        "the lock is free"
    );
    world.kill(1, false);
    assert_eq!(world.do_now(0, write(0, 7)), Ok(Completed::Ok));
    world.unstick(1);
    world.start(1, false);
    world.until("the pass", |w| !w.passes().is_empty());
    let found = world.scrub().last.expect("it has ended");
    assert_eq!((found.differing, found.blocks), (0, SIZE / PAGE as u64));
    world.until("rest", World::is_settled);
    world.assert_equal();
}

#[test]
fn a_write_waits_for_the_span_only_while_it_is_read_here() {
    let mut world = World::paired(611);
    world.stick(0, reads);
    world.input(0, Input::Scrub { volume: V });
    world.until("the read", |w| w.is_at_disk(0, reads));
    let inside = world.ask(0, write(0, 5));
    let outside = world.ask(0, write(2 * MIB, 5));
    world.until("a write", |w| w.is_answered(outside));
    assert!(
        !world.is_answered(inside),
        "C1: it may be in what is read, or not"
    );
    world.unstick(0);
    world.until("the write", |w| w.is_answered(inside));
    world.until("the pass", |w| !w.passes().is_empty());
}

#[test]
fn a_handover_gives_the_span_up_and_the_other_box_begins_its_own() {
    let mut world = World::paired(612);
    world.scrub_at(64 * MIB);
    world.until("a pass under way", |w| w.scrub().running.is_some());
    world.begin_handover();
    world.until("the switch", |w| {
        w.engine(0).status().role == Role::Secondary
    });
    assert_eq!(world.scrub().running, None);
    let ended = |event: &Event| matches!(event, Event::Scrubbed { volume: V, .. });
    world.until("a pass", |w| w.saw(1, ended));
}

#[test]
fn what_cannot_be_read_is_mended_and_is_no_difference() {
    let mut world = World::paired(613);
    for page in 0..8 {
        world
            .do_now(0, write(page * PAGE as u64, 5))
            .expect("in sync");
    }
    world.ruin(0, 2);
    world.ruin(1, 5);
    let found = world.pass();
    assert_eq!((found.differing, found.mended, found.unreadable), (0, 2, 0));
    for who in BOXES {
        let left = &world.boxes[who].troubles.unreadable;
        assert!(left.is_empty(), "written again");
    }
    assert_eq!(world.engine(0).status().mended_bytes, PAGE as u64);
    assert_eq!((world.boss.degrades, world.boss.detached), (0, 0));
    world.until("rest", World::is_settled);
    world.assert_equal();
}

#[test]
fn what_neither_box_can_read_is_counted_and_left() {
    let mut world = World::paired(614);
    world.do_now(0, write(0, 5)).expect("in sync");
    world.ruin(0, 0);
    world.ruin(1, 0);
    let found = world.pass();
    assert_eq!((found.differing, found.mended, found.unreadable), (0, 0, 1));
    let read = Command::Read {
        volume: V,
        offset_bytes: 0,
        len_bytes: PAGE,
    };
    assert_eq!(world.do_now(0, read), Err(CommandError::Medium));
    assert_eq!(world.engine(0).status().role, Role::Serving);
}

#[test]
fn a_rate_is_the_most_that_is_read() {
    let mut world = World::paired(615);
    world.scrub_at(4 * MIB);
    let before = BOXES.map(|who| world.boxes[who].read_bytes);
    world.run_ms(2000);
    for who in BOXES {
        let read_bytes = world.boxes[who].read_bytes - before[who];
        assert!((7 * MIB..=9 * MIB).contains(&read_bytes), "{read_bytes}");
    }
    world.scrub_at(0);
    world.run_ms(10);
    let before = world.boxes[0].read_bytes;
    world.run_ms(2000);
    assert_eq!(world.boxes[0].read_bytes, before, "0 is not at all");
}

#[test]
fn what_was_asked_for_runs_at_once_and_the_rest_at_its_rate() {
    let mut world = World::paired(616);
    world.scrub_at(MIB / 4);
    world.run_ms(10);
    let begin = world.now;
    let found = world.pass();
    assert!(found.asked && world.now - begin < 500_000_000);
    let before = world.boxes[0].read_bytes;
    world.run_ms(1000);
    assert!(world.boxes[0].read_bytes - before <= 2 * MIB);
    assert!(world.passes().len() == 1 && VOLUME == V.0);
}
