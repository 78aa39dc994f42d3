//! Login scripts: stages, codes, CHAP.

use super::*;
use crate::auth::Algorithm;
use crate::login::{EDGES, Stage};
use crate::text;

fn status(replies: &[Reply]) -> u16 {
    assert_eq!(replies.len(), 1, "{replies:?}");
    replies[0].bhs.cast::<login::Response>().status.get()
}

fn login(table: &mut Table, flags: u8, text: &str) -> Vec<Reply> {
    table.send(&login_request(flags, text.len()), text.as_bytes())
}

#[test]
fn one_request_is_enough_without_authentication() {
    let mut table = Table::new();
    let reply = login(
        &mut table,
        0x87,
        &format!("{NAMES}SessionType=Normal\0InitialR2T=No\0"),
    );
    assert_eq!(
        reply[0].text(),
        "TargetPortalGroupTag=1\nInitialR2T=No\nMaxRecvDataSegmentLength=262144\n"
    );
    let response: login::Response = reply[0].bhs.cast();
    assert_eq!((response.flags, response.status.get()), (0x87, 0));
    assert_eq!(
        (response.stat_sn.get(), response.exp_cmd_sn.get()),
        (1, FIRST)
    );
    assert_eq!(response.max_cmd_sn.get(), FIRST + WINDOW_DEPTH - 1);
    assert_eq!(table.registry.sessions().len(), 1);
}

#[test]
fn stages_follow_each_other() {
    let mut table = Table::new();
    let reply = login(&mut table, 0x81, &format!("{NAMES}AuthMethod=CHAP,None\0"));
    assert_eq!(reply[0].text(), "TargetPortalGroupTag=1\nAuthMethod=None\n");
    assert_eq!(reply[0].bhs.flags, 0x81);
    let reply = login(&mut table, 0x04, "HeaderDigest=CRC32C,None\0");
    assert_eq!(
        reply[0].text(),
        "HeaderDigest=CRC32C\nMaxRecvDataSegmentLength=262144\n"
    );
    assert_eq!(reply[0].bhs.flags, 0x04);
    let reply = login(&mut table, 0x87, "X-org.example=1\0");
    assert_eq!(reply[0].text(), "X-org.example=NotUnderstood\n");
    assert_eq!(reply[0].bhs.cast::<login::Response>().stat_sn.get(), 3);
    // From here on headers carry digests in both directions.
    table.decoder.set_digests(Digest::Crc32c, Digest::None);
    table.sender.set_digests(Digest::Crc32c, Digest::None);
    let reply = table.send(&nop_out(5, Ttt::NONE.0, FIRST, IMMEDIATE, 2), b"hi");
    assert_eq!(reply[0].data, b"hi");
}

#[test]
fn refusals_have_their_codes() {
    let table = [
        (0x87, "SessionType=Normal\0", 0x0207),
        (0x87, "InitiatorName=iqn.2026-01.test:one\0", 0x0207),
        (0x87, "InitiatorName=\0TargetName=x\0", 0x0207),
        (
            0x87,
            "InitiatorName=iqn.2026-01.test:one\0SessionType=Odd\0",
            0x0209,
        ),
        (
            0x87,
            "InitiatorName=iqn.2026-01.test:one\0TargetName=iqn.x\0",
            0x0203,
        ),
        (
            0x87,
            "InitiatorName=iqn.2026-01.test:two\0SessionType=Discovery\0",
            0x0202,
        ),
        (0x87, "no pair\0", 0x0200),
        (0x8f, "", 0x020b),
        (0x8a, "", 0x020b),
        (0xc7, "", 0x020b),
    ];
    for (flags, text, code) in table {
        let mut table = Table::new();
        assert_eq!(status(&login(&mut table, flags, text)), code, "{text:?}");
        assert_eq!(
            table.closed,
            Some((CloseReason::Refused, Manner::AfterSending))
        );
        assert!(table.registry.sessions().is_empty());
    }
}

