//! What a machine boots: the distribution's kernel and our program, static, as first process.
//!
//! The kernel is downloaded once per target directory and unpacked, not installed. A folder is
//! filled under another name and renamed when complete, so an interrupted run leaves nothing that
//! looks finished.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::cpio::{Archive, DeviceNumber, Permissions};

/// The kernel meant for virtual machines: small, virtio and serial console built in.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Where assets are kept: `qemu` in the cargo target directory.
#[derive(Clone, Debug)]
pub struct Assets {
    folder: PathBuf,
}

impl Assets {
    /// Assets below the cargo target directory `target`.
    pub fn in_target(target: &Path) -> Self {
        Self {
            folder: target.join("qemu"),
        }
    }

    /// A folder for one machine, named after its test.
    pub fn machine_folder(&self, name: &str) -> PathBuf {
        self.folder.join("machines").join(name)
    }

    /// The kernel image, downloaded and unpacked if this is the first time.
    pub fn kernel(&self) -> anyhow::Result<PathBuf> {
        let kept = self.folder.join("kernel");
        if let Some(kernel) = kernel_in(&kept)? {
            return Ok(kernel);
        }
        let partial = self.folder.join(format!("kernel.{}", std::process::id()));
        fs::create_dir_all(&partial).with_context(|| cannot_make(&partial))?;
        let unpacked = download_kernel(&partial);
        let moved = unpacked.and_then(|folder| match fs::rename(&folder, &kept) {
            // another test process was faster: its kernel is as good
            Err(_) if kept.exists() => Ok(()),
            other => other.with_context(|| cannot_make(&kept)),
        });
        fs::remove_dir_all(&partial).with_context(|| format!("cannot clear {partial:?}"))?;
        moved?;
        kernel_in(&kept)?.with_context(|| format!("no kernel in the package {KERNEL_PACKAGE}"))
    }

    /// Builds the program `twinsan` as a static binary and gives its path.
    pub fn twinsan(&self, workspace: &Path) -> anyhow::Result<PathBuf> {
        let target_dir = self.folder.join("static");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .current_dir(workspace)
            .args([
                "build",
                "--locked",
                "--package",
                "appliance",
                "--bin",
                "twinsan",
            ])
            .args(["--target", TARGET])
            .args(
                QUICK_PROFILE
                    .iter()
                    .flat_map(|setting| ["--config", setting]),
            )
            .arg("--target-dir")
            .arg(&target_dir)
            .env("RUSTFLAGS", "-C target-feature=+crt-static");
        run(&mut command, "")?;
        let binary = target_dir.join(TARGET).join("debug").join("twinsan");
        ensure!(binary.is_file(), "cargo built no {}", binary.display());
        Ok(binary)
    }

    /// Writes an initramfs with `program` as `/init` and nothing else that could run.
    pub fn initramfs(&self, name: &str, program: &Path) -> anyhow::Result<PathBuf> {
        let data = fs::read(program).with_context(|| format!("cannot read {program:?}"))?;
        let mut archive = Archive::new();
        archive.directory("dev", Permissions(0o755))?;
        let console = DeviceNumber { major: 5, minor: 1 };
        archive.character_device("dev/console", Permissions(0o600), console)?;
        for folder in ["proc", "sys", "run"] {
            archive.directory(folder, Permissions(0o755))?;
        }
        archive.file("init", Permissions(0o755), &data)?;

        let folder = self.machine_folder(name);
        fs::create_dir_all(&folder).with_context(|| cannot_make(&folder))?;
        let path = folder.join("initramfs.cpio");
        fs::write(&path, archive.finish()?).with_context(|| cannot_make(&path))?;
        Ok(path)
    }
}

fn kernel_in(folder: &Path) -> anyhow::Result<Option<PathBuf>> {
    let boot = folder.join("boot");
    let entries = match fs::read_dir(&boot) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("cannot list {}", boot.display()))?,
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", boot.display()))?;
        if entry.file_name().to_string_lossy().starts_with("vmlinuz-") {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// Downloads into `folder` and gives the folder inside it that holds the unpacked package.
fn download_kernel(folder: &Path) -> anyhow::Result<PathBuf> {
    let depends = run(
        Command::new("apt-cache").args(["depends", KERNEL_PACKAGE]),
        UPDATE,
    )?;
    let package = versioned_package(&depends)
        .with_context(|| format!("{KERNEL_PACKAGE} depends on no kernel; {UPDATE}"))?;
    run(
        Command::new("apt-get")
            .current_dir(folder)
            .args(["-qq", "download", package]),
        UPDATE,
    )?;
    let deb = fs::read_dir(folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension() == Some(OsStr::new("deb")))
        .with_context(|| format!("apt-get downloaded nothing for {package}"))?;
    let unpacked = folder.join("unpacked");
    run(Command::new("dpkg").arg("-x").arg(&deb).arg(&unpacked), "")?;
    Ok(unpacked)
}

/// The package with the kernel itself, from `apt-cache depends` of the one that names the newest.
fn versioned_package(depends: &str) -> Option<&str> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with("linux-image-"))
}

/// Runs a command to its end and gives what it printed; a failure shows the whole command line.
fn run(command: &mut Command, remedy: &str) -> anyhow::Result<String> {
    let shown = format!("{command:?}");
    let output = command
        .output()
        .with_context(|| format!("cannot run {shown}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    bail!(
        "{shown} failed ({}): {}\n{remedy}",
        output.status,
        errors.trim_end()
    )
}

/// The program boots once and says a line: what counts is how soon it is built.
const QUICK_PROFILE: [&str; 3] = [
    "profile.dev.strip=true",
    "profile.dev.debug=0",
    "profile.dev.package.\"*\".opt-level=0",
];

fn cannot_make(path: &Path) -> String {
    format!("cannot make {}", path.display())
}

const UPDATE: &str = "the package lists may be old or missing: apt-get update";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_package_is_the_versioned_dependency() {
        let printed = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(
            versioned_package(printed),
            Some("linux-image-6.1.0-56-cloud-amd64")
        );
        assert_eq!(
            versioned_package("linux-image-cloud-amd64\n  Suggests: fdutils\n"),
            None
        );
    }

    #[test]
    fn a_failed_command_is_shown_with_its_remedy() {
        let error = run(
            Command::new("sh").args(["-c", "echo broken >&2; exit 3"]),
            UPDATE,
        );
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains("broken") && text.contains("apt-get update"),
            "{text}"
        );
    }
}
