//! A record on its way to disk: what depends on a change waits until the change is durable.
//!
//! Invariants: at most one `Persist` is under way; an item that waits for a version leaves only
//! after a record of that or a later version was persisted; `record_seq` never goes back.

use std::collections::VecDeque;

use crate::record::Record;
use crate::types::PersistId;

/// The record, its durable state, and the items that wait for it.
#[derive(Debug)]
pub(crate) struct Ledger<T> {
    record: Record,
    durable: Record,
    version: u64,
    durable_version: u64,
    in_flight: Option<(PersistId, u64, Record)>,
    next_id: u64,
    waiting: VecDeque<(u64, T)>,
}

impl<T> Ledger<T> {
    pub(crate) fn new(record: Record) -> Self {
        Self {
            durable: record.clone(),
            record,
            version: 0,
            durable_version: 0,
            in_flight: None,
            next_id: 1,
            waiting: VecDeque::new(),
        }
    }

    /// The record as it will be once everything is durable.
    pub(crate) const fn record(&self) -> &Record {
        &self.record
    }

    /// What a crash now would leave.
    pub(crate) const fn durable(&self) -> &Record {
        &self.durable
    }

    /// Changes the record. A change of the register part raises `record_seq` (H13).
    pub(crate) fn change(&mut self, edit: impl FnOnce(&mut Record)) {
        let before = self.record.clone();
        edit(&mut self.record);
        if self.record == before {
            return;
        }
        assert_eq!(
            self.record.instance, before.instance,
            "a record keeps its instance"
        );
        if self.record.group != before.group {
            self.record.record_seq += 1;
        }
        self.version += 1;
    }

    /// Keeps `item` until everything changed so far is durable.
    pub(crate) fn after(&mut self, item: T) {
        self.waiting.push_back((self.version, item));
    }

    /// The record to persist now, if there is one and no other is under way.
    pub(crate) fn persist(&mut self) -> Option<(PersistId, Record)> {
        if self.in_flight.is_some() || self.version == self.durable_version {
            return None;
        }
        let id = PersistId(self.next_id);
        self.next_id += 1;
        self.in_flight = Some((id, self.version, self.record.clone()));
        Some((id, self.record.clone()))
    }

    /// The record given with `id` is durable. A stale or unknown id changes nothing.
    pub(crate) fn persisted(&mut self, id: PersistId) {
        match self.in_flight.take() {
            Some((expected, version, record)) if expected == id => {
                self.durable_version = version;
                self.durable = record;
            }
            other => self.in_flight = other,
        }
    }

    /// The next item whose change is durable.
    pub(crate) fn ready(&mut self) -> Option<T> {
        let version = self.waiting.front()?.0;
        if version > self.durable_version {
            return None;
        }
        self.waiting.pop_front().map(|entry| entry.1)
    }

    /// The invariants at the top of this file, O(1).
    pub(crate) fn check(&self) {
        assert!(
            self.durable_version <= self.version,
            "durable cannot run ahead"
        );
        assert!(
            self.record.record_seq >= self.durable.record_seq,
            "record_seq went back"
        );
        if let Some((_, version, _)) = &self.in_flight {
            assert!(
                *version > self.durable_version,
                "a persist without anything to persist"
            );
        }
    }
}
