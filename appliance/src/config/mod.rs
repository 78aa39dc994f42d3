//! Typed configuration: what parsed is right by type; what is wrong is named with file and line.
//!
//! `node.toml` ([`node`]) describes one box and stays on it. The cluster configuration
//! ([`cluster`]) is replicated in the system volume (law D10) and changed only by the primary
//! (law D11).

pub mod address;
pub mod cluster;
pub mod fence;
pub mod load;
pub mod node;
pub mod plan;

pub use cluster::Cluster;
pub use load::ConfigError;
pub use node::{NodeConfig, WitnessConfig};
