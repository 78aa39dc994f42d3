//! The replicated cluster configuration: a value, its edits, and the rules it must keep.
//!
//! It lives in the system volume (law D10) and is changed only by the primary, through [`Edit`]
//! (law D11). An edit either gives a whole new valid value with the next generation or an error
//! and no change.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use iscsi_target::hosts;

use super::node::name_is_plain;
use crate::masking::Masking;

/// Volumes a pair holds at the most; the system volume is not counted.
pub const VOLUMES_MAX: usize = 256;
/// Service addresses a pair holds at the most: each has a portal group of its own.
pub const ADDRESSES_MAX: usize = 16;
/// Smallest and largest volume.
pub const VOLUME_BYTES_MIN: u64 = 1 << 20;
const VOLUME_BYTES_MAX: u64 = 1 << 50;

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
    /// Who may log in.
    #[serde(rename = "host")]
    pub hosts: Vec<Host>,
    /// Which host sees which volume under which number.
    #[serde(rename = "map")]
    pub maps: Vec<Map>,
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
            hosts: Vec::new(),
            maps: Vec::new(),
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

/// A service address: moves with the primary role.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Bits of its network.
    pub prefix: u8,
    /// Portal group tag, target port group and relative port: they belong to the portal.
    pub tag: u16,
}

impl Address {
    /// The address with its network.
    #[must_use]
    pub const fn network(&self) -> Network {
        Network {
            ip: self.ip,
            prefix: self.prefix,
        }
    }
}

/// One volume.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Name, for people.
    pub name: String,
    /// Number in the group.
    pub number: u32,
    /// Identity; NAA id and serial derive from it.
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

/// An IP network.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    /// First address or any in it.
    pub ip: IpAddr,
    /// Bits.
    pub prefix: u8,
}

/// CHAP credentials. Never printed by status, logs or `config show`.
#[derive(Clone, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Chap {
    /// Name the initiator gives.
    pub user: String,
    /// Its secret, 12 to 16 bytes or more.
    pub secret: String,
    /// Name and secret the target proves itself with (mutual CHAP).
    #[serde(default)]
    pub mutual: Option<(String, String)>,
}

impl std::fmt::Debug for Chap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chap({}, ***)", self.user)
    }
}

/// One line of a LUN map.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Map {
    /// Host name.
    pub host: String,
    /// Number the host sees.
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
    /// Forgets a volume that is not mapped.
    RemoveVolume(String),
    /// A new host.
    AddHost(Host),
    /// Forgets a host and its maps.
    RemoveHost(String),
    /// Shows a volume to a host.
    Map(Map),
    /// Hides it again.
    Unmap {
        /// Host name.
        host: String,
        /// Number the host sees.
        lun: u16,
    },
    /// A new service address.
    AddAddress(Network),
    /// Gives a service address up.
    RemoveAddress(IpAddr),
}

