//! What holds for every plan: of the shipped boards, of boards like them and of wild ones, on any host.
//!
//! `AMBIT_CASES` says how many machines each property is held against; `AMBIT_SEED` runs one of them alone,
//! the number that a failure printed. Every machine follows from its number.

mod proof;

use std::collections::{BTreeMap, BTreeSet};

use ambit_aarch64::gic::Gic;
use ambit_aarch64::spec::{GicSpec, RedistSpec};
use ambit_aarch64::{SpecBoard, native, stage2};
use ambit_bus::{Bar, BarSpace, Needs, Request, Slot};
use ambit_device_manager::{
    Board, Fit, HostFacts, MachineConfig, MemoryMap, Place, Plan, PlanError, Region, RegionKind, Remedy,
    Status, Transport, WidthSource, attempt, pci, plan,
};
use ambit_resources::{AddressRange, IrqPin, PaBits, bits_for};
use proof::random::{Case, Kind, Rng, device};
use proof::remedies::{read, remedied};
use proof::tree::{to_tell, told};
use proof::{bits, kept};

const SHIPPED: &[Kind] = &[Kind::Native, Kind::QemuVirt, Kind::Kvmtool];
const ALL: &[Kind] =
    &[Kind::Native, Kind::QemuVirt, Kind::Kvmtool, Kind::Monotone, Kind::Monotone, Kind::Wild, Kind::Wild];
const STEADY: &[Kind] = &[Kind::Native, Kind::QemuVirt, Kind::Kvmtool, Kind::Monotone, Kind::Monotone];

/// Cases of one property, and how many plans there are in them at least; what was refused does not count. The
/// default runs make this many, all properties together.
const PLANS: u64 = 100_000;
const GOOD: Run = Run { cases: 90_000, plans: 45_000 };
const WIDER: Run = Run { cases: 45_000, plans: 40_000 };
const ADDED: Run = Run { cases: 20_000, plans: 15_000 };
const REMEDIES: Run = Run { cases: 7_000, plans: 2_000 };
const SHAPES: u64 = 8_000;
const _: () = assert!(GOOD.plans + WIDER.plans + ADDED.plans >= PLANS);

#[derive(Clone, Copy)]
struct Run {
    cases: u64,
    plans: u64,
}

/// Plans that were made, and machines that were refused.
#[derive(Default)]
struct Tally {
    planned: u64,
    refused: u64,
}

impl Tally {
    fn attempt(
        &mut self,
        board: &dyn Board,
        config: &MachineConfig,
        facts: &HostFacts,
    ) -> Result<Plan, PlanError> {
        let result = attempt(board, config, facts);
        *if result.is_ok() { &mut self.planned } else { &mut self.refused } += 1;
        result
    }
}

/// Says which case it was if a check fails.
struct Trail<'a>(u64, &'a Case);

impl Drop for Trail<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(seed, case) = self;
            eprintln!(
                "AMBIT_SEED={seed}\n{:?} {}\n{:#?}\n{:#?}",
                case.kind, case.spec, case.config, case.facts
            );
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// Holds `property` against every case of `run`.
fn every(run: Run, kinds: &[Kind], property: impl Fn(&Case, &mut Rng, &mut Tally)) {
    let mut tally = Tally::default();
    let mut one = |seed: u64| {
        let case = Case::new(seed, kinds);
        let trail = Trail(seed, &case);
        property(&case, &mut Rng::new(!seed), &mut tally);
        drop(trail);
    };
    if let Some(seed) = number("AMBIT_SEED") {
        return one(seed);
    }
    let cases = number("AMBIT_CASES").unwrap_or(run.cases);
    (0..cases).for_each(one);
    eprintln!("{cases} cases: {} plans, {} refusals", tally.planned, tally.refused);
    if cases >= run.cases {
        assert!(tally.planned >= run.plans, "{} plans were made", tally.planned);
    }
}

