//! The reservations of every volume, in the system volume (law D10): the ledger.
//!
//! The part of the system volume behind the configuration is cut into places. One record, a
//! header and the bytes of one volume's reservations, fills a place. A change writes a record with
//! the next sequence number to a place that nothing needs, with FUA; when that is complete on every
//! in-sync box the place of the record before is free. A torn write leaves that one. So a change
//! costs a few KiB and neither waits for a change of the configuration nor holds one up.
//!
//! ```text
//!            keep                next_write             stored
//!   quiet ─────────▶ queued ────────────────▶ writing ─────────▶ quiet, or queued again
//!                      ▲                         │ failed
//!                      └──────── rested ─────── resting
//! ```
//!
//! What waits while a record is written is written as one: the last state stands for all.
//!
//! Invariants: a place is free, holds the newest record of a volume or is being written, one of
//! these; a volume has at most one write under way; a record that was acknowledged is not written
//! over before a later one of its volume is.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use iscsi_target::backend::{Completion, Done, Receipt};
use iscsi_target::scsi::RESERVATIONS_BYTES_MAX;
use replication::engine::{Command, CommandError, Completed};
use replication::shell::Handle;
use replication::types::{Fua, VolumeNumber};

use crate::config::cluster::{VOLUMES_MAX, Volume};
use crate::events::EventLog;
use crate::state::{PLACES_BYTES, PLACES_FROM_BYTES};
use crate::system;

const BLOCK_BYTES: usize = 4096;
const HEADER_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"twplace1";
/// Room for a record of the greatest length.
const PLACE_BYTES: usize = 32 << 10;
const PLACES: usize = 320;
/// How much is read at once when this box begins to serve.
const READ_BYTES: usize = 2 << 20;
/// How long a store that failed is left alone.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

const _: () = assert!((PLACES * PLACE_BYTES) as u64 == PLACES_BYTES);
const _: () = assert!(HEADER_BYTES + RESERVATIONS_BYTES_MAX <= PLACE_BYTES);
const _: () = assert!(
    PLACES > VOLUMES_MAX,
    "a record is never written over itself"
);
const _: () = assert!(PLACES_BYTES.is_multiple_of(READ_BYTES as u64));
const _: () = assert!(READ_BYTES.is_multiple_of(PLACE_BYTES));

/// A volume for good: numbers are not reused, and an identity given twice is another volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct VolumeKey {
    number: u32,
    uuid: u128,
}

impl VolumeKey {
    pub(crate) const fn of(volume: &Volume) -> Self {
        Self {
            number: volume.number,
            uuid: volume.uuid.as_u128(),
        }
    }
}

/// The way to the records.
pub(crate) struct Ledger {
    mirror: Handle,
    events: Arc<EventLog>,
    book: RefCell<Book<Ask>>,
    /// Raised with each reading: the outcome of an older write tells nothing any more.
    reading: Cell<u64>,
}

/// Who waits for a state to be durable.
struct Ask {
    receipt: Receipt,
    completion: Completion,
}

impl Ledger {
    /// Behind `mirror`; knows nothing yet.
    pub(crate) fn new(mirror: Handle, events: Arc<EventLog>) -> Rc<Self> {
        Rc::new(Self {
            mirror,
            events,
            book: RefCell::default(),
            reading: Cell::new(0),
        })
    }

    /// Reads every record, before this box serves a volume.
    ///
    /// # Errors
    /// A sentence for operators.
    pub(crate) async fn read(&self, volumes: &[Volume]) -> Result<(), String> {
        self.reading.set(self.reading.get() + 1);
        self.book.take();
        let mut book = Book::of(keys(volumes));
        for from in (0..PLACES_BYTES).step_by(READ_BYTES) {
            let read = Command::Read {
                volume: VolumeNumber::SYSTEM,
                offset_bytes: PLACES_FROM_BYTES + from,
                len_bytes: READ_BYTES,
            };
            let Completed::Data(data) = system::command(&self.mirror, read).await? else {
                return Err("the system volume gave no data".to_owned());
            };
            book.read(place_at(from), &data);
        }
        book.check();
        self.book.replace(book);
        Ok(())
    }

    /// These volumes exist from now on; the records of all others are nobody's.
    pub(crate) fn have(&self, volumes: &[Volume]) {
        self.book.borrow_mut().have(&keys(volumes));
    }

    /// The last state of a volume, if it ever had one.
    pub(crate) fn newest(&self, volume: VolumeKey) -> Option<Bytes> {
        self.book.borrow().newest(volume)
    }

