//! A plan as a device tree: what the guest is told is what was planned, and nothing else.
//!
//! Devices come in the order of their addresses. Linux makes platform devices in the tree's order
//! (`drivers/of/fdt.c`, `reverse_nodes`), and numbers disks and interfaces in the order they are probed:
//! so the first disk of a configuration is vda.

use ambit_bus::{Property, Trigger};
use ambit_device_manager::{Placed, Plan};
use ambit_resources::{AddressRange, IrqPin};
use vm_fdt::FdtWriter;

use crate::gic::{self, Gic, GicError, Intid};

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

/// Why there is no tree for a plan. [`crate::Native`]'s plans always have one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    #[error(transparent)]
    Gic(#[from] GicError),
    #[error("{id} has interrupt pin {pin}, and KVM's GICv3 has pins 0 to {}", gic::SPIS - 1)]
    Pin { id: String, pin: IrqPin },
    #[error("it has {0} bytes and Linux reads at most {MAX_SIZE}; give the guest fewer devices")]
    TooLarge(usize),
    #[error(transparent)]
    Writer(#[from] vm_fdt::Error),
}

// What other nodes point at.
const CLOCK: u32 = 1;
const INTC: u32 = 2;
const MSI: u32 = 3;

const CONSOLE: &str = "arm,pl011";

/// Writes the tree. The same arguments give the same bytes.
///
/// # Errors
/// [`TreeError`] if the plan is not one of a machine with a GICv3, or a device's description has a
/// character that a tree cannot have.
pub fn device_tree(plan: &Plan, chosen: &Chosen) -> Result<Vec<u8>, TreeError> {
    let gic = Gic::from_plan(plan)?;
    let mut devices: Vec<&Placed> = plan.devices.iter().filter(|device| is_told(device)).collect();
    devices.sort_by_key(|device| device.slot.windows.first().map(|window| window.first()));

    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    let compatible = vec![format!("ambit,{}", plan.board), "linux,dummy-virt".into()];
    fdt.property_string_list("compatible", compatible)?;
    fdt.property_string("model", &plan.board)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", INTC)?;
    write_chosen(&mut fdt, chosen, &devices)?;
    for ram in plan.ram() {
        write_memory(&mut fdt, ram)?;
    }
    write_cpus(&mut fdt, plan.cpus)?;
    write_psci(&mut fdt)?;
    write_timer(&mut fdt)?;
    write_clock(&mut fdt)?;
    write_intc(&mut fdt, &gic)?;
    for device in devices {
        write_device(&mut fdt, device)?;
    }
    fdt.end_node(root)?;
    let tree = fdt.finish()?;
    if tree.len() > MAX_SIZE { Err(TreeError::TooLarge(tree.len())) } else { Ok(tree) }
}

fn is_told(device: &Placed) -> bool {
    !device.description.node.is_empty() && !device.slot.windows.is_empty()
}

fn node_name(device: &Placed) -> String {
    let first = device.slot.windows.first().map_or(0, |window| window.first());
    format!("{}@{first:x}", device.description.node)
}

fn reg(windows: impl IntoIterator<Item = AddressRange>) -> Vec<u64> {
    windows.into_iter().flat_map(|window| [window.first(), window.size()]).collect()
}

fn write_chosen(fdt: &mut FdtWriter, chosen: &Chosen, devices: &[&Placed]) -> Result<(), TreeError> {
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", chosen.cmdline)?;
    let console = devices.iter().find(|device| device.description.compatible.iter().any(|it| it == CONSOLE));
    if let Some(console) = console {
        fdt.property_string("stdout-path", &format!("/{}", node_name(console)))?;
    }
    if let Some(initrd) = chosen.initrd {
        fdt.property_u64("linux,initrd-start", initrd.first())?;
        // The first byte that is no longer the initrd's.
        fdt.property_u64("linux,initrd-end", initrd.first() + initrd.size())?;
    }
    if let Some((place, random)) = chosen.seed.as_ref().and_then(|seed| seed.split_first_chunk::<8>()) {
        fdt.property("kaslr-seed", place)?;
        fdt.property("rng-seed", random)?;
    }
    Ok(fdt.end_node(node)?)
}

fn write_memory(fdt: &mut FdtWriter, ram: AddressRange) -> Result<(), TreeError> {
    let node = fdt.begin_node(&format!("memory@{:x}", ram.first()))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &reg([ram]))?;
    Ok(fdt.end_node(node)?)
}

