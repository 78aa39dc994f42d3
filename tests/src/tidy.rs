//! Rules of this repository that a machine can check; `CONTRIBUTING.md` says why they exist.
//!
//! Every rule is a function from files to findings, so that each has a test which shows that it
//! can fail. There is no list of exceptions that may be extended: a file is mended instead.

mod dependencies;
mod laws;
mod source;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use self::source::Source;

/// One file of the repository: its path from the root with `/`, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// For instance `ha/src/lib.rs`.
    pub path: String,
    /// Lossy UTF-8.
    pub text: String,
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// File, or the root for something missing.
    pub path: String,
    /// Line from 1, or 0 for the whole file.
    pub line: usize,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Reads every file of the working copy, except what builds leave and what git keeps.
pub fn read_repository(root: &Path) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    read_folder(root, "", &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn read_folder(folder: &Path, prefix: &str, files: &mut Vec<File>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        if name == "target" || name == ".git" || name.ends_with(".img") {
            continue;
        }
        if entry.file_type()?.is_dir() {
            read_folder(&entry.path(), &format!("{path}/"), files)?;
        } else {
            let text = String::from_utf8_lossy(&fs::read(entry.path())?).into_owned();
            files.push(File { path, text });
        }
    }
    Ok(())
}

/// All rules over all files.
pub fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = root_listing(files);
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        findings.extend(check_rust(file));
    }
    findings.extend(unsafe_files(files));
    findings.extend(dependencies::check(files));
    findings.extend(laws::check(files));
    findings
}

fn check_rust(file: &File) -> Vec<Finding> {
    let source = Source::new(&file.text);
    let rules = [size, module_doc, core_purity, names, notes, suppressions];
    rules.iter().flat_map(|rule| rule(file, &source)).collect()
}

fn at(file: &File, line: usize, message: impl Into<String>) -> Finding {
    Finding {
        path: file.path.clone(),
        line,
        message: message.into(),
    }
}

fn size(file: &File, _: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let chars = line.chars().count();
        if chars > LINE_MAX {
            findings.push(at(
                file,
                index + 1,
                format!("{chars} characters, at most {LINE_MAX}"),
            ));
        }
    }
    let lines = file.text.lines().count();
    if lines > LINES_MAX {
        findings.push(at(
            file,
            0,
            format!("{lines} lines, at most {LINES_MAX}: split by phase"),
        ));
    }
    findings
}

fn module_doc(file: &File, _: &Source) -> Vec<Finding> {
    if file.text.starts_with("//!") {
        return Vec::new();
    }
    vec![at(
        file,
        1,
        "starts without `//!`: say what the module is for",
    )]
}

/// Engines decide, shells do: outside `shell/` an engine has no runtime, socket or file.
fn core_purity(file: &File, source: &Source) -> Vec<Finding> {
    let is_core = ENGINES.iter().any(|engine| {
        let inside = file
            .path
            .strip_prefix(engine)
            .and_then(|p| p.strip_prefix("/src/"));
        inside.is_some_and(|inside| !SHELLS.iter().any(|shell| inside.starts_with(shell)))
    });
    if !is_core {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (line, code) in source.code_lines() {
        for word in source::words(code) {
            if IMPURE_WORDS.contains(&word) {
                findings.push(at(
                    file,
                    line,
                    format!("`{word}` in a core: move it to shell/"),
                ));
            }
        }
        let joined: String = code.split_whitespace().collect();
        for path in IMPURE_PATHS {
            if joined.contains(path) {
                findings.push(at(
                    file,
                    line,
                    format!("`{path}` in a core: move it to shell/"),
                ));
            }
        }
    }
    findings
}

/// A name says what a thing is; these parts say only that something is there.
fn names(file: &File, source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let stem = file.path.rsplit('/').next().unwrap_or_default();
    if let Some(part) = empty_part(stem.trim_end_matches(".rs")) {
        findings.push(at(
            file,
            0,
            format!("`{part}` in a file name: name what it holds"),
        ));
    }
    for (line, code) in source.code_lines() {
        let mut words = source::words(code).peekable();
        while let Some(word) = words.next() {
            let Some(name) = words.peek().filter(|_| DEFINING_WORDS.contains(&word)) else {
                continue;
            };
            if let Some(part) = empty_part(name) {
                findings.push(at(
                    file,
                    line,
                    format!("`{part}` in `{name}`: name what it is"),
                ));
            }
        }
    }
    findings
}

fn empty_part(name: &str) -> Option<&'static str> {
    let parts = source::name_parts(name);
    EMPTY_PARTS.iter().copied().find(|empty| {
        parts
            .iter()
            .any(|part| part == empty || part.strip_suffix('s') == Some(empty))
    })
}

