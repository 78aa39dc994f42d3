//! `[[fence]]`: the devices that turn a box off, as the cluster configuration has them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::node::name_is_plain;
use super::plan::MASK;

/// Devices of one pair at the most.
pub const FENCES_MAX: usize = 16;
/// Levels are 1 to this.
pub const LEVEL_MAX: u8 = 9;
/// How long a level may take, if nobody says otherwise.
pub const TIMEOUT_S: u16 = 20;
/// The same for an operator.
pub const MANUAL_TIMEOUT_S: u16 = 3600;
const TIMEOUTS_S: std::ops::RangeInclusive<u16> = 5..=3600;
/// Of names, options and secrets: they go over the wire and into the words of programs.
const TEXT_MAX: usize = 256;
/// The shortest secret of SNMP v3 (RFC 3414, 11.2).
const SNMP_SECRET_MIN: usize = 8;

/// What only a device may know. Never printed by status, logs or `config show`.
#[derive(Clone, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// One way to turn a box off.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Fence {
    /// Name, for people.
    pub name: String,
    /// The box that it turns off. Only the other box uses it.
    pub node: String,
    /// Levels are tried in order; all devices of a level must say that the box is off.
    #[serde(default = "first_level")]
    pub level: u8,
    /// How long its level may take, in seconds.
    #[serde(default = "usual_timeout")]
    pub timeout_s: u16,
    /// What it is.
    pub agent: Agent,
}

const fn first_level() -> u8 {
    1
}

const fn usual_timeout() -> u16 {
    TIMEOUT_S
}

/// What a device is, and what one needs to speak to it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Agent {
    /// A service processor, by Redfish.
    Redfish {
        /// Its own address, not its box's.
        address: IpAddr,
        /// TCP port of HTTPS.
        port: u16,
        /// Name of the box there.
        system: String,
        /// Its user.
        user: String,
        /// The user's secret.
        secret: Secret,
        /// SHA-256 of its certificate, in hexadecimal digits.
        pin: String,
    },
    /// A service processor, by IPMI over LAN.
    Ipmi {
        /// Its own address, not its box's.
        address: IpAddr,
        /// UDP port.
        port: u16,
        /// Its user.
        user: String,
        /// The user's secret.
        secret: Secret,
        /// Number of the cipher suite; none: the best that it has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cipher_suite: Option<u8>,
    },
    /// An outlet of an APC power distribution unit.
    ApcSnmp {
        /// Address of the unit.
        address: IpAddr,
        /// UDP port.
        port: u16,
        /// Name of the outlet, as the unit has it.
        outlet: String,
        /// How the unit knows who asks.
        access: Access,
    },
    /// A program by the convention of fence-agents.
    Exec {
        /// Its absolute path, on the other box.
        program: PathBuf,
        /// Lines that it gets.
        #[serde(default)]
        options: BTreeMap<String, String>,
        /// Lines that it gets and nobody else sees.
        #[serde(default)]
        secrets: BTreeMap<String, Secret>,
    },
    /// An operator.
    Manual {},
    /// For the lab: the box itself is asked, and silence is taken for off.
    Ssh {
        /// Its address.
        address: IpAddr,
        /// TCP port.
        port: u16,
        /// Who may turn it off.
        user: String,
        /// Says that this is a lab.
        lab: Lab,
    },
    /// For the lab: nothing is turned off.
    Null {
        /// Says that this is a lab.
        lab: Lab,
    },
}

/// Data that may be lost: said in so many words, because the device proves nothing.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Lab {
    /// It may be.
    #[serde(rename = "data-may-be-lost")]
    DataMayBeLost,
}

/// How an APC unit knows who asks.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(tag = "version", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Access {
    /// SNMP v1.
    V1 {
        /// A community that may write.
        community: Secret,
    },
    /// SNMP v3, signed and encrypted.
    V3 {
        /// Its user.
        user: String,
        /// How it is signed.
        hash: Hash,
        /// The secret of the signature.
        secret: Secret,
        /// The secret of the encryption (AES-128).
        privacy: Secret,
    },
}

/// How SNMP v3 is signed.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "shell", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Hash {
    /// For old units.
    Md5,
    /// The usual one.
    Sha1,
    /// For units that know it.
    Sha256,
}

