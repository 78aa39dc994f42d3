//! The parameter list of an EXTENDED COPY (SPC-4 §5.16.7 and §6.4), parsed once.

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::scsi::sense::Sense;

/// CSCD descriptors of one list: its units.
pub(crate) const CSCDS_MAX: usize = 16;
/// Segment descriptors of one list.
pub(crate) const SEGMENTS_MAX: usize = 64;
/// Both kinds of descriptors together, in bytes.
pub(crate) const DESCRIPTORS_MAX_BYTES: usize =
    CSCDS_MAX * size_of::<CscdLayout>() + SEGMENTS_MAX * size_of::<SegmentLayout>();
/// A whole list, in bytes.
pub(crate) const LIST_MAX_BYTES: usize = size_of::<Header>() + DESCRIPTORS_MAX_BYTES;

/// Identification descriptor.
pub(crate) const CSCD_IDENTIFICATION: u8 = 0xe4;
/// Block device to block device.
pub(crate) const SEGMENT_BLOCKS: u8 = 0x02;

/// What is to be copied.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct List {
    /// Under which number its state can be asked for.
    pub(crate) id: Option<u8>,
    pub(crate) cscds: Vec<Cscd>,
    pub(crate) segments: Vec<Segment>,
}

/// Where data come from or go to: a unit by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cscd {
    /// Its NAA name; none if it is named in a way in which none of ours is.
    pub(crate) name: Option<[u8; 8]>,
    /// PERIPHERAL DEVICE TYPE.
    pub(crate) device_type: u8,
    /// DISK BLOCK LENGTH.
    pub(crate) block_bytes: u32,
}

/// One run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Position of the source among the CSCDs.
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) counted_by: Side,
    pub(crate) blocks: u16,
    pub(crate) source_lba: u64,
    pub(crate) destination_lba: u64,
}

/// DC: whose blocks the count of blocks is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

impl List {
    /// Reads a list. What its segments ask for is judged when their turn comes.
    pub(crate) fn parse(list: &[u8]) -> Result<Self, Sense> {
        let (header, rest) = Header::ref_from_prefix(list).map_err(|_| Sense::LIST_LENGTH)?;
        let cscd_bytes = usize::from(header.cscd_bytes.get());
        let segment_bytes = bytes(header.segment_bytes);
        let sum_bytes = cscd_bytes.saturating_add(segment_bytes);
        if sum_bytes > DESCRIPTORS_MAX_BYTES || sum_bytes > rest.len() {
            return Err(Sense::LIST_LENGTH);
        }
        if header.inline_bytes.get() > 0 {
            return Err(Sense::INLINE_DATA);
        }
        let (cscds, rest) = rest.split_at(cscd_bytes);
        Ok(Self {
            id: list_id(header)?,
            cscds: cscd_list(cscds)?,
            segments: segment_list(&rest[..segment_bytes])?,
        })
    }
}

/// LIST ID USAGE: the state of a copy without a number cannot be asked for.
fn list_id(header: &Header) -> Result<Option<u8>, Sense> {
    match (header.flags >> 3 & 0x03, header.id) {
        (0 | 2, id) => Ok(Some(id)),
        (3, 0) => Ok(None),
        _ => Err(Sense::LIST_FIELD),
    }
}

fn cscd_list(mut rest: &[u8]) -> Result<Vec<Cscd>, Sense> {
    let mut cscds = Vec::new();
    while let Some(kind) = rest.first() {
        if cscds.len() == CSCDS_MAX {
            return Err(Sense::TOO_MANY_CSCDS);
        }
        if *kind != CSCD_IDENTIFICATION {
            return Err(Sense::CSCD_KIND);
        }
        let (layout, after) = CscdLayout::ref_from_prefix(rest).map_err(|_| Sense::LIST_LENGTH)?;
        cscds.push(cscd(layout)?);
        rest = after;
    }
    Ok(cscds)
}

/// LU ID TYPE counts no more in SPC-4; PAD only for what is not whole blocks.
fn cscd(layout: &CscdLayout) -> Result<Cscd, Sense> {
    let len = usize::from(layout.designator_bytes);
    let designator = layout.designator.get(..len).ok_or(Sense::LIST_FIELD)?;
    let kind = (layout.code_set & 0x0f, layout.designator_type & 0x3f);
    let name = if kind == BINARY_NAA_OF_UNIT {
        designator.try_into().ok()
    } else {
        None
    };
    let [high, middle, low] = layout.block_bytes;
    Ok(Cscd {
        name,
        device_type: layout.device_type & 0x1f,
        block_bytes: u32::from_be_bytes([0, high, middle, low]),
    })
}

fn segment_list(mut rest: &[u8]) -> Result<Vec<Segment>, Sense> {
    let mut segments = Vec::new();
    while let Some(kind) = rest.first() {
        if segments.len() == SEGMENTS_MAX {
            return Err(Sense::TOO_MANY_SEGMENTS);
        }
        if *kind != SEGMENT_BLOCKS {
            return Err(Sense::SEGMENT_KIND);
        }
        let (layout, after) =
            SegmentLayout::ref_from_prefix(rest).map_err(|_| Sense::LIST_LENGTH)?;
        segments.push(segment(layout)?);
        rest = after;
    }
    Ok(segments)
}

/// CAT counts only for what is not whole blocks.
fn segment(layout: &SegmentLayout) -> Result<Segment, Sense> {
    if usize::from(layout.len_bytes.get()) != size_of::<SegmentLayout>() - 4 {
        return Err(Sense::LIST_FIELD);
    }
    let counted_by = if layout.flags & 0x02 == 0 {
        Side::Source
    } else {
        Side::Destination
    };
    Ok(Segment {
        source: layout.source.get(),
        destination: layout.destination.get(),
        counted_by,
        blocks: layout.blocks.get(),
        source_lba: layout.source_lba.get(),
        destination_lba: layout.destination_lba.get(),
    })
}

/// A 32-bit length; `usize` is never smaller here.
fn bytes(len: U32) -> usize {
    usize::try_from(len.get()).unwrap_or(usize::MAX)
}

/// Code set 1; association 0 and designator type 3.
const BINARY_NAA_OF_UNIT: (u8, u8) = (0x01, 0x03);

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    id: u8,
    flags: u8,
    cscd_bytes: U16,
    reserved: [u8; 4],
    segment_bytes: U32,
    inline_bytes: U32,
}
const _: () = assert!(size_of::<Header>() == 16);

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct CscdLayout {
    kind: u8,
    device_type: u8,
    relative_port: U16,
    code_set: u8,
    designator_type: u8,
    reserved: u8,
    designator_bytes: u8,
    designator: [u8; 20],
    pad: u8,
    block_bytes: [u8; 3],
}
const _: () = assert!(size_of::<CscdLayout>() == 32);

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SegmentLayout {
    kind: u8,
    flags: u8,
    len_bytes: U16,
    source: U16,
    destination: U16,
    reserved: [u8; 2],
    blocks: U16,
    source_lba: U64,
    destination_lba: U64,
}
const _: () = assert!(size_of::<SegmentLayout>() == 28);
