//! The kill table of the simulator, and `docs/mutants.md`: for each mutant the law that it breaks,
//! what is changed, the promise that notices it, and how many histories that takes. What the page
//! says that histories find they must find again; a neutral mutant must break no promise. The
//! others are left to a named test of their core.

#[cfg(any(test, feature = "mutants"))]
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use super::record;
#[cfg(feature = "mutants")]
use super::{FailFast, Plan};
#[cfg(feature = "mutants")]
use appliance::wiring::choose_mutant;

/// The page, from the root of the repository.
pub const PAGE: &str = "docs/mutants.md";

/// Histories that each mutant is given, from seed 1 on.
pub const HISTORIES: u64 = 1000;

/// A core's mutants, in its sources.
struct Core {
    list: &'static str,
    kills: &'static str,
}

impl Core {
    /// A test of the kill table, `module::function`, as pages name it: `file::function`.
    fn named(&self, test: &str) -> String {
        let folder = self.kills.trim_end_matches("kill.rs");
        let (module, function) = test.split_once("::").unwrap_or(("kill", test));
        format!("`{folder}{module}.rs::{function}`")
    }
}

const CORES: [Core; 2] = [
    Core {
        list: "replication/src/mutants.rs",
        kills: "replication/tests/engine/kill.rs",
    },
    Core {
        list: "ha/src/mutants.rs",
        kills: "ha/tests/trio/kill.rs",
    },
];

/// What the sources say of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// Its name.
    pub name: String,
    /// What is changed, with the law.
    pub fault: String,
    /// The named test of its core, if it has one.
    pub test: Option<String>,
}

/// Where the oracle says what it checks: rows of three cells, of which the page has two.
#[cfg(any(test, feature = "mutants"))]
const ORACLE: &str = include_str!("../oracle.rs");

/// The oracle's promises as rows of the page.
#[cfg(any(test, feature = "mutants"))]
fn promises() -> String {
    let rows = ORACLE.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("//! | ")?.split(" | ");
        let (id, what) = (cells.next()?, cells.next()?);
        id.ends_with(|last: char| last.is_ascii_digit())
            .then(|| format!("| {id} | {what} |\n"))
    });
    rows.collect()
}

/// Every mutant of both cores, in the order of their lists.
///
/// # Errors
/// If the sources cannot be read.
pub fn mutants(root: &Path) -> Result<Vec<Mutant>, String> {
    let mut mutants = Vec::new();
    for core in CORES {
        let read = |path: &str| {
            let text = fs::read_to_string(root.join(path));
            text.map_err(|error| format!("{path}: {error}"))
        };
        let (list, kills) = (read(core.list)?, read(core.kills)?);
        for (name, variant) in named(&list) {
            mutants.push(Mutant {
                name: name.to_owned(),
                fault: fault(&list, variant),
                test: test(&kills, name).map(|test| core.named(&test)),
            });
        }
    }
    Ok(mutants)
}

/// Lines like `("drop-ack", Mutant::DropAck),`.
fn named(list: &str) -> impl Iterator<Item = (&str, &str)> {
    list.lines().filter_map(|line| {
        let (name, variant) = line
            .trim()
            .strip_prefix("(\"")?
            .split_once("\", Mutant::")?;
        Some((name, variant.trim_end_matches("),")))
    })
}

/// The comment above a variant.
fn fault(list: &str, variant: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for line in list.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("/// ") {
            words.push(comment);
            continue;
        }
        if line.trim_end_matches(',').trim_end_matches(" = 1") == variant {
            break;
        }
        words.clear();
    }
    words.join(" ")
}

/// The test that the entry of a kill table about a mutant names.
fn test(kills: &str, name: &str) -> Option<String> {
    let dense: String = kills.split_whitespace().collect();
    let (_, entry) = dense.split_once(&format!("(\"{name}\","))?;
    let (entry, _) = entry.split_once(')')?;
    Some(entry.trim_matches(['"', ',']).to_owned())
}

/// What the page says of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    name: String,
    fault: String,
    /// The promise, or the named test.
    killer: String,
    /// None for what the simulator does not find.
    histories: Option<u64>,
}

