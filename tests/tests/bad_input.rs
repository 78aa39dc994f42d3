//! What a user gets wrong, and what strangers send: each case names its exit code and the words
//! that help, and changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::lab::clock;
use tests::lab::demo::{Served, Stage};
use tests::lab::{Process, Said, said, secret};

/// Refused configuration: nothing was tried.
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const SAFETY: i32 = 3;

const GOOD: &str = r#"node = "san1"
peer = "san2"
state = "state"
api = "api.sock"

[[link]]
name = "replication"
address = "127.0.0.11"
peer = "127.0.0.12"
role = "replication"

[[link]]
name = "service"
address = "127.0.1.11"
peer = "127.0.1.12"
role = "service"

[witness]
address = "127.0.0.13"

[pool]
path = "pool"
"#;

/// A box's folder as a careful administrator makes it.
struct Node {
    folder: PathBuf,
}

impl Node {
    fn new(stage: &Stage, name: &str) -> Self {
        let node = Self {
            folder: stage.home().join(name),
        };
        fs::create_dir(&node.folder).expect("a new folder");
        fs::create_dir(node.folder.join("pool")).expect("a new folder");
        node.write("node.toml", GOOD);
        node.give_away(&[".", "pool", "node.toml"]);
        node
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.join(name), text).expect("a file of ours");
    }

    fn edit(&self, from: &str, to: &str) {
        assert!(GOOD.contains(from), "no `{from}` in the good file");
        self.write("node.toml", &GOOD.replacen(from, to, 1));
    }

    /// What pairing leaves: a member of a pair that nobody else is in.
    fn pair(&self) {
        let text = format!(
            "{{\"group\":\"6f0c6cf0-6a3c-4a5b-8f3c-0a5f2f6f4c11\",\"key\":\"{}\",\
             \"certificate\":\"\",\"certificate_key\":\"\",\"peer\":null}}",
            "5a".repeat(32)
        );
        fs::create_dir_all(self.folder.join("state")).expect("a new folder");
        secret(&self.folder.join("state/pair.json"), &text);
        self.give_away(&["state", "state/pair.json"]);
    }

    /// Root prepares, a plain user runs.
    fn give_away(&self, names: &[&str]) {
        let owner = fs::metadata(self.folder.join("..")).expect("the home folder");
        use std::os::unix::fs::MetadataExt as _;
        let (user, group) = (owner.uid(), owner.gid());
        for path in names.iter().map(|name| self.folder.join(name)) {
            std::os::unix::fs::chown(path, Some(user), Some(group)).expect("its owner or root may");
        }
    }

    fn command(&self, stage: &Stage, arguments: &[&str]) -> Command {
        let config = self.folder.join("node.toml").display().to_string();
        let all: Vec<&str> = ["--config", &config]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        stage.twinsan(&all)
    }

    /// Everything in the folder, byte by byte; sockets have no bytes.
    fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut all = BTreeMap::new();
        let mut folders = vec![self.folder.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder").flatten() {
                let kind = entry.file_type().expect("it is there");
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    all.insert(entry.path(), fs::read(entry.path()).expect("root may"));
                }
            }
        }
        all
    }
}

/// One row of the table: how the folder is spoilt, what is run, code, words.
struct Case {
    name: &'static str,
    spoil: fn(&Node),
    run: &'static [&'static str],
    code: i32,
    words: &'static [&'static str],
}

/// Refused by the text of `node.toml` alone.
const TEXTS: &[Case] = &[
    Case {
        name: "unknown key",
        spoil: |node| node.edit("address = \"127.0.0.11\"", "adress = \"127.0.0.11\""),
        run: &["run"],
        code: USAGE,
        words: &["node.toml:8:", "`adress`", "`address`"],
    },
    Case {
        name: "unknown table",
        spoil: |node| node.edit("[pool]", "[pol]"),
        run: &["run"],
        code: USAGE,
        words: &["node.toml:21:", "`pol`", "`pool`"],
    },
    Case {
        name: "wrong type",
        spoil: |node| node.edit("[pool]", "[ports]\niscsi = \"many\"\n[pool]"),
        run: &["run"],
        code: USAGE,
        words: &["node.toml:22:", "expected u16"],
    },
    Case {
        name: "no address",
        spoil: |node| node.edit("\"127.0.0.13\"", "\"witness.example\""),
        run: &["run"],
        code: USAGE,
        words: &["node.toml:19:", "IP address"],
    },
    Case {
        name: "two nodes with one name",
        spoil: |node| node.edit("peer = \"san2\"", "peer = \"san1\""),
        run: &["run"],
        code: USAGE,
        words: &["`san1`", "different names"],
    },
    Case {
        name: "no third vote",
        spoil: |node| node.edit("[witness]\naddress = \"127.0.0.13\"\n", ""),
        run: &["run"],
        code: USAGE,
        words: &["third vote", "twinsan witness"],
    },
    Case {
        name: "no file",
        spoil: |node| fs::remove_file(node.folder.join("node.toml")).expect("it was there"),
        run: &["run"],
        code: USAGE,
        words: &["cannot read", "node.toml", "--config"],
    },
];

