//! `native`, the default arm64 board: everything by need, upward, and nothing in the way of a narrow host.
//!
//! A board is one file. For a machine of your own, copy this one, change the table and the name, and hand it
//! to the program beside this one; or write the same as a TOML file (`ambit board show native`).
//!
//! ```text
//! 0x0100_0000  uart0, rtc0          64 KiB apart, so that each is its own page on every host
//! 0x0200_0000  optional devices     16 MiB
//! 0x0800_0000  reserved.msi         1 MiB
//! 0x0900_0000  gic.dist
//! 0x0902_0000  gic.its              if the host has one; gic.cpu with gic-version=2
//! 0x0a00_0000  gic.redist0          128 KiB for each vCPU, at most 64 MiB
//! 0x1000_0000  pci.ecam             256 buses
//! 0x2000_0000  pci.mmio32           to 0x3ffe_ffff
//! 0x3fff_0000  pci.io               64 KiB of ports
//! 0x4000_0000  ram0, in one bank
//!       above  ram.hotplug          if wanted, from the next GiB
//!       above  pci.mmio64           from the next GiB, as long as the BARs need
//! ```
//!
//! The program has to have a model for each fixture: `uart0` of kind `pl011`, `rtc0` of kind `pl031`.

use ambit_device_manager::{BoardOption, DevicePlaces, RamPlace, Transport};
use ambit_resources::AddressRange;

use crate::gic;
use crate::spec::{
    BoardSpec, FixtureSpec, GicSpec, ItsPlace, Mmio64Spec, PciSpec, RedistSpec, SetOption, SpecBoard,
};

// Linux's SMMU driver hands this range to guests' devices as the place of their MSI doorbell, so with
// device assignment a DMA to it never reaches RAM (drivers/iommu/arm/arm-smmu-v3, MSI_IOVA_BASE).
const MSI_WINDOW: AddressRange = AddressRange::fixed(0x0800_0000, 1 << 20);

const GIC_DIST: u64 = 0x0900_0000;
const GIC_ITS: u64 = 0x0902_0000;
const GIC_REDISTS: AddressRange = AddressRange::fixed(0x0a00_0000, gic::MAX_CPUS as u64 * gic::REDIST_SIZE);
// The smallest pages for both; each is alone on a page of any host.
const GICV2_DIST: AddressRange = AddressRange::fixed(GIC_DIST, 4 << 10);
const GICV2_CPU: AddressRange = AddressRange::fixed(GIC_ITS, 8 << 10);

/// Room for a few hot-plugged functions with BARs of the usual size.
const PCI_ROOM: u64 = 512 << 20;
const PCI_CAP: u64 = 512 << 30;

/// The default board.
pub fn native() -> SpecBoard {
    SpecBoard::new(spec(), OPTIONS)
}

fn spec() -> BoardSpec {
    BoardSpec {
        name: "native".into(),
        about: "the default: RAM from 1 GiB, PCI, room for 512 vCPUs, fits hosts from 32 bits".into(),
        width: None,
        max_cpus: gic::MAX_CPUS,
        ram: RamPlace { base: 0x4000_0000, grain: 1, slot_room: 0, max_slots: 256 },
        reserved: vec![("msi".into(), MSI_WINDOW)],
        gic: gicv3(),
        pins: gic::SPIS,
        devices: DevicePlaces {
            window: AddressRange::fixed(0x0200_0000, 16 << 20),
            grain: 0x1000,
            pins: 16..=gic::SPIS - 1,
        },
        transport: Transport::Mmio,
        fixtures: vec![
            FixtureSpec { id: "uart0".into(), kind: "pl011".into(), base: 0x0100_0000, pin: Some(0) },
            FixtureSpec { id: "rtc0".into(), kind: "pl031".into(), base: 0x0101_0000, pin: Some(1) },
        ],
        pci: Some(PciSpec {
            ecam: AddressRange::fixed(0x1000_0000, 256 << 20),
            high_ecam: None,
            io: Some(AddressRange::fixed(0x3fff_0000, 64 << 10)),
            mmio32: AddressRange::fixed(0x2000_0000, 0x1fff_0000),
            mmio64: Some(Mmio64Spec::ByNeed { room: PCI_ROOM, cap: PCI_CAP }),
            intx: Some(2),
        }),
        floor: 0,
        holes: false,
        edits: Vec::new(),
        kernel_offset: 0,
    }
}

fn gicv3() -> GicSpec {
    GicSpec::V3 {
        dist: GIC_DIST,
        its: Some(ItsPlace::At(GIC_ITS)),
        redists: vec![RedistSpec::Up { window: GIC_REDISTS, whole: false }],
        v4: false,
    }
}

const OPTIONS: &[(BoardOption, SetOption)] = &[(
    BoardOption {
        key: "gic-version",
        values: "2|3",
        about: "GICv2 is for hosts that have no GICv3, and 8 vCPUs [3]",
    },
    |spec, value| {
        spec.gic = match value {
            "2" => GicSpec::V2 { dist: GICV2_DIST, cpu: GICV2_CPU, kept: Vec::new() },
            "3" => gicv3(),
            _ => return Err("2 or 3"),
        };
        Ok(())
    },
)];
