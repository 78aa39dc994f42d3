//! How inputs reach the cores, and how processes start, stop and die.

use appliance::wiring;
use replication::engine::{self, Attached, Opened};
use replication::types::{BootId, DiskInstance, Epoch, GroupId, Incarnation, NodeId, SessionId};
use replication::types::{VolumeNumber, Zeroed};
use replication::wire::Kind;
use replication::wire::hello::Binding;

use super::content::BLOCK_LEN;
use super::ladder::Lane;
use super::{Core, Event, MS, World};
use crate::coverage::{self, Area, End, Fate};
use crate::disk::Ticket;
use crate::net::{BOXES, Host, Item, Link, Party, SAN1, Step, WITNESS};
use crate::node::{Delivery, Fullness, GROUP, Guard, KEY, Machine, Process};
use crate::oracle::Reign;
use crate::oracle::authority::Actor;

/// The three links by number.
const LINKS: [(Link, ha::LinkId); 3] = [
    (Link::Replication, ha::LinkId(0)),
    (Link::Service, ha::LinkId(1)),
    (Link::Witness, ha::LinkId(2)),
];

/// Datagrams that a socket keeps for a process that does not read them.
const SOCKET_DATAGRAMS: usize = 400;

/// The number of a link.
pub(crate) fn link_id(link: Link) -> ha::LinkId {
    let found = LINKS.iter().find(|(known, _)| *known == link);
    found.expect("all links have numbers").1
}

/// The link with this number.
pub(crate) fn link_of(id: ha::LinkId) -> Link {
    let found = LINKS.iter().find(|(_, known)| *known == id);
    found.expect("cores use the links that they were given").0
}

impl World {
    /// The machines start.
    pub(super) fn create_group(&mut self) {
        let record = self.machines[SAN1.index()].record.clone();
        let genesis = self.register.stored(SAN1, &record);
        self.judge(genesis.map(|_| ()));
        for host in BOXES {
            self.schedule(0, Event::Boot(host));
        }
        let late = self.rng.below(200 * MS);
        self.schedule(late, Event::Boot(WITNESS));
    }

    /// A process starts, on a machine that gets its power back if it had none, as soon as no disk
    /// command of an earlier process is left (law D3).
    pub(super) fn boot(&mut self, host: Host) {
        if host == WITNESS {
            self.boot_witness();
            return;
        }
        let (now, boot, base) = (self.now, self.rng.wide(), self.rng.below(1 << 32));
        let ppb = self.options.clock_ppb[host.index()];
        let machine = self.machine(host);
        if machine.process.is_some() {
            return;
        }
        if !machine.up {
            machine.up = true;
            machine.up_since = now;
            machine.boot = boot;
            machine.clock = crate::node::Clock::new(ppb, now, base);
        }
        if !machine.is_quiet() {
            machine.wants_boot = true;
            return;
        }
        machine.wants_boot = false;
        self.start_process(host);
    }

    fn start_process(&mut self, host: Host) {
        let (incarnation, seed) = (self.rng.wide(), self.rng.bits());
        let limits = self.options.limits();
        let now = self.now;
        let machine = self.machine(host);
        machine.starts += 1;
        let start = machine.starts;
        let node = ha::Node::new(
            ha::Params {
                group: ha::GroupId(GROUP),
                me: ha::NodeId(host.0),
                peer: ha::NodeId(host.peer().0),
                witness: ha::NodeId(WITNESS.0),
                incarnation: ha::Incarnation(incarnation),
                boot: ha::BootId(machine.boot),
                key: KEY,
                links: vec![link_id(Link::Replication), link_id(Link::Service)],
                witness_link: link_id(Link::Witness),
                software: 1,
                seed,
            },
            machine.record.clone(),
            machine.clock.at(now),
        );
        let engine = engine::Engine::new(engine::Params {
            group: GroupId(GROUP),
            me: NodeId(host.0),
            peer: NodeId(host.peer().0),
            incarnation: Incarnation(incarnation),
            boot: BootId(machine.boot),
            key: KEY,
            nonce_seed: seed.rotate_left(32),
            fresh_disk: DiskInstance(machine.disk_instance),
            peer_loss_ms: u64::from(ha::Timing::default().peer_loss_ms),
            limits,
        });
        machine.process = Some(Process {
            start,
            actor: Actor { host, incarnation },
            engine,
            node,
            awake_since: now,
            stopped: false,
            inbox: std::collections::VecDeque::new(),
            timers: [None; 2],
            passed: [0; 2],
            ops: std::collections::BTreeMap::new(),
            lease: ha::Lease::None,
            primary_of: None,
            reign: Reign(0),
            serving: false,
            forgot: Vec::new(),
            started: std::collections::BTreeSet::new(),
            sealed: 0,
            frame_epoch: 0,
        });
        self.trace
            .note(now, || format!("{host}: process {start} starts"));
        self.attach(host);
        let local = ha::Input::Local {
            config_generation: 1,
            config_hash: 1,
        };
        self.feed_node(host, local);
    }

