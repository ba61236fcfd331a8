//! On a host of AMD's: PCs that run Debian's amd64 kernel, and the hole that the host keeps in their addresses.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::thread;

use ambit_tests::{Boot, Guest, Plan, Scratch, Tap};

const MIB: u64 = 1 << 20;

/// About the processor, which is emulated and old, and its clock.
const NOT_OF_TABLES: [&str; 5] = [
    "Speculative Return Stack Overflow",
    "switching default tracing clock",
    "keep using the local clock",
    "trace_clock=local",
    "on the kernel command line",
];

fn disk_and_card_work(transport: &'static str, cpus: u32) {
    let (scratch, tap) = (Scratch::new(), Tap::new());
    let disk = scratch.disk("disk", 16 * MIB);
    let mut guest = Boot::initrd()
        .cpus(cpus)
        .memory("512M")
        .disk(&format!("path={},id=disk,transport={transport}", disk.display()))
        .argument("--net", format!("tap={},id=net,transport={transport}", tap.name))
        .cmdline(&tap.cmdline())
        .ready();

    assert_eq!(guest.check("grep -c ^processor /proc/cpuinfo"), format!("{cpus}\n"));
    guest.check("dd if=/dev/urandom of=/tmp/data bs=1M count=8 2>/dev/null");
    guest.check("dd if=/tmp/data of=/dev/vda bs=1M conv=fsync 2>/dev/null");
    guest.check("dd if=/dev/vda bs=1M count=8 iflag=direct 2>/dev/null | cmp - /tmp/data");
    let came_back = comes_back(&mut guest, &tap);

    assert!(
        came_back == fs::read(&disk).unwrap()[..8 << 20],
        "the card carried other bytes than the disk has"
    );
    // On mmio a device has one interrupt, on PCI each queue.
    let (by, name) = if transport == "pci" { ("PCI-MSI", "put.0|req.0") } else { ("IO-APIC", "virtio") };
    let interrupts = guest.check(&format!("grep -E '{name}' /proc/interrupts"));
    assert_eq!(interrupts.lines().filter(|line| line.contains(by)).count(), 3, "{interrupts}");
    assert_eq!(guest.power_off(), 0);
}

