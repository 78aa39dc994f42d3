//! Deliberate one-place faults. Without the feature `mutants` every point is `false`.
//!
//! A mutant breaks one law; the test suite shows that each is noticed.

/// Names a point in the code that a chosen mutant changes.
macro_rules! mutant {
    ($variant:ident) => {
        $crate::mutants::active($crate::mutants::Mutant::$variant)
    };
}
pub(crate) use mutant;

/// The list of mutants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Mutant {
    /// The primary neither sends a write to the peer nor waits for it (R4).
    DropAck = 1,
    /// The primary sends the write but does not wait for the peer (R4).
    AckWithoutPeer,
    /// A sealed box applies frames of sealed epochs (R3).
    SkipSeal,
    /// `Sealed` does not wait for older disk operations (R2, H8).
    SealWithoutDrain,
    /// Dirty bits are cleared when the copy is on the device, not when it is stable (D1).
    ClearUnstable,
    /// A read is answered without a lease (R5).
    ReadWithoutLease,
    /// A read does not wait for overlapping incomplete writes (R4, H7).
    ReadPastWrite,
    /// What is not stable on the peer is forgotten when the peer is lost (R1, H28).
    ForgetUnstable,
    /// Only writes without an acknowledgement become dirty at the loss of the peer (H28).
    ForgetAcked,
    /// No flush between a new epoch and its first acknowledgement (R1, R2, H12).
    ServeWithoutFlush,
    /// Writes leave before their intent is durable (D2).
    SkipIntent,
    /// A flush is answered when the local disk has flushed (R4).
    FlushLocalOnly,
    /// The peer's intents are not joined to the dirty map (D2).
    IgnorePeerMask,
    /// The secondary applies overlapping frames in any order (R4).
    IgnoreOrder,
    /// Readmission is asked for before the earlier writes are on the peer (R6, H1b).
    ReadmitEarly,
    /// A blank peer counts as equal (D6).
    TrustBlankPeer,
    /// A page that fails its check counts as zeros (D2, H35).
    BadPageIsClean,
    /// Held writes complete before the new epoch is durable (R1).
    ResumeBeforePersist,
    /// The loss of the peer is reported before what was acknowledged is stable (R1).
    LoseUnflushed,
    /// A seal is reported before what was acknowledged is stable (R2).
    SealUnflushed,
    /// A readmission ends by words that were said before its loss was known (R6).
    StaleAnswer,
    /// A peer that marks nothing itself is taken for equal: nothing is copied to it (D1).
    ClearByDecision,
    /// A write that is not mirrored does not send a block again that is on its way (D1).
    KeepSentChunk,
    /// A block is copied without its range lock (D1, R4).
    CopyUnlocked,
    /// Intents become cold without the flush of the peer (D2).
    SettleLocally,
    /// Regions written since the flush began become cold with it (D2).
    CoolEarly,
    /// Regions that were hot at the crash are not marked at the start (D2).
    StartCold,
    /// The secondary acknowledges a frame when it hands it to its disk (R4).
    AckBeforeDisk,
    /// The secondary answers a flush when it hands it to its disk (R4).
    FlushBeforeDisk,
    /// A forced write is mirrored as an ordinary one (R4).
    DropFua,
    /// A dial that failed is never tried again (R6).
    StuckDial,
    /// Zeroes of an application are acknowledged by the secondary and not written (R4).
    SkipZeroes,
    /// Zeroes of a copy are acknowledged by the secondary and not written (D1).
    SkipZeroChunk,
    /// A box whose power was lost does not say that its cache may be (D5).
    SilentCacheLoss,
    /// A secondary forgets over a power cut that it was one (D5, H12).
    ForgetFollowing,
    /// A flush that failed counts as done (D5).
    IgnoreFlushError,
    /// A mirrored write that failed is acknowledged (R4).
    IgnoreApplyError,
    /// A handover clears the intents without flushing (R7, D2).
    HandoverUnflushed,
    /// A frame may carry the number of another session (D4).
    AnySession,
    /// The primary says that it lives twice as often as it has to (D4).
    PingOften,
    /// A write that found no room on one box leaves the copies as they are (R4).
    KeepHalfWrite,
    /// Who is primary no more completes what waited for the peer (R8).
    DemoteLate,
    /// A frame for which the secondary had no room counts as applied (D4, R4).
    CountRefused,
    /// Kept writes that were acknowledged are not sent again to a restarted peer (D4, H27).
    ReplayToAnybody,
    /// Owed blocks are clean when the kept writes are on the device, not when stable (D1, D4).
    PayEarly,
    /// The proof of the key does not cover the channel (D4).
    UnboundProof,
    /// Blocks are compared by nothing but a short hash (D1, H33).
    ShortHash,
    /// Writes run on whatever a copy wins (R6).
    EndlessCopy,
    /// A page of the dirty map counts as durable before the index lists it (D2).
    ForgetIndex,
    /// What is new of a volume that grows is not made zero (D6).
    GrowDirty,
    /// The loss of the peer is reported before the failure of the own disk (R1, D5).
    LoseBeforeFailure,
    /// A seal is reported although the disk failed (R2, D5).
    SealFailed,
    /// A copy that was put back to an older state is taken for the newest (D7, H36).
    TrustOldData,
    /// The peer of a scrub says that everything is equal (H33).
    ScrubBlind,
    /// A scrub reads on both sides without waiting for the writes before it (H33).
    ScrubAnywhere,
}

