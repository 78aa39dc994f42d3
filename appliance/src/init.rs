//! `twinsan init`: makes this the first box of a new pair. The second box and the witness join with
//! a code (`pairing`); then they start blank and are admitted by the primary (law R10).

use std::path::Path;
use std::time::Duration;

use ha::shell::Store;
use replication::engine::{Attached, Event, Input, Params};
use replication::shell::{DriverConfig, LeaseCell, LinkConfig};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::api::types::Refusal;
use crate::config::NodeConfig;
use crate::data;
use crate::identity::{self, Identity};
use crate::membership::{Member, Pair};
use crate::preflight;

/// The other box is taken for stopped if it does not answer within this.
const PEER_WAIT: Duration = Duration::from_secs(1);

/// Writes the first metadata and the first record. Refuses if there is anything already.
///
/// # Errors
/// A refusal; nothing was changed unless it says so.
pub async fn run(file: &Path) -> Result<(), Refusal> {
    let config = load(file)?;
    alone(&config).await.map_err(Refusal::safety)?;
    make(&config).await
}

/// The same where the caller knows that the other box is not there yet.
///
/// # Errors
/// As [`run`].
pub(crate) async fn run_alone(file: &Path) -> Result<(), Refusal> {
    make(&load(file)?).await
}

fn load(file: &Path) -> Result<NodeConfig, Refusal> {
    NodeConfig::load(file).map_err(|error| Refusal::usage(error.to_string()))
}

async fn make(config: &NodeConfig) -> Result<(), Refusal> {
    preflight::check(config).map_err(Refusal::failed)?;
    let identity = Identity::of(config, None).map_err(Refusal::failed)?;
    let mut store =
        Store::open(&config.state).map_err(|error| Refusal::failed(error.to_string()))?;
    let known = Member::load(&config.state).map_err(Refusal::failed)?;
    if known.is_some() {
        return Err(Refusal::safety(format!(
            "{} belongs to a pair already; nothing was changed; start it with `twinsan run`",
            config.node
        )));
    }
    let pool = data::open_pool(config).map_err(Refusal::failed)?;
    let found = pool
        .list()
        .map_err(|error| Refusal::failed(error.to_string()))?;
    if !found.is_empty() {
        return Err(Refusal::safety(format!(
            "the pool {} holds {} volumes of a pair; a new pair would overwrite them; nothing was \
             changed; use an empty folder, or start the box that they belong to; if an earlier \
             init was cut short and no box ever served, empty this one",
            pool.dir().display(),
            found.len()
        )));
    }
    let timing = ha::Timing::default();
    let pair = Pair::found().map_err(Refusal::failed)?;
    let group = ha::GroupId(pair.group.as_u128());
    let params = data::params(&identity, &pair, &timing).map_err(Refusal::failed)?;
    let disk = LocalSet::new()
        .run_until(format(config, params))
        .await
        .map_err(Refusal::failed)?;
    let instance = identity::random().map_err(Refusal::failed)?;
    let record = ha::record::genesis(
        group,
        ha::NodeId(identity.me),
        (ha::VoterInstance(instance), disk),
        timing,
        ha::Policy::Witness,
    )
    .map_err(|error| Refusal::failed(error.to_string()))?;
    // The membership is last: without it nothing else counts.
    let saved = store.save(group, &record).map_err(|e| e.to_string());
    let saved = saved.and_then(|()| Member::new(pair, None)?.save(&config.state));
    saved.map_err(|error| {
        Refusal::failed(format!(
            "cannot save what makes this box the first one: {error}; the pool {} was formatted: \
             empty it before the next try",
            pool.dir().display()
        ))
    })
}

/// Two boxes that were both made the first would be two pairs with one name and two sets of data.
async fn alone(config: &NodeConfig) -> Result<(), String> {
    let mut answered = false;
    for link in &config.replication {
        let place = (link.peer, config.ports.replication);
        let answers = tokio::time::timeout(PEER_WAIT, TcpStream::connect(place)).await;
        answered |= matches!(answers, Ok(Ok(_)));
    }
    if !answered {
        return Ok(());
    }
    Err(format!(
        "{peer} is running; only one box of a pair is made the first, and nothing was changed; if \
         {peer} is that one, run `twinsan pair create` there and `twinsan pair join` here; if not, \
         stop {peer} until this is done",
        peer = config.peer
    ))
}

/// Lets the engine write the first metadata; returns the identity of the new copy.
async fn format(config: &NodeConfig, params: Params) -> Result<ha::DiskInstance, String> {
    let (event_in, mut events) = mpsc::unbounded_channel();
    let mirror = replication::shell::start(
        DriverConfig {
            params,
            seal: replication::types::Epoch::ZERO,
            newest: None,
            pool: data::open_pool(config)?,
            disk: data::open_disk(config, None)?,
            link: LinkConfig::default(),
            lease: LeaseCell::new(),
        },
        move |event| drop(event_in.send(event)),
    )
    .map_err(|error| error.to_string())?;
    let mut asked = false;
    while let Some(event) = events.recv().await {
        match event {
            Event::Data(state) => match (state.attached, state.disk) {
                (Attached::Yes, Some(disk)) => {
                    mirror.stop().await;
                    return Ok(ha::DiskInstance(disk.0));
                }
                (Attached::No(_), None) if !asked => {
                    asked = true;
                    mirror.input(Input::Format);
                }
                (Attached::No(why) | Attached::Failed(why), _) => return Err(why),
                (Attached::Yes, None) => return Err("the new copy has no identity".to_owned()),
            },
            Event::Alarm(why) => return Err(why),
            Event::PeerUp { .. }
            | Event::PeerLost { .. }
            | Event::Sealed { .. }
            | Event::Serving { .. }
            | Event::Readmit { .. }
            | Event::Drained { .. }
            | Event::CacheLost { .. }
            | Event::Replayed { .. }
            | Event::Thawed
            | Event::ResyncStarted { .. }
            | Event::ResyncProgress { .. }
            | Event::ResyncDone
            | Event::InSync { .. }
            | Event::VolumeReady { .. }
            | Event::VolumeGrown { .. }
            | Event::CopiesDiffer { .. }
            | Event::Scrubbed { .. }
            | Event::VolumeGone { .. } => {}
        }
    }
    Err("the mirror ended before its metadata was written".to_owned())
}
