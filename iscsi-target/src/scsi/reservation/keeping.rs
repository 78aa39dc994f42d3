//! The reservations of one unit on their way to the store: what anybody can see is what is
//! durable (laws R5 and D10).
//!
//! ```text
//!   PERSISTENT RESERVE OUT ── against `latest` ──▶ on the way ── the store signs ──▶ durable
//!                                                                       effects ──▶ others
//! ```
//!
//! The effect of a change does not depend on the session that asked for it, which may be gone by
//! then: whoever uses the unit next finds it signed and lets it take effect first.

use std::collections::VecDeque;

use bytes::Bytes;

use super::actions::Origin;
use super::parse::{Legacy, Out};
use super::{BadRecord, Effects, OutAction, Outcome, Refusal, Registrant, Reservations};
use crate::backend::{BackendError, Receipt, Receipts, Request};
use crate::scsi::Reply;
use crate::scsi::array::NexusId;
use crate::scsi::block::Next;
use crate::scsi::opcodes::Conflict;
use crate::scsi::sense::{self, Doing, Sense, Status};

/// Changes of one unit that are not durable yet; more are answered with BUSY.
const CHANGES_MAX: usize = 64;

/// All that a unit knows of reservations.
///
/// Invariants: `on_the_way` is in order of its receipts, and each of its states was made from the
/// one before, the first from `durable`; while a RESERVE is held nobody is registered and nothing
/// is on its way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keeping {
    durable: Reservations,
    on_the_way: VecDeque<Change>,
    receipts: Receipts,
    /// Holder of a RESERVE: volatile, and only as long as its nexus is there (SPC-2 §5.5.1).
    legacy: Option<NexusId>,
}

#[derive(Clone, Debug)]
struct Change {
    receipt: Receipt,
    state: Reservations,
    settled: Settled,
}

/// A change that became durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Who asked for it.
    pub(crate) by: Registrant,
    /// What it does to others.
    pub(crate) effects: Effects,
}

/// A command that is about reservations.
#[derive(Debug)]
pub(crate) enum Reserving {
    /// PERSISTENT RESERVE OUT, without its list.
    Out(Out),
    Legacy(Legacy),
    /// Waiting for the backend.
    Waiting(Waiting),
}

/// The answer, once the backend has done what it was asked for.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// Of the change that must be durable first, if there is one.
    pub(crate) receipt: Option<Receipt>,
    pub(crate) answer: Answer,
}

impl Reserving {
    /// What the backend could not do. None means that no status may be sent: whether a change will
    /// be kept is not known.
    pub(crate) fn fail(&self, error: BackendError) -> Option<Sense> {
        match self {
            Self::Waiting(waiting) if waiting.receipt.is_some() => None,
            Self::Waiting(_) | Self::Out(_) | Self::Legacy(_) => {
                sense::of_backend_error(error, Doing::Reading)
            }
        }
    }
}

/// How a command that is about reservations is to be answered.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// After the request succeeded.
    After(Request, Waiting),
    /// With BUSY, at once.
    Busy,
}

/// What a command that is about reservations is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Good,
    Refused(Refusal),
}

impl Answer {
    pub(crate) fn to_next(self) -> Result<Next, Sense> {
        match self {
            Self::Good => Ok(Next::Answer(Reply::good())),
            Self::Refused(Refusal::Conflict) => {
                Ok(Next::Answer(Reply::plain(Status::ReservationConflict)))
            }
            Self::Refused(Refusal::Check(sense)) => Err(sense),
        }
    }
}

impl Keeping {
    /// What a store has kept; nothing, if nothing ever was.
    pub(crate) fn stored(record: Option<&Bytes>) -> Result<Self, BadRecord> {
        let durable = match record {
            Some(record) => Reservations::from_bytes(record)?,
            None => Reservations::default(),
        };
        Ok(Self {
            durable,
            ..Self::default()
        })
    }

    /// What anybody may see.
    pub(crate) fn durable(&self) -> &Reservations {
        &self.durable
    }

    /// Whether no command conflicts with anything.
    pub(crate) fn is_free(&self) -> bool {
        self.legacy.is_none() && !self.durable.is_held()
    }

