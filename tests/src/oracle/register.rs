//! One sector as a register: is the history of its reads and writes linearizable?
//!
//! Initiators write unique values, so the test of Gibbons and Korach is exact and can run online.
//! The operations of one value form a cluster; `first_end` is the earliest end of any of them and
//! `last_start` the latest start. A cluster whose `first_end < last_start` held the register during
//! all of that time (a forward zone); any other took place at one moment between the two
//! (a backward zone). The history is linearizable if and only if no two forward zones overlap and
//! no backward zone lies inside a forward one.
//!
//! A write without an answer counts only once its value was read. `deadline` bounds when it can
//! have happened: a command that was accepted by one primary takes effect before the next primary
//! serves, or never (O2).

use crate::world::content::Value;

/// A moment: the number of an event, so that no two are equal.
pub type Moment = u64;

/// "Not yet".
pub const NEVER: Moment = Moment::MAX;

/// Number of a write in the oracle's list.
pub type WriteId = usize;

#[derive(Clone, Copy, Debug)]
struct Cluster {
    write: WriteId,
    value: Value,
    first_end: Moment,
    last_start: Moment,
    /// False for a write without an answer that nobody has read.
    happened: bool,
}

impl Cluster {
    fn conflicts(&self, other: &Self) -> bool {
        let forward = |cluster: &Self| cluster.first_end < cluster.last_start;
        match (forward(self), forward(other)) {
            (true, true) => self.first_end < other.last_start && other.first_end < self.last_start,
            (true, false) => other.lies_inside(self),
            (false, true) => self.lies_inside(other),
            (false, false) => false,
        }
    }

    fn lies_inside(&self, forward: &Self) -> bool {
        forward.first_end < self.last_start && self.first_end < forward.last_start
    }
}

/// The history of one sector.
#[derive(Clone, Debug)]
pub struct Register {
    clusters: Vec<Cluster>,
}

/// Why a history is not linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Breach {
    /// Nobody wrote this value here, or it was lost for good with an earlier cache.
    Invented(Value),
    /// The operations on the two values cannot be ordered.
    Order(Value, Value),
}

impl std::fmt::Display for Breach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invented(value) => write!(f, "{value} was never written there"),
            Self::Order(one, other) => write!(f, "{one} and {other} cannot both be in order"),
        }
    }
}

impl Register {
    /// A sector that holds `value` since `moment`, by the write `write`.
    pub fn new(write: WriteId, value: Value, moment: Moment) -> Self {
        let first_end = moment;
        let cluster = Cluster {
            write,
            value,
            first_end,
            last_start: moment,
            happened: true,
        };
        Self {
            clusters: vec![cluster],
        }
    }

    /// A write begins.
    pub fn begin(&mut self, write: WriteId, value: Value, start: Moment) {
        let cluster = Cluster {
            write,
            value,
            first_end: NEVER,
            last_start: start,
            happened: false,
        };
        self.clusters.push(cluster);
    }

    /// A write can no longer take effect after `deadline`.
    pub fn bound(&mut self, write: WriteId, deadline: Moment) {
        if let Some(cluster) = self.of_write(write) {
            cluster.first_end = cluster.first_end.min(deadline);
        }
    }

    /// A write was acknowledged.
    pub fn acked(&mut self, write: WriteId, end: Moment) -> Result<(), Breach> {
        let Some(cluster) = self.of_write(write) else {
            return Ok(());
        };
        cluster.first_end = cluster.first_end.min(end);
        cluster.happened = true;
        let cluster = *cluster;
        self.check(&cluster)
    }

