//! Small scopes of register and rules, walked to exhaustion: `cargo model`, or as far as a unit
//! test may take.

#![expect(clippy::unwrap_used, reason = "a harness stops at the first surprise")]

mod lease;
mod operator;
mod world;

use std::collections::{BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};

use world::{Budget, Seen, Start, World};

/// What is checked in every world, or at the step that could break it.
const PROPERTIES: [&str; 6] = [
    "no two boxes of a lineage may answer",
    "no two boxes of a lineage are alone",
    "who may answer has every write acknowledged in its lineage",
    "who acknowledges has every write acknowledged before",
    "no copy overwrites acknowledged writes that its source lacks",
    "no voter that lost its record votes",
];

/// Two lanes of 64 bits: among millions of worlds no two have the same key.
struct Lanes(u64, u64);

impl Hasher for Lanes {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
        self.1 = (self.1 ^ value)
            .wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
            .rotate_left(31);
    }
}

fn key(world: &World) -> u128 {
    let mut lanes = Lanes(1, 2);
    world.hash(&mut lanes);
    (u128::from(lanes.0) << 64) | u128::from(lanes.1)
}

/// Walks every world, or as many as `limit` or the environment's `STATES` say; panics at one
/// that breaks a law.
fn walk(name: &str, start: Start, budget: Budget, limit: usize) -> Seen {
    let asked = std::env::var("STATES")
        .ok()
        .and_then(|text| text.parse().ok());
    let limit: usize = asked.unwrap_or(limit);
    #[cfg(feature = "mutants")]
    if let Ok(name) = std::env::var("MUTANT") {
        ha::mutants::choose(&name).unwrap();
    }
    let mut seen = Seen::default();
    let first = World::new(start, budget);
    let mut known = BTreeSet::from([key(&first)]);
    let mut queue = VecDeque::from([first]);
    let mut done = true;
    while let Some(world) = queue.pop_front() {
        for next in world.next(&mut seen) {
            if known.insert(key(&next)) {
                next.check(&mut seen);
                queue.push_back(next);
            }
        }
        if known.len() > limit {
            done = false;
            break;
        }
    }
    let end = if done { "done" } else { "cut" };
    println!(
        "{name}: {} states {end}\n  held: {}\n  seen: {}",
        known.len(),
        PROPERTIES.join("; "),
        seen.names().join(", ")
    );
    seen
}

const SMALL: Budget = Budget {
    ballots: [1, 1],
    writes: 1,
    crashes: 0,
    losses: 1,
    copies: 0,
    failures: 0,
    wipes: 0,
    forces: 0,
    handovers: 0,
};

/// These scopes are walked to the end.
const ALL: usize = 1_000_000;
/// These only so far, unless `STATES` says more; `cargo model` goes further than the unit tests.
const PART: usize = if cfg!(debug_assertions) {
    20_000
} else {
    400_000
};

#[test]
fn both_in_sync_one_ballot_each() {
    let seen = walk("in sync, 1 ballot each", Start::InSync, SMALL, ALL);
    assert!(seen.solo && seen.promoted && seen.leased_read && seen.sealed_frame);
}

#[test]
fn both_in_sync_a_crash_and_two_ballots_of_the_standby() {
    let budget = Budget {
        ballots: [1, 2],
        crashes: 1,
        ..SMALL
    };
    let seen = walk("in sync, crash", Start::InSync, budget, PART);
    assert!(seen.promoted);
}

#[test]
fn alone_with_a_copied_peer_one_ballot_each() {
    let seen = walk("alone, copied", Start::Solo, SMALL, PART);
    assert!(seen.readmitted && seen.refused);
}

#[test]
fn alone_with_a_copied_peer_two_ballots_of_the_primary() {
    let budget = Budget {
        ballots: [2, 1],
        ..SMALL
    };
    let seen = walk("alone, copied, 2 ballots", Start::Solo, budget, PART);
    assert!(seen.readmitted && seen.refused);
}

#[test]
fn one_commit_behind() {
    let seen = walk("one commit behind", Start::Behind, SMALL, ALL);
    assert!(seen.promoted && seen.solo);
}

#[test]
fn both_in_sync_and_the_disk_of_a_box_fails() {
    let budget = Budget {
        failures: 1,
        losses: 0,
        ..SMALL
    };
    let seen = walk("in sync, a disk fails", Start::InSync, budget, ALL);
    assert!(seen.detached && seen.claimed && seen.leased_read);
}

#[test]
fn a_disk_fails_while_readmission_is_in_doubt() {
    let budget = Budget {
        ballots: [2, 1],
        losses: 0,
        failures: 1,
        ..SMALL
    };
    let seen = walk("alone, copied, a disk fails", Start::Solo, budget, PART);
    assert!(seen.readmitted);
}

#[test]
fn s2_the_witness_is_wiped() {
    let budget = Budget { wipes: 1, ..SMALL };
    let seen = walk("S2 witness wiped", Start::InSync, budget, ALL);
    assert!(seen.wiped_refused && seen.solo && seen.promoted);
}

#[test]
fn s3_a_handover() {
    let budget = Budget {
        handovers: 1,
        losses: 0,
        ..SMALL
    };
    let seen = walk("S3 handover", Start::InSync, budget, ALL);
    assert!(seen.handed_over && seen.claimed && seen.leased_read);
}

#[test]
fn s4_a_box_is_forced_alone_and_the_other_goes_on() {
    let budget = Budget {
        ballots: [1, 0],
        forces: 1,
        copies: 1,
        ..SMALL
    };
    let seen = walk("S4 forced alone", Start::InSync, budget, ALL);
    assert!(seen.forced_alone && seen.solo && seen.yielded && seen.parted);
}

#[test]
fn s4_a_stale_box_is_forced_by_a_vote() {
    let budget = Budget {
        ballots: [0, 1],
        forces: 1,
        copies: 1,
        losses: 0,
        ..SMALL
    };
    let seen = walk("S4 forced by a vote", Start::Stale, budget, ALL);
    assert!(seen.forced && seen.yielded && seen.parted);
}

/// Each mutant, and the scope in which a property is broken by it.
#[cfg(feature = "mutants")]
const KILLS: [(&str, &str, &str); 3] = [
    (
        "force-in-lineage",
        "s4_a_box_is_forced_alone_and_the_other_goes_on",
        "two leases",
    ),
    (
        "force-keeps-base",
        "s4_a_stale_box_is_forced_by_a_vote",
        "a copy overwrites what only its target has",
    ),
    (
        "ignore-in-sync",
        "s4_a_stale_box_is_forced_by_a_vote",
        "two leases",
    ),
];

#[cfg(feature = "mutants")]
#[test]
fn mutants_are_killed_by_a_property() {
    if std::env::var_os("MUTANT").is_some() {
        return;
    }
    for (mutant, scope, property) in KILLS {
        let own = std::env::current_exe().unwrap();
        let mut command = std::process::Command::new(own);
        command.args(["--exact", scope]).env("MUTANT", mutant);
        let output = command.env("RUST_BACKTRACE", "0").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let killed = text.contains("1 failed") && text.contains(property);
        assert!(killed, "{mutant} survives {scope}: {text:.2000}");
    }
}
