//! Short interruptions: what was sent and is not stable is kept, and sent again (law D4).

use crate::histories::VOLUME;
use crate::scenarios::{BLOCK, write};
use crate::world::{BOXES, MS, What, World, value_of};
use replication::engine::{Command, CommandError, Completed, Event, Input, Role};
use replication::types::{Fua, VolumeNumber};

const V: VolumeNumber = VolumeNumber(VOLUME);

impl World {
    /// Every connection is reset; what is on its way is lost from some place on.
    pub(crate) fn reset_link(&mut self) {
        for wire in std::mem::take(&mut self.wires) {
            for who in BOXES {
                let (Some(lost), life) = (wire.ends[who], wire.lives[who]) else {
                    continue;
                };
                let delay = self.rng.below(MS);
                let until = self.now + delay;
                self.heap.retain(|(at, _), what| {
                    let What::Input(to, _, Input::Frame { session, .. }) = what else {
                        return true;
                    };
                    *to != who || *session != lost || *at < until
                });
                let session = lost;
                self.at(
                    delay,
                    What::Input(who, life, Input::Disconnected { session }),
                );
            }
        }
    }

    fn blocks_read(&self, who: usize) -> u64 {
        self.engine(who).status().blocks_read
    }

    fn replayed_writes(&self, who: usize) -> u64 {
        self.engine(who).status().replayed_writes
    }

    /// The peer is away until this box serves alone.
    pub(crate) fn go_alone(&mut self) {
        self.cut = true;
        let solo = |w: &Self| {
            let status = w.engine(0).status();
            status.role == Role::Serving && !status.acks_wait_for_peer
        };
        self.until("a box alone", solo);
    }
}

#[test]
fn d4_what_was_on_its_way_is_sent_again_and_nothing_is_read() {
    let mut replayed = 0;
    for seed in [41, 42, 43] {
        let mut world = World::paired(seed);
        let read_before = world.blocks_read(0);
        let asked: Vec<_> = (0..20)
            .map(|at| world.ask(0, write(at * BLOCK, at + 1)))
            .collect();
        world.reset_link();
        let done = |w: &World| asked.iter().all(|id| w.answers.contains_key(id));
        world.until("all answers", done);
        world.until("a pair", World::is_settled);
        world.run_ms(100); // a flush makes clean what was owed
        replayed += world.replayed_writes(0);
        assert_eq!(world.boss.degrades, 0, "nothing had to be decided");
        assert_eq!(world.blocks_read(0), read_before);
        assert_eq!(world.engine(0).status().dirty_bytes, 0);
        world.assert_equal();
    }
    assert!(replayed > 0);
}

#[test]
fn d4_what_the_peer_applied_is_not_sent_again() {
    let mut world = World::paired(44);
    for at in 0..8 {
        world.do_now(0, write(at * BLOCK, at + 1)).expect("in sync");
    }
    let (before, read_before) = (world.replayed_writes(0), world.blocks_read(0));
    world.reset_link();
    world.run_ms(1);
    world.until("a pair", World::is_settled);
    assert_eq!(world.replayed_writes(0), before);
    assert_eq!(world.blocks_read(0), read_before);
    world.assert_equal();
}

#[test]
fn d4_writes_made_alone_are_sent_and_not_read() {
    let mut world = World::paired(45);
    let read_before = world.blocks_read(0);
    world.go_alone();
    for at in 0..12 {
        world.do_now(0, write(at * BLOCK, at + 1)).expect("alone");
        world.do_now(0, write(at * BLOCK, at + 101)).expect("alone");
    }
    world.cut = false;
    world.until("a pair", World::is_settled);
    assert_eq!(world.replayed_writes(0), 12, "the newest of each range");
    assert_eq!(world.blocks_read(0), read_before);
    assert_eq!(world.boss.degrades, 1);
    world.assert_equal();
}

#[test]
fn d4_zeroes_written_alone_are_sent_again_as_zeroes() {
    let mut world = World::paired(46);
    world.do_now(0, write(0, 5)).expect("in sync");
    world.go_alone();
    let zeroes = Command::WriteZeroes {
        volume: V,
        offset_bytes: 0,
        len_bytes: 2 * BLOCK,
        fua: Fua::No,
    };
    assert_eq!(world.do_now(0, zeroes), Ok(Completed::Ok));
    world.cut = false;
    world.until("a pair", World::is_settled);
    assert_eq!(world.replayed_writes(0), 1);
    world.assert_equal();
    let page = world.boxes[1].disks[&V].page((1 << 20) / 4096);
    assert_eq!(value_of(&page), Some(0));
}

#[test]
fn h27_another_incarnation_gets_copies_and_nothing_from_memory() {
    for power in [false, true] {
        let mut world = World::paired(47);
        for at in 0..8 {
            world.do_now(0, write(at * BLOCK, at + 1)).expect("in sync");
        }
        let read_before = world.blocks_read(0);
        world.kill(1, power);
        world.start(1, power);
        world.until("a pair", World::is_settled);
        assert_eq!(world.replayed_writes(0), 0);
        assert!(world.blocks_read(0) > read_before);
        world.assert_equal();
    }
}

