//! The board `kvmtool` against kvmtool's own map (the specification's section C.3).

mod proof;

use ambit_aarch64::spec::{GicSpec, RedistSpec};
use ambit_aarch64::{SpecBoard, gic, kvmtool};
use ambit_bus::{Bar, BarSpace, Needs, Request};
use ambit_device_manager::{HostFacts, MachineConfig, Plan, PlanError, RegionKind};
use ambit_resources::{AddressRange, IrqPin, SpaceError, bits_for};
use proof::{GIB, KIB, MIB, config, function, host, place, planned, virtio, with};

const GIC_DIST: u64 = 0x3fff_0000;
const VIRTIO: u64 = 0x0300_0000;
const RAM: u64 = 0x8000_0000;

fn plan(config: &MachineConfig) -> Plan {
    planned(&kvmtool(), config, &host(48)).unwrap_or_else(|refusal| panic!("{config:?}: {refusal}"))
}

/// Every region with its base and size, lowest first.
fn map(plan: &Plan) -> Vec<(&str, u64, u64)> {
    let placed = plan.regions.iter().filter_map(|region| Some((region.name.as_str(), region.range?)));
    placed.map(|(name, range)| (name, range.first(), range.size())).collect()
}

/// A window of registers without a pin.
fn window(id: String, registers: u64) -> Request {
    Request { needs: Needs::Board { registers, irq: None }, ..virtio(&id) }
}

#[test]
fn the_whole_map_is_kvmtools_for_every_number_of_vcpus() {
    // vCPUs, redistributors, ITS.
    let bases = [
        (1, 0x3ffd_0000, 0x3ffb_0000),
        (123, 0x3f09_0000, 0x3f07_0000),
        (124, 0x3f07_0000, 0x3f05_0000),
        (512, 0x3bff_0000, 0x3bfd_0000),
    ];
    for (cpus, redists, its) in bases {
        let mut config = config(cpus, GIB);
        config.devices = ["a", "b", "c"].map(virtio).into();

        assert_eq!(
            map(&plan(&config)),
            [
                ("pci.io", 0, 64 * KIB),
                ("uart0", 0x0100_0000, 4 * KIB),
                ("rtc0", 0x0101_0000, 4 * KIB),
                ("reserved.pvtime", 0x0102_0000, 64 * KIB),
                ("reserved.flash", 0x0200_0000, 16 * MIB),
                ("a", VIRTIO, 0x200),
                ("b", VIRTIO + 0x200, 0x200),
                ("c", VIRTIO + 0x400, 0x200),
                ("gic.its", its, 128 * KIB),
                ("gic.redist0", redists, u64::from(cpus) * 128 * KIB),
                ("gic.dist", GIC_DIST, 64 * KIB),
                ("pci.ecam", 0x4000_0000, 256 * MIB),
                ("pci.mmio32", 0x5000_0000, 0x3000_0000),
                ("ram0", RAM, GIB),
            ],
            "{cpus} vCPUs"
        );
    }
}

#[test]
fn every_number_of_vcpus_grows_the_redistributors_down_from_the_distributor() {
    for cpus in 1..=512 {
        let plan = plan(&config(cpus, GIB));

        let size = u64::from(cpus) * 128 * KIB;
        assert_eq!(proof::redists(&plan), [(GIC_DIST - size, cpus)]);
        assert_eq!(place(&plan, "gic.its"), Some((GIC_DIST - size - 128 * KIB, 128 * KIB)));
    }
}

#[test]
fn a_gicv2_has_its_interface_below_the_distributor() {
    let board = with(&kvmtool(), "gic-version=2");
    let plan = planned(board.as_ref(), &config(8, GIB), &host(40)).unwrap();

    assert_eq!(place(&plan, "gic.cpu"), Some((0x3ffd_0000, 128 * KIB)));
    assert_eq!(place(&plan, "gic.dist"), Some((GIC_DIST, 64 * KIB)));
}

#[test]
fn kvm_is_asked_for_the_bits_that_cover_ram_and_for_32_at_least() {
    let page = 4 * KIB;
    for memory in [page, GIB, 2 * GIB - page, 2 * GIB, 2 * GIB + page, 14 * GIB, 14 * GIB + page, 62 * GIB] {
        let plan = plan(&config(1, memory));

        assert_eq!(plan.range("ram0"), AddressRange::new(RAM, memory));
        assert_eq!(plan.ipa_bits.get(), bits_for(RAM + memory - 1).max(32), "{memory:#x}");
    }
}

#[test]
fn nothing_is_above_ram_whatever_the_width() {
    for bits in [33, 40, 52] {
        let plan = planned(&kvmtool(), &config(512, 3 * GIB), &host(bits)).unwrap();

        let last = plan.regions.iter().rfind(|region| region.range.is_some()).unwrap();
        assert_eq!((last.name.as_str(), last.kind), ("ram0", RegionKind::Ram));
        assert_eq!(plan.region("pci.mmio64"), None);
    }
}

