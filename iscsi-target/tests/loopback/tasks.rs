//! Task management over a backend that never answers (law T1).

use bytes::Bytes;
use iscsi_target::backend::Fua;
use iscsi_target::initiator::{InitiatorError, Management, Pending, Session, cdb};
use iscsi_target::memory::Answers;

use crate::{LUN, Lab, pattern, run};

fn write(session: &Session, lba: u64) -> Pending {
    session.execute(LUN, cdb::write16(lba, 8, Fua::No), pattern(lba, 4096), 0)
}

#[test]
fn an_aborted_command_gets_no_status() {
    run(async {
        let lab = Lab::new().await;
        let session = lab.session(lab.login()).await;
        lab.backend.answer(Answers::Held);
        let doomed = write(&session, 0);
        let kept = write(&session, 8);
        lab.holds(2).await;
        let abort = Management::AbortTask {
            lun: LUN,
            itt: doomed.itt(),
        };
        assert_eq!(session.task_management(abort).await.unwrap(), 0);
        assert_eq!(doomed.await.unwrap_err(), InitiatorError::Aborted);
        assert_eq!(
            session.task_management(abort).await.unwrap(),
            1,
            "there is no such task now"
        );
        lab.backend.answer(Answers::AtOnce);
        lab.backend.release();
        assert!(kept.await.unwrap().is_good());
        assert!(write(&session, 0).await.unwrap().is_good());
    });
}

#[test]
fn every_function_is_answered_while_the_disk_is_silent() {
    run(async {
        let lab = Lab::new().await;
        let session = lab.session(lab.login()).await;
        lab.backend.answer(Answers::Held);
        for (number, function) in [
            Management::AbortTaskSet(LUN),
            Management::ClearTaskSet(LUN),
            Management::LogicalUnitReset(LUN),
            Management::WarmReset,
        ]
        .into_iter()
        .enumerate()
        {
            let writes: Vec<Pending> = (0..5).map(|n| write(&session, n * 8)).collect();
            lab.holds((number + 1) * 5).await;
            assert_eq!(
                session.task_management(function).await.unwrap(),
                0,
                "{function:?}"
            );
            for write in writes {
                assert_eq!(
                    write.await.unwrap_err(),
                    InitiatorError::Aborted,
                    "{function:?}"
                );
            }
            // A reset is reported once; it takes no disk to say so.
            while !session
                .execute(LUN, cdb::test_unit_ready(), Bytes::new(), 0)
                .await
                .unwrap()
                .is_good()
            {}
        }
        assert_eq!(
            session
                .task_management(Management::LogicalUnitReset([0, 9, 0, 0, 0, 0, 0, 0]))
                .await
                .unwrap(),
            2
        );
    });
}

#[test]
fn a_unit_reset_ends_the_commands_of_others_and_tells_them() {
    run(async {
        let lab = Lab::new().await;
        let one = lab.session(lab.login()).await;
        let two = lab.session(lab.login()).await;
        lab.backend.answer(Answers::Held);
        let doomed = write(&one, 0);
        lab.holds(1).await;
        let reset = Management::LogicalUnitReset(LUN);
        assert_eq!(two.task_management(reset).await.unwrap(), 0);
        lab.backend.answer(Answers::AtOnce);
        lab.backend.release();
        let ready = one
            .execute(LUN, cdb::test_unit_ready(), Bytes::new(), 0)
            .await
            .unwrap();
        assert_eq!(ready.sense_code(), Some((6, 0x29, 3)));
        // The command was forgotten: its late completion went nowhere.
        one.logout().await.unwrap();
        assert_eq!(doomed.await.unwrap_err(), InitiatorError::LoggedOut);
    });
}

#[test]
fn a_cleared_task_set_is_told_to_those_who_lost_a_command() {
    run(async {
        let lab = Lab::new().await;
        let one = lab.session(lab.login()).await;
        let two = lab.session(lab.login()).await;
        let idle = lab.session(lab.login()).await;
        lab.backend.answer(Answers::Held);
        let theirs = write(&one, 0);
        let ours = write(&two, 8);
        lab.holds(2).await;
        let clear = Management::ClearTaskSet(LUN);
        assert_eq!(two.task_management(clear).await.unwrap(), 0);
        assert_eq!(ours.await.unwrap_err(), InitiatorError::Aborted);
        lab.backend.answer(Answers::AtOnce);
        lab.backend.release();
        for (session, told) in [(&one, Some((6, 0x2f, 0))), (&two, None), (&idle, None)] {
            let ready = session
                .execute(LUN, cdb::test_unit_ready(), Bytes::new(), 0)
                .await
                .unwrap();
            assert_eq!(ready.sense_code(), told);
        }
        assert!(write(&one, 0).await.unwrap().is_good());
        one.logout().await.unwrap();
        assert_eq!(theirs.await.unwrap_err(), InitiatorError::LoggedOut);
    });
}

#[test]
fn a_cold_reset_drops_every_session_after_its_answer() {
    run(async {
        let lab = Lab::new().await;
        let one = lab.session(lab.login()).await;
        let two = lab.session(lab.login()).await;
        assert_eq!(two.task_management(Management::ColdReset).await.unwrap(), 0);
        one.closed().await;
        two.closed().await;
        assert!(lab.target.sessions().is_empty());
        lab.session(lab.login()).await;
    });
}

#[test]
fn a_logout_does_not_wait_for_the_disk() {
    run(async {
        let lab = Lab::new().await;
        let session = lab.session(lab.login()).await;
        lab.backend.answer(Answers::Held);
        let stuck = write(&session, 0);
        lab.holds(1).await;
        session.logout().await.unwrap();
        assert_eq!(stuck.await.unwrap_err(), InitiatorError::LoggedOut);
        assert!(lab.target.sessions().is_empty());
    });
}
