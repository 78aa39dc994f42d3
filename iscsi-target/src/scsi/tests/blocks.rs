//! Commands on blocks, against literal bytes.

use super::*;
use crate::backend::BackendError;
use crate::memory::Answers;

const READ_10: u8 = 0x28;

#[test]
fn every_size_of_write_is_read_back_by_every_size_of_read() {
    let writes: [&[u8]; 4] = [
        &[0x0a, 0, 0, 5, 2, 0],
        &[0x2a, 0, 0, 0, 0, 5, 0, 0, 2, 0],
        &[0xaa, 0, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0],
        &[0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0],
    ];
    let reads: [&[u8]; 4] = [
        &[0x08, 0, 0, 5, 2, 0],
        &[0x28, 0, 0, 0, 0, 5, 0, 0, 2, 0],
        &[0xa8, 0, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0],
        &[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0],
    ];
    let mut bench = Bench::new();
    for (number, write) in (1..).zip(writes) {
        let data = [number; 1024];
        assert!(bench.data(write, &data).is_empty());
        for read in reads {
            assert_eq!(bench.data(read, &[]), data);
        }
    }
    // The neighbours were left alone.
    assert_eq!(bench.data(&[0x08, 0, 0, 4, 1, 0], &[]), [0; 512]);
    assert_eq!(bench.data(&[0x08, 0, 0, 7, 1, 0], &[]), [0; 512]);
}

