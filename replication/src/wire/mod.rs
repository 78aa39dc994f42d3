//! Frames of the data session: a 64-byte header with its own checksum, then a payload.
//!
//! ```text
//!  0 magic 4 | version 2 | kind 1 | flags 1
//!  8 epoch 8        16 seq 8         24 dep_seq 8
//! 32 offset 8       40 length 8
//! 48 session 4 | volume 4 | payload_len 4 | crc32c 4   (of the 60 bytes before it)
//! ```
//!
//! Little-endian throughout. A payload is a body followed by one CRC32C per 4 KiB block of it, so
//! that a receiver can read the body to an aligned buffer. Nothing past this module re-checks a
//! length.

pub mod applied;
pub mod data;
pub mod digest;
pub mod hello;
pub mod mask;
pub mod verify;
pub mod volumes;

use crate::types::{Epoch, VolumeNumber};
use thiserror::Error;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 64;
/// Largest payload of a frame, data and checksums.
pub const PAYLOAD_MAX_BYTES: usize = DATA_MAX_BYTES + DATA_MAX_BYTES / CHECKED_BYTES * 4;
/// Largest run of data in one frame.
pub const DATA_MAX_BYTES: usize = 16 << 20;
/// Bytes covered by one checksum.
pub const CHECKED_BYTES: usize = 4096;
/// Version of everything in this module.
pub const VERSION: u16 = 1;

const MAGIC: u32 = u32::from_le_bytes(*b"TWSN");

/// A frame that is not to be understood; the session that carried it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// Not ours.
    #[error("frame header has the wrong magic number {0:#010x}")]
    Magic(u32),
    /// Damaged.
    #[error("frame header fails its checksum")]
    HeaderChecksum,
    /// Of another version.
    #[error("frame has format version {0}, this is version {VERSION}")]
    Version(u16),
    /// No such kind.
    #[error("frame has unknown kind {0}")]
    Kind(u8),
    /// A field outside its range.
    #[error("frame field {0} is out of range")]
    Field(&'static str),
    /// The payload's data is damaged.
    #[error("block {0} of the payload fails its checksum")]
    DataChecksum(usize),
    /// Proof of identity is wrong.
    #[error("the peer does not know the group key, or is another box")]
    Authentication,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Primary introduces itself: [`hello::Hello`].
    Hello = 1,
    /// Secondary answers with proof of the key: [`hello::Welcome`].
    Welcome = 2,
    /// Primary proves the key: [`hello::Proof`]; what follows is trusted.
    Proof = 3,
    /// The primary's volume table: [`volumes::Table`]; its epoch is in the header.
    Table = 4,
    /// The secondary's copy after the table is settled: [`hello::State`].
    State = 5,
    /// Dirty runs of one volume of the secondary: [`mask::Runs`].
    Mask = 6,
    /// End of the masks.
    MaskEnd = 7,
    /// The primary made the masks durable; the stream begins.
    Begin = 8,
    /// What the secondary applied of an earlier session: [`applied::Applied`]; before the masks.
    Applied = 9,
    /// Data of an application write.
    Write = 16,
    /// Zeroes written by the application; `length` bytes.
    WriteZeroes = 17,
    /// A resync block.
    ResyncData = 18,
    /// A resync block of zeroes; `length` bytes.
    ResyncZero = 19,
    /// Make every earlier frame of `volume` stable.
    Flush = 20,
    /// From here on the epoch is the header's, and the receiver is in sync (law R6).
    Epoch = 21,
    /// Make a volume: [`volumes::Table`] of one entry.
    VolumeCreate = 22,
    /// Delete a volume: [`volumes::Table`] of one entry.
    VolumeDelete = 23,
    /// Make a volume larger: [`volumes::Table`] of one entry, with its new size.
    VolumeGrow = 24,
    /// Hashes of blocks, to be compared: [`digest::parse`]. The answer has a bit in `offset` for
    /// each that differs.
    ResyncHash = 25,
    /// What `offset` and `length` name, as it is after every earlier frame: [`Kind::ReadReply`].
    Read = 30,
    /// Hashes of a range as it is after every earlier frame, to be compared with the receiver's:
    /// [`verify::Verify`], answered by [`Kind::VerifyReply`].
    Verify = 31,
    /// The frame `seq` is on the device, the marker durable, the volume made, larger or deleted.
    Ack = 32,
    /// Every frame up to `seq` of `volume` is stable.
    StableAck = 33,
    /// The frame `seq` was refused; the reason is in `flags`.
    Nack = 34,
    /// What was asked for by the frame `seq`.
    ReadReply = 40,
    /// Which pieces of the frame `seq` differ: a bit in `offset` for each. If the range was one
    /// piece of the smallest size, the body is what is there.
    VerifyReply = 41,
    /// Sent when nothing else was for a while.
    Ping = 48,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 27] = [
        Self::Hello,
        Self::Welcome,
        Self::Proof,
        Self::Table,
        Self::State,
        Self::Mask,
        Self::MaskEnd,
        Self::Begin,
        Self::Applied,
        Self::Write,
        Self::WriteZeroes,
        Self::ResyncData,
        Self::ResyncZero,
        Self::Flush,
        Self::Epoch,
        Self::VolumeCreate,
        Self::VolumeDelete,
        Self::VolumeGrow,
        Self::ResyncHash,
        Self::Read,
        Self::Verify,
        Self::Ack,
        Self::StableAck,
        Self::Nack,
        Self::ReadReply,
        Self::VerifyReply,
        Self::Ping,
    ];

    /// Whether the frame has a place in the stream, a sequence number of its own.
    #[must_use]
    pub const fn is_sequenced(self) -> bool {
        matches!(self as u8, 16..=31)
    }

    /// Whether the payload is data and checksums.
    #[must_use]
    pub const fn has_data(self) -> bool {
        matches!(self, Self::Write | Self::ResyncData)
    }
}

