//! Measures the monitor beside QEMU's `virt` machine, where KVM is. `cargo xtask bench` builds it and runs it there.

mod machine;
mod payload;

use std::process::{Command, ExitCode};
use std::time::Duration;

use ambit_tests::measure::report::{Report, Row};
use ambit_tests::measure::statistics::{median, median_ratio};
use ambit_tests::measure::{memory, started};
use ambit_tests::{Scratch, Tap, guest::READY};

use machine::{Machine, Monitor};

/// How the numbers came about, for whoever reads them without the source.
const HOW: &str = "\
Times run from just before the monitor is started until whoever started it has read the guest's first byte or its
init's word, or has seen the monitor exit. The two monitors take turns, the files are in the host's page cache, and
the first run of each is not counted. All are medians of n runs; a ratio of times is the median of the ratios of
neighbouring runs.
First instruction: the guest's first instructions write a byte to the UART and power off. It is what a monitor
itself adds to a boot: its own share of the time to the guest's init.
Own memory: the Rss of all mappings in /proc/PID/smaps but the guest's RAM, one disk and one NIC attached.";

/// The limits that a release has to keep.
const BINARY_LIMIT: u64 = 4 << 20;
const MEMORY_LIMIT: u64 = 4 << 20;
const SHARE_LIMIT: f64 = 0.5;

/// Counted runs of each monitor, after one that is not.
const SHORT_RUNS: usize = 15;
const BOOTS: usize = 5;
const PHASE_RUNS: usize = 7;

/// The two machines in which the first instruction is timed.
const BARE: &str = "4 KiB kernel";
const FULL: &str = "Debian's sizes, disk, NIC";

fn main() -> ExitCode {
    let mut report = Report { how: HOW, ..Report::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().expect("every option of ambit-bench has a value");
        match word.as_str() {
            "--about" => report.about.push(value),
            "--binary" => report.rows.push(binary(&value)),
            _ => panic!("ambit-bench has no option '{word}'; run it by cargo xtask bench"),
        }
    }
    report.about.extend(surroundings());
    let scratch = Scratch::new();
    let tap = Tap::new();
    let bare = Machine::bare(&scratch);
    let full = Machine::full(&scratch, &tap);
    let full_payload = full.with_payload(&scratch);
    own_memory(&full, &mut report);
    first_instruction(BARE, &bare, &mut report);
    first_instruction(FULL, &full_payload, &mut report);
    boots(&full, &mut report);
    phases(BARE, &bare, &mut report);
    phases(FULL, &full_payload, &mut report);
    println!("\n{report}");
    if report.is_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// `TARGET=BYTES`, as whoever built them says.
fn binary(value: &str) -> Row {
    let (target, bytes) = value.split_once('=').expect("--binary wants TARGET=BYTES");
    let bytes = bytes.parse().expect("--binary wants a count of bytes");
    Row::size(&format!("release binary, {target}"), bytes, None, Some(BINARY_LIMIT))
}

/// What this machine and the two monitors call themselves.
fn surroundings() -> Vec<String> {
    let first_line = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output();
        let output = output.unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
        String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
    };
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = first_line("uname", "-srm");
    let ambit = first_line(&Monitor::Ambit.program().to_string_lossy(), "--version");
    let qemu = first_line(&Monitor::Qemu.program().to_string_lossy(), "--version");
    vec![
        format!("the KVM host: {kernel}, {processors} processors"),
        format!("ambit: {ambit}, profile release"),
        format!("QEMU: {qemu}; {}", machine::QEMU_MACHINE.join(" ")),
        format!("guest: 1 vCPU, {} MiB", machine::MEMORY >> 20),
    ]
}

fn own_memory(full: &Machine, report: &mut Report) {
    println!("own memory, the Debian guest being up: {BOOTS} runs each");
    let mut found = [Vec::new(), Vec::new()];
    for _ in 0..BOOTS {
        for (monitor, found) in Monitor::BOTH.into_iter().zip(&mut found) {
            let started = started::until(READY, &mut full.command(monitor));
            found.push(memory::own(started.pid(), machine::MEMORY));
            started.kill();
        }
    }
    let row = |what: &str, of: fn(&memory::Own) -> u64, limit| {
        let [ambit, qemu] = [0, 1].map(|index| median(found[index].iter().map(of)));
        Row::size(what, ambit, Some(qemu), limit).with_runs(BOOTS)
    };
    report.rows.push(row("own memory, Debian guest up", |own| own.resident, Some(MEMORY_LIMIT)));
    report.rows.push(row("  of it, not backed by a file", |own| own.anonymous, None));
}

fn first_instruction(with: &str, machine: &Machine, report: &mut Report) {
    println!("first instruction: {with}, 1 + {SHORT_RUNS} runs each");
    let mut first = [Vec::new(), Vec::new()];
    let mut whole = [Vec::new(), Vec::new()];
    for counted in std::iter::once(false).chain([true; SHORT_RUNS]) {
        for (index, monitor) in Monitor::BOTH.into_iter().enumerate() {
            let started = started::until(payload::SAYS, &mut machine.command(monitor));
            let marked = started.marked;
            let exited = started.finish().whole;
            if counted {
                first[index].push(marked);
                whole[index].push(exited);
            }
        }
    }
    let [ambit, qemu] = first;
    report.rows.push(pair(&format!("first instruction: {with}"), &ambit, &qemu, Some(SHARE_LIMIT)));
    let [ambit, qemu] = whole;
    report.rows.push(pair("  and until the monitor has exited", &ambit, &qemu, None));
}

fn boots(full: &Machine, report: &mut Report) {
    println!("guest's init: 1 + {BOOTS} runs each");
    let mut ready = [Vec::new(), Vec::new()];
    for counted in std::iter::once(false).chain([true; BOOTS]) {
        for (index, monitor) in Monitor::BOTH.into_iter().enumerate() {
            let started = started::until(READY, &mut full.command(monitor));
            if counted {
                ready[index].push(started.marked);
            }
            started.kill();
        }
    }
    let [ambit, qemu] = ready;
    report.rows.push(pair("Debian guest's init", &ambit, &qemu, None));
}

fn pair(what: &str, ambit: &[Duration], qemu: &[Duration], limit: Option<f64>) -> Row {
    let ratio = median_ratio(ambit, qemu);
    Row::time(
        what,
        median(ambit.iter().copied()),
        Some((median(qemu.iter().copied()), ratio)),
        limit,
        ambit.len(),
    )
}

/// What `ambit run --timings` says of itself, in runs of its own so that saying so costs the others nothing.
fn phases(with: &str, machine: &Machine, report: &mut Report) {
    println!("ambit's own timings: {with}, {PHASE_RUNS} runs");
    let mut names: Vec<String> = Vec::new();
    let mut times: Vec<Vec<Duration>> = Vec::new();
    for _ in 0..PHASE_RUNS {
        let mut command = machine.command(Monitor::Ambit);
        command.arg("--timings");
        let ended = started::until(payload::SAYS, &mut command).finish();
        for (name, time) in ended.timings() {
            let index = names.iter().position(|known| *known == name).unwrap_or_else(|| {
                names.push(name);
                times.push(Vec::new());
                names.len() - 1
            });
            times[index].push(time);
        }
    }
    for (name, times) in names.into_iter().zip(times) {
        let what = format!("--timings {name}: {with}");
        report.rows.push(Row::time(&what, median(times.iter().copied()), None, None, times.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_over_the_limit_is_told_from_one_at_it() {
        let met = ["t=4194304", "t=4194305"].map(|value| binary(value).is_met());

        assert_eq!(met, [true, false]);
    }
}
