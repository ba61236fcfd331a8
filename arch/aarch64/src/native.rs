//! `native`, the default arm64 board: everything below 1 GiB, RAM from there up.
//!
//! A board is one file. For a machine of your own, copy this one, change the table and the name, and
//! hand it to the program beside this one.
//!
//! ```text
//! 0x0100_0000  uart0, rtc0          64 KiB apart, so that each is its own page on every host
//! 0x0200_0000  optional devices     16 MiB
//! 0x0800_0000  reserved.msi         1 MiB
//! 0x0900_0000  gic.dist
//! 0x0902_0000  gic.its              if the host has one
//! 0x0a00_0000  gic.redist0          128 KiB for each vCPU, at most 64 MiB
//! 0x1000_0000  nothing, kept for PCI
//! 0x4000_0000  RAM, in one bank
//! ```
//!
//! The program has to have a model for each fixture: `uart0` of kind `pl011`, `rtc0` of kind `pl031`.

use ambit_device_manager::{
    Arch, Board, BootError, BootImage, Fixture, HostFacts, MachineConfig, MemoryMap, Part, Payload, Place,
    Plan, RegionKind,
};
use ambit_platform::{pl011, pl031};
use ambit_resources::{AddressRange, IrqPin};
use std::ops::RangeInclusive;

use crate::{boot, gic};

const UART_BASE: u64 = 0x0100_0000;
const UART_PIN: IrqPin = IrqPin(0);
const RTC_BASE: u64 = 0x0101_0000;
const RTC_PIN: IrqPin = IrqPin(1);

const DEVICES: AddressRange = AddressRange::fixed(0x0200_0000, 16 << 20);
const DEVICE_PINS: RangeInclusive<u32> = 16..=gic::SPIS - 1;

// Linux's SMMU driver hands this range to guests' devices as the place of their MSI doorbell, so with
// device assignment a DMA to it never reaches RAM (drivers/iommu/arm/arm-smmu-v3, MSI_IOVA_BASE).
const MSI_WINDOW: AddressRange = AddressRange::fixed(0x0800_0000, 1 << 20);

const GIC_DIST: AddressRange = AddressRange::fixed(0x0900_0000, gic::DIST_SIZE);
const GIC_ITS: AddressRange = AddressRange::fixed(0x0902_0000, gic::ITS_SIZE);
const GIC_REDIST_BASE: u64 = 0x0a00_0000;

const RAM_BASE: u64 = 0x4000_0000;

/// The default board.
#[derive(Clone, Copy, Debug, Default)]
pub struct Native;

impl Board for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn arch(&self) -> Arch {
        Arch::Aarch64
    }

    fn map(&self, config: &MachineConfig, facts: &HostFacts) -> MemoryMap {
        MemoryMap {
            parts: vec![
                part("reserved.msi", RegionKind::Reserved, Place::At(MSI_WINDOW)),
                part(gic::DIST, RegionKind::InterruptController, Place::At(GIC_DIST)),
                part(gic::ITS, RegionKind::InterruptController, its(facts)),
                part(&gic::redist(0), RegionKind::InterruptController, Place::At(redistributors(config))),
            ],
            ram_base: RAM_BASE,
            devices: DEVICES,
            pins: gic::SPIS,
            device_pins: DEVICE_PINS,
            max_cpus: gic::MAX_CPUS,
        }
    }

    fn fixtures(&self) -> Vec<Fixture> {
        vec![
            Fixture { request: pl011::request("uart0"), base: UART_BASE, pin: Some(UART_PIN) },
            Fixture { request: pl031::request("rtc0"), base: RTC_BASE, pin: Some(RTC_PIN) },
        ]
    }

    fn interrupt_id(&self, pin: IrqPin) -> u32 {
        pin.0.saturating_add(gic::FIRST_SPI)
    }

    fn boot_image<'a>(&self, plan: &Plan, payload: &Payload<'a>) -> Result<BootImage<'a>, BootError> {
        boot::linux(plan, payload)
    }
}

fn part(name: &str, kind: RegionKind, place: Place) -> Part {
    Part { name: name.into(), kind, place }
}

fn its(facts: &HostFacts) -> Place {
    if facts.its {
        return Place::At(GIC_ITS);
    }
    let reason = "this host's KVM has no interrupt translation service".into();
    Place::Absent { size: GIC_ITS.size(), reason }
}

fn redistributors(config: &MachineConfig) -> AddressRange {
    // The planner refuses other numbers, with the limit's name.
    let cpus = config.cpus.clamp(1, gic::MAX_CPUS);
    AddressRange::fixed(GIC_REDIST_BASE, u64::from(cpus) * gic::REDIST_SIZE)
}
