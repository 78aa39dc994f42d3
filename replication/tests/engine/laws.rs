//! One law, one scenario: what a pair in sync and a change of the primary must keep. Each has a
//! part of the work of a disk that does not end, so that nobody depends on who is fast.

use crate::scenarios::{BLOCK, V, write};
use crate::world::{World, filled, value_of};
use replication::engine::{Command, Completed, Event, Input, Io, PeerLoss, Role};
use replication::meta::index;
use replication::types::{CommandId, Fua};

/// The first byte of a data area.
pub(crate) const DATA: u64 = 1 << 20;

fn writes_to(io: &Io, range: std::ops::Range<u64>) -> bool {
    match io {
        Io::Write { offset_bytes, .. } | Io::WriteZeroes { offset_bytes, .. } => {
            range.contains(offset_bytes)
        }
        Io::Read { .. } | Io::Flush => false,
    }
}

pub(crate) fn data_writes(io: &Io) -> bool {
    writes_to(io, DATA..u64::MAX)
}

fn metadata_writes(io: &Io) -> bool {
    writes_to(io, 0..DATA)
}

/// The index of a dirty map and the pages of it.
fn map_writes(io: &Io) -> bool {
    writes_to(io, index::OFFSET..DATA)
}

fn index_writes(io: &Io) -> bool {
    writes_to(
        io,
        index::OFFSET..index::OFFSET + 2 * index::LEN_BYTES as u64,
    )
}

pub(crate) fn flushes(io: &Io) -> bool {
    matches!(io, Io::Flush)
}

impl World {
    /// Operations of this kind do not end from here on.
    pub(crate) fn stick(&mut self, who: usize, stuck: fn(&Io) -> bool) {
        self.boxes[who].troubles.stuck = Some(stuck);
    }

    pub(crate) fn unstick(&mut self, who: usize) {
        self.boxes[who].troubles.stuck = None;
    }

    /// One of this kind is at the disk of the box.
    pub(crate) fn is_at_disk(&self, who: usize, which: fn(&Io) -> bool) -> bool {
        let mut running = self.boxes[who].running.values();
        running.any(|(_, io)| which(io))
    }

    /// What the disk of a box holds at a byte of the volume.
    pub(crate) fn held_at(&self, who: usize, at: u64) -> Option<u64> {
        value_of(&self.boxes[who].disks[&V].page((DATA + at) / 4096))
    }

    fn is_stable_at(&self, who: usize, at: u64) -> bool {
        self.boxes[who].disks[&V].is_stable((DATA + at) / 4096)
    }

    pub(crate) fn is_answered(&self, id: CommandId) -> bool {
        self.answers.contains_key(&id)
    }

    /// The power of a box fails, and nothing is kept that was in a cache or on its way to it.
    pub(crate) fn lose_power(&mut self, who: usize) {
        let it = &mut self.boxes[who];
        it.running.clear();
        for disk in it.disks.values_mut() {
            disk.lose_cache();
        }
        self.kill(who, true);
    }

    fn serves(&self, who: usize) -> bool {
        self.engine(who).status().role == Role::Serving
    }
}

#[test]
fn r4_a_write_waits_for_the_disk_of_the_peer() {
    let mut world = World::paired(401);
    world.stick(1, data_writes);
    let held = world.ask(0, write(0, 5));
    world.until("the write", |w| w.is_at_disk(1, data_writes));
    world.run_ms(20);
    assert!(!world.is_answered(held), "R4: one disk has it");
    world.unstick(1);
    world.until("the answer", |w| w.is_answered(held));
    assert_eq!(
        (world.held_at(0, 0), world.held_at(1, 0)),
        (Some(5), Some(5))
    );
}

#[test]
fn r4_a_flush_waits_for_the_cache_of_the_peer() {
    let mut world = World::paired(402);
    world.do_now(0, write(0, 5)).expect("in sync");
    world.stick(1, flushes);
    let held = world.ask(0, Command::Flush { volume: V });
    world.until("the flush", |w| w.is_at_disk(1, flushes));
    world.run_ms(20);
    assert!(!world.is_answered(held), "R4: one cache is flushed");
    world.unstick(1);
    world.until("the answer", |w| w.is_answered(held));
    assert!(world.is_stable_at(0, 0) && world.is_stable_at(1, 0));
}

#[test]
fn r4_a_forced_write_is_stable_on_both_disks() {
    let mut world = World::paired(403);
    let forced = Command::Write {
        volume: V,
        offset_bytes: 0,
        data: filled(5, 1),
        fua: Fua::Yes,
    };
    assert_eq!(world.do_now(0, forced), Ok(Completed::Ok));
    for who in [0, 1] {
        assert_eq!(world.held_at(who, 0), Some(5));
        assert!(world.is_stable_at(who, 0), "R4: in the cache of box {who}");
    }
}

#[test]
fn d2_no_byte_of_a_write_leaves_before_its_intent_is_durable() {
    let mut world = World::paired(405);
    world.stick(0, metadata_writes);
    let held = world.ask(0, write(0, 5));
    world.run_ms(30);
    for who in [0, 1] {
        assert_eq!(world.held_at(who, 0), Some(0), "D2: box {who} has it");
    }
    assert!(world.is_at_disk(0, metadata_writes));
    world.unstick(0);
    world.until("the answer", |w| w.is_answered(held));
}

#[test]
fn d2_a_region_is_hot_until_the_peer_has_flushed_it() {
    let mut world = World::paired(406);
    world.do_now(0, write(0, 5)).expect("in sync");
    world.stick(1, flushes);
    world.run_ms(150); // flushed here several times
    assert!(world.is_stable_at(0, 0));
    world.lose_power(0);
    world.lose_power(1);
    world.unstick(1);
    world.start(1, true); // without the write
    world.until("a takeover", |w| w.serves(1));
    world.start(0, true);
    world.until("a pair", World::is_settled);
    world.assert_equal();
}

