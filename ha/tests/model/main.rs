//! Small scopes of register and rules, walked to exhaustion.

#![expect(clippy::unwrap_used, reason = "a harness stops at the first surprise")]

mod world;

use std::collections::{BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};

use world::{Budget, Seen, Start, World};

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
    println!(
        "{name}: {} states {} {seen:?}",
        known.len(),
        if done { "done" } else { "cut" }
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
};

/// These scopes are walked to the end.
const ALL: usize = 1_000_000;
/// These only so far, unless `STATES` says more.
const PART: usize = 20_000;

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