#[test]
fn a_count_of_zero_is_256_blocks_in_six_bytes_and_none_elsewhere() {
    let mut bench = Bench::new();
    assert_eq!(bench.data(&[0x08, 0, 0, 0, 0, 0], &[]).len(), 256 * 512);
    assert!(
        bench
            .data(&[READ_10, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[])
            .is_empty()
    );
}

#[test]
fn what_a_cdb_gets_wrong_has_its_own_sense() {
    let beyond = [5, 0x21, 0];
    let field = [5, 0x24, 0];
    let cases: &[(&[u8], [u8; 3])] = &[
        // 2048 blocks: the last one is 0x7ff.
        (&[0x28, 0, 0, 0, 0x07, 0xff, 0, 0, 2, 0], beyond),
        (&[0x28, 0, 0, 0, 0x08, 0x00, 0, 0, 0, 0], beyond),
        (&[0x08, 0, 0x07, 0x01, 0, 0], beyond),
        (&[0x88, 0, F, F, F, F, F, F, F, F, 0, 0, 0, 1, 0, 0], beyond),
        (&[0x88, 0, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0], beyond),
        (&[0x2a, 0, 0, 0, 0x07, 0xff, 0, 0, 2, 0], beyond),
        (&[0x2f, 0, 0, 0, 0x08, 0x00, 0, 0, 1, 0], beyond),
        (&[0x35, 0, 0, 0, 0x08, 0x00, 0, 0, 1, 0], beyond),
        (&[0x34, 0, 0, 0, 0x08, 0x00, 0, 0, 1, 0], beyond),
        (&[0x41, 0, 0, 0, 0x08, 0x00, 0, 0, 1, 0], beyond),
        (
            &[0x89, 0, 0, 0, 0, 0, 0, 0, 0x08, 0, 0, 0, 0, 1, 0, 0],
            beyond,
        ),
        // Protection information.
        (&[0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0], field),
        (&[0x2a, 0x80, 0, 0, 0, 0, 0, 0, 1, 0], field),
        (&[0x2f, 0x40, 0, 0, 0, 0, 0, 0, 1, 0], field),
        (
            &[0x89, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
            field,
        ),
        // BYTCHK 10b, ANCHOR, NACA, CMDDT, a page without EVPD.
        (&[0x2f, 0x04, 0, 0, 0, 0, 0, 0, 1, 0], field),
        (
            &[0x93, 0x18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
            field,
        ),
        (&[0x42, 0x01, 0, 0, 0, 0, 0, 0, 0, 0], field),
        (&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0x04], field),
        (&[0x12, 0x02, 0, 0, 96, 0], field),
        (&[0x12, 0x00, 0x83, 0, 96, 0], field),
        (&[0x12, 0x01, 0xc7, 0, 96, 0], field),
        // More than a command may move, compare or load.
        (&[0xa8, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x01, 0, 0], beyond),
        (
            &[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 129, 0, 0],
            field,
        ),
        (&[0x1b, 0, 0, 0, 0x02, 0], field),
        // MODE SENSE of saved values, of an unknown page; MODE SELECT without PF, with SP.
        (&[0x1a, 0, 0xff, 0, 96, 0], [5, 0x39, 0]),
        (&[0x1a, 0, 0x3e, 0, 96, 0], field),
        (&[0x15, 0x00, 0, 0, 0, 0], field),
        (&[0x15, 0x11, 0, 0, 0, 0], field),
        // No such service action, no such command.
        (&[0x5e, 4, 0, 0, 0, 0, 0, 0, 8, 0], field),
        (&[0x3e, 0, 0, 0, 0, 0], [5, 0x20, 0]),
        (&[0x9e, 0x1f], [5, 0x20, 0]),
        (&[0xff], [5, 0x20, 0]),
    ];
    let mut bench = Bench::new();
    for (cdb, sense) in cases {
        assert_eq!(bench.sense(cdb, &[]), *sense, "{cdb:02x?}");
    }
}

#[test]
fn a_transfer_has_a_limit() {
    let mut bench = Bench::with(MemoryBackend::thin(1 << 20));
    // 32 MiB and one block more; 4 MiB and one block more for what is merged.
    let command = |opcode: u8, blocks: u32| {
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
        cdb
    };
    let data: Vec<u8> = (0..32_u32 << 20)
        .map(|at| (at / 4096).to_le_bytes()[0])
        .collect();
    bench.data(&command(0x8a, 0x1_0000), &data);
    assert!(bench.data(&command(0x88, 0x1_0000), &[]) == data);
    for (opcode, blocks) in [(0x88, 0x1_0001), (0x8a, 0x1_0001), (0x8b, 0x2001)] {
        assert_eq!(bench.sense(&command(opcode, blocks), &[]), [5, 0x24, 0]);
    }
}

#[test]
fn data_that_are_too_short_write_whole_blocks_only() {
    let mut bench = Bench::new();
    let write = [0x2a, 0, 0, 0, 0, 0, 0, 0, 2, 0];
    bench.data(&write, &[1; 1024]);
    bench.data(&write, &[2; 512 + 200]);
    let read = bench.data(&[READ_10, 0, 0, 0, 0, 0, 0, 0, 2, 0], &[]);
    assert_eq!(read, [[2; 512], [1; 512]].concat());
    // Less than one block changes nothing.
    bench.data(&write, &[3; 200]);
    assert_eq!(
        bench.data(&[READ_10, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[]),
        [2; 512]
    );
}

#[test]
fn verify_compares_and_says_where() {
    let mut bench = Bench::new();
    bench.data(&[0x0a, 0, 0, 0, 4, 0], &[7; 2048]);
    let mut data = [7; 2048];
    let verify = |bytchk: u8| [0x2f, bytchk << 1, 0, 0, 0, 0, 0, 0, 4, 0];
    bench.data(&verify(0), &[]);
    bench.data(&verify(1), &data);
    bench.data(&verify(3), &data[..512]);
    data[1500] = 8;
    let reply = bench.run(&verify(1), &data);
    assert_eq!(sense_of(&reply), [0xe, 0x1d, 0]);
    assert_eq!(reply.sense.unwrap().information, Some(1500));
    bench.data(&[0x0a, 0, 0, 2, 1, 0], &[9; 512]);
    let reply = bench.run(&verify(3), &data[..512]);
    assert_eq!(reply.sense.unwrap().information, Some(1024));
    // WRITE AND VERIFY has no 11b.
    assert_eq!(
        bench.sense(&[0x2e, 0x06, 0, 0, 0, 0, 0, 0, 4, 0], &data),
        [5, 0x24, 0]
    );
    for bytchk in [0, 2] {
        bench.data(&[0x2e, bytchk, 0, 0, 0, 0, 0, 0, 4, 0], &data);
        assert_eq!(bench.data(&[0x08, 0, 0, 0, 4, 0], &[]), data);
    }
}

#[test]
fn a_verification_goes_on_past_what_is_read_at_once() {
    let mut bench = Bench::with(MemoryBackend::thin(8192));
    bench.data(&[0x0a, 0, 0x0b, 0xb8, 1, 0], &[1; 512]); // block 3000
    let verify = [0x2f, 0x06, 0, 0, 0, 0, 0, 0x10, 0, 0]; // 4096 blocks
    let reply = bench.run(&verify, &[0; 512]);
    assert_eq!(reply.sense.unwrap().information, Some(3000 * 512));
}

#[test]
fn compare_and_write_changes_all_or_nothing() {
    let mut bench = Bench::new();
    let cdb = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0];
    let [old, new] = [[0; 1024], [5; 1024]];
    bench.data(&cdb, &[old, new].concat());
    assert_eq!(bench.data(&[0x08, 0, 0, 3, 2, 0], &[]), new);
    let reply = bench.run(&cdb, &[old, [6; 1024]].concat());
    assert_eq!(sense_of(&reply), [0xe, 0x1d, 0]);
    assert_eq!(reply.sense.unwrap().information, Some(0));
    let mut nearly = new;
    nearly[700] = 0;
    let reply = bench.run(&cdb, &[nearly, [6; 1024]].concat());
    let sense = reply.sense.unwrap().to_bytes();
    // VALID, MISCOMPARE, offset 700.
    assert_eq!(sense[..8], [0xf0, 0, 0x0e, 0, 0, 0x02, 0xbc, 10]);
    assert_eq!(bench.data(&[0x08, 0, 0, 3, 2, 0], &[]), new);
    assert_eq!(bench.sense(&cdb, &new), [5, 0x24, 0]);
    // Other data than twice the blocks are refused before anything is compared.
    let one = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0];
    assert_eq!(bench.sense(&one, &[5; 2048]), [5, 0x24, 0]);
    let none = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0];
    assert_eq!(bench.sense(&none, &[5; 512]), [5, 0x24, 0]);
    // No blocks: nothing is compared.
    bench.data(&[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0], &[]);
}

