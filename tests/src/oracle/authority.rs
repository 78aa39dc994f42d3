//! Who may do what: epochs, leases, promotions and seals, seen from outside.
//!
//! The truth about the register is what the three stores hold: a config is chosen once a majority
//! of its voters, each by the instance that the config lists, has made it durable under one ballot.
//! Voters change one at a time, so a majority of the new set meets every majority of the old one.

use std::collections::{BTreeMap, BTreeSet};

use ha::types::Reason;
use ha::{Ballot, Config, Record};

use super::Breach;
use crate::net::{BOXES, Host};

/// A process of a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Actor {
    /// The box.
    pub host: Host,
    /// Its incarnation.
    pub incarnation: u128,
}

/// Until when a box may answer, in true time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Not at all.
    None,
    /// Before that moment, in nanoseconds of true time.
    Until(u64),
    /// While its authority lasts.
    Unlimited,
}

/// What the stores and boxes were seen to do.
#[derive(Debug, Default)]
pub struct Register {
    accepted: BTreeMap<Ballot, (Config, BTreeSet<Host>)>,
    chosen: Vec<(Ballot, Config)>,
    ackers: BTreeMap<u64, Actor>,
}

impl Register {
    /// A store made `record` durable; true if a config became chosen by it.
    pub fn stored(&mut self, host: Host, record: &Record) -> Result<bool, Breach> {
        let Some(group) = &record.group else {
            return Ok(false);
        };
        let (ballot, config) = &group.accepted;
        let known = self
            .accepted
            .entry(*ballot)
            .or_insert_with(|| (config.clone(), BTreeSet::new()));
        if known.0 != *config {
            return Err(format!("P1: two values under one ballot {ballot:?}"));
        }
        if !config.lists(ha::NodeId(host.0), record.instance) {
            return Ok(false);
        }
        known.1.insert(host);
        let votes: ha::Members = known.1.iter().map(|host| ha::NodeId(host.0)).collect();
        let is_known = self.chosen.iter().any(|(chosen, _)| chosen == ballot);
        if is_known || !config.is_majority(votes) {
            return Ok(false);
        }
        let config = config.clone();
        self.choose(*ballot, config)
    }

    /// The config that counts; none before the first.
    pub fn config(&self) -> Option<&Config> {
        self.chosen.last().map(|(_, config)| config)
    }

    /// Members of the committed in-sync set.
    pub fn in_sync(&self) -> Vec<Host> {
        let in_sync = |host: &Host| {
            self.config()
                .is_some_and(|config| config.in_sync.contains(ha::NodeId(host.0)))
        };
        BOXES.into_iter().filter(in_sync).collect()
    }

    /// Members of the in-sync set from which the primary of `epoch` was made.
    pub fn in_sync_before(&self, epoch: u64) -> Vec<Host> {
        let before = self
            .chosen
            .iter()
            .rfind(|(_, config)| config.epoch.0 < epoch);
        let member = |host: &Host| {
            before.is_some_and(|(_, config)| config.in_sync.contains(ha::NodeId(host.0)))
        };
        BOXES.into_iter().filter(member).collect()
    }

    /// A box lets its engine act as primary of `epoch`.
    pub fn authorised(&self, actor: Actor, epoch: u64) -> Result<(), Breach> {
        let of_epoch = |(_, config): &&(Ballot, Config)| config.epoch.0 == epoch;
        let Some((_, config)) = self.chosen.iter().rfind(of_epoch) else {
            return Err(format!(
                "P1: {} acts in epoch {epoch}, which is not chosen",
                actor.host
            ));
        };
        let primary = config
            .primary
            .map(|(node, incarnation)| (node.0, incarnation.0));
        if primary != Some((actor.host.0, actor.incarnation)) {
            return Err(format!(
                "P1: {} acts in epoch {epoch} of {primary:?}",
                actor.host
            ));
        }
        Ok(())
    }

    /// A box acknowledged something in `epoch`.
    pub fn acked(&mut self, actor: Actor, epoch: u64) -> Result<(), Breach> {
        let known = *self.ackers.entry(epoch).or_insert(actor);
        if known != actor {
            return Err(format!(
                "P1: {known:?} and {actor:?} both acknowledge in epoch {epoch}"
            ));
        }
        Ok(())
    }

