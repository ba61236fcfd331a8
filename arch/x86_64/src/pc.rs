//! `pc`, the default x86_64 board: no legacy chipset, RAM below and above the hole, and everything else in it.
//!
//! ```text
//! memory
//! 0x0000_0000  ram0                 to 3 GiB at most, around what is kept free
//! 0xc000_0000  pci.mmio32           512 MiB
//! 0xe000_0000  pci.ecam             256 buses
//! 0xf000_0000  optional devices     16 MiB
//! 0xfec0_0000  ioapic
//! 0xfee0_0000  lapic                1 MiB: each vCPU's own registers, and where messages go
//! 0xfffb_c000  reserved.kvm         for what KVM itself has to have in a guest
//! 0x1_0000_0000  ram1, …            the rest of it
//!       above  ram.hotplug          at a multiple of 1 GiB
//!       above  pci.mmio64           at a multiple of 1 GiB, as long as the BARs need
//!
//! ports
//! 0x0060  reset0                    i8042
//! 0x03f8  uart0                     16550, pin 4
//! 0x0505  panic0                    pvpanic
//! 0x0600  power0                    the sleep control register of ACPI
//! 0x0cf8  pci.config                configuration space, for who does not know of pci.ecam yet
//! 0xc000  pci.io                    16 KiB
//! ```
//!
//! Pins are inputs of the one IOAPIC, and GSIs: 5 to 19 for optional devices, 20 to 23 for PCI's INTx. The ports of
//! the two 8259 (0x20, 0xa0) are KVM's.

use std::ops::RangeInclusive;

use ambit_bus::Request;
use ambit_device_manager::{
    Above, Arch, Board, BootError, BootImage, DevicePlaces, Diagnostic, Fit, Fixture, HighPart, HostFacts,
    Length, MachineConfig, MemoryMap, Part, Payload, PciPlaces, Place, Plan, PlanError, RamPlace, RegionKind,
    Severity, pci,
};
use ambit_platform::endings::Port;
use ambit_platform::serial;
use ambit_resources::{AddressRange, IrqPin};

use crate::{boot, reserved};

/// Where RAM ends and the hole below 4 GiB begins.
pub const HOLE: u64 = 0xc000_0000;
const MMIO32: AddressRange = AddressRange::fixed(HOLE, 512 << 20);
const ECAM: AddressRange = AddressRange::fixed(0xe000_0000, 256 << 20);
const DEVICES: AddressRange = AddressRange::fixed(0xf000_0000, 16 << 20);
// Where KVM has them (Linux `arch/x86/kvm/ioapic.h`, IOAPIC_DEFAULT_BASE_ADDRESS; `APIC_DEFAULT_PHYS_BASE`).
const IOAPIC: AddressRange = AddressRange::fixed(0xfec0_0000, 0x1000);
// Every address of it is a message (Intel SDM volume 3, 12.11.1), so nothing else can ever be there.
const LAPIC: AddressRange = AddressRange::fixed(0xfee0_0000, 1 << 20);
/// What a plan calls [`KVM_PAGES`].
pub const KVM_PART: &str = "reserved.kvm";
/// One page for a page table, then three for a task state segment: on Intel, KVM runs real mode with them.
pub const KVM_PAGES: AddressRange = AddressRange::fixed(0xfffb_c000, 0x4000);
pub(crate) const FOUR_GIB: u64 = 4 << 30;
/// Where a guest finds what it is started with.
const START: AddressRange = AddressRange::fixed(0, 1 << 20);

const PCI_IO: AddressRange = AddressRange::fixed(0xc000, 0x4000);
/// The ports of the 16550.
pub const UART: u64 = 0x3f8;
/// The sleep control register.
pub const SLEEP: u64 = 0x600;
pub const PANIC: u64 = 0x505;
pub const I8042: u64 = 0x60;

/// Inputs of the IOAPIC (Linux `arch/x86/include/uapi/asm/kvm.h`, KVM_IOAPIC_NUM_PINS).
pub const PINS: u32 = 24;
/// Below are those that a PC has always had: timer, keyboard, cascade, UARTs.
const DEVICE_PINS: RangeInclusive<u32> = 5..=19;
const INTX: IrqPin = IrqPin(20);

/// As many as KVM has at most, which may have been built for fewer (Linux `arch/x86/include/asm/kvm_host.h`,
/// KVM_MAX_VCPUS). From 255 on an APIC ID takes an x2APIC.
const MAX_CPUS: u32 = 1024;
/// The vCPUs whose APIC IDs fit into 8 bits, as IOAPICs and messages have them for their target. Linux brings up no
/// others unless interrupts are remapped or the hypervisor has more bits for the ID, KVM_FEATURE_MSI_EXT_DEST_ID
/// (`arch/x86/kernel/apic/apic.c`, `try_to_enable_x2apic`), and KVM's own IOAPIC has not.
const LINUX_CPUS: u32 = 256;

// Linux's drivers put BARs of 64 bits at multiples of this at most, and it is what arm64 boards have.
const WINDOW_GRAIN: u64 = 1 << 30;
/// Room for a few hot-plugged functions with BARs of the usual size.
const PCI_ROOM: u64 = 512 << 20;
const PCI_CAP: u64 = 64 << 30;

