//! Virtual machines for whole-machine tests: the kernel of the distribution, our `twinsan` as its
//! first process, a serial console that the test reads.
//!
//! Nothing here needs root, KVM or a network beyond the package mirror. What is missing is an
//! error that names the command which provides it; no test passes by leaving something out.

pub mod assets;
pub mod console;
pub mod cpio;
pub mod deadline;
pub mod machine;
