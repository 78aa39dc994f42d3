//! What nobody foresaw: any CDB with any data ends, without a panic and within its bounds.

use proptest::prelude::*;

use super::*;

/// How many bytes of data an answer to this CDB may have, at most.
fn allocation(cdb: &[u8; 16]) -> usize {
    let be16 = |at: usize| usize::from(u16::from_be_bytes([cdb[at], cdb[at + 1]]));
    let be32 = |at: usize| (be16(at) << 16) + be16(at + 2);
    match cdb[0] {
        0x03 | 0x1a => cdb[4].into(),
        0x12 => be16(3),
        0x37 | 0x4d | 0x5a | 0x5e => be16(7),
        0xa0 | 0xa3 | 0xb7 => be32(6),
        0x84 | 0x9e => be32(10),
        0x25 => 8,
        0x08 if cdb[4] == 0 => 256 * 512,
        0x08 => usize::from(cdb[4]) * 512,
        0x28 => be16(7) * 512,
        0x88 => be32(10).saturating_mul(512),
        0xa8 => be32(6).saturating_mul(512),
        _ => 0,
    }
}

fn cdbs() -> impl Strategy<Value = [u8; 16]> {
    let known = prop::sample::select(vec![
        0x00, 0x03, 0x08, 0x0a, 0x12, 0x15, 0x16, 0x17, 0x1a, 0x1b, 0x25, 0x28, 0x2a, 0x2e, 0x2f,
        0x34, 0x35, 0x37, 0x41, 0x42, 0x4d, 0x55, 0x56, 0x57, 0x5a, 0x5e, 0x5f, 0x83, 0x84, 0x88,
        0x89, 0x8a, 0x8b, 0x8e, 0x8f, 0x90, 0x91, 0x93, 0x9e, 0xa0, 0xa3, 0xa8, 0xaa, 0xae, 0xaf,
        0xb7,
    ]);
    let opcode = prop_oneof![4 => known, 1 => any::<u8>()];
    // Mostly zero, so that addresses and counts are often in range.
    let byte = prop_oneof![3 => Just(0_u8), 1 => 0..16_u8, 1 => any::<u8>()];
    let byte_1 = prop_oneof![Just(0_u8), Just(0x10), Just(0x0c), Just(0x0a), any::<u8>()];
    (opcode, byte_1, prop::array::uniform14(byte)).prop_map(|(opcode, byte_1, rest)| {
        let mut cdb = [0; 16];
        (cdb[0], cdb[1]) = (opcode, byte_1);
        cdb[2..].copy_from_slice(&rest);
        cdb
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn every_command_ends_within_its_bounds(
        cdb in cdbs(),
        data in prop::collection::vec(prop_oneof![2 => Just(0_u8), 1 => any::<u8>()], 0..1100),
        lun in 0..2_u8,
    ) {
        let mut bench = Bench::new();
        let reply = bench.run_as(bench.nexus, lun, &cdb, &data);
        let len: usize = reply.data_in.iter().map(Bytes::len).sum();
        prop_assert!(len <= allocation(&cdb), "{len} bytes for {cdb:02x?}");
        prop_assert_eq!(reply.sense.is_some(), reply.status == Status::CheckCondition);
        prop_assert!(reply.status == Status::Good || len == 0);
    }

    #[test]
    fn every_list_of_mode_pages_ends(
        list in prop::collection::vec(
            prop_oneof![Just(0_u8), Just(0x0a), Just(0x08), any::<u8>()],
            0..64,
        ),
        long in any::<bool>(),
    ) {
        let mut bench = Bench::new();
        let len = u8::try_from(list.len()).unwrap();
        let reply = if long {
            bench.run(&[0x55, 0x10, 0, 0, 0, 0, 0, 0, len, 0], &list)
        } else {
            bench.run(&[0x15, 0x10, 0, 0, len, 0], &list)
        };
        prop_assert!(reply.data_in.is_empty());
    }

    #[test]
    fn every_list_to_unmap_ends(list in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut bench = Bench::new();
        let [high, low] = u16::try_from(list.len()).unwrap().to_be_bytes();
        let reply = bench.run(&[0x42, 0, 0, 0, 0, 0, 0, high, low, 0], &list);
        prop_assert!(reply.data_in.is_empty());
    }
}
