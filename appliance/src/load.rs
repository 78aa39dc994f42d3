//! A verified load: initiators that write stamped blocks without pause, remember what was
//! acknowledged, retry on the other path as a multipath host does, and measure the longest gap.
//!
//! Each block has one writer and one write at a time, so it must hold the version that was
//! acknowledged last, or a later one that was sent. Now and then a writer reads its block instead.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use iscsi_target::backend::Fua;
use iscsi_target::initiator::{InitiatorError, Login, Response, Session, cdb};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::block::{BLOCK_BYTES, Stamp};
use crate::clock::boot_ns;

/// Logical blocks of 512 bytes in one of ours.
const SECTORS: u64 = 8;
/// Blocks of one read when everything is read back.
const READ_BLOCKS: u64 = 16;
/// Reads in flight then.
const READERS: usize = 16;
/// One operation in this many is a read of a block that was written before.
const READ_ONE_IN: u64 = 8;
/// Pause between two tries to log in, or after an answer that says to come again.
const AGAIN: Duration = Duration::from_millis(20);
/// A login that takes longer is given up, so that a dead path does not hold back a live one.
const LOGIN_MS: u64 = 1000;
/// An operation that cannot be finished in this time is a failure.
const OPERATION_WAIT: Duration = Duration::from_secs(60);
/// Sense keys that say to come again (SPC-4 table 43).
const NOT_READY: u8 = 0x02;
const UNIT_ATTENTION: u8 = 0x06;
const ABORTED_COMMAND: u8 = 0x0b;
/// Statuses that say to come again (SAM-5 table 39).
const BUSY: u8 = 0x08;
const TASK_SET_FULL: u8 = 0x28;
const TASK_ABORTED: u8 = 0x40;

/// Where and what to write.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Portals, all of the same target; more than one is used as a multipath host uses them.
    pub portals: Vec<SocketAddr>,
    /// iSCSI name of the target.
    pub target: String,
    /// iSCSI name of the initiator.
    pub initiator: String,
    /// The LUN.
    pub lun: u8,
    /// First block to use, in [`BLOCK_BYTES`] from the start of the LUN.
    pub first_block: u64,
    /// Blocks to use.
    pub blocks: u64,
    /// Writers at once.
    pub writers: usize,
    /// How long each waits between two operations.
    pub pause: Duration,
    /// Stamped into each block.
    pub seed: u64,
}

/// A running load.
#[derive(Clone)]
pub struct Load {
    inner: Rc<Inner>,
}

struct Inner {
    plan: Plan,
    paths: Vec<Path>,
    changed: Notify,
    records: RefCell<Vec<Record>>,
    stopping: Cell<bool>,
    closing: Cell<bool>,
    writing: Cell<usize>,
    in_flight: Cell<usize>,
    acknowledged: Cell<u64>,
    last_ack_ns: Cell<u64>,
    gap_ns: Cell<u64>,
    /// Commands that ended because the target had asked for a logout.
    asked_out: Cell<u64>,
    failure: RefCell<Option<String>>,
}

struct Path {
    portal: SocketAddr,
    session: RefCell<Option<Session>>,
}

/// Versions of one block; 0 is none.
#[derive(Clone, Copy, Default)]
struct Record {
    sent: u64,
    acknowledged: u64,
    flushed: u64,
}

/// What a block must at least hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floor {
    /// What was acknowledged last.
    Acknowledged,
    /// What had been acknowledged before the last [`Load::flush`] began: all that a disk with a
    /// volatile cache promises after a power cut.
    Flushed,
}

/// A block that is not what was promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Its number.
    pub block: u64,
    /// The oldest version it may hold.
    pub promised: u64,
    /// What was read instead.
    pub found: Option<Stamp>,
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            block,
            promised,
            found,
        } = self;
        write!(
            f,
            "block {block} was lost: version {promised} was acknowledged, "
        )?;
        match found {
            Some(found) => write!(
                f,
                "version {} of block {} was read",
                found.version, found.block
            ),
            None => write!(f, "something that was never written there was read"),
        }
    }
}

impl Load {
    /// Logs in and starts writing, as tasks of the current `LocalSet`.
    ///
    /// # Panics
    /// Outside a `LocalSet`, or if the plan has fewer blocks than writers.
    #[must_use]
    pub fn start(plan: Plan) -> Self {
        let writers = u64::try_from(plan.writers).expect("a count");
        assert!(
            plan.blocks >= writers && writers > 0,
            "each writer needs a block of its own"
        );
        let blocks = usize::try_from(plan.blocks).expect("a test volume fits in memory");
        let path = |portal: &SocketAddr| Path {
            portal: *portal,
            session: RefCell::default(),
        };
        let inner = Rc::new(Inner {
            paths: plan.portals.iter().map(path).collect(),
            plan,
            changed: Notify::new(),
            records: RefCell::new(vec![Record::default(); blocks]),
            stopping: Cell::new(false),
            closing: Cell::new(false),
            writing: Cell::new(0),
            in_flight: Cell::new(0),
            acknowledged: Cell::new(0),
            last_ack_ns: Cell::new(boot_ns()),
            gap_ns: Cell::new(0),
            asked_out: Cell::new(0),
            failure: RefCell::default(),
        });
        for path in 0..inner.paths.len() {
            tokio::task::spawn_local(connect(Rc::clone(&inner), path));
        }
        let load = Self { inner };
        load.resume();
        load
    }

