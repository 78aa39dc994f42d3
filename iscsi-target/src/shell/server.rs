//! The target as a program sees it: portals to serve, sessions to list and to drop.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use core::net::SocketAddr;

use bytes::BytesMut;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::connection::{Conversation, reset};
use crate::auth::{CHALLENGE_LEN_BYTES, Challenge};
use crate::backend::{CompletionQueue, Tag};
use crate::connection::{Connection, Ports};
use crate::discovery::Portal;
use crate::hosts::ConfigError;
use crate::login::Surroundings;
use crate::registry::{ConnectionId, DropReason, Limits, Notice, Registry, Room, SessionInfo};
use crate::scsi::{self, Array, ArrayConfig};
use crate::types::{PortalTag, Time};

/// How much is read at once.
const READ_BYTES: usize = 64 * 1024;
/// How long to wait when the system has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What does not change while the target lives.
#[derive(Clone, Debug)]
pub struct TargetSettings {
    /// iSCSI name of the target.
    pub name: String,
    /// Text shown to initiators; may be empty.
    pub alias: String,
    /// Bounds.
    pub limits: Limits,
}

/// One iSCSI target with all its portals. Clones are handles to the same target.
#[derive(Clone)]
pub struct Target {
    inner: Rc<Inner>,
}

pub(super) struct Inner {
    settings: TargetSettings,
    array: Rc<RefCell<Array>>,
    registry: RefCell<Registry>,
    lines: RefCell<BTreeMap<ConnectionId, Rc<Line>>>,
    portals: RefCell<BTreeMap<u64, Rc<OpenPortal>>>,
    ids_used: Cell<u64>,
    /// What connections receive into, one after the other: an idle one holds no buffer.
    buffer: Cell<BytesMut>,
    origin: Instant,
}

/// How others reach the task of a connection.
pub(super) struct Line {
    portal: u64,
    notices: RefCell<VecDeque<Notice>>,
    waker: RefCell<Option<Waker>>,
}

/// A portal that is being served.
struct OpenPortal {
    tag: PortalTag,
    closed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Target {
    /// A target without units and without portals; logins are refused until [`Target::activate`].
    #[must_use]
    pub fn new(settings: TargetSettings) -> Self {
        let registry = Registry::new(settings.limits);
        let mut array = Array::new();
        array.portals(&settings.name, Vec::new());
        let inner = Inner {
            settings,
            array: Rc::new(RefCell::new(array)),
            registry: RefCell::new(registry),
            lines: RefCell::default(),
            portals: RefCell::default(),
            ids_used: Cell::new(0),
            buffer: Cell::default(),
            origin: Instant::now(),
        };
        Self {
            inner: Rc::new(inner),
        }
    }

    /// Units, hosts and maps. Use [`Target::apply`] to change the configuration.
    #[must_use]
    pub fn array(&self) -> Rc<RefCell<Array>> {
        Rc::clone(&self.inner.array)
    }

    /// Replaces hosts, maps and units, and drops the sessions of initiators that lost their host.
    pub fn apply(&self, config: ArrayConfig) -> Result<(), ConfigError> {
        let applied = self.inner.array.borrow_mut().apply(config)?;
        let mut registry = self.inner.registry.borrow_mut();
        for nexus in applied.evicted {
            registry.drop_nexus(nexus, DropReason::Operator);
        }
        drop(registry);
        self.inner.deliver();
        Ok(())
    }

    /// What SendTargets lists and what the target port groups are: all service addresses of the
    /// cluster, also those that are served elsewhere now. Without it, each portal lists itself.
    pub fn portals_announced(&self, portals: Vec<Portal>) {
        let tags: BTreeSet<PortalTag> = portals.iter().map(|portal| portal.tag).collect();
        self.inner.registry.borrow_mut().announce(portals);
        self.inner.name_portals(&tags);
    }

    /// Logins are accepted from now on.
    pub fn activate(&self) {
        self.inner.registry.borrow_mut().activate();
    }

    /// Every connection is dropped with a reset, nothing queued is answered, and logins meet
    /// "service unavailable" (law R8).
    pub fn deactivate(&self) {
        self.inner.registry.borrow_mut().deactivate();
        self.inner.deliver();
        self.inner.drop_lines(DropReason::Deactivated, |_| true);
    }

    /// This box is about to give up its role: initiators are asked to log out within so many
    /// seconds, logins are answered with "service unavailable". Ends with [`Target::stay`],
    /// [`Target::activate`] or [`Target::deactivate`].
    pub fn depart(&self, within_s: u16) {
        self.inner.registry.borrow_mut().depart(within_s);
        self.inner.deliver();
    }

    /// The role stays after all.
    pub fn stay(&self) {
        self.inner.registry.borrow_mut().stay();
    }

    /// Whether logins are accepted.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.inner.registry.borrow().is_active()
    }

