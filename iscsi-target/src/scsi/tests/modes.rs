//! MODE SENSE and MODE SELECT, against literal bytes.

use super::*;

const CONTROL: [u8; 12] = [0x0a, 10, 0, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0];

#[test]
fn pages_and_headers() {
    let mut bench = Bench::new();
    let control = bench.data(&[0x1a, 0x08, 0x0a, 0, 0xff, 0], &[]);
    assert_eq!(control, [&[15, 0, 0x10, 0][..], &CONTROL].concat());
    let short = bench.data(&[0x1a, 0, 0x0a, 0, 0xff, 0], &[]);
    assert_eq!(short[..12], [23, 0, 0x10, 8, 0, 0, 8, 0, 0, 0, 2, 0]);
    let long = bench.data(&[0x5a, 0x10, 0x0a, 0, 0, 0, 0, 0, 0xff, 0], &[]);
    assert_eq!(long[..8], [0, 34, 0, 0x10, 1, 0, 0, 16]);
    assert_eq!(
        long[8..24],
        [0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2, 0]
    );
    let extension = bench.data(&[0x1a, 0x08, 0x0a, 1, 0xff, 0], &[]);
    assert_eq!(extension[4..9], [0x4a, 1, 0, 28, 1]);
    let caching = bench.data(&[0x1a, 0x08, 0x08, 0, 0xff, 0], &[]);
    assert_eq!(caching[4..7], [0x08, 18, 0x04]);
}

#[test]
fn all_pages_come_in_order_with_subpages_on_request() {
    let mut bench = Bench::new();
    for (subpage, expected) in [
        (0, vec![(0x01, 0), (0x08, 0), (0x0a, 0), (0x1c, 0)]),
        (
            0xff,
            vec![(0x01, 0), (0x08, 0), (0x0a, 0), (0x0a, 1), (0x1c, 0)],
        ),
    ] {
        let data = bench.data(&[0x5a, 0x08, 0x3f, subpage, 0, 0, 0, 0xff, 0xff, 0], &[]);
        let mut pages = Vec::new();
        let mut rest = &data[8..];
        while !rest.is_empty() {
            let long = rest[0] & 0x40 != 0;
            let len = if long {
                4 + usize::from(rest[3])
            } else {
                2 + usize::from(rest[1])
            };
            pages.push((rest[0] & 0x3f, if long { rest[1] } else { 0 }));
            rest = &rest[len..];
        }
        assert_eq!(pages, expected);
    }
}

#[test]
fn descriptor_sense_is_set_and_told_to_the_others() {
    let mut bench = Bench::new();
    let second = bench.log_in(SECOND);
    let changeable = bench.data(&[0x1a, 0x08, 0x4a, 0, 0xff, 0], &[]);
    assert_eq!(
        changeable[4..],
        [0x0a, 10, 0x04, 0, 0x08, 0, 0, 0, 0, 0, 0, 0]
    );
    let mut list = [&[0; 4][..], &CONTROL].concat();
    list[6] |= 0x04;
    bench.data(&[0x15, 0x10, 0, 0, 16, 0], &list);
    assert_eq!(bench.data(&[0x1a, 0x08, 0x0a, 0, 0xff, 0], &[])[6], 0x04);
    assert_eq!(bench.data(&[0x1a, 0x08, 0x8a, 0, 0xff, 0], &[])[6], 0);
    let reply = bench.run(&[0xff], &[]);
    assert_eq!(reply.sense.unwrap().to_bytes()[..4], [0x72, 5, 0x20, 0]);
    assert_eq!(bench.sense_of(second, 0, &[0x00]), [6, 0x2a, 0x01]);
    // The same again changes nothing, so nobody is told; a reset undoes it.
    bench.data(&[0x15, 0x10, 0, 0, 16, 0], &list);
    assert!(bench.is_good(second, &[0x00]));
    bench.array.reset(second, ResetScope::Unit([0; 8]));
    assert_eq!(bench.sense(&[0x00], &[]), [6, 0x29, 0x03]);
    assert_eq!(bench.data(&[0x1a, 0x08, 0x0a, 0, 0xff, 0], &[])[6], 0);
}

