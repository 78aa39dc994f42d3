//! Whether the data thread moves. One that stands still serves nobody and gives nothing up, so the
//! process ends: then the other box takes over (law R12).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

/// How often the watcher looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Looks in a row without a beat. The watcher counts its own looks, not time: a process that was
/// stopped as a whole has not missed any.
const MISSED_MAX: u32 = 50;

/// Beats of the data thread; 0 while it need not beat.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pulse {
    beats: Arc<AtomicU64>,
}

impl Pulse {
    /// It moves.
    pub(crate) fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// It ends in an orderly way and beats no more.
    pub(crate) fn rest(&self) {
        self.beats.store(0, Ordering::Relaxed);
    }

    /// Returns when beats are missing.
    async fn missed(&self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watcher = Watcher::default();
        while !watcher.misses(self.beats.load(Ordering::Relaxed)) {
            look.tick().await;
        }
    }

    /// Ends the process if the data thread stands still.
    pub(crate) async fn watch(self) {
        self.missed().await;
        tracing::error!(
            "the data thread has not moved for 10 s; the daemon ends, so that the other box takes \
             over; please report this: {}",
            threads()
        );
        std::process::abort();
    }
}

/// Who looks at the beats now and then.
#[derive(Debug, Default)]
struct Watcher {
    last: u64,
    missed: u32,
}

impl Watcher {
    /// One look; true if beats have been missing for too long.
    fn misses(&mut self, beats: u64) -> bool {
        let moves = beats != self.last || beats == 0;
        self.missed = if moves { 0 } else { self.missed + 1 };
        self.last = beats;
        self.missed == MISSED_MAX
    }
}

/// What each thread waits for, as far as the kernel tells.
fn threads() -> String {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return String::new();
    };
    let told = tasks.flatten().map(|task| {
        let read = |name: &str| {
            let text = std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            text.trim().to_owned()
        };
        let used: Vec<String> = read("stat")
            .split(' ')
            .skip(13)
            .take(2)
            .map(str::to_owned)
            .collect();
        let used = used.join("+");
        format!(
            "{}: ticks {used}, {}, {}",
            read("comm"),
            read("wchan"),
            read("syscall")
        )
    });
    told.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether that many looks find beats missing.
    fn misses(watcher: &mut Watcher, pulse: &Pulse, looks: u32) -> bool {
        (0..looks).any(|_| watcher.misses(pulse.beats.load(Ordering::Relaxed)))
    }

    #[test]
    fn a_thread_that_stands_still_is_noticed_and_one_that_rests_is_not() {
        let (mut watcher, pulse) = (Watcher::default(), Pulse::default());
        assert!(
            !misses(&mut watcher, &pulse, 2 * MISSED_MAX),
            "it has not begun"
        );
        for _ in 0..3 {
            pulse.beat();
            let most = MISSED_MAX; // the first of them sees the beat
            assert!(!misses(&mut watcher, &pulse, most), "it moves");
        }
        assert!(misses(&mut watcher, &pulse, 1), "no beat any more");
        pulse.beat();
        pulse.rest();
        assert!(!misses(&mut watcher, &pulse, 2 * MISSED_MAX), "it rests");
    }
}
