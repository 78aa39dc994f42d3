//! The side that shows a code.
//!
//! ```text
//! Open ── right proof ──▶ Taken
//!   └── three wrong proofs, or ten minutes ──▶ nothing more is answered
//! ```
//!
//! Invariants: nobody hears anything that depends on the code but its own half of SPAKE2 before its
//! proof was right; an offer bears [`TRIES`] wrong proofs, however many connections they come
//! over; it lets one member in.

use spake2::{Ed25519Group, Identity, Spake2};

use super::code::Code;
use super::message::{Denied, FromCreator, FromJoiner, Request};
use super::request::{Secret, Side};
use super::{Channel, OFFER_SECONDS, TRIES, VERSION};
use crate::config::node::Encryption;
use crate::hex;
use crate::membership::Pair;

/// Our half of one SPAKE2 exchange, from fresh randomness.
pub(super) struct Half {
    pub(super) state: Spake2<Ed25519Group>,
    pub(super) message: Vec<u8>,
}

impl Half {
    /// The creator's.
    pub(super) fn creator(code: &Code) -> Self {
        let (creator, joiner) = parties();
        let (state, message) = Spake2::start_a(&code.password(), &creator, &joiner);
        Self { state, message }
    }

    /// The joiner's.
    pub(super) fn joiner(code: &Code) -> Self {
        let (creator, joiner) = parties();
        let (state, message) = Spake2::start_b(&code.password(), &creator, &joiner);
        Self { state, message }
    }
}

fn parties() -> (Identity, Identity) {
    (
        Identity::new(b"twinsan creator"),
        Identity::new(b"twinsan joiner"),
    )
}

/// Who offers, and what a member gets.
pub(super) struct Terms {
    /// Name of this box.
    pub(super) node: String,
    /// Name of the other box.
    pub(super) peer: String,
    /// How this box has the data link.
    pub(super) encryption: Encryption,
    /// The group and its key.
    pub(super) pair: Pair,
}

/// A code that is valid for a while.
pub(super) struct Offer {
    terms: Terms,
    /// In ns of the clock that `now` is of.
    expires_ns: u64,
    tries_left: u8,
    taken: bool,
}

/// A connection that was greeted.
pub(super) struct Attempt {
    secret: Secret,
}

/// Who has shown that it knows the code, and the answer for it.
pub(super) struct Admitted {
    pub(super) request: Request,
    pub(super) answer: FromCreator,
}

impl Offer {
    pub(super) fn new(now_ns: u64, terms: Terms) -> Self {
        Self {
            terms,
            expires_ns: now_ns + OFFER_SECONDS * 1_000_000_000,
            tries_left: TRIES,
            taken: false,
        }
    }

    /// True if nobody can join with this code any more.
    pub(super) fn is_used_up(&self) -> bool {
        self.taken || self.tries_left == 0
    }

    fn open(&self, now_ns: u64) -> Result<(), Denied> {
        if self.is_used_up() {
            return Err(Denied::UsedUp);
        }
        if now_ns >= self.expires_ns {
            return Err(Denied::Expired);
        }
        Ok(())
    }

    /// Answers a first message, with a half that is used for nothing else.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(super) fn greet(
        &self,
        now_ns: u64,
        channel: &Channel,
        said: &FromJoiner,
        half: Half,
    ) -> Result<(Attempt, FromCreator), Denied> {
        self.open(now_ns)?;
        let FromJoiner::Hello { version, pake } = said else {
            return Err(Denied::Garbled);
        };
        if *version != VERSION {
            return Err(Denied::Version { version: VERSION });
        }
        let theirs = hex::parse(pake).ok_or(Denied::Garbled)?;
        let ours = half.message;
        let shared = half.state.finish(&theirs).map_err(|_| Denied::Garbled)?;
        let welcome = FromCreator::Welcome {
            pake: hex::shown(&ours),
        };
        let secret = Secret::new(shared, channel, &theirs, &ours);
        Ok((Attempt { secret }, welcome))
    }

    /// Judges a proof. Whoever gave a right one is let in, if it fits; that uses the code up.
    ///
    /// # Errors
    /// Why it is not let in.
    pub(super) fn judge(
        &mut self,
        now_ns: u64,
        attempt: &Attempt,
        said: &FromJoiner,
    ) -> Result<Admitted, Denied> {
        self.open(now_ns)?;
        let FromJoiner::Proof { mac, request } = said else {
            return Err(Denied::Garbled);
        };
        let mac = hex::parse(mac).ok_or(Denied::Garbled)?;
        if !attempt.secret.is_proof(Side::Joiner, &mac) {
            self.tries_left -= 1;
            return Err(Denied::WrongCode {
                tries_left: self.tries_left,
            });
        }
        self.fits(request)?;
        self.taken = true;
        Ok(Admitted {
            request: request.clone(),
            answer: FromCreator::Accepted {
                mac: hex::shown(&attempt.secret.proof(Side::Creator)),
                group: self.terms.pair.group,
                key: hex::shown(&self.terms.pair.key),
                node: self.terms.node.clone(),
            },
        })
    }

    fn fits(&self, request: &Request) -> Result<(), Denied> {
        let Request::Box {
            node,
            peer,
            encryption,
            member_of,
        } = request
        else {
            return Ok(());
        };
        if (node, peer) != (&self.terms.peer, &self.terms.node) {
            return Err(Denied::Names {
                node: self.terms.node.clone(),
                peer: self.terms.peer.clone(),
            });
        }
        if *encryption != self.terms.encryption {
            return Err(Denied::Encryption);
        }
        if member_of.is_some_and(|group| group != self.terms.pair.group) {
            return Err(Denied::OtherPair);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