#[test]
fn write_same_repeats_zeroes_and_runs_to_the_end() {
    let mut bench = Bench::new();
    bench.data(&[0x41, 0, 0, 0, 0x07, 0xf0, 0, 0, 4, 0], &[9; 512]);
    assert_eq!(bench.disk.allocated_blocks(), 4);
    assert_eq!(
        bench.data(&[0x08, 0, 0x07, 0xf0, 5, 0], &[])[..2048],
        [9; 2048]
    );
    // Zero blocks: to the end of the medium.
    bench.data(&[0x41, 0, 0, 0, 0x07, 0xf0, 0, 0, 0, 0], &[8; 512]);
    assert_eq!(bench.disk.allocated_blocks(), 16);
    // UNMAP with zeroes gives the blocks back; NDOB needs no data.
    bench.data(&[0x41, 0x08, 0, 0, 0x07, 0xf0, 0, 0, 4, 0], &[0; 512]);
    assert_eq!(bench.disk.allocated_blocks(), 12);
    bench.data(
        &[0x93, 0x09, 0, 0, 0, 0, 0, 0, 0x07, 0xf4, 0, 0, 0, 4, 0, 0],
        &[],
    );
    assert_eq!(bench.disk.allocated_blocks(), 8);
    // UNMAP does not look at the data.
    bench.data(&[0x41, 0x08, 0, 0, 0x07, 0xf8, 0, 0, 1, 0], &[1; 512]);
    assert_eq!(bench.data(&[0x08, 0, 0x07, 0xf8, 1, 0], &[]), [0; 512]);
    // Other than one block of data; NDOB in the short form.
    for data in [&[0; 256][..], &[0; 1024]] {
        assert_eq!(
            bench.sense(&[0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0], data),
            [5, 0x24, 0]
        );
    }
    assert_eq!(
        bench.sense(&[0x41, 0x01, 0, 0, 0, 0, 0, 0, 1, 0], &[]),
        [5, 0x24, 0]
    );
}

