//! A whole configuration at once: shown, changed in a file, applied, taken back.

use std::fs;
use std::time::Duration;

use tests::lab::clock;
use tests::lab::demo::Stage;

use crate::{USAGE, api, ask, config, ends};

/// Until the other box serves.
const MOVE_LIMIT: Duration = Duration::from_secs(20);

const MORE: &str = r#"
[[volume]]
name = "more"
size_bytes = 16777216

[[host]]
name = "new"
iqns = ["iqn.2026-11.org.example:new"]

[host.chap]
user = "new"
secret = "fourteen bytes"

[[map]]
lun = 3
volume = "more"

[map.to]
host = "new"
"#;

#[test]
fn a_file_is_applied_as_one_change_and_taken_back() {
    let stage = Stage::new();
    let served = stage.serve(&[]);
    let file = stage.home().join("cluster.toml");
    let path = file.display().to_string();
    let tell = |words: &[&str], code| ask(&stage, &served, words, code);
    let before = config(&stage, &served);

    fs::write(&file, &before).expect("a new file");
    let told = tell(&["config", "diff", &path], 0);
    assert!(told.out.contains("nothing differs"), "{}", told.out);

    fs::write(&file, format!("{before}{MORE}")).expect("the same file");
    for words in [
        &["config", "diff", &path][..],
        &["config", "apply", &path, "--dry-run"],
    ] {
        let told = tell(words, 0);
        for line in [
            "nothing was changed",
            "volume more made",
            "host new added",
            "volume more is LUN 3 of host new",
        ] {
            assert!(told.out.contains(line), "no `{line}` in {}", told.out);
        }
        assert_eq!(config(&stage, &served), before, "{words:?}");
    }
    let told = tell(&["config", "apply", &path], 0);
    assert!(told.out.contains("on every in-sync box"), "{}", told.out);
    let after = config(&stage, &served);
    assert!(
        after.contains("name = \"more\"") && !after.contains("fourteen"),
        "{after}"
    );

    // what is shown can be applied, although it has no secrets
    fs::write(&file, &after).expect("the same file");
    let told = tell(&["config", "apply", &path], 0);
    assert!(told.out.contains("nothing differs"), "{}", told.out);

    let told = tell(&["config", "rollback", "--dry-run"], 0);
    assert!(told.out.contains("host new removed"), "{}", told.out);
    assert_eq!(config(&stage, &served), after);
    tell(&["config", "rollback"], 0);
    let back = config(&stage, &served);
    assert!(!back.contains("example:new"), "{back}");
    assert!(back.contains("name = \"more\""), "volumes stay: {back}");

    // the history moves with the role
    let history = tell(&["config", "history"], 0).out;
    let lines: Vec<&str> = history.lines().collect();
    assert!(
        lines.len() >= 2 && lines[lines.len() - 2].contains("host new added"),
        "{history}"
    );
    tell(&["switchover"], 0);
    let other = api(&served, "san2");
    let there = clock::until(MOVE_LIMIT, || {
        let told = ends(
            &mut stage.twinsan(&["--api", &other, "config", "history"]),
            "asked",
        );
        (told.code == Some(0)).then_some(told.out)
    });
    assert_eq!(there.as_deref(), Some(history.as_str()));
}

#[test]
fn a_file_that_asks_for_too_much_changes_nothing() {
    let stage = Stage::new();
    let served = stage.serve(&[]);
    let file = stage.home().join("cluster.toml");
    let path = file.display().to_string();
    let before = config(&stage, &served);
    let cases = [
        (
            before.replace("scrub_bytes_per_s", "scrub_bytes_per_second"),
            "scrub_bytes_per_s",
        ),
        (
            before.replace("name = \"demo0\"", "name = \"other\""),
            "volume delete demo0",
        ),
        (
            before.replace("size_bytes = 268435456", "size_bytes = 1048576"),
            "would be lost",
        ),
        (
            before.replace("volume = \"demo0\"", "volume = \"none\""),
            "there is no volume none",
        ),
        (
            format!("{before}[discovery]\nuser = \"u\"\nsecret = \"***\"\n"),
            "write the secret",
        ),
    ];
    let long = format!("{before}# {}\n", "x".repeat(1 << 20));
    for (text, words) in cases
        .into_iter()
        .chain([(long, "no cluster configuration has more")])
    {
        assert_ne!(text, before, "{words}: the case changes nothing");
        fs::write(&file, &text).expect("the file");
        let told = ask(&stage, &served, &["config", "apply", &path], USAGE);
        assert!(told.err.contains(words), "no `{words}` in {}", told.err);
        assert_eq!(config(&stage, &served), before, "{words}");
    }
}
