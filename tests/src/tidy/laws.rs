//! `docs/laws.md` against the tree: every law is there once, and what a row names exists.

use std::collections::{BTreeMap, BTreeSet};

use super::{File, Finding, at};

/// The page with one table row per law: id, words, code, tests, mutants, status.
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

/// The page of mutants, and of the tests that notice them.
const KILLS: &str = "docs/mutants.md";

/// Where hazards are named.
const CORES: &[&str] = &["ha/", "replication/", "iscsi-target/", "appliance/"];

/// Where the cores list their mutants.
const MUTANTS: &[&str] = &["ha/src/mutants.rs", "replication/src/mutants.rs"];

/// The fault table: a macro makes tests of these functions.
const ROWS: &str = "tests/tests/rows/";

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
    let mutants = mutants(&by_path);
    let mut guarding = BTreeSet::new();
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    let mut findings = Vec::new();
    for (index, line) in page.text.lines().enumerate() {
        let Some(row) = Row::parse(line) else {
            continue;
        };
        *count.entry(row.law).or_default() += 1;
        guarding.extend(quoted(row.mutants));
        let found = row.check(&by_path, &mutants).into_iter();
        findings.extend(found.map(|text| at(page, index + 1, format!("{}: {text}", row.law))));
    }
    for law in LAWS {
        let rows = count.get(law).copied().unwrap_or_default();
        if rows != 1 {
            findings.push(at(page, 0, format!("{law} has {rows} rows, needs one")));
        }
    }
    for mutant in mutants.difference(&guarding) {
        findings.push(at(page, 0, format!("no law has the mutant `{mutant}`")));
    }
    findings.extend(hazards(page, files));
    if let Some(kills) = by_path.get(KILLS) {
        findings.extend(killers(kills, &by_path));
    }
    findings
}

/// A hazard that the tree names is explained on the page, and no other.
fn hazards(page: &File, files: &[File]) -> Vec<Finding> {
    let explained: BTreeSet<u32> = page
        .text
        .lines()
        .filter_map(|line| hazard(line.strip_prefix("| ")?.split(' ').next()?))
        .collect();
    let sources = files.iter().filter(|file| file.path.ends_with(".rs"));
    let named: BTreeSet<u32> = sources
        .filter(|file| CORES.iter().any(|core| file.path.starts_with(core)))
        .flat_map(|file| file.text.split(|c: char| !c.is_ascii_alphanumeric()))
        .filter_map(hazard)
        .collect();
    let missing = named.difference(&explained);
    let missing = missing.map(|number| format!("H{number} is named in the tree and has no row"));
    let unused = explained.difference(&named);
    let unused = unused.map(|number| format!("H{number} is named nowhere in the tree"));
    let all = missing.chain(unused);
    all.map(|message| at(page, 0, message)).collect()
}

/// The number in `H5`, `H5b` or the `h5b` of a test's name.
fn hazard(word: &str) -> Option<u32> {
    let rest = word.strip_prefix(['H', 'h'])?;
    let digits = rest.trim_end_matches(|c: char| c.is_ascii_lowercase());
    (rest.len() - digits.len() <= 1).then(|| digits.parse().ok())?
}

/// The tests that the page of mutants names.
fn killers(page: &File, files: &BTreeMap<&str, &File>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in page.text.lines().enumerate() {
        let named = quoted(line).into_iter().filter(|name| name.contains("::"));
        let wrong = named.filter_map(|test| find_test(test, files).err());
        findings.extend(wrong.map(|reason| at(page, index + 1, reason)));
    }
    findings
}

/// The names in the lists of both cores: `("name", Mutant::Name),`.
fn mutants<'a>(files: &BTreeMap<&str, &'a File>) -> BTreeSet<&'a str> {
    let lists = MUTANTS.iter().filter_map(|path| files.get(path));
    let lines = lists.flat_map(|file| file.text.lines());
    let entries = lines.filter(|line| line.contains(", Mutant::"));
    entries
        .filter_map(|line| line.trim().strip_prefix("(\"")?.split('"').next())
        .collect()
}

