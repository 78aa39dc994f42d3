//! What an operator sees: the verdict, why, and the one right next command.

use super::propose::{Purpose, Stage};
use super::{Lease, LinkStatus, Node, Role, Status};
use crate::authority;
use crate::types::{Attached, Config, Epoch, NS_PER_MS, Now};

impl Node {
    /// What an operator sees.
    #[must_use]
    pub fn status(&self) -> Status {
        let accepted = self.acceptor.durable().map(|state| &state.accepted.1);
        let config = self.known.as_ref().map(|known| &known.1).or(accepted);
        let (why, next) = self.explain(config);
        let peer = &self.peers[&self.params.peer];
        let links = peer.paths.links();
        Status {
            role: self.shown.role,
            epoch: config.map_or(Epoch::ZERO, |config| config.epoch),
            config: config.cloned(),
            lease: self.shown.lease,
            eligible: self.eligible(config),
            peer: links
                .map(|(link, last_seen, rtt_us)| LinkStatus {
                    link,
                    last_seen,
                    rtt_us,
                })
                .collect(),
            witness_last_seen: self.peers[&self.params.witness].paths.last_seen(),
            serving: self.plan.up(),
            why,
            next,
            promotions: self.promotions,
        }
    }

    pub(super) fn attached(&self) -> bool {
        self.data
            .as_ref()
            .is_some_and(|data| data.attached == Attached::Yes)
    }

    fn eligible(&self, config: Option<&Config>) -> Result<(), String> {
        let Some(config) = config else {
            return Err(String::from("this box belongs to no group yet"));
        };
        if !self.acceptor.votes() {
            return Err(String::from("this box's record has no vote in the group"));
        }
        authority::eligible(config, &self.standing()).map_err(|unfit| unfit.to_string())
    }

    /// Why this box asks to become primary now.
    pub(super) fn cause(&self) -> String {
        let primary = self
            .acceptor
            .state()
            .and_then(|state| state.accepted.1.primary);
        match primary {
            None => String::from("the group has no primary yet"),
            Some((node, _)) if node == self.params.me => {
                String::from("this box was primary before it was restarted")
            }
            Some((node, _)) => {
                let ms = self.timing().failover_ms();
                format!("{node} was primary and is silent for more than {ms} ms")
            }
        }
    }

    pub(super) fn role(&self, now: Now) -> Role {
        if let Some(term) = &self.term {
            let alone = self
                .known
                .as_ref()
                .is_some_and(|known| known.1.in_sync.len() == 1);
            return if term.handover.is_some() {
                Role::HandingOver
            } else if term.degrade.is_some() {
                Role::Frozen
            } else if alone {
                Role::PrimarySolo
            } else {
                Role::PrimarySync
            };
        }
        if self.acceptor.state().is_none() {
            return Role::Blank;
        }
        match self
            .proposal
            .as_ref()
            .map(|proposal| (&proposal.stage, proposal.purpose))
        {
            Some((Stage::Reading(_), _)) | Some((_, Purpose::Claim)) => Role::Candidate,
            Some((Stage::Sealing(_) | Stage::Committing { .. }, _)) => Role::Sealing,
            None => {
                let interval = u64::from(self.timing().heartbeat_interval_ms);
                let young = now.boot < self.started.after_ms(2 * interval);
                let heard = self
                    .peers
                    .values()
                    .any(|peer| peer.paths.last_seen().is_some());
                if young && !heard {
                    Role::Booting
                } else {
                    Role::Secondary
                }
            }
        }
    }

