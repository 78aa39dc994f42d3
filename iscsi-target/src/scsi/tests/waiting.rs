//! Commands that were admitted and wait for their data, while what they may do changes; and those
//! that come in pieces.

use super::reservations::{A, B, RESERVE, WRITE, persist, registered, status};
use super::*;

const GOOD: Status = Status::Good;
/// Two pieces.
const LONG_BLOCKS: u16 = 8192 + 8;

/// A WRITE that is admitted; its data are still to come.
fn admitted(bench: &mut Bench, nexus: NexusId) -> Execution {
    let offered = 512;
    match bench.array.start(nexus, [0; 8], padded(WRITE), offered) {
        Start::Run(execution) => execution,
        refused @ (Start::Reply(_) | Start::Drop) => panic!("{refused:?}"),
    }
}

/// The data are here: what the command asks the store for, and its answer.
fn end(bench: &mut Bench, mut execution: Execution) -> (Vec<Request>, Reply) {
    let data = Bytes::from(vec![0xbb; execution.data_out_len()]);
    let mut asked = Vec::new();
    let mut step = execution.run(&mut bench.array, data);
    loop {
        match step {
            Step::Done(reply) => return (asked, reply),
            Step::Drop => panic!("dropped"),
            Step::Io { backend, request } => {
                asked.push(request.clone());
                backend.submit(request, bench.queue.completion(Tag(0)));
                let (_, outcome) = bench.queue.pop().expect("this backend answers at once");
                step = execution.done(&mut bench.array, outcome);
            }
        }
    }
}

#[test]
fn a_write_whose_data_come_after_a_preemption_meets_the_reservation() {
    let (mut bench, first, second) = registered(Some(5));
    let write = admitted(&mut bench, second);
    assert_eq!(persist(&mut bench, first, (4, 5, A, B)), GOOD);
    let (asked, reply) = end(&mut bench, write);
    assert_eq!(asked, [Request::Confirm], "only the right to answer");
    assert_eq!(reply.status, Status::ReservationConflict);
    assert_eq!(bench.disk.allocated_blocks(), 0);
    // The unit attention is still to be told.
    assert_eq!(bench.sense_of(second, 0, &[0x00]), [6, 0x2a, 0x05]);
}

#[test]
fn a_write_whose_data_come_after_a_reserve_meets_it() {
    let mut bench = Bench::new();
    let (first, second) = (bench.nexus, bench.log_in(SECOND));
    let write = admitted(&mut bench, first);
    assert_eq!(status(&mut bench, second, RESERVE), GOOD);
    let (asked, reply) = end(&mut bench, write);
    assert_eq!(asked, [Request::Confirm]);
    assert_eq!(reply.status, Status::ReservationConflict);
}

#[test]
fn a_write_whose_data_come_after_its_map_changed_is_refused() {
    for (access, expected) in [
        (None, [5, 0x25, 0x00]),
        (Some(Access::ReadOnly), [7, 0x27, 0x00]),
    ] {
        let mut bench = Bench::new();
        let first = bench.nexus;
        let write = admitted(&mut bench, first);
        let mut config = config(&bench.disk, access.unwrap_or(Access::ReadWrite));
        if access.is_none() {
            config.maps.remove(0);
        }
        bench.array.apply(config).unwrap();
        let (asked, reply) = end(&mut bench, write);
        assert_eq!((asked, sense_of(&reply)), (vec![], expected));
        assert_eq!(bench.disk.allocated_blocks(), 0);
    }
}

#[test]
fn a_write_whose_data_come_after_the_lun_became_another_unit_is_refused() {
    let mut bench = Bench::new();
    let first = bench.nexus;
    let write = admitted(&mut bench, first);
    let other = UnitId(7);
    let mut config = config(&bench.disk, Access::ReadWrite);
    config.units.push(unit(other, &bench.disk));
    config.maps[0].unit = other;
    bench.array.apply(config).unwrap();
    let (asked, reply) = end(&mut bench, write);
    assert_eq!((asked, sense_of(&reply)), (vec![], [5, 0x25, 0x00]));
}

#[test]
fn a_change_that_does_not_concern_a_waiting_write_lets_it_go_on() {
    let (mut bench, first, second) = registered(Some(5));
    let write = admitted(&mut bench, second);
    assert_eq!(persist(&mut bench, first, (2, 5, A, 0)), GOOD);
    let (asked, reply) = end(&mut bench, write);
    assert_eq!((asked.len(), reply.status), (1, GOOD));
}

#[test]
fn a_write_in_pieces_ends_when_its_map_goes() {
    let mut bench = Bench::with(MemoryBackend::thin(u64::from(LONG_BLOCKS)));
    let [high, low] = LONG_BLOCKS.to_be_bytes();
    let cdb = [0x2a, 0, 0, 0, 0, 0, 0, high, low, 0];
    let len = usize::from(LONG_BLOCKS) * 512;
    let offered = u32::try_from(len).unwrap();
    let start = bench
        .array
        .start(bench.nexus, [0; 8], padded(&cdb), offered);
    let Start::Run(mut execution) = start else {
        panic!("{start:?}")
    };
    let step = execution.run(&mut bench.array, Bytes::from(vec![1; len]));
    assert!(matches!(step, Step::Io { .. }));
    let mut config = config(&bench.disk, Access::ReadWrite);
    config.maps.remove(0);
    bench.array.apply(config).unwrap();
    let Step::Done(reply) = execution.done(&mut bench.array, Ok(crate::backend::Done::Ok)) else {
        panic!("it went on")
    };
    assert_eq!(sense_of(&reply), [5, 0x25, 0x00]);
}
