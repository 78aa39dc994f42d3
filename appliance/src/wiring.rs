//! What one core says becomes what another hears: pure, and the only place where authority and
//! mirror meet. The daemon and the simulator call the same functions.
//!
//! ```text
//!   ha::Node ── Authority, Seal, Handover, Lease ──▶ replication::Engine
//!            ◀── Data, Peer*, Sealed, Serving, Readmit, Drained ──
//! ```
//!
//! The caller keeps the order: what [`to_mirror`] makes of one output is fed to the engine before
//! the next output of the node is acted upon. So a lease is revoked before the promise that
//! revokes it leaves (law R5), and a demotion reaches the engine before its addresses go (law R8).

use ha::node as authority;
use replication::engine as mirror;

/// What the engine must hear of an output of the node; none if it is for others.
#[must_use]
pub fn to_mirror(output: &authority::Output) -> Option<mirror::Input> {
    use authority::Output;
    match output {
        Output::Authority(granted) => Some(mirror::Input::Authority(granted_to(granted))),
        Output::Seal { epoch } => Some(mirror::Input::Seal {
            epoch: mirror_epoch(*epoch),
        }),
        Output::Handover { epoch, id } => Some(mirror::Input::Handover {
            epoch: mirror_epoch(*epoch),
            id: *id,
        }),
        Output::HandoverCancelled { id } => Some(mirror::Input::HandoverCancelled { id: *id }),
        Output::Lease(lease) => Some(mirror::Input::Lease(lease_of(*lease))),
        Output::Persist { .. }
        | Output::Send { .. }
        | Output::Start(_)
        | Output::Stop(_)
        | Output::Answer { .. }
        | Output::Event(_) => None,
    }
}

/// What the node must hear of an event of the engine; none if it is for operators only.
#[must_use]
pub fn to_authority(event: &mirror::Event) -> Option<authority::Input> {
    use mirror::Event;
    match event {
        Event::Data(data) => Some(authority::Input::Data(data_state(data))),
        Event::PeerUp { incarnation, disk } => Some(authority::Input::PeerUp {
            incarnation: ha::Incarnation(incarnation.0),
            disk: ha::DiskInstance(disk.0),
        }),
        Event::PeerLost { number, why } => Some(authority::Input::PeerLost {
            number: *number,
            why: loss(*why),
        }),
        Event::Sealed { epoch } => Some(authority::Input::Sealed {
            epoch: ha::Epoch(epoch.0),
        }),
        Event::Serving { epoch } => Some(authority::Input::Serving {
            epoch: ha::Epoch(epoch.0),
        }),
        Event::Readmit { epoch, peer_disk } => Some(authority::Input::Readmit {
            epoch: ha::Epoch(epoch.0),
            peer_disk: ha::DiskInstance(peer_disk.0),
        }),
        Event::Drained { id } => Some(authority::Input::Drained { id: *id }),
        Event::CacheLost { .. }
        | Event::Replayed { .. }
        | Event::Thawed
        | Event::ResyncStarted { .. }
        | Event::ResyncProgress { .. }
        | Event::ResyncDone
        | Event::InSync { .. }
        | Event::VolumeReady { .. }
        | Event::VolumeGrown { .. }
        | Event::VolumeGone { .. }
        | Event::CopiesDiffer { .. }
        | Event::Scrubbed { .. }
        | Event::Alarm(_) => None,
    }
}

/// A lease, in the engine's words.
#[must_use]
pub const fn lease_of(lease: authority::Lease) -> mirror::Lease {
    match lease {
        authority::Lease::None => mirror::Lease::None,
        authority::Lease::Until(time) => mirror::Lease::Until(replication::types::Time(time.0)),
        authority::Lease::Unlimited => mirror::Lease::Unlimited,
    }
}

fn granted_to(granted: &authority::Authority) -> mirror::Authority {
    match granted {
        authority::Authority::Secondary { epoch } => mirror::Authority::Secondary {
            epoch: mirror_epoch(*epoch),
        },
        authority::Authority::Primary {
            epoch,
            in_sync,
            doubt,
            peer_base,
            peer_disk,
            answers,
        } => mirror::Authority::Primary {
            epoch: mirror_epoch(*epoch),
            in_sync: members(*in_sync),
            doubt: doubt.map(members),
            peer_base: peer_base.map(mirror_epoch),
            peer_disk: peer_disk.map(|disk| replication::types::DiskInstance(disk.0)),
            answers: *answers,
        },
    }
}

fn members(set: ha::Members) -> replication::types::Members {
    let nodes: Vec<_> = set
        .iter()
        .map(|node| replication::types::NodeId(node.0))
        .collect();
    replication::types::Members::of(&nodes)
}

const fn mirror_epoch(epoch: ha::Epoch) -> replication::types::Epoch {
    replication::types::Epoch(epoch.0)
}

/// The newest state of a box's copy that its record knows of, for the engine's first input.
#[must_use]
pub fn newest_copy(record: &ha::Record) -> Option<replication::types::CopyMark> {
    let (disk, generation) = record.copy?;
    let disk = replication::types::DiskInstance(disk.0);
    Some(replication::types::CopyMark { disk, generation })
}

fn data_state(data: &mirror::DataState) -> ha::DataState {
    ha::DataState {
        attached: match &data.attached {
            mirror::Attached::Yes => ha::Attached::Yes,
            mirror::Attached::No(why) => ha::Attached::No(why.clone()),
            mirror::Attached::Failed(why) => ha::Attached::Failed(why.clone()),
        },
        disk: data.disk.map(|disk| ha::DiskInstance(disk.0)),
        generation: data.generation,
        cache_lost: data.cache_lost,
    }
}

const fn loss(why: mirror::PeerLoss) -> ha::PeerLoss {
    match why {
        mirror::PeerLoss::Silent => ha::PeerLoss::Silent,
        mirror::PeerLoss::Closed => ha::PeerLoss::Closed,
        mirror::PeerLoss::OtherIncarnation => ha::PeerLoss::OtherIncarnation,
        mirror::PeerLoss::Sealed => ha::PeerLoss::Sealed,
        mirror::PeerLoss::DiskFailed => ha::PeerLoss::DiskFailed,
        mirror::PeerLoss::Differs => ha::PeerLoss::Differs,
    }
}

/// Chooses the mutant `name` in the core that has it, for the whole process; `""` chooses none.
///
/// # Errors
/// Lists the mutants of both cores if `name` is none of them.
#[cfg(feature = "mutants")]
pub fn choose_mutant(name: &str) -> Result<(), String> {
    match (
        ha::mutants::choose(name),
        replication::mutants::choose(name),
    ) {
        (Err(authority), Err(mirror)) => Err(format!("{authority}; {mirror}")),
        (Ok(()), _) | (_, Ok(())) => Ok(()),
    }
}
