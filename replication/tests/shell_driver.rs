//! Whole boxes on loopback: drivers with real engines, disks and sockets in one process.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod shell_support;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use replication::engine::{
    Attached, Authority, Command, CommandError, Completed, Event, Input, Lease, Limits, Params,
};
use replication::meta;
use replication::shell::{
    DriverConfig, Handle, Identity, IoChoice, LeaseCell, LinkConfig, Path, Pool, Tls, VolatileDisk,
    boot_time, open_disk, start,
};
use replication::types::{
    BootId, DiskInstance, Epoch, Fua, GroupId, Incarnation, Members, NodeId, VolumeNumber,
    VolumeSpec,
};
use shell_support::{Folder, Rng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::LocalSet;

const LIMIT: Duration = Duration::from_secs(30);
const VOLUME: VolumeNumber = VolumeNumber(1);
const SIZE: u64 = 8 << 20;

/// One running box and what it said.
struct Node {
    handle: Handle,
    lease: LeaseCell,
    events: Rc<RefCell<Vec<Event>>>,
    news: Rc<Notify>,
    pool: Pool,
}

/// What a box is started with.
struct Setup {
    id: u8,
    incarnation: u128,
    listener: TcpListener,
    peer: SocketAddr,
    tls: Option<Tls>,
}

impl Node {
    fn start(folder: &Folder, setup: Setup) -> Self {
        let Setup {
            id,
            incarnation,
            listener,
            peer,
            tls,
        } = setup;
        let params = Params {
            group: GroupId(77),
            me: NodeId(id),
            peer: NodeId(3 - id),
            incarnation: Incarnation(incarnation),
            boot: BootId(u128::from(id)),
            key: [9; 32],
            nonce_seed: u64::from(id) + 40,
            fresh_disk: DiskInstance(incarnation + 1000),
            peer_loss_ms: 500,
            limits: Limits::default(),
        };
        let pool = Pool::open(folder.file(&format!("pool{id}"))).unwrap();
        let disk = open_disk(IoChoice::Auto).unwrap();
        let lease = LeaseCell::new();
        let config = DriverConfig {
            params,
            seal: Epoch::ZERO,
            newest: None,
            pool: pool.clone(),
            disk: Box::new(VolatileDisk::new(disk, u64::from(id))),
            link: LinkConfig {
                paths: vec![Path {
                    listener,
                    peer,
                    from: None,
                    tls,
                }],
            },
            lease: lease.clone(),
        };
        let events = Rc::new(RefCell::new(Vec::new()));
        let news = Rc::new(Notify::new());
        let (log, bell) = (Rc::clone(&events), Rc::clone(&news));
        let handle = start(config, move |event| {
            log.borrow_mut().push(event);
            bell.notify_one();
        })
        .unwrap();
        Self {
            handle,
            lease,
            events,
            news,
            pool,
        }
    }

    /// Waits for an event that `wanted` maps to something, among all so far.
    async fn saw<T>(&self, what: &str, wanted: impl Fn(&Event) -> Option<T>) -> T {
        let search = async {
            loop {
                if let Some(found) = self.events.borrow().iter().find_map(&wanted) {
                    return found;
                }
                self.news.notified().await;
            }
        };
        let Ok(found) = tokio::time::timeout(LIMIT, search).await else {
            let events = self.events.borrow();
            panic!("no {what} among {events:#?}\n{:#?}", self.handle.status());
        };
        found
    }

    async fn ask(&self, command: Command) -> Result<Completed, CommandError> {
        let (tell, told) = oneshot::channel();
        self.handle
            .submit(command, |result| tell.send(result).unwrap());
        let Ok(answer) = tokio::time::timeout(LIMIT, told).await else {
            let (status, waits) = (self.handle.status(), self.handle.disk_waits());
            panic!(
                "no answer: {:#?}\n{status:#?}\n{waits:?}",
                self.events.borrow()
            );
        };
        answer.unwrap()
    }

    async fn write(&self, offset_bytes: u64, data: Vec<u8>) {
        let data = Bytes::from(data);
        let command = Command::Write {
            volume: VOLUME,
            offset_bytes,
            data,
            fua: Fua::No,
        };
        assert_eq!(self.ask(command).await, Ok(Completed::Ok));
    }

    async fn read(&self, offset_bytes: u64, len_bytes: usize) -> Bytes {
        let command = Command::Read {
            volume: VOLUME,
            offset_bytes,
            len_bytes,
        };
        match self.ask(command).await {
            Ok(Completed::Data(data)) => data,
            other => panic!("read answered {other:?}"),
        }
    }

    /// The data area of the volume as it lies in the file.
    fn area(&self) -> Vec<u8> {
        let file = std::fs::read(self.pool.path(VOLUME)).unwrap();
        let from = usize::try_from(meta::layout(SIZE).data_offset).unwrap();
        file[from..from + usize::try_from(SIZE).unwrap()].to_vec()
    }
}

/// `base` is the last epoch in which the peer was in sync, and its copy then.
fn primary(epoch: u64, in_sync: &[u8], base: Option<(u64, DiskInstance)>) -> Authority {
    let members: Vec<NodeId> = in_sync.iter().map(|id| NodeId(*id)).collect();
    Authority::Primary {
        epoch: Epoch(epoch),
        in_sync: Members::of(&members),
        doubt: None,
        peer_base: base.map(|(epoch, _)| Epoch(epoch)),
        peer_disk: base.map(|(_, disk)| disk),
        answers: 0,
    }
}

async fn two_listeners() -> (TcpListener, TcpListener) {
    let one = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let two = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (one, two)
}

/// The first box: formatted, primary alone, with one volume.
async fn first_box(node: &Node) {
    node.handle.input(Input::Format);
    let attached = |e: &Event| matches!(e, Event::Data(data) if data.attached == Attached::Yes);
    node.saw("formatted data", |event| attached(event).then_some(()))
        .await;
    node.lease.set(Lease::Unlimited);
    node.handle.authority(primary(1, &[1], None));
    node.saw("service", |e| {
        matches!(e, Event::Serving { epoch: Epoch(1) }).then_some(())
    })
    .await;
    let (tell, told) = oneshot::channel();
    let spec = VolumeSpec {
        number: VOLUME,
        uuid: 5,
        size_bytes: SIZE,
    };
    node.handle
        .create_volume(spec, |result| tell.send(result).unwrap());
    assert_eq!(told.await.unwrap(), Ok(Completed::Ok));
}

#[tokio::test]
async fn two_boxes_mirror_lose_each_other_and_come_back() {
    LocalSet::new().run_until(mirror(|_| None)).await;
}

#[tokio::test]
async fn two_boxes_mirror_lose_each_other_and_come_back_encrypted() {
    let certificates = Certificates::new();
    let mirrored = mirror(move |id| Some(certificates.tls(id)));
    LocalSet::new().run_until(mirrored).await;
}

async fn mirror(tls: impl Fn(u8) -> Option<Tls>) {
    let folder = Folder::new();
    let mut random = Rng(1);
    let (one, two) = two_listeners().await;
    let (at_one, at_two) = (one.local_addr().unwrap(), two.local_addr().unwrap());
    let one = Setup {
        id: 1,
        incarnation: 11,
        listener: one,
        peer: at_two,
        tls: tls(1),
    };
    let a = Node::start(&folder, one);
    first_box(&a).await;
    a.write(1 << 20, random.bytes(64 << 10)).await;

    let two = Setup {
        id: 2,
        incarnation: 22,
        listener: two,
        peer: at_one,
        tls: tls(2),
    };
    let b = Node::start(&folder, two);
    let peer_disk = join(&a, &b, 1).await;
    for _ in 0..64 {
        let at = random.below(SIZE / 4096 - 4) * 4096;
        let len_bytes = 4096 * usize::try_from(1 + random.below(4)).unwrap();
        let data = random.bytes(len_bytes);
        a.write(at, data.clone()).await;
        assert_eq!(a.read(at, data.len()).await, data);
    }
    assert_eq!(
        a.ask(Command::Flush { volume: VOLUME }).await,
        Ok(Completed::Ok)
    );
    assert!(
        a.area() == b.area(),
        "after a flush both files hold the same data"
    );
    reads_need_the_lease(&a).await;

    b.handle.stop().await;
    survives_the_loss(&a, peer_disk).await;

    // The lost box comes back as another process and is brought up to date.
    let two = TcpListener::bind(at_two).await.unwrap();
    let two = Setup {
        id: 2,
        incarnation: 23,
        listener: two,
        peer: at_one,
        tls: tls(2),
    };
    let b = Node::start(&folder, two);
    a.events.borrow_mut().clear();
    assert_eq!(join(&a, &b, 3).await, peer_disk);
    assert_eq!(
        a.ask(Command::Flush { volume: VOLUME }).await,
        Ok(Completed::Ok)
    );
    assert!(
        a.area() == b.area(),
        "after the resync both files hold the same data"
    );

    a.handle.stop().await;
    b.handle.stop().await;
    let late = a.ask(Command::Confirm).await;
    assert_eq!(late, Err(CommandError::NotPrimary));
}

/// Resyncs `b` from `a`, which is primary alone in `epoch`, and commits both in the next epoch.
async fn join(a: &Node, b: &Node, epoch: u64) -> DiskInstance {
    b.handle.authority(Authority::Secondary {
        epoch: Epoch(epoch),
    });
    let peer_disk = a
        .saw("readmission", |event| {
            let Event::Readmit {
                epoch: at,
                peer_disk,
            } = event
            else {
                return None;
            };
            (*at == Epoch(epoch)).then_some(*peer_disk)
        })
        .await;
    let next = Epoch(epoch + 1);
    a.handle
        .authority(primary(next.0, &[1, 2], Some((next.0, peer_disk))));
    a.lease.set(for_an_hour());
    b.handle.authority(Authority::Secondary { epoch: next });
    a.saw("in sync", |e| {
        (*e == Event::InSync { epoch: next }).then_some(())
    })
    .await;
    peer_disk
}

/// A lease beside a peer that counts; the unlimited one of a box alone does not hold there.
fn for_an_hour() -> Lease {
    Lease::Until(boot_time().plus_ms(3_600_000))
}

/// The cell alone, set by another thread, holds an answer back and lets it go (law R5).
async fn reads_need_the_lease(a: &Node) {
    a.lease.set(Lease::None);
    let (tell, mut told) = oneshot::channel();
    a.handle
        .submit(Command::Confirm, |result| tell.send(result).unwrap());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(told.try_recv().is_err(), "answered without a lease");
    let lease = a.lease.clone();
    let granted = std::thread::spawn(move || lease.set(for_an_hour()));
    let answer = tokio::time::timeout(LIMIT, told)
        .await
        .expect("an answer in time")
        .unwrap();
    assert_eq!(answer, Ok(Completed::Ok));
    granted.join().unwrap();
}

/// With the peer gone a write waits for the next authority (law R1).
async fn survives_the_loss(a: &Node, peer_disk: DiskInstance) {
    a.saw("loss", |e| {
        matches!(e, Event::PeerLost { .. }).then_some(())
    })
    .await;
    let data = Bytes::from(vec![0x5a; 4096]);
    let command = Command::Write {
        volume: VOLUME,
        offset_bytes: 0,
        data: data.clone(),
        fua: Fua::Yes,
    };
    let (tell, mut told) = oneshot::channel();
    a.handle
        .submit(command, |result| tell.send(result).unwrap());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(told.try_recv().is_err(), "acknowledged without the peer");
    a.handle.authority(primary(3, &[1], Some((2, peer_disk))));
    let answer = tokio::time::timeout(LIMIT, told)
        .await
        .expect("an answer in time")
        .unwrap();
    assert_eq!(answer, Ok(Completed::Ok));
    assert_eq!(a.read(0, 4096).await, data);
}

#[tokio::test]
async fn a_reply_may_submit_the_next_command() {
    LocalSet::new().run_until(chain()).await;
}

async fn chain() {
    let folder = Folder::new();
    let (one, two) = two_listeners().await;
    let peer = two.local_addr().unwrap();
    let a = Node::start(
        &folder,
        Setup {
            id: 1,
            incarnation: 11,
            listener: one,
            peer,
            tls: None,
        },
    );
    first_box(&a).await;
    let (tell, told) = oneshot::channel();
    write_from(a.handle.clone(), 0, tell);
    tokio::time::timeout(LIMIT, told)
        .await
        .expect("a chain that ends")
        .unwrap();
    let data = a.read(0, 64 * 4096).await;
    let wanted: Vec<u8> = (0..64_u8).flat_map(|index| vec![index; 4096]).collect();
    assert_eq!(data, wanted);
    a.handle.stop().await;
}

/// Writes block `index` and, from inside its reply, the next one.
fn write_from(handle: Handle, index: u8, tell: oneshot::Sender<()>) {
    let data = Bytes::from(vec![index; 4096]);
    let offset_bytes = u64::from(index) * 4096;
    let command = Command::Write {
        volume: VOLUME,
        offset_bytes,
        data,
        fua: Fua::No,
    };
    handle.clone().submit(command, move |result| {
        assert_eq!(result, Ok(Completed::Ok));
        if index == 63 {
            tell.send(()).unwrap();
        } else {
            write_from(handle, index + 1, tell);
        }
    });
}

#[tokio::test]
async fn garbage_on_the_port_is_closed_and_counted() {
    LocalSet::new().run_until(garbage()).await;
}

async fn garbage() {
    let folder = Folder::new();
    let (one, two) = two_listeners().await;
    let (port, peer) = (one.local_addr().unwrap(), two.local_addr().unwrap());
    let a = Node::start(
        &folder,
        Setup {
            id: 1,
            incarnation: 11,
            listener: one,
            peer,
            tls: None,
        },
    );
    for round in 0..5_u64 {
        let mut stranger = TcpStream::connect(port).await.unwrap();
        stranger.write_all(&Rng(round).bytes(3000)).await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(LIMIT, stranger.read_to_end(&mut rest));
        let _end_or_reset = ended.await.expect("closed in time");
        assert_eq!(a.handle.link_counters().garbage, round + 1);
    }
    first_box(&a).await;
    a.write(0, vec![7; 4096]).await;
    a.handle.stop().await;
}

#[tokio::test]
async fn only_the_address_of_the_peer_is_let_in() {
    LocalSet::new().run_until(strangers()).await;
}

async fn strangers() {
    let folder = Folder::new();
    let (one, _two) = two_listeners().await;
    let port = one.local_addr().unwrap();
    let setup = Setup {
        id: 1,
        incarnation: 11,
        listener: one,
        peer: "127.0.0.9:1".parse().unwrap(),
        tls: None,
    };
    let a = Node::start(&folder, setup);
    for round in 0..100 {
        let mut stranger = TcpStream::connect(port).await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(LIMIT, stranger.read_to_end(&mut rest));
        let _end_or_reset = ended.await.expect("closed in time");
        assert!(rest.is_empty(), "a stranger is told nothing");
        let counters = a.handle.link_counters();
        assert_eq!((counters.strangers, counters.accepted), (round + 1, 0));
    }
    a.handle.stop().await;
}

/// A certificate for each box, and one that nobody knows.
struct Certificates([(Vec<u8>, Vec<u8>); 3]);

const STRANGER: u8 = 3;

impl Certificates {
    fn new() -> Self {
        Self([(); 3].map(|()| {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
            let certificate = params.self_signed(&key).unwrap();
            (certificate.der().to_vec(), key.serialize_der())
        }))
    }

    fn identity(&self, id: u8) -> Identity {
        let (certificate, key) = self.0[usize::from(id) - 1].clone();
        Identity::new(certificate, key)
    }

    /// What a box has that was paired with the other one.
    fn tls(&self, id: u8) -> Tls {
        let peer = self.identity(3 - id).fingerprint();
        Tls {
            identity: self.identity(id),
            peer: Box::new(move || Some(peer)),
        }
    }
}

/// A primary alone and who shall become its secondary, each with its own idea of encryption.
async fn disagreeing(folder: &Folder, tls: [Option<Tls>; 2]) -> (Node, Node) {
    let (one, two) = two_listeners().await;
    let peers = [two.local_addr().unwrap(), one.local_addr().unwrap()];
    let [first, second] = tls;
    let setup = |id: u8, listener, tls| Setup {
        id,
        incarnation: u128::from(id) * 11,
        listener,
        peer: peers[usize::from(id) - 1],
        tls,
    };
    let a = Node::start(folder, setup(1, one, first));
    let b = Node::start(folder, setup(2, two, second));
    b.handle.authority(Authority::Secondary { epoch: Epoch(1) });
    first_box(&a).await;
    (a, b)
}

fn alarm(event: &Event, words: &str) -> Option<()> {
    let alarmed = matches!(event, Event::Alarm(text) if text.contains(words));
    alarmed.then_some(())
}

/// What both say about it, and that the copy never began.
async fn said(nodes: &(Node, Node), words: [&str; 2]) {
    for (node, words) in [&nodes.0, &nodes.1].into_iter().zip(words) {
        node.saw(words, |event| alarm(event, words)).await;
    }
    assert!(
        nodes.1.handle.status().volumes.is_empty(),
        "nothing was told"
    );
    nodes.0.handle.stop().await;
    nodes.1.handle.stop().await;
}

#[tokio::test]
async fn boxes_that_disagree_about_encryption_say_so_and_do_not_talk() {
    let certificates = Certificates::new();
    let test = async {
        let folder = Folder::new();
        let nodes = disagreeing(&folder, [Some(certificates.tls(1)), None]).await;
        said(&nodes, ["other box does not encrypt", "other box encrypts"]).await;
        let folder = Folder::new();
        let nodes = disagreeing(&folder, [None, Some(certificates.tls(2))]).await;
        said(&nodes, ["other box encrypts", "other box does not encrypt"]).await;
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_refused_by_either_side() {
    let certificates = Certificates::new();
    let stranger = |id: u8| Tls {
        identity: certificates.identity(STRANGER),
        ..certificates.tls(id)
    };
    let test = async {
        let folder = Folder::new();
        let nodes = disagreeing(&folder, [Some(certificates.tls(1)), Some(stranger(2))]).await;
        said(
            &nodes,
            ["was not paired with", "does not know the certificate"],
        )
        .await;
        let folder = Folder::new();
        let nodes = disagreeing(&folder, [Some(stranger(1)), Some(certificates.tls(2))]).await;
        said(
            &nodes,
            ["does not know the certificate", "was not paired with"],
        )
        .await;
        let folder = Folder::new();
        let unpaired = Tls {
            peer: Box::new(|| None),
            ..certificates.tls(1)
        };
        let nodes = disagreeing(&folder, [Some(unpaired), Some(certificates.tls(2))]).await;
        let unpaired = |event: &Event| alarm(event, "not paired");
        nodes.0.saw("a word about it", unpaired).await;
        assert_eq!(nodes.1.handle.link_counters().dialled, 0);
        nodes.0.handle.stop().await;
        nodes.1.handle.stop().await;
    };
    LocalSet::new().run_until(test).await;
}

/// Connections that say nothing, say garbage, and begin a handshake that they do not end.
#[tokio::test]
async fn strangers_keep_few_places_and_the_peer_gets_through() {
    let certificates = Certificates::new();
    let test = async {
        let folder = Folder::new();
        let (one, two) = two_listeners().await;
        let (at_one, at_two) = (one.local_addr().unwrap(), two.local_addr().unwrap());
        let setup = |id: u8, listener, peer| Setup {
            id,
            incarnation: u128::from(id) * 11,
            listener,
            peer,
            tls: Some(certificates.tls(id)),
        };
        let a = Node::start(&folder, setup(1, one, at_two));
        let b = Node::start(&folder, setup(2, two, at_one));
        first_box(&a).await;
        let half = [22, 3, 1, 0, 90, 1, 0, 0, 86, 3, 3];
        let mut strangers = Vec::new();
        for round in 0..60_usize {
            let mut stranger = TcpStream::connect(at_two).await.unwrap();
            match round % 4 {
                0 => {}
                1 => stranger.write_all(&Rng(9).bytes(900)).await.unwrap(),
                2 => stranger.write_all(&half).await.unwrap(),
                _ => {
                    stranger.write_all(&half).await.unwrap();
                    stranger.shutdown().await.unwrap();
                }
            }
            strangers.push(stranger);
        }
        join(&a, &b, 1).await;
        a.write(0, vec![7; 4096]).await;
        let counters = b.handle.link_counters();
        assert_eq!(
            counters.accepted, 1,
            "only the peer became a session: {counters:?}"
        );
        assert!(
            counters.refused >= 15 && counters.given_up > 0,
            "{counters:?}"
        );
        a.handle.stop().await;
        b.handle.stop().await;
    };
    LocalSet::new().run_until(test).await;
}