/// Refused by what is on the machine.
const PLACES: &[Case] = &[
    Case {
        name: "missing pool",
        spoil: |node| fs::remove_dir(node.folder.join("pool")).expect("it was empty"),
        run: &["run"],
        code: FAILED,
        words: &["the pool", "/pool", "make the folder"],
    },
    Case {
        name: "missing pool at init",
        spoil: |node| fs::remove_dir(node.folder.join("pool")).expect("it was empty"),
        run: &["init"],
        code: FAILED,
        words: &["the pool", "/pool", "make the folder"],
    },
    Case {
        name: "a file as pool",
        spoil: |node| node.edit("path = \"pool\"", "path = \"node.toml\""),
        run: &["init"],
        code: FAILED,
        words: &["node.toml", "not a folder"],
    },
    Case {
        name: "no pair",
        spoil: |_| {},
        run: &["run"],
        code: FAILED,
        words: &["belongs to no pair", "twinsan init", "pair join"],
    },
    Case {
        name: "keys for everybody",
        spoil: |node| {
            node.pair();
            let open = fs::Permissions::from_mode(0o644);
            let file = node.folder.join("state/pair.json");
            fs::set_permissions(file, open).expect("its owner or root");
        },
        run: &["run"],
        code: FAILED,
        words: &["read by others", "chmod 600"],
    },
    Case {
        name: "no permission",
        spoil: |node| {
            let closed = fs::Permissions::from_mode(0o500);
            fs::set_permissions(node.folder.join("pool"), closed).expect("its owner or root");
        },
        run: &["init"],
        code: FAILED,
        words: &["the pool", "not writable", "root"],
    },
    Case {
        name: "somebody else's address",
        spoil: |node| {
            node.pair();
            node.edit("address = \"127.0.0.11\"", "address = \"203.0.113.7\"");
        },
        run: &["run"],
        code: FAILED,
        words: &["203.0.113.7", "this box's"],
    },
];

#[test]
fn bad_configuration_is_refused_with_what_to_do_and_changes_nothing() {
    let stage = Stage::new();
    for (number, case) in TEXTS.iter().chain(PLACES).enumerate() {
        let node = Node::new(&stage, &format!("case{number}"));
        (case.spoil)(&node);
        refused(&stage, &node, case);
    }
}

fn refused(stage: &Stage, node: &Node, case: &Case) {
    let Case {
        name,
        run,
        code,
        words,
        ..
    } = case;
    let before = node.contents();
    let told = ends(&mut node.command(stage, run), name);
    assert_eq!(told.code, Some(*code), "{name}: {}", told.err);
    for word in *words {
        assert!(
            told.err.contains(word),
            "{name}: no `{word}` in: {}",
            told.err
        );
    }
    assert!(!told.err.contains("panicked"), "{name}: {}", told.err);
    // What the daemon makes for itself when it starts holds no decision.
    let mut after = node.contents();
    after.retain(|path, _| before.contains_key(path) || !is_scaffold(path));
    assert_eq!(
        changed(&before, &after),
        Vec::<PathBuf>::new(),
        "{name} changed files"
    );
}

/// Files of a daemon that never ran: its lock and its own random instance.
fn is_scaffold(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "state")
}

fn changed(
    before: &BTreeMap<PathBuf, Vec<u8>>,
    after: &BTreeMap<PathBuf, Vec<u8>>,
) -> Vec<PathBuf> {
    let all = before.keys().chain(after.keys());
    all.filter(|path| before.get(*path) != after.get(*path))
        .cloned()
        .collect()
}

