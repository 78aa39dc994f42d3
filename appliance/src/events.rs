//! The events of this box: bounded, numbered, followed by waiting readers.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::Notify;

use crate::api::types::Event;

/// Events kept; older ones are in the system's log only.
const EVENTS_MAX: usize = 1000;

/// Written by the daemon's threads, read by the API. Not in the data path.
#[derive(Debug, Default)]
pub(crate) struct EventLog {
    kept: Mutex<VecDeque<Event>>,
    added: Notify,
}

impl EventLog {
    /// Records what happened, and says it in the log.
    pub(crate) fn add(&self, text: impl Into<String>) {
        let text = text.into();
        tracing::info!("{text}");
        let mut kept = self
            .kept
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let sequence = kept.back().map_or(1, |event| event.sequence + 1);
        if kept.len() == EVENTS_MAX {
            kept.pop_front();
        }
        kept.push_back(Event {
            sequence,
            unix_ms: crate::clock::unix_ms(),
            text,
        });
        drop(kept);
        self.added.notify_waiters();
    }

    /// What is kept after `sequence`, oldest first.
    pub(crate) fn after(&self, sequence: u64) -> Vec<Event> {
        let kept = self
            .kept
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        kept.iter()
            .filter(|event| event.sequence > sequence)
            .cloned()
            .collect()
    }

    /// Waits until there is something after `sequence`.
    pub(crate) async fn wait_after(&self, sequence: u64) -> Vec<Event> {
        loop {
            let added = self.added.notified();
            let found = self.after(sequence);
            if !found.is_empty() {
                return found;
            }
            added.await;
        }
    }
}
