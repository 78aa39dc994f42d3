//! See [`iscsi_target_fuzz::pdus`].

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| iscsi_target_fuzz::pdus(data));

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    iscsi_target_fuzz::replay(std::env::args().skip(1), iscsi_target_fuzz::pdus)
}
