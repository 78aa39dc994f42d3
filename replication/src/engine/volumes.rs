//! Making and deleting volumes on both boxes, and settling the lists at a handshake (law D11).
//!
//! ```text
//! create: Begun ──▶ Opening ──▶ Telling ──▶ Closing        entry: Creating ─────▶ Ready
//! delete: Begun ──▶ Resting ──▶ Telling ──▶ Closing        entry: Ready ──▶ Tombstone ──▶ none
//! grow:   Growing ──▶ Telling ──▶ Quiet ──▶ Closing        entry: larger at the end
//! ```
//!
//! A number is taken durably before anything is made, a tombstone is durable before anything is
//! removed, and the peer has done its part, or is not there, before the command completes.

use super::attach::Purpose;
use super::grow::Asker;
use super::session::What;
use super::{CommandError, Completed, Engine, Event, Output};
use crate::meta;
use crate::meta::group::{Entry, GroupState, Life};
use crate::types::{CommandId, OpId, SessionId, VolumeNumber, VolumeSpec};
use crate::wire::volumes::{self as table, ENTRIES_MAX, VOLUMES_MAX};
use crate::wire::{Header, Kind, Refusal, WireError};

/// A volume command; one at a time is under way, the others wait.
#[derive(Debug)]
pub(super) struct Job {
    id: CommandId,
    spec: VolumeSpec,
    kind: JobKind,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JobKind {
    Create,
    Grow,
    Delete,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Waiting,
    /// The entry is being made durable.
    Begun {
        version: u64,
    },
    /// The local backing is being made.
    Opening,
    /// The local copy is being made larger; `None` until it is.
    Growing {
        result: Option<Result<(), String>>,
    },
    /// The peer of this session has grown, or there is none: the last block, which grows too, is
    /// not being copied.
    Quiet {
        session: u32,
    },
    /// Commands under way come to their end.
    Resting,
    /// The peer is doing its part; `None` until it has answered.
    Telling {
        answer: Option<Answer>,
    },
    /// The last change of the entry is being made durable.
    Closing {
        version: u64,
        result: Result<(), String>,
    },
}

/// A volume that the stream asked this secondary to make.
#[derive(Clone, Copy, Debug)]
pub(super) struct Making {
    session: SessionId,
    spec: VolumeSpec,
    /// The frame to answer.
    seq: u64,
    /// Its entry is being made durable; `None` once the backing is being made.
    entered: Option<u64>,
}

/// How the peer's part went.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Done,
    Refused(String),
    /// There is no session.
    Absent,
}

impl Engine {
    pub(super) fn on_create_volume(&mut self, id: CommandId, spec: VolumeSpec) {
        self.push_job(id, spec, JobKind::Create);
    }

    pub(super) fn on_delete_volume(&mut self, id: CommandId, number: VolumeNumber) {
        let entry = self
            .group
            .as_ref()
            .and_then(|group| group.volumes.get(&number));
        let spec = entry.map_or(
            VolumeSpec {
                number,
                uuid: 0,
                size_bytes: 0,
            },
            |entry| entry.spec,
        );
        self.push_job(id, spec, JobKind::Delete);
    }

    pub(super) fn on_grow_volume(&mut self, id: CommandId, number: VolumeNumber, size_bytes: u64) {
        let uuid = self
            .volumes
            .get(&number)
            .map_or(0, |volume| volume.spec.uuid);
        let spec = VolumeSpec {
            number,
            uuid,
            size_bytes,
        };
        self.push_job(id, spec, JobKind::Grow);
    }

    /// The local copy is larger, or cannot be.
    pub(super) fn on_growth_of_job(&mut self, spec: VolumeSpec, ended: Result<(), String>) {
        if let Some(Job {
            spec: of,
            step: Step::Growing { result },
            ..
        }) = self.jobs.front_mut()
            && *of == spec
        {
            *result = Some(ended);
            self.step();
        }
    }

    fn push_job(&mut self, id: CommandId, spec: VolumeSpec, kind: JobKind) {
        if !self.is_primary() {
            return self.complete(id, Err(CommandError::NotPrimary));
        }
        self.jobs.push_back(Job {
            id,
            spec,
            kind,
            step: Step::Waiting,
        });
    }

