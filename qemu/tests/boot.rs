//! The distribution's kernel starts our program as its first process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use qemu::assets::Assets;
use qemu::deadline::Deadline;
use qemu::machine::{Boot, Machine};

fn assets() -> Assets {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    Assets::in_target(target.expect("cargo's folder for tests lies in the target directory"))
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the workspace")
}

fn boot(name: &str, program: &Path) -> anyhow::Result<Machine> {
    let assets = assets();
    Machine::start(&Boot {
        kernel: assets.kernel()?,
        initramfs: assets.initramfs(name, program)?,
        command_line: String::new(),
        memory_mib: 512,
        folder: assets.machine_folder(name),
    })
}

#[test]
fn twinsan_prints_its_version_as_pid_1_and_powers_off() {
    let program: PathBuf = assets().twinsan(workspace()).unwrap();
    let mut machine = boot("version", &program).unwrap();
    let deadline = Deadline::after(Duration::from_secs(180));
    let version = concat!("twinsan ", env!("CARGO_PKG_VERSION"));
    let line = machine
        .wait_for_line("version line", deadline, |line| line == version)
        .unwrap();
    println!("{line}");

    // a panicking kernel ends the machine as well: only a power-off prints this
    let down = |line: &str| line.ends_with("reboot: Power down");
    machine
        .wait_for_line("power-off message", deadline, down)
        .unwrap();
    let status = machine.wait_for_end(deadline).unwrap();
    assert!(status.success(), "qemu ended with {status}");
}

#[test]
fn a_machine_without_a_working_first_process_fails_the_wait() {
    // linked dynamically, and the initramfs has no loader for it
    let mut machine = boot("broken", Path::new("/bin/false")).unwrap();
    let deadline = Deadline::after(Duration::from_secs(180));
    let failed = machine.wait_for_line("version line", deadline, |line| line == "twinsan");
    let message = failed.unwrap_err().to_string();
    assert!(
        message.contains("ended") && message.contains("Kernel panic"),
        "{message}"
    );
}

/// Fails when `cargo ci -- --inject-failure qemu` asks for it, to show that the stage can.
#[test]
fn injected_failure() {
    assert_ne!(
        std::env::var("TWINSAN_INJECT_FAILURE").as_deref(),
        Ok("qemu")
    );
}
