//! How many instructions it takes to serve a queue, beside those that were recorded: a slow-down is seen before it ships.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use crate::build::{self, Architecture, X86_64};
use crate::command::{Run, command};
use crate::failure::{About, Failure, Result};
use crate::places;
use crate::progress::{say, step};
use crate::tools;

/// In percent, more than recorded. Counts repeat to the last instruction; other compilers and libraries differ a little.
const TOLERANCE: u64 = 5;

const HEAD: &str = "\
# Instructions that the device spends on one request, as `cargo xtask bench --record` counted them: a release for
# x86_64, without what the kernel does. A case that takes over a twentieth more fails `cargo xtask bench`.
";

/// One case of the bench.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Counted {
    case: String,
    instructions: u64,
}

/// Counts and compares; 1 if a case takes more than it may. With `record` the counts become the recorded ones.
pub fn main(record: bool) -> Result<i32> {
    if Architecture::here() != Some(Architecture::X86_64) {
        say("the instructions of serving were recorded for x86_64: not counted on this machine");
        return Ok(0);
    }
    tools::need(tools::COUNTING)?;
    let bench = bench()?;
    say("serving a queue in this process");
    command(&bench, ["time"]).show()?;
    let counted = step("counting the instructions of serving", || all(&bench))?;
    let path = places::checkout().join("devices/virtio/benches/instructions");
    if record {
        fs::write(&path, written(&counted)).about("write", &path)?;
    }
    let recorded = read(&fs::read_to_string(&path).about("read", &path)?)?;
    let (table, missed) = compared(&counted, &recorded);
    print!("{table}");
    Ok(i32::from(missed))
}

fn bench() -> Result<PathBuf> {
    let cargo = ["build", "--package", "ambit-virtio", "--features", "bench", "--bench", "serving"];
    let built = build::executables(&cargo, X86_64, "release", "the bench of serving")?;
    built
        .into_iter()
        .next_back()
        .ok_or_else(|| Failure::new("cargo built the bench, but named no executable"))
}

fn all(bench: &Path) -> Result<Vec<Counted>> {
    let list = command(bench, ["list"]).capture()?;
    let mut counted = Vec::new();
    for line in list.lines() {
        let mut words = line.split_whitespace();
        let (Some(case), Some(Ok(batch))) = (words.next(), words.next().map(str::parse::<u64>)) else {
            return Err(Failure::new(format!("the bench of serving lists '{line}', which is not a case")));
        };
        // What it takes to begin and to end is in both.
        const ROUNDS: [u64; 2] = [20, 120];
        let [few, many] = ROUNDS.map(|rounds| instructions(bench, case, rounds));
        let each = many?.saturating_sub(few?) / ((ROUNDS[1] - ROUNDS[0]) * batch);
        counted.push(Counted { case: case.to_owned(), instructions: each });
    }
    Ok(counted)
}

fn instructions(bench: &Path, case: &str, rounds: u64) -> Result<u64> {
    let arch = std::env::consts::ARCH;
    // Where things lie in memory must not differ from run to run.
    let output = command("setarch", [arch, "-R", "valgrind", "--tool=cachegrind", "--cache-sim=no"])
        .args(["--cachegrind-out-file=/dev/null", "--log-fd=1"])
        .arg(bench)
        .args(["run", case, &rounds.to_string()])
        .capture()?;
    total(&output).ok_or_else(|| Failure::new(format!("valgrind said no count of instructions:\n{output}")))
}

/// `==1== I   refs:      12,345` as a number.
fn total(output: &str) -> Option<u64> {
    let (_, rest) =
        output.lines().filter(|line| line.contains(" I ")).find_map(|line| line.split_once("refs:"))?;
    rest.replace(',', "").trim().parse().ok()
}

fn written(counted: &[Counted]) -> String {
    counted.iter().fold(HEAD.to_owned(), |mut text, Counted { case, instructions }| {
        let _ = writeln!(text, "{case} {instructions}");
        text
    })
}

fn read(text: &str) -> Result<Vec<Counted>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let one = |line: &str| {
        let (case, count) = line.split_once(' ')?;
        Some(Counted { case: case.to_owned(), instructions: count.parse().ok()? })
    };
    lines
        .map(|line| one(line).ok_or_else(|| Failure::new(format!("'{line}' is not a recorded count"))))
        .collect()
}

/// A line for each case, and whether one takes more than it may, is not recorded, or is gone.
fn compared(counted: &[Counted], recorded: &[Counted]) -> (String, bool) {
    let mut text = "instructions a request         now  recorded\n".to_owned();
    let mut missed = false;
    for Counted { case, instructions: now } in counted {
        let before = recorded.iter().find(|one| one.case == *case).map(|one| one.instructions);
        let verdict = match before {
            None => "  NOT RECORDED",
            Some(before) if now * 100 > before * (100 + TOLERANCE) => "  MORE",
            Some(before) if now * (100 + TOLERANCE) < before * 100 => "  fewer; record it",
            Some(_) => "",
        };
        missed |= verdict.starts_with("  N") || verdict.starts_with("  M");
        let before = before.map_or_else(|| "-".to_owned(), |before| before.to_string());
        let _ = writeln!(text, "{case:24} {now:9} {before:>9}{verdict}");
    }
    for gone in recorded.iter().filter(|one| counted.iter().all(|now| now.case != one.case)) {
        missed = true;
        let _ = writeln!(text, "{:24} {:>9} {:9}  GONE", gone.case, "-", gone.instructions);
    }
    (text, missed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(list: &[(&str, u64)]) -> Vec<Counted> {
        let one = |(case, instructions): &(&str, u64)| Counted {
            case: (*case).to_owned(),
            instructions: *instructions,
        };
        list.iter().map(one).collect()
    }

    #[test]
    fn a_twentieth_more_passes_and_one_more_fails() {
        let recorded = counts(&[("ring", 1000)]);

        let missed = [1050, 1051].map(|now| compared(&counts(&[("ring", now)]), &recorded).1);

        assert_eq!(missed, [false, true]);
    }

    #[test]
    fn a_case_that_nobody_recorded_or_that_is_gone_fails() {
        let (text, missed) = compared(&counts(&[("new", 7)]), &counts(&[("old", 8)]));

        let expected = "\
instructions a request         now  recorded
new                              7         -  NOT RECORDED
old                              -         8  GONE
";
        assert_eq!((text.as_str(), missed), (expected, true));
    }

    #[test]
    fn what_is_recorded_is_read_as_it_was_counted() {
        let all = counts(&[("ring", 1000), ("disk", 2)]);

        assert_eq!(read(&written(&all)).unwrap(), all);
    }

    #[test]
    fn the_count_is_found_in_what_valgrind_says() {
        let said = "==7== Cachegrind\n==7== \n==7== I   refs:      1,234,567\n";

        assert_eq!(total(said), Some(1_234_567));
    }
}