    /// Aborts every volume command (law R8); what was begun is a leftover entry.
    pub(super) fn abort_jobs(&mut self, error: &CommandError) {
        for job in std::mem::take(&mut self.jobs) {
            self.complete(job.id, Err(error.clone()));
            if let Some(volume) = self.volumes.get_mut(&job.spec.number) {
                volume.closing = false;
            }
        }
    }

    pub(super) fn advance_jobs(&mut self) {
        let Some(job) = self.jobs.front() else { return };
        if !self.is_serving() || self.frozen || self.failed.is_some() || !self.verified {
            return;
        }
        let (number, kind) = (job.spec.number, job.kind);
        match job.step.clone() {
            Step::Waiting => self.begin_job(),
            Step::Begun { version } if !self.group_is_durable(version) => {}
            Step::Begun { .. } if kind == JobKind::Delete => self.tell_peer(),
            Step::Begun { .. } => {
                let spec = job.spec;
                self.set_step(Step::Opening);
                self.open_volume(spec, Purpose::Make);
            }
            Step::Opening => {
                if let Some(reason) = self.open_failures.remove(&number) {
                    self.close_job(Err(reason));
                } else if self.volumes.contains_key(&number) {
                    self.tell_peer();
                }
            }
            Step::Growing { result: None } => {}
            Step::Growing {
                result: Some(Ok(())),
            } => self.tell_peer(),
            Step::Growing {
                result: Some(Err(reason)),
            } => {
                let (version, result) = (self.group_version(), Err(reason));
                self.set_step(Step::Closing { version, result });
            }
            Step::Quiet { session } => self.enter_growth(session),
            Step::Resting => {
                if !self.tasks.values().any(|task| task.volume == number) {
                    let version = self.change_group(|group| {
                        let entry = group
                            .volumes
                            .get_mut(&number)
                            .expect("checked at the start");
                        entry.life = Life::Tombstone;
                    });
                    self.set_step(Step::Begun { version });
                }
            }
            Step::Telling { answer: None } => {}
            Step::Telling {
                answer: Some(answer),
            } => self.on_told(kind, answer),
            Step::Closing { version, result } => {
                if self.group_is_durable(version) {
                    self.end_job(kind, result);
                }
            }
        }
    }

    fn set_step(&mut self, step: Step) {
        self.jobs.front_mut().expect("a job is under way").step = step;
        self.step();
    }

    /// Forgets tombstones that nobody needs: the backing is gone and the peer knows.
    fn bury(&mut self) {
        let gone = |number: &VolumeNumber| !self.removing.contains_key(number);
        let gone: Vec<VolumeNumber> = self.buried.iter().copied().filter(gone).collect();
        for number in gone {
            self.buried.remove(&number);
            self.change_group(|group| {
                group.volumes.remove(&number);
            });
        }
    }

    fn begin_job(&mut self) {
        self.bury();
        let Job { spec, kind, .. } = *self.jobs.front().expect("a job is under way");
        if let Err(error) = self.check_job(spec, kind) {
            let job = self.jobs.pop_front().expect("a job is under way");
            return self.complete(job.id, Err(error));
        }
        match kind {
            JobKind::Create => {
                let version = self.change_group(|group| {
                    group.highest = group.highest.max(spec.number);
                    group
                        .volumes
                        .insert(spec.number, new_entry(spec, Life::Creating));
                });
                self.set_step(Step::Begun { version });
            }
            JobKind::Grow => {
                self.set_step(Step::Growing { result: None });
                self.begin_growth(spec, Asker::Job);
            }
            JobKind::Delete => {
                self.volume_mut(spec.number).closing = true;
                self.set_step(Step::Resting);
            }
        }
    }

