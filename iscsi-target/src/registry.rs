//! All sessions of the target: who is logged in, who must leave, what the target announces.
//!
//! Connections share one registry. What one of them does to another is put into the other's mail,
//! which the shell delivers *before* anything else reaches that connection (law T1).
//!
//! Invariants: a key names at most one session; at most [`Limits::sessions`] sessions and
//! [`Limits::connections`] connections.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use core::net::SocketAddr;

use crate::budget::{Budget, Holding};
use crate::discovery::Portal;
use crate::scsi::{NexusId, UnitId};
use crate::types::{Isid, PortalTag, Tsih};

/// One TCP connection, for as long as the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Bounds on what strangers can make us hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// TCP connections, logged in or not.
    pub connections: usize,
    /// Sessions, discovery included.
    pub sessions: usize,
    /// Sessions of one initiator name, discovery included.
    pub sessions_per_initiator: usize,
    /// How long a login may take, in milliseconds.
    pub login_ms: u64,
    /// What sessions may hold together beyond the reserve of each, in bytes; see [`Budget`].
    pub budget_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            sessions: 512,
            sessions_per_initiator: 32,
            login_ms: 15_000,
            budget_bytes: 256 * 1024 * 1024,
        }
    }
}

/// Who a session is (RFC 7143 §4.4.1): initiator port and target portal group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionKey {
    /// Initiator name, lower case.
    pub initiator: String,
    /// Initiator's half of the session identifier.
    pub isid: Isid,
    /// Portal group.
    pub tag: PortalTag,
    /// What for.
    pub kind: SessionKind,
}

/// What a session is for (RFC 7143 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionKind {
    /// SCSI commands.
    Normal,
    /// SendTargets only. Never reinstated, hence the connection in its key.
    Discovery(ConnectionId),
}

/// One session, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Who.
    pub key: SessionKey,
    /// Target's half of the session identifier.
    pub tsih: Tsih,
    /// Its connection.
    pub connection: ConnectionId,
    /// Where it comes from.
    pub source: SocketAddr,
}

/// What a connection is told by others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Drop the connection at once, without another word.
    Drop(DropReason),
    /// Forget the commands of this nexus on one unit, or on all.
    ClearTasks(Scope),
    /// There is memory for the command that waits for it.
    Memory,
    /// Ask the initiator to log out: after so many seconds it is dropped.
    AskLogout(u16),
}

/// Which of a connection's commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those on this unit.
    Unit(UnitId),
    /// Those on this unit, for another initiator's CLEAR TASK SET: who loses any is told.
    TaskSet(UnitId),
    /// Those on this unit but for the ones about its reservations: the nexus has preempted itself
    /// (SPC-4 §5.12.11.5).
    Preemptor(UnitId),
    /// Those on one of these units.
    Units(Rc<[UnitId]>),
    /// All.
    All,
}

/// Why a connection is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The same initiator port logged in again (RFC 7143 §6.3.5).
    Reinstated,
    /// This box lost its role (law R8).
    Deactivated,
    /// Its portal was closed.
    PortalClosed,
    /// TARGET COLD RESET (RFC 7143 §11.5.1).
    ColdReset,
    /// An operator asked for it.
    Operator,
    /// It was logging in for the longest time when there was no room for another connection.
    Crowded,
}

/// Whether a connection may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It may.
    Yes,
    /// All places are taken by sessions.
    No,
}

/// What a connection is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Activity {
    /// Logging in; with the CHAP challenge that it was sent.
    Login(Option<Vec<u8>>),
    Session,
}

/// What all connections share besides the array.
#[derive(Debug)]
pub struct Registry {
    limits: Limits,
    active: bool,
    announced: Vec<Portal>,
    /// In the order in which they came: numbers of connections only grow.
    connections: BTreeMap<ConnectionId, Activity>,
    sessions: BTreeMap<SessionKey, Entry>,
    tsih_used: u16,
    budget: Budget,
    departing: bool,
    mail: VecDeque<(ConnectionId, Notice)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    tsih: Tsih,
    connection: ConnectionId,
    source: SocketAddr,
    nexus: Option<NexusId>,
}

