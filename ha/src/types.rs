//! Identities, epochs, ballots, timing and the configuration that the register holds.

use core::fmt;

/// A point in time, in nanoseconds on the clock that the context names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The point `ms` milliseconds later; the end of time is a wall, not an overflow.
    #[must_use]
    pub const fn after_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(NS_PER_MS)))
    }

    /// The point `ns` nanoseconds later, saturating.
    #[must_use]
    pub const fn after_ns(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// Nanoseconds from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub const fn since_ns(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Nanoseconds in a millisecond.
pub const NS_PER_MS: u64 = 1_000_000;

/// Both clocks at one moment. A lease holder counts on `boot`, a voter on `mono`: each errs on
/// the safe side when the box was suspended (law R5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// `CLOCK_BOOTTIME`: runs on while the box is suspended.
    pub boot: Time,
    /// `CLOCK_MONOTONIC`: stands still while the box is suspended.
    pub mono: Time,
}

/// A participant: a box or the witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u8);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// One network path to the peer or to the witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u8);

/// A group: the volumes that move together; it has one register, one epoch, one primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u128);

/// One start of the daemon, chosen at random (law R0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u128);

/// One boot of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(pub u128);

/// One life of a voter's record, minted when the record is made (law R10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VoterInstance(pub u128);

/// One copy of the group's data on one box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskInstance(pub u128);

/// Ties a `Persist` to its `Persisted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersistId(pub u64);

/// Number of a committed configuration: the lineage in the top 16 bits, a counter below, so
/// that every comparison holds across lineages (law R0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Before the first config: seals nothing.
    pub const ZERO: Self = Self(0);

    /// The lineage: how often an operator forced a takeover.
    #[must_use]
    pub const fn lineage(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// The counter within the lineage.
    #[must_use]
    pub const fn counter(self) -> u64 {
        self.0 & ((1 << 48) - 1)
    }

    /// The epoch of a forced start that follows this one (law R9). Of a pair one box uses the
    /// odd lineages and the other the even ones: two boxes that were both forced, each without the
    /// other, never share one, and every comparison tells them apart.
    #[must_use]
    pub const fn forced(self, parity: Parity) -> Self {
        let odd = matches!(parity, Parity::Odd);
        let step = if (self.lineage() % 2 == 1) == odd {
            2
        } else {
            1
        };
        assert!(
            self.lineage() <= u16::MAX - step,
            "2^15 forced starts outlast any pair"
        );
        let lineage = (self.lineage() + step) as u64;
        Self((lineage << 48) | self.next().counter())
    }

    /// The epoch after this one in the same lineage.
    #[must_use]
    pub const fn next(self) -> Self {
        assert!(
            self.counter() < (1 << 48) - 1,
            "2^48 epochs outlast any box"
        );
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lineage() {
            0 => write!(f, "{}", self.counter()),
            lineage => write!(f, "{lineage}.{}", self.counter()),
        }
    }
}

/// Which lineages a box of a pair may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// 1, 3, 5 and so on.
    Odd,
    /// 2, 4, 6 and so on.
    Even,
}

impl Parity {
    /// That of `me`, whose peer is `peer`: the two differ.
    #[must_use]
    pub const fn of(me: NodeId, peer: NodeId) -> Self {
        if me.0 < peer.0 { Self::Odd } else { Self::Even }
    }
}

/// A small set of nodes.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Members([u64; 4]);

impl Members {
    /// The set without members.
    pub const EMPTY: Self = Self([0; 4]);

    /// The set of one node.
    #[must_use]
    pub const fn one(node: NodeId) -> Self {
        Self::EMPTY.with(node)
    }

    /// The set of two nodes.
    #[must_use]
    pub const fn pair(one: NodeId, other: NodeId) -> Self {
        Self::one(one).with(other)
    }

    /// This set and `node`.
    #[must_use]
    pub const fn with(mut self, node: NodeId) -> Self {
        self.0[node.0 as usize / 64] |= 1 << (node.0 % 64);
        self
    }

    /// This set without `node`.
    #[must_use]
    pub const fn without(mut self, node: NodeId) -> Self {
        self.0[node.0 as usize / 64] &= !(1 << (node.0 % 64));
        self
    }

    /// Every node that is in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        let (a, b) = (self.0, other.0);
        Self([a[0] | b[0], a[1] | b[1], a[2] | b[2], a[3] | b[3]])
    }

    /// Whether `node` is a member.
    #[must_use]
    pub const fn contains(self, node: NodeId) -> bool {
        self.0[node.0 as usize / 64] & (1 << (node.0 % 64)) != 0
    }

    /// How many nodes there are.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there is no node.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    /// The nodes in ascending order.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        (0..=u8::MAX)
            .map(NodeId)
            .filter(move |node| self.contains(*node))
    }
}

