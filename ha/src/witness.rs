//! The witness: the acceptor alone, for many groups.

use core::fmt;
use std::collections::{BTreeMap, VecDeque};

use crate::acceptor::{Acceptor, Candidacy, Reply};
use crate::mutants::mutant;
use crate::path::{Arrival, Remote};
use crate::record::{Record, blank};
use crate::types::{
    BootId, Config, GroupId, Incarnation, LinkId, NodeId, Now, PersistId, Time, VoterInstance,
};
use crate::wire::{self, Ack, Header, Message, Proposed};

/// Where a datagram came from; opaque, answers go back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddr(pub u64);

/// Who this witness is.
#[derive(Clone, Debug)]
pub struct WitnessParams {
    /// Its node id in every group.
    pub me: NodeId,
    /// The life of its store (law R10).
    pub instance: VoterInstance,
    /// This start of the daemon; random.
    pub incarnation: Incarnation,
    /// This boot of the kernel.
    pub boot: BootId,
    /// The groups it may serve, with their keys.
    pub keys: Vec<(GroupId, [u8; 32])>,
}

/// One thing that happened to the witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The time that [`Witness::poll_timeout`] named has come.
    Timeout,
    /// Bytes came in; nothing about them is trusted.
    Datagram {
        /// Where from.
        from: PeerAddr,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// That record is durable.
    Persisted {
        /// Of which group.
        group: GroupId,
        /// The `id` of the `Persist`.
        id: PersistId,
    },
}

/// One thing for the witness's shell to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Make the record durable, then answer `Persisted`; one at a time for each group.
    Persist {
        /// Of which group.
        group: GroupId,
        /// To be named in `Persisted`.
        id: PersistId,
        /// What to write.
        record: Box<Record>,
    },
    /// Send a datagram.
    Send {
        /// Where to.
        to: PeerAddr,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// Something an operator would want to know.
    Event(Event),
}

/// Something the operator of a witness would want to know; `Display` is the sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A group admitted this witness.
    Admitted {
        /// The group.
        group: GroupId,
    },
    /// A box of a group is heard for the first time, or its daemon was restarted.
    Heard {
        /// The group.
        group: GroupId,
        /// The box.
        node: NodeId,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admitted { group } => write!(f, "group {:032x} admitted this witness", group.0),
            Self::Heard { group, node } => {
                write!(f, "group {:032x}: {node} is heard", group.0)
            }
        }
    }
}

/// What an operator sees of one group at the witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// The config accepted last; none before the group admitted this witness.
    pub config: Option<Config>,
    /// Each box and when it was last heard, on the boot clock.
    pub boxes: Vec<(NodeId, Option<Time>)>,
}

/// The witness. It never asks for anything: it answers, and everything it promises is durable
/// before it is said. It has no timers, because a lease promise ends by being looked at late.
#[derive(Debug)]
pub struct Witness {
    params: WitnessParams,
    groups: BTreeMap<GroupId, Group>,
    outputs: VecDeque<Output>,
}

/// A reply on its way to the disk.
#[derive(Debug)]
struct Pending {
    to: NodeId,
    link: LinkId,
    message: Message,
}

#[derive(Debug)]
struct Group {
    key: [u8; 32],
    acceptor: Acceptor<Pending>,
    boxes: BTreeMap<NodeId, Caller>,
}

#[derive(Debug)]
struct Caller {
    paths: Remote,
    from: PeerAddr,
}

/// More boxes than this do not speak for one group.
const BOXES_MAX: usize = 4;

impl Witness {
    /// A witness that has just started with the records of its store. A group without a record
    /// gets a blank one, which has no vote until the group admits it (law R10).
    #[must_use]
    pub fn new(params: WitnessParams, records: Vec<(GroupId, Record)>, now: Now) -> Self {
        let mut records: BTreeMap<GroupId, Record> = records.into_iter().collect();
        let groups = params.keys.iter().map(|(id, key)| {
            let kept = records
                .remove(id)
                .filter(|record| record.instance == params.instance);
            let record = kept.unwrap_or_else(|| blank(params.instance));
            let acceptor = Acceptor::new(params.me, *id, record, now);
            (
                *id,
                Group {
                    key: *key,
                    acceptor,
                    boxes: BTreeMap::new(),
                },
            )
        });
        let groups = groups.collect();
        Self {
            params,
            groups,
            outputs: VecDeque::new(),
        }
    }

