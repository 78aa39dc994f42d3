//! The disk ports and the cache decorator, on real files.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod shell_support;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use replication::engine::{DiskError, Io, IoDone};
use replication::shell::{
    Backing, Disk, IoChoice, LockWait, OpenError, ThreadDisk, UringDisk, VolatileDisk, open_disk,
};
use replication::types::{Fua, OpId, VolumeNumber, Zeroed};
use shell_support::{Folder, Rng};

/// The volume that lies in the backing under test.
const VOLUME: VolumeNumber = VolumeNumber(1);

const SIZE: u64 = 4 << 20;
const SECTOR: u64 = 512;

/// A disk that is asked and waited for.
struct Asked {
    disk: Box<dyn Disk>,
    next: u64,
}

impl Asked {
    /// A disk with one backing of `size_bytes` at `path`, made if missing.
    fn over(mut disk: Box<dyn Disk>, path: &Path, size_bytes: u64) -> Self {
        if !path.exists() {
            Backing::create_file(path, size_bytes).unwrap();
        }
        disk.attach(VOLUME, Arc::new(Backing::try_open(path).unwrap()));
        Self { disk, next: 0 }
    }

    /// Does one operation.
    async fn ask(&mut self, io: Io) -> Result<IoDone, DiskError> {
        self.ask_all(vec![io]).await.remove(0)
    }

    /// Does all of them at once; the results in the order of the operations.
    async fn ask_all(&mut self, ios: Vec<Io>) -> Vec<Result<IoDone, DiskError>> {
        let first = self.next;
        for io in ios {
            self.disk.submit(OpId(self.next), VOLUME, io);
            self.next += 1;
        }
        let asked = usize::try_from(self.next - first).unwrap();
        self.disk.kick();
        let mut results = BTreeMap::new();
        let mut done = Vec::new();
        while results.len() < asked {
            poll_fn(|cx| self.disk.poll_done(cx, &mut done)).await;
            for completion in done.drain(..) {
                let again = results.insert(completion.op, completion.result);
                assert!(again.is_none(), "answered twice");
            }
        }
        assert_eq!(self.disk.in_flight(), 0);
        results.into_values().collect()
    }

    async fn read(&mut self, offset_bytes: u64, len_bytes: usize) -> Bytes {
        match self
            .ask(Io::Read {
                offset_bytes,
                len_bytes,
            })
            .await
        {
            Ok(IoDone::Data(data)) => data,
            other => panic!("read answered {other:?}"),
        }
    }
}

fn uring() -> Box<dyn Disk> {
    Box::new(UringDisk::new().expect("this kernel has io_uring"))
}

fn threads() -> Box<dyn Disk> {
    Box::new(ThreadDisk::new().unwrap())
}

fn any_fua(random: &mut Rng) -> Fua {
    if random.below(4) == 0 {
        Fua::Yes
    } else {
        Fua::No
    }
}

/// Data whose address is a multiple of 512 or not, by chance.
fn any_data(random: &mut Rng, len_bytes: usize) -> Bytes {
    let skip = [0, 7, 512][usize::try_from(random.below(3)).unwrap()];
    let mut memory = replication::shell::aligned(len_bytes + skip);
    memory.extend_from_slice(&random.bytes(len_bytes + skip));
    memory.freeze().slice(skip..)
}

