//! What goes into a [`Node`](super::Node) and what comes out of it.

use core::fmt;

use crate::record::Record;
use crate::resource::Resource;
use crate::types::{
    BootId, Config, DataState, DiskInstance, Epoch, GroupId, Incarnation, LinkId, Members, NodeId,
    PeerLoss, PersistId, Time,
};

/// Who this box is and how it reaches the others.
#[derive(Clone, Debug)]
pub struct Params {
    /// The group.
    pub group: GroupId,
    /// This box.
    pub me: NodeId,
    /// The other box.
    pub peer: NodeId,
    /// The witness.
    pub witness: NodeId,
    /// This start of the daemon; random.
    pub incarnation: Incarnation,
    /// This boot of the kernel.
    pub boot: BootId,
    /// Key of the group: every datagram carries an HMAC-SHA256 under it.
    pub key: [u8; 32],
    /// Links to the peer.
    pub links: Vec<LinkId>,
    /// Link to the witness.
    pub witness_link: LinkId,
    /// Version of this program, for the parity gate of a planned switch.
    pub software: u32,
    /// Seed of the jitter between candidates; different on each box.
    pub seed: u64,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The time that [`Node::poll_timeout`](super::Node::poll_timeout) named has come. Harmless
    /// at any other time.
    Timeout,
    /// Bytes came in on a link; nothing about them is trusted.
    Datagram {
        /// The link they came in on.
        link: LinkId,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// The record of that `Persist` is durable.
    Persisted {
        /// The `id` of the `Persist`.
        id: PersistId,
    },
    /// The engine's verdict on this box's copy of the data.
    Data(DataState),
    /// The data session to the peer is up (primary side).
    PeerUp {
        /// The peer's incarnation.
        incarnation: Incarnation,
        /// The peer's copy.
        disk: DiskInstance,
    },
    /// The data session to the peer is lost, or what was in flight on it (primary side, law R1).
    PeerLost {
        /// The number of this loss, from 1; an [`Authority`] names the last one it answers.
        number: u64,
        /// Why.
        why: PeerLoss,
    },
    /// The engine refuses frames up to that epoch and has none of them in flight (laws R2, R3).
    Sealed {
        /// The epoch that the `Seal` named.
        epoch: Epoch,
    },
    /// The engine serves in that epoch.
    Serving {
        /// The epoch of the `Authority`.
        epoch: Epoch,
    },
    /// Steps (1) to (3) of law R6 are done: commit the peer into S.
    Readmit {
        /// The epoch under which they were done.
        epoch: Epoch,
        /// The peer's copy.
        peer_disk: DiskInstance,
    },
    /// The engine has stopped, drained and flushed both boxes for a handover (law R7).
    Drained {
        /// The one that the `Handover` named.
        id: u64,
    },
    /// A resource start ended.
    Started {
        /// Which one.
        resource: Resource,
        /// How it ended; the error is a sentence for an operator.
        result: Result<(), String>,
    },
    /// A resource stop ended; stops cannot fail, they escalate.
    Stopped {
        /// Which one.
        resource: Resource,
    },
    /// An operator asks for something; answered by one [`Output::Answer`].
    Operator {
        /// Ties the answer to the question.
        id: u64,
        /// What is asked for.
        command: OperatorCommand,
    },
    /// Generation and hash of this box's cluster configuration, carried in heartbeats.
    Local {
        /// Generation.
        config_generation: u64,
        /// Hash.
        config_hash: u64,
    },
}

/// What an operator can ask a box for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorCommand {
    /// Hand the primary role over (law R7).
    Switchover {
        /// To this box; none means "to the other one".
        to: Option<NodeId>,
    },
    /// Take a dead or reinstalled voter off the roster, so that its successor can be admitted
    /// (law R10). Refused for a voter that answers with the listed instance.
    RemoveVoter {
        /// The peer or the witness.
        node: NodeId,
    },
    /// Start this box without a majority, or although it is not in sync (law R9). Whoever sends
    /// this has made the operator name what it costs.
    Force,
}

/// Why an operator does not get what he asked for: a sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It cannot be done, or not now.
    Unfit(String),
    /// It would endanger data.
    Unsafe(String),
}

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Self::Unfit(why)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfit(why) | Self::Unsafe(why) => f.write_str(why),
        }
    }
}

