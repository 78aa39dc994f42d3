//! The one status document, from what authority, mirror and target say of themselves.

use ha::Role;
use iscsi_target::registry::SessionInfo;
use replication::engine::{
    DataLink, Event, Pace, ResyncLimit, Role as MirrorRole, Scrubbed, Status as MirrorStatus,
    VolumeScrub, Work,
};
use replication::shell::Pool;
use replication::types::VolumeNumber;

use crate::api::types::{self, Status};
use crate::config::address::Cidr;
use crate::config::{Cluster, NodeConfig};
use crate::identity::{Identity, WITNESS};
use crate::{images, size};

/// What a scrub counts.
const SCRUB_BLOCK_BYTES: u64 = 4096;

/// What the status is made from.
pub(crate) struct Sources<'a> {
    /// This box.
    pub(crate) config: &'a NodeConfig,
    /// This process.
    pub(crate) identity: &'a Identity,
    /// The authority.
    pub(crate) authority: &'a ha::Status,
    /// The mirror.
    pub(crate) mirror: &'a MirrorStatus,
    /// Where this box keeps its volumes.
    pub(crate) pool: &'a Pool,
    /// The cluster configuration in force.
    pub(crate) cluster: &'a Cluster,
    /// Who is logged in.
    pub(crate) sessions: &'a [SessionInfo],
    /// Addresses served here.
    pub(crate) held: &'a [Cidr],
    /// A running resync.
    pub(crate) progress: &'a Progress,
    /// Now, on the boot clock.
    pub(crate) now_ns: u64,
}

/// A resync as its events tell it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    running: Option<Running>,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    started_ns: u64,
    total_bytes: u64,
}

impl Progress {
    /// Takes in an event of the mirror.
    pub(crate) fn hear(&mut self, event: &Event, now_ns: u64) {
        match event {
            Event::ResyncStarted { total_bytes, .. } => {
                self.running = Some(Running {
                    started_ns: now_ns,
                    total_bytes: *total_bytes,
                });
            }
            Event::ResyncProgress {
                left_bytes,
                total_bytes,
            } => {
                if let Some(running) = &mut self.running {
                    running.total_bytes = (*total_bytes).max(*left_bytes);
                }
            }
            Event::InSync { .. } | Event::PeerLost { .. } => self.running = None,
            Event::Data(_)
            | Event::PeerUp { .. }
            | Event::Sealed { .. }
            | Event::Serving { .. }
            | Event::Readmit { .. }
            | Event::Drained { .. }
            | Event::CacheLost { .. }
            | Event::Replayed { .. }
            | Event::Thawed
            | Event::ResyncDone
            | Event::VolumeReady { .. }
            | Event::VolumeGrown { .. }
            | Event::VolumeGone { .. }
            | Event::CopiesDiffer { .. }
            | Event::Scrubbed { .. }
            | Event::Alarm(_) => {}
        }
    }

    /// Progress, given what the mirror says.
    fn shown(&self, mirror: &MirrorStatus, now_ns: u64) -> Option<types::Resync> {
        let running = self.running?;
        let dirty_bytes = mirror.dirty_bytes;
        let total_bytes = running.total_bytes.max(dirty_bytes).max(1);
        let done = total_bytes - dirty_bytes;
        let elapsed_ms = (now_ns.saturating_sub(running.started_ns) / 1_000_000).max(1);
        let bytes_per_s = match mirror.resync.bytes_per_s {
            0 if elapsed_ms < 2000 => done.saturating_mul(1000) / elapsed_ms,
            measured => measured,
        };
        let paused = mirror.resync.limit == ResyncLimit::Paused;
        let per_mille = done.saturating_mul(1000) / total_bytes;
        Some(types::Resync {
            total_bytes: running.total_bytes,
            left_bytes: dirty_bytes,
            percent: f64::from(u32::try_from(per_mille).unwrap_or(1000)) / 10.0,
            bytes_per_s: if paused { 0 } else { bytes_per_s },
            left_s: dirty_bytes.checked_div(bytes_per_s).filter(|_| !paused),
            limit: limit(mirror.resync.limit).to_owned(),
        })
    }
}

/// What keeps a resync from being faster, for operators.
const fn limit(limit: ResyncLimit) -> &'static str {
    match limit {
        ResyncLimit::Idle => "nothing is left to copy",
        ResyncLimit::Hardware => "as fast as disks and network",
        ResyncLimit::Application => "slowed down so that initiators do not feel it",
        ResyncLimit::Floor => "initiators' writes are slowed down, or it would not end",
        ResyncLimit::Rate => "the rate that was asked for",
        ResyncLimit::Paused => "paused: `twinsan resync resume` lets it go on",
        ResyncLimit::Unreadable => {
            "a block cannot be read, or has no room there; it is tried again"
        }
    }
}

