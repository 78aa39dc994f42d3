//! Who is at the other end, and what its copy is.
//!
//! ```text
//! primary                         secondary
//!   Hello {who, nonce}      ──▶
//!                           ◀──   Welcome {who, nonce, mac("secondary", both)}
//!   Proof {mac("primary", both)} ──▶   from here on both trust the session
//! ```
//!
//! A mac covers both identities, both nonces, the epoch, the session's number and the channel that
//! carries it, so that none of it can be used again in another session or on another channel.

use super::WireError;
use crate::mutants::mutant;
use crate::types::{BootId, DiskInstance, Epoch, GroupId, Incarnation, NodeId, VolumeNumber};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zerocopy::byteorder::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a nonce or a mac.
pub const NONCE_LEN: usize = 32;

/// Who a box is; the body of `Hello`, and of `Welcome` before its mac.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The group.
    pub group: GroupId,
    /// The box.
    pub node: NodeId,
    /// Its process.
    pub incarnation: Incarnation,
    /// Its kernel boot.
    pub boot: BootId,
    /// Never used before.
    pub nonce: [u8; NONCE_LEN],
}

impl Hello {
    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_LEN] {
        let raw = RawHello {
            group: U128::new(self.group.0),
            incarnation: U128::new(self.incarnation.0),
            boot: U128::new(self.boot.0),
            nonce: self.nonce,
            node: self.node.0,
            reserved: [0; 15],
        };
        let mut bytes = [0; HELLO_LEN];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Another length, or reserved bytes that are not zero.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let raw = RawHello::ref_from_bytes(bytes).map_err(|_| WireError::Field("payload_len"))?;
        if raw.reserved != [0; 15] {
            return Err(WireError::Field("reserved"));
        }
        Ok(Self {
            group: GroupId(raw.group.get()),
            node: NodeId(raw.node),
            incarnation: Incarnation(raw.incarnation.get()),
            boot: BootId(raw.boot.get()),
            nonce: raw.nonce,
        })
    }
}

/// Reads a `Welcome`: who it is, and its mac.
///
/// # Errors
/// As for [`Hello::parse`].
pub fn parse_welcome(bytes: &[u8]) -> Result<(Hello, [u8; NONCE_LEN]), WireError> {
    if bytes.len() != HELLO_LEN + NONCE_LEN {
        return Err(WireError::Field("payload_len"));
    }
    let (who, mac) = bytes.split_at(HELLO_LEN);
    Ok((
        Hello::parse(who)?,
        mac.try_into().expect("split at its length"),
    ))
}

/// Which side a mac speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who dialled.
    Primary,
    /// Who listened.
    Secondary,
}

/// What names the channel that carries a session: a secret of both its ends that nobody between
/// them can have made the same on two channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binding(pub [u8; NONCE_LEN]);

impl Binding {
    /// A channel without a name: one that is not encrypted.
    pub const NONE: Self = Self([0; NONCE_LEN]);
}

/// What both sides have seen of a session when they prove the key.
#[derive(Clone, Copy, Debug)]
pub struct Transcript {
    /// The primary.
    pub primary: Hello,
    /// The secondary.
    pub secondary: Hello,
    /// The primary's epoch.
    pub epoch: Epoch,
    /// The session's number.
    pub session: u32,
    /// The channel.
    pub binding: Binding,
}

impl Transcript {
    /// The proof of `side` under the group's key.
    #[must_use]
    pub fn mac(&self, key: &[u8; 32], side: Side) -> [u8; NONCE_LEN] {
        self.hmac(key, side).finalize().into_bytes().into()
    }

    /// Compares a proof in constant time.
    ///
    /// # Errors
    /// [`WireError::Authentication`] if it is not the one of `side`.
    pub fn verify(&self, key: &[u8; 32], side: Side, mac: &[u8]) -> Result<(), WireError> {
        self.hmac(key, side)
            .verify_slice(mac)
            .map_err(|_| WireError::Authentication)
    }

    fn hmac(&self, key: &[u8; 32], side: Side) -> Hmac<Sha256> {
        let mut hmac = Hmac::<Sha256>::new_from_slice(key).expect("any length of key will do");
        hmac.update(match side {
            Side::Primary => b"twinsan data 2 primary",
            Side::Secondary => b"twinsan data 2 secondary",
        });
        hmac.update(&self.primary.encode());
        hmac.update(&self.secondary.encode());
        hmac.update(&self.epoch.0.to_le_bytes());
        hmac.update(&self.session.to_le_bytes());
        if !mutant!(UnboundProof) {
            hmac.update(&self.binding.0);
        }
        hmac
    }
}

/// The secondary's copy, after the primary's volume table was settled on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Its identity.
    pub disk: DiskInstance,
    /// The last epoch in which it was in sync or primary.
    pub data_epoch: Epoch,
    /// It refuses epochs up to this one.
    pub sealed: Epoch,
    /// Its volumes.
    pub volumes: Vec<StateVolume>,
}

/// One volume of the secondary's copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateVolume {
    /// Its number.
    pub number: VolumeNumber,
    /// What it holds was never in sync with anybody.
    pub fresh: bool,
    /// Its data area is proven to read zero (law D6).
    pub zero: bool,
}