/// One thing to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Make the record durable, then answer `Persisted`. One at a time.
    Persist {
        /// To be named in `Persisted`.
        id: PersistId,
        /// What to write.
        record: Box<Record>,
    },
    /// Send a datagram.
    Send {
        /// To whom.
        to: NodeId,
        /// On which link.
        link: LinkId,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// The lease changed; it holds from now on for the engine and the addresses (law R5).
    Lease(Lease),
    /// Refuse frames up to `epoch` for ever and wait until none is in flight; answer `Sealed`.
    Seal {
        /// The highest epoch to refuse.
        epoch: Epoch,
    },
    /// Who may acknowledge.
    Authority(Authority),
    /// Stop, drain, flush both; answer `Drained` (law R7).
    Handover {
        /// The epoch that ends.
        epoch: Epoch,
        /// Of the question that asked for it.
        id: u64,
    },
    /// That handover was taken back; go on under the authority last given.
    HandoverCancelled {
        /// The one that the `Handover` named.
        id: u64,
    },
    /// Start a resource; answer `Started`.
    Start(Resource),
    /// Stop a resource, also one whose start is under way; answer `Stopped`.
    Stop(Resource),
    /// Answer to an operator.
    Answer {
        /// The `id` of the question.
        id: u64,
        /// Done, or why not.
        result: Result<(), Refused>,
    },
    /// Something an operator would want to know.
    Event(Event),
}

/// How long answers that depend on replicated state may leave (law R5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// Not at all.
    None,
    /// Before this moment on `CLOCK_BOOTTIME`.
    Until(Time),
    /// For as long as this authority lasts: nobody else can be promoted (law R5b).
    Unlimited,
}

/// Who may acknowledge, as far as this box is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Not this box; whatever it had accepted is aborted (law R8).
    Secondary {
        /// The highest epoch this box knows.
        epoch: Epoch,
    },
    /// This box, with every member of `in_sync` and of `doubt` (laws R4 and R0b).
    Primary {
        /// The epoch to stamp on every frame.
        epoch: Epoch,
        /// S of the config known chosen.
        in_sync: Members,
        /// Every member of a config that may or may not be chosen.
        doubt: Option<Members>,
        /// `Config.resync_base_epoch` of the peer.
        peer_base: Option<Epoch>,
        /// `Config.members` of the peer.
        peer_disk: Option<DiskInstance>,
        /// The number of the last [`Input::PeerLost`] that was heard before this was said. The
        /// engine's readmission ends with its session; it may acknowledge alone again once it is
        /// known that the readmission will not be proposed any more.
        answers: u64,
    },
}

/// Where this box stands. It moves along [`EDGES`] only; this is the main way.
///
/// ```text
///   Booting --> Blank --(admitted)--> Secondary <-----(R8, from any below)----+
///      |                                ^  |  ^                               |
///      +--------------------------------+  |  | refused, primary is back      |
///                                          v  |                               |
///                  +----(named, R7)---- Candidate --> Sealing --(R2)--+       |
///                  v                                                  v       |
///             PrimarySync <-----------------(R6)---------------- PrimarySolo -+
///                |  ^  |                                              ^       |
///                |  |  +-----(peer lost)-------> Frozen ----(R1)------+       |
///           (R7) v  | (taken back)                 ^ |                        |
///             HandingOver -----(peer lost)---------+ +------------------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Just started; nothing heard yet.
    Booting,
    /// Without a record of the group, so without a vote (law R10).
    Blank,
    /// Not primary.
    Secondary,
    /// Asking the voters whether this box may become primary (law R2).
    Candidate,
    /// A majority promised; the engine seals and the commit follows (laws R2, R3).
    Sealing,
    /// Primary that lost its peer and has not yet committed to go on alone (law R1).
    Frozen,
    /// Primary with S = {me}.
    PrimarySolo,
    /// Primary with both boxes in S.
    PrimarySync,
    /// Primary that stopped to hand over (law R7).
    HandingOver,
}

/// Every step from role to role that there is.
pub const EDGES: &[(Role, Role)] = &[
    (Role::Booting, Role::Blank),
    (Role::Booting, Role::Secondary),
    (Role::Booting, Role::Candidate),
    (Role::Blank, Role::Secondary),
    (Role::Secondary, Role::Candidate),
    (Role::Candidate, Role::Secondary),
    (Role::Candidate, Role::Sealing),
    (Role::Candidate, Role::PrimarySolo),
    (Role::Candidate, Role::PrimarySync),
    (Role::Sealing, Role::Candidate),
    (Role::Sealing, Role::Secondary),
    (Role::Sealing, Role::PrimarySolo),
    (Role::PrimarySolo, Role::PrimarySync),
    (Role::PrimarySolo, Role::Frozen),
    (Role::PrimarySolo, Role::Secondary),
    (Role::PrimarySync, Role::Frozen),
    (Role::PrimarySync, Role::HandingOver),
    (Role::PrimarySync, Role::Secondary),
    (Role::Frozen, Role::PrimarySolo),
    (Role::Frozen, Role::Secondary),
    (Role::HandingOver, Role::PrimarySync),
    (Role::HandingOver, Role::PrimarySolo),
    (Role::HandingOver, Role::Frozen),
    (Role::HandingOver, Role::Secondary),
];

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Booting => "booting",
            Self::Blank => "blank",
            Self::Secondary => "secondary",
            Self::Candidate => "candidate",
            Self::Sealing => "sealing",
            Self::Frozen => "frozen",
            Self::PrimarySolo => "primary, alone",
            Self::PrimarySync => "primary, in sync",
            Self::HandingOver => "handing over",
        })
    }
}

