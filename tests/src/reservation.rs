//! Persistent reservations as SPC-4 §5.12 has them, in the plainest form, and the question whether
//! what several initiators saw at the same time can be explained by one order of their commands.
//!
//! `iscsi-target` compares its value with a model of its own, which knows attentions and aborted
//! commands and follows one history. This one shares nothing with it or with the target: it knows
//! nexuses by number, and is small enough to be copied at each of very many steps of a search.

use std::collections::{BTreeMap, BTreeSet};

use crate::rng::Rng;

/// One I_T nexus of the history.
pub type Nexus = usize;
/// A reservation key; 0 is none.
pub type Key = u64;

/// Types (SPC-4 table 156).
pub const TYPES: [u8; 6] = [1, 3, 5, 6, 7, 8];

/// What one nexus asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// REGISTER: the key it says it has, and the new one.
    Register(Key, Key),
    /// REGISTER AND IGNORE EXISTING KEY.
    RegisterAnyway(Key),
    /// RESERVE with its key.
    Reserve(Key, u8),
    /// RELEASE with its key.
    Release(Key, u8),
    /// CLEAR with its key.
    Clear(Key),
    /// PREEMPT with its key, of another key.
    Preempt(Key, Key, u8),
    /// PREEMPT AND ABORT with its key, of another key.
    PreemptAndAbort(Key, Key, u8),
    /// A write of one block.
    Write,
    /// A read of one block.
    Read,
}

/// How an order ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// GOOD.
    Good,
    /// RESERVATION CONFLICT.
    Conflict,
    /// CHECK CONDITION with this sense code: key, additional code and qualifier.
    Check(u8, u8, u8),
}

/// What every nexus can see.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Model {
    /// Who is registered under which key.
    pub keys: BTreeMap<Nexus, Key>,
    /// Who holds the reservation, and its type. For "all registrants" any of them stands here.
    pub reservation: Option<(Nexus, u8)>,
}

/// An order and what its initiator knows of its end: nothing, if no status came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What was asked.
    pub order: Order,
    /// The answer.
    pub end: Option<End>,
}

const INVALID_RELEASE: End = End::Check(5, 0x26, 4);
const INVALID_FIELD_IN_LIST: End = End::Check(5, 0x26, 0);

impl Model {
    /// The end of an order of `nexus`, and what is seen after it.
    #[must_use]
    pub fn apply(&self, nexus: Nexus, order: Order) -> (End, Self) {
        let mut next = self.clone();
        let end = match order {
            Order::Register(key, new) => {
                if self.key(nexus) != key {
                    return (End::Conflict, next);
                }
                next.enter(nexus, new);
                End::Good
            }
            Order::RegisterAnyway(new) => {
                next.enter(nexus, new);
                End::Good
            }
            Order::Write => self.access(nexus, &[1, 3, 5, 6, 7, 8]),
            Order::Read => self.access(nexus, &[3, 6, 8]),
            Order::Reserve(key, _)
            | Order::Release(key, _)
            | Order::Clear(key)
            | Order::Preempt(key, _, _)
            | Order::PreemptAndAbort(key, _, _)
                if key == 0 || self.key(nexus) != key =>
            {
                End::Conflict
            }
            Order::Reserve(_, kind) => next.reserve(nexus, kind),
            Order::Release(_, kind) => next.release(nexus, kind),
            Order::Clear(_) => {
                next = Self::default();
                End::Good
            }
            Order::Preempt(_, victim, kind) | Order::PreemptAndAbort(_, victim, kind) => {
                next.preempt(nexus, victim, kind)
            }
        };
        (end, next)
    }

    fn key(&self, nexus: Nexus) -> Key {
        self.keys.get(&nexus).copied().unwrap_or(0)
    }

    fn is_for_all(&self) -> bool {
        self.reservation.is_some_and(|(_, kind)| kind >= 7)
    }

    fn is_holder(&self, nexus: Nexus) -> bool {
        let is_registered = self.keys.contains_key(&nexus);
        is_registered
            && self
                .reservation
                .is_some_and(|(it, _)| it == nexus || self.is_for_all())
    }

    fn access(&self, nexus: Nexus, restricting: &[u8]) -> End {
        let Some((holder, kind)) = self.reservation else {
            return End::Good;
        };
        let may = match kind {
            1 | 3 => holder == nexus,
            _ => self.keys.contains_key(&nexus),
        };
        if may || !restricting.contains(&kind) {
            End::Good
        } else {
            End::Conflict
        }
    }

    /// Registers, changes a key or, with key 0, leaves.
    fn enter(&mut self, nexus: Nexus, key: Key) {
        if key == 0 {
            self.leave(nexus);
        } else {
            self.keys.insert(nexus, key);
        }
    }

