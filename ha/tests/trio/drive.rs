//! What happens in the world: events fall due, cores handle them, their outputs become events.

use ha::node::{Event, OperatorCommand};
use ha::types::Reason;
use ha::wire::Message;
use ha::witness;
use ha::{Authority, Input, Lease, LinkId, NodeId, Output, PeerAddr, PersistId, Record};

use crate::engine::{self, Engine, Frame, Reaction};
use crate::world::{A, B, Body, DATA_LINK, Due, GROUP, Item, KEY, MS, Trio, W, WITNESS_LINK};

impl Trio {
    fn push(&mut self, at: u64, due: Due) {
        self.order += 1;
        self.queue.push(Item {
            at: at.max(self.now),
            order: self.order,
            due,
        });
    }

    /// Runs for `ms` of true time.
    pub(crate) fn run(&mut self, ms: u64) {
        let _ = self.run_until(ms, |_| false);
    }

    /// Runs until the condition holds; false if it did not within `ms`.
    pub(crate) fn run_until(&mut self, ms: u64, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + ms * MS;
        loop {
            if done(self) {
                return true;
            }
            match self.queue.peek() {
                Some(item) if item.at <= end => {}
                Some(_) | None => break,
            }
            let item = self.queue.pop().unwrap();
            self.now = self.now.max(item.at);
            self.fire(item.due);
            self.delivered += 1;
            self.look();
        }
        self.now = end;
        self.look();
        done(self)
    }

    pub(crate) fn fire(&mut self, due: Due) {
        let node = due.node();
        let machine = self.machines.get_mut(&node).unwrap();
        if machine.stopped {
            return machine.waiting.push(due);
        }
        if matches!(machine.body, Body::Off) {
            return;
        }
        match due {
            Due::Datagram {
                from,
                to,
                link,
                bytes,
            } => match machine.body {
                Body::Witness(_) => {
                    let from = PeerAddr(u64::from(from.0));
                    self.witness(witness::Input::Datagram { from, bytes });
                }
                Body::Box(..) => self.input(to, Input::Datagram { link, bytes }),
                Body::Off => {}
            },
            Due::Persisted { node, process, id } => {
                if machine.process != process {
                    return;
                }
                if let Some((_, bytes)) = machine.writing.take_if(|writing| writing.0 == id) {
                    self.oracle.record(node, &Record::decode(&bytes).unwrap());
                    machine.record = bytes;
                }
                if node == W {
                    self.witness(witness::Input::Persisted { group: GROUP, id });
                } else {
                    self.input(node, Input::Persisted { id });
                }
            }
            Due::Wake { node } => self.wake(node),
            Due::Frame { from, to, frame } => self.frame(from, to, frame),
            Due::Engine {
                node,
                process,
                reaction,
            } => {
                if machine.process == process {
                    self.react(node, reaction);
                }
            }
        }
    }

    pub(crate) fn wake(&mut self, node: NodeId) {
        let now = self.clock(node);
        let Body::Box(core, _) = &self.machines[&node].body else {
            return;
        };
        if core.poll_timeout().is_some_and(|at| at <= now.boot) {
            self.input(node, Input::Timeout);
        } else {
            self.arm(node);
        }
    }

    fn arm(&mut self, node: NodeId) {
        let Body::Box(core, _) = &self.machines[&node].body else {
            return;
        };
        if let Some(at) = core.poll_timeout() {
            let at = self.true_time(node, at);
            self.push(at, Due::Wake { node });
        }
    }

    pub(crate) fn input(&mut self, node: NodeId, input: Input) {
        let now = self.clock(node);
        let Body::Box(core, _) = &mut self.machines.get_mut(&node).unwrap().body else {
            return;
        };
        core.handle(now, input);
        core.check_full();
        self.drain(node);
        self.arm(node);
    }

    pub(crate) fn switchover(&mut self, node: NodeId, id: u64) {
        let command = OperatorCommand::Switchover { to: None };
        self.input(node, Input::Operator { id, command });
    }