/// Runs a command that must end by itself.
fn ends(command: &mut Command, name: &str) -> Said {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let ended = clock::until(Duration::from_secs(10), || child.try_wait().ok().flatten());
    if ended.is_none() {
        child.kill().expect("it runs");
    }
    let output = child.wait_with_output().expect("a child can be waited for");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(ended.is_some(), "{name}: it runs on: {err}");
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    Said {
        code: output.status.code(),
        out,
        err,
    }
}

/// Init of what belongs to a pair, and a box with the disk of another pair.
#[test]
fn a_disk_of_a_pair_is_never_overwritten() {
    let stage = Stage::new();
    let node = Node::new(&stage, "first");
    let made = ends(&mut node.command(&stage, &["init"]), "init");
    assert_eq!(made.code, Some(0), "{}", made.err);
    let again = Case {
        name: "init again",
        spoil: |_| {},
        run: &["init"],
        code: SAFETY,
        words: &["belongs to a pair", "nothing was changed", "twinsan run"],
    };
    refused(&stage, &node, &again);
    fs::remove_dir_all(node.folder.join("state")).expect("root may");
    let found = Case {
        name: "init over a pool",
        words: &["overwrite", "nothing was changed", "empty folder"],
        ..again
    };
    refused(&stage, &node, &found);
    node.pair();
    a_foreign_disk_is_not_used(&stage, &node);
}

/// The box runs, so that its status can say what is wrong, and leaves the disk alone.
fn a_foreign_disk_is_not_used(stage: &Stage, node: &Node) {
    let pool = |node: &Node| {
        let mut contents = node.contents();
        contents.retain(|path, _| path.components().any(|part| part.as_os_str() == "pool"));
        contents
    };
    let before = pool(node);
    let log = stage.home().join("foreign.log");
    let mut running = Process::start(node.command(stage, &["run"]), &log);
    let said = clock::until(Duration::from_secs(10), || {
        let events = said(&mut node.command(stage, &["events"])).out;
        events.contains("belongs to another group").then_some(())
    });
    assert!(
        said.is_some(),
        "{}",
        fs::read_to_string(&log).unwrap_or_default()
    );
    clock::pass(Duration::from_secs(1));
    assert!(
        running.is_running(),
        "{}",
        fs::read_to_string(&log).unwrap_or_default()
    );
    running.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(running.wait(Duration::from_secs(10)), Some(0));
    assert_eq!(changed(&before, &pool(node)), Vec::<PathBuf>::new());
}

/// A pool that is full before the first metadata are written.
#[test]
fn a_pool_that_is_too_small_is_refused() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "a file system of its own needs root: run these tests as root"
    );
    let stage = Stage::new();
    let node = Node::new(&stage, "small");
    let pool = node.folder.join("pool").display().to_string();
    let program = node.command(&stage, &["init"]);
    let words: Vec<String> = program
        .get_args()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    // `ip netns exec` gives a mount namespace of its own, which ends with the command.
    let at = words
        .iter()
        .position(|word| word == "setpriv")
        .expect("a plain user runs it");
    let script = format!("mount -t tmpfs -o size=256k,mode=777 none {pool} && exec \"$@\"");
    let mut command = stage.command("sh");
    command.args(["-c", &script, "sh"]).args(&words[at..]);
    let told = ends(&mut command, "a small pool");
    assert_eq!(told.code, Some(FAILED), "{}{}", told.out, told.err);
    assert!(told.err.to_lowercase().contains("space"), "{}", told.err);
    assert!(
        !node.folder.join("state/group").exists(),
        "it must not be half a box"
    );
}

#[test]
fn a_port_in_use_is_named() {
    let stage = Stage::new();
    let node = Node::new(&stage, "third");
    let made = ends(&mut node.command(&stage, &["init"]), "init");
    assert_eq!(made.code, Some(0), "{}", made.err);
    let served = stage.serve(&[]);
    let case = Case {
        name: "the demo has the port",
        spoil: |_| {},
        run: &["run"],
        code: FAILED,
        words: &["127.0.0.11", "port is free"],
    };
    refused(&stage, &node, &case);
    let first_of_two = Case {
        name: "the other box runs",
        spoil: |_| {},
        run: &["init"],
        code: SAFETY,
        words: &[
            "san2 is running",
            "nothing was changed",
            "twinsan pair join",
        ],
    };
    refused(&stage, &Node::new(&stage, "fourth"), &first_of_two);
    let second = ends(&mut stage.twinsan(&["demo"]), "a second demo");
    assert_eq!(second.code, Some(FAILED), "{}", second.err);
    drop(served);
}

