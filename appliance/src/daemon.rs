//! `twinsan run`: three threads and the channels between them.
//!
//! ```text
//!   main thread        local API: reads published status, passes changes on
//!   control thread     ha::Node: heartbeats, register, lease; never waits for a disk
//!   data thread        mirror, target, services
//! ```

use std::path::Path;
use std::sync::Arc;

use replication::shell::LeaseCell;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;

use crate::api::server::{self, Asked, Daemon};
use crate::api::types::{Ask, Refusal, Status};
use crate::cli::LabArgs;
use crate::config::plan::Change;
use crate::config::{Cluster, NodeConfig};
use crate::control::{self, OperatorAsked, Wish};
use crate::data::{self, Care, CareAsked, ChangeAsked, Order};
use crate::events::EventLog;
use crate::identity::Identity;
use crate::membership::Member;
use crate::pulse::Pulse;
use crate::{preflight, runtime};

/// Changes that wait for their turn.
const ASKS_MAX: usize = 64;

/// Runs one box until SIGTERM or SIGINT.
///
/// # Errors
/// Why it cannot start, and what to do.
pub fn run(file: &Path, lab: &LabArgs) -> Result<(), Refusal> {
    crate::log::start();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let config = NodeConfig::load(file).map_err(|error| Refusal::usage(error.to_string()))?;
    for warning in preflight::check(&config).map_err(Refusal::failed)? {
        tracing::warn!("{warning}");
    }
    sabotage(lab.sabotage.as_deref())?;
    let event_loop = runtime::event_loop().map_err(Refusal::failed)?;
    event_loop.block_on(serve(config, lab))
}

/// Switches one deliberate fault on, in this process.
///
/// # Errors
/// A refusal that names the faults there are.
pub(crate) fn sabotage(mutant: Option<&str>) -> Result<(), Refusal> {
    let Some(mutant) = mutant else {
        return Ok(());
    };
    #[cfg(feature = "mutants")]
    {
        tracing::warn!("SABOTAGE: {mutant} is on; this box breaks a law on purpose");
        crate::wiring::choose_mutant(mutant).map_err(Refusal::usage)
    }
    #[cfg(not(feature = "mutants"))]
    Err(Refusal::usage(format!(
        "this build cannot break a law on purpose ({mutant}); build it with --features mutants"
    )))
}

async fn serve(config: NodeConfig, lab: &LabArgs) -> Result<(), Refusal> {
    let identity = Identity::of(&config, lab.boot_id).map_err(Refusal::failed)?;
    let membership = Member::must(&config.state).map_err(Refusal::failed)?;
    let pair = membership.pair;
    let events = Arc::new(EventLog::default());
    let (lease, pulse) = (LeaseCell::new(), Pulse::default());
    let (orders_in, orders) = mpsc::unbounded_channel();
    let (authority_in, authority) = mpsc::unbounded_channel();
    let (changes_in, changes) = mpsc::channel(ASKS_MAX);
    let (operator_in, operator) = mpsc::channel(ASKS_MAX);
    let (cares_in, cares) = mpsc::channel(ASKS_MAX);
    let (asks_in, asks) = mpsc::channel(ASKS_MAX);
    let (status_in, status) = watch::channel(Status::default());
    let (cluster_in, cluster) = watch::channel(Cluster::default());
    let (history_in, history) = watch::channel(Vec::new());

    let control = control::start(control::Setup {
        config: config.clone(),
        identity,
        pair,
        lease: lease.clone(),
        inputs: authority,
        operator,
        orders: orders_in.clone(),
        events: Arc::clone(&events),
    })
    .map_err(Refusal::failed)?;
    // The control thread holds the state directory now, so no other daemon of this box runs.
    let socket = server::bind(&config.api).map_err(|error| {
        Refusal::failed(format!(
            "cannot make the socket {}: {error}; name a place that this user may write to as api \
             in node.toml",
            config.api.display()
        ))
    })?;
    start_data(data::Setup {
        config,
        identity,
        membership,
        seal: control.seal,
        newest: control.newest,
        timing: control.timing,
        volatile: lab.volatile,
        lease,
        orders,
        authority: authority_in,
        changes,
        cares,
        authority_status: control.status,
        status: status_in,
        cluster: cluster_in,
        history: history_in,
        events: Arc::clone(&events),
        pulse: pulse.clone(),
    })?;
    tokio::spawn(pulse.watch());
    tokio::spawn(route(asks, changes_in, operator_in, cares_in));
    let daemon = Daemon {
        status,
        cluster,
        history,
        events,
        asks: asks_in,
    };
    answer(socket, daemon, &orders_in).await
}

/// Answers the API until the daemon is told to stop, then stops it.
async fn answer(
    socket: UnixListener,
    daemon: Daemon,
    orders: &mpsc::UnboundedSender<Order>,
) -> Result<(), Refusal> {
    tokio::select! {
        ended = server::serve(socket, daemon) => {
            ended.map_err(|error| Refusal::failed(format!("the API ended: {error}")))
        }
        () = told_to_stop() => {
            stop(orders).await;
            Ok(())
        }
    }
}

/// Starts the data thread and waits until it is up or says why not.
fn start_data(setup: data::Setup) -> Result<(), Refusal> {
    // Told to end, or the other threads are gone: so is the daemon.
    runtime::thread("data", 0, |event_loop, ready| {
        LocalSet::new().block_on(event_loop, data::run(setup, ready))
    })
    .map_err(Refusal::failed)
}

/// Changes of the configuration go to the data thread, changes of role to the control thread.
async fn route(
    mut asks: mpsc::Receiver<Asked>,
    changes: mpsc::Sender<ChangeAsked>,
    operator: mpsc::Sender<OperatorAsked>,
    cares: mpsc::Sender<CareAsked>,
) {
    while let Some((ask, answer)) = asks.recv().await {
        let gone = match ask {
            Ask::Edit(edit) => changes.send((Change::Edit(edit), answer)).await.is_err(),
            Ask::Apply { wanted, rehearsal } => {
                let change = Change::Apply { wanted, rehearsal };
                changes.send((change, answer)).await.is_err()
            }
            Ask::Rollback { to, rehearsal } => {
                let change = Change::Rollback { to, rehearsal };
                changes.send((change, answer)).await.is_err()
            }
            Ask::Switchover { to } => {
                let wish = Wish::Switchover { to };
                operator.send((wish, answer)).await.is_err()
            }
            Ask::ForcePrimary { confirm } => {
                let wish = Wish::ForcePrimary { confirm };
                operator.send((wish, answer)).await.is_err()
            }
            Ask::RemoveVoter { node } => {
                let wish = Wish::RemoveVoter { node };
                operator.send((wish, answer)).await.is_err()
            }
            Ask::Resync(pace) => cares.send((Care::Pace(pace), answer)).await.is_err(),
            Ask::Scrub(volume) => cares.send((Care::Scrub(volume), answer)).await.is_err(),
            Ask::DropSessions(initiator) => {
                let care = Care::DropSessions(initiator);
                cares.send((care, answer)).await.is_err()
            }
        };
        if gone {
            return;
        }
    }
}

async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).expect("SIGTERM can be caught");
    let mut int = signal(SignalKind::interrupt()).expect("SIGINT can be caught");
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// Services first, then the mirror, then the process.
async fn stop(orders: &mpsc::UnboundedSender<Order>) {
    let (done, ended) = oneshot::channel();
    if orders.send(Order::End(done)).is_ok() {
        // An error means that the data thread has ended already.
        let _ = ended.await;
    }
}
