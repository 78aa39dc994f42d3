//! The disk image: partition table, A/B slots and, behind the feature `build`, the image builder.
//!
//! [`layout`] and [`slots`] are pure: they compute, others do. The builder and the updater on a
//! running box ask the same functions, so the two cannot disagree about where a partition lies or
//! which slot starts next.

#[cfg(feature = "build")]
pub mod build;
pub mod layout;
pub mod slots;
