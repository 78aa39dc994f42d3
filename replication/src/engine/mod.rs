//! The engine of one group on one box: dispatch, upkeep, invariants.
//!
//! One input changes the state at one place; then [`Engine::maintain`] lets every state machine
//! take the steps that have become possible, until none is left. Checked after each input:
//! - a frozen engine is primary, and nothing is frozen while nobody is needed;
//! - a serving, verified engine that needs its peer streams to it, or is frozen;
//! - readmission is under way only with a session, or frozen after it was asked for.

pub mod compare;
pub mod event;
pub mod io;

mod attach;
mod command;
mod counters;
mod digest;
mod disk;
mod flush;
mod frozen;
mod group;
mod grow;
mod handover;
mod hello;
mod inflight;
mod intent;
mod mend;
mod pace;
mod replay;
mod resync;
mod scrub;
mod session;
mod status;
mod target;
mod thaw;
mod upkeep;
mod volume;
mod volumes;
mod write;

pub use counters::{Span, Summary, Work};
pub use event::{
    Attached, DataLink, DataState, EDGES, Event, Full, PeerLoss, Resync, ResyncCounts, ResyncLimit,
    ResyncPhase, Role, Scrubbed, Status, VolumeScrub, VolumeStatus,
};
pub use io::{
    Authority, Command, CommandError, Completed, DiskError, Input, Io, IoDone, Lease, Limits,
    Opened, Output, Pace, Params,
};

use crate::meta::group::GroupState;
use crate::types::{CopyMark, Epoch, OpId, SessionId, Time, VolumeNumber};
use crate::wire::{self, applied::Applied, volumes::Entry};
use bytes::Bytes;
use command::Arrived;
use frozen::{Reign, Standing};
use resync::Joining;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use upkeep::{DataGates, Gates, Volumes};
use volume::Volume;

/// The engine of one group on one box.
#[derive(Debug)]
pub struct Engine {
    params: Params,
    now: Time,
    outputs: VecDeque<Output>,
    /// The role after the last input.
    shown: Role,
    /// Rises with every step, so that upkeep knows when it is done.
    steps: u64,
    ops: disk::Ops,

    // this box's copy
    started: bool,
    booted: bool,
    /// The copy cannot be used, and why.
    fault: Option<String>,
    /// The disk failed, and how.
    failed: Option<String>,
    group: Option<GroupState>,
    group_disk: group::GroupDisk,
    seal_floor: Epoch,
    /// What the copy must at least be, by the record beside it (law D7).
    newest: Option<CopyMark>,
    sealing: Option<frozen::Sealing>,
    volumes: Volumes,
    /// What all volumes depend on, when upkeep looked last.
    gates: Gates,
    /// Backings that existed at start.
    found: BTreeSet<VolumeNumber>,
    opening: BTreeMap<VolumeNumber, attach::Opening>,
    open_failures: BTreeMap<VolumeNumber, String>,
    /// A volume that becomes larger.
    growing: Option<grow::Growing>,
    /// Volumes whose backings go once older operations are over.
    removing: BTreeMap<VolumeNumber, OpId>,
    reported: Option<(DataGates, DataState)>,

    // authority
    standing: Standing,
    reign: Reign,
    /// The peer is needed and lost (law R1).
    frozen: bool,
    /// Losses of the peer that were reported.
    losses: u64,
    /// One that is not reported yet.
    losing: Option<frozen::Losing>,
    /// The peer, if it counts, has been seen to be equal.
    verified: bool,
    verify_by: Option<Time>,
    /// The peer is needed and lost, and until then nobody is told: it may be back at once.
    thaw_by: Option<Time>,
    /// It came back so, and nothing was made stable on it since.
    thawed: bool,
    /// Data epoch of the copy before the epoch served.
    previous_epoch: Epoch,
    lease: Lease,
    handover: Option<handover::Handover>,

    // commands
    intake: VecDeque<Arrived>,
    tasks: BTreeMap<u64, command::Task>,
    task_bytes: u64,
    next_ticket: u64,
    ready: BTreeSet<u64>,
    answers: BTreeSet<u64>,
    flushing: BTreeSet<u64>,
    /// Commands whose range waits for the peer to be asked for it.
    mending: BTreeSet<u64>,
    troubles: mend::Troubles,
    jobs: VecDeque<volumes::Job>,

