//! The replicated cluster configuration: a value, its edits, and the rules it must keep.
//!
//! It lives in the system volume (law D10) and is changed only by the primary, through [`Edit`]
//! (law D11). An edit either gives a whole new valid value with the next generation or an error
//! and no change.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use iscsi_target::hosts;
use replication::meta;

use super::address::{Cidr, Network};
use super::fence::{self, Fence};
use super::node::name_is_plain;
use super::plan::MASK;
use crate::masking::Masking;
use crate::size;

/// Volumes a pair holds at the most; the system volume is not counted.
pub const VOLUMES_MAX: usize = 256;
/// Service addresses a pair holds at the most: each has a portal group of its own.
pub const ADDRESSES_MAX: usize = 16;
/// Groups of hosts in one configuration.
pub const GROUPS_MAX: usize = 64;
/// Smallest volume: one region of the mirror. The largest is the mirror's.
pub const VOLUME_BYTES_MIN: u64 = meta::REGION_BYTES;
/// How fast both copies are compared while nobody says another rate.
pub const SCRUB_BYTES_PER_S: u64 = 4 << 20;
/// No disk is read faster.
const SCRUB_BYTES_PER_S_MAX: u64 = 1 << 40;

/// Everything both boxes agree on.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    /// Order of changes (law D11).
    pub generation: Generation,
    /// iSCSI name of the one target both boxes present.
    pub target: String,
    /// Service addresses.
    #[serde(rename = "address")]
    pub addresses: Vec<Address>,
    /// Volumes.
    #[serde(rename = "volume")]
    pub volumes: Vec<Volume>,
    /// CHAP for discovery; without it a host proves there what it proves everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discovery: Option<Chap>,
    /// Who may log in.
    #[serde(rename = "host")]
    pub hosts: Vec<Host>,
    /// Hosts that share maps.
    #[serde(rename = "group")]
    pub groups: Vec<Group>,
    /// Who sees which volume under which number.
    #[serde(rename = "map")]
    pub maps: Vec<Map>,
    /// What turns a box off.
    #[serde(rename = "fence", skip_serializing_if = "Vec::is_empty")]
    pub fences: Vec<Fence>,
    /// How fast both copies are compared while they are in use; 0: not at all.
    pub scrub_bytes_per_s: u64,
    /// Next number for a volume; numbers are never reused.
    pub next_volume: u32,
    /// Next portal tag; tags are never reused, because initiators remember them.
    pub next_tag: u16,
}

impl Default for Cluster {
    /// Nothing yet. Volume number 0 is the system volume's.
    fn default() -> Self {
        Self {
            generation: Generation::default(),
            target: String::new(),
            addresses: Vec::new(),
            volumes: Vec::new(),
            discovery: None,
            hosts: Vec::new(),
            groups: Vec::new(),
            maps: Vec::new(),
            fences: Vec::new(),
            scrub_bytes_per_s: SCRUB_BYTES_PER_S,
            next_volume: 1,
            next_tag: 1,
        }
    }
}

/// (epoch, counter): every change by a later primary is later (law D11).
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Generation {
    /// Epoch of the primary that made the change.
    pub epoch: u64,
    /// Changes in that epoch.
    pub counter: u64,
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.counter)
    }
}

impl FromStr for Generation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('.');
        let parsed = parts.and_then(|(epoch, counter)| {
            let (epoch, counter) = (epoch.parse().ok()?, counter.parse().ok()?);
            Some(Self { epoch, counter })
        });
        parsed.ok_or_else(|| format!("`{text}` is no generation; they look like 3.12"))
    }
}

/// A service address: moves with the primary role.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// The address and the bits of its network.
    pub cidr: Cidr,
    /// Portal group tag, target port group and relative port: they belong to the portal.
    #[serde(default)]
    pub tag: u16,
}