    fn leave(&mut self, nexus: Nexus) {
        self.keys.remove(&nexus);
        match self.reservation {
            Some((_, 7 | 8)) if self.keys.is_empty() => self.reservation = None,
            Some((_, kind @ (7 | 8))) => {
                let any = *self.keys.keys().next().expect("just looked");
                self.reservation = Some((any, kind));
            }
            Some((holder, _)) if holder == nexus => self.reservation = None,
            Some(_) | None => {}
        }
    }

    fn reserve(&mut self, nexus: Nexus, kind: u8) -> End {
        match self.reservation {
            None => {
                self.reservation = Some((nexus, kind));
                End::Good
            }
            Some((_, held)) if self.is_holder(nexus) && held == kind => End::Good,
            Some(_) => End::Conflict,
        }
    }

    fn release(&mut self, nexus: Nexus, kind: u8) -> End {
        match self.reservation {
            Some((_, held)) if self.is_holder(nexus) && held != kind => INVALID_RELEASE,
            Some(_) if self.is_holder(nexus) => {
                self.reservation = None;
                End::Good
            }
            Some(_) | None => End::Good,
        }
    }

    fn preempt(&mut self, nexus: Nexus, victim: Key, kind: u8) -> End {
        let takes_over = match self.reservation {
            Some(_) if self.is_for_all() => victim == 0,
            Some(_) if victim == 0 => return INVALID_FIELD_IN_LIST,
            Some((holder, _)) => self.key(holder) == victim,
            None => false,
        };
        let is_victim = |key: Key| key == victim || (takes_over && victim == 0);
        let (own, victims): (Vec<Nexus>, Vec<Nexus>) = self
            .keys
            .iter()
            .filter(|(_, key)| is_victim(**key))
            .map(|(other, _)| *other)
            .partition(|other| *other == nexus);
        if own.is_empty() && victims.is_empty() {
            return End::Conflict;
        }
        if takes_over {
            self.reservation = None;
        }
        for other in victims {
            self.leave(other);
        }
        if takes_over {
            self.reservation = Some((nexus, kind));
        } else if !own.is_empty() {
            self.leave(nexus);
        }
        End::Good
    }

    /// The same in one form: who holds for all registrants does not matter.
    #[must_use]
    pub fn plain(mut self) -> Self {
        if let Some((holder, 7 | 8)) = &mut self.reservation {
            *holder = 0;
        }
        self
    }
}

/// Whether `before`, the orders of each nexus in its own order, and `after` fit together: there is
/// one order of all, in which an order of unknown end was carried out at its place or never.
#[must_use]
pub fn explained(before: &Model, seen: &[Vec<Seen>], after: &Model) -> bool {
    let start = (vec![0; seen.len()], before.clone().plain());
    let goal = after.clone().plain();
    let mut known = BTreeSet::from([start.clone()]);
    let mut open = vec![start];
    while let Some((places, model)) = open.pop() {
        if model == goal
            && places
                .iter()
                .zip(seen)
                .all(|(place, of)| *place == of.len())
        {
            return true;
        }
        for (nexus, of) in seen.iter().enumerate() {
            let Some(Seen { order, end }) = of.get(places[nexus]).copied() else {
                continue;
            };
            let mut places = places.clone();
            places[nexus] += 1;
            let (modelled, next) = model.apply(nexus, order);
            let mut follow = |model: Model| {
                let state = (places.clone(), model.plain());
                if known.insert(state.clone()) {
                    open.push(state);
                }
            };
            match end {
                None => {
                    follow(model.clone());
                    follow(next);
                }
                Some(end) if end == modelled => follow(next),
                Some(_) => {}
            }
        }
    }
    false
}

