//! INQUIRY, vital product data and reports, against literal bytes.

use super::*;

#[test]
fn standard_inquiry() {
    let mut bench = Bench::new();
    let data = bench.data(&[0x12, 0, 0, 0, 0xff, 0], &[]);
    assert_eq!(data.len(), 96);
    assert_eq!(data[..8], [0x00, 0x00, 0x06, 0x12, 91, 0x18, 0x10, 0x02]);
    assert_eq!(&data[8..16], b"TWINSAN ");
    assert_eq!(&data[16..32], b"VIRTUAL-DISK    ");
    assert!(data[32].is_ascii_digit());
    assert_eq!(
        data[58..66],
        [0x00, 0xa0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xc0]
    );
    assert_eq!(bench.data(&[0x12, 0, 0, 0, 5, 0], &[]), data[..5]);
}

#[test]
fn serial_number_and_identification_follow_from_the_id() {
    let mut bench = Bench::new();
    let serial = bench.data(&[0x12, 1, 0x80, 0, 0xff, 0], &[]);
    assert_eq!(
        serial,
        [&[0, 0x80, 0, 32][..], b"00112233445566778899aabbccddeeff"].concat()
    );
    let data = bench.data(&[0x12, 1, 0x83, 1, 0xff, 0], &[]);
    let naa = [0x3f, 0xb6, 0x00, 0x5c, 0x9c, 0x33, 0x61, 0x1a];
    let expected = [
        &[0x01, 0x03, 0, 8][..],
        &naa,
        &[0x02, 0x01, 0, 40],
        b"TWINSAN 00112233445566778899aabbccddeeff",
        &[0x51, 0x94, 0, 4, 0, 0, 0, 0x11],
        &[0x51, 0x95, 0, 4, 0, 0, 0, 0x21],
        &[0x53, 0x98, 0, 40],
        b"iqn.2026-11.org.twinsan:test,t,0x0001\0\0\0",
        &[0x53, 0xa8, 0, 32],
        b"iqn.2026-11.org.twinsan:test\0\0\0\0",
    ]
    .concat();
    let len = u8::try_from(expected.len()).unwrap();
    assert_eq!(data[..4], [0, 0x83, 0, len]);
    assert_eq!(data[4..], expected);
}

#[test]
fn the_port_is_that_of_the_nexus() {
    let mut bench = Bench::new();
    let host = bench.array.authorize(FIRST, [127, 0, 0, 1].into()).unwrap();
    let other = bench.array.open(
        Nexus {
            portal_tag: 2,
            ..nexus(FIRST)
        },
        host,
    );
    let data = bench
        .run_as(other, 0, &[0x12, 1, 0x83, 0, 0xff, 0], &[])
        .data_in
        .concat();
    assert_eq!(
        data[60..76],
        [
            0x51, 0x94, 0, 4, 0, 0, 0, 0x12, 0x51, 0x95, 0, 4, 0, 0, 0, 0x22
        ]
    );
}

#[test]
fn the_list_of_pages_is_true_and_in_order() {
    let mut bench = Bench::new();
    let list = bench.data(&[0x12, 1, 0x00, 0, 0xff, 0], &[]);
    assert!(list[4..].is_sorted());
    for page in 0..=u8::MAX {
        let reply = bench.run(&[0x12, 1, page, 0xff, 0xff, 0], &[]);
        assert_eq!(
            reply.status == Status::Good,
            list[4..].contains(&page),
            "{page:02x}"
        );
        if let Some(data) = reply.data_in.first() {
            let len = usize::from(u16::from_be_bytes([data[2], data[3]]));
            assert_eq!((data[1], data.len()), (page, len + 4));
        }
    }
}

#[test]
fn limits_and_provisioning_of_a_thin_unit() {
    let mut bench = Bench::new();
    let limits = bench.data(&[0x12, 1, 0xb0, 0, 0xff, 0], &[]);
    let expected = [
        0, 0xb0, 0, 0x3c, // header
        0, 128, 0, 8, // WSNZ, COMPARE AND WRITE, granularity
        0, 1, 0, 0, // 32 MiB
        0, 0, 0x08, 0, // 1 MiB
        0, 0, 0, 0, // prefetch
        0, 0x10, 0, 0, 0, 0, 1, 0, // UNMAP: blocks, descriptors
        0, 0, 0, 8, 0x80, 0, 0, 0, // granularity, alignment
    ];
    assert_eq!(limits[..36], expected);
    assert_eq!(limits[36..], [0; 28]);
    assert_eq!(
        bench.data(&[0x12, 1, 0xb2, 0, 0xff, 0], &[]),
        [0, 0xb2, 0, 4, 0, 0xe4, 2, 0]
    );
    assert_eq!(
        bench.data(&[0x12, 1, 0xb1, 0, 6, 0], &[]),
        [0, 0xb1, 0, 0x3c, 0, 1]
    );
}

