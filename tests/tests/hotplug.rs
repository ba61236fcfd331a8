//! PCI functions that come and go while Linux runs.

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ambit_tests::{Boot, Control, Guest, Payload, Scratch, Tap, ambit};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

const MIB: u64 = 1 << 20;

/// Nothing but a hang takes so long.
const HANG: Duration = Duration::from_secs(120);

/// How many files and threads the monitor has.
fn held(guest: &Guest) -> [usize; 2] {
    ["fd", "task"].map(|what| fs::read_dir(format!("/proc/{}/{what}", guest.pid())).unwrap().count())
}

/// Waits until the monitor has as many as `before`: the kernel's own threads of an io_uring end a little later than
/// their device.
fn gives_back(guest: &Guest, before: [usize; 2], when: &str) {
    let end = Instant::now() + HANG;
    while held(guest) != before {
        assert!(Instant::now() < end, "{when}: {:?} files and threads instead of {before:?}", held(guest));
        sleep(Duration::from_millis(20));
    }
}

/// RAM of the host that the monitor has for itself, in KiB: what of its memory is no file, less the guest's.
fn private(guest: &Guest) -> u64 {
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", guest.pid())).unwrap();
    let size = |line: &str, key: &str| -> Option<u64> {
        line.strip_prefix(key)?.split_whitespace().next()?.parse().ok()
    };
    let (mut total, mut large) = (0, false);
    for line in smaps.lines() {
        if let Some(size) = size(line, "Size:") {
            large = size >= 64 << 10;
        }
        total += size(line, "Anonymous:").filter(|_| !large).unwrap_or(0);
    }
    total
}

/// Where on the bus the device is that an answer speaks of.
fn slot(answer: &str) -> String {
    answer.split(' ').nth(3).unwrap_or_else(|| panic!("{answer}")).to_owned()
}

fn rescan(guest: &mut Guest) {
    guest.check("echo 1 > /sys/bus/pci/rescan");
}

fn remove(slot: &str) -> String {
    format!("echo 1 > /sys/bus/pci/devices/0000:{slot}/remove")
}

/// What Linux calls the disk with this id.
fn disk_called(guest: &mut Guest, id: &str) -> String {
    let found = guest.check(&format!("cd /sys/block; grep -lx {id} vd*/serial; cd /"));
    found.trim().trim_end_matches("/serial").to_owned()
}

/// What the guest writes there it can read back from the device, not from its own cache.
fn writes_and_reads(guest: &mut Guest, disk: &str) {
    guest.check("dd if=/dev/urandom of=/tmp/data bs=64k count=32");
    guest.check(&format!("dd if=/tmp/data of=/dev/{disk} bs=64k seek=3 conv=fsync"));
    guest.check(&format!("dd if=/dev/{disk} bs=64k skip=3 count=32 iflag=direct | cmp - /tmp/data"));
}

