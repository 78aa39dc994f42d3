//! The demo as its first user meets it: without rights, anywhere, more than once.
//!
//! Needs `libiscsi-bin`, `qemu-utils` and `qemu-block-extra`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::ci::assert_no_injected_failure;
use tests::lab::clock::{self, Stopwatch};
use tests::lab::demo::{Served, Stage};
use tests::lab::{Initiator, Said, said};

/// A whole demo ends within this.
const STORY_LIMIT: Duration = Duration::from_secs(60);
const EVENT_LIMIT: Duration = Duration::from_secs(30);

/// Demos measure pauses, so one at a time.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_plain_user_sees_the_whole_story_twice_from_two_folders() {
    let _turn = turn();
    assert_no_injected_failure("program");
    let stage = Stage::new();
    for (folder, arguments) in [("one", &["demo"][..]), ("two", &["demo", "--dir", "files"])] {
        let folder = stage.home().join(folder);
        let made = said(stage.plain(Path::new("mkdir")).arg(&folder));
        assert_eq!(made.code, Some(0), "{}", made.err);
        let watch = Stopwatch::start();
        let told = said(stage.twinsan(arguments).current_dir(&folder));
        let took = watch.elapsed();
        assert_eq!(told.code, Some(0), "{}{}", told.out, told.err);
        assert!(took <= STORY_LIMIT, "it took {took:?}\n{}", told.out);
        for words in [
            "writes in flight",
            "the longest pause was",
            "writes stalled for",
            "read back through iSCSI",
            "identical",
            "no acknowledged block was lost",
        ] {
            assert!(told.out.contains(words), "no `{words}` in\n{}", told.out);
        }
        let at_kill = number_before(&told.out, " writes in flight");
        assert!(
            at_kill >= 8,
            "{at_kill} writes in flight at the kill\n{}",
            told.out
        );
        assert!(
            number_before(&told.out, " writes were acknowledged") > 1000,
            "{}",
            told.out
        );
        let left = stage.remains();
        assert_eq!(left, (vec![], vec![]), "something is left running");
    }
}

/// The number that stands before `words` for the first time.
fn number_before(text: &str, words: &str) -> u64 {
    let (before, _) = text
        .split_once(words)
        .unwrap_or_else(|| panic!("no `{words}` in {text}"));
    let digits = before
        .rsplit(|c: char| !c.is_ascii_digit())
        .next()
        .expect("one part at least");
    digits
        .parse()
        .unwrap_or_else(|error| panic!("{error} before `{words}` in {text}"))
}

#[test]
fn ctrl_c_in_the_middle_leaves_nothing() {
    let _turn = turn();
    let stage = Stage::new();
    let (mut process, lines) = stage.start(&["demo", "--seconds", "20"]);
    let seen = clock::until(EVENT_LIMIT, || {
        lines
            .try_iter()
            .find(|line| line.contains("both are in sync"))
    });
    assert!(seen.is_some(), "the demo never began");
    clock::pass(Duration::from_millis(700));
    // A terminal sends it to every process of the group.
    process.signal(Signal::SIGINT);
    let code = process.wait(Duration::from_secs(10));
    assert_eq!(code, Some(1), "a demo that did not end is no success");
    let empty = clock::until(Duration::from_secs(2), || {
        (stage.remains() == (vec![], vec![])).then_some(())
    });
    assert!(empty.is_some(), "left running: {:?}", stage.remains());
    let served = stage.serve(&[]);
    assert_eq!(served.ready["event"], "ready", "it can be started again");
}

#[test]
fn a_dropped_acknowledgement_is_found_and_named() {
    let _turn = turn();
    let stage = Stage::new();
    let told = said(&mut stage.twinsan(&["demo", "--sabotage", "drop-ack"]));
    assert_eq!(told.code, Some(1), "{}{}", told.out, told.err);
    let named = told.err.lines().any(|line| {
        let mut words = line
            .split_whitespace()
            .skip_while(|word| *word != "block")
            .skip(1);
        words.next().is_some_and(|word| word.parse::<u64>().is_ok())
    });
    assert!(named, "no block is named: {}", told.err);
    let unknown = said(&mut stage.twinsan(&["demo", "--sabotage", "no-such-thing"]));
    assert_eq!(unknown.code, Some(2), "{}", unknown.err);
    assert!(unknown.err.contains("drop-ack"), "{}", unknown.err);
}

