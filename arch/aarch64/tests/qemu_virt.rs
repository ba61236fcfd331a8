//! The board `qemu-virt` against QEMU 10.0.2: the vectors that were taken from it.
//!
//! The one thing that is not QEMU's is the highest address while RAM is the last: QEMU counts RAM to the end
//! of its last GiB, and the plan to its last byte. No power of two from 2^30 on is between the two, so
//! both ask KVM for the same width.

mod proof;

use ambit_aarch64::qemu_virt;
use ambit_bus::Trigger;
use ambit_device_manager::{Board, MachineConfig, MemoryHotplug, OptionError, Plan, PlanError};
use ambit_resources::{AddressRange, IrqPin, parse_size};
use proof::{GIB, KIB, MIB, config, highest, host, place, planned, redists, virtio, with};

const VECTORS: &str = include_str!("qemu-virt.csv");
const LOW_ECAM: (u64, u64) = (0x3f00_0000, 16 * MIB);

/// What QEMU said of one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Ok(Map),
    /// "Addressing limited to N bits, but memory exceeds it by this many bytes".
    MemoryBeyond(u64),
    /// "Number of SMP CPUs requested (N) exceeds max CPUs supported by machine".
    Capacity(u32),
    /// "Invalid SMP CPUs N. The max CPUs supported by machine".
    MachineMaximum(u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Map {
    /// The first GiB boundary that is neither RAM nor kept for it.
    memtop: u64,
    redists: Vec<(u64, u32)>,
    ecam: (u64, u64),
    mmio64: Option<(u64, u64)>,
    highest: u64,
    kvm_type: u8,
}

fn number(text: &str) -> u64 {
    text.strip_prefix("0x").map_or_else(
        || parse_size(text).unwrap_or_else(|error| panic!("{error}")),
        |hex| u64::from_str_radix(hex, 16).unwrap(),
    )
}

fn between(text: &str, before: &str, after: &str) -> Option<u64> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after)?.0.parse().ok()
}

fn refused(text: &str) -> Option<Said> {
    let short = |count: u64| u32::try_from(count).unwrap();
    between(text, "memory exceeds it by ", " bytes")
        .map(Said::MemoryBeyond)
        .or_else(|| between(text, "by machine 'mach-virt' (", ")").map(|count| Said::Capacity(short(count))))
        .or_else(|| {
            let (_, count) = text.split_once("The max CPUs supported by machine is ")?;
            Some(Said::MachineMaximum(count.trim_end_matches(['"', ',']).parse().unwrap()))
        })
}

/// What the planner says, in QEMU's words.
fn ours(board: &dyn Board, config: &MachineConfig, pa_bits: u8) -> Said {
    match planned(board, config, &host(pa_bits)).map_err(|refusal| refusal.error) {
        Ok(plan) => Said::Ok(map(&plan)),
        Err(PlanError::MemoryBeyondWidth { short, .. } | PlanError::HotplugBeyondWidth { short, .. }) => {
            Said::MemoryBeyond(short)
        }
        Err(PlanError::TooManyCpus { limit, bound, .. }) if bound.contains("has room for") => {
            Said::Capacity(limit)
        }
        Err(PlanError::TooManyCpus { limit, bound, .. }) if bound == "board qemu-virt has" => {
            Said::MachineMaximum(limit)
        }
        Err(other) => panic!("{config:?} with {pa_bits} bits: {other}"),
    }
}

fn map(plan: &Plan) -> Map {
    let memory = ["ram0", "ram.hotplug"].into_iter().filter_map(|name| plan.range(name));
    let last = memory.map(AddressRange::last).max().unwrap();
    let memtop = (last + 1).next_multiple_of(GIB);
    let highest = highest(plan);
    Map {
        memtop,
        redists: redists(plan),
        ecam: place(plan, "pci.ecam").unwrap(),
        mmio64: place(plan, "pci.mmio64"),
        highest: if highest == last { memtop - 1 } else { highest },
        kvm_type: plan.ipa_bits.get(),
    }
}

