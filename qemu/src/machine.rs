//! One emulated machine: a QEMU process that ends with the value that owns it.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, bail};

use crate::console::Console;
use crate::deadline::Deadline;

/// What a machine starts with.
#[derive(Clone, Debug)]
pub struct Boot {
    /// Kernel image.
    pub kernel: PathBuf,
    /// First root, see [`crate::cpio`].
    pub initramfs: PathBuf,
    /// Added to the kernel command line.
    pub command_line: String,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Folder of this machine alone: its console and QEMU's own messages go there.
    pub folder: PathBuf,
}

/// A running machine. Dropping it kills the process.
#[derive(Debug)]
pub struct Machine {
    process: Child,
    console: Console,
    messages: PathBuf,
}

impl Machine {
    /// Starts QEMU with pure emulation, which every host can do. The kernel panics into a reset
    /// and a reset ends QEMU, so no machine outlives its kernel.
    pub fn start(boot: &Boot) -> anyhow::Result<Self> {
        fs::create_dir_all(&boot.folder)
            .with_context(|| format!("cannot make {}", boot.folder.display()))?;
        let console = Console::new(boot.folder.join("console.log"));
        let messages = boot.folder.join("qemu.log");
        fs::write(console.path(), "").context("cannot empty the console file")?;
        let log = fs::File::create(&messages).context("cannot make QEMU's message file")?;

        let command_line = format!("console=ttyS0 panic=-1 quiet {}", boot.command_line);
        let process = Command::new(QEMU)
            .args([
                "-machine",
                "q35",
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max",
            ])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args(["-m", &format!("{}M", boot.memory_mib)])
            .arg("-serial")
            .arg(format!("file:{}", console.path().display()))
            .arg("-kernel")
            .arg(&boot.kernel)
            .arg("-initrd")
            .arg(&boot.initramfs)
            .args(["-append", command_line.trim_end()])
            .stdin(Stdio::null())
            .stdout(
                log.try_clone()
                    .context("cannot share QEMU's message file")?,
            )
            .stderr(log)
            .spawn();
        match process {
            Ok(process) => Ok(Self {
                process,
                console,
                messages,
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("{QEMU} is missing, install it: {INSTALL}")
            }
            Err(error) => Err(error).context(format!("cannot start {QEMU}")),
        }
    }

    /// Its serial console.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Its process on the host.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits for a complete line on the console. Fails at the deadline or as soon as the machine
    /// has ended without it, with the end of the console in the message.
    pub fn wait_for_line(
        &mut self,
        what: &str,
        deadline: Deadline,
        matches: impl Fn(&str) -> bool,
    ) -> anyhow::Result<String> {
        loop {
            // asked before the console is read: what a machine printed last is still seen
            let ended = self
                .process
                .try_wait()
                .context("cannot ask for QEMU's state")?;
            if let Some(line) = self.console.find(&matches)? {
                return Ok(line);
            }
            if let Some(status) = ended {
                bail!(
                    "the machine ended ({status}) without {what}{}",
                    self.evidence()
                );
            }
            if deadline.has_passed() {
                bail!(
                    "no {what} within {:?}{}",
                    deadline.allowed(),
                    self.evidence()
                );
            }
            deadline.pause();
        }
    }

    /// Waits until the machine has ended by itself.
    pub fn wait_for_end(&mut self, deadline: Deadline) -> anyhow::Result<ExitStatus> {
        loop {
            if let Some(status) = self
                .process
                .try_wait()
                .context("cannot ask for QEMU's state")?
            {
                return Ok(status);
            }
            if deadline.has_passed() {
                bail!(
                    "still running after {:?}{}",
                    deadline.allowed(),
                    self.evidence()
                );
            }
            deadline.pause();
        }
    }

    fn evidence(&self) -> String {
        let messages = fs::read_to_string(&self.messages).unwrap_or_default();
        format!(
            "\nqemu: {}\nconsole:\n{}",
            messages.trim_end(),
            self.console.tail()
        )
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // both fail only if the process has been waited for already
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const QEMU: &str = "qemu-system-x86_64";
const INSTALL: &str = "apt-get install -y --no-install-recommends qemu-system-x86";
