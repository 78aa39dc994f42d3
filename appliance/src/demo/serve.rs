//! `twinsan demo --serve`: the pair stays up for the user's own initiator.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::boxes::{Boxes, NODES};
use super::report::Report;
use super::story::{data_area, in_sync};
use super::{ISCSI_PORT, PORTALS, TARGET, VOLUME, VOLUME_BYTES};
use crate::api::types::{Refusal, Status};
use crate::cli::DemoArgs;
use crate::clock::boot_ns;
use crate::render;

/// A dead box is started again after this.
const RESTART_MS: u64 = 5000;
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Says where everything is, then what changes, until it is dropped.
pub(super) async fn serve(
    boxes: &mut Boxes,
    args: &DemoArgs,
    report: &Report,
) -> Result<(), Refusal> {
    report.event("ready", ready(boxes).await?);
    report.line(&format!(
        "ready: qemu-img info iscsi://{}:{ISCSI_PORT}/{TARGET}/0   iscsi-ls -s iscsi://{}",
        PORTALS[0], PORTALS[0]
    ));
    for process in &boxes.boxes {
        let pid = process
            .pid()
            .map_or_else(|| "gone".to_owned(), |pid| pid.to_string());
        report.line(&format!(
            "{} is process {pid}; its status: twinsan --api {} status",
            process.name,
            process.api().display()
        ));
    }
    report.line("kill a box with kill -9 as you like; Ctrl-C ends it all");
    let mut watch = Watch::default();
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        restart_dead(boxes, args, report, &mut watch)?;
        for process in &boxes.boxes {
            if let Ok(status) = process.client().status().await {
                watch.look(&status, report);
            }
        }
    }
}

fn restart_dead(
    boxes: &mut Boxes,
    args: &DemoArgs,
    report: &Report,
    watch: &mut Watch,
) -> Result<(), Refusal> {
    for process in boxes.boxes.iter_mut().chain([&mut boxes.witness]) {
        if !process.has_ended() {
            watch.dead_since_ns.remove(process.name);
            continue;
        }
        let since = watch.dead_since_ns.entry(process.name);
        let new = matches!(since, std::collections::btree_map::Entry::Vacant(_));
        let since_ns = *since.or_insert_with(boot_ns);
        if new {
            report.both(
                &format!("{} has ended", process.name),
                "ended",
                json!({"node": process.name}),
            );
        }
        if !args.no_restart && boot_ns() - since_ns > RESTART_MS * 1_000_000 {
            process.start()?;
            report.both(
                &format!("{} was started again", process.name),
                "started",
                json!({"node": process.name, "pid": process.pid()}),
            );
        }
    }
    Ok(())
}

/// What was said last, so that only changes are said.
#[derive(Default)]
struct Watch {
    roles: BTreeMap<String, String>,
    mirror: BTreeMap<String, String>,
    dead_since_ns: BTreeMap<&'static str, u64>,
}

impl Watch {
    fn look(&mut self, status: &Status, report: &Report) {
        let node = &status.node;
        if self
            .roles
            .insert(node.clone(), status.role.clone())
            .as_ref()
            != Some(&status.role)
        {
            report.both(
                &format!("{node} is {}", status.role),
                "role",
                json!({"node": node, "role": status.role, "epoch": status.epoch}),
            );
        }
        if status.role != "primary" {
            return;
        }
        if let Some(resync) = &status.mirror.resync {
            report.both(
                &format!("resync {}", render::resync(resync)),
                "resync",
                json!({"percent": resync.percent, "left_bytes": resync.left_bytes}),
            );
        }
        let state = if in_sync(status) {
            "in-sync"
        } else {
            "degraded"
        };
        if self
            .mirror
            .insert("pair".to_owned(), state.to_owned())
            .as_deref()
            != Some(state)
        {
            report.both(
                &status.verdict,
                state,
                json!({"node": node, "verdict": status.verdict}),
            );
        }
    }
}

async fn ready(boxes: &Boxes) -> Result<Value, Refusal> {
    let mut nodes = serde_json::Map::new();
    for (name, process) in NODES.into_iter().zip(&boxes.boxes) {
        let client = process.client();
        let status = client.status().await?;
        let (file, data_offset_bytes) = data_area(boxes, &client).await?;
        nodes.insert(
            name.to_owned(),
            json!({"role": status.role, "pid": process.pid(), "address": process.address(),
                   "api": process.api(), "file": file, "data_offset_bytes": data_offset_bytes,
                   "data_bytes": VOLUME_BYTES}),
        );
    }
    let portals: Vec<String> = PORTALS
        .iter()
        .map(|ip| format!("{ip}:{ISCSI_PORT}"))
        .collect();
    Ok(json!({
        "target": TARGET,
        "portals": portals,
        "luns": [{"lun": 0, "volume": VOLUME, "bytes": VOLUME_BYTES}],
        "nodes": nodes,
        "witness": {"pid": boxes.witness.pid()},
    }))
}
