//! Short random histories under the oracle.

use crate::boss::Step;
use crate::world::{BOXES, MS, What, World, filled};
use replication::engine::{Attached, Command, DataLink, Input, Pace, Role};
use replication::types::{CommandId, Epoch, Fua, VolumeNumber, VolumeSpec};

/// Pages of the volume that the client uses, and how far apart its four spots are.
const SPOT_PAGES: u64 = 6;
const SPOTS: [u64; 4] = [0, 30, 250, 1100];
pub(crate) const VOLUME: u32 = 1;
pub(crate) const SIZE: u64 = 5 << 20;
const BLOCK_BYTES: u64 = 64 << 10;
const LARGEST: u64 = 12 << 20;
/// A pass of the small volumes in a short history.
const SCRUB_BYTES_PER_S: u64 = 16 << 20;

impl World {
    /// One founding box, serving, with a volume.
    pub(crate) fn founded(seed: u64, dusty: bool) -> Self {
        let mut world = Self::new(seed);
        world.dusty = dusty;
        world.start(0, true);
        world.input(0, Input::Format);
        world.until("the first copy", |w| {
            w.engine(0).status().data.attached == Attached::Yes
        });
        let disk = world.engine(0).status().data.disk.expect("it is formatted");
        world.boss.found(0, disk);
        world.at(0, What::Boss(Step::Tick));
        world.until("the first reign", |w| {
            w.engine(0).status().role == Role::Serving
        });
        world.create(0, VOLUME, SIZE);
        world
    }

    pub(crate) fn create(&mut self, who: usize, number: u32, size_bytes: u64) {
        let id = CommandId(self.fresh_id());
        let number = VolumeNumber(number);
        let spec = VolumeSpec {
            number,
            uuid: 900 + u128::from(number.0),
            size_bytes,
        };
        self.input(who, Input::CreateVolume { id, spec });
        self.until("the volume", |w| w.answers.contains_key(&id));
        assert!(self.answers[&id].is_ok(), "{:?}", self.answers[&id]);
    }

    pub(crate) fn is_settled(&self) -> bool {
        let Some((who, _)) = self.boss.primary else {
            return false;
        };
        let other = 1 - who;
        self.boss.both_in_sync()
            && BOXES.iter().all(|who| self.is_up(*who))
            && self.engine(who).status().link == DataLink::Mirroring
            && self.engine(who).status().role == Role::Serving
            && self.engine(other).status().link == DataLink::Following
            && self.engine(who).status().epoch == Epoch(self.boss.epoch)
            && self.engine(other).status().data.data_epoch == Epoch(self.boss.epoch)
            && BOXES
                .iter()
                .all(|who| self.engine(*who).status().disk_operations == 0)
            && self.engine(who).status().commands == 0
    }

    /// The client asks for something, then comes back.
    pub(crate) fn client(&mut self) {
        let delay = self.rng.below(self.client_pause);
        self.at(delay, What::Client);
        let Some((who, life)) = self.boss.primary else {
            return;
        };
        if !self.is_up(who) || self.boxes[who].life != life || self.asked.len() > 40 {
            return;
        }
        if self.rng.one_in(60) {
            return self.change_volumes(who);
        }
        if self.rng.one_in(40) {
            return self.grow(who);
        }
        // one of the spots is the end of the volume, wherever that is
        let end = self.shown_bytes / 4096 - SPOT_PAGES - 3;
        let spots = [SPOTS[0], SPOTS[1], SPOTS[2], SPOTS[3], end];
        let spot = spots[usize::try_from(self.rng.below(5)).expect("it fits")];
        let at = spot + self.rng.below(SPOT_PAGES);
        let pages = 1 + self.rng.below(3);
        let (volume, offset_bytes) = (VolumeNumber(VOLUME), at * 4096);
        let fua = if self.rng.one_in(8) {
            Fua::Yes
        } else {
            Fua::No
        };
        let command = match self.rng.below(16) {
            0 => Command::Flush { volume },
            1..=5 => Command::Read {
                volume,
                offset_bytes,
                len_bytes: usize::try_from(pages).expect("it fits") * 4096,
            },
            _ => {
                let value = 0x1000 + self.fresh_id();
                Command::Write {
                    volume,
                    offset_bytes,
                    data: filled(value, pages),
                    fua,
                }
            }
        };
        self.ask(who, command);
    }

    /// Makes or deletes a volume that nobody reads.
    fn change_volumes(&mut self, who: usize) {
        let id = CommandId(self.fresh_id());
        let volumes = self.engine(who).status().volumes;
        let last = volumes.last().expect("volume 0").spec.number;
        if self.rng.one_in(2) && last.0 > VOLUME {
            return self.input(who, Input::DeleteVolume { id, number: last });
        }
        if volumes.len() < 5 {
            let number =
                VolumeNumber(last.0 + 1 + u32::try_from(self.rng.below(3)).expect("it fits"));
            let spec = VolumeSpec {
                number,
                uuid: u128::from(self.rng.next()),
                size_bytes: 1 << 20,
            };
            self.input(who, Input::CreateVolume { id, spec });
        }
    }

