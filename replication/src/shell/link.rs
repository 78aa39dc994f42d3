//! The data link of a group: TCP sessions that carry frames.
//!
//! A frame is a fixed header, which names the length of its payload, and the payload. The reader
//! takes headers and small payloads through a staging buffer and reads what is missing of a large
//! payload straight into its own aligned buffer, from where it goes to the disk. The writer
//! gathers everything queued into few sends, in order.
//!
//! A session proves nothing by being connected: the engine decides by Hello which one counts, and
//! a second session never disturbs the running one. Bytes that are no frame close their session
//! and are counted, nothing else.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::AbortHandle;

use super::buffer::aligned;
use super::tls::{self, Channel};
use crate::types::SessionId;
use crate::wire;

/// Room for headers and small payloads of one session.
const STAGING_BYTES: usize = 16 * 1024;
/// A payload that still lacks this much is read straight into its buffer.
const DIRECT_BYTES: usize = 4 * 1024;
/// Buffers gathered into one send.
const GATHER: usize = 128;
/// The most bytes a session may have queued; beyond it the peer has stopped reading for good.
const QUEUE_BYTES: u64 = 1 << 30;
/// Accepted sessions that have not sent one frame; the oldest gives way to a newer one.
pub(super) const UNHEARD_SESSIONS: usize = 16;

/// What happened on the link since the driver started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Sessions accepted.
    pub accepted: u64,
    /// Connections from addresses that are not the peer's, closed at once.
    pub strangers: u64,
    /// Sessions dialled and connected.
    pub dialled: u64,
    /// Sessions closed for bytes that are no frame.
    pub garbage: u64,
    /// Sessions refused because they were not secured as agreed when the boxes were paired.
    pub refused: u64,
    /// Sessions closed because they never sent a frame, or because the peer stopped reading.
    pub given_up: u64,
}

/// Where a session comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Accepted,
    Dialled,
}

/// Every open session of one group, with what waits to be sent.
#[derive(Default)]
pub(super) struct Link {
    sessions: BTreeMap<SessionId, Session>,
    last: u64,
    counters: LinkCounters,
}

struct Session {
    stream: Rc<Channel>,
    origin: Origin,
    heard: Rc<Cell<bool>>,
    reader: Option<AbortHandle>,
    queue: VecDeque<Piece>,
    /// Bytes of the first piece that are sent.
    front_bytes: usize,
    queued_bytes: u64,
}

/// A part of a frame that lies in one place.
enum Piece {
    Header([u8; wire::HEADER_LEN]),
    Body(Bytes),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Header(header) => header,
            Self::Body(body) => body,
        }
    }
}