/// Who asks where the target is proves what discovery wants, which is not what a host proves.
#[test]
fn discovery_asks_for_a_proof_of_its_own() {
    let _turn = turn();
    let stage = Stage::new();
    let served = stage.serve(&[]);
    let socket = served.ready["nodes"]["san1"]["api"].as_str();
    let socket = socket.expect("the ready line has it");
    let file = stage.home().join("discovery");
    std::fs::write(&file, "correct-horse-battery\n").expect("a new file");
    let file = file.display().to_string();
    let verb = |words: &[&str]| {
        let all: Vec<&str> = ["--api", socket].iter().chain(words).copied().collect();
        must(&mut stage.twinsan(&all))
    };
    let listed = |who: &str| {
        let url = format!("iscsi://{who}127.0.0.10:3260");
        said(stage.command("iscsi-ls").arg(url)).out
    };
    assert!(
        listed("").contains("127.0.0.20:3260"),
        "nobody asks for a proof"
    );
    let chap = [
        "discovery",
        "chap",
        "--chap-user",
        "d",
        "--chap-secret-file",
        &file,
    ];
    verb(&chap);
    assert!(listed("d%correct-horse-battery@").contains("127.0.0.20:3260"));
    for who in ["", "d%wrong-horse-battery@", "e%correct-horse-battery@"] {
        let told = listed(who);
        assert!(!told.contains("127.0.0.20"), "{who}: {told}");
    }
    assert!(
        !verb(&["config", "show"]).contains("correct-horse"),
        "a secret is shown"
    );
    let target = served.ready["target"]
        .as_str()
        .expect("the ready line has it");
    let url = format!("iscsi://127.0.0.10:3260/{target}/0");
    let inquiry = must(stage.command("iscsi-inq").arg(url));
    assert!(
        inquiry.contains("TWINSAN"),
        "a host without secrets logs in: {inquiry}"
    );
    let bare = said(&mut stage.twinsan(&["--api", socket, "discovery", "chap"]));
    assert_eq!(bare.code, Some(2), "{}", bare.err);
    assert!(bare.err.contains("discovery like-login"), "{}", bare.err);
    assert!(!listed("").contains("127.0.0.20"), "it still asks");
    verb(&["discovery", "like-login"]);
    assert!(listed("").contains("127.0.0.20:3260"));
}

#[test]
fn it_serves_other_initiators_and_survives_a_kill() {
    let _turn = turn();
    let stage = Stage::new();
    let mut served = stage.serve(&[]);
    ready_line_is_as_documented(&served.ready);
    let target = served.ready["target"].as_str().expect("checked").to_owned();
    let url = |portal: &str| format!("iscsi://{portal}/{target}/0");
    let listed = must(
        stage
            .command("iscsi-ls")
            .args(["-s", "iscsi://127.0.0.10:3260"]),
    );
    for words in [&target, "127.0.0.10:3260", "127.0.0.20:3260", "Lun:0"] {
        assert!(listed.contains(words), "no `{words}` in {listed}");
    }
    let inquiry = must(stage.command("iscsi-inq").arg(url("127.0.0.20:3260")));
    assert!(inquiry.contains("TWINSAN"), "{inquiry}");
    let bench = [
        "bench", "-c", "2000", "-d", "16", "-s", "4096", "-f", "raw", "-t", "none", "-w",
    ];
    must(
        stage
            .command("qemu-img")
            .args(bench)
            .arg(url("127.0.0.10:3260")),
    );
    qemu_io(&stage, &url("127.0.0.10:3260"), "write -P 0x5a 1M 1M");
    qemu_io(&stage, &url("127.0.0.10:3260"), "flush");
    kill_of_the_primary(&stage, &mut served, &url("127.0.0.20:3260"));
    served.process().signal(Signal::SIGINT);
    assert_eq!(served.process().wait(Duration::from_secs(10)), Some(0));
}

fn kill_of_the_primary(stage: &Stage, served: &mut Served, url: &str) {
    let pid = served.ready["nodes"]["san1"]["pid"]
        .as_i64()
        .expect("checked");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("process ids are small"));
    nix::sys::signal::kill(pid, Signal::SIGKILL).expect("the ready line names a live process");
    loop {
        let role = served.event("role", EVENT_LIMIT);
        if role["node"] == "san2" && role["role"] == "primary" {
            break;
        }
    }
    qemu_io(stage, url, "read -P 0x5a 1M 1M");
    qemu_io(stage, url, "write -P 0xa5 1M 1M");
    served.event("started", EVENT_LIMIT);
    served.event("in-sync", EVENT_LIMIT);
    qemu_io(stage, url, "read -P 0xa5 1M 1M");
}

