//! Units from the outside: CDBs in, replies out.

mod blocks;
mod copies;
mod crashes;
mod identity;
mod masking;
mod modes;
mod reservations;
mod strangers;
mod waiting;

use std::rc::Rc;

use bytes::Bytes;

use super::*;
use crate::backend::{CompletionQueue, Geometry, Tag};
use crate::hosts::{Access, GroupConfig, HostConfig, MapConfig, MapTarget, Network};
use crate::memory::MemoryBackend;

/// An array with one or two initiators, and the means to drive it.
pub(super) struct Bench {
    pub(super) array: Array,
    pub(super) disk: Rc<MemoryBackend>,
    pub(super) nexus: NexusId,
    queue: CompletionQueue,
}

pub(super) const DISK: UnitId = UnitId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
pub(super) const TARGET: &str = "iqn.2026-11.org.twinsan:test";
pub(super) const FIRST: &str = "iqn.2026-11.org.example:first";
pub(super) const SECOND: &str = "iqn.2026-11.org.example:second";

impl Bench {
    /// One thin disk of 2048 blocks under LUN 0 (read-write) for both initiators; the attention of
    /// the login is taken.
    pub(super) fn new() -> Self {
        Self::with(MemoryBackend::thin(2048))
    }

    pub(super) fn with(disk: MemoryBackend) -> Self {
        let disk = Rc::new(disk);
        let mut array = Array::new();
        array.portals(TARGET, PORTALS.to_vec());
        array.apply(config(&disk, Access::ReadWrite)).unwrap();
        let mut bench = Self {
            array,
            disk,
            nexus: NexusId(0),
            queue: CompletionQueue::new(),
        };
        bench.nexus = bench.log_in(FIRST);
        bench
    }

    /// Opens a nexus and takes the attention of the login.
    pub(super) fn log_in(&mut self, initiator: &str) -> NexusId {
        let host = self
            .array
            .authorize(initiator, [127, 0, 0, 1].into())
            .unwrap();
        let nexus = self.array.open(nexus(initiator), host);
        assert_eq!(self.sense_of(nexus, 0, &[0x00]), [6, 0x29, 0x00]);
        nexus
    }

    /// Runs one command of the first initiator on LUN 0.
    pub(super) fn run(&mut self, cdb: &[u8], data: &[u8]) -> Reply {
        self.run_as(self.nexus, 0, cdb, data)
    }

    pub(super) fn run_as(&mut self, nexus: NexusId, lun: u8, cdb: &[u8], data: &[u8]) -> Reply {
        match self.try_run(nexus, lun, cdb, data) {
            Some(reply) => reply,
            None => panic!("the command ended without a reply"),
        }
    }

    /// Runs a command to its end; none if the session is to be dropped.
    pub(super) fn try_run(
        &mut self,
        nexus: NexusId,
        lun: u8,
        cdb: &[u8],
        data: &[u8],
    ) -> Option<Reply> {
        let lun = [0, lun, 0, 0, 0, 0, 0, 0];
        let offered = u32::try_from(data.len()).unwrap();
        let mut execution = match self.array.start(nexus, lun, padded(cdb), offered) {
            Start::Reply(reply) => return Some(reply),
            Start::Run(execution) => execution,
            Start::Drop => return None,
        };
        let mut step = execution.run(&mut self.array, Bytes::copy_from_slice(data));
        loop {
            match step {
                Step::Done(reply) => return Some(reply),
                Step::Drop => return None,
                Step::Io { backend, request } => {
                    backend.submit(request, self.queue.completion(Tag(0)));
                    let (_, outcome) = self.queue.pop().expect("this backend answers at once");
                    step = execution.done(&mut self.array, outcome);
                }
            }
        }
    }

    /// The data of a command that must succeed.
    pub(super) fn data(&mut self, cdb: &[u8], data: &[u8]) -> Vec<u8> {
        let reply = self.run(cdb, data);
        assert_eq!(
            (reply.status, reply.sense),
            (Status::Good, None),
            "{cdb:02x?}"
        );
        reply.data_in.concat()
    }

    /// Key, code and qualifier of a command that must fail.
    pub(super) fn sense(&mut self, cdb: &[u8], data: &[u8]) -> [u8; 3] {
        sense_of(&self.run(cdb, data))
    }

    pub(super) fn sense_of(&mut self, nexus: NexusId, lun: u8, cdb: &[u8]) -> [u8; 3] {
        sense_of(&self.run_as(nexus, lun, cdb, &[]))
    }

    pub(super) fn is_good(&mut self, nexus: NexusId, cdb: &[u8]) -> bool {
        self.run_as(nexus, 0, cdb, &[]).status == Status::Good
    }
}

pub(super) fn sense_of(reply: &Reply) -> [u8; 3] {
    assert_eq!(reply.status, Status::CheckCondition);
    let sense = reply.sense.unwrap();
    [sense.key as u8, sense.code[0], sense.code[1]]
}

pub(super) fn padded(cdb: &[u8]) -> [u8; 16] {
    let mut padded = [0; 16];
    padded[..cdb.len()].copy_from_slice(cdb);
    padded
}

pub(super) fn nexus(initiator: &str) -> Nexus {
    Nexus {
        initiator: initiator.to_owned(),
        isid: [0x80, 0, 0, 0, 0, 1],
        portal_tag: 1,
    }
}

pub(super) fn host(name: &str, initiators: &[&str]) -> HostConfig {
    HostConfig {
        name: name.to_owned(),
        initiators: initiators.iter().map(|name| (*name).to_owned()).collect(),
        chap: None,
        networks: Vec::new(),
    }
}

pub(super) fn map(name: &str, lun: u16, unit: UnitId, access: Access) -> MapConfig {
    MapConfig {
        target: MapTarget::Host(name.to_owned()),
        lun,
        unit,
        access,
    }
}

pub(super) fn unit(id: UnitId, disk: &Rc<MemoryBackend>) -> UnitConfig {
    let backend = Rc::clone(disk) as Rc<dyn Backend>;
    UnitConfig {
        id,
        name: "disk".to_owned(),
        backend,
        medium: Medium::Fixed,
        reserved: Reserved::Live,
    }
}

/// Both initiators see the disk under LUN 0.
pub(super) fn config(disk: &Rc<MemoryBackend>, access: Access) -> ArrayConfig {
    ArrayConfig {
        discovery: None,
        hosts: vec![host("first", &[FIRST]), host("second", &[SECOND])],
        groups: Vec::new(),
        maps: vec![
            map("first", 0, DISK, access),
            map("second", 0, DISK, access),
        ],
        units: vec![unit(DISK, disk)],
    }
}

/// Two service addresses, each a group of its own.
pub(super) const PORTALS: [Portal; 2] = [
    Portal {
        tag: 1,
        relative_port: 0x11,
        group: 0x21,
    },
    Portal {
        tag: 2,
        relative_port: 0x12,
        group: 0x22,
    },
];
