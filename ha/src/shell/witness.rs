//! Drives a witness: one socket, many groups.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::net::UdpSocket;

use super::clock::now;
use super::disk::{self, Order};
use super::driver::DriverError;
use super::store::Store;
use super::udp;
use crate::wire::DATAGRAM_MAX_BYTES;
use crate::witness::{Event, Input, Output, PeerAddr, Witness};

/// Everything a witness runs with.
#[derive(Debug)]
pub struct WitnessSetup {
    /// The core.
    pub witness: Witness,
    /// Where its records lie.
    pub store: Store,
    /// Bound to the witness port.
    pub socket: UdpSocket,
}

/// Addresses that datagrams came from, by a number that the core hands back.
#[derive(Debug, Default)]
struct Addresses {
    by_address: BTreeMap<SocketAddr, u64>,
    by_number: BTreeMap<u64, SocketAddr>,
    next: u64,
}

/// More addresses than this are not remembered; the oldest go first.
const ADDRESSES_MAX: usize = 256;

impl Addresses {
    fn number(&mut self, address: SocketAddr) -> PeerAddr {
        if let Some(number) = self.by_address.get(&address) {
            return PeerAddr(*number);
        }
        if self.by_number.len() >= ADDRESSES_MAX
            && let Some((_, oldest)) = self.by_number.pop_first()
        {
            self.by_address.remove(&oldest);
        }
        self.next += 1;
        self.by_address.insert(address, self.next);
        self.by_number.insert(self.next, address);
        PeerAddr(self.next)
    }
}

/// Runs until something fails; `tell` gets every event.
///
/// # Errors
/// Always ends with one: a witness that cannot save must not answer.
pub async fn run_witness(
    setup: WitnessSetup,
    mut tell: impl FnMut(Event),
) -> Result<(), DriverError> {
    let WitnessSetup {
        mut witness,
        store,
        socket,
    } = setup;
    let (orders, mut reports) = disk::start(store).map_err(|_| DriverError::Thread)?;
    let mut addresses = Addresses::default();
    let mut space = vec![0; DATAGRAM_MAX_BYTES + 1];
    loop {
        while let Some(output) = witness.poll_output() {
            match output {
                Output::Persist { group, id, record } => {
                    let order = Order { group, id, record };
                    orders.send(order).map_err(|_| DriverError::Thread)?;
                }
                Output::Send { to, bytes } => {
                    if let Some(address) = addresses.by_number.get(&to.0) {
                        udp::send(&socket, &bytes, *address).await;
                    }
                }
                Output::Event(event) => tell(event),
            }
        }
        let input = tokio::select! {
            report = reports.recv() => {
                let (group, id) = report.ok_or(DriverError::Thread)??;
                Input::Persisted { group, id }
            }
            received = socket.recv_from(&mut space) => match received {
                Ok((len, from)) => {
                    let from = addresses.number(from);
                    Input::Datagram { from, bytes: space[..len].to_vec() }
                }
                Err(_) => continue, // an ICMP error of an earlier send
            },
        };
        witness.handle(now(), input);
    }
}
