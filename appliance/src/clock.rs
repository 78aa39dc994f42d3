//! Clocks of the daemon outside the cores: since boot for durations, wall time for people.

use nix::time::{ClockId, clock_gettime};
use replication::engine::Lease;

/// CLOCK_BOOTTIME, in ns: goes on while the machine sleeps (H17). The mirror's reading of it.
pub(crate) fn boot_ns() -> u64 {
    replication::shell::boot_time().0
}

/// Wall-clock time in ms since 1970, for people only.
pub(crate) fn unix_ms() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_REALTIME).expect("Linux has this clock");
    // A clock before 1970 is only shown wrong.
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let rest_ns = u64::try_from(time.tv_nsec()).unwrap_or(0);
    seconds * 1000 + rest_ns / 1_000_000
}

/// Whether the lease gives the right to act now (law R5).
pub(crate) fn holds(lease: Lease) -> bool {
    match lease {
        Lease::None => false,
        Lease::Until(end) => boot_ns() < end.0,
        Lease::Unlimited => true,
    }
}
