//! Plans make what was wanted, and take back what was done.

use proptest::prelude::*;

use super::*;
use crate::config::cluster::{Host, Map, Viewer};
use crate::config::fence::Fence;

const IQN: &str = "iqn.2026-11.org.example";

fn host(name: &str, secret: Option<&str>) -> Host {
    Host {
        name: name.into(),
        iqns: vec![format!("{IQN}:{name}")],
        networks: vec![],
        chap: secret.map(|secret| Chap {
            user: "user".into(),
            secret: secret.into(),
            mutual: None,
        }),
    }
}

fn map(to: Viewer, lun: u16, volume: &str) -> Edit {
    Edit::Map(Map {
        to,
        lun,
        volume: volume.into(),
        read_only: false,
    })
}

fn fence(name: &str, address: &str) -> Fence {
    let text = format!(
        "name = \"{name}\"\nnode = \"san2\"\n[agent]\nkind = \"ipmi\"\n\
         address = \"{address}\"\nport = 623\nuser = \"u\"\nsecret = \"a secret of it\"\n"
    );
    toml::from_str(&text).expect("a device")
}

fn volume(name: &str) -> Edit {
    Edit::AddVolume {
        name: name.into(),
        uuid: Uuid::new_v4(),
        size_bytes: 1 << 20,
    }
}

fn made(edits: &[Edit]) -> Cluster {
    let first = [Edit::Target(format!("{IQN}:target"))];
    let all: Vec<Edit> = first.iter().chain(edits).cloned().collect();
    Cluster::default().with_all(&all, 1).expect("good edits")
}

/// Everything but order, generations and numbers.
fn essence(cluster: &Cluster) -> (Vec<String>, Vec<String>) {
    let mut whole = cluster.clone();
    whole.groups.iter_mut().for_each(|group| group.hosts.sort());
    let mut lines: Vec<String> = Vec::new();
    lines.extend(
        whole
            .hosts
            .iter()
            .map(|it| format!("{it:?} {:?}", secret(it))),
    );
    lines.extend(whole.groups.iter().map(|it| format!("{it:?}")));
    lines.extend(whole.maps.iter().map(|it| format!("{it:?}")));
    lines.extend(whole.addresses.iter().map(|it| it.cidr.to_string()));
    lines.push(format!("{:?} {}", whole.discovery, whole.scrub_bytes_per_s));
    lines.sort();
    let volumes = whole.volumes.iter();
    let volumes = volumes.map(|it| format!("{} {}", it.name, it.size_bytes));
    let mut volumes: Vec<String> = volumes.collect();
    volumes.sort();
    (lines, volumes)
}

fn secret(host: &Host) -> Option<&str> {
    host.chap.as_ref().map(|chap| chap.secret.as_str())
}

#[test]
fn what_is_shown_can_be_applied_and_changes_nothing() {
    let now = made(&[
        volume("v"),
        Edit::AddHost(host("h", Some("a secret of h"))),
        map(Viewer::Host("h".into()), 0, "v"),
        Edit::AddAddress("10.0.0.1/24".parse().expect("an address")),
        Edit::AddFence(fence("bmc", "10.0.0.9")),
    ]);
    assert_eq!(between(&now, &now.masked()), Ok(vec![]));
}

#[test]
fn a_fencing_device_is_kept_changed_or_taken_away_with_its_secret() {
    let now = made(&[Edit::AddFence(fence("bmc", "10.0.0.9"))]);
    let mut wanted = now.masked();
    wanted.fences[0].level = 2;
    let said = between(&now, &wanted).expect_err("another device");
    assert!(said.contains("write the secret"), "{said}");

    wanted.fences = vec![fence("bmc", "10.0.0.8")];
    let edits = between(&now, &wanted).expect("a plan");
    let after = now.with_all(&edits, 1).expect("good edits");
    assert_eq!(after.fences, wanted.fences);

    wanted.fences.clear();
    let edits = between(&after, &wanted).expect("a plan");
    assert_eq!(edits, [Edit::RemoveFence("bmc".into())]);
}

#[test]
fn a_file_without_numbers_makes_volumes_and_keeps_the_rest() {
    let now = made(&[volume("v")]);
    let text = format!(
        "target = \"{IQN}:target\"\n[[volume]]\nname = \"v\"\nsize_bytes = 2097152\n\
         [[volume]]\nname = \"w\"\nsize_bytes = 1048576\n\
         [[map]]\nlun = 3\nvolume = \"w\"\nto = {{ host = \"h\" }}\n\
         [[host]]\nname = \"h\"\niqns = [\"{IQN}:h\"]\n"
    );
    let wanted: Cluster = toml::from_str(&text).expect("a configuration");
    let edits = between(&now, &wanted).expect("a plan");
    let told: Vec<String> = edits.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "volume v has 2 MiB",
            "volume w made",
            "host h added",
            "volume w is LUN 3 of host h"
        ]
    );
    let after = now.with_all(&edits, 1).expect("good edits");
    assert_eq!(essence(&after), essence(&wanted));
    assert_eq!(after.volume("v").expect("there").uuid, now.volumes[0].uuid);
    assert!(!after.volume("w").expect("there").uuid.is_nil());
}

