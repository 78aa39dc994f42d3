//! The outside of the cores: clocks, record store, UDP links and the loops that drive a box or a
//! witness. It holds no rule.

mod clock;
mod disk;
mod driver;
pub mod fence;
mod store;
mod udp;
mod witness;

pub use clock::now;
pub use driver::{DriverError, NodeDriver};
pub use store::{Store, StoreError};
pub use udp::Link;
pub use witness::{WitnessSetup, run_witness};