    /// Whether a command conflicts with a reservation.
    pub(crate) fn refuse(&self, nexus: NexusId, who: &Registrant, conflict: Conflict) -> bool {
        let legacy = match (self.legacy, conflict) {
            (None, _) | (_, Conflict::Never | Conflict::ByItself) => false,
            (Some(_), Conflict::Rival) => true,
            (
                Some(holder),
                Conflict::Legacy | Conflict::Exclusive | Conflict::Always | Conflict::Unless(_),
            ) => holder != nexus,
        };
        legacy || self.durable.refuse(who, conflict)
    }

    /// The next change that became durable takes effect: returns what others have to be told.
    pub(crate) fn settle(&mut self) -> Option<Settled> {
        let change = self.on_the_way.pop_front_if(|it| it.receipt.is_signed())?;
        self.durable = change.state;
        Some(change.settled)
    }

    /// PERSISTENT RESERVE OUT.
    pub(crate) fn change(&mut self, action: &OutAction, from: Origin<'_>) -> Verdict {
        if self.legacy.is_some() {
            return self.answer(Answer::Refused(Refusal::Conflict));
        }
        match self.latest().with(action, from) {
            Ok(Outcome::Unchanged) => self.answer(Answer::Good),
            Err(refusal) => self.answer(Answer::Refused(refusal)),
            Ok(Outcome::Changed(..)) if self.on_the_way.len() == CHANGES_MAX => Verdict::Busy,
            Ok(Outcome::Changed(state, effects)) => {
                let receipt = self.receipts.issue();
                let verdict = keep(&state, &receipt, Answer::Good);
                let by = from.who.clone();
                self.on_the_way.push_back(Change {
                    receipt,
                    state,
                    settled: Settled { by, effects },
                });
                verdict
            }
        }
    }

    /// RESERVE and RELEASE (SPC-2 §5.5.1, SPC-4 §5.12.3). What RESERVE takes shows at once, so it
    /// must not stand on a change that is on its way.
    pub(crate) fn legacy(&mut self, action: Legacy, nexus: NexusId, who: &Registrant) -> Verdict {
        if !self.on_the_way.is_empty() {
            return Verdict::Busy;
        }
        if self.durable.humours(who) {
            return self.answer(Answer::Good);
        }
        if self.durable.has_registrants() {
            return self.answer(Answer::Refused(Refusal::Conflict));
        }
        match (action, self.legacy) {
            (Legacy::Reserve, None) => self.legacy = Some(nexus),
            (Legacy::Release, Some(holder)) if holder == nexus => self.legacy = None,
            (Legacy::Reserve, Some(holder)) if holder != nexus => {
                return self.answer(Answer::Refused(Refusal::Conflict));
            }
            (Legacy::Reserve, Some(_)) | (Legacy::Release, _) => {}
        }
        self.answer(Answer::Good)
    }

    /// What RESERVE has reserved is free: the unit was reset.
    pub(crate) fn reset(&mut self) {
        self.legacy = None;
    }

    /// What `nexus` holds as long as it is there is free.
    pub(crate) fn forget(&mut self, nexus: NexusId) {
        if self.legacy == Some(nexus) {
            self.legacy = None;
        }
    }

    /// An answer that no change is part of. Whether it stands on one that is on its way is not
    /// worth finding out: it waits for all there are; else for this box's right to answer.
    fn answer(&self, answer: Answer) -> Verdict {
        match self.on_the_way.back() {
            Some(change) => keep(&change.state, &change.receipt, answer),
            None => {
                let receipt = None;
                Verdict::After(Request::Confirm, Waiting { receipt, answer })
            }
        }
    }

    fn latest(&self) -> &Reservations {
        let change = self.on_the_way.back();
        change.map_or(&self.durable, |change| &change.state)
    }
}

fn keep(state: &Reservations, receipt: &Receipt, answer: Answer) -> Verdict {
    let request = Request::KeepReservations {
        state: state.to_bytes(),
        receipt: receipt.clone(),
    };
    let receipt = Some(receipt.clone());
    Verdict::After(request, Waiting { receipt, answer })
}
