//! `cargo xtask bench`: what a release weighs and how fast it starts, beside QEMU on the same KVM.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::build::{self, ARM64, X86_64};
use crate::command::{Run, command, joined};
use crate::counting;
use crate::emulator::Cpu;
use crate::failure::{About, Failure, Result};
use crate::flat::Ground;
use crate::job::Job;
use crate::places::RunDirectory;
use crate::progress::say;
use crate::tools;
use crate::traffic;
use crate::venue::Venue;

pub const HELP: &str = "\
cargo xtask bench [--count [--record] | --start | --guest [WORD…]]

Builds ambit as it is released, and measures it where KVM is (this machine, or an arm64 host emulated on it) beside
QEMU's virt machine: size, own memory, time to the first guest instruction and to a Debian guest's init. Both take
turns, so a busy machine makes the times worse and the ratios hardly. Before that it measures planning, on this
machine itself, and on x86_64 counts the instructions of serving a queue and, where KVM runs programs without a system, times
how a PC starts. Takes a few minutes.

  --count    only counts the instructions, and says how long serving takes on this machine; needs no KVM
  --record   what was counted is what it is compared with from now on: devices/virtio/benches/instructions
  --start    only measures how a PC starts, on this machine's own x86_64 KVM, beside QEMU's microvm
  --guest    measures a guest's disks and network instead, beside QEMU's: requests and bytes, and what each costs;
             of all it has to do, only what has one of the words in its name, such as 'pci net'

Exits with 1 if a limit is missed: 50 us for a plan of 512 vCPUs and 64 devices, 5 ms for ambit plan, 1 s for ambit
fleet with 10,000 hosts, planning no slower than n log n; 5 % more instructions than recorded; 4 MiB of program, 4 MiB of own memory, half of QEMU's time
to the first instruction; of a PC 8 ms and 8 ms of processors to the first instruction, and 3 MiB of own memory.
";

pub const RELEASE: &str = "release";

pub fn main(words: impl Iterator<Item = String>) -> Result<i32> {
    let words: Vec<String> = words.collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => everything(),
        ["--count"] => counting::main(false),
        ["--count", "--record"] => counting::main(true),
        ["--start"] => starting(),
        ["--guest", only @ ..] if only.iter().all(|word| !word.starts_with('-')) => traffic::main(only),
        _ => Err(Failure::new(format!("'{}' is not for xtask bench\n\n{HELP}", words.join(" ")))),
    }
}

fn everything() -> Result<i32> {
    let here = [planning()?, counting::main(false)?, starting()?];
    let monitor = build::monitor(ARM64, RELEASE)?;
    let mut arguments = Vec::new();
    for (target, program) in [(ARM64, monitor.clone()), (X86_64, build::monitor(X86_64, RELEASE)?)] {
        arguments.extend(["--binary".to_owned(), format!("{target}={}", length(&program)?)]);
    }
    let measuring = measuring("ambit-bench", ARM64, build::CHECKED)?;
    let venue = Venue::find(&monitor)?.with_qemu()?;
    let cpu = Cpu::Max;
    for sentence in [machine()?, format!("KVM: {}", venue.kind(cpu))] {
        arguments.extend(["--about".to_owned(), sentence]);
    }
    let job = Job {
        script: format!("set -- {}\nbench=ambit-bench\n{}", joined(&arguments), include_str!("bench.sh")),
        files: vec![(monitor, "ambit".to_owned()), (measuring, "ambit-bench".to_owned())],
        interactive: false,
        silence: Duration::from_secs(10 * 60),
        limit: Duration::from_secs(30 * 60),
    };
    say(&format!("measuring on {}", venue.kind(cpu)));
    let starting = venue.run(cpu, &job)?;
    Ok(here.into_iter().find(|status| *status != 0).unwrap_or(starting))
}

/// How long planning takes on this machine; 1 if a limit is missed.
fn planning() -> Result<i32> {
    let here = if cfg!(target_arch = "aarch64") { ARM64 } else { X86_64 };
    // The planner itself is measured with this system's allocator; the static program's is slower.
    let system = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let bench = measuring("ambit-plan-bench", &system, RELEASE)?;
    let monitor = build::monitor(here, RELEASE)?;
    say("measuring planning on this machine");
    let status = command(&bench, [&monitor]).status().about("run", &bench)?;
    Ok(status.code().unwrap_or(1))
}

/// How a PC starts on this machine's own KVM, if it is x86_64 and runs programs; 1 if a limit is missed.
fn starting() -> Result<i32> {
    let Some(ground) = Ground::find("measuring how a PC starts", RELEASE)? else { return Ok(0) };
    tools::need(tools::QEMU_X86_64)?;
    let bench = measuring("ambit-start-bench", X86_64, RELEASE)?;
    say("measuring how a PC starts on this machine's own x86_64 KVM");
    let scratch = RunDirectory::new("start")?;
    let status = ground.command(bench.clone(), &scratch).args(["--about", &machine()?]).status();
    Ok(status.about("run", &bench)?.code().unwrap_or(1))
}

fn length(program: &Path) -> Result<u64> {
    fs::metadata(program).map(|metadata| metadata.len()).about("measure", program)
}

/// The program of `ambit-tests` that measures.
pub fn measuring(name: &str, target: &str, profile: &str) -> Result<PathBuf> {
    let cargo = ["build", "--package", "ambit-tests", "--bin", name];
    let built = build::executables(&cargo, target, profile, "the bench")?;
    built
        .into_iter()
        .find(|path| path.ends_with(name))
        .ok_or_else(|| Failure::new(format!("cargo built ambit-tests, but named no executable '{name}'")))
}

/// This machine, in a line.
pub fn machine() -> Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("unknown").to_owned();
    let kernel = command("uname", ["-srm"]).capture()?;
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let emulator = tools::tool("qemu-system-aarch64", ["--version"]).capture().unwrap_or_default();
    let emulator = emulator.lines().next().unwrap_or("no QEMU");
    let kernel = kernel.trim();
    Ok(format!("this machine: {kernel}, {processors} processors {model}, load before {load}, {emulator}"))
}
