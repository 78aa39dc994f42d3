//! An array with many hosts and units in memory, as a process of its own whose memory can be
//! looked at. Host number H is `iqn.2026-11.org.example:hostH` and sees unit number L as LUN L.
//!
//! Prints where it listens as one JSON line, then answers each line of its input with one:
//! `unmap H L`, `map H L`, `hold L`, `held L`, `release L`, `sessions`.

use std::collections::BTreeSet;
use std::rc::Rc;

use clap::Parser;
use iscsi_target::hosts::{Access, HostConfig, MapConfig, MapTarget};
use iscsi_target::memory::{Answers, MemoryBackend};
use iscsi_target::registry::Limits;
use iscsi_target::scsi::{ArrayConfig, Medium, Reserved, UnitConfig, UnitId};
use iscsi_target::shell::{Target, TargetSettings};
use serde_json::{Value, json};
use tests::dialogue::{self, say};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Blocks of 512 bytes in a unit.
const BLOCKS: u64 = 2048;

#[derive(Debug, Parser)]
struct Options {
    /// Hosts.
    #[arg(long)]
    hosts: u16,
    /// Units; each host sees all.
    #[arg(long)]
    luns: u16,
    /// iSCSI name of the target.
    #[arg(long)]
    target: String,
}

struct Served {
    options: Options,
    target: Target,
    units: Vec<Rc<MemoryBackend>>,
    hidden: BTreeSet<(u16, u16)>,
}

fn main() {
    dialogue::run(serve(Options::parse(), dialogue::lines()));
}

async fn serve(options: Options, mut lines: mpsc::UnboundedReceiver<String>) {
    let settings = TargetSettings {
        name: options.target.clone(),
        alias: "array".to_owned(),
        limits: Limits::default(),
    };
    let unit = |_| Rc::new(MemoryBackend::thin(BLOCKS));
    let mut served = Served {
        units: (0..options.luns).map(unit).collect(),
        target: Target::new(settings),
        hidden: BTreeSet::new(),
        options,
    };
    served.apply();
    served.target.activate();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let portal = listener.local_addr().expect("it is bound");
    let target = served.target.clone();
    tokio::task::spawn_local(async move { target.serve(listener, 1).await });
    say(&json!({"ok": true, "portal": portal.to_string()}));
    while let Some(line) = lines.recv().await {
        let answer = served
            .command(&line)
            .unwrap_or_else(|| json!({"ok": false, "error": format!("no such command: {line}")}));
        say(&answer);
    }
}

impl Served {
    fn command(&mut self, line: &str) -> Option<Value> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |text: &str| text.parse::<u16>().ok();
        match words.as_slice() {
            ["unmap", host, lun] => {
                self.hidden.insert((number(host)?, number(lun)?));
                self.apply();
            }
            ["map", host, lun] => {
                self.hidden.remove(&(number(host)?, number(lun)?));
                self.apply();
            }
            ["hold", lun] => self.unit(number(lun)?)?.answer(Answers::Held),
            ["held", lun] => {
                let held = self.unit(number(lun)?)?.held();
                return Some(json!({"ok": true, "held": held}));
            }
            ["release", lun] => {
                let unit = self.unit(number(lun)?)?;
                unit.answer(Answers::AtOnce);
                unit.release();
            }
            ["sessions"] => {
                return Some(json!({"ok": true, "sessions": self.target.sessions().len()}));
            }
            _ => return None,
        }
        Some(json!({"ok": true}))
    }

    fn unit(&self, lun: u16) -> Option<&Rc<MemoryBackend>> {
        self.units.get(usize::from(lun))
    }

    /// Puts the whole configuration in force, as a box does after every change.
    fn apply(&self) {
        let hosts = (0..self.options.hosts).map(|host| HostConfig {
            name: format!("host{host}"),
            initiators: vec![format!("iqn.2026-11.org.example:host{host}")],
            chap: None,
            networks: Vec::new(),
        });
        let maps = (0..self.options.hosts).flat_map(|host| {
            let shown = (0..self.options.luns).filter(move |lun| {
                let hidden = &self.hidden;
                !hidden.contains(&(host, *lun))
            });
            shown.map(move |lun| MapConfig {
                target: MapTarget::Host(format!("host{host}")),
                lun,
                unit: UnitId(u128::from(lun) + 1),
                access: Access::ReadWrite,
            })
        });
        let units = (0..).zip(&self.units).map(|(number, backend)| UnitConfig {
            id: UnitId(number + 1),
            name: format!("unit{number}"),
            backend: Rc::clone(backend) as _,
            medium: Medium::Fixed,
            reserved: Reserved::Live,
        });
        let config = ArrayConfig {
            hosts: hosts.collect(),
            maps: maps.collect(),
            units: units.collect(),
            ..ArrayConfig::default()
        };
        self.target.apply(config).expect("a good configuration");
    }
}
