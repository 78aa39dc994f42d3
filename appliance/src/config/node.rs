//! `node.toml`: what belongs to one box and is never replicated.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use uuid::Uuid;

use super::load::{self, ConfigError};

/// Heartbeat links of a box; the witness has a number of its own behind them.
pub const LINKS_MAX: usize = 254;

/// One box.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Name of this box.
    pub node: String,
    /// Name of the other box; another one than `node`.
    pub peer: String,
    /// The group both boxes belong to.
    pub group: Uuid,
    /// File with the group key: 64 hexadecimal digits, readable by its owner only.
    pub key_file: PathBuf,
    /// Directory of this box's durable state.
    pub state: PathBuf,
    /// Socket of the local API.
    pub api: PathBuf,
    /// The link that carries the data: the first one with that role.
    pub replication: Link,
    /// Heartbeat links to the peer, that one included; at most [`LINKS_MAX`].
    pub links: Vec<Link>,
    /// Where the witness answers.
    pub witness: IpAddr,
    /// Ports of this box's services.
    pub ports: Ports,
    /// The directory where volumes live: one sparse file for each.
    pub pool: PathBuf,
    /// How the disks are driven.
    pub io: PoolIo,
}

/// `node.toml` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    node: String,
    peer: String,
    group: Uuid,
    key_file: PathBuf,
    state: PathBuf,
    api: PathBuf,
    #[serde(default, rename = "link")]
    links: Vec<Link>,
    witness: Option<WitnessAddress>,
    #[serde(default)]
    ports: Ports,
    pool: Pool,
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WitnessAddress {
    address: IpAddr,
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pool {
    path: Option<PathBuf>,
    vg: Option<String>,
    #[serde(default)]
    io: PoolIo,
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
        links.chain([self.witness]).collect()
    }

    /// Reads and checks a file; relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// [`ConfigError`], naming file, line and what to write instead.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::of_text(path, &load::read(path)?)
    }

    /// What `text`, which came from `path`, says.
    ///
    /// # Errors
    /// [`ConfigError`], as for a file.
    pub fn of_text(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let file: NodeFile = load::text_of(path, text)?;
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        Self::parse(file, folder).map_err(|message| ConfigError::Values {
            path: path.to_owned(),
            message,
        })
    }

    fn parse(file: NodeFile, folder: &Path) -> Result<Self, String> {
        if file.node == file.peer {
            return Err(format!(
                "node and peer are both called `{}`; the two boxes need different names",
                file.node
            ));
        }
        for name in [&file.node, &file.peer] {
            name_is_plain(name)?;
        }
        let replication = replication_link(&file.links)?;
        let witness = file.witness.ok_or(
            "no [witness] address; this version moves the primary role only with a witness as \
             third vote; run `twinsan witness` on a third host and add its address",
        )?;
        Ok(Self {
            replication,
            pool: folder.join(directory(file.pool.path, file.pool.vg)?),
            io: file.pool.io,
            witness: witness.address,
            key_file: folder.join(file.key_file),
            state: folder.join(file.state),
            api: folder.join(file.api),
            node: file.node,
            peer: file.peer,
            group: file.group,
            links: file.links,
            ports: file.ports,
        })
    }

    /// The links with their numbers.
    pub fn numbered_links(&self) -> impl Iterator<Item = (u8, &Link)> {
        (0..).zip(&self.links)
    }

    /// The number of the way to the witness: the one after the last link's.
    #[must_use]
    pub fn witness_link(&self) -> u8 {
        u8::try_from(self.links.len()).expect("at most LINKS_MAX, see parse")
    }
}

/// Checks all links; gives the one that carries the data.
fn replication_link(links: &[Link]) -> Result<Link, String> {
    if links.len() > LINKS_MAX {
        return Err(format!(
            "there are {} [[link]] entries and {LINKS_MAX} are possible; remove some",
            links.len()
        ));
    }
    if let Some(link) = links.iter().find(|link| link.address == link.peer) {
        return Err(format!(
            "link `{}` has the same address on both ends ({}); write the other box's address as \
             peer",
            link.name, link.peer
        ));
    }
    let carries_data = |link: &&Link| link.role == LinkRole::Replication;
    let found = links.iter().find(carries_data).cloned();
    found.ok_or_else(|| {
        "no [[link]] with role = \"replication\"; the mirrored data needs one; add it with the \
         addresses of both boxes"
            .to_owned()
    })
}

fn directory(path: Option<PathBuf>, vg: Option<String>) -> Result<PathBuf, String> {
    match (path, vg) {
        (Some(path), None) => Ok(path),
        (None, Some(vg)) => Err(format!(
            "[pool] vg = \"{vg}\" is not supported in this version; use path = \"DIRECTORY\""
        )),
        (None, None) | (Some(_), Some(_)) => {
            Err("[pool] needs exactly one of path = \"DIRECTORY\" and vg = \"NAME\"".to_owned())
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
        let path = Path::new("/etc/twinsan/node.toml");
        NodeConfig::of_text(path, text).map_err(|error| error.to_string())
    }

    #[test]
    fn the_usual_ports_are_the_default() {
        let config = parse(GOOD).expect("a good file");
        assert_eq!((config.ports.iscsi, config.ports.replication), (3260, 7788));
        assert_eq!((config.ports.heartbeat, config.ports.witness), (6940, 6941));
        assert_eq!(config.io, PoolIo::Auto);
    }

    #[test]
    fn paths_are_relative_to_the_file_and_numbers_follow_the_order() {
        let text = GOOD.replace("\"api.sock\"", "\"/run/api.sock\"");
        let config = parse(&text).expect("a good file");
        assert_eq!(config.pool, Path::new("/etc/twinsan/pool"));
        assert_eq!(config.key_file, Path::new("/etc/twinsan/group.key"));
        assert_eq!(config.api, Path::new("/run/api.sock"));
        assert_eq!(config.replication.name, "replication");
        let numbers: Vec<u8> = config.numbered_links().map(|(number, _)| number).collect();
        assert_eq!((numbers, config.witness_link()), (vec![0], 1));
    }

    #[test]
    fn the_number_of_links_is_bounded() {
        let at = GOOD.find("[[link]]").expect("a link");
        let end = GOOD.find("[witness]").expect("a witness");
        let links = |count| [&GOOD[..at], &GOOD[at..end].repeat(count), &GOOD[end..]].concat();
        let config = parse(&links(LINKS_MAX)).expect("as many as possible");
        assert_eq!(usize::from(config.witness_link()), LINKS_MAX);
        let said = parse(&links(LINKS_MAX + 1)).expect_err("one too many");
        assert!(said.contains("255 [[link]] entries"), "{said}");
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
