//! Entry points for a fuzzer: each takes any bytes and panics if the target breaks a promise.
//!
//! `cargo fuzz run pdus -s none`, in the folder above, works on stable Rust. `cargo ci --only fuzz`
//! runs every target for a while. The files under `corpus/` are replayed as ordinary tests; a file
//! that a fuzzer found is replayed with `cargo run -p iscsi-target-fuzz --bin pdus FILE`.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use iscsi_target::auth::Challenge;
use iscsi_target::backend::{Backend, CompletionQueue};
use iscsi_target::budget::RESERVE_BYTES;
use iscsi_target::connection::{Connection, Input, Output, Ports};
use iscsi_target::discovery::Portal;
use iscsi_target::hosts::{
    Access, ChapSecret, ChapSecrets, HostConfig, MapConfig, MapTarget, UnitId,
};
use iscsi_target::login::Surroundings;
use iscsi_target::memory::MemoryBackend;
use iscsi_target::pdu::command::Command;
use iscsi_target::pdu::data::{DataOut, STATUS};
use iscsi_target::pdu::frame::{Decoder, Digest, Frame};
use iscsi_target::pdu::nop::NopIn;
use iscsi_target::pdu::outbox::Outbox;
use iscsi_target::pdu::r2t::R2t;
use iscsi_target::pdu::{Bhs, FINAL, Header, IMMEDIATE, Len24, login as login_pdu, opcode};
use iscsi_target::registry::{ConnectionId, Limits, Registry};
use iscsi_target::scsi::{Array, ArrayConfig, Medium, Reserved, UnitConfig};
use iscsi_target::types::{PortalTag, Serial, Time};

/// iSCSI name of the target.
pub const TARGET: &str = "iqn.2026-11.org.twinsan:fuzz";
/// iSCSI name of an initiator that may log in without a proof.
pub const INITIATOR: &str = "iqn.2026-01.test:one";
/// iSCSI name of an initiator that must prove itself.
pub const PROVER: &str = "iqn.2026-01.test:prover";
/// CmdSN of the login.
pub const FIRST: u32 = 1;

/// Blocks of a unit; what a command can make the memory hold is this much.
const BLOCKS: u64 = 2048;
const BUDGET_BYTES: usize = 2 << 20;
/// Most that one input may hold at once: the budget, one command, and the reserve.
const HELD_MAX_BYTES: usize = BUDGET_BYTES + (32 << 20) + RESERVE_BYTES;
/// Inputs that are longer say nothing new.
const PDUS_MAX: usize = 200;

/// A stream of bytes after the login. The first byte chooses digests and the size of the pieces in
/// which the rest comes.
pub fn pdus(data: &[u8]) {
    let Some((mode, stream)) = data.split_first() else {
        return;
    };
    let keys = if mode & 1 == 0 {
        ""
    } else {
        "HeaderDigest=CRC32C\0DataDigest=CRC32C\0"
    };
    let mut stage = Stage::new();
    stage.log_in(keys);
    let piece = [1, 48, 4096, usize::MAX][usize::from(mode >> 1) % 4];
    for piece in stream.chunks(piece.min(stream.len().max(1))) {
        stage.receive(piece);
    }
    stage.end();
}

/// Requests of a login: each is a byte of flags, two bytes of length and that much text. Nobody
/// comes in as an initiator that must prove itself.
pub fn login(data: &[u8]) {
    let mut stage = Stage::new();
    let mut rest = data;
    for _ in 0..PDUS_MAX {
        let [flags, high, low, text @ ..] = rest else {
            break;
        };
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(text.len());
        let (text, after) = text.split_at(len);
        stage.send(&login_request(*flags, len), text);
        rest = after;
    }
    let sessions = stage.registry.sessions();
    assert!(sessions.len() <= 1, "one connection, one session");
    let prover = sessions
        .iter()
        .any(|session| session.key.initiator == PROVER);
    assert!(!prover, "nobody knows the secret");
    stage.end();
}