/// One volume.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Name, for people.
    pub name: String,
    /// Number in the group.
    #[serde(default)]
    pub number: u32,
    /// Identity; NAA id and serial derive from it.
    #[serde(default)]
    pub uuid: Uuid,
    /// Size.
    pub size_bytes: u64,
}

/// One host: who may log in, and how it proves it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Name, for people; `any` matches initiators that no other host names.
    pub name: String,
    /// Its iSCSI names.
    #[serde(default)]
    pub iqns: Vec<String>,
    /// Networks it may come from; empty: everywhere.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// CHAP, if it must authenticate.
    #[serde(default)]
    pub chap: Option<Chap>,
}

/// Several hosts that see the same volumes under the same numbers, such as a cluster's.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Name, for people; no host has it.
    pub name: String,
    /// Names of its hosts.
    #[serde(default)]
    pub hosts: Vec<String>,
}

/// Who a map is for, by name.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Viewer {
    /// One host.
    Host(String),
    /// Each host of a group.
    Group(String),
}

/// CHAP credentials. Never printed by status, logs or `config show`.
#[derive(Clone, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Chap {
    /// Name the initiator gives.
    pub user: String,
    /// Its secret, at least 12 bytes.
    pub secret: String,
    /// Name and secret the target proves itself with (mutual CHAP).
    #[serde(default)]
    pub mutual: Option<(String, String)>,
}

impl fmt::Debug for Chap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chap({}, ***)", self.user)
    }
}

/// One line of a LUN map.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Map {
    /// Who sees it.
    pub to: Viewer,
    /// Number they see.
    pub lun: u16,
    /// Volume name.
    pub volume: String,
    /// Writes are refused.
    #[serde(default)]
    pub read_only: bool,
}

/// One change.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Edit {
    /// Names the target; only while it has neither addresses nor maps.
    Target(String),
    /// A new volume; its number is the next one.
    AddVolume {
        /// Name.
        name: String,
        /// Identity.
        uuid: Uuid,
        /// Size.
        size_bytes: u64,
    },
    /// Makes a volume larger.
    GrowVolume {
        /// Name.
        name: String,
        /// Its new size.
        size_bytes: u64,
    },
    /// Forgets a volume that is not mapped.
    RemoveVolume(String),
    /// What discovery must prove; none: what the host must prove.
    Discovery(Option<Chap>),
    /// A new host.
    AddHost(Host),
    /// Forgets a host, its maps and its places in groups.
    RemoveHost(String),
    /// A new group, without hosts.
    AddGroup(String),
    /// Forgets a group that has no maps.
    RemoveGroup(String),
    /// Puts a host into a group: it sees what the group sees.
    Join(Membership),
    /// Takes a host out of a group.
    Leave(Membership),
    /// Shows a volume to a host or a group.
    Map(Map),
    /// Hides it again.
    Unmap {
        /// From whom.
        from: Viewer,
        /// Number they see.
        lun: u16,
    },
    /// A new service address.
    AddAddress(Cidr),
    /// Gives a service address up.
    RemoveAddress(IpAddr),
    /// Another device that turns a box off.
    AddFence(Fence),
    /// Forgets a device.
    RemoveFence(String),
    /// How fast both copies are compared, in bytes per second; 0: not at all.
    ScrubRate(u64),
}

/// A host in a group.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Membership {
    /// Name of the group.
    pub group: String,
    /// Name of the host.
    pub host: String,
}

impl Cluster {
    /// The value after `edit`, made by the primary of `epoch`.
    ///
    /// # Errors
    /// A sentence with what is wrong and what to do; nothing changes.
    pub fn with(&self, edit: &Edit, epoch: u64) -> Result<Self, String> {
        self.with_all(std::slice::from_ref(edit), epoch)
    }