/// Nothing is left for later in the text: it is done, or it is not there.
fn notes(file: &File, source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, text) in source.code_lines().chain(source.comment_lines()) {
        for word in source::words(text) {
            if NOTE_WORDS.contains(&word) {
                findings.push(at(
                    file,
                    line,
                    format!("`{word}`: do it now or leave it out"),
                ));
            }
        }
    }
    for (line, code) in source.code_lines() {
        let joined: String = code.split_whitespace().collect();
        for stub in STUBS {
            if joined.contains(stub) {
                findings.push(at(
                    file,
                    line,
                    format!("`{stub}`: nothing is parked in the tree"),
                ));
            }
        }
    }
    findings
}

fn suppressions(file: &File, source: &Source) -> Vec<Finding> {
    let is_allow = |code: &str| {
        let joined: String = code.split_whitespace().collect();
        joined.contains("#[allow(") || joined.contains("#![allow(") || joined.contains(",allow(")
    };
    source
        .code_lines()
        .filter(|(_, code)| is_allow(code))
        .map(|(line, _)| {
            at(
                file,
                line,
                "`allow`: use `#[expect(lint, reason = \"..\")]`",
            )
        })
        .collect()
}

/// `unsafe` is in the files listed here and nowhere else, and every listed file still needs it.
fn unsafe_files(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        let source = Source::new(&file.text);
        let mut uses = source
            .code_lines()
            .filter(|(_, c)| source::words(c).any(|w| w == "unsafe"));
        let Some((line, _)) = uses.next() else {
            continue;
        };
        seen.insert(file.path.as_str());
        if !UNSAFE_FILES.contains(&file.path.as_str()) {
            findings.push(at(
                file,
                line,
                "`unsafe` in a file that is not listed for it",
            ));
        }
    }
    for path in UNSAFE_FILES.iter().filter(|path| !seen.contains(**path)) {
        let message = "listed for `unsafe` and has none: take it off the list".to_owned();
        findings.push(Finding {
            path: (*path).to_owned(),
            line: 0,
            message,
        });
    }
    findings
}

/// The root fits on one screen: exactly these names.
fn root_listing(files: &[File]) -> Vec<Finding> {
    let present: BTreeSet<&str> = files
        .iter()
        .filter_map(|file| file.path.split('/').next())
        .collect();
    let wanted: BTreeSet<&str> = ROOT.iter().chain(CRATES).copied().collect();
    let finding = |name: &&str, message: &str| Finding {
        path: (*name).to_owned(),
        line: 0,
        message: message.to_owned(),
    };
    let extra = present
        .difference(&wanted)
        .map(|name| finding(name, "does not belong in the root"));
    let missing = wanted
        .difference(&present)
        .map(|name| finding(name, "is missing in the root"));
    extra.chain(missing).collect()
}

const LINE_MAX: usize = 100;
const LINES_MAX: usize = 800;
const ENGINES: &[&str] = &["iscsi-target", "replication", "ha"];
const CRATES: &[&str] = &[
    "appliance",
    "ha",
    "image",
    "iscsi-target",
    "qemu",
    "replication",
    "tests",
];
const ROOT: &[&str] = &[
    ".cargo",
    ".ci",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "clippy.toml",
    "docs",
    "rustfmt.toml",
];
const UNSAFE_FILES: &[&str] = &["replication/src/shell/uring.rs"];
/// What is no core in an engine. The small initiator is a program for tests and the demo.
const SHELLS: &[&str] = &["shell/", "initiator/"];
const IMPURE_WORDS: &[&str] = &[
    "tokio",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixDatagram",
    "UnixListener",
    "UnixStream",
    "Mutex",
    "RwLock",
    "Condvar",
    "thread",
    "spawn",
];
const IMPURE_PATHS: &[&str] = &["std::fs", "std::{fs", ".await"];
const DEFINING_WORDS: &[&str] = &[
    "const",
    "enum",
    "fn",
    "macro_rules",
    "mod",
    "static",
    "struct",
    "trait",
    "type",
    "union",
];
const EMPTY_PARTS: &[&str] = &["manager", "helper", "util", "misc", "common"];
const NOTE_WORDS: &[&str] = &["TODO", "FIXME", "XXX"];
const STUBS: &[&str] = &["todo!(", "unimplemented!(", "#[ignore"];

