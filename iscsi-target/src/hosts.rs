//! LUN masking: which initiator may log in, and which units it then sees under which numbers.
//!
//! A *host* is one machine: one or more initiator names, optionally CHAP secrets and source
//! networks. A *host group* is several hosts. A *map* gives a host or a group a unit under a LUN,
//! read-write or read-only. Nothing is visible without a map. One special host, [`ANY_HOST`],
//! stands for every initiator that no other host names; it must carry source networks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;

/// Name of the host that matches initiators no other host names.
pub const ANY_HOST: &str = "any";

/// Hosts in one configuration.
pub const HOSTS_MAX: usize = 64;

/// LUNs of one host; numbers run from 0 to this minus one.
pub const LUNS_MAX: usize = 256;

/// Identity of a unit: the UUID of its volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnitId(pub u128);

impl fmt::Debug for UnitId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

/// A host for as long as an array lives; it survives changes of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(pub u32);

/// What a host may do with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    ReadWrite,
    /// Every change is answered with WRITE PROTECTED.
    ReadOnly,
}

/// CHAP names and secrets of a host (RFC 7143 §12.1).
#[derive(Clone, PartialEq, Eq)]
pub struct ChapSecrets {
    /// What the initiator proves.
    pub inbound: ChapSecret,
    /// What the target proves, for mutual authentication.
    pub outbound: Option<ChapSecret>,
}

/// One name and its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ChapSecret {
    /// CHAP_N.
    pub name: String,
    /// The shared secret.
    pub secret: Vec<u8>,
}

// Secrets never reach a log.
impl fmt::Debug for ChapSecrets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ChapSecrets")
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ChapSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ChapSecret")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A range of source addresses, such as `10.1.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// The network of `address` with a prefix of `prefix_bits`; none if the prefix is too long.
    pub fn new(address: IpAddr, prefix_bits: u8) -> Option<Self> {
        let width = if address.is_ipv4() { 32 } else { 128 };
        (prefix_bits <= width).then_some(Self {
            address,
            prefix_bits,
        })
    }

    /// Whether `source` lies inside. IPv4 written as mapped IPv6 counts as IPv4.
    pub fn contains(&self, source: IpAddr) -> bool {
        let same = |differing: u128, width: u32| {
            let suffix_bits = width - u32::from(self.prefix_bits);
            differing.checked_shr(suffix_bits).unwrap_or(0) == 0
        };
        match (self.address, source.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                same(u128::from(ours.to_bits() ^ theirs.to_bits()), 32)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => same(ours.to_bits() ^ theirs.to_bits(), 128),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl std::str::FromStr for Network {
    type Err = ConfigError;

    /// `ADDRESS` or `ADDRESS/BITS`.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let bad = || ConfigError::BadNetwork(text.to_owned());
        let (address, bits) = text
            .split_once('/')
            .map_or((text, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(whole), str::parse).map_err(|_| bad())?;
        Self::new(address, bits).ok_or_else(bad)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix_bits)
    }
}

/// One host as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// Name shown to operators; [`ANY_HOST`] is special.
    pub name: String,
    /// Its initiator names (`iqn.`, `eui.` or `naa.`), compared in lower case.
    pub initiators: Vec<String>,
    /// CHAP, if it is required.
    pub chap: Option<ChapSecrets>,
    /// Where it may come from; empty means anywhere.
    pub networks: Vec<Network>,
}

/// Several hosts that share maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// Name, not that of a host.
    pub name: String,
    /// Names of its hosts.
    pub hosts: Vec<String>,
}

/// Who a map is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapTarget {
    /// One host, by name.
    Host(String),
    /// Each host of a group, by name.
    Group(String),
}

/// One unit made visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapConfig {
    /// Who sees it.
    pub target: MapTarget,
    /// Under which number, below [`LUNS_MAX`].
    pub lun: u16,
    /// Which unit.
    pub unit: UnitId,
    /// What they may do.
    pub access: Access,
}