/// What each verb prints with `--json` is JSON with its version, also when it is refused.
#[test]
fn every_verb_speaks_json() {
    let _turn = turn();
    let stage = Stage::new();
    let served = stage.serve(&["--no-restart"]);
    let node = &served.ready["nodes"]["san1"];
    let text = |key: &str| node[key].as_str().expect("the ready line has it");
    let (api, file) = (text("api"), text("file"));
    let verbs = [
        "status",
        "events",
        "volume create v2 16MiB",
        "volume list",
        "volume show v2",
        "volume show nothing",
        "volume grow v2 32MiB",
        "host add h --iqn iqn.2026-11.org.example:h",
        "host list",
        "group create g",
        "group add g h",
        "group list",
        "lun map g 3 v2 --group",
        "lun list",
        "lun unmap g 3 --group",
        "group remove g h",
        "group delete g",
        "host remove h",
        "volume delete v2 --confirm v1",
        "volume delete v2 --confirm v2",
        "session list",
        "session drop iqn.2026-11.org.example:nobody",
        "address list",
        "address remove 127.0.0.99",
        "discovery like-login",
        "resync rate auto",
        "resync pause",
        "resync resume",
        "config show",
        "config history",
        "config diff /nowhere",
        "config apply /nowhere",
        "config rollback --dry-run",
        "config rollback --to 1.999",
        "config check --config /nowhere",
        "init --config /nowhere",
        "pair leave --config /nowhere --yes",
        "witness leave 00000000-0000-4000-8000-000000000000 --config /nowhere",
        "voter remove witness",
        "voter remove san3 --yes",
        "force-primary",
        "force-primary --confirm yes",
        "switchover",
    ];
    let inspect = format!("volume inspect {file}");
    for verb in verbs.into_iter().chain([inspect.as_str()]) {
        let words = ["--json", "--api", api].into_iter().chain(verb.split(' '));
        let told = said(&mut stage.twinsan(&words.collect::<Vec<_>>()));
        assert!(!told.out.is_empty(), "{verb}: {}", told.err);
        for line in told.out.lines() {
            let document: Value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{verb}: {error}: {line}"));
            assert_eq!(document["schema"], 1, "{verb}: {line}");
            assert_eq!(
                document["error"].is_null(),
                told.code == Some(0),
                "{verb}: {line}"
            );
        }
    }
    let (_watch, lines) = stage.start(&["--json", "--api", "/nowhere", "status", "--watch"]);
    let line = lines.recv_timeout(EVENT_LIMIT).expect("it says why");
    let document: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(document["schema"], 1, "{line}");
    assert!(document["error"]["message"].is_string(), "{line}");
}

/// A voter that does not answer is taken off the list, by name; one that is needed is not.
#[test]
fn an_operator_drops_sessions_and_the_initiator_comes_back() {
    let _turn = turn();
    let stage = Stage::new();
    let served = stage.serve(&[]);
    let name = "iqn.2026-11.org.example:dropped";
    let mut command = stage.plain(Path::new(env!("CARGO_BIN_EXE_load")));
    let target = served.ready["target"].as_str().expect("as documented");
    command.args(["write", "--target", target, "--initiator", name]);
    for portal in ["127.0.0.10:3260", "127.0.0.20:3260"] {
        command.args(["--portal", portal]);
    }
    command.args(["--blocks", "512", "--writers", "4", "--pause-ms", "5"]);
    let mut load = Initiator::start(command, "load", &stage.home().join("load.log"));
    load.progress(100, EVENT_LIMIT);

    let socket = served.ready["nodes"]["san1"]["api"].as_str();
    let socket = socket.expect("as documented");
    let sessions = || -> Vec<Value> {
        let told = must(&mut stage.twinsan(&["--json", "--api", socket, "session", "list"]));
        let told: Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!(told["schema"], 1);
        told["sessions"].as_array().expect("a list").clone()
    };
    let of_load = |found: Vec<Value>| -> Vec<String> {
        let mine = found.into_iter().filter(|it| it["initiator"] == name);
        mine.map(|it| it["address"].to_string()).collect()
    };
    let before = of_load(sessions());
    assert_eq!(before.len(), 2, "one on each portal");

    let loud = name.to_uppercase();
    let told = must(&mut stage.twinsan(&["--api", socket, "session", "drop", &loud]));
    assert!(told.contains("dropped: 2"), "{told}");
    load.progress(100, EVENT_LIMIT);
    let back = clock::until(EVENT_LIMIT, || {
        let after = of_load(sessions());
        (after.len() == 2 && before.iter().all(|old| !after.contains(old))).then_some(())
    });
    assert!(back.is_some(), "it logs in again: {:?}", sessions());
    for command in ["stop", "verify", "flush"] {
        load.must(command);
    }
}

