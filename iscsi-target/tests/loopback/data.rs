//! Reads and writes of all sizes under all negotiated conditions.

use bytes::Bytes;
use iscsi_target::backend::Fua;
use iscsi_target::initiator::{Digest, Offer, Residual, Session, cdb};

use crate::{LUN, Lab, pattern, run};

async fn write_and_read(session: &Session, lba: u64, blocks: u32) {
    let data = pattern(lba, blocks as usize * 512);
    let write = cdb::write16(lba, blocks, Fua::No);
    let written = session.execute(LUN, write, data.clone(), 0).await.unwrap();
    assert!(written.is_good(), "{:?}", written.sense_code());
    assert_eq!(written.residual, Residual::Exact);
    let read = cdb::read16(lba, blocks);
    let read = session
        .execute(LUN, read, Bytes::new(), data.len())
        .await
        .unwrap();
    assert!(read.is_good(), "{:?}", read.sense_code());
    assert!(
        read.data == data,
        "other data came back at {lba} + {blocks}"
    );
}

fn offers() -> Vec<Offer> {
    let plain = Offer::default();
    let both = Digest::Crc32c;
    vec![
        plain.clone(),
        Offer {
            header_digest: both,
            data_digest: both,
            ..plain.clone()
        },
        Offer {
            header_digest: both,
            ..plain.clone()
        },
        Offer {
            immediate_data: false,
            ..plain.clone()
        },
        Offer {
            initial_r2t: true,
            ..plain.clone()
        },
        Offer {
            initial_r2t: true,
            immediate_data: false,
            data_digest: both,
            ..plain.clone()
        },
        Offer {
            first_burst_bytes: 512,
            burst_max_bytes: 4096,
            ..plain.clone()
        },
        Offer {
            first_burst_bytes: 1536,
            receive_max_bytes: 1024,
            ..plain.clone()
        },
        Offer {
            burst_max_bytes: 10_000,
            receive_max_bytes: 3000,
            data_digest: both,
            ..plain
        },
    ]
}

#[test]
fn what_is_written_is_read_under_every_offer() {
    run(async {
        let lab = Lab::new().await;
        for offer in offers() {
            let login = lab.login();
            let session = lab
                .session(iscsi_target::initiator::Login { offer, ..login })
                .await;
            for blocks in [1, 3, 8, 127, 513, 2048] {
                write_and_read(&session, u64::from(blocks) * 7, blocks).await;
            }
            session.logout().await.unwrap();
        }
    });
}

#[test]
fn many_commands_are_in_flight_at_once() {
    run(async {
        let lab = Lab::new().await;
        let session = lab.session(lab.login()).await;
        let writes: Vec<_> = (0..400u64)
            .map(|n| {
                let write = cdb::write16(n * 8, 8, Fua::No);
                (n, session.execute(LUN, write, pattern(n, 4096), 0))
            })
            .collect();
        for (n, write) in writes {
            assert!(write.await.unwrap().is_good(), "write {n}");
        }
        let reads: Vec<_> = (0..400u64)
            .map(|n| {
                (
                    n,
                    session.execute(LUN, cdb::read16(n * 8, 8), Bytes::new(), 4096),
                )
            })
            .collect();
        for (n, read) in reads {
            assert!(read.await.unwrap().data == pattern(n, 4096), "read {n}");
        }
    });
}

#[test]
fn more_data_than_the_budget_takes_turns() {
    run(async {
        let lab = Lab::new().await;
        let session = lab.session(lab.login()).await;
        let blocks = 4096u32;
        let len = blocks as usize * 512;
        let commands: Vec<_> = (0..40u64)
            .map(|n| {
                let lba = n % 8 * u64::from(blocks);
                session.execute(
                    LUN,
                    cdb::write16(lba, blocks, Fua::No),
                    pattern(n % 8, len),
                    0,
                )
            })
            .collect();
        for command in commands {
            assert!(command.await.unwrap().is_good());
        }
        let reads: Vec<_> = (0..40u64)
            .map(|n| {
                let read = cdb::read16(n % 8 * u64::from(blocks), blocks);
                (n % 8, session.execute(LUN, read, Bytes::new(), len))
            })
            .collect();
        for (n, read) in reads {
            assert!(read.await.unwrap().data == pattern(n, len), "range {n}");
        }
    });
}

#[test]
fn residuals_are_exact() {
    run(async {
        let lab = Lab::new().await;
        let session = lab.session(lab.login()).await;
        let table = [
            (200, 200, Residual::Overflow(312)),
            (512, 512, Residual::Exact),
        ];
        for (expected, got, residual) in table {
            let read = session.execute(LUN, cdb::read10(0, 1), Bytes::new(), expected);
            let read = read.await.unwrap();
            assert!(read.is_good());
            assert_eq!((read.data.len(), read.residual), (got, residual));
        }
        let read = session
            .execute(LUN, cdb::read10(0, 1), Bytes::new(), 1000)
            .await
            .unwrap();
        assert_eq!(
            (read.data.len(), read.residual),
            (512, Residual::Underflow(488))
        );
        let write = cdb::write10(0, 2, Fua::No);
        let write = session
            .execute(LUN, write, pattern(1, 512), 0)
            .await
            .unwrap();
        assert_eq!((write.status, write.residual), (0, Residual::Overflow(512)));
        let write = cdb::write10(0, 1, Fua::No);
        let write = session
            .execute(LUN, write, pattern(1, 1000), 0)
            .await
            .unwrap();
        assert_eq!(
            (write.status, write.residual),
            (0, Residual::Underflow(488))
        );
    });
}
