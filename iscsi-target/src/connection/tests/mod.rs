//! Connections driven PDU by PDU, without sockets.

mod attentions;
mod copies;
mod entry;
mod full;
mod memory;
mod noise;

use std::rc::Rc;

use bytes::Bytes;

use super::*;
use crate::auth::Challenge;
use crate::backend::CompletionQueue;
use crate::hosts::{Access, ChapSecret, ChapSecrets, HostConfig, MapConfig, MapTarget};
use crate::memory::MemoryBackend;
use crate::pdu::command::{Command, READ, WRITE};
use crate::pdu::frame::Digest;
use crate::pdu::nop::NopOut;
use crate::pdu::{Bhs, FINAL, Header, IMMEDIATE, Len24};
use crate::registry::{ConnectionId, Limits};
use crate::scsi::{ArrayConfig, Medium, Reserved, UnitConfig, UnitId};
use crate::types::{Itt, PortalTag, Ttt};

const TARGET: &str = "iqn.2026-11.org.twinsan:table";
const NAMES: &str =
    "InitiatorName=iqn.2026-01.test:one\0TargetName=iqn.2026-11.org.twinsan:table\0";
/// CmdSN of the login.
const FIRST: u32 = 100;

/// Everything around one connection.
struct Table {
    chap: Option<ChapSecrets>,
    connection: Connection,
    array: Array,
    registry: Registry,
    backend: Rc<MemoryBackend>,
    queue: CompletionQueue,
    now: Time,
    decoder: Decoder,
    sender: Outbox,
    closed: Option<(CloseReason, Manner)>,
}

/// A PDU from the target.
#[derive(Debug)]
struct Reply {
    bhs: Bhs,
    data: Vec<u8>,
}

impl Reply {
    fn text(&self) -> String {
        String::from_utf8(self.data.clone())
            .unwrap()
            .replace('\0', "\n")
    }
}

impl Table {
    fn new() -> Self {
        Self::with_chap(None)
    }

    fn with_chap(chap: Option<ChapSecrets>) -> Self {
        Self::with(chap, Limits::default())
    }

    fn with(chap: Option<ChapSecrets>, limits: Limits) -> Self {
        let mut registry = Registry::new(limits);
        registry.activate();
        let mut table = Self {
            chap,
            connection: new_connection(1),
            array: Array::new(),
            registry,
            backend: Rc::new(MemoryBackend::thin(4096)),
            queue: CompletionQueue::new(),
            now: Time(0),
            decoder: Decoder::new(1 << 20),
            sender: Outbox::default(),
            closed: None,
        };
        table.discovery(None);
        table
    }

    /// Puts the configuration in force, with these secrets for discovery.
    fn discovery(&mut self, discovery: Option<ChapSecrets>) {
        let unit = UnitId(1);
        let config = ArrayConfig {
            discovery,
            hosts: vec![HostConfig {
                name: "one".to_owned(),
                initiators: vec!["iqn.2026-01.test:one".to_owned()],
                chap: self.chap.clone(),
                networks: Vec::new(),
            }],
            maps: vec![MapConfig {
                target: MapTarget::Host("one".to_owned()),
                lun: 0,
                unit,
                access: Access::ReadWrite,
            }],
            units: vec![UnitConfig {
                id: unit,
                name: "zero".to_owned(),
                backend: Rc::clone(&self.backend) as Rc<dyn Backend>,
                medium: Medium::Fixed,
                reserved: Reserved::Live,
            }],
            ..ArrayConfig::default()
        };
        self.array.apply(config).unwrap();
    }

    /// A table with a session that has heard its unit attention.
    fn logged_in() -> Self {
        Self::logged_in_with("")
    }

    fn logged_in_with(keys: &str) -> Self {
        Self::ready(Limits::default(), keys)
    }

    fn ready(limits: Limits, keys: &str) -> Self {
        let mut table = Self::with(None, limits);
        table.log_in(keys);
        let ready = table.command((0x7000, FIRST), [0; 16], 0, 0);
        assert_eq!(
            ready[0].bhs.cast::<crate::pdu::command::Response>().status,
            2
        );
        table
    }

    fn log_in(&mut self, keys: &str) {
        let text = format!("{NAMES}{keys}");
        let reply = self.send(&login_request(0x87, text.len()), text.as_bytes());
        let response: login::Response = reply[0].bhs.cast();
        assert_eq!(response.status.get(), 0);
        assert_eq!(response.flags, 0x87);
        assert_ne!(response.tsih.get(), 0);
    }

