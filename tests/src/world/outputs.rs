//! What the cores ask for, done to the world; and what the oracle sees of it on the way.

use std::collections::{BTreeMap, VecDeque};

use appliance::wiring;
use bytes::{Bytes, BytesMut};
use replication::engine::{self, Authority, Io, Opened, Output as Mirror, PeerLoss};
use replication::types::{Create, OpId, Time, VolumeNumber, VolumeSpec, Zeroed};

use super::content::BLOCK_LEN;
use super::ladder::Lane;
use super::plumbing::link_of;
use super::{Core, Event, MS, World};
use crate::coverage::{self, Area, Fate};
use crate::disk::Fill;
use crate::net::{Host, Item, Link, WITNESS};
use crate::node::{Delivery, Fullness, Machine, Process};
use crate::oracle::{Depth, Media};

/// More outputs of one input than any real one has: a loop.
const OUTPUTS_MAX: usize = 200_000;

/// From which core to which.
#[derive(Clone, Copy, Debug)]
enum Way {
    ToMirror,
    ToAuthority,
}

/// The disks as the oracle sees them.
pub(crate) struct Disks<'a>(pub(crate) &'a [Machine; 2]);

impl Disks<'_> {
    /// Blocks of the data area that may be other than zero; `None` if there is no such volume.
    pub(crate) fn used(&self, host: Host, volume: u32) -> Option<impl Iterator<Item = u64>> {
        let backing = self.0[host.index()].backings.get(&volume)?;
        let first = backing.data_block;
        let end = backing.disk.tail_block();
        let blocks = backing.disk.blocks_from(first);
        let blocks = blocks.filter(move |number| *number < end);
        Some(blocks.map(move |number| number - first))
    }
}

impl Media for Disks<'_> {
    fn block(&self, host: Host, volume: u32, block: u64, depth: Depth) -> Option<Bytes> {
        let backing = self.0[host.index()].backings.get(&volume)?;
        let number = backing.data_block + block;
        Some(match depth {
            Depth::Visible => backing.disk.visible(number),
            Depth::Stable => backing.disk.stable(number),
        })
    }

    fn snapshot(&self, host: Host, volume: u32) -> Option<BTreeMap<u64, Bytes>> {
        let backing = self.0[host.index()].backings.get(&volume)?;
        let first = backing.data_block;
        let blocks = backing.disk.blocks_from(first);
        let end = backing.disk.tail_block();
        Some(
            blocks
                .filter(|number| *number < end)
                .map(|number| (number - first, backing.disk.visible(number)))
                .collect(),
        )
    }

    fn volatile_blocks(&self, host: Host, volume: u32) -> Vec<u64> {
        let Some(backing) = self.0[host.index()].backings.get(&volume) else {
            return Vec::new();
        };
        let first = backing.data_block;
        backing
            .disk
            .volatile_from(first)
            .filter(|number| *number < backing.disk.tail_block())
            .map(|number| number - first)
            .collect()
    }

    fn power_lost(&self, host: Host) -> u64 {
        self.0[host.index()].power_lost
    }
}

impl World {
    /// Does everything that the cores of a box ask for, in order; then arms their timers.
    pub(super) fn drain(&mut self, host: Host) {
        let mut heard: VecDeque<ha::Input> = VecDeque::new();
        let threads = self.options.threads;
        for round in 0.. {
            assert!(
                round < OUTPUTS_MAX,
                "{host} asks for more and more without any input"
            );
            let now = self.now;
            let machine = self.machine(host);
            let clock = machine.clock.at(now);
            let process = machine.process();
            if let Some(output) = process.engine.poll_output() {
                if let Mirror::Event(event) = &output
                    && let Some(input) = wiring::to_authority(event)
                {
                    if threads {
                        self.pass(host, Way::ToAuthority, Delivery::Node(input));
                    } else {
                        heard.push_back(input);
                    }
                }
                self.mirror_output(host, output);
            } else if let Some(output) = process.node.poll_output() {
                match wiring::to_mirror(&output) {
                    Some(input) if !threads || matches!(input, engine::Input::Lease(_)) => {
                        self.tell_mirror(host, input);
                    }
                    Some(input) => self.pass(host, Way::ToMirror, Delivery::Engine(input)),
                    None => {}
                }
                self.authority_output(host, output);
            } else if let Some(input) = heard.pop_front() {
                process.node.handle(clock, input);
            } else {
                break;
            }
        }
        let process = self.machine(host).process();
        process.engine.check_full();
        process.node.check_full();
        if process.primary_of.is_none() {
            self.all_aborted(host);
        }
        self.arm(host);
    }

