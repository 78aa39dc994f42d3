//! The control thread: the authority of this box. It never waits for a disk or a lock; what it
//! decides reaches the mirror through `wiring`, in order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use ha::node::{Authority, OperatorCommand, Refused};
use ha::shell::{Link, NodeDriver, Store};
use ha::{Input, Node, Output, Params};
use replication::shell::LeaseCell;
use replication::types::CopyMark;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;

use crate::api::types::Refusal;
use crate::config::NodeConfig;
use crate::data::Order;
use crate::events::EventLog;
use crate::identity::{self, Identity, WITNESS, WITNESS_NAME};
use crate::membership::Pair;
use crate::runtime::{self, Ran, Ready};
use crate::wiring;

/// What an operator asks the authority for, with boxes by name.
pub(crate) enum Wish {
    /// The primary role moves; to the peer if no box is named.
    Switchover { to: Option<String> },
    /// This box is primary, whatever it costs; the cost was typed.
    ForcePrimary { confirm: Option<String> },
    /// A box or the witness is no voter any more.
    RemoveVoter { node: String },
}

/// A wish, with the way back.
pub(crate) type OperatorAsked = (Wish, oneshot::Sender<Result<String, Refusal>>);

/// What the thread is made of.
pub(crate) struct Setup {
    /// This box.
    pub(crate) config: NodeConfig,
    /// This process.
    pub(crate) identity: Identity,
    /// The group and its key.
    pub(crate) pair: Pair,
    /// The lease, read by the data thread.
    pub(crate) lease: LeaseCell,
    /// What the data thread reports.
    pub(crate) inputs: mpsc::UnboundedReceiver<Input>,
    /// What operators ask for.
    pub(crate) operator: mpsc::Receiver<OperatorAsked>,
    /// Orders to the data thread.
    pub(crate) orders: mpsc::UnboundedSender<Order>,
    /// Events of this box.
    pub(crate) events: Arc<EventLog>,
}

/// The running thread.
pub(crate) struct Control {
    /// The seal in the record when it was loaded (law R3).
    pub(crate) seal: u64,
    /// The newest state of this box's copy in it (law D7).
    pub(crate) newest: Option<CopyMark>,
    /// The group's times in that record; the usual ones for a box that no group has admitted yet.
    pub(crate) timing: ha::Timing,
    /// What the authority says of itself.
    pub(crate) status: watch::Receiver<ha::Status>,
}

/// Loads the record, binds the links, starts the thread.
///
/// # Errors
/// A sentence for operators.
pub(crate) fn start(setup: Setup) -> Result<Control, String> {
    let group = ha::GroupId(setup.pair.group.as_u128());
    let store = Store::open(&setup.config.state).map_err(|error| error.to_string())?;
    let record = match store.load(group).map_err(|error| error.to_string())? {
        Some(record) => record,
        None => blank(&store)?,
    };
    let state = record.group.as_ref();
    let seal = state.map_or(0, |state| state.seal.0);
    let timing = state.map_or_else(ha::Timing::default, |state| state.accepted.1.timing);
    let newest = wiring::newest_copy(&record);
    let node = Node::new(params(&setup)?, record, ha::shell::now());
    let (status_in, status) = watch::channel(node.status());
    runtime::thread("control", 1, move |event_loop, ready| {
        let running = run(setup, node, store, status_in, ready);
        LocalSet::new().block_on(event_loop, running)
    })?;
    Ok(Control {
        seal,
        newest,
        timing,
        status,
    })
}

/// The record of a box that belongs to no group yet: it has no vote until it is admitted.
fn blank(store: &Store) -> Result<ha::Record, String> {
    let fresh = ha::VoterInstance(identity::random()?);
    let instance = store
        .instance(|| fresh)
        .map_err(|error| error.to_string())?;
    Ok(ha::record::blank(instance))
}

