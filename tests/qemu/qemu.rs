//! The machine's own QEMU: what it would tell a guest of a machine, and why it refuses one. No guest runs.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use tempfile::tempdir;

use crate::machine::{Cpu, Machine};

const PROGRAM: &str = "qemu-system-aarch64";

/// What `-machine virt,help` says: an option in each line.
static OPTIONS: LazyLock<String> = LazyLock::new(|| {
    let output = run(&["-machine", "virt,help"]);
    assert!(output.status.success(), "{PROGRAM} does not say what options virt has: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
});

/// QEMU's options of the parts above RAM are of 8.0, and Debian 12 has 7.2. What that QEMU has all the same: no
/// version before 8.0 closes a hole (`virt_set_memmap`), which only shows where an option leaves one, and
/// `virt-2.12` is from before the large ECAM.
const BEFORE_8_0: [(&str, &str); 2] = [("compact-highmem=off", "virt"), (SMALL_ECAM, "virt-2.12")];
const SMALL_ECAM: &str = "highmem-ecam=off,compact-highmem=off";

/// QEMU's answer for `machine`: a device tree, or its words of refusal. `None` if this QEMU is too old to have
/// such a machine.
pub fn ask(machine: &Machine) -> Option<Result<Vec<u8>, String>> {
    let directory = tempdir().unwrap();
    let tree = directory.path().join("tree");
    let [board, options] = words(machine)?;
    let board = format!("{board},memory-backend=ram,dumpdtb={}{options}", tree.display());
    // Memory that is only reserved: a machine of 15 TiB has its tree on any host.
    let ram = format!("memory-backend-ram,id=ram,size={},reserve=off", machine.memory);
    let cpus = machine.cpus.to_string();
    let output = run(&[
        // No network card, whose ROM is in a package of its own.
        "-nodefaults",
        "-display",
        "none",
        "-machine",
        &board,
        "-cpu",
        machine.cpu.qemu(),
        "-smp",
        &cpus,
        "-object",
        &ram,
        "-m",
        &machine.qemu_memory(),
    ]);
    Some(match fs::read(&tree) {
        Ok(blob) if output.status.success() => Ok(blob),
        _ => Err(said(&output)),
    })
}

/// The machine type and its options, those from a comma on.
fn words(machine: &Machine) -> Option<[String; 2]> {
    let options = machine.options;
    let known = |option: &str| {
        let key = option.split_once('=').map_or(option, |(key, _)| key);
        OPTIONS.lines().any(|line| line.trim_start().starts_with(&format!("{key}=")))
    };
    let mut board = "virt";
    let mut words = String::new();
    if options.is_empty() || options.split(',').all(known) {
        words = format!(",{options}").trim_end_matches(',').to_owned();
    } else {
        board = BEFORE_8_0.iter().find(|(new, _)| *new == options)?.1;
        // That machine never has an ITS under TCG.
        if board != "virt" && machine.its {
            return None;
        }
    }
    match () {
        // QEMU's own default is GICv2 under TCG.
        () if !options.contains("gic-version") => words.push_str(",gic-version=3"),
        // What GICv4 adds is for guests that have guests.
        () if options.contains("gic-version=4") => words.push_str(",virtualization=on"),
        () => {}
    }
    if !machine.its {
        words.push_str(",its=off");
    }
    Some([board.to_owned(), words])
}

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(Stdio::null()).env("LC_ALL", "C");
    command.output().unwrap_or_else(|error| {
        panic!("{PROGRAM} does not start: {error}; 'cargo xtask test --unit' installs it")
    })
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

impl Cpu {
    /// The name QEMU has for a processor of this width.
    fn qemu(self) -> &'static str {
        match self {
            Self::Bits40 => "cortex-a53",
            Self::Bits44 => "cortex-a57",
            Self::Bits48 => "neoverse-n1",
            Self::Bits52 => "max",
        }
    }
}
