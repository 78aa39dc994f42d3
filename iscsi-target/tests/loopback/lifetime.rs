//! How sessions end, and what the target makes of peers that talk nonsense.

use bytes::Bytes;
use iscsi_target::backend::{BackendError, Fua};
use iscsi_target::initiator::{InitiatorError, Pending, Session, cdb};
use iscsi_target::memory::Answers;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{LUN, Lab, pattern, run};

/// A write that the backend holds.
async fn stuck_write(lab: &Lab, session: &Session) -> Pending {
    lab.backend.answer(Answers::Held);
    let stuck = session.execute(LUN, cdb::write10(0, 1, Fua::No), pattern(0, 512), 0);
    lab.holds(1).await;
    stuck
}

#[test]
fn the_same_initiator_port_replaces_its_session() {
    run(async {
        let lab = Lab::new().await;
        let login = lab.login();
        let old = lab.session(login.clone()).await;
        let stuck = stuck_write(&lab, &old).await;
        let new = lab.session(login).await;
        assert!(matches!(stuck.await, Err(InitiatorError::Lost(_))));
        old.closed().await;
        assert_eq!(lab.target.sessions().len(), 1);
        lab.backend.answer(Answers::AtOnce);
        lab.backend.release();
        let read = new
            .execute(LUN, cdb::read10(0, 1), Bytes::new(), 512)
            .await
            .unwrap();
        assert!(read.is_good());
    });
}

#[test]
fn another_initiator_port_does_not() {
    run(async {
        let lab = Lab::new().await;
        let one = lab.session(lab.login()).await;
        let two = lab.session(lab.login()).await;
        for session in [&one, &two] {
            let ready = session
                .execute(LUN, cdb::test_unit_ready(), Bytes::new(), 0)
                .await;
            assert!(ready.unwrap().is_good());
        }
        assert_eq!(lab.target.sessions().len(), 2);
    });
}

#[test]
fn deactivation_drops_sessions_without_a_status() {
    run(async {
        let lab = Lab::new().await;
        let session = lab.session(lab.login()).await;
        let stuck = stuck_write(&lab, &session).await;
        lab.target.deactivate();
        // Done too late: nobody may hear of it (law R8).
        lab.backend.release();
        let Err(InitiatorError::Lost(why)) = stuck.await else {
            panic!("a status came through")
        };
        assert!(why.contains("reset"), "the peer sees a reset, not {why:?}");
        assert!(lab.target.sessions().is_empty());
    });
}

#[test]
fn who_is_asked_to_go_logs_out_and_comes_back_when_the_role_stays() {
    run(async {
        let lab = Lab::new().await;
        let session = lab.session(lab.login()).await;
        let stuck = stuck_write(&lab, &session).await;
        lab.target.depart(1);
        session.closed().await;
        // It logged out: it was not dropped.
        assert_eq!(stuck.await.unwrap_err(), InitiatorError::AskedOut);
        assert!(lab.target.sessions().is_empty());
        let refused = lab.try_session(lab.login()).await.unwrap_err();
        assert_eq!(refused, InitiatorError::Refused(0x0301));
        lab.target.stay();
        lab.session(lab.login()).await;
    });
}

#[test]
fn a_backend_that_lost_its_role_ends_the_session_without_a_status() {
    run(async {
        let lab = Lab::new().await;
        let session = lab.session(lab.login()).await;
        lab.backend.answer(Answers::With(BackendError::NotActive));
        let read = session
            .execute(LUN, cdb::read10(0, 1), Bytes::new(), 512)
            .await;
        assert!(matches!(read, Err(InitiatorError::Lost(_))));
    });
}

#[test]
fn a_closed_portal_takes_its_sessions_along() {
    run(async {
        let lab = Lab::new().await;
        let session = lab.session(lab.login()).await;
        let stuck = stuck_write(&lab, &session).await;
        lab.target.close_portal(7);
        session.closed().await;
        assert_eq!(stuck.await.unwrap_err(), told_to_go());
        let again = lab.try_session(lab.login()).await.unwrap_err();
        assert!(matches!(again, InitiatorError::Lost(_)), "{again:?}");
    });
}

#[test]
fn a_host_that_is_removed_loses_its_sessions() {
    run(async {
        let lab = Lab::new().await;
        let session = lab.session(lab.login()).await;
        let stuck = stuck_write(&lab, &session).await;
        lab.target
            .apply(iscsi_target::scsi::ArrayConfig::default())
            .unwrap();
        session.closed().await;
        assert_eq!(stuck.await.unwrap_err(), told_to_go());
        let refused = lab.try_session(lab.login()).await.unwrap_err();
        assert_eq!(refused, InitiatorError::Refused(0x0202));
    });
}

/// What an initiator knows whose target said goodbye.
fn told_to_go() -> InitiatorError {
    InitiatorError::Lost("the target drops the session".to_owned())
}

#[test]
fn noise_does_no_harm() {
    run(async {
        let lab = Lab::new().await;
        let session = lab.session(lab.login()).await;
        for seed in 0..20 {
            let mut stream = TcpStream::connect(lab.address).await.unwrap();
            // The target may hang up in the middle of it.
            let _ = stream.write_all(&pattern(seed, 4096)).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
        }
        let ready = session
            .execute(LUN, cdb::test_unit_ready(), Bytes::new(), 0)
            .await
            .unwrap();
        assert!(ready.is_good());
        assert_eq!(lab.target.sessions().len(), 1);
    });
}

#[test]
fn the_oldest_login_makes_place_for_a_new_connection() {
    run(async {
        let lab = Lab::new().await;
        let session = lab.session(lab.login()).await;
        let mut idle = Vec::new();
        for _ in 0..7 {
            idle.push(TcpStream::connect(lab.address).await.unwrap());
        }
        // All places are taken: who logs in really comes in, and the oldest idler is dropped.
        let second = lab.session(lab.login()).await;
        let mut byte = [0];
        let dropped = idle[0].read(&mut byte).await;
        assert!(matches!(dropped, Err(_) | Ok(0)), "{dropped:?}");
        for session in [session, second] {
            let ready = session
                .execute(LUN, cdb::test_unit_ready(), Bytes::new(), 0)
                .await;
            assert!(ready.unwrap().is_good(), "a session keeps its place");
        }
        // The others may still log in.
        idle[6].write_all(&[0; 48]).await.unwrap();
        assert_eq!(idle[6].read(&mut byte).await.unwrap(), 1);
        assert_eq!(byte, [0x23], "a login response");
    });
}
