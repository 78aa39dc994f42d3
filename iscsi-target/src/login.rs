//! The login phase: who comes in, and under which conditions (RFC 7143 §6.3, §12).
//!
//! ```text
//!             CSG 0                 T, NSG 1
//!   Start -------------> Security -----------> Operational
//!     | CSG 1                | T, NSG 3             | T, NSG 3
//!     v                      v                      v
//!   Operational          FullFeature            FullFeature
//! ```
//!
//! Who must prove himself with CHAP leaves `Security` only through a right CHAP_R; `Start` to
//! `Operational` is closed to him. A discovery session proves what the array wants for discovery,
//! if that is configured, and what its host must prove otherwise.

use std::collections::BTreeSet;

use core::net::SocketAddr;

use bytes::{Bytes, BytesMut};

use crate::auth::{Algorithm, CHALLENGE_MAX_BYTES, Challenge};
use crate::hosts::{self, ChapSecrets, HostId};
use crate::negotiate::{Answer, Parameters, RECEIVE_MAX_BYTES};
use crate::pdu::login::{CONTINUE, Request, Response, Status, TRANSIT};
use crate::pdu::{Len24, opcode};
use crate::registry::{ConnectionId, Registry, SessionKey, SessionKind};
use crate::scsi::Array;
use crate::text::{self, Collector, Pairs};
use crate::types::{Isid, PortalTag};

/// Longest data segment of a login request, in bytes: nobody has declared another length yet
/// (RFC 7143 §13.12).
pub const LOGIN_SEGMENT_MAX_BYTES: usize = 8192;
/// Longest text of one exchange of a login, in bytes: it comes from strangers.
const LOGIN_TEXT_MAX_BYTES: usize = 16 * 1024;
/// Keys without a meaning to us in one login; who sends more is refused.
const STRANGE_KEYS_MAX: usize = 64;
/// Longest answer to one request, in bytes: what every initiator accepts during login.
const ANSWER_MAX_BYTES: usize = 8192;

/// Stages by their CSG and NSG numbers (RFC 7143 §11.12.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing received yet.
    Start,
    /// Security negotiation, 0.
    Security,
    /// Operational negotiation, 1.
    Operational,
    /// Full-feature phase, 3.
    FullFeature,
}

impl Stage {
    const fn from_number(number: u8) -> Option<Self> {
        match number & 3 {
            0 => Some(Self::Security),
            1 => Some(Self::Operational),
            3 => Some(Self::FullFeature),
            _ => None,
        }
    }
}

/// Every step from stage to stage that is legal.
pub const EDGES: &[(Stage, Stage)] = &[
    (Stage::Start, Stage::Security),
    (Stage::Start, Stage::Operational),
    (Stage::Security, Stage::Operational),
    (Stage::Security, Stage::FullFeature),
    (Stage::Operational, Stage::FullFeature),
];

/// What a login knows about its surroundings.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The connection.
    pub connection: ConnectionId,
    /// Name of the target.
    pub target: String,
    /// Its alias, told to initiators; may be empty.
    pub alias: String,
    /// Portal group of the address the connection came in at.
    pub tag: PortalTag,
    /// Where the initiator is.
    pub source: SocketAddr,
    /// Unpredictable: identifier and challenge of CHAP, if it comes to that.
    pub challenge: Challenge,
}

/// What the login leads to.
#[derive(Debug)]
pub enum Next {
    /// Wait for another request.
    More,
    /// Welcome: the response lacks only its TSIH.
    Welcome(Box<Welcome>),
    /// Send the response, then close.
    Refused,
}

/// Who came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Key of the session.
    pub key: SessionKey,
    /// Host of the initiator.
    pub host: HostId,
    /// What was negotiated.
    pub parameters: Parameters,
    /// Connection identifier.
    pub cid: u16,
}

/// A login in progress.
///
/// Invariants: `stage` moves along [`EDGES`] only; `host` is known from the first complete request
/// on; with secrets, `Operational` and `FullFeature` are reached only in `Chap::Passed`.
#[derive(Debug)]
pub struct Login {
    surroundings: Surroundings,
    stage: Stage,
    opening: Option<Opening>,
    collector: Collector,
    peer: Option<Peer>,
    chap: Chap,
    parameters: Parameters,
    settled: BTreeSet<String>,
    strange_keys: usize,
    declared: bool,
}

