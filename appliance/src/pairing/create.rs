//! `twinsan pair create`: shows a code and waits for who knows it.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use replication::shell::tls::{Trust, acceptor, channel_of};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, LocalSet, spawn_local};
use tokio_rustls::TlsAcceptor;

use super::code::Code;
use super::message::{Denied, FromCreator, FromJoiner, Request};
use super::offer::{Admitted, Half, Offer, Terms};
use super::{Channel, OFFER_SECONDS, TRIES, wire};
use crate::api::types::Refusal;
use crate::config::NodeConfig;
use crate::membership::Member;
use crate::verbs::say;
use crate::{clock, identity, preflight};

/// Connections at once; the oldest gives way to a newer one.
const CONNECTIONS_MAX: usize = 16;
/// How long one may take from its first byte to its proof. The code was typed before.
const PROOF_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a joiner may take to make it durable, with what it overwrites.
const JOINED_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a failing accept is waited out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// News that wait to be told.
const NEWS_MAX: usize = 64;

/// What happened on a connection.
#[derive(Debug)]
pub(super) enum News {
    /// Somebody is a member now.
    Joined(Request),
    /// Somebody was let in and never said that it is a member.
    Unheard(Request),
    /// A proof was wrong.
    Wrong(SocketAddr, u8),
    /// The proof was right, and still.
    Denied(Denied),
    /// It cannot be saved here.
    Failed(String),
}

/// Everything a connection needs.
pub(super) struct Desk {
    /// Where the membership is durable.
    state: PathBuf,
    code: Code,
    offer: RefCell<Offer>,
    membership: Member,
    acceptor: TlsAcceptor,
    news: mpsc::Sender<News>,
}

/// Shows a code and waits until somebody has joined with it, or nobody can any more.
///
/// # Errors
/// A refusal; the pair is as before unless it says otherwise.
pub async fn create(file: &Path, json: bool) -> Result<(), Refusal> {
    let config = NodeConfig::load(file).map_err(|error| Refusal::usage(error.to_string()))?;
    let checked = preflight::check(&config).and_then(|_| Member::must(&config.state));
    let membership = checked.map_err(Refusal::failed)?;
    let listeners = listen(&config).await?;
    let code = Code::of_bits(identity::random().map_err(Refusal::failed)?);
    show(&config, &code, &listeners, json)?;
    let (news_in, news) = mpsc::channel(NEWS_MAX);
    let terms = Terms {
        encryption: config.encryption(),
        node: config.node,
        peer: config.peer.clone(),
        pair: membership.pair,
    };
    let desk = Desk::new(config.state, membership, code, terms, news_in);
    let desk = Rc::new(desk.map_err(Refusal::failed)?);
    let waiting = async move {
        for (_, listener) in listeners {
            spawn_local(accept(Rc::clone(&desk), listener));
        }
        let offered = Duration::from_secs(OFFER_SECONDS);
        let waited = tokio::time::timeout(offered, outcome(&config.peer, news, json)).await;
        waited.unwrap_or_else(|_| Err(Refusal::failed(Denied::Expired.to_string())))
    };
    LocalSet::new().run_until(waiting).await
}

impl Desk {
    fn new(
        state: PathBuf,
        membership: Member,
        code: Code,
        terms: Terms,
        news: mpsc::Sender<News>,
    ) -> Result<Self, String> {
        let acceptor = acceptor(&membership.identity(), Trust::Anybody)
            .map_err(|error| format!("cannot use this box's certificate: {error}"))?;
        Ok(Self {
            state,
            code,
            offer: RefCell::new(Offer::new(clock::boot_ns(), terms)),
            membership,
            acceptor,
            news,
        })
    }

