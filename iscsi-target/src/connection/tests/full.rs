//! Full-feature phase: numbers, data, task management, text, keepalive.

use super::*;
use crate::memory::Answers;
use crate::pdu::async_event::AsyncMessage;
use crate::pdu::command::Response;
use crate::pdu::data::{DataIn, DataOut};
use crate::pdu::nop::NopIn;
use crate::pdu::r2t::R2t;
use crate::pdu::reject::Reject;
use crate::pdu::{logout, task, text};

pub(super) const NEXT: u32 = FIRST + 1;

fn kinds(replies: &[Reply]) -> Vec<u8> {
    replies.iter().map(|reply| reply.bhs.opcode).collect()
}

fn rejected(table: &Table, replies: &[Reply], reason: u8) {
    assert_eq!(kinds(replies), [opcode::REJECT]);
    assert_eq!(replies[0].bhs.cast::<Reject>().reason, reason);
    assert_eq!(replies[0].data.len(), 48, "a Reject carries the header");
    assert_eq!(table.closed, None);
}

fn faulted(table: &Table, replies: &[Reply], reason: u8) {
    assert_eq!(kinds(replies), [opcode::REJECT]);
    assert_eq!(replies[0].bhs.cast::<Reject>().reason, reason);
    assert_eq!(
        table.closed,
        Some((CloseReason::Protocol, Manner::AfterSending))
    );
    assert!(table.registry.sessions().is_empty());
}

fn data_out(itt: u32, ttt: u32, offset: u32, len: usize, flags: u8) -> DataOut {
    let mut header: DataOut = Bhs::from_wire(&[0; 48]).cast();
    header.opcode = opcode::DATA_OUT;
    header.flags = flags;
    header.data_len = Len24::new(len);
    header.itt = itt.into();
    header.ttt = ttt.into();
    header.offset_bytes = offset.into();
    header
}

#[test]
fn a_read_is_one_pdu_with_its_status() {
    let mut table = Table::logged_in();
    let reply = table.command((5, NEXT), read10(0, 8), READ, 4096);
    assert_eq!(kinds(&reply), [opcode::DATA_IN]);
    let header: DataIn = reply[0].bhs.cast();
    assert_eq!(
        (header.flags, header.status, header.residual.get()),
        (0x81, 0, 0)
    );
    assert_eq!(
        (header.stat_sn.get(), header.exp_cmd_sn.get()),
        (3, NEXT + 1)
    );
    assert_eq!(reply[0].data, [0; 4096]);
}

#[test]
fn read_data_are_cut_to_the_initiators_segments_and_bursts() {
    let mut table = Table::logged_in_with("MaxRecvDataSegmentLength=1024\0MaxBurstLength=2048\0");
    let reply = table.command((5, NEXT), read10(0, 9), READ, 4608);
    let headers: Vec<DataIn> = reply.iter().map(|reply| reply.bhs.cast()).collect();
    let lengths: Vec<usize> = headers
        .iter()
        .map(|header| header.data_len.bytes())
        .collect();
    assert_eq!(lengths, [1024, 1024, 1024, 1024, 512]);
    let flags: Vec<u8> = headers.iter().map(|header| header.flags).collect();
    assert_eq!(flags, [0, 0x80, 0, 0x80, 0x81]);
    let numbers: Vec<u32> = headers.iter().map(|header| header.data_sn.get()).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
    assert_eq!(headers[4].offset_bytes.get(), 4096);
}

