//! A plan that is being made.

use std::collections::HashMap;
use std::sync::Arc;

use ambit_bus::{BarSpace, Needs, Request, Slot, Space, Trigger};
use ambit_resources::{
    AddressRange, AddressSpace, Claim, IrqPin, IrqPool, PaBits, SpaceError, bits_for, human_size,
};

use crate::error::limit_text;
use crate::pci::{MMIO32, Pci, port_window};
use crate::plan::{kept_as, piece_name};
use crate::ram::Layout;
use crate::reserve::{Holes, Reservation};
use crate::{
    Board, DevicePlaces, Fit, Fixture, Frames, HighPart, HostFacts, Length, MachineConfig, MemoryHotplug,
    MemoryMap, Part, Place, Placed, Plan, PlanError, RamPlace, Region, RegionKind, Shortfall, Status,
    Transport, Width, WidthSource,
};

pub(crate) const GIB: u64 = 1 << 30;
/// A port has a number of 16 bits.
const PORTS: AddressRange = AddressRange::fixed(0, 1 << 16);

/// RAM that is there from the start, or the first bank of it.
pub const RAM: &str = "ram0";
/// Room for RAM that is plugged later.
pub const RAM_HOTPLUG: &str = "ram.hotplug";

/// How far planning came: what is later is looked at only where all before it is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Board,
    Cpus,
    Memory,
    Parts,
    Ram,
    Above,
    Devices,
    Done,
}

/// The plan, without a search for what would help if there is none.
///
/// # Errors
/// [`PlanError`] for the first thing that does not fit.
pub fn attempt(board: &dyn Board, config: &MachineConfig, facts: &HostFacts) -> Result<Plan, PlanError> {
    staged(board, config, facts).1
}

/// The same, and how far it came.
pub(crate) fn staged(
    board: &dyn Board,
    config: &MachineConfig,
    facts: &HostFacts,
) -> (Stage, Result<Plan, PlanError>) {
    let mut stage = Stage::Board;
    let planned = draw(board, config, facts, &mut stage);
    (stage, planned)
}

fn draw(
    board: &dyn Board,
    config: &MachineConfig,
    facts: &HostFacts,
    stage: &mut Stage,
) -> Result<Plan, PlanError> {
    check_host(facts)?;
    let map = board.map(config, facts)?;
    check_window(board, config, &map)?;
    *stage = Stage::Cpus;
    check_cpus(board, config, facts, &map)?;
    *stage = Stage::Memory;
    check_memory(config, facts, &map)?;
    *stage = Stage::Parts;
    let own = map.width.map(|bits| Width { bits, source: WidthSource::Board });
    let width = own.filter(|own| own.bits < facts.width.bits).unwrap_or(facts.width);
    let mut draft = Draft::new(&map, width, config.devices.len());
    let holes = reservations(config, &map);
    draft.keep_free(&holes, &map.parts)?;
    for part in &map.parts {
        draft.part(part, &holes, facts.page_size)?;
    }
    for fixture in board.fixtures() {
        draft.fixture(fixture)?;
    }
    *stage = Stage::Ram;
    let layout = Layout::new(&map, config, facts, &holes)?;
    let ram_top = draft.ram(&layout, config, facts)?;
    *stage = Stage::Above;
    let mut next = Some(ram_top.max(map.above.floor));
    for part in &map.above.parts {
        next = draft.high(part, next, &layout, config)?;
    }
    if let Some(frames) = &map.frames {
        draft.frames(frames, config.cpus, board.name())?;
    }
    *stage = Stage::Devices;
    let mut pci = Pci::new(&map, config, &mut draft)?;
    for request in &config.devices {
        match &request.needs {
            Needs::Board { registers, irq } => draft.device(request, *registers, *irq, &map.devices)?,
            Needs::Ports { .. } => return Err(PlanError::NoPorts(request.id.clone())),
            Needs::Pci { bars } => pci.function(request, bars, &mut draft)?,
        }
    }
    draft.check_names()?;
    check_queues(config, &draft)?;
    *stage = Stage::Done;
    Ok(draft.finish(board, config, facts, &map, pci.intx))
}

