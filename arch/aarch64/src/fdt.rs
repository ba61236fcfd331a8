//! A plan as a device tree: what the guest is told is what was planned, and nothing else.
//!
//! Devices come in the order of their addresses. Linux makes platform devices in the tree's order
//! (`drivers/of/fdt.c`, `reverse_nodes`), and numbers disks and interfaces in the order they are probed:
//! so the first disk of a configuration is vda.

use ambit_bus::{Property, Trigger};
use ambit_device_manager::{Placed, Plan, RegionKind, pci};
use ambit_resources::{AddressRange, IrqPin};

use crate::gic::{self, CpuSide, Gic, GicError, Intid, REDIST_SIZE};
use crate::tree::{Node, Value};

/// Linux maps no more than this for the tree (`Documentation/arch/arm64/booting.rst`).
pub const MAX_SIZE: usize = 2 << 20;

/// What the tree says besides the plan.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chosen<'a> {
    pub cmdline: &'a str,
    /// Where the initrd is; its last byte is the range's last.
    pub initrd: Option<AddressRange>,
    /// Random bytes: 8 to place the kernel by, 56 for its random number generator. Without them the
    /// kernel is not moved and has to find entropy of its own.
    pub seed: Option<[u8; 64]>,
}

/// Why there is no tree for a plan. Those of this crate's boards always have one, unless a board's own edits
/// cannot be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    #[error(transparent)]
    Gic(#[from] GicError),
    #[error("{id} has interrupt pin {pin}, and KVM's GIC has pins 0 to {}", gic::SPIS - 1)]
    Pin { id: String, pin: IrqPin },
    #[error("it has {0} bytes and Linux reads at most {MAX_SIZE}; give the guest fewer devices")]
    TooLarge(usize),
    #[error("the board takes {0} away, and there is no such thing")]
    Edit(String),
    #[error(transparent)]
    Writer(#[from] vm_fdt::Error),
}

// What other nodes point at.
const CLOCK: u32 = 1;
pub(crate) const INTC: u32 = 2;
const MSI: u32 = 3;

const CONSOLE: &str = "arm,pl011";

/// `tree` as it is in guest memory.
///
/// # Errors
/// [`TreeError`] for more than Linux reads, and for text that a tree cannot have.
pub fn flat(tree: &Node) -> Result<Vec<u8>, TreeError> {
    let flat = tree.flat()?;
    if flat.len() > MAX_SIZE { Err(TreeError::TooLarge(flat.len())) } else { Ok(flat) }
}

/// What the guest is told. The same arguments give the same tree.
///
/// # Errors
/// [`TreeError`] if the plan is not one of a machine with a GIC.
pub fn device_tree(plan: &Plan, chosen: &Chosen) -> Result<Node, TreeError> {
    let gic = Gic::from_plan(plan)?;
    let mut devices: Vec<&Placed> = plan.devices.iter().filter(|device| is_told(device)).collect();
    devices.sort_by_key(|device| device.slot.windows.first().map(|window| window.first()));

    let compatible = vec![format!("ambit,{}", plan.board), "linux,dummy-virt".into()];
    let mut root = Node::new("")
        .with("compatible", Value::Strings(compatible))
        .with("model", plan.board.as_str())
        .with("#address-cells", 2)
        .with("#size-cells", 2)
        .with("interrupt-parent", INTC)
        .child(chosen_node(chosen, &devices));
    root.children.extend(plan.ram().map(memory));
    root = root
        .child(cpus(plan.cpus))
        .child(psci())
        .child(timer(&gic, plan.cpus))
        .child(clock())
        .child(intc(&gic));
    root.children.extend(pcie(plan, &gic)?);
    for device in devices {
        root.children.push(device_node(device)?);
    }
    Ok(root)
}

/// A PCI function is found by the guest itself.
fn is_told(device: &Placed) -> bool {
    !device.description.node.is_empty() && !device.slot.windows.is_empty() && device.function.is_none()
}

fn node_name(device: &Placed) -> String {
    let first = device.slot.windows.first().map_or(0, |window| window.first());
    format!("{}@{first:x}", device.description.node)
}

fn reg(windows: impl IntoIterator<Item = AddressRange>) -> Value {
    Value::Cells64(windows.into_iter().flat_map(|window| [window.first(), window.size()]).collect())
}

fn chosen_node(chosen: &Chosen, devices: &[&Placed]) -> Node {
    let mut node = Node::new("chosen").with("bootargs", chosen.cmdline);
    let console = devices.iter().find(|device| device.description.compatible.iter().any(|it| it == CONSOLE));
    if let Some(console) = console {
        node = node.with("stdout-path", format!("/{}", node_name(console)).as_str());
    }
    if let Some(initrd) = chosen.initrd {
        node = node
            .with("linux,initrd-start", Value::Cells64(vec![initrd.first()]))
            // The first byte that is no longer the initrd's.
            .with("linux,initrd-end", Value::Cells64(vec![initrd.first() + initrd.size()]));
    }
    if let Some((place, random)) = chosen.seed.as_ref().and_then(|seed| seed.split_first_chunk::<8>()) {
        node = node
            .with("kaslr-seed", Value::Bytes(place.to_vec()))
            .with("rng-seed", Value::Bytes(random.to_vec()));
    }
    node
}

fn memory(ram: AddressRange) -> Node {
    Node::new(format!("memory@{:x}", ram.first())).with("device_type", "memory").with("reg", reg([ram]))
}

fn cpus(count: u32) -> Node {
    // One cell is the affinity bits 23:0 (bindings/arm/cpus.yaml), and KVM's vCPUs have no others.
    let mut node = Node::new("cpus").with("#address-cells", 1).with("#size-cells", 0);
    for vcpu in 0..count {
        let affinity = gic::affinity(vcpu);
        let cpu = Node::new(format!("cpu@{affinity:x}"))
            .with("device_type", "cpu")
            .with("compatible", "arm,armv8")
            .with("enable-method", "psci")
            .with("reg", affinity);
        node.children.push(cpu);
    }
    node
}

fn psci() -> Node {
    Node::new("psci")
        .with("compatible", Value::Strings(vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()]))
        .with("method", "hvc")
}