/// What all requests of a login share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Opening {
    isid: [u8; 6],
    tsih: u16,
    itt: u32,
    cid: u16,
}

#[derive(Debug, PartialEq, Eq)]
struct Peer {
    initiator: String,
    host: HostId,
    secrets: Option<ChapSecrets>,
    kind: SessionKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chap {
    Idle,
    Agreed,
    Challenged(Algorithm),
    Passed,
}

/// What the answer to one request consists of.
struct Reply {
    flags: u8,
    text: BytesMut,
    next: Next,
}

impl Login {
    /// A login of which nothing was received yet.
    #[must_use]
    pub fn new(surroundings: Surroundings) -> Self {
        Self {
            surroundings,
            stage: Stage::Start,
            opening: None,
            collector: Collector::new(LOGIN_TEXT_MAX_BYTES),
            peer: None,
            chap: Chap::Idle,
            parameters: Parameters::default(),
            settled: BTreeSet::new(),
            strange_keys: 0,
            declared: false,
        }
    }

    /// Answers one request. The sequence numbers of the response are the caller's business.
    pub fn request(
        &mut self,
        request: &Request,
        data: &[u8],
        array: &Array,
        registry: &mut Registry,
    ) -> (Response, Bytes, Next) {
        match self.answer(request, data, array, registry) {
            Ok(reply) => {
                let text = reply.text.freeze();
                (
                    self.response(request, reply.flags, Status::SUCCESS, &text),
                    text,
                    reply.next,
                )
            }
            Err(status) => (
                self.response(request, 0, status, &Bytes::new()),
                Bytes::new(),
                Next::Refused,
            ),
        }
    }

    /// Refuses whatever was received (RFC 7143 §6.3.1: "invalid request during login").
    #[must_use]
    pub fn refuse(&self, request: &Request, status: Status) -> Response {
        self.response(request, 0, status, &Bytes::new())
    }

    fn response(&self, request: &Request, flags: u8, status: Status, text: &Bytes) -> Response {
        Response {
            opcode: opcode::LOGIN_RESPONSE,
            flags,
            version_max: 0,
            version_active: 0,
            ahs_len_words: 0,
            data_len: Len24::new(text.len()),
            isid: request.isid,
            tsih: request.tsih,
            itt: request.itt,
            reserved_a: 0.into(),
            stat_sn: 0.into(),
            exp_cmd_sn: 0.into(),
            max_cmd_sn: 0.into(),
            status: status.0.into(),
            reserved_b: [0; 10],
        }
    }

    fn answer(
        &mut self,
        request: &Request,
        data: &[u8],
        array: &Array,
        registry: &mut Registry,
    ) -> Result<Reply, Status> {
        // Before anything else: a box that is not serving must never look like a wrong address.
        if !registry.admits_logins() {
            return Err(Status::SERVICE_UNAVAILABLE);
        }
        self.check_opening(request)?;
        let current = Stage::from_number(request.flags >> 2).ok_or(Status::INVALID_REQUEST)?;
        if self.stage == Stage::Start {
            self.step(current)?;
        }
        if self.stage != current {
            return Err(Status::INVALID_REQUEST);
        }
        self.collector
            .add(data)
            .map_err(|_| Status::INITIATOR_ERROR)?;
        if request.flags & CONTINUE != 0 {
            if request.flags & TRANSIT != 0 {
                return Err(Status::INVALID_REQUEST);
            }
            return Ok(Reply {
                flags: request.flags & 0x0c,
                text: BytesMut::new(),
                next: Next::More,
            });
        }
        let pairs = self
            .collector
            .finish()
            .map_err(|_| Status::INITIATOR_ERROR)?;
        let mut text = BytesMut::new();
        self.check_identity(&pairs)?;
        if self.peer.is_none() {
            self.introduce(&pairs, array, registry, &mut text)?;
        }
        match self.stage {
            Stage::Security => self.secure(&pairs, registry, &mut text)?,
            Stage::Operational => self.operate(&pairs, &mut text)?,
            Stage::Start | Stage::FullFeature => return Err(Status::INVALID_REQUEST),
        }
        if text.len() > ANSWER_MAX_BYTES {
            return Err(Status::INITIATOR_ERROR);
        }
        self.transit(request, text, array, registry)
    }

