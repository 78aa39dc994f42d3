//! What a machine printed on its serial line: a file that grows while the machine runs.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A serial console that QEMU writes to a file.
#[derive(Clone, Debug)]
pub struct Console {
    path: PathBuf,
}

impl Console {
    /// The console in the file `path`; the file may not exist yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The complete lines so far, without line ends. A line that is still being written is not
    /// among them, so a matcher never sees half a line.
    pub fn lines(&self) -> anyhow::Result<Vec<String>> {
        let bytes = match fs::read(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            other => other.with_context(|| format!("cannot read {}", self.path.display()))?,
        };
        Ok(complete_lines(&String::from_utf8_lossy(&bytes)))
    }

    /// The first line for which `matches` holds.
    pub fn find(&self, matches: impl Fn(&str) -> bool) -> anyhow::Result<Option<String>> {
        Ok(self.lines()?.into_iter().find(|line| matches(line)))
    }

    /// The last lines, indented, for the message of a failed wait.
    pub fn tail(&self) -> String {
        match self.lines() {
            Ok(lines) if lines.is_empty() => "  (the console is empty)".to_owned(),
            Ok(lines) => {
                let shown = &lines[lines.len().saturating_sub(TAIL_LINES)..];
                shown
                    .iter()
                    .map(|line| format!("  | {line}"))
                    .collect::<Vec<_>>()
                    .join("\n")
            }
            Err(error) => format!("  ({error:#})"),
        }
    }
}

fn complete_lines(text: &str) -> Vec<String> {
    let Some((complete, _)) = text.rsplit_once('\n') else {
        return Vec::new();
    };
    complete
        .split('\n')
        .map(|line| line.trim_end_matches('\r').to_owned())
        .collect()
}

const TAIL_LINES: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_lines_count() {
        assert_eq!(complete_lines(""), Vec::<String>::new());
        assert_eq!(complete_lines("twinsan 0.1"), Vec::<String>::new());
        assert_eq!(complete_lines("one\r\ntwo\ntwinsan 0.1"), ["one", "two"]);
        assert_eq!(complete_lines("one\r\n"), ["one"]);
    }

    #[test]
    fn a_console_that_does_not_exist_yet_is_empty() {
        let console = Console::new(PathBuf::from("/nonexistent/console.log"));
        assert_eq!(console.find(|_| true).unwrap(), None);
        assert!(console.tail().contains("empty"));
    }
}
