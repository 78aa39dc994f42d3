//! Fencing on this box: the devices that turn the *other* one off, what they are asked and what
//! became of it. A device of this box's own is never used here.
//!
//! The devices come from this box's own copy of the system volume, because a standby, which has
//! not read the cluster configuration, is the one that needs them most.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ha::fence::{Answer, Device, Power};
use ha::shell::fence::{self as agents, Desk, DeskHandle, Report};
use tokio::sync::{mpsc, oneshot, watch};

use crate::api::types::{FenceDevice, Refusal};
use crate::config::fence::{Access, Agent, Fence, Hash, Secret};
use crate::config::{Cluster, NodeConfig};
use crate::events::EventLog;
use crate::system;

/// How often this box's copy of the configuration is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What an operator asks of the devices.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Ask all devices of a box about the power.
    Test { node: String },
    /// The operator vouches that a box is off.
    Confirm { node: String },
}

/// A wish, with the way back.
pub(crate) type FenceAsked = (Wish, oneshot::Sender<Result<String, Refusal>>);

/// What the tasks are made of.
pub(crate) struct Setup {
    /// This box.
    pub(crate) config: NodeConfig,
    /// The backing of this box's system volume.
    pub(crate) backing: PathBuf,
    /// Wakes when the primary on this box changed the configuration.
    pub(crate) cluster: watch::Receiver<Cluster>,
    /// What operators ask.
    pub(crate) asked: mpsc::Receiver<FenceAsked>,
    /// Events of this box.
    pub(crate) events: Arc<EventLog>,
}

/// Starts the tasks on this thread's event loop. The handle turns the other box off; the receiver
/// has the devices as status shows them.
pub(crate) fn start(setup: Setup) -> (DeskHandle, watch::Receiver<Vec<FenceDevice>>) {
    let (desk, handle) = Desk::new();
    let (shown_in, shown) = watch::channel(Vec::<FenceDevice>::new());
    let Setup {
        config,
        backing,
        cluster,
        asked,
        events,
    } = setup;
    let peer = config.peer.clone();
    let told = Arc::clone(&events);
    let mark = shown_in.clone();
    tokio::spawn(desk.run(
        move |event| told.add(event.to_string().replace("{peer}", &peer)),
        move |failing| {
            mark.send_if_modified(|devices| {
                let mut changed = false;
                for device in devices {
                    let failed = failing.contains(&device.name);
                    changed |= device.failing != failed;
                    device.failing = failed;
                }
                changed
            });
        },
    ));
    let follow = Follow {
        peer: config.peer.clone(),
        backing,
        desk: handle.clone(),
        shown: shown_in,
        events,
    };
    tokio::spawn(follow.run(cluster));
    tokio::spawn(answer(asked, config, handle.clone()));
    (handle, shown)
}

/// Keeps the devices as the configuration has them.
struct Follow {
    peer: String,
    backing: PathBuf,
    desk: DeskHandle,
    shown: watch::Sender<Vec<FenceDevice>>,
    events: Arc<EventLog>,
}

impl Follow {
    async fn run(self, mut cluster: watch::Receiver<Cluster>) {
        let mut known: Vec<Fence> = Vec::new();
        let mut failed = None;
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                changed = cluster.changed() => if changed.is_err() {
                    return;
                },
            }
            let now = match read(&self.backing).await {
                Ok(now) => now,
                Err(why) => {
                    // Said once, and what is known stays in use.
                    if failed.as_ref() != Some(&why) {
                        self.events.add(format!(
                            "alarm: {why}; the fencing devices known before stay in use"
                        ));
                    }
                    failed = Some(why);
                    continue;
                }
            };
            failed = None;
            if now != known {
                known = now;
                self.put_in_force(&known).await;
            }
        }
    }

    async fn put_in_force(&self, fences: &[Fence]) {
        let others = fences.iter().filter(|fence| fence.node == self.peer);
        let mut devices = Vec::new();
        for fence in others {
            match agent(&fence.agent) {
                Ok(agent) => devices.push((device(fence, &agent), agent)),
                Err(why) => self.events.add(format!(
                    "alarm: fencing device {} is not used: {why}",
                    fence.name
                )),
            }
        }
        let shown = fences.iter().map(|fence| FenceDevice {
            name: fence.name.clone(),
            node: fence.node.clone(),
            kind: fence.agent.kind().to_owned(),
            level: fence.level,
            lab: fence.agent.is_lab(),
            failing: false,
        });
        let shown: Vec<_> = shown.collect();
        self.desk.devices(devices).await;
        self.shown.send_replace(shown);
        for fence in fences.iter().filter(|fence| fence.agent.is_lab()) {
            self.events.add(format!(
                "alarm: fencing device {} ({}) proves nothing and is for labs only: a box that is \
                 still on may be taken for off, and data be lost",
                fence.name,
                fence.agent.kind()
            ));
        }
    }
}

/// Nobody waits for a disk on this event loop.
async fn read(backing: &Path) -> Result<Vec<Fence>, String> {
    let backing = backing.to_owned();
    let reading = tokio::task::spawn_blocking(move || system::copy_of(&backing));
    let read = reading.await.map_err(|error| error.to_string())?;
    Ok(read?.map(|cluster| cluster.fences).unwrap_or_default())
}

fn device(fence: &Fence, agent: &agents::Agent) -> Device {
    Device {
        name: fence.name.clone(),
        bus: agent.bus(),
        level: fence.level,
        timeout_ms: u32::from(fence.timeout_s) * 1000,
        hand: agent.hand(),
    }
}

