//! Both clocks of the kernel, read at one moment.

use core::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::types::{Now, Time};

/// The present moment on `CLOCK_BOOTTIME` and `CLOCK_MONOTONIC`.
#[must_use]
pub fn now() -> Now {
    Now {
        boot: read(ClockId::CLOCK_BOOTTIME),
        mono: read(ClockId::CLOCK_MONOTONIC),
    }
}

fn read(clock: ClockId) -> Time {
    let time = clock_gettime(clock).expect("Linux has this clock");
    let since_boot = Duration::from(time).as_nanos();
    Time(u64::try_from(since_boot).expect("584 years outlast any box"))
}

/// How long until `at` on the boot clock; zero if it is over.
pub(super) fn until(at: Time) -> Duration {
    Duration::from_nanos(at.since_ns(read(ClockId::CLOCK_BOOTTIME)))
}