impl Agent {
    /// Its kind, as commands and the configuration have it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Redfish { .. } => "redfish",
            Self::Ipmi { .. } => "ipmi",
            Self::ApcSnmp { .. } => "apc-snmp",
            Self::Exec { .. } => "exec",
            Self::Manual {} => "manual",
            Self::Ssh { .. } => "ssh",
            Self::Null { .. } => "null",
        }
    }

    /// It proves nothing.
    #[must_use]
    pub const fn is_lab(&self) -> bool {
        match self {
            Self::Ssh { .. } | Self::Null { .. } => true,
            Self::Redfish { .. }
            | Self::Ipmi { .. }
            | Self::ApcSnmp { .. }
            | Self::Exec { .. }
            | Self::Manual {} => false,
        }
    }

    /// Its address, if it has one of its own.
    #[must_use]
    pub const fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Redfish { address, .. }
            | Self::Ipmi { address, .. }
            | Self::ApcSnmp { address, .. } => Some(*address),
            Self::Exec { .. } | Self::Manual {} | Self::Ssh { .. } | Self::Null { .. } => None,
        }
    }

    fn secrets(&mut self) -> Vec<&mut Secret> {
        match self {
            Self::Redfish { secret, .. } | Self::Ipmi { secret, .. } => vec![secret],
            Self::ApcSnmp { access, .. } => match access {
                Access::V1 { community } => vec![community],
                Access::V3 {
                    secret, privacy, ..
                } => vec![secret, privacy],
            },
            Self::Exec { secrets, .. } => secrets.values_mut().collect(),
            Self::Manual {} | Self::Ssh { .. } | Self::Null { .. } => Vec::new(),
        }
    }

    /// What else than secrets goes to the device or to a program.
    fn texts(&self) -> Vec<(&str, &str)> {
        match self {
            Self::Redfish { system, user, .. } => vec![("system", system), ("user", user)],
            Self::Ipmi { user, .. } | Self::Ssh { user, .. } => vec![("user", user)],
            Self::ApcSnmp { outlet, access, .. } => match access {
                Access::V1 { .. } => vec![("outlet", outlet)],
                Access::V3 { user, .. } => vec![("outlet", outlet), ("user", user)],
            },
            Self::Exec { options, .. } => options
                .iter()
                .flat_map(|(key, value)| [("key of an option", key.as_str()), ("option", value)])
                .collect(),
            Self::Manual {} | Self::Null { .. } => Vec::new(),
        }
    }

    fn check(&self) -> Result<(), String> {
        for (what, text) in self.texts() {
            is_line(what, text)?;
            // It would be taken for a switch of the program that is run with it.
            if text.starts_with('-') {
                return Err(format!("the {what} `{text}` cannot begin with a hyphen"));
            }
        }
        match self {
            Self::Redfish { system, pin, .. } => {
                let digits = pin.bytes().filter(|it| *it != b':');
                let hex = digits.clone().all(|it| it.is_ascii_hexdigit());
                if !hex || digits.count() != 64 {
                    return Err(
                        "the pin is not the SHA-256 fingerprint of a certificate (64 hexadecimal \
                         digits); `openssl s_client -connect ADDRESS:443 </dev/null | openssl \
                         x509 -noout -fingerprint -sha256` shows it"
                            .to_owned(),
                    );
                }
                name_is_plain(system)
            }
            Self::Exec {
                program,
                options,
                secrets,
            } => {
                if !program.is_absolute() {
                    let shown = program.display();
                    return Err(format!("{shown} is not an absolute path; write it whole"));
                }
                options
                    .keys()
                    .chain(secrets.keys())
                    .try_for_each(|key| key_is_free(key))
            }
            Self::ApcSnmp {
                access: Access::V3 {
                    secret, privacy, ..
                },
                ..
            } if secret.0.len().min(privacy.0.len()) < SNMP_SECRET_MIN => Err(format!(
                "secrets of SNMP v3 have at least {SNMP_SECRET_MIN} characters"
            )),
            Self::ApcSnmp { .. }
            | Self::Ipmi { .. }
            | Self::Manual {}
            | Self::Ssh { .. }
            | Self::Null { .. } => Ok(()),
        }
    }
}

