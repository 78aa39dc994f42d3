//! SendTargets: which portals lead to this target (RFC 7143 appendix C).

use core::fmt;
use core::net::{IpAddr, SocketAddr};

use bytes::BytesMut;

use crate::text;
use crate::types::PortalTag;

/// An address at which initiators find the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Portal {
    /// Where.
    pub address: SocketAddr,
    /// Its portal group.
    pub tag: PortalTag,
}

impl fmt::Display for Portal {
    /// As `TargetAddress` wants it: IPv6 in brackets, the tag after a comma.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (port, tag) = (self.address.port(), self.tag.0);
        match self.address.ip().to_canonical() {
            IpAddr::V4(ip) => write!(f, "{ip}:{port},{tag}"),
            IpAddr::V6(ip) => write!(f, "[{ip}]:{port},{tag}"),
        }
    }
}

/// Answers `SendTargets=value`, or nothing if the value asks for a target that is not here.
#[must_use]
pub fn send_targets(value: &str, name: &str, portals: &[Portal]) -> BytesMut {
    let mut text = BytesMut::new();
    if matches!(value, "" | "All") || value.eq_ignore_ascii_case(name) {
        text::append(&mut text, "TargetName", name);
        for portal in portals {
            text::append(&mut text, "TargetAddress", portal);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn portals() -> [Portal; 2] {
        let four = Portal {
            address: "10.0.0.1:3260".parse().unwrap(),
            tag: PortalTag(1),
        };
        let six = Portal {
            address: "[fd00::2]:3261".parse().unwrap(),
            tag: PortalTag(2),
        };
        [four, six]
    }

    #[test]
    fn all_portals_are_listed() {
        let expected = b"TargetName=iqn.2026-01.test:a\0\
            TargetAddress=10.0.0.1:3260,1\0TargetAddress=[fd00::2]:3261,2\0";
        for value in ["All", "", "iqn.2026-01.test:a"] {
            let text = send_targets(value, "iqn.2026-01.test:a", &portals());
            assert_eq!(&text[..], expected, "{value:?}");
        }
    }

    #[test]
    fn another_target_is_not_here() {
        assert!(send_targets("iqn.2026-01.test:b", "iqn.2026-01.test:a", &portals()).is_empty());
    }

    #[test]
    fn mapped_addresses_are_written_as_ipv4() {
        let address = "[::ffff:10.0.0.1]:3260".parse().unwrap();
        assert_eq!(
            Portal {
                address,
                tag: PortalTag(7)
            }
            .to_string(),
            "10.0.0.1:3260,7"
        );
    }
}
