//! Redfish (DSP0266): HTTPS and JSON to a service processor.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::{Pin, Secret, accepted, failed, power};
use crate::fence::{Power, Question, Reply};

/// Resources are some kilobytes.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Where all systems are.
const SYSTEMS: &str = "/redfish/v1/Systems";

/// A service processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redfish {
    /// Where it listens, TCP.
    pub address: SocketAddr,
    /// Its name for the box: the last word of its resource under `Systems`.
    pub system: String,
    /// Its user, which may turn systems off.
    pub user: String,
    /// The user's secret.
    pub secret: Secret,
    /// Its certificate.
    pub pin: Pin,
}

/// A whole answer.
struct Answered {
    status: StatusCode,
    body: Vec<u8>,
}

impl Redfish {
    pub(super) async fn ask(&self, what: Question) -> Reply {
        let path = format!("{SYSTEMS}/{}", self.system);
        let asked = format!("GET https://{}{path} as {}", self.address, self.user);
        let system = match self.system(&path).await {
            Ok(system) => system,
            Err(why) => return failed(asked, why),
        };
        match what {
            Question::Power => powered(asked, &system),
            Question::Off => self.off(&system).await,
        }
    }

    /// HTTP basic authentication: every service has it (DSP0266, 13.3).
    pub(super) fn credentials(&self) -> String {
        STANDARD.encode(format!("{}:{}", self.user, self.secret.0))
    }

    async fn system(&self, path: &str) -> Result<Value, String> {
        let answered = self.call(Method::GET, path, Bytes::new()).await?;
        match answered.status {
            StatusCode::OK => serde_json::from_slice(&answered.body)
                .map_err(|error| format!("its answer is no JSON: {error}")),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(format!("{}: it refuses user or secret", answered.status))
            }
            StatusCode::NOT_FOUND => Err(format!(
                "{}: it has no system {}; `{SYSTEMS}` there lists what it has",
                answered.status, self.system
            )),
            status => Err(status.to_string()),
        }
    }

    /// `ForceOff` at once and for good. The action says itself where it is asked for (DSP0266,
    /// 7.11); a place outside of the service is not believed.
    async fn off(&self, system: &Value) -> Reply {
        let target = system["Actions"]["#ComputerSystem.Reset"]["target"].as_str();
        let Some(target) = target.filter(|it| it.starts_with("/redfish/")) else {
            return failed(
                format!("GET https://{}{SYSTEMS}/{}", self.address, self.system),
                "the system offers no action ComputerSystem.Reset",
            );
        };
        let asked = format!(
            "POST https://{}{target} as {}: ResetType ForceOff",
            self.address, self.user
        );
        let body = Bytes::from_static(br#"{"ResetType":"ForceOff"}"#);
        match self.call(Method::POST, target, body).await {
            Ok(answered) if answered.status.is_success() => {
                accepted(asked, answered.status.to_string())
            }
            Ok(answered) => failed(asked, answered.status.to_string()),
            Err(why) => failed(asked, why),
        }
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Answered, String> {
        let words = |what: &str, error: &dyn core::fmt::Display| format!("{what}: {error}");
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(|error| words("no connection", &error))?;
        let connector = TlsConnector::from(Arc::new(self.pin.client()?));
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|error| words("no TLS", &error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| words("no HTTP", &error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string())
            .header(AUTHORIZATION, format!("Basic {}", self.credentials()))
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .header(CONNECTION, "close")
            .body(Full::new(body))
            .map_err(|error| words("no request", &error))?;
        let answer = async {
            let answer = sender
                .send_request(request)
                .await
                .map_err(|error| words("no answer", &error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect();
            let body = body
                .await
                .map_err(|error| words("no whole answer", &error))?;
            let body = body.to_bytes().to_vec();
            Ok(Answered { status, body })
        };
        // The connection is driven here, so that it ends with the question.
        let mut connection = core::pin::pin!(connection);
        let mut answer = core::pin::pin!(answer);
        tokio::select! {
            answered = &mut answer => answered,
            ended = &mut connection => match ended {
                // What it had received is still there to be read.
                Ok(()) => answer.await,
                Err(error) => Err(words("the connection broke", &error)),
            },
        }
    }
}

/// Only `Off` is off: `PoweringOff` may yet take a while, and `Paused` keeps its memory.
fn powered(asked: String, system: &Value) -> Reply {
    let said = |state: &str| format!("200 OK: PowerState {state}");
    match system["PowerState"].as_str() {
        Some("Off") => power(Power::Off, asked, said("Off")),
        Some(state @ ("On" | "PoweringOn" | "PoweringOff" | "Paused")) => {
            power(Power::On, asked, said(state))
        }
        Some(state) => failed(asked, format!("a PowerState that nobody knows: {state}")),
        None => failed(asked, "the system has no PowerState"),
    }
}
