//! Every seed, through the entry points that the fuzzer uses.

use std::fs;
use std::path::Path;

/// A folder of seeds and its entry point.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 3] = [
    ("pdus", iscsi_target_fuzz::pdus),
    ("login", iscsi_target_fuzz::login),
    ("commands", iscsi_target_fuzz::commands),
];
/// The corpus stays small.
const CORPUS_MAX_BYTES: usize = 200 * 1024;

fn seeds(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let mut seeds: Vec<_> = fs::read_dir(&folder)
        .expect("the corpus is there")
        .map(|entry| {
            let path = entry.expect("a folder can be read").path();
            (path.display().to_string(), fs::read(&path).expect("a seed"))
        })
        .collect();
    seeds.sort();
    seeds
}

#[test]
fn no_seed_breaks_a_promise() {
    let mut total_bytes = 0;
    for (name, run) in TARGETS {
        let seeds = seeds(name);
        assert!(seeds.len() >= 16, "only {} seeds for {name}", seeds.len());
        for (path, seed) in seeds {
            println!("{path}");
            run(&seed);
            total_bytes += seed.len();
        }
    }
    assert!(total_bytes < CORPUS_MAX_BYTES, "{total_bytes} bytes");
}

/// What was cut off somewhere is as good as any noise.
#[test]
fn no_cut_seed_breaks_a_promise() {
    for (name, run) in TARGETS {
        for (path, seed) in seeds(name) {
            let step = (seed.len() / 8).max(1);
            for end in (0..seed.len()).step_by(step) {
                println!("{path} cut to {end}");
                run(&seed[..end]);
            }
        }
    }
}
