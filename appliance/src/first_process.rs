//! As the first process of a machine: says what runs, then powers off. The boot sequence of the
//! image grows from here.

use std::process::ExitCode;

use nix::sys::reboot::{RebootMode, reboot};

/// Prints the version on the console and powers the machine off.
pub fn run() -> ExitCode {
    println!("twinsan {}", env!("CARGO_PKG_VERSION"));
    nix::unistd::sync();
    match reboot(RebootMode::RB_POWER_OFF) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("twinsan: cannot power off: {error}");
            ExitCode::FAILURE
        }
    }
}
