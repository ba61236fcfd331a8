//! A placer that looks at every page, one after the other, and was written from the rules.

use std::collections::{BTreeMap, BTreeSet};

use ambit_bus::{Bar, BarSpace, Needs};
use ambit_device_manager::{
    Board, DevicePlaces, Fit, Fixture, Frames, HighPart, HolePolicy, HostFacts, Length, MachineConfig,
    MemoryMap, Part, Place, RegionKind, Status,
};
use ambit_resources::{AddressRange, bits_for};

use crate::{NamedRange, Outcome, Seat, Small};

pub const PAGE: u64 = 0x1000;
const GIB: u64 = 1 << 30;
/// What is kept free may begin and end in the middle of a page.
const STEP: u64 = PAGE / 2;

/// Who has each half of a page, and what is where.
struct Placer {
    bits: u8,
    owners: BTreeMap<u64, String>,
    pins: BTreeMap<u32, String>,
    regions: Vec<NamedRange>,
    devices: Vec<Seat>,
    frames: Vec<(String, u32)>,
    /// What nothing is ever in, lowest first.
    holes: Vec<(String, AddressRange)>,
    /// The names of all pieces of those.
    kept: BTreeSet<String>,
}

type Try<T> = Result<T, String>;

fn up(address: u64, align: u64) -> u64 {
    // Counting takes too long there.
    if align >= GIB {
        return address.div_ceil(align) * align;
    }
    (0..).map(|n| address + n).find(|address: &u64| address.is_multiple_of(align)).unwrap()
}

fn every(step: u64, first: u64, end: u64) -> impl Iterator<Item = u64> + Clone {
    (0..).map(move |n| first + n * step).take_while(move |address| *address < end)
}

