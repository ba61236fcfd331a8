//! RAM on paper: its banks, the room for more, and how far everything above reaches.

use ambit_resources::{AddressRange, bits_for};

use crate::draft::{Draft, GIB, RAM_HOTPLUG};
use crate::reserve::{HolePolicy, Holes};
use crate::{
    Fit, HighPart, HostFacts, Length, MachineConfig, MemoryHotplug, MemoryMap, PlanError, RegionKind,
};

/// Where RAM of a machine goes, whatever the width.
pub(crate) struct Layout<'a> {
    map: &'a MemoryMap,
    config: &'a MachineConfig,
    holes: &'a Holes,
    page: u64,
    /// Where RAM above the gap begins.
    above: u64,
}

impl<'a> Layout<'a> {
    pub fn new(
        map: &'a MemoryMap,
        config: &'a MachineConfig,
        facts: &HostFacts,
        holes: &'a Holes,
    ) -> Result<Self, PlanError> {
        let above = map.gap.map_or(0, |gap| gap.last().saturating_add(1));
        let mut layout = Self { map, config, holes, page: facts.page_size, above };
        if map.gap.is_some() && config.reserve.policy == HolePolicy::Relocate {
            layout.relocate()?;
        }
        Ok(layout)
    }

    pub fn holes(&self) -> &'a Holes {
        self.holes
    }

    /// Whether what is left out above RAM leaves a hole of its size.
    pub fn leaves_holes(&self) -> bool {
        self.map.above.holes
    }

    /// Puts all that is above the gap above every hole that it would touch.
    fn relocate(&mut self) -> Result<(), PlanError> {
        let none = Holes::new(Vec::new());
        loop {
            let Self { map, config, page, above, .. } = *self;
            let unaware = Layout { map, config, holes: &none, page, above };
            let last = unaware.last()?;
            let reach = AddressRange::spanning(self.above, last);
            let Some(hole) = reach.and_then(|reach| self.holes.at(reach)) else { return Ok(()) };
            let after =
                hole.range.last().checked_add(1).and_then(|after| after.checked_next_multiple_of(GIB));
            self.above = after.ok_or_else(|| self.wraps())?;
        }
    }

    fn wraps(&self) -> PlanError {
        PlanError::MemoryWraps { memory: self.config.memory, base: self.map.ram.base }
    }

    /// RAM, lowest first, and where it is taken to end.
    pub fn banks(&self) -> Result<(Vec<AddressRange>, u64), PlanError> {
        let (place, mut left) = (&self.map.ram, self.config.memory);
        let low = self.map.gap.map_or(u64::MAX, AddressRange::first);
        let low = low.checked_sub(1).and_then(|last| AddressRange::spanning(place.base, last));
        let high = AddressRange::spanning(self.above, u64::MAX - 1).filter(|_| self.map.gap.is_some());
        let windows = low.into_iter().chain(high);
        let banks: Vec<_> =
            windows.flat_map(|within| self.holes.fill(within, self.page, &mut left)).collect();
        let last = banks.last().filter(|_| left == 0).map(|bank| bank.last()).ok_or_else(|| self.wraps())?;
        let end = last.checked_add(1).and_then(|end| end.checked_next_multiple_of(place.grain));
        Ok((banks, end.ok_or_else(|| self.wraps())?))
    }

    /// Where what is above RAM may begin, if that ends at `end`. Nothing need be there, so the width does not bound it.
    pub fn after(&self, end: u64) -> u64 {
        end.max(self.above)
    }

    /// The room for more RAM after `ram_end`, and where it is taken to end.
    pub fn hotplug(
        &self,
        room: MemoryHotplug,
        ram_end: u64,
    ) -> Result<Option<(AddressRange, u64)>, PlanError> {
        let wraps = || PlanError::MemoryWraps { memory: room.max_memory, base: self.map.ram.base };
        let for_slots = u64::from(room.slots).checked_mul(self.map.ram.slot_room).ok_or_else(wraps)?;
        let size = (room.max_memory - self.config.memory).checked_add(for_slots).ok_or_else(wraps)?;
        let base = ram_end.checked_next_multiple_of(GIB).ok_or_else(wraps)?;
        if size == 0 {
            return Ok(None);
        }
        let base = self.holes.clear(base, size, GIB).ok_or_else(wraps)?;
        let range = AddressRange::new(base, size).ok_or_else(wraps)?;
        let end = range.last().checked_add(1).and_then(|end| end.checked_next_multiple_of(GIB));
        Ok(Some((range, end.ok_or_else(wraps)?)))
    }

    /// Where a high part begins at or above `next`, and how long it is. 0: there is no need for it.
    pub fn high(&self, part: &HighPart, next: Option<u64>) -> Result<(Option<u64>, u64), PlanError> {
        let mut first = next.and_then(|next| next.checked_next_multiple_of(part.align));
        loop {
            let size = length(part, first, self.config)?;
            let hole = first.and_then(|first| self.holes.at(AddressRange::new(first, size)?));
            let Some(hole) = hole else { return Ok((first, size)) };
            // How long it is depends on where it begins, and may be less above this one: the next is looked for from
            // there. Higher up it never ends lower, so nothing below is passed over.
            let after = hole.range.last().checked_add(1);
            first = after.and_then(|after| after.checked_next_multiple_of(part.align));
        }
    }

    /// The last address of all that RAM and what is above it need, if nothing is cut short or left out.
    pub fn last(&self) -> Result<u64, PlanError> {
        let mut end = self.after(self.banks()?.1);
        if let Some((_, after)) = self.config.hotplug.map_or(Ok(None), |room| self.hotplug(room, end))? {
            end = after;
        }
        end = end.max(self.map.above.floor);
        for part in &self.map.above.parts {
            let (first, size) = self.high(part, Some(end))?;
            let after = first.and_then(|first| first.checked_add(size)).ok_or_else(|| self.wraps())?;
            end = if size == 0 { end } else { after };
        }
        Ok(end.saturating_sub(1))
    }

    /// The bits of a machine that is refused unless it is whole. `None`: it may be had without some of it.
    fn needed_in_full(&self) -> Option<u8> {
        let whole = self.map.above.parts.iter().any(|part| part.fit == Fit::Required);
        self.last().ok().filter(|_| whole).map(bits_for)
    }
}

