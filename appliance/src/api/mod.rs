//! The one way in: HTTP and JSON on a UNIX socket, for command line, console and tests alike.

pub mod client;
pub(crate) mod server;
pub mod types;
