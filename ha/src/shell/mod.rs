//! Thin shells around the cores: clocks, the durable store, UDP, and the loops that join them.
//!
//! They hold no rule. A loop never waits for a disk: records are written by a helper thread, whose
//! word comes back as `Persisted`.

mod clock;
mod driver;
mod store;
mod witness;
mod writer;

pub use clock::now;
pub use driver::{Link, NodeDriver};
pub use store::{Store, StoreError};
pub use witness::{WitnessSetup, run as run_witness};
