//! The authority, as one register that never fails, with delays on the way: enough to drive the
//! engines through degrade, promote, readmit and handover.

use crate::world::{BOXES, MS, What, World};
use replication::engine::{Attached, Authority, Event, Input, Lease};
use replication::types::{DiskInstance, Epoch, Members, NodeId, Time};

/// The committed config and what is being done about it.
#[derive(Debug, Default)]
pub(crate) struct Boss {
    pub(crate) epoch: u64,
    pub(crate) primary: Option<(usize, u64)>,
    pub(crate) in_sync: [bool; 2],
    base: [Option<Epoch>; 2],
    disks: [Option<DiskInstance>; 2],
    /// Until then the primary may answer.
    lease_end: u64,
    /// The last loss that the primary reported.
    losses_heard: u64,
    /// A readmission on its way, by epoch.
    doubt: Option<u64>,
    /// The candidate, and the seal it was sent.
    sealing: Option<(usize, u64, u64)>,
    idle_since: u64,
    pub(crate) handing_over: bool,
    /// When each box has heard what was said until now.
    told: [u64; 2],
    pub(crate) promotions: u64,
    pub(crate) degrades: u64,
    pub(crate) readmissions: u64,
    pub(crate) handovers: u64,
    pub(crate) detached: u64,
}

#[derive(Debug)]
pub(crate) enum Step {
    /// Leases, dead primaries.
    Tick,
    Degrade {
        who: usize,
        life: u64,
        /// The loss that asks for it.
        number: u64,
    },
    CommitReadmit {
        who: usize,
        life: u64,
        epoch: u64,
        disk: DiskInstance,
    },
    CommitHandover {
        who: usize,
        life: u64,
        epoch: u64,
    },
    /// The primary's disk failed.
    Detach {
        who: usize,
        life: u64,
    },
}

impl Boss {
    pub(crate) fn died(&mut self, who: usize, now: u64) {
        if self.primary.is_some_and(|(primary, _)| primary == who) {
            self.idle_since = now;
            self.handing_over = false;
            self.doubt = None;
        }
        if self
            .sealing
            .is_some_and(|(candidate, _, _)| candidate == who)
        {
            self.sealing = None;
        }
    }

    /// The box that is in sync by itself from the beginning.
    pub(crate) fn found(&mut self, who: usize, disk: DiskInstance) {
        self.epoch = 1;
        self.in_sync[who] = true;
        self.disks[who] = Some(disk);
    }

    pub(crate) fn both_in_sync(&self) -> bool {
        self.in_sync == [true; 2]
    }
}

fn node(who: usize) -> NodeId {
    NodeId(u8::try_from(who).expect("it fits") + 1)
}

impl World {
    pub(crate) fn boss_step(&mut self, step: Step) {
        match step {
            Step::Tick => {
                self.renew_lease();
                self.find_primary();
                self.tell_deposed();
                self.at(5 * MS, What::Boss(Step::Tick));
            }
            Step::Degrade { who, life, number } => self.degrade(who, life, number),
            Step::CommitReadmit {
                who,
                life,
                epoch,
                disk,
            } => {
                self.commit_readmit(who, life, epoch, disk);
            }
            Step::CommitHandover { who, life, epoch } => self.commit_handover(who, life, epoch),
            Step::Detach { who, life } => self.detach(who, life),
        }
    }

    fn is_primary(&self, who: usize, life: u64) -> bool {
        self.boss.primary == Some((who, life)) && self.boxes[who].life == life && self.is_up(who)
    }

    pub(crate) fn authority(&self, who: usize) -> Authority {
        let boss = &self.boss;
        let set = |in_sync: [bool; 2]| {
            let nodes: Vec<NodeId> = BOXES
                .iter()
                .filter(|w| in_sync[**w])
                .map(|w| node(*w))
                .collect();
            Members::of(&nodes)
        };
        Authority::Primary {
            epoch: Epoch(boss.epoch),
            in_sync: set(boss.in_sync),
            doubt: boss.doubt.map(|_| set([true; 2])),
            peer_base: boss.base[1 - who],
            peer_disk: boss.disks[1 - who],
            answers: boss.losses_heard,
        }
    }

