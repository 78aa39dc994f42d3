//! Persistent reservations once more, for comparison: a list and the words of SPC-4, one after the
//! other, without a thought of how the product does it.

use super::{Ask, PORTS, Registrant};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Good,
    Conflict,
    Sense([u8; 3]),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) list: Vec<(Registrant, u64)>,
    /// Type, and the I_T nexus that made it. With all registrants the latter means nothing.
    pub(super) reservation: Option<(u8, Registrant)>,
    pub(super) generation: u32,
    /// Unit attentions of the last command, and whose commands it aborted.
    pub(super) told: Vec<(Registrant, [u8; 2])>,
    pub(super) aborted: Vec<Registrant>,
}

const GOOD: Said = Said::Good;
const IN_LIST: Said = Said::Sense([5, 0x26, 0x00]);
const IN_CDB: Said = Said::Sense([5, 0x24, 0x00]);
const RELEASED: [u8; 2] = [0x2a, 0x04];
const PREEMPTED: [u8; 2] = [0x2a, 0x03];
const UNREGISTERED: [u8; 2] = [0x2a, 0x05];

impl Model {
    pub(super) fn key_of(&self, who: &Registrant) -> Option<u64> {
        let found = self.list.iter().find(|(it, _)| it == who);
        found.map(|(_, key)| *key)
    }

    fn all_registrants(&self) -> bool {
        matches!(self.reservation, Some((7 | 8, _)))
    }

    pub(super) fn holds(&self, who: &Registrant) -> bool {
        match &self.reservation {
            Some((7 | 8, _)) => self.key_of(who).is_some(),
            Some((_, holder)) => holder == who,
            None => false,
        }
    }

    /// Whether a command of this kind is allowed: SPC-4 table 65, column by column.
    pub(super) fn allows(&self, who: &Registrant, reads_only: bool) -> bool {
        let registered = self.key_of(who).is_some();
        match &self.reservation {
            None => true,
            Some((1, holder)) => holder == who || reads_only,
            Some((3, holder)) => holder == who,
            Some((5 | 7, _)) => registered || reads_only,
            Some((6 | 8, _)) => registered,
            Some(other) => panic!("{other:?}"),
        }
    }

    pub(super) fn out(&mut self, who: &Registrant, ask: &Ask) -> Said {
        self.told.clear();
        self.aborted.clear();
        let type_is_used = matches!(ask.action, 1 | 4 | 5);
        if type_is_used && !matches!(ask.kind, 1 | 3 | 5 | 6 | 7 | 8) {
            return IN_CDB;
        }
        if ask.also.is_some() && ask.action != 0 {
            // The list is not 24 bytes long.
            return Said::Sense([5, 0x1a, 0]);
        }
        match ask.action {
            0 | 6 => self.register(who, ask),
            _ if self.key_of(who) != Some(ask.key) => Said::Conflict,
            1 => self.reserve(who, ask),
            2 => self.release(who, ask),
            3 => self.clear(who),
            4 | 5 => self.preempt(who, ask),
            7 => self.register_and_move(who, ask),
            other => panic!("{other}"),
        }
    }

    fn register(&mut self, who: &Registrant, ask: &Ask) -> Said {
        if ask.action == 0 {
            match self.key_of(who) {
                None if ask.key != 0 => return Said::Conflict,
                None if ask.new_key == 0 => return GOOD,
                None => {}
                Some(key) if key != ask.key => return Said::Conflict,
                Some(_) if ask.also.is_some() => return IN_CDB,
                Some(_) => {}
            }
        }
        let mut own = vec![who.clone()];
        let mut others = Vec::new();
        for port in PORTS {
            let here = |port_of| Registrant {
                port: port_of,
                target_port: port,
            };
            if ask.all_ports {
                own.push(here(who.port.clone()));
            }
            if ask.all_ports || port == who.target_port {
                for one in ask.also.iter().flatten() {
                    if *one == who.port {
                        own.push(here(one.clone()));
                    } else {
                        others.push(here(one.clone()));
                    }
                }
            }
        }
        if ask.action == 0 {
            let fits = |it: &Registrant| {
                self.key_of(it)
                    .is_none_or(|key| key == ask.key || key == ask.new_key)
            };
            if !own.iter().all(fits) {
                return Said::Conflict;
            }
            if !others.iter().all(fits) {
                return IN_LIST;
            }
        }
        own.extend(others);
        if ask.new_key == 0 && own.iter().all(|it| self.key_of(it).is_none()) {
            return GOOD;
        }
        for it in &own {
            self.list.retain(|(registered, _)| registered != it);
            if ask.new_key != 0 {
                self.list.push((it.clone(), ask.new_key));
            }
        }
        match self.reservation.clone() {
            Some((7 | 8, _)) if self.list.is_empty() => self.reservation = None,
            Some((kind, holder)) if kind < 7 && self.key_of(&holder).is_none() => {
                self.reservation = None;
                if kind > 3 {
                    self.tell_others(who, RELEASED);
                }
            }
            _ => {}
        }
        self.generation += 1;
        GOOD
    }

