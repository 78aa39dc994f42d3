//! A stand-in for the replication engine: a log of writes on each box, mirrored by frames, with
//! the answers that the real one gives and the order in which it gives them.

use std::collections::BTreeSet;

use ha::types::PeerLoss;
use ha::{
    Authority, DiskInstance, Epoch, Incarnation, Input, Lease, Members, NodeId, Time, Timing,
};

/// What survives the process.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) instance: Option<DiskInstance>,
    pub(crate) log: BTreeSet<u64>,
    /// The last epoch in which this copy was in sync or served.
    pub(crate) data_epoch: Epoch,
}

impl Disk {
    pub(crate) const fn new(instance: Option<DiskInstance>) -> Self {
        Self {
            instance,
            log: BTreeSet::new(),
            data_epoch: Epoch::ZERO,
        }
    }
}

/// On the data session.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    /// The primary asks for a session.
    Hello {
        session: u64,
        epoch: Epoch,
    },
    /// The peer gives it.
    Welcome {
        session: u64,
        process: u128,
        disk: DiskInstance,
        data_epoch: Epoch,
    },
    /// The target is in sync in this epoch (H30).
    Epoch {
        session: u64,
        epoch: Epoch,
    },
    Write {
        session: u64,
        epoch: Epoch,
        write: u64,
    },
    Written {
        session: u64,
        write: u64,
    },
    /// The whole of the source; the target's own log goes.
    Copy {
        session: u64,
        epoch: Epoch,
        log: BTreeSet<u64>,
    },
    Copied {
        session: u64,
    },
    Sealed {
        session: u64,
    },
    Alive {
        session: u64,
        reply: bool,
    },
}

/// What the engine wants done, after a while.
#[derive(Debug)]
pub(crate) enum Reaction {
    Input(Box<Input>),
    Tick,
    Send(Frame),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    None,
    Asked,
    Up,
    Copying,
    /// The copy is there and acks wait for the peer (law R6, 1 to 3).
    Ready,
}

/// Whether an acknowledgement needed nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alone {
    Yes,
    No,
}

#[derive(Debug)]
pub(crate) struct Engine {
    me: NodeId,
    process: u128,
    timing: Timing,
    pub(crate) now: Time,
    pub(crate) authority: Authority,
    pub(crate) lease: Lease,
    sealed: Epoch,
    /// Sealed, and nothing older is in flight on the disk.
    settled: Epoch,
    serving: bool,
    stopped: bool,
    handover: Option<u64>,
    /// The peer was lost while it counted: nothing is acknowledged before the next epoch.
    frozen: bool,
    /// The disk failed: nothing is answered any more.
    pub(crate) failed: bool,
    /// How often the peer's copy was found to be of another lineage, and was left alone (law R9).
    pub(crate) forks: u64,
    losses: u64,
    peer: Peer,
    peer_disk: Option<DiskInstance>,
    session: u64,
    /// The session this box serves as a secondary.
    serves: u64,
    heard: Time,
    asked: Time,
    pending: Vec<(u64, bool)>,
    reactions: Vec<(u64, Reaction)>,
    acknowledged: Vec<(u64, Alone)>,
}

const TICK_US: u64 = 20_000;

impl Frame {
    pub(crate) const fn session(&self) -> u64 {
        match self {
            Self::Hello { session, .. }
            | Self::Welcome { session, .. }
            | Self::Epoch { session, .. }
            | Self::Write { session, .. }
            | Self::Written { session, .. }
            | Self::Copy { session, .. }
            | Self::Copied { session }
            | Self::Sealed { session }
            | Self::Alive { session, .. } => *session,
        }
    }
}

impl Engine {
    pub(crate) fn new(me: NodeId, process: u128, sealed: Epoch, timing: Timing) -> Self {
        let authority = Authority::Secondary { epoch: Epoch::ZERO };
        let first = vec![(TICK_US, Reaction::Tick)];
        Self {
            me,
            process,
            timing,
            now: Time(0),
            authority,
            lease: Lease::None,
            sealed,
            settled: sealed,
            serving: false,
            stopped: false,
            handover: None,
            frozen: false,
            failed: false,
            forks: 0,
            losses: 0,
            peer: Peer::None,
            peer_disk: None,
            session: 0,
            serves: 0,
            heard: Time(0),
            asked: Time(0),
            pending: Vec::new(),
            reactions: first,
            acknowledged: Vec::new(),
        }
    }

    pub(crate) fn is_primary(&self) -> bool {
        matches!(self.authority, Authority::Primary { .. })
    }

    /// Everybody an acknowledgement needs (laws R4 and R0b).
    pub(crate) fn needed(&self) -> Members {
        match self.authority {
            Authority::Secondary { .. } => Members::EMPTY,
            Authority::Primary { in_sync, doubt, .. } => in_sync.union(doubt.unwrap_or_default()),
        }
    }

    pub(crate) fn needs_only_itself(&self) -> bool {
        self.is_primary() && self.needed() == Members::one(self.me)
    }