#[test]
fn every_plan_is_one_that_kvm_and_the_guest_can_take() {
    every(GOOD, ALL, |case, rng, tally| {
        let Ok(plan) = tally.attempt(case.board.as_ref(), &case.config, &case.facts) else { return };
        let map = case.board.map(&case.config, &case.facts).unwrap();

        nothing_overlaps_and_all_is_within_reach(&plan, case);
        memory_is_what_was_asked_for(&plan, case, &map);
        the_gic_has_a_frame_for_every_vcpu(&plan, case, &map);
        what_is_above_is_above(&plan, &map);
        pins_are_the_controllers(&plan, &map);
        devices_have_what_they_need(&plan, case, &map);
        functions_have_their_places(&plan, case);
        if rng.chance(20) {
            assert_eq!(tally.attempt(case.board.as_ref(), &case.config, &case.facts).as_ref(), Ok(&plan));
            let text = serde_json::to_string(&plan).unwrap();
            assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
        }
        if case.config.cpus <= 16 || rng.chance(10) {
            assert_eq!(told(&plan), to_tell(&plan));
        }
    });
}

fn nothing_overlaps_and_all_is_within_reach(plan: &Plan, case: &Case) {
    let own = case.board.map(&case.config, &case.facts).unwrap().width;
    let bound = own.map_or(case.facts.width.bits, |own| own.min(case.facts.width.bits));
    assert_eq!(plan.width.bits, bound);

    let mut taken: Vec<AddressRange> = plan.regions.iter().filter_map(kept).collect();
    taken.sort();
    assert!(taken.windows(2).all(|pair| pair[0].last() < pair[1].first()), "{taken:?}");
    assert!(taken.iter().all(|range| range.last() < bound.ceiling()), "{taken:?}");

    let holes = plan.space.claims().filter(|claim| claim.owner.starts_with("hole of "));
    taken.extend(holes.map(|claim| claim.range));
    taken.sort();
    assert_eq!(taken, plan.space.claims().map(|claim| claim.range).collect::<Vec<_>>());
    let highest = taken.last().unwrap().last();
    assert_eq!(plan.ipa_bits, bits(bits_for(highest).max(32)), "the fewest that cover {highest:#x}");
    assert_eq!(plan.page_tables, stage2::geometry(plan.ipa_bits, case.facts.page_size));

    let names: BTreeSet<&str> = plan.regions.iter().map(|region| region.name.as_str()).collect();
    assert_eq!(names.len(), plan.regions.len(), "a name is given twice");
    let placed = plan.regions.iter().filter_map(|region| region.range);
    assert!(placed.is_sorted_by_key(AddressRange::first));
    for region in &plan.regions {
        let size = region.range.map_or(region.size, AddressRange::size);
        assert_eq!(region.size, size, "{region:?}");
        assert_eq!(region.range.is_none(), region.status == Status::Dropped, "{region:?}");
        assert_eq!(region.reason.is_none(), region.status == Status::Placed, "{region:?}");
        assert!(region.room.is_none_or(|room| room.contains(region.range.unwrap())), "{region:?}");
    }
}

fn memory_is_what_was_asked_for(plan: &Plan, case: &Case, map: &MemoryMap) {
    let ram: Vec<AddressRange> = plan.ram().collect();
    assert_eq!(ram, [AddressRange::fixed(map.ram.base, case.config.memory)]);
    assert!(ram[0].size().is_multiple_of(case.facts.page_size));

    let hotplug: Vec<&Region> =
        plan.regions.iter().filter(|region| region.kind == RegionKind::RamHotplug).collect();
    let room = case
        .config
        .hotplug
        .map_or(0, |room| room.max_memory - case.config.memory + u64::from(room.slots) * map.ram.slot_room);
    assert_eq!(hotplug.iter().map(|region| region.size).sum::<u64>(), room);
    for region in hotplug {
        assert!(region.range.unwrap().first() > ram[0].last());
        assert!(region.range.unwrap().first().is_multiple_of(proof::GIB));
    }
    if let Some(reach) = case.config.queue_reach {
        assert!(bits_for(ram[0].last()) <= reach);
    }
    if SHIPPED.contains(&case.kind) {
        let msi = AddressRange::fixed(0x0800_0000, 1 << 20);
        assert!(!ram[0].overlaps(msi));
    }
}