    /// On a box with two threads what one core says reaches the other a little later, in order;
    /// only the lease is in a place that both see (law R5).
    fn pass(&mut self, host: Host, way: Way, delivery: Delivery) {
        let late = if self.rng.chance(100) {
            20 * MS
        } else {
            MS / 2
        };
        let at = self.now + self.rng.below(late);
        let process = self.machine(host).process();
        let start = process.start;
        let last = &mut process.passed[way as usize];
        *last = at.max(*last);
        let at = *last;
        self.schedule_at(at, Event::Deliver(host, start, delivery));
    }

    /// An input for the mirror, and what the oracle must know before.
    pub(super) fn tell_mirror(&mut self, host: Host, input: engine::Input) {
        if let engine::Input::Authority(authority) = &input {
            self.authorised(host, authority);
        }
        let now = self.now;
        let machine = self.machine(host);
        let local = Time(machine.clock.boot(now));
        let engine = &mut machine.process().engine;
        let from = engine.role();
        engine.handle(local, input);
        let to = engine.role();
        if from != to {
            self.counts.add(&coverage::mirror_edge(from, to));
        }
    }

    fn authorised(&mut self, host: Host, authority: &Authority) {
        self.trace
            .note(self.now, || format!("{host}: {authority:?}"));
        let reign = self.next_reign();
        let process = self.machine(host).process();
        match authority {
            Authority::Secondary { .. } => {
                process.primary_of = None;
                process.serving = false;
            }
            Authority::Primary { epoch, .. } => {
                if process.primary_of.is_none() {
                    process.reign = reign;
                }
                process.primary_of = Some(epoch.0);
                let (actor, epoch) = (process.actor, epoch.0);
                let checked = self.register.authorised(actor, epoch);
                self.judge(checked);
            }
        }
    }

    /// O2: no longer primary, so nothing that was accepted is left.
    fn all_aborted(&mut self, host: Host) {
        let start = self.machine(host).process().start;
        let left = self
            .commands
            .iter()
            .find(|(_, issued)| (issued.host, issued.start) == (host, start) && issued.accepted);
        if let Some((id, issued)) = left {
            let breach = format!("O2: {host} is not primary and still has {id} {issued:?}");
            self.judge(Err(breach));
        }
    }

    fn authority_output(&mut self, host: Host, output: ha::Output) {
        let now = self.now;
        let start = self.machine(host).process().start;
        match output {
            ha::Output::Persist { id, record } => {
                let taken = self.machine(host).storing.replace((id, *record));
                assert!(taken.is_none(), "{host}: one record is written at a time");
                let wait = self.persist_ns();
                self.schedule(wait, Event::Stored(host, start));
            }
            ha::Output::Send { to, link, bytes } => {
                self.send_datagram(host, Host(to.0), link_of(link), bytes);
            }
            ha::Output::Start(resource) => {
                self.machine(host).process().started.insert(resource);
                let fails = self.stormy && self.rng.chance(10);
                let result = if fails {
                    Err("the test says no".to_owned())
                } else {
                    Ok(())
                };
                let input = ha::Input::Started { resource, result };
                let wait = self.rng.between(MS / 10, 5 * MS);
                self.schedule(wait, Event::Deliver(host, start, Delivery::Node(input)));
                self.narrate_resource(host, resource, "starts");
            }
            ha::Output::Stop(resource) => {
                self.machine(host).process().started.remove(&resource);
                let input = ha::Input::Stopped { resource };
                let wait = self.rng.between(MS / 10, 5 * MS);
                self.schedule(wait, Event::Deliver(host, start, Delivery::Node(input)));
                self.narrate_resource(host, resource, "stops");
                if resource == ha::Resource::Addresses {
                    self.drop_connections(host, start);
                }
            }
            ha::Output::Answer { id, result } => {
                self.counts.add(if result.is_ok() {
                    "operator ok"
                } else {
                    "operator refused"
                });
                self.trace
                    .note(now, || format!("{host}: answer {id}: {result:?}"));
                self.narrate_answer(host, &result);
            }
            ha::Output::Event(event) => {
                if let ha::Event::RoleChanged { from, to } = &event {
                    self.counts.add(&coverage::role_edge(*from, *to));
                }
                self.trace.note(now, || format!("{host}: {event}"));
            }
            ha::Output::Lease(lease) => {
                self.machine(host).process().lease = lease;
                self.trace.note(now, || format!("{host}: {lease:?}"));
            }
            ha::Output::Seal { .. }
            | ha::Output::Authority(_)
            | ha::Output::Handover { .. }
            | ha::Output::HandoverCancelled { .. } => {
                self.trace.note(now, || format!("{host}: {output:?}"));
            }
        }
    }

