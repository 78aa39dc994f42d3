//! The story the demo tells, step by step.

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::boxes::{Boxes, NODES};
use super::report::Report;
use super::{ISCSI_PORT, PORTALS, TARGET, VOLUME, VOLUME_BYTES};
use crate::api::client::Client;
use crate::api::types::{Ask, Refusal, Status};
use crate::block::BLOCK_BYTES;
use crate::cli::DemoArgs;
use crate::clock::boot_ns;
use crate::config::cluster::{Edit, Host, Map, Viewer};
use crate::load::{Floor, Load, Plan};
use crate::{render, size};

/// Longest wait for a state that must come.
const STATE_WAIT: Duration = Duration::from_secs(30);
/// How often a state is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How often progress is said.
const SAY_AGAIN_MS: u64 = 500;
/// Writers of the load; at the kill at least [`IN_FLIGHT_MIN`] writes are under way.
const WRITERS: usize = 16;
const IN_FLIGHT_MIN: usize = 8;
/// Blocks the load uses. Random writes over the whole volume would leave a sparse file of so many
/// pieces that removing it takes a minute where each is discarded by itself.
const LOAD_BLOCKS: u64 = 8192;
/// Acknowledged writes that show that I/O goes on.
const PROGRESS_WRITES: u64 = 500;

/// Starts everything up to a mirrored, mapped, served volume.
pub(super) async fn start(boxes: &mut Boxes, report: &Report) -> Result<(), Refusal> {
    boxes.witness.start()?;
    for process in &mut boxes.boxes {
        process.start()?;
    }
    report.line("two boxes and a witness are starting as processes on loopback");
    let first = boxes.boxes[0].client();
    // The target has its name once the configuration of this epoch is read (law D11).
    until(boxes, &first, "san1 is primary", |status| {
        status.role == "primary" && !status.target.is_empty()
    })
    .await?;
    for edit in edits()? {
        first.ask(&Ask::Edit(edit)).await?;
    }
    until(boxes, &first, "both boxes are in sync", in_sync).await?;
    let serves = |status: &Status| status.volumes.iter().any(|volume| volume.name == VOLUME);
    until(boxes, &first, "san1 serves the volume", serves).await?;
    let second = boxes.boxes[1].client();
    let has_it = |status: &Status| !status.volumes.is_empty();
    until(boxes, &second, "san2 has the volume", has_it).await?;
    report.line(&format!(
        "san1 is primary, san2 stands by, both are in sync: {TARGET} serves {VOLUME} ({}) on {}",
        size::shown(VOLUME_BYTES),
        PORTALS.join(" and ")
    ));
    Ok(())
}

fn edits() -> Result<Vec<Edit>, Refusal> {
    let loopback = "127.0.0.0/8".parse().expect("a network");
    let mut edits = vec![
        Edit::Target(TARGET.to_owned()),
        Edit::AddVolume {
            name: VOLUME.to_owned(),
            uuid: Uuid::new_v4(),
            size_bytes: VOLUME_BYTES,
        },
        Edit::AddHost(Host {
            name: "any".to_owned(),
            iqns: Vec::new(),
            networks: vec![loopback],
            chap: None,
        }),
        Edit::Map(Map {
            to: Viewer::Host("any".to_owned()),
            lun: 0,
            volume: VOLUME.to_owned(),
            read_only: false,
        }),
    ];
    for portal in PORTALS {
        let cidr = format!("{portal}/8").parse().map_err(Refusal::usage)?;
        edits.push(Edit::AddAddress(cidr));
    }
    Ok(edits)
}

/// Load, kill, resync, kill of the standby, comparison.
pub(super) async fn tell(
    boxes: &mut Boxes,
    args: &DemoArgs,
    report: &Report,
) -> Result<(), Refusal> {
    let load = Load::start(plan());
    load.progress(PROGRESS_WRITES, STATE_WAIT)
        .await
        .map_err(Refusal::failed)?;
    tokio::time::sleep(random_moment(args.seconds)).await;
    kill_primary(boxes, &load, report).await?;
    bring_back(boxes, &load, report).await?;
    kill_standby(boxes, &load, report).await?;
    bring_back(boxes, &load, report).await?;
    compare(boxes, &load, report).await
}

