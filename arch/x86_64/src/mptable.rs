//! What a guest's system without ACPI finds its processors and interrupts by (Intel MultiProcessor Specification 1.4).
//!
//! The pointer is where a PC's extended BIOS data area is, in memory that the map does not say to be RAM.

use ambit_device_manager::{Plan, RegionKind, pci};
use ambit_resources::IrqPin;

use crate::acpi::{FIRST_WIDE_ID, IOAPIC_ID, address};
use crate::intx::{self, Route};
use crate::{e820, pc};

/// Where the floating pointer is: one of three places that are searched, the last KiB below 640 KiB.
pub const POINTER: u64 = e820::FIRMWARE.first();
/// Where the table itself is. It ends below [`crate::acpi::ROOT`], however many processors there are.
pub const TABLE: u64 = 0xa_0000;

const REVISION: u8 = 4;
const HEADER: usize = 44;
/// Of both structures, where the byte is that makes them sum to zero.
const POINTER_SUM: usize = 10;
const TABLE_SUM: usize = 7;

// Kinds of entries (4.3).
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IOAPIC: u8 = 2;
const INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

const ENABLED: u8 = 1;
const FIRST: u8 = 1 << 1;
/// What processors and IOAPICs say of their APICs where software reads it.
const APIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;
/// Kinds of interrupts: through a pin, and those of a processor's own two inputs.
const VECTORED: u8 = 0;
const NMI: u8 = 1;
const FROM_8259: u8 = 3;
/// Buses (table 4-8). ISA's interrupts are edges, as virtio-mmio's and the UART's are; PCI's are levels.
const ISA: [u8; 6] = *b"ISA   ";
const PCI: [u8; 6] = *b"PCI   ";
/// Its ID is its number as PCI has it (D.3), which Linux goes by (`IO_APIC_get_PCI_irq_vector`).
const PCI_ID: u8 = 0;
const EVERY_PROCESSOR: u8 = 0xff;

/// The floating pointer and the table, for [`POINTER`] and [`TABLE`].
pub fn tables(plan: &Plan) -> [Vec<u8>; 2] {
    // The entries have no room for wider IDs; ACPI's tables have.
    let ids = (0..plan.cpus.min(FIRST_WIDE_ID)).filter_map(|id| u8::try_from(id).ok());
    let mut entries: Vec<Vec<u8>> = ids.map(processor).collect();
    let has_pci = plan.part(RegionKind::Pci, pci::ECAM).is_some();
    let isa = if has_pci { PCI_ID + 1 } else { 0 };
    let buses = has_pci.then_some((PCI_ID, PCI)).into_iter().chain([(isa, ISA)]);
    entries.extend(buses.map(|(id, name)| [&[BUS, id], name.as_slice()].concat()));
    entries
        .push([&[IOAPIC, IOAPIC_ID, IOAPIC_VERSION, ENABLED], address(plan, "ioapic").as_slice()].concat());
    // As each bus has its interrupts (4.3.4), and each pin is of one bus.
    let wired = |bus, source, pin| vec![INTERRUPT, VECTORED, 0, 0, bus, source, IOAPIC_ID, pin];
    let pins = (0..pc::PINS).filter(|pin| !plan.intx.contains(&IrqPin(*pin)));
    entries.extend(pins.filter_map(|pin| u8::try_from(pin).ok()).map(|pin| wired(isa, pin, pin)));
    entries.extend(intx::routes(plan).filter_map(|Route { device, wire, pin }| {
        // A source is the device's number and its wire (D.3).
        Some(wired(PCI_ID, device << 2 | wire, u8::try_from(pin.0).ok()?))
    }));
    entries.push(vec![LOCAL_INTERRUPT, FROM_8259, 0, 0, isa, 0, 0, 0]);
    entries.push(vec![LOCAL_INTERRUPT, NMI, 0, 0, isa, 0, EVERY_PROCESSOR, 1]);
    [pointer(), table(&entries, address(plan, "lapic"))]
}

fn pointer() -> Vec<u8> {
    let at = u32::try_from(TABLE).unwrap_or(0).to_le_bytes();
    // One paragraph of 16 bytes; a table, not one of the default configurations; no IMCR.
    summed([b"_MP_", at.as_slice(), &[1, REVISION, 0, 0, 0, 0, 0, 0]].concat(), POINTER_SUM)
}

fn table(entries: &[Vec<u8>], lapic: [u8; 4]) -> Vec<u8> {
    let word = |number: usize| u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes();
    let entries_size: usize = entries.iter().map(Vec::len).sum();
    let mut bytes = [b"PCMP", word(HEADER + entries_size).as_slice(), &[REVISION, 0]].concat();
    bytes.extend(b"AMBIT   PC          ");
    // No table of a manufacturer's.
    bytes.extend([0; 6]);
    bytes.extend(word(entries.len()));
    bytes.extend(lapic);
    // No extended entries.
    bytes.extend([0; 4]);
    bytes.extend(entries.iter().flatten());
    summed(bytes, TABLE_SUM)
}

fn processor(id: u8) -> Vec<u8> {
    let flags = if id == 0 { ENABLED | FIRST } else { ENABLED };
    // What it can do is CPUID's to say.
    let mut entry = vec![PROCESSOR, id, APIC_VERSION, flags];
    entry.resize(20, 0);
    entry
}

