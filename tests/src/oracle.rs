//! The truth: what the pair promised, checked where it can break by somebody who sees everything.
//!
//! | Id | What is checked here | Where |
//! |---|---|---|
//! | K1 | flushed and FUA writes survive everything | L1 without a licence to forget |
//! | K2 | an acknowledged write is on each member's device, stable if so promised | [`Data`] |
//! | K3 | only a box that lost power may forget, when it promotes, and it says so | [`Data`] |
//! | L1 L2 | each sector is a linearizable register; nothing read is un-read | [`register`] |
//! | O2 | a command takes effect under the primary that accepted it, or never | [`Data`] |
//! | P1 to P4 | epochs, leases, promotion, seals | [`authority`] |
//! | C1 | in sync, the boxes differ only where writes are under way | `world::history` |
//! | V1 | in the end the boxes are equal, and copies go on until then | `world::history` |
//! | V2 | whoever can be served is served in time | `world::history` |
//!
//! A breach is returned as a sentence that starts with the id; the world panics with it.

pub mod authority;
pub mod register;

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::net::Host;
use crate::world::content::{self, BLOCK_LEN, SECTOR_LEN, SECTORS_PER_BLOCK, Value};
use register::{Moment, NEVER, Register, WriteId};

/// Most blocks of a range that is read back: as large as the largest command of an initiator.
const RANGE_BLOCKS_MAX: u64 = 8;

/// A broken promise: "L1: volume 1 sector 8: ...".
pub type Breach = String;

/// Which copy of a block is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What a read of the disk returns.
    Visible,
    /// What survives a power cut for certain.
    Stable,
}

/// The disks as the oracle sees them.
pub trait Media {
    /// A block of a volume's data area on one box; `None` if the box has no such volume.
    fn block(&self, host: Host, volume: u32, block: u64, depth: Depth) -> Option<Bytes>;
    /// The visible data area, without the blocks that are zero.
    fn snapshot(&self, host: Host, volume: u32) -> Option<BTreeMap<u64, Bytes>>;
    /// Blocks of the data area whose visible and stable contents may differ.
    fn volatile_blocks(&self, host: Host, volume: u32) -> Vec<u64>;
    /// When the box lost power last; 0 for never.
    fn power_lost(&self, host: Host) -> Moment;
}

/// Where a command was accepted: a box's uninterrupted time as primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reign(pub u64);

/// A range of sectors of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The volume's number.
    pub volume: u32,
    /// First sector.
    pub first: u64,
    /// How many.
    pub sectors: u64,
}

/// A write as the oracle remembers it.
#[derive(Clone, Copy, Debug)]
struct Write {
    range: Range,
    start: Moment,
    /// `NEVER` until acknowledged.
    end: Moment,
    stable: Stable,
    reign: Reign,
}

/// Whether an acknowledgement promises that the write survives a loss of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stable {
    /// FUA.
    Yes,
    /// Only a later flush will promise it.
    No,
}

#[derive(Debug)]
struct Volume {
    number: u32,
    sectors: u64,
    /// The content when the history began; blocks that are not here were zero.
    origin: BTreeMap<u64, Bytes>,
    /// The pseudo-write that stands for it, and when it was.
    origin_write: (WriteId, Moment),
    /// The sectors that were used since.
    registers: BTreeMap<u64, Register>,
    /// The latest start of an acknowledged flush.
    flushed: Moment,
}

impl Volume {
    fn origin_of(&self, sector: u64) -> Value {
        let Some(block) = self.origin.get(&(sector / SECTORS_PER_BLOCK)) else {
            return Value::ZERO;
        };
        let within = usize::try_from(sector % SECTORS_PER_BLOCK).expect("below eight");
        let bytes = &block[within * SECTOR_LEN..(within + 1) * SECTOR_LEN];
        content::decode(self.number, sector, bytes)
    }

    fn register(&mut self, sector: u64) -> &mut Register {
        if !self.registers.contains_key(&sector) {
            let (write, moment) = self.origin_write;
            let register = Register::new(write, self.origin_of(sector), moment);
            self.registers.insert(sector, register);
        }
        self.registers.get_mut(&sector).expect("just made")
    }
}

