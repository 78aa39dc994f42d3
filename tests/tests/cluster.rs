//! The fault table on plain files, and what a pair must be like while nothing is wrong.
//!
//! Needs root, `ip` and `nft`. The ids in front of names of tests (`x77`, `z08`, `o03`) number what
//! administrators of hypervisors (Xen, VM orchestrators, others) expect of shared storage; the
//! comment above a test says what that is.

#[macro_use]
mod rows;

use std::time::Duration;

use rows::scene::{FREE_BLOCK, Scene, hold, hold_other};
use tests::ci::assert_no_injected_failure;
use tests::lab::clock::{self, Stopwatch};
use tests::lab::{
    Disk, ISCSI_PORT, Initiator, LOAD_NAME, Lab, Net, Place, STATE_WAIT, Status, VOLUME,
};

fault_table!(Disk::Files);

const BOXES: [Place; 2] = [Place::San1, Place::San2];

#[test]
fn injected_failure() {
    assert_no_injected_failure("cluster");
}

/// X01: block storage that every node of a cluster reaches, over both fabrics.
#[test]
fn x01_several_initiators_reach_one_lun() {
    let mut lab = Lab::with_pair(Disk::Files);
    let mut one = hold(&mut lab, Place::Initiator, Net::Fabric1, LOAD_NAME);
    let mut other = hold_other(&mut lab, Net::Fabric2);
    writes_and_reads(&mut one, &mut other, 1);
    writes_and_reads(&mut other, &mut one, 2);
}

/// Z36: a host is lost; another host finds all that it had written and goes on from there.
#[test]
fn z36_another_host_goes_on_with_the_lun() {
    let mut lab = Lab::with_pair(Disk::Files);
    let mut lost = hold(&mut lab, Place::Initiator, Net::Fabric1, LOAD_NAME);
    lost.must(&format!("write {FREE_BLOCK} 1"));
    for net in Net::FABRICS {
        lab.network().cut(Place::Initiator, net);
    }
    let mut other = hold_other(&mut lab, Net::Fabric1);
    assert_eq!(other.must(&format!("read {FREE_BLOCK}"))["version"], 1);
    other.must(&format!("write {FREE_BLOCK} 2"));
    drop(lost);
}

fn writes_and_reads(writer: &mut Initiator, reader: &mut Initiator, version: u64) {
    writer.must(&format!("write {FREE_BLOCK} {version}"));
    assert_eq!(
        reader.must(&format!("read {FREE_BLOCK}"))["version"],
        version
    );
}

/// X77: an acknowledged write is on both boxes, at all times: nothing was flushed here.
#[test]
fn x77_every_acknowledged_write_is_on_both_boxes() {
    let mut scene = Scene::start("protocol-c", Disk::Files);
    for _ in 0..3 {
        scene.goes_on();
        scene.load.must("stop");
        scene.meter.must("stop");
        assert_eq!(
            scene.lab.first_difference(),
            None,
            "the data areas differ in this block"
        );
        scene.load.must("resume");
        scene.meter.must("resume");
    }
    scene.finish();
}

/// X70, Z07, Z08, X87: one access point; addresses move with the role, as one group, in order:
/// no address ever has two targets, and in the end each is on one box, with a target.
#[test]
fn x70_z07_z08_x87_addresses_move_with_the_role_in_order() {
    let mut lab = Lab::with_pair(Disk::Files);
    for (from, to) in [(Place::San1, Place::San2), (Place::San2, Place::San1)] {
        assert_eq!(held(&mut lab, from), [true, true], "{} serves", from.name());
        assert_eq!(
            held(&mut lab, to),
            [false, false],
            "{} stands by",
            to.name()
        );
        lab.switch_over(to);
        let watch = Stopwatch::start();
        while held(&mut lab, to) != [true, true] {
            assert!(
                watch.elapsed() < STATE_WAIT,
                "the addresses never came to {}",
                to.name()
            );
            one_owner(&mut lab);
        }
        let left = clock::until(Duration::from_secs(1), || {
            (held(&mut lab, from) == [false, false]).then_some(())
        });
        assert!(left.is_some(), "{} kept an address", from.name());
        lab.protected(to);
        lab.until(to, "its status says so too", |status| {
            status.addresses_here() == 2
        });
        for net in Net::FABRICS {
            let ip = net.service_address();
            assert!(
                lab.network().listens(to, &ip, ISCSI_PORT),
                "{ip} without a target"
            );
            assert!(
                !lab.network().listens(from, &ip, ISCSI_PORT),
                "{ip} has two targets"
            );
        }
    }
}

