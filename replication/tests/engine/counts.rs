//! What the engine says about its own work.

use crate::histories::{SIZE, VOLUME};
use crate::world::{World, filled};
use replication::engine::{Command, Completed, Span, Work};
use replication::types::{Fua, VolumeNumber};

const V: VolumeNumber = VolumeNumber(VOLUME);

fn work(world: &World) -> Work {
    let status = world.engine(0).status();
    let volume = status.volumes.iter().find(|volume| volume.spec.number == V);
    volume.expect("it is attached").work.clone()
}

fn count(work: &Work, span: Span) -> u64 {
    let found = work.times.iter().find(|(found, _)| *found == span);
    found.map_or(0, |(_, summary)| summary.count)
}

#[test]
fn every_part_of_a_command_is_counted_once() {
    let mut world = World::founded(1, false);
    world.start(1, true);
    world.until("a pair", World::is_settled);
    let before = work(&world);
    for at in 0..10 {
        let offset_bytes = at * 4096 % SIZE;
        let write = Command::Write {
            volume: V,
            offset_bytes,
            data: filled(at, 1),
            fua: Fua::No,
        };
        assert_eq!(world.do_now(0, write), Ok(Completed::Ok));
        let read = Command::Read {
            volume: V,
            offset_bytes,
            len_bytes: 4096,
        };
        assert!(matches!(world.do_now(0, read), Ok(Completed::Data(_))));
    }
    let after = work(&world);
    let counted = |span| count(&after, span) - count(&before, span);
    assert_eq!((counted(Span::Write), counted(Span::Read)), (10, 10));
    assert_eq!((counted(Span::Admit), counted(Span::Ack)), (20, 20));
    assert_eq!((counted(Span::Local), counted(Span::Remote)), (20, 10));
    assert_eq!(counted(Span::Intent), 1, "one region");
    assert!(after.intent_writes > before.intent_writes);
    let (_, whole) = after
        .times
        .iter()
        .find(|(span, _)| *span == Span::Write)
        .unwrap();
    let (_, remote) = after
        .times
        .iter()
        .find(|(span, _)| *span == Span::Remote)
        .unwrap();
    assert!(whole.max_ns >= remote.max_ns && remote.mean_ns > 0);
}
