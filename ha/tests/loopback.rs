//! Two boxes and a witness over real UDP sockets, clocks and record files, in one process.

#![cfg(feature = "shell")]

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use ha::shell::{Link, NodeDriver, Store, WitnessSetup, now, run_witness};
use ha::{
    Attached, Authority, BootId, DataState, DiskInstance, GroupId, Incarnation, Input, LinkId,
    Members, Node, NodeId, Output, Params, Policy, Role, Status, Timing, VoterInstance, Witness,
    WitnessParams,
};
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

const GROUP: GroupId = GroupId(5);
const KEY: [u8; 32] = [9; 32];
const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const W: NodeId = NodeId(3);

struct Running {
    inputs: UnboundedSender<Input>,
    status: Rc<RefCell<Option<Status>>>,
    task: JoinHandle<()>,
}

impl Running {
    fn role(&self) -> Option<Role> {
        self.status.borrow().as_ref().map(|status| status.role)
    }

    fn voters(&self) -> usize {
        let status = self.status.borrow();
        let config = status.as_ref().and_then(|status| status.config.as_ref());
        config.map_or(0, |config| config.voters.len())
    }
}

struct Sockets {
    links: [UdpSocket; 2],
    witness: UdpSocket,
}

async fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0")
        .await
        .expect("loopback is there")
}

async fn sockets() -> Sockets {
    Sockets {
        links: [socket().await, socket().await],
        witness: socket().await,
    }
}

