//! Who sees what: configurations that are refused, views, changes while sessions are open.

use super::*;
use crate::hosts::{ChapSecret, ChapSecrets, ConfigError, HOSTS_MAX, LUNS_MAX, Refused};

type Edit<'a> = &'a dyn Fn(&mut ArrayConfig);

fn configured(hosts: Vec<HostConfig>) -> Result<Applied, ConfigError> {
    Array::new().apply(ArrayConfig {
        hosts,
        ..ArrayConfig::default()
    })
}

#[test]
fn names_of_initiators_follow_rfc_7143() {
    let long = format!("iqn.2026-11.org.example:{}", "x".repeat(200));
    let bad = [
        "",
        "disk",
        "iqn.2026-11",
        "iqn.2026-13.org.example",
        "iqn.26-11.org.example",
        "iqn.2026-11.org..example",
        "iqn.2026-11.org.example: x",
        "iqn.2026-11.org.example_x",
        "iqn.2026-11.",
        "eui.02004567A425678",
        "naa.52004567BA64678",
        "naa.52004567BA64678G",
        &long,
    ];
    for name in bad {
        let refused = configured(vec![host("h", &[name])]).unwrap_err();
        assert_eq!(refused, ConfigError::BadInitiator(name.to_owned()));
    }
    let good = [
        "iqn.2001-04.com.example",
        "iqn.2001-04.com.example:storage:diskarrays-sn-a8675309",
        "iqn.1991-05.com.microsoft:WIN-1",
        "iqn.1998-01.com.vmware:esx-1.local:1234:65",
        "eui.02004567A425678D",
        "naa.52004567BA64678D",
        "naa.62004567BA64678D0123456789ABCDEF",
    ];
    for name in good {
        configured(vec![host("h", &[name])]).unwrap();
    }
}

#[test]
fn a_configuration_that_is_not_clear_is_refused() {
    let any = |networks: &[&str], initiators: &[&str]| HostConfig {
        networks: networks
            .iter()
            .map(|network| network.parse().unwrap())
            .collect(),
        ..host("any", initiators)
    };
    let many = (0..=HOSTS_MAX)
        .map(|n| host(&format!("h{n}"), &[&format!("iqn.2026-11.org.example:{n}")]))
        .collect();
    let cases = [
        (vec![host("h", &["iqn.2026-11.org.example:*"])], "wildcard"),
        (
            vec![host("a", &[FIRST]), host("b", &[SECOND, FIRST])],
            "belongs to host \"a\" and",
        ),
        (
            vec![host("a", &[FIRST]), host("b", &[&FIRST.to_uppercase()])],
            "belongs",
        ),
        (vec![host("a", &[FIRST, FIRST])], "twice"),
        (
            vec![host("a", &[FIRST]), host("a", &[SECOND])],
            "\"a\" is configured twice",
        ),
        (vec![host("a", &[])], "has no initiator"),
        (vec![any(&[], &[])], "needs source networks"),
        (
            vec![any(&["10.0.0.0/8"], &[FIRST])],
            "cannot name initiators",
        ),
        (many, "the limit is 64"),
    ];
    for (hosts, message) in cases {
        let refused = configured(hosts).unwrap_err().to_string();
        assert!(refused.contains(message), "{refused}");
    }
}