fn the_gic_has_a_frame_for_every_vcpu(plan: &Plan, case: &Case, map: &MemoryMap) {
    let gic = |name: &str| {
        let found = plan.region(name).filter(|region| region.kind == RegionKind::InterruptController);
        found.and_then(|region| region.range)
    };
    let dist = gic("gic.dist").unwrap();
    let Some(frames) = &map.frames else {
        assert!(case.config.cpus <= 8);
        let cpu = gic("gic.cpu").unwrap();
        assert!(dist.first().is_multiple_of(0x1000) && cpu.first().is_multiple_of(0x1000));
        return;
    };
    let redists: Vec<&Region> = plan.regions.iter().filter(|region| region.frames.unwrap_or(0) > 0).collect();
    assert_eq!(redists.iter().filter_map(|region| region.frames).sum::<u32>(), case.config.cpus);
    assert!((1..=256).contains(&redists.len()), "{} regions", redists.len());
    for region in &redists {
        let range = region.range.unwrap();
        assert_eq!(range.size(), u64::from(region.frames.unwrap()) * frames.size);
        assert!(range.first().is_multiple_of(0x1_0000), "{region:?}");
    }
    // In the board's order, each as full as it can be before the next one has any.
    let counts: Vec<(u64, u64)> = frames
        .parts
        .iter()
        .filter_map(|name| {
            let reserved = format!("reserved.{name}");
            let is = |region: &&Region| {
                let kind = matches!(region.kind, RegionKind::InterruptController | RegionKind::Reserved);
                kind && (region.name == *name || region.name == reserved) && region.range.is_some()
            };
            let region = plan.regions.iter().find(is)?;
            Some((region.frames.unwrap_or(0).into(), kept(region)?.size() / frames.size))
        })
        .collect();
    let after = counts.iter().skip_while(|(count, room)| count == room).skip(1);
    assert!(after.clone().all(|(count, _)| *count == 0), "{counts:?}");
    assert!(dist.first().is_multiple_of(0x1_0000));
    assert!(gic("gic.its").is_none_or(|its| its.first().is_multiple_of(0x1_0000) && case.facts.its));
}

fn what_is_above_is_above(plan: &Plan, map: &MemoryMap) {
    let is_memory = |region: &&Region| matches!(region.kind, RegionKind::Ram | RegionKind::RamHotplug);
    let memory = plan.regions.iter().filter(is_memory).filter_map(|region| region.range);
    let mut low = memory.map(AddressRange::last).max().unwrap() + 1;
    low = low.max(map.above.floor);
    for part in &map.above.parts {
        let reserved = format!("reserved.{}", part.name);
        let is = |region: &&Region| region.name == part.name || region.name == reserved;
        let region = plan.regions.iter().filter(is).find(|region| region.kind != RegionKind::Device).unwrap();
        let Some(range) = kept(region) else { continue };
        if let Fit::Or(elsewhere) | Fit::OffOr(_, elsewhere) = &part.fit
            && range == *elsewhere
        {
            continue;
        }
        assert!(range.first() >= low, "{} at {range} is below {low:#x}", part.name);
        assert!(range.first().is_multiple_of(part.align), "{} at {range}", part.name);
        assert!(!matches!(part.fit, Fit::Off(_) | Fit::OffOr(..)));
        low = range.last() + 1;
    }
}

fn pins_are_the_controllers(plan: &Plan, map: &MemoryMap) {
    assert_eq!(plan.irqs.count(), map.pins);
    // A function has the pin of a wire, which it shares.
    let own = plan.devices.iter().filter(|device| device.function.is_none());
    let devices = own.filter_map(|device| Some((device.slot.irq?.0, device.id.as_str())));
    let wires = plan.intx.iter().copied().zip(["pci.inta", "pci.intb", "pci.intc", "pci.intd"]);
    let mut used: Vec<(IrqPin, &str)> = devices.chain(wires).collect();
    used.sort();
    assert!(used.windows(2).all(|pair| pair[0].0 < pair[1].0), "a pin has two owners: {used:?}");
    assert!(used.iter().all(|(pin, _)| pin.0 < map.pins), "{used:?}");
    let owners: BTreeSet<(IrqPin, &str)> = plan.irqs.owners().collect();
    assert!(used.iter().all(|owner| owners.contains(owner)), "{used:?}");
    // A fixture may keep a pin that it does not raise.
    assert!(owners.len() <= used.len() + 1, "{owners:?}");
    let first = map.pci.as_ref().and_then(|pci| pci.intx);
    assert_eq!(plan.intx, first.map_or(vec![], |first| (0..4).map(|n| IrqPin(first.0 + n)).collect()));
}

