//! What each service action of PERSISTENT RESERVE OUT makes of the reservations (SPC-4 §5.12.6 to
//! §5.12.11).

use super::super::attention::Attention;
use super::super::sense::Sense;
use super::parse::{Abort, Move, Mover, OutAction, Preempt, Register, TargetPorts};
use super::{
    Effects, Held, InitiatorPort, Key, Kind, Outcome, REGISTRATIONS_MAX, Refusal, Registrant,
    Reservations,
};

/// What the unit knows besides its reservations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    /// The nexus of the command.
    pub(crate) who: &'a Registrant,
    /// Relative identifiers of all target ports.
    pub(crate) target_ports: &'a [u16],
}

impl Reservations {
    /// Carries out `action`. The value itself stays as it is.
    pub(crate) fn with(&self, action: &OutAction, from: Origin<'_>) -> Result<Outcome, Refusal> {
        match action {
            OutAction::Register(register) => self.register(register, from),
            OutAction::RegisterIgnoring { new_key, ports } => {
                let targets = from.targets(&[], *ports);
                self.set_key(*new_key, &targets, from)
            }
            OutAction::Reserve { key, kind } => self.reserve(*key, *kind, from),
            OutAction::Release { key, kind } => self.release(*key, *kind, from),
            OutAction::Clear { key } => self.clear(*key, from),
            OutAction::Preempt(preempt) => self.preempt(*preempt, from),
            OutAction::Move(action) => self.move_to(action, from),
        }
    }

    /// SPC-4 table 70.
    fn register(&self, action: &Register, from: Origin<'_>) -> Result<Outcome, Refusal> {
        let (key, new_key) = (action.key, action.new_key);
        let also = action.also.as_deref();
        let own = self.registered.get(from.who).copied();
        if own.unwrap_or_default() != key {
            return Err(Refusal::Conflict);
        }
        // Who is registered already speaks for itself only.
        if own.is_some() && also.is_some() {
            return Err(Sense::CDB_FIELD.into());
        }
        if own.is_none() && new_key == Key::NONE {
            return Ok(Outcome::Unchanged);
        }
        let targets = from.targets(also.unwrap_or_default(), action.ports);
        // As if the request came through each port; what another key protects stays.
        let protected = |target: &&Registrant| {
            let known = self.registered.get(target);
            known.is_some_and(|known| *known != key && *known != new_key)
        };
        let mut protected = targets.iter().filter(protected).peekable();
        if protected.peek().is_some() {
            let is_own = protected.any(|target| target.port == from.who.port);
            let in_list = Refusal::Check(Sense::LIST_FIELD);
            return Err(if is_own { Refusal::Conflict } else { in_list });
        }
        self.set_key(new_key, &targets, from)
    }

    /// Registers `targets` under `key`, or with no key takes their registrations away.
    fn set_key(
        &self,
        key: Key,
        targets: &[Registrant],
        from: Origin<'_>,
    ) -> Result<Outcome, Refusal> {
        let mut next = self.clone();
        let mut effects = Effects::default();
        if key == Key::NONE {
            let any = targets.iter().any(|it| self.registered.contains_key(it));
            if !any {
                return Ok(Outcome::Unchanged);
            }
            for target in targets {
                next.registered.remove(target);
            }
            next.release_if_lost(from, &mut effects);
        } else {
            for target in targets {
                next.registered.insert(target.clone(), key);
            }
            if next.registered.len() > REGISTRATIONS_MAX {
                return Err(Sense::REGISTRATIONS.into());
            }
        }
        Ok(next.counted(effects))
    }

    /// Ends a reservation whose holder is not registered any more, or the last of all holders
    /// (SPC-4 §5.12.11.3).
    fn release_if_lost(&mut self, from: Origin<'_>, effects: &mut Effects) {
        let lost = |held: &mut Held| match &held.holder {
            Some(holder) => !self.registered.contains_key(holder),
            None => self.registered.is_empty(),
        };
        if let Some(held) = self.held.take_if(lost)
            && held.kind.admits_registrants()
        {
            self.tell_all(Attention::ReservationsReleased, from, effects);
        }
    }

    /// SPC-4 §5.12.9.
    fn reserve(&self, key: Key, kind: Kind, from: Origin<'_>) -> Result<Outcome, Refusal> {
        self.check_key(key, from)?;
        match &self.held {
            None => {
                let mut next = self.clone();
                next.hold(kind, from);
                next.check();
                Ok(Outcome::Changed(next, Effects::default()))
            }
            Some(held) if held.kind == kind && self.is_holder(from.who) => Ok(Outcome::Unchanged),
            Some(_) => Err(Refusal::Conflict),
        }
    }

    /// SPC-4 §5.12.11.2.
    fn release(&self, key: Key, kind: Option<Kind>, from: Origin<'_>) -> Result<Outcome, Refusal> {
        self.check_key(key, from)?;
        let Some(held) = self.held.as_ref().filter(|_| self.is_holder(from.who)) else {
            return Ok(Outcome::Unchanged);
        };
        if kind != Some(held.kind) {
            return Err(Sense::INVALID_RELEASE.into());
        }
        let mut effects = Effects::default();
        if held.kind.admits_registrants() {
            self.tell_all(Attention::ReservationsReleased, from, &mut effects);
        }
        let next = Self {
            held: None,
            ..self.clone()
        };
        next.check();
        Ok(Outcome::Changed(next, effects))
    }

