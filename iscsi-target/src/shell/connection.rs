//! The task of one TCP connection: read, drive the core, submit, send; one gathered write a turn.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep_until};

use super::server::{Inner, Line};
use crate::backend::CompletionQueue;
use crate::connection::{CloseReason, Connection, Input, Manner, Output};
use crate::registry::ConnectionId;
use crate::types::Time;

/// Data segments with at least this much missing are read straight into their buffer.
const LAND_MIN_BYTES: usize = 8 * 1024;
/// Most ranges of one gathered write.
const SLICES_MAX: usize = 64;
/// Reading goes on before writing until this much waits to be sent.
const SEND_AT_BYTES: usize = 256 * 1024;
/// Turns of one connection before others have theirs.
const TURNS_MAX: usize = 32;

/// A connection with its socket.
pub(super) struct Conversation {
    inner: Rc<Inner>,
    line: Rc<Line>,
    id: ConnectionId,
    connection: Connection,
    stream: Option<TcpStream>,
    queue: CompletionQueue,
    /// The beginning of a header that is not complete: never more than one.
    input: BytesMut,
    alarm: Option<(Time, Pin<Box<Sleep>>)>,
    closing: Option<Manner>,
    shut: bool,
}

/// Whether something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Some,
    None,
}

impl Conversation {
    pub(super) fn new(
        inner: Rc<Inner>,
        line: Rc<Line>,
        id: ConnectionId,
        connection: Connection,
        stream: TcpStream,
    ) -> Self {
        Self {
            inner,
            line,
            id,
            connection,
            stream: Some(stream),
            queue: CompletionQueue::new(),
            input: BytesMut::new(),
            alarm: None,
            closing: None,
            shut: false,
        }
    }

    pub(super) async fn run(mut self) {
        poll_fn(|cx| self.turn(cx)).await;
    }

