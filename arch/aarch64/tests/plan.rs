//! Machines on the board `native`: where everything is, and why some machines are not possible.

mod machine;

use ambit_aarch64::gic::{Gic, RedistRegion};
use ambit_aarch64::native;
use ambit_bus::{Needs, Slot, Trigger};
use ambit_device_manager::{Board, Plan, RegionKind, Remedy, Status, WidthSource, pci};
use ambit_resources::{AddressRange, IrqPin, bits_for};
use machine::{Machine, machine, virtio};
use proptest::prelude::*;

const GIB: u64 = 1 << 30;

fn map(plan: &Plan) -> Vec<String> {
    let line = |region: &ambit_device_manager::Region| match region.range {
        Some(range) => format!("{range} {}", region.name),
        None => format!("{} is left out", region.name),
    };
    plan.regions.iter().map(line).collect()
}

fn slots(plan: &Plan) -> Vec<(&str, &Slot)> {
    plan.devices.iter().map(|device| (device.id.as_str(), &device.slot)).collect()
}

/// Everything with an address, the width apart.
fn places(plan: &Plan) -> (Vec<String>, Vec<(&str, &Slot)>) {
    (map(plan), slots(plan))
}

#[test]
fn the_map_of_a_machine_with_a_disk_is_the_boards_table() {
    let plan = machine().cpus(8).memory(2 * GIB).device("disk0").plan();

    assert_eq!(
        map(&plan),
        [
            "[0x1000000-0x1000fff] uart0",
            "[0x1010000-0x1010fff] rtc0",
            "[0x2000000-0x2000fff] disk0",
            "[0x8000000-0x80fffff] reserved.msi",
            "[0x9000000-0x900ffff] gic.dist",
            "[0x9020000-0x903ffff] gic.its",
            "[0xa000000-0xa0fffff] gic.redist0",
            "[0x10000000-0x1fffffff] pci.ecam",
            "[0x20000000-0x3ffeffff] pci.mmio32",
            "[0x3fff0000-0x3fffffff] pci.io",
            "[0x40000000-0xbfffffff] ram0",
            "[0xc0000000-0xffffffff] pci.mmio64",
        ]
    );
}

#[test]
fn fixtures_have_the_first_pins_and_optional_devices_those_from_16() {
    let plan = machine().devices(["disk0", "net0"]).plan();

    let pins: Vec<_> = plan.irqs.owners().collect();

    assert_eq!(
        pins,
        [
            (IrqPin(0), "uart0"),
            (IrqPin(1), "rtc0"),
            (IrqPin(2), "pci.inta"),
            (IrqPin(3), "pci.intb"),
            (IrqPin(4), "pci.intc"),
            (IrqPin(5), "pci.intd"),
            (IrqPin(16), "disk0"),
            (IrqPin(17), "net0"),
        ]
    );
    assert_eq!(plan.device("uart0").unwrap().slot.irq, Some((IrqPin(0), Trigger::Level)));
    assert_eq!(native().interrupt_id(IrqPin(16)), 48);
}

#[test]
fn every_frame_and_every_device_is_alone_on_its_64_kib_page() {
    let plan = machine().cpus(512).plan();
    let fixed: Vec<AddressRange> = plan
        .regions
        .iter()
        .filter(|region| matches!(region.kind, RegionKind::InterruptController | RegionKind::Device))
        .filter_map(|region| region.range)
        .collect();

    for (at, range) in fixed.iter().enumerate() {
        assert!(range.first().is_multiple_of(64 << 10), "{range}");
        assert!(fixed[..at].iter().all(|before| before.last() >> 16 < range.first() >> 16), "{range}");
    }
}

#[test]
fn a_machine_without_pci_has_nothing_of_it() {
    let mut machine = machine().device("disk0");
    machine.config.pci = None;
    let plan = machine.plan();

    assert!(plan.regions.iter().all(|region| region.kind != RegionKind::Pci));
    assert_eq!(plan.intx, []);
    assert_eq!(plan.highest_pin(), Some(IrqPin(16)));
}

