//! What a run of the swarm must have seen: every step of both state machines, every outcome of a
//! handshake, every rule, every kind of message delivered and lost, every kind of fault, and a
//! crash inside each routine that writes metadata. A large run that lacks one of these fails: a
//! promise that was never at risk was not tested.

use ha::Reason;
use replication::engine::PeerLoss;
use replication::wire::Kind;

use crate::faults::Fault;
use crate::net::Host;
use crate::world::trace::Counts;

/// A run of this many histories or more must have seen everything but [`EXCUSED`]: each of the rest
/// was seen eight times or more in so many.
pub const HISTORIES_MIN: u64 = 50_000;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrived.
    Delivered,
    /// It did not.
    Lost,
    /// It arrived once more.
    Twice,
}

const FRAMES: usize = 64;
const DATAGRAMS: usize = 16;

/// The kinds of datagrams, by the number in their header.
const DATAGRAM_KINDS: [&str; 9] = [
    "Hello",
    "Heartbeat",
    "Ack",
    "Prepare",
    "Promise",
    "Accept",
    "Accepted",
    "Nack",
    "Learn",
];
/// Where a datagram has its kind.
const DATAGRAM_KIND_AT: usize = 7;
/// Where a frame has its kind.
const FRAME_KIND_AT: usize = 6;

/// Messages by kind and fate: counted at each message, so without words.
#[derive(Clone, Debug)]
pub struct Traffic {
    frames: [[u64; 3]; FRAMES],
    datagrams: [[u64; 3]; DATAGRAMS],
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            frames: [[0; 3]; FRAMES],
            datagrams: [[0; 3]; DATAGRAMS],
        }
    }
}

impl Traffic {
    /// Counts a frame by its header.
    pub fn frame(&mut self, header: &[u8], fate: Fate) {
        if let Some(counts) = self.frames.get_mut(usize::from(header[FRAME_KIND_AT])) {
            counts[fate as usize] += 1;
        }
    }

    /// Counts a datagram.
    pub fn datagram(&mut self, bytes: &[u8], fate: Fate) {
        let kind = bytes.get(DATAGRAM_KIND_AT).copied().map(usize::from);
        if let Some(counts) = kind.and_then(|kind| self.datagrams.get_mut(kind)) {
            counts[fate as usize] += 1;
        }
    }

    /// Adds what was counted under its names.
    pub fn name(&self, counts: &mut Counts) {
        for (number, [delivered, lost, _]) in self.frames.iter().enumerate() {
            let kind = Kind::ALL.into_iter().find(|kind| *kind as usize == number);
            if let Some(kind) = kind {
                counts.add_many(&frame_item(kind, Fate::Delivered), *delivered);
                counts.add_many(&frame_item(kind, Fate::Lost), *lost);
            }
        }
        for (number, name) in (1..).zip(DATAGRAM_KINDS) {
            for fate in [Fate::Delivered, Fate::Lost, Fate::Twice] {
                let count = self.datagrams[number][fate as usize];
                counts.add_many(&datagram_item(name, fate), count);
            }
        }
    }
}

/// The name of a datagram's kind.
pub fn datagram_name(bytes: &[u8]) -> &'static str {
    let kind = bytes.get(DATAGRAM_KIND_AT).copied().unwrap_or(0);
    let index = usize::from(kind).checked_sub(1);
    let name = index.and_then(|index| DATAGRAM_KINDS.get(index));
    name.copied().unwrap_or("damaged")
}

/// The name of a frame's kind.
pub fn frame_name(header: &[u8]) -> String {
    let kind = Kind::ALL
        .into_iter()
        .find(|kind| *kind as u8 == header[FRAME_KIND_AT]);
    kind.map_or_else(|| "damaged".to_owned(), |kind| format!("{kind:?}"))
}

fn frame_item(kind: Kind, fate: Fate) -> String {
    format!("frame {kind:?} {}", fate_name(fate))
}

fn datagram_item(kind: &str, fate: Fate) -> String {
    format!("datagram {kind} {}", fate_name(fate))
}

const fn fate_name(fate: Fate) -> &'static str {
    match fate {
        Fate::Delivered => "delivered",
        Fate::Lost => "lost",
        Fate::Twice => "twice",
    }
}

/// Where in a backing a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    /// One of the four superblocks.
    Superblock,
    /// A slot of the group state.
    Group,
    /// The ring of intents.
    Intents,
    /// The index of the dirty map.
    Index,
    /// A page of the dirty map.
    DirtyMap,
    /// The data area.
    Data,
}