fn timer(gic: &Gic, cpus: u32) -> Node {
    // A GICv2's private interrupts say which CPUs have them (bindings/interrupt-controller/arm,gic.yaml).
    let mask = match gic.cpus {
        CpuSide::Interface(_) => ((1 << cpus.min(gic::V2_MAX_CPUS)) - 1) << 8,
        CpuSide::Redists { .. } => 0,
    };
    let cells = gic::TIMERS.map(|timer| {
        let [kind, number, flags] = timer.cells(Trigger::Level);
        [kind, number, flags | mask]
    });
    Node::new("timer")
        .with("compatible", "arm,armv8-timer")
        .with("interrupts", Value::Cells(cells.as_flattened().to_vec()))
        .flag("always-on")
}

fn clock() -> Node {
    Node::new("apb-pclk")
        .with("compatible", "fixed-clock")
        .with("#clock-cells", 0)
        .with("clock-frequency", 24_000_000)
        .with("clock-output-names", "clk24mhz")
        .with("phandle", CLOCK)
}

fn intc(gic: &Gic) -> Node {
    let node = Node::new(format!("interrupt-controller@{:x}", gic.dist.first()));
    let compatible = match gic.cpus {
        CpuSide::Redists { .. } => "arm,gic-v3",
        CpuSide::Interface(_) => "arm,cortex-a15-gic",
    };
    let node = node.with("compatible", compatible).flag("interrupt-controller").with("#interrupt-cells", 3);
    let node = match &gic.cpus {
        CpuSide::Redists { regions, .. } => {
            let count = u32::try_from(regions.len()).unwrap_or(u32::MAX);
            let node = node.with("#redistributor-regions", count);
            let stride = regions.first().map_or(REDIST_SIZE, |region| region.stride());
            let node = match stride {
                REDIST_SIZE => node,
                other => node.with("redistributor-stride", Value::Cells64(vec![other])),
            };
            node.with("reg", reg([gic.dist].into_iter().chain(regions.iter().map(|region| region.room))))
        }
        CpuSide::Interface(interface) => node.with("reg", reg([gic.dist, *interface])),
    };
    // A child's interrupts pass through here with an address of two cells (PCI's map below).
    let mut node = node.with("phandle", INTC).with("#address-cells", 2).with("#size-cells", 2).flag("ranges");
    node.children.extend(gic.its().map(|its| {
        Node::new(format!("msi-controller@{:x}", its.first()))
            .with("compatible", "arm,gic-v3-its")
            .flag("msi-controller")
            .with("#msi-cells", 1)
            .with("reg", reg([its]))
            .with("phandle", MSI)
    }));
    node
}

