//! Debian packages that a stage needs: installed when that is allowed, else named.

use std::path::Path;
use std::process::{Command, Stdio};

/// A package and a program by which one sees that it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Package {
    /// Name for `apt-get install`.
    pub name: &'static str,
    /// Program that it brings.
    pub program: &'static str,
}

/// Where administrators' programs are; not every account has these in its `PATH`.
pub const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// How often what is missing is asked for.
const INSTALL_TRIES: u32 = 4;

/// Makes the packages available. An error is the one line that installs what is missing.
pub fn provide(packages: &[Package]) -> Result<(), String> {
    // Not once: a package takes away another one of a foreign version, which then comes anew.
    for _ in 0..INSTALL_TRIES {
        let missing = missing(packages, is_there);
        if missing.is_empty() {
            return Ok(());
        }
        if !may_install() {
            break;
        }
        println!("    installing {}", missing.join(" "));
        if !install(&missing) {
            // the usual cause: the lists are empty or older than the mirror
            apt_get(&["update", "-qq"]);
        }
    }
    demand(packages)
}

/// Whether the packages are there; nothing is installed. An error is the line that would.
pub fn demand(packages: &[Package]) -> Result<(), String> {
    let missing = missing(packages, is_there);
    if missing.is_empty() {
        Ok(())
    } else {
        Err(install_line(&missing))
    }
}

fn missing(packages: &[Package], is_there: impl Fn(&str) -> bool) -> Vec<&'static str> {
    packages
        .iter()
        .filter(|package| !is_there(package.program))
        .map(|p| p.name)
        .collect()
}

fn install_line(names: &[&str]) -> String {
    format!(
        "apt-get install -y --no-install-recommends {}",
        names.join(" ")
    )
}

/// The search path of every command that a stage runs.
pub fn search_path() -> String {
    format!(
        "{}:{SYSTEM_PATH}",
        std::env::var("PATH").unwrap_or_default()
    )
}

fn is_there(program: &str) -> bool {
    search_path()
        .split(':')
        .any(|folder| Path::new(folder).join(program).is_file())
}

fn may_install() -> bool {
    let id = Command::new("id").arg("-u").output();
    let is_root = id.is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    is_root && is_there("apt-get")
}

fn install(names: &[&str]) -> bool {
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(names);
    apt_get(&arguments)
}

fn apt_get(arguments: &[&str]) -> bool {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GDISK: Package = Package {
        name: "gdisk",
        program: "sgdisk",
    };
    const SHELL: Package = Package {
        name: "dash",
        program: "sh",
    };

    #[test]
    fn only_what_is_missing_is_named() {
        let missing = missing(&[GDISK, SHELL], |program| program == "sh");
        assert_eq!(missing, ["gdisk"]);
        assert_eq!(
            install_line(&missing),
            "apt-get install -y --no-install-recommends gdisk"
        );
    }

    #[test]
    fn what_is_there_needs_no_installation() {
        assert_eq!(provide(&[SHELL]), Ok(()));
        assert!(!is_there("no-such-program-anywhere"));
    }
}
