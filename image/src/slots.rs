//! Which firmware slot starts next, and what an update may touch. Not used by a running box yet:
//! there is no updater.
//!
//! A slot is one unified kernel image on the ESP, in `EFI/Linux`. Its file name is its whole
//! state; the boot loader counts in it before the kernel starts (the Boot Loader Specification's
//! "boot counting"), so a slot that hangs early is left as well:
//!
//! ```text
//!   twinsan_7.new ──rename──▶ twinsan_7+3-0.efi ──boot──▶ twinsan_7+2-1.efi ──boot──▶ …+1-2
//!   (being written)              staged │                         │                     │
//!                                       ▼ blessed                 ▼ blessed             ▼ boot
//!                                 twinsan_7.efi ◀─────────────────┘          twinsan_7+0-3.efi
//!                                    good                                        failed
//! ```
//!
//! Invariants: the slot that is running is never deleted and never written to, only renamed by
//! its own blessing; at every moment of an update there is a complete file that boots.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Attempts a new slot has before the boot loader leaves it.
pub const TRIES: u32 = 3;

/// Orders the slots: every update counts it up, so the boot loader prefers the newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u32);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether a slot has proved itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Blessed: it came up healthy once, no counter in the name.
    Good,
    /// Not blessed yet.
    Trying {
        /// Attempts left, at least one.
        left: u32,
        /// Attempts made.
        done: u32,
    },
    /// Every attempt was used and none was blessed.
    Failed {
        /// Attempts made.
        done: u32,
    },
}

/// One slot, as its file name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Which update put it there.
    pub generation: Generation,
    /// Whether it may be trusted.
    pub standing: Standing,
}

/// A file name that is not one of ours: such files are left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a slot file name (twinsan_GENERATION[+LEFT[-DONE]].efi)")]
pub struct ForeignName;

impl FromStr for Slot {
    type Err = ForeignName;

    fn from_str(name: &str) -> Result<Self, ForeignName> {
        let stem = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.strip_suffix(SUFFIX));
        let stem = stem.ok_or(ForeignName)?;
        let (generation, counter) = match stem.split_once('+') {
            None => (stem, None),
            Some((generation, counter)) => (generation, Some(counter)),
        };
        let standing = match counter.map(|c| c.split_once('-').unwrap_or((c, "0"))) {
            None => Standing::Good,
            Some((left, done)) => standing(number(left)?, number(done)?),
        };
        Ok(Self {
            generation: Generation(number(generation)?),
            standing,
        })
    }
}

fn standing(left: u32, done: u32) -> Standing {
    if left == 0 {
        Standing::Failed { done }
    } else {
        Standing::Trying { left, done }
    }
}

/// Digits only, and written as we write them: a second spelling of a name would be a second file.
fn number(digits: &str) -> Result<u32, ForeignName> {
    let value: u32 = digits.parse().map_err(|_| ForeignName)?;
    if value.to_string() == digits {
        Ok(value)
    } else {
        Err(ForeignName)
    }
}

impl Slot {
    /// The file name that says this state.
    pub fn file_name(&self) -> String {
        let generation = self.generation;
        match self.standing {
            Standing::Good => format!("{PREFIX}{generation}{SUFFIX}"),
            Standing::Trying { left, done } => {
                format!("{PREFIX}{generation}+{left}-{done}{SUFFIX}")
            }
            Standing::Failed { done } => format!("{PREFIX}{generation}+0-{done}{SUFFIX}"),
        }
    }

    /// The state after the boot loader has chosen this slot once, which it writes before it
    /// starts the kernel.
    pub fn after_boot(self) -> Self {
        let standing = match self.standing {
            Standing::Trying { left, done } => standing(left - 1, done.saturating_add(1)),
            settled @ (Standing::Good | Standing::Failed { .. }) => settled,
        };
        Self { standing, ..self }
    }

    /// Boot order as the loader sorts: slots with attempts left before failed ones, then the
    /// higher generation; of two files of one generation the one with more attempts left.
    fn boot_order(&self, other: &Self) -> Ordering {
        let rank = |slot: &Self| match slot.standing {
            Standing::Good => (true, slot.generation, u32::MAX),
            Standing::Trying { left, .. } => (true, slot.generation, left),
            Standing::Failed { .. } => (false, slot.generation, 0),
        };
        rank(self).cmp(&rank(other))
    }
}