    fn mirror_output(&mut self, host: Host, output: Mirror) {
        let now = self.now;
        let start = self.machine(host).process().start;
        match output {
            Mirror::Submit { op, volume, io } => self.submit(host, op, volume, io),
            Mirror::Open {
                spec,
                backing_bytes,
                create,
            } => {
                self.open(host, spec, backing_bytes, create);
            }
            Mirror::Grow {
                number,
                backing_bytes,
            } => self.grow(host, number, backing_bytes),
            Mirror::Remove { number } => {
                self.machine(host).backings.remove(&number.0);
            }
            Mirror::Connect => self.dial(host, start),
            Mirror::Disconnect { session } => self.net.close(now, session.0, host),
            Mirror::Send {
                session,
                header,
                payload,
                trailer,
                ..
            } => {
                let payload = joined(payload, trailer);
                self.net
                    .send(now, session.0, host, Item::Frame { header, payload });
            }
            Mirror::Complete { id, result } => self.completed(host, id, result),
            Mirror::Event(event) => self.mirror_event(host, event),
        }
    }

    fn submit(&mut self, host: Host, op: OpId, volume: VolumeNumber, io: Io) {
        let (low, high) = self.options.disk_ns;
        let machine = &mut self.machines[host.index()];
        let wait = self.rng.between(low, high) + machine.mood.extra_ns;
        let process = machine
            .process
            .as_mut()
            .expect("a process that submits runs");
        let Some(backing) = machine.backings.get_mut(&volume.0) else {
            panic!("{host} submits to volume {volume}, which is not open");
        };
        let data_offset = backing.data_block * BLOCK_LEN as u64;
        let backing_bytes = backing.disk.size_bytes();
        let area = match &io {
            Io::Write { offset_bytes, .. } | Io::WriteZeroes { offset_bytes, .. } => {
                Some(Area::of(*offset_bytes, data_offset, backing_bytes))
            }
            Io::Read { .. } | Io::Flush => None,
        };
        let late = area == Some(Area::Data)
            && process.primary_of.is_none()
            && process.frame_epoch <= process.sealed
            && process.sealed > 0;
        let (frame_epoch, sealed) = (process.frame_epoch, process.sealed);
        let start = process.start;
        let full = machine.mood.full == Fullness::Full && volume.0 > 0;
        backing.disk.fill_up(full.then_some(backing.data_block));
        let ticket = backing.disk.submit(io, &mut self.rng);
        process.ops.insert((volume.0, ticket), op);
        if late {
            self.judge(Err(format!(
                "P4: {host} sealed {sealed} and applies a frame of epoch {frame_epoch}"
            )));
        }
        self.schedule(wait, Event::Disk(host, volume.0, ticket, start));
        if let Some(area) = area {
            self.spring_trap(host, area, wait);
        }
    }

