//! Edits of the cluster configuration, good and bad.

use super::*;

fn host(name: &str, iqn: &str) -> Host {
    Host {
        name: name.into(),
        iqns: vec![iqn.into()],
        networks: vec![],
        chap: None,
    }
}

fn with_one_volume() -> Cluster {
    let add = Edit::AddVolume {
        name: "v".into(),
        uuid: Uuid::from_u128(1),
        size_bytes: 1 << 20,
    };
    Cluster::default().with(&add, 3).expect("a good edit")
}

#[test]
fn generations_grow_with_edits_and_epochs() {
    let first = with_one_volume();
    assert_eq!(
        first.generation,
        Generation {
            epoch: 3,
            counter: 1
        }
    );
    let second = first
        .with(&Edit::AddHost(host("h", "iqn.2026-11.org.x:h")), 3)
        .expect("good");
    assert_eq!(
        second.generation,
        Generation {
            epoch: 3,
            counter: 2
        }
    );
    let third = second.with(&Edit::RemoveHost("h".into()), 9).expect("good");
    assert_eq!(
        third.generation,
        Generation {
            epoch: 9,
            counter: 1
        }
    );
}

#[test]
fn numbers_and_tags_are_never_reused() {
    let cluster = with_one_volume()
        .with(&Edit::RemoveVolume("v".into()), 3)
        .expect("good");
    let add = Edit::AddVolume {
        name: "v".into(),
        uuid: Uuid::nil(),
        size_bytes: 1 << 20,
    };
    let again = cluster.with(&add, 3).expect("good");
    assert_eq!(again.volumes[0].number, 2);
}

