//! Memory that all sessions share, so that what strangers make us hold is bounded in all.
//!
//! Each connection has a reserve of its own for small things. What it holds beyond that (write
//! buffers, reads under way, answers the peer has not taken, requests that came before their turn)
//! counts against one budget. When that is used up, commands wait in the order of their
//! connections, and each gets one command at a time. So that the largest command can always go on,
//! one connection that holds nothing else may overdraw the budget by one command.
//!
//! What stores still hold for connections that are gone counts too.
//!
//! In all: the budget, one command of the largest length, and for every connection its reserve.
//!
//! Invariants: `used_bytes` is the sum of `shares`; a connection is in `queue` at most once.

use std::collections::{BTreeMap, VecDeque};

use crate::backend::LeftBytes;
use crate::registry::ConnectionId;

/// What a connection may hold without asking, in bytes; also one data segment on its way in.
pub const RESERVE_BYTES: usize = 256 * 1024;

/// How often connections that are gone may have left the whole budget behind: all of it and every
/// reserve is no reason to keep anybody out.
const LEFT_BUDGETS_MAX: usize = 2;

/// What a connection holds when it asks for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holding {
    /// Everything, in bytes.
    pub(crate) held_bytes: usize,
    /// Nothing but what waits for room.
    pub(crate) idle: bool,
}

/// Who waits, and for how much beyond what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiter {
    connection: ConnectionId,
    missing_bytes: usize,
    idle: bool,
    told: bool,
}

/// What may be held, what is, and who waits.
#[derive(Debug)]
pub struct Budget {
    limit_bytes: usize,
    used_bytes: usize,
    shares: BTreeMap<ConnectionId, usize>,
    queue: VecDeque<Waiter>,
    overdrawn: Option<ConnectionId>,
    left_bytes: LeftBytes,
}

impl Budget {
    /// So many bytes for all.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            used_bytes: 0,
            shares: BTreeMap::new(),
            queue: VecDeque::new(),
            overdrawn: None,
            left_bytes: LeftBytes::default(),
        }
    }

    /// What is used, in bytes.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.used_bytes + self.left_bytes.bytes()
    }

    /// Where connections that end count what stores still hold for them.
    #[must_use]
    pub const fn left_bytes(&self) -> &LeftBytes {
        &self.left_bytes
    }

    /// Whether connections that are gone have left so much behind that no more may come.
    #[must_use]
    pub fn is_overrun(&self) -> bool {
        self.left_bytes.bytes() > LEFT_BUDGETS_MAX * self.limit_bytes
    }

    /// Whether somebody waits for memory.
    #[must_use]
    pub fn is_short(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether all of it is used.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        self.used_bytes() >= self.limit_bytes
    }

    /// Whether `more_bytes` that came without being asked for can be held: they cannot wait.
    pub(crate) fn has_room(&self, who: ConnectionId, holding: Holding, more_bytes: usize) -> bool {
        let wanted = beyond_reserve(holding.held_bytes + more_bytes);
        let missing = wanted.saturating_sub(self.share(who));
        missing == 0 || self.used_bytes() + missing <= self.limit_bytes
    }

    /// Whether `who` may hold `more_bytes` from now on. Who may not waits: see [`Self::account`].
    pub(crate) fn admits(
        &mut self,
        who: ConnectionId,
        holding: Holding,
        more_bytes: usize,
    ) -> bool {
        let wanted = beyond_reserve(holding.held_bytes + more_bytes);
        if wanted == 0 {
            return true;
        }
        let own = self.share(who);
        let missing = wanted.saturating_sub(own);
        let in_turn = self
            .queue
            .front()
            .is_none_or(|first| first.connection == who);
        if missing > 0 && !(in_turn && self.has(who, missing, holding.idle)) {
            return false;
        }
        if self.used_bytes() + missing > self.limit_bytes {
            self.overdrawn = Some(who);
        }
        // Taken at once, so that two commands of one event do not both get it.
        self.set_share(who, own.max(wanted));
        self.queue.retain(|waiter| waiter.connection != who);
        true
    }

    /// After every event of a connection: what it holds, and what its next command asks for if
    /// that waits for memory.
    pub(crate) fn account(&mut self, who: ConnectionId, holding: Holding, waits: Option<usize>) {
        let share = beyond_reserve(holding.held_bytes);
        if share == 0 && waits.is_none() && self.shares.is_empty() && self.queue.is_empty() {
            return;
        }
        self.set_share(who, share);
        let Some(more_bytes) = waits else {
            return self.queue.retain(|waiter| waiter.connection != who);
        };
        let waiter = Waiter {
            connection: who,
            missing_bytes: beyond_reserve(holding.held_bytes + more_bytes) - share,
            idle: holding.idle,
            told: false,
        };
        let mut queued = self.queue.iter_mut();
        match queued.find(|waiter| waiter.connection == who) {
            Some(known) => *known = waiter,
            None => self.queue.push_back(waiter),
        }
    }

    /// Who is to be told that there is room, once.
    pub(crate) fn next_to_tell(&mut self) -> Option<ConnectionId> {
        let first = *self.queue.front()?;
        if first.told || !self.has(first.connection, first.missing_bytes, first.idle) {
            return None;
        }
        self.queue.front_mut()?.told = true;
        Some(first.connection)
    }

    /// A connection is gone.
    pub(crate) fn leave(&mut self, who: ConnectionId) {
        self.set_share(who, 0);
        self.queue.retain(|waiter| waiter.connection != who);
    }

    fn has(&self, who: ConnectionId, missing_bytes: usize, idle: bool) -> bool {
        let used_bytes = self.used_bytes();
        // An overdraft lasts until the budget is enough, also when who made it is gone.
        let may_overdraw =
            used_bytes <= self.limit_bytes || self.overdrawn.is_none_or(|other| other == who);
        used_bytes + missing_bytes <= self.limit_bytes || idle && may_overdraw
    }

    fn share(&self, who: ConnectionId) -> usize {
        self.shares.get(&who).copied().unwrap_or(0)
    }

    fn set_share(&mut self, who: ConnectionId, share: usize) {
        let before = if share == 0 {
            self.shares.remove(&who)
        } else {
            self.shares.insert(who, share)
        };
        self.used_bytes = self.used_bytes + share - before.unwrap_or(0);
        if self.used_bytes() <= self.limit_bytes {
            self.overdrawn = None;
        }
    }
}

