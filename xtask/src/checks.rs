//! What needs no KVM: formatting, lints, licences, dependencies, and the tests of each crate.

use std::process::Command;
use std::time::Instant;

use crate::arrows;
use crate::build::ARM64;
use crate::command::{Run, command};
use crate::failure::Result;
use crate::flat;
use crate::fuzz;
use crate::places;
use crate::progress::{say, step};
use crate::tools;
use crate::vendor;

/// The version that is built when the machine has none.
const CARGO_DENY: &str = "0.20.2";

/// Formatting, lints, licences and dependencies.
pub fn lint() -> Result<()> {
    tools::need_target(ARM64)?;
    shown("formatting", cargo(["fmt", "--all", "--check"]))?;
    shown(
        "formatting of the vendor's board",
        cargo(["fmt", "--check"].map(str::to_owned).into_iter().chain(vendor::there())),
    )?;
    let strict = ["--", "--deny", "warnings"];
    let all = ["clippy", "--workspace", "--all-targets"];
    // With --all-targets cargo leaves out what is not a test by default, even where it is named.
    // Of the workspace, since a package alone has dependencies with other features, built anew.
    let told = ["clippy", "--workspace", "--test", "guests", "--test", "qemu", "--test", "flat"];
    for (what, words) in [("lints", all.as_slice()), ("lints of tests that need more", told.as_slice())] {
        shown(&format!("{what}, this machine's architecture"), cargo(words.iter().chain(&strict)))?;
        let arm64 = words.iter().chain(&["--target", ARM64]).chain(&strict);
        shown(&format!("{what}, arm64"), cargo(arm64))?;
    }
    let lints = vendor::cargo("clippy");
    // Our own crates have lints of their own.
    let strict = ["--all-targets", "--", "--no-deps", "--deny", "warnings"];
    shown("lints of the vendor's board", cargo(lints.iter().map(String::as_str).chain(strict)))?;
    shown("formatting of the programs without a system", flat::cargo("fmt", &["--all", "--check"])?)?;
    shown("lints of the programs without a system", flat::cargo("clippy", &["--", "--deny", "warnings"])?)?;
    let arm64 = ["--package", flat::ON_ARM64, "--target", ARM64, "--", "--deny", "warnings"];
    shown("lints of the same on arm64", flat::cargo("clippy", &arm64)?)?;
    shown("licences and sources of dependencies", deny(["--workspace".into()])?)?;
    shown("the same of the vendor's board", deny(vendor::there())?)?;
    step("dependencies between our crates", arrows::check)
}

/// The tests of every crate that need no KVM, and the board that is QEMU's beside QEMU.
/// With `seed`, tests of random cases choose what they chose before.
pub fn unit_tests(seed: Option<u32>) -> Result<()> {
    // Without it, the tables are not held against it.
    tools::need(tools::ACPI)?;
    let mut all = cargo(["test", "--workspace"]);
    all.envs(fuzz::choices(seed));
    shown("unit tests", all)?;
    shown("unit tests of the vendor's board", cargo(vendor::cargo("test")))?;
    // Run again for what it prints, which takes no time.
    let conformance = ["test", "--quiet", "--workspace", "--test", "conformance"];
    shown(
        "conformance to virtio",
        cargo(conformance.into_iter().chain(["--", "--nocapture", "--test-threads=1"])),
    )?;
    tools::need(tools::QEMU)?;
    shown("board qemu-virt beside QEMU", cargo(["test", "--workspace", "--test", "qemu"]))
}

/// The promises of the planner, with so many machines each.
pub fn soak(cases: u32) -> Result<()> {
    let tests = ["--test", "properties", "--test", "brute_force"];
    let packages = ["ambit-aarch64", "ambit-x86_64", "ambit-device-manager"].map(|name| ["--package", name]);
    let packages = ["test"].into_iter().chain(packages.into_iter().flatten());
    let mut soak = cargo(packages.chain(tests).chain(["--", "--nocapture"]));
    soak.env("AMBIT_CASES", cases.to_string()).env("PROPTEST_CASES", cases.to_string());
    shown("promises of the planner", soak)
}

fn deny(which: impl IntoIterator<Item = String>) -> Result<Command> {
    let mut deny = command(tools::crate_program("cargo-deny", CARGO_DENY)?, which);
    deny.args(["--all-features", "--log-level", "error", "check"]);
    // Advisories come from a database elsewhere, which is not always to be had and changes without us.
    deny.args(["bans", "licenses", "sources"]).current_dir(places::checkout());
    Ok(deny)
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
