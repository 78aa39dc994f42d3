//! What the local API says; shared by server, command line and tests.

use serde::{Deserialize, Serialize};

use crate::config::cluster::{Cluster, Edit, Generation};
use crate::config::plan::Past;

/// Version of every JSON document this program prints.
pub const SCHEMA: u32 = 1;

/// Everything about one box and its pair, in one document.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Name of the box that answers.
    pub node: String,
    /// Name of the other box.
    pub peer: String,
    /// The verdict in one sentence.
    pub verdict: String,
    /// Why it is so.
    pub why: String,
    /// The one right next command, or that there is nothing to do.
    pub next: String,
    /// `primary`, `standby` or what it is on the way to.
    pub role: String,
    /// Epoch of the accepted configuration.
    pub epoch: u64,
    /// Epoch of the data on this box's disks.
    pub data_epoch: u64,
    /// Primary of the accepted configuration.
    pub primary: Option<String>,
    /// Boxes with every acknowledged write.
    pub in_sync: Vec<String>,
    /// Voters and when they were last heard.
    pub voters: Vec<Voter>,
    /// Heartbeat links to the peer.
    pub links: Vec<Link>,
    /// The mirror.
    pub mirror: Mirror,
    /// Service addresses.
    pub addresses: Vec<ServiceAddress>,
    /// iSCSI name of the target.
    pub target: String,
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// Logged-in initiators.
    pub sessions: Vec<Session>,
    /// Cluster configuration in force.
    pub generation: Generation,
}

/// One vote.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Voter {
    /// Name.
    pub name: String,
    /// Milliseconds since it was last heard; none: never.
    pub heard_ms: Option<u64>,
    /// It counts in a majority.
    pub admitted: bool,
}

/// One heartbeat link.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Name from `node.toml`.
    pub name: String,
    /// Milliseconds since the peer was last heard on it; none: never.
    pub heard_ms: Option<u64>,
}

/// The mirror as this box sees it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Mirror {
    /// The data session to the peer is up.
    pub connected: bool,
    /// `in sync`, `resync`, `alone`, `frozen`, `standby` ...
    pub state: String,
    /// Bytes the peer still lacks.
    pub dirty_bytes: u64,
    /// Memory that keeps writes which the peer may lack.
    pub kept_bytes: u64,
    /// Writes sent again after short interruptions, since the program started.
    pub replayed_writes: u64,
    /// Bytes that could not be read here, came from the peer and were written again, since the
    /// program started.
    pub mended_bytes: u64,
    /// Blocks read to be copied to the peer, since the program started.
    pub blocks_read: u64,
    /// A running resync.
    pub resync: Option<Resync>,
    /// `auto`, `paused` or `at most N/s`: what was asked of a resync, running or not.
    pub resync_pace: String,
    /// How much of both copies is compared per second by itself; 0: nothing.
    pub scrub_bytes_per_s: u64,
    /// Writes accepted and not yet acknowledged.
    pub writes_in_flight: u64,
}

/// Progress of a resync.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Resync {
    /// Bytes at its start.
    pub total_bytes: u64,
    /// Bytes left.
    pub left_bytes: u64,
    /// Done, of 100.
    pub percent: f64,
    /// Of the last second; the average since its start before there is one.
    pub bytes_per_s: u64,
    /// At that rate; none: it does not move.
    pub left_s: Option<u64>,
    /// What keeps it from being faster.
    pub limit: String,
}

/// One service address.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct ServiceAddress {
    /// Address and network bits.
    pub cidr: String,
    /// Portal group tag.
    pub tag: u16,
    /// This box serves it now.
    pub here: bool,
}

/// One volume.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// Name.
    pub name: String,
    /// Identity.
    pub uuid: String,
    /// Size.
    pub size_bytes: u64,
    /// Backing file on this box.
    pub file: String,
    /// Where its data area starts in the file.
    pub data_offset_bytes: u64,
    /// Number in the group.
    pub number: u32,
    /// What it can grow to: its metadata has room for that.
    pub size_max_bytes: u64,
    /// Attached here.
    pub attached: bool,
    /// Bytes that may differ from the peer's copy.
    pub dirty_bytes: u64,
    /// Regions that a crash would make dirty.
    pub hot_regions: u64,
    /// Who sees it.
    pub maps: Vec<LunMap>,
    /// What this box has done with it since it was attached.
    pub work: Work,
    /// The comparison of its two copies, as far as this box made it.
    pub scrub: Scrub,
}

/// The comparison of the two copies of one volume.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Scrub {
    /// A pass that is under way.
    pub running: Option<ScrubPass>,
    /// The last one that came to its end since the volume was attached.
    pub last: Option<ScrubPass>,
}