fn column_list(line: &str) -> (u8, u64, u32, Said) {
    let fields: Vec<&str> = line.splitn(4, ',').collect();
    let [pa_bits, ram, vcpus, rest] = fields[..] else { panic!("{line}") };
    let said = refused(rest).unwrap_or_else(|| {
        let fields: Vec<&str> = rest.split(',').collect();
        let [
            "ok",
            memtop,
            redist2,
            _,
            mmio64,
            count0,
            count1,
            ecam,
            ecam_size,
            mmio64_used,
            highest,
            kvm_type,
        ] = fields[..]
        else {
            panic!("{line}")
        };
        let count = |text: &str| text.parse::<u32>().unwrap();
        let mut redists = vec![(0x080a_0000, count(count0))];
        if count(count1) > 0 {
            redists.push((number(redist2), count(count1)));
        }
        let mmio64_used = Some(mmio64_used).filter(|used| *used != "none").map(number);
        assert_eq!(mmio64_used, Some(mmio64).filter(|used| *used != "off").map(number), "{line}");
        Said::Ok(Map {
            memtop: number(memtop),
            redists,
            ecam: (number(ecam), number(ecam_size)),
            mmio64: mmio64_used.map(|base| (base, 512 * GIB)),
            highest: number(highest),
            kvm_type: kvm_type.parse().unwrap(),
        })
    });
    (pa_bits.parse().unwrap(), number(ram), vcpus.parse().unwrap(), said)
}

#[test]
fn every_machine_of_the_vectors_is_as_qemu_has_it() {
    let mut rows = 0;
    for line in VECTORS.lines().skip(1) {
        let (pa_bits, ram, vcpus, said) = column_list(line);

        assert_eq!(ours(&qemu_virt(), &config(vcpus, ram), pa_bits), said, "{line}");
        rows += 1;
    }

    assert_eq!(rows, 264);
}

#[test]
fn the_high_window_of_redistributors_is_where_qemu_has_it_even_if_nobody_uses_it() {
    for line in VECTORS.lines().skip(1) {
        let (pa_bits, ram, vcpus, said) = column_list(line);
        let Said::Ok(map) = said else { continue };
        let redist2 = line.split(',').nth(5).unwrap();
        let expected = Some(redist2).filter(|base| *base != "off").map(number);

        let plan = planned(&qemu_virt(), &config(vcpus, ram), &host(pa_bits)).unwrap();

        let name = if map.redists.len() > 1 { "gic.redist1" } else { "reserved.gic.redist1" };
        let kept = plan.region(name).and_then(proof::kept).map(|range| (range.first(), range.size()));
        assert_eq!(kept, expected.map(|base| (base, 64 * MIB)), "{line}");
    }
}

/// The 49 machines of the specification's section B.7: number, options of the board, hot-plug slots and the
/// most memory, bits, RAM, vCPUs, and what QEMU said.
type Row = (u8, &'static str, Option<(u32, &'static str)>, u8, &'static str, u32, &'static str);