    /// SPC-4 §5.12.11.6.
    fn clear(&self, key: Key, from: Origin<'_>) -> Result<Outcome, Refusal> {
        self.check_key(key, from)?;
        let mut effects = Effects::default();
        self.tell_all(Attention::ReservationsPreempted, from, &mut effects);
        let next = Self {
            generation: self.generation,
            ..Self::default()
        };
        Ok(next.counted(effects))
    }

    /// SPC-4 §5.12.11.4 and §5.12.11.5, table 72.
    fn preempt(&self, action: Preempt, from: Origin<'_>) -> Result<Outcome, Refusal> {
        let Preempt {
            key,
            victim,
            kind,
            abort,
        } = action;
        self.check_key(key, from)?;
        let everybody = victim == Key::NONE;
        let takes_over = match &self.held {
            None => false,
            Some(held) => match &held.holder {
                None => everybody,
                Some(_) if everybody => return Err(Sense::LIST_FIELD.into()),
                Some(holder) => self.registered[holder] == victim,
            },
        };
        let hit = |known: Key| known == victim || everybody && takes_over;
        let victims: Vec<Registrant> = self
            .registered
            .iter()
            .filter(|(_, known)| hit(**known))
            .map(|(who, _)| who.clone())
            .collect();
        if victims.is_empty() {
            return Err(Refusal::Conflict);
        }
        let mut next = self.clone();
        let mut effects = Effects::default();
        for who in &victims {
            // Who takes the reservation over stays registered, even under the victim's key.
            if who != from.who {
                next.registered.remove(who);
                let told = (who.clone(), Attention::RegistrationsPreempted);
                effects.told.push(told);
            } else if !takes_over {
                next.registered.remove(who);
            }
        }
        if takes_over {
            let changed = self.held.as_ref().is_none_or(|held| held.kind != kind);
            next.hold(kind, from);
            if changed {
                next.tell_all(Attention::ReservationsReleased, from, &mut effects);
            }
        } else {
            next.release_if_lost(from, &mut effects);
        }
        if abort == Abort::Yes {
            effects.aborted = victims;
        }
        Ok(next.counted(effects))
    }

    /// SPC-4 §5.12.8.
    fn move_to(&self, action: &Move, from: Origin<'_>) -> Result<Outcome, Refusal> {
        let Move {
            key,
            new_key,
            mover,
            to,
            target_port,
        } = action;
        self.check_key(*key, from)?;
        let Some(held) = &self.held else {
            return Err(Sense::CDB_FIELD.into());
        };
        if held.holder.as_ref() != Some(from.who) {
            return Err(Refusal::Conflict);
        }
        let to = Registrant {
            port: to.clone(),
            target_port: *target_port,
        };
        let known_port = from.target_ports.contains(target_port);
        if *new_key == Key::NONE || to == *from.who || !known_port {
            return Err(Sense::LIST_FIELD.into());
        }
        let mut next = self.clone();
        next.registered.insert(to.clone(), *new_key);
        if *mover == Mover::Unregisters {
            next.registered.remove(from.who);
        }
        if next.registered.len() > REGISTRATIONS_MAX {
            return Err(Sense::REGISTRATIONS.into());
        }
        next.held = Some(Held {
            kind: held.kind,
            holder: Some(to),
        });
        Ok(next.counted(Effects::default()))
    }

    /// SPC-4 table 66: nothing but registering is for those that are not registered, or name
    /// another key.
    fn check_key(&self, key: Key, from: Origin<'_>) -> Result<(), Refusal> {
        match self.registered.get(from.who) {
            Some(known) if *known == key => Ok(()),
            Some(_) | None => Err(Refusal::Conflict),
        }
    }

    fn hold(&mut self, kind: Kind, from: Origin<'_>) {
        let holder = (!kind.is_all_registrants()).then(|| from.who.clone());
        self.held = Some(Held { kind, holder });
    }

    /// Every registrant but the one that asks gets `attention`.
    fn tell_all(&self, attention: Attention, from: Origin<'_>, effects: &mut Effects) {
        let others = self.registered.keys().filter(|who| *who != from.who);
        effects
            .told
            .extend(others.map(|who| (who.clone(), attention)));
    }

    /// The new value, by a service action that PRGENERATION counts (SPC-4 §6.15.2).
    fn counted(mut self, effects: Effects) -> Outcome {
        self.generation = self.generation.wrapping_add(1);
        self.check();
        Outcome::Changed(self, effects)
    }
}

impl Origin<'_> {
    /// Whom a registration is for: the one that asks and the `others`, through `ports`.
    fn targets(&self, others: &[InitiatorPort], ports: TargetPorts) -> Vec<Registrant> {
        let own = [self.who.target_port];
        let target_ports = match ports {
            TargetPorts::Own => &own,
            TargetPorts::All => self.target_ports,
        };
        let through = |port: &InitiatorPort| {
            target_ports
                .iter()
                .map(|target_port| Registrant {
                    port: port.clone(),
                    target_port: *target_port,
                })
                .collect::<Vec<_>>()
        };
        let mut targets = vec![self.who.clone()];
        targets.extend(through(&self.who.port));
        targets.extend(others.iter().flat_map(through));
        targets.sort_unstable();
        targets.dedup();
        targets
    }
}
