//! NOP, text, logout and asynchronous messages in full-feature phase (RFC 7143 §11.9 to §11.19).

use bytes::{Bytes, BytesMut};
use zerocopy::byteorder::network_endian::U16;

use super::{Session, Wire};
use crate::connection::{CloseReason, Manner, Ports};
use crate::discovery;
use crate::negotiate::Answer;
use crate::pdu::async_event::{self, AsyncMessage};
use crate::pdu::frame::Frame;
use crate::pdu::logout::{self, Outcome};
use crate::pdu::nop::{NopIn, NopOut};
use crate::pdu::reject::Reason;
use crate::pdu::text::{CONTINUE, Request, Response};
use crate::pdu::{FINAL, Header as _, Len24, opcode};
use crate::text::{self, Collector, Pairs, Parts};
use crate::types::{Itt, Ttt};

/// A text exchange that takes more than one pair of PDUs.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    ttt: Option<Ttt>,
    itt: u32,
    collector: Collector,
    answer: Parts,
}

impl Exchange {
    /// How much text is held.
    pub(super) fn len_bytes(&self) -> usize {
        self.collector.len_bytes() + self.answer.len_bytes()
    }
}

impl Session {
    pub(super) fn nop(&mut self, request: &NopOut, data: &[u8], wire: &mut Wire<'_>) {
        if self.ping == Some(Ttt(request.ttt.get())) {
            self.ping = None;
        }
        if request.itt.get() == Itt::NONE.0 {
            return;
        }
        let len = data.len().min(self.parameters.send_max_bytes);
        let stat_sn = self.take_stat_sn();
        let answer = self.nop_in(request.itt.get(), Ttt::NONE, len, stat_sn.0);
        wire.outbox
            .push(&answer, &[Bytes::copy_from_slice(&data[..len])]);
    }

    /// Asks the initiator whether it is still there (law T2).
    pub(crate) fn send_ping(&mut self, wire: &mut Wire<'_>) {
        let ttt = self.take_ttt();
        self.ping = Some(ttt);
        // The StatSN of a question is not consumed (RFC 7143 §11.19.2).
        let question = self.nop_in(Itt::NONE.0, ttt, 0, self.stat_sn.0);
        wire.outbox.push(&question, &[]);
    }

    /// Whether a question is unanswered.
    pub(crate) const fn is_pinged(&self) -> bool {
        self.ping.is_some()
    }

    fn nop_in(&self, itt: u32, ttt: Ttt, len_bytes: usize, stat_sn: u32) -> NopIn {
        NopIn {
            opcode: opcode::NOP_IN,
            flags: FINAL,
            reserved_a: [0; 2],
            ahs_len_words: 0,
            data_len: Len24::new(len_bytes),
            lun: [0; 8],
            itt: itt.into(),
            ttt: ttt.0.into(),
            stat_sn: stat_sn.into(),
            exp_cmd_sn: self.window.expected().0.into(),
            max_cmd_sn: self.window.max().0.into(),
            reserved_b: [0; 12],
        }
    }

    pub(super) fn text(
        &mut self,
        request: &Request,
        frame: &Frame,
        ports: &mut Ports<'_>,
        wire: &mut Wire<'_>,
    ) {
        let ttt = Ttt(request.ttt.get());
        if ttt == Ttt::NONE {
            // A new exchange ends the one before (RFC 7143 §11.10.4).
            self.exchange = Exchange::default();
        } else if self.exchange.ttt != Some(ttt) || self.exchange.itt != request.itt.get() {
            return self.reject(Reason::Protocol, &request.bhs(), wire);
        }
        // RFC 7143 §11.10.2: a text that goes on is not the last.
        let both = request.flags & (FINAL | CONTINUE) == FINAL | CONTINUE;
        if request.itt.get() == Itt::NONE.0 || both {
            self.exchange = Exchange::default();
            return self.reject(Reason::InvalidField, &request.bhs(), wire);
        }
        self.exchange.itt = request.itt.get();
        if self.exchange.collector.add(frame.payload()).is_err() {
            self.exchange = Exchange::default();
            return self.reject(Reason::NoResources, &request.bhs(), wire);
        }
        if request.flags & CONTINUE != 0 {
            return self.send_text(request, 0, Bytes::new(), wire);
        }
        if self.exchange.answer.is_empty() {
            let Ok(pairs) = self.exchange.collector.finish() else {
                self.exchange = Exchange::default();
                return self.reject(Reason::Protocol, &request.bhs(), wire);
            };
            self.exchange.answer = Parts::new(self.answer_pairs(&pairs, ports));
        }
        let part = self.exchange.answer.next(self.parameters.send_max_bytes);
        let flags = match (self.exchange.answer.is_empty(), request.flags & FINAL != 0) {
            (false, _) => CONTINUE,
            (true, false) => 0,
            (true, true) => FINAL,
        };
        self.send_text(request, flags, part, wire);
    }

