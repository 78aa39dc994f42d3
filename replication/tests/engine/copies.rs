//! Copies to a peer that comes back: how fast, how many frames, and that they end.

use crate::histories::SIZE;
use crate::scenarios::{BLOCK, V, write};
use crate::world::{World, filled};
use replication::engine::{Command, Completed, Input, Pace, ResyncCounts, ResyncLimit, Role};
use replication::meta;
use replication::types::Fua;

impl World {
    /// A pair whose second box was away while `blocks` blocks were written.
    fn behind(seed: u64, blocks: u64) -> Self {
        let mut world = Self::paired(seed);
        world.kill(1, false);
        for block in 0..blocks {
            let written = world.do_now(0, write(block * BLOCK, block + 1));
            assert_eq!(written, Ok(Completed::Ok));
        }
        world
    }

    fn write_on(&mut self, at: u64, pages: u64) {
        let value = 0x5000 + self.fresh_id();
        let command = Command::Write {
            volume: V,
            offset_bytes: at,
            data: filled(value, pages),
            fua: Fua::No,
        };
        self.ask(0, command);
    }

    fn counts(&self, who: usize) -> ResyncCounts {
        self.engine(who).status().resync.counts
    }

    fn dirty_bytes(&self) -> u64 {
        self.engine(0).status().dirty_bytes
    }
}

#[test]
fn r6_a_copy_ends_under_the_heaviest_load_with_tiny_windows() {
    for seed in 60..64 {
        let mut world = World::paired(seed);
        world.kill(1, false);
        world.limits.resync_window_bytes = 1; // a block is always in flight
        world.limits.mirror_window_bytes = 8 << 10; // the next write finds it full
        world.kill(0, false);
        world.start(0, false);
        world.run_ms(500);
        for block in 0..SIZE / BLOCK {
            world.write_on(block * BLOCK, 1);
        }
        world.start(1, false);
        // more in flight than the engine takes in at once, all over the volume, until the end
        let (end, mut at) = (world.now + 60_000_000_000, 0);
        while !world.boss.both_in_sync() {
            assert!(world.now < end, "it does not end: {}", world.describe());
            while world.asked.len() < 32 && world.boss.primary.is_some_and(|it| it.0 == 0) {
                at = (at + 11 * BLOCK + 4096) % (SIZE - 16384);
                world.write_on(at, 4);
            }
            world.step();
        }
        world.until("rest", World::is_settled);
        world.assert_equal();
    }
}

#[test]
fn a_paused_copy_copies_nothing_and_mirrors_on() {
    let mut world = World::behind(70, 40);
    world.input(0, Input::Pace(Pace::Paused));
    let dirty_bytes = world.dirty_bytes();
    assert_eq!(dirty_bytes, 40 * BLOCK);
    world.start(1, false);
    world.run_ms(3000);
    world.do_now(0, write(60 * BLOCK, 7)).expect("writes go on");
    let status = world.engine(0).status();
    assert_eq!(status.resync.limit, ResyncLimit::Paused);
    assert_eq!(status.dirty_bytes, dirty_bytes, "the new write is mirrored");
    assert!(!world.boss.both_in_sync());
    world.input(0, Input::Pace(Pace::Auto));
    world.until("a pair", World::is_settled);
    world.assert_equal();
}

#[test]
fn a_pause_ends_with_the_primary_role() {
    let mut world = World::paired(71);
    world.input(0, Input::Pace(Pace::Paused));
    world.begin_handover();
    world.until("the switch", |w| w.boss.handovers == 1 && w.is_settled());
    assert_eq!(world.engine(0).status().resync.pace, Pace::Auto);
    assert_eq!(world.engine(1).status().resync.pace, Pace::Auto);
}

#[test]
fn a_rate_is_the_most_that_is_copied() {
    let mut world = World::behind(72, 40);
    let bytes_per_s = 10 * BLOCK;
    world.input(0, Input::Pace(Pace::AtMost { bytes_per_s }));
    world.start(1, false);
    world.run_ms(1000);
    assert!(world.dirty_bytes() >= 29 * BLOCK, "ten in a second");
    assert_eq!(world.engine(0).status().resync.limit, ResyncLimit::Rate);
    world.run_ms(1500);
    let (dirty_bytes, most) = (world.dirty_bytes(), 30 * BLOCK);
    assert!(dirty_bytes <= most, "{dirty_bytes} bytes are left");
    let rate = world.engine(0).status().resync.bytes_per_s;
    assert!(
        (bytes_per_s / 2..=bytes_per_s * 2).contains(&rate),
        "{rate}"
    );
    world.until("a pair", World::is_settled);
    world.assert_equal();
}

