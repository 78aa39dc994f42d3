//! `node.toml`: what belongs to one box and is never replicated.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use uuid::Uuid;

use super::load::{self, ConfigError};

/// One box.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Name of this box.
    pub node: String,
    /// Name of the other box.
    pub peer: String,
    /// The group both boxes belong to.
    pub group: Uuid,
    /// File with the group key: 64 hexadecimal digits, readable by its owner only.
    pub key_file: PathBuf,
    /// Directory of this box's durable state.
    pub state: PathBuf,
    /// Socket of the local API.
    pub api: PathBuf,
    /// Heartbeat links to the peer; the ones with role `replication` carry the data too.
    #[serde(default, rename = "link")]
    pub links: Vec<Link>,
    /// The third vote.
    pub witness: Option<WitnessAddress>,
    /// Ports, where they differ from the usual ones.
    #[serde(default)]
    pub ports: Ports,
    /// Where volumes live.
    pub pool: Pool,
}

/// One heartbeat link.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Name, for status and logs.
    pub name: String,
    /// Address of this box on the link.
    pub address: IpAddr,
    /// Address of the other box on the link.
    pub peer: IpAddr,
    /// What the link is for.
    pub role: LinkRole,
}

/// What a link is for.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LinkRole {
    /// Heartbeats and mirrored data.
    Replication,
    /// Heartbeats on the network that initiators use.
    Service,
    /// Heartbeats on the management network.
    Management,
}

/// Where the witness answers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessAddress {
    /// Its address.
    pub address: IpAddr,
}

/// Ports of this box's services.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ports {
    /// iSCSI, TCP.
    pub iscsi: u16,
    /// Replication, TCP.
    pub replication: u16,
    /// Heartbeats between the boxes, UDP.
    pub heartbeat: u16,
    /// The witness, UDP.
    pub witness: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            iscsi: 3260,
            replication: 7788,
            heartbeat: 6940,
            witness: 6941,
        }
    }
}

/// Where volumes live.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// A directory: one sparse file for each volume.
    pub path: Option<PathBuf>,
    /// An LVM volume group: one logical volume for each volume.
    pub vg: Option<String>,
    /// How the disks are driven.
    #[serde(default)]
    pub io: PoolIo,
}

/// How the disks are driven.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PoolIo {
    /// `io_uring` where the kernel allows it, else threads.
    #[default]
    Auto,
    /// `io_uring`, or refuse to start.
    Uring,
    /// A thread pool.
    Threads,
}

/// A witness and the groups it votes in.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessConfig {
    /// Directory of its durable state.
    pub state: PathBuf,
    /// Where it listens, UDP.
    pub listen: SocketAddr,
    /// The groups it votes in.
    #[serde(rename = "group")]
    pub groups: Vec<WitnessGroup>,
}

/// One group of a witness.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessGroup {
    /// The group.
    pub id: Uuid,
    /// File with the group key, as on the boxes.
    pub key_file: PathBuf,
}

