//! A board with a little of everything, for tests of the planner: small windows, parts that are placed,
//! and devices above RAM.

#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;

use ambit_bus::{Needs, Request, Trigger};
use ambit_device_manager::{
    Above, Arch, Board, BootError, BootImage, DevicePlaces, Fixture, HostFacts, MachineConfig, MemoryMap,
    Part, Payload, Place, Plan, PlanError, RamPlace, Refusal, RegionKind, Width, WidthSource, plan,
};
use ambit_resources::{AddressRange, IrqPin, PaBits};

pub const MIB: u64 = 1 << 20;

/// Optional devices go here.
#[derive(Clone, Debug)]
pub struct Toy {
    pub devices: AddressRange,
    pub above: Above,
}

const NOTHING: Above = Above { floor: 0, holes: false, parts: Vec::new() };

/// Room for four devices of 4 KiB below RAM.
pub const LOW: Toy = Toy { devices: AddressRange::fixed(0x10_0000, 0x4000), above: NOTHING };
/// A window far above RAM that takes 37 bits to reach.
pub const HIGH: Toy = Toy { devices: AddressRange::fixed(0x10_0000_0000, 0x10_0000), above: NOTHING };

impl Board for Toy {
    fn name(&self) -> &str {
        "toy"
    }

    fn arch(&self) -> Arch {
        Arch::Aarch64
    }

    fn map(&self, config: &MachineConfig, facts: &HostFacts) -> Result<MemoryMap, PlanError> {
        let extra = match facts.its {
            true => Place::Lowest {
                size: 0x1000 * u64::from(config.cpus.clamp(1, 8)),
                align: 0x2000,
                within: AddressRange::fixed(0x1000, 0xf000),
            },
            false => Place::Absent { size: 0x1000, reason: "the host has none".into() },
        };
        Ok(MemoryMap {
            parts: vec![
                Part {
                    name: "hole".into(),
                    kind: RegionKind::Reserved,
                    place: Place::At(AddressRange::fixed(0x1000, 0x800)),
                },
                Part { name: "extra".into(), kind: RegionKind::InterruptController, place: extra },
            ],
            ram: RamPlace { base: 16 * MIB, grain: 1, slot_room: 0, max_slots: 4 },
            gap: None,
            reserved: Vec::new(),
            above: self.above.clone(),
            frames: None,
            devices: DevicePlaces { window: self.devices, grain: 1, pins: 2..=5 },
            pins: 8,
            pci: None,
            max_cpus: 8,
            width: None,
        })
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
        needs: Needs::Board { registers: 0x1000, irq: Some(Trigger::Edge) },
        description: Arc::default(),
        queue_reach: None,
    }
}

/// A device with a window of its own size, and no pin.
pub fn sized(id: &str, registers: u64) -> Request {
    Request { needs: Needs::Board { registers, irq: None }, ..device(id) }
}

pub fn config(devices: Vec<Request>) -> MachineConfig {
    MachineConfig { memory: 64 * MIB, devices, ..MachineConfig::default() }
}

pub fn host(bits: u8) -> HostFacts {
    let width = Width { bits: PaBits::new(bits).unwrap(), source: WidthSource::Host };
    HostFacts { width, ..HostFacts::assumed() }
}

pub fn planned(board: &Toy, devices: Vec<Request>) -> Result<Plan, Refusal> {
    plan(board, &config(devices), &host(40))
}
