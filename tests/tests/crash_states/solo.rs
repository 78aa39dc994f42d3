//! The engine itself, alone: it formats, attaches, makes volumes, writes, settles and is killed at
//! any write; what a crash leaves is read back by the codecs, and the next life begins with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use replication::engine::{
    Authority, Command, Completed, Engine, Event, Input, Io, IoDone, Lease, Limits, Opened, Output,
    Params,
};
use replication::meta::group::{GroupState, Life};
use replication::meta::intent::{self, Table, Trust};
use replication::meta::superblock::{self, Found};
use replication::meta::{self, DIRTY_BLOCK_BYTES, REGION_BYTES};
use replication::types::{
    BootId, CommandId, DiskInstance, Epoch, Fua, GroupId, Incarnation, Members, NodeId, OpId, Time,
    VolumeNumber, VolumeSpec, Zeroed,
};
use tests::rng::Rng;

use crate::explorer::{Write, explore};

const ME: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);
const GROUP: GroupId = GroupId(9);
/// Data of a user volume: six regions.
const SIZE_BYTES: u64 = 6 << 20;
/// Starts of the program.
const LIVES: u64 = 12;

/// A backing: what is stable, what a read sees, and what lies between.
#[derive(Default)]
struct Backing {
    stable: Vec<u8>,
    visible: Vec<u8>,
    /// Completed and not flushed.
    cached: Vec<Write>,
    running: BTreeMap<OpId, (Io, usize)>,
    /// Blocks that were written: the peer lacks them.
    written: BTreeSet<u64>,
}

struct Solo {
    rng: Rng,
    engine: Engine,
    now: Time,
    backings: BTreeMap<u32, Backing>,
    inputs: VecDeque<Input>,
    /// Group states that were written, by generation.
    states: BTreeMap<u64, GroupState>,
    /// The newest generation that is durable.
    durable: u64,
    count: u64,
    serving: bool,
    answered: u64,
}

fn to_len(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap()
}

fn engine(life: u64) -> Engine {
    Engine::new(Params {
        group: GROUP,
        me: ME,
        peer: PEER,
        incarnation: Incarnation(u128::from(life) + 1),
        boot: BootId(u128::from(life) + 1),
        key: [1; 32],
        nonce_seed: life,
        fresh_disk: DiskInstance(77),
        peer_loss_ms: 1000,
        limits: Limits {
            hot_regions: 2,
            settle_ms: 50,
            ..Limits::default()
        },
    })
}

impl Solo {
    fn new() -> Self {
        Self {
            rng: Rng::new(6),
            engine: engine(0),
            now: Time(1),
            backings: BTreeMap::new(),
            inputs: VecDeque::new(),
            states: BTreeMap::new(),
            durable: 0,
            count: 0,
            serving: false,
            answered: 0,
        }
    }

    fn start(&mut self) {
        let opened = |(number, backing): (&u32, &Backing)| Opened {
            number: VolumeNumber(*number),
            size_bytes: backing.stable.len() as u64,
            zeroed: Zeroed::Unknown,
        };
        let found: Vec<Opened> = self.backings.iter().map(opened).collect();
        let blank = found.is_empty();
        let seal = Epoch::ZERO;
        self.inputs.push_back(Input::Start {
            found,
            seal,
            newest: None,
        });
        if blank {
            self.inputs.push_back(Input::Format);
        }
    }

    /// Feeds inputs and ends operations until `until`, at most so many steps.
    fn run(&mut self, steps: u32, until: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..steps {
            if until(self) {
                return true;
            }
            if let Some(input) = self.inputs.pop_front() {
                self.feed(input);
            } else if !self.finish_one() {
                self.now = self.now.plus_ms(20);
                self.feed(Input::Timeout);
            }
        }
        until(self)
    }

