//! Faults happen and end.

use super::{Event, MS, World};
use crate::faults::Fault;
use crate::net::{BOXES, Host, Link, SAN1, SAN2, WITNESS};
use crate::node::Fullness;
use crate::rng::Rng;

/// A wire in one direction.
pub type Way = (Host, Host, Link);

/// The end of a fault.
#[derive(Debug)]
pub enum Undo {
    /// The ways are whole again.
    Heal(Vec<Way>),
    /// The network is as it was.
    Calm,
    /// The disks of the box are as they were.
    Disk(Host),
    /// A suspended machine goes on.
    Wake(Host, u32, u64),
    /// Flapping ways are whole; so many times more they will not be.
    FlapUp(Vec<Way>, u64),
    /// They are cut again.
    FlapDown(Vec<Way>, u64),
    /// The power goes in the middle of a write.
    PowerCut(Host),
    /// The operator has a blank witness admitted.
    AdmitWitness,
}

/// Tells the streams of faults from each other and from all others.
const FAULT_STREAMS: u64 = 0xd6e8_feb8_6659_fd93;

impl World {
    /// The next fault happens, and the one after it is planned.
    pub(super) fn next_fault(&mut self) {
        if !self.stormy {
            return;
        }
        let number = self.fault_number;
        self.fault_number += 1;
        // a stream of its own for each: if one is left out, the others are what they were
        let mut own = Rng::new(self.seed ^ FAULT_STREAMS.wrapping_mul(u64::from(number) + 1));
        let gap = self.options.fault_gap_ns;
        let pause = own.between(gap / 4, gap * 7 / 4);
        self.schedule(pause, Event::Fault);
        let fault = *own.pick(&self.options.faults);
        if self.trim.skip.contains(&number) {
            self.faults_done += u32::from(!fault.is_request());
            return;
        }
        self.faults.push((number, self.now, fault));
        std::mem::swap(&mut self.rng, &mut own);
        self.inflict(fault);
        if self.rng.chance(300) {
            for host in BOXES {
                self.replace_failed(host);
            }
        }
        std::mem::swap(&mut self.rng, &mut own);
    }

    /// One fault, with random victims and durations.
    pub fn inflict(&mut self, fault: Fault) {
        self.counts.add(&format!("fault {fault}"));
        if !fault.is_request() {
            self.faults_done += 1;
        }
        self.trace.note(self.now, || format!("FAULT {fault}"));
        let away = self.rng.between(300 * MS, 4000 * MS);
        let victim = self.draw_box();
        match fault {
            Fault::Kill => self.kill_for(victim, away),
            Fault::KillShort => {
                let away = self.rng.between(5 * MS, 300 * MS);
                self.kill_for(victim, away);
            }
            Fault::PowerLoss => self.power_off_for(victim, away),
            Fault::PowerLossBoth => {
                for host in BOXES {
                    let away = self.rng.between(200 * MS, 3000 * MS);
                    self.power_off_for(host, away);
                }
            }
            Fault::KillBoth => {
                for host in BOXES {
                    let away = self.rng.between(100 * MS, 3000 * MS);
                    self.kill_for(host, away);
                }
            }
            Fault::Pause => self.pause_some(victim),
            Fault::Suspend => self.suspend(victim, away),
            Fault::WitnessKill => self.kill_for(WITNESS, away),
            Fault::WitnessPause => self.pause_some(WITNESS),
            Fault::Cut | Fault::CutOneWay | Fault::Isolate => self.cut_some(fault, victim),
            Fault::SessionBreak => {
                self.net.break_all(self.now);
            }
            Fault::Flap => {
                let ways = self.draw_wires();
                self.flap(ways);
            }
            Fault::HalfOpen => self.net.half_open(self.now),
            Fault::PowerLossMetadata => self.set_trap(victim),
            Fault::DisksReplaced => self.replace_disks(victim, away),
            Fault::DisksPutBack => self.put_disks_back(victim, away),
            Fault::WitnessReplaced => self.replace_witness(away),
            Fault::HostDrop => self.drop_host(),
            Fault::Storm => self.storm(away),
            Fault::DiskSlow | Fault::DiskHang | Fault::DiskErrors | Fault::DiskFull => {
                self.upset(fault, victim);
            }
            Fault::DiskMedium => self.spoil(victim),
            Fault::Switchover => self.switchover(None),
            Fault::VolumeCreate => self.create_volume(),
            Fault::VolumeGrow => self.grow_volume(),
            Fault::VolumeDelete => self.delete_volume(),
        }
    }

