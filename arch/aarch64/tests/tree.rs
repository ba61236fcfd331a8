//! What the guest is told is what was planned: the tree is read back by another crate and compared.

mod machine;

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_aarch64::fdt::{Chosen, device_tree, flat};
use ambit_aarch64::gic;
use ambit_bus::Trigger;
use ambit_device_manager::{Plan, RegionKind, pci};
use ambit_resources::AddressRange;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use machine::{Machine, machine};

fn blob(plan: &Plan, chosen: &Chosen) -> Vec<u8> {
    flat(&device_tree(plan, chosen).unwrap()).unwrap()
}

fn tree_of(plan: &Plan) -> Vec<u8> {
    blob(plan, &Chosen::default())
}

fn parse(blob: &[u8]) -> Fdt<'_> {
    Fdt::new(blob).unwrap()
}

fn value(node: &FdtNode, name: &str) -> Option<Vec<u8>> {
    Some(node.property(name)?.value().to_vec())
}

fn cells(node: &FdtNode, name: &str) -> Option<Vec<u32>> {
    let value = value(node, name)?;
    Some(value.as_chunks::<4>().0.iter().map(|cell| u32::from_be_bytes(*cell)).collect())
}

fn strings(node: &FdtNode, name: &str) -> Vec<String> {
    let text = String::from_utf8(value(node, name).unwrap_or_default()).unwrap();
    text.split_terminator('\0').map(String::from).collect()
}

/// `reg`, with two cells for an address and two for a size.
fn ranges(node: &FdtNode) -> Vec<AddressRange> {
    let value = value(node, "reg").unwrap_or_default();
    let numbers: Vec<u64> = value.as_chunks::<8>().0.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect();
    numbers.as_chunks::<2>().0.iter().map(|[first, size]| AddressRange::fixed(*first, *size)).collect()
}

/// What the CPU sees of `ranges`: three cells of the bus's address, two of the CPU's, two of size.
fn pci_windows(node: &FdtNode) -> Vec<AddressRange> {
    let wide = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    let cells = cells(node, "ranges").unwrap_or_default();
    let window = |entry: &[u32; 7]| AddressRange::fixed(wide(entry[3], entry[4]), wide(entry[5], entry[6]));
    cells.as_chunks::<7>().0.iter().map(window).collect()
}

fn is(node: &FdtNode, compatible: &str) -> bool {
    strings(node, "compatible").iter().any(|name| name == compatible)
}

fn walk<'a>(node: FdtNode<'a>, found: &mut Vec<FdtNode<'a>>) {
    for child in node.children() {
        found.push(child);
        walk(child, found);
    }
}

fn nodes<'a>(fdt: &Fdt<'a>) -> Vec<FdtNode<'a>> {
    let mut found = Vec::new();
    walk(fdt.root(), &mut found);
    found
}

/// Every range in the tree with what it is, as the plan's regions say it.
fn told(fdt: &Fdt) -> Vec<(AddressRange, RegionKind)> {
    let mut told = Vec::new();
    for node in nodes(fdt) {
        let kind = match () {
            () if strings(&node, "device_type") == ["memory"] => RegionKind::Ram,
            () if is(&node, "arm,gic-v3") || is(&node, "arm,gic-v3-its") => RegionKind::InterruptController,
            () if strings(&node, "device_type") == ["cpu"] => continue,
            () if is(&node, "pci-host-ecam-generic") => {
                told.extend(pci_windows(&node).into_iter().map(|window| (window, RegionKind::Pci)));
                RegionKind::Pci
            }
            () => RegionKind::Device,
        };
        told.extend(ranges(&node).into_iter().map(|range| (range, kind)));
    }
    told.sort_by_key(|(range, _)| range.first());
    told
}

fn planned(plan: &Plan) -> Vec<(AddressRange, RegionKind)> {
    let placed = plan.regions.iter().filter(|region| region.kind != RegionKind::Reserved);
    placed.filter_map(|region| Some((region.range?, region.kind))).collect()
}

fn machines() -> Vec<Machine> {
    vec![
        machine(),
        machine().without_its(),
        machine().memory(128 << 20).bits(32),
        machine().cpus(8).memory(8 << 30).bits(36).devices(["disk0", "disk1", "net0", "rng0"]),
        machine().cpus(124).memory(63 << 30).bits(36),
        machine().cpus(512).memory(1 << 44).bits(52).devices((0..944).map(|n| format!("disk{n}"))),
    ]
}

#[test]
fn every_region_of_the_plan_is_in_the_tree_and_no_other() {
    for machine in machines() {
        let plan = machine.plan();
        let blob = tree_of(&plan);

        assert_eq!(told(&parse(&blob)), planned(&plan));
    }
}

#[test]
fn every_device_has_its_interrupt_and_its_compatible() {
    for machine in machines() {
        let plan = machine.plan();
        let blob = tree_of(&plan);
        let by_place: BTreeMap<u64, FdtNode> = nodes(&parse(&blob))
            .into_iter()
            .filter_map(|node| Some((ranges(&node).first()?.first(), node)))
            .collect();

        let told = plan.devices.iter().filter(|device| device.id != pci::BRIDGE);
        for device in told {
            let node = &by_place[&device.slot.windows[0].first()];
            let (pin, trigger) = device.slot.irq.unwrap();
            let flags = if trigger == Trigger::Edge { 1 } else { 4 };
            assert_eq!(cells(node, "interrupts"), Some(vec![0, pin.0, flags]), "{}", device.id);
            assert_eq!(strings(node, "compatible"), device.description.compatible, "{}", device.id);
        }
    }
}

