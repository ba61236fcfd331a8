//! What a device tree tells a guest of addresses and interrupts, in lines that two trees can be compared by.

use std::collections::{BTreeMap, BTreeSet};

use ambit_resources::AddressRange;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

/// The parts of a machine that both have, by `compatible` or `device_type`, and what is an address or an
/// interrupt of each. `redistributor-stride` is not among them: QEMU says nothing of it, as a guest finds the
/// same number in GICR_TYPER.VLPIS.
const PARTS: [(&str, &[&str]); 10] = [
    ("memory", &["reg"]),
    ("cpu", &["reg"]),
    ("arm,armv8-timer", &["interrupts"]),
    // A child's interrupt is as many cells as the controller says.
    ("arm,gic-v3", &["reg", "#redistributor-regions", "#interrupt-cells", "#address-cells", "#size-cells"]),
    ("arm,cortex-a15-gic", &["reg", "#interrupt-cells", "#address-cells", "#size-cells"]),
    ("arm,gic-v3-its", &["reg", "#msi-cells"]),
    (
        "pci-host-ecam-generic",
        &["reg", "bus-range", "ranges", "interrupt-map", "interrupt-map-mask", "msi-map", "linux,pci-domain"],
    ),
    ("arm,pl011", &["reg", "interrupts"]),
    ("arm,pl031", &["reg", "interrupts"]),
    ("virtio,mmio", &["reg", "interrupts"]),
];

/// The tree of a machine.
pub struct Told<'a> {
    all: Vec<FdtNode<'a>>,
}

impl<'a> Told<'a> {
    pub fn read(blob: &'a [u8]) -> Self {
        let mut all = Vec::new();
        walk(Fdt::new(blob).unwrap().root(), &mut all);
        Self { all }
    }

    /// A line for each thing said of a part: "arm,pl011 reg 0 9000000 0 1000". Nodes and properties may come in
    /// any order and under any name.
    pub fn lines(&self) -> BTreeSet<String> {
        let mut lines = BTreeSet::new();
        for node in &self.all {
            let Some((part, properties)) = part(node) else { continue };
            let own = properties.iter().filter_map(|name| Some((*name, cells(node, name)?)));
            let said: Vec<String> =
                own.map(|(name, cells)| format!("{name} {}", self.named(name, &cells).join(" "))).collect();
            // What a device has belongs together; a machine has one of all else, and lines of its own read better.
            let many = matches!(part, "cpu" | "virtio,mmio");
            let new = if many { vec![said.join(" ")] } else { said };
            for line in new.iter().map(|line| format!("{part} {line}")) {
                assert!(lines.insert(line.clone()), "a tree says twice: {line}");
            }
        }
        lines
    }

    /// Cells in hexadecimal. Those that point at a node are its name in [`PARTS`] instead: the numbers are each
    /// writer's own.
    fn named(&self, property: &str, cells: &[u32]) -> Vec<String> {
        // An entry's length, and which cell of it points: PCI's address and wire come first, then the parent.
        let (length, pointer) = match property {
            "interrupt-map" => (10, 4),
            "msi-map" => (4, 1),
            _ => (1, usize::MAX),
        };
        let name = |(at, cell): (usize, &u32)| match at % length == pointer {
            true => self.pointed_at(*cell),
            false => format!("{cell:x}"),
        };
        cells.iter().enumerate().map(name).collect()
    }

    fn pointed_at(&self, phandle: u32) -> String {
        let target = self.all.iter().find(|node| cells(node, "phandle") == Some(vec![phandle]));
        let target = target.unwrap_or_else(|| panic!("nothing is phandle {phandle:#x}"));
        strings(target, "compatible").swap_remove(0)
    }

    /// Where what is none of [`PARTS`] is, with its name in the tree.
    pub fn others(&self) -> BTreeMap<String, Vec<AddressRange>> {
        let mut others = BTreeMap::new();
        for node in self.all.iter().filter(|node| part(node).is_none()) {
            let wide = cells(node, "reg").unwrap_or_default().as_chunks::<4>().0.iter().map(range).collect();
            // The one bus that is not PCI: an address on it in one cell, the CPU's in two, the size in one.
            let bus = cells(node, "ranges").unwrap_or_default();
            let bus =
                bus.as_chunks::<4>().0.iter().map(|[_, high, low, size]| range(&[*high, *low, 0, *size]));
            let all: Vec<AddressRange> = Vec::into_iter(wide).chain(bus).collect();
            if !all.is_empty() {
                others.insert(node.name().to_owned(), all);
            }
        }
        others
    }
}

fn walk<'a>(node: FdtNode<'a>, all: &mut Vec<FdtNode<'a>>) {
    for child in node.children() {
        all.push(child);
        walk(child, all);
    }
}

fn part(node: &FdtNode) -> Option<(&'static str, &'static [&'static str])> {
    let names = [strings(node, "compatible"), strings(node, "device_type")].concat();
    PARTS.into_iter().find(|(part, _)| names.iter().any(|name| name == part))
}

fn cells(node: &FdtNode, name: &str) -> Option<Vec<u32>> {
    let property = node.property(name)?;
    Some(property.value().as_chunks::<4>().0.iter().map(|cell| u32::from_be_bytes(*cell)).collect())
}

fn strings(node: &FdtNode, name: &str) -> Vec<String> {
    let Some(property) = node.property(name) else { return Vec::new() };
    let text = String::from_utf8_lossy(property.value()).into_owned();
    text.split_terminator('\0').map(String::from).collect()
}

/// Two cells of address, two of size.
fn range(cells: &[u32; 4]) -> AddressRange {
    let wide = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    AddressRange::fixed(wide(cells[0], cells[1]), wide(cells[2], cells[3]))
}
