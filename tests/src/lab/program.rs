//! The program under test, built as `cargo demo` builds it.

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
    PROGRAM.get_or_init(|| std::env::var_os(PROGRAM_VARIABLE).map_or_else(build, PathBuf::from))
}

fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "build",
            "--release",
            "--package",
            "appliance",
            "--features",
            "mutants",
        ])
        .args([
            "--bin",
            "twinsan",
            "--message-format",
            "json-render-diagnostics",
        ])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "twinsan does not build");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut artifacts = lines.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let ours =
            message["reason"] == "compiler-artifact" && message["target"]["name"] == "twinsan";
        ours.then(|| message["executable"].as_str().map(PathBuf::from))
            .flatten()
    });
    artifacts.next_back().expect("cargo names what it built")
}
