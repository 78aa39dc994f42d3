//! Reservations from the outside: who is refused, who is told, and that nothing shows before it is
//! durable.

use super::*;
use crate::backend::BackendError;
use crate::memory::Answers;
use crate::registry::Scope;

const TEST_UNIT_READY: &[u8] = &[0x00];
const READ: &[u8] = &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
pub(super) const WRITE: &[u8] = &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const MODE_SENSE: &[u8] = &[0x1a, 0, 0x3f, 0, 0xff, 0];
pub(super) const RESERVE: &[u8] = &[0x16, 0, 0, 0, 0, 0];
const RELEASE: &[u8] = &[0x17, 0, 0, 0, 0, 0];
const READ_KEYS: &[u8] = &[0x5e, 0, 0, 0, 0, 0, 0, 0x40, 0, 0];
const CONFLICT: Status = Status::ReservationConflict;
const GOOD: Status = Status::Good;

/// Keys of the first and the second initiator.
pub(super) const A: u64 = 0xa;
pub(super) const B: u64 = 0xb;

/// PERSISTENT RESERVE OUT: its CDB and its list.
pub(super) fn out(action: u8, kind: u8, key: u64, new_key: u64) -> (Vec<u8>, Vec<u8>) {
    let cdb = vec![0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0];
    let mut list = [key.to_be_bytes(), new_key.to_be_bytes()].concat();
    list.resize(24, 0);
    (cdb, list)
}

pub(super) fn persist(bench: &mut Bench, nexus: NexusId, ask: (u8, u8, u64, u64)) -> Status {
    let (cdb, list) = out(ask.0, ask.1, ask.2, ask.3);
    bench.run_as(nexus, 0, &cdb, &list).status
}

pub(super) fn status(bench: &mut Bench, nexus: NexusId, cdb: &[u8]) -> Status {
    let data = if cdb[0] == 0x2a {
        vec![0; 512]
    } else {
        Vec::new()
    };
    bench.run_as(nexus, 0, cdb, &data).status
}

/// The keys that `nexus` sees.
fn keys(bench: &mut Bench, nexus: NexusId) -> Vec<u64> {
    let reply = bench.run_as(nexus, 0, READ_KEYS, &[]);
    keys_in(&reply)
}

fn keys_in(reply: &Reply) -> Vec<u64> {
    assert_eq!(reply.status, GOOD);
    let data = reply.data_in.concat();
    let key = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
    data[8..].chunks(8).map(key).collect()
}

/// Two initiators that are registered; the first one holds a reservation of `kind`, if any.
pub(super) fn registered(kind: Option<u8>) -> (Bench, NexusId, NexusId) {
    let mut bench = Bench::new();
    let (first, second) = (bench.nexus, bench.log_in(SECOND));
    assert_eq!(persist(&mut bench, first, (0, 0, 0, A)), GOOD);
    assert_eq!(persist(&mut bench, second, (0, 0, 0, B)), GOOD);
    if let Some(kind) = kind {
        assert_eq!(persist(&mut bench, first, (1, kind, A, 0)), GOOD);
    }
    (bench, first, second)
}

/// The disk is silent; gives the execution of a command and what it asks the disk for.
fn begin(bench: &mut Bench, nexus: NexusId, cdb: &[u8], data: &[u8]) -> (Execution, Request) {
    let offered = u32::try_from(data.len()).unwrap();
    let start = bench.array.start(nexus, [0; 8], padded(cdb), offered);
    let Start::Run(mut execution) = start else {
        panic!("{cdb:02x?}: {start:?}")
    };
    match execution.run(&mut bench.array, Bytes::copy_from_slice(data)) {
        Step::Io { request, .. } => (execution, request),
        Step::Done(reply) => panic!("{cdb:02x?}: {reply:?}"),
        Step::Drop => panic!("{cdb:02x?}: dropped"),
    }
}

fn begin_out(bench: &mut Bench, nexus: NexusId, ask: (u8, u8, u64, u64)) -> (Execution, Request) {
    let (cdb, list) = out(ask.0, ask.1, ask.2, ask.3);
    begin(bench, nexus, &cdb, &list)
}

/// The disk does what was asked; what the command is answered with.
fn end(bench: &mut Bench, begun: (Execution, Request)) -> Reply {
    let (mut execution, request) = begun;
    bench.disk.submit(request, bench.queue.completion(Tag(0)));
    let (_, outcome) = bench.queue.pop().expect("this disk answers at once");
    match execution.done(&mut bench.array, outcome) {
        Step::Done(reply) => reply,
        Step::Io { .. } | Step::Drop => panic!("not its end"),
    }
}

