//! `twinsan witness`: the third vote, as a small daemon of its own.

use std::path::Path;

use ha::shell::{Store, WitnessSetup, run_witness};
use ha::{GroupId, Witness, WitnessParams};
use tokio::net::UdpSocket;

use crate::api::types::Refusal;
use crate::config::WitnessConfig;
use crate::identity::{self, WITNESS};
use crate::membership::Pair;
use crate::runtime;

/// Runs until it is killed; its state is durable at every moment.
///
/// # Errors
/// Why it cannot start, and what to do.
pub fn run(file: &Path) -> Result<(), Refusal> {
    crate::log::start();
    let config = WitnessConfig::load(file).map_err(|error| Refusal::usage(error.to_string()))?;
    let event_loop = runtime::event_loop().map_err(Refusal::failed)?;
    event_loop.block_on(serve(&config)).map_err(Refusal::failed)
}

async fn serve(config: &WitnessConfig) -> Result<(), String> {
    let mut keys = Vec::new();
    for pair in Pair::all_of_witness(&config.state)? {
        keys.push((GroupId(pair.group.as_u128()), pair.key));
    }
    if keys.is_empty() {
        return Err(
            "this witness belongs to no pair; run `twinsan pair create` on a box and `twinsan \
             witness join` here"
                .to_owned(),
        );
    }
    let groups = keys.len();
    let store = Store::open(&config.state).map_err(|error| error.to_string())?;
    let mut records = Vec::new();
    for (group, _) in &keys {
        if let Some(record) = store.load(*group).map_err(|error| error.to_string())? {
            records.push((*group, record));
        }
    }
    let fresh = ha::VoterInstance(identity::random()?);
    let params = WitnessParams {
        me: ha::NodeId(WITNESS),
        instance: store
            .instance(|| fresh)
            .map_err(|error| error.to_string())?,
        incarnation: ha::Incarnation(identity::random()?),
        boot: ha::BootId(identity::kernel_boot()?),
        keys,
    };
    let socket = UdpSocket::bind(config.listen).await.map_err(|error| {
        format!(
            "cannot listen on {}: {error}; see that the address is this host's and the port is \
             free",
            config.listen
        )
    })?;
    tracing::info!("witness of {groups} pair(s) on {}", config.listen);
    let witness = Witness::new(params, records, ha::shell::now());
    run_witness(
        WitnessSetup {
            witness,
            store,
            socket,
        },
        |event| tracing::info!("{event}"),
    )
    .await
    .map_err(|error| error.to_string())
}
