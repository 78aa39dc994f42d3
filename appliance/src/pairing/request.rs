//! The side that was told a code.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::message::{Denied, FromCreator, FromJoiner, Request};
use super::offer::Half;
use super::{Channel, VERSION};
use crate::hex;
use crate::membership::Pair;

/// Which side a proof speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Who shows the code.
    Creator,
    /// Who was told it.
    Joiner,
}

/// What both sides know at the end of the exchange, if they started with one code.
pub(super) struct Secret(Hmac<Sha256>);

impl Secret {
    /// `shared` is what SPAKE2 gave; the rest is what both must have seen alike.
    pub(super) fn new(shared: Vec<u8>, channel: &Channel, joiner: &[u8], creator: &[u8]) -> Self {
        let mut hmac = Hmac::new_from_slice(&shared).expect("any length of key will do");
        hmac.update(b"twinsan pair 1");
        hmac.update(&channel.binding);
        hmac.update(&channel.creator.0);
        hmac.update(&channel.joiner.0);
        for message in [joiner, creator] {
            hmac.update(&(message.len() as u64).to_le_bytes());
            hmac.update(message);
        }
        Self(hmac)
    }

    fn of(&self, side: Side) -> Hmac<Sha256> {
        let mut hmac = self.0.clone();
        hmac.update(match side {
            Side::Creator => b"creator",
            Side::Joiner => b"joiner.",
        });
        hmac
    }

    /// The proof of a side.
    pub(super) fn proof(&self, side: Side) -> [u8; 32] {
        self.of(side).finalize().into_bytes().into()
    }

    /// Compares in constant time.
    pub(super) fn is_proof(&self, side: Side, mac: &[u8]) -> bool {
        self.of(side).verify_slice(mac).is_ok()
    }
}

/// Why the joiner gives up.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The other side said why.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// What came is none of the protocol's messages, or not in its place.
    #[error("what answers there is no `twinsan pair create` of this version")]
    Garbled,
    /// The other side does not know the code.
    #[error(
        "what answers there does not know the code: somebody is between the two boxes, or the \
         address is not the other box's; nothing was told and nothing was changed"
    )]
    Impostor,
}

/// After the first message.
pub(super) struct Joining {
    half: Half,
    request: Request,
}

/// After the proof.
pub(super) struct Proven {
    secret: Secret,
}

impl Joining {
    /// The first message, with a half that is used for nothing else.
    pub(super) fn new(half: Half, request: Request) -> (Self, FromJoiner) {
        let hello = FromJoiner::Hello {
            version: VERSION,
            pake: hex::shown(&half.message),
        };
        (Self { half, request }, hello)
    }

    /// Answers the greeting.
    ///
    /// # Errors
    /// If it is none.
    pub(super) fn welcomed(
        self,
        channel: &Channel,
        said: FromCreator,
    ) -> Result<(Proven, FromJoiner), Failure> {
        let theirs = match said {
            FromCreator::Welcome { pake } => hex::parse(&pake).ok_or(Failure::Garbled)?,
            FromCreator::Denied { why } => return Err(why.into()),
            FromCreator::Accepted { .. } => return Err(Failure::Garbled),
        };
        let ours = self.half.message;
        let shared = self.half.state.finish(&theirs);
        let shared = shared.map_err(|_| Failure::Garbled)?;
        let secret = Secret::new(shared, channel, &ours, &theirs);
        let proof = FromJoiner::Proof {
            mac: hex::shown(&secret.proof(Side::Joiner)),
            request: self.request,
        };
        Ok((Proven { secret }, proof))
    }
}

impl Proven {
    /// The pair that this is a member of now, and the name of the other box.
    ///
    /// # Errors
    /// If the other side says no, or does not know the code itself.
    pub(super) fn answered(&self, said: FromCreator) -> Result<(Pair, String), Failure> {
        match said {
            FromCreator::Accepted {
                mac,
                group,
                key,
                node,
            } => {
                let mac = hex::parse(&mac).ok_or(Failure::Garbled)?;
                if !self.secret.is_proof(Side::Creator, &mac) {
                    return Err(Failure::Impostor);
                }
                let key = hex::parse_array(&key).ok_or(Failure::Garbled)?;
                Ok((Pair { group, key }, node))
            }
            FromCreator::Denied { why } => Err(why.into()),
            FromCreator::Welcome { .. } => Err(Failure::Garbled),
        }
    }
}