/// Said in short: memtop; second redistributors, if any; ECAM ("low" or a base); the 64-bit window as base+size;
/// the highest address; what KVM is asked for.
#[rustfmt::skip]
const WORKED: [Row; 49] = [
    (1, "", None, 32, "256M", 1, "0x80000000; 1; low; off; 0x7FFFFFFF; 32"),
    (2, "", None, 32, "3G", 123, "0x100000000; 123; low; off; 0xFFFFFFFF; 32"),
    (3, "", None, 32, "4G", 1, "memory 1073741824"),
    (4, "", None, 36, "256M", 1, "0x80000000; 1; low; off; 0x7FFFFFFF; 32"),
    (5, "", None, 36, "3G", 123, "0x100000000; 123; low; off; 0xFFFFFFFF; 32"),
    (6, "", None, 36, "32G", 123, "0x840000000; 123; low; off; 0x83FFFFFFF; 36"),
    (7, "", None, 36, "63G", 123, "0x1000000000; 123; low; off; 0xFFFFFFFFF; 36"),
    (8, "", None, 36, "64G", 1, "memory 1073741824"),
    (9, "", None, 36, "4G", 124, "capacity 123"),
    (10, "", None, 39, "256M", 1, "0x80000000; 1; 0x4010000000; off; 0x401FFFFFFF; 39"),
    (11, "", None, 39, "63G", 124, "0x1000000000; 123 1@0x4000000000; 0x4010000000; off; 0x401FFFFFFF; 39"),
    (12, "", None, 39, "255G", 255, "0x4000000000; 123 132@0x4000000000; 0x4010000000; off; 0x401FFFFFFF; 39"),
    (13, "", None, 39, "256G", 512, "0x4040000000; 123 389@0x4040000000; 0x4050000000; off; 0x405FFFFFFF; 39"),
    (14, "", None, 39, "255G", 513, "machine 512"),
    (15, "", None, 39, "1T", 1, "memory 550829555712"),
    (16, "", None, 40, "256M", 1, "0x80000000; 1; 0x4010000000; 0x8000000000+512G; 0xFFFFFFFFFF; 40"),
    (17, "", None, 40, "255G", 512, "0x4000000000; 123 389@0x4000000000; 0x4010000000; 0x8000000000+512G; 0xFFFFFFFFFF; 40"),
    (18, "", None, 40, "256G", 124, "0x4040000000; 123 1@0x4040000000; 0x4050000000; 0x8000000000+512G; 0xFFFFFFFFFF; 40"),
    (19, "", None, 40, "1T", 1, "memory 1073741824"),
    (20, "", None, 42, "1T", 255, "0x10040000000; 123 132@0x10040000000; 0x10050000000; 0x18000000000+512G; 0x1FFFFFFFFFF; 41"),
    (21, "", None, 44, "64G", 1, "0x1040000000; 1; 0x4010000000; 0x8000000000+512G; 0xFFFFFFFFFF; 40"),
    (22, "", None, 44, "1T", 512, "0x10040000000; 123 389@0x10040000000; 0x10050000000; 0x18000000000+512G; 0x1FFFFFFFFFF; 41"),
    (23, "", None, 48, "16G", 124, "0x440000000; 123 1@0x4000000000; 0x4010000000; 0x8000000000+512G; 0xFFFFFFFFFF; 40"),
    (24, "", None, 48, "1T", 123, "0x10040000000; 123; 0x10050000000; 0x18000000000+512G; 0x1FFFFFFFFFF; 41"),
    (25, "", None, 52, "8G", 255, "0x240000000; 123 132@0x4000000000; 0x4010000000; 0x8000000000+512G; 0xFFFFFFFFFF; 40"),
    (26, "", None, 52, "1T", 512, "0x10040000000; 123 389@0x10040000000; 0x10050000000; 0x18000000000+512G; 0x1FFFFFFFFFF; 41"),
    (27, "highmem=off", None, 48, "3G", 1, "0x100000000; 1; low; off; 0xFFFFFFFF; 32"),
    (28, "highmem=off", None, 48, "4G", 1, "memory 1073741824"),
    (29, "highmem-redists=off", None, 40, "8G", 124, "capacity 123"),
    (30, "highmem-redists=off", None, 40, "8G", 1, "0x240000000; 1; 0x4000000000; 0x8000000000+512G; 0xFFFFFFFFFF; 40"),
    (31, "compact-highmem=off,highmem-redists=off", None, 40, "8G", 1, "0x240000000; 1; 0x4010000000; 0x8000000000+512G; 0xFFFFFFFFFF; 40"),
    (32, "highmem-ecam=off", None, 40, "8G", 1, "0x240000000; 1; low; 0x8000000000+512G; 0xFFFFFFFFFF; 40"),
    (33, "highmem-mmio=off", None, 44, "8G", 1, "0x240000000; 1; 0x4010000000; off; 0x401FFFFFFF; 39"),
    (34, "compact-highmem=off,highmem-mmio=off", None, 44, "8G", 1, "0x240000000; 1; 0x4010000000; off; 0xFFFFFFFFFF; 40"),
    (35, "compact-highmem=off", None, 36, "8G", 1, "0x240000000; 1; low; off; 0x23FFFFFFF; 34"),
    (36, "highmem-mmio-size=1T", None, 40, "8G", 1, "0x240000000; 1; 0x4010000000; off; 0x401FFFFFFF; 39"),
    (37, "highmem-mmio-size=1T", None, 42, "8G", 1, "0x240000000; 1; 0x4010000000; 0x10000000000+1T; 0x1FFFFFFFFFF; 41"),
    (38, "highmem-mmio-size=2T", None, 44, "300G", 1, "0x4B40000000; 1; 0x4B50000000; 0x20000000000+2T; 0x3FFFFFFFFFF; 42"),
    (39, "", Some((2, "8G")), 40, "4G", 1, "0x2C0000000; 1; 0x4010000000; 0x8000000000+512G; 0xFFFFFFFFFF; 40"),
    (40, "", Some((2, "1020G")), 40, "4G", 124, "0xFFC0000000; 123 1@0xFFC0000000; 0xFFD0000000; off; 0xFFDFFFFFFF; 40"),
    (41, "", Some((2, "1021G")), 40, "4G", 1, "0x10000000000; 1; low; off; 0xFFFFFFFFFF; 40"),
    (42, "", Some((2, "1022G")), 40, "4G", 1, "memory 1073741824"),
    (43, "", Some((4, "300G")), 44, "200G", 1, "0x4C40000000; 1; 0x4C50000000; 0x8000000000+512G; 0xFFFFFFFFFF; 40"),
    (44, "", Some((1, "62G")), 36, "60G", 1, "0x1000000000; 1; low; off; 0xFFFFFFFFF; 36"),
    (45, "", Some((1, "63G")), 36, "60G", 1, "memory 1073741824"),
    (46, "gic-version=4", None, 40, "8G", 62, "0x240000000; 61 1@0x4000000000; 0x4010000000; 0x8000000000+512G; 0xFFFFFFFFFF; 40"),
    (47, "gic-version=4", None, 40, "8G", 317, "0x240000000; 61 256@0x4000000000; 0x4010000000; 0x8000000000+512G; 0xFFFFFFFFFF; 40"),
    (48, "gic-version=4", None, 40, "8G", 318, "capacity 317"),
    (49, "gic-version=4", None, 36, "8G", 62, "capacity 61"),
];