    fn check_job(&self, spec: VolumeSpec, kind: JobKind) -> Result<(), CommandError> {
        let refused = |reason: String| Err(CommandError::Refused(reason));
        if self.handover.is_some() {
            return refused("a switchover is under way, try again after it".into());
        }
        let group = self.group.as_ref().expect("a serving box has a copy");
        let entry = group.volumes.get(&spec.number);
        match kind {
            JobKind::Delete => match entry.filter(|entry| entry.life == Life::Ready) {
                _ if spec.number == VolumeNumber::SYSTEM => {
                    refused("volume 0 belongs to twinsan itself".into())
                }
                None => Err(CommandError::UnknownVolume),
                Some(_) => Ok(()),
            },
            JobKind::Grow => {
                let alive = entry.is_some_and(|entry| entry.life == Life::Ready);
                if spec.number == VolumeNumber::SYSTEM {
                    return refused("volume 0 belongs to twinsan itself".into());
                }
                if !alive || !self.volumes.contains_key(&spec.number) {
                    return Err(CommandError::UnknownVolume);
                }
                if self.growing.is_some() {
                    return refused("another volume is growing, try again after it".into());
                }
                self.why_not_grow(spec).map_or(Ok(()), refused)
            }
            JobKind::Create if spec.number <= group.highest => {
                let next = group.highest.0 + 1;
                refused(format!(
                    "volume number {} was used before, use {next}",
                    spec.number
                ))
            }
            JobKind::Create if !meta::is_size(spec.size_bytes) => refused(format!(
                "{} bytes is not a multiple of 4096 in range",
                spec.size_bytes
            )),
            JobKind::Create if count_of(group, |life| life != Life::Tombstone) > VOLUMES_MAX => {
                refused(format!("a pair has at most {VOLUMES_MAX} volumes"))
            }
            JobKind::Create if group.volumes.len() >= ENTRIES_MAX => refused(
                "too many volumes were deleted while the other box was away; wait until it is back"
                    .into(),
            ),
            JobKind::Create => Ok(()),
        }
    }

    /// Tells the peer, if there is one; a handshake under way has to end first.
    fn tell_peer(&mut self) {
        if self.source.is_none() {
            return self.set_step(Step::Telling {
                answer: Some(Answer::Absent),
            });
        }
        if !self.is_streaming() {
            return;
        }
        let Job { spec, kind, .. } = *self.jobs.front().expect("a job is under way");
        self.set_step(Step::Telling { answer: None });
        let deleted = kind == JobKind::Delete;
        let body = table::encode(&[table::Entry { spec, deleted }]);
        let frame = match kind {
            JobKind::Create => Kind::VolumeCreate,
            JobKind::Grow => Kind::VolumeGrow,
            JobKind::Delete => Kind::VolumeDelete,
        };
        self.send_control_body(frame, What::Volume, spec.number, body);
    }

    /// The peer has answered.
    pub(super) fn on_volume_answer(&mut self, result: Result<(), String>) {
        if let Some(Job {
            step: Step::Telling { answer },
            ..
        }) = self.jobs.front_mut()
        {
            *answer = Some(match result {
                Ok(()) => Answer::Done,
                Err(reason) => Answer::Refused(reason),
            });
            self.step();
        }
    }

    /// The session ended: whoever was told may or may not have done it.
    pub(super) fn on_volume_session_lost(&mut self) {
        if let Some(Job {
            step: Step::Telling {
                answer: answer @ None,
            },
            ..
        }) = self.jobs.front_mut()
        {
            *answer = Some(Answer::Absent);
            self.step();
        }
    }

    fn on_told(&mut self, kind: JobKind, answer: Answer) {
        let number = self.jobs.front().expect("a job is under way").spec.number;
        match (kind, answer) {
            (JobKind::Grow, Answer::Refused(reason)) => {
                let version = self.group_version();
                let result = Err(format!("the peer cannot make it larger: {reason}"));
                self.set_step(Step::Closing { version, result });
            }
            (JobKind::Grow, _) => {
                let session = self.session_number();
                self.set_step(Step::Quiet { session });
            }
            (JobKind::Create, Answer::Refused(reason)) => {
                self.close_job(Err(format!("the peer cannot make it: {reason}")));
            }
            (JobKind::Create, answer) => {
                let version = self.change_group(|group| {
                    let entry = group.volumes.get_mut(&number).expect("made by this job");
                    entry.life = Life::Ready;
                    // what the peer lacks is what was written since both were zero (law D6)
                    entry.zero_base = answer == Answer::Absent;
                });
                self.set_step(Step::Closing {
                    version,
                    result: Ok(()),
                });
            }
            (JobKind::Delete, answer) => {
                self.drop_volume(number);
                if answer == Answer::Done {
                    self.buried.insert(number);
                }
                let version = self.group_version();
                self.set_step(Step::Closing {
                    version,
                    result: Ok(()),
                });
            }
        }
    }

