//! Service addresses on this box's interfaces: added with a kernel lifetime, renewed while the
//! lease holds, announced to the segment. The only file that speaks netlink.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use netlink_packet_route::address::{AddressAttribute, AddressFlags, CacheInfo};
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrStorage};

use crate::announce::{self, Mac};
use crate::config::address::Cidr;

/// The kernel drops the address by itself when nobody renews it; it counts in whole seconds only.
pub(crate) const LIFETIME_SECONDS: u32 = 2;

/// Why an address cannot be held here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// No interface has an address in that network.
    #[error(
        "no interface of this box has an address in {0}; give one to the right interface first"
    )]
    NoInterface(Cidr),
    /// An interface has it, and not from us.
    #[error("this box has {0} on {1} already; choose an address that no machine has")]
    Taken(IpAddr, String),
    /// Not allowed.
    #[error("this box may not change addresses: {0}; run twinsan as root or with CAP_NET_ADMIN")]
    Refused(String),
    /// The kernel said no.
    #[error("the kernel refused {0}: {1}")]
    Kernel(Cidr, String),
}

/// A connection to the kernel's address tables.
pub(crate) struct Addresses {
    netlink: rtnetlink::Handle,
    /// Where each address goes, looked up once: the look-up blocks, a renewal must not.
    interfaces: RefCell<BTreeMap<Cidr, Interface>>,
}

impl Addresses {
    /// Opens netlink; its pump runs as a task of the current runtime.
    ///
    /// # Errors
    /// If the socket cannot be made: a sentence for operators.
    pub(crate) fn open() -> Result<Self, String> {
        let (pump, netlink, _) = rtnetlink::new_connection().map_err(|error| {
            format!(
                "cannot ask the kernel about its addresses: {error}; twinsan needs netlink \
                 sockets: if a systemd unit limits RestrictAddressFamilies=, add AF_NETLINK"
            )
        })?;
        tokio::spawn(pump);
        let interfaces = RefCell::default();
        Ok(Self {
            netlink,
            interfaces,
        })
    }

    async fn interface(&self, cidr: Cidr) -> Result<Interface, NetworkError> {
        if let Some(known) = self.interfaces.borrow().get(&cidr) {
            return Ok(*known);
        }
        let looked_up = tokio::task::spawn_blocking(move || interface_of(cidr)).await;
        let found = looked_up.unwrap_or(Err(NetworkError::NoInterface(cidr)))?;
        self.interfaces.borrow_mut().insert(cidr, found);
        Ok(found)
    }

    /// Adds `cidr.ip()` with its lifetime, or renews the lifetime. Nothing to do on loopback.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub(crate) async fn hold(&self, cidr: Cidr) -> Result<(), NetworkError> {
        if cidr.ip().is_loopback() {
            return Ok(());
        }
        let interface = self.interface(cidr).await?;
        let mut request = self
            .netlink
            .address()
            .add(interface.index, cidr.ip(), cidr.prefix_bits())
            .replace();
        let mut lifetime = CacheInfo::default();
        lifetime.ifa_valid = LIFETIME_SECONDS;
        lifetime.ifa_preferred = LIFETIME_SECONDS;
        let attributes = &mut request.message_mut().attributes;
        attributes.push(AddressAttribute::CacheInfo(lifetime));
        if cidr.ip().is_ipv6() {
            // H48: duplicate address detection would leave the address unusable for ever when the
            // dead box's kernel still answers.
            attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.map_err(|error| {
            self.interfaces.borrow_mut().remove(&cidr);
            refused(cidr, &error)
        })
    }

    /// Takes `cidr.ip()` away; it is no error if it is gone.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub(crate) async fn release(&self, cidr: Cidr) -> Result<(), NetworkError> {
        if cidr.ip().is_loopback() {
            return Ok(());
        }
        let Ok(interface) = self.interface(cidr).await else {
            return Ok(());
        };
        let mut message = netlink_packet_route::address::AddressMessage::default();
        message.header.family = match cidr.ip() {
            IpAddr::V4(_) => netlink_packet_route::AddressFamily::Inet,
            IpAddr::V6(_) => netlink_packet_route::AddressFamily::Inet6,
        };
        message.header.index = interface.index;
        message.header.prefix_len = cidr.prefix_bits();
        message
            .attributes
            .push(AddressAttribute::Address(cidr.ip()));
        if cidr.ip().is_ipv4() {
            message.attributes.push(AddressAttribute::Local(cidr.ip()));
        }
        match self.netlink.address().del(message).execute().await {
            Err(error) if !is_gone(&error) => Err(refused(cidr, &error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Whether `cidr.ip()` could be held here. Everything fits on loopback. Blocks.
///
/// # Errors
/// [`NetworkError`].
pub(crate) fn check(cidr: Cidr) -> Result<(), NetworkError> {
    if cidr.ip().is_loopback() {
        return Ok(());
    }
    let all = nix::ifaddrs::getifaddrs().map_err(|_| NetworkError::NoInterface(cidr))?;
    let taken = all
        .filter(|entry| entry.address.as_ref().and_then(ip_of) == Some(cidr.ip()))
        .map(|entry| entry.interface_name)
        .next();
    match taken {
        Some(name) => Err(NetworkError::Taken(cidr.ip(), name)),
        None => interface_of(cidr).map(|_| ()),
    }
}

/// Says on the segment that `cidr.ip()` is here now (law T5). Nothing to do on loopback. Blocks
/// while it looks the interface up.
///
/// # Errors
/// [`NetworkError`].
pub(crate) fn announce(cidr: Cidr) -> Result<(), NetworkError> {
    if cidr.ip().is_loopback() {
        return Ok(());
    }
    let interface = interface_of(cidr)?;
    let frame = announce::frame(cidr.ip(), interface.mac);
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
            NetworkError::Kernel(cidr, error.to_string())
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
fn interface_of(cidr: Cidr) -> Result<Interface, NetworkError> {
    let missing = || NetworkError::NoInterface(cidr);
    let all: Vec<_> = nix::ifaddrs::getifaddrs().map_err(|_| missing())?.collect();
    let name = all
        .iter()
        .filter(|entry| {
            entry
                .address
                .as_ref()
                .and_then(ip_of)
                .is_some_and(|ip| ip != cidr.ip() && cidr.is_near(ip))
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

fn is_gone(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message)
        if message.raw_code() == -(nix::errno::Errno::EADDRNOTAVAIL as i32))
}

fn refused(cidr: Cidr, error: &rtnetlink::Error) -> NetworkError {
    let permission = -(nix::errno::Errno::EPERM as i32);
    if let rtnetlink::Error::NetlinkError(message) = error
        && message.raw_code() == permission
    {
        return NetworkError::Refused(error.to_string());
    }
    NetworkError::Kernel(cidr, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_network_is_refused_with_what_to_do() {
        let cidr: Cidr = "203.0.113.9/30".parse().expect("an address");
        let said = interface_of(cidr).err().map(|error| error.to_string());
        assert!(said.is_some_and(|said| said.contains("give one to the right interface")));
    }
}
