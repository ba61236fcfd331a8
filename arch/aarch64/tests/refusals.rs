//! What the planner says when there is no such machine, word for word.

mod machine;

use ambit_aarch64::spec::{GicSpec, RedistSpec};
use ambit_aarch64::{SpecBoard, kvmtool, native, qemu_virt};
use ambit_bus::{Bar, BarSpace, Needs, Request, Trigger};
use ambit_device_manager::{Board, MemoryHotplug, PciConfig, Transport, plan};
use ambit_resources::AddressRange;
use machine::{Machine, machine, virtio};

const GIB: u64 = 1 << 30;

/// The refusal, its remedies, and whether it is one on every host.
fn said(board: &dyn Board, machine: &Machine) -> (String, Vec<String>, bool) {
    match plan(board, &machine.config, &machine.facts) {
        Ok(_) => panic!("{machine:?} was planned"),
        Err(refusal) => (
            refusal.to_string(),
            refusal.remedies.iter().map(ToString::to_string).collect(),
            refusal.error.is_nonsense(),
        ),
    }
}

#[track_caller]
fn refused(board: &dyn Board, machine: &Machine, text: &str, remedies: &[&str], nonsense: bool) {
    let remedies = remedies.iter().map(|remedy| (*remedy).to_owned()).collect();
    assert_eq!(said(board, machine), (text.to_owned(), remedies, nonsense));
}

fn hotplug(max_memory: u64, slots: u32) -> Machine {
    let mut machine = machine().memory(GIB);
    machine.config.hotplug = Some(MemoryHotplug { max_memory, slots });
    machine
}

fn with_bars(bars: &[(u64, bool)]) -> Machine {
    let mut machine = machine();
    let mut request = virtio("gpu");
    request.needs = Needs::Pci {
        bars: bars
            .iter()
            .map(|(size, wide)| Bar {
                size: *size,
                space: if *wide { BarSpace::Mmio64 } else { BarSpace::Mmio32 },
            })
            .collect(),
    };
    machine.config.devices.push(request);
    machine
}

fn window(mut machine: Machine, size: u64) -> Machine {
    machine.config.pci = Some(PciConfig { window: Some(size) });
    machine
}

#[test]
fn a_board_whose_windows_have_lengths_of_their_own_takes_none_from_the_user() {
    for board in [&qemu_virt() as &dyn Board, &kvmtool()] {
        let text = format!(
            "board '{}' has no PCI window for 64-bit BARs whose length is the user's to say",
            board.name()
        );
        refused(board, &window(machine(), GIB), &text, &["do without PCI (--pci off)"], true);
    }
}

#[test]
fn room_for_hot_plugged_memory_has_limits_of_its_own() {
    refused(
        &native(),
        &hotplug(GIB / 2, 1),
        "the most memory, 512 MiB, is less than the 1 GiB there are from the start",
        &["give the guest at most 512 MiB of memory"],
        true,
    );
    refused(
        &native(),
        &hotplug(2 * GIB, 0),
        "0 memory slots were asked for, and memory that may be plugged needs at least one",
        &[],
        true,
    );
    refused(
        &qemu_virt(),
        &hotplug(2 * GIB, 257),
        "257 memory slots were asked for, and the board has at most 256",
        &[],
        false,
    );
    let mut few = hotplug(2 * GIB, 8);
    few.facts.memory_slots = 8;
    refused(
        &native(),
        &few,
        "8 memory slots were asked for, and this host's KVM has 8, of which one is taken",
        &[],
        false,
    );
    refused(
        &native(),
        &hotplug(2 * GIB + 1, 1),
        "the most memory, 2147483649 B, is not a multiple of the host's page size, 4 KiB",
        &["let memory grow to at most 2 GiB (--max-memory)"],
        true,
    );
    refused(
        &native(),
        &hotplug(64 * GIB, 2).bits(36),
        "room for hot-plugged memory up to 64 GiB with 2 slots needs 37 physical address bits, and this host has 36, \
         which is 1 GiB too few",
        &["let memory grow to at most 63 GiB (--max-memory)", "use a host with 37 bits"],
        false,
    );
}

#[test]
fn pci_is_refused_by_what_is_in_its_way() {
    let mut without = with_bars(&[(4096, false)]);
    without.config.pci = None;
    refused(&native(), &without, "gpu wants PCI, and this machine has none", &["have PCI (--pci on)"], true);

    refused(
        &native(),
        &window(machine(), GIB + 1),
        "a PCI window of 1073741825 B is not possible; it is a multiple of 1 GiB and at most 512 GiB",
        &["make the PCI window 2 GiB (--pci-window)"],
        true,
    );
    refused(
        &native(),
        &window(with_bars(&[(4 * GIB, true)]), GIB),
        "gpu wants 4 GiB for BAR 0 in pci.mmio64, and gpu wants 4 GiB aligned to 4 GiB within \
         [0x80000000-0xbfffffff], and the largest free run there is 1 GiB",
        &["give the guest fewer devices", "make the PCI window 8 GiB (--pci-window)"],
        false,
    );
    refused(
        &native(),
        &with_bars(&[(4 * GIB, true)]).memory(62 * GIB).bits(36),
        "gpu wants 4 GiB for BAR 0 in pci.mmio64, and gpu wants 4 GiB aligned to 4 GiB within \
         [0xfc0000000-0xfffffffff], and the largest free run there is 1 GiB: it has 1 GiB of 6 GiB: it needs 37 \
         physical address bits, and this host has 36",
        &[
            "give the guest at most 59 GiB of memory",
            "give the guest fewer devices",
            "use a host with 37 bits",
        ],
        false,
    );
}