impl FromIterator<NodeId> for Members {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        nodes.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.iter().map(|node| node.0))
            .finish()
    }
}

impl fmt::Display for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.iter().map(|node| node.to_string()).collect();
        f.write_str(&names.join(", "))
    }
}

/// The times that every participant of a group shares; valid only as one set, see
/// [`Timing::validate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    /// h: a heartbeat leaves on every link this often.
    pub heartbeat_interval_ms: u32,
    /// N: so many intervals of silence and a standby may become a candidate.
    pub failover_heartbeats: u32,
    /// L: how long one acknowledged heartbeat lets the primary answer, from its sending.
    pub lease_ms: u32,
    /// Bound of every clock's rate error, in parts per million.
    pub eps_ppm: u32,
    /// Slop between the lease check and the wire.
    pub margin_ms: u32,
    /// Silence of the data session after which the primary asks to go on alone.
    pub peer_loss_ms: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat_interval_ms: 200,
            failover_heartbeats: 5,
            lease_ms: 700,
            eps_ppm: 1000,
            margin_ms: 20,
            peer_loss_ms: 500,
        }
    }
}

/// Round trip to another voter that the inequalities allow for.
pub const ROUND_TRIP_MS: u32 = 50;

/// Why a set of times is refused; the text names the inequality and the numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// A value is zero or absurd.
    #[error("timing: {name} = {value} is outside {min}..={max}; choose a value in that range")]
    Range {
        /// The setting.
        name: &'static str,
        /// What was asked for.
        value: u32,
        /// Smallest value accepted.
        min: u32,
        /// Largest value accepted.
        max: u32,
    },
    /// One of the inequalities between the values does not hold.
    #[error("timing: {inequality} does not hold: {left} against {right}; {remedy}")]
    Inequality {
        /// The inequality in words of the settings.
        inequality: &'static str,
        /// Its left side, in microseconds.
        left: u64,
        /// Its right side, in microseconds.
        right: u64,
        /// What to change.
        remedy: &'static str,
    },
}

impl Timing {
    /// N x h: silence after which a standby may become a candidate.
    #[must_use]
    pub const fn failover_ms(&self) -> u64 {
        self.heartbeat_interval_ms as u64 * self.failover_heartbeats as u64
    }

    /// What a voter promises for a lease of `lease_ms`: x (1 + eps), in nanoseconds (law R5).
    #[must_use]
    pub const fn promise_ns(&self, lease_ms: u32) -> u64 {
        lease_ms as u64 * (1_000_000 + self.eps_ppm as u64)
    }

    /// What a holder may use of a lease of `lease_ms`: x (1 - eps), in nanoseconds. With the
    /// voter's (1 + eps) the holder's end comes first whatever the two clocks' rates.
    #[must_use]
    pub const fn usable_ns(&self, lease_ms: u32) -> u64 {
        lease_ms as u64 * 1_000_000u64.saturating_sub(self.eps_ppm as u64)
    }

    /// Checks all values as one set.
    ///
    /// # Errors
    /// Names the first range or inequality that does not hold, and what to change.
    pub fn validate(&self) -> Result<(), TimingError> {
        let ranges = [
            (
                "heartbeat_interval_ms",
                self.heartbeat_interval_ms,
                10,
                5_000,
            ),
            ("failover_heartbeats", self.failover_heartbeats, 3, 50),
            ("lease_ms", self.lease_ms, 20, 9_000),
            ("eps_ppm", self.eps_ppm, 1, 50_000),
            ("margin_ms", self.margin_ms, 1, 5_000),
            ("peer_loss_ms", self.peer_loss_ms, 20, 9_000),
        ];
        for (name, value, min, max) in ranges {
            if value < min || value > max {
                return Err(TimingError::Range {
                    name,
                    value,
                    min,
                    max,
                });
            }
        }
        self.inequalities()
    }