    /// Serves one portal until the future is dropped or [`Target::close_portal`] is called; then
    /// its connections are dropped.
    pub async fn serve(&self, listener: TcpListener, tag: u16) -> io::Result<()> {
        let here = Portal {
            address: listener.local_addr()?,
            tag: PortalTag(tag),
        };
        let guard = PortalGuard::open(Rc::clone(&self.inner), here.tag);
        loop {
            let accepted = poll_fn(|cx| {
                if guard.portal.closed.get() {
                    return Poll::Ready(None);
                }
                *guard.portal.waker.borrow_mut() = Some(cx.waker().clone());
                listener.poll_accept(cx).map(Some)
            })
            .await;
            match accepted {
                None => return Ok(()),
                Some(Ok((stream, source))) => self.inner.accept(stream, source, here, guard.id),
                Some(Err(error)) if is_about_one_connection(&error) => {}
                Some(Err(error)) => {
                    tracing::warn!(%error, address = %here.address, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Stops serving every portal with this tag and drops their connections at once.
    pub fn close_portal(&self, tag: u16) {
        let portals: Vec<(u64, Rc<OpenPortal>)> = {
            let open = self.inner.portals.borrow();
            open.iter()
                .filter(|(_, portal)| portal.tag == PortalTag(tag))
                .map(|(id, portal)| (*id, Rc::clone(portal)))
                .collect()
        };
        for (id, portal) in portals {
            portal.closed.set(true);
            self.inner
                .drop_lines(DropReason::PortalClosed, |line| line.portal == id);
            let waker = portal.waker.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Drops the sessions of the initiator of that iSCSI name, in any case; how many there were.
    /// It may log in again at once, as long as a host names it.
    pub fn drop_initiator(&self, name: &str) -> usize {
        let mut registry = self.inner.registry.borrow_mut();
        let dropped = registry.drop_where(DropReason::Operator, |key, _| {
            key.initiator.eq_ignore_ascii_case(name)
        });
        drop(registry);
        self.inner.deliver();
        dropped
    }

    /// All sessions.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.inner.registry.borrow().sessions()
    }
}

impl Inner {
    /// Nanoseconds since the target was made.
    pub(super) fn now(&self) -> Time {
        let elapsed = self.origin.elapsed().as_nanos();
        Time(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    /// The instant of a time of the core.
    pub(super) fn instant(&self, time: Time) -> Instant {
        let origin = self.origin;
        origin
            .checked_add(Duration::from_nanos(time.0))
            .unwrap_or(origin)
    }

    /// Lends the shared state to the core, then passes on what it has to say to others.
    pub(super) fn with_ports<R>(&self, act: impl FnOnce(&mut Ports<'_>) -> R) -> R {
        let result = {
            let mut array = self.array.borrow_mut();
            let mut registry = self.registry.borrow_mut();
            act(&mut Ports {
                array: &mut array,
                registry: &mut registry,
            })
        };
        self.deliver();
        result
    }

    /// An empty buffer for what comes in.
    pub(super) fn borrow_buffer(&self) -> BytesMut {
        let mut buffer = self.buffer.take();
        buffer.clear();
        buffer.reserve(READ_BYTES);
        buffer
    }

    pub(super) fn return_buffer(&self, buffer: BytesMut) {
        self.buffer.set(buffer);
    }

    fn deliver(&self) {
        while let Some((to, notice)) = {
            let mut registry = self.registry.borrow_mut();
            registry.next_mail()
        } {
            let line = self.lines.borrow().get(&to).cloned();
            if let Some(line) = line {
                line.notify(notice);
            }
        }
    }

    fn drop_lines(&self, reason: DropReason, which: impl Fn(&Line) -> bool) {
        let lines: Vec<Rc<Line>> = self.lines.borrow().values().cloned().collect();
        for line in lines.into_iter().filter(|line| which(line)) {
            line.notify(Notice::Drop(reason));
        }
    }

    fn next_id(&self) -> u64 {
        self.ids_used.set(self.ids_used.get() + 1);
        self.ids_used.get()
    }

    /// Tells the units which portals there are; a portal's tag is its port and its group too.
    fn name_portals(&self, tags: &BTreeSet<PortalTag>) {
        let portal = |tag: &PortalTag| scsi::Portal {
            tag: tag.0,
            relative_port: tag.0,
            group: tag.0,
        };
        let portals = tags.iter().map(portal).collect();
        self.array
            .borrow_mut()
            .portals(&self.settings.name, portals);
    }

    fn accept(self: &Rc<Self>, stream: TcpStream, source: SocketAddr, here: Portal, portal: u64) {
        let Some(connection) = self.new_connection(&stream, source, here) else {
            return reset(stream);
        };
        let id = ConnectionId(self.next_id());
        let room = self.registry.borrow_mut().accept(id);
        self.deliver();
        if room == Room::No {
            tracing::warn!(%source, "too many connections");
            return reset(stream);
        }
        let connection = connection(id);
        let line = Rc::new(Line {
            portal,
            notices: RefCell::default(),
            waker: RefCell::default(),
        });
        self.lines.borrow_mut().insert(id, Rc::clone(&line));
        let conversation = Conversation::new(Rc::clone(self), line, id, connection, stream);
        tokio::task::spawn_local(conversation.run());
    }

    /// Everything a connection starts from, or nothing if the socket or the system fails.
    fn new_connection(
        &self,
        stream: &TcpStream,
        source: SocketAddr,
        here: Portal,
    ) -> Option<impl FnOnce(ConnectionId) -> Connection + use<>> {
        stream.set_nodelay(true).ok()?;
        // A listener on the unspecified address does not know where it was reached.
        let here = Portal {
            address: stream.local_addr().ok()?,
            ..here
        };
        let mut random = [0; CHALLENGE_LEN_BYTES + 1];
        getrandom::fill(&mut random).ok()?;
        let (identifier, bytes) = (random[0], random[1..].to_vec());
        let settings = self.settings.clone();
        let now = self.now();
        Some(move |connection| {
            let surroundings = Surroundings {
                connection,
                target: settings.name,
                alias: settings.alias,
                tag: here.tag,
                source,
                challenge: Challenge { identifier, bytes },
            };
            Connection::new(now, settings.limits.login_ms, here, surroundings)
        })
    }

    /// The connection is over. What backends still hold for it stays counted.
    pub(super) fn hang_up(
        &self,
        id: ConnectionId,
        queue: &CompletionQueue,
        held: BTreeMap<Tag, usize>,
    ) {
        self.lines.borrow_mut().remove(&id);
        {
            let mut registry = self.registry.borrow_mut();
            queue.leave_behind(held, registry.budget().left_bytes());
            registry.hang_up(id);
        }
        self.deliver();
    }
}

impl Line {
    pub(super) fn wake_with(&self, waker: &Waker) {
        let mut slot = self.waker.borrow_mut();
        if !slot.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
    }

    pub(super) fn next_notice(&self) -> Option<Notice> {
        self.notices.borrow_mut().pop_front()
    }

    fn notify(&self, notice: Notice) {
        self.notices.borrow_mut().push_back(notice);
        let waker = self.waker.borrow().clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Takes the portal off the list, and its connections down, however serving it ends.
struct PortalGuard {
    inner: Rc<Inner>,
    id: u64,
    portal: Rc<OpenPortal>,
}

impl PortalGuard {
    fn open(inner: Rc<Inner>, tag: PortalTag) -> Self {
        let id = inner.next_id();
        let portal = Rc::new(OpenPortal {
            tag,
            closed: Cell::new(false),
            waker: RefCell::default(),
        });
        inner.portals.borrow_mut().insert(id, Rc::clone(&portal));
        let guard = Self { inner, id, portal };
        guard.name_served();
        guard
    }

    /// Without an announcement the portals are those that are served here.
    fn name_served(&self) {
        if self.inner.registry.borrow().has_announcement() {
            return;
        }
        let tags = self
            .inner
            .portals
            .borrow()
            .values()
            .map(|portal| portal.tag)
            .collect();
        self.inner.name_portals(&tags);
    }
}

impl Drop for PortalGuard {
    fn drop(&mut self) {
        self.inner.portals.borrow_mut().remove(&self.id);
        self.inner
            .drop_lines(DropReason::PortalClosed, |line| line.portal == self.id);
    }
}

/// Errors of `accept` that say that the connection is gone already (accept(2)).
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