const fn beyond_reserve(held_bytes: usize) -> usize {
    held_bytes.saturating_sub(RESERVE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: ConnectionId = ConnectionId(1);
    const B: ConnectionId = ConnectionId(2);
    const C: ConnectionId = ConnectionId(3);
    const R: usize = RESERVE_BYTES;

    const fn holding(held_bytes: usize) -> Holding {
        Holding {
            held_bytes,
            idle: held_bytes == 0,
        }
    }

    #[test]
    fn small_things_never_wait() {
        let mut budget = Budget::new(0);
        assert!(budget.admits(A, holding(0), R));
        budget.account(A, holding(R), None);
        budget.account(B, holding(0), Some(R + 1));
        assert!(
            budget.admits(C, holding(R - 1), 1),
            "others wait, it does not"
        );
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn who_waits_is_told_in_order_and_once() {
        let mut budget = Budget::new(1000);
        assert!(budget.admits(A, holding(0), R + 900));
        budget.account(A, holding(R + 900), None);
        // B holds something, so it cannot overdraw; C would fit and must not overtake.
        assert!(!budget.admits(B, holding(R), 200));
        budget.account(B, holding(R), Some(200));
        assert!(!budget.admits(C, holding(R), 50));
        budget.account(C, holding(R), Some(50));
        assert!(budget.is_short());
        assert_eq!(budget.next_to_tell(), None);
        budget.account(A, holding(0), None);
        assert_eq!(budget.next_to_tell(), Some(B));
        assert_eq!(budget.next_to_tell(), None);
        assert!(budget.admits(B, holding(R), 200));
        budget.account(B, holding(R + 200), None);
        assert_eq!(budget.next_to_tell(), Some(C));
        assert!(budget.admits(C, holding(R), 50));
        budget.account(C, holding(R + 50), None);
        assert_eq!((budget.used_bytes(), budget.is_short()), (250, false));
    }

    #[test]
    fn one_idle_connection_may_overdraw() {
        let mut budget = Budget::new(1000);
        assert!(budget.admits(A, holding(0), R + 1000));
        budget.account(A, holding(R + 1000), None);
        assert!(
            budget.admits(B, holding(0), R + 5000),
            "its largest command"
        );
        budget.account(B, holding(R + 5000), None);
        assert!(!budget.admits(C, holding(0), R + 5000), "one at a time");
        budget.account(C, holding(0), Some(R + 5000));
        budget.leave(B);
        assert_eq!(budget.next_to_tell(), Some(C));
        assert!(budget.admits(C, holding(0), R + 5000));
        assert_eq!(budget.used_bytes(), 6000);
        budget.leave(A);
        budget.leave(C);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn who_got_its_turn_goes_to_the_end() {
        let mut budget = Budget::new(1000);
        assert!(budget.admits(A, holding(0), R + 1000));
        for who in [B, C] {
            budget.account(who, holding(R), Some(500));
        }
        budget.account(A, holding(0), None);
        assert!(budget.admits(B, holding(R), 500));
        budget.account(B, holding(R + 500), Some(500));
        assert_eq!(budget.next_to_tell(), Some(C));
    }

    proptest! {
        /// In all never more than the budget and one command.
        #[test]
        fn the_sum_is_bounded(
            steps in proptest::collection::vec((0u64..4, 0usize..4000, any::<bool>()), 1..200),
        ) {
            let mut budget = Budget::new(5000);
            let mut held = BTreeMap::<u64, usize>::new();
            for (who, amount, takes) in steps {
                let (id, now) = (ConnectionId(who), held.get(&who).copied().unwrap_or(0));
                let more = amount + R;
                let after = if takes && budget.admits(id, holding(now), more) {
                    now + more
                } else {
                    now.saturating_sub(amount)
                };
                held.insert(who, after);
                budget.account(id, holding(after), None);
                let sum: usize = held.values().map(|held| beyond_reserve(*held)).sum();
                prop_assert_eq!(budget.used_bytes(), sum);
                prop_assert!(sum <= 5000 + 4000, "{sum}");
            }
        }
    }
}