#[test]
fn there_is_one_cpu_node_for_each_vcpu_with_the_affinity_kvm_gives_it() {
    for machine in machines() {
        let blob = tree_of(&machine.plan());
        let fdt = parse(&blob);
        let cpus: Vec<u32> = nodes(&fdt)
            .iter()
            .filter(|node| strings(node, "device_type") == ["cpu"])
            .flat_map(|node| cells(node, "reg").unwrap())
            .collect();

        assert_eq!(cpus, (0..machine.config.cpus).map(gic::affinity).collect::<Vec<_>>());
    }
}

#[test]
fn the_interrupt_controller_counts_its_redistributor_regions() {
    for machine in machines() {
        let plan = machine.plan();
        let blob = tree_of(&plan);
        let fdt = parse(&blob);
        let intc = nodes(&fdt).into_iter().find(|node| is(node, "arm,gic-v3")).unwrap();
        let gic = gic::Gic::from_plan(&plan).unwrap();

        let frames: Vec<AddressRange> =
            [gic.dist].into_iter().chain(gic.redists().iter().map(|region| region.range)).collect();
        assert_eq!(ranges(&intc), frames);
        let count = u32::try_from(gic.redists().len()).unwrap();
        assert_eq!(cells(&intc, "#redistributor-regions"), Some(vec![count]));
    }
}

#[test]
fn without_an_its_nothing_speaks_of_messages() {
    let blob = tree_of(&machine().without_its().device("disk0").plan());

    let text = parse(&blob).to_string();

    assert!(!text.contains("msi") && !text.contains("its"), "{text}");
}

#[test]
fn every_phandle_that_is_pointed_at_exists() {
    for machine in machines() {
        let blob = tree_of(&machine.plan());
        let fdt = parse(&blob);
        let all = nodes(&fdt);
        let here: Vec<u32> = all.iter().flat_map(|node| cells(node, "phandle").unwrap_or_default()).collect();

        for node in all.iter().chain([&fdt.root()]) {
            for name in ["interrupt-parent", "msi-parent", "clocks"] {
                for target in cells(node, name).unwrap_or_default() {
                    assert!(here.contains(&target), "{} of {} points at {target}", name, node.name());
                }
            }
        }
    }
}

#[test]
fn clocks_have_a_name_each() {
    let blob = tree_of(&machine().plan());
    let fdt = parse(&blob);
    let uart = nodes(&fdt).into_iter().find(|node| is(node, "arm,pl011")).unwrap();

    assert_eq!(strings(&uart, "clock-names"), ["uartclk", "apb_pclk"]);
    assert_eq!(cells(&uart, "clocks").map(|clocks| clocks.len()), Some(2));
}

#[test]
fn devices_are_in_the_order_of_their_addresses_so_the_first_disk_is_vda() {
    let blob = tree_of(&machine().devices(["disk0", "net0", "disk1"]).plan());
    let fdt = parse(&blob);
    let places: Vec<String> =
        nodes(&fdt).iter().filter(|node| is(node, "virtio,mmio")).map(|node| node.name().into()).collect();

    assert_eq!(places, ["virtio_mmio@2000000", "virtio_mmio@2001000", "virtio_mmio@2002000"]);
}

#[test]
fn the_largest_machine_has_a_tree_that_linux_reads() {
    let ids = (0..944).map(|n| format!("disk{n}"));
    let blob = tree_of(&machine().cpus(512).memory(1 << 44).bits(52).devices(ids).plan());

    assert!(blob.len() <= ambit_aarch64::fdt::MAX_SIZE, "{} bytes", blob.len());
}

#[test]
fn the_seed_is_split_between_placement_and_entropy_and_shared_by_neither() {
    let mut seed = [0; 64];
    seed.iter_mut().zip(1..).for_each(|(byte, value)| *byte = value);
    let chosen = Chosen { seed: Some(seed), ..Chosen::default() };
    let blob = blob(&machine().plan(), &chosen);
    let node = parse(&blob).root().child("chosen").unwrap();

    assert_eq!(node.property("kaslr-seed").unwrap().value(), &seed[..8]);
    assert_eq!(node.property("rng-seed").unwrap().value(), &seed[8..]);
}

#[test]
fn without_a_seed_the_tree_has_none_and_is_the_same_every_time() {
    let plan = machine().plan();

    let text = parse(&tree_of(&plan)).to_string();

    assert!(!text.contains("seed"), "{text}");
    assert_eq!(tree_of(&plan), tree_of(&plan));
}

#[test]
fn a_device_that_the_guest_is_not_told_of_has_no_node() {
    let mut machine = machine().device("secret");
    Arc::make_mut(&mut machine.config.devices[0].description).node.clear();
    let blob = tree_of(&machine.plan());

    assert!(!nodes(&parse(&blob)).iter().any(|node| is(node, "virtio,mmio")));
}

/// After a change that is meant: `UPDATE_GOLDEN=1 cargo test -p ambit-aarch64`, and read the difference.
#[test]
fn the_tree_of_two_cpus_a_disk_and_a_nic_is_the_golden_one() {
    let plan = machine().cpus(2).memory(1 << 30).devices(["disk0", "net0"]).plan();
    let chosen = Chosen {
        cmdline: "console=ttyAMA0 root=/dev/vda",
        initrd: Some(AddressRange::fixed(0x4200_0000, 0x12_3456)),
        seed: None,
    };
    let blob = blob(&plan, &chosen);
    let text = parse(&blob).to_string();

    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/native-2cpu-disk-net.dts");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(golden).unwrap());
}
