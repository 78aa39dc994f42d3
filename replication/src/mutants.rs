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
    /// The peer's intents are not joined to the dirty map (I3).
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
    /// A readmission ends by words that were said before its loss was known (R6).
    StaleAnswer,
}

/// Every mutant by name.
pub const NAMES: &[(&str, Mutant)] = &[
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
    ("stale-answer", Mutant::StaleAnswer),
];

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
