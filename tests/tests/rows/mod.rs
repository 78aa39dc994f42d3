//! The fault table: one function a row, each under a verified load, for both kinds of disk.

mod blip;
mod power;
pub(crate) mod scene;
mod single;
mod stopped;

pub(crate) use blip::*;
pub(crate) use power::*;
pub(crate) use single::*;
pub(crate) use stopped::*;

/// The rows as tests; `$disk` is what the boxes keep their data on.
macro_rules! fault_table {
    ($disk:expr; $($row:ident)*) => {
        $(
            #[test]
            fn $row() {
                rows::$row($disk);
            }
        )*
    };
    ($disk:expr) => {
        fault_table! { $disk;
            primary_killed
            primary_restarted_within_300_ms
            standby_killed
            standby_restarted_within_300_ms
            witness_killed
            standby_then_witness_killed
            witness_then_standby_killed_witness_returns
            witness_then_standby_killed_standby_returns
            primary_stopped_for_10_s
            primary_isolated
            replication_link_cut
            replication_link_cut_one_way
            replication_link_silent_for_250_ms
            replication_link_silent_for_up_to_2_s
            one_of_two_paths_cut
            both_killed_primary_starts_first
            both_killed_standby_starts_first
            stale_box_alone_refuses
            planned_switchover
        }
    };
}