/// One could have us answer the challenge of another's login.
#[test]
fn what_the_target_proves_is_nobodys_proof() {
    let secret = |secret: &[u8]| ChapSecret {
        name: "user".into(),
        secret: secret.into(),
    };
    let chap = |inbound, outbound: Option<&[u8]>| ChapSecrets {
        inbound: secret(inbound),
        outbound: outbound.map(secret),
    };
    let with = |first, second, discovery| {
        let hosts = [("a", FIRST, first), ("b", SECOND, second)];
        let config = ArrayConfig {
            hosts: hosts
                .map(|(name, iqn, chap)| HostConfig {
                    chap,
                    ..host(name, &[iqn])
                })
                .into(),
            discovery,
            ..ArrayConfig::default()
        };
        Array::new()
            .apply(config)
            .map_err(|error| error.to_string())
    };
    let ours = chap(b"0123456789ab", Some(b"ba9876543210"));
    let clash = chap(b"ba9876543210", None);
    let apart = chap(b"another secret", Some(b"ba9876543210"));
    with(Some(ours.clone()), Some(apart), None).expect("our proof may be the same everywhere");
    let refused = with(Some(ours.clone()), Some(clash.clone()), None).unwrap_err();
    assert!(
        refused.contains("CHAP of host \"a\": the target proves"),
        "{refused}"
    );
    let refused = with(Some(clash), None, Some(ours.clone())).unwrap_err();
    assert!(
        refused.contains("CHAP of discovery: the target proves"),
        "{refused}"
    );
    let short = chap(b"short", None);
    let refused = with(Some(ours), None, Some(short)).unwrap_err();
    assert!(
        refused.contains("CHAP of discovery: a secret is too short"),
        "{refused}"
    );
}

#[test]
fn secrets_that_cannot_protect_are_refused() {
    let secret = |secret: &[u8]| ChapSecret {
        name: "user".into(),
        secret: secret.into(),
    };
    let with = |inbound: ChapSecret, outbound: Option<ChapSecret>| {
        let chap = Some(ChapSecrets { inbound, outbound });
        configured(vec![HostConfig {
            chap,
            ..host("h", &[FIRST])
        }])
    };
    let good = secret(b"0123456789ab");
    with(good.clone(), Some(secret(b"ba9876543210"))).unwrap();
    let short = with(secret(b"0123456789a"), None).unwrap_err();
    assert!(short.to_string().contains("at least 12 bytes"));
    let same = with(good.clone(), Some(good.clone())).unwrap_err();
    assert!(same.to_string().contains("both directions"));
    assert!(
        with(
            ChapSecret {
                name: String::new(),
                ..good.clone()
            },
            None
        )
        .is_err()
    );
    // No secret in what a log may print.
    assert!(!format!("{good:?}").contains("0123"));
}

#[test]
fn networks() {
    let cases = [
        ("10.1.0.0/16", "10.1.255.1", true),
        ("10.1.0.0/16", "10.2.0.1", false),
        ("10.1.2.3", "10.1.2.3", true),
        ("10.1.2.3", "10.1.2.4", false),
        ("0.0.0.0/0", "255.255.255.255", true),
        ("0.0.0.0/0", "::1", false),
        ("10.0.0.0/8", "::ffff:10.0.0.1", true),
        ("fd00::/8", "fdff::1", true),
        ("fd00::/8", "fe80::1", false),
        ("::/0", "fe80::1", true),
        ("::1", "::2", false),
    ];
    for (network, source, inside) in cases {
        let network: Network = network.parse().unwrap();
        assert_eq!(
            network.contains(source.parse().unwrap()),
            inside,
            "{network} {source}"
        );
    }
    for text in [
        "",
        "10.0.0.0/33",
        "::/129",
        "10.0.0/8",
        "10.0.0.0/",
        "10.0.0.0/-1",
        "any",
    ] {
        let refused = text.parse::<Network>().unwrap_err();
        assert_eq!(refused, ConfigError::BadNetwork(text.to_owned()));
    }
}

