//! The register alone: lost, repeated and reordered messages, and votes that do not count.

use std::collections::BTreeMap;

use ha::record::GroupRecord;
use ha::register::{self, Commit, Reading};
use ha::types::Reason;
use ha::{
    Ballot, Config, Epoch, Incarnation, Members, NodeId, Policy, Timing, Voter, VoterInstance,
};
use proptest::prelude::*;

use crate::world::{A, B, GROUP, W, choose_mutant};

fn instance(node: NodeId) -> VoterInstance {
    VoterInstance(u128::from(node.0))
}

fn config(epoch: u64, proposer: NodeId) -> Config {
    let voter = |node| Voter {
        node,
        instance: instance(node),
        weight: 1,
    };
    Config {
        group: GROUP,
        epoch: Epoch(epoch),
        primary: Some((proposer, Incarnation(1))),
        in_sync: Members::one(proposer),
        voters: vec![voter(A), voter(B), voter(W)],
        policy: Policy::Witness,
        timing: Timing::default(),
        members: Vec::new(),
        resync_base_epoch: Vec::new(),
        config_generation: 0,
        reason: Reason::Promote,
    }
}

fn ballot(counter: u64, node: NodeId) -> Ballot {
    Ballot {
        counter,
        node,
        instance: instance(node),
    }
}

fn record() -> GroupRecord {
    GroupRecord {
        group: GROUP,
        promised: ballot(1, A),
        accepted: (ballot(1, A), config(1, A)),
        counter: 1,
        largest_lease_ms: 700,
        seal: Epoch::ZERO,
    }
}

#[derive(Clone, Debug)]
enum Letter {
    Prepare(Ballot),
    Promise(Ballot, NodeId, (Ballot, Config)),
    Accept(Ballot, Config, Option<Ballot>),
    Accepted(Ballot, NodeId),
}

/// Three acceptors, two proposers that go on for ever, and a bag of letters.
struct Post {
    acceptors: BTreeMap<NodeId, GroupRecord>,
    readings: BTreeMap<NodeId, Reading>,
    commits: BTreeMap<NodeId, Commit>,
    letters: Vec<(NodeId, Letter)>,
    counter: u64,
    chosen: BTreeMap<Epoch, Config>,
}

impl Post {
    fn new() -> Self {
        let acceptors = [A, B, W].into_iter().map(|node| (node, record())).collect();
        Self {
            acceptors,
            readings: BTreeMap::new(),
            commits: BTreeMap::new(),
            letters: Vec::new(),
            counter: 1,
            chosen: BTreeMap::new(),
        }
    }

    fn all(&mut self, letter: &Letter) {
        self.letters
            .extend([A, B, W].map(|node| (node, letter.clone())));
    }

    fn propose(&mut self, proposer: NodeId) {
        self.counter += 1;
        let ballot = ballot(self.counter, proposer);
        self.readings.insert(proposer, Reading::new(ballot));
        self.all(&Letter::Prepare(ballot));
    }

    fn commit(&mut self, ballot: Ballot, base: &Config) {
        let value = config(base.epoch.0 + 1, ballot.node);
        self.counter += 1;
        let next = Some(Ballot {
            counter: self.counter,
            ..ballot
        });
        let commit = Commit::new(ballot, next, base.clone(), value.clone());
        self.commits.insert(ballot.node, commit);
        self.all(&Letter::Accept(ballot, value, next));
    }