    fn feed(&mut self, input: Input) {
        self.now = Time(self.now.0 + 1000);
        self.engine.handle(self.now, input);
        while let Some(output) = self.engine.poll_output() {
            self.output(output);
        }
        self.engine.check_full();
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Submit { op, volume, io } => self.submit(op, volume.0, io),
            Output::Open {
                spec,
                backing_bytes,
                ..
            } => {
                let len = to_len(backing_bytes);
                let backing = self.backings.entry(spec.number.0).or_default();
                backing.stable.resize(len, 0);
                backing.visible.resize(len, 0);
                self.inputs.push_back(Input::Opened(Opened {
                    number: spec.number,
                    size_bytes: backing_bytes,
                    zeroed: Zeroed::Proven,
                }));
            }
            Output::Grow { number, .. } => panic!("nobody lets volume {number} grow"),
            Output::Remove { number } => drop(self.backings.remove(&number.0)),
            Output::Connect => self.inputs.push_back(Input::ConnectFailed),
            Output::Complete { result, .. } => {
                self.answered += u64::from(result == Ok(Completed::Ok));
            }
            Output::Event(Event::Serving { .. }) => self.serving = true,
            Output::Event(_) | Output::Disconnect { .. } | Output::Send { .. } => {}
        }
    }

    fn submit(&mut self, op: OpId, number: u32, io: Io) {
        let backing = self.backings.get_mut(&number).unwrap();
        let cached = backing.cached.len();
        let mut metadata = false;
        if let Io::Write {
            offset_bytes, data, ..
        } = &io
        {
            let offset = *offset_bytes;
            let backing_bytes = backing.stable.len() as u64;
            let area = tests::coverage::Area::of(offset, data_offset(number), backing_bytes);
            metadata = area != tests::coverage::Area::Data;
            if !metadata {
                let first = (offset - data_offset(number)) / DIRTY_BLOCK_BYTES;
                backing.written.insert(first);
            }
            if number == 0 && area == tests::coverage::Area::Group {
                let state = GroupState::parse(data).unwrap();
                self.states.insert(state.meta_generation, state);
            }
        }
        backing.running.insert(op, (io, cached));
        if metadata {
            self.explore(number);
        }
    }

    /// One operation under way ends, any of them; false if there is none.
    fn finish_one(&mut self) -> bool {
        let running = self.backings.iter().flat_map(|(number, backing)| {
            let ops = backing.running.keys();
            ops.map(move |op| (*number, *op))
        });
        let running: Vec<(u32, OpId)> = running.collect();
        if running.is_empty() {
            return false;
        }
        let (number, op) = *self.rng.pick(&running);
        let backing = self.backings.get_mut(&number).unwrap();
        let (io, cached) = backing.running.remove(&op).unwrap();
        let result = backing.done(&io, cached);
        if number == 0
            && let Some(state) = GroupState::find(&backing.stable)
        {
            self.durable = self.durable.max(state.meta_generation);
        }
        let result = Ok(result);
        self.inputs.push_back(Input::Done { op, result });
        true
    }

    /// Looks at every crash state of one backing; the others are as they are durable.
    fn explore(&mut self, number: u32) {
        let Self {
            backings,
            rng,
            states,
            durable,
            ..
        } = self;
        let ready = ready(backings);
        let backing = backings.get_mut(&number).unwrap();
        let writes = backing.under_way();
        let written = backing.written.clone();
        let mut stable = std::mem::take(&mut backing.stable);
        self.count += explore(&mut stable, &writes, rng, |state| {
            if number == 0 {
                let found = superblocks(state);
                let group = GroupState::find(state);
                if let Found::Valid(_) = found {
                    let group = group.expect("a stamped system volume has a group state");
                    assert!(group.meta_generation >= *durable, "an older group state");
                    assert_eq!(states.get(&group.meta_generation), Some(&group));
                }
            } else if ready.contains(&number) {
                let found = superblocks(state);
                assert!(
                    matches!(found, Found::Valid(_)),
                    "volume {number}: {found:?}"
                );
            }
            check_masks(number, state, &written);
        });
        self.backings.get_mut(&number).unwrap().stable = stable;
    }

    /// The power goes: each backing keeps a random part of what was under way.
    fn crash(&mut self, life: u64) {
        for backing in self.backings.values_mut() {
            for write in backing.under_way() {
                let sectors = write.bytes.chunks_exact(512).enumerate();
                for (index, bytes) in sectors.filter(|_| self.rng.chance(500)) {
                    let at = write.offset + index * 512;
                    backing.stable[at..at + 512].copy_from_slice(bytes);
                }
            }
            backing.cached.clear();
            backing.running.clear();
            backing.visible.clone_from(&backing.stable);
        }
        self.inputs.clear();
        self.serving = false;
        self.engine = engine(life);
    }
}

impl Backing {
    fn done(&mut self, io: &Io, cached: usize) -> IoDone {
        match io {
            Io::Read {
                offset_bytes,
                len_bytes,
            } => {
                let at = to_len(*offset_bytes);
                let data = &self.visible[at..at + len_bytes];
                return IoDone::Data(Bytes::copy_from_slice(data));
            }
            Io::Write { fua, .. } | Io::WriteZeroes { fua, .. } => {
                let write = write_of(io).unwrap();
                write.put(&mut self.visible);
                if *fua == Fua::Yes {
                    write.put(&mut self.stable);
                } else {
                    self.cached.push(write);
                }
            }
            Io::Flush => {
                for write in self.cached.drain(..cached.min(self.cached.len())) {
                    write.put(&mut self.stable);
                }
                for (_, mark) in self.running.values_mut() {
                    *mark = mark.saturating_sub(cached);
                }
            }
        }
        IoDone::Ok
    }

    /// What may or may not be on the medium, in the order of submission as far as it matters.
    fn under_way(&self) -> Vec<Write> {
        let running = self.running.values().filter_map(|(io, _)| write_of(io));
        self.cached.iter().cloned().chain(running).collect()
    }
}

impl Write {
    fn put(&self, image: &mut [u8]) {
        image[self.offset..self.offset + self.bytes.len()].copy_from_slice(&self.bytes);
    }
}