    /// The engine's first input: what the pool holds, or the order to format it.
    fn attach(&mut self, host: Host) {
        let machine = self.machine(host);
        let opened = |(number, backing): (&u32, &crate::node::Backing)| Opened {
            number: VolumeNumber(*number),
            size_bytes: backing.disk.size_bytes(),
            zeroed: if backing.disk.is_proven_zero() {
                Zeroed::Proven
            } else {
                Zeroed::Unknown
            },
        };
        let found = machine.backings.iter().map(opened).collect();
        let seal = machine
            .record
            .group
            .as_ref()
            .map_or(0, |group| group.seal.0);
        let newest = wiring::newest_copy(&machine.record);
        let format = std::mem::take(&mut machine.format);
        self.feed_engine(
            host,
            engine::Input::Start {
                found,
                seal: Epoch(seal),
                newest,
            },
        );
        if format {
            self.feed_engine(host, engine::Input::Format);
        }
    }

    fn boot_witness(&mut self) {
        let incarnation = ha::Incarnation(self.rng.wide());
        let boot = self.rng.wide();
        let witness = &mut self.witness;
        if witness.process.is_some() {
            return;
        }
        if !witness.up {
            witness.up = true;
            witness.boot = boot;
        }
        witness.starts += 1;
        let params = ha::WitnessParams {
            me: ha::NodeId(WITNESS.0),
            instance: witness.instance,
            incarnation,
            boot: ha::BootId(witness.boot),
            keys: vec![(ha::GroupId(GROUP), KEY)],
        };
        let records = witness
            .record
            .iter()
            .map(|r| (ha::GroupId(GROUP), r.clone()))
            .collect();
        let core = ha::Witness::new(params, records, witness.clock.at(self.now));
        witness.process = Some(Guard {
            start: witness.starts,
            core,
            stopped: false,
            inbox: std::collections::VecDeque::new(),
            timer: None,
        });
        self.drain_witness();
    }

    /// Kills a process; the kernel goes on.
    pub(crate) fn kill(&mut self, host: Host) {
        self.end_process(host, false);
    }

    /// Cuts a machine's power.
    pub(crate) fn power_off(&mut self, host: Host) {
        self.end_process(host, true);
        let moment = self.tick();
        if host == WITNESS {
            self.witness.up = false;
            return;
        }
        let rng = &mut self.rng;
        let machine = &mut self.machines[host.index()];
        machine.up = false;
        machine.power_lost = moment;
        machine.may_forget = true;
        machine.wants_boot = false;
        for backing in machine.backings.values_mut() {
            backing.disk.power_loss(rng);
        }
    }

    fn end_process(&mut self, host: Host, power: bool) {
        self.settle_store(host);
        let now = self.now;
        if host == WITNESS {
            self.witness.process = None;
            return;
        }
        self.count_interrupted(host, if power { End::PowerCut } else { End::Kill });
        let Some(process) = self.machine(host).process.take() else {
            return;
        };
        self.count_end(&process);
        let start = process.start;
        self.trace
            .note(now, || format!("{host}: process {start} ends"));
        self.net.process_gone(now, Party { host, start }, power);
        let cancel: Vec<(u32, Ticket)> = process
            .ops
            .keys()
            .filter(|_| !power && self.rng.chance(300))
            .copied()
            .collect();
        for (volume, ticket) in cancel {
            if let Some(backing) = self.machine(host).backings.get_mut(&volume) {
                backing.disk.cancel(ticket);
            }
        }
        self.forget_commands(host, start, power);
    }

    /// Which routines were in the middle of a write.
    fn count_interrupted(&mut self, host: Host, end: End) {
        let Self {
            machines, counts, ..
        } = self;
        for backing in machines[host.index()].backings.values() {
            let data_offset = backing.data_block * BLOCK_LEN as u64;
            for offset_bytes in backing.disk.writes_in_flight() {
                let area = Area::of(offset_bytes, data_offset, backing.disk.size_bytes());
                counts.add(&coverage::crash_item(end, area));
            }
        }
    }

