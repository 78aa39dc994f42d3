//! On-disk records.
