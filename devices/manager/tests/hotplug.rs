//! Functions come into a plan and leave it as if they had been there, or not, from the start.

mod pci;

use ambit_bus::{Bar, BarSpace, Model, Needs, Request, Trigger};
use ambit_device_manager::{HostFacts, MachineConfig, Plan, PlanError, Transport, plan};
use ambit_resources::IrqPin;
use pci::{PciBoard, RAM, card, config, planned};

fn function(id: &str, bars: &[Bar]) -> Request {
    Request { needs: Needs::Pci { bars: bars.into() }, ..card(id, 0).request() }
}

/// What planning from the start says of the same devices.
fn refusal_from_the_start(devices: Vec<Request>) -> PlanError {
    let config = MachineConfig { devices, ..config(&[]) };
    plan(&PciBoard, &config, &HostFacts::assumed()).unwrap_err().error
}

fn refused(plan: &Plan, request: &Request) -> PlanError {
    let mut tried = plan.clone();
    let error = tried.add(request).unwrap_err();
    assert_eq!(&tried, plan, "a refusal changes nothing");
    error
}

#[test]
fn a_plugged_function_has_the_place_it_would_have_had_from_the_start() {
    let mut plan = planned(&["a", "b"]);

    let placed = plan.add(&card("c", 0).request()).unwrap().clone();

    assert_eq!(plan, planned(&["a", "b", "c"]));
    assert_eq!((placed.function, placed.slot.irq), (Some(3), Some((IrqPin(6), Trigger::Level))));
}

#[test]
fn what_is_given_back_is_given_again_and_nobody_else_moves() {
    let mut plan = planned(&["a", "b", "c"]);
    let before = plan.clone();

    let left = plan.remove("b").unwrap();
    let came = plan.add(&card("d", 0).request()).unwrap().clone();

    assert_eq!(Some(&left), before.device("b"));
    assert_eq!((came.function, &came.slot), (left.function, &left.slot));
    assert_eq!([plan.device("a"), plan.device("c")], [before.device("a"), before.device("c")]);
}

#[test]
fn a_function_that_came_and_left_leaves_the_plan_as_it_was() {
    let mut plan = planned(&["a"]);
    let before = plan.clone();

    plan.add(&card("b", 0).request()).unwrap();
    plan.remove("b").unwrap();

    assert_eq!(plan, before);
}

#[test]
fn only_functions_that_are_there_leave() {
    let mut plan = planned(&["a"]);
    let before = plan.clone();

    assert_eq!([plan.remove("console"), plan.remove("b")], [None, None]);
    assert_eq!(plan, before);
}

#[test]
fn what_does_not_fit_is_refused_as_from_the_start() {
    let bar = |size, space| Bar { size, space };
    let cases = [
        function("x", &[bar(0x8_0000, BarSpace::Mmio64)]),
        function("x", &[bar(0x4_0000, BarSpace::Mmio32)]),
        function("x", &[bar(0x40, BarSpace::Io), bar(0x1_0000, BarSpace::Io)]),
        function("a", &[]),
        function("console", &[]),
        function("pci.mmio32", &[]),
        function("pci.intc", &[]),
    ];
    for request in cases {
        let from_the_start = refusal_from_the_start(vec![card("a", 0).request(), request.clone()]);

        assert_eq!(refused(&planned(&["a"]), &request), from_the_start, "{request:?}");
    }
}

#[test]
fn a_full_bus_takes_no_more() {
    let functions: Vec<Request> = (1..=31).map(|n| function(&format!("f{n}"), &[])).collect();
    let full = MachineConfig { devices: functions, ..config(&[]) };
    let full = plan(&PciBoard, &full, &HostFacts::assumed()).unwrap();

    assert_eq!(refused(&full, &function("x", &[])), PlanError::NoFunction("x".into()));
}

#[test]
fn without_pci_nothing_is_plugged() {
    let mut bare = planned(&[]);
    bare.regions.retain(|region| !region.name.starts_with("pci."));

    assert_eq!(refused(&bare, &function("x", &[])), PlanError::NoPci("x".into()));
}

#[test]
fn only_functions_are_plugged() {
    let board = Needs::Board { registers: 0x1000, irq: None };
    let request = Request { needs: board, ..function("x", &[]) };

    assert_eq!(
        refused(&planned(&[]), &request).to_string(),
        "x is no PCI function, and nothing else is plugged while the guest runs"
    );
}

#[test]
fn a_function_whose_queues_cannot_reach_all_ram_is_not_plugged() {
    let reach = |bits| Request { queue_reach: Some(bits), ..function("x", &[]) };
    // RAM ends at 1 GiB and 64 MiB.
    let last = RAM.last();

    let transport = Transport::PciLegacy;
    let short = PlanError::DeviceReach { device: "x".into(), transport, bits: 30, last };
    assert_eq!(refused(&planned(&[]), &reach(30)), short);
    assert!(planned(&[]).add(&reach(31)).is_ok());
}
