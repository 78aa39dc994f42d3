//! What the engine tells the outside: events for authority and operators, and its status.

use super::counters::Work;
use super::io::Pace;
use crate::types::{DiskInstance, Epoch, Incarnation, NodeId, Time, VolumeNumber, VolumeSpec};
use bytes::Bytes;

/// Something the caller's other parts may want to act upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The state of this box's copy; sent after start and at each change.
    Data(DataState),
    /// The peer is verified and the data session carries frames (primary side).
    PeerUp {
        /// The peer's process.
        incarnation: Incarnation,
        /// The peer's copy.
        disk: DiskInstance,
    },
    /// The data session is gone (primary side). With the peer in the in-sync set or in doubt the
    /// engine is frozen until the next `Authority` (law R1).
    PeerLost {
        /// The how-manieth loss of this engine: the `Authority` that answers it names it.
        number: u64,
        /// What was seen.
        why: PeerLoss,
    },
    /// Every epoch up to this one is refused for ever, and no older disk operation is in flight
    /// (laws R2, R3).
    Sealed {
        /// The seal.
        epoch: Epoch,
    },
    /// After `Authority::Primary` of a new epoch: the epoch and the dirty map are durable, the
    /// disk is flushed, commands are admitted.
    Serving {
        /// The epoch served.
        epoch: Epoch,
    },
    /// Steps (1) to (3) of law R6 are done: commit {me, peer}. From here on the engine waits for
    /// the peer until an `Authority` says otherwise: a `PeerLost` that follows must be answered by
    /// an `Authority` that names it, once this readmission is not proposed any more.
    Readmit {
        /// The epoch under which the steps were done.
        epoch: Epoch,
        /// The copy that is equal.
        peer_disk: DiskInstance,
    },
    /// Stopped, drained, flushed on both, intents cleared (law R7).
    Drained {
        /// The handover that was asked for.
        id: u64,
    },
    /// Power was lost with unflushed writes in flight; the first flush of each initiator must
    /// fail once (law D5). Sent before `Serving`.
    CacheLost {
        /// The volume.
        volume: VolumeNumber,
    },
    /// The peer was away for a moment and is back: nothing had to be decided (law D4).
    Thawed,
    /// The peer came back and gets writes that it lacks from memory (law D4).
    Replayed {
        /// How many.
        writes: u64,
        /// Bytes that they cover.
        bytes: u64,
    },
    /// A copy to the peer begins.
    ResyncStarted {
        /// Bytes to copy.
        total_bytes: u64,
        /// In words.
        reason: &'static str,
    },
    /// About once a second while a copy runs.
    ResyncProgress {
        /// Bytes still to copy.
        left_bytes: u64,
        /// Bytes to copy at the start.
        total_bytes: u64,
    },
    /// Nothing is left to copy.
    ResyncDone,
    /// The peer has made the epoch of its readmission durable.
    InSync {
        /// That epoch.
        epoch: Epoch,
    },
    /// A volume is attached and usable here.
    VolumeReady {
        /// The volume.
        spec: VolumeSpec,
    },
    /// A volume is larger here; as primary, on both boxes.
    VolumeGrown {
        /// The volume.
        spec: VolumeSpec,
    },
    /// A volume was deleted here.
    VolumeGone {
        /// The volume.
        number: VolumeNumber,
    },
    /// The two copies of a block are not the same, twice in a row, and nobody was writing to it.
    CopiesDiffer {
        /// The volume.
        volume: VolumeNumber,
        /// Where in its data area.
        offset_bytes: u64,
        /// What is here.
        here: Bytes,
        /// What the peer has.
        there: Bytes,
    },
    /// The copies of a volume were compared from its start to its end.
    Scrubbed {
        /// The volume.
        volume: VolumeNumber,
        /// What was found.
        found: Scrubbed,
    },
    /// Something an operator must know, in one sentence.
    Alarm(String),
}

/// What promotion depends on (law R2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataState {
    /// Whether every volume of the group's own table is attached with valid metadata.
    pub attached: Attached,
    /// The identity of this copy, if it has one.
    pub disk: Option<DiskInstance>,
    /// How often its group state was written (law D7).
    pub generation: u64,
    /// The last epoch in which this copy was in sync or primary.
    pub data_epoch: Epoch,
    /// Frames of epochs up to this one are refused.
    pub sealed: Epoch,
    /// Power was lost with hot intents (law D5).
    pub cache_lost: bool,
}

