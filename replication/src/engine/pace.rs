//! How fast a copy to the peer goes.
//!
//! - Without an application it goes at full speed.
//! - With one, the bytes in flight follow what the application feels: they are halved when the
//!   99th percentile of its latencies, over a window of 100 ms, is above 1.5 times what it is
//!   without a copy, and grow by one block otherwise; one block is always in flight.
//! - An operator may pause it, or name a rate.
//! - It ends: if less than the floor was won in a second, writes to what is clean already wait for
//!   the peer's window instead of being copied once more later.

use super::Pace;
use crate::meta::DIRTY_BLOCK_BYTES;
use crate::mutants::mutant;
use crate::types::Time;

/// What is copied per second at least, or the application is slowed down.
pub(super) const FLOOR_BYTES_PER_S: u64 = 4 << 20;
/// How long latencies are collected before they are judged.
const JUDGED_EVERY_MS: u64 = 100;
/// Fewer latencies than that say nothing about a percentile, unless no more come in a second.
const JUDGED_MIN: u64 = 10;
/// Length of the windows in which progress is measured.
const PROGRESS_EVERY_MS: u64 = 1000;
/// Latencies up to this share of the usual ones, in quarters, are no reason to slow down.
const TARGET_QUARTERS: u64 = 6;
/// A tenth of the windows' weight is the newest one's.
const BASELINE_WEIGHT: u64 = 10;

/// Latencies by magnitude: eight buckets for each power of two.
#[derive(Clone, Debug)]
struct Latencies {
    buckets: [u32; BUCKETS],
    count: u64,
}

const BUCKETS: usize = 64 * 8;

impl Latencies {
    const fn new() -> Self {
        Self {
            buckets: [0; BUCKETS],
            count: 0,
        }
    }

    fn add(&mut self, ns: u64) {
        let bucket = &mut self.buckets[bucket_of(ns)];
        *bucket = bucket.saturating_add(1);
        self.count += 1;
    }

    /// The lower end of the bucket that the 99th percentile is in.
    fn p99_ns(&self) -> u64 {
        let mut above = self.count / 100;
        for (bucket, count) in self.buckets.iter().enumerate().rev() {
            let count = u64::from(*count);
            if count > above {
                return floor_of(bucket);
            }
            above -= count;
        }
        0
    }
}

fn bucket_of(ns: u64) -> usize {
    if ns < 8 {
        return usize::try_from(ns).expect("below eight");
    }
    let magnitude = ns.ilog2() as usize;
    let eighth = usize::try_from(ns >> (magnitude - 3) & 7).expect("below eight");
    (magnitude - 2) * 8 + eighth
}

const fn floor_of(bucket: usize) -> u64 {
    if bucket < 8 {
        return bucket as u64;
    }
    (8 + bucket as u64 % 8) << (bucket / 8 - 1)
}

/// A kind of command and what it usually takes.
#[derive(Clone, Debug)]
struct Class {
    recent: Latencies,
    /// The 99th percentile without a copy, smoothed; the first one under a copy of one block if
    /// there was none before.
    usual_ns: Option<u64>,
}

/// What an application waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Felt {
    Read,
    Write,
}

/// The pace of the copy.
#[derive(Clone, Debug)]
pub(super) struct Pacer {
    pub(super) asked: Pace,
    classes: [Class; 2],
    judge_at: Time,
    judge_by: Time,
    /// Bytes in flight while the application is at work.
    window_bytes: u64,
    active_until: Time,
    /// With a rate: nothing starts before that.
    next_at: Time,
    /// The fewest dirty bytes seen, and when that is looked at again.
    low_bytes: u64,
    progress_at: Time,
    /// Writes wait for the peer's window.
    pub(super) holds_writes: bool,
    /// Bytes that the peer acknowledged since `counted_at`.
    acked_bytes: u64,
    counted_at: Time,
    pub(super) bytes_per_s: u64,
}

impl Pacer {
    pub(super) const fn new() -> Self {
        const CLASS: Class = Class {
            recent: Latencies::new(),
            usual_ns: None,
        };
        Self {
            asked: Pace::Auto,
            classes: [CLASS; 2],
            judge_at: Time(0),
            judge_by: Time(0),
            window_bytes: DIRTY_BLOCK_BYTES,
            active_until: Time(0),
            next_at: Time(0),
            low_bytes: u64::MAX,
            progress_at: Time(0),
            holds_writes: false,
            acked_bytes: 0,
            counted_at: Time(0),
            bytes_per_s: 0,
        }
    }

    /// A copy of `left_bytes` begins.
    pub(super) const fn begin(&mut self, now: Time, left_bytes: u64) {
        self.window_bytes = DIRTY_BLOCK_BYTES;
        self.low_bytes = left_bytes;
        self.progress_at = now.plus_ms(PROGRESS_EVERY_MS);
        self.holds_writes = false;
        self.acked_bytes = 0;
        self.counted_at = now;
        self.bytes_per_s = 0;
    }