#[test]
fn each_type_admits_whom_it_should() {
    let mut bench = Bench::with_three();
    let [first, second, third] = bench.three;
    for kind in [1_u8, 3, 5, 6, 7, 8] {
        let bench = &mut bench.bench;
        assert_eq!(persist(bench, first, (6, 0, 0, A)), GOOD);
        assert_eq!(persist(bench, second, (6, 0, 0, B)), GOOD);
        assert_eq!(persist(bench, first, (1, kind, A, 0)), GOOD);
        let refusal = |refused| if refused { CONFLICT } else { GOOD };
        let exclusive = matches!(kind, 3 | 6 | 8);
        for (nexus, writes, reads) in [
            (first, true, true),
            (second, kind >= 5, kind >= 5 || !exclusive),
            (third, false, !exclusive),
        ] {
            assert_eq!(
                status(bench, nexus, WRITE),
                refusal(!writes),
                "{kind} {nexus:?}"
            );
            assert_eq!(
                status(bench, nexus, READ),
                refusal(!reads),
                "{kind} {nexus:?}"
            );
            assert_eq!(status(bench, nexus, MODE_SENSE), refusal(!reads), "{kind}");
            assert_eq!(status(bench, nexus, TEST_UNIT_READY), GOOD);
            assert_eq!(keys(bench, nexus), [A, B]);
        }
        assert_eq!(persist(bench, first, (3, 0, A, 0)), GOOD);
        assert_eq!(bench.sense_of(second, 0, TEST_UNIT_READY), [6, 0x2a, 0x03]);
    }
}

/// A third initiator that is not registered.
struct Three {
    bench: Bench,
    three: [NexusId; 3],
}

impl Bench {
    fn with_three() -> Three {
        let mut bench = Self::new();
        let mut config = config(&bench.disk, Access::ReadWrite);
        let third = "iqn.2026-11.org.example:third";
        config.hosts.push(host("third", &[third]));
        config.maps.push(map("third", 0, DISK, Access::ReadWrite));
        bench.array.apply(config).unwrap();
        let three = [bench.nexus, bench.log_in(SECOND), bench.log_in(third)];
        Three { bench, three }
    }
}

#[test]
fn a_conflict_comes_before_a_unit_attention_which_stays() {
    let (mut bench, first, second) = registered(Some(5));
    assert_eq!(persist(&mut bench, first, (4, 5, A, B)), GOOD);
    assert_eq!(status(&mut bench, second, WRITE), CONFLICT);
    assert_eq!(bench.sense_of(second, 0, TEST_UNIT_READY), [6, 0x2a, 0x05]);
    assert_eq!(status(&mut bench, second, TEST_UNIT_READY), GOOD);
    assert_eq!(
        status(&mut bench, first, TEST_UNIT_READY),
        GOOD,
        "told is the other"
    );
}

#[test]
fn a_registration_is_the_nexus_own_and_outlives_its_session() {
    let (mut bench, first, second) = registered(Some(1));
    bench.array.close(first);
    assert_eq!(status(&mut bench, second, WRITE), CONFLICT);
    let again = bench.log_in(FIRST);
    assert_eq!(status(&mut bench, again, WRITE), GOOD);
    // The same initiator port through the other portal is another nexus.
    let host = bench.array.authorize(FIRST, [127, 0, 0, 1].into()).unwrap();
    let other = bench.array.open(
        Nexus {
            portal_tag: 2,
            ..nexus(FIRST)
        },
        host,
    );
    assert_eq!(bench.sense_of(other, 0, TEST_UNIT_READY), [6, 0x29, 0x00]);
    assert_eq!(status(&mut bench, other, WRITE), CONFLICT);
    let full_status = [0x5e, 3, 0, 0, 0, 0, 0, 0x40, 0, 0];
    let told = bench.run_as(again, 0, &full_status, &[]).data_in.concat();
    assert_eq!(told[8 + 18..8 + 20], [0, 0x11], "its relative port");
}

