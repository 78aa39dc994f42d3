//! Who acknowledges, as a machine on the wire sees it: the iSCSI answers that reach the host of the
//! initiators, with the box that sent each, in the order of their arrival.
//!
//! RFC 7143 §11.2: a PDU starts with 48 bytes that say how long the rest is. The sessions of the
//! lab use no digests.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket,
};
use nix::sys::time::TimeVal;

use super::network::{Net, Network, Place};
use super::{ISCSI_PORT, clock};

const BHS_LEN: usize = 48;
const OPCODE_MASK: u8 = 0x3f;
const SCSI_RESPONSE: u8 = 0x21;
const SCSI_DATA_IN: u8 = 0x25;
/// Of a Data-In PDU that carries the status (§11.7.2).
const STATUS_BIT: u8 = 0x01;
/// Bytes that may wait for a segment that is missing; more is a connection that is not followed
/// any more.
const WAITING_MAX: usize = 4 << 20;
const BUFFER_BYTES: usize = 64 << 20;

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What was seen since somebody asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The boxes that acknowledged, one entry for each uninterrupted run of one box.
    pub owners: Vec<Place>,
    /// Commands that ended with GOOD.
    pub acknowledged: u64,
}

impl Capture {
    /// Listens where the initiators are.
    ///
    /// # Panics
    /// If the kernel does not allow it.
    #[must_use]
    pub fn start(network: &Network) -> Self {
        let boxes = boxes(network);
        let socket = listen(network);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, ends) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || follow(&socket, &boxes, &theirs, &ends));
        Self {
            seen,
            stop,
            thread: Some(thread),
        }
    }

    /// What was seen since this was asked last.
    #[must_use]
    pub fn take(&self) -> Seen {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if ended.is_some_and(|ended| ended.is_err()) && !std::thread::panicking() {
            panic!("the capture failed");
        }
    }
}

/// The boxes by the addresses of their network cards.
fn boxes(network: &Network) -> BTreeMap<[u8; 6], Place> {
    let mut boxes = BTreeMap::new();
    for place in [Place::San1, Place::San2] {
        for net in Net::FABRICS {
            let shown = network.ip(place, &["-o", "link", "show", "dev", net.interface()]);
            let mac = shown
                .split_whitespace()
                .skip_while(|word| *word != "link/ether")
                .nth(1)
                .expect("a card has an address");
            let bytes: Vec<u8> = mac
                .split(':')
                .map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"))
                .collect();
            boxes.insert(bytes.try_into().expect("six bytes"), place);
        }
    }
    boxes
}

fn listen(network: &Network) -> OwnedFd {
    let namespace = network.namespace_file(Place::Initiator);
    // a thread of its own goes there and ends; the socket stays
    let there = std::thread::spawn(move || {
        let file = File::open(namespace).expect("the namespace was made");
        setns(file, CloneFlags::CLONE_NEWNET).expect("root may");
        let kind = (AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC);
        let socket = socket(kind.0, kind.1, kind.2, SockProtocol::EthAll).expect("root may");
        setsockopt(&socket, RcvBufForce, &BUFFER_BYTES).expect("root may");
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(0, 100_000)).expect("a socket waits");
        socket
    });
    there.join().expect("it returns what it opened")
}

fn follow(
    socket: &OwnedFd,
    boxes: &BTreeMap<[u8; 6], Place>,
    seen: &Mutex<Seen>,
    stop: &AtomicBool,
) {
    let mut streams = BTreeMap::new();
    let mut packet = vec![0; 128 << 10];
    while !stop.load(Ordering::Relaxed) {
        // nothing for a while, or the interface is going: look whether to stop
        let Ok(len) = recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) else {
            continue;
        };
        let Some((mac, stream, segment)) = parse(&packet[..len]) else {
            continue;
        };
        let Some(place) = boxes.get(&mac) else {
            continue;
        };
        let stream: &mut Stream = streams.entry((*place, stream)).or_default();
        let good = stream.take(&segment);
        if good > 0 {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.acknowledged += good;
            if seen.owners.last() != Some(place) {
                seen.owners.push(*place);
            }
        }
    }
}

/// A TCP segment.
#[derive(Debug)]
struct Segment<'a> {
    starts: bool,
    seq: u32,
    data: &'a [u8],
}

/// A connection: the service address, and the port of the initiator.
type Ends = ([u8; 4], u16);

