//! A session with a socket: one task that owns it, and handles that can be used from anywhere.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use core::net::{IpAddr, SocketAddr};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::machine::{Answer, Input, Machine, Output, Request};
use super::transfer::Order;
use super::{InitiatorError, Login, Management, Response};
use crate::auth::{CHALLENGE_LEN_BYTES, Challenge};
use crate::text::Pairs;
use crate::types::Time;

const READ_BYTES: usize = 64 * 1024;
const LAND_MIN_BYTES: usize = 8 * 1024;
const SLICES_MAX: usize = 64;
/// Tags run from 0 to this, then start again.
const TAG_MASK: u32 = 0x7fff_ffff;

type Reply = oneshot::Sender<Result<Answer, InitiatorError>>;

/// A logged-in session; clones use the same one. When the last clone is gone and every command
/// has ended the connection is closed.
#[derive(Clone, Debug)]
pub struct Session {
    calls: mpsc::UnboundedSender<Call>,
    tags: Arc<AtomicU32>,
}

/// A command that was given to the session. Dropping it forgets the command, nothing more.
#[derive(Debug)]
pub struct Pending {
    itt: u32,
    reply: oneshot::Receiver<Result<Answer, InitiatorError>>,
}

/// A target found by discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRecord {
    /// iSCSI name.
    pub name: String,
    /// `TargetAddress` values, such as `10.0.0.1:3260,1`.
    pub addresses: Vec<String>,
}

impl TargetRecord {
    /// The addresses that can be connected to, with their portal group tags.
    #[must_use]
    pub fn portals(&self) -> Vec<(SocketAddr, u16)> {
        let portal = |address: &String| {
            let (address, tag) = address.rsplit_once(',')?;
            Some((address.parse().ok()?, tag.parse().ok()?))
        };
        self.addresses.iter().filter_map(portal).collect()
    }
}

#[derive(Debug)]
struct Call {
    tag: u32,
    request: Request,
    reply: Reply,
}

impl Session {
    /// Connects and logs in. Must be called within a tokio runtime, which then runs the session's
    /// task.
    pub async fn login(address: SocketAddr, login: Login) -> Result<Self, InitiatorError> {
        let limit = Duration::from_millis(login.timeout_ms);
        timeout(limit, Self::log_in(address, login))
            .await
            .map_err(|_| InitiatorError::Timeout)?
    }

