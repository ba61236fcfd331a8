//! Measures a guest's disks and network beside QEMU's, where KVM is. `cargo xtask bench --guest` builds it and runs it
//! there.

mod cost;
mod machine;
mod table;
mod work;

use std::process::{Command, ExitCode};

use ambit_tests::Scratch;

use machine::{MEMORY, Machine, Monitor, QEMU_MACHINE, Transport};
use table::{Row, Table};
use work::Work;

/// Counted rounds, after one that is not.
const ROUNDS: usize = 5;

fn main() -> ExitCode {
    let (mut about, only) = arguments(std::env::args().skip(1));
    about.extend(surroundings());
    let scratch = Scratch::new();
    let mut table = Table { about, rows: Vec::new() };
    for transport in Transport::BOTH {
        let mut works = work::all();
        works.retain(|work| only.is_empty() || only.iter().any(|word| name(transport, work).contains(word)));
        if !works.is_empty() {
            table.rows.extend(measured(transport, &works, &scratch));
            // A long run that is ended before its end has said something.
            println!("\n{table}\n\n{}", table.json());
        }
    }
    assert!(!table.rows.is_empty(), "nothing that is measured has one of {only:?} in its name");
    let missed = table.rows.iter().any(|row| !row.missed().is_empty());
    if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What the numbers are of, a sentence each, and the words after `--only`.
fn arguments(mut words: impl Iterator<Item = String>) -> (Vec<String>, Vec<String>) {
    let (mut about, mut only) = (Vec::new(), Vec::new());
    while let Some(word) = words.next() {
        if word == "--only" {
            only.extend(words.next());
        } else {
            about.push(word);
        }
    }
    (about, only)
}

fn surroundings() -> Vec<String> {
    let output = Command::new("qemu-system-aarch64").arg("--version").output();
    let output = output.unwrap_or_else(|error| panic!("cannot start QEMU: {error}"));
    let version = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
    vec![
        format!("QEMU: {version}; {QEMU_MACHINE}; no vhost"),
        format!("guest: 1 vCPU, {MEMORY}; disks: raw files in the host's page cache, written back later"),
    ]
}

/// Both guests are up, and one works while the other waits.
fn measured(transport: Transport, works: &[Work], scratch: &Scratch) -> Vec<Row> {
    println!("{}: booting both", transport.name());
    let mut machines = [Monitor::Ambit, Monitor::Qemu].map(|who| Machine::boot(who, transport, scratch));
    let mut rows: Vec<Row> = works.iter().map(|work| row(transport, work)).collect();
    for round in 0..=ROUNDS {
        println!("{}: round {round} of {ROUNDS}", transport.name());
        for (work, row) in works.iter().zip(&mut rows) {
            let pair = machines.each_mut().map(|machine| work.run(machine));
            if round > 0 {
                row.samples.push(pair);
            }
        }
    }
    rows
}

fn row(transport: Transport, work: &Work) -> Row {
    let stream = matches!(work, Work::Net { protocol: "tcp", .. });
    Row { what: name(transport, work), samples: Vec::new(), unit: stream.then_some(64 << 10) }
}

fn name(transport: Transport, work: &Work) -> String {
    format!("{} {}", transport.name(), work.name())
}