fn pace(pace: Pace) -> String {
    match pace {
        Pace::Auto => "auto".to_owned(),
        Pace::Paused => "paused".to_owned(),
        Pace::AtMost { bytes_per_s } => format!("at most {}/s", size::shown(bytes_per_s)),
    }
}

/// The whole document.
#[must_use]
pub(crate) fn compose(sources: &Sources<'_>) -> Status {
    let Sources {
        config,
        identity,
        authority,
        mirror,
        cluster,
        ..
    } = sources;
    let chosen = authority.config.as_ref();
    let trouble = parted(sources)
        .or_else(|| differing_copies(sources))
        .or_else(|| full_pools(sources));
    let (why, next) = trouble.unwrap_or_else(|| {
        (
            identity.named(config, &authority.why),
            identity.named(config, &authority.next),
        )
    });
    let name = |node: ha::NodeId| identity.name(config, node.0);
    Status {
        schema: types::SCHEMA,
        node: config.node.clone(),
        peer: config.peer.clone(),
        verdict: if mirror.role == MirrorRole::Failed {
            failed(&config.node, &config.peer, authority)
        } else {
            verdict(
                &config.node,
                &config.peer,
                authority.role,
                mirror.link,
                if authority.eligible.is_ok() {
                    Fit::Yes
                } else {
                    Fit::No
                },
            )
        },
        why,
        next,
        role: role(authority.role).to_owned(),
        epoch: authority.epoch.0,
        data_epoch: mirror.data.data_epoch.0,
        primary: chosen
            .and_then(|chosen| chosen.primary)
            .map(|(node, _)| name(node)),
        in_sync: chosen.map_or_else(Vec::new, |chosen| chosen.in_sync.iter().map(name).collect()),
        voters: voters(sources),
        links: links(sources),
        mirror: types::Mirror {
            connected: mirror.link != DataLink::Down,
            state: mirror_state(authority.role, mirror.link).to_owned(),
            dirty_bytes: mirror.dirty_bytes,
            kept_bytes: mirror.kept_bytes,
            replayed_writes: mirror.replayed_writes,
            mended_bytes: mirror.mended_bytes,
            blocks_read: mirror.blocks_read,
            resync: sources.progress.shown(mirror, sources.now_ns),
            resync_pace: pace(mirror.resync.pace),
            scrub_bytes_per_s: mirror.scrub_bytes_per_s,
            writes_in_flight: u64::try_from(mirror.commands).unwrap_or(u64::MAX),
        },
        addresses: addresses(sources),
        target: cluster.target.clone(),
        volumes: volumes(sources),
        sessions: sources.sessions.iter().map(session).collect(),
        generation: cluster.generation,
    }
}

/// What it means, and what to do, that the boxes were written each without the other (law R9).
fn parted(sources: &Sources<'_>) -> Option<(String, String)> {
    let (me, peer) = (&sources.config.node, &sources.config.peer);
    let (mirror, authority) = (sources.mirror, sources.authority);
    if let Some(theirs) = mirror.parted {
        return Some((
            format!(
                "{me} and {peer} were both written, each without the other: {me} serves what it \
                 has; what {peer} has (data of epoch {theirs}) is kept there and not joined"
            ),
            format!(
                "to give up what only {peer} has: stop twinsan there and say `twinsan pair leave \
                 --yes`; here `twinsan voter remove {peer} --yes` and `twinsan pair create`; there \
                 `twinsan pair join --yes`, and start it; to keep some of it, first copy the files \
                 of its pool elsewhere"
            ),
        ));
    }
    let own = ha::Epoch(mirror.data.data_epoch.0);
    let outside = authority.role == Role::Secondary && mirror.link == DataLink::Down;
    let forced = own != ha::Epoch::ZERO && own.lineage() != authority.epoch.lineage();
    (outside && forced).then(|| {
        (
            format!(
                "{peer} was started by force (epoch {}) while the data of {me} were of epoch \
                 {own}: what only {me} has is kept and served to nobody",
                authority.epoch
            ),
            format!(
                "wait until the boxes are connected: {me} is brought up to date if it never went \
                 on alone; else `twinsan status` on {peer} says how to go on"
            ),
        )
    })
}

