//! Running a program for a limited time, with everything that it started.

use std::io;
use std::process::Stdio;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

/// What is kept of each of its outputs; the rest is read and thrown away.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;

/// How a program ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Its exit code; none: a signal ended it.
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Ended {
    /// The code and what went wrong, for people.
    pub(super) fn words(&self) -> String {
        self.told([&self.stderr, &self.stdout])
    }

    /// The code and what it found, for people.
    pub(super) fn finding(&self) -> String {
        self.told([&self.stdout, &self.stderr])
    }

    fn told(&self, said: [&String; 2]) -> String {
        let said = said.iter().find(|text| !text.trim().is_empty());
        let said = said.map_or("it said nothing", |text| text.trim());
        match self.code {
            Some(code) => format!("exit code {code}: {said}"),
            None => format!("ended by a signal: {said}"),
        }
    }
}

/// A process group that dies when nobody waits for it any more.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended meanwhile; its number is its own until its leader is reaped.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Runs `command` with `input`; dropped, it ends the program and its children.
///
/// # Errors
/// If it cannot be started.
pub(super) async fn run(command: &mut Command, input: &str) -> io::Result<Ended> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    let mut group = Group(pid.map(Pid::from_raw));
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program that does not read its input answers for that with its exit code.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let ((), stdout, stderr) = tokio::join!(feed, read(stdout), read(stderr));
    let status = child.wait().await?;
    group.0 = None;
    Ok(Ended {
        code: status.code(),
        stdout,
        stderr,
    })
}

async fn read(from: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut from) = from else {
        return String::new();
    };
    let mut kept = Vec::new();
    // An error ends the output like its end does.
    let _ = (&mut from)
        .take(OUTPUT_BYTES_MAX)
        .read_to_end(&mut kept)
        .await;
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&kept).into_owned()
}