#[test]
fn the_same_configuration_has_the_same_addresses_on_every_host() {
    let configured = machine().cpus(124).memory(32 * GIB).devices(["disk0", "net0", "rng0"]);
    let narrow = configured.clone().bits(36).plan();

    for bits in [37, 40, 44, 48, 52] {
        let wide = configured.clone().bits(bits).plan();

        assert_eq!(places(&narrow), places(&wide), "{bits} bits");
        assert_eq!(narrow.ipa_bits, wide.ipa_bits, "{bits} bits");
    }
}

#[test]
fn every_width_from_32_to_52_holds_a_small_machine() {
    for bits in 32..=52 {
        let plan = machine().bits(bits).plan();

        assert_eq!((plan.width.bits.get(), plan.ipa_bits.get()), (bits, 32));
    }
}

#[test]
fn adding_a_device_moves_nothing_that_was_placed_before_it() {
    let before = machine().devices(["disk0", "net0"]).plan();
    let after = machine().devices(["disk0", "net0", "rng0"]).plan();

    let added: Vec<_> = slots(&after).into_iter().filter(|(id, _)| before.device(id).is_none()).collect();

    assert_eq!(added.len(), 1);
    assert!(slots(&before).iter().all(|slot| slots(&after).contains(slot)));
    assert!(map(&before).iter().all(|region| map(&after).contains(region)));
}

#[test]
fn every_number_of_vcpus_up_to_512_has_as_many_redistributors() {
    for cpus in [1, 8, 123, 124, 512] {
        let gic = Gic::from_plan(&machine().cpus(cpus).bits(36).plan()).unwrap();

        let range = AddressRange::fixed(0x0a00_0000, u64::from(cpus) * 0x2_0000);
        assert_eq!(gic.redists(), [RedistRegion { range, count: cpus, room: range }]);
    }
}

#[test]
fn vcpus_that_are_not_possible_are_refused_with_who_bounds_them() {
    let none = machine().cpus(0);
    let mut small_host = machine().cpus(513);
    small_host.facts.max_cpus = 8;
    let mut large_host = machine().cpus(u32::MAX);
    large_host.facts.max_cpus = 4096;

    assert_eq!(none.refusal().0, "a machine has at least one vCPU, and 0 were asked for");
    assert_eq!(
        machine().cpus(513).refusal(),
        (
            "513 vCPUs are more than 512, which is all that this host's KVM gives".into(),
            vec!["give the guest at most 512 vCPUs".into()]
        )
    );
    assert_eq!(small_host.refusal().0, "513 vCPUs are more than 8, which is all that this host's KVM gives");
    assert_eq!(
        large_host.refusal().0,
        "4294967295 vCPUs are more than 512, which is all that board native has"
    );
}

#[test]
fn memory_that_is_not_possible_is_refused_with_what_would_be() {
    let refusals = [
        (machine().memory(0), "a machine has memory, and none was asked for", vec![]),
        (
            machine().memory(1),
            "1 B of memory is not a multiple of the host's page size, 4 KiB",
            vec!["give the guest 4 KiB"],
        ),
        (
            machine().memory(4097),
            "4097 B of memory is not a multiple of the host's page size, 4 KiB",
            vec!["give the guest 4 KiB", "give the guest 8 KiB"],
        ),
        (
            machine().bits(36).memory(63 * GIB + 4096),
            "66060292 KiB of memory at [0x40000000-0x1000000fff] needs 37 physical address bits, \
             and this host has 36, which is 4 KiB too few",
            vec!["give the guest at most 63 GiB of memory", "use a host with 37 bits"],
        ),
        (
            machine().bits(36).allowed_by(WidthSource::User).memory(64 * GIB),
            "64 GiB of memory at [0x40000000-0x103fffffff] needs 37 physical address bits, \
             and 36 were allowed, which is 1 GiB too few",
            vec!["give the guest at most 63 GiB of memory", "allow 37 bits, if the host has them"],
        ),
        (
            machine().allowed_by(WidthSource::Assumed).memory(1 << 40),
            "1 TiB of memory at [0x40000000-0x1003fffffff] needs 41 physical address bits, \
             and 40 were assumed, as no host was asked, which is 1 GiB too few",
            vec!["give the guest at most 1023 GiB of memory", "use a host with 41 bits"],
        ),
        (
            machine().bits(52).memory(1 << 52),
            "4 PiB of memory at [0x40000000-0x1000003fffffff] needs 53 physical address bits, \
             and this host has 52, which is 1 GiB too few",
            vec!["give the guest at most 4194303 GiB of memory"],
        ),
        (
            machine().memory(u64::MAX),
            "18446744073709551615 B of memory from 0x40000000 passes the end of the 64-bit address space",
            vec!["give the guest at most 1023 GiB of memory"],
        ),
    ];

    for (machine, message, remedies) in refusals {
        assert_eq!(machine.refusal(), (message.into(), remedies.into_iter().map(String::from).collect()));
    }
}