/// In bytes. 0: there is no need for it.
fn length(part: &HighPart, first: Option<u64>, config: &MachineConfig) -> Result<u64, PlanError> {
    let (room, grain, cap) = match part.size {
        Length::Of(size) => return Ok(size),
        Length::Bars { room, grain, cap } => (room, grain, cap),
    };
    match config.pci.and_then(|pci| pci.window) {
        Some(wanted) if wanted > cap || !wanted.is_multiple_of(grain) => {
            Err(PlanError::PciWindow { wanted, grain, cap })
        }
        Some(wanted) => Ok(wanted),
        None => {
            let need = crate::pci::wide_need(&config.devices, first.unwrap_or(0)).saturating_add(room);
            Ok(need.checked_next_multiple_of(grain).unwrap_or(cap).min(cap))
        }
    }
}

/// The name of a bank of RAM.
fn bank(number: usize) -> String {
    format!("ram{number}")
}

impl Draft {
    /// RAM and the room for more. Gives the first address that is neither.
    pub fn ram(
        &mut self,
        layout: &Layout<'_>,
        config: &MachineConfig,
        facts: &HostFacts,
    ) -> Result<u64, PlanError> {
        let memory = config.memory;
        let (banks, end) = layout.banks()?;
        self.note_displaced(layout, &banks);
        let first = banks.first().map_or(0, |bank| bank.first());
        let last = banks.last().map_or(0, |bank| bank.last());
        let ceiling = self.width.bits.ceiling();
        if end > ceiling {
            let beyond = |bank: &AddressRange| (bank.last() + 1).saturating_sub(bank.first().max(ceiling));
            let short = match banks.as_slice() {
                [_] => end - ceiling,
                banks => banks.iter().map(beyond).sum(),
            };
            let needed = bits_for(end - 1).max(layout.needed_in_full().unwrap_or(0));
            let width = self.width;
            let error = PlanError::MemoryBeyondWidth { memory, base: first, last, needed, width, short };
            return Err(self.around(error));
        }
        // Second, so that the size it proposes is known to be within reach.
        if !memory.is_multiple_of(facts.page_size) {
            return Err(PlanError::MemoryNotPages { memory, page_size: facts.page_size });
        }
        for (number, range) in banks.into_iter().enumerate() {
            let name = bank(number);
            let range = self.claim(&name, range)?;
            self.region(&name, RegionKind::Ram, range);
        }
        let after = layout.after(end);
        match config.hotplug {
            Some(room) => self.ram_hotplug(layout, room, after),
            None => Ok(after),
        }
    }

    fn ram_hotplug(
        &mut self,
        layout: &Layout<'_>,
        room: MemoryHotplug,
        ram_end: u64,
    ) -> Result<u64, PlanError> {
        let Some((range, end)) = layout.hotplug(room, ram_end)? else { return Ok(ram_end) };
        self.note_moved(layout.holes, ram_end.next_multiple_of(GIB), range);
        let ceiling = self.width.bits.ceiling();
        if end > ceiling {
            return Err(self.around(PlanError::HotplugBeyondWidth {
                max_memory: room.max_memory,
                slots: room.slots,
                needed: bits_for(end - 1).max(layout.needed_in_full().unwrap_or(0)),
                width: self.width,
                short: end - ceiling,
            }));
        }
        let range = self.claim(RAM_HOTPLUG, range)?;
        self.region(RAM_HOTPLUG, RegionKind::RamHotplug, range);
        Ok(end)
    }

    /// Remembers the reservation that banks of RAM are drawn around, or moved above.
    fn note_displaced(&mut self, layout: &Layout<'_>, banks: &[AddressRange]) {
        let span = banks.first().zip(banks.last());
        let span = span.and_then(|(first, last)| AddressRange::spanning(first.first(), last.last()));
        let gap = layout.map.gap;
        let from = gap.map(|gap| gap.last().saturating_add(1)).filter(|above| *above < layout.above);
        let moved = from.and_then(|from| AddressRange::spanning(from, layout.above - 1));
        // What is in the gap is in nobody's way.
        let in_gap = |range| gap.is_some_and(|gap| gap.contains(range));
        let within = |around: AddressRange| {
            layout.holes.iter().filter(move |hole| hole.range.overlaps(around) && !in_gap(hole.range)).last()
        };
        let hole = moved.and_then(within).or_else(|| span.and_then(within));
        self.displaced = hole.cloned();
    }

    /// Remembers the reservation because of which `range` begins above `first`.
    pub fn note_moved(&mut self, holes: &Holes, first: u64, range: AddressRange) {
        let skipped = range.first().checked_sub(1).and_then(|last| AddressRange::spanning(first, last));
        if let Some(hole) = skipped.and_then(|skipped| holes.at(skipped)) {
            self.displaced = Some(hole.clone());
        }
    }

    /// `error`, and what is in the way if something is.
    pub fn around(&self, error: PlanError) -> PlanError {
        match &self.displaced {
            Some(hole) => PlanError::Around { error: Box::new(error), hole: hole.clone() },
            None => error,
        }
    }
}
