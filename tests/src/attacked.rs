//! A monitor whose guest does the attacks of `tests/attacks`, with what it uses before and after.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ambit_attacks::layout::{SECTOR, SECTORS, on_disk};

use crate::{Boot, Guest, Scratch, Tap};

/// What a monitor has of its host.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    files: usize,
    threads: usize,
}

fn held(pid: u32) -> Held {
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).expect("the monitor runs").count();
    Held { files: count("fd"), threads: count("task") }
}

/// What of a monitor is in memory, in KiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the monitor runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let size = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    size.expect("the kernel says how much")
}

/// Ticks of 10 ms that all threads but the vCPUs have used.
fn ticks(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the monitor runs");
    let stats = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let used = stats.filter(|stat| !stat.contains("(vcpu")).map(|stat| {
        // After the name in brackets: user time is the 12th field, system time the 13th.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>()
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

/// Has the program that `boot` boots do one of `every` so many attacks to a device of each kind over `transport`, and
/// sees that the monitor is as it was before.
///
/// # Panics
/// If an attack got another answer than it should, or the monitor is not as it was.
pub fn attack(boot: Boot, transport: &str, every: u8) {
    let scratch = Scratch::new();
    let tap = tap();
    let disks = ["disk", "readonly"].map(|name| scratch.path(name));
    disks.iter().for_each(|disk| fs::write(disk, image()).expect("the scratch directory has room"));
    let mut guest = machine(boot, transport, &disks, &scratch.path("console"), tap.as_ref()).start();
    guest.wait_for("attacks: ready\n");
    let (before, memory) = (held(guest.pid()), resident(guest.pid()));

    guest.press(&[b'0' + every]);
    let devices = if tap.is_some() { 6 } else { 5 };
    // Each in its own time, as an instruction may take long here.
    (0..devices).for_each(|_| drop(guest.wait_for("attacks: done on ")));
    guest.wait_for("attacks: PASS");

    settled(&guest, &before, memory);
    guest.press(b"e");
    let code = guest.code();
    let all = guest.said_in_all();
    let wrong: Vec<&str> =
        all.lines().filter(|line| line.contains(": FAIL") || line.ends_with(": WEDGED")).collect();
    println!("{transport}: one of {every} cases: {}", all.lines().last().unwrap_or_default());
    assert_eq!((wrong, code, guest.all_errors().as_str()), (Vec::new(), 0, ""));
    assert!(all.contains(" FAIL 0 WEDGED 0\n"));
    for disk in &disks {
        assert!(fs::read(disk).expect("it is there") == image(), "a disk was written to");
    }
}

/// A machine with one device of each kind, and two disks.
fn machine(boot: Boot, transport: &str, disks: &[PathBuf; 2], console: &Path, tap: Option<&Tap>) -> Boot {
    let with = |value: &str| format!("{value}transport={transport}");
    let path = |disk: &Path, more: &str| format!("path={}{more},transport={transport}", disk.display());
    let boot = boot
        .memory("64M")
        .disk(&path(&disks[0], ""))
        .disk(&path(&disks[1], ",readonly=on"))
        .argument("--rng", with(""))
        .argument("--balloon", with(""))
        .argument("--console", format!("to={},transport={transport}", console.display()));
    match tap {
        Some(tap) => boot.argument("--net", format!("tap={},id=net,transport={transport}", tap.name)),
        None => boot,
    }
}

/// All devices are reset by now: their threads are gone, and what is left has nothing to do.
fn settled(guest: &Guest, before: &Held, memory: u64) {
    let begun = (Instant::now(), ticks(guest.pid()));
    sleep(Duration::from_secs(1));
    let (time, used) = (begun.0.elapsed(), ticks(guest.pid()) - begun.1);
    let grown = resident(guest.pid()).saturating_sub(memory);

    assert_eq!(held(guest.pid()), *before);
    // A twentieth of a processor.
    assert!(u128::from(used) * 10 < time.as_millis() / 20, "{used} ticks in {time:?}");
    // What the guest itself touches of its RAM, and little else.
    assert!(grown < 16 << 10, "{grown} KiB more");
}
