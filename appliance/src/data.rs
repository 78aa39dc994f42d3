//! The data thread: one task set that owns the mirror, the target and the services. No other
//! thread touches them; orders come in and events go out through channels.

use std::sync::Arc;
use std::time::Duration;

use ha::Resource;
use replication::engine::{self, DataLink, Event, Input, Limits, Params, Role};
use replication::shell::{
    Disk, DriverConfig, Handle, IoChoice, LeaseCell, LinkConfig, Path, Pool, Tls, VolatileDisk,
};
use replication::types as mirror;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

use crate::api::types::{Pace, Refusal, Status};
use crate::config::node::{Encryption, Link, PoolIo};
use crate::config::plan::{Change, Past};
use crate::config::{Cluster, NodeConfig};
use crate::events::EventLog;
use crate::identity::{self, Identity};
use crate::membership::{Member, Pair};
use crate::network::{Addresses, LIFETIME_SECONDS};
use crate::pulse::Pulse;
use crate::runtime::{Ran, Ready};
use crate::services::{Parts, Services};
use crate::{clock, images, size, status, wiring};

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
pub(crate) type ChangeAsked = (Change, oneshot::Sender<Result<String, Refusal>>);

/// What the primary is to look after besides its configuration.
#[derive(Debug)]
pub(crate) enum Care {
    /// How fast a resync may be.
    Pace(Pace),
    /// Compare both copies of the volume of this name now.
    Scrub(String),
    /// Drop the sessions of the initiator of this iSCSI name.
    DropSessions(String),
}

/// Such a wish, with the way back.
pub(crate) type CareAsked = (Care, oneshot::Sender<Result<String, Refusal>>);

/// What the thread is made of.
pub(crate) struct Setup {
    /// This box.
    pub(crate) config: NodeConfig,
    /// This process.
    pub(crate) identity: Identity,
    /// What makes this box a member.
    pub(crate) membership: Member,
    /// The durable seal of the authority's record (law R3).
    pub(crate) seal: u64,
    /// The newest state of this box's copy in that record (law D7).
    pub(crate) newest: Option<mirror::CopyMark>,
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
    pub(crate) changes: mpsc::Receiver<ChangeAsked>,
    /// Resyncs, scrubs and sessions.
    pub(crate) cares: mpsc::Receiver<CareAsked>,
    /// What the control thread says of itself.
    pub(crate) authority_status: watch::Receiver<ha::Status>,
    /// Where the whole status is published.
    pub(crate) status: watch::Sender<Status>,
    /// Where the cluster configuration is published.
    pub(crate) cluster: watch::Sender<Cluster>,
    /// Where the changes that led to it are published.
    pub(crate) history: watch::Sender<Vec<Past>>,
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
    /// What a resync goes back to after its pause.
    resumed: engine::Pace,
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
    identity: &Identity,
    pair: &Pair,
    timing: &ha::Timing,
) -> Result<Params, String> {
    Ok(Params {
        group: mirror::GroupId(pair.group.as_u128()),
        me: mirror::NodeId(identity.me),
        peer: mirror::NodeId(identity.peer),
        incarnation: mirror::Incarnation(identity.incarnation),
        boot: mirror::BootId(identity.boot),
        key: pair.key,
        nonce_seed: u64::try_from(identity::random()? >> 64).expect("the upper half"),
        fresh_disk: mirror::DiskInstance(identity::random()?),
        peer_loss_ms: timing.peer_loss_ms.into(),
        limits: Limits::default(),
    })
}

/// The paths of the mirror, listening.
async fn paths(config: &NodeConfig, membership: &Member) -> Result<Vec<Path>, String> {
    let port = config.ports.replication;
    let mut paths = Vec::new();
    for link in &config.replication {
        let listener = TcpListener::bind((link.address, port)).await;
        let listener = listener.map_err(|error| {
            format!(
                "cannot listen on {}:{port} for the mirror (link {}): {error}; see that the \
                 address is this box's and the port is free",
                link.address, link.name
            )
        })?;
        paths.push(Path {
            listener,
            peer: (link.peer, port).into(),
            from: Some(link.address),
            tls: tls(config, link, membership),
        });
    }
    Ok(paths)
}

