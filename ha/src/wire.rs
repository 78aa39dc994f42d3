//! Authenticated datagrams: heartbeats, their acknowledgements and the register's messages.
//!
//! ```text
//!  0  magic "TWHA"   4  version  6  key id  7  kind
//!  8  group (16)     24 source, destination, link, 0
//! 28  source incarnation (16)   44 source boot (16)   60 destination incarnation, echoed (16)
//! 76  sequence on this path (8) 84 stamp (8)          92 echo of the latest stamp heard (8)
//! 100 body ...                  HMAC-SHA256 of everything before (32)
//! ```
//!
//! All numbers are little-endian. `stamp` is the sender's boot clock; a datagram counts as
//! *live* only if it echoes this process's incarnation (see [`crate::path`]).

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::codec::{Malformed, Reader, Writer};
use crate::types::{
    Ballot, BootId, Config, DiskInstance, Epoch, GroupId, Incarnation, LinkId, NodeId, Time,
    VoterInstance,
};

/// No datagram is longer, so that none is ever fragmented.
pub const DATAGRAM_MAX_BYTES: usize = 1400;

const MAGIC: u32 = u32::from_le_bytes(*b"TWHA");
const VERSION: u16 = 1;
const KEY_ID: u8 = 1;
const TAG_LEN: usize = 32;
const HEADER_LEN: usize = 100;

/// Who says it, to whom, and proof that it is not a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The group.
    pub group: GroupId,
    /// The sender.
    pub source: NodeId,
    /// The receiver.
    pub destination: NodeId,
    /// The sender's name of the link.
    pub link: LinkId,
    /// The sender's process.
    pub incarnation: Incarnation,
    /// The sender's kernel boot.
    pub boot: BootId,
    /// The receiver's process as the sender knows it; 0 is "not yet".
    pub destination_incarnation: Incarnation,
    /// Position on this path.
    pub seq: u64,
    /// The sender's boot clock when it was sent.
    pub stamp: Time,
    /// The latest `stamp` the sender had from the receiver; 0 is "none".
    pub echo: Time,
}

/// What a voter shows of its record whenever its vote may count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoterMark {
    /// Which life of the record.
    pub instance: VoterInstance,
    /// Its position (H13).
    pub record_seq: u64,
    /// The `stamp` of the datagram that is answered.
    pub stamp: Time,
}

/// Config known chosen, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its ballot.
    pub ballot: Ballot,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its primary.
    pub primary: Option<(NodeId, Incarnation)>,
}

impl Summary {
    /// The short form of `config` at `ballot`.
    #[must_use]
    pub const fn of(ballot: Ballot, config: &Config) -> Self {
        Self {
            ballot,
            epoch: config.epoch,
            primary: config.primary,
        }
    }
}

/// Sent every interval on every link, in every role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Life and position of the sender's record.
    pub instance: VoterInstance,
    /// See [`VoterMark::record_seq`].
    pub record_seq: u64,
    /// Whether the sender has no record of the group (law R10).
    pub blank: bool,
    /// Whether the sender holds the primary's office.
    pub primary: bool,
    /// The highest config the sender knows chosen.
    pub chosen: Option<Summary>,
    /// The lease asked for; 0 is none.
    pub lease_ms: u32,
    /// Program version.
    pub software: u32,
    /// Generation of the cluster configuration.
    pub config_generation: u64,
    /// Hash of the cluster configuration.
    pub config_hash: u64,
    /// Whether the sender's copy of the data could serve.
    pub attached: bool,
    /// Which copy that is.
    pub disk: Option<DiskInstance>,
    /// The highest epoch the sender sealed (law R3).
    pub seal: Epoch,
    /// Highest `record_seq` the sender saw of other voters (H13).
    pub seen: Vec<(VoterInstance, u64)>,
}

/// What a voter answers to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The lease of that length is promised (law R5).
    Granted {
        /// Its length, as asked for.
        lease_ms: u32,
    },
    /// Heard; no lease was asked for, or the sender did not echo a recent answer (H19).
    Heard,
    /// The highest promise belongs to someone else.
    Foreign {
        /// That promise.
        promised: Ballot,
    },
    /// The voter's record is older than what the sender knows chosen (H24).
    Behind,
    /// Not the primary of the voter's accepted config, or the voter is a candidate itself.
    Refused,
    /// The voter has no record of the group, or is not listed (law R10).
    NoVote,
}

