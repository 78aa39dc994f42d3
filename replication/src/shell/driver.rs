//! The driver of one group: owns the engine, its disks and its link.
//!
//! ```text
//!   Handle::submit ─┐                            ┌─▶ disk.submit ─┐
//!   reader tasks  ──┼─▶ inputs ─▶ Engine ─▶ outputs ─▶ link.queue ─┼─▶ kick, flush: end of turn
//!   driver task   ──┘  (lease, clock first)      └─▶ replies, events, after the engine is let go
//! ```
//!
//! Whoever brings an input feeds the engine in its own stack frame. What a callback brings while
//! the engine is being drained is queued and taken right after it, so callbacks may call back in.
//! The driver task runs after the tasks that were already due, so everything they queued leaves
//! in one system call per disk ring and per socket.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, Sleep};

use super::clock::{LeaseCell, boot_time};
use super::disk::{Backing, Completion, Disk, LockWait};
use super::handle::{DiskWaits, Handle, Replies, Reply};
use super::link::{Link, LinkCounters, Origin, ReadEnd, dial};
use super::pool::{Pool, PoolError};
use super::secure::Security;
use super::tls::{Channel, Tls};
use crate::engine::{
    CommandError, Completed, Engine, Event, Input, Lease, Opened, Output, Params, Status,
};
use crate::types::{
    CommandId, CopyMark, Create, Epoch, OpId, SessionId, Time, VolumeNumber, VolumeSpec, Zeroed,
};

/// How often one turn collects from the disk before other tasks have theirs.
const TURN_ROUNDS: usize = 8;
/// Attempts to connect that fit into the time after which a silent peer is lost: one over a dead
/// path leaves time for the others.
const DIALS_PER_LOSS: u64 = 5;
/// How long an accepted session may stay without a frame.
const UNHEARD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an accept error (no more descriptors, mostly) is waited out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long `stop` waits for the disk.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// The data link of one box: its paths to the peer, the preferred one first. One of them carries
/// the session; when that ends, the next one is dialled.
#[derive(Default)]
pub struct LinkConfig {
    /// The paths; none for an engine without a peer.
    pub paths: Vec<Path>,
}

/// One path between the boxes.
pub struct Path {
    /// Where to accept the peer, bound by the caller. Others are turned away at once.
    pub listener: TcpListener,
    /// Where the peer accepts.
    pub peer: SocketAddr,
    /// The local address to dial from.
    pub from: Option<IpAddr>,
    /// How it is encrypted, unless it is not.
    pub tls: Option<Tls>,
}

/// Everything a group needs to run.
pub struct DriverConfig {
    /// The engine's parameters.
    pub params: Params,
    /// The durable seal of the control plane's record (law R3).
    pub seal: Epoch,
    /// The newest state of this box's copy in that record (law D7).
    pub newest: Option<CopyMark>,
    /// The backings.
    pub pool: Pool,
    /// The disk port, from [`super::open_disk`], with decorators if any.
    pub disk: Box<dyn Disk>,
    /// The data link.
    pub link: LinkConfig,
    /// The lease, shared with the control thread.
    pub lease: LeaseCell,
}