#[test]
fn capacity() {
    let mut bench = Bench::new();
    assert_eq!(bench.data(&[0x25], &[]), [0, 0, 7, 0xff, 0, 0, 2, 0]);
    let long = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0];
    let data = bench.data(&long, &[]);
    assert_eq!(
        data[..16],
        [0, 0, 0, 0, 0, 0, 7, 0xff, 0, 0, 2, 0, 0, 3, 0xc0, 0]
    );
    assert_eq!(data[16..], [0; 16]);
    let huge = Geometry {
        blocks: 1 << 33,
        ..bench.disk.geometry()
    };
    let mut bench = Bench::with(MemoryBackend::new(huge));
    assert_eq!(
        bench.data(&[0x25], &[]),
        [0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0]
    );
    assert_eq!(
        bench.data(&long, &[])[..8],
        [0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]
    );
}

#[test]
fn target_port_groups_with_and_without_the_long_header() {
    let mut bench = Bench::new();
    let groups = [
        [0x00, 0x01, 0, 0x21, 0, 0, 0, 1, 0, 0, 0, 0x11],
        [0x00, 0x01, 0, 0x22, 0, 0, 0, 1, 0, 0, 0, 0x12],
    ]
    .concat();
    let short = bench.data(&[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], &[]);
    assert_eq!(short, [&[0, 0, 0, 24][..], &groups].concat());
    let long = bench.data(&[0xa3, 0x2a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], &[]);
    assert_eq!(long, [&[0, 0, 0, 28, 0x10, 15, 0, 0][..], &groups].concat());
    // A short allocation changes nothing but the length of the answer.
    let cut = bench.data(&[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 13, 0, 0], &[]);
    assert_eq!(cut, short[..13]);
    assert_eq!(
        bench.sense(&[0xa3, 0x4a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], &[]),
        [5, 0x24, 0]
    );
}

#[test]
fn a_new_portal_is_announced() {
    let mut bench = Bench::new();
    bench.array.portals(TARGET, PORTALS.to_vec());
    assert!(bench.is_good(bench.nexus, &[0x00]), "nothing changed");
    bench.array.portals(TARGET, PORTALS[..1].to_vec());
    assert_eq!(bench.sense(&[0x00], &[]), [6, 0x2a, 0x06]);
}

#[test]
fn supported_opcodes() {
    let mut bench = Bench::new();
    let one = |options: u8, opcode: u8, action: u8| {
        [0xa3, 0x0c, options, opcode, 0, action, 0, 0, 1, 0, 0, 0]
    };
    let read = [
        0, 3, 0, 10, 0x28, 0xf8, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0,
    ];
    assert_eq!(bench.data(&one(1, 0x28, 0), &[]), read);
    assert_eq!(bench.data(&one(3, 0x28, 0), &[]), read);
    let capacity = bench.data(&one(2, 0x9e, 0x10), &[]);
    assert_eq!(capacity[..6], [0, 3, 0, 16, 0x9e, 0x10]);
    assert_eq!(bench.data(&one(3, 0x9e, 0x10), &[]), capacity);
    assert_eq!(bench.data(&one(2, 0x9e, 0x1f), &[]), [0, 1, 0, 0]);
    assert_eq!(bench.data(&one(1, 0xcc, 0), &[]), [0, 1, 0, 0]);
    assert_eq!(bench.sense(&one(1, 0x9e, 0x10), &[]), [5, 0x24, 0]);
    assert_eq!(bench.sense(&one(2, 0x28, 0), &[]), [5, 0x24, 0]);
    assert_eq!(bench.sense(&one(4, 0x28, 0), &[]), [5, 0x24, 0]);
    let timed = bench.data(&one(0x81, 0x28, 0), &[]);
    assert_eq!((timed[1], timed.len()), (0x83, read.len() + 12));
    assert_eq!(timed[read.len()..][..2], [0, 10]);
    // Everything that is listed is also found alone.
    let all = bench.data(&[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0], &[]);
    assert_eq!(
        u32::from_be_bytes(all[..4].try_into().unwrap()) as usize,
        all.len() - 4
    );
    for entry in all[4..].chunks(8) {
        let found = bench.data(&one(3, entry[0], entry[3]), &[]);
        assert_eq!((found[1], found[3]), (3, entry[7]), "{entry:02x?}");
    }
}

