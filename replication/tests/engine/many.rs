//! Many volumes, and large ones.

use crate::histories::VOLUME;
use crate::world::{World, filled};
use replication::engine::{Attached, Command, CommandError, Completed, Input, Role};
use replication::meta::HEAD_BYTES;
use replication::types::{CommandId, Fua, VolumeNumber, VolumeSpec};
use replication::wire::volumes::VOLUMES_MAX;

impl World {
    /// Looks at volumes that one write takes, on the average of a hundred.
    fn looks_per_write(&mut self) -> u64 {
        let before = self.engine(0).volumes_looked_at();
        for value in 1..=100 {
            let id = self.ask(
                0,
                Command::Write {
                    volume: VolumeNumber(VOLUME),
                    offset_bytes: value % 7 * 4096,
                    data: filled(value, 1),
                    fua: Fua::No,
                },
            );
            self.until("a write", |world| world.answers.contains_key(&id));
            assert_eq!(self.answers[&id], Ok(Completed::Ok));
        }
        (self.engine(0).volumes_looked_at() - before) / 100
    }
}

#[test]
fn a_write_costs_the_same_with_256_volumes_and_there_are_no_more() {
    let mut world = World::founded(70, false);
    let few = world.looks_per_write();
    for number in VOLUME + 1..=u32::try_from(VOLUMES_MAX).expect("it fits") {
        world.create(0, number, 1 << 20);
    }
    assert_eq!(world.engine(0).status().volumes.len(), VOLUMES_MAX + 1);
    let many = world.looks_per_write();
    assert!(
        many <= few + 1,
        "{few} looks with one volume, {many} with 256"
    );
    let id = CommandId(world.fresh_id());
    let spec = VolumeSpec {
        number: VolumeNumber(1000),
        uuid: 1,
        size_bytes: 1 << 20,
    };
    world.input(0, Input::CreateVolume { id, spec });
    world.until("an answer", |world| world.answers.contains_key(&id));
    let Err(CommandError::Refused(why)) = &world.answers[&id] else {
        panic!("{:?}", world.answers[&id]);
    };
    assert!(why.contains("at most 256 volumes"), "{why}");
}

#[test]
fn a_clean_volume_of_100_tib_is_attached_by_reading_its_head() {
    let mut world = World::founded(71, false);
    world.create(0, 2, 100 << 40);
    world.kill(0, false);
    world.start(0, false);
    world.until("the disks are read", |world| {
        world.engine(0).status().data.attached == Attached::Yes
    });
    assert_eq!(world.boxes[0].read_bytes, 3 * HEAD_BYTES);
    world.until("it serves", |world| {
        world.engine(0).status().role == Role::Serving
    });
    let id = world.ask(
        0,
        Command::Write {
            volume: VolumeNumber(2),
            offset_bytes: (100 << 40) - 4096,
            data: filled(9, 1),
            fua: Fua::Yes,
        },
    );
    world.until("a write at its end", |world| {
        world.answers.contains_key(&id)
    });
    assert_eq!(world.answers[&id], Ok(Completed::Ok));
    world.run_ms(200);
    world.kill(0, false);
    world.start(0, false);
    world.until("the disks are read", |world| {
        world.engine(0).status().data.attached == Attached::Yes
    });
    let pages = 2 * 8192; // of the two volumes with a dirty block
    assert!(world.boxes[0].read_bytes <= 3 * HEAD_BYTES + pages);
    assert!(world.engine(0).status().dirty_bytes >= 64 << 10);
}