fn unmap_list(descriptors: &[(u64, u32)]) -> Vec<u8> {
    let len = u16::try_from(descriptors.len() * 16).unwrap();
    let mut list = [(len + 6).to_be_bytes(), len.to_be_bytes(), [0; 2], [0; 2]].concat();
    for (lba, blocks) in descriptors {
        list.extend(lba.to_be_bytes());
        list.extend(blocks.to_be_bytes());
        list.extend([0; 4]);
    }
    list
}

#[test]
fn or_write_sets_bits_and_gives_way_to_other_writers() {
    let mut bench = Bench::new();
    let cdb = padded(&[0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0]);
    bench.data(&[0x0a, 0, 0, 3, 2, 0], &[0x81; 1024]);
    bench.data(&cdb, &[0x18; 1024]);
    assert_eq!(bench.data(&[0x08, 0, 0, 3, 2, 0], &[]), [0x99; 1024]);
    // Somebody writes between the read and the write.
    let Start::Run(mut execution) = bench.array.start(bench.nexus, [0; 8], cdb, 1024) else {
        panic!("it takes data")
    };
    let mut step = execution.run(&mut bench.array, Bytes::from_static(&[0x06; 1024]));
    let queue = CompletionQueue::new();
    let mut requests = 0;
    while let Step::Io { backend, request } = step {
        if requests == 1 {
            bench.data(&[0x0a, 0, 0, 4, 1, 0], &[0x40; 512]);
        }
        requests += 1;
        backend.submit(request, queue.completion(Tag(0)));
        step = execution.done(&mut bench.array, queue.pop().unwrap().1);
    }
    assert_eq!(requests, 4);
    let expected = [[0x9f; 512], [0x46; 512]].concat();
    assert_eq!(bench.data(&[0x08, 0, 0, 3, 2, 0], &[]), expected);
}

#[test]
fn lba_status_tells_blocks_that_read_zero() {
    let mut bench = Bench::new();
    bench.data(&[0x0a, 0, 0, 16, 24, 0], &[1; 24 * 512]);
    let mut status = |lba: u8, allocation: u8| {
        let cdb = [
            0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, allocation, 0, 0,
        ];
        bench.data(&cdb, &[])
    };
    let descriptor = |lba: u8, [high, low]: [u8; 2], status: u8| {
        [0, 0, 0, 0, 0, 0, 0, lba, 0, 0, high, low, status, 0, 0, 0]
    };
    let one = status(20, 24);
    assert_eq!(one[..8], [0, 0, 0, 20, 0, 0, 0, 0]);
    assert_eq!(one[8..], descriptor(20, [0, 20], 0));
    let three = [
        descriptor(3, [0, 13], 1),
        descriptor(16, [0, 24], 0),
        descriptor(40, [0x07, 0xd8], 1),
    ];
    assert_eq!(status(3, 255)[8..], three.concat());
    // A block of zeroes within a physical block is mapped; a shorter answer is the same, cut.
    bench.data(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &unmap_list(&[(17, 3)]));
    let cdb = [0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 20, 0, 0];
    assert_eq!(bench.data(&cdb, &[])[8..], descriptor(16, [0, 24], 0)[..12]);
}

