//! The target as a bench measures it: the production target code over one store without a mirror.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use iscsi_target::backend::{self, Backend, BackendError, Completion, Done, Geometry, Request};
use iscsi_target::hosts::{Access, HostConfig, MapConfig, MapTarget};
use iscsi_target::registry::Limits;
use iscsi_target::scsi::{ArrayConfig, Medium, Reserved, UnitConfig, UnitId};
use iscsi_target::shell::{Target, TargetSettings};
use replication::engine::{DiskError, Io, IoDone};
use replication::shell::{Backing, Disk, IoChoice, aligned, disk, open_disk};
use replication::types::{Fua, OpId, VolumeNumber};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

/// Name of the target.
pub const NAME: &str = "iqn.2026-11.org.twinsan:bench";

const BLOCK_BYTES: u32 = 512;
/// Size of the store that keeps nothing; tgt's has the same.
const NULL_BYTES: u64 = 1_099_511_627_776;
/// The most that a unit asks of its store at once.
const PIECE_MAX_BYTES: usize = 4 << 20;
/// How often one turn collects from the disk before connections have theirs.
const TURN_ROUNDS: usize = 8;
const VOLUME: VolumeNumber = VolumeNumber(1);

/// What stores the blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// Nothing: reads are zeros that were there before, writes are forgotten.
    Null,
    /// A file or block device, through the disk port of the mirror.
    File(PathBuf),
}

/// Serves LUN 0 to anybody on this machine until it is killed.
pub fn serve(listen: SocketAddr, store: &Store, io: IoChoice) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(LocalSet::new().run_until(async {
        let backend: Rc<dyn Backend> = match store {
            Store::Null => Rc::new(NullStore::new()),
            Store::File(path) => FileStore::open(path, io)?,
        };
        let target = target(backend)?;
        let listener = TcpListener::bind(listen).await?;
        println!("{}", listener.local_addr()?);
        target.serve(listener, 1).await?;
        Ok(())
    }))
}

fn target(backend: Rc<dyn Backend>) -> anyhow::Result<Target> {
    let target = Target::new(TargetSettings {
        name: NAME.to_owned(),
        alias: String::new(),
        limits: Limits::default(),
    });
    let id = UnitId(1);
    target.apply(ArrayConfig {
        hosts: vec![HostConfig {
            name: "any".to_owned(),
            initiators: Vec::new(),
            chap: None,
            networks: vec!["127.0.0.0/8".parse()?],
        }],
        maps: vec![MapConfig {
            target: MapTarget::Host("any".to_owned()),
            lun: 0,
            unit: id,
            access: Access::ReadWrite,
        }],
        units: vec![UnitConfig {
            id,
            name: "bench".to_owned(),
            backend,
            medium: Medium::Fixed,
            reserved: Reserved::Live,
        }],
        ..ArrayConfig::default()
    })?;
    target.activate();
    Ok(target)
}

const fn geometry(len_bytes: u64) -> Geometry {
    Geometry {
        blocks: len_bytes / BLOCK_BYTES as u64,
        block_bytes: BLOCK_BYTES,
        physical_block_exponent: 3,
        thin: false,
        write_cache: true,
        read_only: false,
    }
}

struct NullStore {
    zeros: Bytes,
}

impl NullStore {
    fn new() -> Self {
        let zeros = Bytes::from(vec![0; PIECE_MAX_BYTES]);
        Self { zeros }
    }
}

impl Backend for NullStore {
    fn geometry(&self) -> Geometry {
        geometry(NULL_BYTES)
    }

    fn buffer(&self, len_bytes: usize) -> BytesMut {
        aligned(len_bytes)
    }

    fn submit(&self, request: Request, completion: Completion) {
        completion.complete(match request {
            Request::Read { len_bytes, .. } => Ok(Done::Data(self.zeros.slice(..len_bytes))),
            Request::Write { .. } | Request::Flush | Request::Confirm => Ok(Done::Ok),
            Request::KeepReservations { receipt, .. } => {
                receipt.sign();
                Ok(Done::Ok)
            }
            Request::WriteSame { .. }
            | Request::WriteZeroes { .. }
            | Request::Unmap { .. }
            | Request::CompareAndWrite { .. } => Err(BackendError::Hardware),
        });
    }
}