    fn answer_pairs(&mut self, pairs: &Pairs, ports: &Ports<'_>) -> BytesMut {
        let mut answer = BytesMut::new();
        for (key, value) in pairs {
            match key.as_str() {
                // RFC 7143 appendix C: "MUST NOT be supported on an operational session".
                "SendTargets" if value == "All" && !self.is_discovery() => {
                    text::append(&mut answer, key, "Reject");
                }
                "SendTargets" => {
                    let portals = ports.registry.portals(self.here);
                    let targets = discovery::send_targets(value, &self.target, &portals);
                    answer.extend_from_slice(&targets);
                }
                // The only key that may change after the login (RFC 7143 §13.12).
                "MaxRecvDataSegmentLength" => {
                    if self.parameters.negotiate(key, value) == Answer::Invalid {
                        text::append(&mut answer, key, "Reject");
                    }
                }
                _ => {
                    let refusal = match self.parameters.clone().negotiate(key, value) {
                        Answer::NotUnderstood => "NotUnderstood",
                        Answer::Reply(_) | Answer::Silence | Answer::Invalid => "Reject",
                    };
                    text::append(&mut answer, key, refusal);
                }
            }
            if answer.len() > text::TEXT_MAX_BYTES {
                break;
            }
        }
        answer
    }

    fn send_text(&mut self, request: &Request, flags: u8, part: Bytes, wire: &mut Wire<'_>) {
        let ttt = if flags & FINAL != 0 {
            self.exchange = Exchange::default();
            Ttt::NONE
        } else {
            let ttt = self.take_ttt();
            self.exchange.ttt = Some(ttt);
            ttt
        };
        let response = Response {
            opcode: opcode::TEXT_RESPONSE,
            flags,
            reserved_a: [0; 2],
            ahs_len_words: 0,
            data_len: Len24::new(part.len()),
            lun: [0; 8],
            itt: request.itt,
            ttt: ttt.0.into(),
            stat_sn: self.take_stat_sn().0.into(),
            exp_cmd_sn: self.window.expected().0.into(),
            max_cmd_sn: self.window.max().0.into(),
            reserved_b: [0; 12],
        };
        wire.outbox.push(&response, &[part]);
    }

    /// Asks the initiator to log out within so many seconds (RFC 7143 §11.9.1).
    pub(crate) fn ask_logout(&mut self, within_s: u16, wire: &mut Wire<'_>) {
        self.asked_out = true;
        let parameters = [0.into(), 0.into(), within_s.into()];
        self.tell(async_event::LOGOUT_REQUEST, parameters, wire);
    }

    /// Says that the session is over, on purpose, and may come back at once; then it ends.
    pub(crate) fn tell_drop(&mut self, event: u8, wire: &mut Wire<'_>) {
        let cid = if event == async_event::DROP_CONNECTION {
            self.cid
        } else {
            0
        };
        self.tell(event, [cid.into(), 0.into(), 0.into()], wire);
    }

    fn tell(&mut self, event: u8, parameters: [U16; 3], wire: &mut Wire<'_>) {
        let message = AsyncMessage {
            opcode: opcode::ASYNC,
            flags: FINAL,
            reserved_a: [0; 2],
            ahs_len_words: 0,
            data_len: Len24::new(0),
            lun: [0; 8],
            itt: Itt::NONE.0.into(),
            reserved_b: 0.into(),
            stat_sn: self.take_stat_sn().0.into(),
            exp_cmd_sn: self.window.expected().0.into(),
            max_cmd_sn: self.window.max().0.into(),
            event,
            vendor_code: 0,
            parameters,
            reserved_c: 0.into(),
        };
        wire.outbox.push(&message, &[]);
    }

    pub(super) fn logout(
        &mut self,
        request: &logout::Request,
        ports: &mut Ports<'_>,
        wire: &mut Wire<'_>,
    ) {
        let reason = request.flags & !FINAL;
        let outcome = match reason {
            logout::CLOSE_SESSION => Outcome::Closed,
            logout::CLOSE_CONNECTION if request.cid.get() == self.cid => Outcome::Closed,
            logout::CLOSE_CONNECTION => Outcome::NoConnection,
            logout::REMOVE_FOR_RECOVERY => Outcome::NoRecovery,
            _ => return self.reject(Reason::InvalidField, &request.bhs(), wire),
        };
        if outcome == Outcome::Closed {
            // Reservations and tasks are gone before the initiator hears of it.
            self.leave(ports);
            self.end(CloseReason::Logout, Manner::AfterSending);
        }
        let response = logout::Response {
            opcode: opcode::LOGOUT_RESPONSE,
            flags: FINAL,
            response: outcome as u8,
            reserved_a: 0,
            ahs_len_words: 0,
            data_len: Len24::new(0),
            reserved_b: [0; 8],
            itt: request.itt,
            reserved_c: 0.into(),
            stat_sn: self.take_stat_sn().0.into(),
            exp_cmd_sn: self.window.expected().0.into(),
            max_cmd_sn: self.window.max().0.into(),
            reserved_d: 0.into(),
            // Who was asked to go finds the other box ready.
            time_to_wait_s: if self.asked_out {
                0.into()
            } else {
                self.parameters.time_to_wait_s.into()
            },
            time_to_retain_s: self.parameters.time_to_retain_s.into(),
            reserved_e: 0.into(),
        };
        wire.outbox.push(&response, &[]);
    }
}
