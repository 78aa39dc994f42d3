//! The cluster configuration as the target understands it.

use std::collections::BTreeSet;

use iscsi_target::hosts::{
    self, Access, ChapSecret, ChapSecrets, GroupConfig, HostConfig, MapConfig, MapTarget, UnitId,
};

use crate::config::Cluster;
use crate::config::cluster::{Chap, Group, Host, Viewer};

/// Hosts, groups and maps, ready for the target.
#[derive(Clone, Debug)]
pub struct Masking {
    /// Who may log in.
    pub hosts: Vec<HostConfig>,
    /// What discovery must prove.
    pub discovery: Option<ChapSecrets>,
    /// Which of them share maps.
    pub groups: Vec<GroupConfig>,
    /// Who sees what.
    pub maps: Vec<MapConfig>,
}

impl Masking {
    /// Hosts, groups and maps of `cluster`, checked by the target's own rules.
    ///
    /// # Errors
    /// The rule that is broken, in words.
    pub fn of(cluster: &Cluster) -> Result<Self, String> {
        let hosts: Vec<HostConfig> = cluster.hosts.iter().map(host).collect();
        let discovery = cluster.discovery.as_ref().map(secrets);
        let groups: Vec<GroupConfig> = cluster.groups.iter().map(group).collect();
        let mut maps = Vec::new();
        for map in &cluster.maps {
            maps.push(MapConfig {
                target: match &map.to {
                    Viewer::Host(name) => MapTarget::Host(name.clone()),
                    Viewer::Group(name) => MapTarget::Group(name.clone()),
                },
                lun: map.lun,
                unit: UnitId(cluster.volume(&map.volume)?.uuid.as_u128()),
                access: if map.read_only {
                    Access::ReadOnly
                } else {
                    Access::ReadWrite
                },
            });
        }
        let units: BTreeSet<UnitId> = cluster
            .volumes
            .iter()
            .map(|volume| UnitId(volume.uuid.as_u128()))
            .collect();
        hosts::check(&hosts, &groups, &maps, &units)
            .and_then(|()| hosts::check_secrets(&hosts, discovery.as_ref()))
            .map_err(|error| error.to_string())?;
        Ok(Self {
            hosts,
            discovery,
            groups,
            maps,
        })
    }
}

fn host(host: &Host) -> HostConfig {
    HostConfig {
        name: host.name.clone(),
        initiators: host.iqns.clone(),
        chap: host.chap.as_ref().map(secrets),
        networks: host.networks.iter().map(|network| network.0).collect(),
    }
}

fn group(group: &Group) -> GroupConfig {
    GroupConfig {
        name: group.name.clone(),
        hosts: group.hosts.clone(),
    }
}

fn secrets(chap: &Chap) -> ChapSecrets {
    let secret = |name: &str, secret: &str| ChapSecret {
        name: name.to_owned(),
        secret: secret.as_bytes().to_vec(),
    };
    ChapSecrets {
        inbound: secret(&chap.user, &chap.secret),
        outbound: chap.mutual.as_ref().map(|(name, out)| secret(name, out)),
    }
}
