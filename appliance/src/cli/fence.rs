//! What can be typed about fencing devices.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::api::types::Refusal;
use crate::config::fence::{Access, Agent, Fence, Hash, Lab, MANUAL_TIMEOUT_S, Secret, TIMEOUT_S};

/// Fencing devices.
#[derive(Debug, Subcommand)]
pub enum FenceVerb {
    /// Adds a device that turns a box off.
    ///
    /// Devices of one level must all say that the box is off: give both outlets of a box with two
    /// supplies the same level. A higher level is tried when a lower one does not do it.
    Add(FenceArgs),
    /// Lists the devices, without secrets.
    List,
    /// Forgets a device.
    Remove {
        /// Its name.
        name: String,
    },
    /// Asks the devices of the other box about its power, and says what was asked and answered.
    Test {
        /// Name of the other box.
        node: String,
    },
    /// Vouches that the other box is off, because no device could say so.
    Confirm {
        /// Name of the other box.
        node: String,
        /// Its name once more: if it still runs, data may be lost.
        #[arg(long, value_name = "BOX")]
        is_off: String,
    },
}

/// One device.
#[derive(Args, Debug)]
pub struct FenceArgs {
    /// Its name.
    pub name: String,
    /// The box that it turns off.
    pub node: String,
    /// 1 to 9.
    #[arg(long, default_value_t = 1)]
    pub level: u8,
    /// How long its level may take; default: 20, for an operator 3600.
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u16>,
    /// What it is.
    #[command(subcommand)]
    pub agent: AgentArgs,
}

/// What a device is.
#[derive(Debug, Subcommand)]
pub enum AgentArgs {
    /// A service processor, by Redfish over HTTPS.
    Redfish {
        /// Its own address, not its box's.
        #[arg(long)]
        address: IpAddr,
        /// TCP port.
        #[arg(long, default_value_t = 443)]
        port: u16,
        /// Name of the box there, as `/redfish/v1/Systems` lists it.
        #[arg(long, default_value = "1")]
        system: String,
        /// Its user.
        #[arg(long)]
        user: String,
        /// File with the user's secret.
        #[arg(long, value_name = "FILE")]
        secret_file: PathBuf,
        /// SHA-256 fingerprint of its certificate.
        #[arg(long, value_name = "HEX")]
        pin: String,
    },
    /// A service processor, by IPMI over LAN; needs ipmitool on both boxes.
    Ipmi {
        /// Its own address, not its box's.
        #[arg(long)]
        address: IpAddr,
        /// UDP port.
        #[arg(long, default_value_t = 623)]
        port: u16,
        /// Its user; the privilege level operator is enough.
        #[arg(long)]
        user: String,
        /// File with the user's secret.
        #[arg(long, value_name = "FILE")]
        secret_file: PathBuf,
        /// Number of the cipher suite; default: the best that it has.
        #[arg(long, value_name = "NUMBER")]
        cipher_suite: Option<u8>,
    },
    /// An outlet of an APC power distribution unit, by SNMP v1 or v3.
    ApcSnmp(OutletArgs),
    /// A program by the convention of fence-agents, on the other box.
    Exec {
        /// Its absolute path.
        program: PathBuf,
        /// A line that it gets; several are possible.
        #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
        option: Vec<(String, String)>,
        /// A line that it gets and nobody else sees, such as password; several are possible.
        #[arg(long, value_name = "KEY=FILE", value_parser = pair)]
        secret_file: Vec<(String, String)>,
    },
    /// An operator, who turns it off by hand and says `twinsan fence confirm`.
    Manual,
    /// For labs only: the box itself is asked, and its silence is taken for off.
    Ssh {
        /// Its address.
        #[arg(long)]
        address: IpAddr,
        /// TCP port.
        #[arg(long, default_value_t = 22)]
        port: u16,
        /// Who may turn it off there.
        #[arg(long, default_value = "root")]
        user: String,
        /// This is a lab, and its data may be lost.
        #[arg(long, required = true)]
        lab: bool,
    },
    /// For labs only: nothing is turned off.
    Null {
        /// This is a lab, and its data may be lost.
        #[arg(long, required = true)]
        lab: bool,
    },
}