fn params(setup: &Setup) -> Result<Params, String> {
    let Setup {
        config,
        identity,
        pair,
        ..
    } = setup;
    Ok(Params {
        group: ha::GroupId(pair.group.as_u128()),
        me: ha::NodeId(identity.me),
        peer: ha::NodeId(identity.peer),
        witness: ha::NodeId(WITNESS),
        incarnation: ha::Incarnation(identity.incarnation),
        boot: ha::BootId(identity.boot),
        key: pair.key,
        links: config
            .numbered_links()
            .map(|(id, _)| ha::LinkId(id))
            .collect(),
        witness_link: ha::LinkId(config.witness_link()),
        software: software(),
        seed: u64::try_from(identity::random()? >> 64).expect("the upper half"),
    })
}

/// The version of this program as one number, for the gate of a planned switch.
fn software() -> u32 {
    let parts = env!("CARGO_PKG_VERSION").split(['.', '-']).take(3);
    parts
        .filter_map(|part| part.parse::<u32>().ok())
        .fold(0, |all, part| all * 1000 + part)
}

/// A socket for each link, and one for the witness.
async fn bind(config: &NodeConfig) -> Result<Vec<Link>, String> {
    let mut links = Vec::new();
    for (id, link) in config.numbered_links() {
        let own = SocketAddr::new(link.address, config.ports.heartbeat);
        let socket = UdpSocket::bind(own).await.map_err(|error| {
            format!(
                "cannot listen for heartbeats on {own} (link {}): {error}; see that the address \
                 is this box's and the port is free",
                link.name
            )
        })?;
        let to = SocketAddr::new(link.peer, config.ports.heartbeat);
        links.push(Link {
            id: ha::LinkId(id),
            socket,
            to,
        });
    }
    let to = SocketAddr::new(config.witness, config.ports.witness);
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).await.map_err(|error| {
        format!(
            "cannot make a socket to the witness {to}: {error}; see that this box can use \
             addresses of that kind (IPv4 or IPv6), or raise the limit of open files (`ulimit -n`)"
        )
    })?;
    let id = config.witness_link();
    links.push(Link {
        id: ha::LinkId(id),
        socket,
        to,
    });
    Ok(links)
}

async fn run(
    setup: Setup,
    node: Node,
    store: Store,
    status: watch::Sender<ha::Status>,
    ready: Ready,
) -> Ran {
    let group = ha::GroupId(setup.pair.group.as_u128());
    let links = match bind(&setup.config).await {
        Ok(links) => links,
        Err(why) => {
            drop(ready.send(Err(why)));
            return Ran::No;
        }
    };
    let (all_in, inputs) = mpsc::unbounded_channel();
    let (asked_in, mut asked) = mpsc::unbounded_channel();
    tokio::task::spawn_local(forward(setup.inputs, all_in.clone()));
    tokio::task::spawn_local(ask(
        setup.operator,
        setup.config.clone(),
        setup.identity,
        all_in,
        asked_in,
    ));
    let mut acting = Acting {
        lease: setup.lease,
        orders: setup.orders,
        events: setup.events,
        config: setup.config,
        identity: setup.identity,
        waiting: BTreeMap::new(),
        forced: None,
    };
    if ready.send(Ok(())).is_err() {
        return Ran::No;
    }
    let driver = NodeDriver {
        node,
        group,
        store,
        links,
        inputs,
    };
    let publish = move |now: ha::Status| drop(status.send_replace(now));
    let ended = driver
        .run(
            |output| {
                while let Ok((id, answer)) = asked.try_recv() {
                    acting.waiting.insert(id, answer);
                }
                acting.act(output);
            },
            publish,
        )
        .await;
    if let Err(error) = ended {
        tracing::error!("the control thread ends: {error}");
    }
    Ran::Yes
}

async fn forward(mut from: mpsc::UnboundedReceiver<Input>, to: mpsc::UnboundedSender<Input>) {
    while let Some(input) = from.recv().await {
        if to.send(input).is_err() {
            return;
        }
    }
}

/// What was asked for, and the way back.
type Waiting = (OperatorCommand, oneshot::Sender<Result<String, Refusal>>);

