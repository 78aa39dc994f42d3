//! Service addresses on this box's interfaces: added with a kernel lifetime, renewed while the
//! lease holds, announced to the segment. The only file that speaks netlink.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use netlink_packet_route::address::{AddressAttribute, AddressFlags, CacheInfo};
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrStorage};

use crate::announce::{self, Mac};
use crate::config::cluster::Network;

/// The kernel drops the address by itself when nobody renews it; it counts in whole seconds only.
const VALID_SECONDS: u32 = 2;

/// Why an address cannot be held here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// No interface has an address in that network.
    #[error(
        "no interface of this box has an address in {0}; give one to the right interface first"
    )]
    NoInterface(Network),
    /// An interface has it, and not from us.
    #[error("this box has {0} on {1} already; choose an address that no machine has")]
    Taken(IpAddr, String),
    /// Not allowed.
    #[error("this box may not change addresses: {0}; run twinsan as root or with CAP_NET_ADMIN")]
    Refused(String),
    /// The kernel said no.
    #[error("the kernel refused {0}: {1}")]
    Kernel(Network, String),
}

/// A connection to the kernel's address tables.
pub(crate) struct Addresses {
    netlink: rtnetlink::Handle,
    /// Where each address goes, looked up once: the look-up blocks, a renewal must not.
    interfaces: RefCell<BTreeMap<Network, Interface>>,
}

