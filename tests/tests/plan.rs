//! What Linux saw of its machine is what the plan says.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use ambit_tests::{Boot, Guest, Scratch, Tap, ambit};
use serde_json::Value;

/// One boot for all the tests here, of a machine with two of everything there can be two of.
struct Seen {
    plan: Plan,
    /// The lines of /proc/iomem that are not indented.
    claims: String,
    interrupts: String,
    /// Where each device of the virtio bus is: a name and a path per line.
    virtio: String,
    /// Properties in /proc/device-tree: a path and the bytes in hexadecimal.
    tree: BTreeMap<String, String>,
    log: String,
    random_source: String,
    random: [String; 2],
}

static SEEN: LazyLock<Seen> = LazyLock::new(|| {
    let (scratch, tap) = (Scratch::new(), Tap::new());
    let disk = |id: &str| format!("path={},id={id}", scratch.disk(id, 1 << 20).display());
    let machine = [
        ("--cpus", "2".to_owned()),
        ("--memory", "512M".to_owned()),
        ("--disk", disk("one")),
        ("--disk", disk("two")),
        ("--net", format!("tap={},id=net", tap.name)),
    ];
    let words = machine.iter().flat_map(|(name, value)| [*name, value]);
    let plan = ambit(["plan", "--format", "json"].into_iter().chain(words));
    let boot = machine.iter().fold(Boot::initrd(), |boot, (name, value)| boot.argument(name, value));

    let mut guest = boot.cmdline("loglevel=1").ready();
    let seen = Seen {
        plan: Plan::read(&plan.stdout),
        claims: guest.check("grep '^[^ ]' /proc/iomem"),
        interrupts: guest.check("cat /proc/interrupts"),
        virtio: guest.check("cd /sys/bus/virtio/devices; for d in *; do echo $d $(readlink $d); done"),
        tree: device_tree(&mut guest),
        log: guest.check("dmesg | grep -E 'ITS|GICv3|root bus resource'"),
        random_source: guest.check("cat /sys/class/misc/hw_random/rng_current"),
        random: [(); 2].map(|()| guest.check("head -c 64 /dev/hwrng | xxd -p -c 64")),
    };
    assert_eq!(guest.power_off(), 0);
    seen
});

fn device_tree(guest: &mut Guest) -> BTreeMap<String, String> {
    let names = "-name reg -o -name interrupts -o -name '#redistributor-regions'";
    let dump = format!("for f in $(find . {names}); do echo $f $(xxd -p -c 256 $f); done");
    let dump = guest.check(&format!("cd /proc/device-tree; {dump}"));
    dump.lines().filter_map(|line| line.strip_prefix("./")?.split_once(' ')).map(owned).collect()
}

fn owned((path, value): (&str, &str)) -> (String, String) {
    (path.to_owned(), value.to_owned())
}

/// `ambit plan` for the same arguments.
struct Plan {
    /// Name, kind, base and size of each.
    regions: Vec<(String, String, u64, u64)>,
    /// Pin and INTID by name.
    irqs: BTreeMap<String, (u64, u64)>,
}

impl Plan {
    fn read(json: &str) -> Self {
        let plan: Value = serde_json::from_str(json).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let base = |value: &Value| u64::from_str_radix(text(value).trim_start_matches("0x"), 16).unwrap();
        let region = |each: &Value| {
            (text(&each["name"]), text(&each["kind"]), base(&each["base"]), each["size"].as_u64().unwrap())
        };
        let irq = |each: &Value| {
            (text(&each["name"]), (each["pin"].as_u64().unwrap(), each["intid"].as_u64().unwrap()))
        };
        Self {
            regions: plan["regions"].as_array().unwrap().iter().map(region).collect(),
            irqs: plan["irqs"].as_array().unwrap().iter().map(irq).collect(),
        }
    }

    /// Base and size of the one region of this name.
    fn region(&self, wanted: &str) -> (u64, u64) {
        let found = self.regions.iter().find(|(name, ..)| name == wanted);
        found.map(|(_, _, base, size)| (*base, *size)).unwrap_or_else(|| panic!("no region '{wanted}'"))
    }

