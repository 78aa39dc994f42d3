//! The primary's side of a handshake: prove, settle volumes, compare, join the masks.

use super::compare::{self, Local, Pair, Peer, Verdict};
use super::digest::Coarse;
use super::session::{Phase, What};
use super::{Engine, Event, PeerLoss};
use crate::meta::group::{Coverage, Life};
use crate::mutants::mutant;
use crate::types::VolumeNumber;
use crate::wire::hello::{Hello, Side, State, Transcript, parse_welcome};
use crate::wire::{Kind, WireError, mask, volumes};
use bytes::Bytes;
use sha2::{Digest, Sha256};

impl Engine {
    /// Introduces this box with a nonce that was never used.
    pub(super) fn new_hello(&mut self) -> Hello {
        self.nonces += 1;
        let mut hash = Sha256::new();
        hash.update(b"twinsan nonce");
        hash.update(self.params.nonce_seed.to_le_bytes());
        hash.update(self.params.incarnation.0.to_le_bytes());
        hash.update([self.params.me.0]);
        hash.update(self.nonces.to_le_bytes());
        Hello {
            group: self.params.group,
            node: self.params.me,
            incarnation: self.params.incarnation,
            boot: self.params.boot,
            nonce: hash.finalize().into(),
        }
    }

    pub(super) fn on_welcome(&mut self, payload: &Bytes) -> Result<(), WireError> {
        let (theirs, mac) = parse_welcome(payload)?;
        let peer = self.params.peer;
        let source = self.source.as_mut().expect("the caller looked");
        if source.phase != Phase::Welcome {
            return Err(WireError::Field("kind"));
        }
        let transcript = Transcript {
            primary: source.mine,
            secondary: theirs,
            epoch: source.epoch,
            session: source.number,
            binding: source.binding,
        };
        transcript.verify(&self.params.key, Side::Secondary, &mac)?;
        if theirs.group != self.params.group || theirs.node != peer {
            return Err(WireError::Authentication);
        }
        source.theirs = Some(theirs);
        if self.is_held() && self.kepts.peer() != Some(theirs.incarnation) {
            self.end_session(PeerLoss::OtherIncarnation);
            return Ok(());
        }
        let source = self.source.as_mut().expect("the caller looked");
        source.phase = Phase::State;
        let proof = transcript.mac(&self.params.key, Side::Primary);
        self.send_body(Kind::Proof, Bytes::copy_from_slice(&proof));
        let group = self.group.as_ref().expect("a primary has a copy");
        let entries = group
            .volumes
            .values()
            .filter(|entry| entry.life != Life::Creating);
        let table: Vec<volumes::Entry> = entries
            .map(|entry| volumes::Entry {
                spec: entry.spec,
                deleted: entry.life == Life::Tombstone,
            })
            .collect();
        self.table_sent = table.clone();
        self.send_body(Kind::Table, volumes::encode(&table));
        Ok(())
    }

    pub(super) fn on_state(&mut self, payload: &Bytes) -> Result<(), WireError> {
        let state = State::parse(payload)?;
        let source = self.source.as_mut().expect("the caller looked");
        if source.phase != Phase::State {
            return Err(WireError::Field("kind"));
        }
        source.phase = Phase::Masks;
        source.state = Some(state);
        Ok(())
    }

    /// A mask only ever adds bits, so it is joined before the verdict is known.
    pub(super) fn on_mask(
        &mut self,
        number: VolumeNumber,
        payload: &Bytes,
    ) -> Result<(), WireError> {
        let source = self.source.as_mut().expect("the caller looked");
        if source.phase != Phase::Masks {
            return Err(WireError::Field("kind"));
        }
        let Some(volume) = self.volumes.get_mut(&number) else {
            return Ok(()); // deleted since the table was sent
        };
        let runs = mask::parse(payload, volume.layout.blocks)?;
        source.masks_empty &= runs.is_empty();
        if !mutant!(IgnorePeerMask) {
            for run in runs {
                volume.dirty.set_run(run);
                volume.coarse.note(run);
            }
        }
        Ok(())
    }

    pub(super) fn on_mask_end(&mut self) -> Result<(), WireError> {
        let source = self.source.as_mut().expect("the caller looked");
        if source.phase != Phase::Masks {
            return Err(WireError::Field("kind"));
        }
        let state = source.state.clone().expect("it came before the masks");
        let theirs = source.theirs.expect("it came before the state");
        let verdict = compare::compare(
            &self.local_side(),
            &Peer {
                group: theirs.group,
                disk: state.disk,
                data_epoch: state.data_epoch,
                sealed: state.sealed,
                clean: self.peer_is_clean(&state),
            },
        );
        match verdict {
            Verdict::Unrelated | Verdict::Forked | Verdict::Ahead => {
                self.refuse_peer(verdict, &state);
            }
            Verdict::Sealed => self.end_session(PeerLoss::Sealed),
            Verdict::Differs => self.end_session(PeerLoss::Differs),
            Verdict::Equal if self.is_held() => self.thaw(),
            Verdict::Equal => {
                self.forget_kept(); // nothing is lacking
                self.begin_stream();
            }
            Verdict::Delta | Verdict::Full => self.prepare(verdict, &state),
        }
        Ok(())
    }

    fn peer_is_clean(&self, state: &State) -> bool {
        let source = self.source.as_ref().expect("the caller looked");
        source.masks_empty && state.volumes.iter().all(|volume| !volume.fresh)
    }

    fn local_side(&self) -> Local {
        let mandate = self.mandate().expect("only a primary dials");
        let group = self.group.as_ref().expect("a primary has a copy");
        Local {
            group: self.params.group,
            epoch: mandate.epoch,
            // a peer that was only away for a moment is in this epoch already
            previous: if self.is_held() {
                mandate.epoch
            } else {
                self.previous_epoch
            },
            counted: self.needs_peer(),
            base: mandate.peer_base,
            base_disk: mandate.peer_disk,
            covers: group.covers,
        }
    }

