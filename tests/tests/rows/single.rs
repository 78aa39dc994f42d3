//! Rows in which at least one box keeps its data and its role is not in doubt.

use std::time::Duration;

use tests::lab::{Direction, Disk, Net, Place, Status, clock};

use super::scene::Scene;

/// Longest pause when the primary is killed.
const TAKEOVER_MS: u64 = 3000;
/// Longest stall when the standby is lost.
const STANDBY_LOST_MS: u64 = 1500;
/// Longest pause of a planned move.
const PLANNED_MS: u64 = 1000;
/// What counts as no effect: a pause that a busy machine makes by itself.
const NO_EFFECT_MS: u64 = 1000;
/// A stopped initiator path is noticed after 2.5 s at the latest, then comes the takeover.
const SILENT_TAKEOVER_MS: u64 = 8000;

/// X70, Z36: the other box takes over, nothing acknowledged is lost.
pub(crate) fn primary_killed(disk: Disk) {
    let mut scene = Scene::start("primary-killed", disk);
    scene.measure();
    scene.lab.kill(Place::San1);
    scene.goes_on();
    scene.pause_at_most(TAKEOVER_MS);
    scene
        .lab
        .until(Place::San2, "it is primary", Status::is_primary);
    scene.lab.start(Place::San1);
    scene.lab.protected(Place::San2);
    scene.finish();
}

/// Law R0: a box that is back before its death was noticed is a plain candidate.
pub(crate) fn primary_restarted_within_300_ms(disk: Disk) {
    let mut scene = Scene::start("primary-restarted", disk);
    let before = scene.lab.protected(Place::San1).epoch();
    scene.measure();
    scene.lab.kill(Place::San1);
    clock::pass(Duration::from_millis(150));
    scene.lab.start(Place::San1);
    scene.goes_on();
    scene.pause_at_most(TAKEOVER_MS);
    let primary = scene.lab.settled_primary();
    assert!(
        scene.lab.protected(primary).epoch() > before,
        "an epoch is of one incarnation"
    );
    scene.finish();
}

/// The primary commits that it goes on alone, then goes on.
pub(crate) fn standby_killed(disk: Disk) {
    let mut scene = Scene::start("standby-killed", disk);
    scene.measure();
    scene.lab.kill(Place::San2);
    scene.goes_on();
    scene.pause_at_most(STANDBY_LOST_MS);
    scene.lab.until(Place::San1, "it serves alone", |status| {
        status.in_sync() == ["san1"]
    });
    scene.lab.start(Place::San2);
    scene.lab.protected(Place::San1);
    scene.finish();
}

/// Law D4: another incarnation of the peer gets a resync, never a replay.
pub(crate) fn standby_restarted_within_300_ms(disk: Disk) {
    let mut scene = Scene::start("standby-restarted", disk);
    scene.measure();
    scene.lab.kill(Place::San2);
    clock::pass(Duration::from_millis(150));
    scene.lab.start(Place::San2);
    scene.goes_on();
    scene.pause_at_most(STANDBY_LOST_MS);
    scene.lab.protected(Place::San1);
    scene.finish();
}

/// The two boxes are a majority.
pub(crate) fn witness_killed(disk: Disk) {
    let mut scene = Scene::start("witness-killed", disk);
    let before = scene.lab.protected(Place::San1).epoch();
    scene.measure();
    scene.lab.kill(Place::Witness);
    clock::pass(Duration::from_secs(3));
    scene.goes_on();
    scene.pause_at_most(NO_EFFECT_MS);
    assert_eq!(
        scene.lab.protected(Place::San1).epoch(),
        before,
        "nothing had to be decided"
    );
    scene.lab.start(Place::Witness);
    scene.goes_on();
    scene.finish();
}

/// Law R5b: nobody else can be promoted, so it needs nobody.
pub(crate) fn standby_then_witness_killed(disk: Disk) {
    let mut scene = Scene::start("standby-then-witness", disk);
    scene.lab.kill(Place::San2);
    scene.lab.until(Place::San1, "it serves alone", |status| {
        status.in_sync() == ["san1"]
    });
    scene.goes_on();
    scene.measure();
    scene.lab.kill(Place::Witness);
    clock::pass(Duration::from_secs(3));
    scene.goes_on();
    scene.pause_at_most(NO_EFFECT_MS);
    scene.lab.start(Place::Witness);
    scene.lab.start(Place::San2);
    scene.lab.protected(Place::San1);
    scene.finish();
}

