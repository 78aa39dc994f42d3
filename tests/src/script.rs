//! Scenarios as text: commands at the left margin, and below each, indented, what they made happen.
//!
//! ```text
//! boot
//!   epoch 2 chosen (Promote): primary san1, in sync san1
//! kill san1
//! wait 3s
//!   ...
//! expect primary san2
//! ```
//!
//! | Command | Does |
//! |---|---|
//! | `boot` | makes the group, until both boxes are in sync |
//! | `load` / `rest` | initiators begin / end |
//! | `kill X`, `start X` | ends and starts a process |
//! | `power-off X`, `power-on X` | the same for a machine |
//! | `pause X`, `resume X` | stops and resumes a process |
//! | `cut WIRE`, `heal` | cuts `replication`, `service`, `witness` or a box, heals all |
//! | `switchover` | the operator asks for it |
//! | `wait 300ms`, `wait 2s` | time passes |
//! | `wait-whole` | until both boxes are in sync, 60 s at most |
//! | `write N blocks` | N blocks at the serving box, all acknowledged within 10 s |
//! | `read-back` | every used block through the serving box, checked by the oracle |
//! | `expect primary X` / `expect primary none` | who serves |
//! | `expect in-sync X [Y]` | the committed set |

use std::fmt::Write as _;

use crate::client::Kind;
use crate::faults::Options;
use crate::net::{BOXES, Host, Link, SAN1, SAN2, WITNESS};
use crate::oracle::{Range, Stable};
use crate::world::content::{SECTORS_PER_BLOCK, Value};
use crate::world::inflict::{both_ways, ways_of};
use crate::world::trace::Trace;
use crate::world::{Event, MS, World};

/// Runs a scenario; the same text with what really happened below each command.
///
/// # Errors
/// The command that could not be understood or whose expectation failed.
pub fn run(text: &str) -> Result<String, String> {
    let mut world = World::new(1, Options::calm(), Trace::silent());
    let mut out = String::new();
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("  ") {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        let command = line.split('#').next().unwrap_or("").trim();
        if command.is_empty() {
            continue;
        }
        let done = world.command(command);
        for happened in world.take_story() {
            writeln!(out, "  {happened}").expect("a string takes everything");
        }
        done.map_err(|why| format!("line {}: {command}: {why}\n\n{out}", number + 1))?;
    }
    Ok(out)
}

impl World {
    fn command(&mut self, command: &str) -> Result<(), String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[..] {
            ["boot"] => {
                self.bootstrap(false);
                self.loaded = false;
            }
            ["load"] => self.loaded = true,
            ["rest"] => self.loaded = false,
            ["kill", host] => self.kill(host_of(host)?),
            ["start" | "power-on", host] => self.schedule(0, Event::Boot(host_of(host)?)),
            ["power-off", host] => self.power_off(host_of(host)?),
            ["pause", host] => self.pause(host_of(host)?, u64::MAX / 4),
            ["resume", host] => self.go_on(host_of(host)?),
            ["cut", wire] => self.cut_wire(wire)?,
            ["heal"] => self.net.heal_all(self.now),
            ["switchover"] => self.switchover(None),
            ["wait", time] => self.run(time_of(time)?),
            ["wait-whole"] => {
                let whole = self.run_until(60_000 * MS, Self::is_whole);
                expect(whole, || "not in sync within 60 s".to_owned())?;
            }
            ["write", count, "blocks"] => self.write_blocks(count)?,
            ["read-back"] => self.read_back()?,
            ["expect", "primary", who] => self.expect_primary(who)?,
            ["expect", "in-sync", ref who @ ..] => self.expect_in_sync(who)?,
            _ => return Err("no such command".to_owned()),
        }
        Ok(())
    }

    fn go_on(&mut self, host: Host) {
        let start = match host {
            WITNESS => self.witness.process.as_ref().map(|guard| guard.start),
            _ => self
                .machine(host)
                .process
                .as_ref()
                .map(|process| process.start),
        };
        if let Some(start) = start {
            self.schedule(0, Event::Resume(host, start));
        }
    }

    fn cut_wire(&mut self, wire: &str) -> Result<(), String> {
        let ways = match wire {
            "replication" => both_ways(SAN1, SAN2, Link::Replication),
            "service" => both_ways(SAN1, SAN2, Link::Service),
            host => ways_of(host_of(host)?),
        };
        for (from, to, link) in ways {
            self.net.cut(from, to, link);
        }
        Ok(())
    }

    fn write_blocks(&mut self, count: &str) -> Result<(), String> {
        let count: u64 = count.parse().map_err(|_| format!("{count} is no number"))?;
        let to = self.login()?;
        for _ in 0..count {
            let version = self.next_version;
            self.next_version += 1;
            let first = self.rng.below(self.options.blocks) * SECTORS_PER_BLOCK;
            let range = Range {
                volume: 1,
                first,
                sectors: SECTORS_PER_BLOCK,
            };
            let value = Value(version);
            let stable = Stable::No;
            self.issue(
                None,
                to,
                Kind::Write {
                    range,
                    value,
                    stable,
                    expected: None,
                    id: None,
                },
            );
        }
        self.finish("writes")
    }

    fn read_back(&mut self) -> Result<(), String> {
        let to = self.login()?;
        for range in self.data.used_ranges(1) {
            self.issue(None, to, Kind::Read(range));
        }
        self.finish("reads")
    }

    fn finish(&mut self, what: &str) -> Result<(), String> {
        let done = self.run_until(10_000 * MS, |world| world.commands.is_empty());
        expect(done, || format!("the {what} were not answered within 10 s"))
    }

    fn login(&mut self) -> Result<(Host, u32), String> {
        let host = self.serving().ok_or("no box serves")?;
        Ok((host, self.machine(host).process().start))
    }

    fn expect_primary(&self, who: &str) -> Result<(), String> {
        let serves: Vec<String> = BOXES
            .iter()
            .filter(|host| self.machines[host.index()].serves())
            .map(Host::to_string)
            .collect();
        let found = if serves.is_empty() {
            "none".to_owned()
        } else {
            serves.join(" ")
        };
        expect(found == who, || format!("{found} serves"))
    }

    fn expect_in_sync(&self, who: &[&str]) -> Result<(), String> {
        let found: Vec<String> = self
            .register
            .in_sync()
            .iter()
            .map(Host::to_string)
            .collect();
        expect(found == who, || format!("in sync is {}", found.join(" ")))
    }
}

fn expect(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

fn host_of(word: &str) -> Result<Host, String> {
    match word {
        "san1" => Ok(SAN1),
        "san2" => Ok(SAN2),
        "witness" => Ok(WITNESS),
        _ => Err(format!("{word} is no machine")),
    }
}

fn time_of(word: &str) -> Result<u64, String> {
    let number = |digits: &str| {
        digits
            .parse::<u64>()
            .map_err(|_| format!("{word} is no time"))
    };
    if let Some(ms) = word.strip_suffix("ms") {
        return Ok(number(ms)? * MS);
    }
    let s = word
        .strip_suffix('s')
        .ok_or_else(|| format!("{word} is no time"))?;
    Ok(number(s)? * 1000 * MS)
}
