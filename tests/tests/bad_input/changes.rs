//! Changes of the configuration that make no sense.

use std::fs;

use tests::lab::demo::Stage;

use crate::{FAILED, SAFETY, USAGE, ask, config};

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
    (
        &["session", "drop", "iqn.2026-11.org.example:nobody"],
        USAGE,
        &["nobody has no session", "session list"],
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
