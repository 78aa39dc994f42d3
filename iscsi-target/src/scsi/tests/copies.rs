//! EXTENDED COPY and RECEIVE COPY RESULTS, against literal bytes.

use super::*;
use crate::backend::{BackendError, Request};
use crate::memory::Answers;
use crate::scsi::unit::Unit;

const OTHER: UnitId = UnitId(2);
const LARGE: UnitId = UnitId(3);
/// More than one piece.
const BLOCKS: u16 = 5000;

/// The disk under LUN 0, another one under 1, one with blocks of 4 KiB under 2, all of them for the
/// first initiator; the second one sees only the disk.
struct Pair {
    bench: Bench,
    other: Rc<MemoryBackend>,
    large: Rc<MemoryBackend>,
}

impl Pair {
    fn new() -> Self {
        let bench = Bench::with(MemoryBackend::thin(20_000));
        let other = Rc::new(MemoryBackend::thin(20_000));
        let large = Rc::new(MemoryBackend::new(Geometry {
            block_bytes: 4096,
            physical_block_exponent: 0,
            ..MemoryBackend::thin(2000).geometry()
        }));
        let mut pair = Self {
            bench,
            other,
            large,
        };
        pair.configure(Access::ReadWrite);
        pair
    }

    fn configure(&mut self, access: Access) {
        let mut config = config(&self.bench.disk, Access::ReadWrite);
        config.maps.push(map("first", 1, OTHER, access));
        config.maps.push(map("first", 2, LARGE, Access::ReadWrite));
        config.units.push(unit(OTHER, &self.other));
        config.units.push(unit(LARGE, &self.large));
        self.bench.array.apply(config).unwrap();
        for lun in 0..3 {
            while self.on(lun, &[0x00], &[]).status != Status::Good {}
        }
    }

    fn on(&mut self, lun: u8, cdb: &[u8], data: &[u8]) -> Reply {
        self.bench.run_as(self.bench.nexus, lun, cdb, data)
    }

    /// Sends a list to the disk.
    fn copy(&mut self, list: &[u8]) -> Reply {
        self.bench.run(&copy_of(list), list)
    }

    fn status(&mut self, id: u8) -> Vec<u8> {
        self.bench.data(&results(0x00, id), &[])
    }
}

fn copy_of(list: &[u8]) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = 0x83;
    let len = u32::try_from(list.len()).unwrap();
    cdb[10..14].copy_from_slice(&len.to_be_bytes());
    cdb
}

fn results(action: u8, id: u8) -> [u8; 16] {
    [0x84, action, id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0]
}

/// An identification descriptor of a unit with blocks of 512 bytes.
fn cscd(id: UnitId) -> [u8; 32] {
    cscd_with(id, 512)
}

fn cscd_with(id: UnitId, block_bytes: u16) -> [u8; 32] {
    let disk = Rc::new(MemoryBackend::thin(1));
    let unit = Unit::new(unit(id, &disk), None).unwrap();
    let mut descriptor = [0; 32];
    descriptor[0] = 0xe4;
    descriptor[4..8].copy_from_slice(&[0x01, 0x03, 0, 8]);
    descriptor[8..16].copy_from_slice(&unit.naa);
    descriptor[30..32].copy_from_slice(&block_bytes.to_be_bytes());
    descriptor
}

/// A run of blocks from one position of the list to another.
fn segment((source, from): (u8, u16), (destination, to): (u8, u16), blocks: u16) -> [u8; 28] {
    let mut descriptor = [0; 28];
    descriptor[0] = 0x02;
    descriptor[3] = 24;
    (descriptor[5], descriptor[7]) = (source, destination);
    descriptor[10..12].copy_from_slice(&blocks.to_be_bytes());
    descriptor[18..20].copy_from_slice(&from.to_be_bytes());
    descriptor[26..28].copy_from_slice(&to.to_be_bytes());
    descriptor
}

fn list(id: u8, cscds: &[[u8; 32]], segments: &[[u8; 28]]) -> Vec<u8> {
    let mut list = vec![0; 16];
    list[0] = id;
    let (cscds, segments) = (cscds.concat(), segments.concat());
    list[2..4].copy_from_slice(&u16::try_from(cscds.len()).unwrap().to_be_bytes());
    list[10..12].copy_from_slice(&u16::try_from(segments.len()).unwrap().to_be_bytes());
    [list, cscds, segments].concat()
}

