//! What random bytes and an interpreter find: the targets of `fuzz/` for a minute each, and tests under Miri.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use crate::command::{Run, command, last_lines};
use crate::failure::{About, Failure, Result};
use crate::places;
use crate::progress::{say, step};
use crate::tools;

/// The version that is built when the machine has none.
const CARGO_FUZZ: &str = "0.13.2";
/// How long each target runs.
const SECONDS: u64 = 60;
/// A run that takes longer counts as hung; on a busy machine a good one can take seconds.
const HANG: u64 = 60;
const LONGEST: u64 = 4096;
/// What the choices of the everyday run are made from, so that it finds today what it found yesterday.
pub const SEED: u32 = 1;
/// How many run at a time for each processor: a device's thread and the one that feeds it wait for one another.
const LANES: usize = 2;

/// What Miri runs of each crate: tests of rings, transports and parsers that make no system call it does not know.
const MIRI: &[(&str, &[&str])] = &[
    ("ambit-virtio", &["fuzz::tests::miri", "config::tests", "queue::tests", "ring::tests::miri"]),
    ("ambit-pci", &["fuzz::tests::random", "function::tests"]),
    ("ambit-memory", &[]),
    ("ambit-x86_64", &["fuzz::tests::random", "elf::tests", "bzimage::tests::what"]),
    ("ambit-aarch64", &["fuzz::tests::random"]),
];

/// One thing to run, in one of the lanes.
enum Job {
    /// The tests of a crate under Miri, those whose names have one of the words.
    Miri(&'static str, &'static [&'static str]),
    /// A fuzz target.
    Target(String),
}

impl Job {
    fn name(&self) -> String {
        match self {
            Self::Miri(package, _) => format!("{package} under Miri"),
            Self::Target(name) => name.clone(),
        }
    }
}

/// What became of one.
struct Ran {
    name: String,
    runs: u64,
    seconds: u64,
    failed: Option<String>,
}

/// Both, where the machine has what they take; what it lacks is said.
///
/// `seed` is what fuzz targets make their choices from; without one they make new ones.
pub fn tests(filters: &[String], seed: Option<u32>) -> Result<()> {
    let chosen = |job: &Job| filters.is_empty() || filters.iter().any(|filter| job.name().contains(filter));
    let mut jobs: Vec<Job> = MIRI.iter().map(|(package, words)| Job::Miri(package, words)).collect();
    jobs.extend(targets()?.into_iter().map(Job::Target));
    jobs.retain(chosen);
    if jobs.is_empty() {
        return Err(Failure::new(format!("there is no fuzz target for: {}", filters.join(" "))));
    }
    if !nightly_has("rustc") {
        absent("fuzz targets and Miri", "nightly toolchain (rustup toolchain install nightly)");
        return Ok(());
    }
    if !nightly_has("cargo-miri") {
        absent("Miri", "component miri of the nightly (rustup component add miri --toolchain nightly)");
        jobs.retain(|job| matches!(job, Job::Target(_)));
    }
    let fuzz = tools::crate_program("cargo-fuzz", CARGO_FUZZ).unwrap_or_else(|error| {
        absent("fuzz targets", &format!("cargo-fuzz, and cannot build it ({error})"));
        jobs.retain(|job| matches!(job, Job::Miri(..)));
        PathBuf::new()
    });
    build(&jobs, &fuzz)?;
    judge(&run_all(jobs, &fuzz, seed))
}

fn absent(what: &str, missing: &str) {
    eprintln!("NOT TESTED: {what}: this machine has no {missing}; fuzz/corpus is only replayed, by --unit");
}

fn nightly_has(program: &str) -> bool {
    command("rustup", ["which", "--toolchain", "nightly", program]).capture().is_ok()
}

fn nightly<S: AsRef<OsStr>>(program: &Path, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut nightly = command(program, arguments);
    // The pinned toolchain's name is in the environment of this very program.
    nightly.env("RUSTUP_TOOLCHAIN", "nightly").env_remove("CARGO").env_remove("RUSTC");
    nightly.current_dir(places::checkout());
    nightly
}

fn cargo<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    nightly(Path::new("cargo"), arguments)
}

/// All at once, so that no lane waits for another one's compiler.
fn build(jobs: &[Job], fuzz: &Path) -> Result<()> {
    let packages = jobs.iter().filter_map(|job| match job {
        Job::Miri(package, _) => Some(*package),
        Job::Target(_) => None,
    });
    let packages: Vec<&str> = packages.flat_map(|package| ["--package", package]).collect();
    if !packages.is_empty() {
        let words = ["miri", "test", "--lib", "--no-run"].into_iter().chain(packages);
        step("building tests for Miri", || cargo(words).capture())?;
    }
    if jobs.iter().any(|job| matches!(job, Job::Target(_))) {
        step("building the fuzz targets", || nightly(fuzz, ["fuzz", "build"]).capture())?;
    }
    Ok(())
}

fn run_all(jobs: Vec<Job>, fuzz: &Path, seed: Option<u32>) -> Vec<Ran> {
    let lanes = std::thread::available_parallelism().map_or(1, usize::from) * LANES;
    let count = jobs.len();
    let minutes = (count.div_ceil(lanes) as u64 * SECONDS).div_ceil(60);
    say(&format!(
        "{count} of fuzz targets, {SECONDS} s each, and crates under Miri, {lanes} at a time: {minutes} min or so"
    ));
    let waiting = Mutex::new(VecDeque::from(jobs));
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                loop {
                    let Some(job) = waiting.lock().unwrap().pop_front() else { break };
                    let ran = run(&job, fuzz, seed);
                    let mut done = done.lock().unwrap();
                    report(&ran, done.len() + 1, count);
                    done.push(ran);
                }
            });
        }
    });
    done.into_inner().unwrap_or_default()
}

