//! Memory is bounded in all, and nobody is stuck for it.

use super::*;
use crate::backend::LeftBytes;
use crate::budget::RESERVE_BYTES;
use crate::memory::Answers;
use crate::pdu::async_event::AsyncMessage;
use crate::pdu::command::Response;
use crate::pdu::data::{DataIn, DataOut};
use crate::pdu::r2t::R2t;
use crate::pdu::reject::Reject;
use crate::pdu::{logout, task};

const NEXT: u32 = FIRST + 1;
const MIB: usize = 1 << 20;

/// A table whose sessions share one MiB beside their reserves. Another connection, number 9, has
/// taken all of it.
fn short() -> Table {
    let limits = Limits {
        budget_bytes: MIB,
        ..Limits::default()
    };
    let keys = "InitialR2T=No\0FirstBurstLength=262144\0MaxBurstLength=1048576\0";
    let mut table = Table::ready(limits, keys);
    hog(&mut table, RESERVE_BYTES + MIB);
    table
}

/// What connection number 9 holds from now on.
fn hog(table: &mut Table, held_bytes: usize) {
    let holding = Holding {
        held_bytes,
        idle: false,
    };
    table.registry.account(ConnectionId(9), holding, None);
}

fn mail(table: &mut Table) -> Vec<(ConnectionId, Notice)> {
    std::iter::from_fn(|| table.registry.next_mail()).collect()
}

