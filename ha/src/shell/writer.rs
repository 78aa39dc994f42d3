//! The helper thread that makes records durable, so that no loop waits for a disk.

use std::sync::mpsc;

use tokio::sync::mpsc::UnboundedSender;

use super::store::Store;
use crate::record::Record;
use crate::types::{GroupId, PersistId};

/// A record to make durable.
pub(super) struct Save {
    pub(super) group: GroupId,
    pub(super) id: PersistId,
    pub(super) record: Box<Record>,
}

/// Starts the thread. Each save is answered on `saved`, in order; a failed one is answered by
/// nothing ever again: a voter that cannot remember must not speak, so the loop that waits for the
/// word stays silent and the failure is logged.
pub(super) fn start(
    mut store: Store,
    saved: UnboundedSender<(GroupId, PersistId)>,
) -> std::io::Result<mpsc::Sender<Save>> {
    let (saves, waiting) = mpsc::channel::<Save>();
    std::thread::Builder::new()
        .name("record".to_owned())
        .spawn(move || {
            while let Ok(save) = waiting.recv() {
                if let Err(error) = store.save(save.group, &save.record) {
                    tracing::error!(
                        "the record cannot be saved: {error}; this box has no vote now"
                    );
                    return;
                }
                if saved.send((save.group, save.id)).is_err() {
                    return;
                }
            }
        })?;
    Ok(saves)
}
