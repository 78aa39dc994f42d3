//! A box under attack: strangers and a host that went mad send hostile bytes for a while. An honest
//! host is served on to the end, and nothing grows.
//!
//! `TWINSAN_HOSTILE_SECONDS` says for how long.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use tests::ci::assert_no_injected_failure;
use tests::lab::clock::{self, Stopwatch};
use tests::lab::demo::{Served, Stage};
use tests::lab::{Initiator, memory_kib, open_files, said};

const SECONDS_VARIABLE: &str = "TWINSAN_HOSTILE_SECONDS";
const SECONDS_DEFAULT: u64 = 60;
/// Memory is compared with what it was after this time, or a fifth of a shorter run.
const WARM_SECONDS: u64 = 120;
const GROWTH_MAX_KIB: u64 = 8 * 1024;
/// Memory is looked at so often, this far apart: what comes and goes does not count.
const LOOKS: u64 = 5;
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often the honest host is looked at, and what it must have got done meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const WRITES_MIN: u64 = 100;
/// Until every hostile connection is forgotten: logins that never end take the longest.
const FORGOTTEN_WAIT: Duration = Duration::from_secs(30);
const MAD: &str = "iqn.2026-11.org.example:mad";

#[test]
fn an_honest_host_is_served_under_attack() {
    assert_no_injected_failure("hostile");
    let seconds = std::env::var(SECONDS_VARIABLE).map_or(SECONDS_DEFAULT, |text| {
        text.parse().expect("TWINSAN_HOSTILE_SECONDS is a number")
    });
    let stage = Stage::new();
    let mut served = stage.serve(&["--no-restart"]);
    give_the_mad_a_volume(&stage, &served);
    let primary = pid(&served, "san1");
    let mut honest = honest(&stage, &served);
    honest.progress(WRITES_MIN, LOOK_EVERY);
    let files_before = open_files(primary);
    let before = memory_kib(primary);
    let mut hostile = hostile(&stage, &served, seconds + LOOKS * LOOK_AGAIN.as_secs());
    let watch = Stopwatch::start();
    let mut warm = None;
    while watch.elapsed() < Duration::from_secs(seconds) {
        let left = Duration::from_secs(seconds).saturating_sub(watch.elapsed());
        clock::pass(left.min(LOOK_EVERY));
        honest.progress(WRITES_MIN, LOOK_EVERY);
        if warm.is_none() && watch.elapsed().as_secs() >= WARM_SECONDS.min(seconds / 5) {
            warm = Some(least_kib(primary));
        }
        assert!(served.process().is_running(), "the demo goes on");
    }
    let (warm, end) = (warm.expect("looked at once"), least_kib(primary));
    let did = hostile.answer(Duration::from_secs(20)).expect("it ends");
    // Not a print macro: the line shall be seen although the test passes.
    writeln!(
        std::io::stdout(),
        "hostile {seconds} s, {before}, {warm}, {end} KiB: {did}"
    )
    .expect("stdout");
    assert_eq!(did["ok"], true, "{did}");
    assert_eq!(did["unreachable"], 0, "{did}");
    assert!(end <= warm + GROWTH_MAX_KIB, "{warm} KiB became {end} KiB");
    let forgotten = clock::until(FORGOTTEN_WAIT, || {
        (open_files(primary) == files_before).then_some(())
    });
    let files = open_files(primary);
    assert!(
        forgotten.is_some(),
        "{files_before} files were open, now {files}"
    );
    for command in ["stop", "verify", "flush"] {
        honest.must(command);
    }
}

/// The least of some looks.
fn least_kib(process: u32) -> u64 {
    let looks = (0..LOOKS).map(|_| {
        clock::pass(LOOK_AGAIN);
        memory_kib(process)
    });
    looks.min().expect("more than one look")
}

fn pid(served: &Served, node: &str) -> u32 {
    let pid = served.ready["nodes"][node]["pid"].as_u64();
    pid.and_then(|pid| u32::try_from(pid).ok())
        .expect("the ready line has it")
}

fn target(served: &Served) -> &str {
    served.ready["target"]
        .as_str()
        .expect("the ready line has it")
}

/// It may log in and do what it likes to a volume of its own.
fn give_the_mad_a_volume(stage: &Stage, served: &Served) {
    let socket = served.ready["nodes"]["san1"]["api"].as_str();
    let socket = socket.expect("the ready line has it");
    for words in [
        &["volume", "create", "padded", "16MiB"][..],
        &["host", "add", "mad", "--iqn", MAD],
        &["lun", "map", "mad", "0", "padded"],
    ] {
        let all: Vec<&str> = ["--api", socket].iter().chain(words).copied().collect();
        let told = said(&mut stage.twinsan(&all));
        assert_eq!(told.code, Some(0), "{words:?}: {}", told.err);
    }
}

/// A verified load on both portals.
fn honest(stage: &Stage, served: &Served) -> Initiator {
    let mut command = stage.plain(Path::new(env!("CARGO_BIN_EXE_load")));
    command.args(["write", "--target", target(served)]);
    command.args(["--initiator", "iqn.2026-11.org.example:honest"]);
    for portal in ["127.0.0.10:3260", "127.0.0.20:3260"] {
        command.args(["--portal", portal]);
    }
    // At leisure: other tests need the machine too.
    command.args(["--blocks", "4096", "--writers", "4", "--pause-ms", "20"]);
    Initiator::start(command, "honest", &stage.home().join("honest.log"))
}

fn hostile(stage: &Stage, served: &Served, seconds: u64) -> Initiator {
    let mut command = stage.plain(Path::new(env!("CARGO_BIN_EXE_hostile")));
    command.args(["--target", target(served), "--initiator", MAD]);
    command.args(["--portal", "127.0.0.10:3260"]);
    command.args(["--seconds", &seconds.to_string()]);
    Initiator::start(command, "hostile", &stage.home().join("hostile.log"))
}