/// Why a group cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The pool cannot be read.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// Starts a group on the current `LocalSet`: lists the pool, opens every volume in it (waiting for
/// locks in the background), starts the engine. `on_event` is called on this thread, never while
/// the engine is busy; it may use the handle.
pub fn start(
    config: DriverConfig,
    on_event: impl FnMut(Event) + 'static,
) -> Result<Handle, StartError> {
    let DriverConfig {
        params,
        seal,
        newest,
        pool,
        disk,
        link,
        lease,
    } = config;
    let listed = pool.list()?;
    let dial_timeout = Duration::from_millis(params.peer_loss_ms / DIALS_PER_LOSS);
    let (listeners, ways): (Vec<_>, Vec<_>) = link
        .paths
        .into_iter()
        .map(|path| {
            let way = Way {
                peer: path.peer,
                from: path.from.map(|ip| SocketAddr::new(ip, 0)),
                tls: path.tls.map(Rc::new),
            };
            ((path.listener, path.peer.ip(), way.tls.clone()), way)
        })
        .unzip();
    let inner = Rc::new(Inner {
        core: RefCell::new(Core {
            engine: Engine::new(params),
            disk,
            link: Link::default(),
            lease: Lease::None,
            submitted: BTreeMap::new(),
            attached: BTreeMap::new(),
        }),
        inputs: RefCell::default(),
        early: RefCell::new(Some(Vec::new())),
        replies: RefCell::default(),
        on_event: RefCell::new(Box::new(on_event)),
        busy: Cell::new(false),
        stopped: Cell::new(false),
        waker: Cell::new(None),
        tasks: RefCell::default(),
        lease,
        pool,
        ways,
        next_way: Cell::new(0),
        dial_timeout,
        security: Security::default(),
    });
    let opening = Rc::clone(&inner);
    inner.spawn(async move {
        let mut found = Vec::new();
        for volume in listed {
            let number = volume.number;
            match opening.pool.open_volume(number, LockWait::Forever).await {
                Ok(backing) => found.push(opening.attach(number, backing)),
                // The engine finds the volume missing from its table and says so.
                Err(error) => tracing::error!(%error, "a volume of the pool stays closed"),
            }
        }
        opening.begin(Input::Start {
            found,
            seal,
            newest,
        });
    });
    for (listener, peer, tls) in listeners {
        inner.spawn(Rc::clone(&inner).accept(listener, peer, tls));
    }
    inner.spawn(Rc::clone(&inner).follow_lease());
    inner.spawn(Rc::clone(&inner).drive());
    Ok(Handle { inner })
}

/// How to reach the peer on one path.
struct Way {
    peer: SocketAddr,
    from: Option<SocketAddr>,
    tls: Option<Rc<Tls>>,
}

/// The state shared by the handle and the tasks of one group.
pub(super) struct Inner {
    pub(super) core: RefCell<Core>,
    inputs: RefCell<VecDeque<Input>>,
    /// What came before the pool was open; it follows `Start`.
    early: RefCell<Option<Vec<Input>>>,
    replies: RefCell<Replies>,
    on_event: RefCell<Box<dyn FnMut(Event)>>,
    /// The engine is being fed further up the stack.
    busy: Cell<bool>,
    stopped: Cell<bool>,
    /// Wakes the driver task, which ends the turn.
    waker: Cell<Option<Waker>>,
    tasks: RefCell<Vec<JoinHandle<()>>>,
    lease: LeaseCell,
    pool: Pool,
    /// Where to dial on each path.
    ways: Vec<Way>,
    /// The path that is dialled first when the session ends.
    next_way: Cell<usize>,
    dial_timeout: Duration,
    pub(super) security: Security,
}

pub(super) struct Core {
    engine: Engine,
    disk: Box<dyn Disk>,
    pub(super) link: Link,
    /// The lease that the engine knows.
    lease: Lease,
    /// When each operation in flight was submitted (law R12).
    submitted: BTreeMap<OpId, Time>,
    /// Every backing that the disk port has.
    attached: BTreeMap<VolumeNumber, Arc<Backing>>,
}

/// What leaves the engine for code that may call back in.
enum Outward {
    Reply(CommandId, Result<Completed, CommandError>),
    Event(Event),
    Open(VolumeSpec, u64, Create),
    Grow(VolumeNumber, u64),
    Remove(VolumeNumber),
    Connect,
    Closed(SessionId),
}

impl Core {
    /// Feeds one input, after the lease if that has changed (law R5), and carries out what needs
    /// no other code.
    fn feed(&mut self, now: Time, lease: &LeaseCell, input: Input, outward: &mut Vec<Outward>) {
        let granted = lease.lease();
        if granted != self.lease {
            self.lease = granted;
            self.engine.handle(now, Input::Lease(granted));
            self.drain(now, outward);
        }
        self.engine.handle(now, input);
        self.drain(now, outward);
    }

