//! Aligned buffers that go to disks and sockets without a copy.
//!
//! Large ones are used again: fresh memory costs the kernel more than the disk operation that
//! fills it. The pool keeps a second handle on the memory of each buffer that it gave out and
//! takes the memory back when that handle is the only one left.

use std::cell::RefCell;
use std::collections::VecDeque;

use bytes::{BufMut, BytesMut};

/// Address alignment, in bytes, of every buffer made by [`aligned`].
pub const ALIGN_BYTES: usize = 4096;

/// Smallest and largest pooled size; each class is twice the one before.
const SMALLEST_BYTES: usize = 16 << 10;
const CLASSES: usize = 8;
/// Memory that one class keeps at most, on each thread.
const CLASS_BYTES: usize = 16 << 20;
/// Handles looked at before fresh memory is taken.
const TRIES: usize = 4;

/// An empty buffer of at least `len_bytes` capacity whose address is a multiple of
/// [`ALIGN_BYTES`], as direct I/O wants it.
pub fn aligned(len_bytes: usize) -> BytesMut {
    let Some(class) = class_of(len_bytes) else {
        return split_aligned(&mut BytesMut::with_capacity(len_bytes + ALIGN_BYTES));
    };
    POOL.with_borrow_mut(|pool| pool[class].take(SMALLEST_BYTES << class))
}

thread_local! {
    static POOL: RefCell<[Class; CLASSES]> = RefCell::default();
}

/// The handles on buffers of one size, oldest first.
#[derive(Default)]
struct Class {
    handles: VecDeque<BytesMut>,
}

impl Class {
    fn take(&mut self, len_bytes: usize) -> BytesMut {
        for _ in 0..TRIES.min(self.handles.len()) {
            let Some(mut handle) = self.handles.pop_front() else {
                break;
            };
            handle.clear();
            let buffer = handle
                .try_reclaim(len_bytes + ALIGN_BYTES)
                .then(|| split_aligned(&mut handle));
            self.handles.push_back(handle);
            if let Some(buffer) = buffer {
                return buffer;
            }
        }
        let mut handle = BytesMut::with_capacity(len_bytes + ALIGN_BYTES);
        let buffer = split_aligned(&mut handle);
        if (self.handles.len() + 1) * len_bytes <= CLASS_BYTES {
            self.handles.push_back(handle);
        }
        buffer
    }
}

fn class_of(len_bytes: usize) -> Option<usize> {
    if len_bytes < SMALLEST_BYTES {
        return None;
    }
    (0..CLASSES).find(|class| len_bytes <= SMALLEST_BYTES << class)
}

/// Splits the aligned part off; `slab` keeps the bytes before it.
fn split_aligned(slab: &mut BytesMut) -> BytesMut {
    let skip = slab.as_ptr().align_offset(ALIGN_BYTES);
    slab.put_bytes(0, skip);
    slab.split_off(skip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_empty_aligned_and_large_enough() {
        for _ in 0..3 {
            for len_bytes in [
                0,
                1,
                512,
                4096,
                16 << 10,
                (256 << 10) + 256,
                4 << 20,
                17 << 20,
            ] {
                let buffer = aligned(len_bytes);
                assert_eq!(buffer.as_ptr().addr() % ALIGN_BYTES, 0);
                assert!(
                    buffer.is_empty() && buffer.capacity() >= len_bytes,
                    "{len_bytes}"
                );
            }
        }
    }

    #[test]
    fn memory_is_used_again_only_when_nobody_holds_it() {
        let mut first = aligned(256 << 10);
        first.put_bytes(7, 100);
        let address = first.as_ptr().addr();
        let held = first.freeze().slice(10..20);
        let second = aligned(256 << 10);
        assert_ne!(second.as_ptr().addr(), address);
        assert_eq!(held[..], [7; 10]);
        drop(held);
        let addresses: Vec<usize> = (0..TRIES)
            .map(|_| aligned(256 << 10))
            .map(|again| again.as_ptr().addr())
            .collect();
        assert!(
            addresses.contains(&address),
            "the memory was not used again"
        );
    }

    #[test]
    fn the_pool_is_bounded() {
        let held: Vec<BytesMut> = (0..100).map(|_| aligned(1 << 20)).collect();
        let kept = POOL.with_borrow(|pool| pool[6].handles.len());
        assert_eq!(kept, CLASS_BYTES >> 20);
        let mut addresses: Vec<usize> = held.iter().map(|b| b.as_ptr().addr()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), 100);
    }
}
