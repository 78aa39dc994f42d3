//! Every mutant is noticed by the histories. One test, because the choice is process-wide.
#![cfg(feature = "mutants")]

#[path = "../engine/boss.rs"]
mod boss;
#[path = "../engine/checks.rs"]
mod checks;
#[path = "../engine/disk.rs"]
mod disk;
#[path = "../engine/histories.rs"]
mod histories;
#[path = "../engine/oracle.rs"]
mod oracle;
#[path = "../engine/world.rs"]
mod world;

use replication::mutants::{NAMES, choose};
use std::panic::catch_unwind;

/// Histories after which a mutant counts as unnoticed.
const HISTORIES: u64 = 150;

#[test]
fn every_mutant_is_killed() {
    let only = std::env::var("MUTANT").ok();
    let mut alive = Vec::new();
    for (name, _) in NAMES
        .iter()
        .filter(|(name, _)| only.as_deref().is_none_or(|o| o == *name))
    {
        choose(name).expect("it is in the list");
        let noticed = (1..=HISTORIES).find_map(|seed| {
            let result = catch_unwind(|| histories::history(seed).now);
            result.err().map(|why| (seed, why))
        });
        match noticed {
            Some((seed, why)) => {
                let text = why.downcast_ref::<String>().cloned();
                let text = text.or_else(|| why.downcast_ref::<&str>().map(ToString::to_string));
                let text: String = text.unwrap_or_default().chars().take(100).collect();
                println!("{name}: killed by seed {seed}: {text}");
            }
            None => alive.push(*name),
        }
    }
    choose("").expect("none is always there");
    println!(
        "{} of {} mutants killed",
        NAMES.len() - alive.len(),
        NAMES.len()
    );
    assert!(alive.is_empty(), "alive: {alive:?}");
}
