//! A service processor as the test's own HTTPS server, with resources as real ones have them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ha::fence::{Answer, Event, Outcome, Power, Question};
use ha::shell::fence::{Agent, Pin, Redfish, Secret};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::{ServerConfig, SupportedProtocolVersion, version};

use super::{SECRET, ask, desk, secret, why};

/// How it misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Honest,
    /// 204, and nothing happens.
    Lies,
    /// 409 for what is off already, as some do.
    RefusesWhenOff,
    Silent,
    /// Everything comes back, the secret with it.
    Echoes,
    /// The action is somebody else's.
    PointsElsewhere,
}

/// How long it takes to turn off.
const OFF_AFTER: Duration = Duration::from_millis(700);

#[derive(Debug)]
struct State {
    manner: Manner,
    off_at: Option<Instant>,
    log: Vec<String>,
}

#[derive(Clone)]
struct Mock {
    address: SocketAddr,
    pin: Pin,
    state: Arc<Mutex<State>>,
}

impl Mock {
    async fn start(manner: Manner, speaks: &'static SupportedProtocolVersion) -> Self {
        let signed = rcgen::generate_simple_self_signed(vec!["bmc".to_owned()]).expect("a key");
        let pin = Pin::of(signed.cert.der());
        let key = PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[speaks])
            .expect("it is known")
            .with_no_client_auth()
            .with_single_cert(vec![signed.cert.der().clone()], key.into())
            .expect("they fit");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("loopback");
        let mock = Self {
            address: listener.local_addr().expect("it is bound"),
            pin,
            state: Arc::new(Mutex::new(State {
                manner,
                off_at: None,
                log: Vec::new(),
            })),
        };
        tokio::spawn(mock.clone().serve(listener, Arc::new(config)));
        mock
    }

    async fn serve(self, listener: TcpListener, config: Arc<ServerConfig>) {
        while let Ok((stream, _)) = listener.accept().await {
            let (mock, acceptor) = (self.clone(), TlsAcceptor::from(Arc::clone(&config)));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = service_fn(|request| mock.answer(request));
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                drop(served.await);
            });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("a whole request").to_bytes();
        let path = head.uri.path().to_owned();
        self.state().log.push(format!("{} {path}", head.method));
        if self.state().manner == Manner::Silent {
            return std::future::pending().await;
        }
        let given = head.headers.get("authorization");
        let wanted = format!("Basic {}", basic("fence", SECRET));
        let (status, text) = if given.is_none_or(|it| *it != *wanted) {
            (StatusCode::UNAUTHORIZED, "{}".to_owned())
        } else if self.state().manner == Manner::Echoes {
            let state = format!("off, {wanted} or {SECRET}");
            (StatusCode::OK, json!({"PowerState": state}).to_string())
        } else {
            self.resource(&head.method, &path, &body)
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        Ok(response)
    }

    fn resource(&self, method: &Method, path: &str, body: &[u8]) -> (StatusCode, String) {
        const SYSTEM: &str = "/redfish/v1/Systems/System.Embedded.1";
        let mut state = self.state();
        let action = format!("{SYSTEM}/Actions/ComputerSystem.Reset");
        if path == SYSTEM && *method == Method::GET {
            let power = match state.off_at {
                None => "On",
                Some(at) if Instant::now() < at => "PoweringOff",
                Some(_) => "Off",
            };
            let target = match state.manner {
                Manner::PointsElsewhere => "https://198.51.100.1/redfish/v1/off".to_owned(),
                Manner::Honest
                | Manner::Lies
                | Manner::RefusesWhenOff
                | Manner::Silent
                | Manner::Echoes => action,
            };
            return (StatusCode::OK, system(power, &target).to_string());
        }
        if path == action && *method == Method::POST {
            let asked: Value = serde_json::from_slice(body).expect("JSON");
            state.log.push(asked.to_string());
            if state.manner == Manner::RefusesWhenOff && state.off_at.is_some() {
                return (StatusCode::CONFLICT, "{}".to_owned());
            }
            if state.manner != Manner::Lies && asked["ResetType"] == "ForceOff" {
                state.off_at = Some(Instant::now() + OFF_AFTER);
            }
            return (StatusCode::NO_CONTENT, String::new());
        }
        (StatusCode::NOT_FOUND, "{}".to_owned())
    }

    fn agent(&self) -> Agent {
        Agent::Redfish(self.redfish())
    }

    fn redfish(&self) -> Redfish {
        Redfish {
            address: self.address,
            system: "System.Embedded.1".to_owned(),
            user: "fence".to_owned(),
            secret: secret(),
            pin: self.pin,
        }
    }
}

fn basic(user: &str, secret: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(format!("{user}:{secret}"))
}

fn system(power: &str, target: &str) -> Value {
    json!({
        "@odata.id": "/redfish/v1/Systems/System.Embedded.1",
        "@odata.type": "#ComputerSystem.v1_20_0.ComputerSystem",
        "Id": "System.Embedded.1",
        "Name": "System",
        "PowerState": power,
        "Status": {"State": "Enabled", "Health": "OK"},
        "Actions": {
            "#ComputerSystem.Reset": {
                "target": target,
                "ResetType@Redfish.AllowableValues": ["On", "ForceOff", "ForceRestart"],
            },
        },
    })
}