    fn send<H: Header>(&mut self, header: &H, data: &[u8]) -> Vec<Reply> {
        self.sender.push(header, &[Bytes::copy_from_slice(data)]);
        let wire: Vec<u8> = self.sender.chunks().flat_map(<[u8]>::to_vec).collect();
        self.sender.advance(wire.len());
        self.receive(&wire)
    }

    fn receive(&mut self, wire: &[u8]) -> Vec<Reply> {
        self.feed(Input::Received(&mut BytesMut::from(wire)))
    }

    fn wait(&mut self, ms: u64) -> Vec<Reply> {
        self.now = self.now.after_ms(ms);
        self.feed(Input::Timeout)
    }

    /// Feeds one event, answers what the connection asks for, and reads what it says.
    fn feed(&mut self, input: Input<'_>) -> Vec<Reply> {
        self.handle(input);
        while let Some((tag, outcome)) = self.queue.pop() {
            self.handle(Input::Done(tag, outcome));
        }
        let mut wire = BytesMut::new();
        for chunk in self.connection.outbox().chunks() {
            wire.extend_from_slice(chunk);
        }
        self.handle(Input::Sent(wire.len()));
        let mut replies = Vec::new();
        while let Some(frame) = self.decoder.poll(&mut wire, |_| BytesMut::new()).unwrap() {
            replies.push(Reply {
                bhs: frame.bhs,
                data: frame.payload().to_vec(),
            });
        }
        replies
    }

    fn handle(&mut self, input: Input<'_>) {
        let mut ports = Ports {
            array: &mut self.array,
            registry: &mut self.registry,
        };
        self.connection.handle(self.now, input, &mut ports);
        while let Some(output) = self.connection.poll_output() {
            match output {
                Output::Submit {
                    tag,
                    backend,
                    request,
                } => {
                    backend.submit(request, self.queue.completion(tag));
                }
                Output::Close { reason, manner } => self.closed = Some((reason, manner)),
            }
        }
    }

    fn command(
        &mut self,
        (itt, cmd_sn): (u32, u32),
        cdb: [u8; 16],
        flags: u8,
        expected: u32,
    ) -> Vec<Reply> {
        let header = Command {
            flags: FINAL | flags,
            ..command(itt, cmd_sn, cdb, expected)
        };
        self.send(&header, &[])
    }
}

fn new_connection(id: u64) -> Connection {
    let here = Portal {
        address: "10.0.0.1:3260".parse().unwrap(),
        tag: PortalTag(1),
    };
    let surroundings = Surroundings {
        connection: ConnectionId(id),
        target: TARGET.to_owned(),
        alias: String::new(),
        tag: PortalTag(1),
        source: "10.0.0.9:40000".parse().unwrap(),
        challenge: Challenge {
            identifier: 9,
            bytes: vec![0xab; 32],
        },
    };
    Connection::new(Time(0), 15_000, here, surroundings)
}

fn login_request(flags: u8, len: usize) -> login::Request {
    let mut request: login::Request = Bhs::from_wire(&[0; 48]).cast();
    request.opcode = opcode::LOGIN_REQUEST | IMMEDIATE;
    request.flags = flags;
    request.data_len = Len24::new(len);
    request.isid = [0x80, 0, 0, 0, 0, 1];
    request.itt = 1.into();
    request.cid = 1.into();
    request.cmd_sn = FIRST.into();
    request.exp_stat_sn = 1.into();
    request
}

fn command(itt: u32, cmd_sn: u32, cdb: [u8; 16], expected: u32) -> Command {
    Command {
        opcode: opcode::COMMAND,
        flags: FINAL,
        reserved: [0; 2],
        ahs_len_words: 0,
        data_len: Len24::new(0),
        lun: [0; 8],
        itt: itt.into(),
        expected_len_bytes: expected.into(),
        cmd_sn: cmd_sn.into(),
        exp_stat_sn: 0.into(),
        cdb,
    }
}

fn read10(lba: u8, blocks: u8) -> [u8; 16] {
    [0x28, 0, 0, 0, 0, lba, 0, 0, blocks, 0, 0, 0, 0, 0, 0, 0]
}

fn write10(lba: u8, blocks: u8) -> [u8; 16] {
    [0x2a, 0, 0, 0, 0, lba, 0, 0, blocks, 0, 0, 0, 0, 0, 0, 0]
}

fn nop_out(itt: u32, ttt: u32, cmd_sn: u32, flags: u8, len: usize) -> NopOut {
    let mut nop: NopOut = Bhs::from_wire(&[0; 48]).cast();
    nop.opcode = opcode::NOP_OUT | flags;
    nop.flags = FINAL;
    nop.data_len = Len24::new(len);
    nop.itt = itt.into();
    nop.ttt = ttt.into();
    nop.cmd_sn = cmd_sn.into();
    nop
}