/// Why a configuration was refused; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A limit of the array.
    #[error("{count} {what} configured, the limit is {limit}: remove some")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many were given.
        count: usize,
        /// How many are possible.
        limit: usize,
    },
    /// Two hosts, groups or units of one name or id.
    #[error("{what} {name:?} is configured twice: remove one")]
    Duplicate {
        /// Of what kind.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A host, group or unit that is referred to and does not exist.
    #[error("{what} {name:?} is not configured: add it or correct the name")]
    Unknown {
        /// Of what kind.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Not an iSCSI name (RFC 7143 §4.2.7).
    #[error("{0:?} is not an iSCSI name: write iqn.YYYY-MM.DOMAIN[:ID], eui.16HEX or naa.HEX")]
    BadInitiator(String),
    /// A pattern instead of a name.
    #[error(
        "{0:?} contains a wildcard: name each initiator, or use the host \"any\" with networks"
    )]
    Wildcard(String),
    /// One initiator in two hosts.
    #[error("initiator {initiator:?} belongs to host {first:?} and host {second:?}: keep one")]
    SharedInitiator {
        /// The name.
        initiator: String,
        /// A host that has it.
        first: String,
        /// Another one.
        second: String,
    },
    /// A host that no initiator can match.
    #[error("host {0:?} has no initiator: add its iqn")]
    NoInitiator(String),
    /// The special host with names.
    #[error("host \"any\" cannot name initiators: move them to a host of their own")]
    AnyWithInitiators,
    /// The special host without limits.
    #[error("host \"any\" needs source networks: give at least one, such as 10.0.0.0/24")]
    AnyWithoutNetworks,
    /// Not a network.
    #[error("{0:?} is not a network: write ADDRESS or ADDRESS/BITS")]
    BadNetwork(String),
    /// CHAP names or secrets that cannot work.
    #[error("CHAP of {whose}: {problem}")]
    BadChap {
        /// The host, or discovery.
        whose: String,
        /// What is wrong and what to do.
        problem: &'static str,
    },
    /// A LUN out of range.
    #[error("LUN {lun} of {host:?} is out of range: use 0 to {}", LUNS_MAX - 1)]
    BadLun {
        /// The host.
        host: String,
        /// The number.
        lun: u16,
    },
    /// One number for two units.
    #[error("LUN {lun} of host {host:?} is mapped twice: remove one map")]
    LunTwice {
        /// The host.
        host: String,
        /// The number.
        lun: u16,
    },
    /// One unit under two numbers of a host.
    #[error("unit {unit:?} is mapped twice to host {host:?}: remove one map")]
    UnitTwice {
        /// The host.
        host: String,
        /// The unit.
        unit: UnitId,
    },
    /// A store no unit can stand on.
    #[error("unit {name:?}: {problem}")]
    BadUnit {
        /// Name of the unit.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
}

/// Why a login is refused (answered with login status 0x0202).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No host names this initiator and there is no `any`.
    #[error("no host names this initiator")]
    UnknownInitiator,
    /// Its host may not come from this address.
    #[error("this source address is in none of the host's networks")]
    ForeignNetwork,
}

/// What a host sees under one LUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The unit.
    pub unit: UnitId,
    /// What the host may do with it.
    pub access: Access,
}

/// All that one host sees.
pub(crate) type View = BTreeMap<u8, Mapping>;

/// One host, checked.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) id: HostId,
    pub(crate) chap: Option<ChapSecrets>,
    pub(crate) networks: Vec<Network>,
    pub(crate) view: Rc<View>,
}

/// All hosts, checked against each other.
///
/// Invariants: an initiator name belongs to one host; `any` has networks; every view has at most
/// [`LUNS_MAX`] entries and each unit once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts {
    by_name: BTreeMap<String, Host>,
    by_initiator: BTreeMap<String, String>,
    ids_used: u32,
}

impl Hosts {
    /// Checks a configuration and gives hosts known under `self` the ids they have.
    pub(crate) fn configure(
        &self,
        hosts: &[HostConfig],
        groups: &[GroupConfig],
        maps: &[MapConfig],
        units: &BTreeSet<UnitId>,
    ) -> Result<Self, ConfigError> {
        limit("hosts", hosts.len(), HOSTS_MAX)?;
        let mut next = Self {
            ids_used: self.ids_used,
            ..Self::default()
        };
        for config in hosts {
            let known = self.by_name.get(&config.name).map(|host| host.id);
            next.add_host(config, known)?;
        }
        let groups = next.check_groups(groups)?;
        for map in maps {
            if !units.contains(&map.unit) {
                return Err(unknown("unit", &format!("{:?}", map.unit)));
            }
            let names = match &map.target {
                MapTarget::Host(name) => std::slice::from_ref(name),
                MapTarget::Group(name) => groups
                    .get(name.as_str())
                    .ok_or_else(|| unknown("group", name))?,
            };
            for name in names {
                next.add_map(name, map)?;
            }
        }
        Ok(next)
    }