fn parse(page: &str) -> Vec<Row> {
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let name = cells.first()?.strip_prefix('`')?.strip_suffix('`')?;
        (cells.len() == 4).then(|| Row {
            name: name.to_owned(),
            fault: cells[1].to_owned(),
            killer: cells[2].to_owned(),
            histories: cells[3].parse().ok(),
        })
    });
    rows.collect()
}

#[cfg(any(test, feature = "mutants"))]
fn text(rows: &[Row]) -> String {
    let found = rows.iter().filter(|row| row.histories.is_some()).count();
    let mut text = format!(
        "{HEAD}{}{LAWS}{} mutants, {found} of them found by histories.\n{TABLE}",
        promises(),
        rows.len()
    );
    for row in rows {
        let histories = row
            .histories
            .map_or_else(|| "-".to_owned(), |h| h.to_string());
        let Row {
            name,
            fault,
            killer,
            ..
        } = row;
        writeln!(text, "| `{name}` | {fault} | {killer} | {histories} |")
            .expect("a string takes everything");
    }
    text
}

#[cfg(any(test, feature = "mutants"))]
const HEAD: &str = "\
# Mutants

Deliberate one-place faults. Each breaks one law, passes as sound code would if nobody looked, and
is noticed by a promise of the simulator's oracle (`tests/src/oracle.rs`) or by a named test of its
core. `cargo swarm -- --mutants` runs up to 1,000 histories, from seed 1 on, with each of them;
with `--record` it writes this page, without it fails if a mutant is not found that is found here.

| promise | what the oracle checks |
|---|---|
";

#[cfg(any(test, feature = "mutants"))]
const LAWS: &str = "
R and D with a number are laws ([laws.md](laws.md)), which the cores themselves assert.

";

#[cfg(any(test, feature = "mutants"))]
const TABLE: &str = "
| mutant | what it does (law) | noticed by | histories |
|---|---|---|---|
";

/// What is wrong with the page, as far as the sources tell; nothing if it is up to date.
///
/// # Errors
/// If the sources cannot be read.
pub fn stale(root: &Path) -> Result<Vec<String>, String> {
    let rows = parse(&record::text_of(&root.join(PAGE))?);
    let mutants = mutants(root)?;
    let mut wrong = Vec::new();
    for mutant in &mutants {
        match rows.iter().find(|row| row.name == mutant.name) {
            None => wrong.push(format!("{} is not on the page", mutant.name)),
            Some(row) if row.fault != mutant.fault => {
                wrong.push(format!("{} has another description", mutant.name));
            }
            Some(row) if row.killer.is_empty() => {
                wrong.push(format!("nothing notices {}", mutant.name));
            }
            Some(_) => {}
        }
    }
    let known = |row: &&Row| !mutants.iter().any(|mutant| mutant.name == row.name);
    let gone = rows.iter().filter(known);
    wrong.extend(gone.map(|row| format!("{} is no mutant", row.name)));
    Ok(wrong)
}

