//! Documents of the API as text for people.

use std::fmt::Write as _;

use replication::inspect::{Finding, Report};

use crate::api::types::{Event, LunMap, Made, Resync, ScrubPass, Session, Status, Volume};
use crate::config::Cluster;
use crate::size;

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
            ha::Epoch(status.epoch),
            status.in_sync.join(", ")
        ),
    );
    connections(&mut text, status);
    service(&mut text, status);
    text.truncate(text.trim_end().len());
    text
}

/// One volume, as this box has it.
#[must_use]
pub fn volume(status: &Status, volume: &Volume) -> String {
    let mut text = String::new();
    let name = if volume.name.is_empty() {
        "a copy, its name is known where it is served"
    } else {
        volume.name.as_str()
    };
    let shown = |bytes: u64| format!("{} ({bytes} bytes)", size::shown(bytes));
    line(&mut text, "", name);
    line(&mut text, "number", &volume.number.to_string());
    line(&mut text, "identity", &volume.uuid);
    line(&mut text, "size", &shown(volume.size_bytes));
    line(&mut text, "can grow to", &shown(volume.size_max_bytes));
    line(&mut text, "file", &volume.file);
    line(
        &mut text,
        "data begins at",
        &shown(volume.data_offset_bytes),
    );
    let attached = if volume.attached { "yes" } else { "no" };
    line(&mut text, "attached here", attached);
    line(&mut text, "dirty", &shown(volume.dirty_bytes));
    line(&mut text, "hot regions", &volume.hot_regions.to_string());
    if let Some(pass) = &volume.scrub.running {
        line(&mut text, "scrub", &scrub(volume.size_bytes, pass));
    }
    if let Some(pass) = &volume.scrub.last {
        line(&mut text, "last scrub", &scrub(volume.size_bytes, pass));
    }
    for LunMap {
        viewer,
        lun,
        read_only,
    } in &volume.maps
    {
        let how = if *read_only { ", read only" } else { "" };
        line(
            &mut text,
            &format!("LUN {lun}"),
            &format!("of {viewer}{how}"),
        );
    }
    let (epoch, data_epoch) = (ha::Epoch(status.epoch), ha::Epoch(status.data_epoch));
    let epochs = format!("{epoch}, data of epoch {data_epoch}");
    line(&mut text, "epoch", &epochs);
    line(&mut text, "in sync", &status.in_sync.join(", "));
    line(
        &mut text,
        "other box",
        &format!(
            "{}: ask it for its side ({})",
            status.peer, status.mirror.state
        ),
    );
    text.truncate(text.trim_end().len());
    text
}

