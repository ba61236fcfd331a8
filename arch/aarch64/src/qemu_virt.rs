//! `qemu-virt`: where QEMU 10.0's machine `virt` puts everything, bit by bit, with the limits it has.
//!
//! Numbers are those of QEMU's `hw/arm/virt.c` (`base_memmap`, `extended_memmap`, `virt_set_memmap`). What
//! Ambit has no device for is reserved, so that nothing else goes there.

use ambit_device_manager::{BoardOption, DevicePlaces, RamPlace, Transport};
use ambit_resources::{AddressRange, PaBits, parse_size};

use crate::gic;
use crate::spec::{
    BoardSpec, FixtureSpec, GicSpec, HighSpec, ItsPlace, Mmio64Spec, PciSpec, RedistSpec, SetOption,
    SpecBoard,
};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;

const GIC_DIST: u64 = 0x0800_0000;
const GIC_CPU: AddressRange = AddressRange::fixed(0x0801_0000, 64 * KIB);
const GIC_ITS: u64 = 0x0808_0000;
/// 123 redistributors, the number users know QEMU by.
const GIC_REDISTS: AddressRange = AddressRange::fixed(0x080a_0000, 0x00f6_0000);
const HIGH_REDISTS: u64 = 64 * MIB;

const HIGH_MMIO: u64 = 512 * GIB;

/// Windows of devices that are not here.
const RESERVED: [(&str, u64, u64); 14] = [
    ("flash", 0, 128 * MIB),
    ("gic-v2m", 0x0802_0000, 4 * KIB),
    ("gic-hyp", 0x0803_0000, 64 * KIB),
    ("gic-vcpu", 0x0804_0000, 64 * KIB),
    ("fw-cfg", 0x0902_0000, 24),
    ("gpio", 0x0903_0000, 4 * KIB),
    ("uart1", 0x0904_0000, 4 * KIB),
    ("smmu", 0x0905_0000, 128 * KIB),
    ("pcdimm-acpi", 0x0907_0000, 24),
    ("acpi-ged", 0x0908_0000, 4),
    ("nvdimm-acpi", 0x0909_0000, 4),
    ("pvtime", 0x090a_0000, 64 * KIB),
    ("secure-gpio", 0x090b_0000, 4 * KIB),
    ("secure-mem", 0x0e00_0000, 16 * MIB),
];
const PLATFORM_BUS: (&str, u64, u64) = ("platform-bus", 0x0c00_0000, 32 * MIB);

/// QEMU's arm64 machine.
pub fn qemu_virt() -> SpecBoard {
    SpecBoard::new(spec(), OPTIONS)
}

fn spec() -> BoardSpec {
    let reserved = RESERVED.into_iter().chain([PLATFORM_BUS]);
    BoardSpec {
        name: "qemu-virt".into(),
        about: "the map of QEMU's virt machine (10.0), with its limits: nothing high below 39 bits".into(),
        width: None,
        max_cpus: gic::MAX_CPUS,
        ram: RamPlace { base: 0x4000_0000, grain: GIB, slot_room: GIB, max_slots: 256 },
        reserved: reserved.map(|(name, base, size)| (name.into(), AddressRange::fixed(base, size))).collect(),
        gic: gicv3(false),
        pins: 256,
        devices: DevicePlaces {
            window: AddressRange::fixed(0x0a00_0000, 32 * 0x200),
            grain: 0x200,
            pins: 16..=47,
        },
        transport: Transport::Mmio,
        fixtures: vec![
            FixtureSpec { id: "uart0".into(), kind: "pl011".into(), base: 0x0900_0000, pin: Some(1) },
            FixtureSpec { id: "rtc0".into(), kind: "pl031".into(), base: 0x0901_0000, pin: Some(2) },
        ],
        pci: Some(PciSpec {
            ecam: AddressRange::fixed(0x3f00_0000, 16 * MIB),
            high_ecam: Some(HighSpec { size: 256 * MIB, off: None }),
            io: Some(AddressRange::fixed(0x3eff_0000, 64 * KIB)),
            mmio32: AddressRange::fixed(0x1000_0000, 0x2eff_0000),
            mmio64: Some(Mmio64Spec::Fixed(HighSpec { size: HIGH_MMIO, off: None })),
            intx: Some(3),
        }),
        floor: 256 * GIB,
        holes: false,
        edits: Vec::new(),
        kernel_offset: 0,
    }
}

