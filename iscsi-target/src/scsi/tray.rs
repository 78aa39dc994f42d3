//! A removable medium: ejected, loaded, or held by initiators (SPC-4 §6.24, SBC-3 §5.25).

use std::collections::BTreeSet;

use super::array::NexusId;
use super::sense::Sense;

/// Whether initiators can eject the medium of a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Medium {
    /// They cannot.
    #[default]
    Fixed,
    /// They can, as long as none of them prevents it. For tests of initiators.
    Removable,
}

/// Where the medium is, and who wants it to stay there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tray {
    place: Place,
    prevented_by: BTreeSet<NexusId>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Loaded,
    Ejected,
}

/// What START STOP UNIT does to the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TrayMove {
    Load,
    Eject,
}

/// PREVENT ALLOW MEDIUM REMOVAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    Allow,
    Prevent,
}

/// Whether the medium came in just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    Now,
    Not,
}

impl Tray {
    pub(crate) fn is_loaded(&self) -> bool {
        self.place == Place::Loaded
    }

    pub(crate) fn set_removal(&mut self, nexus: NexusId, removal: Removal) {
        match removal {
            Removal::Allow => self.prevented_by.remove(&nexus),
            Removal::Prevent => self.prevented_by.insert(nexus),
        };
    }

    /// Moves the medium, unless somebody prevents it.
    pub(crate) fn shift(&mut self, tray_move: TrayMove) -> Result<Arrival, Sense> {
        if !self.prevented_by.is_empty() {
            return Err(Sense::REMOVAL_PREVENTED);
        }
        let was_loaded = self.is_loaded();
        self.place = match tray_move {
            TrayMove::Load => Place::Loaded,
            TrayMove::Eject => Place::Ejected,
        };
        Ok(if self.is_loaded() && !was_loaded {
            Arrival::Now
        } else {
            Arrival::Not
        })
    }

    /// A reset ends every prevention.
    pub(crate) fn reset(&mut self) {
        self.prevented_by.clear();
    }
}