/// Why a frame was refused, in the flags of [`Kind::Nack`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// The epoch is sealed (law R3).
    Sealed = 1,
    /// The disk failed.
    Disk = 2,
    /// A volume cannot be made or deleted.
    Volume = 3,
    /// The copies cannot be joined.
    Unrelated = 4,
    /// No room for the frame `seq`; nothing else is wrong.
    NoRoom = 5,
    /// What the frame `seq` asks for cannot be read.
    Unreadable = 6,
}

impl Refusal {
    /// The refusal with this number.
    #[must_use]
    pub const fn from_flags(flags: u8) -> Option<Self> {
        match flags {
            1 => Some(Self::Sealed),
            2 => Some(Self::Disk),
            3 => Some(Self::Volume),
            4 => Some(Self::Unrelated),
            5 => Some(Self::NoRoom),
            6 => Some(Self::Unreadable),
            _ => None,
        }
    }
}

/// Flag of [`Kind::Write`] and [`Kind::WriteZeroes`]: stable before the acknowledgement.
pub const FLAG_FUA: u8 = 1;

/// A header, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Its meaning depends on the kind.
    pub flags: u8,
    /// The sender's epoch.
    pub epoch: Epoch,
    /// Place in the stream of a sequenced frame, or the place that is answered.
    pub seq: u64,
    /// The last earlier frame that overlaps and was not known to be applied when this was sent.
    pub dep_seq: u64,
    /// Bytes in the volume's data area.
    pub offset: u64,
    /// Bytes covered.
    pub length: u64,
    /// Number of the session, chosen by the primary, rising.
    pub session: u32,
    /// The volume.
    pub volume: VolumeNumber,
    /// Bytes that follow the header.
    pub payload_len: u32,
}