    /// All requests of a login carry the same identifiers (RFC 7143 §11.12).
    fn check_opening(&mut self, request: &Request) -> Result<(), Status> {
        let opening = Opening {
            isid: request.isid,
            tsih: request.tsih.get(),
            itt: request.itt.get(),
            cid: request.cid.get(),
        };
        if request.version_min > 0 {
            return Err(Status::UNSUPPORTED_VERSION);
        }
        if *self.opening.get_or_insert(opening) == opening {
            Ok(())
        } else {
            Err(Status::INVALID_REQUEST)
        }
    }

    /// Who is there is said once (RFC 7143 §6.2: a key is settled once).
    fn check_identity(&self, pairs: &Pairs) -> Result<(), Status> {
        let Some(peer) = &self.peer else {
            return Ok(());
        };
        match find(pairs, "InitiatorName") {
            Some(name) if name.to_lowercase() != peer.initiator => Err(Status::INITIATOR_ERROR),
            Some(_) | None => Ok(()),
        }
    }

    /// Moves along an edge, if there is one and the initiator has proved who it is.
    fn step(&mut self, to: Stage) -> Result<(), Status> {
        if !EDGES.contains(&(self.stage, to)) {
            return Err(Status::INVALID_REQUEST);
        }
        self.stage = to;
        Ok(())
    }

    /// Reads who is there from the first complete request.
    fn introduce(
        &mut self,
        pairs: &Pairs,
        array: &Array,
        registry: &Registry,
        text: &mut BytesMut,
    ) -> Result<(), Status> {
        let initiator = find(pairs, "InitiatorName").filter(|name| !name.is_empty());
        let initiator = initiator.ok_or(Status::MISSING_PARAMETER)?.to_lowercase();
        if !hosts::is_name(&initiator) {
            return Err(Status::INITIATOR_ERROR);
        }
        let kind = match find(pairs, "SessionType") {
            None | Some("Normal") => SessionKind::Normal,
            Some("Discovery") => SessionKind::Discovery(self.surroundings.connection),
            Some(_) => return Err(Status::SESSION_TYPE),
        };
        let target = find(pairs, "TargetName");
        if kind == SessionKind::Normal && target.is_none() {
            return Err(Status::MISSING_PARAMETER);
        }
        if target.is_some_and(|name| !name.eq_ignore_ascii_case(&self.surroundings.target)) {
            return Err(Status::NOT_FOUND);
        }
        let peer = self.look_up(initiator, kind, array)?;
        if self.stage == Stage::Operational && peer.secrets.is_some() {
            return Err(Status::AUTHENTICATION_FAILURE);
        }
        self.peer = Some(peer);
        self.check_session(registry)?;
        if kind == SessionKind::Normal {
            text::append(text, "TargetPortalGroupTag", self.surroundings.tag.0);
            if !self.surroundings.alias.is_empty() {
                text::append(text, "TargetAlias", &self.surroundings.alias);
            }
        }
        Ok(())
    }

    /// What the array knows of an initiator.
    fn look_up(&self, initiator: String, kind: SessionKind, array: &Array) -> Result<Peer, Status> {
        let host = array
            .authorize(&initiator, self.surroundings.source.ip())
            .map_err(|_| Status::FORBIDDEN)?;
        let secrets = match kind {
            SessionKind::Discovery(_) => array.discovery_chap().or_else(|| array.chap(host)),
            SessionKind::Normal => array.chap(host),
        };
        Ok(Peer {
            initiator,
            host,
            secrets: secrets.cloned(),
            kind,
        })
    }

    /// The configuration may have changed since the login began. Who is no longer what it then was
    /// comes again.
    fn check_peer(&self, array: &Array) -> Result<(), Status> {
        let peer = self.peer.as_ref();
        let peer = peer.expect("introduced before the first transition");
        let now = self.look_up(peer.initiator.clone(), peer.kind, array)?;
        if now == *peer {
            Ok(())
        } else {
            Err(Status::SERVICE_UNAVAILABLE)
        }
    }