    fn refuse_peer(&mut self, verdict: Verdict, state: &State) {
        self.parted = (verdict == Verdict::Forked).then_some(state.data_epoch);
        let text = match verdict {
            Verdict::Unrelated => "it belongs to another group; empty the pool of the box that \
                                   does not have the data you need"
                .to_owned(),
            Verdict::Forked => format!(
                "both boxes wrote, each without the other (its epoch {}); nothing is overwritten: \
                 keep the copy you need and empty the pool of the other box",
                state.data_epoch
            ),
            Verdict::Ahead
            | Verdict::Sealed
            | Verdict::Equal
            | Verdict::Differs
            | Verdict::Delta
            | Verdict::Full => format!(
                "its data is of epoch {}, newer than ours; nothing is overwritten: if the disk of \
                 this box was put back to an older state, stop this box so that the other serves",
                state.data_epoch
            ),
        };
        self.alarm(format!(
            "the data of this box has no second copy, the peer's is not joined: {text}"
        ));
        self.end_session(PeerLoss::Differs);
        self.dial_at = Some(self.now.plus_ms(self.params.peer_loss_ms * 10));
    }

    /// Makes the union of the masks durable; before it is, nothing is sent.
    fn prepare(&mut self, verdict: Verdict, state: &State) {
        let replays = verdict == Verdict::Delta && self.match_kept();
        if !replays {
            self.forget_kept();
        }
        let zero_base: Vec<(VolumeNumber, bool)> = {
            let group = self.group.as_ref().expect("a primary has a copy");
            let entries = group.volumes.values();
            entries
                .map(|entry| (entry.spec.number, entry.zero_base))
                .collect()
        };
        for (number, zero_base) in zero_base {
            let theirs = state.volumes.iter().find(|volume| volume.number == number);
            let Some(theirs) = theirs else { continue };
            let pair = Pair {
                zero_base,
                fresh: theirs.fresh,
                zero: theirs.zero,
            };
            let copy = compare::volume(verdict, pair);
            if let Some(volume) = self.volumes.get_mut(&number)
                && copy == Verdict::Full
            {
                volume.dirty.set_all();
                if !theirs.fresh {
                    // much of an old copy is as it was
                    let count = volume.layout.blocks;
                    volume.coarse.note(mask::Run { start: 0, count });
                }
            }
        }
        let clean = mutant!(ClearByDecision) && self.peer_is_clean(state);
        if clean && verdict == Verdict::Delta {
            for volume in self.volumes.values_mut() {
                volume.dirty.clear_all();
            }
        }
        let covers = Coverage {
            disk: state.disk,
            data_epoch: state.data_epoch,
        };
        let told = std::mem::take(&mut self.table_sent);
        let group = self.change_group(|group| {
            group.covers = Some(covers);
            for entry in group.volumes.values_mut() {
                entry.zero_base &= entry.life == Life::Creating;
            }
            // a tombstone that the peer has settled is not needed any more (law D11)
            group.volumes.retain(|_, entry| {
                entry.life != Life::Tombstone
                    || !told
                        .iter()
                        .any(|told| told.deleted && told.spec.is_same_volume(&entry.spec))
            });
        });
        let mut pages = Vec::new();
        for (number, volume) in &mut self.volumes {
            pages.push((*number, volume.want_pages()));
        }
        let source = self.source.as_mut().expect("the caller looked");
        source.phase = Phase::Preparing { pages, group };
        self.resync_reason = match verdict {
            Verdict::Delta => "the blocks that may differ",
            Verdict::Full
            | Verdict::Equal
            | Verdict::Differs
            | Verdict::Unrelated
            | Verdict::Forked
            | Verdict::Ahead
            | Verdict::Sealed => "the peer's copy is new or of unknown origin",
        };
    }

    /// The masks are durable: the stream begins.
    pub(super) fn advance_prepare(&mut self) {
        let Some(source) = &self.source else { return };
        let Phase::Preparing { pages, group } = &source.phase else {
            return;
        };
        let durable = |(number, version): &(VolumeNumber, u64)| {
            let volume = self.volumes.get(number);
            volume.is_none_or(|volume| volume.dirty.is_durable(*version))
        };
        if self.group_is_durable(*group) && pages.iter().all(durable) {
            self.begin_stream();
            self.begin_resync();
        }
    }

    pub(super) fn begin_stream(&mut self) {
        self.send_body(Kind::Begin, Bytes::new());
        let counted = self.needs_peer();
        let source = self.source.as_mut().expect("the caller looked");
        source.phase = Phase::Streaming;
        self.parted = None;
        self.replay();
        let source = self.source.as_ref().expect("the caller looked");
        let incarnation = source.theirs.expect("it has proven who it is").incarnation;
        let disk = source.state.as_ref().expect("it has said what it has").disk;
        self.event(Event::PeerUp { incarnation, disk });
        if counted {
            self.verified = true;
            self.verify_by = None;
            self.mark_epoch();
        }
    }

    /// Tells the peer that it is in sync from here on (law R6).
    pub(super) fn mark_epoch(&mut self) {
        let epoch = self.standing_epoch();
        let source = self.source.as_mut().expect("the caller looked");
        source.epoch = epoch;
        source.in_sync = true;
        self.pacer.end();
        for volume in self.volumes.values_mut() {
            volume.coarse = Coarse::default(); // what becomes dirty from here on is exact
        }
        self.send_control(Kind::Epoch, What::Marker { epoch }, VolumeNumber::SYSTEM);
    }
}
