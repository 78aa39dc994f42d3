//! `cargo peers iscsi` and `mirror`: see [`tests::peers`]. The other two verbs are the processes
//! that they start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use replication::shell::IoChoice;
use tests::peers::drive::{Place, drive};
use tests::peers::serve::{Store, serve};
use tests::peers::workload::Workload;
use tests::peers::{self, Options, mirror};

/// Benches against the peers.
#[derive(Debug, Parser)]
#[command(name = "peers")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Our target against tgt.
    Iscsi(Options),
    /// What replication costs, and how fast a resync is.
    Mirror(mirror::Options),
    /// Serves one unit on loopback, unreplicated.
    Serve(ServeOptions),
    /// Puts a load on a target and prints what it came to.
    Drive(DriveOptions),
}

#[derive(Args, Debug)]
struct ServeOptions {
    /// Address and port.
    #[arg(long)]
    listen: SocketAddr,
    /// What stores the blocks.
    #[arg(long)]
    backend: BackendName,
    /// Use threads where io_uring is the default.
    #[arg(long)]
    threads: bool,
    /// The file, for the backend of that name.
    #[arg(required_if_eq("backend", "file"))]
    path: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum BackendName {
    /// Nothing.
    Null,
    /// A file or a block device.
    File,
}

#[derive(Args, Debug)]
struct DriveOptions {
    /// Address and port.
    #[arg(long)]
    portal: SocketAddr,
    /// iSCSI name of the target.
    #[arg(long)]
    target: String,
    /// Logical unit.
    #[arg(long)]
    lun: u8,
    /// Name of the load.
    #[arg(long, value_parser = Workload::named)]
    load: Workload,
    /// How much of the unit is used, in bytes.
    #[arg(long)]
    span_bytes: u64,
    /// For how long.
    #[arg(long)]
    seconds: u64,
}

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().collect();
    // `cargo peers -- iscsi` hands the separator on
    if words.get(1).is_some_and(|first| first == "--") {
        words.remove(1);
    }
    let done = match Arguments::parse_from(words).verb {
        Verb::Iscsi(options) => return peers::run(&options),
        Verb::Mirror(options) => return mirror::run(&options),
        Verb::Serve(options) => {
            let store = match (options.backend, options.path) {
                (BackendName::File, Some(path)) => Store::File(path),
                (BackendName::File | BackendName::Null, _) => Store::Null,
            };
            let io = if options.threads {
                IoChoice::Threads
            } else {
                IoChoice::Auto
            };
            serve(options.listen, &store, io)
        }
        Verb::Drive(options) => {
            let place = Place {
                portal: options.portal,
                target: options.target,
                lun: options.lun,
                span_bytes: options.span_bytes,
            };
            drive(&place, options.load, Duration::from_secs(options.seconds))
                .map(|tally| println!("{tally}"))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}