impl Area {
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::Superblock,
        Self::Group,
        Self::Intents,
        Self::Index,
        Self::DirtyMap,
        Self::Data,
    ];

    /// The area that begins at or before an offset, in a backing of that size.
    pub fn of(offset_bytes: u64, data_offset: u64, backing_bytes: u64) -> Self {
        use replication::meta::{HEAD_BYTES, group, index, intent, superblock};
        if offset_bytes >= superblock::tail_offset(backing_bytes) {
            Self::Superblock
        } else if offset_bytes >= data_offset {
            Self::Data
        } else if offset_bytes >= HEAD_BYTES {
            Self::DirtyMap
        } else if offset_bytes >= index::OFFSET {
            Self::Index
        } else if offset_bytes >= intent::OFFSET {
            Self::Intents
        } else if offset_bytes >= group::OFFSETS[0] {
            Self::Group
        } else {
            Self::Superblock
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Superblock => "superblock",
            Self::Group => "group state",
            Self::Intents => "intents",
            Self::Index => "index",
            Self::DirtyMap => "dirty map",
            Self::Data => "data",
        }
    }
}

/// How a process came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By a signal.
    Kill,
    /// With its machine.
    PowerCut,
}

impl End {
    const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::PowerCut => "power cut",
        }
    }
}

/// A write was under way when the process died.
pub fn crash_item(end: End, area: Area) -> String {
    format!("{} during a write of {}", end.name(), area.name())
}

/// The record of the register was being written when the process died.
pub fn record_crash_item(host: Host) -> String {
    format!("{host} died while its record was written")
}

/// A step of the mirror's state machine.
pub fn mirror_edge(from: replication::engine::Role, to: replication::engine::Role) -> String {
    format!("mirror {from:?} -> {to:?}")
}

/// A step of the authority's state machine.
pub fn role_edge(from: ha::Role, to: ha::Role) -> String {
    format!("role {from:?} -> {to:?}")
}

/// A rule by which a config was chosen.
pub fn rule_item(reason: Reason) -> String {
    format!("rule {reason:?}")
}

/// Why a data session ended.
pub fn loss_item(why: PeerLoss) -> String {
    format!("peer lost {why:?}")
}

/// Outcomes of a handshake, by row of the compare table. Rows 1 and 2, and the first half of row
/// 7, need another group, a forced start or a disk that was put back: they cannot happen here, and
/// `replication/src/engine/compare.rs` walks every combination of its inputs.
pub const HANDSHAKES: [&str; 5] = [
    "handshake row 3, 6: full",
    "handshake row 4: differs",
    "handshake row 4: equal",
    "handshake row 5: delta",
    "handshake row 7: sealed",
];

const REASONS: [Reason; 9] = [
    Reason::Genesis,
    Reason::Degrade,
    Reason::Promote,
    Reason::Readmit,
    Reason::Handover,
    Reason::HandoverCancelled,
    Reason::Admit,
    Reason::Remove,
    Reason::Detach,
];

const LOSSES: [PeerLoss; 6] = [
    PeerLoss::Silent,
    PeerLoss::Closed,
    PeerLoss::OtherIncarnation,
    PeerLoss::Sealed,
    PeerLoss::DiskFailed,
    PeerLoss::Differs,
];

/// Other things that only happen if everything around them does.
const OTHERS: [&str; 25] = [
    "acknowledged and forgotten",
    "cache lost",
    "command not primary",
    "copied, blocks of zeroes",
    "copied, blocks sent",
    "copied, different blocks",
    "copied, equal blocks",
    "copy limited",
    "copy paused",
    "disk Medium",
    "disk NoSpace",
    "disk error",
    "initiator gave up",
    "killed as source of a copy, Asked",
    "killed as source of a copy, Copying",
    "killed as source of a copy, Draining",
    "killed as source of a copy, Flushing",
    "killed as target of a copy",
    "killed at a turning point of a copy",
    "operator ok",
    "operator refused",
    "replayed",
    "thawed",
    "volume grown",
    "volume made",
];