/// Gives operators' questions numbers; the answer's way back goes first.
async fn ask(
    mut operator: mpsc::Receiver<OperatorAsked>,
    config: NodeConfig,
    identity: Identity,
    inputs: mpsc::UnboundedSender<Input>,
    asked: mpsc::UnboundedSender<(u64, Waiting)>,
) {
    let mut used = 0;
    while let Some((wish, answer)) = operator.recv().await {
        let command = match command(&wish, &config, identity) {
            Ok(command) => command,
            Err(refusal) => {
                drop(answer.send(Err(refusal)));
                continue;
            }
        };
        used += 1;
        if asked.send((used, (command, answer))).is_err()
            || inputs.send(Input::Operator { id: used, command }).is_err()
        {
            return;
        }
    }
}

/// A wish with numbers for names.
fn command(wish: &Wish, config: &NodeConfig, own: Identity) -> Result<OperatorCommand, Refusal> {
    let (me, peer) = (&config.node, &config.peer);
    let a_box = |name: &String| {
        let known = [(me, own.me), (peer, own.peer)];
        let found = known.into_iter().find(|known| known.0 == name);
        found.map(|(_, node)| ha::NodeId(node))
    };
    let unknown = |what: String| Refusal::usage(format!("{what} {me} and {peer}"));
    match wish {
        Wish::Switchover { to: None } => Ok(OperatorCommand::Switchover { to: None }),
        Wish::Switchover { to: Some(name) } => a_box(name)
            .map(|to| OperatorCommand::Switchover { to: Some(to) })
            .ok_or_else(|| unknown(format!("there is no box {name}; the boxes are"))),
        Wish::ForcePrimary { confirm } => {
            if confirm.as_ref() == Some(&cost(peer)) {
                Ok(OperatorCommand::Force)
            } else {
                Err(Refusal::safety(price(me, peer)))
            }
        }
        Wish::RemoveVoter { node } => a_box(node)
            .or_else(|| (node == WITNESS_NAME).then_some(ha::NodeId(WITNESS)))
            .map(|node| OperatorCommand::RemoveVoter { node })
            .ok_or_else(|| unknown(format!("{node} is no voter; the voters are witness,"))),
    }
}

/// What an operator types to force a start: its consequence (law R9).
fn cost(peer: &str) -> String {
    format!("lose what only {peer} has")
}

/// What a forced start costs, for who has not typed it.
fn price(me: &str, peer: &str) -> String {
    format!(
        "nothing was changed. Start {peer} or the witness if you can: then nothing is lost. A \
         forced start makes {me} serve what it has: what {me} missed, or got only a part of, is \
         gone for the hosts, and they go on from older data. {peer} and the witness must stay off \
         until they can reach {me}: a box that serves at the same time writes another array, and \
         two that were both written are never merged. If that is meant, type on this box: twinsan \
         force-primary --confirm \"{}\"",
        cost(peer)
    )
}

/// What the node's outputs do to the rest of the box.
struct Acting {
    lease: LeaseCell,
    orders: mpsc::UnboundedSender<Order>,
    events: Arc<EventLog>,
    config: NodeConfig,
    identity: Identity,
    waiting: BTreeMap<u64, Waiting>,
    /// What the last forced start said.
    forced: Option<String>,
}

impl Acting {
    fn act(&mut self, output: Output) {
        if let Output::Lease(lease) = &output {
            // Law R5: seen by the data thread before the promise that ends it can leave.
            self.lease.set(wiring::lease_of(*lease));
            return;
        }
        if let Some(input) = wiring::to_mirror(&output) {
            self.order(Order::Mirror(input));
        }
        match output {
            Output::Authority(Authority::Secondary { .. }) => self.order(Order::DropSessions),
            Output::Authority(Authority::Primary { epoch, .. }) => {
                self.order(Order::Serve(epoch.0));
            }
            Output::Start(resource) => self.order(Order::Start(resource)),
            Output::Stop(resource) => self.order(Order::Stop(resource)),
            Output::Answer { id, result } => self.answer(id, result),
            Output::Event(event) => self.tell(&event),
            Output::Handover { .. } => self.order(Order::Depart),
            Output::HandoverCancelled { .. } => self.order(Order::Stay),
            Output::Persist { .. }
            | Output::Send { .. }
            | Output::Lease(_)
            | Output::Seal { .. } => {}
        }
    }

    fn order(&self, order: Order) {
        // The data thread ends the process when it ends; nothing is left to order then.
        let _ = self.orders.send(order);
    }