    fn inequalities(&self) -> Result<(), TimingError> {
        let (h, eps) = (
            u64::from(self.heartbeat_interval_ms),
            u64::from(self.eps_ppm),
        );
        let us = |ms: u32| u64::from(ms) * 1000;
        let dead = self.failover_ms() * (1_000_000 - eps) / 1000;
        // Round trips scale down with very short intervals (tests on one machine).
        let trip = us(ROUND_TRIP_MS).min(h * 1000 / 4);
        let checks = [
            (
                "lease_ms x (1 + eps) + margin_ms < heartbeat_interval_ms x \
                 failover_heartbeats x (1 - eps)",
                self.promise_ns(self.lease_ms) / 1000 + us(self.margin_ms),
                dead,
                "raise failover_heartbeats or lower lease_ms",
            ),
            (
                "2 x heartbeat_interval_ms + round trip < lease_ms",
                2 * h * 1000 + trip,
                us(self.lease_ms),
                "raise lease_ms or lower heartbeat_interval_ms",
            ),
            (
                "2 x heartbeat_interval_ms + round trip <= peer_loss_ms",
                2 * h * 1000 + trip - 1,
                us(self.peer_loss_ms),
                "raise peer_loss_ms or lower heartbeat_interval_ms",
            ),
            (
                "peer_loss_ms + round trip < heartbeat_interval_ms x failover_heartbeats x \
                 (1 - eps)",
                us(self.peer_loss_ms) + trip,
                dead,
                "raise failover_heartbeats or lower peer_loss_ms",
            ),
            (
                "heartbeat_interval_ms x failover_heartbeats + 1 s for the promotion < 10 s",
                self.failover_ms() * 1000 + 1_000_000,
                10_000_000,
                "lower failover_heartbeats: initiators start their own recovery after 10 s",
            ),
        ];
        for (inequality, left, right, remedy) in checks {
            if left >= right {
                return Err(TimingError::Inequality {
                    inequality,
                    left,
                    right,
                    remedy,
                });
            }
        }
        Ok(())
    }
}

/// What stands in for a majority when only two boxes are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// A witness is the third vote.
    Witness,
    /// A confirmed power-off counts as the missing vote (law R11).
    Fence,
    /// Any set with this box is a quorum (law R11).
    Preferred(NodeId),
    /// As `Preferred`, the preference moving with the primary (law R11).
    Manual,
}

/// A voter of the register: its vote counts only from this instance (law R10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Voter {
    /// Who votes.
    pub node: NodeId,
    /// Which life of its record.
    pub instance: VoterInstance,
    /// Votes it has.
    pub weight: u8,
}

/// Why a config was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// `twinsan init`.
    Genesis,
    /// Law R1.
    Degrade,
    /// Law R2.
    Promote,
    /// Law R6.
    Readmit,
    /// Law R7.
    Handover,
    /// Law R7 taken back before the peer took over.
    HandoverCancelled,
    /// A voter was admitted (law R10).
    Admit,
    /// A voter was removed (law R10).
    Remove,
    /// Law R1: the primary lost its own disk and gave everything to its peer.
    Detach,
    /// Law R9: an operator started a box that could not be promoted.
    Force,
}

/// The value of the register: who may acknowledge and who decides about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// The group this config belongs to.
    pub group: GroupId,
    /// Number of this config.
    pub epoch: Epoch,
    /// The only incarnation that may acknowledge in this epoch.
    pub primary: Option<(NodeId, Incarnation)>,
    /// S: the boxes that hold every acknowledged write.
    pub in_sync: Members,
    /// Who votes about the next config.
    pub voters: Vec<Voter>,
    /// What stands in for a missing majority.
    pub policy: Policy,
    /// The times every participant uses.
    pub timing: Timing,
    /// Which copy of the data each box had when it was last in S.
    pub members: Vec<(NodeId, DiskInstance)>,
    /// For a box outside S: the epoch in which it was last in S. None: never in sync.
    pub resync_base_epoch: Vec<(NodeId, Epoch)>,
    /// Generation of the cluster configuration when this config was committed.
    pub config_generation: u64,
    /// Why it was committed.
    pub reason: Reason,
}

impl Config {
    /// The listed voter of `node`.
    #[must_use]
    pub fn voter(&self, node: NodeId) -> Option<&Voter> {
        self.voters.iter().find(|voter| voter.node == node)
    }

    /// Whether exactly this life of `node` votes.
    #[must_use]
    pub fn lists(&self, node: NodeId, instance: VoterInstance) -> bool {
        self.voter(node)
            .is_some_and(|voter| voter.instance == instance)
    }

    /// The disk instance of `node` when it was last in S.
    #[must_use]
    pub fn disk_of(&self, node: NodeId) -> Option<DiskInstance> {
        self.members
            .iter()
            .find(|member| member.0 == node)
            .map(|member| member.1)
    }

    /// The epoch in which `node`, now outside S, was last in S.
    #[must_use]
    pub fn base_of(&self, node: NodeId) -> Option<Epoch> {
        self.resync_base_epoch
            .iter()
            .find(|base| base.0 == node)
            .map(|base| base.1)
    }