    /// Name, base and size of each device with a window.
    fn devices(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        let devices = self.regions.iter().filter(|(_, kind, ..)| kind == "device");
        devices.map(|(name, _, base, size)| (name.as_str(), *base, *size))
    }
}

/// What Linux calls a device at this address by its node in the device tree.
fn node(name: &str, base: u64) -> String {
    match name {
        "uart0" => format!("pl011@{base:x}"),
        "rtc0" => format!("pl031@{base:x}"),
        _ => format!("virtio_mmio@{base:x}"),
    }
}

/// Fixtures have levels, and virtio-mmio edges.
fn is_level(name: &str) -> bool {
    name == "uart0" || name == "rtc0"
}

/// Two cells of address and two of size, each.
fn reg(ranges: &[(u64, u64)]) -> String {
    ranges.iter().map(|(base, size)| format!("{base:016x}{size:016x}")).collect()
}

#[test]
fn linux_claims_every_region_of_the_plan_and_no_other() {
    let plan = &SEEN.plan;

    let mut expected = Vec::new();
    for (name, kind, base, size) in &plan.regions {
        let owner = match (name.as_str(), kind.as_str()) {
            // Linux maps the ITS without a claim, and of the reservation it knows nothing.
            // Ports are in a space of their own.
            ("gic.its" | "pci.io", _) | (_, "reserved") => continue,
            ("pci.ecam", _) => "PCI ECAM".to_owned(),
            (_, "pci") => format!("pcie@{:x}", plan.region("pci.ecam").0),
            ("gic.dist", _) => "GICD".to_owned(),
            (_, "interrupt-controller") => "GICR".to_owned(),
            (_, "ram") => "System RAM".to_owned(),
            ("uart0" | "rtc0", _) => node(name, *base),
            _ => format!("{base:x}.virtio_mmio {}", node(name, *base)),
        };
        expected.push((*base, format!("{base:08x}-{:08x} : {owner}\n", base + size - 1)));
    }
    expected.sort();
    let expected: String = expected.into_iter().map(|(_, line)| line).collect();
    assert_eq!(SEEN.claims, expected);
}

#[test]
fn every_device_has_the_interrupt_of_the_plan_in_linux() {
    // virtio0 and so on are numbered by address, not by kind.
    let mut owners = BTreeMap::from([("uart-pl011", "uart0"), ("rtc-pl031", "rtc0")]);
    for line in SEEN.virtio.lines() {
        let (device, path) = line.split_once(' ').unwrap();
        let window = path.split('/').find_map(|part| part.strip_suffix(".virtio_mmio")).unwrap();
        let at = |base: u64| format!("{base:x}") == window;
        owners.insert(device, SEEN.plan.devices().find(|(_, base, _)| at(*base)).unwrap().0);
    }

    let mut found = BTreeMap::new();
    for line in SEEN.interrupts.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let Some(at) = words.iter().position(|word| *word == "GICv3") else { continue };
        let [intid, trigger, action] = words[at + 1..] else { panic!("{line}") };
        // Private to each processor, and so in no plan.
        if action != "arch_timer" {
            let owner = owners.get(action).unwrap_or_else(|| panic!("{line}"));
            found.insert((*owner).to_owned(), format!("{intid} {trigger}"));
        }
    }

    let trigger = |name: &str| if is_level(name) { "Level" } else { "Edge" };
    // No function of PCI has asked for its wire.
    let used = SEEN.plan.irqs.iter().filter(|(name, _)| !name.starts_with("pci.int"));
    let expected = used.map(|(name, (_, intid))| (name.clone(), format!("{intid} {}", trigger(name))));
    assert_eq!(found, expected.collect::<BTreeMap<_, _>>());
}