/// PCI's host bridge (bindings/pci/host-generic-pci.yaml). `None` if the machine has none.
fn pcie(plan: &Plan, gic: &Gic) -> Result<Option<Node>, TreeError> {
    let Some(ecam) = plan.part(RegionKind::Pci, pci::ECAM) else { return Ok(None) };
    let last_bus = u32::try_from((ecam.size() / pci::BUS_SIZE).saturating_sub(1)).unwrap_or(u32::MAX);
    let mut node = Node::new(format!("pcie@{:x}", ecam.first()))
        .with("compatible", "pci-host-ecam-generic")
        .with("device_type", "pci")
        .with("linux,pci-domain", 0)
        .with("bus-range", Value::Cells(vec![0, last_bus]))
        .with("#address-cells", 3)
        .with("#size-cells", 2)
        .flag("dma-coherent")
        .with("reg", reg([ecam]))
        .with("ranges", Value::Cells(pci_ranges(plan)));
    if gic.its().is_some() {
        // Requester IDs are the ITS's DeviceIDs, all 16 bits of them (bindings/pci/pci-msi.txt).
        node = node.with("msi-map", Value::Cells(vec![0, MSI, 0, 0x1_0000]));
    }
    if !plan.intx.is_empty() {
        // Bits 12:11 are the low bits of the device number; the last cell is INTA to INTD.
        node = node
            .with("#interrupt-cells", 1)
            .with("interrupt-map", Value::Cells(interrupt_map(&plan.intx)?))
            .with("interrupt-map-mask", Value::Cells(vec![0x1800, 0, 0, 7]));
    }
    Ok(Some(node))
}

/// Space, address on the bus in two cells, address of the CPU in two, size in two (IEEE 1275 PCI binding, 2.2.1).
fn pci_ranges(plan: &Plan) -> Vec<u32> {
    const PORTS: u32 = 0x0100_0000;
    const MEMORY32: u32 = 0x0200_0000;
    const MEMORY64: u32 = 0x0300_0000;
    let windows = [(pci::IO, PORTS), (pci::MMIO32, MEMORY32), (pci::MMIO64, MEMORY64)];
    let placed =
        windows.into_iter().flat_map(|(name, space)| plan.window(name).map(move |window| (window, space)));
    let cells = placed.flat_map(|(window, space)| {
        // Ports are counted from 0; memory has the same address on both sides.
        let bus = if space == PORTS { 0 } else { window.first() };
        let wide = [bus, window.first(), window.size()].map(halves);
        [space].into_iter().chain(wide.into_iter().flatten())
    });
    cells.collect()
}

#[allow(clippy::cast_possible_truncation)]
fn halves(wide: u64) -> [u32; 2] {
    [(wide >> 32) as u32, wide as u32]
}

/// The root bus's swizzle: device and wire together choose the pin.
fn interrupt_map(intx: &[IrqPin]) -> Result<Vec<u32>, TreeError> {
    let mut cells = Vec::new();
    for device in 0..4 {
        // From the device's own wire on, around.
        let turned = intx.iter().cycle().skip(device as usize).take(intx.len());
        for (wire, pin) in (1..).zip(turned.copied()) {
            let intid = Intid::of_pin(pin).ok_or_else(|| TreeError::Pin { id: pci::ECAM.into(), pin })?;
            let [kind, number, flags] = intid.cells(Trigger::Level);
            cells.extend([device << 11, 0, 0, wire, INTC, 0, 0, kind, number, flags]);
        }
    }
    Ok(cells)
}

fn device_node(device: &Placed) -> Result<Node, TreeError> {
    let mut node = Node::new(node_name(device))
        .with("compatible", Value::Strings(device.description.compatible.clone()))
        .with("reg", reg(device.slot.windows.iter().copied()));
    if let Some((pin, trigger)) = device.slot.irq {
        let intid = Intid::of_pin(pin).ok_or_else(|| TreeError::Pin { id: device.id.clone(), pin })?;
        node = node.with("interrupts", Value::Cells(intid.cells(trigger).to_vec()));
    }
    for (name, value) in &device.description.properties {
        node = match value {
            Property::Flag => node.flag(name),
            Property::Cells(cells) => node.with(name, Value::Cells(cells.clone())),
            Property::Strings(strings) => node.with(name, Value::Strings(strings.clone())),
            Property::Clocks(names) => node
                .with("clocks", Value::Cells(vec![CLOCK; names.len()]))
                .with("clock-names", Value::Strings(names.clone())),
        };
    }
    Ok(node)
}