/// Which windows of a device are of ports: what it asks for as such, and BARs, if ports are not a part of memory.
pub(crate) fn windows_of_ports<'a>(needs: &Needs, ports: impl Iterator<Item = &'a Claim>) -> Vec<u8> {
    match needs {
        Needs::Board { .. } => Vec::new(),
        Needs::Ports { .. } => vec![0],
        Needs::Pci { bars } if port_window(ports).is_some() => {
            let numbered = (1..=u8::MAX).zip(bars);
            numbered.filter(|(_, bar)| bar.space == BarSpace::Io).map(|(number, _)| number).collect()
        }
        Needs::Pci { .. } => Vec::new(),
    }
}

/// What the board keeps free, and then the user.
fn reservations(config: &MachineConfig, map: &MemoryMap) -> Holes {
    let named = |(number, range): (usize, &AddressRange)| Reservation {
        name: format!("reserved.user{number}"),
        range: *range,
        why: "the user says so (--reserve)".into(),
    };
    let asked = config.reserve.ranges.iter().enumerate().map(named);
    Holes::new(map.reserved.iter().cloned().chain(asked).collect())
}

fn check_host(facts: &HostFacts) -> Result<(), PlanError> {
    let known = facts.page_size.is_power_of_two() && (4096..=65536).contains(&facts.page_size);
    if known { Ok(()) } else { Err(PlanError::HostPages(facts.page_size)) }
}

/// A window of its own length cannot be as long as the user says.
fn check_window(board: &dyn Board, config: &MachineConfig, map: &MemoryMap) -> Result<(), PlanError> {
    let said = config.pci.is_some_and(|pci| pci.window.is_some());
    let open = map.above.parts.iter().any(|part| matches!(part.size, Length::Bars { .. }));
    if said && !open {
        let what = "has no PCI window for 64-bit BARs whose length is the user's to say".into();
        return Err(PlanError::Board { board: board.name().into(), what });
    }
    Ok(())
}

fn check_cpus(
    board: &dyn Board,
    config: &MachineConfig,
    facts: &HostFacts,
    map: &MemoryMap,
) -> Result<(), PlanError> {
    if config.cpus == 0 {
        return Err(PlanError::NoCpus);
    }
    let host = match facts.width.source {
        WidthSource::Assumed => "the KVM of a host like most gives",
        _ => "this host's KVM gives",
    };
    let limits = [(facts.max_cpus, host.to_owned()), (map.max_cpus, format!("board {} has", board.name()))];
    let lowest = limits.into_iter().min_by_key(|(limit, _)| *limit);
    if let Some((limit, bound)) = lowest.filter(|(limit, _)| config.cpus > *limit) {
        return Err(PlanError::TooManyCpus { wanted: config.cpus, limit, bound });
    }
    Ok(())
}

fn check_memory(config: &MachineConfig, facts: &HostFacts, map: &MemoryMap) -> Result<(), PlanError> {
    if config.memory == 0 {
        return Err(PlanError::NoMemory);
    }
    match config.hotplug {
        Some(room) => check_slots(room, config.memory, facts, &map.ram),
        None => Ok(()),
    }
}

fn check_slots(room: MemoryHotplug, memory: u64, facts: &HostFacts, ram: &RamPlace) -> Result<(), PlanError> {
    if room.max_memory < memory {
        return Err(PlanError::HotplugBelowMemory { max_memory: room.max_memory, memory });
    }
    if !room.max_memory.is_multiple_of(facts.page_size) {
        return Err(PlanError::HotplugNotPages { max_memory: room.max_memory, page_size: facts.page_size });
    }
    let refused = |bound: String| Err(PlanError::MemorySlots { wanted: room.slots, bound });
    match room.slots {
        0 if room.max_memory > memory => refused("memory that may be plugged needs at least one".into()),
        slots if slots > ram.max_slots => refused(format!("the board has at most {}", ram.max_slots)),
        // The first one is taken by what is there from the start.
        slots if slots >= facts.memory_slots => {
            refused(format!("this host's KVM has {}, of which one is taken", facts.memory_slots))
        }
        _ => Ok(()),
    }
}