#[test]
fn unmap_gives_back_all_or_nothing() {
    let mut bench = Bench::new();
    bench.data(&[0x0a, 0, 0, 0, 16, 0], &[1; 16 * 512]);
    let mut unmap = |list: &[u8]| {
        let [high, low] = u16::try_from(list.len()).unwrap().to_be_bytes();
        let reply = bench.run(&[0x42, 0, 0, 0, 0, 0, 0, high, low, 0], list);
        let sense = reply.sense.map(|_| sense_of(&reply));
        (sense, bench.disk.allocated_blocks())
    };
    assert_eq!(unmap(&[]), (None, 16));
    assert_eq!(unmap(&unmap_list(&[])), (None, 16));
    assert_eq!(unmap(&unmap_list(&[(2, 4), (10, 1)])), (None, 11));
    // No blocks anywhere are no error.
    assert_eq!(unmap(&unmap_list(&[(u64::MAX, 0), (0, 1)])), (None, 10));
    assert_eq!(
        unmap(&unmap_list(&[(1, 1), (2047, 2)])),
        (Some([5, 0x21, 0]), 10)
    );
    assert_eq!(
        unmap(&unmap_list(&[(0, (1 << 20) + 1)])),
        (Some([5, 0x26, 0]), 10)
    );
    assert_eq!(unmap(&unmap_list(&[(0, 1); 257])), (Some([5, 0x26, 0]), 10));
    assert_eq!(unmap(&unmap_list(&[(1, 1)])[..7]), (Some([5, 0x1a, 0]), 10));
    assert_eq!(
        unmap(&unmap_list(&[(1, 1)])[..20]),
        (Some([5, 0x1a, 0]), 10)
    );
    // A last descriptor that is not whole is ignored.
    let mut list = unmap_list(&[(1, 1)]);
    list[3] += 8;
    list.extend([0; 8]);
    assert_eq!(unmap(&list), (None, 9));
}

#[test]
fn a_full_unit_cannot_unmap() {
    let thin = MemoryBackend::thin(2048).geometry();
    let mut bench = Bench::with(MemoryBackend::new(Geometry {
        thin: false,
        ..thin
    }));
    assert_eq!(
        bench.sense(&[0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]),
        [5, 0x20, 0]
    );
    assert_eq!(
        bench.sense(&[0x41, 0x08, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 512]),
        [5, 0x24, 0]
    );
    let limits = bench.data(&[0x12, 1, 0xb0, 0, 0xff, 0], &[]);
    assert_eq!(limits[20..36], [0; 16]);
    assert_eq!(
        bench.data(&[0x12, 1, 0xb2, 0, 0xff, 0], &[]),
        [0, 0xb2, 0, 4, 0, 0, 0, 0]
    );
}

#[test]
fn a_read_only_unit_refuses_changes_before_it_looks_at_their_fields() {
    let mut bench = Bench::new();
    bench
        .array
        .apply(config(&bench.disk, Access::ReadOnly))
        .unwrap();
    assert_eq!(bench.sense(&[0x00], &[]), [6, 0x3f, 0x0e]);
    let changes = [
        0x0a, 0x2a, 0xaa, 0x8a, 0x8b, 0x2e, 0xae, 0x8e, 0x41, 0x93, 0x42, 0x89,
    ];
    for opcode in changes {
        let mut cdb = [0xff; 16];
        (cdb[0], cdb[5], cdb[9], cdb[11], cdb[15]) = (opcode, 0, 0, 0, 0);
        assert_eq!(bench.sense(&cdb, &[]), [7, 0x27, 0], "{opcode:02x}");
    }
    assert_eq!(bench.data(&[0x08, 0, 0, 0, 1, 0], &[]), [0; 512]);
    // WP and DPOFUA.
    assert_eq!(bench.data(&[0x1a, 0x08, 0x0a, 0, 96, 0], &[])[2], 0x90);
}