fn worked(said: &str) -> Said {
    if let Some((kind, number)) = said.split_once(' ').filter(|(kind, _)| !kind.ends_with(';')) {
        let number: u64 = number.parse().unwrap();
        let count = u32::try_from(number).unwrap_or(u32::MAX);
        return match kind {
            "memory" => Said::MemoryBeyond(number),
            "capacity" => Said::Capacity(count),
            _ => Said::MachineMaximum(count),
        };
    }
    let fields: Vec<&str> = said.split("; ").collect();
    let [memtop, redists, ecam, mmio64, highest, kvm_type] = fields[..] else { panic!("{said}") };
    let redists = redists.split(' ').map(|redist| match redist.split_once('@') {
        Some((count, base)) => (number(base), count.parse().unwrap()),
        None => (0x080a_0000, redist.parse().unwrap()),
    });
    Said::Ok(Map {
        memtop: number(memtop),
        redists: redists.collect(),
        ecam: if ecam == "low" { LOW_ECAM } else { (number(ecam), 256 * MIB) },
        mmio64: mmio64.split_once('+').map(|(base, size)| (number(base), number(size))),
        highest: number(highest),
        kvm_type: kvm_type.parse().unwrap(),
    })
}

#[test]
fn every_option_does_to_the_map_what_it_does_in_qemu() {
    for (at, (row, options, hotplug, pa_bits, ram, vcpus, said)) in WORKED.into_iter().enumerate() {
        assert_eq!(usize::from(row), at + 1);
        let board = with(&qemu_virt(), options);
        let mut config = config(vcpus, number(ram));
        config.hotplug = hotplug.map(|(slots, most)| MemoryHotplug { max_memory: number(most), slots });

        assert_eq!(ours(board.as_ref(), &config, pa_bits), worked(said), "row {row}");
    }
}

/// Run with QEMU 7.2: the window for redistributors is kept whatever the GIC, so ECAM does not move.
#[test]
fn with_a_gicv2_the_high_regions_are_where_they_are_with_a_gicv3() {
    let config = config(8, 8 * GIB);
    let v3 = planned(&qemu_virt(), &config, &host(40)).unwrap();
    let v2 = planned(with(&qemu_virt(), "gic-version=2").as_ref(), &config, &host(40)).unwrap();

    for name in ["pci.ecam", "pci.mmio64"] {
        assert_eq!(v2.range(name), v3.range(name), "{name}");
    }
    assert_eq!(v2.ipa_bits, v3.ipa_bits);
}

#[test]
fn the_size_of_the_high_window_is_a_power_of_two_and_no_smaller_than_qemus() {
    let refused = |value: &str| {
        let options = [("highmem-mmio-size".to_owned(), value.to_owned())];
        qemu_virt().with_options(&options).err()
    };
    let error = |value: &str| {
        Some(OptionError::Value {
            key: "highmem-mmio-size".into(),
            value: value.into(),
            wanted: "a power of two, at least 512G".into(),
        })
    };

    for value in ["0", "3T", "768G", "549755813889", "1", "256G", "much", ""] {
        assert_eq!(refused(value), error(value), "{value}");
    }
    for value in ["512G", "1T", "2T", "1024T"] {
        assert_eq!(refused(value), None, "{value}");
    }
}