#[test]
fn residuals_count_what_is_missing_or_too_much() {
    let mut table = Table::logged_in();
    for (number, (expected, sent, flags, residual)) in [
        (512, 512, 0x81, 0),
        (200, 200, 0x85, 312),
        (513, 512, 0x83, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let cmd_sn = NEXT + u32::try_from(number).unwrap();
        let reply = table.command((5, cmd_sn), read10(0, 1), READ, expected);
        let header: DataIn = reply[0].bhs.cast();
        assert_eq!((reply[0].data.len(), header.flags), (sent, flags));
        assert_eq!(header.residual.get(), residual);
    }
    // Without room for data the status comes alone.
    let reply = table.command((5, NEXT + 3), read10(0, 1), 0, 0);
    let header: Response = reply[0].bhs.cast();
    assert_eq!((header.flags, header.residual.get()), (0x84, 512));
}

#[test]
fn a_write_asks_for_its_data_in_bursts() {
    let mut table = Table::logged_in_with("MaxBurstLength=1024\0FirstBurstLength=512\0");
    let header = Command {
        flags: FINAL | WRITE,
        ..command(5, NEXT, write10(0, 4), 2048)
    };
    let reply = table.send(&header, &[]);
    assert_eq!(kinds(&reply), [opcode::R2T]);
    let first: R2t = reply[0].bhs.cast();
    assert_eq!(
        (first.offset_bytes.get(), first.desired_len_bytes.get()),
        (0, 1024)
    );
    let reply = table.send(&data_out(5, first.ttt.get(), 0, 1024, FINAL), &[1; 1024]);
    let second: R2t = reply[0].bhs.cast();
    assert_eq!((second.offset_bytes.get(), second.r2t_sn.get()), (1024, 1));
    assert_ne!(second.ttt.get(), first.ttt.get());
    let reply = table.send(
        &data_out(5, second.ttt.get(), 1024, 1024, FINAL),
        &[2; 1024],
    );
    let response: Response = reply[0].bhs.cast();
    assert_eq!((response.status, response.exp_data_sn.get()), (0, 2));
    let read = table.command((6, NEXT + 1), read10(0, 4), READ, 2048);
    assert!(read[0].data == [1; 1024] && read[1].data == [2; 1024]);
}

#[test]
fn a_missing_data_out_ends_the_command_only() {
    let mut table = Table::logged_in();
    let header = Command {
        flags: FINAL | WRITE,
        ..command(5, NEXT, write10(0, 4), 2048)
    };
    let reply = table.send(&header, &[]);
    let ttt = reply[0].bhs.cast::<R2t>().ttt.get();
    let gap = DataOut {
        data_sn: 1.into(),
        ..data_out(5, ttt, 0, 2048, FINAL)
    };
    let reply = table.send(&gap, &[1; 2048]);
    assert_eq!(reply[0].bhs.cast::<Response>().status, 2);
    assert_eq!(
        (reply[0].data[4], &reply[0].data[14..16]),
        (0x0b, &[0x47, 0x05][..])
    );
    assert!(
        table
            .send(&data_out(5, ttt, 0, 2048, FINAL), &[1; 2048])
            .is_empty()
    );
    assert_eq!((table.backend.allocated_blocks(), table.closed), (0, None));
}

#[test]
fn data_out_that_break_the_rules_end_the_session() {
    let table = [
        (data_out(5, 0, 512, 2048, FINAL), "offset"),
        (data_out(5, 77, 0, 2048, FINAL), "tag"),
        (
            data_out(5, Ttt::NONE.0, 0, 2048, FINAL),
            "unsolicited after all",
        ),
        (data_out(5, 0, 0, 2048, 0), "no end"),
        (data_out(5, 0, 0, 512, FINAL), "early end"),
        (data_out(5, 0, 0, 4096, FINAL), "too much"),
    ];
    for (header, what) in table {
        let mut table = Table::logged_in();
        let write = Command {
            flags: FINAL | WRITE,
            ..command(5, NEXT, write10(0, 4), 2048)
        };
        assert_eq!(kinds(&table.send(&write, &[])), [opcode::R2T]);
        let reply = table.send(&header, &vec![1; header.data_len.bytes()]);
        faulted(&table, &reply, 4);
        assert_eq!(table.backend.allocated_blocks(), 0, "{what}");
    }
}

#[test]
fn unsolicited_data_follow_what_was_negotiated() {
    let data = [7; 1024];
    let write = Command {
        flags: FINAL | WRITE,
        data_len: Len24::new(1024),
        ..command(5, NEXT, write10(0, 2), 1024)
    };
    let mut table = Table::logged_in();
    assert_eq!(
        table.send(&write, &data)[0].bhs.cast::<Response>().status,
        0
    );
    for keys in ["ImmediateData=No\0", "FirstBurstLength=512\0"] {
        let mut table = Table::logged_in_with(keys);
        let reply = table.send(&write, &data);
        faulted(&table, &reply, 4);
    }
    // F is clear: Data-Out follow, which InitialR2T=Yes forbids.
    let announced = Command {
        flags: WRITE,
        ..write
    };
    let mut table = Table::logged_in_with("InitialR2T=Yes\0");
    let reply = table.send(&announced, &data);
    faulted(&table, &reply, 4);
}

#[test]
fn a_refused_write_waits_for_its_unsolicited_data() {
    let mut table = Table::logged_in_with("InitialR2T=No\0");
    let beyond = [0x2a, 0, 0xff, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
    let write = Command {
        flags: WRITE,
        data_len: Len24::new(512),
        ..command(5, NEXT, beyond, 1024)
    };
    assert!(table.send(&write, &[1; 512]).is_empty());
    let reply = table.send(&data_out(5, Ttt::NONE.0, 512, 512, FINAL), &[1; 512]);
    assert_eq!(reply[0].bhs.cast::<Response>().status, 2);
    assert_eq!(reply[0].data[14], 0x21);
}

#[test]
fn numbers_out_of_the_window_are_ignored() {
    let mut table = Table::logged_in();
    for cmd_sn in [NEXT - 1, NEXT + WINDOW_DEPTH, NEXT.wrapping_add(1 << 31)] {
        assert!(
            table.command((5, cmd_sn), [0; 16], 0, 0).is_empty(),
            "{cmd_sn}"
        );
    }
    assert_eq!(table.closed, None);
    assert_eq!(
        kinds(&table.command((5, NEXT), [0; 16], 0, 0)),
        [opcode::RESPONSE]
    );
}

#[test]
fn requests_are_taken_in_order_of_their_numbers() {
    let mut table = Table::logged_in();
    let write = Command {
        flags: FINAL | WRITE,
        data_len: Len24::new(512),
        ..command(6, NEXT + 1, write10(0, 1), 512)
    };
    assert!(table.send(&write, &[9; 512]).is_empty());
    assert!(
        table
            .command((7, NEXT + 2), read10(0, 1), READ, 512)
            .is_empty()
    );
    let reply = table.command((5, NEXT), read10(0, 1), READ, 512);
    let tags: Vec<u32> = reply.iter().map(|reply| reply.bhs.itt.get()).collect();
    assert_eq!(tags, [5, 6, 7]);
    assert_eq!((reply[0].data[0], reply[2].data[0]), (0, 9));
}

#[test]
fn the_window_closes_while_nothing_finishes() {
    let mut table = Table::logged_in();
    table.backend.answer(Answers::Held);
    for n in 0..WINDOW_DEPTH {
        assert!(
            table
                .command((n, NEXT + n), read10(0, 1), READ, 512)
                .is_empty()
        );
    }
    assert_eq!(table.backend.held(), WINDOW_DEPTH as usize);
    assert!(
        table
            .command((500, NEXT + WINDOW_DEPTH), read10(0, 1), READ, 512)
            .is_empty()
    );
    assert_eq!(
        table.backend.held(),
        WINDOW_DEPTH as usize,
        "there was no room"
    );
    table.backend.answer(Answers::AtOnce);
    table.backend.release();
    let replies = table.feed(Input::Sent(0));
    assert_eq!(replies.len(), WINDOW_DEPTH as usize);
    let last: DataIn = replies[replies.len() - 1].bhs.cast();
    assert_eq!(last.max_cmd_sn.get(), NEXT + 2 * WINDOW_DEPTH - 1);
}

#[test]
fn immediate_commands_are_bounded_too() {
    let mut table = Table::logged_in();
    table.backend.answer(Answers::Held);
    let mut refused = 0;
    for itt in 0..300 {
        let immediate = Command {
            opcode: opcode::COMMAND | IMMEDIATE,
            flags: FINAL | READ,
            ..command(itt, NEXT, read10(0, 1), 512)
        };
        for reply in table.send(&immediate, &[]) {
            assert_eq!(reply.bhs.cast::<Reject>().reason, 6);
            refused += 1;
        }
    }
    assert_eq!((table.backend.held(), refused), (136, 164));
}

#[test]
fn reads_beyond_their_expected_length_count_in_full() {
    let mut table = Table::logged_in();
    table.backend.answer(Answers::Held);
    // One MiB is read, none of which the initiator has room for.
    let mut cdb = read10(0, 0);
    cdb[7] = 0x08;
    for n in 0..40 {
        assert!(table.command((n, NEXT + n), cdb, 0, 0).is_empty());
    }
    assert_eq!(table.backend.held(), 32, "what one session may have");
    table.backend.release();
    table.backend.answer(Answers::AtOnce);
    let replies = table.feed(Input::Sent(0));
    let residuals: Vec<u32> = replies
        .iter()
        .map(|reply| reply.bhs.cast::<Response>().residual.get())
        .collect();
    assert_eq!(residuals, [1 << 20; 40]);
}

/// A VERIFY may go over a whole disk: it holds one piece at a time, and lets others pass.
#[test]
fn what_reads_without_keeping_takes_turns() {
    let mut table = Table::logged_in();
    table.backend.answer(Answers::Held);
    let mut verify = [0; 16];
    (verify[0], verify[7]) = (0x2f, 0x10);
    for n in 0..3 {
        assert!(table.command((n, NEXT + n), verify, 0, 0).is_empty());
    }
    assert_eq!(table.backend.held(), 1);
    assert!(
        table
            .command((9, NEXT + 3), read10(0, 1), READ, 512)
            .is_empty()
    );
    assert_eq!(table.backend.held(), 2);
    let mut ended = Vec::new();
    for _ in 0..6 {
        table.backend.release();
        let replies = table.feed(Input::Sent(0));
        ended.extend(replies.iter().map(|reply| reply.bhs.itt.get()));
        assert!(table.backend.held() <= 1, "one piece at a time");
    }
    assert_eq!(ended, [9, 0, 1, 2]);
}

#[test]
fn a_tag_in_use_is_refused() {
    let mut table = Table::logged_in();
    table.backend.answer(Answers::Held);
    assert!(table.command((5, NEXT), read10(0, 1), READ, 512).is_empty());
    let reply = table.command((5, NEXT + 1), read10(0, 1), READ, 512);
    rejected(&table, &reply, 7);
}

#[test]
fn a_late_answer_of_the_backend_meets_nobody() {
    let mut table = Table::logged_in();
    table.backend.answer(Answers::Held);
    assert!(table.command((5, NEXT), read10(0, 1), READ, 512).is_empty());
    let mut abort: task::Request = Bhs::from_wire(&[0; 48]).cast();
    abort.opcode = opcode::TASK_REQUEST | IMMEDIATE;
    abort.flags = FINAL | task::ABORT_TASK;
    abort.itt = 9.into();
    abort.referenced_itt = 5.into();
    let reply = table.send(&abort, &[]);
    assert_eq!(
        (kinds(&reply), reply[0].bhs.specific[0]),
        (vec![opcode::TASK_RESPONSE], 0)
    );
    // The tag is used again before the old request is done.
    assert!(
        table
            .command((5, NEXT + 1), read10(0, 2), READ, 1024)
            .is_empty()
    );
    table.backend.release();
    let reply = table.feed(Input::Sent(0));
    assert_eq!(reply.len(), 1, "one answer, for the new command");
    assert_eq!(reply[0].data.len(), 1024);
}

#[test]
fn d10_a_change_of_reservations_is_kept_although_its_session_ends_at_once() {
    let mut table = Table::logged_in();
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[8]) = (0x5f, 0x06, 24);
    let mut register = Command {
        flags: FINAL | WRITE,
        ..command(5, NEXT, cdb, 24)
    };
    register.data_len = Len24::new(24);
    let mut list = [0; 24];
    list[15] = 7;
    table
        .sender
        .push(&register, &[Bytes::copy_from_slice(&list)]);
    // In the same breath: a login within a session.
    table.send(&login_request(0x87, 0), &[]);
    assert!(table.closed.is_some());
    assert!(table.backend.reservations().is_some());
}

#[test]
fn an_aborted_write_takes_no_more_data() {
    let mut table = Table::logged_in();
    let write = Command {
        flags: FINAL | WRITE,
        ..command(5, NEXT, write10(0, 4), 2048)
    };
    let ttt = table.send(&write, &[])[0].bhs.cast::<R2t>().ttt.get();
    // Half of a Data-Out is here when the task set is cleared from another connection.
    let half = data_out(5, ttt, 0, 2048, FINAL).bhs().to_wire();
    assert!(table.receive(&half).is_empty());
    assert!(table.receive(&[1; 1000]).is_empty());
    let clear = Notice::ClearTasks(crate::registry::Scope::All);
    assert!(table.feed(Input::Notice(clear)).is_empty());
    assert!(table.receive(&[1; 1048]).is_empty());
    assert_eq!((table.backend.allocated_blocks(), table.closed), (0, None));
    assert_eq!(
        kinds(&table.command((5, NEXT + 1), [0; 16], 0, 0)),
        [opcode::RESPONSE]
    );
}

#[test]
fn silence_is_questioned_and_then_ended() {
    let mut table = Table::logged_in();
    assert!(table.wait(1499).is_empty());
    let question = table.wait(1);
    let header: NopIn = question[0].bhs.cast();
    assert_eq!(
        (header.opcode, header.itt.get()),
        (opcode::NOP_IN, Itt::NONE.0)
    );
    assert_ne!(header.ttt.get(), Ttt::NONE.0);
    assert_eq!(header.stat_sn.get(), 3, "the number is not consumed");
    // An answer buys another 1.5 s; the question comes again.
    let answer = nop_out(Itt::NONE.0, header.ttt.get(), NEXT, IMMEDIATE, 0);
    assert!(table.send(&answer, &[]).is_empty());
    assert!(table.wait(1499).is_empty());
    assert_eq!(kinds(&table.wait(1)), [opcode::NOP_IN]);
    // Anything but the answer does not count (law T2).
    assert_eq!(
        kinds(&table.command((5, NEXT), [0; 16], 0, 0)),
        [opcode::RESPONSE]
    );
    let _ = table.wait(2499);
    assert_eq!(table.closed, None);
    let _ = table.wait(1);
    assert_eq!(
        table.closed,
        Some((CloseReason::Unresponsive, Manner::Reset))
    );
    assert!(table.registry.sessions().is_empty());
}

#[test]
fn a_ping_comes_back_with_its_data() {
    let mut table = Table::logged_in();
    let reply = table.send(&nop_out(5, Ttt::NONE.0, NEXT, IMMEDIATE, 5), b"hello");
    let header: NopIn = reply[0].bhs.cast();
    assert_eq!((header.itt.get(), header.ttt.get()), (5, Ttt::NONE.0));
    assert_eq!(reply[0].data, b"hello");
    assert_eq!(
        header.exp_cmd_sn.get(),
        NEXT,
        "immediate requests take no number"
    );
    let reply = table.send(&nop_out(6, Ttt::NONE.0, NEXT, 0, 0), &[]);
    assert_eq!(reply[0].bhs.cast::<NopIn>().exp_cmd_sn.get(), NEXT + 1);
    assert!(
        table
            .send(&nop_out(Itt::NONE.0, Ttt::NONE.0, NEXT, IMMEDIATE, 0), &[])
            .is_empty()
    );
}

fn text_request(ttt: u32, flags: u8, len: usize) -> text::Request {
    let mut request: text::Request = Bhs::from_wire(&[0; 48]).cast();
    request.opcode = opcode::TEXT_REQUEST | IMMEDIATE;
    request.flags = flags;
    request.data_len = Len24::new(len);
    request.itt = 5.into();
    request.ttt = ttt.into();
    request
}

fn ask(table: &mut Table, keys: &str) -> Vec<Reply> {
    table.send(
        &text_request(Ttt::NONE.0, FINAL, keys.len()),
        keys.as_bytes(),
    )
}

#[test]
fn text_is_answered_in_full_feature_phase() {
    let mut table = Table::logged_in();
    let here = format!("TargetName={TARGET}\nTargetAddress=10.0.0.1:3260,1\n");
    assert_eq!(ask(&mut table, "SendTargets=\0")[0].text(), here);
    assert_eq!(
        ask(&mut table, &format!("SendTargets={TARGET}\0"))[0].text(),
        here
    );
    for junk in ["iqn.else", "all", "*", "%n%n", "\u{7f}", "All,All"] {
        assert_eq!(
            ask(&mut table, &format!("SendTargets={junk}\0"))[0].text(),
            ""
        );
    }
    // Only a discovery session may ask for all targets (RFC 7143 appendix C).
    let refused = "SendTargets=Reject\n";
    assert_eq!(ask(&mut table, "SendTargets=All\0")[0].text(), refused);
    let reply = ask(
        &mut table,
        "MaxBurstLength=512\0X-a=b\0MaxRecvDataSegmentLength=1\0",
    );
    let refused = "MaxBurstLength=Reject\nX-a=NotUnderstood\nMaxRecvDataSegmentLength=Reject\n";
    assert_eq!(reply[0].text(), refused);
    let reply = ask(&mut table, "junk");
    rejected(&table, &reply, 4);
    let reply = table.send(&text_request(3, FINAL, 0), &[]);
    rejected(&table, &reply, 4);
    // Text that goes on cannot be the last.
    let reply = table.send(&text_request(Ttt::NONE.0, FINAL | 0x40, 4), b"A=1\0");
    rejected(&table, &reply, 9);
}

#[test]
fn an_exchange_of_text_keeps_its_tag() {
    let mut table = Table::logged_in();
    let half = table.send(&text_request(Ttt::NONE.0, 0x40, 4), b"Send");
    let ttt = half[0].bhs.cast::<text::Response>().ttt.get();
    let other = text::Request {
        itt: 6.into(),
        ..text_request(ttt, FINAL, 9)
    };
    let reply = table.send(&other, b"Targets=\0");
    rejected(&table, &reply, 4);
}

#[test]
fn an_abort_of_what_is_on_its_way_takes_its_number() {
    let mut table = Table::logged_in();
    let abort = |table: &mut Table, itt: u32, number: u32, cmd_sn: u32| {
        let mut abort: task::Request = Bhs::from_wire(&[0; 48]).cast();
        abort.opcode = opcode::TASK_REQUEST | IMMEDIATE;
        abort.flags = FINAL | task::ABORT_TASK;
        abort.itt = 9.into();
        abort.referenced_itt = itt.into();
        abort.ref_cmd_sn = number.into();
        abort.cmd_sn = cmd_sn.into();
        table.send(&abort, &[])[0].bhs.specific[0]
    };
    assert_eq!(abort(&mut table, 5, NEXT - 1, NEXT + 2), 1, "too old");
    assert_eq!(
        abort(&mut table, 5, NEXT + 2, NEXT + 2),
        1,
        "not sent before"
    );
    assert_eq!(abort(&mut table, 5, NEXT + 500, NEXT + 501), 1, "too new");
    assert_eq!(abort(&mut table, 5, NEXT + 1, NEXT + 2), 0);
    assert_eq!(abort(&mut table, 4, NEXT, NEXT + 2), 0);
    // Both numbers are used up: what comes with them is ignored, the next one is taken.
    for (itt, number) in [(4, NEXT), (5, NEXT + 1)] {
        assert!(table.command((itt, number), [0; 16], 0, 0).is_empty());
    }
    let reply = table.command((6, NEXT + 2), read10(0, 1), READ, 512);
    assert_eq!(kinds(&reply), [opcode::DATA_IN]);
}

#[test]
fn who_is_asked_to_log_out_may_come_back_at_once() {
    let mut table = Table::logged_in();
    table.registry.depart(3);
    let (_, notice) = table.registry.next_mail().unwrap();
    let asked = table.feed(Input::Notice(notice));
    let message: AsyncMessage = asked[0].bhs.cast();
    assert_eq!((message.opcode, message.event), (opcode::ASYNC, 1));
    assert_eq!(message.parameters.map(|number| number.get()), [0, 0, 3]);
    assert_eq!(message.stat_sn.get(), 3, "the number is consumed");
    // What is under way goes on until the logout.
    let reply = table.command((5, NEXT), read10(0, 1), READ, 512);
    assert_eq!(reply[0].bhs.cast::<DataIn>().stat_sn.get(), 4);
    let reply = logout(&mut table, 0, 0);
    let response: logout::Response = reply[0].bhs.cast();
    assert_eq!((response.response, response.time_to_wait_s.get()), (0, 0));
    assert_eq!(
        table.closed,
        Some((CloseReason::Logout, Manner::AfterSending))
    );
    // Nobody comes in until the role is settled.
    table.connection = new_connection(2);
    let refused = table.send(&login_request(0x87, NAMES.len()), NAMES.as_bytes());
    assert_eq!(
        refused[0].bhs.cast::<login::Response>().status.get(),
        0x0301
    );
    table.registry.stay();
    table.connection = new_connection(3);
    table.log_in("");
}

#[test]
fn who_is_dropped_on_purpose_is_told() {
    for (reason, event, cid) in [
        (DropReason::Operator, 3, 0),
        (DropReason::PortalClosed, 2, 1),
    ] {
        let mut table = Table::logged_in();
        let told = table.feed(Input::Notice(Notice::Drop(reason)));
        let message: AsyncMessage = told[0].bhs.cast();
        assert_eq!((message.opcode, message.event), (opcode::ASYNC, event));
        assert_eq!(message.parameters.map(|number| number.get()), [cid, 0, 0]);
        let closed = Some((CloseReason::Dropped(reason), Manner::AfterSending));
        assert_eq!(table.closed, closed);
        assert!(table.registry.sessions().is_empty());
        // A loss of the role meanwhile still ends it at once.
        let _ = table.feed(Input::Notice(Notice::Drop(DropReason::Deactivated)));
        let reason = CloseReason::Dropped(DropReason::Deactivated);
        assert_eq!(table.closed, Some((reason, Manner::Reset)));
    }
}

#[test]
fn empty_data_out_without_an_end_end_the_session() {
    let mut table = Table::logged_in();
    let write = Command {
        flags: FINAL | WRITE,
        ..command(5, NEXT, write10(0, 4), 2048)
    };
    let ttt = table.send(&write, &[])[0].bhs.cast::<R2t>().ttt.get();
    let reply = table.send(&data_out(5, ttt, 0, 0, 0), &[]);
    faulted(&table, &reply, 4);
}

#[test]
fn long_text_goes_on_with_a_tag() {
    let mut table = Table::logged_in();
    let portals = (1..=40u16).map(|tag| Portal {
        address: format!("10.1.1.{tag}:3260").parse().unwrap(),
        tag: PortalTag(tag),
    });
    table.registry.announce(portals.collect());
    assert_eq!(
        ask(&mut table, "MaxRecvDataSegmentLength=512\0")[0].text(),
        ""
    );
    let mut reply = ask(&mut table, "SendTargets=\0");
    let mut all = String::new();
    loop {
        let header: text::Response = reply[0].bhs.cast();
        all.push_str(&reply[0].text());
        assert!(reply[0].data.len() <= 512);
        if header.flags == FINAL {
            assert_eq!(header.ttt.get(), Ttt::NONE.0);
            break;
        }
        assert_eq!(header.flags, text::CONTINUE);
        reply = table.send(&text_request(header.ttt.get(), FINAL, 0), &[]);
    }
    assert_eq!(all.lines().count(), 41);
    assert!(all.ends_with("TargetAddress=10.1.1.40:3260,40\n"));
    // And the other direction.
    let half = table.send(&text_request(Ttt::NONE.0, text::CONTINUE, 5), b"SendT");
    let header: text::Response = half[0].bhs.cast();
    assert_eq!((half[0].data.len(), header.flags), (0, 0));
    let rest = b"argets=iqn.else\0";
    let reply = table.send(&text_request(header.ttt.get(), FINAL, rest.len()), rest);
    assert_eq!((reply[0].text().as_str(), reply[0].bhs.flags), ("", FINAL));
}

fn logout(table: &mut Table, reason: u8, cid: u16) -> Vec<Reply> {
    let mut request: logout::Request = Bhs::from_wire(&[0; 48]).cast();
    request.opcode = opcode::LOGOUT_REQUEST | IMMEDIATE;
    request.flags = FINAL | reason;
    request.cid = cid.into();
    request.itt = 8.into();
    table.send(&request, &[])
}

#[test]
fn logouts_name_a_reason() {
    for (reason, cid, outcome, closes) in [
        (0, 0, 0, true),
        (1, 1, 0, true),
        (1, 2, 1, false),
        (2, 1, 2, false),
    ] {
        let mut table = Table::logged_in();
        let reply = logout(&mut table, reason, cid);
        assert_eq!(reply[0].bhs.cast::<logout::Response>().response, outcome);
        let closed = closes.then_some((CloseReason::Logout, Manner::AfterSending));
        assert_eq!(table.closed, closed);
        assert_eq!(table.registry.sessions().is_empty(), closes);
    }
    let mut table = Table::logged_in();
    let reply = logout(&mut table, 9, 1);
    rejected(&table, &reply, 9);
}

#[test]
fn what_is_not_supported_is_rejected() {
    let mut table = Table::logged_in();
    for (operation, reason) in [(opcode::SNACK, 3), (0x1c, 5), (opcode::NOP_IN, 5)] {
        let mut bhs = Bhs::from_wire(&[0; 48]);
        bhs.opcode = operation;
        let reply = table.send(&bhs, &[]);
        rejected(&table, &reply, reason);
    }
    let reply = table.send(&login_request(0x87, 0), &[]);
    faulted(&table, &reply, 4);
}

#[test]
fn a_discovery_session_only_discovers() {
    let mut table = Table::new();
    let text = "InitiatorName=iqn.2026-01.test:one\0SessionType=Discovery\0";
    let reply = table.send(&login_request(0x87, text.len()), text.as_bytes());
    assert_eq!(reply[0].text(), "MaxRecvDataSegmentLength=262144\n");
    let listed = ask(&mut table, "SendTargets=All\0")[0].text();
    assert!(listed.starts_with(&format!("TargetName={TARGET}\n")));
    assert_eq!(ask(&mut table, "SendTargets=iqn.else\0")[0].text(), "");
    assert!(table.wait(29_000).is_empty(), "no question is asked");
    let reply = table.command((5, FIRST), [0; 16], 0, 0);
    faulted(&table, &reply, 4);
}

#[test]
fn a_wrong_data_digest_ends_the_session() {
    let mut table = Table::new();
    table.log_in("DataDigest=CRC32C\0");
    table.decoder.set_digests(Digest::None, Digest::Crc32c);
    let mut wire = nop_out(5, Ttt::NONE.0, FIRST, IMMEDIATE, 4)
        .bhs()
        .to_wire()
        .to_vec();
    wire.extend_from_slice(b"data");
    wire.extend_from_slice(&[1, 2, 3, 4]);
    let reply = table.receive(&wire);
    faulted(&table, &reply, 2);
}

#[test]
fn after_a_loss_of_role_nothing_is_said() {
    let mut table = Table::logged_in();
    table.backend.answer(Answers::Held);
    assert!(table.command((5, NEXT), read10(0, 1), READ, 512).is_empty());
    let reply = table.feed(Input::Notice(Notice::Drop(DropReason::Deactivated)));
    assert!(reply.is_empty());
    let reason = CloseReason::Dropped(DropReason::Deactivated);
    assert_eq!(table.closed, Some((reason, Manner::Reset)));
    table.backend.release();
    assert!(table.feed(Input::Sent(0)).is_empty());
    assert!(table.command((6, NEXT + 1), [0; 16], 0, 0).is_empty());
}

/// Law D5: the news of a lost cache is told when ExpStatSN says so, not when it is sent.
#[test]
fn a_lost_cache_is_told_when_its_status_is_acknowledged() {
    let mut table = Table::logged_in();
    let initiator = "iqn.2026-01.test:one".to_owned();
    table.array.lose_cache(UnitId(1), [&initiator]);
    let flush = |cmd_sn: u32, exp_stat_sn: u32| Command {
        exp_stat_sn: exp_stat_sn.into(),
        ..command(cmd_sn, cmd_sn, SYNCHRONIZE, 0)
    };
    let reply = table.send(&flush(NEXT, 3), &[]);
    let response: Response = reply[0].bhs.cast();
    assert_eq!((response.status, response.stat_sn.get()), (2, 3));
    assert_eq!(reply[0].data[4], 0x04, "sense key");
    let status = |replies: &[Reply]| replies[0].bhs.cast::<Response>().status;
    // sent before the status above had come in
    assert_eq!(status(&table.send(&flush(NEXT + 1, 3), &[])), 0);
    assert!(table.array.cache_losses_told().is_empty());
    assert_eq!(status(&table.send(&flush(NEXT + 2, 4), &[])), 0);
    assert_eq!(table.array.cache_losses_told(), [(UnitId(1), initiator)]);
}

/// SYNCHRONIZE CACHE (10) of everything.
const SYNCHRONIZE: [u8; 16] = [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
