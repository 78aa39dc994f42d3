//! Status and sense: how a unit says what went wrong (SPC-4 §4.5).

use bytes::Bytes;

use crate::backend::BackendError;

/// SCSI status codes (SAM-5 §5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Good = 0x00,
    /// Not done, or done with a remark: see the sense data.
    CheckCondition = 0x02,
    /// Come again later.
    Busy = 0x08,
    /// Another initiator holds a reservation.
    ReservationConflict = 0x18,
    /// No room for another command.
    TaskSetFull = 0x28,
    /// Aborted for another initiator.
    TaskAborted = 0x40,
}

/// Kind of sense (SPC-4 §4.5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SenseKey {
    /// Nothing to say.
    NoSense = 0x0,
    /// Cannot be used now.
    NotReady = 0x2,
    /// The medium is damaged.
    MediumError = 0x3,
    /// The device failed.
    HardwareError = 0x4,
    /// The initiator asked for something wrong.
    IllegalRequest = 0x5,
    /// Something changed that the initiator should know.
    UnitAttention = 0x6,
    /// No change is allowed.
    DataProtect = 0x7,
    /// A copy was given up.
    CopyAborted = 0xa,
    /// The command was given up.
    AbortedCommand = 0xb,
    /// Compared data differ.
    Miscompare = 0xe,
}

/// How sense data are laid out, as D_SENSE of the control mode page says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SenseFormat {
    /// SPC-4 §4.5.3.
    #[default]
    Fixed,
    /// SPC-4 §4.5.2.
    Descriptor,
}

/// Key, additional code and qualifier, with what belongs to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// Kind.
    pub key: SenseKey,
    /// Additional sense code, then its qualifier.
    pub code: [u8; 2],
    /// INFORMATION field: for MISCOMPARE the offset of the first different byte.
    pub information: Option<u64>,
    /// COMMAND-SPECIFIC INFORMATION field: the segment of a copy that failed.
    pub segment: Option<u16>,
    /// Layout of [`Sense::to_bytes`].
    pub format: SenseFormat,
}

