//! Little-endian bytes of the types that travel in datagrams and lie in records.
//!
//! Nothing past this module checks a length again: a [`Reader`] yields whole values or
//! [`Malformed`].

use crate::types::{
    Ballot, Config, DiskInstance, Epoch, GroupId, Incarnation, Members, NodeId, Policy, Reason,
    Timing, Voter, VoterInstance,
};

/// The bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed or cut-off data")]
pub struct Malformed;

/// No list in a config is longer; three participants need three.
pub const LIST_MAX: usize = 8;

/// Appends values to a buffer.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u128(&mut self, value: u128) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn list<T>(&mut self, items: &[T], mut each: impl FnMut(&mut Self, &T)) {
        assert!(
            items.len() <= LIST_MAX,
            "lists are bounded where they are made"
        );
        self.u8(u8::try_from(items.len()).expect("at most LIST_MAX"));
        for item in items {
            each(self, item);
        }
    }

    pub(crate) fn option<T>(&mut self, item: Option<&T>, each: impl FnOnce(&mut Self, &T)) {
        self.u8(u8::from(item.is_some()));
        if let Some(item) = item {
            each(self, item);
        }
    }

    pub(crate) fn ballot(&mut self, ballot: &Ballot) {
        self.u64(ballot.counter);
        self.u8(ballot.node.0);
        self.u128(ballot.instance.0);
    }

    fn voter(&mut self, voter: &Voter) {
        self.u8(voter.node.0);
        self.u128(voter.instance.0);
        self.u8(voter.weight);
    }

    fn timing(&mut self, timing: &Timing) {
        self.u32(timing.heartbeat_interval_ms);
        self.u32(timing.failover_heartbeats);
        self.u32(timing.lease_ms);
        self.u32(timing.eps_ppm);
        self.u32(timing.margin_ms);
        self.u32(timing.peer_loss_ms);
    }

    pub(crate) fn config(&mut self, config: &Config) {
        self.u128(config.group.0);
        self.u64(config.epoch.0);
        self.option(config.primary.as_ref(), |out, primary| {
            out.u8(primary.0.0);
            out.u128(primary.1.0);
        });
        let in_sync: Vec<NodeId> = config.in_sync.iter().collect();
        self.list(&in_sync, |out, node| out.u8(node.0));
        self.list(&config.voters, Self::voter);
        let (policy, preferred) = match config.policy {
            Policy::Witness => (0, 0),
            Policy::Fence => (1, 0),
            Policy::Preferred(node) => (2, node.0),
            Policy::Manual => (3, 0),
        };
        self.u8(policy);
        self.u8(preferred);
        self.timing(&config.timing);
        self.list(&config.members, |out, member| {
            out.u8(member.0.0);
            out.u128(member.1.0);
        });
        self.list(&config.resync_base_epoch, |out, base| {
            out.u8(base.0.0);
            out.u64(base.1.0);
        });
        self.u64(config.config_generation);
        self.u8(config.reason as u8);
    }
}

/// Takes values off a slice.
#[derive(Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.bytes::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.bytes().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.bytes().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.bytes().map(u64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self) -> Result<u128, Malformed> {
        self.bytes().map(u128::from_le_bytes)
    }

    pub(crate) fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    pub(crate) fn list<T>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = usize::from(self.u8()?);
        if count > LIST_MAX {
            return Err(Malformed);
        }
        (0..count).map(|_| each(self)).collect()
    }

    pub(crate) fn option<T>(
        &mut self,
        each: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        if self.flag()? {
            each(self).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Nothing may follow.
    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }

    pub(crate) fn node(&mut self) -> Result<NodeId, Malformed> {
        self.u8().map(NodeId)
    }

    pub(crate) fn ballot(&mut self) -> Result<Ballot, Malformed> {
        Ok(Ballot {
            counter: self.u64()?,
            node: self.node()?,
            instance: VoterInstance(self.u128()?),
        })
    }

    fn voter(&mut self) -> Result<Voter, Malformed> {
        Ok(Voter {
            node: self.node()?,
            instance: VoterInstance(self.u128()?),
            weight: self.u8()?,
        })
    }

    fn timing(&mut self) -> Result<Timing, Malformed> {
        let timing = Timing {
            heartbeat_interval_ms: self.u32()?,
            failover_heartbeats: self.u32()?,
            lease_ms: self.u32()?,
            eps_ppm: self.u32()?,
            margin_ms: self.u32()?,
            peer_loss_ms: self.u32()?,
        };
        timing.validate().map_err(|_| Malformed)?;
        Ok(timing)
    }

    fn policy(&mut self) -> Result<Policy, Malformed> {
        let (policy, node) = (self.u8()?, self.node()?);
        match policy {
            0 => Ok(Policy::Witness),
            1 => Ok(Policy::Fence),
            2 => Ok(Policy::Preferred(node)),
            3 => Ok(Policy::Manual),
            _ => Err(Malformed),
        }
    }

    fn reason(&mut self) -> Result<Reason, Malformed> {
        let code = usize::from(self.u8()?);
        REASONS.get(code).copied().ok_or(Malformed)
    }

    pub(crate) fn config(&mut self) -> Result<Config, Malformed> {
        let config = Config {
            group: GroupId(self.u128()?),
            epoch: Epoch(self.u64()?),
            primary: self.option(|from| Ok((from.node()?, Incarnation(from.u128()?))))?,
            in_sync: self.list(Self::node)?.into_iter().collect::<Members>(),
            voters: self.list(Self::voter)?,
            policy: self.policy()?,
            timing: self.timing()?,
            members: self.list(|from| Ok((from.node()?, DiskInstance(from.u128()?))))?,
            resync_base_epoch: self.list(|from| Ok((from.node()?, Epoch(from.u64()?))))?,
            config_generation: self.u64()?,
            reason: self.reason()?,
        };
        let distinct: Members = config.voters.iter().map(|voter| voter.node).collect();
        let one_vote_each = config.voters.iter().all(|voter| voter.weight == 1);
        if distinct.len() != config.voters.len() || distinct.is_empty() || !one_vote_each {
            return Err(Malformed);
        }
        Ok(config)
    }
}

/// By code on the wire; the codes are the order of the enum.
const REASONS: [Reason; 10] = [
    Reason::Genesis,
    Reason::Degrade,
    Reason::Promote,
    Reason::Readmit,
    Reason::Handover,
    Reason::HandoverCancelled,
    Reason::Admit,
    Reason::Remove,
    Reason::Detach,
    Reason::Force,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_keep_their_codes() {
        for (code, reason) in REASONS.into_iter().enumerate() {
            assert_eq!(reason as usize, code);
        }
    }
}
