//! Unit attentions: what changed behind an initiator's back, told once to each nexus (SAM-5 §5.14).

use std::collections::VecDeque;

use super::sense::{Sense, SenseKey};

/// A change to report. The order is that of reporting: an earlier one goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Attention {
    /// POWER ON, RESET, OR BUS DEVICE RESET OCCURRED: the nexus is new or the target was reset.
    PowerOn,
    /// BUS DEVICE RESET FUNCTION OCCURRED: the unit was reset.
    UnitReset,
    /// COMMANDS CLEARED BY ANOTHER INITIATOR.
    CommandsCleared,
    /// REPORTED LUNS DATA HAS CHANGED.
    LunsChanged,
    /// NOT READY TO READY CHANGE, MEDIUM MAY HAVE CHANGED.
    MediumLoaded,
    /// CAPACITY DATA HAS CHANGED.
    CapacityChanged,
    /// REGISTRATIONS PREEMPTED.
    RegistrationsPreempted,
    /// RESERVATIONS PREEMPTED.
    ReservationsPreempted,
    /// RESERVATIONS RELEASED.
    ReservationsReleased,
    /// MODE PARAMETERS CHANGED.
    ModeChanged,
    /// ASYMMETRIC ACCESS STATE CHANGED.
    AccessStateChanged,
}

impl Attention {
    pub(crate) fn sense(self) -> Sense {
        let [code, qualifier] = match self {
            Self::PowerOn => [0x29, 0x00],
            Self::UnitReset => [0x29, 0x03],
            Self::CommandsCleared => [0x2f, 0x00],
            Self::LunsChanged => [0x3f, 0x0e],
            Self::MediumLoaded => [0x28, 0x00],
            Self::CapacityChanged => [0x2a, 0x09],
            Self::RegistrationsPreempted => [0x2a, 0x05],
            Self::ReservationsPreempted => [0x2a, 0x03],
            Self::ReservationsReleased => [0x2a, 0x04],
            Self::ModeChanged => [0x2a, 0x01],
            Self::AccessStateChanged => [0x2a, 0x06],
        };
        Sense::new(SenseKey::UnitAttention, code, qualifier)
    }

    /// Whether it tells of replicated state, so that reporting it takes the right to answer
    /// (law R5).
    pub(crate) fn tells_replicated_state(self) -> bool {
        matches!(
            self,
            Self::CapacityChanged
                | Self::RegistrationsPreempted
                | Self::ReservationsPreempted
                | Self::ReservationsReleased
        )
    }
}

/// The attentions of one nexus and unit, each kind once, in order of reporting.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attentions {
    pending: VecDeque<Attention>,
}

impl Attentions {
    /// Adds `attention`. A reset makes every older change moot, except that the list of LUNs is
    /// about the target and not about this unit.
    pub(crate) fn raise(&mut self, attention: Attention) {
        if self.pending.contains(&attention) {
            return;
        }
        match attention {
            Attention::PowerOn => self.pending.retain(|kept| *kept == Attention::LunsChanged),
            // SAM-5 §5.14.3: the reset of lower precedence is not reported beside a higher one.
            Attention::UnitReset if self.pending.contains(&Attention::PowerOn) => return,
            Attention::UnitReset
            | Attention::CommandsCleared
            | Attention::LunsChanged
            | Attention::MediumLoaded
            | Attention::CapacityChanged
            | Attention::RegistrationsPreempted
            | Attention::ReservationsPreempted
            | Attention::ReservationsReleased
            | Attention::ModeChanged
            | Attention::AccessStateChanged => {}
        }
        let at = self.pending.partition_point(|earlier| *earlier < attention);
        self.pending.insert(at, attention);
    }

    /// Takes the next one to report.
    pub(crate) fn take(&mut self) -> Option<Attention> {
        self.pending.pop_front()
    }

    /// Drops `attention`, which the initiator has learnt in another way.
    pub(crate) fn clear(&mut self, attention: Attention) {
        self.pending.retain(|kept| *kept != attention);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_come_first_and_the_higher_one_replaces_the_lower() {
        let mut attentions = Attentions::default();
        for raised in [
            Attention::ModeChanged,
            Attention::LunsChanged,
            Attention::UnitReset,
            Attention::PowerOn,
            Attention::UnitReset,
            Attention::CapacityChanged,
            Attention::CapacityChanged,
        ] {
            attentions.raise(raised);
        }
        let reported: Vec<_> = std::iter::from_fn(|| attentions.take()).collect();
        let expected = [
            Attention::PowerOn,
            Attention::LunsChanged,
            Attention::CapacityChanged,
        ];
        assert_eq!(reported, expected);
    }
}
