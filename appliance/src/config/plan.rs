//! Several edits at once: what turns one cluster configuration into another, and the history that
//! lets a change be taken back.
//!
//! Volumes hold data, so no plan makes one smaller or deletes it, and taking a change back leaves
//! them as they are.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::cluster::{Chap, Cluster, Edit, Generation, Membership};
use crate::size;

/// Changes that are remembered.
pub const HISTORY_MAX: usize = 20;
/// What stands for a secret where one is shown.
pub const MASK: &str = "***";

/// What is asked of the cluster configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// One edit.
    Edit(Edit),
    /// Whatever makes it this.
    Apply {
        /// As `config show` prints it; secrets that are masked stay what they are.
        wanted: Box<Cluster>,
        /// Only say what would change.
        rehearsal: bool,
    },
    /// What it was, but for volumes.
    Rollback {
        /// The generation to go back to; none: the one before the newest.
        to: Option<Generation>,
        /// Only say what would change.
        rehearsal: bool,
    },
}

/// One change that was made.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Past {
    /// The generation that it made.
    pub generation: Generation,
    /// Milliseconds since 1970, for people.
    pub unix_ms: u64,
    /// What was changed, a sentence for each edit.
    pub told: Vec<String>,
    /// What takes it back. It holds secrets, so no document shows it.
    #[serde(with = "as_json")]
    pub undo: Vec<Edit>,
}

/// The edits that make `now` into `wanted`, which comes from an operator's file.
///
/// # Errors
/// A sentence with what the file asks for and no edit may do.
pub fn between(now: &Cluster, wanted: &Cluster) -> Result<Vec<Edit>, String> {
    let mut wanted = wanted.clone();
    unmask(now, &mut wanted)?;
    let mut edits = Vec::new();
    for volume in &now.volumes {
        if !wanted.volumes.iter().any(|it| it.name == volume.name) {
            return Err(format!(
                "volume {0} is not in the file: no data is deleted that way; leave it in the file, \
                 or first `twinsan volume delete {0} --confirm {0}`",
                volume.name
            ));
        }
    }
    for volume in &wanted.volumes {
        match now.volumes.iter().find(|it| it.name == volume.name) {
            None => edits.push(Edit::AddVolume {
                name: volume.name.clone(),
                uuid: if volume.uuid.is_nil() {
                    Uuid::new_v4()
                } else {
                    volume.uuid
                },
                size_bytes: volume.size_bytes,
            }),
            Some(known) if known.uuid != volume.uuid && !volume.uuid.is_nil() => {
                return Err(format!(
                    "volume {} has another uuid in the file: initiators know it as {}",
                    volume.name, known.uuid
                ));
            }
            Some(known) if known.size_bytes != volume.size_bytes => edits.push(Edit::GrowVolume {
                name: volume.name.clone(),
                size_bytes: volume.size_bytes,
            }),
            Some(_) => {}
        }
    }
    edits.extend(apart_from_volumes(now, &wanted));
    Ok(edits)
}

/// The edits that make `now` into `wanted` in everything but volumes.
#[must_use]
pub fn apart_from_volumes(now: &Cluster, wanted: &Cluster) -> Vec<Edit> {
    let mut plan = Plan {
        now: now.clone(),
        edits: Vec::new(),
    };
    if now.target != wanted.target && !wanted.target.is_empty() {
        plan.push(Edit::Target(wanted.target.clone()));
    }
    plan.take_away(wanted);
    plan.add(wanted);
    if now.discovery != wanted.discovery {
        plan.push(Edit::Discovery(wanted.discovery.clone()));
    }
    if now.scrub_bytes_per_s != wanted.scrub_bytes_per_s {
        plan.push(Edit::ScrubRate(wanted.scrub_bytes_per_s));
    }
    plan.edits
}

/// The edits so far, and what they have made.
struct Plan {
    now: Cluster,
    edits: Vec<Edit>,
}

impl Plan {
    fn push(&mut self, edit: Edit) {
        // One that cannot be made is refused when all of them are; here it only changes nothing.
        let _ = self.now.edit(&edit);
        self.edits.push(edit);
    }

    fn take_away(&mut self, wanted: &Cluster) {
        for map in self.now.maps.clone() {
            if !wanted.maps.contains(&map) {
                self.push(Edit::Unmap {
                    from: map.to,
                    lun: map.lun,
                });
            }
        }
        for host in self.now.hosts.clone() {
            if !wanted.hosts.contains(&host) {
                self.push(Edit::RemoveHost(host.name));
            }
        }
        for group in self.now.groups.clone() {
            let Some(stays) = wanted.groups.iter().find(|it| it.name == group.name) else {
                self.push(Edit::RemoveGroup(group.name));
                continue;
            };
            for host in group.hosts.iter().filter(|it| !stays.hosts.contains(it)) {
                self.push(Edit::Leave(Membership {
                    group: group.name.clone(),
                    host: host.clone(),
                }));
            }
        }
        for fence in self.now.fences.clone() {
            if !wanted.fences.contains(&fence) {
                self.push(Edit::RemoveFence(fence.name));
            }
        }
        for address in self.now.addresses.clone() {
            let same = |it: &super::cluster::Address| it.cidr == address.cidr;
            if !wanted.addresses.iter().any(same) {
                self.push(Edit::RemoveAddress(address.cidr.ip()));
            }
        }
    }