/// What `EFI/Linux` holds of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots(Vec<Slot>);

/// A file to rename, inside `EFI/Linux`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// Present name.
    pub from: String,
    /// New name; nothing has it yet.
    pub to: String,
}

/// How to put a new slot on the ESP. In this order, each step durable before the next begins:
/// write `temporary`, read it back and compare, do `rename`, delete `surplus`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staging {
    /// Name to write under; the boot loader does not see it.
    pub temporary: String,
    /// Makes the new slot bootable.
    pub rename: Rename,
    /// Slots that nobody needs any more.
    pub surplus: Vec<String>,
}

/// Why an update cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SlotError {
    /// The ESP has no file of the slot that is said to be running.
    #[error("slot {0} is running but has no file on the ESP: mount the ESP it was started from")]
    RunningMissing(Generation),
    /// An update over an unproven slot would leave nothing to fall back to.
    #[error("slot {0} has not been found healthy yet: wait for it, or restart into the old one")]
    RunningUnproven(Generation),
    /// The boot loader gave this slot up, so it cannot be the one that runs.
    #[error("slot {0} has used all its attempts: check which slot was started")]
    RunningFailed(Generation),
    /// Blessing would replace another file.
    #[error("slot {0} has two files on the ESP: delete the one that was not started")]
    TwoFiles(Generation),
    /// No higher generation exists.
    #[error("slot generations are used up: install the image anew")]
    Exhausted,
}

impl Slots {
    /// Reads a directory listing; names that are not ours are left out, and so never deleted.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut slots: Vec<Slot> = names.into_iter().filter_map(|n| n.parse().ok()).collect();
        slots.sort_by(|a, b| b.boot_order(a));
        Self(slots)
    }

    /// The slots in boot order.
    pub fn in_boot_order(&self) -> &[Slot] {
        &self.0
    }

    /// What the boot loader starts next. With nothing but failed slots it starts the newest of
    /// them; only an empty ESP gives `None`.
    pub fn next_boot(&self) -> Option<Slot> {
        self.0.first().copied()
    }

    /// Marks the running slot good, after the box has found itself healthy. `None` if it is good
    /// already. A slot on its last attempt shows as failed while it runs, and is blessed too.
    pub fn bless(&self, running: Generation) -> Result<Option<Rename>, SlotError> {
        let slot = self.running(running)?;
        let good = Slot {
            standing: Standing::Good,
            ..slot
        };
        match slot.standing {
            Standing::Good => Ok(None),
            Standing::Failed { done: 0 } => Err(SlotError::RunningFailed(running)),
            Standing::Trying { .. } | Standing::Failed { .. } => Ok(Some(Rename {
                from: slot.file_name(),
                to: good.file_name(),
            })),
        }
    }

    /// Plans an update while `running` runs. Refused until the running slot is good: it is what
    /// the box falls back to.
    pub fn stage(&self, running: Generation) -> Result<Staging, SlotError> {
        if self.running(running)?.standing != Standing::Good {
            return Err(SlotError::RunningUnproven(running));
        }
        let newest = self
            .0
            .iter()
            .map(|s| s.generation.0)
            .max()
            .unwrap_or(running.0);
        let generation = Generation(newest.checked_add(1).ok_or(SlotError::Exhausted)?);
        let standing = Standing::Trying {
            left: TRIES,
            done: 0,
        };
        let temporary = format!("{PREFIX}{generation}{TEMPORARY_SUFFIX}");
        let to = Slot {
            generation,
            standing,
        }
        .file_name();
        let surplus = self
            .deletable(running)
            .iter()
            .map(Slot::file_name)
            .collect();
        Ok(Staging {
            rename: Rename {
                from: temporary.clone(),
                to,
            },
            temporary,
            surplus,
        })
    }

    /// Slots that may be deleted while `running` runs: never a file of the running generation,
    /// and as long as that one is not good, not the newest good one either.
    pub fn deletable(&self, running: Generation) -> Vec<Slot> {
        let good = |slot: &&Slot| slot.standing == Standing::Good;
        let running_is_good = self.0.iter().filter(good).any(|s| s.generation == running);
        let fallback = self.0.iter().find(good).filter(|_| !running_is_good);
        let kept = |slot: &Slot| slot.generation == running || Some(slot) == fallback;
        self.0.iter().filter(|slot| !kept(slot)).copied().collect()
    }

    fn running(&self, running: Generation) -> Result<Slot, SlotError> {
        let mut found = self.0.iter().filter(|slot| slot.generation == running);
        let slot = found.next().ok_or(SlotError::RunningMissing(running))?;
        match found.next() {
            None => Ok(*slot),
            Some(_) => Err(SlotError::TwoFiles(running)),
        }
    }
}

