//! What is kept free by order of the user, on the board `pc`: what is drawn around it, and what is refused because of it.

use std::sync::Arc;

use ambit_bus::{Bar, BarSpace, Needs, Request};
use ambit_device_manager::{
    HolePolicy, HostFacts, MachineConfig, Plan, Refusal, Reserve, Status, Width, WidthSource, plan,
};
use ambit_resources::{AddressRange, PaBits};
use ambit_x86_64::pc;

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