#[test]
fn no_plan_deletes_data_or_invents_a_secret() {
    let now = made(&[volume("v"), Edit::AddHost(host("h", Some("a secret of h")))]);
    let mut wanted = now.clone();
    wanted.volumes.clear();
    let said = between(&now, &wanted).expect_err("it holds data");
    assert!(said.contains("twinsan volume delete v"), "{said}");

    let mut wanted = now.clone();
    wanted.volumes[0].uuid = Uuid::from_u128(7);
    assert!(between(&now, &wanted).is_err(), "another identity");

    let mut wanted = now.clone();
    wanted.volumes[0].size_bytes -= 4096;
    let edits = between(&now, &wanted).expect("a plan");
    let said = now.with_all(&edits, 1).expect_err("it would shrink");
    assert!(said.contains("would be lost"), "{said}");

    let mut wanted = now.masked();
    wanted.hosts[0].name = "other".into();
    let said = between(&now, &wanted).expect_err("nobody knows it");
    assert!(said.contains("write the secret"), "{said}");
}

#[test]
fn a_rollback_takes_back_the_newest_first_and_leaves_volumes() {
    let mut history = Vec::new();
    let mut at = made(&[volume("v")]);
    let first = at.clone();
    let changes = [
        vec![Edit::AddHost(host("h", Some("a secret of h")))],
        vec![map(Viewer::Host("h".into()), 0, "v"), volume("w")],
        vec![Edit::RemoveHost("h".into()), Edit::ScrubRate(0)],
    ];
    for edits in changes {
        let after = at.with_all(&edits, 2).expect("good edits");
        history.push(Past {
            generation: after.generation,
            unix_ms: 0,
            told: vec![],
            undo: apart_from_volumes(&after, &at),
        });
        at = after;
    }
    let text = toml::to_string(&history[2]).expect("it serializes");
    assert_eq!(
        toml::from_str(&text),
        Ok(history[2].clone()),
        "with nothing lost"
    );

    let back = rollback(&history, None).expect("a plan");
    let before_last = at.with_all(&back, 2).expect("good edits");
    assert_eq!(
        before_last.hosts[0].chap,
        host("h", Some("a secret of h")).chap
    );
    assert_eq!(before_last.maps.len(), 1);
    assert_eq!(before_last.scrub_bytes_per_s, first.scrub_bytes_per_s);

    let to = history[0].generation;
    let back = rollback(&history, Some(to)).expect("a plan");
    let early = at.with_all(&back, 2).expect("good edits");
    assert!(early.maps.is_empty() && early.hosts.len() == 1);
    assert_eq!(early.volumes, at.volumes, "volumes stay");

    for to in [at.generation, first.generation] {
        let said = rollback(&history, Some(to)).expect_err("not there");
        assert!(said.contains(&to.to_string()), "{said}");
    }
    assert!(rollback(&[], None).is_err());
}

#[derive(Clone, Debug)]
enum Step {
    Host(u8, bool),
    NoHost(u8),
    Group(u8),
    Join(u8, u8),
    Map(u8, u16),
    GroupMap(u8, u16),
    Unmap(u8, u16),
    Address(u8),
    NoAddress(u8),
    Rate(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4u8, any::<bool>()).prop_map(|(a, b)| Step::Host(a, b)),
        (0..4u8).prop_map(Step::NoHost),
        (0..2u8).prop_map(Step::Group),
        (0..2u8, 0..4u8).prop_map(|(a, b)| Step::Join(a, b)),
        (0..4u8, 0..3u16).prop_map(|(a, b)| Step::Map(a, b)),
        (0..2u8, 0..3u16).prop_map(|(a, b)| Step::GroupMap(a, b)),
        (0..4u8, 0..3u16).prop_map(|(a, b)| Step::Unmap(a, b)),
        (1..5u8).prop_map(Step::Address),
        (1..5u8).prop_map(Step::NoAddress),
        (0..3u64).prop_map(Step::Rate),
    ]
}

fn edit(step: &Step) -> Edit {
    let group = |it: &u8| format!("g{it}");
    let name = |it: &u8| format!("h{it}");
    match step {
        Step::Host(it, chap) => Edit::AddHost(host(&name(it), chap.then_some("twelve bytes!"))),
        Step::NoHost(it) => Edit::RemoveHost(name(it)),
        Step::Group(it) => Edit::AddGroup(group(it)),
        Step::Join(to, it) => Edit::Join(Membership {
            group: group(to),
            host: name(it),
        }),
        Step::Map(it, lun) => map(Viewer::Host(name(it)), *lun, "v"),
        Step::GroupMap(it, lun) => map(Viewer::Group(group(it)), *lun, "v"),
        Step::Unmap(it, lun) => Edit::Unmap {
            from: Viewer::Host(name(it)),
            lun: *lun,
        },
        Step::Address(it) => Edit::AddAddress(format!("10.0.0.{it}/24").parse().expect("one")),
        Step::NoAddress(it) => Edit::RemoveAddress(format!("10.0.0.{it}").parse().expect("one")),
        Step::Rate(it) => Edit::ScrubRate(*it),
    }
}

/// A configuration that some steps lead to; those that make no sense are left out.
fn somewhere(steps: &[Step]) -> Cluster {
    steps
        .iter()
        .map(edit)
        .fold(made(&[volume("v")]), |at, edit| {
            at.with(&edit, 1).unwrap_or(at)
        })
}

proptest! {
    #[test]
    fn a_plan_leads_from_any_configuration_to_any_other(
        one in prop::collection::vec(step(), 0..24),
        other in prop::collection::vec(step(), 0..24),
    ) {
        let (now, wanted) = (somewhere(&one), somewhere(&other));
        let edits = apart_from_volumes(&now, &wanted);
        let after = now.with_all(&edits, 1);
        prop_assert_eq!(after.as_ref().map(essence), Ok(essence(&wanted)));
        let after = after.expect("just compared");
        prop_assert!(apart_from_volumes(&after, &wanted).is_empty());
    }
}
