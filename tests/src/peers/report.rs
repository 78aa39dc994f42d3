//! Medians and ratios.

use std::fmt;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::server::Kind;
use super::tool::{Sample, Tool};
use super::workload::Workload;

/// A sample whose initiator used this much more than in its best one was disturbed.
const NOISE: f64 = 1.15;
/// How far our own initiator may be from another maker's on the same load.
const AGREEMENT: f64 = 0.15;

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// The target.
    pub kind: Kind,
    /// The load.
    pub workload: Workload,
    /// The initiator.
    pub tool: Tool,
}

impl Cell {
    /// Whether every word of a pattern fits load, target or initiator.
    #[must_use]
    pub fn fits(&self, pattern: &str) -> bool {
        let load = self.workload.to_string();
        let parts = [load.as_str(), self.kind.name(), self.tool.name()];
        let mut words = pattern.split_whitespace();
        words.all(|word| parts.iter().any(|part| is_like(part, word)))
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (target, tool) = (self.kind.name(), self.tool.name());
        write!(f, "{} {target} {tool}", self.workload)
    }
}

/// Whether a name is like a pattern, in which `*` stands for anything.
fn is_like(name: &str, pattern: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return name == pattern;
    };
    let Some(left) = name.strip_prefix(start) else {
        return false;
    };
    (0..=left.len()).any(|at| left.get(at..).is_some_and(|tail| is_like(tail, rest)))
}

/// All samples of one cell.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What they are of.
    pub cell: Cell,
    /// One for each round.
    pub samples: Vec<Sample>,
    /// System calls of the target for each command, if they were counted.
    pub system_calls: Option<f64>,
}

/// Middle, least and largest of a set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of an even number the median is the mean of the two in the middle. None of nothing.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        let median = low.midpoint(high);
        Some(Self { median, min, max })
    }

    fn json(self) -> Value {
        json!({"median": self.median, "min": self.min, "max": self.max})
    }
}

impl Row {
    /// A row without samples.
    #[must_use]
    pub const fn new(cell: Cell) -> Self {
        Self {
            cell,
            samples: Vec::new(),
            system_calls: None,
        }
    }

    /// Samples that were not disturbed; the best one always counts.
    pub fn quiet(&self) -> impl Iterator<Item = &Sample> {
        let gauges = self.samples.iter().map(|sample| sample.gauge_us);
        let best = gauges.fold(f64::INFINITY, f64::min);
        let is_quiet = move |sample: &&Sample| sample.gauge_us <= best * NOISE;
        self.samples.iter().filter(is_quiet)
    }

    fn spread(&self, of: impl Fn(&Sample) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.quiet().filter_map(of))
    }

    fn iops(&self) -> Option<Spread> {
        self.spread(|sample| Some(sample.iops))
    }

    fn cpu_us(&self) -> Option<Spread> {
        self.spread(|sample| Some(sample.cpu_us))
    }

    fn gauge_us(&self) -> Option<Spread> {
        self.spread(|sample| Some(sample.gauge_us))
    }

    fn p99_us(&self) -> Option<Spread> {
        self.spread(|sample| sample.p99_us)
    }

    /// Everything, for a program.
    #[must_use]
    pub fn json(&self) -> Value {
        let all = |spread: Option<Spread>| spread.map(Spread::json);
        json!({
            "load": self.cell.workload.to_string(),
            "target": self.cell.kind.name(),
            "initiator": self.cell.tool.name(),
            "rounds": self.samples.len(),
            "rounds_kept": self.quiet().count(),
            "iops": all(self.iops()),
            "mb_per_s": self.iops().map(|iops| megabytes(iops.median, self.cell.workload)),
            "target_cpu_us": all(self.cpu_us()),
            "initiator_cpu_us": all(self.gauge_us()),
            "p99_us": all(self.p99_us()),
            "system_calls": self.system_calls,
        })
    }

    fn line(&self) -> String {
        let cell = self.cell;
        let of = |spread: Option<Spread>, decimals| {
            spread.map_or_else(|| "-".to_owned(), |spread| shown(spread, decimals))
        };
        let kept = format!("{}/{}", self.quiet().count(), self.samples.len());
        let megabytes = self
            .iops()
            .map_or(0.0, |iops| megabytes(iops.median, cell.workload));
        let calls = self.system_calls;
        let calls = calls.map_or_else(|| "-".to_owned(), |calls| format!("{calls:.2}"));
        format!(
            "  {:13} {kept:>5} {:>25} {megabytes:>7.0} {:>22} {:>24} {calls:>6} {:>22}\n",
            cell.kind.name(),
            of(self.iops(), 0),
            of(self.cpu_us(), 2),
            of(self.p99_us(), 0),
            of(self.gauge_us(), 2),
        )
    }
}

fn shown(spread: Spread, decimals: usize) -> String {
    let Spread { median, min, max } = spread;
    format!("{median:.decimals$} ({min:.decimals$}-{max:.decimals$})")
}

fn megabytes(iops: f64, workload: Workload) -> f64 {
    iops * f64::from(workload.block_bytes) / 1e6
}

