//! Random faults, one after the other, under a verified load: nothing acknowledged is lost, both
//! data areas are equal at rest, and never do two boxes acknowledge.
//!
//! The evidence is the initiators' own records, what the wire showed, and the data areas as this
//! process reads them. `TWINSAN_CYCLES` says how many faults on each kind of disk,
//! `TWINSAN_CYCLES_SEED` repeats a sequence. Needs root, `ip` and `nft`.

#[path = "rows/scene.rs"]
#[expect(dead_code, reason = "the rows use all of it")]
mod scene;

use std::io::Write as _;
use std::time::Duration;

use scene::Scene;
use tests::lab::capture::is_seeing;
use tests::lab::{Capture, Direction, Disk, Lab, Net, Place, clock};
use tests::rng::Rng;

const CYCLES: u64 = 10;
const SEED: u64 = 20_261_130;

/// What is done to the pair, and undone.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// SIGKILL, and a start once the pair goes on.
    Kill(Place),
    /// SIGKILL, and a start after so many milliseconds.
    Restart(Place, u64),
    /// A box dies, comes back, and dies again that soon.
    KillTwice(Place, u64),
    /// The peer of a box dies and comes back; that soon the box itself dies.
    KillSource(Place, u64),
    /// SIGSTOP, and SIGCONT after so many milliseconds.
    Stop(Place, u64),
    /// Every cable of a box is cut.
    Isolate(Place),
    /// A box loses one cable.
    Cut(Place, Net),
    /// What a box sends is lost, or what is sent to it.
    OneWay(Place, Net, Direction),
    /// The data link is silent for so many milliseconds.
    Silence(u64),
    /// The role is asked to move.
    Move,
}

impl Fault {
    fn random(rng: &mut Rng, primary: Place) -> Self {
        let victim = *rng.pick(&[primary, primary, primary.other()]);
        match rng.below(16) {
            0..=2 => Self::Kill(victim),
            3 => Self::Kill(Place::Witness),
            4 | 5 => Self::Restart(victim, rng.between(0, 300)),
            6 => Self::KillTwice(victim, rng.between(0, 800)),
            7 => Self::KillSource(primary, rng.between(0, 800)),
            8 | 9 => Self::Stop(victim, rng.between(100, 6000)),
            10 => Self::Isolate(victim),
            11 => Self::Cut(victim, *rng.pick(&Net::ALL)),
            12 | 13 => {
                let direction = *rng.pick(&[Direction::From, Direction::To]);
                Self::OneWay(victim, *rng.pick(&Net::ALL), direction)
            }
            14 => Self::Silence(rng.between(50, 2000)),
            _ => Self::Move,
        }
    }

    /// How often the role can move by it, as the wire shows it; none if an answer may be lost on
    /// the wire: its repetition by the kernel of the box that gave it is no second answer.
    const fn moves(self) -> Option<usize> {
        match self {
            Self::Kill(_) | Self::Restart(..) | Self::Stop(..) | Self::Silence(_) | Self::Move => {
                Some(1)
            }
            Self::KillTwice(..) | Self::KillSource(..) => Some(2),
            Self::Cut(_, net) | Self::OneWay(_, net, _) => match net {
                Net::Replication | Net::Management => Some(1),
                Net::Fabric1 | Net::Fabric2 => None,
            },
            Self::Isolate(_) => None,
        }
    }

    /// Inflicts it, sees that the pair goes on, and mends everything.
    fn inflict(self, scene: &mut Scene) {
        match self {
            Self::Kill(place) => {
                scene.lab.kill(place);
                scene.goes_on();
                scene.lab.start(place);
            }
            Self::Restart(place, ms) => restart(scene, place, ms),
            Self::KillTwice(place, ms) => {
                scene.lab.kill(place);
                scene.goes_on();
                scene.lab.start(place);
                clock::pass(Duration::from_millis(ms));
                restart(scene, place, 0);
            }
            Self::KillSource(place, ms) => {
                scene.lab.kill(place.other());
                scene.goes_on();
                scene.lab.start(place.other());
                clock::pass(Duration::from_millis(ms));
                restart(scene, place, 300);
            }
            Self::Stop(place, ms) => {
                scene.lab.stop(place);
                clock::pass(Duration::from_millis(ms));
                scene.lab.cont(place);
            }
            Self::Isolate(place) => {
                for net in Net::ALL {
                    scene.lab.network().cut(place, net);
                }
                scene.goes_on();
                for net in Net::ALL {
                    scene.lab.network().heal(place, net);
                }
            }
            Self::Cut(place, net) => {
                scene.lab.network().cut(place, net);
                scene.goes_on();
                scene.lab.network().heal(place, net);
            }
            Self::OneWay(place, net, direction) => {
                scene.lab.network().lose(place, net, direction);
                scene.goes_on();
                scene.lab.network().heal(place, net);
            }
            Self::Silence(ms) => {
                for direction in [Direction::From, Direction::To] {
                    let network = scene.lab.network();
                    network.lose(Place::San1, Net::Replication, direction);
                }
                clock::pass(Duration::from_millis(ms));
                scene.lab.network().heal(Place::San1, Net::Replication);
            }
            Self::Move => {
                let to = scene.lab.settled_primary().other();
                scene.lab.switch_over(to);
            }
        }
    }
}

fn restart(scene: &mut Scene, place: Place, ms: u64) {
    scene.lab.kill(place);
    clock::pass(Duration::from_millis(ms));
    scene.lab.start(place);
}

fn number(name: &str, usual: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(usual, |text| text.parse().expect("a number"))
}

fn cycles(disk: Disk, stream: u64) {
    let count = number("TWINSAN_CYCLES", CYCLES);
    let seed = number("TWINSAN_CYCLES_SEED", SEED);
    let mut rng = Rng::new(seed.wrapping_add(stream));
    let mut lab = Lab::with_pair(disk);
    let capture = Capture::start(lab.network()); // before the sessions that it follows
    let mut scene = Scene::of("cycles", lab);
    let mut acknowledged = is_seeing(&capture).acknowledged;
    for cycle in 1..=count {
        let primary = scene.lab.settled_primary();
        let fault = Fault::random(&mut rng, primary);
        let name = disk.name();
        // Not a print macro: the line shall be seen although the test passes.
        let mut out = std::io::stdout();
        writeln!(
            out,
            "cycle {cycle} of {count} on {name}, seed {seed}: {fault:?}"
        )
        .expect("stdout");
        let _ = capture.take();
        fault.inflict(&mut scene);
        scene.goes_on();
        let _ = scene.lab.settled_primary();
        let seen = capture.take();
        let (owners, moves) = (&seen.owners, fault.moves());
        let once = moves.is_none_or(|moves| owners.len() <= moves + 1);
        assert!(once, "two boxes acknowledge in turns: {owners:?}");
        acknowledged += seen.acknowledged;
        scene.rest();
        for initiator in [&mut scene.load, &mut scene.meter] {
            initiator.must("resume");
        }
    }
    let line = format!("{count} faults, {acknowledged} commands acknowledged on the wire");
    writeln!(std::io::stdout(), "{line}").expect("stdout");
    scene.finish();
}

#[test]
fn random_faults_on_files_lose_nothing() {
    cycles(Disk::Files, 0);
}

#[test]
fn random_faults_on_volatile_disks_lose_nothing() {
    cycles(Disk::Volatile(number("TWINSAN_CYCLES_SEED", SEED)), 1);
}