#[test]
fn software_write_protection_holds_for_every_nexus_until_a_reset() {
    let mut bench = Bench::new();
    let second = bench.log_in(SECOND);
    let mut list = [&[0; 4][..], &CONTROL].concat();
    list[8] |= 0x08;
    bench.data(&[0x15, 0x10, 0, 0, 16, 0], &list);
    assert_eq!(bench.sense_of(second, 0, &[0x00]), [6, 0x2a, 0x01]);
    let writes: [&[u8]; 3] = [
        &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        &[0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x93, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
    ];
    for nexus in [bench.nexus, second] {
        for write in writes {
            let reply = bench.run_as(nexus, 0, write, &[]);
            assert_eq!(sense_of(&reply), [7, 0x27, 0], "{write:02x?}");
        }
        assert!(bench.is_good(nexus, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]));
    }
    let sensed = bench.data(&[0x1a, 0x08, 0x0a, 0, 0xff, 0], &[]);
    assert_eq!((sensed[2], sensed[8]), (0x90, 0x08), "WP and SWP");
    // The default is shown without it, and a reset goes back there.
    assert_eq!(bench.data(&[0x1a, 0x08, 0x8a, 0, 0xff, 0], &[])[8], 0);
    bench.array.reset(second, ResetScope::Unit([0; 8]));
    assert_eq!(bench.sense(&[0x00], &[]), [6, 0x29, 0x03]);
    bench.data(writes[0], &[1; 512]);
    // Taken back as it was set.
    bench.data(&[0x15, 0x10, 0, 0, 16, 0], &list);
    list[8] = 0;
    bench.data(&[0x15, 0x10, 0, 0, 16, 0], &list);
    bench.data(writes[0], &[2; 512]);
}

#[test]
fn without_the_cache_every_write_is_stable() {
    use crate::backend::{Fua, Request};
    let mut bench = Bench::new();
    let fua_of = |bench: &mut Bench, cdb: &[u8]| {
        let Start::Run(mut execution) = bench.array.start(bench.nexus, [0; 8], padded(cdb), 512)
        else {
            panic!("a write takes data")
        };
        match execution.run(&mut bench.array, Bytes::from_static(&[1; 512])) {
            Step::Io {
                request: Request::Write { fua, .. },
                ..
            }
            | Step::Io {
                request: Request::WriteSame { fua, .. },
                ..
            } => fua,
            Step::Io { .. } | Step::Done(_) | Step::Drop => panic!("a write writes"),
        }
    };
    let writes: [&[u8]; 3] = [
        &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        &[0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        &[0x0a, 0, 0, 0, 1, 0],
    ];
    for write in writes {
        assert_eq!(fua_of(&mut bench, write), Fua::No);
    }
    assert_eq!(
        fua_of(&mut bench, &[0x2a, 0x08, 0, 0, 0, 0, 0, 0, 1, 0]),
        Fua::Yes
    );
    let mut list = vec![0; 8 + 20];
    list[8..10].copy_from_slice(&[0x08, 18]);
    bench.data(&[0x55, 0x10, 0, 0, 0, 0, 0, 0, 28, 0], &list);
    assert_eq!(bench.data(&[0x1a, 0x08, 0x08, 0, 0xff, 0], &[])[6], 0);
    for write in writes {
        assert_eq!(fua_of(&mut bench, write), Fua::Yes);
    }
}

#[test]
fn what_a_list_gets_wrong_has_its_own_sense() {
    let mut bench = Bench::new();
    let page = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut list = [&[0; 4][..], &CONTROL].concat();
        edit(&mut list);
        list
    };
    let (length, field) = ([5, 0x1a, 0], [5, 0x26, 0]);
    let cases = [
        (page(&|list| list.truncate(3)), length),
        (page(&|list| list.truncate(5)), length),
        (page(&|list| list.truncate(9)), length),
        (page(&|list| list[5] = 9), length),
        (page(&|list| list[4] = 0x3e), field),
        (page(&|list| list[6] |= 0x02), field),
        (page(&|list| list[8] |= 0x10), field),
        (page(&|list| list[3] = 8), field), // the page taken for a block descriptor
        (page(&|list| list[3] = 7), field),
    ];
    for (list, sense) in cases {
        let len = u8::try_from(list.len()).unwrap();
        assert_eq!(
            bench.sense(&[0x15, 0x10, 0, 0, len, 0], &list),
            sense,
            "{list:02x?}"
        );
    }
    // A block descriptor for the medium as it is, and none at all, are fine.
    let mut list = vec![0, 0, 0, 8, 0, 0, 8, 0, 0, 0, 2, 0];
    list.extend(CONTROL);
    bench.data(&[0x15, 0x10, 0, 0, 24, 0], &list);
    list[6] = 0;
    bench.data(&[0x15, 0x10, 0, 0, 24, 0], &list);
    list[10] = 4;
    assert_eq!(bench.sense(&[0x15, 0x10, 0, 0, 24, 0], &list), field);
    bench.data(&[0x15, 0x10, 0, 0, 0, 0], &[]);
}