    pub(crate) fn tell(&mut self, who: usize) {
        let authority = self.authority(who);
        let delay = self.rng.below(3 * MS);
        let (life, delay) = (self.boxes[who].life, self.in_order(who, delay));
        self.at(delay, What::Input(who, life, Input::Authority(authority)));
        let alone = !self.boss.in_sync[1 - who] && self.boss.doubt.is_none();
        if alone {
            self.at(
                delay,
                What::Input(who, life, Input::Lease(Lease::Unlimited)),
            );
        }
    }

    /// A delay such that what is told overtakes nothing.
    fn in_order(&mut self, who: usize, delay: u64) -> u64 {
        let at = (self.now + delay).max(self.boss.told[who]);
        self.boss.told[who] = at;
        at - self.now
    }

    fn renew_lease(&mut self) {
        let Some((who, life)) = self.boss.primary else {
            return;
        };
        let shared = self.boss.in_sync[1 - who] || self.boss.doubt.is_some();
        if shared && self.is_primary(who, life) && !self.boxes[who].isolated {
            self.boss.idle_since = self.now;
            self.boss.lease_end = self.now + 35 * MS;
            let lease = Lease::Until(Time(self.boss.lease_end));
            self.at(MS / 4, What::Input(who, life, Input::Lease(lease)));
        }
        if !shared && self.is_primary(who, life) {
            self.boss.idle_since = self.now;
        }
    }

    /// Somebody in sync takes over from a primary that is dead, or isolated and without a lease.
    fn find_primary(&mut self) {
        let gone = self.boss.primary.is_none_or(|(who, life)| {
            let shared = self.boss.in_sync[1 - who];
            !self.is_primary(who, life) || (self.boxes[who].isolated && shared)
        });
        let waited = self.now > self.boss.idle_since + 20 * MS && self.now > self.boss.lease_end;
        if !gone || !waited || self.boss.epoch == 0 {
            return;
        }
        if let Some((who, life, _)) = self.boss.sealing
            && self.boxes[who].life == life
        {
            return;
        }
        let first = usize::try_from(self.rng.below(2)).expect("it fits");
        for who in [first, 1 - first] {
            let mine = self.boss.primary.is_some_and(|(primary, _)| primary == who)
                && self.boxes[who].isolated;
            if !self.eligible(who) || mine {
                continue;
            }
            let (life, epoch) = (self.boxes[who].life, self.boss.epoch);
            self.boss.sealing = Some((who, life, epoch));
            self.at(
                MS,
                What::Input(
                    who,
                    life,
                    Input::Seal {
                        epoch: Epoch(epoch),
                    },
                ),
            );
            return;
        }
    }

    fn eligible(&self, who: usize) -> bool {
        let it = &self.boxes[who];
        let Some(engine) = &it.engine else {
            return false;
        };
        let state = engine.status().data;
        self.boss.in_sync[who]
            && !it.isolated
            && state.attached == Attached::Yes
            && state.disk == self.boss.disks[who]
            && it
                .events
                .iter()
                .any(|event| matches!(event, Event::Data(_)))
    }

    /// A box that is primary in its own eyes only.
    fn tell_deposed(&mut self) {
        for who in BOXES {
            let Some(engine) = &self.boxes[who].engine else {
                continue;
            };
            let role = engine.status().role;
            use replication::engine::Role;
            let thinks = !matches!(role, Role::Attaching | Role::Blank | Role::Secondary);
            let life = self.boxes[who].life;
            let is = self.boss.primary == Some((who, life));
            if thinks && !is && !self.boxes[who].isolated {
                let epoch = Epoch(self.boss.epoch);
                let input = Input::Authority(Authority::Secondary { epoch });
                let delay = self.in_order(who, MS / 2);
                self.at(delay, What::Input(who, life, input));
            }
        }
    }

