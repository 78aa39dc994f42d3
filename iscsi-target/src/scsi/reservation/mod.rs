//! Persistent reservations of one unit (SPC-4 §5.12, §6.15, §6.16), and how they become durable.
//!
//! [`Reservations`] is a value: a service action gives another value and says whom it affects.
//! [`Keeping`] holds the one that is durable, which is all that anybody sees, and those on their
//! way to the store.
//!
//! `parse` reads commands, with the names of initiator ports in `transport_id`; `actions` is what
//! each service action makes of the value, `report` what it tells, `record` its bytes in the store.

mod actions;
mod keeping;
mod parse;
mod record;
mod report;
#[cfg(test)]
mod tests;
mod transport_id;

use std::collections::BTreeMap;

use super::attention::Attention;
use super::opcodes::Conflict;
use super::sense::Sense;
pub(crate) use actions::Origin;
pub(crate) use keeping::{Keeping, Reserving, Settled, Verdict};
#[cfg(test)]
pub(crate) use parse::InAction;
pub(crate) use parse::{Asked, OutAction};
pub(crate) use parse::{legacy_release, legacy_reserve, persistent_in, persistent_out};
pub(crate) use record::BadRecord;
pub use record::RECORD_BYTES_MAX as RESERVATIONS_BYTES_MAX;

/// Registrations of one unit: every host through two portals, twice. Each name may be of the
/// greatest length and different, see [`record`].
pub(crate) const REGISTRATIONS_MAX: usize = 128;

/// Reservation key; zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(pub(crate) u64);

impl Key {
    pub(crate) const NONE: Self = Self(0);
}

/// An initiator port (RFC 7143 §4.4.1), as its TransportID names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct InitiatorPort {
    /// iSCSI name, lower case.
    pub(crate) name: String,
    pub(crate) isid: [u8; 6],
}

/// Who registers: an initiator port and the target port it uses, by its relative identifier. A
/// session that comes again is the same nexus, also on the other box.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Registrant {
    pub(crate) port: InitiatorPort,
    pub(crate) target_port: u16,
}

/// TYPE (SPC-4 table 156).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    WriteExclusive = 1,
    ExclusiveAccess = 3,
    WriteExclusiveRegistrants = 5,
    ExclusiveAccessRegistrants = 6,
    WriteExclusiveAll = 7,
    ExclusiveAccessAll = 8,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [
        Self::WriteExclusive,
        Self::ExclusiveAccess,
        Self::WriteExclusiveRegistrants,
        Self::ExclusiveAccessRegistrants,
        Self::WriteExclusiveAll,
        Self::ExclusiveAccessAll,
    ];

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == code)
    }

    /// Whether every registrant holds it.
    pub(crate) fn is_all_registrants(self) -> bool {
        matches!(self, Self::WriteExclusiveAll | Self::ExclusiveAccessAll)
    }

    /// Whether registrants are admitted whoever holds it.
    pub(crate) fn admits_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Whether those it does not admit may read.
    fn lets_read(self) -> bool {
        matches!(
            self,
            Self::WriteExclusive | Self::WriteExclusiveRegistrants | Self::WriteExclusiveAll
        )
    }
}

/// A reservation of the whole unit, the only scope there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) kind: Kind,
    /// Who holds it; none if every registrant does.
    holder: Option<Registrant>,
}

/// All registrations of a unit and its reservation.
///
/// Invariants: at most [`REGISTRATIONS_MAX`] registrations, none with key zero; a reservation has
/// a holder that is registered, or it is one of all registrants and there is at least one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reservations {
    generation: u32,
    registered: BTreeMap<Registrant, Key>,
    held: Option<Held>,
}

/// What a service action does to others when it is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    /// Who gets which unit attention.
    pub(crate) told: Vec<(Registrant, Attention)>,
    /// Whose commands on the unit are aborted.
    pub(crate) aborted: Vec<Registrant>,
}

/// What a service action comes to, if it is not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// GOOD, and all is as it was.
    Unchanged,
    /// GOOD when this is durable.
    Changed(Reservations, Effects),
}

/// Why a service action is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// RESERVATION CONFLICT.
    Conflict,
    /// CHECK CONDITION.
    Check(Sense),
}

impl From<Sense> for Refusal {
    fn from(sense: Sense) -> Self {
        Self::Check(sense)
    }
}

impl Reservations {
    /// Whether a command of `who` conflicts with the reservation (SPC-4 table 65).
    pub(crate) fn refuse(&self, who: &Registrant, conflict: Conflict) -> bool {
        let Some(held) = &self.held else {
            return false;
        };
        let conflicts = match conflict {
            Conflict::Never | Conflict::Legacy | Conflict::Rival | Conflict::ByItself => false,
            Conflict::Exclusive => !held.kind.lets_read(),
            Conflict::Always | Conflict::Unless(_) => true,
        };
        conflicts && !self.is_admitted(held, who)
    }

    /// Whether anybody is registered.
    pub(crate) fn has_registrants(&self) -> bool {
        !self.registered.is_empty()
    }

    /// Whether there is a reservation.
    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Whether RESERVE and RELEASE of `who` are answered with GOOD and do nothing, although there
    /// is a persistent reservation (SPC-4 §5.12.3).
    pub(crate) fn humours(&self, who: &Registrant) -> bool {
        self.held
            .as_ref()
            .is_some_and(|held| self.is_admitted(held, who))
    }

    /// Whether the reservation admits every command of `who`.
    fn is_admitted(&self, held: &Held, who: &Registrant) -> bool {
        held.holder.as_ref() == Some(who)
            || held.kind.admits_registrants() && self.registered.contains_key(who)
    }

    /// Whether `who` is a persistent reservation holder (SPC-4 §5.12.10).
    fn is_holder(&self, who: &Registrant) -> bool {
        self.held.as_ref().is_some_and(|held| match &held.holder {
            Some(holder) => holder == who,
            None => self.registered.contains_key(who),
        })
    }

    fn check(&self) {
        assert!(
            self.registered.len() <= REGISTRATIONS_MAX,
            "registrations are admitted one by one"
        );
        assert!(
            self.registered.values().all(|key| *key != Key::NONE),
            "a registration has a key"
        );
        if let Some(held) = &self.held {
            let backed = match &held.holder {
                Some(holder) => self.registered.contains_key(holder),
                None => held.kind.is_all_registrants() && self.has_registrants(),
            };
            assert!(backed, "a reservation has a holder");
        }
    }
}