/// What the reading task of a session needs.
pub(super) struct Reading {
    pub(super) session: SessionId,
    stream: Rc<Channel>,
    heard: Rc<Cell<bool>>,
}

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadEnd {
    #[error("closed by the peer")]
    Closed,
    #[error("{}", tls::TLS_THERE)]
    Encrypted,
    #[error("not a frame: {0}")]
    Garbage(wire::WireError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Link {
    /// Takes a connected stream as a new session.
    pub(super) fn open(&mut self, stream: Channel, origin: Origin) -> io::Result<Reading> {
        stream.set_nodelay()?;
        self.last += 1;
        let session = SessionId(self.last);
        let (stream, heard) = (Rc::new(stream), Rc::new(Cell::new(false)));
        match origin {
            Origin::Accepted => self.counters.accepted += 1,
            Origin::Dialled => self.counters.dialled += 1,
        }
        self.sessions.insert(
            session,
            Session {
                stream: Rc::clone(&stream),
                origin,
                heard: Rc::clone(&heard),
                reader: None,
                queue: VecDeque::new(),
                front_bytes: 0,
                queued_bytes: 0,
            },
        );
        Ok(Reading {
            session,
            stream,
            heard,
        })
    }

    /// Names the task that reads `session`, to be ended with it.
    pub(super) fn set_reader(&mut self, session: SessionId, reader: AbortHandle) {
        match self.sessions.get_mut(&session) {
            Some(open) => open.reader = Some(reader),
            None => reader.abort(),
        }
    }

    /// Ends a session after a last attempt to send what is queued. True if it was open.
    pub(super) fn close(&mut self, session: SessionId) -> bool {
        let Some(mut open) = self.sessions.remove(&session) else {
            return false;
        };
        let _best_effort = open.send_queued();
        true
    }

    /// Ends a session for a fault of the other side.
    pub(super) fn close_for(&mut self, session: SessionId, end: &ReadEnd) -> bool {
        let open = self.close(session);
        match end {
            ReadEnd::Garbage(_) if open => self.counters.garbage += 1,
            ReadEnd::Encrypted if open => self.counters.refused += 1,
            ReadEnd::Garbage(_) | ReadEnd::Encrypted | ReadEnd::Closed | ReadEnd::Io(_) => {}
        }
        open
    }

    /// Counts a connection that became no session because it was not secured as agreed.
    pub(super) fn refuse(&mut self) {
        self.counters.refused += 1;
    }

    /// Counts a connection that was not secured in time.
    pub(super) fn gave_up(&mut self) {
        self.counters.given_up += 1;
    }

    /// Ends a session that keeps resources for nothing.
    pub(super) fn give_up(&mut self, session: SessionId) -> bool {
        let open = self.close(session);
        self.counters.given_up += u64::from(open);
        open
    }

    /// Accepted sessions without a frame beyond [`UNHEARD_SESSIONS`], oldest first.
    pub(super) fn surplus(&self) -> Vec<SessionId> {
        let unheard: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, open)| open.origin == Origin::Accepted && !open.heard.get())
            .map(|(session, _)| *session)
            .collect();
        let surplus = unheard.len().saturating_sub(UNHEARD_SESSIONS);
        unheard.into_iter().take(surplus).collect()
    }

    /// Whether `session` is open and has not sent one frame.
    pub(super) fn is_unheard(&self, session: SessionId) -> bool {
        self.sessions
            .get(&session)
            .is_some_and(|open| !open.heard.get())
    }

    /// Queues a frame: header, payload, trailer. False if the session is not open or its queue is
    /// beyond all bounds.
    pub(super) fn queue(
        &mut self,
        session: SessionId,
        header: [u8; wire::HEADER_LEN],
        bodies: [Bytes; 2],
    ) -> bool {
        let Some(open) = self.sessions.get_mut(&session) else {
            return false;
        };
        open.queued_bytes += header.len() as u64;
        open.queue.push_back(Piece::Header(header));
        for body in bodies.into_iter().filter(|body| !body.is_empty()) {
            open.queued_bytes += body.len() as u64;
            open.queue.push_back(Piece::Body(body));
        }
        open.queued_bytes <= QUEUE_BYTES
    }

    /// Sends what the sockets take. Registers the waker for the rest. Appends sessions that broke
    /// to `broken`.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>, broken: &mut Vec<SessionId>) {
        for (session, open) in &mut self.sessions {
            if open.flush(cx).is_err() {
                broken.push(*session);
            }
        }
    }

    /// Counts a connection from somebody else.
    pub(super) const fn turn_away(&mut self) {
        self.counters.strangers += 1;
    }

    pub(super) fn counters(&self) -> LinkCounters {
        self.counters
    }

    /// Every open session.
    pub(super) fn sessions(&self) -> Vec<SessionId> {
        self.sessions.keys().copied().collect()
    }
}

impl Session {
    fn flush(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.queue.is_empty() || self.stream.is_pending() {
            match self.stream.poll_write_ready(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(ready) => ready?,
            }
            self.send_queued()?;
        }
        Ok(())
    }