    fn answer(&mut self, id: u64, result: Result<(), Refused>) {
        let Some((command, answer)) = self.waiting.remove(&id) else {
            return;
        };
        let (done, stays) = match command {
            OperatorCommand::Switchover { .. } => (
                format!("done: {} is primary now", self.config.peer),
                "the role did not move",
            ),
            OperatorCommand::Force => (
                self.forced.take().map_or_else(
                    || {
                        format!(
                            "done: {} is primary by a vote; nothing is lost",
                            self.config.node
                        )
                    },
                    |what| format!("done: {} is primary, {what}", self.config.node),
                ),
                "nothing was forced",
            ),
            OperatorCommand::RemoveVoter { node } => (
                format!("done: {node} is no voter any more; when it runs it is admitted again"),
                "no voter was removed",
            ),
        };
        let named = |text: &str| self.identity.named(&self.config, text);
        let result = result.map(|()| named(&done)).map_err(|refused| {
            let why = format!("{stays}: {}", named(&refused.to_string()));
            match refused {
                Refused::Unfit(_) => Refusal::failed(why),
                Refused::Unsafe(_) => Refusal::safety(why),
            }
        });
        drop(answer.send(result));
    }

    fn tell(&mut self, event: &ha::Event) {
        if matches!(event, ha::Event::Forced { .. }) {
            self.forced = Some(event.to_string());
        }
        if matches!(event, ha::Event::PeerHeard) {
            self.order(Order::Announce);
        }
        self.events.add(self.identity.told(&self.config, event));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn asked(wish: &Wish) -> Result<OperatorCommand, Refusal> {
        let file = r#"
node = "alpha"
peer = "beta"
state = "state"
api = "api.sock"
pool = { path = "pool" }
witness = { address = "10.0.0.3" }
link = [{ name = "l", address = "10.0.0.1", peer = "10.0.0.2", role = "replication" }]
"#;
        let config = NodeConfig::of_text(Path::new("node.toml"), file).expect("a good file");
        let own = Identity {
            me: 1,
            peer: 2,
            incarnation: 0,
            boot: 0,
        };
        command(wish, &config, own)
    }

    #[test]
    fn members_are_asked_for_by_name() {
        let remove = |name: &str| {
            asked(&Wish::RemoveVoter {
                node: name.to_owned(),
            })
        };
        for (name, node) in [("alpha", 1), ("beta", 2), ("witness", WITNESS)] {
            let node = ha::NodeId(node);
            assert_eq!(remove(name), Ok(OperatorCommand::RemoveVoter { node }));
        }
        let refused = remove("gamma").expect_err("nobody has that name");
        assert_eq!(refused.exit_code(), 2);
        assert!(
            refused.message.contains("witness, alpha and beta"),
            "{refused}"
        );
        let move_to = |to: Option<&str>| {
            asked(&Wish::Switchover {
                to: to.map(str::to_owned),
            })
        };
        let to = Some(ha::NodeId(2));
        assert_eq!(
            move_to(Some("beta")),
            Ok(OperatorCommand::Switchover { to })
        );
        assert_eq!(move_to(None), Ok(OperatorCommand::Switchover { to: None }));
        assert!(move_to(Some("witness")).is_err(), "it has no data");
    }

    /// Law R9: nothing is forced before its consequence was typed, and the refusal says all of it.
    #[test]
    fn r9_a_forced_start_wants_its_consequence_typed() {
        let force = |confirm: Option<&str>| {
            asked(&Wish::ForcePrimary {
                confirm: confirm.map(str::to_owned),
            })
        };
        for wrong in [
            None,
            Some(""),
            Some("yes"),
            Some("lose what only alpha has"),
        ] {
            let refused = force(wrong).expect_err("not the consequence");
            assert_eq!(refused.exit_code(), 3);
            for part in [
                "nothing was changed",
                "Start beta or the witness",
                "beta and the witness must stay off until they can reach alpha",
                "never merged",
                "--confirm \"lose what only beta has\"",
            ] {
                assert!(refused.message.contains(part), "{refused}");
            }
        }
        let typed = force(Some("lose what only beta has"));
        assert_eq!(typed, Ok(OperatorCommand::Force));
    }
}
