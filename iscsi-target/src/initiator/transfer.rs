//! Data of one command, in both directions, and the PDUs that carry them.

use bytes::{Bytes, BytesMut};

use super::{InitiatorError, Residual, Response};
use crate::negotiate::Parameters;
use crate::pdu::command::{self, Command, OVERFLOW, READ, UNDERFLOW, WRITE};
use crate::pdu::data::{DataIn, DataOut};
use crate::pdu::outbox::Outbox;
use crate::pdu::r2t::R2t;
use crate::pdu::{FINAL, Len24, opcode};
use crate::types::Ttt;

/// A command as the caller gave it.
#[derive(Clone, Debug)]
pub struct Order {
    /// Logical unit.
    pub lun: [u8; 8],
    /// Command descriptor block.
    pub cdb: [u8; 16],
    /// Data for the target; empty for other commands than writes.
    pub data_out: Bytes,
    /// Most data expected from the target, in bytes.
    pub data_in_bytes: usize,
}

/// The numbers of one command PDU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) itt: u32,
    pub(super) cmd_sn: u32,
    pub(super) exp_stat_sn: u32,
}

/// A command that was sent.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) order: Order,
    pub(super) data_in: BytesMut,
}

impl Order {
    /// Sends the command, with as much data as need no permission.
    pub(super) fn send(&self, numbers: Numbers, parameters: &Parameters, outbox: &mut Outbox) {
        let Numbers {
            itt,
            cmd_sn,
            exp_stat_sn,
        } = numbers;
        let len = self.data_out.len();
        let burst = parameters.first_burst_bytes.min(len);
        let immediate = if parameters.immediate_data {
            burst.min(parameters.send_max_bytes)
        } else {
            0
        };
        let unsolicited = if parameters.initial_r2t {
            immediate
        } else {
            burst
        };
        let writes = if len > 0 { WRITE } else { 0 };
        let reads = if len == 0 && self.data_in_bytes > 0 {
            READ
        } else {
            0
        };
        let last = if unsolicited > immediate { 0 } else { FINAL };
        let expected = if len > 0 { len } else { self.data_in_bytes };
        let header = Command {
            opcode: opcode::COMMAND,
            flags: last | reads | writes | 1,
            reserved: [0; 2],
            ahs_len_words: 0,
            data_len: Len24::new(immediate),
            lun: self.lun,
            itt: itt.into(),
            expected_len_bytes: u32::try_from(expected).unwrap_or(u32::MAX).into(),
            cmd_sn: cmd_sn.into(),
            exp_stat_sn: exp_stat_sn.into(),
            cdb: self.cdb,
        };
        outbox.push(&header, &[self.data_out.slice(..immediate)]);
        let range = Range {
            itt,
            ttt: Ttt::NONE.0,
            offset: immediate,
            end: unsolicited,
        };
        self.send_data(range, exp_stat_sn, parameters, outbox);
    }

    /// Sends what an R2T asks for.
    pub(super) fn answer(
        &self,
        r2t: &R2t,
        exp_stat_sn: u32,
        parameters: &Parameters,
        outbox: &mut Outbox,
    ) -> Result<(), InitiatorError> {
        let offset = r2t.offset_bytes.get() as usize;
        let end = offset.saturating_add(r2t.desired_len_bytes.get() as usize);
        if end > self.data_out.len() || offset == end {
            return Err(InitiatorError::Protocol(
                "R2T beyond the data of the command",
            ));
        }
        let range = Range {
            itt: r2t.itt.get(),
            ttt: r2t.ttt.get(),
            offset,
            end,
        };
        self.send_data(range, exp_stat_sn, parameters, outbox);
        Ok(())
    }

    fn send_data(
        &self,
        range: Range,
        exp_stat_sn: u32,
        parameters: &Parameters,
        outbox: &mut Outbox,
    ) {
        let Range {
            itt,
            ttt,
            mut offset,
            end,
        } = range;
        let mut data_sn = 0u32;
        while offset < end {
            let len = (end - offset).min(parameters.send_max_bytes);
            let header = DataOut {
                opcode: opcode::DATA_OUT,
                flags: if offset + len == end { FINAL } else { 0 },
                reserved_a: [0; 2],
                ahs_len_words: 0,
                data_len: Len24::new(len),
                lun: self.lun,
                itt: itt.into(),
                ttt: ttt.into(),
                reserved_b: 0.into(),
                exp_stat_sn: exp_stat_sn.into(),
                reserved_c: 0.into(),
                data_sn: data_sn.into(),
                offset_bytes: u32::try_from(offset).unwrap_or(u32::MAX).into(),
                reserved_d: 0.into(),
            };
            outbox.push(&header, &[self.data_out.slice(offset..offset + len)]);
            data_sn += 1;
            offset += len;
        }
    }
}

struct Range {
    itt: u32,
    ttt: u32,
    offset: usize,
    end: usize,
}

impl Exchange {
    /// Whether Data-In with this header continue the `held_bytes` that came before.
    pub(super) fn check(&self, header: &DataIn, held_bytes: usize) -> Result<(), InitiatorError> {
        let after = held_bytes + header.data_len.bytes();
        if header.offset_bytes.get() as usize != held_bytes {
            return Err(InitiatorError::Protocol("Data-In out of order"));
        }
        if after > self.order.data_in_bytes {
            return Err(InitiatorError::Protocol("more Data-In than expected"));
        }
        Ok(())
    }

    /// The end, from the status in a Data-In.
    pub(super) fn end_with_data(self, header: &DataIn) -> Response {
        Response {
            status: header.status,
            sense: Bytes::new(),
            data: self.data_in.freeze(),
            residual: residual(header.flags, header.residual.get()),
        }
    }

    /// The end, from a SCSI Response and its data segment.
    pub(super) fn end(
        self,
        header: &command::Response,
        segment: &[u8],
    ) -> Result<Response, InitiatorError> {
        if header.response != 0 {
            return Err(InitiatorError::TargetFailure(header.response));
        }
        let sense = match segment {
            [high, low, rest @ ..] => {
                let len = usize::from(u16::from_be_bytes([*high, *low]));
                Bytes::copy_from_slice(&rest[..len.min(rest.len())])
            }
            _ => Bytes::new(),
        };
        Ok(Response {
            status: header.status,
            sense,
            data: self.data_in.freeze(),
            residual: residual(header.flags, header.residual.get()),
        })
    }
}

const fn residual(flags: u8, bytes: u32) -> Residual {
    if flags & UNDERFLOW != 0 {
        Residual::Underflow(bytes)
    } else if flags & OVERFLOW != 0 {
        Residual::Overflow(bytes)
    } else {
        Residual::Exact
    }
}
