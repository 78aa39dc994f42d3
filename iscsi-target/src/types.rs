//! Numbers that mean something on an iSCSI connection, and their arithmetic.

use core::fmt;

/// A point in time, in nanoseconds from an origin that the caller chose and never changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The point `ms` milliseconds later; the end of time is a wall, not an overflow.
    #[must_use]
    pub const fn after_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }
}

/// A 32-bit serial number: order is defined only for neighbours (RFC 1982, RFC 7143 §4.2.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Serial(pub u32);

impl Serial {
    /// The number `count` steps later, wrapping.
    #[must_use]
    pub const fn plus(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// Whether `self` comes before `other`.
    #[must_use]
    pub const fn before(self, other: Self) -> bool {
        let distance = other.0.wrapping_sub(self.0);
        distance != 0 && distance < 1 << 31
    }

    /// Whether `self` lies in `first..=last`; an interval whose last comes before its first is
    /// empty.
    #[must_use]
    pub const fn within(self, first: Self, last: Self) -> bool {
        !self.before(first) && !last.before(self)
    }
}

/// Initiator task tag (RFC 7143 §11.2.1.8); `0xffff_ffff` is "none".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Itt(pub u32);

impl Itt {
    /// The reserved tag: no task, no answer wanted.
    pub const NONE: Self = Self(0xffff_ffff);
}

/// Target transfer tag (RFC 7143 §11.7.4); `0xffff_ffff` is "none".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ttt(pub u32);

impl Ttt {
    /// The reserved tag: unsolicited, or no answer wanted.
    pub const NONE: Self = Self(0xffff_ffff);

    /// The tag after this one, never [`Ttt::NONE`].
    #[must_use]
    pub const fn next(self) -> Self {
        let next = self.0.wrapping_add(1);
        if next == Self::NONE.0 {
            Self(0)
        } else {
            Self(next)
        }
    }
}

/// Initiator's half of the session identifier (RFC 7143 §11.12.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Isid(pub [u8; 6]);

impl fmt::Display for Isid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Target's half of the session identifier (RFC 7143 §11.12.6); 0 is "no session yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tsih(pub u16);

/// Target portal group tag (RFC 7143 §13.9). It belongs to the service address, not to the box,
/// and is part of the identity of an I_T nexus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortalTag(pub u16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_order_wraps() {
        assert!(Serial(0xffff_fffe).before(Serial(1)));
        assert!(!Serial(1).before(Serial(0xffff_fffe)));
        assert!(!Serial(7).before(Serial(7)));
        assert!(Serial(0).within(Serial(0xffff_fff0), Serial(0x10)));
        assert!(!Serial(0x11).within(Serial(0xffff_fff0), Serial(0x10)));
        assert!(Serial(5).within(Serial(5), Serial(5)));
    }

    #[test]
    fn an_interval_that_ends_before_it_starts_holds_nothing() {
        assert!(!Serial(5).within(Serial(5), Serial(4)));
        assert!(!Serial(4).within(Serial(5), Serial(4)));
    }

    #[test]
    fn transfer_tags_skip_the_reserved_value() {
        assert_eq!(Ttt(0xffff_fffe).next(), Ttt(0));
        assert_eq!(Ttt(0).next(), Ttt(1));
    }

    #[test]
    fn milliseconds_saturate() {
        assert_eq!(Time(1).after_ms(2), Time(2_000_001));
        assert_eq!(Time(5).after_ms(u64::MAX), Time(u64::MAX));
    }
}
