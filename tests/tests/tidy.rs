//! The repository keeps its own rules.

use std::path::Path;

use tests::tidy;

#[test]
fn the_repository_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let files = tidy::read_repository(&root).unwrap();
    assert!(
        files.iter().any(|file| file.path == "Cargo.toml"),
        "{} is no root",
        root.display()
    );
    let findings = tidy::check(&files);
    for finding in &findings {
        eprintln!("{finding}");
    }
    assert!(
        findings.is_empty(),
        "{} findings, listed above",
        findings.len()
    );
}