    /// Does all that can be done now. Ready when the connection is over.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.queue.wake_with(cx.waker());
        self.line.wake_with(cx.waker());
        let now = self.inner.now();
        for _ in 0..TURNS_MAX {
            // First of all: after a notice nothing that was queued is admitted (law T1).
            self.notices(now);
            let heard = self.read(now, cx);
            self.completions(now);
            let mut progress = heard;
            let waiting = self.connection.outbox().len_bytes();
            if waiting > 0 && (heard == Progress::None || waiting >= SEND_AT_BYTES) {
                progress = self.write(now, cx);
            }
            if self.is_over(cx) {
                return Poll::Ready(());
            }
            if progress == Progress::None && self.queue.is_empty() {
                return self.wait(cx);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn notices(&mut self, now: Time) {
        while let Some(notice) = self.line.next_notice() {
            self.feed(now, Input::Notice(notice));
        }
    }

    fn completions(&mut self, now: Time) {
        while let Some((tag, outcome)) = self.queue.pop() {
            self.feed(now, Input::Done(tag, outcome));
        }
    }

    fn feed(&mut self, now: Time, input: Input<'_>) {
        let connection = &mut self.connection;
        self.inner
            .with_ports(|ports| connection.handle(now, input, ports));
        self.drain();
    }

    /// Carries out what the core wants.
    fn drain(&mut self) {
        while let Some(output) = self.connection.poll_output() {
            match output {
                Output::Submit {
                    tag,
                    backend,
                    request,
                } => {
                    backend.submit(request, self.queue.completion(tag));
                }
                Output::Close { reason, manner } => {
                    if !matches!(reason, CloseReason::Logout | CloseReason::Disconnected) {
                        tracing::info!(connection = self.id.0, ?reason, "connection closed");
                    }
                    self.closing = Some(manner);
                }
            }
        }
    }

    fn read(&mut self, now: Time, cx: &mut Context<'_>) -> Progress {
        let wanted = self.connection.wants_input() || self.closing == Some(Manner::AfterSending);
        let Some(stream) = self.stream.as_mut().filter(|_| wanted) else {
            return Progress::None;
        };
        let landing = self.connection.landing();
        let (result, received) = match landing {
            Some((buffer, missing)) if missing >= LAND_MIN_BYTES && self.input.is_empty() => {
                let mut room = buffer.limit(missing);
                (pin!(stream.read_buf(&mut room)).poll(cx), None)
            }
            Some(_) | None => {
                let mut received = self.inner.borrow_buffer();
                received.extend_from_slice(&self.input);
                let result = pin!(stream.read_buf(&mut received)).poll(cx);
                (result, Some(received))
            }
        };
        let (progress, received) = match (result, received) {
            (Poll::Pending, received) => (Progress::None, received),
            (Poll::Ready(Ok(0) | Err(_)), received) => {
                self.feed(now, Input::Disconnected);
                self.stream = None;
                (Progress::Some, received)
            }
            (Poll::Ready(Ok(len)), None) => {
                self.feed(now, Input::Landed(len));
                (Progress::Some, None)
            }
            (Poll::Ready(Ok(_)), Some(received)) => {
                (Progress::Some, Some(self.take_in(now, received)))
            }
        };
        if let Some(received) = received {
            self.inner.return_buffer(received);
        }
        progress
    }

    /// Hands over what was received; keeps what the core cannot use yet.
    fn take_in(&mut self, now: Time, mut received: BytesMut) -> BytesMut {
        if !self.connection.is_closed() {
            self.feed(now, Input::Received(&mut received));
            self.input.clear();
            self.input.extend_from_slice(&received);
        }
        received
    }

    fn write(&mut self, now: Time, cx: &mut Context<'_>) -> Progress {
        let Some(stream) = self.stream.as_mut() else {
            return Progress::None;
        };
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        for (slot, chunk) in slices.iter_mut().zip(self.connection.outbox().chunks()) {
            *slot = IoSlice::new(chunk);
            count += 1;
        }
        let result = Pin::new(stream).poll_write_vectored(cx, &slices[..count]);
        match result {
            Poll::Pending => return Progress::None,
            Poll::Ready(Ok(len)) if len > 0 => self.feed(now, Input::Sent(len)),
            Poll::Ready(Ok(_) | Err(_)) => {
                self.feed(now, Input::Disconnected);
                self.stream = None;
            }
        }
        Progress::Some
    }

    /// Whether the task has nothing left to do. Last words are sent, then the peer hangs up.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        match (self.closing, &mut self.stream) {
            (None, Some(_)) => false,
            (_, None) => true,
            (Some(Manner::Reset), stream) => {
                if let Some(stream) = stream.take() {
                    reset(stream);
                }
                true
            }
            (Some(Manner::AfterSending), Some(stream)) => {
                if !self.connection.outbox().is_empty() {
                    return false;
                }
                if self.connection.poll_timeout().is_none() {
                    return true;
                }
                if !self.shut {
                    self.shut = true;
                    return matches!(Pin::new(stream).poll_shutdown(cx), Poll::Ready(Err(_)));
                }
                false
            }
        }
    }

    /// Sleeps until the core's next time-out, unless something else comes first.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(deadline) = self.connection.poll_timeout() else {
                return Poll::Pending;
            };
            // The deadline moves with every byte; the alarm follows only when it rings.
            let armed = self
                .alarm
                .as_ref()
                .is_some_and(|(time, _)| *time <= deadline);
            if !armed {
                let sleep = Box::pin(sleep_until(self.inner.instant(deadline)));
                self.alarm = Some((deadline, sleep));
            }
            let Some((_, sleep)) = &mut self.alarm else {
                return Poll::Pending;
            };
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.alarm = None;
            let now = self.inner.now();
            if now >= deadline {
                self.feed(now, Input::Timeout);
                // What follows from it is done in a new turn.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // Also when the runtime shuts down: the registry must not keep a session without a task.
        let now = self.inner.now();
        self.feed(now, Input::Disconnected);
        let left_behind = self.connection.take_abandoned();
        self.inner.hang_up(self.id, &self.queue, left_behind);
        if let Some(stream) = self.stream.take()
            && !self.shut
        {
            reset(stream);
        }
    }
}

/// Closes a connection so that the peer sees a reset at once, not an orderly end.
pub(super) fn reset(stream: TcpStream) {
    let result: io::Result<()> = stream.set_zero_linger();
    if let Err(error) = result {
        tracing::debug!(%error, "cannot reset a connection");
    }
    drop(stream);
}