/// What the host gets of `/tmp/data`, after pings both ways.
fn comes_back(guest: &mut Guest, tap: &Tap) -> Vec<u8> {
    guest.check(&format!("ping -c 2 -i 0.2 -W 20 {}", tap.host()));
    let ping = Command::new("ping").args(["-c", "2", "-i", "0.2", "-W", "20", &tap.guest()]).output();
    assert!(ping.unwrap().status.success(), "the host's pings are not answered");
    let listener = TcpListener::bind((tap.host(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = vec![0; 8 << 20];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(b"enough").unwrap();
        bytes
    });
    assert_eq!(guest.check(&format!("nc {} {port} </tmp/data", tap.host())), "enough");
    heard.join().unwrap()
}

#[test]
fn a_disk_and_a_card_on_mmio_work_with_one_processor() {
    disk_and_card_work("mmio", 1);
}

#[test]
fn a_disk_and_a_card_on_mmio_work_with_four_processors() {
    disk_and_card_work("mmio", 4);
}

#[test]
fn a_disk_and_a_card_on_pci_work_with_one_processor() {
    disk_and_card_work("pci", 1);
}

#[test]
fn a_disk_and_a_card_on_pci_work_with_four_processors() {
    disk_and_card_work("pci", 4);
}

#[test]
fn linux_has_no_complaint_about_the_tables() {
    let scratch = Scratch::new();
    let disk = |name, transport| {
        format!("path={},id={name},transport={transport}", scratch.disk(name, MIB).display())
    };
    let boot = Boot::initrd().cpus(2).disk(&disk("a", "mmio")).disk(&disk("b", "pci"));
    let mut guest = boot.memory("8G").ready();

    let said = guest.check("dmesg -r > /tmp/said && sed -n '/^<[0-4]>/p' /tmp/said");
    let found = guest.check("grep -c 'PCI: MMCONFIG for domain 0000' /tmp/said");
    let acpi = guest.check("tr A-Z a-z < /tmp/said | sed -n -E '/acpi.*(error|warn|invalid|exception)/p'");

    let known = |line: &str| NOT_OF_TABLES.iter().any(|word| line.contains(word));
    let complaints: Vec<&str> = said.lines().filter(|line| !known(line)).collect();
    assert_eq!((complaints, acpi.as_str()), (Vec::new(), ""));
    assert_ne!(found, "0\n");
    assert_eq!(guest.power_off(), 0);
}

/// The lines of the map that Linux was started with from 4 GiB on, as it prints them.
fn e820_above_4_gib(guest: &mut Guest) -> Vec<String> {
    let said = guest.check("dmesg | sed -n 's/.*BIOS-e820: //p'");
    let above = |line: &&str| line.len() > 7 && &line[7..16] != "000000000";
    said.lines().filter(|line| line.starts_with("[mem 0x")).filter(above).map(str::to_owned).collect()
}

const HOLE: &str = "[mem 0x000000fd00000000-0x000000ffffffffff] reserved";

#[test]
fn linux_prints_the_hole_of_a_guest_that_is_far_from_it() {
    let mut guest = Boot::initrd().memory("512M").ready();

    let lines = e820_above_4_gib(&mut guest);

    assert!(lines.iter().any(|line| line == HOLE), "{lines:?}");
    assert_eq!(guest.power_off(), 0);
}

/// 3 GiB of RAM are where they always are, 64 MiB are the last below the hole and 64 the first above it.
#[test]
fn a_guest_that_straddles_the_hole_has_ram_on_both_sides_and_none_in_it() {
    let machine = ["--memory", "3200M", "--reserve", "0x100000000+1032128M"];
    let mut guest = Boot::initrd().cpus(2).words(&machine).ready();

    let lines = e820_above_4_gib(&mut guest);
    let total = guest.check("sed -n 's/^MemTotal: *//p' /proc/meminfo");
    // Linux fills the highest addresses first, so this is on both sides.
    guest.check("dd if=/dev/zero of=/tmp/file bs=1M count=256 2>/dev/null && rm /tmp/file");

    let plan = Plan::of(&[&["--board", "pc"], machine.as_slice()].concat());
    let ram = |name| plan.region(name).base;
    assert_eq!((ram("ram1"), ram("ram2")), (0xfc_fc00_0000, 0x100_0000_0000));
    let usable: Vec<&String> = lines.iter().filter(|line| line.ends_with("usable")).collect();
    assert_eq!(
        usable,
        [
            "[mem 0x000000fcfc000000-0x000000fcffffffff] usable",
            "[mem 0x0000010000000000-0x0000010003ffffff] usable"
        ]
    );
    assert!(lines.iter().any(|line| line == HOLE), "{lines:?}");
    let kibibytes: u64 = total.split(' ').next().unwrap().parse().unwrap();
    assert!((2_900_000..3200 << 10).contains(&kibibytes), "{kibibytes} KiB");
    assert_eq!(guest.power_off(), 0);
}

/// Without ACPI and messages, the processors and the wires of PCI come from the MPTable alone. Nothing says that there is
/// neither a CMOS clock nor a keyboard, which Linux would look for until it gives up.
#[test]
fn linux_without_acpi_has_its_processors_and_the_wires_of_pci_from_the_mptable() {
    let scratch = Scratch::new();
    let disk = |name: &str| format!("path={},id={name},transport=pci", scratch.disk(name, MIB).display());
    let names = ["vda", "vdb", "vdc", "vdd"];
    let boot = names.iter().fold(Boot::initrd().cpus(4), |boot, name| boot.disk(&disk(name)));
    let mut guest = boot.cmdline("acpi=off pci=nomsi initcall_blacklist=cmos_init,i8042_init").ready();

    let processors = guest.check("grep -c ^processor /proc/cpuinfo");
    for name in names {
        guest.check(&format!("echo I am {name} >/dev/{name} && sync"));
    }
    let interrupts = guest.check("cat /proc/interrupts");

    let own = |line: &&str| line.contains("IO-APIC") && line.contains("virtio");
    let ends = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next().unwrap().to_owned(), words.next_back().unwrap().to_owned())
    };
    let wires: Vec<(String, String)> = interrupts.lines().filter(own).map(ends).collect();
    // The first disk is device 1 of the bus.
    let expected = [("20:", "virtio3"), ("21:", "virtio0"), ("22:", "virtio1"), ("23:", "virtio2")];
    assert_eq!(wires, expected.map(|(pin, name)| (pin.to_owned(), name.to_owned())), "{interrupts}");
    assert_eq!(processors, "4\n");
    for name in names {
        let said = format!("I am {name}\n");
        assert!(fs::read(scratch.path(name)).unwrap().starts_with(said.as_bytes()), "{name}");
    }
    guest.press(b"reboot -f\n");
    assert_eq!(guest.code(), 0);
}
