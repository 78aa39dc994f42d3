//! Two boxes, their disks, the link between them, a client, and virtual time.

use crate::boss::Boss;
use crate::disk::{PAGE, SimDisk};
use crate::oracle::Oracle;
use crate::pool::opened;
use crate::random::Rng;
use bytes::Bytes;
use replication::engine::{
    Command, CommandError, Completed, DiskError, Engine, Event, Input, Io, Limits, Output, Params,
};
use replication::meta::index;
use replication::types::{
    BootId, CommandId, CopyMark, DiskInstance, Epoch, Fua, GroupId, Incarnation, NodeId, OpId,
    SessionId, Time, VolumeNumber, Zeroed,
};
use replication::wire::Header;
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const BOXES: [usize; 2] = [0, 1];

/// Something that happens at an instant.
#[derive(Debug)]
pub(crate) enum What {
    /// An input of the engine of this life of a box.
    Input(usize, u64, Input),
    /// A disk operation of a box comes to its end.
    Disk(usize, u64, VolumeNumber, OpId),
    Boss(crate::boss::Step),
    Client,
    /// A process dies, if it still lives that life.
    Kill {
        who: usize,
        life: u64,
        power: bool,
    },
}

pub(crate) struct SimBox {
    pub(crate) engine: Option<Engine>,
    /// Rises with every start.
    pub(crate) life: u64,
    pub(crate) boot: u128,
    pub(crate) disks: BTreeMap<VolumeNumber, SimDisk>,
    pub(crate) fresh: BTreeSet<VolumeNumber>,
    pub(crate) running: BTreeMap<OpId, (VolumeNumber, Io)>,
    pub(crate) events: Vec<Event>,
    /// Power was lost since this copy was last equal to the other.
    pub(crate) lossy: bool,
    pub(crate) cache_lost: bool,
    /// What is remembered of its copy elsewhere (law D7).
    pub(crate) newest: Option<CopyMark>,
    pub(crate) isolated: bool,
    pub(crate) troubles: Troubles,
    /// A volume that this box cannot make.
    pub(crate) cannot_make: bool,
    /// Bytes read in this life.
    pub(crate) read_bytes: u64,
}

/// What is wrong with the disks of a box.
#[derive(Clone, Debug, Default)]
pub(crate) struct Troubles {
    /// Everything fails like this.
    pub(crate) error: Option<DiskError>,
    /// Nothing ends.
    pub(crate) hangs: bool,
    /// Of these nothing ends.
    pub(crate) stuck: Option<fn(&Io) -> bool>,
    /// There is no room for pages that were never written.
    pub(crate) full: bool,
    /// Pages that cannot be read until they are written.
    pub(crate) unreadable: BTreeSet<(VolumeNumber, u64)>,
}

/// A connection between the boxes; `ends[i]` is what box `i` calls it.
pub(crate) struct Wire {
    pub(crate) ends: [Option<SessionId>; 2],
    pub(crate) lives: [u64; 2],
    /// Nothing overtakes.
    busy_until: [u64; 2],
}

