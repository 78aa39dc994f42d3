//! The rules: one pure function for each, from the config read to the config to commit.
//!
//! None of them knows time, messages or disks. Each either derives the next config or says why
//! this box may not.

use core::fmt;

use crate::mutants::mutant;
use crate::types::{
    Attached, Config, DataState, DiskInstance, Epoch, Incarnation, Members, NodeId, Parity, Reason,
    Voter,
};

/// Who asks, and what it has.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// This box.
    pub me: NodeId,
    /// This process.
    pub incarnation: Incarnation,
    /// What the engine says about this box's copy; none before it said anything.
    pub data: Option<&'a DataState>,
    /// Generation of this box's cluster configuration.
    pub config_generation: u64,
    /// The highest epoch that this box or its peer sealed: a new epoch is above it. A candidate
    /// may have sealed an epoch that was proposed and never chosen; without this the same number
    /// could be chosen later, and whoever sealed it would refuse its frames for ever (law R3).
    pub floor: Epoch,
}

/// Why a rule does not apply to this box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Another box or another process is primary.
    Superseded {
        /// By that epoch.
        epoch: Epoch,
        /// Its primary.
        primary: Option<NodeId>,
    },
    /// This box is not in S: others have acknowledged writes that it lacks (laws R1, R2).
    NotInSync {
        /// S was committed in that epoch.
        epoch: Epoch,
        /// Who has the data.
        in_sync: Members,
    },
    /// A volume is missing or damaged (H9b, H36).
    NotAttached(String),
    /// The disk failed while it was in use (law D5).
    DiskFailed(String),
    /// The copy is not the one that was in S (H9b).
    OtherDisk,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Superseded {
                epoch,
                primary: Some(node),
            } => {
                write!(f, "{node} is primary since epoch {epoch}")
            }
            Self::Superseded {
                epoch,
                primary: None,
            } => {
                write!(f, "epoch {epoch} ended this box's primacy")
            }
            Self::NotInSync { epoch, in_sync } => {
                let mut names: Vec<String> = in_sync.iter().map(|node| node.to_string()).collect();
                if names.is_empty() {
                    names.push(String::from("no box"));
                }
                let names = names.join(" and ");
                write!(
                    f,
                    "{names} has newer data (epoch {epoch}); start {names}: serving from this box \
                     would lose what was written there"
                )
            }
            Self::NotAttached(reason) => {
                write!(
                    f,
                    "this box's data is not complete: {reason}; bring it back first"
                )
            }
            Self::DiskFailed(reason) => f.write_str(reason),
            Self::OtherDisk => f.write_str(
                "the disks in this box are not the ones that were in sync; put the right disks \
                 in, or let the other box copy to these",
            ),
        }
    }
}

/// In S, with every volume attached and the very copy that was in S (laws R1 and R2, H9).
///
/// # Errors
/// Says what is missing.
pub fn eligible(read: &Config, standing: &Standing<'_>) -> Result<(), Unfit> {
    if !read.in_sync.contains(standing.me) && !mutant!(IgnoreInSync) {
        return Err(Unfit::NotInSync {
            epoch: read.epoch,
            in_sync: read.in_sync,
        });
    }
    whole(read, standing)
}

/// Every volume attached, and the very copy that was in S (H9).
fn whole(read: &Config, standing: &Standing<'_>) -> Result<(), Unfit> {
    if mutant!(IgnoreEligibility) {
        return Ok(());
    }
    match standing.data {
        None => Err(Unfit::NotAttached(String::from(
            "its volumes are not open yet",
        ))),
        Some(DataState {
            attached: Attached::No(reason),
            ..
        }) => Err(Unfit::NotAttached(reason.clone())),
        Some(DataState {
            attached: Attached::Failed(reason),
            ..
        }) => Err(Unfit::DiskFailed(reason.clone())),
        Some(data) if data.disk.is_none() || data.disk != read.disk_of(standing.me) => {
            Err(Unfit::OtherDisk)
        }
        Some(_) => Ok(()),
    }
}

/// Law R1: go on alone. `known` is the config last known chosen: the peer's data epoch is that
/// one, because it hears of a later one only in the data stream, after it is known chosen (H30).
///
/// # Errors
/// Refuses a box that is not primary any more, or not fit.
pub fn degrade(read: &Config, known: &Config, standing: &Standing<'_>) -> Result<Config, Unfit> {
    still_primary(read, standing)?;
    eligible(read, standing)?;
    let alone = Members::one(standing.me);
    if read.in_sync == alone && read.epoch > known.epoch.max(standing.floor) {
        return Ok(read.clone()); // proposed before, in doubt until now
    }
    let mut next = successor(read, standing, Reason::Degrade);
    next.in_sync = alone;
    next.resync_base_epoch = known.resync_base_epoch.clone();
    for node in known.in_sync.without(standing.me).iter() {
        set(&mut next.resync_base_epoch, node, known.epoch);
    }
    Ok(next)
}