/// WRITE (10) of up to 2048 blocks.
fn write(lba: u8, blocks: u16) -> [u8; 16] {
    let mut cdb = write10(lba, 0);
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

fn read(blocks: u16) -> [u8; 16] {
    let mut cdb = read10(0, 0);
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

fn announced(itt: u32, cmd_sn: u32, blocks: u16) -> Command {
    Command {
        flags: FINAL | WRITE,
        ..command(itt, cmd_sn, write(0, blocks), u32::from(blocks) * 512)
    }
}

fn is(reply: &Reply, operation: u8) -> bool {
    reply.bhs.opcode == operation
}

#[test]
fn a_large_command_overdraws_alone_and_the_next_one_waits() {
    let mut table = short();
    let first = table.send(&announced(1, NEXT, 2048), &[]);
    assert!(
        is(&first[0], opcode::R2T),
        "nobody else holds more than the budget"
    );
    let second = table.send(&announced(2, NEXT + 1, 2048), &[]);
    assert!(second.is_empty(), "it waits");
    assert!(table.registry.budget().is_short());
    assert_eq!(
        table.registry.budget().used_bytes(),
        2 * MIB - RESERVE_BYTES
    );
    // The first one goes on although there is no memory, and when it is done the second follows.
    let ttt = first[0].bhs.cast::<R2t>().ttt.get();
    let mut sent = 0;
    let mut replies = Vec::new();
    while sent < MIB {
        let mut data: DataOut = Bhs::from_wire(&[0; 48]).cast();
        data.opcode = opcode::DATA_OUT;
        data.flags = if sent + RESERVE_BYTES == MIB {
            FINAL
        } else {
            0
        };
        data.data_len = Len24::new(RESERVE_BYTES);
        data.itt = 1.into();
        data.ttt = ttt.into();
        data.data_sn = u32::try_from(sent / RESERVE_BYTES).unwrap().into();
        data.offset_bytes = u32::try_from(sent).unwrap().into();
        replies.extend(table.send(&data, &vec![7; RESERVE_BYTES]));
        sent += RESERVE_BYTES;
    }
    assert!(is(&replies[0], opcode::RESPONSE));
    assert_eq!(replies[0].bhs.cast::<Response>().status, 0);
    replies.extend(table.feed(Input::Sent(0)));
    assert!(is(&replies[1], opcode::R2T) && replies[1].bhs.itt.get() == 2);
    assert!(!table.registry.budget().is_short());
}

/// A table whose one session has something small under way, so that it cannot overdraw, and a large
/// read that waits for memory.
fn waiting() -> Table {
    let mut table = short();
    table.backend.answer(Answers::Held);
    assert!(table.command((1, NEXT), read10(0, 1), READ, 512).is_empty());
    let large = u32::try_from(MIB).unwrap();
    assert!(
        table
            .command((2, NEXT + 1), read(2048), READ, large)
            .is_empty()
    );
    table
}

#[test]
fn who_waits_goes_on_when_others_give_back() {
    let mut table = waiting();
    assert_eq!(table.backend.held(), 1, "the large read waits");
    assert_eq!(mail(&mut table), []);
    hog(&mut table, 0);
    assert_eq!(mail(&mut table), [(ConnectionId(1), Notice::Memory)]);
    let _ = table.feed(Input::Notice(Notice::Memory));
    assert_eq!(table.backend.held(), 2);
    assert!(!table.registry.budget().is_short());
}

#[test]
fn small_commands_go_on_when_there_is_no_memory() {
    let mut table = short();
    for n in 0..20 {
        let reply = table.command((n, NEXT + n), read10(0, 8), READ, 4096);
        assert!(is(&reply[0], opcode::DATA_IN));
        assert_eq!(reply[0].bhs.cast::<DataIn>().status, 0);
    }
}

#[test]
fn data_that_nobody_asked_for_are_refused_as_a_last_resort() {
    let mut table = short();
    table.backend.answer(Answers::Held);
    assert!(table.command((1, NEXT), read10(0, 1), READ, 512).is_empty());
    let immediate = |itt: u32| Command {
        data_len: Len24::new(200 * 1024),
        ..announced(itt, NEXT + itt - 1, 2048)
    };
    // The first fits the reserve; the second would not, nor does its Data-Out that follows.
    assert!(table.send(&immediate(2), &[1; 200 * 1024]).is_empty());
    let unended = Command {
        flags: WRITE,
        ..immediate(3)
    };
    assert!(table.send(&unended, &[1; 200 * 1024]).is_empty());
    let mut last: DataOut = Bhs::from_wire(&[0; 48]).cast();
    last.opcode = opcode::DATA_OUT;
    last.flags = FINAL;
    last.data_len = Len24::new(1024);
    last.itt = 3.into();
    last.ttt = Ttt::NONE.0.into();
    last.offset_bytes = (200 * 1024).into();
    let reply = table.send(&last, &[1; 1024]);
    assert_eq!(
        reply[0].bhs.cast::<Response>().status,
        0x28,
        "TASK SET FULL"
    );
    assert_eq!((table.closed, reply.len()), (None, 1));
    let used = table.registry.budget().used_bytes();
    assert_eq!(used, MIB, "no more than there is");
}

#[test]
fn requests_before_their_turn_are_bounded() {
    let mut table = short();
    let early = |n: u32| Command {
        data_len: Len24::new(200 * 1024),
        ..announced(n, NEXT + n, 2048)
    };
    assert!(table.send(&early(1), &[1; 200 * 1024]).is_empty());
    let reply = table.send(&early(2), &[1; 200 * 1024]);
    assert_eq!(reply[0].bhs.cast::<Reject>().reason, 0x0a);
    assert_eq!(
        table.closed,
        Some((CloseReason::Protocol, Manner::AfterSending))
    );
    assert_eq!(
        table.registry.budget().used_bytes(),
        MIB,
        "nothing is left of it"
    );
}

#[test]
fn the_window_closes_while_memory_is_short_and_never_moves_back() {
    let mut table = waiting();
    let promised = FIRST + WINDOW_DEPTH;
    let ping = |table: &mut Table, cmd_sn: u32| {
        let reply = table.send(&nop_out(77, Ttt::NONE.0, cmd_sn, 0, 0), &[]);
        reply[0].bhs.cast::<DataIn>().max_cmd_sn.get()
    };
    for n in 0..100 {
        assert_eq!(
            ping(&mut table, NEXT + 2 + n),
            promised,
            "neither back nor forward"
        );
    }
    hog(&mut table, 0);
    let _ = table.feed(Input::Notice(Notice::Memory));
    // Two are unfinished; everything else is open again.
    let number = NEXT + 102;
    assert_eq!(ping(&mut table, number), number + WINDOW_DEPTH - 2);
}

#[test]
fn a_peer_that_does_not_read_is_not_listened_to_when_memory_is_short() {
    let mut table = short();
    let mut wire = Vec::new();
    for itt in 0..4 {
        let nop = nop_out(itt, Ttt::NONE.0, NEXT, IMMEDIATE, 8192);
        wire.extend_from_slice(&nop.bhs().to_wire());
        wire.extend_from_slice(&[5; 8192]);
    }
    // Nothing of the answers is taken.
    let mut repeats = 0;
    while table.connection.wants_input() {
        table.handle(Input::Received(&mut BytesMut::from(&wire[..])));
        repeats += 1;
        if repeats == 2 {
            let large = announced(50, NEXT, 2048);
            let mut bytes = BytesMut::from(&large.bhs().to_wire()[..]);
            table.handle(Input::Received(&mut bytes));
        }
    }
    let queued = table.connection.outbox().len_bytes();
    assert!(
        (RESERVE_BYTES..2 * RESERVE_BYTES).contains(&queued),
        "{queued}"
    );
    // Once it reads it is heard again.
    let _ = table.feed(Input::Sent(0));
    assert!(table.connection.wants_input());
}

/// It answers questions, and never sends the data that it was asked for.
#[test]
fn who_keeps_memory_that_others_wait_for_and_sends_no_data_is_dropped() {
    for is_short in [true, false] {
        let limits = Limits {
            budget_bytes: MIB,
            ..Limits::default()
        };
        let mut table = Table::ready(limits, "");
        let asked = table.send(&announced(1, NEXT, 2048), &[]);
        assert!(is(&asked[0], opcode::R2T));
        let other = Holding {
            held_bytes: 0,
            idle: true,
        };
        let waits = is_short.then_some(2 * MIB);
        table.registry.account(ConnectionId(9), other, waits);
        let end = table.now.after_ms(STALL_MS + PING_AFTER_MS);
        while table.now < end && table.closed.is_none() {
            for question in table.wait(PING_AFTER_MS / 3) {
                let ttt = question.bhs.cast::<R2t>().ttt.get();
                let answer = nop_out(Itt::NONE.0, ttt, NEXT + 1, IMMEDIATE, 0);
                assert!(table.send(&answer, &[]).is_empty());
            }
        }
        let stalled = (CloseReason::Unresponsive, Manner::Reset);
        assert_eq!(table.closed, is_short.then_some(stalled));
    }
}

#[test]
fn a_closed_session_gives_everything_back() {
    let limits = Limits {
        budget_bytes: 8 * MIB,
        ..Limits::default()
    };
    let mut table = Table::ready(limits, "");
    for n in 0..4 {
        assert!(is(
            &table.send(&announced(n, NEXT + n, 2048), &[])[0],
            opcode::R2T
        ));
    }
    assert_eq!(
        table.registry.budget().used_bytes(),
        4 * MIB - RESERVE_BYTES
    );
    let told = table.feed(Input::Notice(Notice::Drop(DropReason::Operator)));
    assert_eq!(told[0].bhs.cast::<AsyncMessage>().event, 3);
    assert_eq!(table.registry.budget().used_bytes(), 0);
}

/// An answer is due; the network takes a little now and then. That is no sign of life.
#[test]
fn a_trickle_does_not_keep_a_silent_session() {
    let mut table = Table::logged_in();
    let large = u32::try_from(MIB).unwrap();
    let mut header = command(5, NEXT, read(2048), large);
    header.flags = FINAL | READ;
    table.handle(Input::Received(&mut BytesMut::from(
        &header.bhs().to_wire()[..],
    )));
    while let Some((tag, outcome)) = table.queue.pop() {
        table.handle(Input::Done(tag, outcome));
    }
    assert!(table.connection.outbox().len_bytes() > MIB);
    table.now = table.now.after_ms(PING_AFTER_MS);
    table.handle(Input::Timeout);
    while table.closed.is_none() {
        table.now = table.now.after_ms(500);
        table.handle(Input::Sent(1000));
        table.handle(Input::Timeout);
    }
    let silent = Some((CloseReason::Unresponsive, Manner::Reset));
    assert_eq!(table.closed, silent);
    assert_eq!(
        table.now,
        Time(0).after_ms(PING_AFTER_MS + ANSWER_WITHIN_MS)
    );
}

#[test]
fn a_stranger_that_does_not_read_is_not_listened_to() {
    let mut table = Table::new();
    let first = login_request(0x00, NAMES.len()).bhs().to_wire();
    let mut wire = BytesMut::from(&first[..]);
    wire.extend_from_slice(NAMES.as_bytes());
    wire.resize(wire.len().next_multiple_of(4), 0);
    table.handle(Input::Received(&mut wire));
    let next = login_request(0x00, 0).bhs().to_wire().repeat(1000);
    let mut repeats = 0;
    while table.connection.wants_input() {
        table.handle(Input::Received(&mut BytesMut::from(&next[..])));
        repeats += 1;
        assert!(repeats < 20, "it is told without end what it does not read");
    }
    assert_eq!(table.closed, None);
    let queued = table.connection.outbox().len_bytes();
    assert!(
        (RESERVE_BYTES..2 * RESERVE_BYTES).contains(&queued),
        "{queued}"
    );
}

/// Echoes are no commands: nobody waits, and yet there is no memory for them.
#[test]
fn who_does_not_read_is_not_listened_to_when_the_pool_is_used_up() {
    let mut table = short();
    let mut wire = Vec::new();
    for itt in 0..4 {
        let nop = nop_out(itt, Ttt::NONE.0, NEXT, IMMEDIATE, 8192);
        wire.extend_from_slice(&nop.bhs().to_wire());
        wire.extend_from_slice(&[5; 8192]);
    }
    while table.connection.wants_input() {
        table.handle(Input::Received(&mut BytesMut::from(&wire[..])));
        let queued = table.connection.outbox().len_bytes();
        assert!(queued < 2 * RESERVE_BYTES, "{queued}");
    }
    let _ = table.feed(Input::Sent(0));
    hog(&mut table, 0);
    let _ = table.feed(Input::Sent(0));
    assert!(table.connection.wants_input());
}

/// Its data are read however little room the initiator has for them.
#[test]
fn a_read_takes_memory_for_what_it_reads() {
    let mut table = short();
    table.backend.answer(Answers::Held);
    for n in 0..8 {
        assert!(table.command((n, NEXT + n), read(1024), READ, 0).is_empty());
    }
    // One overdraws, because nobody else does; the others wait.
    assert_eq!(table.backend.held(), 1);
    hog(&mut table, 0);
    let _ = table.feed(Input::Notice(Notice::Memory));
    assert_eq!(
        table.backend.held(),
        2,
        "two fit the budget and the reserve"
    );
    assert!(table.registry.budget().used_bytes() <= MIB);
}

/// What was submitted stays with the store until it is done with it, whoever gave it up.
#[test]
fn commands_that_were_given_up_take_memory_until_the_store_is_done() {
    let limits = Limits {
        budget_bytes: MIB,
        ..Limits::default()
    };
    let mut table = Table::ready(limits, "");
    table.backend.answer(Answers::Held);
    let mut answered = 0;
    for n in 0..50 {
        let _ = table.command((n, NEXT + n), read(1024), READ, 512 * 1024);
        let mut abort: task::Request = Bhs::from_wire(&[0; 48]).cast();
        abort.opcode = opcode::TASK_REQUEST | IMMEDIATE;
        abort.flags = FINAL | task::ABORT_TASK;
        abort.itt = 0x9000.into();
        abort.referenced_itt = n.into();
        answered += table.send(&abort, &[]).len();
    }
    assert_eq!(answered, 50, "an abort waits for nothing (law T1)");
    assert_eq!(
        table.backend.held(),
        2,
        "two fit the budget and the reserve"
    );
    assert_eq!(table.registry.budget().used_bytes(), MIB - RESERVE_BYTES);
    table.backend.release();
    let _ = table.feed(Input::Sent(0));
    assert_eq!(table.registry.budget().used_bytes(), 0);
}

#[test]
fn commands_that_were_given_up_are_bounded_in_number() {
    let mut table = Table::logged_in();
    table.backend.answer(Answers::Held);
    let flush = [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut refused = 0;
    for n in 0..1000 {
        let reply = table.command((n, NEXT + n), flush, 0, 0);
        let full = |reply: &Reply| reply.bhs.cast::<Response>().status == 0x28;
        refused += usize::from(reply.first().is_some_and(full));
        let mut abort: task::Request = Bhs::from_wire(&[0; 48]).cast();
        abort.opcode = opcode::TASK_REQUEST | IMMEDIATE;
        abort.flags = FINAL | task::ABORT_TASK;
        abort.itt = 0x9000.into();
        abort.referenced_itt = n.into();
        assert_eq!(table.send(&abort, &[]).len(), 1);
    }
    assert_eq!(table.backend.held() + refused, 1000);
    assert!(table.backend.held() <= 300, "{}", table.backend.held());
    table.backend.release();
    let _ = table.feed(Input::Sent(0));
    table.backend.answer(Answers::AtOnce);
    assert_eq!(table.command((7, NEXT + 1000), flush, 0, 0).len(), 1);
}

#[test]
fn a_connection_that_is_gone_has_left_something_behind_until_the_store_is_done() {
    let limits = Limits {
        budget_bytes: MIB,
        ..Limits::default()
    };
    let mut table = Table::ready(limits, "");
    table.backend.answer(Answers::Held);
    for n in 0..2 {
        let none = table.command((n, NEXT + n), read(1024), READ, 512 * 1024);
        assert!(none.is_empty());
    }
    let _ = table.feed(Input::Notice(Notice::Drop(DropReason::Reinstated)));
    assert_eq!(table.registry.budget().used_bytes(), MIB - RESERVE_BYTES);
    let held = table.connection.take_abandoned();
    let left = table.registry.budget().left_bytes().clone();
    table.queue.leave_behind(held, &left);
    table.registry.hang_up(ConnectionId(1));
    assert_eq!(table.registry.budget().used_bytes(), MIB);
    table.backend.release();
    assert_eq!(table.registry.budget().used_bytes(), 0);
}

#[test]
fn what_the_store_never_got_is_not_left_behind() {
    let mut table = Table::logged_in();
    table.backend.answer(Answers::Held);
    let mut header = command(5, NEXT, read(1024), 512 * 1024);
    header.flags = FINAL | READ;
    let mut wire = header.bhs().to_wire().to_vec();
    let mut logout: logout::Request = Bhs::from_wire(&[0; 48]).cast();
    (logout.opcode, logout.flags) = (opcode::LOGOUT_REQUEST | IMMEDIATE, FINAL);
    wire.extend_from_slice(&logout.bhs().to_wire());
    let _ = table.receive(&wire);
    assert!(table.closed.is_some());
    assert_eq!(table.backend.held(), 0);
    assert!(table.connection.take_abandoned().is_empty());
}

#[test]
fn what_ended_unheard_is_not_left_behind() {
    let left = LeftBytes::default();
    let queue = CompletionQueue::new();
    let [ended, on_its_way] = [1, 2].map(|tag| queue.completion(Tag(tag)));
    ended.complete(Err(BackendError::Medium));
    let held = [(Tag(1), 10), (Tag(2), 20)].into();
    queue.leave_behind(held, &left);
    drop(queue);
    assert_eq!(left.bytes(), 20);
    drop(on_its_way);
    assert_eq!(left.bytes(), 0);
}

#[test]
fn nobody_may_log_in_again_and_again_to_leave_more_behind() {
    let limits = Limits {
        budget_bytes: MIB,
        ..Limits::default()
    };
    let mut table = Table::with(None, limits);
    let queue = CompletionQueue::new();
    let completion = queue.completion(Tag(1));
    let left = table.registry.budget().left_bytes().clone();
    queue.leave_behind([(Tag(1), 2 * MIB + 1)].into(), &left);
    let request = login_request(0x87, NAMES.len());
    let reply = table.send(&request, NAMES.as_bytes());
    let response: login::Response = reply[0].bhs.cast();
    assert_eq!(response.status.get(), 0x0302);
    drop(completion);
    let mut table = Table::with(None, limits);
    table.log_in("");
}
