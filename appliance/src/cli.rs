//! The command line: what can be typed. What it does is in `verbs`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::config::address::{Cidr, Network};
use crate::config::cluster::{Generation, Viewer};

/// Two servers and a switch: one mirrored iSCSI array.
#[derive(Debug, Parser)]
#[command(name = "twinsan", version, about, max_term_width = 100)]
pub struct Cli {
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Socket of the daemon to talk to; default: the one `node.toml` names.
    #[arg(long, global = true, value_name = "SOCKET")]
    pub api: Option<PathBuf>,
    /// Configuration; default: /etc/twinsan/node.toml, of a witness /etc/twinsan/witness.toml.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

impl Cli {
    /// The file that says who this member is.
    #[must_use]
    pub fn config(&self) -> &Path {
        let usual = if matches!(self.verb, Verb::Witness(_)) {
            "/etc/twinsan/witness.toml"
        } else {
            "/etc/twinsan/node.toml"
        };
        self.config.as_deref().unwrap_or_else(|| Path::new(usual))
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Shows a survived kill on loopback: two boxes, a witness and an initiator, no root.
    Demo(DemoArgs),
    /// Makes this the first box of a new pair.
    Init,
    /// Runs this box.
    Run(RunArgs),
    /// Makes two boxes and a witness a pair.
    #[command(subcommand)]
    Pair(PairVerb),
    /// Runs a witness: the third vote of one or more pairs.
    Witness(WitnessArgs),
    /// Asks a running box.
    #[command(flatten)]
    Client(ClientVerb),
}

/// What a running box is asked for.
#[derive(Debug, Subcommand)]
pub enum ClientVerb {
    /// Says how the pair is, why, and what to do next.
    Status {
        /// Again and again, every second or as often as said.
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
        watch: Option<u64>,
    },
    /// Says what happened on this box.
    Events {
        /// Go on as things happen.
        #[arg(long)]
        follow: bool,
    },
    /// Volumes.
    #[command(subcommand)]
    Volume(VolumeVerb),
    /// Hosts: who may log in.
    #[command(subcommand)]
    Host(HostVerb),
    /// Groups of hosts that see the same volumes.
    #[command(subcommand)]
    Group(GroupVerb),
    /// What an initiator must prove before it is told where the target is.
    #[command(subcommand)]
    Discovery(DiscoveryVerb),
    /// LUN maps: who sees which volume.
    #[command(subcommand)]
    Lun(LunVerb),
    /// Sessions: who is logged in.
    #[command(subcommand)]
    Session(SessionVerb),
    /// Service addresses: they move with the primary role.
    #[command(subcommand)]
    Address(AddressVerb),
    /// Moves the primary role to the other box, without loss.
    Switchover {
        /// The box that shall be primary; default: the one that is not.
        #[arg(long, value_name = "BOX")]
        to: Option<String>,
    },
    /// Makes this box primary without a majority, or although the other has newer data: the last
    /// resort.
    ///
    /// What never came to this box is not served any more. Without --confirm nothing is done: what
    /// it would cost is said, and what to type.
    ForcePrimary {
        /// What it costs, word for word as this verb says it without this option.
        #[arg(long, value_name = "CONSEQUENCE")]
        confirm: Option<String>,
    },
    /// Voters: the boxes and the witness.
    #[command(subcommand)]
    Voter(VoterVerb),
    /// How fast the primary copies to a box that comes back.
    ///
    /// It is a setting of the primary's running program: it ends with a fail-over, a switchover or
    /// a restart, after which a copy goes as fast as initiators do not feel it.
    #[command(subcommand)]
    Resync(ResyncVerb),
    /// How the two copies are compared while they are in use.
    #[command(subcommand)]
    Scrub(ScrubVerb),
    /// The configuration.
    #[command(subcommand)]
    Config(ConfigVerb),
}

/// How to show it.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Keep it running for your own initiator until Ctrl-C.
    #[arg(long)]
    pub serve: bool,
    /// With --serve: do not restart a box that was killed.
    #[arg(long, requires = "serve")]
    pub no_restart: bool,
    /// Where its files go; default: a new folder for temporary files.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Seconds of load before the kill.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        value_parser = clap::value_parser!(u64).range(1..=600)
    )]
    pub seconds: u64,
    /// Break a law on purpose; the demo must then fail (builds with the feature `mutants`).
    #[arg(long, value_name = "MUTANT")]
    pub sabotage: Option<String>,
}

