//! One volume of the mirror as the target's [`Backend`], and the one translation between them.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use iscsi_target::backend::{
    Backend, BackendError, Completion, Done, Fua, Geometry, MayUnmap, Request,
};
use replication::engine::{Command, CommandError, Completed};
use replication::shell::Handle;
use replication::types::{self as mirror, VolumeNumber};

use crate::config::cluster::Volume as VolumeConfig;
use crate::reservations::{Ledger, VolumeKey};

/// Logical blocks as every initiator knows them; the mirror works in 4 KiB, so say "512e".
const BLOCK_BYTES: u32 = 512;
const PHYSICAL_BLOCK_EXPONENT: u8 = 3;

/// A volume and the way to it.
pub(crate) struct Volume {
    mirror: Handle,
    ledger: Rc<Ledger>,
    key: VolumeKey,
    number: VolumeNumber,
    size_bytes: u64,
}

impl Volume {
    /// The volume of `config` behind `mirror`, with its reservations in `ledger`.
    #[must_use]
    pub(crate) fn new(mirror: Handle, ledger: Rc<Ledger>, config: &VolumeConfig) -> Self {
        Self {
            mirror,
            ledger,
            key: VolumeKey::of(config),
            number: VolumeNumber(config.number),
            size_bytes: config.size_bytes,
        }
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
        if let Request::KeepReservations { state, receipt } = request {
            return self.ledger.keep(self.key, state, receipt, completion);
        }
        let command = command(self.number, request);
        self.mirror
            .submit(command, move |result| completion.complete(answer(result)));
    }
}

fn command(volume: VolumeNumber, request: Request) -> Command {
    let zeroes = |offset_bytes, len_bytes, fua| Command::WriteZeroes {
        volume,
        offset_bytes,
        len_bytes,
        fua,
    };
    match request {
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
            if pattern.iter().all(|byte| *byte == 0) {
                return zeroes(offset_bytes, len_bytes, fua);
            }
            let len_bytes = usize::try_from(len_bytes).expect("the target asks for short pieces");
            Command::Write {
                volume,
                offset_bytes,
                data: repeated(&pattern, len_bytes),
                fua,
            }
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
        Request::KeepReservations { .. } => unreachable!("the ledger keeps them"),
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
        Err(CommandError::Overloaded) => Err(BackendError::Overloaded),
        Err(CommandError::NoSpace) => Err(BackendError::NoSpace),
        Err(
            CommandError::OutOfRange
            | CommandError::Io
            | CommandError::UnknownVolume
            | CommandError::Refused(_),
        ) => Err(BackendError::Hardware),
    }
}
