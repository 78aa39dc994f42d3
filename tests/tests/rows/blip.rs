//! Short interruptions of the data link: what was on its way is sent again (law D4).

use std::time::Duration;

use tests::lab::{Direction, Disk, Lab, Net, Place, Status, clock};

use super::scene::Scene;

/// Longest stall of an interruption: the peer is lost after 500 ms, then comes a commit.
const STALL_MS: u64 = 800;

/// Nothing is sent over `net` for that long.
fn silence(scene: &mut Scene, net: Net, ms: u64) {
    let network = scene.lab.network();
    for direction in [Direction::From, Direction::To] {
        network.lose(Place::San2, net, direction);
    }
    clock::pass(Duration::from_millis(ms));
    scene.lab.network().heal(Place::San2, net);
}

/// The pair stays what it is, in the same epoch.
pub(crate) fn replication_link_silent_for_250_ms(disk: Disk) {
    let mut scene = Scene::start("link-250-ms", disk);
    let before = scene.lab.protected(Place::San1);
    scene.measure();
    for _ in 0..3 {
        silence(&mut scene, Net::Replication, 250);
        scene.goes_on();
        clock::pass(Duration::from_millis(1500));
    }
    scene.pause_at_most(STALL_MS);
    let after = scene.lab.protected(Place::San1);
    assert_eq!(after.epoch(), before.epoch(), "nothing had to be decided");
    assert_eq!(after.blocks_read(), before.blocks_read());
    scene.finish();
}

/// One degrade and one readmission at most, and nothing is copied.
pub(crate) fn replication_link_silent_for_up_to_2_s(disk: Disk) {
    let mut scene = Scene::start("link-2-s", disk);
    let first = scene.lab.protected(Place::San1);
    scene.measure();
    for ms in [500, 1000, 2000] {
        let before = scene.lab.protected(Place::San1);
        silence(&mut scene, Net::Replication, ms);
        scene.goes_on();
        let after = scene.lab.protected(Place::San1);
        assert!(after.epoch() <= before.epoch() + 2, "one degrade at most");
        assert_eq!(after.blocks_read(), before.blocks_read(), "after {ms} ms");
    }
    scene.pause_at_most(STALL_MS);
    let last = scene.lab.protected(Place::San1);
    assert!(last.replayed_writes() > first.replayed_writes());
    scene.finish();
}

/// The other path takes over before the peer is lost; either can be the one that is left.
pub(crate) fn one_of_two_paths_cut(disk: Disk) {
    let mut scene = Scene::of("one-path-cut", Lab::with_two_paths(disk));
    let before = scene.lab.protected(Place::San1);
    scene.measure();
    for net in [Net::Replication, Net::Management, Net::Replication] {
        for direction in [Direction::From, Direction::To] {
            scene.lab.network().lose(Place::San2, net, direction);
        }
        scene.goes_on();
        scene
            .lab
            .until(Place::San1, "both are in sync", Status::is_protected);
        scene.lab.network().heal(Place::San2, net);
        clock::pass(Duration::from_secs(2));
    }
    scene.pause_at_most(STALL_MS);
    let after = scene.lab.protected(Place::San1);
    assert_eq!(after.epoch(), before.epoch(), "nothing had to be decided");
    assert_eq!(after.blocks_read(), before.blocks_read());
    scene.finish();
}