/// One pass over a volume.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct ScrubPass {
    /// Bytes compared.
    pub compared_bytes: u64,
    /// Blocks of 4 KiB that differ.
    pub differing_blocks: u64,
    /// Blocks that one box could not read and that were written again.
    pub mended_blocks: u64,
    /// Blocks that could not be read, nor mended.
    pub unreadable_blocks: u64,
    /// Since its end; none while it is under way.
    pub ended_ago_s: Option<u64>,
}

/// One LUN map of a volume.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct LunMap {
    /// The host or the host group.
    pub viewer: String,
    /// The number it sees.
    pub lun: u16,
    /// Writes are refused.
    pub read_only: bool,
}

/// Counters of one volume on one box.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Where the time of commands went, part by part.
    pub times: Vec<Times>,
    /// Records written to the intent ring.
    pub intent_writes: u64,
    /// Pages written of the dirty map.
    pub page_writes: u64,
    /// Blocks read to be copied to the other box.
    pub copied_blocks: u64,
}

/// One part of a command's life: `admit`, `intent`, `local`, `remote`, `ack`; `write` and `read`
/// are whole commands.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Times {
    /// Its name.
    pub part: String,
    /// How often.
    pub count: u64,
    /// Mean, in microseconds.
    pub mean_us: u64,
    /// Half took at most this long, in microseconds.
    pub p50_us: u64,
    /// 99 of 100 took at most this long, in microseconds.
    pub p99_us: u64,
    /// The longest, in microseconds.
    pub max_us: u64,
}

/// One logged-in initiator.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Session {
    /// iSCSI name.
    pub initiator: String,
    /// Where it comes from.
    pub address: String,
    /// Tag of the portal it uses.
    pub tag: u16,
}

/// One thing an operator would tell a colleague.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Order on this box since it started.
    pub sequence: u64,
    /// Milliseconds since 1970, for people.
    pub unix_ms: u64,
    /// What happened, what it means for the data, what to do.
    pub text: String,
}

/// One change of the cluster configuration.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Made {
    /// The generation that it made.
    pub generation: Generation,
    /// Milliseconds since 1970, for people.
    pub unix_ms: u64,
    /// What was changed, a sentence for each edit.
    pub told: Vec<String>,
}

impl From<&Past> for Made {
    fn from(past: &Past) -> Self {
        Self {
            generation: past.generation,
            unix_ms: past.unix_ms,
            told: past.told.clone(),
        }
    }
}

/// What a client asks for.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// A change of the cluster configuration.
    Edit(Edit),
    /// Makes the cluster configuration this one.
    Apply {
        /// As `config show` prints it; secrets that are masked stay what they are.
        wanted: Box<Cluster>,
        /// Only say what would change.
        rehearsal: bool,
    },
    /// Takes changes of the cluster configuration back.
    Rollback {
        /// The generation to go back to; none: the one before the newest.
        to: Option<Generation>,
        /// Only say what would change.
        rehearsal: bool,
    },
    /// Moves the primary role; to the peer if no box is named.
    Switchover {
        /// Name of the box.
        to: Option<String>,
    },
    /// Makes the asked box primary whatever it costs (law R9).
    ForcePrimary {
        /// The consequence, typed by an operator; anything else is refused and says it.
        confirm: Option<String>,
    },
    /// Takes a voter that is gone or was reinstalled off the list, so that it can be admitted.
    RemoveVoter {
        /// Name of the box, or `witness`.
        node: String,
    },
    /// How fast the primary copies to the other box.
    Resync(Pace),
    /// Compares both copies of the volume of this name, now.
    Scrub(String),
    /// Drops the sessions of the initiator of this iSCSI name.
    DropSessions(String),
}

/// What is asked of a resync.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// Stop copying.
    Pause,
    /// Go on as before the pause.
    Resume,
    /// As fast as initiators do not feel it.
    Auto,
    /// Not faster than this, nor than that.
    AtMost {
        /// Bytes per second.
        bytes_per_s: u64,
    },
}

/// Why nothing was done.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Decides the exit code.
    pub kind: RefusalKind,
    /// What happened, what it means for the data, what to do next.
    pub message: String,
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// It was tried and failed: exit code 1.
    Failed,
    /// The request makes no sense: exit code 2.
    Usage,
    /// It would endanger data: exit code 3.
    Safety,
}

impl Refusal {
    /// It was tried and failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            kind: RefusalKind::Failed,
            message: message.into(),
        }
    }

    /// The request makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            kind: RefusalKind::Usage,
            message: message.into(),
        }
    }

    /// It would endanger data.
    pub fn safety(message: impl Into<String>) -> Self {
        Self {
            kind: RefusalKind::Safety,
            message: message.into(),
        }
    }

    /// Exit code of the program: 1 failed, 2 usage, 3 refused for safety.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self.kind {
            RefusalKind::Failed => 1,
            RefusalKind::Usage => 2,
            RefusalKind::Safety => 3,
        }
    }
}
