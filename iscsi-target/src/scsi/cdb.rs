//! Command descriptor blocks as they are on the wire: one struct per layout (SPC-4 §6, SBC-3 §5).

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Room for every CDB of this target.
pub(crate) const CDB_BYTES: usize = 16;

/// Reads one layout from the front of a CDB.
pub(crate) fn view<T>(cdb: &[u8; CDB_BYTES]) -> &T
where
    T: FromBytes + Immutable + KnownLayout + Unaligned,
{
    const { assert!(size_of::<T>() <= CDB_BYTES) };
    T::ref_from_prefix(cdb)
        .expect("the size was checked, and no layout asks for alignment")
        .0
}

macro_rules! layout {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, { $($field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        pub(crate) struct $name { $(pub(crate) $field: $kind,)* }
        const _: () = assert!(size_of::<$name>() == $bytes);
    };
}

layout!(
    /// READ (6) and WRITE (6).
    Block6, 6, { opcode: u8, lba_high: u8, lba_low: U16, blocks: u8, control: u8, }
);
layout!(
    /// Every ten-byte command with an address and a count of blocks.
    Block10, 10, { opcode: u8, flags: u8, lba: U32, group: u8, blocks: U16, control: u8, }
);
layout!(
    /// Every twelve-byte one.
    Block12, 12, { opcode: u8, flags: u8, lba: U32, blocks: U32, group: u8, control: u8, }
);
layout!(
    /// Every sixteen-byte one. READ CAPACITY (16) has the same shape, with an
    /// allocation length in `blocks`.
    Block16, 16, { opcode: u8, flags: u8, lba: U64, blocks: U32, group: u8, control: u8, }
);
layout!(
    /// COMPARE AND WRITE.
    CompareAndWrite, 16,
    { opcode: u8, flags: u8, lba: U64, reserved: [u8; 3], blocks: u8, group: u8, control: u8, }
);
layout!(
    /// UNMAP.
    Unmap, 10,
    { opcode: u8, flags: u8, reserved: [u8; 4], group: u8, list_bytes: U16, control: u8, }
);
layout!(
    /// START STOP UNIT.
    StartStop, 6,
    { opcode: u8, immediate: u8, reserved: u8, modifier: u8, flags: u8, control: u8, }
);
layout!(
    /// INQUIRY.
    Inquiry, 6, { opcode: u8, flags: u8, page: u8, allocation_bytes: U16, control: u8, }
);
layout!(
    /// REQUEST SENSE.
    RequestSense, 6,
    { opcode: u8, flags: u8, reserved: [u8; 2], allocation_bytes: u8, control: u8, }
);
layout!(
    /// MODE SENSE (6). MODE SELECT (6) has the same shape.
    Mode6, 6,
    { opcode: u8, flags: u8, page: u8, subpage: u8, len_bytes: u8, control: u8, }
);
layout!(
    /// MODE SENSE (10). MODE SELECT (10) has the same shape.
    Mode10, 10,
    {
        opcode: u8, flags: u8, page: u8, subpage: u8, reserved: [u8; 3], len_bytes: U16,
        control: u8,
    }
);
layout!(
    /// REPORT LUNS.
    ReportLuns, 12,
    {
        opcode: u8, reserved: u8, select: u8, also_reserved: [u8; 3], allocation_bytes: U32,
        last_reserved: u8, control: u8,
    }
);
layout!(
    /// REPORT SUPPORTED OPERATION CODES. REPORT TARGET PORT GROUPS has the same
    /// shape without the fields in the middle.
    MaintenanceIn, 12,
    {
        opcode: u8, service_action: u8, options: u8, requested_opcode: u8,
        requested_action: U16, allocation_bytes: U32, reserved: u8, control: u8,
    }
);
layout!(
    /// EXTENDED COPY, with the length of the list. RECEIVE COPY RESULTS has the same shape with the
    /// list identifier and an allocation length.
    ThirdPartyCopy, 16,
    {
        opcode: u8, service_action: u8, list_id: u8, reserved: [u8; 7], len_bytes: U32,
        also_reserved: u8, control: u8,
    }
);
layout!(
    /// LOG SENSE.
    LogSense, 10,
    {
        opcode: u8, flags: u8, page: u8, subpage: u8, reserved: u8, parameter: U16,
        allocation_bytes: U16, control: u8,
    }
);
layout!(
    /// READ DEFECT DATA (10).
    ReadDefects10, 10,
    {
        opcode: u8, reserved: u8, lists: u8, also_reserved: [u8; 4], allocation_bytes: U16,
        control: u8,
    }
);
layout!(
    /// READ DEFECT DATA (12).
    ReadDefects12, 12,
    {
        opcode: u8, lists: u8, first: U32, allocation_bytes: U32, reserved: u8, control: u8,
    }
);
layout!(
    /// PERSISTENT RESERVE IN.
    PersistentIn, 10,
    {
        opcode: u8, service_action: u8, reserved: [u8; 5], allocation_bytes: U16, control: u8,
    }
);
layout!(
    /// PERSISTENT RESERVE OUT.
    PersistentOut, 10,
    {
        opcode: u8, service_action: u8, scope_and_type: u8, reserved: [u8; 2], list_bytes: U32,
        control: u8,
    }
);