/// A session that gave way to a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// Its nexus, if it was not a discovery session.
    pub nexus: Option<NexusId>,
}

impl Registry {
    /// A registry without sessions, not active.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            active: false,
            announced: Vec::new(),
            connections: BTreeMap::new(),
            sessions: BTreeMap::new(),
            tsih_used: 0,
            budget: Budget::new(limits.budget_bytes),
            departing: false,
            mail: VecDeque::new(),
        }
    }

    /// The bounds.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether logins are accepted.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        self.active
    }

    /// Whether a login may go on now.
    #[must_use]
    pub const fn admits_logins(&self) -> bool {
        self.active && !self.departing
    }

    /// Logins are accepted from now on.
    pub const fn activate(&mut self) {
        self.active = true;
        self.departing = false;
    }

    /// This box is about to give up its role: initiators are asked to log out within so many
    /// seconds, and logins are answered with "service unavailable". Nothing ends here: what is
    /// still there when the role goes is dropped then.
    pub fn depart(&mut self, within_s: u16) {
        self.departing = true;
        let normal = self
            .sessions
            .iter()
            .filter(|(key, _)| key.kind == SessionKind::Normal);
        let asked = normal.map(|(_, entry)| (entry.connection, Notice::AskLogout(within_s)));
        self.mail.extend(asked);
    }

    /// The role stays after all.
    pub const fn stay(&mut self) {
        self.departing = false;
    }

    /// Logins are answered with "service unavailable" from now on, and every session is dropped
    /// (law R8).
    pub fn deactivate(&mut self) {
        self.active = false;
        self.drop_where(DropReason::Deactivated, |_, _| true);
    }

    /// What SendTargets lists from now on.
    pub fn announce(&mut self, portals: Vec<Portal>) {
        self.announced = portals;
    }

    /// What SendTargets lists; `here` if nothing was announced.
    #[must_use]
    pub fn portals(&self, here: Portal) -> Vec<Portal> {
        if self.announced.is_empty() {
            vec![here]
        } else {
            self.announced.clone()
        }
    }

    /// Whether the portals are announced by somebody who knows them all.
    #[must_use]
    pub const fn has_announcement(&self) -> bool {
        !self.announced.is_empty()
    }

    /// A connection came in. If there is no room, the one that has been logging in for the longest
    /// time is dropped for it: who keeps connections open without logging in shuts nobody out.
    pub fn accept(&mut self, connection: ConnectionId) -> Room {
        if self.connections.len() >= self.limits.connections {
            let logins = self.connections.iter();
            let mut logins = logins.filter(|(_, activity)| **activity != Activity::Session);
            let Some(oldest) = logins.next().map(|(id, _)| *id) else {
                return Room::No;
            };
            self.connections.remove(&oldest);
            self.mail
                .push_back((oldest, Notice::Drop(DropReason::Crowded)));
        }
        self.connections.insert(connection, Activity::Login(None));
        Room::Yes
    }

    /// A connection is gone.
    pub fn hang_up(&mut self, connection: ConnectionId) {
        self.connections.remove(&connection);
        self.budget.leave(connection);
        self.tell_of_room();
    }

    /// The memory that all sessions share.
    #[must_use]
    pub const fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Whether a connection may hold that much more.
    pub(crate) fn admits(
        &mut self,
        who: ConnectionId,
        holding: Holding,
        more_bytes: usize,
    ) -> bool {
        self.budget.admits(who, holding, more_bytes)
    }

    /// After every event of a connection: see [`Budget`]. Who waits for memory is told.
    pub(crate) fn account(&mut self, who: ConnectionId, holding: Holding, waits: Option<usize>) {
        self.budget.account(who, holding, waits);
        self.tell_of_room();
    }

    fn tell_of_room(&mut self) {
        if let Some(next) = self.budget.next_to_tell() {
            self.mail.push_back((next, Notice::Memory));
        }
    }

    /// A connection that is logging in was sent this CHAP challenge.
    pub fn challenge(&mut self, connection: ConnectionId, challenge: &[u8]) {
        if let Some(activity @ Activity::Login(_)) = self.connections.get_mut(&connection) {
            *activity = Activity::Login(Some(challenge.to_vec()));
        }
    }

    /// Whether somebody is expected to answer this CHAP challenge: it is ours then.
    #[must_use]
    pub fn is_challenge_of_ours(&self, challenge: &[u8]) -> bool {
        self.connections
            .values()
            .any(|activity| matches!(activity, Activity::Login(Some(ours)) if ours == challenge))
    }

    /// Whether a login under this key fits the bounds.
    #[must_use]
    pub fn has_room(&self, key: &SessionKey) -> bool {
        let of_initiator = |other: &&SessionKey| other.initiator == key.initiator;
        let fits = self.sessions.len() < self.limits.sessions
            && self.sessions.keys().filter(of_initiator).count()
                < self.limits.sessions_per_initiator;
        (fits || self.sessions.contains_key(key)) && !self.budget.is_overrun()
    }

    /// The session of a key.
    #[must_use]
    pub fn find(&self, key: &SessionKey) -> Option<Tsih> {
        self.sessions.get(key).map(|entry| entry.tsih)
    }

    /// Enters a session; the one that had the key before is told to leave.
    pub fn open(
        &mut self,
        key: SessionKey,
        connection: ConnectionId,
        source: SocketAddr,
    ) -> (Tsih, Option<Replaced>) {
        assert!(self.has_room(&key), "sessions are admitted by `has_room`");
        let tsih = self.free_tsih();
        if let Some(activity) = self.connections.get_mut(&connection) {
            *activity = Activity::Session;
        }
        let entry = Entry {
            tsih,
            connection,
            source,
            nexus: None,
        };
        let replaced = self.sessions.insert(key, entry).map(|old| {
            self.mail
                .push_back((old.connection, Notice::Drop(DropReason::Reinstated)));
            Replaced { nexus: old.nexus }
        });
        (tsih, replaced)
    }

    /// The session of `key` got its nexus.
    pub fn set_nexus(&mut self, key: &SessionKey, nexus: NexusId) {
        let entry = self
            .sessions
            .get_mut(key)
            .expect("the session was just opened");
        entry.nexus = Some(nexus);
    }

    /// Removes a session, unless its key belongs to another connection by now. Says whether it did.
    pub fn close(&mut self, key: &SessionKey, connection: ConnectionId) -> bool {
        let ours = self
            .sessions
            .get(key)
            .is_some_and(|entry| entry.connection == connection);
        if ours {
            self.sessions.remove(key);
        }
        ours
    }

    /// Nexuses of all sessions.
    pub fn nexuses(&self) -> impl Iterator<Item = NexusId> {
        self.sessions.values().filter_map(|entry| entry.nexus)
    }

    /// Tells the connection of a nexus to forget commands.
    pub fn clear_tasks(&mut self, nexus: NexusId, scope: Scope) {
        let found = self
            .sessions
            .values()
            .find(|entry| entry.nexus == Some(nexus));
        if let Some(entry) = found {
            self.mail
                .push_back((entry.connection, Notice::ClearTasks(scope)));
        }
    }

    /// Drops every session for which `which` says so; how many these are.
    pub fn drop_where(
        &mut self,
        reason: DropReason,
        which: impl Fn(&SessionKey, ConnectionId) -> bool,
    ) -> usize {
        let mut dropped = 0;
        for (key, entry) in &self.sessions {
            if which(key, entry.connection) {
                self.mail
                    .push_back((entry.connection, Notice::Drop(reason)));
                dropped += 1;
            }
        }
        dropped
    }

    /// Drops the session of a nexus.
    pub fn drop_nexus(&mut self, nexus: NexusId, reason: DropReason) {
        for entry in self
            .sessions
            .values()
            .filter(|entry| entry.nexus == Some(nexus))
        {
            self.mail
                .push_back((entry.connection, Notice::Drop(reason)));
        }
    }

    /// All sessions, in order of their keys.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let info = |(key, entry): (&SessionKey, &Entry)| SessionInfo {
            key: key.clone(),
            tsih: entry.tsih,
            connection: entry.connection,
            source: entry.source,
        };
        self.sessions.iter().map(info).collect()
    }

    /// The next notice to deliver.
    pub fn next_mail(&mut self) -> Option<(ConnectionId, Notice)> {
        self.mail.pop_front()
    }

    fn free_tsih(&mut self) -> Tsih {
        loop {
            self.tsih_used = self.tsih_used.wrapping_add(1);
            let tsih = Tsih(self.tsih_used);
            if tsih.0 != 0 && self.sessions.values().all(|entry| entry.tsih != tsih) {
                return tsih;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(connections: usize, per_initiator: usize) -> Registry {
        Registry::new(Limits {
            connections,
            sessions_per_initiator: per_initiator,
            ..Limits::default()
        })
    }

    fn key(initiator: &str, isid: u8) -> SessionKey {
        SessionKey {
            initiator: initiator.to_owned(),
            isid: Isid([0x80, 0, 0, 0, 0, isid]),
            tag: PortalTag(1),
            kind: SessionKind::Normal,
        }
    }

    fn source() -> SocketAddr {
        "10.0.0.9:40000".parse().expect("an address")
    }

    #[test]
    fn the_oldest_login_makes_place_and_a_session_never_does() {
        let mut registry = registry(3, 8);
        for id in 1..=3 {
            assert_eq!(registry.accept(ConnectionId(id)), Room::Yes);
        }
        let _ = registry.open(key("iqn.a", 1), ConnectionId(1), source());
        assert_eq!(registry.accept(ConnectionId(4)), Room::Yes);
        let crowded = Notice::Drop(DropReason::Crowded);
        assert_eq!(registry.next_mail(), Some((ConnectionId(2), crowded)));
        for id in [3, 4] {
            let _ = registry.open(key("iqn.b", id), ConnectionId(id.into()), source());
        }
        assert_eq!(registry.accept(ConnectionId(5)), Room::No);
        assert_eq!(registry.next_mail(), None);
        registry.hang_up(ConnectionId(3));
        assert_eq!(registry.accept(ConnectionId(6)), Room::Yes);
    }

    #[test]
    fn one_initiator_cannot_take_all_places() {
        let mut registry = registry(16, 2);
        for isid in 1..=2 {
            let _ = registry.open(key("iqn.a", isid), ConnectionId(isid.into()), source());
        }
        assert!(!registry.has_room(&key("iqn.a", 3)));
        assert!(registry.has_room(&key("iqn.a", 2)), "it replaces its own");
        assert!(registry.has_room(&key("iqn.b", 1)));
    }

    #[test]
    fn a_challenge_is_ours_until_its_login_is_over() {
        let mut registry = registry(16, 2);
        for id in 1..=2 {
            let _ = registry.accept(ConnectionId(id));
            registry.challenge(ConnectionId(id), &[u8::try_from(id).expect("small"); 32]);
        }
        assert!(registry.is_challenge_of_ours(&[1; 32]));
        assert!(!registry.is_challenge_of_ours(&[3; 32]));
        let _ = registry.open(key("iqn.a", 1), ConnectionId(1), source());
        registry.hang_up(ConnectionId(2));
        assert!(!registry.is_challenge_of_ours(&[1; 32]));
        assert!(!registry.is_challenge_of_ours(&[2; 32]));
    }
}
