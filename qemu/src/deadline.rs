//! A point in time until which a test waits. The only clock of this crate.

use std::time::{Duration, Instant};

/// The end of a wait.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    end: Instant,
    allowed: Duration,
}

impl Deadline {
    /// `allowed` from now. Emulated machines are slow and share the processor: be generous, a
    /// wait ends as soon as what it waits for is there.
    pub fn after(allowed: Duration) -> Self {
        Self {
            end: now() + allowed,
            allowed,
        }
    }

    /// Whether it is over.
    pub fn has_passed(&self) -> bool {
        now() >= self.end
    }

    /// How long it was when it was made.
    pub fn allowed(&self) -> Duration {
        self.allowed
    }

    /// Waits a little between two looks.
    #[expect(
        clippy::disallowed_methods,
        reason = "a file and a process are looked at by polling"
    )]
    pub fn pause(&self) {
        std::thread::sleep(POLL);
    }
}

#[expect(clippy::disallowed_methods, reason = "whole machines run in real time")]
fn now() -> Instant {
    Instant::now()
}

const POLL: Duration = Duration::from_millis(20);