    /// A record that was being written when the process died is durable or not.
    fn settle_store(&mut self, host: Host) {
        let landed = self.rng.chance(500);
        let record = if host == WITNESS {
            self.witness.storing.take().map(|(_, _, record)| record)
        } else {
            self.machine(host).storing.take().map(|(_, record)| record)
        };
        if record.is_some() {
            self.counts.add(&coverage::record_crash_item(host));
        }
        if let Some(record) = record.filter(|_| landed) {
            self.keep(host, record);
        }
    }

    /// A record is durable.
    fn keep(&mut self, host: Host, record: ha::Record) {
        let chosen = self.register.stored(host, &record);
        if host == WITNESS {
            self.witness.record = Some(record);
        } else {
            self.machine(host).record = record;
        }
        match chosen {
            Ok(false) => {}
            Ok(true) => self.config_chosen(),
            Err(breach) => self.judge(Err(breach)),
        }
    }

    fn config_chosen(&mut self) {
        let config = self.register.config().expect("one was just chosen");
        let name = coverage::rule_item(config.reason);
        let primary = config.primary.map(|(node, _)| Host(node.0));
        let (epoch, in_sync) = (config.epoch, config.in_sync);
        let voters: Vec<u8> = config.voters.iter().map(|voter| voter.node.0).collect();
        self.counts.add(&name);
        self.trace.note(self.now, || {
            format!(
                "CHOSEN epoch {epoch} primary {primary:?} in sync {in_sync} voters {voters:?} \
                 ({name})"
            )
        });
        self.narrate_config();
    }

    /// The write of a record ends.
    pub(super) fn stored(&mut self, host: Host, start: u32) {
        if host == WITNESS {
            if self
                .witness
                .process
                .as_ref()
                .is_none_or(|guard| guard.start != start)
            {
                return;
            }
            let Some((group, id, record)) = self.witness.storing.take() else {
                return;
            };
            self.keep(host, record);
            let input = ha::witness::Input::Persisted { group, id };
            self.deliver(host, start, Delivery::Witness(input));
        } else {
            if !self.machine(host).runs(start) {
                return;
            }
            let Some((id, record)) = self.machine(host).storing.take() else {
                return;
            };
            self.keep(host, record);
            self.deliver(host, start, Delivery::Node(ha::Input::Persisted { id }));
        }
    }

    /// A core is called at the time that it asked for.
    pub(super) fn timer(&mut self, host: Host, start: u32, core: Core) {
        let now = self.now;
        if host == WITNESS {
            let clock = self.witness.clock;
            let Some(guard) = self.witness.process.as_mut().filter(|g| g.start == start) else {
                return;
            };
            if guard.stopped {
                guard.inbox.push_back(Event::Timer(host, start, core));
                return;
            }
            if guard.timer.is_some_and(|at| at > now) {
                return; // it was armed anew since, for later
            }
            guard.timer = None;
            if guard
                .core
                .poll_timeout()
                .is_some_and(|at| at.0 <= clock.boot(now))
            {
                guard
                    .core
                    .handle(clock.at(now), ha::witness::Input::Timeout);
            }
            self.drain_witness();
            return;
        }
        let machine = self.machine(host);
        let local = machine.clock.boot(now);
        let Some(process) = machine.process.as_mut().filter(|p| p.start == start) else {
            return;
        };
        if process.stopped {
            process.inbox.push_back(Event::Timer(host, start, core));
            return;
        }
        if process.timer(core).is_some_and(|at| at > now) {
            return; // it was armed anew since, for later
        }
        *process.timer(core) = None;
        let due = match core {
            Core::Engine => process.engine.poll_timeout().map(|at| at.0),
            Core::Node => process.node.poll_timeout().map(|at| at.0),
        };
        match core {
            _ if due.is_none_or(|at| at > local) => self.arm(host),
            Core::Engine => self.feed_engine(host, engine::Input::Timeout),
            Core::Node => self.feed_node(host, ha::Input::Timeout),
        }
    }

