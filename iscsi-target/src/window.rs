//! The command window: which CmdSN may come, and which is next (RFC 7143 §4.2.2.1).

use crate::types::Serial;

/// How many numbered requests of one session may be unfinished.
pub const WINDOW_DEPTH: u32 = 128;

/// What to do with a request, judged by its CmdSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is the next one, or it is immediate.
    Now,
    /// Others must come first.
    Early,
    /// It is outside of the window: ignore it silently.
    Ignore,
}

/// The window of one session.
///
/// Invariant: `max` never moves backwards and is at most [`WINDOW_DEPTH`] - 1 ahead of `expected`.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    expected: Serial,
    max: Serial,
}

impl Window {
    /// A window that opens at the CmdSN of the login.
    #[must_use]
    pub const fn new(first: Serial) -> Self {
        Self {
            expected: first,
            max: first.plus(WINDOW_DEPTH - 1),
        }
    }

    /// ExpCmdSN.
    #[must_use]
    pub const fn expected(&self) -> Serial {
        self.expected
    }

    /// MaxCmdSN.
    #[must_use]
    pub const fn max(&self) -> Serial {
        self.max
    }

    /// Judges a request that carries `cmd_sn` and is not immediate.
    #[must_use]
    pub const fn turn(&self, cmd_sn: Serial) -> Turn {
        if !cmd_sn.within(self.expected, self.max) {
            Turn::Ignore
        } else if cmd_sn.before(self.expected.plus(1)) {
            Turn::Now
        } else {
            Turn::Early
        }
    }

    /// The request whose turn it was is taken.
    pub fn take(&mut self) {
        assert!(
            self.expected.within(self.expected, self.max),
            "nothing fits a closed window"
        );
        self.expected = self.expected.plus(1);
    }

    /// A request that was taken is finished: there is room for another one.
    pub fn finish(&mut self) {
        self.max = self.max.plus(1);
        let ahead = self.max.plus(1).0.wrapping_sub(self.expected.0);
        assert!(
            ahead <= WINDOW_DEPTH,
            "more requests finished than were taken"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_taken_in_order() {
        let mut window = Window::new(Serial(0xffff_ffff));
        assert_eq!(window.turn(Serial(0xffff_ffff)), Turn::Now);
        assert_eq!(window.turn(Serial(0)), Turn::Early);
        window.take();
        assert_eq!(window.turn(Serial(0)), Turn::Now);
        assert_eq!(window.turn(Serial(0xffff_ffff)), Turn::Ignore);
    }

    #[test]
    fn the_window_closes_when_nothing_finishes() {
        let mut window = Window::new(Serial(10));
        assert_eq!(window.turn(Serial(10 + WINDOW_DEPTH - 1)), Turn::Early);
        assert_eq!(window.turn(Serial(10 + WINDOW_DEPTH)), Turn::Ignore);
        for _ in 0..WINDOW_DEPTH {
            assert_eq!(window.turn(window.expected()), Turn::Now);
            window.take();
        }
        assert_eq!(window.turn(window.expected()), Turn::Ignore);
        assert_eq!(window.max().plus(1), window.expected());
        window.finish();
        assert_eq!(window.turn(window.expected()), Turn::Now);
        assert_eq!(window.max(), window.expected());
    }

    #[test]
    #[should_panic(expected = "more requests finished than were taken")]
    fn finishing_what_was_never_taken_is_a_bug() {
        Window::new(Serial(0)).finish();
    }
}
