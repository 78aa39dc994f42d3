//! A snapshot or a backup of a pool is put back behind the engine's back (law D7, H36).

use std::collections::BTreeMap;

use crate::disk::SimDisk;
use crate::scenarios::write;
use crate::world::{SimBox, World};
use replication::engine::{Attached, Command, Completed, Event, Role};
use replication::types::{CopyMark, VolumeNumber};

type Image = BTreeMap<VolumeNumber, SimDisk>;

impl SimBox {
    /// What the authority's record keeps of the copy.
    pub(crate) fn remember(&mut self, event: &Event) {
        if let Event::Data(state) = event
            && let Some(disk) = state.disk
            && !matches!(state.attached, Attached::Failed(_))
        {
            let generation = state.generation;
            self.newest = Some(CopyMark { disk, generation });
        }
    }
}

impl World {
    /// What the pool of a box holds at this moment, and what is in its caches.
    fn image(&self, who: usize) -> Image {
        self.boxes[who].disks.clone()
    }

    fn put_back(&mut self, who: usize, image: Image) {
        self.boxes[who].disks = image;
    }

    fn why_not(&self, who: usize) -> String {
        let Attached::No(why) = self.engine(who).status().data.attached else {
            panic!("it is attached, or its disk failed")
        };
        why
    }
}

#[test]
fn d7_data_that_were_put_back_are_not_served() {
    let mut world = World::paired(701);
    world.do_now(0, write(0, 7)).expect("in sync");
    world
        .do_now(
            0,
            Command::Flush {
                volume: crate::scenarios::V,
            },
        )
        .expect("in sync");
    let old = world.image(1);
    world.kill(0, false);
    world.until("a successor", |w| {
        w.engine(1).status().role == Role::Serving
    });
    assert_eq!(world.do_now(1, write(0, 8)), Ok(Completed::Ok));
    world.kill(1, false);
    let newest = world.image(1);

    world.put_back(1, old);
    world.start(1, true);
    world.start(0, true);
    world.run_ms(5_000);
    for who in [0, 1] {
        let role = world.engine(who).status().role;
        assert_ne!(
            role,
            Role::Serving,
            "D7: box {who} lacks what was acknowledged"
        );
    }
    assert!(
        world.why_not(1).contains("older than they were"),
        "{}",
        world.why_not(1)
    );

    world.kill(1, true);
    world.put_back(1, newest);
    world.start(1, true);
    world.until("a pair", World::is_settled);
    assert_eq!(world.value_at(1, 0), 8);
    world.assert_equal();
}

#[test]
fn d7_a_standby_that_was_put_back_gets_everything_again() {
    let mut world = World::paired(702);
    let old = world.image(1);
    world.do_now(0, write(0, 7)).expect("in sync");
    world.kill(1, false);
    world.do_now(0, write(4096, 8)).expect("alone");
    world.start(1, false);
    world.until("a pair", World::is_settled);
    let disk = world.engine(1).status().data.disk;

    world.kill(1, false);
    world.put_back(1, old);
    world.start(1, true);
    world.until("a pair", World::is_settled);
    let replaced = world.engine(1).status().data.disk;
    assert!(replaced.is_some() && replaced != disk, "D7: another copy");
    world.assert_equal();
}
