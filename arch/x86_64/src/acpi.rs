//! What the guest's system finds the machine by: ACPI's tables, without anything of a legacy PC (ACPI 6.5, 5.2).
//!
//! They lie from [`ROOT`] on, where a PC's firmware is searched for the root pointer, in memory that the map does not
//! say to be RAM.

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use ambit_device_manager::{BootError, Plan, RegionKind, pci};
use ambit_resources::AddressRange;

use crate::{dsdt, pc};

/// Where the root pointer is.
pub const ROOT: u64 = 0xe_0000;
/// Up to the [reset vector](crate::boot::RESET_VECTOR).
const ROOM: usize = 0x1_fff0;
const ALIGN: usize = 64;

const OEM: [u8; 6] = *b"AMBIT ";
const BOARD: [u8; 8] = *b"PC      ";
const REVISION: u32 = 1;
/// Of a table's header.
const HEADER: u32 = 36;

/// What the keyboard controller's command port is told to reset (see [`ambit_platform::endings::Port::I8042`]).
const RESET: u8 = 0xfe;
const COMMAND_PORT: u64 = pc::I8042 + 4;

// Of the boot flags of x86 (table 5.11): nothing to look for that is not in a table.
const NO_VGA: u16 = 1 << 2;
const NO_ASPM: u16 = 1 << 4;
const NO_CMOS_CLOCK: u16 = 1 << 5;

/// The ID of the IOAPIC; what it has of them is its own.
pub(crate) const IOAPIC_ID: u8 = 0;
/// APIC IDs from this on do not fit into 8 bits, of which this one means all, and need the entries of x2APICs
/// (5.2.12.12).
pub const FIRST_WIDE_ID: u32 = 255;
const ENABLED: u32 = 1;

/// All tables, as they are in memory from [`ROOT`] on.
///
/// # Errors
/// [`BootError::Tree`] if the plan has more than there is room for.
pub fn tables(plan: &Plan) -> Result<Vec<u8>, BootError> {
    let mut image = Image { bytes: bytes(&Rsdp::new(OEM, 0)) };
    let dsdt = image.add(&dsdt::table(plan, &OEM, &BOARD));
    let mut listed =
        vec![image.add(&fadt(dsdt)), image.add(madt(plan).as_slice()), image.add(srat(plan).as_slice())];
    if let Some(ecam) = plan.part(RegionKind::Pci, pci::ECAM) {
        listed.push(image.add(&mcfg(ecam)));
    }
    let mut xsdt = XSDT::new(OEM, BOARD, REVISION);
    listed.iter().for_each(|table| xsdt.add_entry(*table));
    let xsdt = image.add(&bytes(&xsdt));
    let root = bytes(&Rsdp::new(OEM, xsdt));
    let (start, _) = image.bytes.split_at_mut(root.len());
    start.copy_from_slice(&root);
    let has = image.bytes.len();
    if has > ROOM {
        return Err(BootError::Tree(format!(
            "as ACPI tables, which take {has} bytes, and there are {ROOM} for them; use fewer vCPUs or devices"
        )));
    }
    Ok(image.bytes)
}

struct Image {
    bytes: Vec<u8>,
}

