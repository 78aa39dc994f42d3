//! One service action each, and the bounds.

use super::*;

/// Changes that must succeed, one after the other.
fn after(asks: &[(Registrant, Ask)]) -> Reservations {
    asks.iter()
        .fold(Reservations::default(), |now, (who, ask)| {
            changed(&now, who, ask).0
        })
}

fn changed(now: &Reservations, who: &Registrant, ask: &Ask) -> (Reservations, Effects) {
    match ask.of(now, who) {
        Ok(Outcome::Changed(next, effects)) => (next, effects),
        other => panic!("{who:?} {ask:?}: {other:?}"),
    }
}

fn sense(now: &Reservations, who: &Registrant, ask: &Ask) -> [u8; 3] {
    match ask.of(now, who) {
        Err(Refusal::Check(sense)) => triple(sense),
        other => panic!("{who:?} {ask:?}: {other:?}"),
    }
}

fn registers(number: u8) -> (Registrant, Ask) {
    let ask = Ask {
        action: REGISTER,
        new_key: key(number),
        ..Ask::default()
    };
    (host(number), ask)
}

fn asks(action: u8, number: u8, kind: u8) -> (Registrant, Ask) {
    let ask = Ask {
        action,
        kind,
        key: key(number),
        ..Ask::default()
    };
    (host(number), ask)
}

fn preempts(number: u8, victim: u64, kind: u8) -> (Registrant, Ask) {
    let (who, ask) = asks(PREEMPT_AND_ABORT, number, kind);
    (
        who,
        Ask {
            new_key: victim,
            ..ask
        },
    )
}

fn key(number: u8) -> u64 {
    0xa000 + u64::from(number)
}

fn keys(now: &Reservations) -> Vec<(Registrant, u64)> {
    let all = now.registered.iter();
    all.map(|(who, key)| (who.clone(), key.0)).collect()
}

#[test]
fn a_key_is_changed_by_who_knows_it_only() {
    let now = after(&[registers(1)]);
    let mut ask = Ask {
        new_key: 7,
        ..Ask::default()
    };
    assert_eq!(ask.of(&now, &host(1)), Err(Refusal::Conflict));
    ask.key = key(1);
    assert_eq!(keys(&changed(&now, &host(1), &ask).0), [(host(1), 7)]);
    ask.new_key = 0;
    assert_eq!(keys(&changed(&now, &host(1), &ask).0), []);
    ask.action = REGISTER_IGNORING;
    ask.key = 99;
    assert_eq!(keys(&changed(&now, &host(1), &ask).0), []);
    assert_eq!(
        ask.of(&now, &host(2)),
        Ok(Outcome::Unchanged),
        "nothing to do"
    );
}

#[test]
fn a_stranger_may_only_register() {
    let now = after(&[registers(1)]);
    for action in [RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT] {
        for known in [1, 2] {
            let (_, ask) = asks(action, known, 5);
            assert_eq!(ask.of(&now, &host(2)), Err(Refusal::Conflict), "{action}");
        }
    }
}

#[test]
fn all_target_ports_are_registered_at_once_and_let_go_at_once() {
    let (who, ask) = registers(1);
    let mut ask = Ask {
        all_ports: true,
        ..ask
    };
    let now = after(&[(who.clone(), ask.clone())]);
    assert_eq!(keys(&now), PORTS.map(|port| (through(1, port), key(1))));
    ask.key = key(1);
    ask.new_key = 0;
    assert_eq!(keys(&changed(&now, &who, &ask).0), []);
}

#[test]
fn a_key_on_another_target_port_is_not_written_over_unseen() {
    let other = (
        through(1, PORTS[1]),
        Ask {
            new_key: 5,
            ..Ask::default()
        },
    );
    let now = after(&[other]);
    let (who, ask) = registers(1);
    let mut ask = Ask {
        all_ports: true,
        ..ask
    };
    assert_eq!(ask.of(&now, &who), Err(Refusal::Conflict));
    ask.action = REGISTER_IGNORING;
    let both = PORTS.map(|port| (through(1, port), key(1)));
    assert_eq!(keys(&changed(&now, &who, &ask).0), both);
}