/// Sizes that fill `[first, end)` from below, each at a multiple of itself.
fn filling(first: u64, end: u64) -> Vec<u64> {
    let (mut next, mut sizes) = (first, Vec::new());
    while next < end {
        let fits = |shift: &u32| next.is_multiple_of(1 << shift) && next + (1 << shift) <= end;
        let size = 1 << (9..40).rev().find(fits).unwrap();
        sizes.push(size);
        next += size;
    }
    sizes
}

#[test]
fn virtio_windows_grow_up_to_the_gic_and_the_next_one_is_refused() {
    for (cpus, its) in [(1, true), (124, false), (512, true), (512, false)] {
        let mut facts = host(40);
        facts.its = its;
        let taken = u64::from(cpus) * 128 * KIB + if its { 128 * KIB } else { 0 };
        let mut config = config(cpus, GIB);
        if !its {
            config.pci = None;
        }
        let sizes = filling(VIRTIO, GIC_DIST - taken);
        config.devices = (0..).zip(sizes).map(|(n, size)| window(format!("d{n}"), size)).collect();

        let full = planned(&kvmtool(), &config, &facts).unwrap();

        let last = full.devices.last().unwrap().slot.windows[0].last();
        assert_eq!(last + 1, GIC_DIST - taken, "the two areas touch");
        config.devices.push(window("one-more".into(), 0x200));
        let error = planned(&kvmtool(), &config, &facts).unwrap_err().error;
        let met = matches!(&error, PlanError::Space(SpaceError::NoRoom { owner, .. }) if owner == "one-more");
        assert!(met, "{error}");
    }
}

#[test]
fn a_window_that_would_reach_into_the_redistributors_is_refused() {
    let mut config = config(512, GIB);
    // The third would be [0x3000_0000, 0x4000_0000), and the GIC begins at 0x3bfd_0000.
    config.devices = ["a", "b", "c"].map(|id| window(id.into(), 0x1000_0000)).into();

    let error = planned(&kvmtool(), &config, &host(40)).unwrap_err().error;

    let met = matches!(&error, PlanError::Space(SpaceError::NoRoom { owner, .. }) if owner == "c");
    assert!(met, "{error}");
}

#[test]
fn bars_go_up_from_0x5000_0000_at_multiples_of_themselves() {
    let sizes = [4 * KIB, 64 * KIB, 4 * KIB, MIB];
    let bars = sizes.map(|size| Bar { size, space: BarSpace::Mmio32 });
    let mut config = config(1, GIB);
    config.devices = vec![function("nic", bars.into())];
    let plan = plan(&config);

    let found: Vec<u64> = plan.device("nic").unwrap().slot.windows.iter().map(|it| it.first()).collect();
    // Function 1's configuration space, then the BARs. The third has the room that the second left, where
    // kvmtool would go on above it; guests read their BARs, so none can tell.
    assert_eq!(found, [0x4000_8000, 0x5000_0000, 0x5001_0000, 0x5000_1000, 0x5010_0000]);
}

#[test]
fn there_are_224_lines() {
    let mut config = config(1, GIB);
    config.devices = (0..218).map(|n| virtio(&format!("d{n}"))).collect();
    let full = plan(&config);

    let pins: Vec<IrqPin> = full.irqs.owners().map(|(pin, _)| pin).collect();
    assert_eq!(pins, (0..224).map(IrqPin).collect::<Vec<_>>());
    config.devices.push(virtio("one-more"));
    let error = planned(&kvmtool(), &config, &host(40)).unwrap_err().error;
    assert!(matches!(error, PlanError::Irq(_)), "{error}");
}

#[test]
fn an_its_without_room_below_the_redistributors_is_not_the_hosts_lack() {
    let mut spec = kvmtool().spec;
    let GicSpec::V3 { redists, .. } = &mut spec.gic else { panic!("kvmtool has a GICv3") };
    // Room for 16, and nothing below the last of them.
    *redists = vec![RedistSpec::Down { top: 16 * gic::REDIST_SIZE }];
    spec.pci = None;
    for fixture in &mut spec.fixtures {
        fixture.base += 0x1000_0000;
    }
    let why = |cpus, its| {
        let facts = HostFacts { its, ..HostFacts::assumed() };
        let config = MachineConfig { cpus, pci: None, ..MachineConfig::default() };
        let plan = ambit_device_manager::plan(&SpecBoard::new(spec.clone(), &[]), &config, &facts).unwrap();
        plan.region(gic::ITS).unwrap().reason.clone()
    };

    assert_eq!(why(15, true), None);
    assert_eq!(why(16, true).unwrap(), "there is no room for it below the redistributors");
    assert_eq!(why(15, false).unwrap(), "this host's KVM has no interrupt translation service");
}
