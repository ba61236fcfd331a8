//! The planner against a placer that looks at every page, one after the other, and was written from the
//! rules and not from the planner. Spaces are a few dozen pages around 4 GiB, where 32 bits end.
//!
//! `AMBIT_CASES` says how many machines; `AMBIT_SEED` runs one alone, the number that a failure printed.

use std::collections::BTreeMap;
use std::sync::Arc;

use ambit_bus::{Bar, BarSpace, Needs, Request, Trigger};
use ambit_device_manager::{
    Above, Arch, Board, BootError, BootImage, DevicePlaces, Fit, Fixture, Frames, HighPart, HostFacts,
    Length, MachineConfig, MemoryHotplug, MemoryMap, Part, Payload, PciConfig, PciPlaces, Place, Plan,
    PlanError, RamPlace, RegionKind, Reserve, Status, Width, WidthSource, attempt,
};
use ambit_resources::{AddressRange, IrqError, IrqPin, PaBits, SpaceError, bits_for};

const PAGE: u64 = 0x1000;
const GIB: u64 = 1 << 30;
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
        PlanError::QueueReach { last, .. } => format!("queues do not reach {last:#x}"),
        other => panic!("{other}"),
    }
}

/// Who has each page, and what is where.
struct Placer {
    bits: u8,
    owners: BTreeMap<u64, String>,
    pins: BTreeMap<u32, String>,
    regions: Vec<NamedRange>,
    devices: Vec<Seat>,
    frames: Vec<(String, u32)>,
}

type Try<T> = Result<T, String>;

fn up(address: u64, align: u64) -> u64 {
    (0..).map(|n| address + n).find(|address: &u64| address.is_multiple_of(align)).unwrap()
}

fn every(step: u64, first: u64, end: u64) -> impl Iterator<Item = u64> + Clone {
    (0..).map(move |n| first + n * step).take_while(move |address| *address < end)
}

/// As [`up`], where counting takes too long.
fn up_gib(address: u64) -> u64 {
    address.div_ceil(GIB) * GIB
}

impl Placer {
    fn ceiling(&self) -> u64 {
        1 << self.bits
    }

    fn claim(&mut self, owner: &str, first: u64, size: u64) -> Try<()> {
        if first + size > self.ceiling() {
            return Err(format!("{owner} needs {} bits", bits_for(first + size - 1)));
        }
        let pages = every(PAGE, first, first + size);
        if let Some(holder) = pages.clone().find_map(|page| self.owners.get(&page)) {
            return Err(format!("{owner} overlaps {holder}"));
        }
        pages.for_each(|page| drop(self.owners.insert(page, owner.into())));
        Ok(())
    }

    fn is_free(&self, first: u64, size: u64) -> bool {
        every(PAGE, first, first + size).all(|page| !self.owners.contains_key(&page))
    }

    /// Tries every page of `within`, the lowest first.
    fn lowest(&mut self, owner: &str, size: u64, align: u64, within: AddressRange) -> Try<u64> {
        let end = within.last() + 1;
        let pages = every(PAGE, within.first(), end);
        let fits =
            |first: &u64| first.is_multiple_of(align) && first + size <= end && self.is_free(*first, size);
        let Some(first) = pages.clone().find(fits) else {
            let (mut run, mut largest) = (0, 0);
            for page in pages {
                run = if self.is_free(page, PAGE) { run + PAGE } else { 0 };
                largest = largest.max(run);
            }
            return Err(format!("{owner} has no room, at most {largest:#x}"));
        };
        self.claim(owner, first, size)?;
        Ok(first)
    }

    fn region(&mut self, name: &str, first: u64, size: u64, status: Status) {
        self.regions.push((name.into(), Some((first, first + size - 1)), status));
    }

    fn dropped(&mut self, name: &str) {
        self.regions.push((name.into(), None, Status::Dropped));
    }

    fn pin(&mut self, owner: &str, pin: u32) -> Try<u32> {
        match self.pins.insert(pin, owner.into()) {
            None => Ok(pin),
            Some(holder) => Err(format!("{owner} has the pin of {holder}")),
        }
    }

    fn part(&mut self, part: &Part) -> Try<()> {
        match &part.place {
            Place::At(range) => {
                self.claim(&part.name, range.first(), range.size())?;
                self.region(&part.name, range.first(), range.size(), Status::Placed);
            }
            Place::Lowest { size, align, within } => {
                let first = self.lowest(&part.name, *size, *align, *within)?;
                self.region(&part.name, first, *size, Status::Placed);
            }
            Place::Absent { .. } => self.dropped(&part.name),
        }
        Ok(())
    }

    fn fixture(&mut self, fixture: &Fixture) -> Try<()> {
        let id = &fixture.request.id;
        self.claim(id, fixture.base, PAGE)?;
        let pin = fixture.pin.map(|pin| self.pin(id, pin.0)).transpose()?;
        self.region(id, fixture.base, PAGE, Status::Placed);
        self.devices.push((id.clone(), vec![(fixture.base, PAGE)], pin));
        Ok(())
    }

