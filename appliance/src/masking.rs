//! The cluster configuration as the target understands it.

use std::collections::BTreeSet;

use iscsi_target::hosts::{
    self, Access, ChapSecret, ChapSecrets, ConfigError, HostConfig, MapConfig, MapTarget, Network,
    UnitId,
};

use crate::config::Cluster;
use crate::config::cluster::{Chap, Host};

/// Hosts and maps, ready for the target.
#[derive(Clone, Debug)]
pub struct Masking {
    /// Who may log in.
    pub hosts: Vec<HostConfig>,
    /// Who sees what.
    pub maps: Vec<MapConfig>,
}

impl Masking {
    /// Hosts and maps of `cluster`, checked by the target's own rules.
    ///
    /// # Errors
    /// The rule that is broken, in words.
    pub fn of(cluster: &Cluster) -> Result<Self, String> {
        let hosts = cluster
            .hosts
            .iter()
            .map(host)
            .collect::<Result<Vec<_>, _>>()?;
        let mut maps = Vec::new();
        for map in &cluster.maps {
            maps.push(MapConfig {
                target: MapTarget::Host(map.host.clone()),
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
        hosts::check(&hosts, &maps, &units).map_err(|error: ConfigError| error.to_string())?;
        Ok(Self { hosts, maps })
    }
}

fn host(host: &Host) -> Result<HostConfig, String> {
    let networks = host
        .networks
        .iter()
        .map(|network| {
            Network::new(network.ip, network.prefix)
                .ok_or_else(|| format!("{network} is no network; write it like 10.0.0.0/24"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(HostConfig {
        name: host.name.clone(),
        initiators: host.iqns.clone(),
        chap: host.chap.as_ref().map(secrets),
        networks,
    })
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
