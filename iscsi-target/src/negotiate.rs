//! The key table: what may be negotiated, how, and what comes out (RFC 7143 §6.2, §13).

use crate::pdu::frame::Digest;

/// Longest data segment we accept, in bytes; declared to every initiator.
pub const RECEIVE_MAX_BYTES: usize = 256 * 1024;

/// What a session runs with. The defaults are those of RFC 7143 §13: they hold for every key that
/// nobody mentions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Digest of headers.
    pub header_digest: Digest,
    /// Digest of data.
    pub data_digest: Digest,
    /// Whether unsolicited Data-Out PDUs are forbidden.
    pub initial_r2t: bool,
    /// Whether commands may carry data.
    pub immediate_data: bool,
    /// Longest data segment the initiator accepts, in bytes.
    pub send_max_bytes: usize,
    /// Longest solicited sequence, in bytes.
    pub burst_max_bytes: usize,
    /// Most unsolicited data of one command, in bytes.
    pub first_burst_bytes: usize,
    /// Seconds before a reconnection.
    pub time_to_wait_s: u16,
    /// Seconds during which tasks survive a lost connection.
    pub time_to_retain_s: u16,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            header_digest: Digest::None,
            data_digest: Digest::None,
            initial_r2t: true,
            immediate_data: true,
            send_max_bytes: 8192,
            burst_max_bytes: 262_144,
            first_burst_bytes: 65_536,
            time_to_wait_s: 2,
            time_to_retain_s: 20,
        }
    }
}

/// The answer to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Send this value back.
    Reply(String),
    /// Send back that the key is not known.
    NotUnderstood,
    /// The key was a declaration; nothing to send.
    Silence,
    /// The value breaks the protocol.
    Invalid,
}

/// How the two sides' values become one (RFC 7143 §6.2).
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// The first value of the initiator's list that we know.
    First(&'static [&'static str]),
    /// Logical OR with our value.
    Or(bool),
    /// Logical AND with our value.
    And(bool),
    /// The smaller of the two numbers.
    Min { ours: u32, low: u32, high: u32 },
    /// The larger of the two numbers.
    Max { ours: u32, low: u32, high: u32 },
    /// The initiator says, we take note.
    Declared { low: u32, high: u32 },
    /// Obsolete; always this answer (RFC 7143 §13.25).
    Obsolete(&'static str),
}

/// Where an outcome is kept.
type Store = fn(&mut Parameters, Outcome);

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Index(usize),
    Bool(bool),
    Number(u32),
}

struct Key {
    name: &'static str,
    rule: Rule,
    store: Store,
}

const fn key(name: &'static str, rule: Rule, store: Store) -> Key {
    Key { name, rule, store }
}

const LENGTH: (u32, u32) = (512, 0x00ff_ffff);

/// Every key of the operational stage.
static KEYS: [Key; 18] = [
    key("HeaderDigest", Rule::First(&["None", "CRC32C"]), |p, o| {
        p.header_digest = digest(o)
    }),
    key("DataDigest", Rule::First(&["None", "CRC32C"]), |p, o| {
        p.data_digest = digest(o)
    }),
    key(
        "MaxConnections",
        Rule::Min {
            ours: 1,
            low: 1,
            high: 65_535,
        },
        |_, _| (),
    ),
    key("InitialR2T", Rule::Or(false), |p, o| {
        p.initial_r2t = flag(o)
    }),
    key("ImmediateData", Rule::And(true), |p, o| {
        p.immediate_data = flag(o)
    }),
    key(
        "MaxRecvDataSegmentLength",
        Rule::Declared {
            low: LENGTH.0,
            high: LENGTH.1,
        },
        |p, o| {
            p.send_max_bytes = length(o);
        },
    ),
    key(
        "MaxBurstLength",
        Rule::Min {
            ours: BURST,
            low: LENGTH.0,
            high: LENGTH.1,
        },
        |p, o| {
            p.burst_max_bytes = length(o);
        },
    ),
    key(
        "FirstBurstLength",
        Rule::Min {
            ours: FIRST,
            low: LENGTH.0,
            high: LENGTH.1,
        },
        |p, o| {
            p.first_burst_bytes = length(o);
        },
    ),
    key(
        "DefaultTime2Wait",
        Rule::Max {
            ours: 0,
            low: 0,
            high: 3600,
        },
        |p, o| {
            p.time_to_wait_s = seconds(o);
        },
    ),
    key(
        "DefaultTime2Retain",
        Rule::Min {
            ours: 0,
            low: 0,
            high: 3600,
        },
        |p, o| {
            p.time_to_retain_s = seconds(o);
        },
    ),
    key(
        "MaxOutstandingR2T",
        Rule::Min {
            ours: 1,
            low: 1,
            high: 65_535,
        },
        |_, _| (),
    ),
    key("DataPDUInOrder", Rule::Or(true), |_, _| ()),
    key("DataSequenceInOrder", Rule::Or(true), |_, _| ()),
    key(
        "ErrorRecoveryLevel",
        Rule::Min {
            ours: 0,
            low: 0,
            high: 2,
        },
        |_, _| (),
    ),
    key("TaskReporting", Rule::First(&["RFC3720"]), |_, _| ()),
    key(
        "iSCSIProtocolLevel",
        Rule::Min {
            ours: 1,
            low: 0,
            high: 31,
        },
        |_, _| (),
    ),
    key("IFMarker", Rule::Obsolete("No"), |_, _| ()),
    key("OFMarker", Rule::Obsolete("No"), |_, _| ()),
];