    // the peer, as primary
    source: Option<session::Source>,
    dialing: bool,
    dial_at: Option<Time>,
    sessions: u32,
    /// The epoch of the peer's copy if it parted from this one, when the two were compared last.
    parted: Option<Epoch>,
    nonces: u64,
    table_sent: Vec<Entry>,
    chunks: BTreeMap<u64, resync::Chunk>,
    joining: Joining,
    kepts: replay::Kepts,
    resync_reason: &'static str,
    pacer: pace::Pacer,
    resync_counts: ResyncCounts,
    scrub: scrub::Scrub,

    // the peer, as secondary
    incoming: Vec<target::Incoming>,
    target: Option<target::Target>,
    /// What was applied of the last session that streamed.
    applied: Option<Applied>,
    /// A volume that the stream asked for.
    making: Option<volumes::Making>,
    orphans: BTreeSet<VolumeNumber>,
    /// Tombstones of this process that the peer has settled.
    buried: BTreeSet<VolumeNumber>,
}

impl Engine {
    /// An engine that has not seen its disks yet.
    #[must_use]
    pub fn new(params: Params) -> Self {
        params.check();
        Self {
            scrub: scrub::Scrub::new(params.limits.scrub_bytes_per_s),
            params,
            now: Time::default(),
            outputs: VecDeque::new(),
            shown: Role::Attaching,
            steps: 0,
            ops: disk::Ops::default(),
            started: false,
            booted: false,
            fault: None,
            failed: None,
            group: None,
            group_disk: group::GroupDisk::default(),
            seal_floor: Epoch::ZERO,
            newest: None,
            sealing: None,
            volumes: Volumes::default(),
            gates: Gates::default(),
            found: BTreeSet::new(),
            opening: BTreeMap::new(),
            open_failures: BTreeMap::new(),
            growing: None,
            removing: BTreeMap::new(),
            reported: None,
            standing: Standing::Secondary { epoch: Epoch::ZERO },
            reign: Reign::Off,
            frozen: false,
            losses: 0,
            losing: None,
            verified: true,
            verify_by: None,
            thaw_by: None,
            thawed: false,
            previous_epoch: Epoch::ZERO,
            lease: Lease::None,
            handover: None,
            intake: VecDeque::new(),
            tasks: BTreeMap::new(),
            task_bytes: 0,
            next_ticket: 0,
            ready: BTreeSet::new(),
            answers: BTreeSet::new(),
            flushing: BTreeSet::new(),
            mending: BTreeSet::new(),
            troubles: mend::Troubles::default(),
            jobs: VecDeque::new(),
            source: None,
            dialing: false,
            dial_at: None,
            sessions: 0,
            parted: None,
            nonces: 0,
            table_sent: Vec::new(),
            chunks: BTreeMap::new(),
            joining: Joining::No,
            kepts: replay::Kepts::default(),
            resync_reason: "",
            pacer: pace::Pacer::new(),
            resync_counts: ResyncCounts::default(),
            incoming: Vec::new(),
            target: None,
            applied: None,
            making: None,
            orphans: BTreeSet::new(),
            buried: BTreeSet::new(),
        }
    }

