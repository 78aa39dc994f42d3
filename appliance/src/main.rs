//! twinsan
fn main() {}