    fn grow(&mut self, host: Host, number: VolumeNumber, backing_bytes: u64) {
        let machine = self.machine(host);
        let start = machine.process().start;
        let Some(backing) = machine.backings.get_mut(&number.0) else {
            return;
        };
        let result = Ok(Opened {
            number,
            size_bytes: backing.disk.grow(backing_bytes),
            zeroed: backing.disk.is_new_end_zero(),
        });
        let grown = engine::Input::Grown { number, result };
        let wait = self.rng.between(MS / 10, 5 * MS);
        self.schedule(wait, Event::Deliver(host, start, Delivery::Engine(grown)));
    }

    fn open(&mut self, host: Host, spec: VolumeSpec, backing_bytes: u64, create: Create) {
        let number = spec.number;
        let leftovers = self.rng.bits();
        let sparse = self.options.sparse_backings;
        let machine = self.machine(host);
        let start = machine.process().start;
        let missing = !machine.backings.contains_key(&number.0);
        let result = if missing && create == Create::No {
            let reason = format!("no backing of volume {number}");
            engine::Input::OpenFailed { number, reason }
        } else {
            if missing {
                let fill = if sparse {
                    Fill::Zeros
                } else {
                    Fill::Leftovers(leftovers)
                };
                let data_offset = replication::meta::layout(spec.size_bytes).data_offset;
                let data_block = data_offset / BLOCK_LEN as u64;
                machine.make_backing(number.0, backing_bytes, data_block, fill);
            }
            let disk = &machine.backings[&number.0].disk;
            let proven = disk.is_proven_zero();
            engine::Input::Opened(Opened {
                number,
                size_bytes: disk.size_bytes(),
                zeroed: if proven {
                    Zeroed::Proven
                } else {
                    Zeroed::Unknown
                },
            })
        };
        let wait = self.rng.between(MS / 10, 5 * MS);
        self.schedule(wait, Event::Deliver(host, start, Delivery::Engine(result)));
    }

    fn dial(&mut self, host: Host, start: u32) {
        let peer = host.peer();
        let wire = Link::Replication;
        if self.net.is_cut(host, peer, wire) || self.net.is_cut(peer, host, wire) {
            let wait = self.rng.between(50 * MS, 100 * MS);
            let failed = Delivery::Engine(engine::Input::ConnectFailed);
            self.schedule(wait, Event::Deliver(host, start, failed));
        } else {
            let wait = self.net.delay();
            self.schedule(wait, Event::Dial(host, start));
        }
    }

    fn mirror_event(&mut self, host: Host, event: engine::Event) {
        use engine::Event as News;
        self.trace
            .note(self.now, || format!("{host}: mirror: {event:?}"));
        match &event {
            News::Sealed { epoch } => self.sealed(host, epoch.0),
            News::CacheLost { volume } => {
                self.machine(host).process().forgot.push(volume.0);
                if self.machine(host).process().serving {
                    self.forget_cache(host);
                }
            }
            News::Serving { .. } => self.serving_begins(host),
            News::ResyncStarted { reason, .. } => {
                let full = reason.starts_with("the peer's copy");
                let [all, _, _, delta, _] = coverage::HANDSHAKES;
                self.counts.add(if full { all } else { delta });
                self.copy_begins(host);
                self.turning_point();
            }
            News::PeerUp { .. } => {
                // told at once that it is in sync: the two were found to be equal
                let link = self.machine(host).process().engine.link();
                if link == engine::DataLink::Mirroring {
                    self.counts.add(coverage::HANDSHAKES[2]);
                }
            }
            News::Replayed { .. } => self.counts.add("replayed"),
            News::Thawed => self.counts.add("thawed"),
            News::Readmit { .. } | News::ResyncDone => self.turning_point(),
            News::InSync { epoch } => {
                self.turning_point();
                self.count_copied(host);
                self.machine(host.peer()).may_forget = false;
                self.in_sync(host, epoch.0);
            }
            News::PeerLost { why, .. } => {
                self.counts.add(&coverage::loss_item(*why));
                match why {
                    PeerLoss::Differs => self.counts.add(coverage::HANDSHAKES[1]),
                    PeerLoss::Sealed => self.counts.add(coverage::HANDSHAKES[4]),
                    PeerLoss::Silent
                    | PeerLoss::Closed
                    | PeerLoss::OtherIncarnation
                    | PeerLoss::DiskFailed => {}
                }
            }
            News::CopiesDiffer {
                volume,
                offset_bytes,
                ..
            } => self.judge(Err(format!(
                "C1: {host} scrubs and finds another byte {offset_bytes} of volume {volume} at \
                 its peer"
            ))),
            News::Scrubbed { found, .. } => {
                self.counts.add("scrubbed a volume");
                if found.mended > 0 {
                    self.counts.add("mended by a scrub");
                }
            }
            News::Alarm(text) => self.counts.add(&format!("alarm {}", outline(text))),
            News::Data(_)
            | News::Drained { .. }
            | News::ResyncProgress { .. }
            | News::VolumeReady { .. }
            | News::VolumeGrown { .. }
            | News::VolumeGone { .. } => {}
        }
    }