/// How to run a box.
#[derive(Args, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    lab: LabArgs,
}

impl RunArgs {
    /// The switches for tests.
    #[must_use]
    pub const fn lab(&self) -> &LabArgs {
        &self.lab
    }
}

/// Switches for tests; none of them is for production.
#[derive(Args, Debug, Default)]
pub struct LabArgs {
    /// Count as a reboot when it differs from the last start's.
    #[arg(long, value_name = "UUID", hide = true)]
    pub boot_id: Option<uuid::Uuid>,
    /// Keep unflushed writes in this process's memory, so that a kill is a power cut.
    #[arg(long, value_name = "SEED", hide = true)]
    pub volatile: Option<u64>,
    /// Break a law on purpose (builds with the feature `mutants`).
    #[arg(long, value_name = "MUTANT", hide = true)]
    pub sabotage: Option<String>,
    /// End when the process that started this one ends.
    #[arg(long, hide = true)]
    pub end_with_parent: bool,
}

/// Pairing.
#[derive(Debug, Subcommand)]
pub enum PairVerb {
    /// Shows a one-time code and waits for the other box or the witness to join with it.
    Create,
    /// Makes this the second box of the pair whose code this is.
    Join {
        /// Where, and the code.
        #[command(flatten)]
        args: JoinArgs,
        /// What the pool holds may be lost.
        #[arg(long)]
        yes: bool,
    },
    /// Forgets the pair and its key; the volumes stay where they are.
    Leave {
        /// The other box can do without what only this one has.
        #[arg(long)]
        yes: bool,
    },
}

/// Where to join, and with what.
#[derive(Args, Debug)]
pub struct JoinArgs {
    /// An address of the box that shows the code.
    pub address: IpAddr,
    /// The code.
    pub code: String,
    /// TCP port there; default: the usual one, or that of [ports] in node.toml.
    #[arg(long)]
    pub port: Option<u16>,
}

/// What a witness does beside voting.
#[derive(Debug, Subcommand)]
pub enum WitnessVerb {
    /// Makes this witness one of the pair whose code this is.
    Join(JoinArgs),
    /// Forgets the key of a pair.
    Leave {
        /// The pair's group, as `twinsan witness join` said it.
        group: uuid::Uuid,
    },
}

/// How to run a witness.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct WitnessArgs {
    /// Instead of running it.
    #[command(subcommand)]
    pub verb: Option<WitnessVerb>,
    /// End when the process that started this one ends.
    #[arg(long, hide = true)]
    pub end_with_parent: bool,
}

/// Volumes.
#[derive(Debug, Subcommand)]
pub enum VolumeVerb {
    /// Makes a volume on both boxes.
    Create {
        /// Its name.
        name: String,
        /// Its size, like 20GiB.
        size: String,
    },
    /// Lists the volumes.
    List,
    /// Says all that this box knows of a volume.
    Show {
        /// Its name.
        name: String,
    },
    /// Explains the file of a volume, also a damaged one, without a daemon; changes nothing.
    Inspect {
        /// The file, like /var/lib/twinsan/pool/00000001.vol.
        file: PathBuf,
    },
    /// Makes a volume larger on both boxes while it is in use; it never becomes smaller.
    Grow {
        /// Its name.
        name: String,
        /// Its new size, like 40GiB.
        size: String,
    },
    /// Compares both copies of a volume now, from its start and without a pause.
    ///
    /// It repairs nothing: what differs is told, and both boxes' bytes of it are kept. `twinsan
    /// status` says how far it is.
    Scrub {
        /// Its name.
        name: String,
    },
    /// Deletes a volume that is not mapped, with its data, on both boxes.
    Delete {
        /// Its name.
        name: String,
        /// Its name once more: the data is lost.
        #[arg(long, value_name = "NAME")]
        confirm: String,
    },
}

