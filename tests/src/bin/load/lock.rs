//! A lock that cluster file systems build from COMPARE AND WRITE: one sector says who is in. Who is
//! in counts up another sector with a plain read and a plain write, which two at once would spoil.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use iscsi_target::backend::Fua;
use iscsi_target::initiator::cdb;
use replication::shell::boot_time;
use serde_json::{Value, json};
use tests::dialogue::say;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::LockOptions;
use crate::path::{Fate, Path};

const SECTOR_BYTES: usize = 512;
/// Rests between two looks at a lock that somebody else has.
const REST: Duration = Duration::from_millis(2);
/// Sense key MISCOMPARE (SPC-4 table 43).
const MISCOMPARE: u8 = 0x0e;

/// One stay inside, on the clock that all processes of a machine share.
struct Stay {
    count: u64,
    entered_ns: u64,
    left_ns: u64,
}

#[derive(Default)]
struct Journal {
    stays: Vec<Stay>,
    failure: Option<String>,
    stopping: bool,
    stopped: bool,
}

struct Locker {
    path: Path,
    lock_lba: u64,
    owner: u64,
    tries: u64,
    journal: Rc<RefCell<Journal>>,
}

/// Takes `progress N SECONDS` and `stop`, which gives every stay.
pub(crate) async fn lock(options: LockOptions, mut lines: mpsc::UnboundedReceiver<String>) {
    let journal = Rc::new(RefCell::new(Journal::default()));
    let locker = Locker {
        path: Path::new(&options.at),
        lock_lba: options.lba,
        owner: options.at.seed,
        tries: 0,
        journal: Rc::clone(&journal),
    };
    tokio::task::spawn_local(locker.run());
    while let Some(line) = lines.recv().await {
        let answer = match answer(&journal, &line).await {
            Ok(answer) => answer,
            Err(error) => json!({"ok": false, "error": error}),
        };
        say(&answer);
    }
}

async fn answer(journal: &RefCell<Journal>, line: &str) -> Result<Value, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["progress", more, seconds] => {
            let goal = stays(journal) + number(more)?;
            let limit = Duration::from_secs(number(seconds)?);
            until(journal, limit, || stays(journal) >= goal).await?;
        }
        ["stop"] => {
            journal.borrow_mut().stopping = true;
            let limit = Duration::from_secs(60);
            until(journal, limit, || journal.borrow().stopped).await?;
            let all: Vec<[u64; 3]> = journal
                .borrow()
                .stays
                .iter()
                .map(|stay| [stay.count, stay.entered_ns, stay.left_ns])
                .collect();
            return Ok(json!({"ok": true, "stays": all}));
        }
        _ => return Err("no such command".to_owned()),
    }
    Ok(json!({"ok": true}))
}

fn stays(journal: &RefCell<Journal>) -> u64 {
    u64::try_from(journal.borrow().stays.len()).expect("a count")
}

async fn until(
    journal: &RefCell<Journal>,
    limit: Duration,
    reached: impl Fn() -> bool,
) -> Result<(), String> {
    let end = Instant::now() + limit;
    while !reached() {
        if let Some(failure) = &journal.borrow().failure {
            return Err(failure.clone());
        }
        if Instant::now() > end {
            return Err(format!("{} stays and no more", stays(journal)));
        }
        sleep(REST).await;
    }
    Ok(())
}

impl Locker {
    async fn run(mut self) {
        while !self.journal.borrow().stopping {
            if let Err(failure) = self.stay().await {
                self.journal.borrow_mut().failure = Some(failure);
                return;
            }
            sleep(REST).await;
        }
        self.journal.borrow_mut().stopped = true;
    }

    async fn stay(&mut self) -> Result<(), String> {
        let token = self.enter().await?;
        let entered_ns = boot_time().0;
        let before = self.read(self.lock_lba + 1).await?;
        let count = u64::from_be_bytes(before[..8].try_into().expect("eight bytes")) + 1;
        let mut after = BytesMut::zeroed(SECTOR_BYTES);
        after[..8].copy_from_slice(&count.to_be_bytes());
        after[8..16].copy_from_slice(&self.owner.to_be_bytes());
        let write = cdb::write16(self.lock_lba + 1, 1, Fua::No);
        self.path.until_good(write, after.freeze(), 0).await?;
        let left_ns = boot_time().0;
        self.leave(&token).await?;
        let mut journal = self.journal.borrow_mut();
        journal.stays.push(Stay {
            count,
            entered_ns,
            left_ns,
        });
        Ok(())
    }

    /// Tries until this owner is in. A try of unknown fate is settled by looking: its token is
    /// there, or it never will be.
    async fn enter(&mut self) -> Result<Bytes, String> {
        loop {
            self.tries += 1;
            let token = sector(&[self.owner, self.tries]);
            match self.swap(&sector(&[]), &token).await {
                Fate::Answered(answer) if answer.is_good() => return Ok(token),
                Fate::Answered(answer) if answer.sense_code().is_some_and(is_miscompare) => {
                    sleep(REST).await;
                }
                Fate::Answered(answer) => return Err(format!("no lock: {answer:?}")),
                Fate::Unknown => {
                    if self.read(self.lock_lba).await? == token {
                        return Ok(token);
                    }
                }
            }
        }
    }

    async fn leave(&mut self, token: &Bytes) -> Result<(), String> {
        let mut is_sure = true;
        loop {
            match self.swap(token, &sector(&[])).await {
                Fate::Answered(answer) if answer.is_good() => return Ok(()),
                Fate::Answered(answer) if answer.sense_code().is_some_and(is_miscompare) => {
                    if is_sure {
                        return Err("somebody else took a lock that was held".to_owned());
                    }
                    return Ok(());
                }
                Fate::Answered(answer) => return Err(format!("no release: {answer:?}")),
                Fate::Unknown => is_sure = false,
            }
        }
    }

    async fn swap(&mut self, from: &Bytes, to: &Bytes) -> Fate {
        let command = cdb::compare_and_write(self.lock_lba, 1);
        let data = [&from[..], &to[..]].concat().into();
        self.path.attempt(command, data, 0).await
    }

    async fn read(&mut self, lba: u64) -> Result<Bytes, String> {
        let command = cdb::read16(lba, 1);
        self.path
            .until_good(command, Bytes::new(), SECTOR_BYTES)
            .await
    }
}

fn is_miscompare((key, _, _): (u8, u8, u8)) -> bool {
    key == MISCOMPARE
}

/// A sector that begins with these numbers; without any it says that nobody is in.
fn sector(numbers: &[u64]) -> Bytes {
    let mut sector = BytesMut::zeroed(SECTOR_BYTES);
    for (place, number) in sector.chunks_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    sector.freeze()
}
