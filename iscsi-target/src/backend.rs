//! The port between units and storage: what a unit asks of the store behind it, and how it is told.
//!
//! # Contract
//!
//! The units check every range against [`Geometry`] before they submit, so a backend never sees an
//! offset or length that is not a multiple of the block size or lies past the end, except when the
//! volume shrank in between; it then answers [`BackendError::Hardware`]. A request carries or asks
//! for at most 4 MiB of data; ranges without data are at most 64 MiB, those of
//! [`Request::Unmap`] at most 2^20 blocks. Longer commands come in pieces, one after the other.
//!
//! [`Backend::submit`] never blocks and never calls back into the array. It may complete inside the
//! call. A backend promises that a read, a compare and a [`Request::Confirm`] complete only while
//! this box may answer from replicated state (law R5), that overlapping requests take effect in an
//! order all boxes agree on (law R4), and that [`Request::CompareAndWrite`] is atomic against every
//! other request on its range (law T3).
//!
//! # Reservations
//!
//! A backend keeps one more value beside the blocks: the bytes of its unit's reservations, which
//! the unit gets back when a box begins to serve ([`crate::scsi::Reserved`]).
//! [`Request::KeepReservations`] replaces them. When those bytes, or later ones of this unit, are
//! durable on every in-sync box, the backend signs the receipt and only then completes. States
//! are kept in the order in which they were submitted; one that a later one overtakes need not be
//! written. The request does not fail: the backend tries until the bytes are stored, or answers
//! [`BackendError::NotActive`] when this box loses its role. It goes on when the completion has
//! nobody left to hear it: the unit looks at the receipt, not at the outcome.
//!
//! Everything here lives on one thread: [`Completion`] is not `Send`, and there is no lock.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::task::Waker;

use bytes::{BufMut, Bytes, BytesMut};

/// A store of blocks behind one unit.
pub trait Backend {
    /// Size and abilities as they are now. Cheap: it is asked once per command.
    fn geometry(&self) -> Geometry;

    /// An empty buffer with room for `len_bytes`, aligned as the disk wants it; the connection
    /// receives write data straight into it.
    fn buffer(&self, len_bytes: usize) -> BytesMut {
        aligned_buffer(len_bytes)
    }

    /// Starts `request`. The outcome goes to `completion`, once, perhaps inside this call.
    fn submit(&self, request: Request, completion: Completion);
}

/// Size and abilities of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Number of logical blocks.
    pub blocks: u64,
    /// Bytes in a logical block: 512 or 4096.
    pub block_bytes: u32,
    /// Logical blocks per physical block, as a power of two (3 for "512e").
    pub physical_block_exponent: u8,
    /// Blocks can be unmapped and then read zero (LBPME and LBPRZ).
    pub thin: bool,
    /// A write without FUA may sit in a volatile cache until the next flush (WCE).
    pub write_cache: bool,
    /// Every change is refused.
    pub read_only: bool,
}

impl Geometry {
    /// Capacity in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.blocks * u64::from(self.block_bytes)
    }
}

/// Whether the data must be stable before the answer (force unit access).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fua {
    /// Stable on every in-sync box first.
    Yes,
    /// A volatile cache is enough.
    No,
}

/// Whether zeroing may give the blocks back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayUnmap {
    /// Blocks may be deallocated, as long as they read zero.
    Yes,
    /// Blocks stay allocated.
    No,
}

/// What a unit asks of its backend. Offsets and lengths are whole blocks, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Answered with [`Done::Data`] of exactly `len_bytes`.
    Read {
        /// First byte.
        offset_bytes: u64,
        /// Length.
        len_bytes: usize,
    },
    /// Replaces blocks.
    Write {
        /// First byte.
        offset_bytes: u64,
        /// New contents.
        data: Bytes,
        /// Stable before the answer or not.
        fua: Fua,
    },
    /// Repeats one block over a range.
    WriteSame {
        /// First byte.
        offset_bytes: u64,
        /// Length of the range.
        len_bytes: u64,
        /// One logical block.
        pattern: Bytes,
        /// Stable before the answer or not.
        fua: Fua,
    },
    /// Makes a range read zero.
    WriteZeroes {
        /// First byte.
        offset_bytes: u64,
        /// Length of the range.
        len_bytes: u64,
        /// Whether blocks may be deallocated.
        unmap: MayUnmap,
        /// Stable before the answer or not.
        fua: Fua,
    },
    /// Gives a range back; it then reads zero. Only for thin backends.
    Unmap {
        /// First byte.
        offset_bytes: u64,
        /// Length of the range.
        len_bytes: u64,
    },
    /// Writes `data` if the range holds `expected`, otherwise [`Done::Miscompare`] (law T3).
    CompareAndWrite {
        /// First byte.
        offset_bytes: u64,
        /// What must be there.
        expected: Bytes,
        /// What comes instead; as long as `expected`.
        data: Bytes,
        /// Stable before the answer or not.
        fua: Fua,
    },
    /// Makes every completed write stable on every in-sync box.
    Flush,
    /// Completes when this box may answer from replicated state (law R5).
    Confirm,
    /// Replaces the reservations of the unit, see the contract above (law D10).
    KeepReservations {
        /// All of them, at most [`crate::scsi::RESERVATIONS_BYTES_MAX`].
        state: Bytes,
        /// To be signed when they are durable.
        receipt: Receipt,
    },
}