/// One line of text that is not empty: each becomes a line of something else.
fn is_line(what: &str, text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > TEXT_MAX || text.chars().any(char::is_control) {
        return Err(format!(
            "the {what} is not one line of 1 to {TEXT_MAX} characters"
        ));
    }
    Ok(())
}

fn key_is_free(key: &str) -> Result<(), String> {
    name_is_plain(key)?;
    if key == "action" {
        return Err(
            "what the program is to do is not for you to say: leave `action` out".to_owned(),
        );
    }
    Ok(())
}

impl Fence {
    /// The rules of one device.
    fn check(&mut self) -> Result<(), String> {
        name_is_plain(&self.name)?;
        name_is_plain(&self.node)?;
        if self.level == 0 || self.level > LEVEL_MAX {
            return Err(format!("level {} is none of 1 to {LEVEL_MAX}", self.level));
        }
        if !TIMEOUTS_S.contains(&self.timeout_s) {
            return Err(format!(
                "a level may take {} to {} seconds and not {}",
                TIMEOUTS_S.start(),
                TIMEOUTS_S.end(),
                self.timeout_s
            ));
        }
        for secret in self.agent.secrets() {
            is_line("secret", &secret.0)?;
        }
        self.agent.check()
    }

    /// Takes out what must not be shown.
    pub(super) fn mask(&mut self) {
        for secret in self.agent.secrets() {
            MASK.clone_into(&mut secret.0);
        }
    }

    /// Puts back secrets that only stand in for those of `now`, a device of the same name.
    ///
    /// # Errors
    /// A sentence if `now` is another device, so that nobody knows them.
    pub(super) fn unmask(&mut self, now: Option<&Self>) -> Result<(), String> {
        if self.agent.secrets().iter().all(|secret| secret.0 != MASK) {
            return Ok(());
        }
        let same = now.filter(|now| {
            let mut shown = (*now).clone();
            shown.mask();
            shown == *self
        });
        let same = same.ok_or_else(|| {
            format!(
                "a secret of fencing device {} is masked in the file, and the device is not what \
                 it is now: write the secret",
                self.name
            )
        })?;
        self.clone_from(same);
        Ok(())
    }
}