fn gicv3(v4: bool) -> GicSpec {
    GicSpec::V3 {
        dist: GIC_DIST,
        its: Some(ItsPlace::At(GIC_ITS)),
        redists: vec![
            RedistSpec::Up { window: GIC_REDISTS, whole: true },
            RedistSpec::High { size: HIGH_REDISTS, off: None },
        ],
        v4,
    }
}

/// Room for redistributors is kept above RAM whatever the GIC is.
fn gicv2() -> GicSpec {
    let dist = AddressRange::fixed(GIC_DIST, gic::DIST_SIZE);
    GicSpec::V2 { dist, cpu: GIC_CPU, kept: vec![HighSpec { size: HIGH_REDISTS, off: None }] }
}

/// The option that takes the redistributors above RAM away.
fn high_redists(gic: &mut GicSpec) -> Option<&mut Option<String>> {
    match gic {
        GicSpec::V2 { kept, .. } => kept.first_mut().map(|kept| &mut kept.off),
        GicSpec::V3 { redists, .. } => redists.iter_mut().find_map(|redist| match redist {
            RedistSpec::High { off, .. } => Some(off),
            _ => None,
        }),
    }
}

/// `None` for a word that is neither; `on` is no reason to leave anything out.
fn off(key: &str, value: &str) -> Result<Option<String>, &'static str> {
    match value {
        "on" => Ok(None),
        "off" => Ok(Some(format!("the board's option {key}=off"))),
        _ => Err("on or off"),
    }
}

const OPTIONS: &[(BoardOption, SetOption)] = &[
    (
        BoardOption { key: "highmem", values: "on|off", about: "off: 32 address bits on every host [on]" },
        |spec, value| {
            spec.width = off("highmem", value)?.map(|_| PaBits::MIN);
            Ok(())
        },
    ),
    (
        BoardOption {
            key: "highmem-redists",
            values: "on|off",
            about: "64 MiB for redistributors above RAM, for more than 123 vCPUs [on]",
        },
        |spec, value| {
            let switch = off("highmem-redists", value)?;
            if let Some(off) = high_redists(&mut spec.gic) {
                *off = switch;
            }
            Ok(())
        },
    ),
    (
        BoardOption {
            key: "highmem-ecam",
            values: "on|off",
            about: "256 PCI buses above RAM instead of 16 below [on]",
        },
        |spec, value| {
            let switch = off("highmem-ecam", value)?;
            if let Some(PciSpec { high_ecam: Some(ecam), .. }) = &mut spec.pci {
                ecam.off = switch;
            }
            Ok(())
        },
    ),
    (
        BoardOption {
            key: "highmem-mmio",
            values: "on|off",
            about: "a window for 64-bit BARs above RAM [on]",
        },
        |spec, value| {
            let switch = off("highmem-mmio", value)?;
            if let Some(PciSpec { mmio64: Some(Mmio64Spec::Fixed(window)), .. }) = &mut spec.pci {
                window.off = switch;
            }
            Ok(())
        },
    ),
    (
        BoardOption {
            key: "highmem-mmio-size",
            values: "SIZE",
            about: "of that window: a power of two, at least 512G [512G]",
        },
        |spec, value| {
            const WANTED: &str = "a power of two, at least 512G";
            let size = parse_size(value).map_err(|_| WANTED)?;
            if !size.is_power_of_two() || size < HIGH_MMIO {
                return Err(WANTED);
            }
            if let Some(PciSpec { mmio64: Some(Mmio64Spec::Fixed(window)), .. }) = &mut spec.pci {
                window.size = size;
            }
            Ok(())
        },
    ),
    (
        BoardOption {
            key: "compact-highmem",
            values: "on|off",
            about: "off: what is left out above RAM leaves a hole [on]",
        },
        |spec, value| {
            spec.holes = off("compact-highmem", value)?.is_some();
            Ok(())
        },
    ),
    (
        BoardOption {
            key: "gic-version",
            values: "2|3|4",
            about: "2: at most 8 vCPUs; 4: larger redistributors, to plan with and not to run [3]",
        },
        |spec, value| {
            let off = high_redists(&mut spec.gic).and_then(|off| off.clone());
            spec.gic = match value {
                "2" => gicv2(),
                "3" => gicv3(false),
                "4" => gicv3(true),
                _ => return Err("2, 3 or 4"),
            };
            if let Some(kept) = high_redists(&mut spec.gic) {
                *kept = off;
            }
            Ok(())
        },
    ),
];