#[test]
fn numbers_of_the_header_are_checked() {
    let text = NAMES.as_bytes();
    let request = login_request(0x87, text.len());
    let mut table = Table::new();
    assert_eq!(
        status(&table.send(
            &login::Request {
                version_min: 1,
                ..request
            },
            text
        )),
        0x0205
    );
    let mut table = Table::new();
    assert_eq!(
        status(&table.send(
            &login::Request {
                tsih: 77.into(),
                ..request
            },
            text
        )),
        0x020a
    );
    let mut table = Table::new();
    table.log_in("");
    let tsih = table.registry.sessions()[0].tsih.0;
    table.connection = new_connection(2);
    assert_eq!(
        status(&table.send(
            &login::Request {
                tsih: tsih.into(),
                ..request
            },
            text
        )),
        0x0206
    );
    let mut table = Table::new();
    let _ = login(&mut table, 0x04, NAMES);
    let other = login::Request {
        isid: [9; 6],
        ..login_request(0x87, 0)
    };
    assert_eq!(status(&table.send(&other, &[])), 0x020b);
}

#[test]
fn only_a_login_opens_a_connection() {
    let mut table = Table::new();
    let reply = table.send(&nop_out(5, Ttt::NONE.0, FIRST, IMMEDIATE, 0), &[]);
    assert_eq!(status(&reply), 0x020b);
    assert_eq!(
        table.closed,
        Some((CloseReason::Refused, Manner::AfterSending))
    );
}

#[test]
fn a_box_that_is_not_serving_says_nothing_else() {
    for text in [NAMES, "InitiatorName=iqn.x\0TargetName=iqn.y\0", "junk"] {
        let mut table = Table::new();
        table.registry.deactivate();
        assert_eq!(status(&login(&mut table, 0x87, text)), 0x0301);
    }
    // Also when the role is lost in the middle of a login.
    let mut table = Table::new();
    let _ = login(&mut table, 0x04, NAMES);
    table.registry.deactivate();
    assert_eq!(status(&login(&mut table, 0x87, "")), 0x0301);
}

#[test]
fn text_may_come_in_parts() {
    let mut table = Table::new();
    let (first, second) = NAMES.split_at(20);
    let reply = login(&mut table, 0x44, first);
    assert_eq!((reply[0].bhs.flags, reply[0].data.len()), (0x04, 0));
    assert_eq!(status(&login(&mut table, 0x87, second)), 0);
    assert_eq!(table.registry.sessions().len(), 1);
}

#[test]
fn a_key_is_settled_once() {
    let mut table = Table::new();
    assert_eq!(
        status(&login(
            &mut table,
            0x04,
            &format!("{NAMES}HeaderDigest=None\0")
        )),
        0
    );
    assert_eq!(
        status(&login(&mut table, 0x87, "HeaderDigest=CRC32C\0")),
        0x0200
    );
    let mut table = Table::new();
    let twice = "MaxRecvDataSegmentLength=1024\0MaxRecvDataSegmentLength=2048\0";
    assert_eq!(
        status(&login(&mut table, 0x87, &format!("{NAMES}{twice}"))),
        0
    );
}

#[test]
fn text_without_end_is_refused() {
    let mut table = Table::new();
    let part = "A=1\0".repeat(2048);
    assert_eq!(status(&login(&mut table, 0x44, &part)), 0);
    assert_eq!(status(&login(&mut table, 0x44, &part)), 0);
    assert_eq!(status(&login(&mut table, 0x44, &part)), 0x0200);
    // Nobody has declared to accept a longer segment than 8 KiB yet.
    let mut table = Table::new();
    assert!(login(&mut table, 0x44, &"A=1\0".repeat(2049)).is_empty());
    assert_eq!(
        table.closed,
        Some((CloseReason::Protocol, Manner::AfterSending))
    );
}