    /// A session has one connection, so a login never joins one that is there.
    fn check_session(&self, registry: &Registry) -> Result<(), Status> {
        let key = self.key();
        if !registry.has_room(&key) {
            return Err(Status::OUT_OF_RESOURCES);
        }
        match self.opening.map_or(0, |opening| opening.tsih) {
            0 => Ok(()),
            tsih if registry.find(&key).is_some_and(|found| found.0 == tsih) => {
                Err(Status::TOO_MANY_CONNECTIONS)
            }
            _ => Err(Status::NO_SESSION),
        }
    }

    fn key(&self) -> SessionKey {
        let peer = self
            .peer
            .as_ref()
            .expect("introduced before the session is looked up");
        SessionKey {
            initiator: peer.initiator.clone(),
            isid: Isid(self.opening.map_or([0; 6], |opening| opening.isid)),
            tag: self.surroundings.tag,
            kind: peer.kind,
        }
    }

    fn secure(
        &mut self,
        pairs: &Pairs,
        registry: &mut Registry,
        text: &mut BytesMut,
    ) -> Result<(), Status> {
        if let Some(offer) = find(pairs, "AuthMethod") {
            self.choose_method(offer, text)?;
        }
        if let Some(offer) = find(pairs, "CHAP_A") {
            self.send_challenge(offer, text)?;
            let ours = &self.surroundings;
            registry.challenge(ours.connection, &ours.challenge.bytes);
        }
        if let Some(name) = find(pairs, "CHAP_N") {
            self.check_response(name, pairs, registry, text)?;
        }
        for (key, _) in pairs {
            if !SECURITY_KEYS.contains(&key.as_str()) && !IDENTITY_KEYS.contains(&key.as_str()) {
                self.count_strange_key()?;
                text::append(text, key, "NotUnderstood");
            }
        }
        Ok(())
    }

    fn count_strange_key(&mut self) -> Result<(), Status> {
        self.strange_keys += 1;
        if self.strange_keys > STRANGE_KEYS_MAX {
            return Err(Status::INITIATOR_ERROR);
        }
        Ok(())
    }

    fn choose_method(&mut self, offer: &str, text: &mut BytesMut) -> Result<(), Status> {
        let method = if self.secrets().is_some() {
            "CHAP"
        } else {
            "None"
        };
        if self.chap != Chap::Idle || !offer.split(',').any(|name| name.trim() == method) {
            return Err(Status::AUTHENTICATION_FAILURE);
        }
        self.chap = if method == "CHAP" {
            Chap::Agreed
        } else {
            Chap::Passed
        };
        text::append(text, "AuthMethod", method);
        Ok(())
    }

    fn send_challenge(&mut self, offer: &str, text: &mut BytesMut) -> Result<(), Status> {
        let algorithm = Algorithm::strongest(offer).ok_or(Status::AUTHENTICATION_FAILURE)?;
        if self.chap != Chap::Agreed {
            return Err(Status::AUTHENTICATION_FAILURE);
        }
        self.chap = Chap::Challenged(algorithm);
        let challenge = &self.surroundings.challenge;
        text::append(text, "CHAP_A", algorithm as u8);
        text::append(text, "CHAP_I", challenge.identifier);
        text::append(text, "CHAP_C", text::format_binary(&challenge.bytes));
        Ok(())
    }

    fn check_response(
        &mut self,
        name: &str,
        pairs: &Pairs,
        registry: &Registry,
        text: &mut BytesMut,
    ) -> Result<(), Status> {
        let failure = Status::AUTHENTICATION_FAILURE;
        let Chap::Challenged(algorithm) = self.chap else {
            return Err(failure);
        };
        let secrets = self.secrets().ok_or(failure)?;
        let response = find(pairs, "CHAP_R")
            .and_then(text::parse_binary)
            .ok_or(failure)?;
        let challenge = &self.surroundings.challenge;
        let right = algorithm.verify(challenge, &secrets.inbound.secret, &response);
        if !right || name != secrets.inbound.name {
            return Err(failure);
        }
        if let Some(theirs) = find(pairs, "CHAP_C") {
            let theirs = text::parse_binary(theirs).ok_or(failure)?;
            let identifier = find(pairs, "CHAP_I")
                .and_then(|i| i.parse().ok())
                .ok_or(failure)?;
            // RFC 7143 §9.2.1: our own challenge sent back, also one that another connection was
            // sent, is an attempt to have us answer it.
            let reflected = theirs == challenge.bytes || registry.is_challenge_of_ours(&theirs);
            if reflected || theirs.is_empty() || theirs.len() > CHALLENGE_MAX_BYTES {
                return Err(failure);
            }
            let outbound = secrets.outbound.as_ref().ok_or(failure)?;
            let proof = algorithm.response(identifier, &outbound.secret, &theirs);
            text::append(text, "CHAP_N", &outbound.name);
            text::append(text, "CHAP_R", text::format_binary(&proof));
        }
        self.chap = Chap::Passed;
        Ok(())
    }