    /// Gives where the parts above begin.
    fn memory(&mut self, config: &MachineConfig, place: &RamPlace) -> Try<u64> {
        let end = up(place.base + config.memory, place.grain);
        if end > self.ceiling() {
            return Err(format!("memory lacks {:#x}", end - self.ceiling()));
        }
        self.claim("ram0", place.base, config.memory)?;
        self.region("ram0", place.base, config.memory, Status::Placed);
        let Some(room) = config.hotplug else { return Ok(end) };
        let (first, size) = (up_gib(end), room.max_memory - config.memory);
        let end = up_gib(first + size);
        if end > self.ceiling() {
            return Err(format!("hot-plug lacks {:#x}", end - self.ceiling()));
        }
        self.claim("ram.hotplug", first, size)?;
        self.region("ram.hotplug", first, size, Status::Placed);
        Ok(end)
    }

    fn high(&mut self, part: &HighPart, next: u64, holes: bool, config: &MachineConfig) -> Try<u64> {
        let name = &part.name;
        let first = if part.align >= GIB { up_gib(next) } else { up(next, part.align) };
        let size = match part.size {
            Length::Of(size) => size,
            Length::Bars { room, grain, cap } => match config.pci.unwrap().window {
                Some(size) => size,
                None => up(bars_end(config, first) - first + room, grain).min(cap),
            },
        };
        if size == 0 {
            self.dropped(name);
            return Ok(next);
        }
        let fits = first + size <= self.ceiling();
        let off = matches!(part.fit, Fit::Off(_) | Fit::OffOr(..));
        let mut after = next;
        match &part.fit {
            _ if fits && !off => {
                self.claim(name, first, size)?;
                self.region(name, first, size, Status::Placed);
                return Ok(first + size);
            }
            Fit::Or(low) | Fit::OffOr(_, low) => {
                let status = if off { Status::Placed } else { Status::Shrunk };
                self.claim(name, low.first(), low.size())?;
                self.region(name, low.first(), low.size(), status);
            }
            Fit::Trimmed(grain) => {
                let room = self.ceiling().saturating_sub(first);
                match (0..).map(|n| n * grain).take_while(|size| *size <= room).last() {
                    None | Some(0) => self.dropped(name),
                    Some(left) => {
                        self.claim(name, first, left)?;
                        self.region(name, first, left, Status::Shrunk);
                        after = first + left;
                    }
                }
            }
            Fit::Required => return Err(format!("{name} needs {} bits", bits_for(first + size - 1))),
            Fit::Whole | Fit::Off(_) => self.dropped(name),
        }
        if holes && fits {
            self.claim(&format!("hole of {name}"), first, size)?;
        }
        Ok(if holes { first + size } else { after })
    }

    fn frames(&mut self, frames: &Frames, cpus: u32) -> Try<()> {
        let (mut left, mut capacity) = (cpus, 0);
        for name in &frames.parts {
            let Some(region) = self.regions.iter_mut().find(|region| region.0 == *name) else { continue };
            let Some((first, last)) = region.1 else { continue };
            let mut here = 0;
            for frame in every(frames.size, first, last + 1).filter(|it| it + frames.size <= last + 1) {
                capacity += 1;
                if left > 0 {
                    (left, here) = (left - 1, here + 1);
                    region.1 = Some((first, frame + frames.size - 1));
                }
            }
            if here == 0 {
                region.0 = format!("reserved.{name}");
            }
            self.frames.push((region.0.clone(), here));
        }
        if left > 0 { Err(format!("room for {capacity} vCPUs")) } else { Ok(()) }
    }

    fn device(&mut self, id: &str, size: u64, irq: bool, places: &DevicePlaces) -> Try<()> {
        let first = self.lowest(id, size, size, places.window)?;
        let free = places.pins.clone().find(|pin| !self.pins.contains_key(pin));
        let pin = match irq {
            true => Some(self.pin(id, free.ok_or_else(|| format!("{id} has no pin"))?)?),
            false => None,
        };
        self.region(id, first, size, Status::Placed);
        self.devices.push((id.into(), vec![(first, size)], pin));
        Ok(())
    }

    fn range(&self, name: &str) -> Option<AddressRange> {
        let (first, last) = self.regions.iter().find(|region| region.0 == name)?.1?;
        AddressRange::spanning(first, last)
    }
}

/// A placer for what is within windows, where nothing else is in the way.
fn empty() -> Placer {
    let (owners, pins, regions, devices, frames) = Default::default();
    Placer { bits: 52, owners, pins, regions, devices, frames }
}

fn bars(config: &MachineConfig) -> impl Iterator<Item = (&str, usize, &Bar)> {
    config.devices.iter().flat_map(|request| match &request.needs {
        Needs::Pci { bars } => {
            bars.iter().enumerate().map(|(n, bar)| (request.id.as_str(), n, bar)).collect()
        }
        Needs::Board { .. } | Needs::Ports { .. } => Vec::new(),
    })
}