fn folder(name: &str) -> PathBuf {
    let mut path = std::env::temp_dir();
    path.push(format!("twinsan-ha-loopback-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

/// Answers like an engine whose disk is always ready.
fn act(me: NodeId, inputs: &UnboundedSender<Input>, output: &Output) {
    let tell = |input| drop(inputs.send(input));
    match output {
        Output::Seal { epoch } => tell(Input::Sealed { epoch: *epoch }),
        Output::Authority(Authority::Primary {
            epoch,
            in_sync,
            doubt,
            ..
        }) => {
            tell(Input::Serving { epoch: *epoch });
            if me == A && in_sync.len() == 1 && doubt.is_none() {
                let disk = DiskInstance(2);
                tell(Input::PeerUp {
                    incarnation: Incarnation(2),
                    disk,
                });
                tell(Input::Readmit {
                    epoch: *epoch,
                    peer_disk: disk,
                });
            }
        }
        Output::Start(resource) => {
            tell(Input::Started {
                resource: *resource,
                result: Ok(()),
            });
        }
        Output::Stop(resource) => tell(Input::Stopped {
            resource: *resource,
        }),
        Output::Persist { .. }
        | Output::Send { .. }
        | Output::Lease(_)
        | Output::Authority(_)
        | Output::Handover { .. }
        | Output::HandoverCancelled { .. }
        | Output::Answer { .. }
        | Output::Event(_) => {}
    }
}

fn start(me: NodeId, store: Store, links: Vec<Link>) -> Running {
    let peer = if me == A { B } else { A };
    let record = store
        .load(GROUP)
        .expect("the store works")
        .unwrap_or_else(|| {
            let fresh = || VoterInstance(u128::from(me.0) + 10);
            ha::blank(store.instance(fresh).expect("the store works"))
        });
    let params = Params {
        group: GROUP,
        me,
        peer,
        witness: W,
        incarnation: Incarnation(u128::from(me.0)),
        boot: BootId(u128::from(me.0)),
        key: KEY,
        links: vec![LinkId(0), LinkId(1)],
        witness_link: LinkId(2),
        software: 1,
        seed: u64::from(me.0),
    };
    let (sender, inputs) = unbounded_channel();
    let node = Node::new(params, record, now());
    let driver = NodeDriver {
        node,
        group: GROUP,
        store,
        links,
        inputs,
    };
    let disk = Some(DiskInstance(u128::from(me.0)));
    drop(sender.send(Input::Data(DataState {
        attached: Attached::Yes,
        disk,
        generation: 1,
        cache_lost: false,
    })));
    let status = Rc::new(RefCell::new(None));
    let (shown, answers) = (Rc::clone(&status), sender.clone());
    let task = spawn_local(async move {
        let publish = |now| *shown.borrow_mut() = Some(now);
        let ended = driver
            .run(|output| act(me, &answers, &output), publish)
            .await;
        panic!("{me} ended: {ended:?}");
    });
    Running {
        inputs: sender,
        status,
        task,
    }
}

async fn wait(what: &str, limit: Duration, done: impl Fn() -> bool) -> Duration {
    let start = now().boot;
    while !done() {
        let waited = Duration::from_nanos(now().boot.since_ns(start));
        assert!(waited < limit, "{what} did not happen within {limit:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Duration::from_nanos(now().boot.since_ns(start))
}

/// Both boxes and the witness, just started.
async fn trio() -> (Running, Running) {
    let (a, b, w) = (sockets().await, sockets().await, socket().await);
    let address = |socket: &UdpSocket| socket.local_addr().expect("bound");
    let to_b: Vec<_> = b.links.iter().map(address).collect();
    let to_a: Vec<_> = a.links.iter().map(address).collect();
    let to_w = address(&w);
    let links = |own: Sockets, to: Vec<_>| -> Vec<Link> {
        let ids = [LinkId(0), LinkId(1), LinkId(2)];
        let sockets = own.links.into_iter().chain([own.witness]);
        let ends = to.into_iter().chain([to_w]);
        let parts = ids.into_iter().zip(sockets).zip(ends);
        parts
            .map(|((id, socket), to)| Link { id, socket, to })
            .collect()
    };
    let mut store = Store::open(&folder("a")).expect("a folder");
    let ids = (VoterInstance(11), DiskInstance(1));
    let first = ha::genesis(GROUP, A, ids, Timing::default(), Policy::Witness).expect("valid");
    store.save(GROUP, &first).expect("saved");
    let a = start(A, store, links(a, to_b));
    let b = start(
        B,
        Store::open(&folder("b")).expect("a folder"),
        links(b, to_a),
    );
    let store = Store::open(&folder("w")).expect("a folder");
    let params = WitnessParams {
        me: W,
        instance: store
            .instance(|| VoterInstance(33))
            .expect("the store works"),
        incarnation: Incarnation(3),
        boot: BootId(3),
        keys: vec![(GROUP, KEY)],
    };
    let witness = Witness::new(params, Vec::new(), now());
    let witness = WitnessSetup {
        witness,
        store,
        socket: w,
    };
    spawn_local(async move {
        let ended = run_witness(witness, |_| {}).await;
        panic!("the witness ended: {ended:?}");
    });
    (a, b)
}

async fn story() {
    let (a, b) = trio().await;
    let long = Duration::from_secs(20);
    wait("sync", long, || {
        a.role() == Some(Role::PrimarySync) && a.voters() == 3
    })
    .await;
    let told = || {
        let status = b.status.borrow();
        let config = status.as_ref().and_then(|status| status.config.clone());
        config.is_some_and(|config| config.in_sync == Members::pair(A, B))
    };
    wait("news at the standby", long, told).await;
    let alive = a.inputs.send(Input::Timeout).is_ok();
    assert!(alive && b.role() == Some(Role::Secondary));
    a.task.abort();
    let took = wait("takeover", long, || b.role() == Some(Role::PrimarySolo)).await;
    println!("takeover after {took:?}");
    assert!(
        took >= Duration::from_millis(700),
        "not before the lease is over"
    );
    let serving = || {
        b.status
            .borrow()
            .as_ref()
            .is_some_and(|status| status.serving)
    };
    wait("services", long, serving).await;
    for name in ["a", "b", "w"] {
        let _ = std::fs::remove_dir_all(folder(name));
    }
}

#[test]
fn a_pair_forms_over_loopback_and_the_standby_takes_over() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), story());
}