    /// A desk of `san1` that lets witnesses in.
    #[cfg(test)]
    pub(super) fn of_member(membership: Member, code: Code, news: mpsc::Sender<News>) -> Self {
        let terms = Terms {
            node: "san1".to_owned(),
            peer: "san2".to_owned(),
            encryption: crate::config::node::Encryption::On,
            pair: membership.pair,
        };
        Self::new(PathBuf::new(), membership, code, terms, news).expect("a good certificate")
    }
}

/// On the box's own addresses and on no others: what else the machine is connected to has no say.
async fn listen(config: &NodeConfig) -> Result<Vec<(IpAddr, TcpListener)>, Refusal> {
    let mut listeners = Vec::new();
    let mut first_error = None;
    for link in &config.links {
        let place = SocketAddr::new(link.address, config.ports.pairing);
        match TcpListener::bind(place).await {
            Ok(listener) => listeners.push((link.address, listener)),
            Err(error) => drop(first_error.get_or_insert((place, error))),
        }
    }
    match first_error {
        Some((place, error)) if listeners.is_empty() => Err(Refusal::failed(format!(
            "cannot listen on {place}: {error}; see that the address is this box's and that no \
             other `twinsan pair create` runs here"
        ))),
        _ => Ok(listeners),
    }
}

fn show(
    config: &NodeConfig,
    code: &Code,
    listeners: &[(IpAddr, TcpListener)],
    json: bool,
) -> Result<(), Refusal> {
    let address = listeners
        .first()
        .map_or(config.replication[0].address, |it| it.0);
    let (code, minutes) = (code.shown(), OFFER_SECONDS / 60);
    if json {
        let addresses: Vec<String> = listeners.iter().map(|it| it.0.to_string()).collect();
        let line = serde_json::json!({
            "schema": 1, "event": "code", "code": code, "addresses": addresses,
            "seconds": OFFER_SECONDS, "tries": TRIES,
        });
        say(&line.to_string());
        return Ok(());
    }
    say(&format!(
        "code: {code}   (one member, {minutes} minutes, {TRIES} tries)\n\
         now say on {peer}:          twinsan pair join {address} {code}\n\
         or on the witness's host:  twinsan witness join {address} {code}\n\
         waiting; Ctrl-C takes the code back",
        peer = config.peer
    ));
    Ok(())
}

/// Tells the operator what happens until the offer is over.
async fn outcome(peer: &str, mut news: mpsc::Receiver<News>, json: bool) -> Result<(), Refusal> {
    while let Some(item) = news.recv().await {
        match item {
            News::Joined(request) => {
                let who = who(&request);
                say(&if json {
                    serde_json::json!({"schema": 1, "event": "joined", "node": who}).to_string()
                } else {
                    format!("done: {who} is a member of the pair; start it now")
                });
                return Ok(());
            }
            News::Unheard(request) => {
                return Err(Refusal::failed(format!(
                    "{who} knew the code and never said that it is a member; look there; if it is \
                     none, run `twinsan pair create` again",
                    who = who(&request)
                )));
            }
            News::Wrong(from, 0) => {
                return Err(Refusal::failed(format!(
                    "a wrong code came from {from}: that was the last try; run `twinsan pair \
                     create` again if the address is the other box's; if it is not, somebody is \
                     guessing"
                )));
            }
            News::Wrong(from, left) => {
                eprintln!("twinsan: a wrong code came from {from}; {left} tries are left");
            }
            News::Denied(why) => eprintln!("twinsan: {peer} was not let in; it was told: {why}"),
            News::Failed(why) => return Err(Refusal::failed(why)),
        }
    }
    Err(Refusal::failed(
        "nobody listens for members any more; run `twinsan pair create` again",
    ))
}

fn who(request: &Request) -> String {
    match request {
        Request::Box { node, .. } => node.clone(),
        Request::Witness {} => "the witness".to_owned(),
    }
}