/// Frozen, says so, goes on when the witness returns.
pub(crate) fn witness_then_standby_killed_witness_returns(disk: Disk) {
    let mut scene = frozen("witness-returns", disk);
    scene.lab.start(Place::Witness);
    scene.goes_on();
    scene.lab.start(Place::San2);
    scene.lab.protected(Place::San1);
    scene.finish();
}

/// Frozen, says so, goes on when the standby returns.
pub(crate) fn witness_then_standby_killed_standby_returns(disk: Disk) {
    let mut scene = frozen("standby-returns", disk);
    scene.lab.start(Place::San2);
    scene.goes_on();
    scene.lab.start(Place::Witness);
    scene.lab.protected(Place::San1);
    scene.finish();
}

/// A primary without a majority.
fn frozen(row: &'static str, disk: Disk) -> Scene {
    let mut scene = Scene::start(row, disk);
    scene.lab.kill(Place::Witness);
    clock::pass(Duration::from_secs(2));
    scene.goes_on();
    scene.lab.kill(Place::San2);
    let status = scene.lab.until(Place::San1, "it is frozen", |status| {
        status.mirror() == "frozen"
    });
    scene.stands_still(Duration::from_secs(3));
    let words = status.words();
    assert!(
        words.contains("san2") && words.contains("witness"),
        "{words}"
    );
    assert!(
        !status.why().is_empty() && !status.next().is_empty(),
        "{words}"
    );
    scene
}

/// A dead host on the wire: silence on every cable of the primary. It serves nobody from then on
/// and stands by when it is back.
pub(crate) fn primary_isolated(disk: Disk) {
    let mut scene = Scene::start("primary-isolated", disk);
    scene.measure();
    for net in Net::ALL {
        scene.lab.network().cut(Place::San1, net);
    }
    scene.goes_on();
    scene.pause_at_most(SILENT_TAKEOVER_MS);
    scene
        .lab
        .until(Place::San2, "it is primary", Status::is_primary);
    scene
        .lab
        .never(Duration::from_secs(2), Place::San1, "serves", |status| {
            status.is_primary() && status.mirror() != "frozen"
        });
    for net in Net::ALL {
        scene.lab.network().heal(Place::San1, net);
    }
    scene.lab.protected(Place::San2);
    scene.finish();
}

/// Both boxes see the witness, so the primary stays what it is.
pub(crate) fn replication_link_cut(disk: Disk) {
    let mut scene = Scene::start("replication-cut", disk);
    scene.measure();
    scene.lab.network().cut(Place::San1, Net::Replication);
    without_a_role_change(scene);
}

/// The same with half of a link: what the primary sends is lost.
pub(crate) fn replication_link_cut_one_way(disk: Disk) {
    let mut scene = Scene::start("replication-cut-one-way", disk);
    scene.measure();
    scene
        .lab
        .network()
        .lose(Place::San1, Net::Replication, Direction::From);
    without_a_role_change(scene);
}

fn without_a_role_change(mut scene: Scene) {
    scene.goes_on();
    scene.pause_at_most(STANDBY_LOST_MS);
    scene.lab.never(
        Duration::from_secs(3),
        Place::San2,
        "is primary",
        Status::is_primary,
    );
    scene.lab.until(Place::San1, "it serves alone", |status| {
        status.is_primary() && status.in_sync() == ["san1"]
    });
    scene.lab.network().heal(Place::San1, Net::Replication);
    scene.lab.protected(Place::San1);
    scene.finish();
}

/// No error, no lost block, there and back. Initiators are asked to log out, and do.
pub(crate) fn planned_switchover(disk: Disk) {
    let mut scene = Scene::start("switchover", disk);
    for to in [Place::San2, Place::San1] {
        let asked_out = |scene: &mut Scene| scene.load.must("status")["asked_out"].as_u64();
        let before = asked_out(&mut scene);
        scene.measure();
        scene.lab.switch_over(to);
        scene.goes_on();
        scene.pause_at_most(PLANNED_MS);
        assert!(asked_out(&mut scene) > before, "nobody logged out in peace");
        scene.lab.protected(to);
    }
    scene.finish();
}