/// `bytes`, of which the one at `at` makes the sum zero.
fn summed(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(byte) = bytes.get_mut(at) {
        *byte = sum.wrapping_neg();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ambit_bus::{Needs, Request};
    use ambit_device_manager::{HostFacts, MachineConfig, plan};

    use super::*;

    fn planned(cpus: u32) -> Plan {
        let facts = HostFacts { max_cpus: 1024, ..HostFacts::assumed() };
        plan(&pc::pc(), &MachineConfig { cpus, ..MachineConfig::default() }, &facts).unwrap()
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// The entries as a system reads them: a processor's has 20 bytes, any other 8.
    fn entries(table: &[u8]) -> Vec<&[u8]> {
        let mut rest = &table[HEADER..];
        let mut entries = Vec::new();
        while let Some(kind) = rest.first() {
            let (entry, after) = rest.split_at(if *kind == PROCESSOR { 20 } else { 8 });
            entries.push(entry);
            rest = after;
        }
        entries
    }

    #[test]
    fn the_pointer_leads_to_the_table_and_both_sum_to_zero() {
        let [pointer, table] = tables(&planned(2));

        assert_eq!((&pointer[..10], sum(&pointer)), (b"_MP_\0\0\x0a\0\x01\x04".as_slice(), 0));
        assert_eq!((&table[..4], sum(&table)), (b"PCMP".as_slice(), 0));
        let word = |at: usize| usize::from(u16::from_le_bytes([table[at], table[at + 1]]));
        assert_eq!((word(4), word(34)), (table.len(), entries(&table).len()));
    }

    #[test]
    fn the_table_has_the_processors_and_controllers_of_the_plan() {
        let [_, table] = tables(&planned(2));

        let read = entries(&table);

        let processors: Vec<(u8, u8)> = read[..2].iter().map(|entry| (entry[1], entry[3])).collect();
        assert_eq!(processors, [(0, 3), (1, 1)]);
        assert_eq!(read[2..4], [b"\x01\0PCI   ", b"\x01\x01ISA   "]);
        assert_eq!(read[4], [2, 0, 0x11, 1, 0, 0, 0xc0, 0xfe]);
        assert_eq!(table[36..40], [0, 0, 0xe0, 0xfe]);
        let isa: Vec<[u8; 8]> = (0..20).map(|pin| [3, 0, 0, 0, 1, pin, 0, pin]).collect();
        assert_eq!(read[5..25], isa);
        assert_eq!(read[read.len() - 2..], [[4, 3, 0, 0, 1, 0, 0, 0], [4, 1, 0, 0, 1, 0, 0xff, 1]]);
    }

    #[test]
    fn every_wire_of_every_device_reaches_the_pin_that_the_plan_gave_it() {
        let needs = Needs::Pci { bars: Vec::new() };
        let card = |number: u32| Request {
            id: format!("card{number}"),
            kind: "card".into(),
            needs: needs.clone(),
            description: Arc::default(),
            queue_reach: None,
        };
        let config = MachineConfig { devices: (0..6).map(card).collect(), ..MachineConfig::default() };
        let plan = plan(&pc::pc(), &config, &HostFacts::assumed()).unwrap();
        let [_, table] = tables(&plan);

        let of_pci = entries(&table).into_iter().filter(|entry| entry[0] == INTERRUPT && entry[4] == 0);
        let read: Vec<(u8, u8, u8)> = of_pci.map(|entry| (entry[5] >> 2, entry[5] & 3, entry[7])).collect();

        let wires = (1..32_u8).flat_map(|device| (0..4_u8).map(move |wire| (device, wire)));
        let expected = wires.map(|(device, wire)| (device, wire, 20 + (device + wire) % 4));
        assert_eq!(read, expected.collect::<Vec<_>>());
        let cards = plan.devices.iter().filter(|device| device.kind == "card");
        let planned: Vec<(u8, u8, u8)> = cards
            .map(|card| (card.function.unwrap(), 0, u8::try_from(card.slot.irq.unwrap().0.0).unwrap()))
            .collect();
        assert_eq!(planned.len(), 6);
        assert!(planned.iter().all(|wire| read.contains(wire)), "{planned:?}");
    }

    #[test]
    fn without_pci_every_pin_is_of_the_only_bus() {
        let config = MachineConfig { pci: None, ..MachineConfig::default() };
        let [_, table] = tables(&plan(&pc::pc(), &config, &HostFacts::assumed()).unwrap());

        let read = entries(&table);

        assert_eq!(read[1], b"\x01\0ISA   ");
        let pins: Vec<[u8; 8]> = (0..24).map(|pin| [3, 0, 0, 0, 0, pin, 0, pin]).collect();
        assert_eq!(read[3..27], pins);
        assert_eq!(read[27..], [[4, 3, 0, 0, 0, 0, 0, 0], [4, 1, 0, 0, 0, 0, 0xff, 1]]);
    }

    #[test]
    fn only_processors_whose_ids_have_room_are_in_it_and_it_ends_below_the_tables_of_acpi() {
        let [pointer, table] = tables(&planned(1024));

        let ids: Vec<u8> =
            entries(&table).iter().filter(|entry| entry[0] == 0).map(|entry| entry[1]).collect();
        assert_eq!(ids, (0..255).collect::<Vec<u8>>());
        assert!(TABLE + table.len() as u64 <= crate::acpi::ROOT && POINTER + pointer.len() as u64 <= TABLE);
    }
}