    /// Old news if the peer has died or taken over since it said so.
    fn in_sync(&mut self, host: Host, epoch: u64) {
        let current = self.register.config().map(|config| config.epoch.0) == Some(epoch);
        let follower = self.machines[host.peer().index()].process.as_ref();
        let follows =
            |process: &Process| process.engine.status().link == engine::DataLink::Following;
        if current && follower.is_some_and(follows) {
            self.compare_quiet_blocks(host);
        }
    }

    /// P4 and H8: a sealed box has no data write of an older epoch at its disks.
    fn sealed(&mut self, host: Host, epoch: u64) {
        let machine = self.machine(host);
        let in_flight: usize = (machine.backings.values())
            .map(|backing| {
                let data_offset = backing.data_block * BLOCK_LEN as u64;
                backing.disk.writes_in_flight_beyond(data_offset)
            })
            .sum();
        let process = machine.process();
        process.sealed = process.sealed.max(epoch);
        if in_flight > 0 && process.frame_epoch <= epoch {
            let breach =
                format!("P4: {host} sealed {epoch} with {in_flight} data writes at its disks");
            self.judge(Err(breach));
        }
    }

    fn serving_begins(&mut self, host: Host) {
        let now = self.tick();
        let process = self.machine(host).process();
        let begins = !std::mem::replace(&mut process.serving, true);
        let (reign, epoch) = (process.reign, process.primary_of);
        self.trace.note(self.now, || {
            format!("{host}: serves {epoch:?} as {reign:?}")
        });
        self.forget_cache(host);
        if begins {
            self.data.reign_began(reign, now);
        }
        self.machine(host).may_forget = false;
        self.begin_system_volume(host);
    }

    /// K3: what a box that lost power forgot.
    fn forget_cache(&mut self, host: Host) {
        let forgot = std::mem::take(&mut self.machine(host).process().forgot);
        if forgot.is_empty() {
            return;
        }
        // a box that says so twice for one power cut is only over-cautious: nothing is licensed
        if !self.machine(host).may_forget {
            self.counts.add("cache lost without cause");
            return;
        }
        self.counts.add("cache lost");
        for volume in forgot {
            let now = self.tick();
            let Self { data, machines, .. } = self;
            match data.cache_lost(volume, host, now, &Disks(machines)) {
                Ok(0) => {}
                Ok(lost) => self.could_not_be_asked(host, volume, lost),
                Err(breach) => self.judge(Err(breach)),
            }
        }
    }

    /// K3: what a box forgot may be lost only if the other member was not there to be asked.
    fn could_not_be_asked(&mut self, host: Host, volume: u32, lost: usize) {
        self.counts.add("acknowledged and forgotten");
        let epoch = self.machine(host).process().primary_of.unwrap_or(0);
        let peer = host.peer();
        let counted = self.register.in_sync_before(epoch).contains(&peer);
        let since = self.machine(host).up_since;
        let other = &self.machines[peer.index()];
        let attached = |process: &Process| {
            !process.stopped
                && process.engine.status().data.attached == engine::Attached::Yes
                && process.awake_since < since
        };
        let was_there = !other.may_forget
            && other.process.as_ref().is_some_and(attached)
            && self.net.whole_since() < since
            && self.net.weather.loss <= 100;
        if counted && was_there {
            let breach = format!(
                "K3: {host} promotes without {lost} acknowledged sectors of volume {volume} that \
                 {peer} has and could have served"
            );
            self.judge(Err(breach));
        }
    }