#[test]
fn spec_i_pt_registers_others_all_or_none() {
    let (who, ask) = registers(1);
    let ask = Ask {
        also: Some(vec![host(2).port, host(3).port]),
        ..ask
    };
    let now = after(&[(who.clone(), ask.clone())]);
    assert_eq!(keys(&now), [1, 2, 3].map(|number| (host(number), key(1))));
    let taken = after(&[registers(3)]);
    assert_eq!(sense(&taken, &who, &ask), [5, 0x26, 0], "3 has its own key");
    let again = Ask { key: key(1), ..ask };
    assert_eq!(sense(&now, &who, &again), [5, 0x24, 0], "a registrant");
}

#[test]
fn a_unit_has_room_for_every_host_through_two_portals() {
    let longest = |number: usize| {
        let name = format!("iqn.2026-11.org.example:{number:04}-");
        format!("{name:x<223}")
    };
    let mut now = Reservations::default();
    let ask = Ask {
        action: REGISTER,
        new_key: u64::MAX,
        ..Ask::default()
    };
    let who = |number: usize| Registrant {
        port: InitiatorPort {
            name: longest(number),
            isid: [0xff; 6],
        },
        target_port: u16::MAX,
    };
    for number in 0..REGISTRATIONS_MAX {
        now = changed(&now, &who(number), &ask).0;
    }
    assert_eq!(sense(&now, &who(REGISTRATIONS_MAX), &ask), [5, 0x55, 0x04]);
    let record = now.to_bytes();
    assert_eq!(record.len(), RESERVATIONS_BYTES_MAX);
    assert_eq!(Reservations::from_bytes(&record), Ok(now.clone()));
    // All of them can be listed in one REGISTER.
    let (first, others) = (
        who(0),
        (1..REGISTRATIONS_MAX).map(|number| who(number).port),
    );
    let all = Ask {
        also: Some(others.collect()),
        ..ask
    };
    let listed = changed(&Reservations::default(), &first, &all).0;
    assert_eq!(listed.registered.len(), REGISTRATIONS_MAX);
    let status = now.tell(InAction::ReadFullStatus);
    assert!(
        u16::try_from(status.len()).is_ok(),
        "an allocation length can name it"
    );
}

#[test]
fn a_reservation_is_taken_by_one_and_kept_by_its_holder() {
    let now = after(&[registers(1), registers(2), asks(RESERVE, 1, 1)]);
    let of = |(who, ask): (Registrant, Ask)| ask.of(&now, &who);
    assert_eq!(of(asks(RESERVE, 1, 1)), Ok(Outcome::Unchanged));
    assert_eq!(of(asks(RESERVE, 1, 3)), Err(Refusal::Conflict));
    assert_eq!(of(asks(RESERVE, 2, 1)), Err(Refusal::Conflict));
    let all = after(&[registers(1), registers(2), asks(RESERVE, 1, 7)]);
    let (who, ask) = asks(RESERVE, 2, 7);
    assert_eq!(
        ask.of(&all, &who),
        Ok(Outcome::Unchanged),
        "it holds it too"
    );
}

#[test]
fn a_release_says_which_and_tells_the_other_registrants() {
    for kind in [1, 3, 5, 6, 7, 8] {
        let now = after(&[registers(1), registers(2), asks(RESERVE, 1, kind)]);
        let (who, ask) = asks(RELEASE, 1, if kind == 1 { 3 } else { 1 });
        assert_eq!(sense(&now, &who, &ask), [5, 0x26, 0x04]);
        let (who, ask) = asks(RELEASE, 1, kind);
        let (next, effects) = changed(&now, &who, &ask);
        let told = vec![(host(2), Attention::ReservationsReleased)];
        let expected = if kind < 5 { Vec::new() } else { told };
        assert_eq!(
            (next.held.is_none(), effects.told),
            (true, expected),
            "{kind}"
        );
        assert_eq!(next.generation, now.generation, "not counted");
    }
    let now = after(&[registers(1), registers(2), asks(RESERVE, 1, 5)]);
    let (who, ask) = asks(RELEASE, 2, 5);
    assert_eq!(ask.of(&now, &who), Ok(Outcome::Unchanged), "not the holder");
}