fn devices_have_what_they_need(plan: &Plan, case: &Case, map: &MemoryMap) {
    let fixtures = case.board.fixtures();
    let bridge = window(plan, pci::ECAM).map(|_| pci::BRIDGE);
    let wanted = fixtures.iter().map(|fixture| fixture.request.id.as_str()).chain(bridge);
    assert_eq!(
        plan.devices.iter().map(|device| device.id.as_str()).collect::<Vec<_>>(),
        wanted.chain(case.config.devices.iter().map(|request| request.id.as_str())).collect::<Vec<_>>()
    );
    let ram = plan.regions.iter().filter(|it| matches!(it.kind, RegionKind::Ram | RegionKind::RamHotplug));
    let last = ram.filter_map(|region| region.range).map(AddressRange::last).max().unwrap();
    for request in &case.config.devices {
        assert!(request.queue_reach.is_none_or(|bits| bits_for(last) <= bits), "{request:?}: {last:#x}");
    }
    for fixture in &fixtures {
        assert_eq!(plan.device(&fixture.request.id).unwrap().slot.windows[0].first(), fixture.base);
    }
    for (device, request) in
        plan.devices.iter().skip(fixtures.len() + bridge.iter().len()).zip(&case.config.devices)
    {
        let Needs::Board { registers, irq } = request.needs else { continue };
        let [window] = device.slot.windows[..] else { panic!("{device:?}") };
        assert_eq!(window.size(), registers.max(map.devices.grain));
        assert!(window.first().is_multiple_of(window.size()), "{device:?}");
        assert!(map.devices.window.contains(window), "{device:?}");
        assert_eq!(device.slot.irq.map(|(_, trigger)| trigger), irq);
        assert!(device.slot.irq.is_none_or(|(pin, _)| map.devices.pins.contains(&pin.0)), "{device:?}");
        let region = plan.region(&device.id).unwrap();
        assert_eq!((region.kind, region.range), (RegionKind::Device, Some(window)));
    }
}

/// A window of PCI. A device may be called like one that is not there.
fn window(plan: &Plan, name: &str) -> Option<AddressRange> {
    plan.region(name).filter(|region| region.kind == RegionKind::Pci)?.range
}

fn functions_have_their_places(plan: &Plan, case: &Case) {
    if let Some(ecam) = window(plan, pci::ECAM) {
        let bridge = plan.device(pci::BRIDGE).unwrap();
        let config = AddressRange::fixed(ecam.first(), 0x1000);
        assert_eq!((&bridge.slot, bridge.function), (&Slot { windows: vec![config], irq: None }, Some(0)));
    }
    let (mut bars, mut number) = (Vec::new(), 0);
    for request in &case.config.devices {
        let Needs::Pci { bars: wanted } = &request.needs else { continue };
        let device = plan.devices.iter().find(|device| device.id == request.id).unwrap();
        let ecam = window(plan, pci::ECAM).unwrap();
        number += 1;
        assert_eq!(device.function, Some(number));
        let [config, windows @ ..] = &device.slot.windows[..] else { panic!("{device:?}") };
        assert_eq!(*config, AddressRange::fixed(ecam.first() + u64::from(number) * 0x8000, 0x1000));
        assert!(ecam.contains(*config));
        assert_eq!(windows.len(), wanted.len());
        for (window_of_bar, Bar { size, space }) in windows.iter().zip(wanted) {
            assert_eq!(window_of_bar.size(), *size);
            assert!(window_of_bar.first().is_multiple_of(*size), "{device:?}");
            let name = match space {
                BarSpace::Mmio64 => pci::MMIO64,
                BarSpace::Mmio32 => pci::MMIO32,
                BarSpace::Io => pci::IO,
            };
            assert!(window(plan, name).unwrap().contains(*window_of_bar), "{device:?}");
            bars.push(*window_of_bar);
        }
    }
    bars.sort();
    assert!(bars.windows(2).all(|pair| pair[0].last() < pair[1].first()), "{bars:?}");
}

#[test]
fn more_bits_drop_shrink_and_move_nothing() {
    every(WIDER, STEADY, |case, rng, tally| {
        let mut facts = case.facts.clone();
        let Ok(narrow) = tally.attempt(case.board.as_ref(), &case.config, &facts) else { return };
        let now = facts.width.bits.get();
        facts.width.bits = bits(u8::try_from(rng.range(now.into(), 52)).unwrap());
        // By one bit is where the edges are.
        if now < 52 && rng.chance(50) {
            facts.width.bits = bits(now + 1);
        }

        let wide = tally.attempt(case.board.as_ref(), &case.config, &facts);

        let wide = wide.unwrap_or_else(|error| panic!("with {} bits: {error}", facts.width.bits));
        nothing_is_lost(&narrow, &wide, case.kind == Kind::QemuVirt);
        what_came_back_alone_takes_more_bits(&narrow, &wide);
    });
}