/// Law R2: become primary in an epoch above every sealed one; S' is always {me} (H6).
///
/// # Errors
/// Refuses a box that is not fit.
pub fn promote(read: &Config, standing: &Standing<'_>) -> Result<Config, Unfit> {
    eligible(read, standing)?;
    let mut next = successor(read, standing, Reason::Promote);
    next.primary = Some((standing.me, standing.incarnation));
    for node in read.in_sync.without(standing.me).iter() {
        set(&mut next.resync_base_epoch, node, read.epoch);
    }
    if !mutant!(PromoteBoth) {
        next.in_sync = Members::one(standing.me);
    }
    Ok(next)
}

/// Who votes about a forced start (law R9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Electorate {
    /// A majority of the voters answers: the config is committed as any other.
    Majority,
    /// It does not: this box becomes the only voter.
    Alone,
}

/// Law R9: whether this box can be forced at all. It need not be in S, but its copy must once have
/// been, and be complete.
///
/// # Errors
/// Says what is missing.
pub fn forcible(read: &Config, standing: &Standing<'_>) -> Result<(), Unfit> {
    whole(read, standing)
}

/// Law R9: start this box although it could not be promoted. A new lineage begins: nothing of the
/// old one is taken for a predecessor or a successor of it. Who could be promoted, and by a
/// majority, is promoted: then nothing is lost and no lineage begins.
///
/// # Errors
/// Refuses a box without a complete copy that was once in S.
pub fn force(
    read: &Config,
    electorate: Electorate,
    peer: NodeId,
    standing: &Standing<'_>,
) -> Result<Config, Unfit> {
    forcible(read, standing)?;
    let me = standing.me;
    if electorate == Electorate::Majority && eligible(read, standing).is_ok() {
        return promote(read, standing);
    }
    let mut next = successor(read, standing, Reason::Force);
    if !mutant!(ForceInLineage) {
        next.epoch = read.epoch.max(standing.floor).forced(Parity::of(me, peer));
    }
    next.primary = Some((me, standing.incarnation));
    next.in_sync = Members::one(me);
    let shared = read.in_sync.contains(me) || mutant!(ForceKeepsBase);
    for node in read.in_sync.without(me).iter() {
        if shared {
            // Whoever did not go on since is brought up to date from there.
            set(&mut next.resync_base_epoch, node, read.epoch);
        } else {
            // It has what this box lacks: nothing is the difference between the two.
            next.resync_base_epoch.retain(|base| base.0 != node);
        }
    }
    next.resync_base_epoch.retain(|base| base.0 != me);
    if electorate == Electorate::Alone {
        next.voters.retain(|voter| voter.node == me);
    }
    Ok(next)
}

/// Law R6, step (4): the peer holds everything and acks have waited for it.
///
/// # Errors
/// Refuses a box that is not primary any more, or not fit.
pub fn readmit(
    read: &Config,
    peer: (NodeId, DiskInstance),
    standing: &Standing<'_>,
) -> Result<Config, Unfit> {
    still_primary(read, standing)?;
    eligible(read, standing)?;
    let both = Members::pair(standing.me, peer.0);
    if read.in_sync == both && read.disk_of(peer.0) == Some(peer.1) {
        return Ok(read.clone());
    }
    let mut next = successor(read, standing, Reason::Readmit);
    next.in_sync = both;
    set(&mut next.members, peer.0, peer.1);
    next.resync_base_epoch.retain(|base| base.0 != peer.0);
    Ok(next)
}

/// Law R7: the stopped, drained and flushed primary names the peer.
///
/// # Errors
/// Refuses a box that is not primary any more, or a peer that is not in S.
pub fn handover(
    read: &Config,
    to: (NodeId, Incarnation),
    standing: &Standing<'_>,
) -> Result<Config, Unfit> {
    if read.primary == Some(to) {
        return Ok(read.clone());
    }
    still_primary(read, standing)?;
    if !read.in_sync.contains(to.0) {
        return Err(Unfit::NotInSync {
            epoch: read.epoch,
            in_sync: read.in_sync,
        });
    }
    let mut next = successor(read, standing, Reason::Handover);
    next.primary = Some(to);
    Ok(next)
}