/// What it means, and what to do, that a scrub found blocks that differ and nothing else is wrong.
fn differing_copies(sources: &Sources<'_>) -> Option<(String, String)> {
    let differing = |own: &VolumeScrub| {
        let running = own.running.map_or(0, |(_, found)| found.differing);
        running.max(own.last.map_or(0, |found| found.differing))
    };
    let volumes = sources.mirror.volumes.iter();
    let (number, blocks) = volumes
        .map(|own| (own.spec.number, differing(&own.scrub)))
        .find(|(_, blocks)| *blocks > 0)?;
    let calm = matches!(sources.authority.role, Role::PrimarySync);
    (calm && sources.mirror.role != MirrorRole::Failed).then(|| {
        let volume = images::volume_named(number, sources.cluster);
        (
            format!(
                "the two copies of {volume} differ in {blocks} blocks of 4 KiB: the disks of one \
                 box changed or lost them; initiators read those of {}, and would read the \
                 others after a fail-over",
                sources.config.node
            ),
            format!(
                "find out which copy is right: `twinsan events` names the blocks, both boxes' \
                 bytes are in {}; check the disks of both boxes (smartctl); nothing is repaired \
                 by itself, and a block that is written anew is the same on both",
                images::folder(&sources.config.state).display()
            ),
        )
    })
}

/// Why writes fail, and what to do, while a pool is full and nothing else is wrong.
fn full_pools(sources: &Sources<'_>) -> Option<(String, String)> {
    let full = sources.mirror.full;
    let (me, peer) = (&sources.config.node, &sources.config.peer);
    let whose = match (full.here, full.there) {
        (true, true) => format!("the pools of {me} and {peer} are"),
        (true, false) => format!("the pool of {me} is"),
        (false, true) => format!("the pool of {peer} is"),
        (false, false) => return None,
    };
    let calm = matches!(
        sources.authority.role,
        Role::PrimarySync | Role::PrimarySolo | Role::Secondary
    );
    (calm && sources.mirror.role != MirrorRole::Failed).then(|| {
        let place = sources.pool.dir().display();
        (
            format!("{whose} full: writes that need space fail; all others go on"),
            format!(
                "make room in that file system (here it is under {place}), or delete volumes; no \
                 restart is needed"
            ),
        )
    })
}

/// The sentence for a box whose disk failed.
fn failed(me: &str, peer: &str, authority: &ha::Status) -> String {
    let chosen = authority.config.as_ref();
    let shared = chosen.is_some_and(|config| config.in_sync.len() > 1);
    match authority.role {
        Role::PrimarySync | Role::PrimarySolo | Role::Frozen | Role::HandingOver if shared => {
            format!("STOPPED: the disk of {me} failed; {peer} takes over as soon as it can.")
        }
        Role::PrimarySync | Role::PrimarySolo | Role::Frozen | Role::HandingOver => {
            format!("STOPPED: the disk of {me} failed, and {peer} lacks what was written last.")
        }
        Role::Booting | Role::Blank | Role::Secondary | Role::Candidate | Role::Sealing => {
            format!("NOT protected: the disk of {me} failed; it cannot take over from {peer}.")
        }
    }
}

/// One sentence that an operator can act upon.
fn verdict(me: &str, peer: &str, role: Role, link: DataLink, fit: Fit) -> String {
    match role {
        Role::PrimarySync => {
            format!("Protected: {me} serves and {peer} has every acknowledged write.")
        }
        Role::PrimarySolo if link == DataLink::Source => {
            format!("NOT protected: {me} serves alone and {peer} is catching up.")
        }
        Role::PrimarySolo => format!("NOT protected: {me} serves alone; {peer} is away."),
        Role::Frozen => format!(
            "STOPPED: {me} is primary and holds every write until it is settled whether {peer} \
             may be left behind."
        ),
        Role::HandingOver => format!("{me} hands the primary role to {peer}."),
        Role::Candidate | Role::Sealing => format!("{me} is asking to become primary."),
        Role::Blank => format!("{me} is new and waits for {peer} to admit it."),
        Role::Booting => format!("{me} has just started."),
        Role::Secondary => match (fit, link) {
            (Fit::Yes, DataLink::Following) => {
                format!("Protected: {me} stands by and can take over.")
            }
            (Fit::Yes, _) => format!("{me} stands by; it could take over."),
            (Fit::No, DataLink::Target) => {
                format!("NOT protected: {me} is catching up with {peer}.")
            }
            (Fit::No, _) => format!("{me} stands by and cannot take over."),
        },
    }
}