#[test]
fn a_reservation_goes_with_the_registration_of_its_last_holder() {
    for kind in [1, 3, 5, 6, 7, 8] {
        let now = after(&[registers(1), registers(2), asks(RESERVE, 1, kind)]);
        let (who, ask) = asks(REGISTER, 1, 0);
        let (next, effects) = changed(&now, &who, &ask);
        let stays = kind >= 7;
        assert_eq!(next.is_held(), stays, "{kind}");
        let told = vec![(host(2), Attention::ReservationsReleased)];
        let expected = if kind == 5 || kind == 6 {
            told
        } else {
            Vec::new()
        };
        assert_eq!(effects.told, expected, "{kind}");
        if stays {
            let (who, ask) = asks(REGISTER, 2, 0);
            assert!(!changed(&next, &who, &ask).0.is_held());
        }
    }
}

#[test]
fn a_clear_leaves_the_generation_and_tells_the_others() {
    let now = after(&[registers(1), registers(2), asks(RESERVE, 1, 6)]);
    let (who, ask) = asks(CLEAR, 2, 0);
    let (next, effects) = changed(&now, &who, &ask);
    assert_eq!(
        (keys(&next), next.is_held(), next.generation),
        (vec![], false, 3)
    );
    assert_eq!(effects.told, [(host(1), Attention::ReservationsPreempted)]);
    assert_eq!(effects.aborted, []);
}

#[test]
fn a_preemption_takes_over_from_the_holder_and_aborts_its_commands() {
    let now = after(&[
        registers(1),
        registers(2),
        registers(3),
        asks(RESERVE, 1, 5),
    ]);
    let (who, ask) = preempts(2, key(1), 6);
    let (next, effects) = changed(&now, &who, &ask);
    assert_eq!(
        keys(&next),
        [2, 3].map(|number| (host(number), key(number)))
    );
    assert!(next.is_holder(&host(2)) && !next.is_holder(&host(3)));
    let told = [
        (host(1), Attention::RegistrationsPreempted),
        (host(3), Attention::ReservationsReleased),
    ];
    assert_eq!(
        (effects.told.as_slice(), effects.aborted),
        (&told[..], vec![host(1)])
    );
    let (who, ask) = preempts(2, 0x77, 6);
    assert_eq!(ask.of(&now, &who), Err(Refusal::Conflict), "nobody's key");
    let (who, ask) = preempts(2, 0, 6);
    assert_eq!(sense(&now, &who, &ask), [5, 0x26, 0], "not all registrants");
}

#[test]
fn a_preemption_of_all_registrants_leaves_the_one_that_asks() {
    let now = after(&[
        registers(1),
        registers(2),
        registers(3),
        asks(RESERVE, 1, 8),
    ]);
    let (who, ask) = preempts(2, 0, 1);
    let (next, effects) = changed(&now, &who, &ask);
    assert_eq!(keys(&next), [(host(2), key(2))]);
    assert!(next.is_holder(&host(2)) && effects.told.len() == 2);
    // By key, the reservation stays with the others.
    let (who, ask) = preempts(2, key(1), 1);
    let (next, _) = changed(&now, &who, &ask);
    assert!(next.is_holder(&host(2)) && next.is_holder(&host(3)) && !next.is_holder(&host(1)));
}

