//! What is kept free by order of the user, on the board `pc`: what is drawn around it, and what is refused because of it.

use std::sync::Arc;

use ambit_bus::{Bar, BarSpace, Needs, Request};
use ambit_device_manager::{
    HolePolicy, HostFacts, MachineConfig, Plan, Refusal, Reserve, Status, Width, WidthSource, plan,
};
use ambit_resources::{AddressRange, PaBits};
use ambit_x86_64::{acpi, pc};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn card(id: &str, size: u64, space: BarSpace) -> Request {
    Request {
        id: id.into(),
        kind: "toy".into(),
        needs: Needs::Pci { bars: vec![Bar { size, space }] },
        description: Arc::default(),
        queue_reach: None,
    }
}

fn config(memory: u64, ranges: &[(u64, u64)]) -> MachineConfig {
    let ranges = ranges.iter().map(|(first, size)| AddressRange::fixed(*first, *size)).collect();
    let reserve = Reserve { ranges, ..Reserve::default() };
    MachineConfig { memory, reserve, ..MachineConfig::default() }
}

fn planned(config: &MachineConfig, bits: u8) -> Result<Plan, Refusal> {
    let width = Width { bits: PaBits::new(bits).unwrap(), source: WidthSource::Host };
    plan(&pc(), config, &HostFacts { width, ..HostFacts::assumed() })
}

/// At 5 GiB the BAR has 1 GiB before it that nothing is in; at 6 GiB it has not, so the window is shorter there and fits
/// between both ranges.
#[test]
fn a_window_that_is_shorter_above_a_range_is_between_that_and_the_next() {
    let devices = vec![card("a", 2 * GIB, BarSpace::Mmio64)];
    let machine = MachineConfig { devices, ..config(4 * GIB, &[(5 * GIB, 4096), (9 * GIB, 4096)]) };

    let plan = planned(&machine, 40).unwrap();

    assert_eq!(plan.range("pci.mmio64"), Some(AddressRange::fixed(6 * GIB, 3 * GIB)));
}

#[test]
fn ram_that_is_all_below_a_move_is_not_refused_because_nothing_can_be_above_it() {
    let mut machine = config(GIB, &[(4 * GIB, MIB)]);
    machine.reserve.policy = HolePolicy::Relocate;
    machine.devices = vec![card("a", 4096, BarSpace::Mmio32)];

    let narrow = planned(&machine, 32).unwrap();
    let wide = planned(&machine, 33).unwrap();

    assert_eq!(narrow.range("ram0"), Some(AddressRange::fixed(0, GIB)));
    assert_eq!(narrow.region("pci.mmio64").map(|window| window.status), Some(Status::Dropped));
    assert_eq!(wide.range("pci.mmio64"), Some(AddressRange::fixed(5 * GIB, GIB)));
}

fn at_32_bits(plan: &Plan) -> Vec<AddressRange> {
    plan.window("pci.mmio32").collect()
}

#[test]
fn the_window_for_bars_of_32_bits_is_in_pieces_around_a_range_and_the_guest_is_told_so() {
    let cards = ["a", "b"].map(|id| card(id, 128 * MIB, BarSpace::Mmio32));
    let machine = MachineConfig { devices: cards.into(), ..config(GIB, &[(0xc800_0800, 0x1000)]) };

    let plan = planned(&machine, 40).unwrap();

    let pieces = [
        AddressRange::fixed(0xc000_0000, 128 * MIB),
        AddressRange::fixed(0xc800_2000, 0xe000_0000 - 0xc800_2000),
    ];
    assert_eq!(at_32_bits(&plan), pieces);
    let bars = ["a", "b"].map(|id| plan.device(id).unwrap().slot.windows[1].first());
    assert_eq!(bars, [0xc000_0000, 0xd000_0000]);
    // A resource of the host bridge has its first and its last address one after the other (ACPI 6.5, 6.4.3.5.1).
    let tables = acpi::tables(&plan).unwrap();
    let told = |range: AddressRange| {
        let words = [range.first(), range.last()].map(u64::to_le_bytes).concat();
        tables.windows(16).any(|bytes| bytes == words)
    };
    assert_eq!(pieces.map(told), [true; 2]);
    assert!(!told(AddressRange::fixed(0xc000_0000, 512 * MIB)));
}

#[test]
fn a_bar_that_no_piece_holds_is_refused_with_the_range_that_is_in_the_way_and_what_helps() {
    let devices = vec![card("a", 512 * MIB, BarSpace::Mmio32)];
    let machine = MachineConfig { devices, ..config(GIB, &[(0xc800_0000, 0x1000)]) };

    let refusal = planned(&machine, 40).unwrap_err();

    assert_eq!(
        refusal.to_string(),
        "a wants 512 MiB for BAR 0 in pci.mmio32, and a wants 512 MiB aligned to 512 MiB within \
         [0xc8001000-0xdfffffff], and the largest free run there is 393212 KiB: of [0xc0000000-0xdfffffff], \
         reserved.user0 [0xc8000000-0xc8000fff] is kept free: the user says so (--reserve)"
    );
    assert!(
        refusal
            .diagnostic()
            .remedies
            .contains(&"do not keep [0xc8000000-0xc8000fff] free (--reserve)".into())
    );
}

#[test]
fn a_window_of_which_nothing_is_left_is_left_out_and_missed_only_by_who_needs_it() {
    let mut machine = config(GIB, &[(0xc000_0000, 512 * MIB)]);
    let without = planned(&machine, 40).unwrap();
    machine.devices = vec![card("a", 4096, BarSpace::Mmio32)];
    let refusal = planned(&machine, 40).unwrap_err();

    let why = "of [0xc0000000-0xdfffffff], reserved.user0 [0xc0000000-0xdfffffff] is kept free: the user says so \
               (--reserve)";
    assert_eq!(without.diagnostics[0].message, format!("pci.mmio32 is left out: {why}"));
    assert_eq!(
        refusal.to_string(),
        format!("a wants 4 KiB for BAR 0 in pci.mmio32, and it is left out: {why}")
    );
}

#[test]
fn what_has_its_place_is_refused_with_the_range_that_is_in_the_way_and_what_helps() {
    let refused = |ranges: &[(u64, u64)]| {
        let refusal = planned(&config(GIB, ranges), 40).unwrap_err();
        (refusal.error.code(), refusal.to_string(), refusal.diagnostic().remedies)
    };

    assert_eq!(
        refused(&[(8 * GIB, MIB), (0xe800_0000, 4096)]),
        (
            "kept-free",
            "pci.ecam is at [0xe0000000-0xefffffff] on this board, and reserved.user1 [0xe8000000-0xe8000fff] is \
             kept free: the user says so (--reserve)"
                .into(),
            vec!["do not keep [0xe8000000-0xe8000fff] free (--reserve)".into()]
        )
    );
    assert_eq!(
        refused(&[(0x9000, 4096)]),
        (
            "board",
            "board 'pc' starts its guests in the first MiB, so [0x9000-0x9fff] cannot be kept free of RAM"
                .into(),
            vec!["do not keep [0x9000-0x9fff] free (--reserve)".into()]
        )
    );
}