/// One outlet.
#[derive(Args, Debug)]
pub struct OutletArgs {
    /// Address of the unit.
    #[arg(long)]
    address: IpAddr,
    /// UDP port.
    #[arg(long, default_value_t = 161)]
    port: u16,
    /// Name of the outlet, as the unit has it.
    #[arg(long)]
    outlet: String,
    /// SNMP v1: file with a community that may write. It goes over the wire in clear.
    #[arg(long, value_name = "FILE", required_unless_present = "user")]
    community_file: Option<PathBuf>,
    /// SNMP v3: its user.
    #[arg(
        long,
        conflicts_with = "community_file",
        requires = "secret_file",
        requires = "privacy_file"
    )]
    user: Option<String>,
    /// SNMP v3: how it is signed.
    #[arg(long, value_enum, default_value = "sha1", requires = "user")]
    hash: Hash,
    /// SNMP v3: file with the secret of the signature.
    #[arg(long, value_name = "FILE", requires = "user")]
    secret_file: Option<PathBuf>,
    /// SNMP v3: file with the secret of the encryption (AES-128).
    #[arg(long, value_name = "FILE", requires = "user")]
    privacy_file: Option<PathBuf>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Reads the secret in a file.
type Read = fn(&Path) -> Result<String, Refusal>;

impl FenceArgs {
    /// The device, with its secrets from `read`.
    ///
    /// # Errors
    /// If a file with a secret cannot be read.
    pub fn fence(&self, read: Read) -> Result<Fence, Refusal> {
        let usual = match self.agent {
            AgentArgs::Manual => MANUAL_TIMEOUT_S,
            AgentArgs::Redfish { .. }
            | AgentArgs::Ipmi { .. }
            | AgentArgs::ApcSnmp(_)
            | AgentArgs::Exec { .. }
            | AgentArgs::Ssh { .. }
            | AgentArgs::Null { .. } => TIMEOUT_S,
        };
        Ok(Fence {
            name: self.name.clone(),
            node: self.node.clone(),
            level: self.level,
            timeout_s: self.timeout.unwrap_or(usual),
            agent: self.agent.agent(read)?,
        })
    }
}

impl AgentArgs {
    fn agent(&self, read: Read) -> Result<Agent, Refusal> {
        let secret = |file: &Path| read(file).map(Secret);
        Ok(match self {
            Self::Redfish {
                address,
                port,
                system,
                user,
                secret_file,
                pin,
            } => Agent::Redfish {
                address: *address,
                port: *port,
                system: system.clone(),
                user: user.clone(),
                secret: secret(secret_file)?,
                pin: pin.clone(),
            },
            Self::Ipmi {
                address,
                port,
                user,
                secret_file,
                cipher_suite,
            } => Agent::Ipmi {
                address: *address,
                port: *port,
                user: user.clone(),
                secret: secret(secret_file)?,
                cipher_suite: *cipher_suite,
            },
            Self::ApcSnmp(outlet) => outlet.agent(read)?,
            Self::Exec {
                program,
                option,
                secret_file,
            } => {
                let secrets = secret_file.iter();
                let secrets = secrets.map(|(key, file)| Ok((key.clone(), secret(file.as_ref())?)));
                Agent::Exec {
                    program: program.clone(),
                    options: option.iter().cloned().collect(),
                    secrets: secrets.collect::<Result<_, Refusal>>()?,
                }
            }
            Self::Manual => Agent::Manual {},
            Self::Ssh {
                address,
                port,
                user,
                lab: _,
            } => Agent::Ssh {
                address: *address,
                port: *port,
                user: user.clone(),
                lab: Lab::DataMayBeLost,
            },
            Self::Null { lab: _ } => Agent::Null {
                lab: Lab::DataMayBeLost,
            },
        })
    }
}