    /// An operator forces a start of `node` and has typed what it costs.
    pub(crate) fn force(&mut self, node: NodeId, id: u64) {
        let command = OperatorCommand::Force;
        self.input(node, Input::Operator { id, command });
    }

    pub(crate) fn answer(&self, node: NodeId, id: u64) -> Option<Result<(), String>> {
        let answers = &self.machines[&node].answers;
        answers
            .iter()
            .find(|answer| answer.0 == id)
            .map(|answer| answer.1.clone())
    }

    fn witness(&mut self, input: witness::Input) {
        let now = self.clock(W);
        let machine = self.machines.get_mut(&W).unwrap();
        let Body::Witness(witness) = &mut machine.body else {
            return;
        };
        witness.handle(now, input);
        let mut outputs = Vec::new();
        while let Some(output) = witness.poll_output() {
            outputs.push(output);
        }
        for output in outputs {
            match output {
                witness::Output::Persist { id, record, .. } => self.persist(W, id, &record),
                witness::Output::Send { to, bytes } => {
                    let to = NodeId(u8::try_from(to.0).unwrap());
                    self.transmit(W, to, WITNESS_LINK, bytes);
                }
                witness::Output::Event(event) => {
                    let text = event.to_string();
                    self.note(W, text);
                }
            }
        }
    }

    fn note(&mut self, node: NodeId, text: String) {
        if self.trace {
            println!("{:>9.3} ms {node}: {text}", self.now as f64 / 1e6);
        }
        let now = self.now;
        self.machines
            .get_mut(&node)
            .unwrap()
            .events
            .push((now, text));
    }

    fn persist(&mut self, node: NodeId, id: PersistId, record: &Record) {
        let usual = 100 + self.random.below(self.weather.fsync_max_us);
        let delay = self.machines[&node].fsync_us.unwrap_or(usual);
        let at = self.now + delay * 1000;
        let machine = self.machines.get_mut(&node).unwrap();
        assert!(machine.writing.is_none(), "one persist at a time");
        let process = machine.process;
        machine.writing = Some((id, record.encode()));
        self.push(at, Due::Persisted { node, process, id });
    }

    fn delay(&mut self) -> u64 {
        let weather = self.weather;
        let spread = weather.delay_max_us - weather.delay_min_us;
        (weather.delay_min_us + self.random.below(spread)) * 1000
    }

    /// Law R0: no ballot leaves twice, nor before its counter is durable at its proposer.
    fn check_ballot(&mut self, from: NodeId, bytes: &[u8]) {
        let process = self.machines[&from].process;
        let ballot = match ha::wire::decode(&KEY, bytes).unwrap().1 {
            Message::Prepare(ballot) => {
                self.oracle.left(ballot, process, None);
                ballot
            }
            Message::Accept {
                ballot,
                config,
                next,
                ..
            } => {
                self.oracle.left(ballot, process, Some(&config));
                if let Some(next) = next {
                    self.oracle.left(next, process, None);
                }
                next.unwrap_or(ballot).max(ballot)
            }
            Message::Hello
            | Message::Heartbeat(_)
            | Message::Ack(_)
            | Message::Promise { .. }
            | Message::Accepted { .. }
            | Message::Nack { .. }
            | Message::Learn { .. } => return,
        };
        let durable = self.record(from).group.map_or(0, |state| state.counter);
        assert!(
            ballot.counter <= durable,
            "{ballot:?} left before it was durable at {from}"
        );
    }

