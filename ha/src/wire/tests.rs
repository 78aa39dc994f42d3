//! The bytes of each kind of datagram, written down: two versions of the program that agree on
//! [`VERSION`] understand each other.

use super::*;
use crate::types::{Members, Policy, Reason, Timing, Voter};

/// Everything before the body of a `Hello`.
const HEADER: &str = "\
    5457484101000101a000000000000000000000000000000001020300b00000000000000000000000\
    00000000c0000000000000000000000000000000d0000000000000000000000000000000e0000000\
    00000000e100000000000000e200000000000000";
/// HMAC-SHA256 of that header under a key of sevens.
const TAG: &str = "70ff8ae969a5ad00d460c1c6702b2c30232c717d0ddf3192b407369ccf66b1e4";
/// [`ballot`].
const BALLOT: &str = "08070605040302010121000000000000000000000000000000";
/// [`other`].
const OTHER: &str = "09000000000000000222000000000000000000000000000000";
/// [`mark_of_one`].
const MARK: &str = "2100000000000000000000000000000007000000000000000800000000000000";
/// [`summary_of_other`].
const SUMMARY: &str = "\
    09000000000000000222000000000000000000000000000000040000000000000001021200000000\
    0000000000000000000000";
/// The body of [`beat`].
const HEARTBEAT: &str = "\
    21000000000000000000000000000000070000000000000000010101310000000000000000000000\
    00000000010900000000000000022200000000000000000000000000000004000000000000000102\
    12000000000000000000000000000000bc020000134a0f000600000000000000dcfe000000000000\
    030000000000000001230000000000000000000000000000000c00000000000000";
/// [`config`].
const CONFIG: &str = "\
    01000000000000000000000000000000020000000000000001011100000000000000000000000000\
    00000201020201210000000000000000000000000000000103230000000000000000000000000000\
    00010000c800000005000000bc020000e803000014000000f4010000010131000000000000000000\
    00000000000001020500000000000000060000000000000001";

const fn ballot() -> Ballot {
    Ballot {
        counter: 0x0102_0304_0506_0708,
        node: NodeId(1),
        instance: VoterInstance(0x21),
    }
}

const fn other() -> Ballot {
    Ballot {
        counter: 9,
        node: NodeId(2),
        instance: VoterInstance(0x22),
    }
}

const fn mark_of_one() -> VoterMark {
    VoterMark {
        instance: VoterInstance(0x21),
        record_seq: 7,
        stamp: Time(8),
    }
}

const fn summary_of_other() -> Summary {
    Summary {
        ballot: other(),
        epoch: Epoch(4),
        primary: Some((NodeId(2), Incarnation(0x12))),
    }
}

fn beat() -> Heartbeat {
    Heartbeat {
        instance: VoterInstance(0x21),
        record_seq: 7,
        blank: false,
        primary: true,
        chosen: Some(summary_of_other()),
        lease_ms: 700,
        software: 1_002_003,
        config_generation: 6,
        config_hash: 0xfedc,
        attached: true,
        disk: Some(DiskInstance(0x31)),
        seal: Epoch(3),
        seen: vec![(VoterInstance(0x23), 12)],
    }
}

/// Every field has a value of its own; also used for the record.
pub(crate) fn config() -> Config {
    let voter = |node, instance| Voter {
        node: NodeId(node),
        instance: VoterInstance(instance),
        weight: 1,
    };
    Config {
        group: GroupId(1),
        epoch: Epoch(2),
        primary: Some((NodeId(1), Incarnation(0x11))),
        in_sync: Members::pair(NodeId(1), NodeId(2)),
        voters: vec![voter(1, 0x21), voter(3, 0x23)],
        policy: Policy::Witness,
        timing: Timing {
            heartbeat_interval_ms: 200,
            failover_heartbeats: 5,
            lease_ms: 700,
            eps_ppm: 1000,
            margin_ms: 20,
            peer_loss_ms: 500,
        },
        members: vec![(NodeId(1), DiskInstance(0x31))],
        resync_base_epoch: vec![(NodeId(2), Epoch(5))],
        config_generation: 6,
        reason: Reason::Degrade,
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn header() -> Header {
    Header {
        group: GroupId(0xa0),
        source: NodeId(1),
        destination: NodeId(2),
        link: LinkId(3),
        incarnation: Incarnation(0xb0),
        boot: BootId(0xc0),
        destination_incarnation: Incarnation(0xd0),
        seq: 0xe0,
        stamp: Time(0xe1),
        echo: Time(0xe2),
    }
}

const fn ack(accepted: Option<Summary>, verdict: Verdict) -> Message {
    Message::Ack(Ack {
        mark: mark_of_one(),
        accepted,
        verdict,
    })
}

/// Each kind, with each form that its body can have: code, message, body.
fn kinds() -> Vec<(u8, Message, String)> {
    let (ballot, mark, config) = (ballot(), mark_of_one(), Box::new(config()));
    let granted = Verdict::Granted { lease_ms: 700 };
    let foreign = Verdict::Foreign { promised: other() };
    let nack = |why| Message::Nack { ballot, why };
    let promise = Message::Promise {
        ballot,
        mark,
        accepted: (other(), config.clone()),
    };
    let accept = Message::Accept {
        ballot,
        config: config.clone(),
        next: Some(other()),
        admits: Some(VoterInstance(0x23)),
    };
    let admitted = "23000000000000000000000000000000";
    vec![
        (1, Message::Hello, String::new()),
        (2, Message::Heartbeat(beat()), HEARTBEAT.to_owned()),
        (
            3,
            ack(Some(summary_of_other()), granted),
            format!("{MARK}01{SUMMARY}00bc020000"),
        ),
        (3, ack(None, Verdict::Heard), format!("{MARK}0001")),
        (3, ack(None, foreign), format!("{MARK}0002{OTHER}")),
        (3, ack(None, Verdict::Behind), format!("{MARK}0003")),
        (3, ack(None, Verdict::Refused), format!("{MARK}0004")),
        (3, ack(None, Verdict::NoVote), format!("{MARK}0005")),
        (4, Message::Prepare(ballot), BALLOT.to_owned()),
        (5, promise, format!("{BALLOT}{MARK}{OTHER}{CONFIG}")),
        (6, accept, format!("{BALLOT}01{OTHER}01{admitted}{CONFIG}")),
        (
            7,
            Message::Accepted { ballot, mark },
            format!("{BALLOT}{MARK}"),
        ),
        (
            8,
            nack(Refusal::Promised(other())),
            format!("{BALLOT}00{OTHER}"),
        ),
        (8, nack(Refusal::Held(9)), format!("{BALLOT}0109000000")),
        (8, nack(Refusal::NoVote), format!("{BALLOT}02")),
        (
            9,
            Message::Learn { ballot, config },
            format!("{BALLOT}{CONFIG}"),
        ),
    ]
}

#[test]
fn each_kind_of_datagram_keeps_its_bytes() {
    let key = [7; 32];
    let hello = hex(&encode(&key, &header(), &Message::Hello));
    assert_eq!(hello, format!("{HEADER}{TAG}"));
    for (code, message, body) in kinds() {
        let bytes = encode(&key, &header(), &message);
        let (head, rest) = bytes.split_at(HEADER_LEN);
        assert_eq!(head[7], code, "{message:?}");
        assert_eq!(hex(&rest[..rest.len() - TAG_LEN]), body, "{message:?}");
        assert_eq!(decode(&key, &bytes), Ok((header(), message)));
    }
}
