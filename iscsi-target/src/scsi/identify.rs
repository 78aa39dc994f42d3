//! INQUIRY: standard data and vital product data (SPC-4 §6.6 and §7.8, SBC-3 §6.6).

use super::array::Portal;
use super::block::{COMPARE_AND_WRITE_MAX_BLOCKS, TRANSFER_MAX_BYTES};
use super::block::{UNMAP_MAX_BLOCKS, UNMAP_MAX_DESCRIPTORS};
use super::copy;
use super::sense::Sense;
use super::unit::Unit;
use crate::backend::Geometry;

/// Where a unit is looked at from.
pub(crate) struct Place<'a> {
    pub(crate) target_name: &'a str,
    pub(crate) portals: &'a [Portal],
    /// Tag of the portal group of the nexus.
    pub(crate) tag: u16,
}

/// Standard INQUIRY data of a unit.
pub(crate) fn standard(unit: &Unit) -> Vec<u8> {
    let mut data = header(0x00);
    if unit.is_removable() {
        data[1] = RMB;
    }
    data[5] = TPGS_IMPLICIT | THIRD_PARTY_COPY;
    data[6] = MULTIP;
    data[7] = CMDQUE;
    // SAM-5, iSCSI, SPC-4, SBC-3, none with a version claimed (SPC-4 §6.6.2).
    data[58..66].copy_from_slice(&[0x00, 0xa0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xc0]);
    data
}

/// INQUIRY for a LUN that is not there: qualifier 011b and type 1Fh (SPC-4 §6.6.2).
pub(crate) fn absent(page: Option<u8>) -> Result<Vec<u8>, Sense> {
    match page {
        None => Ok(header(0x7f)),
        Some(0x00) => Ok(vec![0x7f, 0x00, 0, 1, 0x00]),
        Some(_) => Err(Sense::CDB_FIELD),
    }
}

/// One page of vital product data.
pub(crate) fn vital(
    page: u8,
    unit: &Unit,
    geometry: &Geometry,
    place: &Place<'_>,
) -> Result<Vec<u8>, Sense> {
    let body = match page {
        0x00 => PAGES.to_vec(),
        0x80 => unit.serial().into_bytes(),
        0x83 => identification(unit, place),
        0x86 => extended(geometry),
        // One policy for every page and subpage: shared by all nexuses.
        0x87 => vec![0x3f, 0xff, 0x00, 0x00],
        0x88 => ports(place),
        0x8f => copy::vital(),
        0xb0 => limits(geometry),
        0xb1 => characteristics(),
        0xb2 => provisioning(geometry),
        _ => return Err(Sense::CDB_FIELD),
    };
    let len = u16::try_from(body.len()).expect("a page is far below 64 KiB");
    let mut data = vec![0x00, page];
    data.extend(len.to_be_bytes());
    data.extend(body);
    Ok(data)
}

fn header(qualifier_and_type: u8) -> Vec<u8> {
    let mut data = vec![0; STANDARD_BYTES];
    data[0] = qualifier_and_type;
    data[2] = SPC_4;
    data[3] = HISUP | 0x02;
    data[4] = 91; // what follows byte 4
    data[8..16].copy_from_slice(VENDOR);
    data[16..32].copy_from_slice(PRODUCT);
    data[32..36].copy_from_slice(&revision());
    data
}

/// The first four characters of the crate's version, without a dot at the end.
fn revision() -> [u8; 4] {
    let mut revision = [b' '; 4];
    let version = env!("CARGO_PKG_VERSION").bytes();
    for (place, byte) in revision.iter_mut().zip(version) {
        *place = byte;
    }
    if revision[3] == b'.' {
        revision[3] = b' ';
    }
    revision
}

/// Device identification (SPC-4 §7.8.6): the unit, the port it is seen through, the device.
fn identification(unit: &Unit, place: &Place<'_>) -> Vec<u8> {
    let mut data = Vec::new();
    designator(&mut data, 0x01, 0x03, &unit.naa);
    let mut vendor = VENDOR.to_vec();
    vendor.extend(unit.serial().into_bytes());
    designator(&mut data, 0x02, 0x01, &vendor);
    for portal in place
        .portals
        .iter()
        .filter(|portal| portal.tag == place.tag)
    {
        let [high, low] = portal.relative_port.to_be_bytes();
        designator(&mut data, 0x51, 0x94, &[0, 0, high, low]);
        let [high, low] = portal.group.to_be_bytes();
        designator(&mut data, 0x51, 0x95, &[0, 0, high, low]);
        designator(&mut data, 0x53, 0x98, &port_name(place.target_name, portal));
    }
    designator(&mut data, 0x53, 0xa8, &padded(place.target_name.to_owned()));
    data
}