/// The machine's own reach first, then that of the device that reaches least.
fn check_queues(config: &MachineConfig, draft: &Draft) -> Result<(), PlanError> {
    let last = last_of_ram(&draft.regions);
    if let Some(bits) = config.queue_reach.filter(|bits| bits_for(last) > *bits) {
        return Err(PlanError::QueueReach { last, bits });
    }
    let least = config.devices.iter().min_by_key(|request| request.queue_reach.unwrap_or(u8::MAX));
    least.map_or(Ok(()), |request| check_reach(request, &draft.regions))
}

/// Whether the queues of `request` reach all RAM that is there or may come.
///
/// # Errors
/// [`PlanError::DeviceReach`] if not.
pub(crate) fn check_reach(request: &Request, regions: &[Region]) -> Result<(), PlanError> {
    let last = last_of_ram(regions);
    match request.queue_reach {
        Some(bits) if bits_for(last) > bits => Err(PlanError::DeviceReach {
            device: request.id.clone(),
            transport: Transport::of(&request.needs, request.queue_reach),
            bits,
            last,
        }),
        _ => Ok(()),
    }
}

fn last_of_ram(regions: &[Region]) -> u64 {
    let is_ram = |kind| matches!(kind, RegionKind::Ram | RegionKind::RamHotplug);
    let ram = regions.iter().filter(|region| is_ram(region.kind));
    ram.filter_map(|region| region.range).map(AddressRange::last).max().unwrap_or(0)
}

/// A plan that is being made.
pub(crate) struct Draft {
    pub width: Width,
    pub space: AddressSpace,
    /// I/O ports, where they are a space of their own.
    pub ports: AddressSpace,
    pub irqs: IrqPool,
    pub regions: Vec<Region>,
    devices: Vec<Placed>,
    // Where the search for a window of this size goes on: everything below is taken, as nothing is given
    // back while planning.
    searched: HashMap<u64, u64>,
    next_pin: u32,
    /// INTA to INTD have pins.
    pub wired: bool,
    /// What RAM or something above it was last drawn around.
    pub displaced: Option<Reservation>,
    /// All that is kept free because it was asked for, by the names of the pieces.
    kept: HashMap<String, Reservation>,
}

impl Draft {
    /// With room for so many optional devices.
    fn new(map: &MemoryMap, width: Width, devices: usize) -> Self {
        let parts = map.parts.len() + map.above.parts.len();
        // RAM, room for more of it, and a few fixtures.
        let rest = 8;
        Self {
            width,
            space: AddressSpace::new(width.bits),
            ports: AddressSpace::new(PaBits::MIN),
            irqs: IrqPool::new(map.pins),
            regions: Vec::with_capacity(parts + rest + devices),
            devices: Vec::with_capacity(rest + devices),
            searched: HashMap::new(),
            next_pin: *map.devices.pins.start(),
            wired: false,
            displaced: None,
            kept: HashMap::new(),
        }
    }

    /// Adds to the width's own refusal who set the width.
    fn explain(&self, error: SpaceError) -> PlanError {
        match error {
            SpaceError::Beyond { owner, wanted, needed, .. } => {
                PlanError::WindowBeyondWidth { owner, wanted, needed, width: self.width }
            }
            SpaceError::Taken { owner, wanted, holder, held } => match self.kept.get(&holder) {
                Some(hole) => PlanError::KeptFree { owner, wanted, hole: Box::new(hole.clone()) },
                None => PlanError::Space(SpaceError::Taken { owner, wanted, holder, held }),
            },
            _ => PlanError::Space(error),
        }
    }