    /// Makes `state` durable on every in-sync box, then signs and completes.
    pub(crate) fn keep(
        self: &Rc<Self>,
        volume: VolumeKey,
        state: Bytes,
        receipt: Receipt,
        completion: Completion,
    ) {
        let ask = Ask {
            receipt,
            completion,
        };
        self.book.borrow_mut().keep(volume, state, ask);
        self.write();
    }

    /// Starts every write that can start.
    fn write(self: &Rc<Self>) {
        while let Some(write) = {
            let mut book = self.book.borrow_mut();
            book.next_write()
        } {
            let (ledger, reading) = (Rc::clone(self), self.reading.get());
            let volume = write.volume;
            let command = Command::Write {
                volume: VolumeNumber::SYSTEM,
                offset_bytes: offset_bytes(write.place),
                data: write.record,
                fua: Fua::Yes,
            };
            self.mirror.submit(command, move |result| {
                if ledger.reading.get() == reading {
                    ledger.written(volume, result.map(|_| ()));
                }
            });
        }
    }

    fn written(self: &Rc<Self>, volume: VolumeKey, result: Result<(), CommandError>) {
        match result {
            Ok(()) => {
                let asks = self.book.borrow_mut().stored(volume);
                for ask in asks {
                    ask.receipt.sign();
                    ask.completion.complete(Ok(Done::Ok));
                }
                self.write();
            }
            // Nobody is answered any more (law R8): unused, the completions say so.
            Err(CommandError::NotPrimary) => drop(self.book.take()),
            Err(error) => {
                if self.book.borrow_mut().failed(volume) == Trouble::New {
                    self.events.add(format!(
                        "reservations of volume number {} cannot be stored: {error:?}; who asked \
                         for a change waits, and it is tried again",
                        volume.number
                    ));
                }
                let (ledger, reading) = (Rc::clone(self), self.reading.get());
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(AGAIN_AFTER).await;
                    if ledger.reading.get() == reading {
                        ledger.book.borrow_mut().rested(volume);
                        ledger.write();
                    }
                });
            }
        }
    }
}

/// Which records there are, which are to come and who waits for them; `A` is who waits.
struct Book<A> {
    pages: BTreeMap<VolumeKey, Page<A>>,
    free: BTreeSet<usize>,
    /// Volumes with something to write and no write under way, in order.
    queue: VecDeque<VolumeKey>,
    /// Of the last record.
    sequence: u64,
}

/// One volume.
struct Page<A> {
    /// The record that counts.
    kept: Option<Kept>,
    /// What is to be written next; at the most as many wait as commands are under way.
    waiting: Vec<A>,
    next: Option<Bytes>,
    write: Phase<A>,
    /// The volume is deleted; the page goes when its write has ended.
    is_gone: bool,
    /// The last write failed, and that was told.
    is_troubled: bool,
}

struct Kept {
    place: usize,
    sequence: u64,
    state: Bytes,
}

enum Phase<A> {
    Quiet,
    Writing {
        kept: Kept,
        asks: Vec<A>,
    },
    /// After a failure.
    Resting,
}

/// Whether a failure is one more of the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    New,
    Known,
}

/// A record on its way.
struct Write {
    volume: VolumeKey,
    place: usize,
    record: Bytes,
}

impl<A> Default for Book<A> {
    fn default() -> Self {
        Self::of(BTreeSet::new())
    }
}

impl<A> Book<A> {
    /// Of volumes without records.
    fn of(volumes: BTreeSet<VolumeKey>) -> Self {
        let page = |volume| (volume, Page::default());
        Self {
            pages: volumes.into_iter().map(page).collect(),
            free: (0..PLACES).collect(),
            queue: VecDeque::new(),
            sequence: 0,
        }
    }

    /// Takes the records from places in a row. What is torn or belongs to a volume that is not
    /// there is nothing; of one volume the last counts.
    fn read(&mut self, first: usize, places: &[u8]) {
        for (place, bytes) in (first..).zip(places.chunks_exact(PLACE_BYTES)) {
            let Some((volume, sequence, state)) = parse(bytes) else {
                continue;
            };
            self.sequence = self.sequence.max(sequence);
            let Some(page) = self.pages.get_mut(&volume) else {
                continue;
            };
            let earlier = page.kept.as_ref();
            if earlier.is_none_or(|kept| kept.sequence < sequence) {
                self.free.remove(&place);
                let kept = Kept {
                    place,
                    sequence,
                    state,
                };
                let earlier = page.kept.replace(kept);
                self.free.extend(earlier.map(|kept| kept.place));
            }
        }
    }

