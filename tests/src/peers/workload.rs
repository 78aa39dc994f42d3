//! What is measured: a fixed list, each with a name that says everything.

use std::fmt;

/// What the initiator does with the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Reads them.
    Read,
    /// Writes them.
    Write,
}

/// Where the next block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Anywhere.
    Random,
    /// Behind the last one.
    Sequential,
}

/// Digests of headers and data (RFC 7143 §13.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digests {
    /// Neither.
    None,
    /// Both.
    Crc32c,
}

/// One load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// What is done.
    pub direction: Direction,
    /// Where.
    pub layout: Layout,
    /// Bytes of one command.
    pub block_bytes: u32,
    /// Commands under way in each session.
    pub depth: u32,
    /// Sessions at once.
    pub sessions: u32,
    /// Digests.
    pub digests: Digests,
}

/// Block size, layout and depth of each load.
const SHAPES: [(u32, Layout, u32); 4] = [
    (4 << 10, Layout::Random, 1),
    (4 << 10, Layout::Random, 32),
    (4 << 10, Layout::Random, 128),
    (256 << 10, Layout::Sequential, 32),
];

impl Workload {
    /// All of them: each shape for reads and writes, without and with digests, with one session
    /// and with four.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for sessions in [1, 4] {
            for digests in [Digests::None, Digests::Crc32c] {
                for direction in [Direction::Read, Direction::Write] {
                    all.extend(SHAPES.map(|(block_bytes, layout, depth)| Self {
                        direction,
                        layout,
                        block_bytes,
                        depth,
                        sessions,
                        digests,
                    }));
                }
            }
        }
        all
    }

    /// The one with this name.
    pub fn named(name: &str) -> Result<Self, String> {
        let found = Self::all()
            .into_iter()
            .find(|workload| workload.to_string() == name);
        found.ok_or_else(|| format!("no load is called {name}"))
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::Read => "read",
            Direction::Write => "write",
        };
        write!(
            f,
            "{direction}-{}k-qd{}",
            self.block_bytes >> 10,
            self.depth
        )?;
        if self.sessions > 1 {
            write!(f, "-{}s", self.sessions)?;
        }
        if self.digests == Digests::Crc32c {
            write!(f, "-digests")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_load_has_a_name_of_its_own() {
        let all = Workload::all();
        let names: BTreeSet<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), all.len());
        assert!(names.contains("read-4k-qd1"));
        assert!(names.contains("write-256k-qd32-4s-digests"));
        for workload in all {
            assert_eq!(Workload::named(&workload.to_string()), Ok(workload));
        }
        assert!(Workload::named("read").is_err());
    }
}