#[test]
fn a_holder_moves_its_reservation_to_another_nexus() {
    let now = after(&[registers(1), registers(2), asks(RESERVE, 1, 3)]);
    let (who, ask) = asks(MOVE, 1, 0);
    let to = through(3, PORTS[1]);
    let mut ask = Ask {
        new_key: 0xbb,
        to: Some(to.clone()),
        unregister: true,
        ..ask
    };
    let (next, effects) = changed(&now, &who, &ask);
    assert_eq!(keys(&next), [(host(2), key(2)), (to.clone(), 0xbb)]);
    assert!(next.is_holder(&to) && effects == Effects::default());
    ask.unregister = false;
    assert_eq!(keys(&changed(&now, &who, &ask).0).len(), 3);
    let free = after(&[registers(1)]);
    assert_eq!(sense(&free, &who, &ask), [5, 0x24, 0], "no reservation");
    for wrong in [who.clone(), through(3, 0x99)] {
        ask.to = Some(wrong);
        assert_eq!(sense(&now, &who, &ask), [5, 0x26, 0]);
    }
    let (other, theirs) = asks(MOVE, 2, 0);
    let theirs = Ask {
        new_key: 1,
        to: Some(to),
        ..theirs
    };
    assert_eq!(
        theirs.of(&now, &other),
        Err(Refusal::Conflict),
        "not the holder"
    );
}

#[test]
fn lists_and_cdbs_must_be_whole() {
    let parse = |cdb: [u8; CDB_BYTES]| match persistent_out(&cdb) {
        Ok(Command::Reservation(Asked::Out(out))) => Ok(out),
        Ok(other) => panic!("{other:?}"),
        Err(sense) => Err(triple(sense)),
    };
    let ask = |action, kind| Ask {
        action,
        kind,
        ..Ask::default()
    };
    assert_eq!(
        parse(ask(RESERVE, 2).cdb(24)),
        Err([5, 0x24, 0]),
        "no such type"
    );
    assert_eq!(
        parse(ask(RESERVE, 0x15).cdb(24)),
        Err([5, 0x24, 0]),
        "an extent"
    );
    assert_eq!(
        parse(ask(8, 5).cdb(24)),
        Err([5, 0x24, 0]),
        "no such action"
    );
    for len in [0, 23, 1 << 20] {
        assert_eq!(parse(ask(CLEAR, 0).cdb(len)), Err([5, 0x1a, 0]), "{len}");
    }
    let read = |ask: &Ask, list_bytes: usize, list: &[u8]| {
        let out = parse(ask.cdb(list_bytes)).unwrap();
        out.read(list).map(|_| ()).map_err(triple)
    };
    let list = ask(CLEAR, 0).list();
    assert_eq!(read(&ask(CLEAR, 0), 24, &list), Ok(()));
    assert_eq!(
        read(&ask(CLEAR, 0), 24, &list[..23]),
        Err([5, 0x1a, 0]),
        "cut"
    );
    let longer = [list.clone(), vec![0; 4]].concat();
    assert_eq!(read(&ask(CLEAR, 0), 28, &longer), Err([5, 0x1a, 0]));
    let mut specifies = list;
    specifies[20] |= 0x08;
    assert_eq!(
        read(&ask(REGISTER_IGNORING, 0), 24, &specifies),
        Err([5, 0x26, 0])
    );
    assert_eq!(
        read(&ask(REGISTER, 0), 24, &specifies),
        Err([5, 0x1a, 0]),
        "no length"
    );
}

#[test]
fn a_list_of_initiator_ports_is_as_long_as_it_says() {
    let read = |list: &[u8]| match persistent_out(&Ask::default().cdb(list.len())) {
        Ok(Command::Reservation(Asked::Out(out))) => out.read(list).map(|_| ()).map_err(triple),
        other => panic!("{other:?}"),
    };
    let mut named = Ask {
        also: Some(vec![host(1).port]),
        ..Ask::default()
    }
    .list();
    assert_eq!(read(&named), Ok(()));
    named[27] += 4;
    assert_eq!(read(&named), Err([5, 0x1a, 0]), "not all there");
    named[27] -= 4;
    named[28] = 0x05;
    assert_eq!(read(&named), Err([5, 0x26, 0]), "no ISID");
}

#[test]
fn capabilities_are_all_there_are() {
    let told = Reservations::default().tell(InAction::ReportCapabilities);
    assert_eq!(told, [0, 8, 0x1d, 0x81, 0xea, 0x01, 0, 0]);
}