#[test]
fn a_voter_that_is_gone_is_removed() {
    let _turn = turn();
    let stage = Stage::new();
    let served = stage.serve(&["--no-restart"]);
    let api = served.ready["nodes"]["san1"]["api"].as_str();
    let api = api.expect("the ready line names the sockets");
    let remove = |node: &str, more: &[&str]| {
        let words = ["--api", api, "voter", "remove", node].into_iter();
        said(&mut stage.twinsan(&words.chain(more.iter().copied()).collect::<Vec<_>>()))
    };
    for (node, more, code, word) in [
        ("witness", &[][..], 3, "--yes"),
        ("san2", &["--yes"], 3, "san2 holds the data"),
        ("witness", &["--yes"], 1, "witness answers and votes"),
        ("san3", &["--yes"], 2, "san1 and san2"),
    ] {
        let told = remove(node, more);
        assert_eq!(told.code, Some(code), "{node}: {}", told.err);
        assert!(told.err.contains(word), "{node}: {}", told.err);
    }
    let witness = served.ready["witness"]["pid"].as_i64().expect("a process");
    let witness = i32::try_from(witness).expect("process ids are small");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(witness), Signal::SIGKILL).expect("it runs");
    let mut last = String::new();
    let gone = clock::until(EVENT_LIMIT, || {
        let told = remove("witness", &["--yes"]);
        last = told.out + &told.err;
        (told.code == Some(0)).then_some(())
    });
    assert!(gone.is_some(), "{last}");
    assert!(last.contains("witness is no voter any more"), "{last}");
}

/// The first line of `--serve --json`, which other programs rely on.
fn ready_line_is_as_documented(ready: &Value) {
    let keys = |value: &Value| -> BTreeSet<String> {
        let object = value
            .as_object()
            .unwrap_or_else(|| panic!("{value} is no object"));
        object.keys().cloned().collect()
    };
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let all: BTreeSet<String> = set(&[
        "event", "schema", "target", "portals", "luns", "nodes", "witness",
    ]);
    assert_eq!(keys(ready), all, "{ready}");
    assert_eq!(ready["event"], "ready");
    assert_eq!(ready["schema"], 1);
    assert_eq!(ready["target"], "iqn.2026-11.org.twinsan:demo");
    assert_eq!(
        ready["portals"],
        serde_json::json!(["127.0.0.10:3260", "127.0.0.20:3260"])
    );
    let lun = serde_json::json!([{"lun": 0, "volume": "demo0", "bytes": 268_435_456}]);
    assert_eq!(ready["luns"], lun);
    assert_eq!(keys(&ready["nodes"]), set(&["san1", "san2"]), "{ready}");
    for (name, role, address) in [
        ("san1", "primary", "127.0.0.11"),
        ("san2", "standby", "127.0.0.12"),
    ] {
        let node = &ready["nodes"][name];
        let wanted: BTreeSet<String> = set(&[
            "role",
            "pid",
            "address",
            "api",
            "file",
            "data_offset_bytes",
            "data_bytes",
        ]);
        assert_eq!(keys(node), wanted, "{node}");
        assert_eq!(
            (&node["role"], &node["address"]),
            (&role.into(), &address.into())
        );
        let (offset, bytes) = (
            node["data_offset_bytes"].as_u64(),
            node["data_bytes"].as_u64(),
        );
        assert_eq!(bytes, Some(268_435_456));
        let file = Path::new(node["file"].as_str().expect("a path"));
        let size = std::fs::metadata(file).expect("the file is there").len();
        assert!(
            offset.is_some_and(|offset| offset + 268_435_456 <= size),
            "{node}"
        );
        assert!(
            Path::new(node["api"].as_str().expect("a path")).exists(),
            "{node}"
        );
        assert!(is_alive(&node["pid"]), "{node}");
    }
    assert_eq!(keys(&ready["witness"]), set(&["pid"]));
    assert!(is_alive(&ready["witness"]["pid"]), "{ready}");
}

fn is_alive(pid: &Value) -> bool {
    pid.as_u64()
        .is_some_and(|pid| Path::new("/proc").join(pid.to_string()).exists())
}

fn must(command: &mut Command) -> String {
    let Said { code, out, err } = said(command);
    assert_eq!(code, Some(0), "{command:?}: {out}{err}");
    out + &err
}

/// `qemu-io` ends with 0 also when a read finds something else, so its words count.
fn qemu_io(stage: &Stage, url: &str, what: &str) {
    let said = must(
        stage
            .command("qemu-io")
            .args(["-f", "raw", "-t", "none", "-c", what, url]),
    );
    assert!(
        !said.contains("failed") && !said.contains("error"),
        "{what}: {said}"
    );
}
