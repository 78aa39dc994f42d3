//! Server of the local API: asks the daemon, never decides.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};

use super::types::{Ask, Event, FenceDevice, Made, Refusal, RefusalKind, Status};
use crate::config::Cluster;
use crate::config::plan::Past;
use crate::events::EventLog;

/// How long a request for the next event waits at the most.
const EVENT_WAIT: Duration = Duration::from_secs(20);
/// How long an asked change may take.
const ASK_WAIT: Duration = Duration::from_secs(60);

/// An [`Ask`] on its way to the daemon, with the way back.
pub(crate) type Asked = (Ask, oneshot::Sender<Result<String, Refusal>>);

/// What the server reads and whom it asks.
#[derive(Clone)]
pub(crate) struct Daemon {
    /// Newest status.
    pub(crate) status: watch::Receiver<Status>,
    /// Newest cluster configuration.
    pub(crate) cluster: watch::Receiver<Cluster>,
    /// The changes that led to it.
    pub(crate) history: watch::Receiver<Vec<Past>>,
    /// Events of this box.
    pub(crate) events: Arc<EventLog>,
    /// What turns a box off.
    pub(crate) fences: watch::Receiver<Vec<FenceDevice>>,
    /// Changes.
    pub(crate) asks: mpsc::Sender<Asked>,
}

/// Makes the socket. It is for its owner only, whoever may open it may change the pair; so the
/// caller has set a umask that gives others nothing, and holds the box's state directory: then a
/// socket that is there belongs to nobody any more.
///
/// # Errors
/// If the socket cannot be made.
pub(crate) fn bind(socket: &Path) -> std::io::Result<UnixListener> {
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    UnixListener::bind(socket)
}

/// Answers until the listener fails.
///
/// # Errors
/// What the listener says.
pub(crate) async fn serve(listener: UnixListener, daemon: Daemon) -> std::io::Result<()> {
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/events", get(events))
        .route("/v1/config", get(config))
        .route("/v1/history", get(history))
        .route("/v1/ask", post(ask))
        .with_state(daemon);
    axum::serve(listener, router).await
}

async fn status(State(daemon): State<Daemon>) -> Json<Status> {
    let mut status = daemon.status.borrow().clone();
    status.fences.clone_from(&daemon.fences.borrow());
    Json(status)
}

async fn config(State(daemon): State<Daemon>) -> Result<Json<Cluster>, Refusal> {
    Ok(Json(daemon.cluster()?))
}

async fn history(State(daemon): State<Daemon>) -> Result<Json<Vec<Made>>, Refusal> {
    daemon.cluster()?;
    Ok(Json(
        daemon.history.borrow().iter().map(Made::from).collect(),
    ))
}

impl Daemon {
    /// The cluster configuration, without secrets.
    fn cluster(&self) -> Result<Cluster, Refusal> {
        let cluster = self.cluster.borrow().masked();
        if cluster.target.is_empty() {
            return Err(Refusal::failed(
                "this box has not read the cluster configuration, because it does not serve; ask \
                 the primary box (see `twinsan status`)",
            ));
        }
        Ok(cluster)
    }
}

#[derive(Deserialize)]
struct EventQuery {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait: u8,
}

async fn events(State(daemon): State<Daemon>, Query(query): Query<EventQuery>) -> Json<Vec<Event>> {
    let found = daemon.events.after(query.after);
    if found.is_empty() && query.wait == 1 {
        let waited = daemon.events.wait_after(query.after);
        return Json(
            tokio::time::timeout(EVENT_WAIT, waited)
                .await
                .unwrap_or_default(),
        );
    }
    Json(found)
}

async fn ask(State(daemon): State<Daemon>, Json(ask): Json<Ask>) -> Result<Json<String>, Refusal> {
    let (answer, answered) = oneshot::channel();
    let gone = || Refusal::failed("the daemon is stopping; nothing was changed");
    daemon.asks.send((ask, answer)).await.map_err(|_| gone())?;
    match tokio::time::timeout(ASK_WAIT, answered).await {
        Ok(Ok(done)) => done.map(Json),
        Ok(Err(_)) => Err(Refusal::failed(
            "the daemon is stopping; the change may or may not have happened; look at `twinsan \
             status` when it is up again",
        )),
        Err(_) => Err(Refusal::failed(
            "no answer within a minute; the change may still happen; look at `twinsan status`",
        )),
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = match self.kind {
            RefusalKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            RefusalKind::Usage => StatusCode::BAD_REQUEST,
            RefusalKind::Safety => StatusCode::CONFLICT,
        };
        (code, Json(self)).into_response()
    }
}
