//! Measures how a PC starts on this machine's own x86_64 KVM, beside QEMU's `microvm`. `cargo xtask bench` builds it and
//! runs it where that KVM runs programs.

mod microvm;

use std::fs;
use std::process::{Command, ExitCode};
use std::time::Duration;

use ambit_tests::measure::memory;
use ambit_tests::measure::report::{Report, Row};
use ambit_tests::measure::started::{self, Started};
use ambit_tests::measure::statistics::{median, median_ratio};
use ambit_tests::{Scratch, place};

use microvm::Microvm;

/// The limits that a release has to keep.
const FIRST_LIMIT: Duration = Duration::from_millis(8);
const CPU_LIMIT: Duration = Duration::from_millis(8);
const MEMORY_LIMIT: u64 = 3 << 20;

/// Counted runs of each monitor, after one that is not.
const RUNS: usize = 50;
const WAITING_RUNS: usize = 15;

/// Bytes of guest RAM.
const MEMORY: u64 = 512 << 20;

/// How the numbers came about, for whoever reads them without the source.
const HOW: &str = "\
Times run from just before the monitor is started until whoever started it has read the guest's first byte, or has
seen the monitor exit. The two monitors take turns, and the first run of each is not counted. All are medians of n
runs; a ratio of times is the median of the ratios of neighbouring runs.
Ambit starts an ELF program in 64-bit mode, as it would start Linux. QEMU starts a ROM of 18 bytes of code in the
place of its firmware: that loads kernels by modes that not every KVM runs, so this is QEMU's machine without it.
CPU: what all threads of the monitor have had of processors by when the guest's first byte was read, the guest's own
share in it. Own memory: the Rss of all mappings in /proc/PID/smaps but the guest's RAM, with no device.";

fn main() -> ExitCode {
    let mut report = Report { how: HOW, ..Report::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        assert_eq!(word, "--about", "run this by cargo xtask bench");
        report.about.push(words.next().expect("--about has a value"));
    }
    let scratch = Scratch::new();
    let qemu = Microvm::new(&scratch, MEMORY);
    report.about.push(format!("QEMU: {}", qemu.line()));
    report.about.push(format!("guest: 1 vCPU, {} MiB", MEMORY >> 20));
    starts(&qemu, &mut report);
    shares(&qemu, &mut report);
    println!("\n{report}");
    if report.is_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The monitor with a program that says one line, and then ends as `how` says.
fn ambit(how: &str) -> Command {
    let mut command = Command::new(place::monitor());
    command.args(["run", "--board", "pc", "--memory", &MEMORY.to_string()]);
    command.arg("--kernel").arg(place::flat("ends")).args(["--cmdline", &format!("how={how}")]);
    command
}

fn starts(qemu: &Microvm, report: &mut Report) {
    println!("first instruction and the end: 1 + {RUNS} runs each");
    let mut first = [Vec::new(), Vec::new()];
    let mut whole = [Vec::new(), Vec::new()];
    for counted in std::iter::once(false).chain([true; RUNS]) {
        let machines = [(ambit("off"), "e", 0), (qemu.that_ends(), microvm::SAYS, microvm::ENDED)];
        for (index, (mut command, says, code)) in machines.into_iter().enumerate() {
            let started = started::until(says, &mut command);
            let marked = started.marked;
            let ended = started.finish_with(code).whole;
            if counted {
                first[index].push(marked);
                whole[index].push(ended);
            }
        }
    }
    let [ambit, qemu] = &first;
    report.rows.push(bounded("first guest instruction", ambit, qemu, FIRST_LIMIT));
    let [ambit, qemu] = &whole;
    let medians = [ambit, qemu].map(|times| median(times.iter().copied()));
    let beside = Some((medians[1], median_ratio(ambit, qemu)));
    report.rows.push(Row::time("whole run: start, a line, exit", medians[0], beside, None, RUNS));
}

/// What the monitor itself takes of the machine, its guest being up.
fn shares(qemu: &Microvm, report: &mut Report) {
    println!("CPU and own memory, the guest being up: 1 + {WAITING_RUNS} runs each");
    let mut cpu = [Vec::new(), Vec::new()];
    let mut own = [Vec::new(), Vec::new()];
    for counted in std::iter::once(false).chain([true; WAITING_RUNS]) {
        let machines = [(ambit("halt"), "e"), (qemu.that_stays(), microvm::SAYS)];
        for (index, (mut command, says)) in machines.into_iter().enumerate() {
            let started = started::until(says, &mut command);
            if counted {
                cpu[index].push(processor_time(&started));
                own[index].push(memory::own(started.pid(), MEMORY).resident);
            }
            started.kill();
        }
    }
    let [ambit, qemu] = &cpu;
    report.rows.push(bounded("  CPU by then", ambit, qemu, CPU_LIMIT));
    let [ambit, qemu] = own.map(|sizes| median(sizes.into_iter()));
    report.rows.push(Row::size("own memory", ambit, Some(qemu), Some(MEMORY_LIMIT)).with_runs(WAITING_RUNS));
}

/// Linux `Documentation/scheduler/sched-stats.rst`: the first number is nanoseconds on a processor.
fn processor_time(started: &Started) -> Duration {
    let directory = format!("/proc/{}/task", started.pid());
    let tasks = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{directory}: {error}"));
    let of_one = |task: std::io::Result<fs::DirEntry>| {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    };
    tasks.filter_map(of_one).sum()
}

fn bounded(what: &str, ambit: &[Duration], qemu: &[Duration], limit: Duration) -> Row {
    let [own, other] = [ambit, qemu].map(|times| median(times.iter().copied()));
    Row::bounded(what, own, (other, median_ratio(ambit, qemu)), limit, ambit.len())
}