    fn have(&mut self, volumes: &BTreeSet<VolumeKey>) {
        for volume in volumes {
            self.pages.entry(*volume).or_default();
        }
        let gone: Vec<VolumeKey> = self.pages.keys().copied().collect();
        for volume in gone.into_iter().filter(|it| !volumes.contains(it)) {
            self.queue.retain(|queued| *queued != volume);
            let page = self.pages.get_mut(&volume).expect("just listed");
            self.free.extend(page.kept.take().map(|kept| kept.place));
            page.next = None;
            page.waiting.clear();
            match page.write {
                // Its place is free when the write has ended.
                Phase::Writing { .. } => page.is_gone = true,
                Phase::Quiet | Phase::Resting => drop(self.pages.remove(&volume)),
            }
        }
        self.check();
    }

    fn newest(&self, volume: VolumeKey) -> Option<Bytes> {
        let page = self.pages.get(&volume)?;
        let written = match &page.write {
            Phase::Writing { kept, .. } => Some(&kept.state),
            Phase::Quiet | Phase::Resting => None,
        };
        let kept = page.kept.as_ref().map(|kept| &kept.state);
        page.next.as_ref().or(written).or(kept).cloned()
    }

    /// `ask` waits for `state` to be stored, or drops with a volume that is not there.
    fn keep(&mut self, volume: VolumeKey, state: Bytes, ask: A) {
        let Some(page) = self.pages.get_mut(&volume).filter(|page| !page.is_gone) else {
            return;
        };
        page.waiting.push(ask);
        let first = page.next.replace(state).is_none();
        if first && matches!(page.write, Phase::Quiet) {
            self.queue.push_back(volume);
        }
        self.check();
    }

    /// The next write, if there is something to write and a place for it.
    fn next_write(&mut self) -> Option<Write> {
        let volume = *self.queue.front()?;
        let place = self.free.pop_first()?;
        self.queue.pop_front();
        let page = self.pages.get_mut(&volume).expect("the queue has pages");
        let state = page.next.take().expect("what is queued has a state");
        self.sequence += 1;
        let kept = Kept {
            place,
            sequence: self.sequence,
            state,
        };
        let record = record(volume, &kept);
        let asks = std::mem::take(&mut page.waiting);
        page.write = Phase::Writing { kept, asks };
        self.check();
        Some(Write {
            volume,
            place,
            record,
        })
    }

    /// The write of `volume` is durable on every in-sync box: returns who waited for it, in order.
    fn stored(&mut self, volume: VolumeKey) -> Vec<A> {
        let Some((kept, asks)) = self.end_write(volume) else {
            return Vec::new();
        };
        if let Some(page) = self.pages.get_mut(&volume) {
            let earlier = page.kept.replace(kept);
            page.is_troubled = false;
            self.free.extend(earlier.map(|kept| kept.place));
            if page.next.is_some() {
                self.queue.push_back(volume);
            }
        } else {
            self.free.insert(kept.place);
        }
        self.check();
        asks
    }

    /// The write of `volume` failed; it rests before it is written again, with all that comes
    /// meanwhile.
    fn failed(&mut self, volume: VolumeKey) -> Trouble {
        let Some((kept, mut asks)) = self.end_write(volume) else {
            return Trouble::Known;
        };
        // What the write has left there is an unanswered state, until it is written over.
        self.free.insert(kept.place);
        let Some(page) = self.pages.get_mut(&volume) else {
            return Trouble::Known;
        };
        asks.append(&mut page.waiting);
        page.waiting = asks;
        page.next.get_or_insert(kept.state);
        page.write = Phase::Resting;
        let known = std::mem::replace(&mut page.is_troubled, true);
        self.check();
        if known { Trouble::Known } else { Trouble::New }
    }

    fn rested(&mut self, volume: VolumeKey) {
        if let Some(page) = self.pages.get_mut(&volume)
            && matches!(page.write, Phase::Resting)
        {
            page.write = Phase::Quiet;
            self.queue.push_back(volume);
        }
    }

    fn end_write(&mut self, volume: VolumeKey) -> Option<(Kept, Vec<A>)> {
        let page = self.pages.get_mut(&volume)?;
        let Phase::Writing { kept, asks } = std::mem::replace(&mut page.write, Phase::Quiet) else {
            unreachable!("a volume has one write under way, which ends once")
        };
        if page.is_gone {
            self.pages.remove(&volume);
        }
        Some((kept, asks))
    }

