//! `docs/swarm.md`: the histories that were run, piece by piece, and their sum.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Plan, Sum};

/// The page, from the root of the repository.
pub const PAGE: &str = "docs/swarm.md";

/// What decides about a history: the cores, their joint, and the simulator.
const SOURCES: [&str; 4] = [
    "ha/src",
    "replication/src",
    "appliance/src/wiring.rs",
    "tests/src",
];

/// One run of the command.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    seed: u64,
    histories: u64,
    events: u64,
    virtual_s: u64,
    faults: u64,
    failures: u64,
    /// Of the sources.
    hash: String,
}

/// Everything that is on the page.
#[derive(Debug, Default, PartialEq, Eq)]
struct Page {
    pieces: Vec<Piece>,
    seen: BTreeMap<String, u64>,
}

/// Adds a run to the page; its name.
///
/// # Errors
/// If the page cannot be read or written, or has these seeds of these sources already.
pub fn add(plan: Plan, sum: &Sum) -> Result<&'static str, String> {
    let root = root();
    let path = root.join(PAGE);
    let mut page = Page::parse(&text_of(&path)?);
    let hash = hash(&root).map_err(|error| format!("the sources cannot be read: {error}"))?;
    let faults = sum.counts.0.iter();
    let faults = faults.filter(|(name, _)| name.starts_with("fault "));
    page.add(Piece {
        seed: plan.seed,
        histories: sum.histories,
        events: sum.events,
        virtual_s: sum.virtual_ns / 1_000_000_000,
        faults: faults.map(|(_, count)| count).sum(),
        failures: sum.failures.len() as u64,
        hash,
    })?;
    for (name, count) in &sum.counts.0 {
        *page.seen.entry(name.clone()).or_default() += count;
    }
    let written = fs::write(&path, page.text());
    written.map_err(|error| format!("{PAGE}: {error}"))?;
    Ok(PAGE)
}

/// The text of a page; a page that is not there yet is empty.
///
/// # Errors
/// If it is there and cannot be read: it would be written over.
pub(super) fn text_of(page: &Path) -> Result<String, String> {
    match fs::read_to_string(page) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|error| format!("{}: {error}", page.display())),
    }
}

/// Root of the repository.
pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl Page {
    fn add(&mut self, piece: Piece) -> Result<(), String> {
        let end = |piece: &Piece| piece.seed + piece.histories;
        let same = |known: &&Piece| {
            known.hash == piece.hash && known.seed < end(&piece) && piece.seed < end(known)
        };
        if let Some(known) = self.pieces.iter().find(same) {
            return Err(format!(
                "seeds {} to {} of these sources are on the page: go on from there",
                known.seed,
                end(known) - 1
            ));
        }
        self.pieces.push(piece);
        Ok(())
    }

    /// Reads what [`Page::text`] wrote; other lines are prose.
    fn parse(text: &str) -> Self {
        let mut page = Self::default();
        for line in text.lines() {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let number = |at: usize| cells.get(at).and_then(|cell| cell.parse::<u64>().ok());
            match (number(0), cells.len()) {
                (Some(seed), 7) => page.pieces.push(Piece {
                    seed,
                    histories: number(1).unwrap_or(0),
                    events: number(2).unwrap_or(0),
                    virtual_s: number(3).unwrap_or(0),
                    faults: number(4).unwrap_or(0),
                    failures: number(5).unwrap_or(0),
                    hash: cells[6].to_owned(),
                }),
                (_, 2) => {
                    if let Some(count) = number(1) {
                        page.seen.insert(cells[0].to_owned(), count);
                    }
                }
                _ => {}
            }
        }
        page
    }

    fn text(&self) -> String {
        let sum = |of: fn(&Piece) -> u64| self.pieces.iter().map(of).sum::<u64>();
        let mut text = format!(
            "{HEAD}{} histories, {} events, {} hours of virtual time, {} faults, {} failures.\n\
             {TABLE}",
            sum(|piece| piece.histories),
            sum(|piece| piece.events),
            sum(|piece| piece.virtual_s) / 3600,
            sum(|piece| piece.faults),
            sum(|piece| piece.failures),
        );
        let wrote = "a string takes everything";
        for piece in &self.pieces {
            let Piece {
                seed,
                histories,
                events,
                virtual_s,
                faults,
                failures,
                hash,
            } = piece;
            writeln!(
                text,
                "| {seed} | {histories} | {events} | {virtual_s} | {faults} | {failures} | {hash} |"
            )
            .expect(wrote);
        }
        text.push_str(SEEN);
        for (name, count) in &self.seen {
            writeln!(text, "| {name} | {count} |").expect(wrote);
        }
        text
    }
}

/// Of all sources, in the order of their paths.
fn hash(root: &Path) -> std::io::Result<String> {
    let mut paths = Vec::new();
    for source in SOURCES {
        collect(&root.join(source), &mut paths)?;
    }
    paths.sort();
    let mut hash = 0;
    for path in paths {
        let name = path.strip_prefix(root).unwrap_or(&path);
        hash = crc32c::crc32c_append(hash, name.to_string_lossy().as_bytes());
        hash = crc32c::crc32c_append(hash, &fs::read(&path)?);
    }
    Ok(format!("{hash:08x}"))
}

fn collect(path: &Path, paths: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !path.is_dir() {
        paths.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        collect(&entry?.path(), paths)?;
    }
    Ok(())
}

const HEAD: &str = "\
# Swarm

Histories of the simulator that were run and recorded by `cargo swarm -- --seed S --histories N
--record`. The hash names the sources that decide about a history: the cores, their joint and the
simulator. The same hash and seed give the same history.

All pieces: ";

const TABLE: &str = "
| first seed | histories | events | virtual seconds | faults | failures | sources |
|---|---|---|---|---|---|---|
";

const SEEN: &str = "
What was seen in them, how often:

| what | times |
|---|---|
";

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(seed: u64, hash: &str) -> Piece {
        Piece {
            seed,
            histories: 10,
            events: 7000,
            virtual_s: 400,
            faults: 30,
            failures: 1,
            hash: hash.to_owned(),
        }
    }

    #[test]
    fn a_page_is_read_as_it_was_written() {
        let mut page = Page::default();
        page.add(piece(1, "aa")).unwrap();
        page.add(piece(11, "aa")).unwrap();
        page.seen.insert("fault kill".to_owned(), 9);
        let text = page.text();
        assert!(
            text.contains("20 histories, 14000 events, 0 hours"),
            "{text}"
        );
        assert_eq!(Page::parse(&text), page);
    }

    #[test]
    fn no_seed_counts_twice_for_the_same_sources() {
        let mut page = Page::default();
        page.add(piece(1, "aa")).unwrap();
        assert!(page.add(piece(10, "aa")).unwrap_err().contains("1 to 10"));
        page.add(piece(10, "bb")).unwrap();
        assert_eq!(page.pieces.len(), 2);
    }

    #[test]
    fn the_sources_have_a_hash() {
        let hash = hash(&root()).unwrap();
        assert_eq!(hash.len(), 8, "{hash}");
    }
}