#[test]
fn who_may_log_in() {
    let from = |networks: &[&str], config: HostConfig| HostConfig {
        networks: networks
            .iter()
            .map(|network| network.parse().unwrap())
            .collect(),
        ..config
    };
    let mut array = Array::new();
    let hosts = vec![
        from(&["10.1.0.0/16"], host("near", &[FIRST])),
        host("anywhere", &[SECOND]),
    ];
    array
        .apply(ArrayConfig {
            hosts: hosts.clone(),
            ..ArrayConfig::default()
        })
        .unwrap();
    let (inside, outside) = ([10, 1, 0, 1].into(), [10, 2, 0, 1].into());
    let near = array.authorize(FIRST, inside).unwrap();
    assert_eq!(
        array.authorize(FIRST, outside),
        Err(Refused::ForeignNetwork)
    );
    let anywhere = array.authorize(SECOND, outside).unwrap();
    assert_ne!(near, anywhere);
    // Names are compared in lower case.
    assert_eq!(
        array.authorize(&SECOND.to_uppercase(), outside),
        Ok(anywhere)
    );
    let stranger = "iqn.2026-11.org.example:stranger";
    assert_eq!(
        array.authorize(stranger, inside),
        Err(Refused::UnknownInitiator)
    );
    // With `any`, the stranger gets in, and who has a host of its own is not let in through it.
    let hosts = [hosts, vec![from(&["10.2.0.0/16"], host("any", &[]))]].concat();
    array
        .apply(ArrayConfig {
            hosts,
            ..ArrayConfig::default()
        })
        .unwrap();
    assert!(array.authorize(stranger, outside).is_ok());
    assert_eq!(
        array.authorize(stranger, inside),
        Err(Refused::ForeignNetwork)
    );
    assert_eq!(
        array.authorize(FIRST, outside),
        Err(Refused::ForeignNetwork)
    );
    assert_eq!(
        array.authorize(FIRST, inside),
        Ok(near),
        "ids survive a new configuration"
    );
}

#[test]
fn maps_that_are_not_clear_are_refused_and_change_nothing() {
    let mut bench = Bench::new();
    let disk = Rc::clone(&bench.disk);
    let group = |name: &str, hosts: &[&str]| GroupConfig {
        name: name.to_owned(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
    };
    let other = UnitId(2);
    let to_group = |name: &str, lun| MapConfig {
        target: MapTarget::Group(name.to_owned()),
        ..map("", lun, other, Access::ReadWrite)
    };
    let mut refused = |edit: Edit<'_>| {
        let mut config = config(&disk, Access::ReadWrite);
        config.units.push(unit(other, &disk));
        edit(&mut config);
        bench.array.apply(config).unwrap_err().to_string()
    };
    let cases: [(Edit<'_>, &str); 10] = [
        (
            &|c| c.maps.push(map("first", 0, other, Access::ReadOnly)),
            "LUN 0 of host \"first\"",
        ),
        (
            &|c| c.maps.push(map("first", 1, DISK, Access::ReadOnly)),
            "is mapped twice to host",
        ),
        (
            &|c| c.maps.push(map("first", 256, other, Access::ReadWrite)),
            "use 0 to 255",
        ),
        (
            &|c| c.maps.push(map("third", 1, other, Access::ReadWrite)),
            "host \"third\" is not",
        ),
        (
            &|c| c.maps.push(map("first", 1, UnitId(9), Access::ReadWrite)),
            "unit",
        ),
        (&|c| c.maps.push(to_group("all", 1)), "group \"all\" is not"),
        (
            &|c| c.groups.push(group("all", &["first", "nobody"])),
            "host \"nobody\" is not",
        ),
        (
            &|c| c.groups = vec![group("all", &[]), group("all", &[])],
            "group \"all\"",
        ),
        (&|c| c.units.push(unit(DISK, &disk)), "is configured twice"),
        (
            &|c| {
                c.groups = vec![group("all", &["first", "second"])];
                c.maps.push(to_group("all", 0));
            },
            "LUN 0 of host \"first\"",
        ),
    ];
    for (edit, message) in cases {
        let refused = refused(edit);
        assert!(refused.contains(message), "{refused}");
    }
    let empty = Rc::new(MemoryBackend::thin(0));
    assert!(refused(&|c| c.units.push(unit(UnitId(3), &empty))).contains("no blocks"));
    assert!(bench.is_good(bench.nexus, &[0x00]), "no view changed");
}

#[test]
fn a_host_sees_its_maps_and_nothing_else() {
    let mut bench = Bench::new();
    let disk = Rc::clone(&bench.disk);
    let mut config = config(&disk, Access::ReadWrite);
    config.maps = vec![map("first", 0, DISK, Access::ReadWrite)];
    config.maps.extend((1..LUNS_MAX).map(|lun| {
        config.units.push(unit(UnitId(lun as u128), &disk));
        let lun = u16::try_from(lun).unwrap();
        map("first", lun, UnitId(lun.into()), Access::ReadWrite)
    }));
    bench.array.apply(config).unwrap();
    let second = bench
        .array
        .authorize(SECOND, [127, 0, 0, 1].into())
        .unwrap();
    let second = bench.array.open(nexus(SECOND), second);
    let luns = bench.data(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0], &[]);
    assert_eq!(luns[..8], [0, 0, 8, 0, 0, 0, 0, 0]);
    let numbers: Vec<_> = luns[8..].chunks(8).map(|lun| lun[1]).collect();
    assert_eq!(numbers, Vec::from_iter(0..=255));
    let cut = bench.data(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], &[]);
    assert_eq!(cut, luns[..16]);
    assert_eq!(
        bench.data(&[0xa0, 0, 1, 0, 0, 0, 0, 0, 0, 16, 0, 0], &[]),
        [0; 8]
    );
    assert_eq!(
        bench.sense(&[0xa0, 0, 3, 0, 0, 0, 0, 0, 0, 16, 0, 0], &[]),
        [5, 0x24, 0]
    );
    // The other one sees none of it, but may ask.
    let all = [0xa0, 0, 2, 0, 0, 0, 0, 0, 0, 16, 0, 0];
    assert_eq!(bench.run_as(second, 0, &all, &[]).data_in.concat(), [0; 8]);
    for lun in [0, 7, 255] {
        let inquiry = bench
            .run_as(second, lun, &[0x12, 0, 0, 0, 96, 0], &[])
            .data_in
            .concat();
        assert_eq!((inquiry[0], inquiry.len()), (0x7f, 96));
        for cdb in [
            [0x00].as_slice(),
            &[0x25],
            &[0x28, 0, 0, 0, 0, 0, 0, 0, 1],
            &[0xff],
        ] {
            assert_eq!(bench.sense_of(second, lun, cdb), [5, 0x25, 0]);
        }
        let sense = bench
            .run_as(second, lun, &[0x03, 0, 0, 0, 18, 0], &[])
            .data_in
            .concat();
        assert_eq!((sense[2], sense[12]), (5, 0x25));
    }
    assert_eq!(bench.array.unit_at(second, [0; 8]), None);
    // Flat addresses name the same units; other addresses name none.
    assert_eq!(
        bench
            .array
            .unit_at(bench.nexus, [0x40, 0, 0, 0, 0, 0, 0, 0]),
        Some(DISK)
    );
    assert_eq!(
        bench.array.unit_at(bench.nexus, [0, 0, 0, 1, 0, 0, 0, 0]),
        None
    );
    assert_eq!(
        bench
            .array
            .unit_at(bench.nexus, [0xc1, 1, 0, 0, 0, 0, 0, 0]),
        None
    );
}

