//! What the two sides say to each other.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::config::node::Encryption;

/// The joiner speaks.
#[derive(Deserialize, Serialize)]
#[serde(tag = "say", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum FromJoiner {
    /// The first word.
    Hello { version: u32, pake: String },
    /// That it knows the code, and what it wants.
    Proof { mac: String, request: Request },
    /// It is a member now, durably.
    Joined {},
}

/// The creator speaks.
#[derive(Deserialize, Serialize)]
#[serde(tag = "say", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum FromCreator {
    /// Its half of the exchange.
    Welcome { pake: String },
    /// That it knows the code too, and what makes a member.
    Accepted {
        mac: String,
        group: Uuid,
        key: String,
        /// Name of the creator.
        node: String,
    },
    /// It will not be.
    Denied { why: Denied },
}

/// Who wants to join.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(tag = "role", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    /// The second box.
    Box {
        /// Its name.
        node: String,
        /// The name that it has for the creator.
        peer: String,
        /// How it would have the data link.
        encryption: Encryption,
        /// The pair that it belongs to already.
        member_of: Option<Uuid>,
    },
    /// A witness.
    Witness {},
}

/// Why somebody does not become a member.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Denied {
    /// The proof is wrong.
    #[error(
        "the code is wrong, or somebody is between the two boxes; {tries_left} tries are left; \
         look at the code that the other box shows, and that the address is the other box's"
    )]
    WrongCode { tries_left: u8 },
    /// It was wrong too often, or was used.
    #[error(
        "the code is used up: it lets one member join, and bears {} wrong tries; run `twinsan pair \
         create` on the other box again",
        super::TRIES
    )]
    UsedUp,
    /// It came too late.
    #[error(
        "the code is older than {} minutes; run `twinsan pair create` once more",
        super::OFFER_SECONDS / 60
    )]
    Expired,
    /// Another version of the program.
    #[error(
        "the other box speaks version {version} of the pairing protocol and this one {}; install \
         the same version of twinsan on both",
        super::VERSION
    )]
    Version { version: u32 },
    /// The two configurations do not name each other.
    #[error(
        "the other box is called {node} and expects {peer} as its peer; write the same two names, \
         each in its place, as node and peer into node.toml of both boxes"
    )]
    Names { node: String, peer: String },
    /// One wants the data link encrypted and the other does not.
    #[error(
        "the two boxes do not agree whether the data link is encrypted; write the same \
         `encryption` for that link into node.toml of both boxes"
    )]
    Encryption,
    /// It is a member elsewhere.
    #[error(
        "this box belongs to another pair; if it shall leave that one for good, run `twinsan pair \
         leave` here first"
    )]
    OtherPair,
    /// The creator could not make it durable.
    #[error("the other box could not save what was agreed; look at what it says")]
    NotSaved,
    /// Not to be understood.
    #[error(
        "the other box does not understand this one; install the same version of twinsan on both"
    )]
    Garbled,
}