    /// Puts a datagram on the wire.
    pub(crate) fn transmit(&mut self, from: NodeId, to: NodeId, link: LinkId, bytes: Vec<u8>) {
        if bytes[7] == 4 || bytes[7] == 6 {
            self.check_ballot(from, &bytes);
        }
        if let Some(hold) = self.hold {
            let (_, message) = ha::wire::decode(&KEY, &bytes).unwrap();
            if hold(from, to, &message) {
                return self.held_back.push((from, to, link, bytes));
            }
        }
        if self.trace {
            let (_, message) = ha::wire::decode(&KEY, &bytes).unwrap();
            if !matches!(message, Message::Heartbeat(_) | Message::Ack(_)) {
                println!(
                    "{:>9.3} ms {from} -> {to}: {message:?}",
                    self.now as f64 / 1e6
                );
            }
        }
        let cut = self.cut.contains(&(from, to)) || self.cut_links.contains(&(from, to, link));
        if cut || self.random.percent(self.weather.loss_percent) {
            return;
        }
        if self.random.percent(self.weather.duplicate_percent) {
            let at = self.now + self.delay();
            self.push(
                at,
                Due::Datagram {
                    from,
                    to,
                    link,
                    bytes: bytes.clone(),
                },
            );
        }
        let at = self.now + self.delay();
        self.push(
            at,
            Due::Datagram {
                from,
                to,
                link,
                bytes,
            },
        );
    }

    /// Delivers what was held back, now.
    pub(crate) fn release(&mut self) {
        self.hold = None;
        for (from, to, link, bytes) in std::mem::take(&mut self.held_back) {
            self.push(
                self.now,
                Due::Datagram {
                    from,
                    to,
                    link,
                    bytes,
                },
            );
        }
    }

    pub(crate) fn drain(&mut self, node: NodeId) {
        loop {
            let machine = self.machines.get_mut(&node).unwrap();
            let Body::Box(core, _) = &mut machine.body else {
                return;
            };
            let Some(output) = core.poll_output() else {
                return;
            };
            self.output(node, output);
        }
    }

    fn output(&mut self, node: NodeId, output: Output) {
        if self.trace {
            match &output {
                Output::Send { .. } | Output::Lease(Lease::Until(_)) | Output::Event(_) => {}
                other @ (Output::Persist { .. }
                | Output::Lease(_)
                | Output::Seal { .. }
                | Output::Authority(_)
                | Output::Handover { .. }
                | Output::HandoverCancelled { .. }
                | Output::Start(_)
                | Output::Stop(_)
                | Output::Answer { .. }) => {
                    let text = format!("{other:?}");
                    println!("{:>9.3} ms {node}: {text:.150}", self.now as f64 / 1e6);
                }
            }
        }
        match output {
            Output::Persist { id, record } => self.persist(node, id, &record),
            Output::Send { to, link, bytes } => self.transmit(node, to, link, bytes),
            Output::Start(resource) => {
                let machine = self.machines.get_mut(&node).unwrap();
                let broken = machine.broken == Some(resource);
                if !broken {
                    machine.started.push(resource);
                }
                let result = if broken {
                    Err(String::from("broken"))
                } else {
                    Ok(())
                };
                let input = Reaction::Input(Box::new(Input::Started { resource, result }));
                self.later(node, 1_000, input);
            }
            Output::Stop(resource) => {
                let machine = self.machines.get_mut(&node).unwrap();
                machine.started.retain(|started| *started != resource);
                let input = Reaction::Input(Box::new(Input::Stopped { resource }));
                self.later(node, 1_000, input);
            }
            Output::Answer { id, result } => {
                self.machines
                    .get_mut(&node)
                    .unwrap()
                    .answers
                    .push((id, result.map_err(|refused| refused.to_string())));
            }
            Output::Event(event) => {
                if let Event::Chosen { config } = &event {
                    self.oracle.known(node, config);
                    if config.reason == Reason::Force {
                        self.oracle
                            .begins(config.epoch, &self.machines[&node].disk.log);
                    }
                }
                self.note(node, event.to_string());
            }
            Output::Lease(lease) => self.with_engine(node, |engine, _| engine.lease = lease),
            Output::Seal { epoch } => self.with_engine(node, |engine, _| engine.seal(epoch)),
            Output::Authority(authority) => self.give_authority(node, authority),
            Output::Handover { id, .. } => {
                self.with_engine(node, |engine, _| engine.handover(id));
            }
            Output::HandoverCancelled { id } => {
                self.with_engine(node, |engine, _| engine.cancelled(id));
            }
        }
    }