    /// No copy is under way any more.
    pub(super) const fn end(&mut self) {
        self.holds_writes = false;
        self.bytes_per_s = 0;
    }

    /// A command came to its end.
    pub(super) fn felt(&mut self, what: Felt, now: Time, since: Time) {
        self.classes[what as usize]
            .recent
            .add(now.0.saturating_sub(since.0));
        self.active_until = now.plus_ms(JUDGED_EVERY_MS);
    }

    pub(super) const fn acked(&mut self, bytes: u64) {
        self.acked_bytes += bytes;
    }

    /// The application is at work, or was a moment ago.
    pub(super) fn is_active(&self, now: Time) -> bool {
        now < self.active_until
    }

    /// Bytes that may be in flight now.
    pub(super) fn window_bytes(&self, now: Time, commands: usize, most_bytes: u64) -> u64 {
        let most_bytes = most_bytes.max(DIRTY_BLOCK_BYTES);
        if commands == 0 && !self.is_active(now) {
            return most_bytes;
        }
        self.window_bytes.min(most_bytes)
    }

    /// Nothing starts now, whatever the window.
    pub(super) fn waits(&self, now: Time) -> bool {
        match self.asked {
            Pace::Auto => false,
            Pace::Paused => true,
            Pace::AtMost { .. } => now < self.next_at,
        }
    }

    /// Blocks that a rate lets go in one, about a tenth of a second's.
    pub(super) fn blocks_at_once(&self) -> u32 {
        match self.asked {
            Pace::Auto | Pace::Paused => u32::MAX,
            Pace::AtMost { bytes_per_s } => {
                let blocks = bytes_per_s / 10 / DIRTY_BLOCK_BYTES;
                u32::try_from(blocks).map_or(u32::MAX, |blocks| blocks.max(1))
            }
        }
    }

    /// When a rate lets the next block go.
    pub(super) fn due(&self) -> Option<Time> {
        matches!(self.asked, Pace::AtMost { .. }).then_some(self.next_at)
    }

    /// `bytes` are on their way.
    pub(super) fn started(&mut self, now: Time, bytes: u64) {
        if let Pace::AtMost { bytes_per_s } = self.asked {
            let ns = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_s.max(1));
            let ns = u64::try_from(ns).unwrap_or(u64::MAX);
            self.next_at = Time(self.next_at.max(now).0.saturating_add(ns));
        }
    }

    pub(super) fn ask(&mut self, pace: Pace, now: Time) {
        self.asked = pace;
        self.next_at = now;
        self.progress_at = now.plus_ms(PROGRESS_EVERY_MS);
        self.holds_writes &= pace != Pace::Paused;
    }

    /// Judges what was felt, if it is time.
    pub(super) fn judge(&mut self, now: Time, copying: Copying, most_bytes: u64) {
        let count: u64 = self.classes.iter().map(|class| class.recent.count).sum();
        if now < self.judge_at || count < JUDGED_MIN && now < self.judge_by {
            return;
        }
        self.judge_at = now.plus_ms(JUDGED_EVERY_MS);
        self.judge_by = now.plus_ms(PROGRESS_EVERY_MS);
        let mut slow = false;
        for class in &mut self.classes {
            if class.recent.count == 0 {
                continue;
            }
            let p99_ns = class.recent.p99_ns();
            class.recent = Latencies::new();
            let usual_ns = *class.usual_ns.get_or_insert(p99_ns);
            match copying {
                Copying::No => {
                    let kept = usual_ns - usual_ns / BASELINE_WEIGHT;
                    class.usual_ns = Some(kept + p99_ns / BASELINE_WEIGHT);
                }
                Copying::Yes => slow |= p99_ns > usual_ns.saturating_mul(TARGET_QUARTERS) / 4,
            }
        }
        if copying == Copying::Yes && count > 0 {
            self.window_bytes = if slow {
                (self.window_bytes / 2).max(DIRTY_BLOCK_BYTES)
            } else {
                (self.window_bytes + DIRTY_BLOCK_BYTES).min(most_bytes.max(DIRTY_BLOCK_BYTES))
            };
        }
    }

    /// Looks at what was won in the last second; slows the application down if that is too little.
    pub(super) fn measure(&mut self, now: Time, left_bytes: u64) {
        if now < self.progress_at {
            return;
        }
        let won_bytes = self.low_bytes.saturating_sub(left_bytes);
        let floor_bytes = match self.asked {
            Pace::Auto => FLOOR_BYTES_PER_S,
            Pace::AtMost { bytes_per_s } => FLOOR_BYTES_PER_S.min(bytes_per_s / 2),
            Pace::Paused => 0,
        };
        self.holds_writes |= won_bytes < floor_bytes && !mutant!(EndlessCopy);
        self.low_bytes = self.low_bytes.min(left_bytes);
        self.progress_at = now.plus_ms(PROGRESS_EVERY_MS);
        let elapsed_ms = (now.0.saturating_sub(self.counted_at.0) / 1_000_000).max(1);
        self.bytes_per_s = self.acked_bytes.saturating_mul(1000) / elapsed_ms;
        self.acked_bytes = 0;
        self.counted_at = now;
    }

    /// The application's latencies keep the copy from full speed.
    pub(super) fn yields(&self, now: Time, most_bytes: u64) -> bool {
        self.is_active(now) && self.window_bytes < most_bytes
    }
}

