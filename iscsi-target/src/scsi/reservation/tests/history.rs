//! Random histories: the value against the model, after every command.

use proptest::prelude::*;

use super::model::{Model, Said};
use super::*;

const HOSTS: u8 = 3;

fn registrant() -> impl Strategy<Value = Registrant> {
    (0..HOSTS, prop::sample::select(&PORTS[..])).prop_map(|(number, port)| through(number, port))
}

/// A wish that often makes sense: keys are few and mostly what they should be.
#[derive(Clone, Debug)]
struct Wish {
    who: Registrant,
    ask: Ask,
    /// The key of the one that asks is put in.
    knows_its_key: bool,
}

fn wish() -> impl Strategy<Value = Wish> {
    let action = prop_oneof![
        4 => Just(REGISTER),
        4 => Just(REGISTER_IGNORING),
        5 => Just(RESERVE),
        3 => Just(RELEASE),
        1 => Just(CLEAR),
        4 => Just(PREEMPT),
        2 => Just(PREEMPT_AND_ABORT),
        3 => Just(MOVE),
    ];
    let kind = prop_oneof![
        12 => prop::sample::select(&[1_u8, 3, 5, 6, 7, 8][..]),
        1 => prop::sample::select(&[0_u8, 2, 4, 9, 0x11][..]),
    ];
    let port = (0..HOSTS).prop_map(|number| host(number).port);
    let also = prop_oneof![
        5 => Just(None),
        1 => prop::collection::vec(port, 0..3).prop_map(Some),
    ];
    let to = (registrant(), 0..20_u8).prop_map(|(mut to, strange)| {
        if strange == 0 {
            to.target_port = 0x99;
        }
        to
    });
    let flags = (any::<bool>(), any::<bool>(), 0..10_u8);
    (
        registrant(),
        action,
        kind,
        0..4_u64,
        0..4_u64,
        also,
        to,
        flags,
    )
        .prop_map(
            |(who, action, kind, key, new_key, also, to, (all_ports, unregister, known))| {
                let moves = action == MOVE;
                let ask = Ask {
                    action,
                    kind,
                    key,
                    new_key,
                    all_ports: all_ports && !moves,
                    also: also.filter(|_| !moves),
                    to: moves.then_some(to),
                    unregister,
                };
                let knows_its_key = known > 0;
                Wish {
                    who,
                    ask,
                    knows_its_key,
                }
            },
        )
}

/// What everybody sees, in the words of PERSISTENT RESERVE IN.
fn check_views(reservations: &Reservations, model: &Model) {
    let keys = reservations.tell(InAction::ReadKeys);
    assert_eq!(keys[..4], model.generation.to_be_bytes());
    let mut keys: Vec<u64> = keys[8..]
        .chunks(8)
        .map(|key| u64::from_be_bytes(key.try_into().unwrap()))
        .collect();
    let mut expected: Vec<u64> = model.list.iter().map(|(_, key)| *key).collect();
    keys.sort_unstable();
    expected.sort_unstable();
    assert_eq!(keys, expected);

    let held = reservations.tell(InAction::ReadReservation);
    let expected = model.reservation.as_ref().map(|(kind, holder)| {
        let shown = if *kind < 7 {
            model.key_of(holder)
        } else {
            Some(0)
        };
        (shown.expect("a holder is registered"), *kind)
    });
    let found = (held.len() > 8).then(|| {
        (
            u64::from_be_bytes(held[8..16].try_into().unwrap()),
            held[21],
        )
    });
    assert_eq!(found, expected);

    let status = reservations.tell(InAction::ReadFullStatus);
    let mut rest = &status[8..];
    let mut descriptors = 0;
    while !rest.is_empty() {
        let len = u32::from_be_bytes(rest[20..24].try_into().unwrap()) as usize;
        let mut id = &rest[24..24 + len];
        let who = Registrant {
            port: transport_id::take(&mut id).unwrap(),
            target_port: u16::from_be_bytes(rest[18..20].try_into().unwrap()),
        };
        let key = u64::from_be_bytes(rest[..8].try_into().unwrap());
        assert_eq!(model.key_of(&who), Some(key), "{who:?}");
        let kind = model.reservation.as_ref().map_or(0, |(kind, _)| *kind);
        let expected = if model.holds(&who) { [1, kind] } else { [0, 0] };
        assert_eq!(rest[12..14], expected, "{who:?}");
        descriptors += 1;
        rest = &rest[24 + len..];
    }
    assert_eq!(descriptors, model.list.len());
}

