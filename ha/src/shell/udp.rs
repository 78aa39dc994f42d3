//! Datagrams in and out. Nothing here waits: what cannot leave at once is lost, as on any wire.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::Poll;

use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

use crate::types::LinkId;
use crate::wire::DATAGRAM_MAX_BYTES;

/// One link: a bound socket and where the other end is.
#[derive(Debug)]
pub struct Link {
    /// Its id; the same on both boxes.
    pub id: LinkId,
    /// Bound to this box's address of the link.
    pub socket: UdpSocket,
    /// The other end.
    pub to: SocketAddr,
}

/// The next datagram on any link. The links take turns, from `*turn` on: garbage that floods one of
/// them must not keep the others from being heard.
pub(super) async fn receive(links: &[Link], turn: &mut usize) -> (LinkId, Vec<u8>) {
    let mut space = [0; DATAGRAM_MAX_BYTES + 1];
    poll_fn(|context| {
        for place in 0..links.len() {
            let at = (*turn + place) % links.len();
            let link = &links[at];
            loop {
                let mut bytes = ReadBuf::new(&mut space);
                match link.socket.poll_recv_from(context, &mut bytes) {
                    Poll::Ready(Ok(_)) => {
                        *turn = at + 1;
                        return Poll::Ready((link.id, bytes.filled().to_vec()));
                    }
                    Poll::Ready(Err(_)) => {} // an ICMP error of an earlier send
                    Poll::Pending => break,
                }
            }
        }
        Poll::Pending
    })
    .await
}

/// Sends, or loses the datagram.
pub(super) async fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) {
    let sending = socket.send_to(bytes, to);
    if let Ok(Err(error)) = tokio::time::timeout(SEND_MAX, sending).await {
        tracing::trace!("datagram to {to} lost: {error}");
    }
}

/// A socket whose buffer stays full that long loses the datagram.
const SEND_MAX: core::time::Duration = core::time::Duration::from_millis(2);