/// Whether a box could become primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    Yes,
    No,
}

const fn role(role: Role) -> &'static str {
    match role {
        Role::Booting => "starting",
        Role::Blank => "new",
        Role::Secondary => "standby",
        Role::Candidate | Role::Sealing => "candidate",
        Role::Frozen | Role::PrimarySolo | Role::PrimarySync => "primary",
        Role::HandingOver => "handing over",
    }
}

const fn mirror_state(role: Role, link: DataLink) -> &'static str {
    match (role, link) {
        (Role::Frozen, _) => "frozen",
        (Role::PrimarySync, _) => "in sync",
        (Role::PrimarySolo, DataLink::Source) => "resync",
        (Role::PrimarySolo | Role::HandingOver, _) => "alone",
        (_, DataLink::Following) => "standby, in sync",
        (_, DataLink::Target) => "standby, resync",
        (_, _) => "standby",
    }
}

fn since_ms(now_ns: u64, seen: Option<ha::Time>) -> Option<u64> {
    seen.map(|seen| now_ns.saturating_sub(seen.0) / 1_000_000)
}

fn voters(sources: &Sources<'_>) -> Vec<types::Voter> {
    let authority = sources.authority;
    let peer_seen = authority
        .peer
        .iter()
        .filter_map(|link| link.last_seen)
        .max();
    let listed = |node: u8| {
        authority
            .config
            .as_ref()
            .is_some_and(|chosen| chosen.voters.iter().any(|voter| voter.node.0 == node))
    };
    [
        (sources.identity.peer, peer_seen),
        (WITNESS, authority.witness_last_seen),
    ]
    .into_iter()
    .map(|(node, seen)| types::Voter {
        name: sources.identity.name(sources.config, node),
        heard_ms: since_ms(sources.now_ns, seen),
        admitted: listed(node),
    })
    .collect()
}

fn links(sources: &Sources<'_>) -> Vec<types::Link> {
    sources
        .config
        .links
        .iter()
        .zip(&sources.authority.peer)
        .map(|(link, seen)| types::Link {
            name: link.name.clone(),
            heard_ms: since_ms(sources.now_ns, seen.last_seen),
        })
        .collect()
}

fn addresses(sources: &Sources<'_>) -> Vec<types::ServiceAddress> {
    let shown = |address: &crate::config::cluster::Address| types::ServiceAddress {
        cidr: address.cidr.to_string(),
        tag: address.tag,
        here: sources.held.contains(&address.cidr),
    };
    sources.cluster.addresses.iter().map(shown).collect()
}

/// Every volume this box has, also on a standby that has not read the configuration.
fn volumes(sources: &Sources<'_>) -> Vec<types::Volume> {
    let own = sources
        .mirror
        .volumes
        .iter()
        .filter(|own| own.spec.number != VolumeNumber::SYSTEM);
    own.map(|own| {
        let uuid = uuid::Uuid::from_u128(own.spec.uuid);
        let configured = sources
            .cluster
            .volumes
            .iter()
            .find(|volume| volume.uuid == uuid);
        let name = configured.map_or_else(String::new, |volume| volume.name.clone());
        let maps = sources.cluster.maps.iter().filter(|map| map.volume == name);
        types::Volume {
            maps: maps
                .map(|map| types::LunMap {
                    viewer: map.to.name().to_owned(),
                    lun: map.lun,
                    read_only: map.read_only,
                })
                .collect(),
            name,
            uuid: uuid.to_string(),
            size_bytes: own.spec.size_bytes,
            file: sources.pool.path(own.spec.number).display().to_string(),
            work: work(&own.work),
            scrub: scrub(&own.scrub, sources.now_ns),
            data_offset_bytes: own.data_offset_bytes,
            number: own.spec.number.0,
            size_max_bytes: replication::meta::size_max_bytes(own.data_offset_bytes),
            attached: own.attached,
            dirty_bytes: own.dirty_bytes,
            hot_regions: own.hot_regions as u64,
        }
    })
    .collect()
}

fn work(own: &Work) -> types::Work {
    let times = own.times.iter().map(|(span, told)| types::Times {
        part: span.name().to_owned(),
        count: told.count,
        mean_us: told.mean_ns / 1000,
        p50_us: told.p50_ns / 1000,
        p99_us: told.p99_ns / 1000,
        max_us: told.max_ns / 1000,
    });
    types::Work {
        times: times.collect(),
        intent_writes: own.intent_writes,
        page_writes: own.page_writes,
        copied_blocks: own.copied_blocks,
    }
}

