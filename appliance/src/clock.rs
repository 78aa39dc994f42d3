//! Clocks of the daemon outside the cores: since boot for durations, wall time for people.

use nix::time::{ClockId, clock_gettime};
use replication::engine::Lease;

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("Linux has this clock");
    let seconds = u64::try_from(time.tv_sec()).expect("time since boot or 1970 is positive");
    let rest = u64::try_from(time.tv_nsec()).expect("nanoseconds are positive");
    seconds * 1_000_000_000 + rest
}

/// CLOCK_BOOTTIME, in ns: goes on while the machine sleeps (H17).
pub(crate) fn boot_ns() -> u64 {
    nanoseconds(ClockId::CLOCK_BOOTTIME)
}

/// Wall-clock time in ms since 1970, for people only.
pub(crate) fn unix_ms() -> u64 {
    nanoseconds(ClockId::CLOCK_REALTIME) / 1_000_000
}

/// Whether the lease gives the right to act now (law R5).
pub(crate) fn holds(lease: Lease) -> bool {
    match lease {
        Lease::None => false,
        Lease::Until(end) => boot_ns() < end.0,
        Lease::Unlimited => true,
    }
}
