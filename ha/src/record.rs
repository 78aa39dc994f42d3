//! The durable record of a voter, and its bytes on disk.

use crate::codec::{Malformed, Reader, Writer};
use crate::types::{
    Ballot, Config, DiskInstance, Epoch, GroupId, Members, NodeId, Policy, Reason, Timing,
    TimingError, Voter, VoterInstance,
};

/// Everything a voter must remember across a restart. Small, and always replaced as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which life of this record it is; a new record has a new, random one (law R10).
    pub instance: VoterInstance,
    /// Raised with every change of `group`; a voter that shows a lower one was rolled back
    /// (H13).
    pub record_seq: u64,
    /// The register of the group; none in a blank voter, which has no vote.
    pub group: Option<GroupRecord>,
    /// Highest `record_seq` seen of each other voter's instance (H13). Not counted by this
    /// record's own `record_seq`.
    pub seen: Vec<(VoterInstance, u64)>,
    /// This box's copy of the data and the generation of its metadata, as last heard of: what is
    /// found at the next start must not be older (law D7). None for a witness.
    pub copy: Option<(DiskInstance, u64)>,
}

/// A voter's part of one register.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupRecord {
    /// The group.
    pub group: GroupId,
    /// No ballot below this one is promised or accepted any more.
    pub promised: Ballot,
    /// The value accepted last, with its ballot.
    pub accepted: (Ballot, Config),
    /// Ballot counters up to this one may have been used by this proposer.
    pub counter: u64,
    /// Largest lease ever granted; waited out after a restart (law R5, H16).
    pub largest_lease_ms: u32,
    /// Frames of epochs up to this one are refused for ever (law R3).
    pub seal: Epoch,
}

/// Why a group cannot be made with these settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The times do not fit together.
    #[error(transparent)]
    Timing(#[from] TimingError),
    /// The policy is not built.
    #[error(
        "policy {0:?} is not available in this version; use policy \"witness\" and pair a witness"
    )]
    Policy(Policy),
}

/// The record of the first box of a new group: it is the only voter, S = {me}, epoch 1, no
/// primary.
///
/// # Errors
/// Refuses times that do not fit together and policies without a witness.
pub fn genesis(
    group: GroupId,
    me: NodeId,
    instances: (VoterInstance, DiskInstance),
    timing: Timing,
    policy: Policy,
) -> Result<Record, ConfigError> {
    timing.validate()?;
    if policy != Policy::Witness {
        return Err(ConfigError::Policy(policy));
    }
    let (instance, disk) = instances;
    let ballot = Ballot {
        counter: 1,
        node: me,
        instance,
    };
    let config = Config {
        group,
        epoch: Epoch(1),
        primary: None,
        in_sync: Members::one(me),
        voters: vec![Voter {
            node: me,
            instance,
            weight: 1,
        }],
        policy,
        timing,
        members: vec![(me, disk)],
        resync_base_epoch: Vec::new(),
        config_generation: 0,
        reason: Reason::Genesis,
    };
    let group = GroupRecord {
        group,
        promised: ballot,
        accepted: (ballot, config),
        counter: 1,
        largest_lease_ms: timing.lease_ms,
        seal: Epoch::ZERO,
    };
    Ok(Record {
        instance,
        record_seq: 1,
        group: Some(group),
        seen: Vec::new(),
        copy: None,
    })
}

/// The record of a voter that belongs to no group yet: it has no vote until a commit admits
/// exactly this instance (law R10).
#[must_use]
pub const fn blank(instance: VoterInstance) -> Record {
    Record {
        instance,
        record_seq: 0,
        group: None,
        seen: Vec::new(),
        copy: None,
    }
}

const MAGIC: u32 = u32::from_le_bytes(*b"TWRC");
const VERSION: u32 = 2;

/// Why stored bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// No record was ever written here, or it is of another program.
    #[error("not a voter record")]
    Foreign,
    /// Written by another version.
    #[error("voter record has version {0}, which this version does not read")]
    Version(u32),
    /// The check sum does not fit, or the content is cut off.
    #[error("voter record is damaged")]
    Damaged,
}

impl From<Malformed> for RecordError {
    fn from(_: Malformed) -> Self {
        Self::Damaged
    }
}

