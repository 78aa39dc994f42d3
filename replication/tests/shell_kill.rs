//! Law D3 against a process that is killed with writes in the kernel.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod shell_support;

use std::future::poll_fn;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use replication::engine::Io;
use replication::shell::{Backing, IoChoice, LockWait, OpenError, open_disk};
use replication::types::{Fua, OpId, VolumeNumber};
use shell_support::{Folder, Rng};

const SIZE: u64 = 16 << 20;
const BLOCK: u64 = 64 << 10;
const DEPTH: usize = 64;
/// Names the file for the process that is to be killed.
const TARGET: &str = "SHELL_KILL_TARGET";
const WRITING: &str = "writing";

/// Writes at random with many operations in flight, `rounds` times or without end.
async fn write_at_random(path: &Path, rounds: Option<u64>) {
    let volume = VolumeNumber(1);
    let mut disk = open_disk(IoChoice::Auto).unwrap();
    disk.attach(volume, Arc::new(Backing::try_open(path).unwrap()));
    let mut random = Rng(u64::from(std::process::id()));
    let (mut next, mut done) = (0, Vec::new());
    while rounds.is_none_or(|rounds| next < rounds) {
        while disk.in_flight() < DEPTH {
            let offset_bytes = random.below(SIZE / BLOCK) * BLOCK;
            let data = Bytes::from(random.bytes(usize::try_from(BLOCK).unwrap()));
            disk.submit(
                OpId(next),
                volume,
                Io::Write {
                    offset_bytes,
                    data,
                    fua: Fua::No,
                },
            );
            next += 1;
        }
        disk.kick();
        poll_fn(|cx| disk.poll_done(cx, &mut done)).await;
        for completion in done.drain(..) {
            completion.result.unwrap();
        }
        if next > 4 * DEPTH as u64 {
            println!("{WRITING}");
        }
    }
}

/// Run by itself: a writer holds the lock while it lives, and no longer. Run by the test below,
/// with a target: the writer that is killed.
#[tokio::test]
async fn a_writer_that_ends_leaves_the_lock() {
    if let Ok(target) = std::env::var(TARGET) {
        return write_at_random(&PathBuf::from(target), None).await;
    }
    let folder = Folder::new();
    let path = folder.file("a");
    Backing::create_file(&path, SIZE).unwrap();
    write_at_random(&path, Some(500)).await;
    let backing = Backing::open(&path, LockWait::Ms(2000)).await;
    assert_eq!(backing.unwrap().size_bytes(), SIZE);
}

#[tokio::test]
async fn nothing_of_a_killed_writer_lands_after_the_lock_is_taken() {
    for _ in 0..5 {
        let folder = Folder::new();
        let path = folder.file("a");
        Backing::create_file(&path, SIZE).unwrap();
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "a_writer_that_ends_leaves_the_lock",
                "--nocapture",
            ])
            .env(TARGET, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(writer.stdout.take().unwrap()).lines();
        assert!(
            output.any(|line| line.unwrap().contains(WRITING)),
            "the writer ended early"
        );
        let held = Backing::try_open(&path).unwrap_err();
        let OpenError::Held { holder, .. } = held else {
            panic!("{held}")
        };
        assert_eq!(holder.0, Some(writer.id()));
        writer.kill().unwrap();
        let limit = LockWait::Ms(20_000);
        let backing = Backing::open(&path, limit).await.unwrap();
        let at_attach = std::fs::read(&path).unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(
            std::fs::read(&path).unwrap() == at_attach,
            "a write landed after the attach"
        );
        assert_eq!(backing.size_bytes(), SIZE);
        writer.wait().unwrap();
    }
}
