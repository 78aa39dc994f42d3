//! What is in flight and where: overlap search and range locks.
//!
//! A lock is granted when no conflicting lock with a smaller ticket overlaps it, so overlapping
//! requests are served in the order of their tickets and no cycle can form.

use std::collections::{BTreeMap, BTreeSet};

/// Byte ranges by id, searched by overlap.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    ends: BTreeMap<u64, (u64, u64)>,
    by_start: BTreeSet<(u64, u64)>,
    longest: u64,
}

impl Ranges {
    pub(super) fn insert(&mut self, id: u64, start: u64, end: u64) {
        assert!(start < end, "the range {start}..{end} is empty");
        self.longest = self.longest.max(end - start);
        self.by_start.insert((start, id));
        let before = self.ends.insert(id, (start, end));
        assert!(before.is_none(), "range {id} exists already");
    }

    pub(super) fn remove(&mut self, id: u64) {
        if let Some((start, _)) = self.ends.remove(&id) {
            self.by_start.remove(&(start, id));
        }
        if self.ends.is_empty() {
            self.longest = 0;
        }
    }

    pub(super) fn range(&self, id: u64) -> Option<std::ops::Range<u64>> {
        self.ends.get(&id).map(|(start, end)| *start..*end)
    }

    /// Ids of the ranges that overlap `start .. end`.
    pub(super) fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = u64> {
        let first = (start.saturating_sub(self.longest), 0);
        let candidates = self.by_start.range(first..(end, 0)).map(|(_, id)| *id);
        candidates.filter(move |id| self.ends[id].1 > start)
    }
}

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

#[derive(Debug)]
struct Lock {
    mode: Mode,
    blockers: usize,
    waiters: Vec<u64>,
}

/// Range locks of one volume, granted in the order of their tickets.
#[derive(Debug, Default)]
pub(super) struct Locks {
    ranges: Ranges,
    locks: BTreeMap<u64, Lock>,
}

/// Whether a lock is held already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    Now,
    Later,
}

impl Locks {
    /// Asks for a lock; tickets rise. `Later` is followed by its ticket out of a `release`.
    pub(super) fn acquire(&mut self, ticket: u64, start: u64, end: u64, mode: Mode) -> Grant {
        let conflicting: Vec<u64> = self
            .ranges
            .overlapping(start, end)
            .filter(|other| mode == Mode::Exclusive || self.locks[other].mode == Mode::Exclusive)
            .collect();
        for other in &conflicting {
            assert!(*other < ticket, "tickets rise");
            let other = self.locks.get_mut(other).expect("every range has a lock");
            other.waiters.push(ticket);
        }
        self.ranges.insert(ticket, start, end);
        let blockers = conflicting.len();
        self.locks.insert(
            ticket,
            Lock {
                mode,
                blockers,
                waiters: Vec::new(),
            },
        );
        if blockers == 0 {
            Grant::Now
        } else {
            Grant::Later
        }
    }

    /// Gives a granted lock back; the tickets that are granted by it, in order.
    pub(super) fn release(&mut self, ticket: u64) -> Vec<u64> {
        let Some(lock) = self.locks.remove(&ticket) else {
            return Vec::new();
        };
        assert_eq!(lock.blockers, 0, "lock {ticket} was never granted");
        self.ranges.remove(ticket);
        let mut granted = Vec::new();
        for waiter in lock.waiters {
            let waiting = self
                .locks
                .get_mut(&waiter)
                .expect("a waiter is not released");
            waiting.blockers -= 1;
            if waiting.blockers == 0 {
                granted.push(waiter);
            }
        }
        granted
    }

    /// No two conflicting locks are granted at once.
    pub(super) fn check_full(&self) {
        for (ticket, lock) in &self.locks {
            let (start, end) = self.ranges.ends[ticket];
            let blockers = self.ranges.overlapping(start, end).filter(|other| {
                let conflict =
                    lock.mode == Mode::Exclusive || self.locks[other].mode == Mode::Exclusive;
                other < ticket && conflict
            });
            assert_eq!(
                blockers.count(),
                lock.blockers,
                "lock {ticket} counts its blockers"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn overlapping_requests_are_served_in_order() {
        let mut locks = Locks::default();
        assert_eq!(locks.acquire(1, 0, 10, Mode::Shared), Grant::Now);
        assert_eq!(locks.acquire(2, 5, 15, Mode::Exclusive), Grant::Later);
        assert_eq!(locks.acquire(3, 0, 10, Mode::Shared), Grant::Later);
        assert_eq!(locks.acquire(4, 20, 30, Mode::Exclusive), Grant::Now);
        assert_eq!(locks.release(1), [2]);
        assert_eq!(locks.release(2), [3]);
        assert!(locks.release(9).is_empty());
    }

    #[test]
    fn readers_share() {
        let mut locks = Locks::default();
        assert_eq!(locks.acquire(1, 0, 10, Mode::Shared), Grant::Now);
        assert_eq!(locks.acquire(2, 0, 10, Mode::Shared), Grant::Now);
    }

    proptest! {
        #[test]
        fn every_lock_is_granted_and_none_in_conflict(
            wants in prop::collection::vec((0u64..40, 1u64..12, any::<bool>()), 1..40),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 40),
        ) {
            let mut locks = Locks::default();
            let mut held = Vec::new();
            for (ticket, (start, len, shared)) in wants.iter().enumerate() {
                let mode = if *shared { Mode::Shared } else { Mode::Exclusive };
                if locks.acquire(ticket as u64, *start, start + len, mode) == Grant::Now {
                    held.push(ticket as u64);
                }
                locks.check_full();
            }
            let mut released = 0;
            for pick in picks.iter().take(wants.len()) {
                let ticket = held.swap_remove(pick.index(held.len()));
                held.extend(locks.release(ticket));
                locks.check_full();
                released += 1;
            }
            prop_assert_eq!(released, wants.len());
            prop_assert!(locks.locks.is_empty());
        }
    }
}