    fn operate(&mut self, pairs: &Pairs, text: &mut BytesMut) -> Result<(), Status> {
        for (key, value) in pairs {
            if IDENTITY_KEYS.contains(&key.as_str()) {
                continue;
            }
            // RFC 7143 §6.2: only a declaration may be repeated.
            if key != "MaxRecvDataSegmentLength" && !self.settled.insert(key.clone()) {
                return Err(Status::INITIATOR_ERROR);
            }
            match self.parameters.negotiate(key, value) {
                Answer::NotUnderstood => {
                    self.count_strange_key()?;
                    text::append(text, key, "NotUnderstood");
                }
                Answer::Reply(answer) => text::append(text, key, answer),
                Answer::Silence => {}
                Answer::Invalid => return Err(Status::INITIATOR_ERROR),
            }
        }
        if !self.declared {
            self.declared = true;
            text::append(text, "MaxRecvDataSegmentLength", RECEIVE_MAX_BYTES);
        }
        Ok(())
    }

    fn transit(
        &mut self,
        request: &Request,
        text: BytesMut,
        array: &Array,
        registry: &Registry,
    ) -> Result<Reply, Status> {
        let stay = request.flags & 0x0c;
        if request.flags & TRANSIT == 0 {
            return Ok(Reply {
                flags: stay,
                text,
                next: Next::More,
            });
        }
        let to = Stage::from_number(request.flags).ok_or(Status::INVALID_REQUEST)?;
        if self.stage == Stage::Security && self.secrets().is_some() && self.chap != Chap::Passed {
            // Agreed or challenged: the proof is still to come. Idle: it never will.
            if self.chap == Chap::Idle {
                return Err(Status::AUTHENTICATION_FAILURE);
            }
            return Ok(Reply {
                flags: stay,
                text,
                next: Next::More,
            });
        }
        self.step(to)?;
        let flags = request.flags & (TRANSIT | 0x0f);
        if self.stage != Stage::FullFeature {
            return Ok(Reply {
                flags,
                text,
                next: Next::More,
            });
        }
        self.check_peer(array)?;
        // Another login may have taken the last place meanwhile.
        self.check_session(registry)?;
        self.parameters.finish();
        let peer = self
            .peer
            .as_ref()
            .expect("introduced before the first transition");
        let welcome = Welcome {
            key: self.key(),
            host: peer.host,
            parameters: self.parameters,
            cid: request.cid.get(),
        };
        Ok(Reply {
            flags,
            text,
            next: Next::Welcome(Box::new(welcome)),
        })
    }

    fn secrets(&self) -> Option<&ChapSecrets> {
        self.peer.as_ref().and_then(|peer| peer.secrets.as_ref())
    }
}

fn find<'a>(pairs: &'a Pairs, key: &str) -> Option<&'a str> {
    pairs
        .iter()
        .find(|(name, _)| name == key)
        .map(|(_, value)| value.as_str())
}

/// Keys that say who the initiator is; they are read once and never answered.
const IDENTITY_KEYS: [&str; 4] = [
    "InitiatorName",
    "InitiatorAlias",
    "SessionType",
    "TargetName",
];

/// Keys of the security stage.
const SECURITY_KEYS: [&str; 6] = [
    "AuthMethod",
    "CHAP_A",
    "CHAP_N",
    "CHAP_R",
    "CHAP_I",
    "CHAP_C",
];
