//! What a volume has done since it was attached: where the time of commands went, and how much
//! was written that is not data.
//!
//! ```text
//! write: Admit ──▶ Intent ──▶ Local  ─┬─▶ Ack        Admit: intake, range lock, gate
//!                        └──▶ Remote ─┘              Ack: lease, epoch, the slower member
//! read:  Admit ──▶ Local ──▶ Ack
//! ```
//!
//! Counted, never looked at by a rule.

use crate::types::Time;

/// A part of a command's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// From arrival to the first disk operation, without the wait for intents.
    Admit,
    /// Until the intents of its regions are durable; nothing is counted where they were.
    Intent,
    /// At this box's disk.
    Local,
    /// At the peer, with both ways: until it has acknowledged.
    Remote,
    /// From the last of these to the answer.
    Ack,
    /// A whole write.
    Write,
    /// A whole read.
    Read,
}

impl Span {
    /// All, in the order of a command's life.
    pub const ALL: [Self; 7] = [
        Self::Admit,
        Self::Intent,
        Self::Local,
        Self::Remote,
        Self::Ack,
        Self::Write,
        Self::Read,
    ];

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Intent => "intent",
            Self::Local => "local",
            Self::Remote => "remote",
            Self::Ack => "ack",
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// What is told of the counters of one volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// All parts with something in them, in the order of a command's life.
    pub times: Vec<(Span, Summary)>,
    /// Records written to the intent ring.
    pub intent_writes: u64,
    /// Pages written of the dirty map.
    pub page_writes: u64,
    /// Blocks read here to be copied to the peer.
    pub copied_blocks: u64,
}

/// Counters of one volume.
#[derive(Debug, Default)]
pub(super) struct Counters {
    spans: [Histogram; Span::ALL.len()],
    pub(super) intent_writes: u64,
    pub(super) page_writes: u64,
    pub(super) copied_blocks: u64,
}

impl Counters {
    pub(super) fn told(&self) -> Work {
        let all = Span::ALL.map(|span| (span, self.spans[span as usize].summary()));
        let times = all.into_iter().filter(|(_, told)| told.count > 0);
        Work {
            times: times.collect(),
            intent_writes: self.intent_writes,
            page_writes: self.page_writes,
            copied_blocks: self.copied_blocks,
        }
    }

    pub(super) const fn record(&mut self, span: Span, from: Time, to: Time) {
        self.spans[span as usize].record(to.0.saturating_sub(from.0));
    }
}

/// What is told of a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many were counted.
    pub count: u64,
    /// Mean, in nanoseconds.
    pub mean_ns: u64,
    /// Half of them took at most this long, in nanoseconds.
    pub p50_ns: u64,
    /// 99 of 100 took at most this long, in nanoseconds.
    pub p99_ns: u64,
    /// The longest, in nanoseconds.
    pub max_ns: u64,
}

/// Shortest time that is told from none, in bits of nanoseconds: 256 ns.
const UNIT_BITS: u32 = 8;
/// Each doubling of the time has so many buckets, in bits.
const PART_BITS: u32 = 2;
/// The last one takes everything from 18 minutes on.
const BUCKETS: usize = 128;

/// Times, each known to within a quarter of itself.
#[derive(Debug)]
struct Histogram {
    buckets: [u64; BUCKETS],
    count: u64,
    sum_ns: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: [0; BUCKETS],
            count: 0,
            sum_ns: 0,
            max_ns: 0,
        }
    }
}

impl Histogram {
    const fn record(&mut self, ns: u64) {
        self.buckets[bucket(ns)] += 1;
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        if ns > self.max_ns {
            self.max_ns = ns;
        }
    }

    fn summary(&self) -> Summary {
        Summary {
            count: self.count,
            mean_ns: self.sum_ns.checked_div(self.count).unwrap_or(0),
            p50_ns: self.at_most_ns(500),
            p99_ns: self.at_most_ns(990),
            max_ns: self.max_ns,
        }
    }

    /// So many of a thousand took at most this long, in nanoseconds: the upper end of a bucket.
    fn at_most_ns(&self, per_mille: u64) -> u64 {
        let wanted = (u128::from(self.count) * u128::from(per_mille)).div_ceil(1000);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= wanted && seen > 0 {
                return upper_ns(index).min(self.max_ns);
            }
        }
        self.max_ns
    }
}

/// The bucket of a time.
const fn bucket(ns: u64) -> usize {
    let value = ns >> UNIT_BITS;
    if value < 1 << PART_BITS {
        return value as usize;
    }
    let exponent = value.ilog2();
    let part = (value >> (exponent - PART_BITS)) & ((1 << PART_BITS) - 1);
    let index = (((exponent - PART_BITS + 1) << PART_BITS) as usize) + part as usize;
    if index < BUCKETS { index } else { BUCKETS - 1 }
}

/// The longest time that falls into a bucket.
fn upper_ns(index: usize) -> u64 {
    let index = index as u64;
    let parts = 1 << PART_BITS;
    if index < parts {
        return ((index + 1) << UNIT_BITS) - 1;
    }
    let (octave, part) = (index / parts - 1, index % parts);
    ((parts + part + 1) << octave << UNIT_BITS) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_lies_in_its_bucket_and_the_next_one_does_not() {
        for index in 0..BUCKETS - 1 {
            let upper = upper_ns(index);
            assert_eq!(bucket(upper), index, "{upper} ns");
            assert_eq!(bucket(upper + 1), index + 1, "{upper} ns and one more");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_right_to_within_a_quarter() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.summary(), Summary::default());
        for us in 1..=1000 {
            histogram.record(us * 1000);
        }
        for per_mille in [10, 500, 900, 990] {
            let (exact, told) = (per_mille * 1000, histogram.at_most_ns(per_mille));
            assert!(
                told >= exact && told <= exact + exact / 4 + 256,
                "{told} for {exact}"
            );
        }
        assert_eq!(histogram.at_most_ns(1000), 1_000_000);
        let told = histogram.summary();
        assert_eq!(
            (told.count, told.mean_ns, told.max_ns),
            (1000, 500_500, 1_000_000)
        );
    }
}
