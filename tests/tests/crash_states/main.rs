//! Every crash state of every routine that writes metadata: whatever part of the writes under way
//! reached the medium, in pieces of 512 bytes, a reader finds the old state or the new one. It
//! never finds garbage, and never "clean" for what is not.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod codecs;
mod explorer;
mod solo;
mod store;