/// The default board of this architecture.
pub fn pc() -> Pc {
    Pc
}

/// See [`pc`].
#[derive(Clone, Copy, Debug)]
pub struct Pc;

impl Board for Pc {
    fn name(&self) -> &str {
        "pc"
    }

    fn arch(&self) -> Arch {
        Arch::X86_64
    }

    fn about(&self) -> String {
        "64-bit programs: PCI, a 16550, no firmware; RAM around what the host keeps".into()
    }

    fn map(&self, config: &MachineConfig, facts: &HostFacts) -> Result<MemoryMap, PlanError> {
        let places = Places {
            low: HOLE,
            ram: RamPlace { base: 0, grain: 1, slot_room: 0, max_slots: 256 },
            mmio32: MMIO32,
            ecam: ECAM,
            devices: DEVICES,
            mmio64: (
                Length::Bars { room: PCI_ROOM, grain: WINDOW_GRAIN, cap: PCI_CAP },
                Fit::Trimmed(WINDOW_GRAIN),
            ),
        };
        map(self.name(), places, config, facts)
    }

    fn fixtures(&self) -> Vec<Fixture> {
        let at = |request: Request, base, pin| Fixture { request, base, pin };
        vec![
            at(serial::request("uart0"), UART, Some(IrqPin(4))),
            at(Port::I8042.request("reset0"), I8042, None),
            at(Port::Panic.request("panic0"), PANIC, None),
            at(Port::Sleep.request("power0"), SLEEP, None),
        ]
    }

    fn interrupt_id(&self, pin: IrqPin) -> u32 {
        pin.0
    }

    fn remarks(&self, plan: &Plan) -> Vec<Diagnostic> {
        if plan.cpus <= LINUX_CPUS {
            return Vec::new();
        }
        vec![Diagnostic {
            code: "cpus-beyond-linux".into(),
            severity: Severity::Note,
            message: format!(
                "Linux brings up {LINUX_CPUS} of the {} vCPUs, those with an APIC ID of at most {}: KVM's IOAPIC and \
                 messages of devices have 8 bits for the ID of whom they interrupt, and nothing remaps interrupts",
                plan.cpus,
                LINUX_CPUS - 1
            ),
            remedies: vec![format!("give a Linux guest at most {LINUX_CPUS} vCPUs")],
        }]
    }

    fn boot_image<'a>(&self, plan: &Plan, payload: &Payload<'a>) -> Result<BootImage<'a>, BootError> {
        boot::image(plan, payload)
    }
}

/// Where one PC differs from another.
pub(crate) struct Places {
    /// Where RAM below 4 GiB ends.
    pub low: u64,
    pub ram: RamPlace,
    pub mmio32: AddressRange,
    pub ecam: AddressRange,
    pub devices: AddressRange,
    /// How long the window for 64-bit BARs is, and what becomes of it where the width ends.
    pub mmio64: (Length, Fit),
}

/// The map of a PC with these places.
///
/// # Errors
/// [`PlanError::Board`] if what is kept free has to be RAM.
pub(crate) fn map(
    board: &str,
    places: Places,
    config: &MachineConfig,
    facts: &HostFacts,
) -> Result<MemoryMap, PlanError> {
    let reserved = reserved::reservations(&config.reserve, facts);
    let all = reserved.iter().map(|it| it.range).chain(config.reserve.ranges.iter().copied());
    if let Some(range) = all.into_iter().find(|range| range.first() < START.size()) {
        let what = format!("starts its guests in the first MiB, so {range} cannot be kept free of RAM");
        return Err(PlanError::Board { board: board.into(), what });
    }
    let has_pci = config.pci.is_some();
    let mut parts = Vec::new();
    let mut above = Above { floor: FOUR_GIB, holes: false, parts: Vec::new() };
    if has_pci {
        parts.extend([
            part(pci::MMIO32, RegionKind::Pci, places.mmio32),
            part(pci::ECAM, RegionKind::Pci, places.ecam),
        ]);
        let (size, fit) = places.mmio64;
        let kind = RegionKind::Pci;
        above.parts.push(HighPart { name: pci::MMIO64.into(), kind, size, align: WINDOW_GRAIN, fit });
    }
    parts.extend([
        part("ioapic", RegionKind::InterruptController, IOAPIC),
        part("lapic", RegionKind::InterruptController, LAPIC),
        part(KVM_PART, RegionKind::Reserved, KVM_PAGES),
    ]);
    Ok(MemoryMap {
        parts,
        ram: places.ram,
        gap: AddressRange::spanning(places.low, FOUR_GIB - 1),
        reserved,
        above,
        frames: None,
        devices: DevicePlaces { window: places.devices, grain: 0x1000, pins: DEVICE_PINS },
        pins: PINS,
        pci: has_pci.then_some(PciPlaces { intx: Some(INTX), msi: true, ports: Some(PCI_IO) }),
        max_cpus: MAX_CPUS,
        width: None,
    })
}

fn part(name: &str, kind: RegionKind, range: AddressRange) -> Part {
    Part { name: name.into(), kind, place: Place::At(range) }
}