/// Runs histories under each mutant and prints the table; with `writes` it becomes the page.
#[cfg(feature = "mutants")]
pub fn run(writes: bool, jobs: usize) -> ExitCode {
    let root = record::root();
    let (page, mutants) = match (record::text_of(&root.join(PAGE)), mutants(&root)) {
        (Ok(page), Ok(mutants)) => (page, mutants),
        (Err(why), _) | (_, Err(why)) => {
            eprintln!("swarm: {why}");
            return ExitCode::FAILURE;
        }
    };
    let known = parse(&page);
    let (mut rows, mut good, mut wanted, mut killed) = (Vec::new(), true, 0, 0);
    for mutant in mutants {
        let neutral = is_neutral(&mutant.name);
        let kill = kill(&mutant.name, jobs);
        let listed = known.iter().find(|row| row.name == mutant.name);
        let must_die = !neutral && listed.is_some_and(|row| row.histories.is_some());
        wanted += u32::from(must_die || kill.is_some());
        killed += u32::from(kill.is_some() && !neutral);
        let verdict = match &kill {
            Some(kill) if neutral => format!("NOT NEUTRAL: {}", kill.breach),
            Some(kill) => format!("{} after {}: {}", kill.promise, kill.histories, kill.breach),
            None if neutral => "neutral, survived".to_owned(),
            None if must_die => "SURVIVED".to_owned(),
            None if mutant.test.is_some() => "left to a named test of its core".to_owned(),
            None => "SURVIVED, and no test of its core is named".to_owned(),
        };
        good &= !verdict.contains("SURVIVED") && !verdict.contains("NOT NEUTRAL");
        println!("  {:26} {verdict}", mutant.name);
        let killer = match &kill {
            Some(kill) => kill.promise.clone(),
            None if neutral => "nothing: another rule makes up for it".to_owned(),
            None => mutant.test.clone().unwrap_or_default(),
        };
        rows.push(Row {
            name: mutant.name,
            fault: mutant.fault,
            killer,
            histories: kill.map(|kill| kill.histories),
        });
    }
    if writes && let Err(error) = fs::write(root.join(PAGE), text(&rows)) {
        eprintln!("swarm: {PAGE}: {error}");
        good = false;
    }
    println!("{killed} of {wanted} mutants killed");
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Without the feature there is nothing to kill.
#[cfg(not(feature = "mutants"))]
pub fn run(_writes: bool, _jobs: usize) -> ExitCode {
    println!("this build has no mutants: build with --features mutants");
    ExitCode::FAILURE
}

/// How a mutant was noticed.
#[cfg(feature = "mutants")]
struct Kill {
    promise: String,
    histories: u64,
    breach: String,
}

/// The first history in which a mutant breaks a promise that has a name; a panic of its own is
/// none.
#[cfg(feature = "mutants")]
fn kill(name: &str, jobs: usize) -> Option<Kill> {
    let mut seed = 1;
    choose_mutant(name).expect("the name is from the list");
    let mut kill = None;
    while kill.is_none() && seed <= HISTORIES {
        let sum = super::run(Plan {
            seed,
            histories: HISTORIES + 1 - seed,
            jobs,
            fail_fast: FailFast::Yes,
        });
        let Some(first) = sum.failures.first() else {
            break;
        };
        let law = replication::mutants::law_of(&first.breach);
        kill = law.map(|promise| Kill {
            promise: promise.to_owned(),
            histories: first.seed,
            breach: first.breach.chars().take(90).collect(),
        });
        seed = first.seed + 1;
    }
    choose_mutant("").expect("no mutant can always be chosen");
    kill
}

#[cfg(feature = "mutants")]
fn is_neutral(name: &str) -> bool {
    ha::mutants::NEUTRAL.contains(&name) || replication::mutants::NEUTRAL.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_mutants_is_up_to_date() {
        let wrong = stale(&record::root()).unwrap();
        assert!(
            wrong.is_empty(),
            "cargo swarm -- --mutants --record: {wrong:?}"
        );
    }

    #[test]
    fn there_are_at_least_sixty_and_each_has_a_description() {
        let mutants = mutants(&record::root()).unwrap();
        assert!(mutants.len() >= 60, "{}", mutants.len());
        let mute = mutants.iter().find(|mutant| mutant.fault.is_empty());
        assert_eq!(mute, None);
    }

    #[test]
    fn the_page_is_as_it_would_be_written() {
        let page = record::text_of(&record::root().join(PAGE)).unwrap();
        assert_eq!(text(&parse(&page)), page);
    }

    #[test]
    fn a_page_is_read_as_it_was_written() {
        let row = |name: &str, histories| Row {
            name: name.to_owned(),
            fault: "Breaks something (D1).".to_owned(),
            killer: "L1".to_owned(),
            histories,
        };
        let rows = vec![row("one", Some(3)), row("two", None)];
        assert_eq!(parse(&text(&rows)), rows);
    }

    #[test]
    fn kill_tables_are_understood() {
        let kills = "const KILLS: = &[\n (\n \"a-b\",\n \"scenarios::x\",\n ),\n\
                     (\"c\", \"laws::y\"),";
        assert_eq!(test(kills, "a-b"), Some("scenarios::x".to_owned()));
        assert_eq!(test(kills, "c"), Some("laws::y".to_owned()));
        assert_eq!(test(kills, "d"), None);
    }
}