    /// Takes one input. Never fails.
    pub fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::Timeout => {}
            Input::Datagram { from, bytes } => self.datagram(now, from, &bytes),
            Input::Persisted { group, id } => {
                if let Some(known) = self.groups.get_mut(&group) {
                    known.acceptor.ledger.persisted(id);
                }
                self.flush(now, group);
            }
        }
        for group in self.groups.values() {
            group.acceptor.check();
        }
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] has something to do, on the boot clock: never.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Time> {
        None
    }

    /// What an operator sees.
    #[must_use]
    pub fn status(&self) -> Vec<GroupStatus> {
        let status = |(id, group): (&GroupId, &Group)| GroupStatus {
            group: *id,
            config: group
                .acceptor
                .durable()
                .map(|state| state.accepted.1.clone()),
            boxes: group
                .boxes
                .iter()
                .map(|(node, caller)| (*node, caller.paths.last_seen()))
                .collect(),
        };
        self.groups.iter().map(status).collect()
    }

    fn datagram(&mut self, now: Now, from: PeerAddr, bytes: &[u8]) {
        let Some(id) = wire::claimed_group(bytes) else {
            return;
        };
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        let Ok((header, message)) = wire::decode(&group.key, bytes) else {
            return;
        };
        if header.group != id || header.destination != self.params.me {
            return;
        }
        let source = header.source;
        if !group.boxes.contains_key(&source) && group.boxes.len() >= BOXES_MAX {
            return;
        }
        let new = || Caller {
            paths: Remote::new(source, &[]),
            from,
        };
        let caller = group.boxes.entry(source).or_insert_with(new);
        let before = caller.paths.incarnation();
        match caller
            .paths
            .arrive(now.boot, self.params.incarnation, &header)
        {
            Arrival::Live | Arrival::Restarted => caller.from = from,
            Arrival::Contact => {
                let pending = Pending {
                    to: source,
                    link: header.link,
                    message: Message::Hello,
                };
                let address = (header.incarnation, header.stamp);
                let bytes = group.encode(&self.params, (now, id), address, &pending);
                return self.outputs.push_back(Output::Send { to: from, bytes });
            }
            Arrival::Stale => return,
        }
        if before != Some(header.incarnation) {
            self.outputs.push_back(Output::Event(Event::Heard {
                group: id,
                node: source,
            }));
        }
        self.message(now, &header, message);
        self.flush(now, id);
    }

    fn message(&mut self, now: Now, header: &Header, message: Message) {
        let Some(group) = self.groups.get_mut(&header.group) else {
            return;
        };
        let voted = group.acceptor.votes();
        let acceptor = &mut group.acceptor;
        let reply = match message {
            Message::Heartbeat(heartbeat) => {
                let verdict = acceptor.verdict(now, header, &heartbeat, Candidacy::No);
                let mark = acceptor.durable_mark(header);
                Reply::Now(Message::Ack(Ack {
                    mark,
                    accepted: acceptor.summary(),
                    verdict,
                }))
            }
            Message::Prepare(ballot) => acceptor.prepare(now, header, ballot),
            Message::Accept {
                ballot,
                config,
                next,
                admits,
            } => {
                let config = &*config;
                acceptor.accept(
                    now,
                    header,
                    Proposed {
                        ballot,
                        config,
                        next,
                        admits,
                    },
                )
            }
            Message::Learn { ballot, config } => {
                acceptor.learn(ballot, &config);
                Reply::Silence
            }
            Message::Hello
            | Message::Ack(_)
            | Message::Promise { .. }
            | Message::Accepted { .. }
            | Message::Nack { .. } => Reply::Silence,
        };
        let pending = |message| Pending {
            to: header.source,
            link: header.link,
            message,
        };
        match reply {
            Reply::Durable(message) if !mutant!(ReplyBeforePersist) => {
                acceptor.ledger.after(pending(message));
            }
            Reply::Now(message) | Reply::Durable(message) => {
                let pending = pending(message);
                self.send(now, header.group, &pending);
            }
            Reply::Silence => {}
        }
        let admitted = self
            .groups
            .get(&header.group)
            .is_some_and(|it| it.acceptor.votes());
        if admitted && !voted {
            self.outputs.push_back(Output::Event(Event::Admitted {
                group: header.group,
            }));
        }
    }

    fn send(&mut self, now: Now, id: GroupId, pending: &Pending) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        let Some(caller) = group.boxes.get(&pending.to) else {
            return;
        };
        let (to, address) = (caller.from, caller.paths.address());
        let bytes = group.encode(&self.params, (now, id), address, pending);
        self.outputs.push_back(Output::Send { to, bytes });
    }

    fn flush(&mut self, now: Now, id: GroupId) {
        while let Some(pending) = self
            .groups
            .get_mut(&id)
            .and_then(|group| group.acceptor.ledger.ready())
        {
            self.send(now, id, &pending);
        }
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if let Some((persist, record)) = group.acceptor.ledger.persist() {
            let record = Box::new(record);
            self.outputs.push_back(Output::Persist {
                group: id,
                id: persist,
                record,
            });
        }
    }
}

impl Group {
    fn encode(
        &mut self,
        params: &WitnessParams,
        at: (Now, GroupId),
        address: (Incarnation, Time),
        pending: &Pending,
    ) -> Vec<u8> {
        let caller = self
            .boxes
            .get_mut(&pending.to)
            .expect("replies go to a caller");
        let header = Header {
            group: at.1,
            source: params.me,
            destination: pending.to,
            link: pending.link,
            incarnation: params.incarnation,
            boot: params.boot,
            destination_incarnation: address.0,
            seq: caller.paths.next_seq(pending.link),
            stamp: at.0.boot,
            echo: address.1,
        };
        wire::encode(&self.key, &header, &pending.message)
    }
}