#[test]
fn a_login_with_too_many_strange_keys_is_refused() {
    let keys = |count: usize| -> String { (0..count).map(|n| format!("X-{n}=1\0")).collect() };
    for flags in [0x87, 0x83] {
        let mut table = Table::new();
        let reply = login(&mut table, flags, &format!("{NAMES}{}", keys(64)));
        assert_eq!(status(&reply), 0);
        assert_eq!(reply[0].text().matches("NotUnderstood").count(), 64);
        let mut table = Table::new();
        let text = format!("{NAMES}{}", keys(65));
        assert_eq!(status(&login(&mut table, flags, &text)), 0x0200);
    }
    // They are counted over all requests of the login.
    let mut table = Table::new();
    let text = format!("{NAMES}{}", keys(64));
    assert_eq!(status(&login(&mut table, 0x04, &text)), 0);
    assert_eq!(status(&login(&mut table, 0x87, "Y=1\0")), 0x0200);
}

#[test]
fn an_initiator_keeps_its_name() {
    let mut table = Table::new();
    assert_eq!(status(&login(&mut table, 0x04, NAMES)), 0);
    assert_eq!(status(&login(&mut table, 0x04, NAMES)), 0);
    let other = "InitiatorName=iqn.2026-01.test:two\0";
    assert_eq!(status(&login(&mut table, 0x87, other)), 0x0200);
}

#[test]
fn every_illegal_step_is_refused() {
    let stages = [Stage::Security, Stage::Operational, Stage::FullFeature];
    let number = |stage| match stage {
        Stage::Start | Stage::Security => 0u8,
        Stage::Operational => 1,
        Stage::FullFeature => 3,
    };
    for from in stages {
        for to in stages {
            let mut table = Table::new();
            let flags = 0x80 | number(from) << 2 | number(to);
            let reached = status(&login(&mut table, flags, NAMES)) == 0;
            let legal = EDGES.contains(&(from, to)) && EDGES.contains(&(Stage::Start, from));
            assert_eq!(reached, legal, "{from:?} to {to:?}");
        }
    }
}

#[test]
fn a_login_takes_no_longer_than_allowed() {
    let mut table = Table::new();
    let _ = login(&mut table, 0x04, NAMES);
    assert!(table.wait(14_999).is_empty());
    assert_eq!(table.closed, None);
    let _ = table.wait(1);
    assert_eq!(
        table.closed,
        Some((CloseReason::LoginTimeout, Manner::Reset))
    );
}

fn secrets() -> ChapSecrets {
    let secret = |name: &str, secret: &[u8]| ChapSecret {
        name: name.to_owned(),
        secret: secret.to_vec(),
    };
    let outbound = Some(secret("array", b"secret of array"));
    ChapSecrets {
        inbound: secret("alice", b"secret of alice"),
        outbound,
    }
}

/// Runs CHAP up to the challenge and returns the right proof.
fn challenged(table: &mut Table, offer: &str) -> (Algorithm, String) {
    let reply = login(table, 0x81, &format!("{NAMES}AuthMethod=None,CHAP\0"));
    assert_eq!(reply[0].text(), "TargetPortalGroupTag=1\nAuthMethod=CHAP\n");
    assert_eq!(reply[0].bhs.flags, 0, "no transition before the proof");
    let reply = login(table, 0x00, &format!("CHAP_A={offer}\0"));
    let pairs = text::parse(&reply[0].data).unwrap();
    let algorithm = Algorithm::from_number(&pairs[0].1).unwrap();
    let challenge = text::parse_binary(&pairs[2].1).unwrap();
    assert_eq!(
        (pairs[1].1.as_str(), challenge.as_slice()),
        ("9", &[0xab; 32][..])
    );
    let proof = algorithm.response(9, b"secret of alice", &challenge);
    (algorithm, text::format_binary(&proof))
}

