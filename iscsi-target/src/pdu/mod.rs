//! Protocol data units (RFC 7143 §11): one struct for each figure, 48 bytes each.
//!
//! Every field is a plain number in network order, so every 48 bytes are *some* header and reading
//! one cannot fail. What a header may say is the business of the state machines.

pub mod async_event;
pub mod command;
pub mod data;
pub mod frame;
pub mod login;
pub mod logout;
pub mod nop;
pub mod outbox;
pub mod r2t;
pub mod reject;
pub mod task;
pub mod text;

use zerocopy::byteorder::network_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of every basic header segment, in bytes (RFC 7143 §11.2.1).
pub const BHS_LEN_BYTES: usize = 48;
/// The bit of byte 0 that marks a request for immediate delivery (RFC 7143 §11.2.1.1).
pub const IMMEDIATE: u8 = 0x40;
/// The F bit of byte 1: last or only PDU of its sequence (RFC 7143 §11.2.1.3).
pub const FINAL: u8 = 0x80;

/// The operation codes of RFC 7143 §11.2.1.2.
pub mod opcode {
    /// NOP-Out.
    pub const NOP_OUT: u8 = 0x00;
    /// SCSI Command.
    pub const COMMAND: u8 = 0x01;
    /// Task Management Function Request.
    pub const TASK_REQUEST: u8 = 0x02;
    /// Login Request.
    pub const LOGIN_REQUEST: u8 = 0x03;
    /// Text Request.
    pub const TEXT_REQUEST: u8 = 0x04;
    /// SCSI Data-Out.
    pub const DATA_OUT: u8 = 0x05;
    /// Logout Request.
    pub const LOGOUT_REQUEST: u8 = 0x06;
    /// SNACK Request.
    pub const SNACK: u8 = 0x10;
    /// NOP-In.
    pub const NOP_IN: u8 = 0x20;
    /// SCSI Response.
    pub const RESPONSE: u8 = 0x21;
    /// Task Management Function Response.
    pub const TASK_RESPONSE: u8 = 0x22;
    /// Login Response.
    pub const LOGIN_RESPONSE: u8 = 0x23;
    /// Text Response.
    pub const TEXT_RESPONSE: u8 = 0x24;
    /// SCSI Data-In.
    pub const DATA_IN: u8 = 0x25;
    /// Logout Response.
    pub const LOGOUT_RESPONSE: u8 = 0x26;
    /// Ready To Transfer.
    pub const R2T: u8 = 0x31;
    /// Asynchronous Message.
    pub const ASYNC: u8 = 0x32;
    /// Reject.
    pub const REJECT: u8 = 0x3f;
}

/// A 24-bit length in network order (`DataSegmentLength`).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub struct Len24([u8; 3]);

impl Len24 {
    /// Largest length that fits, in bytes.
    pub const MAX: u32 = 0x00ff_ffff;

    /// The length in bytes, at most 2^24 - 1.
    #[must_use]
    pub const fn bytes(self) -> usize {
        (self.0[0] as usize) << 16 | (self.0[1] as usize) << 8 | self.0[2] as usize
    }

    /// A length of `len_bytes`; more than [`Len24::MAX`] is a bug of ours.
    #[must_use]
    pub fn new(len_bytes: usize) -> Self {
        let len = u32::try_from(len_bytes).unwrap_or(u32::MAX);
        assert!(len <= Self::MAX, "data segment of {len_bytes} bytes");
        let [_, a, b, c] = len.to_be_bytes();
        Self([a, b, c])
    }
}

/// What all headers share (RFC 7143 §11.2.1).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Bhs {
    /// Operation code in the low six bits, immediate bit 0x40.
    pub opcode: u8,
    /// Flags; their meaning depends on the operation.
    pub flags: u8,
    /// Depends on the operation.
    pub specific: [u8; 2],
    /// Length of the additional header segments, in words of four bytes.
    pub ahs_len_words: u8,
    /// Length of the data segment without padding.
    pub data_len: Len24,
    /// LUN, or fields of the operation.
    pub lun: [u8; 8],
    /// Initiator task tag.
    pub itt: U32,
    /// Depends on the operation.
    pub rest: [u8; 28],
}

impl Bhs {
    /// The header in these bytes.
    #[must_use]
    pub fn from_wire(bytes: &[u8; BHS_LEN_BYTES]) -> Self {
        zerocopy::transmute!(*bytes)
    }

    /// The bytes of this header.
    #[must_use]
    pub fn to_wire(&self) -> [u8; BHS_LEN_BYTES] {
        zerocopy::transmute!(*self)
    }

    /// The operation code without the immediate bit.
    #[must_use]
    pub const fn operation(&self) -> u8 {
        self.opcode & 0x3f
    }

    /// Read this header as that of one operation.
    #[must_use]
    pub fn cast<H: Header>(&self) -> H {
        H::read_from_bytes(self.as_bytes()).expect("every header has the size of a Bhs")
    }
}

/// A header of one operation; implemented by the structs of this module's children only.
pub trait Header: FromBytes + IntoBytes + KnownLayout + Immutable + Copy {
    /// The same bytes as a general header.
    #[must_use]
    fn bhs(&self) -> Bhs {
        Bhs::read_from_bytes(self.as_bytes()).expect("every header has the size of a Bhs")
    }
}

impl Header for Bhs {}

/// Declares that a struct is a 48-byte header.
macro_rules! header {
    ($name:ident) => {
        const _: () = assert!(size_of::<$name>() == $crate::pdu::BHS_LEN_BYTES);
        impl $crate::pdu::Header for $name {}
    };
}
pub(crate) use header;

/// How many zero bytes follow `len_bytes` bytes on the wire: segments end on four bytes.
#[must_use]
pub const fn padding_bytes(len_bytes: usize) -> usize {
    (4 - len_bytes % 4) % 4
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Checks that a header puts its fields where the figure puts them, and reads them back.
    pub(crate) fn check_layout<H: Header + PartialEq + core::fmt::Debug>(header: H, hex: &str) {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        assert_eq!(header.as_bytes(), bytes, "layout of {header:?}");
        assert_eq!(header.bhs().cast::<H>(), header);
    }

    #[test]
    fn lengths_have_three_bytes() {
        assert_eq!(Len24::new(0x01_02_03).bytes(), 0x01_02_03);
        assert_eq!(Len24::new(0x01_02_03).as_bytes(), [1, 2, 3]);
        assert_eq!(Len24::new(0xff_ff_ff).bytes(), 0xff_ff_ff);
    }

    #[test]
    #[should_panic(expected = "data segment of 16777216 bytes")]
    fn a_length_that_does_not_fit_is_a_bug() {
        let _ = Len24::new(1 << 24);
    }

    #[test]
    fn segments_end_on_four_bytes() {
        assert_eq!([0, 1, 2, 3, 4, 5].map(padding_bytes), [0, 3, 2, 1, 0, 3]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_and_come_back(bytes in any::<[u8; 48]>()) {
            let bhs = Bhs::from_wire(&bytes);
            prop_assert_eq!(bhs.to_wire(), bytes);
            prop_assert!(bhs.operation() < 0x40);
            prop_assert_eq!(bhs.cast::<command::Command>().bhs(), bhs);
            prop_assert_eq!(bhs.cast::<data::DataIn>().bhs(), bhs);
            prop_assert_eq!(bhs.cast::<login::Request>().bhs(), bhs);
        }
    }
}
