//! Client of the local API.

use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::types::{Ask, Event, Made, Refusal, Status};
use crate::config::Cluster;

/// Answers are small documents.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// One daemon, by its socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The daemon that listens on `socket`.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Status of the box.
    ///
    /// # Errors
    /// A refusal that says why there is no answer.
    pub async fn status(&self) -> Result<Status, Refusal> {
        self.call(Method::GET, "/v1/status", Bytes::new()).await
    }

    /// Events after `sequence`; waits for one if `wait`.
    ///
    /// # Errors
    /// A refusal that says why there is no answer.
    pub async fn events(&self, after: u64, wait: Wait) -> Result<Vec<Event>, Refusal> {
        let wait = u8::from(wait == Wait::ForOne);
        self.call(
            Method::GET,
            &format!("/v1/events?after={after}&wait={wait}"),
            Bytes::new(),
        )
        .await
    }

    /// The cluster configuration, without secrets.
    ///
    /// # Errors
    /// A refusal that says why there is no answer.
    pub async fn config(&self) -> Result<Cluster, Refusal> {
        self.call(Method::GET, "/v1/config", Bytes::new()).await
    }

    /// The last changes of the cluster configuration, oldest first.
    ///
    /// # Errors
    /// A refusal that says why there is no answer.
    pub async fn history(&self) -> Result<Vec<Made>, Refusal> {
        self.call(Method::GET, "/v1/history", Bytes::new()).await
    }

    /// Asks for something to be done; the answer is a sentence.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn ask(&self, ask: &Ask) -> Result<String, Refusal> {
        let body = serde_json::to_vec(ask).map_err(|error| Refusal::usage(error.to_string()))?;
        self.call(Method::POST, "/v1/ask", body.into()).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, Refusal> {
        let shown = self.socket.display();
        let unreachable = |what: &dyn std::fmt::Display| {
            Refusal::failed(format!(
                "no answer from the daemon at {shown}: {what}; nothing was changed; see that \
                 `twinsan run` is up, or give its socket with --api"
            ))
        };
        let interrupted = |what: &dyn std::fmt::Display| {
            Refusal::failed(format!(
                "the daemon at {shown} gave no whole answer: {what}; what was asked may or may not \
                 have been done; look at `twinsan status` and `twinsan config show`"
            ))
        };
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|e| unreachable(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| unreachable(&e))?;
        let pump = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "twinsan")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|e| unreachable(&e))?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|e| interrupted(&e))?;
        let good = answer.status() == StatusCode::OK;
        let body = http_body_util::Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
        let body = body
            .collect()
            .await
            .map_err(|e| interrupted(&e))?
            .to_bytes();
        pump.abort();
        if good {
            serde_json::from_slice(&body).map_err(|e| interrupted(&e))
        } else {
            Err(serde_json::from_slice(&body)
                .unwrap_or_else(|_| Refusal::failed(String::from_utf8_lossy(&body).into_owned())))
        }
    }
}

/// Whether to wait for an event when there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Answer at once.
    No,
    /// Wait for at least one, up to the server's limit.
    ForOne,
}
