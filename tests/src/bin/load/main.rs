//! The initiators of the cluster tests, as a process of their own: it knows portals and names,
//! nothing else, and answers each line of its input with one JSON line.
//!
//! `drive` sends single commands. `lock` shares a lock with others and takes `progress N SECONDS`
//! and `stop`. `write` keeps a verified load running and takes `measure`, `gap`,
//! `progress N SECONDS`, `flush`, `stop`, `resume`, `verify`, `verify-flushed` and `status`. `hold`
//! keeps one session and takes `read BLOCK`, `write BLOCK VERSION` and `flush`; these answer when
//! a status arrives.

mod drive;
mod lock;
mod path;

use std::net::SocketAddr;
use std::time::Duration;

use appliance::block::{BLOCK_BYTES, Stamp};
use appliance::load::{Floor, Load, Plan};
use bytes::Bytes;
use clap::{Args, Parser};
use iscsi_target::backend::Fua;
use iscsi_target::initiator::{InitiatorError, Login, Response, Session, cdb};
use serde_json::{Value, json};
use tests::dialogue::{self, say};
use tokio::sync::mpsc;

/// Silence for so long is nothing for a held session: it is not given up while its target is
/// stopped.
const HOLD_MS: u64 = 120_000;
const SECTORS: u64 = 8;

#[derive(Debug, Parser)]
enum Options {
    /// A verified load.
    Write(WriteOptions),
    /// One session that is held.
    Hold(Where),
    /// A lock that is shared with others.
    Lock(LockOptions),
    /// Single commands.
    Drive(Where),
}

#[derive(Args, Debug)]
struct WriteOptions {
    #[command(flatten)]
    at: Where,
    /// First block of 4 KiB.
    #[arg(long, default_value_t = 0)]
    first_block: u64,
    /// Blocks.
    #[arg(long)]
    blocks: u64,
    /// Writers at once.
    #[arg(long, default_value_t = 16)]
    writers: usize,
    /// Milliseconds that each waits between two operations.
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
}

#[derive(Args, Debug)]
struct LockOptions {
    #[command(flatten)]
    at: Where,
    /// The sector that is the lock; the next one is what it protects.
    #[arg(long)]
    lba: u64,
}

#[derive(Args, Debug)]
struct Where {
    /// Address and port.
    #[arg(long)]
    portal: Vec<SocketAddr>,
    /// iSCSI name of the target.
    #[arg(long)]
    target: String,
    /// iSCSI name of this initiator.
    #[arg(long)]
    initiator: String,
    /// Stamped into each block.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() {
    let options = Options::parse();
    let lines = dialogue::lines();
    dialogue::run(async {
        match options {
            Options::Write(options) => write(&options, lines).await,
            Options::Hold(at) => hold(at, lines).await,
            Options::Drive(at) => drive::drive(at, lines).await,
            Options::Lock(options) => lock::lock(options, lines).await,
        }
    });
}

async fn write(options: &WriteOptions, mut lines: mpsc::UnboundedReceiver<String>) {
    let load = Load::start(Plan {
        portals: options.at.portal.clone(),
        target: options.at.target.clone(),
        initiator: options.at.initiator.clone(),
        lun: 0,
        first_block: options.first_block,
        blocks: options.blocks,
        writers: options.writers,
        pause: Duration::from_millis(options.pause_ms),
        seed: options.at.seed,
    });
    while let Some(line) = lines.recv().await {
        let mut answer = match command(&load, &line).await {
            Ok(answer) => answer,
            Err(error) => json!({"ok": false, "error": error}),
        };
        answer["command"] = line.into();
        say(&answer);
    }
}

async fn command(load: &Load, line: &str) -> Result<Value, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|error| format!("{text}: {error}"))
    };
    match words.as_slice() {
        ["measure"] => load.measure(),
        ["gap"] => return Ok(json!({"ok": true, "gap_ms": load.longest_gap_ms()})),
        ["progress", more, seconds] => {
            load.progress(number(more)?, Duration::from_secs(number(seconds)?))
                .await?;
        }
        ["flush"] => load.flush().await?,
        ["stop"] => load.stop().await?,
        ["resume"] => load.resume(),
        ["verify"] => {
            let blocks = load.verify(Floor::Acknowledged).await?;
            return Ok(json!({"ok": true, "blocks": blocks}));
        }
        ["verify-flushed"] => {
            let blocks = load.verify(Floor::Flushed).await?;
            return Ok(json!({"ok": true, "blocks": blocks}));
        }
        ["status"] => {
            return Ok(json!({
                "ok": true, "acknowledged": load.acknowledged(), "in_flight": load.in_flight(),
                "paths": load.paths(), "failure": load.failure(),
                "asked_out": load.asked_out(),
            }));
        }
        _ => return Err("no such command".to_owned()),
    }
    Ok(json!({"ok": true}))
}

async fn hold(at: Where, mut lines: mpsc::UnboundedReceiver<String>) {
    let portal = *at.portal.first().expect("one portal was given");
    let login = Login {
        ping_after_ms: HOLD_MS,
        answer_within_ms: HOLD_MS,
        ..Login::new(&at.initiator, &at.target)
    };
    let session = match Session::login(portal, login).await {
        Ok(session) => session,
        Err(error) => return say(&json!({"ok": false, "error": error.to_string()})),
    };
    say(&json!({"ok": true}));
    while let Some(line) = lines.recv().await {
        let (session, seed) = (session.clone(), at.seed);
        tokio::task::spawn_local(async move {
            let mut answer = match held_command(&session, seed, &line).await {
                Ok(answer) => answer,
                Err(error) => json!({"ok": false, "error": error}),
            };
            answer["command"] = line.into();
            say(&answer);
        });
    }
}

/// Carries out one command once: no retry hides what the target said.
async fn held_command(session: &Session, seed: u64, line: &str) -> Result<Value, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|error| format!("{text}: {error}"))
    };
    let sectors = u32::try_from(SECTORS).expect("8");
    let lun = cdb::lun(0);
    let answer = match words.as_slice() {
        ["read", block] => {
            let command = cdb::read16(number(block)? * SECTORS, sectors);
            session
                .execute(lun, command, Bytes::new(), BLOCK_BYTES)
                .await
        }
        ["write", block, version] => {
            let (block, version) = (number(block)?, number(version)?);
            let command = cdb::write16(block * SECTORS, sectors, Fua::No);
            session
                .execute(
                    lun,
                    command,
                    Stamp {
                        seed,
                        block,
                        version,
                    }
                    .block(),
                    0,
                )
                .await
        }
        ["flush"] => {
            session
                .execute(lun, cdb::synchronize_cache10(), Bytes::new(), 0)
                .await
        }
        _ => return Err("no such command".to_owned()),
    };
    Ok(told(answer))
}

/// `status` is what the target said; without one there is `lost`.
fn told(answer: Result<Response, InitiatorError>) -> Value {
    match answer {
        Ok(answer) => {
            let stamp = Stamp::of(&answer.data);
            let sense = answer
                .sense_code()
                .map(|(key, code, qualifier)| format!("{key:02x}/{code:02x}/{qualifier:02x}"));
            json!({
                "ok": answer.is_good(), "status": answer.status, "sense": sense,
                "block": stamp.map(|stamp| stamp.block),
                "version": stamp.map(|stamp| stamp.version),
                "seed": stamp.map(|stamp| stamp.seed),
            })
        }
        Err(error) => json!({"ok": false, "lost": error.to_string()}),
    }
}