#[test]
fn h33_what_a_crash_left_equal_is_compared_and_not_sent() {
    let mut world = World::paired(73);
    for page in 0..16 {
        let written = world.do_now(0, write(page * 4096, page + 1));
        assert_eq!(written, Ok(Completed::Ok));
    }
    world.kill(0, false); // with a hot region of 16 blocks, of which one was written
    world.until("a takeover", |w| w.engine(1).status().role == Role::Serving);
    world.start(0, false);
    world.until("a pair", World::is_settled);
    let counts = world.counts(1);
    assert_eq!(world.copied_bytes(1), [16 * BLOCK]);
    assert_eq!(counts.equal_blocks, 16, "{counts:?}");
    assert_eq!((counts.sent_blocks, counts.zero_blocks), (0, 0));
    world.assert_equal();
}

#[test]
fn h33_what_differs_in_a_coarse_mask_is_copied() {
    let mut world = World::paired(74);
    world.do_now(0, write(0, 1)).expect("in sync");
    world.do_now(0, write(5 * BLOCK, 2)).expect("in sync");
    world.kill(0, false);
    world.until("a takeover", |w| w.engine(1).status().role == Role::Serving);
    // of the same region: one block written while the other box is away, one damaged there
    world.do_now(1, write(5 * BLOCK, 3)).expect("alone");
    let at = (1 << 20) + 9 * BLOCK;
    let disk = world.boxes[0].disks.get_mut(&V).expect("a volume");
    disk.write(at, &[7; 4096], Fua::Yes);
    world.start(0, false);
    world.until("a pair", World::is_settled);
    let counts = world.counts(1);
    assert_eq!((counts.equal_blocks, counts.different_blocks), (14, 2));
    assert_eq!((counts.sent_blocks, counts.zero_blocks), (1, 1));
    world.assert_equal();
}

#[test]
fn h33_an_equal_block_is_dirty_until_the_target_has_flushed() {
    let mut world = World::paired(75);
    world.do_now(0, write(0, 1)).expect("in sync");
    world.kill(0, false);
    world.until("a takeover", |w| w.engine(1).status().role == Role::Serving);
    world.start(0, false);
    let answered = |w: &World| w.counts(1).equal_blocks > 0;
    world.until("a comparison", answered);
    // no flush can have been answered in the same instant
    assert!(world.engine(1).status().dirty_bytes >= BLOCK);
    world.kill(0, true); // what was equal may be gone with its cache
    world.start(0, true);
    world.until("a pair", World::is_settled);
    world.assert_equal();
}

#[test]
fn what_an_exact_mask_names_is_sent_at_once() {
    let mut world = World::behind(76, 8);
    world.start(1, false);
    world.until("a pair", World::is_settled);
    let counts = world.counts(0);
    assert_eq!((counts.sent_blocks, counts.equal_blocks), (8, 0));
    world.assert_equal();
}

#[test]
fn an_idle_copy_moves_in_large_frames_and_few_flushes() {
    let mut world = World::founded(77, true); // everything is to be copied
    world.limits.resync_window_bytes = 8 << 20;
    world.kill(0, false);
    world.start(0, false);
    let serves = |w: &World| w.engine(0).status().role == Role::Serving;
    world.until("the first box", serves);
    for at in 0..32 {
        world.write_on(at * BLOCK, 16); // 2 MiB of data, the rest stays zero
        world.until("the write", |w| w.asked.is_empty());
    }
    world.run_ms(200); // nobody is at work any more
    world.start(1, true);
    world.until("a pair", World::is_settled);
    let counts = world.counts(0);
    let blocks = (SIZE + meta::SYSTEM_BYTES) / BLOCK;
    assert_eq!(counts.sent_blocks, 32);
    assert_eq!(counts.sent_blocks + counts.zero_blocks, blocks);
    assert_eq!(counts.equal_blocks + counts.different_blocks, 0);
    assert!(counts.frames <= blocks / 8, "{counts:?}");
    assert!(counts.flushes <= 8, "{counts:?}");
    world.assert_equal();
}