    /// Whether a read may be answered at `now` (law R5).
    pub(crate) fn may_read(&self, now: Time) -> bool {
        let leased = match self.lease {
            Lease::None => false,
            Lease::Until(until) => now < until,
            Lease::Unlimited => true,
        };
        self.is_primary() && self.serving && !self.stopped && !self.failed && leased
    }

    pub(crate) fn epoch(&self) -> Epoch {
        match self.authority {
            Authority::Secondary { epoch } | Authority::Primary { epoch, .. } => epoch,
        }
    }

    fn peer_counts(&self) -> bool {
        self.needed().without(self.me) != Members::EMPTY
    }

    pub(crate) fn take_reactions(&mut self) -> Vec<(u64, Reaction)> {
        std::mem::take(&mut self.reactions)
    }

    pub(crate) fn take_acknowledged(&mut self) -> Vec<(u64, Alone)> {
        std::mem::take(&mut self.acknowledged)
    }

    fn tell(&mut self, delay_us: u64, input: Input) {
        self.reactions
            .push((delay_us, Reaction::Input(Box::new(input))));
    }

    fn send(&mut self, frame: Frame) {
        self.reactions.push((0, Reaction::Send(frame)));
    }

    pub(crate) fn seal(&mut self, epoch: Epoch) {
        self.sealed = self.sealed.max(epoch);
        let older_operations_us = 500 + 37 * (epoch.0 % 40);
        self.tell(older_operations_us, Input::Sealed { epoch });
    }

    pub(crate) fn seal_done(&mut self, epoch: Epoch) {
        self.settled = self.settled.max(epoch);
    }

    pub(crate) fn handover(&mut self, id: u64) {
        self.handover = Some(id);
        self.stopped = true;
        self.drain();
    }

    pub(crate) fn cancelled(&mut self, id: u64) {
        if self.handover == Some(id) {
            self.handover = None;
            self.stopped = false;
        }
    }

    fn drain(&mut self) {
        if let Some(id) = self.handover
            && self.pending.is_empty()
        {
            self.tell(1_000, Input::Drained { id });
        }
    }

    pub(crate) fn authority(&mut self, authority: Authority, disk: &mut Disk) {
        let (was, before) = (self.is_primary(), self.epoch());
        self.authority = authority;
        match authority {
            Authority::Secondary { .. } => {
                self.pending.clear();
                self.serving = false;
                self.stopped = false;
                self.handover = None;
                self.frozen = false;
                self.peer = Peer::None;
            }
            Authority::Primary { epoch, in_sync, .. } => {
                assert!(epoch > self.sealed || was, "primary of a sealed epoch");
                let taken_over = !was && in_sync == Members::one(self.me);
                // The first epoch of a forced lineage follows whatever was sealed (law R9).
                let settled = epoch.counter() <= self.settled.counter() + 1;
                assert!(
                    settled || !taken_over,
                    "promoted before older operations were over (H8)"
                );
                if !was || epoch != before {
                    self.tell(1_000, Input::Serving { epoch });
                    self.serving = true;
                    self.frozen = false;
                }
                disk.data_epoch = epoch;
                if in_sync != Members::one(self.me) {
                    let session = self.session;
                    self.send(Frame::Epoch { session, epoch });
                }
                if !was {
                    self.peer = Peer::None;
                    self.asked = Time(0);
                    self.heard = self.now;
                }
                self.settle();
            }
        }
    }

    /// Acknowledges what every needed member has.
    fn settle(&mut self) {
        if self.frozen || self.failed {
            return;
        }
        let both = self.peer_counts() || matches!(self.peer, Peer::Copying | Peer::Ready);
        let mut kept = Vec::new();
        for (write, on_peer) in std::mem::take(&mut self.pending) {
            if !both || on_peer {
                self.acknowledged
                    .push((write, if both { Alone::No } else { Alone::Yes }));
            } else {
                kept.push((write, on_peer));
            }
        }
        self.pending = kept;
        self.drain();
    }

    /// One more write of a host, and the session's timers.
    pub(crate) fn tick(&mut self, write: u64, disk: &mut Disk) {
        self.reactions.push((TICK_US, Reaction::Tick));
        if !self.is_primary() {
            return;
        }
        let loss = u64::from(self.timing.peer_loss_ms);
        let silent = self.now > self.heard.after_ms(loss);
        if silent && (self.peer != Peer::None || self.peer_counts()) {
            self.lose(PeerLoss::Silent);
        }
        if self.failed {
            return;
        }
        if self.peer == Peer::None && self.now >= self.asked.after_ms(loss / 2) {
            self.session += 1 + (write & 0xff);
            self.asked = self.now;
            self.peer = Peer::Asked;
            let (session, epoch) = (self.session, self.epoch());
            self.send(Frame::Hello { session, epoch });
        }
        if matches!(self.peer, Peer::Up | Peer::Copying | Peer::Ready) {
            let session = self.session;
            self.send(Frame::Alive {
                session,
                reply: false,
            });
        }
        if self.peer == Peer::Up && !self.peer_counts() {
            // From now on acks wait for the peer; what came before is in the copy.
            self.peer = Peer::Copying;
            let (session, epoch) = (self.session, self.epoch());
            self.send(Frame::Copy {
                session,
                epoch,
                log: disk.log.clone(),
            });
        }
        if self.serving && !self.stopped && self.pending.len() < 8 {
            disk.log.insert(write);
            self.pending.push((write, false));
            if matches!(self.peer, Peer::Up | Peer::Copying | Peer::Ready) {
                let (session, epoch) = (self.session, self.epoch());
                self.send(Frame::Write {
                    session,
                    epoch,
                    write,
                });
            }
            self.settle();
        }
    }