/// Answer to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The voter's record; `stamp` is the heartbeat's.
    pub mark: VoterMark,
    /// What the voter accepted last.
    pub accepted: Option<Summary>,
    /// What it says to the sender's office.
    pub verdict: Verdict,
}

/// An Accept, borrowed: ballot, value, `next` and `admits`.
#[derive(Clone, Copy, Debug)]
pub struct Proposed<'a> {
    /// The ballot.
    pub ballot: Ballot,
    /// Its value.
    pub config: &'a Config,
    /// The ballot to promise along with it.
    pub next: Option<Ballot>,
    /// The voter's life that it admits.
    pub admits: Option<VoterInstance>,
}

/// Why a voter refused a ballot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A higher ballot was promised.
    Promised(Ballot),
    /// A lease was promised to another holder, for that many milliseconds more.
    Held(u32),
    /// Unknown group, foreign instance or removed voter: no vote (law R10).
    NoVote,
}

/// The body of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// "This is my incarnation": answer to a datagram that was not live.
    Hello,
    /// See [`Heartbeat`].
    Heartbeat(Heartbeat),
    /// See [`Ack`].
    Ack(Ack),
    /// Phase 1 of a ballot.
    Prepare(Ballot),
    /// The ballot is promised; with the value accepted last.
    Promise {
        /// The ballot promised.
        ballot: Ballot,
        /// The voter's record.
        mark: VoterMark,
        /// What it accepted last.
        accepted: (Ballot, Box<Config>),
    },
    /// Phase 2 of a ballot. `next` asks the voter to promise that ballot right after accepting,
    /// so that the same proposer's next change takes one round trip.
    Accept {
        /// The ballot.
        ballot: Ballot,
        /// Its value.
        config: Box<Config>,
        /// The ballot to promise along with it.
        next: Option<Ballot>,
        /// The voter's life that this ballot admits: it may make its record now (law R10).
        admits: Option<VoterInstance>,
    },
    /// The value is accepted, `next` is promised.
    Accepted {
        /// The ballot accepted.
        ballot: Ballot,
        /// The voter's record.
        mark: VoterMark,
    },
    /// The ballot is refused.
    Nack {
        /// The ballot refused.
        ballot: Ballot,
        /// Why.
        why: Refusal,
    },
    /// That value is chosen.
    Learn {
        /// Its ballot.
        ballot: Ballot,
        /// The value.
        config: Box<Config>,
    },
}

/// Why a datagram was dropped; counted, never answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Too short, too long or of another protocol.
    #[error("not a datagram of this protocol")]
    Foreign,
    /// Another version.
    #[error("protocol version {0} is not understood")]
    Version(u16),
    /// The tag does not fit: another key, or a forgery.
    #[error("authentication failed")]
    Tag,
    /// The body is not what its kind says.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// The group a datagram claims to be of, before anything is checked: it selects the key.
#[must_use]
pub fn claimed_group(bytes: &[u8]) -> Option<GroupId> {
    let field = bytes.get(8..24)?;
    Some(GroupId(u128::from_le_bytes(
        field.try_into().expect("16 bytes"),
    )))
}

/// The bytes of a datagram, with its tag.
#[must_use]
pub fn encode(key: &[u8; 32], header: &Header, message: &Message) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(256));
    out.u32(MAGIC);
    out.u16(VERSION);
    out.u8(KEY_ID);
    out.u8(kind(message));
    out.u128(header.group.0);
    out.u8(header.source.0);
    out.u8(header.destination.0);
    out.u8(header.link.0);
    out.u8(0);
    out.u128(header.incarnation.0);
    out.u128(header.boot.0);
    out.u128(header.destination_incarnation.0);
    out.u64(header.seq);
    out.u64(header.stamp.0);
    out.u64(header.echo.0);
    assert_eq!(out.0.len(), HEADER_LEN, "the header is as drawn above");
    body(&mut out, message);
    let tag = mac(key, &out.0).finalize().into_bytes();
    out.0.extend_from_slice(&tag);
    assert!(out.0.len() <= DATAGRAM_MAX_BYTES, "bodies are bounded");
    out.0
}

