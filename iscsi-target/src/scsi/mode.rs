//! Mode pages: what initiators can read and the three bits they can set (SPC-4 §7.5, SBC-3 §6.5).

use super::parse::{BlockDescriptor, ModeHeader, ModeSense, PageControl};
use super::sense::{Sense, SenseFormat};
use crate::backend::{Fua, Geometry};

/// What can be set on a unit. Nothing of it outlives a reset or a move to the other box; the unit
/// attention that both raise tells initiators to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModeState {
    sense_format: SenseFormat,
    cache: Cache,
    protection: Protection,
}

/// WCE of the caching page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cache {
    On,
    Off,
}

impl Default for ModeState {
    fn default() -> Self {
        Self {
            sense_format: SenseFormat::Fixed,
            cache: Cache::On,
            protection: Protection::None,
        }
    }
}

impl ModeState {
    pub(crate) fn sense_format(&self) -> SenseFormat {
        self.sense_format
    }

    /// What every write is at least: with the cache off, all of them are stable.
    pub(crate) fn least_fua(&self) -> Fua {
        match self.cache {
            Cache::On => Fua::No,
            Cache::Off => Fua::Yes,
        }
    }

    /// Whether an initiator has asked that nobody changes the medium (SWP).
    pub(crate) fn is_write_protected(&self) -> bool {
        self.protection == Protection::WriteProtected
    }
}

/// Whether the unit may be written to through this nexus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    None,
    WriteProtected,
}

/// Answers MODE SENSE.
pub(crate) fn sense(
    command: &ModeSense,
    state: &ModeState,
    geometry: &Geometry,
    protection: Protection,
) -> Result<Vec<u8>, Sense> {
    let mut pages = Vec::new();
    for page in PAGES.iter().filter(|page| page.selected(command)) {
        pages.extend(page.bytes(command.control, state, geometry));
    }
    if pages.is_empty() {
        return Err(Sense::CDB_FIELD);
    }
    let descriptor = block_descriptor(command.descriptor, geometry);
    let mut specific = DPOFUA;
    if protection == Protection::WriteProtected {
        specific |= WP;
    }
    let descriptor_len = u8::try_from(descriptor.len()).expect("at most 16 bytes");
    let body_len = descriptor.len() + pages.len();
    let mut data = match command.header {
        ModeHeader::Six => {
            let len = u8::try_from(3 + body_len).expect("all pages together are short");
            vec![len, 0, specific, descriptor_len]
        }
        ModeHeader::Ten => {
            let len = u16::try_from(6 + body_len).expect("all pages together are short");
            let [high, low] = len.to_be_bytes();
            let long = u8::from(command.descriptor == BlockDescriptor::Long);
            vec![high, low, 0, specific, long, 0, 0, descriptor_len]
        }
    };
    data.extend(descriptor);
    data.extend(pages);
    Ok(data)
}

/// Reads the parameter list of a MODE SELECT: the state it asks for.
pub(crate) fn select(
    header: ModeHeader,
    list: &[u8],
    state: &ModeState,
    geometry: &Geometry,
) -> Result<ModeState, Sense> {
    if list.is_empty() {
        return Ok(*state);
    }
    let (descriptor, kind, mut rest) = split_header(header, list)?;
    if !descriptor.is_empty() && !same_medium(descriptor, &block_descriptor(kind, geometry)) {
        return Err(Sense::LIST_FIELD);
    }
    let mut next = *state;
    while let Some((&first, _)) = rest.split_first() {
        let subpage_format = first & 0x40 != 0;
        let (subpage, header_len, len) = match (subpage_format, rest) {
            (false, [_, len, ..]) => (0, 2, usize::from(*len)),
            (true, [_, subpage, high, low, ..]) => {
                (*subpage, 4, usize::from(u16::from_be_bytes([*high, *low])))
            }
            _ => return Err(Sense::LIST_LENGTH),
        };
        let (bytes, after) = rest
            .split_at_checked(header_len + len)
            .ok_or(Sense::LIST_LENGTH)?;
        let page = PAGES
            .iter()
            .find(|page| (page.code, page.subpage) == (first & 0x3f, subpage))
            .ok_or(Sense::LIST_FIELD)?;
        page.set(bytes, &mut next, geometry)?;
        rest = after;
    }
    Ok(next)
}

