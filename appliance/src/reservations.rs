//! The reservations of every volume, in the system volume (law D10): the ledger.
//!
//! The part of the system volume behind the configuration is cut into places. One record, a
//! header and the bytes of one volume's reservations, fills a place. A change writes a record with
//! the next sequence number to a place that nothing needs, with FUA; when that is complete on every
//! in-sync box the place of the record before is free. A torn write leaves that one. So a change
//! costs a few KiB and neither waits for a change of the configuration nor holds one up.
//!
//! The [`Book`] decides what is written where and who is answered; the [`Ledger`] does it.

mod book;
mod record;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iscsi_target::backend::{Completion, Done, Receipt};
use replication::engine::{Command, CommandError, Completed};
use replication::shell::Handle;
use replication::types::{Fua, VolumeNumber};

use self::book::{Book, Trouble};
use self::record::{PLACE_BYTES, offset_bytes, place_at};
use crate::config::cluster::Volume;
use crate::events::EventLog;
use crate::state::{PLACES_BYTES, PLACES_FROM_BYTES};
use crate::system;

/// How much is read at once when this box begins to serve.
const READ_BYTES: usize = 2 << 20;
/// How long a store that failed is left alone.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

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
    book: RefCell<Book<Waiter>>,
    /// What operators call the volumes.
    names: RefCell<BTreeMap<VolumeKey, String>>,
    /// Raised with each reading: the outcome of an older write tells nothing any more.
    reading: Cell<u64>,
}

/// Who waits for a state to be durable.
struct Waiter {
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
            names: RefCell::default(),
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
        let names = names(volumes);
        let mut book = Book::of(names.keys().copied().collect());
        self.names.replace(names);
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
        let names = names(volumes);
        let keys = names.keys().copied().collect();
        self.names.replace(names);
        self.book.borrow_mut().have(&keys);
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
        let waiter = Waiter {
            receipt,
            completion,
        };
        {
            let mut book = self.book.borrow_mut();
            // The receipt of this one covers those of who is gone.
            book.dismiss(volume, |waiter| !waiter.completion.is_awaited());
            book.keep(volume, state, waiter);
        }
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
                let was_troubled = self.book.borrow().is_troubled(volume);
                let waiters = self.book.borrow_mut().stored(volume);
                if was_troubled {
                    let name = self.name(volume);
                    self.events
                        .add(format!("reservations of volume {name} are stored again"));
                }
                for waiter in waiters {
                    waiter.receipt.sign();
                    waiter.completion.complete(Ok(Done::Ok));
                }
                self.write();
            }
            // Nobody is answered any more (law R8): unused, the completions say so.
            Err(CommandError::NotPrimary) => drop(self.book.take()),
            Err(error) => {
                if self.book.borrow_mut().failed(volume) == Trouble::New {
                    self.events.add(format!(
                        "reservations of volume {} cannot be stored: {}; those that hosts have \
                         stay in force, who asks for a change waits, and it is tried again; see \
                         `twinsan status`",
                        self.name(volume),
                        system::sentence(error)
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

    fn name(&self, volume: VolumeKey) -> String {
        let names = self.names.borrow();
        names.get(&volume).cloned().unwrap_or_default()
    }
}

fn names(volumes: &[Volume]) -> BTreeMap<VolumeKey, String> {
    let name = |volume: &Volume| (VolumeKey::of(volume), volume.name.clone());
    volumes.iter().map(name).collect()
}