/// A plausible order of `nexus`, which believes that `model` is what there is.
pub fn draw(rng: &mut Rng, nexus: Nexus, model: &Model) -> Order {
    // Keys of different nexuses differ, so that a key says who it is.
    let own = |rng: &mut Rng| (u64::try_from(nexus).expect("few") + 1) * 10 + rng.below(2);
    let key = if rng.chance(900) {
        model.key(nexus)
    } else {
        own(rng)
    };
    let kind = *rng.pick(&TYPES);
    let held = model.reservation.map_or(kind, |(_, held)| held);
    let others: Vec<Key> = model
        .keys
        .iter()
        .filter(|(other, _)| **other != nexus)
        .map(|(_, key)| *key)
        .collect();
    let victim = match rng.below(20) {
        0 => 0,
        1 => key,
        _ if others.is_empty() => 99,
        _ => *rng.pick(&others),
    };
    match rng.below(20) {
        0..=3 => Order::Register(key, own(rng)),
        4 => Order::Register(key, 0),
        5..=6 => Order::RegisterAnyway(own(rng)),
        7..=9 => Order::Reserve(key, kind),
        10..=11 => Order::Release(key, held),
        12 => Order::Release(key, kind),
        13 => Order::Clear(key),
        14..=15 => Order::Preempt(key, victim, kind),
        16 => Order::PreemptAndAbort(key, victim, kind),
        17..=18 => Order::Write,
        _ => Order::Read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(orders: &[(Nexus, Order)]) -> Model {
        orders
            .iter()
            .fold(Model::default(), |model, (nexus, order)| {
                let (end, next) = model.apply(*nexus, *order);
                assert_eq!(end, End::Good, "{order:?}");
                next
            })
    }

    #[test]
    fn a_holder_that_leaves_takes_its_reservation_along() {
        let model = after(&[
            (0, Order::Register(0, 10)),
            (1, Order::Register(0, 20)),
            (0, Order::Reserve(10, 5)),
        ]);
        assert_eq!(model.apply(1, Order::Write).0, End::Good);
        assert_eq!(model.apply(2, Order::Write).0, End::Conflict);
        assert_eq!(model.apply(2, Order::Read).0, End::Good);
        let (_, model) = model.apply(0, Order::Register(10, 0));
        assert_eq!((model.keys.len(), model.reservation), (1, None));
    }

    #[test]
    fn all_registrants_hold_until_the_last_one_leaves() {
        let model = after(&[
            (0, Order::Register(0, 10)),
            (1, Order::Register(0, 20)),
            (0, Order::Reserve(10, 8)),
            (0, Order::Register(10, 0)),
        ]);
        assert_eq!(model.reservation, Some((1, 8)));
        assert_eq!(model.apply(0, Order::Read).0, End::Conflict);
        let (end, model) = model.apply(1, Order::Preempt(20, 0, 1));
        assert_eq!((end, model.reservation), (End::Good, Some((1, 1))));
    }

    #[test]
    fn who_preempts_its_own_key_keeps_it_only_with_the_reservation() {
        let registered = [(0, Order::Register(0, 10)), (1, Order::Register(0, 20))];
        let model = after(&registered);
        let (end, left) = model.apply(0, Order::Preempt(10, 10, 1));
        assert_eq!((end, left.keys), (End::Good, BTreeMap::from([(1, 20)])));
        assert_eq!(model.apply(0, Order::Preempt(10, 0, 1)).0, End::Conflict);
        let (_, held) = model.apply(0, Order::Reserve(10, 1));
        let (end, again) = held.apply(0, Order::Preempt(10, 10, 3));
        assert_eq!((end, again.reservation), (End::Good, Some((0, 3))));
        assert_eq!(again.keys, held.keys);
        let (end, _) = held.apply(1, Order::Preempt(20, 0, 1));
        assert_eq!(end, INVALID_FIELD_IN_LIST);
    }

    #[test]
    fn what_cannot_have_been_is_not_explained() {
        let seen = |order, end| Seen { order, end };
        let register = Order::Register(0, 10);
        let history = vec![
            vec![seen(register, Some(End::Good))],
            vec![seen(Order::Write, Some(End::Good))],
        ];
        let registered = after(&[(0, register)]);
        assert!(explained(&Model::default(), &history, &registered));
        assert!(!explained(&Model::default(), &history, &Model::default()));
        let unknown = vec![vec![seen(register, None)]];
        assert!(explained(&Model::default(), &unknown, &registered));
        assert!(explained(&Model::default(), &unknown, &Model::default()));
    }

    #[test]
    fn a_write_past_a_reservation_is_not_explained() {
        let reserved = after(&[(0, Order::Register(0, 10)), (0, Order::Reserve(10, 1))]);
        let write = Seen {
            order: Order::Write,
            end: Some(End::Good),
        };
        let history = [vec![], vec![write]];
        assert!(!explained(&reserved, &history, &reserved));
    }

    #[test]
    fn drawn_orders_of_every_kind_end_in_every_way() {
        let mut rng = Rng::new(1);
        let mut model = Model::default();
        let mut ends = BTreeSet::new();
        for turn in 0..2000 {
            let nexus = turn % 4;
            let (end, next) = model.apply(nexus, draw(&mut rng, nexus, &model));
            ends.insert(format!("{end:?}"));
            model = next;
        }
        let checks = [INVALID_RELEASE, INVALID_FIELD_IN_LIST];
        for end in [End::Good, End::Conflict].into_iter().chain(checks) {
            assert!(ends.contains(&format!("{end:?}")), "no {end:?}: {ends:?}");
        }
    }
}