/// What a run need not have seen, and why.
const EXCUSED: [(&str, &str); 16] = [
    ("rule Genesis", "the config that every history begins with"),
    ("rule HandoverCancelled", UNSEEN),
    (
        "mirror Attaching -> Failed",
        "a disk that fails at the start is not attached",
    ),
    (
        "mirror Blank -> Failed",
        "a disk that fails at the start is not attached",
    ),
    ("mirror Activating -> Secondary", UNSEEN),
    ("mirror Activating -> Draining", UNSEEN),
    ("mirror Activating -> Frozen", UNSEEN),
    ("mirror Serving -> Secondary", SELDOM),
    ("mirror Serving -> Activating", SELDOM),
    ("mirror Draining -> Activating", UNSEEN),
    ("mirror Draining -> Serving", UNSEEN),
    ("role HandingOver -> PrimarySolo", UNSEEN),
    ("role Sealing -> Candidate", SELDOM),
    ("handshake row 7: sealed", SELDOM),
    ("peer lost Sealed", SELDOM),
    ("frame VolumeDelete lost", SELDOM),
];
/// All that is known of them: nothing says that they cannot happen.
const UNSEEN: &str = "not seen in 50,000 histories";
/// So a run may miss them by chance.
const SELDOM: &str = "seen one to seven times in 50,000 histories";

/// The names of everything that a large run must have seen.
pub fn items() -> Vec<String> {
    let mut items = everything();
    items.retain(|item| !EXCUSED.iter().any(|(excused, _)| excused == item));
    items
}

fn everything() -> Vec<String> {
    let mut items: Vec<String> = Fault::ALL
        .iter()
        .map(|fault| format!("fault {fault}"))
        .collect();
    items.extend(REASONS.into_iter().map(rule_item));
    items.extend(LOSSES.into_iter().map(loss_item));
    items.extend(HANDSHAKES.into_iter().chain(OTHERS).map(str::to_owned));
    let mirror = replication::engine::EDGES.iter();
    items.extend(mirror.map(|(from, to)| mirror_edge(*from, *to)));
    items.extend(ha::EDGES.iter().map(|(from, to)| role_edge(*from, *to)));
    for kind in Kind::ALL {
        items.extend([Fate::Delivered, Fate::Lost].map(|fate| frame_item(kind, fate)));
    }
    for kind in DATAGRAM_KINDS {
        let fates = [Fate::Delivered, Fate::Lost, Fate::Twice];
        items.extend(fates.map(|fate| datagram_item(kind, fate)));
    }
    for area in Area::ALL {
        items.extend([End::Kill, End::PowerCut].map(|end| crash_item(end, area)));
    }
    let hosts = [crate::net::SAN1, crate::net::SAN2, crate::net::WITNESS];
    items.extend(hosts.map(record_crash_item));
    items
}

/// What must be seen and was not.
pub fn missing(counts: &Counts) -> Vec<String> {
    let mut missing = items();
    missing.retain(|item| counts.of(item) == 0);
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_seen_is_named() {
        let mut counts = Counts::default();
        let all = items();
        assert_eq!(missing(&counts), all);
        for item in &all[1..] {
            counts.add(item);
        }
        assert_eq!(missing(&counts), all[..1]);
    }

    #[test]
    fn no_item_is_listed_twice_and_excuses_are_about_items() {
        let all = everything();
        let unique: std::collections::BTreeSet<&String> = all.iter().collect();
        assert_eq!(unique.len(), all.len());
        for (item, why) in EXCUSED {
            assert!(all.iter().any(|known| known == item) && !why.is_empty());
        }
    }

    #[test]
    fn messages_are_counted_under_their_names() {
        let mut traffic = Traffic::default();
        let mut header = [0; 64];
        header[FRAME_KIND_AT] = Kind::Flush as u8;
        traffic.frame(&header, Fate::Lost);
        traffic.datagram(&[0, 0, 0, 0, 0, 0, 0, 4], Fate::Twice);
        let mut counts = Counts::default();
        traffic.name(&mut counts);
        assert_eq!(counts.of("frame Flush lost"), 1);
        assert_eq!(counts.of("datagram Prepare twice"), 1);
        assert_eq!(counts.0.len(), 2, "what did not happen is not there");
    }

    #[test]
    fn every_place_of_a_backing_has_an_area() {
        let (data_offset, backing_bytes) = (1 << 20, (17 << 20) + 8192);
        let head = [0, 4096, 65_536, 196_608, 458_752, 589_824];
        let rest = [data_offset, backing_bytes - 8192, backing_bytes - 4096];
        let areas = head.into_iter().chain(rest);
        let found = areas.map(|at| Area::of(at, data_offset, backing_bytes));
        let expected = [
            Area::Superblock,
            Area::Superblock,
            Area::Group,
            Area::Intents,
            Area::Index,
            Area::DirtyMap,
            Area::Data,
            Area::Superblock,
            Area::Superblock,
        ];
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }
}
