//! The planner, apart from any real board.

mod toy;

use ambit_bus::Request;
use ambit_device_manager::{HostFacts, Plan, PlanError, Refusal, Status, WidthSource, plan};
use ambit_resources::{AddressRange, IrqPin};
use proptest::prelude::*;
use toy::{HIGH, LOW, MIB, Toy, config, device, host, planned, sized};

fn refusal(board: &Toy, devices: Vec<Request>) -> (String, Vec<String>) {
    let refusal = planned(board, devices).unwrap_err();
    (refusal.to_string(), said(&refusal))
}

fn said(refusal: &Refusal) -> Vec<String> {
    refusal.remedies.iter().map(ToString::to_string).collect()
}

fn places(plan: &Plan) -> Vec<(&str, Option<AddressRange>)> {
    plan.regions.iter().map(|region| (region.name.as_str(), region.range)).collect()
}

#[test]
fn regions_are_listed_lowest_first_and_what_is_left_out_comes_last() {
    let plan = plan(&LOW, &config(vec![device("a")]), &HostFacts { its: false, ..host(40) }).unwrap();

    assert_eq!(
        places(&plan),
        [
            ("hole", AddressRange::new(0x1000, 0x800)),
            ("a", AddressRange::new(0x10_0000, 0x1000)),
            ("console", AddressRange::new(0x20_0000, 0x1000)),
            ("ram0", AddressRange::new(16 * MIB, 64 * MIB)),
            ("extra", None),
        ]
    );
    assert_eq!(plan.regions[4].status, Status::Dropped);
    assert_eq!(plan.diagnostics[0].message, "extra is left out: the host has none");
}

#[test]
fn a_part_that_is_placed_goes_to_the_lowest_fit_around_what_is_fixed() {
    let plan = planned(&LOW, vec![]).unwrap();

    assert_eq!(plan.range("extra"), AddressRange::new(0x2000, 0x1000));
}

#[test]
fn devices_get_the_lowest_free_window_and_pin_in_their_order() {
    let plan = planned(&LOW, vec![device("a"), sized("big", 0x2000), device("b")]).unwrap();

    let slots: Vec<_> = plan
        .devices
        .iter()
        .map(|placed| (placed.id.as_str(), placed.slot.windows[0].first(), placed.slot.irq.map(|irq| irq.0)))
        .collect();

    // Pin 3 is the console's.
    assert_eq!(
        slots,
        [
            ("console", 0x20_0000, Some(IrqPin(3))),
            ("a", 0x10_0000, Some(IrqPin(2))),
            ("big", 0x10_2000, None),
            ("b", 0x10_1000, Some(IrqPin(4))),
        ]
    );
    assert_eq!(plan.highest_pin(), Some(IrqPin(4)));
}

#[test]
fn the_ipa_size_covers_a_window_above_ram() {
    let (ram_only, above) = (planned(&HIGH, vec![]).unwrap(), planned(&HIGH, vec![device("a")]).unwrap());

    assert_eq!((ram_only.ipa_bits.get(), above.ipa_bits.get()), (32, 37));
}

#[test]
fn a_window_past_the_width_says_which_device_and_whose_width() {
    let narrow = plan(&HIGH, &config(vec![device("a")]), &host(36)).unwrap_err();
    let mut allowed = host(36);
    allowed.width.source = WidthSource::User;
    let allowed = plan(&HIGH, &config(vec![device("a")]), &allowed).unwrap_err();

    assert_eq!(
        narrow.to_string(),
        "a at [0x1000000000-0x1000000fff] needs 37 physical address bits, and this host has 36"
    );
    assert_eq!(said(&narrow), ["give the guest fewer devices", "use a host with 37 bits"]);
    assert_eq!(said(&allowed), ["give the guest fewer devices", "allow 37 bits, if the host has them"]);
    assert_eq!(narrow.error.code(), "window-beyond-width");
}