fn parse(packet: &[u8]) -> Option<([u8; 6], Ends, Segment<'_>)> {
    let sliced = SlicedPacket::from_ethernet(packet).ok()?;
    let Some(etherparse::LinkSlice::Ethernet2(link)) = &sliced.link else {
        return None;
    };
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else {
        return None;
    };
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else {
        return None;
    };
    if tcp.source_port() != ISCSI_PORT {
        return None;
    }
    let ends = (ip.header().source(), tcp.destination_port());
    let segment = Segment {
        starts: tcp.syn(),
        seq: tcp.sequence_number(),
        data: tcp.payload(),
    };
    Some((link.source(), ends, segment))
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Stream {
    /// What comes next; none while its start was not seen.
    next: Option<u32>,
    /// Segments that came too early.
    early: BTreeMap<u32, Vec<u8>>,
    /// The beginning of a PDU.
    bytes: Vec<u8>,
}

impl Stream {
    /// Takes a segment, and says how many commands ended with GOOD in what can be read now.
    fn take(&mut self, segment: &Segment<'_>) -> u64 {
        if segment.starts {
            *self = Self {
                next: Some(segment.seq.wrapping_add(1)),
                ..Self::default()
            };
            return 0;
        }
        let Some(mut next) = self.next else { return 0 };
        if !segment.data.is_empty() {
            self.early.insert(segment.seq, segment.data.to_vec());
        }
        while let Some(seq) = self.early.keys().copied().find(|seq| is_due(*seq, next)) {
            let data = self.early.remove(&seq).expect("it was found");
            let known = usize::try_from(next.wrapping_sub(seq)).expect("half of a u32");
            if let Some(new) = data.get(known..) {
                self.bytes.extend_from_slice(new);
                let len = u32::try_from(new.len()).expect("a segment is short");
                next = next.wrapping_add(len);
            }
        }
        let waiting: usize = self.early.values().map(Vec::len).sum();
        self.next = (waiting <= WAITING_MAX).then_some(next);
        self.read()
    }

    /// Reads whole PDUs.
    fn read(&mut self) -> u64 {
        let (mut good, mut at) = (0, 0);
        while let Some(header) = self.bytes.get(at..at + BHS_LEN) {
            let ahs = usize::from(header[4]) * 4;
            let data = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
            let len = BHS_LEN + ahs + data.next_multiple_of(4);
            if self.bytes.len() < at + len {
                break;
            }
            good += u64::from(is_good(header));
            at += len;
        }
        self.bytes.drain(..at);
        good
    }
}

/// At or before `next`, in the arithmetic of sequence numbers.
const fn is_due(seq: u32, next: u32) -> bool {
    next.wrapping_sub(seq) < 1 << 31
}

/// The end of a command without any error (§11.4.2, §11.7).
fn is_good(header: &[u8]) -> bool {
    match header[0] & OPCODE_MASK {
        SCSI_RESPONSE => header[2] == 0 && header[3] == 0,
        SCSI_DATA_IN => header[1] & STATUS_BIT != 0 && header[3] == 0,
        _ => false,
    }
}

/// Waits until `capture` has seen an acknowledgement.
///
/// # Panics
/// If it sees none: then it proves nothing.
pub fn is_seeing(capture: &Capture) -> Seen {
    let look = || Some(capture.take()).filter(|seen| seen.acknowledged > 0);
    clock::until(super::STATE_WAIT, look).expect("the capture sees the load")
}

#[cfg(test)]
mod tests {
    use super::{BHS_LEN, SCSI_DATA_IN, SCSI_RESPONSE, Segment, Stream};

    fn pdu(opcode: u8, flags: u8, status: u8, data: usize) -> Vec<u8> {
        let mut pdu = vec![0; BHS_LEN + data.next_multiple_of(4)];
        pdu[0] = opcode;
        pdu[1] = flags;
        pdu[3] = status;
        pdu[7] = u8::try_from(data).expect("short");
        pdu
    }

    fn at(seq: u32, data: &[u8]) -> Segment<'_> {
        Segment {
            starts: false,
            seq,
            data,
        }
    }

    fn started(seq: u32) -> Stream {
        let mut stream = Stream::default();
        let start = Segment {
            starts: true,
            seq,
            data: &[],
        };
        assert_eq!(stream.take(&start), 0);
        stream
    }

    #[test]
    fn good_ends_are_counted_wherever_segments_begin() {
        let all = [
            pdu(SCSI_RESPONSE, 0x80, 0, 0),
            pdu(SCSI_DATA_IN, 0x81, 0, 13),
            pdu(SCSI_DATA_IN, 0x80, 0, 13),
            pdu(SCSI_RESPONSE, 0x80, 2, 20),
            pdu(SCSI_RESPONSE, 0x80, 0, 0),
        ]
        .concat();
        for cut in 1..all.len() {
            let mut stream = started(u32::MAX - 100);
            let first = stream.take(&at(u32::MAX - 99, &all[..cut]));
            let next = (u32::MAX - 99).wrapping_add(u32::try_from(cut).expect("short"));
            assert_eq!(
                first + stream.take(&at(next, &all[cut..])),
                3,
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn segments_that_come_early_or_twice_are_put_in_order() {
        let all = [
            pdu(SCSI_RESPONSE, 0x80, 0, 0),
            pdu(SCSI_RESPONSE, 0x80, 0, 0),
        ]
        .concat();
        let mut stream = started(6);
        assert_eq!(stream.take(&at(7 + 60, &all[60..])), 0);
        assert_eq!(stream.take(&at(7, &all[..50])), 1);
        assert_eq!(stream.take(&at(7, &all[..50])), 0);
        assert_eq!(stream.take(&at(7 + 40, &all[40..70])), 1);
    }
}
