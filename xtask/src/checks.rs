//! What needs no KVM: formatting, lints, licences, dependencies, and the tests of each crate.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use crate::arrows;
use crate::build::ARM64;
use crate::command::{Run, command};
use crate::failure::Result;
use crate::places::{self, CacheLock};
use crate::progress::{say, step};
use crate::tools;

/// The version that is built when the machine has none.
const CARGO_DENY: &str = "0.20.2";

/// Formatting, lints, licences and dependencies.
pub fn lint() -> Result<()> {
    tools::need_target(ARM64)?;
    shown("formatting", cargo(["fmt", "--all", "--check"]))?;
    let all = ["clippy", "--workspace", "--all-targets", "--test", "guests"];
    let strict = ["--", "--deny", "warnings"];
    shown("lints, this machine's architecture", cargo(all.iter().chain(&strict)))?;
    shown("lints, arm64", cargo(all.iter().chain(&["--target", ARM64]).chain(&strict)))?;
    let mut deny = command(cargo_deny()?, ["--workspace", "--all-features", "--log-level", "error", "check"]);
    // Advisories come from a database elsewhere, which is not always to be had and changes without us.
    deny.args(["bans", "licenses", "sources"]).current_dir(places::checkout());
    shown("licences and sources of dependencies", deny)?;
    step("dependencies between our crates", arrows::check)
}

/// The tests of every crate that need no KVM.
pub fn unit_tests() -> Result<()> {
    shown("unit tests", cargo(["test", "--workspace"]))
}

fn cargo<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut cargo = command("cargo", arguments);
    cargo.current_dir(places::checkout());
    cargo
}

/// Runs with its output shown, and says how long it took.
fn shown(what: &str, mut command: Command) -> Result<()> {
    say(what);
    let begun = Instant::now();
    command.show()?;
    eprintln!("    took {:.1} s", begun.elapsed().as_secs_f32());
    Ok(())
}

/// The machine's cargo-deny, or one of our own.
fn cargo_deny() -> Result<PathBuf> {
    if let Some(installed) = tools::find("cargo-deny") {
        return Ok(installed);
    }
    let root = places::cache().join("tools");
    let ours = root.join("bin/cargo-deny");
    let _lock = CacheLock::take()?;
    if ours.exists() {
        return Ok(ours);
    }
    // Not optimised: it runs for a second, and compiling is what takes time.
    let mut install = cargo(["install", "--locked", "--quiet", "--version", CARGO_DENY, "--profile", "dev"]);
    install.args(["--config", "profile.dev.debug=false", "cargo-deny", "--root"]).arg(&root);
    install.env("CARGO_TARGET_DIR", root.join("build"));
    step("building cargo-deny, once: a minute or two", || install.capture())?;
    let _ = std::fs::remove_dir_all(root.join("build"));
    Ok(ours)
}
