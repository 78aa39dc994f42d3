//! Two boxes and a witness as processes that become a pair by the verbs, with strangers around.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tests::lab::demo::Stage;
use tests::lab::{Offer, Process, STATE_WAIT, Said, Status, clock, said};

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const SAFETY: i32 = 3;

/// The folders of a pair that is not one yet.
struct Trio<'a> {
    stage: &'a Stage,
}

impl<'a> Trio<'a> {
    fn new(stage: &'a Stage) -> Self {
        let trio = Self { stage };
        for (name, peer, own, other) in [("san1", "san2", 11, 12), ("san2", "san1", 12, 11)] {
            let text = format!(
                "node = \"{name}\"\npeer = \"{peer}\"\nstate = \"state\"\napi = \"api.sock\"\n\
                 [[link]]\nname = \"cable\"\naddress = \"127.0.0.{own}\"\n\
                 peer = \"127.0.0.{other}\"\nrole = \"replication\"\n\
                 [witness]\naddress = \"127.0.0.13\"\n[pool]\npath = \"pool\"\n"
            );
            trio.make(name, &[("pool", None), ("node.toml", Some(&text))]);
        }
        let text = "state = \"state\"\nlisten = \"127.0.0.13:6941\"\n";
        trio.make("witness", &[("node.toml", Some(text))]);
        trio
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.stage.home().join(name)
    }

    /// Folders and files that the plain user owns.
    fn make(&self, name: &str, inside: &[(&str, Option<&str>)]) {
        let folder = self.folder(name);
        let mut all = vec![folder.clone()];
        fs::create_dir(&folder).expect("a new folder");
        for (name, text) in inside {
            let path = folder.join(name);
            match text {
                Some(text) => fs::write(&path, text).expect("a new file"),
                None => fs::create_dir(&path).expect("a new folder"),
            }
            all.push(path);
        }
        use std::os::unix::fs::MetadataExt as _;
        let owner = fs::metadata(self.stage.home()).expect("the home folder");
        for path in all {
            let (user, group) = (Some(owner.uid()), Some(owner.gid()));
            std::os::unix::fs::chown(path, user, group).expect("its owner or root may");
        }
    }

    fn edit(&self, name: &str, from: &str, to: &str) {
        let path = self.folder(name).join("node.toml");
        let text = fs::read_to_string(&path).expect("it was made");
        assert!(text.contains(from), "no `{from}` in {text}");
        fs::write(path, text.replace(from, to)).expect("root or its owner");
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let config = self.folder(name).join("node.toml").display().to_string();
        let all: Vec<&str> = ["--config", &config]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        self.stage.twinsan(&all)
    }

    fn cli(&self, name: &str, arguments: &[&str]) -> Said {
        said(&mut self.command(name, arguments))
    }

    fn must(&self, name: &str, arguments: &[&str]) -> String {
        let said = self.cli(name, arguments);
        assert_eq!(said.code, Some(0), "{name}: {arguments:?}: {}", said.err);
        said.out
    }

    fn offer(&self) -> Offer {
        let command = self.command("san1", &["--json", "pair", "create"]);
        Offer::of(command, &self.log("create"))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.stage.home().join(format!("{name}.log"))
    }

    fn start(&self, name: &str) -> Process {
        let verb = if name == "witness" { name } else { "run" };
        Process::start(self.command(name, &[verb]), &self.log(name))
    }

    /// Waits until a box says that both copies are in sync.
    fn protected(&self, name: &str) {
        let mut last = String::new();
        let protected = clock::until(STATE_WAIT, || {
            last = self.cli(name, &["--json", "status"]).out;
            let status = Status(serde_json::from_str(&last).ok()?);
            status.is_protected().then_some(())
        });
        if protected.is_none() {
            for name in ["san1", "san2", "witness"] {
                eprintln!("{}", fs::read_to_string(self.log(name)).unwrap_or_default());
            }
            panic!("{name} is not protected: {last}");
        }
    }

    /// All three as members, with `san1` running.
    fn paired(&self) -> Process {
        self.must("san1", &["init"]);
        let first = self.start("san1");
        for (name, verb) in [("san2", "pair"), ("witness", "witness")] {
            let mut offer = self.offer();
            self.must(name, &[verb, "join", "127.0.0.11", &offer.code]);
            assert_eq!(offer.end(STATE_WAIT), Some(0), "{name}");
        }
        first
    }

    fn connect(&self, address: &str) -> TcpStream {
        let connected = self.stage.connect(address);
        connected.unwrap_or_else(|error| panic!("{address}: {error}"))
    }
}