/// SCSI commands: each is a CDB of 16 bytes, a byte of flags, a LUN, the expected length in four
/// bytes, two bytes of length and that much data to send. Each ends with one status.
pub fn commands(data: &[u8]) {
    let mut stage = Stage::new();
    stage.log_in("InitialR2T=Yes\0MaxRecvDataSegmentLength=65536\0");
    let mut rest = data;
    for number in 0..u32::try_from(PDUS_MAX).expect("few") {
        let Some((head, after)) = rest.split_at_checked(24) else {
            break;
        };
        let cdb: [u8; 16] = head[..16].try_into().expect("16 bytes");
        let wanted = u32::from_be_bytes([head[18], head[19], head[20], head[21]]);
        let len = usize::from(u16::from_be_bytes([head[22], head[23]])).min(after.len());
        let (parameters, after) = after.split_at(len);
        rest = after;
        // Reads and writes, not both: that is refused before it is a command.
        let direction = match head[16] % 3 {
            0 => 0,
            1 => 0x40,
            _ => 0x20,
        };
        let expected = if direction == 0x20 {
            u32::try_from(len).expect("16 bits")
        } else {
            wanted % (8 << 20)
        };
        let immediate = if direction == 0x20 && head[16] & 0x80 == 0 {
            len
        } else {
            0
        };
        let command = Command {
            opcode: opcode::COMMAND,
            flags: FINAL | direction,
            reserved: [0; 2],
            ahs_len_words: 0,
            data_len: Len24::new(immediate),
            lun: [0, head[17] % 4, 0, 0, 0, 0, 0, 0],
            itt: number.into(),
            expected_len_bytes: expected.into(),
            cmd_sn: (FIRST + number).into(),
            exp_stat_sn: 0.into(),
            cdb,
        };
        stage.parameters.insert(number, parameters.to_vec());
        stage.send(&command, &parameters[..immediate]);
        assert_eq!(
            stage.statuses.get(&number),
            Some(&1),
            "one status for {cdb:02x?}"
        );
    }
    stage.end();
}

/// Runs `target` over files, for a person with a finding.
///
/// # Errors
/// If a file cannot be read.
pub fn replay(files: impl Iterator<Item = String>, target: fn(&[u8])) -> std::io::Result<()> {
    for file in files {
        target(&std::fs::read(&file)?);
        println!("{file}: no promise is broken");
    }
    Ok(())
}

/// A connection with everything around it, and the peer's view of it.
pub struct Stage {
    connection: Connection,
    array: Array,
    registry: Registry,
    queue: CompletionQueue,
    now: Time,
    decoder: Decoder,
    sender: Outbox,
    max_cmd_sn: Option<Serial>,
    next_stat_sn: Option<Serial>,
    statuses: BTreeMap<u32, u32>,
    /// Data that an R2T may ask for, by tag.
    parameters: BTreeMap<u32, Vec<u8>>,
}

impl Stage {
    /// A target with two units and two hosts, and one connection to it.
    ///
    /// # Panics
    /// If the configuration is refused.
    #[must_use]
    pub fn new() -> Self {
        let mut array = Array::new();
        array.apply(config()).expect("a good configuration");
        let mut registry = Registry::new(Limits {
            budget_bytes: BUDGET_BYTES,
            ..Limits::default()
        });
        registry.activate();
        let id = ConnectionId(1);
        let _ = registry.accept(id);
        let here = Portal {
            address: "10.0.0.1:3260".parse().expect("an address"),
            tag: PortalTag(1),
        };
        let surroundings = Surroundings {
            connection: id,
            target: TARGET.to_owned(),
            alias: "fuzz".to_owned(),
            tag: here.tag,
            source: "10.0.0.9:40000".parse().expect("an address"),
            challenge: Challenge {
                identifier: 9,
                bytes: vec![0xab; 32],
            },
        };
        Self {
            connection: Connection::new(Time(0), 15_000, here, surroundings),
            array,
            registry,
            queue: CompletionQueue::new(),
            now: Time(0),
            decoder: Decoder::new(1 << 24),
            sender: Outbox::default(),
            max_cmd_sn: None,
            next_stat_sn: None,
            statuses: BTreeMap::new(),
            parameters: BTreeMap::new(),
        }
    }

