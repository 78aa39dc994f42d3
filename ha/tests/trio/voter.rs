//! The witness core alone, spoken to by hand: what a voter may and may not promise.

use ha::types::Reason;
use ha::wire::{self, Header, Heartbeat, Message, Refusal, Summary, Verdict};
use ha::witness::{Input, Output};
use ha::{
    Ballot, BootId, Config, DiskInstance, Epoch, GroupRecord, Incarnation, LinkId, Members, NodeId,
    Now, PeerAddr, Policy, Record, Time, Timing, Voter, VoterInstance, Witness, WitnessParams,
};

use crate::world::{A, B, GROUP, KEY, MS, W, choose_mutant};

const OWN: VoterInstance = VoterInstance(0x33);
const PROCESS: Incarnation = Incarnation(0x999);

fn instance(node: NodeId) -> VoterInstance {
    VoterInstance(0x11 * u128::from(node.0))
}

const fn process(node: NodeId) -> Incarnation {
    Incarnation(0x1000 + node.0 as u128)
}

fn ballot(counter: u64, node: NodeId) -> Ballot {
    Ballot {
        counter,
        node,
        instance: instance(node),
    }
}

fn config() -> Config {
    let voter = |node| Voter {
        node,
        instance: instance(node),
        weight: 1,
    };
    Config {
        group: GROUP,
        epoch: Epoch(4),
        primary: Some((A, process(A))),
        in_sync: Members::pair(A, B),
        voters: vec![voter(A), voter(B), voter(W)],
        policy: Policy::Witness,
        timing: Timing::default(),
        members: vec![(A, DiskInstance(1)), (B, DiskInstance(2))],
        resync_base_epoch: Vec::new(),
        config_generation: 0,
        reason: Reason::Readmit,
    }
}

struct Bench {
    witness: Witness,
    now: u64,
    seq: u64,
}

impl Bench {
    fn new(record: Record) -> Self {
        choose_mutant();
        let now = 10_000 * MS;
        let params = WitnessParams {
            me: W,
            instance: OWN,
            incarnation: PROCESS,
            boot: BootId(1),
            keys: vec![(GROUP, KEY)],
        };
        let at = Now {
            boot: Time(now),
            mono: Time(now),
        };
        Self {
            witness: Witness::new(params, vec![(GROUP, record)], at),
            now,
            seq: 0,
        }
    }

    /// A voter that has accepted the config at (5, A), long ago enough for the restart wait.
    fn voting() -> Self {
        let mut bench = Self::new(voting_record());
        bench.now += 2_000 * MS;
        bench
    }

    fn bytes(&mut self, from: NodeId, echo_ms_ago: u64, message: &Message) -> Vec<u8> {
        self.seq += 1;
        let header = Header {
            group: GROUP,
            source: from,
            destination: W,
            link: LinkId(0),
            incarnation: process(from),
            boot: BootId(u128::from(from.0)),
            destination_incarnation: PROCESS,
            seq: self.seq,
            stamp: Time(self.seq),
            echo: Time(self.now - echo_ms_ago * MS),
        };
        wire::encode(&KEY, &header, message)
    }

    fn deliver(&mut self, bytes: Vec<u8>) -> Vec<Message> {
        let now = Now {
            boot: Time(self.now),
            mono: Time(self.now),
        };
        self.witness.handle(
            now,
            Input::Datagram {
                from: PeerAddr(1),
                bytes,
            },
        );
        let mut answers = Vec::new();
        while let Some(output) = self.witness.poll_output() {
            match output {
                Output::Persist { group, id, .. } => {
                    assert!(
                        answers.is_empty(),
                        "an answer left before its record was durable"
                    );
                    self.witness.handle(now, Input::Persisted { group, id });
                }
                Output::Send { bytes, .. } => answers.push(wire::decode(&KEY, &bytes).unwrap().1),
                Output::Event(_) => {}
            }
        }
        answers
    }

    fn say(&mut self, from: NodeId, message: &Message) -> Message {
        let bytes = self.bytes(from, 1, message);
        let mut answers = self.deliver(bytes);
        assert_eq!(answers.len(), 1, "{message:?} has one answer");
        answers.remove(0)
    }

    fn beat(&mut self, from: NodeId, echo_ms_ago: u64) -> Verdict {
        let heartbeat = Heartbeat {
            instance: instance(from),
            record_seq: 1,
            blank: false,
            primary: true,
            attached: true,
            disk: None,
            seal: Epoch::ZERO,
            chosen: Some(Summary::of(ballot(5, A), &config())),
            lease_ms: 700,
            software: 1,
            config_generation: 0,
            config_hash: 0,
            seen: Vec::new(),
        };
        let bytes = self.bytes(from, echo_ms_ago, &Message::Heartbeat(heartbeat));
        let answer = self.deliver(bytes).remove(0);
        let Message::Ack(ack) = answer else {
            panic!("{answer:?}")
        };
        ack.verdict
    }

    fn prepare(&mut self, ballot: Ballot) -> Message {
        self.say(ballot.node, &Message::Prepare(ballot))
    }

    fn accept(&mut self, ballot: Ballot, admits: Option<VoterInstance>) -> Message {
        let config = Box::new(config());
        self.say(
            ballot.node,
            &Message::Accept {
                ballot,
                config,
                next: None,
                admits,
            },
        )
    }
}

fn voting_record() -> Record {
    let group = GroupRecord {
        group: GROUP,
        promised: ballot(6, A),
        accepted: (ballot(5, A), config()),
        counter: 5,
        largest_lease_ms: 700,
        seal: Epoch::ZERO,
    };
    Record {
        instance: OWN,
        record_seq: 9,
        group: Some(group),
        seen: Vec::new(),
        copy: None,
    }
}

