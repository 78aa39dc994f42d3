//! What a primary starts besides its volumes, in this order, and stops in the reverse order.

use core::fmt;

/// A service of the primary, in start order. The volumes come before all of them: their start
/// is the engine's `Serving`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// The cluster configuration of the epoch served, read from the system volume (law D11).
    Configuration,
    /// The iSCSI target.
    Target,
    /// The service addresses.
    Addresses,
}

impl Resource {
    /// All resources in start order.
    pub const START_ORDER: [Self; 3] = [Self::Configuration, Self::Target, Self::Addresses];
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configuration => "configuration",
            Self::Target => "target",
            Self::Addresses => "addresses",
        })
    }
}
