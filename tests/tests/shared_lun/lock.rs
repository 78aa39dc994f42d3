//! A lock made of COMPARE AND WRITE, as cluster file systems and hypervisors use it.

use std::io::Write as _;
use std::time::Duration;

use serde_json::Value;
use tests::lab::{Initiator, Lab, Net};

use super::{INITIATORS, initiator, pair};

/// Where the lock is, in sectors; no other test data are on the volume.
const LOCK_LBA: u64 = 4096;
/// How often the primary is killed.
const FAILOVERS: u32 = 20;
/// Stays of each initiator that show that it gets its turn.
const STAYS: u64 = 5;
/// Within this every initiator gets its turn, whatever has just failed.
const TURN_S: u64 = 60;

/// One stay inside the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stay {
    initiator: usize,
    count: u64,
    entered_ns: u64,
    left_ns: u64,
}

/// X50, X53, Z14, Z33: four initiators take turns with a lock made of COMPARE AND WRITE. However
/// often the primary dies, never are two inside, and no one's count is lost or done twice.
#[test]
fn x50_x53_z14_z33_a_lock_lets_one_in_across_fail_overs() {
    let mut lab = pair();
    let mut lockers: Vec<Initiator> = (0..INITIATORS.len())
        .map(|number| locker(&mut lab, number))
        .collect();
    take_turns(&mut lockers);
    for _ in 0..FAILOVERS {
        let primary = lab.primary();
        lab.kill(primary);
        take_turns(&mut lockers);
        lab.start(primary);
        lab.protected(primary.other());
    }
    let stays: Vec<Stay> = lockers.iter_mut().enumerate().flat_map(stays).collect();
    judge(stays);
    assert_eq!(lab.first_difference(), None, "the data areas differ");
}

fn locker(lab: &mut Lab, number: usize) -> Initiator {
    let lba = LOCK_LBA.to_string();
    initiator(lab, "lock", number, &Net::FABRICS, &["--lba", &lba])
}

fn take_turns(lockers: &mut [Initiator]) {
    for locker in lockers {
        locker.progress(STAYS, Duration::from_secs(TURN_S));
    }
}

fn stays((initiator, locker): (usize, &mut Initiator)) -> Vec<Stay> {
    let said = locker.must("stop");
    let all = said["stays"].as_array().expect("it tells its stays");
    let number = |value: &Value| value.as_u64().expect("a number");
    all.iter()
        .map(|stay| Stay {
            initiator,
            count: number(&stay[0]),
            entered_ns: number(&stay[1]),
            left_ns: number(&stay[2]),
        })
        .collect()
}

/// Each count was made by one initiator, none is missing, and each began after the last one ended.
fn judge(mut stays: Vec<Stay>) {
    stays.sort_by_key(|stay| stay.entered_ns);
    // Not a print macro: the line shall be seen although the test passes.
    writeln!(std::io::stdout(), "stays {}", stays.len()).expect("stdout");
    for pair in stays.windows(2) {
        let [first, second] = [pair[0], pair[1]];
        assert!(
            first.left_ns < second.entered_ns,
            "two were inside: {first:?}, {second:?}"
        );
        assert_eq!(
            first.count + 1,
            second.count,
            "a count was lost or done twice: {first:?}, {second:?}"
        );
    }
    let turns = u64::from(FAILOVERS) * STAYS * 4;
    assert!(u64::try_from(stays.len()).is_ok_and(|count| count > turns));
    assert_eq!(stays[0].count, 1);
}

/// The judge sees what it must see.
#[test]
#[should_panic(expected = "two were inside")]
fn two_inside_at_once_are_noticed() {
    let stay = |initiator, count, entered_ns, left_ns| Stay {
        initiator,
        count,
        entered_ns,
        left_ns,
    };
    judge(vec![stay(0, 1, 10, 20), stay(1, 2, 19, 30)]);
}

#[test]
#[should_panic(expected = "a count was lost")]
fn a_count_done_twice_is_noticed() {
    let stay = |initiator, count, entered_ns, left_ns| Stay {
        initiator,
        count,
        entered_ns,
        left_ns,
    };
    judge(vec![stay(0, 1, 10, 20), stay(1, 1, 21, 30)]);
}