    /// Every box that can be promoted has the new size: this one enters it too, and shows it once
    /// that is durable.
    fn enter_growth(&mut self, told: u32) {
        let spec = self.jobs.front().expect("a job is under way").spec;
        let volume = self.volume_ref(spec.number);
        let last = volume.layout.blocks - 1;
        let mut chunks = self.chunks.values();
        if chunks.any(|chunk| chunk.covers(spec.number, last)) {
            return; // it holds a lock on the block as it was
        }
        if self.session_number() != told {
            return self.tell_peer(); // its handshake had a table with the old size
        }
        let version = self.enter_size(spec);
        let result = Ok(());
        self.set_step(Step::Closing { version, result });
    }

    /// A creation that failed leaves a tombstone, in case the peer has made its part.
    fn close_job(&mut self, result: Result<(), String>) {
        let number = self.jobs.front().expect("a job is under way").spec.number;
        self.drop_volume(number);
        let version = self.change_group(|group| {
            if let Some(entry) = group.volumes.get_mut(&number) {
                entry.life = Life::Tombstone;
            }
        });
        self.set_step(Step::Closing { version, result });
    }

    fn end_job(&mut self, kind: JobKind, result: Result<(), String>) {
        let job = self.jobs.pop_front().expect("a job is under way");
        let number = job.spec.number;
        match (kind, &result) {
            (JobKind::Create, Ok(())) => self.event(Event::VolumeReady { spec: job.spec }),
            (JobKind::Delete, Ok(())) => self.event(Event::VolumeGone { number }),
            (JobKind::Grow, Ok(())) | (_, Err(_)) => {}
        }
        let result = result
            .map(|()| Completed::Ok)
            .map_err(CommandError::Refused);
        self.complete(job.id, result);
    }

    fn drop_volume(&mut self, number: VolumeNumber) {
        self.volumes.remove(&number);
        self.kepts.drop_until(number, u64::MAX);
        self.chunks.retain(|_, chunk| chunk.volume != number);
        if let Some(source) = &mut self.source {
            source.sent_chunks.retain(|(of, _), _| *of != number);
            source.reading.retain(|(of, _)| *of != number);
            source.differing.retain(|(of, _)| *of != number);
        }
        self.removing.insert(number, self.ops.barrier());
    }