    /// Logs in as [`INITIATOR`].
    ///
    /// # Panics
    /// If it may not.
    pub fn log_in(&mut self, keys: &str) {
        let text = format!("InitiatorName={INITIATOR}\0TargetName={TARGET}\0{keys}");
        self.send(&login_request(0x87, text.len()), text.as_bytes());
        assert_eq!(self.registry.sessions().len(), 1, "it may log in");
        self.statuses.clear();
        if keys.contains("CRC32C") {
            self.decoder.set_digests(Digest::Crc32c, Digest::Crc32c);
            self.sender.set_digests(Digest::Crc32c, Digest::Crc32c);
        }
    }

    /// Sends one PDU.
    pub fn send<H: Header>(&mut self, header: &H, data: &[u8]) {
        self.sender.push(header, &[Bytes::copy_from_slice(data)]);
        let wire: Vec<u8> = self.sender.chunks().flat_map(<[u8]>::to_vec).collect();
        self.sender.advance(wire.len());
        self.receive(&wire);
    }

    /// The target receives bytes and does all that follows from them.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.handle(Input::Received(&mut BytesMut::from(bytes)));
        for _ in 0..PDUS_MAX {
            while let Some((tag, outcome)) = self.queue.pop() {
                self.handle(Input::Done(tag, outcome));
            }
            while let Some((_, notice)) = self.registry.next_mail() {
                self.handle(Input::Notice(notice));
            }
            if !self.hear() && self.queue.is_empty() {
                return;
            }
        }
    }

    /// What the target says to these bytes.
    pub fn reply_to(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.handle(Input::Received(&mut BytesMut::from(bytes)));
        let mut all = Vec::new();
        loop {
            while let Some((tag, outcome)) = self.queue.pop() {
                self.handle(Input::Done(tag, outcome));
            }
            let wire: Vec<u8> = self
                .connection
                .outbox()
                .chunks()
                .flat_map(<[u8]>::to_vec)
                .collect();
            if wire.is_empty() && self.queue.is_empty() {
                return all;
            }
            self.handle(Input::Sent(wire.len()));
            all.extend(wire);
        }
    }

    /// What the target holds is let go with the connection.
    fn end(mut self) {
        self.now = self.now.after_ms(1500);
        self.handle(Input::Timeout);
        self.hear();
        self.handle(Input::Disconnected);
        self.registry.hang_up(ConnectionId(1));
        assert!(self.connection.is_closed());
        assert!(self.registry.sessions().is_empty(), "a session was left");
        assert_eq!(self.registry.budget().used_bytes(), 0, "memory was left");
    }

    fn handle(&mut self, input: Input<'_>) {
        let mut ports = Ports {
            array: &mut self.array,
            registry: &mut self.registry,
        };
        self.connection.handle(self.now, input, &mut ports);
        while let Some(output) = self.connection.poll_output() {
            if let Output::Submit {
                tag,
                backend,
                request,
            } = output
            {
                backend.submit(request, self.queue.completion(tag));
            }
        }
        let used = self.registry.budget().used_bytes();
        assert!(used <= HELD_MAX_BYTES, "{used} bytes are held");
    }

    /// Takes everything the target says, and answers what it asks for. Says whether it said
    /// anything.
    fn hear(&mut self) -> bool {
        let mut wire = BytesMut::new();
        for chunk in self.connection.outbox().chunks() {
            wire.extend_from_slice(chunk);
        }
        if wire.is_empty() {
            return false;
        }
        self.handle(Input::Sent(wire.len()));
        loop {
            let frame = self.decoder.poll(&mut wire, |_| BytesMut::new());
            match frame.expect("the target frames its PDUs well") {
                Some(frame) => self.judge(&frame),
                None => return true,
            }
        }
    }

    /// Numbers only grow; each command gets one status (RFC 7143 §4.2.2).
    fn judge(&mut self, frame: &Frame) {
        let numbers: NopIn = frame.bhs.cast();
        let max = Serial(numbers.max_cmd_sn.get());
        let before = self.max_cmd_sn.replace(max);
        assert!(
            before.is_none_or(|before| !max.before(before)),
            "MaxCmdSN moved back"
        );
        let operation = frame.bhs.operation();
        let itt = numbers.itt.get();
        let has_status = match operation {
            opcode::DATA_IN => frame.bhs.flags & STATUS != 0,
            opcode::R2T => false,
            opcode::NOP_IN => itt != u32::MAX,
            _ => true,
        };
        if has_status {
            let stat_sn = Serial(numbers.stat_sn.get());
            let expected = self.next_stat_sn.replace(stat_sn.plus(1));
            assert!(
                expected.is_none_or(|expected| expected == stat_sn),
                "StatSN has a gap"
            );
            *self.statuses.entry(itt).or_default() += 1;
        }
        if operation == opcode::R2T {
            self.answer(&frame.bhs.cast());
        }
    }

    /// Sends what an R2T asks for, if the input has it.
    fn answer(&mut self, r2t: &R2t) {
        let offset = r2t.offset_bytes.get() as usize;
        let end = offset + r2t.desired_len_bytes.get() as usize;
        let Some(data) = self.parameters.get(&r2t.itt.get()) else {
            return;
        };
        let data = data
            .get(offset..end)
            .expect("no more than was announced")
            .to_vec();
        let mut header: DataOut = Bhs::from_wire(&[0; 48]).cast();
        header.opcode = opcode::DATA_OUT;
        header.flags = FINAL;
        header.data_len = Len24::new(data.len());
        header.itt = r2t.itt;
        header.ttt = r2t.ttt;
        header.offset_bytes = r2t.offset_bytes;
        self.send(&header, &data);
    }
}