impl Header {
    /// A header with everything zero but these.
    #[must_use]
    pub const fn new(kind: Kind, epoch: Epoch, session: u32) -> Self {
        Self {
            kind,
            flags: 0,
            epoch,
            seq: 0,
            dep_seq: 0,
            offset: 0,
            length: 0,
            session,
            volume: VolumeNumber::SYSTEM,
            payload_len: 0,
        }
    }

    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut raw = RawHeader {
            magic: U32::new(MAGIC),
            version: U16::new(VERSION),
            kind: self.kind as u8,
            flags: self.flags,
            epoch: U64::new(self.epoch.0),
            seq: U64::new(self.seq),
            dep_seq: U64::new(self.dep_seq),
            offset: U64::new(self.offset),
            length: U64::new(self.length),
            session: U32::new(self.session),
            volume: U32::new(self.volume.0),
            payload_len: U32::new(self.payload_len),
            crc: U32::new(0),
        };
        raw.crc = U32::new(crc32c::crc32c(&raw.as_bytes()[..HEADER_LEN - 4]));
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// A header that this version did not write.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, WireError> {
        let raw = RawHeader::ref_from_bytes(bytes).expect("the array has the size of a header");
        if raw.magic.get() != MAGIC {
            return Err(WireError::Magic(raw.magic.get()));
        }
        if raw.crc.get() != crc32c::crc32c(&bytes[..HEADER_LEN - 4]) {
            return Err(WireError::HeaderChecksum);
        }
        if raw.version.get() != VERSION {
            return Err(WireError::Version(raw.version.get()));
        }
        let kind = Kind::ALL.into_iter().find(|kind| *kind as u8 == raw.kind);
        let kind = kind.ok_or(WireError::Kind(raw.kind))?;
        if raw.payload_len.get() as usize > PAYLOAD_MAX_BYTES {
            return Err(WireError::Field("payload_len"));
        }
        Ok(Self {
            kind,
            flags: raw.flags,
            epoch: Epoch(raw.epoch.get()),
            seq: raw.seq.get(),
            dep_seq: raw.dep_seq.get(),
            offset: raw.offset.get(),
            length: raw.length.get(),
            session: raw.session.get(),
            volume: VolumeNumber(raw.volume.get()),
            payload_len: raw.payload_len.get(),
        })
    }
}

/// Closes a header over the body that follows it; the checksums to send after the body.
///
/// Of a frame with a range, `length` is the range's, which is the body's too if it has one.
#[must_use]
pub fn seal(header: &mut Header, body: &[u8]) -> bytes::Bytes {
    let trailer = data::trailer(body);
    if !body.is_empty() {
        header.length = body.len() as u64;
    }
    let payload_len = body.len() + trailer.len();
    header.payload_len = u32::try_from(payload_len).expect("bodies are bounded");
    trailer
}

/// Reads a frame as it came; its header, and its body after the checksums were compared.
///
/// # Errors
/// Anything that [`seal`] did not close.
pub fn open(
    header: &[u8; HEADER_LEN],
    payload: &bytes::Bytes,
) -> Result<(Header, bytes::Bytes), WireError> {
    let header = Header::parse(header)?;
    if header.payload_len as usize != payload.len() {
        return Err(WireError::Field("payload_len"));
    }
    if payload.is_empty() {
        return Ok((header, bytes::Bytes::new()));
    }
    Ok((header, data::verify(payload, header.length)?))
}

/// How many bytes of payload follow `header`.
///
/// # Errors
/// A header that is not to be understood: close the connection.
pub fn payload_len(header: &[u8; HEADER_LEN]) -> Result<usize, WireError> {
    Ok(Header::parse(header)?.payload_len as usize)
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: U32,
    version: U16,
    kind: u8,
    flags: u8,
    epoch: U64,
    seq: U64,
    dep_seq: U64,
    offset: U64,
    length: U64,
    session: U32,
    volume: U32,
    payload_len: U32,
    crc: U32,
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_LEN);

#[cfg(test)]
mod tests;
