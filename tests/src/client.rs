//! Initiators: several commands in flight, overlapping writes, and the same again on the other box
//! after a connection is lost.
//!
//! A connection ends when its box drops the addresses or its process dies; when a box falls silent,
//! it ends after 2.5 s. What was in flight then has an unknown end: the oracle keeps it open, and
//! the initiator writes the same ranges again, with new versions, wherever it logs in next.

use std::collections::BTreeMap;

use replication::engine::{self, Command, CommandError, Completed};
use replication::types::{CommandId, Fua, VolumeNumber, VolumeSpec};

use crate::coverage::Fate;
use crate::net::{BOXES, Host};
use crate::node::Delivery;
use crate::oracle::register::{Moment, WriteId};
use crate::oracle::{Range, Stable};
use crate::world::content::{self, BLOCK_LEN, SECTOR_LEN, SECTORS_PER_BLOCK, Value};
use crate::world::ladder::Lane;
use crate::world::outputs::Disks;
use crate::world::{Event, MS, World};

/// How long an initiator waits for an answer.
const PATIENCE_NS: u64 = 2500 * MS;
/// Blocks of the system volume that initiators use as if it were theirs.
const SYSTEM_BLOCKS: u64 = 16;

/// A volume as initiators see it.
#[derive(Clone, Copy, Debug)]
pub struct Volume {
    /// Places where commands begin.
    pub places: u64,
    /// Blocks from one place to the next.
    pub stride: u64,
}

/// A command on its way.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Who waits for the answer; nobody after its connection was lost.
    pub client: Option<usize>,
    /// Where it went.
    pub host: Host,
    /// To which process.
    pub start: u32,
    /// It reached the engine.
    pub accepted: bool,
    /// When that was.
    pub began: Moment,
    /// What it is.
    pub kind: Kind,
}

/// What a command is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Read.
    Read(Range),
    /// Write, write zeroes, or compare and write.
    Write {
        /// Where.
        range: Range,
        /// What.
        value: Value,
        /// FUA.
        stable: Stable,
        /// What must be there before.
        expected: Option<Value>,
        /// In the oracle's list, once accepted.
        id: Option<WriteId>,
    },
    /// Flush of a volume.
    Flush(u32),
    /// An answer from replicated state.
    Confirm,
    /// The operator makes a volume.
    Create(VolumeSpec),
    /// The operator makes a volume larger.
    Grow(VolumeSpec),
    /// The operator deletes a volume.
    Delete(VolumeNumber),
}

/// An initiator.
#[derive(Clone, Debug)]
pub struct Client {
    /// Where it is logged in.
    pub connection: Option<(Host, u32)>,
    /// Commands without an answer, and since when.
    pub waiting: BTreeMap<u64, u64>,
    /// Ranges whose writes were lost with a connection.
    pub again: Vec<Range>,
    /// Commands answered well.
    pub done: u64,
}

impl Client {
    /// An initiator that is not logged in.
    pub fn new(_number: usize) -> Self {
        Self {
            connection: None,
            waiting: BTreeMap::new(),
            again: Vec::new(),
            done: 0,
        }
    }
}

impl World {
    /// An initiator looks around: log in, give up on a silent box, issue a command.
    pub(crate) fn think(&mut self, client: usize) {
        let mean = self.options.think_ns;
        let pause = self.rng.between(mean / 2, mean * 3 / 2);
        self.schedule(pause, Event::Think(client));
        let oldest = self.clients[client].waiting.values().min().copied();
        if oldest.is_some_and(|since| since + PATIENCE_NS < self.now) {
            self.counts.add("initiator gave up");
            self.disconnect(client);
        }
        let enough = self
            .trim
            .commands
            .is_some_and(|most| self.next_command > most);
        if !self.loaded || enough {
            return;
        }
        let Some((host, start)) = self.clients[client].connection else {
            let serving: Vec<Host> = BOXES
                .into_iter()
                .filter(|host| self.machines[host.index()].serves())
                .collect();
            if !serving.is_empty() {
                let host = *self.rng.pick(&serving);
                let start = self.machine(host).process().start;
                self.clients[client].connection = Some((host, start));
            }
            return;
        };
        if self.clients[client].waiting.len() < self.options.depth {
            self.issue_random(client, (host, start));
        }
    }