fn scrub(own: &VolumeScrub, now_ns: u64) -> types::Scrub {
    let pass = |compared_bytes: u64, found: &Scrubbed| types::ScrubPass {
        compared_bytes,
        differing_blocks: found.differing,
        mended_blocks: found.mended,
        unreadable_blocks: found.unreadable,
        ended_ago_s: None,
    };
    let ended = |found: &Scrubbed| types::ScrubPass {
        ended_ago_s: Some(now_ns.saturating_sub(found.ended.0) / 1_000_000_000),
        ..pass(found.blocks * SCRUB_BLOCK_BYTES, found)
    };
    types::Scrub {
        running: own
            .running
            .as_ref()
            .map(|(bytes, found)| pass(*bytes, found)),
        last: own.last.as_ref().map(ended),
    }
}

fn session(session: &SessionInfo) -> types::Session {
    types::Session {
        initiator: session.key.initiator.clone(),
        address: session.source.to_string(),
        tag: session.key.tag.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINKS: [DataLink; 6] = [
        DataLink::Down,
        DataLink::Handshake,
        DataLink::Source,
        DataLink::Mirroring,
        DataLink::Target,
        DataLink::Following,
    ];
    const NO_SOURCE: &[DataLink] = &[
        DataLink::Down,
        DataLink::Handshake,
        DataLink::Mirroring,
        DataLink::Target,
        DataLink::Following,
    ];
    const NO_TARGET: &[DataLink] = &[
        DataLink::Down,
        DataLink::Handshake,
        DataLink::Source,
        DataLink::Mirroring,
        DataLink::Following,
    ];
    const NOT_FOLLOWING: &[DataLink] = &[
        DataLink::Down,
        DataLink::Handshake,
        DataLink::Source,
        DataLink::Mirroring,
        DataLink::Target,
    ];
    const BOTH: &[Fit] = &[Fit::Yes, Fit::No];

    type Row = (Role, &'static [DataLink], &'static [Fit], &'static str);

    /// Every state that a box can be in.
    const ROWS: [Row; 13] = [
        (Role::Booting, &LINKS, BOTH, "a has just started."),
        (
            Role::Blank,
            &LINKS,
            BOTH,
            "a is new and waits for b to admit it.",
        ),
        (
            Role::Candidate,
            &LINKS,
            BOTH,
            "a is asking to become primary.",
        ),
        (
            Role::Sealing,
            &LINKS,
            BOTH,
            "a is asking to become primary.",
        ),
        (
            Role::Frozen,
            &LINKS,
            BOTH,
            "STOPPED: a is primary and holds every write until it is settled whether b may be \
             left behind.",
        ),
        (
            Role::HandingOver,
            &LINKS,
            BOTH,
            "a hands the primary role to b.",
        ),
        (
            Role::PrimarySync,
            &LINKS,
            BOTH,
            "Protected: a serves and b has every acknowledged write.",
        ),
        (
            Role::PrimarySolo,
            &[DataLink::Source],
            BOTH,
            "NOT protected: a serves alone and b is catching up.",
        ),
        (
            Role::PrimarySolo,
            NO_SOURCE,
            BOTH,
            "NOT protected: a serves alone; b is away.",
        ),
        (
            Role::Secondary,
            &[DataLink::Following],
            &[Fit::Yes],
            "Protected: a stands by and can take over.",
        ),
        (
            Role::Secondary,
            NOT_FOLLOWING,
            &[Fit::Yes],
            "a stands by; it could take over.",
        ),
        (
            Role::Secondary,
            &[DataLink::Target],
            &[Fit::No],
            "NOT protected: a is catching up with b.",
        ),
        (
            Role::Secondary,
            NO_TARGET,
            &[Fit::No],
            "a stands by and cannot take over.",
        ),
    ];

    #[test]
    fn every_state_has_its_verdict() {
        let mut seen = 0;
        for (role, links, fits, words) in ROWS {
            for (link, fit) in links
                .iter()
                .flat_map(|link| fits.iter().map(move |fit| (link, fit)))
            {
                assert_eq!(
                    verdict("a", "b", role, *link, *fit),
                    words,
                    "{role} {link:?} {fit:?}"
                );
                seen += 1;
            }
        }
        assert_eq!(seen, 9 * LINKS.len() * BOTH.len(), "each state once");
    }
}
