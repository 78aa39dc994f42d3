//! `twinsan pair join` and `twinsan witness join`: become a member with a code.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ha::shell::Store;
use replication::shell::tls::{Trust, channel_of, connector, peer_name};
use replication::shell::{Fingerprint, Identity, Pool};
use tokio::net::TcpStream;

use super::code::Code;
use super::message::{FromJoiner, Request};
use super::offer::Half;
use super::request::Joining;
use super::{Channel, wire};
use crate::api::types::Refusal;
use crate::cli::JoinArgs;
use crate::config::{NodeConfig, WitnessConfig};
use crate::membership::{self, Member, Pair};
use crate::verbs::say;
use crate::{data, preflight, size};

/// How long the other box may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes this box the second one of the pair whose code this is.
///
/// # Errors
/// A refusal; nothing was changed unless it says so.
pub async fn join(file: &Path, args: &JoinArgs, yes: bool, json: bool) -> Result<(), Refusal> {
    let config = NodeConfig::load(file).map_err(|error| Refusal::usage(error.to_string()))?;
    let code: Code = args.code.parse().map_err(Refusal::usage)?;
    preflight::check(&config).map_err(Refusal::failed)?;
    // Held to the end: no daemon of this box runs meanwhile.
    let _store = Store::open(&config.state).map_err(|error| Refusal::failed(error.to_string()))?;
    let member = Member::load(&config.state).map_err(Refusal::failed)?;
    let pool = data::open_pool(&config).map_err(Refusal::failed)?;
    if member.is_none() {
        agree_to_lose(&pool, yes)?;
    }
    // A box that joins its own pair again keeps its data, and gets a new certificate all the same.
    let (certificate, certificate_key) = membership::certificate().map_err(Refusal::failed)?;
    let request = Request::Box {
        node: config.node.clone(),
        peer: config.peer.clone(),
        encryption: config.encryption(),
        member_of: member.as_ref().map(|member| member.pair.group),
    };
    let place = SocketAddr::new(args.address, args.port.unwrap_or(config.ports.pairing));
    let identity = Identity::new(certificate.clone(), certificate_key.clone());
    let mut agreed = agree(place, &code, &identity, request).await?;
    if member.is_none() {
        empty(&pool).await?;
    }
    Member::of_certificate(agreed.pair, (certificate, certificate_key), agreed.creator)
        .save(&config.state)
        .map_err(Refusal::failed)?;
    agreed.tell_joined().await;
    let (group, peer) = (agreed.pair.group, &agreed.node);
    done(
        json,
        &format!("done: this box is a member of the pair with {peer}; start `twinsan run`"),
        &serde_json::json!({"schema": 1, "done": "joined", "peer": peer, "group": group}),
    );
    Ok(())
}

/// Makes this witness one of the pair whose code this is.
///
/// # Errors
/// A refusal; nothing was changed unless it says so.
pub async fn witness_join(file: &Path, args: &JoinArgs, json: bool) -> Result<(), Refusal> {
    let config = WitnessConfig::load(file).map_err(|error| Refusal::usage(error.to_string()))?;
    let code: Code = args.code.parse().map_err(Refusal::usage)?;
    membership::make_folder(&config.state).map_err(Refusal::failed)?;
    let (certificate, key) = membership::certificate().map_err(Refusal::failed)?;
    let port = crate::config::node::Ports::default().pairing;
    let place = SocketAddr::new(args.address, args.port.unwrap_or(port));
    // The witness proves itself with the key alone from now on: nobody keeps this certificate.
    let identity = Identity::new(certificate, key);
    let mut agreed = agree(place, &code, &identity, Request::Witness {}).await?;
    agreed
        .pair
        .save_for_witness(&config.state)
        .map_err(Refusal::failed)?;
    agreed.tell_joined().await;
    let (group, node) = (agreed.pair.group, &agreed.node);
    done(
        json,
        &format!(
            "done: this is the witness of {node} and its peer, group {group}; start `twinsan \
             witness`, or start it again if it runs"
        ),
        &serde_json::json!({"schema": 1, "done": "joined", "node": node, "group": group}),
    );
    Ok(())
}

fn done(json: bool, text: &str, line: &serde_json::Value) {
    say(&if json {
        line.to_string()
    } else {
        text.to_owned()
    });
}