#[tokio::test]
async fn r11_it_is_off_when_the_processor_says_off_and_not_powering_off() {
    for speaks in [&version::TLS13, &version::TLS12] {
        let mock = Mock::start(Manner::Honest, speaks).await;
        let agent = mock.agent();
        let reply = ask(&agent, Question::Power).await;
        assert_eq!(reply.answer, Answer::Power(Power::On));
        assert_eq!(reply.answered, "200 OK: PowerState On");
        let reply = ask(&agent, Question::Off).await;
        assert_eq!(reply.answer, Answer::Accepted, "{reply:?}");
        let reply = ask(&agent, Question::Power).await;
        assert_eq!(reply.answer, Answer::Power(Power::On), "{reply:?}");
        let (handle, _events) = desk(&[("bmc", 1, &agent)]).await;
        let begun = Instant::now();
        assert_eq!(handle.fence().await, Outcome::ConfirmedOff);
        assert!(begun.elapsed() >= OFF_AFTER, "it was still on");
        assert!(mock.state().off_at.is_some_and(|at| at <= Instant::now()));
        let log = mock.state().log.join("\n");
        assert!(!log.contains("Restart") && !log.contains("Cycle"), "{log}");
    }
}

#[tokio::test]
async fn a_processor_that_lies_is_believed_its_power_state() {
    let liar = Mock::start(Manner::Lies, &version::TLS13).await;
    let good = Mock::start(Manner::Honest, &version::TLS13).await;
    let (first, second) = (liar.agent(), good.agent());
    let (handle, mut events) = desk(&[("liar", 1, &first)]).await;
    assert_eq!(handle.fence().await, Outcome::Failed);
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        told.push(event.to_string());
    }
    let told = told.join("\n");
    assert!(
        told.contains("liar: it says that the power is still on"),
        "{told}"
    );
    let (handle, _events) = desk(&[("liar", 1, &first), ("good", 2, &second)]).await;
    assert_eq!(handle.fence().await, Outcome::ConfirmedOff);
}

#[tokio::test]
async fn a_processor_that_refuses_to_turn_off_what_is_off_is_asked_twice() {
    let mock = Mock::start(Manner::RefusesWhenOff, &version::TLS13).await;
    mock.state().off_at = Some(Instant::now());
    let agent = mock.agent();
    let (handle, _events) = desk(&[("bmc", 1, &agent)]).await;
    let begun = Instant::now();
    assert_eq!(handle.fence().await, Outcome::ConfirmedOff);
    assert!(begun.elapsed() >= Duration::from_millis(ha::fence::SETTLE_MS));
}

#[tokio::test]
async fn what_is_wrong_is_said_and_no_secret() {
    let mock = Mock::start(Manner::Honest, &version::TLS13).await;
    let wrong = |change: fn(&mut Redfish)| {
        let mut redfish = mock.redfish();
        change(&mut redfish);
        Agent::Redfish(redfish)
    };
    let user = wrong(|it| it.secret = Secret("other".to_owned()));
    let reply = ask(&user, Question::Power).await;
    assert!(why(&reply).contains("401"), "{reply:?}");
    let name = wrong(|it| it.system = "1".to_owned());
    let reply = ask(&name, Question::Power).await;
    assert!(why(&reply).contains("it has no system 1"), "{reply:?}");
    let pin = wrong(|it| it.pin = Pin::of(b"another"));
    mock.state().log.clear();
    let reply = ask(&pin, Question::Off).await;
    let shown = mock.pin.to_string();
    assert!(why(&reply).contains(&shown), "{reply:?}");
    assert!(mock.state().log.is_empty(), "it was told nothing");
    let port = wrong(|it| it.address.set_port(1));
    assert!(why(&ask(&port, Question::Off).await).contains("no connection"));
    let manners = [
        (Manner::Silent, Question::Power, "no answer within 5 s"),
        (Manner::Echoes, Question::Power, "***"),
        (Manner::PointsElsewhere, Question::Off, "offers no action"),
    ];
    for (manner, what, words) in manners {
        mock.state().manner = manner;
        let reply = ask(&mock.agent(), what).await;
        assert!(why(&reply).contains(words), "{manner:?}: {reply:?}");
        let all = format!("{reply:?}");
        assert!(!all.contains(&basic("fence", SECRET)), "{all}");
    }
}

#[tokio::test]
async fn a_test_says_what_was_asked_and_answered_and_changes_nothing() {
    let mock = Mock::start(Manner::Honest, &version::TLS13).await;
    let agent = mock.agent();
    let (handle, mut events) = desk(&[("bmc", 1, &agent), ("hand", 2, &Agent::Manual)]).await;
    let reports = handle.test().await.expect("not too many");
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].device, "bmc");
    let asked = format!(
        "GET https://{}/redfish/v1/Systems/System.Embedded.1 as fence",
        mock.address
    );
    assert_eq!(reports[0].reply.asked, asked);
    assert_eq!(reports[0].reply.answered, "200 OK: PowerState On");
    assert_eq!(mock.state().log.len(), 1);
    assert!(mock.state().off_at.is_none());
    assert_eq!(events.try_recv().ok(), None::<Event>);
}