    fn check(&self) {
        let used = |page: &Page<A>| {
            let writes = matches!(page.write, Phase::Writing { .. });
            usize::from(page.kept.is_some()) + usize::from(writes)
        };
        let used: usize = self.pages.values().map(used).sum();
        assert_eq!(self.free.len() + used, PLACES, "every place has one use");
        assert!(self.queue.len() <= self.pages.len(), "a volume queues once");
    }
}

impl<A> Default for Page<A> {
    fn default() -> Self {
        Self {
            kept: None,
            waiting: Vec::new(),
            next: None,
            write: Phase::Quiet,
            is_gone: false,
            is_troubled: false,
        }
    }
}

fn keys(volumes: &[Volume]) -> BTreeSet<VolumeKey> {
    volumes.iter().map(VolumeKey::of).collect()
}

fn offset_bytes(place: usize) -> u64 {
    PLACES_FROM_BYTES + (place * PLACE_BYTES) as u64
}

fn place_at(offset_bytes: u64) -> usize {
    usize::try_from(offset_bytes).expect("the system volume is small") / PLACE_BYTES
}

/// Magic 8, CRC 4, length 4, sequence 8, volume number 4, zero 4, volume UUID 16, zero to 64; the
/// state; zero to whole blocks. The CRC covers everything behind it up to the end of the state.
fn record(volume: VolumeKey, kept: &Kept) -> Bytes {
    let state = &kept.state;
    let whole = HEADER_BYTES + state.len();
    assert!(whole <= PLACE_BYTES, "the target bounds what is kept");
    let mut record = BytesMut::with_capacity(whole.next_multiple_of(BLOCK_BYTES));
    record.extend_from_slice(&MAGIC);
    record.extend_from_slice(&[0; 4]);
    let len = u32::try_from(state.len()).expect("a place is small");
    record.extend_from_slice(&len.to_le_bytes());
    record.extend_from_slice(&kept.sequence.to_le_bytes());
    record.extend_from_slice(&volume.number.to_le_bytes());
    record.extend_from_slice(&[0; 4]);
    record.extend_from_slice(&volume.uuid.to_le_bytes());
    record.resize(HEADER_BYTES, 0);
    record.extend_from_slice(state);
    let crc = crc32c::crc32c(&record[CRC_FROM..]);
    record[8..CRC_FROM].copy_from_slice(&crc.to_le_bytes());
    record.resize(whole.next_multiple_of(BLOCK_BYTES), 0);
    record.freeze()
}

/// Where the part begins that the CRC covers.
const CRC_FROM: usize = 12;

