//! Parsing with errors that name file, line and the nearest known key.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// Why a configuration file is refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}; give the right path with --config", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text is not what it should be.
    #[error("{}:{line}: {message}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// What is wrong and what to write instead.
        message: String,
    },
    /// The values contradict each other.
    #[error("{}: {message}", path.display())]
    Values {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to write instead.
        message: String,
    },
}

/// Reads and parses one file.
///
/// # Errors
/// [`ConfigError::Unreadable`] and [`ConfigError::Text`].
pub fn file<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    text_of(path, &read(path)?)
}

/// Reads one file.
///
/// # Errors
/// [`ConfigError::Unreadable`].
pub fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

/// Parses `text`, which came from `path`.
///
/// # Errors
/// [`ConfigError::Text`] with line and, for an unknown key, the nearest known one.
pub fn text_of<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text.get(..at).unwrap_or(text).matches('\n').count() + 1;
        ConfigError::Text {
            path: path.to_owned(),
            line,
            message: friendly(error.message()),
        }
    })
}

/// Adds the nearest known key to serde's message about an unknown one.
fn friendly(message: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field `") else {
        return message.trim().replace('\n', " ");
    };
    let Some((unknown, rest)) = rest.split_once('`') else {
        return message.to_owned();
    };
    let known = rest.split('`').skip(1).step_by(2);
    match known.min_by_key(|candidate| distance(unknown, candidate)) {
        Some(nearest) => format!("unknown key `{unknown}`; the nearest known key is `{nearest}`"),
        None => format!("unknown key `{unknown}`; no key is known here"),
    }
}

/// Edit distance: insertions, deletions and substitutions.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Small {
        #[expect(dead_code, reason = "only parsed")]
        address: String,
        #[expect(dead_code, reason = "only parsed")]
        port: u16,
    }

    fn error(text: &str) -> String {
        text_of::<Small>(Path::new("node.toml"), text)
            .expect_err("wrong text")
            .to_string()
    }

    #[test]
    fn an_unknown_key_names_line_and_neighbour() {
        let said = error("port = 1\nadress = \"x\"\n");
        assert!(
            said.starts_with("node.toml:2: unknown key `adress`"),
            "{said}"
        );
        assert!(said.ends_with("nearest known key is `address`"), "{said}");
    }

    #[test]
    fn a_wrong_type_names_the_line() {
        let said = error("address = \"x\"\n\nport = \"many\"\n");
        assert!(said.starts_with("node.toml:3: "), "{said}");
        assert!(said.contains("expected u16"), "{said}");
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("adress", "address"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
