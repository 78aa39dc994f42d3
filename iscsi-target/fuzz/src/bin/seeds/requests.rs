//! What our own initiator sends after its login.

use bytes::{Bytes, BytesMut};

use iscsi_target::auth::Challenge;
use iscsi_target::backend::Fua;
use iscsi_target::initiator::machine::{Input, Machine, Output, Request};
use iscsi_target::initiator::{Digest, Login, Management, Order, cdb};
use iscsi_target::types::Time;
use iscsi_target_fuzz::{INITIATOR, Stage, TARGET};

use super::Seeds;

/// By kind of request, without digests and with them.
pub(crate) fn seeds() -> Seeds {
    let lun = cdb::lun(0);
    let order = |cdb, data_out: &[u8], data_in_bytes| {
        Request::Execute(Order {
            lun,
            cdb,
            data_out: Bytes::copy_from_slice(data_out),
            data_in_bytes,
        })
    };
    let requests = [
        (
            "write",
            vec![order(cdb::write10(0, 8, Fua::No), &[7; 4096], 0)],
        ),
        ("read", vec![order(cdb::read10(0, 8), &[], 4096)]),
        (
            "write-read",
            vec![
                order(cdb::write16(8, 2, Fua::Yes), &[9; 1024], 0),
                order(cdb::read16(8, 2), &[], 1024),
                order(cdb::synchronize_cache10(), &[], 0),
            ],
        ),
        (
            "inquiry",
            vec![
                order(cdb::inquiry(255), &[], 255),
                order(cdb::report_luns(512), &[], 512),
            ],
        ),
        ("targets", vec![Request::SendTargets]),
        (
            "abort",
            vec![
                Request::Manage(Management::AbortTask { lun, itt: 0 }),
                Request::Manage(Management::LogicalUnitReset(lun)),
                Request::Manage(Management::ClearTaskSet(lun)),
                Request::Manage(Management::WarmReset),
            ],
        ),
        ("cold-reset", vec![Request::Manage(Management::ColdReset)]),
        ("logout", vec![Request::Logout]),
    ];
    let mut seeds = Seeds::new();
    for (name, requests) in requests {
        for (digests, mode) in [("", 2), ("-digests", 3)] {
            let mut bytes = vec![mode];
            bytes.extend(recorded(requests.clone(), mode & 1 == 1));
            seeds.push((format!("{name}{digests}"), bytes));
        }
    }
    seeds
}

/// The bytes that our initiator sends after its login.
fn recorded(requests: Vec<Request>, digests: bool) -> Vec<u8> {
    let mut login = Login::new(INITIATOR, TARGET);
    if digests {
        login.offer.header_digest = Digest::Crc32c;
        login.offer.data_digest = Digest::Crc32c;
    }
    // Requests for the data: larger writes would make a large seed.
    login.offer.first_burst_bytes = 512;
    login.offer.burst_max_bytes = 1024;
    let challenge = Challenge {
        identifier: 1,
        bytes: vec![1; 32],
    };
    let mut machine = Machine::new(Time(0), login, challenge);
    let mut stage = Stage::new();
    let mut requests = requests.into_iter();
    let mut sent = Vec::new();
    let mut in_session = false;
    for tag in 0..64 {
        let wire: Vec<u8> = machine.outbox().chunks().flat_map(<[u8]>::to_vec).collect();
        machine.handle(Time(0), Input::Sent(wire.len()));
        if in_session {
            sent.extend_from_slice(&wire);
        }
        let mut reply = BytesMut::from(stage.reply_to(&wire).as_slice());
        machine.handle(Time(0), Input::Received(&mut reply));
        while let Some(output) = machine.poll_output() {
            in_session |= matches!(output, Output::LoggedIn);
        }
        if machine.outbox().is_empty() && in_session {
            let Some(request) = requests.next() else {
                break;
            };
            machine.handle(Time(0), Input::Start(tag, request));
        }
    }
    sent
}