#[test]
fn two_boxes_and_a_witness_become_a_pair_with_codes() {
    let stage = Stage::new();
    let trio = Trio::new(&stage);
    trio.must("san1", &["init"]);
    let _first = trio.start("san1");
    let mut offer = trio.offer();
    let wrong = trio.cli("san2", &["pair", "join", "127.0.0.11", &offer.wrong_code()]);
    assert_eq!(wrong.code, Some(FAILED), "{}", wrong.err);
    assert!(wrong.err.contains("2 tries are left"), "{}", wrong.err);
    assert!(!trio.folder("san2").join("state/pair.json").exists());
    trio.must("san2", &["pair", "join", "127.0.0.11", &offer.code]);
    assert_eq!(offer.end(STATE_WAIT), Some(0));
    assert!(offer.line().is_some_and(|line| line.contains("san2")));
    let mut offer = trio.offer();
    trio.must("witness", &["witness", "join", "127.0.0.11", &offer.code]);
    assert_eq!(offer.end(STATE_WAIT), Some(0));
    let _second = trio.start("san2");
    let _witness = trio.start("witness");
    trio.protected("san1");
    trio.must("san1", &["volume", "create", "vm1", "16MiB"]);
    let key = secret_of(&trio, "san1");
    assert_eq!(key, secret_of(&trio, "san2"));
    for name in ["san1", "san2", "witness", "create"] {
        let log = fs::read_to_string(trio.log(name)).unwrap_or_default();
        assert!(!log.contains(&key), "the key is in the log of {name}");
    }
    assert!(!trio.must("san1", &["--json", "status"]).contains(&key));
    assert!(!trio.must("san1", &["config", "show"]).contains(&key));
}

/// The key in the file of a box, which only its owner can read.
fn secret_of(trio: &Trio<'_>, name: &str) -> String {
    let path = trio.folder(name).join("state/pair.json");
    let mode = fs::metadata(&path).expect("it joined").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    let text = fs::read_to_string(path).expect("root or its owner");
    let file: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    file["key"].as_str().expect("a key").to_owned()
}

#[test]
fn three_wrong_codes_end_it_and_a_used_one_opens_nothing() {
    let stage = Stage::new();
    let trio = Trio::new(&stage);
    trio.must("san1", &["init"]);
    let mut offer = trio.offer();
    for left in ["2 tries", "1 tries", "0 tries"] {
        let told = trio.cli("san2", &["pair", "join", "127.0.0.11", &offer.wrong_code()]);
        assert_eq!(told.code, Some(FAILED), "{}", told.err);
        assert!(told.err.contains(left), "{}", told.err);
    }
    assert_eq!(offer.end(STATE_WAIT), Some(FAILED));
    let late = trio.cli("san2", &["pair", "join", "127.0.0.11", &offer.code]);
    assert_eq!(late.code, Some(FAILED), "{}", late.err);
    assert!(late.err.contains("twinsan pair create"), "{}", late.err);
    let mut offer = trio.offer();
    trio.must("san2", &["pair", "join", "127.0.0.11", &offer.code]);
    assert_eq!(offer.end(STATE_WAIT), Some(0));
    let again = trio.cli("witness", &["witness", "join", "127.0.0.11", &offer.code]);
    assert_eq!(again.code, Some(FAILED), "{}", again.err);
    assert!(!trio.folder("witness").join("state/pair.json").exists());
}

#[test]
fn joining_says_what_it_overwrites_and_what_does_not_fit() {
    let stage = Stage::new();
    let trio = Trio::new(&stage);
    for name in ["san1", "san2"] {
        trio.must(name, &["init"]);
    }
    let offer = trio.offer();
    let join = ["pair", "join", "127.0.0.11", &offer.code];
    let member = trio.cli("san2", &join);
    assert_eq!(member.code, Some(FAILED), "{}", member.err);
    assert!(member.err.contains("pair leave"), "{}", member.err);
    trio.must("san2", &["pair", "leave", "--yes"]);
    let told = trio.cli("san2", &join);
    assert_eq!(told.code, Some(SAFETY), "{}", told.err);
    for word in ["overwrites", "00000000.vol", "--yes", "nothing was changed"] {
        assert!(told.err.contains(word), "no `{word}` in: {}", told.err);
    }
    let yes = ["pair", "join", "127.0.0.11", &offer.code, "--yes"];
    trio.edit(
        "san2",
        "\"replication\"\n",
        "\"replication\"\nencryption = \"off\"\n",
    );
    let told = trio.cli("san2", &yes);
    assert_eq!(told.code, Some(FAILED), "{}", told.err);
    assert!(told.err.contains("do not agree"), "{}", told.err);
    trio.edit("san2", "encryption = \"off\"\n", "");
    trio.edit("san2", "node = \"san2\"", "node = \"san3\"");
    let told = trio.cli("san2", &yes);
    assert!(told.err.contains("called san1"), "{}", told.err);
    trio.edit("san2", "node = \"san3\"", "node = \"san2\"");
    assert!(trio.folder("san2").join("pool/00000000.vol").exists());
    trio.must("san2", &yes);
    assert!(!trio.folder("san2").join("pool/00000000.vol").exists());
}