fn is_held(message: &Message) -> bool {
    matches!(
        message,
        Message::Nack {
            why: Refusal::Held(_),
            ..
        }
    )
}

#[test]
fn r5_a_voter_that_promised_a_lease_promises_nobody_else() {
    let mut bench = Bench::voting();
    assert_eq!(bench.beat(A, 1), Verdict::Granted { lease_ms: 700 });
    assert!(is_held(&bench.prepare(ballot(9, B))));
    bench.now += 700 * MS;
    assert!(
        is_held(&bench.prepare(ballot(9, B))),
        "L is not yet L x (1 + eps)"
    );
    bench.now += MS;
    assert!(matches!(
        bench.prepare(ballot(9, B)),
        Message::Promise { .. }
    ));
}

#[test]
fn r5_a_voter_that_promised_a_lease_accepts_from_nobody_else() {
    let mut bench = Bench::voting();
    assert_eq!(bench.beat(A, 1), Verdict::Granted { lease_ms: 700 });
    assert!(is_held(&bench.accept(ballot(9, B), None)));
    assert!(matches!(
        bench.accept(ballot(9, A), None),
        Message::Accepted { .. }
    ));
}

#[test]
fn h3b_a_voter_that_promised_another_acknowledges_nobody_else() {
    let mut bench = Bench::voting();
    assert!(matches!(
        bench.prepare(ballot(9, B)),
        Message::Promise { .. }
    ));
    assert_eq!(
        bench.beat(A, 1),
        Verdict::Foreign {
            promised: ballot(9, B)
        }
    );
    // Its own higher ballot brings the holder back.
    assert!(matches!(
        bench.prepare(ballot(10, A)),
        Message::Promise { .. }
    ));
    assert_eq!(bench.beat(A, 1), Verdict::Granted { lease_ms: 700 });
}

#[test]
fn r5_only_the_very_process_that_is_primary_is_acknowledged() {
    let mut bench = Bench::voting();
    assert_eq!(bench.beat(B, 1), Verdict::Refused);
}

#[test]
fn h16_a_restarted_voter_waits_for_foreign_ballots_only() {
    let mut bench = Bench::new(voting_record());
    assert!(is_held(&bench.prepare(ballot(9, B))));
    assert!(matches!(
        bench.prepare(ballot(8, A)),
        Message::Promise { .. }
    ));
    bench.now += 701 * MS;
    assert!(matches!(
        bench.prepare(ballot(9, B)),
        Message::Promise { .. }
    ));
}

#[test]
fn h19_a_voter_that_is_not_heard_promises_nothing() {
    let mut bench = Bench::voting();
    assert_eq!(bench.beat(A, 700), Verdict::Heard);
    let message = Message::Prepare(ballot(9, A));
    let bytes = bench.bytes(A, 700, &message);
    assert_eq!(bench.deliver(bytes), []);
}

#[test]
fn h14_a_blank_voter_is_made_only_by_the_accept_that_admits_it() {
    let mut bench = Bench::new(ha::blank(OWN));
    let none = |message: &Message| {
        matches!(
            message,
            Message::Nack {
                why: Refusal::NoVote,
                ..
            }
        )
    };
    assert!(none(&bench.prepare(ballot(9, A))));
    assert!(
        none(&bench.accept(ballot(9, A), None)),
        "an ordinary Accept does not admit"
    );
    assert!(none(&bench.accept(ballot(9, A), Some(VoterInstance(0x44)))));
    assert!(matches!(
        bench.accept(ballot(9, A), Some(OWN)),
        Message::Accepted { .. }
    ));
    assert!(matches!(
        bench.prepare(ballot(10, A)),
        Message::Promise { .. }
    ));
}

#[test]
fn h15_a_removed_voter_has_no_vote() {
    let mut bench = Bench::voting();
    let mut without = config();
    without.voters.retain(|voter| voter.node != W);
    let learn = Message::Learn {
        ballot: ballot(7, A),
        config: Box::new(without),
    };
    let bytes = bench.bytes(A, 1, &learn);
    assert_eq!(bench.deliver(bytes), []);
    let answer = bench.prepare(ballot(9, B));
    assert!(
        matches!(
            answer,
            Message::Nack {
                why: Refusal::NoVote,
                ..
            }
        ),
        "{answer:?}"
    );
}

#[test]
fn a_recording_is_not_answered() {
    let mut bench = Bench::voting();
    let bytes = bench.bytes(A, 1, &Message::Prepare(ballot(9, A)));
    assert_eq!(bench.deliver(bytes.clone()).len(), 1);
    assert_eq!(bench.deliver(bytes), []);
}

#[test]
fn a_ballot_of_somebody_else_is_not_answered() {
    let mut bench = Bench::voting();
    let bytes = bench.bytes(B, 1, &Message::Prepare(ballot(9, A)));
    assert_eq!(bench.deliver(bytes), []);
}

#[test]
fn r7_the_promise_ends_when_the_holder_itself_gives_the_primacy_away() {
    let mut bench = Bench::voting();
    assert_eq!(bench.beat(A, 1), Verdict::Granted { lease_ms: 700 });
    let mut next = config();
    next.epoch = Epoch(5);
    next.primary = Some((B, process(B)));
    let accept = Message::Accept {
        ballot: ballot(6, A),
        config: Box::new(next),
        next: None,
        admits: None,
    };
    assert!(matches!(bench.say(A, &accept), Message::Accepted { .. }));
    assert!(matches!(
        bench.prepare(ballot(9, B)),
        Message::Promise { .. }
    ));
}
