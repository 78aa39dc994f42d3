//! The data thread: one task set that owns the mirror, the target and the services. No other
//! thread touches them; orders come in and events go out through channels.

use std::sync::Arc;
use std::time::Duration;

use ha::Resource;
use replication::engine::{Event, Input, Limits, Params};
use replication::shell::{
    Disk, DriverConfig, Handle, IoChoice, LeaseCell, LinkConfig, Pool, VolatileDisk,
};
use replication::types as mirror;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

use crate::api::types::{Refusal, Status};
use crate::config::cluster::Edit;
use crate::config::node::PoolIo;
use crate::config::{Cluster, NodeConfig};
use crate::events::EventLog;
use crate::identity::{self, Identity};
use crate::network::{Addresses, LIFETIME_SECONDS};
use crate::pulse::Pulse;
use crate::runtime::{Ran, Ready};
use crate::services::{Parts, Services};
use crate::{clock, size, status, wiring};

/// Addresses are renewed at least so often within the time that they live.
const RENEWALS_PER_LIFETIME: u32 = 4;

/// What the control thread wants done, in its order.
#[derive(Debug)]
pub(crate) enum Order {
    /// For the mirror.
    Mirror(Input),
    /// This box is primary of that epoch.
    Serve(u64),
    /// R8: whoever is logged in is dropped.
    DropSessions,
    /// The other box is heard again: say again where the addresses are (law T5).
    Announce,
    /// The role is being handed over: initiators may go in peace.
    Depart,
    /// It is not, after all.
    Stay,
    /// Start a service.
    Start(Resource),
    /// Stop a service.
    Stop(Resource),
    /// The daemon ends: give everything up, then answer.
    End(oneshot::Sender<()>),
}

/// A change of the cluster configuration, with the way back.
pub(crate) type EditAsked = (Edit, oneshot::Sender<Result<String, Refusal>>);

/// What the thread is made of.
pub(crate) struct Setup {
    /// This box.
    pub(crate) config: NodeConfig,
    /// This process.
    pub(crate) identity: Identity,
    /// The group key.
    pub(crate) key: [u8; 32],
    /// The durable seal of the authority's record (law R3).
    pub(crate) seal: u64,
    /// The group's times.
    pub(crate) timing: ha::Timing,
    /// Keeps unflushed writes in memory (tests).
    pub(crate) volatile: Option<u64>,
    /// The lease, set by the control thread.
    pub(crate) lease: LeaseCell,
    /// Orders of the control thread.
    pub(crate) orders: mpsc::UnboundedReceiver<Order>,
    /// What the control thread must hear.
    pub(crate) authority: mpsc::UnboundedSender<ha::Input>,
    /// Changes.
    pub(crate) edits: mpsc::Receiver<EditAsked>,
    /// What the control thread says of itself.
    pub(crate) authority_status: watch::Receiver<ha::Status>,
    /// Where the whole status is published.
    pub(crate) status: watch::Sender<Status>,
    /// Where the cluster configuration is published.
    pub(crate) cluster: watch::Sender<Cluster>,
    /// Events of this box.
    pub(crate) events: Arc<EventLog>,
    /// This thread's sign of life.
    pub(crate) pulse: Pulse,
}

/// Runs until an [`Order::End`] or a failure to start. `ready` hears whether it started.
pub(crate) async fn run(setup: Setup, ready: Ready) -> Ran {
    match start(setup).await {
        Ok(running) => {
            if ready.send(Ok(())).is_err() {
                return Ran::No;
            }
            running.serve().await;
            Ran::Yes
        }
        Err(why) => {
            drop(ready.send(Err(why)));
            Ran::No
        }
    }
}

struct Running {
    setup: Setup,
    mirror: Handle,
    pool: Pool,
    services: Services,
    mirror_events: mpsc::UnboundedReceiver<Event>,
    progress: status::Progress,
}

/// Opens the pool for the driver's disk, with the decorator of the tests if asked for.
///
/// # Errors
/// A sentence for operators.
pub(crate) fn open_disk(
    config: &NodeConfig,
    volatile: Option<u64>,
) -> Result<Box<dyn Disk>, String> {
    let choice = match config.io {
        PoolIo::Auto => IoChoice::Auto,
        PoolIo::Uring => IoChoice::Uring,
        PoolIo::Threads => IoChoice::Threads,
    };
    let disk = replication::shell::open_disk(choice).map_err(|error| {
        format!("the disks cannot be driven: {error}; try [pool] io = \"threads\"")
    })?;
    Ok(match volatile {
        Some(seed) => Box::new(VolatileDisk::new(disk, seed)),
        None => disk,
    })
}