/// What is in `before` is in `after`, where it was; what was cut off or left out may have come back.
fn nothing_is_lost(before: &Plan, after: &Plan, ecam_moves: bool) {
    for region in &before.regions {
        let Some(now) = after.regions.iter().find(|now| now.name == region.name) else {
            // One that came back, and nobody needs.
            let reserved = format!("reserved.{}", region.name);
            assert!(region.range.is_none() && after.region(&reserved).is_some(), "{region:?} is gone");
            continue;
        };
        let moved = ecam_moves && region.name == pci::ECAM && region.status == Status::Shrunk;
        match (region.status, region.range) {
            (Status::Placed, range) => {
                assert_eq!((now.status, now.range, now.room), (Status::Placed, range, region.room));
            }
            (Status::Shrunk, Some(range)) => {
                let now = now.range.unwrap();
                assert!(now.size() >= range.size(), "{region:?} is now at {now}");
                assert!(moved || now.first() == range.first(), "{region:?} is now at {now}");
            }
            _ => {}
        }
    }
    for device in &before.devices {
        let now = after.devices.iter().find(|now| now.id == device.id).unwrap();
        // The configuration space of a function is a place in the ECAM.
        let skipped = usize::from(ecam_moves && device.function.is_some());
        assert_eq!(now.slot.windows[skipped..], device.slot.windows[skipped..]);
        assert_eq!((now.slot.irq, now.function), (device.slot.irq, device.function));
    }
    assert_eq!(before.intx, after.intx);
}

fn what_came_back_alone_takes_more_bits(narrow: &Plan, wide: &Plan) {
    let lacks = |region: &Region| region.shortfall.is_some();
    if !narrow.regions.iter().any(lacks) && !narrow.regions.iter().any(|region| region.range.is_none()) {
        let space = narrow.space.clone();
        assert!(space.claims().eq(wide.space.claims()));
        let same = Plan { width: narrow.width, space, ..wide.clone() };
        assert_eq!(*narrow, same, "nothing was missing, so more bits change nothing");
    }
    assert!(wide.ipa_bits >= narrow.ipa_bits);
    if wide.ipa_bits > narrow.ipa_bits {
        let top = wide.space.claims().max_by_key(|claim| claim.range.last()).unwrap();
        let was = narrow.regions.iter().find(|region| region.name == top.owner);
        let hole = top.owner.starts_with("hole of ");
        assert!(hole || was.unwrap().status != Status::Placed, "{top:?} was there before");
    }
}

#[test]
fn a_device_more_moves_nothing_that_was_placed_before_it() {
    every(ADDED, ALL, |case, rng, tally| {
        let Ok(before) = tally.attempt(case.board.as_ref(), &case.config, &case.facts) else { return };
        let mut config = case.config.clone();
        config.devices.push(Request { id: "added".into(), ..device(rng, 0) });
        let Ok(after) = tally.attempt(case.board.as_ref(), &config, &case.facts) else { return };

        for region in &before.regions {
            let now = after.region(&region.name).unwrap();
            if region.name == pci::MMIO64 && region.kind == RegionKind::Pci {
                let first = |region: &Region| region.range.map(AddressRange::first);
                assert!(region.range.is_none() || first(now) == first(region), "{region:?} {now:?}");
                assert!(now.range.map(AddressRange::last) >= region.range.map(AddressRange::last));
            } else {
                assert_eq!(now, region);
            }
        }
        assert_eq!(after.devices[..before.devices.len()], before.devices[..]);
        let pins = |plan: &Plan| plan.irqs.owners().map(|(pin, owner)| (pin, owner.to_owned())).collect();
        let (old, new): (BTreeMap<_, _>, BTreeMap<_, _>) = (pins(&before), pins(&after));
        assert!(old.iter().all(|(pin, owner)| new.get(pin) == Some(owner)));
    });
}