#[test]
fn hosts_with_larger_pages_want_memory_in_those() {
    let mut machine = machine().memory((64 << 20) + 4096);
    machine.facts.page_size = 64 << 10;

    assert_eq!(
        machine.refusal(),
        (
            "65540 KiB of memory is not a multiple of the host's page size, 64 KiB".into(),
            vec!["give the guest 64 MiB".into(), "give the guest 65600 KiB".into()]
        )
    );
}

#[test]
fn names_are_given_once() {
    for id in ["disk0", "uart0", "ram0", "gic.dist", "gic.its"] {
        let refused = machine().without_its().devices(["disk0", id]).refusal().0;

        let expected = format!("two parts of the machine are called '{id}'; give the device another id");
        assert_eq!(refused, expected);
    }
}

#[test]
fn a_device_may_be_called_like_a_part_that_is_not_there() {
    let plan = machine().device("gic.redist1").plan();

    assert_eq!(Gic::from_plan(&plan).unwrap().redists().len(), 1);
}

#[test]
fn more_devices_than_pins_are_refused_by_name() {
    assert_eq!(machine().devices((0..944).map(|n| format!("disk{n}"))).plan().devices.len(), 947);

    assert_eq!(
        machine().devices((0..945).map(|n| format!("disk{n}"))).refusal().0,
        "disk944 wants an interrupt pin, and all 944 from 16 to 959 have owners; give the guest fewer devices"
    );
}

#[test]
fn more_devices_than_their_window_holds_are_refused_by_name() {
    let mut machine = machine();
    for id in ["first", "second", "third"] {
        let mut request = virtio(id);
        request.needs = Needs::Board { registers: 8 << 20, irq: None };
        machine.config.devices.push(request);
    }

    assert_eq!(
        machine.refusal(),
        (
            "third wants 8 MiB aligned to 8 MiB within [0x2000000-0x2ffffff], and nothing there is free"
                .into(),
            vec!["give the guest at most 2 devices".into()]
        )
    );
}

#[test]
fn without_an_its_the_plan_says_why_and_moves_nothing() {
    let (with, without) = (machine().device("disk0").plan(), machine().without_its().device("disk0").plan());
    let its = without.regions.iter().find(|region| region.name == "gic.its").unwrap();

    assert_eq!((its.status, its.range, its.size), (Status::Dropped, None, 0x2_0000));
    assert_eq!(
        without.diagnostics.iter().map(|diagnostic| diagnostic.message.as_str()).collect::<Vec<_>>(),
        ["gic.its is left out: this host's KVM has no interrupt translation service"]
    );
    assert_eq!(slots(&with), slots(&without));
    assert_eq!(Gic::from_plan(&without).unwrap().its(), None);
}

#[test]
fn kvm_is_asked_for_as_many_interrupts_as_the_highest_pin_needs() {
    let interrupts = |count: usize| {
        let ids = (0..count).map(|n| format!("disk{n}"));
        Gic::from_plan(&machine().devices(ids).plan()).unwrap().interrupts
    };

    assert_eq!([0, 16, 17, 944].map(interrupts), [64, 64, 96, 992]);
}