/// What initiators wrote and were told.
#[derive(Debug, Default)]
pub struct Data {
    writes: Vec<Write>,
    /// First write that the latest reign has not bounded.
    unbounded: Vec<WriteId>,
    volumes: BTreeMap<u32, Volume>,
}

impl Data {
    /// A volume appeared with this content of its data area; blocks not named are zero, and so is
    /// what it grows by, whatever the backing has there.
    pub fn volume_ready(
        &mut self,
        number: u32,
        sectors: u64,
        origin: BTreeMap<u64, Bytes>,
        now: Moment,
    ) {
        let range = Range {
            volume: number,
            first: 0,
            sectors,
        };
        let origin_write = (self.settled(range, now), now);
        let inside = |block: &u64| block * SECTORS_PER_BLOCK < sectors;
        let origin = origin.into_iter().filter(|(block, _)| inside(block));
        let registers = BTreeMap::new();
        let flushed = self
            .volumes
            .get(&number)
            .map_or(0, |earlier| earlier.flushed);
        let volume = Volume {
            number,
            sectors,
            origin: origin.collect(),
            origin_write,
            registers,
            flushed,
        };
        self.volumes.insert(number, volume);
    }

    /// A volume has more sectors; what is new reads zero (law D6).
    pub fn volume_grown(&mut self, number: u32, sectors: u64) {
        if let Some(volume) = self.volumes.get_mut(&number) {
            volume.sectors = volume.sectors.max(sectors);
        }
    }

    /// A box accepted a write.
    pub fn write_begins(
        &mut self,
        range: Range,
        value: Value,
        stable: Stable,
        (reign, start): (Reign, Moment),
    ) -> WriteId {
        let id = self.writes.len();
        self.writes.push(Write {
            range,
            start,
            end: NEVER,
            stable,
            reign,
        });
        self.unbounded.push(id);
        self.each(range, |_, register| {
            register.begin(id, value, start);
            Ok(())
        })
        .expect("to begin is always right");
        id
    }

    /// A box acknowledged a write; `members` is the committed in-sync set.
    pub fn write_acked(
        &mut self,
        id: WriteId,
        now: Moment,
        members: &[Host],
        media: &dyn Media,
    ) -> Result<(), Breach> {
        self.writes[id].end = now;
        let Write {
            range,
            start,
            stable,
            ..
        } = self.writes[id];
        self.each(range, |_, register| register.acked(id, now))?;
        let depth = match stable {
            Stable::Yes => Depth::Stable,
            Stable::No => Depth::Visible,
        };
        for member in members {
            if media.power_lost(*member) < start {
                self.on_device(range, |_| start, (*member, depth), media)?;
            }
        }
        Ok(())
    }

    /// A read that began at `start` returned `bytes`.
    pub fn read_returned(
        &mut self,
        range: Range,
        bytes: &[u8],
        start: Moment,
        now: Moment,
    ) -> Result<(), Breach> {
        if bytes.len() as u64 != range.sectors * SECTOR_LEN as u64 {
            return Err(format!(
                "L1: a read of {} sectors gave {} bytes",
                range.sectors,
                bytes.len()
            ));
        }
        let values = content::values(range.volume, range.first, bytes);
        self.each(range, |index, register| {
            register.read(values[index], start, now)
        })
    }

    /// A compare and write succeeded: each sector held `expected` at some moment between the two.
    pub fn compared(
        &mut self,
        range: Range,
        expected: Option<Value>,
        (start, now): (Moment, Moment),
    ) -> Result<(), Breach> {
        let Some(expected) = expected else {
            return Ok(());
        };
        self.each(range, |_, register| register.read(expected, start, now))
    }