impl Addresses {
    /// Opens netlink; its pump runs as a task of the current runtime.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub(crate) fn open() -> std::io::Result<Self> {
        let (pump, netlink, _) = rtnetlink::new_connection()?;
        tokio::spawn(pump);
        let interfaces = RefCell::default();
        Ok(Self {
            netlink,
            interfaces,
        })
    }

    async fn interface(&self, network: Network) -> Result<Interface, NetworkError> {
        if let Some(known) = self.interfaces.borrow().get(&network) {
            return Ok(*known);
        }
        let looked_up = tokio::task::spawn_blocking(move || interface_of(network)).await;
        let found = looked_up.unwrap_or(Err(NetworkError::NoInterface(network)))?;
        self.interfaces.borrow_mut().insert(network, found);
        Ok(found)
    }

    /// Adds `network.ip` with its lifetime, or renews the lifetime. Nothing to do on loopback.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub(crate) async fn hold(&self, network: Network) -> Result<(), NetworkError> {
        if network.ip.is_loopback() {
            return Ok(());
        }
        let interface = self.interface(network).await?;
        let mut request = self
            .netlink
            .address()
            .add(interface.index, network.ip, network.prefix)
            .replace();
        let mut lifetime = CacheInfo::default();
        lifetime.ifa_valid = VALID_SECONDS;
        lifetime.ifa_preferred = VALID_SECONDS;
        let attributes = &mut request.message_mut().attributes;
        attributes.push(AddressAttribute::CacheInfo(lifetime));
        if network.ip.is_ipv6() {
            // H48: duplicate address detection would leave the address unusable for ever when the
            // dead box's kernel still answers.
            attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.map_err(|error| {
            self.interfaces.borrow_mut().remove(&network);
            refused(network, &error)
        })
    }

    /// Takes `network.ip` away; it is no error if it is gone.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub(crate) async fn release(&self, network: Network) -> Result<(), NetworkError> {
        if network.ip.is_loopback() {
            return Ok(());
        }
        let Ok(interface) = self.interface(network).await else {
            return Ok(());
        };
        let mut message = netlink_packet_route::address::AddressMessage::default();
        message.header.family = match network.ip {
            IpAddr::V4(_) => netlink_packet_route::AddressFamily::Inet,
            IpAddr::V6(_) => netlink_packet_route::AddressFamily::Inet6,
        };
        message.header.index = interface.index;
        message.header.prefix_len = network.prefix;
        message
            .attributes
            .push(AddressAttribute::Address(network.ip));
        if network.ip.is_ipv4() {
            message.attributes.push(AddressAttribute::Local(network.ip));
        }
        match self.netlink.address().del(message).execute().await {
            Err(error) if !is_gone(&error) => Err(refused(network, &error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Whether `network.ip` could be held here. Everything fits on loopback. Blocks.
///
/// # Errors
/// [`NetworkError`].
pub(crate) fn check(network: Network) -> Result<(), NetworkError> {
    if network.ip.is_loopback() {
        return Ok(());
    }
    let all = nix::ifaddrs::getifaddrs().map_err(|_| NetworkError::NoInterface(network))?;
    let taken = all
        .filter(|entry| entry.address.as_ref().and_then(ip_of) == Some(network.ip))
        .map(|entry| entry.interface_name)
        .next();
    match taken {
        Some(name) => Err(NetworkError::Taken(network.ip, name)),
        None => interface_of(network).map(|_| ()),
    }
}

/// Says on the segment that `network.ip` is here now (law T5). Nothing to do on loopback. Blocks
/// while it looks the interface up.
///
/// # Errors
/// [`NetworkError`].
pub(crate) fn announce(network: Network) -> Result<(), NetworkError> {
    if network.ip.is_loopback() {
        return Ok(());
    }
    let interface = interface_of(network)?;
    let frame = announce::frame(network.ip, interface.mac);
    let send = || -> nix::Result<()> {
        let socket: OwnedFd = nix::sys::socket::socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        nix::sys::socket::bind(socket.as_raw_fd(), &interface.link)?;
        nix::sys::socket::send(socket.as_raw_fd(), &frame, MsgFlags::empty()).map(|_| ())
    };
    send().map_err(|error| {
        if error == nix::errno::Errno::EPERM {
            NetworkError::Refused(error.to_string())
        } else {
            NetworkError::Kernel(network, error.to_string())
        }
    })
}

#[derive(Clone, Copy)]
struct Interface {
    index: u32,
    mac: Mac,
    link: LinkAddr,
}

/// The interface that has another address in the same network.
fn interface_of(network: Network) -> Result<Interface, NetworkError> {
    let missing = || NetworkError::NoInterface(network);
    let all: Vec<_> = nix::ifaddrs::getifaddrs().map_err(|_| missing())?.collect();
    let name = all
        .iter()
        .filter(|entry| {
            entry.address.as_ref().and_then(ip_of).is_some_and(|ip| {
                ip != network.ip
                    && prefix_of(ip, network.prefix) == prefix_of(network.ip, network.prefix)
            })
        })
        .map(|entry| entry.interface_name.clone())
        .next()
        .ok_or_else(missing)?;
    all.iter()
        .filter(|entry| entry.interface_name == name)
        .filter_map(|entry| entry.address.as_ref()?.as_link_addr().copied())
        .find_map(|link| {
            let index = u32::try_from(link.ifindex()).ok()?;
            Some(Interface {
                index,
                mac: link.addr()?,
                link,
            })
        })
        .ok_or_else(missing)
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
}

/// The network part of an address.
fn prefix_of(ip: IpAddr, prefix: u8) -> (bool, u128) {
    let (bits, value) = match ip {
        IpAddr::V4(ip) => (32, u128::from(ip.to_bits())),
        IpAddr::V6(ip) => (128, ip.to_bits()),
    };
    let host_bits = u32::from(bits - prefix.min(bits));
    (ip.is_ipv4(), value.checked_shr(host_bits).unwrap_or(0))
}

fn is_gone(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message)
        if message.raw_code() == -(nix::errno::Errno::EADDRNOTAVAIL as i32))
}

fn refused(network: Network, error: &rtnetlink::Error) -> NetworkError {
    let permission = -(nix::errno::Errno::EPERM as i32);
    if let rtnetlink::Error::NetlinkError(message) = error
        && message.raw_code() == permission
    {
        return NetworkError::Refused(error.to_string());
    }
    NetworkError::Kernel(network, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_compare_by_prefix() {
        let of = |text: &str, prefix| prefix_of(text.parse().expect("an address"), prefix);
        assert_eq!(of("10.0.0.1", 24), of("10.0.0.200", 24));
        assert_ne!(of("10.0.0.1", 24), of("10.0.1.1", 24));
        assert_eq!(of("10.0.0.1", 0), of("192.168.0.1", 0));
        assert_ne!(of("10.0.0.1", 0), of("fd00::1", 0));
        assert_eq!(of("fd00::1", 64), of("fd00::2", 64));
    }

    #[test]
    fn a_foreign_network_is_refused_with_what_to_do() {
        let network: Network = "203.0.113.9/30".parse().expect("a network");
        let said = interface_of(network).err().map(|error| error.to_string());
        assert!(said.is_some_and(|said| said.contains("give one to the right interface")));
    }
}
