//! The row of the primary that hangs and comes back.

use std::time::Duration;

use tests::lab::clock::{self, Stopwatch};
use tests::lab::{Disk, ISCSI_PORT, Initiator, Net, Place, STATE_WAIT, Status};

use super::scene::{FREE_BLOCK, Scene, hold_other};

/// How long the primary does nothing.
const STOPPED: Duration = Duration::from_secs(10);
/// A version that the load never reaches.
const STALE_VERSION: u64 = 1_000_000_007;
/// A block of the load.
const LOADED_BLOCK: u64 = 7;

/// SIGSTOP and SIGCONT. A host whose packets still reach the stopped box has a read and a write
/// waiting in its socket when it wakes up: neither may be answered with success.
pub(crate) fn primary_stopped_for_10_s(disk: Disk) {
    let mut scene = Scene::start("primary-stopped", disk);
    pin(&mut scene);
    let mut held = hold_other(&mut scene.lab, Net::Fabric1);
    scene.measure();
    let stopped = Stopwatch::start();
    scene.lab.stop(Place::San1);
    keep_reachable(&mut scene);
    scene
        .lab
        .until(Place::San2, "it is primary", Status::is_primary);
    scene.goes_on();
    scene.pause_at_most(u64::try_from(STOPPED.as_millis()).expect("10 s"));
    let network = scene.lab.network();
    let gone = clock::until(Duration::from_secs(3), || {
        (!network.has_service_address(Place::San1, Net::Fabric2)).then_some(())
    });
    assert!(
        gone.is_some(),
        "law T5: the kernel of a box that hangs lets go of the address by itself"
    );
    held.tell(&format!("read {LOADED_BLOCK}"));
    held.tell(&format!("write {FREE_BLOCK} {STALE_VERSION}"));
    clock::pass(STOPPED.saturating_sub(stopped.elapsed()));
    scene.lab.cont(Place::San1);
    never_succeeds(&mut held);
    scene.lab.protected(Place::San2);
    scene.goes_on();
    drop(held);
    let mut fresh = super::scene::hold(
        &mut scene.lab,
        Place::Observer,
        Net::Fabric2,
        tests::lab::OTHER_NAME,
    );
    let found = fresh.must(&format!("read {FREE_BLOCK}"));
    assert_ne!(
        found["version"], STALE_VERSION,
        "a write of the stopped box was carried out"
    );
    drop(fresh);
    scene.finish();
}

/// The observer will go on to send to the first box, whatever is announced.
fn pin(scene: &mut Scene) {
    let network = scene.lab.network();
    let shown = network.ip(
        Place::San1,
        &["-o", "link", "show", "dev", Net::Fabric1.interface()],
    );
    let mac = shown
        .split_whitespace()
        .skip_while(|word| *word != "link/ether")
        .nth(1)
        .unwrap_or_else(|| panic!("no MAC in {shown}"));
    let (ip, device) = (Net::Fabric1.service_address(), Net::Fabric1.interface());
    let neighbour = [
        "neigh",
        "replace",
        &ip,
        "lladdr",
        mac,
        "dev",
        device,
        "nud",
        "permanent",
    ];
    network.ip(Place::Observer, &neighbour);
}

/// The stopped box's kernel keeps the address for good, as if its lifetime were broken; only the
/// pinned observer still finds it.
fn keep_reachable(scene: &mut Scene) {
    let (ip, device) = (Net::Fabric1.service_address(), Net::Fabric1.interface());
    let network = scene.lab.network();
    network.hide_arp(Place::San1, Net::Fabric1, &ip);
    let cidr = format!("{ip}/24");
    let for_ever = ["valid_lft", "forever", "preferred_lft", "forever"];
    let words: Vec<&str> = ["addr", "replace", &cidr, "dev", device]
        .into_iter()
        .chain(for_ever)
        .collect();
    network.ip(Place::San1, &words);
    assert!(
        network.has_service_address(Place::San1, Net::Fabric1),
        "this test needs the address"
    );
    assert!(
        network.listens(Place::San1, &ip, ISCSI_PORT),
        "the stopped box listens on"
    );
}

/// Both commands of the held session end without success, or never.
fn never_succeeds(held: &mut Initiator) {
    let watch = Stopwatch::start();
    while watch.elapsed() < Duration::from_secs(5) {
        let Some(answer) = held.answer(Duration::from_millis(200)) else {
            continue;
        };
        assert_ne!(answer["ok"], true, "the stopped box answered: {answer}");
    }
    assert!(watch.elapsed() < STATE_WAIT, "this test hangs");
}