/// The pool of `config`.
///
/// # Errors
/// A sentence for operators.
pub(crate) fn open_pool(config: &NodeConfig) -> Result<Pool, String> {
    Pool::open(config.pool.clone()).map_err(|error| error.to_string())
}

/// The engine's parameters for one process.
///
/// # Errors
/// If the system gives no randomness.
pub(crate) fn params(
    config: &NodeConfig,
    identity: &Identity,
    key: [u8; 32],
    timing: &ha::Timing,
) -> Result<Params, String> {
    Ok(Params {
        group: mirror::GroupId(config.group.as_u128()),
        me: mirror::NodeId(identity.me),
        peer: mirror::NodeId(identity.peer),
        incarnation: mirror::Incarnation(identity.incarnation),
        boot: mirror::BootId(identity.boot),
        key,
        nonce_seed: u64::try_from(identity::random()? >> 64).expect("the upper half"),
        fresh_disk: mirror::DiskInstance(identity::random()?),
        peer_loss_ms: timing.peer_loss_ms.into(),
        limits: Limits::default(),
    })
}

async fn start(mut setup: Setup) -> Result<Running, String> {
    let (_, none) = mpsc::channel(1);
    let edits = std::mem::replace(&mut setup.edits, none);
    let config = &setup.config;
    let link = &config.replication;
    let listen = (link.address, config.ports.replication);
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        format!(
            "cannot listen on {}:{} for the mirror: {error}; see that the address is this box's \
             and the port is free",
            listen.0, listen.1
        )
    })?;
    let pool = open_pool(config)?;
    let (event_in, mirror_events) = mpsc::unbounded_channel();
    let mirror = replication::shell::start(
        DriverConfig {
            params: params(config, &setup.identity, setup.key, &setup.timing)?,
            seal: mirror::Epoch(setup.seal),
            pool: pool.clone(),
            disk: open_disk(config, setup.volatile)?,
            link: LinkConfig {
                listener: Some(listener),
                peer: Some((link.peer, config.ports.replication).into()),
                from: Some(link.address),
            },
            lease: setup.lease.clone(),
        },
        move |event| drop(event_in.send(event)),
    )
    .map_err(|error| error.to_string())?;
    let services = Services::new(Parts {
        mirror: mirror.clone(),
        addresses: Addresses::open()?,
        port: config.ports.iscsi,
        group_name: config.group.simple().to_string()[..8].to_owned(),
        events: Arc::clone(&setup.events),
        cluster: setup.cluster.clone(),
        own: config.addresses(),
        lease: setup.lease.clone(),
    });
    let every = tick_every(&setup.timing);
    tokio::task::spawn_local(change(services.clone(), edits, every));
    let progress = status::Progress::default();
    Ok(Running {
        setup,
        mirror,
        pool,
        services,
        mirror_events,
        progress,
    })
}