    fn drain(&mut self, now: Time, outward: &mut Vec<Outward>) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Submit { op, volume, io } => {
                    self.submitted.insert(op, now);
                    self.disk.submit(op, volume, io);
                }
                Output::Send {
                    session,
                    header,
                    payload,
                    trailer,
                    ..
                } => {
                    let queued = self.link.queue(session, header, [payload, trailer]);
                    if !queued && self.link.give_up(session) {
                        outward.push(Outward::Closed(session));
                    }
                }
                Output::Complete { id, result } => outward.push(Outward::Reply(id, result)),
                Output::Event(event) => outward.push(Outward::Event(event)),
                Output::Open {
                    spec,
                    backing_bytes,
                    create,
                } => {
                    outward.push(Outward::Open(spec, backing_bytes, create));
                }
                Output::Grow {
                    number,
                    backing_bytes,
                } => outward.push(Outward::Grow(number, backing_bytes)),
                Output::Remove { number } => {
                    self.disk.detach(number);
                    self.attached.remove(&number);
                    outward.push(Outward::Remove(number));
                }
                Output::Connect => outward.push(Outward::Connect),
                Output::Disconnect { session } => {
                    self.link.close(session);
                }
            }
        }
    }
}

impl Inner {
    /// Queues an input and lets the engine have it, now or when it is free.
    pub(super) fn input(self: &Rc<Self>, input: Input) {
        if let Some(early) = self.early.borrow_mut().as_mut() {
            return early.push(input);
        }
        self.inputs.borrow_mut().push_back(input);
        self.pump();
    }

    /// Feeds the first input and all that came before it.
    fn begin(self: &Rc<Self>, start: Input) {
        let early = self.early.take().expect("a group begins once");
        self.inputs.borrow_mut().push_back(start);
        self.inputs.borrow_mut().extend(early);
        self.pump();
    }

    /// Gives the engine a command under a fresh id.
    pub(super) fn command(self: &Rc<Self>, reply: Reply, input: impl FnOnce(CommandId) -> Input) {
        if self.stopped.get() {
            return reply(Err(CommandError::NotPrimary));
        }
        let id = self.replies.borrow_mut().insert(reply);
        self.input(input(id));
    }

    /// Feeds the engine until nothing is queued, and calls out what came of it.
    fn pump(self: &Rc<Self>) {
        if self.stopped.get() || self.busy.replace(true) {
            return;
        }
        let mut outward = Vec::new();
        loop {
            {
                // Read after the input has arrived, and again after foreign code has run: a lease
                // is judged by a time not before the data was read (law R5).
                let now = boot_time();
                let mut core = self.core.borrow_mut();
                loop {
                    let Some(input) = self.inputs.borrow_mut().pop_front() else {
                        break;
                    };
                    core.feed(now, &self.lease, input, &mut outward);
                }
            }
            if outward.is_empty() {
                break;
            }
            for item in outward.drain(..) {
                self.call_out(item);
            }
        }
        self.busy.set(false);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn call_out(self: &Rc<Self>, item: Outward) {
        match item {
            Outward::Reply(id, result) => {
                let reply = self.replies.borrow_mut().take(id);
                reply.expect("the engine completes each command once")(result);
            }
            Outward::Event(event) => self.tell(event),
            Outward::Open(spec, backing_bytes, create) => {
                let this = Rc::clone(self);
                self.spawn(async move {
                    let opened = this.open_asked(spec.number, backing_bytes, create).await;
                    this.input(opened);
                });
            }
            Outward::Grow(number, backing_bytes) => {
                let this = Rc::clone(self);
                self.spawn(async move {
                    let result = this.grow_asked(number, backing_bytes).await;
                    this.input(Input::Grown { number, result });
                });
            }
            Outward::Remove(number) => {
                let pool = self.pool.clone();
                self.spawn(async move {
                    if let Err(error) = pool.remove_volume(number).await {
                        tracing::error!(%error, "a deleted volume keeps its space");
                    }
                });
            }
            Outward::Connect => self.spawn(Rc::clone(self).connect()),
            Outward::Closed(session) => {
                self.inputs
                    .borrow_mut()
                    .push_back(Input::Disconnected { session });
            }
        }
    }

    pub(super) fn tell(&self, event: Event) {
        (self.on_event.borrow_mut())(event);
    }

    /// Runs `task` on this thread until it ends or the group stops.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.keep(spawn_local(task));
    }

