//! Disks and cards of Linux on every transport: what they are, that they work, and that their drivers come and go.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::thread;

use ambit_tests::{Boot, Guest, Scratch, Tap};

const MIB: u64 = 1 << 20;

/// A machine whose disks and card are on one transport.
struct On {
    transport: &'static str,
    scratch: Scratch,
    tap: Tap,
}

impl On {
    fn new(transport: &'static str) -> Self {
        Self { transport, scratch: Scratch::new(), tap: Tap::new() }
    }

    fn is_legacy(&self) -> bool {
        self.transport.ends_with("legacy")
    }

    fn is_pci(&self) -> bool {
        self.transport.starts_with("pci")
    }

    fn boot(&self) -> Boot {
        let Self { transport, tap, .. } = self;
        let boot = Boot::initrd().cmdline(&tap.cmdline());
        // A transitional function is a modern one to a driver that knows both, unless it is told otherwise.
        let boot = if *transport == "pci-legacy" { boot.cmdline("virtio_pci.force_legacy=1") } else { boot };
        boot.argument("--net", format!("tap={},id=net,transport={transport}", tap.name))
    }

    fn disk(&self, boot: Boot, name: &str, bytes: u64) -> Boot {
        let path = self.scratch.disk(name, bytes);
        boot.disk(&format!("path={},id={name},transport={}", path.display(), self.transport))
    }
}