    /// A flush that began at `start` was acknowledged.
    pub fn flush_acked(
        &mut self,
        volume: u32,
        start: Moment,
        members: &[Host],
        media: &dyn Media,
    ) -> Result<(), Breach> {
        let Some(history) = self.volumes.get_mut(&volume) else {
            return Ok(());
        };
        history.flushed = history.flushed.max(start);
        let sectors = history.sectors;
        for member in members {
            if media.power_lost(*member) >= start {
                continue;
            }
            for block in media.volatile_blocks(*member, volume) {
                let first = block * SECTORS_PER_BLOCK;
                if first >= sectors {
                    continue;
                }
                let range = Range {
                    volume,
                    first,
                    sectors: SECTORS_PER_BLOCK,
                };
                let copy = (*member, Depth::Stable);
                let latest = |sector| self.latest_start_acked_before(volume, sector, start);
                self.on_device(range, latest, copy, media)?;
            }
        }
        Ok(())
    }

    /// Another box, or another process, begins to serve: what earlier reigns left open has taken
    /// effect by now or never will (O2).
    pub fn reign_began(&mut self, reign: Reign, now: Moment) {
        for id in std::mem::take(&mut self.unbounded) {
            let write = self.writes[id];
            if write.reign == reign {
                self.unbounded.push(id);
            } else if write.end == NEVER {
                let bounded = self.each(write.range, |_, register| {
                    register.bound(id, now);
                    Ok(())
                });
                bounded.expect("to bound is always right");
            }
        }
    }

    /// A box that lost power promotes and says that its cache may have been lost: from now on
    /// its content is the truth, if it is not older than what flushes cover (K3). Says how many
    /// sectors lost an acknowledged write.
    pub fn cache_lost(
        &mut self,
        volume: u32,
        host: Host,
        now: Moment,
        media: &dyn Media,
    ) -> Result<usize, Breach> {
        let Some(history) = self.volumes.get(&volume) else {
            return Ok(0);
        };
        let sectors = history.sectors;
        let used: Vec<u64> = history.registers.keys().copied().collect();
        let Some(content) = media.snapshot(host, volume) else {
            return Err(format!(
                "K3: {host} serves volume {volume} without having it"
            ));
        };
        let mut lost = 0;
        for sector in used {
            let within = usize::try_from(sector % SECTORS_PER_BLOCK).expect("below eight");
            let value = content
                .get(&(sector / SECTORS_PER_BLOCK))
                .map_or(Value::ZERO, |bytes| {
                    let bytes = &bytes[within * SECTOR_LEN..(within + 1) * SECTOR_LEN];
                    content::decode(volume, sector, bytes)
                });
            self.not_older_than_flushed(volume, sector, value)?;
            let acked = self.latest_start_acked_before(volume, sector, now);
            lost += usize::from(!self.may_follow(volume, sector, value, acked));
        }
        self.volume_ready(volume, sectors, content, now);
        Ok(lost)
    }

    /// A volume is being deleted; nothing is promised of it any more.
    pub fn forget_volume(&mut self, volume: u32) {
        self.volumes.remove(&volume);
    }

    /// The number of sectors of a volume; 0 if there is none.
    pub fn sectors(&self, volume: u32) -> u64 {
        self.volumes
            .get(&volume)
            .map_or(0, |history| history.sectors)
    }

    /// The blocks of a volume that were used; neighbours are one range, of [`RANGE_BLOCKS_MAX`]
    /// blocks at most.
    pub fn used_ranges(&self, volume: u32) -> Vec<Range> {
        let Some(history) = self.volumes.get(&volume) else {
            return Vec::new();
        };
        let mut ranges: Vec<Range> = Vec::new();
        for sector in history.registers.keys() {
            let first = sector / SECTORS_PER_BLOCK * SECTORS_PER_BLOCK;
            match ranges.last_mut() {
                Some(last) if first < last.first + last.sectors => {}
                Some(last)
                    if first == last.first + last.sectors
                        && last.sectors < RANGE_BLOCKS_MAX * SECTORS_PER_BLOCK =>
                {
                    last.sectors += SECTORS_PER_BLOCK;
                }
                Some(_) | None => ranges.push(Range {
                    volume,
                    first,
                    sectors: SECTORS_PER_BLOCK,
                }),
            }
        }
        ranges
    }

