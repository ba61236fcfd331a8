//! What holds for every machine, whatever its size, the host's vendor and width, and what is kept free.

use std::sync::Arc;

use ambit_bus::{Bar, BarSpace, Needs, Request, Trigger};
use ambit_device_manager::{
    Board, HolePolicy, HostFacts, IommuKind, IommuRegion, MachineConfig, MemoryHotplug, PciConfig, Plan,
    Processor, RegionKind, Reserve, Vendor, Width, WidthSource, attempt, plan,
};
use ambit_resources::{AddressRange, PaBits};
use ambit_x86_64::zero_page::{E820, E820Kind};
use ambit_x86_64::{e820, pc, q35, reserved};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// 1 MiB to 64 TiB, every magnitude as likely as any other, and those around the hole more.
fn sizes() -> impl Strategy<Value = u64> {
    prop_oneof![
        (20_u32..46, any::<u64>())
            .prop_map(|(shift, odd)| ((1_u64 << shift) | (odd % (1 << shift))) & !0xfff),
        (900_u64..1100).prop_map(|gib| gib * GIB),
        (0_u64..64).prop_map(|pages| 1012 * GIB - 32 * 4096 + pages * 4096),
        Just(64 * TIB),
    ]
}

fn ranges() -> impl Strategy<Value = AddressRange> {
    let anywhere = (20_u32..47, any::<u64>(), 12_u32..40).prop_map(|(shift, odd, size)| {
        AddressRange::new((1 << shift) + odd % (1 << shift), (odd & 0xfff) + (1 << size)).unwrap()
    });
    let in_ram =
        (1_u64..3000, 1_u64..20).prop_map(|(at, size)| AddressRange::new(at * MIB, size * MIB).unwrap());
    // Ends at, begins at or overlaps an end of what has a fixed place: the gap, the hole, or the reach of a width.
    let ends = prop_oneof![
        Just(pc::HOLE),
        Just(4 * GIB),
        Just(reserved::HT.first()),
        Just(reserved::HT.last() + 1),
        (32_u32..52).prop_map(|bits| 1 << bits),
    ];
    let at_ends = (ends, 0_u64..0x9000, 1_u64..0x9000)
        .prop_map(|(end, before, size)| AddressRange::new(end - before, size).unwrap());
    prop_oneof![anywhere, in_ram, at_ends]
}

fn vendors() -> impl Strategy<Value = Option<Vendor>> {
    prop_oneof![
        Just(None),
        Just(Some(Vendor::Intel)),
        Just(Some(Vendor::Amd)),
        Just(Some(Vendor::Hygon)),
        Just(Some(Vendor::Other))
    ]
}

prop_compose! {
    fn reserves()(
        relocate in any::<bool>(),
        vendor in vendors(),
        without_ht in prop::bool::weighted(0.1),
        of_devices in any::<bool>(),
        ranges in prop::collection::vec(ranges(), 0..5),
    ) -> Reserve {
        let policy = if relocate { HolePolicy::Relocate } else { HolePolicy::Split };
        Reserve { policy, vendor, without_ht, of_devices, ranges }
    }
}

fn iommus() -> impl Strategy<Value = Option<Vec<IommuRegion>>> {
    let kind = prop_oneof![
        Just(IommuKind::Direct),
        Just(IommuKind::DirectRelaxable),
        Just(IommuKind::Reserved),
        Just(IommuKind::Msi),
        Just(IommuKind::Beyond)
    ];
    let region = (ranges(), kind).prop_map(|(range, kind)| IommuRegion { range, kind });
    prop::option::of(prop::collection::vec(region, 0..3))
}

prop_compose! {
    fn hosts()(
        bits in 32_u8..=52,
        vendor in vendors(),
        family in 0x0f_u32..0x1b,
        pa_bits in 36_u8..=52,
        iommu in iommus(),
    ) -> HostFacts {
        let bits = PaBits::new(bits).unwrap();
        let processor = vendor.map(|vendor| Processor { vendor, family, pa_bits, iommu });
        HostFacts { width: Width { bits, source: WidthSource::Host }, processor, ..HostFacts::assumed() }
    }
}

fn device(index: usize, pci: bool, size: u64) -> Request {
    let bars = vec![Bar { size: 0x1000, space: BarSpace::Mmio32 }, Bar { size, space: BarSpace::Mmio64 }];
    let needs =
        if pci { Needs::Pci { bars } } else { Needs::Board { registers: 0x200, irq: Some(Trigger::Edge) } };
    Request {
        id: format!("d{index}"),
        kind: "toy".into(),
        needs,
        description: Arc::default(),
        queue_reach: None,
    }
}

