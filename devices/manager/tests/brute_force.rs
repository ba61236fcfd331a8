//! The planner against a placer that looks at every page, one after the other, and was written from the
//! rules and not from the planner. Spaces are a few dozen pages around 4 GiB, where 32 bits end, and in them are
//! ranges that are kept free: some touch, overlap, or begin in the middle of a page.
//!
//! `AMBIT_CASES` says how many machines; `AMBIT_SEED` runs one alone, the number that a failure printed.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_bus::{Bar, BarSpace, Needs, Request, Trigger};
use ambit_device_manager::{
    Above, Arch, Board, BootError, BootImage, DevicePlaces, Fit, Fixture, Frames, HighPart, HolePolicy,
    HostFacts, Length, MachineConfig, MemoryHotplug, MemoryMap, Part, Payload, PciConfig, PciPlaces, Place,
    Plan, PlanError, RamPlace, RegionKind, Reservation, Reserve, Status, Width, WidthSource, attempt,
};
use ambit_resources::{AddressRange, IrqError, IrqPin, PaBits, SpaceError};

mod placer;

use placer::{PAGE, brute_force};

/// Two thirds of the pages that things go to are below 4 GiB, and one above.
const PAGES: u64 = 96;
const ORIGIN: u64 = (1 << 32) - PAGES * 2 / 3 * PAGE;

#[derive(Clone, Debug)]
struct Small {
    map: MemoryMap,
    fixtures: Vec<Fixture>,
}

impl Board for Small {
    fn name(&self) -> &'static str {
        "small"
    }

    fn arch(&self) -> Arch {
        Arch::Aarch64
    }

    fn map(&self, config: &MachineConfig, _: &HostFacts) -> Result<MemoryMap, PlanError> {
        let mut map = self.map.clone();
        if config.pci.is_none() {
            map.pci = None;
            map.parts.retain(|part| part.kind != RegionKind::Pci);
            map.above.parts.retain(|part| part.kind != RegionKind::Pci);
        }
        Ok(map)
    }

    fn fixtures(&self) -> Vec<Fixture> {
        self.fixtures.clone()
    }

    fn interrupt_id(&self, pin: IrqPin) -> u32 {
        pin.0
    }

    fn boot_image<'a>(&self, _: &Plan, _: &Payload<'a>) -> Result<BootImage<'a>, BootError> {
        Err(BootError::Kernel("nothing starts here".into()))
    }
}

/// Name, first and last address, and whether it is whole.
type NamedRange = (String, Option<(u64, u64)>, Status);

/// Id, first addresses and sizes, pin.
type Seat = (String, Vec<(u64, u64)>, Option<u32>);

/// What came of a machine, as both sides say it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Refused(String),
    Planned {
        /// By address, those without one last.
        regions: Vec<NamedRange>,
        devices: Vec<Seat>,
        frames: Vec<(String, u32)>,
        ipa_bits: u8,
    },
}

fn planner(board: &Small, config: &MachineConfig, facts: &HostFacts) -> Outcome {
    let plan = match attempt(board, config, facts) {
        Ok(plan) => plan,
        Err(error) => return Outcome::Refused(said(&error)),
    };
    let regions = plan.regions.iter().map(|region| {
        let range = region.range.map(|range| (range.first(), range.last()));
        (region.name.clone(), range, region.status)
    });
    let devices = plan.devices.iter().map(|device| {
        let windows = device.slot.windows.iter().map(|window| (window.first(), window.size()));
        (device.id.clone(), windows.collect(), device.slot.irq.map(|(pin, _)| pin.0))
    });
    let frames = plan.regions.iter().filter_map(|region| Some((region.name.clone(), region.frames?)));
    Outcome::Planned {
        regions: regions.collect(),
        devices: devices.collect(),
        frames: frames.collect(),
        ipa_bits: plan.ipa_bits.get(),
    }
}

/// Who is refused and what for, without the words around it.
fn said(error: &PlanError) -> String {
    match error {
        PlanError::Space(SpaceError::Taken { owner, holder, .. }) => format!("{owner} overlaps {holder}"),
        PlanError::Space(SpaceError::NoRoom { owner, largest, .. }) => {
            format!("{owner} has no room, at most {largest:#x}")
        }
        PlanError::WindowBeyondWidth { owner, needed, .. } => format!("{owner} needs {needed} bits"),
        PlanError::MemoryBeyondWidth { short, .. } => format!("memory lacks {short:#x}"),
        PlanError::HotplugBeyondWidth { short, .. } => format!("hot-plug lacks {short:#x}"),
        PlanError::TooManyCpus { limit, .. } => format!("room for {limit} vCPUs"),
        PlanError::Irq(IrqError::NoneLeft { owner, .. }) => format!("{owner} has no pin"),
        PlanError::Irq(IrqError::Taken { owner, holder, .. }) => format!("{owner} has the pin of {holder}"),
        PlanError::Bar { owner, bar, window, .. } => format!("BAR {bar} of {owner} is not in {window}"),
        PlanError::NoPci(owner) => format!("{owner} has no PCI"),
        PlanError::Around { error, .. } => said(error),
        PlanError::KeptFree { owner, hole, .. } => format!("{owner} touches {}", hole.name),
        PlanError::QueueReach { last, .. } => format!("queues do not reach {last:#x}"),
        other => panic!("{other}"),
    }
}

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, count: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % count
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// 1, 2 or 4 pages.
    fn size(&mut self) -> u64 {
        PAGE << self.below(3)
    }

    fn page(&mut self) -> u64 {
        ORIGIN + self.below(PAGES) * PAGE
    }

    fn range(&mut self, most: u64) -> AddressRange {
        AddressRange::fixed(self.page(), (1 + self.below(most)) * PAGE)
    }
}