    /// Starts writing again after [`Load::stop`].
    pub fn resume(&self) {
        self.inner.stopping.set(false);
        self.measure();
        for writer in 0..self.inner.plan.writers {
            self.inner.writing.set(self.inner.writing.get() + 1);
            tokio::task::spawn_local(write(Rc::clone(&self.inner), writer));
        }
    }

    /// Writes sent and not answered yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.inner.in_flight.get()
    }

    /// Writes acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.inner.acknowledged.get()
    }

    /// Commands so far that ended without a status in a logout that the target had asked for.
    #[must_use]
    pub fn asked_out(&self) -> u64 {
        self.inner.asked_out.get()
    }

    /// Paths that are logged in.
    #[must_use]
    pub fn paths(&self) -> usize {
        self.inner
            .paths
            .iter()
            .filter(|path| path.live().is_some())
            .count()
    }

    /// Starts measuring the longest time without an acknowledgement.
    pub fn measure(&self) {
        self.inner.gap_ns.set(0);
        self.inner.last_ack_ns.set(boot_ns());
    }

    /// The longest time without an acknowledgement since [`Load::measure`], in ms, also one that
    /// has not ended.
    #[must_use]
    pub fn longest_gap_ms(&self) -> u64 {
        let since = match self.inner.writing.get() {
            0 => 0,
            _ => boot_ns() - self.inner.last_ack_ns.get(),
        };
        self.inner.gap_ns.get().max(since) / 1_000_000
    }

    /// What went wrong first, if anything did: a command that ended with an error, a lost block.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.inner.failure.borrow().clone()
    }

    /// Waits until `more` further writes are acknowledged.
    ///
    /// # Errors
    /// If that takes longer than `wait`, or anything fails.
    pub async fn progress(&self, more: u64, wait: Duration) -> Result<(), String> {
        let goal = self.acknowledged() + more;
        let reached = async {
            while self.acknowledged() < goal && self.failure().is_none() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let late = timeout(wait, reached).await.is_err();
        match self.failure() {
            Some(failure) => Err(failure),
            None if late => Err(format!(
                "no {more} acknowledged writes in {} s",
                wait.as_secs()
            )),
            None => Ok(()),
        }
    }

    /// Lets the writes in flight finish and starts no more.
    ///
    /// # Errors
    /// If they do not finish, or something failed.
    pub async fn stop(&self) -> Result<(), String> {
        self.inner.stopping.set(true);
        let finished = async {
            while self.inner.writing.get() > 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(OPERATION_WAIT, finished).await.is_err() {
            return Err(format!("{} writes never finished", self.in_flight()));
        }
        self.failure().map_or(Ok(()), Err)
    }

    /// SYNCHRONIZE CACHE over the whole LUN.
    ///
    /// # Errors
    /// The status or sense, in words.
    pub async fn flush(&self) -> Result<(), String> {
        let before: Vec<u64> = self
            .inner
            .records
            .borrow()
            .iter()
            .map(|record| record.acknowledged)
            .collect();
        self.inner
            .execute(0, &cdb::synchronize_cache16(0, 0), Bytes::new(), 0)
            .await?;
        for (record, before) in self.inner.records.borrow_mut().iter_mut().zip(before) {
            record.flushed = record.flushed.max(before);
        }
        Ok(())
    }

    /// Reads every block that was ever written and compares. Call after [`Load::stop`].
    /// Returns how many blocks were compared. With [`Floor::Flushed`] what is found counts as
    /// acknowledged from then on.
    ///
    /// # Errors
    /// The first lost block, or why it cannot be read, in words.
    pub async fn verify(&self, floor: Floor) -> Result<u64, String> {
        let next = Rc::new(Cell::new(0));
        let compared = Rc::new(Cell::new(0));
        let mut readers = tokio::task::JoinSet::new();
        for reader in 0..READERS {
            let (inner, next, compared) = (
                Rc::clone(&self.inner),
                Rc::clone(&next),
                Rc::clone(&compared),
            );
            readers.spawn_local(async move {
                while next.get() < inner.plan.blocks {
                    let first = next.get();
                    next.set(first + READ_BLOCKS);
                    let blocks = inner.compare(reader, first, floor).await?;
                    compared.set(compared.get() + blocks);
                }
                Ok::<(), String>(())
            });
        }
        while let Some(done) = readers.join_next().await {
            done.map_err(|error| error.to_string())??;
        }
        Ok(compared.get())
    }

    /// Logs out and ends the tasks that keep the sessions up.
    pub fn close(&self) {
        self.inner.stopping.set(true);
        self.inner.closing.set(true);
        self.inner.changed.notify_waiters();
    }
}

/// Keeps one path logged in.
async fn connect(inner: Rc<Inner>, index: usize) {
    let path = &inner.paths[index];
    while !inner.closing.get() {
        let login = Login {
            isid: [0x80, 0, 0, 1, 0, u8::try_from(index).expect("few paths")],
            timeout_ms: LOGIN_MS,
            ..Login::new(&inner.plan.initiator, &inner.plan.target)
        };
        if let Ok(session) = Session::login(path.portal, login).await {
            path.session.replace(Some(session.clone()));
            inner.changed.notify_waiters();
            while !inner.closing.get() && !session.is_over() {
                let changed = inner.changed.notified();
                tokio::select! {
                    () = session.closed() => {}
                    () = changed => {}
                }
            }
            path.session.replace(None);
            inner.changed.notify_waiters();
            if inner.closing.get() {
                // It may be lost at the same moment; either way it is over.
                drop(session.logout().await);
            }
        }
        sleep(AGAIN).await;
    }
}

/// Uses blocks of its own (`block % writers == writer`), so each block has one writer.
async fn write(inner: Rc<Inner>, writer: usize) {
    let writers = u64::try_from(inner.plan.writers).expect("a count");
    let first = u64::try_from(writer).expect("a count");
    let rows = inner.plan.blocks / writers;
    let mut draw = inner.plan.seed ^ (first << 32) ^ inner.acknowledged.get() | 1;
    while !inner.stopping.get() && inner.failure.borrow().is_none() {
        draw = draw
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let block = (draw >> 33) % rows * writers + first;
        let done = if (draw >> 20).is_multiple_of(READ_ONE_IN) {
            inner.read_block(writer, block).await
        } else {
            inner.write_block(writer, block).await
        };
        if let Err(failure) = done {
            inner.failure.borrow_mut().get_or_insert(failure);
        }
        if !inner.plan.pause.is_zero() {
            sleep(inner.plan.pause).await;
        }
    }
    inner.writing.set(inner.writing.get() - 1);
}

impl Path {
    fn live(&self) -> Option<Session> {
        self.session
            .borrow()
            .as_ref()
            .filter(|session| !session.is_over())
            .cloned()
    }
}

impl Inner {
    async fn write_block(&self, writer: usize, block: u64) -> Result<(), String> {
        let at = usize::try_from(block).expect("a block of the plan");
        let version = self.records.borrow()[at].sent + 1;
        self.records.borrow_mut()[at].sent = version;
        let place = self.plan.first_block + block;
        let stamp = Stamp {
            seed: self.plan.seed,
            block: place,
            version,
        };
        let sectors = u32::try_from(SECTORS).expect("8");
        let command = cdb::write16(place * SECTORS, sectors, Fua::No);
        self.in_flight.set(self.in_flight.get() + 1);
        let done = self.execute(writer, &command, stamp.block(), 0).await;
        self.in_flight.set(self.in_flight.get() - 1);
        done?;
        self.records.borrow_mut()[at].acknowledged = version;
        self.acknowledged.set(self.acknowledged.get() + 1);
        let now_ns = boot_ns();
        let gap_ns = now_ns - self.last_ack_ns.replace(now_ns);
        self.gap_ns.set(self.gap_ns.get().max(gap_ns));
        Ok(())
    }

    /// Its writer has no write under way, so nothing but the last version is right, unless it
    /// was told to stop meanwhile.
    async fn read_block(&self, writer: usize, block: u64) -> Result<(), String> {
        let at = usize::try_from(block).expect("a block of the plan");
        let promised = self.records.borrow()[at].acknowledged;
        let place = self.plan.first_block + block;
        let sectors = u32::try_from(SECTORS).expect("8");
        let command = cdb::read16(place * SECTORS, sectors);
        let data = self
            .execute(writer, &command, Bytes::new(), BLOCK_BYTES)
            .await?;
        let found = Stamp::of(&data);
        let wanted = Stamp {
            seed: self.plan.seed,
            block: place,
            version: promised,
        };
        // What a read under way at a stop finds is for `verify` to judge, which looks at every
        // block with the floor that holds then: the stop may be because power was lost.
        if promised == 0 || found == Some(wanted) || self.stopping.get() {
            Ok(())
        } else {
            Err(Lost {
                block: place,
                promised,
                found,
            }
            .to_string())
        }
    }

    /// Runs one command to its status on whatever path works, preferring one by `turn`.
    async fn execute(
        &self,
        turn: usize,
        command: &[u8; 16],
        data_out: Bytes,
        data_in_bytes: usize,
    ) -> Result<Bytes, String> {
        let lun = cdb::lun(self.plan.lun);
        let tried = async {
            loop {
                let Some(session) = self.session(turn) else {
                    let changed = self.changed.notified();
                    // Only a look again now and then: a path may have come back in between.
                    drop(timeout(AGAIN, changed).await);
                    continue;
                };
                match session
                    .execute(lun, *command, data_out.clone(), data_in_bytes)
                    .await
                {
                    Ok(answer) if answer.is_good() => return Ok(answer.data),
                    Ok(answer) if is_passing(&answer) => sleep(AGAIN).await,
                    Ok(answer) => return Err(complaint(command[0], &answer)),
                    // No status was received: what a host does then is to try the other path.
                    Err(error) => {
                        if error == InitiatorError::AskedOut {
                            self.asked_out.set(self.asked_out.get() + 1);
                        }
                        tokio::task::yield_now().await;
                    }
                }
            }
        };
        timeout(OPERATION_WAIT, tried).await.unwrap_or_else(|_| {
            Err(format!(
                "no path answered for {} s",
                OPERATION_WAIT.as_secs()
            ))
        })
    }

    /// A logged-in session: the one of this turn, else any.
    fn session(&self, turn: usize) -> Option<Session> {
        let count = self.paths.len();
        (0..count).find_map(|next| self.paths[(turn + next) % count].live())
    }

    /// Compares those of [`READ_BLOCKS`] blocks that were written; returns how many there were.
    async fn compare(&self, reader: usize, first: u64, floor: Floor) -> Result<u64, String> {
        let count = READ_BLOCKS.min(self.plan.blocks - first);
        let from = usize::try_from(first).expect("a block of the plan");
        let len = usize::try_from(count).expect("few");
        let records = self.records.borrow()[from..from + len].to_vec();
        if records.iter().all(|record| record.sent == 0) {
            return Ok(0);
        }
        let sectors = u32::try_from(count * SECTORS).expect("sectors of a few blocks");
        let command = cdb::read16((self.plan.first_block + first) * SECTORS, sectors);
        let data = self
            .execute(reader, &command, Bytes::new(), len * BLOCK_BYTES)
            .await?;
        let mut compared = 0;
        for (index, (record, data)) in records.iter().zip(data.chunks(BLOCK_BYTES)).enumerate() {
            if record.sent == 0 {
                continue;
            }
            let block = first + u64::try_from(index).expect("few");
            let version = self.compare_block(block, record, data, floor)?;
            compared += 1;
            if floor == Floor::Flushed {
                let mut records = self.records.borrow_mut();
                records[from + index].acknowledged = version;
                records[from + index].flushed = version;
            }
        }
        Ok(compared)
    }

    /// The version that was found, or the loss in words. What was never promised may be missing.
    fn compare_block(
        &self,
        block: u64,
        record: &Record,
        data: &[u8],
        floor: Floor,
    ) -> Result<u64, String> {
        let block = self.plan.first_block + block;
        let promised = match floor {
            Floor::Acknowledged => record.acknowledged,
            Floor::Flushed => record.flushed,
        };
        let found = Stamp::of(data);
        let version = match found {
            Some(stamp) if stamp.seed == self.plan.seed && stamp.block == block => stamp.version,
            None if data.iter().all(|byte| *byte == 0) => 0,
            Some(_) | None => {
                return Err(Lost {
                    block,
                    promised,
                    found,
                }
                .to_string());
            }
        };
        if (promised..=record.sent).contains(&version) {
            Ok(version)
        } else {
            Err(Lost {
                block,
                promised,
                found,
            }
            .to_string())
        }
    }
}

/// True for answers that mean nothing but "try again".
fn is_passing(answer: &Response) -> bool {
    let keys = [NOT_READY, UNIT_ATTENTION, ABORTED_COMMAND];
    [BUSY, TASK_SET_FULL, TASK_ABORTED].contains(&answer.status)
        || answer
            .sense_code()
            .is_some_and(|(key, _, _)| keys.contains(&key))
}

fn complaint(operation: u8, answer: &Response) -> String {
    match answer.sense_code() {
        Some((key, code, qualifier)) => {
            format!("command {operation:#04x} failed: sense {key:02x}/{code:02x}/{qualifier:02x}")
        }
        None => format!(
            "command {operation:#04x} failed: status {:#04x}",
            answer.status
        ),
    }
}