    fn issue_random(&mut self, client: usize, to: (Host, u32)) {
        let options = &self.options;
        let (writes, flushes) = (options.writes, options.flushes);
        let Some(volume) = self.draw_volume() else {
            return;
        };
        let draw = self.rng.below(1000);
        let kind = if let Some(range) = self.clients[client].again.pop() {
            self.draw_write(range)
        } else if draw < flushes {
            Kind::Flush(volume)
        } else if draw < flushes + 10 {
            Kind::Confirm
        } else if draw < flushes + 20 && self.options.wide {
            self.draw_zeroes(volume)
        } else {
            let range = self.draw_range(volume);
            if self.rng.chance(writes) {
                self.draw_write(range)
            } else {
                Kind::Read(range)
            }
        };
        self.issue(Some(client), to, kind);
    }

    /// Every volume but the system's.
    fn user_volumes(&self) -> Vec<u32> {
        let numbers = self.volumes.keys().copied();
        numbers.filter(|number| *number > 0).collect()
    }

    fn draw_volume(&mut self) -> Option<u32> {
        let user = self.user_volumes();
        if user.is_empty() || self.rng.chance(30) {
            return self.volumes.contains_key(&0).then_some(0);
        }
        Some(*self.rng.pick(&user))
    }

    fn draw_range(&mut self, volume: u32) -> Range {
        let Volume { places, stride } = self.volumes[&volume];
        let place = self.rng.below(places);
        let blocks = self.rng.between(1, self.options.command_blocks);
        let end = self.data.sectors(volume);
        let first = place * stride * SECTORS_PER_BLOCK;
        let sectors = (blocks * SECTORS_PER_BLOCK).min(end - first);
        if self.rng.chance(self.options.unaligned) {
            let skip = self.rng.below(SECTORS_PER_BLOCK);
            let sectors = self.rng.between(1, sectors - skip);
            return Range {
                volume,
                first: first + skip,
                sectors,
            };
        }
        Range {
            volume,
            first,
            sectors,
        }
    }

    /// Zeroes over more than a region, if the volume has as much.
    fn draw_zeroes(&mut self, volume: u32) -> Kind {
        let first = self.draw_range(volume).first;
        let region = replication::meta::REGION_BYTES / SECTOR_LEN as u64;
        let most = self.data.sectors(volume) - first;
        let sectors = self.rng.between(region / 2, region * 3 / 2).min(most);
        let range = Range {
            volume,
            first,
            sectors,
        };
        Kind::Write {
            range,
            value: Value::ZERO,
            stable: Stable::No,
            expected: None,
            id: None,
        }
    }

    fn draw_write(&mut self, range: Range) -> Kind {
        let version = self.next_version;
        self.next_version += 1;
        let value = if self.rng.chance(60) {
            Value::ZERO
        } else {
            Value(version)
        };
        let stable = if self.rng.chance(150) {
            Stable::Yes
        } else {
            Stable::No
        };
        let compares = value != Value::ZERO && self.rng.chance(60);
        let expected = compares.then(|| self.guess(range)).flatten();
        Kind::Write {
            range,
            value,
            stable,
            expected,
            id: None,
        }
    }

    /// What the first sector of a range holds, if one value may fill the range.
    fn guess(&mut self, range: Range) -> Option<Value> {
        let host = self.serving()?;
        let backing = self.machines[host.index()].backings.get(&range.volume)?;
        let block = backing
            .disk
            .visible(backing.data_block + range.first / SECTORS_PER_BLOCK);
        let within = usize::try_from(range.first % SECTORS_PER_BLOCK).expect("below eight");
        let bytes = &block[within * SECTOR_LEN..(within + 1) * SECTOR_LEN];
        let value = content::decode(range.volume, range.first, bytes);
        (!value.is_foreign()).then_some(value)
    }