impl Sense {
    /// Nothing to report.
    pub const NONE: Self = Self::new(SenseKey::NoSense, 0x00, 0x00);
    /// PARAMETER LIST LENGTH ERROR.
    pub const LIST_LENGTH: Self = Self::new(SenseKey::IllegalRequest, 0x1a, 0x00);
    /// INVALID COMMAND OPERATION CODE.
    pub const OPCODE: Self = Self::new(SenseKey::IllegalRequest, 0x20, 0x00);
    /// LOGICAL BLOCK ADDRESS OUT OF RANGE.
    pub const LBA_RANGE: Self = Self::new(SenseKey::IllegalRequest, 0x21, 0x00);
    /// INVALID FIELD IN CDB.
    pub const CDB_FIELD: Self = Self::new(SenseKey::IllegalRequest, 0x24, 0x00);
    /// LOGICAL UNIT NOT SUPPORTED.
    pub const NO_UNIT: Self = Self::new(SenseKey::IllegalRequest, 0x25, 0x00);
    /// INVALID FIELD IN PARAMETER LIST.
    pub const LIST_FIELD: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x00);
    /// TOO MANY TARGET DESCRIPTORS.
    pub const TOO_MANY_CSCDS: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x06);
    /// UNSUPPORTED TARGET DESCRIPTOR TYPE CODE.
    pub const CSCD_KIND: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x07);
    /// TOO MANY SEGMENT DESCRIPTORS.
    pub const TOO_MANY_SEGMENTS: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x08);
    /// UNSUPPORTED SEGMENT DESCRIPTOR TYPE CODE.
    pub const SEGMENT_KIND: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x09);
    /// INLINE DATA LENGTH EXCEEDED.
    pub const INLINE_DATA: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x0b);
    /// OPERATION IN PROGRESS.
    pub const OPERATION_IN_PROGRESS: Self = Self::new(SenseKey::IllegalRequest, 0x00, 0x16);
    /// INSUFFICIENT RESOURCES.
    pub const RESOURCES: Self = Self::new(SenseKey::IllegalRequest, 0x55, 0x03);
    /// A segment of a copy could not be processed.
    pub const COPY_ABORTED: Self = Self::new(SenseKey::CopyAborted, 0x00, 0x00);
    /// UNREACHABLE COPY TARGET: a segment names a CSCD that is not in the list.
    pub const NO_SUCH_CSCD: Self = Self::new(SenseKey::CopyAborted, 0x08, 0x04);
    /// THIRD PARTY DEVICE FAILURE.
    pub const THIRD_PARTY_FAILURE: Self = Self::new(SenseKey::CopyAborted, 0x0d, 0x01);
    /// COPY TARGET DEVICE NOT REACHABLE.
    pub const CSCD_NOT_REACHABLE: Self = Self::new(SenseKey::CopyAborted, 0x0d, 0x02);
    /// INCORRECT COPY TARGET DEVICE TYPE.
    pub const CSCD_TYPE: Self = Self::new(SenseKey::CopyAborted, 0x0d, 0x03);
    /// COPY SEGMENT GRANULARITY VIOLATION.
    pub const COPY_GRANULARITY: Self = Self::new(SenseKey::CopyAborted, 0x26, 0x0d);
    /// INVALID RELEASE OF PERSISTENT RESERVATION.
    pub const INVALID_RELEASE: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x04);
    /// INSUFFICIENT REGISTRATION RESOURCES.
    pub const REGISTRATIONS: Self = Self::new(SenseKey::IllegalRequest, 0x55, 0x04);
    /// SAVING PARAMETERS NOT SUPPORTED.
    pub const SAVING: Self = Self::new(SenseKey::IllegalRequest, 0x39, 0x00);
    /// MEDIUM NOT PRESENT.
    pub const NO_MEDIUM: Self = Self::new(SenseKey::NotReady, 0x3a, 0x00);
    /// MEDIUM REMOVAL PREVENTED.
    pub const REMOVAL_PREVENTED: Self = Self::new(SenseKey::IllegalRequest, 0x53, 0x02);
    /// WRITE PROTECTED.
    pub const WRITE_PROTECTED: Self = Self::new(SenseKey::DataProtect, 0x27, 0x00);
    /// SPACE ALLOCATION FAILED WRITE PROTECT.
    pub const NO_SPACE: Self = Self::new(SenseKey::DataProtect, 0x27, 0x07);
    /// UNRECOVERED READ ERROR.
    pub const READ_ERROR: Self = Self::new(SenseKey::MediumError, 0x11, 0x00);
    /// WRITE ERROR.
    pub const WRITE_ERROR: Self = Self::new(SenseKey::MediumError, 0x0c, 0x00);
    /// INTERNAL TARGET FAILURE.
    pub const TARGET_FAILURE: Self = Self::new(SenseKey::HardwareError, 0x44, 0x00);
    /// MISCOMPARE DURING VERIFY OPERATION.
    pub const MISCOMPARE: Self = Self::new(SenseKey::Miscompare, 0x1d, 0x00);
    /// PROTOCOL SERVICE CRC ERROR: a data digest was wrong.
    pub const CRC: Self = Self::new(SenseKey::AbortedCommand, 0x47, 0x05);
    /// INSUFFICIENT RESOURCES, of a command that may be tried again.
    pub const OVERLOADED: Self = Self::new(SenseKey::AbortedCommand, 0x55, 0x03);

    /// Sense without further fields.
    pub const fn new(key: SenseKey, code: u8, qualifier: u8) -> Self {
        let format = SenseFormat::Fixed;
        Self {
            key,
            code: [code, qualifier],
            information: None,
            segment: None,
            format,
        }
    }

    /// MISCOMPARE whose first different byte is `offset_bytes` from the start of the data sent.
    pub const fn miscompare(offset_bytes: u64) -> Self {
        Self {
            information: Some(offset_bytes),
            ..Self::MISCOMPARE
        }
    }

    /// The same sense about a segment of a copy.
    #[must_use]
    pub const fn in_segment(self, segment: u16) -> Self {
        Self {
            segment: Some(segment),
            ..self
        }
    }

    /// The same sense in another layout.
    #[must_use]
    pub const fn with_format(self, format: SenseFormat) -> Self {
        Self { format, ..self }
    }

    /// Sense data as they go on the wire.
    pub fn to_bytes(&self) -> Bytes {
        match self.format {
            SenseFormat::Fixed => self.fixed(),
            SenseFormat::Descriptor => self.descriptor(),
        }
    }

    /// SPC-4 §4.5.3.
    fn fixed(&self) -> Bytes {
        let mut sense = [0; 18];
        sense[0] = 0x70;
        sense[2] = self.key as u8;
        // A value that does not fit is left out, with VALID zero (SPC-4 §4.5.3).
        if let Some(Ok(information)) = self.information.map(u32::try_from) {
            sense[0] |= 0x80;
            sense[3..7].copy_from_slice(&information.to_be_bytes());
        }
        sense[7] = 10;
        if let Some(segment) = self.segment {
            sense[10..12].copy_from_slice(&segment.to_be_bytes());
        }
        sense[12..14].copy_from_slice(&self.code);
        Bytes::copy_from_slice(&sense)
    }

    /// SPC-4 §4.5.2.1 to §4.5.2.3.
    fn descriptor(&self) -> Bytes {
        let mut sense = vec![0x72, self.key as u8, self.code[0], self.code[1], 0, 0, 0, 0];
        if let Some(information) = self.information {
            sense.extend([0x00, 0x0a, 0x80, 0x00]);
            sense.extend(information.to_be_bytes());
        }
        if let Some(segment) = self.segment {
            sense.extend([0x01, 0x0a, 0x00, 0x00]);
            sense.extend((u64::from(segment) << 32).to_be_bytes());
        }
        sense[7] = u8::try_from(sense.len() - 8).expect("two descriptors at most");
        sense.into()
    }
}

/// What was being done when a backend failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    Reading,
    Writing,
}

/// The one translation of backend errors. None means that no status may be sent (law R8).
pub(crate) fn of_backend_error(error: BackendError, doing: Doing) -> Option<Sense> {
    match (error, doing) {
        (BackendError::Medium, Doing::Reading) => Some(Sense::READ_ERROR),
        (BackendError::Medium, Doing::Writing) => Some(Sense::WRITE_ERROR),
        (BackendError::Hardware, _) => Some(Sense::TARGET_FAILURE),
        (BackendError::NoSpace, _) => Some(Sense::NO_SPACE),
        (BackendError::Overloaded, _) => Some(Sense::OVERLOADED),
        (BackendError::NotActive, _) => None,
    }
}