/// Who may do what.
fn check_access(reservations: &Reservations, model: &Model) {
    for number in 0..HOSTS {
        for port in PORTS {
            let who = through(number, port);
            let refused = |conflict| reservations.refuse(&who, conflict);
            assert_eq!(
                refused(Conflict::Always),
                !model.allows(&who, false),
                "{who:?}"
            );
            assert_eq!(
                refused(Conflict::Exclusive),
                !model.allows(&who, true),
                "{who:?}"
            );
            assert!(!refused(Conflict::Never) && !refused(Conflict::Legacy));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_value_is_what_the_standard_says(wishes in prop::collection::vec(wish(), 1..60)) {
        let (mut reservations, mut model) = (Reservations::default(), Model::default());
        for Wish { who, mut ask, knows_its_key } in wishes {
            if knows_its_key {
                ask.key = model.key_of(&who).unwrap_or(0);
            }
            let expected = model.out(&who, &ask);
            let outcome = ask.of(&reservations, &who);
            let said = match &outcome {
                Ok(_) => Said::Good,
                Err(Refusal::Conflict) => Said::Conflict,
                Err(Refusal::Check(sense)) => Said::Sense(triple(*sense)),
            };
            prop_assert_eq!(said, expected, "{:?} {:?}", who, ask);
            let effects = match outcome {
                Ok(Outcome::Changed(next, effects)) => {
                    prop_assert!(next != reservations, "a change changes something");
                    reservations = next;
                    effects
                }
                Ok(Outcome::Unchanged) | Err(_) => Effects::default(),
            };
            let mut told: Vec<_> = effects
                .told
                .iter()
                .map(|(who, attention)| (who.clone(), attention.sense().code))
                .collect();
            told.sort();
            model.told.sort();
            prop_assert_eq!(&told, &model.told, "{:?} {:?}", who, ask);
            model.aborted.sort();
            prop_assert_eq!(&effects.aborted, &model.aborted);
            check_views(&reservations, &model);
            check_access(&reservations, &model);
            let record = reservations.to_bytes();
            prop_assert_eq!(Reservations::from_bytes(&record), Ok(reservations.clone()));
        }
    }

    #[test]
    fn strange_records_are_refused_and_never_believed(
        wishes in prop::collection::vec(wish(), 1..20),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut reservations = Reservations::default();
        for Wish { who, ask, .. } in wishes {
            if let Ok(Outcome::Changed(next, _)) = ask.of(&reservations, &who) {
                reservations = next;
            }
        }
        let mut record = reservations.to_bytes().to_vec();
        let short = cut.index(record.len());
        prop_assert_eq!(Reservations::from_bytes(&record[..short]), Err(BadRecord));
        record.push(0);
        prop_assert_eq!(Reservations::from_bytes(&record), Err(BadRecord));
        record.pop();
        let at = at.index(record.len());
        record[at] = byte;
        if let Ok(read) = Reservations::from_bytes(&record) {
            read.check();
            prop_assert_eq!(read.to_bytes(), record);
        }
    }

    #[test]
    fn no_list_can_make_a_panic(
        action in 0..8_u8,
        kind in any::<u8>(),
        list in prop::collection::vec(prop_oneof![any::<u8>(), Just(0)], 0..120),
    ) {
        let ask = Ask { action, kind, ..Ask::default() };
        if let Ok(Command::Reservation(Asked::Out(out))) = persistent_out(&ask.cdb(list.len())) {
            let _ = out.read(&list);
        }
    }
}
