//! What is left out of a history, so that a failure is easier to read: faults by their number,
//! commands after the first so many, and what the seed drew for the surroundings.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::faults::Options;

/// A history with less in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trim {
    /// Numbers of faults that do not happen.
    pub skip: BTreeSet<u32>,
    /// What is plain although the seed drew it otherwise.
    pub plain: BTreeSet<Plain>,
    /// Initiators send no more than that.
    pub commands: Option<u64>,
}

/// A part of the surroundings that can be plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plain {
    /// A network that loses, delays and damages nothing.
    Weather,
    /// Exact clocks.
    Clocks,
    /// Both cores of a box in one thread.
    Threads,
    /// The engine's usual limits.
    Limits,
    /// Disks and stores of one speed.
    Disks,
    /// Copies that nobody slows down, and no deaths at their turning points.
    Copies,
    /// One initiator.
    OneInitiator,
    /// One command at a time.
    OneCommand,
    /// Commands of one block each.
    SmallCommands,
}

impl Plain {
    /// Every one, with its name.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::OneInitiator, "one-initiator"),
        (Self::OneCommand, "one-command"),
        (Self::SmallCommands, "small-commands"),
        (Self::Copies, "copies"),
        (Self::Weather, "weather"),
        (Self::Clocks, "clocks"),
        (Self::Threads, "threads"),
        (Self::Limits, "limits"),
        (Self::Disks, "disks"),
    ];

    /// Makes that part plain.
    pub fn apply(self, options: &mut Options) {
        let calm = Options::calm();
        match self {
            Self::Copies => {} // their dice are not among the options
            Self::Weather => options.weather = calm.weather,
            Self::Clocks => options.clock_ppb = calm.clock_ppb,
            Self::Threads => options.threads = false,
            Self::Limits => options.tiny_limits = false,
            Self::Disks => {
                options.disk_ns = calm.disk_ns;
                options.persist_ns = calm.persist_ns;
            }
            Self::OneInitiator => options.initiators = 1,
            Self::OneCommand => options.depth = 1,
            Self::SmallCommands => {
                options.command_blocks = 1;
                options.unaligned = 0;
                options.wide = false;
            }
        }
    }
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::ALL.iter().find(|(plain, _)| plain == self);
        f.write_str(found.expect("all have names").1)
    }
}

impl FromStr for Plain {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(_, name)| *name == word);
        found.map(|(plain, _)| *plain).ok_or_else(|| {
            let names = Self::ALL.map(|(_, name)| name);
            format!("nothing is called {word:?}, only {}", names.join(", "))
        })
    }
}

impl fmt::Display for Trim {
    /// As options of the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |words: Vec<String>| words.join(",");
        if !self.skip.is_empty() {
            let skip = self.skip.iter().map(ToString::to_string).collect();
            write!(f, " --skip {}", list(skip))?;
        }
        if !self.plain.is_empty() {
            let plain = self.plain.iter().map(ToString::to_string).collect();
            write!(f, " --plain {}", list(plain))?;
        }
        if let Some(commands) = self.commands {
            write!(f, " --commands {commands}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trim_is_written_as_options() {
        assert_eq!(Trim::default().to_string(), "");
        let trim = Trim {
            skip: [4, 1].into(),
            plain: [Plain::Weather, Plain::Clocks].into(),
            commands: Some(9),
        };
        let text = " --skip 1,4 --plain weather,clocks --commands 9";
        assert_eq!(trim.to_string(), text);
    }

    #[test]
    fn every_part_has_a_name_of_its_own() {
        for (plain, name) in Plain::ALL {
            assert_eq!(name.parse(), Ok(plain));
        }
        assert!("nothing".parse::<Plain>().is_err());
    }
}