fn parse(place: &[u8]) -> Option<(VolumeKey, u64, Bytes)> {
    let header = place.get(..HEADER_BYTES).filter(|it| it[..8] == MAGIC)?;
    let number = |at: usize| Some(u32::from_le_bytes(header[at..at + 4].try_into().ok()?));
    let len = usize::try_from(number(12)?).ok()?;
    let whole = place.get(CRC_FROM..HEADER_BYTES.checked_add(len)?)?;
    if crc32c::crc32c(whole) != number(8)? {
        return None;
    }
    let sequence = u64::from_le_bytes(header[16..24].try_into().ok()?);
    let uuid = u128::from_le_bytes(header[32..48].try_into().ok()?);
    let volume = VolumeKey {
        number: number(24)?,
        uuid,
    };
    let state = Bytes::copy_from_slice(&place[HEADER_BYTES..HEADER_BYTES + len]);
    Some((volume, sequence, state))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Who waits for which state of a volume, by the number of the change.
    type Change = u64;

    /// Blocks of a write that is not torn.
    const WHOLE: usize = PLACE_BYTES / BLOCK_BYTES;

    /// A system volume whose writes take effect when the history says so.
    struct Disk {
        places: Vec<Vec<u8>>,
        under_way: Vec<Write>,
    }

    impl Disk {
        fn new() -> Self {
            Self {
                places: vec![vec![0; PLACE_BYTES]; PLACES],
                under_way: Vec::new(),
            }
        }

        fn take(&mut self, book: &mut Book<Change>) {
            while let Some(write) = book.next_write() {
                let same = |other: &Write| other.place == write.place;
                assert!(!self.under_way.iter().any(same), "one write for a place");
                self.under_way.push(write);
            }
        }

        /// The first `blocks` blocks of a write reach the medium.
        fn reach(&mut self, write: &Write, blocks: usize) {
            let len = write.record.len().min(blocks * BLOCK_BYTES);
            self.places[write.place][..len].copy_from_slice(&write.record[..len]);
        }

        fn read(&self, volumes: &BTreeSet<VolumeKey>) -> Book<Change> {
            let mut book = Book::of(volumes.clone());
            for from in (0..PLACES).step_by(READ_BYTES / PLACE_BYTES) {
                let places = &self.places[from..from + READ_BYTES / PLACE_BYTES];
                book.read(from, &places.concat());
            }
            book.check();
            book
        }
    }

    fn volume(number: u32) -> VolumeKey {
        let uuid = u128::from(number) << 100 | 0xabc;
        VolumeKey { number, uuid }
    }

    /// The bytes of change `number`: some fill one block, some more.
    fn state(number: Change) -> Bytes {
        let len = 8 + usize::try_from(number % 5).unwrap() * 3000;
        let mut state = number.to_le_bytes().to_vec();
        state.resize(len, u8::try_from(number % 251).unwrap());
        state.into()
    }

    fn number(state: &Bytes) -> Change {
        let number = u64::from_le_bytes(state[..8].try_into().unwrap());
        assert_eq!(*state, self::state(number), "whole");
        number
    }

    #[derive(Clone, Debug)]
    enum Event {
        Keep(u32),
        /// The write under way that is chosen ends well, or with an error after that many blocks.
        Stored(usize),
        Failed(usize, usize),
        Rested(u32),
        /// Power goes while so many blocks of each write have reached the medium.
        Crash(usize),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            5 => (0..4_u32).prop_map(Event::Keep),
            5 => (0..8_usize).prop_map(Event::Stored),
            1 => (0..8_usize, 0..5_usize).prop_map(|(at, blocks)| Event::Failed(at, blocks)),
            2 => (0..4_u32).prop_map(Event::Rested),
            1 => (0..5_usize).prop_map(Event::Crash),
        ];
        prop::collection::vec(event, 1..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn what_was_answered_survives_every_crash(events in events()) {
            let volumes: BTreeSet<_> = (0..4).map(volume).collect();
            let (mut disk, mut book) = (Disk::new(), Book::of(volumes.clone()));
            let mut made: Change = 0;
            // Of each volume: the changes nobody was answered, and the last that somebody was.
            let mut asked: BTreeMap<VolumeKey, Vec<Change>> = BTreeMap::new();
            let mut answered: BTreeMap<VolumeKey, Change> = BTreeMap::new();
            for event in events {
                match event {
                    Event::Keep(at) => {
                        made += 1;
                        asked.entry(volume(at)).or_default().push(made);
                        book.keep(volume(at), state(made), made);
                    }
                    Event::Stored(at) if at < disk.under_way.len() => {
                        let write = disk.under_way.remove(at);
                        disk.reach(&write, WHOLE);
                        for change in book.stored(write.volume) {
                            let open = asked.get_mut(&write.volume).unwrap();
                            prop_assert_eq!(open.remove(0), change, "in order");
                            answered.insert(write.volume, change);
                        }
                    }
                    Event::Failed(at, blocks) if at < disk.under_way.len() => {
                        let write = disk.under_way.remove(at);
                        disk.reach(&write, blocks);
                        book.failed(write.volume);
                    }
                    Event::Stored(_) | Event::Failed(..) => {}
                    Event::Rested(at) => book.rested(volume(at)),
                    Event::Crash(blocks) => {
                        for write in std::mem::take(&mut disk.under_way) {
                            disk.reach(&write, blocks);
                        }
                        book = disk.read(&volumes);
                        for volume in &volumes {
                            let found = book.newest(*volume).map(|it| number(&it));
                            let open = asked.remove(volume).unwrap_or_default();
                            let least = answered.get(volume).copied();
                            prop_assert!(found == least || found.is_some_and(|it| {
                                Some(it) > least && open.contains(&it)
                            }), "{:?} after {:?}", found, least);
                            answered.extend(found.map(|it| (*volume, it)));
                        }
                    }
                }
                disk.take(&mut book);
                book.check();
            }
        }
    }

    #[test]
    fn what_comes_while_a_record_is_written_is_written_as_one() {
        let mut book = Book::of([volume(1)].into());
        (1..=4).for_each(|change| book.keep(volume(1), state(change), change));
        let first = book.next_write().unwrap();
        assert!(book.next_write().is_none());
        assert_eq!(parse(&first.record).map(|it| number(&it.2)), Some(4));
        assert_eq!(book.stored(volume(1)), [1, 2, 3, 4]);
        assert!(book.next_write().is_none());
    }

    #[test]
    fn a_record_is_not_written_over_itself() {
        let mut book = Book::of([volume(1)].into());
        let mut last = None;
        for change in 1..1000 {
            book.keep(volume(1), state(change), change);
            let write = book.next_write().unwrap();
            assert_ne!(Some(write.place), last);
            last = Some(write.place);
            book.stored(volume(1));
        }
    }

    #[test]
    fn every_volume_has_a_record_and_the_spare_places_go_round() {
        let volumes: BTreeSet<_> = (0..u32::try_from(VOLUMES_MAX).unwrap())
            .map(volume)
            .collect();
        let (mut disk, mut book) = (Disk::new(), Book::of(volumes.clone()));
        for change in 1..=2 {
            for volume in &volumes {
                book.keep(*volume, state(change), change);
            }
            disk.take(&mut book);
            assert_eq!(disk.under_way.len(), if change == 1 { 256 } else { 64 });
            while !disk.under_way.is_empty() {
                let write = disk.under_way.remove(0);
                disk.reach(&write, WHOLE);
                assert_eq!(book.stored(write.volume), [change]);
                disk.take(&mut book);
            }
        }
        let read = disk.read(&volumes);
        for volume in &volumes {
            assert_eq!(read.newest(*volume).map(|it| number(&it)), Some(2));
        }
    }

    #[test]
    fn d10_the_record_of_a_deleted_volume_dies_with_it() {
        let both = [volume(1), volume(2)].into();
        let (mut disk, mut book) = (Disk::new(), Book::of(both));
        for number in [1, 2] {
            book.keep(volume(number), state(7), 7);
        }
        disk.take(&mut book);
        let [first, second] = std::mem::take(&mut disk.under_way).try_into().ok().unwrap();
        disk.reach(&first, WHOLE);
        assert_eq!(book.stored(volume(1)), [7]);
        // One is quiet, the other is being written.
        book.have(&BTreeSet::new());
        assert_eq!(book.newest(volume(1)), None);
        disk.reach(&second, WHOLE);
        assert_eq!(book.stored(volume(2)), [7]);
        assert_eq!(book.free.len(), PLACES);
        book.keep(volume(1), state(8), 8);
        assert!(book.next_write().is_none(), "it has nobody to keep it for");
        // Neither another number nor another identity brings it back.
        let VolumeKey { number, uuid } = volume(1);
        for (number, uuid) in [(number + 8, uuid), (number, uuid + 1)] {
            let other = VolumeKey { number, uuid };
            assert_eq!(disk.read(&[other].into()).newest(other), None);
        }
    }

    #[test]
    fn a_failure_is_told_once_and_what_waited_is_written_with_what_came() {
        let mut book = Book::of([volume(1)].into());
        book.keep(volume(1), state(1), 1);
        assert!(book.next_write().is_some());
        assert_eq!(book.failed(volume(1)), Trouble::New);
        book.keep(volume(1), state(2), 2);
        assert!(book.next_write().is_none(), "it rests");
        book.rested(volume(1));
        let again = book.next_write().unwrap();
        assert_eq!(parse(&again.record).map(|it| number(&it.2)), Some(2));
        assert_eq!(book.failed(volume(1)), Trouble::Known);
        book.rested(volume(1));
        assert!(book.next_write().is_some());
        assert_eq!(book.stored(volume(1)), [1, 2]);
        book.keep(volume(1), state(3), 3);
        assert!(book.next_write().is_some());
        assert_eq!(book.failed(volume(1)), Trouble::New, "it had gone well");
    }

    #[test]
    fn damage_is_no_record() {
        let kept = Kept {
            place: 0,
            sequence: 9,
            state: state(3),
        };
        let good = record(volume(1), &kept);
        assert_eq!(parse(&good), Some((volume(1), 9, state(3))));
        for at in (0..HEADER_BYTES + state(3).len()).step_by(7) {
            let mut bad = good.to_vec();
            bad[at] ^= 0x10;
            assert_eq!(parse(&bad), None, "byte {at}");
        }
        assert_eq!(parse(&good[..BLOCK_BYTES]), None);
        assert_eq!(parse(&[0; PLACE_BYTES]), None);
    }
}