    /// Has the two cores called when they want to be.
    pub(super) fn arm(&mut self, host: Host) {
        let slack = self.rng.below(MS / 2);
        let now = self.now;
        let machine = self.machine(host);
        let clock = machine.clock;
        let Some(process) = &mut machine.process else {
            return;
        };
        let start = process.start;
        let wanted = [
            (Core::Engine, process.engine.poll_timeout().map(|at| at.0)),
            (Core::Node, process.node.poll_timeout().map(|at| at.0)),
        ];
        let mut timers = Vec::new();
        for (core, local) in wanted {
            let Some(local) = local else { continue };
            let at = clock.true_time(local).max(now) + slack;
            let slot = process.timer(core);
            if slot.is_none_or(|known| at + MS < known) {
                *slot = Some(at);
                timers.push((at, core));
            }
        }
        for (at, core) in timers {
            self.schedule_at(at, Event::Timer(host, start, core));
        }
    }

    /// An input reaches a process, or waits while it is stopped.
    pub(super) fn deliver(&mut self, host: Host, start: u32, delivery: Delivery) {
        if host == WITNESS {
            let clock = self.witness.clock.at(self.now);
            let Some(guard) = self.witness.process.as_mut().filter(|g| g.start == start) else {
                return;
            };
            if guard.stopped {
                guard.inbox.push_back(Event::Deliver(host, start, delivery));
            } else if let Delivery::Witness(input) = delivery {
                guard.core.handle(clock, input);
                self.drain_witness();
            }
            return;
        }
        let Some(process) = self
            .machine(host)
            .process
            .as_mut()
            .filter(|p| p.start == start)
        else {
            return;
        };
        if process.stopped {
            process
                .inbox
                .push_back(Event::Deliver(host, start, delivery));
            return;
        }
        match delivery {
            Delivery::Engine(engine::Input::Command { id, command }) => {
                self.accept(host, id, command);
            }
            Delivery::Engine(input) => self.feed_engine(host, input),
            Delivery::Node(ha::Input::Started { resource, result }) => {
                if self.machine(host).process().started.contains(&resource) {
                    self.feed_node(host, ha::Input::Started { resource, result });
                }
            }
            Delivery::Node(input) => self.feed_node(host, input),
            Delivery::Witness(_) => unreachable!("boxes hear nothing meant for the witness"),
        }
    }

    /// Feeds the mirror, then does what the cores ask for.
    pub(crate) fn feed_engine(&mut self, host: Host, input: engine::Input) {
        self.tell_mirror(host, input);
        self.drain(host);
    }

    /// Feeds the authority, then does what the cores ask for.
    pub(crate) fn feed_node(&mut self, host: Host, input: ha::Input) {
        let now = self.now;
        let machine = self.machine(host);
        let local = machine.clock.at(now);
        machine.process().node.handle(local, input);
        self.drain(host);
    }

    pub(super) fn datagram(&mut self, from: Host, to: Host, link: Link, bytes: Vec<u8>) {
        let (start, waiting) = if to == WITNESS {
            let Some(guard) = &self.witness.process else {
                return self.datagram_lost((from, to), &bytes);
            };
            (guard.start, guard.inbox.len())
        } else {
            let Some(process) = &self.machines[to.index()].process else {
                return self.datagram_lost((from, to), &bytes);
            };
            (process.start, process.inbox.len())
        };
        if waiting > SOCKET_DATAGRAMS {
            return self.datagram_lost((from, to), &bytes);
        }
        self.net.traffic.datagram(&bytes, Fate::Delivered);
        self.draw_datagram((from, to), &bytes, Fate::Delivered);
        let delivery = if to == WITNESS {
            let from = ha::witness::PeerAddr(u64::from(from.0));
            Delivery::Witness(ha::witness::Input::Datagram { from, bytes })
        } else {
            Delivery::Node(ha::Input::Datagram {
                link: link_id(link),
                bytes,
            })
        };
        self.deliver(to, start, delivery);
    }

    pub(super) fn session_step(&mut self, step: Step) {
        let up = self.up();
        let Some((party, item)) = self.net.step(self.now, step, up) else {
            return;
        };
        let session = SessionId(step.session);
        let input = match item {
            Item::End => engine::Input::Disconnected { session },
            Item::Frame { header, payload } => {
                self.draw_frame(party.host, &header);
                self.notice_frame(party, &header);
                engine::Input::Frame {
                    session,
                    header,
                    payload,
                }
            }
        };
        self.deliver(party.host, party.start, Delivery::Engine(input));
    }

    fn draw_frame(&mut self, to: Host, header: &[u8]) {
        let lanes = (Lane::of(to.peer()), Lane::of(to));
        let name = || {
            let word = |at: usize| header[at..at + 8].try_into().expect("eight bytes");
            let seq = u64::from_le_bytes(word(16));
            format!("{} {seq}", coverage::frame_name(header))
        };
        if header[6] != Kind::Ping as u8 {
            self.trace.message(self.now, lanes, Fate::Delivered, name);
        }
    }