#[test]
fn a_full_bus_names_the_function_that_found_no_place() {
    let mut machine = machine();
    for number in 0..32 {
        let mut request = virtio(&format!("f{number}"));
        request.needs = Needs::Pci { bars: Vec::new() };
        machine.config.devices.push(request);
    }

    refused(
        &native(),
        &machine,
        "f31 wants a place on PCI bus 0, and all 31 are taken",
        &["give the guest at most 31 devices"],
        false,
    );
}

#[test]
fn pci_without_any_interrupt_is_refused() {
    let mut board = native();
    board.spec.pci.as_mut().unwrap().intx = None;

    refused(
        &board,
        &machine().without_its(),
        "PCI on this machine has neither messages nor wires for interrupts: there is no ITS, and the board routes no \
         INTx",
        &["do without PCI (--pci off)"],
        false,
    );
    assert!(plan(&board, &machine().config, &machine().facts).is_ok(), "an ITS is enough");
}

#[test]
fn a_host_without_the_boards_gic_is_refused_with_the_boards_way_out() {
    let mut host = machine();
    host.facts.gic_versions = vec![2];
    host.facts.its = false;
    let mut none = machine();
    none.facts.gic_versions = Vec::new();

    refused(
        &native(),
        &host,
        "board 'native' needs a GICv3, and this host's KVM has GICv2",
        &["set the board's option gic-version=2"],
        false,
    );
    refused(&native(), &none, "board 'native' needs a GICv3, and this host's KVM has no GIC", &[], false);
}

#[test]
fn a_page_size_that_no_host_has_is_refused() {
    for page_size in [0, 1, 4095, 8192 + 1, 1 << 20] {
        let mut machine = machine();
        machine.facts.page_size = page_size;

        let (text, _, nonsense) = said(&native(), &machine);

        let wanted = format!("a host with pages of {page_size} bytes is none that KVM runs on");
        assert!(nonsense && text.starts_with(&wanted), "{text}");
    }
}

#[test]
fn more_redistributor_regions_than_kvm_counts_are_refused() {
    let mut spec = native().spec;
    let GicSpec::V3 { redists, .. } = &mut spec.gic else { panic!("native has a GICv3") };
    let frame = |index: u64| AddressRange::fixed(0x0a00_0000 + index * 0x2_0000, 0x2_0000);
    *redists = (0..257).map(|index| RedistSpec::Up { window: frame(index), whole: false }).collect();
    let board = SpecBoard::new(spec, &[]);

    refused(
        &board,
        &machine(),
        "board 'native' has 257 redistributor regions, and KVM counts them to 256; join some",
        &[],
        true,
    );
}

#[test]
fn ram_that_meets_a_fixed_part_is_refused_with_as_much_as_there_is_room_for() {
    let mut spec = native().spec;
    spec.reserved.push(("hole".into(), AddressRange::fixed(3 * GIB, 1 << 20)));
    let board = SpecBoard::new(spec, &[]);

    refused(
        &board,
        &machine().memory(4 * GIB),
        "ram0 wants [0x40000000-0x13fffffff], but reserved.hole has [0xc0000000-0xc00fffff]; move one of them",
        // The window for 64-bit BARs is above RAM, and has to be below the hole, too.
        &["give the guest at most 1 GiB of memory"],
        false,
    );
}

#[test]
fn a_queue_that_could_not_be_named_is_refused_before_there_is_one() {
    let mut machine = machine().memory(1 << 44).bits(48);
    machine.config.queue_reach = Some(44);

    refused(
        &native(),
        &machine,
        "memory ends at 0x10003fffffff, and the guest's queues reach no address past 44 bits; a legacy driver could \
         not name its queues there",
        &["give the guest at most 16383 GiB of memory", "use modern virtio devices, which reach everywhere"],
        false,
    );
}

/// A device over each transport, of which the first is its own.
fn reached(mut machine: Machine, id: &str, own: Transport, reach: u8) -> Machine {
    let over = |transport: Transport| Request {
        needs: match transport.is_pci() {
            true => Needs::Pci { bars: vec![Bar { size: 0x4000, space: BarSpace::Mmio32 }] },
            false => Needs::Board { registers: 0x200, irq: Some(Trigger::Edge) },
        },
        queue_reach: transport.is_legacy().then_some(reach),
        ..virtio(id)
    };
    machine.config.devices.push(over(own));
    let others = Transport::ALL.into_iter().filter(|transport| *transport != own);
    machine.config.alternatives.extend(others.map(over));
    machine
}