/// What came of it.
pub(super) struct Agreed {
    stream: tokio_rustls::client::TlsStream<TcpStream>,
    pair: Pair,
    /// Name of the other box.
    node: String,
    /// Its certificate.
    creator: Fingerprint,
}

impl Agreed {
    pub(super) async fn tell_joined(&mut self) {
        // Only so that the other side can say it too: this one is a member now.
        let _best_effort = wire::send(&mut self.stream, &FromJoiner::Joined {}).await;
    }
}

/// Proves the code to who listens at `place`, and has it proven.
async fn agree(
    place: SocketAddr,
    code: &Code,
    identity: &Identity,
    request: Request,
) -> Result<Agreed, Refusal> {
    let talk = async {
        let stream = TcpStream::connect(place).await.map_err(|error| {
            format!(
                "cannot reach {place}: {error}; see that `twinsan pair create` is waiting there \
                 and that nothing between the two closes TCP port {}",
                place.port()
            )
        })?;
        talk(stream, code, identity, request).await
    };
    let talked = tokio::time::timeout(ANSWER_TIMEOUT, talk).await;
    let silent = |_| {
        Err(format!(
            "nobody answers at {place} within {} s; see that `twinsan pair create` is waiting \
             there",
            ANSWER_TIMEOUT.as_secs()
        ))
    };
    talked.unwrap_or_else(silent).map_err(Refusal::failed)
}

pub(super) async fn talk(
    stream: TcpStream,
    code: &Code,
    identity: &Identity,
    request: Request,
) -> Result<Agreed, String> {
    let broken = |error: std::io::Error| {
        format!(
            "the other side ended the conversation: {error}; see that `twinsan pair create` of the \
             same version is waiting there"
        )
    };
    let connector = connector(identity, Trust::Anybody)
        .map_err(|error| format!("cannot use the new certificate: {error}"))?;
    let connecting = connector.connect(peer_name(), stream);
    let mut stream = connecting.await.map_err(broken)?;
    let (binding, creator) =
        channel_of(stream.get_ref().1).map_err(|error| broken(std::io::Error::other(error)))?;
    let channel = Channel {
        binding: binding.0,
        creator,
        joiner: identity.fingerprint(),
    };
    let (joining, hello) = Joining::new(Half::joiner(code), request);
    wire::send(&mut stream, &hello).await.map_err(broken)?;
    let said = wire::receive(&mut stream).await.map_err(broken)?;
    let welcomed = joining.welcomed(&channel, said);
    let (proven, proof) = welcomed.map_err(|failure| failure.to_string())?;
    wire::send(&mut stream, &proof).await.map_err(broken)?;
    let said = wire::receive(&mut stream).await.map_err(broken)?;
    let (pair, node) = proven
        .answered(said)
        .map_err(|failure| failure.to_string())?;
    Ok(Agreed {
        stream,
        pair,
        node,
        creator,
    })
}

/// Names what would be lost, and asks.
fn agree_to_lose(pool: &Pool, yes: bool) -> Result<(), Refusal> {
    let found = pool
        .list()
        .map_err(|error| Refusal::failed(error.to_string()))?;
    if found.is_empty() || yes {
        return Ok(());
    }
    let volumes: Vec<String> = found
        .iter()
        .map(|volume| {
            let path = pool.path(volume.number);
            format!("  {} ({})", path.display(), size::shown(volume.size_bytes))
        })
        .collect();
    let lost = format!(
        "joining overwrites all that the pool {} holds:\n{}",
        pool.dir().display(),
        volumes.join("\n")
    );
    let refused = || {
        Refusal::safety(format!(
            "{lost}\nnothing was changed; if this data may be lost, say --yes"
        ))
    };
    if !std::io::stdin().is_terminal() {
        return Err(refused());
    }
    eprintln!("{lost}\ntype yes if this data may be lost:");
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.ok()
        .filter(|_| answer.trim() == "yes")
        .map(drop)
        .ok_or_else(refused)
}

async fn empty(pool: &Pool) -> Result<(), Refusal> {
    let failed = |error: replication::shell::PoolError| {
        Refusal::failed(format!(
            "{error}; this box did not join; repair that, then run `twinsan pair create` and \
             `twinsan pair join` again"
        ))
    };
    for volume in pool.list().map_err(failed)? {
        pool.remove_volume(volume.number).await.map_err(failed)?;
    }
    Ok(())
}
