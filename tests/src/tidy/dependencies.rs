//! Manifests against the tree: who may know whom, every crate is built, and nothing is listed that
//! nobody uses.

use std::collections::BTreeSet;

use super::source::{self, Source};
use super::{CRATES, ENGINES, File, Finding, at};

/// All findings of all manifests.
pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut named = BTreeSet::new();
    for file in files {
        let Some(owner) = file.path.strip_suffix("/Cargo.toml") else {
            continue;
        };
        let names = match listed(file) {
            Ok(names) => names,
            Err(finding) => {
                findings.push(finding);
                continue;
            }
        };
        findings.extend(edges(file, owner, &names));
        findings.extend(unused(file, owner, &names, files));
        named.extend(names);
    }
    if let Some(root) = files.iter().find(|file| file.path == "Cargo.toml") {
        findings.extend(strays(root, files));
        match listed(root) {
            Ok(names) => findings.extend(
                names
                    .difference(&named)
                    .map(|name| at(root, 0, format!("no crate depends on {name}: take it out"))),
            ),
            Err(finding) => findings.push(finding),
        }
    }
    findings
}

/// The engines and the image know no other crate of ours.
fn edges(file: &File, owner: &str, names: &BTreeSet<String>) -> Vec<Finding> {
    if !ENGINES.contains(&owner) && owner != "image" {
        return Vec::new();
    }
    let ours = names.iter().filter(|name| CRATES.contains(&name.as_str()));
    ours.map(|name| at(file, 0, format!("{owner} must not know {name}")))
        .collect()
}

/// What is no member of the workspace is neither built nor tested, and nobody notices.
fn strays(root: &File, files: &[File]) -> Vec<Finding> {
    let manifest: toml::Table = root.text.parse().unwrap_or_default();
    let workspace = manifest.get("workspace");
    let members = workspace.and_then(|it| it.get("members")?.as_array());
    let is_member = |owner: &str| {
        let mut members = members.into_iter().flatten();
        members.any(|member| member.as_str() == Some(owner))
    };
    let owners = files.iter().filter_map(|file| {
        let owner = file.path.strip_suffix("/Cargo.toml")?;
        Some((file, owner))
    });
    owners
        .filter(|(_, owner)| !is_member(owner))
        .map(|(file, owner)| at(file, 0, format!("{owner} is no member of the workspace")))
        .collect()
}

/// Every dependency is a word in the code of its crate.
fn unused(file: &File, owner: &str, names: &BTreeSet<String>, files: &[File]) -> Vec<Finding> {
    let own = files.iter().filter(|file| {
        let inside = file.path.strip_prefix(owner);
        inside.is_some_and(|inside| inside.starts_with('/')) && file.path.ends_with(".rs")
    });
    let mut words = BTreeSet::new();
    for source in own.map(|file| Source::new(&file.text)) {
        for (_, code) in source.code_lines() {
            words.extend(source::words(code).map(str::to_owned));
        }
    }
    let is_used = |name: &&String| {
        // `md-5` is the crate `md5`: some packages drop the hyphen instead of replacing it
        words.contains(&name.replace('-', "_")) || words.contains(&name.replace('-', ""))
    };
    let idle = names.iter().filter(|name| !is_used(name));
    idle.map(|name| at(file, 0, format!("{owner} does not use {name}: take it out")))
        .collect()
}

fn listed(file: &File) -> Result<BTreeSet<String>, Finding> {
    let manifest: toml::Table = file
        .text
        .parse()
        .map_err(|error| at(file, 0, format!("unreadable: {error}")))?;
    let mut names = BTreeSet::new();
    collect(&manifest, &mut names);
    Ok(names)
}

/// Dependency tables of every kind and target; what renamed entries stand for, and not the name
/// they were given.
fn collect(table: &toml::Table, names: &mut BTreeSet<String>) {
    for (key, value) in table {
        let Some(inner) = value.as_table() else {
            continue;
        };
        if !key.ends_with("dependencies") {
            collect(inner, names);
            continue;
        }
        for (name, dependency) in inner {
            let real = |field| dependency.get(field).and_then(toml::Value::as_str);
            let folder = real("path").and_then(|path| path.rsplit('/').next());
            let real = real("package").or(folder).unwrap_or(name);
            names.insert(real.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::super::file;

    fn findings(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<File> = files.iter().map(|(path, text)| file(path, text)).collect();
        check(&files).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn an_edge_between_engines_is_found() {
        let cases = [
            "[dependencies]\nha.workspace = true\n",
            "[dev-dependencies]\nha = { path = \"../ha\" }\n",
            "[dependencies]\nx = { package = \"ha\", version = \"1\" }\n",
            "[target.'cfg(unix)'.build-dependencies]\nha = \"1\"\n",
            "[dependencies]\nx = { path = \"../ha\" }\n",
        ];
        let code = "use ha::Node;\n";
        for text in cases {
            let engine = [
                ("replication/Cargo.toml", text),
                ("replication/src/lib.rs", code),
            ];
            let found = findings(&engine);
            assert!(
                found.len() == 1 && found[0].contains("must not know ha"),
                "{text}: {found:?}"
            );
            let program = [
                ("appliance/Cargo.toml", text),
                ("appliance/src/lib.rs", code),
            ];
            assert_eq!(findings(&program), Vec::<String>::new(), "{text}");
        }
        assert_eq!(findings(&[("ha/Cargo.toml", "[")]).len(), 1);
    }

    #[test]
    fn a_dependency_that_nobody_uses_is_found() {
        let manifest = "[dependencies]\nmd-5.workspace = true\ntokio-util = \"1\"\n";
        let uses = "use md5::Md5;\nuse tokio_util::codec;\n";
        let crate_of = |code| [("ha/Cargo.toml", manifest), ("ha/tests/a.rs", code)];
        assert_eq!(findings(&crate_of(uses)), Vec::<String>::new());
        for code in [
            "use md5::Md5;\n// tokio_util\n",
            "use tokio_util::codec;\nconst A: &str = \"md5\";\n",
        ] {
            let found = findings(&crate_of(code));
            assert!(
                found.len() == 1 && found[0].contains("ha does not use"),
                "{code}: {found:?}"
            );
        }
        let elsewhere = [("ha/Cargo.toml", manifest), ("haul/src/lib.rs", uses)];
        assert_eq!(findings(&elsewhere).len(), 2);
    }

    #[test]
    fn the_root_lists_what_some_crate_depends_on() {
        let root = "[workspace]\nmembers = [\"ha\"]\n[workspace.dependencies]\nbytes = \"1\"\n";
        let own = "[dependencies]\nbytes.workspace = true\n";
        let code = "use bytes::Bytes;\n";
        let used = [
            ("Cargo.toml", root),
            ("ha/Cargo.toml", own),
            ("ha/src/lib.rs", code),
        ];
        assert_eq!(findings(&used), Vec::<String>::new());
        let found = findings(&used[..1]);
        assert!(
            found.len() == 1 && found[0].contains("no crate depends on bytes"),
            "{found:?}"
        );
    }
    #[test]
    fn a_crate_that_nobody_builds_is_found() {
        let crates = [
            ("Cargo.toml", "[workspace]\nmembers = [\"ha\"]\n"),
            ("ha/Cargo.toml", ""),
            ("ha/fuzz/Cargo.toml", ""),
        ];
        assert_eq!(findings(&crates[..2]), Vec::<String>::new());
        let found = findings(&crates);
        assert!(
            found.len() == 1 && found[0].contains("ha/fuzz is no member"),
            "{found:?}"
        );
    }
}
