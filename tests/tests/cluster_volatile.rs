//! The fault table on disks with a volatile cache: a kill is a power cut, and a start is a reboot.
//!
//! Needs root, `ip` and `nft`.

#[macro_use]
mod rows;

use tests::lab::Disk;

/// Decides which unflushed writes reach the files; every start of a box adds to it.
const SEED: u64 = 20_261_120;

fault_table!(Disk::Volatile(SEED));