/// One change of the reservations of a unit, to be signed when it is durable. Clones are the same
/// receipt.
#[derive(Clone, Debug)]
pub struct Receipt {
    signed: Rc<Cell<u64>>,
    number: u64,
}

impl Receipt {
    /// The change is durable on every in-sync box, and so is every earlier one of the unit.
    pub fn sign(&self) {
        self.signed.set(self.signed.get().max(self.number));
    }

    /// Whether it, or a later one of the unit, was signed.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.signed.get() >= self.number
    }
}

impl PartialEq for Receipt {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.signed, &other.signed) && self.number == other.number
    }
}

impl Eq for Receipt {}

/// The receipts of one unit, in order. Clones are the same series.
#[derive(Clone, Debug, Default)]
pub struct Receipts {
    signed: Rc<Cell<u64>>,
    issued: Rc<Cell<u64>>,
}

impl Receipts {
    /// That of the next change.
    #[must_use]
    pub fn issue(&self) -> Receipt {
        let number = self.issued.get() + 1;
        self.issued.set(number);
        Receipt {
            signed: Rc::clone(&self.signed),
            number,
        }
    }
}

/// How a request succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// The bytes of a read.
    Data(Bytes),
    /// Any other request took effect.
    Ok,
    /// A compare found a difference; nothing was written.
    Miscompare {
        /// Offset of the first different byte, counted from the start of the compared range.
        offset_bytes: u64,
    },
}

/// How a request failed. The one translation into sense data is in [`crate::scsi::Sense`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// Blocks of the range cannot be read or written.
    #[error("medium error")]
    Medium,
    /// The store failed.
    #[error("hardware error")]
    Hardware,
    /// A thin pool is full.
    #[error("no space left in the pool")]
    NoSpace,
    /// Too many commands wait; the initiator is to try again.
    #[error("too many commands wait")]
    Overloaded,
    /// This box lost its role: no status is sent and the session is dropped (law R8).
    #[error("this box is not active")]
    NotActive,
}

/// Which request of a connection a completion belongs to; chosen by the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(pub u64);

/// The outcomes of one connection's requests, in the order in which they completed.
///
/// Dropping the queue closes it: outcomes that arrive later vanish.
#[derive(Debug, Default)]
pub struct CompletionQueue {
    shared: Rc<Shared>,
}

impl CompletionQueue {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// A completion that will put its outcome here under `tag`.
    pub fn completion(&self, tag: Tag) -> Completion {
        Completion {
            shared: Some(Rc::clone(&self.shared)),
            tag,
        }
    }

    /// The task to wake when an outcome arrives.
    pub fn wake_with(&self, waker: &Waker) {
        let mut slot = self.shared.waker.borrow_mut();
        if !slot.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
    }

    /// The oldest outcome not yet taken.
    pub fn pop(&self) -> Option<(Tag, Result<Done, BackendError>)> {
        self.shared.outcomes.borrow_mut().pop_front()
    }

    /// Closes the queue; `held` says what the requests of which nobody will hear hold. It counts as
    /// left behind until each of them has ended.
    pub fn leave_behind(&self, mut held: BTreeMap<Tag, usize>, left_bytes: &LeftBytes) {
        while let Some((ended, _)) = self.pop() {
            held.remove(&ended);
        }
        let sum: usize = held.values().sum();
        left_bytes.0.set(left_bytes.0.get() + sum);
        self.close();
        let left_bytes = left_bytes.clone();
        self.shared.left.replace(Some(Left { held, left_bytes }));
    }

    fn close(&self) {
        self.shared.closed.set(true);
        self.shared.outcomes.borrow_mut().clear();
        self.shared.waker.borrow_mut().take();
    }

    /// Whether nothing has arrived.
    pub fn is_empty(&self) -> bool {
        self.shared.outcomes.borrow().is_empty()
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        self.close();
    }
}

