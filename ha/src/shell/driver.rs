//! Drives a box: one loop, one thread, nothing in it waits for a disk.

use core::future::pending;
use std::io;

use tokio::sync::mpsc::UnboundedReceiver;

use super::clock::{self, now};
use super::disk::{self, Order};
use super::store::{Store, StoreError};
use super::udp::{self, Link};
use crate::node::{Input, Node, Output, Status};
use crate::types::{GroupId, Time};

/// Why a driver ended; its box must not go on without it.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The record cannot be made durable.
    #[error("the voter's record cannot be saved: {0}")]
    Store(#[from] StoreError),
    /// The thread that saves records ended or could not start.
    #[error("the thread that saves records is gone")]
    Thread,
    /// The sender of inputs was dropped.
    #[error("nobody feeds the authority any more")]
    Inputs,
    /// A socket failed.
    #[error("the socket failed: {0}")]
    Socket(io::Error),
}

/// Everything a box's authority runs with.
#[derive(Debug)]
pub struct NodeDriver {
    /// The core.
    pub node: Node,
    /// Its group.
    pub group: GroupId,
    /// Where its record lies.
    pub store: Store,
    /// Links to the peer and to the witness.
    pub links: Vec<Link>,
    /// What the engine, the resources and the operators say, in order.
    pub inputs: UnboundedReceiver<Input>,
}

impl NodeDriver {
    /// Runs until something fails. Every output goes to `act` first, in order and at once, so a
    /// lease is revoked before the promise that ends it leaves; `publish` gets the status when it
    /// changed.
    ///
    /// # Errors
    /// Always ends with one: a box without its authority must stop.
    pub async fn run(
        self,
        mut act: impl FnMut(Output),
        mut publish: impl FnMut(Status),
    ) -> Result<(), DriverError> {
        let Self {
            mut node,
            group,
            store,
            links,
            mut inputs,
        } = self;
        let (orders, mut reports) = disk::start(store).map_err(|_| DriverError::Thread)?;
        let mut shown = None;
        let mut turn = 0;
        loop {
            while let Some(output) = node.poll_output() {
                act(output.clone());
                match output {
                    Output::Persist { id, record } => {
                        let order = Order { group, id, record };
                        orders.send(order).map_err(|_| DriverError::Thread)?;
                    }
                    Output::Send { link, bytes, .. } => {
                        if let Some(link) = links.iter().find(|known| known.id == link) {
                            udp::send(&link.socket, &bytes, link.to).await;
                        }
                    }
                    Output::Lease(_)
                    | Output::Seal { .. }
                    | Output::Authority(_)
                    | Output::Handover { .. }
                    | Output::HandoverCancelled { .. }
                    | Output::Start(_)
                    | Output::Stop(_)
                    | Output::Answer { .. }
                    | Output::Event(_) => {}
                }
            }
            let status = node.status();
            if shown.as_ref() != Some(&status) {
                publish(status.clone());
                shown = Some(status);
            }
            let input = tokio::select! {
                report = reports.recv() => {
                    let (_, id) = report.ok_or(DriverError::Thread)??;
                    Input::Persisted { id }
                }
                input = inputs.recv() => input.ok_or(DriverError::Inputs)?,
                () = sleep_until(node.poll_timeout()) => Input::Timeout,
                (link, bytes) = udp::receive(&links, &mut turn) => Input::Datagram { link, bytes },
            };
            node.handle(now(), input);
        }
    }
}

/// Ends when the boot clock shows `at`.
async fn sleep_until(at: Option<Time>) {
    match at {
        Some(at) => tokio::time::sleep(clock::until(at)).await,
        None => pending().await,
    }
}