/// A witness says which group it is in, when it joins and when somebody is wrong about it.
#[test]
fn a_witness_names_its_group() {
    let stage = Stage::new();
    let trio = Trio::new(&stage);
    let made: serde_json::Value =
        serde_json::from_str(&trio.must("san1", &["--json", "init"])).expect("JSON");
    assert_eq!(made["schema"], 1, "{made}");
    let file = fs::read_to_string(trio.folder("san1").join("state/pair.json"));
    let file: serde_json::Value = serde_json::from_str(&file.expect("init made it")).expect("JSON");
    let group = file["group"].as_str().expect("a group");
    let mut offer = trio.offer();
    let joined = trio.must("witness", &["witness", "join", "127.0.0.11", &offer.code]);
    assert_eq!(offer.end(STATE_WAIT), Some(0));
    assert!(joined.contains(group), "{joined}");
    let other = "00000000-0000-4000-8000-000000000000";
    let wrong = trio.cli("witness", &["witness", "leave", other]);
    assert_eq!(wrong.code, Some(USAGE), "{}", wrong.err);
    assert!(wrong.err.contains(group), "{}", wrong.err);
    trio.must("witness", &["witness", "leave", group]);
    let again = trio.cli("witness", &["witness", "leave", group]);
    assert!(again.err.contains("no pair"), "{}", again.err);
}

/// Words that are typed before their time, by mistake, or for nothing.
#[test]
fn what_makes_no_pair_says_what_to_do_and_changes_nothing() {
    let stage = Stage::new();
    let trio = Trio::new(&stage);
    let unpaired: [(&[&str], i32, &[&str]); 3] = [
        (&["pair", "create"], FAILED, &["no pair", "twinsan init"]),
        (
            &["pair", "join", "127.0.0.12", "ABCD-EFGH"],
            USAGE,
            &["no pairing code", "twinsan pair create"],
        ),
        (
            &["pair", "join", "127.0.0.12", "ABCD-EFGH-JKMN"],
            FAILED,
            &["127.0.0.12:7789", "twinsan pair create"],
        ),
    ];
    let told = |arguments: &[&str], code: i32, words: &[&str]| {
        let told = trio.cli("san1", arguments);
        assert_eq!(told.code, Some(code), "{arguments:?}: {}", told.err);
        let missing = words.iter().find(|word| !told.err.contains(**word));
        assert_eq!(missing, None, "{}", told.err);
    };
    for (arguments, code, words) in unpaired {
        told(arguments, code, words);
    }
    assert!(!trio.folder("san1").join("state/pair.json").exists());
    trio.must("san1", &["init"]);
    let file = trio.folder("san1").join("state/pair.json");
    let before = fs::read(&file).expect("init made it");
    told(&["pair", "leave"], SAFETY, &["san1 stays", "--yes"]);
    let own = ["pair", "join", "127.0.0.12", "ABCD-EFGH-JKMN", "--yes"];
    told(&own, FAILED, &["127.0.0.12:7789"]);
    assert_eq!(fs::read(&file).expect("it stays"), before);
    fs::write(&file, &before[..40]).expect("root or its owner");
    told(&["run"], FAILED, &["pair.json", "damaged", "pair leave"]);
}

/// Strangers on the port of the data link and on that of pairing.
#[test]
fn x77_strangers_on_the_ports_learn_nothing_and_keep_nobody_out() {
    let stage = Stage::new();
    let trio = Trio::new(&stage);
    let _first = trio.paired();
    let _witness = trio.start("witness");
    let mut second = trio.start("san2");
    trio.protected("san1");
    second.kill();
    let hello = [22, 3, 1, 0, 40, 1, 0, 0, 36, 3, 3];
    let mut strangers = Vec::new();
    let mut second = trio.start("san2");
    let listens = clock::until(STATE_WAIT, || trio.stage.connect("127.0.0.12:7788").ok());
    strangers.push(listens.expect("san2 listens"));
    for round in 0..40 {
        let mut stranger = trio.connect("127.0.0.12:7788");
        match round % 4 {
            0 => {}
            1 => drop(stranger.write_all(&[b'x'; 600])),
            2 => drop(stranger.write_all(&hello)),
            _ => {
                drop(stranger.write_all(&hello));
                drop(stranger.shutdown(Shutdown::Write));
            }
        }
        strangers.push(stranger);
    }
    trio.protected("san1");
    assert!(second.is_running());
    let mut plain = trio.connect("127.0.0.12:7788");
    drop(plain.write_all(&[b'T'; 64])); // it may be closed by now
    let mut answer = Vec::new();
    plain
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a socket");
    drop(plain.read_to_end(&mut answer));
    assert!(answer.is_empty(), "another address is told nothing");
    let mut offer = trio.offer();
    for _ in 0..40 {
        strangers.push(trio.connect("127.0.0.11:7789"));
    }
    trio.must("witness", &["witness", "join", "127.0.0.11", &offer.code]);
    assert_eq!(offer.end(STATE_WAIT), Some(0));
    assert!(!offer.is_open());
}