/// The agent that speaks to a device.
///
/// # Errors
/// What the configuration let through and should not have.
fn agent(configured: &Agent) -> Result<agents::Agent, String> {
    Ok(match configured {
        Agent::Redfish {
            address,
            port,
            system,
            user,
            secret: own,
            pin,
        } => agents::Agent::Redfish(agents::Redfish {
            address: SocketAddr::new(*address, *port),
            system: system.clone(),
            user: user.clone(),
            secret: secret(own),
            pin: pin.parse()?,
        }),
        Agent::Ipmi {
            address,
            port,
            user,
            secret: own,
            cipher_suite,
        } => agents::Agent::Ipmi(agents::Ipmi {
            address: SocketAddr::new(*address, *port),
            user: user.clone(),
            secret: secret(own),
            cipher_suite: *cipher_suite,
            ipmitool: PathBuf::from("ipmitool"),
        }),
        Agent::ApcSnmp {
            address,
            port,
            outlet,
            access,
        } => agents::Agent::ApcSnmp(agents::ApcSnmp {
            address: SocketAddr::new(*address, *port),
            outlet: outlet.clone(),
            access: admitted(access),
        }),
        Agent::Exec {
            program,
            options,
            secrets,
        } => agents::Agent::Exec(agents::Exec {
            program: program.clone(),
            options: options.clone(),
            secrets: secrets
                .iter()
                .map(|(key, it)| (key.clone(), secret(it)))
                .collect(),
        }),
        Agent::Manual {} => agents::Agent::Manual,
        Agent::Ssh {
            address,
            port,
            user,
            lab: _,
        } => agents::Agent::Ssh(agents::Ssh {
            address: SocketAddr::new(*address, *port),
            user: user.clone(),
            ssh: PathBuf::from("ssh"),
        }),
        Agent::Null { lab: _ } => agents::Agent::Null,
    })
}

fn secret(configured: &Secret) -> agents::Secret {
    agents::Secret(configured.0.clone())
}

fn admitted(access: &Access) -> agents::Access {
    match access {
        Access::V1 { community } => agents::Access::V1 {
            community: secret(community),
        },
        Access::V3 {
            user,
            hash,
            secret: own,
            privacy,
        } => agents::Access::V3 {
            user: user.clone(),
            hash: match hash {
                Hash::Md5 => agents::AuthHash::Md5,
                Hash::Sha1 => agents::AuthHash::Sha1,
                Hash::Sha256 => agents::AuthHash::Sha256,
            },
            secret: secret(own),
            privacy: secret(privacy),
        },
    }
}

async fn answer(mut asked: mpsc::Receiver<FenceAsked>, config: NodeConfig, desk: DeskHandle) {
    while let Some((wish, answer)) = asked.recv().await {
        let (config, desk) = (config.clone(), desk.clone());
        // A test may take a while, and the operator's word must not wait for it.
        tokio::spawn(async move {
            // Whoever asked may be gone: the answer is for nobody else.
            let _ = answer.send(wished(&wish, &config, &desk).await);
        });
    }
}

async fn wished(wish: &Wish, config: &NodeConfig, desk: &DeskHandle) -> Result<String, Refusal> {
    let (Wish::Test { node } | Wish::Confirm { node }) = wish;
    if *node == config.node {
        return Err(Refusal::safety(format!(
            "nothing was done: {node} is this box, and no box fences itself; ask {}",
            config.peer
        )));
    }
    if *node != config.peer {
        return Err(Refusal::usage(format!(
            "there is no box {node}; the other box is {}",
            config.peer
        )));
    }
    match wish {
        Wish::Test { .. } => tested(node, desk.test().await),
        Wish::Confirm { .. } => match desk.vouch().await {
            0 => Err(Refusal::failed(format!(
                "nothing was changed: nobody waits for {node} to be off, and a word that is given \
                 before it is asked for says nothing about then; see `twinsan events`"
            ))),
            _ => Ok(format!("done: {node} counts as off, on your word")),
        },
    }
}

/// Everything that was said, and a refusal if a device does not do.
fn tested(node: &str, reports: Option<Vec<Report>>) -> Result<String, Refusal> {
    let Some(reports) = reports else {
        let why = "nothing was asked: too many tests are under way; try again";
        return Err(Refusal::failed(why));
    };
    if reports.is_empty() {
        return Err(Refusal::failed(format!(
            "nothing was asked: no device turns {node} off by itself; see `twinsan fence list`"
        )));
    }
    let mut lines = Vec::new();
    let mut bad = Vec::new();
    for Report { device, reply } in &reports {
        let verdict = match &reply.answer {
            Answer::Power(Power::On) => "on".to_owned(),
            Answer::Power(Power::Off) => "off".to_owned(),
            Answer::Failed(_) | Answer::Accepted => {
                bad.push(device.as_str());
                "FAILED".to_owned()
            }
        };
        lines.push(format!("{device}: {verdict}"));
        lines.push(format!("  asked: {}", reply.asked));
        lines.push(format!("  answered: {}", reply.answered));
    }
    let said = lines.join("\n");
    if bad.is_empty() {
        return Ok(format!(
            "{said}\ndone: every device answers; nothing was turned off"
        ));
    }
    Err(Refusal::failed(format!(
        "{said}\n{} cannot turn {node} off as it is; nothing was turned off; mend what it says and \
         test again",
        bad.join(" and ")
    )))
}

#[cfg(test)]
mod tests;