/// Checks and takes apart a datagram.
///
/// # Errors
/// Anything that is not exactly what [`encode`] makes under the same key.
pub fn decode(key: &[u8; 32], bytes: &[u8]) -> Result<(Header, Message), WireError> {
    if bytes.len() < HEADER_LEN + TAG_LEN || bytes.len() > DATAGRAM_MAX_BYTES {
        return Err(WireError::Foreign);
    }
    let (signed, tag) = bytes.split_at(bytes.len() - TAG_LEN);
    let mut from = Reader(signed);
    if from.u32()? != MAGIC {
        return Err(WireError::Foreign);
    }
    let version = from.u16()?;
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    if from.u8()? != KEY_ID || mac(key, signed).verify_slice(tag).is_err() {
        return Err(WireError::Tag);
    }
    let kind = from.u8()?;
    let group = GroupId(from.u128()?);
    let (source, destination, link) = (from.node()?, from.node()?, LinkId(from.u8()?));
    if from.u8()? != 0 {
        return Err(Malformed.into());
    }
    let header = Header {
        group,
        source,
        destination,
        link,
        incarnation: Incarnation(from.u128()?),
        boot: BootId(from.u128()?),
        destination_incarnation: Incarnation(from.u128()?),
        seq: from.u64()?,
        stamp: Time(from.u64()?),
        echo: Time(from.u64()?),
    };
    let message = message(kind, &mut from)?;
    from.end()?;
    Ok((header, message))
}

fn mac(key: &[u8; 32], bytes: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key length");
    mac.update(bytes);
    mac
}

const fn kind(message: &Message) -> u8 {
    match message {
        Message::Hello => 1,
        Message::Heartbeat(_) => 2,
        Message::Ack(_) => 3,
        Message::Prepare(_) => 4,
        Message::Promise { .. } => 5,
        Message::Accept { .. } => 6,
        Message::Accepted { .. } => 7,
        Message::Nack { .. } => 8,
        Message::Learn { .. } => 9,
    }
}

fn body(out: &mut Writer, message: &Message) {
    match message {
        Message::Hello => {}
        Message::Heartbeat(heartbeat) => put_heartbeat(out, heartbeat),
        Message::Ack(ack) => {
            put_mark(out, &ack.mark);
            out.option(ack.accepted.as_ref(), put_summary);
            put_verdict(out, ack.verdict);
        }
        Message::Prepare(ballot) => out.ballot(ballot),
        Message::Promise {
            ballot,
            mark,
            accepted,
        } => {
            out.ballot(ballot);
            put_mark(out, mark);
            out.ballot(&accepted.0);
            out.config(&accepted.1);
        }
        Message::Accept {
            ballot,
            config,
            next,
            admits,
        } => {
            out.ballot(ballot);
            out.option(next.as_ref(), Writer::ballot);
            out.option(admits.as_ref(), |out, instance| out.u128(instance.0));
            out.config(config);
        }
        Message::Accepted { ballot, mark } => {
            out.ballot(ballot);
            put_mark(out, mark);
        }
        Message::Nack { ballot, why } => {
            out.ballot(ballot);
            match why {
                Refusal::Promised(promised) => {
                    out.u8(0);
                    out.ballot(promised);
                }
                Refusal::Held(ms) => {
                    out.u8(1);
                    out.u32(*ms);
                }
                Refusal::NoVote => out.u8(2),
            }
        }
        Message::Learn { ballot, config } => {
            out.ballot(ballot);
            out.config(config);
        }
    }
}

fn message(kind: u8, from: &mut Reader<'_>) -> Result<Message, Malformed> {
    Ok(match kind {
        1 => Message::Hello,
        2 => Message::Heartbeat(heartbeat(from)?),
        3 => Message::Ack(Ack {
            mark: mark(from)?,
            accepted: from.option(summary)?,
            verdict: verdict(from)?,
        }),
        4 => Message::Prepare(from.ballot()?),
        5 => Message::Promise {
            ballot: from.ballot()?,
            mark: mark(from)?,
            accepted: (from.ballot()?, Box::new(from.config()?)),
        },
        6 => Message::Accept {
            ballot: from.ballot()?,
            next: from.option(Reader::ballot)?,
            admits: from.option(|from| from.u128().map(VoterInstance))?,
            config: Box::new(from.config()?),
        },
        7 => Message::Accepted {
            ballot: from.ballot()?,
            mark: mark(from)?,
        },
        8 => {
            let ballot = from.ballot()?;
            let why = match from.u8()? {
                0 => Refusal::Promised(from.ballot()?),
                1 => Refusal::Held(from.u32()?),
                2 => Refusal::NoVote,
                _ => return Err(Malformed),
            };
            Message::Nack { ballot, why }
        }
        9 => Message::Learn {
            ballot: from.ballot()?,
            config: Box::new(from.config()?),
        },
        _ => return Err(Malformed),
    })
}