    pub(crate) fn boss_event(&mut self, who: usize, event: Event) {
        let life = self.boxes[who].life;
        let delay = self.rng.below(5 * MS);
        match event {
            Event::Sealed { epoch } => self.promote(who, life, epoch),
            Event::PeerLost { number, .. } => {
                self.at(delay, What::Boss(Step::Degrade { who, life, number }));
            }
            Event::Readmit { epoch, peer_disk } => self.propose(who, epoch, peer_disk),
            Event::Drained { id: epoch } => {
                let step = Step::CommitHandover { who, life, epoch };
                self.at(delay, What::Boss(step));
            }
            Event::Data(state) if matches!(state.attached, Attached::Failed(_)) => {
                self.at(delay, What::Boss(Step::Detach { who, life }));
            }
            Event::Data(_)
            | Event::PeerUp { .. }
            | Event::Serving { .. }
            | Event::CacheLost { .. }
            | Event::Replayed { .. }
            | Event::Thawed
            | Event::ResyncStarted { .. }
            | Event::ResyncProgress { .. }
            | Event::ResyncDone
            | Event::InSync { .. }
            | Event::VolumeReady { .. }
            | Event::VolumeGrown { .. }
            | Event::VolumeGone { .. }
            | Event::CopiesDiffer { .. }
            | Event::Scrubbed { .. }
            | Event::Alarm(_) => {}
        }
    }

    /// In doubt from before the proposal leaves (law R0b).
    fn propose(&mut self, who: usize, epoch: Epoch, disk: DiskInstance) {
        let (life, delay) = (self.boxes[who].life, self.rng.below(5 * MS));
        if !self.is_primary(who, life) || epoch != Epoch(self.boss.epoch) {
            return;
        }
        self.boss.doubt = Some(epoch.0);
        let authority = self.authority(who);
        let told = self.in_order(who, MS / 10);
        self.at(told, What::Input(who, life, Input::Lease(Lease::None)));
        self.at(told, What::Input(who, life, Input::Authority(authority)));
        let step = Step::CommitReadmit {
            who,
            life,
            epoch: epoch.0,
            disk,
        };
        self.at(MS / 5 + told + delay, What::Boss(step));
    }

    fn promote(&mut self, who: usize, life: u64, epoch: Epoch) {
        let current = self.boss.sealing == Some((who, life, self.boss.epoch));
        self.boss.sealing = None;
        if !current || epoch.0 != self.boss.epoch || !self.eligible(who) {
            return;
        }
        if self.boss.in_sync[1 - who] {
            self.boss.base[1 - who] = Some(epoch);
        }
        if self.boxes[who].lossy {
            self.oracle.power_was_lost();
        }
        self.boss.epoch += 1;
        self.boss.primary = Some((who, life));
        self.boss.in_sync = [who == 0, who == 1];
        self.boss.doubt = None;
        self.boss.handing_over = false;
        self.boss.idle_since = self.now;
        self.boss.promotions += 1;
        self.tell(who);
    }

    fn degrade(&mut self, who: usize, life: u64, number: u64) {
        let shared = self.boss.in_sync[1 - who] || self.boss.doubt.is_some();
        if !self.is_primary(who, life) {
            return;
        }
        if self.boxes[who].isolated || self.has_failed(who) {
            return self.at(10 * MS, What::Boss(Step::Degrade { who, life, number }));
        }
        self.boss.losses_heard = self.boss.losses_heard.max(number);
        if !shared {
            return self.tell(who); // nothing was proposed, and from now on nothing will be
        }
        if self.boss.in_sync[1 - who] {
            self.boss.base[1 - who] = Some(Epoch(self.boss.epoch));
        }
        self.boss.epoch += 1;
        self.boss.in_sync = [who == 0, who == 1];
        self.boss.doubt = None;
        self.boss.handing_over = false;
        self.boss.sealing = None;
        self.boss.degrades += 1;
        self.doom(who);
        self.tell(who);
    }

    /// A new config is a good moment to die.
    fn doom(&mut self, who: usize) {
        if self.deadly && self.rng.one_in(4) {
            let (life, power) = (self.boxes[who].life, self.rng.one_in(2));
            let delay = self.rng.below(4 * MS);
            self.at(delay, What::Kill { who, life, power });
        }
    }