    /// Sends until the queue is empty or the socket full.
    fn send_queued(&mut self) -> io::Result<()> {
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); GATHER];
            let mut used = 0;
            let mut skip = self.front_bytes;
            for (slice, piece) in slices.iter_mut().zip(&self.queue) {
                *slice = IoSlice::new(&piece.bytes()[skip..]);
                skip = 0;
                used += 1;
            }
            match self.stream.try_write_vectored(&slices[..used]) {
                Ok(sent) => self.sent(sent),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        match self.stream.try_flush() {
            Err(e) if is_transient(&e) => Ok(()),
            flushed => flushed,
        }
    }

    fn sent(&mut self, mut sent: usize) {
        self.queued_bytes -= sent as u64;
        while let Some(piece) = self.queue.front() {
            let rest = piece.bytes().len() - self.front_bytes;
            if sent < rest {
                self.front_bytes += sent;
                return;
            }
            sent -= rest;
            self.front_bytes = 0;
            self.queue.pop_front();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

impl Reading {
    /// Reads frames until the session ends, giving each to `frame`.
    pub(super) async fn run(self, mut frame: impl FnMut([u8; wire::HEADER_LEN], Bytes)) -> ReadEnd {
        let mut assembly = Assembly::new();
        loop {
            match assembly.next() {
                Ok(Some((header, payload))) => {
                    self.heard.set(true);
                    frame(header, payload);
                    continue;
                }
                Ok(None) => {}
                Err(_) if assembly.is_tls() => {
                    self.stream.decline();
                    return ReadEnd::Encrypted;
                }
                Err(error) => return ReadEnd::Garbage(error),
            }
            if let Err(error) = self.stream.readable().await {
                return error.into();
            }
            match assembly.fill(&self.stream) {
                Ok(0) if assembly.is_tls() => return ReadEnd::Encrypted,
                Ok(0) => return ReadEnd::Closed,
                Ok(_) => {}
                Err(e) if is_transient(&e) => {}
                Err(e) => return e.into(),
            }
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// Frames being put together from a byte stream.
struct Assembly {
    staging: Box<[u8]>,
    start: usize,
    end: usize,
    /// A header whose payload is not complete: the payload so far, and its full length.
    partial: Option<Partial>,
}

struct Partial {
    header: [u8; wire::HEADER_LEN],
    payload: BytesMut,
    len_bytes: usize,
}

impl Assembly {
    fn new() -> Self {
        let staging = vec![0; STAGING_BYTES].into_boxed_slice();
        Self {
            staging,
            start: 0,
            end: 0,
            partial: None,
        }
    }

    /// The next complete frame, if there is one.
    fn next(&mut self) -> Result<Option<([u8; wire::HEADER_LEN], Bytes)>, wire::WireError> {
        let mut partial = match self.partial.take() {
            Some(partial) => partial,
            None => {
                let staged = &self.staging[self.start..self.end];
                let Some((header, _)) = staged.split_first_chunk() else {
                    return Ok(None);
                };
                // The length is checked against the protocol's limit before it is believed.
                let len_bytes = wire::payload_len(header)?;
                let payload = if len_bytes == 0 {
                    BytesMut::new()
                } else {
                    aligned(len_bytes)
                };
                let partial = Partial {
                    header: *header,
                    payload,
                    len_bytes,
                };
                self.start += wire::HEADER_LEN;
                partial
            }
        };
        let missing = partial.len_bytes - partial.payload.len();
        let take = missing.min(self.end - self.start);
        partial
            .payload
            .extend_from_slice(&self.staging[self.start..self.start + take]);
        self.start += take;
        if take == missing {
            return Ok(Some((partial.header, partial.payload.freeze())));
        }
        self.partial = Some(partial);
        Ok(None)
    }

    /// True if what waits to become a frame is the beginning of TLS.
    fn is_tls(&self) -> bool {
        self.partial.is_none() && tls::is_tls(&self.staging[self.start..self.end])
    }

    /// Reads once from the socket, to where the bytes belong. Called when `next` has no frame.
    fn fill(&mut self, stream: &Channel) -> io::Result<usize> {
        if let Some(partial) = &mut self.partial {
            let missing = partial.len_bytes - partial.payload.len();
            if missing >= DIRECT_BYTES {
                return stream.try_read_buf(&mut partial.payload, missing);
            }
        }
        self.staging.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let read = stream.try_read(&mut self.staging[self.end..])?;
        self.end += read;
        Ok(read)
    }
}

/// Connects once to `peer`, from the address `from` if given.
pub(super) async fn dial(peer: SocketAddr, from: Option<SocketAddr>) -> io::Result<TcpStream> {
    let socket = if peer.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(from) = from {
        socket.set_reuseaddr(true)?;
        socket.bind(from)?;
    }
    socket.connect(peer).await
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::types::Epoch;
    use crate::wire::{Header, Kind};

    type Frame = ([u8; wire::HEADER_LEN], Bytes);

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap();
        let (dialled, accepted) = tokio::join!(dial(peer, None), listener.accept());
        (dialled.unwrap(), accepted.unwrap().0)
    }

    fn header(index: u64, len_bytes: usize) -> [u8; wire::HEADER_LEN] {
        let mut header = Header::new(Kind::Write, Epoch(1), 1);
        header.seq = index;
        header.payload_len = u32::try_from(len_bytes).unwrap();
        header.encode()
    }

    /// Lengths around every boundary of staging and direct reads, and large ones.
    fn lengths() -> Vec<usize> {
        let edges = [
            0,
            1,
            63,
            64,
            DIRECT_BYTES,
            STAGING_BYTES,
            256 * 1024,
            1 << 20,
        ];
        let around = edges
            .into_iter()
            .flat_map(|edge| [edge.saturating_sub(1), edge, edge + 1]);
        around.cycle().take(240).collect()
    }

    async fn sent(link: &mut Link, session: SessionId) {
        std::future::poll_fn(|cx| {
            let mut broken = Vec::new();
            link.flush(cx, &mut broken);
            assert!(broken.is_empty());
            let left = link
                .sessions
                .get(&session)
                .map_or(0, |open| open.queued_bytes);
            if left == 0 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    #[tokio::test]
    async fn frames_arrive_whole_aligned_and_in_order() {
        let (dialled, accepted) = pair().await;
        let (mut source, mut target) = (Link::default(), Link::default());
        let session = source
            .open(Channel::plain(dialled), Origin::Dialled)
            .unwrap()
            .session;
        let reading = target
            .open(Channel::plain(accepted), Origin::Accepted)
            .unwrap();
        let frames: Vec<Frame> = lengths()
            .into_iter()
            .enumerate()
            .map(|(index, len)| {
                let body: Vec<u8> = (0..len)
                    .map(|at| (at * 7 + index).to_le_bytes()[0])
                    .collect();
                (header(index as u64, len), Bytes::from(body))
            })
            .collect();
        for (header, payload) in &frames {
            let cut = payload.len() / 3;
            let bodies = [payload.slice(..cut), payload.slice(cut..)];
            assert!(source.queue(session, *header, bodies));
        }
        let arrived = RefCell::new(Vec::new());
        let read = reading.run(|header, payload| arrived.borrow_mut().push((header, payload)));
        let send = async {
            sent(&mut source, session).await;
            assert!(source.close(session));
        };
        let (end, ()) = tokio::join!(read, send);
        assert!(matches!(end, ReadEnd::Closed), "{end}");
        let arrived = arrived.into_inner();
        assert!(
            arrived == frames,
            "{} of {} frames",
            arrived.len(),
            frames.len()
        );
        let aligned = |p: &Bytes| p.is_empty() || p.as_ptr().addr().is_multiple_of(4096);
        assert!(arrived.iter().all(|(_, payload)| aligned(payload)));
        assert!(!target.is_unheard(SessionId(1)));
    }

    #[tokio::test]
    async fn bytes_that_are_no_frame_end_the_session() {
        let (mut dialled, accepted) = pair().await;
        let mut target = Link::default();
        let reading = target
            .open(Channel::plain(accepted), Origin::Accepted)
            .unwrap();
        dialled.write_all(&[b'x'; 4096]).await.unwrap();
        let end = reading.run(|_, _| panic!("garbage became a frame")).await;
        assert!(matches!(end, ReadEnd::Garbage(_)), "{end}");
        assert!(target.close_for(SessionId(1), &end));
        assert!(!target.close_for(SessionId(1), &end));
        assert_eq!(target.counters().garbage, 1);
    }

    #[tokio::test]
    async fn sessions_without_a_frame_give_way_oldest_first() {
        let mut target = Link::default();
        let mut dialled = Vec::new();
        for _ in 0..UNHEARD_SESSIONS + 2 {
            let (stream, accepted) = pair().await;
            dialled.push(stream);
            target
                .open(Channel::plain(accepted), Origin::Accepted)
                .unwrap();
        }
        target.sessions[&SessionId(1)].heard.set(true);
        assert_eq!(target.surplus(), [SessionId(2)]);
        assert!(target.give_up(SessionId(2)));
        assert_eq!(target.surplus(), []);
    }
}
