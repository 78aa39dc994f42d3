//! Frames that tell a network segment where an address lives now (law T5): gratuitous ARP
//! (RFC 826, RFC 5227 §3) and unsolicited neighbour advertisement (RFC 4861 §7.2.6).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const NEXT_HEADER_ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Shortest Ethernet frame without its checksum.
const FRAME_BYTES_MIN: usize = 60;

/// The Ethernet frame that announces `ip` at `mac`.
#[must_use]
pub(crate) fn frame(ip: IpAddr, mac: Mac) -> Vec<u8> {
    let mut frame = match ip {
        IpAddr::V4(ip) => gratuitous_arp(ip, mac),
        IpAddr::V6(ip) => neighbour_advertisement(ip, mac),
    };
    if frame.len() < FRAME_BYTES_MIN {
        frame.resize(FRAME_BYTES_MIN, 0);
    }
    frame
}

/// An ARP announcement: a request in which sender and target are the announced address
/// (RFC 5227 §3), which every neighbour that knows the address must take over.
fn gratuitous_arp(ip: Ipv4Addr, mac: Mac) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, ETHERTYPE_ARP);
    frame.extend([0, 1]); // hardware: Ethernet
    frame.extend([0x08, 0x00]); // protocol: IPv4
    frame.extend([6, 4]); // address lengths
    frame.extend([0, 1]); // operation: request
    frame.extend(mac);
    frame.extend(ip.octets());
    frame.extend([0; 6]);
    frame.extend(ip.octets());
    frame
}

/// To all nodes, with the override flag, so that caches take the new address at once.
fn neighbour_advertisement(ip: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut body = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0];
    body.extend([0x20, 0, 0, 0]); // override
    body.extend(ip.octets());
    body.extend([2, 1]); // option: target link-layer address, one unit of 8 bytes
    body.extend(mac);
    let sum = icmpv6_checksum(ip, all_nodes, &body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 1], mac, ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]); // version 6
    frame.extend([0, u8::try_from(body.len()).expect("32 bytes")]);
    frame.extend([NEXT_HEADER_ICMPV6, 255]); // hop limit 255 (RFC 4861 §7.1.2)
    frame.extend(ip.octets());
    frame.extend(all_nodes.octets());
    frame.extend(body);
    frame
}

fn ethernet(target: Mac, source: Mac, ethertype: [u8; 2]) -> Vec<u8> {
    [&target[..], &source[..], &ethertype[..]].concat()
}

/// RFC 4443 §2.3, over the pseudo-header of RFC 8200 §8.1.
fn icmpv6_checksum(source: Ipv6Addr, target: Ipv6Addr, body: &[u8]) -> u16 {
    let len = u32::try_from(body.len())
        .expect("a short message")
        .to_be_bytes();
    let next = [0, 0, 0, NEXT_HEADER_ICMPV6];
    let all = [
        &source.octets()[..],
        &target.octets()[..],
        &len[..],
        &next[..],
        body,
    ]
    .concat();
    let mut sum: u32 = all
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 9];

    #[test]
    fn an_arp_announcement_has_the_address_on_both_sides() {
        let frame = frame(Ipv4Addr::new(10, 1, 2, 3).into(), MAC);
        assert_eq!(frame.len(), FRAME_BYTES_MIN);
        assert_eq!(frame[..6], BROADCAST);
        assert_eq!(frame[12..22], [8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(frame[22..32], [2, 0, 0, 0, 0, 9, 10, 1, 2, 3]);
        assert_eq!(frame[32..42], [0, 0, 0, 0, 0, 0, 10, 1, 2, 3]);
    }

    #[test]
    fn an_advertisement_sums_to_zero() {
        let ip: Ipv6Addr = "fd00::1".parse().expect("an address");
        let frame = frame(ip.into(), MAC);
        assert_eq!(frame.len(), 14 + 40 + 32);
        let body = &frame[54..];
        assert_eq!(body[0], NEIGHBOUR_ADVERTISEMENT);
        let all_nodes = "ff02::1".parse().expect("an address");
        assert_eq!(icmpv6_checksum(ip, all_nodes, body), 0);
    }
}
