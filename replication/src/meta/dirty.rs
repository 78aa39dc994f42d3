//! On-disk records.

/// Bits of one page.
pub const PAGE_BITS: u64 = (4096 - 64) * 8;