#[cfg(test)]
fn file(path: &str, text: &str) -> File {
    File {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rust(path: &str, text: &str) -> Vec<String> {
        let text = format!("//! doc\n{text}");
        check_rust(&file(path, &text))
            .iter()
            .map(Finding::to_string)
            .collect()
    }

    fn assert_finds(findings: &[String], part: &str) {
        assert!(
            findings.len() == 1 && findings[0].contains(part),
            "{findings:?}"
        );
    }

    #[test]
    fn a_clean_file_has_no_finding() {
        let text = "use bytes::Bytes;\n/// A region.\npub struct Region(pub u64);\n";
        assert_eq!(rust("ha/src/lib.rs", text), Vec::<String>::new());
    }

    #[test]
    fn long_lines_and_long_files_are_found() {
        let line = format!("// {}", "ä".repeat(97));
        assert!(rust("ha/src/lib.rs", &line).is_empty());
        assert_finds(
            &rust("ha/src/lib.rs", &format!("{line}a")),
            ":2: 101 characters",
        );
        assert!(rust("ha/src/lib.rs", &"\n".repeat(799)).is_empty());
        assert_finds(&rust("ha/src/lib.rs", &"\n".repeat(800)), "801 lines");
    }

    #[test]
    fn a_module_without_a_doc_is_found() {
        let findings = check_rust(&file("qemu/src/lib.rs", "pub mod machine;\n"));
        assert!(findings[0].message.contains("`//!`"), "{findings:?}");
    }

    #[test]
    fn input_and_output_in_a_core_is_found() {
        let cases = [
            "use tokio::sync::mpsc;",
            "use std::net::{IpAddr, TcpStream};",
            "fn f() { let _ = std::fs::read(\"x\"); }",
            "use std::{fs, io};",
            "async fn f() { g()\n.await }",
            "use std::net::UdpSocket;",
        ];
        for text in cases {
            assert_finds(&rust("replication/src/engine/write.rs", text), "in a core");
            assert!(
                rust("replication/src/shell/driver.rs", text).is_empty(),
                "{text}"
            );
            assert!(rust("replication/tests/link.rs", text).is_empty(), "{text}");
            assert!(rust("appliance/src/main.rs", text).is_empty(), "{text}");
        }
        for text in [
            "use std::net::IpAddr;",
            "// tokio and std::fs",
            "const A: &str = \"tokio\";",
        ] {
            assert!(rust("ha/src/lib.rs", text).is_empty(), "{text}");
        }
    }

    #[test]
    fn empty_names_are_found() {
        let cases = [
            "struct PeerManager;",
            "fn parse_helpers() {}",
            "mod util;",
            "const MISC_MAX: u32 = 1;",
            "type CommonState = u8;",
        ];
        for text in cases {
            assert_finds(&rust("ha/src/lib.rs", text), "name what it is");
        }
        assert_finds(&rust("ha/src/utils.rs", ""), "in a file name");
        for text in [
            "struct Utilisation;",
            "use hyper_util::rt;",
            "fn commonly() {}",
        ] {
            assert!(rust("appliance/src/api.rs", text).is_empty(), "{text}");
        }
    }

    #[test]
    fn notes_and_stubs_are_found() {
        let cases = [
            "// TODO: later",
            "/* FIXME */",
            "// see XXX",
            "fn f() { todo!() }",
            "fn f() { unimplemented ! (\"x\") }",
            "#[ignore]\nfn f() {}",
            "#[ignore = \"slow\"]\nfn f() {}",
        ];
        for text in cases {
            assert_eq!(rust("ha/src/lib.rs", text).len(), 1, "{text}");
        }
        assert!(rust("ha/src/lib.rs", "const A: &str = \"TODO todo!()\";").is_empty());
    }

    #[test]
    fn allow_is_found() {
        let cases = [
            "#[allow(dead_code)]",
            "#![allow(dead_code)]",
            "#[cfg_attr(test, allow(dead_code))]",
        ];
        for text in cases {
            assert_finds(&rust("ha/src/lib.rs", text), "`#[expect");
        }
        assert!(rust("ha/src/lib.rs", "#[expect(dead_code, reason = \"x\")]").is_empty());
    }

    #[test]
    fn unsafe_outside_its_files_is_found() {
        let listed: Vec<File> = UNSAFE_FILES
            .iter()
            .map(|path| file(path, "unsafe { ring() }"))
            .collect();
        assert!(unsafe_files(&listed).is_empty());
        let other = file("ha/src/wire.rs", "// unsafe\nfn f() { unsafe {} }");
        let findings = unsafe_files(&[&listed[..], &[other]].concat());
        assert_eq!((findings.len(), findings[0].line), (1, 2));
        let unused = unsafe_files(&[file("ha/src/wire.rs", "#![deny(unsafe_code)]")]);
        assert_eq!(unused.len(), UNSAFE_FILES.len());
    }

    #[test]
    fn the_root_is_exactly_the_listed_names() {
        let mut files: Vec<File> = ROOT
            .iter()
            .chain(CRATES)
            .map(|name| file(&format!("{name}/x"), ""))
            .collect();
        assert!(root_listing(&files).is_empty());
        files.push(file("PROGRESS.md", ""));
        files.retain(|file| !file.path.starts_with("README.md"));
        let findings = root_listing(&files);
        assert_eq!(findings.len(), 2);
        assert!(findings[0].path == "PROGRESS.md" && findings[1].path == "README.md");
    }
}
