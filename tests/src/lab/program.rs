//! The programs under test, built for release: `twinsan` as `cargo demo` builds it, and the target
//! alone.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Names a `twinsan` to test instead of building one, for instance an installed one.
const PROGRAM_VARIABLE: &str = "TWINSAN_PROGRAM";

/// Path of a `twinsan` that is as new as the sources; built once for each run of the tests.
///
/// # Panics
/// If it does not build.
pub fn twinsan() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let named = std::env::var_os(PROGRAM_VARIABLE);
        named.map_or_else(|| build(&TWINSAN, "twinsan"), PathBuf::from)
    })
}

/// Path of the target that serves units from memory.
///
/// # Panics
/// If it does not build.
pub fn serve() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| build(&SERVE, "serve"))
}

const TWINSAN: [&str; 6] = [
    "--package",
    "appliance",
    "--features",
    "mutants",
    "--bin",
    "twinsan",
];
const SERVE: [&str; 4] = ["--package", "iscsi-target", "--example", "serve"];

fn build(what: &[&str], name: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release"])
        .args(what)
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "{name} does not build");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut artifacts = lines.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let ours = message["reason"] == "compiler-artifact" && message["target"]["name"] == name;
        ours.then(|| message["executable"].as_str().map(PathBuf::from))
            .flatten()
    });
    artifacts.next_back().expect("cargo names what it built")
}