    pub fn claim(&mut self, owner: &str, range: AddressRange) -> Result<AddressRange, PlanError> {
        self.space.claim(owner, range).map_err(|error| self.explain(error))
    }

    /// # Errors
    /// [`PlanError`] if a port has an owner, or there is none of its number.
    pub fn claim_ports(&mut self, owner: &str, range: AddressRange) -> Result<AddressRange, PlanError> {
        if !PORTS.contains(range) {
            return Err(PlanError::NoSuchPort { owner: owner.into(), wanted: range });
        }
        self.ports.claim(owner, range).map_err(PlanError::Space)
    }

    /// Claims what is within reach of each reservation, but for what the board keeps free itself or has an interrupt
    /// controller at: neither is anybody's memory.
    fn keep_free(&mut self, holes: &Holes, parts: &[Part]) -> Result<(), PlanError> {
        let mut taken = AddressSpace::new(PaBits::MAX);
        for part in parts {
            if let (RegionKind::Reserved | RegionKind::InterruptController, Place::At(range)) =
                (part.kind, &part.place)
            {
                // Parts that overlap, or are out of reach, are refused when their turn comes.
                let _refused_later = taken.claim(&part.name, *range);
            }
        }
        for hole in holes.iter() {
            let last = hole.range.last().min(self.width.bits.ceiling() - 1);
            let Some(reached) = AddressRange::spanning(hole.range.first(), last) else { continue };
            let pieces: Vec<AddressRange> = taken.gaps(reached).collect();
            for (number, piece) in pieces.into_iter().enumerate() {
                let name = piece_name(&hole.name, number);
                taken.claim(&name, piece).map_err(PlanError::Space)?;
                let piece = self.claim(&name, piece)?;
                self.region(&name, RegionKind::Reserved, piece);
                self.kept.insert(name, hole.clone());
            }
        }
        Ok(())
    }

    fn part(&mut self, part: &Part, holes: &Holes, page: u64) -> Result<(), PlanError> {
        match &part.place {
            Place::At(range) => {
                let cut = part.kind == RegionKind::Pci && part.name == MMIO32;
                if let Some(hole) = holes.at(*range).filter(|_| cut) {
                    return self.pieces(part, *range, hole, holes, page);
                }
                let range = self.claim(&part.name, *range)?;
                self.region(&part.name, part.kind, range);
            }
            Place::Lowest { size, align, within } => {
                let placed = self.space.place(&part.name, *size, *align, *within);
                let range = placed.map_err(|error| self.explain(error))?;
                self.region(&part.name, part.kind, range);
            }
            Place::Absent { size, reason } => {
                self.left_out(&part.name, part.kind, *size, reason.clone(), None);
            }
        }
        Ok(())
    }

    /// A window that BARs are anywhere in, and `hole` in the way: what is kept free cuts it into pieces, of whole pages.
    fn pieces(
        &mut self,
        part: &Part,
        range: AddressRange,
        hole: &Reservation,
        holes: &Holes,
        page: u64,
    ) -> Result<(), PlanError> {
        let why = format!("of {range}, {hole}");
        let pieces = holes.fill(range, page, &mut range.size());
        if pieces.is_empty() {
            self.left_out(&part.name, part.kind, range.size(), why.clone(), None);
        }
        for (number, piece) in pieces.into_iter().enumerate() {
            let name = piece_name(&part.name, number);
            let piece = self.claim(&name, piece)?;
            self.shrunk(&name, part.kind, piece, why.clone(), None);
        }
        Ok(())
    }