    /// The value after `edits`, which are one change, made by the primary of `epoch`. Between them
    /// it need not be valid.
    ///
    /// # Errors
    /// A sentence with what is wrong and what to do; nothing changes.
    pub fn with_all(&self, edits: &[Edit], epoch: u64) -> Result<Self, String> {
        let mut next = self.clone();
        for edit in edits {
            next.edit(edit)?;
        }
        next.check()?;
        next.generation = if self.generation.epoch == epoch {
            Generation {
                epoch,
                counter: self.generation.counter + 1,
            }
        } else {
            Generation { epoch, counter: 1 }
        };
        assert!(
            next.generation > self.generation,
            "law D11: generations only grow"
        );
        Ok(next)
    }

    pub(super) fn edit(&mut self, edit: &Edit) -> Result<(), String> {
        match edit {
            Edit::Target(name) if self.maps.is_empty() && self.addresses.is_empty() => {
                self.target = hosts::check_initiator(name).map_err(|error| error.to_string())?;
            }
            Edit::Target(_) => {
                return Err(format!(
                    "the target is called {} and has addresses or maps; initiators remember its \
                     name, so it stays",
                    self.target
                ));
            }
            Edit::AddVolume {
                name,
                uuid,
                size_bytes,
            } => self.add_volume(name, *uuid, *size_bytes),
            Edit::GrowVolume { name, size_bytes } => self.grow_volume(name, *size_bytes)?,
            Edit::RemoveVolume(name) => self.remove_volume(name)?,
            Edit::Discovery(chap) => self.discovery.clone_from(chap),
            Edit::AddHost(host) => self.hosts.push(host.clone()),
            Edit::RemoveHost(name) => self.remove_host(name)?,
            Edit::AddGroup(name) => self.groups.push(Group {
                name: name.clone(),
                hosts: Vec::new(),
            }),
            Edit::RemoveGroup(name) => self.remove_group(name)?,
            Edit::Join(Membership { group, host }) => {
                self.host(host)?;
                self.group(group)?.hosts.push(host.clone());
            }
            Edit::Leave(Membership { group, host }) => {
                let hosts = &mut self.group(group)?.hosts;
                let at = hosts.iter().position(|member| member == host);
                hosts.remove(at.ok_or_else(|| {
                    format!("host {host} is not in group {group}; see `twinsan group list`")
                })?);
            }
            Edit::Map(map) => self.maps.push(map.clone()),
            Edit::Unmap { from, lun } => {
                let before = self.maps.len();
                self.maps.retain(|map| map.to != *from || map.lun != *lun);
                if self.maps.len() == before {
                    return Err(format!("{from} has no LUN {lun}; see `twinsan lun list`"));
                }
            }
            Edit::AddAddress(cidr) => {
                self.addresses.push(Address {
                    cidr: *cidr,
                    tag: self.next_tag,
                });
                self.next_tag += 1;
            }
            Edit::RemoveAddress(ip) => {
                let before = self.addresses.len();
                self.addresses.retain(|address| address.cidr.ip() != *ip);
                if self.addresses.len() == before {
                    return Err(format!(
                        "{ip} is no service address; see `twinsan address list`"
                    ));
                }
            }
            Edit::AddFence(fence) => self.fences.push(fence.clone()),
            Edit::RemoveFence(name) => self.remove_fence(name)?,
            Edit::ScrubRate(bytes_per_s) => self.scrub_bytes_per_s = *bytes_per_s,
        }
        Ok(())
    }

    fn add_volume(&mut self, name: &str, uuid: Uuid, size_bytes: u64) {
        self.volumes.push(Volume {
            name: name.to_owned(),
            number: self.next_volume,
            uuid,
            size_bytes,
        });
        self.next_volume += 1;
    }