    /// The serving box more often than the other.
    fn draw_box(&mut self) -> Host {
        match self.serving() {
            Some(host) if self.rng.chance(400) => host,
            _ => *self.rng.pick(&BOXES),
        }
    }

    /// Kills a process; it is started again `away_ns` later.
    pub(crate) fn kill_for(&mut self, host: Host, away_ns: u64) {
        self.trace.note(self.now, || {
            format!("{host}: killed for {} ms", away_ns / MS)
        });
        self.kill(host);
        self.schedule(away_ns, Event::Boot(host));
    }

    /// Cuts the power; it comes back `away_ns` later.
    pub(crate) fn power_off_for(&mut self, host: Host, away_ns: u64) {
        self.trace.note(self.now, || {
            format!("{host}: no power for {} ms", away_ns / MS)
        });
        self.power_off(host);
        self.schedule(away_ns, Event::Boot(host));
    }

    fn pause_some(&mut self, host: Host) {
        let ns = match self.rng.below(3) {
            0 => self.rng.between(MS, 100 * MS),
            1 => self.rng.between(100 * MS, 1500 * MS),
            _ => self.rng.between(1500 * MS, 5000 * MS),
        };
        self.pause(host, ns);
    }

    /// Stops a process for a while.
    pub(crate) fn pause(&mut self, host: Host, ns: u64) {
        self.trace
            .note(self.now, || format!("{host}: stopped for {} ms", ns / MS));
        if let Some(start) = self.stop(host) {
            self.schedule(ns, Event::Resume(host, start));
        }
    }

    /// Stops a process; which start of it.
    fn stop(&mut self, host: Host) -> Option<u32> {
        if host == WITNESS {
            let guard = self.witness.process.as_mut()?;
            guard.stopped = true;
            Some(guard.start)
        } else {
            let process = self.machine(host).process.as_mut()?;
            process.stopped = true;
            Some(process.start)
        }
    }

    /// The machine sleeps: its monotonic clock stands still and nothing reaches it.
    fn suspend(&mut self, host: Host, ns: u64) {
        self.trace
            .note(self.now, || format!("{host}: suspended for {} ms", ns / MS));
        let Some(start) = self.stop(host) else { return };
        let ways = ways_of(host);
        for (from, to, link) in &ways {
            self.net.cut(*from, *to, *link);
        }
        self.schedule(ns, Event::Undo(Undo::Heal(ways)));
        self.schedule(ns, Event::Undo(Undo::Wake(host, start, ns)));
    }

    fn cut_some(&mut self, fault: Fault, victim: Host) {
        let mut ways = if fault == Fault::Isolate {
            ways_of(if self.rng.chance(250) {
                WITNESS
            } else {
                victim
            })
        } else {
            self.draw_wires()
        };
        if fault == Fault::CutOneWay {
            let forth = self.rng.chance(500);
            ways.retain(|(from, to, _)| (from < to) == forth);
        }
        let ns = match self.rng.below(3) {
            0 => self.rng.between(10 * MS, 400 * MS),
            1 => self.rng.between(400 * MS, 1200 * MS),
            _ => self.rng.between(1200 * MS, 5000 * MS),
        };
        self.cut_for(ways, ns);
    }

    /// Cuts wires for a while.
    pub(crate) fn cut_for(&mut self, ways: Vec<Way>, ns: u64) {
        self.trace
            .note(self.now, || format!("cut for {} ms: {ways:?}", ns / MS));
        for (from, to, link) in &ways {
            self.net.cut(*from, *to, *link);
        }
        self.schedule(ns, Event::Undo(Undo::Heal(ways)));
    }

