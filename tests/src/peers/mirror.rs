//! `cargo peers mirror`: what replication costs, alternating in one run with the same target over
//! one file, and how fast a box that was away is made equal.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use nix::libc;
use replication::shell::aligned;

use super::pair::{Pair, Work};
use super::report::{self, Cell, Row, Spread};
use super::server::{Kind, Server};
use super::tool::{self, Tool, Tools};
use super::workload::Workload;
use crate::ci::packages;
use crate::lab::clock::{self, Stopwatch};

/// The loads, each by its name.
const LOADS: [&str; 5] = [
    "write-4k-qd1",
    "write-4k-qd32",
    "write-4k-qd128",
    "write-256k-qd32",
    "read-4k-qd32",
];
const KINDS: [Kind; 2] = [Kind::TwinsanFile, Kind::Mirror];
/// The load beside a resync.
const BESIDE: &str = "write-4k-qd1";
/// The load that makes every block differ.
const FILLING: &str = "write-256k-qd32";
/// Long enough for the filling load to go through the whole volume.
const FILL_TIME: Duration = Duration::from_secs(4);
/// Bytes moved at once by the plain copy.
const COPY_BYTES: usize = 1 << 20;

/// What `cargo peers mirror` can be told.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// How often everything is measured; medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// How long one measurement takes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Leave out the resync.
    #[arg(long)]
    pub no_resync: bool,
}

