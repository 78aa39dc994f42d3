//! Addresses in configurations: a service address with the bits of its network, and the networks
//! that a host may come from.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use iscsi_target::hosts;
use serde::{Deserialize, Serialize};

/// One address and the bits of its network, as an interface has it: `10.0.0.10/24`.
///
/// Invariant: the bits fit the kind of address.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    ip: IpAddr,
    prefix_bits: u8,
}

impl Cidr {
    /// The address itself.
    #[must_use]
    pub const fn ip(self) -> IpAddr {
        self.ip
    }

    /// Bits of its network.
    #[must_use]
    pub const fn prefix_bits(self) -> u8 {
        self.prefix_bits
    }

    /// Whether `other` is in the same network.
    #[must_use]
    pub fn is_near(self, other: IpAddr) -> bool {
        hosts::Network::new(self.ip, self.prefix_bits)
            .expect("the bits fit, see the invariant")
            .contains(other)
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an address with network bits; write 10.0.0.10/24");
        let (ip, bits) = text.split_once('/').ok_or_else(wrong)?;
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        let prefix_bits: u8 = bits.parse().map_err(|_| wrong())?;
        hosts::Network::new(ip, prefix_bits).ok_or_else(wrong)?;
        Ok(Self { ip, prefix_bits })
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix_bits)
    }
}

/// A network that a host may come from: the target's own type, as text in files and requests.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network(pub hosts::Network);

impl FromStr for Network {
    type Err = hosts::ConfigError;

    fn from_str(text: &str) -> Result<Self, hosts::ConfigError> {
        text.parse().map(Self)
    }
}

impl TryFrom<String> for Network {
    type Error = hosts::ConfigError;

    fn try_from(text: String) -> Result<Self, hosts::ConfigError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_near_those_of_its_network() {
        let near = |cidr: &str, other: &str| {
            let cidr: Cidr = cidr.parse().expect("an address with bits");
            cidr.is_near(other.parse().expect("an address"))
        };
        assert!(near("10.0.0.1/24", "10.0.0.200"));
        assert!(!near("10.0.0.1/24", "10.0.1.1"));
        assert!(near("10.0.0.1/0", "192.168.0.1"));
        assert!(!near("10.0.0.1/0", "fd00::1"));
        assert!(near("fd00::1/64", "fd00::2"));
    }

    #[test]
    fn what_is_no_address_with_bits_is_refused() {
        for wrong in [
            "10.0.0.1",
            "10.0.0.1/33",
            "fd00::1/129",
            "x/8",
            "10.0.0.1/x",
            "127.0.0.300/8",
        ] {
            let said = wrong.parse::<Cidr>().expect_err(wrong);
            assert!(
                said.contains(wrong) && said.contains("10.0.0.10/24"),
                "{said}"
            );
        }
        let said = "10.0.0.0/40"
            .parse::<Network>()
            .expect_err("40 bits")
            .to_string();
        assert!(said.contains("ADDRESS/BITS"), "{said}");
    }

    #[test]
    fn addresses_survive_as_text() {
        let cidr: Cidr = "fd00::10/64".parse().expect("good");
        let network: Network = "10.0.0.0/8".parse().expect("good");
        let text = serde_json::to_string(&(cidr, network)).expect("text");
        assert_eq!(text, r#"["fd00::10/64","10.0.0.0/8"]"#);
        assert_eq!(
            serde_json::from_str::<(Cidr, Network)>(&text).expect("text"),
            (cidr, network)
        );
    }
}
