//! The life of a pair, by name.