#[test]
fn request_sense_reports_an_attention_in_its_data() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.data(&[0x03, 0, 0, 0, 0xff, 0], &[])[..3],
        [0x70, 0, 0]
    );
    bench.array.reset(bench.nexus, ResetScope::Unit([0; 8]));
    let sense = bench.data(&[0x03, 0, 0, 0, 0xff, 0], &[]);
    assert_eq!((sense[2], sense[12], sense[13]), (6, 0x29, 3));
    assert_eq!(
        bench.data(&[0x03, 1, 0, 0, 0xff, 0], &[]),
        [0x72, 0, 0, 0, 0, 0, 0, 0]
    );
}

#[test]
fn sense_in_both_layouts() {
    let sense = Sense::miscompare(0x0001_0203);
    let fixed = [
        0xf0, 0, 0x0e, 0, 1, 2, 3, 10, 0, 0, 0, 0, 0x1d, 0, 0, 0, 0, 0,
    ];
    assert_eq!(sense.to_bytes()[..], fixed);
    let descriptor = [
        0x72, 0x0e, 0x1d, 0, 0, 0, 0, 12, 0, 10, 0x80, 0, 0, 0, 0, 0, 0, 1, 2, 3,
    ];
    assert_eq!(
        sense.with_format(SenseFormat::Descriptor).to_bytes()[..],
        descriptor
    );
    // What does not fit into four bytes is left out, and not shortened.
    let far = Sense::miscompare(1 << 32);
    assert_eq!(far.to_bytes()[..7], [0x70, 0, 0x0e, 0, 0, 0, 0]);
}

#[test]
fn task_management_is_reported_as_it_is_answered() {
    let mut bench = Bench::new();
    let report = |options, len| [0xa3, 0x0d, options, 0, 0, 0, 0, 0, 0, len, 0, 0];
    assert_eq!(bench.data(&report(0, 4), &[]), [0xda, 0, 0, 0]);
    let extended = bench.data(&report(0x80, 0xff), &[]);
    assert_eq!(extended[..5], [0xda, 0, 0, 12, 0]);
    assert_eq!(extended.len(), 16);
    assert_eq!(bench.data(&report(0x80, 8), &[]).len(), 8);
    assert_eq!(bench.sense(&report(0, 3), &[]), [5, 0x24, 0]);
}

#[test]
fn lists_of_defects_are_empty_in_the_format_asked_for() {
    let mut bench = Bench::new();
    for lists in [0x00, 0x08, 0x10, 0x1d] {
        let ten = [0x37, 0, lists, 0, 0, 0, 0, 0, 0xff, 0];
        assert_eq!(bench.data(&ten, &[]), [0, lists, 0, 0]);
        let twelve = [0xb7, lists, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0];
        assert_eq!(bench.data(&twelve, &[]), [0, lists, 0, 0, 0, 0, 0, 0]);
    }
    for cdb in [[0x37, 0, 0x06, 0], [0x37, 0, 0x1f, 0], [0xb7, 0x07, 0, 0]] {
        assert_eq!(bench.sense(&cdb, &[]), [5, 0x24, 0]);
    }
}

#[test]
fn log_pages_list_each_other() {
    let mut bench = Bench::new();
    let page = |page, subpage| [0x4d, 0, page, subpage, 0, 0, 0, 0, 0xff, 0];
    assert_eq!(bench.data(&page(0x40, 0), &[]), [0, 0, 0, 2, 0, 0x2f]);
    let pairs = [0x40, 0xff, 0, 6, 0, 0, 0, 0xff, 0x2f, 0];
    assert_eq!(bench.data(&page(0x40, 0xff), &[]), pairs);
    for control in [0x00, 0x40, 0x80, 0xc0] {
        let exceptions = bench.data(&page(control | 0x2f, 0), &[]);
        assert_eq!(exceptions, [0x2f, 0, 0, 8, 0, 0, 3, 4, 0, 0, 0xff, 0]);
    }
    for cdb in [
        page(0x0c, 0),
        page(0x2f, 1),
        page(0x3f, 0xff),
        [0x4d, 1, 0x2f, 0, 0, 0, 0, 0, 0xff, 0],
        [0x4d, 0, 0x2f, 0, 0, 0, 1, 0, 0xff, 0],
    ] {
        assert_eq!(bench.sense(&cdb, &[]), [5, 0x24, 0], "{cdb:02x?}");
    }
}
