//! The clock of a driver, and the lease that another thread grants it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

use crate::engine::Lease;
use crate::types::Time;

const NONE: u64 = 0;
const UNLIMITED: u64 = u64::MAX;

/// Nanoseconds of CLOCK_BOOTTIME, which counts on while the machine is suspended (law R5).
pub fn boot_time() -> Time {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has CLOCK_BOOTTIME");
    let seconds = u64::try_from(now.tv_sec()).expect("time since boot is positive");
    let nanoseconds = u64::try_from(now.tv_nsec()).expect("a fraction of a second is positive");
    Time(seconds * 1_000_000_000 + nanoseconds)
}

/// The lease of one group, set by the control thread and read by the data thread.
///
/// The data thread looks here before every event that it handles, so a revocation counts for
/// everything that is answered after it (law R5).
#[derive(Debug, Clone, Default)]
pub struct LeaseCell {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// 0: none. `u64::MAX`: unlimited. Else the end, in nanoseconds of CLOCK_BOOTTIME.
    until: AtomicU64,
    changed: Notify,
}

impl LeaseCell {
    /// A cell that holds no lease.
    pub fn new() -> Self {
        Self::default()
    }

    /// Grants, prolongs or revokes, and wakes the data thread.
    pub fn set(&self, lease: Lease) {
        let until = match lease {
            Lease::None => NONE,
            Lease::Until(Time(until)) => until.min(UNLIMITED - 1),
            Lease::Unlimited => UNLIMITED,
        };
        self.shared.until.store(until, Ordering::SeqCst);
        self.shared.changed.notify_one();
    }

    /// The lease as it stands.
    pub fn lease(&self) -> Lease {
        match self.shared.until.load(Ordering::SeqCst) {
            NONE => Lease::None,
            UNLIMITED => Lease::Unlimited,
            until => Lease::Until(Time(until)),
        }
    }

    /// Waits for the next [`LeaseCell::set`]. One waiter at a time.
    pub(super) async fn changed(&self) {
        self.shared.changed.notified().await;
    }
}
