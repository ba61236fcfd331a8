//! Where the window of a BAR is decoded: what the guest wrote, held against the plan.

use ambit_bus::Space;
use ambit_resources::AddressRange;

use crate::pci::{IO, MMIO32, MMIO64, port_window};
use crate::{Plan, RegionKind};

/// The windows of PCI in a plan, and what is elsewhere.
pub(crate) struct Decode {
    /// Ports that are a part of memory.
    io: Option<AddressRange>,
    /// Ports that are a space of their own.
    ports: Option<AddressRange>,
    memory: Vec<AddressRange>,
    /// RAM and whatever else has a place that no guest chooses.
    fixed: Vec<AddressRange>,
}

/// Why a window is not decoded where the guest put it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Undecoded {
    #[error("that is no multiple of its size")]
    Unaligned,
    #[error("that is not inside a window of PCI of its kind")]
    Outside,
    #[error("{0} is there")]
    Fixed(AddressRange),
}

impl Decode {
    pub fn of(plan: &Plan) -> Self {
        let part = |name| plan.part(RegionKind::Pci, name);
        let io = part(IO);
        let memory: Vec<AddressRange> =
            [MMIO32, MMIO64].into_iter().flat_map(|name| plan.window(name)).collect();
        let claims = plan.space.claims().map(|claim| claim.range);
        let fixed = claims.filter(|range| io != Some(*range) && !memory.contains(range)).collect();
        Self { io, ports: port_window(plan.ports.iter()), memory, fixed }
    }

    /// Whether this is a machine whose guests expect what a PC's firmware leaves: ports are a space of their own.
    pub fn is_of_a_pc(&self) -> bool {
        self.ports.is_some()
    }

    /// Where a window of `space` that was planned at `planned` is, if the guest puts it at `place` of its bus: a port
    /// number for a window of ports, and a guest physical address for all others.
    ///
    /// # Errors
    /// [`Undecoded`] if it is nowhere then.
    pub fn range(&self, space: Space, planned: AddressRange, place: u64) -> Result<AddressRange, Undecoded> {
        if !place.is_multiple_of(planned.size()) {
            return Err(Undecoded::Unaligned);
        }
        if space == Space::Ports {
            let range = AddressRange::new(place, planned.size());
            let inside = |range: &AddressRange| self.ports.is_some_and(|ports| ports.contains(*range));
            return range.filter(inside).ok_or(Undecoded::Outside);
        }
        let ports = self.io.filter(|io| io.contains(planned));
        let (first, windows) = match &ports {
            Some(io) => (io.first().checked_add(place), std::slice::from_ref(io)),
            None => (Some(place), self.memory.as_slice()),
        };
        let range = first.and_then(|first| AddressRange::new(first, planned.size()));
        let inside = |range: &AddressRange| windows.iter().any(|window| window.contains(*range));
        let range = range.filter(inside).ok_or(Undecoded::Outside)?;
        // The plan has nothing inside a window of PCI; if ever it had, it would win.
        match self.fixed.iter().find(|fixed| fixed.overlaps(range)) {
            Some(fixed) => Err(Undecoded::Fixed(*fixed)),
            None => Ok(range),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: AddressRange = AddressRange::fixed(0x3eff_0000, 0x1_0000);
    const LOW: AddressRange = AddressRange::fixed(0x1000_0000, 0x100_0000);
    const HIGH: AddressRange = AddressRange::fixed(0x80_0000_0000, 0x4000_0000);
    const RAM: AddressRange = AddressRange::fixed(0x1080_0000, 0x1000);

    fn asked(planned: u64, size: u64, place: u64) -> Result<AddressRange, Undecoded> {
        // No plan has RAM there.
        let decode = Decode { io: Some(PORTS), ports: None, memory: vec![LOW, HIGH], fixed: vec![RAM] };
        decode.range(Space::Memory, AddressRange::fixed(planned, size), place)
    }

    fn memory(place: u64) -> Result<AddressRange, Undecoded> {
        asked(LOW.first(), 0x4000, place)
    }

    #[test]
    fn memory_is_decoded_wholly_inside_either_window_at_multiples_of_its_size() {
        for place in [LOW.first(), 0x10ff_c000, HIGH.first(), 0x80_3fff_c000] {
            assert_eq!(memory(place), Ok(AddressRange::fixed(place, 0x4000)));
        }
        for place in [0, 0x0fff_c000, 0x1100_0000, 0x80_4000_0000, 0xffff_ffff_ffff_c000, 0x3eff_0000] {
            assert_eq!(memory(place), Err(Undecoded::Outside), "{place:#x}");
        }
        for place in [0x1000_2000, 0x1000_0004, u64::MAX] {
            assert_eq!(memory(place), Err(Undecoded::Unaligned), "{place:#x}");
        }
    }

    #[test]
    fn a_window_longer_than_that_of_pci_is_nowhere() {
        assert_eq!(asked(HIGH.first(), 0x200_0000, LOW.first()), Err(Undecoded::Outside));
    }

    #[test]
    fn ports_are_decoded_by_their_number_and_never_as_memory() {
        let ports = |place| asked(PORTS.first() + 0x40, 0x40, place);

        assert_eq!(ports(0), Ok(AddressRange::fixed(0x3eff_0000, 0x40)));
        assert_eq!(ports(0xffc0), Ok(AddressRange::fixed(0x3eff_ffc0, 0x40)));
        for place in [0x1_0000, PORTS.first(), LOW.first(), 0xffff_ffff_ffff_ffc0] {
            assert_eq!(ports(place), Err(Undecoded::Outside), "{place:#x}");
        }
        assert_eq!(ports(0x20), Err(Undecoded::Unaligned));
    }

    #[test]
    fn ports_that_are_a_space_of_their_own_are_decoded_inside_their_window() {
        let ports = AddressRange::fixed(0xc000, 0x4000);
        let decode = Decode { io: None, ports: Some(ports), memory: vec![LOW, HIGH], fixed: vec![RAM] };
        let asked = |place| decode.range(Space::Ports, AddressRange::fixed(0xc000, 0x40), place);

        assert_eq!(asked(0xffc0), Ok(AddressRange::fixed(0xffc0, 0x40)));
        for place in [0x3c0, 0xbfc0, 0x1_0000, LOW.first(), 0xffff_ffff_ffff_ffc0] {
            assert_eq!(asked(place), Err(Undecoded::Outside), "{place:#x}");
        }
        assert_eq!(asked(0xc020), Err(Undecoded::Unaligned));
    }

    //
    #[test]
    fn what_has_a_place_in_the_plan_always_wins() {
        assert_eq!(memory(0x1080_0000), Err(Undecoded::Fixed(RAM)));
    }
}
