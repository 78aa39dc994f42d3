//! What the primary starts and stops around its volumes: configuration, target, addresses. Lives
//! on the data thread; the order and the retries are `ha`'s.

mod addresses;
mod changes;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ha::Resource;
use iscsi_target::backend::Backend;
use iscsi_target::discovery::Portal;
use iscsi_target::hosts::UnitId;
use iscsi_target::registry::{Limits, SessionInfo};
use iscsi_target::scsi::{ArrayConfig, Medium, Reserved, UnitConfig};
use iscsi_target::shell::{Target, TargetSettings};
use iscsi_target::types::PortalTag;
use replication::engine::Input;
use replication::shell::{Handle, LeaseCell};
use replication::types::VolumeNumber;
use tokio::sync::watch;

use self::addresses::Held;
use crate::api::types::Refusal;
use crate::config::Cluster;
use crate::config::address::Cidr;
use crate::config::cluster::Volume as VolumeConfig;
use crate::config::plan::{Change, Past};
use crate::events::EventLog;
use crate::masking::Masking;
use crate::network::Addresses;
use crate::reservations::{Ledger, VolumeKey};
use crate::system::{Replicated, SystemVolume};
use crate::volume::Volume;

/// Initiators remembered; a stranger under host `any` may choose its name.
const INITIATORS_MAX: usize = 1024;

/// What initiators are told of the time until they are dropped, in whole seconds: a planned move
/// takes less.
const DEPART_WITHIN_S: u16 = 1;

/// How long an address stays after its portal was closed, unless the box ends. A host that connects
/// again at once is refused by this kernel and tries once more; were the address gone before the
/// other box has it, the first packet of its connection would be lost and repeated after 1 s.
const LEAVE_AFTER: Duration = Duration::from_millis(300);

/// The services of one box.
#[derive(Clone)]
pub(crate) struct Services {
    inner: Rc<Inner>,
}

struct Inner {
    mirror: Handle,
    target: RefCell<Target>,
    name: RefCell<String>,
    addresses: Addresses,
    port: u16,
    group_name: String,
    events: Arc<EventLog>,
    cluster: watch::Sender<Cluster>,
    history: watch::Sender<Vec<Past>>,
    system: SystemVolume,
    ledger: Rc<Ledger>,
    value: RefCell<Replicated>,
    cache_lost: RefCell<BTreeSet<u32>>,
    epoch: Cell<u64>,
    configured: Cell<bool>,
    /// Raised when the addresses are given up: what was being raised before is not finished.
    reign: Cell<u64>,
    /// Addresses without a portal that are still to be taken away.
    leaving: RefCell<BTreeSet<Cidr>>,
    held: RefCell<BTreeMap<Cidr, Held>>,
    /// Whether this box is to serve the addresses.
    serving: Cell<bool>,
    /// Addresses that could not be served, and when each is tried again.
    missing: RefCell<BTreeMap<Cidr, u64>>,
    /// Addresses that are being raised.
    raising: RefCell<BTreeSet<Cidr>>,
    /// The boxes' own addresses.
    own: BTreeSet<IpAddr>,
    /// The boxes' names.
    boxes: [String; 2],
    lease: LeaseCell,
}

/// Where the units of a configuration have their reservations from.
#[derive(Clone, Copy)]
enum Units {
    /// This box begins to serve.
    Stored,
    /// It serves.
    Live,
}

/// What the services need from the daemon.
pub(crate) struct Parts {
    /// The mirror of this box.
    pub(crate) mirror: Handle,
    /// The kernel's addresses.
    pub(crate) addresses: Addresses,
    /// iSCSI port.
    pub(crate) port: u16,
    /// What a target is called that nobody named.
    pub(crate) group_name: String,
    /// Events of this box.
    pub(crate) events: Arc<EventLog>,
    /// Where each cluster configuration in force is published.
    pub(crate) cluster: watch::Sender<Cluster>,
    /// Where the changes that led to it are published.
    pub(crate) history: watch::Sender<Vec<Past>>,
    /// The boxes' own addresses: no service address may be one of them.
    pub(crate) own: BTreeSet<IpAddr>,
    /// The boxes' names: a fencing device turns one of them off.
    pub(crate) boxes: [String; 2],
    /// Nothing is announced without it.
    pub(crate) lease: LeaseCell,
}

