//! The image builder: runs without root, loop devices or network.

pub mod disk;