    fn lose(&mut self, why: PeerLoss) {
        let told = !matches!(self.peer, Peer::None | Peer::Asked) || self.peer_counts();
        self.peer = Peer::None;
        self.heard = self.now;
        self.frozen |= self.peer_counts();
        if told {
            self.losses += 1;
            let number = self.losses;
            self.tell(0, Input::PeerLost { number, why });
        }
        self.settle();
    }

    pub(crate) fn frame(&mut self, frame: Frame, disk: &mut Disk) {
        if self.failed && !self.is_primary() {
            return;
        }
        match frame {
            Frame::Hello { session, epoch, .. } => {
                if epoch <= self.sealed {
                    self.send(Frame::Sealed { session });
                } else if !self.is_primary() {
                    self.serves = session;
                    let instance = disk.instance.expect("a box has a disk");
                    self.send(Frame::Welcome {
                        session,
                        process: self.process,
                        disk: instance,
                        data_epoch: disk.data_epoch,
                    });
                }
            }
            Frame::Write {
                session,
                epoch,
                write,
            } => {
                if epoch <= self.sealed {
                    self.send(Frame::Sealed { session });
                } else if session == self.serves && !self.is_primary() {
                    disk.log.insert(write);
                    self.send(Frame::Written { session, write });
                }
            }
            Frame::Copy {
                session,
                epoch,
                log,
            } => {
                if epoch <= self.sealed {
                    self.send(Frame::Sealed { session });
                } else if session == self.serves && !self.is_primary() {
                    disk.log = log;
                    self.send(Frame::Copied { session });
                }
            }
            Frame::Epoch { session, epoch } => {
                if session == self.serves && !self.is_primary() && epoch > self.sealed {
                    disk.data_epoch = epoch;
                }
            }
            Frame::Alive {
                session,
                reply: false,
            } => {
                if session == self.serves && !self.is_primary() {
                    self.send(Frame::Alive {
                        session,
                        reply: true,
                    });
                }
            }
            Frame::Welcome { .. }
            | Frame::Written { .. }
            | Frame::Copied { .. }
            | Frame::Sealed { .. }
            | Frame::Alive { .. } => self.answer(frame),
        }
    }

    /// Row 2 of the table of handshakes: the peer's copy served in another lineage, or went on
    /// after the two parted.
    fn is_fork(&self, data_epoch: Epoch) -> bool {
        let Authority::Primary {
            epoch, peer_base, ..
        } = self.authority
        else {
            return false;
        };
        let parted = data_epoch.lineage() != epoch.lineage() && data_epoch != Epoch::ZERO;
        parted && peer_base != Some(data_epoch)
    }

    fn answer(&mut self, frame: Frame) {
        let of = match frame {
            Frame::Welcome { session, .. }
            | Frame::Written { session, .. }
            | Frame::Copied { session }
            | Frame::Sealed { session }
            | Frame::Alive { session, .. } => session,
            Frame::Hello { .. }
            | Frame::Write { .. }
            | Frame::Epoch { .. }
            | Frame::Copy { .. } => return,
        };
        if of != self.session || !self.is_primary() {
            return;
        }
        self.heard = self.now;
        match frame {
            Frame::Welcome {
                process,
                disk: instance,
                session,
                data_epoch,
            } => {
                if self.peer == Peer::Asked && self.is_fork(data_epoch) {
                    self.peer = Peer::None;
                    self.forks += 1;
                } else if self.peer == Peer::Asked {
                    self.peer = Peer::Up;
                    self.peer_disk = Some(instance);
                    let incarnation = Incarnation(process);
                    self.tell(
                        0,
                        Input::PeerUp {
                            incarnation,
                            disk: instance,
                        },
                    );
                    let epoch = self.epoch();
                    if self.peer_counts() {
                        self.send(Frame::Epoch { session, epoch });
                    }
                    for (write, _) in self.pending.clone() {
                        self.send(Frame::Write {
                            session,
                            epoch,
                            write,
                        });
                    }
                }
            }
            Frame::Written { write, .. } => {
                for entry in &mut self.pending {
                    entry.1 |= entry.0 == write;
                }
                self.settle();
            }
            Frame::Copied { .. } => {
                if self.peer == Peer::Copying {
                    self.peer = Peer::Ready;
                    let epoch = self.epoch();
                    let peer_disk = self.peer_disk.expect("welcomed");
                    self.tell(0, Input::Readmit { epoch, peer_disk });
                }
            }
            Frame::Sealed { .. } => self.lose(PeerLoss::Sealed),
            Frame::Hello { .. }
            | Frame::Write { .. }
            | Frame::Epoch { .. }
            | Frame::Copy { .. }
            | Frame::Alive { .. } => {}
        }
    }
}