impl NodeConfig {
    /// The addresses that the two boxes and the witness have for themselves.
    #[must_use]
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        let links = self.links.iter().flat_map(|link| [link.address, link.peer]);
        let witness = self.witness.iter().map(|witness| witness.address);
        links.chain(witness).collect()
    }

    /// Reads and checks a file; relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// [`ConfigError`], naming file, line and what to write instead.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = load::file(path)?;
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        for relative in [&mut config.key_file, &mut config.state, &mut config.api]
            .into_iter()
            .chain(config.pool.path.as_mut())
        {
            *relative = folder.join(&relative);
        }
        config.check().map_err(|message| ConfigError::Values {
            path: path.to_owned(),
            message,
        })?;
        Ok(config)
    }

    /// What types alone cannot rule out.
    fn check(&self) -> Result<(), String> {
        if self.node == self.peer {
            return Err(format!(
                "node and peer are both called `{}`; the two boxes need different names",
                self.node
            ));
        }
        for name in [&self.node, &self.peer] {
            name_is_plain(name)?;
        }
        if !self
            .links
            .iter()
            .any(|link| link.role == LinkRole::Replication)
        {
            return Err(
                "no [[link]] with role = \"replication\"; the mirrored data needs one; \
                        add it with the addresses of both boxes"
                    .to_owned(),
            );
        }
        if let Some(link) = self.links.iter().find(|link| link.address == link.peer) {
            return Err(format!(
                "link `{}` has the same address on both ends ({}); write the other box's address \
                 as peer",
                link.name, link.peer
            ));
        }
        if self.witness.is_none() {
            return Err(
                "no [witness] address; this version moves the primary role only with a \
                        witness as third vote; run `twinsan witness` on a third host and add its \
                        address"
                    .to_owned(),
            );
        }
        match (&self.pool.path, &self.pool.vg) {
            (Some(_), None) => Ok(()),
            (None, Some(vg)) => Err(format!(
                "[pool] vg = \"{vg}\" is not supported in this version; use path = \"DIRECTORY\""
            )),
            (None, None) | (Some(_), Some(_)) => {
                Err("[pool] needs exactly one of path = \"DIRECTORY\" and vg = \"NAME\"".to_owned())
            }
        }
    }
}

impl WitnessConfig {
    /// Reads a file; relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = load::file(path)?;
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        config.state = folder.join(&config.state);
        for group in &mut config.groups {
            group.key_file = folder.join(&group.key_file);
        }
        if config.groups.is_empty() {
            return Err(ConfigError::Values {
                path: path.to_owned(),
                message: "no [[group]]; a witness needs the id and key_file of a pair".to_owned(),
            });
        }
        Ok(config)
    }
}

/// Names stand in status lines, logs and file names.
///
/// # Errors
/// A sentence that says which characters are allowed.
pub fn name_is_plain(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 63 || !name.chars().all(plain) {
        return Err(format!(
            "`{name}` is not a name; use 1 to 63 letters, digits, dots, hyphens or underscores"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
node = "san1"
peer = "san2"
group = "6f0c6cf0-6a3c-4a5b-8f3c-0a5f2f6f4c11"
key_file = "group.key"
state = "state"
api = "api.sock"
[[link]]
name = "replication"
address = "127.0.0.11"
peer = "127.0.0.12"
role = "replication"
[witness]
address = "127.0.0.13"
[pool]
path = "pool"
"#;

    fn parse(text: &str) -> Result<NodeConfig, String> {
        let config: NodeConfig =
            load::text_of(Path::new("node.toml"), text).map_err(|error| error.to_string())?;
        config.check().map(|()| config)
    }

    #[test]
    fn the_usual_ports_are_the_default() {
        let config = parse(GOOD).expect("a good file");
        assert_eq!((config.ports.iscsi, config.ports.replication), (3260, 7788));
        assert_eq!((config.ports.heartbeat, config.ports.witness), (6940, 6941));
        assert_eq!(config.pool.io, PoolIo::Auto);
    }

    #[test]
    fn contradictions_are_refused_with_what_to_do() {
        let cases = [
            (GOOD.replace("san2", "san1"), "different names"),
            (
                GOOD.replace("\"replication\"\n[w", "\"service\"\n[w"),
                "role = \"replication\"",
            ),
            (
                GOOD.replace("127.0.0.12", "127.0.0.11"),
                "same address on both ends",
            ),
            (
                GOOD.replace("[witness]\naddress = \"127.0.0.13\"\n", ""),
                "third vote",
            ),
            (
                GOOD.replace("path = \"pool\"", "vg = \"vg0\""),
                "not supported",
            ),
            (GOOD.replace("path = \"pool\"", ""), "exactly one"),
            (GOOD.replace("san1", "san 1"), "not a name"),
        ];
        for (text, words) in cases {
            let said = parse(&text).expect_err(words);
            assert!(said.contains(words), "{said}");
        }
    }
}