    fn draw_wires(&mut self) -> Vec<Way> {
        let pairs = [
            both_ways(SAN1, SAN2, Link::Replication),
            both_ways(SAN1, SAN2, Link::Service),
            both_ways(SAN1, WITNESS, Link::Witness),
            both_ways(SAN2, WITNESS, Link::Witness),
        ];
        match self.rng.below(6) {
            4 => pairs[..2].concat(),
            5 => pairs[1..3].concat(),
            one => pairs[usize::try_from(one).expect("below four")].clone(),
        }
    }

    fn storm(&mut self, ns: u64) {
        let weather = &mut self.net.weather;
        weather.loss = weather.loss.max(300);
        weather.duplicate = weather.duplicate.max(200);
        weather.spike = weather.spike.max(200);
        weather.spike_ns = weather.spike_ns.max(150 * MS);
        self.schedule(ns, Event::Undo(Undo::Calm));
    }

    fn upset(&mut self, fault: Fault, host: Host) {
        let long = fault == Fault::DiskHang && self.rng.chance(300);
        let ns = if long {
            self.rng.between(4000 * MS, 9000 * MS)
        } else {
            self.rng.between(50 * MS, 2500 * MS)
        };
        let errors = self.rng.between(20, 300);
        let extra = *self.rng.pick(&[20 * MS, 100 * MS, 400 * MS]);
        let until = self.now + ns;
        self.trace
            .note(self.now, || format!("{host}: {fault} for {} ms", ns / MS));
        let mood = &mut self.machine(host).mood;
        if fault == Fault::DiskSlow {
            mood.extra_ns = extra;
        } else if fault == Fault::DiskHang {
            mood.hangs_until = until;
        } else if fault == Fault::DiskFull {
            mood.full = Fullness::Full;
        } else {
            mood.errors = errors;
        }
        self.schedule(ns, Event::Undo(Undo::Disk(host)));
    }

    /// Some blocks of a box cannot be read any more.
    fn spoil(&mut self, host: Host) {
        let blocks = self.rng.between(1, 12);
        let Self { machines, rng, .. } = self;
        let backings: Vec<_> = machines[host.index()].backings.values_mut().collect();
        for backing in backings {
            for _ in 0..blocks {
                backing.disk.spoil(backing.data_block, rng);
            }
        }
    }

    /// The operator asks the primary to hand over.
    pub(crate) fn switchover(&mut self, to: Option<Host>) {
        let Some(host) = self.serving() else { return };
        if self.machine(host).process().stopped {
            return;
        }
        let command = ha::OperatorCommand::Switchover {
            to: to.map(|host| ha::NodeId(host.0)),
        };
        let id = self.tick();
        self.feed_node(host, ha::Input::Operator { id, command });
    }

    pub(super) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Heal(ways) => {
                for (from, to, link) in ways {
                    self.net.heal(self.now, from, to, link);
                }
            }
            Undo::FlapUp(ways, left) => self.flap_up(ways, left),
            Undo::FlapDown(ways, left) => self.flap_down(ways, left),
            Undo::PowerCut(host) => {
                let away = self.rng.between(300 * MS, 3000 * MS);
                self.power_off_for(host, away);
            }
            Undo::AdmitWitness => self.admit_witness(),
            Undo::Calm => self.net.weather = self.options.weather,
            Undo::Disk(host) => self.machine(host).mood = crate::node::Mood::default(),
            Undo::Wake(host, start, ns) => {
                let machine = self.machine(host);
                if machine.runs(start) {
                    machine.clock.suspend(ns);
                }
                self.resume(host, start);
            }
        }
    }
}

/// A wire, both directions.
pub(crate) fn both_ways(one: Host, other: Host, link: Link) -> Vec<Way> {
    vec![(one, other, link), (other, one, link)]
}

/// Every wire of a machine, both directions.
pub(crate) fn ways_of(host: Host) -> Vec<Way> {
    let mut ways = Vec::new();
    for other in BOXES.into_iter().filter(|other| *other != host) {
        if host == WITNESS {
            ways.extend(both_ways(host, other, Link::Witness));
        } else {
            ways.extend(both_ways(host, other, Link::Replication));
            ways.extend(both_ways(host, other, Link::Service));
        }
    }
    if host != WITNESS {
        ways.extend(both_ways(host, WITNESS, Link::Witness));
    }
    ways
}
