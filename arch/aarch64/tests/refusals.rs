//! What the planner says when there is no such machine, word for word.

mod machine;

use ambit_aarch64::spec::{GicSpec, RedistSpec};
use ambit_aarch64::{SpecBoard, native, qemu_virt};
use ambit_bus::{Bar, BarSpace, Needs};
use ambit_device_manager::{Board, MemoryHotplug, PciConfig, plan};
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
        false,
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
    refused(
        &native(),
        &without,
        "gpu wants PCI, and this machine has none",
        &["give the guest fewer devices"],
        true,
    );

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