/// Hosts.
#[derive(Debug, Subcommand)]
pub enum HostVerb {
    /// Lets a host log in.
    Add(HostArgs),
    /// Lists the hosts.
    List,
    /// Shuts a host out and forgets its maps.
    Remove {
        /// Its name.
        name: String,
    },
}

/// One host.
#[derive(Args, Debug)]
pub struct HostArgs {
    /// Its name; `any` matches initiators that no other host names.
    pub name: String,
    /// Its iSCSI name; several are possible.
    #[arg(long, value_name = "NAME")]
    pub iqn: Vec<String>,
    /// Network it comes from; several are possible.
    #[arg(long, value_name = "CIDR")]
    pub network: Vec<Network>,
    /// What it proves itself with.
    #[command(flatten)]
    pub chap: ChapArgs,
}

/// CHAP names and secrets.
#[derive(Args, Debug)]
pub struct ChapArgs {
    /// CHAP user name the initiator gives.
    #[arg(long, value_name = "USER", requires = "chap_secret_file")]
    pub chap_user: Option<String>,
    /// File with the CHAP secret.
    #[arg(long, value_name = "FILE", requires = "chap_user")]
    pub chap_secret_file: Option<PathBuf>,
    /// CHAP user name the target gives (mutual CHAP).
    #[arg(long, value_name = "USER", requires = "mutual_secret_file")]
    pub mutual_user: Option<String>,
    /// File with the target's CHAP secret.
    #[arg(
        long,
        value_name = "FILE",
        requires = "mutual_user",
        requires = "chap_user"
    )]
    pub mutual_secret_file: Option<PathBuf>,
}

/// Groups of hosts.
#[derive(Debug, Subcommand)]
pub enum GroupVerb {
    /// Makes a group without hosts.
    Create {
        /// Its name; no host may have it.
        name: String,
    },
    /// Puts a host into a group: it sees what the group sees.
    Add {
        /// The group.
        group: String,
        /// The host.
        host: String,
    },
    /// Takes a host out of a group.
    Remove {
        /// The group.
        group: String,
        /// The host.
        host: String,
    },
    /// Lists the groups.
    List,
    /// Deletes a group that has no LUN maps.
    Delete {
        /// Its name.
        name: String,
    },
}

/// Discovery: SendTargets before the login.
#[derive(Debug, Subcommand)]
pub enum DiscoveryVerb {
    /// Asks for CHAP of its own.
    Chap(ChapArgs),
    /// Asks each host for what it proves at login, if that is anything.
    LikeLogin,
}

/// LUN maps.
#[derive(Debug, Subcommand)]
pub enum LunVerb {
    /// Shows a volume to a host or a group.
    Map {
        /// Who sees it.
        #[command(flatten)]
        to: ViewerArgs,
        /// The number they see, 0 to 255.
        lun: u16,
        /// The volume.
        volume: String,
        /// Refuse writes.
        #[arg(long)]
        read_only: bool,
    },
    /// Hides it again.
    Unmap {
        /// From whom.
        #[command(flatten)]
        from: ViewerArgs,
        /// The number they see.
        lun: u16,
    },
    /// Lists the maps.
    List,
}

/// Who a map is for.
#[derive(Args, Debug)]
pub struct ViewerArgs {
    /// The host; with --group the group.
    #[arg(value_name = "HOST")]
    name: String,
    /// It is a group of hosts.
    #[arg(long)]
    group: bool,
}

impl ViewerArgs {
    /// Host or group.
    #[must_use]
    pub fn viewer(&self) -> Viewer {
        let name = self.name.clone();
        if self.group {
            Viewer::Group(name)
        } else {
            Viewer::Host(name)
        }
    }
}

/// Sessions.
#[derive(Debug, Subcommand)]
pub enum SessionVerb {
    /// Lists who is logged in to this box, from where and through which portal group.
    List,
    /// Drops the sessions of an initiator, which may log in again at once.
    Drop {
        /// Its iSCSI name.
        initiator: String,
    },
}

