//! What a device tree says of addresses, read back by another crate.

use ambit_aarch64::fdt::{Chosen, device_tree, flat};
use ambit_device_manager::{Plan, RegionKind, pci};
use ambit_resources::AddressRange;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

use super::kept;

/// What a range is, to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Told {
    Ram,
    Gic,
    Ecam,
    /// By the space's number: 1 ports, 2 memory of 32 bits, 3 of 64.
    Window(u32),
    Device,
}

fn value(node: &FdtNode, name: &str) -> Vec<u8> {
    node.property(name).map(|property| property.value().to_vec()).unwrap_or_default()
}

fn strings(node: &FdtNode, name: &str) -> Vec<String> {
    let text = String::from_utf8(value(node, name)).unwrap();
    text.split_terminator('\0').map(String::from).collect()
}

fn wide(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect()
}

fn reg(node: &FdtNode) -> Vec<AddressRange> {
    let numbers = wide(&value(node, "reg"));
    numbers.as_chunks::<2>().0.iter().map(|[first, size]| AddressRange::fixed(*first, *size)).collect()
}

/// The windows of a host bridge, which are where they are on the bus; ports are counted from 0.
fn windows(node: &FdtNode) -> Vec<(Told, AddressRange)> {
    let bytes = value(node, "ranges");
    let rows = bytes.as_chunks::<28>().0.iter();
    rows.map(|row| {
        let space = u32::from_be_bytes(*row.first_chunk().unwrap()) >> 24 & 3;
        let [bus, cpu, size] = wide(&row[4..])[..] else { panic!("three numbers of two cells") };
        assert_eq!(bus, if space == 1 { 0 } else { cpu });
        (Told::Window(space), AddressRange::fixed(cpu, size))
    })
    .collect()
}

fn walk(node: &FdtNode, told: &mut Vec<(Told, AddressRange)>) {
    for child in node.children() {
        let what = match child.name().split('@').next().unwrap() {
            "cpus" => continue,
            "memory" => Told::Ram,
            "interrupt-controller" | "msi-controller" => Told::Gic,
            "pcie" => {
                told.extend(windows(&child));
                Told::Ecam
            }
            _ => Told::Device,
        };
        if what == Told::Ram {
            assert_eq!(strings(&child, "device_type"), ["memory"]);
        }
        told.extend(reg(&child).into_iter().map(|range| (what, range)));
        walk(&child, told);
    }
}

/// Every range the guest is told of.
pub fn told(plan: &Plan) -> Vec<(Told, AddressRange)> {
    let tree = device_tree(plan, &Chosen::default()).unwrap_or_else(|error| panic!("{error}"));
    let blob = flat(&tree).unwrap();
    let fdt = Fdt::new(&blob).unwrap();
    let mut told = Vec::new();
    walk(&fdt.root(), &mut told);
    told.sort_by_key(|(what, range)| (range.first(), *what));
    told
}

/// Every range the guest should be told of.
pub fn to_tell(plan: &Plan) -> Vec<(Told, AddressRange)> {
    let mut all = Vec::new();
    for region in &plan.regions {
        let what = match region.kind {
            RegionKind::Ram => Told::Ram,
            RegionKind::InterruptController => Told::Gic,
            RegionKind::Pci => match region.name.as_str() {
                pci::ECAM => Told::Ecam,
                pci::IO => Told::Window(1),
                pci::MMIO32 => Told::Window(2),
                pci::MMIO64 => Told::Window(3),
                other => panic!("{other}"),
            },
            RegionKind::RamHotplug | RegionKind::Reserved | RegionKind::Device => continue,
        };
        all.extend(kept(region).map(|range| (what, range)));
    }
    let own = plan.devices.iter().filter(|device| device.function.is_none());
    let told = own.filter(|device| !device.description.node.is_empty());
    all.extend(told.flat_map(|device| device.slot.windows.iter().map(|window| (Told::Device, *window))));
    all.sort_by_key(|(what, range)| (range.first(), *what));
    all
}
