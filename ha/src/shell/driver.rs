//! The loop of a box: datagrams, timer, records and the other parts' inputs go in one at a time;
//! what comes out is done in order.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::clock::now;
use super::store::Store;
use super::writer::{self, Save};
use crate::node::{Input, Node, Output, Status};
use crate::types::{GroupId, LinkId, Time};

/// Larger datagrams are nobody's.
const DATAGRAM_BYTES_MAX: usize = 2048;

/// One path, with the socket it uses.
pub struct Link {
    /// Its number in the core.
    pub id: LinkId,
    /// Bound to this box's address on it.
    pub socket: UdpSocket,
    /// Where the other end listens.
    pub to: SocketAddr,
}

/// A box and everything its loop needs. Runs inside a `LocalSet`.
pub struct NodeDriver {
    /// The core.
    pub node: Node,
    /// The group.
    pub group: GroupId,
    /// Where its record is kept.
    pub store: Store,
    /// Every link, the witness's too.
    pub links: Vec<Link>,
    /// What the other parts of the box report.
    pub inputs: UnboundedReceiver<Input>,
}

impl NodeDriver {
    /// Runs for ever. `act` does what is not a record or a datagram, in order and without waiting;
    /// `publish` sees the status after each input.
    ///
    /// # Errors
    /// If the record thread cannot be started.
    pub async fn run(
        self,
        mut act: impl FnMut(Output),
        mut publish: impl FnMut(Status),
    ) -> io::Result<()> {
        let Self {
            mut node,
            group,
            store,
            links,
            mut inputs,
        } = self;
        let (saved_in, mut saved) = mpsc::unbounded_channel();
        let saves = writer::start(store, saved_in)?;
        let (heard_in, mut heard) = mpsc::unbounded_channel();
        let links: Vec<Rc<Link>> = links.into_iter().map(Rc::new).collect();
        for link in &links {
            tokio::task::spawn_local(listen(Rc::clone(link), heard_in.clone()));
        }
        loop {
            while let Some(output) = node.poll_output() {
                match output {
                    Output::Persist { id, record } => {
                        // An error means that the thread gave up: then nothing may follow.
                        let _ = saves.send(Save { group, id, record });
                    }
                    Output::Send { link, bytes, .. } => send(&links, link, &bytes),
                    other => act(other),
                }
            }
            publish(node.status());
            let input = tokio::select! {
                biased;
                Some((_, id)) = saved.recv() => Input::Persisted { id },
                Some(input) = inputs.recv() => input,
                Some(datagram) = heard.recv() => datagram,
                () = until(node.poll_timeout()) => Input::Timeout,
                else => return Ok(()),
            };
            node.handle(now(), input);
        }
    }
}

fn send(links: &[Rc<Link>], id: LinkId, bytes: &[u8]) {
    let Some(link) = links.iter().find(|link| link.id == id) else {
        return;
    };
    if let Err(error) = link.socket.try_send_to(bytes, link.to) {
        tracing::trace!("to {}: {error}", link.to);
    }
}

/// Whoever sends: the core knows its peers by their signatures.
async fn listen(link: Rc<Link>, heard: UnboundedSender<Input>) {
    let mut buffer = [0; DATAGRAM_BYTES_MAX];
    loop {
        match link.socket.recv_from(&mut buffer).await {
            Ok((len, _)) => {
                let bytes = buffer[..len].to_vec();
                if heard
                    .send(Input::Datagram {
                        link: link.id,
                        bytes,
                    })
                    .is_err()
                {
                    return;
                }
            }
            // A refused port at the other end comes back as an error here; it is no news.
            Err(error) => {
                tracing::trace!("on link {}: {error}", link.id.0);
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Sleeps until `deadline` on the boot clock; for ever without one.
pub(super) async fn until(deadline: Option<Time>) {
    match deadline {
        Some(deadline) => {
            tokio::time::sleep(Duration::from_nanos(deadline.since_ns(now().boot))).await;
        }
        None => std::future::pending().await,
    }
}
