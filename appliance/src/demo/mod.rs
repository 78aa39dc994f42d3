//! `twinsan demo`: the whole promise on one machine. Two boxes and a witness as processes on
//! loopback; a load of stamped blocks; the primary killed at a random moment; the pause measured;
//! every acknowledged block read back; both data areas compared.

mod boxes;
mod report;
mod serve;
mod story;

use std::path::PathBuf;

use boxes::Boxes;
use report::Report;
use tokio::task::LocalSet;

use crate::api::types::Refusal;
use crate::cli::DemoArgs;

/// iSCSI name of the demo's target.
const TARGET: &str = "iqn.2026-11.org.twinsan:demo";
/// The demo's volume and its size.
const VOLUME: &str = "demo0";
const VOLUME_BYTES: u64 = 256 << 20;
/// The service addresses.
const PORTALS: [&str; 2] = ["127.0.0.10", "127.0.0.20"];
const ISCSI_PORT: u16 = 3260;

/// Runs the demo to its end, or until Ctrl-C.
///
/// # Errors
/// What went wrong: exit code 1 means that the demo failed.
pub async fn run(args: &DemoArgs, json: bool) -> Result<(), Refusal> {
    // A name that no box would take is refused here, before there are boxes.
    crate::daemon::sabotage(args.sabotage.as_deref())?;
    let (dir, ours) = folder(args)?;
    let report = Report::new(json);
    let mut boxes = Boxes::prepare(&dir, args.sabotage.as_deref()).await?;
    let local = LocalSet::new();
    let told = local
        .run_until(async {
            tokio::select! {
                biased;
                signal = tokio::signal::ctrl_c() => {
                    signal.map_err(|error| Refusal::failed(error.to_string()))?;
                    report.line("stopped by Ctrl-C");
                    if args.serve { Ok(()) } else { Err(Refusal::failed("stopped by Ctrl-C")) }
                }
                told = tell(&mut boxes, args, &report) => told,
            }
        })
        .await;
    boxes.stop().await;
    match &told {
        Ok(()) if ours => {
            if let Err(error) = std::fs::remove_dir_all(&dir) {
                report.line(&format!("{} stays: {error}", dir.display()));
            }
        }
        Ok(()) => report.line(&format!("files are in {}", dir.display())),
        Err(_) => report.line(&format!("files and logs are in {}", dir.display())),
    }
    told
}

async fn tell(boxes: &mut Boxes, args: &DemoArgs, report: &Report) -> Result<(), Refusal> {
    story::start(boxes, report).await?;
    if args.serve {
        serve::serve(boxes, args, report).await
    } else {
        story::tell(boxes, args, report).await
    }
}

/// The folder for everything, and whether it is ours to remove.
fn folder(args: &DemoArgs) -> Result<(PathBuf, bool), Refusal> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("twinsan-demo-{}", std::process::id())),
    };
    let failed =
        |error: std::io::Error| Refusal::failed(format!("cannot use {}: {error}", dir.display()));
    std::fs::create_dir_all(&dir).map_err(failed)?;
    if std::fs::read_dir(&dir).map_err(failed)?.next().is_some() {
        return Err(Refusal::usage(format!(
            "{} is not empty; the demo makes its own files: choose an empty or new folder",
            dir.display()
        )));
    }
    Ok((
        std::path::absolute(&dir).map_err(failed)?,
        args.dir.is_none(),
    ))
}