/// Measures and prints.
pub fn run(options: &Options) -> ExitCode {
    match measure(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> anyhow::Result<()> {
    if let Err(line) = packages::demand(&tool::PACKAGES) {
        anyhow::bail!("something to compare with is not installed; {line}");
    }
    let folder = super::folder()?;
    let servers = KINDS
        .iter()
        .map(|kind| Server::start(*kind, &folder))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let time = Duration::from_secs(options.seconds);
    let mut tools = Tools::default();
    let pair = servers.iter().find_map(Server::pair).expect("one of them");
    // every block is written once, as in the other file
    tools.measure(
        super::of(&servers, Kind::Mirror),
        named(FILLING),
        Tool::Own,
        FILL_TIME,
    )?;
    let before = pair.work()?;
    print!(
        "{}",
        alternating(&servers, &mut tools, options.rounds, time)?
    );
    print!("{}", parts(&before, &pair.work()?));
    if !options.no_resync {
        let server = super::of(&servers, Kind::Mirror);
        print!("{}", resyncs(server, pair, &mut tools, options.rounds)?);
    }
    Ok(())
}

fn named(load: &str) -> Workload {
    Workload::named(load).expect("it is in the list")
}

fn alternating(
    servers: &[Server],
    tools: &mut Tools,
    rounds: u32,
    time: Duration,
) -> anyhow::Result<String> {
    let mut rows: Vec<Row> = LOADS
        .iter()
        .flat_map(|load| {
            KINDS.map(|kind| {
                Row::new(Cell {
                    kind,
                    workload: named(load),
                    tool: Tool::Own,
                })
            })
        })
        .collect();
    for round in 1..=rounds {
        for row in &mut rows {
            let cell = row.cell;
            let server = super::of(servers, cell.kind);
            let sample = tools.measure(server, cell.workload, cell.tool, time)?;
            eprintln!("round {round}: {cell} {:.2} us", sample.cpu_us);
            row.samples.push(sample);
        }
    }
    Ok(report::table(&rows))
}

/// Where the time of a replicated command goes, and what is written that is not data.
fn parts(before: &Work, after: &Work) -> String {
    let mut text = String::from("primary, each part of all commands since its start\n");
    for (part, count, p50_us, p99_us) in &after.times {
        text += &format!("  {part:8} {count:>10}  p50 {p50_us:>7} us  p99 {p99_us:>7} us\n");
    }
    let writes = |work: &Work| {
        let of_writes = work.times.iter().find(|(part, ..)| part == "write");
        of_writes.map_or(0, |(_, count, ..)| *count)
    };
    let done = (writes(after) - writes(before)).max(1);
    let metadata = after.metadata_writes - before.metadata_writes;
    text += &format!(
        "  {metadata} metadata writes beside {done} writes: {} for a million\n",
        u128::from(metadata) * 1_000_000 / u128::from(done)
    );
    text
}

/// A box is away while every block changes; then the copy, alone and beside a load.
fn resyncs(server: &Server, pair: &Pair, tools: &mut Tools, rounds: u32) -> anyhow::Result<String> {
    let mut copies = Vec::new();
    let mut plain = Vec::new();
    let (mut idle, mut busy) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let (bytes, took) = resync(server, pair, tools)?;
        copies.push(rate(bytes, took));
        let [from, to] = pair.files()?;
        let size = pair.place()?.span_bytes;
        plain.push(rate(size, plain_copy(&from.0, from.1, &to.0, size)?));
        let p99 = |tools: &mut Tools| -> anyhow::Result<f64> {
            let sample = tools.measure(server, named(BESIDE), Tool::Own, Duration::from_secs(2))?;
            sample
                .p99_us
                .context("our own initiator times each command")
        };
        idle.push(p99(tools)?);
        dirty(server, pair, tools)?;
        pair.wait_resync()?;
        busy.push(p99(tools)?);
        let left = pair.resync_left()?;
        let still = left.map_or_else(
            || "it was over before the load".to_owned(),
            |left| format!("{} MiB were left after the load", left >> 20),
        );
        pair.wait_in_sync()?;
        eprintln!("round {round}: resync beside {BESIDE}: {still}");
    }
    let median = |values: Vec<f64>| Spread::of(values).expect("at least one round").median;
    let (copy, plain) = (median(copies), median(plain));
    let (idle, busy) = (median(idle), median(busy));
    Ok(format!(
        "resync, nothing beside it: {copy:.0} MB/s; plain copy over loopback: {plain:.0} MB/s; \
         ratio {:.2}\n{BESIDE}: p99 {idle:.0} us, beside a resync {busy:.0} us; ratio {:.2}\n",
        copy / plain,
        busy / idle
    ))
}

/// Makes every block differ while the standby is away.
fn dirty(server: &Server, pair: &Pair, tools: &mut Tools) -> anyhow::Result<()> {
    pair.kill_standby()?;
    tools.measure(server, named(FILLING), Tool::Own, FILL_TIME)?;
    Ok(())
}

fn resync(server: &Server, pair: &Pair, tools: &mut Tools) -> anyhow::Result<(u64, Duration)> {
    dirty(server, pair, tools)?;
    let bytes = pair.wait_resync()?;
    let watch = Stopwatch::start();
    let over = clock::until(Duration::from_secs(300), || {
        pair.resync_left()
            .is_ok_and(|left| left.is_none())
            .then_some(())
    });
    ensure!(over.is_some(), "the resync does not end");
    Ok((bytes, watch.elapsed()))
}

/// MB/s.
fn rate(bytes: u64, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
    let bytes = bytes as f64;
    bytes / 1e6 / time.as_secs_f64()
}

/// Copies through a TCP connection of loopback, with direct I/O on both sides, until it is stable.
fn plain_copy(from: &Path, offset: u64, beside: &Path, size: u64) -> anyhow::Result<Duration> {
    let to = beside.with_extension("copy");
    let source = direct(OpenOptions::new().read(true), from)?;
    let sink = direct(OpenOptions::new().write(true).create(true), &to)?;
    fill(&sink, size)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let watch = Stopwatch::start();
    let sender = thread::spawn(move || -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(address)?;
        let mut piece = aligned(COPY_BYTES);
        piece.resize(COPY_BYTES, 0);
        let mut at = 0;
        while at < size {
            source.read_exact_at(&mut piece, offset + at)?;
            stream.write_all(&piece)?;
            at += COPY_BYTES as u64;
        }
        Ok(())
    });
    let (mut stream, _) = listener.accept()?;
    let mut piece = aligned(COPY_BYTES);
    piece.resize(COPY_BYTES, 0);
    let mut at = 0;
    while at < size {
        stream.read_exact(&mut piece)?;
        sink.write_all_at(&piece, at)?;
        at += COPY_BYTES as u64;
    }
    sink.sync_data()?;
    let took = watch.elapsed();
    let sent = sender.join();
    std::fs::remove_file(&to)?;
    sent.map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    Ok(took)
}

fn direct(options: &mut OpenOptions, path: &Path) -> anyhow::Result<File> {
    options
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .with_context(|| path.display().to_string())
}

/// Writes every block once: what is compared overwrites too.
fn fill(file: &File, size: u64) -> anyhow::Result<()> {
    let mut piece = aligned(COPY_BYTES);
    piece.resize(COPY_BYTES, 1);
    let mut at = 0;
    while at < size {
        file.write_all_at(&piece, at)?;
        at += COPY_BYTES as u64;
    }
    file.sync_data()?;
    Ok(())
}