/// The right and the duty to report one outcome. Dropped unused, it reports
/// [`BackendError::NotActive`].
#[derive(Debug)]
pub struct Completion {
    shared: Option<Rc<Shared>>,
    tag: Tag,
}

impl Completion {
    /// Reports the outcome and wakes the connection; without effect if the connection is gone.
    pub fn complete(mut self, outcome: Result<Done, BackendError>) {
        self.report(outcome);
    }

    /// Whether somebody would still hear the outcome.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.shared.as_ref().is_some_and(|it| !it.closed.get())
    }

    fn report(&mut self, outcome: Result<Done, BackendError>) {
        let Some(shared) = self.shared.take() else {
            return;
        };
        if shared.closed.get() {
            if let Some(left) = shared.left.borrow_mut().as_mut() {
                left.end(self.tag);
            }
            return;
        }
        shared.outcomes.borrow_mut().push_back((self.tag, outcome));
        // Cloned out: a waker may run anything, also something that registers another waker here.
        let waker = shared.waker.borrow().clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.report(Err(BackendError::NotActive));
    }
}

/// An empty buffer with room for `len_bytes` whose first byte is aligned for direct disk I/O.
pub fn aligned_buffer(len_bytes: usize) -> BytesMut {
    let mut slab = BytesMut::with_capacity(len_bytes + ALIGN_BYTES);
    let skip = slab.as_ptr().align_offset(ALIGN_BYTES);
    assert!(skip < ALIGN_BYTES, "a byte pointer can always be aligned");
    slab.put_bytes(0, skip);
    slab.split_off(skip)
}

#[derive(Debug, Default)]
struct Shared {
    outcomes: RefCell<VecDeque<(Tag, Result<Done, BackendError>)>>,
    waker: RefCell<Option<Waker>>,
    closed: Cell<bool>,
    left: RefCell<Option<Left>>,
}

/// What stores hold for connections that are gone, in bytes. Clones are the same count.
#[derive(Clone, Debug, Default)]
pub struct LeftBytes(Rc<Cell<usize>>);

impl LeftBytes {
    /// The count.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.get()
    }
}

/// What one connection has left behind.
#[derive(Debug)]
struct Left {
    held: BTreeMap<Tag, usize>,
    left_bytes: LeftBytes,
}

impl Left {
    fn end(&mut self, tag: Tag) {
        let ended = self.held.remove(&tag).unwrap_or(0);
        let LeftBytes(count) = &self.left_bytes;
        count.set(count.get() - ended);
    }
}

/// Alignment of buffers: that of direct I/O on disks with 4 KiB blocks.
const ALIGN_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_arrive_in_order_of_completion() {
        let queue = CompletionQueue::new();
        let first = queue.completion(Tag(1));
        let second = queue.completion(Tag(2));
        second.complete(Ok(Done::Ok));
        first.complete(Err(BackendError::Medium));
        assert_eq!(queue.pop(), Some((Tag(2), Ok(Done::Ok))));
        assert_eq!(queue.pop(), Some((Tag(1), Err(BackendError::Medium))));
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn a_dropped_completion_reports_not_active() {
        let queue = CompletionQueue::new();
        drop(queue.completion(Tag(7)));
        assert_eq!(queue.pop(), Some((Tag(7), Err(BackendError::NotActive))));
    }

    #[test]
    fn an_outcome_for_a_closed_queue_vanishes() {
        let queue = CompletionQueue::new();
        let late = queue.completion(Tag(1));
        let shared = Rc::clone(&queue.shared);
        assert!(late.is_awaited());
        drop(queue);
        assert!(!late.is_awaited());
        late.complete(Ok(Done::Ok));
        assert!(shared.outcomes.borrow().is_empty());
    }

    #[test]
    fn a_signed_receipt_covers_the_ones_before_it() {
        let receipts = Receipts::default();
        let [first, second, third] = [(); 3].map(|()| receipts.issue());
        assert!(!first.is_signed());
        second.clone().sign();
        first.sign();
        assert!(first.is_signed() && second.is_signed() && !third.is_signed());
        assert_ne!(first, Receipts::default().issue(), "another unit's");
    }

    #[test]
    fn buffers_are_aligned_and_large_enough() {
        for len in [0, 1, 512, 4096, 65_536, 262_144 + 512] {
            let buffer = aligned_buffer(len);
            assert_eq!(buffer.as_ptr() as usize % ALIGN_BYTES, 0);
            assert!(buffer.is_empty() && buffer.capacity() >= len);
        }
    }
}