    /// A read that ran from `start` to `end` returned `value`.
    pub fn read(&mut self, value: Value, start: Moment, end: Moment) -> Result<(), Breach> {
        let widened = |cluster: &Cluster| Cluster {
            first_end: cluster.first_end.min(end),
            last_start: cluster.last_start.max(start),
            happened: true,
            ..*cluster
        };
        let written = |(_, cluster): &(usize, &Cluster)| cluster.value == value;
        let candidates: Vec<(usize, Cluster)> = (self.clusters.iter().enumerate())
            .filter(written)
            .map(|(place, cluster)| (place, widened(cluster)))
            .collect();
        let mut last_breach = Breach::Invented(value);
        let mut fitting = Vec::new();
        for (place, candidate) in candidates {
            match self.check(&candidate) {
                Ok(()) => fitting.push((place, candidate)),
                Err(breach) => last_breach = breach,
            }
        }
        match fitting[..] {
            [] => Err(last_breach),
            [(place, cluster)] => {
                self.clusters[place] = cluster;
                Ok(())
            }
            // zeros written more than once: any of them may be meant, so none is pinned down
            _ => Ok(()),
        }
    }

    /// True if the value may be what the sector holds after the given write was acknowledged: it
    /// does not belong only to writes that were over before that one began.
    pub fn may_follow(&self, value: Value, start: Moment) -> bool {
        let fits = |cluster: &Cluster| cluster.value == value && cluster.first_end >= start;
        self.clusters.iter().any(fits)
    }

    /// All writes that took place or may yet, with their earliest ends and latest starts.
    pub fn writes(&self) -> impl Iterator<Item = WriteId> + '_ {
        self.clusters.iter().map(|cluster| cluster.write)
    }

    fn of_write(&mut self, write: WriteId) -> Option<&mut Cluster> {
        self.clusters
            .iter_mut()
            .find(|cluster| cluster.write == write)
    }

    fn check(&self, candidate: &Cluster) -> Result<(), Breach> {
        let other = |cluster: &&Cluster| cluster.write != candidate.write && cluster.happened;
        match self
            .clusters
            .iter()
            .filter(other)
            .find(|cluster| cluster.conflicts(candidate))
        {
            Some(cluster) => Err(Breach::Order(candidate.value, cluster.value)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector() -> Register {
        Register::new(0, Value::ZERO, 0)
    }

    #[test]
    fn an_acknowledged_write_is_seen_from_then_on() {
        let mut register = sector();
        register.begin(1, Value(1), 10);
        register.acked(1, 20).unwrap();
        assert_eq!(register.read(Value(1), 30, 31), Ok(()));
        let lost = register.read(Value::ZERO, 32, 33);
        assert_eq!(lost, Err(Breach::Order(Value::ZERO, Value(1))));
    }

    #[test]
    fn a_value_once_read_stays_read() {
        let mut register = sector();
        register.begin(1, Value(1), 10);
        assert_eq!(
            register.read(Value(1), 30, 31),
            Ok(()),
            "not acknowledged, but there"
        );
        assert!(register.read(Value::ZERO, 32, 33).is_err(), "un-read");
    }

    #[test]
    fn a_concurrent_read_may_see_either() {
        let mut register = sector();
        register.begin(1, Value(1), 10);
        assert_eq!(register.read(Value::ZERO, 12, 15), Ok(()));
        assert_eq!(register.read(Value(1), 13, 16), Ok(()));
        assert!(register.read(Value::ZERO, 17, 18).is_err());
    }

    #[test]
    fn a_ghost_after_its_deadline_is_found() {
        let mut register = sector();
        register.begin(1, Value(1), 10);
        register.bound(1, 40);
        register.begin(2, Value(2), 50);
        register.acked(2, 55).unwrap();
        assert!(register.read(Value(1), 60, 61).is_err());
        let mut unbounded = sector();
        unbounded.begin(1, Value(1), 10);
        unbounded.begin(2, Value(2), 50);
        unbounded.acked(2, 55).unwrap();
        assert!(
            unbounded.read(Value(1), 60, 61).is_ok(),
            "legal while it may be in flight"
        );
    }

    #[test]
    fn zeros_written_twice_fit_where_one_of_them_does() {
        let mut register = sector();
        register.begin(1, Value(1), 10);
        register.acked(1, 11).unwrap();
        register.begin(2, Value::ZERO, 20);
        assert_eq!(register.read(Value::ZERO, 12, 25), Ok(()));
        assert_eq!(
            register.read(Value(7), 26, 27),
            Err(Breach::Invented(Value(7)))
        );
    }
}