/// Z08: an address that this box cannot serve keeps no other down, is told, and is served as soon
/// as it can be.
#[test]
fn z08_a_box_without_one_fabric_serves_on_the_other() {
    let mut scene = Scene::start("fabric-missing", Disk::Files);
    let net = Net::FABRICS[1];
    let own = format!("{}/24", net.address(Place::San2));
    let at = |verb| ["address", verb, own.as_str(), "dev", net.interface()];
    scene.lab.network().ip(Place::San2, &at("del"));
    scene.measure();
    scene.lab.kill(Place::San1);
    scene.goes_on();
    scene.pause_at_most(3000);
    let served = |status: &Status| status.addresses_here();
    let san2 = Place::San2;
    scene
        .lab
        .until(san2, "it serves on one fabric", |s| served(s) == 1);
    scene.lab.network().ip(san2, &at("add"));
    scene
        .lab
        .until(san2, "it serves on both", |s| served(s) == 2);
    scene.lab.start(Place::San1);
    scene.lab.protected(san2);
    scene.finish();
}

fn held(lab: &mut Lab, place: Place) -> [bool; 2] {
    Net::FABRICS.map(|net| lab.network().has_service_address(place, net))
}

/// No address has a target on both boxes: looked at three times, so that two looks at one target
/// that moves are not taken for two targets.
fn one_owner(lab: &mut Lab) {
    for net in Net::FABRICS {
        let ip = net.service_address();
        for [first, second] in [BOXES, [Place::San2, Place::San1]] {
            let network = lab.network();
            let twice = network.listens(first, &ip, ISCSI_PORT)
                && network.listens(second, &ip, ISCSI_PORT)
                && network.listens(first, &ip, ISCSI_PORT);
            assert!(!twice, "{ip} has two targets");
        }
    }
}

/// O03: only one box is operational, also while the role moves by force.
#[test]
fn o03_only_one_box_is_operational_at_any_time() {
    let mut scene = Scene::start("one-operational", Disk::Files);
    scene.lab.kill(Place::San1);
    let watch = Stopwatch::start();
    clock::pass(Duration::from_millis(100));
    scene.lab.start(Place::San1);
    while watch.elapsed() < Duration::from_secs(8) {
        let serves = |place| {
            scene
                .lab
                .status(place)
                .filter(serves)
                .map(|status| status.epoch())
        };
        let first = serves(Place::San1);
        let second = serves(Place::San2);
        let again = serves(Place::San1);
        let both = first.is_some() && second.is_some() && first == again;
        assert!(!both, "both serve: epochs {first:?} and {second:?}");
    }
    scene.goes_on();
    scene.finish();
}

fn serves(status: &Status) -> bool {
    status.is_primary() && status.mirror() != "frozen"
}

/// I01: the standby's process runs and has the volumes; a move starts no process and loads
/// nothing.
#[test]
fn i01_the_standby_is_loaded_and_only_the_role_moves() {
    let mut lab = Lab::with_pair(Disk::Files);
    let uuid = lab
        .protected(Place::San1)
        .uuid(VOLUME)
        .expect("the primary knows names");
    let standby = lab.until(Place::San2, "it stands by", |status| {
        status.role() == "standby"
    });
    assert!(
        standby.data_area(&uuid).is_some(),
        "the standby lacks the volume: {}",
        standby.0
    );
    let pids = BOXES.map(|place| lab.process(place).pid());
    lab.switch_over(Place::San2);
    lab.protected(Place::San2);
    assert_eq!(BOXES.map(|place| lab.process(place).pid()), pids);
    assert!(
        BOXES
            .into_iter()
            .all(|place| lab.process(place).is_running())
    );
    let mut held = hold_other(&mut lab, Net::Fabric1);
    held.must(&format!("write {FREE_BLOCK} 1"));
}