/// What one link showed of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// Which link.
    pub link: LinkId,
    /// When the last live datagram came in, on the boot clock.
    pub last_seen: Option<Time>,
    /// Round trip of the last answered heartbeat, in microseconds.
    pub rtt_us: Option<u64>,
}

/// What an operator sees of a box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where this box stands.
    pub role: Role,
    /// Epoch of the config this box knows.
    pub epoch: Epoch,
    /// The config: known chosen if there is one, else the one accepted last.
    pub config: Option<Config>,
    /// The lease given out last.
    pub lease: Lease,
    /// Whether this box could become primary, or why not.
    pub eligible: Result<(), String>,
    /// Each link to the peer.
    pub peer: Vec<LinkStatus>,
    /// When the witness was last heard, on the boot clock.
    pub witness_last_seen: Option<Time>,
    /// Whether the engine serves and every resource is started.
    pub serving: bool,
    /// One sentence: why things are as they are.
    pub why: String,
    /// The one right next command, or "nothing to do".
    pub next: String,
    /// How often this process became primary.
    pub promotions: u64,
}

/// Something an operator would want to know; `Display` is the sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The role changed.
    RoleChanged {
        /// Before.
        from: Role,
        /// After.
        to: Role,
    },
    /// A config is known chosen.
    Chosen {
        /// The config.
        config: Box<Config>,
    },
    /// This box wants to become primary.
    Candidacy {
        /// Why now.
        cause: String,
    },
    /// This box may not become primary.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
    /// The data session to the peer is lost while the peer counts.
    PeerLost {
        /// Why.
        why: PeerLoss,
    },
    /// Primacy is lost (law R8).
    Demoted {
        /// The epoch that ended it.
        epoch: Epoch,
    },
    /// A voter announces another instance than the listed one: it has no vote (law R10).
    ForeignVoter {
        /// The voter.
        node: NodeId,
    },
    /// A voter shows an older record than it had: it has no vote (H13).
    VoterRolledBack {
        /// The voter.
        node: NodeId,
    },
    /// An operator started this box (law R9).
    Forced {
        /// The first epoch of the new lineage.
        epoch: Epoch,
        /// Who must stay off until it can reach this box: it knows nothing of this.
        must_stay_off: Members,
    },
    /// A resource failed to start; everything was stopped and is tried again.
    StartFailed {
        /// Which one.
        resource: Resource,
        /// Why.
        reason: String,
        /// When it is tried again, in milliseconds.
        retry_ms: u64,
    },
    /// The peer daemon is another incarnation than before.
    PeerRestarted,
    /// The peer is heard again on some link after it was silent on all.
    PeerHeard,
    /// The peer is silent on all links for the fail-over time.
    PeerSilent,
    /// The witness answers again.
    WitnessHeard,
    /// The witness is silent for the fail-over time: its vote is missing.
    WitnessSilent,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RoleChanged { from, to } => write!(f, "role changed: {from} -> {to}"),
            Self::Chosen { config } => {
                write!(
                    f,
                    "epoch {} is committed: in sync {}",
                    config.epoch, config.in_sync
                )?;
                match config.primary {
                    Some((node, _)) => write!(f, ", primary {node}"),
                    None => f.write_str(", no primary"),
                }
            }
            Self::Candidacy { cause } => write!(f, "asking to become primary: {cause}"),
            Self::Refused { reason } => write!(f, "not becoming primary: {reason}"),
            Self::PeerLost { why } => {
                write!(
                    f,
                    "peer lost: {why}; writes are held until it is settled who goes on"
                )
            }
            Self::Demoted { epoch } => write!(f, "no longer primary since epoch {epoch}"),
            Self::ForeignVoter { node } => write!(
                f,
                "{node} was reinstalled or restored and has no vote; run `twinsan voter remove \
                 {node}` on the primary, which then admits it again"
            ),
            Self::VoterRolledBack { node } => write!(
                f,
                "{node} shows an older record than it had and has no vote; stop it, empty its \
                 state directory, let it join the pair again, and then run `twinsan voter remove \
                 {node}` on the primary"
            ),
            Self::Forced {
                epoch,
                must_stay_off,
            } => write!(
                f,
                "started by force in epoch {epoch}: what was written elsewhere and never came here \
                 is not served; keep {must_stay_off} off until it can reach this box, or there are \
                 two arrays"
            ),
            Self::StartFailed {
                resource,
                reason,
                retry_ms,
            } => {
                write!(
                    f,
                    "{resource} did not start: {reason}; next try in {retry_ms} ms"
                )
            }
            Self::PeerRestarted => f.write_str("the peer's daemon was restarted"),
            Self::PeerHeard => f.write_str("the peer is heard again"),
            Self::PeerSilent => f.write_str("the peer is silent on all links"),
            Self::WitnessHeard => f.write_str("the witness answers"),
            Self::WitnessSilent => {
                f.write_str("the witness is silent: until it is back no box can go on alone")
            }
        }
    }
}
