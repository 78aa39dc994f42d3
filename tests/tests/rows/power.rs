//! Rows in which both boxes go down.

use std::time::Duration;

use tests::lab::{Disk, Place, Status, clock};

use super::scene::{Scene, flush};

/// Both boxes lose power at once; the primary is started first.
pub(crate) fn both_killed_primary_starts_first(disk: Disk) {
    both_killed(
        "both-killed-primary-first",
        disk,
        [Place::San1, Place::San2],
    );
}

/// Both boxes lose power at once; the standby is started first.
pub(crate) fn both_killed_standby_starts_first(disk: Disk) {
    both_killed(
        "both-killed-standby-first",
        disk,
        [Place::San2, Place::San1],
    );
}

/// On files all that was acknowledged is there again; on volatile disks all that had been flushed,
/// and each initiator's next flush fails (law D5).
fn both_killed(row: &'static str, disk: Disk, order: [Place; 2]) {
    let mut scene = Scene::start(row, disk);
    for initiator in [&mut scene.load, &mut scene.meter] {
        initiator.must("flush");
    }
    scene.goes_on();
    scene.measure();
    scene.lab.kill(Place::San1);
    scene.lab.kill(Place::San2);
    for initiator in [&mut scene.load, &mut scene.meter] {
        // What was under way is retried; nothing new begins before the blocks were looked at.
        initiator.tell("stop");
    }
    clock::pass(Duration::from_secs(1));
    scene.lab.start(order[0]);
    clock::pass(Duration::from_secs(2));
    scene.lab.start(order[1]);
    let primary = scene.lab.settled_primary();
    let verify = if disk == Disk::Files {
        "verify"
    } else {
        "verify-flushed"
    };
    for initiator in [&mut scene.load, &mut scene.meter] {
        let stopped = initiator
            .answer(Duration::from_secs(70))
            .expect("writes end");
        assert_eq!(stopped["ok"], true, "{stopped}");
        initiator.must(verify);
        let flushed = initiator.ask("flush");
        if disk == Disk::Files {
            assert_eq!(flushed["ok"], true, "{flushed}");
        } else {
            let error = flushed["error"].as_str().unwrap_or_default();
            assert!(
                error.contains("04/44/00"),
                "law D5: the next flush says so, not {flushed}"
            );
            flush(initiator, disk);
        }
        initiator.must("resume");
    }
    scene.lab.protected(primary);
    scene.goes_on();
    scene.finish();
}

/// A box that lacks acknowledged writes refuses to serve, with the witness and without it, and
/// says which box has them.
pub(crate) fn stale_box_alone_refuses(disk: Disk) {
    let mut scene = Scene::start("stale-alone", disk);
    scene.lab.kill(Place::San2);
    scene.lab.until(Place::San1, "it serves alone", |status| {
        status.in_sync() == ["san1"]
    });
    scene.goes_on();
    scene.lab.kill(Place::San1);
    scene.lab.start(Place::San2);
    refuses(&mut scene, "san1 has newer data");
    scene.lab.kill(Place::Witness);
    refuses(&mut scene, "san1 has newer data");
    // Started without anybody who could tell it, it knows that it cannot know.
    scene.lab.kill(Place::San2);
    scene.lab.start(Place::San2);
    refuses(&mut scene, "start the other box or the witness");
    scene.lab.start(Place::Witness);
    scene.lab.start(Place::San1);
    scene
        .lab
        .until(Place::San1, "it is primary", Status::is_primary);
    let disk = scene.lab.disk();
    flush(&mut scene.load, disk);
    scene.goes_on();
    scene.lab.protected(Place::San1);
    scene.finish();
}

/// Says what it waits for, and does nothing.
fn refuses(scene: &mut Scene, words: &str) {
    scene
        .lab
        .until(Place::San2, &format!("it says: {words}"), |status| {
            assert!(!status.is_primary(), "{}", status.0);
            status.words().contains(words)
        });
    scene.lab.never(
        Duration::from_secs(5),
        Place::San2,
        "is primary",
        Status::is_primary,
    );
    scene.stands_still(Duration::from_secs(1));
}
