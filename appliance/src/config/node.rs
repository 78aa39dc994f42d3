//! `node.toml`: what belongs to one box and is never replicated.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::load::{self, ConfigError};

/// Heartbeat links of a box; the witness has a number of its own behind them.
pub const LINKS_MAX: usize = 254;
/// Links that can carry the data.
pub const PATHS_MAX: usize = 8;

/// One box.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Name of this box.
    pub node: String,
    /// Name of the other box; another one than `node`.
    pub peer: String,
    /// Directory of this box's durable state, and of what makes it a member of its pair.
    pub state: PathBuf,
    /// Socket of the local API.
    pub api: PathBuf,
    /// The links that carry the data, one at a time, the preferred one first; at least one, at
    /// most [`PATHS_MAX`].
    pub replication: Vec<Link>,
    /// Heartbeat links to the peer, those included; at most [`LINKS_MAX`].
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
    /// Whether mirrored data is encrypted on it; the same on both boxes.
    #[serde(default)]
    pub encryption: Encryption,
}

/// Whether a link is encrypted.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// TLS 1.3 with the certificates from the pairing.
    #[default]
    On,
    /// None: for a cable that goes from one box to the other and nowhere else.
    Off,
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
    /// Pairing, TCP; only while a code is shown.
    pub pairing: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            iscsi: 3260,
            replication: 7788,
            heartbeat: 6940,
            witness: 6941,
            pairing: 7789,
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

/// A witness; the pairs it votes in are in its state directory.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessConfig {
    /// Directory of its durable state.
    pub state: PathBuf,
    /// Where it listens, UDP.
    pub listen: SocketAddr,
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
        let replication = replication_links(&file.links)?;
        let witness = file.witness.ok_or(
            "no [witness] address; this version moves the primary role only with a witness as \
             third vote; run `twinsan witness` on a third host and add its address",
        )?;
        Ok(Self {
            replication,
            pool: folder.join(directory(file.pool.path, file.pool.vg)?),
            io: file.pool.io,
            witness: witness.address,
            state: folder.join(file.state),
            api: folder.join(file.api),
            node: file.node,
            peer: file.peer,
            links: file.links,
            ports: file.ports,
        })
    }

    /// Off if one path of the data is not encrypted.
    #[must_use]
    pub fn encryption(&self) -> Encryption {
        let plain = |link: &Link| link.encryption == Encryption::Off;
        if self.replication.iter().any(plain) {
            Encryption::Off
        } else {
            Encryption::On
        }
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

/// Checks all links; gives those that carry the data.
fn replication_links(links: &[Link]) -> Result<Vec<Link>, String> {
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
    let plain = |link: &&Link| link.encryption == Encryption::Off && !carries_data(link);
    if let Some(link) = links.iter().find(plain) {
        return Err(format!(
            "link `{}` has encryption = \"off\" and carries no data; heartbeats are signed and not \
             encrypted in any case; take that line out",
            link.name
        ));
    }
    let found: Vec<Link> = links.iter().filter(carries_data).cloned().collect();
    if found.is_empty() {
        return Err(
            "no [[link]] with role = \"replication\"; the mirrored data needs one; add it with \
             the addresses of both boxes"
                .to_owned(),
        );
    }
    if found.len() > PATHS_MAX {
        return Err(format!(
            "there are {} [[link]] entries with role = \"replication\" and {PATHS_MAX} are \
             possible; give the others another role",
            found.len()
        ));
    }
    for (at, link) in found.iter().enumerate() {
        let same = |other: &Link| other.address == link.address || other.peer == link.peer;
        if let Some(other) = found[..at].iter().find(|other| same(other)) {
            return Err(format!(
                "links `{}` and `{}` carry the data over the same address; each path needs its \
                 own on both boxes",
                other.name, link.name
            ));
        }
    }
    Ok(found)
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
        assert_eq!((config.ports.pairing, config.io), (7789, PoolIo::Auto));
        assert_eq!(config.encryption(), Encryption::On);
        let plain = GOOD.replace(
            "\"replication\"\n[w",
            "\"replication\"\nencryption = \"off\"\n[w",
        );
        let config = parse(&plain).expect("a good file");
        assert_eq!(config.encryption(), Encryption::Off);
    }

    #[test]
    fn paths_are_relative_to_the_file_and_numbers_follow_the_order() {
        let text = GOOD.replace("\"api.sock\"", "\"/run/api.sock\"");
        let config = parse(&text).expect("a good file");
        assert_eq!(config.pool, Path::new("/etc/twinsan/pool"));
        assert_eq!(config.state, Path::new("/etc/twinsan/state"));
        assert_eq!(config.api, Path::new("/run/api.sock"));
        assert_eq!(config.replication[0].name, "replication");
        let numbers: Vec<u8> = config.numbered_links().map(|(number, _)| number).collect();
        assert_eq!((numbers, config.witness_link()), (vec![0], 1));
    }

    #[test]
    fn the_number_of_links_is_bounded() {
        let at = GOOD.find("[[link]]").expect("a link");
        let end = GOOD.find("[witness]").expect("a witness");
        let more = GOOD[at..end].replace("role = \"replication\"", "role = \"management\"");
        let links = |count: usize| {
            let more = more.repeat(count - 1);
            [&GOOD[..at], &GOOD[at..end], &more, &GOOD[end..]].concat()
        };
        let config = parse(&links(LINKS_MAX)).expect("as many as possible");
        assert_eq!(usize::from(config.witness_link()), LINKS_MAX);
        let said = parse(&links(LINKS_MAX + 1)).expect_err("one too many");
        assert!(said.contains("255 [[link]] entries"), "{said}");
    }

    fn with_links(count: usize) -> String {
        let at = GOOD.find("[[link]]").expect("a link");
        let end = GOOD.find("[witness]").expect("a witness");
        let links: String = (1..=count)
            .map(|number| {
                GOOD[at..end]
                    .replace("127.0.0.11", &format!("127.0.{number}.11"))
                    .replace("127.0.0.12", &format!("127.0.{number}.12"))
            })
            .collect();
        [&GOOD[..at], &links, &GOOD[end..]].concat()
    }

    #[test]
    fn several_links_carry_the_data_in_order_of_preference() {
        let config = parse(&with_links(PATHS_MAX)).expect("as many as possible");
        let ends = config.replication.iter().map(|link| link.peer.to_string());
        assert!(ends.eq((1..=PATHS_MAX).map(|number| format!("127.0.{number}.12"))));
        let said = parse(&with_links(PATHS_MAX + 1)).expect_err("one too many");
        assert!(said.contains("8 are possible"), "{said}");
        let twice = with_links(2).replace("127.0.2.12", "127.0.1.12");
        let said = parse(&twice).expect_err("one address twice");
        assert!(said.contains("over the same address"), "{said}");
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
            (
                GOOD.replace(
                    "[witness]",
                    "[[link]]\nname = \"lan\"\naddress = \"10.0.0.1\"\npeer = \"10.0.0.2\"\n\
                     role = \"service\"\nencryption = \"off\"\n[witness]",
                ),
                "take that line out",
            ),
        ];
        for (text, words) in cases {
            let said = parse(&text).expect_err(words);
            assert!(said.contains(words), "{said}");
        }
    }
}