/// Splits a list into its block descriptor, the kind of that, and the pages.
fn split_header(header: ModeHeader, list: &[u8]) -> Result<(&[u8], BlockDescriptor, &[u8]), Sense> {
    let (header_len, descriptor_len, long) = match (header, list) {
        (ModeHeader::Six, [_, _, _, len, ..]) => (4, usize::from(*len), 0),
        (ModeHeader::Ten, [_, _, _, _, long, _, high, low, ..]) => (
            8,
            usize::from(u16::from_be_bytes([*high, *low])),
            long & 0x01,
        ),
        _ => return Err(Sense::LIST_LENGTH),
    };
    let kind = match (descriptor_len, long) {
        (0, _) => BlockDescriptor::None,
        (8, 0) => BlockDescriptor::Short,
        (16, 1) => BlockDescriptor::Long,
        _ => return Err(Sense::LIST_FIELD),
    };
    let (descriptor, pages) = list[header_len..]
        .split_at_checked(descriptor_len)
        .ok_or(Sense::LIST_LENGTH)?;
    Ok((descriptor, kind, pages))
}

/// Whether a block descriptor asks for the medium as it is; a count of zero asks for no change.
fn same_medium(asked: &[u8], ours: &[u8]) -> bool {
    let count = if ours.len() == 16 { 0..8 } else { 0..4 };
    let unchanged = asked[count.clone()].iter().all(|byte| *byte == 0);
    (unchanged || asked[count.clone()] == ours[count.clone()])
        && asked[count.end..] == ours[count.end..]
}

/// SBC-3 §6.5.2.
fn block_descriptor(kind: BlockDescriptor, geometry: &Geometry) -> Vec<u8> {
    match kind {
        BlockDescriptor::None => Vec::new(),
        BlockDescriptor::Short => {
            let blocks = u32::try_from(geometry.blocks).unwrap_or(u32::MAX);
            // The length has three bytes; the fourth before it is reserved and zero.
            [blocks.to_be_bytes(), geometry.block_bytes.to_be_bytes()].concat()
        }
        BlockDescriptor::Long => {
            let mut data = geometry.blocks.to_be_bytes().to_vec();
            data.extend([0; 4]);
            data.extend(geometry.block_bytes.to_be_bytes());
            data
        }
    }
}

/// One mode page: how it looks before anything is set, and which bits can be set.
struct Page {
    code: u8,
    subpage: u8,
    body: &'static [u8],
    settings: &'static [Setting],
}

/// A bit that can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    WriteCache,
    DescriptorSense,
    WriteProtect,
}

impl Setting {
    /// Byte of the body, and bit; none where the unit has nothing to set.
    fn place(self, geometry: &Geometry) -> Option<(usize, u8)> {
        match self {
            Self::WriteCache => geometry.write_cache.then_some((0, WCE)),
            Self::DescriptorSense => Some((0, D_SENSE)),
            Self::WriteProtect => Some((2, SWP)),
        }
    }

    fn is_on(self, state: &ModeState) -> bool {
        match self {
            Self::WriteCache => state.cache == Cache::On,
            Self::DescriptorSense => state.sense_format == SenseFormat::Descriptor,
            Self::WriteProtect => state.is_write_protected(),
        }
    }

    fn turn_on(self, state: &mut ModeState) {
        match self {
            Self::WriteCache => state.cache = Cache::On,
            Self::DescriptorSense => state.sense_format = SenseFormat::Descriptor,
            Self::WriteProtect => state.protection = Protection::WriteProtected,
        }
    }

    fn turn_off(self, state: &mut ModeState) {
        match self {
            Self::WriteCache => state.cache = Cache::Off,
            Self::DescriptorSense => state.sense_format = SenseFormat::Fixed,
            Self::WriteProtect => state.protection = Protection::None,
        }
    }
}