const SHORT: &str = "SHORT";

/// A change of the configuration, its exit code, and words that help.
type Change = (&'static [&'static str], i32, &'static [&'static str]);

/// `SHORT` stands for a file with a short secret.
const CHANGES: &[Change] = &[
    (
        &["host", "add", "x", "--iqn", "IQN.bad"],
        USAGE,
        &["IQN.bad", "not an iSCSI name"],
    ),
    (
        &["host", "add", "x", "--iqn", "iqn.2026-11.org.example:one"],
        USAGE,
        &["iqn.2026-11.org.example:one", "one", "x"],
    ),
    (
        &["host", "add", "x", "--iqn", "iqn.2026-11.org.example:*"],
        USAGE,
        &["wildcard"],
    ),
    (&["host", "add", "one"], USAGE, &["one"]),
    (
        &[
            "host",
            "add",
            "x",
            "--iqn",
            "iqn.2026-11.org.example:x",
            "--chap-user",
            "u",
            "--chap-secret-file",
            SHORT,
        ],
        USAGE,
        &["12"],
    ),
    (
        &["host", "remove", "nobody"],
        USAGE,
        &["nobody", "host list"],
    ),
    (
        &["lun", "map", "one", "0", "nothing"],
        USAGE,
        &["nothing", "volume list"],
    ),
    (
        &["lun", "map", "nobody", "0", "demo0"],
        USAGE,
        &["nobody", "host list"],
    ),
    (&["lun", "map", "one", "256", "demo0"], USAGE, &["256"]),
    (&["lun", "unmap", "one", "5"], USAGE, &["LUN 5", "lun list"]),
    (
        &["lun", "map", "nothing", "0", "demo0", "--group"],
        USAGE,
        &["nothing", "group list"],
    ),
    (
        &["lun", "unmap", "any", "0", "--group"],
        USAGE,
        &["group any", "lun list"],
    ),
    (&["group", "create", "one"], USAGE, &["one", "another name"]),
    (
        &["group", "add", "nothing", "one"],
        USAGE,
        &["nothing", "group list"],
    ),
    (
        &["group", "delete", "nothing"],
        USAGE,
        &["nothing", "group list"],
    ),
    (
        &["volume", "create", "small", "1KiB"],
        USAGE,
        &["1 MiB", "128 TiB"],
    ),
    (
        &["volume", "create", "large", "129TiB"],
        USAGE,
        &["128 TiB"],
    ),
    (
        &["volume", "create", "odd", "12XB"],
        USAGE,
        &["12XB", "20GiB"],
    ),
    (&["volume", "create", "demo0", "1GiB"], USAGE, &["demo0"]),
    (
        &["volume", "delete", "demo0", "--confirm", "other"],
        SAFETY,
        &["lost", "--confirm"],
    ),
    (
        &["volume", "delete", "demo0", "--confirm", "demo0"],
        USAGE,
        &["lun unmap"],
    ),
    (
        &["address", "add", "127.0.0.300/8"],
        USAGE,
        &["127.0.0.300/8"],
    ),
    (
        &["address", "remove", "127.0.0.99"],
        USAGE,
        &["127.0.0.99", "address list"],
    ),
    (&["switchover", "--to", "san3"], USAGE, &["san3"]),
    (
        &["fence", "add", "x", "san3", "manual"],
        USAGE,
        &["san3", "san1 and san2"],
    ),
    (&["fence", "add", "x", "san2", "voodoo"], USAGE, &["voodoo"]),
    (
        &["fence", "add", "x", "san2", "exec", "relative"],
        USAGE,
        &["relative", "absolute"],
    ),
    (
        &[
            "fence",
            "add",
            "x",
            "san2",
            "ipmi",
            "--address",
            "127.0.0.12",
            "--user",
            "u",
            "--secret-file",
            SHORT,
        ],
        USAGE,
        &["127.0.0.12", "own address"],
    ),
    (
        &["fence", "test", "san1"],
        SAFETY,
        &["no box fences itself"],
    ),
    (
        &["fence", "confirm", "san1", "--is-off", "san1"],
        SAFETY,
        &["no box fences itself"],
    ),
    (
        &["fence", "confirm", "san2", "--is-off", "san1"],
        SAFETY,
        &["data be lost", "--is-off san2"],
    ),
    (
        &["fence", "confirm", "san2", "--is-off", "san2"],
        FAILED,
        &["nobody waits"],
    ),
    (
        &["fence", "remove", "nothing"],
        USAGE,
        &["nothing", "fence list"],
    ),
];