    /// Feeds exactly one event; then drain [`Engine::poll_output`] to `None` before the next.
    pub fn handle(&mut self, now: Time, input: Input) {
        self.ops.pass(self.now, now);
        self.now = self.now.max(now);
        match input {
            Input::Timeout => {}
            Input::Start {
                found,
                seal,
                newest,
            } => self.on_start(found, seal, newest),
            Input::Format => self.on_format(),
            Input::Opened(opened) => self.on_opened(opened),
            Input::OpenFailed { number, reason } => self.on_open_failed(number, reason),
            Input::Grown { number, result } => self.on_grown(number, result),
            Input::Done { op, result } => self.on_done(op, result),
            Input::Connected { session, binding } => self.on_connected(session, binding),
            Input::ConnectFailed => self.on_connect_failed(),
            Input::ConnectRefused => self.on_connect_refused(),
            Input::Accepted { session, binding } => self.on_accepted(session, binding),
            Input::Disconnected { session } => self.on_disconnected(session),
            Input::Frame {
                session,
                header,
                payload,
            } => self.on_frame(session, &header, &payload),
            Input::Authority(authority) => self.on_authority(authority),
            Input::Seal { epoch } => self.on_seal(epoch),
            Input::Handover { epoch, id } => self.on_handover(epoch, id),
            Input::HandoverCancelled { id } => self.on_handover_cancelled(id),
            Input::CacheLossKept { volume } => self.on_cache_loss_kept(volume),
            Input::Lease(lease) => self.on_lease(lease),
            Input::Pace(pace) => self.pacer.ask(pace, self.now),
            Input::ScrubRate { bytes_per_s } => self.set_scrub_rate(bytes_per_s),
            Input::Scrub { volume } => self.ask_scrub(volume),
            Input::Command { id, command } => self.on_command(id, command),
            Input::CreateVolume { id, spec } => self.on_create_volume(id, spec),
            Input::GrowVolume {
                id,
                number,
                size_bytes,
            } => self.on_grow_volume(id, number, size_bytes),
            Input::DeleteVolume { id, number } => self.on_delete_volume(id, number),
        }
        self.watch_disk();
        self.maintain();
        let role = self.role();
        if role != self.shown {
            let from = core::mem::replace(&mut self.shown, role);
            assert!(
                EDGES.contains(&(from, role)) || crate::mutants::any_is_active(),
                "R2: no engine goes from {from:?} to {role:?}"
            );
        }
        self.check();
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn on_disconnected(&mut self, session: SessionId) {
        self.drop_incoming(session);
        if self
            .target
            .as_ref()
            .is_some_and(|target| target.id == session)
        {
            self.leave_target();
        }
        if self
            .source
            .as_ref()
            .is_some_and(|source| source.id == session)
        {
            self.end_session(PeerLoss::Closed);
        }
    }

    fn on_frame(&mut self, session: SessionId, header: &[u8; wire::HEADER_LEN], payload: &Bytes) {
        let source = self
            .source
            .as_ref()
            .is_some_and(|source| source.id == session);
        let target = self
            .target
            .as_ref()
            .is_some_and(|target| target.id == session);
        match wire::open(header, payload) {
            Ok((header, body)) if source => self.on_source_frame(&header, &body),
            Ok((header, body)) if target => self.on_target_frame(header, body),
            Ok((header, body)) => self.on_incoming_frame(session, &header, &body),
            Err(error) if source => self.break_session(&error.to_string()),
            Err(error) if target => self.break_target(error),
            Err(_) => self.refuse_incoming(session),
        }
    }

    /// A state machine has moved: look at all of them again.
    const fn step(&mut self) {
        self.steps += 1;
    }

    fn emit(&mut self, output: Output) {
        self.step();
        self.outputs.push_back(output);
    }

    fn event(&mut self, event: Event) {
        self.emit(Output::Event(event));
    }

    fn alarm(&mut self, text: String) {
        self.event(Event::Alarm(text));
    }

    fn volume_ref(&self, number: VolumeNumber) -> &Volume {
        self.volumes
            .get(&number)
            .expect("the caller knows that the volume is attached")
    }

    fn volume_mut(&mut self, number: VolumeNumber) -> &mut Volume {
        self.volumes
            .get_mut(&number)
            .expect("the caller knows that the volume is attached")
    }

    /// The invariants that cost nothing to check.
    fn check(&self) {
        assert!(
            !self.frozen || self.is_primary(),
            "R1: only a primary is frozen"
        );
        let runs = self.is_serving() && self.verified && self.failed.is_none() && !self.frozen;
        assert!(
            !runs || !self.needs_peer() || self.is_streaming(),
            "R4: a needed peer is streamed to"
        );
        let joins = self.joining != Joining::No;
        assert!(
            !joins || self.is_streaming() || self.frozen,
            "R6: readmission needs a session"
        );
        assert!(
            self.target.is_none() || !self.is_primary(),
            "R8: a primary is nobody's target"
        );
        assert!(
            self.source.is_none() || self.is_primary(),
            "R8: a secondary sends nothing"
        );
    }
}