/// How one path is secured. The peer's certificate is looked up at each handshake: the boxes
/// may be paired while this one runs.
fn tls(config: &NodeConfig, link: &Link, membership: &Member) -> Option<Tls> {
    if link.encryption == Encryption::Off {
        return None;
    }
    let state = config.state.clone();
    let peer = move || match Member::load(&state) {
        Ok(membership) => membership?.peer,
        Err(why) => {
            tracing::warn!("{why}");
            None
        }
    };
    Some(Tls {
        identity: membership.identity(),
        peer: Box::new(peer),
    })
}

async fn start(mut setup: Setup) -> Result<Running, String> {
    let (_, none) = mpsc::channel(1);
    let changes = std::mem::replace(&mut setup.changes, none);
    let config = &setup.config;
    let paths = paths(config, &setup.membership).await?;
    let pool = open_pool(config)?;
    let (event_in, mirror_events) = mpsc::unbounded_channel();
    let mirror = replication::shell::start(
        DriverConfig {
            params: params(&setup.identity, &setup.membership.pair, &setup.timing)?,
            seal: mirror::Epoch(setup.seal),
            newest: setup.newest,
            pool: pool.clone(),
            disk: open_disk(config, setup.volatile)?,
            link: LinkConfig { paths },
            lease: setup.lease.clone(),
        },
        move |event| drop(event_in.send(event)),
    )
    .map_err(|error| error.to_string())?;
    let services = Services::new(Parts {
        mirror: mirror.clone(),
        addresses: Addresses::open()?,
        port: config.ports.iscsi,
        group_name: setup.membership.pair.group.simple().to_string()[..8].to_owned(),
        events: Arc::clone(&setup.events),
        cluster: setup.cluster.clone(),
        history: setup.history.clone(),
        own: config.addresses(),
        boxes: [config.node.clone(), config.peer.clone()],
        lease: setup.lease.clone(),
    });
    let every = tick_every(&setup.timing);
    tokio::task::spawn_local(change(services.clone(), changes, every));
    let progress = status::Progress::default();
    Ok(Running {
        setup,
        mirror,
        pool,
        services,
        mirror_events,
        progress,
        resumed: engine::Pace::Auto,
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
                Some((care, answer)) = self.setup.cares.recv() => {
                    // Whoever asked may be gone: the answer is for nobody else.
                    let _ = answer.send(self.take_care(&care));
                }
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
        self.keep_images(event);
        let text = sentence(event, &self.setup.cluster.borrow());
        if let Some(text) = text {
            self.setup.events.add(text);
        }
        self.publish();
    }

    /// Both boxes' bytes of a block that differs are kept for whoever looks into it.
    fn keep_images(&self, event: &Event) {
        let Event::CopiesDiffer {
            volume,
            offset_bytes,
            here,
            there,
        } = event
        else {
            return;
        };
        let config = &self.setup.config;
        let images = [(config.node.as_str(), here), (config.peer.as_str(), there)];
        let place = (*volume, *offset_bytes);
        let text = images::keep(&config.state, place, images, &self.setup.cluster.borrow());
        self.setup.events.add(text);
    }

    /// Only the primary copies, compares and has sessions; what was asked of it ends with its role.
    fn take_care(&mut self, care: &Care) -> Result<String, Refusal> {
        let status = self.mirror.status();
        let primary = match status.role {
            Role::Serving | Role::Activating | Role::Frozen | Role::Draining => true,
            Role::Attaching | Role::Blank | Role::Secondary | Role::Failed => false,
        };
        if !primary {
            return Err(Refusal::failed(format!(
                "nothing was changed: resync, scrub and sessions are the primary's, and {} is not \
                 primary; ask {}",
                self.setup.config.node, self.setup.config.peer
            )));
        }
        match care {
            Care::Pace(pace) => Ok(self.set_pace(*pace, &status)),
            Care::Scrub(name) => self.scrub(name, &status),
            Care::DropSessions(initiator) => self.drop_initiator(initiator),
        }
    }

    fn drop_initiator(&self, name: &str) -> Result<String, Refusal> {
        let dropped = self.services.drop_initiator(name);
        if dropped == 0 {
            return Err(Refusal::usage(format!(
                "{name} has no session here, nothing was changed; see `twinsan session list`"
            )));
        }
        let done = format!(
            "sessions of {name} dropped: {dropped}; commands that were not answered are aborted. \
             It may log in again: to keep it out, take its iSCSI name off its host (`twinsan host \
             list`)"
        );
        self.setup.events.add(done.clone());
        Ok(done)
    }

    fn scrub(&self, name: &str, status: &engine::Status) -> Result<String, Refusal> {
        let cluster = self.setup.cluster.borrow();
        let volume = cluster.volume(name).map_err(Refusal::usage)?;
        if status.link != DataLink::Mirroring {
            return Err(Refusal::failed(format!(
                "volume {name} was not scrubbed: {} is not in sync, so there are no two copies to \
                 compare; see `twinsan status`",
                self.setup.config.peer
            )));
        }
        let volume = mirror::VolumeNumber(volume.number);
        self.mirror.input(Input::Scrub { volume });
        Ok(format!(
            "the scrub of volume {name} has begun; `twinsan status` says how far it is, `twinsan \
             events` how it ended"
        ))
    }

    fn set_pace(&mut self, asked: Pace, status: &engine::Status) -> String {
        let before = status.resync.pace;
        let (pace, done) = match asked {
            Pace::Pause => {
                if before != engine::Pace::Paused {
                    self.resumed = before;
                }
                let done = "the resync is paused until `twinsan resync resume`, a fail-over or a \
                            restart; a box that has to catch up is not in sync before that";
                (engine::Pace::Paused, done.to_owned())
            }
            Pace::Resume if before != engine::Pace::Paused => {
                return "the resync was not paused".to_owned();
            }
            Pace::Resume => (self.resumed, "the resync goes on".to_owned()),
            Pace::Auto => (
                engine::Pace::Auto,
                "the resync is as fast as initiators do not feel it".to_owned(),
            ),
            Pace::AtMost { bytes_per_s } => (
                engine::Pace::AtMost {
                    bytes_per_s: bytes_per_s.max(1),
                },
                format!(
                    "the resync copies at most {}/s until a fail-over or a restart",
                    size::shown(bytes_per_s)
                ),
            ),
        };
        self.mirror.input(Input::Pace(pace));
        self.setup.events.add(done.clone());
        self.publish();
        done
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
async fn change(services: Services, mut changes: mpsc::Receiver<ChangeAsked>, every: Duration) {
    let mut tick = interval(every);
    loop {
        tokio::select! {
            asked = changes.recv() => {
                let Some((change, answer)) = asked else { return };
                let result = services.change(&change).await;
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

/// What an operator hears of an event of the mirror.
fn sentence(event: &Event, cluster: &Cluster) -> Option<String> {
    let name = |number| images::volume_named(number, cluster);
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
        Event::Replayed { writes, bytes } => Some(format!(
            "the peer was away for a moment; it gets the {writes} writes ({}) that it lacks",
            size::shown(*bytes)
        )),
        Event::Thawed => Some("the data session was interrupted and goes on".to_owned()),
        Event::ResyncDone => Some("resync done".to_owned()),
        Event::InSync { epoch } => Some(format!("both boxes are in sync (epoch {epoch})")),
        Event::CacheLost { volume } => Some(format!(
            "{}: power was lost with unflushed writes; the next flush of each initiator fails \
             once so that it knows; check file systems that were in use",
            name(*volume)
        )),
        Event::Scrubbed { volume, found } if found.asked || found.differing > 0 => Some(format!(
            "scrub of {} ended: {} compared, {} blocks of 4 KiB differ, {} were mended, {} cannot \
             be read",
            name(*volume),
            size::shown(found.blocks * 4096),
            found.differing,
            found.mended,
            found.unreadable
        )),
        Event::Alarm(text) => Some(format!("alarm: {text}")),
        Event::PeerUp { .. } => Some("the data session to the peer is up".to_owned()),
        Event::VolumeReady { spec } => Some(format!("{} is attached", name(spec.number))),
        Event::VolumeGrown { spec } => Some(format!(
            "{} has {} here",
            name(spec.number),
            size::shown(spec.size_bytes)
        )),
        Event::VolumeGone { number } => Some(format!("{} is deleted here", name(*number))),
        Event::Data(_)
        | Event::PeerLost { .. }
        | Event::Sealed { .. }
        | Event::Serving { .. }
        | Event::Readmit { .. }
        | Event::Drained { .. }
        | Event::CopiesDiffer { .. }
        | Event::Scrubbed { .. }
        | Event::ResyncProgress { .. } => None,
    }
}
