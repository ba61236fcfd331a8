//! `kvmtool`: the map of the program of that name, for guests that know it by heart.
//!
//! Numbers are those of kvmtool's `arm/include/arm-common/kvm-arch.h`. Redistributors grow downward from the
//! distributor and virtio windows upward, and here it is checked that they do not meet.

use ambit_device_manager::{BoardOption, DevicePlaces, RamPlace, Transport};
use ambit_resources::AddressRange;

use crate::gic;
use crate::spec::{BoardSpec, FixtureSpec, GicSpec, ItsPlace, PciSpec, RedistSpec, SetOption, SpecBoard};

const GIC_DIST: u64 = 0x3fff_0000;
const GICV2_CPU: AddressRange = AddressRange::fixed(0x3ffd_0000, 128 << 10);
const VIRTIO: u64 = 0x0300_0000;

/// kvmtool's arm64 machine.
pub fn kvmtool() -> SpecBoard {
    SpecBoard::new(spec(), OPTIONS)
}

fn spec() -> BoardSpec {
    BoardSpec {
        name: "kvmtool".into(),
        about: "the map of kvmtool: RAM from 2 GiB, nothing above it".into(),
        width: None,
        max_cpus: gic::MAX_CPUS,
        ram: RamPlace { base: 0x8000_0000, grain: 1, slot_room: 0, max_slots: 256 },
        reserved: vec![
            ("pvtime".into(), AddressRange::fixed(0x0102_0000, 64 << 10)),
            ("flash".into(), AddressRange::fixed(0x0200_0000, 16 << 20)),
        ],
        gic: gicv3(),
        pins: 224,
        devices: DevicePlaces {
            window: AddressRange::fixed(VIRTIO, GIC_DIST - VIRTIO),
            grain: 0x200,
            pins: 2..=INTX - 1,
        },
        // Here a PL011, as the guest's console is one on every board; kvmtool has an 8250 at this place.
        transport: Transport::Mmio,
        fixtures: vec![
            FixtureSpec { id: "uart0".into(), kind: "pl011".into(), base: 0x0100_0000, pin: Some(0) },
            FixtureSpec { id: "rtc0".into(), kind: "pl031".into(), base: 0x0101_0000, pin: Some(1) },
        ],
        pci: Some(PciSpec {
            ecam: AddressRange::fixed(0x4000_0000, 256 << 20),
            high_ecam: None,
            io: Some(AddressRange::fixed(0, 64 << 10)),
            mmio32: AddressRange::fixed(0x5000_0000, 0x3000_0000),
            mmio64: None,
            intx: Some(INTX),
        }),
        floor: 0,
        holes: false,
        edits: Vec::new(),
        kernel_offset: 0,
    }
}

// kvmtool counts lines as devices come; the last four are nobody's here.
const INTX: u32 = 220;

fn gicv3() -> GicSpec {
    GicSpec::V3 {
        dist: GIC_DIST,
        its: Some(ItsPlace::BelowRedists),
        redists: vec![RedistSpec::Down { top: GIC_DIST }],
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
            "2" => GicSpec::V2 {
                dist: AddressRange::fixed(GIC_DIST, gic::DIST_SIZE),
                cpu: GICV2_CPU,
                kept: Vec::new(),
            },
            "3" => gicv3(),
            _ => return Err("2 or 3"),
        };
        Ok(())
    },
)];