/// Changes that make no sense: refused, and the configuration in force stays what it is.
#[test]
fn bad_changes_are_refused_and_change_nothing() {
    let stage = Stage::new();
    let served = stage.serve(&[]);
    let short = stage.home().join("short");
    fs::write(&short, "short\n").expect("a new file");
    let short = short.display().to_string();
    ask(
        &stage,
        &served,
        &["host", "add", "one", "--iqn", "iqn.2026-11.org.example:one"],
        0,
    );
    let before = config(&stage, &served);
    for (arguments, code, words) in CHANGES {
        let arguments: Vec<&str> = arguments
            .iter()
            .map(|word| if *word == SHORT { short.as_str() } else { word })
            .collect();
        let told = ask(&stage, &served, &arguments, *code);
        for word in *words {
            assert!(
                told.err.contains(word),
                "{arguments:?}: no `{word}` in: {}",
                told.err
            );
        }
        assert_eq!(
            config(&stage, &served),
            before,
            "{arguments:?} changed the configuration"
        );
    }
}

fn api(served: &Served, node: &str) -> String {
    served.ready["nodes"][node]["api"]
        .as_str()
        .expect("the ready line has it")
        .to_owned()
}

fn ask(stage: &Stage, served: &Served, arguments: &[&str], code: i32) -> Said {
    let socket = api(served, "san1");
    let all: Vec<&str> = ["--api", &socket]
        .into_iter()
        .chain(arguments.iter().copied())
        .collect();
    let told = ends(&mut stage.twinsan(&all), "a change");
    assert_eq!(
        told.code,
        Some(code),
        "{arguments:?}: {}{}",
        told.out,
        told.err
    );
    told
}

fn config(stage: &Stage, served: &Served) -> String {
    ask(stage, served, &["config", "show"], 0).out
}

/// Who logs in with a wrong secret, or is nobody's host, gets nothing; who is right does.
#[test]
fn a_wrong_secret_and_an_unknown_initiator_get_nothing() {
    let stage = Stage::new();
    let served = stage.serve(&[]);
    let file = stage.home().join("secret");
    fs::write(&file, "correct-horse-battery\n").expect("a new file");
    let file = file.display().to_string();
    let name = "iqn.2026-11.org.example:chap";
    ask(&stage, &served, &["host", "remove", "any"], 0);
    ask(
        &stage,
        &served,
        &[
            "host",
            "add",
            "c",
            "--iqn",
            name,
            "--chap-user",
            "u",
            "--chap-secret-file",
            &file,
        ],
        0,
    );
    for words in [
        &["group", "create", "g"][..],
        &["group", "add", "g", "c"],
        &["lun", "map", "g", "0", "demo0", "--group"],
    ] {
        ask(&stage, &served, words, 0);
    }
    let target = served.ready["target"]
        .as_str()
        .expect("the ready line has it");
    let inquiry = |initiator: &str, who: &str| {
        let url = format!("iscsi://{who}127.0.0.10:3260/{target}/0");
        said(stage.command("iscsi-inq").args(["-i", initiator, &url]))
    };
    let good = inquiry(name, "u%correct-horse-battery@");
    assert_eq!(good.code, Some(0), "{}{}", good.out, good.err);
    assert!(good.out.contains("TWINSAN"), "{}", good.out);
    let wrong = [
        ("a wrong secret", name, "u%wrong-horse-battery@"),
        ("a wrong user", name, "v%correct-horse-battery@"),
        ("no secret", name, ""),
        (
            "an unknown initiator",
            "iqn.2026-11.org.example:stranger",
            "u%correct-horse-battery@",
        ),
    ];
    for (what, initiator, who) in wrong {
        let told = inquiry(initiator, who);
        assert_ne!(told.code, Some(0), "{what}: {}", told.out);
        assert!(!told.out.contains("TWINSAN"), "{what}: {}", told.out);
    }
    // Who left the group of a map sees nothing any more.
    ask(&stage, &served, &["group", "remove", "g", "c"], 0);
    let left = inquiry(name, "u%correct-horse-battery@");
    assert!(!left.out.contains("TWINSAN"), "{}{}", left.out, left.err);
    let shown = config(&stage, &served);
    assert!(
        !shown.contains("correct-horse"),
        "a secret is shown: {shown}"
    );
}