impl State {
    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let head = RawState {
            disk: U128::new(self.disk.0),
            data_epoch: U64::new(self.data_epoch.0),
            sealed: U64::new(self.sealed.0),
        };
        let mut bytes = head.as_bytes().to_vec();
        for volume in &self.volumes {
            let raw = RawStateVolume {
                number: U32::new(volume.number.0),
                flags: u8::from(volume.fresh) | u8::from(volume.zero) << 1,
                reserved: [0; 3],
            };
            bytes.extend_from_slice(raw.as_bytes());
        }
        bytes.into()
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Another length, more volumes than a group has, volumes out of order, unknown flags.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let (head, rest) =
            RawState::ref_from_prefix(bytes).map_err(|_| WireError::Field("payload_len"))?;
        let raw = <[RawStateVolume]>::ref_from_bytes(rest);
        let raw = raw.map_err(|_| WireError::Field("payload_len"))?;
        if raw.len() > super::volumes::ENTRIES_MAX {
            return Err(WireError::Field("volumes"));
        }
        if !raw.is_sorted_by(|a, b| a.number.get() < b.number.get()) {
            return Err(WireError::Field("volumes"));
        }
        let mut volumes = Vec::with_capacity(raw.len());
        for volume in raw {
            if volume.flags > 3 || volume.reserved != [0; 3] {
                return Err(WireError::Field("flags"));
            }
            volumes.push(StateVolume {
                number: VolumeNumber(volume.number.get()),
                fresh: volume.flags & 1 != 0,
                zero: volume.flags & 2 != 0,
            });
        }
        Ok(Self {
            disk: DiskInstance(head.disk.get()),
            data_epoch: Epoch(head.data_epoch.get()),
            sealed: Epoch(head.sealed.get()),
            volumes,
        })
    }
}

/// Bytes of a `Hello`.
pub const HELLO_LEN: usize = 96;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHello {
    group: U128,
    incarnation: U128,
    boot: U128,
    nonce: [u8; NONCE_LEN],
    node: u8,
    reserved: [u8; 15],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawState {
    disk: U128,
    data_epoch: U64,
    sealed: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawStateVolume {
    number: U32,
    flags: u8,
    reserved: [u8; 3],
}

const _: () = assert!(size_of::<RawHello>() == HELLO_LEN);
const _: () = assert!(size_of::<RawState>() == 32);
const _: () = assert!(size_of::<RawStateVolume>() == 8);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn who(node: u8) -> Hello {
        Hello {
            group: GroupId(1),
            node: NodeId(node),
            incarnation: Incarnation(20 + u128::from(node)),
            boot: BootId(3),
            nonce: [node; NONCE_LEN],
        }
    }

    fn transcript() -> Transcript {
        Transcript {
            primary: who(1),
            secondary: who(2),
            epoch: Epoch(5),
            session: 6,
            binding: Binding([7; NONCE_LEN]),
        }
    }

    #[test]
    fn a_hello_has_these_bytes() {
        let bytes = who(2).encode();
        let mut expected = [0; HELLO_LEN];
        (expected[0], expected[16], expected[32]) = (1, 22, 3);
        expected[48..80].fill(2);
        expected[80] = 2;
        assert_eq!(bytes[..], expected[..]);
        assert_eq!(Hello::parse(&bytes), Ok(who(2)));
    }

    #[test]
    fn a_mac_stands_for_one_side_of_one_session() {
        let key = [9; 32];
        let mac = transcript().mac(&key, Side::Primary);
        assert_eq!(transcript().verify(&key, Side::Primary, &mac), Ok(()));
        let refused = Err(WireError::Authentication);
        assert_eq!(transcript().verify(&key, Side::Secondary, &mac), refused);
        assert_eq!(transcript().verify(&[8; 32], Side::Primary, &mac), refused);
        assert_eq!(transcript().verify(&key, Side::Primary, &mac[1..]), refused);
        let other = Transcript {
            session: 7,
            ..transcript()
        };
        assert_eq!(other.verify(&key, Side::Primary, &mac), refused);
        let other = Transcript {
            epoch: Epoch(6),
            ..transcript()
        };
        assert_eq!(other.verify(&key, Side::Primary, &mac), refused);
        let other = Transcript {
            binding: Binding::NONE,
            ..transcript()
        };
        assert_eq!(other.verify(&key, Side::Primary, &mac), refused);
        let mut other = transcript();
        other.secondary.nonce[31] ^= 1;
        assert_eq!(other.verify(&key, Side::Primary, &mac), refused);
    }

    #[test]
    fn a_state_survives_the_wire() {
        let state = State {
            disk: DiskInstance(4),
            data_epoch: Epoch(5),
            sealed: Epoch(6),
            volumes: vec![
                StateVolume {
                    number: VolumeNumber(0),
                    fresh: true,
                    zero: false,
                },
                StateVolume {
                    number: VolumeNumber(7),
                    fresh: true,
                    zero: true,
                },
            ],
        };
        let bytes = state.encode();
        assert_eq!(
            bytes[32..],
            [0, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0]
        );
        assert_eq!(State::parse(&bytes), Ok(state));
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Hello::parse(&bytes);
            let _ = parse_welcome(&bytes);
            if let Ok(state) = State::parse(&bytes) {
                prop_assert_eq!(state.encode(), bytes);
            }
        }
    }
}