impl Cluster {
    /// The value after `edit`, made by the primary of `epoch`.
    ///
    /// # Errors
    /// A sentence with what is wrong and what to do; nothing changes.
    pub fn with(&self, edit: &Edit, epoch: u64) -> Result<Self, String> {
        let mut next = self.clone();
        next.edit(edit)?;
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

    fn edit(&mut self, edit: &Edit) -> Result<(), String> {
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
            } => {
                self.volumes.push(Volume {
                    name: name.clone(),
                    number: self.next_volume,
                    uuid: *uuid,
                    size_bytes: *size_bytes,
                });
                self.next_volume += 1;
            }
            Edit::RemoveVolume(name) => self.remove_volume(name)?,
            Edit::AddHost(host) => self.hosts.push(host.clone()),
            Edit::RemoveHost(name) => {
                self.host(name)?;
                self.hosts.retain(|host| host.name != *name);
                self.maps.retain(|map| map.host != *name);
            }
            Edit::Map(map) => self.maps.push(map.clone()),
            Edit::Unmap { host, lun } => {
                let before = self.maps.len();
                self.maps.retain(|map| map.host != *host || map.lun != *lun);
                if self.maps.len() == before {
                    return Err(format!(
                        "host {host} has no LUN {lun}; see `twinsan lun list`"
                    ));
                }
            }
            Edit::AddAddress(network) => {
                let Network { ip, prefix } = *network;
                self.addresses.push(Address {
                    ip,
                    prefix,
                    tag: self.next_tag,
                });
                self.next_tag += 1;
            }
            Edit::RemoveAddress(ip) => {
                let before = self.addresses.len();
                self.addresses.retain(|address| address.ip != *ip);
                if self.addresses.len() == before {
                    return Err(format!(
                        "{ip} is no service address; see `twinsan address list`"
                    ));
                }
            }
        }
        Ok(())
    }

    fn remove_volume(&mut self, name: &str) -> Result<(), String> {
        self.volume(name)?;
        if let Some(map) = self.maps.iter().find(|map| map.volume == name) {
            return Err(format!(
                "volume {name} is LUN {} of host {}; first `twinsan lun unmap {} {}`",
                map.lun, map.host, map.host, map.lun
            ));
        }
        self.volumes.retain(|volume| volume.name != name);
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

    /// Every rule of the whole value.
    fn check(&self) -> Result<(), String> {
        self.check_volumes()?;
        for host in &self.hosts {
            name_is_plain(&host.name)?;
        }
        for map in &self.maps {
            self.host(&map.host)?;
        }
        Masking::of(self)?;
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
            if !(VOLUME_BYTES_MIN..=VOLUME_BYTES_MAX).contains(&volume.size_bytes)
                || volume.size_bytes % 4096 != 0
            {
                return Err(format!(
                    "{} bytes is no size for volume {}; use 1 MiB to 1 PiB in whole 4 KiB",
                    volume.size_bytes, volume.name
                ));
            }
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), String> {
        if self.addresses.len() > ADDRESSES_MAX {
            return Err(format!("a pair holds {ADDRESSES_MAX} service addresses"));
        }
        for (index, address) in self.addresses.iter().enumerate() {
            if self.addresses[..index]
                .iter()
                .any(|other| other.ip == address.ip)
            {
                return Err(format!("{} is a service address already", address.ip));
            }
            let ip = address.ip;
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
        for chap in shown.hosts.iter_mut().filter_map(|host| host.chap.as_mut()) {
            "***".clone_into(&mut chap.secret);
            if let Some((_, secret)) = &mut chap.mutual {
                "***".clone_into(secret);
            }
        }
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

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an address with network bits; write 10.0.0.10/24");
        let (ip, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let bits_max = if ip.is_ipv4() { 32 } else { 128 };
        if prefix > bits_max {
            Err(wrong())
        } else {
            Ok(Self { ip, prefix })
        }
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, iqn: &str) -> Host {
        Host {
            name: name.into(),
            iqns: vec![iqn.into()],
            networks: vec![],
            chap: None,
        }
    }

    fn with_one_volume() -> Cluster {
        let add = Edit::AddVolume {
            name: "v".into(),
            uuid: Uuid::from_u128(1),
            size_bytes: 1 << 20,
        };
        Cluster::default().with(&add, 3).expect("a good edit")
    }

    #[test]
    fn generations_grow_with_edits_and_epochs() {
        let first = with_one_volume();
        assert_eq!(
            first.generation,
            Generation {
                epoch: 3,
                counter: 1
            }
        );
        let second = first
            .with(&Edit::AddHost(host("h", "iqn.2026-11.org.x:h")), 3)
            .expect("good");
        assert_eq!(
            second.generation,
            Generation {
                epoch: 3,
                counter: 2
            }
        );
        let third = second.with(&Edit::RemoveHost("h".into()), 9).expect("good");
        assert_eq!(
            third.generation,
            Generation {
                epoch: 9,
                counter: 1
            }
        );
    }

    #[test]
    fn numbers_and_tags_are_never_reused() {
        let cluster = with_one_volume()
            .with(&Edit::RemoveVolume("v".into()), 3)
            .expect("good");
        let add = Edit::AddVolume {
            name: "v".into(),
            uuid: Uuid::nil(),
            size_bytes: 1 << 20,
        };
        let again = cluster.with(&add, 3).expect("good");
        assert_eq!(again.volumes[0].number, 2);
    }

    #[test]
    fn bad_edits_say_why() {
        let cluster = with_one_volume()
            .with(&Edit::AddHost(host("a", "iqn.2026-11.org.x:a")), 3)
            .expect("good");
        let map = Map {
            host: "a".into(),
            lun: 0,
            volume: "v".into(),
            read_only: false,
        };
        let mapped = cluster.with(&Edit::Map(map.clone()), 3).expect("good");
        let any = Host {
            name: "any".into(),
            iqns: vec![],
            networks: vec![],
            chap: None,
        };
        let mut short = host("c", "iqn.2026-11.org.x:c");
        short.chap = Some(Chap {
            user: "u".into(),
            secret: "short".into(),
            mutual: None,
        });
        let cases = [
            (Edit::AddHost(host("b", "iqn.2026-11.org.x:a")), "keep one"),
            (Edit::AddHost(host("b", "IQN.bad")), "is not an iSCSI name"),
            (Edit::AddHost(host("b", "iqn.2026-11.org.x:*")), "wildcard"),
            (Edit::AddHost(any), "needs source networks"),
            (Edit::AddHost(short), "at least 12 bytes"),
            (Edit::Map(map), "mapped twice"),
            (
                Edit::RemoveVolume("v".into()),
                "first `twinsan lun unmap a 0`",
            ),
            (
                Edit::Unmap {
                    host: "a".into(),
                    lun: 7,
                },
                "has no LUN 7",
            ),
            (
                Edit::AddAddress(Network {
                    ip: [0, 0, 0, 0].into(),
                    prefix: 8,
                }),
                "cannot be",
            ),
        ];
        for (edit, words) in cases {
            let said = mapped.with(&edit, 3).expect_err(words);
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn secrets_are_masked() {
        let mut secret = host("h", "iqn.2026-11.org.x:h");
        secret.chap = Some(Chap {
            user: "u".into(),
            secret: "0123456789ab".into(),
            mutual: None,
        });
        let cluster = Cluster::default()
            .with(&Edit::AddHost(secret), 1)
            .expect("good");
        let shown = toml::to_string(&cluster.masked()).expect("serializes");
        assert!(!shown.contains("0123456789ab"), "{shown}");
        assert!(!format!("{cluster:?}").contains("0123456789ab"));
    }
}