/// Where the last of the wide BARs ends if nothing bounds them.
fn bars_end(config: &MachineConfig, first: u64) -> u64 {
    let mut placer = empty();
    let within = AddressRange::fixed(first, 4096 * PAGE);
    let wide = bars(config).filter(|(_, _, bar)| bar.space == BarSpace::Mmio64);
    let ends = wide.map(|(id, _, bar)| placer.lowest(id, bar.size, bar.size, within).unwrap() + bar.size);
    ends.max().unwrap_or(first)
}

fn brute_force(board: &Small, config: &MachineConfig, facts: &HostFacts) -> Outcome {
    let mut placer = empty();
    placer.bits = facts.width.bits.get();
    match place_all(&mut placer, board, config, facts) {
        Err(refused) => Outcome::Refused(refused),
        Ok(()) => {
            let last = placer.owners.keys().max().unwrap() + PAGE - 1;
            let key = |region: &NamedRange| region.1.map_or(u64::MAX, |it| it.0);
            placer.regions.sort_by_key(key);
            // In the order of their addresses.
            let at = |name: &str| placer.regions.iter().position(|region| region.0 == name);
            placer.frames.sort_by_key(|(name, _)| at(name));
            Outcome::Planned {
                regions: placer.regions,
                devices: placer.devices,
                frames: placer.frames,
                ipa_bits: bits_for(last).max(32),
            }
        }
    }
}

fn place_all(placer: &mut Placer, board: &Small, config: &MachineConfig, facts: &HostFacts) -> Try<()> {
    let map = board.map(config, facts).unwrap();
    map.parts.iter().try_for_each(|part| placer.part(part))?;
    board.fixtures.iter().try_for_each(|fixture| placer.fixture(fixture))?;
    let mut next = placer.memory(config, &map.ram)?.max(map.above.floor);
    for part in &map.above.parts {
        next = placer.high(part, next, map.above.holes, config)?;
    }
    if let Some(frames) = &map.frames {
        placer.frames(frames, config.cpus)?;
    }
    if let Some(first) = map.pci.as_ref().and_then(|pci| pci.intx) {
        for (pin, name) in (first.0..).zip(["pci.inta", "pci.intb", "pci.intc", "pci.intd"]) {
            placer.pin(name, pin)?;
        }
    }
    if let Some(ecam) = placer.range("pci.ecam") {
        placer.devices.push(("pci.bridge".into(), vec![(ecam.first(), PAGE)], None));
    }
    let (mut functions, mut windows) = (0, empty());
    for request in &config.devices {
        let id = request.id.as_str();
        let bars = match &request.needs {
            Needs::Board { registers, irq } => {
                placer.device(id, (*registers).max(map.devices.grain), irq.is_some(), &map.devices)?;
                continue;
            }
            Needs::Ports { .. } => unreachable!("no device asks for ports"),
            Needs::Pci { bars } => bars,
        };
        let ecam = placer.range("pci.ecam").ok_or_else(|| format!("{id} has no PCI"))?;
        functions += 1;
        let mut slot = vec![(ecam.first() + functions * 8 * PAGE, PAGE)];
        for (index, bar) in bars.iter().enumerate() {
            let name = match bar.space {
                BarSpace::Mmio64 => "pci.mmio64",
                BarSpace::Mmio32 => "pci.mmio32",
                BarSpace::Io => "pci.io",
            };
            let first = placer.range(name).and_then(|at| windows.lowest(id, bar.size, bar.size, at).ok());
            let first = first.ok_or_else(|| format!("BAR {index} of {id} is not in {name}"))?;
            slot.push((first, bar.size));
        }
        // INTA of the functions takes the four wires in turn.
        let first = map.pci.as_ref().and_then(|pci| pci.intx);
        let wires = first.map(|first| [first.0, first.0 + 1, first.0 + 2, first.0 + 3]);
        let pin = wires.map(|wires| wires[usize::try_from(functions).unwrap() % 4]);
        placer.devices.push((id.into(), slot, pin));
    }
    let memory = ["ram0", "ram.hotplug"].into_iter().filter_map(|name| placer.range(name));
    let last = memory.map(AddressRange::last).max().unwrap();
    match config.queue_reach {
        Some(bits) if last >= 1 << bits => Err(format!("queues do not reach {last:#x}")),
        _ => Ok(()),
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
    Small {
        fixtures,
        map: MemoryMap {
            parts,
            ram: RamPlace { base: rng.page(), grain: PAGE << rng.below(4), slot_room: 0, max_slots: 4 },
            gap: None,
            reserved: Vec::new(),
            above: Above {
                floor: if rng.chance(30) { rng.page() } else { 0 },
                holes: rng.chance(30),
                parts: high,
            },
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
        let (board, mut config, facts) = (board(rng), config(rng), host(rng));
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