/// Whether the copy is complete here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attached {
    /// Every volume.
    Yes,
    /// Not, and why.
    No(String),
    /// The disk failed while it was in use, and how: nothing is answered any more (law D5).
    Failed(String),
}

/// Why the data session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerLoss {
    /// No frame for `peer_loss_ms`, or no session in that time after a handover.
    Silent,
    /// The connection was closed, or what it carried was not to be understood.
    Closed,
    /// The peer restarted.
    OtherIncarnation,
    /// The peer refuses our epoch (law R3).
    Sealed,
    /// The peer's disk failed.
    DiskFailed,
    /// The peer counted as in sync but its copy is not equal to ours.
    Differs,
}

/// What the engine is doing, for `status` and the simulator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This box.
    pub me: NodeId,
    /// What it may do.
    pub role: Role,
    /// The epoch of the last authority.
    pub epoch: Epoch,
    /// The durable state of this copy.
    pub data: DataState,
    /// The data session.
    pub link: DataLink,
    /// The peer's copy parted from this one: both were written, each without the other (law R9).
    /// It is of that epoch, and is left as it is.
    pub parted: Option<Epoch>,
    /// Every acknowledgement waits for the peer.
    pub acks_wait_for_peer: bool,
    /// Bytes marked dirty over all volumes.
    pub dirty_bytes: u64,
    /// Bytes that could not be read here and were read from the peer.
    pub mended_bytes: u64,
    /// Pools that had no room for a write within the last minute.
    pub full: Full,
    /// Memory that keeps writes which the peer may lack.
    pub kept_bytes: u64,
    /// Kept writes sent again since this process started.
    pub replayed_writes: u64,
    /// Blocks read since then to be copied.
    pub blocks_read: u64,
    /// The copy to the peer.
    pub resync: Resync,
    /// How fast the scrub reads by itself; 0 is not at all.
    pub scrub_bytes_per_s: u64,
    /// Commands admitted or queued and not yet completed.
    pub commands: usize,
    /// Disk operations in flight.
    pub disk_operations: usize,
    /// The highest volume number ever used in the group; numbers are not used again.
    pub highest: VolumeNumber,
    /// The volumes of the group's table here.
    pub volumes: Vec<VolumeStatus>,
}

/// A copy to the peer, or what would hold for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resync {
    /// What was asked for.
    pub pace: Pace,
    /// How far it is.
    pub phase: ResyncPhase,
    /// What keeps a running copy from being faster.
    pub limit: ResyncLimit,
    /// Of the last second.
    pub bytes_per_s: u64,
    /// Of all copies of this process.
    pub counts: ResyncCounts,
}

/// What was done to make the peer's copy equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResyncCounts {
    /// Blocks whose hashes were equal: nothing was sent.
    pub equal_blocks: u64,
    /// Blocks whose hashes differed.
    pub different_blocks: u64,
    /// Blocks sent.
    pub sent_blocks: u64,
    /// Blocks of zeroes, sent without their data.
    pub zero_blocks: u64,
    /// Frames that carried any of these.
    pub frames: u64,
    /// Flushes of the peer asked for by a copy.
    pub flushes: u64,
}

/// How far a copy to the peer, and its readmission, are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResyncPhase {
    /// No copy is under way.
    None,
    /// The masks are being exchanged and made durable.
    Preparing,
    /// Blocks are on their way.
    Copying,
    /// Acknowledgements wait for the peer, which has not applied everything yet.
    Draining,
    /// Both boxes flush.
    Flushing,
    /// The authority has been asked to readmit the peer.
    Asked,
}

/// What keeps a copy from being faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResyncLimit {
    /// Nothing is copied.
    Idle,
    /// Disks and network.
    Hardware,
    /// The application is to feel little of it.
    Application,
    /// It would not end: the application's writes wait for the peer.
    Floor,
    /// [`Pace::AtMost`].
    Rate,
    /// [`Pace::Paused`].
    Paused,
    /// A block cannot be read here, or finds no room there; it is tried again.
    Unreadable,
}

