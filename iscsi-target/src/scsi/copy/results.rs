//! What became of copies, and what a copy may ask for: RECEIVE COPY RESULTS (SPC-4 §6.17 to §6.24)
//! and the page of vital product data on third-party copies (SPC-4 §7.8.17).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use super::list::{
    CSCD_IDENTIFICATION, CSCDS_MAX, DESCRIPTORS_MAX_BYTES, SEGMENT_BLOCKS, SEGMENTS_MAX,
};
use crate::hosts::UnitId;
use crate::scsi::array::NexusId;
use crate::scsi::sense::Sense;

/// Copies with a list identifier that one nexus may have on a unit, running or remembered.
pub(crate) const COPIES_MAX: u8 = 16;
/// Longest segment, in bytes: all that 16 bits of 4 KiB blocks can say.
const SEGMENT_MAX_BYTES: u32 = 1 << 28;

/// How far a copy is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) segments: Cell<u16>,
    pub(crate) bytes: Cell<u64>,
}

/// Which copy: each nexus has numbers of its own on each unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CopyId {
    pub(crate) unit: UnitId,
    pub(crate) nexus: NexusId,
    pub(crate) list: u8,
}

/// The copies that have a number.
///
/// Invariant: at most [`COPIES_MAX`] for a unit and a nexus. One that was aborted is none.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    known: BTreeMap<CopyId, Copy>,
    begun: u64,
}

#[derive(Debug)]
struct Copy {
    /// Copies that began earlier have a smaller one.
    number: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Whoever copies holds the progress; when it is gone, so is the copy.
    Running(Weak<Progress>),
    Ended {
        segments: u16,
        bytes: u64,
        sense: Option<Sense>,
    },
}

impl Copies {
    /// Takes note of a copy that begins. It takes the place of an earlier one of that number, and
    /// if need be that of the oldest one that ended.
    pub(crate) fn begin(&mut self, id: CopyId, progress: &Rc<Progress>) -> Result<(), Sense> {
        self.forget(|_, copy| copy.is_aborted());
        if let Some(Copy {
            state: State::Running(_),
            ..
        }) = self.known.get(&id)
        {
            return Err(Sense::OPERATION_IN_PROGRESS);
        }
        self.known.remove(&id);
        let beside = self
            .known
            .iter()
            .filter(|(other, _)| (other.unit, other.nexus) == (id.unit, id.nexus));
        if beside.clone().count() >= usize::from(COPIES_MAX) {
            let ended = beside.filter(|(_, copy)| matches!(copy.state, State::Ended { .. }));
            let oldest = ended.min_by_key(|(_, copy)| copy.number);
            let oldest = oldest.map(|(oldest, _)| *oldest);
            self.known.remove(&oldest.ok_or(Sense::RESOURCES)?);
        }
        self.begun += 1;
        let copy = Copy {
            number: self.begun,
            state: State::Running(Rc::downgrade(progress)),
        };
        self.known.insert(id, copy);
        Ok(())
    }

    /// Takes note of the end of a copy, unless it was forgotten in between.
    pub(crate) fn end(&mut self, id: CopyId, progress: &Rc<Progress>, sense: Option<Sense>) {
        let Some(copy) = self.known.get_mut(&id) else {
            return;
        };
        let ours = matches!(&copy.state, State::Running(known)
            if Weak::ptr_eq(known, &Rc::downgrade(progress)));
        if ours {
            copy.state = State::Ended {
                segments: progress.segments.get(),
                bytes: progress.bytes.get(),
                sense,
            };
        }
    }

    /// Forgets the copies of a nexus, or those on a unit, that are gone.
    pub(crate) fn forget_of(&mut self, which: impl Fn(&CopyId) -> bool) {
        self.forget(|id, _| which(id));
    }

    fn forget(&mut self, which: impl Fn(&CopyId, &Copy) -> bool) {
        self.known.retain(|id, copy| !which(id, copy));
    }

    fn find(&self, id: CopyId) -> Result<&State, Sense> {
        let copy = self.known.get(&id).filter(|copy| !copy.is_aborted());
        copy.map(|copy| &copy.state).ok_or(Sense::CDB_FIELD)
    }

    /// COPY STATUS.
    pub(crate) fn status(&self, id: CopyId) -> Result<Vec<u8>, Sense> {
        let (status, segments, bytes) = match self.find(id)? {
            State::Running(progress) => {
                let progress = progress.upgrade().ok_or(Sense::CDB_FIELD)?;
                (IN_PROGRESS, progress.segments.get(), progress.bytes.get())
            }
            State::Ended {
                segments,
                bytes,
                sense: None,
            } => (DONE, *segments, *bytes),
            State::Ended {
                segments, bytes, ..
            } => (FAILED, *segments, *bytes),
        };
        let (units, count) = transfer_count(bytes);
        let mut data = vec![0, 0, 0, 8, HDD | status];
        data.extend(segments.to_be_bytes());
        data.push(units);
        data.extend(count.to_be_bytes());
        Ok(data)
    }

    /// FAILED SEGMENT DETAILS.
    pub(crate) fn failure(&self, id: CopyId) -> Result<Vec<u8>, Sense> {
        let State::Ended { sense, .. } = self.find(id)? else {
            return Err(Sense::CDB_FIELD);
        };
        let Some(sense) = sense else {
            return Ok(vec![0; 4]);
        };
        let sense = sense.to_bytes();
        let sense_len = u8::try_from(sense.len()).expect("sense data are short");
        let mut data = vec![0; 60];
        data[3] = 56 + sense_len;
        data[56] = FAILED;
        data[59] = sense_len;
        data.extend(&sense);
        Ok(data)
    }
}

