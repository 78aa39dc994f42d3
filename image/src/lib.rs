//! The disk image: partition table, A/B slots and, behind the feature `build`, the image builder.
//!
//! [`layout`] and [`slots`] are pure: they compute, others do, so that nobody can disagree about
//! where a partition lies or which slot starts next. The builder asks [`layout`]; nobody asks
//! [`slots`] yet, because a running box cannot update itself yet.

#[cfg(feature = "build")]
pub mod build;
pub mod layout;
pub mod slots;