fn plan() -> Plan {
    let portal = |ip: &str| SocketAddr::new(ip.parse().expect("a literal"), ISCSI_PORT);
    Plan {
        portals: PORTALS.into_iter().map(portal).collect(),
        target: TARGET.to_owned(),
        initiator: "iqn.2026-11.org.twinsan:demo-initiator".to_owned(),
        lun: 0,
        first_block: 0,
        blocks: LOAD_BLOCKS,
        writers: WRITERS,
        pause: Duration::ZERO,
        seed: boot_ns(),
    }
}

/// Somewhere in the last second of the load.
fn random_moment(seconds: u64) -> Duration {
    let nanoseconds = crate::identity::random().unwrap_or_default() % 1_000_000_000;
    Duration::from_secs(seconds - 1)
        + Duration::from_nanos(u64::try_from(nanoseconds).expect("below 10^9"))
}

async fn kill_primary(boxes: &mut Boxes, load: &Load, report: &Report) -> Result<(), Refusal> {
    let acknowledged = load.acknowledged();
    let busy = async {
        while load.in_flight() < IN_FLIGHT_MIN && load.failure().is_none() {
            tokio::task::yield_now().await;
        }
    };
    if tokio::time::timeout(STATE_WAIT, busy).await.is_err() || load.failure().is_some() {
        let why = load
            .failure()
            .unwrap_or_else(|| "the load does not keep up".to_owned());
        return Err(Refusal::failed(why));
    }
    load.measure();
    let in_flight = load.in_flight();
    boxes.boxes[0].kill().await;
    report.both(
        &format!(
            "KILL  san1, the primary, with SIGKILL: {in_flight} writes in flight, {acknowledged} \
             acknowledged, no flush before"
        ),
        "killed",
        json!({"node": "san1", "role": "primary", "in_flight": in_flight,
               "acknowledged": acknowledged}),
    );
    load.progress(PROGRESS_WRITES, STATE_WAIT)
        .await
        .map_err(Refusal::failed)?;
    let second = boxes.boxes[1].client();
    until(boxes, &second, "san2 is primary", |status| {
        status.role == "primary"
    })
    .await?;
    let pause_ms = load.longest_gap_ms();
    report.both(
        &format!(
            "      san2 serves: the longest pause was {pause_ms} ms (process kill on loopback)"
        ),
        "pause",
        json!({"pause_ms": pause_ms, "cause": "primary killed"}),
    );
    Ok(())
}

async fn kill_standby(boxes: &mut Boxes, load: &Load, report: &Report) -> Result<(), Refusal> {
    load.measure();
    let in_flight = load.in_flight();
    boxes.boxes[0].kill().await;
    report.both(
        &format!("KILL  san1, now the standby, with SIGKILL: {in_flight} writes in flight"),
        "killed",
        json!({"node": "san1", "role": "standby", "in_flight": in_flight}),
    );
    load.progress(PROGRESS_WRITES, STATE_WAIT)
        .await
        .map_err(Refusal::failed)?;
    let stall_ms = load.longest_gap_ms();
    report.both(
        &format!("      san2 goes on alone: writes stalled for {stall_ms} ms"),
        "pause",
        json!({"pause_ms": stall_ms, "cause": "standby killed"}),
    );
    Ok(())
}

/// Restarts the killed box and waits until it has every acknowledged write again.
async fn bring_back(boxes: &mut Boxes, load: &Load, report: &Report) -> Result<(), Refusal> {
    boxes.boxes[0].start()?;
    report.line("      san1 starts again and resyncs while writes go on");
    let primary = boxes.boxes[1].client();
    let mut said_ns = 0;
    let started_ns = boot_ns();
    until(boxes, &primary, "san1 is in sync again", |status| {
        if let Some(resync) = &status.mirror.resync
            && boot_ns() - said_ns > SAY_AGAIN_MS * 1_000_000
        {
            said_ns = boot_ns();
            let fields = json!({"percent": resync.percent, "left_bytes": resync.left_bytes,
                                "total_bytes": resync.total_bytes,
                                "bytes_per_s": resync.bytes_per_s,
                                "left_s": resync.left_s});
            let text = format!("      resync {}", render::resync(resync));
            report.both(&text, "resync", fields);
        }
        in_sync(status)
    })
    .await?;
    let took_ms = (boot_ns() - started_ns) / 1_000_000;
    load.progress(1, STATE_WAIT)
        .await
        .map_err(Refusal::failed)?;
    report.both(
        &format!("      san1 has every acknowledged write again, {took_ms} ms after its start"),
        "in-sync",
        json!({"node": "san1", "took_ms": took_ms}),
    );
    Ok(())
}

