//! What cluster software does on one LUN that several hosts share, while the primary is killed
//! again and again.
//!
//! Needs root, `ip` and `nft`. Identifiers such as X50 are rows of the administrators' checklist.

mod lock;
mod reservations;

use std::path::Path;

use tests::lab::{
    Disk, ISCSI_PORT, Initiator, LOAD_NAME, Lab, METER_NAME, Net, OTHER_NAME, Place, VOLUME,
};

/// The fourth initiator, besides those that the lab knows.
const FOURTH_NAME: &str = "iqn.2026-11.org.example:fourth";

/// Four initiators on two machines.
const INITIATORS: [(Place, &str); 4] = [
    (Place::Initiator, LOAD_NAME),
    (Place::Initiator, METER_NAME),
    (Place::Observer, OTHER_NAME),
    (Place::Observer, FOURTH_NAME),
];

/// A protected pair whose LUN 0 all of them see.
fn pair() -> Lab {
    let lab = Lab::with_pair(Disk::Files);
    lab.must(Place::San1, &["host", "add", "h3", "--iqn", FOURTH_NAME]);
    lab.must(Place::San1, &["lun", "map", "h3", "0", VOLUME]);
    lab
}

/// One of them as a process; `kind` and `more` are arguments of the `load` program.
fn initiator(lab: &mut Lab, kind: &str, number: usize, nets: &[Net], more: &[&str]) -> Initiator {
    let (place, name) = INITIATORS[number];
    let target = lab.protected(Place::San1).target().to_owned();
    let log = lab.folder(place).with_extension("log");
    let program = Path::new(env!("CARGO_BIN_EXE_load"));
    let mut command = lab.network().command(place, program);
    command
        .arg(kind)
        .args(["--target", &target, "--initiator", name])
        .args(["--seed", &number.to_string()])
        .args(more);
    for net in nets {
        let portal = format!("{}:{ISCSI_PORT}", net.service_address());
        command.args(["--portal", &portal]);
    }
    Initiator::start(command, name, &log)
}