fn write_cpus(fdt: &mut FdtWriter, cpus: u32) -> Result<(), TreeError> {
    let node = fdt.begin_node("cpus")?;
    // One cell is the affinity bits 23:0 (bindings/arm/cpus.yaml), and KVM's vCPUs have no others.
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for vcpu in 0..cpus {
        let affinity = gic::affinity(vcpu);
        let cpu = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u32("reg", affinity)?;
        fdt.end_node(cpu)?;
    }
    Ok(fdt.end_node(node)?)
}

fn write_psci(fdt: &mut FdtWriter) -> Result<(), TreeError> {
    let node = fdt.begin_node("psci")?;
    fdt.property_string_list("compatible", vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()])?;
    fdt.property_string("method", "hvc")?;
    Ok(fdt.end_node(node)?)
}

fn write_timer(fdt: &mut FdtWriter) -> Result<(), TreeError> {
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    fdt.property_array_u32(
        "interrupts",
        gic::TIMERS.map(|timer| timer.cells(Trigger::Level)).as_flattened(),
    )?;
    fdt.property_null("always-on")?;
    Ok(fdt.end_node(node)?)
}

fn write_clock(fdt: &mut FdtWriter) -> Result<(), TreeError> {
    let node = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", 24_000_000)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.property_phandle(CLOCK)?;
    Ok(fdt.end_node(node)?)
}

fn write_intc(fdt: &mut FdtWriter, gic: &Gic) -> Result<(), TreeError> {
    let regions = gic.redists.iter().map(|region| region.range);
    let node = fdt.begin_node(&format!("interrupt-controller@{:x}", gic.dist.first()))?;
    fdt.property_string("compatible", "arm,gic-v3")?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_u32("#redistributor-regions", u32::try_from(gic.redists.len()).unwrap_or(u32::MAX))?;
    fdt.property_array_u64("reg", &reg([gic.dist].into_iter().chain(regions)))?;
    fdt.property_phandle(INTC)?;
    if let Some(its) = gic.its {
        fdt.property_u32("#address-cells", 2)?;
        fdt.property_u32("#size-cells", 2)?;
        fdt.property_null("ranges")?;
        let child = fdt.begin_node(&format!("msi-controller@{:x}", its.first()))?;
        fdt.property_string("compatible", "arm,gic-v3-its")?;
        fdt.property_null("msi-controller")?;
        fdt.property_u32("#msi-cells", 1)?;
        fdt.property_array_u64("reg", &reg([its]))?;
        fdt.property_phandle(MSI)?;
        fdt.end_node(child)?;
    }
    Ok(fdt.end_node(node)?)
}

fn write_device(fdt: &mut FdtWriter, device: &Placed) -> Result<(), TreeError> {
    let node = fdt.begin_node(&node_name(device))?;
    fdt.property_string_list("compatible", device.description.compatible.clone())?;
    fdt.property_array_u64("reg", &reg(device.slot.windows.iter().copied()))?;
    if let Some((pin, trigger)) = device.slot.irq {
        let intid = Intid::of_pin(pin).ok_or_else(|| TreeError::Pin { id: device.id.clone(), pin })?;
        fdt.property_array_u32("interrupts", &intid.cells(trigger))?;
    }
    for (name, value) in &device.description.properties {
        match value {
            Property::Flag => fdt.property_null(name)?,
            Property::Cells(cells) => fdt.property_array_u32(name, cells)?,
            Property::Strings(strings) => fdt.property_string_list(name, strings.clone())?,
            Property::Clocks(names) => {
                fdt.property_array_u32("clocks", &vec![CLOCK; names.len()])?;
                fdt.property_string_list("clock-names", names.clone())?;
            }
        }
    }
    Ok(fdt.end_node(node)?)
}
