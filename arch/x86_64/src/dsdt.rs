//! Devices as the guest's system is told them: ACPI's DSDT (ACPI 6.5, 5.2.11.1).
//!
//! The PCI host bridge with its windows and pins, the devices of virtio-mmio, the UART, what nobody may use, and that
//! the machine can be switched off.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package,
    PackageBuilder, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};
use ambit_device_manager::{Placed, Plan, RegionKind, pci};
use ambit_platform::endings::S5;
use ambit_platform::serial;
use ambit_resources::AddressRange;

use crate::boot::virtio_mmio;
use crate::e820::is_kept;
use crate::intx::{self, Route};

/// Of a table's header.
const HEADER: u32 = 36;

pub fn table(plan: &Plan, oem: &[u8; 6], board: &[u8; 8]) -> Vec<u8> {
    let mut aml = Vec::new();
    system_bus(plan).to_aml_bytes(&mut aml);
    // Only one register takes the type of sleep.
    Name::new("_S5_".into(), &Package::new(vec![&S5, &0_u8, &0_u8, &0_u8])).to_aml_bytes(&mut aml);
    // Revision 2: integers have 64 bits.
    let mut table = Sdt::new(*b"DSDT", HEADER, 2, *oem, *board, 1);
    table.append_slice(&aml);
    table.as_slice().to_vec()
}

fn system_bus(plan: &Plan) -> Encoded {
    let mut devices: Vec<Encoded> = Vec::new();
    let uarts = plan.devices.iter().filter(|device| device.kind == serial::KIND);
    devices.extend((0_u8..).zip(uarts).filter_map(|(number, uart)| self::uart(number, uart)));
    devices.extend((0_u8..).zip(virtio_mmio(plan)).map(|(number, (window, pin))| {
        let window = Memory32Fixed::new(true, low(window.first()), low(window.size()));
        let pin = Interrupt::new(true, true, false, false, pin.0);
        let hid = Name::new("_HID".into(), &"LNRO0005");
        device(&format!("V{number:03X}"), number, &[&hid], &[&window, &pin])
    }));
    devices.extend(plan.part(RegionKind::Pci, pci::ECAM).map(|_| host_bridge(plan)));
    let kept = plan.regions.iter().filter(|region| is_kept(region.kind, &region.name));
    let kept: Vec<Kept> = kept.filter_map(|region| region.range.map(Kept)).collect();
    if !kept.is_empty() {
        let hid = Name::new("_HID".into(), &EISAName::new("PNP0C02"));
        let kept: Vec<&dyn Aml> = kept.iter().map(|kept| kept as &dyn Aml).collect();
        devices.push(device("KEPT", 0, &[&hid], &kept));
    }
    let devices = devices.iter().map(|device| device as &dyn Aml).collect();
    Encoded::of(&Scope::new("\\_SB_".into(), devices))
}

/// One device, by its name of four letters.
fn device(name: &str, number: u8, says: &[&dyn Aml], resources: &[&dyn Aml]) -> Encoded {
    let uid = Name::new("_UID".into(), &number);
    let resources = Name::new("_CRS".into(), &ResourceTemplate::new(resources.to_vec()));
    let mut children = says.to_vec();
    children.extend([&uid as &dyn Aml, &resources]);
    Encoded::of(&Device::new(name.into(), children))
}

/// `None` for one that has no ports or no pin.
fn uart(number: u8, uart: &Placed) -> Option<Encoded> {
    let ports = uart.slot.windows.first()?;
    let (pin, _) = uart.slot.irq.as_ref()?;
    let first = u16::try_from(ports.first()).ok()?;
    let ports = IO::new(first, first, 1, u8::try_from(ports.size()).ok()?);
    let pin = Interrupt::new(true, true, false, false, pin.0);
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0501"));
    Some(device(&format!("UAR{number:X}"), number, &[&hid], &[&ports, &pin]))
}

/// PCI Firmware 3.3, 4.1 and 4.3; ACPI 6.5, 6.2.13.
fn host_bridge(plan: &Plan) -> Encoded {
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0A08"));
    let compatible = Name::new("_CID".into(), &EISAName::new("PNP0A03"));
    let segment = Name::new("_SEG".into(), &0_u8);
    let first_bus = Name::new("_BBN".into(), &0_u8);
    let pins = Name::new("_PRT".into(), &routes(plan));
    let buses = plan.part(RegionKind::Pci, pci::ECAM).map_or(1, |ecam| ecam.size() / pci::BUS_SIZE);
    let buses =
        AddressSpace::new_bus_number(0_u16, u16::try_from(buses.saturating_sub(1)).unwrap_or(u16::MAX));
    let mut resources = vec![Encoded::of(&buses)];
    resources.extend(config_ports(plan));
    resources.extend(ports(plan));
    let windows = [pci::MMIO32, pci::MMIO64].into_iter().flat_map(|name| plan.window(name));
    resources.extend(windows.map(|window| Encoded::of(&memory(window))));
    let resources: Vec<&dyn Aml> = resources.iter().map(|resource| resource as &dyn Aml).collect();
    device("PCI0", 0, &[&hid, &compatible, &segment, &first_bus, &pins], &resources)
}

/// The bridge's own, which lead to configuration space.
fn config_ports(plan: &Plan) -> Option<Encoded> {
    let ports = plan.ports.iter().find(|claim| claim.owner == pci::CONFIG)?.range;
    let first = u16::try_from(ports.first()).ok()?;
    Some(Encoded::of(&IO::new(first, first, 1, u8::try_from(ports.size()).ok()?)))
}

fn ports(plan: &Plan) -> Option<Encoded> {
    let ports = plan.ports.iter().find(|claim| claim.owner == pci::IO)?.range;
    let [first, last] = [ports.first(), ports.last()].map(u16::try_from);
    Some(Encoded::of(&AddressSpace::new_io(first.ok()?, last.ok()?, None)))
}

fn routes(plan: &Plan) -> Encoded {
    let mut routes = PackageBuilder::new();
    for Route { device, wire, pin } in intx::routes(plan) {
        // Whatever function of the device; a GSI and no link.
        let address = u32::from(device) << 16 | 0xffff;
        routes.add_element(&Package::new(vec![&address, &wire, &0_u8, &pin.0]));
    }
    Encoded::of(&routes)
}

fn memory(range: AddressRange) -> AddressSpace<u64> {
    // BARs of both kinds fit into what is not said to be prefetchable.
    AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, range.first(), range.last(), None)
}

fn low(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A range that is used up here and not handed on.
struct Kept(AddressRange);

impl Aml for Kept {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let mut bytes = Encoded::of(&memory(self.0)).0;
        // General flags, ACPI 6.5, table 6.49: a consumer. The library knows only producers.
        if let Some(flags) = bytes.get_mut(4) {
            *flags |= 1;
        }
        sink.vec(&bytes);
    }
}

/// A term as its bytes, which outlive what it was made of.
struct Encoded(Vec<u8>);

impl Encoded {
    fn of(term: &dyn Aml) -> Self {
        let mut bytes = Vec::new();
        term.to_aml_bytes(&mut bytes);
        Self(bytes)
    }
}

impl Aml for Encoded {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}