    /// Backings are removed once nothing is under way on them.
    pub(super) fn advance_removing(&mut self) {
        let quiet = |(_, barrier): &(&VolumeNumber, &OpId)| self.ops.passed(**barrier);
        let numbers: Vec<VolumeNumber> = self
            .removing
            .iter()
            .filter(quiet)
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            self.removing.remove(&number);
            self.emit(Output::Remove { number });
        }
    }

    /// What an aborted command left half made or half deleted: no host has seen it, or none will.
    pub(super) fn drop_unfinished(&mut self) {
        let entries = self.group.iter().flat_map(|group| group.volumes.values());
        let unfinished = entries.filter(|entry| entry.life != Life::Ready);
        let numbers: Vec<VolumeNumber> = unfinished.map(|entry| entry.spec.number).collect();
        for number in numbers {
            if self.volumes.contains_key(&number) {
                self.drop_volume(number);
            }
            self.change_group(|group| {
                if let Some(entry) = group.volumes.get_mut(&number) {
                    entry.life = Life::Tombstone;
                }
            });
        }
    }

    /// Secondary: makes the volumes of the primary's table, removes what it has deleted. `true`
    /// when nothing is left to do and all of it is durable.
    pub(super) fn settle_table(&mut self, table: &[table::Entry]) -> Result<bool, String> {
        if self.making.is_some() {
            return Ok(false); // asked for by an earlier session
        }
        let system = self.system_spec();
        if !table
            .iter()
            .any(|entry| entry.spec == system && !entry.deleted)
        {
            return Err("the table does not begin with this group's system volume".into());
        }
        if !self.settle_volume(system)? {
            return Ok(false); // without it there is no table here
        }
        let mut settled = true;
        for entry in table {
            if entry.deleted {
                self.settle_deletion(entry.spec);
            } else {
                settled &= self.settle_volume(entry.spec)?;
            }
        }
        self.drop_leftovers(table);
        Ok(settled && self.group_is_durable(self.group_version()))
    }

    /// Whether the volume is attached and in the table here.
    fn settle_volume(&mut self, spec: VolumeSpec) -> Result<bool, String> {
        let number = spec.number;
        if let Some(reason) = self.open_failures.remove(&number) {
            return Err(format!("volume {number}: {reason}"));
        }
        if self.opening.contains_key(&number) || self.removing.contains_key(&number) {
            return Ok(false);
        }
        if let Some(volume) = self.volumes.get(&number) {
            let (held, joined) = (volume.spec, volume.joined);
            if held.is_same_volume(&spec) {
                if !self.settle_size(spec) {
                    return Ok(false);
                }
                self.enter_volume(spec, joined);
                return Ok(true);
            }
            let group = self.group.as_ref().expect("an attached volume has a group");
            let life = group.volumes.get(&number).map(|entry| entry.life);
            if life == Some(Life::Ready) {
                return Err(format!(
                    "volume {number} is another volume on the two boxes"
                ));
            }
            self.drop_volume(number);
            return Ok(false);
        }
        if self.take_number(spec) {
            self.open_volume(spec, Purpose::Join);
        }
        Ok(false)
    }

    /// Whether the table here has the volume durably, so that its backing may be made: one that
    /// is left over by a crash is found again.
    fn take_number(&mut self, spec: VolumeSpec) -> bool {
        let Some(group) = &self.group else {
            return true;
        }; // the system volume makes the table
        let entry = group.volumes.get(&spec.number);
        let taken = entry.is_some_and(|e| e.spec == spec && e.life != Life::Tombstone);
        if !taken {
            self.change_group(|group| {
                group.highest = group.highest.max(spec.number);
                group
                    .volumes
                    .insert(spec.number, new_entry(spec, Life::Creating));
            });
        }
        self.group_is_durable(self.group_version())
    }

    /// Enters an attached volume into this box's table.
    fn enter_volume(&mut self, spec: VolumeSpec, joined: bool) {
        let group = self.group.as_ref().expect("the system volume is attached");
        let known = group.volumes.get(&spec.number);
        let same = known.is_some_and(|e| e.spec == spec && e.life == Life::Ready);
        let fresh = joined || !same;
        if let Some(volume) = self.volumes.get_mut(&spec.number) {
            volume.joined = false;
        }
        if same && known.is_some_and(|entry| entry.fresh || !fresh) {
            return;
        }
        self.change_group(|group| {
            group.highest = group.highest.max(spec.number);
            let entry = Entry {
                fresh,
                zero_base: false,
                ..new_entry(spec, Life::Ready)
            };
            group.volumes.insert(spec.number, entry);
        });
        if spec.number != VolumeNumber::SYSTEM {
            self.event(Event::VolumeReady { spec });
        }
    }

    fn settle_deletion(&mut self, spec: VolumeSpec) {
        let group = self.group.as_ref().expect("the system volume is attached");
        let known = group
            .volumes
            .get(&spec.number)
            .filter(|entry| entry.spec.is_same_volume(&spec));
        if known.is_some_and(|entry| entry.life != Life::Tombstone) {
            self.delete_here(spec.number);
        } else if known.is_some() && self.volumes.contains_key(&spec.number) {
            self.drop_volume(spec.number); // deleted here by a command that was aborted
        }
    }

    fn delete_here(&mut self, number: VolumeNumber) {
        if self.volumes.contains_key(&number) {
            self.drop_volume(number);
            self.event(Event::VolumeGone { number });
        }
        self.change_group(|group| {
            group.highest = group.highest.max(number);
            if let Some(entry) = group.volumes.get_mut(&number) {
                entry.life = Life::Tombstone; // until the next handshake: the backing may remain
            }
        });
    }

    /// Volumes that the primary does not have: what no host has seen goes, the rest is named.
    fn drop_leftovers(&mut self, table: &[table::Entry]) {
        let group = self.group.as_ref().expect("the system volume is attached");
        let strange = group.volumes.values().filter(|entry| {
            let number = entry.spec.number;
            !table.iter().any(|theirs| theirs.spec.number == number)
        });
        let strange: Vec<Entry> = strange.copied().collect();
        for entry in strange {
            let number = entry.spec.number;
            if entry.life != Life::Ready {
                if self.volumes.contains_key(&number) {
                    self.drop_volume(number);
                }
                if !self.removing.contains_key(&number) {
                    self.change_group(|group| {
                        group.volumes.remove(&number);
                    });
                }
            } else if self.orphans.insert(number) {
                self.alarm(format!(
                    "this box has volume {number}, which the primary neither has nor deleted: it \
                     is kept and not mirrored; if nobody misses it, delete its file from the pool \
                     while twinsan is stopped here"
                ));
            }
        }
    }

    /// Secondary: an ordered frame makes or deletes a volume.
    pub(super) fn on_volume_frame(
        &mut self,
        header: &Header,
        payload: &[u8],
    ) -> Result<(), WireError> {
        let entries = table::parse(payload)?;
        let [entry] = entries[..] else {
            return Err(WireError::Field("volumes"));
        };
        if entry.deleted != (header.kind == Kind::VolumeDelete) {
            return Err(WireError::Field("deleted"));
        }
        if entry.spec.number == VolumeNumber::SYSTEM {
            return Err(WireError::Field("volume"));
        }
        if header.kind == Kind::VolumeGrow {
            self.grow_for_stream(entry.spec, header.seq);
        } else if entry.deleted {
            self.settle_deletion(entry.spec);
            let version = self.group_version();
            self.hold_target(version, header.seq);
        } else {
            let session = self.target.as_ref().expect("it sent the frame").id;
            let spec = entry.spec;
            let version = self.change_group(|group| {
                group.highest = group.highest.max(spec.number);
                group
                    .volumes
                    .insert(spec.number, new_entry(spec, Life::Creating));
            });
            let entered = Some(version);
            self.making = Some(Making {
                session,
                spec,
                seq: header.seq,
                entered,
            });
        }
        Ok(())
    }

    /// Secondary: the volume that the stream asked for is there, or cannot be.
    pub(super) fn advance_making(&mut self) {
        let Some(making) = &mut self.making else {
            return;
        };
        let Making {
            session,
            spec,
            seq,
            entered,
        } = *making;
        let number = spec.number;
        if let Some(version) = entered {
            if self.group_disk.is_durable(version) {
                making.entered = None;
                self.open_volume(spec, Purpose::Make);
            }
            return;
        }
        if let Some(reason) = self.open_failures.remove(&number) {
            self.making = None;
            if self
                .target
                .as_ref()
                .is_none_or(|target| target.id != session)
            {
                return;
            }
            return self.refuse_frame(Refusal::Volume, seq, &reason);
        }
        if self.opening.contains_key(&number) || !self.volumes.contains_key(&number) {
            return;
        }
        self.making = None;
        if self
            .target
            .as_ref()
            .is_none_or(|target| target.id != session)
        {
            if self.is_primary() {
                self.drop_unfinished(); // made for the primary before us
            }
            return; // the next handshake settles it
        }
        self.enter_volume(spec, false);
        let version = self.change_group(|group| {
            let entry = group.volumes.get_mut(&number).expect("just entered");
            entry.fresh = false; // zero on both, and everything since goes through the stream
        });
        self.hold_target(version, seq);
    }
}

/// Entries in such a state of life, the system volume's included.
fn count_of(group: &GroupState, is: impl Fn(Life) -> bool) -> usize {
    group
        .volumes
        .values()
        .filter(|entry| is(entry.life))
        .count()
}

const fn new_entry(spec: VolumeSpec, life: Life) -> Entry {
    Entry {
        spec,
        life,
        zero_base: true,
        fresh: false,
        cache_lost: false,
    }
}
