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
#[path = "../shell_support/random.rs"]
mod random;
#[path = "../engine/world.rs"]
mod world;

use replication::mutants::{NAMES, choose, law_of};
use std::any::Any;
use std::panic::catch_unwind;

/// Histories after which a mutant counts as unnoticed.
const HISTORIES: u64 = 150;

#[test]
fn every_mutant_is_killed_by_a_law_with_a_name() {
    let only = std::env::var("MUTANT").ok();
    let chosen = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let mut alive = Vec::new();
    for (name, _) in NAMES.iter().filter(|entry| chosen(entry.0)) {
        choose(name).expect("it is in the list");
        let noticed = (1..=HISTORIES).find_map(|seed| {
            let result = catch_unwind(|| histories::history(seed).now);
            result.err().map(|why| (seed, text_of(why.as_ref())))
        });
        match noticed {
            Some((seed, why)) if law_of(&why).is_some() => {
                println!("{name}: killed by seed {seed}: {why:.100}");
            }
            other => alive.push((name, other)),
        }
    }
    choose("").expect("none is always there");
    assert!(alive.is_empty(), "not killed by a law: {alive:?}");
}

fn text_of(why: &(dyn Any + Send)) -> String {
    let text = why.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| why.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
