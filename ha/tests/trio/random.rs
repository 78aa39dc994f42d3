//! Thousands of histories with random faults; the oracle looks after every event, and at the end
//! everything heals and the pair must serve and get in sync again.

use ha::Role;

use crate::world::{A, B, MS, Trio, W, Weather};

fn weather(trio: &mut Trio) -> Weather {
    Weather {
        loss_percent: trio.random.pick(&[0, 0, 2, 10, 30]),
        duplicate_percent: trio.random.pick(&[0, 5, 20]),
        delay_min_us: 20,
        delay_max_us: trio.random.pick(&[300, 5_000, 60_000]),
        fsync_max_us: trio.random.pick(&[1_000, 10_000, 200_000]),
    }
}

fn fault(trio: &mut Trio) {
    let node = trio.random.pick(&[A, B, W]);
    let other = trio.random.pick(&[A, B, W]);
    match trio.random.below(12) {
        0 | 1 if trio.is_on(node) => {
            trio.kill(node);
            if trio.random.percent(50) {
                trio.machines.get_mut(&node).unwrap().boot += 1;
            }
        }
        2 if trio.is_on(node) => trio.restart(node),
        0..=3 => {
            if !trio.is_on(node) {
                trio.start(node);
            }
        }
        4 | 5 if node != other => trio.cut(node, other),
        6 if node != other => {
            trio.cut.insert((node, other));
        }
        7 => trio.heal(),
        8 if trio.is_on(node) => trio.stop(node),
        8 | 9 => {
            if trio.is_on(node) && trio.machines[&node].stopped {
                if trio.random.percent(30) {
                    let slept = trio.random.below(3_000) * MS;
                    let machine = trio.machines.get_mut(&node).unwrap();
                    machine.suspended_ns = (machine.suspended_ns + slept).min(trio.now / 4);
                }
                trio.resume(node);
            }
        }
        10 => trio.weather = weather(trio),
        _ => {
            for node in [A, B] {
                if trio.is_on(node) && !trio.machines[&node].stopped {
                    trio.switchover(node, trio.now);
                }
            }
        }
    }
}

fn history(seed: u64) -> Trio {
    let mut trio = Trio::new(seed);
    for node in [A, B, W] {
        let rate = i64::try_from(trio.random.below(2_001)).unwrap() - 1_000;
        trio.machines.get_mut(&node).unwrap().rate_ppm = rate;
    }
    if trio.random.percent(80) {
        trio.settle();
    }
    let faults = 4 + trio.random.below(20);
    for _ in 0..faults {
        fault(&mut trio);
        let pause = trio.random.pick(&[1, 20, 300, 2_500]);
        let pause = trio.random.below(pause) + 1;
        trio.run(pause);
    }
    trio.heal();
    trio.weather = Weather::CALM;
    for node in [A, B, W] {
        if !trio.is_on(node) {
            trio.start(node);
        } else if trio.machines[&node].stopped {
            trio.resume(node);
        }
    }
    let done = trio.run_until(60_000, Trio::is_settled);
    assert!(done, "seed {seed} does not settle: {}", trio.describe());
    trio
}

fn histories() -> u64 {
    std::env::var("HISTORIES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1_500)
}

#[test]
fn random_histories_keep_the_laws_and_settle() {
    let first: u64 = std::env::var("SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let (mut promotions, mut solo, mut readmitted, mut handovers) = (0, 0, 0, 0);
    for seed in first..first + histories() {
        if std::env::var_os("TRIO_SEEDS").is_some() {
            println!("seed {seed}");
        }
        let trio = history(seed);
        assert_eq!(
            trio.node(trio.primary().unwrap()).status().role,
            Role::PrimarySync
        );
        promotions += trio.oracle.promotions;
        solo += trio.oracle.solo;
        readmitted += trio.oracle.readmitted;
        handovers += trio.oracle.handovers;
    }
    println!(
        "{} histories: {promotions} promotions, {solo} degrades, {readmitted} readmissions, \
         {handovers} handovers",
        histories()
    );
    if histories() >= 100 {
        assert!(promotions > 0 && solo > 0 && readmitted > 0 && handovers > 0);
    }
}
