//! `cargo xtask test`: all there is, or a part.

use std::fs;
use std::iter::Peekable;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::build::{self, Architecture};
use crate::checks;
use crate::command::joined;
use crate::emulator::Cpu;
use crate::failure::{About, Failure, Result};
use crate::flat;
use crate::fuzz;
use crate::image::Images;
use crate::job::Job;
use crate::places;
use crate::progress::say;
use crate::vendor;
use crate::venue::Venue;

pub const HELP: &str = "\
cargo xtask test [--lint] [--unit] [--fuzz [FILTER…]] [--flat [FILTER…]] [--guest [FILTER…]] [--cpu MODEL]

Without options: all but --cpu amd. Formatting, lints for both architectures, licences, dependencies between our crates,
the tests of each crate, the board qemu-virt beside this machine's QEMU, where there is a nightly toolchain what random
bytes and Miri find, programs without a system where this machine has x86_64 KVM that runs them, and then guests booted
where KVM is: on an arm64 machine there, and else in an emulated arm64 host, once for each width of guest physical
addresses and each interrupt controller. examples/vendor-board is tested as our own crates are. An emulator may lose a
guest: where no more than two tests fail in an emulated host, they are run again, alone, and called UNSTEADY if
they pass then; with a FILTER, and on real KVM, a test has one chance.

  --lint            formatting, lints, licences and dependencies
  --unit            the tests of each crate that need no KVM, and what QEMU says of the board qemu-virt. Tests of random
                    cases make new choices each time, the run of everything makes those of a fixed seed
  --fuzz [FILTER…]  tests of rings, transports and parsers under Miri, and each fuzz target for a minute, two at a time
                    for each processor: 8 minutes with two of them, after 5 of compiling; with FILTER those whose names
                    have it, as 'ring' or 'Miri'; with new choices each time, too. Without a nightly toolchain neither;
                    --unit replays fuzz/corpus on every machine
  --flat [FILTER…]  the tests with programs that run without a system on this machine's own x86_64 KVM; with FILTER
                    those whose names have it
  --guest [FILTER…] the tests that boot guests; with FILTER those whose names have it, on max or what --cpu says
  --cpu MODEL       cortex-a53 (40 bits), cortex-a72 (44), max (48), gicv2 (40, an older interrupt controller) or
                    amd (48, an emulated x86_64 host, which itself stands still now and then), and no other

  cargo xtask test --unit
  cargo xtask test --fuzz transport
  cargo xtask test --guest four_processors
  cargo xtask test --guest on_every_host --cpu cortex-a53
";

/// A test that hangs is ended by its own limits, long before these.
const SILENCE: Duration = Duration::from_secs(10 * 60);
const LIMIT: Duration = Duration::from_secs(60 * 60);
/// How many tests may fail and still be run again. A bug of ours that is always there fails more, or fails again.
const UNSTEADY_AT_MOST: u32 = 2;
/// The status of tests that passed, some of them not at once: EX_TEMPFAIL of sysexits.h.
const UNSTEADY: i32 = 75;

/// What of the guest tests is for an x86_64 host: those of its own, and some that know no architecture.
const X86_64_TESTS: [&str; 6] = [
    "on_amd",
    "on_every_host",
    "boot::a_guest_without_disks",
    "boot::linux_brings_up_two_processors",
    "endings::linux_that_reboots",
    "endings::linux_that_panics",
];

#[derive(Default)]
struct Arguments {
    lint: bool,
    unit: bool,
    fuzz: Option<Vec<String>>,
    flat: Option<Vec<String>>,
    guest: bool,
    filters: Vec<String>,
    cpu: Option<Cpu>,
    /// What fuzz targets and tests of random cases make their choices from, where it is not new ones each time.
    seed: Option<u32>,
}