    /// The host an initiator belongs to, wherever it comes from.
    pub(crate) fn owner(&self, initiator: &str) -> Option<&Host> {
        let name = self.by_initiator.get(&initiator.to_ascii_lowercase());
        self.by_name.get(name.map_or(ANY_HOST, String::as_str))
    }

    pub(crate) fn authorize(&self, initiator: &str, source: IpAddr) -> Result<HostId, Refused> {
        let host = self.owner(initiator).ok_or(Refused::UnknownInitiator)?;
        let everywhere = host.networks.is_empty();
        if everywhere || host.networks.iter().any(|network| network.contains(source)) {
            return Ok(host.id);
        }
        Err(Refused::ForeignNetwork)
    }

    pub(crate) fn host(&self, id: HostId) -> Option<&Host> {
        self.by_name.values().find(|host| host.id == id)
    }

    fn add_host(&mut self, config: &HostConfig, known: Option<HostId>) -> Result<(), ConfigError> {
        let name = &config.name;
        if name == ANY_HOST {
            if !config.initiators.is_empty() {
                return Err(ConfigError::AnyWithInitiators);
            }
            if config.networks.is_empty() {
                return Err(ConfigError::AnyWithoutNetworks);
            }
        } else if config.initiators.is_empty() {
            return Err(ConfigError::NoInitiator(name.clone()));
        }
        if let Some(chap) = &config.chap {
            check_chap(chap).map_err(|problem| ConfigError::BadChap {
                whose: format!("host {name:?}"),
                problem,
            })?;
        }
        for initiator in &config.initiators {
            let initiator = check_initiator(initiator)?;
            if let Some(first) = self.by_initiator.insert(initiator.clone(), name.clone()) {
                if first == *name {
                    return Err(ConfigError::Duplicate {
                        what: "initiator",
                        name: initiator,
                    });
                }
                let second = name.clone();
                return Err(ConfigError::SharedInitiator {
                    initiator,
                    first,
                    second,
                });
            }
        }
        let id = known.unwrap_or_else(|| {
            self.ids_used += 1;
            HostId(self.ids_used)
        });
        let networks = config.networks.clone();
        let host = Host {
            id,
            chap: config.chap.clone(),
            networks,
            view: Rc::default(),
        };
        if self.by_name.insert(name.clone(), host).is_some() {
            return Err(ConfigError::Duplicate {
                what: "host",
                name: name.clone(),
            });
        }
        Ok(())
    }

    fn check_groups<'a>(
        &self,
        groups: &'a [GroupConfig],
    ) -> Result<BTreeMap<&'a str, &'a [String]>, ConfigError> {
        let mut checked = BTreeMap::new();
        for group in groups {
            for host in &group.hosts {
                if !self.by_name.contains_key(host) {
                    return Err(unknown("host", host));
                }
            }
            if checked
                .insert(group.name.as_str(), group.hosts.as_slice())
                .is_some()
            {
                return Err(ConfigError::Duplicate {
                    what: "group",
                    name: group.name.clone(),
                });
            }
        }
        Ok(checked)
    }

    fn add_map(&mut self, name: &str, map: &MapConfig) -> Result<(), ConfigError> {
        let host = self
            .by_name
            .get_mut(name)
            .ok_or_else(|| unknown("host", name))?;
        let owned = || name.to_owned();
        let Ok(lun) = u8::try_from(map.lun) else {
            return Err(ConfigError::BadLun {
                host: owned(),
                lun: map.lun,
            });
        };
        let view = Rc::make_mut(&mut host.view);
        if view.values().any(|mapping| mapping.unit == map.unit) {
            return Err(ConfigError::UnitTwice {
                host: owned(),
                unit: map.unit,
            });
        }
        let mapping = Mapping {
            unit: map.unit,
            access: map.access,
        };
        if view.insert(lun, mapping).is_some() {
            return Err(ConfigError::LunTwice {
                host: owned(),
                lun: map.lun,
            });
        }
        Ok(())
    }
}

/// Checks hosts, groups and their maps without putting them in force.
///
/// # Errors
/// The first rule that is broken.
pub fn check(
    hosts: &[HostConfig],
    groups: &[GroupConfig],
    maps: &[MapConfig],
    units: &BTreeSet<UnitId>,
) -> Result<(), ConfigError> {
    Hosts::default()
        .configure(hosts, groups, maps, units)
        .map(|_| ())
}