prop_compose! {
    fn machines()(
        memory in sizes(),
        more in prop::option::of((sizes(), 1_u32..4)),
        window in prop::option::weighted(0.2, 1_u64..64),
        devices in prop::collection::vec((any::<bool>(), 12_u32..34), 0..5),
        reserve in reserves(),
    ) -> MachineConfig {
        let hotplug = more.map(|(more, slots)| MemoryHotplug { max_memory: memory + more, slots });
        let devices = devices.into_iter().enumerate().map(|(index, (pci, size))| device(index, pci, 1 << size));
        MachineConfig {
            memory,
            hotplug,
            pci: Some(PciConfig { window: window.map(|gib| gib * GIB) }),
            devices: devices.collect(),
            reserve,
            ..MachineConfig::default()
        }
    }
}

/// Every range that is to be free on this host, as the rules have it.
fn kept(config: &MachineConfig, facts: &HostFacts) -> Vec<AddressRange> {
    let known = reserved::reservations(&config.reserve, facts).into_iter().map(|it| it.range);
    known.chain(config.reserve.ranges.iter().copied()).collect()
}

/// How many bytes of `within` are in pages that no range touches, all ranges sorted.
fn clear_pages(within: AddressRange, ranges: &[AddressRange]) -> u64 {
    let (mut next, mut bytes) = (within.first(), 0);
    for range in ranges.iter().filter(|range| range.overlaps(within)) {
        bytes += (range.first() & !0xfff).saturating_sub(next);
        next = next.max((range.last() | 0xfff) + 1);
    }
    bytes + (within.last() + 1).saturating_sub(next)
}

/// All that the guest may use as memory or find registers in.
fn used(plan: &Plan) -> Vec<(String, AddressRange)> {
    let free = [RegionKind::Reserved, RegionKind::InterruptController];
    let regions = plan.regions.iter().filter(|region| !free.contains(&region.kind));
    let regions = regions.filter_map(|region| Some((region.name.clone(), region.range?)));
    let windows = plan.devices.iter().flat_map(|device| {
        let windows = (0..).zip(&device.slot.windows);
        let memory = windows.filter(|(number, _)| device.space(*number) == ambit_bus::Space::Memory);
        memory.map(|(number, window)| (format!("{} window {number}", device.id), *window))
    });
    regions.chain(windows).collect()
}

fn board(own: bool) -> Box<dyn Board> {
    if own { Box::new(pc()) } else { Box::new(q35()) }
}

fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.max(1000), failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn nothing_touches_what_is_kept_free(own in any::<bool>(), machine in machines(), facts in hosts()) {
        if let Ok(plan) = attempt(&*board(own), &machine, &facts) {
            for range in kept(&machine, &facts) {
                for (name, used) in used(&plan) {
                    prop_assert!(!used.overlaps(range), "{name} {used} touches {range}");
                }
            }
        }
    }

    #[test]
    fn ram_is_all_there_in_whole_pages_and_outside_the_gap(machine in machines(), facts in hosts()) {
        if let Ok(plan) = attempt(&pc(), &machine, &facts) {
            prop_assert_eq!(plan.ram().map(AddressRange::size).sum::<u64>(), machine.memory);
            for (number, bank) in plan.ram().enumerate() {
                prop_assert_eq!(plan.range(&format!("ram{number}")), Some(bank));
                prop_assert!(bank.first().is_multiple_of(4096) && bank.size().is_multiple_of(4096));
                prop_assert!(bank.last() < pc::HOLE || bank.first() >= 4 * GIB);
            }
        }
    }

    /// Nothing but RAM, which may be in as many banks as it takes.
    #[test]
    fn ram_is_refused_only_where_there_are_fewer_free_pages(machine in machines(), facts in hosts()) {
        let reserve = Reserve { policy: HolePolicy::Split, ..machine.reserve };
        let machine = MachineConfig { memory: machine.memory, pci: None, reserve, ..MachineConfig::default() };
        let mut kept = kept(&machine, &facts);
        kept.sort();
        let windows = [(0, pc::HOLE), (4 * GIB, facts.width.bits.ceiling())];
        let windows = windows.into_iter().filter(|(first, end)| first < end);
        let free: u64 = windows.map(|(first, end)| clear_pages(AddressRange::spanning(first, end - 1).unwrap(), &kept)).sum();

        for memory in [machine.memory, free, free + 4096] {
            let attempted = attempt(&pc(), &MachineConfig { memory, ..machine.clone() }, &facts);

            let refused = attempted.as_ref().err().map(ambit_device_manager::PlanError::code);
            // Some ranges a board cannot leave alone, whatever the memory.
            if refused.is_none_or(|code| code == "ram-beyond-width") {
                prop_assert_eq!(refused.is_none(), free >= memory, "{:#x} are free: {:?}", free, attempted);
            }
        }
    }

    #[test]
    fn nothing_overlaps_and_nothing_used_is_past_the_width(
        own in any::<bool>(), machine in machines(), facts in hosts()
    ) {
        if let Ok(plan) = attempt(&*board(own), &machine, &facts) {
            let placed: Vec<_> = plan.regions.iter().filter_map(|region| region.range).collect();
            prop_assert!(placed.windows(2).all(|pair| pair[0].last() < pair[1].first()), "{placed:?}");
            for (name, used) in used(&plan) {
                prop_assert!(used.last() < plan.ipa_bits.ceiling(), "{name}");
            }
            prop_assert!(plan.ipa_bits <= facts.width.bits);
        }
    }

    #[test]
    fn more_bits_move_nothing(own in any::<bool>(), machine in machines(), facts in hosts()) {
        let wide = HostFacts {
            width: Width { bits: PaBits::MAX, source: WidthSource::Host },
            ..facts.clone()
        };
        if let (Ok(narrow), Ok(wide)) = (attempt(&*board(own), &machine, &facts), attempt(&*board(own), &machine, &wide)) {
            for region in narrow.regions.iter().filter(|region| region.kind != RegionKind::Reserved) {
                let there = wide.range(&region.name);
                prop_assert_eq!(
                    region.range.map(AddressRange::first).or(there.map(AddressRange::first)),
                    there.map(AddressRange::first)
                );
            }
        }
    }

    #[test]
    fn e820_is_the_plan(own in any::<bool>(), machine in machines(), facts in hosts()) {
        if let Ok(plan) = attempt(&*board(own), &machine, &facts) {
            let map = e820::planned(&plan);

            prop_assert!(map.windows(2).all(|pair| pair[0].range.last() < pair[1].range.first()));
            let ram = map.iter().filter(|line| line.kind == E820Kind::Ram).map(|line| line.range);
            prop_assert!(ram.eq(plan.ram()));
            let inside = |range: AddressRange| {
                let last = range.last().min(facts.width.bits.ceiling() - 1);
                AddressRange::spanning(range.first(), last)
            };
            let all: Vec<_> = plan.regions.iter().filter_map(|region| region.range).collect();
            for range in kept(&machine, &facts).into_iter().filter_map(inside) {
                for end in [range.first(), range.last()] {
                    let said = map.iter().any(|line| {
                        line.kind == E820Kind::Reserved && line.range.contains_address(end)
                    });
                    let boards = all.iter().any(|range| range.contains_address(end));
                    prop_assert!(said || boards, "{end:#x} is not said to be kept");
                }
            }
            let firmware = e820::told(&plan);
            let clear = |line: &E820| line.kind == E820Kind::Reserved || !line.range.overlaps(e820::FIRMWARE);
            prop_assert!(firmware.iter().all(clear));
        }
    }

    #[test]
    fn a_remedy_that_is_said_works(own in any::<bool>(), machine in machines(), facts in hosts()) {
        if let Err(refusal) = plan(&*board(own), &machine, &facts) {
            for remedy in &refusal.remedies {
                let (machine, facts) = remedy.apply(&machine, &facts);
                if let Err(again) = attempt(&*board(own), &machine, &facts) {
                    prop_assert_ne!(again.code(), refusal.error.code(), "{}", remedy);
                }
            }
        }
    }

    #[test]
    fn a_smaller_machine_fits_where_a_larger_does(machine in machines(), facts in hosts()) {
        // Less RAM with the same most is more room for plugging, which is in one piece and may have to jump. A window
        // as long as the user says holds a large BAR only where one of the BAR's boundaries falls well.
        let pci = machine.pci.map(|_| PciConfig::default());
        let machine = MachineConfig { hotplug: None, pci, ..machine };
        if attempt(&pc(), &machine, &facts).is_ok() && machine.memory > MIB {
            let smaller = MachineConfig { memory: (machine.memory / 2) & !0xfff, ..machine };
            prop_assert!(attempt(&pc(), &smaller, &facts).is_ok());
        }
    }
}

#[test]
fn every_size_around_the_hole_leaves_it_free_on_each_vendors_host() {
    let vendors = [Vendor::Amd, Vendor::Hygon];
    for (policy, vendor) in [HolePolicy::Split, HolePolicy::Relocate].into_iter().zip(vendors.repeat(2)) {
        for gib in (970..=1030).chain([2048, 65536]) {
            let reserve = Reserve { policy, vendor: Some(vendor), ..Reserve::default() };
            let machine = MachineConfig { memory: gib * GIB, reserve, ..MachineConfig::default() };
            let width = Width { bits: PaBits::new(48).unwrap(), source: WidthSource::Host };
            let facts = HostFacts { width, ..HostFacts::assumed() };
            for board in [&pc() as &dyn Board, &q35()] {
                let plan = plan(board, &machine, &facts).unwrap();

                assert!(used(&plan).iter().all(|(_, range)| !range.overlaps(reserved::HT)), "{gib} GiB");
                assert_eq!(plan.range("reserved.ht"), Some(reserved::HT));
            }
        }
    }
}