fn parse(words: impl Iterator<Item = String>) -> Result<Arguments> {
    let mut arguments = Arguments::default();
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--lint" => arguments.lint = true,
            "--unit" => arguments.unit = true,
            "--fuzz" => arguments.fuzz = Some(filters(&mut words)),
            "--flat" => arguments.flat = Some(filters(&mut words)),
            "--guest" => {
                arguments.guest = true;
                arguments.filters = filters(&mut words);
            }
            "--cpu" => {
                let model = words.next().ok_or_else(|| Failure::new("--cpu wants a model"))?;
                arguments.cpu = Some(model.parse()?);
            }
            _ => return Err(Failure::new(format!("'{word}' is not an option of xtask test\n\n{HELP}"))),
        }
    }
    let some = [arguments.fuzz.is_some(), arguments.flat.is_some()].contains(&true);
    if !(arguments.lint || arguments.unit || some || arguments.guest) {
        (arguments.lint, arguments.unit, arguments.guest) = (true, true, true);
        (arguments.fuzz, arguments.flat) = (Some(Vec::new()), Some(Vec::new()));
        // New finds come from `--unit`, `--fuzz` and `soak`: luck must not decide whether a change passes.
        arguments.seed = Some(fuzz::SEED);
    }
    Ok(arguments)
}

/// The words up to the next option.
fn filters(words: &mut Peekable<impl Iterator<Item = String>>) -> Vec<String> {
    std::iter::from_fn(|| words.next_if(|word| !word.starts_with('-'))).collect()
}

pub fn main(words: impl Iterator<Item = String>) -> Result<i32> {
    let arguments = parse(words)?;
    if arguments.lint {
        checks::lint()?;
    }
    if arguments.unit {
        checks::unit_tests(arguments.seed)?;
    }
    if let Some(filters) = &arguments.fuzz {
        fuzz::tests(filters, arguments.seed)?;
    }
    if let Some(filters) = &arguments.flat {
        flat::tests(filters)?;
    }
    if arguments.guest {
        return guests(&arguments);
    }
    Ok(0)
}

fn guests(arguments: &Arguments) -> Result<i32> {
    every_file_is_a_module()?;
    // Only when asked for: the emulated AMD host itself stands still now and then, which says nothing of its guests.
    if arguments.cpu == Some(Cpu::Amd) {
        pcs(&arguments.filters)?;
    } else {
        arm64_guests(arguments)?;
    }
    Ok(0)
}

fn arm64_guests(arguments: &Arguments) -> Result<()> {
    let monitor = build::monitor(build::ARM64, build::CHECKED)?;
    let tests = guest_tests(build::ARM64)?;
    let vendor = vendor::monitor(build::ARM64, build::CHECKED)?;
    let venue = Venue::find(&monitor)?;
    let mut files = vec![(monitor, "ambit".to_owned()), (tests, "guests".to_owned())];
    files.push((vendor, vendor::PROGRAM.to_owned()));
    files.push((flat::attacks_on_arm64()?, "attacks".to_owned()));
    files.extend(boards()?);
    let mut unsteady = false;
    for (cpu, words) in rounds(arguments, &venue) {
        // An emulator may lose a guest, and nobody looks at the run of everything; real KVM has no such excuse.
        let chances = match venue {
            Venue::Emulated(_) if arguments.filters.is_empty() => Chances::Two,
            _ => Chances::One,
        };
        unsteady |= round(&venue, cpu, &words, &files, chances)? == Ended::Unsteady;
    }
    if unsteady {
        say(
            "passed, but a test did so only when it was run again: UNSTEADY above has its name and what it met at first",
        );
    }
    Ok(())
}

/// How often a test may try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chances {
    One,
    /// Where no more than `UNSTEADY_AT_MOST` fail, each is run again, alone.
    Two,
}

/// How a round that passed did so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    AtOnce,
    Unsteady,
}

/// On an emulated host, whatever this machine is: an AMD one, whose KVM runs Linux.
pub fn pcs(filters: &[String]) -> Result<()> {
    let monitor = build::monitor(build::X86_64, build::CHECKED)?;
    let files = [(monitor, "ambit".to_owned()), (guest_tests(build::X86_64)?, "guests".to_owned())];
    let venue = Venue::Emulated(Images::ready(Architecture::X86_64, true)?);
    let chosen = if filters.is_empty() { X86_64_TESTS.map(str::to_owned).to_vec() } else { filters.to_vec() };
    round(&venue, Cpu::Amd, &chosen, &files, Chances::One).map(drop)
}