impl Copy {
    fn is_aborted(&self) -> bool {
        matches!(&self.state, State::Running(progress) if progress.strong_count() == 0)
    }
}

/// The smallest unit in which the count fits: bytes, KiB, MiB, and so on.
fn transfer_count(bytes: u64) -> (u8, u32) {
    (0..=5_u8)
        .find_map(|unit| Some((unit, u32::try_from(bytes >> (10 * unit)).ok()?)))
        .expect("a count of EiB fits")
}

/// OPERATING PARAMETERS.
pub(crate) fn operating_parameters() -> Vec<u8> {
    let mut data = vec![0; 44];
    data[4] = SNLID;
    data[8..10].copy_from_slice(&count(CSCDS_MAX).to_be_bytes());
    data[10..12].copy_from_slice(&count(SEGMENTS_MAX).to_be_bytes());
    data[14..16].copy_from_slice(&count(DESCRIPTORS_MAX_BYTES).to_be_bytes());
    data[16..20].copy_from_slice(&SEGMENT_MAX_BYTES.to_be_bytes());
    // No inline data, no held data, no streams. Copies without a number are bounded as all
    // commands are.
    data[34..36].copy_from_slice(&u16::MAX.to_be_bytes());
    data[36] = COPIES_MAX;
    data[37] = GRANULARITY_BITS;
    data[43] = 2;
    data.extend([SEGMENT_BLOCKS, CSCD_IDENTIFICATION]);
    let len = u8::try_from(data.len() - 4).expect("the parameters are short");
    data[3] = len;
    data
}

/// The body of the page on third-party copies.
pub(crate) fn vital() -> Vec<u8> {
    let mut parameters = vec![0; 28];
    parameters[4..6].copy_from_slice(&count(CSCDS_MAX).to_be_bytes());
    parameters[6..8].copy_from_slice(&count(SEGMENTS_MAX).to_be_bytes());
    parameters[10..12].copy_from_slice(&count(DESCRIPTORS_MAX_BYTES).to_be_bytes());
    let mut general = vec![0; 32];
    general[2..4].copy_from_slice(&u16::MAX.to_be_bytes());
    general[7] = COPIES_MAX;
    general[8..12].copy_from_slice(&SEGMENT_MAX_BYTES.to_be_bytes());
    general[12] = GRANULARITY_BITS;
    let mut page = Vec::new();
    // Supported commands: EXTENDED COPY and the three RECEIVE COPY RESULTS that exist.
    describe(
        &mut page,
        0x0001,
        &[8, 0x83, 1, 0x00, 0x84, 3, 0x00, 0x03, 0x04],
    );
    describe(&mut page, 0x0004, &parameters);
    describe(&mut page, 0x0008, &[2, SEGMENT_BLOCKS, CSCD_IDENTIFICATION]);
    // Descriptors are named by their position only.
    describe(&mut page, 0x000c, &[0, 0]);
    describe(&mut page, 0x8001, &general);
    page
}

/// Adds a third-party copy descriptor, filled up to whole words.
fn describe(page: &mut Vec<u8>, kind: u16, body: &[u8]) {
    let len = body.len().next_multiple_of(4);
    page.extend(kind.to_be_bytes());
    page.extend(count(len).to_be_bytes());
    page.extend(body);
    page.resize(page.len() + len - body.len(), 0);
}

fn count(value: usize) -> u16 {
    u16::try_from(value).expect("these limits are small")
}

/// The copy goes on.
const IN_PROGRESS: u8 = 0x00;
/// Ended without an error.
const DONE: u8 = 0x01;
/// Ended with an error.
const FAILED: u8 = 0x02;
/// No data are held.
const HDD: u8 = 0x80;
/// Copies without a number are possible.
const SNLID: u8 = 0x01;
/// Logical blocks have at least 512 bytes.
const GRANULARITY_BITS: u8 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_in_the_smallest_unit_it_fits_in() {
        assert_eq!(transfer_count(0xffff_ffff), (0, 0xffff_ffff));
        assert_eq!(transfer_count(0x1_0000_0000), (1, 0x40_0000));
        assert_eq!(transfer_count(u64::MAX), (4, 0xff_ffff));
    }

    #[test]
    fn the_oldest_copy_that_ended_makes_room() {
        let id = |list| CopyId {
            unit: UnitId(1),
            nexus: NexusId(1),
            list,
        };
        let mut copies = Copies::default();
        let running: Vec<Rc<Progress>> = (0..COPIES_MAX)
            .map(|list| {
                let progress = Rc::default();
                copies.begin(id(list), &progress).unwrap();
                progress
            })
            .collect();
        let another = Rc::default();
        assert_eq!(copies.begin(id(99), &another), Err(Sense::RESOURCES));
        assert_eq!(
            copies.begin(id(3), &another),
            Err(Sense::OPERATION_IN_PROGRESS)
        );
        for list in [7, 5] {
            copies.end(id(list), &running[usize::from(list)], None);
        }
        copies.begin(id(99), &another).unwrap();
        assert!(copies.status(id(5)).is_err() && copies.status(id(7)).is_ok());
        // An aborted one is none.
        drop(running);
        assert!(copies.status(id(3)).is_err());
        copies.begin(id(3), &another).unwrap();
        assert_eq!(copies.known.len(), 3);
    }
}
