//! `cargo peers iscsi`: our target against tgt, alternating in one run. `cargo peers mirror` is in
//! [`mirror`].
//!
//! Every target is a process of its own that lives for the whole run; a round puts each load on
//! one after the other, so that whatever else the machine does hits all of them alike. What is
//! compared is unreplicated on both sides. The measure is the processor time of the target for
//! each command; commands per second say as much about the initiator and about the machine.

pub mod drive;
pub mod mirror;
pub mod pair;
pub mod report;
pub mod serve;
pub mod server;
pub mod tool;
pub mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;

use crate::ci::packages;
use report::{Cell, Row};
use server::{Kind, Server};
use tool::{Tool, Tools};
use workload::Workload;

/// What `cargo peers iscsi` can be told.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// How often everything is measured; medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// How long one measurement takes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Measure only what fits: words for load, target and initiator, such as `read-4k-*` or
    /// `*-null`; every word must fit one of the three. Can be repeated.
    #[arg(long, value_name = "PATTERN")]
    pub only: Vec<String>,
    /// Print one JSON object for each row instead of the table.
    #[arg(long)]
    pub json: bool,
}

/// Measures and prints.
pub fn run(options: &Options) -> ExitCode {
    match measure(options) {
        Ok(rows) if options.json => {
            for row in &rows {
                println!("{}", row.json());
            }
            ExitCode::SUCCESS
        }
        Ok(rows) => {
            print!("{}", report::table(&rows));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> anyhow::Result<Vec<Row>> {
    if let Err(line) = packages::demand(&tool::PACKAGES) {
        anyhow::bail!("something to compare with is not installed; {line}");
    }
    let cells = chosen(&options.only);
    ensure!(!cells.is_empty(), "no measurement fits {:?}", options.only);
    let folder = folder()?;
    let mut servers = Vec::new();
    for kind in Kind::UNREPLICATED {
        if cells.iter().any(|cell| cell.kind == kind) {
            servers.push(Server::start(kind, &folder)?);
        }
    }
    let time = Duration::from_secs(options.seconds);
    let mut tools = Tools::default();
    let mut rows: Vec<Row> = cells.into_iter().map(Row::new).collect();
    for round in 1..=options.rounds {
        for row in &mut rows {
            let Cell {
                kind,
                workload,
                tool,
            } = row.cell;
            let sample = tools.measure(of(&servers, kind), workload, tool, time)?;
            eprintln!("round {round}: {} {:.2} us", row.cell, sample.cpu_us);
            row.samples.push(sample);
        }
    }
    for row in &mut rows {
        row.system_calls = system_calls(of(&servers, row.cell.kind), row.cell, &folder);
    }
    Ok(rows)
}

fn of(servers: &[Server], kind: Kind) -> &Server {
    let server = servers.iter().find(|server| server.kind() == kind);
    server.expect("a server was started for each kind in use")
}

/// Counted after the rounds, because counting costs.
fn system_calls(server: &Server, cell: Cell, folder: &Path) -> Option<f64> {
    let alone = cell.workload.sessions == 1;
    alone
        .then(|| tool::count_system_calls(server, cell.workload, cell.tool, folder))
        .flatten()
}

/// Every measurement, those that belong together side by side.
fn chosen(patterns: &[String]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for workload in Workload::all() {
        for tool in Tool::able(workload) {
            cells.extend(Kind::UNREPLICATED.map(|kind| Cell {
                kind,
                workload,
                tool,
            }));
        }
    }
    cells.retain(|cell| patterns.is_empty() || patterns.iter().any(|one| cell.fits(one)));
    cells
}

/// Where files and logs are: beside what cargo builds, which is on a real disk.
fn folder() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let built = program.ancestors().nth(2).unwrap_or_else(|| Path::new("."));
    let folder = built.join("peers");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(patterns: &[&str]) -> usize {
        let patterns: Vec<String> = patterns.iter().map(|&one| one.to_owned()).collect();
        chosen(&patterns).len()
    }

    #[test]
    fn patterns_choose_by_load_target_and_initiator() {
        let loads = Workload::all().len();
        assert_eq!(count(&[]), loads / 2 * 3 * Kind::UNREPLICATED.len());
        assert_eq!(count(&["read-4k-qd32 own"]), Kind::UNREPLICATED.len());
        assert_eq!(count(&["read-4k-qd32 *-null iscsi-perf"]), 2);
        assert_eq!(count(&["read-4k-qd32 own", "read-4k-qd1 own"]), 10);
        assert_eq!(count(&["read-4k-qd32 iscsi-perf qemu-img"]), 0);
        assert_eq!(count(&["nothing"]), 0);
    }
}
