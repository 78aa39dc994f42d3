//! Real time, in one place: the lab watches processes that run on real clocks.

use std::time::{Duration, Instant};

/// How often something is looked at that must come.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Time since a moment.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// From now on.
    #[must_use]
    pub fn start() -> Self {
        Self(now())
    }

    /// Since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        now().duration_since(self.0)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "processes under test run on real clocks"
)]
fn now() -> Instant {
    Instant::now()
}

/// Lets time pass.
#[expect(
    clippy::disallowed_methods,
    reason = "processes under test run on real clocks"
)]
pub fn pass(time: Duration) {
    std::thread::sleep(time);
}

/// Looks again and again until `look` gives something; none if that takes longer than `limit`.
pub fn until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let watch = Stopwatch::start();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if watch.elapsed() > limit {
            return None;
        }
        pass(LOOK_AGAIN);
    }
}
