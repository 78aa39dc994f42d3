//! The command window: which CmdSN may come, and which is next (RFC 7143 §4.2.2.1).

use crate::types::Serial;

/// How many numbered requests of one session may be unfinished.
pub const WINDOW_DEPTH: u32 = 128;
/// How many while its commands wait for memory.
pub const SHORT_DEPTH: u32 = 4;

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
/// Invariants: `max` never moves backwards, and from `expected` on to `max` there are at most
/// [`WINDOW_DEPTH`] numbers less those of the `unfinished` requests.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    expected: Serial,
    max: Serial,
    unfinished: u32,
    depth: u32,
}

impl Window {
    /// A window that opens at the CmdSN of the login.
    #[must_use]
    pub const fn new(first: Serial) -> Self {
        Self {
            expected: first,
            max: first.plus(WINDOW_DEPTH - 1),
            unfinished: 0,
            depth: WINDOW_DEPTH,
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
        self.unfinished += 1;
    }

    /// A request that was taken is finished: there may be room for another one.
    pub fn finish(&mut self) {
        assert!(
            self.unfinished > 0,
            "more requests finished than were taken"
        );
        self.unfinished -= 1;
        self.open();
    }

    /// From now on so many requests may be unfinished. What was promised stays (RFC 7143
    /// §4.2.2.1): a window that became too large closes as requests come in.
    pub fn set_depth(&mut self, depth: u32) {
        assert!((1..=WINDOW_DEPTH).contains(&depth), "a depth of {depth}");
        self.depth = depth;
        self.open();
    }

    fn open(&mut self) {
        let room = self.depth.saturating_sub(self.unfinished);
        let end = self.expected.plus(room);
        if self.max.plus(1).before(end) {
            self.max = Serial(end.0.wrapping_sub(1));
        }
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
    fn a_shrunk_window_keeps_its_promise_and_opens_again() {
        let mut window = Window::new(Serial(10));
        for _ in 0..8 {
            window.take();
        }
        let promised = window.max();
        window.set_depth(SHORT_DEPTH);
        for _ in 0..6 {
            window.finish();
            assert_eq!(window.max(), promised, "neither back nor forward");
        }
        for _ in 0..WINDOW_DEPTH - 8 {
            window.take();
        }
        assert_eq!(window.turn(window.expected()), Turn::Ignore);
        for _ in 0..WINDOW_DEPTH - 8 + 2 {
            window.finish();
        }
        assert_eq!(window.max(), window.expected().plus(SHORT_DEPTH - 1));
        window.set_depth(WINDOW_DEPTH);
        assert_eq!(window.max(), window.expected().plus(WINDOW_DEPTH - 1));
    }

    #[test]
    #[should_panic(expected = "more requests finished than were taken")]
    fn finishing_what_was_never_taken_is_a_bug() {
        Window::new(Serial(0)).finish();
    }
}
