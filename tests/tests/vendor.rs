//! The monitor of `examples/vendor-board`: a board and a device that none of our crates knows of.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use ambit_tests::plan::Region;
use ambit_tests::{Boot, Guest, Plan, Scratch, place, to_its_end};

/// One boot for the tests of what Linux sees.
struct Seen {
    plan: Plan,
    /// The lines of /proc/iomem that are not indented.
    claims: String,
    /// The disk and its size in sectors.
    disks: String,
    /// Properties in /proc/device-tree: a path and the bytes in hexadecimal.
    tree: BTreeMap<String, String>,
    model: String,
    /// The first three words of the LED, before anything is written and after each of two writes.
    registers: [String; 3],
}

static SEEN: LazyLock<Seen> = LazyLock::new(|| {
    let scratch = Scratch::new();
    let disk = format!("path={},id=disk0", scratch.disk("disk", 1 << 20).display());
    let plan = Plan::by(&place::vendor(), &["--disk", &disk]);
    let led = plan.region("led0").base;

    let mut guest = Boot::initrd().by(place::vendor()).disk(&disk).ready();
    let seen = Seen {
        claims: guest.check("grep '^[^ ]' /proc/iomem"),
        disks: guest.check("cd /sys/block; for d in *; do echo $d $(cat $d/size); done"),
        tree: device_tree(&mut guest),
        model: guest.check("cat /proc/device-tree/model | tr '\\0' '\\n'"),
        registers: ["", "0xffffffff", "0x12345678"].map(|lit| registers(&mut guest, led, lit)),
        plan,
    };
    assert_eq!(guest.power_off(), 0);
    seen
});

fn device_tree(guest: &mut Guest) -> BTreeMap<String, String> {
    let dump = "for f in $(find led* pl* mem* -type f); do echo $f $(xxd -p -c 256 $f); done";
    let dump = guest.check(&format!("cd /proc/device-tree; {dump}"));
    dump.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(path, hex)| (path.into(), hex.into()))
        .collect()
}

/// The LED's registers, once `lit` is written, if it is anything.
fn registers(guest: &mut Guest, led: u64, lit: &str) -> String {
    if !lit.is_empty() {
        guest.check(&format!("busybox devmem {:#x} 32 {lit}", led + 4));
    }
    guest.check(&format!("for at in 0 4 8; do busybox devmem $(({led:#x} + $at)) 32; done"))
}

fn reg(region: &Region) -> String {
    format!("{:016x}{:016x}", region.base, region.size)
}

#[test]
fn linux_claims_every_region_of_a_vendors_plan_that_has_a_driver() {
    let owner = |region: &Region| match region.name.as_str() {
        "gic.dist" => Some("GICD".to_owned()),
        "gic.redist0" => Some("GICR".to_owned()),
        "uart0" => Some(format!("pl011@{:x}", region.base)),
        "rng0" | "disk0" => Some(format!("{0:x}.virtio_mmio virtio_mmio@{0:x}", region.base)),
        "ram0" => Some("System RAM".to_owned()),
        _ => None,
    };

    let line = |region: &Region| {
        let last = region.base + region.size - 1;
        Some(format!("{:08x}-{last:08x} : {}\n", region.base, owner(region)?))
    };
    let expected: String = SEEN.plan.regions.iter().filter_map(line).collect();
    assert_eq!(SEEN.claims, expected);
}

#[test]
fn the_device_tree_in_linux_has_a_vendors_device_uart_and_ram_where_the_plan_has_them() {
    let [led, uart, ram] = ["led0", "uart0", "ram0"].map(|name| SEEN.plan.region(name));

    let expected = [
        (format!("led@{:x}/reg", led.base), reg(&led)),
        (format!("memory@{:x}/reg", ram.base), reg(&ram)),
        (format!("pl011@{:x}/reg", uart.base), reg(&uart)),
    ];
    let found = SEEN.tree.clone().into_iter().filter(|(path, _)| path.ends_with("/reg"));
    assert_eq!(found.collect::<Vec<_>>(), expected);
}

#[test]
fn linux_is_told_what_the_vendors_device_is() {
    let node = format!("led@{:x}", SEEN.plan.region("led0").base);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();

    let found = ["compatible", "acme,leds"].map(|name| SEEN.tree[&format!("{node}/{name}")].as_str());

    assert_eq!(found, [hex(b"acme,led\0"), "00000020".to_owned()]);
}

#[test]
fn linux_boots_on_a_vendors_board_with_a_disk() {
    assert_eq!([SEEN.model.as_str(), SEEN.disks.as_str()], ["acme-edge\n", "vda 2048\n"]);
}

#[test]
fn a_vendors_device_answers_linux() {
    let expected = [
        "0x3044454C\n0x00000000\n0x00000000\n",
        "0x3044454C\n0xFFFFFFFF\n0x00000001\n",
        "0x3044454C\n0x12345678\n0x00000002\n",
    ];
    assert_eq!(SEEN.registers, expected);
}

#[test]
fn a_board_that_the_vendor_left_out_is_refused_with_those_there_are() {
    let kernel = place::image("Image").display().to_string();

    let refused = ["plan", "run"]
        .map(|verb| to_its_end(&place::vendor(), [verb, "--kernel", &kernel, "--board", "native"]));

    for refused in refused {
        assert_eq!((refused.code, refused.stdout.as_str()), (2, ""));
        assert_eq!(refused.stderr, "ambit: error: unknown board 'native'; known are acme-edge\n");
    }
}