#[test]
fn more_than_256_slots_are_refused() {
    let mut config = config(1, GIB);
    config.hotplug = Some(MemoryHotplug { max_memory: 2 * GIB, slots: 256 });
    assert!(planned(&qemu_virt(), &config, &host(48)).is_ok());

    config.hotplug = Some(MemoryHotplug { max_memory: 2 * GIB, slots: 257 });

    let error = planned(&qemu_virt(), &config, &host(48)).unwrap_err().error;
    assert!(matches!(error, PlanError::MemorySlots { wanted: 257, .. }), "{error}");
}

#[test]
fn a_gicv2_has_8_vcpus() {
    let board = with(&qemu_virt(), "gic-version=2");

    assert!(planned(board.as_ref(), &config(8, GIB), &host(40)).is_ok());
    let error = planned(board.as_ref(), &config(9, GIB), &host(40)).unwrap_err().error;
    assert!(matches!(error, PlanError::TooManyCpus { limit: 8, .. }), "{error}");
}

/// The specification's section B.1.
#[test]
fn everything_below_ram_is_qemus_low_map() {
    let low = [
        ("reserved.flash", 0, 128 * MIB),
        ("gic.dist", 0x0800_0000, 64 * KIB),
        ("reserved.gic-v2m", 0x0802_0000, 4 * KIB),
        ("reserved.gic-hyp", 0x0803_0000, 64 * KIB),
        ("reserved.gic-vcpu", 0x0804_0000, 64 * KIB),
        ("gic.its", 0x0808_0000, 128 * KIB),
        ("gic.redist0", 0x080a_0000, 0x00f6_0000),
        ("uart0", 0x0900_0000, 4 * KIB),
        ("rtc0", 0x0901_0000, 4 * KIB),
        ("reserved.fw-cfg", 0x0902_0000, 24),
        ("reserved.gpio", 0x0903_0000, 4 * KIB),
        ("reserved.uart1", 0x0904_0000, 4 * KIB),
        ("reserved.smmu", 0x0905_0000, 128 * KIB),
        ("reserved.pcdimm-acpi", 0x0907_0000, 24),
        ("reserved.acpi-ged", 0x0908_0000, 4),
        ("reserved.nvdimm-acpi", 0x0909_0000, 4),
        ("reserved.pvtime", 0x090a_0000, 64 * KIB),
        ("reserved.secure-gpio", 0x090b_0000, 4 * KIB),
        ("reserved.platform-bus", 0x0c00_0000, 32 * MIB),
        ("reserved.secure-mem", 0x0e00_0000, 16 * MIB),
        ("pci.mmio32", 0x1000_0000, 0x2eff_0000),
        ("pci.io", 0x3eff_0000, 64 * KIB),
        ("pci.ecam", 0x3f00_0000, 16 * MIB),
        ("ram0", 0x4000_0000, 3 * GIB),
    ];
    let plan = planned(&qemu_virt(), &config(1, 3 * GIB), &host(32)).unwrap();

    let found: Vec<(&str, u64, u64)> = plan
        .regions
        .iter()
        .filter_map(|region| Some((region.name.as_str(), proof::kept(region)?)))
        .map(|(name, range)| (name, range.first(), range.size()))
        .collect();

    let mut low = low.to_vec();
    low.sort_by_key(|(_, first, _)| *first);
    assert_eq!(found, low);
}

#[test]
fn pins_are_qemus() {
    let mut config = config(1, GIB);
    config.devices = (0..32).map(|n| virtio(&format!("virtio{n}"))).collect();
    let plan = planned(&qemu_virt(), &config, &host(40)).unwrap();

    let pin = |id: &str| plan.device(id).unwrap().slot.irq.unwrap().0.0;
    assert_eq!([pin("uart0"), pin("rtc0")], [1, 2]);
    assert_eq!(plan.intx, [3, 4, 5, 6].map(IrqPin));
    for (index, device) in plan.devices.iter().skip(3).enumerate() {
        let index = u32::try_from(index).unwrap();
        let window = AddressRange::fixed(0x0a00_0000 + u64::from(index) * 0x200, 0x200);
        assert_eq!(device.slot.windows, [window]);
        assert_eq!(device.slot.irq, Some((IrqPin(16 + index), Trigger::Edge)));
    }
    config.devices.push(virtio("one-too-many"));
    assert!(planned(&qemu_virt(), &config, &host(40)).is_err());
}