struct Row<'a> {
    law: &'a str,
    code: &'a str,
    tests: &'a str,
    mutants: &'a str,
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
            mutants: cell(4),
            status: cell(5),
        })
    }

    fn check(&self, files: &BTreeMap<&str, &File>, mutants: &BTreeSet<&str>) -> Vec<String> {
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
        for mutant in quoted(self.mutants) {
            if !mutants.contains(mutant) {
                wrong.push(format!("no core has the mutant `{mutant}`"));
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

/// A test is named `path::function`. A row of the fault table is a function that becomes a test
/// for each kind of disk.
fn find_test(test: &str, files: &BTreeMap<&str, &File>) -> Result<(), String> {
    let (path, function) = test
        .split_once("::")
        .ok_or_else(|| format!("`{test}` is not `path::function`"))?;
    let file = files
        .get(path)
        .ok_or_else(|| format!("`{path}` does not exist"))?;
    let mut before = "";
    for line in file.text.lines().map(str::trim) {
        let is_test = before == "#[test]" || before.starts_with("#[tokio::test");
        let is_it = line.contains(&format!("fn {function}("));
        if is_it && (is_test || path.starts_with(ROWS)) {
            return Ok(());
        }
        if is_it {
            return Err(format!("`{function}` in `{path}` is no `#[test]`"));
        }
        if !is_test || !(line.is_empty() || line.starts_with("#[") || line.starts_with("//")) {
            before = line;
        }
    }
    Err(format!("`{path}` has no test `{function}`"))
}

fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::super::file;

    fn rows(special: &str) -> String {
        let row = |law: &&str| format!("| {law} | words | - | - | - | later |\n");
        let others: String = LAWS.iter().filter(|law| **law != "R1").map(row).collect();
        let head = "| Law | Words | Code | Test | Mutant | Now |\n|---|---|---|---|---|---|\n";
        format!("{head}{others}{special}\n")
    }

    fn findings(special: &str) -> Vec<String> {
        let files = [
            file(
                "ha/src/authority.rs",
                "fn degrade() {}\n#[test]\n/// Law R1.\nfn holds_writes() {}\n",
            ),
            file(
                "tests/tests/rows/single.rs",
                "pub fn primary_killed(disk: Disk) {}\n",
            ),
            file(
                "ha/src/mutants.rs",
                "const NAMES: X = &[\n    (\"drop-ack\", Mutant::DropAck),\n];\n",
            ),
            file(PAGE, &rows(special)),
        ];
        check(&files).iter().map(Finding::to_string).collect()
    }

    /// The row of R1 with what each case breaks.
    fn row(code: &str, tests: &str, mutants: &str, status: &str) -> String {
        let quote = |cell: &str| match cell {
            "" => "-".to_owned(),
            name => format!("`{name}`"),
        };
        let (code, tests, mutants) = (quote(code), quote(tests), quote(mutants));
        format!("| R1 | w | {code} | {tests} | {mutants} | {status} |")
    }

    const CODE: &str = "ha/src/authority.rs";
    const TEST: &str = "ha/src/authority.rs::holds_writes";

    #[test]
    fn a_row_that_names_what_exists_is_fine() {
        let rows = [
            row(CODE, TEST, "drop-ack", "kept"),
            row(
                CODE,
                "tests/tests/rows/single.rs::primary_killed",
                "drop-ack",
                "kept",
            ),
            row("", "", "drop-ack", "later"),
        ];
        for row in rows {
            assert_eq!(findings(&row), Vec::<String>::new());
        }
    }

    #[test]
    fn every_wrong_row_is_found() {
        let fine = row("", "", "drop-ack", "later");
        let other = fine.replace("R1", "R99");
        let plain = "ha/src/authority.rs::degrade";
        let cases = [
            (format!("{fine}\n{fine}"), "R1 has 2 rows"),
            (format!("{fine}\n{other}"), "R99: is no law"),
            (
                row("", "", "drop-ack", "kept"),
                "names its code and its test",
            ),
            (
                row(CODE, "", "drop-ack", "partly"),
                "names its code and its test",
            ),
            (
                row("ha/src/gone.rs", "", "drop-ack", "later"),
                "does not exist",
            ),
            (
                row("", "ha/src/gone.rs::x", "drop-ack", "later"),
                "does not exist",
            ),
            (
                row(CODE, "ha/src/authority.rs::holds", "drop-ack", "kept"),
                "has no test",
            ),
            (row(CODE, plain, "drop-ack", "kept"), "is no `#[test]`"),
            (
                row(CODE, "holds_writes", "drop-ack", "kept"),
                "is not `path::function`",
            ),
            (row(CODE, TEST, "drop-ack", "soon"), "`soon`"),
            (
                row(CODE, TEST, "", "kept"),
                "no law has the mutant `drop-ack`",
            ),
            (
                row(CODE, TEST, "drop-ack`, `x", "kept"),
                "no core has the mutant `x`",
            ),
        ];
        for (special, part) in cases {
            let found = findings(&special);
            assert!(
                found.len() == 1 && found[0].contains(part),
                "{special}: {found:?}"
            );
        }
        let missing = findings("");
        assert!(missing.iter().any(|text| text.contains("R1 has 0 rows")));
    }

    #[test]
    fn hazards_and_killers_are_looked_up() {
        let page = file(PAGE, "| H5 | Restarts. |\n| H6 | Caches. |\n");
        let code = file(
            "ha/src/a.rs",
            "// H5, H5b\n#[test]\nfn h7_x() {}\n#[test]\nfn half() {}\n",
        );
        let told = hazards(&page, std::slice::from_ref(&code));
        let told: Vec<String> = told.iter().map(Finding::to_string).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("H7 is named") && told[1].contains("H6 is named nowhere"));
        let kills = file(
            KILLS,
            "| `a` | w | `ha/src/a.rs::h7_x` | - |\n| `b` | w | `ha/src/a.rs::y` | 1 |\n",
        );
        let by_path = BTreeMap::from([("ha/src/a.rs", &code)]);
        let wrong = killers(&kills, &by_path);
        assert!(wrong.len() == 1 && wrong[0].line == 2, "{wrong:?}");
    }

    #[test]
    fn a_missing_page_is_found() {
        assert_eq!(check(&[]).len(), 1);
    }
}