#[test]
fn the_device_tree_in_linux_has_every_device_where_the_plan_has_it() {
    let mut expected = BTreeMap::new();
    for (name, base, size) in SEEN.plan.devices() {
        let (pin, _) = SEEN.plan.irqs[name];
        // An SPI (0) with flags as IRQ_TYPE_LEVEL_HIGH or IRQ_TYPE_EDGE_RISING.
        let flags = if is_level(name) { 4 } else { 1 };
        expected.insert(format!("{}/reg", node(name, base)), reg(&[(base, size)]));
        expected.insert(format!("{}/interrupts", node(name, base)), format!("{:08x}{pin:08x}{flags:08x}", 0));
    }

    let is_device = |path: &str| path.starts_with("pl0") || path.starts_with("virtio_mmio");
    let found = SEEN.tree.clone().into_iter().filter(|(path, _)| is_device(path));
    assert_eq!(found.collect::<BTreeMap<_, _>>(), expected);
}

#[test]
fn the_device_tree_in_linux_has_the_interrupt_controller_of_the_plan() {
    let [dist, redist, its] = ["gic.dist", "gic.redist0", "gic.its"].map(|name| SEEN.plan.region(name));

    let gic = format!("interrupt-controller@{:x}", dist.0);
    let expected = BTreeMap::from([
        (format!("{gic}/#redistributor-regions"), "00000001".to_owned()),
        (format!("{gic}/msi-controller@{:x}/reg", its.0), reg(&[its])),
        (format!("{gic}/reg"), reg(&[dist, redist])),
    ]);
    let found = SEEN.tree.clone().into_iter().filter(|(path, _)| path.starts_with("interrupt-controller"));
    assert_eq!(found.collect::<BTreeMap<_, _>>(), expected);
}

#[test]
fn the_device_tree_in_linux_has_the_memory_and_the_processors_of_the_plan() {
    let ram = SEEN.plan.region("ram0");

    let expected = BTreeMap::from([
        ("cpus/cpu@0/reg".to_owned(), "00000000".to_owned()),
        ("cpus/cpu@1/reg".to_owned(), "00000001".to_owned()),
        (format!("memory@{:x}/reg", ram.0), reg(&[ram])),
    ]);
    let found =
        SEEN.tree.clone().into_iter().filter(|(path, _)| path.starts_with("cpu") || path.starts_with("mem"));
    assert_eq!(found.collect::<BTreeMap<_, _>>(), expected);
}

#[test]
fn linux_finds_the_its_and_a_redistributor_for_each_processor_where_the_plan_has_them() {
    let [its, redist] = ["gic.its", "gic.redist0"].map(|name| SEEN.plan.region(name));

    // A redistributor is two frames of 64 KiB.
    let expected = [
        format!("ITS [mem {:#010x}-{:#010x}]", its.0, its.0 + its.1 - 1),
        format!("CPU0: found redistributor 0 region 0:{:#018x}", redist.0),
        format!("CPU1: found redistributor 1 region 0:{:#018x}", redist.0 + 0x2_0000),
    ];
    for line in expected {
        assert!(SEEN.log.contains(&line), "no '{line}' in\n{}", SEEN.log);
    }
}

#[test]
fn linux_finds_the_windows_of_pci_where_the_plan_has_them() {
    let window = |name| {
        let (base, size) = SEEN.plan.region(name);
        format!("root bus resource [mem {:#010x}-{:#010x}", base, base + size - 1)
    };

    let ports = SEEN.plan.region("pci.io").1;
    let expected = [
        "root bus resource [bus 00-ff]".to_owned(),
        format!("root bus resource [io  0x0000-{:#06x}", ports - 1),
        window("pci.mmio32"),
        window("pci.mmio64"),
    ];
    for line in expected {
        assert!(SEEN.log.contains(&line), "no '{line}' in\n{}", SEEN.log);
    }
}

#[test]
fn linux_draws_random_bytes_from_the_entropy_device() {
    let [first, second] = &SEEN.random;

    assert_eq!(SEEN.random_source, "virtio_rng.0\n");
    assert_eq!([first.trim().len(), second.trim().len()], [128, 128]);
    assert_ne!(first, second);
}
