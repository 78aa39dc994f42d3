//! The durable record of a voter, and its bytes on disk.

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
}

/// A voter's part of one register.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    }
}