/// Whose pool is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Full {
    /// This box's.
    pub here: bool,
    /// The peer's, as far as it told us.
    pub there: bool,
}

/// One volume in [`Status`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeStatus {
    /// What it is.
    pub spec: VolumeSpec,
    /// Attached and usable.
    pub attached: bool,
    /// Where its data area begins in its backing here.
    pub data_offset_bytes: u64,
    /// Bytes marked dirty.
    pub dirty_bytes: u64,
    /// Regions whose intent is durable.
    pub hot_regions: usize,
    /// What was done with it since it was attached.
    pub work: Work,
    /// The comparison of its copies, by this box as primary.
    pub scrub: VolumeScrub,
}

/// The scrub of one volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeScrub {
    /// A pass that is under way: bytes compared of it, and what it found.
    pub running: Option<(u64, Scrubbed)>,
    /// The last pass that came to its end.
    pub last: Option<Scrubbed>,
}

/// What one pass over a volume found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Blocks of 4 KiB that were looked at.
    pub blocks: u64,
    /// Of these, that differ.
    pub differing: u64,
    /// Of these, that one box could not read and that were written again.
    pub mended: u64,
    /// Of these, that could not be read, nor mended.
    pub unreadable: u64,
    /// Somebody asked for this pass.
    pub asked: bool,
    /// When it ended.
    pub ended: Time,
}

/// What this box may do. It moves along [`EDGES`] only; this is the main way.
///
/// ```text
///   Attaching --> Blank --(formatted)--> Secondary <---(R8, from any below)---+
///       |                                  ^  |                              |
///       +----------------------------------+  | (R2)                         |
///                                             v                              |
///   Failed <--(from any)                  Activating ------------------------+
///                                           |   ^                            |
///                                 (durable) v   | (alone in a new epoch)     |
///       Draining <------(asked, R7)------ Serving ---------------------------+
///        |    |                           ^ |   ^                            |
///        |    +--------(taken back)-------+ |   | (R1)                       |
///        |                      (peer lost) v   |                            |
///        +-------------(peer lost)-------> Frozen ---------------------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reading or writing its first metadata.
    Attaching,
    /// No metadata here.
    Blank,
    /// Not primary.
    Secondary,
    /// Primary of a new epoch that is not durable yet.
    Activating,
    /// Primary.
    Serving,
    /// Primary without the peer it needs (law R1).
    Frozen,
    /// Stopped for a handover (law R7).
    Draining,
    /// The local disk failed: nothing is answered as good any more.
    Failed,
}

/// Every step from role to role that there is, from one input to the next.
pub const EDGES: &[(Role, Role)] = &[
    (Role::Attaching, Role::Blank),
    (Role::Attaching, Role::Secondary),
    (Role::Attaching, Role::Failed),
    (Role::Blank, Role::Secondary),
    (Role::Blank, Role::Failed),
    (Role::Secondary, Role::Activating),
    (Role::Secondary, Role::Failed),
    (Role::Activating, Role::Secondary),
    (Role::Activating, Role::Serving),
    (Role::Activating, Role::Draining),
    (Role::Activating, Role::Frozen),
    (Role::Activating, Role::Failed),
    (Role::Serving, Role::Secondary),
    (Role::Serving, Role::Activating),
    (Role::Serving, Role::Draining),
    (Role::Serving, Role::Frozen),
    (Role::Serving, Role::Failed),
    (Role::Draining, Role::Secondary),
    (Role::Draining, Role::Activating),
    (Role::Draining, Role::Serving),
    (Role::Draining, Role::Frozen),
    (Role::Draining, Role::Failed),
    (Role::Frozen, Role::Secondary),
    (Role::Frozen, Role::Serving),
    (Role::Frozen, Role::Draining),
    (Role::Frozen, Role::Failed),
];

/// State of the data session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataLink {
    /// None.
    Down,
    /// Connecting or comparing.
    Handshake,
    /// Source of a resync.
    Source,
    /// Primary, with the peer in sync.
    Mirroring,
    /// Receiving, not (yet) in sync.
    Target,
    /// Receiving, in sync.
    Following,
}
