//! A config that leaves the peer out may be chosen although its proposer loses its power before it
//! hears so. What was acknowledged is stable on it before it can be proposed (laws R1, R2).

use crate::scenarios::{V, write};
use crate::world::World;
use replication::engine::{Attached, DiskError, Event, Input};
use replication::types::Epoch;

const AT: u64 = 7;

/// A pair whose writes of before were acknowledged and are in the caches only.
fn unflushed() -> World {
    let mut world = World::paired(41);
    world.do_now(0, write(AT * 4096, 5)).expect("in sync");
    assert!(!is_stable(&world, 0) && !is_stable(&world, 1));
    world
}

fn is_stable(world: &World, who: usize) -> bool {
    world.boxes[who].disks[&V].is_stable(256 + AT)
}

#[test]
fn r1_a_loss_is_reported_when_what_was_acknowledged_is_stable() {
    let mut world = unflushed();
    let lost = |world: &World| world.saw(0, |event| matches!(event, Event::PeerLost { .. }));
    world.kill(1, true);
    world.until("the loss", lost);
    assert!(is_stable(&world, 0), "R1: the proposal may be in doubt");
}

#[test]
fn r2_a_seal_is_reported_when_what_was_acknowledged_is_stable() {
    let mut world = unflushed();
    let sealed = |world: &World| world.saw(1, |event| matches!(event, Event::Sealed { .. }));
    let epoch = Epoch(world.boss.epoch);
    world.input(1, Input::Seal { epoch });
    world.until("the seal", sealed);
    assert!(is_stable(&world, 1), "R2: the proposal may be in doubt");
}

fn is_failure(event: &Event) -> bool {
    matches!(event, Event::Data(state) if matches!(state.attached, Attached::Failed(_)))
}

#[test]
fn d5_a_disk_that_fails_at_the_last_flush_is_said_before_the_loss() {
    let mut world = unflushed();
    world.boxes[0].troubles.error = Some(DiskError::Io);
    let is_loss = |event: &Event| matches!(event, Event::PeerLost { .. });
    world.kill(1, true);
    world.until("the loss", |world| world.saw(0, is_loss));
    let events = &world.boxes[0].events;
    let failure = events.iter().position(is_failure);
    let loss = events.iter().position(is_loss);
    assert!(
        failure.is_some() && failure < loss,
        "R1: a box whose disk failed proposes itself: {failure:?}, {loss:?}"
    );
}

#[test]
fn d5_a_disk_that_fails_at_the_last_flush_is_not_sealed() {
    let mut world = unflushed();
    world.boxes[1].troubles.error = Some(DiskError::Io);
    let epoch = Epoch(world.boss.epoch);
    world.input(1, Input::Seal { epoch });
    world.until("the failure", |world| world.saw(1, is_failure));
    world.run_ms(100);
    let sealed = world.saw(1, |event| matches!(event, Event::Sealed { .. }));
    assert!(!sealed, "R2: a box whose disk failed promotes itself");
}