/// Every mutant by name.
pub const NAMES: &[(&str, Mutant)] = &[
    ("lose-before-failure", Mutant::LoseBeforeFailure),
    ("seal-failed", Mutant::SealFailed),
    ("trust-old-data", Mutant::TrustOldData),
    ("drop-ack", Mutant::DropAck),
    ("ack-without-peer", Mutant::AckWithoutPeer),
    ("skip-seal", Mutant::SkipSeal),
    ("seal-without-drain", Mutant::SealWithoutDrain),
    ("clear-unstable", Mutant::ClearUnstable),
    ("read-without-lease", Mutant::ReadWithoutLease),
    ("read-past-write", Mutant::ReadPastWrite),
    ("forget-unstable", Mutant::ForgetUnstable),
    ("forget-acked", Mutant::ForgetAcked),
    ("serve-without-flush", Mutant::ServeWithoutFlush),
    ("skip-intent", Mutant::SkipIntent),
    ("flush-local-only", Mutant::FlushLocalOnly),
    ("ignore-peer-mask", Mutant::IgnorePeerMask),
    ("ignore-order", Mutant::IgnoreOrder),
    ("readmit-early", Mutant::ReadmitEarly),
    ("trust-blank-peer", Mutant::TrustBlankPeer),
    ("bad-page-is-clean", Mutant::BadPageIsClean),
    ("resume-before-persist", Mutant::ResumeBeforePersist),
    ("lose-unflushed", Mutant::LoseUnflushed),
    ("seal-unflushed", Mutant::SealUnflushed),
    ("stale-answer", Mutant::StaleAnswer),
    ("clear-by-decision", Mutant::ClearByDecision),
    ("keep-sent-chunk", Mutant::KeepSentChunk),
    ("copy-unlocked", Mutant::CopyUnlocked),
    ("settle-locally", Mutant::SettleLocally),
    ("cool-early", Mutant::CoolEarly),
    ("start-cold", Mutant::StartCold),
    ("ack-before-disk", Mutant::AckBeforeDisk),
    ("flush-before-disk", Mutant::FlushBeforeDisk),
    ("drop-fua", Mutant::DropFua),
    ("stuck-dial", Mutant::StuckDial),
    ("skip-zeroes", Mutant::SkipZeroes),
    ("skip-zero-chunk", Mutant::SkipZeroChunk),
    ("silent-cache-loss", Mutant::SilentCacheLoss),
    ("forget-following", Mutant::ForgetFollowing),
    ("ignore-flush-error", Mutant::IgnoreFlushError),
    ("ignore-apply-error", Mutant::IgnoreApplyError),
    ("handover-unflushed", Mutant::HandoverUnflushed),
    ("any-session", Mutant::AnySession),
    ("ping-often", Mutant::PingOften),
    ("keep-half-write", Mutant::KeepHalfWrite),
    ("demote-late", Mutant::DemoteLate),
    ("count-refused", Mutant::CountRefused),
    ("replay-to-anybody", Mutant::ReplayToAnybody),
    ("pay-early", Mutant::PayEarly),
    ("unbound-proof", Mutant::UnboundProof),
    ("short-hash", Mutant::ShortHash),
    ("endless-copy", Mutant::EndlessCopy),
    ("forget-index", Mutant::ForgetIndex),
    ("grow-dirty", Mutant::GrowDirty),
    ("scrub-blind", Mutant::ScrubBlind),
    ("scrub-anywhere", Mutant::ScrubAnywhere),
];

/// Mutants that another rule makes up for; they change nothing that anybody can see. A session has
/// an identity of its own already, and more pings than needed do no harm.
pub const NEUTRAL: &[&str] = &["any-session", "ping-often"];

/// The law that a failure names: one letter, digits and a colon at its start. A mutant counts as
/// killed only by a failure that names one, and not by a panic of its own.
#[must_use]
pub fn law_of(failure: &str) -> Option<&str> {
    let id = failure.split(':').next()?;
    let letter = id.trim_end_matches(|c: char| c.is_ascii_digit());
    let named = letter.len() == 1 && id.len() > 1 && letter.chars().all(char::is_alphabetic);
    named.then_some(id)
}

#[cfg(feature = "mutants")]
static CHOSEN: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

/// Chooses the mutant `name` for the whole process, from now on; `""` chooses none.
///
/// # Errors
/// Names the mutants that exist if `name` is none of them.
#[cfg(feature = "mutants")]
pub fn choose(name: &str) -> Result<(), String> {
    let chosen = if name.is_empty() {
        0
    } else {
        let found = NAMES.iter().find(|(known, _)| *known == name);
        let Some((_, mutant)) = found else {
            let known: Vec<_> = NAMES.iter().map(|(known, _)| *known).collect();
            return Err(format!(
                "the mirror has no mutant {name:?}, only {}",
                known.join(", ")
            ));
        };
        *mutant as u32
    };
    CHOSEN.store(chosen, std::sync::atomic::Ordering::Relaxed);
    Ok(())
}

#[cfg(feature = "mutants")]
pub(crate) fn active(mutant: Mutant) -> bool {
    CHOSEN.load(std::sync::atomic::Ordering::Relaxed) == mutant as u32
}

/// Whether one is chosen. What leads nowhere in sound code may be its path: it must be noticed
/// from outside.
#[cfg(feature = "mutants")]
pub(crate) fn any_is_active() -> bool {
    CHOSEN.load(std::sync::atomic::Ordering::Relaxed) != 0
}

#[cfg(not(feature = "mutants"))]
pub(crate) const fn any_is_active() -> bool {
    false
}

#[cfg(not(feature = "mutants"))]
pub(crate) const fn active(_mutant: Mutant) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::law_of;

    #[test]
    fn only_named_laws_count() {
        assert_eq!(law_of("L1: volume 1 sector 3: ..."), Some("L1"));
        assert_eq!(law_of("R10: more than one voter"), Some("R10"));
        assert_eq!(law_of("assertion failed: x"), None);
        assert_eq!(law_of("R: x"), None);
    }
}