/// Law R1, last part: the primary's own disk failed. It answers nothing any more, so what the peer
/// in S has is everything that was acknowledged: the peer becomes primary and the only member in
/// one commit. (Going on as a primary outside S, and handing over then, would be two.)
///
/// `known` is the config last known chosen. If the peer is in S there and not in the one read, the
/// latter is this box's own, in doubt until now: nothing was acknowledged that the peer lacks
/// (law R0b).
///
/// # Errors
/// Refuses a box that is not primary any more, or a peer that is not in S.
pub fn detach(
    read: &Config,
    known: &Config,
    to: (NodeId, Incarnation),
    standing: &Standing<'_>,
) -> Result<Config, Unfit> {
    if read.primary == Some(to) {
        return Ok(read.clone());
    }
    still_primary(read, standing)?;
    let shared = if read.in_sync.contains(to.0) {
        read
    } else {
        known
    };
    if !shared.in_sync.contains(to.0) {
        return Err(Unfit::NotInSync {
            epoch: read.epoch,
            in_sync: read.in_sync,
        });
    }
    let mut next = successor(read, standing, Reason::Detach);
    next.primary = Some(to);
    if !mutant!(DetachKeepsBoth) {
        next.in_sync = Members::one(to.0);
    }
    next.resync_base_epoch = shared.resync_base_epoch.clone();
    for node in shared.in_sync.without(to.0).iter() {
        set(&mut next.resync_base_epoch, node, shared.epoch);
    }
    next.resync_base_epoch.retain(|base| base.0 != to.0);
    Ok(next)
}

/// Law R7 in doubt, and the value read is still the old one: take the handover back, in a new
/// epoch (H2).
///
/// # Errors
/// Refuses a box that is not primary any more.
pub fn take_back(read: &Config, standing: &Standing<'_>) -> Result<Config, Unfit> {
    still_primary(read, standing)?;
    Ok(successor(read, standing, Reason::HandoverCancelled))
}

/// Law R7, the other side: the config that names this box, under a ballot of its own. If this box
/// sealed that epoch meanwhile, as a candidate that gave up, in the next one.
///
/// # Errors
/// Refuses a box that is not primary any more.
pub fn claim(read: &Config, standing: &Standing<'_>) -> Result<Config, Unfit> {
    still_primary(read, standing)?;
    if read.epoch > standing.floor {
        return Ok(read.clone());
    }
    Ok(successor(read, standing, read.reason))
}

/// Law R5 after a foreign promise, and the end of doubt: the same value again.
///
/// # Errors
/// Refuses a box that is not primary any more.
pub fn reaffirm(read: &Config, standing: &Standing<'_>) -> Result<Config, Unfit> {
    still_primary(read, standing)?;
    Ok(read.clone())
}

/// Law R10: fills an empty slot of the roster. Neither S nor the primary changes, so the epoch
/// does not either: nothing on the data path depends on who votes.
///
/// # Errors
/// Refuses a box that is not primary any more.
pub fn admit(read: &Config, voter: Voter, standing: &Standing<'_>) -> Result<Config, Unfit> {
    still_primary(read, standing)?;
    if read.voter(voter.node).is_some() {
        return Ok(read.clone());
    }
    let mut next = successor(read, standing, Reason::Admit);
    next.epoch = read.epoch;
    next.voters.push(voter);
    Ok(next)
}

/// Law R10: empties a slot of the roster, within the epoch.
///
/// # Errors
/// Refuses a box that is not primary any more.
pub fn remove(read: &Config, node: NodeId, standing: &Standing<'_>) -> Result<Config, Unfit> {
    still_primary(read, standing)?;
    if read.voter(node).is_none() {
        return Ok(read.clone());
    }
    let mut next = successor(read, standing, Reason::Remove);
    next.epoch = read.epoch;
    next.voters.retain(|voter| voter.node != node);
    Ok(next)
}

/// Law R0: an epoch belongs to one process of one box.
fn still_primary(read: &Config, standing: &Standing<'_>) -> Result<(), Unfit> {
    if read.primary == Some((standing.me, standing.incarnation)) {
        return Ok(());
    }
    let primary = read.primary.map(|primary| primary.0);
    Err(Unfit::Superseded {
        epoch: read.epoch,
        primary,
    })
}

fn successor(read: &Config, standing: &Standing<'_>, reason: Reason) -> Config {
    Config {
        epoch: read.epoch.max(standing.floor).next(),
        config_generation: standing.config_generation,
        reason,
        ..read.clone()
    }
}

fn set<T>(entries: &mut Vec<(NodeId, T)>, node: NodeId, value: T) {
    entries.retain(|entry| entry.0 != node);
    entries.push((node, value));
    entries.sort_by_key(|entry| entry.0);
}
