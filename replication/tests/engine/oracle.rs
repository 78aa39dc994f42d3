//! What a client may see: one register per 4 KiB page, every write with a value of its own.
//!
//! `now` holds the values that the page may have, `flying` the writes without an answer. An
//! aborted or lost write may have happened, once. A value that was acknowledged and not made
//! stable may be gone only after a box that lost power became primary, which must have said so.

use std::collections::{BTreeMap, BTreeSet};

pub(crate) type Page = (u32, u64);

struct Register {
    now: BTreeSet<u64>,
    flying: BTreeMap<u64, BTreeSet<u64>>,
    /// Values since the last stable one.
    unstable: BTreeSet<u64>,
    /// Allowed only because power was lost.
    lost: BTreeSet<u64>,
    /// Reads without an answer: what they may see, and the version they began at.
    reads: BTreeMap<u64, (BTreeSet<u64>, u64)>,
    /// Rises with whatever fixes or widens `now`.
    version: u64,
}

#[derive(Default)]
pub(crate) struct Oracle {
    pages: BTreeMap<Page, Register>,
    /// Flushes without an answer: what is stable after them.
    flushes: BTreeMap<u64, Vec<(Page, BTreeSet<u64>)>>,
    pub(crate) excused: u64,
}

impl Default for Register {
    /// A page that was never written.
    fn default() -> Self {
        Self {
            now: BTreeSet::from([0]),
            flying: BTreeMap::new(),
            unstable: BTreeSet::new(),
            lost: BTreeSet::new(),
            reads: BTreeMap::new(),
            version: 0,
        }
    }
}

impl Register {
    fn allowed(&self) -> BTreeSet<u64> {
        let values = self.now.iter().chain(self.flying.keys()).chain(&self.lost);
        values.copied().collect()
    }
}

impl Oracle {
    fn page(&mut self, page: Page) -> &mut Register {
        self.pages.entry(page).or_default()
    }

    pub(crate) fn write_begins(&mut self, page: Page, value: u64) {
        let register = self.page(page);
        register.flying.insert(value, BTreeSet::new());
        for (read, _) in register.reads.values_mut() {
            read.insert(value);
        }
    }

    pub(crate) fn write_done(&mut self, page: Page, value: u64, stable: bool) {
        let register = self.page(page);
        register.version += 1;
        let beside = register.flying.remove(&value).expect("it began");
        for other in register.flying.values_mut() {
            other.insert(value);
        }
        register.unstable.extend(&register.now);
        register.now = beside.into_iter().chain([value]).collect();
        register.lost.clear();
        if stable && register.now.len() == 1 && register.flying.is_empty() {
            register.unstable.clear();
        }
    }

    /// Aborted, failed, or without an answer for ever.
    pub(crate) fn write_unknown(&mut self, page: Page, value: u64) {
        let register = self.page(page);
        register.version += 1;
        register.flying.remove(&value);
        register.now.insert(value);
    }

    pub(crate) fn read_begins(&mut self, page: Page, read: u64) {
        let register = self.page(page);
        let allowed = register.allowed();
        register.reads.insert(read, (allowed, register.version));
    }

    pub(crate) fn read_dropped(&mut self, page: Page, read: u64) {
        self.page(page).reads.remove(&read);
    }

    /// Whether `value` may be seen, and fixes it: a value once read is never un-read.
    pub(crate) fn read_done(&mut self, page: Page, read: u64, value: u64, cache_lost: bool) {
        let register = self.page(page);
        let (allowed, version) = register.reads.remove(&read).expect("it began");
        assert!(
            allowed.contains(&value) || register.allowed().contains(&value),
            "R4: page {page:?} reads {value:#x}, allowed {allowed:x?}"
        );
        let excused = register.lost.contains(&value) && !register.now.contains(&value);
        assert!(
            !excused || cache_lost,
            "D5: page {page:?} lost a write and nobody said so"
        );
        // nothing was answered beside it: what was before its value is gone for ever, even if
        // the write of that value has no answer yet
        if version == register.version {
            register.version += 1;
            let before = std::mem::replace(&mut register.now, BTreeSet::from([value]));
            // not the value itself: a flush that began before the write after it keeps it
            register
                .unstable
                .extend(before.into_iter().filter(|old| *old != value));
            register.lost.clear();
        }
        self.excused += u64::from(excused);
    }

    pub(crate) fn flush_begins(&mut self, volume: u32, flush: u64) {
        let pages = self.pages.iter().filter(|((of, _), _)| *of == volume);
        let covered = pages
            .map(|(page, register)| (*page, register.unstable.clone()))
            .collect();
        self.flushes.insert(flush, covered);
    }

    pub(crate) fn flush_done(&mut self, flush: u64) {
        for (page, covered) in self.flushes.remove(&flush).expect("it began") {
            let register = self.page(page);
            register.unstable.retain(|value| !covered.contains(value));
        }
    }

    pub(crate) fn flush_dropped(&mut self, flush: u64) {
        self.flushes.remove(&flush);
    }

    /// A box that lost power became primary: what was not stable may be gone.
    pub(crate) fn power_was_lost(&mut self) {
        for register in self.pages.values_mut() {
            let unstable = register.unstable.clone();
            register.lost.extend(unstable);
        }
    }
}