#[test]
fn a_changed_view_is_told_until_the_list_is_read() {
    let mut bench = Bench::new();
    let disk = Rc::clone(&bench.disk);
    let second = bench.log_in(SECOND);
    let grown = || {
        let mut config = config(&disk, Access::ReadWrite);
        config.units.push(unit(UnitId(2), &disk));
        config
            .maps
            .push(map("first", 1, UnitId(2), Access::ReadOnly));
        config
    };
    bench.array.apply(grown()).unwrap();
    assert!(bench.is_good(second, &[0x00]), "its view is the same");
    assert_eq!(bench.sense(&[0x00], &[]), [6, 0x3f, 0x0e]);
    assert_eq!(bench.sense_of(bench.nexus, 1, &[0x00]), [6, 0x3f, 0x0e]);
    assert_eq!(
        bench.sense_of(bench.nexus, 1, &[0x0a, 0, 0, 0, 1, 0]),
        [7, 0x27, 0]
    );
    bench.array.apply(config(&disk, Access::ReadWrite)).unwrap();
    assert_eq!(bench.sense_of(bench.nexus, 1, &[0x00]), [5, 0x25, 0]);
    bench.array.apply(grown()).unwrap();
    let luns = bench.data(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], &[]);
    assert_eq!(luns.len(), 24);
    assert!(
        bench.is_good(bench.nexus, &[0x00]),
        "reading the list clears it everywhere"
    );
    assert!(bench.run_as(bench.nexus, 1, &[0x00], &[]).status == Status::Good);
}