fn md5(path: &std::path::Path) -> String {
    let output = Command::new("md5sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn a_disk_comes_works_and_leaves_under_load_ten_times_and_nothing_is_left_of_it() {
    let scratch = Scratch::new();
    let (disk, other) = (scratch.disk("data", 64 * MIB), scratch.disk("other", 8 * MIB));
    let path = Control::path(&scratch);
    let boot = Boot::initrd().cpus(2).argument("--control", &path);
    let mut guest = boot.disk(&format!("path={},id=other,transport=pci", other.display())).ready();
    guest.check("dmesg -n 1");
    let mut control = Control::to(&path);
    let list = control.check("devices");
    let before = held(&guest);
    let mut memory = 0;

    for round in 0..10 {
        let engine = ["sync", "io_uring"][round % 2];
        let came = control.check(&format!("plug --disk {},id=data,queues=2,engine={engine}", disk.display()));
        assert_eq!(slot(&came), "00:02.0", "the same place each time");
        rescan(&mut guest);
        let name = disk_called(&mut guest, "data");
        writes_and_reads(&mut guest, &name);
        let sum = guest.check(&format!("dd if=/dev/{name} bs=1M iflag=direct 2>/dev/null | md5sum"));
        assert_eq!(sum.split(' ').next().unwrap(), md5(&disk));
        guest.check(&format!(
            "(dd if=/dev/zero of=/dev/{name} bs=4k oflag=direct; \
              while dd if=/dev/{name} of=/dev/null bs=4k count=512 iflag=direct; do :; done) >/tmp/dd 2>&1 & \
             sleep 1"
        ));
        guest.check(&remove(&slot(&came)));
        guest.check("wait; [ ! -e /sys/bus/pci/devices/0000:00:02.0 ]");

        assert_eq!(control.check("unplug data"), "data");

        gives_back(&guest, before, &format!("round {round}"));
        assert_eq!(control.check("devices"), list);
        if round == 1 {
            memory = private(&guest);
        }
    }

    let grown = private(&guest).saturating_sub(memory);
    assert!(grown < 2 << 10, "{grown} KiB more than after two rounds, which had {memory}");
    let other = disk_called(&mut guest, "other");
    writes_and_reads(&mut guest, &other);
    assert_eq!(guest.power_off(), 0);
    assert!(!path.exists(), "the socket goes with the monitor");
}

#[test]
fn a_disk_that_is_taken_out_of_a_guest_that_uses_it_harms_no_other_disk() {
    let scratch = Scratch::new();
    let (disk, other) = (scratch.disk("data", 64 * MIB), scratch.disk("other", 8 * MIB));
    let path = Control::path(&scratch);
    let boot = Boot::initrd().cpus(2).argument("--control", &path);
    let mut guest = boot.disk(&format!("path={},id=other", other.display())).ready();
    guest.check("dmesg -n 1");
    let mut control = Control::to(&path);
    // Once it has answered, the connection is one of the monitor's files.
    control.check("devices");
    let before = held(&guest);
    let came = control.check(&format!("plug --disk {},id=data", disk.display()));
    rescan(&mut guest);
    let name = disk_called(&mut guest, "data");
    guest.check(&format!(
        "(while dd if=/dev/{name} of=/dev/null bs=4k count=4096 iflag=direct; do :; done; echo over >/tmp/over) \
          >/dev/null 2>&1 & sleep 1; [ ! -e /tmp/over ]"
    ));

    assert_eq!(control.check("unplug data"), "data");

    gives_back(&guest, before, "taken out in use");
    let there = guest.check(&format!(
        "od -An -tx4 -N4 /sys/bus/pci/devices/0000:{0}/config 2>/dev/null || cat /sys/bus/pci/devices/0000:{0}/vendor",
        slot(&came)
    ));
    // What was asked and not done never is, so the removal may wait for ever, and the disk's own processes with it.
    guest.check(&format!("({}; echo gone >/tmp/gone) >/dev/null 2>&1 & sleep 2", remove(&slot(&came))));
    let other = guest.check("grep -lx other /sys/block/vda/serial && echo vda");
    assert!(other.ends_with("vda\n"), "{other}");
    writes_and_reads(&mut guest, "vda");
    println!("the guest sees {there:?}; {}", guest.run("ls /tmp/over /tmp/gone").text);
    assert!(control.check("devices").contains("other virtio-blk"));
    guest.signal(Signal::TERM);
    assert_eq!(guest.code(), 128 + 15);
}

#[test]
fn a_card_and_a_legacy_disk_come_and_go() {
    let scratch = Scratch::new();
    let tap = Tap::new();
    let disk = scratch.disk("data", 8 * MIB);
    let path = Control::path(&scratch);
    let mut guest = Boot::initrd().argument("--control", &path).ready();
    guest.check("dmesg -n 1");
    let mut control = Control::to(&path);
    // Once it has answered, the connection is one of the monitor's files.
    control.check("devices");
    let before = held(&guest);

    for _ in 0..3 {
        let came = control.check(&format!("plug --net tap={},id=net", tap.name));
        let old = control.check(&format!("plug --disk {},id=old,transport=pci-legacy", disk.display()));
        rescan(&mut guest);
        guest.check(&format!("ip addr add {}/24 dev eth0 && ip link set eth0 up", tap.guest()));
        guest.check(&format!("ping -c 2 -W 20 {}", tap.host()));
        let name = disk_called(&mut guest, "old");
        writes_and_reads(&mut guest, &name);
        guest.check(&remove(&slot(&came)));
        guest.check(&remove(&slot(&old)));
        assert_eq!([control.check("unplug net"), control.check("unplug old")], ["net", "old"]);
        gives_back(&guest, before, "a card and a disk");
    }

    assert_eq!(guest.power_off(), 0);
}

/// The CPU time that the monitor has used, in ticks of 10 ms.
fn ticks(guest: &Guest) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", guest.pid())).unwrap();
    let after = stat.rsplit(')').next().unwrap();
    // proc(5): utime and stime are the fields 14 and 15, and the name that ends with ')' is the second.
    after.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

// F-12
#[test]
fn a_monitor_that_may_open_no_more_files_says_so_and_spins_on_nothing() {
    let scratch = Scratch::new();
    let disk = scratch.disk("data", 8 * MIB);
    let path = Control::path(&scratch);
    let boot = Payload::new().say("up").stay().boot(&scratch).argument("--control", &path);
    let guest = boot.argument("--log", "off").start();
    guest.wait_for("up");
    let mut control = Control::to(&path);
    let list = control.check("devices");
    let pid = Pid::from_raw(i32::try_from(guest.pid()).unwrap());
    let limit = |soft: u64| {
        let limit = Rlimit { current: Some(soft), ..getrlimit(Resource::Nofile) };
        prlimit(pid, Resource::Nofile, limit).unwrap();
    };
    let before = held(&guest);

    limit(before[0] as u64);
    let refused = control.ask(&format!("plug --disk {},id=data", disk.display()));
    let waits: Vec<_> = (0..3).map(|_| std::os::unix::net::UnixStream::connect(&path).unwrap()).collect();
    let used = ticks(&guest);
    sleep(Duration::from_secs(3));
    let used = ticks(&guest) - used;
    let here = (control.check("devices"), held(&guest));
    limit(1024);

    assert!(refused.starts_with("error: disk 'data' ("), "{refused}");
    assert!(refused.contains("(os error 24)"), "{refused}");
    assert!(refused.ends_with("; help: allow the monitor more open files (ulimit -n)"), "{refused}");
    assert!(used < 50, "{used} ticks in three seconds");
    assert_eq!(here, (list, before));
    drop(waits);
    assert!(Control::to(&path).check("help").starts_with("plug "));
    control.check(&format!("plug --disk {},id=data", disk.display()));
}

// F-27, F-53
#[test]
fn a_socket_of_a_monitor_that_runs_is_refused_and_one_of_a_dead_one_is_taken_over() {
    let scratch = Scratch::new();
    let path = Control::path(&scratch);
    let boot = || Payload::new().say("up").stay().boot(&scratch).argument("--control", &path);
    let first = boot().start();
    first.wait_for("up");

    let kernel = ambit_tests::place::image("Image").display().to_string();
    let second = ambit(["run", "--kernel", &kernel, "--control", &path.display().to_string()]);
    assert_eq!(second.code, 2, "{}", second.stderr);
    assert!(second.stderr.contains("is in use by another program"), "{}", second.stderr);
    assert!(Control::to(&path).check("help").starts_with("plug "));
    // It is killed.
    drop(first);
    assert!(path.exists());

    let mut third = boot().start();
    third.wait_for("up");
    assert!(Control::to(&path).check("help").starts_with("plug "));
    third.signal(Signal::TERM);
    assert_eq!(third.code(), 128 + 15);
    let end = Instant::now() + HANG;
    while path.exists() {
        assert!(Instant::now() < end);
    }
}