    async fn log_in(address: SocketAddr, login: Login) -> Result<Self, InitiatorError> {
        let stream = connect(address, login.bind_source).await.map_err(lost)?;
        let mut random = [0; CHALLENGE_LEN_BYTES + 1];
        getrandom::fill(&mut random)
            .map_err(|error| InitiatorError::Lost(format!("no random numbers: {error}")))?;
        let challenge = Challenge {
            identifier: random[0],
            bytes: random[1..].to_vec(),
        };
        let origin = Instant::now();
        let machine = Machine::new(Time(0), login, challenge);
        let (calls, inbox) = mpsc::unbounded_channel();
        let (ready, done) = oneshot::channel();
        let driver = Driver {
            machine,
            origin,
            inbox,
            waiting: BTreeMap::new(),
            ready: Some(ready),
            input: BytesMut::new(),
        };
        tokio::spawn(driver.run(stream));
        match done.await {
            Ok(Ok(())) => Ok(Self {
                calls,
                tags: Arc::default(),
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(InitiatorError::Lost("the runtime stopped".to_owned())),
        }
    }

    /// Carries out one command. `data_out` is empty for everything but writes; `data_in_bytes` is
    /// the most that is expected from the target. An error means that no status was received.
    pub fn execute(
        &self,
        lun: [u8; 8],
        cdb: [u8; 16],
        data_out: Bytes,
        data_in_bytes: usize,
    ) -> Pending {
        self.call(Request::Execute(Order {
            lun,
            cdb,
            data_out,
            data_in_bytes,
        }))
    }

    /// Carries out a task management function; the answer is its response code.
    pub async fn task_management(&self, management: Management) -> Result<u8, InitiatorError> {
        match self.call(Request::Manage(management)).answer().await? {
            Answer::Managed(response) => Ok(response),
            Answer::Response(_) | Answer::Targets(_) | Answer::LoggedOut => Err(CONFUSED),
        }
    }

    /// Lists the targets.
    pub async fn send_targets(&self) -> Result<Vec<TargetRecord>, InitiatorError> {
        match self.call(Request::SendTargets).answer().await? {
            Answer::Targets(pairs) => Ok(records(pairs)),
            Answer::Response(_) | Answer::Managed(_) | Answer::LoggedOut => Err(CONFUSED),
        }
    }

    /// Ends the session; commands that are under way end with [`InitiatorError::LoggedOut`].
    pub async fn logout(&self) -> Result<(), InitiatorError> {
        match self.call(Request::Logout).answer().await? {
            Answer::LoggedOut => Ok(()),
            Answer::Response(_) | Answer::Managed(_) | Answer::Targets(_) => Err(CONFUSED),
        }
    }

    /// Whether the session is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.calls.is_closed()
    }

    /// Waits until the session is over.
    pub async fn closed(&self) {
        self.calls.closed().await;
    }

    fn call(&self, request: Request) -> Pending {
        let tag = self.tags.fetch_add(1, Ordering::Relaxed) & TAG_MASK;
        let (reply, receiver) = oneshot::channel();
        // If the session is over the reply is dropped with the call, and the caller hears of it.
        let _ = self.calls.send(Call {
            tag,
            request,
            reply,
        });
        Pending {
            itt: tag,
            reply: receiver,
        }
    }
}

impl Pending {
    /// Initiator task tag, to abort the command.
    #[must_use]
    pub const fn itt(&self) -> u32 {
        self.itt
    }

    async fn answer(self) -> Result<Answer, InitiatorError> {
        self.reply.await.map_err(|_| over())?
    }
}

impl Future for Pending {
    type Output = Result<Response, InitiatorError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.reply).poll(cx).map(|reply| match reply {
            Ok(Ok(Answer::Response(response))) => Ok(response),
            Ok(Ok(Answer::Managed(_) | Answer::Targets(_) | Answer::LoggedOut)) => Err(CONFUSED),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(over()),
        })
    }
}

/// Logs in for discovery, lists the targets and logs out.
pub async fn discover(
    address: SocketAddr,
    login: Login,
) -> Result<Vec<TargetRecord>, InitiatorError> {
    let session = Session::login(
        address,
        Login {
            target: None,
            ..login
        },
    )
    .await?;
    let records = session.send_targets().await?;
    session.logout().await?;
    Ok(records)
}

/// The task of one session.
struct Driver {
    machine: Machine,
    origin: Instant,
    inbox: mpsc::UnboundedReceiver<Call>,
    waiting: BTreeMap<u32, Reply>,
    ready: Option<oneshot::Sender<Result<(), InitiatorError>>>,
    input: BytesMut,
}

/// What woke the task.
enum Event {
    Read(io::Result<usize>, Place),
    Wrote(io::Result<usize>),
    Call(Option<Call>),
    Alarm,
}

#[derive(Clone, Copy)]
enum Place {
    Input,
    Landing,
}