impl Running {
    async fn serve(mut self) {
        let mut tick = interval(tick_every(&self.setup.timing));
        loop {
            tokio::select! {
                biased;
                order = self.setup.orders.recv() => match order {
                    Some(Order::End(done)) => {
                        self.end().await;
                        // Nobody left to hear it is fine: the process ends anyway.
                        let _ = done.send(());
                        // Were this thread to end before the process does, the control thread
                        // would take that for a failure, and so would who reads the exit code.
                        return std::future::pending().await;
                    }
                    Some(order) => self.carry_out(order),
                    None => return self.end().await,
                },
                Some(event) = self.mirror_events.recv() => self.hear(&event),
                _ = tick.tick() => self.tick(),
            }
        }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Mirror(input) => self.mirror.input(input),
            Order::Serve(epoch) => self.services.serve_epoch(epoch),
            Order::DropSessions => self.services.drop_sessions(),
            Order::Announce => self.services.announce(),
            Order::Depart => self.services.depart(),
            Order::Stay => self.services.stay(),
            Order::Start(resource) => {
                let (services, authority) = (self.services.clone(), self.setup.authority.clone());
                tokio::task::spawn_local(async move {
                    let result = services.start(resource).await;
                    drop(authority.send(ha::Input::Started { resource, result }));
                });
            }
            Order::Stop(resource) => {
                let (services, authority) = (self.services.clone(), self.setup.authority.clone());
                tokio::task::spawn_local(async move {
                    services.stop(resource).await;
                    drop(authority.send(ha::Input::Stopped { resource }));
                });
            }
            Order::End(_) => {}
        }
    }

    fn hear(&mut self, event: &Event) {
        if let Some(input) = wiring::to_authority(event) {
            drop(self.setup.authority.send(input));
        }
        if let Event::CacheLost { volume } = event {
            self.services.cache_lost(volume.0);
        }
        self.progress.hear(event, clock::boot_ns());
        let text = sentence(event, &self.setup.cluster.borrow());
        if let Some(text) = text {
            self.setup.events.add(text);
        }
        self.publish();
    }

    fn tick(&self) {
        self.setup.pulse.beat();
        if clock::holds(self.setup.lease.lease()) {
            let services = self.services.clone();
            tokio::task::spawn_local(async move { services.renew().await });
        }
        self.publish();
    }

    fn publish(&self) {
        let whole = status::compose(&status::Sources {
            config: &self.setup.config,
            identity: &self.setup.identity,
            authority: &self.setup.authority_status.borrow(),
            mirror: &self.mirror.status(),
            pool: &self.pool,
            cluster: &self.setup.cluster.borrow(),
            sessions: &self.services.sessions(),
            held: &self.services.held(),
            progress: &self.progress,
            now_ns: clock::boot_ns(),
        });
        self.setup.status.send_replace(whole);
    }

    async fn end(&self) {
        self.setup.pulse.rest();
        for resource in Resource::START_ORDER.into_iter().rev() {
            self.services.stop(resource).await;
        }
        self.services.leave().await;
        self.mirror.stop().await;
    }
}

/// How often addresses are renewed and the status is told: once a heartbeat, but never so seldom
/// that an address of a living box could expire.
fn tick_every(timing: &ha::Timing) -> Duration {
    let heartbeat = Duration::from_millis(timing.heartbeat_interval_ms.into());
    heartbeat.min(Duration::from_secs(LIFETIME_SECONDS.into()) / RENEWALS_PER_LIFETIME)
}

fn interval(every: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

/// Changes of the system volume, one at a time: each starts from what the one before made.
async fn change(services: Services, mut edits: mpsc::Receiver<EditAsked>, every: Duration) {
    let mut tick = interval(every);
    loop {
        tokio::select! {
            asked = edits.recv() => {
                let Some((edit, answer)) = asked else { return };
                let result = services.edit(&edit).await;
                drop(answer.send(result));
            }
            _ = tick.tick() => {
                if let Err(why) = services.remember().await {
                    tracing::debug!("initiators are not remembered yet: {why}");
                }
            }
        }
    }
}

/// What people call a volume. The configuration is read once the box serves; before that only the
/// number is known.
fn volume_name(number: mirror::VolumeNumber, cluster: &Cluster) -> String {
    let known = cluster.volumes.iter().find(|it| it.number == number.0);
    match known {
        _ if number == mirror::VolumeNumber::SYSTEM => "the system volume".to_owned(),
        Some(volume) => format!("volume {}", volume.name),
        None => format!("volume number {number}"),
    }
}

/// What an operator hears of an event of the mirror.
fn sentence(event: &Event, cluster: &Cluster) -> Option<String> {
    let name = |number| volume_name(number, cluster);
    match event {
        Event::ResyncStarted { total_bytes: 0, .. } => None,
        Event::CacheLost { volume } if *volume == mirror::VolumeNumber::SYSTEM => None,
        Event::ResyncStarted {
            total_bytes,
            reason,
        } => Some(format!(
            "resync of {} started: {reason}",
            size::shown(*total_bytes)
        )),
        Event::ResyncDone => Some("resync done".to_owned()),
        Event::InSync { epoch } => Some(format!("both boxes are in sync (epoch {epoch})")),
        Event::CacheLost { volume } => Some(format!(
            "{}: power was lost with unflushed writes; the next flush of each initiator fails \
             once so that it knows; check file systems that were in use",
            name(*volume)
        )),
        Event::Alarm(text) => Some(format!("alarm: {text}")),
        Event::PeerUp { .. } => Some("the data session to the peer is up".to_owned()),
        Event::VolumeReady { spec } => Some(format!("{} is attached", name(spec.number))),
        Event::VolumeGone { number } => Some(format!("{} is deleted here", name(*number))),
        Event::Data(_)
        | Event::PeerLost { .. }
        | Event::Sealed { .. }
        | Event::Serving { .. }
        | Event::Readmit { .. }
        | Event::Drained { .. }
        | Event::ResyncProgress { .. } => None,
    }
}
