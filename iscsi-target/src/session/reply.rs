//! The end of a command on the wire: Data-In, status, residual (RFC 7143 §11.4.5, §11.7).

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use super::command::{Task, wire_u32};
use super::{Session, Wire};
use crate::pdu::command::{OVERFLOW, Response, UNDERFLOW};
use crate::pdu::data::{DataIn, STATUS};
use crate::pdu::{FINAL, Len24, opcode};
use crate::scsi::{Reply, Status};
use crate::types::{Itt, Ttt};

/// How far the command's own length is from the expected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Residual {
    pub(super) flag: u8,
    pub(super) bytes: u32,
}

impl Residual {
    pub(super) fn new(actual_bytes: usize, expected_bytes: usize) -> Self {
        let bytes = wire_u32(actual_bytes.abs_diff(expected_bytes));
        let flag = match actual_bytes.cmp(&expected_bytes) {
            std::cmp::Ordering::Less => UNDERFLOW,
            std::cmp::Ordering::Equal => 0,
            std::cmp::Ordering::Greater => OVERFLOW,
        };
        Self { flag, bytes }
    }

    fn of(task: &Task, data_in_bytes: usize) -> Self {
        if task.is_read() || data_in_bytes > 0 {
            let expected = if task.is_read() {
                task.expected_bytes
            } else {
                0
            };
            Self::new(data_in_bytes, expected)
        } else {
            let expected = if task.is_write() {
                task.expected_bytes
            } else {
                0
            };
            Self::new(task.data_out_bytes, expected)
        }
    }
}

impl Session {
    pub(super) fn send_reply(&mut self, itt: Itt, task: &Task, reply: Reply, wire: &mut Wire<'_>) {
        let data_in_bytes: usize = reply.data_in.iter().map(Bytes::len).sum();
        let residual = Residual::of(task, data_in_bytes);
        let room = if task.is_read() {
            task.expected_bytes
        } else {
            0
        };
        let len = data_in_bytes.min(room);
        // Phase collapse: GOOD needs no PDU of its own after data.
        let collapse = len > 0 && reply.status == Status::Good;
        let status = collapse.then_some(residual);
        let data = VecDeque::from(reply.data_in);
        let count = self.send_data(
            itt,
            Outgoing {
                data,
                len_bytes: len,
                status,
            },
            wire,
        );
        if collapse {
            return;
        }
        let sense = reply.sense.map_or_else(Bytes::new, |sense| {
            let sense = sense.to_bytes();
            let mut segment = BytesMut::with_capacity(sense.len() + 2);
            segment.put_u16(u16::try_from(sense.len()).expect("sense data are short"));
            segment.extend_from_slice(&sense);
            segment.freeze()
        });
        let stat_sn = self.take_stat_sn();
        self.news
            .extend(task.told_unit().map(|unit| (stat_sn, unit)));
        let response = Response {
            opcode: opcode::RESPONSE,
            flags: FINAL | residual.flag,
            response: 0,
            status: reply.status as u8,
            ahs_len_words: 0,
            data_len: Len24::new(sense.len()),
            reserved: [0; 8],
            itt: itt.0.into(),
            snack_tag: 0.into(),
            stat_sn: stat_sn.0.into(),
            exp_cmd_sn: self.window.expected().0.into(),
            max_cmd_sn: self.window.max().0.into(),
            exp_data_sn: (count + task.transfer.r2t_count()).into(),
            bidi_residual: 0.into(),
            residual: residual.bytes.into(),
        };
        wire.outbox.push(&response, &[sense]);
    }

    /// Sends Data-In. Says how many PDUs it took.
    fn send_data(&mut self, itt: Itt, outgoing: Outgoing, wire: &mut Wire<'_>) -> u32 {
        let Outgoing {
            mut data,
            len_bytes,
            status,
        } = outgoing;
        let mut data_sn = 0;
        let mut offset = 0;
        let mut burst_left = self.parameters.burst_max_bytes;
        while offset < len_bytes {
            let len = (len_bytes - offset)
                .min(self.parameters.send_max_bytes)
                .min(burst_left);
            let parts = take_front(&mut data, len);
            burst_left -= len;
            let last = offset + len == len_bytes;
            let mut header = DataIn {
                opcode: opcode::DATA_IN,
                flags: if last || burst_left == 0 { FINAL } else { 0 },
                reserved_a: 0,
                status: 0,
                ahs_len_words: 0,
                data_len: Len24::new(len),
                lun: [0; 8],
                itt: itt.0.into(),
                ttt: Ttt::NONE.0.into(),
                stat_sn: 0.into(),
                exp_cmd_sn: self.window.expected().0.into(),
                max_cmd_sn: self.window.max().0.into(),
                data_sn: data_sn.into(),
                offset_bytes: wire_u32(offset).into(),
                residual: 0.into(),
            };
            if let Some(residual) = status.filter(|_| last) {
                header.flags |= STATUS | residual.flag;
                header.residual = residual.bytes.into();
                header.stat_sn = self.take_stat_sn().0.into();
            }
            wire.outbox.push(&header, &parts);
            if burst_left == 0 {
                burst_left = self.parameters.burst_max_bytes;
            }
            data_sn += 1;
            offset += len;
        }
        data_sn
    }
}

/// The first `len_bytes` of the data, with GOOD in the last PDU if there is a `status`.
struct Outgoing {
    data: VecDeque<Bytes>,
    len_bytes: usize,
    status: Option<Residual>,
}

/// Takes the first `len_bytes` off a list of ranges, without copying.
fn take_front(data: &mut VecDeque<Bytes>, mut len_bytes: usize) -> Vec<Bytes> {
    let mut taken = Vec::with_capacity(1);
    while len_bytes > 0 {
        let first = data.front_mut().expect("the data are as long as their sum");
        if len_bytes < first.len() {
            taken.push(first.split_to(len_bytes));
            return taken;
        }
        len_bytes -= first.len();
        taken.extend(data.pop_front());
    }
    taken
}