    /// Volumes with a history.
    pub fn volumes(&self) -> impl Iterator<Item = u32> + '_ {
        self.volumes.keys().copied()
    }

    /// A pseudo-write that stands for the content at `now`; nothing can undo it.
    fn settled(&mut self, range: Range, now: Moment) -> WriteId {
        let (start, end) = (now, now);
        let stable = Stable::Yes;
        self.writes.push(Write {
            range,
            start,
            end,
            stable,
            reign: Reign(0),
        });
        self.writes.len() - 1
    }

    /// Does `act` with the register of each sector of the range, numbered from 0.
    fn each(
        &mut self,
        range: Range,
        mut act: impl FnMut(usize, &mut Register) -> Result<(), register::Breach>,
    ) -> Result<(), Breach> {
        let Some(volume) = self.volumes.get_mut(&range.volume) else {
            return Ok(());
        };
        let end = volume.sectors.min(range.first + range.sectors);
        for (index, sector) in (range.first..end).enumerate() {
            let done = act(index, volume.register(sector));
            done.map_err(|breach| format!("L1: {}: {breach}", place(range.volume, sector)))?;
        }
        Ok(())
    }

    /// Each sector of the range on `member` holds something that may follow a write that began at
    /// the moment that `start` names for it.
    fn on_device(
        &self,
        range: Range,
        start: impl Fn(u64) -> Moment,
        (member, depth): (Host, Depth),
        media: &dyn Media,
    ) -> Result<(), Breach> {
        let volume = range.volume;
        if !self.volumes.contains_key(&volume) {
            return Ok(());
        }
        let last = range.first + range.sectors;
        for block in range.first / SECTORS_PER_BLOCK..last.div_ceil(SECTORS_PER_BLOCK) {
            let Some(bytes) = media.block(member, volume, block, depth) else {
                return Err(format!("K2: {member} has no volume {volume}"));
            };
            debug_assert_eq!(bytes.len(), BLOCK_LEN);
            let from = block * SECTORS_PER_BLOCK;
            for (sector, value) in (from..).zip(content::values(volume, from, &bytes)) {
                let inside = (range.first..last).contains(&sector);
                if inside && !self.may_follow(volume, sector, value, start(sector)) {
                    let place = place(volume, sector);
                    return Err(format!(
                        "K2: {place}: acknowledged, but {member} holds {value} ({depth:?})"
                    ));
                }
            }
        }
        Ok(())
    }

    fn may_follow(&self, volume: u32, sector: u64, value: Value, start: Moment) -> bool {
        let volume = &self.volumes[&volume];
        match volume.registers.get(&sector) {
            Some(register) => register.may_follow(value, start),
            None => volume.origin_of(sector) == value,
        }
    }

    fn writes_to(&self, volume: u32, sector: u64) -> impl Iterator<Item = &Write> {
        let register = self.volumes[&volume].registers.get(&sector);
        register
            .into_iter()
            .flat_map(Register::writes)
            .map(|id| &self.writes[id])
    }

    /// The latest start of a write to the sector that was acknowledged before `moment`.
    fn latest_start_acked_before(&self, volume: u32, sector: u64, moment: Moment) -> Moment {
        let acked = self
            .writes_to(volume, sector)
            .filter(|write| write.end < moment);
        acked.map(|write| write.start).max().unwrap_or(0)
    }

    fn not_older_than_flushed(&self, volume: u32, sector: u64, value: Value) -> Result<(), Breach> {
        let flushed = self.volumes[&volume].flushed;
        let stable = |write: &&Write| {
            write.end != NEVER && (write.stable == Stable::Yes || write.end < flushed)
        };
        let writes = self.writes_to(volume, sector).filter(stable);
        let floor = writes.map(|write| write.start).max().unwrap_or(0);
        if self.may_follow(volume, sector, value, floor) {
            return Ok(());
        }
        let place = place(volume, sector);
        Err(format!(
            "K3: {place}: {value} is older than what was flushed"
        ))
    }
}

fn place(volume: u32, sector: u64) -> String {
    format!(
        "volume {volume} sector {sector} (block {})",
        sector / SECTORS_PER_BLOCK
    )
}