/// A command of the client.
#[derive(Debug)]
pub(crate) enum Asked {
    Read {
        page: (u32, u64),
        pages: u64,
    },
    Write {
        page: (u32, u64),
        pages: u64,
        value: u64,
        fua: Fua,
    },
    Flush,
    Other,
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) heap: BTreeMap<(u64, u64), What>,
    count: u64,
    pub(crate) boxes: [SimBox; 2],
    pub(crate) wires: Vec<Wire>,
    /// Frames are lost, connections do not close.
    pub(crate) cut: bool,
    pub(crate) oracle: Oracle,
    pub(crate) asked: BTreeMap<(usize, u64, CommandId), Asked>,
    pub(crate) answers: BTreeMap<CommandId, Result<Completed, CommandError>>,
    next_id: u64,
    pub(crate) boss: Boss,
    /// Growths that were asked for.
    pub(crate) growths: BTreeMap<CommandId, u64>,
    /// The size of the client's volume that was answered.
    pub(crate) shown_bytes: u64,
    pub(crate) steps: u64,
    pub(crate) limits: Limits,
    /// Between two commands of the client, at most.
    pub(crate) client_pause: u64,
    /// A primary may die right after a config was committed.
    pub(crate) deadly: bool,
    /// Backings are not proven to read zero.
    pub(crate) dusty: bool,
    /// Frames with data arrive with a bit flipped in it.
    pub(crate) damage_writes: bool,
    /// Frames arrive damaged, cut, or as another one, now and then.
    pub(crate) garbage: bool,
    /// What is damaged has good checksums in its header.
    pub(crate) forge: bool,
    /// The second box has another key.
    pub(crate) other_key: bool,
    /// Writes that were sent again.
    pub(crate) replayed: u64,
    /// Somebody between the boxes hands all frames on, from one channel to another.
    pub(crate) between: bool,
    pub(crate) trace: bool,
    /// Somebody changes what the disks hold: copies may differ.
    pub(crate) rotten: bool,
    /// The engines have no mutant: their invariants hold.
    sound: bool,
    /// Bytes that were mended by the engines that are gone.
    pub(crate) mended_bytes: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let sound = !choose_mutant();
        let new_box = || SimBox {
            engine: None,
            life: 0,
            boot: 0,
            disks: BTreeMap::new(),
            fresh: BTreeSet::new(),
            running: BTreeMap::new(),
            events: Vec::new(),
            lossy: false,
            cache_lost: false,
            newest: None,
            isolated: false,
            troubles: Troubles::default(),
            cannot_make: false,
            read_bytes: 0,
        };
        let limits = Limits {
            inflight_commands: 24,
            queued_commands: 100,
            inflight_bytes: 4 << 20,
            resync_window_bytes: 256 << 10,
            mirror_window_bytes: 64 << 10,
            retain_bytes: if seed.is_multiple_of(4) {
                24 << 10
            } else {
                1 << 20
            },
            hot_regions: 2,
            settle_ms: 40,
            scrub_bytes_per_s: 0,
            ..Limits::default()
        };
        Self {
            now: 0,
            rng: Rng(seed),
            heap: BTreeMap::new(),
            count: 0,
            boxes: [new_box(), new_box()],
            wires: Vec::new(),
            cut: false,
            oracle: Oracle::default(),
            asked: BTreeMap::new(),
            answers: BTreeMap::new(),
            next_id: 0,
            boss: Boss::default(),
            growths: BTreeMap::new(),
            shown_bytes: crate::histories::SIZE,
            steps: 0,
            limits,
            client_pause: MS,
            deadly: false,
            dusty: false,
            damage_writes: false,
            garbage: false,
            forge: false,
            other_key: false,
            replayed: 0,
            between: false,
            trace: std::env::var("TRACE").is_ok(),
            rotten: false,
            sound,
            mended_bytes: 0,
        }
    }

    pub(crate) fn at(&mut self, delay: u64, what: What) {
        self.count += 1;
        self.heap.insert((self.now + delay, self.count), what);
    }

    pub(crate) fn is_up(&self, who: usize) -> bool {
        self.boxes[who].engine.is_some()
    }

    pub(crate) fn engine(&self, who: usize) -> &Engine {
        self.boxes[who].engine.as_ref().expect("the box is up")
    }

    /// Starts the process of a box; `boot` after its power was off.
    pub(crate) fn start(&mut self, who: usize, boot: bool) {
        let it = &mut self.boxes[who];
        assert!(it.engine.is_none(), "it is down");
        it.life += 1;
        it.boot += u128::from(boot);
        it.events.clear();
        it.read_bytes = 0;
        it.cache_lost = false;
        let node = u8::try_from(who).expect("it fits") + 1;
        let tag = u128::from(node) << 64;
        let params = Params {
            group: GroupId(77),
            me: NodeId(node),
            peer: NodeId(3 - node),
            incarnation: Incarnation(tag | u128::from(it.life)),
            boot: BootId(tag | it.boot),
            key: [if self.other_key && who == 1 { 6 } else { 5 }; 32],
            nonce_seed: it.life,
            fresh_disk: DiskInstance(tag | u128::from(it.life)),
            peer_loss_ms: 50,
            limits: self.limits,
        };
        it.engine = Some(Engine::new(params));
        let found = it
            .disks
            .iter()
            .map(|(number, disk)| opened(*number, disk, Zeroed::Unknown))
            .collect();
        it.fresh.clear();
        let newest = it.newest;
        self.input(
            who,
            Input::Start {
                found,
                seal: Epoch::ZERO,
                newest,
            },
        );
    }

    /// The process dies; with `power`, so does what the disk has not made stable.
    pub(crate) fn kill(&mut self, who: usize, power: bool) {
        if self.trace {
            println!("{:>10} box {who} dies, power {power}", self.now / 1000);
        }
        self.mended_bytes += self.engine(who).status().mended_bytes;
        let it = &mut self.boxes[who];
        it.engine = None;
        for (_, (number, io)) in std::mem::take(&mut it.running) {
            let Some(disk) = it.disks.get_mut(&number) else {
                continue;
            };
            match io {
                Io::Write {
                    offset_bytes, data, ..
                } => {
                    for (at, page) in (offset_bytes..).step_by(PAGE).zip(data.chunks(PAGE)) {
                        if self.rng.one_in(2) {
                            disk.write(at, page, Fua::No);
                        }
                    }
                }
                Io::WriteZeroes {
                    offset_bytes,
                    len_bytes,
                    ..
                } if self.rng.one_in(2) => {
                    zero(disk, offset_bytes, len_bytes, Fua::No);
                }
                Io::Read { .. } | Io::WriteZeroes { .. } | Io::Flush => {}
            }
        }
        if power {
            for disk in it.disks.values_mut() {
                disk.power_cut(&mut self.rng);
            }
            it.lossy = true;
        }
        for wire in 0..self.wires.len() {
            self.close(wire, who);
        }
        let gone: Vec<_> = self
            .asked
            .keys()
            .filter(|key| key.0 == who)
            .copied()
            .collect();
        for key in gone {
            let asked = self.asked.remove(&key).expect("listed above");
            self.settle(key.2, asked, &Err(CommandError::NotPrimary), who);
        }
        self.boss.died(who, self.now);
        self.check_coverage();
    }

    fn close(&mut self, wire: usize, by: usize) {
        let other = 1 - by;
        let it = &mut self.wires[wire];
        if it.ends[by].take().is_none() {
            return;
        }
        let Some(session) = it.ends[other] else {
            return;
        };
        let (life, from) = (it.lives[other], it.busy_until[other].max(self.now));
        if !self.cut && !self.rng.one_in(4) {
            let delay = from - self.now + self.rng.below(MS);
            self.at(
                delay,
                What::Input(other, life, Input::Disconnected { session }),
            );
        }
    }

    /// One event; `false` when nothing is left.
    pub(crate) fn step(&mut self) -> bool {
        let timer = BOXES.iter().filter_map(|who| {
            let engine = self.boxes[*who].engine.as_ref()?;
            engine.poll_timeout().map(|at| (at.0, *who))
        });
        let timer = timer.min();
        let next = self.heap.keys().next().copied();
        self.steps += 1;
        match (timer, next) {
            (Some((at, who)), next) if next.is_none_or(|(time, _)| at < time) => {
                self.now = self.now.max(at);
                self.input(who, Input::Timeout);
                let again = self.boxes[who]
                    .engine
                    .as_ref()
                    .and_then(Engine::poll_timeout);
                assert!(
                    again.is_none_or(|again| again.0 > self.now),
                    "a timer does not move: {}",
                    self.describe()
                );
            }
            (_, Some(key)) => {
                self.now = key.0;
                let what = self.heap.remove(&key).expect("looked at above");
                self.happen(what);
            }
            (None | Some(_), None) => return false,
        }
        true
    }

    pub(crate) fn run_ms(&mut self, ms: u64) {
        let end = self.now + ms * MS;
        while self.now < end {
            assert!(self.step(), "a world has always something to do");
        }
    }

    /// Runs until `done`, at most 60 s.
    pub(crate) fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = self.now + 60_000 * MS;
        while !done(self) {
            assert!(self.now < end, "{what} did not come: {}", self.describe());
            self.step();
        }
    }

    pub(crate) fn describe(&self) -> String {
        let boxes = self
            .boxes
            .iter()
            .map(|it| it.engine.as_ref().map(Engine::status));
        format!("{:?} {:?}", boxes.collect::<Vec<_>>(), self.boss)
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Input(who, life, input) => {
                if self.boxes[who].life == life && self.is_up(who) {
                    self.input(who, input);
                }
            }
            What::Disk(who, life, number, op) => {
                if self.boxes[who].life == life && self.is_up(who) {
                    self.disk_done(who, number, op);
                }
            }
            What::Boss(step) => self.boss_step(step),
            What::Client => self.client(),
            What::Kill { who, life, power } => {
                if self.boxes[who].life == life && self.is_up(who) {
                    self.kill(who, power);
                }
            }
        }
    }

    pub(crate) fn input(&mut self, who: usize, input: Input) {
        if self.trace && !matches!(input, Input::Timeout | Input::Done { .. }) {
            println!("{:>10} {who} <- {}", self.now / 1000, short(&input));
        }
        let now = Time(self.now);
        let engine = self.boxes[who].engine.as_mut().expect("the box is up");
        engine.handle(now, input);
        let mut outputs = Vec::new();
        while let Some(output) = engine.poll_output() {
            outputs.push(output);
        }
        if self.sound && self.steps.is_multiple_of(16) {
            engine.check_full();
        }
        for output in outputs {
            if self.trace && !matches!(output, Output::Submit { .. }) {
                println!("{:>10} {who} -> {}", self.now / 1000, short(&output));
            }
            self.output(who, output);
        }
    }

    fn output(&mut self, who: usize, output: Output) {
        let life = self.boxes[who].life;
        match output {
            Output::Submit { op, volume, io } => {
                self.doom_page(who, &io);
                self.boxes[who].running.insert(op, (volume, io));
                let slow = self.rng.one_in(20);
                let delay = self.rng.below(if slow { 10 * MS } else { MS / 2 });
                self.at(delay, What::Disk(who, life, volume, op));
            }
            Output::Open {
                spec,
                backing_bytes,
                ..
            } => self.open(who, spec, backing_bytes),
            Output::Grow {
                number,
                backing_bytes,
            } => self.grow_backing(who, number, backing_bytes),
            Output::Remove { number } => {
                self.boxes[who].disks.remove(&number);
            }
            Output::Connect => self.connect(who),
            Output::Disconnect { session } => {
                let wire = self
                    .wires
                    .iter()
                    .position(|wire| wire.ends[who] == Some(session));
                if let Some(wire) = wire {
                    self.close(wire, who);
                }
            }
            Output::Send {
                session,
                header,
                payload,
                trailer,
                ..
            } => {
                self.check_answer(who, &header);
                let payload = Bytes::from([payload, trailer].concat());
                self.send(who, session, header, payload);
            }
            Output::Complete { id, result } => {
                self.check_completion(who, &result);
                if let Some(asked) = self.asked.remove(&(who, life, id)) {
                    self.settle(id, asked, &result, who);
                }
                if let (Some(grown), Ok(_)) = (self.growths.remove(&id), &result) {
                    self.shown_bytes = self.shown_bytes.max(grown);
                }
                self.answers.insert(id, result);
            }
            Output::Event(event) => {
                self.check_sealed(who, &event);
                self.check_scrub(&event);
                let it = &mut self.boxes[who];
                it.cache_lost |= matches!(event, Event::CacheLost { .. });
                it.remember(&event);
                it.events.push(event.clone());
                if let Event::Replayed { writes, .. } = event {
                    self.replayed += writes;
                }
                self.boss_event(who, event);
            }
        }
    }

    /// A page of a dirty map on its way is a good moment for a power cut.
    fn doom_page(&mut self, who: usize, io: &Io) {
        let Io::Write { offset_bytes, .. } = io else {
            return;
        };
        let page = (index::OFFSET..1 << 20).contains(offset_bytes);
        if page && self.deadly && self.rng.one_in(16) {
            let (life, delay) = (self.boxes[who].life, self.rng.below(MS / 4));
            self.at(
                delay,
                What::Kill {
                    who,
                    life,
                    power: true,
                },
            );
        }
    }

    fn connect(&mut self, who: usize) {
        let (other, life) = (1 - who, self.boxes[who].life);
        let delay = MS / 10 + self.rng.below(MS);
        if self.cut {
            return self.at(delay * 20, What::Input(who, life, Input::ConnectFailed));
        }
        if !self.is_up(other) {
            return self.at(delay, What::Input(who, life, Input::ConnectRefused));
        }
        self.count += 1;
        let sessions = [SessionId(self.count), SessionId(self.count + 1_000_000_000)];
        let lives = [self.boxes[0].life, self.boxes[1].life];
        let ends = [Some(sessions[0]), Some(sessions[1])];
        self.wires.push(Wire {
            ends,
            lives,
            busy_until: [self.now + delay; 2],
        });
        let [connected, accepted] = self.channel(sessions[who], sessions[other]);
        self.at(delay, What::Input(other, lives[other], accepted));
        self.at(delay, What::Input(who, life, connected));
    }

    fn send(&mut self, who: usize, session: SessionId, header: [u8; 64], payload: Bytes) {
        let other = 1 - who;
        let wire = self
            .wires
            .iter_mut()
            .find(|wire| wire.ends[who] == Some(session));
        let Some(wire) = wire else { return };
        let Some(session) = wire.ends[other] else {
            return;
        };
        if self.cut {
            wire.ends = [None, None]; // what was lost once is a broken connection for ever
            return;
        }
        let arrival = wire.busy_until[other].max(self.now + self.rng.below(MS / 4));
        wire.busy_until[other] = arrival;
        let life = wire.lives[other];
        let (header, payload) = self.spoil(header, payload);
        let input = Input::Frame {
            session,
            header,
            payload,
        };
        self.at(arrival - self.now, What::Input(other, life, input));
    }

    /// What a bad network or a bad peer makes of a frame.
    fn spoil(&mut self, mut header: [u8; 64], payload: Bytes) -> ([u8; 64], Bytes) {
        let mut payload = payload.to_vec();
        if self.damage_writes && payload.len() > PAGE {
            payload[77] ^= 4;
        }
        if !self.garbage || !self.rng.one_in(12) {
            return (header, payload.into());
        }
        let fields = [6, 7, 8, 16, 24, 32, 40, 48, 52];
        let at = fields[usize::try_from(self.rng.below(9)).expect("it fits")];
        match self.rng.below(4) {
            0 => payload.truncate(payload.len() / 2),
            1 if !payload.is_empty() => {
                let at = usize::try_from(self.rng.below(payload.len() as u64)).expect("it fits");
                payload[at] ^= 1 << self.rng.below(8);
            }
            2 => header[at] = u8::try_from(self.rng.below(256)).expect("it fits"),
            _ => header[at] ^= 1,
        }
        if self.forge {
            // by somebody who knows the format
            header[56..60]
                .copy_from_slice(&u32::try_from(payload.len()).expect("it fits").to_le_bytes());
            let sum = crc32c::crc32c(&header[..60]);
            header[60..].copy_from_slice(&sum.to_le_bytes());
        }
        (header, payload.into())
    }

    fn disk_done(&mut self, who: usize, number: VolumeNumber, op: OpId) {
        let it = &mut self.boxes[who];
        let stuck = it.troubles.stuck.is_some_and(|stuck| {
            let io = it.running.get(&op);
            io.is_some_and(|(_, io)| stuck(io))
        });
        if it.troubles.hangs || stuck {
            let life = it.life;
            return self.at(MS, What::Disk(who, life, number, op));
        }
        let Some((_, io)) = it.running.remove(&op) else {
            return;
        };
        if let Io::Read { len_bytes, .. } = &io {
            it.read_bytes += *len_bytes as u64;
        }
        let disk = it.disks.get_mut(&number);
        let disk = disk.expect("nothing is removed under an operation");
        let result = disk.carry_out(number, io, &mut it.troubles);
        self.input(who, Input::Done { op, result });
    }

    pub(crate) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Gives a command to a box, with its oracle's consent.
    pub(crate) fn ask(&mut self, who: usize, command: Command) -> CommandId {
        let id = CommandId(self.fresh_id());
        let asked = match &command {
            Command::Read {
                volume,
                offset_bytes,
                len_bytes,
            } => {
                let pages = (len_bytes / PAGE) as u64;
                let page = (volume.0, offset_bytes / PAGE as u64);
                for at in page.1..page.1 + pages {
                    self.oracle.read_begins((page.0, at), id.0);
                }
                Asked::Read { page, pages }
            }
            Command::Write {
                volume,
                offset_bytes,
                data,
                fua,
            }
            | Command::CompareAndWrite {
                volume,
                offset_bytes,
                data,
                fua,
                ..
            } => {
                let value = value_of(data).expect("the client writes whole values");
                let pages = (data.len() / PAGE) as u64;
                let page = (volume.0, offset_bytes / PAGE as u64);
                for at in page.1..page.1 + pages {
                    self.oracle.write_begins((page.0, at), value);
                }
                Asked::Write {
                    page,
                    pages,
                    value,
                    fua: *fua,
                }
            }
            Command::Flush { volume } => {
                self.oracle.flush_begins(volume.0, id.0);
                Asked::Flush
            }
            Command::WriteZeroes { .. } | Command::Confirm => Asked::Other,
        };
        self.asked.insert((who, self.boxes[who].life, id), asked);
        self.input(who, Input::Command { id, command });
        id
    }

    /// The oracle learns how a command ended.
    fn settle(
        &mut self,
        id: CommandId,
        asked: Asked,
        result: &Result<Completed, CommandError>,
        who: usize,
    ) {
        let cache_lost = self.boxes[who].cache_lost || self.boxes[1 - who].cache_lost;
        if let (Asked::Write { page, pages, .. }, Ok(Completed::Ok)) = (&asked, result) {
            self.check_stable(who, *page, *pages);
        }
        match (asked, result) {
            (Asked::Read { page, pages }, Ok(Completed::Data(data))) => {
                for (at, data) in (page.1..page.1 + pages).zip(data.chunks(PAGE)) {
                    let value = value_of(data).expect("a page holds one value");
                    self.oracle.read_done((page.0, at), id.0, value, cache_lost);
                }
            }
            (Asked::Read { page, pages }, _) => {
                for at in page.1..page.1 + pages {
                    self.oracle.read_dropped((page.0, at), id.0);
                }
            }
            (
                Asked::Write {
                    page,
                    pages,
                    value,
                    fua,
                },
                Ok(Completed::Ok),
            ) => {
                for at in page.1..page.1 + pages {
                    self.oracle.write_done((page.0, at), value, fua == Fua::Yes);
                }
            }
            (
                Asked::Write {
                    page, pages, value, ..
                },
                _,
            ) => {
                for at in page.1..page.1 + pages {
                    self.oracle.write_unknown((page.0, at), value);
                }
            }
            (Asked::Flush, Ok(_)) => self.oracle.flush_done(id.0),
            (Asked::Flush, Err(_)) => self.oracle.flush_dropped(id.0),
            (Asked::Other, _) => {}
        }
    }
}