/// Serves each connection in a task of its own, few at a time.
pub(super) async fn accept(desk: Rc<Desk>, listener: TcpListener) {
    let mut serving: Vec<AbortHandle> = Vec::new();
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        serving.retain(|task| !task.is_finished());
        if serving.len() == CONNECTIONS_MAX {
            serving.remove(0).abort();
        }
        let desk = Rc::clone(&desk);
        serving.push(spawn_local(serve(desk, stream, from)).abort_handle());
    }
}

async fn serve(desk: Rc<Desk>, stream: TcpStream, from: SocketAddr) {
    let proven = tokio::time::timeout(PROOF_TIMEOUT, prove(&desk, stream, from)).await;
    // Who says nothing, or no message, is nobody.
    if let Ok(Ok(Some(proven))) = proven {
        // A task of its own: strangers who connect meanwhile do not end it.
        spawn_local(welcome(desk, proven));
    }
}

/// A connection whose other end knows the code.
struct Proven {
    stream: Stream,
    admitted: Admitted,
    channel: Channel,
}

/// Whoever knew the code becomes a member; a box's certificate is pinned before it hears so.
async fn welcome(desk: Rc<Desk>, proven: Proven) {
    let Proven {
        mut stream,
        admitted: Admitted { request, answer },
        channel,
    } = proven;
    let pinned = match request {
        Request::Box { .. } => Member::pin(&desk.state, desk.membership.pair, channel.joiner),
        Request::Witness {} => Ok(()),
    };
    if let Err(why) = pinned {
        tell(&desk, News::Failed(why)).await;
        let why = Denied::NotSaved;
        drop(wire::send(&mut stream, &FromCreator::Denied { why }).await);
        return;
    }
    let joined = async {
        wire::send(&mut stream, &answer).await?;
        wire::receive(&mut stream).await
    };
    let news = match tokio::time::timeout(JOINED_TIMEOUT, joined).await {
        Ok(Ok(FromJoiner::Joined {})) => News::Joined(request),
        Ok(Ok(FromJoiner::Hello { .. } | FromJoiner::Proof { .. }) | Err(_)) | Err(_) => {
            News::Unheard(request)
        }
    };
    tell(&desk, news).await;
}

type Stream = tokio_rustls::server::TlsStream<TcpStream>;

/// Lets a connection prove that it knows the code, and answers it.
async fn prove(
    desk: &Desk,
    stream: TcpStream,
    from: SocketAddr,
) -> std::io::Result<Option<Proven>> {
    let mut stream = desk.acceptor.accept(stream).await?;
    let (binding, joiner) = channel_of(stream.get_ref().1).map_err(std::io::Error::other)?;
    let channel = Channel {
        binding: binding.0,
        creator: desk.membership.identity().fingerprint(),
        joiner,
    };
    let said = wire::receive(&mut stream).await?;
    let half = Half::creator(&desk.code);
    let greeted = {
        let offer = desk.offer.borrow();
        offer.greet(clock::boot_ns(), &channel, &said, half)
    };
    let attempt = match greeted {
        Ok((attempt, welcome)) => {
            wire::send(&mut stream, &welcome).await?;
            attempt
        }
        Err(why) => {
            wire::send(&mut stream, &FromCreator::Denied { why }).await?;
            return Ok(None);
        }
    };
    let said = wire::receive(&mut stream).await?;
    let judged = {
        let mut offer = desk.offer.borrow_mut();
        offer.judge(clock::boot_ns(), &attempt, &said)
    };
    match judged {
        Ok(admitted) => Ok(Some(Proven {
            stream,
            admitted,
            channel,
        })),
        Err(why) => {
            let sent = wire::send(&mut stream, &FromCreator::Denied { why: why.clone() }).await;
            let news = if let Denied::WrongCode { tries_left } = why {
                News::Wrong(from, tries_left)
            } else {
                News::Denied(why)
            };
            tell(desk, news).await;
            sent.map(|()| None)
        }
    }
}

async fn tell(desk: &Desk, news: News) {
    // Nobody listens any more when the offer is over.
    drop(desk.news.send(news).await);
}