    fn fixture(&mut self, fixture: Fixture) -> Result<(), PlanError> {
        let (size, irq, space) = match fixture.request.needs {
            Needs::Board { registers, irq } => (registers, irq, Space::Memory),
            Needs::Ports { count, irq } => (count, irq, Space::Ports),
            Needs::Pci { .. } => return Err(PlanError::NoPci(fixture.request.id)),
        };
        let window = AddressRange::new(fixture.base, size).ok_or_else(|| {
            let owner = fixture.request.id.clone();
            PlanError::Space(SpaceError::Malformed { owner, size, align: 1 })
        })?;
        let id = &fixture.request.id;
        let window = match space {
            Space::Memory => self.claim(id, window)?,
            Space::Ports => self.claim_ports(id, window)?,
        };
        let pin = fixture.pin.map(|pin| self.irqs.claim(id, pin)).transpose()?;
        let slot = Slot { windows: vec![window], irq: pin.zip(irq) };
        if space == Space::Memory {
            self.region(&fixture.request.id, RegionKind::Device, window);
        }
        self.placed(&fixture.request, slot, None);
        Ok(())
    }

    /// Places `part` at or above `next`, and gives where the one after it may begin. `None`: nowhere.
    fn high(
        &mut self,
        part: &HighPart,
        next: Option<u64>,
        layout: &Layout<'_>,
        config: &MachineConfig,
    ) -> Result<Option<u64>, PlanError> {
        let (first, wanted) = layout.high(part, next)?;
        if wanted == 0 {
            let asked = config.pci.and_then(|pci| pci.window);
            let why = if asked == Some(0) { "the user wants none" } else { "no device has a 64-bit BAR" };
            self.left_out(&part.name, part.kind, 0, why.into(), None);
            return Ok(next);
        }
        let range = first.and_then(|first| AddressRange::new(first, wanted));
        if let Some((next, range)) = next.zip(range) {
            self.note_moved(layout.holes(), next, range);
        }
        let fits = range.is_some_and(|range| self.width.bits.reach().contains(range));
        let off = matches!(part.fit, Fit::Off(_) | Fit::OffOr(..));
        if let Some(range) = range.filter(|_| fits && !off) {
            let range = self.claim(&part.name, range)?;
            self.region(&part.name, part.kind, range);
            return Ok(range.last().checked_add(1));
        }
        let trimmed = self.not_whole(part, first, wanted)?;
        if let Some(range) = range.filter(|_| layout.leaves_holes()) {
            if fits {
                self.claim(&format!("hole of {}", part.name), range)?;
            }
            return Ok(range.last().checked_add(1));
        }
        Ok(trimmed.or(next))
    }

    /// What is done with a high part that is not where it should be. Gives the end of what is left of it.
    fn not_whole(
        &mut self,
        part: &HighPart,
        first: Option<u64>,
        wanted: u64,
    ) -> Result<Option<u64>, PlanError> {
        let limit = limit_text(self.width);
        let last = first.and_then(|first| AddressRange::new(first, wanted)).map(AddressRange::last);
        let needed_bits = last.map(bits_for).filter(|bits| *bits <= PaBits::MAX.get());
        let lack = match needed_bits {
            Some(bits) => format!("it needs {bits} physical address bits, and {limit}"),
            None => format!("it needs more than {} physical address bits, and {limit}", PaBits::MAX),
        };
        let lack = self.displaced.as_ref().map_or_else(|| lack.clone(), |hole| format!("{lack}; {hole}"));
        let shortfall = |has: u64| {
            let bytes = wanted.saturating_sub(has);
            Some(Shortfall { wanted, bytes, needed_bits, limit: self.width })
        };
        match &part.fit {
            Fit::Off(option) => {
                self.left_out(&part.name, part.kind, wanted, format!("{option} says so"), None);
            }
            Fit::OffOr(_, low) => {
                let low = self.claim(&part.name, *low)?;
                self.region(&part.name, part.kind, low);
            }
            Fit::Or(low) => {
                let reason = format!("above RAM {} of it would be, but {lack}", human_size(wanted));
                let shortfall = shortfall(low.size());
                let low = self.claim(&part.name, *low)?;
                self.shrunk(&part.name, part.kind, low, reason, shortfall);
            }
            Fit::Trimmed(grain) => {
                let room = first.map_or(0, |first| self.width.bits.ceiling().saturating_sub(first));
                let has = room / grain * grain;
                let left = first.and_then(|first| AddressRange::new(first, has));
                let shortfall = shortfall(has);
                let Some(left) = left else {
                    self.left_out(&part.name, part.kind, wanted, lack, shortfall);
                    return Ok(None);
                };
                let reason = format!("it has {} of {}: {lack}", human_size(has), human_size(wanted));
                let left = self.claim(&part.name, left)?;
                self.shrunk(&part.name, part.kind, left, reason, shortfall);
                return Ok(left.last().checked_add(1));
            }
            Fit::Required => {
                let (owner, width) = (part.name.clone(), self.width);
                let wanted = first.and_then(|first| AddressRange::new(first, wanted));
                let error = match (wanted, last.map(bits_for)) {
                    (Some(wanted), Some(needed)) => {
                        PlanError::WindowBeyondWidth { owner, wanted, needed, width }
                    }
                    _ => PlanError::PartWraps(owner),
                };
                return Err(self.around(error));
            }
            Fit::Whole => {
                let shortfall = shortfall(0);
                self.left_out(&part.name, part.kind, wanted, lack, shortfall);
            }
        }
        Ok(None)
    }