#[test]
fn no_reset_ends_a_persistent_reservation_and_each_ends_a_reserve() {
    for scope in [ResetScope::Unit([0; 8]), ResetScope::Target] {
        let (mut bench, first, second) = registered(Some(1));
        let reset = |bench: &mut Bench| {
            bench.array.reset(second, scope);
            for nexus in [first, second] {
                assert_eq!(bench.sense_of(nexus, 0, TEST_UNIT_READY)[..2], [6, 0x29]);
            }
        };
        reset(&mut bench);
        assert_eq!(status(&mut bench, second, WRITE), CONFLICT);
        assert_eq!(persist(&mut bench, first, (3, 0, A, 0)), GOOD);
        assert_eq!(bench.sense_of(second, 0, TEST_UNIT_READY), [6, 0x2a, 0x03]);
        assert_eq!(status(&mut bench, first, RESERVE), GOOD);
        assert_eq!(status(&mut bench, second, TEST_UNIT_READY), CONFLICT);
        reset(&mut bench);
        assert_eq!(status(&mut bench, second, WRITE), GOOD);
    }
}

#[test]
fn a_reserve_keeps_out_all_but_a_few_commands() {
    let mut bench = Bench::new();
    let (first, second) = (bench.nexus, bench.log_in(SECOND));
    assert_eq!(status(&mut bench, first, RESERVE), GOOD);
    assert_eq!(status(&mut bench, first, RESERVE), GOOD, "again");
    for refused in [RESERVE, READ, WRITE, MODE_SENSE, TEST_UNIT_READY] {
        assert_eq!(
            status(&mut bench, second, refused),
            CONFLICT,
            "{refused:02x?}"
        );
        assert_eq!(status(&mut bench, first, refused), GOOD, "{refused:02x?}");
    }
    for told in [
        &[0x12, 0, 0, 0, 96, 0][..],
        &[0x03, 0, 0, 0, 18, 0],
        &[0x25],
    ] {
        assert_eq!(status(&mut bench, second, told), GOOD, "{told:02x?}");
    }
    assert_eq!(status(&mut bench, second, RELEASE), GOOD, "without effect");
    assert_eq!(status(&mut bench, second, TEST_UNIT_READY), CONFLICT);
    assert_eq!(status(&mut bench, first, RELEASE), GOOD);
    assert_eq!(
        status(&mut bench, second, &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        GOOD
    );
    bench.array.close(second);
    assert_eq!(
        status(&mut bench, first, WRITE),
        GOOD,
        "gone with its nexus"
    );
    assert_eq!(
        bench.sense(&[0x16, 0x10, 0, 0, 0, 0], &[]),
        [5, 0x24, 0],
        "third party"
    );
}

#[test]
fn a_reserve_goes_with_the_map_that_showed_the_unit() {
    let mut bench = Bench::new();
    let (first, second) = (bench.nexus, bench.log_in(SECOND));
    assert_eq!(status(&mut bench, first, RESERVE), GOOD);
    let mut config = config(&bench.disk, Access::ReadWrite);
    config.maps.remove(0);
    bench.array.apply(config).unwrap();
    assert_eq!(status(&mut bench, second, WRITE), GOOD);
}

#[test]
fn either_kind_of_reservation_keeps_the_other_out() {
    let mut bench = Bench::new();
    let (first, second) = (bench.nexus, bench.log_in(SECOND));
    assert_eq!(status(&mut bench, first, RESERVE), GOOD);
    for nexus in [first, second] {
        assert_eq!(status(&mut bench, nexus, READ_KEYS), CONFLICT);
        assert_eq!(persist(&mut bench, nexus, (6, 0, 0, A)), CONFLICT);
    }
    assert_eq!(status(&mut bench, first, RELEASE), GOOD);
    assert_eq!(persist(&mut bench, first, (6, 0, 0, A)), GOOD);
    for nexus in [first, second] {
        assert_eq!(
            status(&mut bench, nexus, RESERVE),
            CONFLICT,
            "somebody is registered"
        );
        assert_eq!(status(&mut bench, nexus, RELEASE), CONFLICT);
    }
    // SPC-4 §5.12.3: whom the reservation admits is humoured.
    assert_eq!(persist(&mut bench, first, (1, 1, A, 0)), GOOD);
    assert_eq!(status(&mut bench, first, RESERVE), GOOD);
    assert_eq!(status(&mut bench, first, RELEASE), GOOD);
    assert_eq!(status(&mut bench, second, RESERVE), CONFLICT);
    assert_eq!(keys(&mut bench, second), [A], "nothing was reserved");
}

#[test]
fn d10_a_change_shows_to_nobody_before_it_is_durable() {
    let (mut bench, first, second) = registered(None);
    let reserving = begin_out(&mut bench, first, (1, 1, A, 0));
    let clearing = begin_out(&mut bench, first, (4, 1, A, B));
    assert_eq!(status(&mut bench, second, WRITE), GOOD);
    assert_eq!(keys(&mut bench, second), [A, B]);
    assert_eq!(status(&mut bench, second, TEST_UNIT_READY), GOOD);
    assert_eq!(end(&mut bench, reserving).status, GOOD);
    assert_eq!(status(&mut bench, second, WRITE), CONFLICT);
    assert_eq!(keys(&mut bench, second), [A, B]);
    assert_eq!(end(&mut bench, clearing).status, GOOD);
    assert_eq!(keys(&mut bench, first), [A]);
    assert_eq!(bench.sense_of(second, 0, TEST_UNIT_READY), [6, 0x2a, 0x05]);
}

#[test]
fn d10_a_refusal_waits_for_the_change_it_stands_on() {
    let (mut bench, first, second) = registered(None);
    let (_aborted, reserving) = begin_out(&mut bench, first, (1, 1, A, 0));
    let refused = begin_out(&mut bench, second, (1, 1, B, 0));
    assert_eq!(reserving, refused.1, "the same state and receipt");
    assert_eq!(end(&mut bench, refused).status, CONFLICT);
    assert_eq!(status(&mut bench, second, WRITE), CONFLICT, "it is durable");
}

#[test]
fn d10_a_change_takes_effect_without_the_session_that_asked() {
    let (mut bench, first, second) = registered(Some(1));
    let (_, request) = begin_out(&mut bench, first, (5, 1, A, B));
    bench.array.close(first);
    let _ = bench.array.next_aborted();
    bench.disk.submit(request, bench.queue.completion(Tag(0)));
    assert_eq!(bench.array.next_aborted(), None);
    bench.array.settle_at(second, [0; 8]);
    assert_eq!(bench.array.next_aborted_of(second), Some(Scope::Unit(DISK)));
    assert_eq!(bench.array.next_aborted(), None);
    assert_eq!(bench.sense_of(second, 0, TEST_UNIT_READY), [6, 0x2a, 0x05]);
    assert_eq!(keys(&mut bench, second), [A]);
}

#[test]
fn who_preempts_itself_keeps_what_it_asked() {
    let (mut bench, first, second) = registered(Some(1));
    assert_eq!(persist(&mut bench, first, (5, 3, A, A)), GOOD);
    assert_eq!(
        bench.array.next_aborted(),
        Some((first, Scope::Preemptor(DISK)))
    );
    assert_eq!(bench.array.next_aborted(), None);
    assert_eq!(
        bench.sense_of(second, 0, TEST_UNIT_READY),
        [6, 0x2a, 0x04],
        "another type"
    );
}

#[test]
fn a_reserve_does_not_stand_on_a_change_that_is_on_its_way() {
    let (mut bench, first, second) = registered(None);
    let clearing = begin_out(&mut bench, first, (3, 0, A, 0));
    assert_eq!(status(&mut bench, second, RESERVE), Status::Busy);
    assert_eq!(end(&mut bench, clearing).status, GOOD);
    assert_eq!(bench.sense_of(second, 0, TEST_UNIT_READY), [6, 0x2a, 0x03]);
    assert_eq!(status(&mut bench, second, RESERVE), GOOD);
}

#[test]
fn changes_on_their_way_are_bounded() {
    let (mut bench, first, second) = registered(None);
    let mut begun = Vec::new();
    for key in 0..64 {
        begun.push(begin_out(&mut bench, first, (6, 0, 0, 100 + key)));
    }
    assert_eq!(persist(&mut bench, second, (6, 0, 0, 7)), Status::Busy);
    // Kept in order; the last answers for all.
    let last = begun.pop().unwrap();
    assert_eq!(end(&mut bench, last).status, GOOD);
    assert_eq!(keys(&mut bench, second), [163, B]);
    assert_eq!(persist(&mut bench, second, (6, 0, 0, 7)), GOOD);
}

#[test]
fn h40_nothing_about_reservations_is_said_by_a_box_that_may_not_answer() {
    let (mut bench, first, second) = registered(Some(3));
    assert_eq!(persist(&mut bench, first, (4, 1, A, A)), GOOD);
    bench.disk.answer(Answers::With(BackendError::NotActive));
    // A conflict, the unit attention, the keys, a refusal, no effect, a change, a RESERVE.
    for cdb in [WRITE, TEST_UNIT_READY, READ_KEYS, RESERVE] {
        assert_eq!(bench.try_run(second, 0, cdb, &[]), None, "{cdb:02x?}");
    }
    for ask in [(1, 1, B, 0), (2, 1, B, 0), (6, 0, 0, 9)] {
        let (cdb, list) = out(ask.0, ask.1, ask.2, ask.3);
        assert_eq!(bench.try_run(second, 0, &cdb, &list), None, "{ask:?}");
    }
}

#[test]
fn h40_where_the_medium_ends_is_not_said_by_a_box_that_may_not_answer() {
    let mut bench = Bench::new();
    let mut unmap = vec![0, 22, 0, 16, 0, 0, 0, 0];
    unmap.extend(2048_u64.to_be_bytes());
    unmap.extend([0, 0, 0, 1, 0, 0, 0, 0]);
    let cases: [(&[u8], &[u8]); 3] = [
        (&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &unmap),
        (MODE_SENSE, &[]),
        (&[0x28, 0, 0, 0, 8, 0, 0, 0, 1, 0], &[]),
    ];
    bench.disk.answer(Answers::With(BackendError::NotActive));
    for (cdb, list) in cases {
        assert_eq!(bench.try_run(bench.nexus, 0, cdb, list), None, "{cdb:02x?}");
    }
    bench.disk.answer(Answers::AtOnce);
    assert_eq!(bench.sense(cases[0].0, &unmap), [5, 0x21, 0x00]);
    bench.disk.resize(4096);
    bench.disk.answer(Answers::With(BackendError::NotActive));
    assert_eq!(bench.try_run(bench.nexus, 0, TEST_UNIT_READY, &[]), None);
}

#[test]
fn d10_a_unit_begins_with_what_was_stored_and_a_new_configuration_keeps_what_is() {
    let (bench, ..) = registered(Some(1));
    let stored = |record: &Option<Bytes>| {
        let mut config = config(&bench.disk, Access::ReadWrite);
        config.units[0].reserved = Reserved::Stored(record.clone());
        config
    };
    let record = bench.disk.reservations();
    let mut next = Bench::with(MemoryBackend::thin(2048));
    next.array.apply(stored(&record)).unwrap();
    let (first, second) = (next.log_in(FIRST), next.log_in(SECOND));
    assert_eq!(keys(&mut next, second), [A, B]);
    assert_eq!(status(&mut next, second, WRITE), CONFLICT);
    assert_eq!(status(&mut next, first, WRITE), GOOD);
    let live = config(&bench.disk, Access::ReadWrite);
    next.array.apply(live).unwrap();
    assert_eq!(status(&mut next, second, WRITE), CONFLICT);
    next.array.apply(stored(&None)).unwrap();
    assert_eq!(status(&mut next, second, WRITE), GOOD, "another epoch");
    let damaged = Some(record.unwrap().slice(1..));
    let error = next.array.apply(stored(&damaged)).unwrap_err().to_string();
    assert!(error.contains("reservations cannot be read"), "{error}");
    assert_eq!(
        status(&mut next, second, WRITE),
        GOOD,
        "nothing was applied"
    );
}

/// Host `any` lets names in that no configuration would take; what they store must be read again,
/// or no box could serve any more.
#[test]
fn d10_whoever_may_log_in_can_be_stored() {
    let any = HostConfig {
        networks: vec!["127.0.0.0/8".parse().unwrap()],
        ..host("any", &[])
    };
    let config = |disk: &Rc<MemoryBackend>| ArrayConfig {
        hosts: vec![any.clone()],
        maps: vec![map("any", 0, DISK, Access::ReadWrite)],
        ..config(disk, Access::ReadWrite)
    };
    let mut bench = Bench::new();
    bench.array.apply(config(&bench.disk)).unwrap();
    let mut names = ["stranger", "iqn.1994-05.com.redhat:host_1", "x*?,i,0x"].map(str::to_owned);
    names.sort();
    for name in &names {
        let nexus = bench.log_in(name);
        assert_eq!(persist(&mut bench, nexus, (0, 0, 0, A)), GOOD, "{name}");
    }
    let mut stored = config(&bench.disk);
    stored.units[0].reserved = Reserved::Stored(bench.disk.reservations());
    bench.array.apply(stored).unwrap();
    let nexus = bench.log_in(&names[0]);
    assert_eq!(keys(&mut bench, nexus), [A, A, A]);
}