#[test]
fn who_loses_its_host_is_evicted_and_sees_nothing() {
    let mut bench = Bench::new();
    let second = bench.log_in(SECOND);
    let mut without = config(&bench.disk, Access::ReadWrite);
    without.hosts.remove(0);
    without.maps.remove(0);
    let applied = bench.array.apply(without).unwrap();
    assert_eq!(applied.evicted, [bench.nexus]);
    assert_eq!(bench.sense(&[0x00], &[]), [5, 0x25, 0]);
    assert!(bench.is_good(second, &[0x00]));
    // Moved to another host: evicted as well, although it is still known.
    let mut moved = config(&bench.disk, Access::ReadWrite);
    moved.hosts = vec![host("first", &[SECOND]), host("second", &[FIRST])];
    let applied = bench.array.apply(moved).unwrap();
    assert_eq!(applied.evicted, [bench.nexus, second]);
}

/// Law T1: after a nexus was closed or opened anew, nothing of the old opening is admitted.
#[test]
fn a_closed_nexus_admits_nothing() {
    let mut bench = Bench::new();
    let old = bench.nexus;
    let host = bench.array.authorize(FIRST, [127, 0, 0, 1].into()).unwrap();
    let new = bench.array.open(nexus(FIRST), host);
    assert_ne!(old, new);
    assert!(matches!(
        bench.array.start(old, [0; 8], [0; 16], 0),
        Start::Drop
    ));
    assert_eq!(bench.sense_of(new, 0, &[0x00]), [6, 0x29, 0]);
    // Another session id is another nexus.
    let beside = Nexus {
        isid: [0x80, 0, 0, 0, 0, 2],
        ..nexus(FIRST)
    };
    let beside = bench.array.open(beside, host);
    assert!(bench.is_good(new, &[0x00]));
    assert_eq!(bench.sense_of(beside, 0, &[0x00]), [6, 0x29, 0]);
    bench.array.close(new);
    assert!(bench.try_run(new, 0, &[0x00], &[]).is_none());
    assert!(bench.is_good(beside, &[0x00]));
}

#[test]
fn a_reset_is_told_to_everyone_on_its_scope() {
    let mut bench = Bench::new();
    let second = bench.log_in(SECOND);
    let hit = bench.array.reset(second, ResetScope::Unit([0; 8]));
    assert_eq!(hit, [bench.nexus, second]);
    for nexus in hit {
        assert_eq!(bench.sense_of(nexus, 0, &[0x00]), [6, 0x29, 0x03]);
    }
    assert_eq!(
        bench
            .array
            .reset(second, ResetScope::Unit([0, 9, 0, 0, 0, 0, 0, 0])),
        []
    );
    let hit = bench.array.reset(second, ResetScope::Target);
    for nexus in hit {
        assert_eq!(bench.sense_of(nexus, 0, &[0x00]), [6, 0x29, 0x00]);
    }
    assert!(bench.is_good(second, &[0x00]));
}

/// Masking holds for resets too: a host that went mad harms those it shares a unit with, no others.
#[test]
fn a_target_reset_is_about_the_units_that_its_host_sees() {
    const OTHER: UnitId = UnitId(77);
    let disk = Rc::new(MemoryBackend::thin(64));
    let other = Rc::new(MemoryBackend::thin(64));
    let mut config = config(&disk, Access::ReadWrite);
    config.units.push(unit(OTHER, &other));
    config.maps = vec![
        map("first", 0, DISK, Access::ReadWrite),
        map("second", 0, OTHER, Access::ReadWrite),
    ];
    let mut bench = Bench::new();
    bench.array.apply(config).unwrap();
    let second = bench.log_in(SECOND);
    for nexus in [bench.nexus, second] {
        while !bench.is_good(nexus, &[0x00]) {}
    }
    assert_eq!(bench.array.units_of(second), [OTHER]);
    assert_eq!(bench.array.reset(second, ResetScope::Target), [second]);
    assert!(bench.is_good(bench.nexus, &[0x00]));
    assert_eq!(bench.sense_of(second, 0, &[0x00]), [6, 0x29, 0x00]);
}