#[test]
fn ram_that_a_legacy_device_does_not_reach_is_refused_with_the_device() {
    let past = || machine().memory(1 << 44).bits(48);

    refused(
        &native(),
        &reached(past(), "disk0", Transport::MmioLegacy, 44),
        "disk0 is reached over mmio-legacy, whose drivers name queues within 44 address bits, and memory ends at \
         0x10003fffffff",
        &[
            "give the guest at most 16383 GiB of memory",
            "give disk0 transport=mmio",
            "give disk0 transport=pci",
        ],
        false,
    );
    refused(
        &native(),
        &reached(past(), "net0", Transport::PciLegacy, 44),
        "net0 is reached over pci-legacy, whose drivers name queues within 44 address bits, and memory ends at \
         0x10003fffffff",
        &[
            "give the guest at most 16383 GiB of memory",
            "give net0 transport=mmio",
            "give net0 transport=pci",
        ],
        false,
    );
    let most = reached(machine().memory(16383 << 30).bits(48), "disk0", Transport::MmioLegacy, 44);
    assert!(plan(&native(), &most.config, &most.facts).is_ok(), "the reach ends right above RAM");
}

#[test]
fn only_the_devices_that_reach_too_little_are_to_change() {
    let machine = machine().memory(1 << 44).bits(48);
    let machine = reached(machine, "near", Transport::PciLegacy, 44);
    let machine = reached(machine, "far", Transport::MmioLegacy, 48);
    let machine = reached(machine, "also-near", Transport::MmioLegacy, 44);

    refused(
        &native(),
        &machine,
        "near is reached over pci-legacy, whose drivers name queues within 44 address bits, and memory ends at \
         0x10003fffffff",
        &[
            "give the guest at most 16383 GiB of memory",
            "give near and also-near transport=mmio",
            "give near and also-near transport=pci",
        ],
        false,
    );
}

#[test]
fn room_for_memory_that_a_legacy_device_would_not_reach_is_refused() {
    let mut machine = reached(machine().bits(48), "disk0", Transport::MmioLegacy, 44);
    machine.config.hotplug = Some(MemoryHotplug { max_memory: 1 << 44, slots: 1 });

    refused(
        &native(),
        &machine,
        "disk0 is reached over mmio-legacy, whose drivers name queues within 44 address bits, and memory ends at \
         0x10005fffffff",
        &[
            "let memory grow to at most 16775680 MiB (--max-memory)",
            "give disk0 transport=mmio",
            "give disk0 transport=pci",
        ],
        false,
    );
}

#[test]
fn a_device_on_pci_where_there_is_none_is_refused_with_both_ways_out() {
    let mut machine = reached(machine(), "disk0", Transport::Pci, 44);
    machine = reached(machine, "disk1", Transport::PciLegacy, 44);
    machine.config.pci = None;

    refused(
        &native(),
        &machine,
        "disk0 wants PCI, and this machine has none",
        &["give disk0 transport=mmio and disk1 transport=mmio-legacy", "have PCI (--pci on)"],
        true,
    );
    let mut board = native();
    board.spec.pci = None;
    refused(
        &board,
        &machine,
        "disk0 wants PCI, and this machine has none",
        &["give disk0 transport=mmio and disk1 transport=mmio-legacy"],
        true,
    );
}

#[test]
fn what_finds_no_room_on_one_bus_may_go_to_the_other() {
    let many = |transport, count| {
        (0..count).fold(machine(), |machine, n| reached(machine, &format!("disk{n}"), transport, 44))
    };

    refused(
        &native(),
        &many(Transport::Pci, 33),
        "disk31 wants a place on PCI bus 0, and all 31 are taken",
        &["give disk31 and disk32 transport=mmio"],
        false,
    );
    refused(
        &qemu_virt(),
        &many(Transport::Mmio, 38),
        "disk32 wants 512 B aligned to 512 B within [0xa000000-0xa003fff], and nothing there is free",
        &["give disk32, disk33, disk34 and 3 more transport=pci"],
        false,
    );
}

#[test]
fn an_option_that_is_refused_sooner_is_no_way_out() {
    // Nothing alone is enough: there are too many vCPUs and too much memory.
    let mut host = machine().bits(36).cpus(200).memory(64 * GIB);
    host.facts.max_cpus = 100;
    host.facts.gic_versions = vec![3];

    refused(
        &native(),
        &host,
        "200 vCPUs are more than 100, which is all that this host's KVM gives",
        &["give the guest at most 100 vCPUs"],
        false,
    );

    // With a GICv2 it would not come as far as to ask for memory.
    let names: Vec<String> = (0..945).map(|index| format!("disk{index}")).collect();
    refused(
        &native(),
        &machine().bits(36).cpus(9).memory(64 * GIB).devices(names),
        "64 GiB of memory at [0x40000000-0x103fffffff] needs 37 physical address bits, and this host has 36, which is \
         1 GiB too few",
        &["give the guest at most 63 GiB of memory", "use a host with 37 bits"],
        false,
    );
}