    fn grow_volume(&mut self, name: &str, size_bytes: u64) -> Result<(), String> {
        let number = self.volume(name)?.number;
        let found = self.volumes.iter_mut().find(|it| it.number == number);
        let volume = found.ok_or("the volume is gone")?;
        if size_bytes < volume.size_bytes {
            return Err(format!(
                "volume {name} has {} and cannot shrink to {}: the data at its end would be lost; \
                 make a smaller volume and copy what is needed",
                size::shown(volume.size_bytes),
                size::shown(size_bytes)
            ));
        }
        if size_bytes == volume.size_bytes {
            let shown = size::shown(size_bytes);
            return Err(format!("volume {name} has {shown} already"));
        }
        volume.size_bytes = size_bytes;
        Ok(())
    }

    fn remove_volume(&mut self, name: &str) -> Result<(), String> {
        self.volume(name)?;
        if let Some(map) = self.maps.iter().find(|map| map.volume == name) {
            return Err(format!(
                "volume {name} is LUN {} of {}; first `{}`",
                map.lun,
                map.to,
                map.unmap()
            ));
        }
        self.volumes.retain(|volume| volume.name != name);
        Ok(())
    }

    fn remove_host(&mut self, name: &str) -> Result<(), String> {
        self.host(name)?;
        self.hosts.retain(|host| host.name != name);
        let own = Viewer::Host(name.to_owned());
        self.maps.retain(|map| map.to != own);
        for group in &mut self.groups {
            group.hosts.retain(|host| host != name);
        }
        Ok(())
    }

    fn remove_group(&mut self, name: &str) -> Result<(), String> {
        self.group(name)?;
        let own = Viewer::Group(name.to_owned());
        if let Some(map) = self.maps.iter().find(|map| map.to == own) {
            return Err(format!(
                "{own} still has LUN {}; first `{}`",
                map.lun,
                map.unmap()
            ));
        }
        self.groups.retain(|group| group.name != name);
        Ok(())
    }

    fn remove_fence(&mut self, name: &str) -> Result<(), String> {
        let at = self.fences.iter().position(|fence| fence.name == name);
        let at = at.ok_or_else(|| {
            format!("there is no fencing device {name}; see `twinsan fence list`")
        })?;
        self.fences.remove(at);
        Ok(())
    }

    /// The volume of that name.
    ///
    /// # Errors
    /// A sentence that says how to list volumes.
    pub fn volume(&self, name: &str) -> Result<&Volume, String> {
        self.volumes
            .iter()
            .find(|volume| volume.name == name)
            .ok_or_else(|| format!("there is no volume {name}; see `twinsan volume list`"))
    }

    fn host(&self, name: &str) -> Result<&Host, String> {
        self.hosts
            .iter()
            .find(|host| host.name == name)
            .ok_or_else(|| format!("there is no host {name}; see `twinsan host list`"))
    }

    fn group(&mut self, name: &str) -> Result<&mut Group, String> {
        self.groups
            .iter_mut()
            .find(|group| group.name == name)
            .ok_or_else(|| no_group(name))
    }

    /// Every rule of the whole value.
    fn check(&self) -> Result<(), String> {
        self.check_volumes()?;
        for host in &self.hosts {
            name_is_plain(&host.name)?;
        }
        self.check_groups()?;
        for (index, map) in self.maps.iter().enumerate() {
            let same = |other: &&Map| other.to == map.to && other.lun == map.lun;
            if let Some(other) = self.maps[..index].iter().find(same) {
                return Err(format!(
                    "{} has volume {} as LUN {} already; first `{}`, or choose another number",
                    map.to,
                    other.volume,
                    map.lun,
                    other.unmap()
                ));
            }
            match &map.to {
                Viewer::Host(name) => {
                    self.host(name)?;
                }
                Viewer::Group(name) if self.groups.iter().any(|group| group.name == *name) => {}
                Viewer::Group(name) => return Err(no_group(name)),
            }
        }
        if self.scrub_bytes_per_s > SCRUB_BYTES_PER_S_MAX {
            return Err(format!(
                "no disk is read at {}/s; say a lower rate",
                size::shown(self.scrub_bytes_per_s)
            ));
        }
        Masking::of(self)?;
        fence::check(&self.fences)?;
        self.check_addresses()
    }