#[test]
fn errors_of_the_backend_become_sense_in_one_way() {
    let read: (&[u8], &[u8]) = (&[0x08, 0, 0, 0, 1, 0], &[]);
    let write: (&[u8], &[u8]) = (&[0x0a, 0, 0, 0, 1, 0], &[1; 512]);
    let flush: (&[u8], &[u8]) = (&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
    let capacity: (&[u8], &[u8]) = (&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
    let cases = [
        (BackendError::Medium, read, Some([3, 0x11, 0])),
        (BackendError::Medium, write, Some([3, 0x0c, 0])),
        (BackendError::Hardware, read, Some([4, 0x44, 0])),
        (BackendError::Hardware, capacity, Some([4, 0x44, 0])),
        (BackendError::NoSpace, write, Some([7, 0x27, 7])),
        (BackendError::Overloaded, write, Some([0xb, 0x55, 3])),
        (BackendError::NotActive, read, None),
        (BackendError::NotActive, write, None),
        (BackendError::NotActive, flush, None),
        (BackendError::NotActive, capacity, None),
    ];
    let mut bench = Bench::new();
    for (error, (cdb, data), expected) in cases {
        bench.disk.answer(Answers::With(error));
        let reply = bench.try_run(bench.nexus, 0, cdb, data);
        assert_eq!(
            reply.as_ref().map(sense_of),
            expected,
            "{error:?} {cdb:02x?}"
        );
    }
}

/// Law D5.
#[test]
fn a_lost_cache_fails_the_next_flush_of_each_initiator_once() {
    let mut bench = Bench::new();
    let second = bench.log_in(SECOND);
    let (flush, forced) = ([0x35], [0x2a, 0x08, 0, 0, 0, 0, 0, 0, 1]);
    let both = [FIRST.to_owned(), SECOND.to_owned()];
    bench.array.lose_cache(DISK, &both);
    assert!(
        bench.is_good(bench.nexus, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1]),
        "reads go on"
    );
    bench.data(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1], &[7; 512]);
    assert_eq!(bench.sense(&forced, &[7; 512]), [4, 0x44, 0]);
    bench.data(&forced, &[7; 512]);
    bench.data(&flush, &[]);
    assert!(
        bench.array.cache_losses_told().is_empty(),
        "it may be lost on its way"
    );
    bench.array.cache_loss_heard(bench.nexus, DISK);
    assert_eq!(bench.array.cache_losses_told(), [(DISK, FIRST.to_owned())]);
    assert_eq!(bench.sense_of(second, 0, &flush), [4, 0x44, 0]);
    assert!(bench.is_good(second, &flush));
    bench.array.cache_loss_heard(second, DISK);
    assert_eq!(bench.array.cache_losses_told(), [(DISK, SECOND.to_owned())]);
    assert!(bench.is_good(bench.nexus, &flush));
}

/// Law D5: a status that nobody acknowledged has told nobody.
#[test]
fn a_lost_cache_is_told_again_on_the_next_nexus() {
    let mut bench = Bench::new();
    let flush = [0x35];
    bench.array.lose_cache(DISK, &[FIRST.to_owned()]);
    assert_eq!(bench.sense(&flush, &[]), [4, 0x44, 0]);
    bench.array.close(bench.nexus);
    bench.array.cache_loss_heard(bench.nexus, DISK);
    bench.nexus = bench.log_in(FIRST);
    assert_eq!(bench.sense(&flush, &[]), [4, 0x44, 0]);
    bench.array.cache_loss_heard(bench.nexus, DISK);
    bench.array.close(bench.nexus);
    bench.nexus = bench.log_in(FIRST);
    bench.data(&flush, &[]);
}

