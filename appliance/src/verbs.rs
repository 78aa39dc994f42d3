//! What the command line's verbs do, through the local API.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use crate::api::client::{Client, Wait};
use crate::api::types::{Ask, Pace, Refusal, SCHEMA};
use crate::cli::{
    AddressVerb, ChapArgs, Cli, ClientVerb, ConfigVerb, DiscoveryVerb, FenceVerb, GroupVerb,
    HostArgs, HostVerb, LunVerb, ResyncVerb, ScrubVerb, SessionVerb, VolumeVerb, VoterVerb,
};
use crate::config::cluster::{Chap, Edit, Host, Map, Membership};
use crate::config::{self, Cluster, NodeConfig};
use crate::membership::Member;
use crate::{render, size};

/// Larger files are no cluster configurations; the API takes twice as much, and as JSON one is not
/// twice as large.
const WANTED_BYTES_MAX: u64 = 1 << 20;

/// Runs a verb that asks a running box.
///
/// # Errors
/// The refusal to print; its kind is the exit code.
pub async fn run(cli: &Cli, verb: &ClientVerb) -> Result<(), Refusal> {
    match verb {
        ClientVerb::Status { watch } => status(cli, *watch).await,
        ClientVerb::Events { follow } => events(cli, *follow).await,
        ClientVerb::Volume(verb) => volume(cli, verb).await,
        ClientVerb::Host(verb) => host(cli, verb).await,
        ClientVerb::Group(verb) => group(cli, verb).await,
        ClientVerb::Discovery(verb) => discovery(cli, verb).await,
        ClientVerb::Lun(verb) => lun(cli, verb).await,
        ClientVerb::Session(SessionVerb::List) => sessions(cli).await,
        ClientVerb::Session(SessionVerb::Drop { initiator }) => {
            ask(cli, Ask::DropSessions(initiator.clone())).await
        }
        ClientVerb::Address(verb) => address(cli, verb).await,
        ClientVerb::Switchover { to } => ask(cli, Ask::Switchover { to: to.clone() }).await,
        ClientVerb::ForcePrimary { confirm } => {
            let confirm = confirm.clone();
            ask(cli, Ask::ForcePrimary { confirm }).await
        }
        ClientVerb::Voter(VoterVerb::Remove { node, yes: true }) => {
            ask(cli, Ask::RemoveVoter { node: node.clone() }).await
        }
        ClientVerb::Voter(VoterVerb::Remove { node, yes: false }) => Err(Refusal::safety(format!(
            "{node} stays a voter: without it no box can go on alone before {node} is admitted \
                 again; if it is gone or was reinstalled, say --yes"
        ))),
        ClientVerb::Fence(verb) => fence(cli, verb).await,
        ClientVerb::Resync(verb) => ask(cli, Ask::Resync(pace(verb)?)).await,
        ClientVerb::Scrub(ScrubVerb::Rate { rate }) => {
            ask(cli, Ask::Edit(Edit::ScrubRate(scrub_rate(rate)?))).await
        }
        ClientVerb::Config(ConfigVerb::Show) => {
            let show = |cluster: &Cluster| render::config(cluster).map_err(Refusal::failed);
            list(cli, show).await
        }
        ClientVerb::Config(ConfigVerb::Check) => config_check(cli),
        ClientVerb::Config(ConfigVerb::Apply { file, dry_run }) => {
            let wanted = Box::new(wanted(file)?);
            let rehearsal = *dry_run;
            ask(cli, Ask::Apply { wanted, rehearsal }).await
        }
        ClientVerb::Config(ConfigVerb::Diff { file }) => {
            let wanted = Box::new(wanted(file)?);
            let rehearsal = true;
            ask(cli, Ask::Apply { wanted, rehearsal }).await
        }
        ClientVerb::Config(ConfigVerb::History) => history(cli).await,
        ClientVerb::Config(ConfigVerb::Rollback { to, dry_run }) => {
            let (to, rehearsal) = (*to, *dry_run);
            ask(cli, Ask::Rollback { to, rehearsal }).await
        }
    }
}

/// The daemon's socket: the one given, or the one `node.toml` names.
fn client(cli: &Cli) -> Result<Client, Refusal> {
    match &cli.api {
        Some(socket) => Ok(Client::new(socket)),
        None => NodeConfig::load(cli.config())
            .map(|config| Client::new(&config.api))
            .map_err(|error| Refusal::failed(error.to_string())),
    }
}