impl Driver {
    async fn run(mut self, mut stream: TcpStream) {
        let mut open = true;
        while !self.machine.is_over() {
            let event = self.next(&mut stream, open).await;
            let now = self.now();
            match event {
                Event::Read(Ok(0), _) => {
                    self.disconnected(now, "closed by the target".to_owned());
                }
                Event::Read(Ok(_), Place::Input) => {
                    self.machine.handle(now, Input::Received(&mut self.input));
                }
                Event::Read(Ok(len), Place::Landing) => {
                    self.machine.handle(now, Input::Landed(len));
                }
                Event::Wrote(Ok(len)) => self.machine.handle(now, Input::Sent(len)),
                Event::Read(Err(error), _) | Event::Wrote(Err(error)) => {
                    self.disconnected(now, error.to_string());
                }
                Event::Call(Some(call)) => {
                    self.waiting.insert(call.tag, call.reply);
                    self.machine
                        .handle(now, Input::Start(call.tag, call.request));
                }
                Event::Call(None) if self.waiting.is_empty() => return,
                Event::Call(None) => open = false,
                Event::Alarm => self.machine.handle(now, Input::Timeout),
            }
            self.report();
            if !open && self.waiting.is_empty() {
                return;
            }
        }
    }

    async fn next(&mut self, stream: &mut TcpStream, open: bool) -> Event {
        let now = Instant::now();
        let deadline = self.machine.poll_timeout().map(|time| self.instant(time));
        let (mut reader, mut writer) = stream.split();
        let outbox = self.machine.outbox().clone_chunks(SLICES_MAX);
        let slices: Vec<IoSlice<'_>> = outbox.iter().map(|chunk| IoSlice::new(chunk)).collect();
        let lands = self.input.is_empty()
            && self
                .machine
                .landing()
                .is_some_and(|(_, missing)| missing >= LAND_MIN_BYTES);
        let read = async {
            if lands && let Some((buffer, missing)) = self.machine.landing() {
                let result = reader.read_buf(&mut buffer.limit(missing)).await;
                return Event::Read(result, Place::Landing);
            }
            self.input
                .reserve(READ_BYTES.saturating_sub(self.input.len()));
            Event::Read(reader.read_buf(&mut self.input).await, Place::Input)
        };
        tokio::select! {
            event = read => event,
            result = writer.write_vectored(&slices), if !slices.is_empty() => Event::Wrote(result),
            call = self.inbox.recv(), if open && self.ready.is_none() => Event::Call(call),
            () = sleep_until(deadline.unwrap_or(now)), if deadline.is_some() => Event::Alarm,
        }
    }

    fn disconnected(&mut self, now: Time, why: String) {
        self.machine.handle(now, Input::Disconnected(why));
    }

    /// Passes outcomes on to those who wait for them.
    fn report(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::LoggedIn => self.tell_login(Ok(())),
                Output::Ended(tag, result) => {
                    if let Some(reply) = self.waiting.remove(&tag) {
                        // The caller may have lost interest.
                        let _ = reply.send(result);
                    }
                }
                Output::Over(error) => self.tell_login(Err(error)),
            }
        }
    }

    fn tell_login(&mut self, result: Result<(), InitiatorError>) {
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(result);
        }
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn instant(&self, time: Time) -> Instant {
        self.origin
            .checked_add(Duration::from_nanos(time.0))
            .unwrap_or(self.origin)
    }
}

async fn connect(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(source) = source {
        let source = match (source, address.is_ipv4()) {
            (IpAddr::V4(ip), false) => IpAddr::V6(ip.to_ipv6_mapped()),
            (source, _) => source,
        };
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn records(pairs: Pairs) -> Vec<TargetRecord> {
    let mut records: Vec<TargetRecord> = Vec::new();
    for (key, value) in pairs {
        match (key.as_str(), records.last_mut()) {
            ("TargetName", _) => {
                records.push(TargetRecord {
                    name: value,
                    addresses: Vec::new(),
                });
            }
            ("TargetAddress", Some(record)) => record.addresses.push(value),
            _ => {}
        }
    }
    records
}

fn lost(error: io::Error) -> InitiatorError {
    InitiatorError::Lost(error.to_string())
}

fn over() -> InitiatorError {
    InitiatorError::Lost("the session is over".to_owned())
}

const CONFUSED: InitiatorError = InitiatorError::Protocol("answer to another request");