/// X90: nothing serves because a box was started; the manager has to say so.
#[test]
fn x90_a_started_box_serves_nothing_by_itself() {
    let mut lab = Lab::with_pair(Disk::Files);
    for place in [Place::San1, Place::San2, Place::Witness] {
        lab.terminate(place);
    }
    lab.start(Place::San1);
    lab.until(Place::San1, "it answers", |status| {
        !status.role().is_empty()
    });
    let watch = Stopwatch::start();
    while watch.elapsed() < Duration::from_secs(5) {
        assert_eq!(
            held(&mut lab, Place::San1),
            [false, false],
            "an address without a decision"
        );
        for net in Net::FABRICS {
            let ip = net.service_address();
            assert!(
                !lab.network().listens(Place::San1, &ip, ISCSI_PORT),
                "{ip} is listened on"
            );
        }
        let status = lab.status(Place::San1).expect("it answers");
        assert!(!status.is_primary(), "{}", status.0);
        clock::pass(Duration::from_millis(100));
    }
    lab.start(Place::Witness);
    lab.until(Place::San1, "it serves", |status| {
        status.addresses_here() == 2
    });
}

/// X96: the mirror connects by itself, as secondary; only the role is decided.
#[test]
fn x96_the_mirror_connects_at_boot_as_secondary() {
    let mut lab = Lab::with_pair(Disk::Files);
    assert_eq!(
        lab.terminate(Place::San2),
        Some(0),
        "SIGTERM is an orderly end"
    );
    lab.until(Place::San1, "it serves alone", |status| {
        status.in_sync() == ["san1"]
    });
    lab.start(Place::San2);
    lab.until(Place::San2, "its mirror is connected", |status| {
        assert!(!status.is_primary(), "{}", status.0);
        status.is_connected() && status.role() == "standby"
    });
    lab.protected(Place::San1);
}

/// The evidence itself: a primary that acknowledges what its peer never got is found out.
#[test]
fn a_dropped_acknowledgement_is_noticed() {
    let mut scene = Scene::of("sabotaged", Lab::sabotaged("drop-ack"));
    scene.lab.kill(Place::San1);
    scene
        .lab
        .until(Place::San2, "it is primary", Status::is_primary);
    let seen = clock::until(STATE_WAIT, || {
        let failure = scene.load.must("status")["failure"]
            .as_str()
            .map(str::to_owned);
        failure.filter(|failure| failure.contains("was lost"))
    });
    assert!(seen.is_some(), "nothing was noticed");
}

/// Law R10: a witness that was put back to an older state has no vote, so that a majority of old
/// and new promises cannot be told twice.
#[test]
fn a_witness_restored_from_a_copy_does_not_vote() {
    let mut lab = Lab::with_pair(Disk::Files);
    let state = lab.folder(Place::Witness).join("state");
    let copy = lab.folder(Place::Witness).join("copy");
    copy_folder(&state, &copy);
    lab.kill(Place::San2);
    lab.until(Place::San1, "it serves alone", |status| {
        status.in_sync() == ["san1"]
    });
    let mut held = hold_other(&mut lab, Net::Fabric1);
    held.must(&format!("write {FREE_BLOCK} 1"));
    lab.kill(Place::Witness);
    lab.kill(Place::San1);
    std::fs::remove_dir_all(&state).expect("the state of a dead witness");
    copy_folder(&copy, &state);
    lab.start(Place::Witness);
    lab.start(Place::San2);
    drop(held);
    // The copy still says that san2 has everything.
    lab.never(
        Duration::from_secs(8),
        Place::San2,
        "is primary",
        Status::is_primary,
    );
    lab.start(Place::San1);
    lab.protected(Place::San1);
    let mut held = hold_other(&mut lab, Net::Fabric1);
    assert_eq!(held.must(&format!("read {FREE_BLOCK}"))["version"], 1);
    held.must("flush");
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).expect("a new folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a file can be copied");
    }
}

