//! The thread that makes records durable, so that the heartbeat loop never waits for a disk.

use std::sync::mpsc;

use tokio::sync::mpsc as reports;

use super::store::{Store, StoreError};
use crate::record::Record;
use crate::types::{GroupId, PersistId};

/// A record to make durable.
pub(super) struct Order {
    pub(super) group: GroupId,
    pub(super) id: PersistId,
    pub(super) record: Box<Record>,
}

/// A record is durable, or the disk refused it.
pub(super) type Report = Result<(GroupId, PersistId), StoreError>;

/// The thread ends when the sender of orders is dropped; the store's lock goes with it.
pub(super) fn start(
    mut store: Store,
) -> std::io::Result<(mpsc::Sender<Order>, reports::UnboundedReceiver<Report>)> {
    let (orders, queue) = mpsc::channel::<Order>();
    let (done, reports) = reports::unbounded_channel();
    std::thread::Builder::new()
        .name(String::from("record"))
        .spawn(move || {
            for order in queue {
                let saved = store.save(order.group, &order.record);
                if done.send(saved.map(|()| (order.group, order.id))).is_err() {
                    return;
                }
            }
        })?;
    Ok((orders, reports))
}
