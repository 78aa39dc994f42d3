//! Mutants: deliberate one-place faults, each breaking one law. Without the feature `mutants`
//! every point is `false` and costs nothing.

/// Whether the named mutant is the chosen one.
macro_rules! mutant {
    ($variant:ident) => {
        $crate::mutants::active($crate::mutants::Mutant::$variant)
    };
}
pub(crate) use mutant;

/// The mutants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Mutant {
    /// A restarted primary goes on in its epoch without a new config (R0, H5).
    ResumeEpoch = 1,
    /// Ballot counters start again after a restart (R0, H5b).
    ReuseBallot,
    /// The members of a proposal in flight do not count for acknowledgements (R0b, H1a).
    ForgetDoubt,
    /// A time-out ends doubt, and the degrade in doubt with it (R0b, R1, H2).
    TimeoutEndsDoubt,
    /// A primary that is alone by a proposal not known chosen goes on (R1).
    SoloBeforeChosen,
    /// A box outside S degrades or promotes (R1, R2, H9).
    IgnoreInSync,
    /// A box without all its data becomes primary (R2, H9b).
    IgnoreEligibility,
    /// A promoted box keeps the other in S (R2, H6).
    PromoteBoth,
    /// The epoch sealed is the one known, not the one read (R3, H4).
    SealKnownOnly,
    /// The commit does not wait for the seal (R2, R3).
    CommitBeforeSeal,
    /// A voter breaks its lease promise for a Prepare (R5).
    PrepareThroughLease,
    /// A voter breaks its lease promise for an Accept (R5, H3b).
    AcceptThroughLease,
    /// A voter acknowledges the primary although it promised another's ballot (R5, H3b).
    AckAfterForeignPromise,
    /// The holder's own foreign promise does not end its lease (R5, H3a).
    OwnVoteKeepsLease,
    /// The lease counts from the acknowledgement, not from the heartbeat's sending (R5).
    LeaseFromAck,
    /// A voter forgets its promise across a restart (R5, H16).
    NoRestartWait,
    /// A candidate acknowledges heartbeats (R5, H3b).
    CandidateAcks,
    /// A voter promises to a primary that does not hear it (R5, H19).
    ExtendWithoutEcho,
    /// A solo primary ignores a higher ballot (R5b, H21).
    BlindSolo,
    /// A voter creates a record on Prepare (R10, H14).
    CreateOnPrepare,
    /// Votes of foreign instances count (R10, H13).
    AnyInstance,
    /// A voter that shows an older record keeps its vote (R10, H13).
    TrustRollback,
    /// A voter that is behind is not told (H24).
    NeverLearn,
    /// A reply leaves before the record it depends on is durable (R0).
    ReplyBeforePersist,
    /// The peer of a handover serves before it knows its config chosen (R7, H23).
    ServeUnknown,
    /// Recordings of an older process count as live (R0).
    NoReplayWindow,
    /// A primary that lost its disk stays in S (R1).
    DetachKeepsBoth,
    /// A primary that lost its disk keeps its lease while it gives the role away (R5, R7).
    DetachWithLease,
    /// A primary that lost its disk gives the role to a peer that is silent since then (R1).
    DetachToSilence,
    /// A forced start goes on in the old lineage (R9, H22).
    ForceInLineage,
    /// A box that was not in S is forced, and its peer's copy is taken for older (R9, H22).
    ForceKeepsBase,
    /// A box is forced although a primary is heard (R9, H21).
    ForceOverLiving,
    /// A box of an old lineage outbids the ballots of a later one (R9, H22).
    OutbidLineage,
    /// A forced start does not seal what went before (R9, R3).
    ForceUnsealed,
}

/// Every mutant by name.
pub const NAMES: &[(&str, Mutant)] = &[
    ("resume-epoch", Mutant::ResumeEpoch),
    ("reuse-ballot", Mutant::ReuseBallot),
    ("forget-doubt", Mutant::ForgetDoubt),
    ("timeout-ends-doubt", Mutant::TimeoutEndsDoubt),
    ("solo-before-chosen", Mutant::SoloBeforeChosen),
    ("ignore-in-sync", Mutant::IgnoreInSync),
    ("ignore-eligibility", Mutant::IgnoreEligibility),
    ("promote-both", Mutant::PromoteBoth),
    ("seal-known-only", Mutant::SealKnownOnly),
    ("commit-before-seal", Mutant::CommitBeforeSeal),
    ("prepare-through-lease", Mutant::PrepareThroughLease),
    ("accept-through-lease", Mutant::AcceptThroughLease),
    ("ack-after-foreign-promise", Mutant::AckAfterForeignPromise),
    ("own-vote-keeps-lease", Mutant::OwnVoteKeepsLease),
    ("lease-from-ack", Mutant::LeaseFromAck),
    ("no-restart-wait", Mutant::NoRestartWait),
    ("candidate-acks", Mutant::CandidateAcks),
    ("extend-without-echo", Mutant::ExtendWithoutEcho),
    ("blind-solo", Mutant::BlindSolo),
    ("create-on-prepare", Mutant::CreateOnPrepare),
    ("any-instance", Mutant::AnyInstance),
    ("trust-rollback", Mutant::TrustRollback),
    ("never-learn", Mutant::NeverLearn),
    ("reply-before-persist", Mutant::ReplyBeforePersist),
    ("serve-unknown", Mutant::ServeUnknown),
    ("no-replay-window", Mutant::NoReplayWindow),
    ("detach-keeps-both", Mutant::DetachKeepsBoth),
    ("detach-with-lease", Mutant::DetachWithLease),
    ("detach-to-silence", Mutant::DetachToSilence),
    ("force-in-lineage", Mutant::ForceInLineage),
    ("force-keeps-base", Mutant::ForceKeepsBase),
    ("force-over-living", Mutant::ForceOverLiving),
    ("outbid-lineage", Mutant::OutbidLineage),
    ("force-unsealed", Mutant::ForceUnsealed),
];

/// Mutants that another rule makes up for; they change nothing that anybody can see.
pub const NEUTRAL: &[&str] = &["candidate-acks"];

#[cfg(feature = "mutants")]
static CHOSEN: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(0);

/// Chooses the mutant `name` for the whole process, from now on; `""` chooses none.
///
/// # Errors
/// Lists the names that exist if `name` is none of them.
#[cfg(feature = "mutants")]
pub fn choose(name: &str) -> Result<(), String> {
    let found = NAMES.iter().find(|entry| entry.0 == name);
    let code = match found {
        Some(entry) => entry.1 as u32,
        None if name.is_empty() => 0,
        None => {
            let names: Vec<&str> = NAMES.iter().map(|entry| entry.0).collect();
            return Err(format!(
                "the authority has no mutant {name:?}, only {}",
                names.join(", ")
            ));
        }
    };
    CHOSEN.store(code, core::sync::atomic::Ordering::Relaxed);
    Ok(())
}

#[cfg(feature = "mutants")]
pub(crate) fn active(mutant: Mutant) -> bool {
    CHOSEN.load(core::sync::atomic::Ordering::Relaxed) == mutant as u32
}

/// Whether one is chosen. What leads nowhere in sound code may be its path: it must be noticed
/// from outside.
#[cfg(feature = "mutants")]
pub(crate) fn any_is_active() -> bool {
    CHOSEN.load(core::sync::atomic::Ordering::Relaxed) != 0
}

#[cfg(not(feature = "mutants"))]
pub(crate) const fn any_is_active() -> bool {
    false
}

#[cfg(not(feature = "mutants"))]
pub(crate) const fn active(_mutant: Mutant) -> bool {
    false
}