/// Service addresses.
#[derive(Debug, Subcommand)]
pub enum AddressVerb {
    /// Adds a service address.
    Add {
        /// Address and network bits, like 10.0.0.10/24.
        cidr: Cidr,
    },
    /// Lists the service addresses.
    List,
    /// Gives a service address up.
    Remove {
        /// The address.
        address: IpAddr,
    },
}

/// Voters.
#[derive(Debug, Subcommand)]
pub enum VoterVerb {
    /// Takes a voter that is gone or was reinstalled off the list; only the primary does it.
    ///
    /// When that member runs again, the primary admits it with the identity that it has then.
    Remove {
        /// Name of the box, or `witness`.
        node: String,
        /// Until it is admitted again, both voters that are left are needed for every decision.
        #[arg(long)]
        yes: bool,
    },
}

/// How fast the primary copies to a box that comes back.
#[derive(Debug, Subcommand)]
pub enum ResyncVerb {
    /// Stops copying; writes of initiators are mirrored on.
    ///
    /// The other box is not in sync, and cannot take over, before the copy has gone on and ended.
    Pause,
    /// Goes on, at the rate that held before the pause.
    Resume,
    /// Sets the most that is copied per second.
    Rate {
        /// Bytes per second, like 50MiB; `auto`: as fast as initiators do not feel it.
        #[arg(value_name = "BYTES_PER_S|auto")]
        rate: String,
    },
}

/// How the two copies are compared while they are in use.
#[derive(Debug, Subcommand)]
pub enum ScrubVerb {
    /// Sets how much is compared per second by itself, one volume after the other.
    Rate {
        /// Bytes per second, like 4MiB; `off`: only what `twinsan volume scrub` asks for.
        #[arg(value_name = "BYTES_PER_S|off")]
        rate: String,
    },
}

/// The configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Prints the cluster configuration, without secrets.
    Show,
    /// Checks this box's `node.toml` and what it names, and changes nothing.
    Check,
    /// Makes the cluster configuration what a file says, as one change.
    ///
    /// The file looks like what `config show` prints. A secret that is masked there stays what it
    /// is; generations, numbers and tags are not looked at. No volume is deleted or made smaller.
    Apply {
        /// The file.
        file: PathBuf,
        /// Only say what would change.
        #[arg(long)]
        dry_run: bool,
    },
    /// Says what `config apply` would change.
    Diff {
        /// The file.
        file: PathBuf,
    },
    /// Lists the last changes of the cluster configuration.
    History,
    /// Takes back changes of the cluster configuration; volumes stay as they are.
    Rollback {
        /// The generation to go back to, like 3.12; default: only the newest change is taken back.
        #[arg(long, value_name = "GENERATION")]
        to: Option<Generation>,
        /// Only say what would change.
        #[arg(long)]
        dry_run: bool,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_witness_has_a_file_of_its_own() {
        let config = |words: &str| {
            let cli = Cli::parse_from(words.split(' '));
            cli.config().to_owned()
        };
        let (usual, of_witness) = ("/etc/twinsan/node.toml", "/etc/twinsan/witness.toml");
        assert_eq!(config("twinsan status"), Path::new(usual));
        assert_eq!(config("twinsan witness"), Path::new(of_witness));
        assert_eq!(
            config("twinsan witness join 10.0.0.1 X"),
            Path::new(of_witness)
        );
        assert_eq!(config("twinsan witness --config x"), Path::new("x"));
    }

    #[test]
    fn a_map_is_for_a_host_unless_a_group_is_said() {
        let to = |words: &str| {
            let words = ["twinsan", "lun", "map"]
                .into_iter()
                .chain(words.split(' '));
            let verb = Cli::parse_from(words).verb;
            let Verb::Client(ClientVerb::Lun(LunVerb::Map { to, .. })) = verb else {
                panic!("{verb:?}");
            };
            to.viewer()
        };
        assert_eq!(to("x 0 v"), Viewer::Host("x".to_owned()));
        assert_eq!(to("x 0 v --group"), Viewer::Group("x".to_owned()));
        assert_eq!(to("--group x 0 v"), Viewer::Group("x".to_owned()));
    }
}