    /// Sends a command to a process; its number.
    pub(crate) fn issue(&mut self, client: Option<usize>, to: (Host, u32), kind: Kind) -> u64 {
        let id = self.next_command;
        self.next_command += 1;
        let (host, start) = to;
        let input = match &kind {
            Kind::Create(spec) => engine::Input::CreateVolume {
                id: CommandId(id),
                spec: *spec,
            },
            Kind::Grow(spec) => engine::Input::GrowVolume {
                id: CommandId(id),
                number: spec.number,
                size_bytes: spec.size_bytes,
            },
            Kind::Delete(number) => engine::Input::DeleteVolume {
                id: CommandId(id),
                number: *number,
            },
            Kind::Read(_) | Kind::Write { .. } | Kind::Flush(_) | Kind::Confirm => {
                let command = command_of(&kind);
                engine::Input::Command {
                    id: CommandId(id),
                    command,
                }
            }
        };
        let issued = Issued {
            client,
            host,
            start,
            accepted: false,
            began: 0,
            kind,
        };
        if self.machine(host).runs(start) {
            self.commands.insert(id, issued);
        }
        if let Some(client) = client {
            self.clients[client].waiting.insert(id, self.now);
        }
        let way = self.rng.between(MS / 20, MS / 2);
        self.schedule(way, Event::Deliver(host, start, Delivery::Engine(input)));
        id
    }

    /// A command reaches the engine.
    pub(crate) fn accept(&mut self, host: Host, id: CommandId, command: Command) {
        let now = self.tick();
        let reign = self.machine(host).process().reign;
        let Some(issued) = self.commands.get_mut(&id.0) else {
            return;
        };
        issued.accepted = true;
        issued.began = now;
        if let Kind::Write {
            range,
            value,
            stable,
            id,
            ..
        } = &mut issued.kind
        {
            *id = Some(
                self.data
                    .write_begins(*range, *value, *stable, (reign, now)),
            );
        }
        let kind = &issued.kind;
        let lanes = (Lane::Initiator, Lane::of(host));
        self.trace.message(self.now, lanes, Fate::Delivered, || {
            format!("command {} {kind:?}", id.0)
        });
        self.feed_engine(host, engine::Input::Command { id, command });
    }

    /// The engine says how a command ended.
    pub(crate) fn completed(
        &mut self,
        host: Host,
        id: CommandId,
        result: Result<Completed, CommandError>,
    ) {
        let Some(issued) = self.commands.remove(&id.0) else {
            let breach = format!(
                "O2: {host} completes command {} that it does not have",
                id.0
            );
            return self.judge(Err(breach));
        };
        let lanes = (Lane::of(host), Lane::Initiator);
        self.trace.message(self.now, lanes, Fate::Delivered, || {
            let result = match &result {
                Ok(Completed::Data(_)) => "data".to_owned(),
                other => format!("{other:?}"),
            };
            format!("command {} {:?} -> {result}", id.0, issued.kind)
        });
        if let Some(client) = issued.client {
            self.clients[client].waiting.remove(&id.0);
            self.clients[client].done += u64::from(result.is_ok());
        }
        match result {
            Ok(completed) => self.answered_well(host, &issued, &completed),
            Err(error) => self.counts.add(&format!("command {}", name_of(&error))),
        }
    }