fn copies_256_mib(on: &On) {
    let boot = on.disk(on.boot(), "from", 256 * MIB);
    let from = on.scratch.path("from");
    let mut pattern = vec![0; 256 << 20];
    for (word, bytes) in (0u64..).zip(pattern.chunks_exact_mut(8)) {
        bytes.copy_from_slice(&word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    fs::write(&from, &pattern).unwrap();
    let mut guest = on.disk(boot, "to", 256 * MIB).ready();

    guest.check("dd if=/dev/vda of=/dev/vdb bs=1M conv=fsync");
    let read = guest.check("dd if=/dev/vdb bs=1M iflag=direct 2>/dev/null | md5sum | cut -d' ' -f1");

    assert_eq!(guest.power_off(), 0);
    assert!(fs::read(on.scratch.path("to")).unwrap() == pattern, "the copy differs");
    assert_eq!(read.trim(), md5(&from));
}

fn md5(path: &std::path::Path) -> String {
    let output = Command::new("md5sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

fn carries_64_mib_both_ways(on: &On) {
    let mut guest = on.boot().ready();
    let sent: Vec<u8> =
        (0..64u32 << 18).flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    let listener = TcpListener::bind((on.tap.host(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let echo = thread::spawn({
        let sent = sent.clone();
        move || {
            listener.accept().unwrap().0.write_all(&sent).unwrap();
            let mut back = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut back).unwrap();
            back
        }
    });

    guest.check(&format!("ping -c 3 -i 0.2 -W 20 {}", on.tap.host()));
    let ping = Command::new("ping").args(["-c", "3", "-i", "0.2", "-W", "20", &on.tap.guest()]).output();
    assert!(ping.unwrap().status.success(), "the host's pings are not answered");
    guest.check(&format!("nc {} {port} </dev/null >/tmp/data", on.tap.host()));
    guest.check(&format!("nc {} {port} </tmp/data", on.tap.host()));

    assert!(echo.join().unwrap() == sent, "what came back differs");
    // VIRTIO_F_VERSION_1 is bit 32.
    let modern = guest.check("cut -c33 /sys/class/net/eth0/device/features");
    assert_eq!(modern, if on.is_legacy() { "0\n" } else { "1\n" });
    assert_eq!(guest.power_off(), 0);
}

fn drivers_come_and_go_50_times(on: &On) {
    let mut guest = on.disk(on.boot(), "disk", 8 * MIB).ready();
    guest.check("dd if=/dev/urandom of=/dev/vda bs=64k count=16 conv=fsync");
    let before = guest.check("dd if=/dev/vda bs=64k iflag=direct 2>/dev/null | md5sum");

    guest.check(
        "for i in $(seq 50); do rmmod virtio_blk virtio_net && insmod /modules/virtio_blk.ko \
         && insmod /modules/virtio_net.ko && dd if=/dev/vda of=/dev/null bs=64k count=1 iflag=direct || break; \
         done 2>/dev/null; [ $i = 50 ]",
    );
    guest.check(&format!("ip addr add {}/24 dev eth0 && ip link set eth0 up", on.tap.guest()));

    assert_eq!(guest.check("dd if=/dev/vda bs=64k iflag=direct 2>/dev/null | md5sum"), before);
    guest.check(&format!("ping -c 2 -W 20 {}", on.tap.host()));
    assert_eq!(guest.power_off(), 0);
}

/// How often each of Linux's interrupts with this in its name came, and what raises it.
fn interrupts(guest: &mut Guest, name: &str) -> Vec<(String, u64)> {
    let text = guest.check(&format!("grep {name} /proc/interrupts"));
    let count = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[2].to_owned(), words[1].parse().unwrap())
    };
    text.lines().map(count).collect()
}

fn interrupts_come_as_they_should(on: &On) {
    let mut guest = on.disk(on.boot(), "disk", 8 * MIB).ready();
    let name = if on.is_pci() { "req.0" } else { "virtio" };
    let total = |all: &[(String, u64)]| all.iter().map(|(_, count)| count).sum::<u64>();
    let before = interrupts(&mut guest, name);

    guest.check("dd if=/dev/vda of=/dev/null bs=4k count=200 iflag=direct");

    let after = interrupts(&mut guest, name);
    let controller = if on.is_pci() { "ITS-MSI" } else { "GICv3" };
    assert!(after.iter().all(|(by, _)| by == controller), "{after:?}");
    let more = total(&after) - total(&before);
    assert!((200..300).contains(&more), "{more} interrupts for 200 requests one after the other");
    assert_eq!(guest.power_off(), 0);
}

macro_rules! on_each_transport {
    ($($module:ident $transport:literal),*) => {$(
        mod $module {
            use super::On;

            #[test]
            fn a_disk_copies_256_mib_to_another() {
                super::copies_256_mib(&On::new($transport));
            }

            #[test]
            fn a_card_carries_64_mib_both_ways() {
                super::carries_64_mib_both_ways(&On::new($transport));
            }

            #[test]
            fn drivers_come_and_go_50_times() {
                super::drivers_come_and_go_50_times(&On::new($transport));
            }

            #[test]
            fn each_request_is_one_interrupt_of_the_right_kind() {
                super::interrupts_come_as_they_should(&On::new($transport));
            }
        }
    )*};
}

on_each_transport!(mmio "mmio", mmio_legacy "mmio-legacy", pci "pci", pci_legacy "pci-legacy");

/// A guest with 16 disks and 8 cards on `transport` sees and uses all of them.
fn many_devices(transport: &str) {
    let scratch = Scratch::new();
    let taps: Vec<Tap> = (0..8).map(|_| Tap::new()).collect();
    let mut boot = Boot::initrd().cmdline(&taps[0].cmdline());
    for number in 0..16 {
        let path = scratch.disk(&format!("d{number}"), (number + 1) * MIB);
        boot = boot.disk(&format!("path={},id=d{number},transport={transport}", path.display()));
    }
    for (number, tap) in taps.iter().enumerate() {
        boot = boot.argument("--net", format!("tap={},id=n{number},transport={transport}", tap.name));
    }
    let mut guest = boot.ready();

    let sizes = guest.check("cd /sys/block; cat vd?/size; cd /");
    let cards = guest.check("ls /sys/class/net | grep -c eth");
    guest.check("for d in /dev/vd?; do dd if=/dev/urandom of=$d bs=1M count=1 conv=fsync || exit 1; done");
    for (number, tap) in taps.iter().enumerate().skip(1) {
        guest.check(&format!("ip addr add {}/24 dev eth{number} && ip link set eth{number} up", tap.guest()));
    }
    for tap in &taps {
        guest.check(&format!("ping -c 1 -W 20 {}", tap.host()));
    }

    let expected: String = (1..=16).map(|mib| format!("{}\n", mib * 2048)).collect();
    assert_eq!(sizes, expected);
    assert_eq!(cards, "8\n");
    assert_eq!(guest.power_off(), 0);
}

#[test]
fn sixteen_disks_and_eight_cards_work_at_once_on_mmio() {
    many_devices("mmio");
}

#[test]
fn sixteen_disks_and_eight_cards_work_at_once_on_pci() {
    many_devices("pci");
}

/// As lspci of the Debian guest reads the functions: nothing unknown, nothing clipped.
#[test]
fn lspci_reads_every_function_and_its_capabilities() {
    let scratch = Scratch::new();
    File::create(scratch.path("disk")).and_then(|file| file.set_len(8 * MIB)).unwrap();
    let disk = format!("path={},id=disk,transport=pci", scratch.path("disk").display());
    let old = format!("path={},id=old,transport=pci-legacy", scratch.disk("old", 8 * MIB).display());
    let root = ambit_tests::place::image("root.ext4");
    let mut guest = Boot::root(&root, "ro").disk(&disk).disk(&old).ready();

    let said = guest.check("lspci -vv -nn");

    for wanted in [
        "00:00.0 Host bridge [0600]",
        "[1af4:1042]",
        "[1af4:1001]",
        "MSI-X: Enable+ Count=2 Masked-",
        "VirtIO: CommonCfg",
        "VirtIO: Notify",
        "VirtIO: ISR",
        "VirtIO: DeviceCfg",
        "BAR=0 offset=00000000",
        "Kernel driver in use: virtio-pci",
        "I/O ports at",
    ] {
        assert!(said.contains(wanted), "no '{wanted}' in: {said}");
    }
    // The fifth kind of virtio's capabilities, which lspci 3.9 has no name for.
    let said = said.replace("VirtIO: <unknown>", "VirtIO: PCI configuration access");
    for wrong in ["!!!", "<unassigned>", "<ignored>", "Unknown", "unknown"] {
        assert!(!said.contains(wrong), "'{wrong}' in: {said}");
    }
    assert_eq!(guest.power_off(), 0);
}

#[test]
fn a_legacy_queue_works_with_as_much_memory_as_it_can_name_and_more_is_refused() {
    for transport in ["mmio-legacy", "pci-legacy"] {
        let on = On::new(transport);
        let boot = on.disk(on.boot(), "disk", 8 * MIB).memory("16383G");
        let mut guest = boot.cmdline("mem=512M").ready();
        guest.check("dd if=/dev/urandom of=/dev/vda bs=64k count=16 conv=fsync");
        assert_eq!(guest.power_off(), 0);

        let disk = format!("path={},transport={transport}", on.scratch.path("disk").display());
        let kernel = ambit_tests::place::image("Image").display().to_string();
        let refused = ambit_tests::ambit(["run", "--kernel", &kernel, "--memory", "16T", "--disk", &disk]);

        assert_eq!(refused.code, 3, "{}", refused.stderr);
        for wanted in ["within 44 address bits", "at most 16383 GiB", "transport=pci"] {
            assert!(refused.stderr.contains(wanted), "no '{wanted}' in: {}", refused.stderr);
        }
    }
}

/// On a host whose KVM has only a GICv2, which takes no messages.
mod on_gicv2 {
    use super::{MIB, On, interrupts};

    fn uses_its_wire(transport: &'static str) {
        let on = On::new(transport);
        let boot = on.disk(on.boot(), "disk", 8 * MIB).argument("--board", "native,gic-version=2");
        let mut guest = boot.ready();

        guest.check("dd if=/dev/urandom of=/dev/vda bs=64k count=16 conv=fsync");
        guest.check("dd if=/dev/vda of=/dev/null bs=4k count=100 iflag=direct");
        guest.check(&format!("ping -c 2 -W 20 {}", on.tap.host()));

        let wires = interrupts(&mut guest, "virtio");
        assert!(wires.iter().any(|(by, count)| by.starts_with("GIC") && *count >= 100), "{wires:?}");
        assert!(guest.check("grep virtio /proc/interrupts").contains("Level"));
        assert_eq!(guest.power_off(), 0);
    }

    #[test]
    fn functions_interrupt_by_their_wires() {
        uses_its_wire("pci");
        uses_its_wire("pci-legacy");
    }
}