impl Record {
    /// The bytes to store: magic, version, length, content, CRC32C of all before.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut content = Writer::default();
        content.u128(self.instance.0);
        content.u64(self.record_seq);
        content.option(self.group.as_ref(), |out, group| {
            out.u128(group.group.0);
            out.ballot(&group.promised);
            out.ballot(&group.accepted.0);
            out.config(&group.accepted.1);
            out.u64(group.counter);
            out.u32(group.largest_lease_ms);
            out.u64(group.seal.0);
        });
        content.list(&self.seen, |out, seen| {
            out.u128(seen.0.0);
            out.u64(seen.1);
        });
        content.option(self.copy.as_ref(), |out, copy| {
            out.u128(copy.0.0);
            out.u64(copy.1);
        });
        let mut out = Writer::default();
        out.u32(MAGIC);
        out.u32(VERSION);
        out.u32(u32::try_from(content.0.len()).expect("bounded lists"));
        out.0.extend_from_slice(&content.0);
        let check = crc32c::crc32c(&out.0);
        out.u32(check);
        out.0
    }

    /// The record in `bytes`; what follows it is ignored.
    ///
    /// # Errors
    /// Bytes that [`Record::encode`] did not make, or that changed since.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut head = Reader(bytes);
        if head.u32().map_err(|_| RecordError::Foreign)? != MAGIC {
            return Err(RecordError::Foreign);
        }
        let version = head.u32()?;
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let len = usize::try_from(head.u32()?).map_err(|_| RecordError::Damaged)?;
        let end = len.checked_add(12).ok_or(RecordError::Damaged)?;
        let (signed, tail) = bytes.split_at_checked(end).ok_or(RecordError::Damaged)?;
        if Reader(tail).u32()? != crc32c::crc32c(signed) {
            return Err(RecordError::Damaged);
        }
        let mut from = Reader(&signed[12..]);
        let record = Self {
            instance: VoterInstance(from.u128()?),
            record_seq: from.u64()?,
            group: from.option(|from| {
                Ok(GroupRecord {
                    group: GroupId(from.u128()?),
                    promised: from.ballot()?,
                    accepted: (from.ballot()?, from.config()?),
                    counter: from.u64()?,
                    largest_lease_ms: from.u32()?,
                    seal: Epoch(from.u64()?),
                })
            })?,
            seen: from.list(|from| Ok((VoterInstance(from.u128()?), from.u64()?)))?,
            copy: from.option(|from| Ok((DiskInstance(from.u128()?), from.u64()?)))?,
        };
        from.end()?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tests::{config, hex};

    fn sample() -> Record {
        let ids = (VoterInstance(7), DiskInstance(8));
        let mut record = genesis(
            GroupId(1),
            NodeId(1),
            ids,
            Timing::default(),
            Policy::Witness,
        )
        .unwrap();
        record.seen.push((VoterInstance(9), 3));
        record.copy = Some((DiskInstance(8), 12));
        record
    }

    #[test]
    fn a_record_survives_its_bytes() {
        for record in [sample(), blank(VoterInstance(5))] {
            let mut bytes = record.encode();
            bytes.resize(4096, 0);
            assert_eq!(Record::decode(&bytes), Ok(record));
        }
    }

    #[test]
    fn a_record_keeps_its_bytes() {
        let ballot = |counter, node, instance| Ballot {
            counter,
            node: NodeId(node),
            instance: VoterInstance(instance),
        };
        let record = Record {
            instance: VoterInstance(0x21),
            record_seq: 7,
            group: Some(GroupRecord {
                group: GroupId(1),
                promised: ballot(9, 2, 0x22),
                accepted: (ballot(0x0102_0304_0506_0708, 1, 0x21), config()),
                counter: 40,
                largest_lease_ms: 700,
                seal: Epoch(3),
            }),
            seen: vec![(VoterInstance(0x23), 12)],
            copy: Some((DiskInstance(0x31), 13)),
        };
        let bytes = "\
            54575243020000003201000021000000000000000000000000000000070000000000000001010000\
            00000000000000000000000000090000000000000002220000000000000000000000000000000807\
            06050403020101210000000000000000000000000000000100000000000000000000000000000002\
            00000000000000010111000000000000000000000000000000020102020121000000000000000000\
            000000000000010323000000000000000000000000000000010000c800000005000000bc020000e8\
            03000014000000f40100000101310000000000000000000000000000000102050000000000000006\
            00000000000000012800000000000000bc0200000300000000000000012300000000000000000000\
            00000000000c0000000000000001310000000000000000000000000000000d00000000000000dbec\
            6972";
        assert_eq!(hex(&record.encode()), bytes);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = sample().encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let bytes = sample().encode();
        for len in 0..bytes.len() {
            assert!(Record::decode(&bytes[..len]).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn policies_without_a_witness_are_refused_in_words() {
        let ids = (VoterInstance(7), DiskInstance(8));
        for policy in [Policy::Fence, Policy::Manual, Policy::Preferred(NodeId(1))] {
            let error = genesis(GroupId(1), NodeId(1), ids, Timing::default(), policy);
            assert!(error.unwrap_err().to_string().contains("pair a witness"));
        }
    }
}
