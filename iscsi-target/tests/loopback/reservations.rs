//! Reservations between sessions: what a preemption ends, and what ends a reservation.

use bytes::Bytes;
use iscsi_target::backend::Fua;
use iscsi_target::initiator::{InitiatorError, Pending, Response, Session, cdb};
use iscsi_target::memory::Answers;

use crate::{LUN, Lab, pattern, run};

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const PREEMPT_AND_ABORT: u8 = 5;
const REGISTRANTS_ONLY: u8 = 5;
const CONFLICT: u8 = 0x18;

fn write(session: &Session) -> Pending {
    session.execute(LUN, cdb::write16(0, 8, Fua::No), pattern(0, 4096), 0)
}

async fn persist(session: &Session, action: u8, key: u64, new_key: u64) -> Response {
    let (cdb, list) = cdb::persistent_reserve_out(action, REGISTRANTS_ONLY, key, new_key);
    session.execute(LUN, cdb, list.into(), 0).await.unwrap()
}

async fn ready(session: &Session) -> Response {
    let cdb = cdb::test_unit_ready();
    session.execute(LUN, cdb, Bytes::new(), 0).await.unwrap()
}

/// Two sessions that are registered under their numbers; the second holds the reservation.
async fn registered(lab: &Lab) -> [Session; 2] {
    let sessions = [
        lab.session(lab.login()).await,
        lab.session(lab.login()).await,
    ];
    for (session, key) in sessions.iter().zip(1..) {
        assert!(persist(session, REGISTER, 0, key).await.is_good());
    }
    assert!(persist(&sessions[1], RESERVE, 2, 0).await.is_good());
    sessions
}

/// A write that the disk holds.
async fn held_write(lab: &Lab, session: &Session) -> Pending {
    lab.backend.answer(Answers::Held);
    let held = write(session);
    lab.holds(1).await;
    lab.backend.answer(Answers::AtOnce);
    held
}

#[test]
fn h45_a_preempted_nexus_gets_no_status_and_nothing_more_is_admitted() {
    run(async {
        let lab = Lab::new().await;
        let [one, two] = registered(&lab).await;
        let doomed = held_write(&lab, &two).await;
        assert!(persist(&one, PREEMPT_AND_ABORT, 1, 2).await.is_good());
        lab.backend.release();
        assert_eq!(write(&two).await.unwrap().status, CONFLICT);
        assert_eq!(ready(&two).await.sense_code(), Some((6, 0x2a, 5)));
        assert!(write(&one).await.unwrap().is_good());
        two.logout().await.unwrap();
        assert_eq!(doomed.await.unwrap_err(), InitiatorError::LoggedOut);
    });
}

#[test]
fn who_preempts_itself_is_answered_and_loses_its_other_commands() {
    run(async {
        let lab = Lab::new().await;
        let [one, two] = registered(&lab).await;
        let doomed = held_write(&lab, &two).await;
        assert!(persist(&two, PREEMPT_AND_ABORT, 2, 2).await.is_good());
        lab.backend.release();
        assert!(write(&two).await.unwrap().is_good());
        assert!(
            write(&one).await.unwrap().is_good(),
            "the type is as it was"
        );
        two.logout().await.unwrap();
        assert_eq!(doomed.await.unwrap_err(), InitiatorError::LoggedOut);
    });
}

#[test]
fn a_reserve_is_gone_when_the_logout_is_answered() {
    run(async {
        let lab = Lab::new().await;
        let [one, two] = [
            lab.session(lab.login()).await,
            lab.session(lab.login()).await,
        ];
        let mut reserve = [0; 16];
        reserve[0] = 0x16;
        let reserved = one.execute(LUN, reserve, Bytes::new(), 0).await.unwrap();
        assert!(reserved.is_good());
        assert_eq!(ready(&two).await.status, CONFLICT);
        one.logout().await.unwrap();
        assert!(ready(&two).await.is_good());
    });
}
