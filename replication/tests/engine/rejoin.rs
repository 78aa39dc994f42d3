//! One law, one scenario: what a peer that comes back must get before it counts again.

use crate::laws::{DATA, data_writes, flushes};
use crate::scenarios::{BLOCK, V, write};
use crate::world::{World, filled};
use replication::engine::{Command, Completed, DataLink, Input, Io, Pace, Role};
use replication::types::Fua;

impl World {
    /// The first box of a pair, alone, has written a value to its first block since the other one
    /// died.
    fn left(seed: u64, value: u64) -> Self {
        let mut world = Self::paired(seed);
        world.do_now(0, write(0, 7)).expect("in sync");
        world.kill(1, false);
        let written = world.do_now(0, write(0, value));
        assert_eq!(written, Ok(Completed::Ok));
        world
    }

    fn write_pages(&mut self, page: u64, pages: u64, value: u64) {
        let command = Command::Write {
            volume: V,
            offset_bytes: page * 4096,
            data: filled(value, pages),
            fua: Fua::No,
        };
        assert_eq!(self.do_now(0, command), Ok(Completed::Ok));
    }
}

#[test]
fn d1_a_peer_that_marks_nothing_is_not_taken_for_equal() {
    let mut world = World::left(421, 8);
    world.start(1, false);
    world.until("a pair", World::is_settled);
    assert_eq!(world.held_at(1, 0), Some(8), "D1: a write is lacking");
    world.assert_equal();
}

#[test]
fn d1_zeroes_are_copied_too() {
    let mut world = World::left(422, 0);
    world.start(1, false);
    world.until("a pair", World::is_settled);
    assert_eq!(world.held_at(1, 0), Some(0), "D1: zeroes are lacking");
    world.assert_equal();
}

#[test]
fn d1_a_block_is_dirty_until_its_copy_is_stable() {
    let mut world = World::left(423, 8);
    world.stick(1, flushes);
    world.start(1, false);
    world.until("the copy", |w| w.held_at(1, 0) == Some(8));
    world.run_ms(20);
    world.lose_power(1);
    world.unstick(1);
    world.start(1, true);
    world.until("a pair", World::is_settled);
    world.assert_equal();
}

#[test]
fn d1_a_block_that_is_written_while_its_copy_is_under_way_stays_dirty() {
    let mut world = World::left(425, 8);
    world.limits.mirror_window_bytes = 0; // nothing is mirrored while blocks are copied
    world.kill(0, false);
    world.start(0, false);
    let serves = |w: &World| w.engine(0).status().role == Role::Serving;
    world.until("the first box", serves);
    world.do_now(0, write(5 * BLOCK, 9)).expect("alone");
    // with this one the copy does not come to its end
    let bad = (V, (DATA + 5 * BLOCK) / 4096);
    world.boxes[0].troubles.unreadable.insert(bad);
    world.stick(1, flushes);
    world.start(1, false);
    world.until("the copy", |w| w.held_at(1, 0) == Some(8));
    world.run_ms(20);
    world.do_now(0, write(0, 10)).expect("not needed yet");
    world.unstick(1);
    world.run_ms(50);
    world.boxes[0].troubles.unreadable.clear();
    world.until("a pair", World::is_settled);
    world.assert_equal();
}

#[test]
fn d1_a_block_is_not_copied_while_it_is_written() {
    let mut world = World::left(426, 8);
    world.input(0, Input::Pace(Pace::Paused));
    world.start(1, false);
    let streams = |w: &World| w.engine(0).status().link == DataLink::Source;
    world.until("a session", streams);
    world.stick(0, data_writes);
    let held = world.ask(0, write(0, 9));
    world.until("the write", |w| w.is_at_disk(0, data_writes));
    world.input(0, Input::Pace(Pace::Auto));
    world.run_ms(100);
    let dirty_bytes = world.engine(0).status().dirty_bytes;
    assert!(dirty_bytes >= BLOCK, "D1: the copy lacks the write");
    world.unstick(0);
    world.until("the answer", |w| w.is_answered(held));
    world.until("a pair", World::is_settled);
    world.assert_equal();
}

#[test]
fn r6_readmission_is_asked_for_once_every_block_is_on_the_peer() {
    let mut world = World::left(427, 8);
    world.stick(1, data_writes);
    world.start(1, false);
    world.until("the copy", |w| w.is_at_disk(1, data_writes));
    world.run_ms(100);
    assert_eq!(world.boss.readmissions, 1, "R6: it lacks a block");
    assert!(!world.boss.both_in_sync());
    world.unstick(1);
    world.until("a pair", World::is_settled);
    assert_eq!(world.boss.readmissions, 2);
    world.assert_equal();
}

#[test]
fn r6_a_peer_that_was_not_there_is_dialled_again() {
    let mut world = World::founded(429, false);
    world.run_ms(300);
    world.start(1, true);
    world.run_ms(2000);
    assert!(world.boss.both_in_sync(), "R6: nobody dials");
    world.assert_equal();
}

#[test]
fn r4_the_peer_applies_overlapping_writes_in_their_order() {
    const fn older(io: &Io) -> bool {
        let Io::Write { offset_bytes, .. } = io else {
            return false;
        };
        *offset_bytes == DATA
    }
    let mut world = World::paired(430);
    world.go_alone();
    world.write_pages(0, 2, 1);
    world.write_pages(1, 2, 2);
    world.stick(1, older);
    world.cut = false;
    world.until("both writes sent again", |w| w.is_at_disk(1, older));
    world.run_ms(20);
    assert_eq!(world.held_at(1, 4096), Some(0), "R4: it was overtaken");
    world.unstick(1);
    world.until("a pair", World::is_settled);
    assert_eq!(world.held_at(1, 4096), Some(2));
    world.assert_equal();
}