    /// Why things are as they are, and the one right next command.
    fn explain(&self, config: Option<&Config>) -> (String, String) {
        let nothing = || String::from("nothing to do");
        let Some(config) = config else {
            return (
                String::from("this box belongs to no group yet"),
                format!(
                    "start the other box; as primary it admits this one by itself; if this box was \
                     reinstalled, run `twinsan voter remove {}` there",
                    self.params.me
                ),
            );
        };
        if !self.acceptor.votes() {
            return (
                String::from("this box was reinstalled or restored and has no vote"),
                format!(
                    "keep the other box serving; if its `twinsan events` says that this one shows \
                     an older record, do what it says there; else run `twinsan voter remove {}` \
                     there",
                    self.params.me
                ),
            );
        }
        if self.term.is_some() {
            return self.explain_primary(config);
        }
        if let Some(Attached::Failed(failure)) = self.data.as_ref().map(|data| &data.attached) {
            let next = "repair or replace the disk, then restart twinsan on this box; it is \
                        brought up to date by itself";
            return (failure.clone(), String::from(next));
        }
        if let Some(refusal) = &self.refusal {
            return (
                format!("not becoming primary: {refusal}"),
                String::from(ASK_STATUS),
            );
        }
        let primary = config.primary.map(|primary| primary.0);
        let dead = self.timing().failover_ms() * NS_PER_MS;
        let heard = self.heartbeat_at.since_ns(self.primary_heard) < dead;
        match (primary, self.shown.role) {
            (Some(node), Role::Secondary) if heard && node != self.params.me => {
                let place = if config.in_sync.contains(self.params.me) {
                    "this box is in sync"
                } else {
                    "this box is being brought up to date"
                };
                (format!("{node} is primary; {place}"), nothing())
            }
            (_, Role::Candidate | Role::Sealing) => (
                String::from("no primary is heard; this box is asking the voters"),
                String::from("wait; if this lasts, start the other box or the witness"),
            ),
            _ if !self.attached() => match self.eligible(Some(config)) {
                Err(reason) => (reason, String::from("see `twinsan events` on this box")),
                Ok(()) => (String::from("waiting for the volumes"), nothing()),
            },
            _ => (
                String::from("no primary is heard; this box waits for the last lease to end"),
                nothing(),
            ),
        }
    }

    fn explain_primary(&self, config: &Config) -> (String, String) {
        let nothing = || String::from("nothing to do");
        let witness = &self.peers[&self.params.witness];
        if self.disk_failed() {
            return self.explain_failed_disk();
        }
        match self.shown.role {
            Role::Frozen => (
                String::from(
                    "the other box is lost and no majority has agreed yet that this box goes on \
                     alone; writes are held",
                ),
                String::from("start the witness or the other box, or repair the links to them"),
            ),
            Role::HandingOver => (
                String::from("the primary role is being handed over"),
                nothing(),
            ),
            Role::PrimarySync if self.shown.lease == Lease::None => (
                String::from("neither the other box nor the witness answers; reads are held"),
                String::from("repair the links to the other box and to the witness"),
            ),
            Role::PrimarySync if config.voter(self.params.witness).is_none() => (
                String::from(
                    "both boxes are in sync, but no witness votes: neither can go on alone",
                ),
                String::from(if witness.silent || witness.paths.last_seen().is_none() {
                    JOIN_WITNESS
                } else {
                    "wait; the witness is being admitted"
                }),
            ),
            Role::PrimarySync if witness.silent => (
                String::from(
                    "both boxes are in sync, but the witness is silent: neither can go on alone",
                ),
                String::from("start the witness, or repair the link to it"),
            ),
            Role::PrimarySync => (String::from("both boxes are in sync"), nothing()),
            Role::PrimarySolo
            | Role::Booting
            | Role::Blank
            | Role::Secondary
            | Role::Candidate
            | Role::Sealing => {
                let peer = &self.peers[&self.params.peer];
                let silent = peer.paths.last_seen().is_none() || peer.silent;
                let next = if silent && config.voter(self.params.peer).is_none() {
                    JOIN_PEER
                } else if silent {
                    "start the other box"
                } else {
                    "wait for the resync"
                };
                (
                    String::from("this box serves alone: its data is on this box only"),
                    String::from(next),
                )
            }
        }
    }
}

impl Node {
    /// A primary whose disk failed: who has the data decides what helps.
    fn explain_failed_disk(&self) -> (String, String) {
        let (why, next) = if self.detaches() {
            (
                "the disk of this box failed; the other box has everything and takes over as soon \
                 as it and a majority answer; commands are held",
                "start the other box, or repair the links to it and to the witness",
            )
        } else {
            (
                "the disk of this box failed, and it has data that no other box has; commands fail",
                "see `twinsan events`, repair the disk, then restart twinsan on this box",
            )
        };
        (String::from(why), String::from(next))
    }
}

const JOIN_WITNESS: &str = "start the witness; if it never joined, first run `twinsan pair create` \
                            on a box and `twinsan witness join` on the witness's host";
const JOIN_PEER: &str = "start the other box; if it never joined, first run `twinsan pair create` \
                         here and `twinsan pair join` there";
const ASK_STATUS: &str = "follow the reason above; `twinsan status` on the other box shows more";