    fn give_authority(&mut self, node: NodeId, authority: Authority) {
        let config = self.node(node).status().config;
        let given = config.filter(|config| config.reason == Reason::Detach);
        self.with_engine(node, |engine, disk| {
            if let Some(config) = given {
                engine.seal_done(config.epoch); // a real one waits before it serves
            }
            engine.authority(authority, disk);
        });
    }

    /// Calls the engine, then sees to what it wants.
    fn with_engine(&mut self, node: NodeId, call: impl FnOnce(&mut Engine, &mut engine::Disk)) {
        let now = self.clock(node).boot;
        let machine = self.machines.get_mut(&node).unwrap();
        let Body::Box(_, engine) = &mut machine.body else {
            return;
        };
        engine.now = now;
        call(engine, &mut machine.disk);
        let reactions = engine.take_reactions();
        for (delay_us, reaction) in reactions {
            self.later(node, delay_us, reaction);
        }
        self.settle_writes(node);
    }

    fn settle_writes(&mut self, node: NodeId) {
        let machine = self.machines.get_mut(&node).unwrap();
        let Body::Box(_, engine) = &mut machine.body else {
            return;
        };
        for write in engine.take_acknowledged() {
            self.oracle
                .acknowledged(node, write, &machine.disk.log, (self.now, engine.epoch()));
        }
    }

    fn later(&mut self, node: NodeId, delay_us: u64, reaction: Reaction) {
        let process = self.machines[&node].process;
        let at = self.now + delay_us * 1000;
        self.push(
            at,
            Due::Engine {
                node,
                process,
                reaction,
            },
        );
    }

    fn react(&mut self, node: NodeId, reaction: Reaction) {
        match reaction {
            Reaction::Input(input) => {
                if let Input::Sealed { epoch } = *input {
                    self.with_engine(node, |engine, _| engine.seal_done(epoch));
                }
                self.input(node, *input);
            }
            Reaction::Tick => self.tick(node),
            Reaction::Send(frame) => {
                let to = if node == A { B } else { A };
                let cut = self.cut.contains(&(node, to))
                    || self.cut_links.contains(&(node, to, DATA_LINK));
                // TCP: no loss, no reordering; what is lost in a cut ends the session.
                if cut {
                    self.broken.insert(frame.session());
                }
                if !self.broken.contains(&frame.session()) {
                    let at = self.now + 200_000;
                    self.push(
                        at,
                        Due::Frame {
                            from: node,
                            to,
                            frame,
                        },
                    );
                }
            }
        }
    }

    fn tick(&mut self, node: NodeId) {
        let write = self.random.next();
        self.with_engine(node, |engine, disk| engine.tick(write, disk));
        let now = self.clock(node).boot;
        let machine = self.machines.get_mut(&node).unwrap();
        let Body::Box(_, engine) = &mut machine.body else {
            return;
        };
        if engine.may_read(now) {
            let at = (self.now, engine.epoch());
            self.oracle.read(node, &machine.disk.log, at);
        }
    }

    fn frame(&mut self, from: NodeId, to: NodeId, frame: Frame) {
        let _ = from;
        self.with_engine(to, |engine, disk| engine.frame(frame, disk));
    }

    /// The oracle looks at the whole after every event.
    fn look(&mut self) {
        let mut leases = Vec::new();
        let mut alone = Vec::new();
        for node in [A, B] {
            let now = self.clock(node).boot;
            if let Body::Box(_, engine) = &self.machines[&node].body {
                // Of one lineage: a forced start is another array (law R9).
                let lineage = engine.epoch().lineage();
                if engine.may_read(now) {
                    assert!(
                        !leases.contains(&lineage),
                        "two leases: {}",
                        self.describe()
                    );
                    leases.push(lineage);
                }
                if engine.needs_only_itself() {
                    assert!(!alone.contains(&lineage), "two alone: {}", self.describe());
                    alone.push(lineage);
                }
            }
        }
    }
}
