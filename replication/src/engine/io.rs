//! The vocabulary of the contract: everything that goes in and comes out.

use crate::engine::event::Event;
use crate::types::{
    BootId, CommandId, CopyMark, Create, DiskInstance, Epoch, Fua, GroupId, Incarnation, Members,
    NodeId, OpId, SessionId, Time, VolumeNumber, VolumeSpec, Zeroed,
};
use crate::wire;
use crate::wire::hello::Binding;
use bytes::Bytes;

/// What an engine is made of.
#[derive(Clone, Debug)]
pub struct Params {
    /// The group.
    pub group: GroupId,
    /// This box.
    pub me: NodeId,
    /// The other box.
    pub peer: NodeId,
    /// This process.
    pub incarnation: Incarnation,
    /// This kernel boot.
    pub boot: BootId,
    /// Known to both boxes; proves who is at the other end of a session.
    pub key: [u8; 32],
    /// Randomness for the nonces of a session.
    pub nonce_seed: u64,
    /// Identity to use if this box writes its first metadata.
    pub fresh_disk: DiskInstance,
    /// No frame for that long on the data session: the peer is lost.
    pub peer_loss_ms: u64,
    /// Bounds.
    pub limits: Limits,
}

impl Params {
    pub(super) fn check(&self) {
        let max = crate::meta::intent::PLACES;
        assert!(
            (2..=max).contains(&self.limits.hot_regions),
            "hot_regions is 2 to {max}"
        );
        assert_ne!(self.me, self.peer, "the peer is another box");
    }
}

/// Bounds of what the engine holds or sends ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Commands in flight; more wait in order.
    pub inflight_commands: usize,
    /// Commands that wait to be taken in, beyond those; more are refused.
    pub queued_commands: usize,
    /// Bytes of commands in flight; one command is always admitted.
    pub inflight_bytes: u64,
    /// Bytes of resync blocks sent and not acknowledged, while the application is idle.
    pub resync_window_bytes: u64,
    /// Bytes mirrored to a peer that is not in sync and not acknowledged; beyond it writes become
    /// dirty instead.
    pub mirror_window_bytes: u64,
    /// Memory for writes that the peer may lack, to be sent again when it comes back; beyond it
    /// their blocks are copied.
    pub retain_bytes: u64,
    /// Regions with a durable intent, per volume, 2 to [`crate::meta::intent::PLACES`]. What a box
    /// that dies leaves to be compared: so many regions for each second that this may take, at
    /// the rate at which disks are read and hashed.
    pub hot_regions: usize,
    /// Unflushed writes are made stable, and their intents cleared, after that long.
    pub settle_ms: u64,
    /// How fast the scrub reads by itself, to begin with; 0 is not at all.
    pub scrub_bytes_per_s: u64,
    /// A disk operation that takes longer is a failed disk (law R12).
    pub disk_timeout_ms: u64,
}

/// How long comparing the hot regions of a volume may take after a box died.
const RECOVERY_S: usize = 30;
/// Regions that are read and hashed in a second: 1 GB/s.
const COMPARED_REGIONS_PER_S: usize = 1000;

impl Default for Limits {
    fn default() -> Self {
        Self {
            inflight_commands: 1024,
            queued_commands: 65_536,
            inflight_bytes: 64 << 20,
            resync_window_bytes: 8 << 20,
            mirror_window_bytes: 16 << 20,
            retain_bytes: 64 << 20,
            hot_regions: RECOVERY_S * COMPARED_REGIONS_PER_S,
            settle_ms: 2000,
            scrub_bytes_per_s: 4 << 20,
            disk_timeout_ms: 5000,
        }
    }
}

