//! Numbers and identities with a meaning, shared by every module of the crate.

use std::fmt;

/// Nanoseconds on the caller's `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// This instant plus `ms` milliseconds.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }
}

/// A box of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u8);

/// A group: the volumes that move together, under one authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u128);

/// A process start (law R0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u128);

/// A kernel boot (law R0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(pub u128);

/// Identity of one box's copy of the group, minted when its first metadata is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskInstance(pub u128);

/// A copy as it was at some time (law D7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyMark {
    /// Which copy.
    pub disk: DiskInstance,
    /// How often its group state had been written.
    pub generation: u64,
}

/// An epoch: lineage in the top 16 bits, counter below, so comparisons hold across lineages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// No epoch yet: the data epoch of a copy that was never in sync.
    pub const ZERO: Self = Self(0);

    /// The lineage, raised by a forced takeover only (law R9).
    #[must_use]
    pub const fn lineage(self) -> u64 {
        self.0 >> 48
    }
}

/// Number of a volume inside its group, never reused; 0 is the system volume (law D10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeNumber(pub u32);

impl VolumeNumber {
    /// The hidden system volume of law D10.
    pub const SYSTEM: Self = Self(0);
}

/// What a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Its number in the group.
    pub number: VolumeNumber,
    /// Its identity for ever.
    pub uuid: u128,
    /// Size of its data area, a multiple of 4 KiB.
    pub size_bytes: u64,
}

impl VolumeSpec {
    /// Whether both are the same volume, perhaps before and after it grew.
    #[must_use]
    pub const fn is_same_volume(&self, other: &Self) -> bool {
        self.number.0 == other.number.0 && self.uuid == other.uuid
    }
}

/// A disk operation handed out by the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// A command of the caller; unique among those not yet completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

/// A transport connection of the caller, never reused in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Whether a write must be stable before it is reported done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fua {
    /// Stable before done.
    Yes,
    /// On the device is enough.
    No,
}

/// Whether a backing is known to read zero where it was never written (law D6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroed {
    /// A fresh sparse file never written.
    Proven,
    /// Anything else.
    Unknown,
}

/// Whether a missing backing is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Create {
    /// Make it if it is missing, report [`Zeroed::Proven`] if it is fresh.
    Yes,
    /// Fail if it is missing.
    No,
}

/// A set of nodes with ids below 64.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Members(u64);

impl Members {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// The set of the given nodes.
    #[must_use]
    pub fn of(nodes: &[NodeId]) -> Self {
        nodes.iter().fold(Self::NONE, |set, node| set.with(*node))
    }

    /// This set and `node`.
    #[must_use]
    pub fn with(self, node: NodeId) -> Self {
        assert!(node.0 < 64, "node ids are below 64");
        Self(self.0 | 1 << node.0)
    }

    /// Whether `node` belongs to the set.
    #[must_use]
    pub const fn contains(self, node: NodeId) -> bool {
        node.0 < 64 && self.0 >> node.0 & 1 == 1
    }

    /// Every node of either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The nodes in ascending order.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        (0..64).map(NodeId).filter(move |node| self.contains(*node))
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.iter().map(|node| node.0))
            .finish()
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counter = self.0 & 0xffff_ffff_ffff;
        match self.lineage() {
            0 => write!(f, "{counter}"),
            lineage => write!(f, "{lineage}.{counter}"),
        }
    }
}

impl fmt::Display for VolumeNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