    /// Gives each vCPU a frame, in the order of the parts that hold them.
    fn frames(&mut self, frames: &Frames, cpus: u32, board: &str) -> Result<(), PlanError> {
        let (mut left, mut capacity) = (cpus, 0_u32);
        let mut missing: Option<String> = None;
        for name in &frames.parts {
            let Some(region) = self.regions.iter_mut().find(|region| region.name == *name) else { continue };
            let Some(room) = region.range else {
                missing =
                    missing.or(region.reason.as_ref().map(|why| format!(", as {name} is left out: {why}")));
                continue;
            };
            let fit = u32::try_from(room.size() / frames.size).unwrap_or(u32::MAX);
            let here = left.min(fit);
            capacity = capacity.saturating_add(fit);
            left -= here;
            region.room = Some(room);
            region.frames = Some(here);
            match AddressRange::new(room.first(), u64::from(here) * frames.size) {
                Some(used) => (region.range, region.size) = (Some(used), used.size()),
                // Nobody's frames are there, and nothing else may be.
                None => {
                    region.kind = RegionKind::Reserved;
                    region.name = kept_as(name);
                }
            }
        }
        if left > 0 {
            let bound = format!("board {board} has room for{}", missing.unwrap_or_default());
            return Err(PlanError::TooManyCpus { wanted: cpus, limit: capacity, bound });
        }
        Ok(())
    }

    fn device(
        &mut self,
        request: &Request,
        registers: u64,
        irq: Option<Trigger>,
        places: &DevicePlaces,
    ) -> Result<(), PlanError> {
        // Nothing is no window, however small the windows of the board may be.
        let size = if registers == 0 { 0 } else { registers.max(places.grain) };
        let from = self.searched.get(&size).copied().unwrap_or(places.window.first());
        let within = AddressRange::spanning(from, places.window.last()).unwrap_or(places.window);
        let placed = self.space.place(&request.id, size, size, within).or_else(|error| match error {
            // As the user sees it: what is free below counts too, though it is too small.
            SpaceError::NoRoom { .. } => self.space.place(&request.id, size, size, places.window),
            other => Err(other),
        });
        let window = placed.map_err(|error| self.explain(error))?;
        self.searched.insert(size, window.last().saturating_add(1));
        let irq = match irq {
            Some(trigger) => Some((self.device_pin(&request.id, places)?, trigger)),
            None => None,
        };
        self.region(&request.id, RegionKind::Device, window);
        self.placed(request, Slot { windows: vec![window], irq }, None);
        Ok(())
    }

    fn device_pin(&mut self, id: &str, places: &DevicePlaces) -> Result<IrqPin, PlanError> {
        let pins = places.pins.clone();
        let from = self.next_pin.min(*pins.end());
        let pin = self.irqs.place(id, from..=*pins.end()).or_else(|_| self.irqs.place(id, pins))?;
        self.next_pin = pin.0.saturating_add(1);
        Ok(pin)
    }

