//! Command descriptor blocks (SPC-4, SBC-3).

use crate::backend::Fua;

/// A command descriptor block, padded with zeroes.
pub type Cdb = [u8; 16];

/// The flat form of a logical unit number (SAM-5 §4.7.5).
#[must_use]
pub const fn lun(number: u8) -> [u8; 8] {
    [0, number, 0, 0, 0, 0, 0, 0]
}

/// TEST UNIT READY.
#[must_use]
pub const fn test_unit_ready() -> Cdb {
    [0; 16]
}

/// INQUIRY, standard data.
#[must_use]
pub fn inquiry(allocation_bytes: u16) -> Cdb {
    cdb(&[(0, &[0x12]), (3, &allocation_bytes.to_be_bytes())])
}

/// INQUIRY of a vital product data page.
#[must_use]
pub fn inquiry_page(page: u8, allocation_bytes: u16) -> Cdb {
    cdb(&[(0, &[0x12, 1, page]), (3, &allocation_bytes.to_be_bytes())])
}

/// REPORT LUNS.
#[must_use]
pub fn report_luns(allocation_bytes: u32) -> Cdb {
    cdb(&[(0, &[0xa0]), (6, &allocation_bytes.to_be_bytes())])
}

/// REPORT TARGET PORT GROUPS.
#[must_use]
pub fn report_target_port_groups(allocation_bytes: u32) -> Cdb {
    cdb(&[(0, &[0xa3, 0x0a]), (6, &allocation_bytes.to_be_bytes())])
}

/// READ CAPACITY(16).
#[must_use]
pub fn read_capacity16(allocation_bytes: u32) -> Cdb {
    cdb(&[(0, &[0x9e, 0x10]), (10, &allocation_bytes.to_be_bytes())])
}

/// READ(10).
#[must_use]
pub fn read10(lba: u32, blocks: u16) -> Cdb {
    cdb(&[
        (0, &[0x28]),
        (2, &lba.to_be_bytes()),
        (7, &blocks.to_be_bytes()),
    ])
}

/// READ(16).
#[must_use]
pub fn read16(lba: u64, blocks: u32) -> Cdb {
    cdb(&[
        (0, &[0x88]),
        (2, &lba.to_be_bytes()),
        (10, &blocks.to_be_bytes()),
    ])
}

/// WRITE(10).
#[must_use]
pub fn write10(lba: u32, blocks: u16, fua: Fua) -> Cdb {
    cdb(&[
        (0, &[0x2a, flag(fua)]),
        (2, &lba.to_be_bytes()),
        (7, &blocks.to_be_bytes()),
    ])
}

/// WRITE(16).
#[must_use]
pub fn write16(lba: u64, blocks: u32, fua: Fua) -> Cdb {
    cdb(&[
        (0, &[0x8a, flag(fua)]),
        (2, &lba.to_be_bytes()),
        (10, &blocks.to_be_bytes()),
    ])
}

/// COMPARE AND WRITE; the data are what must be there, then what comes instead.
#[must_use]
pub fn compare_and_write(lba: u64, blocks: u8) -> Cdb {
    cdb(&[(0, &[0x89]), (2, &lba.to_be_bytes()), (13, &[blocks])])
}

/// UNMAP with the parameter list that belongs to it.
#[must_use]
pub fn unmap(ranges: &[(u64, u32)]) -> (Cdb, Vec<u8>) {
    let descriptors = u16::try_from(ranges.len() * 16).expect("at most 4095 ranges");
    let mut list = Vec::with_capacity(usize::from(descriptors) + 8);
    list.extend_from_slice(&(descriptors + 6).to_be_bytes());
    list.extend_from_slice(&descriptors.to_be_bytes());
    list.extend_from_slice(&[0; 4]);
    for (lba, blocks) in ranges {
        list.extend_from_slice(&lba.to_be_bytes());
        list.extend_from_slice(&blocks.to_be_bytes());
        list.extend_from_slice(&[0; 4]);
    }
    (
        cdb(&[(0, &[0x42]), (7, &(descriptors + 8).to_be_bytes())]),
        list,
    )
}

/// PERSISTENT RESERVE OUT of one nexus, with the parameter list that belongs to it.
#[must_use]
pub fn persistent_reserve_out(
    service_action: u8,
    kind: u8,
    key: u64,
    new_key: u64,
) -> (Cdb, Vec<u8>) {
    let mut list = [key.to_be_bytes(), new_key.to_be_bytes()].concat();
    list.resize(24, 0);
    let cdb = cdb(&[(0, &[0x5f, service_action, kind]), (8, &[24])]);
    (cdb, list)
}

/// SYNCHRONIZE CACHE(10) of the whole unit.
#[must_use]
pub fn synchronize_cache10() -> Cdb {
    cdb(&[(0, &[0x35])])
}

/// SYNCHRONIZE CACHE(16) of a range; 0 blocks are all up to the end.
#[must_use]
pub fn synchronize_cache16(lba: u64, blocks: u32) -> Cdb {
    cdb(&[
        (0, &[0x91]),
        (2, &lba.to_be_bytes()),
        (10, &blocks.to_be_bytes()),
    ])
}

const fn flag(fua: Fua) -> u8 {
    match fua {
        Fua::Yes => 0x08,
        Fua::No => 0,
    }
}

fn cdb(fields: &[(usize, &[u8])]) -> Cdb {
    let mut cdb = [0; 16];
    for (offset, bytes) in fields {
        cdb[*offset..*offset + bytes.len()].copy_from_slice(bytes);
    }
    cdb
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_standards_put_them() {
        assert_eq!(
            read10(0x0102_0304, 0x0506),
            *b"\x28\0\x01\x02\x03\x04\0\x05\x06\0\0\0\0\0\0\0"
        );
        assert_eq!(
            write16(1, 2, Fua::Yes),
            [0x8a, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0]
        );
        assert_eq!(
            inquiry_page(0x83, 0x1ff)[..6],
            [0x12, 1, 0x83, 0x01, 0xff, 0]
        );
        assert_eq!(
            read_capacity16(32)[..14],
            [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32]
        );
        assert_eq!(
            report_target_port_groups(8)[..10],
            [0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8]
        );
    }

    #[test]
    fn an_unmap_list_has_its_lengths() {
        let (cdb, list) = unmap(&[(7, 8)]);
        assert_eq!(cdb[..9], [0x42, 0, 0, 0, 0, 0, 0, 0, 24]);
        let expected = [
            0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0,
        ];
        assert_eq!(list, expected);
    }
}