    fn check_volumes(&self) -> Result<(), String> {
        if self.volumes.len() > VOLUMES_MAX {
            return Err(format!(
                "a pair holds {VOLUMES_MAX} volumes; delete one first"
            ));
        }
        unique(
            self.volumes.iter().map(|volume| volume.name.as_str()),
            "volume",
        )?;
        for volume in &self.volumes {
            name_is_plain(&volume.name)?;
            if volume.size_bytes < VOLUME_BYTES_MIN || !meta::is_size(volume.size_bytes) {
                return Err(format!(
                    "{} bytes is no size for volume {}; use {} to {} in whole {}",
                    volume.size_bytes,
                    volume.name,
                    size::shown(VOLUME_BYTES_MIN),
                    size::shown(meta::VOLUME_MAX_BYTES),
                    size::shown(meta::UNIT_BYTES)
                ));
            }
        }
        Ok(())
    }

    /// Hosts and groups share one space of names, so that a name in a list says who is meant.
    fn check_groups(&self) -> Result<(), String> {
        if self.groups.len() > GROUPS_MAX {
            return Err(format!(
                "a pair holds {GROUPS_MAX} groups; delete one first"
            ));
        }
        unique(self.groups.iter().map(|it| it.name.as_str()), "group")?;
        for group in &self.groups {
            name_is_plain(&group.name)?;
            if self.host(&group.name).is_ok() {
                return Err(format!(
                    "{} is the name of a host and of a group; choose another name",
                    group.name
                ));
            }
            let mut seen = std::collections::BTreeSet::new();
            if let Some(twice) = group.hosts.iter().find(|host| !seen.insert(*host)) {
                return Err(format!("host {twice} is in group {} already", group.name));
            }
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), String> {
        if self.addresses.len() > ADDRESSES_MAX {
            return Err(format!("a pair holds {ADDRESSES_MAX} service addresses"));
        }
        for (index, address) in self.addresses.iter().enumerate() {
            let ip = address.cidr.ip();
            if self.addresses[..index]
                .iter()
                .any(|other| other.cidr.ip() == ip)
            {
                return Err(format!("{ip} is a service address already"));
            }
            if ip.is_unspecified() || ip.is_multicast() {
                return Err(format!(
                    "{ip} cannot be a service address; use one host address"
                ));
            }
        }
        Ok(())
    }

    /// A copy without secrets, to show.
    #[must_use]
    pub fn masked(&self) -> Self {
        let mut shown = self.clone();
        let hosts = shown.hosts.iter_mut().filter_map(|host| host.chap.as_mut());
        for chap in hosts.chain(shown.discovery.as_mut()) {
            MASK.clone_into(&mut chap.secret);
            if let Some((_, secret)) = &mut chap.mutual {
                MASK.clone_into(secret);
            }
        }
        shown.fences.iter_mut().for_each(Fence::mask);
        shown
    }
}

fn unique<'a>(names: impl Iterator<Item = &'a str>, what: &str) -> Result<(), String> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(format!(
                "there is a {what} {name} already; choose another name"
            ));
        }
    }
    Ok(())
}

fn no_group(name: &str) -> String {
    format!("there is no group {name}; see `twinsan group list`")
}

impl Map {
    /// The command that ends it.
    fn unmap(&self) -> String {
        let group = match self.to {
            Viewer::Host(_) => "",
            Viewer::Group(_) => " --group",
        };
        format!("twinsan lun unmap {} {}{group}", self.to.name(), self.lun)
    }
}

impl Viewer {
    /// Its name; hosts and groups share one space of names.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Host(name) | Self::Group(name) => name,
        }
    }
}

impl fmt::Display for Viewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => write!(f, "host {name}"),
            Self::Group(name) => write!(f, "group {name}"),
        }
    }
}

#[cfg(test)]
mod tests;