impl Default for Stage {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").finish_non_exhaustive()
    }
}

/// A login request of the one connection.
#[must_use]
pub fn login_request(flags: u8, len: usize) -> login_pdu::Request {
    let mut request: login_pdu::Request = Bhs::from_wire(&[0; 48]).cast();
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

/// LUN 0 can be written, LUN 1 cannot, LUN 2 can be ejected; there is no LUN 3.
fn config() -> ArrayConfig {
    let host = |name: &str, initiator: &str, chap| HostConfig {
        name: name.to_owned(),
        initiators: vec![initiator.to_owned()],
        chap,
        networks: Vec::new(),
    };
    let secret = |secret: &[u8]| ChapSecret {
        name: "prover".to_owned(),
        secret: secret.to_vec(),
    };
    let secrets = ChapSecrets {
        inbound: secret(b"nobody can know it"),
        outbound: Some(secret(b"nor what we prove")),
    };
    let unit = |number: u8, medium| UnitConfig {
        id: UnitId(number.into()),
        name: format!("unit{number}"),
        backend: Rc::new(MemoryBackend::thin(BLOCKS)) as Rc<dyn Backend>,
        medium,
        reserved: Reserved::Live,
    };
    let map = |lun: u8, access| MapConfig {
        target: MapTarget::Host("one".to_owned()),
        lun: lun.into(),
        unit: UnitId(u128::from(lun) + 1),
        access,
    };
    ArrayConfig {
        hosts: vec![
            host("one", INITIATOR, None),
            host("prover", PROVER, Some(secrets)),
        ],
        maps: vec![
            map(0, Access::ReadWrite),
            map(1, Access::ReadOnly),
            map(2, Access::ReadWrite),
        ],
        units: vec![
            unit(1, Medium::Fixed),
            unit(2, Medium::Fixed),
            unit(3, Medium::Removable),
        ],
        ..ArrayConfig::default()
    }
}