/// R9: an operator forces the box that is left after he typed what that costs. What the other one
/// wrote alone is kept, served to nobody and never merged, until he gives it up.
#[test]
fn r9_a_forced_start_serves_and_two_written_copies_stay_apart() {
    let mut lab = Lab::with_pair(Disk::Files);
    let mut host = hold(&mut lab, Place::Initiator, Net::Fabric1, LOAD_NAME);
    host.must(&format!("write {FREE_BLOCK} 1"));
    lab.kill(Place::San2);
    lab.until(Place::San1, "it goes on alone", |status| {
        status.is_primary() && status.in_sync() == ["san1"]
    });
    let uuid = lab
        .status(Place::San1)
        .and_then(|status| status.uuid(VOLUME));
    let uuid = uuid.expect("the primary knows names");
    let old = lab.block(Place::San1, &uuid, FREE_BLOCK);
    host.must(&format!("write {FREE_BLOCK} 2"));
    let newer = lab.block(Place::San1, &uuid, FREE_BLOCK);
    assert_ne!(newer, old);
    drop(host);
    lab.kill(Place::San1);
    lab.kill(Place::Witness);
    lab.start(Place::San2);
    lab.until(Place::San2, "it stands by", |status| !status.is_primary());

    let unconfirmed = lab.cli(Place::San2, &["force-primary"]);
    assert_eq!(unconfirmed.code, Some(3), "{}", unconfirmed.err);
    let cost = "lose what only san1 has";
    assert!(unconfirmed.err.contains(cost), "{}", unconfirmed.err);
    let wrong = lab.cli(Place::San2, &["force-primary", "--confirm", "yes"]);
    assert_eq!(wrong.code, Some(3), "{}", wrong.err);
    lab.never(
        Duration::from_secs(2),
        Place::San2,
        "was forced",
        Status::is_primary,
    );
    let done = lab.must(Place::San2, &["force-primary", "--confirm", cost]);
    assert!(done.contains("keep san1, witness off"), "{done}");

    let mut host = hold(&mut lab, Place::Initiator, Net::Fabric1, LOAD_NAME);
    let read = host.must(&format!("read {FREE_BLOCK}"));
    assert_eq!(read["version"], 1, "the older data");
    host.must(&format!("write {FREE_BLOCK} 3"));
    lab.start(Place::Witness);
    lab.start(Place::San1);
    let parted = "each without the other";
    let told = lab.until(Place::San2, "it says that the two parted", |status| {
        status.why().contains(parted)
    });
    assert!(told.next().contains("pair leave"), "{}", told.next());
    lab.until(Place::San1, "it says what happened", |status| {
        status.why().contains("was started by force")
    });
    let joined = |status: &Status| status.in_sync().len() > 1 || !status.is_primary();
    lab.never(Duration::from_secs(5), Place::San2, "joined them", joined);
    assert_eq!(
        lab.block(Place::San1, &uuid, FREE_BLOCK),
        newer,
        "what only san1 has"
    );

    // As the status says: the old copy is given up.
    assert_eq!(lab.terminate(Place::San1), Some(0));
    lab.must(Place::San1, &["pair", "leave", "--yes"]);
    let removed = clock::until(STATE_WAIT, || {
        let said = lab.cli(Place::San2, &["voter", "remove", "san1", "--yes"]);
        (said.code == Some(0)).then_some(()) // refused while san1 was heard a moment ago
    });
    assert!(removed.is_some(), "san1 stays a voter");
    lab.join(Place::San2, Place::San1, &["pair", "join", "--yes"]);
    lab.start(Place::San1);
    lab.protected(Place::San2);
    assert_eq!(host.must(&format!("read {FREE_BLOCK}"))["version"], 3);
    drop(host);
    assert_eq!(lab.first_difference(), None, "both have the new array");
}
