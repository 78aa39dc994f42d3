//! The loop of a witness: one socket, many groups.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::clock::now;
use super::driver::until;
use super::store::Store;
use super::writer::{self, Save};
use crate::witness::{Event, Input, Output, PeerAddr, Witness};

const DATAGRAM_BYTES_MAX: usize = 2048;
/// Addresses remembered for answers; strangers cannot make it more.
const ADDRESSES_MAX: usize = 1024;

/// A witness and everything its loop needs.
pub struct WitnessSetup {
    /// The core.
    pub witness: Witness,
    /// Where the records are kept.
    pub store: Store,
    /// Where the boxes reach it.
    pub socket: UdpSocket,
}

/// Runs for ever. `tell` hears what an operator would want to know.
///
/// # Errors
/// If the record thread cannot be started.
pub async fn run(setup: WitnessSetup, mut tell: impl FnMut(Event)) -> io::Result<()> {
    let WitnessSetup {
        mut witness,
        store,
        socket,
    } = setup;
    let (saved_in, mut saved) = mpsc::unbounded_channel();
    let saves = writer::start(store, saved_in)?;
    let mut addresses = Addresses::default();
    let mut buffer = [0; DATAGRAM_BYTES_MAX];
    loop {
        while let Some(output) = witness.poll_output() {
            match output {
                Output::Persist { group, id, record } => {
                    // An error means that the thread gave up: then nothing may follow.
                    let _ = saves.send(Save { group, id, record });
                }
                Output::Send { to, bytes } => {
                    if let Some(to) = addresses.of(to)
                        && let Err(error) = socket.try_send_to(&bytes, to)
                    {
                        tracing::trace!("to {to}: {error}");
                    }
                }
                Output::Event(event) => tell(event),
            }
        }
        let input = tokio::select! {
            biased;
            Some((group, id)) = saved.recv() => Input::Persisted { group, id },
            received = socket.recv_from(&mut buffer) => match received {
                Ok((len, from)) => {
                    Input::Datagram { from: addresses.number(from), bytes: buffer[..len].to_vec() }
                }
                Err(error) => {
                    tracing::trace!("{error}");
                    continue;
                }
            },
            () = until(witness.poll_timeout()) => Input::Timeout,
        };
        witness.handle(now(), input);
    }
}

/// Socket addresses by the numbers that the core knows.
#[derive(Default)]
struct Addresses {
    numbers: BTreeMap<SocketAddr, PeerAddr>,
    known: BTreeMap<PeerAddr, SocketAddr>,
    used: u64,
}

impl Addresses {
    fn number(&mut self, address: SocketAddr) -> PeerAddr {
        if let Some(number) = self.numbers.get(&address) {
            return *number;
        }
        if self.known.len() == ADDRESSES_MAX
            && let Some((_, oldest)) = self.known.pop_first()
        {
            self.numbers.remove(&oldest);
        }
        self.used += 1;
        let number = PeerAddr(self.used);
        self.numbers.insert(address, number);
        self.known.insert(number, address);
        number
    }

    fn of(&self, number: PeerAddr) -> Option<SocketAddr> {
        self.known.get(&number).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cannot_make_the_table_grow() {
        let mut addresses = Addresses::default();
        let first = addresses.number(([127, 0, 0, 1], 1).into());
        assert_eq!(addresses.number(([127, 0, 0, 1], 1).into()), first);
        for port in 2..=2 * u16::try_from(ADDRESSES_MAX).expect("small") {
            addresses.number(([127, 0, 0, 1], port).into());
        }
        assert_eq!(addresses.known.len(), ADDRESSES_MAX);
        assert_eq!(addresses.numbers.len(), ADDRESSES_MAX);
        assert_eq!(addresses.of(first), None);
    }
}