async fn status(cli: &Cli, watch: Option<u64>) -> Result<(), Refusal> {
    let client = client(cli)?;
    loop {
        let status = client.status().await;
        let text = match (&status, cli.json) {
            (Ok(status), true) => json(status)?,
            (Ok(status), false) => render::status(status),
            (Err(refusal), true) if watch.is_some() => json_of(refusal),
            (Err(refusal), false) if watch.is_some() => refusal.to_string(),
            (Err(_), _) => return status.map(|_| ()),
        };
        let Some(seconds) = watch else {
            say(&text);
            return Ok(());
        };
        if !cli.json {
            say("\x1b[H\x1b[2J");
        }
        say(&text);
        tokio::time::sleep(Duration::from_secs(seconds.max(1))).await;
    }
}

async fn events(cli: &Cli, follow: bool) -> Result<(), Refusal> {
    let client = client(cli)?;
    let mut after = 0;
    loop {
        let wait = if follow && after > 0 {
            Wait::ForOne
        } else {
            Wait::No
        };
        for event in client.events(after, wait).await? {
            after = event.sequence;
            say(&if cli.json {
                json(&event)?
            } else {
                render::event(&event)
            });
        }
        if !follow {
            return Ok(());
        }
        if after == 0 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Shows a part of the cluster configuration; as JSON always the whole.
async fn list(
    cli: &Cli,
    show: impl FnOnce(&Cluster) -> Result<String, Refusal>,
) -> Result<(), Refusal> {
    let cluster = client(cli)?.config().await?;
    say(&if cli.json {
        json(&cluster)?
    } else {
        show(&cluster)?
    });
    Ok(())
}

async fn ask(cli: &Cli, ask: Ask) -> Result<(), Refusal> {
    done(cli.json, &client(cli)?.ask(&ask).await?);
    Ok(())
}

/// What was done, in words or as a document.
pub fn done(as_json: bool, text: &str) {
    say(&if as_json {
        serde_json::json!({"schema": SCHEMA, "done": text}).to_string()
    } else {
        text.to_owned()
    });
}

/// A refusal as a document.
#[must_use]
pub fn json_of(refusal: &Refusal) -> String {
    serde_json::json!({"schema": SCHEMA, "error": refusal}).to_string()
}

fn pace(verb: &ResyncVerb) -> Result<Pace, Refusal> {
    Ok(match verb {
        ResyncVerb::Pause => Pace::Pause,
        ResyncVerb::Resume => Pace::Resume,
        ResyncVerb::Rate { rate } if rate == "auto" => Pace::Auto,
        ResyncVerb::Rate { rate } => {
            let bytes_per_s = size::parse(rate).map_err(Refusal::usage)?;
            if bytes_per_s == 0 {
                let why = "nothing was changed: a rate of 0 would copy nothing; `twinsan resync \
                           pause` does that";
                return Err(Refusal::usage(why));
            }
            Pace::AtMost { bytes_per_s }
        }
    })
}

fn scrub_rate(rate: &str) -> Result<u64, Refusal> {
    match rate {
        "off" => Ok(0),
        _ => size::parse(rate).map_err(Refusal::usage),
    }
}

async fn volume(cli: &Cli, verb: &VolumeVerb) -> Result<(), Refusal> {
    let edit = match verb {
        VolumeVerb::List => return list(cli, |cluster| Ok(render::volumes(cluster))).await,
        VolumeVerb::Create { name, size } => Edit::AddVolume {
            name: name.clone(),
            uuid: Uuid::new_v4(),
            size_bytes: size::parse(size).map_err(Refusal::usage)?,
        },
        VolumeVerb::Show { name } => return show(cli, name).await,
        VolumeVerb::Inspect { file } => return inspect(cli, file),
        VolumeVerb::Scrub { name } => return ask(cli, Ask::Scrub(name.clone())).await,
        VolumeVerb::Grow { name, size } => Edit::GrowVolume {
            name: name.clone(),
            size_bytes: size::parse(size).map_err(Refusal::usage)?,
        },
        VolumeVerb::Delete { name, confirm } if name == confirm => Edit::RemoveVolume(name.clone()),
        VolumeVerb::Delete { name, .. } => {
            return Err(Refusal::safety(format!(
                "volume {name} was not deleted: its data would be lost on both boxes; if that is \
                 meant, say --confirm {name}"
            )));
        }
    };
    ask(cli, Ask::Edit(edit)).await
}

async fn show(cli: &Cli, name: &str) -> Result<(), Refusal> {
    let status = client(cli)?.status().await?;
    let mut known = status.volumes.iter();
    let found = known.find(|it| it.name == name || it.uuid == name);
    let volume = found.ok_or_else(|| {
        Refusal::usage(format!(
            "this box knows no volume {name}; see `twinsan status` (a box that does not serve \
             knows volumes by their UUID only)"
        ))
    })?;
    say(&if cli.json {
        json(volume)?
    } else {
        render::volume(&status, volume)
    });
    Ok(())
}

async fn sessions(cli: &Cli) -> Result<(), Refusal> {
    let status = client(cli)?.status().await?;
    say(&if cli.json {
        serde_json::json!({"schema": SCHEMA, "sessions": status.sessions}).to_string()
    } else {
        render::sessions(&status.sessions)
    });
    Ok(())
}

/// A cluster configuration that an operator wrote.
fn wanted(file: &Path) -> Result<Cluster, Refusal> {
    let len_bytes = std::fs::metadata(file).map_or(0, |found| found.len());
    if len_bytes > WANTED_BYTES_MAX {
        return Err(Refusal::usage(format!(
            "nothing was changed: {} has {}, and no cluster configuration has more than {}",
            file.display(),
            size::shown(len_bytes),
            size::shown(WANTED_BYTES_MAX)
        )));
    }
    config::load::file(file)
        .map_err(|error| Refusal::usage(format!("nothing was changed: {error}")))
}

async fn history(cli: &Cli) -> Result<(), Refusal> {
    let history = client(cli)?.history().await?;
    say(&if cli.json {
        serde_json::json!({"schema": SCHEMA, "history": history}).to_string()
    } else {
        render::history(&history)
    });
    Ok(())
}

fn inspect(cli: &Cli, file: &Path) -> Result<(), Refusal> {
    let failed = |what: &str, error: std::io::Error| {
        Refusal::failed(format!("cannot {what} {}: {error}", file.display()))
    };
    let mut image = std::fs::File::open(file).map_err(|error| failed("open", error))?;
    let size_bytes = image
        .seek(SeekFrom::End(0))
        .map_err(|error| failed("find the size of", error))?;
    let report = replication::inspect::inspect(size_bytes, |offset_bytes, len_bytes| {
        let mut bytes = vec![0; len_bytes];
        let read = image.read_exact_at(&mut bytes, offset_bytes);
        read.is_ok().then_some(bytes)
    });
    say(&if cli.json {
        let found = report.findings.iter().map(|it| {
            serde_json::json!({
                "offset_bytes": it.offset_bytes,
                "len_bytes": it.len_bytes,
                "name": it.name,
                "health": it.health.to_string(),
                "meaning": it.meaning,
            })
        });
        let found: Vec<_> = found.collect();
        serde_json::json!({"schema": SCHEMA, "verdict": report.verdict, "findings": found})
            .to_string()
    } else {
        render::inspection(&report)
    });
    Ok(())
}

async fn host(cli: &Cli, verb: &HostVerb) -> Result<(), Refusal> {
    let edit = match verb {
        HostVerb::List => return list(cli, |cluster| Ok(render::hosts(cluster))).await,
        HostVerb::Add(args) => Edit::AddHost(described(args)?),
        HostVerb::Remove { name } => Edit::RemoveHost(name.clone()),
    };
    ask(cli, Ask::Edit(edit)).await
}

async fn group(cli: &Cli, verb: &GroupVerb) -> Result<(), Refusal> {
    let membership = |group: &String, host: &String| Membership {
        group: group.clone(),
        host: host.clone(),
    };
    let edit = match verb {
        GroupVerb::List => return list(cli, |cluster| Ok(render::groups(cluster))).await,
        GroupVerb::Create { name } => Edit::AddGroup(name.clone()),
        GroupVerb::Add { group, host } => Edit::Join(membership(group, host)),
        GroupVerb::Remove { group, host } => Edit::Leave(membership(group, host)),
        GroupVerb::Delete { name } => Edit::RemoveGroup(name.clone()),
    };
    ask(cli, Ask::Edit(edit)).await
}

async fn lun(cli: &Cli, verb: &LunVerb) -> Result<(), Refusal> {
    let edit = match verb {
        LunVerb::List => return list(cli, |cluster| Ok(render::maps(cluster))).await,
        LunVerb::Map {
            to,
            lun,
            volume,
            read_only,
        } => Edit::Map(Map {
            to: to.viewer(),
            lun: *lun,
            volume: volume.clone(),
            read_only: *read_only,
        }),
        LunVerb::Unmap { from, lun } => Edit::Unmap {
            from: from.viewer(),
            lun: *lun,
        },
    };
    ask(cli, Ask::Edit(edit)).await
}

async fn discovery(cli: &Cli, verb: &DiscoveryVerb) -> Result<(), Refusal> {
    let asked = match verb {
        DiscoveryVerb::Chap(args) => Some(chap(args)?.ok_or_else(|| {
            Refusal::usage(
                "nothing was changed: say with --chap-user and --chap-secret-file what discovery \
                 asks for; `twinsan discovery like-login` ends that",
            )
        })?),
        DiscoveryVerb::LikeLogin => None,
    };
    ask(cli, Ask::Edit(Edit::Discovery(asked))).await
}

async fn address(cli: &Cli, verb: &AddressVerb) -> Result<(), Refusal> {
    let edit = match verb {
        AddressVerb::List => return list(cli, |cluster| Ok(render::addresses(cluster))).await,
        AddressVerb::Add { cidr } => Edit::AddAddress(*cidr),
        AddressVerb::Remove { address } => Edit::RemoveAddress(*address),
    };
    ask(cli, Ask::Edit(edit)).await
}

async fn fence(cli: &Cli, verb: &FenceVerb) -> Result<(), Refusal> {
    let asked = match verb {
        FenceVerb::List => return list(cli, |cluster| Ok(render::fences(cluster))).await,
        FenceVerb::Add(args) => Ask::Edit(Edit::AddFence(args.fence(secret)?)),
        FenceVerb::Remove { name } => Ask::Edit(Edit::RemoveFence(name.clone())),
        FenceVerb::Test { node } => Ask::FenceTest { node: node.clone() },
        FenceVerb::Confirm { node, is_off } if node == is_off => {
            Ask::FenceConfirm { node: node.clone() }
        }
        FenceVerb::Confirm { node, .. } => {
            return Err(Refusal::safety(format!(
                "nothing was changed: if {node} still runs, both boxes may answer initiators and \
                 data be lost; see that it has no power, then say --is-off {node}"
            )));
        }
    };
    ask(cli, asked).await
}

fn described(args: &HostArgs) -> Result<Host, Refusal> {
    Ok(Host {
        name: args.name.clone(),
        iqns: args.iqn.clone(),
        networks: args.network.clone(),
        chap: chap(&args.chap)?,
    })
}

fn chap(args: &ChapArgs) -> Result<Option<Chap>, Refusal> {
    let credentials = |user: &Option<String>, file: &Option<PathBuf>| match (user, file) {
        (Some(user), Some(file)) => Ok(Some((user.clone(), secret(file)?))),
        (None, _) | (_, None) => Ok(None),
    };
    let mutual = credentials(&args.mutual_user, &args.mutual_secret_file)?;
    let chap = credentials(&args.chap_user, &args.chap_secret_file)?;
    Ok(chap.map(|(user, secret)| Chap {
        user,
        secret,
        mutual,
    }))
}

fn secret(file: &Path) -> Result<String, Refusal> {
    std::fs::read_to_string(file)
        .map(|text| text.trim_end_matches('\n').to_owned())
        .map_err(|error| {
            Refusal::failed(format!(
                "cannot read the secret in {}: {error}",
                file.display()
            ))
        })
}

fn config_check(cli: &Cli) -> Result<(), Refusal> {
    let config =
        NodeConfig::load(cli.config()).map_err(|error| Refusal::usage(error.to_string()))?;
    let mut warnings = crate::preflight::check(&config).map_err(Refusal::failed)?;
    if let Err(unpaired) = Member::must(&config.state) {
        warnings.push(unpaired);
    }
    if cli.json {
        say(&serde_json::json!({"schema": SCHEMA, "ok": true, "warnings": warnings}).to_string());
        return Ok(());
    }
    for warning in &warnings {
        say(&format!("warning: {warning}"));
    }
    say(&format!("{}: good", cli.config().display()));
    Ok(())
}

/// A value as a document; one that has no version of its own gets it.
fn json(value: &impl serde::Serialize) -> Result<String, Refusal> {
    let mut document =
        serde_json::to_value(value).map_err(|error| Refusal::failed(error.to_string()))?;
    if let Some(fields) = document.as_object_mut() {
        fields.insert("schema".to_owned(), SCHEMA.into());
    }
    Ok(document.to_string())
}

/// One line, or more, on standard output; a closed pipe ends the program quietly.
pub fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_size_or_automatic() {
        let rate = |rate: &str| {
            let rate = rate.to_owned();
            pace(&ResyncVerb::Rate { rate })
        };
        assert_eq!(rate("auto"), Ok(Pace::Auto));
        let bytes_per_s = 50 << 20;
        assert_eq!(rate("50MiB"), Ok(Pace::AtMost { bytes_per_s }));
        assert!(rate("0").is_err_and(|refusal| refusal.exit_code() == 2));
        assert!(rate("fast").is_err_and(|refusal| refusal.exit_code() == 2));
    }
}
