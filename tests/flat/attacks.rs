//! Every attack of the table on the devices of a running monitor, over each transport, with what it uses before and
//! after.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ambit_attacks::layout::{SECTOR, SECTORS, on_disk};
use ambit_tests::{Boot, Scratch, Tap};

/// How many open files and threads a monitor has.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    files: usize,
    threads: usize,
}

fn held(pid: u32) -> Held {
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    Held { files: count("fd"), threads: count("task") }
}

/// What of a monitor is in memory, in KiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Ticks of 10 ms that all threads but the vCPUs have used.
fn ticks(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let used = stats.filter(|stat| !stat.contains("(vcpu")).map(|stat| {
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        [fields[11], fields[12]].map(|field| field.parse::<u64>().unwrap()).iter().sum::<u64>()
    });
    used.sum()
}

fn image() -> Vec<u8> {
    (0..SECTORS * SECTOR).map(on_disk).collect()
}

/// A tap, where this user may make one.
fn tap() -> Option<Tap> {
    let may = rustix::process::geteuid().is_root()
        && Path::new("/dev/net/tun").exists()
        && Command::new("ip").arg("-V").output().is_ok();
    if !may {
        println!("NOT TESTED: attacks on a network card, as this user makes no tap");
    }
    may.then(Tap::new)
}

/// A machine with one device of each kind over `transport`, and two disks.
fn boot(transport: &str, disks: &[&Path; 2], console: &Path, tap: Option<&Tap>) -> Boot {
    let with = |value: &str| format!("{value}transport={transport}");
    let path = |disk: &Path, more: &str| format!("path={}{more},transport={transport}", disk.display());
    let boot = Boot::flat("attacks")
        .memory("64M")
        .disk(&path(disks[0], ""))
        .disk(&path(disks[1], ",readonly=on"))
        .argument("--rng", with(""))
        .argument("--balloon", with(""))
        .argument("--console", format!("to={},transport={transport}", console.display()));
    match tap {
        Some(tap) => boot.argument("--net", format!("tap={},id=net,transport={transport}", tap.name)),
        None => boot,
    }
}

fn attack(transport: &str) {
    let scratch = Scratch::new();
    let tap = tap();
    let disks = ["disk", "readonly"].map(|name| scratch.path(name));
    disks.iter().for_each(|disk| fs::write(disk, image()).unwrap());
    let console = scratch.path("console");
    let mut guest = boot(transport, &[&disks[0], &disks[1]], &console, tap.as_ref()).start();
    guest.wait_for("attacks: ready\n");
    let (before, memory) = (held(guest.pid()), resident(guest.pid()));

    guest.press(b"a");
    let mut kinds = vec!["Disk", "ReadOnlyDisk", "Rng", "Console", "Balloon"];
    kinds.extend(tap.as_ref().map(|_| "Net"));
    // Each in its own time, as an instruction may take long here.
    kinds.iter().for_each(|kind| drop(guest.wait_for(&format!("attacks: done on {kind}\n"))));
    let said = guest.wait_for("attacks: PASS");

    let begun = (Instant::now(), ticks(guest.pid()));
    sleep(Duration::from_secs(1));
    let (time, used) = (begun.0.elapsed(), ticks(guest.pid()) - begun.1);
    let (after, grown) = (held(guest.pid()), resident(guest.pid()).saturating_sub(memory));
    guest.press(b"e");
    let code = guest.code();
    let all = guest.said_in_all();
    let wrong: Vec<&str> =
        all.lines().filter(|line| line.contains(": FAIL") || line.ends_with(": WEDGED")).collect();
    println!("{transport}: {}", all.lines().last().unwrap_or(&said));
    assert_eq!((wrong, code, guest.all_errors().as_str()), (Vec::new(), 0, ""));
    // A device that is reset has no thread but the console's, which prints.
    assert_eq!(after, before);
    assert!(used * 10 < u64::try_from(time.as_millis()).unwrap() / 20, "{used} ticks in {time:?}");
    // What the guest itself touches of its RAM, and little else.
    assert!(grown < 16 << 10, "{grown} KiB more");
    assert!(disks.iter().all(|disk| fs::read(disk).unwrap() == image()), "a disk was written to");
}

#[test]
fn a_monitor_outlives_all_attacks_over_mmio() {
    attack("mmio");
}

#[test]
fn a_monitor_outlives_all_attacks_over_legacy_mmio() {
    attack("mmio-legacy");
}

#[test]
fn a_monitor_outlives_all_attacks_over_pci() {
    attack("pci");
}

#[test]
fn a_monitor_outlives_all_attacks_over_legacy_pci() {
    attack("pci-legacy");
}
