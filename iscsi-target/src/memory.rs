//! A backend in memory, for tests and demonstrations: sparse, immediate, forgetful.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use bytes::Bytes;

use crate::backend::{Backend, BackendError, Completion, Done, Geometry, Request, aligned_buffer};

/// Blocks in a map; a block that is not in the map reads zero.
#[derive(Debug)]
pub struct MemoryBackend {
    geometry: Cell<Geometry>,
    blocks: RefCell<BTreeMap<u64, Box<[u8]>>>,
    answers: Cell<Answers>,
    held: RefCell<Vec<(Request, Completion)>>,
    reservations: RefCell<Option<Bytes>>,
}

/// When a [`MemoryBackend`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// Inside [`Backend::submit`].
    AtOnce,
    /// Only when [`MemoryBackend::release`] is called, which may be never.
    Held,
    /// At once, with this error.
    With(BackendError),
}

impl MemoryBackend {
    /// A backend that reads zero everywhere.
    pub fn new(geometry: Geometry) -> Self {
        Self {
            geometry: Cell::new(geometry),
            blocks: RefCell::default(),
            answers: Cell::new(Answers::AtOnce),
            held: RefCell::default(),
            reservations: RefCell::default(),
        }
    }

    /// A thin one of `blocks` blocks of 512 bytes on 4 KiB physical blocks, with a write cache.
    pub fn thin(blocks: u64) -> Self {
        Self::new(Geometry {
            blocks,
            block_bytes: 512,
            physical_block_exponent: 3,
            thin: true,
            write_cache: true,
            read_only: false,
        })
    }

    /// Changes how later requests are answered.
    pub fn answer(&self, answers: Answers) {
        self.answers.set(answers);
    }

    /// Carries out everything that is held, in the order in which it was submitted.
    pub fn release(&self) {
        for (request, completion) in self.held.take() {
            completion.complete(self.carry_out(request));
        }
    }

    /// Requests that are held.
    pub fn held(&self) -> usize {
        self.held.borrow().len()
    }

    /// The reservations that were kept last.
    pub fn reservations(&self) -> Option<Bytes> {
        self.reservations.borrow().clone()
    }

    /// Grows or shrinks to `blocks` blocks.
    pub fn resize(&self, blocks: u64) {
        self.geometry.set(Geometry {
            blocks,
            ..self.geometry.get()
        });
        self.blocks.borrow_mut().split_off(&blocks);
    }

    /// Blocks that take memory.
    pub fn allocated_blocks(&self) -> usize {
        self.blocks.borrow().len()
    }

    fn carry_out(&self, request: Request) -> Result<Done, BackendError> {
        match request {
            Request::Read {
                offset_bytes,
                len_bytes,
            } => self.read(offset_bytes, len_bytes).map(Done::Data),
            Request::Write {
                offset_bytes, data, ..
            } => self.write(offset_bytes, &data),
            Request::WriteSame {
                offset_bytes,
                len_bytes,
                pattern,
                ..
            } => {
                let block_bytes = u64::from(self.geometry.get().block_bytes);
                (0..len_bytes / block_bytes).try_fold(Done::Ok, |_, block| {
                    self.write(offset_bytes + block * block_bytes, &pattern)
                })
            }
            Request::WriteZeroes {
                offset_bytes,
                len_bytes,
                ..
            }
            | Request::Unmap {
                offset_bytes,
                len_bytes,
            } => self.forget(offset_bytes, len_bytes),
            Request::CompareAndWrite {
                offset_bytes,
                expected,
                data,
                ..
            } => {
                let found = self.read(offset_bytes, expected.len())?;
                match found
                    .iter()
                    .zip(&expected)
                    .position(|(found, expected)| found != expected)
                {
                    Some(at) => Ok(Done::Miscompare {
                        offset_bytes: at as u64,
                    }),
                    None => self.write(offset_bytes, &data),
                }
            }
            Request::Flush | Request::Confirm => Ok(Done::Ok),
            Request::KeepReservations { state, receipt } => {
                self.reservations.replace(Some(state));
                receipt.sign();
                Ok(Done::Ok)
            }
        }
    }

    fn read(&self, offset_bytes: u64, len_bytes: usize) -> Result<Bytes, BackendError> {
        let (first, end) = self.range(offset_bytes, len_bytes as u64)?;
        let block_bytes = self.geometry.get().block_bytes as usize;
        let mut data = aligned_buffer(len_bytes);
        data.resize(len_bytes, 0);
        for (number, block) in self.blocks.borrow().range(first..end) {
            let at = usize::try_from(number - first).expect("the range fits in a buffer");
            data[at * block_bytes..][..block_bytes].copy_from_slice(block);
        }
        Ok(data.freeze())
    }

    fn write(&self, offset_bytes: u64, data: &[u8]) -> Result<Done, BackendError> {
        let (first, end) = self.range(offset_bytes, data.len() as u64)?;
        let chunks = data.chunks(self.geometry.get().block_bytes as usize);
        let blocks = (first..end).zip(chunks.map(Box::from));
        self.blocks.borrow_mut().extend(blocks);
        Ok(Done::Ok)
    }

    fn forget(&self, offset_bytes: u64, len_bytes: u64) -> Result<Done, BackendError> {
        let (first, end) = self.range(offset_bytes, len_bytes)?;
        self.blocks
            .borrow_mut()
            .retain(|number, _| !(first..end).contains(number));
        Ok(Done::Ok)
    }

    /// First block and the one after the last. The units send whole blocks that exist; only a
    /// volume that shrank since gets others.
    fn range(&self, offset_bytes: u64, len_bytes: u64) -> Result<(u64, u64), BackendError> {
        let block_bytes = u64::from(self.geometry.get().block_bytes);
        assert_eq!(
            offset_bytes % block_bytes,
            0,
            "an offset is a whole number of blocks"
        );
        assert_eq!(
            len_bytes % block_bytes,
            0,
            "a length is a whole number of blocks"
        );
        let (first, end) = (
            offset_bytes / block_bytes,
            (offset_bytes + len_bytes) / block_bytes,
        );
        if end > self.geometry.get().blocks {
            return Err(BackendError::Hardware);
        }
        Ok((first, end))
    }
}

impl Backend for MemoryBackend {
    fn geometry(&self) -> Geometry {
        self.geometry.get()
    }

    fn submit(&self, request: Request, completion: Completion) {
        match self.answers.get() {
            Answers::AtOnce => completion.complete(self.carry_out(request)),
            Answers::Held => self.held.borrow_mut().push((request, completion)),
            Answers::With(error) => completion.complete(Err(error)),
        }
    }
}
