//! The trace as a ladder: a lane for each machine, an arrow for each message, time downwards.
//!
//! ```text
//!   time s     event  initiator san1      san2      witness
//!   4.120034    #812  |-------->|         |         |        write 17 of block 3
//!   4.120101    #813  |         |-------->|         |        Write 40
//!   4.120377    #816  |         *         |         |        san1: mirror: PeerLost { .. }
//!   4.121002    #819  |         |----x    |         |        Flush 41
//! ```

use crate::coverage::Fate;
use crate::net::{Host, SAN1, SAN2, WITNESS};

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Whoever logs in.
    Initiator,
    /// The first box.
    San1,
    /// The second box.
    San2,
    /// The witness.
    Witness,
}

/// From one lane to the next.
const PITCH: usize = 10;
const LANES: usize = 4;

impl Lane {
    /// The lane of a machine.
    pub fn of(host: Host) -> Self {
        match host {
            SAN1 => Self::San1,
            SAN2 => Self::San2,
            _ => Self::Witness,
        }
    }

    /// The lane of the machine that a line begins with.
    fn named(line: &str) -> Option<Self> {
        let named = [SAN1, SAN2, WITNESS].into_iter().find(|host| {
            let rest = line.strip_prefix(&host.to_string());
            rest.is_some_and(|rest| rest.starts_with([':', ' ']))
        });
        named.map(Self::of)
    }

    const fn column(self) -> usize {
        self as usize * PITCH
    }
}

/// What stands above the lanes.
pub fn heading() -> String {
    format!(
        "{:>11} {:>7}  {:PITCH$}{:PITCH$}{:PITCH$}witness",
        "time s", "event", "initiator", "san1", "san2"
    )
}

/// The lanes, with a mark on the one that the line is about.
pub fn rung(line: &str) -> String {
    let mut lanes = empty();
    if let Some(lane) = Lane::named(line) {
        lanes[lane.column()] = '*';
    }
    drawn(&lanes)
}

/// The lanes and a message between two of them.
pub fn arrow(from: Lane, to: Lane, fate: Fate) -> String {
    let mut lanes = empty();
    let (start, end) = (from.column(), to.column());
    let (low, high) = (start.min(end), start.max(end));
    for place in &mut lanes[low + 1..high] {
        *place = '-';
    }
    if fate == Fate::Lost {
        let middle = low.midpoint(high);
        let beyond = if start < end {
            middle + 1..high
        } else {
            low + 1..middle
        };
        lanes[beyond].fill(' ');
        lanes[middle] = 'x';
    } else if start < end {
        lanes[high - 1] = '>';
    } else {
        lanes[low + 1] = '<';
    }
    drawn(&lanes)
}

fn empty() -> [char; LANES * PITCH] {
    let mut lanes = [' '; LANES * PITCH];
    for lane in lanes.iter_mut().step_by(PITCH) {
        *lane = '|';
    }
    lanes
}

fn drawn(lanes: &[char]) -> String {
    lanes.iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_marks_the_machine_that_it_begins_with() {
        assert_eq!(
            rung("san2: killed").trim_end(),
            "|         |         *         |"
        );
        assert_eq!(
            rung("witness resumes").trim_end(),
            "|         |         |         *"
        );
        let whole = "|         |         |         |";
        assert_eq!(rung("FAULT kill").trim_end(), whole);
        assert_eq!(rung("san21: no such box").trim_end(), whole);
    }

    #[test]
    fn arrows_point_and_lost_ones_end_between() {
        let sent = arrow(Lane::San1, Lane::San2, Fate::Delivered);
        assert_eq!(sent.trim_end(), "|         |-------->|         |");
        let answer = arrow(Lane::Witness, Lane::San1, Fate::Delivered);
        assert_eq!(answer.trim_end(), "|         |<------------------|");
        let lost = arrow(Lane::San2, Lane::San1, Fate::Lost);
        assert_eq!(lost.trim_end(), "|         |    x----|         |");
        let lost = arrow(Lane::San1, Lane::San2, Fate::Lost);
        assert_eq!(lost.trim_end(), "|         |----x    |         |");
    }
}
