//! What is too long for every day: `cargo xtask soak`.

use std::fs;

use ambit_tests::{Boot, Scratch, Tap};

use super::{above_4_gib, run};

const CYCLES: u32 = 1000;

#[test]
fn a_guest_of_two_tebibytes_has_ram_on_both_sides_of_what_amd_keeps() {
    assert_eq!(
        above_4_gib("2T", &["--vendor", "amd"]),
        [
            "bank 0x100000000 to 0xfcffffffff keeps [true, true]",
            "bank 0x10000000000 to 0x2033fffffff keeps [true, true]",
            "hole 0xfd00000000 absent [Some(true), Some(true)]",
        ]
    );
}

/// What a monitor could leave behind in this process or in the kernel.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    descriptors: usize,
    threads: usize,
    interfaces: usize,
    files: Vec<String>,
}

impl Left {
    fn now(scratch: &Scratch) -> Self {
        let entries = |path: &str| fs::read_dir(path).unwrap().count();
        let names = fs::read_dir(scratch.path("")).unwrap();
        let mut files: Vec<String> =
            names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        files.sort();
        Self {
            descriptors: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
            interfaces: fs::read_dir("/sys/class/net")
                .unwrap()
                .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("ambit"))
                .count(),
            files,
        }
    }
}

fn mappings() -> usize {
    fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

/// All files that are open on this machine, whoever has them.
fn open_files() -> u64 {
    let text = fs::read_to_string("/proc/sys/fs/file-nr").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// The machine has every kind of device, among them an interface and a socket that the monitor makes.
#[test]
fn a_thousand_machines_come_and_go_and_leave_nothing() {
    let scratch = Scratch::new();
    let disk = scratch.disk("disk", 1 << 20);
    let (tap, socket) = (Tap::unmade(), scratch.path("control"));
    let machine = || {
        let path = disk.display();
        Boot::flat("ends")
            .cpus(2)
            .memory("64M")
            .disk(&format!("path={path},id=a,transport=pci,readonly=on"))
            .disk(&format!("path={path},id=b,transport=mmio-legacy,readonly=on"))
            .argument("--net", format!("tap={},id=net,transport=pci-legacy", tap.name))
            .words(&["--rng", "on", "--balloon", "transport=pci", "--console", "off"])
            .argument("--control", &socket)
            .cmdline("how=off")
    };
    let once = || assert_eq!(run(machine()), (0, "ends by off\n".into(), String::new()));
    // The allocator and the harness take what they keep.
    (0..10).for_each(|_| once());
    let (before, mapped, files) = (Left::now(&scratch), mappings(), open_files());

    (0..CYCLES).for_each(|_| once());

    assert_eq!(Left::now(&scratch), before);
    // What each machine left would be a thousand. The allocator may take one more mapping, and others open and close
    // files meanwhile.
    let more = mappings().saturating_sub(mapped);
    assert!(more < 10, "{more} more mappings are there");
    let more = open_files().saturating_sub(files);
    assert!(more < u64::from(CYCLES) / 2, "{more} more files are open");
}
