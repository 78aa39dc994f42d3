//! Proof: the simulator with its oracle, and the rules of the repository.
//!
//! The cores of the product run here unchanged, joined by the product's own wiring; disks, wires,
//! clocks, initiators and the operator are simulated, and one seed decides everything.

pub mod ci;
pub mod client;
pub mod conformance;
pub mod coverage;
pub mod dialogue;
pub mod disk;
pub mod faults;
pub mod lab;
pub mod net;
pub mod node;
pub mod oracle;
pub mod peers;
pub mod reservation;
pub mod rng;
pub mod script;
pub mod swarm;
pub mod tidy;
pub mod trim;
pub mod world;