    /// Ends `task` when the group stops.
    pub(super) fn keep(&self, task: JoinHandle<()>) {
        let mut tasks = self.tasks.borrow_mut();
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    async fn open_asked(&self, number: VolumeNumber, backing_bytes: u64, create: Create) -> Input {
        let attached = self.core.borrow().attached.get(&number).cloned();
        if let Some(size_bytes) = attached.map(|backing| backing.size_bytes()) {
            // Found at start and not what it should be: it is made again where it lies.
            return self.opened_again(number, size_bytes, backing_bytes);
        }
        let opened = match create {
            Create::Yes => self.pool.create_volume(number, backing_bytes).await,
            Create::No => self.pool.open_volume(number, LockWait::Forever).await,
        };
        match opened {
            Ok(backing) => Input::Opened(self.attach(number, backing)),
            Err(error) => Input::OpenFailed {
                number,
                reason: error.to_string(),
            },
        }
    }

    async fn grow_asked(&self, number: VolumeNumber, bytes: u64) -> Result<Opened, String> {
        let backing = self.core.borrow().attached.get(&number).cloned();
        let backing = backing.ok_or("its backing is not open")?;
        let grown = self.pool.grow_volume(Arc::clone(&backing), bytes).await;
        let zeroed = grown.map_err(|error| error.to_string())?;
        Ok(Opened {
            number,
            size_bytes: backing.size_bytes(),
            zeroed,
        })
    }

    fn opened_again(&self, number: VolumeNumber, size_bytes: u64, wanted_bytes: u64) -> Input {
        if size_bytes < wanted_bytes {
            let path = self.pool.path(number);
            let reason = format!(
                "{} has {size_bytes} bytes and needs {wanted_bytes}; move it away and restart",
                path.display()
            );
            return Input::OpenFailed { number, reason };
        }
        let zeroed = Zeroed::Unknown;
        Input::Opened(Opened {
            number,
            size_bytes,
            zeroed,
        })
    }

    fn attach(&self, number: VolumeNumber, backing: Arc<Backing>) -> Opened {
        let (size_bytes, zeroed) = (backing.size_bytes(), backing.zeroed());
        let mut core = self.core.borrow_mut();
        core.disk.attach(number, Arc::clone(&backing));
        core.attached.insert(number, backing);
        Opened {
            number,
            size_bytes,
            zeroed,
        }
    }

    async fn connect(self: Rc<Self>) {
        let ways = self.ways.len();
        let first = self.next_way.replace(0);
        let mut answer = Input::ConnectFailed;
        for at in (first..first + ways).map(|at| at % ways) {
            let Way { peer, from, tls } = &self.ways[at];
            let dialled = tokio::time::timeout(self.dial_timeout, dial(*peer, *from)).await;
            let channel = match dialled.unwrap_or_else(|late| Err(late.into())) {
                Ok(stream) => self.secure_dialled(stream, tls.as_deref()).await,
                Err(error) => Err(error),
            };
            self.next_way.set((at + 1) % ways); // should this one end
            match channel.and_then(|channel| self.admit(channel, Origin::Dialled)) {
                Ok(()) => return,
                Err(error) => {
                    self.next_way.set(0);
                    tracing::debug!(%peer, %error, "cannot connect to the peer");
                    if error.kind() == io::ErrorKind::ConnectionRefused {
                        answer = Input::ConnectRefused; // a running box listens on every path
                    }
                }
            }
        }
        self.input(answer);
    }

    async fn accept(self: Rc<Self>, listener: TcpListener, peer: IpAddr, tls: Option<Rc<Tls>>) {
        loop {
            let accepted = match listener.accept().await {
                Ok((_, from)) if from.ip() != peer => {
                    self.core.borrow_mut().link.turn_away();
                    continue;
                }
                Ok((stream, from)) => self.secure_accepted(stream, from, tls.clone()),
                Err(error) => Err(error),
            };
            if let Err(error) = accepted {
                tracing::warn!(%error, "cannot accept a data session");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    /// Lets the engine have a channel as a session.
    pub(super) fn admit(self: &Rc<Self>, channel: Channel, origin: Origin) -> io::Result<()> {
        let binding = channel.binding;
        let session = self.open_session(channel, origin)?;
        match origin {
            Origin::Dialled => self.input(Input::Connected { session, binding }),
            Origin::Accepted => {
                self.input(Input::Accepted { session, binding });
                let surplus = self.core.borrow().link.surplus();
                for session in surplus {
                    self.give_up(session);
                }
                let this = Rc::clone(self);
                self.spawn(async move {
                    tokio::time::sleep(UNHEARD_TIMEOUT).await;
                    let unheard = this.core.borrow().link.is_unheard(session);
                    if unheard {
                        this.give_up(session);
                    }
                });
            }
        }
        Ok(())
    }

    fn give_up(self: &Rc<Self>, session: SessionId) {
        let open = self.core.borrow_mut().link.give_up(session);
        if open {
            self.input(Input::Disconnected { session });
        }
    }

    /// Registers a stream and starts to read it.
    fn open_session(self: &Rc<Self>, stream: Channel, origin: Origin) -> io::Result<SessionId> {
        let reading = self.core.borrow_mut().link.open(stream, origin)?;
        let session = reading.session;
        let this = Rc::clone(self);
        let reader = spawn_local(async move {
            let end = reading
                .run(|header, payload| {
                    this.input(Input::Frame {
                        session,
                        header,
                        payload,
                    })
                })
                .await;
            this.ended(session, &end);
        });
        self.core
            .borrow_mut()
            .link
            .set_reader(session, reader.abort_handle());
        Ok(session)
    }

    fn ended(self: &Rc<Self>, session: SessionId, end: &ReadEnd) {
        let open = self.core.borrow_mut().link.close_for(session, end);
        if open {
            self.complain_of(end);
            tracing::info!(session = session.0, %end, "data session ended");
            self.input(Input::Disconnected { session });
        }
    }

    /// Lets the engine see each change of the lease at once: held reads wait for it.
    async fn follow_lease(self: Rc<Self>) {
        loop {
            self.lease.changed().await;
            self.input(Input::Timeout);
        }
    }

    /// The driver task.
    async fn drive(self: Rc<Self>) {
        let mut turn = Turn::default();
        poll_fn(|cx| self.turn(&mut turn, cx)).await;
    }

    /// Collects what the disk has done and ends the turn: submits, sends, sets the timer.
    fn turn(self: &Rc<Self>, turn: &mut Turn, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.take();
        for _ in 0..TURN_ROUNDS {
            if self.stopped.get() {
                return Poll::Ready(());
            }
            let progress = self.collect(turn, cx);
            self.end_turn(turn, cx);
            if !progress && self.arm(turn, cx) {
                // Set last: a wake from inside this turn would only repeat it.
                self.waker.set(Some(cx.waker().clone()));
                return Poll::Pending;
            }
        }
        // A disk as fast as this loop must not keep the thread from the initiators.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Feeds finished operations. True if there were any.
    fn collect(self: &Rc<Self>, turn: &mut Turn, cx: &mut Context<'_>) -> bool {
        {
            let mut core = self.core.borrow_mut();
            let Core {
                disk, submitted, ..
            } = &mut *core;
            if disk.poll_done(cx, &mut turn.done).is_pending() {
                return false;
            }
            let mut inputs = self.inputs.borrow_mut();
            for Completion { op, result } in turn.done.drain(..) {
                submitted.remove(&op);
                inputs.push_back(Input::Done { op, result });
            }
        }
        self.pump();
        true
    }

    /// Hands queued operations to the kernel and queued frames to the sockets.
    fn end_turn(self: &Rc<Self>, turn: &mut Turn, cx: &mut Context<'_>) {
        {
            let mut core = self.core.borrow_mut();
            let Core { disk, link, .. } = &mut *core;
            disk.kick();
            link.flush(cx, &mut turn.broken);
            let mut inputs = self.inputs.borrow_mut();
            for session in turn.broken.drain(..) {
                link.close(session);
                inputs.push_back(Input::Disconnected { session });
            }
            if inputs.is_empty() {
                return;
            }
        }
        self.pump();
    }

    /// Sets the timer to what the engine wants. False if it was due and has been fed.
    fn arm(self: &Rc<Self>, turn: &mut Turn, cx: &mut Context<'_>) -> bool {
        let deadline = self.core.borrow().engine.poll_timeout();
        let Some(deadline) = deadline else {
            turn.deadline = None;
            return true;
        };
        let timer = turn
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(Duration::ZERO)));
        if turn.deadline != Some(deadline) {
            turn.deadline = Some(deadline);
            let wait = Duration::from_nanos(deadline.0.saturating_sub(boot_time().0));
            timer.as_mut().reset(Instant::now() + wait);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return true;
        }
        // The timer may be early by the difference of the two clocks: then it is set again.
        turn.deadline = None;
        if boot_time() < deadline {
            return false;
        }
        self.input(Input::Timeout);
        false
    }

    pub(super) fn status(&self) -> Status {
        self.core.borrow().engine.status()
    }

    pub(super) fn link_counters(&self) -> LinkCounters {
        self.core.borrow().link.counters()
    }

    pub(super) fn disk_waits(&self) -> DiskWaits {
        let core = self.core.borrow();
        let oldest = core.submitted.values().min();
        let oldest_ms = oldest.map_or(0, |since| boot_time().0.saturating_sub(since.0) / 1_000_000);
        DiskWaits {
            operations: core.submitted.len(),
            oldest_ms,
        }
    }

    /// Ends the group. What the engine still holds is refused, as after a demotion (law R8).
    pub(super) async fn stop(self: &Rc<Self>) {
        self.stopped.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        for task in tasks {
            task.abort();
            let _cancelled_or_done = task.await;
        }
        {
            let mut core = self.core.borrow_mut();
            for session in core.link.sessions() {
                core.link.close(session);
            }
            core.disk.kick();
        }
        let refused = self.replies.borrow_mut().take_all();
        for reply in refused {
            reply(Err(CommandError::NotPrimary));
        }
        let settled = poll_fn(|cx| {
            let mut core = self.core.borrow_mut();
            let mut done = Vec::new();
            while core.disk.in_flight() > 0 {
                if core.disk.poll_done(cx, &mut done).is_pending() {
                    return Poll::Pending;
                }
            }
            Poll::Ready(())
        });
        if tokio::time::timeout(STOP_WAIT, settled).await.is_err() {
            tracing::warn!(
                "stopped with disk operations in flight; their locks stay until they end"
            );
        }
        let mut core = self.core.borrow_mut();
        for number in std::mem::take(&mut core.attached).into_keys() {
            core.disk.detach(number);
        }
    }
}

/// What the driver task keeps from turn to turn.
#[derive(Default)]
struct Turn {
    done: Vec<Completion>,
    broken: Vec<SessionId>,
    timer: Option<Pin<Box<Sleep>>>,
    /// What the timer is set to.
    deadline: Option<Time>,
}