    /// A box answered a read in `epoch` at `now`, with this right.
    pub fn read(&self, actor: Actor, epoch: u64, right: Right, now: u64) -> Result<(), Breach> {
        let host = actor.host;
        let may = match right {
            Right::None => false,
            Right::Until(end) => now < end,
            Right::Unlimited => true,
        };
        if !may {
            return Err(format!(
                "P2: {host} answers a read without a lease ({right:?} at {now})"
            ));
        }
        let later = self
            .ackers
            .range(epoch + 1..)
            .find(|(_, other)| other.host != host);
        if let Some((later, other)) = later {
            return Err(format!(
                "P2: {host} answers a read in epoch {epoch} after {} served {later}",
                other.host
            ));
        }
        Ok(())
    }

    /// Whether `next` may be chosen after `last`, which came after `before`. A primary that lost
    /// its disk also gives the role away when it never learnt that it is the only member, so that
    /// it acknowledged nothing as that: the other has everything.
    fn follows(&self, before: Option<&Config>, last: &Config, next: &Config) -> Result<(), Breach> {
        let verdict = follows(last, next);
        let unused = next.reason == Reason::Detach && !self.ackers.contains_key(&last.epoch.0);
        let shared = before.filter(|before| before.primary == last.primary && unused);
        match shared {
            Some(before) if verdict.is_err() => follows(before, next),
            Some(_) | None => verdict,
        }
    }

    /// A config must follow the last chosen one, or one that a voter accepted since, which its
    /// proposer then read and took over.
    fn justified(&self, last: usize, ballot: Ballot, config: &Config) -> Result<(), Breach> {
        let (last_ballot, last_config) = &self.chosen[last];
        let before = last.checked_sub(1).map(|before| &self.chosen[before].1);
        let verdict = self.follows(before, last_config, config);
        let read = self.accepted.iter().rev().filter(|(other, (value, _))| {
            (last_ballot < *other) && (**other < ballot) && value != config
        });
        let through = |(other, (value, _)): (&Ballot, &(Config, BTreeSet<Host>))| {
            follows(value, config).is_ok() && self.justified(last, *other, value).is_ok()
        };
        if verdict.is_err() && read.into_iter().any(through) {
            Ok(())
        } else {
            verdict
        }
    }

    /// A config is chosen. A ballot may also complete its majority after a later one did; then the
    /// later one was made from its value, so it has to fit in before that one.
    fn choose(&mut self, ballot: Ballot, config: Config) -> Result<bool, Breach> {
        let place = self.chosen.partition_point(|(other, _)| *other < ballot);
        if let Some(last) = place.checked_sub(1) {
            self.justified(last, ballot, &config)?;
        }
        if let Some((_, after)) = self.chosen.get(place) {
            let before = place.checked_sub(1).map(|before| &self.chosen[before].1);
            self.follows(before, &config, after)?;
        }
        let is_news = place == self.chosen.len();
        self.chosen.insert(place, (ballot, config));
        Ok(is_news)
    }
}

/// Whether `next` may be chosen after `last`.
fn follows(last: &Config, next: &Config) -> Result<(), Breach> {
    if next.epoch < last.epoch {
        return Err(format!("P1: epoch {} follows {}", next.epoch, last.epoch));
    }
    let same_rule = next.primary == last.primary && next.in_sync == last.in_sync;
    if next.epoch == last.epoch && !same_rule {
        return Err(format!("P1: epoch {} means two things", next.epoch));
    }
    let voters_old = last.voters.len();
    let changed = next
        .voters
        .iter()
        .filter(|voter| !last.voters.contains(voter))
        .count();
    if changed > 1 || next.voters.len().abs_diff(voters_old) > 1 {
        return Err(format!(
            "R10: more than one voter changed at epoch {}",
            next.epoch
        ));
    }
    let Some((node, _)) = next.primary else {
        return Ok(());
    };
    if next.primary == last.primary {
        return Ok(());
    }
    if !last.in_sync.contains(node) {
        return Err(format!(
            "P3: {} becomes primary of epoch {}, but in sync was {}",
            Host(node.0),
            next.epoch,
            last.in_sync
        ));
    }
    let disk_before = last.disk_of(node);
    if disk_before.is_some() && next.disk_of(node) != disk_before {
        return Err(format!("P3: {} promotes with another disk", Host(node.0)));
    }
    Ok(())
}

/// No two boxes may answer at one moment.
pub fn one_holder(rights: [(Host, Right); 2], now: u64) -> Result<(), Breach> {
    let holds = |right: Right| match right {
        Right::None => false,
        Right::Until(end) => now < end,
        Right::Unlimited => true,
    };
    if rights.iter().all(|(_, right)| holds(*right)) {
        return Err(format!("P2: both boxes hold a lease: {rights:?} at {now}"));
    }
    Ok(())
}