/// Everything that can happen to an engine.
#[derive(Clone, Debug)]
pub enum Input {
    /// The instant of `poll_timeout` has come.
    Timeout,
    /// The first input: what the pool holds. The seal is the one of the authority's record; the
    /// larger of it and the engine's own counts.
    Start {
        /// Backings that exist, opened and locked.
        found: Vec<Opened>,
        /// Refuse frames of epochs up to this one.
        seal: Epoch,
        /// The newest state of this box's copy that the authority's record knows of (law D7).
        newest: Option<CopyMark>,
    },
    /// First box of a new group: write the first metadata here.
    Format,
    /// Answer to [`Output::Open`].
    Opened(Opened),
    /// Answer to [`Output::Open`].
    OpenFailed {
        /// Which.
        number: VolumeNumber,
        /// In words.
        reason: String,
    },
    /// Answer to [`Output::Grow`].
    Grown {
        /// Which.
        number: VolumeNumber,
        /// The backing as it is now; `zeroed` is about what was added to it. Or why not, in words.
        result: Result<Opened, String>,
    },
    /// Answer to [`Output::Submit`].
    Done {
        /// Which.
        op: OpId,
        /// How it went.
        result: Result<IoDone, DiskError>,
    },
    /// Answer to [`Output::Connect`].
    Connected {
        /// The new session.
        session: SessionId,
        /// The channel that carries it.
        binding: Binding,
    },
    /// Answer to [`Output::Connect`].
    ConnectFailed,
    /// Answer to [`Output::Connect`]: the peer's machine is there and no process of it listens.
    ConnectRefused,
    /// The peer dialled us.
    Accepted {
        /// The new session.
        session: SessionId,
        /// The channel that carries it.
        binding: Binding,
    },
    /// A session ended.
    Disconnected {
        /// Which.
        session: SessionId,
    },
    /// A frame arrived. The payload has the length that [`wire::payload_len`] named.
    Frame {
        /// On which session.
        session: SessionId,
        /// The header's bytes.
        header: [u8; wire::HEADER_LEN],
        /// Payload and trailer as one.
        payload: Bytes,
    },
    /// Who may acknowledge.
    Authority(Authority),
    /// Refuse every epoch up to this one for ever; answered by `Event::Sealed`.
    Seal {
        /// The seal.
        epoch: Epoch,
    },
    /// Stop, drain, flush, clear intents; answered by `Event::Drained`.
    Handover {
        /// The epoch to hand over.
        epoch: Epoch,
        /// To be named in `Drained`.
        id: u64,
    },
    /// The handover will not be: go on.
    HandoverCancelled {
        /// Which one.
        id: u64,
    },
    /// The right to answer from replicated state (law R5).
    Lease(Lease),
    /// How fast a copy to the peer may go, from now until the next one or until this box is not
    /// primary any more.
    Pace(Pace),
    /// How fast the scrub reads by itself, over all volumes; 0 is not at all.
    ScrubRate {
        /// Bytes per second.
        bytes_per_s: u64,
    },
    /// Compare the two copies of a volume, from its start, as fast as one span after the other
    /// allows. Only a primary does.
    Scrub {
        /// Which.
        volume: VolumeNumber,
    },
    /// Who must hear that the volume lost its cache is durable elsewhere (law D5): it is not told
    /// again.
    CacheLossKept {
        /// The volume.
        volume: VolumeNumber,
    },
    /// A command of an initiator.
    Command {
        /// For `Complete`.
        id: CommandId,
        /// What to do.
        command: Command,
    },
    /// Make a volume on both boxes; completes when it can be used.
    CreateVolume {
        /// For `Complete`.
        id: CommandId,
        /// What to make.
        spec: VolumeSpec,
    },
    /// Make a volume larger on both boxes; completes when all of it can be used.
    GrowVolume {
        /// For `Complete`.
        id: CommandId,
        /// Which.
        number: VolumeNumber,
        /// Its new size.
        size_bytes: u64,
    },
    /// Delete a volume on both boxes.
    DeleteVolume {
        /// For `Complete`.
        id: CommandId,
        /// Which.
        number: VolumeNumber,
    },
}

/// A backing that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Number of its volume.
    pub number: VolumeNumber,
    /// Size of the backing, metadata included.
    pub size_bytes: u64,
    /// Whether it reads zero where it was never written (law D6).
    pub zeroed: Zeroed,
}

/// Who may acknowledge, as committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Not primary; what was accepted as primary is aborted (law R8).
    Secondary {
        /// Of the newest config known.
        epoch: Epoch,
    },
    /// Primary; acks need every member of `in_sync` and of `doubt` (law R0b).
    Primary {
        /// The epoch of the config.
        epoch: Epoch,
        /// Its in-sync set.
        in_sync: Members,
        /// The set of a proposal that may or may not be chosen.
        doubt: Option<Members>,
        /// The last epoch in which the peer was in sync.
        peer_base: Option<Epoch>,
        /// The copy the peer then had.
        peer_disk: Option<DiskInstance>,
        /// The last `Event::PeerLost` that was known to whoever says this.
        answers: u64,
    },
}

/// The right to answer from replicated state while the peer counts (law R5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// None.
    None,
    /// Before that instant.
    Until(Time),
    /// Without end: nobody else can serve (law R5b).
    Unlimited,
}

/// How fast a copy to the peer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as the application does not feel it.
    Auto,
    /// Not at all; writes are mirrored on.
    Paused,
    /// Not faster than this, nor than [`Pace::Auto`].
    AtMost {
        /// Bytes per second.
        bytes_per_s: u64,
    },
}