/// What a file says, structure by structure.
#[must_use]
pub fn inspection(report: &Report) -> String {
    let mut text = String::new();
    for found in &report.findings {
        let Finding {
            offset_bytes,
            len_bytes,
            name,
            health,
            meaning,
        } = found;
        writeln!(
            text,
            "{offset_bytes:>16} {len_bytes:>7}  {name:<26} {health:<8} {meaning}"
        )
        .expect("a string takes every line");
    }
    text.push_str(&report.verdict);
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
    if status.mirror.mended_bytes > 0 {
        let mended = size::shown(status.mirror.mended_bytes);
        let told = format!(
            "{mended} could not be read here and came from {}: look at this box's disk (smartctl)",
            status.peer
        );
        line(text, "mended", &told);
    }
    match &status.mirror.resync {
        Some(progress) => line(text, "resync", &resync(progress)),
        None if matches!(status.mirror.resync_pace.as_str(), "" | "auto") => {}
        None => line(text, "resync", &status.mirror.resync_pace),
    }
    for volume in status.volumes.iter().filter(|it| !it.name.is_empty()) {
        if let Some(pass) = &volume.scrub.running {
            let label = format!("scrub {}", volume.name);
            line(text, &label, &scrub(volume.size_bytes, pass));
        }
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
            .map(|map| format!("LUN {} of {}", map.lun, map.viewer))
            .collect();
        let size = size::shown(volume.size_bytes);
        let scrub = scrubbed(volume);
        match (volume.name.as_str(), maps.is_empty()) {
            // Only the primary has read the configuration that gives names and maps.
            ("", _) => line(text, &volume.uuid, &format!("{size}, a copy")),
            (name, true) => line(text, name, &format!("{size}, not mapped{scrub}")),
            (name, false) => line(text, name, &format!("{size}, {}{scrub}", maps.join(", "))),
        }
    }
    for fence in &status.fences {
        let state = match (fence.lab, fence.failing) {
            (true, _) => "; FOR LABS ONLY, it proves nothing",
            (false, true) => "; FAILED its last test",
            (false, false) => "",
        };
        let does = format!(
            "turns {} off ({}, level {}){state}",
            fence.node, fence.kind, fence.level
        );
        line(text, &format!("fence {}", fence.name), &does);
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

/// Percent, bytes, rate, time left, and what it is limited by.
#[must_use]
pub fn resync(progress: &Resync) -> String {
    let left = progress.left_s.map_or_else(
        || "time left unknown".to_owned(),
        |seconds| format!("{seconds} s left"),
    );
    format!(
        "{:.0} %, {} of {} left, {}/s, {left}; {}",
        progress.percent,
        size::shown(progress.left_bytes),
        size::shown(progress.total_bytes),
        size::shown(progress.bytes_per_s),
        progress.limit
    )
}

/// When both copies were compared last, and whether they were the same.
fn scrubbed(volume: &Volume) -> String {
    let Some(pass) = &volume.scrub.last else {
        return String::new();
    };
    let ago = pass.ended_ago_s.unwrap_or(0);
    match pass.differing_blocks {
        0 => format!(", scrubbed {ago} s ago"),
        blocks => format!(", scrubbed {ago} s ago: blocks of 4 KiB that DIFFER: {blocks}"),
    }
}

/// How far a pass of the scrub is, or when it ended, and what it found.
#[must_use]
pub fn scrub(size_bytes: u64, pass: &ScrubPass) -> String {
    let progress = match pass.ended_ago_s {
        Some(seconds) => format!(
            "{} compared, {seconds} s ago",
            size::shown(pass.compared_bytes)
        ),
        None => format!(
            "{} %, {} of {} compared",
            pass.compared_bytes.saturating_mul(100) / size_bytes.max(1),
            size::shown(pass.compared_bytes),
            size::shown(size_bytes)
        ),
    };
    let found = match pass.differing_blocks {
        0 => "nothing differs".to_owned(),
        blocks => format!("blocks of 4 KiB that DIFFER: {blocks}"),
    };
    let counted = |blocks: u64, what: &str| match blocks {
        0 => String::new(),
        _ => format!(", {blocks} {what}"),
    };
    format!(
        "{progress}; {found}{}{}",
        counted(pass.mended_blocks, "mended"),
        counted(pass.unreadable_blocks, "unreadable")
    )
}

/// One event with its date and time of day (UTC).
#[must_use]
pub fn event(event: &Event) -> String {
    format!("{}  {}", moment(event.unix_ms), event.text)
}

/// Changes of the cluster configuration, oldest first, with what each of them changed.
#[must_use]
pub fn history(history: &[Made]) -> String {
    rows(history.iter().map(|made| {
        format!(
            "{:<10} {}  {}",
            made.generation.to_string(),
            moment(made.unix_ms),
            made.told.join("; ")
        )
    }))
}

/// Date and time of day (UTC).
fn moment(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (year, month, day) = date(seconds / 86_400);
    format!(
        "{year}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:03}Z",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        unix_ms % 1000
    )
}

/// Year, month and day of a day since 1970. Years begin in March here, so that the day which only
/// some of them have is the last one.
const fn date(days: u64) -> (u64, u64, u64) {
    const FROM_MARCH_OF_0: u64 = 719_468;
    const OF_400_YEARS: u64 = 146_097;
    let days = days + FROM_MARCH_OF_0;
    let (era, day) = (days / OF_400_YEARS, days % OF_400_YEARS);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year + next, month, day)
}

/// Volumes, a line each.
#[must_use]
pub fn volumes(cluster: &Cluster) -> String {
    rows(cluster.volumes.iter().map(|volume| {
        format!(
            "{:<20} {:>12}  {}",
            volume.name,
            size::shown(volume.size_bytes),
            volume.uuid
        )
    }))
}

/// Sessions, a line each: who, from where, through which portal group.
#[must_use]
pub fn sessions(sessions: &[Session]) -> String {
    rows(sessions.iter().map(|session| {
        format!(
            "{:<48} from {:<22} portal group {}",
            session.initiator, session.address, session.tag
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

/// Groups of hosts, a line each.
#[must_use]
pub fn groups(cluster: &Cluster) -> String {
    rows(cluster.groups.iter().map(|group| {
        let hosts = if group.hosts.is_empty() {
            "no host".to_owned()
        } else {
            group.hosts.join(" ")
        };
        format!("{:<20} {hosts}", group.name)
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
            map.to.to_string(),
            map.lun,
            map.volume
        )
    }))
}

/// Service addresses, a line each.
#[must_use]
pub fn addresses(cluster: &Cluster) -> String {
    rows(
        cluster
            .addresses
            .iter()
            .map(|address| format!("{}  portal group {}", address.cidr, address.tag)),
    )
}

/// Fencing devices, a line each, without secrets.
#[must_use]
pub fn fences(cluster: &Cluster) -> String {
    rows(cluster.fences.iter().map(|fence| {
        let lab = if fence.agent.is_lab() {
            "  FOR LABS ONLY, it proves nothing"
        } else {
            ""
        };
        format!(
            "{}  turns {} off  {}  level {}{lab}",
            fence.name,
            fence.node,
            fence.agent.kind(),
            fence.level
        )
    }))
}

/// The whole cluster configuration as TOML, without secrets.
///
/// # Errors
/// A number that TOML cannot hold.
pub fn config(cluster: &Cluster) -> Result<String, String> {
    toml::to_string(&cluster.masked()).map_err(|error| error.to_string())
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
    use crate::config::cluster::{Chap, Group, Host, Map, Viewer};

    #[test]
    fn the_verdict_comes_first() {
        let shown = status(&Status {
            verdict: "Protected: a failure of either box is survivable.".into(),
            node: "san1".into(),
            role: "primary".into(),
            ..Status::default()
        });
        assert!(shown.starts_with("Protected"), "{shown}");
        assert!(shown.contains("san1 (this box): primary"), "{shown}");
    }

    #[test]
    fn a_scrub_says_how_far_it_is_and_what_it_found() {
        let mut volume = Volume {
            name: "vm1".into(),
            size_bytes: 4 << 20,
            ..Volume::default()
        };
        volume.scrub.running = Some(ScrubPass {
            compared_bytes: 1 << 20,
            mended_blocks: 2,
            ..ScrubPass::default()
        });
        volume.scrub.last = Some(ScrubPass {
            compared_bytes: 4 << 20,
            differing_blocks: 3,
            ended_ago_s: Some(7),
            ..ScrubPass::default()
        });
        let shown = status(&Status {
            volumes: vec![volume],
            ..Status::default()
        });
        let running = "25 %, 1 MiB of 4 MiB compared; nothing differs, 2 mended";
        assert!(shown.contains(running), "{shown}");
        let last = "4 MiB, not mapped, scrubbed 7 s ago: blocks of 4 KiB that DIFFER: 3";
        assert!(shown.contains(last), "{shown}");
    }

    #[test]
    fn an_event_has_its_date() {
        let at = |seconds: u64| {
            event(&Event {
                sequence: 1,
                unix_ms: seconds * 1000 + 789,
                text: "x".to_owned(),
            })
        };
        assert_eq!(at(0), "1970-01-01 00:00:00.789Z  x");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00.789Z  x");
        assert_eq!(at(1_735_689_599), "2024-12-31 23:59:59.789Z  x");
        assert_eq!(at(4_107_542_400), "2100-03-01 00:00:00.789Z  x");
    }

    #[test]
    fn what_was_mended_is_said() {
        let mut shown = Status::default();
        assert!(!status(&shown).contains("mended"));
        shown.mirror.mended_bytes = 8192;
        assert!(status(&shown).contains("8 KiB could not be read here"));
    }

    fn with_secrets() -> Cluster {
        Cluster {
            hosts: vec![Host {
                name: "xen1".to_owned(),
                iqns: vec!["iqn.2026-11.org.example:xen1".to_owned()],
                networks: Vec::new(),
                chap: Some(Chap {
                    user: "in-user".to_owned(),
                    secret: "in-secret-0123".to_owned(),
                    mutual: Some(("out-user".to_owned(), "out-secret-4567".to_owned())),
                }),
            }],
            groups: vec![Group {
                name: "cluster".to_owned(),
                hosts: vec!["xen1".to_owned()],
            }],
            maps: vec![Map {
                to: Viewer::Group("cluster".to_owned()),
                lun: 3,
                volume: "vm1".to_owned(),
                read_only: true,
            }],
            ..Cluster::default()
        }
    }

    #[test]
    fn secrets_are_never_shown() {
        let cluster = with_secrets();
        let stored = toml::to_string(&cluster).expect("serializes");
        let secrets = ["in-secret-0123", "out-secret-4567"];
        assert!(
            secrets.iter().all(|secret| stored.contains(secret)),
            "{stored}"
        );
        let shown = [
            hosts(&cluster),
            groups(&cluster),
            maps(&cluster),
            config(&cluster).expect("serializes"),
            serde_json::to_string(&cluster.masked()).expect("serializes"),
            format!("{cluster:?}"),
        ];
        for text in shown {
            for secret in secrets {
                assert!(!text.contains(secret), "{text}");
            }
        }
        assert!(config(&cluster).is_ok_and(|text| text.contains("in-user")));
    }

    #[test]
    fn lists_say_who_sees_what() {
        let cluster = with_secrets();
        assert!(hosts(&cluster).ends_with("from anywhere  mutual CHAP"));
        assert_eq!(groups(&cluster), format!("{:<20} xen1", "cluster"));
        let words: Vec<String> = maps(&cluster).split_whitespace().map(Into::into).collect();
        assert_eq!(words, ["group", "cluster", "LUN", "3", "vm1", "read-only"]);
        assert_eq!(addresses(&cluster), "none");
    }
}
