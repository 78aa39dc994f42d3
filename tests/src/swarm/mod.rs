//! Many histories on several threads, their sum, and the command to see a failed one again.

pub mod kills;
pub mod minimise;
pub mod record;
pub mod report;

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once};

use replication::mutants::law_of;

use crate::faults::Fault;
use crate::trim::Trim;
use crate::world::World;
use crate::world::history::{self, Report};
use crate::world::trace::{Counts, Trace};

/// Lines of a failed history that are printed.
const TAIL_LINES: usize = 80;

/// A history that broke a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// The event during which it happened.
    pub event: u64,
    /// "L1: ..." or the text of a panic in a core.
    pub breach: String,
    /// The faults that happened: number, true time, kind.
    pub faults: Vec<(u32, u64, Fault)>,
    /// Commands that were sent.
    pub commands: u64,
    /// The end of its trace.
    pub tail: Vec<String>,
}

impl Failure {
    /// The promise that was broken; for a panic in a core, where it was.
    pub fn promise(&self) -> &str {
        law_of(&self.breach).unwrap_or_else(|| {
            let place = self.breach.rfind(" (");
            place.map_or(self.breach.as_str(), |at| &self.breach[at..])
        })
    }
}

/// The sum of many histories.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    /// Histories run.
    pub histories: u64,
    /// Events delivered.
    pub events: u64,
    /// Virtual time in nanoseconds.
    pub virtual_ns: u64,
    /// What was seen, how often.
    pub counts: Counts,
    /// Failed histories, by seed.
    pub failures: Vec<Failure>,
}

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The first seed; the histories have this one and those that follow.
    pub seed: u64,
    /// How many.
    pub histories: u64,
    /// Threads.
    pub jobs: usize,
    /// Stop at the first failure.
    pub fail_fast: FailFast,
}

/// Whether a failure ends the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailFast {
    /// At the first one.
    Yes,
    /// Never.
    No,
}

/// Runs one history without words.
///
/// # Errors
/// The breach, with the seed and the number of the event.
pub fn run_one(seed: u64) -> Result<Report, Failure> {
    run_with((seed, &Trim::default()), Trace::silent())
}

/// Runs one history and keeps its last `lines` lines.
///
/// # Errors
/// The breach, with the end of the trace.
pub fn run_traced(seed: u64, lines: usize) -> Result<Report, Failure> {
    run_trimmed((seed, &Trim::default()), lines)
}

/// The same with less in it.
///
/// # Errors
/// The breach, with the end of the trace.
pub fn run_trimmed(history: (u64, &Trim), lines: usize) -> Result<Report, Failure> {
    run_with(history, Trace::keeping(lines))
}

/// Runs all histories of a plan; failures are run once more for their trace.
pub fn run(plan: Plan) -> Sum {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= plan.histories || stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let result = run_one(plan.seed.wrapping_add(number));
                    if result.is_err() && plan.fail_fast == FailFast::Yes {
                        stop.store(true, Ordering::Relaxed);
                    }
                    sum.lock()
                        .expect("no thread panics while it holds the sum")
                        .add(result);
                }
            });
        }
    });
    let mut sum = sum.into_inner().expect("all threads have ended");
    sum.failures.sort_by_key(|failure| failure.seed);
    sum
}

impl Sum {
    fn add(&mut self, result: Result<Report, Failure>) {
        self.histories += 1;
        match result {
            Ok(report) => {
                self.events += report.events;
                self.virtual_ns += report.virtual_ns;
                self.counts.merge(&report.counts);
            }
            Err(failure) => self.failures.push(failure),
        }
    }
}

/// The end of the trace of a failed history.
pub fn tail_of(seed: u64) -> Vec<String> {
    match run_traced(seed, TAIL_LINES) {
        Ok(_) => vec!["the same seed passes now: the history is not a function of it".to_owned()],
        Err(failure) => failure.tail,
    }
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn run_with(history: (u64, &Trim), trace: Trace) -> Result<Report, Failure> {
    catch_quietly();
    let mut world = None;
    let ended = panic::catch_unwind(AssertUnwindSafe(|| {
        history::run(history, &mut world, trace);
    }));
    let seed = history.0;
    let event = world.as_ref().map_or(0, |world| world.delivered);
    match (ended, world) {
        (Ok(()), Some(world)) => Ok(world.report()),
        (_, world) => {
            let breach = PANIC
                .take()
                .unwrap_or_else(|| "a panic without words".to_owned());
            let tail = |world: &World| world.trace.lines().map(str::to_owned).collect();
            Err(Failure {
                seed,
                event,
                breach,
                faults: world.as_ref().map_or_else(Vec::new, |w| w.faults.clone()),
                commands: world.as_ref().map_or(0, |world| world.next_command),
                tail: world.as_ref().map_or_else(Vec::new, tail),
            })
        }
    }
}

/// Panics of histories are kept for the report and not printed.
fn catch_quietly() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let text = info.payload_as_str().unwrap_or("a panic without words");
            let here = info
                .location()
                .map_or_else(String::new, |at| match at.file() {
                    own if own.contains("tests/src/world.rs") => String::new(),
                    file => format!(" ({file}:{})", at.line()),
                });
            PANIC.set(Some(format!("{text}{here}")));
            let _ = &before;
        }));
    });
}