/// The rules of all devices.
///
/// # Errors
/// A sentence with what is wrong and what to do.
pub(super) fn check(fences: &[Fence]) -> Result<(), String> {
    if fences.len() > FENCES_MAX {
        return Err(format!(
            "a pair holds {FENCES_MAX} fencing devices; remove one first"
        ));
    }
    let mut names = BTreeSet::new();
    for fence in fences {
        let name = &fence.name;
        let of = |why: String| format!("fencing device {name}: {why}");
        fence.clone().check().map_err(of)?;
        if !names.insert(name) {
            return Err(format!(
                "there is a fencing device {name} already; choose another name"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cluster;
    use crate::config::cluster::Edit;

    fn fence(text: &str) -> Result<Fence, String> {
        let head = "name = \"bmc\"\nnode = \"san2\"\n";
        toml::from_str(&format!("{head}{text}")).map_err(|error| error.message().to_owned())
    }

    fn added(text: &str) -> Result<Cluster, String> {
        Cluster::default().with(&Edit::AddFence(fence(text)?), 1)
    }

    fn redfish(rest: &str) -> String {
        format!(
            "agent = {{ kind = \"redfish\", address = \"10.0.0.11\", port = 443, system = \"1\", \
             user = \"u\", secret = \"Cor-rect.horse9\"{rest} }}"
        )
    }

    #[test]
    fn secrets_are_never_shown() {
        let pin = format!(", pin = \"{}\"", "ab:".repeat(31) + "ab");
        let cluster = added(&redfish(&pin)).expect("good");
        let snmp = Fence {
            name: "pdu".to_owned(),
            node: "san2".to_owned(),
            level: 2,
            timeout_s: TIMEOUT_S,
            agent: Agent::ApcSnmp {
                address: "10.0.0.5".parse().expect("an address"),
                port: 161,
                outlet: "san2 left".to_owned(),
                access: Access::V3 {
                    user: "u".to_owned(),
                    hash: Hash::Sha1,
                    secret: Secret("Cor-rect.horse9".to_owned()),
                    privacy: Secret("Cor-rect.horse9".to_owned()),
                },
            },
        };
        let exec = Fence {
            name: "script".to_owned(),
            agent: Agent::Exec {
                program: "/usr/sbin/fence_x".into(),
                options: BTreeMap::from([("ip".to_owned(), "10.0.0.9".to_owned())]),
                secrets: BTreeMap::from([(
                    "password".to_owned(),
                    Secret("Cor-rect.horse9".to_owned()),
                )]),
            },
            ..snmp.clone()
        };
        let cluster = cluster.with(&Edit::AddFence(snmp), 1).expect("good");
        let cluster = cluster.with(&Edit::AddFence(exec), 1).expect("good");
        let stored = toml::to_string(&cluster).expect("it serializes");
        assert_eq!(stored.matches("Cor-rect.horse9").count(), 4);
        assert_eq!(toml::from_str(&stored), Ok(cluster.clone()));
        let masked = cluster.masked();
        let shown = [
            format!("{cluster:?}"),
            format!("{masked:?}"),
            toml::to_string(&masked).expect("it serializes"),
            serde_json::to_string(&masked).expect("it serializes"),
        ];
        for shown in shown {
            assert!(!shown.contains("Cor-rect"), "{shown}");
            assert!(shown.contains("***"), "{shown}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_sentence() {
        let pin = format!(", pin = \"{}\"", "0".repeat(64));
        let good = redfish(&pin);
        let cases = [
            (
                "agent = { kind = \"voodoo\" }".to_owned(),
                "unknown variant `voodoo`",
            ),
            (redfish(""), "missing field `pin`"),
            (redfish(", pin = \"abc\""), "64 hexadecimal digits"),
            (good.replace("user =", "usr ="), "unknown field `usr`"),
            (format!("color = 1\n{good}"), "unknown field `color`"),
            (format!("level = 0\n{good}"), "level 0 is none of"),
            (format!("timeout_s = 1\n{good}"), "5 to 3600 seconds"),
            (
                good.replace("\"u\"", "\"-oProxyCommand=x\""),
                "begin with a hyphen",
            ),
            (good.replace("\"u\"", "\"a\\nb\""), "not one line"),
            (
                good.replace("Cor-rect.horse9", ""),
                "the secret is not one line",
            ),
            (good.replace("\"1\"", "\"../../x\""), "is not a name"),
            (
                "agent = { kind = \"null\" }".to_owned(),
                "missing field `lab`",
            ),
            (
                "agent = { kind = \"manual\", x = 1 }".to_owned(),
                "unknown field `x`",
            ),
            (
                "agent = { kind = \"exec\", program = \"fence_x\" }".to_owned(),
                "not an absolute path",
            ),
            (
                "agent = { kind = \"exec\", program = \"/x\", options = { action = \"reboot\" } }"
                    .to_owned(),
                "leave `action` out",
            ),
            (
                "agent = { kind = \"apc-snmp\", address = \"10.0.0.5\", port = 161, outlet = \
                 \"o\", access = { version = \"v3\", user = \"u\", hash = \"sha1\", secret = \
                 \"short\", privacy = \"long enough\" } }"
                    .to_owned(),
                "at least 8",
            ),
        ];
        for (text, words) in cases {
            let refused = added(&text).expect_err(&text);
            assert!(refused.contains(words), "{text}: {refused}");
        }
        let cluster = added(&good).expect("good");
        assert_eq!(cluster.fences[0].level, 1);
        let again = Edit::AddFence(fence(&good).expect("good"));
        assert!(
            cluster
                .with(&again, 1)
                .is_err_and(|why| why.contains("already"))
        );
        let unknown = Edit::RemoveFence("pdu".to_owned());
        assert!(
            cluster
                .with(&unknown, 1)
                .is_err_and(|why| why.contains("no fencing device pdu"))
        );
        let removed = cluster.with(&Edit::RemoveFence("bmc".to_owned()), 1);
        assert_eq!(removed.expect("good").fences, []);
    }
}