impl Services {
    /// Nothing is started.
    #[must_use]
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            mirror,
            addresses,
            port,
            group_name,
            events,
            cluster,
            history,
            own,
            boxes,
            lease,
        } = parts;
        Self {
            inner: Rc::new(Inner {
                system: SystemVolume::new(mirror.clone()),
                ledger: Ledger::new(mirror.clone(), Arc::clone(&events)),
                mirror,
                target: RefCell::new(target_named("")),
                name: RefCell::default(),
                addresses,
                port,
                group_name,
                events,
                cluster,
                history,
                value: RefCell::default(),
                cache_lost: RefCell::default(),
                epoch: Cell::new(0),
                configured: Cell::new(false),
                reign: Cell::new(0),
                leaving: RefCell::default(),
                held: RefCell::default(),
                serving: Cell::new(false),
                missing: RefCell::default(),
                raising: RefCell::default(),
                own,
                boxes,
                lease,
            }),
        }
    }

    /// The epoch this box serves; changes made now carry it (law D11).
    pub(crate) fn serve_epoch(&self, epoch: u64) {
        self.inner.epoch.set(epoch);
    }

    /// The mirror says, before this box serves, that a volume lost unflushed writes (law D5).
    pub(crate) fn cache_lost(&self, volume: u32) {
        self.inner.cache_lost.borrow_mut().insert(volume);
    }

    /// Makes durable who has logged in and who has heard of a lost cache.
    ///
    /// # Errors
    /// A sentence for operators.
    pub(crate) async fn remember(&self) -> Result<(), String> {
        self.inner.remember().await
    }

    /// Who is logged in here.
    #[must_use]
    pub(crate) fn sessions(&self) -> Vec<SessionInfo> {
        self.inner.target().sessions()
    }

    /// Drops the sessions of an initiator; how many there were.
    pub(crate) fn drop_initiator(&self, name: &str) -> usize {
        self.inner.target().drop_initiator(name)
    }

    /// Starts one service.
    ///
    /// # Errors
    /// A sentence for operators.
    pub(crate) async fn start(&self, resource: Resource) -> Result<(), String> {
        match resource {
            Resource::Configuration => self.inner.read_configuration().await,
            Resource::Target => {
                self.inner.target().activate();
                Ok(())
            }
            Resource::Addresses => {
                self.inner.serving.set(true);
                self.raise_missing().await;
                Ok(())
            }
        }
    }

    /// Stops one service; what fails is logged and the rest goes on (law R8 needs the sessions
    /// dropped, not politeness).
    pub(crate) async fn stop(&self, resource: Resource) {
        match resource {
            Resource::Addresses => {
                self.inner.reign.set(self.inner.reign.get() + 1);
                self.inner.serving.set(false);
                self.inner.missing.borrow_mut().clear();
                let held = std::mem::take(&mut *self.inner.held.borrow_mut());
                for (cidr, held) in held {
                    self.inner.target().close_portal(held.tag);
                    self.inner.leaving.borrow_mut().insert(cidr);
                }
                let services = self.clone();
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(LEAVE_AFTER).await;
                    services.leave().await;
                });
            }
            Resource::Target => self.inner.target().deactivate(),
            Resource::Configuration => self.inner.configured.set(false),
        }
    }

    /// A planned move begins: initiators are asked to log out, so that they look for the other box
    /// without having been dropped. Who does not is dropped when the role goes.
    pub(crate) fn depart(&self) {
        self.inner.target().depart(DEPART_WITHIN_S);
    }

    /// The role stays here.
    pub(crate) fn stay(&self) {
        self.inner.target().stay();
    }

    /// R8, before anything else: nobody is answered any more.
    pub(crate) fn drop_sessions(&self) {
        self.inner.target().deactivate();
    }

    /// Makes a change of the cluster configuration durable on every member, then puts it in force.
    ///
    /// # Errors
    /// A refusal; nothing has changed unless it says so.
    pub(crate) async fn change(&self, change: &Change) -> Result<String, Refusal> {
        self.inner.change(change).await
    }
}

impl Inner {
    /// Law D11: no LUN is served before the configuration of the epoch served is read.
    async fn read_configuration(&self) -> Result<(), String> {
        let stored = self.system.read().await?;
        let volumes = self.mirror.status().volumes.len();
        if stored.is_none() && volumes > 1 {
            return Err(format!(
                "the system volume holds no configuration, but there are {} volumes: it is \
                 damaged; nothing is served and nothing was changed; stop twinsan on this box so \
                 that the other one takes over with its copy; if that says the same, keep both \
                 pools: the data of the volumes is not touched",
                volumes - 1
            ));
        }
        let first = stored.is_none();
        let mut value = stored.unwrap_or_default();
        if value.cluster.target.is_empty() {
            value.cluster.target = format!("iqn.2026-11.org.twinsan:{}", self.group_name);
        }
        // Law D5: who must hear of it is durable before the mirror may forget it.
        let lost = self.cache_lost.borrow().clone();
        if !lost.is_empty() || first {
            lost.iter().for_each(|volume| value.lose_cache(*volume));
            self.system.store(&value).await?;
        }
        for volume in lost {
            self.cache_lost.borrow_mut().remove(&volume);
            self.mirror.input(Input::CacheLossKept {
                volume: VolumeNumber(volume),
            });
        }
        // Nothing is known of the reservations of an epoch but what is stored (law D10).
        self.ledger.read(&value.cluster.volumes).await?;
        self.put_in_force(value, Units::Stored)?;
        self.configured.set(true);
        Ok(())
    }