/// One batch of operations whose ranges do not overlap, applied to `model`.
/// Returns what each has to answer.
fn batch(random: &mut Rng, model: &mut [u8]) -> (Vec<Io>, Vec<IoDone>) {
    let (mut ios, mut answers) = (Vec::new(), Vec::new());
    let mut at = random.below(64) * SECTOR;
    while at < SIZE {
        let blocks = if random.below(8) == 0 {
            1 + random.below(1024)
        } else {
            1 + random.below(24)
        };
        let len_bytes = (blocks * SECTOR).min(SIZE - at);
        let len = usize::try_from(len_bytes).unwrap();
        let range = usize::try_from(at).unwrap()..usize::try_from(at).unwrap() + len;
        match random.below(6) {
            0 | 1 => {
                ios.push(Io::Read {
                    offset_bytes: at,
                    len_bytes: len,
                });
                answers.push(IoDone::Data(Bytes::copy_from_slice(&model[range])));
            }
            2..=4 => {
                let data = any_data(random, len);
                model[range].copy_from_slice(&data);
                ios.push(Io::Write {
                    offset_bytes: at,
                    data,
                    fua: any_fua(random),
                });
                answers.push(IoDone::Ok);
            }
            _ => {
                model[range].fill(0);
                let fua = any_fua(random);
                ios.push(Io::WriteZeroes {
                    offset_bytes: at,
                    len_bytes,
                    fua,
                });
                answers.push(IoDone::Ok);
            }
        }
        if random.below(16) == 0 {
            ios.push(Io::Flush);
            answers.push(IoDone::Ok);
        }
        at += len_bytes + random.below(96) * SECTOR;
    }
    (ios, answers)
}

async fn against_model(mut disk: Asked, path: &Path, seed: u64) {
    let mut random = Rng(seed);
    let mut model = vec![0; usize::try_from(SIZE).unwrap()];
    for round in 0..40 {
        let (ios, wanted) = batch(&mut random, &mut model);
        let described = ios.clone();
        for (index, result) in disk.ask_all(ios).await.into_iter().enumerate() {
            let same = result.as_ref() == Ok(&wanted[index]);
            assert!(
                same,
                "seed {seed} round {round}: wrong answer to {:?}",
                described[index]
            );
        }
    }
    assert_eq!(disk.read(0, model.len()).await, model);
    disk.ask(Io::Flush).await.unwrap();
    drop(disk);
    assert!(
        std::fs::read(path).unwrap() == model,
        "seed {seed}: the file differs"
    );
}

/// More than the disk is given at a time waits, the longest entries too, and nothing is lost.
#[tokio::test]
async fn more_than_moves_at_a_time_is_written_and_read_back() {
    const LARGE: usize = 12 << 20;
    const SMALL: usize = 1 << 20;
    let folder = Folder::new();
    for (name, disk) in [("uring", uring()), ("threads", threads())] {
        let mut disk = Asked::over(disk, &folder.file(name), (LARGE + 24 * SMALL) as u64);
        let mut random = Rng(3);
        let content = Bytes::from(random.bytes(LARGE + 24 * SMALL));
        let parts: Vec<(usize, usize)> = std::iter::once((0, LARGE))
            .chain((0..24).map(|part| (LARGE + part * SMALL, SMALL)))
            .collect();
        let write = |(from, len): &(usize, usize)| Io::Write {
            offset_bytes: *from as u64,
            data: content.slice(*from..from + len),
            fua: Fua::No,
        };
        let results = disk.ask_all(parts.iter().map(write).collect()).await;
        assert!(results.iter().all(|result| *result == Ok(IoDone::Ok)));
        let read = |(from, len): &(usize, usize)| Io::Read {
            offset_bytes: *from as u64,
            len_bytes: *len,
        };
        let results = disk.ask_all(parts.iter().map(read).collect()).await;
        for ((from, len), result) in parts.iter().zip(results) {
            assert_eq!(result, Ok(IoDone::Data(content.slice(*from..from + len))));
        }
    }
}

#[tokio::test]
async fn uring_equals_the_model() {
    for seed in 1..4 {
        let folder = Folder::new();
        let path = folder.file("a");
        against_model(Asked::over(uring(), &path, SIZE), &path, seed).await;
    }
}

#[tokio::test]
async fn threads_equal_the_model() {
    for seed in 1..4 {
        let folder = Folder::new();
        let path = folder.file("a");
        against_model(Asked::over(threads(), &path, SIZE), &path, seed).await;
    }
}

#[tokio::test]
async fn a_cached_disk_equals_the_model() {
    for seed in 1..4 {
        let folder = Folder::new();
        let path = folder.file("a");
        let disk = Box::new(VolatileDisk::new(uring(), seed));
        against_model(Asked::over(disk, &path, SIZE), &path, seed).await;
    }
}