/// Longest solicited sequence we agree to.
const BURST: u32 = 16 * 1024 * 1024 - 1024;
/// Most unsolicited data of a command we agree to.
const FIRST: u32 = 256 * 1024;

impl Parameters {
    /// Settles one key that the initiator sent.
    pub fn negotiate(&mut self, name: &str, offer: &str) -> Answer {
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            return match name {
                // RFC 7143 §13.25
                "IFMarkInt" | "OFMarkInt" => Answer::Reply("Reject".to_owned()),
                _ => Answer::NotUnderstood,
            };
        };
        match key.rule.settle(offer) {
            Settled::Both(outcome, reply) => {
                (key.store)(self, outcome);
                Answer::Reply(reply)
            }
            Settled::Noted(outcome) => {
                (key.store)(self, outcome);
                Answer::Silence
            }
            Settled::Refused => Answer::Reply("Reject".to_owned()),
            Settled::Invalid => Answer::Invalid,
        }
    }

    /// Settles what depends on two keys; called once, when the negotiation is over.
    pub fn finish(&mut self) {
        // RFC 7143 §13.14: FirstBurstLength must not exceed MaxBurstLength.
        self.first_burst_bytes = self.first_burst_bytes.min(self.burst_max_bytes);
    }
}

enum Settled {
    Both(Outcome, String),
    Noted(Outcome),
    Refused,
    Invalid,
}

impl Rule {
    fn settle(self, offer: &str) -> Settled {
        match self {
            Self::First(known) => {
                let found = offer
                    .split(',')
                    .find_map(|value| known.iter().position(|name| *name == value.trim()));
                found.map_or(Settled::Refused, |index| {
                    Settled::Both(Outcome::Index(index), known[index].to_owned())
                })
            }
            Self::Or(ours) => settle_bool(offer, |theirs| theirs || ours),
            Self::And(ours) => settle_bool(offer, |theirs| theirs && ours),
            Self::Min { ours, low, high } => settle_number(offer, low, high, |n| n.min(ours)),
            Self::Max { ours, low, high } => settle_number(offer, low, high, |n| n.max(ours)),
            Self::Declared { low, high } => match parse_number(offer) {
                Some(number) if (low..=high).contains(&number) => {
                    Settled::Noted(Outcome::Number(number))
                }
                Some(_) | None => Settled::Invalid,
            },
            Self::Obsolete(answer) => Settled::Both(Outcome::Index(0), answer.to_owned()),
        }
    }
}

fn settle_bool(offer: &str, join: impl Fn(bool) -> bool) -> Settled {
    let theirs = match offer {
        "Yes" => true,
        "No" => false,
        _ => return Settled::Refused,
    };
    let outcome = join(theirs);
    Settled::Both(
        Outcome::Bool(outcome),
        if outcome { "Yes" } else { "No" }.to_owned(),
    )
}

fn settle_number(offer: &str, low: u32, high: u32, join: impl Fn(u32) -> u32) -> Settled {
    match parse_number(offer) {
        Some(theirs) if (low..=high).contains(&theirs) => {
            let outcome = join(theirs);
            Settled::Both(Outcome::Number(outcome), outcome.to_string())
        }
        Some(_) | None => Settled::Refused,
    }
}

/// A number in decimal or `0x` form (RFC 7143 §6.1).
fn parse_number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn digest(outcome: Outcome) -> Digest {
    if matches!(outcome, Outcome::Index(1)) {
        Digest::Crc32c
    } else {
        Digest::None
    }
}

fn flag(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Bool(true))
}

fn number(outcome: Outcome) -> u32 {
    let Outcome::Number(number) = outcome else {
        unreachable!("only rules about numbers store one")
    };
    number
}

fn length(outcome: Outcome) -> usize {
    usize::try_from(number(outcome)).expect("lengths have 24 bits")
}