#[test]
fn chap_in_one_direction() {
    for (offer, chosen) in [("5", 5), ("5,6", 6), ("5,7,6", 7), ("7,8,5", 8)] {
        let mut table = Table::with_chap(Some(secrets()));
        let (algorithm, proof) = challenged(&mut table, offer);
        assert_eq!(algorithm as u8, chosen);
        let reply = login(&mut table, 0x83, &format!("CHAP_N=alice\0CHAP_R={proof}\0"));
        assert_eq!((status(&reply), reply[0].bhs.flags), (0, 0x83));
        assert_eq!(table.registry.sessions().len(), 1);
    }
}

#[test]
fn chap_in_both_directions() {
    let mut table = Table::with_chap(Some(secrets()));
    let (algorithm, proof) = challenged(&mut table, "7");
    let text = format!("CHAP_N=alice\0CHAP_R={proof}\0CHAP_I=77\0CHAP_C=0x0102030405060708\0");
    let reply = login(&mut table, 0x81, &text);
    let theirs = algorithm.response(77, b"secret of array", &[1, 2, 3, 4, 5, 6, 7, 8]);
    let expected = format!("CHAP_N=array\nCHAP_R={}\n", text::format_binary(&theirs));
    assert_eq!((reply[0].text(), reply[0].bhs.flags), (expected, 0x81));
}

#[test]
fn who_does_not_prove_himself_stays_out() {
    let refused = |table: &mut Table, flags, text: &str| {
        assert_eq!(status(&login(table, flags, text)), 0x0201, "{text}");
        assert!(table.registry.sessions().is_empty());
    };
    // The security stage left out, entered without a method, or with another method.
    for (flags, text) in [(0x87, ""), (0x83, ""), (0x81, "AuthMethod=None\0")] {
        let mut table = Table::with_chap(Some(secrets()));
        refused(&mut table, flags, &format!("{NAMES}{text}"));
    }
    let table = || Table::with_chap(Some(secrets()));
    let (mut wrong, mut name, mut early, mut unknown) = (table(), table(), table(), table());
    let _ = challenged(&mut wrong, "5");
    refused(&mut wrong, 0x81, "CHAP_N=alice\0CHAP_R=0x00\0");
    let (_, proof) = challenged(&mut name, "5");
    refused(&mut name, 0x81, &format!("CHAP_N=bob\0CHAP_R={proof}\0"));
    let _ = login(&mut early, 0x00, &format!("{NAMES}AuthMethod=CHAP\0"));
    refused(&mut early, 0x81, &format!("CHAP_N=alice\0CHAP_R={proof}\0"));
    let _ = login(&mut unknown, 0x00, &format!("{NAMES}AuthMethod=CHAP\0"));
    refused(&mut unknown, 0x00, "CHAP_A=1,2\0");
}

#[test]
fn our_own_challenge_is_not_answered() {
    let mut table = Table::with_chap(Some(secrets()));
    let (_, proof) = challenged(&mut table, "5");
    let ours = text::format_binary(&[0xab; 32]);
    let text = format!("CHAP_N=alice\0CHAP_R={proof}\0CHAP_I=9\0CHAP_C={ours}\0");
    assert_eq!(status(&login(&mut table, 0x81, &text)), 0x0201);
}

/// Another login's challenge, answered by us, would be its proof.
#[test]
fn a_challenge_of_another_connection_is_not_answered() {
    let mut table = Table::with_chap(Some(secrets()));
    let _ = table.registry.accept(ConnectionId(7));
    table.registry.challenge(ConnectionId(7), &[0xcd; 32]);
    let (_, proof) = challenged(&mut table, "5");
    let theirs = text::format_binary(&[0xcd; 32]);
    let text = format!("CHAP_N=alice\0CHAP_R={proof}\0CHAP_I=9\0CHAP_C={theirs}\0");
    assert_eq!(status(&login(&mut table, 0x81, &text)), 0x0201);
    // What was sent to this connection is known there too.
    let mut table = Table::with_chap(Some(secrets()));
    let _ = table.registry.accept(ConnectionId(1));
    let _ = challenged(&mut table, "5");
    assert!(table.registry.is_challenge_of_ours(&[0xab; 32]));
}

