//! The record of the register in its file: real files, torn in place.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use ha::shell::Store;
use ha::{DiskInstance, GroupId, NodeId, Policy, Record, Timing, VoterInstance};
use tests::rng::Rng;

use crate::explorer::{Write, explore};

const GROUP: GroupId = GroupId(0x31);

fn record(record_seq: u64) -> Record {
    let instances = (VoterInstance(3), DiskInstance(4));
    let made = ha::genesis(
        GROUP,
        NodeId(1),
        instances,
        Timing::default(),
        Policy::Witness,
    );
    let mut record = made.unwrap();
    record.record_seq = record_seq;
    // as long as records get
    record.seen = (0..8)
        .map(|voter| (VoterInstance(voter), record_seq))
        .collect();
    record
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_record_of_the_register_is_old_or_new() {
    let name = format!("twinsan-crash-{}", std::process::id());
    let folder = Folder(std::env::temp_dir().join(name));
    let mut store = Store::open(&folder.0).unwrap();
    let path = folder.0.join(format!("voter-{:032x}.record", GROUP.0));
    let rng = &mut Rng::new(5);
    store.save(GROUP, &record(1)).unwrap();
    let mut count = 0;
    for seq in 2..12 {
        let mut before = fs::read(&path).unwrap();
        store.save(GROUP, &record(seq)).unwrap();
        let after = fs::read(&path).unwrap();
        let write = Write {
            offset: 0,
            bytes: after.clone(),
        };
        // in place: the file is bound to its inode
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        count += explore(&mut before, &[write], rng, |state| {
            file.write_all_at(state, 0).unwrap();
            let found = store.load(GROUP).unwrap().unwrap();
            assert!(found == record(seq - 1) || found == record(seq));
        });
        file.write_all_at(&after, 0).unwrap();
    }
    println!("{count} crash states of the register's record");
    assert!(count >= 20, "{count}");
}