    fn deliver(&mut self, to: NodeId, letter: Letter) {
        let record = self.acceptors.get_mut(&to).unwrap();
        match letter {
            Letter::Prepare(ballot) => {
                if register::promise(record, ballot).is_ok() {
                    let promise = Letter::Promise(ballot, to, record.accepted.clone());
                    self.letters.push((ballot.node, promise));
                }
            }
            Letter::Accept(ballot, config, next) => {
                if register::accept(record, ballot, &config, next).is_ok() {
                    self.letters
                        .push((ballot.node, Letter::Accepted(ballot, to)));
                }
            }
            Letter::Promise(ballot, from, accepted) => {
                let current = self.readings.get(&to).is_some_and(|it| it.ballot == ballot);
                let reading = self.readings.get_mut(&to).filter(|_| current);
                let Some(reading) = reading else { return };
                reading.promised(from, instance(from), accepted);
                if let Some((_, read)) = reading.read() {
                    self.readings.remove(&to);
                    self.commit(ballot, &read);
                }
            }
            Letter::Accepted(ballot, from) => {
                let commit = self.commits.get_mut(&to).filter(|it| it.ballot == ballot);
                let Some(commit) = commit else { return };
                commit.accepted(from, instance(from));
                if commit.chosen() {
                    let Some(commit) = self.commits.remove(&to) else {
                        return;
                    };
                    let epoch = commit.value.epoch;
                    let before = self.chosen.insert(epoch, commit.value.clone());
                    assert!(
                        before.is_none_or(|it| it == commit.value),
                        "epoch {epoch} twice"
                    );
                    // The next change of the same proposer takes one round trip.
                    self.commit(commit.next.unwrap(), &commit.value);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn an_epoch_is_chosen_once_whatever_happens_to_the_messages(
        steps in prop::collection::vec((0u8..20, any::<prop::sample::Index>()), 20..400)
    ) {
        choose_mutant();
        let mut post = Post::new();
        for (step, index) in steps {
            match step {
                0 => post.propose(A),
                1 => post.propose(B),
                _ if post.letters.is_empty() => {}
                2 | 3 => {
                    let lost = index.index(post.letters.len());
                    post.letters.swap_remove(lost);
                }
                4 | 5 => {
                    let twice = post.letters[index.index(post.letters.len())].clone();
                    post.letters.push(twice);
                }
                _ => {
                    let any = index.index(post.letters.len());
                    let (to, letter) = post.letters.swap_remove(any);
                    post.deliver(to, letter);
                }
            }
        }
    }
}

#[test]
fn two_letters_after_another_are_enough_for_the_next_change() {
    let mut post = Post::new();
    post.propose(A);
    for _ in 0..200 {
        if let Some((to, letter)) = post.letters.pop() {
            post.deliver(to, letter);
        }
    }
    assert!(post.chosen.len() > 10);
}

#[test]
fn h13_votes_of_another_life_do_not_count() {
    choose_mutant();
    let other = VoterInstance(99);
    let mut reading = Reading::new(ballot(2, A));
    reading.promised(A, instance(A), (ballot(1, A), config(1, A)));
    reading.promised(W, other, (ballot(1, A), config(1, A)));
    assert_eq!(reading.read(), None);
    reading.promised(B, instance(B), (ballot(1, A), config(1, A)));
    assert!(reading.read().is_some());
    let mut commit = Commit::new(ballot(2, A), None, config(1, A), config(2, A));
    commit.accepted(A, instance(A));
    commit.accepted(W, other);
    assert!(!commit.chosen());
    commit.accepted(B, instance(B));
    assert!(commit.chosen());
}

#[test]
fn h15_a_reader_goes_on_until_it_has_a_majority_of_the_voters_it_read() {
    let mut few = config(1, A);
    few.voters.retain(|voter| voter.node == A);
    let mut reading = Reading::new(ballot(3, A));
    reading.promised(A, instance(A), (ballot(2, A), config(2, A)));
    assert_eq!(reading.read(), None, "the value read names three voters");
    assert_eq!(reading.missing(&few), Members::pair(B, W));
}

#[test]
fn r10_an_admitted_voter_votes_before_anybody_else() {
    let mut base = config(1, A);
    base.voters.retain(|voter| voter.node != W);
    let mut commit = Commit::new(ballot(2, A), None, base, config(1, A));
    assert_eq!(commit.missing(), Members::one(W));
    commit.accepted(A, instance(A));
    commit.accepted(B, instance(B));
    assert!(!commit.chosen());
    commit.accepted(W, instance(W));
    assert!(commit.chosen());
}