/// The planner's promise for any machine at all.
fn holds(machine: &Machine, plan: &Plan) {
    let ranges: Vec<AddressRange> = plan.regions.iter().filter_map(|region| region.range).collect();
    for (at, range) in ranges.iter().enumerate() {
        assert!(range.last() < plan.width.bits.ceiling(), "{range} is out of reach");
        assert!(ranges[..at].iter().all(|other| !other.overlaps(*range)), "{range} overlaps");
    }
    assert_eq!(plan.ram().map(AddressRange::size).sum::<u64>(), machine.config.memory);

    let highest = ranges.iter().map(|range| range.last()).max().unwrap();
    assert_eq!(
        plan.ipa_bits.get(),
        bits_for(highest).max(32),
        "the IPA size is the smallest that covers all"
    );

    let placed: Vec<&str> = plan.devices.iter().map(|device| device.id.as_str()).collect();
    let wanted: Vec<&str> = ["uart0", "rtc0", pci::BRIDGE].into_iter().chain(ids(machine)).collect();
    assert_eq!(placed, wanted);
    assert_eq!(plan, &machine.plan(), "the same question has the same answer");
    assert_eq!(plan, &serde_json::from_str::<Plan>(&serde_json::to_string(plan).unwrap()).unwrap());

    let gic = Gic::from_plan(plan).unwrap();
    assert_eq!(gic.redists().iter().map(|region| region.count).sum::<u32>(), machine.config.cpus);
}

fn ids(machine: &Machine) -> impl Iterator<Item = &str> {
    machine.config.devices.iter().map(|request| request.id.as_str())
}

/// Does what the first remedy says. `None` if there is none.
fn remedied(machine: &Machine, remedies: &[Remedy]) -> Option<Machine> {
    let (config, facts) = remedies.first()?.apply(&machine.config, &machine.facts);
    Some(Machine { config, facts })
}

fn any_machine() -> impl Strategy<Value = Machine> {
    let memory = prop_oneof![
        (1..1_u64 << 20).prop_map(|pages| pages * 4096),
        (1..1_u64 << 42).prop_map(|pages| pages * 4096),
        any::<u64>(),
    ];
    let shape = (prop_oneof![1..16_u32, 1..600_u32], memory, 32..=52_u8, any::<bool>());
    (shape, 0..40_usize).prop_map(|((cpus, memory, bits, its), devices)| {
        let machine =
            machine().cpus(cpus).memory(memory).bits(bits).devices((0..devices).map(|n| format!("d{n}")));
        if its { machine } else { machine.without_its() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn any_machine_is_planned_well_or_refused_with_a_remedy_that_works(machine in any_machine()) {
        match machine.try_plan() {
            Ok(plan) => holds(&machine, &plan),
            Err(first) => {
                // A machine may be wrong in two ways: one remedy each.
                let mut better = remedied(&machine, &first.remedies)
                    .unwrap_or_else(|| panic!("{first} has no remedy"));
                if let Err(second) = better.try_plan() {
                    prop_assert_ne!(first.error.code(), second.error.code());
                    better = remedied(&better, &second.remedies).unwrap();
                }
                holds(&better, &better.plan());
            }
        }
    }

    #[test]
    fn more_bits_never_move_anything(machine in any_machine(), more in 1..20_u8) {
        let bits = machine.facts.width.bits.get();
        if let Ok(plan) = machine.try_plan() {
            let wider = machine.clone().bits((bits + more).min(52)).plan();

            // Only the window above RAM may come back, or grow at its top.
            let rest = |plan: &Plan| map(plan).into_iter().filter(|line| !line.ends_with("pci.mmio64")).collect::<Vec<_>>();
            let rest = |plan: &Plan| rest(plan).into_iter().filter(|line| !line.starts_with("pci.mmio64")).collect::<Vec<_>>();
            prop_assert_eq!((rest(&plan), slots(&plan)), (rest(&wider), slots(&wider)));
            if let Some(narrow) = plan.range("pci.mmio64") {
                let wide = wider.range("pci.mmio64").unwrap();
                prop_assert!(wide.first() == narrow.first() && wide.contains(narrow));
            } else {
                prop_assert!(wider.ipa_bits >= plan.ipa_bits);
            }
        }
    }

    #[test]
    fn the_order_of_optional_devices_moves_nothing_else(
        order in Just((0..20).map(|n| format!("d{n}")).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let (plan, shuffled) = (machine().plan(), machine().devices(&order).plan());

        for region in &plan.regions {
            prop_assert_eq!(shuffled.range(&region.name), region.range);
        }
        prop_assert_eq!(
            shuffled.devices.iter().skip(3).map(|device| &device.id).collect::<Vec<_>>(),
            order.iter().collect::<Vec<_>>()
        );
    }
}