/// Law R5: also that an address is out of range depends on replicated state.
#[test]
fn answers_from_replicated_state_wait_for_the_backend() {
    let mut bench = Bench::new();
    let waiting: [&[u8]; 8] = [
        &[0x25],
        &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32],
        &[0x28, 0, 0, 0, 0xff, 0, 0, 0, 1, 0],
        &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        &[0x2f, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        &[0x35],
        &[0x34],
        &[0x93, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
    ];
    for cdb in waiting {
        let start = bench.array.start(bench.nexus, [0; 8], padded(cdb), 0);
        let Start::Run(mut execution) = start else {
            panic!("{cdb:02x?} was answered at once")
        };
        let step = execution.run(&mut bench.array, Bytes::new());
        assert!(matches!(step, Step::Io { .. }), "{cdb:02x?}");
        let step = execution.done(&mut bench.array, Err(BackendError::NotActive));
        assert!(matches!(step, Step::Drop), "{cdb:02x?}");
    }
}

#[test]
fn the_wrong_outcome_is_a_hardware_error() {
    use crate::backend::Done;
    let mut bench = Bench::new();
    let outcomes = [
        Done::Ok,
        Done::Data(Bytes::from_static(&[0; 511])),
        Done::Miscompare { offset_bytes: 0 },
    ];
    for outcome in outcomes {
        let read = padded(&[0x08, 0, 0, 0, 1, 0]);
        let Start::Run(mut execution) = bench.array.start(bench.nexus, [0; 8], read, 0) else {
            panic!("a read needs the backend")
        };
        execution.run(&mut bench.array, Bytes::new());
        let Step::Done(reply) = execution.done(&mut bench.array, Ok(outcome)) else {
            panic!("the read is over")
        };
        assert_eq!(sense_of(&reply), [4, 0x44, 0]);
    }
}

#[test]
fn growing_is_announced_once_to_each_initiator() {
    let mut bench = Bench::new();
    let second = bench.log_in(SECOND);
    bench.disk.resize(4096);
    assert_eq!(bench.sense(&[0x00], &[]), [6, 0x2a, 0x09]);
    assert_eq!(bench.data(&[0x25], &[]), [0, 0, 0x0f, 0xff, 0, 0, 2, 0]);
    assert_eq!(bench.sense_of(second, 0, &[0x00]), [6, 0x2a, 0x09]);
    assert!(bench.is_good(second, &[0x00]) && bench.is_good(bench.nexus, &[0x00]));
}

#[test]
fn a_removable_medium_stays_while_anybody_prevents_its_removal() {
    let mut bench = Bench::new();
    let disk = Rc::clone(&bench.disk);
    let second = bench.log_in(SECOND);
    let mut removable = config(&disk, Access::ReadWrite);
    removable.units[0].medium = Medium::Removable;
    bench.array.apply(removable).unwrap();
    let [eject, load] = [[0x1b, 0, 0, 0, 0x02, 0], [0x1b, 0, 0, 0, 0x03, 0]];
    let [allow, prevent] = [[0x1e, 0, 0, 0, 0, 0], [0x1e, 0, 0, 0, 1, 0]];
    let (prevented, absent) = ([5, 0x53, 0x02], [2, 0x3a, 0x00]);
    assert_eq!(bench.data(&[0x12, 0, 0, 0, 2, 0], &[]), [0, 0x80]);
    bench.data(&prevent, &[]);
    assert_eq!(bench.sense_of(second, 0, &eject), prevented);
    assert_eq!(bench.sense(&eject, &[]), prevented);
    bench.data(&allow, &[]);
    bench.data(&eject, &[]);
    for cdb in [[0x00].as_slice(), &[0x25], &[0x08, 0, 0, 0, 1, 0], &[0x35]] {
        assert_eq!(bench.sense(cdb, &[]), absent);
    }
    bench.data(&load, &[]);
    assert!(bench.is_good(bench.nexus, &[0x00]));
    assert_eq!(bench.sense_of(second, 0, &[0x00]), [6, 0x28, 0]);
    // It ends with the nexus and with a reset.
    assert!(bench.is_good(second, &prevent));
    assert_eq!(bench.sense(&eject, &[]), prevented);
    bench.array.close(second);
    bench.data(&eject, &[]);
    bench.data(&prevent, &[]);
    assert_eq!(bench.sense(&load, &[]), prevented);
    bench.array.reset(bench.nexus, ResetScope::Unit([0; 8]));
    assert_eq!(bench.sense(&[0x00], &[]), [6, 0x29, 0x03]);
    bench.data(&load, &[]);
}

const F: u8 = 0xff;
