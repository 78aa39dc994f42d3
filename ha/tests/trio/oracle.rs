//! The truth: what was acknowledged, what was chosen.

use std::collections::{BTreeMap, BTreeSet};

use ha::types::Reason;
use ha::{Ballot, Config, Epoch, Incarnation, Members, NodeId, Record};

use crate::engine::Alone;

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// What was acknowledged, by lineage: a forced start begins another array (law R9).
    acknowledged: BTreeMap<u16, BTreeSet<u64>>,
    /// Every value accepted, and by whom, durably.
    accepted: BTreeMap<Ballot, (Config, Members)>,
    chosen: BTreeMap<Ballot, Config>,
    /// Epochs of which the primary knew.
    heard: BTreeSet<Epoch>,
    /// Every ballot that left a box: the process that made it, and its value once it had one.
    left: BTreeMap<Ballot, (u128, Option<Config>)>,
    epochs: BTreeMap<Epoch, (Option<(NodeId, Incarnation)>, Members)>,
    pub(crate) reads: u64,
    pub(crate) promotions: u64,
    pub(crate) solo: u64,
    pub(crate) readmitted: u64,
    pub(crate) handovers: u64,
    pub(crate) detached: u64,
    pub(crate) forced: u64,
}

impl Oracle {
    pub(crate) fn acknowledged_count(&self) -> usize {
        self.acknowledged.values().map(BTreeSet::len).sum()
    }

    /// `node` acknowledges `write`. Whoever does so alone must hold everything acknowledged
    /// before. With the other's confirmation it may be late news of an epoch that is over: the
    /// other holds the write, and must still hold it when it answers next (H38).
    pub(crate) fn acknowledged(
        &mut self,
        node: NodeId,
        write: (u64, Alone),
        log: &BTreeSet<u64>,
        at: (u64, Epoch),
    ) {
        let lineage = self.acknowledged.entry(at.1.lineage());
        lineage.or_default().insert(write.0);
        if write.1 == Alone::Yes {
            self.complete(node, log, at, "acknowledges");
        }
    }

    /// `log` begins the lineage of `epoch`: what it lacks is lost there, as the operator was told.
    pub(crate) fn begins(&mut self, epoch: Epoch, log: &BTreeSet<u64>) {
        if self.acknowledged.contains_key(&epoch.lineage()) {
            return; // the same config again
        }
        let all = self.acknowledged.values().flatten();
        let kept = all.filter(|write| log.contains(write)).copied().collect();
        self.forced += 1;
        self.acknowledged.insert(epoch.lineage(), kept);
    }

    /// `node` answers a read at this moment.
    pub(crate) fn read(&mut self, node: NodeId, log: &BTreeSet<u64>, at: (u64, Epoch)) {
        self.reads += 1;
        self.complete(node, log, at, "reads");
    }

    fn complete(&self, node: NodeId, log: &BTreeSet<u64>, at: (u64, Epoch), what: &str) {
        let (now, epoch) = at;
        let lineage = self.acknowledged.get(&epoch.lineage());
        let missing = lineage.map_or(0, |all| all.difference(log).count());
        assert_eq!(
            missing, 0,
            "{node} {what} at {now} ns without {missing} acknowledged writes"
        );
    }

    /// A ballot of `process` leaves its box, with the value proposed under it if it has one
    /// (law R0): it is of that process and of that value for ever (H5b).
    pub(crate) fn left(&mut self, ballot: Ballot, process: u128, value: Option<&Config>) {
        let entry = self.left.entry(ballot).or_insert((process, None));
        assert_eq!(entry.0, process, "two processes left with {ballot:?}");
        if let Some(value) = value {
            let known = entry.1.get_or_insert_with(|| value.clone());
            assert_eq!(known, value, "two values left with {ballot:?}");
        }
    }

    /// How many processes of `node` have sent a ballot.
    pub(crate) fn proposers(&self, node: NodeId) -> usize {
        let own = self.left.iter().filter(|left| left.0.node == node);
        own.map(|left| left.1.0).collect::<BTreeSet<_>>().len()
    }

    /// A record of `node` became durable.
    pub(crate) fn record(&mut self, node: NodeId, record: &Record) {
        let Some(state) = &record.group else { return };
        let (ballot, config) = &state.accepted;
        if !config.lists(node, record.instance) {
            return;
        }
        let entry = self.accepted.entry(*ballot);
        let entry = entry.or_insert_with(|| (config.clone(), Members::EMPTY));
        assert_eq!(entry.0, *config, "two values for one ballot");
        entry.1 = entry.1.with(node);
        if config.is_majority(entry.1) && !self.chosen.contains_key(ballot) {
            self.choose(*ballot, config.clone());
        }
    }

    fn choose(&mut self, ballot: Ballot, config: Config) {
        let value = (config.primary, config.in_sync);
        let before = self.epochs.insert(config.epoch, value);
        assert!(
            before.is_none_or(|before| before == value),
            "epoch {} twice",
            config.epoch
        );
        let last = self
            .chosen
            .range(..ballot)
            .next_back()
            .map(|last| last.1.clone());
        // A vote that reached the disk late may complete a majority for a value that the proposer
        // of a higher ballot has read already.
        let next = self.chosen.range(ballot..).next();
        assert!(
            next.is_none_or(|next| next.1.epoch >= config.epoch),
            "{ballot:?} is too late"
        );
        if let Some(last) = last.as_ref().filter(|_| config.reason != Reason::Force) {
            assert!(config.epoch >= last.epoch, "epochs go back");
            if let Some((node, _)) = config
                .primary
                .filter(|primary| last.primary != Some(*primary))
            {
                // In S of the last chosen config, or of one in doubt that its reader adopted.
                let in_doubt = self.accepted.range(..ballot).filter(|doubt| {
                    doubt.1.0.epoch > last.epoch && doubt.1.0.in_sync.contains(node)
                });
                // Its primary lost its disk before it knew that it was the only member.
                let unheard = config.reason == Reason::Detach && !self.heard.contains(&last.epoch);
                let shared = self.chosen.values().rev().find(|it| it.epoch < last.epoch);
                let shared = shared.is_some_and(|it| {
                    it.primary == last.primary && it.in_sync.contains(node) && unheard
                });
                let fit = last.in_sync.contains(node) || in_doubt.count() > 0 || shared;
                assert!(fit, "{node} outside S becomes primary: {last:?}");
            }
        }
        let again = last.is_some_and(|last| last.epoch == config.epoch);
        match config.reason {
            _ if again => {}
            Reason::Promote => self.promotions += 1,
            Reason::Degrade => self.solo += 1,
            Reason::Readmit => self.readmitted += 1,
            Reason::Handover => self.handovers += 1,
            Reason::Detach => self.detached += 1,
            Reason::Genesis
            | Reason::HandoverCancelled
            | Reason::Admit
            | Reason::Remove
            | Reason::Force => {}
        }
        self.chosen.insert(ballot, config);
    }

    /// `node` says that it knows `config` chosen.
    pub(crate) fn known(&mut self, node: NodeId, config: &Config) {
        if config.primary.is_some_and(|primary| primary.0 == node) {
            self.heard.insert(config.epoch);
        }
        let fact = self.chosen.values().any(|chosen| chosen == config);
        assert!(fact, "{node} takes {config:?} for chosen");
    }
}
