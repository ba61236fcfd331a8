//! The example that is a crate outside the workspace: commands for the workspace do not reach it.

use std::path::PathBuf;

use crate::build;
use crate::failure::{Failure, Result};
use crate::places;

/// What its program is called.
pub const PROGRAM: &str = "acme-edge";

/// The words that send a command of cargo there.
pub fn there() -> [String; 2] {
    let manifest = places::checkout().join("examples/vendor-board/Cargo.toml");
    ["--manifest-path".into(), manifest.to_string_lossy().into_owned()]
}

/// `subcommand` of cargo for it, which compiles. What it and the workspace both need is compiled once. Where our crates
/// need something new, its lock file has to say so too: copy ours there and have cargo build it.
pub fn cargo(subcommand: &str) -> Vec<String> {
    let target = places::target().to_string_lossy().into_owned();
    let shared = ["--locked".into(), "--target-dir".into(), target];
    [subcommand.to_owned()].into_iter().chain(there()).chain(shared).collect()
}

/// The monitor with a vendor's board, static.
pub fn monitor(target: &str, profile: &str) -> Result<PathBuf> {
    let built = build::executables(&cargo("build"), target, profile, PROGRAM)?;
    built
        .into_iter()
        .find(|path| path.ends_with(PROGRAM))
        .ok_or_else(|| Failure::new(format!("cargo built the vendor's board, but named no '{PROGRAM}'")))
}