fn board(rng: &mut Rng) -> Small {
    let mut parts: Vec<Part> = (0..rng.below(4))
        .map(|n| {
            let place = match rng.below(5) {
                0 => Place::At(rng.range(3)),
                1 => Place::Absent { size: PAGE, reason: "the host has none".into() },
                _ => Place::Lowest {
                    size: (1 + rng.below(3)) * PAGE,
                    align: rng.size(),
                    within: rng.range(40),
                },
            };
            Part { name: format!("part{n}"), kind: RegionKind::InterruptController, place }
        })
        .collect();
    let mut high: Vec<HighPart> = (0..rng.below(4)).map(|n| high_part(rng, n)).collect();
    let names = parts.iter().map(|part| &part.name).chain(high.iter().map(|part| &part.name));
    let mut names: Vec<String> = names.filter(|_| rng.chance(80)).cloned().collect();
    if rng.chance(30) {
        names.reverse();
    }
    let pci = rng.chance(60).then(|| {
        let at =
            |name: &str, range| Part { name: name.into(), kind: RegionKind::Pci, place: Place::At(range) };
        parts.push(at("pci.ecam", AddressRange::fixed(0x1000_0000, 1 << 20)));
        parts.push(at("pci.mmio32", AddressRange::fixed(0x2000_0000, 6 * PAGE)));
        if rng.chance(80) {
            let (room, cap) = (rng.below(3) * PAGE, (4 + rng.below(12)) * PAGE);
            high.push(HighPart {
                name: "pci.mmio64".into(),
                kind: RegionKind::Pci,
                size: Length::Bars { room, grain: PAGE, cap },
                align: PAGE,
                fit: Fit::Trimmed(PAGE << rng.below(2)),
            });
        }
        PciPlaces { intx: rng.chance(80).then_some(IrqPin(6)), msi: true, ports: None }
    });
    let fixtures = (0..rng.below(3)).map(|n| Fixture {
        request: Request {
            needs: Needs::Board { registers: PAGE, irq: Some(Trigger::Level) },
            ..request(100 + n)
        },
        base: rng.page(),
        pin: rng.chance(70).then(|| IrqPin(u32::try_from(rng.below(8)).unwrap())),
    });
    let fixtures = fixtures.collect();
    let (base, length) = (rng.page(), 1 + rng.below(20));
    // As on a PC: RAM that the pages below do not hold goes on behind it.
    let gap = rng.chance(40).then(|| {
        let first = base + (1 + rng.below(8)) * PAGE;
        AddressRange::spanning(first, ((1 << 32) - 1).max(first + length * PAGE - 1)).unwrap()
    });
    let floor = if rng.chance(30) { rng.page() } else { 0 };
    Small {
        fixtures,
        map: MemoryMap {
            parts,
            ram: RamPlace { base, grain: PAGE << rng.below(4), slot_room: 0, max_slots: 4 },
            gap,
            reserved: Vec::new(),
            above: Above { floor: gap.map_or(floor, |_| 0), holes: rng.chance(30), parts: high },
            frames: (!names.is_empty())
                .then_some(Frames { size: PAGE << u32::from(rng.chance(25)), parts: names }),
            devices: DevicePlaces { window: rng.range(40), grain: PAGE, pins: 2..=5 },
            pins: 10,
            pci,
            max_cpus: 8,
            width: None,
        },
    }
}

fn high_part(rng: &mut Rng, n: u64) -> HighPart {
    let size = rng.size();
    let fit = match rng.below(24) / 4 {
        5 if rng.chance(10) => Fit::Required,
        0 => Fit::Or(rng.range(2)),
        1 => Fit::Off("an option".into()),
        2 => Fit::OffOr("an option".into(), rng.range(2)),
        3 => Fit::Trimmed(PAGE),
        _ => Fit::Whole,
    };
    HighPart {
        name: format!("high{n}"),
        kind: RegionKind::InterruptController,
        size: Length::Of(size),
        align: size,
        fit,
    }
}