fn round(
    venue: &Venue,
    cpu: Cpu,
    selection: &[String],
    files: &[(PathBuf, String)],
    chances: Chances,
) -> Result<Ended> {
    say(&format!("guest tests on {}", venue.kind(cpu)));
    let files = files.to_vec();
    let job =
        Job { script: script(selection, chances), files, interactive: false, silence: SILENCE, limit: LIMIT };
    let begun = Instant::now();
    let status = run(venue, cpu, &job)?;
    eprintln!("    took {:.1} s", begun.elapsed().as_secs_f32());
    match status {
        0 => Ok(Ended::AtOnce),
        UNSTEADY => Ok(Ended::Unsteady),
        _ => Err(Failure::new(format!("guest tests failed on {}, status {status}", venue.kind(cpu)))),
    }
}

/// Runs the job, again where the emulated AMD host itself goes down or stands still: that says nothing of its guests,
/// whose tests give up on them long before the silence that ends the host, and fail.
fn run(venue: &Venue, cpu: Cpu, job: &Job) -> Result<i32> {
    let mut left = if cpu == Cpu::Amd { 2 } else { 0 };
    loop {
        match venue.run(cpu, job) {
            Err(error) if left > 0 => {
                say(&format!("{error}\nthe host failed, and not a test: once more"));
                left -= 1;
            }
            ended => return ended,
        }
    }
}

/// Each processor model, with what of the tests is for it.
fn rounds(arguments: &Arguments, venue: &Venue) -> Vec<(Cpu, Vec<String>)> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    if !arguments.filters.is_empty() {
        return vec![(arguments.cpu.unwrap_or(Cpu::Max), arguments.filters.clone())];
    }
    let all = [
        (Cpu::Max, words("--skip on_40_bits --skip on_44_bits --skip on_gicv2 --skip on_amd")),
        (Cpu::CortexA53, words("on_every_host on_40_bits")),
        (Cpu::CortexA72, words("on_every_host on_44_bits")),
        (Cpu::Gicv2, words("on_gicv2")),
    ];
    let chosen = |cpu| match (venue, arguments.cpu) {
        (Venue::Native(_), _) | (_, None) => true,
        (_, Some(only)) => cpu == only,
    };
    // This machine has one width, and which one is not ours to say.
    let count = if matches!(venue, Venue::Native(_)) { 1 } else { all.len() };
    all.into_iter().take(count).filter(|(cpu, _)| chosen(*cpu)).collect()
}

fn script(selection: &[String], chances: Chances) -> String {
    let selection = joined(selection);
    let most = match chances {
        Chances::One => 0,
        Chances::Two => UNSTEADY_AT_MOST,
    };
    // A selection that selects nothing would pass.
    format!(
        "tests=$AMBIT_PAYLOAD/guests\n\
         if [[ $($tests --list {selection}) != *': test'* ]]; then\n\
             echo \"there is no guest test for: {selection}\"; exit 1\n\
         fi\n\
         $tests --test-threads=1 {selection} | tee said\n\
         status=${{PIPESTATUS[0]}}\n\
         [[ $status == 0 ]] && exit\n\
         echo 'the last messages of the kernel that KVM is in:'; dmesg | tail -n 20\n\
         mapfile -t failed < <(sed -n 's/^test \\(.*\\) \\.\\.\\. FAILED$/\\1/p' said)\n\
         (( ${{#failed[@]}} > 0 && ${{#failed[@]}} <= {most} )) || exit $status\n\
         $tests --test-threads=1 --exact \"${{failed[@]}}\" || exit\n\
         echo \"UNSTEADY: failed above, passed when run again: ${{failed[*]}}\"\n\
         exit {UNSTEADY}\n"
    )
}

