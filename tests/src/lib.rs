//! tests

pub mod ci;
pub mod tidy;