#[test]
fn every_remedy_of_a_refusal_works() {
    every(REMEDIES, ALL, |case, _, tally| {
        let (board, config, facts) = (case.board.as_ref(), &case.config, &case.facts);
        if tally.attempt(board, config, facts).is_ok() {
            return;
        }
        let refusal = plan(board, config, facts).unwrap_err();
        let tried: Vec<(&Remedy, Result<Plan, PlanError>)> =
            refusal.remedies.iter().map(|remedy| (remedy, remedied(board, config, facts, remedy))).collect();

        let all_fit = tried.iter().all(|(_, result)| result.is_ok());
        let this_is_gone = |result: &Result<Plan, PlanError>| match result {
            Ok(_) => true,
            Err(error) => error.code() != refusal.error.code(),
        };
        for (remedy, result) in &tried {
            assert!(all_fit || this_is_gone(result), "{refusal}: {remedy}: {result:?}");
        }
        for remedy in &refusal.remedies {
            // The source of a width is said, not planned with.
            if remedy.to_string().contains(" more transport=") {
                continue;
            }
            let sorted =
                |changes: &[(String, Transport)]| changes.iter().cloned().collect::<BTreeMap<_, _>>();
            let same = match (remedy, read(&remedy.to_string())) {
                (Remedy::Bits { bits: a, .. }, Remedy::Bits { bits: b, .. }) => *a == b,
                (Remedy::Transports(a), Remedy::Transports(b)) => sorted(a) == sorted(&b),
                (remedy, again) => *remedy == again,
            };
            assert!(same, "{remedy} is read as another remedy");
        }
        has_a_way_out(&refusal.error, case, &refusal.remedies);
    });
}

/// Where a limit of the host or of the machine is in the way, something is said that helps.
fn has_a_way_out(error: &PlanError, case: &Case, remedies: &[Remedy]) {
    let Case { config, facts, .. } = case;
    match error {
        PlanError::TooManyCpus { .. } => {
            let one = MachineConfig { cpus: 1, ..config.clone() };
            let other = attempt(case.board.as_ref(), &one, facts).err();
            // A board may have room for none.
            let none = other.is_some_and(|other| other.code() == error.code());
            assert!(none || !remedies.is_empty(), "{error}");
        }
        // With less memory than it may grow to, a machine needs a slot that this one does not ask for.
        PlanError::MemoryBeyondWidth { base, width, .. }
            if *base < width.bits.ceiling()
                && config.memory > facts.page_size
                && config.hotplug.is_none_or(|room| room.slots > 0) =>
        {
            assert!(!remedies.is_empty(), "{error}");
        }
        PlanError::MemoryNotPages { .. } if config.hotplug.is_none() => {
            assert!(!remedies.is_empty(), "{error}");
        }
        _ => {}
    }
}

#[test]
fn every_remedy_of_what_is_left_out_brings_it_back() {
    let whole = |plan: &Plan, name: &str| {
        let reserved = format!("reserved.{name}");
        plan.regions
            .iter()
            .any(|region| (region.name == name || region.name == reserved) && region.status == Status::Placed)
    };
    every(REMEDIES, ALL, |case, _, tally| {
        let (board, config, facts) = (case.board.as_ref(), &case.config, &case.facts);
        if tally.attempt(board, config, facts).is_err() {
            return;
        }
        let plan = plan(board, config, facts).unwrap();
        let lost: Vec<&Region> = plan.regions.iter().filter(|region| region.reason.is_some()).collect();

        assert_eq!(plan.diagnostics.len(), lost.len());
        for (region, diagnostic) in lost.iter().zip(&plan.diagnostics) {
            assert!(diagnostic.message.starts_with(&region.name), "{diagnostic:?}");
            for remedy in &diagnostic.remedies {
                let after = remedied(board, config, facts, &read(remedy));
                assert!(after.is_ok_and(|plan| whole(&plan, &region.name)), "{diagnostic:?}: {remedy}");
            }
            let Some(shortfall) = region.shortfall else {
                assert!(diagnostic.remedies.is_empty());
                continue;
            };
            assert_eq!(shortfall.wanted - shortfall.bytes, region.range.map_or(0, AddressRange::size));
            let Some(needed) = shortfall.needed_bits.and_then(PaBits::new) else { continue };
            assert!(needed > plan.width.bits);
            if shortfall.limit.source == WidthSource::Board || case.kind == Kind::Wild || lost_with_it(&lost)
            {
                continue;
            }
            let mut more = facts.clone();
            more.width.bits = needed;
            let back = attempt(board, config, &more).unwrap();
            assert_eq!(whole(&back, &region.name), back.width.bits == needed, "{diagnostic:?}");
            if back.width.bits == needed {
                assert!(!diagnostic.remedies.is_empty(), "{diagnostic:?}");
            }
            more.width.bits = bits(needed.get() - 1);
            assert!(!whole(&attempt(board, config, &more).unwrap(), &region.name), "{diagnostic:?}");
        }
    });
}

