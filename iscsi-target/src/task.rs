//! One SCSI task: how its data come in (RFC 7143 §4.2.5, §11.7, §11.8).
//!
//! ```text
//!             F = 0 +-------------+ F = 1, data missing    +-----------+ last of the burst
//!   command ------->| Unsolicited +----------------------->| Solicited |<--+ data missing
//!      |            +------+------+        R2T             +-----+-----+---+ R2T
//!      | F = 1             | F = 1, all data here                | all data here
//!      v                   v                                     v
//!   Settled <--------------+-------------------------------------+
//! ```
//!
//! Data come strictly in order (`DataPDUInOrder`, `DataSequenceInOrder`, one R2T at a time), so
//! the buffer is filled from front to back.

use bytes::BytesMut;

use crate::pdu::FINAL;
use crate::pdu::data::DataOut;
use crate::types::Ttt;

/// Longest burst that one R2T asks for, in bytes.
pub const R2T_MAX_BYTES: usize = 1024 * 1024;

/// The phase of a transfer towards the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Unsolicited Data-Out are on their way.
    Unsolicited,
    /// An R2T was sent.
    Solicited(Burst),
    /// No Data-Out is expected.
    Settled,
}

/// What an R2T asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// Tag of the R2T.
    pub ttt: Ttt,
    /// First byte.
    pub offset_bytes: usize,
    /// How many bytes.
    pub len_bytes: usize,
}

/// The data of one command on their way to the target.
///
/// Invariants: `buffer` never holds more than `wanted_bytes` between two PDUs; `received_bytes`
/// counts what came, kept or not.
#[derive(Debug)]
pub struct Transfer {
    /// Where the data are collected.
    pub buffer: BytesMut,
    phase: Phase,
    wanted_bytes: usize,
    unsolicited_max_bytes: usize,
    received_bytes: usize,
    data_sn: u32,
    r2t_sn: u32,
}

/// Data-Out that break the rules; at error recovery level 0 that ends the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// DataSN is not the next one.
    #[error("DataSN out of order")]
    DataSn,
    /// The offset is not where the last PDU ended.
    #[error("buffer offset out of order")]
    Offset,
    /// Not the tag of the R2T.
    #[error("unknown target transfer tag")]
    Tag,
    /// More than was allowed or asked for.
    #[error("more data than allowed")]
    TooMuch,
    /// The sequence ended early or does not end.
    #[error("sequence does not end where it must")]
    End,
}

impl Transfer {
    /// A transfer of which `wanted_bytes` are kept. Without an R2T the initiator may send
    /// `unsolicited_max_bytes`, in the command or after it.
    #[must_use]
    pub fn new(wanted_bytes: usize, unsolicited_max_bytes: usize, phase: Phase) -> Self {
        Self {
            buffer: BytesMut::new(),
            phase,
            wanted_bytes,
            unsolicited_max_bytes,
            received_bytes: 0,
            data_sn: 0,
            r2t_sn: 0,
        }
    }

    /// The phase.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// How much the initiator may send without being asked, in bytes.
    #[must_use]
    pub const fn unsolicited_max_bytes(&self) -> usize {
        self.unsolicited_max_bytes
    }

    /// The command will not run: what still comes without being asked for is not kept.
    pub const fn want_nothing(&mut self) {
        self.wanted_bytes = 0;
    }

    /// How many bytes came.
    #[must_use]
    pub const fn received_bytes(&self) -> usize {
        self.received_bytes
    }

    /// How many R2Ts were sent.
    #[must_use]
    pub const fn r2t_count(&self) -> u32 {
        self.r2t_sn
    }

