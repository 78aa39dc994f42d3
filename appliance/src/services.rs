//! What the primary starts and stops around its volumes: configuration, target, addresses. Lives
//! on the data thread; the order and the retries are `ha`'s.

mod addresses;

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
use replication::types::{VolumeNumber, VolumeSpec};
use tokio::sync::watch;

use self::addresses::Held;
use crate::api::types::Refusal;
use crate::config::Cluster;
use crate::config::address::Cidr;
use crate::config::cluster::{Edit, Volume as VolumeConfig};
use crate::config::fence::Fence;
use crate::events::EventLog;
use crate::masking::Masking;
use crate::network::Addresses;
use crate::reservations::{Ledger, VolumeKey};
use crate::system::{Replicated, SystemVolume, awaited};
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
    pub(crate) async fn edit(&self, edit: &Edit) -> Result<String, Refusal> {
        self.inner.edit(edit).await
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

    async fn edit(&self, edit: &Edit) -> Result<String, Refusal> {
        if !self.configured.get() {
            return Err(Refusal::failed(
                "this box does not serve the pair now, so nothing was changed; ask the primary box \
                 (see `twinsan status`)",
            ));
        }
        let mut value = self.value.borrow().clone();
        // A change that was cut short may have used a number without leaving a volume.
        let used = self.mirror.status().highest.0;
        value.cluster.next_volume = value.cluster.next_volume.max(used + 1);
        let before = value.cluster.clone();
        let after = before
            .with(edit, self.epoch.get())
            .map_err(Refusal::usage)?;
        if let Edit::AddFence(fence) = edit {
            self.may_fence(fence).map_err(Refusal::usage)?;
        }
        if let Edit::AddAddress(cidr) = edit {
            self.may_serve(*cidr).await.map_err(Refusal::usage)?;
        }
        value.cluster = after.clone();
        SystemVolume::check(&value).map_err(Refusal::usage)?;
        if let Edit::AddVolume { name, .. } = edit {
            let volume = after.volume(name).map_err(Refusal::usage)?;
            self.make_volume(volume).await.map_err(Refusal::failed)?;
        }
        if let Edit::GrowVolume { name, size_bytes } = edit {
            let number = VolumeNumber(after.volume(name).map_err(Refusal::usage)?.number);
            let grow = |reply| self.mirror.grow_volume(number, *size_bytes, reply);
            let grown = awaited(grow).await;
            grown.map_err(|why| Refusal::failed(format!("volume {name} was not grown: {why}")))?;
        }
        self.system.store(&value).await.map_err(|error| {
            Refusal::failed(format!(
                "{error}; the change may or may not be in force: look at `twinsan config show`"
            ))
        })?;
        let stored = |error: String| {
            Refusal::failed(format!(
                "the change is stored on every in-sync box, but not all of it is done yet: \
                 {error}; see `twinsan events`"
            ))
        };
        self.put_in_force(value, Units::Live).map_err(stored)?;
        self.follow(edit, &before, &after).await.map_err(stored)?;
        let generation = after.generation;
        let text = format!(
            "done: cluster configuration {}.{} is on every in-sync box",
            generation.epoch, generation.counter
        );
        self.events.add(format!("{text} ({})", describe(edit)));
        Ok(text)
    }

    /// A device turns one of the boxes off, and is none of them itself: then it would be gone with
    /// the box, and nothing confirmed.
    fn may_fence(&self, fence: &Fence) -> Result<(), String> {
        if !self.boxes.contains(&fence.node) {
            return Err(format!(
                "there is no box {}; the boxes are {}",
                fence.node,
                self.boxes.join(" and ")
            ));
        }
        match fence.agent.address() {
            Some(address) if self.own.contains(&address) => Err(format!(
                "{address} is an address of a box or the witness and not of a device that turns \
                 one off; give the device's own address"
            )),
            Some(_) | None => Ok(()),
        }
    }

    async fn make_volume(&self, volume: &VolumeConfig) -> Result<(), String> {
        let spec = VolumeSpec {
            number: VolumeNumber(volume.number),
            uuid: volume.uuid.as_u128(),
            size_bytes: volume.size_bytes,
        };
        awaited(|reply| self.mirror.create_volume(spec, reply))
            .await
            .map(|_| ())
    }

    /// What a change asks for beyond the configuration itself.
    async fn follow(&self, edit: &Edit, before: &Cluster, after: &Cluster) -> Result<(), String> {
        match edit {
            Edit::RemoveVolume(name) => {
                let number = VolumeNumber(before.volume(name)?.number);
                awaited(|reply| self.mirror.delete_volume(number, reply))
                    .await
                    .map(|_| ())
            }
            Edit::AddAddress(cidr) => {
                let added = after.addresses.iter().find(|address| address.cidr == *cidr);
                self.raise(added.ok_or("the new address is gone again")?)
                    .await
            }
            Edit::RemoveAddress(ip) => {
                let held = self
                    .held
                    .borrow()
                    .keys()
                    .find(|cidr| cidr.ip() == *ip)
                    .copied();
                let Some(cidr) = held else { return Ok(()) };
                self.missing.borrow_mut().remove(&cidr);
                let held = self.held.borrow_mut().remove(&cidr);
                if let Some(held) = held {
                    self.lower(cidr, held).await;
                }
                Ok(())
            }
            Edit::Target(_)
            | Edit::AddVolume { .. }
            | Edit::GrowVolume { .. }
            | Edit::Discovery(_)
            | Edit::AddHost(_)
            | Edit::RemoveHost(_)
            | Edit::AddGroup(_)
            | Edit::RemoveGroup(_)
            | Edit::Join(_)
            | Edit::Leave(_)
            | Edit::Map(_)
            | Edit::Unmap { .. }
            | Edit::AddFence(_)
            | Edit::RemoveFence(_)
            | Edit::ScrubRate(_) => Ok(()),
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

/// A change in words, without secrets.
fn describe(edit: &Edit) -> String {
    match edit {
        Edit::Target(name) => format!("target {name}"),
        Edit::AddVolume { name, .. } => format!("volume {name} made"),
        Edit::GrowVolume { name, size_bytes } => {
            format!("volume {name} has {}", crate::size::shown(*size_bytes))
        }
        Edit::RemoveVolume(name) => format!("volume {name} deleted"),
        Edit::Discovery(Some(chap)) => format!("discovery needs CHAP of {}", chap.user),
        Edit::Discovery(None) => "discovery needs what each host must prove".to_owned(),
        Edit::AddHost(host) => format!("host {} added", host.name),
        Edit::RemoveHost(name) => format!("host {name} removed"),
        Edit::AddGroup(name) => format!("group {name} made"),
        Edit::RemoveGroup(name) => format!("group {name} deleted"),
        Edit::Join(it) => format!("host {} joined group {}", it.host, it.group),
        Edit::Leave(it) => format!("host {} left group {}", it.host, it.group),
        Edit::Map(map) => format!("volume {} is LUN {} of {}", map.volume, map.lun, map.to),
        Edit::Unmap { from, lun } => format!("LUN {lun} of {from} unmapped"),
        Edit::AddAddress(cidr) => format!("service address {cidr} added"),
        Edit::RemoveAddress(ip) => format!("service address {ip} removed"),
        Edit::AddFence(fence) => format!(
            "fencing device {} ({}) turns {} off",
            fence.name,
            fence.agent.kind(),
            fence.node
        ),
        Edit::RemoveFence(name) => format!("fencing device {name} removed"),
        Edit::ScrubRate(0) => "volumes are not scrubbed any more".to_owned(),
        Edit::ScrubRate(bytes_per_s) => {
            let rate = crate::size::shown(*bytes_per_s);
            format!("volumes are scrubbed at {rate}/s")
        }
    }
}