/// Checks all CHAP secrets against each other: what we prove is in no place what an initiator
/// proves, or one could have us answer the challenge of another's login (RFC 7143 §9.2.1).
///
/// # Errors
/// The first rule that is broken.
pub fn check_secrets(
    hosts: &[HostConfig],
    discovery: Option<&ChapSecrets>,
) -> Result<(), ConfigError> {
    let bad = |whose: &str, problem| ConfigError::BadChap {
        whose: whose.to_owned(),
        problem,
    };
    if let Some(chap) = discovery {
        check_chap(chap).map_err(|problem| bad("discovery", problem))?;
    }
    let all = || {
        let hosts = hosts.iter().filter_map(|host| {
            let chap = host.chap.as_ref()?;
            Some((format!("host {:?}", host.name), chap))
        });
        hosts.chain(discovery.map(|chap| ("discovery".to_owned(), chap)))
    };
    for (whose, chap) in all() {
        let Some(ours) = &chap.outbound else { continue };
        if all().any(|(_, other)| other.inbound.secret == ours.secret) {
            let problem = "the target proves itself with a secret that initiators use: \
                           choose another one";
            return Err(bad(&whose, problem));
        }
    }
    Ok(())
}

/// Checks the syntax of an initiator name (RFC 7143 §4.2.7, RFC 3722) and lowers its letters.
pub fn check_initiator(name: &str) -> Result<String, ConfigError> {
    if name.contains(['*', '?']) {
        return Err(ConfigError::Wildcard(name.to_owned()));
    }
    let lower = name.to_lowercase();
    let hex = |text: &str, lengths: &[usize]| {
        lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let good = lower.len() <= NAME_MAX_BYTES
        && match lower.split_once('.') {
            Some(("iqn", rest)) => is_qualified(rest),
            Some(("eui", rest)) => hex(rest, &[16]),
            Some(("naa", rest)) => hex(rest, &[16, 32]),
            _ => false,
        };
    if good {
        Ok(lower)
    } else {
        Err(ConfigError::BadInitiator(name.to_owned()))
    }
}

/// Whether an initiator may call itself so (RFC 7143 §4.2.7.1: at most 223 bytes, no control
/// characters). Host [`ANY_HOST`] asks for no more, unlike [`check_initiator`].
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_MAX_BYTES && !name.chars().any(char::is_control)
}

/// `YYYY-MM.DOMAIN[:ANYTHING]`, what follows `iqn.`.
fn is_qualified(rest: &str) -> bool {
    let Some((date, naming)) = rest.split_once('.') else {
        return false;
    };
    let Some((year, month)) = date.split_once('-') else {
        return false;
    };
    let digits =
        |text: &str, count| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    let domain = naming.split_once(':').map_or(naming, |(domain, _)| domain);
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let letter = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | ':');
    digits(year, 4)
        && digits(month, 2)
        && month
            .parse::<u8>()
            .is_ok_and(|month| (1..=12).contains(&month))
        && domain.split('.').all(label)
        && naming.chars().all(letter)
}

fn check_chap(chap: &ChapSecrets) -> Result<(), &'static str> {
    for secret in std::iter::once(&chap.inbound).chain(&chap.outbound) {
        if secret.name.is_empty() || secret.name.len() > NAME_MAX_BYTES {
            return Err("the name is empty or too long: give 1 to 223 bytes");
        }
        if secret.secret.len() < CHAP_SECRET_MIN_BYTES {
            return Err("a secret is too short: give at least 12 bytes");
        }
    }
    // RFC 7143 §9.2.1: equal secrets let an initiator reflect our challenge.
    if chap
        .outbound
        .as_ref()
        .is_some_and(|out| out.secret == chap.inbound.secret)
    {
        return Err("both directions have the same secret: make them differ");
    }
    Ok(())
}

fn limit(what: &'static str, count: usize, limit: usize) -> Result<(), ConfigError> {
    if count > limit {
        Err(ConfigError::TooMany { what, count, limit })
    } else {
        Ok(())
    }
}

fn unknown(what: &'static str, name: &str) -> ConfigError {
    ConfigError::Unknown {
        what,
        name: name.to_owned(),
    }
}

/// RFC 7143 §4.2.7.2.
pub(crate) const NAME_MAX_BYTES: usize = 223;

/// RFC 7143 §9.2.1 asks for 96 bits when IPsec is not used.
const CHAP_SECRET_MIN_BYTES: usize = 12;