    /// Whether everything is here.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.phase == Phase::Settled && self.received_bytes >= self.wanted_bytes
    }

    /// The buffer holds the immediate data of the command too now.
    pub fn add_immediate(&mut self, len_bytes: usize) {
        assert!(self.received_bytes == 0, "immediate data come first");
        self.received_bytes = len_bytes;
        self.keep_wanted();
    }

    /// Whether this Data-Out is the one to come.
    pub fn check(&self, header: &DataOut) -> Result<(), TransferError> {
        let len = header.data_len.bytes();
        let (ttt, end) = match self.phase {
            Phase::Unsolicited => (Ttt::NONE, self.unsolicited_max_bytes),
            Phase::Solicited(burst) => (burst.ttt, burst.offset_bytes + burst.len_bytes),
            Phase::Settled => return Err(TransferError::Tag),
        };
        let after = self.received_bytes + len;
        let is_final = header.flags & FINAL != 0;
        if Ttt(header.ttt.get()) != ttt {
            Err(TransferError::Tag)
        } else if header.data_sn.get() != self.data_sn {
            Err(TransferError::DataSn)
        } else if u32::try_from(self.received_bytes) != Ok(header.offset_bytes.get()) {
            Err(TransferError::Offset)
        } else if after > end {
            Err(TransferError::TooMuch)
        } else if len == 0 && !is_final {
            // It moves nothing, so it could come for ever.
            Err(TransferError::End)
        } else if matches!(self.phase, Phase::Solicited(_)) && is_final != (after == end) {
            Err(TransferError::End)
        } else {
            Ok(())
        }
    }

    /// The buffer holds the data of a Data-Out that passed [`Transfer::check`].
    pub fn add(&mut self, header: &DataOut) {
        self.received_bytes += header.data_len.bytes();
        self.keep_wanted();
        self.data_sn += 1;
        if header.flags & FINAL != 0 {
            self.phase = Phase::Settled;
        }
    }

    fn keep_wanted(&mut self) {
        if self.wanted_bytes == 0 {
            self.buffer = BytesMut::new();
        }
        self.buffer.truncate(self.wanted_bytes);
    }

    /// The next R2T, if data are missing: its number and what it asks for.
    pub fn solicit(&mut self, ttt: Ttt, burst_max_bytes: usize) -> Option<(u32, Burst)> {
        if self.phase != Phase::Settled || self.is_complete() {
            return None;
        }
        let missing = self.wanted_bytes - self.received_bytes;
        let len_bytes = missing.min(burst_max_bytes).min(R2T_MAX_BYTES);
        let burst = Burst {
            ttt,
            offset_bytes: self.received_bytes,
            len_bytes,
        };
        let r2t_sn = self.r2t_sn;
        self.r2t_sn += 1;
        self.data_sn = 0;
        self.phase = Phase::Solicited(burst);
        Some((r2t_sn, burst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pdu::{Bhs, Len24};

    fn data_out(ttt: Ttt, data_sn: u32, offset: u32, len: usize, flags: u8) -> DataOut {
        let mut header: DataOut = Bhs::from_wire(&[0; 48]).cast();
        header.flags = flags;
        header.data_len = Len24::new(len);
        header.ttt = ttt.0.into();
        header.data_sn = data_sn.into();
        header.offset_bytes = offset.into();
        header
    }

    fn receive(transfer: &mut Transfer, header: &DataOut) {
        transfer.check(header).unwrap();
        transfer
            .buffer
            .extend_from_slice(&vec![1; header.data_len.bytes()]);
        transfer.add(header);
    }

    #[test]
    fn a_write_goes_through_all_phases() {
        let mut transfer = Transfer::new(100, 40, Phase::Unsolicited);
        transfer.buffer.extend_from_slice(&[1; 10]);
        transfer.add_immediate(10);
        assert!(
            transfer.solicit(Ttt(0), 50).is_none(),
            "unsolicited data are still to come"
        );
        receive(&mut transfer, &data_out(Ttt::NONE, 0, 10, 20, 0));
        receive(&mut transfer, &data_out(Ttt::NONE, 1, 30, 10, FINAL));
        let (number, burst) = transfer.solicit(Ttt(7), 50).unwrap();
        assert_eq!((number, burst.offset_bytes, burst.len_bytes), (0, 40, 50));
        receive(&mut transfer, &data_out(Ttt(7), 0, 40, 50, FINAL));
        let (number, burst) = transfer.solicit(Ttt(8), 50).unwrap();
        assert_eq!((number, burst.offset_bytes, burst.len_bytes), (1, 90, 10));
        receive(&mut transfer, &data_out(Ttt(8), 0, 90, 10, FINAL));
        assert!(transfer.is_complete());
        assert!(transfer.solicit(Ttt(9), 50).is_none());
        assert_eq!((transfer.buffer.len(), transfer.r2t_count()), (100, 2));
    }

    #[test]
    fn a_transfer_that_needs_nothing_is_complete_at_once() {
        assert!(Transfer::new(0, 0, Phase::Settled).is_complete());
        assert!(!Transfer::new(0, 512, Phase::Unsolicited).is_complete());
    }

    #[test]
    fn what_the_command_does_not_want_is_dropped() {
        let mut transfer = Transfer::new(512, 2048, Phase::Settled);
        transfer.buffer.extend_from_slice(&[1; 2048]);
        transfer.add_immediate(2048);
        assert!(transfer.is_complete());
        assert_eq!(transfer.buffer.len(), 512);
    }

    #[test]
    fn data_out_of_order_are_refused() {
        let mut transfer = Transfer::new(100, 0, Phase::Settled);
        let stray = data_out(Ttt::NONE, 0, 0, 10, FINAL);
        assert_eq!(transfer.check(&stray), Err(TransferError::Tag));
        let _ = transfer.solicit(Ttt(3), 50).unwrap();
        let table = [
            (data_out(Ttt(4), 0, 0, 50, FINAL), TransferError::Tag),
            (data_out(Ttt::NONE, 0, 0, 50, FINAL), TransferError::Tag),
            (data_out(Ttt(3), 1, 0, 50, FINAL), TransferError::DataSn),
            (
                data_out(Ttt(3), u32::MAX, 0, 50, FINAL),
                TransferError::DataSn,
            ),
            (data_out(Ttt(3), 0, 512, 50, FINAL), TransferError::Offset),
            (data_out(Ttt(3), 0, 0, 51, FINAL), TransferError::TooMuch),
            (data_out(Ttt(3), 0, 0, 49, FINAL), TransferError::End),
            (data_out(Ttt(3), 0, 0, 50, 0), TransferError::End),
            (data_out(Ttt(3), 0, 0, 0, 0), TransferError::End),
            (data_out(Ttt(3), 0, 0, 0, FINAL), TransferError::End),
        ];
        for (header, error) in table {
            assert_eq!(transfer.check(&header), Err(error), "{header:?}");
        }
        assert_eq!(transfer.check(&data_out(Ttt(3), 0, 0, 50, FINAL)), Ok(()));
    }

    #[test]
    fn unsolicited_data_are_bounded() {
        let transfer = Transfer::new(100, 40, Phase::Unsolicited);
        let header = data_out(Ttt::NONE, 0, 0, 41, FINAL);
        assert_eq!(transfer.check(&header), Err(TransferError::TooMuch));
        let empty = data_out(Ttt::NONE, 0, 0, 0, 0);
        assert_eq!(transfer.check(&empty), Err(TransferError::End));
        assert_eq!(transfer.check(&data_out(Ttt::NONE, 0, 0, 0, FINAL)), Ok(()));
    }
}
