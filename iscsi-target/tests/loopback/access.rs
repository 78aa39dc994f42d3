//! Who may come in, and what those hear who may not.

use bytes::Bytes;
use iscsi_target::hosts::{ChapSecret, ChapSecrets};
use iscsi_target::initiator::{Credentials, InitiatorError, Login, cdb, discover};

use crate::{LUN, Lab, TARGET, run};

fn secrets() -> ChapSecrets {
    let secret = |name: &str, secret: &[u8]| ChapSecret {
        name: name.to_owned(),
        secret: secret.to_vec(),
    };
    ChapSecrets {
        inbound: secret("alice", b"secret of alice"),
        outbound: Some(secret("array", b"secret of array")),
    }
}

fn credentials(name: &str, secret: &str) -> Credentials {
    Credentials {
        name: name.to_owned(),
        secret: secret.as_bytes().to_vec(),
    }
}

#[test]
fn chap_lets_in_who_knows_the_secret() {
    run(async {
        let lab = Lab::with_chap(Some(secrets())).await;
        let right = Some(credentials("alice", "secret of alice"));
        let mutual = Some(credentials("array", "secret of array"));
        lab.session(Login {
            chap: right.clone(),
            ..lab.login()
        })
        .await;
        lab.session(Login {
            chap: right.clone(),
            mutual,
            ..lab.login()
        })
        .await;
        for wrong in [
            None,
            Some(credentials("alice", "secret of mallo")),
            Some(credentials("bob", "secret of alice")),
            Some(credentials("array", "secret of array")),
        ] {
            let refused = lab
                .try_session(Login {
                    chap: wrong,
                    ..lab.login()
                })
                .await
                .unwrap_err();
            assert_eq!(refused, InitiatorError::Refused(0x0201));
        }
        let mutual = Some(credentials("array", "not its secret"));
        let refused = lab
            .try_session(Login {
                chap: right,
                mutual,
                ..lab.login()
            })
            .await;
        assert_eq!(refused.unwrap_err(), InitiatorError::TargetUnproved);
    });
}

#[test]
fn a_target_without_an_outbound_secret_cannot_prove_itself() {
    run(async {
        let lab = Lab::with_chap(Some(ChapSecrets {
            outbound: None,
            ..secrets()
        }))
        .await;
        let chap = Some(credentials("alice", "secret of alice"));
        let mutual = Some(credentials("array", "secret of array"));
        let refused = lab
            .try_session(Login {
                chap,
                mutual,
                ..lab.login()
            })
            .await;
        assert_eq!(refused.unwrap_err(), InitiatorError::Refused(0x0201));
    });
}

#[test]
fn refusals_have_their_codes() {
    run(async {
        let lab = Lab::new().await;
        let stranger = Login {
            initiator: "iqn.2026-01.test:nobody".to_owned(),
            ..lab.login()
        };
        let refused = lab.try_session(stranger).await.unwrap_err();
        assert_eq!(refused, InitiatorError::Refused(0x0202));
        let elsewhere = Login {
            target: Some("iqn.2026-01.test:else".to_owned()),
            ..lab.login()
        };
        let refused = lab.try_session(elsewhere.clone()).await.unwrap_err();
        assert_eq!(refused, InitiatorError::Refused(0x0203));
        // A box that is not serving says so, whatever else is wrong.
        lab.target.deactivate();
        for login in [lab.login(), elsewhere] {
            let refused = lab.try_session(login).await.unwrap_err();
            assert_eq!(refused, InitiatorError::Refused(0x0301));
        }
        lab.target.activate();
        lab.session(lab.login()).await;
    });
}

#[test]
fn names_are_compared_without_case() {
    run(async {
        let lab = Lab::new().await;
        let login = lab.login();
        let target = Some(TARGET.to_uppercase());
        lab.session(Login {
            initiator: login.initiator.to_uppercase(),
            target,
            ..login
        })
        .await;
    });
}

#[test]
fn discovery_lists_the_portals_also_in_a_normal_session() {
    run(async {
        let lab = Lab::new().await;
        let found = discover(lab.address, lab.login()).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, TARGET);
        assert_eq!(found[0].portals(), [(lab.address, 7)]);
        let portal = |address: &str, tag| iscsi_target::discovery::Portal {
            address: address.parse().unwrap(),
            tag: iscsi_target::types::PortalTag(tag),
        };
        lab.target.portals_announced(vec![
            portal("10.0.0.1:3260", 7),
            portal("[fd00::1]:3260", 8),
        ]);
        let expected = ["10.0.0.1:3260,7", "[fd00::1]:3260,8"];
        let found = discover(lab.address, lab.login()).await.unwrap();
        assert_eq!(found[0].addresses, expected);
        let session = lab.session(lab.login()).await;
        assert_eq!(session.send_targets().await.unwrap()[0].addresses, expected);
    });
}

#[test]
fn a_long_list_of_portals_comes_in_parts() {
    run(async {
        let lab = Lab::new().await;
        let portals = (1..=60u16).map(|tag| iscsi_target::discovery::Portal {
            address: format!("10.0.{tag}.1:3260").parse().unwrap(),
            tag: iscsi_target::types::PortalTag(tag),
        });
        lab.target.portals_announced(portals.collect());
        let mut login = lab.login();
        login.offer.receive_max_bytes = 512;
        let found = discover(lab.address, login).await.unwrap();
        assert_eq!(found[0].addresses.len(), 60);
        assert_eq!(found[0].addresses[59], "10.0.60.1:3260,60");
    });
}

#[test]
fn the_number_of_sessions_is_bounded() {
    run(async {
        let lab = Lab::new().await;
        let mut sessions = Vec::new();
        for _ in 0..6 {
            sessions.push(lab.session(lab.login()).await);
        }
        let refused = lab.try_session(lab.login()).await.unwrap_err();
        assert_eq!(refused, InitiatorError::Refused(0x0302));
        sessions.pop().unwrap().logout().await.unwrap();
        lab.session(lab.login()).await;
        let ready = sessions[0]
            .execute(LUN, cdb::test_unit_ready(), Bytes::new(), 0)
            .await;
        assert!(ready.unwrap().is_good());
    });
}

#[test]
fn ipv6_works_like_ipv4() {
    run(async {
        let lab = Lab::at("[::1]:0", None).await;
        lab.session(lab.login()).await;
        let found = discover(lab.address, lab.login()).await.unwrap();
        assert_eq!(found[0].portals(), [(lab.address, 7)]);
        let bound = Login {
            bind_source: Some("::1".parse().unwrap()),
            ..lab.login()
        };
        lab.session(bound).await;
        assert!(
            lab.target
                .sessions()
                .iter()
                .all(|session| session.source.is_ipv6())
        );
    });
}
