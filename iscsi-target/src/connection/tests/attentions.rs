//! Unit attentions whose report is given up.

use super::full::NEXT;
use super::*;
use crate::memory::Answers;
use crate::pdu::command::Response;
use crate::pdu::task;

/// Key, code and qualifier of the only reply.
fn sense(replies: &[Reply]) -> [u8; 3] {
    assert_eq!(replies.len(), 1, "{replies:?}");
    assert_eq!(replies[0].bhs.cast::<Response>().status, 2);
    let data = &replies[0].data[2..];
    [data[2], data[12], data[13]]
}

#[test]
fn an_attention_whose_report_was_aborted_is_reported_again() {
    for function in [task::ABORT_TASK, task::ABORT_TASK_SET] {
        let mut table = Table::logged_in();
        table.backend.resize(8192);
        table.backend.answer(Answers::Held);
        // Whether it may be reported is not known yet (law R5).
        assert!(table.command((1, NEXT), [0; 16], 0, 0).is_empty());
        let mut abort: task::Request = Bhs::from_wire(&[0; 48]).cast();
        abort.opcode = opcode::TASK_REQUEST | IMMEDIATE;
        abort.flags = FINAL | function;
        abort.itt = 9.into();
        abort.referenced_itt = 1.into();
        assert_eq!(table.send(&abort, &[])[0].bhs.specific[0], 0);
        table.backend.release();
        assert!(table.feed(Input::Sent(0)).is_empty());
        table.backend.answer(Answers::AtOnce);
        let again = table.command((2, NEXT + 1), [0; 16], 0, 0);
        assert_eq!(sense(&again), [6, 0x2a, 0x09]);
        let once = table.command((3, NEXT + 2), [0; 16], 0, 0);
        assert_eq!(once[0].bhs.cast::<Response>().status, 0);
    }
}