fn seconds(outcome: Outcome) -> u16 {
    u16::try_from(number(outcome)).expect("times are at most an hour")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reply(text: &str) -> Answer {
        Answer::Reply(text.to_owned())
    }

    #[test]
    fn every_key_has_its_outcome() {
        let table = [
            ("HeaderDigest", "None,CRC32C", reply("None")),
            ("HeaderDigest", "CRC32C,None", reply("CRC32C")),
            ("HeaderDigest", "CRC64,CRC32C", reply("CRC32C")),
            ("DataDigest", "CRC32C", reply("CRC32C")),
            ("DataDigest", "MD5", reply("Reject")),
            ("MaxConnections", "8", reply("1")),
            ("MaxConnections", "0", reply("Reject")),
            ("InitialR2T", "No", reply("No")),
            ("InitialR2T", "Yes", reply("Yes")),
            ("InitialR2T", "maybe", reply("Reject")),
            ("ImmediateData", "Yes", reply("Yes")),
            ("ImmediateData", "No", reply("No")),
            ("MaxRecvDataSegmentLength", "65536", Answer::Silence),
            ("MaxRecvDataSegmentLength", "0x1000", Answer::Silence),
            ("MaxRecvDataSegmentLength", "511", Answer::Invalid),
            ("MaxRecvDataSegmentLength", "16777216", Answer::Invalid),
            ("MaxRecvDataSegmentLength", "-1", Answer::Invalid),
            ("MaxBurstLength", "262144", reply("262144")),
            ("MaxBurstLength", "16777215", reply("16776192")),
            ("FirstBurstLength", "65536", reply("65536")),
            ("FirstBurstLength", "1048576", reply("262144")),
            ("DefaultTime2Wait", "2", reply("2")),
            ("DefaultTime2Wait", "0", reply("0")),
            ("DefaultTime2Retain", "20", reply("0")),
            ("MaxOutstandingR2T", "16", reply("1")),
            ("DataPDUInOrder", "No", reply("Yes")),
            ("DataSequenceInOrder", "Yes", reply("Yes")),
            ("ErrorRecoveryLevel", "2", reply("0")),
            ("ErrorRecoveryLevel", "3", reply("Reject")),
            ("TaskReporting", "ResponseFence,RFC3720", reply("RFC3720")),
            ("TaskReporting", "FastAbort", reply("Reject")),
            ("iSCSIProtocolLevel", "2", reply("1")),
            ("IFMarker", "No", reply("No")),
            ("OFMarker", "Yes", reply("No")),
            ("IFMarkInt", "2048", reply("Reject")),
            ("X-com.example.key", "1", Answer::NotUnderstood),
            ("headerdigest", "None", Answer::NotUnderstood),
        ];
        for (name, offer, answer) in table {
            let mut parameters = Parameters::default();
            assert_eq!(parameters.negotiate(name, offer), answer, "{name}={offer}");
        }
    }

    #[test]
    fn outcomes_are_stored() {
        let mut parameters = Parameters::default();
        for (name, offer) in [
            ("HeaderDigest", "CRC32C"),
            ("DataDigest", "CRC32C,None"),
            ("InitialR2T", "No"),
            ("ImmediateData", "No"),
            ("MaxRecvDataSegmentLength", "262144"),
            ("MaxBurstLength", "16384"),
            ("FirstBurstLength", "32768"),
            ("DefaultTime2Wait", "3"),
            ("DefaultTime2Retain", "9"),
        ] {
            let _ = parameters.negotiate(name, offer);
        }
        parameters.finish();
        let expected = Parameters {
            header_digest: Digest::Crc32c,
            data_digest: Digest::Crc32c,
            initial_r2t: false,
            immediate_data: false,
            send_max_bytes: 262_144,
            burst_max_bytes: 16_384,
            first_burst_bytes: 16_384,
            time_to_wait_s: 3,
            time_to_retain_s: 0,
        };
        assert_eq!(parameters, expected);
    }

    #[test]
    fn a_refused_offer_leaves_the_default() {
        let mut parameters = Parameters::default();
        let _ = parameters.negotiate("MaxBurstLength", "1");
        let _ = parameters.negotiate("InitialR2T", "");
        assert_eq!(parameters, Parameters::default());
    }

    proptest! {
        #[test]
        fn no_offer_panics(index in 0usize..18, offer in ".{0,20}") {
            let mut parameters = Parameters::default();
            let _ = parameters.negotiate(KEYS[index].name, &offer);
            parameters.finish();
            prop_assert!(parameters.first_burst_bytes <= parameters.burst_max_bytes);
            prop_assert!((512..1 << 24).contains(&parameters.send_max_bytes));
        }
    }
}
