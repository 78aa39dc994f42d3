//! Many seeds, each a short random history under the oracle.

use crate::histories::history;
use crate::world::World;
use replication::engine::Event;

#[test]
fn random_histories_keep_their_promises() {
    let read = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first = read("SEED").unwrap_or(1);
    let count = read("HISTORIES").unwrap_or(100);
    let mut total = [0; 7];
    for seed in first..first + count {
        println!("seed {seed}");
        let world = history(seed);
        let boss = &world.boss;
        let acked = world
            .answers
            .values()
            .filter(|answer| answer.is_ok())
            .count();
        let counts = [
            boss.promotions,
            boss.degrades,
            boss.readmissions,
            boss.handovers,
            world.replayed,
            world.oracle.excused,
            acked as u64,
        ];
        for (sum, count) in total.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    println!("promotions, degrades, readmissions, handovers, replayed, excused, acked: {total:?}");
    if count >= 300 {
        assert!(
            total[..5].iter().all(|count| *count > 20),
            "the interesting things happen"
        );
    }
}

#[test]
fn the_same_seed_is_the_same_history() {
    let (one, other) = (history(5), history(5));
    assert_eq!((one.now, one.steps), (other.now, other.steps));
    let cache_lost = |world: &World| {
        let events = world.boxes.iter().flat_map(|it| &it.events);
        events
            .filter(|event| matches!(event, Event::CacheLost { .. }))
            .count()
    };
    assert_eq!(cache_lost(&one), cache_lost(&other));
}