/// Whether a copy was under way when latencies were felt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copying {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MOST: u64 = 8 << 20;
    const MS: u64 = 1_000_000;

    /// A window of `count` writes that take `ns` each; the time after it.
    fn window(pacer: &mut Pacer, from: Time, (count, ns): (u64, u64), copying: Copying) -> Time {
        for at in 0..count {
            let now = Time(from.0 + at);
            pacer.felt(Felt::Write, now, Time(now.0.saturating_sub(ns)));
        }
        let end = from.plus_ms(JUDGED_EVERY_MS);
        pacer.judge(end, copying, MOST);
        end
    }

    #[test]
    fn slow_writes_halve_the_window_and_usual_ones_widen_it_by_a_block() {
        let mut pacer = Pacer::new();
        let mut now = Time(1000 * MS);
        for _ in 0..20 {
            now = window(&mut pacer, now, (50, MS), Copying::No);
        }
        pacer.begin(now, 1 << 30);
        for blocks in 2..=9 {
            now = window(&mut pacer, now, (50, MS), Copying::Yes);
            assert_eq!(pacer.window_bytes(now, 1, MOST), blocks * DIRTY_BLOCK_BYTES);
        }
        for blocks in [4, 2, 1, 1] {
            now = window(&mut pacer, now, (50, 2 * MS), Copying::Yes);
            let most = (blocks + 1) * DIRTY_BLOCK_BYTES;
            let least = blocks * DIRTY_BLOCK_BYTES;
            assert!((least..most).contains(&pacer.window_bytes(now, 1, MOST)));
        }
    }

    #[test]
    fn without_an_application_the_window_is_open() {
        let mut pacer = Pacer::new();
        let now = window(&mut pacer, Time(MS), (50, MS), Copying::Yes);
        assert!(pacer.window_bytes(now, 1, MOST) < MOST);
        let later = now.plus_ms(JUDGED_EVERY_MS);
        assert_eq!(pacer.window_bytes(later, 0, MOST), MOST);
        assert!(pacer.window_bytes(later, 1, MOST) < MOST);
    }

    #[test]
    fn a_rate_spaces_what_is_started() {
        let mut pacer = Pacer::new();
        let bytes_per_s = 10 * DIRTY_BLOCK_BYTES;
        pacer.ask(Pace::AtMost { bytes_per_s }, Time(0));
        let (mut now, mut blocks) = (Time(0), 0);
        while now < Time(1000 * MS) {
            if pacer.waits(now) {
                now = pacer.due().expect("a rate is asked for");
                continue;
            }
            pacer.started(now, DIRTY_BLOCK_BYTES);
            blocks += 1;
        }
        assert_eq!(blocks, 10);
    }

    #[test]
    fn writes_are_held_when_a_second_wins_too_little() {
        let mut pacer = Pacer::new();
        pacer.begin(Time(0), 64 << 20);
        pacer.measure(Time(1000 * MS), 56 << 20);
        assert!(!pacer.holds_writes, "8 MiB were won");
        pacer.measure(Time(2000 * MS), 55 << 20);
        assert!(pacer.holds_writes, "1 MiB was won");
        pacer.ask(Pace::Paused, Time(2000 * MS));
        assert!(!pacer.holds_writes, "nobody waits for what stands still");
    }

    proptest! {
        #[test]
        fn buckets_keep_an_eighth(ns in 0u64..1 << 60) {
            let floor = floor_of(bucket_of(ns));
            prop_assert!(floor <= ns && ns - floor <= ns / 8);
        }

        #[test]
        fn one_in_a_hundred_may_be_slow(fast in 1u64..1 << 40, slow in 0u64..8) {
            let mut latencies = Latencies::new();
            (0..198).for_each(|_| latencies.add(fast));
            (0..=slow.min(1)).for_each(|_| latencies.add(fast * 100));
            prop_assert!(latencies.p99_ns() <= fast);
            (0..2).for_each(|_| latencies.add(fast * 100));
            prop_assert!(latencies.p99_ns() > fast);
        }
    }
}