const PREFIX: &str = "twinsan_";
const SUFFIX: &str = ".efi";
const TEMPORARY_SUFFIX: &str = ".new";

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Standing = Standing::Good;

    fn trying(left: u32, done: u32) -> Standing {
        Standing::Trying { left, done }
    }

    fn next(names: &[&str]) -> Option<String> {
        Slots::from_names(names.iter().copied())
            .next_boot()
            .map(|slot| slot.file_name())
    }

    fn names(slots: &[Slot]) -> Vec<String> {
        slots.iter().map(Slot::file_name).collect()
    }

    #[test]
    fn names_parse_and_print() {
        let cases = [
            ("twinsan_1.efi", 1, GOOD),
            ("twinsan_2+3-0.efi", 2, trying(3, 0)),
            ("twinsan_2+1-2.efi", 2, trying(1, 2)),
            ("twinsan_12+0-3.efi", 12, Standing::Failed { done: 3 }),
            ("twinsan_4294967295.efi", u32::MAX, GOOD),
        ];
        for (name, generation, standing) in cases {
            let slot = Slot {
                generation: Generation(generation),
                standing,
            };
            assert_eq!(name.parse(), Ok(slot), "{name}");
            assert_eq!(slot.file_name(), name);
        }
        assert_eq!(
            "twinsan_5+2.efi".parse::<Slot>().unwrap().standing,
            trying(2, 0)
        );
    }

    #[test]
    fn other_names_are_foreign() {
        let cases = [
            "",
            ".efi",
            "twinsan_.efi",
            "twinsan_1",
            "twinsan_1.new",
            "twinsan_1.efi.bak",
            "twinsan_01.efi",
            "twinsan_+1.efi",
            "twinsan_1+.efi",
            "twinsan_1+3-.efi",
            "twinsan_1+-3.efi",
            "twinsan_1+3-0-0.efi",
            "twinsan_1++3.efi",
            "twinsan_-1.efi",
            "twinsan_4294967296.efi",
            "debian_1.efi",
            "TWINSAN_1.EFI",
        ];
        for name in cases {
            assert_eq!(name.parse::<Slot>(), Err(ForeignName), "{name}");
        }
    }

    #[test]
    fn the_newest_slot_with_attempts_left_boots_next() {
        let cases: [(&[&str], Option<&str>); 8] = [
            (&[], None),
            (&["readme.txt", "twinsan_9.new"], None),
            (&["twinsan_1.efi"], Some("twinsan_1.efi")),
            (
                &["twinsan_1.efi", "twinsan_2+3-0.efi"],
                Some("twinsan_2+3-0.efi"),
            ),
            (
                &["twinsan_10+1-2.efi", "twinsan_9.efi"],
                Some("twinsan_10+1-2.efi"),
            ),
            (
                &["twinsan_2+0-3.efi", "twinsan_1.efi"],
                Some("twinsan_1.efi"),
            ),
            (
                &["twinsan_2+0-3.efi", "twinsan_1+1-2.efi"],
                Some("twinsan_1+1-2.efi"),
            ),
            (
                &["twinsan_1+0-3.efi", "twinsan_2+0-3.efi"],
                Some("twinsan_2+0-3.efi"),
            ),
        ];
        for (listing, expected) in cases {
            assert_eq!(next(listing).as_deref(), expected, "{listing:?}");
        }
    }

    #[test]
    fn a_bad_update_is_left_after_three_attempts() {
        let mut listing = vec!["twinsan_1.efi".to_owned(), "twinsan_2+3-0.efi".to_owned()];
        let mut booted = Vec::new();
        for _ in 0..5 {
            let slots = Slots::from_names(listing.iter().map(String::as_str));
            let chosen = slots.next_boot().unwrap();
            listing.retain(|name| *name != chosen.file_name());
            listing.push(chosen.after_boot().file_name());
            booted.push(chosen.after_boot().file_name());
        }
        assert_eq!(
            booted,
            [
                "twinsan_2+2-1.efi",
                "twinsan_2+1-2.efi",
                "twinsan_2+0-3.efi",
                "twinsan_1.efi",
                "twinsan_1.efi"
            ]
        );
    }

    #[test]
    fn blessing_renames_the_running_slot_only() {
        let slots = Slots::from_names(["twinsan_1.efi", "twinsan_2+2-1.efi", "twinsan_4+0-0.efi"]);
        let rename = Rename {
            from: "twinsan_2+2-1.efi".to_owned(),
            to: "twinsan_2.efi".to_owned(),
        };
        assert_eq!(slots.bless(Generation(2)), Ok(Some(rename)));
        assert_eq!(slots.bless(Generation(1)), Ok(None));
        assert_eq!(
            slots.bless(Generation(3)),
            Err(SlotError::RunningMissing(Generation(3)))
        );
        assert_eq!(
            slots.bless(Generation(4)),
            Err(SlotError::RunningFailed(Generation(4)))
        );
    }

    #[test]
    fn a_slot_on_its_last_attempt_can_be_blessed() {
        let slots = Slots::from_names(["twinsan_1.efi", "twinsan_2+0-3.efi"]);
        let rename = slots.bless(Generation(2)).unwrap().unwrap();
        assert_eq!(rename.to, "twinsan_2.efi");
    }

    #[test]
    fn two_files_of_the_running_slot_stop_an_update() {
        let slots = Slots::from_names(["twinsan_2.efi", "twinsan_2+1-2.efi"]);
        assert_eq!(
            slots.bless(Generation(2)),
            Err(SlotError::TwoFiles(Generation(2)))
        );
        assert_eq!(
            slots.stage(Generation(2)),
            Err(SlotError::TwoFiles(Generation(2)))
        );
    }

    #[test]
    fn staging_writes_beside_the_running_slot_and_drops_the_rest() {
        let slots = Slots::from_names(["twinsan_6.efi", "twinsan_7.efi", "twinsan_5+0-3.efi"]);
        let staging = slots.stage(Generation(7)).unwrap();
        assert_eq!(staging.temporary, "twinsan_8.new");
        assert_eq!(staging.rename.to, "twinsan_8+3-0.efi");
        assert_eq!(staging.surplus, ["twinsan_6.efi", "twinsan_5+0-3.efi"]);
        assert_eq!(
            next(&["twinsan_7.efi", &staging.rename.to]),
            Some(staging.rename.to)
        );
    }

    #[test]
    fn a_failed_newer_slot_is_outnumbered_by_the_next_update() {
        let slots = Slots::from_names(["twinsan_1.efi", "twinsan_2+0-3.efi"]);
        let staging = slots.stage(Generation(1)).unwrap();
        assert_eq!(staging.rename.to, "twinsan_3+3-0.efi");
        assert_eq!(staging.surplus, ["twinsan_2+0-3.efi"]);
    }

    #[test]
    fn an_unproven_slot_refuses_an_update_and_keeps_its_fallback() {
        let slots = Slots::from_names(["twinsan_1.efi", "twinsan_2.efi", "twinsan_3+2-1.efi"]);
        assert_eq!(
            slots.stage(Generation(3)),
            Err(SlotError::RunningUnproven(Generation(3)))
        );
        assert_eq!(names(&slots.deletable(Generation(3))), ["twinsan_1.efi"]);
    }

    #[test]
    fn the_running_slot_is_never_deletable() {
        let listings: [&[&str]; 3] = [
            &["twinsan_1.efi", "twinsan_2.efi"],
            &["twinsan_1+1-2.efi", "twinsan_2+0-3.efi"],
            &["twinsan_1+0-3.efi", "twinsan_2+0-3.efi", "twinsan_3.efi"],
        ];
        for listing in listings {
            let slots = Slots::from_names(listing.iter().copied());
            for running in slots.in_boot_order() {
                assert!(
                    !slots.deletable(running.generation).contains(running),
                    "{listing:?}"
                );
            }
        }
    }

    #[test]
    fn the_last_generation_ends_updates() {
        let slots = Slots::from_names(["twinsan_4294967295.efi"]);
        assert_eq!(slots.stage(Generation(u32::MAX)), Err(SlotError::Exhausted));
    }
}
