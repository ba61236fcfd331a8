//! A board with a little of everything, for tests of the planner: small windows, parts that are placed,
//! and devices above RAM.

#![allow(dead_code, reason = "each test file uses its part")]

use ambit_bus::{Description, Needs, Request, Trigger};
use ambit_device_manager::{
    Arch, Board, BootError, BootImage, Fixture, HostFacts, MachineConfig, MemoryMap, Part, Payload, Place,
    Plan, PlanError, RegionKind, Width, WidthSource, plan,
};
use ambit_resources::{AddressRange, IrqPin, PaBits};

pub const MIB: u64 = 1 << 20;

/// Optional devices go here.
#[derive(Clone, Debug)]
pub struct Toy {
    pub devices: AddressRange,
}

/// Room for four devices of 4 KiB below RAM.
pub const LOW: Toy = Toy { devices: AddressRange::fixed(0x10_0000, 0x4000) };
/// A window far above RAM that takes 37 bits to reach.
pub const HIGH: Toy = Toy { devices: AddressRange::fixed(0x10_0000_0000, 0x10_0000) };

impl Board for Toy {
    fn name(&self) -> &'static str {
        "toy"
    }

    fn arch(&self) -> Arch {
        Arch::Aarch64
    }

    fn map(&self, config: &MachineConfig, facts: &HostFacts) -> MemoryMap {
        let extra = match facts.its {
            true => Place::Lowest {
                size: 0x1000 * u64::from(config.cpus.clamp(1, 8)),
                align: 0x2000,
                within: AddressRange::fixed(0x1000, 0xf000),
            },
            false => Place::Absent { size: 0x1000, reason: "the host has none".into() },
        };
        MemoryMap {
            parts: vec![
                Part {
                    name: "hole".into(),
                    kind: RegionKind::Reserved,
                    place: Place::At(AddressRange::fixed(0x1000, 0x800)),
                },
                Part { name: "extra".into(), kind: RegionKind::InterruptController, place: extra },
            ],
            ram_base: 16 * MIB,
            devices: self.devices,
            pins: 8,
            device_pins: 2..=5,
            max_cpus: 8,
        }
    }

    fn fixtures(&self) -> Vec<Fixture> {
        vec![Fixture { request: device("console"), base: 0x20_0000, pin: Some(IrqPin(3)) }]
    }

    fn interrupt_id(&self, pin: IrqPin) -> u32 {
        pin.0
    }

    fn boot_image<'a>(&self, _: &Plan, _: &Payload<'a>) -> Result<BootImage<'a>, BootError> {
        Err(BootError::Kernel("a toy starts nothing".into()))
    }
}

pub fn device(id: &str) -> Request {
    Request {
        id: id.into(),
        kind: "toy".into(),
        needs: Needs { registers: 0x1000, irq: Some(Trigger::Edge) },
        description: Description::default(),
    }
}

/// A device with a window of its own size, and no pin.
pub fn sized(id: &str, registers: u64) -> Request {
    Request { needs: Needs { registers, irq: None }, ..device(id) }
}

pub fn config(devices: Vec<Request>) -> MachineConfig {
    MachineConfig { cpus: 1, memory: 64 * MIB, devices }
}

pub fn host(bits: u8) -> HostFacts {
    let width = Width { bits: PaBits::new(bits).unwrap(), source: WidthSource::Host };
    HostFacts { width, page_size: 4096, max_cpus: 512, its: true }
}

pub fn planned(board: &Toy, devices: Vec<Request>) -> Result<Plan, PlanError> {
    plan(board, &config(devices), &host(40))
}