    /// Whether `votes`, nodes whose instance was checked, are more than half of all weights.
    #[must_use]
    pub fn is_majority(&self, votes: Members) -> bool {
        let weight = |voter: &Voter| u32::from(voter.weight);
        let all: u32 = self.voters.iter().map(weight).sum();
        let present = self
            .voters
            .iter()
            .filter(|voter| votes.contains(voter.node));
        present.map(weight).sum::<u32>() * 2 > all
    }
}

/// Number of a proposal: ordered by counter, then node, then voter instance (law R0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// Raised for each proposal; durable before the first Prepare leaves.
    pub counter: u64,
    /// The proposer.
    pub node: NodeId,
    /// Which life of the proposer's record.
    pub instance: VoterInstance,
}

impl Ballot {
    /// The lineage in the top 16 bits of the counter. It is above zero only in ballots of a box
    /// that was forced and became the only voter, and of who came after it (law R9).
    #[must_use]
    pub const fn lineage(&self) -> u64 {
        self.counter >> 48
    }

    /// Whether the ballot was made by this life of `node`.
    #[must_use]
    pub fn belongs_to(&self, node: NodeId, instance: VoterInstance) -> bool {
        self.node == node && self.instance == instance
    }
}

/// Whether every volume of the group is attached, with valid metadata and no rollback mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attached {
    /// All of it.
    Yes,
    /// Something is missing, in words for an operator.
    No(String),
    /// The disk failed while it was in use, in words for an operator: the engine answers nothing
    /// any more, in whatever role (law D5).
    Failed(String),
}

/// What the engine says about this box's copy of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataState {
    /// Whether this box could serve (laws R1 and R2).
    pub attached: Attached,
    /// Identity of the copy; none before its first metadata was written.
    pub disk: Option<DiskInstance>,
    /// How often the metadata of the copy was written (law D7).
    pub generation: u64,
    /// Power was lost with writes that were acknowledged and not flushed (law D5).
    pub cache_lost: bool,
}

/// Why the engine says the peer is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerLoss {
    /// Nothing came for the peer loss time.
    Silent,
    /// The data session was closed.
    Closed,
    /// Another incarnation of the peer answered (law D4).
    OtherIncarnation,
    /// The peer refused a frame because it sealed the epoch (law R3).
    Sealed,
    /// The peer's disk failed.
    DiskFailed,
    /// The peer counted as in sync, and its copy was found to be another.
    Differs,
}

impl fmt::Display for PeerLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "no frame came from the peer",
            Self::Closed => "the data session was closed",
            Self::OtherIncarnation => "the peer's daemon was restarted",
            Self::Sealed => "the peer sealed the epoch",
            Self::DiskFailed => "the peer's disk failed",
            Self::Differs => "the peer's copy is not equal to this one",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_times_are_valid_as_one_set() {
        assert_eq!(Timing::default().validate(), Ok(()));
    }

    #[test]
    fn a_lease_longer_than_the_failover_time_is_refused_by_name() {
        let timing = Timing {
            lease_ms: 990,
            ..Timing::default()
        };
        let error = timing.validate().expect_err("0.99 s does not fit into 1 s");
        assert!(
            error
                .to_string()
                .contains("lease_ms x (1 + eps) + margin_ms"),
            "{error}"
        );
    }

    #[test]
    fn members_are_a_set() {
        let both = Members::pair(NodeId(1), NodeId(200));
        assert_eq!(both.len(), 2);
        assert!(both.contains(NodeId(200)) && !both.contains(NodeId(2)));
        assert_eq!(both.without(NodeId(1)), Members::one(NodeId(200)));
        assert_eq!(both.iter().collect::<Members>(), both);
    }

    #[test]
    fn r9_two_forced_boxes_never_share_a_lineage() {
        let (one, other) = (NodeId(1), NodeId(2));
        let forced = |epoch: Epoch, me, peer| epoch.forced(Parity::of(me, peer));
        let mut odd = Epoch(7);
        let mut even = Epoch(7);
        let mut seen = std::collections::BTreeSet::from([0]);
        for _ in 0..5 {
            let (before, ahead) = (odd.max(even), odd.next());
            (odd, even) = (forced(odd, one, other), forced(even, other, one));
            assert!(seen.insert(odd.lineage()) && seen.insert(even.lineage()));
            assert!(odd > ahead && even.lineage() > 0 && odd.max(even) > before);
        }
        assert_eq!(forced(Epoch(7), one, other), Epoch((1 << 48) | 8));
        assert_eq!(forced(Epoch(7), other, one), Epoch((2 << 48) | 8));
    }

    #[test]
    fn the_lineage_outranks_the_counter() {
        assert!(Epoch(1 << 48) > Epoch(900));
        assert_eq!(Epoch((2 << 48) + 5).next().counter(), 6);
    }
}
