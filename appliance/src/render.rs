//! Documents of the API as text for people.

use std::fmt::Write as _;

use crate::api::types::{Event, Resync, Status};
use crate::config::Cluster;

/// The whole status, verdict first.
#[must_use]
pub fn status(status: &Status) -> String {
    let mut text = String::new();
    line(&mut text, "", &status.verdict);
    line(&mut text, "why", &status.why);
    line(&mut text, "next", &status.next);
    let primary = status.primary.as_deref().unwrap_or("none");
    line(
        &mut text,
        "boxes",
        &format!(
            "{} (this box): {}; primary {primary}; epoch {}; in sync: {}",
            status.node,
            status.role,
            status.epoch,
            status.in_sync.join(", ")
        ),
    );
    connections(&mut text, status);
    service(&mut text, status);
    text.truncate(text.trim_end().len());
    text
}

/// Votes, links and the mirror.
fn connections(text: &mut String, status: &Status) {
    for voter in &status.voters {
        let vote = if voter.admitted {
            "votes"
        } else {
            "has no vote"
        };
        line(
            text,
            &voter.name,
            &format!("{vote}, {}", heard(voter.heard_ms)),
        );
    }
    for link in &status.links {
        line(
            text,
            &format!("link {}", link.name),
            &format!("peer {}", heard(link.heard_ms)),
        );
    }
    let session = if status.mirror.connected {
        "connected"
    } else {
        "not connected"
    };
    line(
        text,
        "mirror",
        &format!("{}, {session}", status.mirror.state),
    );
    if let Some(progress) = &status.mirror.resync {
        line(text, "resync", &resync(progress));
    }
}

/// What initiators see.
fn service(text: &mut String, status: &Status) {
    for address in &status.addresses {
        let place = if address.here { "here" } else { "not here" };
        line(
            text,
            &address.cidr,
            &format!("portal group {}, {place}", address.tag),
        );
    }
    for volume in &status.volumes {
        let maps: Vec<String> = volume
            .maps
            .iter()
            .map(|(host, lun, _)| format!("LUN {lun} of {host}"))
            .collect();
        let size = bytes(volume.size_bytes);
        match (volume.name.as_str(), maps.is_empty()) {
            // Only the primary has read the configuration that gives names and maps.
            ("", _) => line(text, &volume.uuid, &format!("{size}, a copy")),
            (name, true) => line(text, name, &format!("{size}, not mapped")),
            (name, false) => line(text, name, &format!("{size}, {}", maps.join(", "))),
        }
    }
    for session in &status.sessions {
        line(
            text,
            "session",
            &format!("{} from {}", session.initiator, session.address),
        );
    }
}

fn line(text: &mut String, label: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    let written = if label.is_empty() {
        writeln!(text, "{value}")
    } else {
        writeln!(text, "  {label:<16} {value}")
    };
    written.expect("a string takes every line");
}

fn heard(heard_ms: Option<u64>) -> String {
    heard_ms.map_or_else(
        || "never heard".to_owned(),
        |ms| format!("heard {ms} ms ago"),
    )
}

/// Percent, bytes, rate and time left.
#[must_use]
pub fn resync(progress: &Resync) -> String {
    let left = progress.seconds_left.map_or_else(
        || "time left unknown".to_owned(),
        |seconds| format!("{seconds} s left"),
    );
    format!(
        "{:.0} %, {} of {} left, {}/s, {left}",
        progress.percent,
        bytes(progress.left_bytes),
        bytes(progress.total_bytes),
        bytes(progress.bytes_per_second)
    )
}

/// A size in the largest binary unit that keeps it readable.
#[must_use]
pub fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut value = count;
    let mut rest = 0;
    while value >= 1024 && unit + 1 < units.len() {
        rest = (value % 1024) * 10 / 1024;
        value /= 1024;
        unit += 1;
    }
    if rest == 0 {
        format!("{value} {}", units[unit])
    } else {
        format!("{value}.{rest} {}", units[unit])
    }
}

/// One event with its time of day (UTC).
#[must_use]
pub fn event(event: &Event) -> String {
    let seconds = event.unix_ms / 1000;
    format!(
        "{:02}:{:02}:{:02}.{:03}  {}",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        event.unix_ms % 1000,
        event.text
    )
}

/// Volumes, a line each.
#[must_use]
pub fn volumes(cluster: &Cluster) -> String {
    rows(cluster.volumes.iter().map(|volume| {
        format!(
            "{:<20} {:>12}  {}",
            volume.name,
            bytes(volume.size_bytes),
            volume.uuid
        )
    }))
}

/// Hosts, a line each, without secrets.
#[must_use]
pub fn hosts(cluster: &Cluster) -> String {
    rows(cluster.hosts.iter().map(|host| {
        let networks: Vec<String> = host.networks.iter().map(ToString::to_string).collect();
        let chap = match &host.chap {
            Some(chap) if chap.mutual.is_some() => "mutual CHAP",
            Some(_) => "CHAP",
            None => "no CHAP",
        };
        let from = if networks.is_empty() {
            "anywhere".to_owned()
        } else {
            networks.join(" ")
        };
        format!(
            "{:<20} {}  from {from}  {chap}",
            host.name,
            host.iqns.join(" ")
        )
    }))
}

/// LUN maps, a line each.
#[must_use]
pub fn maps(cluster: &Cluster) -> String {
    rows(cluster.maps.iter().map(|map| {
        let access = if map.read_only {
            "read-only"
        } else {
            "read-write"
        };
        format!(
            "{:<20} LUN {:<4} {:<20} {access}",
            map.host, map.lun, map.volume
        )
    }))
}

/// Service addresses, a line each.
#[must_use]
pub fn addresses(cluster: &Cluster) -> String {
    rows(cluster.addresses.iter().map(|address| {
        format!(
            "{}/{}  portal group {}",
            address.ip, address.prefix, address.tag
        )
    }))
}

fn rows(rows: impl Iterator<Item = String>) -> String {
    let text = rows.collect::<Vec<_>>().join("\n");
    if text.is_empty() {
        "none".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(256 << 20), "256 MiB");
    }

    #[test]
    fn the_verdict_comes_first_and_secrets_never() {
        let shown = status(&Status {
            verdict: "Protected: a failure of either box is survivable.".into(),
            node: "san1".into(),
            role: "primary".into(),
            ..Status::default()
        });
        assert!(shown.starts_with("Protected"), "{shown}");
        assert!(shown.contains("san1 (this box): primary"), "{shown}");
    }
}
