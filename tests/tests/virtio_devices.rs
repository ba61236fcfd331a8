//! Virtio devices besides disks and cards, as Linux uses them.

use std::fs;

use ambit_tests::{Boot, Guest};

const TRANSPORTS: [&str; 4] = ["mmio", "mmio-legacy", "pci", "pci-legacy"];

fn on(transport: &str) -> Boot {
    let boot = Boot::initrd();
    if transport == "pci-legacy" { boot.cmdline("virtio_pci.force_legacy=1") } else { boot }
}

#[test]
fn the_shell_is_on_a_virtio_console_of_any_transport() {
    for transport in TRANSPORTS {
        let boot = on(transport).argument("--console", format!("on,transport={transport}"));
        let mut guest = boot.cmdline("console=hvc0").ready();

        let tty = guest.check("tty");
        let long = guest.check("seq 1 3000 | tr '\\n' ' '");

        assert_eq!(tty, "/dev/hvc0\n", "{transport}");
        let expected: String = (1..=3000).map(|number| format!("{number} ")).collect();
        assert_eq!(long.trim(), expected.trim(), "{transport}");
        assert_eq!(guest.power_off(), 0);
    }
}

#[test]
fn entropy_comes_over_any_transport() {
    for transport in TRANSPORTS {
        let mut guest = on(transport).argument("--rng", format!("on,transport={transport}")).ready();

        let current = guest.check("cat /sys/class/misc/hw_random/rng_current");
        let bytes = guest.check("dd if=/dev/hwrng bs=64 count=4 2>/dev/null | wc -c");

        assert!(current.starts_with("virtio_rng"), "{current}");
        assert_eq!(bytes, "256\n", "{transport}");
        assert_eq!(guest.power_off(), 0);
    }
}

/// RAM of the host that the monitor has, in KiB.
fn resident(guest: &Guest) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", guest.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn what_the_guest_frees_the_host_has_again() {
    let mut guest = on("pci").argument("--balloon", "on,transport=pci").memory("768M").ready();
    guest.check("dd if=/dev/zero of=/tmp/much bs=1M count=320 2>/dev/null");
    let full = resident(&guest);

    guest.check("rm /tmp/much; for i in $(seq 30); do sleep 1; done");

    let freed = full - resident(&guest).min(full);
    assert!(freed > 200 << 10, "of {full} KiB only {freed} came back");
    assert_eq!(guest.power_off(), 0);
}