    fn answered_well(&mut self, host: Host, issued: &Issued, completed: &Completed) {
        let now = self.tick();
        let process = self.machine(host).process();
        let actor = process.actor;
        let Some(epoch) = process.primary_of else {
            let breach = format!("O2: {host} answers {:?} without being primary", issued.kind);
            return self.judge(Err(breach));
        };
        let right = self.right(host);
        let reads = matches!(completed, Completed::Data(_) | Completed::Miscompare { .. })
            || matches!(issued.kind, Kind::Confirm);
        let lawful = if reads {
            self.register.read(actor, epoch, right, self.now)
        } else {
            self.register.acked(actor, epoch)
        };
        self.judge(lawful);
        let members = self.register.in_sync();
        let Self { data, machines, .. } = self;
        let media = &Disks(machines);
        let began = issued.began;
        let verdict = match (&issued.kind, completed) {
            (Kind::Read(range), Completed::Data(bytes)) => {
                data.read_returned(*range, bytes, began, now)
            }
            (
                Kind::Write {
                    range,
                    expected,
                    id: Some(id),
                    ..
                },
                Completed::Ok,
            ) => data
                .write_acked(*id, now, &members, media)
                .and_then(|()| data.compared(*range, *expected, (began, now))),
            (Kind::Flush(volume), Completed::Ok) => {
                data.flush_acked(*volume, began, &members, media)
            }
            (Kind::Create(spec), Completed::Ok) => return self.volume_made(host, *spec),
            (Kind::Grow(spec), Completed::Ok) => return self.volume_grown(*spec),
            (
                Kind::Write {
                    expected: Some(_), ..
                },
                Completed::Miscompare { .. },
            )
            | (Kind::Confirm | Kind::Delete(_), Completed::Ok) => Ok(()),
            (kind, completed) => Err(format!("L1: {kind:?} answered with {completed:?}")),
        };
        self.judge(verdict);
    }

    fn volume_made(&mut self, host: Host, spec: VolumeSpec) {
        let now = self.tick();
        let number = spec.number.0;
        let (places, stride) = (self.options.blocks, self.options.stride);
        let sectors = spec.size_bytes / SECTOR_LEN as u64;
        self.learn_volume(host, number, sectors, now);
        self.volumes.insert(number, Volume { places, stride });
        self.counts.add("volume made");
    }

    /// Initiators use a volume to its new end.
    fn volume_grown(&mut self, spec: VolumeSpec) {
        let number = spec.number.0;
        let sectors = spec.size_bytes / SECTOR_LEN as u64;
        self.data.volume_grown(number, sectors);
        if let Some(volume) = self.volumes.get_mut(&number) {
            let places = sectors / SECTORS_PER_BLOCK / volume.stride;
            volume.places = volume.places.max(places);
            self.counts.add("volume grown");
        }
    }

    /// The oracle starts a history of the system volume when it is first served.
    pub(crate) fn begin_system_volume(&mut self, host: Host) {
        if self.data.sectors(0) == 0 {
            let now = self.tick();
            self.learn_volume(host, 0, SYSTEM_BLOCKS * SECTORS_PER_BLOCK, now);
            self.volumes.insert(
                0,
                Volume {
                    places: SYSTEM_BLOCKS,
                    stride: 1,
                },
            );
        }
    }

    fn learn_volume(&mut self, host: Host, number: u32, sectors: u64, now: Moment) {
        let Self { data, machines, .. } = self;
        let content = crate::oracle::Media::snapshot(&Disks(machines), host, number);
        match content {
            Some(content) => data.volume_ready(number, sectors, content, now),
            None => self.judge(Err(format!("K2: {host} made volume {number} and lacks it"))),
        }
    }

    /// The operator asks the serving box for one more volume.
    pub(crate) fn create_volume(&mut self) {
        let Some(host) = self.serving() else { return };
        let start = self.machine(host).process().start;
        let number = self.next_volume;
        self.next_volume += 1;
        let size_bytes = self.options.blocks * self.options.stride * BLOCK_LEN as u64;
        let uuid = self.rng.wide();
        let spec = VolumeSpec {
            number: VolumeNumber(number),
            uuid,
            size_bytes,
        };
        self.issue(None, (host, start), Kind::Create(spec));
    }

    /// The operator asks the serving box to make a volume larger.
    pub(crate) fn grow_volume(&mut self) {
        let user = self.user_volumes();
        let Some(host) = self.serving().filter(|_| !user.is_empty()) else {
            return;
        };
        let number = *self.rng.pick(&user);
        let start = self.machine(host).process().start;
        let Volume { places, stride } = self.volumes[&number];
        let places = places + self.rng.between(1, places.max(2));
        let spec = VolumeSpec {
            number: VolumeNumber(number),
            uuid: 0,
            size_bytes: places * stride * BLOCK_LEN as u64,
        };
        self.issue(None, (host, start), Kind::Grow(spec));
    }