#[tokio::test]
async fn memory_file_systems_work() {
    let folder = Folder::under(Path::new("/dev/shm"));
    for (name, disk) in [("uring", uring()), ("threads", threads())] {
        let path = folder.file(name);
        against_model(Asked::over(disk, &path, SIZE), &path, 9).await;
    }
}

#[tokio::test]
async fn what_is_outside_is_refused() {
    let folder = Folder::new();
    for (name, disk) in [("uring", uring()), ("threads", threads())] {
        let mut disk = Asked::over(disk, &folder.file(name), SIZE);
        let data = Bytes::from(vec![1; 4096]);
        for io in [
            Io::Read {
                offset_bytes: SIZE,
                len_bytes: 512,
            },
            Io::Read {
                offset_bytes: u64::MAX - 511,
                len_bytes: 512,
            },
            Io::Read {
                offset_bytes: 0,
                len_bytes: 100,
            },
            Io::Write {
                offset_bytes: SIZE - 512,
                data: data.clone(),
                fua: Fua::No,
            },
            Io::Write {
                offset_bytes: 1,
                data: data.clone(),
                fua: Fua::No,
            },
            Io::WriteZeroes {
                offset_bytes: 512,
                len_bytes: SIZE,
                fua: Fua::No,
            },
        ] {
            assert_eq!(disk.ask(io).await, Err(DiskError::Io));
        }
        assert_eq!(disk.read(0, 0).await, Bytes::new());
    }
}

#[tokio::test]
async fn a_file_cut_short_is_an_error_and_not_zeros() {
    let folder = Folder::new();
    for (name, disk) in [("uring", uring()), ("threads", threads())] {
        let path = folder.file(name);
        let mut disk = Asked::over(disk, &path, SIZE);
        let cut = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        cut.set_len(8192).unwrap();
        let io = Io::Read {
            offset_bytes: 4096,
            len_bytes: 8192,
        };
        assert_eq!(disk.ask(io).await, Err(DiskError::Io));
    }
}

#[tokio::test]
async fn a_full_ring_takes_the_rest_later() {
    let folder = Folder::new();
    let mut disk = Asked::over(uring(), &folder.file("a"), SIZE);
    let writes = (0..SIZE / SECTOR).map(|index| {
        let data = Bytes::from(vec![index.to_le_bytes()[0]; 512]);
        Io::Write {
            offset_bytes: index * SECTOR,
            data,
            fua: Fua::No,
        }
    });
    let results = disk.ask_all(writes.collect()).await;
    assert_eq!(results.len(), 8192);
    assert!(results.iter().all(|result| *result == Ok(IoDone::Ok)));
    let data = disk.read(0, usize::try_from(SIZE).unwrap()).await;
    assert!(
        data.chunks(512)
            .enumerate()
            .all(|(i, s)| s.iter().all(|b| *b == i.to_le_bytes()[0]))
    );
}

/// Each batch is the last work in the kernel, so nothing that comes later covers up for a
/// completion that is not announced.
#[tokio::test]
async fn no_completion_of_a_small_batch_is_missed() {
    let folder = Folder::new();
    let path = folder.file("a");
    let mut random = Rng(11);
    for disk in [uring(), threads()] {
        let mut disk = Asked::over(disk, &path, SIZE);
        for _ in 0..2_000 {
            let count = 1 + random.below(3);
            let any = |random: &mut Rng| random.below(SIZE / 4096) * 4096;
            let write = |random: &mut Rng| Io::Write {
                offset_bytes: any(random),
                data: any_data(random, 4096),
                fua: Fua::No,
            };
            let mut ios: Vec<Io> = (0..count).map(|_| write(&mut random)).collect();
            if random.below(2) == 0 {
                ios.push(Io::Flush);
            }
            let answers = tokio::time::timeout(Duration::from_secs(20), disk.ask_all(ios)).await;
            assert!(answers.expect("announced").iter().all(Result::is_ok));
        }
    }
}

#[tokio::test]
async fn a_fresh_sparse_file_is_proven_zero_until_it_is_written() {
    let folder = Folder::new();
    let path = folder.file("a");
    Backing::create_file(&path, SIZE).unwrap();
    assert_eq!(Backing::try_open(&path).unwrap().zeroed(), Zeroed::Proven);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 512], 8192).unwrap();
    assert_eq!(Backing::try_open(&path).unwrap().zeroed(), Zeroed::Unknown);
}

