//! Boards for tests, of each architecture one.

use std::sync::Arc;

use std::ops::RangeInclusive;

use ambit_bus::{Needs, Request, Trigger};
use ambit_device_manager::{
    Above, Arch, Board, BootError, BootImage, DevicePlaces, Fixture, HostFacts, MachineConfig, MemoryMap,
    Part, Payload, Place, Plan, PlanError, RamPlace, RegionKind,
};
use ambit_resources::{AddressRange, IrqPin};

/// A board with a console and nothing else.
pub struct Toy {
    name: &'static str,
    arch: Arch,
    console: &'static str,
}

pub const TOY: Toy = Toy { name: "toy", arch: Arch::Aarch64, console: "pl011" };
pub const PC: Toy = Toy { name: "pc", arch: Arch::X86_64, console: "uart16550" };
/// With a device that this program does not have.
pub const ODD: Toy = Toy { name: "odd", console: "uart82510", ..PC };

impl Board for Toy {
    fn name(&self) -> &str {
        self.name
    }

    fn arch(&self) -> Arch {
        self.arch
    }

    fn map(&self, _: &MachineConfig, _: &HostFacts) -> Result<MemoryMap, PlanError> {
        const PINS: RangeInclusive<u32> = 16..=31;
        Ok(MemoryMap {
            parts: vec![
                part("gic.dist", Place::At(AddressRange::fixed(0x900_0000, 64 << 10))),
                part("gic.its", Place::Absent { size: 128 << 10, reason: "a toy has none".into() }),
            ],
            ram: RamPlace { base: 1 << 30, grain: 1, slot_room: 0, max_slots: 4 },
            gap: None,
            reserved: Vec::new(),
            above: Above::default(),
            frames: None,
            devices: DevicePlaces {
                window: AddressRange::fixed(0x200_0000, 1 << 20),
                grain: 0x200,
                pins: PINS,
            },
            pins: 32,
            pci: None,
            max_cpus: 8,
            width: None,
        })
    }

    fn fixtures(&self) -> Vec<Fixture> {
        let request = Request {
            id: "uart0".into(),
            kind: self.console.into(),
            needs: Needs::Board { registers: 0x1000, irq: Some(Trigger::Level) },
            description: Arc::default(),
            queue_reach: None,
        };
        vec![Fixture { request, base: 0x100_0000, pin: Some(IrqPin(0)) }]
    }

    fn interrupt_id(&self, pin: IrqPin) -> u32 {
        pin.0 + 32
    }

    fn boot_image<'a>(&self, _: &Plan, _: &Payload<'a>) -> Result<BootImage<'a>, BootError> {
        Err(BootError::Kernel("it starts nothing".into()))
    }
}

fn part(name: &str, place: Place) -> Part {
    Part { name: name.into(), kind: RegionKind::InterruptController, place }
}