impl Page {
    fn selected(&self, command: &ModeSense) -> bool {
        let page = command.page == ALL_PAGES || command.page == self.code;
        page && (command.subpage == ALL_SUBPAGES || command.subpage == self.subpage)
    }

    fn bytes(&self, control: PageControl, state: &ModeState, geometry: &Geometry) -> Vec<u8> {
        let mut data = if self.subpage == 0 {
            vec![
                self.code,
                u8::try_from(self.body.len()).expect("a page is short"),
            ]
        } else {
            let len = u16::try_from(self.body.len())
                .expect("a page is short")
                .to_be_bytes();
            vec![self.code | SPF, self.subpage, len[0], len[1]]
        };
        let body = data.len();
        let shown = match control {
            PageControl::Changeable => {
                data.resize(body + self.body.len(), 0);
                None
            }
            PageControl::Current => Some(*state),
            PageControl::Default => Some(ModeState::default()),
        };
        if shown.is_some() {
            data.extend(self.body);
        }
        for (setting, at, bit) in self.places(geometry) {
            if shown.is_none_or(|state| setting.is_on(&state)) {
                data[body + at] |= bit;
            }
        }
        data
    }

    /// Takes what a MODE SELECT says of this page; it may differ in what can be set only.
    fn set(&self, asked: &[u8], state: &mut ModeState, geometry: &Geometry) -> Result<(), Sense> {
        let mut same = self.bytes(PageControl::Current, state, geometry);
        if same.len() != asked.len() {
            return Err(Sense::LIST_LENGTH);
        }
        let body = same.len() - self.body.len();
        for (_, at, bit) in self.places(geometry) {
            same[body + at] = same[body + at] & !bit | asked[body + at] & bit;
        }
        // PS is reserved here.
        if same[0] != asked[0] & 0x7f || same[1..] != asked[1..] {
            return Err(Sense::LIST_FIELD);
        }
        for (setting, at, bit) in self.places(geometry) {
            if asked[body + at] & bit == 0 {
                setting.turn_off(state);
            } else {
                setting.turn_on(state);
            }
        }
        Ok(())
    }

    fn places(&self, geometry: &Geometry) -> impl Iterator<Item = (Setting, usize, u8)> {
        self.settings.iter().filter_map(|setting| {
            let (at, bit) = setting.place(geometry)?;
            Some((*setting, at, bit))
        })
    }
}

const ALL_PAGES: u8 = 0x3f;
const ALL_SUBPAGES: u8 = 0xff;
const SPF: u8 = 0x40;
const WP: u8 = 0x80;
const DPOFUA: u8 = 0x10;
const WCE: u8 = 0x04;
const D_SENSE: u8 = 0x04;
const SWP: u8 = 0x08;

/// All pages, in ascending order.
const PAGES: &[Page] = &[
    // Read-write error recovery: AWRE and ARRE.
    Page {
        code: 0x01,
        subpage: 0,
        body: &[0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        settings: &[],
    },
    // Caching: nothing but WCE.
    Page {
        code: 0x08,
        subpage: 0,
        body: &[0; 18],
        settings: &[Setting::WriteCache],
    },
    // Control: one task set for all nexuses (TST 000b); unrestricted reordering; unlimited busy
    // time-out.
    Page {
        code: 0x0a,
        subpage: 0,
        body: &[0, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0],
        settings: &[Setting::DescriptorSense, Setting::WriteProtect],
    },
    // Control extension: IALUAE.
    Page {
        code: 0x0a,
        subpage: 1,
        body: &EXTENSION,
        settings: &[],
    },
    // Informational exceptions control: none are reported.
    Page {
        code: 0x1c,
        subpage: 0,
        body: &[0; 10],
        settings: &[],
    },
];

const EXTENSION: [u8; 28] = {
    let mut body = [0; 28];
    body[0] = 0x01;
    body
};
