//! The memory map of a plan, as x86_64 guests are given it: where RAM is, and what nobody may use.

use ambit_device_manager::{Plan, RegionKind, pci};
use ambit_resources::AddressRange;

use crate::zero_page::{E820, E820Kind};
use crate::{pc, q35};

/// Where a PC's firmware has its own, which nobody looks for here: up to 1 MiB, RAM is not said to be there.
pub const FIRMWARE: AddressRange = AddressRange::fixed(0x9_fc00, (1 << 20) - 0x9_fc00);

/// What the plan says: every bank of RAM, and everything that is kept free. Lowest first. Of QEMU's machine it is
/// what QEMU gives its firmware, which adds the configuration space and what KVM needs.
pub fn planned(plan: &Plan) -> Vec<E820> {
    let firmwares = [pci::ECAM, pc::KVM_PART].map(|name| plan.range(name));
    let mut map = whole(plan);
    map.retain(|line| plan.board != q35::NAME || !firmwares.contains(&Some(line.range)));
    map
}

fn whole(plan: &Plan) -> Vec<E820> {
    let ram = plan.ram().map(|range| E820 { range, kind: E820Kind::Ram });
    let kept = plan.regions.iter().filter(|region| is_kept(region.kind, &region.name));
    let kept = kept.filter_map(|region| region.range).map(|range| E820 { range, kind: E820Kind::Reserved });
    let mut map: Vec<E820> = ram.chain(kept).collect();
    map.sort_by_key(|line| line.range.first());
    map
}

/// Whether nobody may use what this region has. Linux uses the configuration space only where the map says that nothing
/// else is there.
pub(crate) fn is_kept(kind: RegionKind, name: &str) -> bool {
    kind == RegionKind::Reserved || (kind == RegionKind::Pci && name == pci::ECAM)
}

/// All that a guest without firmware is told: no RAM in [`FIRMWARE`].
pub fn told(plan: &Plan) -> Vec<E820> {
    whole(plan).into_iter().flat_map(without_firmware).collect()
}

fn without_firmware(line: E820) -> impl Iterator<Item = E820> {
    let (first, last) = (line.range.first(), line.range.last());
    let pieces = if line.kind == E820Kind::Ram && line.range.overlaps(FIRMWARE) {
        let below = FIRMWARE.first().checked_sub(1).and_then(|end| AddressRange::spanning(first, end));
        [below, AddressRange::spanning(FIRMWARE.last() + 1, last)]
    } else {
        [Some(line.range), None]
    };
    pieces.into_iter().flatten().map(move |range| E820 { range, kind: line.kind })
}
