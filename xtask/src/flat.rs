//! Tests with programs that need no system, on this machine's own x86_64 KVM.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::build::{self, Architecture};
use crate::command::{Run, command};
use crate::failure::{About, Failure, Result};
use crate::places::{self, RunDirectory};
use crate::progress::{say, step};
use crate::tools;

/// No system.
const TARGET: &str = "x86_64-unknown-none";
/// The programs for arm64.
pub const ON_ARM64: &str = "ambit-payloads-arm64";
/// How long a program that ends at once may take where KVM is the hardware's.
const TRIAL: Duration = Duration::from_secs(30);

/// Runs the tests, or says why this machine cannot.
pub fn tests(filters: &[String]) -> Result<()> {
    run(filters, &[])
}

/// What takes too long for every run, and every attack on a running monitor, of which [`tests`] does a part.
pub fn soak() -> Result<()> {
    run(&["soak::".to_owned(), "--test-threads=1".to_owned()], &[])?;
    run(&["attacks::".to_owned()], &[("AMBIT_ATTACKS", "1")])
}

fn run(filters: &[String], settings: &[(&str, &str)]) -> Result<()> {
    let Some(ground) = Ground::find("tests with x86_64 programs", build::CHECKED)? else { return Ok(()) };
    let tests = executable()?;
    say("tests with programs on this machine's own x86_64 KVM");
    let left_out: &[&str] = if filters.is_empty() { &["--skip", "soak::"] } else { &[] };
    let scratch = RunDirectory::new("flat")?;
    ground.command(tests, &scratch).envs(settings.iter().copied()).args(filters).args(left_out).show()
}

/// What runs on this machine's own x86_64 KVM.
pub struct Ground {
    monitor: PathBuf,
    payloads: PathBuf,
}

impl Ground {
    /// `None`, and a word why `what` is not run, where there is no such KVM.
    pub fn find(what: &str, profile: &str) -> Result<Option<Self>> {
        if Architecture::here() != Some(Architecture::X86_64) {
            say(&format!("not run: {what}, as this machine is not x86_64"));
            return Ok(None);
        }
        let ground = Self { monitor: build::monitor(build::X86_64, profile)?, payloads: payloads()? };
        let tried =
            step("trying this machine's KVM with a program", || trial(&ground.monitor, &ground.payloads));
        if let Err(why) = tried {
            say(&format!("not run: {what}, as this machine's KVM does not run a program: {why}"));
            return Ok(None);
        }
        Ok(Some(ground))
    }

    /// A program of `ambit-tests`, told where everything is.
    pub fn command(&self, program: PathBuf, scratch: &RunDirectory) -> Command {
        let mut command = command(program, [""; 0]);
        command.env("AMBIT_BIN", &self.monitor).env("AMBIT_PAYLOADS", &self.payloads);
        command.env("AMBIT_SCRATCH", scratch.join(""));
        command
    }
}

/// `subcommand` of cargo for the programs, which are a workspace of their own with a target of their own.
pub fn cargo(subcommand: &str, words: &[&str]) -> Result<Command> {
    tools::need_target(TARGET)?;
    let mut cargo = command("cargo", [subcommand]);
    if subcommand != "fmt" {
        cargo.args(["--locked", "--target-dir"]).arg(target());
    }
    cargo.args(words).current_dir(places::checkout().join("tests/payloads"));
    Ok(cargo)
}

fn target() -> PathBuf {
    places::target().join("payloads")
}

/// The attacks as an image for arm64, which has a target of its own.
pub fn attacks_on_arm64() -> Result<PathBuf> {
    say("building the program that attacks a monitor on arm64");
    tools::need_target(build::ARM64)?;
    let words = ["--release", "--quiet", "--package", ON_ARM64, "--target", build::ARM64];
    cargo("build", &words)?.show()?;
    Ok(target().join(build::ARM64).join("release/attacks"))
}

/// The directory of the programs.
fn payloads() -> Result<PathBuf> {
    say("building the programs that run without a system");
    cargo("build", &["--release", "--quiet"])?.show()?;
    Ok(target().join(TARGET).join("release"))
}

fn executable() -> Result<PathBuf> {
    let cargo = ["test", "--package", "ambit-tests", "--test", "flat", "--no-run"];
    let built = build::executables(&cargo, build::X86_64, build::CHECKED, "the tests with programs")?;
    let name =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("flat-"));
    let missing = || Failure::new("cargo built the tests with programs, but named no executable");
    built.into_iter().find(name).ok_or_else(missing)
}

/// Decides by what ran, not by whether there is a device node.
fn trial(monitor: &Path, payloads: &Path) -> Result<()> {
    let mut child = command(monitor, ["run", "--board", "pc", "--memory", "16M", "--cmdline", "how=off"])
        .arg("--kernel")
        .arg(payloads.join("ends"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .about("start", monitor)?;
    let begun = Instant::now();
    while begun.elapsed() < TRIAL {
        if let Some(status) = child.try_wait().about("wait for", monitor)? {
            return if status.success() { Ok(()) } else { Err(Failure::new(said(child))) };
        }
        thread::sleep(Duration::from_millis(10));
    }
    // Nothing is left to do about a process that cannot even be killed.
    let _ = child.kill();
    let _ = child.wait();
    Err(Failure::new(format!("a program did not end within {} s", TRIAL.as_secs())))
}

fn said(child: Child) -> String {
    let output = child.wait_with_output().map(|output| output.stderr).unwrap_or_default();
    let text = String::from_utf8_lossy(&output);
    text.lines().next().unwrap_or("it ended and said nothing").to_owned()
}