/// Strangers send rubbish to every port while a host reads and writes.
#[test]
fn garbage_on_every_port_harms_nobody() {
    let stage = Stage::new();
    let mut served = stage.serve(&["--no-restart"]);
    let target = served.ready["target"]
        .as_str()
        .expect("the ready line has it")
        .to_owned();
    let url = format!("iscsi://127.0.0.10:3260/{target}/0");
    io(&stage, &url, "write -P 0x3c 2M 1M");
    let file = stage.home().join("garbage");
    for round in 0..20_u64 {
        fs::write(&file, garbage(round)).expect("a file of ours");
        for port in [
            "tcp/127.0.0.10/3260",
            "tcp/127.0.0.20/3260",
            "tcp/127.0.0.11/7788",
            "tcp/127.0.0.12/7788",
            "udp/127.0.0.11/6940",
            "udp/127.0.0.12/6940",
            "udp/127.0.1.12/6940",
            "udp/127.0.0.13/6941",
        ] {
            let script = format!("cat {} > /dev/{port}", file.display());
            // A port that closes while it is being written to is as it should be.
            drop(said(stage.command("bash").args(["-c", &script])));
        }
        for node in ["san1", "san2"] {
            talk_rubbish(&api(&served, node), &garbage(round + 100));
        }
    }
    io(&stage, &url, "read -P 0x3c 2M 1M");
    io(&stage, &url, "write -P 0xc3 2M 1M");
    io(&stage, &url, "read -P 0xc3 2M 1M");
    let status = ask(&stage, &served, &["--json", "status"], 0).out;
    let status: Value = serde_json::from_str(&status).expect("a status is JSON");
    assert_eq!(status["role"], "primary", "{status}");
    assert_eq!(
        status["in_sync"],
        serde_json::json!(["san1", "san2"]),
        "{status}"
    );
    for pid in [
        &served.ready["nodes"]["san1"]["pid"],
        &served.ready["nodes"]["san2"]["pid"],
        &served.ready["witness"]["pid"],
    ] {
        assert!(
            Path::new("/proc").join(pid.to_string()).exists(),
            "process {pid} is gone"
        );
    }
    let process: &mut Process = served.process();
    assert!(process.is_running());
}

/// Bytes of many lengths; some begin as a login, a heartbeat or a request would.
fn garbage(round: u64) -> Vec<u8> {
    let mut word = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word
    };
    let len =
        [1, 47, 48, 49, 200, 1400, 5000, 60_000][usize::try_from(round % 8).expect("below 8")];
    let mut bytes: Vec<u8> = (0..len).map(|_| next().to_le_bytes()[0]).collect();
    let start: &[u8] = match round % 5 {
        0 => &[0x43, 0x87, 0, 0, 0, 0xff, 0xff, 0xff],
        1 => b"GET /v1/status HTTP/1.1\r\n",
        2 => &[0x01, 0xc0, 0xff, 0xff],
        _ => &[],
    };
    let shared = start.len().min(bytes.len());
    bytes[..shared].copy_from_slice(&start[..shared]);
    bytes
}

fn talk_rubbish(socket: &str, bytes: &[u8]) {
    let mut stream = UnixStream::connect(socket).expect("the API listens");
    stream
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("a socket");
    // It may hang up in the middle.
    drop(stream.write_all(bytes));
    let mut answer = [0; 4096];
    drop(stream.read(&mut answer));
}

fn io(stage: &Stage, url: &str, what: &str) {
    let told = said(
        stage
            .command("qemu-io")
            .args(["-f", "raw", "-t", "none", "-c", what, url]),
    );
    let words = told.out + &told.err;
    assert_eq!(told.code, Some(0), "{what}: {words}");
    assert!(
        !words.contains("failed") && !words.contains("error"),
        "{what}: {words}"
    );
}