    fn commit_readmit(&mut self, who: usize, life: u64, epoch: u64, disk: DiskInstance) {
        if !self.is_primary(who, life) || self.boss.doubt != Some(epoch) {
            return;
        }
        if self.boxes[who].isolated || self.boss.epoch != epoch {
            let step = Step::CommitReadmit {
                who,
                life,
                epoch,
                disk,
            };
            return self.at(10 * MS, What::Boss(step));
        }
        self.boss.epoch += 1;
        self.boss.in_sync = [true; 2];
        self.boss.disks[1 - who] = Some(disk);
        self.boss.doubt = None;
        self.boss.readmissions += 1;
        self.doom(who);
        for it in &mut self.boxes {
            it.lossy = false;
        }
        self.tell(who);
    }

    /// Starts a planned switch if one is possible.
    pub(crate) fn begin_handover(&mut self) {
        let Some((who, life)) = self.boss.primary else {
            return;
        };
        let able = self.is_primary(who, life) && self.boss.both_in_sync() && self.is_up(1 - who);
        let healthy = BOXES.iter().all(|who| !self.boxes[*who].isolated) && !self.boss.handing_over;
        let known = able && self.engine(who).status().epoch == Epoch(self.boss.epoch);
        if known && healthy && self.boss.sealing.is_none() {
            self.boss.handing_over = true;
            let epoch = Epoch(self.boss.epoch);
            let id = epoch.0;
            self.input(who, Input::Handover { epoch, id });
        }
    }

    pub(crate) fn cancel_handover(&mut self) {
        let Some((who, life)) = self.boss.primary else {
            return;
        };
        if self.is_primary(who, life) && self.boss.handing_over {
            self.boss.handing_over = false;
            let id = self.boss.epoch;
            self.input(who, Input::HandoverCancelled { id });
        }
    }

    fn commit_handover(&mut self, who: usize, life: u64, epoch: u64) {
        let other = 1 - who;
        let able = self.is_primary(who, life) && self.boss.epoch == epoch && self.boss.handing_over;
        if !able || !self.boss.both_in_sync() || self.boss.sealing.is_some() {
            return;
        }
        if !self.eligible(other) || self.boxes[who].isolated {
            return self.cancel_handover();
        }
        self.boss.handing_over = false;
        self.boss.epoch += 1;
        self.boss.primary = Some((other, self.boxes[other].life));
        self.boss.handovers += 1;
        let epoch = Epoch(self.boss.epoch);
        let delay = self.rng.below(4 * MS);
        let delay = self.in_order(who, delay);
        let input = Input::Authority(Authority::Secondary { epoch });
        self.at(delay, What::Input(who, life, input));
        self.tell(other);
    }
}

impl World {
    pub(crate) fn has_failed(&self, who: usize) -> bool {
        let engine = self.boxes[who].engine.as_ref();
        engine.is_some_and(|engine| matches!(engine.status().data.attached, Attached::Failed(_)))
    }

    /// Everything goes to the other box, if it is in sync; else nobody has what this one has.
    fn detach(&mut self, who: usize, life: u64) {
        let other = 1 - who;
        if !self.is_primary(who, life) {
            return;
        }
        let able = self.boss.in_sync[other] && !self.boxes[who].isolated;
        if !able || !self.eligible(other) {
            return self.at(10 * MS, What::Boss(Step::Detach { who, life }));
        }
        self.boss.base[who] = Some(Epoch(self.boss.epoch));
        self.boss.epoch += 1;
        self.boss.primary = Some((other, self.boxes[other].life));
        self.boss.in_sync = [other == 0, other == 1];
        self.boss.doubt = None;
        self.boss.handing_over = false;
        self.boss.sealing = None;
        self.boss.idle_since = self.now;
        self.boss.detached += 1;
        if self.boxes[other].lossy {
            self.oracle.power_was_lost();
        }
        let epoch = Epoch(self.boss.epoch);
        let delay = self.rng.below(4 * MS);
        let delay = self.in_order(who, delay);
        let input = Input::Authority(Authority::Secondary { epoch });
        self.at(delay, What::Input(who, life, input));
        self.tell(other);
    }
}
