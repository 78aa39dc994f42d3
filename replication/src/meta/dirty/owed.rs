//! Blocks that are dirty only because of writes that can be sent again (law D4).

use super::DirtyMap;
use crate::wire::mask::Run;

impl DirtyMap {
    /// Dirty blocks that are not owed.
    #[must_use]
    pub fn to_copy(&self) -> u64 {
        self.count - self.owed.len() as u64
    }

    /// Whether `block` is dirty only because of kept writes.
    #[must_use]
    pub fn is_owed(&self, block: u32) -> bool {
        self.owed.contains_key(&block)
    }

    /// Marks `block` for the kept write `number`; nothing changes if it is to be copied anyway.
    pub fn owe(&mut self, block: u32, number: u64) {
        if !self.contains(block) || self.is_owed(block) {
            let newest = self.owed.entry(block).or_default();
            *newest = number.max(*newest);
            self.mark(Run {
                start: block,
                count: 1,
            });
        }
    }

    /// The kept writes up to `number` are stable on the peer: what was dirty for them alone is
    /// clean (law D1).
    pub fn pay(&mut self, number: u64) {
        let paid = self.owed.iter().filter(|(_, newest)| **newest <= number);
        let paid: Vec<u32> = paid.map(|(block, _)| *block).collect();
        for block in paid {
            self.clear(block);
        }
    }

    /// The kept writes will not be sent again: owed blocks are copied like all others.
    pub fn disown(&mut self) {
        self.owed.clear();
    }
}
