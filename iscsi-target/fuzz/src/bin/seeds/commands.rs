//! Commands that some initiator uses, and their neighbours.

use super::Seeds;

/// Operation codes with the second byte that says what is meant.
const CODES: [(u8, u8); 59] = [
    (0x00, 0),
    (0x03, 0),
    (0x04, 0),
    (0x08, 0),
    (0x0a, 0),
    (0x12, 0),
    (0x12, 1),
    (0x15, 0x10),
    (0x16, 0),
    (0x17, 0),
    (0x1a, 0),
    (0x1b, 0),
    (0x1d, 0),
    (0x1e, 0),
    (0x25, 0),
    (0x28, 0),
    (0x2a, 0),
    (0x2e, 2),
    (0x2f, 2),
    (0x34, 0),
    (0x35, 0),
    (0x37, 0),
    (0x41, 8),
    (0x42, 0),
    (0x48, 0),
    (0x4d, 0),
    (0x55, 0x10),
    (0x5a, 0),
    (0x5e, 0),
    (0x5e, 2),
    (0x5f, 0),
    (0x5f, 1),
    (0x5f, 2),
    (0x5f, 3),
    (0x5f, 4),
    (0x5f, 5),
    (0x5f, 6),
    (0x5f, 7),
    (0x83, 1),
    (0x7f, 0),
    (0x83, 0),
    (0x84, 0),
    (0x84, 3),
    (0x88, 0),
    (0x89, 0),
    (0x8a, 0),
    (0x8b, 0),
    (0x8e, 2),
    (0x8f, 2),
    (0x91, 0),
    (0x93, 8),
    (0x9e, 0x10),
    (0x9e, 0x12),
    (0xa0, 0),
    (0xa3, 0x0a),
    (0xa3, 0x0c),
    (0xa8, 0),
    (0xaa, 0),
    (0xff, 0xff),
];

/// Each with and without data, on a unit that can be written and on one that cannot.
pub(crate) fn seeds() -> Seeds {
    let one = |cdb: &[u8; 16], direction: u8, lun: u8, data: &[u8]| -> Vec<u8> {
        let len = u16::try_from(data.len()).expect("short");
        let head = [
            &cdb[..],
            &[direction, lun],
            &4096u32.to_be_bytes(),
            &len.to_be_bytes(),
        ];
        [&head.concat()[..], data].concat()
    };
    let mut seeds = Seeds::new();
    for (code, action) in CODES {
        let mut all = Vec::new();
        for lun in 0..2 {
            // A length of one in every place where some command has its own.
            let mut cdb = [code, action, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0];
            all.extend(one(&cdb, 1, lun, &[]));
            all.extend(one(&cdb, 2, lun, &[0; 512]));
            cdb[4] = 24;
            cdb[8] = 24;
            cdb[13] = 24;
            all.extend(one(&cdb, 2, lun, &parameter_list()));
            all.extend(one(&cdb, 0x82, lun, &parameter_list()));
        }
        seeds.push((format!("{code:02x}-{action:02x}"), all));
    }
    seeds
}

/// Lengths and one descriptor, as UNMAP and others have them.
fn parameter_list() -> [u8; 24] {
    let mut list = [0; 24];
    list[1] = 22;
    list[3] = 16;
    list[15] = 8;
    list[19] = 4;
    list
}