#[tokio::test]
async fn the_lock_excludes_a_second_opener() {
    let folder = Folder::new();
    let path = folder.file("a");
    Backing::create_file(&path, SIZE).unwrap();
    let first = Backing::try_open(&path).unwrap();
    let error = Backing::try_open(&path).unwrap_err();
    let holder = format!("held by process {}", std::process::id());
    assert!(error.to_string().contains(&holder), "{error}");
    assert!(error.to_string().contains("could still land"), "{error}");
    let limited = Backing::open(&path, LockWait::Ms(50)).await;
    assert!(matches!(limited, Err(OpenError::Held { .. })));

    let waiting = tokio::spawn(async move { Backing::open(&path, LockWait::Forever).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    drop(first);
    assert_eq!(waiting.await.unwrap().unwrap().size_bytes(), SIZE);
}

#[tokio::test]
async fn a_detached_backing_is_locked_until_its_last_operation_ends() {
    let folder = Folder::new();
    for (name, disk) in [("uring", uring()), ("threads", threads())] {
        let path = folder.file(name);
        let mut disk = Asked::over(disk, &path, SIZE);
        disk.ask(Io::Flush).await.unwrap();
        assert!(Backing::try_open(&path).is_err());
        disk.disk.detach(VOLUME);
        assert!(
            Backing::try_open(&path).is_ok(),
            "{name}: the lock is still there"
        );
    }
}

/// After a power cut each sector holds its last flushed content or one written later.
#[tokio::test]
async fn a_power_cut_loses_unflushed_writes_and_nothing_else() {
    let sectors = 256_u64;
    let (mut lost, mut kept_early) = (0, 0);
    for seed in 1..9 {
        let folder = Folder::new();
        let path = folder.file("a");
        let mut random = Rng(seed);
        let mut disk = Asked::over(Box::new(VolatileDisk::new(threads(), seed)), &path, SIZE);
        // Per sector: the contents that may be there after the cut, the stable one first.
        let mut allowed: Vec<Vec<u64>> = vec![vec![0]; usize::try_from(sectors).unwrap()];
        for stamp in 1..400_u64 {
            let at = random.below(sectors);
            let len = 1 + random.below(8.min(sectors - at));
            let mut data = BytesMut::new();
            for _ in 0..len * SECTOR / 8 {
                data.extend_from_slice(&stamp.to_le_bytes());
            }
            let fua = if random.below(10) == 0 {
                Fua::Yes
            } else {
                Fua::No
            };
            let io = Io::Write {
                offset_bytes: at * SECTOR,
                data: data.freeze(),
                fua,
            };
            disk.ask(io).await.unwrap();
            for sector in at..at + len {
                let contents = &mut allowed[usize::try_from(sector).unwrap()];
                if fua == Fua::Yes {
                    contents.clear();
                }
                contents.push(stamp);
            }
            if random.below(40) == 0 {
                disk.ask(Io::Flush).await.unwrap();
                for contents in &mut allowed {
                    contents.drain(..contents.len() - 1);
                }
            }
        }
        drop(disk);
        let file = std::fs::read(&path).unwrap();
        for (index, contents) in allowed.iter().enumerate() {
            let sector = &file[index * 512..(index + 1) * 512];
            let stamp = u64::from_le_bytes(sector[..8].try_into().unwrap());
            assert!(
                contents.contains(&stamp),
                "seed {seed} sector {index}: {stamp} {contents:?}"
            );
            lost += usize::from(stamp != *contents.last().unwrap());
            kept_early += usize::from(stamp != contents[0]);
        }
    }
    assert!(
        lost > 0 && kept_early > 0,
        "lost {lost}, written early {kept_early}"
    );
}

#[tokio::test]
async fn auto_finds_a_disk() {
    let folder = Folder::new();
    let path = folder.file("a");
    let disk = open_disk(IoChoice::Auto).unwrap();
    against_model(Asked::over(disk, &path, SIZE), &path, 5).await;
}