#[test]
fn d4_what_is_too_much_to_keep_is_copied() {
    let mut world = World::paired(48); // every fourth world keeps next to nothing
    world.go_alone();
    let read_before = world.blocks_read(0);
    for at in 0..12 {
        world.do_now(0, write(at * BLOCK, at + 1)).expect("alone");
    }
    assert_eq!(world.engine(0).status().kept_bytes, 0);
    world.cut = false;
    world.until("a pair", World::is_settled);
    assert!(world.blocks_read(0) >= read_before + 12);
    world.assert_equal();
}

#[test]
fn d4_what_is_kept_is_flushed_away_without_being_asked() {
    let mut world = World::paired(49);
    for at in 0..8 {
        world.do_now(0, write(at * BLOCK, at + 1)).expect("in sync");
    }
    assert!(world.engine(0).status().kept_bytes > 8 * 4096);
    world.run_ms(100);
    assert_eq!(world.engine(0).status().kept_bytes, 0);
}

#[test]
fn d4_a_restarted_primary_sends_nothing_from_before() {
    let mut world = World::paired(50);
    for at in 0..8 {
        world.ask(0, write(at * BLOCK, at + 1));
    }
    world.kill(0, false);
    world.start(0, false);
    world.until("a pair", World::is_settled);
    let replayed = |who| world.replayed_writes(who);
    assert_eq!((replayed(0), replayed(1)), (0, 0));
    world.assert_equal();
}

#[test]
fn d4_one_interruption_after_the_other_loses_and_doubles_nothing() {
    for seed in [51, 53, 54, 55, 57] {
        let mut world = World::paired(seed);
        for round in 0..12 {
            for at in 0..10 {
                let spot = at % 3 * BLOCK + at % 2 * 4096;
                world.ask(0, write(spot, 1 + round * 100 + at));
            }
            world.run_ms(1 + round % 5);
            world.reset_link();
            world.run_ms(round * 2 % 7);
        }
        world.until("a pair", World::is_settled);
        world.assert_equal();
        let seen = |event: &Event| matches!(event, Event::Replayed { .. });
        assert!(world.boxes[0].events.iter().any(seen));
    }
}

#[test]
fn a_frozen_box_lets_so_many_commands_wait_and_refuses_more() {
    let mut world = World::paired(61);
    world.boxes[0].isolated = true; // no authority comes through
    world.kill(1, false);
    world.run_ms(100);
    assert_eq!(world.engine(0).status().role, Role::Frozen);
    let room = world.limits.inflight_commands + world.limits.queued_commands;
    let asked: Vec<_> = (0..2 * room as u64)
        .map(|at| world.ask(0, write(at % 1000 * 4096, at + 1)))
        .collect();
    let refused = |id| world.answers.get(id) == Some(&Err(CommandError::Overloaded));
    assert_eq!(asked.iter().filter(|id| refused(id)).count(), room);
    assert_eq!(world.engine(0).status().commands, room);
    world.boxes[0].isolated = false;
    let all = |w: &World| asked.iter().all(|id| w.answers.contains_key(id));
    world.until("all answers", all);
}

#[test]
fn d4_a_block_that_changed_without_being_sent_is_copied() {
    let mut world = World::paired(62);
    world.go_alone();
    for block in 0..3 {
        world.do_now(0, write(block * BLOCK, 1)).expect("alone");
    }
    world.cut = false;
    world.until("a replay", |world| world.replayed > 0);
    // more at once than the window has room for, into blocks that are owed
    let asked: Vec<_> = (0..24)
        .map(|at| world.ask(0, write(at % 3 * BLOCK + (1 + at / 3) * 4096, 100 + at)))
        .collect();
    let all = |w: &World| asked.iter().all(|id| w.answers.contains_key(id));
    world.until("all answers", all);
    world.until("a pair", World::is_settled);
    world.run_ms(100);
    world.assert_equal();
}

#[test]
fn d4_what_was_sent_again_is_owed_until_it_is_stable() {
    for step in 0..20 {
        let mut world = World::paired(65 + 4 * step);
        world.go_alone();
        for block in 0..3 {
            world
                .do_now(0, write(block * BLOCK, block + 1))
                .expect("alone");
        }
        world.cut = false;
        world.until("a replay", |world| world.replayed > 0);
        let end = world.now + step * MS / 10;
        while world.now < end {
            world.step();
        }
        world.kill(1, true); // its cache is gone
        world.start(1, true);
        world.until("a pair", World::is_settled);
        world.assert_equal();
    }
}

#[test]
fn r1_a_peer_whose_process_is_gone_is_lost_at_once() {
    for seed in 70..78 {
        let mut world = World::paired(seed);
        let killed = world.now;
        world.kill(1, false);
        let closed = world.heap.values().any(|what| {
            let closed = |input: &Input| matches!(input, Input::Disconnected { .. });
            matches!(what, What::Input(0, _, input) if closed(input))
        });
        let lost = |event: &Event| matches!(event, Event::PeerLost { .. });
        world.until("the loss", |w| w.boxes[0].events.iter().any(lost));
        let limit_ms = if closed { 10 } else { 51 };
        assert!(world.now - killed < limit_ms * MS, "seed {seed}");
    }
}