fn request(n: u64) -> Request {
    Request {
        id: format!("d{n}"),
        kind: "toy".into(),
        needs: Needs::Pci { bars: Vec::new() },
        description: Arc::default(),
        queue_reach: None,
    }
}

fn config(rng: &mut Rng) -> MachineConfig {
    let memory = (1 + rng.below(10)) * PAGE;
    let hotplug = rng.chance(15).then(|| MemoryHotplug { max_memory: memory + rng.size(), slots: 1 });
    let pci = rng.chance(80);
    let devices = (0..rng.below(7)).map(|n| {
        let needs = if rng.chance(60) || (!pci && rng.chance(90)) {
            Needs::Board {
                registers: rng.size() >> rng.below(2),
                irq: rng.chance(60).then_some(Trigger::Edge),
            }
        } else {
            let bars = (0..rng.below(4)).map(|_| Bar {
                size: rng.size(),
                space: if rng.chance(50) { BarSpace::Mmio64 } else { BarSpace::Mmio32 },
            });
            Needs::Pci { bars: bars.collect() }
        };
        Request { needs, ..request(n) }
    });
    let devices = devices.collect();
    let window = rng.chance(20).then(|| rng.below(5) * PAGE);
    MachineConfig {
        cpus: 1 + u32::try_from(rng.below(3)).unwrap(),
        memory,
        hotplug,
        pci: pci.then_some(PciConfig { window }),
        queue_reach: rng.chance(5).then_some(32),
        devices,
        alternatives: Vec::new(),
        reserve: Reserve::default(),
    }
}

/// What the board keeps free and what the user does. Few machines have parts that all of it leaves alone, so in most
/// of them it is where RAM goes and what is above it.
fn keep_free(rng: &mut Rng, board: &mut Small, config: &mut MachineConfig) {
    if rng.chance(30) {
        return;
    }
    if rng.chance(60) {
        config.reserve.policy = HolePolicy::Relocate;
    }
    let mut last = AddressRange::fixed(rng.page(), PAGE);
    for number in 0..=rng.below(5) {
        let half = PAGE / 2;
        let size = (1 + rng.below(8)) * half;
        let first = match rng.below(11) {
            // It touches the one before, overlaps it, or is it again.
            0 => last.last() + 1,
            1 => last.first() + half,
            2 => last.first(),
            // What a width ends at.
            3 => (1 << (32 + rng.below(2))) - size,
            4 => board.map.gap.map_or(1 << 32, |gap| gap.last() + 1) + rng.below(12) * half,
            5 => board.map.ram.base + rng.below(40) * half,
            6 => (5 << 30) - rng.below(6) * half,
            7 => (1 << 32) + rng.below(2) * half,
            // In the window for BARs of 32 bits, or at an end of it.
            8 => 0x2000_0000 - half + rng.below(13) * half,
            _ => rng.page() + rng.below(2) * half,
        };
        last = AddressRange::fixed(first, size);
        if rng.chance(50) {
            config.reserve.ranges.push(last);
        } else {
            let name = format!("reserved.iommu{number}");
            board.map.reserved.push(Reservation { name, range: last, why: "a test says so".into() });
        }
    }
}

fn host(rng: &mut Rng) -> HostFacts {
    let bits = PaBits::new(if rng.chance(30) { 32 } else { 33 }).unwrap();
    HostFacts { width: Width { bits, source: WidthSource::Host }, ..HostFacts::assumed() }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

#[test]
fn the_planner_says_what_looking_at_every_page_says() {
    let only = number("AMBIT_SEED");
    let cases = number("AMBIT_CASES").unwrap_or(20_000);
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for seed in only.map_or(0..cases, |seed| seed..seed + 1) {
        let rng = &mut Rng(seed << 20);
        let (mut board, mut config, facts) = (board(rng), config(rng), host(rng));
        keep_free(rng, &mut board, &mut config);
        // Asking for a length where none is open is refused for that alone.
        let open = board.map(&config, &facts).unwrap().above.parts;
        if !open.iter().any(|part| matches!(part.size, Length::Bars { .. })) {
            config.pci = config.pci.map(|_| PciConfig { window: None });
        }

        let (ours, expected) = (planner(&board, &config, &facts), brute_force(&board, &config, &facts));

        assert_eq!(ours, expected, "AMBIT_SEED={seed}\n{board:#x?}\n{config:#x?}\n{facts:?}");
        let what = match ours {
            Outcome::Planned { .. } => "planned".into(),
            Outcome::Refused(said) => {
                let words = said.split(' ').filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
                words.collect::<Vec<_>>().join(" ")
            }
        };
        *counts.entry(what).or_default() += 1;
    }

    for (what, count) in &counts {
        eprintln!("{count:6} {what}");
    }
    if only.is_none() && cases >= 20_000 {
        assert!(counts["planned"] >= cases / 6, "{counts:?}");
    }
}