fn pattern(blocks: u16, seed: u8) -> Vec<u8> {
    let block = |number: u16| {
        let [high, low] = number.to_be_bytes();
        [seed, high, low, 7].repeat(128)
    };
    (0..blocks).flat_map(block).collect()
}

fn write_16(lba: u16, blocks: u16) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = 0x8a;
    cdb[8..10].copy_from_slice(&lba.to_be_bytes());
    cdb[12..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

fn read_16(lba: u16, blocks: u16) -> [u8; 16] {
    let mut cdb = write_16(lba, blocks);
    cdb[0] = 0x88;
    cdb
}

#[test]
fn segments_are_copied_in_order_between_units() {
    let mut pair = Pair::new();
    let data = pattern(BLOCKS, 1);
    pair.on(0, &write_16(100, BLOCKS), &data);
    let both = [cscd(DISK), cscd(OTHER)];
    let segments = [
        segment((0, 100), (1, 3), BLOCKS),
        segment((1, 3), (1, 9000), BLOCKS),
        segment((1, 9000), (0, 15_000), 8),
        segment((0, 0), (1, 0), 0),
    ];
    assert_eq!(pair.copy(&list(9, &both, &segments)), Reply::good());
    assert!(pair.on(1, &read_16(3, BLOCKS), &[]).data_in.concat() == data);
    assert!(pair.on(1, &read_16(9000, BLOCKS), &[]).data_in.concat() == data);
    assert_eq!(
        pair.on(0, &read_16(15_000, 9), &[]).data_in.concat(),
        [&data[..8 * 512], &[0; 512]].concat()
    );
    let bytes = (2 * u32::from(BLOCKS) + 8) * 512;
    let expected = [&[0, 0, 0, 8, 0x81, 0, 4, 0][..], &bytes.to_be_bytes()].concat();
    assert_eq!(pair.status(9), expected);
    assert_eq!(pair.bench.data(&results(0x04, 9), &[]), [0; 4]);
}

#[test]
fn blocks_that_overlap_their_copy_arrive_unharmed() {
    for (from, to) in [(0, 700), (700, 0), (5, 5)] {
        let mut pair = Pair::new();
        let data = pattern(BLOCKS, 2);
        pair.on(0, &write_16(from, BLOCKS), &data);
        let moved = list(0, &[cscd(DISK)], &[segment((0, from), (0, to), BLOCKS)]);
        assert_eq!(pair.copy(&moved), Reply::good());
        assert!(pair.on(0, &read_16(to, BLOCKS), &[]).data_in.concat() == data);
    }
}

#[test]
fn zeroes_stay_holes() {
    let mut pair = Pair::new();
    pair.on(1, &write_16(0, 16), &[9; 16 * 512]);
    let holes = list(
        0,
        &[cscd(DISK), cscd(OTHER)],
        &[segment((0, 0), (1, 0), BLOCKS)],
    );
    assert_eq!(pair.copy(&holes), Reply::good());
    assert_eq!(pair.other.allocated_blocks(), 0);
}

#[test]
fn blocks_of_two_sizes_are_copied_if_they_are_whole() {
    let mut pair = Pair::new();
    let data = pattern(24, 3);
    pair.on(0, &write_16(8, 24), &data);
    let both = [cscd(DISK), cscd_with(LARGE, 4096)];
    assert_eq!(
        pair.copy(&list(0, &both, &[segment((0, 8), (1, 5), 24)])),
        Reply::good()
    );
    assert_eq!(pair.on(2, &read_16(5, 3), &[]).data_in.concat(), data);
    // DC: counted in blocks of the destination.
    let mut counted = segment((0, 8), (1, 50), 3);
    counted[1] = 0x02;
    assert_eq!(pair.copy(&list(0, &both, &[counted])), Reply::good());
    assert_eq!(pair.on(2, &read_16(50, 3), &[]).data_in.concat(), data);
    let torn = pair.copy(&list(0, &both, &[segment((0, 8), (1, 5), 23)]));
    assert_eq!(sense_of(&torn), [0xa, 0x26, 0x0d]);
    let lied = pair.copy(&list(
        0,
        &[cscd(DISK), cscd(LARGE)],
        &[segment((0, 8), (1, 5), 24)],
    ));
    assert_eq!(sense_of(&lied), [0xa, 0x26, 0x0d]);
}

#[test]
fn a_copy_reaches_only_what_its_nexus_sees() {
    let mut pair = Pair::new();
    pair.on(1, &write_16(0, 8), &[5; 8 * 512]);
    let stolen = list(1, &[cscd(DISK), cscd(OTHER)], &[segment((1, 0), (0, 0), 8)]);
    let second = pair.bench.log_in(SECOND);
    let reply = pair.bench.run_as(second, 0, &copy_of(&stolen), &stolen);
    assert_eq!(sense_of(&reply), [0xa, 0x0d, 0x02]);
    assert_eq!(pair.bench.disk.allocated_blocks(), 0);
    // It asks for its own copies only.
    assert_eq!(pair.bench.sense(&results(0x00, 1), &[]), [5, 0x24, 0]);
    assert_eq!(pair.copy(&stolen), Reply::good());
    assert_eq!(pair.bench.disk.allocated_blocks(), 8);
}

#[test]
fn a_unit_that_may_not_be_written_is_no_destination() {
    let mut pair = Pair::new();
    pair.configure(Access::ReadOnly);
    let both = [cscd(DISK), cscd(OTHER)];
    let segments = [segment((1, 0), (0, 0), 8), segment((0, 0), (1, 0), 8)];
    assert_eq!(
        sense_of(&pair.copy(&list(0, &both, &segments))),
        [7, 0x27, 0]
    );
    assert_eq!(pair.copy(&list(0, &both, &segments[..1])), Reply::good());
    // Nor is one that initiators have protected.
    pair.configure(Access::ReadWrite);
    assert_eq!(pair.copy(&list(0, &both, &segments)), Reply::good());
    let set = pair.on(1, &[0x15, 0x10, 0, 0, 16, 0], &PROTECTED);
    assert_eq!(set, Reply::good());
    assert_eq!(
        sense_of(&pair.copy(&list(0, &both, &segments))),
        [7, 0x27, 0]
    );
}

/// A control mode page with SWP, and its header.
const PROTECTED: [u8; 16] = [
    0, 0, 0, 0, 0x0a, 10, 0, 0x10, 0x08, 0, 0, 0, 0xff, 0xff, 0, 0,
];

/// Runs a copy of two pieces up to `steps` answers of the store, lets `between` happen, goes on.
fn interrupted(pair: &mut Pair, steps: usize, between: impl FnOnce(&mut Pair)) -> Reply {
    let list = list(
        3,
        &[cscd(DISK), cscd(OTHER)],
        &[segment((0, 0), (1, 0), BLOCKS)],
    );
    let started = pair
        .bench
        .array
        .start(pair.bench.nexus, [0; 8], copy_of(&list), 4096);
    let Start::Run(mut execution) = started else {
        panic!("a copy takes a list")
    };
    let queue = CompletionQueue::new();
    let mut between = Some(between);
    let mut step = execution.run(&mut pair.bench.array, Bytes::from(list));
    for count in 0.. {
        if count == steps
            && let Some(between) = between.take()
        {
            between(pair);
        }
        match step {
            Step::Done(reply) => return reply,
            Step::Drop => panic!("nobody is dropped"),
            Step::Io { backend, request } => {
                if let Request::Read { len_bytes, .. } = request {
                    assert!(len_bytes <= 1 << 20, "one piece at a time");
                }
                backend.submit(request, queue.completion(Tag(0)));
                let (_, outcome) = queue.pop().expect("this backend answers at once");
                step = execution.done(&mut pair.bench.array, outcome);
            }
        }
    }
    unreachable!("every copy ends")
}

#[test]
fn what_changes_under_a_copy_counts_for_its_next_piece() {
    let written = |steps, between: fn(&mut Pair), sense: [u8; 3]| {
        let mut pair = Pair::new();
        pair.on(0, &write_16(0, BLOCKS), &pattern(BLOCKS, 4));
        let reply = interrupted(&mut pair, steps, between);
        assert_eq!(sense_of(&reply), sense);
        pair.other.allocated_blocks()
    };
    // Before the first write reaches the store, and before the second read does.
    let unmap = |pair: &mut Pair| {
        let config = config(&pair.bench.disk, Access::ReadWrite);
        pair.bench.array.apply(config).unwrap();
    };
    assert_eq!(written(1, unmap, [0xa, 0x0d, 0x02]), 2048);
    let protect = |pair: &mut Pair| pair.configure(Access::ReadOnly);
    assert_eq!(written(2, protect, [7, 0x27, 0]), 2048);
    let shrink = |pair: &mut Pair| pair.other.resize(3000);
    assert_eq!(written(2, shrink, [0xa, 0x0d, 0x01]), 2048);
    assert_eq!(written(1, shrink, [0xa, 0, 0]), 2048);
}

#[test]
fn a_store_that_fails_is_named_by_its_segment() {
    let mut pair = Pair::new();
    pair.other.answer(Answers::With(BackendError::NoSpace));
    let segments = [segment((0, 0), (0, 8), 8), segment((0, 0), (1, 0), 8)];
    let reply = pair.copy(&list(7, &[cscd(DISK), cscd(OTHER)], &segments));
    assert_eq!(sense_of(&reply), [0xa, 0x0d, 0x01]);
    let sense = reply.sense.unwrap();
    assert_eq!(sense.to_bytes()[8..12], [0, 0, 0, 1], "the second segment");
    let descriptor = sense.with_format(SenseFormat::Descriptor).to_bytes();
    assert_eq!(
        descriptor[7..],
        [12, 0x01, 0x0a, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    );
    assert_eq!(pair.status(7), [0, 0, 0, 8, 0x82, 0, 1, 0, 0, 0, 0x10, 0]);
    let details = pair.bench.data(&results(0x04, 7), &[]);
    assert_eq!((details[3], details[56], details[59]), (74, 0x02, 18));
    assert_eq!(details[60..], sense.to_bytes());
    // The role was lost: nothing is said.
    pair.other.answer(Answers::With(BackendError::NotActive));
    let list = list(7, &[cscd(DISK), cscd(OTHER)], &segments);
    assert_eq!(
        pair.bench
            .try_run(pair.bench.nexus, 0, &copy_of(&list), &list),
        None
    );
}

#[test]
fn what_a_list_gets_wrong_has_its_own_sense() {
    let good = || list(0, &[cscd(DISK)], &[segment((0, 0), (0, 8), 8)]);
    let with = |at: usize, byte: u8| {
        let mut list = good();
        list[at] = byte;
        list
    };
    let (length, field, aborted) = ([5, 0x1a, 0], [5, 0x26, 0], [0xa, 0, 0]);
    let disk = cscd(DISK);
    let run = segment((0, 0), (0, 8), 8);
    let cases = [
        (good()[..15].to_vec(), length),
        (good()[..47].to_vec(), length),
        (good()[..75].to_vec(), length),
        (list(0, &[disk; 17], &[run]), [5, 0x26, 0x06]),
        (list(0, &[disk], &[run; 65]), [5, 0x26, 0x08]),
        (list(0, &[disk; 17], &[run; 65]), length),
        (with(16, 0xe0), [5, 0x26, 0x07]),
        (with(48, 0x03), [5, 0x26, 0x09]),
        (with(15, 1), [5, 0x26, 0x0b]),
        (with(1, 0x08), field), // LIST ID USAGE 01b
        ([&[1, 0x18], &good()[2..]].concat(), field),
        (with(23, 21), field), // a designator too long
        (with(51, 23), field),
        (with(53, 1), [0xa, 0x08, 0x04]),
        (with(55, 1), [0xa, 0x08, 0x04]),
        (with(17, 1), [0xa, 0x0d, 0x03]),
        (with(20, 2), [0xa, 0x0d, 0x02]),
        (with(23, 7), [0xa, 0x0d, 0x02]),
        (with(26, 0xff), [0xa, 0x0d, 0x02]),
        (with(72, 1), aborted), // beyond the end
        (with(64, 1), aborted),
    ];
    let mut pair = Pair::new();
    for (list, sense) in cases {
        assert_eq!(sense_of(&pair.copy(&list)), sense, "{list:02x?}");
    }
    assert_eq!(pair.copy(&good()), Reply::good());
    assert_eq!(pair.copy(&with(17, 0xc0)), Reply::good(), "LU ID TYPE");
    assert_eq!(pair.copy(&[]), Reply::good());
    assert_eq!(pair.copy(&list(0, &[], &[])), Reply::good());
    // The list must come whole.
    assert_eq!(pair.bench.sense(&copy_of(&good()), &good()[..60]), length);
    assert_eq!(pair.bench.disk.allocated_blocks(), 0);
}

#[test]
fn a_copy_is_remembered_under_its_number_until_its_nexus_is_gone() {
    let mut pair = Pair::new();
    let copy = |id| list(id, &[cscd(DISK)], &[segment((0, 0), (0, 8), 8)]);
    let unknown = [5, 0x24, 0];
    assert_eq!(pair.bench.sense(&results(0x00, 4), &[]), unknown);
    pair.copy(&copy(4));
    assert_eq!(pair.status(4)[4], 0x81);
    assert_eq!(
        sense_of(&pair.on(1, &results(0x00, 4), &[])),
        unknown,
        "another unit"
    );
    // While it runs, its number is taken; given up, it is forgotten.
    let mut unfinished = copy(4);
    unfinished[1] = 0x10;
    let started = pair
        .bench
        .array
        .start(pair.bench.nexus, [0; 8], copy_of(&unfinished), 4096);
    let Start::Run(mut execution) = started else {
        panic!("a copy takes a list")
    };
    let step = execution.run(&mut pair.bench.array, Bytes::from(unfinished));
    assert!(matches!(step, Step::Io { .. }));
    assert_eq!(pair.status(4)[4], 0x80);
    assert_eq!(sense_of(&pair.copy(&copy(4))), [5, 0, 0x16]);
    drop(execution);
    assert_eq!(pair.bench.sense(&results(0x00, 4), &[]), unknown);
    pair.copy(&copy(4));
    pair.bench
        .array
        .reset(pair.bench.nexus, ResetScope::Unit([0; 8]));
    assert_eq!(pair.bench.sense(&[0x00], &[]), [6, 0x29, 0x03]);
    assert_eq!(pair.bench.sense(&results(0x00, 4), &[]), unknown);
    // Without a number nothing is remembered.
    let mut nameless = copy(0);
    nameless[1] = 0x18;
    assert_eq!(pair.copy(&nameless), Reply::good());
    assert_eq!(pair.bench.sense(&results(0x00, 0), &[]), unknown);
}

#[test]
fn limits_are_told_in_both_places() {
    let mut pair = Pair::new();
    let parameters = pair.bench.data(&results(0x03, 0), &[]);
    let expected = [
        &[
            0, 0, 0, 42, 1, 0, 0, 0, 0, 16, 0, 64, 0, 0, 0x09, 0, 0x10, 0, 0, 0,
        ][..],
        &[0; 14],
        &[0xff, 0xff, 16, 9, 0, 0, 0, 0, 0, 2, 0x02, 0xe4],
    ];
    assert_eq!(parameters, expected.concat());
    let page = pair.bench.data(&[0x12, 1, 0x8f, 0, 0xff, 0], &[]);
    let expected = [
        &[0, 0x8f, 0, 100][..],
        &[0, 1, 0, 12, 8, 0x83, 1, 0, 0x84, 3, 0, 3, 4, 0, 0, 0],
        &[0, 4, 0, 28, 0, 0, 0, 0, 0, 16, 0, 64, 0, 0, 0x09, 0],
        &[0; 16],
        &[0, 8, 0, 4, 2, 0x02, 0xe4, 0, 0, 12, 0, 4, 0, 0, 0, 0],
        &[
            0x80, 1, 0, 32, 0, 0, 0xff, 0xff, 0, 0, 0, 16, 0x10, 0, 0, 0, 9,
        ],
        &[0; 19],
    ];
    assert_eq!(page, expected.concat());
    assert_eq!(pair.bench.sense(&results(0x01, 0), &[]), [5, 0x20, 0]);
}

#[test]
fn a_copy_is_kept_out_by_reservations_on_both_sides() {
    let mut pair = Pair::new();
    let second = pair.bench.log_in(SECOND);
    let source = list(1, &[cscd(DISK), cscd(OTHER)], &[segment((0, 0), (1, 0), 1)]);
    let (register, key) = reservations::out(6, 0, 0, 1);
    assert_eq!(
        pair.bench.run_as(second, 0, &register, &key).status,
        Status::Good
    );
    for (kind, refused) in [(1, false), (3, true)] {
        let (reserve, key) = reservations::out(1, kind, 1, 0);
        assert_eq!(
            pair.bench.run_as(second, 0, &reserve, &key).status,
            Status::Good
        );
        // Sent to the other unit, which nobody has reserved.
        let reply = pair.on(1, &copy_of(&source), &source);
        if refused {
            assert_eq!(sense_of(&reply), [0x0a, 0x0d, 0x01]);
        } else {
            assert_eq!(reply.status, Status::Good);
        }
        let back = list(2, &[cscd(OTHER), cscd(DISK)], &[segment((0, 0), (1, 0), 1)]);
        let reply = pair.on(1, &copy_of(&back), &back);
        assert_eq!(sense_of(&reply), [0x0a, 0x0d, 0x01], "{kind}");
        assert_eq!(pair.copy(&source).status, Status::ReservationConflict);
        let (release, key) = reservations::out(2, kind, 1, 0);
        assert_eq!(
            pair.bench.run_as(second, 0, &release, &key).status,
            Status::Good
        );
    }
}