#[test]
fn devices_past_their_window_or_their_pins_are_refused_by_name() {
    let ids = ["a", "b", "c", "d", "e"];

    assert_eq!(
        refusal(&LOW, ids.map(|id| sized(id, 0x1000)).to_vec()),
        (
            "e wants 4 KiB aligned to 4 KiB within [0x100000-0x103fff], and nothing there is free".into(),
            vec!["give the guest at most 4 devices".into()]
        )
    );
    assert_eq!(
        refusal(&HIGH, ids.map(device).to_vec()).0,
        "d wants an interrupt pin, and all 4 from 2 to 5 have owners; give the guest fewer devices"
    );
}

#[test]
fn a_window_that_is_no_power_of_two_is_refused() {
    assert_eq!(
        refusal(&LOW, vec![sized("a", 0x1800)]).0,
        "a wants 6144 bytes aligned to 6144: a size is at least 1 and an alignment a power of two"
    );
    assert!(matches!(
        planned(&LOW, vec![sized("a", 0)]).map_err(|refusal| refusal.error),
        Err(PlanError::Space(_))
    ));
}

#[test]
fn an_id_is_given_once() {
    for ids in [["a", "a"], ["a", "console"], ["a", "ram0"], ["a", "hole"], ["a", "extra"]] {
        let error = planned(&LOW, ids.map(device).to_vec()).unwrap_err().error;

        assert_eq!(error, PlanError::DuplicateId(ids[1].into()));
        assert!(error.is_nonsense());
    }
}

#[test]
fn every_refusal_is_an_entry_for_programs_too() {
    let error = plan(&LOW, &config(vec![]), &host(32)).and_then(|_| {
        let mut large = config(vec![]);
        large.memory = 1 << 40;
        plan(&LOW, &large, &host(36))
    });
    let diagnostic = error.unwrap_err().diagnostic();

    assert_eq!(
        serde_json::to_value(diagnostic).unwrap(),
        serde_json::json!({
            "code": "ram-beyond-width",
            "severity": "error",
            "message": "1 TiB of memory at [0x1000000-0x10000ffffff] needs 41 physical address bits, \
                        and this host has 36, which is 983056 MiB too few",
            "remedies": ["give the guest at most 65520 MiB of memory", "use a host with 41 bits"],
        })
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn adding_a_device_moves_nothing_placed_before_it(
        shifts in prop::collection::vec(8..18_u32, 1..12),
        bits in 37..=52_u8,
    ) {
        let requests: Vec<Request> =
            shifts.iter().enumerate().map(|(at, shift)| sized(&format!("d{at}"), 1 << shift)).collect();
        let mut placed: Vec<Plan> = Vec::new();
        for count in 0..=requests.len() {
            match plan(&HIGH, &config(requests[..count].to_vec()), &host(bits)) {
                Ok(plan) => placed.push(plan),
                Err(error) => {
                    prop_assert_eq!(error.error.code(), "no-room");
                    break;
                }
            }
        }

        for pair in placed.windows(2) {
            prop_assert!(places(&pair[0]).iter().all(|place| places(&pair[1]).contains(place)));
        }
    }

    #[test]
    fn the_ipa_size_is_the_fewest_bits_that_hold_the_same_machine(
        pages in 1..1_u64 << 30,
        high in any::<bool>(),
    ) {
        let mut config = config(if high { vec![device("a")] } else { vec![] });
        config.memory = pages * 4096;
        let board = if high && pages < 1 << 22 { HIGH } else { LOW };
        let placed = plan(&board, &config, &host(52)).unwrap();
        let bits = placed.ipa_bits.get();

        let exact = plan(&board, &config, &host(bits)).unwrap();
        prop_assert_eq!(places(&exact), places(&placed));
        if bits > 32 {
            prop_assert!(plan(&board, &config, &host(bits - 1)).is_err());
        }
    }

    #[test]
    fn a_plan_read_back_from_json_is_the_same(count in 0..4_usize, its in any::<bool>()) {
        let requests = (0..count.min(3)).map(|at| device(&format!("d{at}"))).collect();
        let plan = plan(&LOW, &config(requests), &HostFacts { its, ..host(40) }).unwrap();

        let text = serde_json::to_string(&plan).unwrap();

        prop_assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    }
}
