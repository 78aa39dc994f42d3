//! Every scenario in `scripts/` does what it says; `TWINSAN_REWRITE_SCRIPTS=1` writes down what
//! happens now.

use std::path::Path;

#[test]
fn scenarios_do_what_they_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let entries = std::fs::read_dir(&folder).expect("the scenarios are part of the sources");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 11, "{} scenarios", paths.len());
    let mut failures = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("readable");
        let name = path
            .file_name()
            .expect("a file")
            .to_string_lossy()
            .into_owned();
        match tests::script::run(&text) {
            Err(why) => failures.push(format!("{name}: {why}")),
            Ok(happened) if happened == text => {}
            Ok(happened) if std::env::var_os("TWINSAN_REWRITE_SCRIPTS").is_some() => {
                std::fs::write(&path, happened).expect("writable");
            }
            Ok(happened) => failures.push(format!("{name} happened like this:\n{happened}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
