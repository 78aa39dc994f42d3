//! What the command line's verbs do, through the local API.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use uuid::Uuid;

use crate::api::client::{Client, Wait};
use crate::api::types::{Ask, Refusal};
use crate::cli::{AddressVerb, Cli, ConfigVerb, HostVerb, LunVerb, Verb, VolumeVerb};
use crate::config::cluster::{Chap, Edit, Host, Map};
use crate::config::{Cluster, NodeConfig};
use crate::render;

/// Runs a verb that talks to the daemon.
///
/// # Errors
/// The refusal to print; its kind is the exit code.
pub async fn run(cli: &Cli) -> Result<(), Refusal> {
    match &cli.verb {
        Verb::Config(ConfigVerb::Check) => return config_check(cli),
        Verb::Status { watch } => return status(cli, *watch).await,
        Verb::Events { follow } => return events(cli, *follow).await,
        Verb::Config(ConfigVerb::Show)
        | Verb::Volume(VolumeVerb::List)
        | Verb::Host(HostVerb::List)
        | Verb::Lun(LunVerb::List)
        | Verb::Address(AddressVerb::List) => return list(cli).await,
        Verb::Demo(_)
        | Verb::Init
        | Verb::Run(_)
        | Verb::Witness(_)
        | Verb::Volume(_)
        | Verb::Host(_)
        | Verb::Lun(_)
        | Verb::Address(_)
        | Verb::Switchover { .. } => {}
    }
    let done = client(cli)?.ask(&asked(&cli.verb)?).await?;
    if cli.json {
        say(&serde_json::json!({"schema": 1, "done": done}).to_string());
    } else {
        say(&done);
    }
    Ok(())
}

/// The daemon's socket: the one given, or the one `node.toml` names.
fn client(cli: &Cli) -> Result<Client, Refusal> {
    match &cli.api {
        Some(socket) => Ok(Client::new(socket)),
        None => NodeConfig::load(&cli.config)
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
            (Err(refusal), _) if watch.is_some() => refusal.to_string(),
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

async fn list(cli: &Cli) -> Result<(), Refusal> {
    let cluster = client(cli)?.config().await?;
    if cli.json {
        say(&json(&cluster)?);
        return Ok(());
    }
    say(&match &cli.verb {
        Verb::Volume(_) => render::volumes(&cluster),
        Verb::Host(_) => render::hosts(&cluster),
        Verb::Lun(_) => render::maps(&cluster),
        Verb::Address(_) => render::addresses(&cluster),
        Verb::Config(_)
        | Verb::Demo(_)
        | Verb::Init
        | Verb::Run(_)
        | Verb::Witness(_)
        | Verb::Status { .. }
        | Verb::Events { .. }
        | Verb::Switchover { .. } => shown(&cluster)?,
    });
    Ok(())
}

fn shown(cluster: &Cluster) -> Result<String, Refusal> {
    toml::to_string(cluster).map_err(|error| Refusal::failed(error.to_string()))
}

fn asked(verb: &Verb) -> Result<Ask, Refusal> {
    let edit = match verb {
        Verb::Switchover { to } => return Ok(Ask::Switchover { to: to.clone() }),
        Verb::Volume(VolumeVerb::Create { name, size }) => Edit::AddVolume {
            name: name.clone(),
            uuid: Uuid::new_v4(),
            size_bytes: size_bytes(size).map_err(Refusal::usage)?,
        },
        Verb::Volume(VolumeVerb::Delete { name, confirm }) => {
            if name != confirm {
                return Err(Refusal::safety(format!(
                    "volume {name} was not deleted: its data would be lost on both boxes; if that \
                     is meant, say --confirm {name}"
                )));
            }
            Edit::RemoveVolume(name.clone())
        }
        Verb::Host(HostVerb::Add { .. }) => Edit::AddHost(host(verb)?),
        Verb::Host(HostVerb::Remove { name }) => Edit::RemoveHost(name.clone()),
        Verb::Lun(LunVerb::Map {
            host,
            lun,
            volume,
            read_only,
        }) => Edit::Map(Map {
            host: host.clone(),
            lun: *lun,
            volume: volume.clone(),
            read_only: *read_only,
        }),
        Verb::Lun(LunVerb::Unmap { host, lun }) => Edit::Unmap {
            host: host.clone(),
            lun: *lun,
        },
        Verb::Address(AddressVerb::Add { cidr }) => Edit::AddAddress(*cidr),
        Verb::Address(AddressVerb::Remove { address }) => Edit::RemoveAddress(*address),
        Verb::Volume(VolumeVerb::List)
        | Verb::Host(HostVerb::List)
        | Verb::Lun(LunVerb::List)
        | Verb::Address(AddressVerb::List)
        | Verb::Demo(_)
        | Verb::Init
        | Verb::Run(_)
        | Verb::Witness(_)
        | Verb::Status { .. }
        | Verb::Events { .. }
        | Verb::Config(_) => return Err(Refusal::usage("this verb asks for no change")),
    };
    Ok(Ask::Edit(edit))
}

fn host(verb: &Verb) -> Result<Host, Refusal> {
    let Verb::Host(HostVerb::Add {
        name,
        iqn,
        network,
        chap_user,
        chap_secret_file,
        mutual_user,
        mutual_secret_file,
    }) = verb
    else {
        return Err(Refusal::usage("no host was described"));
    };
    let credentials = |user: &Option<String>, file: &Option<std::path::PathBuf>| match (user, file)
    {
        (Some(user), Some(file)) => Ok(Some((user.clone(), secret(file)?))),
        (None, _) | (_, None) => Ok(None),
    };
    let mutual = credentials(mutual_user, mutual_secret_file)?;
    let chap = credentials(chap_user, chap_secret_file)?.map(|(user, secret)| Chap {
        user,
        secret,
        mutual,
    });
    Ok(Host {
        name: name.clone(),
        iqns: iqn.clone(),
        networks: network.clone(),
        chap,
    })
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

/// `20GiB`, `512 MiB`, `1T`: binary units, also without the `iB`.
fn size_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size; write it like 512MiB, 20GiB or 1TiB");
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim().trim_end_matches("iB") {
        "" | "B" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << unit).ok_or_else(wrong)
}

fn config_check(cli: &Cli) -> Result<(), Refusal> {
    let config =
        NodeConfig::load(&cli.config).map_err(|error| Refusal::usage(error.to_string()))?;
    let warnings = crate::preflight::check(&config).map_err(Refusal::failed)?;
    if cli.json {
        say(&serde_json::json!({"schema": 1, "ok": true, "warnings": warnings}).to_string());
        return Ok(());
    }
    for warning in &warnings {
        say(&format!("warning: {warning}"));
    }
    say(&format!("{}: good", cli.config.display()));
    Ok(())
}

fn json(value: &impl serde::Serialize) -> Result<String, Refusal> {
    serde_json::to_string(value).map_err(|error| Refusal::failed(error.to_string()))
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
    use super::size_bytes;

    #[test]
    fn sizes_are_binary() {
        assert_eq!(size_bytes("512MiB"), Ok(512 << 20));
        assert_eq!(size_bytes("20 GiB"), Ok(20 << 30));
        assert_eq!(size_bytes("1T"), Ok(1 << 40));
        assert_eq!(size_bytes("4096"), Ok(4096));
        for wrong in ["", "GiB", "1.5G", "10X", "99999999999T"] {
            assert!(size_bytes(wrong).is_err(), "{wrong}");
        }
    }
}
