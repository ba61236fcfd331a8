//! Files that a test makes and that go with it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::place;

/// A directory of one test's own, where there is room for disks.
pub struct Scratch(TempDir);

impl Scratch {
    #[expect(clippy::new_without_default, reason = "it makes a directory")]
    pub fn new() -> Self {
        let place = place::scratch();
        Self(TempDir::new_in(&place).unwrap_or_else(|error| panic!("{}: {error}", place.display())))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file of zeros that takes no room.
    pub fn disk(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path).and_then(|file| file.set_len(bytes)).expect("the scratch directory has room");
        path
    }

    /// A Debian root file system that may be written to.
    pub fn root_disk(&self) -> PathBuf {
        self.copy(&place::image("root.ext4"), "root.ext4")
    }

    /// A copy that keeps holes.
    pub fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let path = self.path(name);
        let status = Command::new("cp").arg("--sparse=always").args([from, &path]).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot copy {}", from.display());
        path
    }
}