fn put_mark(out: &mut Writer, mark: &VoterMark) {
    out.u128(mark.instance.0);
    out.u64(mark.record_seq);
    out.u64(mark.stamp.0);
}

fn mark(from: &mut Reader<'_>) -> Result<VoterMark, Malformed> {
    Ok(VoterMark {
        instance: VoterInstance(from.u128()?),
        record_seq: from.u64()?,
        stamp: Time(from.u64()?),
    })
}

fn put_summary(out: &mut Writer, summary: &Summary) {
    out.ballot(&summary.ballot);
    out.u64(summary.epoch.0);
    out.option(summary.primary.as_ref(), |out, primary| {
        out.u8(primary.0.0);
        out.u128(primary.1.0);
    });
}

fn summary(from: &mut Reader<'_>) -> Result<Summary, Malformed> {
    Ok(Summary {
        ballot: from.ballot()?,
        epoch: Epoch(from.u64()?),
        primary: from.option(|from| Ok((from.node()?, Incarnation(from.u128()?))))?,
    })
}

fn put_verdict(out: &mut Writer, verdict: Verdict) {
    match verdict {
        Verdict::Granted { lease_ms } => {
            out.u8(0);
            out.u32(lease_ms);
        }
        Verdict::Heard => out.u8(1),
        Verdict::Foreign { promised } => {
            out.u8(2);
            out.ballot(&promised);
        }
        Verdict::Behind => out.u8(3),
        Verdict::Refused => out.u8(4),
        Verdict::NoVote => out.u8(5),
    }
}

fn verdict(from: &mut Reader<'_>) -> Result<Verdict, Malformed> {
    Ok(match from.u8()? {
        0 => Verdict::Granted {
            lease_ms: from.u32()?,
        },
        1 => Verdict::Heard,
        2 => Verdict::Foreign {
            promised: from.ballot()?,
        },
        3 => Verdict::Behind,
        4 => Verdict::Refused,
        5 => Verdict::NoVote,
        _ => return Err(Malformed),
    })
}

fn put_heartbeat(out: &mut Writer, heartbeat: &Heartbeat) {
    out.u128(heartbeat.instance.0);
    out.u64(heartbeat.record_seq);
    let flags = [heartbeat.blank, heartbeat.primary, heartbeat.attached];
    for flag in flags {
        out.u8(u8::from(flag));
    }
    out.option(heartbeat.disk.as_ref(), |out, disk| out.u128(disk.0));
    out.option(heartbeat.chosen.as_ref(), put_summary);
    out.u32(heartbeat.lease_ms);
    out.u32(heartbeat.software);
    out.u64(heartbeat.config_generation);
    out.u64(heartbeat.config_hash);
    out.u64(heartbeat.seal.0);
    out.list(&heartbeat.seen, |out, seen| {
        out.u128(seen.0.0);
        out.u64(seen.1);
    });
}

fn heartbeat(from: &mut Reader<'_>) -> Result<Heartbeat, Malformed> {
    let instance = VoterInstance(from.u128()?);
    let record_seq = from.u64()?;
    let (blank, primary, attached) = (from.flag()?, from.flag()?, from.flag()?);
    Ok(Heartbeat {
        instance,
        record_seq,
        blank,
        primary,
        attached,
        disk: from.option(|from| Ok(DiskInstance(from.u128()?)))?,
        chosen: from.option(summary)?,
        lease_ms: from.u32()?,
        software: from.u32()?,
        config_generation: from.u64()?,
        config_hash: from.u64()?,
        seal: Epoch(from.u64()?),
        seen: from.list(|from| Ok((VoterInstance(from.u128()?), from.u64()?)))?,
    })
}

#[cfg(test)]
pub(crate) mod tests;
