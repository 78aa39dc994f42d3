//! Both clocks at once (law R5: the holder counts on one, the voter on the other).

use nix::time::{ClockId, clock_gettime};

use crate::types::{Now, Time};

/// `CLOCK_BOOTTIME` and `CLOCK_MONOTONIC`, read one after the other.
///
/// # Panics
/// If the kernel lacks them; Linux has had both since 2.6.39.
#[must_use]
pub fn now() -> Now {
    Now {
        boot: read(ClockId::CLOCK_BOOTTIME),
        mono: read(ClockId::CLOCK_MONOTONIC),
    }
}

fn read(clock: ClockId) -> Time {
    let time = clock_gettime(clock).expect("Linux has this clock");
    let seconds = u64::try_from(time.tv_sec()).expect("time since boot is positive");
    let rest = u64::try_from(time.tv_nsec()).expect("nanoseconds are positive");
    Time(seconds * 1_000_000_000 + rest)
}