    fn add(&mut self, wanted: &Cluster) {
        for host in &wanted.hosts {
            if !self.now.hosts.contains(host) {
                self.push(Edit::AddHost(host.clone()));
            }
        }
        for group in &wanted.groups {
            let known = self.now.groups.iter().find(|it| it.name == group.name);
            let members = known.map(|it| it.hosts.clone());
            if members.is_none() {
                self.push(Edit::AddGroup(group.name.clone()));
            }
            let members = members.unwrap_or_default();
            for host in group.hosts.iter().filter(|it| !members.contains(it)) {
                self.push(Edit::Join(Membership {
                    group: group.name.clone(),
                    host: host.clone(),
                }));
            }
        }
        for map in &wanted.maps {
            if !self.now.maps.contains(map) {
                self.push(Edit::Map(map.clone()));
            }
        }
        for fence in &wanted.fences {
            if !self.now.fences.contains(fence) {
                self.push(Edit::AddFence(fence.clone()));
            }
        }
        for address in &wanted.addresses {
            let same = |it: &super::cluster::Address| it.cidr == address.cidr;
            if !self.now.addresses.iter().any(same) {
                self.push(Edit::AddAddress(address.cidr));
            }
        }
    }
}

/// Secrets that the file only stands in for.
fn unmask(now: &Cluster, wanted: &mut Cluster) -> Result<(), String> {
    for host in &mut wanted.hosts {
        let known = now.hosts.iter().find(|it| it.name == host.name);
        let known = known.and_then(|it| it.chap.as_ref());
        unmask_one(host.chap.as_mut(), known, &format!("host {}", host.name))?;
    }
    for fence in &mut wanted.fences {
        let known = now.fences.iter().find(|it| it.name == fence.name);
        fence.unmask(known)?;
    }
    unmask_one(
        wanted.discovery.as_mut(),
        now.discovery.as_ref(),
        "discovery",
    )
}

fn unmask_one(wanted: Option<&mut Chap>, now: Option<&Chap>, whose: &str) -> Result<(), String> {
    let Some(wanted) = wanted else {
        return Ok(());
    };
    let unknown = |user: &str| {
        format!(
            "the secret of {user} for {whose} is masked in the file and {whose} has no such user \
             now: write the secret"
        )
    };
    if wanted.secret == MASK {
        let known = now.filter(|known| known.user == wanted.user);
        let known = known.ok_or_else(|| unknown(&wanted.user))?;
        wanted.secret.clone_from(&known.secret);
    }
    if let Some((user, secret)) = &mut wanted.mutual
        && secret == MASK
    {
        let known = now.and_then(|known| known.mutual.as_ref());
        let known = known.filter(|(known, _)| known == user);
        let (_, known) = known.ok_or_else(|| unknown(user))?;
        secret.clone_from(known);
    }
    Ok(())
}

/// The edits that take back every change after `to`, newest first; without `to` the newest.
///
/// # Errors
/// A sentence if that generation is not remembered.
pub fn rollback(history: &[Past], to: Option<Generation>) -> Result<Vec<Edit>, String> {
    let newest = history.last().ok_or(
        "no change is remembered, so there is nothing to go back to; see `twinsan config history`",
    )?;
    let from = match to {
        None => history.len() - 1,
        Some(to) if to == newest.generation => {
            return Err(format!("the configuration is at generation {to} already"));
        }
        Some(to) => {
            let at = history.iter().position(|it| it.generation == to);
            at.map(|at| at + 1).ok_or_else(|| {
                format!(
                    "generation {to} is not remembered; see `twinsan config history` for those \
                     that are"
                )
            })?
        }
    };
    let undo = history[from..].iter().rev().flat_map(|past| &past.undo);
    Ok(undo.cloned().collect())
}

/// In words, without secrets.
impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target(name) => write!(f, "target {name}"),
            Self::AddVolume { name, .. } => write!(f, "volume {name} made"),
            Self::GrowVolume { name, size_bytes } => {
                write!(f, "volume {name} has {}", size::shown(*size_bytes))
            }
            Self::RemoveVolume(name) => write!(f, "volume {name} deleted"),
            Self::Discovery(Some(chap)) => write!(f, "discovery needs CHAP of {}", chap.user),
            Self::Discovery(None) => write!(f, "discovery needs what each host must prove"),
            Self::AddHost(host) => write!(f, "host {} added", host.name),
            Self::RemoveHost(name) => write!(f, "host {name} removed"),
            Self::AddGroup(name) => write!(f, "group {name} made"),
            Self::RemoveGroup(name) => write!(f, "group {name} deleted"),
            Self::Join(it) => write!(f, "host {} joined group {}", it.host, it.group),
            Self::Leave(it) => write!(f, "host {} left group {}", it.host, it.group),
            Self::Map(map) => write!(f, "volume {} is LUN {} of {}", map.volume, map.lun, map.to),
            Self::Unmap { from, lun } => write!(f, "LUN {lun} of {from} unmapped"),
            Self::AddAddress(cidr) => write!(f, "service address {cidr} added"),
            Self::RemoveAddress(ip) => write!(f, "service address {ip} removed"),
            Self::AddFence(fence) => write!(
                f,
                "fencing device {} ({}) turns {} off",
                fence.name,
                fence.agent.kind(),
                fence.node
            ),
            Self::RemoveFence(name) => write!(f, "fencing device {name} removed"),
            Self::ScrubRate(0) => write!(f, "volumes are not scrubbed any more"),
            Self::ScrubRate(bytes_per_s) => {
                write!(f, "volumes are scrubbed at {}/s", size::shown(*bytes_per_s))
            }
        }
    }
}

/// TOML has no way to say "none" within a list of edits; JSON has.
mod as_json {
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::Edit;

    pub(super) fn serialize<S: Serializer>(edits: &[Edit], to: S) -> Result<S::Ok, S::Error> {
        let text = serde_json::to_string(edits).map_err(S::Error::custom)?;
        to.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Edit>, D::Error> {
        let text = String::deserialize(from)?;
        serde_json::from_str(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