/// A table whose array wants a proof for discovery; its host needs none.
fn discovery_table() -> Table {
    let mut table = Table::new();
    table.discovery(Some(secrets()));
    table
}

#[test]
fn discovery_has_its_own_proof() {
    let identity = "InitiatorName=iqn.2026-01.test:one\0SessionType=Discovery\0";
    let mut table = discovery_table();
    assert_eq!(status(&login(&mut table, 0x87, identity)), 0x0201);
    let mut table = discovery_table();
    table.log_in("");
    assert_eq!(
        table.registry.sessions().len(),
        1,
        "a normal session needs none"
    );
    let mut table = discovery_table();
    let reply = login(&mut table, 0x81, &format!("{identity}AuthMethod=CHAP\0"));
    assert_eq!(reply[0].text(), "AuthMethod=CHAP\n");
    let _ = login(&mut table, 0x00, "CHAP_A=7\0");
    let proof = Algorithm::Sha256.response(9, b"secret of alice", &[0xab; 32]);
    let proof = text::format_binary(&proof);
    let reply = login(&mut table, 0x83, &format!("CHAP_N=alice\0CHAP_R={proof}\0"));
    assert_eq!((status(&reply), reply[0].bhs.flags), (0, 0x83));
    // A host with secrets of its own: discovery asks for those of discovery.
    let mut table = Table::with_chap(Some(ChapSecrets {
        inbound: ChapSecret {
            name: "alice".to_owned(),
            secret: b"secret of a host".to_vec(),
        },
        outbound: None,
    }));
    table.discovery(Some(secrets()));
    let _ = login(&mut table, 0x81, &format!("{identity}AuthMethod=CHAP\0"));
    let _ = login(&mut table, 0x00, "CHAP_A=7\0");
    let reply = login(&mut table, 0x83, &format!("CHAP_N=alice\0CHAP_R={proof}\0"));
    assert_eq!(status(&reply), 0);
}

#[test]
fn the_same_initiator_port_replaces_its_session_before_the_answer() {
    let mut table = Table::new();
    table.log_in("");
    let nexus: Vec<_> = table.registry.nexuses().collect();
    table.connection = new_connection(2);
    table.log_in("");
    let now: Vec<_> = table.registry.nexuses().collect();
    assert_eq!(now.len(), 1);
    assert_ne!(now, nexus);
    assert_eq!(
        table.array.unit_at(nexus[0], [0; 8]),
        None,
        "the old nexus is gone"
    );
    let mail = table.registry.next_mail();
    assert_eq!(
        mail,
        Some((ConnectionId(1), Notice::Drop(DropReason::Reinstated)))
    );
}

/// What a login began with may be gone when it ends: its host, or the right to come without a
/// proof.
#[test]
fn a_login_under_way_sees_that_the_configuration_changed() {
    let begun = || {
        let mut table = Table::new();
        let reply = login(&mut table, 0x81, &format!("{NAMES}AuthMethod=None\0"));
        assert_eq!((status(&reply), reply[0].bhs.flags), (0, 0x81));
        table
    };
    let mut table = begun();
    table.array.apply(ArrayConfig::default()).unwrap();
    assert_eq!(status(&login(&mut table, 0x87, "")), 0x0202);
    let mut table = begun();
    table.chap = Some(secrets());
    table.discovery(None);
    assert_eq!(status(&login(&mut table, 0x87, "")), 0x0301);
    assert!(table.registry.sessions().is_empty());
    let mut table = begun();
    table.discovery(Some(secrets()));
    assert_eq!(
        status(&login(&mut table, 0x87, "")),
        0,
        "none of its business"
    );
}