    fn send_datagram(&mut self, from: Host, to: Host, link: Link, bytes: Vec<u8>) {
        let ways = self.net.datagram(from, to, link);
        match ways.len() {
            0 => self.datagram_lost((from, to), &bytes),
            1 => {}
            _ => self.net.traffic.datagram(&bytes, Fate::Twice),
        }
        for (delay, damaged) in ways {
            let mut bytes = bytes.clone();
            if damaged {
                let len = bytes.len() as u64;
                let at = usize::try_from(self.rng.below(len)).expect("a datagram is short");
                if self.rng.chance(300) {
                    bytes.truncate(at);
                } else {
                    bytes[at] ^= 1 << self.rng.below(8);
                }
            }
            self.schedule(
                delay,
                Event::Datagram {
                    from,
                    to,
                    link,
                    bytes,
                },
            );
        }
    }

    pub(super) fn datagram_lost(&mut self, (from, to): (Host, Host), bytes: &[u8]) {
        self.net.traffic.datagram(bytes, Fate::Lost);
        self.draw_datagram((from, to), bytes, Fate::Lost);
    }

    /// Heartbeats and their answers are left out of the ladder: they are most of all messages.
    pub(super) fn draw_datagram(&mut self, (from, to): (Host, Host), bytes: &[u8], fate: Fate) {
        let name = coverage::datagram_name(bytes);
        if !["Heartbeat", "Ack", "Hello"].contains(&name) {
            let lanes = (Lane::of(from), Lane::of(to));
            self.trace
                .message(self.now, lanes, fate, || name.to_owned());
        }
    }

    fn persist_ns(&mut self) -> u64 {
        let (low, high) = self.options.persist_ns;
        self.rng.between(low, high)
    }

    /// The same for the witness.
    pub(super) fn drain_witness(&mut self) {
        let now = self.now;
        let Some(guard) = &mut self.witness.process else {
            return;
        };
        let start = guard.start;
        let mut outputs = Vec::new();
        while let Some(output) = guard.core.poll_output() {
            outputs.push(output);
        }
        for output in outputs {
            match output {
                ha::witness::Output::Persist { group, id, record } => {
                    let taken = self.witness.storing.replace((group, id, *record));
                    assert!(taken.is_none(), "the witness writes one record at a time");
                    let wait = self.persist_ns();
                    self.schedule(wait, Event::Stored(WITNESS, start));
                }
                ha::witness::Output::Send { to, bytes } => {
                    let to = Host(u8::try_from(to.0).expect("an address of this world"));
                    self.send_datagram(WITNESS, to, Link::Witness, bytes);
                }
                ha::witness::Output::Event(event) => {
                    self.trace.note(now, || format!("witness: {event}"));
                }
            }
        }
        let slack = self.rng.below(MS / 2);
        let clock = self.witness.clock;
        let Some(guard) = &mut self.witness.process else {
            return;
        };
        if let Some(local) = guard.core.poll_timeout() {
            let at = clock.true_time(local.0).max(now) + slack;
            if guard.timer.is_none_or(|known| at + MS < known) {
                guard.timer = Some(at);
                self.schedule_at(at, Event::Timer(WITNESS, start, Core::Node));
            }
        }
    }
}

/// A sentence without its numbers and remedies, for counting.
fn outline(text: &str) -> String {
    let end = text.find([',', ';']).unwrap_or(text.len());
    let words = text[..end]
        .split(' ')
        .filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

/// The receiver's payload: data and checksums as one.
fn joined(payload: Bytes, trailer: Bytes) -> Bytes {
    if trailer.is_empty() {
        return payload;
    }
    let mut both = BytesMut::with_capacity(payload.len() + trailer.len());
    both.extend_from_slice(&payload);
    both.extend_from_slice(&trailer);
    both.freeze()
}