    /// Makes the volume of the client larger by a bit, sometimes by a whole block.
    fn grow(&mut self, who: usize) {
        let more = [4096, BLOCK_BYTES, 1 << 20];
        let more = more[usize::try_from(self.rng.below(3)).expect("it fits")];
        let size_bytes = self.shown_bytes + more;
        if size_bytes <= LARGEST {
            self.ask_growth(who, size_bytes);
        }
    }

    pub(crate) fn ask_growth(&mut self, who: usize, size_bytes: u64) -> CommandId {
        let id = CommandId(self.fresh_id());
        self.growths.insert(id, size_bytes);
        let number = VolumeNumber(VOLUME);
        let input = Input::GrowVolume {
            id,
            number,
            size_bytes,
        };
        self.input(who, input);
        id
    }

    pub(crate) fn fault(&mut self) {
        let who = usize::try_from(self.rng.below(2)).expect("it fits");
        match self.rng.below(14) {
            0..=2 if self.is_up(who) => {
                let power = self.rng.one_in(2);
                self.kill(who, power);
                if power && self.rng.one_in(3) && self.is_up(1 - who) {
                    self.kill(1 - who, true);
                }
            }
            3 => self.cut = true,
            4 => self.cut = false,
            5 => self.boxes[who].isolated = true,
            6 => self.boxes[who].isolated = false,
            7 | 10 | 11 => self.begin_handover(),
            8 => self.cancel_handover(),
            9 if self.is_up(who) => {
                let pace = match self.rng.below(3) {
                    0 => Pace::Auto,
                    1 => Pace::Paused,
                    _ => Pace::AtMost {
                        bytes_per_s: 1 << 20,
                    },
                };
                self.input(who, Input::Pace(pace));
            }
            _ => self.reset_link(),
        }
        for who in BOXES {
            if !self.is_up(who) && self.rng.one_in(2) {
                let boot = self.boxes[who].lossy;
                self.start(who, boot);
            }
        }
    }

    pub(crate) fn forget_kills(&mut self) {
        self.heap
            .retain(|_, what| !matches!(what, What::Kill { .. }));
    }

    pub(crate) fn stop_client(&mut self) {
        self.heap.retain(|_, what| !matches!(what, What::Client));
    }

    /// Everything works again: the boxes come to rest in sync.
    pub(crate) fn heal(&mut self) {
        self.deadly = false;
        self.forget_kills();
        self.cut = false;
        self.cancel_handover();
        for who in BOXES {
            self.boxes[who].isolated = false;
            if !self.is_up(who) {
                self.start(who, self.boxes[who].lossy);
            }
            self.input(who, Input::Pace(Pace::Auto));
        }
    }

    pub(crate) fn finish(&mut self) {
        self.until("rest", Self::is_settled);
        self.run_ms(200);
        self.until("rest again", Self::is_settled);
        self.assert_equal();
        let (who, _) = self.boss.primary.expect("it is settled");
        for who in BOXES {
            let dirty_bytes = self.engine(who).status().dirty_bytes;
            assert!(
                dirty_bytes == 0,
                "C1: {dirty_bytes} bytes are dirty at rest"
            );
            self.engine(who).check_full();
        }
        let ends = (SIZE..self.shown_bytes)
            .step_by(1 << 17)
            .map(|at| at / 4096);
        let ends: Vec<u64> = ends.collect();
        for page in ends {
            self.read_page(who, page);
        }
        for spot in SPOTS {
            for page in spot..spot + SPOT_PAGES + 3 {
                self.read_page(who, page);
            }
        }
        self.until("the last reads", |w| w.asked.is_empty());
    }

    fn read_page(&mut self, who: usize, page: u64) {
        let (volume, offset_bytes) = (VolumeNumber(VOLUME), page * 4096);
        let len_bytes = 4096;
        self.ask(
            who,
            Command::Read {
                volume,
                offset_bytes,
                len_bytes,
            },
        );
    }
}

/// Runs one history; what happened in it.
pub(crate) fn history(seed: u64) -> World {
    let mut world = World::founded(seed, seed.is_multiple_of(3));
    world.scrub_at(SCRUB_BYTES_PER_S);
    world.start(1, true);
    world.at(0, What::Client);
    world.deadly = true;
    for _ in 0..3 + world.rng.below(8) {
        let ms = match world.rng.below(3) {
            0 => 5,
            1 => 60,
            _ => 250,
        };
        let ms = 1 + world.rng.below(ms);
        world.run_ms(ms);
        world.check_coverage();
        world.fault();
    }
    world.heal();
    let client_end = world.now + 50 * MS;
    while world.now < client_end {
        world.step();
    }
    world.stop_client();
    world.finish();
    world
}
