//! A volume becomes larger while it is in use.

use crate::histories::{SIZE, VOLUME};
use crate::world::{BOXES, MS, World, filled, value_of};
use replication::engine::{Command, CommandError, Completed, Event};
use replication::types::{Fua, VolumeNumber};

const V: VolumeNumber = VolumeNumber(VOLUME);
const LARGER: u64 = SIZE + (3 << 20);

impl World {
    fn pair_with(seed: u64, dusty: bool) -> Self {
        let mut world = Self::founded(seed, dusty);
        world.start(1, true);
        world.until("a pair", Self::is_settled);
        world
    }

    fn grow_to(&mut self, who: usize, size_bytes: u64) -> Result<Completed, CommandError> {
        let id = self.ask_growth(who, size_bytes);
        self.until("the growth", |world| world.answers.contains_key(&id));
        self.answers[&id].clone()
    }

    fn size_at(&self, who: usize) -> u64 {
        let volumes = self.engine(who).status().volumes;
        let volume = volumes.iter().find(|volume| volume.spec.number == V);
        volume.expect("it is there").spec.size_bytes
    }

    fn write_at(&mut self, who: usize, at: u64, value: u64) -> Result<Completed, CommandError> {
        let id = self.ask(
            who,
            Command::Write {
                volume: V,
                offset_bytes: at,
                data: filled(value, 1),
                fua: Fua::No,
            },
        );
        self.until("the write", |world| world.answers.contains_key(&id));
        self.answers[&id].clone()
    }

    fn page_at(&mut self, who: usize, at: u64) -> u64 {
        let id = self.ask(
            who,
            Command::Read {
                volume: V,
                offset_bytes: at,
                len_bytes: 4096,
            },
        );
        self.until("the read", |world| world.answers.contains_key(&id));
        let Ok(Completed::Data(data)) = self.answers[&id].clone() else {
            panic!("no data");
        };
        value_of(&data).expect("one value")
    }
}

#[test]
fn d6_a_volume_grows_on_both_and_what_is_new_reads_zero_on_both() {
    for dusty in [false, true] {
        let mut world = World::pair_with(60, dusty);
        assert_eq!(world.write_at(0, SIZE, 1), Err(CommandError::OutOfRange));
        assert_eq!(world.grow_to(0, LARGER), Ok(Completed::Ok));
        assert_eq!(BOXES.map(|who| world.size_at(who)), [LARGER; 2]);
        assert_eq!(world.page_at(0, SIZE), 0, "the old superblocks are gone");
        assert_eq!(world.page_at(0, LARGER - 4096), 0);
        assert_eq!(world.write_at(0, LARGER - 4096, 5), Ok(Completed::Ok));
        world.until("rest", World::is_settled);
        world.assert_equal();
        assert_eq!(world.engine(0).status().dirty_bytes, 0);
    }
}

#[test]
fn a_size_is_answered_when_it_is_durable_on_both() {
    let mut world = World::pair_with(61, false);
    world.grow_to(0, LARGER).expect("room");
    world.write_at(0, LARGER - 4096, 5).expect("inside");
    for who in BOXES {
        world.kill(who, true);
    }
    for who in BOXES {
        world.start(who, true);
        world.until("the disks are read", |world| {
            world.engine(who).status().volumes.len() == 2
        });
        assert_eq!(world.size_at(who), LARGER);
    }
    world.until("a pair", World::is_settled);
    world.assert_equal();
}

#[test]
fn d6_a_volume_that_grew_while_the_peer_was_away_is_settled() {
    for dusty in [false, true] {
        let mut world = World::pair_with(62, dusty);
        world.kill(1, false);
        assert_eq!(world.grow_to(0, LARGER), Ok(Completed::Ok));
        assert_eq!(world.write_at(0, LARGER - 4096, 7), Ok(Completed::Ok));
        world.start(1, false);
        world.until("a pair", World::is_settled);
        assert_eq!(world.size_at(1), LARGER);
        world.assert_equal();
    }
}

#[test]
fn a_volume_that_the_peer_cannot_grow_keeps_its_size() {
    let mut world = World::pair_with(63, false);
    world.boxes[1].cannot_make = true;
    let Err(CommandError::Refused(why)) = world.grow_to(0, LARGER) else {
        panic!("it grew");
    };
    assert!(why.contains("the peer cannot make it larger"), "{why}");
    assert_eq!(BOXES.map(|who| world.size_at(who)), [SIZE; 2]);
    assert_eq!(world.write_at(0, SIZE, 1), Err(CommandError::OutOfRange));
    world.boxes[1].cannot_make = false;
    assert_eq!(world.grow_to(0, LARGER), Ok(Completed::Ok), "asked again");
    assert_eq!(world.page_at(0, LARGER - 4096), 0);
    world.until("rest", World::is_settled);
    world.assert_equal();
}

#[test]
fn a_volume_does_not_shrink_and_says_why() {
    let mut world = World::pair_with(64, false);
    for (size_bytes, words) in [
        (SIZE - 4096, "cannot shrink"),
        (SIZE + 1, "not a multiple"),
        (1 << 45, "make a new volume"),
    ] {
        let Err(CommandError::Refused(why)) = world.grow_to(0, size_bytes) else {
            panic!("{size_bytes} bytes were taken");
        };
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn a_growth_survives_the_death_of_either_box_at_any_moment() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..60 {
        let mut world = World::pair_with(700 + seed, seed % 2 == 0);
        let id = world.ask_growth(0, LARGER);
        let end = world.now + seed * MS / 8;
        while world.now < end {
            world.step();
        }
        let who = usize::from(seed % 3 == 0);
        world.kill(who, seed % 4 < 2);
        world.run_ms(30);
        world.start(who, true);
        world.until("a pair", World::is_settled);
        let sizes = BOXES.map(|who| world.size_at(who));
        assert_eq!(sizes[0], sizes[1], "seed {seed}");
        let answered = matches!(world.answers.get(&id), Some(Ok(_)));
        assert!(
            !answered || sizes[0] == LARGER,
            "seed {seed}: shown, then lost"
        );
        old += u32::from(sizes[0] == SIZE);
        new += u32::from(sizes[0] == LARGER);
        world.assert_equal();
    }
    assert!(old > 3 && new > 3, "both happen: {old} {new}");
}

#[test]
fn the_growth_is_told_once_on_each_box() {
    let mut world = World::pair_with(65, false);
    world.grow_to(0, LARGER).expect("room");
    let told = |world: &World, who: usize| {
        let events = world.boxes[who].events.iter();
        events
            .filter(
                |event| matches!(event, Event::VolumeGrown { spec } if spec.size_bytes == LARGER),
            )
            .count()
    };
    assert_eq!(BOXES.map(|who| told(&world, who)), [1, 1]);
}
