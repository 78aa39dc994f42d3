//! One volume of the mirror as the target's [`Backend`], and the one translation between them.

use bytes::{Bytes, BytesMut};
use iscsi_target::backend::{
    Backend, BackendError, Completion, Done, Fua, Geometry, MayUnmap, Request,
};
use replication::engine::{Command, CommandError, Completed};
use replication::shell::Handle;
use replication::types::{self as mirror, VolumeNumber};

/// Logical blocks as every initiator knows them; the mirror works in 4 KiB, so say "512e".
const BLOCK_BYTES: u32 = 512;
const PHYSICAL_BLOCK_EXPONENT: u8 = 3;
/// A repeated pattern is written in pieces of this size.
const SAME_PIECE_BYTES: u64 = 1 << 20;

/// A volume and the way to it.
pub(crate) struct Volume {
    mirror: Handle,
    number: VolumeNumber,
    size_bytes: u64,
}

impl Volume {
    /// Volume `number` of `size_bytes` behind `mirror`.
    #[must_use]
    pub(crate) fn new(mirror: Handle, number: u32, size_bytes: u64) -> Self {
        Self {
            mirror,
            number: VolumeNumber(number),
            size_bytes,
        }
    }

    /// Writes `pattern` over the range a piece at a time; overlapping commands keep their order
    /// because each piece holds its range.
    fn write_same(&self, range: SameRange, pattern: &Bytes, completion: Completion) {
        let SameRange {
            offset_bytes,
            len_bytes,
            fua,
        } = range;
        if pattern.iter().all(|byte| *byte == 0) {
            let volume = self.number;
            let zeroes = Command::WriteZeroes {
                volume,
                offset_bytes,
                len_bytes,
                fua,
            };
            return self
                .mirror
                .submit(zeroes, move |result| completion.complete(answer(result)));
        }
        let piece_bytes = len_bytes.min(SAME_PIECE_BYTES);
        let piece = repeated(pattern, usize::try_from(piece_bytes).expect("a piece fits"));
        let step = SameStep {
            mirror: self.mirror.clone(),
            volume: self.number,
            range,
            piece,
            completion,
        };
        step.next();
    }
}

impl Backend for Volume {
    fn geometry(&self) -> Geometry {
        Geometry {
            blocks: self.size_bytes / u64::from(BLOCK_BYTES),
            block_bytes: BLOCK_BYTES,
            physical_block_exponent: PHYSICAL_BLOCK_EXPONENT,
            thin: true,
            write_cache: true,
            read_only: false,
        }
    }

    fn buffer(&self, len_bytes: usize) -> BytesMut {
        self.mirror.buffer(len_bytes)
    }

    fn submit(&self, request: Request, completion: Completion) {
        match plan(self.number, request) {
            Plan::One(command) => {
                self.mirror
                    .submit(command, move |result| completion.complete(answer(result)));
            }
            Plan::Same(range, pattern) => self.write_same(range, &pattern, completion),
        }
    }
}

/// What becomes of a request.
enum Plan {
    /// One command.
    One(Command),
    /// A write for each piece of a range.
    Same(SameRange, Bytes),
}

fn plan(volume: VolumeNumber, request: Request) -> Plan {
    let zeroes = |offset_bytes, len_bytes, fua| Command::WriteZeroes {
        volume,
        offset_bytes,
        len_bytes,
        fua,
    };
    Plan::One(match request {
        Request::Read {
            offset_bytes,
            len_bytes,
        } => Command::Read {
            volume,
            offset_bytes,
            len_bytes,
        },
        Request::Write {
            offset_bytes,
            data,
            fua,
        } => Command::Write {
            volume,
            offset_bytes,
            data,
            fua: fua_of(fua),
        },
        Request::WriteSame {
            offset_bytes,
            len_bytes,
            pattern,
            fua,
        } => {
            let fua = fua_of(fua);
            let range = SameRange {
                offset_bytes,
                len_bytes,
                fua,
            };
            return Plan::Same(range, pattern);
        }
        // `unmap` decides nothing: the mirror is thin wherever it is zero (see `geometry`), on both
        // boxes, and promises nobody that a block keeps its place on a disk (SBC-3 §4.7).
        Request::WriteZeroes {
            offset_bytes,
            len_bytes,
            unmap: MayUnmap::Yes | MayUnmap::No,
            fua,
        } => zeroes(offset_bytes, len_bytes, fua_of(fua)),
        Request::Unmap {
            offset_bytes,
            len_bytes,
        } => zeroes(offset_bytes, len_bytes, mirror::Fua::No),
        Request::CompareAndWrite {
            offset_bytes,
            expected,
            data,
            fua,
        } => Command::CompareAndWrite {
            volume,
            offset_bytes,
            expected,
            data,
            fua: fua_of(fua),
        },
        Request::Flush => Command::Flush { volume },
        Request::Confirm => Command::Confirm,
    })
}

#[derive(Clone, Copy)]
struct SameRange {
    offset_bytes: u64,
    len_bytes: u64,
    fua: mirror::Fua,
}

/// What is left of a WRITE SAME.
struct SameStep {
    mirror: Handle,
    volume: VolumeNumber,
    range: SameRange,
    piece: Bytes,
    completion: Completion,
}

impl SameStep {
    fn next(mut self) {
        let piece_bytes = u64::try_from(self.piece.len()).expect("a piece fits");
        let len_bytes = self.range.len_bytes.min(piece_bytes);
        let write = Command::Write {
            volume: self.volume,
            offset_bytes: self.range.offset_bytes,
            data: self
                .piece
                .slice(..usize::try_from(len_bytes).expect("a piece fits")),
            fua: self.range.fua,
        };
        self.range.offset_bytes += len_bytes;
        self.range.len_bytes -= len_bytes;
        let mirror = self.mirror.clone();
        mirror.submit(write, move |result| match result {
            Ok(_) if self.range.len_bytes > 0 => self.next(),
            Ok(_) | Err(_) => self.completion.complete(answer(result)),
        });
    }
}

fn repeated(pattern: &Bytes, len_bytes: usize) -> Bytes {
    let mut piece = iscsi_target::backend::aligned_buffer(len_bytes);
    while piece.len() < len_bytes {
        piece.extend_from_slice(pattern);
    }
    piece.truncate(len_bytes);
    piece.freeze()
}

const fn fua_of(fua: Fua) -> mirror::Fua {
    match fua {
        Fua::Yes => mirror::Fua::Yes,
        Fua::No => mirror::Fua::No,
    }
}

fn answer(result: Result<Completed, CommandError>) -> Result<Done, BackendError> {
    match result {
        Ok(Completed::Data(data)) => Ok(Done::Data(data)),
        Ok(Completed::Ok) => Ok(Done::Ok),
        Ok(Completed::Miscompare { offset_bytes }) => Ok(Done::Miscompare { offset_bytes }),
        Err(CommandError::NotPrimary) => Err(BackendError::NotActive),
        Err(CommandError::Medium) => Err(BackendError::Medium),
        Err(CommandError::NoSpace) => Err(BackendError::NoSpace),
        Err(
            CommandError::OutOfRange
            | CommandError::Io
            | CommandError::UnknownVolume
            | CommandError::Refused(_),
        ) => Err(BackendError::Hardware),
    }
}