#[test]
fn bad_edits_say_why() {
    let cluster = with_one_volume()
        .with(&Edit::AddHost(host("a", "iqn.2026-11.org.x:a")), 3)
        .expect("good");
    let map = Map {
        to: Viewer::Host("a".into()),
        lun: 0,
        volume: "v".into(),
        read_only: false,
    };
    let mapped = cluster.with(&Edit::Map(map.clone()), 3).expect("good");
    let any = Host {
        name: "any".into(),
        iqns: vec![],
        networks: vec![],
        chap: None,
    };
    let mut short = host("c", "iqn.2026-11.org.x:c");
    short.chap = Some(Chap {
        user: "u".into(),
        secret: "short".into(),
        mutual: None,
    });
    let cases = [
        (Edit::AddHost(host("b", "iqn.2026-11.org.x:a")), "keep one"),
        (Edit::AddHost(host("b", "IQN.bad")), "is not an iSCSI name"),
        (Edit::AddHost(host("b", "iqn.2026-11.org.x:*")), "wildcard"),
        (Edit::AddHost(any), "needs source networks"),
        (Edit::AddHost(short), "at least 12 bytes"),
        (Edit::Map(map), "volume v as LUN 0 already"),
        (
            Edit::GrowVolume {
                name: "v".into(),
                size_bytes: meta::UNIT_BYTES,
            },
            "cannot shrink",
        ),
        (
            Edit::RemoveVolume("v".into()),
            "first `twinsan lun unmap a 0`",
        ),
        (
            Edit::Unmap {
                from: Viewer::Host("a".into()),
                lun: 7,
            },
            "has no LUN 7",
        ),
        (
            Edit::AddAddress("0.0.0.0/8".parse().expect("an address")),
            "cannot be",
        ),
    ];
    for (edit, words) in cases {
        let said = mapped.with(&edit, 3).expect_err(words);
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn the_sizes_are_those_of_the_mirror() {
    let add = |size_bytes| {
        let name = "w".to_owned();
        let uuid = Uuid::from_u128(2);
        let edit = Edit::AddVolume {
            name,
            uuid,
            size_bytes,
        };
        with_one_volume().with(&edit, 3).map(|_| ())
    };
    assert_eq!(add(meta::VOLUME_MAX_BYTES), Ok(()));
    let too_large = meta::VOLUME_MAX_BYTES + meta::UNIT_BYTES;
    for wrong in [0, 4096, VOLUME_BYTES_MIN + 512, too_large] {
        let said = add(wrong).expect_err("no size");
        assert!(
            said.contains("use 1 MiB to 128 TiB in whole 4 KiB"),
            "{said}"
        );
    }
}

fn with_a_group() -> Cluster {
    let mut cluster = with_one_volume();
    let to = Viewer::Group("g".into());
    let edits = [
        Edit::AddHost(host("a", "iqn.2026-11.org.x:a")),
        Edit::AddHost(host("b", "iqn.2026-11.org.x:b")),
        Edit::AddGroup("g".into()),
        Edit::Join(member("a")),
        Edit::Map(map(to, 0)),
    ];
    for edit in edits {
        cluster = cluster.with(&edit, 3).expect("a good edit");
    }
    cluster
}

fn member(host: &str) -> Membership {
    Membership {
        group: "g".into(),
        host: host.into(),
    }
}

fn map(to: Viewer, lun: u16) -> Map {
    Map {
        to,
        lun,
        volume: "v".into(),
        read_only: false,
    }
}

#[test]
fn the_scrub_has_a_rate_that_may_be_none() {
    let cluster = with_one_volume();
    assert_eq!(cluster.scrub_bytes_per_s, 4 << 20);
    let off = cluster.with(&Edit::ScrubRate(0), 3).expect("a good edit");
    assert_eq!(off.scrub_bytes_per_s, 0);
    let text = toml::to_string(&off).expect("serializes");
    assert_eq!(toml::from_str::<Cluster>(&text).expect("its own text"), off);
    let wrong = cluster.with(&Edit::ScrubRate(u64::MAX), 3);
    assert!(wrong.is_err_and(|why| why.contains("say a lower rate")));
}

#[test]
fn a_host_sees_what_its_group_sees_for_as_long_as_it_is_in_it() {
    let with = |cluster: &Cluster, edit| cluster.with(&edit, 3).expect("a good edit");
    let cluster = with(&with_a_group(), Edit::Join(member("b")));
    let masking = Masking::of(&cluster).expect("good");
    assert_eq!(masking.groups[0].hosts, ["a", "b"]);
    let text = toml::to_string(&cluster).expect("serializes");
    assert_eq!(
        toml::from_str::<Cluster>(&text).expect("its own text"),
        cluster
    );
    let cluster = with(&cluster, Edit::Leave(member("a")));
    let cluster = with(&cluster, Edit::RemoveHost("b".into()));
    assert!(cluster.groups[0].hosts.is_empty(), "{cluster:?}");
    let own = map(Viewer::Host("a".into()), 0);
    let cluster = with(&cluster, Edit::Map(own));
    assert_eq!(cluster.maps.len(), 2, "one for the group, one for the host");
}

#[test]
fn bad_groups_say_why() {
    let cluster = with_a_group();
    let unknown = Membership {
        group: "h".into(),
        host: "a".into(),
    };
    let cases = [
        (Edit::AddGroup("g".into()), "a group g already"),
        (Edit::AddGroup("a".into()), "of a host and of a group"),
        (Edit::AddGroup("g g".into()), "not a name"),
        (
            Edit::AddHost(host("g", "iqn.2026-11.org.x:g")),
            "of a host and of a group",
        ),
        (Edit::Join(member("a")), "in group g already"),
        (Edit::Join(member("c")), "see `twinsan host list`"),
        (Edit::Join(unknown), "see `twinsan group list`"),
        (Edit::Leave(member("b")), "b is not in group g"),
        (
            Edit::RemoveGroup("g".into()),
            "`twinsan lun unmap g 0 --group`",
        ),
        (Edit::RemoveVolume("v".into()), "is LUN 0 of group g"),
        (
            Edit::Map(map(Viewer::Group("h".into()), 1)),
            "see `twinsan group list`",
        ),
        (Edit::Map(map(Viewer::Host("a".into()), 0)), "mapped twice"),
        (
            Edit::Unmap {
                from: Viewer::Host("g".into()),
                lun: 0,
            },
            "host g has no LUN 0",
        ),
    ];
    for (edit, words) in cases {
        let said = cluster.with(&edit, 3).expect_err(words);
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn secrets_are_masked() {
    let chap = |secret: &str| {
        Some(Chap {
            user: "u".into(),
            secret: secret.into(),
            mutual: None,
        })
    };
    let mut secret = host("h", "iqn.2026-11.org.x:h");
    secret.chap = chap("0123456789ab");
    let mut cluster = Cluster::default();
    for edit in [
        Edit::AddHost(secret),
        Edit::Discovery(chap("for discovery")),
    ] {
        cluster = cluster.with(&edit, 1).expect("good");
    }
    let shown = toml::to_string(&cluster.masked()).expect("serializes");
    for secret in ["0123456789ab", "for discovery"] {
        assert!(!shown.contains(secret), "{shown}");
        assert!(!format!("{cluster:?}").contains(secret));
    }
    let stored = toml::to_string(&cluster).expect("serializes");
    let again: Cluster = toml::from_str(&stored).expect("its own text");
    assert_eq!(again, cluster);
    let none = cluster.with(&Edit::Discovery(None), 1).expect("good");
    assert_eq!(none.discovery, None);
    let short = cluster.with(&Edit::Discovery(chap("short")), 1);
    assert!(short.expect_err("short").contains("CHAP of discovery"));
}