pub(crate) fn zero(disk: &mut SimDisk, offset: u64, len: u64, fua: Fua) {
    disk.write(
        offset,
        &vec![0; usize::try_from(len).expect("it fits")],
        fua,
    );
}

/// A page's value, if it holds one and the same everywhere.
pub(crate) fn value_of(data: &[u8]) -> Option<u64> {
    let first = u64::from_le_bytes(data[..8].try_into().expect("it fits"));
    data.chunks(8)
        .all(|word| word == first.to_le_bytes())
        .then_some(first)
}

pub(crate) fn filled(value: u64, pages: u64) -> Bytes {
    let words = usize::try_from(pages).expect("it fits") * PAGE / 8;
    value.to_le_bytes().repeat(words).into()
}

fn short(it: &impl std::fmt::Debug) -> String {
    let text = format!("{it:?}");
    if let (Some(at), true) = (text.find("header: ["), true) {
        let inside = &text[at + 9..];
        let bytes: Vec<u8> = inside[..inside.find(']').expect("it fits")]
            .split(", ")
            .map(|byte| byte.parse().expect("it fits"))
            .collect();
        let header = Header::parse(&bytes.try_into().expect("it fits"));
        return format!("{}{header:?}", &text[..at]);
    }
    text.chars().take(300).collect()
}

/// Puts the mutant that the environment names into the engines of this process. Whether there is
/// one: what it breaks must be seen from outside.
fn choose_mutant() -> bool {
    #[cfg(feature = "mutants")]
    if let Ok(name) = std::env::var("MUTANT") {
        replication::mutants::choose(&name).expect("a mutant of the list");
        return !name.is_empty();
    }
    false
}