    fn reserve(&mut self, who: &Registrant, ask: &Ask) -> Said {
        match &self.reservation {
            None => self.reservation = Some((ask.kind, who.clone())),
            Some((kind, _)) if self.holds(who) && *kind == ask.kind => {}
            Some(_) => return Said::Conflict,
        }
        GOOD
    }

    fn release(&mut self, who: &Registrant, ask: &Ask) -> Said {
        if !self.holds(who) {
            return GOOD;
        }
        let kind = self.reservation.as_ref().unwrap().0;
        if kind != ask.kind {
            return Said::Sense([5, 0x26, 0x04]);
        }
        self.reservation = None;
        if kind > 3 {
            self.tell_others(who, RELEASED);
        }
        GOOD
    }

    fn clear(&mut self, who: &Registrant) -> Said {
        self.tell_others(who, PREEMPTED);
        self.list.clear();
        self.reservation = None;
        self.generation += 1;
        GOOD
    }

    fn preempt(&mut self, who: &Registrant, ask: &Ask) -> Said {
        let before = self.reservation.clone();
        let takes = if self.all_registrants() {
            ask.new_key == 0
        } else {
            match &before {
                Some(_) if ask.new_key == 0 => return IN_LIST,
                Some((_, holder)) => self.key_of(holder) == Some(ask.new_key),
                None => false,
            }
        };
        let (hit, kept): (Vec<_>, Vec<_>) = self
            .list
            .drain(..)
            .partition(|(_, key)| *key == ask.new_key || takes && ask.new_key == 0);
        self.list = kept;
        if hit.is_empty() {
            return Said::Conflict;
        }
        if ask.action == 5 {
            self.aborted = hit.iter().map(|(it, _)| it.clone()).collect();
        }
        for (it, key) in hit {
            if it == *who && takes {
                self.list.push((it, key));
            } else if it != *who {
                self.told.push((it, UNREGISTERED));
            }
        }
        if takes {
            self.reservation = Some((ask.kind, who.clone()));
            if before.unwrap().0 != ask.kind {
                self.tell_others(who, RELEASED);
            }
        } else if self.list.is_empty() {
            self.reservation = None;
        }
        self.generation += 1;
        GOOD
    }

    fn register_and_move(&mut self, who: &Registrant, ask: &Ask) -> Said {
        let to = ask.to.clone().unwrap();
        let Some((kind, _)) = self.reservation else {
            return IN_CDB;
        };
        if self.all_registrants() || !self.holds(who) {
            return Said::Conflict;
        }
        if ask.new_key == 0 || to == *who || !PORTS.contains(&to.target_port) {
            return IN_LIST;
        }
        self.list.retain(|(it, _)| *it != to);
        self.list.push((to.clone(), ask.new_key));
        if ask.unregister {
            self.list.retain(|(it, _)| it != who);
        }
        self.reservation = Some((kind, to));
        self.generation += 1;
        GOOD
    }

    fn tell_others(&mut self, who: &Registrant, attention: [u8; 2]) {
        for (it, _) in self.list.iter().filter(|(it, _)| it != who) {
            self.told.push((it.clone(), attention));
        }
    }
}