    /// The operator asks the serving box to delete a volume, if there are two at least. Nobody uses
    /// it any more, whatever the answer.
    pub(crate) fn delete_volume(&mut self) {
        let user = self.user_volumes();
        let Some(host) = self.serving().filter(|_| user.len() > 1) else {
            return;
        };
        let number = *self.rng.pick(&user);
        let start = self.machine(host).process().start;
        self.volumes.remove(&number);
        self.data.forget_volume(number);
        for client in &mut self.clients {
            client.again.retain(|range| range.volume != number);
        }
        self.issue(None, (host, start), Kind::Delete(VolumeNumber(number)));
    }

    /// The process is gone and its commands with it; who was logged in notices unless the whole
    /// machine fell silent.
    pub(crate) fn forget_commands(&mut self, host: Host, start: u32, silent: bool) {
        self.commands
            .retain(|_, issued| (issued.host, issued.start) != (host, start));
        if !silent {
            self.drop_connections(host, start);
        }
    }

    /// All logins at that process end.
    pub(crate) fn drop_connections(&mut self, host: Host, start: u32) {
        for client in 0..self.clients.len() {
            if self.clients[client].connection == Some((host, start)) {
                self.disconnect(client);
            }
        }
    }

    pub(crate) fn disconnect(&mut self, client: usize) {
        self.clients[client].connection = None;
        let lost = std::mem::take(&mut self.clients[client].waiting);
        for id in lost.keys() {
            if let Some(issued) = self.commands.get_mut(id) {
                issued.client = None;
                if let Kind::Write { range, .. } = issued.kind
                    && self.volumes.contains_key(&range.volume)
                {
                    self.clients[client].again.push(range);
                }
            }
        }
    }
}

fn command_of(kind: &Kind) -> Command {
    let at = |range: &Range| (VolumeNumber(range.volume), range.first * SECTOR_LEN as u64);
    match kind {
        Kind::Read(range) => {
            let (volume, offset_bytes) = at(range);
            let len_bytes = usize::try_from(range.sectors).expect("small") * SECTOR_LEN;
            Command::Read {
                volume,
                offset_bytes,
                len_bytes,
            }
        }
        Kind::Write {
            range,
            value,
            stable,
            expected,
            ..
        } => {
            let (volume, offset_bytes) = at(range);
            let fua = if *stable == Stable::Yes {
                Fua::Yes
            } else {
                Fua::No
            };
            let data = encode(range, *value);
            match expected {
                Some(expected) => {
                    let expected = encode(range, *expected);
                    Command::CompareAndWrite {
                        volume,
                        offset_bytes,
                        expected,
                        data,
                        fua,
                    }
                }
                None if *value == Value::ZERO => {
                    let len_bytes = range.sectors * SECTOR_LEN as u64;
                    Command::WriteZeroes {
                        volume,
                        offset_bytes,
                        len_bytes,
                        fua,
                    }
                }
                None => Command::Write {
                    volume,
                    offset_bytes,
                    data,
                    fua,
                },
            }
        }
        Kind::Flush(volume) => Command::Flush {
            volume: VolumeNumber(*volume),
        },
        Kind::Confirm => Command::Confirm,
        Kind::Create(_) | Kind::Grow(_) | Kind::Delete(_) => {
            unreachable!("volumes are not made, grown and deleted by a command of an initiator")
        }
    }
}

fn encode(range: &Range, value: Value) -> bytes::Bytes {
    if value == Value::ZERO {
        content::zeros(usize::try_from(range.sectors).expect("small") * SECTOR_LEN)
    } else {
        content::encode(range.volume, range.first, range.sectors, value.0)
    }
}

fn name_of(error: &CommandError) -> &'static str {
    match error {
        CommandError::NotPrimary => "not primary",
        CommandError::OutOfRange => "out of range",
        CommandError::Medium => "medium error",
        CommandError::Io => "i/o error",
        CommandError::NoSpace => "no space",
        CommandError::Overloaded => "overloaded",
        CommandError::UnknownVolume => "unknown volume",
        CommandError::Refused(_) => "refused",
    }
}
