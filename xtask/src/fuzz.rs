//! What random bytes and an interpreter find: the targets of `fuzz/` for a minute each, and tests under Miri.

use std::collections::VecDeque;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use crate::command::{Run, command, last_lines};
use crate::failure::{About, Failure, Result};
use crate::places;
use crate::progress::{say, step};

/// How long each target runs.
const SECONDS: u64 = 60;
/// A run that takes longer counts as hung.
const HANG: u64 = 10;
const LONGEST: u64 = 4096;

/// What Miri runs: tests of rings, transports and parsers that need no system call it does not know.
const MIRI: &[(&str, &[&str])] = &[
    ("ambit-memory", &[]),
    ("ambit-pci", &["fuzz::tests::random", "function::"]),
    ("ambit-virtio", &["fuzz::tests::miri", "config::", "interrupt::"]),
];

/// Both, where the machine has what they take; what it lacks is said.
pub fn tests(filters: &[String]) -> Result<()> {
    if !nightly_has("rustc") {
        return absent("fuzz targets and Miri", "a nightly toolchain (rustup toolchain install nightly)");
    }
    if filters.is_empty() {
        miri()?;
    }
    if command("cargo", ["fuzz", "--version"]).capture().is_err() {
        return absent("fuzz targets", "cargo-fuzz (cargo install cargo-fuzz)");
    }
    fuzz(filters)
}

fn absent(what: &str, missing: &str) -> Result<()> {
    eprintln!(
        "NOT TESTED: {what}: this machine has no {missing}; the inputs in fuzz/corpus are replayed by --unit"
    );
    Ok(())
}

fn nightly_has(program: &str) -> bool {
    command("rustup", ["which", "--toolchain", "nightly", program]).capture().is_ok()
}

fn nightly<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut cargo = command("cargo", arguments);
    // The pinned toolchain's name is in the environment of this very program.
    cargo.env("RUSTUP_TOOLCHAIN", "nightly").env_remove("CARGO").env_remove("RUSTC");
    cargo.current_dir(places::checkout());
    cargo
}

fn miri() -> Result<()> {
    if !nightly_has("cargo-miri") {
        return absent(
            "Miri",
            "component miri of the nightly (rustup component add miri --toolchain nightly)",
        );
    }
    for (package, filters) in MIRI {
        say(&format!("tests of {package} under Miri"));
        let begun = Instant::now();
        let mut test = nightly(["miri", "test", "--package", package, "--lib", "--quiet", "--"]);
        // Inputs are files, and memory of guests comes from the system.
        test.env("MIRIFLAGS", "-Zmiri-disable-isolation").args(*filters);
        test.show()?;
        eprintln!("    took {:.1} s", begun.elapsed().as_secs_f32());
    }
    Ok(())
}

/// What became of one target.
struct Ran {
    name: String,
    runs: u64,
    failed: Option<String>,
}

fn fuzz(filters: &[String]) -> Result<()> {
    let all = targets()?;
    let chosen = |name: &String| filters.is_empty() || filters.iter().any(|filter| name.contains(filter));
    let names: Vec<String> = all.into_iter().filter(chosen).collect();
    if names.is_empty() {
        return Err(Failure::new(format!("there is no fuzz target for: {}", filters.join(" "))));
    }
    step("building the fuzz targets", || nightly(["fuzz", "build"]).capture())?;
    let lanes = std::thread::available_parallelism().map_or(1, usize::from);
    let minutes = (names.len().div_ceil(lanes) as u64 * SECONDS).div_ceil(60);
    say(&format!("{} fuzz targets, {SECONDS} s each, {lanes} at a time: {minutes} min", names.len()));
    let (begun, count) = (Instant::now(), names.len());
    let waiting = Mutex::new(VecDeque::from(names));
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                loop {
                    let Some(name) = waiting.lock().unwrap().pop_front() else { break };
                    let ran = run(&name);
                    let mut done = done.lock().unwrap();
                    done.push(ran);
                    report(done.last().expect("it was just pushed"), done.len(), count);
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_default();
    let runs: u64 = done.iter().map(|ran| ran.runs).sum();
    let failed: Vec<&str> =
        done.iter().filter(|ran| ran.failed.is_some()).map(|ran| ran.name.as_str()).collect();
    if !failed.is_empty() {
        return Err(Failure::new(format!(
            "{} of {count} fuzz targets failed: {}",
            failed.len(),
            failed.join(", ")
        )));
    }
    say(&format!("{count} fuzz targets, {runs} runs, none failed, in {} s", begun.elapsed().as_secs()));
    Ok(())
}

fn report(ran: &Ran, done: usize, count: usize) {
    match &ran.failed {
        None => eprintln!("    {done}/{count} {}: {} runs", ran.name, ran.runs),
        Some(said) => eprintln!("    {done}/{count} {}: FAILED\n{said}", ran.name),
    }
}

/// One for each file in `fuzz/fuzz_targets`.
fn targets() -> Result<Vec<String>> {
    let directory = places::checkout().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).about("list", &directory)? {
        let path = entry.about("list", &directory)?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// New inputs go to a place of their own: what is kept in `fuzz/corpus` is chosen by hand.
fn run(name: &str) -> Ran {
    let failed = |why: String| Ran { name: name.to_owned(), runs: 0, failed: Some(why) };
    let root = places::checkout();
    let found = places::cache().join("fuzz").join(name);
    if let Err(error) = fs::create_dir_all(&found) {
        return failed(format!("cannot make {}: {error}", found.display()));
    }
    let mut fuzz = nightly(["fuzz", "run", name]);
    fuzz.arg(&found).arg(root.join("fuzz/corpus").join(name)).arg("--");
    fuzz.arg(format!("-max_total_time={SECONDS}")).arg(format!("-timeout={HANG}"));
    fuzz.arg(format!("-max_len={LONGEST}")).args(["-rss_limit_mb=2048", "-print_final_stats=1"]);
    let output = match fuzz.stdout(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => return failed(format!("cannot start cargo: {error}")),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let runs = executed(&said);
    let failed = (!output.status.success() || runs == 0).then(|| last_lines(&said, 60));
    Ran { name: name.to_owned(), runs, failed }
}

/// How many runs libFuzzer says there were.
fn executed(said: &str) -> u64 {
    let line = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_runs_is_read_from_what_libfuzzer_says() {
        let said = "Done 7 runs in 1 second(s)\nstat::number_of_executed_units: 7\nstat::average_exec_per_sec:     7\n";

        assert_eq!([executed(said), executed("nothing")], [7, 0]);
    }

    #[test]
    fn every_target_has_inputs_and_is_in_the_manifest() {
        let manifest = fs::read_to_string(places::checkout().join("fuzz/Cargo.toml")).unwrap();
        for name in targets().unwrap() {
            let corpus = places::checkout().join("fuzz/corpus").join(&name);
            let sizes: Vec<u64> = fs::read_dir(&corpus)
                .unwrap_or_else(|error| panic!("{}: {error}", corpus.display()))
                .map(|entry| entry.unwrap().metadata().unwrap().len())
                .collect();

            assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name} is not in fuzz/Cargo.toml");
            assert!((1..=30).contains(&sizes.len()), "{name} has {} inputs", sizes.len());
        }
    }
}
