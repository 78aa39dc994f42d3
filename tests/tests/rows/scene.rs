//! A pair with a verified load and a pause meter.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use tests::lab::{
    Disk, ISCSI_PORT, Initiator, LOAD_NAME, Lab, METER_NAME, Net, OTHER_NAME, Place, STATE_WAIT,
};

/// Blocks of 4 KiB that the load uses, then those of the meter; the rest is for single commands.
const LOAD_BLOCKS: u64 = 8192;
const METER_BLOCKS: u64 = 2048;
/// A block that neither load nor meter uses.
pub(crate) const FREE_BLOCK: u64 = 12_000;
/// Acknowledged writes that show that I/O goes on.
const LOAD_WRITES: u64 = 300;
const METER_WRITES: u64 = 100;
/// Within this everything has to go on; the pauses themselves are measured.
const GOES_ON_WAIT: Duration = Duration::from_secs(40);

pub(crate) struct Scene {
    // Initiators end before the lab they are in.
    pub(crate) load: Initiator,
    pub(crate) meter: Initiator,
    pub(crate) lab: Lab,
    row: &'static str,
}

impl Scene {
    /// A protected pair with `san1` as primary, load and meter running.
    pub(crate) fn start(row: &'static str, disk: Disk) -> Self {
        Self::of(row, Lab::with_pair(disk))
    }

    pub(crate) fn of(row: &'static str, mut lab: Lab) -> Self {
        let load = writer(&mut lab, LOAD_NAME, 0, LOAD_BLOCKS, 16);
        let meter = writer(&mut lab, METER_NAME, LOAD_BLOCKS, METER_BLOCKS, 4);
        let mut scene = Self {
            load,
            meter,
            lab,
            row,
        };
        scene.goes_on();
        scene
    }

    /// Starts measuring the pause.
    pub(crate) fn measure(&mut self) {
        self.meter.measure();
    }

    /// Waits until load and meter have made progress.
    pub(crate) fn goes_on(&mut self) {
        self.meter.progress(METER_WRITES, GOES_ON_WAIT);
        self.load.progress(LOAD_WRITES, GOES_ON_WAIT);
    }

    /// Prints the longest pause since [`Scene::measure`] and checks it.
    pub(crate) fn pause_at_most(&mut self, limit_ms: u64) {
        let pause_ms = self.meter.gap_ms();
        let disk = self.lab.disk().name();
        // Not a print macro: the line shall be seen although the test passes.
        writeln!(std::io::stdout(), "pause {} {disk} {pause_ms}", self.row).expect("stdout");
        assert!(
            pause_ms <= limit_ms,
            "{}: {pause_ms} ms, at most {limit_ms}",
            self.row
        );
    }

    /// Asserts that nothing is acknowledged for a while.
    pub(crate) fn stands_still(&mut self, time: Duration) {
        let before = self.load.acknowledged() + self.meter.acknowledged();
        tests::lab::clock::pass(time);
        let after = self.load.acknowledged() + self.meter.acknowledged();
        assert_eq!(before, after, "writes were acknowledged");
    }

    /// The end.
    pub(crate) fn finish(mut self) {
        self.rest();
    }

    /// Stops the load, reads back every block, and compares both data areas.
    pub(crate) fn rest(&mut self) {
        let primary = self.lab.settled_primary();
        self.lab.protected(primary);
        for initiator in [&mut self.load, &mut self.meter] {
            initiator.must("stop");
            initiator.must("verify");
            flush(initiator, self.lab.disk());
        }
        assert_eq!(
            self.lab.first_difference(),
            None,
            "the data areas differ in this block"
        );
    }
}

/// Flushes. On a volatile disk a box that was rebooted may say that it lost its cache (law D5)
/// although nothing was lost: once on each path, because what the first one said may not have
/// been acknowledged when the other one is asked.
pub(crate) fn flush(initiator: &mut Initiator, disk: Disk) {
    for _ in Net::FABRICS {
        let answer = initiator.ask("flush");
        if answer["ok"] == true {
            return;
        }
        let error = answer["error"].as_str().unwrap_or_default();
        let may = disk != Disk::Files && error.contains("04/44/00");
        assert!(may, "flush: {error}");
    }
    initiator.must("flush");
}

fn load_program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_load"))
}

fn writer(lab: &mut Lab, name: &str, first_block: u64, blocks: u64, writers: u32) -> Initiator {
    let target = lab.protected(Place::San1).target().to_owned();
    let log = lab.folder(Place::Initiator).with_extension("log");
    let mut command = lab.network().command(Place::Initiator, load_program());
    command
        .arg("write")
        .args(["--target", &target, "--initiator", name]);
    for net in Net::FABRICS {
        command.args(["--portal", &portal(net)]);
    }
    for (option, value) in [
        ("--first-block", first_block),
        ("--blocks", blocks),
        ("--writers", u64::from(writers)),
        ("--seed", u64::from(std::process::id())),
    ] {
        command.arg(option).arg(value.to_string());
    }
    Initiator::start(command, name, &log)
}

/// One session of `initiator` on `place` to the service address of `net`; it has taken the unit
/// attention that a new session gets.
pub(crate) fn hold(lab: &mut Lab, place: Place, net: Net, initiator: &str) -> Initiator {
    let primary = lab.primary();
    let serves = lab.until(primary, "it serves", |status| status.addresses_here() == 2);
    let target = serves.target().to_owned();
    let log = lab.folder(place).with_extension("log");
    let mut command = lab.network().command(place, load_program());
    command
        .arg("hold")
        .args(["--target", &target, "--initiator", initiator]);
    command.args(["--portal", &portal(net)]);
    let mut held = Initiator::start(command, initiator, &log);
    let login = held.answer(STATE_WAIT).expect("a login ends");
    assert_eq!(login["ok"], true, "{initiator} cannot log in: {login}");
    let first = held.ask(&format!("read {FREE_BLOCK}"));
    if first["ok"] != true {
        assert!(
            first["sense"]
                .as_str()
                .is_some_and(|s| s.starts_with("06/")),
            "{first}"
        );
        held.must(&format!("read {FREE_BLOCK}"));
    }
    held
}

/// The second host's session.
pub(crate) fn hold_other(lab: &mut Lab, net: Net) -> Initiator {
    hold(lab, Place::Observer, net, OTHER_NAME)
}

fn portal(net: Net) -> String {
    format!("{}:{ISCSI_PORT}", net.service_address())
}