/// All rows, those of one load and initiator together, each rival with its ratios.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let same = |a: &Row, b: &Row| (a.cell.workload, a.cell.tool) == (b.cell.workload, b.cell.tool);
    for group in rows.chunk_by(same) {
        let Cell { workload, tool, .. } = group[0].cell;
        let _ = writeln!(
            text,
            "{:30} kept {:>25} {:>7} {:>22} {:>24} {:>6} {:>22}",
            format!("{workload}, {}", tool.name()),
            "I/O per s (min-max)",
            "MB/s",
            "CPU us per I/O",
            "p99 us",
            "calls",
            "initiator us"
        );
        for row in group {
            text += &row.line();
        }
        for row in group {
            text += &ratios(row, group);
        }
        for row in group {
            text += &disagreement(row, rows);
        }
    }
    text
}

/// Ours divided by a rival's.
fn ratios(rival: &Row, group: &[Row]) -> String {
    let Some(ours) = group
        .iter()
        .find(|row| rival.cell.kind.rival() == Some(row.cell.kind))
    else {
        return String::new();
    };
    let ratio = |of: fn(&Row) -> Option<Spread>| match (of(ours), of(rival)) {
        (Some(ours), Some(rival)) => format!("{:.2}", ours.median / rival.median),
        _ => "-".to_owned(),
    };
    format!(
        "    {} / {}: I/O per s {}, CPU {}, p99 {}\n",
        ours.cell.kind.name(),
        rival.cell.kind.name(),
        ratio(Row::iops),
        ratio(Row::cpu_us),
        ratio(Row::p99_us)
    )
}

/// A line where our own initiator finds another speed than the other maker's.
fn disagreement(row: &Row, rows: &[Row]) -> String {
    let other = rows.iter().find(|other| {
        other.cell.tool != Tool::Own
            && (other.cell.kind, other.cell.workload) == (row.cell.kind, row.cell.workload)
    });
    let found = other.and_then(|other| Some((row.iops()?.median, other.iops()?.median, other)));
    match found {
        Some((own, theirs, other)) if row.cell.tool == Tool::Own => {
            let factor = own / theirs;
            if (factor - 1.0).abs() <= AGREEMENT {
                return String::new();
            }
            let (kind, tool) = (row.cell.kind.name(), other.cell.tool.name());
            format!("    {kind}: {factor:.2} of what {tool} gets; p99 at another speed\n")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: Kind, tool: Tool, samples: &[(f64, f64)]) -> Row {
        let workload = Workload::named("read-4k-qd32").unwrap();
        let sample = |(iops, gauge_us): &(f64, f64)| Sample {
            iops: *iops,
            cpu_us: 1e6 / iops,
            gauge_us: *gauge_us,
            p99_us: None,
        };
        Row {
            samples: samples.iter().map(sample).collect(),
            ..Row::new(Cell {
                kind,
                workload,
                tool,
            })
        }
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let odd = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([7.0]).unwrap().median, 7.0);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn disturbed_samples_do_not_count_but_the_best_one_does() {
        let samples = [(1000.0, 10.0), (10.0, 11.6), (900.0, 11.4)];
        let noisy = row(Kind::TgtNull, Tool::IscsiPerf, &samples);
        assert_eq!(noisy.quiet().count(), 2);
        assert_eq!(noisy.iops().unwrap().median, 950.0);
        let one = row(Kind::TgtNull, Tool::IscsiPerf, &samples[1..2]);
        assert_eq!(one.quiet().count(), 1);
    }

    #[test]
    fn stars_stand_for_anything() {
        assert!(is_like("tgt-null", "*-null") && is_like("tgt-null", "t*t-n*"));
        assert!(is_like("tgt-null", "*") && is_like("tgt-null", "tgt-null"));
        assert!(!is_like("tgt-null", "tgt") && !is_like("tgt-null", "*-file"));
        assert!(!is_like("tgt-null", ""));
    }

    #[test]
    fn a_rival_gets_its_ratios() {
        let rows = [
            row(Kind::TwinsanNull, Tool::IscsiPerf, &[(3000.0, 1.0)]),
            row(Kind::TgtNull, Tool::IscsiPerf, &[(1500.0, 1.0)]),
        ];
        let table = table(&rows);
        let line = "twinsan-null / tgt-null: I/O per s 2.00, CPU 0.50, p99 -";
        assert!(table.contains(line), "{table}");
    }

    #[test]
    fn an_initiator_of_ours_that_sees_another_speed_is_named() {
        let theirs = row(Kind::TgtNull, Tool::IscsiPerf, &[(1000.0, 1.0)]);
        let near = row(Kind::TgtNull, Tool::Own, &[(1100.0, 1.0)]);
        assert_eq!(disagreement(&near, std::slice::from_ref(&theirs)), "");
        let far = row(Kind::TgtNull, Tool::Own, &[(1200.0, 1.0)]);
        let text = disagreement(&far, &[theirs]);
        assert!(text.contains("1.20 of what iscsi-perf gets"), "{text}");
    }

    #[test]
    fn a_row_in_json_says_what_was_kept() {
        let row = row(Kind::TgtNull, Tool::Own, &[(1000.0, 10.0), (10.0, 20.0)]);
        let value = row.json();
        assert_eq!(value["load"], "read-4k-qd32");
        assert_eq!(
            (&value["rounds"], &value["rounds_kept"]),
            (&json!(2), &json!(1))
        );
        assert_eq!(value["iops"]["median"], 1000.0);
        assert_eq!(value["mb_per_s"], 4.096);
        assert_eq!(value["p99_us"], Value::Null);
    }
}