fn report(ran: &Ran, done: usize, count: usize) {
    let Ran { name, runs, seconds, failed } = ran;
    match failed {
        None if *runs == 0 => eprintln!("    {done}/{count} {name}: clean, {seconds} s"),
        None => eprintln!("    {done}/{count} {name}: {runs} runs, {seconds} s"),
        Some(said) => eprintln!("    {done}/{count} {name}: FAILED after {seconds} s\n{said}"),
    }
}

fn judge(done: &[Ran]) -> Result<()> {
    let (count, runs) = (done.len(), done.iter().map(|ran| ran.runs).sum::<u64>());
    let failed: Vec<&str> =
        done.iter().filter(|ran| ran.failed.is_some()).map(|ran| ran.name.as_str()).collect();
    if failed.is_empty() {
        say(&format!("{count} fuzz targets and crates under Miri, {runs} runs, none failed"));
        return Ok(());
    }
    Err(Failure::new(format!("{} of {count} failed: {}", failed.len(), failed.join(", "))))
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

fn run(job: &Job, fuzz: &Path, seed: Option<u32>) -> Ran {
    let begun = Instant::now();
    let ended = match job {
        Job::Miri(package, words) => interpret(package, words, seed).map(|()| 0),
        Job::Target(name) => feed(name, fuzz, seed),
    };
    let seconds = begun.elapsed().as_secs();
    let (runs, failed) = match ended {
        Ok(runs) => (runs, None),
        Err(error) => (0, Some(error.to_string())),
    };
    Ran { name: job.name(), runs, seconds, failed }
}

/// What tells proptest its seed, if there is one.
pub fn choices(seed: Option<u32>) -> impl Iterator<Item = (&'static str, String)> {
    seed.map(|seed| ("PROPTEST_RNG_SEED", seed.to_string())).into_iter()
}

fn interpret(package: &str, words: &[&str], seed: Option<u32>) -> Result<()> {
    let mut test = cargo(["miri", "test", "--package", package, "--lib", "--quiet", "--"]);
    // Inputs are files, and memory of guests comes from the system. The random cases of tests are for the processor.
    test.env("MIRIFLAGS", "-Zmiri-disable-isolation")
        .env("PROPTEST_CASES", "4")
        .envs(choices(seed))
        .args(words);
    let said = test.capture()?;
    if said.lines().all(|line| !line.starts_with("test result: ok.") || line.contains(" 0 passed")) {
        return Err(Failure::new(format!("no test of {package} has one of these in its name: {words:?}")));
    }
    Ok(())
}

/// New inputs go to a place of their own: what is kept in `fuzz/corpus` is chosen by hand.
fn feed(name: &str, program: &Path, seed: Option<u32>) -> Result<u64> {
    let found: PathBuf = places::cache().join("fuzz").join(name);
    fs::create_dir_all(&found).about("create the directory", &found)?;
    let mut fuzz = nightly(program, ["fuzz", "run", name]);
    fuzz.arg(&found).arg(places::checkout().join("fuzz/corpus").join(name)).arg("--");
    fuzz.arg(format!("-max_total_time={SECONDS}")).arg(format!("-timeout={HANG}"));
    fuzz.arg(format!("-max_len={LONGEST}")).args(["-rss_limit_mb=2048", "-print_final_stats=1"]);
    // Leaks are looked for at the end: what a thread has while it begins or ends looks like one.
    fuzz.arg("-detect_leaks=0");
    fuzz.args(seed.map(|seed| format!("-seed={seed}")));
    let output = fuzz.stdout(Stdio::null()).output();
    let output = output.map_err(|error| Failure::new(format!("cannot start cargo-fuzz: {error}")))?;
    let said = String::from_utf8_lossy(&output.stderr);
    match executed(&said) {
        runs if output.status.success() && runs > 0 => Ok(runs),
        _ => Err(Failure::new(telling(&said))),
    }
}

/// What broke, and how to see it again: the rest of what a target says is stacks.
fn telling(said: &str) -> String {
    const SIGNS: [&str; 3] = ["ERROR: ", "SUMMARY: ", "cargo fuzz run "];
    let panic = said.lines().skip_while(|line| !line.contains("panicked at")).take(3);
    let signs = said.lines().filter(|line| SIGNS.iter().any(|sign| line.contains(sign)));
    let told: Vec<&str> = panic.chain(signs).collect();
    if told.is_empty() { last_lines(said, 30) } else { told.join("\n") }
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
    fn a_failure_is_told_by_its_panic_and_the_way_to_see_it_again() {
        let said = "#2 INITED\nthread 'x' panicked at a.rs:1:2:\nadd with overflow\nstack:\n 0: a\n\
                    ==7== ERROR: libFuzzer: deadly signal\n #0 b\n\tcargo fuzz run pvh fuzz/artifacts/pvh/crash-5\n";

        let told = "thread 'x' panicked at a.rs:1:2:\nadd with overflow\nstack:\n\
                    ==7== ERROR: libFuzzer: deadly signal\n\tcargo fuzz run pvh fuzz/artifacts/pvh/crash-5";
        assert_eq!(
            [telling(said), telling("no such target")],
            [told.to_owned(), "no such target".to_owned()]
        );
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
            assert!((1..=40).contains(&sizes.len()), "{name} has {} inputs", sizes.len());
        }
    }
}