/// A command; offsets are bytes in the volume's data area, multiples of 512 as lengths are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Completes with the data.
    Read {
        /// Where.
        volume: VolumeNumber,
        /// From.
        offset_bytes: u64,
        /// How much.
        len_bytes: usize,
    },
    /// Writes `data`.
    Write {
        /// Where.
        volume: VolumeNumber,
        /// From.
        offset_bytes: u64,
        /// What.
        data: Bytes,
        /// Stable before it completes.
        fua: Fua,
    },
    /// Makes a range read zero.
    WriteZeroes {
        /// Where.
        volume: VolumeNumber,
        /// From.
        offset_bytes: u64,
        /// How much.
        len_bytes: u64,
        /// Stable before it completes.
        fua: Fua,
    },
    /// Writes `data` if the range holds `expected` (law T3).
    CompareAndWrite {
        /// Where.
        volume: VolumeNumber,
        /// From.
        offset_bytes: u64,
        /// As long as `data`.
        expected: Bytes,
        /// What.
        data: Bytes,
        /// Stable before it completes.
        fua: Fua,
    },
    /// Makes every completed write of the volume stable on every member.
    Flush {
        /// Which volume.
        volume: VolumeNumber,
    },
    /// Completes when an answer from replicated state may be given.
    Confirm,
}

/// What the engine asks of its caller, to be done in order.
#[derive(Clone, Debug)]
pub enum Output {
    /// Do this on the backing of a volume; several may be under way at once, in any order.
    Submit {
        /// For `Done`.
        op: OpId,
        /// Which backing.
        volume: VolumeNumber,
        /// What.
        io: Io,
    },
    /// Open, or make, the backing of a volume.
    Open {
        /// The volume.
        spec: VolumeSpec,
        /// Bytes the backing must have at least.
        backing_bytes: u64,
        /// Whether to make it.
        create: Create,
    },
    /// Make the backing of an attached volume longer; nothing of what it holds changes.
    Grow {
        /// Which.
        number: VolumeNumber,
        /// Bytes the backing must have at least.
        backing_bytes: u64,
    },
    /// Close and remove the backing of a volume.
    Remove {
        /// Which.
        number: VolumeNumber,
    },
    /// Dial the peer once; answered by `Connected`, `ConnectFailed` or
    /// `ConnectRefused`.
    Connect,
    /// Close a session after what was sent on it; `Disconnected` may or may not follow.
    Disconnect {
        /// Which.
        session: SessionId,
    },
    /// Send a frame: header, payload, trailer. One order per session.
    Send {
        /// On which session.
        session: SessionId,
        /// The header's bytes.
        header: [u8; wire::HEADER_LEN],
        /// The data, shared with the disk write.
        payload: Bytes,
        /// Checksums of the data; the receiver's payload is payload and trailer as one.
        trailer: Bytes,
    },
    /// A command is done.
    Complete {
        /// Which.
        id: CommandId,
        /// How it went.
        result: Result<Completed, CommandError>,
    },
    /// News.
    Event(Event),
}

/// A disk operation; offsets are bytes in the backing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Io {
    /// Done with the data.
    Read {
        /// From.
        offset_bytes: u64,
        /// How much.
        len_bytes: usize,
    },
    /// Writes data.
    Write {
        /// From.
        offset_bytes: u64,
        /// What.
        data: Bytes,
        /// Stable before done.
        fua: Fua,
    },
    /// Makes a range read zero.
    WriteZeroes {
        /// From.
        offset_bytes: u64,
        /// How much.
        len_bytes: u64,
        /// Stable before done.
        fua: Fua,
    },
    /// Makes every write that was done before stable.
    Flush,
}

/// A disk operation went well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IoDone {
    /// What was read.
    Data(Bytes),
    /// Anything else.
    Ok,
}

/// A disk operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// The device.
    Io,
    /// These sectors.
    Medium,
    /// No room in a thin backing.
    NoSpace,
}

/// A command went well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completed {
    /// What was read.
    Data(Bytes),
    /// Done.
    Ok,
    /// The range did not hold what was expected; nothing was written.
    Miscompare {
        /// First byte that differs, counted from the start of the range.
        offset_bytes: u64,
    },
}

/// A command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// Aborted by law R8, or never accepted.
    NotPrimary,
    /// Beyond the end.
    OutOfRange,
    /// Unreadable sectors.
    Medium,
    /// The disk failed.
    Io,
    /// No room.
    NoSpace,
    /// Too many commands wait already: try again.
    Overloaded,
    /// No such volume.
    UnknownVolume,
    /// For a reason in words.
    Refused(String),
}
