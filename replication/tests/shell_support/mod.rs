//! What the tests of the shell share: folders and seeded randomness.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod random;

pub(crate) use random::Rng;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A folder of its own, removed at the end of the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// A new folder on the file system of the build.
    pub(crate) fn new() -> Self {
        Self::under(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    /// A new folder in `parent`.
    pub(crate) fn under(parent: &Path) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("shell-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

impl Rng {
    pub(crate) fn bytes(&mut self, len_bytes: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len_bytes + 8);
        while bytes.len() < len_bytes {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len_bytes);
        bytes
    }
}