/// One backing behind the disk port, as the driver of a group uses it: operations of a turn leave
/// together when the turn ends.
struct FileStore {
    size_bytes: u64,
    core: RefCell<Core>,
}

struct Core {
    disk: Box<dyn Disk>,
    waiting: Vec<Option<Completion>>,
    free: Vec<usize>,
    waker: Option<Waker>,
}

impl FileStore {
    fn open(path: &Path, io: IoChoice) -> anyhow::Result<Rc<Self>> {
        let backing = Backing::try_open(path)?;
        let size_bytes = backing.size_bytes();
        let mut disk = open_disk(io).context("no disk port")?;
        disk.attach(VOLUME, Arc::new(backing));
        let core = Core {
            disk,
            waiting: Vec::new(),
            free: Vec::new(),
            waker: None,
        };
        let this = Rc::new(Self {
            size_bytes,
            core: RefCell::new(core),
        });
        let driver = Rc::clone(&this);
        tokio::task::spawn_local(async move {
            let mut done = Vec::new();
            std::future::poll_fn(|cx| driver.turn(&mut done, cx)).await;
        });
        Ok(this)
    }

    /// Collects what the disk has done and submits what was asked of it meanwhile.
    fn turn(&self, done: &mut Vec<disk::Completion>, cx: &mut Context<'_>) -> Poll<()> {
        let mut core = self.core.borrow_mut();
        core.waker = None;
        for _ in 0..TURN_ROUNDS {
            let collected = core.disk.poll_done(cx, done).is_ready();
            for disk::Completion { op, result } in done.drain(..) {
                core.finish(op, result);
            }
            core.disk.kick();
            if !collected {
                core.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Core {
    fn submit(&mut self, io: Io, completion: Completion) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.waiting.push(None);
            self.waiting.len() - 1
        });
        self.waiting[slot] = Some(completion);
        self.disk.submit(OpId(slot as u64), VOLUME, io);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn finish(&mut self, op: OpId, result: Result<IoDone, DiskError>) {
        let slot = usize::try_from(op.0).expect("slots are indices");
        let completion = self.waiting[slot]
            .take()
            .expect("each operation is answered once");
        self.free.push(slot);
        completion.complete(match result {
            Ok(IoDone::Data(data)) => Ok(Done::Data(data)),
            Ok(IoDone::Ok) => Ok(Done::Ok),
            Err(DiskError::Medium) => Err(BackendError::Medium),
            Err(DiskError::NoSpace) => Err(BackendError::NoSpace),
            Err(DiskError::Io) => Err(BackendError::Hardware),
        });
    }
}

impl Backend for FileStore {
    fn geometry(&self) -> Geometry {
        geometry(self.size_bytes)
    }

    fn buffer(&self, len_bytes: usize) -> BytesMut {
        aligned(len_bytes)
    }

    fn submit(&self, request: Request, completion: Completion) {
        let io = match request {
            Request::Read {
                offset_bytes,
                len_bytes,
            } => Io::Read {
                offset_bytes,
                len_bytes,
            },
            Request::Write {
                offset_bytes,
                data,
                fua,
            } => Io::Write {
                offset_bytes,
                data,
                fua: match fua {
                    backend::Fua::Yes => Fua::Yes,
                    backend::Fua::No => Fua::No,
                },
            },
            Request::Flush => Io::Flush,
            // One box alone may always answer.
            Request::Confirm => return completion.complete(Ok(Done::Ok)),
            // What is served here does not come back.
            Request::KeepReservations { receipt, .. } => {
                receipt.sign();
                return completion.complete(Ok(Done::Ok));
            }
            Request::WriteSame { .. }
            | Request::WriteZeroes { .. }
            | Request::Unmap { .. }
            | Request::CompareAndWrite { .. } => {
                return completion.complete(Err(BackendError::Hardware));
            }
        };
        self.core.borrow_mut().submit(io, completion);
    }
}