impl OutletArgs {
    fn agent(&self, read: Read) -> Result<Agent, Refusal> {
        let secret = |file: &Option<PathBuf>, what: &str| {
            let file = file.as_deref();
            let file = file.ok_or_else(|| Refusal::usage(format!("say {what} too")))?;
            read(file).map(Secret)
        };
        let access = match &self.user {
            None => Access::V1 {
                community: secret(&self.community_file, "--community-file")?,
            },
            Some(user) => Access::V3 {
                user: user.clone(),
                hash: self.hash,
                secret: secret(&self.secret_file, "--secret-file")?,
                privacy: secret(&self.privacy_file, "--privacy-file")?,
            },
        };
        Ok(Agent::ApcSnmp {
            address: self.address,
            port: self.port,
            outlet: self.outlet.clone(),
            access,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, ClientVerb, Verb};

    fn typed(words: &str) -> Result<Fence, String> {
        let words = format!("twinsan fence add {words}");
        let cli = Cli::try_parse_from(words.split(' ')).map_err(|error| error.to_string())?;
        let Verb::Client(ClientVerb::Fence(FenceVerb::Add(args))) = cli.verb else {
            panic!("{:?}", cli.verb);
        };
        let read: Read = |file| Ok(format!("what is in {}", file.display()));
        args.fence(read).map_err(|refusal| refusal.message)
    }

    #[test]
    fn each_kind_can_be_typed() {
        let pin = "0".repeat(64);
        let redfish = format!("redfish --address 10.0.0.11 --user u --secret-file s --pin {pin}");
        let kinds = [
            ("redfish", redfish.as_str()),
            ("ipmi", "ipmi --address 10.0.0.11 --user u --secret-file s"),
            (
                "apc-snmp",
                "apc-snmp --address 10.0.0.5 --outlet san2 --community-file c",
            ),
            (
                "apc-snmp",
                "apc-snmp --address 10.0.0.5 --outlet o --user u --secret-file s --privacy-file p",
            ),
            (
                "exec",
                "exec /usr/sbin/fence_x --option ip=1.2.3.4 --secret-file password=s",
            ),
            ("manual", "manual"),
            ("ssh", "ssh --address 10.0.0.2 --lab"),
            ("null", "null --lab"),
        ];
        for (kind, words) in kinds {
            let fence = typed(&format!("dev san2 --level 2 {words}")).expect(words);
            assert_eq!((fence.agent.kind(), fence.level), (kind, 2));
            let timeout_s = if kind == "manual" { 3600 } else { 20 };
            assert_eq!(fence.timeout_s, timeout_s);
            assert_eq!(fence.agent.is_lab(), words.contains("--lab"));
            let cluster = crate::config::Cluster::default();
            let edit = crate::config::cluster::Edit::AddFence(fence);
            cluster.with(&edit, 1).expect(words);
        }
        let exec = typed("dev san2 exec /x --option a=b=c --secret-file password=s");
        let Agent::Exec {
            options, secrets, ..
        } = exec.expect("good").agent
        else {
            panic!("another kind");
        };
        assert_eq!(options["a"], "b=c");
        assert_eq!(secrets["password"], Secret("what is in s".to_owned()));
    }

    #[test]
    fn what_is_unknown_or_missing_is_named() {
        let cases = [
            ("dev san2 voodoo", "voodoo"),
            ("dev san2", "subcommand"),
            (
                "dev san2 ipmi --address 10.0.0.11 --user u",
                "--secret-file",
            ),
            (
                "dev san2 ipmi --address bmc --user u --secret-file s",
                "bmc",
            ),
            (
                "dev san2 redfish --address 10.0.0.11 --user u --secret-file s",
                "--pin",
            ),
            (
                "dev san2 apc-snmp --address 10.0.0.5 --outlet o",
                "--community-file",
            ),
            (
                "dev san2 apc-snmp --address 10.0.0.5 --outlet o --user u",
                "--secret-file",
            ),
            ("dev san2 null", "--lab"),
            ("dev san2 exec /x --option novalue", "key=value"),
        ];
        for (words, named) in cases {
            let refused = typed(words).expect_err(words);
            assert!(refused.contains(named), "{words}: {refused}");
        }
    }
}