/// Reads everything back through iSCSI, flushes, compares the two files.
async fn compare(boxes: &mut Boxes, load: &Load, report: &Report) -> Result<(), Refusal> {
    load.stop().await.map_err(Refusal::failed)?;
    let acknowledged = load.acknowledged();
    let blocks = load
        .verify(Floor::Acknowledged)
        .await
        .map_err(Refusal::failed)?;
    report.both(
        &format!(
            "CHECK {acknowledged} writes were acknowledged; all {blocks} blocks they went to were \
             read back through iSCSI and hold what was acknowledged"
        ),
        "verified",
        json!({"acknowledged": acknowledged, "blocks": blocks}),
    );
    load.flush().await.map_err(Refusal::failed)?;
    load.close();
    let mut areas = Vec::new();
    for process in &boxes.boxes {
        areas.push(data_area(boxes, &process.client()).await?);
    }
    let differing = first_difference(&areas)?;
    if let Some(block) = differing {
        return Err(Refusal::failed(format!(
            "the two data areas differ in block {block}"
        )));
    }
    report.both(
        &format!(
            "CHECK both data areas, {} each, are identical",
            size::shown(VOLUME_BYTES)
        ),
        "identical",
        json!({"bytes": VOLUME_BYTES}),
    );
    report.line("no acknowledged block was lost");
    Ok(())
}

/// File and offset of the demo's volume on one box.
pub(super) async fn data_area(
    boxes: &Boxes,
    client: &Client,
) -> Result<(std::path::PathBuf, u64), Refusal> {
    let own = client.status().await?;
    let mut uuid = None;
    for process in &boxes.boxes {
        let status = process.client().status().await?;
        let named = status
            .volumes
            .into_iter()
            .find(|volume| volume.name == VOLUME);
        uuid = uuid.or_else(|| named.map(|volume| volume.uuid));
    }
    let volume = own
        .volumes
        .into_iter()
        .find(|volume| Some(&volume.uuid) == uuid.as_ref())
        .ok_or_else(|| Refusal::failed(format!("{} does not have {VOLUME}", own.node)))?;
    Ok((volume.file.into(), volume.data_offset_bytes))
}

fn first_difference(areas: &[(std::path::PathBuf, u64)]) -> Result<Option<u64>, Refusal> {
    let failed = |error: std::io::Error| Refusal::failed(format!("cannot compare: {error}"));
    let mut files = Vec::new();
    for (path, offset) in areas {
        use std::io::Seek as _;
        let mut file = std::fs::File::open(path).map_err(failed)?;
        file.seek(std::io::SeekFrom::Start(*offset))
            .map_err(failed)?;
        files.push(std::io::BufReader::with_capacity(1 << 20, file));
    }
    let [left, right] = files.as_mut_slice() else {
        return Err(Refusal::failed("there are two data areas"));
    };
    let (mut one, mut other) = ([0; BLOCK_BYTES], [0; BLOCK_BYTES]);
    for block in 0..VOLUME_BYTES / u64::try_from(BLOCK_BYTES).expect("4096") {
        left.read_exact(&mut one).map_err(failed)?;
        right.read_exact(&mut other).map_err(failed)?;
        if one != other {
            return Ok(Some(block));
        }
    }
    Ok(None)
}

pub(super) fn in_sync(status: &Status) -> bool {
    status.role == "primary"
        && NODES
            .iter()
            .all(|node| status.in_sync.iter().any(|n| n == node))
}

/// Looks at a box again and again until it is as wanted.
pub(super) async fn until(
    boxes: &mut Boxes,
    client: &Client,
    what: &str,
    mut wanted: impl FnMut(&Status) -> bool,
) -> Result<(), Refusal> {
    let deadline_ns = boot_ns() + u64::try_from(STATE_WAIT.as_nanos()).expect("seconds");
    let mut last = None;
    while boot_ns() < deadline_ns {
        if let Ok(status) = client.status().await {
            if wanted(&status) {
                return Ok(());
            }
            last = Some(status);
        }
        if let Some(ended) = boxes.ended() {
            return Err(Refusal::failed(ended));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let seen = last.map_or_else(
        || "no box answers".to_owned(),
        |status| format!("{} {} {}", status.verdict, status.why, status.next),
    );
    Err(Refusal::failed(format!(
        "waited {} s until {what}: {seen}",
        STATE_WAIT.as_secs()
    )))
}