/// What is said of one that is left out is said of where it would be without those left out before it.
fn lost_with_it(lost: &[&Region]) -> bool {
    lost.iter().filter(|region| region.shortfall.is_some()).count() > 1
}

#[test]
fn kvm_is_never_given_more_than_256_redistributor_regions() {
    let window = |index: u64| RedistSpec::Up {
        window: AddressRange::fixed(0x1_0000_0000 + index * 0x10_0000, 0x2_0000),
        whole: index.is_multiple_of(2),
    };
    let try_regions = |count: u64| {
        let mut spec = native().spec;
        let GicSpec::V3 { redists, .. } = &mut spec.gic else { panic!("native has a GICv3") };
        *redists = (0..count).map(window).collect();
        attempt(&SpecBoard::new(spec, &[]), &proof::config(256, 1 << 30), &proof::host(40))
    };

    assert_eq!(Gic::from_plan(&try_regions(256).unwrap()).unwrap().redists().len(), 256);
    let error = try_regions(257).unwrap_err();
    assert!(matches!(error, PlanError::Board { .. }), "{error}");
}

#[test]
fn the_last_byte_below_the_width_can_be_had_and_the_first_one_past_it_cannot() {
    let try_byte = |address: u64| {
        let mut spec = native().spec;
        spec.reserved.push(("reserved.byte".into(), AddressRange::fixed(address, 1)));
        attempt(&SpecBoard::new(spec, &[]), &proof::config(1, 1 << 30), &proof::host(36))
    };

    assert_eq!(try_byte((1 << 36) - 1).unwrap().ipa_bits, bits(36));
    let error = try_byte(1 << 36).unwrap_err();
    assert!(matches!(error, PlanError::WindowBeyondWidth { needed: 37, .. }), "{error}");
}

#[test]
fn random_machines_are_of_every_shape() {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut see = |what: String| *seen.entry(what).or_default() += 1;
    for seed in 0..SHAPES {
        let case = Case::new(seed, ALL);
        match attempt(case.board.as_ref(), &case.config, &case.facts) {
            Err(error) => see(format!("refused {}", error.code())),
            Ok(plan) => {
                see(format!("planned {:?}", case.kind));
                for region in &plan.regions {
                    if region.status != Status::Placed {
                        see(format!("{:?} {}", region.status, region.name));
                    }
                }
                let redists = plan.regions.iter().filter(|region| region.frames.unwrap_or(0) > 0).count();
                see(format!("{} redistributor regions", if redists > 10 { 11 } else { redists }));
                see(format!("hot-plug: {}", plan.range("ram.hotplug").is_some()));
                see(format!("functions: {}", plan.devices.iter().any(|device| device.function.is_some())));
            }
        }
        if let Ok(map) = case.board.map(&case.config, &case.facts) {
            let lowest = |place: &Place| matches!(place, Place::Absent { .. });
            see(format!("absent parts: {}", map.parts.iter().any(|part| lowest(&part.place))));
        }
    }

    for (what, count) in &seen {
        eprintln!("{count:6} {what}");
    }
    let times = |what: &str| seen.get(what).copied().unwrap_or(0);
    for what in [
        "planned Native",
        "planned QemuVirt",
        "planned Kvmtool",
        "planned Monotone",
        "planned Wild",
        "Shrunk pci.mmio64",
        "Dropped pci.mmio64",
        "Shrunk pci.ecam",
        "Dropped gic.redist1",
        "Dropped gic.its",
        "0 redistributor regions",
        "2 redistributor regions",
        "hot-plug: true",
        "functions: true",
        "refused too-many-cpus",
        "refused ram-beyond-width",
        "refused hotplug-beyond-width",
        "refused ram-beyond-queue-reach",
        "refused window-beyond-width",
        "refused host-lacks",
        "refused bar-without-room",
        "refused no-room",
        "refused no-interrupt",
        "refused memory-not-pages",
    ] {
        assert!(times(what) >= 5, "{what}: {} times", times(what));
    }
}