    /// Remembers the epoch of the frames that a box received and that let it write data (P4): those
    /// of the stream, and the table, after which volumes grow.
    fn notice_frame(&mut self, party: Party, header: &[u8]) {
        let epoch = u64::from_le_bytes(header[8..16].try_into().expect("eight bytes"));
        let is_data = header[6] == Kind::Table as u8 || (16..32).contains(&header[6]);
        if let Some(process) = &mut self.machine(party.host).process
            && process.start == party.start
            && is_data
        {
            process.frame_epoch = epoch;
        }
    }

    /// A disk command ends.
    pub(super) fn disk_done(&mut self, host: Host, volume: u32, ticket: Ticket, start: u32) {
        let now = self.now;
        let Self {
            machines,
            rng,
            counts,
            ..
        } = self;
        let machine: &mut Machine = &mut machines[host.index()];
        let mood = machine.mood;
        let Some(backing) = machine.backings.get_mut(&volume) else {
            return;
        };
        if !backing.disk.holds(ticket) {
            return;
        }
        if mood.hangs_until > now {
            let at = mood.hangs_until.min(now + 50 * MS) + rng.below(MS);
            self.schedule_at(at, Event::Disk(host, volume, ticket, start));
            return;
        }
        if mood.full == Fullness::Room {
            backing.disk.fill_up(None);
        }
        let result = if mood.errors > 0 && rng.chance(mood.errors) {
            counts.add("disk error");
            Err(backing.disk.fail(ticket, rng))
        } else if backing.disk.obstacle(ticket).is_some() {
            let why = backing.disk.stop(ticket, rng);
            counts.add(&format!("disk {why:?}"));
            Err(why)
        } else {
            Ok(backing.disk.complete(ticket))
        };
        if !machine.runs(start) {
            if machine.wants_boot && machine.is_quiet() {
                self.boot(host);
            }
            return;
        }
        let op = machine
            .process()
            .ops
            .remove(&(volume, ticket))
            .expect("a command of this run");
        let input = engine::Input::Done { op, result };
        self.deliver(host, start, Delivery::Engine(input));
    }

    /// The peer's kernel sees a dial.
    pub(super) fn dialled(&mut self, host: Host, start: u32) {
        let to = host.peer();
        let (listening, up) = (
            &self.machines[to.index()].process,
            self.machines[to.index()].up,
        );
        let Some(listener) = listening.as_ref().map(|process| process.start) else {
            let (wait, answer) = if up {
                (self.net.delay(), engine::Input::ConnectRefused)
            } else {
                (100 * MS, engine::Input::ConnectFailed)
            };
            self.schedule(wait, Event::Deliver(host, start, Delivery::Engine(answer)));
            return;
        };
        if !self.machines[host.index()].runs(start) {
            return;
        }
        let delay = self.net.delay();
        let parties = [
            Party { host, start },
            Party {
                host: to,
                start: listener,
            },
        ];
        let session = SessionId(self.net.open(parties, self.now + delay));
        let binding = Binding([session.0.to_le_bytes()[0]; 32]);
        let connected = Delivery::Engine(engine::Input::Connected { session, binding });
        self.schedule(delay, Event::Deliver(host, start, connected));
        let accepted = engine::Input::Accepted { session, binding };
        self.deliver(to, listener, Delivery::Engine(accepted));
    }

    /// A stopped process goes on with everything that waited for it.
    pub(super) fn resume(&mut self, host: Host, start: u32) {
        let now = self.now;
        let waiting = if host == WITNESS {
            let Some(guard) = self.witness.process.as_mut().filter(|g| g.start == start) else {
                return;
            };
            guard.stopped = false;
            std::mem::take(&mut guard.inbox)
        } else {
            let Some(process) = self
                .machine(host)
                .process
                .as_mut()
                .filter(|p| p.start == start)
            else {
                return;
            };
            process.stopped = false;
            process.awake_since = now;
            std::mem::take(&mut process.inbox)
        };
        self.trace.note(now, || {
            format!("{host} resumes, {} inputs waited", waiting.len())
        });
        for event in waiting {
            self.schedule(0, event);
        }
    }

    /// What `data_state` says about promotion, for scripts.
    pub fn attached(&self, host: Host) -> bool {
        let process = self.machines[host.index()].process.as_ref();
        process.is_some_and(|process| process.engine.status().data.attached == Attached::Yes)
    }
}