#[test]
fn d2_a_region_written_during_a_flush_is_hot_after_it() {
    let mut world = World::paired(407);
    world.stick(1, flushes);
    world.do_now(0, write(0, 5)).expect("in sync");
    world.run_ms(60); // this box has flushed, and waits for the other one
    assert!(world.is_stable_at(0, 0));
    world.do_now(0, write(4096, 6)).expect("in sync");
    world.unstick(1);
    world.run_ms(30);
    assert!(!world.is_stable_at(0, 4096) && world.is_stable_at(1, 4096));
    world.lose_power(0);
    world.until("a takeover", |w| w.serves(1));
    world.start(0, true);
    world.until("a pair", World::is_settled);
    world.assert_equal();
}

#[test]
fn d2_what_was_hot_at_the_death_of_the_primary_is_made_equal() {
    let mut world = World::paired(409);
    world.cut = true;
    world.ask(0, write(0, 5));
    world.until("half a write", |w| w.held_at(0, 0) == Some(5));
    world.kill(0, false);
    world.cut = false;
    world.until("a takeover", |w| w.serves(1));
    assert_eq!(world.held_at(1, 0), Some(0));
    world.start(0, false);
    world.until("a pair", World::is_settled);
    world.assert_equal();
}

#[test]
fn r1_nothing_completes_before_the_new_epoch_is_durable() {
    let mut world = World::paired(410);
    world.do_now(0, write(0, 1)).expect("in sync"); // its region is hot
    world.stick(0, |io| data_writes(io) || map_writes(io));
    let held = world.ask(0, write(0, 2));
    world.kill(1, false);
    let alone = |w: &World| !w.engine(0).status().acks_wait_for_peer;
    world.until("a new epoch", alone);
    world.stick(0, map_writes);
    world.until("the write here", |w| w.held_at(0, 0) == Some(2));
    world.run_ms(50);
    assert!(
        !world.is_answered(held),
        "R1: nobody knows what the peer lacks"
    );
    world.unstick(0);
    world.until("the answer", |w| w.is_answered(held));
}

#[test]
fn d2_a_primary_goes_on_alone_once_its_dirty_map_is_listed() {
    let mut world = World::paired(411);
    world.do_now(0, write(0, 1)).expect("in sync");
    world.stick(0, index_writes);
    world.kill(1, false);
    let held = world.ask(0, write(0, 2));
    world.until("the index", |w| w.is_at_disk(0, index_writes));
    world.run_ms(200);
    assert!(
        !world.is_answered(held),
        "D2: a restart finds no dirty page"
    );
    world.unstick(0);
    world.until("the answer", |w| w.is_answered(held));
    world.lose_power(0);
    world.start(0, true);
    world.start(1, false);
    world.until("a pair", World::is_settled);
    world.assert_equal();
    assert_eq!(world.held_at(1, 0), Some(2));
}

#[test]
fn r3_a_sealed_box_takes_nothing_of_the_sealed_epoch() {
    let mut world = World::paired(413);
    world.boxes[0].isolated = true; // it does not hear of it
    let epoch = world.engine(0).status().epoch;
    world.input(1, Input::Seal { epoch });
    let held = world.ask(0, write(0, 5));
    world.run_ms(20);
    assert_eq!(world.held_at(1, 0), Some(0), "R3: it took a frame");
    assert!(!world.is_answered(held), "R3: it acknowledged");
    let sealed = |event: &Event| {
        matches!(
            event,
            Event::PeerLost {
                why: PeerLoss::Sealed,
                ..
            }
        )
    };
    assert!(world.saw(0, sealed));
}

#[test]
fn h8_a_seal_waits_for_older_writes_at_the_disk() {
    let mut world = World::paired(414);
    world.stick(1, data_writes);
    world.ask(0, write(0, 5));
    world.until("the write", |w| w.is_at_disk(1, data_writes));
    world.boxes[0].isolated = true;
    let epoch = world.engine(0).status().epoch;
    world.input(1, Input::Seal { epoch });
    world.run_ms(20);
    let sealed = |event: &Event| matches!(event, Event::Sealed { .. });
    assert!(!world.saw(1, sealed), "H8: a write may land after the seal");
    world.unstick(1);
    world.until("the seal", |w| w.saw(1, sealed));
    assert_eq!(world.held_at(1, 0), Some(5));
}

#[test]
fn h12_a_new_primary_serves_once_all_it_has_is_stable() {
    let mut world = World::paired(415);
    world.do_now(0, write(0, 5)).expect("in sync");
    world.kill(0, false);
    world.until("the seal", |w| {
        w.saw(1, |event| matches!(event, Event::Sealed { .. }))
    });
    world.stick(1, flushes);
    world.until("the flush", |w| w.is_at_disk(1, flushes) || w.serves(1));
    world.run_ms(50);
    assert!(!world.serves(1), "H12: it serves what a power cut may take");
    world.unstick(1);
    world.until("a takeover", |w| w.serves(1));
    assert!(world.is_stable_at(1, 0));
}

#[test]
fn r7_a_handover_waits_until_both_have_flushed() {
    let mut world = World::paired(417);
    world.do_now(0, write(BLOCK, 5)).expect("in sync");
    world.stick(1, flushes);
    world.begin_handover();
    world.run_ms(50);
    let drained = |event: &Event| matches!(event, Event::Drained { .. });
    assert!(!world.saw(0, drained), "R7: the peer has not flushed");
    world.unstick(1);
    world.until("the switch", |w| w.boss.handovers == 1 && w.is_settled());
    assert!(world.is_stable_at(0, BLOCK) && world.is_stable_at(1, BLOCK));
}