fn write_of(io: &Io) -> Option<Write> {
    let (offset_bytes, bytes) = match io {
        Io::Read { .. } | Io::Flush => return None,
        Io::Write {
            offset_bytes, data, ..
        } => (*offset_bytes, data.to_vec()),
        Io::WriteZeroes {
            offset_bytes,
            len_bytes,
            ..
        } => (*offset_bytes, vec![0; to_len(*len_bytes)]),
    };
    let offset = to_len(offset_bytes);
    Some(Write { offset, bytes })
}

fn size_of(number: u32) -> u64 {
    if number == 0 {
        meta::SYSTEM_BYTES
    } else {
        SIZE_BYTES
    }
}

fn data_offset(number: u32) -> u64 {
    meta::layout(size_of(number)).data_offset
}

fn uuid_of(number: u32) -> u128 {
    if number == 0 {
        GROUP.0
    } else {
        u128::from(number)
    }
}

/// What all four superblocks say.
fn superblocks(state: &[u8]) -> Found {
    let offsets = superblock::offsets(state.len() as u64);
    let copies = offsets.map(|at| &state[to_len(at)..][..superblock::LEN_BYTES]);
    superblock::find_in(&copies.concat())
}

/// Volumes that the durable table calls ready.
fn ready(backings: &BTreeMap<u32, Backing>) -> BTreeSet<u32> {
    let group = backings.get(&0).and_then(|it| GroupState::find(&it.stable));
    let entries = group
        .into_iter()
        .flat_map(|group| group.volumes.into_values());
    let ready = entries.filter(|entry| entry.life == Life::Ready);
    ready.map(|entry| entry.spec.number.0).collect()
}

/// D1, D2: what was written and the peer lacks is in the dirty map or in a hot region.
fn check_masks(number: u32, state: &[u8], written: &BTreeSet<u64>) {
    if !matches!(superblocks(state), Found::Valid(_)) {
        return;
    }
    let layout = meta::layout(size_of(number));
    let uuid = uuid_of(number);
    let head = &state[..to_len(layout.data_offset)];
    let map = meta::dirty::DirtyMap::load(uuid, layout.blocks, head);
    let ring = &state[to_len(intent::OFFSET)..][..intent::RING_BYTES];
    let (table, trust) = Table::recover(uuid, ring);
    let hot: BTreeSet<u32> = table.regions().collect();
    for block in written {
        let region = u32::try_from(block * DIRTY_BLOCK_BYTES / REGION_BYTES).unwrap();
        let dirty = map.contains(u32::try_from(*block).unwrap());
        let is_hot = trust == Trust::Broken || hot.contains(&region);
        assert!(
            dirty || is_hot,
            "D2: block {block} of volume {number} is called clean"
        );
    }
}

#[test]
fn d2_an_engine_that_dies_at_any_write_calls_nothing_clean_that_is_not() {
    let mut solo = Solo::new();
    for life in 0..LIVES {
        solo.start();
        let attached = |solo: &Solo| {
            let status = solo.engine.status();
            status.data.attached == replication::engine::Attached::Yes
        };
        assert!(
            solo.run(3000, attached),
            "life {life}: {:?}",
            solo.engine.status()
        );
        solo.inputs.push_back(Input::Authority(Authority::Primary {
            epoch: Epoch(life + 2),
            in_sync: Members::of(&[ME]),
            doubt: None,
            peer_base: None,
            peer_disk: None,
            answers: 0,
        }));
        solo.inputs.push_back(Input::Lease(Lease::Unlimited));
        assert!(solo.run(3000, |solo| solo.serving), "life {life}");
        let number = VolumeNumber(u32::try_from(life).unwrap() + 1);
        let spec = VolumeSpec {
            number,
            uuid: uuid_of(number.0),
            size_bytes: SIZE_BYTES,
        };
        let id = CommandId(life * 1000);
        let before = solo.answered;
        solo.inputs.push_back(Input::CreateVolume { id, spec });
        assert!(solo.run(3000, |solo| solo.answered > before), "life {life}");
        for write in 1..30 {
            let ready: Vec<u32> = ready(&solo.backings).into_iter().collect();
            let volume = VolumeNumber(*solo.rng.pick(&ready));
            let offset_bytes = solo.rng.below(6 * 16) * DIRTY_BLOCK_BYTES;
            let data = Bytes::from(vec![u8::try_from(write).unwrap(); 4096]);
            let fua = Fua::No;
            let command = Command::Write {
                volume,
                offset_bytes,
                data,
                fua,
            };
            let id = CommandId(life * 1000 + write);
            solo.inputs.push_back(Input::Command { id, command });
            let steps = u32::try_from(solo.rng.below(40)).unwrap();
            solo.run(steps, |_| false);
        }
        // sometimes in the middle, sometimes after everything has settled
        let steps = u32::try_from(solo.rng.below(400)).unwrap();
        solo.run(steps, |_| false);
        solo.crash(life + 1);
    }
    println!("{} crash states of an engine", solo.count);
    assert!(solo.count > 90_000, "{}", solo.count);
}