/// SCSI ports (SPC-4 §7.8.14): every portal, with its name.
fn ports(place: &Place<'_>) -> Vec<u8> {
    let mut data = Vec::new();
    for portal in place.portals {
        let mut name = Vec::new();
        designator(&mut name, 0x53, 0x98, &port_name(place.target_name, portal));
        data.extend([0, 0]);
        data.extend(portal.relative_port.to_be_bytes());
        data.extend([0; 6]);
        let len = u16::try_from(name.len()).expect("an iSCSI name has at most 223 bytes");
        data.extend(len.to_be_bytes());
        data.extend(name);
    }
    data
}

fn designator(data: &mut Vec<u8>, code_set: u8, kind: u8, value: &[u8]) {
    let len = u8::try_from(value.len()).expect("an iSCSI name has at most 223 bytes");
    data.extend([code_set, kind, 0, len]);
    data.extend(value);
}

/// Name of a target port: the target's, `,t,` and the portal group tag (RFC 7143 §4.4.1).
fn port_name(target_name: &str, portal: &Portal) -> Vec<u8> {
    padded(format!("{target_name},t,0x{:04x}", portal.tag))
}

/// A SCSI name string ends with a zero and fills whole words (SPC-4 §7.8.6.11).
fn padded(name: String) -> Vec<u8> {
    let mut name = name.into_bytes();
    name.resize((name.len() / 4 + 1) * 4, 0);
    name
}

/// Extended INQUIRY data (SPC-4 §7.8.7).
fn extended(geometry: &Geometry) -> Vec<u8> {
    let mut data = vec![0; 0x3c];
    data[1] = 0x07; // HEADSUP, ORDSUP, SIMPSUP
    data[2] = u8::from(geometry.write_cache); // V_SUP
    data[3] = 0x01; // LUICLR: unit attentions are cleared per nexus
    data
}

/// Block limits (SBC-3 §6.6.3).
fn limits(geometry: &Geometry) -> Vec<u8> {
    let mut data = vec![0; 0x3c];
    let blocks = |bytes: u64| {
        let blocks = bytes / u64::from(geometry.block_bytes);
        u32::try_from(blocks)
            .expect("a limit in blocks fits in 32 bits")
            .to_be_bytes()
    };
    let physical = 1_u16 << geometry.physical_block_exponent;
    data[1] = COMPARE_AND_WRITE_MAX_BLOCKS;
    data[2..4].copy_from_slice(&physical.to_be_bytes());
    data[4..8].copy_from_slice(&blocks(TRANSFER_MAX_BYTES));
    data[8..12].copy_from_slice(&blocks(TRANSFER_OPTIMAL_BYTES));
    if geometry.thin {
        data[16..20].copy_from_slice(&UNMAP_MAX_BLOCKS.to_be_bytes());
        data[20..24].copy_from_slice(&UNMAP_MAX_DESCRIPTORS.to_be_bytes());
        data[24..28].copy_from_slice(&blocks(UNMAP_GRANULARITY_BYTES));
        data[28] = 0x80; // UGAVALID, alignment 0
    }
    // WSNZ zero and no limit for WRITE SAME: a count of zero means to the end.
    data
}

/// Block device characteristics (SBC-3 §6.6.2): not rotating.
fn characteristics() -> Vec<u8> {
    let mut data = vec![0; 0x3c];
    data[1] = 1;
    data
}

/// Logical block provisioning (SBC-3 §6.6.4).
fn provisioning(geometry: &Geometry) -> Vec<u8> {
    if geometry.thin {
        vec![0, LBPU | LBPWS | LBPWS10 | LBPRZ, 0x02, 0]
    } else {
        vec![0; 4]
    }
}

const VENDOR: &[u8; 8] = b"TWINSAN ";
const PRODUCT: &[u8; 16] = b"VIRTUAL-DISK    ";
const STANDARD_BYTES: usize = 96;
const RMB: u8 = 0x80;
const SPC_4: u8 = 0x06;
const HISUP: u8 = 0x10;
const TPGS_IMPLICIT: u8 = 0x10;
const THIRD_PARTY_COPY: u8 = 0x08;
const MULTIP: u8 = 0x10;
const CMDQUE: u8 = 0x02;
const LBPU: u8 = 0x80;
const LBPWS: u8 = 0x40;
const LBPWS10: u8 = 0x20;
const LBPRZ: u8 = 0x04;

/// Pages of vital product data, in ascending order.
const PAGES: &[u8] = &[0x00, 0x80, 0x83, 0x86, 0x87, 0x88, 0x8f, 0xb0, 0xb1, 0xb2];

/// What initiators should send at once.
const TRANSFER_OPTIMAL_BYTES: u64 = 1 << 20;

/// The least that frees space: a page of a backing file.
const UNMAP_GRANULARITY_BYTES: u64 = 4096;
