//! Writes the seeds under `corpus/`: what our own initiator sends, and what nobody should.
//!
//! `cargo run -p iscsi-target-fuzz --bin seeds` after a change here.

mod commands;
mod logins;
mod nasties;
mod requests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Name and contents of each.
type Seeds = Vec<(String, Vec<u8>)>;

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut pdus = requests::seeds();
    pdus.extend(nasties::seeds());
    let all = [
        ("pdus", pdus),
        ("login", logins::seeds()),
        ("commands", commands::seeds()),
    ];
    let mut count = 0;
    for (target, seeds) in all {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds {
            let path: PathBuf = folder.join(name);
            fs::write(path, bytes)?;
            count += 1;
        }
    }
    println!("{count} seeds");
    Ok(())
}