    /// Shows `value` to initiators and to the API.
    fn put_in_force(&self, value: Replicated, units: Units) -> Result<(), String> {
        let cluster = &value.cluster;
        let masking = Masking::of(cluster)?;
        self.ledger.have(&cluster.volumes);
        self.mirror.input(Input::ScrubRate {
            bytes_per_s: cluster.scrub_bytes_per_s,
        });
        let renamed = self.name.borrow().as_str() != cluster.target;
        // A target of another name is another target: its units have no life yet.
        let units = if renamed { Units::Stored } else { units };
        let unit = |volume: &VolumeConfig| self.unit(volume, units);
        let units = cluster.volumes.iter().map(unit).collect();
        let config = ArrayConfig {
            hosts: masking.hosts,
            discovery: masking.discovery,
            groups: masking.groups,
            maps: masking.maps,
            units,
        };
        if renamed {
            self.rename(&cluster.target);
        }
        let target = self.target();
        target.apply(config).map_err(|error| error.to_string())?;
        let portals = cluster.addresses.iter().map(|address| Portal {
            address: SocketAddr::new(address.cidr.ip(), self.port),
            tag: PortalTag(address.tag),
        });
        target.portals_announced(portals.collect());
        for volume in &cluster.volumes {
            let owed = value.cache_lost.iter();
            let owed = owed.filter(|(_, volumes)| volumes.contains(&volume.number));
            target.array().borrow_mut().lose_cache(
                UnitId(volume.uuid.as_u128()),
                owed.map(|(initiator, _)| initiator),
            );
        }
        self.cluster.send_replace(value.cluster.clone());
        self.history.send_replace(value.history.clone());
        self.value.replace(value);
        Ok(())
    }

    /// Keeps who has logged in and who has heard of a lost cache (law D5).
    async fn remember(&self) -> Result<(), String> {
        let mut value = self.value.borrow().clone();
        let target = self.target();
        for session in target.sessions() {
            if value.initiators.len() < INITIATORS_MAX {
                value.initiators.insert(session.key.initiator);
            }
        }
        for (unit, initiator) in target.array().borrow_mut().cache_losses_told() {
            let volumes = &value.cluster.volumes;
            let volume = volumes
                .iter()
                .find(|volume| volume.uuid.as_u128() == unit.0);
            if let Some(number) = volume.map(|volume| volume.number) {
                value.heard(number, &initiator);
            }
        }
        if !self.configured.get() || *self.value.borrow() == value {
            return Ok(());
        }
        self.system.store(&value).await?;
        self.value.replace(value);
        Ok(())
    }

    fn target(&self) -> Target {
        self.target.borrow().clone()
    }

    /// A target has one name for life, so another name is another target. Only before it has
    /// addresses, see [`Edit::Target`].
    fn rename(&self, name: &str) {
        let renamed = target_named(name);
        if self.target().is_active() {
            renamed.activate();
        }
        self.target().deactivate();
        self.target.replace(renamed);
        name.clone_into(&mut self.name.borrow_mut());
    }

    fn unit(&self, volume: &VolumeConfig, units: Units) -> UnitConfig {
        let (mirror, ledger) = (self.mirror.clone(), Rc::clone(&self.ledger));
        let backend: Rc<dyn Backend> = Rc::new(Volume::new(mirror, ledger, volume));
        let reserved = match units {
            Units::Live => Reserved::Live,
            Units::Stored => Reserved::Stored(self.ledger.newest(VolumeKey::of(volume))),
        };
        UnitConfig {
            id: UnitId(volume.uuid.as_u128()),
            name: volume.name.clone(),
            backend,
            medium: Medium::Fixed,
            reserved,
        }
    }
}

fn target_named(name: &str) -> Target {
    Target::new(TargetSettings {
        name: name.to_owned(),
        alias: "twinsan".to_owned(),
        limits: Limits::default(),
    })
}