fn is_piece(piece: &str, name: &str) -> bool {
    piece.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn is_clear(holes: &[(String, AddressRange)], first: u64, size: u64) -> bool {
    size == 0 || !holes.iter().any(|(_, hole)| hole.first() < first + size && first <= hole.last())
}

/// RAM page by page, below the gap and then from `above` on, and where it is taken to end.
fn banks(
    config: &MachineConfig,
    map: &MemoryMap,
    above: u64,
    holes: &[(String, AddressRange)],
) -> (Vec<(u64, u64)>, u64) {
    let mut banks: Vec<(u64, u64)> = Vec::new();
    let (mut left, mut page) = (config.memory, map.ram.base);
    while left > 0 {
        if map.gap.is_some_and(|gap| page >= gap.first()) && page < above {
            page = above;
        }
        if is_clear(holes, page, PAGE) {
            left -= PAGE;
            match banks.last_mut() {
                Some((first, size)) if *first + *size == page => *size += PAGE,
                _ => banks.push((page, PAGE)),
            }
        }
        page += PAGE;
    }
    (banks, up(page, map.ram.grain))
}

/// Room for more RAM at or above `end`.
fn room(config: &MachineConfig, end: u64, holes: &[(String, AddressRange)]) -> Option<(u64, u64)> {
    let size = config.hotplug?.max_memory - config.memory;
    let first = every(GIB, up(end, GIB), u64::MAX).find(|first| is_clear(holes, *first, size))?;
    Some((first, size))
}

/// Where a part above RAM would be if nothing bounded it.
fn seat(part: &HighPart, next: u64, config: &MachineConfig, holes: &[(String, AddressRange)]) -> (u64, u64) {
    let size = |first: u64| match part.size {
        Length::Of(size) => size,
        Length::Bars { room, grain, cap } => match config.pci.unwrap().window {
            Some(size) => size,
            None => up(bars_end(config, first) - first + room, grain).min(cap),
        },
    };
    let first = every(part.align, up(next, part.align), u64::MAX);
    first.map(|first| (first, size(first))).find(|(first, size)| is_clear(holes, *first, *size)).unwrap()
}

/// Where RAM above the gap begins: right there, or after the first hole above which no other is in the way.
fn above(config: &MachineConfig, map: &MemoryMap, holes: &[(String, AddressRange)]) -> u64 {
    let Some(gap) = map.gap else { return 0 };
    let begin = gap.last() + 1;
    if config.reserve.policy == HolePolicy::Split {
        return begin;
    }
    let after = holes.iter().map(|(_, hole)| up(hole.last() + 1, GIB)).filter(|after| *after > begin);
    let tries: BTreeSet<u64> = after.chain([begin]).collect();
    let is_whole = |above: &u64| {
        let mut end = banks(config, map, *above, &[]).1.max(*above);
        end = room(config, end, &[]).map_or(end, |(first, size)| up(first + size, GIB)).max(map.above.floor);
        for part in &map.above.parts {
            let (first, size) = seat(part, end, config, &[]);
            end = if size == 0 { end } else { first + size };
        }
        is_clear(holes, *above, end - above)
    };
    tries.into_iter().find(is_whole).unwrap()
}

impl Placer {
    fn ceiling(&self) -> u64 {
        1 << self.bits
    }

    fn claim(&mut self, owner: &str, first: u64, size: u64) -> Try<()> {
        if first + size > self.ceiling() {
            return Err(format!("{owner} needs {} bits", bits_for(first + size - 1)));
        }
        let steps = every(STEP, first, first + size);
        if let Some(holder) = steps.clone().find_map(|step| self.owners.get(&step)) {
            let hole =
                self.holes.iter().find(|(name, _)| self.kept.contains(holder) && is_piece(holder, name));
            return Err(match hole {
                Some((name, _)) => format!("{owner} touches {name}"),
                None => format!("{owner} overlaps {holder}"),
            });
        }
        steps.for_each(|step| drop(self.owners.insert(step, owner.into())));
        Ok(())
    }

    fn is_free(&self, first: u64, size: u64) -> bool {
        every(STEP, first, first + size).all(|step| !self.owners.contains_key(&step))
    }

    /// What is kept free is nobody's, as far as the width reaches: but for what the board itself has there.
    fn keep_free(&mut self, parts: &[Part]) {
        let mut own: BTreeSet<u64> = BTreeSet::new();
        for part in parts {
            if let (RegionKind::Reserved | RegionKind::InterruptController, Place::At(range)) =
                (part.kind, &part.place)
            {
                let steps = every(STEP, range.first(), range.last());
                // Those that overlap are refused when it is their turn.
                if !steps.clone().any(|step| own.contains(&step)) {
                    own.extend(steps);
                }
            }
        }
        for (name, hole) in self.holes.clone() {
            let steps = every(STEP, hole.first(), (hole.last() + 1).min(self.ceiling()));
            let mut pieces: Vec<(u64, u64)> = Vec::new();
            for step in steps.filter(|step| !own.contains(step)) {
                if self.owners.contains_key(&step) {
                    continue;
                }
                match pieces.last_mut() {
                    Some((first, size)) if *first + *size == step => *size += STEP,
                    _ => pieces.push((step, STEP)),
                }
            }
            for (number, (first, size)) in pieces.into_iter().enumerate() {
                let name = if number == 0 { name.clone() } else { format!("{name}.{number}") };
                self.claim(&name, first, size).unwrap();
                self.region(&name, first, size, Status::Placed);
                self.kept.insert(name);
            }
        }
    }

    /// Tries every page of `within`, the lowest first.
    fn lowest(&mut self, owner: &str, size: u64, align: u64, within: AddressRange) -> Try<u64> {
        let end = within.last() + 1;
        let pages = every(PAGE, within.first(), end);
        let fits =
            |first: &u64| first.is_multiple_of(align) && first + size <= end && self.is_free(*first, size);
        let Some(first) = pages.clone().find(fits) else {
            let (mut run, mut largest) = (0, 0);
            for step in every(STEP, within.first(), end) {
                run = if self.is_free(step, STEP) { run + STEP } else { 0 };
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
            Place::At(range) if part.name == "pci.mmio32" => self.cut(&part.name, *range)?,
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

    /// All pages of a window that no hole touches, in as many pieces as that takes.
    fn cut(&mut self, name: &str, range: AddressRange) -> Try<()> {
        let pages: Vec<u64> = every(PAGE, range.first(), range.last()).collect();
        let is_clear = |page: &u64| is_clear(&self.holes, *page, PAGE);
        let runs: Vec<(u64, u64)> = pages
            .chunk_by(|one, next| is_clear(one) == is_clear(next))
            .filter(|run| is_clear(&run[0]))
            .map(|run| (run[0], run.len() as u64 * PAGE))
            .collect();
        if runs.is_empty() {
            self.dropped(name);
        }
        let whole = self.holes.iter().all(|(_, hole)| !hole.overlaps(range));
        for (number, (first, size)) in runs.into_iter().enumerate() {
            let name = if number == 0 { name.into() } else { format!("{name}.{number}") };
            self.claim(&name, first, size)?;
            self.region(&name, first, size, if whole { Status::Placed } else { Status::Shrunk });
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
    fn memory(&mut self, config: &MachineConfig, map: &MemoryMap, above: u64) -> Try<u64> {
        let (banks, end) = banks(config, map, above, &self.holes);
        if end > self.ceiling() {
            let past = |(first, size): &(u64, u64)| every(PAGE, *first, first + size);
            let past = banks.iter().flat_map(past).filter(|page| *page >= self.ceiling()).count() as u64;
            let lacks = if banks.len() == 1 { end - self.ceiling() } else { past * PAGE };
            return Err(format!("memory lacks {lacks:#x}"));
        }
        for (number, (first, size)) in banks.into_iter().enumerate() {
            let name = format!("ram{number}");
            self.claim(&name, first, size)?;
            self.region(&name, first, size, Status::Placed);
        }
        let end = end.max(above);
        let Some((first, size)) = room(config, end, &self.holes) else { return Ok(end) };
        let end = up(first + size, GIB);
        if end > self.ceiling() {
            return Err(format!("hot-plug lacks {:#x}", end - self.ceiling()));
        }
        self.claim("ram.hotplug", first, size)?;
        self.region("ram.hotplug", first, size, Status::Placed);
        Ok(end)
    }

    fn high(&mut self, part: &HighPart, next: u64, holes: bool, config: &MachineConfig) -> Try<u64> {
        let name = &part.name;
        let (first, size) = seat(part, next, config, &self.holes);
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
    let (owners, pins, regions, devices, frames, holes, kept) = Default::default();
    Placer { bits: 52, owners, pins, regions, devices, frames, holes, kept }
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

pub fn brute_force(board: &Small, config: &MachineConfig, facts: &HostFacts) -> Outcome {
    let mut placer = empty();
    placer.bits = facts.width.bits.get();
    placer.holes = holes(board, config, facts);
    match place_all(&mut placer, board, config, facts) {
        Err(refused) => Outcome::Refused(refused),
        Ok(()) => {
            let used = placer.owners.iter().filter(|(_, owner)| !placer.kept.contains(*owner));
            let last = used.map(|(step, _)| step).max().unwrap() + STEP - 1;
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

/// What the board keeps free and what the user does, lowest first, and of two that begin together the shorter one.
fn holes(board: &Small, config: &MachineConfig, facts: &HostFacts) -> Vec<(String, AddressRange)> {
    let own = board.map(config, facts).unwrap().reserved.into_iter().map(|it| (it.name, it.range));
    let asked = config.reserve.ranges.iter().enumerate();
    let asked = asked.map(|(number, range)| (format!("reserved.user{number}"), *range));
    let mut all: Vec<_> = own.chain(asked).collect();
    all.sort_by_key(|(_, range)| (range.first(), range.last()));
    all
}

fn place_all(placer: &mut Placer, board: &Small, config: &MachineConfig, facts: &HostFacts) -> Try<()> {
    let map = board.map(config, facts).unwrap();
    placer.keep_free(&map.parts);
    map.parts.iter().try_for_each(|part| placer.part(part))?;
    board.fixtures.iter().try_for_each(|fixture| placer.fixture(fixture))?;
    let begin = above(config, &map, &placer.holes);
    let mut next = placer.memory(config, &map, begin)?.max(map.above.floor);
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
            let pieces = (0..8).map(|n| if n == 0 { name.into() } else { format!("{name}.{n}") });
            let mut pieces = pieces.filter_map(|name: String| placer.range(&name));
            let first = pieces.find_map(|at| windows.lowest(id, bar.size, bar.size, at).ok());
            let first = first.ok_or_else(|| format!("BAR {index} of {id} is not in {name}"))?;
            slot.push((first, bar.size));
        }
        // INTA of the functions takes the four wires in turn.
        let first = map.pci.as_ref().and_then(|pci| pci.intx);
        let wires = first.map(|first| [first.0, first.0 + 1, first.0 + 2, first.0 + 3]);
        let pin = wires.map(|wires| wires[usize::try_from(functions).unwrap() % 4]);
        placer.devices.push((id.into(), slot, pin));
    }
    let memory = placer.regions.iter().filter(|(name, ..)| name.starts_with("ram"));
    let last = memory.filter_map(|(_, range, _)| Some(range.as_ref()?.1)).max().unwrap();
    match config.queue_reach {
        Some(bits) if last >= 1 << bits => Err(format!("queues do not reach {last:#x}")),
        _ => Ok(()),
    }
}
