//! `twinsan pair leave` and `twinsan witness leave`: forget the key.

use std::path::Path;

use ha::shell::Store;
use uuid::Uuid;

use crate::api::types::Refusal;
use crate::config::{NodeConfig, WitnessConfig};
use crate::membership::{Member, Pair};
use crate::verbs::say;

/// Ends the membership of this box.
///
/// # Errors
/// A refusal; nothing was changed.
pub fn leave(file: &Path, yes: bool, json: bool) -> Result<(), Refusal> {
    let config = NodeConfig::load(file).map_err(|error| Refusal::usage(error.to_string()))?;
    if !yes {
        return Err(Refusal::safety(format!(
            "{node} stays in its pair: without it {peer} has no second copy and no vote of this \
             box; what {node} alone has written is lost if {peer} was behind, because nobody \
             serves it any more; look at `twinsan status` on both, and if that is meant, say --yes",
            node = config.node,
            peer = config.peer
        )));
    }
    let _store = Store::open(&config.state).map_err(|error| Refusal::failed(error.to_string()))?;
    let left = Member::forget(&config.state).map_err(Refusal::failed)?;
    report(
        left,
        json,
        &format!(
            "done: this box has left its pair and forgotten the key; the volumes stay in {} until \
             it joins a pair again",
            config.pool.display()
        ),
    )
}

/// Ends the membership of this witness in one pair.
///
/// # Errors
/// A refusal; nothing was changed.
pub fn witness_leave(file: &Path, group: Uuid, json: bool) -> Result<(), Refusal> {
    let config = WitnessConfig::load(file).map_err(|error| Refusal::usage(error.to_string()))?;
    let left = Pair::forget_for_witness(&config.state, group).map_err(Refusal::failed)?;
    if !left {
        let pairs = Pair::all_of_witness(&config.state).map_err(Refusal::failed)?;
        return Err(Refusal::usage(no_such(group, &pairs)));
    }
    report(
        left,
        json,
        "done: the key of that pair is forgotten; start the witness again if it runs",
    )
}

fn no_such(group: Uuid, pairs: &[Pair]) -> String {
    let groups: Vec<String> = pairs.iter().map(|pair| pair.group.to_string()).collect();
    if groups.is_empty() {
        "nothing was changed: this witness has joined no pair".to_owned()
    } else {
        format!(
            "nothing was changed: this witness is not in group {group}; it is in {}",
            groups.join(", ")
        )
    }
}

fn report(left: bool, json: bool, text: &str) -> Result<(), Refusal> {
    if !left {
        return Err(Refusal::failed("there was no pair to leave"));
    }
    say(&if json {
        serde_json::json!({"schema": 1, "done": "left"}).to_string()
    } else {
        text.to_owned()
    });
    Ok(())
}