impl Image {
    /// Puts a table after all others and gives its address.
    fn add(&mut self, table: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
        let at = ROOT + self.bytes.len() as u64;
        self.bytes.extend(table);
        at
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// Fixed hardware: none but how to end (5.2.9, 4.8.3.7).
fn fadt(dsdt: u64) -> Vec<u8> {
    let port = |address| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, address);
    let mut fadt = FADTBuilder::new(OEM, BOARD, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        // Neither is there as fixed hardware.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = (NO_VGA | NO_ASPM | NO_CMOS_CLOCK).into();
    fadt.reset_reg = port(COMMAND_PORT);
    fadt.reset_value = RESET;
    fadt.sleep_control_reg = port(pc::SLEEP);
    fadt.sleep_status_reg = port(pc::SLEEP + 1);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"Ambit\0\0\0").into();
    bytes(&fadt.finalize())
}

/// Interrupt controllers (5.2.12): each vCPU's own, and the IOAPIC, whose pins are the GSIs.
fn madt(plan: &Plan) -> Sdt {
    let mut madt = Sdt::new(*b"APIC", HEADER, 6, OEM, BOARD, REVISION);
    madt.append_slice(&address(plan, "lapic"));
    // There are no 8259s to keep quiet.
    madt.append_slice(&0_u32.to_le_bytes());
    let mut entries: Vec<u8> = (0..plan.cpus).flat_map(local_apic).collect();
    entries.extend([&[1, 12, IOAPIC_ID, 0], address(plan, "ioapic").as_slice(), &[0; 4]].concat());
    // At once: each time, the checksum is made anew.
    madt.append_slice(&entries);
    madt
}

/// Where registers of the interrupt controller are, as tables say it.
pub(crate) fn address(plan: &Plan, name: &str) -> [u8; 4] {
    let first = plan.part(RegionKind::InterruptController, name).map_or(0, |range| range.first());
    u32::try_from(first).unwrap_or(0).to_le_bytes()
}

fn local_apic(id: u32) -> Vec<u8> {
    match u8::try_from(id).ok().filter(|_| id < FIRST_WIDE_ID) {
        Some(short) => [&[0, 8, short, short], ENABLED.to_le_bytes().as_slice()].concat(),
        None => {
            let [id, enabled] = [id, ENABLED].map(u32::to_le_bytes);
            [&[9, 16, 0, 0], id.as_slice(), &enabled, &id].concat()
        }
    }
}

/// What is near to what (5.2.16): all vCPUs and all RAM are one node.
fn srat(plan: &Plan) -> Sdt {
    let mut srat = Sdt::new(*b"SRAT", HEADER, 3, OEM, BOARD, REVISION);
    srat.append_slice(&1_u32.to_le_bytes());
    srat.append_slice(&0_u64.to_le_bytes());
    let entries = (0..plan.cpus).flat_map(processor_node).chain(plan.ram().flat_map(memory_node));
    srat.append_slice(&entries.collect::<Vec<u8>>());
    srat
}

fn processor_node(id: u32) -> Vec<u8> {
    match u8::try_from(id).ok().filter(|_| id < FIRST_WIDE_ID) {
        // Type, length, the node's low byte, the APIC ID; flags; the rest of the node and its clock.
        Some(short) => [&[0, 16, 0, short], ENABLED.to_le_bytes().as_slice(), &[0; 8]].concat(),
        None => {
            // Type, length, reserved; the node; the x2APIC ID; flags; clock, reserved.
            let [id, enabled] = [id, ENABLED].map(u32::to_le_bytes);
            [&[2, 24, 0, 0, 0, 0, 0, 0], id.as_slice(), &enabled, &[0; 8]].concat()
        }
    }
}

fn memory_node(ram: AddressRange) -> Vec<u8> {
    let [first, size] = [ram.first(), ram.size()].map(u64::to_le_bytes);
    // Type, length, the node, reserved; base and length; reserved; flags, reserved.
    [&[1, 40, 0, 0, 0, 0, 0, 0], first.as_slice(), &size, &[0; 4], &ENABLED.to_le_bytes(), &[0; 8]].concat()
}

/// PCI's configuration space (PCI Firmware 3.3, 4.1.2).
fn mcfg(ecam: AddressRange) -> Vec<u8> {
    let last = (ecam.size() / pci::BUS_SIZE).saturating_sub(1);
    let mut mcfg = MCFG::new(OEM, BOARD, REVISION);
    mcfg.add_ecam(ecam.first(), 0, 0, u8::try_from(last).unwrap_or(u8::MAX));
    bytes(&mcfg)
}

#[cfg(test)]
mod tests;
