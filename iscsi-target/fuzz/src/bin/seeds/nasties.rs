//! What no initiator should send after its login.

use iscsi_target::pdu::{BHS_LEN_BYTES, FINAL, IMMEDIATE, opcode};
use iscsi_target_fuzz::FIRST;

use super::Seeds;

/// Each comes in one piece, without digests.
pub(crate) fn seeds() -> Seeds {
    let all = [headers(), data(), numbers(), texts(), others()].concat();
    let seed = |(name, stream): (&str, Vec<u8>)| (name.to_owned(), [vec![6], stream].concat());
    all.into_iter().map(seed).collect()
}

type Nasties = Vec<(&'static str, Vec<u8>)>;

/// A header with these fields, and what follows it.
fn pdu(operation: u8, flags: u8, fields: &[(usize, u32)], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; BHS_LEN_BYTES];
    bytes[0] = operation;
    bytes[1] = flags;
    let len = u32::try_from(data.len()).expect("short");
    bytes[4..8].copy_from_slice(&len.to_be_bytes());
    for (at, value) in fields {
        bytes[*at..*at + 4].copy_from_slice(&value.to_be_bytes());
    }
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Where fields of a request are (RFC 7143 §11.2).
const ITT: usize = 16;
const TTT: usize = 20;
const CMD_SN: usize = 24;
const OFFSET: usize = 40;

/// "None" as a tag.
const NONE: u32 = u32::MAX;
const WRITE: u8 = 0x20;

/// WRITE (10) of four blocks.
fn write(flags: u8, itt: u32, cmd_sn: u32) -> Vec<u8> {
    let fields = [(ITT, itt), (TTT, 2048), (CMD_SN, cmd_sn)];
    let mut bytes = pdu(opcode::COMMAND, flags, &fields, &[]);
    bytes[32] = 0x2a;
    bytes[40] = 4;
    bytes
}

/// Data for the command with tag 1.
fn data_out(flags: u8, ttt: u32, offset: u32, data: &[u8]) -> Vec<u8> {
    let fields = [(ITT, 1), (TTT, ttt), (OFFSET, offset)];
    pdu(opcode::DATA_OUT, flags, &fields, data)
}

/// A request out of turn with tag 1.
fn immediate(operation: u8, flags: u8, ttt: u32, data: &[u8]) -> Vec<u8> {
    pdu(operation | IMMEDIATE, flags, &[(ITT, 1), (TTT, ttt)], data)
}

fn headers() -> Nasties {
    let nop = |len| pdu(opcode::NOP_OUT, FINAL, &[(4, len)], &[]);
    vec![
        ("zeros", vec![0; 96]),
        ("ones", vec![0xff; 96]),
        ("long-header", [nop(0xff00_0000), vec![0; 1020]].concat()),
        ("long-data", nop(0x00ff_ffff)),
        (
            "target-opcode",
            pdu(opcode::NOP_IN, FINAL, &[(ITT, 1)], &[]),
        ),
    ]
}

fn data() -> Nasties {
    let asked = write(FINAL | WRITE, 1, FIRST);
    let after = |data: Vec<u8>| [asked.clone(), data].concat();
    let block = [1; 512];
    vec![
        ("empty-data-out", after(data_out(0, 0, 0, &[]).repeat(2))),
        ("wrong-offset", after(data_out(FINAL, 0, 512, &block))),
        ("wrong-tag", after(data_out(FINAL, 77, 0, &block))),
        (
            "unsolicited",
            [write(WRITE, 1, FIRST), data_out(FINAL, NONE, 0, &block)].concat(),
        ),
        ("stray-data", data_out(FINAL, NONE, 0, &block)),
    ]
}

fn numbers() -> Nasties {
    let early = (1..100).flat_map(|n| write(FINAL | WRITE, n, FIRST + n));
    let flood = (0..150).flat_map(|n| {
        let fields = [(ITT, n), (CMD_SN, FIRST)];
        pdu(opcode::COMMAND | IMMEDIATE, FINAL, &fields, &[])
    });
    let twice = [
        write(FINAL | WRITE, 1, FIRST),
        write(FINAL | WRITE, 1, FIRST + 1),
    ];
    vec![
        ("early", early.collect()),
        ("far-number", write(FINAL | WRITE, 1, FIRST + (1 << 31))),
        ("immediate-flood", flood.collect()),
        ("both-ways", write(FINAL | WRITE | 0x40, 1, FIRST)),
        ("same-tag", twice.concat()),
    ]
}

fn texts() -> Nasties {
    let text = |flags, ttt, text| immediate(opcode::TEXT_REQUEST, flags, ttt, text);
    let keys = b"MaxRecvDataSegmentLength=1\0X-a=b\0=\0SendTargets\0";
    vec![
        ("text-endless", text(0x40, NONE, b"A=1\0").repeat(40)),
        ("text-tag", text(FINAL, 5, b"SendTargets=All\0")),
        ("text-keys", text(FINAL, NONE, keys)),
    ]
}

fn others() -> Nasties {
    let nop = [(ITT, NONE), (TTT, NONE)];
    let name = b"InitiatorName=iqn.x\0";
    vec![
        (
            "nop-none",
            pdu(opcode::NOP_OUT | IMMEDIATE, FINAL, &nop, &[]),
        ),
        ("snack", pdu(opcode::SNACK, FINAL, &[(ITT, 1)], &[])),
        (
            "login-again",
            immediate(opcode::LOGIN_REQUEST, 0x87, 0, name),
        ),
        (
            "reassign",
            immediate(opcode::TASK_REQUEST, FINAL | 8, 0, &[]),
        ),
        (
            "logout-recovery",
            immediate(opcode::LOGOUT_REQUEST, FINAL | 2, 0, &[]),
        ),
    ]
}
