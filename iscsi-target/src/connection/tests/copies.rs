//! Copies between units: memory, turns and aborts.

use super::full::NEXT;
use super::*;
use crate::memory::Answers;
use crate::pdu::command::Response;
use crate::pdu::task;

/// Two pieces of a copy, at most one in memory at a time.
const BLOCKS: u16 = 2048 + 512;

/// Sends an EXTENDED COPY of blocks of the only unit onto themselves.
fn copy(table: &mut Table, itt: u32, cmd_sn: u32) -> Vec<Reply> {
    let mut list = vec![0; 16 + 32 + 28];
    (list[0], list[3], list[11]) = (u8::try_from(itt).unwrap(), 32, 28);
    list[16..24].copy_from_slice(&[0xe4, 0, 0, 0, 0x01, 0x03, 0, 8]);
    list[24..32].copy_from_slice(&NAA);
    list[46..48].copy_from_slice(&[2, 0]);
    (list[48], list[51]) = (0x02, 24);
    list[58..60].copy_from_slice(&BLOCKS.to_be_bytes());
    let len = u32::try_from(list.len()).unwrap();
    let mut cdb = [0; 16];
    cdb[0] = 0x83;
    cdb[10..14].copy_from_slice(&len.to_be_bytes());
    let header = Command {
        flags: FINAL | WRITE,
        data_len: Len24::new(list.len()),
        ..command(itt, cmd_sn, cdb, len)
    };
    table.send(&header, &list)
}

/// Carries out what the store holds; what comes of it is held again.
fn next(table: &mut Table) -> Vec<u32> {
    assert_eq!(table.backend.held(), 1, "one request at a time");
    table.backend.release();
    let replies = table.feed(Input::Sent(0));
    let finished = replies.iter().map(|reply| {
        let response: Response = reply.bhs.cast();
        assert_eq!(response.status, 0);
        response.itt.get()
    });
    finished.collect()
}

#[test]
fn the_name_of_the_unit_is_the_one_it_reports() {
    let mut table = Table::logged_in();
    let inquiry = [0x12, 1, 0x83, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let page = table.command((5, NEXT), inquiry, READ, 16);
    assert_eq!(page[0].data[8..], NAA);
}

#[test]
fn copies_take_turns_after_each_piece() {
    let mut table = Table::logged_in();
    table.backend.answer(Answers::Held);
    assert!(copy(&mut table, 1, NEXT).is_empty());
    assert!(copy(&mut table, 2, NEXT + 1).is_empty());
    let order: Vec<Vec<u32>> = (0..8).map(|_| next(&mut table)).collect();
    // A piece of each copy, and the second piece of each.
    let none = Vec::new;
    let expected = [
        none(),
        none(),
        none(),
        none(),
        none(),
        vec![1],
        none(),
        vec![2],
    ];
    assert_eq!(order, expected);
    assert_eq!(table.backend.held(), 0);
}

#[test]
fn a_piece_of_a_copy_waits_for_memory() {
    let limits = Limits {
        budget_bytes: 2 << 20,
        ..Limits::default()
    };
    let mut table = Table::ready(limits, "");
    table.backend.answer(Answers::Held);
    let hog = |table: &mut Table, held_bytes| {
        let idle = false;
        let holding = Holding { held_bytes, idle };
        table.registry.account(ConnectionId(9), holding, None);
    };
    hog(&mut table, 4 << 20);
    // Something small is under way, so that the copy cannot overdraw.
    let small = table.command((5, NEXT), read10(0, 128), READ, 64 << 10);
    assert!(small.is_empty());
    assert!(copy(&mut table, 1, NEXT + 1).is_empty());
    assert_eq!(table.backend.held(), 1, "the read alone");
    hog(&mut table, 0);
    let _ = table.feed(Input::Notice(Notice::Memory));
    assert_eq!(table.backend.held(), 2);
    let used = (1 << 20) + (64 << 10) - (256 << 10);
    assert_eq!(table.registry.budget().used_bytes(), used);
    table.backend.release();
    assert_eq!(table.feed(Input::Sent(0))[0].bhs.itt.get(), 5);
    while table.backend.held() > 0 {
        table.backend.release();
        let _ = table.feed(Input::Sent(0));
    }
    assert_eq!(table.registry.budget().used_bytes(), 0);
}

#[test]
fn an_aborted_copy_stops_after_the_piece_on_its_way() {
    for steps in 0..3 {
        let mut table = Table::logged_in();
        table.backend.answer(Answers::Held);
        assert!(copy(&mut table, 1, NEXT).is_empty());
        for _ in 0..steps {
            assert!(next(&mut table).is_empty());
        }
        let mut abort: task::Request = Bhs::from_wire(&[0; 48]).cast();
        abort.opcode = opcode::TASK_REQUEST | IMMEDIATE;
        abort.flags = FINAL | task::ABORT_TASK;
        abort.itt = 9.into();
        abort.referenced_itt = 1.into();
        assert_eq!(table.send(&abort, &[])[0].bhs.specific[0], 0);
        table.backend.release();
        assert!(table.feed(Input::Sent(0)).is_empty());
        assert_eq!(table.backend.held(), 0);
        // It is forgotten, and the next one has its turn at once.
        assert!(copy(&mut table, 1, NEXT + 1).is_empty());
        assert_eq!(table.backend.held(), 1);
    }
}

/// The name of the unit.
const NAA: [u8; 8] = [0x38, 0xdb, 0x6a, 0x2c, 0xb8, 0xf6, 0x26, 0x4b];