/// The boards that are files.
fn boards() -> Result<Vec<(PathBuf, String)>> {
    let directory = places::checkout().join("boards");
    let files = fs::read_dir(&directory).about("list", &directory)?;
    let named = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.about("list", &directory)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok((path, format!("boards/{name}")))
    };
    files.map(named).collect()
}

fn guest_tests(target: &str) -> Result<PathBuf> {
    let cargo = ["test", "--package", "ambit-tests", "--test", "guests", "--no-run"];
    let built = build::executables(&cargo, target, build::CHECKED, "the guest tests")?;
    // Cargo builds the programs of the package too, for tests that would run them.
    let name =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("guests-"));
    built
        .into_iter()
        .find(name)
        .ok_or_else(|| Failure::new("cargo built the guest tests, but named no executable"))
}

/// A file of tests that nobody names would never run.
fn every_file_is_a_module() -> Result<()> {
    let directory = places::checkout().join("tests/tests");
    let main = directory.join("main.rs");
    let text = fs::read_to_string(&main).about("read", &main)?;
    for entry in fs::read_dir(&directory).about("list", &directory)? {
        let path = entry.about("list", &directory)?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if name != "main" && !text.lines().any(|line| line == format!("mod {name};")) {
            return Err(Failure::new(format!(
                "tests/tests/{name}.rs is never built; add 'mod {name};' to tests/tests/main.rs"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::command::command;
    use crate::places::RunDirectory;

    fn parsed(words: &[&str]) -> Result<Arguments> {
        parse(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn no_option_means_everything() {
        let all = parsed(&[]).unwrap();

        assert!(all.lint && all.unit && all.guest && all.filters.is_empty());
        assert_eq!([all.fuzz, all.flat], [Some(Vec::new()), Some(Vec::new())]);
    }

    /// What the script makes of a program that fails as told: its statuses, and what it was asked for last.
    fn ended(chances: Chances, program: &str) -> (Option<i32>, String) {
        let directory = RunDirectory::new("script").unwrap();
        let tests = directory.join("guests");
        fs::write(
            &tests,
            format!(
                "#!/bin/bash\n[[ $1 == --list ]] && echo 'a: test' && exit\necho \"$*\" >>asked\n{program}"
            ),
        )
        .unwrap();
        fs::set_permissions(&tests, fs::Permissions::from_mode(0o755)).unwrap();
        let mut bash = command("bash", ["-c", &script(&["a".to_owned()], chances)]);
        let bash =
            bash.current_dir(directory.join("")).env("AMBIT_PAYLOAD", directory.join("")).output().unwrap();
        let asked = fs::read_to_string(directory.join("asked")).unwrap();
        (bash.status.code(), asked.lines().last().unwrap().to_owned())
    }

    #[test]
    fn only_a_few_tests_have_a_second_chance_and_only_where_there_is_one() {
        let lost_one = "[[ $* == *--exact* ]] && exit; echo 'test a::b ... FAILED'; exit 101";
        let broken = "echo 'test a::b ... FAILED'; exit 101";
        let broken_all =
            "[[ $* == *--exact* ]] && exit; for n in 1 2 3; do echo \"test a$n ... FAILED\"; done; exit 101";
        let aborted = "[[ $* == *--exact* ]] && exit; exit 134";
        let all = "--test-threads=1 a";

        let ended = [
            ended(Chances::Two, "exit"),
            ended(Chances::Two, lost_one),
            ended(Chances::One, lost_one),
            ended(Chances::Two, broken),
            ended(Chances::Two, broken_all),
            ended(Chances::Two, aborted),
        ];

        let again = "--test-threads=1 --exact a::b";
        let expected = [(0, all), (75, again), (101, all), (101, again), (101, all), (134, all)];
        assert_eq!(ended, expected.map(|(status, asked)| (Some(status), asked.to_owned())));
    }

    #[test]
    fn filters_end_where_the_next_option_begins() {
        let some = parsed(&["--guest", "a", "b", "--cpu", "cortex-a53"]).unwrap();

        assert_eq!((some.filters, some.cpu), (vec!["a".to_owned(), "b".to_owned()], Some(Cpu::CortexA53)));
    }
}
