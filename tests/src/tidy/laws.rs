//! `docs/laws.md` against the tree: every law is there once, and what a row names exists.

use std::collections::BTreeMap;

use super::{File, Finding, at};

/// The page with one table row per law: id, words, code, tests, status.
const PAGE: &str = "docs/laws.md";

/// Every law. A new one is added here and on the page.
const LAWS: &[&str] = &[
    "R0", "R0b", "R1", "R2", "R3", "R4", "R5", "R5b", "R5c", "R6", "R7", "R8", "R9", "R10", "R11",
    "R12", "D1", "D2", "D3", "D4", "D5", "D6", "D7", "D8", "D9", "D10", "D11", "T1", "T2", "T3",
    "T4", "T5",
];

/// `kept`: all of it, by the named code, shown by the named tests. `partly`: so far as the row
/// says. `later`: not yet.
const STATUSES: &[&str] = &["kept", "partly", "later"];

/// All findings of the page.
pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let Some(page) = files.iter().find(|file| file.path == PAGE) else {
        let message = "is missing: the laws and what keeps them".to_owned();
        return vec![Finding {
            path: PAGE.to_owned(),
            line: 0,
            message,
        }];
    };
    let by_path: BTreeMap<&str, &File> = files
        .iter()
        .map(|file| (file.path.as_str(), file))
        .collect();
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    let mut findings = Vec::new();
    for (index, line) in page.text.lines().enumerate() {
        let Some(row) = Row::parse(line) else {
            continue;
        };
        *count.entry(row.law).or_default() += 1;
        let found = row.check(&by_path).into_iter();
        findings.extend(found.map(|text| at(page, index + 1, format!("{}: {text}", row.law))));
    }
    for law in LAWS {
        let rows = count.get(law).copied().unwrap_or_default();
        if rows != 1 {
            findings.push(at(page, 0, format!("{law} has {rows} rows, needs one")));
        }
    }
    findings
}

struct Row<'a> {
    law: &'a str,
    code: &'a str,
    tests: &'a str,
    status: &'a str,
}

impl<'a> Row<'a> {
    /// A table row whose first cell looks like a law id; any other line is prose.
    fn parse(line: &'a str) -> Option<Self> {
        let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        let cells: Vec<&str> = inner.split('|').map(str::trim).collect();
        let law = *cells.first()?;
        let is_id = law.starts_with(['R', 'D', 'T'])
            && law.chars().nth(1).is_some_and(|c| c.is_ascii_digit());
        let cell = |index: usize| cells.get(index).copied().unwrap_or_default();
        is_id.then(|| Self {
            law,
            code: cell(2),
            tests: cell(3),
            status: cell(4),
        })
    }

    fn check(&self, files: &BTreeMap<&str, &File>) -> Vec<String> {
        let mut wrong = Vec::new();
        if !LAWS.contains(&self.law) {
            wrong.push("is no law".to_owned());
        }
        if !STATUSES.contains(&self.status) {
            wrong.push(format!("status `{}` is none of {STATUSES:?}", self.status));
        }
        let (code, tests) = (quoted(self.code), quoted(self.tests));
        if self.status != "later" && (code.is_empty() || tests.is_empty()) {
            wrong.push("a law that is kept names its code and its test".to_owned());
        }
        for path in code {
            if !files.contains_key(path) {
                wrong.push(format!("`{path}` does not exist"));
            }
        }
        for test in tests {
            if let Err(reason) = find_test(test, files) {
                wrong.push(reason);
            }
        }
        wrong
    }
}

/// A test is named `path::function`.
fn find_test(test: &str, files: &BTreeMap<&str, &File>) -> Result<(), String> {
    let (path, function) = test
        .split_once("::")
        .ok_or_else(|| format!("`{test}` is not `path::function`"))?;
    let file = files
        .get(path)
        .ok_or_else(|| format!("`{path}` does not exist"))?;
    if file.text.contains(&format!("fn {function}(")) {
        return Ok(());
    }
    Err(format!("`{path}` has no test `{function}`"))
}

fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    fn rows(special: &str) -> String {
        let row = |law: &&str| format!("| {law} | words | - | - | later |\n");
        let others: String = LAWS.iter().filter(|law| **law != "R1").map(row).collect();
        format!("| Law | Words | Code | Test | Now |\n|---|---|---|---|---|\n{others}{special}\n")
    }

    fn findings(special: &str) -> Vec<String> {
        let files = [
            file(
                "ha/src/authority.rs",
                "fn degrade() {}\n#[test]\nfn holds_writes() {}\n",
            ),
            file(PAGE, &rows(special)),
        ];
        check(&files).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn a_row_that_names_what_exists_is_fine() {
        let row = "| R1 | w | `ha/src/authority.rs` | `ha/src/authority.rs::holds_writes` | kept |";
        assert_eq!(findings(row), Vec::<String>::new());
        assert_eq!(findings("| R1 | w | - | - | later |"), Vec::<String>::new());
    }

    #[test]
    fn every_wrong_row_is_found() {
        let cases = [
            ("", "R1 has 0 rows"),
            (
                "| R1 | w | - | - | later |\n| R1 | w | - | - | later |",
                "R1 has 2 rows",
            ),
            ("| R1 | w | - | - | kept |", "names its code and its test"),
            (
                "| R1 | w | `ha/src/authority.rs` | - | partly |",
                "names its code and its test",
            ),
            (
                "| R1 | w | `ha/src/gone.rs` | - | later |",
                "`ha/src/gone.rs` does not exist",
            ),
            (
                "| R1 | w | - | `ha/src/gone.rs::x` | later |",
                "`ha/src/gone.rs` does not exist",
            ),
            (
                "| R1 | w | - | `ha/src/authority.rs::holds` | later |",
                "has no test `holds`",
            ),
            (
                "| R1 | w | - | `holds_writes` | later |",
                "is not `path::function`",
            ),
            (
                "| R1 | w | `ha/src/authority.rs` | `ha/src/authority.rs::holds_writes` | soon |",
                "`soon`",
            ),
            (
                "| R1 | w | - | - | later |\n| R99 | w | - | - | later |",
                "R99: is no law",
            ),
        ];
        for (special, part) in cases {
            let found = findings(special);
            assert!(
                found.len() == 1 && found[0].contains(part),
                "{special}: {found:?}"
            );
        }
    }

    #[test]
    fn a_missing_page_is_found() {
        assert_eq!(check(&[]).len(), 1);
    }
}