    pub fn placed(&mut self, request: &Request, slot: Slot, function: Option<u8>) {
        self.devices.push(Placed {
            slot,
            function,
            ports: windows_of_ports(&request.needs, self.ports.claims()),
            id: request.id.clone(),
            kind: request.kind.clone(),
            transport: Transport::of(&request.needs, request.queue_reach),
            description: Arc::clone(&request.description),
        });
    }

    pub fn region(&mut self, name: &str, kind: RegionKind, range: AddressRange) {
        self.push(name, kind, Some(range), range.size(), Status::Placed, None, None);
    }

    fn shrunk(
        &mut self,
        name: &str,
        kind: RegionKind,
        range: AddressRange,
        reason: String,
        shortfall: Option<Shortfall>,
    ) {
        self.push(name, kind, Some(range), range.size(), Status::Shrunk, Some(reason), shortfall);
    }

    fn left_out(
        &mut self,
        name: &str,
        kind: RegionKind,
        size: u64,
        reason: String,
        shortfall: Option<Shortfall>,
    ) {
        self.push(name, kind, None, size, Status::Dropped, Some(reason), shortfall);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a region, in their order")]
    fn push(
        &mut self,
        name: &str,
        kind: RegionKind,
        range: Option<AddressRange>,
        size: u64,
        status: Status,
        reason: Option<String>,
        shortfall: Option<Shortfall>,
    ) {
        let (frames, room) = (None, None);
        let name = name.into();
        self.regions.push(Region { name, kind, range, size, status, reason, shortfall, frames, room });
    }

    /// Errors, plans and users speak of a part by its name.
    fn check_names(&self) -> Result<(), PlanError> {
        // A name that a wider host would take is taken here too.
        let absent =
            |region: &&Region| region.kind == RegionKind::InterruptController && region.range.is_none();
        let kept: Vec<String> =
            self.regions.iter().filter(absent).map(|region| kept_as(&region.name)).collect();
        let regions = self.regions.iter().map(|region| region.name.as_str());
        let regions = regions.chain(kept.iter().map(String::as_str));
        let regions = regions.chain(self.ports.claims().map(|claim| claim.owner.as_str()));
        let functions = self.devices.iter().filter(|device| device.function.is_some());
        let wires = crate::pci::WIRES.into_iter().filter(|_| self.wired);
        let mut names: Vec<&str> =
            regions.chain(functions.map(|device| device.id.as_str())).chain(wires).collect();
        names.sort_unstable();
        let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
        twice.map_or(Ok(()), |pair| Err(PlanError::DuplicateId(pair[0].into())))
    }

    fn finish(
        mut self,
        board: &dyn Board,
        config: &MachineConfig,
        facts: &HostFacts,
        map: &MemoryMap,
        intx: Vec<IrqPin>,
    ) -> Plan {
        // What was dropped has no address and sorts last.
        self.regions.sort_by_key(|region| region.range.map_or(u64::MAX, AddressRange::first));
        // Nothing is at what is kept free, so it need not be within the guest's reach.
        let used = self.space.claims().filter(|claim| !self.kept.contains_key(&claim.owner));
        let highest = used.map(|claim| claim.range.last()).max().unwrap_or(0);
        let ipa_bits =
            PaBits::covering(highest).expect("no claim passes the width, which is at most 52 bits");
        Plan {
            board: board.name().into(),
            arch: board.arch(),
            cpus: config.cpus,
            width: self.width,
            ipa_bits,
            page_tables: board.page_tables(ipa_bits, facts.page_size),
            regions: self.regions,
            devices: self.devices,
            space: self.space,
            ports: self.ports.claims().cloned().collect(),
            irqs: self.irqs,
            device_pins: (*map.devices.pins.start(), *map.devices.pins.end()),
            intx,
            diagnostics: Vec::new(),
        }
    }
}
